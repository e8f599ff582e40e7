"""Exchanges, bindings, queues: declaring, routing, refusing."""
import pika
import pytest

from conftest import channel_error, connect, drained, ours_only, put, take


def bound(ch, exchange, key="", arguments=None):
    q = ch.queue_declare("", exclusive=True).method.queue
    ch.queue_bind(q, exchange, key, arguments)
    return q


def exchange(ch, name, kind, **more):
    ch.exchange_declare(name, kind, auto_delete=True, **more)
    return name


def test_a_direct_exchange_routes_by_the_whole_key(channel, name):
    x = exchange(channel, name, "direct")
    a, b = bound(channel, x, "a"), bound(channel, x, "b")
    put(channel, "a", b"1", exchange=x)
    assert (drained(channel, a), drained(channel, b)) == ([b"1"], [])


def test_a_fanout_exchange_copies_to_every_queue(channel, name):
    x = exchange(channel, name, "fanout")
    a, b = bound(channel, x), bound(channel, x)
    put(channel, "whatever", b"1", exchange=x)
    assert (drained(channel, a), drained(channel, b)) == ([b"1"], [b"1"])


@pytest.mark.parametrize("pattern, key, matches", [
    ("a.*", "a.b", True), ("a.*", "a", False), ("a.*", "a.b.c", False), ("a.#", "a", True),
    ("a.#", "a.b.c", True), ("#", "", True), ("#.c", "a.b.c", True), ("*.#", "", False), ("*.b", "a..b", False),
    ("a.#.c", "a.c", True), ("*", "a", True),
])
def test_a_topic_exchange_matches_words(channel, name, pattern, key, matches):
    x = exchange(channel, name, "topic")
    q = bound(channel, x, pattern)
    put(channel, key, b"1", exchange=x)
    assert drained(channel, q) == ([b"1"] if matches else [])


@pytest.mark.parametrize("how, headers, matches", [
    ("all", {"a": 1, "b": "x"}, True), ("all", {"a": 1}, False), ("any", {"a": 1}, True), ("any", {"a": 2}, False),
])
def test_a_headers_exchange_compares_headers(channel, name, how, headers, matches):
    x = exchange(channel, name, "headers")
    q = bound(channel, x, "", {"x-match": how, "a": 1, "b": "x"})
    put(channel, "", b"1", exchange=x, headers=headers)
    assert drained(channel, q) == ([b"1"] if matches else [])


def test_an_exchange_bound_to_an_exchange_passes_messages_on(channel, name):
    first, second = exchange(channel, name, "fanout"), exchange(channel, name + "-2", "direct")
    channel.exchange_bind(second, first)
    q = bound(channel, second, "k")
    put(channel, "k", b"1", exchange=first)
    assert drained(channel, q) == [b"1"]


def test_an_alternate_exchange_takes_what_nothing_else_took(channel, name):
    other = exchange(channel, name + "-ae", "fanout")
    x = exchange(channel, name, "direct", arguments={"alternate-exchange": other})
    plain, rest = bound(channel, x, "k"), bound(channel, other)
    put(channel, "k", b"1", exchange=x)
    put(channel, "nope", b"2", exchange=x)
    assert (drained(channel, plain), drained(channel, rest)) == ([b"1"], [b"2"])


def test_an_internal_exchange_refuses_publishers(connection, channel, name):
    channel.exchange_declare(name, "fanout", internal=True)
    ch = connection.channel()
    ch.confirm_delivery()
    error = channel_error(lambda: ch.basic_publish(name, "", b""))
    assert error == (403, f"ACCESS_REFUSED - cannot publish to internal exchange '{name}' in vhost '/'")
    channel.exchange_delete(name)


def test_cc_and_bcc_route_too_and_only_cc_stays_in_sight(channel, name):
    queues = [name + s for s in ("", "-cc", "-bcc")]
    for q in queues:
        channel.queue_declare(q, exclusive=True)
    put(channel, queues[0], b"1", headers={"CC": [queues[1]], "BCC": [queues[2]]})
    for q in queues:
        _, properties, body = take(channel, q, auto_ack=True)
        assert body == b"1" and properties.headers == {"CC": [queues[1]]}


def test_declaring_a_queue_again_answers_with_its_counts(channel, queue):
    put(channel, queue, b"1", b"2")
    answer = channel.queue_declare(queue, durable=True).method
    assert (answer.queue, answer.message_count, answer.consumer_count) == (queue, 2, 0)


def test_declaring_a_queue_differently_is_406(connection, queue):
    error = channel_error(lambda: connection.channel().queue_declare(queue, durable=False, exclusive=False))
    assert error == (406, f"PRECONDITION_FAILED - inequivalent arg 'durable' for queue '{queue}' in vhost '/': "
                          "received 'false' but current is 'true'")


def test_declaring_a_queue_with_another_argument_is_406(connection, queue):
    error = channel_error(lambda: connection.channel().queue_declare(queue, durable=True, arguments={"x-max-length": 1}))
    assert error[0] == 406
    assert f"inequivalent arg 'x-max-length' for queue '{queue}' in vhost '/': received " in error[1]
    assert error[1].endswith("but current is none")


def test_a_senseless_argument_is_406(connection, name):
    error = channel_error(lambda: connection.channel().queue_declare(name, durable=True, arguments={"x-message-ttl": -1}))
    assert error[0] == 406 and f"invalid arg 'x-message-ttl' for queue '{name}' in vhost '/'" in error[1]


def test_an_exclusive_queue_is_405_to_another_connection(channel, other, name):
    channel.queue_declare(name, exclusive=True)
    code, text = channel_error(lambda: other.channel().queue_declare(name, passive=True))
    assert code == 405
    assert text.startswith(f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'")


def test_an_exclusive_queue_goes_with_its_connection(other, name):
    c = connect()
    c.channel().queue_declare(name, exclusive=True)
    c.close()
    assert channel_error(lambda: other.channel().queue_declare(name, passive=True))[0] == 404


def test_an_auto_delete_queue_goes_with_its_last_consumer(connection, channel, name):
    channel.queue_declare(name, durable=True, auto_delete=True)
    channel.basic_cancel(channel.basic_consume(name, lambda *_: None))
    assert channel_error(lambda: connection.channel().queue_declare(name, passive=True))[0] == 404


def test_a_server_named_queue_starts_with_amq_gen(channel):
    assert channel.queue_declare("", exclusive=True).method.queue.startswith("amq.gen-")


def test_the_empty_name_means_the_channels_last_declared_queue(channel):
    q = channel.queue_declare("", exclusive=True).method.queue
    put(channel, q, b"1")
    assert channel.basic_get("", auto_ack=True)[2] == b"1"


def test_the_empty_name_without_a_declared_queue_is_404(channel):
    assert channel_error(lambda: channel.basic_get("")) == (404, "NOT_FOUND - no previously declared queue")


def test_reserved_names_are_refused(connection, name):
    error = channel_error(lambda: connection.channel().queue_declare("amq." + name, durable=True))
    assert error == (403, f"ACCESS_REFUSED - queue name 'amq.{name}' contains reserved prefix 'amq.*'")


def test_a_queue_that_is_not_empty_is_kept_by_if_empty(channel, queue):
    put(channel, queue, b"1")
    error = channel_error(lambda: channel.queue_delete(queue, if_empty=True))
    assert error == (406, f"PRECONDITION_FAILED - queue '{queue}' in vhost '/' not empty")


def test_names_may_be_unicode(channel, name):
    q = name + "-очередь-🐇"
    assert channel.queue_declare(q, exclusive=True).method.queue == q
    put(channel, q, "тело".encode())
    assert take(channel, q, auto_ack=True)[2] == "тело".encode()


def test_purge_counts_what_it_removes(channel, queue):
    put(channel, queue, b"1", b"2", b"3")
    assert channel.queue_purge(queue).method.message_count == 3
    assert drained(channel, queue) == []


def test_an_unbound_queue_gets_nothing_more(channel, name):
    x = exchange(channel, name, "direct")
    channel.queue_bind((keep := bound(channel, x, "other")), x, "keep")
    q = bound(channel, x, "k")
    channel.queue_unbind(q, x, "k")
    put(channel, "k", b"1", exchange=x)
    assert drained(channel, q) == [] and drained(channel, keep) == []
