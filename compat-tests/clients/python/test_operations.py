"""The small endpoints of the management API, and what of the others scripts rely on: RabbitMQ's rows that have no other test."""
import base64
import hashlib
import json

import pytest

from conftest import OURS, connect, put, take
from management import URL as API, call, done, eventually, get, quote

pytestmark = pytest.mark.skipif(not (API and OURS), reason="no management API to ask")


@pytest.fixture
def vhost(name):
    done("PUT", f"vhosts/{name}", 201)
    yield name
    call("DELETE", f"vhosts/{name}")


def test_small_endpoints_answer_as_tools_expect():
    node = get("overview")["node"]
    assert get("extensions") == [{"javascript": "dispatcher.js"}]
    assert call("GET", "version", user=None).json == get("overview")["rabbitmq_version"]
    assert call("GET", "auth", user=None).json == {"oauth_enabled": False}
    for path in ("healthchecks/node", f"healthchecks/node/{node}", "health/checks/node-is-mirror-sync-critical"):
        assert get(path)["status"] == "ok", path
    for path in ("federation-links", "federation-links/%2F", "federation-links/state/down", "stream/connections", "stream/connections/%2F",
                 "stream/publishers", "stream/publishers/%2F", "stream/publishers/%2F/s", "stream/consumers", "stream/consumers/%2F"):
        assert get(path) == [], path
    for method, path in (("DELETE", "reset"), ("DELETE", f"reset/{node}"), ("POST", "rebalance/queues"), ("POST", f"vhosts/%2F/start/{node}"),
                         ("DELETE", "login"), ("PUT", "feature-flags/khepri_db/enable")):
        done(method, path, 204)
    assert call("POST", "vhosts/%2F/start/rabbit@nowhere").status == 400
    assert call("PUT", "feature-flags/no_such_flag/enable").status == 400
    assert call("GET", f"nodes/{node}?columns=name,mem_used").json.keys() == {"name", "mem_used"}
    for switch in ("memory", "binary"):
        assert get(f"nodes/{node}?{switch}=true")["name"] == node
    assert get(f"nodes/{node}?memory=true")["memory"]["total"]["rss"] > 0
    hashed = base64.b64decode(get("auth/hash_password/s%C3%A9cret")["ok"])
    assert hashed[4:] == hashlib.sha256(hashed[:4] + "sécret".encode()).digest()


def test_every_part_of_memory_has_a_number():
    node = get("overview")["node"]
    parts = """connection_readers connection_writers connection_channels connection_other queue_procs quorum_queue_procs
        quorum_queue_dlx_procs stream_queue_procs stream_queue_replica_reader_procs stream_queue_coordinator_procs plugins
        metadata_store other_proc metrics mgmt_db mnesia quorum_ets metadata_store_ets other_ets binary msg_index code atom
        other_system allocated_unused reserved_unallocated""".split()
    memory, relative = get(f"nodes/{node}/memory")["memory"], get(f"nodes/{node}/memory/relative")["memory"]
    assert memory["total"].keys() == {"erlang", "rss", "allocated"} and "strategy" not in relative
    assert all(isinstance(memory[part], int) and isinstance(relative[part], int) for part in parts)


def test_a_list_is_of_the_vhost_in_the_header_and_of_all_if_it_is_empty(vhost, queue):
    done("PUT", f"queues/{vhost}/own", 201, body={"durable": True})
    names = lambda header: {row["name"] for row in call("GET", "queues", headers={"x-vhost": header}).json}
    assert names(vhost) == {"own"}
    assert {"own", queue} <= names("")


def test_messages_are_shown_as_often_and_as_far_as_was_asked(channel, name, queue):
    done("PUT", f"queues/%2F/{name}-dead", 201, body={"durable": True})
    dead = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": f"{name}-dead"}
    done("PUT", f"queues/%2F/{name}-from", 201, body={"durable": True, "arguments": dead})
    try:
        put(channel, f"{name}-from", b"hello", b"\xff\xfe")
        ask = lambda mode, **more: call("POST", f"queues/%2F/{name}-from/get",
                                        body={"count": 5, "ackmode": mode, "encoding": "auto", **more})
        first = ask("ack_requeue_true", truncate=2).json
        assert [(row["payload"], row["payload_bytes"], row["payload_encoding"], row["message_count"]) for row in first] == [
            ("he", 5, "string", 1), (base64.b64encode(b"\xff\xfe").decode(), 2, "base64", 0)]
        again = ask("reject_requeue_true", encoding="base64").json
        assert [row["redelivered"] for row in again] == [True, True]
        assert again[0]["payload"] == base64.b64encode(b"hello").decode() and again[0]["properties"] == {}
        assert len(ask("reject_requeue_false", count="1").json) == 1, "a number may come as text"
        assert take(channel, f"{name}-dead", auto_ack=True)[2] == b"hello"
        assert len(ask("ack_requeue_false").json) == 1 and ask("ack_requeue_false").json == []
    finally:
        for end in ("dead", "from"):
            call("DELETE", f"queues/%2F/{name}-{end}")


def test_conditions_of_a_delete_are_kept(channel, vhost, queue):
    channel.basic_consume(queue, lambda *_: None)
    used = call("DELETE", f"queues/%2F/{queue}?if-unused=true")
    assert used.status == 400 and "in use" in used.json["reason"]
    done("PUT", f"exchanges/{vhost}/x", 201, body={"durable": True})
    done("PUT", f"queues/{vhost}/q", 201, body={"durable": True})
    done("POST", f"bindings/{vhost}/e/x/q/q", 201)
    used = call("DELETE", f"exchanges/{vhost}/x?if-unused=true")
    assert used.status == 400 and "in use" in used.json["reason"]
    done("DELETE", f"exchanges/{vhost}/x", 204)


def test_definitions_come_as_a_file_and_go_as_a_form(name):
    saved = call("GET", "all-configuration?download=all.json")
    assert saved.headers["Content-Disposition"] == 'attachment; filename="all.json"' and "queues" in saved.json

    def form(vhost, *more):
        parts = [("file", f'{{"vhosts": [{{"name": "{vhost}"}}]}}'), *more]
        body = "".join(f'--BB\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{text}\r\n' for key, text in parts)
        kind = {"Content-Type": "multipart/form-data; boundary=BB"}
        return call("POST", "definitions", raw=(body + "--BB--\r\n").encode(), headers=kind)
    try:
        assert form(f"{name}-1").status == 204
        # The user interface is sent back to where it came from; a client that follows gets there.
        moved = form(f"{name}-2", ("redirect", "whoami"))
        assert moved.status == 200 and moved.json["name"] == "guest"
        for number in (1, 2):
            assert get(f"vhosts/{name}-{number}")["name"] == f"{name}-{number}"
    finally:
        for number in (1, 2):
            call("DELETE", f"vhosts/{name}-{number}")


def test_users_come_without_a_password_by_name_or_by_hash_and_go_together(name):
    one, two, three = (f"{name}-{number}" for number in range(3))
    done("PUT", f"users/{one}", 201, body={"tags": ["a", "b"]})
    assert get(f"users/{one}")["password_hash"] == "" and get(f"users/{one}")["tags"] == ["a", "b"]
    own = {"%2F": {"configure": "a", "write": "b", "read": "c"}, "/": {"configure": "a", "write": "b", "read": "c"}}
    body = {"password": "p", "tags": "a b, c", "limits": {"max-channels": 3}, "permissions": {"/": own["/"]}}
    done("PUT", f"users/{two}", 201, body=body)
    shown = get(f"users/{two}")
    assert shown["tags"] == ["a", "b", "c"] and shown["limits"] == {"max-channels": 3}
    assert get(f"users/{two}/permissions") == [{"user": two, "vhost": "/", **own["/"]}]
    assert get(f"users/{two}/topic-permissions") == []
    done("PUT", f"users/{three}", 201, body={"password": "p", "tags": "protected"})
    assert call("PUT", f"users/{three}", body={"password": "q", "tags": ""}).status == 400
    assert {one, three} <= {row["name"] for row in get("users/without-permissions")}
    many = {"password": "p", "tags": ",".join(f"t{n}" for n in range(33))}
    assert call("PUT", f"users/{one}", body=many).status == 400
    try:
        done("POST", "users/bulk-delete", 204, body={"users": [one, two, "nobody"]})
        assert not {one, two} & {row["name"] for row in get("users")}
    finally:
        call("POST", "definitions", body={"users": [{"name": three, "password": "p", "tags": ""}]})
        call("DELETE", f"users/{three}")


def test_a_connection_is_found_by_its_user_and_its_channels_by_it(name):
    connection = connect()
    connection.channel(), connection.channel()
    try:
        port = connection._impl._transport._sock.getsockname()[1]
        own = eventually(lambda: [row for row in get("connections") if row["peer_port"] == port])[0]
        keys = {"name": own["name"], "node": own["node"], "user": "guest", "vhost": "/"}
        assert keys in get("connections/username/guest")
        path = f"connections/{quote(own['name'])}"
        rows = eventually(lambda: (rows := get(path + "/channels")) and len(rows) == 2 and rows)
        assert {row["name"] for row in rows} == {f"{own['name']} ({number})" for number in (1, 2)}
        assert get(path + "/sessions") == []
        for key in ("host", "port", "peer_host", "peer_port", "ssl", "auth_mechanism", "timeout", "frame_max", "channel_max",
                    "client_properties", "recv_oct", "send_oct", "recv_cnt", "send_cnt", "send_pend", "connected_at", "protocol",
                    "type", "state", "reductions", "user_who_performed_action"):
            assert key in own, key
        assert json.dumps(own["client_properties"]["capabilities"])
    finally:
        connection.close()


def test_a_feature_that_will_go_is_told_while_it_is_used(name):
    used = lambda: [row["name"] for row in get("deprecated-features/used")]
    done("PUT", f"queues/%2F/{name}", 201, body={"durable": False})
    assert used() == ["transient_nonexcl_queues"]
    others = [row for row in get("queues") if not row["durable"] and not row["exclusive"] and row["name"] != name]
    done("DELETE", f"queues/%2F/{name}", 204)
    assert used() == [] or others
