"""The management HTTP API: RabbitMQ's paths, fields, status codes and error bodies."""
import base64
import hashlib
import json
import time

import pika
import pytest

from conftest import OURS, URL, channel_error, connection_error, put, take
from management import URL as API, call, done, eventually, get, quote

pytestmark = pytest.mark.skipif(not (API and OURS), reason="no management API to ask")
VHOST = "%2F"


@pytest.fixture
def user(name):
    """A user of its own, named like its password, without permissions."""
    done("PUT", f"users/{name}", body={"password": name, "tags": ""})
    yield name
    call("DELETE", f"users/{name}")


@pytest.fixture
def vhost(name):
    vhost = f"v/{name}"
    done("PUT", f"vhosts/{quote(vhost)}", 201)
    yield vhost
    call("DELETE", f"vhosts/{quote(vhost)}")


def server_properties():
    c = pika.BlockingConnection(pika.URLParameters(URL))
    properties = c._impl.server_properties
    c.close()
    return {key: value.encode() if isinstance(value, str) else value for key, value in properties.items()}


def allow(user, vhost="/", configure="", write="", read=""):
    body = {"configure": configure, "write": write, "read": read}
    done("PUT", f"permissions/{quote(vhost)}/{user}", body=body)


def login(user, vhost="/"):
    parameters = pika.URLParameters(URL)
    parameters.credentials = pika.PlainCredentials(user, user)
    parameters.virtual_host = vhost
    return pika.BlockingConnection(parameters)


def refused_login(user, vhost):
    with pytest.raises(pika.exceptions.ProbableAccessDeniedError) as error:
        login(user, vhost)
    return str(error.value)


def test_who_asks_is_checked_before_anything_else():
    nobody = call("GET", "overview", user=None)
    assert nobody.status == 401 and nobody.headers["WWW-Authenticate"].startswith("Basic realm=")
    wrong = call("GET", "overview", password="wrong")
    assert wrong.status == 401
    assert wrong.json == {"error": "not_authorized", "reason": "Not_Authorized"}
    bearer = call("GET", "overview", user=None, headers={"Authorization": "Bearer none"})
    assert (bearer.status, bearer.json["error"], bearer.headers["WWW-Authenticate"]) == (401, "not_authorized", None)
    assert call("GET", "overview", user=None, headers={"Authorization": "Basic ***"}).status == 400
    assert get("whoami") == {"name": "guest", "tags": ["administrator"], "is_internal_user": True}


def test_tags_decide_what_is_seen_and_changed(user, queue):
    def status(method, path, tags, **more):
        done("PUT", f"users/{user}", body={"password": user, "tags": tags})
        return call(method, path, user=user, **more)

    plain = status("GET", "whoami", "")
    assert (plain.status, plain.json["reason"]) == (401, "Not management user")
    assert status("GET", "nodes", "management").json["reason"] == "Not monitor user"
    assert status("GET", "nodes", "monitoring").status == 200
    assert status("GET", "users", "monitoring").json == {
        "error": "not_authorised", "reason": "Not administrator user"}
    assert status("GET", "users", "administrator").status == 200
    # Without permissions in it what is in a vhost is for an administrator; a monitor learns that the vhost is there.
    for tag in ("management", "monitoring", "policymaker"):
        for path in (f"queues/{VHOST}", f"queues/{VHOST}/{queue}", f"exchanges/{VHOST}", f"bindings/{VHOST}",
                     f"queues/{VHOST}/{queue}/bindings", f"vhosts/{VHOST}/connections", f"aliveness-test/{VHOST}"):
            assert status("GET", path, tag).json["reason"] == "User not authorised to access virtual host", (tag, path)
        for path in ("queues", "exchanges", "bindings", "policies"):
            assert status("GET", path, tag).json == [], (tag, path)
    assert status("GET", f"queues/{VHOST}/{queue}", "administrator").status == 200
    assert status("GET", "vhosts", "management").json == [] != status("GET", "vhosts", "monitoring").json
    assert status("GET", f"vhost-limits/{VHOST}", "monitoring").status == 200
    body = {"pattern": "^none$", "definition": {"max-length": 1}}
    assert status("PUT", f"policies/{VHOST}/{user}", "management", body=body).status == 401
    assert status("PUT", f"policies/{VHOST}/{user}", "policymaker", body=body).status == 401
    allow(user)
    assert status("PUT", f"policies/{VHOST}/{user}", "policymaker", body=body).status == 201
    assert status("DELETE", f"policies/{VHOST}/{user}", "policymaker").status == 204


def test_paths_methods_and_bodies_that_make_no_sense_are_refused():
    assert call("GET", "nothing/here").json == {"error": "Object Not Found", "reason": "Not Found"}
    wrong = call("POST", "overview")
    assert wrong.status == 405 and "GET" in wrong.headers["Allow"]
    assert call("GET", "users/%zz").status == 400
    assert call("PUT", "users/x", raw=b"{nonsense").json == {"error": "bad_request", "reason": "not_json"}
    assert call("PUT", "users/x", body=[1]).json["reason"] == "not_json"
    assert "doubly" in call("PUT", "users/x", body="{}").json["reason"]
    for path, body in (("exchanges/%2F/none/publish", {"properties": {}, "routing_key": "", "payload": "", "payload_encoding": "string"}),
                       ("bindings/%2F/e/amq.topic/q/none", {}), ("bindings/%2F/e/none/e/amq.topic", {})):
        missing = call("POST", path, body=body)
        assert (missing.status, missing.json["error"]) == (404, "not_found"), path
    for method, path in (("PUT", "queues/%2F/amq.mine"), ("PUT", "exchanges/%2F/amq.mine"), ("DELETE", "exchanges/%2F/amq.topic"),
                         ("DELETE", "exchanges/%2F/amq.default")):
        refused = call(method, path, body={})
        assert (refused.status, refused.json["error"]) == (401, "not_authorised"), (method, path)
    assert get("parameters/nothing") == [] and call("GET", "user-limits/nobody").status == 404
    assert call("DELETE", "exchanges/%2F/none").headers["Content-Type"] == "application/json"
    made = done("PUT", "exchanges/%2F/amq.topic", 204, body={"type": "topic", "durable": True})
    assert made.headers["Content-Type"] is None and made.body == b""
    assert call("PUT", "users/x", body={"password": "p"}).json["reason"] == "tags_not_present"
    assert call("PUT", "vhosts/x", raw=b" " * 10_000_001).status == 400
    deep = b'{"arguments":' + b'{"a":' * 60 + b"1" + b"}" * 61
    assert call("PUT", f"queues/{VHOST}/x", raw=deep).status == 400
    assert call("GET", "overview/").status == 200
    assert call("HEAD", "overview").body == b""


def test_overview_and_node_have_what_tools_insist_on():
    overview = get("overview")
    for key in ("management_version", "rabbitmq_version", "cluster_name", "node", "queue_totals",
                "message_stats", "object_totals", "churn_rates", "listeners", "contexts", "exchange_types"):
        assert key in overview, key
    assert set(overview["object_totals"]) == {"connections", "channels", "queues", "exchanges", "consumers"}
    assert overview["message_stats"]["publish_details"]["rate"] >= 0
    assert all(part.isdigit() for part in overview["rabbitmq_version"].split("."))
    node = next(row for row in get("nodes") if row["name"] == overview["node"])
    assert node["running"] and not node["being_drained"]
    assert isinstance(node["os_pid"], str) and node["mem_used"] > 0 and node["uptime"] > 0
    assert node["proc_used"] > 0 and node["fd_used"] > 0  # Nagios's check of a server takes 0 for an answer that is missing.
    assert get(f"nodes/{node['name']}/memory")["memory"]["total"]["rss"] > 0
    flags = {flag["name"]: flag["state"] for flag in get("feature-flags")}
    assert flags["stream_queue"] == flags["khepri_db"] == flags["rabbitmq_4.0.0"] == "enabled"
    assert "ram_node_type" in [feature["name"] for feature in get("deprecated-features")]


def test_the_cluster_can_be_renamed():
    before = get("cluster-name")["name"]
    done("PUT", "cluster-name", 204, body={"name": "hares"})
    assert get("cluster-name")["name"] == "hares" == get("global-parameters/cluster_name")["value"]
    # Clients that come are told.
    told = eventually(lambda: (p := server_properties())["cluster_name"] == b"hares" and p)
    assert told["product"]
    done("PUT", "cluster-name", 204, body={"name": before})


def test_the_cluster_has_an_id_that_nobody_changes():
    path = "global-parameters/internal_cluster_id"
    own = get(path)["value"]
    assert own.startswith("rabbitmq-cluster-id-")
    assert call("PUT", path, body={"value": "x"}).status == 400 == call("DELETE", path).status
    done("POST", "definitions", 204, body={"global_parameters": [{"name": "internal_cluster_id", "value": "of another cluster"}]})
    assert get(path)["value"] == own
    assert {"name": "internal_cluster_id", "value": own} in get("definitions")["global_parameters"]


def test_health_checks_say_ok_or_why_not():
    port = pika.URLParameters(URL).port
    for check in ("alarms", "local-alarms", "virtual-hosts", "node-is-quorum-critical", "is-in-service",
                  f"port-listener/{port}", "protocol-listener/amqp,http", "ready-to-serve-clients",
                  "below-node-connection-limit", "reached-target-cluster-size"):
        assert get(f"health/checks/{check}")["status"] == "ok", check
    for check in ("is-in-service", "ready-to-serve-clients", "reached-target-cluster-size"):
        assert call("GET", f"health/checks/{check}", user=None).status == 200
    assert call("GET", "health/checks/alarms", user=None).status == 401
    missing = call("GET", "health/checks/port-listener/1")
    assert missing.status == 503 and missing.json["status"] == "failed" and missing.json["missing"] == 1
    assert call("GET", "health/checks/protocol-listener/mqtt").status == 503
    assert get(f"aliveness-test/{VHOST}") == {"status": "ok"}


def test_vhosts_are_made_changed_protected_and_deleted(name):
    path = f"vhosts/{quote('v/' + name)}"
    body = {"description": "ü", "tags": "a,b", "default_queue_type": "quorum"}
    done("PUT", path, 201, body=body)
    done("PUT", path, 204, body={"description": "again"})
    row = get(path)
    assert (row["description"], row["tags"], row["default_queue_type"]) == ("again", ["a", "b"], "quorum")
    assert call("PUT", path, body={"default_queue_type": "none"}).status == 400
    done("POST", path + "/deletion/protection", 204)
    assert call("DELETE", path).status == 412
    done("DELETE", path + "/deletion/protection", 204)
    done("DELETE", path, 204)
    assert call("GET", path).status == 404 == call("DELETE", path).status


def test_users_keep_imported_hashes_and_lose_their_connections_when_they_go(name, vhost):
    body = {"password_hash": "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR",
            "hashing_algorithm": "rabbit_password_hashing_sha256", "tags": "management"}
    done("PUT", f"users/{name}", 201, body=body)
    done("PUT", f"users/{name}", 204, body=body)
    row = get(f"users/{name}")
    assert row["password_hash"] == body["password_hash"] and row["tags"] == ["management"]
    assert get("whoami", user=name, password="test12")["name"] == name
    # As rabbitmqadmin sends it: the kind of the hash is not said.
    hashed = base64.b64encode(b"salt" + hashlib.sha512(b"salt" + b"long").digest()).decode()
    done("PUT", f"users/{name}", 204, body={"password_hash": hashed, "tags": "management"})
    assert get("whoami", user=name, password="long")["name"] == name
    assert call("PUT", f"users/{name}", body={"password": "a", "password_hash": "b", "tags": ""}).status == 400
    done("PUT", f"users/{name}", 204, body={"password": name, "tags": []})
    allow(name, vhost, ".*", ".*", ".*")
    open_one = login(name, vhost)
    done("DELETE", f"users/{name}", 204)
    code, text = connection_error(lambda: open_one.process_data_events(10))
    assert (code, text) == (320, f"CONNECTION_FORCED - user '{name}' is deleted")
    assert call("GET", f"users/{name}").status == 404


def test_a_deleted_vhost_takes_its_connections_with_it(user, name):
    done("PUT", f"vhosts/{name}", 201)
    allow(user, name, ".*", ".*", ".*")
    open_one = login(user, name)
    open_one.channel().queue_declare("q", durable=True)
    done("DELETE", f"vhosts/{name}", 204)
    code, text = connection_error(lambda: open_one.process_data_events(10))
    assert (code, text) == (320, f"CONNECTION_FORCED - vhost '{name}' is deleted")
    assert call("GET", f"queues/{name}/q").status == 404


MATRIX = [
    # operation, what it needs, the refusal's first word
    (lambda c, q, x: c.queue_declare(q, durable=True), ("q", "", ""), "configure"),
    (lambda c, q, x: c.queue_delete(q), ("q", "", ""), "configure"),
    (lambda c, q, x: c.exchange_declare(x, "fanout", durable=True), ("x", "", ""), "configure"),
    (lambda c, q, x: c.exchange_delete(x), ("x", "", ""), "configure"),
    (lambda c, q, x: c.queue_bind(q, x, "k"), ("", "q", "x"), "write"),
    (lambda c, q, x: c.queue_unbind(q, x, "k"), ("", "q", "x"), "write"),
    (lambda c, q, x: c.queue_purge(q), ("", "", "q"), "read"),
    (lambda c, q, x: c.basic_get(q), ("", "", "q"), "read"),
    (lambda c, q, x: c.basic_consume(q, lambda *a: None), ("", "", "q"), "read"),
    (lambda c, q, x: put(c, "k", b"m", exchange=x), ("", "x", ""), "write"),
]


@pytest.mark.parametrize("case", range(len(MATRIX)))
def test_permissions_are_those_of_the_matrix_and_change_under_an_open_connection(case, user, channel, name):
    operation, needs, word = MATRIX[case]
    queue, exchange = f"{name}-q", f"{name}-x"
    channel.queue_declare(queue, durable=True)
    channel.exchange_declare(exchange, "fanout", durable=True)
    allow(user)
    connection = login(user)
    code, text = channel_error(lambda: operation(connection.channel(), queue, exchange))
    assert code == 403 and text.startswith(f"ACCESS_REFUSED - {word} access to "), text
    assert text.endswith(f"refused for user '{user}'")
    patterns = [f"^{name}-{end}$" if end else "" for end in needs]
    allow(user, "/", *patterns)
    operation(connection.channel(), queue, exchange)
    connection.close()
    channel.queue_delete(queue)
    channel.exchange_delete(exchange)


def test_a_publisher_loses_the_right_to_publish_at_once(user, queue):
    allow(user, "/", "", ".*", "")
    connection = login(user)
    channel = connection.channel()
    put(channel, queue, b"1")
    allow(user, "/", "", "^none$", "")
    code, text = channel_error(lambda: put(channel, queue, b"2"))
    assert (code, text) == (
        403, f"ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user '{user}'")
    connection.close()


def test_topic_permissions_hold_for_publishing_and_binding(user, queue):
    allow(user, "/", ".*", ".*", ".*")
    body = {"exchange": "amq.topic", "write": "^{username}\\.", "read": "^pub\\."}
    done("PUT", f"topic-permissions/{VHOST}/{user}", 201, body=body)
    assert get(f"topic-permissions/{VHOST}/{user}") == [{"user": user, "vhost": "/", **body}]
    connection = login(user)
    put(connection.channel(), f"{user}.a", b"m", exchange="amq.topic")
    code, text = channel_error(lambda: put(connection.channel(), "x.a", b"m", exchange="amq.topic"))
    assert (code, text) == (403, "ACCESS_REFUSED - write access to topic 'x.a' in exchange 'amq.topic' "
                                 f"in vhost '/' refused for user '{user}'")
    connection.channel().queue_bind(queue, "amq.topic", "pub.a")
    code, text = channel_error(lambda: connection.channel().queue_bind(queue, "amq.topic", "x.a"))
    assert code == 403 and text.startswith("ACCESS_REFUSED - read access to topic 'x.a'")
    done("DELETE", f"topic-permissions/{VHOST}/{user}/amq.topic", 204)
    connection.channel().queue_bind(queue, "amq.topic", "x.a")
    connection.close()


def test_permissions_need_user_vhost_all_keys_and_valid_patterns(user):
    full = {"configure": "", "write": "", "read": ""}
    assert call("PUT", f"permissions/none/{user}", body=full).json["reason"] == "vhost_or_user_not_found"
    missing = call("PUT", f"permissions/{VHOST}/{user}", body={"configure": ""})
    assert missing.json["reason"] == "[{key_missing,write},{key_missing,read}]"
    assert call("PUT", f"permissions/{VHOST}/{user}", body={**full, "read": "("}).status == 400
    assert user in [row["name"] for row in get("users/without-permissions")]
    allow(user, "/", "a", "b", "c")
    assert get(f"users/{user}/permissions") == [
        {"user": user, "vhost": "/", "configure": "a", "write": "b", "read": "c"}]
    done("DELETE", f"permissions/{VHOST}/{user}", 204)
    assert call("GET", f"permissions/{VHOST}/{user}").status == 404


def test_limits_of_vhosts_and_users_hold_in_rabbitmqs_words(user, vhost):
    limits = f"vhost-limits/{quote(vhost)}"
    allow(user, vhost, ".*", ".*", ".*")
    done("PUT", limits + "/max-queues", body={"value": 1})
    connection = login(user, vhost)
    connection.channel().queue_declare("a", durable=True)
    connection.channel().queue_declare("a", durable=True)
    code, text = channel_error(lambda: connection.channel().queue_declare("b", durable=True))
    assert (code, text) == (406, "PRECONDITION_FAILED - cannot declare queue 'b': "
                                 f"queue limit in vhost '{vhost}' (1) is reached")
    done("PUT", limits + "/max-connections", body={"value": 1})
    assert get(limits) == [{"vhost": vhost, "value": {"max-connections": 1, "max-queues": 1}}]
    assert refused_login(user, vhost).endswith(
        f"NOT_ALLOWED - access to vhost '{vhost}' refused for user '{user}': vhost connection limit (1) is reached\"")
    done("DELETE", limits + "/max-connections", 204)
    done("PUT", f"user-limits/{user}/max-connections", body={"value": 1})
    assert refused_login(user, vhost).endswith(
        f"NOT_ALLOWED - connection refused for user '{user}': user connection limit (1) is reached\"")
    done("PUT", f"user-limits/{user}/max-connections", body={"value": -1})
    login(user, vhost).close()
    connection.close()
    done("PUT", f"user-limits/{user}/max-channels", body={"value": 1})
    connection = login(user, vhost)
    connection.channel()
    code, text = connection_error(connection.channel)
    assert (code, text) == (530, f"NOT_ALLOWED - number of channels opened for user '{user}' has reached "
                                 "the maximum allowed user limit of (1)")


def test_a_policy_acts_on_queues_that_are_there_and_lets_them_go_again(channel, queue, name):
    path = f"policies/{VHOST}/{name}"
    put(channel, queue, *[b"%d" % n for n in range(10)])
    body = {"pattern": f"^{name}$", "definition": {"max-length": 3}, "priority": 7, "apply-to": "queues"}
    done("PUT", path, 201, body=body)
    row = eventually(lambda: (r := get(f"queues/{VHOST}/{queue}"))["messages"] == 3 and r)
    assert row["policy"] == name and row["effective_policy_definition"] == {"max-length": 3}
    assert get(path) == {"vhost": "/", "name": name, **body}
    put(channel, queue, b"x", b"y")
    assert take(channel, queue, auto_ack=True)[2] == b"9"
    # Refusing instead, from now on.
    body["definition"] = {"max-length": 2, "overflow": "reject-publish"}
    done("PUT", path, 204, body=body)

    def refused():
        try:
            put(channel, queue, b"z")
        except pika.exceptions.NackError:
            return True
    eventually(refused)
    done("DELETE", path, 204)

    def accepted():
        try:
            put(channel, queue, b"z")
            return True
        except pika.exceptions.NackError:
            return False
    eventually(accepted)
    assert get(f"queues/{VHOST}/{queue}")["policy"] is None


def test_new_queues_get_their_policy_and_the_operator_has_the_last_word(channel, name):
    done("PUT", f"policies/{VHOST}/{name}", body={
        "pattern": f"^{name}", "definition": {"message-ttl": 60000, "dead-letter-exchange": "",
                                              "dead-letter-routing-key": f"{name}-dead"}})
    done("PUT", f"operator-policies/{VHOST}/{name}", body={
        "pattern": f"^{name}-a", "definition": {"message-ttl": 1}, "apply-to": "queues"})
    channel.queue_declare(f"{name}-a", durable=True)
    channel.queue_declare(f"{name}-dead", durable=True)
    put(channel, f"{name}-a", b"m")
    assert take(channel, f"{name}-dead", auto_ack=True)[2] == b"m"
    row = get(f"queues/{VHOST}/{name}-a")
    assert row["operator_policy"] == name and row["effective_policy_definition"]["message-ttl"] == 1
    exported = get("definitions")
    assert [p["value"]["definition"] for p in exported["parameters"] if p["name"] == name] == [{"message-ttl": 1}]
    for kind in ("policies", "operator-policies"):
        done("DELETE", f"{kind}/{VHOST}/{name}", 204)
    channel.queue_delete(f"{name}-a")
    channel.queue_delete(f"{name}-dead")


def test_an_exchange_gets_its_alternate_from_a_policy(channel, queue, name):
    channel.exchange_declare(name, "direct", durable=True)
    channel.exchange_declare(name + "-ae", "fanout", durable=True)
    channel.queue_bind(queue, name + "-ae")
    done("PUT", f"policies/{VHOST}/{name}", body={
        "pattern": f"^{name}$", "definition": {"alternate-exchange": name + "-ae"}, "apply-to": "exchanges"})
    put(channel, "nowhere", b"m", exchange=name)
    assert take(channel, queue, auto_ack=True)[2] == b"m"
    assert get(f"exchanges/{VHOST}/{name}")["policy"] == name
    done("DELETE", f"policies/{VHOST}/{name}", 204)
    channel.exchange_delete(name)
    channel.exchange_delete(name + "-ae")


def test_policies_that_make_no_sense_are_refused_in_rabbitmqs_words(name):
    def reason(definition, kind="policies", **more):
        answer = call("PUT", f"{kind}/{VHOST}/{name}", body={"pattern": ".*", "definition": definition, **more})
        assert answer.status == 400 and answer.json["error"] == "bad_request"
        return answer.json["reason"]

    assert reason({}) == "Validation failed\n\nno policy provided\n"
    assert "are not recognised policy settings" in reason({"foo": 1})
    assert "is not a valid message TTL" in reason({"message-ttl": "x"})
    assert "not recognised" in reason({"dead-letter-exchange": "x"}, "operator-policies")
    assert "unrecognised; should be one of" in reason({"max-length": 1}, **{"apply-to": "none"})
    assert "regular expression" in reason({"max-length": 1}, pattern="(")
    assert call("PUT", "policies/none/x", body={}).json == {"error": "not_found", "reason": "vhost_not_found"}


def test_queues_are_declared_listed_purged_and_deleted(channel, name):
    path = f"queues/{VHOST}/{quote(name + '/ü')}"
    body = {"durable": True, "auto_delete": False, "arguments": {"x-max-length": 9}}
    done("PUT", path, 201, body=body)
    done("PUT", path, 204, body=body)
    wrong = call("PUT", path, body={**body, "arguments": {"x-max-length": 8}})
    assert wrong.status == 400 and "inequivalent arg 'x-max-length'" in wrong.json["reason"]
    # A client's narrower integer is the same argument.
    channel.queue_declare(name + "/ü", durable=True, arguments={"x-max-length": 9})
    put(channel, name + "/ü", b"1", b"2")
    row = get(path)
    assert (row["messages"], row["messages_ready"], row["consumers"], row["state"]) == (2, 2, 0, "running")
    assert row["arguments"]["x-max-length"] == 9 and row["type"] == "classic"
    assert row["message_stats"]["publish"] == 2 and row["message_stats"]["publish_details"]["rate"] >= 0
    assert row["message_stats"]["deliver_get"] == 0
    page = get(f"queues?page=1&page_size=1&name={name}&columns=name,vhost")
    assert page["filtered_count"] == 1 and page["items"] == [{"name": name + "/ü", "vhost": "/"}]
    assert page["total_count"] >= 1 and page["page_count"] == 1
    assert call("GET", f"queues?page=99999").json["error"] == "page_out_of_range"
    assert call("GET", f"queues?page=1&page_size=501").status == 400
    assert call("DELETE", path + "?if-empty=true").status == 400
    done("DELETE", path + "/contents", 204)
    assert get(path)["messages"] == 0
    done("DELETE", path + "?if-empty=true", 204)
    assert call("GET", path).status == 404 == call("DELETE", path).status


def test_lists_sort_by_any_field(channel, name):
    for at in range(3):
        channel.queue_declare(f"{name}-{at}", durable=True)
        put(channel, f"{name}-{at}", *[b"m"] * ((at * 2) % 3))
    rows = get(f"queues/{VHOST}?page=1&name={name}&sort=messages&sort_reverse=true&columns=name,messages")["items"]
    assert [row["messages"] for row in rows] == [2, 1, 0]
    names = [row["name"] for row in get(f"queues/{VHOST}?page=1&name={name}&sort=name&sort_reverse=true")["items"]]
    assert names == [f"{name}-{at}" for at in (2, 1, 0)]
    assert len(get(f"queues/{VHOST}?page=1&use_regex=true&name=^{name}-[01]$")["items"]) == 2
    for at in range(3):
        channel.queue_delete(f"{name}-{at}")


def test_exchanges_and_bindings_are_made_listed_and_removed(channel, queue, name):
    path = f"exchanges/{VHOST}/{name}"
    done("PUT", path, 201, body={"type": "topic", "durable": True})
    assert call("PUT", path, body={"type": "fanout", "durable": True}).status == 400
    assert call("PUT", f"exchanges/{VHOST}/y", body={"type": "none"}).status == 400
    made = call("POST", f"bindings/{VHOST}/e/{name}/q/{queue}", body={"routing_key": "a.b"})
    assert made.status == 201 and made.headers["Location"] == f"{queue}/a.b"
    made = call("POST", f"bindings/{VHOST}/e/{name}/q/{queue}", body={"routing_key": "", "arguments": {"x": 1}})
    listed = get(f"bindings/{VHOST}/e/{name}/q/{queue}")
    assert {row["routing_key"] for row in listed} == {"a.b", ""}
    assert call("POST", f"bindings/{VHOST}/e/{name}/q/none", body={}).status == 404
    assert get(f"bindings/{VHOST}/e/{name}/q/none") == [] and call("GET", f"bindings/none/e/{name}/q/none").status == 404
    sources = [row["source"] for row in get(f"queues/{VHOST}/{queue}/bindings")]
    assert sorted(sources) == ["", name, name]
    for row in listed:
        key = quote(row["properties_key"])
        assert get(f"bindings/{VHOST}/e/{name}/q/{queue}/{key}") == row
        done("DELETE", f"bindings/{VHOST}/e/{name}/q/{queue}/{key}", 204)
    assert get(f"exchanges/{VHOST}/{name}/bindings/source") == []
    done("DELETE", path, 204)
    for path_of_none in (f"queues/{VHOST}/none/bindings", f"exchanges/{VHOST}/none/bindings/source"):
        assert get(path_of_none) == [] and call("GET", path_of_none.replace(VHOST, "none", 1)).status == 404
    assert call("GET", path).status == 404
    assert get(f"exchanges/{VHOST}/amq.default")["name"] == ""


def test_messages_are_published_and_got(queue):
    def publish(key, payload, encoding="string", **properties):
        return call("POST", f"exchanges/{VHOST}/amq.default/publish", body={
            "properties": properties, "routing_key": key, "payload": payload, "payload_encoding": encoding}).json

    def got(**more):
        body = {"count": 5, "ackmode": "ack_requeue_true", "encoding": "auto", **more}
        answer = call("POST", f"queues/{VHOST}/{queue}/get", body=body)
        assert answer.status == 200, answer.body
        return answer.json

    assert publish(queue, "hällo", headers={"a": 1}, delivery_mode=2) == {"routed": True}
    assert publish("nowhere-at-all", "x") == {"routed": False}
    assert publish(queue, "/wA=", "base64") == {"routed": True}
    first, second = got()
    assert (first["payload"], first["properties"]["headers"], first["redelivered"]) == ("hällo", {"a": 1}, False)
    assert (second["payload"], second["payload_encoding"], second["message_count"]) == ("/wA=", "base64", 0)
    assert [m["redelivered"] for m in got(ackmode="ack_requeue_false")] == [True, True]
    assert got() == []
    assert publish("nowhere-at-all", "cc", headers={"CC": ["nowhere-else"], "BCC": [queue]}) == {"routed": True}
    assert [m["properties"]["headers"] for m in got(ackmode="ack_requeue_false")] == [{"CC": ["nowhere-else"]}]
    missing = call("POST", f"queues/{VHOST}/{queue}/get", body={"count": 1, "requeue": True, "encoding": "auto"})
    assert missing.json["reason"] == "[{key_missing,ackmode}]"
    assert call("POST", f"queues/{VHOST}/none/get", body={
        "count": 1, "ackmode": "ack_requeue_true", "encoding": "auto"}).json["reason"] == "queue_not_found"


def test_a_full_queue_refuses_what_is_published_by_http(channel, name):
    channel.queue_declare(name, durable=True, arguments={"x-max-length": 0, "x-overflow": "reject-publish"})
    answer = call("POST", f"exchanges/{VHOST}/amq.default/publish", body={
        "properties": {}, "routing_key": name, "payload": "x", "payload_encoding": "string"})
    assert answer.status == 400
    assert answer.json["reason"] == "rejected Unable to publish message. Check queue limits."
    channel.queue_delete(name)


def test_connections_channels_and_consumers_are_listed_and_closed(user, queue):
    allow(user, "/", ".*", ".*", ".*")
    connection = login(user)
    channel = connection.channel()
    channel.basic_qos(prefetch_count=7)
    channel.confirm_delivery()
    tag = channel.basic_consume(queue, lambda *a: None, arguments={"x-priority": 3})
    row = next(row for row in get("connections") if row["user"] == user)
    assert row["channels"] == 1 and row["protocol"] == "AMQP 0-9-1" and row["state"] == "running"
    assert row["recv_oct"] > 0 and isinstance(row["peer_port"], int)
    host = pika.URLParameters(URL).host
    assert row["host"] == host and row["port"] == pika.URLParameters(URL).port
    assert row["name"] == f"{row['peer_host']}:{row['peer_port']} -> {row['host']}:{row['port']}"
    path = f"connections/{quote(row['name'])}"
    assert get(path)["client_properties"]["product"].startswith("Pika")
    one, = get(path + "/channels")
    assert (one["number"], one["prefetch_count"], one["confirm"], one["consumer_count"]) == (1, 7, True, 1)
    assert get(f"channels/{quote(one['name'])}")["consumer_details"][0]["consumer_tag"] == tag
    consumer = next(c for c in get(f"consumers/{VHOST}") if c["queue"]["name"] == queue)
    assert consumer["prefetch_count"] == 7 and consumer["arguments"] == {"x-priority": 3}
    assert consumer["ack_required"] is True and consumer["consumer_timeout"] > 0
    assert get(f"queues/{VHOST}/{queue}")["consumer_details"][0]["consumer_tag"] == tag
    assert [c["name"] for c in get(f"connections/username/{user}")] == [row["name"]]
    done("DELETE", path, 204, headers={"X-Reason": "tidying up"})
    code, text = connection_error(lambda: connection.process_data_events(10))
    assert (code, text) == (320, "CONNECTION_FORCED - tidying up")
    eventually(lambda: call("GET", path).status == 404)


def test_definitions_go_out_and_come_back(channel, name, vhost):
    done("PUT", f"users/{name}", body={"password": "p", "tags": "monitoring"})
    allow(name, vhost, "a", "b", "c")
    scope = quote(vhost)
    done("PUT", f"queues/{scope}/q", 201, body={"durable": True, "arguments": {"x-message-ttl": 5}})
    done("PUT", f"exchanges/{scope}/x", 201, body={"type": "headers", "durable": True})
    done("POST", f"bindings/{scope}/e/x/q/q", 201, body={"routing_key": "k", "arguments": {"h": "v"}})
    done("PUT", f"policies/{scope}/p", 201, body={"pattern": ".*", "definition": {"max-length": 5}})
    done("PUT", f"vhost-limits/{scope}/max-queues", body={"value": 50})
    exported = get("definitions")
    done("DELETE", f"vhosts/{scope}", 204)
    done("DELETE", f"users/{name}", 204)
    done("POST", "definitions", 204, body=exported)
    done("POST", "definitions", 204, body=exported)
    again = get("definitions")
    for key in ("users", "vhosts", "permissions", "queues", "exchanges", "bindings", "policies", "parameters"):
        shown = lambda rows: sorted(json.dumps(row, sort_keys=True) for row in rows)
        assert shown(again[key]) == shown(exported[key]), key
    assert get(f"queues/{scope}/q")["policy"] == "p"
    one = get(f"definitions/{scope}")
    assert one["queues"][0]["name"] == "q" and "vhost" not in one["queues"][0]
    done("DELETE", f"users/{name}", 204)


def test_definitions_of_an_older_broker_are_taken(name):
    document = {
        "rabbit_version": "3.12.14",
        "users": [{"name": name, "password_hash": "", "tags": "administrator,monitoring", "limits": {}}],
        "vhosts": [{"name": name, "limits": [{"name": "max-queues", "value": 9}], "metadata": {"description": "", "tags": []}}],
        "permissions": [{"user": name, "vhost": name, "configure": ".*", "write": ".*", "read": ".*"}],
        "topic_permissions": [], "parameters": [], "global_parameters": [{"name": "x-" + name, "value": {"a": [1]}}],
        "policies": [{"vhost": name, "name": "ha", "pattern": "^(?!amq\\.).*", "apply-to": "all", "priority": 0,
                      "definition": {"ha-mode": "all", "ha-sync-mode": "automatic", "max-length": 4}}],
        "queues": [{"name": "q", "vhost": name, "durable": True, "auto_delete": False,
                    "arguments": {"x-queue-type": "quorum"}}],
        "exchanges": [{"name": "x", "vhost": name, "type": "direct", "durable": True, "auto_delete": False,
                       "internal": False, "arguments": {}}],
        "bindings": [{"source": "x", "vhost": name, "destination": "q", "destination_type": "queue",
                      "routing_key": "k", "arguments": {}}]}
    done("POST", "definitions", 204, body=document)
    row = get(f"queues/{name}/q")
    assert row["type"] == "quorum" and row["effective_policy_definition"] == {"max-length": 4}
    assert get(f"global-parameters/x-{name}")["value"] == {"a": [1]}
    broken = call("POST", "definitions", body={"queues": [{"name": "q", "vhost": "nowhere"}]})
    assert broken.status == 400 and "queue q" in broken.json["reason"]
    done("DELETE", f"global-parameters/x-{name}", 204)
    done("DELETE", f"vhosts/{name}", 204)
    done("DELETE", f"users/{name}", 204)


def test_pages_of_a_long_list_are_cut_in_order(channel, name):
    document = {"queues": [{"name": f"{name}-{at:04}", "vhost": "/", "durable": True, "arguments": {}}
                           for at in range(300)]}
    done("POST", "definitions", 204, body=document)
    begin = time.monotonic()
    page = get(f"queues/{VHOST}?page=3&page_size=100&name={name}")
    assert [page["items"][0]["name"], page["item_count"]] == [f"{name}-0200", 100]
    assert time.monotonic() - begin < 5
    for at in range(300):
        channel.queue_delete(f"{name}-{at:04}")
