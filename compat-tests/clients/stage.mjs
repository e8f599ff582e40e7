// What the suites of the Node clients share: where the broker is, names, deadlines, the way to restart a node.
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';

export const url = process.env.BROKER_URL;
export const wrongUrl = url.replace('guest:guest@', 'guest:wrong@');
export const restartable = Boolean(process.env.BROKER_CONTROL);
// Where TLS is spoken, and who is to be trusted; `undefined` with a broker that is not ours.
export const tls = process.env.BROKER_CERTIFICATES && {
  url: `amqps://guest:guest@127.0.0.1:${process.env.BROKER_TLS_PORT}/%2f`,
  ca: readFileSync(`${process.env.BROKER_CERTIFICATES}/ca.pem`),
};
export const PATIENCE = 30_000;

let names = 0;
export const name = (about) => `node-${about}-${process.pid}-${names++}`;

// Asks the stage to do something to the node this client talks to, and waits until it is done.
export function control(command) {
  const [host, port] = process.env.BROKER_CONTROL.split(':');
  return new Promise((resolve, reject) => {
    const stream = connect(Number(port), host, () => stream.write(`${command}\n`));
    let answer = '';
    stream.on('data', (data) => { answer += data; });
    stream.on('end', () => (answer.trim() === 'ok' ? resolve() : reject(new Error(`${command}: ${answer}`))));
    stream.on('error', reject);
  });
}

export function within(promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come in time`)), PATIENCE);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// A line of values that come when they come: `put` from callbacks, `await take()` in the test.
export class Arrivals {
  #values = [];
  #waiting = [];
  put = (value) => {
    const first = this.#waiting.shift();
    if (first) first(value);
    else this.#values.push(value);
  };
  take(what = 'a message') {
    if (this.#values.length > 0) return Promise.resolve(this.#values.shift());
    return within(new Promise((resolve) => this.#waiting.push(resolve)), what);
  }
  get count() { return this.#values.length; }
}

export const pause = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });

// Asks again until the answer is true.
export async function until(fact) {
  const end = Date.now() + PATIENCE;
  while (!await fact()) {
    if (Date.now() > end) throw new Error('not true in time');
    await pause(20);
  }
}
