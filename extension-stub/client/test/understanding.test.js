// Whether the library and the real bridge mean the same by what they say: one conversation of each kind.

import assert from "node:assert/strict";
import { after, before, beforeEach, describe, test } from "node:test";

import { Bridge } from "../bridge.js";
import { Installation, until } from "./installation.js";

describe("Before the real bridge", { timeout: 60_000 }, () => {
  let installation, bridge, worker;
  before(async () => (installation = await Installation.start()));
  after(() => installation.end());
  beforeEach(() => {
    worker?.die("close");
    worker = installation.worker();
    bridge = new Bridge({}, worker.surroundings);
  });

  /** A session of its own that is connected, and what its handlers got. */
  async function connected(name, options) {
    const session = bridge.session(name, { url: installation.url, ...options });
    const got = [];
    session.on("message", (message) => void got.push(message));
    session.on("error", (error) => got.push(error));
    await until("a connection", () => session.state === "connected");
    await until("the server's welcome", () => got.length === 1);
    return { session, got };
  }

  test("text, binary and JSON pass both ways, also if they are large", async () => {
    const { session, got } = await connected("contents");
    const large = "ä😀\u0000\n".repeat(700_000);
    const stages = await Promise.all([
      session.sendText("no JSON: {", { until: "received" }),
      session.sendBinary(Uint8Array.of(0, 1, 255), { until: "stored" }),
      session.sendText(large, { keep: false }),
      session.send([1, { two: null }], { until: "posted" }),
    ]);
    assert.ok(["received", "acknowledged"].includes(stages[0].stage), stages[0].stage);
    await until("four echoes", () => got.length === 5);
    const [, text, binary, long, json] = got;
    assert.equal(text.text, "no JSON: {");
    assert.deepEqual(binary.binary, Uint8Array.of(0, 1, 255));
    assert.ok(long.text === large, "byte for byte");
    assert.deepEqual(json.payload, [1, { two: null }]);
    assert.deepEqual(
      got.slice(1).map(({ seq, replay }) => [seq, replay]),
      [2, 3, 4, 5].map((seq) => [seq, false]),
    );
  });

  test("what was handled is acknowledged, and the figures show it", async () => {
    const { session } = await connected("figures");
    await until("the acknowledgement", async () => (await session.status()).consumers[0].acked === 1);
    const { sessions } = await bridge.status();
    assert.ok(sessions.some(({ session: name }) => name === "figures"));
  });

  test("subscriptions are taken, and their ends", async () => {
    const { session, got } = await connected("subscriptions");
    session.subscribe("ping", { type: "ping" });
    await until("the answer", () => got.at(-1).payload?.type === "pong");
    assert.equal((await session.status()).outbox.subscriptions, 1);
    session.unsubscribe("ping", { type: "ping" });
    await until("the end", async () => (await session.status()).outbox.subscriptions === 0);
  });

  test("a session that is closed is disconnected, and one that is forgotten begins anew", async () => {
    const first = await connected("closed");
    await first.session.close();
    const second = bridge.session("closed", { connect: false });
    await until("its state", () => second.state === "disconnected");
    await second.close({ forget: true });
    const third = await connected("closed");
    assert.deepEqual([third.got[0].seq, third.got[0].epoch === first.got[0].epoch], [1, false]);
  });

  test("a session that belongs to another server can be forgotten, and begins anew with this one", async () => {
    const former = await connected("moved");
    worker.die("close");
    bridge = new Bridge({}, installation.worker().surroundings);
    const url = installation.url.replace("127.0.0.1", "localhost");
    const session = bridge.session("moved", { url });
    const error = await new Promise((resolve) => session.on("error", resolve));
    assert.deepEqual([error.code, session.state], ["url-differs", "refused"]);
    await session.close({ forget: true });
    const { got } = await connected("moved", { url });
    assert.notEqual(got[0].epoch, former.got[0].epoch);
  });

  test("a server that is not allowed is refused, with the line to add", async () => {
    const session = bridge.session("elsewhere", { url: "wss://example.org/" });
    const error = await new Promise((resolve) => session.on("error", resolve));
    assert.deepEqual([error.code, session.state], ["server-not-allowed", "refused"]);
    assert.match(error.message, /config\.toml/);
    await session.close({ forget: true });
    await connected("elsewhere");
  });

  test("another context that reads for the same consumer takes over", async () => {
    const { session } = await connected("shared");
    const other = new Bridge({}, installation.worker().surroundings);
    const reader = other.session("shared");
    await until("the other to read", () => reader.state === "connected");
    await until("the first to stop", () => session.state === "superseded");
  });

  test("a WebSocket is one", async () => {
    const socket = new bridge.WebSocket(installation.url, ["v2", "v1"]);
    socket.binaryType = "arraybuffer";
    const data = [];
    socket.onmessage = (event) => data.push(event.data);
    await new Promise((resolve) => (socket.onopen = resolve));
    assert.equal(socket.protocol, "v2");
    socket.send("hällo");
    socket.send(new Blob([Uint8Array.of(7)]));
    const large = "x".repeat(3_000_000);
    socket.send(large);
    assert.equal(socket.bufferedAmount, 3_000_007);
    await until("three echoes", () => data.length === 4);
    assert.deepEqual([data[1], new Uint8Array(data[2])], ["hällo", Uint8Array.of(7)]);
    assert.ok(data[3] === large);
    await until("all to be sent", () => socket.bufferedAmount === 0);
    const closed = new Promise((resolve) => (socket.onclose = resolve));
    socket.close(3001, "bye");
    const { code, reason, wasClean } = await closed;
    assert.deepEqual([code, reason, wasClean, socket.readyState], [3001, "bye", true, 3]);
  });

  test("a WebSocket to nobody fails, and says why", async () => {
    for (const url of ["ws://127.0.0.1:1/", "wss://example.org/"]) {
      const socket = new bridge.WebSocket(url);
      const [failed, closed] = [
        new Promise((resolve) => (socket.onerror = resolve)),
        new Promise((resolve) => (socket.onclose = resolve)),
      ];
      const { error } = await failed;
      assert.ok(["refused", "server-not-allowed"].includes(error.code), error.code);
      assert.equal((await closed).code, 1006);
    }
  });
});
