// The library before the real bridge, while its worker dies at any moment: everything is handled, or covered by a gap, in
// order, and only what was being handled is handled again. Nothing here knows how the library does that: it counts.
//
// The moments come from a seed, which is printed (CLIENT_SEED repeats it), but a machine is never twice the same.

import assert from "node:assert/strict";
import { afterEach, beforeEach, describe, test } from "node:test";

import { Bridge } from "../bridge.js";
import { Installation, until } from "./installation.js";

const MARK = "websocket-bridge/mark/durable/lives/main";

const seed = Number(process.env.CLIENT_SEED ?? Math.floor(Math.random() * 1e9));
let state = seed % 0x7fffffff || 1;

/** A whole number from 0, below `limit`. */
function chance(limit) {
  state = (state * 48_271) % 0x7fffffff;
  return state % limit;
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** What the extension did in all its lives, as nobody in it could know. */
class Account {
  /** What was handled, in order: `{ number }` or `{ gap }`, with the life in which it was. */
  handled = [];
  /** Begun and not ended, in the life that runs. */
  running = new Set();
  /** Ended, in the life that runs. */
  ended = [];
  /** What a life had not written down when it ended: it may come again. */
  mayComeAgain = new Set();
  again = 0;
  /** Handlers that a death has interrupted. */
  interrupted = 0;
  /** Numbers whose sending was promised, and those whose worker died before it knew. */
  promised = new Set();
  unknown = new Set();
  errors = [];

  begin(seq) {
    this.running.add(seq);
  }

  end(seq, entry) {
    this.running.delete(seq);
    this.ended.push({ seq, epoch: entry.epoch });
    const isDouble = this.handled.some((other) => other.seq === seq && other.epoch === entry.epoch);
    if (!isDouble) return void this.handled.push({ seq, ...entry });
    this.again += 1;
    const name = `${entry.epoch} ${seq}`;
    assert.ok(this.mayComeAgain.has(name), `${name} was handled twice, and its worker had written that down`);
  }

  /** A worker has died; `mark` is what it had written down: all but what was being handled, or just had been. */
  died(mark) {
    const isUnwritten = ({ seq, epoch }) => mark?.epoch !== epoch || seq > mark.seq;
    const unwritten = [...this.ended.filter(isUnwritten).map(({ seq }) => seq), ...this.running];
    assert.ok(unwritten.length <= 1, `${unwritten} may all be handled again`);
    this.ended = [];
    for (const { seq, epoch } of this.handled) {
      if (mark?.epoch !== epoch || seq > mark.seq) this.mayComeAgain.add(`${epoch} ${seq}`);
    }
    this.interrupted += this.running.size;
    this.running.clear();
  }

  /** The numbers that are missing without a gap at their place, and those out of order. */
  judge(last) {
    const [missing, disorder] = [[], []];
    let next = 1;
    let excused = false;
    for (const { number, gap } of this.handled) {
      if (gap) excused = true;
      if (number === undefined) continue;
      if (number < next) disorder.push(number);
      else if (!excused) for (; next < number; next += 1) missing.push(next);
      next = Math.max(next, number + 1);
      excused = false;
    }
    if (!excused) for (; next <= last; next += 1) missing.push(next);
    return { missing, disorder };
  }
}

describe("An extension whose worker dies", () => {
  let installation;
  beforeEach(async () => (installation = await Installation.start()));
  afterEach(() => installation.end());

  /** A life of the worker: its first turn, and then sending until it dies. */
  function live(account, numbers) {
    const worker = installation.worker();
    const bridge = new Bridge({}, worker.surroundings);
    const session = bridge.session("lives", { url: installation.url });
    const ifAlive = (task) => (value) => worker.isAlive && task(value);
    session.on("number", async ({ number }, { seq, epoch }) => {
      if (!worker.isAlive) return; // nothing runs in a dead worker, but this process lives
      account.begin(seq);
      if (chance(3) > 0) await pause(chance(4));
      if (worker.isAlive) account.end(seq, { number, epoch });
    });
    session.on(
      "gap",
      ifAlive(({ seq, epoch, reason }) => account.end(seq, { gap: reason, epoch })),
    );
    session.on("error", (error) => account.errors.push(error));
    bridge.on("error", (error) => account.errors.push(error));
    const send = () => {
      const number = (numbers.sent += 1);
      account.unknown.add(number);
      session.send({ type: "echo-not", number }, { id: `n-${number}` }).then(
        ifAlive(() => {
          account.unknown.delete(number);
          account.promised.add(number);
        }),
        ifAlive((error) => account.errors.push(error)),
      );
    };
    return { worker, session, send };
  }

  async function lives(deaths, fault) {
    const account = new Account();
    const numbers = { published: 0, sent: 0 };
    installation.local.delay = 1;
    const isOver = { publishing: false };
    // What the server says before there is a connection is nobody's.
    const { worker: first, session } = live(account, numbers);
    await until("a connection", () => session.state === "connected");
    first.die("close");
    const publish = async () => {
      numbers.published += 1;
      await installation.publish({ type: "number", number: numbers.published });
    };
    const publishing = (async () => {
      while (!isOver.publishing) {
        for (let burst = chance(8); burst >= 0; burst -= 1) await publish();
        await pause(chance(10));
      }
    })();
    for (let death = 0; death < deaths; death += 1) {
      const { worker, send } = live(account, numbers);
      const end = performance.now() + 20 + chance(400);
      while (performance.now() < end) {
        for (let burst = chance(5); burst > 0; burst -= 1) send();
        await pause(chance(12));
      }
      if (death % 3 === 1) fault?.();
      worker.die(chance(2) === 0 ? "kill" : "close");
      account.died(installation.local.value(MARK));
      await pause(chance(30));
    }
    const { worker, session: last, send } = live(account, numbers);
    await until("a connection again", () => last.state === "connected");
    isOver.publishing = true;
    await publishing;
    await publish(); // what came before may have met no connection
    send();
    await until("all to be handled", () => account.handled.at(-1)?.number === numbers.published);
    await until("all that was sent to be promised", () => account.promised.has(numbers.sent));
    const ours = async () => (await installation.received()).map(({ number }) => number);
    await until("the last number at the server", async () => (await ours()).includes(numbers.sent));
    worker.die("close");
    return { account, numbers, received: await ours() };
  }

  function print(deaths, { account, numbers, received }) {
    const gaps = account.handled.filter(({ gap }) => gap).length;
    const { missing, disorder } = account.judge(numbers.published);
    const lost = [...account.promised].filter((number) => !received.includes(number));
    console.log(
      `seed ${seed}: ${deaths} deaths; ${numbers.published} messages from the server: ${missing.length} lost unreported, ` +
        `${disorder.length} out of order, ${account.interrupted} interrupted, ${account.again} handled again, ${gaps} gaps; ` +
        `${numbers.sent} to the server: ${lost.length} of ${account.promised.size} promised ones lost, ` +
        `${received.length - new Set(received).size} doubled`,
    );
    return { missing, disorder, lost };
  }

  test("misses nothing, and sends nothing twice", { timeout: 120_000 }, async () => {
    const deaths = 50;
    const result = await lives(deaths);
    const { account, received } = result;
    const { missing, disorder, lost } = print(deaths, result);
    assert.deepEqual([missing, disorder, lost], [[], [], []]);
    assert.deepEqual(
      account.handled.filter(({ gap }) => gap),
      [],
      "the daemon lived all the time",
    );
    assert.deepEqual(
      received,
      [...received].sort((one, other) => one - other),
      "in order",
    );
    assert.equal(new Set(received).size, received.length, "none twice");
    assert.ok(account.handled.length > 200 && received.length > 200, "something has happened");
    assert.deepEqual(account.errors, []);
  });

  test("hears of everything that may be missing when the daemon is killed besides", { timeout: 120_000 }, async () => {
    const deaths = 15;
    const result = await lives(deaths, () => installation.killDaemon());
    const { missing, disorder, lost } = print(deaths, result);
    assert.deepEqual([missing, disorder, lost], [[], [], []]);
    assert.ok(
      result.account.handled.some(({ gap }) => gap === "disconnected"),
      "the daemon was killed",
    );
  });
});
