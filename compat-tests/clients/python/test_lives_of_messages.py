"""Rows of the behaviour reference about what becomes of a message in its queue: expiry, limits, dead letters, priorities, returns."""
import time

import pytest
from pika import spec
from pika.exceptions import NackError

import management
from conftest import channel_error, collect, drained, ours_only, put, take, until
from test_queue_arguments import died, make  # noqa: F401 (a fixture)
from wire import Wire, method

KINDS = pytest.mark.parametrize("kind", ["classic", "quorum"])
pytestmark = ours_only


def exists(queue):
    """Whether a queue is there. To be asked in this way does not renew its life."""
    return management.call("GET", f"queues/%2F/{queue}").status == 200


def count(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


@pytest.fixture
def policy(name):
    """Sets a policy for the queue of the test's name, which knows of it a moment later."""
    def put_policy(**definition):
        definition = {key.replace("_", "-"): value for key, value in definition.items()}
        management.done("PUT", f"policies/%2F/{name}", body={"pattern": f"^{name}$", "definition": definition})
    yield put_policy
    management.call("DELETE", f"policies/%2F/{name}")


# 12.1

@KINDS
def test_a_consumer_keeps_an_unused_queue_and_nothing_in_it_is_dead_lettered(channel, make, kind):  # noqa: F811
    dead = make("-dead")
    q = make("", x_queue_type=kind, x_expires=1500, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    put(channel, q, b"1")
    keeper = channel.basic_consume(q, lambda *_: None)
    time.sleep(2.2)
    assert exists(q)
    channel.basic_cancel(keeper)
    management.eventually(lambda: not exists(q))
    assert drained(channel, dead) == []


@KINDS
def test_asking_for_a_message_renews_a_queues_life_and_publishing_does_not(channel, make, kind):  # noqa: F811
    asked, fed = (make(suffix, x_queue_type=kind, x_expires=2000) for suffix in ("-asked", "-fed"))
    for _ in range(4):
        time.sleep(0.7)
        channel.basic_get(asked, auto_ack=True)
        channel.basic_publish("", fed, b"x")
    assert exists(asked)
    management.eventually(lambda: not exists(fed))


# 12.2

@KINDS
def test_an_expired_message_behind_a_live_one_waits_and_counts(channel, make, kind):  # noqa: F811
    dead = make("-dead")
    q = make("", x_queue_type=kind, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    put(channel, q, b"live")
    put(channel, q, b"short", expiration="30")
    time.sleep(0.15)
    assert (count(channel, q), drained(channel, dead)) == (2, [])
    assert drained(channel, q) == [b"live"]
    assert take(channel, dead, auto_ack=True)[2] == b"short"


@KINDS
def test_the_shorter_of_queues_and_messages_time_counts_and_a_return_does_not_renew_it(channel, make, kind):  # noqa: F811
    dead = make("-dead")
    q = make("", x_queue_type=kind, x_message_ttl=60_000, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    put(channel, q, b"message", expiration="100")
    tag = take(channel, q)[0].delivery_tag
    time.sleep(0.2)
    # While it is held it does not expire.
    assert drained(channel, dead) == []
    channel.basic_nack(tag, requeue=True)
    assert take(channel, dead, auto_ack=True)[2] == b"message"
    short = make("-short", x_queue_type=kind, x_message_ttl=30, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    put(channel, short, b"queue", expiration="60000")
    assert take(channel, dead, auto_ack=True)[2] == b"queue"


def test_a_time_set_later_by_policy_is_for_what_comes_later(channel, make, policy):  # noqa: F811
    q = make()
    put(channel, q, b"before")
    policy(message_ttl=30, max_length=1, overflow="reject-publish")

    def acts():
        try:
            put(channel, q, b"before")
        except NackError:
            return True
    until(channel.connection, acts)
    held = [take(channel, q) for _ in range(count(channel, q))]
    put(channel, q, b"after")
    until(channel.connection, lambda: count(channel, q) == 0)
    channel.basic_nack(0, multiple=True, requeue=True)
    assert drained(channel, q) == [b"before"] * len(held)


# 12.3

@KINDS
def test_a_length_limit_counts_what_is_ready_and_drops_as_much_as_it_must(channel, make, kind):  # noqa: F811
    q = make("", x_queue_type=kind, x_max_length=2)
    put(channel, q, b"1", b"2")
    tag = take(channel, q)[0].delivery_tag
    put(channel, q, b"3")
    assert count(channel, q) == 2
    channel.basic_nack(tag, requeue=True)
    until(channel.connection, lambda: count(channel, q) == 2)
    assert drained(channel, q) == [b"2", b"3"]
    wide = make("-bytes", x_queue_type=kind, x_max_length_bytes=10)
    put(channel, wide, b"aaa", b"bbb", b"ccc", b"dddddddd")
    assert drained(channel, wide) == [b"dddddddd"]
    put(channel, wide, b"x" * 11)
    assert drained(channel, wide) == []


@KINDS
def test_a_limit_of_nothing_lets_through_what_is_taken_at_once(connection, channel, make, kind):  # noqa: F811
    q = make("", x_queue_type=kind, x_max_length=0)
    put(channel, q, b"1")
    assert drained(channel, q) == []
    got = []
    collect(channel, q, got, auto_ack=True)
    put(channel, q, b"2")
    until(connection, lambda: got)
    assert [body for _, _, body, _ in got] == [b"2"]


@KINDS
def test_the_lower_limit_of_argument_and_policy_counts(channel, make, policy, kind):  # noqa: F811
    q = make("", x_queue_type=kind, x_max_length=5)
    policy(max_length=2)

    def left():
        put(channel, q, *[b"%d" % n for n in range(7)])
        return drained(channel, q)
    until(channel.connection, lambda: left() == [b"5", b"6"])


def test_a_quorum_queue_drops_its_head_where_a_classic_one_would_refuse_into_dead_letters(channel, make):  # noqa: F811
    dead = make("-dead")
    q = make("", x_queue_type="quorum", x_max_length=1, x_overflow="reject-publish-dlx", x_dead_letter_exchange="",
             x_dead_letter_routing_key=dead)
    put(channel, q, b"1", b"2")
    assert (drained(channel, q), take(channel, dead, auto_ack=True)[2]) == ([b"2"], b"1")


# 12.4

@KINDS
def test_what_goes_with_its_queue_or_by_a_purge_is_no_dead_letter(channel, make, kind):  # noqa: F811
    dead = make("-dead")
    q = make("", x_queue_type=kind, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    put(channel, q, b"1")
    channel.queue_purge(q)
    put(channel, q, b"2")
    channel.queue_delete(q)
    assert drained(channel, dead) == []


@KINDS
def test_without_its_exchange_a_dead_letter_is_dropped(channel, make, kind):  # noqa: F811
    q = make("", x_queue_type=kind, x_dead_letter_exchange="no such exchange")
    put(channel, q, b"1")
    died(channel, q)
    until(channel.connection, lambda: count(channel, q) == 0)
    put(channel, q, b"2")
    assert drained(channel, q) == [b"2"]


@KINDS
def test_properties_of_a_dead_letter_stay_but_its_expiration(channel, make, kind):  # noqa: F811
    dead = make("-dead")
    q = make("", x_queue_type=kind, x_dead_letter_exchange="", x_dead_letter_routing_key=dead)
    given = dict(content_type="t", correlation_id="c", delivery_mode=2, priority=3, user_id="guest")
    put(channel, q, b"1", expiration="60000", headers={"a": 1, "x-last-death-queue": "mine", "x-death": "mine"}, **given)
    died(channel, q)
    _, properties, _ = take(channel, dead, auto_ack=True)
    assert {key: getattr(properties, key) for key in given} == given
    assert (properties.expiration, properties.headers["a"], properties.headers["x-last-death-queue"]) == (None, 1, q)
    [death] = properties.headers["x-death"]
    assert (death["original-expiration"], death["count"]) == ("60000", 1)


def test_a_queue_may_be_its_own_dead_letter_target_for_what_is_rejected(channel, make, name):  # noqa: F811
    q = make("", x_dead_letter_exchange="", x_dead_letter_routing_key=name)
    put(channel, q, b"1")
    for times in (1, 2):
        died(channel, q)
    assert take(channel, q)[1].headers["x-death"][0]["count"] == times


# 12.5

def test_a_full_queue_with_priorities_drops_the_first_of_the_highest(channel, make):  # noqa: F811
    q = make("", x_max_priority=3, x_max_length=2)
    for priority, body in ((0, b"low"), (3, b"high"), (0, b"later")):
        put(channel, q, body, priority=priority)
    assert drained(channel, q) == [b"low", b"later"]


@pytest.mark.parametrize("arguments", [{"x_max_priority": 3}, {"x_queue_type": "quorum"}], ids=["classic", "quorum"])
def test_messages_expire_at_the_head_of_every_level(channel, make, arguments):  # noqa: F811
    q = make("", **arguments)
    put(channel, q, b"live", priority=3)
    put(channel, q, b"short", priority=1, expiration="30")
    until(channel.connection, lambda: count(channel, q) == 1)
    assert drained(channel, q) == [b"live"]


def test_a_return_keeps_level_and_place_and_without_levels_priority_is_carried_only(channel, make):  # noqa: F811
    q = make("", x_max_priority=3)
    for number, priority in enumerate((1, 1, 3, 3)):
        put(channel, q, b"%d" % number, priority=priority)
    tags = [take(channel, q)[0].delivery_tag for _ in range(3)]
    for tag in reversed(tags):
        channel.basic_nack(tag, requeue=True)
    assert drained(channel, q) == [b"2", b"3", b"0", b"1"]
    plain = make("-plain")
    put(channel, plain, b"1", priority=0)
    put(channel, plain, b"2", priority=9)
    got = [take(channel, plain, auto_ack=True) for _ in range(2)]
    assert [(body, properties.priority) for _, properties, body in got] == [(b"1", 0), (b"2", 9)]
    one = make("-one", x_max_priority=0)
    put(channel, one, b"1", priority=0)
    put(channel, one, b"2", priority=9)
    assert drained(channel, one) == [b"2", b"1"]


# 12.6, 12.7

@KINDS
def test_consumers_of_one_priority_take_turns_and_a_lower_one_gets_what_they_cannot_take(connection, channel, make, kind):  # noqa: F811
    q = make("", x_queue_type=kind)
    low, first, second = [], [], []
    channel.basic_qos(prefetch_count=2)
    for got, priority in ((low, -3), (first, 5), (second, 5)):
        collect(channel, q, got, arguments={"x-priority": priority})
    put(channel, q, *[b"%d" % n for n in range(6)])
    until(connection, lambda: len(low) == 2)
    assert [[body for _, _, body, _ in got] for got in (first, second, low)] == [[b"0", b"2"], [b"1", b"3"], [b"4", b"5"]]


@KINDS
def test_what_the_last_active_consumer_holds_stays_with_it(channel, make, kind):  # noqa: F811
    q = make("", x_queue_type=kind, x_single_active_consumer=True)
    with Wire().open() as first, Wire().open() as next_one:
        for wire, no_ack in ((first, False), (next_one, True)):
            wire.channel()
            wire.send(method(1, spec.Basic.Consume(queue=q, consumer_tag="c", no_ack=no_ack)))
            wire.expect(spec.Basic.ConsumeOk)
        assert channel.queue_declare(q, passive=True).method.consumer_count == 2
        put(channel, q, b"1", b"2")
        for _ in range(2):
            first.expect(spec.Basic.Deliver)
        first.send(method(1, spec.Basic.Cancel(consumer_tag="c")))
        first.expect(spec.Basic.CancelOk)
        put(channel, q, b"3")
        assert not next_one.expect(spec.Basic.Deliver).redelivered
        first.send(method(1, spec.Basic.Ack(1)), method(1, spec.Channel.Close(0, "", 0, 0)))
        assert next_one.expect(spec.Basic.Deliver).redelivered
        first.expect(spec.Channel.CloseOk)
    assert count(channel, q) == 0


def test_an_exclusive_consumer_of_a_queue_with_a_single_active_one_is_403_and_get_is_allowed(channel, make):  # noqa: F811
    q = make("", x_single_active_consumer=True)
    put(channel, q, b"1")
    assert channel.basic_get(q, auto_ack=True)[2] == b"1"
    error = channel_error(lambda: channel.basic_consume(q, lambda *_: None, exclusive=True))
    assert error == (403, f"ACCESS_REFUSED - queue '{q}' in vhost '/' in exclusive use")


# 12.8

def deliveries(channel, queue, most=30):
    """How often a message is given before it is gone, when it is rejected each time."""
    for number in range(most):
        frame = channel.basic_get(queue)[0]
        if not frame:
            return number
        channel.basic_reject(frame.delivery_tag, requeue=True)
    return most


@pytest.mark.parametrize("arguments, times", [
    ({}, 21), ({"x_delivery_limit": -1}, 30), ({"x_delivery_limit": 0}, 1), ({"x_delivery_limit": "a"}, 21),
])
def test_a_quorum_queue_gives_a_message_once_more_than_its_limit(channel, make, arguments, times):  # noqa: F811
    q = make("", x_queue_type="quorum", **arguments)
    put(channel, q, b"1")
    assert deliveries(channel, q) == times


@pytest.mark.parametrize("declared, set_to, times", [(5, 1, 2), (-1, 1, 2), (1, -1, 2)])
def test_of_two_delivery_limits_the_lower_counts_unless_one_is_none(channel, make, policy, declared, set_to, times):  # noqa: F811
    q = make("", x_queue_type="quorum", x_delivery_limit=declared)
    policy(delivery_limit=set_to)

    def given():
        put(channel, q, b"1")
        times = deliveries(channel, q)
        channel.queue_purge(q)
        return times
    until(channel.connection, lambda: given() == times)


# 12.9

def test_a_message_that_waits_for_its_retry_is_not_ready_and_takes_its_place(channel, make):  # noqa: F811
    q = make("", x_queue_type="quorum", x_delayed_retry_type="all", x_delayed_retry_min=300, x_max_length=1, x_overflow="reject-publish")
    put(channel, q, b"1")
    channel.basic_nack(take(channel, q)[0].delivery_tag, requeue=True)
    assert count(channel, q) == 0
    with pytest.raises(NackError):
        put(channel, q, b"2")
    assert take(channel, q)[2] == b"1"


def test_without_a_least_delay_there_is_none_and_the_most_is_the_least_unless_it_is_given(channel, make):  # noqa: F811
    at_once = make("-at-once", x_queue_type="quorum", x_delayed_retry_type="all", x_delayed_retry_max=60_000)
    put(channel, at_once, b"1")
    channel.basic_nack(take(channel, at_once)[0].delivery_tag, requeue=True)
    assert take(channel, at_once, deadline=5)[2] == b"1"
    even = make("", x_queue_type="quorum", x_delayed_retry_type="failed", x_delayed_retry_min=150)
    put(channel, even, b"1")
    for _ in range(3):
        tag = take(channel, even)[0].delivery_tag
        start = time.monotonic()
        channel.basic_reject(tag, requeue=True)
        take(channel, even)
        assert 0.15 <= time.monotonic() - start < 0.3 + 2
        channel.basic_nack(0, multiple=True, requeue=True)


# 12.10

def test_a_consumer_without_acknowledgements_is_never_too_slow(channel, make):  # noqa: F811
    q = make("", x_queue_type="quorum", x_consumer_timeout=100)
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Basic.Consume(queue=q, consumer_tag="c", no_ack=True)))
        put(channel, q, b"1")
        wire.expect(spec.Basic.Deliver)
        time.sleep(0.4)
        put(channel, q, b"2")
        wire.expect(spec.Basic.Deliver)


# 17.7, 17.8

@KINDS
def test_what_a_lost_connection_held_comes_back_redelivered(channel, make, kind):  # noqa: F811
    q = make("", x_queue_type=kind)
    put(channel, q, b"1")
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Basic.Get(queue=q)))
        assert not wire.expect(spec.Basic.GetOk).redelivered
    assert take(channel, q)[0].redelivered
