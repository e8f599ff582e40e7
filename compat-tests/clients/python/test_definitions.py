"""Definitions that RabbitMQ 3.10 and 4.0 exported are taken as they are, and come out again as they went in."""
import json
import pathlib

import pytest

from conftest import OURS
from management import URL as API, call, done, get, quote

pytestmark = pytest.mark.skipif(not (API and OURS), reason="no management API to ask")
FIXTURES = sorted((pathlib.Path(__file__).parents[2] / "fixtures/definitions").glob("*.json"))
#: What names an object of each list.
KEYS = {"users": ("name",), "vhosts": ("name",), "permissions": ("user", "vhost"),
        "topic_permissions": ("user", "vhost", "exchange"), "parameters": ("component", "vhost", "name"),
        "global_parameters": ("name",), "policies": ("vhost", "name"), "queues": ("vhost", "name"),
        "exchanges": ("vhost", "name"),
        "bindings": ("vhost", "source", "destination_type", "destination", "routing_key")}
#: Of each list: what must come back unchanged.
SAME = {"users": ("password_hash", "hashing_algorithm", "tags", "limits"), "permissions": ("configure", "write", "read"),
        "topic_permissions": ("write", "read"), "parameters": ("value",), "global_parameters": ("value",),
        "policies": ("pattern", "apply-to", "definition", "priority"), "queues": ("durable", "auto_delete"),
        "exchanges": ("type", "durable", "auto_delete", "internal", "arguments"), "bindings": ("arguments",), "vhosts": ()}


def by_key(document):
    return {(kind, *(row[key] for key in keys)): row for kind, keys in KEYS.items() for row in document.get(kind, [])}


def without_type(row):
    return {key: value for key, value in row.get("arguments", {}).items() if key != "x-queue-type"}


@pytest.mark.parametrize("path", FIXTURES, ids=[path.stem for path in FIXTURES])
def test_what_rabbitmq_exported_goes_in_and_comes_out_the_same(path):
    given = json.loads(path.read_text())
    before = get("definitions")
    try:
        for _ in range(2):
            answer = call("POST", "definitions", body=given)
            assert answer.status == 204, answer.body
        after = by_key(get("definitions"))
        for key, row in by_key(given).items():
            if key == ("global_parameters", "internal_cluster_id"):
                continue
            assert key in after, key
            for field in SAME[key[0]]:
                empty = ({}, [], None, False)
                same = row.get(field) == after[key].get(field)
                assert same or (row.get(field) in empty and after[key].get(field) in empty), (key, field, after[key])
            if key[0] == "queues":
                assert without_type(row) == without_type(after[key]), key
        assert call("GET", "whoami", user="hare", password="test12").status == 200
        for row in given["queues"]:
            shown = get(f"queues/{quote(row['vhost'])}/{quote(row['name'])}")
            assert shown["type"] == row["arguments"].get("x-queue-type", "classic")
        assert get("vhost-limits/" + quote("a/b ü"))[0]["value"]["max-queues"] == 50
        # Exported twice, the same bytes: it can be kept under version control.
        assert call("GET", "definitions").body == call("GET", "definitions").body
    finally:
        call("DELETE", "vhosts/" + quote("a/b ü"))
        call("DELETE", "users/hare")
        for kind, names in (("queues", ("q.classic", "q.quorum")), ("exchanges", ("dead",))):
            for name in names:
                call("DELETE", f"{kind}/%2F/{name}")
        call("DELETE", "policies/%2F/dlx")
        call("DELETE", "operator-policies/%2F/op")
        call("DELETE", "global-parameters/mqtt_port_to_vhost_mapping")
        done("PUT", "cluster-name", 204, body={"name": get("overview")["cluster_name"]})
        done("POST", "definitions", 204, body={"users": before["users"]})


def test_a_vhosts_definitions_go_into_another_vhost(queue):
    part = get("definitions/%2F")
    assert all("vhost" not in row for row in part["queues"])
    done("PUT", "vhosts/copy", 201)
    try:
        done("POST", "definitions/copy", 204, body=part)
        assert get(f"queues/copy/{queue}")["durable"]
        refused = call("POST", "definitions", body=part)
        assert refused.status == 400 and refused.json["error"] == "bad_request"
    finally:
        call("DELETE", "vhosts/copy")


def test_what_migrations_lean_on_in_a_document(name):
    """A mark of the encoding, words of older versions, what is passed over, what is refused, and what an export has."""
    queue = lambda name, **more: {"name": name, "durable": True, "auto_delete": False, "arguments": {}, **more}
    vhost = {"name": name, "limits": [], "metadata": {"description": "d", "tags": ["x"], "default_queue_type": "undefined"}}
    people = [{"name": f"{name}-a", "password": "p", "tags": "a,b"}, {"name": f"{name}-b", "password": "p", "administrator": True}]
    marked = b"\xef\xbb\xbf" + json.dumps({"vhosts": [vhost], "users": people, "unknown": [1]}).encode()
    try:
        for _ in range(2):
            done("POST", "definitions", 204, raw=marked)
        assert get(f"users/{name}-a")["tags"] == ["a", "b"] and get(f"users/{name}-b")["tags"] == ["administrator"]
        shown = get(f"vhosts/{name}")
        assert (shown["description"], shown["default_queue_type"]) == ("d", "classic")
        without = call("POST", "definitions", body={"queues": [queue("q")]})
        assert (without.status, without.json["reason"]) == (400, "[{key_missing,vhost}]")
        limit = {"component": "vhost-limits", "vhost": name, "name": "limits", "value": {"max-queues": 1}}
        done("POST", "definitions", 204, body={"parameters": [limit]})
        # What the broker keeps for itself is passed over and counts for nothing; what is there stays as it is.
        own = [queue("amq.mine", vhost=name), queue("q", vhost=name)]
        exchanges = [{"name": one, "vhost": name, "type": "direct", "durable": True, "auto_delete": False, "internal": False,
                      "arguments": {}} for one in ("", "amq.direct", "x")]
        done("POST", "definitions", 204, body={"queues": own, "exchanges": exchanges})
        other = queue("q", vhost=name) | {"auto_delete": True, "arguments": {"x-max-length": 1}}
        done("POST", "definitions", 204, body={"queues": [other]})
        assert [(row["name"], row["auto_delete"]) for row in get(f"queues/{name}")] == [("q", False)]
        more = call("POST", "definitions", body={"queues": [queue("q2", vhost=name)], "exchanges": [exchanges[2] | {"name": "y"}]})
        assert more.status == 400 and "queue limit in vhost" in more.json["reason"]
        assert call("GET", f"exchanges/{name}/y").status == 404, "nothing of it was declared"
        mirrored = {"vhost": name, "name": "ha", "pattern": ".*", "definition": {"ha-mode": "all"}}
        done("POST", "definitions", 204, body={"policies": [mirrored]})

        whole = get("definitions")
        row = next(row for row in whole["vhosts"] if row["name"] == name)
        assert row["limits"] == {"max-queues": 1} and row["metadata"]["tags"] == ["x"]
        assert [row["type"] for row in whole["queues"] if row["vhost"] == name] == ["classic"]
        assert whole["rabbitmq_definition_format"] == "cluster" and whole["original_cluster_name"]
        single = get(f"definitions/{name}")
        assert (single["rabbitmq_definition_format"], single["original_vhost_name"]) == ("single_virtual_host", name)
        assert single["limits"] == {"max-queues": 1} and single["description"] == "d"
        assert not {"users", "vhosts", "permissions", "global_parameters"} & set(single) and "vhost" not in single["queues"][0]
        assert call("POST", "definitions", body=single).status == 400
        assert call("GET", "definitions").body == call("GET", "definitions").body
    finally:
        call("DELETE", f"vhosts/{name}")
        call("POST", "users/bulk-delete", body={"users": [row["name"] for row in people]})


def test_one_vhosts_document_makes_another_like_it(name):
    first, second = f"{name}-1", f"{name}-2"
    try:
        for vhost in (first, second):
            done("PUT", f"vhosts/{vhost}", 201)
        done("PUT", f"queues/{first}/q", 201, body={"durable": True, "arguments": {"x-max-length": 7}})
        done("PUT", f"exchanges/{first}/x", 201, body={"type": "topic", "durable": True})
        done("POST", f"bindings/{first}/e/x/q/q", 201, body={"routing_key": "a.#"})
        done("PUT", f"policies/{first}/p", 201, body={"pattern": "^q", "definition": {"max-length": 3}})
        document = get(f"definitions/{first}")
        done("POST", f"definitions/{second}", 204, body=document)
        again = get(f"definitions/{second}")
        for key in ("queues", "exchanges", "bindings", "policies", "parameters"):
            assert again[key] == document[key], key
    finally:
        for vhost in (first, second):
            call("DELETE", f"vhosts/{vhost}")
