"""What well-known tools ask of the management API, and what they insist on in the answer. The tools themselves are not run."""
import pytest

from conftest import OURS, put, take
from management import URL as API, call, done, eventually, get, quote

pytestmark = pytest.mark.skipif(not (API and OURS), reason="no management API to ask")


def rated(stats, *names):
    for name in names:
        assert isinstance(stats[name], int) and stats[f"{name}_details"]["rate"] >= 0, name


def test_keda_scales_by_lengths_and_rates(channel, queue):
    put(channel, queue, b"1", b"2")
    eventually(lambda: get(f"queues/%2F/{queue}")["messages"] == 2)
    exact = get(f"queues/%2F/{queue}")
    assert exact["messages_ready"] == 2
    rated(exact["message_stats"], "publish", "deliver_get")
    page = get(f"queues/%2F?page=1&use_regex=true&pagination=false&name=%5E{queue}%24&page_size=100")
    assert (page["page_count"], [row["name"] for row in page["items"]]) == (1, [queue])
    assert page["items"][0]["message_stats"]["publish_details"]["rate"] >= 0


def test_flower_shows_a_brokers_queues(queue):
    (row,) = [row for row in get("queues/%2F") if row["name"] == queue]
    for key in ("messages", "messages_unacknowledged", "messages_ready", "consumers"):
        assert row[key] == 0, key


def test_rates_are_of_what_happens_now(channel, other, queue):
    """Published for longer than an interval of statistics: the rates of queue, exchange, channel, vhost and node are above 0."""
    seen = {}

    def all_rates():
        put(channel, queue, b"x")
        take(other_channel, queue, auto_ack=True)
        rows = {
            "queue": get(f"queues/%2F/{queue}")["message_stats"]["publish_details"],
            "exchange": get("exchanges/%2F/amq.default")["message_stats"]["publish_in_details"],
            "vhost": get("vhosts/%2F")["message_stats"]["publish_details"],
            "overview": get("overview")["message_stats"]["publish_details"],
            "got": get(f"queues/%2F/{queue}")["message_stats"]["deliver_get_details"],
        }
        rows["channel"] = {"rate": max(row["message_stats"]["confirm_details"]["rate"] for row in get("channels"))}
        rows["connection"] = {"rate": max(row["recv_oct_details"]["rate"] for row in get("connections"))}
        seen.update({what: True for what, row in rows.items() if row["rate"] > 0})
        return len(seen) == len(rows)
    other_channel = other.channel()
    eventually(all_rates, 20)


def test_samples_come_when_they_are_asked_for(channel, queue):
    put(channel, queue, b"1")
    window = "lengths_age=60&lengths_incr=5&msg_rates_age=60&msg_rates_incr=5"

    def sampled():
        overview = get(f"overview?{window}")["message_stats"]["publish_details"]
        own = get(f"queues/%2F/{queue}?{window}")["messages_details"]
        return len(overview["samples"]) >= 2 and len(own["samples"]) >= 2 and (overview, own)
    overview, own = eventually(sampled, 30)
    times = [sample["timestamp"] for sample in overview["samples"]]
    assert times == sorted(times, reverse=True) and all(at % 5000 == 0 for at in times)
    assert own["samples"][0]["sample"] == 1 and set(own) == {"rate", "samples", "avg", "avg_rate"}
    assert set(get("overview")["message_stats"]["publish_details"]) == {"rate"}


def test_channels_show_what_they_hold(channel, other, queue):
    put(channel, queue, b"1", b"2", b"3")
    getter = other.channel()
    getter.basic_qos(prefetch_count=17)
    take(getter, queue)

    def held():
        rows = get("channels")
        return [row for row in rows if row["messages_unacknowledged"] == 1 and row["prefetch_count"] == 17]
    (row,) = eventually(held)
    assert row["message_stats"]["get"] == 1 and row["message_stats"]["deliver_get"] == 1
    publishing = [row for row in get("channels") if row["message_stats"]["publish"] >= 3]
    assert publishing and publishing[0]["confirm"] and publishing[0]["messages_unconfirmed"] == 0
    one = get("channels/" + quote(row["name"]))
    assert one["consumer_details"] == [] and one["number"] == row["number"]


def test_datadog_reads_totals_and_details():
    overview = get("overview")
    rated(overview["queue_totals"], "messages", "messages_ready", "messages_unacknowledged")
    rated(overview["message_stats"], "publish", "confirm", "deliver_get", "ack", "redeliver", "publish_in", "publish_out",
          "return_unroutable", "drop_unroutable", "get_empty")
    node = get("nodes")[0]
    assert node["partitions"] == [] and isinstance(node["disk_free"], int) and node["mem_used_details"]["rate"] is not None
    rated(get("exchanges/%2F/amq.default")["message_stats"], "publish_in", "publish_out")
    assert get("aliveness-test/%2F") == {"status": "ok"}


def test_kbudde_and_telegraf_send_an_empty_sort():
    for path in ("overview", "queues", "nodes", "exchanges", "connections", "channels", "federation-links", "shovels"):
        answer = call("GET", path + "?sort=", headers={"Accept": "application/bert, application/json;q=0.1"})
        assert answer.status == 200, path
    node = get("nodes")[0]
    memory = get(f"nodes/{quote(node['name'])}/memory")["memory"]
    assert memory["total"]["rss"] > 0 and memory["strategy"] == "rss" and memory["binary"] == 0
    relative = get(f"nodes/{quote(node['name'])}/memory/relative")["memory"]
    assert relative["total"] == 100 and relative["other_proc"] > 0


def test_nservicebus_starts_and_lifts_the_delivery_limit(channel, name):
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "quorum"})
    flags = {flag["name"]: flag["state"] for flag in get("feature-flags")}
    assert flags["stream_queue"] == "enabled" and get("overview")["disable_stats"] is False
    shown = get(f"queues/%2F/{name}")
    assert shown["delivery_limit"] == 20 and shown["policy"] is None and shown["effective_policy_definition"] == {}
    body = {"pattern": f"^{name}$", "definition": {"delivery-limit": -1}, "apply-to": "quorum_queues"}
    done("PUT", f"policies/%2F/nsb.{name}.delivery-limit", 201, body=body)
    eventually(lambda: get(f"queues/%2F/{name}")["delivery_limit"] in ("unlimited", -1))
    assert get(f"queues/%2F/?page=1&page_size=500&name={name}")["items"][0]["name"] == name
    done("DELETE", f"policies/%2F/nsb.{name}.delivery-limit")
    channel.queue_delete(name)


def test_zabbix_asks_for_health():
    listeners = get("overview")["listeners"]
    port = next(row["port"] for row in listeners if row["protocol"] == "amqp")
    for check in ("alarms", "local-alarms", "virtual-hosts", "certificate-expiration/1/months", f"port-listener/{port}",
                  "protocol-listener/amqp091", "node-is-quorum-critical", "metadata-store/initialized",
                  "quorum-queues-without-elected-leaders/all-vhosts", "is-in-service", "ready-to-serve-clients"):
        assert get("health/checks/" + check)["status"] == "ok", check
    missing = call("GET", "health/checks/port-listener/1")
    assert missing.status == 503 and missing.json["missing"] == 1
    assert call("GET", "health/checks/certificate-expiration/x/months").status == 400
    for open_to_all in ("is-in-service", "ready-to-serve-clients", "below-node-connection-limit",
                        "reached-target-cluster-size"):
        assert call("GET", "health/checks/" + open_to_all, user=None).status == 200


def test_the_login_form_gives_back_who_it_is():
    answer = call("POST", "login", user=None, raw=b"username=guest&password=guest")
    assert answer.status == 200 and answer.json["user"]["name"] == "guest"
    assert call("POST", "login", user=None, raw=b"username=guest&password=no").status == 401
