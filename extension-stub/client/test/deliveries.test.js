// What comes from the server: in order, handled once, and acknowledged when it is.

import assert from "node:assert/strict";
import { beforeEach, describe, mock, test } from "node:test";

import { Bridge } from "../bridge.js";
import { BrowserStandIn, settled } from "./browser-stand-in.js";
import { HostStandIn } from "./host-stand-in.js";

const URL = "ws://127.0.0.1:8080/ws";
const MARK = "websocket-bridge/mark/durable/one/main";

let browser, host;

beforeEach(() => {
  mock.restoreAll();
  browser = new BrowserStandIn();
  host = new HostStandIn(browser);
});

/** A worker's first turn: a bridge, its session, and a list of what its handlers get. */
function start(options = {}) {
  const bridge = new Bridge({}, browser.worker.surroundings);
  const session = bridge.session("one", { url: URL, ...options });
  const got = [];
  const errors = [];
  session.on("message", (message) => void got.push(message));
  session.on("gap", (gap) => void got.push(gap));
  session.on("error", (error) => errors.push(error));
  return { bridge, session, got, errors };
}

/** The same with a handler of many, which does `handle` with each list. */
function startMany(handle = () => {}, options = {}) {
  const bridge = new Bridge({}, browser.worker.surroundings);
  const session = bridge.session("one", { url: URL, ...options });
  const lists = [];
  const errors = [];
  session.on("messages", (list) => {
    lists.push(list.map(({ seq }) => seq));
    return handle(list);
  });
  session.on("error", (error) => errors.push(error));
  return { session, lists, errors };
}

const numbers = (count, from = 1) => Array.from({ length: count }, (_, index) => from + index);
const payloads = (got) => got.map(({ payload }) => payload);
const acks = () => browser.ports.flatMap((port) => port.of("ack").map(({ seq }) => seq));

function deferred() {
  let resolve, reject;
  const promise = new Promise((...ends) => ([resolve, reject] = ends));
  return { promise, resolve, reject };
}

describe("A handler", () => {
  test("gets what waited, then what is new, with its place in the stream", async () => {
    host.say("one", "waited");
    const { got } = start();
    await settled();
    host.say("one", "new");
    await settled();
    assert.deepEqual(got, [
      { type: "message", at: 5, payload: "waited", seq: 1, epoch: "epoch-1", replay: true },
      { type: "message", at: 5, payload: "new", seq: 2, epoch: "epoch-1", replay: false },
    ]);
  });

  test("gets text as text, binary as bytes, and a gap as what it is", async () => {
    const { got } = start();
    await settled();
    host.sayBodies("one", { text: "no JSON" }, { binary: "AAEC/w==" });
    host.gap("one", { reason: "disconnected", since: 1, until: 2 });
    await settled();
    assert.equal(got[0].text, "no JSON");
    assert.deepEqual(got[1].binary, Uint8Array.of(0, 1, 2, 255));
    const { type, reason, seq, from, count, since, until } = got[2];
    assert.deepEqual([type, reason, seq, from, count, since, until], ["gap", "disconnected", 3, 3, null, 1, 2]);
  });

  test("may be one for a type of payload, also for a type that has the name of an event", async () => {
    const { session, got } = start();
    const typed = [];
    const end = session.on("progress", (payload, message) => void typed.push([payload, message.seq]));
    session.on("type:error", (payload, message) => void typed.push([payload, message.seq]));
    await settled();
    host.say("one", { type: "progress", percent: 5 }, { type: "error" }, { type: 7 }, null, "progress");
    await settled();
    end();
    host.say("one", { type: "progress" });
    await settled();
    assert.deepEqual(typed, [
      [{ type: "progress", percent: 5 }, 1],
      [{ type: "error" }, 2],
    ]);
    assert.equal(got.length, 6);
  });

  test("is waited for before the next message is handled, and before anything is acknowledged", async () => {
    const { session } = start();
    const doors = [deferred(), deferred()];
    const log = [];
    session.on("message", async ({ seq }) => {
      log.push(`begin ${seq}`);
      await doors[seq - 1].promise;
      log.push(`end ${seq}`);
    });
    await settled();
    host.say("one", "a", "b");
    await settled();
    assert.deepEqual([log, acks()], [["begin 1"], []]);
    doors[0].resolve();
    await settled();
    assert.deepEqual([log, acks()], [["begin 1", "end 1", "begin 2"], [1]]);
    doors[1].resolve();
    await browser.advance(10);
    assert.deepEqual(acks(), [1, 2]);
  });

  test("that fails is called again a few times, and then told and passed over", async () => {
    const { session, errors } = start();
    const calls = [];
    session.on("message", ({ seq }) => {
      calls.push(seq);
      if (seq === 1 || (seq === 2 && calls.filter((call) => call === 2).length < 3)) throw new Error("no room");
    });
    await settled();
    host.say("one", "never", "at the third time", "at once");
    await browser.advance(60_000);
    assert.deepEqual(calls, [1, 1, 1, 1, 2, 2, 2, 3]);
    assert.deepEqual(
      errors.map(({ code, from, seq, message }) => [code, from, seq, /message 1 .*no room/.test(message)]),
      [["handler-failed", 1, 1, true]],
    );
    assert.deepEqual(acks().at(-1), 3);
  });

  test("that fails does not have those beside it called again", async () => {
    const { session, got } = start();
    session.on("message", async () => {
      throw new Error("mine alone");
    });
    await settled();
    host.say("one", "a", "b");
    await browser.advance(60_000);
    assert.deepEqual(payloads(got), ["a", "b"]);
  });

  test("that never ends is passed over in time", async () => {
    const { session, got, errors } = start({ handlerTimeout: 5000 });
    let calls = 0;
    session.on("slow", () => new Promise(() => (calls += 1)));
    await settled();
    host.say("one", { type: "slow" }, "behind it");
    await browser.advance(4999);
    assert.equal(got.length, 1);
    await browser.advance(1);
    assert.equal(got.length, 2);
    assert.deepEqual([calls, errors[0].code, errors[0].seq], [1, "handler-timeout", 1]);
    await browser.advance(5000);
    assert.equal(browser.timers, 0);
  });
});

describe("A handler of many", () => {
  test("gets all that waits, messages and gaps in order, as a handler of single ones would", async () => {
    host.say("one", "waited");
    const got = [];
    startMany((list) => void got.push(...list));
    await settled();
    host.say("one", "new");
    host.gap("one", { reason: "disconnected" });
    await settled();
    assert.deepEqual(got.slice(0, 2), [
      { type: "message", at: 5, payload: "waited", seq: 1, epoch: "epoch-1", replay: true },
      { type: "message", at: 5, payload: "new", seq: 2, epoch: "epoch-1", replay: false },
    ]);
    assert.deepEqual([got[2].type, got[2].reason, got[2].seq], ["gap", "disconnected", 3]);
  });

  test("is waited for as a whole, and then gets all that has come meanwhile", async () => {
    const door = deferred();
    const { lists } = startMany(() => door.promise);
    await settled();
    host.say("one", "a", "b");
    await settled();
    for (const number of numbers(3)) {
      host.say("one", number);
      await settled();
    }
    assert.deepEqual([lists, acks()], [[[1, 2]], []]);
    door.resolve();
    await browser.advance(10);
    assert.deepEqual(lists, [numbers(2), numbers(3, 3)]);
    assert.deepEqual(acks(), [2, 5]);
  });

  test("gets what comes while the mark of the last is written with the next", async () => {
    const { lists } = startMany();
    await settled();
    browser.local.delay = 100;
    host.say("one", "a", "b");
    await browser.advance(50);
    host.say("one", "c");
    host.say("one", "d");
    await browser.advance(49);
    assert.deepEqual(lists, [[1, 2]]);
    await browser.advance(1);
    assert.deepEqual(lists, [[1, 2], [3, 4]]); // prettier-ignore
  });

  test("never gets more than a thousand at once", async () => {
    host.say("one", ...numbers(2500));
    const { lists } = startMany();
    await settled();
    assert.deepEqual(lists, [numbers(1000), numbers(1000, 1001), numbers(500, 2001)]);
  });

  test("gets by itself what others handle one by one, and the rest together", async () => {
    const log = [];
    const { session, lists } = startMany(() => void log.push("many"));
    session.on("step", (_, { seq }) => void log.push(seq));
    session.on("gap", ({ seq }) => void log.push(seq));
    await settled();
    host.say("one", "a", "b", { type: "step" }, { type: "step" }, "c", "d");
    host.gap("one", { reason: "disconnected" });
    host.say("one", "e");
    await settled();
    assert.deepEqual(lists, [[1, 2], [3], [4], [5, 6], [7], [8]]);
    assert.deepEqual(log, ["many", 3, "many", 4, "many", "many", 7, "many", "many"]);
  });

  test("is waited for together with the others of the same message", async () => {
    const door = deferred();
    const { session, lists } = startMany(([{ seq }]) => (seq === 1 ? door.promise : undefined));
    session.on("message", () => {});
    await settled();
    host.say("one", "a", "b");
    await settled();
    assert.deepEqual(lists, [[1]]);
    door.resolve();
    await settled();
    assert.deepEqual(lists, [[1], [2]]);
  });

  test("that fails is called again with all of it, and then the error names it", async () => {
    const { lists, errors } = startMany((list) => {
      if (list.splice(0)[0].seq === 1) throw new Error("no room"); // it has taken its list apart
    });
    await settled();
    host.say("one", ...numbers(3));
    await browser.advance(60_000);
    host.say("one", "next");
    await settled();
    assert.deepEqual(lists, [...Array(4).fill(numbers(3)), [4]]);
    assert.deepEqual(
      errors.map(({ code, from, seq, message }) => [code, from, seq, /messages 1 to 3 .*no room/.test(message)]),
      [["handler-failed", 1, 3, true]],
    );
    assert.equal(acks().at(-1), 4);
  });

  test("that fails leaves another one's list as it is", async () => {
    let beside = 0;
    const { session, lists } = startMany();
    session.on("messages", async (list) => {
      list.splice(0);
      throw new Error("mine alone");
    });
    session.on("messages", (list) => void (beside += list.length));
    await settled();
    host.say("one", ...numbers(3));
    await browser.advance(60_000);
    assert.deepEqual([lists, beside], [[numbers(3)], 3]);
  });

  test("that never ends is passed over in time, with all that it got", async () => {
    const { lists, errors } = startMany(([{ seq }]) => (seq === 1 ? new Promise(() => {}) : undefined), {
      handlerTimeout: 5000,
    });
    await settled();
    host.say("one", ...numbers(3));
    await settled();
    host.say("one", "next");
    await browser.advance(5000);
    assert.deepEqual(lists, [numbers(3), [4]]);
    assert.deepEqual([errors[0].code, errors[0].from, errors[0].seq], ["handler-timeout", 1, 3]);
  });

  test("is another than one for payloads of that type", async () => {
    const { session, lists } = startMany();
    const typed = [];
    session.on("type:messages", ({ unread }) => void typed.push(unread));
    await settled();
    host.say("one", { type: "messages", unread: 5 }, "a");
    await settled();
    assert.deepEqual([typed, lists], [[5], [[1], [2]]]);
  });

  test("is not called with what was handled, also if the bridge says it twice", async () => {
    const { lists } = startMany();
    await settled();
    host.say("one", "a");
    await settled();
    const session = host.session("one");
    const [first] = session.messages;
    const second = session.add({ type: "message", at: 5, payload: "b" });
    host.port.say({ type: "batch", messages: [first, second, first, second] });
    await settled();
    host.say("one", "c");
    await settled();
    assert.deepEqual(lists, [[1], [2], [3]]);
  });
});

describe("What was handled", () => {
  test("at once is acknowledged at once, and marked in one write", async () => {
    startMany();
    await settled();
    const { writes } = browser.local;
    host.say("one", ...numbers(1000));
    await settled();
    assert.deepEqual(acks(), [1000]);
    assert.equal(browser.local.writes - writes, 1);
    assert.deepEqual(browser.local.value(MARK), { epoch: "epoch-1", seq: 1000 });
  });

  test("by nobody is passed over in one write", async () => {
    const session = new Bridge({}, browser.worker.surroundings).session("one", { url: URL });
    const typed = [];
    session.on("step", (_, { seq }) => void typed.push(seq));
    await settled();
    const { writes } = browser.local;
    host.say("one", ...numbers(500), { type: "step" }, ...numbers(500));
    await browser.advance(10);
    assert.deepEqual([typed, acks().at(-1), browser.local.value(MARK).seq], [[501], 1001, 1001]);
    assert.equal(browser.local.writes - writes, 3);
  });

  test("is marked with one write in flight", async () => {
    startMany();
    await settled();
    browser.local.delay = 100;
    const { writes } = browser.local;
    for (const number of numbers(50)) {
      host.say("one", number);
      await browser.advance(10);
    }
    await browser.advance(1000);
    assert.deepEqual([acks().at(-1), browser.local.value(MARK).seq], [50, 50]);
    assert.equal(browser.local.mostAtOnce, 1);
    assert.ok(browser.local.writes - writes <= 7, `${browser.local.writes - writes} writes`);
  });

  test("is acknowledged while the mark is written, and not handled again when the worker dies before it is", async () => {
    start();
    await settled();
    host.say("one", "marked");
    await browser.advance(10);
    browser.local.delay = 100;
    host.say("one", "a");
    await settled();
    assert.deepEqual(acks(), [1, 2]);
    browser.kill();
    const { got } = start();
    await browser.advance(1000);
    // The next worker asks for what is behind its mark, of which the bridge has nothing any more; that is no loss.
    assert.deepEqual(browser.ports[1].of("open")[0].after, { epoch: "epoch-1", seq: 1 });
    assert.deepEqual(got, []);
    host.say("one", "b");
    await browser.advance(1000);
    assert.deepEqual(payloads(got), ["b"]);
  });

  test("one after the other, but within a moment, is acknowledged together", async () => {
    start();
    await settled();
    browser.local.delay = 1;
    host.say("one", ...numbers(100));
    await browser.advance(120);
    assert.equal(acks().at(-1), 100);
    assert.ok(acks().length <= 11, `${acks().length} acknowledgements`);
  });

  test("is not handled again by the next worker, whether or not the bridge had heard of it", async () => {
    const first = start();
    host.deafTo.add("ack");
    await settled();
    host.say("one", "a", "b");
    await settled();
    assert.equal(first.got.length, 2);
    browser.kill();
    host.deafTo.clear();
    host.say("one", "c");
    const second = start();
    await browser.advance(10);
    assert.deepEqual(payloads(second.got), ["c"]);
    assert.deepEqual(browser.ports[1].of("open")[0].after, { epoch: "epoch-1", seq: 2 });
    assert.equal(host.session("one").acked, 3);
  });

  test("is acknowledged by the next worker, if nothing else comes", async () => {
    start();
    host.deafTo.add("ack");
    await settled();
    host.say("one", "a", "b");
    await settled();
    browser.kill();
    host.deafTo.clear();
    start();
    await settled();
    assert.equal(host.session("one").acked, 2);
  });

  test("is not acknowledged beyond what the bridge knows of", async () => {
    start();
    await settled();
    host.say("one", "a", "b");
    await settled();
    browser.kill();
    Object.assign(host.session("one"), { head: 1, acked: 0, messages: host.session("one").messages.slice(0, 1) });
    const { errors } = start();
    await settled();
    assert.deepEqual([errors, host.session("one").acked], [[], 1]);
  });

  test("is not handled again when the bridge repeats it all the same, and acknowledged again", async () => {
    start();
    await settled();
    host.say("one", "a", "b");
    await settled();
    browser.kill();
    host.session("one").acked = 0;
    const answer = browser.host;
    browser.host = (port) => {
      answer(port);
      const { onMessage } = port;
      port.onMessage = ({ after, ...message }) => onMessage(message); // a bridge that does not know the place
    };
    const { got } = start();
    await settled();
    assert.deepEqual(payloads(got), []);
    assert.equal(host.session("one").acked, 2);
  });

  test("is acknowledged anyway when the storage fails, which is told once", async () => {
    const { errors } = start();
    await settled();
    browser.local.failures.set = 3;
    for (const number of numbers(3)) {
      host.say("one", number);
      await browser.advance(10);
    }
    assert.deepEqual([errors.map(({ code }) => code), acks()], [["storage-failed"], [1, 2, 3]]);
    host.say("one", 4);
    await settled();
    assert.deepEqual(browser.local.value(MARK).seq, 4);
  });

  test("waits once, and no more, for a storage that never answers", async () => {
    const { got, errors } = start();
    await settled();
    browser.local.delay = 1e9;
    host.say("one", ...numbers(5));
    await browser.advance(9999);
    assert.deepEqual([payloads(got), acks(), errors], [[1], [1], []]);
    await browser.advance(1);
    assert.deepEqual([payloads(got), errors[0].code], [numbers(5), "storage-failed"]);
    await browser.advance(10);
    assert.equal(acks().at(-1), 5);
    browser.local.delay = 0;
    await browser.advance(20_000); // until what has not been answered is given up
    browser.local.delay = 100;
    host.say("one", 6);
    await browser.advance(100);
    host.say("one", 7, 8);
    await settled();
    assert.deepEqual([got.length, errors.length], [7, 1], "an answer, and it is waited for again");
  });
});

describe("What was being handled when the worker died", () => {
  test("is handled again by the next one, and nothing else is", async () => {
    const first = start();
    first.session.on("message", ({ seq }) => (seq === 3 ? new Promise(() => {}) : undefined));
    await settled();
    host.say("one", ...numbers(5));
    await settled();
    assert.deepEqual(payloads(first.got), [1, 2, 3]);
    browser.kill();
    const { got } = start();
    await settled();
    assert.deepEqual(
      got.map(({ seq, replay }) => [seq, replay]),
      [
        [3, true],
        [4, true],
        [5, true],
      ],
    );
  });

  test("is alone in that: each handler waits for the mark of the one before", async () => {
    for (const handler of [() => {}, async () => {}]) {
      browser = new BrowserStandIn();
      host = new HostStandIn(browser);
      const { session, got } = start();
      session.on("message", handler);
      await settled();
      browser.local.delay = 10;
      host.say("one", ...numbers(5));
      for (let handled = 1; handled <= 5; handled += 1) {
        await settled();
        assert.deepEqual([got.length, browser.local.value(MARK)?.seq ?? 0], [handled, handled - 1]);
        await browser.advance(10);
      }
      assert.equal(browser.local.value(MARK).seq, 5);
    }
  });

  test("is handled again if the mark that it had ended was not written yet, and so is nothing before it", async () => {
    for (const marked of [1, 2, 3]) {
      browser = new BrowserStandIn();
      host = new HostStandIn(browser);
      host.deafTo.add("ack");
      const first = start();
      await settled();
      browser.local.delay = 10;
      host.say("one", ...numbers(5));
      await browser.advance(10 * marked + 5);
      assert.deepEqual(payloads(first.got), numbers(marked + 1));
      browser.kill();
      browser.local.delay = 0;
      const { got } = start();
      await settled();
      assert.deepEqual(payloads(got), numbers(5 - marked, marked + 1));
    }
  });

  test("is that list and no other where many are handled at once, whether or not their handler had ended", async () => {
    for (const handle of [() => {}, ([{ seq }]) => (seq === 4 ? new Promise(() => {}) : undefined)]) {
      browser = new BrowserStandIn();
      host = new HostStandIn(browser);
      host.deafTo.add("ack");
      const first = startMany(handle);
      await settled();
      browser.local.delay = 10;
      host.say("one", ...numbers(3));
      await browser.advance(5);
      host.say("one", ...numbers(2, 4));
      await browser.advance(10);
      assert.deepEqual(first.lists, [numbers(3), numbers(2, 4)]);
      host.say("one", 6);
      browser.kill();
      browser.local.delay = 0;
      const { lists } = startMany();
      await settled();
      assert.deepEqual(lists, [numbers(3, 4)]);
    }
  });

  test("is not handled again when only the port ended", async () => {
    const { session, got } = start();
    const door = deferred();
    session.on("message", ({ seq }) => (seq === 1 ? door.promise : undefined));
    await settled();
    host.say("one", "a", "b");
    await settled();
    browser.ports[0].end();
    await browser.advance(1000);
    assert.equal(browser.ports.length, 2);
    host.say("one", "c");
    await settled();
    door.resolve();
    await browser.advance(10);
    assert.deepEqual(payloads(got), ["a", "b", "c"]);
    assert.equal(host.session("one").acked, 3);
  });
});

describe("A new epoch", () => {
  test("is told by the bridge's gap, however often the worker dies before that is handled", async () => {
    start();
    await settled();
    host.say("one", "a", "b");
    await settled();
    browser.kill();
    host.session("one").forget();
    host.say("one", "c");
    for (let time = 0; time < 3; time += 1) {
      const { session, got } = start();
      session.on("gap", () => new Promise(() => {}));
      await settled();
      assert.deepEqual(
        got.map(({ reason, seq }) => [reason, seq]),
        [["epoch", 0]],
      );
      browser.kill();
    }
    const { got } = start();
    await settled();
    assert.deepEqual(
      got.map(({ reason, payload, seq, epoch }) => [reason ?? payload, seq, epoch]),
      [
        ["epoch", 0, "epoch-2"],
        ["c", 1, "epoch-2"],
      ],
    );
    browser.kill();
    const { got: after } = start();
    await settled();
    assert.deepEqual(after, []);
  });

  test("under an attached port begins to count anew", async () => {
    const { got } = start();
    await settled();
    host.say("one", "a", "b");
    await settled();
    const session = host.session("one");
    session.forget();
    host.port.say({ type: "opened", ...session.opened });
    host.say("one", "c");
    await browser.advance(10);
    assert.deepEqual(got.map(({ payload, epoch, seq }) => [payload, epoch, seq]).at(-1), ["c", "epoch-2", 1]);
    assert.deepEqual(browser.local.value(MARK), { epoch: "epoch-2", seq: 1 });
    assert.equal(session.acked, 1);
  });

  test("is acknowledged from its beginning, also while something of the former one is handled", async () => {
    const { session } = start();
    const doors = { b: deferred(), c: deferred() };
    session.on("message", ({ payload }) => doors[payload]?.promise);
    await settled();
    host.say("one", "a", "b");
    await settled();
    host.session("one").forget();
    host.port.say({ type: "opened", ...host.session("one").opened });
    host.say("one", "c");
    await settled();
    doors.b.resolve();
    await settled();
    doors.c.resolve();
    await browser.advance(10);
    assert.equal(host.session("one").acked, 1);
  });

  test("does not come with another daemon that goes on with the session", async () => {
    host.receipts = false;
    const { got, session } = start();
    session.send("once").catch(() => {});
    session.subscribe("once", 1);
    await settled();
    host.say("one", "a");
    await settled();
    host.port.say({ type: "opened", ...host.session("one").opened });
    host.say("one", "b");
    await browser.advance(10);
    assert.deepEqual([payloads(got), host.session("one").acked], [["a", "b"], 2]);
    assert.deepEqual([host.port.of("send").length, host.port.of("subscribe").length], [1, 1]);
  });
});

describe("A session", () => {
  test("that another context takes over stays so until somebody asks", async () => {
    const { session, errors, got } = start();
    const states = [];
    session.on("state", ({ state }) => states.push(state));
    await settled();
    host.port.say({
      type: "error",
      code: "superseded",
      message: "another port reads",
      session: "one",
      retryable: false,
    });
    host.port.say({ type: "opened", ...host.session("one").opened, epoch: "epoch-7" });
    await settled();
    host.say("one", "for the other");
    browser.ports[0].end();
    await browser.advance(5000);
    assert.deepEqual(
      [states.at(-1), session.state, errors[0].code, got],
      ["superseded", "superseded", "superseded", []],
    );
    assert.deepEqual(browser.ports[1].of("open"), []);
    session.reconnect();
    await settled();
    assert.deepEqual([session.state, payloads(got)], ["connected", ["for the other"]]);
  });

  test("that another context takes over handles no more of what had come", async () => {
    const { session, got } = start();
    const door = deferred();
    session.on("message", () => door.promise);
    await settled();
    host.say("one", "a", "b");
    host.port.say({
      type: "error",
      code: "superseded",
      message: "another port reads",
      session: "one",
      retryable: false,
    });
    await settled();
    door.resolve();
    await settled();
    assert.deepEqual(payloads(got), ["a"]);
  });

  test("that is refused says why, and is opened when somebody asks", async () => {
    host.refuses.set("one", { code: "server-not-allowed", message: "add to config.toml: …", retryable: false });
    const { session, errors } = start();
    await settled();
    await browser.advance(100_000);
    assert.deepEqual([session.state, errors.length, browser.ports[0].of("open").length], ["refused", 1, 1]);
    assert.match(errors[0].message, /config\.toml/);
    await assert.rejects(session.status(), { code: "unattached", message: /config\.toml/ });
    host.refuses.clear();
    session.reconnect();
    await settled();
    assert.equal(session.state, "connected");
    assert.equal((await session.status()).state, "connected");
    session.reconnect();
    await settled();
    assert.equal(host.port.of("reconnect").length, 1);
  });

  test("that is refused for a while is opened again by itself", async () => {
    host.refuses.set("one", { code: "disk-full", retryable: true });
    const { session } = start();
    await browser.advance(60_000);
    assert.ok(browser.ports[0].of("open").length > 3);
    host.refuses.clear();
    await browser.advance(20_000);
    assert.equal(session.state, "connected");
  });

  test("whose storage cannot be read is opened when it can", async () => {
    browser.local.failures.get = 3;
    const { session, errors } = start();
    await settled();
    assert.deepEqual([errors[0].code, browser.ports[0].of("open").length], ["storage-failed", 0]);
    await browser.advance(20_000);
    assert.equal(session.state, "connected");
  });

  test("that observes takes no place and leaves none", async () => {
    const { session, got } = start({ observe: true });
    await settled();
    const [open] = browser.ports[0].of("open");
    assert.deepEqual([open.observe, open.consumer, open.after], [true, undefined, undefined]);
    host.say("one", "a");
    await settled();
    assert.deepEqual([payloads(got), acks(), browser.local.keys], [["a"], [], ["websocket-bridge/profile"]]);
    await assert.rejects(session.send(1), { code: "read-only" });
  });

  test("in a private window is in memory mode, and nothing of it is on the disk", async () => {
    browser.isPrivate = true;
    browser.kill();
    const first = start({ mode: "durable" });
    await settled();
    const [{ mode, profile }] = browser.ports[0].of("open");
    assert.equal(mode, "memory");
    host.say("one", "a");
    host.receipts = false;
    void first.session.send("kept", { until: "posted" });
    await settled();
    browser.kill();
    const { got } = start();
    await settled();
    assert.deepEqual(
      [got, browser.ports[1].of("open")[0].profile, browser.ports[1].of("send").length],
      [[], profile, 1],
    );
    assert.deepEqual(browser.local.keys, []);
  });

  test("in memory mode leaves nothing on the disk but the installation's id", async () => {
    const { session } = start({ mode: "memory" });
    await settled();
    host.say("one", "a");
    host.receipts = false;
    void session.send("kept", { until: "posted" });
    await settled();
    assert.deepEqual(browser.local.keys, ["websocket-bridge/profile"]);
    assert.ok(browser.session.keys.length >= 2);
  });
});

test("Fifty thousand messages of a hundred bytes fly", async () => {
  let handled = 0;
  const { lists } = startMany((list) => void (handled += list.length));
  const text = "x".repeat(100);
  await settled();
  const [port] = browser.ports;
  const count = 50_000;
  const began = performance.now();
  for (let seq = 1; seq <= count;) {
    const messages = [];
    for (; messages.length < 64 && seq <= count; seq += 1) {
      messages.push({ type: "message", session: "one", seq, at: 1, payload: { type: "progress", text } });
    }
    host.session("one").delivered = seq;
    port.sayNow({ type: "batch", messages });
    await null;
  }
  while (acks().at(-1) !== count && performance.now() - began < 5000) await browser.advance(10);
  const time = performance.now() - began;
  assert.equal(handled, count);
  assert.ok(lists.length <= count / 1000 + 1, `${lists.length} lists`);
  assert.ok(acks().length <= lists.length, `${acks().length} acknowledgements`);
  assert.ok(time < 5000, `${time} ms: far from what any machine takes`);
});
