// What goes to the server: kept before it is posted, posted until the bridge has it, and told how it ends.

import assert from "node:assert/strict";
import { beforeEach, describe, mock, test } from "node:test";

import { Bridge } from "../bridge.js";
import { BrowserStandIn, settled } from "./browser-stand-in.js";
import { HostStandIn } from "./host-stand-in.js";

const URL = "ws://127.0.0.1:8080/ws";
const UNSENT = "websocket-bridge/unsent/durable/one/main";

let browser, host;

beforeEach(() => {
  mock.restoreAll();
  browser = new BrowserStandIn();
  host = new HostStandIn(browser);
});

function start(options = {}) {
  const bridge = new Bridge({}, browser.worker.surroundings);
  const session = bridge.session("one", { url: URL, ...options });
  const errors = [];
  session.on("error", (error) => errors.push(error));
  return { bridge, session, errors };
}

const sent = () => host.session("one").sent.map(({ payload }) => payload);
const unsent = () => browser.local.keys.filter((key) => key.startsWith(UNSENT));
const receipt = (stage, ids, reason) => host.port.say({ type: "receipt", session: "one", stage, ids, reason });

/** A promise that may reject before anybody looks. */
function watched(promise) {
  promise.catch(() => {});
  return promise;
}

/** What became of a promise, as something to compare. */
async function outcome(promise) {
  let result = "pending";
  promise.then(
    (value) => (result = value),
    (error) => (result = error),
  );
  await settled();
  return result;
}

describe("A message", () => {
  test("is kept before it is posted, and no longer than until the bridge has it", async () => {
    const { session } = start();
    await settled();
    browser.local.delay = 50;
    const promise = session.send({ n: 1 });
    await browser.advance(49);
    assert.deepEqual([unsent(), sent()], [[], []]);
    host.receipts = false;
    await browser.advance(1);
    assert.deepEqual([unsent(), sent()], [[`${UNSENT}/1`, UNSENT], [{ n: 1 }]]);
    const [{ id }] = host.session("one").sent;
    receipt("stored", [id]);
    await browser.advance(100);
    assert.deepEqual([unsent(), await outcome(promise)], [[], { id, stage: "stored" }]);
  });

  test("is kept before it is posted, also if one behind it need not be", async () => {
    const { session } = start();
    await settled();
    browser.local.delay = 50;
    void session.send("a");
    void session.send("b", { keep: false });
    await browser.advance(49);
    assert.deepEqual(sent(), []);
    await browser.advance(1);
    assert.deepEqual(sent(), ["a", "b"]);
  });

  test("is posted as what it is, with what was asked for", async () => {
    const { session } = start();
    void session.send({ big: 1 }, { id: "mine", ttl: 5000, resend: false });
    void session.sendText("text");
    void session.sendBinary(Uint8Array.of(0, 255).buffer);
    void session.sendBinary(Uint8Array.of(9, 1, 2, 9).subarray(1, 3));
    void session.send(null);
    await settled();
    const [first, ...others] = browser.ports[0].of("send").map(({ type, ref, session: name, ...rest }) => rest);
    assert.deepEqual(first, { id: "mine", payload: { big: 1 }, ttl_ms: 5000, resend: false });
    assert.deepEqual(
      others.map(({ id, ...content }) => content),
      [{ text: "text" }, { binary: "AP8=" }, { binary: "AQI=" }, { payload: null }],
    );
    assert.equal(new Set(others.map(({ id }) => id)).size, 4);
  });

  test("is what it was when it was sent, whatever the caller does with it", async () => {
    const { session } = start();
    const payload = { n: 1 };
    void session.send(payload);
    payload.n = 2;
    await settled();
    assert.deepEqual(sent(), [{ n: 1 }]);
  });

  test("that cannot be JSON is refused at once", async () => {
    const { session } = start();
    const circle = {};
    circle.circle = circle;
    for (const payload of [undefined, () => {}, 1n, circle]) await assert.rejects(session.send(payload), TypeError);
    await assert.rejects(session.send(1, { until: "soon" }), TypeError);
    await settled();
    assert.deepEqual([sent(), unsent()], [[], []]);
  });

  test("keeps its place among the others", async () => {
    const { session } = start();
    for (let n = 1; n <= 30; n += 1) {
      void session.send(n, n % 3 === 0 ? { keep: false } : {}); // which need not wait for the storage
      if (n === 10) await settled();
      if (n === 20) browser.local.delay = 20;
      if (n > 20) await browser.advance(3);
    }
    await browser.advance(1000);
    assert.equal(browser.local.mostAtOnce, 1);
    assert.deepEqual(
      sent(),
      Array.from({ length: 30 }, (_, index) => index + 1),
    );
  });

  test("that the browser does not take ends with that, and those behind it go on", async () => {
    const { session } = start();
    await settled();
    browser.ports[0].limit = 1000;
    const large = session.send("x".repeat(1000));
    const small = session.send("small");
    const error = await outcome(large);
    assert.deepEqual([error.code, error.retryable], ["too-large", false]);
    assert.equal((await outcome(small)).stage, "stored");
    assert.deepEqual([sent(), unsent()], [["small"], []]);
  });
});

describe("The promise", () => {
  test("waits for the stage that was asked for, and a later one stands for it", async () => {
    host.receipts = false;
    const { session } = start();
    const [posted, stored, received, quick] = ["posted", "stored", "received", "stored"].map((until, index) =>
      session.send(index, { until, id: `m${index}` }),
    );
    assert.deepEqual(await outcome(posted), { id: "m0", stage: "posted" });
    assert.equal(await outcome(stored), "pending");
    receipt("stored", ["m1", "m2"]);
    assert.deepEqual(await outcome(stored), { id: "m1", stage: "stored" });
    assert.equal(await outcome(received), "pending");
    receipt("received", ["m2", "m3"]);
    assert.deepEqual(await outcome(received), { id: "m2", stage: "received" });
    assert.deepEqual(await outcome(quick), { id: "m3", stage: "received" });
  });

  test("of a message whose worker still lives is kept when the receipt comes through another port", async () => {
    const { session } = start();
    const received = session.send("x", { until: "received", id: "m" });
    await settled();
    browser.ports[0].end();
    await browser.advance(1000);
    assert.equal(host.port.of("send").length, 0, "it is stored: the bridge has it");
    receipt("received", ["m"]);
    assert.deepEqual(await outcome(received), { id: "m", stage: "received" });
  });

  for (const [stage, reason, code, retryable] of [
    ["expired", undefined, "expired", false],
    ["refused", "full", "full", true],
    ["refused", "disk", "disk", true],
    ["refused", "unknown-delivery", "unknown-delivery", false],
  ]) {
    test(`rejects when the message is ${stage} ${reason ?? ""}`, async () => {
      host.receipts = false;
      const { session } = start();
      const receipts = [];
      session.on("receipt", (told) => receipts.push(told));
      const promise = session.send("x", { id: "m" });
      await settled();
      receipt(stage, ["m"], reason);
      const error = await outcome(promise);
      assert.deepEqual([error.code, error.retryable, error.id], [code, retryable, "m"]);
      assert.deepEqual([receipts[0].stage, unsent()], [stage, []]);
    });
  }

  test("rejects with the bridge's error about the message, and not with others", async () => {
    host.receipts = false;
    const { session, errors } = start();
    const promise = session.send("x");
    await settled();
    const [{ ref }] = host.port.of("send");
    host.port.say({
      type: "error",
      code: "daemon-unavailable",
      message: "later",
      session: "one",
      ref,
      retryable: true,
    });
    assert.equal(await outcome(promise), "pending");
    host.port.say({
      type: "error",
      code: "invalid-message",
      message: "nested too deeply",
      session: "one",
      ref,
      retryable: false,
    });
    assert.deepEqual((await outcome(promise)).code, "invalid-message");
    assert.deepEqual([errors.length, unsent()], [2, []]);
  });

  test("rejects when there is nothing that could be stored", async () => {
    const { session } = start({ mode: "memory" });
    await assert.rejects(session.send("x", { until: "stored" }), { code: "not-durable" });
    host.receipts = false;
    const promise = session.send("x", { id: "m" });
    await settled();
    receipt("received", ["m"]);
    assert.deepEqual(await outcome(promise), { id: "m", stage: "received" });
  });

  test("rejects when the copy cannot be written, and the message is not sent", async () => {
    const { session } = start();
    await settled();
    browser.local.failures.set = 1;
    const error = await outcome(session.send("x"));
    assert.deepEqual([error.code, error.retryable], ["storage-failed", true]);
    assert.equal((await outcome(session.send("y"))).stage, "stored");
    assert.deepEqual([sent(), unsent()], [["y"], []]);
  });

  test("rejects in time, and takes back what was not posted", async () => {
    browser.host = () => {};
    const { session } = start();
    const promise = session.send("x", { timeout: 1000 });
    await browser.advance(999);
    assert.equal(await outcome(promise), "pending");
    await browser.advance(1);
    const error = await outcome(promise);
    assert.deepEqual([error.code, error.retryable, unsent()], ["timeout", true, []]);
    assert.match(error.message, /will not be sent/);
    host = new HostStandIn(browser);
    await browser.advance(60_000);
    assert.deepEqual(sent(), []);
  });

  test("rejects in time, and says that a message that was posted may arrive", async () => {
    host.receipts = false;
    const { session } = start();
    const promise = watched(session.send("x", { timeout: 1000 }));
    await browser.advance(1000);
    assert.match((await outcome(promise)).message, /may still arrive/);
    assert.equal(unsent().length, 2, "it is still looked after");
  });

  test("rejects with the signal's reason", async () => {
    const { session } = start();
    host.receipts = false;
    const controller = new AbortController();
    const promise = session.send("x", { signal: controller.signal });
    controller.abort("enough");
    assert.equal(await outcome(promise), "enough");
    assert.equal(await outcome(session.send("y", { signal: controller.signal })), "enough");
    assert.deepEqual([sent(), unsent()], [[], []]);
  });

  test("of a repeated id is that of the message", async () => {
    host.receipts = false;
    const { session } = start();
    const [one, two] = [session.send("x", { id: "m" }), session.send("x", { id: "m", until: "received" })];
    await settled();
    assert.equal(host.port.of("send").length, 1);
    receipt("stored", ["m"]);
    assert.equal((await outcome(one)).stage, "stored");
    assert.equal((await outcome(session.send("x", { id: "m" }))).stage, "stored");
    receipt("received", ["m"]);
    assert.equal((await outcome(two)).stage, "received");
  });

  test("rejects when the bridge lost what it had stored", async () => {
    const { session } = start();
    const promise = watched(session.send("x", { until: "received" }));
    await settled();
    browser.ports[0].end();
    host.session("one").forget();
    await browser.advance(1000);
    assert.equal((await outcome(promise)).code, "epoch");
  });
});

describe("What the bridge does not have yet", () => {
  test("is posted again under the same id through every port, in order", async () => {
    host.receipts = false;
    const { session } = start();
    void session.send("a");
    void session.send("b");
    await settled();
    browser.ports[0].end();
    void session.send("c");
    await browser.advance(1000);
    const ids = (port) => port.of("send").map(({ id, payload }) => `${payload} ${id}`);
    assert.deepEqual(ids(browser.ports[1]).slice(0, 2), ids(browser.ports[0]));
    assert.deepEqual(sent(), ["a", "b", "c"]);
  });

  test("is posted by the next worker, before what that one sends", async () => {
    host.deafTo.add("send");
    const { session } = start();
    void session.send("a", { id: "A", ttl: 60_000, resend: false });
    void session.sendText("b", { ttl: 1000 });
    await settled();
    browser.kill();
    host.deafTo.clear();
    browser.now += 45_000;
    const next = start();
    const promise = next.session.send("c");
    const again = next.session.send("a", { id: "A" });
    await settled();
    assert.deepEqual(
      host.session("one").sent.map(({ payload, text }) => payload ?? text),
      ["a", "b", "c"],
    );
    const [a, b] = host.session("one").sent;
    assert.deepEqual([a.ttl_ms, a.resend, b.ttl_ms, b.resend], [15_000, false, 1, undefined]);
    assert.deepEqual(
      [(await outcome(promise)).stage, (await outcome(again)).stage, unsent()],
      ["stored", "stored", []],
    );
  });

  test("is not taken back by the next worker, because it may have been posted", async () => {
    host.deafTo.add("send");
    const { session } = start();
    void session.send("a", { id: "A" });
    await settled();
    browser.kill();
    browser.host = () => {};
    const promise = watched(start().session.send("a", { id: "A", timeout: 1000 }));
    await browser.advance(1000);
    assert.match((await outcome(promise)).message, /may still arrive/);
    assert.equal(unsent().length, 2);
  });

  test("takes no more room than it needs, however long there is something", async () => {
    const { session } = start();
    for (let n = 0; n < 100; n += 1) {
      void session.send(n);
      if (n % 10 === 5) await settled();
    }
    await settled();
    host.receipts = false;
    void session.send("the last");
    await settled();
    assert.deepEqual([unsent().length, browser.local.value(UNSENT)], [2, { first: 101, next: 102 }]);
  });

  test("is posted again when another daemon has lost it", async () => {
    host.receipts = false;
    const { session } = start({ mode: "memory" });
    void session.send("a");
    await settled();
    host.session("one").forget();
    host.port.say({ type: "opened", ...host.session("one").opened });
    await settled();
    assert.deepEqual(sent(), ["a"]);
  });

  test("is not flooding the browser: a thousand are under way at most", async () => {
    host.receipts = false;
    const { session } = start();
    for (let n = 0; n < 1500; n += 1) void session.send(n, { id: String(n) });
    await settled();
    assert.equal(host.port.of("send").length, 1000);
    receipt(
      "stored",
      Array.from({ length: 200 }, (_, n) => String(n)),
    );
    await settled();
    assert.equal(host.port.of("send").length, 1200);
    browser.ports[0].end();
    await browser.advance(1000);
    assert.equal(host.port.of("send").length, 1000);
    assert.equal(host.port.of("send")[0].payload, 200);
  });

  test("may be ten thousand messages and four million characters, and no more", async () => {
    browser.host = () => {};
    const { session } = start();
    const full = await outcome(session.send("x".repeat(5_000_000)));
    assert.deepEqual([full.code, full.retryable], ["unsent-full", true]);
    assert.match(full.message, /keep: false/);
    assert.equal(await outcome(session.send("x".repeat(5_000_000), { keep: false })), "pending");
    for (let n = 1; n < 10_000; n += 1) session.send(n, { keep: false }).catch(() => {});
    assert.equal((await outcome(session.send("one more", { keep: false }))).code, "unsent-full");
  });

  test("stays when a list in the storage is damaged", async () => {
    browser.local.items.set(UNSENT, JSON.stringify({ first: 1, next: 1e15 }));
    browser.local.items.set(`${UNSENT}/3`, JSON.stringify({ id: "m", content: { payload: "found" } }));
    browser.local.items.set(`${UNSENT}/4`, JSON.stringify("nonsense"));
    start();
    await settled();
    assert.deepEqual(sent(), ["found"]);
  });
});

describe("Subscriptions", () => {
  test("are posted on every port, and ends of them once", async () => {
    const { session } = start();
    session.subscribe("a", { type: "subscribe", to: "a" });
    session.subscribe("b", { to: "b" });
    await settled();
    session.subscribe("c", { to: "c" });
    session.unsubscribe("b", { not: "b" });
    await settled();
    const said = (port) =>
      port.heard.filter(({ type }) => /subscribe/.test(type)).map(({ type, key }) => `${type} ${key}`);
    assert.deepEqual(said(browser.ports[0]), ["subscribe a", "subscribe b", "subscribe c", "unsubscribe b"]);
    assert.deepEqual(browser.ports[0].of("subscribe")[0].payload, { type: "subscribe", to: "a" });
    browser.ports[0].end();
    await settled();
    session.unsubscribe("a", { not: "a" });
    await browser.advance(1000);
    assert.deepEqual(said(browser.ports[1]), ["unsubscribe a", "subscribe c"]);
    browser.ports[1].end();
    await browser.advance(1000);
    assert.deepEqual(said(browser.ports[2]), ["subscribe c"]);
  });
});

describe("A credential", () => {
  test("is what the handler gives that is asked, on the port that asks", async () => {
    const { session } = start();
    const reasons = [];
    session.on("token-needed", async ({ reason }) => {
      reasons.push(reason);
      return reason === "missing" ? "first" : { token: "second", expiresAt: 17 };
    });
    await settled();
    const tokens = (port) => port.of("token").map(({ token, expires_at }) => [token, expires_at]);
    browser.ports[0].say({ type: "token-needed", session: session.name, reason: "missing" });
    await settled();
    browser.ports[0].say({ type: "token-needed", session: session.name, reason: "refused" });
    await settled();
    assert.deepEqual(reasons, ["missing", "refused"]);
    assert.deepEqual(tokens(browser.ports[0]), [
      ["first", undefined],
      ["second", 17],
    ]);
    browser.ports[0].end();
    await browser.advance(1000);
    assert.deepEqual(tokens(browser.ports[1]), [], "the bridge has it, or asks");
  });

  test("that is given before there is a port is posted once, before the subscriptions", async () => {
    const { session } = start();
    session.token("early");
    session.subscribe("a");
    await settled();
    const [port] = browser.ports;
    const posted = port.heard.filter(({ type }) => ["token", "subscribe"].includes(type));
    assert.deepEqual(
      posted.map(({ type, token, key }) => [type, token ?? key]),
      [
        ["token", "early"],
        ["subscribe", "a"],
      ],
    );
    assert.equal("payload" in posted[1], false, "what is sent is the dialect's affair");
  });

  test("that cannot be had is an error of the handler's, told and no more", async () => {
    const { session } = start();
    const errors = [];
    session.on("error", (error) => errors.push(error));
    session.on("token-needed", () => Promise.reject(new Error("no network")));
    await settled();
    browser.ports[0].say({ type: "token-needed", session: session.name, reason: "missing" });
    await settled();
    assert.deepEqual(
      errors.map(({ code }) => code),
      ["handler-failed"],
    );
    assert.match(errors[0].message, /no network/);
    assert.deepEqual(browser.ports[0].of("token"), []);
  });
});

describe("A session that is closed", () => {
  test("is closed in the bridge, and rejects what waits", async () => {
    host.receipts = false;
    const { session, bridge } = start();
    const promise = watched(session.send("x"));
    await settled();
    const closed = session.close();
    assert.equal(await outcome(closed), undefined);
    assert.deepEqual([(await outcome(promise)).code, session.state], ["closed", "closed"]);
    assert.equal(host.session("one").state, "disconnected");
    await assert.rejects(session.send("y"), { code: "closed" });
    assert.equal(unsent().length, 2, "it is posted when the session is opened again");
    host.receipts = true;
    assert.notEqual(bridge.session("one", { url: URL }), session);
    await settled();
    assert.deepEqual(unsent(), []);
  });

  test("without a port is closed through the next one, and does not connect for that", async () => {
    const { session } = start();
    let handled = 0;
    session.on("message", () => void (handled += 1));
    browser.host = (port) => port.end();
    await browser.advance(10);
    const promise = session.close({ forget: true });
    assert.equal(await outcome(promise), "pending");
    host = new HostStandIn(browser);
    host.say("one", "never handled");
    await browser.advance(1000);
    assert.equal(await outcome(promise), undefined);
    assert.deepEqual([host.port.of("open")[0].connect, host.port.of("close")[0].forget], [false, true]);
    assert.deepEqual([host.session("one").epoch, handled], ["epoch-2", 0]);
  });

  test("and forgotten leaves nothing behind", async () => {
    const { session } = start();
    let gaps = 0;
    await settled();
    host.say("one", "a");
    await settled();
    host.receipts = false;
    const promise = session.send("x").catch((error) => error.code);
    await settled();
    await session.close({ forget: true });
    assert.equal(await promise, "closed");
    assert.deepEqual(browser.local.keys, ["websocket-bridge/profile"]);
    browser.kill();
    start().session.on("gap", () => (gaps += 1));
    await settled();
    assert.equal(gaps, 0);
  });

  test("and forgotten while a handler runs leaves no mark of it", async () => {
    for (const delay of [0, 100]) {
      const { session } = start();
      browser.local.delay = 0;
      let finish;
      session.on("message", () => delay === 0 && new Promise((resolve) => (finish = resolve)));
      await settled();
      browser.local.delay = delay; // either the handler or the write of its mark is under way
      host.say("one", "a");
      await settled();
      const closed = session.close({ forget: true });
      await browser.advance(50);
      finish?.();
      await browser.advance(1000);
      await closed;
      assert.deepEqual(browser.local.keys, ["websocket-bridge/profile"]);
      browser.local.delay = 0;
      browser.kill();
    }
  });

  test("and forgotten has nothing left for another server when the bridge is told", async () => {
    const { session } = start();
    await settled();
    host.receipts = false;
    session.send("for this server alone").catch(() => {});
    await settled();
    browser.local.delay = 10;
    session.close({ forget: true }).catch(() => {});
    await settled();
    assert.deepEqual(host.port.of("close"), []);
    await browser.advance(20);
    assert.deepEqual([host.port.of("close").length, browser.local.keys], [1, ["websocket-bridge/profile"]]);
  });

  test("is closed again through the same port if the bridge does not answer", async () => {
    const { session } = start();
    await settled();
    host.deafTo.add("close").add("status");
    const promise = session.close();
    await settled();
    host.deafTo.clear();
    await browser.advance(15_000);
    assert.equal(await outcome(promise), undefined);
    assert.deepEqual([host.session("one").state, browser.ports.length], ["disconnected", 1]);
  });

  test("while it was being opened for a server that it does not belong to is closed all the same", async () => {
    const { session, errors } = start();
    host.deafTo.add("open");
    await settled();
    const { ref } = browser.ports[0].of("open")[0];
    host.deafTo.clear();
    const promise = session.close({ forget: true });
    host.port.say({ type: "error", session: "one", ref, code: "url-differs", message: "another", retryable: false });
    await browser.advance(1000);
    assert.equal(await outcome(promise), undefined);
    assert.deepEqual(
      browser.ports[0].of("open").map(({ url }) => url),
      [URL, undefined],
    );
    assert.deepEqual([session.state, errors ?? []], ["closed", []]);
  });

  test("before its storage was read is opened once for that", async () => {
    browser.local.delay = 50;
    const { session } = start();
    await settled();
    const closed = session.close();
    await browser.advance(1000);
    assert.equal(await outcome(closed), undefined);
    assert.deepEqual([host.port.of("open").length, host.port.of("close").length], [1, 1]);
  });

  test("is closed again through the next port if the first one ended too early", async () => {
    const { session } = start();
    await settled();
    host.deafTo.add("close").add("status");
    const promise = session.close();
    await settled();
    browser.ports[0].end();
    host.deafTo.clear();
    await browser.advance(1000);
    assert.equal(await outcome(promise), undefined);
    assert.equal(host.session("one").state, "disconnected");
  });
});
