"""Exchange types beyond the four: they give a message to one of their bindings, or hold it for a time."""
import time

import pika
import pytest

from conftest import channel_error, connect, drained, ours_only, put, take, until

pytestmark = ours_only


@pytest.fixture
def make(connection, name):
    made = []

    def declare():
        queue = f"{name}-{len(made)}"
        connection.channel().queue_declare(queue, durable=True)
        made.append(queue)
        return queue
    yield declare
    c = connect()
    for queue in made:
        c.channel().queue_delete(queue)
    c.close()


def declared(channel, make, name, kind, keys, **arguments):
    channel.exchange_declare(name, kind, arguments=arguments)
    queues = []
    for key in keys:
        queue = make()
        channel.queue_bind(queue, name, key)
        queues.append(queue)
    return queues


def counts(channel, queues):
    return [channel.queue_declare(queue, passive=True).method.message_count for queue in queues]


def publish(channel, name, number, key="k{}", **properties):
    for i in range(number):
        put(channel, key.format(i), b"x", exchange=name, **{k: v(i) for k, v in properties.items()})


def test_a_consistent_hash_shares_by_weight_and_keeps_a_key_in_its_place(channel, make, name):
    queues = declared(channel, make, name, "x-consistent-hash", ["1", "4"])
    publish(channel, name, 500)
    first = counts(channel, queues)
    assert sum(first) == 500 and 50 <= first[0] <= 150
    publish(channel, name, 500)
    assert counts(channel, queues) == [2 * count for count in first]
    channel.exchange_delete(name)


@pytest.mark.parametrize("arguments, properties", [
    ({"hash-header": "to"}, {"headers": lambda i: {"to": str(i % 2)}}),
    ({"hash-property": "message_id"}, {"message_id": lambda i: str(i % 2)}),
    ({"hash-property": "correlation_id"}, {"correlation_id": lambda i: str(i % 2)}),
    ({"hash-property": "timestamp"}, {"timestamp": lambda i: i % 2}),
])
def test_a_consistent_hash_of_something_else_than_the_key(channel, make, name, arguments, properties):
    queues = declared(channel, make, name, "x-consistent-hash", ["1"] * 8, **arguments)
    publish(channel, name, 20, **properties)
    assert sorted(counts(channel, queues)) in ([0] * 6 + [10, 10], [0] * 7 + [20])
    channel.exchange_delete(name)


def test_what_a_consistent_hash_refuses(connection, name, queue):
    error = channel_error(lambda: connection.channel().exchange_declare(
        name, "x-consistent-hash", arguments={"hash-header": "a", "hash-property": "message_id"}))
    assert error == (406, "PRECONDITION_FAILED - hash-header and hash-property are mutually exclusive")
    error = channel_error(lambda: connection.channel().exchange_declare(
        name, "x-consistent-hash", arguments={"hash-property": "priority"}))
    assert error == (406, "PRECONDITION_FAILED - Unsupported property: priority")
    connection.channel().exchange_declare(name, "x-consistent-hash")
    error = channel_error(lambda: connection.channel().queue_bind(queue, name, "heavy"))
    assert error == (406, "PRECONDITION_FAILED - The binding key must be an integer: <<\"heavy\">>")
    error = channel_error(lambda: connection.channel().queue_bind(queue, name, "0"))
    assert error == (406, "PRECONDITION_FAILED - The binding key must be greater than 0")
    error = channel_error(lambda: connection.channel().queue_bind(queue, name, "10001"))
    assert error == (406, "PRECONDITION_FAILED - The binding key must not exceed 10000")
    connection.channel().exchange_delete(name)


def test_a_modulus_hash_gives_a_key_to_one_binding(channel, make, name):
    queues = declared(channel, make, name, "x-modulus-hash", ["", "", ""])
    publish(channel, name, 300)
    first = counts(channel, queues)
    assert sum(first) == 300 and min(first) > 60
    publish(channel, name, 300)
    assert counts(channel, queues) == [2 * count for count in first]
    channel.exchange_delete(name)


@pytest.mark.parametrize("kind", ["x-random", "x-local-random"])
def test_a_random_exchange_gives_a_message_to_any_one_binding(channel, make, name, kind):
    queues = declared(channel, make, name, kind, ["", "", ""])
    publish(channel, name, 300, key="same")
    found = counts(channel, queues)
    assert sum(found) == 300 and min(found) > 50
    channel.exchange_delete(name)


def test_a_delayed_message_waits_and_then_comes_in_order_of_its_time(channel, make, name):
    queues = declared(channel, make, name, "x-delayed-message", ["k"], **{"x-delayed-type": "direct"})
    start = time.monotonic()
    for delay, body in [(600, b"late"), (300, b"soon"), (0, b"now"), (-5, b"also now")]:
        put(channel, "k", body, exchange=name, headers={"x-delay": delay})
    assert [take(channel, queues[0], auto_ack=True)[2] for _ in range(2)] == [b"now", b"also now"]
    assert take_later(channel, queues[0]) == b"soon" and time.monotonic() - start >= 0.29
    assert take_later(channel, queues[0]) == b"late" and time.monotonic() - start >= 0.59
    channel.exchange_delete(name)


def take_later(channel, queue):
    for method, _, body in channel.consume(queue, auto_ack=True, inactivity_timeout=5):
        assert method, "nothing came"
        channel.cancel()
        return body


def test_a_delayed_exchange_needs_a_type_behind_it(connection, name):
    wanted = (406, "PRECONDITION_FAILED - Invalid argument, 'x-delayed-type' must be an existing exchange type")
    for arguments in [{}, {"x-delayed-type": "no-such"}, {"x-delayed-type": "x-delayed-message"}]:
        assert channel_error(lambda: connection.channel().exchange_declare(
            name, "x-delayed-message", arguments=arguments)) == wanted


@ours_only
def test_a_new_binding_of_a_recent_history_exchange_gets_the_last_messages_first(channel, name):
    channel.exchange_declare(name, "x-recent-history", arguments={"x-recent-history-length": 2})
    put(channel, "a", b"1", b"2", b"3", exchange=name)
    put(channel, "a", b"not kept", exchange=name, headers={"x-recent-history-no-store": True})
    q = channel.queue_declare("", exclusive=True).method.queue
    for _ in range(2):
        # The second time the binding is there already.
        channel.queue_bind(q, name, "any")
    put(channel, "b", b"4", exchange=name)
    bodies = []
    until(channel.connection, lambda: bodies.extend(drained(channel, q)) or len(bodies) >= 3)
    assert (bodies, drained(channel, q)) == ([b"2", b"3", b"4"], [])
    # What nobody but the history takes is unroutable.
    channel.queue_unbind(q, name, "any")
    with pytest.raises(pika.exceptions.UnroutableError):
        channel.basic_publish(name, "c", b"5", mandatory=True)
    channel.queue_bind(q, name, "any")
    until(channel.connection, lambda: bodies.extend(drained(channel, q)) or len(bodies) >= 5)
    assert bodies[3:] == [b"4", b"5"]
    channel.exchange_delete(name)


@ours_only
def test_a_history_has_a_positive_length(channel, name):
    error = channel_error(lambda: channel.exchange_declare(name, "x-recent-history", arguments={"x-recent-history-length": 0}))
    assert error == (406, "PRECONDITION_FAILED - Invalid argument, 'x-recent-history-length' must be a positive integer")
