#!/bin/sh
# rabbitmq-c's command line tools against the broker. Speaks TAP: one line per test.
url=$BROKER_URL
number=0
failed=0

# check TITLE WANTED GOT
check() {
    number=$((number + 1))
    if [ "$2" = "$3" ]; then
        echo "ok $number - $1"
    else
        failed=1
        printf 'not ok %s - %s\n# %s instead of %s\n' "$number" "$1" "$3" "$2"
    fi
}

queue=$(amqp-declare-queue -u "$url" -d -q "tools-$$")
check "amqp-declare-queue answers with the name" "tools-$$" "$queue"

amqp-publish -u "$url" -r "$queue" -p -C text/plain -b "one ü"
check "amqp-publish and amqp-get carry a body" "one ü" "$(amqp-get -u "$url" -q "$queue")"

amqp-get -u "$url" -q "$queue" >/dev/null
check "amqp-get of an empty queue ends with 2" 2 $?

printf 'a\nb\nc\n' | amqp-publish -u "$url" -r "$queue" -l
check "amqp-consume hands bodies to a command" "a b c" \
    "$(amqp-consume -u "$url" -q "$queue" -c 3 -p 1 -- sh -c 'cat; echo' | xargs)"

amqp-publish -u "$url" -r "$queue" -b last
check "amqp-delete-queue says how many there were" 1 "$(amqp-delete-queue -u "$url" -q "$queue")"

wrong=$(echo "$url" | sed 's/guest:guest@/guest:wrong@/')
amqp-get -u "$wrong" -q "$queue" >/dev/null 2>&1
check "wrong credentials end with an error" 1 $?

echo "1..$number"
exit $failed
