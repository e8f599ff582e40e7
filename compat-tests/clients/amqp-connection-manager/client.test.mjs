// amqp-connection-manager against the broker: it connects again by itself, sets up again, and sends what waited.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import amqp from 'amqp-connection-manager';
import { Arrivals, control, name, pause, restartable, tls, until, url, within, wrongUrl } from '../stage.mjs';

const skip = !restartable && 'not our broker';

function managed(t, urls = [url], options = {}) {
  const manager = amqp.connect(urls, { reconnectTimeInSeconds: 0.1, ...options });
  manager.leavings = [];
  t.after(async () => {
    for (const clean of manager.leavings) await clean();
    await manager.close();
  });
  return manager;
}

// A channel whose setup declares a queue of its own; what the queue delivers arrives acknowledged.
async function worked(t, manager, options = {}, about = 'q') {
  const queue = name(about);
  const channel = manager.createChannel({
    setup: (ch) => ch.assertQueue(queue, { durable: true, ...options }),
  });
  channel.on('error', () => {});
  await within(channel.waitForConnect(), 'the channel');
  manager.leavings.push(async () => {
    // A consumer of a deleted queue would subscribe again.
    await channel.cancelAll();
    await channel.deleteQueue(queue);
  });
  return { channel, queue };
}

async function consumed(channel, queue, options = {}) {
  const arrivals = new Arrivals();
  await channel.consume(queue, arrivals.put, options);
  return arrivals;
}

test('right credentials open a connection', async (t) => {
  const manager = managed(t);
  await within(new Promise((resolve) => { manager.once('connect', resolve); }), 'the connection');
  assert.ok(manager.isConnected());
});

test('wrong credentials are refused, and the next url is tried', async (t) => {
  const failures = new Arrivals();
  const manager = managed(t, [wrongUrl, url]);
  manager.on('connectFailed', ({ err }) => failures.put(String(err)));
  assert.match(await failures.take('the refusal'), /403|ACCESS_REFUSED/);
  await until(() => manager.isConnected());
});

test('it connects under TLS', { skip: !tls && 'not our broker' }, async (t) => {
  const manager = managed(t, [tls.url], { connectionOptions: { ca: [tls.ca] } });
  const { channel, queue } = await worked(t, manager);
  await channel.sendToQueue(queue, Buffer.from('secret'));
  assert.equal(String((await (await consumed(channel, queue, { noAck: true })).take()).content), 'secret');
});

test('a heartbeat keeps an idle connection', async (t) => {
  const manager = managed(t, [url], { heartbeatIntervalInSeconds: 1 });
  await within(manager.connect(), 'the connection');
  let lost = false;
  manager.on('disconnect', () => { lost = true; });
  await pause(4000);
  assert.equal(lost, false);
});

test('every publish is confirmed', async (t) => {
  const { channel, queue } = await worked(t, managed(t));
  const confirms = Array.from({ length: 100 }, () => channel.sendToQueue(queue, Buffer.from('x')));
  await within(Promise.all(confirms), 'the confirms');
  assert.equal((await channel.checkQueue(queue)).messageCount, 100);
});

test('a publish to a full queue is refused', async (t) => {
  const limit = { maxLength: 1, arguments: { 'x-overflow': 'reject-publish' } };
  const { channel, queue } = await worked(t, managed(t), limit);
  await channel.sendToQueue(queue, Buffer.from('one'));
  await assert.rejects(channel.sendToQueue(queue, Buffer.from('two')), /nacked/);
});

test('a mandatory message comes back', async (t) => {
  const manager = managed(t);
  const returns = new Arrivals();
  const channel = manager.createChannel({ setup: async (ch) => { ch.on('return', returns.put); } });
  await within(channel.waitForConnect(), 'the channel');
  await channel.publish('', name('nowhere'), Buffer.from('lost'), { mandatory: true });
  assert.equal((await returns.take('a return')).fields.replyText, 'NO_ROUTE');
});

test('prefetch limits what is unacknowledged, ack and nack settle', async (t) => {
  const { channel, queue } = await worked(t, managed(t));
  for (const body of 'abc') await channel.sendToQueue(queue, Buffer.from(body));
  const arrivals = await consumed(channel, queue, { prefetch: 2 });
  const first = await arrivals.take();
  const second = await arrivals.take();
  await pause(300);
  assert.equal(arrivals.count, 0);
  channel.ack(first);
  assert.equal(String((await arrivals.take()).content), 'c');
  channel.nack(second, false, true);
  const again = await arrivals.take();
  assert.deepEqual([String(again.content), again.fields.redelivered], ['b', true]);
});

test('rejected and expired messages are dead-lettered', async (t) => {
  const manager = managed(t);
  const { channel, queue: dead } = await worked(t, manager, {}, 'dead');
  const options = { deadLetterExchange: '', deadLetterRoutingKey: dead };
  const rejecting = await worked(t, manager, options, 'reject');
  const expiring = await worked(t, manager, { ...options, messageTtl: 100 }, 'expire');
  const letters = await consumed(channel, dead, { noAck: true });
  await expiring.channel.sendToQueue(expiring.queue, Buffer.from('late'));
  assert.equal((await letters.take()).properties.headers['x-first-death-reason'], 'expired');
  await rejecting.channel.sendToQueue(rejecting.queue, Buffer.from('bad'));
  const bad = await (await consumed(rejecting.channel, rejecting.queue)).take();
  rejecting.channel.nack(bad, false, false);
  assert.equal((await letters.take()).properties.headers['x-first-death-reason'], 'rejected');
});

test('higher priorities come first', async (t) => {
  const { channel, queue } = await worked(t, managed(t), { maxPriority: 10 });
  for (const priority of [1, 9, 5]) await channel.sendToQueue(queue, Buffer.from(String(priority)), { priority });
  const arrivals = await consumed(channel, queue, { noAck: true });
  for (const body of ['9', '5', '1']) assert.equal(String((await arrivals.take()).content), body);
});

test('json channels speak json', async (t) => {
  const manager = managed(t);
  const queue = name('json');
  const channel = manager.createChannel({
    json: true,
    setup: (ch) => ch.assertQueue(queue, { durable: false, autoDelete: true }),
  });
  await channel.sendToQueue(queue, { text: 'ü', number: 1 });
  const message = await (await consumed(channel, queue, { noAck: true })).take();
  assert.deepEqual(JSON.parse(message.content), { text: 'ü', number: 1 });
});

test('direct reply-to answers a call', async (t) => {
  const manager = managed(t);
  const { channel: server, queue } = await worked(t, manager);
  await server.consume(queue, ({ properties: { replyTo, correlationId } }) => {
    server.publish('', replyTo, Buffer.from('42'), { correlationId });
  }, { noAck: true });
  const replies = new Arrivals();
  const client = manager.createChannel({
    setup: (ch) => ch.consume('amq.rabbitmq.reply-to', replies.put, { noAck: true }),
  });
  await within(client.waitForConnect(), 'the channel');
  await client.publish('', queue, Buffer.from('21'), { replyTo: 'amq.rabbitmq.reply-to', correlationId: 'one' });
  assert.equal((await replies.take('a reply')).properties.correlationId, 'one');
});

for (const command of ['restart', 'kill']) {
  test(`after a ${command} it sets up again, consumers go on, and what waited is sent`, { skip }, async (t) => {
    const manager = managed(t);
    const { channel, queue } = await worked(t, manager);
    const arrivals = await consumed(channel, queue, { noAck: true });
    await channel.sendToQueue(queue, Buffer.from('before'));
    assert.equal(String((await arrivals.take()).content), 'before');
    const lost = new Promise((resolve) => { manager.once('disconnect', resolve); });
    const back = control(command);
    await within(lost, 'the loss of the connection');
    const waiting = channel.sendToQueue(queue, Buffer.from('meanwhile'));
    await within(Promise.all([waiting, back]), 'the confirm of what waited');
    assert.equal(String((await arrivals.take()).content), 'meanwhile');
  });
}

test('a consumer of a deleted queue is told', async (t) => {
  const manager = managed(t);
  const { channel, queue } = await worked(t, manager);
  const arrivals = new Arrivals();
  await channel.addSetup((ch) => ch.consume(queue, arrivals.put));
  await (await worked(t, manager)).channel.deleteQueue(queue);
  assert.equal(await arrivals.take('the cancel'), null);
});

test('a body of 16 MiB arrives as it was', async (t) => {
  const { channel, queue } = await worked(t, managed(t));
  const body = randomBytes(16 << 20);
  await channel.sendToQueue(queue, body);
  const message = await (await consumed(channel, queue, { noAck: true })).take();
  assert.ok(body.equals(message.content));
});

test('many channels work side by side', async (t) => {
  const manager = managed(t);
  const { channel, queue } = await worked(t, manager);
  const channels = Array.from({ length: 200 }, () => manager.createChannel());
  await within(Promise.all(channels.map((each) => each.sendToQueue(queue, Buffer.from('x')))), 'the confirms');
  assert.equal((await channel.checkQueue(queue)).messageCount, 200);
});

test('unicode names and nested headers arrive as they were', async (t) => {
  const { channel, queue } = await worked(t, managed(t), {}, 'очередь-兎');
  const exchange = name('обмен-🐇');
  await channel.assertExchange(exchange, 'topic', { durable: false, autoDelete: true });
  await channel.bindQueue(queue, exchange, 'ключ.*');
  const headers = { text: 'ü', number: -5, yes: true, list: [1, 'two'], table: { deep: { er: 1.5 } }, none: null };
  await channel.publish(exchange, 'ключ.é', Buffer.from('x'), { headers });
  const { fields, properties } = await (await consumed(channel, queue, { noAck: true })).take();
  assert.deepEqual([fields.routingKey, fields.exchange], ['ключ.é', exchange]);
  assert.deepEqual(properties.headers, headers);
});
