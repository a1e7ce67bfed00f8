// The life of the port: opened, opened again, given up, and closed so that a worker can sleep.

import assert from "node:assert/strict";
import { beforeEach, describe, mock, test } from "node:test";

import { Bridge } from "../bridge.js";
import { BrowserStandIn, settled } from "./browser-stand-in.js";
import { HostStandIn } from "./host-stand-in.js";

const URL = "ws://127.0.0.1:8080/ws";

let browser, host;

beforeEach(() => {
  mock.restoreAll();
  browser = new BrowserStandIn();
  host = new HostStandIn(browser);
});

function newBridge(options) {
  return new Bridge(options, browser.worker.surroundings);
}

/** All news of a bridge, as they come. */
function news(bridge) {
  const told = [];
  for (const event of ["connecting", "ready", "waiting", "asleep", "idle", "failed", "error"]) {
    bridge.on(event, (details) => told.push({ event, details }));
  }
  return told;
}

const events = (told) => told.map(({ event }) => event);

describe("The port", () => {
  test("is opened for the first session, with a greeting before it", async () => {
    const bridge = newBridge();
    const told = news(bridge);
    bridge.session("one", { url: URL, protocols: ["v1"], settings: { linger_ms: 5 } });
    bridge.session("two", { url: URL, mode: "memory", consumer: "popup" });
    assert.equal(browser.ports.length, 0, "the rest of the turn belongs to the extension");
    await settled();
    assert.deepEqual(events(told), ["connecting", "ready"]);
    assert.equal(bridge.state, "ready");
    const [hello, ...opens] = browser.ports[0].heard.filter(({ type }) => ["hello", "open"].includes(type));
    assert.deepEqual([hello.type, hello.protocol, hello.features], ["hello", 1, ["batch"]]);
    const [one, two] = opens;
    assert.deepEqual([one.session, one.url, one.mode, one.consumer], ["one", URL, "durable", "main"]);
    assert.deepEqual([one.protocols, one.settings], [["v1"], { linger_ms: 5 }]);
    assert.deepEqual([two.session, two.mode, two.consumer], ["two", "memory", "popup"]);
    assert.ok(one.profile.length > 0 && one.profile === two.profile);
  });

  test("has the same profile in every worker of an installation, and another one in another", async () => {
    newBridge().session("one", { url: URL });
    await settled();
    const [{ profile }] = browser.ports[0].of("open");
    browser.kill();
    newBridge().session("one", { url: URL });
    await settled();
    assert.equal(browser.ports[1].of("open")[0].profile, profile);
    const other = new BrowserStandIn();
    other.random();
    new HostStandIn(other);
    new Bridge({}, other.kill().surroundings).session("one", { url: URL });
    await settled();
    assert.notEqual(other.ports[0].of("open")[0].profile, profile);
  });

  test("has one profile, also if two pages of a new installation open it at once", async () => {
    newBridge().session("one", { url: URL });
    newBridge().session("one", { url: URL });
    await settled();
    const [one, two] = browser.ports.map((port) => port.of("open")[0].profile);
    assert.equal(one, two);
  });

  test("is opened again after it ended, after pauses that grow and stay below thirty seconds", async () => {
    browser.host = (port) => port.end({ text: "Native host has exited." });
    const bridge = newBridge();
    const pauses = [];
    bridge.on("waiting", ({ until, error }) => {
      pauses.push(until - browser.now);
      assert.deepEqual([error.code, error.retryable], ["port-ended", true]);
    });
    bridge.session("one", { url: URL });
    await browser.advance(600_000);
    assert.ok(pauses.length > 30, `${pauses.length} attempts in ten minutes`);
    assert.ok(Math.max(...pauses) <= 20_000);
    assert.ok(Math.max(...pauses) > 10_000, "they grow");
    assert.ok(Math.max(...pauses.slice(0, 2)) <= 1000, "the first ones are short");
    assert.ok(new Set(pauses).size > 20, "they are random");
  });

  test("has short pauses again after it was up for a while", async () => {
    const bridge = newBridge();
    const pauses = [];
    bridge.on("waiting", ({ until }) => pauses.push(until - browser.now));
    bridge.session("one", { url: URL });
    for (let time = 0; time < 20; time += 1) {
      await browser.advance(30_000);
      browser.ports.at(-1).end();
      await settled();
    }
    assert.ok(Math.max(...pauses) <= 500, String(pauses));
  });

  test("tells what the host said before it left", async () => {
    browser.host = (port) => {
      port.say({ type: "error", code: "daemon-unavailable", message: "no daemon: the disk is full", retryable: true });
      port.end({ text: "Native host has exited." });
    };
    const bridge = newBridge();
    const waiting = new Promise((resolve) => bridge.on("waiting", resolve));
    bridge.on("error", () => {});
    bridge.session("one", { url: URL });
    const { error } = await waiting;
    assert.deepEqual([error.code, error.message], ["daemon-unavailable", "no daemon: the disk is full"]);
  });

  const terminal = [
    ["host-not-found", { text: "Specified native messaging host not found." }],
    ["host-not-found", { error: "No such native application com.semantest.websocket_bridge" }],
    ["host-forbidden", { text: "Access to the specified native messaging host is forbidden." }],
    ["host-disabled", { text: "Access to the native messaging host was disabled by the system administrator." }],
    ["host-name-invalid", { text: "Invalid native messaging host name specified." }],
    ["platform-unsupported", { text: "Native Messaging is not supported on this platform." }],
  ];
  for (const [code, end] of terminal) {
    test(`is given up when the browser says "${end.text ?? end.error}", until somebody asks for it`, async () => {
      browser.host = (port) => port.end(end);
      const bridge = newBridge();
      const told = news(bridge);
      const session = bridge.session("one", { url: URL });
      const sent = session.send({ n: 1 }).catch((error) => error);
      await browser.advance(600_000);
      assert.deepEqual(events(told), ["connecting", "failed"]);
      const { details: error } = told[1];
      assert.deepEqual([error.code, error.retryable, bridge.state, bridge.error], [code, false, "failed", error]);
      assert.match(error.message, /install|Ask|Correct|cannot be used/, "it says what to do");
      assert.ok(error.message.includes(end.text ?? end.error), "it says what the browser said");
      assert.equal(await sent, error);
      assert.equal(await session.send({ n: 2 }).catch((again) => again), error);

      new HostStandIn(browser);
      bridge.connect();
      await settled();
      assert.equal(bridge.state, "ready");
    });
  }

  test("is given up without the permission, and when connectNative throws", async () => {
    browser.permissions.delete("nativeMessaging");
    browser.kill();
    const bridge = newBridge();
    bridge.session("one", { url: URL });
    await browser.advance(1);
    assert.deepEqual([bridge.state, bridge.error.code], ["failed", "permission-missing"]);
    assert.match(bridge.error.message, /"nativeMessaging".*manifest\.json/);

    browser.permissions.add("nativeMessaging");
    browser.kill();
    browser.host = () => {
      throw new Error(
        'Type error for parameter application (String "A b" must match /^\\w+(\\.\\w+)*$/) for runtime.connectNative.',
      );
    };
    const other = newBridge({ name: "A b" });
    other.session("one", { url: URL });
    await browser.advance(1);
    assert.deepEqual([other.state, other.error.code], ["failed", "host-name-invalid"]);
  });

  test("is given up when the bridge speaks another protocol", async () => {
    browser.host = (port) => {
      const error = { type: "error", code: "protocol-unsupported", message: "spoken are: 7", retryable: false };
      port.onMessage = ({ type }) => type === "hello" && port.say(error);
    };
    const bridge = newBridge();
    bridge.session("one", { url: URL });
    await browser.advance(100_000);
    assert.deepEqual([bridge.state, bridge.error.code, browser.ports.length], ["failed", "protocol-unsupported", 1]);
    assert.ok(!browser.ports[0].isOpen);
  });

  test("is left when the host says nothing", async () => {
    browser.host = () => {};
    const bridge = newBridge();
    const told = news(bridge);
    bridge.session("one", { url: URL });
    await browser.advance(30_000);
    assert.deepEqual(events(told).slice(0, 2), ["connecting", "waiting"]);
    assert.equal(told[1].details.error.code, "host-silent");
    assert.ok(!browser.ports[0].isOpen);
  });

  test("is asked for once when it is asked for often", async () => {
    const bridge = newBridge();
    bridge.connect();
    bridge.connect();
    bridge.session("one", { url: URL });
    await settled();
    bridge.connect();
    await settled();
    assert.equal(browser.ports.length, 1);
  });

  test("is closed when no session is left", async () => {
    const bridge = newBridge();
    const session = bridge.session("one", { url: URL });
    await settled();
    await session.close();
    await browser.advance(2000);
    assert.equal(bridge.state, "idle");
    assert.ok(!browser.ports[0].isOpen);
    bridge.session("one", { url: URL });
    await settled();
    assert.equal(bridge.state, "ready");
  });
});

describe("What comes", () => {
  const opened = { type: "opened", session: "one", epoch: "e", state: "connected", head: 0, acked: 0, pending: 0 };

  /** A session on a port that a test speaks for. */
  async function byHand() {
    browser.host = (port) => {
      port.onMessage = (message) => {
        if (message.type === "hello") port.say({ type: "welcome", protocol: 1 });
        if (message.type === "open") port.say({ ...opened, ref: message.ref });
      };
    };
    const bridge = newBridge();
    const session = bridge.session("one", { url: URL });
    const messages = [];
    session.on("message", (message) => void messages.push(message));
    await settled();
    return { bridge, session, messages, port: browser.ports[0] };
  }

  const message = (seq, payload) => ({ type: "message", session: "one", seq, at: 1, payload });

  const chunks = (whole, of, size) => {
    const json = JSON.stringify(whole);
    const count = Math.ceil(json.length / size);
    const data = (index) => json.slice(index * size, (index + 1) * size);
    return Array.from({ length: count }, (_, index) => ({ type: "chunk", of, index, count, data: data(index) }));
  };

  test("in pieces is put together", async () => {
    const { port, messages } = await byHand();
    port.say(...chunks(message(1, "x".repeat(1000)), "a", 100), message(2, 2));
    port.say(...chunks({ type: "batch", messages: [message(3, 3), message(4, 4)] }, "b", 7));
    await settled();
    assert.deepEqual(
      messages.map(({ payload }) => payload),
      ["x".repeat(1000), 2, 3, 4],
    );
  });

  test("in pieces that do not fit together costs the port, and nothing else", async () => {
    const { bridge, port, messages } = await byHand();
    const [first, , third] = chunks(message(1, "x".repeat(1000)), "a", 400);
    port.say(first, third, message(2, 2));
    await settled();
    assert.deepEqual([bridge.state, bridge.error.code, messages.length], ["waiting", "protocol", 0]);
    await browser.advance(1000);
    assert.equal(bridge.state, "ready");
  });

  test("for a session that nobody has, or of a kind that nobody knows, is passed over", async () => {
    const { port, messages } = await byHand();
    port.say(
      { ...message(1, 1), session: "other" },
      { type: "novelty", session: "one" },
      { type: "novelty" },
      null,
      message(1, 1),
    );
    await settled();
    assert.equal(messages.length, 1);
  });

  test("as an error of nobody's is told, and goes to the console if nobody listens", async () => {
    const { bridge, port } = await byHand();
    const console = mock.method(globalThis.console, "error", () => {});
    port.say({ type: "error", code: "damaged", message: "a file was damaged", retryable: false });
    await settled();
    assert.deepEqual(
      console.mock.calls.map(({ arguments: [error] }) => error.code),
      ["damaged"],
    );
    const errors = [];
    bridge.on("error", (error) => errors.push(error.code));
    port.say({ type: "error", code: "damaged", message: "a file was damaged", retryable: false });
    await settled();
    assert.deepEqual([errors, console.mock.callCount()], [["damaged"], 1]);
  });

  test("from a port that was left is not heard", async () => {
    const { port, messages } = await byHand();
    const late = message(1, 1);
    port.end();
    await browser.advance(1000);
    assert.equal(browser.ports.length, 2);
    port.sayNow(late);
    assert.equal(messages.length, 0);
  });
});

describe("A bridge that sleeps", () => {
  const sleep = { every: 60_000 };

  test("closes the port when there is nothing to do, and leaves no timer behind", async () => {
    const bridge = newBridge({ sleep });
    const told = news(bridge);
    const session = bridge.session("one", { url: URL });
    const messages = [];
    session.on("message", ({ payload }) => void messages.push(payload));
    host.say("one", 1, 2);
    await browser.advance(1000);
    assert.deepEqual(messages, [1, 2]);
    assert.ok(browser.ports[0].isOpen);
    await browser.advance(3000);
    assert.ok(!browser.ports[0].isOpen);
    assert.deepEqual(events(told), ["connecting", "ready", "asleep"]);
    assert.equal(browser.timers, 0);
    assert.equal(host.session("one").acked, 2);
  });

  test("is woken by an alarm, fetches what waited, and sleeps again; a stopped worker too", async () => {
    const messages = [];
    const wake = () => {
      const bridge = newBridge({ sleep });
      const session = bridge.session("one", { url: URL });
      session.on("message", ({ payload }) => void messages.push(payload));
      return bridge;
    };
    let bridge = wake();
    await browser.advance(5000);
    assert.deepEqual([...browser.alarms], [["websocket-bridge", 1]]);
    host.say("one", 1);
    browser.worker.alarm("of another's");
    await settled();
    assert.deepEqual(messages, []);
    browser.worker.alarm("websocket-bridge");
    await browser.advance(5000);
    assert.deepEqual([messages, bridge.state], [[1], "asleep"]);

    host.say("one", 2);
    browser.kill();
    bridge = wake();
    browser.worker.alarm("websocket-bridge");
    await browser.advance(5000);
    assert.deepEqual([messages, bridge.state, host.started], [[1, 2], "asleep", 3]);
  });

  test("stays awake while a handler runs, while something is to be sent, and while messages come", async () => {
    const bridge = newBridge({ sleep });
    const session = bridge.session("one", { url: URL });
    let finish;
    session.on("slow", () => new Promise((resolve) => (finish = resolve)));
    host.say("one", { type: "slow" });
    await browser.advance(20_000);
    assert.equal(bridge.state, "ready");
    finish();
    host.receipts = false;
    const sent = session.send("x");
    await browser.advance(20_000);
    assert.equal(bridge.state, "ready");
    const [{ id }] = host.session("one").sent;
    host.port.say({ type: "receipt", session: "one", stage: "stored", ids: [id] });
    await sent;
    for (let time = 0; time < 10; time += 1) {
      host.say("one", time);
      await browser.advance(1500);
    }
    assert.equal(bridge.state, "ready");
    await browser.advance(4000);
    assert.equal(bridge.state, "asleep");
  });

  test("wakes to send", async () => {
    const bridge = newBridge({ sleep });
    const session = bridge.session("one", { url: URL });
    await browser.advance(5000);
    assert.equal(bridge.state, "asleep");
    const receipt = session.send({ n: 1 });
    await browser.advance(1);
    assert.equal((await receipt).stage, "stored");
  });

  test("asks the bridge to keep the connection for longer than it sleeps", async () => {
    const bridge = newBridge({ sleep: { every: 3_600_000 } });
    bridge.session("one", { url: URL });
    bridge.session("two", { url: URL, settings: { linger_ms: 1000, reconnect: { first_ms: 500 } } });
    await settled();
    const [one, two] = browser.ports[0].of("open");
    assert.deepEqual(one.settings, { linger_ms: 86_400_000 });
    assert.deepEqual(two.settings, { linger_ms: 7_260_000, reconnect: { first_ms: 500 } });
  });

  test("says at once what it lacks", () => {
    assert.throws(() => newBridge({ sleep: { every: 1000 } }), /30000/);
    browser.permissions.delete("alarms");
    browser.kill();
    assert.throws(() => newBridge({ sleep }), { code: "permission-missing", message: /"alarms"/ });
    browser.permissions.delete("storage");
    browser.kill();
    assert.throws(() => newBridge(), { code: "permission-missing", message: /"storage"/ });
  });

  test("keeps its alarm when a page of the extension has a bridge too", () => {
    newBridge({ sleep: { every: 600_000 } });
    browser.isBackground = false;
    browser.kill();
    newBridge();
    assert.deepEqual([...browser.alarms], [["websocket-bridge", 10]]);
  });
});

describe("A worker that does not sleep", () => {
  test("is started with the browser, and by an alarm after it crashed", async () => {
    newBridge({ sleep: { every: 600_000 } });
    browser.kill(); // a later version of the extension
    const bridge = newBridge();
    assert.deepEqual([browser.startsWorker, ...browser.alarms], [true, ["websocket-bridge", 1]]);
    browser.worker.alarm("websocket-bridge");
    await settled();
    assert.equal(bridge.state, "idle", "nothing is to be done yet");
  });

  test("needs no permission for alarms", () => {
    browser.permissions.delete("alarms");
    browser.kill();
    newBridge();
    assert.equal(browser.alarms.size, 0);
  });
});

test("A bridge that does not sleep keeps the port, also when nothing happens", async () => {
  const bridge = newBridge();
  bridge.session("one", { url: URL });
  await browser.advance(3_600_000);
  assert.deepEqual([bridge.state, browser.ports.length], ["ready", 1]);
  assert.equal(browser.timers, 0);
});

test("The bridge's figures are asked for, and not to be had without a port", async () => {
  const bridge = newBridge();
  await assert.rejects(bridge.status(), { code: "unattached" });
  bridge.session("one", { url: URL });
  await settled();
  assert.deepEqual((await bridge.status()).sessions, []);
  host.deafTo.add("status");
  const status = bridge.status().catch((error) => error.code);
  await browser.advance(10_000);
  assert.equal(await status, "timeout");
});

test("A name that the bridge would not take is refused at once", () => {
  for (const name of ["", "a b", "ä", "x".repeat(65), "WebSocket.1"]) {
    assert.throws(() => newBridge().session(name), /name of a session/);
  }
});
