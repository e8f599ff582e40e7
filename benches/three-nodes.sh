# Sourced: three Leveret nodes on this machine.
# leveret_nodes FOLDER PORT [LINE...] starts them: node i listens on PORT+i, the pids are in FOLDER/i/pid; each LINE goes into
# every node's configuration. Ready is told by the caller's `ready NAME PORT`.

leveret_nodes() {
  local folder=$1 port=$2 i j
  shift 2
  for i in 1 2 3; do
    mkdir -p "$folder/$i"
    {
      echo "listeners.tcp.1 = 127.0.0.1:$((port + i))"
      echo "cluster_formation.peer_discovery_backend = classic_config"
      for j in 1 2 3; do echo "cluster_formation.classic_config.nodes.$j = rabbit@127.0.0.1$j"; done
      echo "leveret.cluster.listener = 127.0.0.1$i:$((port + 10))"
      echo "leveret.cluster.secret = bench"
      echo "management.tcp.ip = 127.0.0.1"
      echo "management.tcp.port = $((port + 30 + i))"
      [ $# = 0 ] || printf '%s\n' "$@"
    } > "$folder/$i/conf"
    RABBITMQ_DIST_PORT=$((port + 10)) RABBITMQ_NODENAME=rabbit@127.0.0.1$i \
      "$leveret" --config "$folder/$i/conf" --data-dir "$folder/$i/data" --prometheus 127.0.0.1:$((port + 20 + i)) \
      > "$folder/$i/out" 2>&1 &
    echo $! > "$folder/$i/pid"
  done
  for i in 1 2 3; do ready "leveret $i" $((port + i)); done
}

end_nodes() { # folder
  local pid
  for pid in $(cat "$1"/*/pid 2>/dev/null); do kill "$pid" 2>/dev/null || true; done
  for pid in $(cat "$1"/*/pid 2>/dev/null); do
    for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.2; done
    kill -9 "$pid" 2>/dev/null || true
  done
}
