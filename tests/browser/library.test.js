// The library in real workers: that what it needs of a browser is there, that nothing is lost while workers end in every
// way in which a browser ends them, and how fast it is. What it decides is tested in extension-stub/client.
//
// Needs what bridge.test.js needs.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Chromium } from "./chromium.js";
import { Firefox } from "./firefox.js";
import { Installation } from "./installation.js";
import { LibraryExtension } from "./library-extension.js";
import { Server } from "./server.js";

const WORKER = fileURLToPath(new URL("library", import.meta.url));

const DEATHS = 12;
/** Between two deaths the server says so many numbers, so long after one another. */
const NUMBERS = 40;
const PAUSE_MS = 5;
const FLYING = 50_000;

for (const Browser of [Chromium, Firefox]) {
  describe(`The library in ${Browser.title}`, { timeout: 180_000 }, () => {
    const extension = new LibraryExtension(() => installation);
    const { reports } = extension;
    const untilReported = (what, condition) => extension.untilReported(what, condition);
    let installation, server, peer, echo, browser;
    let said = 0;

    before(async () => {
      installation = new Installation();
      server = await Server.listen();
      peer = server.at("/library");
      echo = server.at("/echo");
      await extension.listen();
      extension.pack(installation.extension, WORKER, Browser.manifest, { server: peer.url, echo: echo.url });
      await installation.run("install", ...Browser.installArguments(installation.profile));
      const { profile, extension: directory, environment, log } = installation;
      browser = await Browser.start({ profile, directory, environment, log });
      await untilReported("a connection", ({ state }) => state === "connected");
    });

    after(async () => {
      await browser?.kill();
      installation.remove();
      await extension.close();
      await server.close();
    });

    test("a WebSocket of the bridge passes text and blobs", async () => {
      await echo.untilReceived(2);
      assert.deepEqual(echo.received.map(String), ["blob", "text"]);
      echo.send("text", Buffer.from("blob"));
      await untilReported("both", ({ echo: data }) => data === "blob");
      assert.ok(reports.some(({ echo: data }) => data === "text"));
    });

    test("workers that end in every way miss nothing, and answer everything once", async () => {
      for (let death = 0; death < DEATHS; death += 1) {
        const ending = Browser.endings[death % Browser.endings.length];
        const half = said + NUMBERS / 2;
        const talking = talk();
        await untilReported("half of it to be handled", ({ number }) => number >= half);
        await ending.end(browser);
        if (ending.wakes) {
          // A browser that has not noticed yet would wake a worker that is dead.
          await installation.until("the host to leave", () => installation.hosts(Browser.hostArgument).length === 0);
          await browser.wake();
        }
        await talking;
      }
      await untilReported("the last number", ({ number }) => number === said);
      await peer.untilReceived(said);
      const all = Array.from({ length: said }, (_, index) => index + 1);
      const answers = peer.received.map((answer) => JSON.parse(answer).number);
      assert.deepEqual(answers, all, "each answered once, in order");
      const handled = reports.filter(({ number }) => number !== undefined);
      const first = handled.filter(({ seq }, index) => handled.findIndex((other) => other.seq === seq) === index);
      assert.deepEqual(
        first.map(({ number }) => number),
        all,
        "each handled, in order",
      );
      assert.deepEqual(
        reports.filter(({ gap, error, failed }) => gap ?? error ?? failed),
        [],
      );
      const again = handled.length - first.length;
      const lives = new Set(reports.map(({ life }) => life)).size;
      assert.ok(lives > DEATHS, `${lives} workers`);
      assert.ok(again <= 2 * DEATHS, `${again} were handled again`);
      console.log(`${Browser.title}: ${said} numbers, ${lives} workers, ${again} handled again`);
    });

    test("fifty thousand messages fly", async () => {
      const began = performance.now();
      const message = JSON.stringify({ type: "fly", of: FLYING, text: "x".repeat(60) });
      for (let count = 0; count < FLYING; count += 1) peer.send(message);
      await untilReported("the last one", ({ flown }) => flown === FLYING);
      const time = performance.now() - began;
      console.log(`${Browser.title}: ${Math.round((1000 * FLYING) / time)} messages of 100 B a second reach a handler`);
    });

    /** Has the server say some more numbers. */
    async function talk() {
      for (let count = 0; count < NUMBERS; count += 1) {
        said += 1;
        peer.send(JSON.stringify({ type: "number", number: said }));
        await new Promise((again) => setTimeout(again, PAUSE_MS));
      }
    }
  });
}
