// amqplib (promises and confirm channels) against the broker.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { test } from 'node:test';
import amqp from 'amqplib';
import callbacks from 'amqplib/callback_api';
import { Arrivals, control, name, pause, restartable, tls, url, within, wrongUrl } from '../stage.mjs';

// A connection that is closed with the test.
async function connected(t, options = '') {
  const connection = await amqp.connect(url + options);
  connection.on('error', () => {});
  t.after(() => connection.close().catch(() => {}));
  return connection;
}

async function channelOf(t) {
  const connection = await connected(t);
  const channel = await connection.createConfirmChannel();
  channel.on('error', () => {});
  return channel;
}

async function declared(t, channel, options = {}, about = 'q') {
  const { queue } = await channel.assertQueue(name(about), { durable: true, ...options });
  t.after(async () => {
    const connection = await amqp.connect(url);
    const other = await connection.createChannel();
    await other.deleteQueue(queue);
    await connection.close();
  });
  return queue;
}

async function put(channel, queue, body, options = {}) {
  channel.sendToQueue(queue, Buffer.from(body), { persistent: true, ...options });
  await channel.waitForConfirms();
}

async function consumed(channel, queue, options = {}) {
  const arrivals = new Arrivals();
  await channel.consume(queue, arrivals.put, options);
  return arrivals;
}

async function deadLettered(t, channel, options = {}) {
  const dead = await declared(t, channel, {}, 'dead');
  const source = await declared(t, channel, { deadLetterExchange: '', deadLetterRoutingKey: dead, ...options }, 'source');
  return [source, dead];
}

test('right credentials open a connection', async (t) => {
  const connection = await connected(t);
  assert.ok(connection.connection.serverProperties.capabilities.publisher_confirms);
});

test('wrong credentials are refused with 403', async () => {
  await assert.rejects(amqp.connect(wrongUrl), /403|ACCESS_REFUSED/);
});

test('messages go both ways under TLS', { skip: !tls && 'not our broker' }, async (t) => {
  const connection = await amqp.connect(tls.url, { ca: [tls.ca] });
  t.after(() => connection.close());
  const channel = await connection.createConfirmChannel();
  const queue = await declared(t, channel);
  await put(channel, queue, Buffer.alloc(1 << 20));
  assert.equal((await (await consumed(channel, queue)).take()).content.length, 1 << 20);
  await assert.rejects(amqp.connect(tls.url), /certificate|issuer/i);
});

test('an unknown vhost is refused', async () => {
  await assert.rejects(amqp.connect(`${url.slice(0, url.lastIndexOf('/'))}/nowhere`), /ConnectionClose|NOT.ALLOWED/);
});

test('a heartbeat keeps an idle connection', async (t) => {
  const connection = await connected(t, '?heartbeat=1');
  let closed = false;
  connection.on('close', () => { closed = true; });
  // Longer than either side waits for a sign of the other.
  await pause(4000);
  assert.equal(closed, false);
  await connection.createChannel();
});

test('the callback api works as the promises do', async (t) => {
  const connection = await new Promise((resolve, reject) => {
    callbacks.connect(url, (error, made) => (error ? reject(error) : resolve(made)));
  });
  t.after(() => connection.close());
  const queue = await new Promise((resolve, reject) => {
    connection.createChannel((failed, channel) => (failed ? reject(failed)
      : channel.assertQueue('', { exclusive: true }, (error, ok) => (error ? reject(error) : resolve(ok.queue)))));
  });
  assert.match(queue, /^amq\.gen-/);
});

test('every publish is confirmed', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const confirms = [];
  for (let i = 0; i < 100; i += 1) {
    confirms.push(new Promise((resolve, reject) => {
      channel.sendToQueue(queue, Buffer.from('x'), {}, (error) => (error ? reject(error) : resolve()));
    }));
  }
  await within(Promise.all(confirms), 'the confirms');
  assert.equal((await channel.checkQueue(queue)).messageCount, 100);
});

test('a publish to a full queue is refused', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel, { maxLength: 1, arguments: { 'x-overflow': 'reject-publish' } });
  await put(channel, queue, 'one');
  await assert.rejects(put(channel, queue, 'two'), /nacked/);
});

test('a mandatory message comes back', async (t) => {
  const channel = await channelOf(t);
  const returns = new Arrivals();
  channel.on('return', returns.put);
  channel.publish('', name('nowhere'), Buffer.from('lost'), { mandatory: true });
  const back = await returns.take('a return');
  assert.deepEqual([back.fields.replyCode, back.fields.replyText, String(back.content)], [312, 'NO_ROUTE', 'lost']);
  await channel.waitForConfirms();
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
  channel.ack(first);
  assert.equal(String((await arrivals.take()).content), 'c');
});

test('acknowledged messages are gone, others come back', async (t) => {
  const connection = await connected(t);
  const channel = await connection.createConfirmChannel();
  const queue = await declared(t, channel);
  for (const body of 'abc') await put(channel, queue, body);
  const arrivals = await consumed(channel, queue);
  await arrivals.take();
  channel.ack(await arrivals.take(), true);
  await arrivals.take();
  await channel.close();
  const left = await (await consumed(await connection.createChannel(), queue)).take();
  assert.deepEqual([String(left.content), left.fields.redelivered], ['c', true]);
});

test('a nacked message comes back', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  await put(channel, queue, 'again');
  const arrivals = await consumed(channel, queue);
  const first = await arrivals.take();
  assert.equal(first.fields.redelivered, false);
  channel.nack(first, false, true);
  assert.equal((await arrivals.take()).fields.redelivered, true);
});

test('a rejected message is dead-lettered', async (t) => {
  const channel = await channelOf(t);
  const [source, dead] = await deadLettered(t, channel);
  await put(channel, source, 'bad');
  channel.reject(await (await consumed(channel, source)).take(), false);
  const letter = await (await consumed(channel, dead)).take();
  const [death] = letter.properties.headers['x-death'];
  assert.deepEqual([death.reason, death.queue, death.count], ['rejected', source, 1]);
});

test('an expired message is dead-lettered', async (t) => {
  const channel = await channelOf(t);
  const [source, dead] = await deadLettered(t, channel, { messageTtl: 100 });
  await put(channel, source, 'late');
  const letter = await (await consumed(channel, dead)).take();
  assert.equal(letter.properties.headers['x-first-death-reason'], 'expired');
});

test('a queue without use expires', async (t) => {
  const connection = await connected(t);
  const channel = await connection.createChannel();
  const { queue } = await channel.assertQueue(name('brief'), { expires: 200 });
  await pause(1500);
  const other = await connection.createChannel();
  other.on('error', () => {});
  await assert.rejects(other.checkQueue(queue), /404/);
});

test('higher priorities come first', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel, { maxPriority: 10 });
  for (const priority of [1, 9, 5]) await put(channel, queue, String(priority), { priority });
  const arrivals = await consumed(channel, queue);
  for (const body of ['9', '5', '1']) assert.equal(String((await arrivals.take()).content), body);
});

test('direct reply-to answers a call', async (t) => {
  const [server, client] = [await channelOf(t), await channelOf(t)];
  const queue = await declared(t, server);
  await server.consume(queue, ({ content, properties: { replyTo, correlationId } }) => {
    server.sendToQueue(replyTo, Buffer.from(String(content * 2)), { correlationId });
  }, { noAck: true });
  const replies = await consumed(client, 'amq.rabbitmq.reply-to', { noAck: true });
  client.sendToQueue(queue, Buffer.from('21'), { replyTo: 'amq.rabbitmq.reply-to', correlationId: 'one' });
  const reply = await replies.take('a reply');
  assert.deepEqual([String(reply.content), reply.properties.correlationId], ['42', 'one']);
});

test('a durable message survives a restart, and the client is told', { skip: !restartable && 'not our broker' }, async (t) => {
  const connection = await connected(t);
  const channel = await connection.createConfirmChannel();
  const queue = await declared(t, channel);
  await put(channel, queue, 'kept');
  const closed = new Arrivals();
  connection.on('close', closed.put);
  await control('restart');
  assert.match(String(await closed.take('the close')), /320|CONNECTION_FORCED|CONNECTION-FORCED/);
  const again = await channelOf(t);
  assert.equal(String((await (await consumed(again, queue)).take()).content), 'kept');
});

test('a durable message survives a kill', { skip: !restartable && 'not our broker' }, async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  await put(channel, queue, 'kept');
  await control('kill');
  const again = await channelOf(t);
  assert.equal(String((await (await consumed(again, queue)).take()).content), 'kept');
});

test('a consumer of a deleted queue is told', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const arrivals = await consumed(channel, queue);
  await (await channelOf(t)).deleteQueue(queue);
  assert.equal(await arrivals.take('the cancel'), null);
});

test('a body of 16 MiB arrives as it was', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const body = randomBytes(16 << 20);
  await put(channel, queue, body);
  const message = await (await consumed(channel, queue)).take();
  assert.ok(body.equals(message.content));
  channel.ack(message);
});

test('many channels work side by side', async (t) => {
  const connection = await connected(t);
  const first = await connection.createConfirmChannel();
  const queue = await declared(t, first);
  const channels = await Promise.all(Array.from({ length: 500 }, () => connection.createConfirmChannel()));
  await Promise.all(channels.map((channel) => put(channel, queue, 'x')));
  assert.equal((await first.checkQueue(queue)).messageCount, 500);
});

test('names may be unicode', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel, {}, 'очередь-兎');
  const exchange = name('обмен-🐇');
  await channel.assertExchange(exchange, 'topic', { durable: false, autoDelete: true });
  await channel.bindQueue(queue, exchange, 'ключ.*');
  channel.publish(exchange, 'ключ.é', Buffer.from('ü'));
  const { fields, content } = await (await consumed(channel, queue)).take();
  assert.deepEqual([fields.exchange, fields.routingKey, String(content)], [exchange, 'ключ.é', 'ü']);
});

test('headers of every type arrive as they were', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const typed = (kind, value) => ({ '!': kind, value });
  const headers = {
    bool: true, byte: typed('byte', -8), short: typed('short', -16), int: typed('int', -32), long: typed('long', -64),
    float: typed('float', 0.5), double: typed('double', 0.25), string: 'text', bytes: Buffer.from([0, 255]), null: null,
    time: typed('timestamp', 1700000000), decimal: typed('decimal', { places: 2, digits: 314 }),
    array: [1, 'two', [true], { k: 'v' }], table: { nested: { deep: 1 } },
  };
  await put(channel, queue, 'x', { headers });
  const got = (await (await consumed(channel, queue)).take()).properties.headers;
  assert.deepEqual(got, {
    ...headers, byte: -8, short: -16, int: -32, long: -64, float: 0.5, double: 0.25,
  });
});

test('every property arrives as it was', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  const sent = {
    contentType: 'a/b', contentEncoding: 'c', deliveryMode: 2, priority: 3, correlationId: 'd', replyTo: 'e',
    expiration: '60000', messageId: 'f', timestamp: 1700000000, type: 'g', userId: 'guest', appId: 'h',
  };
  await put(channel, queue, 'x', sent);
  const { properties } = await (await consumed(channel, queue)).take();
  for (const [key, value] of Object.entries(sent)) assert.equal(properties[key], value, key);
});

test('CC reaches more queues and BCC does not show', async (t) => {
  const channel = await channelOf(t);
  const [one, two, three] = [await declared(t, channel), await declared(t, channel), await declared(t, channel)];
  await put(channel, one, 'x', { CC: two, BCC: [three] });
  for (const queue of [one, two, three]) {
    const { properties } = await channel.get(queue, { noAck: true });
    assert.deepEqual(properties.headers, { CC: [two] });
  }
});

test('get takes one message, or none', async (t) => {
  const channel = await channelOf(t);
  const queue = await declared(t, channel);
  assert.equal(await channel.get(queue), false);
  await put(channel, queue, 'one');
  const message = await channel.get(queue);
  assert.equal(String(message.content), 'one');
  channel.ack(message);
});

test('a soft error closes the channel only', async (t) => {
  const connection = await connected(t);
  const channel = await connection.createChannel();
  const errors = new Arrivals();
  channel.on('error', errors.put);
  await assert.rejects(channel.checkQueue(name('nowhere')), /404/);
  assert.equal((await errors.take('the error')).code, 404);
  await connection.createChannel();
});
