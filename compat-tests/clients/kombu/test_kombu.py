"""kombu, and py-amqp below it, against the broker."""
import datetime
import decimal
import os
import socket
import ssl
import threading
import time

import amqp
import kombu
import pytest
from kombu.mixins import ConsumerProducerMixin
from kombu.utils.limits import TokenBucket

from stage import AUTHORITY, PATIENCE, TLS_PORT, URL, WRONG_URL, control, name, restartable, secured, until


ACCEPT = ["json", "pickle", "text/plain"]


@pytest.fixture
def connection():
    with kombu.Connection(URL, transport_options={"confirm_publish": True}) as made:
        yield made


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def queue(connection):
    with declared(connection) as made:
        yield made


class declared:
    """A durable queue that goes away with the test."""

    def __init__(self, connection, about="q", **options):
        self.connection, self.queue = connection, kombu.Queue(name(about), durable=True, **options)

    def __enter__(self):
        self.queue = self.queue(self.connection.channel())
        self.queue.declare()
        return self.queue

    def __exit__(self, *_):
        with kombu.Connection(URL) as other:
            self.queue(other.channel()).delete()


def put(channel, queue, body, **options):
    kombu.Producer(channel).publish(body, routing_key=queue.name, **options)


class Arrivals(list):
    """A consumer whose messages arrive here while the connection is served."""

    def __init__(self, channel, queue, **options):
        super().__init__()
        self.connection = channel.connection.client
        self.consumer = kombu.Consumer(channel, [queue], on_message=self.append, accept=ACCEPT, **options)
        self.consumer.consume()

    def take(self):
        end = time.monotonic() + PATIENCE
        while not self:
            assert time.monotonic() < end, "no message in time"
            self.serve(0.1)
        return self.pop(0)

    def serve(self, seconds):
        try:
            self.connection.drain_events(timeout=seconds)
        except socket.timeout:
            pass


def test_right_credentials_open_a_connection(connection):
    assert connection.connect().connected
    assert connection.connection.server_properties["capabilities"]["publisher_confirms"]


def test_wrong_credentials_are_refused():
    with pytest.raises(amqp.AccessRefused) as error, kombu.Connection(WRONG_URL) as refused:
        refused.connect()
    assert error.value.code == 403


@secured
def test_messages_go_both_ways_under_tls():
    trusting = {"ca_certs": AUTHORITY, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "localhost"}
    options = {"hostname": "127.0.0.1", "port": TLS_PORT, "userid": "guest", "password": "guest"}
    with kombu.Connection(ssl=trusting, **options) as secure, declared(secure) as queue:
        channel = secure.channel()
        put(channel, queue, "s" * (1 << 20))
        assert len(Arrivals(channel, queue, no_ack=True).take().body) >= 1 << 20
    with pytest.raises(ssl.SSLCertVerificationError):
        kombu.Connection(ssl={**trusting, "ca_certs": None}, **options).connect()


def test_an_unknown_vhost_is_refused():
    with pytest.raises(amqp.NotAllowed), kombu.Connection(URL.rsplit("/", 1)[0] + "/nowhere") as refused:
        refused.connect()


def test_a_heartbeat_keeps_an_idle_connection():
    with kombu.Connection(URL, heartbeat=1) as idle:
        idle.connect()
        assert idle.get_heartbeat_interval() == 1
        end = time.monotonic() + 4
        while time.monotonic() < end:
            idle.heartbeat_check()
            try:
                idle.drain_events(timeout=0.25)
            except socket.timeout:
                pass
        assert idle.connected
        idle.channel()


def test_a_client_that_falls_silent_is_let_go():
    with kombu.Connection(URL, heartbeat=1) as silent:
        sock = silent.connect().transport.sock
        sock.settimeout(PATIENCE)
        while sock.recv(1024):
            pass


def test_a_publish_is_confirmed_and_got(channel, queue):
    put(channel, queue, {"text": "ü"})
    assert queue.queue_declare(passive=True).message_count == 1
    message = queue.get(accept=["json"])
    assert message.payload == {"text": "ü"}
    message.ack()
    assert queue.get() is None


def test_a_full_queue_refuses_a_publish(connection):
    arguments = {"x-max-length": 1, "x-overflow": "reject-publish"}
    with declared(connection, queue_arguments=arguments) as queue:
        channel = connection.channel()
        put(channel, queue, "one")
        with pytest.raises(amqp.exceptions.MessageNacked):
            put(channel, queue, "two")


def test_a_mandatory_message_comes_back(channel):
    back = []
    producer = kombu.Producer(channel, on_return=lambda *args: back.append(args))
    producer.publish("lost", routing_key=name("nowhere"), mandatory=True)
    error, exchange, _key, message = back[0]
    assert (error.reply_code, error.reply_text, exchange, message.body) == (312, "NO_ROUTE", "", "lost")


def test_prefetch_limits_what_is_unacknowledged(channel, queue):
    for body in "abc":
        put(channel, queue, body)
    arrivals = Arrivals(channel, queue, prefetch_count=2)
    first, _ = arrivals.take(), arrivals.take()
    arrivals.serve(0.3)
    assert not arrivals
    first.ack()
    assert arrivals.take().payload == "c"


def test_global_qos_as_celery_asks_for_it(channel, queue):
    for body in "abc":
        put(channel, queue, body)
    channel.basic_qos(0, 1, True)
    arrivals = Arrivals(channel, queue)
    first = arrivals.take()
    arrivals.serve(0.3)
    assert not arrivals
    channel.basic_qos(0, 2, True)
    arrivals.take()
    first.ack()
    assert arrivals.take().payload == "c"


def test_acknowledged_messages_are_gone_others_come_back(connection, queue):
    channel = connection.channel()
    for body in "abc":
        put(channel, queue, body)
    arrivals = Arrivals(channel, queue)
    _, second, _ = arrivals.take(), arrivals.take(), arrivals.take()
    channel.basic_ack(second.delivery_tag, multiple=True)
    channel.close()
    left = Arrivals(connection.channel(), queue).take()
    assert left.payload == "c" and left.delivery_info["redelivered"]


def test_a_requeued_message_comes_back(channel, queue):
    put(channel, queue, "again")
    arrivals = Arrivals(channel, queue)
    first = arrivals.take()
    assert not first.delivery_info["redelivered"]
    first.requeue()
    assert arrivals.take().delivery_info["redelivered"]


def test_rejected_and_expired_messages_are_dead_lettered(connection, queue):
    letters = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": queue.name}
    channel = connection.channel()
    arrivals = Arrivals(channel, queue, no_ack=True)
    with declared(connection, queue_arguments=letters) as source:
        put(channel, source, "bad")
        rejecting = connection.channel()
        Arrivals(rejecting, source).take().reject()
        rejecting.close()
        death = arrivals.take().headers["x-death"][0]
        assert (death["reason"], death["queue"], death["count"]) == ("rejected", source.name, 1)
    with declared(connection, queue_arguments=letters, message_ttl=0.1) as source:
        put(channel, source, "late")
        assert arrivals.take().headers["x-death"][0]["reason"] == "expired"
    with declared(connection, queue_arguments=letters) as source:
        put(channel, source, "late", expiration=0.1)
        assert arrivals.take().headers["x-death"][0]["original-expiration"] == "100"


def test_higher_priorities_come_first(connection):
    with declared(connection, max_priority=10) as queue:
        channel = connection.channel()
        for priority in (1, 9, 5):
            put(channel, queue, priority, priority=priority)
        arrivals = Arrivals(channel, queue, no_ack=True)
        assert [arrivals.take().payload for _ in range(3)] == [9, 5, 1]


def test_direct_reply_to_answers_a_call(connection, queue):
    client, server = connection.channel(), connection.channel()
    replies = Arrivals(client, kombu.Queue("amq.rabbitmq.reply-to", no_declare=True), no_ack=True)
    put(client, queue, 21, reply_to="amq.rabbitmq.reply-to", correlation_id="one")
    call = Arrivals(server, queue, no_ack=True).take()
    kombu.Producer(server).publish(call.payload * 2, routing_key=call.properties["reply_to"],
                                   correlation_id=call.properties["correlation_id"])
    reply = replies.take()
    assert (reply.payload, reply.properties["correlation_id"]) == (42, "one")


class Worker(ConsumerProducerMixin):
    """As applications have it: it comes back by itself."""

    def __init__(self, connection, queue):
        self.connection, self.queue, self.got = connection, queue, []

    def get_consumers(self, Consumer, channel):
        return [Consumer([self.queue], callbacks=[self.work], accept=ACCEPT)]

    def work(self, body, message):
        self.got.append(body)
        message.ack()


@restartable
@pytest.mark.parametrize("command", ["restart", "kill"])
def test_a_mixin_comes_back(command, queue):
    worker = Worker(kombu.Connection(URL), kombu.Queue(queue.name, durable=True))
    # As often as it likes; the default is once in a second.
    worker.__class__.restart_limit = TokenBucket(100)
    thread = threading.Thread(target=worker.run)
    thread.start()
    try:
        with kombu.Connection(URL) as publisher:
            put(publisher.channel(), queue, "before")
        until(lambda: "before" in worker.got)
        control(command)
        with kombu.Connection(URL) as publisher:
            put(publisher.channel(), queue, "after")
        until(lambda: "after" in worker.got)
    finally:
        worker.should_stop = True
        thread.join(PATIENCE)


@restartable
def test_a_publish_is_retried_over_a_restart(connection, queue):
    producer = kombu.Producer(connection.channel())
    producer.publish("before", routing_key=queue.name, delivery_mode=2)
    control("kill")
    policy = {"interval_start": 0, "interval_step": 0.1, "max_retries": 100}
    producer.publish("after", routing_key=queue.name, delivery_mode=2, retry=True, retry_policy=policy)
    with kombu.Connection(URL) as other:
        arrivals = Arrivals(other.channel(), queue, no_ack=True)
        assert [arrivals.take().payload, arrivals.take().payload] == ["before", "after"]


def test_a_consumer_of_a_deleted_queue_is_told(connection, queue):
    arrivals = Arrivals(connection.channel(), queue)
    with kombu.Connection(URL) as other:
        queue(other.channel()).delete()
    with pytest.raises(amqp.ConsumerCancelled):
        arrivals.take()


def test_a_large_body_arrives_as_it_was(channel, queue):
    body = os.urandom(16 << 20)
    put(channel, queue, body, content_type="application/data", content_encoding="binary")
    assert bytes(Arrivals(channel, queue, no_ack=True).take().body) == body


def test_many_channels_work_side_by_side(connection, queue):
    channels = [connection.channel() for _ in range(300)]
    for each in channels:
        put(each, queue, "x")
    assert queue.queue_declare(passive=True).message_count == 300


def test_names_may_be_unicode(connection, channel):
    exchange = kombu.Exchange(name("обмен-🐇"), "topic", durable=False, auto_delete=True)
    with declared(connection, "очередь-兎", exchange=exchange, routing_key="ключ.*") as queue:
        kombu.Producer(channel, exchange).publish("ü", routing_key="ключ.é")
        message = Arrivals(channel, queue, no_ack=True).take()
        assert message.delivery_info["routing_key"] == "ключ.é"
        assert (message.delivery_info["exchange"], message.payload) == (exchange.name, "ü")


def test_headers_of_every_type_arrive_as_they_were(channel, queue):
    headers = {
        "bool": True, "int": -32, "long": 2**40, "float": 0.25, "text": "ü", "none": None,
        "decimal": decimal.Decimal("3.14"), "time": datetime.datetime(2023, 11, 14, 22, 13, 20),
        "array": [1, "two", [True], {"k": "v"}], "table": {"nested": {"deep": 1}}, "bytes": b"\x00\xff",
    }
    put(channel, queue, "x", headers=dict(headers))
    got = Arrivals(channel, queue, no_ack=True).take().headers
    got["time"] = got["time"].replace(tzinfo=None)
    if isinstance(got["bytes"], str):
        got["bytes"] = got["bytes"].encode("latin-1", "surrogateescape")
    assert got == headers


@pytest.mark.parametrize("serializer", ["json", "pickle"])
@pytest.mark.parametrize("compression", [None, "zlib", "bzip2"])
def test_serializers_and_compressions(channel, queue, serializer, compression):
    put(channel, queue, {"k": [1, "ü"]}, serializer=serializer, compression=compression)
    assert Arrivals(channel, queue, no_ack=True).take().decode() == {"k": [1, "ü"]}


def test_a_simple_queue(connection):
    simple = connection.SimpleQueue(name("simple"))
    simple.put({"n": 1})
    message = simple.get(timeout=PATIENCE)
    assert message.payload == {"n": 1}
    message.ack()
    with pytest.raises(simple.Empty):
        simple.get(block=False)
    simple.close()
    kombu.Queue(simple.queue.name)(connection.channel()).delete()


def test_exchange_to_exchange_bindings(connection, channel, queue):
    outer = kombu.Exchange(name("outer"), "fanout", durable=False)(channel)
    inner = kombu.Exchange(name("inner"), "direct", durable=False)(channel)
    outer.declare()
    inner.declare()
    inner.bind_to(outer, routing_key="")
    queue.bind_to(inner, routing_key="key")
    kombu.Producer(channel, outer).publish("x", routing_key="key")
    assert Arrivals(channel, queue, no_ack=True).take().payload == "x"
    outer.delete()
    inner.delete()


def test_a_redeclare_with_other_arguments_is_refused(connection, queue):
    with pytest.raises(amqp.PreconditionFailed) as error:
        kombu.Queue(queue.name, durable=False)(connection.channel()).declare()
    assert f"inequivalent arg 'durable' for queue '{queue.name}' in vhost '/'" in str(error.value)
