"""Streams: what they refuse, where a consumer begins, acknowledgements as credit, retention, filters."""
import datetime
import time

import pika
import pytest

from conftest import channel_error, connect, connection_error, ours_only, put, until
from management import call, done, eventually, get

STREAM = {"x-queue-type": "stream"}


@pytest.fixture
def make(connection, name):
    made = []
    def declare(suffix="", **arguments):
        q = name + suffix
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        connection.channel().queue_declare(q, durable=True, arguments={**STREAM, **arguments})
        made.append(q)
        return q
    yield declare
    c = connect()
    for q in made:
        c.channel().queue_delete(q)
    c.close()


@pytest.fixture
def stream(make, channel):
    """Ten messages at offsets 0 to 9."""
    q = make()
    put(channel, q, *(b"%d" % n for n in range(10)))
    return q


def read(connection, queue, prefetch=100, offset="first", ack=True, **arguments):
    """Subscribes on a channel of its own; (offset, body, properties, method) of each delivery is appended to what it returns."""
    got = []
    channel = connection.channel()
    channel.basic_qos(prefetch_count=prefetch)
    def on_message(_, method, properties, body):
        got.append((properties.headers["x-stream-offset"], body, properties, method))
        if ack:
            channel.basic_ack(method.delivery_tag)
    arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
    if offset is not None:
        arguments["x-stream-offset"] = offset
    channel.basic_consume(queue, on_message, arguments=arguments)
    return got, channel


def offsets(got):
    return [offset for offset, *_ in got]


def settled_at(connection, got, count):
    """Exactly so many have come, also a moment later."""
    until(connection, lambda: len(got) >= count)
    connection.process_data_events(0.15)
    assert len(got) == count, offsets(got)


def test_a_stream_is_durable_shared_and_named(connection, name):
    def declare(queue=name, arguments={}, **flags):
        flags = {"durable": True, **flags}
        return channel_error(lambda: connection.channel().queue_declare(queue, arguments={**STREAM, **arguments}, **flags))
    q = f"queue '{name}' in vhost '/'"
    for flags, prop in [({"durable": False}, "non-durable"), ({"exclusive": True}, "exclusive-owner"), ({"auto_delete": True}, "auto-delete")]:
        assert declare(**flags) == (406, f"PRECONDITION_FAILED - invalid property '{prop}' for {q}")
    code, text = declare("")
    assert (code, text) == (406, "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_stream_queue")
    assert declare(arguments={"x-max-age": "1 day"}) == (406, f"PRECONDITION_FAILED - invalid arg 'x-max-age' for {q}: invalid_max_age")
    code, text = declare(arguments={"x-message-ttl": 1})
    assert (code, text) == (406, f"PRECONDITION_FAILED - invalid arg 'x-message-ttl' for {q} of queue type rabbit_stream_queue")


def test_what_a_stream_cannot_do_is_refused_in_rabbitmqs_words(stream):
    q = f"queue '{stream}' in vhost '/'"
    def on_new(call):
        return lambda: call(connect().channel())
    def consume(channel, prefetch=1, qos_global=False, auto_ack=False, **arguments):
        if prefetch:
            channel.basic_qos(prefetch_count=prefetch)
        if qos_global:
            channel.basic_qos(prefetch_count=1, global_qos=True)
        channel.basic_consume(stream, lambda *_: None, auto_ack=auto_ack, arguments=arguments)
    refused = connection_error(on_new(lambda c: c.basic_get(stream)))
    assert refused == (540, f"NOT_IMPLEMENTED - basic.get not supported by stream queues {q}")
    refused = connection_error(on_new(lambda c: consume(c, auto_ack=True)))
    assert refused == (540, f"NOT_IMPLEMENTED - automatic acknowledgement not supported by stream {q}")
    refused = channel_error(on_new(lambda c: consume(c, prefetch=0)))
    assert refused == (406, f"PRECONDITION_FAILED - consumer prefetch count is not set for stream {q}")
    refused = channel_error(on_new(lambda c: consume(c, **{"x-stream-offset": "foo"})))
    assert refused == (406, f"PRECONDITION_FAILED - invalid arg 'x-stream-offset' for {q}: " "{invalid_stream_offset_arg,{longstr,<<\"foo\">>}}")
    refused = channel_error(on_new(lambda c: consume(c, **{"x-priority": 1})))
    assert refused == (406, f"PRECONDITION_FAILED - invalid arg 'x-priority' for {q} of queue type rabbit_stream_queue")


@ours_only
def test_purge_and_a_limit_for_the_channel_are_refused(stream):
    q = f"queue '{stream}' in vhost '/'"
    refused = connection_error(lambda: connect().channel().queue_purge(stream))
    assert refused == (540, f"NOT_IMPLEMENTED - queue.purge not supported by stream queues {q}")
    channel = connect().channel()
    channel.basic_qos(prefetch_count=1)
    channel.basic_qos(prefetch_count=1, global_qos=True)
    # pika's basic_qos of the channel lifts nothing: the consumer's own prefetch stands.
    refused = connection_error(lambda: channel.basic_consume(stream, lambda *_: None))
    assert refused == (540, f"NOT_IMPLEMENTED - {q} does not support global qos")


def test_a_declare_counts_messages_and_no_consumers(connection, stream):
    got, _ = read(connection, stream)
    until(connection, lambda: len(got) == 10)
    ok = connection.channel().queue_declare(stream, passive=True)
    assert (ok.method.message_count, ok.method.consumer_count) == (10, 0)


@pytest.mark.parametrize("offset, first", [
    ("first", 0), (0, 0), (4, 4), (9, 9), ("1h", 0), ("1D", 0),
    (datetime.datetime(2020, 1, 1), 0),
])
def test_a_consumer_begins_where_it_asks_to(connection, stream, offset, first):
    got, _ = read(connection, stream, offset=offset)
    settled_at(connection, got, 10 - first)
    assert offsets(got) == list(range(first, 10))
    assert [body for _, body, *_ in got] == [b"%d" % n for n in range(first, 10)]
    assert not any(method.redelivered for *_, method in got)


@pytest.mark.parametrize("offset", [None, "next", 10, datetime.datetime(2100, 1, 1)])
def test_a_consumer_at_the_end_gets_what_comes(connection, channel, stream, offset):
    got, _ = read(connection, stream, offset=offset)
    put(channel, stream, b"new")
    settled_at(connection, got, 1)
    assert got[0][:2] == (10, b"new")


def test_last_begins_near_the_end_and_reaches_it(connection, stream):
    got, _ = read(connection, stream, offset="last")
    until(connection, lambda: got and got[-1][0] == 9)
    assert offsets(got) == list(range(got[0][0], 10))


@ours_only
def test_last_is_the_last_run(connection, channel, stream):
    got, _ = read(connection, stream, offset="last")
    settled_at(connection, got, 1)
    assert offsets(got) == [9]


def test_a_moment_between_two_publishes_is_a_place(connection, channel, make):
    q = make()
    put(channel, q, b"before")
    # A timestamp has whole seconds.
    time.sleep(2.1)
    moment = datetime.datetime.fromtimestamp(int(time.time()), datetime.timezone.utc).replace(tzinfo=None)
    put(channel, q, b"after")
    got, _ = read(connection, q, offset=moment)
    settled_at(connection, got, 1)
    assert got[0][:2] == (1, b"after")
    got, _ = read(connection, q, offset="1s")
    settled_at(connection, got, 1)


def test_every_settlement_is_credit_and_nothing_comes_twice(connection, stream):
    got, channel = read(connection, stream, prefetch=3, ack=False)
    settled_at(connection, got, 3)
    channel.basic_ack(1)
    channel.basic_nack(2, requeue=True)
    channel.basic_reject(3, requeue=False)
    settled_at(connection, got, 6)
    channel.basic_nack(0, multiple=True, requeue=False)
    settled_at(connection, got, 9)
    channel.close()
    assert offsets(got) == list(range(9))
    again, _ = read(connection, stream)
    settled_at(connection, again, 10)
    assert not any(method.redelivered for *_, method in again)


def test_many_consumers_read_the_same(connection, channel, stream):
    readers = [read(connection, stream, offset=offset)[0] for offset in ["first", "first", 5]]
    put(channel, stream, b"more")
    until(connection, lambda: sum(map(len, readers)) == 11 + 11 + 6)
    assert [offsets(got) for got in readers] == [list(range(11)), list(range(11)), list(range(5, 11))]


def test_a_cancelled_consumer_gets_no_more_and_an_ended_stream_cancels(connection, channel, stream):
    got, reader = read(connection, stream)
    until(connection, lambda: len(got) == 10)
    reader.basic_cancel(reader.consumer_tags[0])
    put(channel, stream, b"more")
    connection.process_data_events(0.1)
    assert len(got) == 10
    cancelled = []
    _, reader = read(connection, stream, offset="next")
    reader.add_on_cancel_callback(lambda frame: cancelled.append(frame.method.consumer_tag))
    # The flags are ignored, though it is read and not empty.
    channel.queue_delete(stream, if_unused=True, if_empty=True)
    until(connection, lambda: cancelled)


def test_a_streams_messages_keep_their_properties_and_headers(connection, channel, make, name):
    q = make()
    channel.exchange_declare(name, "topic")
    channel.queue_bind(q, name, "a.#")
    put(channel, "a.b", b"1", exchange=name, content_type="text/plain", headers={"k": "v", "n": 7}, expiration="1", correlation_id="c")
    channel.exchange_delete(name)
    time.sleep(0.05)
    got, _ = read(connection, q)
    settled_at(connection, got, 1)
    _, body, properties, method = got[0]
    assert (method.exchange, method.routing_key, body) == (name, "a.b", b"1")
    assert (properties.content_type, properties.correlation_id) == ("text/plain", "c")
    assert properties.headers == {"k": "v", "n": 7, "x-stream-offset": 0}


@ours_only
def test_a_limit_of_bytes_keeps_the_newest(connection, channel, make):
    q = make(x_max_length_bytes=1000)
    put(channel, q, *(b"%03d" % n + b"x" * 97 for n in range(50)))
    assert channel.queue_declare(q, passive=True).method.message_count == 10
    got, _ = read(connection, q, offset=0)
    settled_at(connection, got, 10)
    assert offsets(got) == list(range(40, 50))


@ours_only
def test_a_limit_of_age_takes_what_is_older(connection, channel, make):
    q = make(x_max_age="1s")
    put(channel, q, b"old", b"older")
    until(connection, lambda: channel.queue_declare(q, passive=True).method.message_count == 0)
    put(channel, q, b"new")
    got, _ = read(connection, q)
    settled_at(connection, got, 1)
    assert got[0][:2] == (2, b"new")


@ours_only
def test_a_filter_lets_through_what_is_wanted(connection, channel, make):
    q = make()
    for n in range(30):
        value = [{"x-stream-filter-value": "a"}, {"x-stream-filter-value": "b"}, {}][n % 3]
        put(channel, q, b"%d" % n, headers=value)
    # With a prefetch of one, everything unwanted must give its credit back.
    for wanted, arguments in [
        (lambda n: n % 3 == 0, {"x_stream_filter": "a"}),
        (lambda n: n % 3 < 2, {"x_stream_filter": ["a", "b"]}),
        (lambda n: n % 3 != 1, {"x_stream_filter": "a", "x_stream_match_unfiltered": True}),
        (lambda n: False, {"x_stream_filter": "z"}),
    ]:
        for prefetch in [1, 7, 100]:
            got, reader = read(connection, q, prefetch=prefetch, **arguments)
            expected = [n for n in range(30) if wanted(n)]
            settled_at(connection, got, len(expected))
            assert offsets(got) == expected
            reader.close()


def test_a_deep_stream_is_read_from_its_middle_and_by_steps(connection, channel, make):
    q = make()
    publisher = connection.channel()
    for n in range(5000):
        publisher.basic_publish("", q, b"%d" % n)
    until(connection, lambda: channel.queue_declare(q, passive=True).method.message_count == 5000)
    for offset in [0, 2500, 4990]:
        got, reader = read(connection, q, prefetch=50, offset=offset)
        until(connection, lambda: len(got) == 5000 - offset)
        assert offsets(got) == list(range(offset, 5000))
        assert all(body == b"%d" % n for n, body, *_ in got)
        reader.close()


@ours_only
def test_a_policy_acts_on_a_stream_at_once_and_listings_show_what_it_is(channel, make, name):
    q = make(x_max_age="7D")
    put(channel, q, *(b"x" * 100 for _ in range(20)))
    done("PUT", f"policies/%2F/{name}", 201, body={"pattern": f"^{name}$", "definition": {"max-length-bytes": 500}, "apply-to": "streams"})
    try:
        eventually(lambda: channel.queue_declare(q, passive=True).method.message_count == 5)
        found = get(f"queues/%2F/{q}")
        assert (found["type"], found["durable"], found["policy"]) == ("stream", True, name)
        assert found["arguments"] == {"x-queue-type": "stream", "x-max-age": "7D"}
        assert (found["messages"], found["messages_ready"], found["message_bytes"]) == (5, 5, 500)
        assert q in [queue["name"] for queue in get("queues")]
        assert call("DELETE", f"queues/%2F/{q}/contents").status == 400
        assert call("POST", f"queues/%2F/{q}/get", body={"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"}).status == 400
    finally:
        done("DELETE", f"policies/%2F/{name}", 204)
    refused = call("PUT", f"policies/%2F/{name}", body={"pattern": "x", "definition": {"max-age": "soon"}})
    assert refused.status == 400 and "is not a valid max age" in refused.json["reason"]


@ours_only
@pytest.mark.parametrize("key, small, large, left", [("max-length-bytes", 300, 1000, 10), ("max-age", "1s", "1h", 1)])
def test_of_a_stream_the_policy_counts_and_not_the_argument(connection, channel, make, name, key, small, large, left):
    q = make(**{"x_" + key.replace("-", "_"): small})
    done("PUT", f"policies/%2F/{name}", 201, body={"pattern": f"^{name}$", "definition": {key: large}, "apply-to": "streams"})
    try:
        def kept():
            put(channel, q, *[b"x" * 100] * left)
            if key == "max-age":
                # Older than the argument allows.
                time.sleep(1.3)
            return channel.queue_declare(q, passive=True).method.message_count >= left
        until(connection, kept, deadline=20)
    finally:
        done("DELETE", f"policies/%2F/{name}", 204)


def test_the_exclusive_flag_of_a_streams_consumer_is_ignored_and_a_transaction_appends(connection, channel, stream):
    for _ in range(2):
        reader = connection.channel()
        reader.basic_qos(prefetch_count=1)
        reader.basic_consume(stream, lambda *_: None, exclusive=True)
    channel = connection.channel()
    channel.tx_select()
    channel.basic_publish("", stream, b"tx")
    channel.tx_commit()
    assert channel.queue_declare(stream, passive=True).method.message_count == 11
