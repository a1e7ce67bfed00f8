// The browser's own WebSocket interface over direct mode.

import assert from "node:assert/strict";
import { beforeEach, describe, test } from "node:test";

import { Bridge } from "../bridge.js";
import { BrowserStandIn, settled } from "./browser-stand-in.js";

const URL = "ws://127.0.0.1:8080/ws";

let browser, bridge, port;

/** The bridge answers what is alike in all tests; what the server does is said by the test. */
beforeEach(() => {
  browser = new BrowserStandIn();
  browser.host = (opened) => {
    port = opened;
    port.onMessage = ({ type, session, ref }) => {
      if (type === "hello") port.say({ type: "welcome", protocol: 1 });
      if (type === "open") port.say({ type: "opened", session, ref, state: "connecting" });
    };
  };
  bridge = new Bridge({}, browser.worker.surroundings);
});

const NAME = "WebSocket.1";
const say = (message) => port.say({ session: NAME, ...message });
const posted = () => port.heard.filter(({ type }) => type !== "hello").map(({ session, ...message }) => message);

/** Every event of a socket, with what matters of it. */
function record(socket) {
  const events = [];
  const note = (event) => {
    const { type, data, code, reason, wasClean, error } = event;
    const details = { message: { data }, close: { code, reason, wasClean } }[type];
    events.push({ type, ...details, ...(error ? { error: error.code } : {}) });
  };
  for (const type of ["open", "message", "error", "close"]) socket.addEventListener(type, note);
  return events;
}

async function connected(protocols, protocol) {
  const socket = new bridge.WebSocket(URL, protocols);
  const events = record(socket);
  await settled();
  say({ type: "state", state: "connected", protocol });
  await settled();
  return { socket, events };
}

const types = (events) => events.map(({ type }) => type);

describe("A WebSocket of the bridge", () => {
  test("looks like the browser's own", () => {
    const { WebSocket } = bridge;
    assert.equal(bridge.WebSocket, WebSocket);
    const socket = new WebSocket(URL);
    assert.ok(socket instanceof WebSocket && socket instanceof EventTarget);
    assert.equal(WebSocket.name, "WebSocket");
    for (const object of [WebSocket, socket]) {
      assert.deepEqual([object.CONNECTING, object.OPEN, object.CLOSING, object.CLOSED], [0, 1, 2, 3]);
    }
    const { url, readyState, protocol, extensions, bufferedAmount, binaryType } = socket;
    assert.deepEqual([url, readyState, protocol, extensions, bufferedAmount, binaryType], [URL, 0, "", "", 0, "blob"]);
    assert.deepEqual([socket.onopen, socket.onmessage, socket.onerror, socket.onclose], [null, null, null, null]);
    assert.throws(() => WebSocket(URL), TypeError);
    socket.binaryType = "nonsense";
    assert.equal(socket.binaryType, "blob");
    assert.throws(() => (socket.url = "x"), TypeError);
  });

  test("has its members where the browser's has them, to be looked at, replaced and deleted", () => {
    const { WebSocket } = bridge;
    const { prototype } = WebSocket;
    assert.equal(Object.getPrototypeOf(WebSocket), EventTarget);
    assert.equal(Object.getPrototypeOf(prototype), EventTarget.prototype);
    const constants = ["CONNECTING", "OPEN", "CLOSING", "CLOSED"];
    const attributes = ["url", "readyState", "protocol", "extensions", "bufferedAmount", "binaryType"];
    const handlers = ["onopen", "onmessage", "onerror", "onclose"];
    const members = [...constants, ...attributes, ...handlers, "send", "close"];
    assert.deepEqual(Object.keys(prototype).toSorted(), members.toSorted());
    assert.deepEqual(Object.keys(WebSocket), constants);
    assert.deepEqual([WebSocket.length, prototype.send.length, prototype.close.length], [1, 1, 0]);
    for (const object of [WebSocket, prototype]) {
      assert.throws(() => Object.defineProperty(object, "OPEN", { get: () => 5 }), TypeError);
    }
    assert.throws(() => prototype.extensions, TypeError);
    assert.throws(() => (prototype.binaryType = "nonsense"), TypeError);
    assert.throws(() => prototype.close(7), TypeError);
    const socket = new WebSocket(URL);
    assert.equal(String(socket), "[object WebSocket]");
    Object.defineProperty(prototype, "bufferedAmount", { get: () => "replaced" });
    assert.equal(socket.bufferedAmount, "replaced");
    delete prototype.url;
    assert.equal(socket.url, undefined);
  });

  test("wants the arguments that the browser's wants", () => {
    const { WebSocket } = bridge;
    assert.throws(() => new WebSocket(), TypeError);
    assert.throws(() => new WebSocket(URL).send(), TypeError);
    assert.doesNotThrow(() => new WebSocket(URL, undefined, "one too many"));
  });

  test("takes the URLs and sub-protocols that the browser's takes", () => {
    const { WebSocket } = bridge;
    assert.equal(new WebSocket("http://127.0.0.1:1/a?b").url, "ws://127.0.0.1:1/a?b");
    assert.equal(new WebSocket("https://127.0.0.1/").url, "wss://127.0.0.1/");
    assert.equal(new WebSocket(new globalThis.URL("WS://LOCALHOST:80/é")).url, "ws://localhost/%C3%A9");
    for (const url of [
      "",
      "/path",
      "ftp://127.0.0.1/",
      "ws://127.0.0.1/#part",
      "ws://127.0.0.1/#",
      "ws://a b/",
      "mailto:a@b",
    ]) {
      assert.throws(() => new WebSocket(url), { name: "SyntaxError", constructor: DOMException }, url);
    }
    for (const protocols of ["", "a b", ["a", "a"], ["a", "A"], "é", "a,b", ["a\n"]]) {
      assert.throws(
        () => new WebSocket(URL, protocols),
        { name: "SyntaxError", constructor: DOMException },
        String(protocols),
      );
    }
  });

  test("asks for a direct connection, and is open when the server has taken it", async () => {
    const { socket, events } = await connected(["v2", "v1"], "v1");
    assert.deepEqual(posted(), [{ type: "open", mode: "direct", url: URL, protocols: ["v2", "v1"] }]);
    assert.deepEqual([socket.readyState, socket.protocol, types(events)], [1, "v1", ["open"]]);
    new bridge.WebSocket(URL, new Set(["v2", "v1"]));
    await settled();
    assert.deepEqual(posted()[1].protocols, ["v2", "v1"]);
  });

  test("gives what comes as string, blob or buffer", async () => {
    const { socket } = await connected();
    const events = [];
    socket.onmessage = (event) => events.push(event);
    say({ type: "message", text: "hällo" });
    say({ type: "message", binary: "AAH/" });
    await settled();
    socket.binaryType = "arraybuffer";
    say({ type: "message", binary: "AAH/" });
    await settled();
    const [text, blob, buffer] = events;
    assert.deepEqual([text.data, text.origin, text.type], ["hällo", "ws://127.0.0.1:8080", "message"]);
    assert.ok(blob.data instanceof Blob && buffer.data instanceof ArrayBuffer);
    assert.deepEqual(new Uint8Array(await blob.data.arrayBuffer()), Uint8Array.of(0, 1, 255));
    assert.deepEqual(new Uint8Array(buffer.data), Uint8Array.of(0, 1, 255));
  });

  test("gives each event in a task of its own, also when the bridge says many things at once", async () => {
    const { socket, events } = await connected();
    const heard = [];
    const hearAnother = async () => {
      const { data } = await new Promise((resolve) => socket.addEventListener("message", resolve, { once: true }));
      heard.push(data);
      void hearAnother();
    };
    void hearAnother();
    const messages = ["one", "two", "three"].map((text) => ({ type: "message", session: NAME, text }));
    port.say({ type: "batch", messages: [...messages, { type: "sent", session: NAME, bytes: 0 }] });
    port.end();
    await settled();
    assert.deepEqual(heard, ["one", "two", "three"]);
    assert.deepEqual(types(events), ["open", "message", "message", "message", "close"]);
  });

  test("sends strings, buffers, views and blobs, each as it was and in order", async () => {
    const { socket } = await connected();
    const bytes = Uint8Array.of(9, 1, 2, 9);
    socket.send("one");
    socket.send(bytes.subarray(1, 3));
    socket.send(new Blob([bytes]));
    socket.send(bytes.buffer);
    socket.send("behind the blob");
    socket.send(7);
    socket.send("\ud800");
    bytes.fill(0);
    await settled();
    assert.deepEqual(posted().slice(1), [
      { type: "send", text: "one" },
      { type: "send", binary: "AQI=" },
      { type: "send", binary: "CQECCQ==" },
      { type: "send", binary: "CQECCQ==" },
      { type: "send", text: "behind the blob" },
      { type: "send", text: "7" },
      { type: "send", text: "\ufffd" },
    ]);
  });

  test("counts the bytes that are not with the system yet, and those that will never be", async () => {
    const { socket } = await connected();
    socket.send("hällo");
    socket.send(new Uint8Array(4));
    socket.send(new Blob(["abc"]));
    assert.equal(socket.bufferedAmount, 13);
    say({ type: "sent", bytes: 6 });
    await settled();
    assert.equal(socket.bufferedAmount, 7);
    say({ type: "sent", bytes: 13 });
    await settled();
    assert.equal(socket.bufferedAmount, 0);
    socket.close();
    socket.send("more");
    assert.equal(socket.bufferedAmount, 4);
    assert.equal(posted().filter(({ type }) => type === "send").length, 3);
  });

  test("does not send before it is open", () => {
    const socket = new bridge.WebSocket(URL);
    assert.throws(() => socket.send("x"), { name: "InvalidStateError", constructor: DOMException });
  });

  test("closes with what was asked for, behind what was sent", async () => {
    const { socket, events } = await connected();
    socket.send(new Blob(["x"]));
    socket.close(3001, "bye");
    assert.equal(socket.readyState, 2);
    socket.close(1000);
    await settled();
    assert.deepEqual(posted().slice(1), [
      { type: "send", binary: "eA==" },
      { type: "close", code: 3001, reason: "bye" },
    ]);
    say({ type: "message", text: "late" });
    say({ type: "state", state: "disconnected" });
    say({ type: "closed", code: 3001, reason: "bye", clean: true });
    await settled();
    assert.deepEqual(events, [{ type: "open" }, { type: "close", code: 3001, reason: "bye", wasClean: true }]);
    assert.equal(socket.readyState, 3);
    socket.close();
    socket.send("nothing comes of it");
    await settled();
    assert.equal(posted().length, 3);
  });

  test("takes the codes and reasons that the browser's takes", async () => {
    const { socket } = await connected();
    for (const code of [0, 999, 1001, 1005, 2999, 5000, -1, NaN, 65536 + 1000, "x"]) {
      assert.throws(() => socket.close(code), { name: "InvalidAccessError", constructor: DOMException }, String(code));
    }
    assert.throws(() => socket.close(1000, "ä".repeat(62)), { name: "SyntaxError", constructor: DOMException });
    assert.equal(socket.readyState, 1);
    socket.close(undefined, "ä".repeat(61));
    assert.deepEqual(posted().at(-1), { type: "close", code: 1000, reason: "ä".repeat(61) });
  });

  test("without a code closes without one", async () => {
    const { socket } = await connected();
    socket.close();
    assert.deepEqual(posted().at(-1), { type: "close" });
  });

  test("that is closed while it connects fails", async () => {
    const early = new bridge.WebSocket(URL);
    const events = record(early);
    early.close();
    assert.deepEqual([early.readyState, events], [2, []]);
    await settled();
    assert.deepEqual([early.readyState, types(events)], [3, ["error", "close"]]);
    assert.deepEqual([events[1].code, events[1].wasClean], [1006, false]);

    const late = new bridge.WebSocket(URL);
    const lateEvents = record(late);
    await settled();
    late.close();
    port.say({ type: "closed", session: "WebSocket.2", code: 1006, reason: "", clean: false });
    await settled();
    assert.deepEqual(types(lateEvents), ["error", "close"]);
    const told = port.heard
      .filter(({ session }) => session !== undefined)
      .map(({ type, session }) => `${type} ${session}`);
    assert.deepEqual(told, ["open WebSocket.2", "close WebSocket.2"]);
  });

  test("that the server closes tells its code", async () => {
    const { socket, events } = await connected();
    say({ type: "state", state: "disconnected", reason: { code: "closed", message: "x", retryable: true } });
    await settled();
    assert.equal(socket.readyState, 2);
    say({ type: "closed", code: 4001, reason: "expired", clean: true });
    await settled();
    assert.deepEqual(events.slice(1), [{ type: "close", code: 4001, reason: "expired", wasClean: true }]);
  });

  test("that cannot connect says why in its error", async () => {
    const socket = new bridge.WebSocket(URL);
    const events = record(socket);
    await settled();
    say({
      type: "state",
      state: "disconnected",
      reason: { code: "refused", message: "nothing listens there", retryable: true },
    });
    say({ type: "closed", code: 1006, reason: "", clean: false });
    await settled();
    assert.deepEqual(events, [
      { type: "error", error: "refused" },
      { type: "close", code: 1006, reason: "", wasClean: false, error: "refused" },
    ]);
  });

  test("tells of an error when this side gives the connection up, not when it is lost", async () => {
    for (const [code, isError] of [
      ["reset", false],
      ["network", false],
      ["protocol", true],
      ["message-too-large", true],
    ]) {
      bridge = new Bridge({}, browser.kill().surroundings);
      const { events } = await connected();
      say({ type: "state", state: "disconnected", reason: { code, message: "x", retryable: true } });
      say({ type: "closed", code: 1006, reason: "", clean: false });
      await settled();
      const close = { type: "close", code: 1006, reason: "", wasClean: false, error: code };
      assert.deepEqual(events.slice(1), isError ? [{ type: "error", error: code }, close] : [close]);
    }
  });

  test("that the bridge does not allow fails, and says why", async () => {
    const socket = new bridge.WebSocket("ws://192.0.2.1/");
    const events = record(socket);
    await settled();
    say({ type: "error", code: "server-not-allowed", message: "add to config.toml …", retryable: false });
    await settled();
    assert.deepEqual(
      [socket.readyState, events[0].error, types(events)],
      [3, "server-not-allowed", ["error", "close"]],
    );
  });

  test("ends with the port, and another one connects through the next", async () => {
    const { socket, events } = await connected();
    port.end();
    await settled();
    const close = { type: "close", code: 1006, reason: "", wasClean: false, error: "port-ended" };
    assert.deepEqual([socket.readyState, events], [3, [{ type: "open" }, close]]);
    const other = new bridge.WebSocket(URL);
    await browser.advance(1000);
    port.say({ type: "state", session: "WebSocket.2", state: "connected" });
    await settled();
    assert.equal(other.readyState, 1);
  });

  test("fails where there is no bridge, and at once when that is known", async () => {
    browser.host = (opened) => opened.end({ text: "Specified native messaging host not found." });
    for (let time = 0; time < 2; time += 1) {
      const socket = new bridge.WebSocket(URL);
      const events = record(socket);
      await browser.advance(1);
      assert.deepEqual([events[0].error, types(events)], ["host-not-found", ["error", "close"]]);
    }
  });

  test("fails when the browser does not take a message, rather than to go on with a hole", async () => {
    const { socket, events } = await connected();
    port.limit = 1000;
    socket.send(new Blob(["x".repeat(2000)]));
    socket.send("behind it");
    await settled();
    assert.deepEqual([types(events), events[1].error, events[2].code], [["open", "error", "close"], "too-large", 1006]);
    assert.deepEqual(posted().slice(1), [{ type: "detach" }]);
  });

  test("calls its handlers like an element: one of a kind, in its place, with itself as this", async () => {
    const socket = new bridge.WebSocket(URL);
    const log = [];
    socket.onopen = () => log.push("never");
    socket.addEventListener("open", () => log.push("listener"));
    socket.onopen = function () {
      log.push(this === socket);
    };
    assert.equal(typeof socket.onopen, "function");
    socket.onclose = () => log.push("never");
    socket.onclose = null;
    assert.equal(socket.onclose, null);
    const object = { handleEvent: () => log.push("never") };
    socket.onclose = object;
    assert.equal(socket.onclose, object);
    await settled();
    say({ type: "state", state: "connected" });
    say({ type: "closed", code: 1000, reason: "", clean: true });
    await settled();
    assert.deepEqual(log, [true, "listener"]);
  });

  test("keeps a sleeping bridge awake while it lives", async () => {
    bridge = new Bridge({ sleep: { every: 30_000 } }, browser.kill().surroundings);
    await connected();
    await browser.advance(60_000);
    assert.equal(bridge.state, "ready");
    say({ type: "closed", code: 1000, reason: "", clean: true });
    await browser.advance(5000);
    assert.equal(bridge.state, "idle");
  });
});
