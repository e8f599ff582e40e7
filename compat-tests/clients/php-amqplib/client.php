<?php
// php-amqplib (Debian's package) against the broker. Speaks TAP: one line per test.

require 'PhpAmqpLib/autoload.php';

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Exception\AMQPConnectionClosedException;
use PhpAmqpLib\Exception\AMQPProtocolChannelException;
use PhpAmqpLib\Exception\AMQPProtocolConnectionException;
use PhpAmqpLib\Message\AMQPMessage;
use PhpAmqpLib\Wire\AMQPAbstractCollection;
use PhpAmqpLib\Wire\AMQPTable;

const PATIENCE = 30;

function connect(array $options = []): AMQPStreamConnection
{
    $o = $options + ['user' => 'guest', 'password' => 'guest', 'vhost' => '/', 'heartbeat' => 0];
    return new AMQPStreamConnection(
        getenv('BROKER_HOST'), getenv('BROKER_PORT'), $o['user'], $o['password'], $o['vhost'],
        false, 'PLAIN', null, 'en_US', 30, 30, null, false, $o['heartbeat']);
}

function name(string $about): string
{
    return "php-$about-" . bin2hex(random_bytes(6));
}

function same($wanted, $got): void
{
    if ($wanted !== $got) {
        throw new Exception(json_encode($got) . ' instead of ' . json_encode($wanted));
    }
}

function refused(string $class, callable $do): Exception
{
    try {
        $do();
    } catch (Exception $error) {
        if ($error instanceof $class) {
            return $error;
        }
        throw $error;
    }
    throw new Exception("no $class");
}

function declared($channel, array $arguments = [], string $about = 'q'): string
{
    [$queue] = $channel->queue_declare(name($about), false, true, false, false, false, new AMQPTable($arguments));
    return $queue;
}

/** Publishes and waits for the confirm. */
function put($channel, string $queue, string $body, array $properties = []): void
{
    $channel->basic_publish(new AMQPMessage($body, $properties + ['delivery_mode' => 2]), '', $queue);
    $channel->wait_for_pending_acks_returns(PATIENCE);
}

/** A consumer whose messages are taken one by one. */
function arrivals($channel, string $queue, bool $noAck = false): callable
{
    $got = new SplQueue();
    $channel->basic_consume($queue, '', false, $noAck, false, false, fn ($message) => $got->enqueue($message));
    return function () use ($got, $channel) {
        while ($got->isEmpty()) {
            $channel->wait(null, false, PATIENCE);
        }
        return $got->dequeue();
    };
}

function quiet($channel, float $seconds): bool
{
    try {
        $channel->wait(null, false, $seconds);
        return false;
    } catch (PhpAmqpLib\Exception\AMQPTimeoutException $nothing) {
        return true;
    }
}

function control(string $command): void
{
    $stream = stream_socket_client('tcp://' . getenv('BROKER_CONTROL'), $code, $text, 120);
    stream_set_timeout($stream, 120);
    fwrite($stream, "$command\n");
    same('ok', trim((string) fgets($stream)));
}

$tests = [];

$tests['right credentials open a connection'] = function ($connection) {
    same(true, $connection->isConnected());
};

$tests['wrong credentials are refused'] = function () {
    $error = refused(Exception::class, fn () => connect(['password' => 'wrong']));
    same(true, str_contains($error->getMessage(), 'ACCESS_REFUSED'));
};

$tests['messages go both ways under TLS'] = function () {
    $folder = (string) getenv('BROKER_CERTIFICATES');
    if ($folder === '') {
        return 'certificates are made for a broker of ours';
    }
    $trust = ['cafile' => "$folder/ca.pem", 'verify_peer' => true, 'peer_name' => 'localhost'];
    $secure = new PhpAmqpLib\Connection\AMQPSSLConnection(
        '127.0.0.1', getenv('BROKER_TLS_PORT'), 'guest', 'guest', '/', $trust);
    $channel = $secure->channel();
    $channel->confirm_select();
    $queue = declared($channel);
    put($channel, $queue, str_repeat('s', 1 << 20));
    same(1 << 20, strlen(arrivals($channel, $queue, true)()->getBody()));
    $secure->close();
};

$tests['an unknown vhost is refused'] = function () {
    $error = refused(Exception::class, fn () => connect(['vhost' => 'nowhere']));
    same(true, str_contains($error->getMessage(), 'NOT_ALLOWED - vhost nowhere not found'));
};

$tests['a heartbeat keeps an idle connection'] = function () {
    $idle = connect(['heartbeat' => 2]);
    same(2, $idle->getHeartbeat());
    $end = microtime(true) + 5;
    while (microtime(true) < $end) {
        $idle->checkHeartBeat();
        usleep(200000);
    }
    $idle->channel();
    $idle->close();
};

$tests['every publish is confirmed'] = function ($connection, $channel) {
    $acked = 0;
    $channel->set_ack_handler(function () use (&$acked) { $acked++; });
    $queue = declared($channel);
    for ($i = 0; $i < 100; $i++) {
        $channel->batch_basic_publish(new AMQPMessage('x'), '', $queue);
    }
    $channel->publish_batch();
    $channel->wait_for_pending_acks(PATIENCE);
    same(100, $acked);
    same(100, $channel->queue_declare($queue, true)[1]);
};

$tests['a full queue refuses a publish'] = function ($connection, $channel) {
    $nacked = 0;
    $channel->set_nack_handler(function () use (&$nacked) { $nacked++; });
    $queue = declared($channel, ['x-max-length' => 1, 'x-overflow' => 'reject-publish']);
    put($channel, $queue, 'one');
    put($channel, $queue, 'two');
    same(1, $nacked);
};

$tests['a mandatory message comes back'] = function ($connection, $channel) {
    $back = null;
    $channel->set_return_listener(function (...$return) use (&$back) { $back = $return; });
    $channel->basic_publish(new AMQPMessage('lost'), '', name('nowhere'), true);
    $channel->wait_for_pending_acks_returns(PATIENCE);
    same([312, 'NO_ROUTE', 'lost'], [$back[0], $back[1], $back[4]->getBody()]);
};

$tests['prefetch limits what is unacknowledged'] = function ($connection, $channel) {
    $queue = declared($channel);
    foreach (['a', 'b', 'c'] as $body) {
        put($channel, $queue, $body);
    }
    $channel->basic_qos(0, 2, false);
    $take = arrivals($channel, $queue);
    $first = $take();
    $take();
    same(true, quiet($channel, 0.3));
    $first->ack();
    same('c', $take()->getBody());
};

$tests['a nacked message comes back'] = function ($connection, $channel) {
    $queue = declared($channel);
    put($channel, $queue, 'again');
    $take = arrivals($channel, $queue);
    $first = $take();
    same(false, $first->isRedelivered());
    $first->nack(true);
    same(true, $take()->isRedelivered());
};

$tests['rejected and expired messages are dead-lettered'] = function ($connection, $channel) {
    $dead = declared($channel, [], 'dead');
    $take = arrivals($channel, $dead, true);
    $letters = ['x-dead-letter-exchange' => '', 'x-dead-letter-routing-key' => $dead];
    $source = declared($channel, $letters);
    put($channel, $source, 'bad');
    $channel->basic_get($source)->reject(false);
    $death = $take()->get('application_headers')->getNativeData()['x-death'][0];
    same(['rejected', $source, 1], [$death['reason'], $death['queue'], $death['count']]);
    put($channel, declared($channel, $letters + ['x-message-ttl' => 100]), 'late');
    same('expired', $take()->get('application_headers')->getNativeData()['x-first-death-reason']);
};

$tests['higher priorities come first'] = function ($connection, $channel) {
    $queue = declared($channel, ['x-max-priority' => 10]);
    foreach ([1, 9, 5] as $priority) {
        put($channel, $queue, (string) $priority, ['priority' => $priority]);
    }
    $take = arrivals($channel, $queue, true);
    same(['9', '5', '1'], [$take()->getBody(), $take()->getBody(), $take()->getBody()]);
};

$tests['direct reply-to answers a call'] = function ($connection, $channel) {
    $queue = declared($channel);
    $client = $connection->channel();
    $replies = arrivals($client, 'amq.rabbitmq.reply-to', true);
    $properties = ['reply_to' => 'amq.rabbitmq.reply-to', 'correlation_id' => 'one'];
    $client->basic_publish(new AMQPMessage('21', $properties), '', $queue);
    $call = arrivals($channel, $queue, true)();
    $answer = new AMQPMessage('42', ['correlation_id' => $call->get('correlation_id')]);
    $channel->basic_publish($answer, '', $call->get('reply_to'));
    $reply = $replies();
    same(['42', 'one'], [$reply->getBody(), $reply->get('correlation_id')]);
};

foreach (['restart', 'kill'] as $command) {
    $tests["a durable message survives a $command"] = function ($connection, $channel) use ($command) {
        if (getenv('BROKER_CONTROL') === '') {
            return 'a broker that cannot be restarted from here';
        }
        $queue = declared($channel);
        put($channel, $queue, 'kept');
        control($command);
        refused(Exception::class, fn () => $channel->wait(null, false, PATIENCE));
        $connection->reconnect();
        same('kept', arrivals($connection->channel(), $queue, true)()->getBody());
    };
}

$tests['a consumer of a deleted queue is told'] = function ($connection, $channel) {
    $queue = declared($channel);
    arrivals($channel, $queue);
    $connection->channel()->queue_delete($queue);
    $error = refused(PhpAmqpLib\Exception\AMQPBasicCancelException::class, fn () => $channel->wait(null, false, PATIENCE));
    same(true, $error->consumerTag !== '');
};

$tests['a body of 16 MiB arrives as it was'] = function ($connection, $channel) {
    $queue = declared($channel);
    $body = random_bytes(16 << 20);
    put($channel, $queue, $body);
    same(true, arrivals($channel, $queue, true)()->getBody() === $body);
};

$tests['many channels work side by side'] = function ($connection, $channel) {
    $queue = declared($channel);
    for ($i = 0; $i < 300; $i++) {
        $each = $connection->channel();
        $each->confirm_select();
        put($each, $queue, 'x');
    }
    same(300, $channel->queue_declare($queue, true)[1]);
};

$tests['names may be unicode'] = function ($connection, $channel) {
    $queue = declared($channel, [], 'очередь-兎');
    $exchange = name('обмен-🐇');
    $channel->exchange_declare($exchange, 'topic', false, false, true);
    $channel->queue_bind($queue, $exchange, 'ключ.*');
    $channel->basic_publish(new AMQPMessage('ü'), $exchange, 'ключ.é');
    $message = arrivals($channel, $queue, true)();
    same([$exchange, 'ключ.é', 'ü'], [$message->getExchange(), $message->getRoutingKey(), $message->getBody()]);
};

$tests['headers of every type arrive as they were'] = function ($connection, $channel) {
    $queue = declared($channel);
    $headers = new AMQPTable([
        'bool' => true, 'int' => -32, 'long' => 1 << 40, 'text' => 'ü', 'none' => null,
        'array' => [1, 'two', [true]], 'table' => ['nested' => ['deep' => 1]],
    ]);
    $headers->set('short', -16, AMQPAbstractCollection::T_INT_SHORT);
    $headers->set('byte', -8, AMQPAbstractCollection::T_INT_SHORTSHORT);
    $headers->set('time', 1700000000, AMQPAbstractCollection::T_TIMESTAMP);
    $headers->set('bytes', "\0\xff", AMQPAbstractCollection::T_STRING_LONG);
    $headers->set('decimal', new PhpAmqpLib\Wire\AMQPDecimal(314, 2));
    put($channel, $queue, 'x', ['application_headers' => $headers]);
    $got = iterator_to_array(arrivals($channel, $queue, true)()->get('application_headers'));
    $wanted = iterator_to_array($headers);
    ksort($got);
    ksort($wanted);
    same(array_keys($wanted), array_keys($got));
    foreach ($wanted as $key => [$type, $value]) {
        same([$key, $type], [$key, $got[$key][0]]);
        if ($value instanceof AMQPAbstractCollection) {
            $value = $value->getNativeData();
            $got[$key][1] = $got[$key][1]->getNativeData();
        }
        same(true, $value == $got[$key][1]);
    }
};

$tests['a transaction is all or nothing'] = function ($connection) {
    $channel = $connection->channel();
    $queue = declared($channel);
    $channel->tx_select();
    $channel->basic_publish(new AMQPMessage('undone'), '', $queue);
    $channel->tx_rollback();
    $channel->basic_publish(new AMQPMessage('done'), '', $queue);
    $channel->tx_commit();
    same('done', $channel->basic_get($queue, true)->getBody());
    same(null, $channel->basic_get($queue, true));
};

$tests['a soft error closes the channel only'] = function ($connection, $channel) {
    $declare = fn () => $channel->queue_declare(name('nowhere'), true);
    same(404, refused(AMQPProtocolChannelException::class, $declare)->getCode());
    same(true, $connection->channel()->is_open());
};

$failed = 0;
foreach (array_keys($tests) as $number => $title) {
    $number++;
    $connection = connect();
    try {
        $channel = $connection->channel();
        $channel->confirm_select();
        $skipped = $tests[$title]($connection, $channel);
        echo "ok $number - $title", $skipped ? " # SKIP $skipped" : '', "\n";
    } catch (Throwable $error) {
        $failed++;
        echo "not ok $number - $title\n# ", get_class($error), ': ', str_replace("\n", "\n# ", $error), "\n";
    }
    try {
        $connection->close();
    } catch (Throwable $gone) {
        // Tests that lose their connection on purpose.
    }
}
echo '1..', count($tests), "\n";
exit($failed > 0 ? 1 : 0);
