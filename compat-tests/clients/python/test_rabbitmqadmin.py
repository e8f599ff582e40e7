"""rabbitmqadmin unchanged: the script RabbitMQ 3.x and 4.0 ship, and v2 where `RABBITMQADMIN_V2` names it."""
import json
import os
import shlex
import shutil
import subprocess
import urllib.parse

import pytest

from conftest import OURS
from management import URL as API, eventually, get

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


#: Each command group of v2, in the order in which one line leans on another; `!` is refused. `{node}` and `{folder}` are put in.
SWEEP = """
vhosts declare --name sweep --default-queue-type quorum --description d
vhosts list
vhosts enable_deletion_protection --name sweep
! vhosts delete --name sweep
vhosts disable_deletion_protection --name sweep
users declare --name sweep1 --password p --tags management
users list
users permissions
users connections --username guest
users limits --user sweep1
passwords salt_and_hash pass
permissions declare --vhost sweep --user sweep1 --configure .* --read .* --write .*
--vhost sweep permissions declare --user guest --configure .* --read .* --write .*
--vhost sweep permissions list
user_limits declare --user sweep1 --name max-connections --value 100
user_limits list
user_limits delete --user sweep1 --name max-connections
--vhost sweep vhost_limits declare --name max-queues --value 100
vhost_limits list
--vhost sweep vhost_limits delete --name max-queues
--vhost sweep queues declare --name q.classic --type classic --durable true
--vhost sweep queues declare --name q.quorum --type quorum --durable true
--vhost sweep queues list
--vhost sweep queues show --name q.quorum
--vhost sweep queues purge --name q.classic
! --vhost sweep purge queue --name none
--vhost sweep streams declare --name s1 --expiration 8h
--vhost sweep streams list
--vhost sweep streams show --name s1
--vhost sweep streams delete --name s1
--vhost sweep exchanges declare --name x1 --type topic --durable true
--vhost sweep exchanges declare --name x2 --type fanout --durable true
--vhost sweep exchanges list
--vhost sweep exchanges bind --source x1 --destination-type queue --destination q.quorum --routing-key a.#
--vhost sweep exchanges bind --source x1 --destination-type exchange --destination x2 --routing-key b.#
--vhost sweep bindings declare --source x2 --destination-type queue --destination q.classic --routing-key k
--vhost sweep bindings list
--vhost sweep publish message --exchange x1 --routing-key a.b --payload hello --properties '{"content_type": "text/plain", "headers": {"a": 1}}'
--vhost sweep get messages --queue q.quorum --count 2 --ack-mode ack_requeue_true
--vhost sweep get messages --queue q.quorum --count 2 --ack-mode ack_requeue_false
--vhost sweep bindings delete --source x2 --destination-type queue --destination q.classic --routing-key k
--vhost sweep exchanges unbind --source x1 --destination-type queue --destination q.quorum --routing-key a.#
--vhost sweep policies declare --name p1 --pattern ^q --apply-to queues --priority 3 --definition '{"max-length": 10, "message-ttl": 60000}'
--vhost sweep policies list
--vhost sweep policies list_in
--vhost sweep policies list_matching_object --name q.quorum --type queues
--vhost sweep policies patch --name p1 --definition '{"max-length": 20}'
--vhost sweep policies update_definition --name p1 --definition-key max-length --new-value 30
--vhost sweep policies update_definitions_of_all_in --definition-key max-length --new-value 31
--vhost sweep policies delete_definition_keys --name p1 --definition-keys message-ttl
--vhost sweep policies delete_definition_keys_from_all_in --definition-keys overflow
--vhost sweep policies declare_override --name p1 --override-name p1o --definition '{"max-length": 5}'
--vhost sweep policies declare_blanket --name blank --apply-to queues --definition '{"max-length": 5}'
policies list_conflicting
--vhost sweep policies list_conflicting_in
--vhost sweep policies delete --name p1
--vhost sweep policies delete --name p1o
--vhost sweep policies delete --name blank
--vhost sweep operator_policies declare --name o1 --pattern ^q --apply-to queues --definition '{"max-length": 10, "delivery-limit": 5}'
--vhost sweep operator_policies list
--vhost sweep operator_policies list_in
--vhost sweep operator_policies list_matching_object --name q.quorum --type queues
--vhost sweep operator_policies patch --name o1 --definition '{"max-length": 20}'
--vhost sweep operator_policies update_definition --name o1 --definition-key max-length --new-value 30
--vhost sweep operator_policies delete_definition_keys --name o1 --definition-keys delivery-limit
--vhost sweep operator_policies delete --name o1
--vhost sweep parameters set --component federation-upstream --name fu --value '{"uri": "amqp://localhost"}'
parameters list_all
--vhost sweep parameters list --component federation-upstream
--vhost sweep parameters list_in --component federation-upstream
--vhost sweep parameters clear --component federation-upstream --name fu
global_parameters set --name gp --value '{"a": 1}'
global_parameters list
global_parameters clear --name gp
feature_flags list
feature_flags enable --name stream_queue
feature_flags enable_all
deprecated_features list
deprecated_features list_used
plugins list_all
plugins list_on_node --node {node}
nodes list
nodes memory_breakdown_in_bytes --node {node}
nodes memory_breakdown_in_percent --node {node}
auth_attempts stats --node {node}
--vhost sweep list queues --page 1 --page-size 10
connections list
connections list_of_user --username guest
connections close_of_user --username nobody
channels list
! health_check port_listener --port 1
! health_check protocol_listener --protocol mqtt
queues rebalance
rebalance queues
definitions export --file {folder}/all.json
--vhost sweep definitions export_from_vhost --file {folder}/vhost.json
definitions import --file {folder}/all.json
--vhost sweep definitions import_into_vhost --file {folder}/vhost.json
export definitions --file {folder}/all.json
import definitions --file {folder}/all.json
definitions export --file {folder}/less.json --transformations strip_cmq_keys_from_policies,drop_empty_policies,exclude_users
--vhost sweep shovels declare_amqp091 --name sh --source-uri amqp://localhost --destination-uri amqp://localhost --source-queue q.classic --destination-queue q.quorum
--vhost sweep shovels list
--vhost sweep shovels delete --name sh --idempotently
--vhost sweep federation declare_upstream --name up --uri amqp://localhost
--vhost sweep federation declare_upstream_for_queues --name upq --uri amqp://localhost --queue-name q
--vhost sweep federation declare_upstream_for_exchanges --name upx --uri amqp://localhost --exchange-name x
federation list_all_upstreams
--vhost sweep federation delete_upstream --name up
--vhost sweep federation delete_upstream --name upq
--vhost sweep federation delete_upstream --name upx
--vhost sweep queues delete_multiple --name-pattern ^q.cl --dry-run
--vhost sweep queues delete_multiple --name-pattern ^q.cl --approve
--vhost sweep queues delete --name q.quorum
--vhost sweep queues delete --name q.quorum --idempotently
! --vhost sweep queues delete --name q.quorum
--vhost sweep exchanges delete --name x1
--vhost sweep delete exchange --name x2
vhosts delete_multiple --name-pattern ^sweep --dry-run
users delete --name sweep1
vhosts delete --name sweep
"""


@pytest.mark.skipif(not NEW, reason="RABBITMQADMIN_V2 names no program")
def test_v2_has_every_group_answered(tmp_path):
    node = get("overview")["node"]
    for line in SWEEP.strip().splitlines():
        refused, line = line.startswith("! "), line.removeprefix("! ")
        words = [word.replace("{node}", node).replace("{folder}", str(tmp_path)) for word in shlex.split(line)]
        options = ["-H", HOST.hostname, "-P", str(HOST.port), "-u", "guest", "-p", "guest"]
        result = subprocess.run([NEW, *options, *words], capture_output=True, text=True, timeout=60)
        assert (result.returncode != 0) == refused, (line, result.returncode, result.stdout, result.stderr)
