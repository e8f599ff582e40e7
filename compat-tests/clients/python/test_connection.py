"""Connecting, channels, and which errors close what."""
import pika
import pytest

from conftest import URL, channel_error, connect, connection_error, ours_only, put


def test_right_credentials_open_a_connection(connection):
    assert connection.is_open


def test_a_wrong_password_is_refused_with_403():
    with pytest.raises(pika.exceptions.ProbableAuthenticationError) as error:
        connect(credentials=pika.PlainCredentials("guest", "wrong"))
    assert "403" in str(error.value) and "ACCESS_REFUSED - Login was refused" in str(error.value)


def test_an_unknown_vhost_is_refused_with_530():
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError) as error:
        connect(virtual_host="nowhere")
    assert "(530) 'NOT_ALLOWED - vhost nowhere not found'" in str(error.value)


def test_the_clients_heartbeat_is_taken_and_kept(name):
    c = connect(heartbeat=1)
    try:
        assert c._impl.params.heartbeat == 1
        heard = c._impl.bytes_received if hasattr(c._impl, "bytes_received") else None
        c.process_data_events(3.5)
        assert c.is_open
        c.channel().queue_declare(name, exclusive=True)
        assert heard is None or c._impl.bytes_received > heard
    finally:
        c.close()


def test_two_hundred_channels_work_side_by_side(connection, name):
    connection.channel().queue_declare(name, exclusive=True)
    channels = [connection.channel() for _ in range(200)]
    for i, ch in enumerate(channels):
        put(ch, name, str(i).encode())
    assert channels[0].queue_declare(name, passive=True).method.message_count == 200


def test_a_closed_channels_number_can_be_used_again(connection):
    connection.channel(7).close()
    again = connection.channel(7)
    assert again.is_open and again.channel_number == 7


def test_a_soft_error_closes_the_channel_and_keeps_the_connection(connection, name):
    error = channel_error(lambda: connection.channel().queue_declare(name, passive=True))
    assert error == (404, f"NOT_FOUND - no queue '{name}' in vhost '/'")
    assert connection.channel().is_open


def test_an_unknown_exchange_is_404(connection, name):
    error = channel_error(lambda: connection.channel().exchange_declare(name, passive=True))
    assert error == (404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")


def test_an_error_names_the_class_and_method_that_failed(name):
    """Clients branch on (code, class, method): a passive declare is 50/10."""
    seen = []
    def on_open(c):
        c.channel(on_open_callback=on_channel)
    def on_channel(ch):
        ch.add_on_close_callback(lambda _, reason: c.close())
        c.callbacks.add(1, pika.spec.Channel.Close, lambda frame: seen.append(frame.method), one_shot=True)
        ch.queue_declare(name, passive=True)
    c = pika.SelectConnection(pika.URLParameters(URL), on_open_callback=on_open,
                              on_close_callback=lambda conn, _: conn.ioloop.stop())
    c.ioloop.start()
    assert [(m.reply_code, m.class_id, m.method_id) for m in seen] == [(404, 50, 10)]


def test_a_consumer_tag_used_twice_closes_the_connection_with_530():
    c = connect()
    ch = c.channel()
    q = ch.queue_declare("", exclusive=True).method.queue
    ch.basic_consume(q, lambda *_: None, consumer_tag="one")
    def twice():
        ch._impl.basic_consume(q, lambda *_: None, consumer_tag="two")
        ch._impl._send_method(pika.spec.Basic.Consume(queue=q, consumer_tag="one"))
        while True:
            c.process_data_events(1)
    assert connection_error(twice) == (530, "NOT_ALLOWED - attempt to reuse consumer tag 'one'")


def test_immediate_closes_the_connection_with_540():
    c = connect()
    ch = c.channel()
    def publish():
        ch._impl._send_method(pika.spec.Basic.Publish(exchange="", routing_key="x", immediate=True),
                              (pika.BasicProperties(), b""))
        while True:
            c.process_data_events(1)
    assert connection_error(publish) == (540, "NOT_IMPLEMENTED - immediate=true")


def test_recover_without_requeue_closes_the_connection_with_540():
    c = connect()
    ch = c.channel()
    assert connection_error(lambda: ch.basic_recover(requeue=False)) == (540, "NOT_IMPLEMENTED - requeue=false")


def test_a_prefetch_size_closes_the_connection_with_540():
    c = connect()
    ch = c.channel()
    assert connection_error(lambda: ch.basic_qos(prefetch_size=1)) == (540, "NOT_IMPLEMENTED - prefetch_size!=0 (1)")


@ours_only
def test_metrics_answer_in_prometheus_text():
    import os
    import urllib.request
    with urllib.request.urlopen(os.environ["BROKER_METRICS_URL"]) as answer:
        assert b"# TYPE" in answer.read()
