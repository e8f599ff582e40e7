#!/usr/bin/env bash
# Runs leveret-bench against three RabbitMQ nodes and three Leveret nodes on this machine, prints a table: 1 KiB persistent,
# quorum queue, confirms (window 1000), manual acks (every 100, prefetch 1000), through the queue's leader and another node.
# CPU is of all three nodes. Settings by environment: SECONDS_EACH, WARMUP, LEVERET, BENCH, RABBITMQ_ROOT, KEEP=1.
# RABBITMQ_ROOT: a folder with another Debian in it whose RabbitMQ is to be run (by chroot) in place of the installed one.
set -euo pipefail
cd "$(dirname "$0")/.."
. benches/three-nodes.sh

each=${SECONDS_EACH:-10}
warmup=${WARMUP:-3}
leveret=${LEVERET:-target/release/leveret}
bench=${BENCH:-target/release/leveret-bench}
root=${RABBITMQ_ROOT:-}
rabbit_port=36710 leveret_port=45710
dir=$(mktemp -d)
rabbit_dir=$dir/rabbit
[ -z "$root" ] || rabbit_dir=$root$dir/rabbit
started=()

finish() {
  for pid in $(pids rabbit) $(pids leveret) "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
  for pid in $(pids rabbit) $(pids leveret); do
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    kill -9 "$pid" 2>/dev/null || true
  done
  if [ "${KEEP:-}" = 1 ]; then echo "kept $dir" >&2; else rm -rf "$dir" "$rabbit_dir"; fi
}

pids() { # kind
  case $1 in
    leveret) cat "$dir"/leveret/*/pid 2>/dev/null || true ;;
    # A node's name is in the process's environment, not among its arguments.
    rabbit) ps eww -eo pid=,args= | awk -v n="RABBITMQ_NODENAME=bench$$-" '$2 ~ /beam/ && index($0, n) { print $1 }' ;;
  esac
}
trap finish EXIT

in_rabbit() { # node command...
  local i=$1 home=$dir/rabbit
  shift
  local set_up=(HOME="$home" LANG=C.UTF-8 PATH="$PATH:/usr/sbin:/sbin" RABBITMQ_NODENAME="bench$$-$i@localhost" RABBITMQ_NODE_PORT=$((rabbit_port + i))
    RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_DIST_PORT=$((rabbit_port - 11000 + i)) RABBITMQ_MNESIA_BASE="$home/$i"
    RABBITMQ_LOG_BASE="$home/$i" RABBITMQ_CONFIG_FILE="$home/empty" RABBITMQ_ENABLED_PLUGINS_FILE="$home/$i/plugins"
    RABBITMQ_ENABLED_PLUGINS=NONE)
  if [ -n "$root" ]; then chroot "$root" env "${set_up[@]}" "$@"; else env "${set_up[@]}" "$@"; fi
}

ready() { # name port
  for _ in $(seq 120); do
    timeout 10 "$bench" --port "$2" --count 1 --queue-prefix ready --purge --delete >/dev/null 2>&1 && return
    sleep 0.5
  done
  echo "$1 did not become ready; see $dir" >&2
  KEEP=1
  exit 1
}

for i in 1 2 3; do
  mkdir -p "$rabbit_dir/$i" "$dir/rabbit"
  : > "$rabbit_dir/empty.conf"
  in_rabbit "$i" /usr/lib/rabbitmq/bin/rabbitmq-server > "$dir/rabbit-$i.out" 2>&1 &
  started+=($!)
  # The first one makes the cookie that all of them need.
  ready "rabbitmq $i" $((rabbit_port + i))
  if [ "$i" != 1 ]; then
    for step in stop_app "join_cluster bench$$-1@localhost" start_app; do
      # shellcheck disable=SC2086
      in_rabbit "$i" /usr/lib/rabbitmq/bin/rabbitmqctl -q $step
    done
  fi
done

leveret_nodes "$dir/leveret" "$leveret_port"

leader() { # the node that leads the only queue's set
  "$leveret" cluster --config "$dir/leveret/1/conf" --node "127.0.0.11:$((leveret_port + 10))" status | awk '
    /^Broker sets/ { part = 1; next } /^Replicas/ { part = 2; next }
    part == 1 && $4 == 1 { set = $1 }
    part == 2 && $1 == set && $3 == "leader" { print $2; exit }'
}

field() { # json name [object]
  local j=$1
  [ -n "${3:-}" ] && j=${j#*\"$3\":}
  j=${j#*\"$2\":}
  echo "${j%%[,\}]*}"
}

options=(--size 1024 --queue-type quorum --confirm 1000 --ack-every 100 --prefetch 1000 --queue-prefix c)
run() { # kind port
  local of=()
  for pid in $(pids "$1"); do of+=(--pid "$pid"); done
  "$bench" --port "$2" "${of[@]}" --json --purge --warmup "$warmup" --seconds "$each" "${options[@]}" 2>>"$dir/progress"
}

row() { awk -v t="$1" -v r="$2" -v l="$3" 'BEGIN { printf "%-38s %12.2f %12.2f %10s\n", t, r, l, (r > 0 ? sprintf("%.2f", l / r) : "-") }'; }

compare() { # title rabbit-port leveret-port
  local r l
  r=$(run rabbit "$2")
  l=$(run leveret "$3")
  row "$1: consumed/s" "$(field "$r" consumed_per_s)" "$(field "$l" consumed_per_s)"
  row "$1: CPU us, three nodes" "$(field "$r" broker_cpu_us_per_message)" "$(field "$l" broker_cpu_us_per_message)"
  row "$1: generator CPU us" "$(field "$r" own_cpu_us_per_message)" "$(field "$l" own_cpu_us_per_message)"
  row "$1: confirm p50 us" "$(field "$r" p50 confirm_us)" "$(field "$l" p50 confirm_us)"
  row "$1: confirm p99 us" "$(field "$r" p99 confirm_us)" "$(field "$l" p99 confirm_us)"
}

# A quorum queue's first leader is the node it was declared on.
"$bench" --port $((rabbit_port + 1)) --count 1 "${options[@]}" >/dev/null
"$bench" --port $((leveret_port + 1)) --count 1 "${options[@]}" >/dev/null
leads=$(leader)
other=$((leads % 3 + 1))
in_rabbit 1 /usr/lib/rabbitmq/bin/rabbitmqctl -q version | sed 's/^/rabbitmq /'
echo "the queue's leader: rabbitmq node 1, leveret node $leads"
printf '%-38s %12s %12s %10s\n' run rabbitmq leveret ratio
compare 'client on the leader' $((rabbit_port + 1)) $((leveret_port + leads))
compare 'client on another node' $((rabbit_port + 2)) $((leveret_port + other))
