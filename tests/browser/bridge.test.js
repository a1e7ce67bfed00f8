// The bridge in real browsers: what an extension sees of it, what outlives whom, and that nothing gets lost on the way.
// The far ends are this process's own: a WebSocket server, and an extension that reports what it sees and does what it
// is told.
//
// Run with `npm ci && node --test`. Needs /usr/bin/chromium and /usr/bin/firefox-esr (or CHROMIUM, FIREFOX) and a build
// of the bridge: the one that WEBSOCKET_BRIDGE_BIN names, else the newest of this tree. Linux only.

import assert from "node:assert/strict";
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";

import { Chromium } from "./chromium.js";
import { Extension } from "./extension.js";
import { Firefox } from "./firefox.js";
import { Installation } from "./installation.js";
import { descriptors, end } from "./processes.js";
import { Server } from "./server.js";

/** JSON that does not survive a parser, JSON that is special, and text that is none. */
const TEXTS = [
  '{"n":12345678901234567890,"a":1,"a":2,"s":"\\u0000\\ud83d\\ude00"}',
  '{"2":0, "1":1.0e2,\t"__proto__":null, "half":"\\ud83d"}',
  '"\\u2028 and \u2028, \\/ and /"',
  "null",
  "no JSON: {",
  "a\u0000b 😀\r\n",
  "",
];

const PAYLOADS = [
  { b: [1, 2.5, 1e21, null], a: '\u0000 "\\" \ud83d 😀' },
  JSON.parse("[".repeat(500) + "]".repeat(500)),
  {},
  [],
  "text",
  0,
  false,
  null,
];

/** What must not be passed on as a payload: Firefox ends a port that brings it, Chromium drops the message. */
const NO_JSON = ["no JSON", "", " ", "[1,]", "01", "NaN", '"a\tb"', '{"a":1', "'a'"];

/** A host leaves when its port closes. One that does not is killed, by Chromium after 2 s and by Firefox after 6. */
const HOST_LEAVES_MS = 1500;

for (const Browser of [Chromium, Firefox]) {
  describe(`In ${Browser.title}`, { timeout: 180_000 }, () => {
    let installation, server, extension, browser, untouched;

    const start = async (environment = {}) => {
      const { profile, extension: directory, log } = installation;
      environment = { ...installation.environment, ...environment };
      browser = await Browser.start({ profile, directory, environment, log });
    };

    /** A session and its peer at the server, connected with each other. */
    const converse = async (name, options) => {
      const peer = server.at(`/${name}`);
      const session = extension.open(name, { url: peer.url, ...options });
      await session.untilConnected();
      return { session, peer };
    };

    const untilHosts = async (count) => {
      const condition = () => installation.hosts(Browser.hostArgument).length === count;
      await installation.until(`the number of hosts to be ${count}`, condition, { deadline: HOST_LEAVES_MS });
    };

    const untilOnlyTheDaemon = async () => {
      const condition = ({ processes, daemons }) => processes.length === 1 && daemons.length === 1;
      await installation.until("only the daemon to remain", condition, { deadline: HOST_LEAVES_MS });
    };

    before(async () => {
      installation = new Installation();
      server = await Server.listen();
      extension = await Extension.listen(() => String(installation));
      extension.pack(installation.extension, Browser.manifest);
      untouched = installation.files;
      await installation.run("install", ...Browser.installArguments(installation.profile));
      await start();
      await extension.untilHeard("an answer to hello", ({ type }) => type === "welcome");
    });

    after(async () => {
      await browser?.kill();
      installation.remove();
      await extension.close();
      await server.close();
    });

    test("the extension reaches the server through what install wrote", async () => {
      const { session, peer } = await converse("first");
      assert.equal(session.opened.head, 0);
      assert.match(peer.origins[0], Browser.serversOrigin);
    });

    test("text passes both ways byte for byte", async () => {
      const { session, peer } = await converse("texts", { as: "text" });
      peer.send(...TEXTS);
      await session.untilMessages(TEXTS.length);
      assert.deepEqual(session.all("text"), TEXTS);
      session.send(...TEXTS.map((text) => ({ text })));
      await peer.untilReceived(TEXTS.length);
      assert.deepEqual(peer.received, TEXTS);
    });

    test("JSON passes both ways, and other text as text", async () => {
      const { session, peer } = await converse("payloads");
      const json = PAYLOADS.map((payload) => JSON.stringify(payload));
      peer.send(...json, ...NO_JSON);
      await session.untilMessages(PAYLOADS.length + NO_JSON.length);
      assert.deepEqual(session.all("payload").slice(0, PAYLOADS.length), PAYLOADS);
      assert.deepEqual(session.all("text").slice(PAYLOADS.length), NO_JSON);
      session.send(...PAYLOADS.map((payload) => ({ payload })));
      await peer.untilReceived(PAYLOADS.length);
      assert.deepEqual(peer.received, json);
    });

    test("JSON that is nested beyond all reason does not cost the port", async () => {
      const { session, peer } = await converse("nested");
      peer.send("[".repeat(200_000) + "]".repeat(200_000), "[".repeat(200_000), '"behind them"');
      await session.untilMessages(3);
      assert.deepEqual(session.all("seq"), [1, 2, 3]);
      assert.equal(session.messages[2].payload, "behind them");
      assert.equal(extension.reported("disconnected").length, 0);
    });

    test("binary frames pass both ways", async () => {
      const { session, peer } = await converse("binary");
      const everyByte = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
      const frames = [Buffer.alloc(0), everyByte, Buffer.alloc(100_000, everyByte)];
      const base64 = frames.map((frame) => frame.toString("base64"));
      peer.send(...frames);
      await session.untilMessages(frames.length);
      assert.deepEqual(session.all("binary"), base64);
      session.send(...base64.map((binary) => ({ binary })));
      await peer.untilReceived(frames.length);
      assert.deepEqual(peer.received, frames);
    });

    test("a message of 5 MB passes both ways, towards the extension in pieces", async () => {
      const { session, peer } = await converse("large", { as: "text" });
      const line = (_, number) => `${number}: "ä" \\ € \t 😀\n`;
      const large = Array.from({ length: 200_000 }, line).join("");
      assert.ok(Buffer.byteLength(large) > 5_000_000);
      peer.send(large, "behind it");
      await session.untilMessages(2);
      assert.ok(session.messages[0].text === large);
      assert.equal(session.messages[1].text, "behind it");
      assert.ok(extension.reported("message").filter(({ message }) => message.type === "chunk").length > 5);
      session.send({ text: large }, { text: "behind it" });
      await peer.untilReceived(2);
      assert.ok(peer.received[0] === large);
      assert.equal(peer.received[1], "behind it");
    });

    test("thousands of small messages stay in order both ways", async () => {
      const { session, peer } = await converse("many");
      const many = numbers(1, 3000);
      peer.send(...many.map(String));
      session.send(...many.map((payload) => ({ payload })));
      await session.untilMessages(many.length);
      assert.deepEqual(session.all("payload"), many);
      assert.deepEqual(session.all("seq"), many);
      await peer.untilReceived(many.length);
      assert.deepEqual(peer.received.map(Number), many);
    });

    test("a request that cannot be served is answered with an error, and the port goes on", async () => {
      const { session, peer } = await converse("beside-errors");
      const requests = {
        "no-url": { type: "open", session: "e1", url: "no URL" },
        "another-scheme": { type: "open", session: "e2", url: "http://127.0.0.1/" },
        "not-allowed": { type: "open", session: "e3", url: "ws://192.0.2.1/" },
        "no-session": { type: "send", session: "never-opened", payload: 1 },
        "no-type": { type: "no-such-type" },
      };
      extension.post(...Object.entries(requests).map(([ref, request]) => ({ ...request, ref })));
      const untilError = (ref) => extension.untilHeard(`the error for ${ref}`, (heard) => heard.ref === ref);
      for (const ref of Object.keys(requests)) {
        const { type, code, message, retryable } = await untilError(ref);
        assert.equal(type, "error", ref);
        assert.match(code, /^[a-z-]+$/, ref);
        assert.ok(message.length > 10, `${ref}: ${message}`);
        assert.equal(typeof retryable, "boolean", ref);
      }
      assert.equal((await untilError("not-allowed")).code, "server-not-allowed");
      peer.send("1");
      await session.untilMessages(1);
      assert.equal(extension.reported("disconnected").length, 0);
    });

    for (const { how, wakes, end: endWorker } of Browser.endings) {
      test(`a worker that ${how} misses nothing and gets again only what it had not acknowledged`, async () => {
        const { session, peer } = await converse(how.replaceAll(" ", "-"), { acks: false });
        peer.send(...numbers(1, 10).map(String));
        await session.untilMessages(10);
        const { epoch } = session.opened;
        session.acknowledge(5);
        session.send({ payload: "after the acknowledgement" });
        await peer.untilReceived(1);

        const former = extension.life;
        await endWorker(browser);
        if (wakes) await untilHosts(0);
        peer.send(...numbers(11, 20).map(String));
        if (wakes) await browser.wake();
        await extension.untilConnected(former);
        await untilHosts(1);
        await session.untilMessages(15);
        peer.send("21");
        await session.untilMessages(16);

        assert.deepEqual(session.all("seq"), numbers(6, 21));
        assert.deepEqual(session.all("payload"), numbers(6, 21));
        const { opened } = session;
        assert.deepEqual([opened.epoch, opened.acked], [epoch, 5]);
        assert.deepEqual(
          session.all("replay"),
          numbers(6, 21).map((seq) => seq <= opened.head || undefined),
        );
        assert.equal(peer.origins.length, 1);
      });
    }

    test("a worker that an alarm wakes finds what came while it slept", async () => {
      const { session, peer } = await converse("alarm");
      const former = extension.life;
      extension.order("alarm", { everySeconds: 2 });
      session.send({ payload: "behind the alarm" });
      await peer.untilReceived(1);
      await Browser.endings[0].end(browser);
      peer.send("1", "2");
      await extension.untilConnected(former);
      await session.untilMessages(2);
      assert.deepEqual(session.all("payload"), [1, 2]);
      await extension.until("the alarm", () => extension.reported("alarm").some(({ life }) => life === extension.life));
    });

    test("a server that nobody runs is told as a state", async () => {
      const gone = await Server.listen();
      const { url } = gone.at("/");
      await gone.close();
      const session = extension.open("nobody", { url });
      await session.until("a reason", () => session.of("state").some(({ reason }) => reason?.retryable));
      assert.equal(session.state, "reconnecting");
    });

    test("the daemon holds on to nothing of the browser that started it", () => {
      const [{ pid }] = installation.daemons;
      const inherited = (path) => path.startsWith("pipe:") || path === installation.log; // it makes no pipes of its own
      assert.deepEqual(descriptors(pid).filter(inherited), []);
    });

    test("a daemon that is killed is started again, and messages pass", async () => {
      const { session, peer } = await converse("daemon-killed");
      const [daemon] = installation.daemons;
      end(daemon.pid);
      const another = ({ daemons }) => daemons.length === 1 && daemons[0].pid !== daemon.pid;
      await installation.until("another daemon", another);
      await session.until("another connection", () => peer.origins.length === 2 && session.state === "connected");
      peer.send('"afterwards"');
      await session.until("the message", () => session.messages.at(-1)?.payload === "afterwards");
    });

    test("a browser that quits leaves the daemon alone, and the next one finds what came meanwhile", async () => {
      const { session, peer } = await converse("browser-quits");
      const former = extension.life;
      await browser.quit();
      await untilOnlyTheDaemon();
      const [{ pid }] = installation.daemons;
      peer.send("1", "2");
      await start();
      await extension.untilConnected(former);
      assert.deepEqual(
        installation.daemons.map((daemon) => daemon.pid),
        [pid],
        String(installation),
      );
      await session.untilMessages(2);
      assert.deepEqual(session.all("payload"), [1, 2]);
    });

    test("a browser that is killed leaves the daemon alone, and stop ends that", async () => {
      await browser.kill();
      await untilOnlyTheDaemon();
      await installation.run("stop");
      await installation.until("nothing to remain", ({ processes }) => processes.length === 0);
    });

    test("without a daemon the extension is told so", async () => {
      const file = join(installation.profile, "not-a-directory");
      writeFileSync(file, "");
      extension.reports = [];
      await start({ WEBSOCKET_BRIDGE_HOME: file });
      const { type, code, message } = await extension.untilHeard("an answer", () => true);
      assert.deepEqual([type, code], ["error", "daemon-unavailable"]);
      assert.match(message, /not-a-directory/);
      await browser.quit();
      await installation.until("nothing to remain", ({ processes }) => processes.length === 0);
    });

    test("uninstall leaves the home as it was, byte for byte, but for what the browser made there", async () => {
      const manifests = () => Browser.manifests(installation.profile, installation.environment.HOME);
      assert.equal(readdirSync(manifests()).length, 1);
      await installation.run("uninstall", "--purge");
      const left = installation.files;
      for (const [path, content] of untouched) assert.equal(left.get(path), content, path);
      const ours = [...left.keys()].filter((path) => !untouched.has(path) && !Browser.makes.test(path));
      assert.deepEqual(ours, []);
      assert.ok(!existsSync(manifests()), "nor is there an empty directory of manifests");
    });
  });
}

/** The whole numbers from `first` to `last`. */
function numbers(first, last) {
  return Array.from({ length: last - first + 1 }, (_, index) => first + index);
}
