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
