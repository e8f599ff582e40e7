"""Rows of the behaviour reference about declaring: logins and limits, names, rights, exchanges, queues, their arguments."""
import pytest
from pika import frame, spec

import management
from conftest import channel_error, connect, drained, ours_only, put, take
from management import done, quote
from test_management import allow, login, refused_login, user, vhost  # noqa: F401 (fixtures)
from test_wire import error_of
from wire import HEARTBEAT, PARAMETERS, Wire, method


def answers(*methods):
    """The names of what comes back to methods on channel 1, up to the answer of a basic.qos behind them."""
    with Wire().open() as wire:
        wire.channel()
        wire.send(*[m if isinstance(m, bytes) else method(1, m) for m in methods], method(1, spec.Basic.Qos()))
        names = []
        while True:
            got = wire.frame()
            if isinstance(got, frame.Method):
                if isinstance(got.method, spec.Basic.QosOk):
                    return names
                names.append(got.method.NAME)
                assert "Close" not in got.method.NAME, got


# 3.5, 14.2, 23.2

@ours_only
def test_a_user_without_permissions_and_full_limits_are_530_at_open(user, vhost):  # noqa: F811
    assert f"(530) \"NOT_ALLOWED - access to vhost '{vhost}' refused for user '{user}'\"" in refused_login(user, vhost)
    allow(user, vhost)
    for value, refused in ((0, True), (-1, False)):
        done("PUT", f"vhost-limits/{quote(vhost)}/max-connections", body={"value": value})
        if refused:
            assert f"refused for user '{user}': vhost connection limit (0) is reached" in refused_login(user, vhost)
        else:
            login(user, vhost).close()
    for value, refused in ((0, True), (-1, False)):
        done("PUT", f"user-limits/{user}/max-connections", body={"value": value})
        if refused:
            assert f"refused for user '{user}': user connection limit (0) is reached" in refused_login(user, vhost)
        else:
            login(user, vhost).close()


def test_client_properties_of_every_kind_and_heartbeats_before_open_are_taken():
    with Wire() as wire:
        wire.send(b"AMQP\0\0\x09\x01")
        wire.expect(spec.Connection.Start)
        properties = {"a": [1, None, {"b": [True]}], "connection_name": "nämlich", "none": None, "capabilities": {"other": True}}
        who = PARAMETERS.credentials
        wire.send(method(0, spec.Connection.StartOk(properties, "PLAIN", f"\0{who.username}\0{who.password}".encode())))
        tune = wire.expect(spec.Connection.Tune)
        wire.send(method(0, spec.Connection.TuneOk(tune.channel_max, tune.frame_max, 5)), HEARTBEAT, HEARTBEAT,
                  method(0, spec.Connection.Open("/")))
        wire.expect(spec.Connection.OpenOk)


def test_channels_are_opened_and_closed_quickly_under_one_number():
    with Wire().open() as wire:
        for _ in range(500):
            wire.send(method(1, spec.Channel.Open()), method(1, spec.Channel.Close(0, "", 0, 0)))
        for _ in range(500):
            wire.expect(spec.Channel.CloseOk)


# 6, 6.1, 7

def test_no_wait_answers_nothing_and_still_names_the_queue(name):
    assert answers(
        spec.Queue.Declare(queue=name, exclusive=True, nowait=True), spec.Exchange.Declare(exchange=name, nowait=True, auto_delete=True),
        spec.Queue.Bind(queue="", exchange=name, routing_key="k", nowait=True),
        spec.Exchange.Bind(destination=name, source="amq.fanout", nowait=True),
        spec.Exchange.Unbind(destination=name, source="amq.fanout", nowait=True), spec.Queue.Purge(queue="", nowait=True),
        spec.Basic.Consume(queue="", consumer_tag="c", nowait=True), spec.Basic.Cancel(consumer_tag="c", nowait=True),
        spec.Confirm.Select(nowait=True), spec.Queue.Delete(queue="", nowait=True), spec.Exchange.Delete(exchange=name, nowait=True),
    ) == []
    assert error_of(spec.Queue.Declare(queue=name, passive=True, nowait=True))[1] == 404


def test_a_declaration_that_failed_names_no_queue(name):
    assert error_of(spec.Queue.Delete(queue=""))[2] == "NOT_FOUND - no previously declared queue"


def test_line_ends_stay_in_the_names_of_publish_get_consume_and_purge(name):
    # A queue each: the connection before may still be on its way out.
    for number, refused in enumerate((spec.Basic.Get, spec.Basic.Consume, spec.Queue.Purge)):
        one = f"{name}-{number}"
        assert error_of(spec.Queue.Declare(queue=one, exclusive=True), refused(queue=one + "\n"))[1] == 404
    assert answers(
        spec.Queue.Declare(queue=name + "\r", exclusive=True),
        spec.Queue.Bind(queue=name + "\n", exchange="amq.\rdirect", routing_key="k"),
        spec.Queue.Unbind(queue=name + "\n", exchange="amq.\rdirect", routing_key="k"), spec.Queue.Delete(queue="\n" + name),
    ) == ["Queue.DeclareOk", "Queue.BindOk", "Queue.UnbindOk", "Queue.DeleteOk"]


def test_names_of_the_server_are_22_characters_of_base64(channel):
    queue = channel.queue_declare("", exclusive=True).method.queue
    tag = answers_consume(queue)
    assert queue.startswith("amq.gen-") and len(queue) == 30
    assert tag.startswith("amq.ctag-") and len(tag) == 31
    # Its owner may ask for it, and not declare it again.
    channel.queue_declare(queue, passive=True)
    assert channel_error(lambda: channel.queue_declare(queue, exclusive=True))[0] == 403


def answers_consume(queue):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Queue.Declare(queue="", exclusive=True)), method(1, spec.Basic.Consume(queue="")))
        return wire.expect(spec.Basic.ConsumeOk).consumer_tag


# 8

@pytest.fixture
def rights(user, channel, name):  # noqa: F811
    """Runs operations as a user with the rights given; the queue and the exchange of the test's name are there."""
    channel.queue_declare(name, durable=True)
    channel.exchange_declare(name, "fanout", durable=True)
    opened = []

    def run(operation, configure="", write="", read=""):
        allow(user, "/", configure, write, read)
        opened.append(login(user))
        return operation(opened[-1].channel())
    yield run
    for connection in opened:
        connection.close()
    channel.queue_delete(name)
    channel.exchange_delete(name)


@ours_only
@pytest.mark.parametrize("kind", ["queue", "exchange"])
@pytest.mark.parametrize("needed", ["configure", "write", "read", None])
def test_a_passive_declaration_needs_any_one_right(rights, name, kind, needed):
    def ask(channel):
        getattr(channel, kind + "_declare")(name, passive=True)
    if needed:
        return rights(ask, **{needed: name})
    refused = channel_error(lambda: rights(ask))
    assert refused[0] == 403 and refused[1].startswith(f"ACCESS_REFUSED - configure access to {kind} '{name}' in vhost '/' refused")


@ours_only
def test_what_is_not_there_is_refused_like_what_is(rights, name):
    for operation in (lambda c: c.queue_declare(name + "-none", passive=True), lambda c: c.exchange_delete(name + "-none"),
                      lambda c: c.basic_get(name + "-none"), lambda c: put(c, "k", b"", exchange=name + "-none")):
        assert channel_error(lambda: rights(operation))[0] == 403


@ours_only
def test_a_dead_letter_exchange_needs_the_right_to_read_and_to_write(rights, channel, name):
    new = name + "-new"
    def declare(c):
        c.queue_declare(new, durable=True, arguments={"x-dead-letter-exchange": name})
    def text(**given):
        return channel_error(lambda: rights(declare, configure=new, **given))[1]
    assert text().startswith(f"ACCESS_REFUSED - read access to queue '{new}' in vhost '/' refused")
    assert text(read=new).startswith(f"ACCESS_REFUSED - write access to exchange '{name}' in vhost '/' refused")
    rights(declare, configure=new, read=new, write=name)
    # Of a queue that is there neither is asked.
    rights(declare, configure=new)
    channel.queue_delete(new)


@ours_only
def test_an_alternate_exchange_needs_the_right_to_read_and_to_write(rights, channel, name):
    new = name + "-new"
    def declare(c):
        c.exchange_declare(new, "fanout", arguments={"alternate-exchange": name})
    def text(**given):
        return channel_error(lambda: rights(declare, configure=new, **given))[1]
    assert text().startswith(f"ACCESS_REFUSED - read access to exchange '{new}' in vhost '/' refused")
    assert text(read=new).startswith(f"ACCESS_REFUSED - write access to exchange '{name}' in vhost '/' refused")
    rights(declare, configure=new, read=new, write=name)
    rights(declare, configure=new)
    channel.exchange_delete(new)


@ours_only
def test_an_exchange_is_bound_with_write_to_where_it_goes_and_read_from_where_it_comes(rights, name):
    def bind(c):
        c.exchange_bind(name, "amq.fanout")
        c.exchange_unbind(name, "amq.fanout")
    def text(**given):
        return channel_error(lambda: rights(bind, **given))[1]
    assert text(read="amq.fanout").startswith(f"ACCESS_REFUSED - write access to exchange '{name}'")
    assert text(write=name).startswith("ACCESS_REFUSED - read access to exchange 'amq.fanout'")
    rights(bind, write=name, read="amq.fanout")


@ours_only
def test_direct_replies_and_what_a_consumer_does_need_no_right(rights):
    def ask(c):
        c.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
        c.basic_qos(prefetch_count=1), c.basic_recover(True), c.tx_select(), c.tx_commit()
    rights(ask)


@ours_only
def test_topic_rights_are_asked_for_every_key(user, channel, queue):  # noqa: F811
    allow(user, "/", ".*", ".*", ".*")
    done("PUT", f"topic-permissions/%2F/{user}", 201, body={"exchange": "amq.topic", "write": "^{vhost}$", "read": "^{username}$"})
    connection = login(user)
    put(connection.channel(), "/", b"", exchange="amq.topic")
    for headers in ({"CC": ["x"]}, {"BCC": ["x"]}):
        code, text = channel_error(lambda: put(connection.channel(), "/", b"", exchange="amq.topic", headers=headers))
        assert code == 403 and text.startswith("ACCESS_REFUSED - write access to topic 'x'")
    connection.channel().queue_bind(queue, "amq.topic", user)
    assert channel_error(lambda: connection.channel().queue_unbind(queue, "amq.topic", "x"))[0] == 403
    connection.close()


# 9

def test_an_internal_exchange_is_reached_by_bindings_alternates_and_dead_letters(channel, name):
    channel.exchange_declare(name, "fanout", internal=True)
    channel.exchange_declare(name + "-ae", "direct", arguments={"alternate-exchange": name}, auto_delete=True)
    channel.exchange_bind(name, "amq.direct", "k")
    q = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(q, name)
    channel.queue_declare(name, exclusive=True, arguments={"x-dead-letter-exchange": name})
    put(channel, "none", b"alternate", exchange=name + "-ae")
    put(channel, "k", b"bound", exchange="amq.direct")
    put(channel, name, b"dead")
    channel.basic_reject(take(channel, name)[0].delivery_tag, requeue=False)
    assert [take(channel, q, auto_ack=True)[2] for _ in range(3)] == [b"alternate", b"bound", b"dead"]
    channel.exchange_delete(name), channel.exchange_delete(name + "-ae")


def test_exchanges_in_a_circle_give_one_copy(channel, name):
    a, b = name + "-a", name + "-b"
    for x in (a, b):
        channel.exchange_declare(x, "fanout")
    q = channel.queue_declare("", exclusive=True).method.queue
    for destination, source in ((a, b), (b, a), (a, a)):
        channel.exchange_bind(destination, source)
    for x in (a, b):
        channel.queue_bind(q, x)
    put(channel, "", b"1", exchange=a)
    assert drained(channel, q) == [b"1"]
    channel.exchange_delete(a), channel.exchange_delete(b)


def test_auto_delete_exchanges_go_one_after_the_other_with_the_queue_they_lead_to(connection, channel, name):
    a, b = name + "-a", name + "-b"
    for x in (a, b):
        channel.exchange_declare(x, "fanout", auto_delete=True)
    channel.exchange_bind(b, a)
    q = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(q, b)
    channel.queue_delete(q)
    for x in (a, b):
        assert channel_error(lambda: connection.channel().exchange_declare(x, passive=True))[0] == 404


BIND = (50, 20)


def test_a_binding_is_checked_in_order(channel, other, name):
    def bind(queue, exchange, **more):
        return error_of(spec.Queue.Bind(queue=queue, exchange=exchange, routing_key="", **more))
    assert bind(name, name) == ("channel", 404, f"NOT_FOUND - no exchange '{name}' in vhost '/'", BIND)
    channel.queue_declare(name, exclusive=True)
    wrong = {"arguments": {"x-match": "some"}}
    assert bind(name + "-none", "amq.headers", **wrong)[1] == 404
    assert bind(name, "amq.headers", **wrong)[1] == 406
    assert bind(name, "amq.headers")[1] == 405


def test_the_order_of_a_bindings_arguments_does_not_count(channel):
    q = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(q, "amq.headers", arguments={"a": 1, "b": 2})
    channel.queue_unbind(q, "amq.headers", arguments={"b": 2, "a": 1})
    put(channel, "", b"1", exchange="amq.headers", headers={"a": 1, "b": 2})
    assert drained(channel, q) == []


@pytest.mark.parametrize("arguments, differs", [
    ({"alternate-exchange": "b"}, True), ({}, True), ({"alternate-exchange": "a", "more": 1}, False),
])
def test_of_an_exchanges_arguments_only_the_alternate_is_compared(channel, name, arguments, differs):
    channel.exchange_declare(name, "direct", arguments={"alternate-exchange": "a"}, auto_delete=True)
    if differs:
        got = error_of(spec.Exchange.Declare(exchange=name, type="direct", auto_delete=True, arguments=arguments))
        assert got[1] == 406 and "inequivalent arg 'alternate-exchange' for exchange" in got[2]
    else:
        channel.exchange_declare(name, "direct", arguments=arguments, auto_delete=True)
    channel.exchange_delete(name)


@pytest.mark.parametrize("flag", ["durable", "auto_delete", "internal"])
def test_a_redeclared_exchange_has_the_same_flags(channel, name, flag):
    channel.exchange_declare(name, "direct")
    got = error_of(spec.Exchange.Declare(exchange=name, type="direct", **{flag: True}))
    text = f"inequivalent arg '{flag}' for exchange '{name}' in vhost '/': received 'true' but current is 'false'"
    assert got == ("channel", 406, "PRECONDITION_FAILED - " + text, (40, 10))
    # Asked for passively, nothing is compared.
    assert answers(spec.Exchange.Declare(exchange=name, type="no such", passive=True, **{flag: True})) == ["Exchange.DeclareOk"]
    channel.exchange_delete(name)


def test_an_element_of_cc_that_is_no_text_is_skipped(channel, name):
    channel.queue_declare(name, exclusive=True)
    put(channel, "nowhere", b"1", headers={"CC": [1, name, True], "cc": "nobody"})
    method_frame, properties, body = take(channel, name, auto_ack=True)
    assert (method_frame.routing_key, properties.headers["CC"], body) == ("nowhere", [1, name, True], b"1")


# 10

def test_a_redeclaration_is_refused_for_the_first_difference(channel, name):
    channel.queue_declare(name, durable=True)
    differs = {"auto_delete": True, "arguments": {"x-max-length": 1}}
    assert error_of(spec.Queue.Declare(queue=name, exclusive=True, **differs))[1] == 405
    assert "'durable'" in error_of(spec.Queue.Declare(queue=name, **differs))[2]
    assert "'auto_delete'" in error_of(spec.Queue.Declare(queue=name, durable=True, **differs))[2]
    assert "'x-max-length'" in error_of(spec.Queue.Declare(queue=name, durable=True, arguments=differs["arguments"]))[2]
    channel.queue_delete(name)


def test_an_exclusive_queue_is_transient_however_it_is_declared_and_takes_messages_from_anywhere(connection, channel, other, name):
    channel.queue_declare(name, exclusive=True, durable=True)
    connection.channel().queue_declare(name, exclusive=True, durable=False)
    put(other.channel(), name, b"1")
    assert take(channel, name, auto_ack=True)[2] == b"1"


def test_counts_are_of_what_is_ready(channel, connection, queue):
    put(channel, queue, b"1", b"2", b"3")
    take(connection.channel(), queue)
    assert channel.queue_declare(queue, passive=True).method.message_count == 2
    assert channel.queue_purge(queue).method.message_count == 2
    put(channel, queue, b"4")
    assert channel.queue_delete(queue).method.message_count == 1


def test_a_queue_that_goes_with_its_last_consumer_is_not_kept_by_basic_get_and_leaves_no_dead_letters(channel, name):
    dead = channel.queue_declare(name + "-dead", exclusive=True).method.queue
    leaver = connect()
    theirs = leaver.channel()
    theirs.queue_declare(name, auto_delete=True, arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": dead})
    put(theirs, name, b"1", b"2")
    take(theirs, name)
    assert channel.queue_declare(name, passive=True).method.message_count == 1
    theirs.basic_consume(name, lambda *_: None)
    leaver.close()
    assert error_of(spec.Queue.Declare(queue=name, passive=True))[1] == 404
    assert drained(channel, dead) == []


def test_a_condition_on_emptiness_is_looked_at_before_one_on_use(channel, name):
    channel.queue_declare(name)
    put(channel, name, b"1", b"2")
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Basic.Qos(prefetch_count=1)), method(1, spec.Basic.Consume(queue=name)))
        wire.expect(spec.Basic.Deliver)
        both = spec.Queue.Delete(queue=name, if_unused=True, if_empty=True)
        assert error_of(both)[2] == f"PRECONDITION_FAILED - queue '{name}' in vhost '/' not empty"
        channel.queue_purge(name)
        assert error_of(both)[2] == f"PRECONDITION_FAILED - queue '{name}' in vhost '/' in use"
    channel.queue_delete(name)


@ours_only
def test_the_type_of_a_queue_is_among_its_arguments_and_compared(channel, name):
    channel.queue_declare(name, durable=True)
    assert management.get(f"queues/%2F/{name}")["arguments"] == {"x-queue-type": "classic"}
    for word in ("", "undefined", "classic"):
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": word})
    channel.queue_delete(name)
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    got = error_of(spec.Queue.Declare(queue=name, durable=True))
    assert got[2].endswith("'/': received 'classic' but current is 'quorum'")
    channel.queue_delete(name)


@ours_only
def test_a_full_vhost_is_told_after_a_wrong_argument(user, vhost):  # noqa: F811
    allow(user, vhost, ".*", ".*", ".*")
    done("PUT", f"vhost-limits/{quote(vhost)}/max-queues", body={"value": 0})
    connection = login(user, vhost)
    def declare(**arguments):
        return channel_error(lambda: connection.channel().queue_declare("q", durable=True, arguments=arguments))[1]
    assert "invalid arg 'x-expires'" in declare(**{"x-expires": 0})
    assert "queue limit in vhost" in declare(**{"x-queue-type": "classic"})
    connection.close()


# 11

YEARS = 315_360_000_000
BOTH = ("classic", "quorum")
VALUES = [
    (BOTH, "x-message-ttl", [0, YEARS], {-1: "{value_negative,-1}", YEARS + 1: f"{{value_too_large,{YEARS + 1}}}",
                                         True: '"expected integer, got bool"'}),
    (BOTH, "x-expires", [1, YEARS], {0: "{value_zero,0}", -1: "{value_negative,-1}", YEARS + 1: f"{{value_too_large,{YEARS + 1}}}"}),
    (BOTH, "x-max-length", [0, 1 << 40], {-1: "{value_negative,-1}", "a": '"expected integer, got longstr"'}),
    (BOTH, "x-max-length-bytes", [0, 1 << 40], {-1: "{value_negative,-1}"}),
    (BOTH, "x-overflow", ["drop-head", "reject-publish", "reject-publish-dlx"], {"x": "invalid_overflow", 1: "{unacceptable_type,"}),
    (BOTH, "x-single-active-consumer", [True, False], {1: "{unacceptable_type,"}),
    (BOTH, "x-queue-leader-locator", ["client-local", "balanced"], {"x": "invalid_queue_locator_arg", 3: "{unacceptable_type,"}),
    (("classic",), "x-max-priority", [0, 1, 255], {256: "{max_value_exceeded,256}", -1: "{value_negative,-1}"}),
    (("quorum",), "x-dead-letter-strategy", ["at-most-once", "at-least-once"], {"x": "invalid_dlx_strategy", 1: "{unacceptable_type,"}),
    (("quorum",), "x-quorum-initial-group-size", [1, 3], {0: "{value_zero,0}", -1: "{value_negative,-1}"}),
    (("quorum",), "x-delivery-limit", [0, 5, -1, "a"], {}),
    (("quorum",), "x-consumer-timeout", [0, 60_000], {-1: "{value_negative,-1}", "a": '"expected integer, got longstr"'}),
    (("quorum",), "x-consumer-disconnected-timeout", [0], {-1: "{value_negative,-1}"}),
    (("quorum",), "x-delayed-retry-type", ["disabled", "all", "failed", "returned", "else"], {}),
    (("quorum",), "x-delayed-retry-min", [1], {0: "{value_zero,0}"}),
    (("quorum",), "x-delayed-retry-max", [1], {0: "{value_zero,0}"}),
    (("stream",), "x-initial-cluster-size", [1], {0: "{value_zero,0}"}),
    (("stream",), "x-max-age", ["1Y", "1M", "1D", "1h", "1m", "1s"], {"1": "invalid_max_age", "D": "invalid_max_age",
                                                                    "-1D": "invalid_max_age", "1d": "invalid_max_age"}),
    (("stream",), "x-max-length-bytes", [0, 1], {-1: "{value_negative,-1}"}),
    (("stream",), "x-stream-max-segment-size-bytes", [0, 3_000_000_000], {-1: "{value_negative,-1}"}),
    (("stream",), "x-stream-filter-size-bytes", [16, 255], {-1: "{value_negative,-1}"}),
]


@ours_only
@pytest.mark.parametrize("kind, key, good, bad", [(kind, *row) for kinds, *row in VALUES for kind in kinds], ids=lambda x: str(x)[:30])
def test_an_argument_may_be_what_the_table_says(channel, name, kind, key, good, bad):
    def arguments(value):
        more = {"x-dead-letter-exchange": ""} if key == "x-dead-letter-strategy" else {}
        return {"x-queue-type": kind, key: value, **more}
    for at, value in enumerate(good):
        queue = f"{name}-{at}"
        channel.queue_declare(queue, durable=True, arguments=arguments(value))
        channel.queue_delete(queue)
    for value, reason in bad.items():
        got = error_of(spec.Queue.Declare(queue=name, durable=True, arguments=arguments(value)))
        text = f"PRECONDITION_FAILED - invalid arg '{key}' for queue '{name}' in vhost '/': {reason}"
        assert got[1] == 406 and got[2].startswith(text), got


@ours_only
@pytest.mark.parametrize("key, value, text", [
    ("x-stream-max-segment-size-bytes", 3_000_000_001, "Exceeded max value for x-stream-max-segment-size-bytes"),
    ("x-stream-filter-size-bytes", 15, "Invalid value for x-stream-filter-size-bytes"),
    ("x-stream-filter-size-bytes", 256, "Invalid value for x-stream-filter-size-bytes"),
])
def test_sizes_of_a_stream_have_words_of_their_own(name, key, value, text):
    got = error_of(spec.Queue.Declare(queue=name, durable=True, arguments={"x-queue-type": "stream", key: value}))
    assert got == ("channel", 406, "PRECONDITION_FAILED - " + text, (50, 10))


FOREIGN = [
    ("stream", {"x-message-ttl": 1, "x-expires": 1, "x-max-length": 1, "x-overflow": "drop-head", "x-dead-letter-exchange": "",
                "x-max-priority": 1, "x-single-active-consumer": True, "x-queue-mode": "lazy", "x-delivery-limit": 1,
                "x-quorum-initial-group-size": 1}),
    ("quorum", {"x-queue-mode": "lazy", "x-queue-version": 2, "x-initial-cluster-size": 1, "x-stream-filter-size-bytes": 20}),
    ("classic", {"x-delayed-retry-min": 1, "x-delayed-retry-max": 1, "x-max-in-memory-length": 1, "x-max-in-memory-bytes": 1,
                 "x-initial-cluster-size": 1, "x-stream-max-segment-size-bytes": 1, "x-consumer-disconnected-timeout": 1}),
]


@ours_only
@pytest.mark.parametrize("kind, key, value", [(kind, *pair) for kind, row in FOREIGN for pair in row.items()])
def test_an_argument_that_only_other_types_have_is_refused(name, kind, key, value):
    got = error_of(spec.Queue.Declare(queue=name, durable=True, arguments={"x-queue-type": kind, key: value}))
    text = f"PRECONDITION_FAILED - invalid arg '{key}' for queue '{name}' in vhost '/' of queue type rabbit_{kind}_queue"
    assert got == ("channel", 406, text, (50, 10))


@ours_only
@pytest.mark.parametrize("kind", ["classic", "quorum", "stream"])
def test_a_consumers_arguments_are_those_of_its_queues_type(channel, name, kind):
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": kind})
    q = f"queue '{name}' in vhost '/'"
    module = f" for {q} of queue type rabbit_{kind}_queue"
    queues = {"x-priority": [(1, None), (-5, None), ("a", f" for {q}: \"expected integer, got longstr\"")],
              "x-consumer-timeout": [(1000, None), (-1, f" for {q}: {{value_negative,-1}}")]}
    streams = {"x-stream-offset": [("first", None), (5, None), (-1, f" for {q}: {{invalid_stream_offset_arg,{{"),
                                   ("FIRST", f" for {q}: {{invalid_stream_offset_arg,{{longstr,<<\"FIRST\">>}}}}")],
               "x-stream-filter": [("a", None), (["a", "b"], None)], "x-stream-match-unfiltered": [(True, None)]}
    known, foreign = (streams, queues) if kind == "stream" else (queues, streams)
    for key, rows in known.items():
        for value, refusal in rows:
            asked = [spec.Basic.Qos(prefetch_count=1), spec.Basic.Consume(queue=name, arguments={key: value})]
            if refusal:
                got = error_of(*asked)
                assert got[1] == 406 and got[2].startswith(f"PRECONDITION_FAILED - invalid arg '{key}'{refusal}"), got
            else:
                consumes(*asked)
    for key, rows in foreign.items():
        got = error_of(spec.Basic.Qos(prefetch_count=1), spec.Basic.Consume(queue=name, arguments={key: rows[0][0]}))
        assert got == ("channel", 406, f"PRECONDITION_FAILED - invalid arg '{key}'{module}", (60, 20))
    consumes(asked[0], spec.Basic.Consume(queue=name, arguments={"x-cancel-on-ha-failover": True, "x-mine": 1}))
    channel.queue_delete(name)


def consumes(*methods):
    with Wire().open() as wire:
        wire.channel()
        wire.send(*[method(1, m) for m in methods])
        wire.expect(spec.Basic.ConsumeOk)
