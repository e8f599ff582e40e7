#!/bin/sh
# The integration tests that clients carry in their own packages, as they are, against a broker of ours.
#
#   sh compat-tests/clients/own/run.sh PATH-OF-LEVERET [SUITE…]
#
# Suites: amqp091-go py-amqp kombu amqpstorm lapin amqprs. They want a broker on the standard ports of localhost, so each runs
# in a network namespace of its own (root only), after what it needs was fetched and compiled outside. Everything else is in
# a temporary folder, which is kept: the output of a suite is in its `output.txt`. A suite's last lines are shown.
set -eu

broker=$(realpath "$1")
shift
here=$(realpath "$(dirname "$0")")
[ $# -gt 0 ] || set -- amqp091-go py-amqp kombu amqpstorm lapin amqprs
[ "$(id -u)" = 0 ] || { echo "skipped: network namespaces need root" >&2; exit 0; }
work=$(mktemp -d)
echo "in $work"

# sdist NAME VERSION: unpacks a source distribution of PyPI and makes an environment with it and pytest.
sdist() {
    python3 -m venv venv
    venv/bin/pip install -q --disable-pip-version-check "$1==$2" pytest setuptools
    venv/bin/pip download -q --disable-pip-version-check --no-deps --no-binary :all: "$1==$2"
    tar xzf ./*.tar.gz --strip-components 1 --one-top-level=source
}

# crate NAME VERSION: unpacks a crate and compiles its tests.
crate() {
    cargo new --quiet --vcs none fetch
    (cd fetch && cargo add --quiet "$1@=$2" && cargo fetch --quiet)
    cp -r "$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -maxdepth 2 -name "$1-$2")" source
    chmod -R u+w source
    (cd source && cargo test --quiet --tests --no-run)
}

prepare() {
    case $1 in
    amqp091-go)
        version=$(sed -n 's/^require .*amqp091-go v/v/p' "$here/../amqp091-go/go.mod")
        cp -r "$(cd "$here/../amqp091-go" && go mod download -json "github.com/rabbitmq/amqp091-go@$version" |
            sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')" source
        chmod -R u+w source
        (cd source && go test -tags integration -run '^$' . >/dev/null)
        ;;
    py-amqp) sdist amqp 5.4.2 ; venv/bin/pip install -q pytest-rerunfailures ;;
    kombu) sdist kombu 5.7.0 ; venv/bin/pip install -q pytest-freezer ;;
    amqpstorm) sdist amqpstorm 3.1.4 ; venv/bin/pip install -q requests ;;
    lapin) crate lapin 4.12.3 ;;
    amqprs) crate amqprs 2.1.5 ;;
    esac
}

# What runs in the namespace, from the suite's `source`, with the broker up.
suite() {
    case $1 in
    amqp091-go) echo 'AMQP_URL=amqp://guest:guest@127.0.0.1:5672/ go test -v -tags integration -timeout 20m .' ;;
    py-amqp) echo '../venv/bin/python -m pytest -q -rs -p no:cacheprovider t/integration' ;;
    kombu) echo '../venv/bin/python -m pytest -q -rs -p no:cacheprovider t/integration/test_py_amqp.py' ;;
    amqpstorm) echo 'AMQP_HOST=127.0.0.1 AMQP_URI=amqp://guest:guest@127.0.0.1:5672/%2F AMQP_HTTP_URL=http://127.0.0.1:15672 AMQP_USERNAME=guest AMQP_PASSWORD=guest ../venv/bin/python -m pytest -q -rs -p no:cacheprovider amqpstorm/tests/functional' ;;
    lapin) echo 'AMQP_ADDR=amqp://guest:guest@127.0.0.1:5672/%2f cargo test --offline --tests --no-fail-fast -- --test-threads 1' ;;
    amqprs) echo 'cargo test --offline --tests --no-fail-fast -- --test-threads 1' ;;
    esac
}

for name in "$@"; do
    mkdir "$work/$name"
    cd "$work/$name"
    prepare "$name"
    # The user that amqprs logs in as.
    user=guest password=guest
    [ "$name" != amqprs ] || user=user password=bitnami
    printf 'default_user = %s\ndefault_pass = %s\n' "$user" "$password" >conf
    cat >inside.sh <<END
ip link set lo up
"$broker" --data-dir data --config conf >broker.txt 2>&1 &
until grep -q "Server startup complete" broker.txt; do kill -0 \$! && sleep 0.1; done
cd source
$(suite "$name" | sed 's/^/timeout 1500 env /') >../output.txt 2>&1
echo "ended with \$?"
kill -KILL \$! || true
END
    echo "== $name"
    unshare -n sh inside.sh
    grep -E '^(--- (FAIL|SKIP)|FAILED|ERROR|SKIPPED|test .* (FAILED|ignored)$|test result|ok  )|^[0-9=].* (passed|failed)' output.txt || true
    [ "$name" != amqp091-go ] || echo "$(grep -c '^--- PASS' output.txt || true) passed"
done
