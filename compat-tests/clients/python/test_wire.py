"""What only shows frame by frame: pipelines, silence, and errors with the class and method that failed."""
import pytest
from pika import BasicProperties, spec
from pika.data import encode_table

from conftest import PERSISTENT, drained, put, take
from wire import PARAMETERS, Wire, beat, method, publish, raw


def test_what_was_sent_before_a_close_is_done_before_close_ok(channel, name):
    with Wire().open() as wire:
        wire.channel()
        wire.send(
            method(1, spec.Queue.Declare(queue=name, durable=True, nowait=True)),
            publish(1, "", name, b"1", PERSISTENT),
            method(1, spec.Queue.Declare(queue=name + "-own", exclusive=True)),
            publish(1, "", name, b"2", PERSISTENT),
            method(0, spec.Connection.Close(200, "bye", 0, 0)),
        )
        wire.expect(spec.Connection.CloseOk)
        # An exclusive queue is gone by then, so its name is free.
        channel.queue_declare(name + "-own", exclusive=True)
        assert drained(channel, name) == [b"1", b"2"]
        channel.queue_delete(name)


def test_a_client_too_busy_to_read_but_not_to_beat_is_alive(channel, queue):
    put(channel, queue, *[b"x" * (1 << 20)] * 24)
    with Wire(heartbeat=1, receive_buffer=65536).open() as wire:
        wire.channel()
        wire.send(method(1, spec.Basic.Consume(queue=queue, no_ack=True)))
        beat(wire, 5)
        for _ in range(24):
            wire.expect(spec.Basic.Deliver)
        wire.send(method(1, spec.Channel.Close(0, "", 0, 0)))
        wire.expect(spec.Channel.CloseOk)


def test_a_silent_client_is_dropped_without_a_word():
    with Wire(heartbeat=1).open() as wire:
        assert wire.frame() is None


def test_amqplain_logs_in():
    pieces = []
    encode_table(pieces, {"LOGIN": PARAMETERS.credentials.username, "PASSWORD": PARAMETERS.credentials.password})
    with Wire() as wire:
        wire.login("AMQPLAIN", b"".join(pieces)[4:])


LOCKED = ("RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{q}' in vhost '/'. It could be originally "
          "declared on another connection or the exclusive property value does not match that of the original declaration.")


@pytest.mark.parametrize("refused", [
    spec.Queue.Declare(queue="{q}", exclusive=True), spec.Queue.Declare(queue="{q}", passive=True),
    spec.Queue.Bind(queue="{q}", exchange="amq.direct", routing_key="k"),
    spec.Queue.Unbind(queue="{q}", exchange="amq.direct", routing_key="k"),
    spec.Queue.Purge(queue="{q}"), spec.Queue.Delete(queue="{q}"), spec.Basic.Get(queue="{q}"),
    spec.Basic.Consume(queue="{q}"),
], ids=lambda m: m.NAME)
def test_an_exclusive_queue_is_locked_to_every_method_of_others(channel, name, refused):
    q = channel.queue_declare(name, exclusive=True).method.queue
    # A binding that does not exist may be taken away by anybody.
    channel.queue_bind(q, "amq.direct", "k")
    refused.queue = q
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, refused))
        ids = (refused.INDEX >> 16, refused.INDEX & 0xFFFF)
        assert wire.error() == ("channel", 405, LOCKED.format(q=q), ids)


def error_of(*methods):
    with Wire().open() as wire:
        wire.channel()
        wire.send(*[m if isinstance(m, bytes) else method(1, m) for m in methods])
        return wire.error()


X = "exchange '{n}' in vhost '/'"
Q = "queue '{n}' in vhost '/'"
TABLE = [
    (lambda n: [spec.Exchange.Declare(exchange=n, type="nonsense")],
     "channel", 406, "PRECONDITION_FAILED - unknown exchange type 'nonsense'", (40, 10)),
    (lambda n: [spec.Exchange.Declare(exchange="amq.direct", type="direct", durable=False)],
     "channel", 406, "PRECONDITION_FAILED - inequivalent arg 'durable' for exchange 'amq.direct' in vhost '/': "
     "received 'false' but current is 'true'", (40, 10)),
    (lambda n: [spec.Exchange.Declare(exchange="amq.direct", type="fanout", durable=True)],
     "channel", 406, "PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'amq.direct' in vhost '/': "
     "received 'fanout' but current is 'direct'", (40, 10)),
    (lambda n: [spec.Exchange.Declare(exchange="", type="direct")],
     "channel", 403, "ACCESS_REFUSED - operation not permitted on the default exchange", (40, 10)),
    (lambda n: [spec.Exchange.Declare(exchange="amq." + n, type="direct")],
     "channel", 403, "ACCESS_REFUSED - exchange name 'amq.{n}' contains reserved prefix 'amq.*'", (40, 10)),
    (lambda n: [spec.Exchange.Delete(exchange="amq.direct")],
     "channel", 403, "ACCESS_REFUSED - deletion of system exchange 'amq.direct' in vhost '/' not allowed", (40, 20)),
    (lambda n: [spec.Queue.Declare(queue=n, exclusive=True), spec.Exchange.Declare(exchange=n, type="fanout", auto_delete=True),
                spec.Queue.Bind(queue=n, exchange=n, routing_key=""), spec.Exchange.Delete(exchange=n, if_unused=True)],
     "channel", 406, "PRECONDITION_FAILED - " + X + " in use", (40, 20)),
    (lambda n: [spec.Queue.Declare(queue=n, exclusive=True), spec.Basic.Consume(queue=n),
                spec.Queue.Delete(queue=n, if_unused=True)],
     "channel", 406, "PRECONDITION_FAILED - " + Q + " in use", (50, 40)),
    (lambda n: [spec.Queue.Declare(queue=n, exclusive=True), spec.Queue.Bind(queue=n, exchange=n, routing_key="")],
     "channel", 404, "NOT_FOUND - no " + X, (50, 20)),
    (lambda n: [spec.Queue.Bind(queue=n, exchange="amq.direct", routing_key="")],
     "channel", 404, "NOT_FOUND - no " + Q, (50, 20)),
    (lambda n: [spec.Queue.Bind(queue="", exchange="", routing_key="")],
     "channel", 404, "NOT_FOUND - no previously declared queue", (50, 20)),
    (lambda n: [spec.Queue.Declare(queue="", passive=True)],
     "channel", 404, "NOT_FOUND - no queue '' in vhost '/'", (50, 10)),
    (lambda n: [spec.Queue.Purge(queue=n)], "channel", 404, "NOT_FOUND - no " + Q, (50, 30)),
    (lambda n: [spec.Basic.Get(queue=n)], "channel", 404, "NOT_FOUND - no " + Q, (60, 70)),
    (lambda n: [spec.Basic.Consume(queue=n)], "channel", 404, "NOT_FOUND - no " + Q, (60, 20)),
    (lambda n: [publish(1, n, "", b"")], "channel", 404, "NOT_FOUND - no " + X, (60, 40)),
    (lambda n: [spec.Basic.Ack(7)], "channel", 406, "PRECONDITION_FAILED - unknown delivery tag 7", (60, 80)),
    (lambda n: [spec.Basic.Ack(0)], "channel", 406, "PRECONDITION_FAILED - unknown delivery tag 0", (60, 80)),
    (lambda n: [spec.Basic.Ack(0, multiple=True), spec.Basic.Nack(3, multiple=True)],
     "channel", 406, "PRECONDITION_FAILED - unknown delivery tag 3", (60, 120)),
    (lambda n: [spec.Tx.Select(), spec.Confirm.Select()],
     "channel", 406, "PRECONDITION_FAILED - cannot switch from tx to confirm mode", (85, 10)),
    (lambda n: [spec.Confirm.Select(), spec.Tx.Select()],
     "channel", 406, "PRECONDITION_FAILED - cannot switch from confirm to tx mode", (90, 10)),
    (lambda n: [spec.Channel.Open()], "connection", 504, "CHANNEL_ERROR - second 'channel.open' seen", (20, 10)),
    (lambda n: [method(2, spec.Basic.Qos())], "connection", 504, "CHANNEL_ERROR - expected 'channel.open'", (60, 10)),
    (lambda n: [spec.Channel.Flow(active=False)], "connection", 540, "NOT_IMPLEMENTED - active=false", (20, 20)),
    (lambda n: [spec.Queue.Declare(queue=n, exclusive=True), spec.Basic.Consume(queue=n, consumer_tag="c"),
                spec.Basic.Consume(queue=n, consumer_tag="c")],
     "connection", 530, "NOT_ALLOWED - attempt to reuse consumer tag 'c'", (60, 20)),
    (lambda n: [publish(1, "", n, b"x")[:-1] + b"\0"], "connection", 501, "FRAME_ERROR - …invalid_frame_end_marker…", (0, 0)),
    (lambda n: [raw(8, 1, b"")], "connection", 505, "UNEXPECTED_FRAME - …", None),
    (lambda n: [raw(3, 1, b"x")], "connection", 505, "UNEXPECTED_FRAME - expected method frame, got non method frame instead…", (0, 0)),
    (lambda n: [spec.Basic.Publish(routing_key=n), spec.Basic.Ack(1)], "connection", 505,
     "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead…", (60, 40)),
]


@pytest.mark.parametrize("row", range(len(TABLE)), ids=lambda i: f"{i}-{TABLE[i][2]}")
def test_an_error_says_what_failed(name, row):
    methods, what, code, text, ids = TABLE[row]
    got = error_of(*methods(name))
    assert (got[0], got[1]) == (what, code), got
    if ids:
        assert got[3] == ids, got
    rest = got[2]
    parts = text.replace("{n}", name).split("…")
    assert rest.startswith(parts[0]), got
    for part in parts[1:]:
        assert part in rest, got
    assert "…" in text or rest == parts[0], got


@pytest.mark.parametrize("harmless, answer", [
    (lambda n: spec.Queue.Delete(queue=n), spec.Queue.DeleteOk),
    (lambda n: spec.Exchange.Delete(exchange=n), spec.Exchange.DeleteOk),
    (lambda n: spec.Queue.Unbind(queue=n, exchange="amq.direct", routing_key="k"), spec.Queue.UnbindOk),
    (lambda n: spec.Exchange.Unbind(destination="amq.fanout", source="amq.direct", routing_key=n), spec.Exchange.UnbindOk),
    (lambda n: spec.Exchange.Declare(exchange="amq.direct", type="direct", durable=True), spec.Exchange.DeclareOk),
    (lambda n: spec.Basic.Cancel(consumer_tag=n), spec.Basic.CancelOk),
    (lambda n: spec.Basic.Recover(requeue=True), spec.Basic.RecoverOk),
    (lambda n: spec.Channel.Flow(active=True), spec.Channel.FlowOk),
], ids=lambda x: getattr(x, "NAME", ""))
def test_what_has_nothing_to_do_is_answered_all_the_same(name, harmless, answer):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Basic.Ack(0, multiple=True)), method(1, harmless(name)))
        wire.expect(answer)


def test_line_ends_vanish_from_names(name):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Queue.Declare(queue=f"\r{name}\n", exclusive=True)))
        assert wire.expect(spec.Queue.DeclareOk).queue == name


def test_a_reply_goes_to_its_requester_and_to_the_queues_in_cc(channel, queue):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True)))
        wire.expect(spec.Basic.ConsumeOk)
        wire.send(publish(1, "", queue, b"ask", BasicProperties(reply_to="amq.rabbitmq.reply-to")))
        _, properties, _ = take(channel, queue, auto_ack=True)
        put(channel, properties.reply_to, b"answer", headers={"CC": [queue]})
        wire.expect(spec.Basic.Deliver)
    assert drained(channel, queue) == [b"answer"]


def test_a_requester_named_twice_gets_one_copy_with_the_key_it_was_published_with(channel, queue, name):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Basic.Consume(queue="amq.rabbitmq.reply-to", no_ack=True)),
                  publish(1, "", queue, b"ask", BasicProperties(reply_to="amq.rabbitmq.reply-to")))
        to = take(channel, queue, auto_ack=True)[1].reply_to
        put(channel, to, b"twice", headers={"CC": [to], "BCC": [to]})
        put(channel, name, b"in CC", headers={"CC": [to]})
        for key in (to, name):
            assert wire.expect(spec.Basic.Deliver).routing_key == key
        wire.send(method(1, spec.Basic.Qos()))
        # One more copy would have come before.
        wire.frame(), wire.frame()
        assert isinstance(wire.frame().method, spec.Basic.QosOk)


def test_a_consumer_that_reads_late_and_does_not_acknowledge_misses_nothing(channel, name):
    """Of a queue in memory, whose messages are nobody's once they are on their way."""
    bodies = [b"%d." % n + b"x" * 4096 for n in range(3000)]
    with Wire(receive_buffer=65536).open() as wire:
        wire.channel()
        wire.send(method(1, spec.Queue.Declare(queue=name, exclusive=True)), method(1, spec.Basic.Consume(queue=name, no_ack=True)))
        wire.expect(spec.Basic.ConsumeOk)
        put(channel, name, *bodies)
        for n in range(len(bodies)):
            wire.expect(spec.Basic.Deliver)
            wire.frame()
            assert wire.frame().fragment == bodies[n]


def test_gets_without_acknowledgement_miss_nothing(channel, name):
    channel.queue_declare(name, exclusive=True)
    put(channel, name, *[b"%d" % n for n in range(2500)])
    assert drained(channel, name) == [b"%d" % n for n in range(2500)]
