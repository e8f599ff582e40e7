"""Expiry, limits, dead letters, priorities, single active consumers, retries."""
import pytest

from conftest import channel_error, collect, connect, drained, ours_only, put, take, until


@pytest.fixture
def make(connection, name):
    made = []
    def declare(suffix="", **arguments):
        q = name + suffix
        arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
        connection.channel().queue_declare(q, durable=True, arguments=arguments)
        made.append(q)
        return q
    yield declare
    c = connect()
    for q in made:
        c.channel().queue_delete(q)
    c.close()


def dead(make, **arguments):
    """A queue whose dead letters go to a second one; returns both."""
    target = make("-dead")
    return make("", x_dead_letter_exchange="", x_dead_letter_routing_key=target, **arguments), target


def test_a_queues_ttl_expires_messages_into_the_dead_letter_queue(channel, make):
    q, target = dead(make, x_message_ttl=50)
    put(channel, q, b"1")
    _, properties, body = take(channel, target, auto_ack=True)
    assert body == b"1"
    [death] = properties.headers["x-death"]
    assert death.pop("time") is not None
    assert death == {"count": 1, "reason": "expired", "queue": q, "exchange": "", "routing-keys": [q]}
    assert properties.headers["x-first-death-reason"] == "expired"
    assert properties.headers["x-first-death-queue"] == q
    assert properties.headers["x-first-death-exchange"] == ""


def test_a_messages_own_expiration_is_removed_and_remembered(channel, make):
    q, target = dead(make)
    put(channel, q, b"1", expiration="50")
    _, properties, _ = take(channel, target, auto_ack=True)
    assert properties.expiration is None
    assert properties.headers["x-death"][0]["original-expiration"] == "50"


def test_a_rejected_message_is_dead_lettered_and_counted_each_time(channel, make):
    q, target = dead(make)
    put(channel, q, b"1")
    channel.basic_reject(take(channel, q)[0].delivery_tag, requeue=False)
    _, properties, _ = take(channel, target, auto_ack=True)
    [death] = properties.headers["x-death"]
    assert (death["reason"], death["queue"], death["count"]) == ("rejected", q, 1)


def test_a_retry_loop_counts_in_one_entry_per_queue_and_reason(channel, make, name):
    wait = make("-wait", x_message_ttl=20, x_dead_letter_exchange="", x_dead_letter_routing_key=name)
    q = make("", x_dead_letter_exchange="", x_dead_letter_routing_key=wait)
    put(channel, q, b"1")
    for _ in range(2):
        channel.basic_reject(take(channel, q)[0].delivery_tag, requeue=False)
    deaths = take(channel, q, auto_ack=True)[1].headers["x-death"]
    assert [(d["queue"], d["reason"], d["count"]) for d in deaths] == [(wait, "expired", 2), (q, "rejected", 2)]


def test_a_pure_expiry_cycle_drops_the_message(channel, make, name):
    q = make("", x_message_ttl=20, x_dead_letter_exchange="", x_dead_letter_routing_key=name)
    put(channel, q, b"1")
    until(channel.connection, lambda: channel.queue_declare(q, passive=True).method.message_count == 0)


def test_an_unused_queue_expires(connection, make):
    q = make("", x_expires=50)
    def gone():
        other = connect()
        try:
            other.channel().queue_declare(q, passive=True)
            return False
        except Exception as error:
            return getattr(error, "reply_code", 0) == 404
        finally:
            other.close()
    # Asking renews the queue's life, so the next question comes well after it.
    connection.process_data_events(0.5)
    assert gone()


def test_a_full_queue_drops_its_head_into_the_dead_letter_queue(channel, make):
    q, target = dead(make, x_max_length=2)
    put(channel, q, b"1", b"2", b"3")
    _, properties, body = take(channel, target, auto_ack=True)
    assert (body, properties.headers["x-death"][0]["reason"]) == (b"1", "maxlen")
    assert drained(channel, q) == [b"2", b"3"]


def test_a_length_limit_in_bytes_counts_bodies(channel, make):
    q = make("", x_max_length_bytes=10)
    put(channel, q, b"aaaaa", b"bbbbb", b"c")
    assert drained(channel, q) == [b"bbbbb", b"c"]


def test_higher_priorities_go_first(channel, make):
    q = make("", x_max_priority=5)
    for priority in (1, 5, 3, 9):
        put(channel, q, str(priority).encode(), priority=priority)
    put(channel, q, b"none")
    assert drained(channel, q) == [b"5", b"9", b"3", b"1", b"none"]


def test_only_the_single_active_consumer_is_served_until_it_goes(connection, channel, make):
    q = make("", x_single_active_consumer=True)
    first, second = [], []
    tag = collect(channel, q, first, auto_ack=True)
    collect(channel, q, second, auto_ack=True)
    put(channel, q, b"1", b"2")
    until(connection, lambda: len(first) == 2)
    channel.basic_cancel(tag)
    put(channel, q, b"3")
    until(connection, lambda: len(second) == 1)
    assert [m[2] for m in first + second] == [b"1", b"2", b"3"]


def test_the_consumer_with_the_higher_priority_is_served_first(connection, channel, make):
    q = make()
    low, high = [], []
    collect(channel, q, low, auto_ack=True)
    collect(channel, q, high, auto_ack=True, arguments={"x-priority": 10})
    put(channel, q, b"1", b"2")
    until(connection, lambda: len(high) == 2)
    assert low == []


def test_an_exclusive_consumer_keeps_others_out_with_403(channel, other, make):
    q = make()
    channel.basic_consume(q, lambda *_: None, exclusive=True)
    error = channel_error(lambda: other.channel().basic_consume(q, lambda *_: None))
    assert error == (403, f"ACCESS_REFUSED - queue '{q}' in vhost '/' in exclusive use")


def test_a_message_over_the_delivery_limit_is_dead_lettered(channel, make):
    q, target = dead(make, x_queue_type="quorum", x_delivery_limit=2)
    put(channel, q, b"1")
    counts = []
    for _ in range(3):
        method, properties, _ = take(channel, q)
        counts.append((properties.headers or {}).get("x-delivery-count", 0))
        channel.basic_reject(method.delivery_tag, requeue=True)
    assert counts == [0, 1, 2]
    _, properties, _ = take(channel, target, auto_ack=True)
    assert properties.headers["x-death"][0]["reason"] == "delivery_limit"


def died(channel, queue):
    """Rejects the one message of a queue."""
    channel.basic_reject(take(channel, queue)[0].delivery_tag, requeue=False)


def test_a_dead_letter_goes_by_all_keys_of_its_message_and_none_of_bcc_shows(channel, make, name):
    targets = [make(suffix) for suffix in ("-key", "-cc", "-bcc")]
    channel.exchange_declare(name, "direct", auto_delete=True)
    for target, key in zip(targets, (name, "cc", "bcc")):
        channel.queue_bind(target, name, key)
    again = make("-again", x_dead_letter_exchange=name)
    q = make("", x_dead_letter_exchange="amq.fanout")
    channel.queue_bind(again, "amq.fanout")
    put(channel, q, b"1", headers={"CC": ["cc"], "BCC": ["bcc"]})
    # Also when it dies a second time.
    died(channel, q), died(channel, again)
    for target in targets:
        _, properties, body = take(channel, target, auto_ack=True)
        assert (body, properties.headers["CC"], "BCC" in properties.headers) == (b"1", ["cc"], False)
        assert [death["routing-keys"] for death in properties.headers["x-death"]] == [[name, "cc"]] * 2


def test_a_queues_own_dead_letter_key_takes_the_place_of_all_keys_for_good(channel, make, name):
    targets = [make(suffix) for suffix in ("-dlk", "-cc", "-bcc")]
    channel.exchange_declare(name, "direct", auto_delete=True)
    for target, key in zip(targets, ("dlk", "cc", "bcc")):
        channel.queue_bind(target, name, key)
    again = make("-again", x_dead_letter_exchange=name)
    channel.queue_bind(again, "amq.direct", "dlk")
    q = make("", x_dead_letter_exchange="amq.direct", x_dead_letter_routing_key="dlk")
    put(channel, q, b"1", headers={"CC": ["cc"], "BCC": ["bcc"]})
    died(channel, q), died(channel, again)
    _, properties, _ = take(channel, targets[0], auto_ack=True)
    assert properties.headers["CC"] == ["cc"]
    assert [death["routing-keys"] for death in properties.headers["x-death"]] == [["dlk"], [q, "cc"]]
    assert [drained(channel, target) for target in targets] == [[], [], []]
