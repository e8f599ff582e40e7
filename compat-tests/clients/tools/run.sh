#!/bin/sh
# Tools that live beside a RabbitMQ, as their packages carry them, against a broker of ours.
#
#   sh compat-tests/clients/tools/run.sh PATH-OF-LEVERET [TOOL…]
#
# Tools: rabbit-hole telegraf keda flower ansible puppet nagios netdata. They want a broker on the standard ports of localhost and
# some of them RabbitMQ's commands in the path, so each runs in namespaces of its own (root only), after what it needs was fetched
# and compiled outside. Puppet, Nagios and Netdata are Debian's packages; the first two are installed. Everything else is in a
# temporary folder, which is kept: what a tool said is in its `output.txt`. The last line of each says how much of it passed.
# With NODES=3 in the environment a tool talks to one of three nodes.
set -eu

broker=$(realpath "$1")
shift
here=$(realpath "$(dirname "$0")")
[ $# -gt 0 ] || set -- rabbit-hole telegraf keda flower ansible puppet nagios netdata
[ "$(id -u)" = 0 ] || { echo "skipped: namespaces need root" >&2; exit 0; }

# module PATH VERSION: a copy of a Go module that can be written.
module() {
    cp -r "$(go mod download -json "$1@$2" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')" source
    chmod -R u+w source
}

# venv PACKAGE…
venv() {
    python3 -m venv venv
    venv/bin/pip install -q --disable-pip-version-check "$@"
}

prepare() {
    case $1 in
    rabbit-hole)
        module github.com/michaelklishin/rabbit-hole/v2 v2.12.0
        (cd source && go test -run '^$' . >/dev/null)
        ;;
    telegraf)
        module github.com/influxdata/telegraf v1.37.2
        (cd source && go build -tags custom,inputs.rabbitmq,serializers.influx -o ../telegraf ./cmd/telegraf)
        ;;
    keda)
        # The other scalers, and the clients of all clouds with them, are left out.
        module github.com/kedacore/keda/v2 v2.21.0
        find source/pkg/scalers -maxdepth 1 -name '*.go' ! -name scaler.go ! -name rabbitmq_scaler.go -delete
        mkdir source/cmd/leveret
        cp "$here/keda.go" source/cmd/leveret/main.go
        (cd source && go build -mod=mod -o ../keda ./cmd/leveret)
        ;;
    flower) venv flower==2.2.0 celery==5.7.0 ;;
    ansible) venv ansible==12.3.0 requests==2.32.5 pika==1.3.2 ;;
    puppet) apt-get install -qq --no-install-recommends puppet-agent puppet-module-puppetlabs-rabbitmq rabbitmq-server >/dev/null ;;
    nagios) apt-get install -qq --no-install-recommends nagios-plugins-rabbitmq >/dev/null ;;
    netdata) (mkdir deb && cd deb && apt-get download -qq netdata-plugins-python && dpkg -x ./*.deb .) ;;
    esac
}

api() {
    curl -sf -u guest:guest "$@" >/dev/null
}

# A queue with messages in it, of each type.
data() {
    for type in classic quorum stream; do
        api -X PUT "localhost:15672/api/queues/%2F/$type" -d '{"durable": true, "arguments": {"x-queue-type": "'$type'"}}'
        for _ in 1 2 3; do
            api localhost:15672/api/exchanges/%2F/amq.default/publish \
                -d '{"properties": {}, "routing_key": "'$type'", "payload": "message", "payload_encoding": "string"}'
        done
    done
}

passed=0
failed=0
# check NAME COMMAND…
check() {
    name=$1
    shift
    if "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)) && echo "FAILED $name"; fi
}

# play STATE LINE: Ansible's last line begins so.
play() {
    venv/bin/ansible-playbook "$here/ansible.yml" -e "state=$1" | tee play.txt
    check "$1 $2" grep -qE "^localhost .* $2 .*failed=0" play.txt
}

# apply CODE: Puppet's exit code is 2 when it changed something, 0 when not.
apply() {
    code=0
    puppet apply --detailed-exitcodes --color=false "$here/puppet.pp" || code=$?
    check "puppet $1" [ "$code" = "$1" ]
}

# What runs in the namespaces, in the tool's folder, with the broker up.
tool() {
    case $1 in
    rabbit-hole)
        export RABBITHOLE_RABBITMQCTL=rabbitmqctl RABBITHOLE_RABBITMQ_PLUGINS=rabbitmq-plugins
        (cd source && sh bin/ci/before_build.sh; go test -timeout 20m . -args -ginkgo.noColor) | tee specs.txt || true
        passed=$(sed -n 's/.* \([0-9]*\) Passed .*/\1/p' specs.txt)
        failed=$(sed -n 's/.* \([0-9]*\) Failed .*/\1/p' specs.txt)
        sed -n 's/^\[Fail\]/FAILED/p' specs.txt
        ;;
    telegraf)
        data
        ./telegraf --config "$here/telegraf.conf" --test | tee metrics.txt
        for want in '_overview,.*channels=.*messages=.*return_unroutable' '_node,.*disk_free=.*io_read_avg_time=.*proc_used=' '_exchange,.*exchange=amq.topic' \
            '_queue,.*queue=classic,.*type=classic.*messages_ready=3i' '_queue,.*queue=quorum,.*type=quorum.*messages_ready=3i' '_queue,.*queue=stream,.*type=stream'; do
            check "$want" grep -q "rabbitmq$want" metrics.txt
        done
        ;;
    keda)
        ./keda | tee said.txt || true
        passed=$(sed -n 's/^\([0-9]*\) passed.*/\1/p' said.txt)
        failed=$(sed -n 's/.* passed, \([0-9]*\) failed$/\1/p' said.txt)
        ;;
    flower)
        cp "$here/tasks.py" .
        venv/bin/celery -A tasks worker -c 1 &
        FLOWER_UNAUTHENTICATED_API=true venv/bin/celery -A tasks flower --broker_api=http://guest:guest@localhost:15672/api/ --port=5555 &
        until curl -sf 'localhost:5555/api/workers?refresh=1' | grep -q '"name": "work"'; do sleep 1; done
        check "a task" sh -c "curl -sf localhost:5555/api/task/apply/tasks.add -d '{\"args\": [1, 2]}' | grep '\"result\": 3'"
        check "lengths" sh -c "curl -sf localhost:5555/api/queues/length | grep '\"name\": \"work\"'"
        check "the page of the broker" sh -c "curl -sf localhost:5555/broker | grep '<td>work</td>'"
        ;;
    ansible)
        export ANSIBLE_HOME="$PWD/ansible"
        play present 'ok=.* changed=24'
        play present 'ok=.* changed=4'
        play absent 'ok=.* changed=14'
        play absent 'ok=.* changed=0'
        ;;
    puppet)
        mkdir etc
        printf '[default]\nport = 15672\n' >etc/rabbitmqadmin.conf
        mount --bind etc /etc/rabbitmq
        apply 2
        apply 0
        ;;
    nagios)
        data
        api -X PUT localhost:15672/api/parameters/shovel/%2F/s \
            -d '{"value": {"src-uri": "amqp://", "dest-uri": "amqp://", "src-queue": "quorum", "dest-queue": "moved"}}'
        until curl -sf -u guest:guest localhost:15672/api/shovels | grep -q '"running"'; do sleep 0.1; done
        for name in aliveness connections objects overview partition queue shovels watermark; do
            set -- --hostname localhost --port 15672
            case $name in
            partition | watermark) set -- "$@" --node "$(hostname -s)" ;;
            queue) set -- "$@" --queue classic ;;
            esac
            check "$name" "check_rabbitmq_$name" "$@"
        done
        ;;
    netdata)
        data
        mkdir -p conf/python.d lock
        printf 'rabbitmq: yes\n' >conf/python.d.conf
        printf 'local:\n  host: 127.0.0.1\n  port: 15672\n  user: guest\n  pass: guest\n  collect_queues_metrics: yes\n' >conf/python.d/rabbitmq.conf
        export NETDATA_USER_CONFIG_DIR=$PWD/conf NETDATA_LOCK_DIR=$PWD/lock NETDATA_STOCK_CONFIG_DIR=$PWD/deb/usr/lib/netdata/conf.d
        timeout 10 python3 deb/usr/lib/netdata/plugins.d/python.d.plugin rabbitmq debug trace | tee sets.txt || true
        for want in mem_used fd_used object_totals_queues message_stats_publish vhost_/_message_stats_publish vhost_/_queue_quorum_messages_ready; do
            check "$want" grep -q "^SET '$want' = [1-9]" sets.txt
        done
        ;;
    esac
}

# The part of this script that runs in the namespaces; they end, and all that runs in them, when it does.
if [ -n "${INSIDE:-}" ]; then
    ip link set lo up
    for node in $(seq "${NODES:-1}"); do
        : >"conf$node"
        [ "${NODES:-1}" = 1 ] || cat >"conf$node" <<END
listeners.tcp.default = 127.0.0.$node:5672
management.tcp.ip = 127.0.0.$node
prometheus.tcp.ip = 127.0.0.$node
leveret.cluster.listener = 127.0.0.$node:25672
leveret.cluster.address = 127.0.0.$node:25672
leveret.cluster.secret = shared
$(seq "$NODES" | sed 's/.*/cluster_formation.classic_config.nodes.& = rabbit@127.0.0.&/')
END
        name=rabbit@$(hostname -s)
        [ "$node" = 1 ] || name=rabbit@other$node
        RABBITMQ_NODENAME=$name "$broker" --config "conf$node" --data-dir "data$node" >"broker$node.txt" 2>&1 &
    done
    for node in $(seq "${NODES:-1}"); do
        until grep -q "Server startup complete" "broker$node.txt"; do sleep 0.1; done
    done
    export PATH="$PWD/../bin:$PATH" RABBITMQ_MNESIA_DIR="$PWD/data1" LC_ALL=C.UTF-8
    tool "$INSIDE" >output.txt 2>&1
    grep '^FAILED' output.txt || true
    echo "$INSIDE: $passed passed, $failed failed"
    exit
fi

work=$(mktemp -d)
echo "in $work"
mkdir "$work/bin"
for name in rabbitmqctl rabbitmq-diagnostics rabbitmq-plugins rabbitmq-queues rabbitmq-streams rabbitmq-upgrade; do
    ln -s "$broker" "$work/bin/$name"
done
for name in "$@"; do
    echo "== $name"
    mkdir "$work/$name"
    cd "$work/$name"
    prepare "$name"
    INSIDE=$name unshare --net --mount --pid --fork --mount-proc --kill-child sh "$here/run.sh" "$broker" || echo "$name: did not end well"
done
