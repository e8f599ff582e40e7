"""Metrics as Prometheus reads them: RabbitMQ's names, one identity per scrape, objects where they are asked for."""
import os
import re
import urllib.error
import urllib.request

import pytest

from conftest import OURS, put, take
from dashboards import COUNTERS, GAUGES
from management import eventually, get

URL = os.environ.get("BROKER_METRICS_URL", "")
URL = URL and URL.removesuffix("/metrics") + "/metrics"
pytestmark = pytest.mark.skipif(not (URL and OURS), reason="no metrics to read")
LINE = re.compile(r'^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-z_A-Z0-9]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)$')


def scrape(path="", url=URL):
    try:
        with urllib.request.urlopen(url + path, timeout=30) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return parsed(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def parsed(text):
    """Samples by name and labels; every rule of the format that Prometheus holds us to."""
    samples, kinds, done, family = {}, {}, set(), None
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split(" ", 3)
            assert name not in kinds, f"{name} has two types"
            kinds[name], family = kind, name
            continue
        if line.startswith("#"):
            continue
        match = LINE.match(line)
        assert match, line
        name, labels, value = match.group(1), match.group(2) or "", float(match.group(3))
        assert name.startswith(family), f"{name} is not of {family}"
        done.add(family)
        assert (name, labels) not in samples, f"{line} is there twice"
        samples[(name, labels)] = value
    return samples


def named(samples, name):
    return {labels: value for (known, labels), value in samples.items() if known == name}


def total(samples, name):
    return sum(named(samples, name).values())


@pytest.mark.parametrize("path,endpoint", [
    ("", "aggregated"), ("/per-object", "per-object"), ("/detailed", "detailed"),
    ("/memory-breakdown", "memory-breakdown")])
def test_every_endpoint_has_one_identity_and_one_build(path, endpoint):
    samples = scrape(path)
    assert len(named(samples, "rabbitmq_build_info")) == 1
    (identity,) = named(samples, "rabbitmq_identity_info")
    assert f'rabbitmq_endpoint="{endpoint}"' in identity
    for label in ('rabbitmq_node="', 'rabbitmq_cluster="', 'rabbitmq_cluster_permanent_id="rabbitmq-cluster-id-'):
        assert label in identity


def test_everything_the_dashboards_query_is_there():
    names = {name for name, _ in scrape()}
    missing = [name for name in GAUGES + COUNTERS if f"rabbitmq_{name}" not in names]
    assert not missing, missing


# What is neither on a dashboard nor of objects, but in alerts and older dashboards.
MORE = """erlang_processes_used erlang_processes_limit erlang_scheduler_run_queue erlang_net_ticktime_seconds
    erlang_gc_runs_total erlang_gc_reclaimed_bytes_total erlang_scheduler_context_switches_total io_read_ops_total
    io_write_ops_total io_write_bytes_total io_sync_ops_total io_sync_time_seconds_total io_seek_ops_total
    io_reopen_ops_total io_seek_time_seconds_total schema_db_ram_tx_total schema_db_disk_tx_total msg_store_read_total
    msg_store_write_total queue_index_read_ops_total queue_index_write_ops_total unreachable_cluster_peers_count
    auth_attempts_total auth_attempts_succeeded_total auth_attempts_failed_total raft_term raft_commit_index
    raft_last_written_index raft_snapshot_index raft_last_applied raft_max_commit_latency_seconds
    queue_messages_bytes queue_messages_ready_bytes queue_messages_unacked_bytes""".split()


def test_what_alerts_and_older_dashboards_name_is_there():
    samples = scrape()
    names = {name for name, _ in samples}
    missing = [name for name in MORE if f"rabbitmq_{name}" not in names]
    assert not missing and ("process_start_time_seconds", "") in samples, missing
    parts = [name for name, _ in scrape("/memory-breakdown") if name.startswith("rabbitmq_memory_")]
    assert len(parts) == 26 and all(name.endswith("_bytes") for name in parts), parts


def test_sizes_are_counted_in_rabbitmqs_classes():
    bounds = [re.search('le="([^"]+)"', labels).group(1) for labels in named(scrape(), "rabbitmq_message_size_bytes_bucket")]
    assert bounds == ["100", "1000", "10000", "100000", "1000000", "10000000", "50000000", "100000000", "+Inf"]


def test_counters_count_what_happens(channel, other, queue):
    before = scrape()
    put(channel, queue, b"1", b"2", b"3")
    channel.basic_publish("", queue + "-none", b"lost")
    getter = other.channel()
    for _ in range(2):
        method, _, _ = take(getter, queue)
        getter.basic_ack(method.delivery_tag)
    getter.basic_get(queue)
    unacked = eventually(lambda: total(scrape(), "rabbitmq_channel_messages_unacked") >= 1)
    assert unacked

    def rose():
        after = scrape()
        rise = lambda name: total(after, f"rabbitmq_{name}") - total(before, f"rabbitmq_{name}")
        return (rise("global_messages_received_total") >= 4 and rise("global_messages_confirmed_total") >= 4
                and rise("global_messages_routed_total") >= 3 and rise("queue_messages_published_total") >= 3
                and rise("global_messages_unroutable_dropped_total") >= 1
                and rise("global_messages_delivered_get_manual_ack_total") >= 3
                and rise("global_messages_acknowledged_total") >= 2 and rise("message_size_bytes_count") >= 4)
    eventually(rose)


def metrics_of(node):
    """The URL of a node's metrics, as its listeners say."""
    (row,) = [row for row in get("overview")["listeners"] if row["protocol"] == "http/prometheus" and row["node"] == node]
    return f"http://{row['ip_address']}:{row['port']}/metrics"


def test_objects_have_their_own_lines_where_they_are_asked_for(channel, queue):
    put(channel, queue, b"1", b"22")

    # The length of a queue is told by the node that leads it, its name by every node, a channel by its own.
    def leads():
        url = metrics_of(get(f"queues/%2F/{queue}")["node"])
        ready = named(scrape("/per-object", url), "rabbitmq_queue_messages_ready")
        return ready.get(f'vhost="/",queue="{queue}"') == 2 and url
    leader = eventually(leads)
    for url in {URL, leader}:
        assert any(f'queue="{queue}"' in labels for labels in named(scrape("/per-object", url), "rabbitmq_queue_info"))
        assert f'queue="{queue}"' not in str(scrape(url=url))
    samples = scrape("/per-object")
    assert total(samples, "rabbitmq_channel_messages_published_total") >= 2
    assert any('exchange=""' in labels for labels in named(samples, "rabbitmq_exchange_messages_published_total"))

    detailed = scrape(f"/detailed?family=queue_coarse_metrics&family=nonsense&vhost=%2F&queue=^{queue}$", leader)
    assert {name for name, _ in detailed} == {
        "rabbitmq_identity_info", "rabbitmq_build_info", "rabbitmq_detailed_queue_messages_ready",
        "rabbitmq_detailed_queue_messages_unacked", "rabbitmq_detailed_queue_messages"}
    assert named(detailed, "rabbitmq_detailed_queue_messages") == {f'vhost="/",queue="{queue}"': 2}
    other = scrape("/detailed?family=queue_coarse_metrics&vhost=nowhere")
    assert not named(other, "rabbitmq_detailed_queue_messages")


FAMILIES = """connection_churn_metrics node_coarse_metrics node_metrics node_persister_metrics ra_metrics
    auth_attempt_metrics queue_coarse_metrics queue_consumer_count queue_metrics queue_delivery_metrics exchange_metrics
    connection_coarse_metrics connection_metrics channel_metrics channel_exchange_metrics channel_queue_metrics
    channel_queue_exchange_metrics vhost_status exchange_bindings exchange_names""".split()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_asked_for(family, channel, queue):
    put(channel, queue, b"1")
    samples = scrape(f"/detailed?family={family}")
    own = {name for name, _ in samples} - {"rabbitmq_identity_info", "rabbitmq_build_info"}
    assert own, family
    prefix = "rabbitmq_cluster_" if family in ("vhost_status", "exchange_bindings", "exchange_names") else "rabbitmq_detailed_"
    assert all(name.startswith(prefix) for name in own), own


def test_what_makes_no_sense_is_refused():
    assert scrape("/detailed?family=queue_metrics&queue=[")[0] == 400
    assert scrape("/detailed?family=queue_metrics&queue=a&queue=b")[0] == 400
    assert scrape("/detailed?family=queue_metrics&queue=" + "a" * 2000)[0] == 400
    assert scrape("/nothing") == (404, "Unknown Registry")
