// A newcomer's extension: what the library's README shows, word for word, and nothing else. Only the server's port is
// another one.
//
// Needs what bridge.test.js needs.

import assert from "node:assert/strict";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";
import { describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Chromium } from "./chromium.js";
import { DemoServer } from "./demo-server.js";
import { Firefox } from "./firefox.js";
import { Installation } from "./installation.js";

const LIBRARY = fileURLToPath(new URL("../../extension-stub/client", import.meta.url));
const README = readFileSync(join(LIBRARY, "README.md"), "utf8");
const [, SECTION] = /## Twenty lines\n([\s\S]*?)\n## /.exec(README);
const [, MANIFEST] = /```json\n([\s\S]*?)```/.exec(SECTION);
const [, WORKER] = /```js\n([\s\S]*?)```/.exec(SECTION);
const [, FIREFOXS_BACKGROUND] = /\(In Firefox: `"background": (\{.*?\})`/.exec(SECTION);
const SERVER = "ws://127.0.0.1:8080/ws";

const FIREFOX_ID = "tracker@example.org";

for (const Browser of [Chromium, Firefox]) {
  test(`A newcomer's extension works in ${Browser.title}`, { timeout: 60_000 }, async (t) => {
    const installation = new Installation();
    t.after(() => installation.remove());
    const server = await DemoServer.start(installation.environment);
    t.after(() => server.stop());
    write(installation.extension, Browser, server.url);

    const { profile, extension: directory, environment, log } = installation;
    const id = Browser === Firefox ? FIREFOX_ID : null;
    const browser = await Browser.start({ profile, directory, environment, log, id });
    t.after(() => browser.kill());
    // As the README says: the id is known now, the bridge is installed for it, and the extension is loaded again.
    await installation.run("install", ...Browser.installArguments(profile, browser.id));
    await Browser.endings.find(({ how }) => how.includes("reload")).end(browser);

    await installation.until("its message at the server, and the server's answer to be handled", async () => {
      const [session] = JSON.parse((await installation.run("status", "--json")).stdout).sessions;
      if (!session) return false;
      const { state, messages_sent, messages_received, inbox } = session;
      return state === "connected" && messages_sent === 1 && messages_received === 2 && inbox.messages === 0;
    });
    const healthy = await installation.run("doctor", "--json");
    assert.equal(JSON.parse(healthy.stdout).ok, true);
  });
}

describe("The twenty lines", () => {
  test("are no more than that", () => {
    assert.ok(WORKER.includes(SERVER));
    assert.ok(WORKER.split("\n").filter(Boolean).length <= 20);
  });
});

/** Writes the extension: the README's two files, and the library beside them. */
function write(directory, Browser, url) {
  const manifest = JSON.parse(MANIFEST);
  if (Browser === Firefox) {
    manifest.background = JSON.parse(FIREFOXS_BACKGROUND);
    manifest.browser_specific_settings = { gecko: { id: FIREFOX_ID } };
  }
  mkdirSync(directory);
  writeFileSync(join(directory, "manifest.json"), JSON.stringify(manifest));
  writeFileSync(join(directory, "worker.js"), WORKER.replace(SERVER, url));
  // As it is in a fresh clone.
  const filter = (path) => !/^(node_modules|types|LICENSE-.*)$/.test(relative(LIBRARY, path));
  cpSync(LIBRARY, join(directory, "client"), { recursive: true, filter });
}
