"""rabbitmqadmin unchanged: the script RabbitMQ 3.x and 4.0 ship, and v2 where `RABBITMQADMIN_V2` names it."""
import json
import os
import shutil
import subprocess
import urllib.parse

import pytest

from conftest import OURS
from management import URL as API, eventually

OLD, NEW = shutil.which("rabbitmqadmin"), os.environ.get("RABBITMQADMIN_V2")
HOST = urllib.parse.urlparse(API)
pytestmark = pytest.mark.skipif(not (API and OURS), reason="no management API to ask")


def run(program, options, *arguments):
    result = subprocess.run([program, *options, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, (arguments, result.stdout, result.stderr)
    return result.stdout


def old(*arguments):
    return run(OLD, ["-H", HOST.hostname, "-P", str(HOST.port), "-u", "guest", "-p", "guest", "-f", "raw_json"], *arguments)


def new(*arguments):
    return run(NEW, ["-H", HOST.hostname, "-P", str(HOST.port), "-u", "guest", "-p", "guest"], *arguments)


@pytest.mark.skipif(not OLD, reason="there is no rabbitmqadmin here")
def test_the_old_script_declares_publishes_gets_lists_and_exports(tmp_path):
    old("declare", "vhost", "name=adm")
    old("declare", "user", "name=adm", "password=adm", "tags=management")
    old("declare", "permission", "vhost=adm", "user=adm", "configure=.*", "write=.*", "read=.*")
    old("declare", "queue", "name=adm.q", "durable=true", 'arguments={"x-max-length": 9}')
    old("declare", "exchange", "name=adm.x", "type=topic")
    old("declare", "binding", "source=adm.x", "destination=adm.q", "routing_key=a.#")
    old("declare", "policy", "name=adm.p", "pattern=^adm", 'definition={"message-ttl": 60000}', "apply-to=queues")
    assert "published" in run(OLD, ["-H", HOST.hostname, "-P", str(HOST.port)], "publish", "exchange=adm.x",
                              "routing_key=a.b", "payload=body").lower()
    (message,) = json.loads(old("get", "queue=adm.q", "ackmode=ack_requeue_false"))
    assert message["payload"] == "body"
    for what in ("queues", "exchanges", "bindings", "users", "vhosts", "permissions", "nodes", "connections", "channels",
                 "consumers", "policies", "parameters", "operator_policies"):
        json.loads(old("list", what))
    assert "adm.q" in old("list", "queues", "name", "messages")
    json.loads(old("show", "overview"))
    file = tmp_path / "definitions.json"
    old("export", str(file))
    old("import", str(file))
    old("purge", "queue", "name=adm.q")
    for what, name in (("policy", "adm.p"), ("queue", "adm.q"), ("exchange", "adm.x"), ("vhost", "adm"), ("user", "adm")):
        old("delete", what, f"name={name}")


#: Commands of v2 that only read.
READING = [
    ["show", "overview"], ["show", "churn"], ["show", "endpoint"], ["list", "nodes"], ["list", "vhosts"],
    ["list", "users"], ["list", "permissions"], ["list", "queues"], ["list", "exchanges"], ["list", "bindings"],
    ["list", "connections"], ["list", "channels"], ["list", "consumers"], ["list", "parameters"], ["list", "policies"],
    ["list", "operator_policies"], ["list", "vhost_limits"], ["list", "user_limits"], ["list", "feature_flags"],
    ["list", "deprecated_features"], ["list", "deprecated_features_in_use"], ["health_check", "local_alarms"],
    ["health_check", "cluster_wide_alarms"], ["health_check", "node_is_quorum_critical"],
    ["health_check", "protocol_listener", "--protocol", "amqp"], ["definitions", "export", "--stdout"],
    ["list", "user_connections", "--username", "guest"], ["streams", "list"], ["shovels", "list_all"],
    ["federation", "list_all_upstreams"], ["federation", "list_all_links"],
]


@pytest.mark.skipif(not NEW, reason="RABBITMQADMIN_V2 names no program")
@pytest.mark.parametrize("command", READING, ids=[" ".join(command) for command in READING])
def test_v2_reads(command):
    new(*command)


@pytest.mark.skipif(not NEW, reason="RABBITMQADMIN_V2 names no program")
def test_v2_changes_what_there_is(tmp_path):
    new("declare", "vhost", "--name", "v2")
    new("declare", "user", "--name", "v2", "--password", "secret", "--tags", "management")
    new("--vhost", "v2", "declare", "permissions", "--user", "v2", "--configure", ".*", "--write", ".*", "--read", ".*")
    new("--vhost", "v2", "declare", "queue", "--name", "q", "--type", "quorum", "--durable", "true")
    new("--vhost", "v2", "declare", "exchange", "--name", "x", "--type", "topic", "--durable", "true")
    new("--vhost", "v2", "declare", "binding", "--source", "x", "--destination-type", "queue", "--destination", "q",
        "--routing-key", "a.#")
    new("--vhost", "v2", "declare", "policy", "--name", "p", "--pattern", "^q", "--apply-to", "queues",
        "--definition", '{"max-length": 10}')
    new("declare", "user", "--name", "guest2", "--password", "secret", "--tags", "administrator")
    new("--vhost", "v2", "declare", "permissions", "--user", "guest", "--configure", ".*", "--write", ".*", "--read", ".*")
    new("--vhost", "v2", "publish", "message", "--exchange", "x", "--routing-key", "a.b", "--payload", "body")
    assert "body" in eventually(lambda: new("--vhost", "v2", "get", "messages", "--queue", "q", "--count", "1"))
    new("--vhost", "v2", "declare", "vhost_limit", "--name", "max-queues", "--value", "10")
    new("--vhost", "v2", "purge", "queue", "--name", "q")
    file = tmp_path / "definitions.json"
    new("definitions", "export", "--file", str(file))
    new("definitions", "import", "--file", str(file))
    new("--vhost", "v2", "delete", "policy", "--name", "p")
    new("--vhost", "v2", "delete", "queue", "--name", "q")
    new("--vhost", "v2", "delete", "exchange", "--name", "x")
    new("delete", "vhost", "--name", "v2")
    for user in ("v2", "guest2"):
        new("delete", "user", "--name", user)
