"""Rows of the behaviour reference that one exchange of frames shows: arguments, equivalence, properties, shortcuts, names."""
import pytest
from pika import BasicProperties, spec
from pika.exceptions import NackError

from conftest import channel_error, collect, connect, drained, ours_only, put, take, until
from test_wire import error_of
from wire import Wire, method, publish

DECLARE, BIND, CONSUME, PUBLISH = (50, 10), (50, 20), (60, 20), (60, 40)


def declare(n, kind="classic", **arguments):
    arguments = {key.replace("_", "-"): value for key, value in arguments.items()}
    return spec.Queue.Declare(queue=n, durable=True, arguments={"x-queue-type": kind, **arguments})


# Arguments of a new queue: type, arguments, the key refused, and why.
ARGUMENTS = [
    ("classic", {"x_message_ttl": -1}, "x-message-ttl", "{value_negative,-1}"),
    ("classic", {"x_message_ttl": 315_360_000_001}, "x-message-ttl", "{value_too_large,315360000001}"),
    ("classic", {"x_message_ttl": "10"}, "x-message-ttl", '"expected integer, got longstr"'),
    ("classic", {"x_expires": 0}, "x-expires", "{value_zero,0}"),
    ("classic", {"x_max_length": -3}, "x-max-length", "{value_negative,-3}"),
    ("classic", {"x_max_length_bytes": -3}, "x-max-length-bytes", "{value_negative,-3}"),
    ("classic", {"x_max_priority": 256}, "x-max-priority", "{max_value_exceeded,256}"),
    ("classic", {"x_overflow": "drop-tail"}, "x-overflow", "invalid_overflow"),
    ("classic", {"x_overflow": 3}, "x-overflow", "{unacceptable_type,"),
    ("classic", {"x_dead_letter_routing_key": "k"}, "x-dead-letter-routing-key", "routing_key_but_no_dlx_defined"),
    ("classic", {"x_single_active_consumer": "yes"}, "x-single-active-consumer", "{unacceptable_type,longstr}"),
    ("classic", {"x_queue_leader_locator": "here"}, "x-queue-leader-locator", "invalid_queue_locator_arg"),
    ("quorum", {"x_dead_letter_strategy": "never"}, "x-dead-letter-strategy", "invalid_dlx_strategy"),
    ("quorum", {"x_quorum_initial_group_size": 0}, "x-quorum-initial-group-size", "{value_zero,0}"),
    ("quorum", {"x_consumer_timeout": -1}, "x-consumer-timeout", "{value_negative,-1}"),
    ("quorum", {"x_max_in_memory_length": -1}, "x-max-in-memory-length", "{value_negative,-1}"),
    ("nonsense", {}, "x-queue-type", "\"unsupported queue type 'nonsense'\""),
]


@pytest.mark.parametrize("kind, arguments, key, reason", ARGUMENTS, ids=lambda x: str(x)[:40])
def test_an_argument_out_of_range_is_refused_with_its_reason(name, kind, arguments, key, reason):
    got = error_of(declare(name, kind, **arguments))
    text = f"PRECONDITION_FAILED - invalid arg '{key}' for queue '{name}' in vhost '/': {reason}"
    assert (got[0], got[1], got[3]) == ("channel", 406, DECLARE)
    assert got[2].startswith(text), got


@pytest.mark.parametrize("kind, key, value", [
    ("classic", "x-delivery-limit", 3), ("classic", "x-dead-letter-strategy", "at-most-once"),
    ("classic", "x-max-age", "1h"), ("quorum", "x-max-priority", 3), ("quorum", "x-max-age", "1h"),
    ("classic", "x-quorum-initial-group-size", 3), ("classic", "x-delayed-retry-type", "all"),
])
def test_an_argument_of_another_queue_type_is_refused(name, kind, key, value):
    got = error_of(spec.Queue.Declare(queue=name, durable=True, arguments={"x-queue-type": kind, key: value}))
    text = f"PRECONDITION_FAILED - invalid arg '{key}' for queue '{name}' in vhost '/' of queue type rabbit_{kind}_queue"
    assert got == ("channel", 406, text, DECLARE)


@pytest.mark.parametrize("first, second, text", [
    ({"x_message_ttl": 1000}, {}, "'x-message-ttl' for queue '{n}' in vhost '/': received none but current is the value '1000' of type "),
    ({}, {"x_message_ttl": 1000}, "'x-message-ttl' for queue '{n}' in vhost '/': received the value '1000' of type "),
    ({"x_message_ttl": 1000}, {"x_message_ttl": 2}, "'x-message-ttl' for queue '{n}' in vhost '/': received '2' but current is '1000'"),
    ({}, {"kind": "quorum"}, "'x-queue-type' for queue '{n}' in vhost '/': received 'quorum' but current is 'classic'"),
], ids=["missing", "more", "other", "type"])
def test_a_redeclaration_with_other_arguments_is_refused(channel, name, first, second, text):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, declare(name, **first)), method(1, declare(name, **second)))
        wire.expect(spec.Queue.DeclareOk)
        got = wire.error()
        assert (got[0], got[1], got[3]) == ("channel", 406, DECLARE)
        assert got[2].startswith("PRECONDITION_FAILED - inequivalent arg " + text.format(n=name)), got
    channel.queue_delete(name)


def test_integers_of_any_width_and_unknown_arguments_are_equivalent(channel, name):
    channel.queue_declare(name, durable=True, arguments={"x-message-ttl": 60_000, "x-mine": "a"})
    channel.queue_declare(name, durable=True, arguments={"x-message-ttl": 2**40 - 2**40 + 60_000, "x-mine": "b"})
    with Wire().open() as wire:
        wire.channel()
        # The same number as a 64-bit and as a 16-bit integer.
        for value in (b"l" + (60_000).to_bytes(8, "big"), b"u" + (60_000).to_bytes(2, "big"), b"I" + (60_000).to_bytes(4, "big")):
            table = b"\x0dx-message-ttl" + value
            body = b"\x00\x32\x00\x0a\x00\x00" + bytes([len(name)]) + name.encode() + b"\x02" + len(table).to_bytes(4, "big") + table
            wire.send(b"\x01\x00\x01" + len(body).to_bytes(4, "big") + body + b"\xce")
            assert wire.expect(spec.Queue.DeclareOk).queue == name
    channel.queue_delete(name)


TAKEN_AWAY = [
    {"x-queue-mode": "lazy"}, {"x-queue-mode": "default"}, {"x-ha-policy": "all"}, {"x-queue-version": 2}, {"x-queue-version": 1},
    {"x-queue-master-locator": "min-masters"}, {"x-cancel-on-ha-failover": True},
]


@pytest.mark.parametrize("arguments", TAKEN_AWAY, ids=str)
@ours_only
def test_what_rabbitmq_took_away_is_accepted(channel, name, arguments):
    channel.queue_declare(name, durable=True, arguments=arguments)
    channel.queue_declare(name, durable=True, arguments=arguments)
    put(channel, name, b"1")
    assert drained(channel, name) == [b"1"]
    channel.queue_delete(name)


@ours_only
def test_quorum_queues_take_the_memory_limits_of_old(channel, name):
    channel.queue_declare(name, durable=True, arguments={
        "x-queue-type": "quorum", "x-max-in-memory-length": 10, "x-max-in-memory-bytes": 10})
    put(channel, name, b"1")
    assert drained(channel, name) == [b"1"]
    channel.queue_delete(name)


@ours_only
@pytest.mark.parametrize("auto_delete", [True, False])
def test_a_transient_queue_of_many_connections_works(channel, other, name, auto_delete):
    channel.queue_declare(name, auto_delete=auto_delete)
    other.channel().queue_declare(name, auto_delete=auto_delete)
    got = []
    collect(channel, name, got, auto_ack=True)
    put(other.channel(), name, b"1")
    until(channel.connection, lambda: got)
    channel.queue_delete(name)


@ours_only
def test_a_client_with_frames_of_4096_bytes_is_served(queue):
    with Wire(frame_max=4096).open() as wire:
        wire.channel()
        body = b"x" * 10_000
        wire.send(method(1, spec.Basic.Publish(routing_key=queue)))
        from pika import frame
        wire.send(frame.Header(1, len(body), BasicProperties()).marshal())
        for at in range(0, len(body), 4088):
            wire.send(frame.Body(1, body[at:at + 4088]).marshal())
        wire.send(method(1, spec.Basic.Consume(queue=queue, no_ack=True)))
        wire.expect(spec.Basic.Deliver)
        assert wire.frame().body_size == len(body)
        sizes = [len(wire.frame().fragment) for _ in range(3)]
        assert sizes == [4088, 4088, 10_000 - 2 * 4088]


def test_a_ticket_is_always_granted():
    with Wire().open() as wire:
        wire.channel()
        wire.send(b"\x01\x00\x01\x00\x00\x00\x0b\x00\x1e\x00\x0a\x05/data\x1f\xce")
        got = wire.frame()
        while got.channel_number != 1:
            got = wire.frame()
        # pika knows no class 30: what it makes of the frame is not looked at further.


Q, X = "queue '{n}' in vhost '/'", "exchange '{n}' in vhost '/'"
own = lambda n: spec.Queue.Declare(queue=n, exclusive=True)
PROPERTIES = [
    ({"expiration": "soon"}, "invalid expiration 'soon': no_integer"),
    ({"expiration": "5ms"}, "invalid expiration '5ms': {leftover_string,\"ms\"}"),
    ({"expiration": "-1"}, "invalid expiration '-1': {value_negative,-1}"),
    ({"expiration": "315360000001"}, "invalid expiration '315360000001': {value_too_large,315360000001}"),
    ({"user_id": "somebody"}, "user_id property set to 'somebody' but authenticated user was 'guest'"),
    ({"headers": {"CC": "k"}}, 'invalid message: {unacceptable_type_in_header,"CC",longstr}'),
    ({"headers": {"BCC": "k"}}, 'invalid message: {unacceptable_type_in_header,"BCC",longstr}'),
    ({"reply_to": "amq.rabbitmq.reply-to"}, "fast reply consumer does not exist"),
]


@pytest.mark.parametrize("properties, text", PROPERTIES, ids=lambda x: str(x)[:40])
def test_a_property_that_makes_no_sense_is_refused(properties, text):
    got = error_of(publish(1, "", "nowhere", b"", BasicProperties(**properties)))
    assert got == ("channel", 406, "PRECONDITION_FAILED - " + text, PUBLISH)


REPLY = "amq.rabbitmq.reply-to"
ERRORS = [
    (lambda n: [spec.Basic.Consume(queue=REPLY, no_ack=False)], "channel", 406,
     "PRECONDITION_FAILED - reply consumer cannot acknowledge", CONSUME),
    (lambda n: [spec.Basic.Consume(queue=REPLY, no_ack=True), spec.Basic.Consume(queue=REPLY, no_ack=True)], "channel", 406,
     "PRECONDITION_FAILED - reply consumer already set", CONSUME),
    (lambda n: [spec.Queue.Declare(queue=REPLY + ".gone.x", passive=True)], "channel", 404,
     f"NOT_FOUND - no queue '{REPLY}.gone.x' in vhost '/'", DECLARE),
    (lambda n: [spec.Queue.Bind(queue=REPLY, exchange="amq.direct", routing_key="k")], "channel", 403,
     "ACCESS_REFUSED - cannot bind or unbind to a volatile (direct reply-to) queue", BIND),
    (lambda n: [own(n), spec.Queue.Bind(queue=n, exchange="", routing_key="k")], "channel", 403,
     "ACCESS_REFUSED - operation not permitted on the default exchange", BIND),
    (lambda n: [own(n), spec.Queue.Unbind(queue=n, exchange="", routing_key="k")], "channel", 403,
     "ACCESS_REFUSED - operation not permitted on the default exchange", (50, 50)),
    (lambda n: [spec.Exchange.Bind(destination="", source="amq.direct")], "channel", 403,
     "ACCESS_REFUSED - operation not permitted on the default exchange", (40, 30)),
    (lambda n: [spec.Exchange.Bind(destination="amq.fanout", source=n)], "channel", 404, "NOT_FOUND - no " + X, (40, 30)),
    (lambda n: [spec.Exchange.Declare(exchange=n, passive=True)], "channel", 404, "NOT_FOUND - no " + X, (40, 10)),
    (lambda n: [spec.Exchange.Delete(exchange="")], "channel", 403,
     "ACCESS_REFUSED - operation not permitted on the default exchange", (40, 20)),
    (lambda n: [spec.Exchange.Delete(exchange="amq.none")], "channel", 403,
     "ACCESS_REFUSED - deletion of system exchange 'amq.none' in vhost '/' not allowed", (40, 20)),
    (lambda n: [publish(1, "amq.rabbitmq.trace", "", b"")], "channel", 403,
     "ACCESS_REFUSED - cannot publish to internal exchange 'amq.rabbitmq.trace' in vhost '/'", PUBLISH),
    (lambda n: [spec.Exchange.Declare(exchange=n, arguments={"alternate-exchange": 3})], "channel", 406,
     "PRECONDITION_FAILED - invalid type '…' for arg 'alternate-exchange' in " + X, (40, 10)),
    (lambda n: [spec.Queue.Declare(queue=n, exclusive=True, arguments={"x-dead-letter-exchange": True})], "channel", 406,
     "PRECONDITION_FAILED - invalid type 'bool' for arg 'x-dead-letter-exchange' in " + Q, DECLARE),
    (lambda n: [own(n), spec.Queue.Bind(queue=n, exchange="amq.headers", routing_key="", arguments={"x-match": "some"})], "channel", 406,
     "PRECONDITION_FAILED - Invalid x-match field value <<\"some\">>; expected all, any, all-with-x, or any-with-x", BIND),
    (lambda n: [own(n), spec.Queue.Bind(queue=n, exchange="amq.headers", routing_key="", arguments={"x-match": ""})], "channel", 406,
     "PRECONDITION_FAILED - Invalid x-match field value <<>>; expected all, any, all-with-x, or any-with-x", BIND),
    (lambda n: [own(n), spec.Basic.Consume(queue=n, arguments={"x-priority": "high"})], "channel", 406,
     "PRECONDITION_FAILED - invalid arg 'x-priority' for " + Q + ": …", CONSUME),
    (lambda n: [own(n), spec.Basic.Consume(queue=n, arguments={"x-stream-offset": "first"})], "channel", 406,
     "PRECONDITION_FAILED - invalid arg 'x-stream-offset' for " + Q + " of queue type rabbit_classic_queue", CONSUME),
    (lambda n: [spec.Queue.Declare(queue="amq." + n)], "channel", 403,
     "ACCESS_REFUSED - queue name 'amq.{n}' contains reserved prefix 'amq.*'", DECLARE),
    (lambda n: [own(n), publish(1, "", n, b"1"), spec.Queue.Delete(queue=n, if_empty=True)], "channel", 406,
     "PRECONDITION_FAILED - " + Q + " not empty", (50, 40)),
    (lambda n: [own(n), publish(1, "", n, b"1"), spec.Basic.Consume(queue=n, consumer_tag="c"),
                spec.Queue.Delete(queue=n, if_unused=True, if_empty=True)], "channel", 406,
     "PRECONDITION_FAILED - " + Q + " in use", (50, 40)),
    (lambda n: [spec.Tx.Commit()], "channel", 406, "PRECONDITION_FAILED - channel is not transactional", (90, 20)),
    (lambda n: [spec.Tx.Rollback()], "channel", 406, "PRECONDITION_FAILED - channel is not transactional", (90, 30)),
    (lambda n: [spec.Basic.Qos(prefetch_size=5)], "connection", 540, "NOT_IMPLEMENTED - prefetch_size!=0 (5)", (60, 10)),
    (lambda n: [spec.Basic.Recover(requeue=False)], "connection", 540, "NOT_IMPLEMENTED - requeue=false", (60, 110)),
    (lambda n: [publish(1, n, "", b"x", immediate=True)], "connection", 540, "NOT_IMPLEMENTED - immediate=true", PUBLISH),
    (lambda n: [spec.Basic.ConsumeOk("x")], "connection", 503, "COMMAND_INVALID - unimplemented method", (60, 21)),
]


@pytest.mark.parametrize("row", range(len(ERRORS)), ids=lambda i: f"{i}-{ERRORS[i][2]}-{ERRORS[i][4]}")
def test_an_error_has_its_code_text_and_method(name, row):
    methods, what, code, text, ids = ERRORS[row]
    got = error_of(*methods(name))
    assert (got[0], got[1], got[3]) == (what, code, ids), got
    before, _, after = text.replace("{n}", name).partition("…")
    assert got[2].startswith(before) and got[2].endswith(after), got
    assert "…" in text or got[2] == before, got


def test_a_reply_name_can_be_asked_for(name):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, own(name)), method(1, spec.Basic.Consume(queue=REPLY, no_ack=True)),
                  publish(1, "", name, b"ask", BasicProperties(reply_to=REPLY)), method(1, spec.Basic.Get(queue=name, no_ack=True)))
        wire.expect(spec.Basic.GetOk)
        to = wire.frame().properties.reply_to
        assert to.startswith(REPLY + ".")
        for asked in (to, REPLY):
            wire.send(method(1, spec.Queue.Declare(queue=asked, passive=True)))
            ok = wire.expect(spec.Queue.DeclareOk)
            assert (ok.queue, ok.message_count, ok.consumer_count) == (asked, 0, 1)
        # Cancelled, it is nobody's.
        wire.send(method(1, spec.Queue.Declare(queue=to, passive=True)))
        wire.expect(spec.Queue.DeclareOk)


def test_the_shortcut_takes_queue_and_key_together(channel, name):
    channel.exchange_declare(name, "direct", auto_delete=True)
    q = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind("", name)
    channel.queue_bind(q, name, routing_key="")
    put(channel, q, b"by name", exchange=name)
    put(channel, "", b"by empty key", exchange=name)
    assert drained(channel, q) == [b"by name", b"by empty key"]


def test_a_prefetch_of_a_consumer_stays_and_a_later_call_lifts_the_channels(connection, channel, queue):
    put(channel, queue, *[b"x"] * 6)
    first, second = [], []
    channel.basic_qos(prefetch_count=1)
    collect(channel, queue, first)
    channel.basic_qos(prefetch_count=3)
    collect(channel, queue, second)
    until(connection, lambda: len(first) + len(second) == 4)
    connection.process_data_events(0.1)
    assert (len(first), len(second)) == (1, 3)


@ours_only
def test_a_global_prefetch_changes_while_consumers_run(connection, channel, queue):
    put(channel, queue, *[b"x"] * 6)
    got = []
    channel.basic_qos(prefetch_count=1, global_qos=True)
    collect(channel, queue, got)
    until(connection, lambda: len(got) == 1)
    channel.basic_qos(prefetch_count=3, global_qos=True)
    until(connection, lambda: len(got) == 3)
    connection.process_data_events(0.1)
    assert len(got) == 3
    channel.basic_qos(prefetch_count=0)
    until(connection, lambda: len(got) == 6)


def test_what_requeues_on_a_classic_queue_comes_back_in_order(channel, queue):
    put(channel, queue, b"1", b"2", b"3", b"4")
    tags = [take(channel, queue)[0].delivery_tag for _ in range(3)]
    channel.basic_nack(tags[2], requeue=True)
    channel.basic_reject(tags[0], requeue=True)
    channel.basic_nack(tags[1], requeue=True)
    assert drained(channel, queue) == [b"1", b"2", b"3", b"4"]


def test_a_full_queue_refuses_and_the_other_queues_of_the_message_keep_it(channel, name):
    for suffix, arguments in (("-full", {"x-max-length": 1, "x-overflow": "reject-publish"}), ("-free", {})):
        channel.queue_declare(name + suffix, exclusive=True, arguments=arguments)
        channel.queue_bind(name + suffix, "amq.fanout")
    put(channel, "", b"1", exchange="amq.fanout")
    with pytest.raises(NackError):
        put(channel, "", b"2", exchange="amq.fanout")
    assert (drained(channel, name + "-full"), drained(channel, name + "-free")) == ([b"1"], [b"1", b"2"])


def test_what_a_full_queue_refuses_may_be_dead_lettered(channel, name):
    channel.queue_declare(name + "-dead", exclusive=True)
    channel.queue_declare(name, exclusive=True, arguments={
        "x-max-length": 1, "x-overflow": "reject-publish-dlx", "x-dead-letter-exchange": "", "x-dead-letter-routing-key": name + "-dead"})
    put(channel, name, b"1")
    with pytest.raises(NackError):
        put(channel, name, b"2")
    _, properties, body = take(channel, name + "-dead", auto_ack=True)
    assert (body, properties.headers["x-death"][0]["reason"]) == (b"2", "maxlen")


def test_a_message_that_cannot_wait_is_delivered_or_dead(connection, channel, name):
    channel.queue_declare(name, exclusive=True, arguments={"x-message-ttl": 0})
    put(channel, name, b"1")
    assert drained(channel, name) == []
    got = []
    collect(channel, name, got, auto_ack=True)
    put(channel, name, b"2")
    until(connection, lambda: got)
    assert got[0][2] == b"2"


def test_a_dead_letter_keeps_its_keys_and_its_cc(channel, name):
    channel.queue_declare(name + "-dead", exclusive=True)
    channel.exchange_declare(name, "direct", auto_delete=True)
    for key in (name, "cc"):
        channel.queue_bind(name + "-dead", name, key)
    channel.queue_declare(name, exclusive=True, arguments={"x-dead-letter-exchange": name})
    put(channel, name, b"1", headers={"CC": ["cc"], "BCC": ["bcc"]}, priority=3, delivery_mode=2)
    channel.basic_reject(take(channel, name)[0].delivery_tag, requeue=False)
    got, properties, _ = take(channel, name + "-dead", auto_ack=True)
    assert (got.exchange, got.routing_key, got.redelivered) == (name, name, False)
    assert properties.headers["x-death"][0]["routing-keys"] == [name, "cc"]
    assert properties.headers["CC"] == ["cc"] and "BCC" not in properties.headers
    assert (properties.priority, properties.delivery_mode) == (3, 2)
    last = [properties.headers[f"x-last-death-{part}"] for part in ("reason", "queue", "exchange")]
    assert last == ["rejected", name, ""]


@ours_only
def test_an_x_death_of_the_clients_own_is_not_continued(channel, name):
    channel.queue_declare(name + "-dead", exclusive=True)
    channel.queue_declare(name, exclusive=True, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": name + "-dead"})
    put(channel, name, b"1", headers={"x-death": [{"count": 7, "reason": "rejected", "queue": name}]})
    _, properties, _ = take(channel, name)
    assert properties.headers["x-death"][0]["count"] == 7
    channel.basic_recover(True)
    channel.basic_reject(take(channel, name)[0].delivery_tag, requeue=False)
    deaths = take(channel, name + "-dead", auto_ack=True)[1].headers["x-death"]
    assert [death["count"] for death in deaths] == [1]


def test_an_auto_delete_exchange_goes_with_its_last_binding_and_not_before_the_first(connection, channel, name):
    channel.exchange_declare(name, "fanout", auto_delete=True)
    channel.exchange_declare(name, passive=True)
    q = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(q, name)
    channel.queue_unbind(q, name)
    assert channel_error(lambda: connection.channel().exchange_declare(name, passive=True))[0] == 404


def test_bindings_with_other_arguments_are_other_bindings_and_one_copy_comes(channel, name):
    q = channel.queue_declare("", exclusive=True).method.queue
    for headers in ({"a": 1}, {"b": 1}, {"a": 1}):
        channel.queue_bind(q, "amq.match", arguments={"x-match": "any", **headers})
    put(channel, "", b"both", exchange="amq.match", headers={"a": 1, "b": 1})
    channel.queue_unbind(q, "amq.match", arguments={"x-match": "any", "a": 1})
    put(channel, "", b"a", exchange="amq.match", headers={"a": 1})
    put(channel, "", b"b", exchange="amq.match", headers={"b": 1})
    assert drained(channel, q) == [b"both", b"b"]


@pytest.mark.parametrize("bound, sent, matches", [
    ({"x-match": "all", "a": 1}, {"a": 1, "b": 2}, True), ({"a": 1, "b": 2}, {"a": 1}, False),
    ({"x-match": "any", "a": 1, "b": 2}, {"b": 2}, True), ({"x-match": "any"}, {"a": 1}, False), ({"x-match": "all"}, {}, True),
    ({"x-match": "all", "a": None}, {"a": "whatever"}, True), ({"x-match": "all", "a": None}, {}, False),
    ({"x-match": "all", "x-a": 1}, {}, True), ({"x-match": "all-with-x", "x-a": 1}, {}, False),
    ({"x-match": "any-with-x", "x-a": 1}, {"x-a": 1}, True), ({"x-match": "all", "a": 1}, {"a": "1"}, False),
    ({"x-match": "all", "a": True}, {"a": 1}, False), ({"x-match": "all", "a": 1}, {"a": 2**40 - 2**40 + 1}, True),
], ids=str)
def test_headers_match_as_the_table_says(channel, bound, sent, matches):
    q = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(q, "amq.headers", arguments=bound)
    put(channel, "", b"1", exchange="amq.headers", headers=sent)
    assert drained(channel, q) == [b"1"] * matches


def test_the_queue_of_a_deleted_consumer_is_settled_without_an_error(channel, name):
    channel.queue_declare(name, exclusive=True)
    put(channel, name, b"1")
    tag = take(channel, name)[0].delivery_tag
    channel.queue_delete(name)
    channel.basic_ack(tag)
    channel.queue_declare(name, exclusive=True)


def test_a_transaction_returns_before_it_answers_and_rolls_back(channel, queue):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Tx.Select()), publish(1, "", queue, b"1"), publish(1, "", queue + "-none", b"2", mandatory=True),
                  method(1, spec.Tx.Commit()))
        wire.expect(spec.Basic.Return)
        wire.expect(spec.Tx.CommitOk)
        wire.send(publish(1, "", queue, b"3"), method(1, spec.Tx.Rollback()), method(1, spec.Tx.Commit()))
        wire.expect(spec.Tx.RollbackOk)
        wire.expect(spec.Tx.CommitOk)
    assert drained(channel, queue) == [b"1"]


@ours_only
def test_a_transaction_that_a_queue_refuses_is_partial(name):
    got = error_of(
        spec.Queue.Declare(queue=name, exclusive=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"}),
        spec.Tx.Select(), publish(1, "", name, b"1"), spec.Tx.Commit())
    assert got == ("channel", 406, "PRECONDITION_FAILED - partial tx completion", (90, 20))


@ours_only
def test_a_hard_error_waits_for_what_other_channels_were_told(channel, name):
    with Wire().open() as wire:
        wire.channel()
        wire.channel(2)
        wire.send(method(1, spec.Queue.Declare(queue=name, durable=True)), publish(1, "", name, b"1"),
                  method(2, spec.Basic.Recover(requeue=False)))
        assert wire.error()[1] == 540
    assert drained(channel, name) == [b"1"]
    channel.queue_delete(name)


def test_a_channel_too_many_closes_the_connection():
    with Wire() as wire:
        tune = wire.login()
        wire.send(method(0, spec.Connection.TuneOk(2, tune.frame_max, 0)), method(0, spec.Connection.Open("/")))
        wire.expect(spec.Connection.OpenOk)
        wire.channel(7)
        wire.channel(9)
        wire.send(method(11, spec.Channel.Open()))
        got = wire.error()
        text = "NOT_ALLOWED - number of channels opened (2) has reached the negotiated channel_max (2)"
        assert got == ("connection", 530, text, (20, 10))
