#!/usr/bin/env bash
# What an idle cluster of three nodes costs with 1, 4 and 16 broker sets per node: CPU of each node in ms per second, and
# resident memory. Settings by environment: SECONDS_EACH, SETS, LEVERET, BENCH.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/three-nodes.sh

each=${SECONDS_EACH:-20}
leveret=${LEVERET:-target/release/leveret}
bench=${BENCH:-target/release/leveret-bench}
port=46710
dir=$(mktemp -d)
trap 'end_nodes "$dir"; rm -rf "$dir"' EXIT

ready() { # name port
  for _ in $(seq 120); do
    timeout 10 "$bench" --port "$2" --count 1 --queue-prefix ready --purge --delete >/dev/null 2>&1 && return
    sleep 0.5
  done
  echo "$1 did not become ready" >&2
  exit 1
}

sets() { curl -s "127.0.0.1:$((port + 21))/metrics" | grep -c '^leveret_set_queues{' || true; }
cpu_ticks() { awk '{ sub(/.*\) /, ""); print $12 + $13 }' "/proc/$1/stat"; }
resident_mb() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$1/status"; }

printf '%-14s %6s %28s %20s\n' 'sets per node' sets 'CPU ms/s of each node' 'resident MB'
for count in ${SETS:-1 4 16}; do
  leveret_nodes "$dir" "$port" "leveret.cluster.sets_per_node = $count"
  # All sets are there, and have done what a start makes them do.
  for _ in $(seq 60); do [ "$(sets)" -ge $((count * 3)) ] && break; sleep 1; done
  sleep 10
  before=() cpu='' memory=''
  for i in 1 2 3; do before[i]=$(cpu_ticks "$(cat "$dir/$i/pid")"); done
  sleep "$each"
  for i in 1 2 3; do
    pid=$(cat "$dir/$i/pid")
    # A tick is 10 ms.
    cpu+=" $(((10 * ($(cpu_ticks "$pid") - before[i])) / each))"
    memory+=" $(resident_mb "$pid")"
  done
  printf '%-14s %6s %28s %20s\n' "$count" "$(sets)" "$cpu" "$memory"
  end_nodes "$dir"
  rm -rf "${dir:?}"/*
done
