"""Shovels: messages the cluster moves by itself, as parameters say; "move messages" of the management page is one."""
import os
import urllib.parse

import pika
import pytest

from conftest import URL, connect, put, take
from management import call, done, eventually, get, quote
from test_management import allow, pytestmark, user  # noqa: F401
from test_metrics import named, scrape

HERE = "amqp://"


@pytest.fixture
def shovel(name):
    """Defines shovels, and takes away those that are left."""
    defined = []

    def define(short="s", **value):
        title = f"{name}-{short}"
        terms = {key.replace("_", "-"): term for key, term in value.items()}
        body = {"value": {"src-uri": HERE, "dest-uri": HERE, **terms}}
        done("PUT", f"parameters/shovel/%2F/{quote(title)}", body=body)
        defined.append(title)
        return title

    yield define
    for title in defined:
        call("DELETE", f"parameters/shovel/%2F/{quote(title)}")


@pytest.fixture
def queues(connection, name):
    """Names of two queues, the first of which is there."""
    pair = [f"{name}-from", f"{name}-to"]
    connection.channel().queue_declare(pair[0], durable=True)
    yield pair
    with connect() as c:
        for queue in pair:
            c.channel().queue_delete(queue)


def status(title):
    rows = [row for row in get("shovels") if row["name"] == title]
    return rows[0] if rows else None


def in_state(title, state):
    def fact():
        row = status(title)
        return row if row and row["state"] == state else None
    return eventually(fact)


def gone(title):
    return eventually(lambda: call("GET", f"parameters/shovel/%2F/{quote(title)}").status == 404, deadline=60)


def count(channel, queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def test_what_is_in_a_queue_is_moved_and_then_the_shovel_goes(channel, shovel, queues):
    source, to = queues
    many = 2500
    channel.confirm_delivery()
    for number in range(many):
        properties = pika.BasicProperties(
            message_id=str(number), delivery_mode=2, priority=number % 3, content_type="x/y", headers={"n": number})
        channel.basic_publish("", source, b"%d" % number, properties)
    # As the page sends it.
    title = shovel(src_uri="amqp:///%2F", dest_uri="amqp:///%2F", src_queue=source, dest_queue=to,
                   src_prefetch_count=1000, src_delete_after="queue-length", dest_add_forward_headers=False,
                   ack_mode="on-confirm")
    gone(title)
    assert (count(channel, source), count(channel, to)) == (0, many)
    for number in range(many):
        _, properties, body = channel.basic_get(to, auto_ack=True)
        assert body == b"%d" % number and properties.headers == {"n": number}
        assert (properties.message_id, properties.priority) == (str(number), number % 3)
        assert (properties.content_type, properties.delivery_mode) == ("x/y", 2)


def test_as_many_as_are_wanted_are_moved_and_the_rest_stays(channel, shovel, queues):
    source, to = queues
    put(channel, source, *(b"%d" % number for number in range(20)))
    title = shovel(src_queue=source, dest_queue=to, src_delete_after=7)
    gone(title)
    eventually(lambda: count(channel, source) == 13)
    assert [take(channel, to, auto_ack=True)[2] for _ in range(7)] == [b"%d" % number for number in range(7)]
    assert take(channel, source, auto_ack=True)[2] == b"7"
    assert count(channel, to) == 0


def test_an_empty_queue_is_moved_at_once(shovel, queues):
    gone(shovel(src_queue=queues[0], dest_queue=queues[1], src_delete_after="queue-length"))


def test_a_shovel_that_stays_carries_what_comes_and_says_how_it_is(channel, shovel, queues):
    source, to = queues
    title = shovel(src_queue=source, dest_queue=to)
    row = in_state(title, "running")
    assert (row["type"], row["vhost"], row["src_queue"], row["dest_queue"]) == ("dynamic", "/", source, to)
    assert (row["src_uri"], row["src_protocol"], row["remaining"]) == (HERE, "amqp091", "unlimited")
    put(channel, source, b"one", b"two")
    assert [take(channel, to, auto_ack=True)[2] for _ in range(2)] == [b"one", b"two"]
    eventually(lambda: status(title)["forwarded"] == 2)
    assert status(title)["pending"] == 0
    assert [row["name"] for row in get("shovels/%2F") if row["name"] == title] == [title]
    defined = get(f"shovels/vhost/%2F/{quote(title)}")
    assert defined["value"]["src-queue"] == source and defined["component"] == "shovel"
    # The broker's own connections are nobody's.
    own = [c for c in get("connections") if c.get("user_provided_name") == f"Shovel {title}"]
    assert len(own) == 2 and {(c["user"], c["type"]) for c in own} == {("none", "direct")}


def test_shovels_are_counted_by_how_they_are(shovel, queues):
    in_state(shovel(src_queue=queues[0], dest_queue=queues[1]), "running")
    bad = shovel("bad", src_queue=queues[0] + "x", src_predeclared=True, dest_queue=queues[1])
    row = in_state(bad, "terminated")
    # They are counted where they run.
    here = row["node"] == get("overview")["node"]
    counts = {'status="running"': 1, 'status="terminated"': 1} if here else {}
    assert named(scrape(), "rabbitmq_shovel_dynamic") == counts


def test_what_is_added_to_the_headers_tells_the_way(channel, shovel, queues, name):
    source, to = queues
    last = name + "-last"
    channel.queue_declare(last)
    add = {"dest_add_forward_headers": True}
    shovel("1", src_queue=source, dest_queue=to, dest_add_timestamp_header=True, **add)
    second = shovel("2", src_queue=to, dest_queue=last, **add)
    put(channel, source, b"m", headers={"own": 1})
    headers = take(channel, last, auto_ack=True)[1].headers
    channel.queue_delete(last)
    assert headers["own"] == 1 and headers["x-shovelled-timestamp"] > 1_700_000_000
    newest, oldest = headers["x-shovelled"]
    assert newest == {
        "shovelled-by": get("cluster-name")["name"], "shovel-type": "dynamic", "shovel-name": second,
        "shovel-vhost": "/", "src-uri": HERE, "dest-uri": HERE, "src-queue": to, "dest-queue": last}
    assert oldest["src-queue"] == source


def test_from_an_exchange_to_an_exchange_with_another_key(channel, shovel, name):
    channel.exchange_declare(name, "topic")
    channel.exchange_declare(name + "-to", "direct")
    got = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(got, name + "-to", "new")
    title = shovel(src_exchange=name, src_exchange_key="a.*", dest_exchange=name + "-to", dest_exchange_key="new",
                   dest_publish_properties={"content_type": "set", "delivery_mode": 2})
    in_state(title, "running")
    channel.confirm_delivery()
    channel.basic_publish(name, "b.x", b"no")
    channel.basic_publish(name, "a.x", b"yes", pika.BasicProperties(content_type="was", message_id="7"))
    method, properties, body = take(channel, got, auto_ack=True)
    assert (method.exchange, method.routing_key, body) == (name + "-to", "new", b"yes")
    assert (properties.content_type, properties.delivery_mode, properties.message_id) == ("set", 2, "7")
    for exchange in (name, name + "-to"):
        channel.exchange_delete(exchange)


def test_without_a_destination_it_goes_where_it_was_published(channel, shovel, queues, name):
    """Exchange and key stay: so a vhost is mirrored into another."""
    done("PUT", "vhosts/" + quote(name), 201)
    allow("guest", name, ".*", ".*", ".*")
    with connect(virtual_host=name) as c:
        there = c.channel()
        there.queue_declare("x")
        there.queue_bind("x", "amq.direct", "key")
        channel.queue_bind(queues[0], "amq.direct", "key")
        shovel(src_queue=queues[0], dest_uri=f"amqp:///{quote(name)}")
        put(channel, "key", b"m", exchange="amq.direct")
        method, _, body = take(there, "x", auto_ack=True)
        assert (method.exchange, method.routing_key, body) == ("amq.direct", "key", b"m")
    done("DELETE", "vhosts/" + quote(name))


@pytest.mark.parametrize("mode", ["no-ack", "on-publish", "on-confirm"])
def test_every_way_of_acknowledging_empties_the_source(channel, shovel, queues, mode):
    source, to = queues
    put(channel, source, *(b"%d" % number for number in range(300)))
    gone(shovel(src_queue=source, dest_queue=to, src_delete_after="queue-length", ack_mode=mode, src_prefetch_count=50))
    eventually(lambda: count(channel, to) == 300)
    assert count(channel, source) == 0


def test_what_the_destination_refuses_stays_in_the_source(channel, shovel, queues):
    source, to = queues
    channel.queue_declare(to, durable=True, arguments={"x-max-length": 5, "x-overflow": "reject-publish"})
    put(channel, source, *(b"%d" % number for number in range(12)))
    title = shovel(src_queue=source, dest_queue=to, src_delete_after="queue-length")
    eventually(lambda: count(channel, to) == 5)
    bodies = []
    while len(bodies) < 12:
        bodies.append(take(channel, to, auto_ack=True)[2])
    gone(title)
    assert sorted(bodies, key=int) == [b"%d" % number for number in range(12)]
    assert (count(channel, source), count(channel, to)) == (0, 0)


def test_another_broker_is_reached_by_its_address(channel, shovel, queues):
    source, to = queues
    parts = urllib.parse.urlsplit(URL)
    there = f"amqp://{parts.netloc}/%2F?heartbeat=5&connection_timeout=5000"
    title = shovel(src_uri=[there], dest_uri=there, src_queue=source, dest_queue=to)
    row = in_state(title, "running")
    assert row["src_uri"] == row["dest_uri"] == f"amqp://{parts.hostname}:{parts.port}/%2F"
    put(channel, source, b"far")
    assert take(channel, to, auto_ack=True)[2] == b"far"
    own = [c for c in get("connections") if c.get("user_provided_name") == f"Shovel {title}"]
    assert {(c["user"], c["type"]) for c in own} == {("guest", "network")}


def test_a_login_that_is_refused_is_told_without_the_password(shovel, queues):
    parts = urllib.parse.urlsplit(URL)
    wrong = f"amqp://guest:sesame@{parts.hostname}:{parts.port}"
    title = shovel(dest_uri=wrong, src_queue=queues[0], dest_queue=queues[1], reconnect_delay=0)
    row = in_state(title, "terminated")
    assert row["reason"].startswith("ACCESS_REFUSED - Login was refused")
    assert "sesame" not in str(get("shovels"))


def test_a_user_of_its_own_is_checked_as_any(channel, shovel, queues, user):
    allow(user, read=".*")
    # No host: this cluster, but not as the broker itself.
    mine = f"amqp://{user}:{user}@/%2F"
    channel.queue_declare(queues[1])
    title = shovel(dest_uri=mine, src_queue=queues[0], dest_queue=queues[1], reconnect_delay=1)
    put(channel, queues[0], b"m")
    row = in_state(title, "terminated")
    assert row["reason"].startswith("ACCESS_REFUSED - write access to exchange 'amq.default'")
    allow(user, read=".*", write=".*")
    assert take(channel, queues[1], auto_ack=True)[2] == b"m"


def test_a_queue_that_is_not_there_is_made_unless_that_is_forbidden(channel, shovel, queues, name):
    title = shovel(src_queue=name + "-none", src_predeclared=True, dest_queue=queues[1], reconnect_delay=1)
    row = in_state(title, "terminated")
    assert row["reason"] == f"NOT_FOUND - no queue '{name}-none' in vhost '/'"
    channel.queue_declare(name + "-none", arguments={"x-max-length": 9})
    put(channel, name + "-none", b"m")
    assert take(channel, queues[1], auto_ack=True)[2] == b"m"
    channel.queue_delete(name + "-none")
    in_state(title, "terminated")
    made = shovel("made", src_queue=queues[0], dest_queue=name + "-made", dest_queue_args={"x-queue-type": "quorum"})
    in_state(made, "running")
    queue = get(f"queues/%2F/{name}-made")
    assert (queue["durable"], queue["type"]) == (True, "quorum")
    channel.queue_delete(name + "-made")


def test_a_source_that_is_deleted_and_made_again_is_found_again(channel, shovel, queues):
    source, to = queues
    title = shovel(src_queue=source, dest_queue=to, reconnect_delay=1)
    in_state(title, "running")
    channel.queue_delete(source)
    eventually(lambda: call("GET", f"queues/%2F/{quote(source)}").status == 200)
    put(channel, source, b"again")
    assert take(channel, to, auto_ack=True)[2] == b"again"


def test_another_definition_takes_the_place_of_the_first(channel, shovel, queues, name):
    source, to = queues
    in_state(shovel(src_queue=source, dest_queue=to), "running")
    other = name + "-other"
    title = shovel(src_queue=source, dest_queue=other)
    eventually(lambda: (status(title) or {}).get("dest_queue") == other)
    put(channel, source, b"m")
    assert take(channel, other, auto_ack=True)[2] == b"m"
    channel.queue_delete(other)


def test_a_shovel_is_restarted_and_deleted(shovel, queues):
    title = shovel(src_queue=queues[0], dest_queue=queues[1])
    path = f"shovels/vhost/%2F/{quote(title)}"
    in_state(title, "running")
    own = {c["name"] for c in get("connections") if c.get("user_provided_name") == f"Shovel {title}"}
    done("DELETE", path + "/restart", 204)
    eventually(lambda: own.isdisjoint(c["name"] for c in get("connections")))
    in_state(title, "running")
    done("DELETE", path, 204)
    gone(title)
    eventually(lambda: status(title) is None)
    for path in (path, path + "/restart"):
        assert call("DELETE", path).status == 404
    assert call("GET", "shovels/none").status == 404


@pytest.mark.parametrize("terms, reason", [
    ({}, "Must specify 'src-exchange' or 'src-queue'"),
    ({"src-queue": "a", "src-exchange": "e"}, "Cannot specify 'src-exchange' and 'src-queue'"),
    ({"src-queue": "a", "dest-queue": "b", "dest-exchange": "x"}, "Cannot specify 'dest-exchange' and 'dest-queue'"),
    ({"src-queue": "a", "src-delete-after": 5, "ack-mode": "no-ack"},
     "Cannot specify 'no-ack' and numerical 'delete-after'"),
    ({"src-queue": "a", "reconnect-delay": "x"}, 'reconnect-delay should be a number, actually was "x"'),
    ({"src-queue": "a", "src-uri": 5}, "src-uri should be list, actually was 5"),
    ({"src-queue": "a", "src-uri": "http://u:secret@x"}, '"http://x" not a valid URI: unexpected URI scheme "http"'),
    ({"src-queue": "a", "src-uri": "amqp:///nope"}, 'user "guest" may not connect to vhost "nope"'),
])
def test_what_a_definition_must_not_be_is_refused(name, terms, reason):
    value = {"src-uri": HERE, "dest-uri": HERE, **terms}
    answer = call("PUT", f"parameters/shovel/%2F/{name}", {"value": value})
    assert (answer.status, answer.json) == (
        400, {"error": "bad_request", "reason": f"Validation failed\n\n{reason}\n"})
    assert call("GET", f"parameters/shovel/%2F/{name}").status == 404


def test_who_may_not_set_parameters_may_not_move_messages(user):
    allow(user, read=".*", write=".*", configure=".*")
    done("PUT", f"users/{user}", body={"password": user, "tags": "monitoring"})
    value = {"src-uri": HERE, "dest-uri": HERE, "src-queue": "a", "dest-queue": "b"}
    assert call("PUT", "parameters/shovel/%2F/s", {"value": value}, user=user).status == 401
    assert call("GET", "shovels", user=user).status == 200
    assert call("DELETE", "shovels/vhost/%2F/s", user=user).status == 401
    done("PUT", f"users/{user}", body={"password": user, "tags": "management"})
    assert call("GET", "shovels", user=user).status == 401


def test_nobody_can_be_the_broker_itself(name):
    """What a shovel is in its own cluster is no user: it has no password, and cannot be made."""
    for title in ("none", "\0none"):
        assert call("GET", "whoami", user=title).status == 401
    assert call("PUT", "users/%00none", {"password": "none", "tags": ""}).status in (201, 204, 400)
    assert call("GET", "whoami", user="\0none", password="none").status == 401
    assert "\0none" not in [row["name"] for row in get("users")]


def under_tls(**query):
    query = urllib.parse.urlencode({key: value for key, value in query.items() if value})
    return f"amqps://{{login}}localhost:{os.environ['BROKER_TLS_PORT']}?{query}"


def certificate(file):
    return os.path.join(os.environ["BROKER_CERTIFICATES"], file)


needs_tls = pytest.mark.skipif(not os.environ.get("BROKER_TLS_PORT"), reason="no TLS here")


@needs_tls
@pytest.mark.parametrize("verify", ["verify_peer", "verify_none"])
def test_a_broker_is_reached_under_tls(channel, shovel, queues, verify):
    source, to = queues
    checked = verify == "verify_peer"
    address = under_tls(verify=verify, cacertfile=checked and certificate("ca.pem"))
    title = shovel(dest_uri=address.format(login="guest:guest@"), src_queue=source, dest_queue=to)
    in_state(title, "running")
    bodies = [b"x" * size for size in (0, 1, 100_000, 5_000_000)]
    put(channel, source, *bodies)
    assert [take(channel, to, auto_ack=True)[2] for _ in bodies] == bodies


@needs_tls
def test_a_certificate_of_its_own_is_its_login(channel, shovel, queues):
    source, to = queues
    done("PUT", "users/client", body={"password_hash": "", "tags": ""})
    allow("client", configure=".*", write=".*", read=".*")
    address = under_tls(
        verify="verify_peer", cacertfile=certificate("ca.pem"), certfile=certificate("client.pem"),
        keyfile=certificate("client.key"), auth_mechanism="external")
    title = shovel(dest_uri=address.format(login=""), src_queue=source, dest_queue=to)
    in_state(title, "running")
    put(channel, source, b"m")
    assert take(channel, to, auto_ack=True)[2] == b"m"
    done("DELETE", "users/client")


@needs_tls
def test_a_broker_that_cannot_be_verified_gets_nothing(shovel, queues):
    address = under_tls(verify="verify_peer", cacertfile=certificate("stranger.pem"))
    title = shovel(dest_uri=address.format(login="guest:guest@"), src_queue=queues[0], dest_queue=queues[1])
    assert "UnknownIssuer" in in_state(title, "terminated")["reason"]
