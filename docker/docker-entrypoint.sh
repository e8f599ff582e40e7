#!/bin/bash
# As the entry point of RabbitMQ's image: what is given is run; an option alone is one of the broker's. Started as root, the
# broker's folder becomes the broker's own and the broker runs under its own account. The broker itself is process 1.
set -euo pipefail

if [ "${1:-}" = "" ] || [ "${1#-}" != "${1:-}" ]; then
    set -- leveret "$@"
fi

case "$1" in
    rabbitmq-server | leveret)
        # Messages and password hashes are nobody else's to read.
        umask 027
        ;;
esac

case "$1" in
    rabbitmq-server | leveret | rabbitmqctl | rabbitmq-diagnostics | rabbitmq-queues | rabbitmq-streams | rabbitmq-plugins | rabbitmq-upgrade)
        if [ "$(id -u)" = 0 ]; then
            if [ "$1" = rabbitmq-server ] || [ "$1" = leveret ]; then
                find /var/lib/rabbitmq \! -user rabbitmq -exec chown rabbitmq '{}' +
            fi
            exec setpriv --reuid=rabbitmq --regid=rabbitmq --init-groups -- "$@"
        fi
        ;;
esac

exec "$@"
