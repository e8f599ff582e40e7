"""Publishing, consuming, settling: what happens to one message."""
import datetime
from decimal import Decimal

import pika
import pytest

from conftest import (PERSISTENT, channel_error, collect, connect, drained, ours_only, put, take, until)


@pytest.mark.parametrize("size", [0, 1, 131072 - 8, 131072 - 7, 1 << 20, 16 << 20])
def test_a_body_of_any_size_comes_back_whole(channel, queue, size):
    body = bytes(i * 7 & 255 for i in range(256)) * (size // 256 + 1)
    body = body[:size]
    put(channel, queue, body)
    assert take(channel, queue, auto_ack=True)[2] == body


@ours_only
def test_a_body_over_the_limit_is_406(channel, queue):
    channel.confirm_delivery()
    error = channel_error(lambda: channel.basic_publish("", queue, b"x" * ((16 << 20) + 1)))
    assert error == (406, "PRECONDITION_FAILED - message size 16777217 is larger than configured max size 16777216")


def test_every_property_and_header_type_comes_back(channel, queue):
    headers = {"text": "ü", "yes": True, "no": False, "int": 42, "big": 1 << 40, "negative": -7, "none": None,
               "bytes": b"\x00\xff", "decimal": Decimal("3.14"), "list": [1, "a", [True], {"x": 1}],
               "table": {"inner": {"deep": 1}}, "time": datetime.datetime(2024, 5, 6, 7, 8, 9, tzinfo=datetime.timezone.utc)}
    given = pika.BasicProperties(
        content_type="text/plain", content_encoding="utf-8", headers=headers, delivery_mode=2, priority=3,
        correlation_id="c", reply_to="r", expiration="600000", message_id="m", timestamp=1700000000, type="t",
        user_id="guest", app_id="a", cluster_id="k")
    channel.confirm_delivery()
    channel.basic_publish("", queue, b"", given)
    assert vars(take(channel, queue, auto_ack=True)[1]) == vars(given)


def test_a_foreign_user_id_is_406(channel, queue):
    channel.confirm_delivery()
    error = channel_error(lambda: channel.basic_publish("", queue, b"", pika.BasicProperties(user_id="bob")))
    assert error == (406, "PRECONDITION_FAILED - user_id property set to 'bob' but authenticated user was 'guest'")


def test_an_unroutable_mandatory_message_is_returned(channel, name):
    channel.confirm_delivery()
    with pytest.raises(pika.exceptions.UnroutableError) as error:
        channel.basic_publish("", name, b"x", mandatory=True)
    assert error.value.messages[0].method.reply_code == 312


def test_publishing_to_an_unknown_exchange_is_404(channel, name):
    channel.confirm_delivery()
    error = channel_error(lambda: channel.basic_publish(name, "", b""))
    assert error == (404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")


def test_a_missing_exchange_is_told_before_a_bad_property(channel, name):
    channel.confirm_delivery()
    faulty = pika.BasicProperties(expiration="soon", user_id="bob")
    error = channel_error(lambda: channel.basic_publish(name, "", b"", faulty))
    assert error == (404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")


def test_a_transaction_refuses_a_publish_at_once(name):
    c = connect()
    ch = c.channel()
    ch.tx_select()

    def publish():
        ch.basic_publish(name, "", b"")
        ch.queue_declare("", exclusive=True)

    assert channel_error(publish) == (404, f"NOT_FOUND - no exchange '{name}' in vhost '/'")
    c.close()


def test_messages_published_just_before_a_close_are_kept(channel, queue):
    c = connect()
    ch = c.channel()
    for i in range(1000):
        ch.basic_publish("", queue, str(i).encode(), PERSISTENT)
    c.close()
    assert drained(channel, queue) == [str(i).encode() for i in range(1000)]


def test_get_counts_what_is_left_and_says_when_there_is_nothing(channel, queue):
    put(channel, queue, b"1", b"2", b"3")
    counts = [channel.basic_get(queue, auto_ack=True)[0].message_count for _ in range(3)]
    assert counts == [2, 1, 0]
    assert channel.basic_get(queue) == (None, None, None)


def test_consumed_and_acked_messages_are_gone(connection, channel, queue):
    put(channel, queue, b"1", b"2")
    got = []
    collect(channel, queue, got)
    until(connection, lambda: len(got) == 2)
    assert [(tag, redelivered, body) for tag, redelivered, body, _ in got] == [(1, False, b"1"), (2, False, b"2")]
    channel.basic_ack(2, multiple=True)
    channel.close()
    assert connection.channel().queue_declare(queue, passive=True).method.message_count == 0


def test_unacked_messages_come_back_in_place_and_redelivered_when_the_channel_closes(connection, channel, queue):
    put(channel, queue, b"1", b"2", b"3")
    held = connection.channel()
    held.basic_get(queue), held.basic_get(queue)
    held.close()
    got = [take(channel, queue) for _ in range(3)]
    assert [(m.redelivered, b) for m, _, b in got] == [(True, b"1"), (True, b"2"), (False, b"3")]


def test_a_nacked_message_returns_to_its_place(channel, queue):
    put(channel, queue, b"1", b"2")
    channel.basic_nack(take(channel, queue)[0].delivery_tag, requeue=True)
    method, _, body = take(channel, queue)
    assert (body, method.redelivered) == (b"1", True)


def test_a_multiple_nack_returns_all_in_order(channel, queue):
    put(channel, queue, b"1", b"2", b"3")
    for _ in range(3):
        last = take(channel, queue)[0].delivery_tag
    channel.basic_nack(last, multiple=True, requeue=True)
    assert [take(channel, queue)[2] for _ in range(3)] == [b"1", b"2", b"3"]


def test_a_rejected_message_is_gone(channel, queue):
    put(channel, queue, b"1", b"2")
    channel.basic_reject(take(channel, queue)[0].delivery_tag, requeue=False)
    assert drained(channel, queue) == [b"2"]


def test_an_unknown_delivery_tag_is_406(connection, channel):
    assert channel_error(lambda: (channel.basic_ack(99), channel.queue_declare("", exclusive=True))) == (
        406, "PRECONDITION_FAILED - unknown delivery tag 99")


def test_recover_returns_all_unacked(channel, queue):
    put(channel, queue, b"1")
    take(channel, queue)
    channel.basic_recover(requeue=True)
    method, _, body = take(channel, queue)
    assert (body, method.redelivered, method.delivery_tag) == (b"1", True, 2)


def test_a_consumers_prefetch_bounds_what_is_unacked(connection, channel, queue):
    channel.basic_qos(prefetch_count=2)
    put(channel, queue, *[str(i).encode() for i in range(5)])
    got = []
    collect(channel, queue, got)
    until(connection, lambda: len(got) == 2)
    assert channel.queue_declare(queue, passive=True).method.message_count == 3
    channel.basic_ack(1)
    until(connection, lambda: len(got) == 3)
    assert channel.queue_declare(queue, passive=True).method.message_count == 2


def test_a_global_prefetch_bounds_the_whole_channel(connection, channel, queue):
    channel.basic_qos(prefetch_count=3, global_qos=True)
    put(channel, queue, *[str(i).encode() for i in range(10)])
    got = []
    collect(channel, queue, got), collect(channel, queue, got)
    until(connection, lambda: len(got) == 3)
    assert channel.queue_declare(queue, passive=True).method.message_count == 7


def test_without_acks_delivered_is_gone(connection, channel, queue):
    put(channel, queue, b"1", b"2")
    got = []
    collect(channel, queue, got, auto_ack=True)
    until(connection, lambda: len(got) == 2)
    channel.close()
    assert connection.channel().queue_declare(queue, passive=True).method.message_count == 0


def test_a_cancelled_consumer_gets_nothing_more(connection, channel, queue):
    got = []
    channel.basic_cancel(collect(channel, queue, got))
    put(channel, queue, b"1")
    assert take(channel, queue)[2] == b"1" and got == []


def test_deleting_a_queue_tells_its_consumers(connection, channel, queue):
    told = []
    channel.add_on_cancel_callback(lambda frame: told.append(frame.method.consumer_tag))
    tag = channel.basic_consume(queue, lambda *_: None)
    connection.channel().queue_delete(queue)
    until(connection, lambda: told == [tag])


def test_a_transaction_publishes_and_acks_at_commit_only(connection, channel, queue):
    tx = connection.channel()
    tx.tx_select()
    tx.basic_publish("", queue, b"lost")
    tx.tx_rollback()
    tx.basic_publish("", queue, b"kept")
    assert channel.queue_declare(queue, passive=True).method.message_count == 0
    tx.tx_commit()
    assert drained(channel, queue) == [b"kept"]


def test_a_transaction_sends_to_where_its_publishes_were_routed(connection, channel, queue, name):
    channel.exchange_declare(name, "fanout")
    tx = connection.channel()
    tx.tx_select()
    def publish(body):
        tx.basic_publish(name, "", body)
        # Answered once the publish is routed.
        tx.basic_qos()
    publish(b"before the binding")
    channel.queue_bind(queue, name)
    tx.tx_commit()
    publish(b"rolled back")
    tx.tx_rollback()
    publish(b"bound")
    channel.queue_unbind(queue, name)
    publish(b"unbound")
    channel.exchange_delete(name)
    tx.tx_commit()
    assert drained(channel, queue) == [b"bound"]


def test_a_commit_without_a_transaction_is_406(channel):
    assert channel_error(channel.tx_commit) == (406, "PRECONDITION_FAILED - channel is not transactional")


def test_a_direct_reply_reaches_the_asker(connection, channel, other, queue):
    answers = []
    channel.basic_consume("amq.rabbitmq.reply-to", lambda *a: answers.append(a[3]), auto_ack=True)
    channel.basic_publish("", queue, b"question", pika.BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    server = other.channel()
    _, properties, _ = take(server, queue, auto_ack=True)
    assert properties.reply_to.startswith("amq.rabbitmq.reply-to.")
    server.basic_publish("", properties.reply_to, b"answer")
    until(connection, lambda: answers == [b"answer"])
