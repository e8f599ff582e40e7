"""Bad input on every endpoint: the route table is read from the source, so what is added to it is walked too."""
import json
import pathlib
import re

import pika
import pytest

from conftest import OURS, URL, put, take
from management import URL as API, call, done, get, quote

pytestmark = pytest.mark.skipif(not (API and OURS), reason="no management API to ask")
SOURCE = pathlib.Path(__file__).parents[3] / "src/http/api/routes.rs"
ROW = re.compile(r'row\(\s*"([^"]+)",\s*"([A-Z ]+)",\s*(\w+),\s*(\w+),?\s*\)')
ROUTES = [(path, methods.split(), read, write) for path, methods, read, write in ROW.findall(SOURCE.read_text())]
#: What would end the test itself, or forget what it looks at.
SPARED = {"reset", "reset/*"}
VALUES = ["%2F", "nothing-of-this-name", "%00", "%FF", "..%2F..%2Fetc%2Fpasswd", "a" * 300, "%F0%9F%90%87", "-1", "'%22%3C"]
BODIES = [b"", b"null", b"[]", b"7", b'"text"', b"{", b"\xff\xfe", b'{"a":' * 40 + b"1" + b"}" * 40,
          json.dumps({key: [1] for key in (
              "name", "value", "password", "tags", "pattern", "definition", "configure", "durable", "arguments",
              "routing_key", "properties", "payload", "count", "ackmode", "users", "queues", "vhosts")}).encode(),
          json.dumps({key: {"x": None} for key in (
              "name", "value", "tags", "definition", "arguments", "properties", "count", "type", "priority",
              "exchanges", "bindings", "permissions", "policies", "parameters")}).encode()]


def filled(path, value):
    return "/".join(value if part in ("*", "{v}") else part for part in path.split("/"))


def test_the_table_is_read():
    assert len(ROUTES) > 90, len(ROUTES)
    assert ("overview", ["GET"], "Any", "Any") in ROUTES


@pytest.fixture(scope="module", autouse=True)
def kept():
    """What was there before all this is there after it."""
    connection = pika.BlockingConnection(pika.URLParameters(URL))
    channel = connection.channel()
    channel.queue_declare("kept", durable=True)
    put(channel, "kept", b"still here")
    before = get("definitions")
    yield
    after = get("definitions")
    for key in ("users", "vhosts", "permissions", "queues", "exchanges", "policies"):
        names = lambda document: {row.get("name") or row.get("user") for row in document[key]}
        assert names(before) <= names(after), key
    _, _, body = take(channel, "kept", auto_ack=True)
    assert body == b"still here"
    channel.queue_delete("kept")
    connection.close()


@pytest.mark.parametrize("path,methods,read,write", ROUTES, ids=[row[0] for row in ROUTES])
def test_no_input_is_answered_with_a_fault_of_ours(path, methods, read, write):
    for value in VALUES:
        answer = call("GET", filled(path, value))
        # A failing health check says so with 503.
        allowed = answer.status < 500 or (answer.status == 503 and path.startswith("health"))
        assert allowed, (path, value, answer.status, answer.body)
        if "GET" in methods and answer.status == 200 and answer.body:
            json.loads(answer.body)
        if "*" not in path and "{v}" not in path:
            break
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        answer = call(method, filled(path, "no-such-thing"), raw=b"{" if method != "DELETE" else None)
        if method not in methods:
            assert answer.status == 405 and answer.headers["Allow"], (method, path, answer.status)
        elif path not in SPARED:
            assert answer.status < 500, (method, path, answer.status, answer.body)
    for method in ("PUT", "POST"):
        if method not in methods:
            continue
        for body in BODIES:
            answer = call(method, filled(path, "%2F").replace("vhosts/%2F", "vhosts/odd").replace("users/%2F", "users/odd"),
                          raw=body)
            assert answer.status < 500, (method, path, body[:40], answer.status, answer.body)
    call("DELETE", "vhosts/odd")
    call("DELETE", "users/odd")


@pytest.mark.parametrize("path,methods,read,write", ROUTES, ids=[row[0] for row in ROUTES])
def test_nobody_gets_past_the_door_without_a_password(path, methods, read, write):
    if read == "Nobody":
        return
    for method in methods:
        if path in SPARED:
            continue
        assert call(method, filled(path, "%2F"), user=None).status == 401, (method, path)
    options = call("OPTIONS", filled(path, "%2F"), user=None)
    allowed = options.headers["Allow"].split(", ")
    assert options.status == 200 and set(methods) == set(allowed) - {"HEAD", "OPTIONS"}, (path, options.status, allowed)


ALL = {"management", "monitoring", "policymaker", "administrator"}
TAGS = {"Any": ALL, "Vhost": ALL, "Monitor": {"monitoring", "administrator"},
        "Policy": {"policymaker", "administrator"}, "Admin": {"administrator"}}


@pytest.mark.parametrize("tag", ["", "management", "monitoring", "policymaker", "administrator"])
def test_the_permission_matrix_holds_for_every_read(tag, name):
    done("PUT", f"users/{name}", body={"password": name, "tags": tag})
    done("PUT", f"permissions/%2F/{name}", body={"configure": ".*", "write": ".*", "read": ".*"})
    try:
        for path, methods, read, _ in ROUTES:
            if "GET" not in methods or read == "Nobody":
                continue
            answer = call("GET", filled(path, "%2F"), user=name)
            if tag in TAGS[read]:
                # Other users' limits and objects are refused by their owner, not by tag.
                own = path.startswith("user-limits") or "object" in str(answer.body)
                assert answer.status != 401 or own, (tag, path, answer.body)
            else:
                assert answer.status == 401, (tag, path, answer.status)
    finally:
        call("DELETE", f"users/{name}")


@pytest.mark.parametrize("tag", ["management", "monitoring", "policymaker"])
def test_the_permission_matrix_holds_for_every_write(tag, name):
    done("PUT", f"users/{name}", body={"password": name, "tags": tag})
    done("PUT", f"permissions/%2F/{name}", body={"configure": "^$", "write": "^$", "read": "^$"})
    try:
        for path, methods, _, write in ROUTES:
            if write in ("Nobody", "Any", "Vhost") or tag in TAGS[write]:
                continue
            for method in set(methods) - {"GET"}:
                answer = call(method, filled(path, "%2F"), user=name, body={})
                assert answer.status == 401, (tag, method, path, answer.status, answer.body)
    finally:
        call("DELETE", f"users/{name}")


def test_a_huge_body_is_refused_on_every_write_and_pages_out_of_range_on_every_list():
    for path in ("queues", "exchanges", "vhosts", "users", "connections", "channels"):
        for query, error in (("page=0", "invalid_pagination_parameters"), ("page=-1&page_size=5", "invalid_pagination_parameters"),
                             ("page=1&page_size=501", "invalid_pagination_parameters"), ("page=x", "bad_request"), ("page_size=x", "bad_request")):
            wrong = call("GET", f"{path}?{query}")
            assert (wrong.status, wrong.json["error"]) == (400, error), (path, query)
        beyond = call("GET", f"{path}?page=99999")
        assert (beyond.status, beyond.json["error"]) == (400, "page_out_of_range"), path
        assert call("GET", f"{path}?page=1&use_regex=true&name=%5B").status == 400
        assert call("GET", f"{path}?lengths_age=60&lengths_incr=0").status == 400
        assert call("GET", f"{path}?msg_rates_age=100000&msg_rates_incr=1").status == 400
    for path in ("users/x", "vhosts/x", "queues/%2F/x", "policies/%2F/x"):
        assert call("PUT", path, raw=b" " * 10_000_001).status == 400


def test_upstreams_and_shovels_need_an_address(name):
    for component, value, reason in (("federation-upstream", {}, 'Key "uri" not found in ' + name),
                                     ("federation-upstream", {"uri": 1}, "uri should be list, actually was 1"),
                                     ("shovel", {"src-uri": "amqp://", "src-queue": "q"},
                                      'Key "dest-uri" not found in ' + name)):
        refused = call("PUT", f"parameters/{component}/%2F/{name}", body={"value": value})
        assert (refused.status, refused.json["reason"]) == (400, f"Validation failed\n\n{reason}\n")


def test_answers_are_packed_for_who_takes_them_and_plain_for_others(channel):
    import gzip
    packed = call("GET", "overview", headers={"Accept-Encoding": "gzip"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert json.loads(gzip.decompress(packed.body))["node"] == get("overview")["node"]
    assert call("GET", "overview").headers["Content-Encoding"] is None
    bert = call("GET", "overview?sort=", headers={"Accept": "application/bert, application/json;q=0.1"})
    assert bert.status == 200 and bert.headers["Content-Type"] == "application/json"
    names = [f"packed-{number}" for number in range(600)]
    for one in names:
        channel.queue_declare(one, durable=True)
    try:
        whole = call("GET", "queues/%2F", headers={"Accept-Encoding": "gzip"})
        assert {row["name"] for row in json.loads(gzip.decompress(whole.body))} >= set(names)
        assert {row["name"] for row in get("queues/%2F")} >= set(names)
        page = get("queues/%2F?page=2&page_size=500&sort=messages&sort_reverse=true")
        assert page["page_count"] >= 2 and page["items"]
        some = get("queues/%2F?page=1&page_size=5&name=packed-59&columns=name,message_stats.publish")
        assert some["filtered_count"] == 11 and set(some["items"][0]) <= {"name", "message_stats"}
    finally:
        for one in names:
            channel.queue_delete(one)


def test_some_bodies_must_say_that_they_are_json(name):
    policy = json.dumps({"pattern": "^none$", "definition": {"max-length": 1}}).encode()
    limit = b'{"value": 1}'
    for path, raw in ((f"operator-policies/%2F/{name}", policy), ("vhost-limits/%2F/max-queues", limit),
                      ("user-limits/guest/max-channels", limit), ("definitions", b"{}")):
        method = "POST" if path == "definitions" else "PUT"
        wrong = call(method, path, raw=raw, headers={"Content-Type": "text/plain"})
        assert (wrong.status, wrong.json["error"]) == (415, "unsupported_media_type"), path
    # For the rest the type does not matter.
    assert call("PUT", f"policies/%2F/{name}", raw=policy, headers={"Content-Type": "text/plain"}).status == 201
    done("DELETE", f"policies/%2F/{name}", 204)


def test_checks_and_counts_are_of_what_they_name():
    node = get("overview")["node"]
    rows = {row["protocol"]: row["auth_attempts_succeeded"] for row in get(f"auth/attempts/{node}")}
    assert rows["http"] > 0 and "amqp091" in rows
    assert call("GET", "auth/attempts/rabbit@nowhere").status == 404
    without = "health/checks/quorum-queues-without-elected-leaders"
    for path, status in (("all-vhosts", 200), ("all-vhosts/pattern/%5Ea", 200), ("vhost/%2F", 200), ("vhost/%2F/pattern/%5Ea", 200),
                         ("vhost/nowhere", 404), ("all-vhosts/pattern/(", 400)):
        assert call("GET", f"{without}/{path}").status == status, path
    kinds = [row["name"] for row in get("overview")["exchange_types"]]
    assert kinds == sorted(kinds) and {"direct", "x-consistent-hash", "x-delayed-message"} <= set(kinds)
    plugins = get("nodes")[0]["enabled_plugins"]
    assert plugins == ["rabbitmq_management", "rabbitmq_management_agent", "rabbitmq_prometheus", "rabbitmq_shovel",
                       "rabbitmq_shovel_management"]
