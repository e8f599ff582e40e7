"""Lists and scrapes with many queues; `COMPAT_MANY_QUEUES=20000` is the long form. Figures are printed, bounds are asserted."""
import os
import time
import urllib.request

import pytest

from conftest import OURS
from management import URL as API, call, done, get

METRICS = os.environ.get("BROKER_METRICS_URL", "")
METRICS = METRICS and METRICS.removesuffix("/metrics") + "/metrics"
COUNT = int(os.environ.get("COMPAT_MANY_QUEUES", "600"))
#: Seconds a page, and a scrape of sums, may take; a debug build is given more.
BOUND = float(os.environ.get("COMPAT_MANY_SECONDS", "2"))
pytestmark = pytest.mark.skipif(not (API and OURS and METRICS), reason="no management API to ask")


@pytest.fixture(scope="module")
def many():
    done("PUT", "vhosts/many", 201)
    queues = [{"name": f"many.{number:06}", "durable": True, "auto_delete": False, "arguments": {}}
              for number in range(COUNT)]
    began = time.monotonic()
    for first in range(0, COUNT, 2000):
        answer = call("POST", "definitions/many", body={"queues": queues[first:first + 2000]})
        assert answer.status == 204, answer.body
    print(f"\n{COUNT} queues imported in {time.monotonic() - began:.1f} s")
    yield "many"
    assert call("DELETE", "vhosts/many").status in (204, 404)


def timed(what, ask, times=3):
    took = []
    for _ in range(times):
        began = time.monotonic()
        size = len(ask())
        took.append(time.monotonic() - began)
    print(f"{what}: {min(took) * 1000:.0f} ms, {size} bytes")
    return min(took)


def test_a_page_costs_what_the_page_costs(many):
    for what, query in [
            ("first page", "page=1&page_size=100"),
            ("a page by name", "page=1&page_size=100&sort=name&sort_reverse=true"),
            ("a page by messages", "page=1&page_size=100&sort=messages&sort_reverse=true"),
            ("a page by rate", "page=1&page_size=100&sort=message_stats.publish_details.rate&sort_reverse=true"),
            ("a page by pattern", "page=1&page_size=100&name=%5Emany.*9%24&use_regex=true")]:
        assert timed(what, lambda: call("GET", f"queues/{many}?{query}").body) < BOUND, what
    page = get(f"queues/{many}?page=2&page_size=100")
    assert page["total_count"] == COUNT and page["items"][0]["name"] == "many.000100"


def test_the_whole_list_is_sent_while_it_is_made(many):
    timed("whole list", lambda: call("GET", f"queues/{many}").body, 2)
    timed("whole list, packed", lambda: call("GET", f"queues/{many}", headers={"Accept-Encoding": "gzip"}).body, 2)
    assert len(get(f"queues/{many}")) == COUNT
    names = get(f"queues/{many}?columns=name")
    assert [row["name"] for row in names] == [f"many.{number:06}" for number in range(COUNT)]


def scrape(path=""):
    with urllib.request.urlopen(METRICS + path, timeout=60) as answer:
        return answer.read()


def test_a_scrape_of_sums_does_not_grow_with_the_queues(many):
    assert timed("/metrics", scrape) < BOUND
    timed("/metrics/per-object", lambda: scrape("/per-object"), 2)
    timed("/metrics/detailed, lengths", lambda: scrape("/detailed?family=queue_coarse_metrics"), 2)
    if len(get("nodes")) == 1:
        assert scrape("/detailed?family=queue_coarse_metrics&vhost=many").count(b"many.") == 3 * COUNT


def test_other_pages_of_the_overview_stay_fast(many):
    for path in ("overview", "vhosts", "nodes", "exchanges"):
        assert timed(path, lambda: call("GET", path).body) < BOUND, path


def log_writes():
    lines = scrape().decode().splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("leveret_log_writes_total"))


def test_a_vhost_goes_with_its_queues_in_few_writes(many):
    before, began = log_writes(), time.monotonic()
    done("DELETE", f"vhosts/{many}", 204)
    took, writes = time.monotonic() - began, log_writes() - before
    print(f"\na vhost of {COUNT} queues deleted in {took:.1f} s, {writes:.0f} writes to logs")
    assert call("GET", f"queues/{many}").status == 404
    assert writes < COUNT / 4, "a write for each queue would wait for the disk as often"
