"""One broker for the whole session; every test gets its own connection and its own names."""
import os
import time
import uuid

import pika
import pytest

URL = os.environ["BROKER_URL"]
OURS = bool(os.environ.get("BROKER_IS_OURS"))
PERSISTENT = pika.BasicProperties(delivery_mode=2)

ours_only = pytest.mark.skipif(not OURS, reason="a behaviour of ours, or of RabbitMQ 4 only")


def connect(**changes):
    parameters = pika.URLParameters(URL)
    for key, value in changes.items():
        setattr(parameters, key, value)
    return pika.BlockingConnection(parameters)


@pytest.fixture
def connection():
    c = connect()
    yield c
    if c.is_open:
        c.close()


@pytest.fixture
def other():
    c = connect()
    yield c
    if c.is_open:
        c.close()


@pytest.fixture
def channel(connection):
    return connection.channel()


@pytest.fixture
def name():
    return "t-" + uuid.uuid4().hex[:12]


@pytest.fixture
def queue(connection, name):
    connection.channel().queue_declare(name, durable=True)
    yield name
    c = connect()
    c.channel().queue_delete(name)
    c.close()


def put(channel, queue, *bodies, exchange="", **properties):
    """Publishes with confirms, so what follows sees the messages."""
    if not channel._delivery_confirmation:
        channel.confirm_delivery()
    for body in bodies:
        channel.basic_publish(exchange, queue, body, pika.BasicProperties(**properties))


def take(channel, queue, deadline=10, **arguments):
    """Gets one message, asking until it is there."""
    end = time.monotonic() + deadline
    while True:
        method, properties, body = channel.basic_get(queue, **arguments)
        if method:
            return method, properties, body
        assert time.monotonic() < end, f"no message in {queue} within {deadline} s"
        channel.connection.process_data_events(0.01)


def drained(channel, queue):
    """All bodies that are ready now, in order."""
    bodies = []
    while True:
        method, _, body = channel.basic_get(queue, auto_ack=True)
        if not method:
            return bodies
        bodies.append(body)


def until(connection, fact, deadline=10):
    """Serves the connection until the fact holds."""
    end = time.monotonic() + deadline
    while not fact():
        assert time.monotonic() < end, f"not true within {deadline} s"
        connection.process_data_events(0.01)


def collect(channel, queue, got, **arguments):
    """Subscribes; every delivery is appended to `got` as (tag, redelivered, body, properties)."""
    def on_message(_, method, properties, body):
        got.append((method.delivery_tag, method.redelivered, body, properties))
    return channel.basic_consume(queue, on_message, **arguments)


def channel_error(call):
    with pytest.raises(pika.exceptions.ChannelClosedByBroker) as error:
        call()
    return error.value.reply_code, error.value.reply_text


def connection_error(call):
    with pytest.raises(pika.exceptions.ConnectionClosedByBroker) as error:
        call()
    return error.value.reply_code, error.value.reply_text
