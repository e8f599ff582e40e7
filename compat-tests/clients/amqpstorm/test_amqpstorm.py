"""amqpstorm against the broker, and its management client against the API."""
import datetime
import decimal
import os
import ssl
import threading
import time

import amqpstorm
import pytest
from amqpstorm.management import ManagementApi

from stage import AUTHORITY, HOST, PATIENCE, PORT, TLS_PORT, control, name, restartable, secured, until


def connect(password="guest", **options):
    return amqpstorm.Connection(HOST, "guest", password, port=PORT, timeout=PATIENCE, **options)


@pytest.fixture
def connection():
    with connect() as made:
        yield made


@pytest.fixture
def channel(connection):
    made = connection.channel()
    made.confirm_deliveries()
    return made


@pytest.fixture
def queue(channel):
    return declared(channel)


def declared(channel, about="q", **arguments):
    made = name(about)
    channel.queue.declare(made, durable=True, arguments=arguments or None)
    return made


def put(channel, queue, body, **properties):
    assert channel.basic.publish(body, queue, properties={"delivery_mode": 2, **properties}, mandatory=True) is True


def take(channel, queue, **options):
    return until(lambda: channel.basic.get(queue, **options))


class Arrivals(list):
    """A consumer whose messages arrive here."""

    def __init__(self, channel, queue, **options):
        super().__init__()
        self.channel = channel
        channel.basic.consume(self.append, queue, **options)

    def take(self):
        def arrived():
            self.channel.process_data_events()
            return len(self) > 0
        until(arrived)
        return self.pop(0)

    def serve(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.channel.process_data_events()
            time.sleep(0.01)


def test_right_credentials_open_a_connection(connection):
    assert connection.is_open


def test_wrong_credentials_are_refused():
    with pytest.raises(amqpstorm.AMQPConnectionError, match="ACCESS_REFUSED|403|refused"):
        connect("wrong")


@secured
def test_messages_go_both_ways_under_tls():
    context = ssl.create_default_context(cafile=AUTHORITY)
    options = {"context": context, "server_hostname": "localhost"}
    with amqpstorm.Connection("127.0.0.1", "guest", "guest", port=TLS_PORT, ssl=True, ssl_options=options) as secure:
        channel = secure.channel()
        channel.confirm_deliveries()
        queue = declared(channel)
        put(channel, queue, "s" * (1 << 20))
        assert len(take(channel, queue).body) == 1 << 20


def test_an_unknown_vhost_is_refused():
    with pytest.raises(amqpstorm.AMQPConnectionError):
        connect(virtual_host="nowhere")


def test_a_heartbeat_keeps_an_idle_connection():
    with connect(heartbeat=1) as idle:
        time.sleep(4)
        idle.check_for_errors()
        idle.channel()


def test_a_publish_is_confirmed_and_got(channel, queue):
    put(channel, queue, "ü")
    message = take(channel, queue)
    assert message.body == "ü"
    message.ack()
    assert channel.basic.get(queue) is None


def test_a_full_queue_refuses_a_publish(channel):
    queue = declared(channel, **{"x-max-length": 1, "x-overflow": "reject-publish"})
    put(channel, queue, "one")
    assert channel.basic.publish("two", queue) is False


def test_a_mandatory_message_comes_back(channel):
    with pytest.raises(amqpstorm.AMQPMessageError, match="NO_ROUTE"):
        channel.basic.publish("lost", name("nowhere"), mandatory=True)
        channel.check_for_errors()


def test_prefetch_limits_what_is_unacknowledged(channel, queue):
    for body in "abc":
        put(channel, queue, body)
    channel.basic.qos(2)
    arrivals = Arrivals(channel, queue)
    first, _ = arrivals.take(), arrivals.take()
    arrivals.serve(0.3)
    assert not arrivals
    first.ack()
    assert arrivals.take().body == "c"


def test_nack_and_reject_with_requeue_bring_a_message_back(channel, queue):
    put(channel, queue, "again")
    take(channel, queue).nack(requeue=True)
    second = take(channel, queue)
    assert second.redelivered
    second.reject(requeue=True)
    assert take(channel, queue).redelivered


def test_rejected_and_expired_messages_are_dead_lettered(channel, queue):
    letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue}
    source = declared(channel, **letters)
    put(channel, source, "bad")
    take(channel, source).reject(requeue=False)
    death = take(channel, queue, no_ack=True).properties["headers"]["x-death"][0]
    assert (death["reason"], death["queue"], death["count"]) == ("rejected", source, 1)
    put(channel, declared(channel, **letters, **{"x-message-ttl": 100}), "late")
    assert take(channel, queue).properties["headers"]["x-first-death-reason"] == "expired"


def test_higher_priorities_come_first(channel):
    queue = declared(channel, **{"x-max-priority": 10})
    for priority in (1, 9, 5):
        put(channel, queue, str(priority), priority=priority)
    assert [take(channel, queue, no_ack=True).body for _ in range(3)] == ["9", "5", "1"]


def test_direct_reply_to_answers_a_call(connection, channel, queue):
    client = connection.channel()
    replies = Arrivals(client, "amq.rabbitmq.reply-to", no_ack=True)
    client.basic.publish("21", queue, properties={"reply_to": "amq.rabbitmq.reply-to", "correlation_id": "one"})
    call = take(channel, queue, no_ack=True)
    channel.basic.publish("42", call.reply_to, properties={"correlation_id": call.correlation_id})
    reply = replies.take()
    assert (reply.body, reply.correlation_id) == ("42", "one")


def test_a_consumer_of_a_deleted_queue_is_told(connection, queue):
    consumer = connection.channel()
    Arrivals(consumer, queue)
    connection.channel().queue.delete(queue)
    until(lambda: not consumer.consumer_tags)


@restartable
@pytest.mark.parametrize("command", ["restart", "kill"])
def test_a_durable_message_survives(command):
    # The client sees that a connection is gone by its heartbeat only.
    with connect(heartbeat=2) as before:
        channel = before.channel()
        channel.confirm_deliveries()
        queue = declared(channel)
        put(channel, queue, "kept")
        control(command)
        with pytest.raises(amqpstorm.AMQPConnectionError):
            until(before.check_for_errors)
    with connect() as after:
        assert take(after.channel(), queue).body == "kept"


def test_a_body_of_16_mib_arrives_as_it_was(channel, queue):
    body = os.urandom(8 << 20).hex()
    put(channel, queue, body)
    assert take(channel, queue).body == body


def test_many_channels_work_side_by_side(connection, queue):
    channels = [connection.channel() for _ in range(200)]
    for each in channels:
        each.confirm_deliveries()
        put(each, queue, "x")
    assert channels[0].queue.declare(queue, passive=True)["message_count"] == 200


def test_threads_share_a_connection(connection, queue):
    def publish():
        channel = connection.channel()
        channel.confirm_deliveries()
        for _ in range(50):
            put(channel, queue, "x")
    threads = [threading.Thread(target=publish) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert connection.channel().queue.declare(queue, passive=True)["message_count"] == 400


def test_routing_keys_may_be_unicode(channel, queue):
    # pamqp, below amqpstorm, refuses such names of queues and exchanges by itself.
    exchange = name("x")
    channel.exchange.declare(exchange, "topic", auto_delete=True)
    channel.queue.bind(queue, exchange, "ключ.*")
    channel.basic.publish("ü", "ключ.é", exchange)
    message = take(channel, queue)
    assert (message.method["routing_key"], message.body) == ("ключ.é", "ü")


def test_headers_of_every_type_arrive_as_they_were(channel, queue):
    headers = {
        "bool": True, "int": -32, "long": 2**40, "float": 0.25, "text": "ü", "none": None,
        "decimal": decimal.Decimal("3.14"),
        "time": datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.timezone.utc),
        "array": [1, "two", [True], {"k": "v"}], "table": {"nested": {"deep": 1}}, "bytes": bytearray(b"\x00\xff"),
    }
    put(channel, queue, "x", headers=dict(headers))
    assert take(channel, queue).properties["headers"] == headers


def test_a_transaction_is_all_or_nothing(connection, queue):
    channel = connection.channel()
    channel.tx.select()
    channel.basic.publish("undone", queue)
    channel.tx.rollback()
    channel.basic.publish("done", queue)
    channel.tx.commit()
    assert take(channel, queue, no_ack=True).body == "done"
    assert channel.basic.get(queue) is None


def test_a_soft_error_closes_the_channel_only(connection):
    with pytest.raises(amqpstorm.AMQPChannelError) as error:
        connection.channel().queue.declare(name("nowhere"), passive=True)
    assert error.value.error_code == 404
    assert connection.channel().is_open


def test_its_management_client_manages(channel, queue):
    api = ManagementApi(os.environ["BROKER_MANAGEMENT_URL"], "guest", "guest", timeout=PATIENCE)
    assert api.overview()["product_name"]
    put(channel, queue, "x")
    assert api.aliveness_test("/") == {"status": "ok"}
    assert api.queue.get(queue)["durable"] is True
    assert api.basic.get(queue, requeue=False)[0].body == "x"
    api.basic.publish("y", queue)
    assert take(channel, queue).body == "y"
    assert [user["name"] for user in api.user.list()] == ["guest"]
