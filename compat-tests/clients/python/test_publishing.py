"""Rows of the behaviour reference about publishing, confirms, transactions, consuming, settling, direct replies, and what of a
message is changed: what one sequence of frames shows."""
import time

import pytest
from pika import BasicProperties, frame, spec

from conftest import connect, drained, ours_only, put, take
from management import done
from test_wire import error_of
from wire import Wire, method, publish

PUBLISH = (60, 40)
REPLY = "amq.rabbitmq.reply-to"


def said(wire, *methods):
    """Sends methods on channel 1; what comes back up to the answer of one more behind them, without contents."""
    last = spec.Exchange.Declare(exchange="amq.direct", passive=True)
    wire.send(*[m if isinstance(m, bytes) else method(1, m) for m in (*methods, last)])
    got = []
    while True:
        one = wire.frame()
        assert one is not None, got
        if isinstance(one, frame.Method):
            if isinstance(one.method, spec.Exchange.DeclareOk):
                return got
            assert one.method.NAME != "Connection.Close", one.method
            got.append(one.method)


def names(wire, *methods):
    return [one.NAME for one in said(wire, *methods)]


@pytest.fixture
def wire():
    with Wire().open() as one:
        one.channel()
        yield one


# 15.1

NO_REPLY = {"reply_to": REPLY}
FAULTS = [
    # Of two faults of a publish, the one that is told.
    ("nowhere", NO_REPLY, 404, "no exchange 'nowhere' in vhost '/'"),
    ("", {**NO_REPLY, "expiration": "x"}, 406, "fast reply consumer does not exist"),
    ("", {"expiration": "x", "headers": {"CC": 1}}, 406, "invalid expiration 'x': no_integer"),
    ("", {"headers": {"CC": 1}, "user_id": "x"}, 406, 'invalid message: {unacceptable_type_in_header,"CC",signedint}'),
]


@pytest.mark.parametrize("exchange, properties, code, text", FAULTS, ids=lambda x: str(x)[:20])
def test_of_two_faults_of_a_publish_the_first_is_told(exchange, properties, code, text):
    got = error_of(publish(1, exchange, "", b"", BasicProperties(**properties)))
    assert (got[1], got[3]) == (code, PUBLISH) and got[2].endswith(text), got


@ours_only
@pytest.mark.parametrize("immediate, code", [(True, 540), (False, 406)])
def test_the_size_of_a_body_is_looked_at_before_its_exchange_and_immediate_before_both(immediate, code):
    size, slice_size = (16 << 20) + 1, 131_064
    frames = [method(1, spec.Basic.Publish(exchange="nowhere", immediate=immediate)), frame.Header(1, size, BasicProperties()).marshal()]
    frames += [frame.Body(1, b"x" * min(slice_size, size - at)).marshal() for at in range(0, size, slice_size)]
    assert error_of(*frames)[1] == code


def test_what_no_rule_forbids_is_published(wire, name):
    odd = BasicProperties(delivery_mode=7, priority=255)
    assert names(wire, spec.Queue.Declare(queue=name, exclusive=True), publish(1, "", name, b"x", odd), publish(1, "", "nowhere", b""),
                 spec.Basic.Get(queue=name, no_ack=True)) == ["Queue.DeclareOk", "Basic.GetOk"]


# 15.2, 15.3

def confirms(wire, count):
    """Reads until so many publishes have their verdict; verdicts by number, and what else came, in order."""
    verdicts, seen = {}, []
    while len(verdicts) < count:
        one = wire.frame()
        if not isinstance(one, frame.Method):
            continue
        seen.append(one.method.NAME)
        if isinstance(one.method, (spec.Basic.Ack, spec.Basic.Nack)):
            tag = one.method.delivery_tag
            first = min(set(range(1, tag + 1)) - set(verdicts)) if one.method.multiple else tag
            for number in range(first, tag + 1):
                assert verdicts.setdefault(number, one.method.NAME) is not None
    return verdicts, seen


def test_a_return_comes_before_its_ack_and_shows_no_bcc(wire):
    properties = BasicProperties(headers={"CC": ["a"], "BCC": ["b"]})
    wire.send(method(1, spec.Confirm.Select()), publish(1, "", "nowhere", b"x", properties, mandatory=True))
    returned = wire.expect(spec.Basic.Return)
    assert (returned.reply_code, returned.reply_text, returned.exchange, returned.routing_key) == (312, "NO_ROUTE", "", "nowhere")
    assert wire.frame().properties.headers == {"CC": ["a"]}
    assert wire.expect(spec.Basic.Ack).delivery_tag == 1


def test_a_refused_message_is_nacked_once_and_not_returned_and_the_others_are_acked(wire, name):
    full = {"x-max-length": 0, "x-overflow": "reject-publish"}
    wire.send(method(1, spec.Queue.Declare(queue=name, exclusive=True)),
              method(1, spec.Queue.Declare(queue=name + "-full", exclusive=True, arguments=full)),
              method(1, spec.Confirm.Select()), method(1, spec.Confirm.Select()),
              *[publish(1, "", name + "-full" if number == 3 else name, b"x", mandatory=True) for number in range(1, 6)])
    verdicts, seen = confirms(wire, 5)
    assert verdicts == {number: "Basic.Nack" if number == 3 else "Basic.Ack" for number in range(1, 6)}
    assert "Basic.Return" not in seen


def test_numbers_begin_at_the_first_select_and_go_on_after_another(wire):
    wire.send(publish(1, "", "nowhere", b""), method(1, spec.Confirm.Select()), publish(1, "", "nowhere", b""),
              method(1, spec.Confirm.Select()), publish(1, "", "nowhere", b""))
    assert set(confirms(wire, 2)[0]) == {1, 2}


def test_an_error_of_a_channel_loses_its_confirms_and_what_came_behind_it(channel, queue):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Confirm.Select()), publish(1, "nowhere", "", b""), publish(1, "", queue, b"behind"))
        wire.expect(spec.Confirm.SelectOk)
        assert wire.error()[1] == 404
        wire.send(method(1, spec.Channel.CloseOk()), method(1, spec.Channel.Open()))
        wire.expect(spec.Channel.OpenOk)
    assert drained(channel, queue) == []


def test_publishes_to_a_queue_that_is_deleted_meanwhile_are_acked(channel, name):
    with Wire().open() as wire:
        wire.channel()
        wire.send(method(1, spec.Confirm.Select()), method(1, spec.Queue.Declare(queue=name, durable=True)),
                  *[publish(1, "", name, b"x", BasicProperties(delivery_mode=2)) for _ in range(100)],
                  method(1, spec.Queue.Delete(queue=name)), publish(1, "", name, b"x"))
        assert set(confirms(wire, 101)[0].values()) == {"Basic.Ack"}


def test_an_alternate_exchange_makes_a_message_routed(wire, name):
    alternate = {"alternate-exchange": "amq.fanout"}
    assert names(wire, spec.Exchange.Declare(exchange=name, type="direct", auto_delete=True, arguments=alternate, nowait=True),
                 spec.Queue.Declare(queue=name, exclusive=True),
                 spec.Queue.Bind(queue=name, exchange="amq.fanout", routing_key="")) == ["Queue.DeclareOk", "Queue.BindOk"]
    assert names(wire, publish(1, name, "k", b"", mandatory=True), spec.Exchange.Delete(exchange=name)) == ["Exchange.DeleteOk"]


# 16

def test_settlements_of_a_transaction_are_checked_at_once_and_count_at_commit(channel, wire, queue):
    put(channel, queue, b"1", b"2")
    opening = [spec.Tx.Select(), spec.Tx.Select(), spec.Basic.Qos(prefetch_count=1), spec.Basic.Consume(queue=queue, consumer_tag="c")]
    wire.send(*[method(1, m) for m in opening])
    wire.expect(spec.Basic.Deliver)
    # Its place is free when the transaction ends, not before.
    assert names(wire, spec.Basic.Ack(1), spec.Queue.Declare(queue=queue, passive=True)) == ["Queue.DeclareOk"]
    wire.send(method(1, spec.Tx.Commit()))
    wire.expect(spec.Basic.Deliver)
    wire.send(method(1, spec.Basic.Ack(1)))
    assert wire.error()[2] == "PRECONDITION_FAILED - unknown delivery tag 1"


def test_a_rollback_gives_tags_back_and_a_close_gives_all_back(channel, wire, queue):
    put(channel, queue, b"1", b"2")
    get = spec.Basic.Get(queue=queue)
    assert names(wire, spec.Tx.Select(), get, get, spec.Basic.Ack(2), spec.Basic.Nack(1, requeue=True), spec.Tx.Rollback(),
                 spec.Basic.Ack(1), spec.Tx.Commit(), spec.Basic.Ack(2)) == [
        "Tx.SelectOk", "Basic.GetOk", "Basic.GetOk", "Tx.RollbackOk", "Tx.CommitOk"]
    wire.send(publish(1, "", queue, b"lost"), method(1, spec.Channel.Close(0, "", 0, 0)))
    wire.expect(spec.Channel.CloseOk)
    assert drained(channel, queue) == [b"2"]


def test_what_is_declared_in_a_transaction_is_no_part_of_it(wire, name):
    declare = spec.Queue.Declare(queue=name, exclusive=True)
    assert names(wire, spec.Tx.Select(), declare, spec.Tx.Rollback(), spec.Queue.Declare(queue=name, passive=True)) == [
        "Tx.SelectOk", "Queue.DeclareOk", "Tx.RollbackOk", "Queue.DeclareOk"]


def test_a_reject_of_a_transaction_is_a_dead_letter_at_commit(channel, wire, name):
    channel.queue_declare(name + "-dead", exclusive=True)
    wire.send(method(1, spec.Queue.Declare(queue=name, exclusive=True, arguments={
        "x-dead-letter-exchange": "", "x-dead-letter-routing-key": name + "-dead"})), publish(1, "", name, b"1"))
    assert names(wire, spec.Tx.Select(), spec.Basic.Get(queue=name), spec.Basic.Reject(1, requeue=False),
                 spec.Tx.Rollback(), spec.Basic.Reject(1, requeue=False)) == [
        "Queue.DeclareOk", "Tx.SelectOk", "Basic.GetOk", "Tx.RollbackOk"]
    assert drained(channel, name + "-dead") == []
    assert names(wire, spec.Tx.Commit()) == ["Tx.CommitOk"]
    assert take(channel, name + "-dead", auto_ack=True)[2] == b"1"


# 17

def delivered(wire, least, *methods):
    """How many deliveries methods lead to: at least so many, and what comes within two round trips through the queue more."""
    asked = spec.Queue.Declare(queue=methods[-1].queue, passive=True)
    count, end = names(wire, *methods).count("Basic.Deliver"), time.monotonic() + 10
    while count < least and time.monotonic() < end:
        count += names(wire, asked).count("Basic.Deliver")
    return count + names(wire, asked, asked).count("Basic.Deliver")


@ours_only
@pytest.mark.parametrize("qos, count", [
    ([dict(prefetch_count=3), dict(prefetch_count=5, global_qos=True)], 5),
    ([dict(prefetch_count=2, global_qos=True), dict(prefetch_count=3)], 6),
    ([dict(prefetch_count=2)], 4),
], ids=["both", "lifted", "each"])
def test_limits_of_consumers_and_of_the_channel(channel, wire, queue, qos, count):
    put(channel, queue, *[b"x"] * 20)
    for one in qos:
        said(wire, spec.Basic.Qos(**one))
    consume = [spec.Basic.Consume(queue=queue, consumer_tag=tag) for tag in "ab"]
    assert delivered(wire, count, *consume) == count


@ours_only
def test_what_was_got_counts_for_the_channels_limit_and_get_is_never_limited(channel, wire, queue):
    put(channel, queue, *[b"x"] * 9)
    get = spec.Basic.Get(queue=queue)
    assert names(wire, get, get, spec.Basic.Qos(prefetch_count=3, global_qos=True)) == ["Basic.GetOk", "Basic.GetOk", "Basic.QosOk"]
    assert delivered(wire, 1, spec.Basic.Consume(queue=queue)) == 1
    assert names(wire, get) == ["Basic.GetOk"]


def test_automatic_acknowledgement_knows_no_prefetch(channel, wire, queue):
    put(channel, queue, *[b"x"] * 9)
    said(wire, spec.Basic.Qos(prefetch_count=1), spec.Basic.Qos(prefetch_count=1, global_qos=True))
    wire.send(method(1, spec.Basic.Consume(queue=queue, no_ack=True)))
    for _ in range(9):
        wire.expect(spec.Basic.Deliver)


def test_consume_ok_comes_first_tags_are_the_channels_own_and_no_local_is_ignored(channel, wire, queue):
    put(channel, queue, b"1")
    wire.channel(2)
    # Class 60, method 20, with no-local.
    consume = b"\x00\x3c\x00\x14\x00\x00" + bytes([len(queue)]) + queue.encode() + b"\x01t\x01\x00\x00\x00\x00"
    wire.send(b"\x01\x00\x01" + len(consume).to_bytes(4, "big") + consume + b"\xce")
    while not isinstance(got := wire.frame(), frame.Method):
        pass
    assert isinstance(got.method, spec.Basic.ConsumeOk)
    wire.expect(spec.Basic.Deliver)
    wire.send(publish(1, "", queue, b"own"))
    wire.expect(spec.Basic.Deliver)
    wire.send(method(2, spec.Basic.Consume(queue=queue, consumer_tag="t")))
    wire.expect(spec.Basic.ConsumeOk)


def test_an_exclusive_consumer_comes_first_or_not_at_all_and_does_not_keep_get_out(channel, wire, queue):
    text = f"ACCESS_REFUSED - queue '{queue}' in vhost '/' in exclusive use"
    said(wire, spec.Basic.Consume(queue=queue, consumer_tag="c"))
    assert error_of(spec.Basic.Consume(queue=queue, exclusive=True)) == ("channel", 403, text, (60, 20))
    said(wire, spec.Basic.Cancel(consumer_tag="c"), spec.Basic.Consume(queue=queue, consumer_tag="d", exclusive=True))
    assert error_of(spec.Basic.Consume(queue=queue)) == ("channel", 403, text, (60, 20))
    assert channel.basic_get(queue) == (None, None, None)


def test_a_cancelled_consumers_messages_may_be_settled_and_a_clients_cancel_ok_is_nothing(channel, wire, queue):
    put(channel, queue, b"1", b"2")
    wire.send(method(1, spec.Basic.Consume(queue=queue, consumer_tag="c")))
    wire.expect(spec.Basic.Deliver), wire.expect(spec.Basic.Deliver)
    assert names(wire, spec.Basic.Cancel(consumer_tag="c"), spec.Basic.Ack(1), spec.Basic.CancelOk("other")) == ["Basic.CancelOk"]
    wire.send(method(1, spec.Channel.Close(0, "", 0, 0)))
    wire.expect(spec.Channel.CloseOk)
    assert drained(channel, queue) == [b"2"]


@pytest.mark.parametrize("settle, tag", [
    (spec.Basic.Ack(2), 2), (spec.Basic.Ack(2, multiple=True), 2), (spec.Basic.Nack(9), 9), (spec.Basic.Reject(0), 0),
    (spec.Basic.Ack(4), 4),
], ids=str)
def test_a_tag_that_is_not_outstanding_closes_the_channel_and_gives_the_rest_back(channel, wire, queue, settle, tag):
    put(channel, queue, b"1", b"2", b"3", b"4")
    get = spec.Basic.Get(queue=queue)
    # 2 is settled; 4 was never to be settled.
    said(wire, get, get, get, spec.Basic.Get(queue=queue, no_ack=True), spec.Basic.Ack(2))
    wire.send(method(1, settle))
    assert wire.error()[2] == f"PRECONDITION_FAILED - unknown delivery tag {tag}"
    assert drained(channel, queue) == [b"1", b"3"]


def test_recover_gives_back_what_was_got_too_and_its_async_form_says_nothing(channel, wire, queue):
    put(channel, queue, b"1")
    said(wire, spec.Basic.Get(queue=queue))
    assert names(wire, spec.Basic.RecoverAsync(requeue=True)) == []
    [got] = said(wire, spec.Basic.Get(queue=queue))
    assert (got.delivery_tag, got.redelivered) == (2, True)
    assert names(wire, spec.Basic.Recover(requeue=True)) == ["Basic.RecoverOk"]
    assert error_of(spec.Basic.RecoverAsync(requeue=False)) == ("connection", 540, "NOT_IMPLEMENTED - requeue=false", (60, 100))


@pytest.mark.parametrize("settle", [spec.Basic.Ack(1), spec.Basic.Nack(1), spec.Basic.Reject(1)], ids=lambda m: m.NAME)
def test_to_settle_a_message_of_a_deleted_queue_is_no_error(channel, wire, name, settle):
    channel.queue_declare(name)
    put(channel, name, b"1")
    said(wire, spec.Basic.Get(queue=name))
    channel.queue_delete(name)
    assert names(wire, settle, spec.Basic.Qos()) == ["Basic.QosOk"]


# 18

@pytest.fixture
def requester(wire):
    said(wire, spec.Basic.Consume(queue=REPLY, consumer_tag="r", no_ack=True, exclusive=True, arguments={"x-priority": "ignored"}))
    return wire


def address(wire, channel, queue):
    said(wire, publish(1, "", queue, b"ask", BasicProperties(reply_to=REPLY)))
    return take(channel, queue, auto_ack=True)[1].reply_to


def test_an_address_is_two_words_behind_the_name_and_ends_with_its_consumer(requester, channel, queue):
    to = address(requester, channel, queue)
    assert to.startswith(REPLY + ".") and len(to[len(REPLY) + 1:].split(".")) == 2
    assert names(requester, spec.Basic.Cancel(consumer_tag="r"), spec.Basic.Consume(queue=REPLY, no_ack=True)) == [
        "Basic.CancelOk", "Basic.ConsumeOk"]
    assert address(requester, channel, queue) != to
    assert error_of(spec.Queue.Declare(queue=to, passive=True)) == ("channel", 404, f"NOT_FOUND - no queue '{to}' in vhost '/'", (50, 10))
    put(channel, to, b"late")
    assert names(requester) == []


@ours_only
def test_a_reply_counts_as_routed_and_is_confirmed_whether_its_requester_is_there_or_not(requester, channel, queue):
    to = address(requester, channel, queue)
    for key in (to, REPLY + ".gone.x"):
        with Wire().open() as wire:
            wire.channel()
            wire.send(method(1, spec.Confirm.Select()), publish(1, "", key, b"x", mandatory=True))
            verdicts, seen = confirms(wire, 1)
            assert (verdicts, "Basic.Return" in seen) == ({1: "Basic.Ack"}, False)


def test_a_reply_takes_a_delivery_tag_and_no_acknowledgement(requester, channel, queue):
    put(channel, address(requester, channel, queue), b"answer")
    got = requester.expect(spec.Basic.Deliver)
    assert (got.consumer_tag, got.delivery_tag, got.redelivered, got.exchange) == ("r", 1, False, "")
    requester.send(method(1, spec.Basic.Ack(1)))
    assert requester.error()[1] == 406


def test_only_the_default_exchange_of_the_same_vhost_leads_to_a_requester(requester, channel, queue, name):
    to = address(requester, channel, queue)
    with Wire().open() as wire:
        wire.channel()
        assert names(wire, publish(1, "amq.direct", to, b"", mandatory=True)) == ["Basic.Return"]
    if not names(requester):
        done("PUT", f"vhosts/{name}")
        done("PUT", f"permissions/{name}/guest", body={"configure": ".*", "write": ".*", "read": ".*"})
        elsewhere = connect(virtual_host=name)
        put(elsewhere.channel(), to, b"x")
        elsewhere.close()
        done("DELETE", f"vhosts/{name}")
    assert names(requester) == []


def test_any_declaration_of_an_address_or_the_name_finds_it(requester, channel, queue):
    to = address(requester, channel, queue)
    for asked in (to, REPLY):
        for flags in ({}, {"passive": True}, {"durable": True, "exclusive": True, "auto_delete": True}):
            [ok] = said(requester, spec.Queue.Declare(queue=asked, **flags))
            assert (ok.queue, ok.message_count, ok.consumer_count) == (asked, 0, 1)
    for method_ in (spec.Queue.Bind, spec.Queue.Unbind):
        got = error_of(method_(queue=to, exchange="amq.direct", routing_key="k"))
        assert got[1:3] == (403, "ACCESS_REFUSED - cannot bind or unbind to a volatile (direct reply-to) queue")


def test_a_request_needs_the_reply_consumer_of_its_own_channel(requester, queue):
    requester.channel(2)
    requester.send(publish(2, "", queue, b"", BasicProperties(reply_to=REPLY)))
    assert requester.error()[2] == "PRECONDITION_FAILED - fast reply consumer does not exist"


# 19

@pytest.mark.parametrize("given", [
    {}, {"delivery_mode": 1}, {"expiration": "60000"}, {"timestamp": 5}, {"headers": {}}, {"headers": {"b": 1, "a": 2}},
    {"headers": {"x-death": "mine", "x-delivery-count": 7, "x-acquired-count": 3, "x-stream-offset": 3, "x-first-death-queue": "z"}},
], ids=str)
def test_what_a_client_says_comes_back_as_it_said_it(channel, queue, given):
    put(channel, queue, b"", **given)
    properties = take(channel, queue, auto_ack=True)[1]
    assert {key: value for key, value in vars(properties).items() if value is not None} == given


@ours_only
def test_the_brokers_counts_replace_a_clients_when_it_has_some(channel, name):
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    put(channel, name, b"", headers={"x-delivery-count": 77, "x-acquired-count": 3})
    got, properties, _ = take(channel, name)
    assert properties.headers == {"x-delivery-count": 77, "x-acquired-count": 3}
    channel.basic_reject(got.delivery_tag, requeue=True)
    assert take(channel, name)[1].headers == {"x-delivery-count": 1, "x-acquired-count": 1}
    channel.queue_delete(name)
