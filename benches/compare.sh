#!/usr/bin/env bash
# Runs leveret-bench against a RabbitMQ node and a Leveret node started by hand, prints a table.
# Settings by environment: SECONDS_EACH, WARMUP, RABBIT_PORT, LEVERET_PORT, LEVERET, BENCH, KEEP=1.
set -euo pipefail
cd "$(dirname "$0")/.."

each=${SECONDS_EACH:-10}
warmup=${WARMUP:-3}
rabbit_port=${RABBIT_PORT:-35672}
leveret_port=${LEVERET_PORT:-45672}
leveret=${LEVERET:-target/release/leveret}
bench=${BENCH:-target/release/leveret-bench}
rabbit_server=${RABBITMQ_SERVER:-rabbitmq-server}
for lib in /usr/lib/rabbitmq/bin/rabbitmq-server; do
  # The packaged wrapper changes user; the script beneath it does not.
  [ -x "$lib" ] && [ "$rabbit_server" = rabbitmq-server ] && rabbit_server=$lib
done

dir=$(mktemp -d)
node="bench$$@localhost"
rabbit_pid='' leveret_pid='' rabbit_script=''

finish() {
  for pid in $rabbit_pid $leveret_pid $rabbit_script; do
    kill "$pid" 2>/dev/null || true
  done
  for pid in $rabbit_pid $leveret_pid; do
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    kill -9 "$pid" 2>/dev/null || true
  done
  [ "${KEEP:-}" = 1 ] && echo "kept $dir" >&2 || rm -rf "$dir"
}
trap finish EXIT

ready() { # name port
  for _ in $(seq 120); do
    timeout 10 "$bench" --port "$2" --count 1 --queue-prefix ready --purge --delete >/dev/null 2>&1 && return
    sleep 0.5
  done
  echo "$1 did not become ready; see $dir" >&2
  KEEP=1
  exit 1
}

mkdir -p "$dir/rabbit" "$dir/leveret"
: > "$dir/rabbit/empty.conf"
HOME="$dir/rabbit" RABBITMQ_NODENAME="$node" RABBITMQ_NODE_PORT="$rabbit_port" \
  RABBITMQ_NODE_IP_ADDRESS=127.0.0.1 RABBITMQ_DIST_PORT=$((rabbit_port + 20000 > 65000 ? rabbit_port - 5000 : rabbit_port + 20000)) \
  RABBITMQ_MNESIA_BASE="$dir/rabbit/mnesia" RABBITMQ_LOG_BASE="$dir/rabbit/log" \
  RABBITMQ_CONFIG_FILE="$dir/rabbit/empty" RABBITMQ_PID_FILE="$dir/rabbit/pid" \
  RABBITMQ_ENABLED_PLUGINS_FILE="$dir/rabbit/plugins" RABBITMQ_ENABLED_PLUGINS=NONE \
  "$rabbit_server" >"$dir/rabbit/out" 2>&1 &
rabbit_script=$!

cat > "$dir/leveret/conf" <<CONF
listeners.tcp.default = 127.0.0.1:$leveret_port
prometheus.tcp.ip = 127.0.0.1
prometheus.tcp.port = $((leveret_port + 1))
management.tcp.ip = 127.0.0.1
management.tcp.port = $((leveret_port + 2))
CONF
"$leveret" --data-dir "$dir/leveret/data" --config "$dir/leveret/conf" >"$dir/leveret/out" 2>&1 &
leveret_pid=$!

ready leveret "$leveret_port"
ready rabbitmq "$rabbit_port"
# The node's name is in the process's environment, not among its arguments.
rabbit_pid=$(ps eww -eo pid=,args= | awk -v n="RABBITMQ_NODENAME=$node" '$2 ~ /beam/ && index($0, n) { print $1; exit }')
[ -n "$rabbit_pid" ] || rabbit_pid=$(cat "$dir/rabbit/pid" 2>/dev/null || true)
[ -n "$rabbit_pid" ] || { echo "the node's beam process was not found" >&2; exit 1; }

field() { # json name [object]
  local j=$1
  [ -n "${3:-}" ] && j=${j#*\"$3\":}
  j=${j#*\"$2\":}
  echo "${j%%[,\}]*}"
}

measure() { # title unit-kind bench options...
  local title=$1 kind=$2 r l
  shift 2
  # A publisher without confirms outruns any consumer: only a fixed count, all consumed, is a fair measure.
  [ "$kind" = count ] || set -- --warmup "$warmup" --seconds "$each" "$@"
  set -- --json --purge --delete "$@"
  r=$("$bench" --port "$rabbit_port" --pid "$rabbit_pid" "$@" 2>>"$dir/progress") || { tail -1 "$dir/progress" >&2; r=''; }
  l=$("$bench" --port "$leveret_port" --pid "$leveret_pid" "$@" 2>>"$dir/progress") || { tail -1 "$dir/progress" >&2; l=''; }
  if [ -z "$r" ] || [ -z "$l" ]; then
    printf '%-34s failed\n' "$title"
    return
  fi
  row "$title: consumed/s" "$(field "$r" consumed_per_s)" "$(field "$l" consumed_per_s)"
  row "$title: broker CPU us" "$(field "$r" broker_cpu_us_per_message)" "$(field "$l" broker_cpu_us_per_message)"
  row "$title: generator CPU us" "$(field "$r" own_cpu_us_per_message)" "$(field "$l" own_cpu_us_per_message)"
  if [ "$kind" = latency ]; then
    for p in p50 p99; do
      row "$title: confirm $p us" "$(field "$r" $p confirm_us)" "$(field "$l" $p confirm_us)"
      row "$title: deliver $p us" "$(field "$r" $p consume_us)" "$(field "$l" $p consume_us)"
    done
  fi
}

row() { awk -v t="$1" -v r="$2" -v l="$3" 'BEGIN { printf "%-34s %12.2f %12.2f %10s\n", t, r, l, (r > 0 ? sprintf("%.2f", l / r) : "-") }'; }

printf '%-34s %12s %12s %10s\n' run rabbitmq leveret ratio
measure 'a 1 KiB quorum confirm' rate --size 1024 --queue-type quorum --confirm 1000 --ack-every 100 --prefetch 1000 --queue-prefix a
measure 'b 16 B classic auto-ack' count --count "${COUNT:-1000000}" --size 16 --queue-type classic --queue-prefix b
measure 'c one at a time' latency --size 1024 --queue-type quorum --confirm 1 --ack-every 1 --prefetch 1000 --queue-prefix c
