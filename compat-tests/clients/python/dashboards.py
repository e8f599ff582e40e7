"""A real Prometheus scrapes the brokers, and every query of RabbitMQ's Overview and Raft dashboards must give data.

    dashboards.py AMQP_URL METRICS_URL [METRICS_URL...]

Prints one line per query, and ends with 1 if one has no data. The queries are what the dashboards compute, written anew:
each joins with the identity series of its instance, as every panel does.
"""
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import pika

# Beside the two that messages go through.
QUEUES = 7
BY_NODE = 'group_left(rabbitmq_cluster, rabbitmq_node) rabbitmq_identity_info{rabbitmq_endpoint="aggregated"}'

# Gauges and counters of the panels; counters as rates.
GAUGES = """queue_messages_ready queue_messages_unacked queue_messages connections channels queues consumers
    global_publishers global_consumers channel_consumers process_open_fds process_max_fds
    process_resident_memory_bytes resident_memory_limit_bytes disk_space_available_bytes
    disk_space_available_limit_bytes erlang_uptime_seconds process_open_tcp_sockets process_max_tcp_sockets
    raft_commit_latency_seconds raft_entry_commit_latency_seconds raft_snapshot_index raft_log_snapshot_index
    alarms_memory_used_watermark alarms_free_disk_space_watermark alarms_file_descriptor_limit""".split()
COUNTERS = """global_messages_received_total global_messages_received_confirm_total global_messages_routed_total
    global_messages_confirmed_total global_messages_unroutable_dropped_total
    global_messages_unroutable_returned_total global_messages_delivered_total
    global_messages_delivered_consume_manual_ack_total global_messages_delivered_consume_auto_ack_total
    global_messages_delivered_get_manual_ack_total global_messages_delivered_get_auto_ack_total
    global_messages_get_empty_total global_messages_redelivered_total global_messages_acknowledged_total
    global_messages_dead_lettered_maxlen_total global_messages_dead_lettered_expired_total
    global_messages_dead_lettered_rejected_total global_messages_dead_lettered_delivery_limit_total
    connections_opened_total connections_closed_total channels_opened_total channels_closed_total
    queues_declared_total queues_created_total queues_deleted_total message_size_bytes_sum message_size_bytes_count
    channel_messages_published_total channel_messages_confirmed_total channel_messages_unroutable_returned_total
    channel_messages_unroutable_dropped_total channel_messages_delivered_total channel_messages_delivered_ack_total
    channel_messages_redelivered_total channel_messages_acked_total channel_get_total channel_get_ack_total
    channel_get_empty_total queue_messages_published_total raft_commit_index raft_log_commit_index
    raft_term raft_term_total raft_last_written_index raft_log_last_written_index""".split()
SHOULD_MOVE = {"global_messages_received_total", "global_messages_confirmed_total", "global_messages_routed_total",
               "global_messages_acknowledged_total", "global_messages_delivered_total", "message_size_bytes_sum",
               "queue_messages_published_total", "raft_commit_index"}


def queries():
    for name in GAUGES:
        yield name, f"sum(rabbitmq_{name} * on(instance, job) {BY_NODE}) by(rabbitmq_node)"
    for name in COUNTERS:
        yield name, f"sum(rate(rabbitmq_{name}[10s]) * on(instance, job) {BY_NODE}) by(rabbitmq_node)"
    yield "sizes", ("sum(increase(rabbitmq_message_size_bytes_bucket{le=~\"100|100.0\"}[10s]) "
                    f"* on(instance, job) {BY_NODE})")
    yield "uncommitted", ("sum((rabbitmq_raft_last_written_index - rabbitmq_raft_commit_index) "
                          f"* on(instance, job) {BY_NODE}) by(rabbitmq_node)")
    yield "long logs", ("sum((rabbitmq_raft_last_written_index - rabbitmq_raft_snapshot_index) "
                        f"* on(instance, job) {BY_NODE}) by(queue, rabbitmq_node)")
    yield "node table", ("rabbitmq_erlang_uptime_seconds * on(instance, job) group_left(rabbitmq_version, erlang_version) "
                         "rabbitmq_build_info * on(instance, job) group_left(rabbitmq_cluster, rabbitmq_node) "
                         "rabbitmq_identity_info")
    yield "memory left", ("(rabbitmq_resident_memory_limit_bytes - rabbitmq_process_resident_memory_bytes) "
                          f"* on(instance, job) {BY_NODE}")


class Prometheus:
    def __init__(self, folder, targets, port):
        self.url = f"http://127.0.0.1:{port}"
        config = {"global": {"scrape_interval": "1s"}, "scrape_configs": [
            {"job_name": "broker", "static_configs": [{"targets": targets}]}]}
        path = os.path.join(folder, "prometheus.yml")
        with open(path, "w") as out:
            json.dump(config, out)
        self.process = subprocess.Popen(
            ["prometheus", f"--config.file={path}", f"--storage.tsdb.path={folder}/data",
             f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, query):
        url = f"{self.url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                return json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            return [{"error": json.load(error).get("error")}]
        except OSError:
            return []


def panel(title):
    """The query of a panel of our dashboard."""
    here = os.path.dirname(os.path.abspath(__file__))
    with open(os.path.join(here, "../../../docker/grafana/dashboards/overview.json")) as file:
        panels = json.load(file)["panels"]
    (one,) = [row for row in panels if row["title"] == title and "targets" in row]
    return one["targets"][0]["expr"]


def traffic(url, stop):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    other = connection.channel()
    for kind in ("classic", "quorum"):
        channel.queue_declare(f"dash-{kind}", durable=True, arguments={"x-queue-type": kind})
    for number in range(QUEUES):
        channel.queue_declare(f"dash-{number}", durable=True)
    while not stop.is_set():
        for kind in ("classic", "quorum"):
            for body in (b"x" * 20, b"x" * 2000):
                channel.basic_publish("", f"dash-{kind}", body)
            method, _, _ = other.basic_get(f"dash-{kind}", auto_ack=True)
        tags = []
        for method, _, _ in other.consume("dash-quorum", inactivity_timeout=0.2):
            if method is None:
                break
            tags.append(method.delivery_tag)
        if tags:
            other.basic_ack(tags[-1], multiple=True)
        other.cancel()
        stop.wait(0.02)
    connection.close()


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main():
    amqp, targets = sys.argv[1], [urllib.parse.urlparse(url).netloc for url in sys.argv[2:]]
    stop = threading.Event()
    load = threading.Thread(target=traffic, args=(amqp, stop))
    load.start()
    missing = []
    with tempfile.TemporaryDirectory() as folder:
        prometheus = Prometheus(folder, targets, free_port())
        try:
            end = time.monotonic() + 60
            while len(prometheus.ask("rate(rabbitmq_global_messages_received_total[10s]) > 0")) < 1 \
                    or len(prometheus.ask("up == 1")) < len(targets):
                assert time.monotonic() < end, "Prometheus got nothing in time"
                time.sleep(0.5)
            time.sleep(3)
            for name, query in queries():
                result = prometheus.ask(query)
                error = next((row["error"] for row in result if "error" in row), None)
                values = [float(row["value"][1]) for row in result if "value" in row]
                good = bool(values) and not error and (name not in SHOULD_MOVE or sum(values) > 0)
                print("ok" if good else "NO DATA", name, error or values)
                if not good:
                    missing.append(name)
            nodes = prometheus.ask("count(rabbitmq_identity_info)")
            if [row["value"][1] for row in nodes] != [str(len(targets))]:
                missing.append(f"identity series: {nodes}")
            # The panels' own words: the cluster has one name, and each queue counts once.
            (cluster,) = {row["metric"]["rabbitmq_cluster"] for row in prometheus.ask("rabbitmq_identity_info")}
            counted = panel("Queues").replace("$cluster", cluster)
            counted = [row["value"][1] for row in prometheus.ask(counted)]
            print("queues in all:", counted)
            if counted != [str(QUEUES + 2)]:
                missing.append(f"the panel of queues says {counted} of {QUEUES + 2}")
        finally:
            prometheus.process.terminate()
            prometheus.process.wait()
            stop.set()
            load.join()
    print("missing:", missing)
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    main()
