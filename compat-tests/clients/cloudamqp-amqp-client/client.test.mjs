// @cloudamqp/amqp-client against the broker: the channels of its low-level API, and its sessions, which come back by themselves.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import { AMQPClient, AMQPSession } from '@cloudamqp/amqp-client';
import { Arrivals, control, name, pause, restartable, tls, until, url, within, wrongUrl } from '../stage.mjs';

const skip = !restartable && 'not our broker';
const quiet = { logger: null };

async function connected(t, options = '') {
  const client = new AMQPClient(url + options);
  client.logger = undefined;
  const connection = await within(client.connect(), 'the connection');
  t.after(() => connection.close().catch(() => {}));
  return connection;
}

async function channelOf(t) {
  const channel = await (await connected(t)).channel();
  await channel.confirmSelect();
  return channel;
}

async function declared(t, channel, args = {}, about = 'q') {
  const { name: queue } = await channel.queueDeclare(name(about), { durable: true }, args);
  t.after(async () => {
    const connection = await new AMQPClient(url).connect();
    await (await connection.channel()).queueDelete(queue);
    await connection.close();
  });
  return queue;
}

const put = (channel, queue, body, properties = {}) => channel.basicPublish('', queue, body, { deliveryMode: 2, ...properties });

async function consumed(channel, queue, params = { noAck: false }) {
  const arrivals = new Arrivals();
  await channel.basicConsume(queue, params, arrivals.put);
  return arrivals;
}

test('right credentials open a connection', async (t) => {
  assert.equal((await connected(t)).closed, false);
});

test('wrong credentials are refused', async () => {
  await assert.rejects(within(new AMQPClient(wrongUrl).connect(), 'the refusal'), /403|ACCESS_REFUSED/);
});

test('messages go both ways under TLS', { skip: !tls && 'not our broker' }, async (t) => {
  const connection = await within(new AMQPClient(tls.url, { ca: tls.ca }).connect(), 'the connection');
  t.after(() => connection.close());
  const channel = await connection.channel();
  await channel.confirmSelect();
  const queue = await declared(t, channel);
  await put(channel, queue, new Uint8Array(1 << 20));
  assert.equal((await (await consumed(channel, queue, { noAck: true })).take()).body.length, 1 << 20);
  await assert.rejects(within(new AMQPClient(tls.url).connect(), 'the refusal'), /certificate|issuer/i);
});

test('an unknown vhost is refused', async () => {
  const elsewhere = `${url.slice(0, url.lastIndexOf('/'))}/nowhere`;
  await assert.rejects(within(new AMQPClient(elsewhere).connect(), 'the refusal'), /530|NOT_ALLOWED/);
});

test('a heartbeat keeps an idle connection', async (t) => {
  const connection = await connected(t, '?heartbeat=4');
  assert.equal(connection.heartbeat, 4);
  // The client gives up after as long as one heartbeat without a sign.
  await pause(9000);
  assert.equal(connection.closed, false);
  await connection.channel();
});

test('a secret can be updated', async (t) => {
  const connection = await connected(t);
  await connection.updateSecret('guest', 'renewed');
  await connection.channel();
});

test('every publish is confirmed', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const tags = await within(Promise.all(Array.from({ length: 100 }, () => put(channel, queue, 'x'))), 'the confirms');
  assert.deepEqual(tags, Array.from({ length: 100 }, (_, i) => i + 1));
  assert.equal((await channel.queueDeclare(queue, { passive: true })).messageCount, 100);
});

test('a publish to a full queue is refused', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel, { 'x-max-length': 1, 'x-overflow': 'reject-publish' });
  await put(channel, queue, 'one');
  await assert.rejects(put(channel, queue, 'two'));
});

test('a mandatory message comes back', async (t) => {
  const channel = await channelOf(t);
  const returns = new Arrivals();
  channel.onReturn = returns.put;
  await channel.basicPublish('', name('nowhere'), 'lost', {}, true);
  const back = await returns.take('a return');
  assert.deepEqual([back.replyCode, back.replyText, back.bodyString()], [312, 'NO_ROUTE', 'lost']);
});

test('prefetch limits what is unacknowledged', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  for (const body of 'abc') await put(channel, queue, body);
  await channel.prefetch(2);
  const arrivals = await consumed(channel, queue);
  const first = await arrivals.take();
  await arrivals.take();
  await pause(300);
  assert.equal(arrivals.count, 0);
  await first.ack();
  assert.equal((await arrivals.take()).bodyString(), 'c');
});

test('a nacked message comes back', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  await put(channel, queue, 'again');
  const arrivals = await consumed(channel, queue);
  const first = await arrivals.take();
  assert.equal(first.redelivered, false);
  await first.nack(true);
  assert.equal((await arrivals.take()).redelivered, true);
});

test('rejected and expired messages are dead-lettered', async (t) => {
  const channel = await channelOf(t);
  const dead = await declared(t, channel, {}, 'dead');
  const letters = await consumed(channel, dead, { noAck: true });
  const args = { 'x-dead-letter-exchange': '', 'x-dead-letter-routing-key': dead };
  const expiring = await declared(t, channel, { ...args, 'x-message-ttl': 100 }, 'expire');
  await put(channel, expiring, 'late');
  assert.equal((await letters.take()).properties.headers['x-first-death-reason'], 'expired');
  const rejecting = await declared(t, channel, args, 'reject');
  await put(channel, rejecting, 'bad');
  await (await (await consumed(channel, rejecting)).take()).reject(false);
  const [death] = (await letters.take()).properties.headers['x-death'];
  assert.deepEqual([death.reason, death.queue, death.count], ['rejected', rejecting, 1]);
});

test('higher priorities come first', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel, { 'x-max-priority': 10 });
  for (const priority of [1, 9, 5]) await put(channel, queue, String(priority), { priority });
  const arrivals = await consumed(channel, queue, { noAck: true });
  for (const body of ['9', '5', '1']) assert.equal((await arrivals.take()).bodyString(), body);
});

test('a consumer of a deleted queue is told', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const consumer = await channel.basicConsume(queue, { noAck: true }, () => {});
  const end = consumer.wait().then(() => 'a clean end', (error) => String(error));
  await (await channelOf(t)).queueDelete(queue);
  assert.match(await within(end, 'the cancel'), /cancel/i);
});

test('a body of 16 MiB arrives as it was', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const body = randomBytes(16 << 20);
  await put(channel, queue, body);
  const message = await (await consumed(channel, queue, { noAck: true })).take();
  assert.ok(body.equals(message.body));
});

test('many channels work side by side', async (t) => {
  const connection = await connected(t);
  const first = await connection.channel();
  const queue = await declared(t, first);
  const channels = await Promise.all(Array.from({ length: 500 }, () => connection.channel()));
  await Promise.all(channels.map(async (channel) => {
    await channel.confirmSelect();
    await put(channel, queue, 'x');
  }));
  assert.equal((await first.queueDeclare(queue, { passive: true })).messageCount, 500);
});

test('names may be unicode', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel, {}, 'очередь-兎');
  const exchange = name('обмен-🐇');
  await channel.exchangeDeclare(exchange, 'topic', { durable: false, autoDelete: true });
  await channel.queueBind(queue, exchange, 'ключ.*');
  await channel.basicPublish(exchange, 'ключ.é', 'ü');
  const message = await (await consumed(channel, queue, { noAck: true })).take();
  assert.deepEqual([message.exchange, message.routingKey, message.bodyString()], [exchange, 'ключ.é', 'ü']);
});

test('headers of every type and properties arrive as they were', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const sent = {
    contentType: 'a/b', contentEncoding: 'c', deliveryMode: 2, priority: 3, correlationId: 'd', replyTo: 'e',
    expiration: '60000', messageId: 'f', timestamp: new Date(1700000000000), type: 'g', userId: 'guest', appId: 'h',
    headers: {
      yes: true, int: -32, long: 2 ** 40, double: 0.25, text: 'ü', bytes: new Uint8Array([0, 255]), none: null,
      time: new Date(1700000000000), array: [1, 'two', [true], { k: 'v' }], table: { nested: { deep: 1 } },
    },
  };
  await put(channel, queue, 'x', sent);
  const { properties } = await (await consumed(channel, queue, { noAck: true })).take();
  assert.deepEqual({ ...properties }, sent);
});

test('a transaction is all or nothing', async (t) => {
  const connection = await connected(t);
  const queue = await declared(t, await connection.channel());
  const channel = await connection.channel();
  await channel.txSelect();
  await put(channel, queue, 'undone');
  await channel.txRollback();
  await put(channel, queue, 'done');
  await channel.txCommit();
  assert.equal((await channel.basicGet(queue, { noAck: true })).bodyString(), 'done');
  assert.equal(await channel.basicGet(queue, { noAck: true }), null);
});

test('a soft error closes the channel only', async (t) => {
  const connection = await connected(t);
  await assert.rejects((await connection.channel()).queueDeclare(name('nowhere'), { passive: true }), /404/);
  assert.equal((await (await connection.channel()).queueDeclare('', { exclusive: true })).messageCount, 0);
});

async function sessionOf(t) {
  const lost = new Arrivals();
  const session = await AMQPSession.connect(url, { ...quiet, reconnectInterval: 50, ondisconnect: lost.put });
  t.after(() => session.stop());
  return { session, lost };
}

test('a session calls by direct reply-to', async (t) => {
  const { session } = await sessionOf(t);
  const queue = name('rpc');
  await session.rpcServer(queue, (message) => `done: ${message.bodyString()}`);
  const reply = await session.rpcCall(queue, 'ü', { timeout: 20000 });
  assert.equal(reply.bodyString(), 'done: ü');
  await (await session.queue(queue)).delete();
});

for (const command of ['restart', 'kill']) {
  test(`after a ${command} a session subscribes again`, { skip }, async (t) => {
    const { session, lost } = await sessionOf(t);
    const queue = await session.queue(name('session'), { durable: true });
    t.after(() => queue.delete().catch(() => {}));
    const arrivals = new Arrivals();
    await queue.subscribe({ prefetch: 5 }, (message) => arrivals.put(message.bodyString()));
    await queue.publish('before', { deliveryMode: 2 });
    assert.equal(await arrivals.take(), 'before');
    await Promise.all([control(command), lost.take('the loss of the connection')]);
    let sent = false;
    await until(async () => { sent = sent || await queue.publish('after').then(() => true, () => false); return sent; });
    let body = await arrivals.take();
    // The ack of the first may have been lost with the connection.
    if (body === 'before') body = await arrivals.take();
    assert.equal(body, 'after');
  });
}
