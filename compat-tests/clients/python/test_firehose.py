"""The firehose: what is published and delivered in a traced vhost, by way of amq.rabbitmq.trace."""
import pika
import pytest

from conftest import connect, put, take
from management import call, done, quote
from test_management import allow, pytestmark  # noqa: F401


@pytest.fixture
def vhost(name):
    done("PUT", f"vhosts/{quote(name)}", 201, body={"tracing": True})
    allow("guest", name, ".*", ".*", ".*")
    yield name
    call("DELETE", "vhosts/" + quote(name))


@pytest.fixture
def connection(vhost):
    c = connect(virtual_host=vhost)
    yield c
    if c.is_open:
        c.close()


def listening(channel):
    channel.queue_declare("traces")
    channel.queue_bind("traces", "amq.rabbitmq.trace", "#")


def test_a_copy_of_what_is_published_and_of_what_is_delivered(connection, channel, vhost):
    channel.exchange_declare("ü", "topic")
    for queue in ("one", "two"):
        channel.queue_declare(queue)
        channel.queue_bind(queue, "ü", "a.*")
    listening(channel)
    properties = pika.BasicProperties(
        content_type="text/plain", priority=3, delivery_mode=2, message_id="m", timestamp=1_700_000_000,
        headers={"h": 1, "CC": ["a.c"]})
    channel.confirm_delivery()
    channel.basic_publish("ü", "a.b", b"body", properties)
    method, _, body = channel.basic_get("one", auto_ack=True)
    assert (method.routing_key, body) == ("a.b", b"body")
    assert take(channel, "two", auto_ack=True)[2] == b"body"
    copies = [take(channel, "traces", auto_ack=True) for _ in range(3)]
    keys = [method.routing_key for method, _, _ in copies]
    assert keys == ["publish.ü", "deliver.one", "deliver.two"]
    for method, header, body in copies:
        assert method.exchange == "amq.rabbitmq.trace" and body == b"body"
        headers = header.headers
        assert headers["exchange_name"] == "ü"
        assert headers["routing_keys"] == ["a.b", "a.c"]
        assert headers["properties"] == {
            "content_type": "text/plain", "priority": 3, "delivery_mode": 2, "message_id": "m",
            "timestamp": 1_700_000_000, "headers": {"h": 1, "CC": ["a.c"]}}
        assert headers["vhost"] == vhost and headers["user"] == "guest"
        assert headers["channel"] == channel.channel_number and " -> " in headers["connection"]
        assert "@" in headers["node"]
    assert sorted(copies[0][1].headers["routed_queues"]) == ["one", "two"]
    assert [header.headers.get("redelivered") for _, header, _ in copies] == [None, 0, 0]


def test_what_no_queue_takes_is_traced_and_what_comes_again_says_so(channel):
    listening(channel)
    channel.queue_declare("q")
    channel.confirm_delivery()
    put(channel, "nowhere", b"lost")
    put(channel, "q", b"again")
    tag = channel.basic_get("q")[0].delivery_tag
    channel.basic_nack(tag, requeue=True)
    channel.basic_get("q", auto_ack=True)
    copies = [take(channel, "traces", auto_ack=True) for _ in range(4)]
    rows = [(m.routing_key, h.headers.get("routed_queues"), h.headers.get("redelivered")) for m, h, _ in copies]
    assert rows == [("publish.", [], None), ("publish.", ["q"], None), ("deliver.q", None, 0), ("deliver.q", None, 1)]


def test_traces_are_not_traced_and_end_when_tracing_does(channel, vhost):
    listening(channel)
    channel.queue_declare("q")

    def next_key():
        return take(channel, "traces", auto_ack=True)[0].routing_key
    put(channel, "q", b"1")
    assert next_key() == "publish."
    # Had it been traced that this copy was gotten, the next would be about that.
    assert take(channel, "q", auto_ack=True)[2] == b"1"
    assert next_key() == "deliver.q"
    done("PUT", f"vhosts/{quote(vhost)}", body={"tracing": False})
    put(channel, "q", b"2")
    done("PUT", f"vhosts/{quote(vhost)}", body={"tracing": True})
    assert take(channel, "q", auto_ack=True)[2] == b"2"
    assert next_key() == "deliver.q"
