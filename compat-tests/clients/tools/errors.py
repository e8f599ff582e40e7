"""Asks two management APIs for the same errors and prints where the answers differ, byte by byte.

    python3 errors.py http://127.0.0.1:15672 http://127.0.0.1:25672

Both as guest:guest, both of nobody else: vhosts, users and queues named `errors-…` are made in them. Compared are status, body and
headers of an answer, but for those in IGNORED and the letter case of names. Needs nothing but Python.
"""

import base64
import http.client
import json
import sys
import urllib.parse

# The last three differ in each answer: RabbitMQ's refusals may be cached for no time in place of not at all, its policy for scripts
# was laxer before 4.4, and which of its handlers name what in `vary` follows no rule.
IGNORED = {"date", "server", "content-length", "connection", "transfer-encoding", "cache-control", "content-security-policy", "vary"}

SETUP = [
    ("PUT", "/vhosts/errors-v", None),
    ("PUT", "/vhosts/errors-hidden", None),
    ("PUT", "/users/errors-none", {"password": "pw", "tags": ""}),
    ("PUT", "/users/errors-man", {"password": "pw", "tags": "management"}),
    ("PUT", "/users/errors-mon", {"password": "pw", "tags": "monitoring"}),
    ("PUT", "/users/errors-pol", {"password": "pw", "tags": "policymaker"}),
    ("PUT", "/permissions/errors-v/guest", {"configure": ".*", "write": ".*", "read": ".*"}),
    ("PUT", "/permissions/errors-v/errors-man", {"configure": "^mine", "write": "^mine", "read": "^mine"}),
    ("PUT", "/permissions/errors-v/errors-pol", {"configure": "", "write": "", "read": ""}),
    ("PUT", "/queues/errors-v/q", {"durable": True}),
    ("PUT", "/exchanges/errors-v/x", {"type": "topic", "durable": True}),
    ("POST", "/bindings/errors-v/e/x/q/q", {"routing_key": "a b"}),
    ("POST", "/exchanges/errors-v/amq.default/publish", {"properties": {}, "routing_key": "q", "payload": "m", "payload_encoding": "string"}),
]

PUBLISH = {"properties": {}, "routing_key": "q", "payload": "m", "payload_encoding": "string"}
GET = {"count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}


def cases():
    """(name, method, path, user, body, headers); a body that is text goes as it is."""
    guest = "guest:guest"

    def case(name, method, path, body=None, user=guest, **headers):
        return name, method, path, user, body, {key.replace("_", "-"): value for key, value in headers.items()}

    # Who asks.
    yield case("no credentials", "GET", "/overview", user=None)
    yield case("no credentials, PUT", "PUT", "/vhosts/errors-w", user=None)
    yield case("bad password", "GET", "/overview", user="guest:wrong")
    yield case("no such user", "GET", "/overview", user="nobody:guest")
    yield case("empty user", "GET", "/overview", user=":")
    yield case("not basic", "GET", "/overview", user=None, authorization="Digest a=b")
    yield case("not base64", "GET", "/overview", user=None, authorization="Basic !!!")
    yield case("no colon", "GET", "/overview", user=None, authorization="Basic " + base64.b64encode(b"guest").decode())
    yield case("bearer", "GET", "/overview", user=None, authorization="Bearer abc")
    yield case("no tag", "GET", "/overview", user="errors-none:pw")
    yield case("not an administrator", "GET", "/users", user="errors-mon:pw")
    yield case("not an administrator, PUT", "PUT", "/vhosts/errors-w", user="errors-mon:pw")
    yield case("not an administrator, definitions", "GET", "/definitions", user="errors-mon:pw")
    yield case("not a monitor", "GET", "/nodes", user="errors-man:pw")
    yield case("not a policymaker", "PUT", "/policies/errors-v/p", {"pattern": "x", "definition": {"max-length": 1}}, user="errors-man:pw")
    yield case("not a policymaker, parameters", "GET", "/parameters", user="errors-man:pw")
    yield case("not a policymaker, global", "GET", "/global-parameters", user="errors-man:pw")
    yield case("vhost not for this user", "GET", "/queues/errors-hidden", user="errors-man:pw")
    yield case("vhost not for this user, one", "GET", "/queues/errors-hidden/q", user="errors-man:pw")
    yield case("vhost not for this user, PUT", "PUT", "/queues/errors-hidden/q", {"durable": True}, user="errors-man:pw")
    yield case("vhost not for this monitor", "GET", "/queues/errors-hidden", user="errors-mon:pw")
    yield case("vhost not for this policymaker", "PUT", "/policies/errors-hidden/p", {"pattern": "x", "definition": {"max-length": 1}}, user="errors-pol:pw")
    yield case("operator policy of a policymaker", "PUT", "/operator-policies/errors-v/p", {"pattern": "x", "definition": {"max-length": 1}}, user="errors-pol:pw", content_type="application/json")
    yield case("declare refused", "PUT", "/queues/errors-v/other", {"durable": True}, user="errors-man:pw")
    yield case("delete refused", "DELETE", "/queues/errors-v/q", user="errors-man:pw")
    yield case("purge refused", "DELETE", "/queues/errors-v/q/contents", user="errors-man:pw")
    yield case("get refused", "POST", "/queues/errors-v/q/get", GET, user="errors-man:pw")
    yield case("publish refused", "POST", "/exchanges/errors-v/x/publish", PUBLISH, user="errors-man:pw")
    yield case("exchange refused", "PUT", "/exchanges/errors-v/other", {"type": "topic"}, user="errors-man:pw")
    yield case("binding refused", "POST", "/bindings/errors-v/e/x/q/q", {"routing_key": "r"}, user="errors-man:pw")
    yield case("unbinding refused", "DELETE", "/bindings/errors-v/e/x/q/q/a+b", user="errors-man:pw")

    # What is not there.
    for path in (
        "/nothing", "/queues/errors-v/none", "/queues/none", "/queues/none/q", "/exchanges/errors-v/none", "/exchanges/none/x", "/exchanges/none",
        "/bindings/none", "/bindings/errors-v/e/none/q/q", "/bindings/errors-v/e/x/q/none", "/bindings/errors-v/e/none/q/none", "/bindings/errors-v/e/x/q/q/none",
        "/bindings/errors-v/e/x/e/none", "/exchanges/errors-v/none/bindings/source", "/exchanges/errors-v/none/bindings/destination", "/queues/errors-v/none/bindings",
        "/vhosts/none", "/vhosts/none/permissions", "/users/none", "/users/none/permissions", "/permissions/none/guest", "/permissions/errors-v/none",
        "/topic-permissions/errors-v/none", "/topic-permissions/errors-v/errors-mon", "/policies/none", "/policies/none/p", "/policies/errors-v/none",
        "/operator-policies/errors-v/none", "/parameters/none", "/parameters/shovel/none", "/parameters/federation-upstream/errors-v/none", "/global-parameters/none",
        "/vhost-limits/none", "/user-limits/none", "/nodes/none", "/nodes/none/memory", "/connections/none", "/connections/none/channels", "/channels/none",
        "/connections/username/none", "/consumers/none", "/aliveness-test/none", "/definitions/none", "/health/checks/none", "/vhosts/none/connections",
        "/vhosts/none/channels", "/feature-flags/none",
    ):
        yield case("not there", "GET", path)
    for path in (
        "/queues/errors-v/none", "/queues/none/q", "/queues/errors-v/none/contents", "/exchanges/errors-v/none", "/exchanges/none/x", "/bindings/errors-v/e/x/q/q/none",
        "/bindings/errors-v/e/x/q/none/~", "/vhosts/none", "/users/none", "/permissions/errors-v/none", "/permissions/errors-v/errors-mon", "/topic-permissions/errors-v/errors-mon",
        "/policies/errors-v/none", "/operator-policies/errors-v/none", "/parameters/federation-upstream/errors-v/none", "/global-parameters/none",
        "/vhost-limits/none/max-queues", "/vhost-limits/errors-v/max-queues", "/user-limits/none/max-channels", "/connections/none",
    ):
        yield case("not there", "DELETE", path)
    yield case("vhost not there", "PUT", "/queues/none/q", {"durable": True})
    yield case("vhost not there", "PUT", "/exchanges/none/x", {"type": "topic"})
    yield case("vhost not there", "POST", "/bindings/none/e/x/q/q", {})
    yield case("vhost not there", "PUT", "/policies/none/p", {"pattern": "x", "definition": {"max-length": 1}})
    yield case("vhost not there", "PUT", "/vhost-limits/none/max-queues", {"value": 1}, content_type="application/json")
    yield case("user not there", "PUT", "/user-limits/none/max-channels", {"value": 1}, content_type="application/json")
    yield case("vhost not there", "PUT", "/permissions/none/guest", {"configure": "", "write": "", "read": ""})
    yield case("user not there", "PUT", "/permissions/errors-v/none", {"configure": "", "write": "", "read": ""})
    yield case("user not there", "PUT", "/topic-permissions/errors-v/none", {"exchange": "x", "write": "", "read": ""})
    yield case("vhost not there", "POST", "/queues/none/q/get", GET)
    yield case("queue not there", "POST", "/queues/errors-v/none/get", GET)
    yield case("exchange not there", "POST", "/exchanges/errors-v/none/publish", PUBLISH)
    yield case("vhost not there", "POST", "/exchanges/none/x/publish", PUBLISH)
    yield case("exchange not there", "POST", "/bindings/errors-v/e/none/q/q", {})
    yield case("queue not there", "POST", "/bindings/errors-v/e/x/q/none", {})

    # What cannot be read.
    for body in ("{", "[]", "1", '"text"', '{"a":}', "\xff"):
        yield case("not what it should be", "PUT", "/queues/errors-v/bad", body)
        yield case("not what it should be", "POST", "/queues/errors-v/q/get", body)
    for body in ("", "null"):
        yield case("nothing", "POST", "/queues/errors-v/q/get", body)
        yield case("nothing", "POST", "/exchanges/errors-v/x/publish", body)
        yield case("nothing", "PUT", "/permissions/errors-v/guest", body)
        yield case("nothing", "PUT", "/users/errors-new", body)
        yield case("nothing", "PUT", "/policies/errors-v/p", body)
        yield case("nothing", "PUT", "/parameters/federation-upstream/errors-v/p", body)
        yield case("nothing", "PUT", "/global-parameters/errors-p", body)
    yield case("key missing", "POST", "/queues/errors-v/q/get", {"count": 1, "encoding": "auto"})
    yield case("keys missing", "POST", "/queues/errors-v/q/get", {})
    yield case("old get", "POST", "/queues/errors-v/q/get", {"count": 1, "requeue": True, "encoding": "auto"})
    yield case("bad count", "POST", "/queues/errors-v/q/get", {**GET, "count": "many"})
    yield case("negative count", "POST", "/queues/errors-v/q/get", {**GET, "count": -1})
    yield case("bad ackmode", "POST", "/queues/errors-v/q/get", {**GET, "ackmode": "maybe"})
    yield case("bad encoding", "POST", "/queues/errors-v/q/get", {**GET, "encoding": "rot13"})
    yield case("bad truncate", "POST", "/queues/errors-v/q/get", {**GET, "truncate": "x"})
    for key in PUBLISH:
        yield case("key missing: " + key, "POST", "/exchanges/errors-v/x/publish", {k: v for k, v in PUBLISH.items() if k != key})
    yield case("bad payload encoding", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "payload_encoding": "rot13"})
    yield case("bad base64", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "payload_encoding": "base64", "payload": "!"})
    yield case("payload not text", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "payload": 1})
    yield case("bad delivery mode", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "properties": {"delivery_mode": "x"}})
    yield case("bad priority", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "properties": {"priority": "x"}})
    yield case("bad content type", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "properties": {"content_type": 1}})
    yield case("bad headers", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "properties": {"headers": 1}})
    yield case("bad properties", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "properties": 1})
    yield case("unknown property", "POST", "/exchanges/errors-v/x/publish", {**PUBLISH, "properties": {"nothing": 1}})
    for key in ("configure", "write", "read"):
        yield case("key missing: " + key, "PUT", "/permissions/errors-v/guest", {k: ".*" for k in ("configure", "write", "read") if k != key})
    yield case("bad regex", "PUT", "/permissions/errors-v/guest", {"configure": "(", "write": "", "read": ""})
    yield case("regex not text", "PUT", "/permissions/errors-v/guest", {"configure": 1, "write": "", "read": ""})
    yield case("keys missing", "PUT", "/topic-permissions/errors-v/guest", {"exchange": "x"})
    yield case("bad topic regex", "PUT", "/topic-permissions/errors-v/guest", {"exchange": "x", "write": "(", "read": ""})
    yield case("tags missing", "PUT", "/users/errors-new", {"password": "x"})
    yield case("two passwords", "PUT", "/users/errors-new", {"password": "x", "password_hash": "", "tags": ""})
    yield case("bad hash", "PUT", "/users/errors-new", {"password_hash": "!", "tags": ""})
    yield case("bad hashing", "PUT", "/users/errors-new", {"password_hash": "AAAA", "hashing_algorithm": "md4", "tags": ""})
    yield case("tags not text", "PUT", "/users/errors-new", {"password": "x", "tags": 1})
    yield case("empty password", "PUT", "/users/errors-new2", {"password": "", "tags": ""})
    yield case("bad durable", "PUT", "/queues/errors-v/bad", {"durable": "perhaps"})
    yield case("bad auto_delete", "PUT", "/exchanges/errors-v/bad", {"auto_delete": 1})
    yield case("bad arguments", "PUT", "/queues/errors-v/bad", {"durable": True, "arguments": 1})
    yield case("bad argument", "PUT", "/queues/errors-v/bad", {"durable": True, "arguments": {"x-message-ttl": "x"}})
    yield case("negative argument", "PUT", "/queues/errors-v/bad", {"durable": True, "arguments": {"x-message-ttl": -1}})
    yield case("bad queue type", "PUT", "/queues/errors-v/bad", {"durable": True, "arguments": {"x-queue-type": "none"}})
    yield case("bad node", "PUT", "/queues/errors-v/bad", {"durable": True, "node": "none@none"})
    yield case("long name", "PUT", "/queues/errors-v/" + "n" * 256, {"durable": True})
    yield case("reserved queue name", "PUT", "/queues/errors-v/amq.mine", {"durable": True})
    yield case("reserved exchange name", "PUT", "/exchanges/errors-v/amq.mine", {"type": "topic"})
    yield case("bad exchange type", "PUT", "/exchanges/errors-v/bad", {"type": "none"})
    yield case("exchange type not text", "PUT", "/exchanges/errors-v/bad", {"type": 1})
    yield case("another durable", "PUT", "/queues/errors-v/q", {"durable": False})
    yield case("another argument", "PUT", "/queues/errors-v/q", {"durable": True, "arguments": {"x-message-ttl": 1}})
    yield case("another type", "PUT", "/exchanges/errors-v/x", {"type": "fanout", "durable": True})
    yield case("the default exchange", "PUT", "/exchanges/errors-v/amq.default", {"type": "direct", "durable": True})
    yield case("the default exchange", "DELETE", "/exchanges/errors-v/amq.default")
    yield case("a fixed exchange", "DELETE", "/exchanges/errors-v/amq.topic")
    yield case("default binding", "POST", "/bindings/errors-v/e/amq.default/q/q", {})
    yield case("default binding", "DELETE", "/bindings/errors-v/e/amq.default/q/q/q")
    yield case("queue not empty", "DELETE", "/queues/errors-v/q?if-empty=true")
    yield case("exchange in use", "DELETE", "/exchanges/errors-v/x?if-unused=true")
    yield case("bad routing key", "POST", "/bindings/errors-v/e/x/q/q", {"routing_key": 1})
    yield case("long routing key", "POST", "/bindings/errors-v/e/x/q/q", {"routing_key": "r" * 256})
    yield case("bad arguments of a binding", "POST", "/bindings/errors-v/e/x/q/q", {"arguments": 1})
    yield case("bad x-match", "POST", "/bindings/errors-v/e/amq.headers/q/q", {"arguments": {"x-match": "some"}})
    yield case("long binding", "POST", "/bindings/errors-v/e/x/q/q", {"arguments": {"a": "x" * 6000}})
    yield case("action", "POST", "/queues/errors-v/q/actions", {"action": "none"})
    yield case("no action", "POST", "/queues/errors-v/q/actions", {})

    # Policies, parameters, limits.
    yield case("pattern missing", "PUT", "/policies/errors-v/p", {"definition": {"max-length": 1}})
    yield case("definition missing", "PUT", "/policies/errors-v/p", {"pattern": "x"})
    yield case("empty definition", "PUT", "/policies/errors-v/p", {"pattern": "x", "definition": {}})
    yield case("unknown key", "PUT", "/policies/errors-v/p", {"pattern": "x", "definition": {"nothing": 1}})
    yield case("bad value", "PUT", "/policies/errors-v/p", {"pattern": "x", "definition": {"max-length": -1}})
    yield case("bad overflow", "PUT", "/policies/errors-v/p", {"pattern": "x", "definition": {"overflow": "x"}})
    yield case("bad pattern", "PUT", "/policies/errors-v/p", {"pattern": "(", "definition": {"max-length": 1}})
    yield case("bad apply-to", "PUT", "/policies/errors-v/p", {"pattern": "x", "apply-to": "x", "definition": {"max-length": 1}})
    yield case("bad priority", "PUT", "/policies/errors-v/p", {"pattern": "x", "priority": "x", "definition": {"max-length": 1}})
    yield case("definition not an object", "PUT", "/policies/errors-v/p", {"pattern": "x", "definition": 1})
    yield case("unknown operator key", "PUT", "/operator-policies/errors-v/p", {"pattern": "x", "definition": {"dead-letter-exchange": "x"}}, content_type="application/json")
    yield case("unknown component", "PUT", "/parameters/none/errors-v/p", {"value": {}})
    yield case("value missing", "PUT", "/parameters/federation-upstream/errors-v/p", {})
    yield case("bad upstream", "PUT", "/parameters/federation-upstream/errors-v/p", {"value": {"uri": 1}})
    yield case("unknown upstream key", "PUT", "/parameters/federation-upstream/errors-v/p", {"value": {"uri": "amqp://", "nothing": 1}})
    yield case("policy as a parameter", "PUT", "/parameters/policy/errors-v/p", {"value": {"pattern": "x", "definition": {"max-length": 1}}})
    yield case("value missing", "PUT", "/global-parameters/errors-p", {})
    yield case("value missing", "PUT", "/vhost-limits/errors-v/max-queues", {}, content_type="application/json")
    yield case("bad limit", "PUT", "/vhost-limits/errors-v/max-queues", {"value": "x"}, content_type="application/json")
    yield case("unknown limit", "PUT", "/vhost-limits/errors-v/none", {"value": 1}, content_type="application/json")
    yield case("bad user limit", "PUT", "/user-limits/errors-mon/max-channels", {"value": "x"}, content_type="application/json")
    yield case("unknown user limit", "PUT", "/user-limits/errors-mon/none", {"value": 1}, content_type="application/json")
    yield case("no content type", "PUT", "/vhost-limits/errors-v/max-queues", {"value": 10})
    yield case("no content type", "PUT", "/user-limits/errors-mon/max-channels", {"value": 10})
    yield case("no content type", "PUT", "/operator-policies/errors-v/p", {"pattern": "x", "definition": {"max-length": 1}})
    yield case("no content type", "POST", "/definitions", {})
    yield case("wrong content type", "POST", "/definitions", {}, content_type="text/plain")
    yield case("bad definitions", "POST", "/definitions", "{", content_type="application/json")
    yield case("bad definitions", "POST", "/definitions", {"queues": 1}, content_type="application/json")
    yield case("bad definitions", "POST", "/definitions", {"queues": [{}]}, content_type="application/json")
    yield case("bad default type", "PUT", "/vhosts/errors-w", {"default_queue_type": "none"})
    yield case("bulk delete", "POST", "/users/bulk-delete", {})
    yield case("bulk delete", "POST", "/users/bulk-delete", {"users": "x"})
    yield case("cluster name missing", "PUT", "/cluster-name", {})
    yield case("unknown flag", "PUT", "/feature-flags/none/enable", {})

    # Lists.
    for query in (
        "page=2", "page=0", "page=-1", "page=x", "page=1&page_size=501", "page=1&page_size=0", "page=1&page_size=x", "page=1&name=(&use_regex=true",
        "page=1&use_regex=x", "page=1&name=" + "n" * 1100 + "&use_regex=true", "page_size=x", "sort=nothing", "columns=nothing", "lengths_age=x&lengths_incr=1",
        "lengths_age=60", "lengths_age=600&lengths_incr=1", "lengths_age=-1&lengths_incr=1", "lengths_age=0&lengths_incr=0",
    ):
        yield case("list", "GET", "/queues/errors-v?columns=name&" + query)
    yield case("range", "GET", "/overview?columns=node&lengths_age=x&lengths_incr=1")

    # Methods, and what a client accepts.
    for method, path in (
        ("POST", "/overview"), ("DELETE", "/overview"), ("PATCH", "/queues/errors-v/q"), ("POST", "/queues/errors-v"), ("GET", "/queues/errors-v/q/get"),
        ("GET", "/exchanges/errors-v/x/publish"), ("PUT", "/bindings/errors-v/e/x/q/q"), ("POST", "/users/guest"), ("PUT", "/health/checks/alarms"),
        ("DELETE", "/definitions"), ("TRACE", "/overview"), ("FOO", "/overview"),
    ):
        yield case("method", method, path)
    yield case("options", "OPTIONS", "/overview", user=None)
    yield case("options", "OPTIONS", "/queues/errors-v/q", user=None, origin="http://elsewhere")
    yield case("head", "HEAD", "/overview")
    yield case("head, not there", "HEAD", "/queues/errors-v/none")
    yield case("accept", "GET", "/queues/errors-v/none", accept="text/html")
    yield case("accept", "GET", "/cluster-name", accept="text/html")
    yield case("accept", "GET", "/queues/errors-v/none", accept="application/bert, application/json;q=0.1")
    yield case("bad accept", "GET", "/queues/errors-v/none", accept="???")

    # Health checks.
    for path in (
        "port-listener/1", "port-listener/x", "port-listener/99999", "protocol-listener/mqtt", "protocol-listener/none", "certificate-expiration/1/eons",
        "certificate-expiration/x/days", "certificate-expiration/-1/days", "certificate-expiration/1/months",
    ):
        yield case("check", "GET", "/health/checks/" + path)

    # Afterwards what succeeded is the same.
    yield case("made", "PUT", "/queues/errors-v/made", {"durable": True})
    yield case("made again", "PUT", "/queues/errors-v/made", {"durable": True})
    yield case("deleted", "DELETE", "/queues/errors-v/made")
    yield case("bound", "POST", "/bindings/errors-v/e/x/q/q", {"routing_key": "k/ü"})
    yield case("bound again", "POST", "/bindings/errors-v/e/x/q/q", {"routing_key": "k/ü"})
    yield case("bound without key", "POST", "/bindings/errors-v/e/x/q/q", {})
    yield case("bindings", "GET", "/bindings/errors-v/e/x/q/q")
    yield case("unbound", "DELETE", "/bindings/errors-v/e/x/q/q/k%252F%25C3%25BC")
    yield case("got", "POST", "/queues/errors-v/q/get", GET)
    yield case("purged", "DELETE", "/queues/errors-v/q/contents")
    yield case("got nothing", "POST", "/queues/errors-v/q/get", GET)
    yield case("limits", "GET", "/vhost-limits/errors-v")
    yield case("permissions", "GET", "/permissions/errors-v/errors-man")
    yield case("no slash at the end", "GET", "/permissions/errors-v/errors-man/")
    yield case("two slashes", "GET", "//permissions/errors-v/errors-man")


def ask(base, case):
    """Status, headers of interest, body of one answer."""
    _, method, path, user, body, headers = case
    headers = dict(headers)
    if user is not None:
        headers["authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
    if body is not None and not isinstance(body, str):
        body = json.dumps(body)
    if body is not None:
        body = body.encode("latin-1" if body == "\xff" else "utf-8")
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(base).netloc, timeout=30)
    try:
        connection.request(method, "/api" + path, body, headers)
        answer = connection.getresponse()
        kept = {name.lower(): value for name, value in answer.getheaders() if name.lower() not in IGNORED}
        return answer.status, kept, answer.read().decode("utf-8", "replace")
    except (http.client.HTTPException, OSError) as error:
        return 0, {}, repr(error)
    finally:
        connection.close()


def main():
    ours, theirs = sys.argv[1:3]
    for base in (ours, theirs):
        for method, path, body in SETUP:
            status, _, text = ask(base, ("", method, path, "guest:guest", body, {}))
            assert status in (200, 201, 204), (base, method, path, status, text)
    same = 0
    for case in cases():
        mine, other = ask(ours, case), ask(theirs, case)
        if mine == other:
            same += 1
            continue
        name, method, path, user, body, _ = case
        print(f"{name}: {method} {path[:90]} {json.dumps(body, ensure_ascii=False)[:100] if body is not None else ''} {user}")
        if mine[0] != other[0]:
            print(f"  status {mine[0]} | {other[0]}")
        for header in sorted(mine[1].keys() | other[1].keys()):
            if mine[1].get(header) != other[1].get(header):
                print(f"  {header}: {mine[1].get(header)} | {other[1].get(header)}")
        if mine[2] != other[2]:
            print(f"  ours   {mine[2][:400]}\n  theirs {other[2][:400]}")
    print(f"{same} the same")


if __name__ == "__main__":
    main()
