"""Quorum queues: what they refuse, how returns are counted, delayed and timed out, and dead letters that are retained."""
import time

import pika
import pytest
from pika import spec

import management
from conftest import channel_error, collect, connect, connection_error, drained, ours_only, put, take, until
from test_queue_arguments import make  # noqa: F401 (a fixture)
from wire import Wire, method, publish

pytestmark = ours_only


@pytest.fixture
def quorum(make):
    return lambda suffix="", **arguments: make(suffix, x_queue_type="quorum", **arguments)


@pytest.mark.parametrize("flags, text", [
    ({"durable": False}, "invalid property 'non-durable' for queue '{q}' in vhost '/'"),
    ({"durable": True, "auto_delete": True}, "invalid property 'auto-delete' for queue '{q}' in vhost '/'"),
    ({"durable": True, "exclusive": True}, "invalid property 'exclusive-owner' for queue '{q}' in vhost '/'"),
    ({"durable": True, "queue": ""}, "Cannot declare a server-named queue for type rabbit_quorum_queue"),
    ({"durable": True, "arguments": {"x-max-priority": 3}},
     "invalid arg 'x-max-priority' for queue '{q}' in vhost '/' of queue type rabbit_quorum_queue"),
])
def test_what_a_quorum_queue_cannot_be_is_406(channel, name, flags, text):
    flags = {"queue": name, **flags}
    flags["arguments"] = {"x-queue-type": "quorum", **flags.get("arguments", {})}
    assert channel_error(lambda: channel.queue_declare(**flags)) == (406, "PRECONDITION_FAILED - " + text.format(q=name))


@pytest.mark.parametrize("flag", ["if_unused", "if_empty"])
def test_a_conditional_delete_of_a_quorum_queue_closes_the_connection_with_540(other, quorum, flag):
    q = quorum()
    error = connection_error(lambda: other.channel().queue_delete(q, **{flag: True}))
    assert error == (540, f"NOT_IMPLEMENTED - cannot delete queue '{q}' in vhost '/'. queue.delete operations with "
                          f"{flag.replace('_', '-')} flag set are not supported by quorum queues")


def test_get_from_a_quorum_queue_with_a_single_active_consumer_is_405(channel, quorum):
    q = quorum(x_single_active_consumer=True)
    assert channel_error(lambda: channel.basic_get(q))[0] == 405


def test_a_channel_with_a_global_prefetch_cannot_consume_from_a_quorum_queue(other, quorum):
    q, channel = quorum(), other.channel()
    channel.basic_qos(prefetch_count=1, global_qos=True)
    error = connection_error(lambda: channel.basic_consume(q, lambda *_: None))
    assert error == (540, f"NOT_IMPLEMENTED - queue '{q}' in vhost '/' does not support global qos")


def test_an_exclusive_consumer_of_a_quorum_queue_is_like_any_other(channel, other, quorum):
    q = quorum()
    channel.basic_consume(q, lambda *_: None, exclusive=True)
    other.channel().basic_consume(q, lambda *_: None, exclusive=True)


def test_priorities_of_a_quorum_queue_are_always_on_and_4_is_the_middle(channel, quorum):
    q = quorum()
    for priority in (0, 3, 5, 31, 40):
        put(channel, q, str(priority).encode(), priority=priority)
    put(channel, q, b"none")
    assert drained(channel, q) == [b"31", b"40", b"5", b"none", b"3", b"0"]


def counted(properties):
    headers = properties.headers or {}
    return headers.get("x-acquired-count"), headers.get("x-delivery-count")


@pytest.mark.parametrize("how, counts", [
    (lambda c, tag: c.basic_nack(tag, requeue=True), (1, None)),
    (lambda c, tag: c.basic_reject(tag, requeue=True), (1, 1)),
    (lambda c, tag: c.basic_recover(True), (1, None)),
    (lambda c, tag: c.close(), (1, 1)),
], ids=["nack", "reject", "recover", "close"])
def test_returns_are_counted_as_acquired_and_some_as_failed(connection, channel, quorum, how, counts):
    q = quorum()
    put(channel, q, b"1")
    taker = connection.channel()
    first, properties, _ = take(taker, q)
    assert (counted(properties), first.redelivered) == ((None, None), False)
    how(taker, first.delivery_tag)
    again, properties, _ = take(channel, q)
    assert (counted(properties), again.redelivered) == (counts, True)


def test_a_classic_queue_does_not_count(channel, queue):
    put(channel, queue, b"1")
    channel.basic_reject(take(channel, queue)[0].delivery_tag, requeue=True)
    assert counted(take(channel, queue)[1]) == (None, None)


@pytest.mark.parametrize("kind, how, waits", [
    ("all", "nack", True), ("all", "reject", True), ("failed", "nack", False), ("failed", "reject", True),
    ("returned", "nack", True), ("returned", "reject", False), ("disabled", "reject", False),
])
def test_a_returned_message_waits_as_the_queue_says(channel, quorum, kind, how, waits):
    q = quorum(x_delayed_retry_type=kind, x_delayed_retry_min=300, x_delayed_retry_max=400)
    put(channel, q, b"1")
    tag = take(channel, q)[0].delivery_tag
    start = time.monotonic()
    getattr(channel, "basic_" + how)(tag, requeue=True)
    waited = channel.basic_get(q)[0] is None
    assert waited == waits
    if waits:
        assert channel.queue_declare(q, passive=True).method.message_count == 0
        take(channel, q)
        assert 0.3 <= time.monotonic() - start < 5


def test_failures_wait_longer_each_time_up_to_the_most(channel, quorum):
    q = quorum(x_delayed_retry_type="failed", x_delayed_retry_min=100, x_delayed_retry_max=200)
    put(channel, q, b"1")
    spans = []
    for _ in range(3):
        tag = take(channel, q)[0].delivery_tag
        start = time.monotonic()
        channel.basic_reject(tag, requeue=True)
        take(channel, q, auto_ack=False)
        spans.append(time.monotonic() - start)
        channel.basic_recover(True)
    assert spans[0] >= 0.1 and min(spans[1:]) >= 0.2


TIMED_OUT = ("PRECONDITION_FAILED - delivery acknowledgement on channel 1 timed out. Timeout value used: {ms} ms. This timeout "
             "value can be configured, see consumers doc guide to learn more")


def slow(wire, q, arguments=None):
    """A consumer that has one message and says nothing."""
    wire.channel()
    wire.send(method(1, spec.Basic.Consume(queue=q, consumer_tag="slow", arguments=arguments)), publish(1, "", q, b"1"))
    assert not wire.expect(spec.Basic.Deliver).redelivered


@pytest.mark.parametrize("arguments, consumer", [
    ({"x_consumer_timeout": 200}, {}), ({}, {"x-consumer-timeout": 200}), ({"x_consumer_timeout": 90_000}, {"x-consumer-timeout": 200}),
])
def test_a_consumer_over_its_timeout_is_cancelled_and_its_message_comes_back(channel, quorum, arguments, consumer):
    q = quorum(**arguments)
    with Wire().open() as wire:
        slow(wire, q, consumer)
        assert wire.expect(spec.Basic.Cancel).consumer_tag == "slow"
        again, properties, _ = take(channel, q)
        assert (again.redelivered, counted(properties)) == (True, (1, None))
        # The channel lives, and a late settle is harmless.
        wire.send(method(1, spec.Basic.Ack(1)), method(1, spec.Queue.Declare(queue=q, passive=True)))
        assert wire.expect(spec.Queue.DeclareOk).consumer_count == 0


def test_a_consumer_that_cannot_be_cancelled_loses_its_channel(channel, quorum):
    q = quorum(x_consumer_timeout=200)
    with Wire(capable=False).open() as wire:
        slow(wire, q)
        assert wire.error() == ("channel", 406, TIMED_OUT.format(ms=200), (0, 0))
    assert take(channel, q)[2] == b"1"


@pytest.mark.parametrize("kind", ["classic", "quorum"])
@pytest.mark.parametrize("arguments, consumer", [
    ({"x_strict_lease": True, "x_consumer_timeout": 200}, {}),
    ({"x_consumer_timeout": 200}, {"x-strict-lease": True}),
])
def test_a_strict_lease_closes_the_channel_in_any_case(channel, make, kind, arguments, consumer):
    q = make(x_queue_type=kind, **arguments)
    with Wire().open() as wire:
        slow(wire, q, consumer)
        assert wire.error() == ("channel", 406, TIMED_OUT.format(ms=200), (0, 0))
    assert take(channel, q)[2] == b"1"


def test_what_basic_get_took_is_timed_out_too(channel, quorum):
    q = quorum(x_consumer_timeout=200)
    put(channel, q, b"1")
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Basic.Get(queue=q)))
        wire.expect(spec.Basic.GetOk)
        assert wire.error() == ("channel", 406, TIMED_OUT.format(ms=200), (0, 0))
    assert take(channel, q)[0].redelivered


def test_a_visibility_timeout_returns_messages_without_a_word(channel, quorum):
    q = quorum(x_visibility_timeout=1000)
    with Wire().open() as wire:
        slow(wire, q)
        assert wire.expect(spec.Basic.Deliver).redelivered
        wire.send(method(1, spec.Basic.Ack(1)), method(1, spec.Basic.Ack(2)), method(1, spec.Channel.Close(0, "", 0, 0)))
        wire.expect(spec.Channel.CloseOk)
    assert drained(channel, q) == []


def test_a_policy_sets_the_consumer_timeout(channel, quorum, name):
    q = quorum()
    management.done("PUT", f"policies/%2F/{name}", 201, body={
        "pattern": f"^{name}$", "apply-to": "quorum_queues", "definition": {"consumer-timeout": 200}})
    try:
        management.eventually(lambda: management.get(f"queues/%2F/{q}").get("policy") == name)
        with Wire().open() as wire:
            slow(wire, q)
            wire.expect(spec.Basic.Cancel)
    finally:
        management.done("DELETE", f"policies/%2F/{name}", 204)


def test_a_higher_priority_becomes_the_single_active_consumer_when_the_other_holds_nothing(connection, channel, quorum):
    q = quorum(x_single_active_consumer=True)
    low, high = [], []
    collect(channel, q, low)
    put(channel, q, b"1")
    until(connection, lambda: len(low) == 1)
    collect(channel, q, high, auto_ack=True, arguments={"x-priority": 5})
    put(channel, q, b"2")
    connection.process_data_events(0.2)
    assert (len(low), high) == (1, [])
    channel.basic_ack(low[0][0])
    until(connection, lambda: len(high) == 1)
    assert (len(low), high[0][2]) == (1, b"2")


def test_a_retained_dead_letter_stays_until_its_target_has_room(channel, make, quorum):
    target = make("-dead", x_max_length=1, x_overflow="reject-publish")
    q = quorum(x_dead_letter_exchange="", x_dead_letter_routing_key=target, x_dead_letter_strategy="at-least-once",
               x_overflow="reject-publish", x_max_length=2)
    put(channel, target, b"full")
    put(channel, q, b"1", b"2")
    for _ in range(2):
        channel.basic_reject(take(channel, q)[0].delivery_tag, requeue=False)
    assert channel.queue_declare(target, passive=True).method.message_count == 1
    # What is retained counts: the queue is full of dead letters.
    with pytest.raises(pika.exceptions.NackError):
        put(channel, q, b"3")
    assert drained(channel, target) == [b"full"]
    bodies = [take(channel, target, deadline=20, auto_ack=True)[2] for _ in range(2)]
    assert sorted(bodies) == [b"1", b"2"]
    put(channel, q, b"3")


def test_a_retained_dead_letter_waits_for_an_exchange_to_come(channel, make, quorum, name):
    q = quorum(x_dead_letter_exchange=name, x_dead_letter_strategy="at-least-once", x_overflow="reject-publish")
    target = make("-dead")
    put(channel, q, b"1")
    channel.basic_reject(take(channel, q)[0].delivery_tag, requeue=False)
    channel.exchange_declare(name, "fanout")
    channel.queue_bind(target, name)
    _, properties, body = take(channel, target, deadline=20, auto_ack=True)
    assert (body, properties.headers["x-death"][0]["reason"]) == (b"1", "rejected")
    channel.exchange_delete(name)


def test_a_vhosts_default_type_is_for_the_queues_that_can_be_of_it(name):
    management.done("PUT", f"vhosts/{name}", 201, body={"default_queue_type": "quorum"})
    c = connect(virtual_host=name)
    try:
        kinds = {}
        for suffix, flags in (("-durable", {"durable": True}), ("-transient", {}), ("-own", {"exclusive": True}),
                              ("-going", {"durable": True, "auto_delete": True})):
            c.channel().queue_declare(name + suffix, **flags)
            kinds[suffix] = management.get(f"queues/{name}/{name}{suffix}")["arguments"]["x-queue-type"]
        assert kinds == {"-durable": "quorum", "-transient": "classic", "-own": "classic", "-going": "classic"}
        # Whether the type is named or not, it is the same queue.
        c.channel().queue_declare(name + "-durable", durable=True, arguments={"x-queue-type": "quorum"})
        error = channel_error(lambda: c.channel().queue_declare(
            name + "-durable", durable=True, arguments={"x-queue-type": "classic"}))
        assert error == (406, f"PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue '{name}-durable' in vhost "
                              f"'{name}': received 'classic' but current is 'quorum'")
    finally:
        c.close()
        management.done("DELETE", f"vhosts/{name}", 204)
