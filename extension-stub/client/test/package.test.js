// What is shipped: its files, its types, and a README whose examples run.

import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, mock, test } from "node:test";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";

import { portEnded } from "../errors.js";
import { AreaStandIn, BrowserStandIn, settled } from "./browser-stand-in.js";
import { HostStandIn } from "./host-stand-in.js";

const root = fileURLToPath(new URL("..", import.meta.url));
const run = promisify(execFile);

const MODULES = [
  "base64",
  "bridge",
  "deliveries",
  "errors",
  "index",
  "listeners",
  "outbox",
  "port",
  "session",
  "storage",
  "surroundings",
  "tasks",
  "websocket",
];

const IMPORTS = `import { Bridge, BridgeError, type Session } from "../index.js"; import { Tasks } from "../tasks.js";`;

describe("The package", () => {
  let files;
  before(async () => {
    const { stdout } = await run("npm", ["pack", "--dry-run", "--json"], { cwd: root });
    files = JSON.parse(stdout.slice(stdout.indexOf("[\n")))[0].files.map(({ path }) => path);
  });

  test("holds the modules, their types, and what it says of itself", () => {
    const expected = [
      "LICENSE-APACHE",
      "LICENSE-MIT",
      "README.md",
      "package.json",
      ...MODULES.map((name) => `${name}.js`),
      ...MODULES.map((name) => `types/${name}.d.ts`),
    ];
    assert.deepEqual(files.toSorted(), expected.toSorted());
  });

  test("has types by which a program in TypeScript is checked", async () => {
    const right = `
      const bridge: Bridge = new Bridge({ sleep: { every: 60_000 } });
      const session: Session = bridge.session("one", { url: "ws://127.0.0.1/", mode: "memory" });
      const end: () => void = session.on("message", ({ seq, payload, binary }) => { const n: number = seq; });
      session.on("gap", ({ reason, count }) => { const n: number | null = count; });
      session.on("messages", (all) => all.map((one) => { if (one.type === "gap") { const r: string = one.reason; } }));
      session.on("state", ({ state, reason }) => { const s: string = state; });
      session.on("error", (error) => { const e: BridgeError = error; });
      session.on("progress", (payload, { seq }) => { const n: number = seq; });
      bridge.on("waiting", ({ until, error }) => { const n: number = until; });
      const receipt: Promise<{ id: string; stage: string }> = session.send({}, { until: "received", timeout: 5 });
      new Tasks(session).on("change", ({ state, progress }) => { const n: number | null = progress; });
      const socket: WebSocket = new bridge.WebSocket("ws://127.0.0.1/", ["v1"]);
    `;
    const wrong = [
      'new Bridge().session("one", { mode: "direct" });',
      'new Bridge().session("one").on("messages", ({ payload }) => {});',
      'new Bridge().session("one").send({}, { until: "soon" });',
      'new Bridge().session("one").on("message", ({ sequence }) => {});',
      'new Bridge().session("one").on("error", (error) => error.reason);',
      'new Bridge().on("asleap", () => {});',
    ];
    const directory = mkdtempSync(join(root, "types", "check-"));
    try {
      const file = join(directory, "program.ts");
      writeFileSync(file, [IMPORTS, ...wrong, right].join("\n"));
      const options = ["--noEmit", "--strict", "--target", "es2022", "--module", "nodenext"];
      const { stdout } = await run(join(root, "node_modules/.bin/tsc"), [...options, file]).catch((error) => error);
      const lines = new Set([...stdout.matchAll(/program\.ts\((\d+),/g)].map(([, line]) => Number(line)));
      assert.deepEqual([...lines], [2, 3, 4, 5, 6, 7], stdout);
    } finally {
      rmSync(directory, { recursive: true });
    }
  });

  test("is of the version that it tells the bridge", () => {
    const { version } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
    assert.ok(readFileSync(join(root, "port.js"), "utf8").includes(`"websocket-bridge-client/${version}"`));
  });

  test("names nothing but itself", () => {
    for (const module of readdirSync(root).filter((file) => file.endsWith(".js"))) {
      const source = readFileSync(join(root, module), "utf8");
      assert.ok(source.startsWith("// Owns"), `${module} says first what it owns`);
      for (const [, from] of source.matchAll(/^(?:import|export) .* from "(.*)"/gm))
        assert.match(from, /^\.\/\w+\.js$/);
    }
  });
});

/** The JavaScript examples of a document of the tree that use the library. */
function examples(document) {
  const text = readFileSync(new URL(document, import.meta.url), "utf8");
  const blocks = [...text.matchAll(/^( *)```js\n([\s\S]*?)^\1```/gm)].map(([, , code]) => code);
  return blocks.filter((code) => code.includes("./client/index.js"));
}

describe("The examples", () => {
  let directory;
  before(() => (directory = mkdtempSync(join(tmpdir(), "websocket-bridge-examples-"))));
  after(() => rmSync(directory, { recursive: true }));

  /** Runs an example as the worker of an extension, before a host that says something; returns what it wrote. */
  async function runs(code, name) {
    mock.restoreAll();
    const written = [];
    for (const level of ["log", "info", "warn", "error"]) {
      mock.method(console, level, (...words) => written.push([level, ...words].join(" ")));
    }
    const browser = new BrowserStandIn();
    const host = new HostStandIn(browser);
    const answer = browser.host;
    browser.host = (port, application) => {
      answer(port, application);
      const { onMessage } = port;
      port.onMessage = (message) => {
        if (message.mode !== "direct") return onMessage(message);
        port.say({ type: "state", session: message.session, state: "connected", protocol: "v1" });
        port.say({ type: "message", session: message.session, text: "hello" });
        port.say({ type: "closed", session: message.session, code: 1000, reason: "bye", clean: true });
      };
    };
    const local = new AreaStandIn(browser).for(browser.worker);
    const { connectNative, alarms } = browser.worker.surroundings;
    globalThis.chrome = { runtime: { connectNative }, storage: { local }, alarms };
    const file = join(directory, `${name}.mjs`);
    writeFileSync(file, code.replaceAll("./client/", pathToFileURL(root)));
    await import(pathToFileURL(file));
    await settled();
    for (const session of host.sessions.keys()) {
      host.say(session, { type: "progress", taskId: "build-17", data: { progress: 50 } });
      host.gap(session, { reason: "disconnected" });
      host.port.say({ type: "token-needed", session, reason: "missing" });
    }
    await settled();
    browser.kill();
    mock.restoreAll();
    return { written, host };
  }

  for (const document of ["../README.md", "../../../README.md"]) {
    for (const [index, code] of examples(document).entries()) {
      test(`number ${index + 1} of ${document} does what it says`, async () => {
        const { written, host } = await runs(code, `${document.replaceAll(/\W/g, "-")}${index}`);
        // What it writes is in the code; at least one line of each must have come to pass, and no complaint.
        assert.ok(written.length > 0, "it says something");
        assert.deepEqual(
          written.filter((line) => line.startsWith("error")),
          [],
        );
        const sends = [...code.matchAll(/session\.send/g)].length;
        if (sends > 0) assert.equal([...host.sessions.values()].flatMap(({ sent }) => sent).length, sends);
      });
    }
  }

  test("are there", () => {
    assert.equal(examples("../README.md").length, 8);
    assert.equal(examples("../../../README.md").length, 1);
  });
});

test("The README lists every error that no retry mends", () => {
  const readme = readFileSync(join(root, "README.md"), "utf8");
  const source = readFileSync(join(root, "errors.js"), "utf8");
  const entries = [...source.matchAll(/code: "([a-z-]+)",\n {4}(retryable: true)?/g)];
  assert.ok(entries.length > 6);
  for (const [, code, retryable] of entries) {
    assert.ok(readme.includes(retryable ? `\`${code}\`` : `| \`${code}\` |`), code);
  }
  assert.equal(portEnded(undefined, "x").retryable, true);
});
