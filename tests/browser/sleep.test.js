// A worker that sleeps: its browser really stops it when there is nothing to do, an alarm wakes it, and what the server
// has said meanwhile is there at once; so it is when the browser was closed for a while. All of it is seen from
// outside, for a debugger would keep the worker awake. Needs what bridge.test.js needs.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Chromium } from "./chromium.js";
import { Firefox } from "./firefox.js";
import { Installation } from "./installation.js";
import { LibraryExtension } from "./library-extension.js";
import { Server } from "./server.js";
import { until } from "./until.js";

const WORKER = fileURLToPath(new URL("sleep", import.meta.url));

/** How long workers sleep. Chromium stops one that has been idle for 30 s: less would not let it sleep at all. */
const SLEEPS = new Map([
  [Chromium, 60_000],
  [Firefox, 30_000],
]);
/** Firefox would take 30 s as well, but lets that be set. */
const SETTINGS = { "extensions.background.idle.timeout": 3000 };
/** Longer than any alarm takes. */
const DEADLINE_MS = 90_000;
/** What waited is handled so soon after the worker's first word. */
const SOON_MS = 2000;
/** While it sleeps the server says so many numbers, so long after one another. */
const NUMBERS = 50;
const PAUSE_MS = 20;

// Both at once: there is nothing to do but to wait.
describe("A worker that sleeps", { concurrency: true, timeout: 240_000 }, () => {
  for (const Browser of SLEEPS.keys()) {
    describe(`in ${Browser.title}`, () => {
      const extension = new LibraryExtension(() => installation);
      const { reports } = extension;
      let installation, server, peer, browser;
      let said = 0;

      const start = async () => {
        const { profile, extension: directory, environment, log } = installation;
        browser = await Browser.start({ profile, directory, environment, log, settings: SETTINGS });
      };

      const untilAfter = (index, what, condition) => {
        const found = () => reports.findIndex((report, at) => at > index && condition(report)) + 1;
        return until(what, found, { seen: () => String(extension), deadline: DEADLINE_MS });
      };

      const untilStopped = async () => {
        await until("the worker to stop", async () => !(await browser.isAwake()), { deadline: DEADLINE_MS });
        await installation.until("the host to leave", () => installation.hosts(Browser.hostArgument).length === 0);
      };

      /** The server says numbers, with nobody there to hear them. */
      const talk = async () => {
        for (let count = 0; count < NUMBERS; count += 1) {
          said += 1;
          peer.send(String(said));
          await new Promise((again) => setTimeout(again, PAUSE_MS));
        }
      };

      /** Waits until a worker wakes, and has everything: in how many milliseconds. */
      const untilAllIsThere = async (index, what) => {
        const woke = await untilAfter(index, what, ({ event }) => event === "woke");
        const last = await untilAfter(woke - 1, "the last number", ({ number }) => number === said);
        const numbers = reports.slice(woke, last).flatMap(({ number }) => number ?? []);
        assert.deepEqual(
          numbers,
          Array.from({ length: NUMBERS }, (_, index) => said - NUMBERS + 1 + index),
        );
        return reports[last - 1].at - reports[woke - 1].at;
      };

      before(async () => {
        installation = new Installation();
        server = await Server.listen();
        peer = server.at("/sleep");
        await extension.listen();
        const manifest = { ...Browser.manifest, permissions: ["alarms", "nativeMessaging", "storage"] };
        const oracle = { server: peer.url, sleep: SLEEPS.get(Browser) };
        extension.pack(installation.extension, WORKER, manifest, oracle);
        await installation.run("install", ...Browser.installArguments(installation.profile));
        await start();
        await until("a connection", () => peer.origins.length === 1, { seen: () => String(extension) });
      });

      after(async () => {
        await browser?.kill();
        installation.remove();
        await extension.close();
        await server.close();
      });

      test("is stopped by the browser, woken by an alarm, and has everything at once", async () => {
        const asleep = await untilAfter(-1, "the worker to have nothing to do", ({ event }) => event === "asleep");
        await untilStopped();
        const { length } = reports;
        await talk();
        assert.equal(reports.length, length, "nobody has heard it");
        assert.equal(await browser.isAwake(), false, "nor woken");
        const time = await untilAllIsThere(length - 1, "the alarm");
        const slept = reports[length].at - reports[asleep - 1].at;
        console.log(`${Browser.title}: woken after ${slept} ms of sleep, it had ${NUMBERS} messages within ${time} ms`);
        assert.ok(time <= SOON_MS, `${time} ms`);
        await untilAfter(length, "it to sleep again", ({ event }) => event === "asleep");
      });

      test("has everything at once when the browser was closed for a while", async () => {
        await browser.quit();
        const { length } = reports;
        await talk();
        await start();
        const time = await untilAllIsThere(length - 1, "the browser's start");
        console.log(`${Browser.title}: started with the browser, it had ${NUMBERS} messages within ${time} ms`);
        assert.ok(time <= SOON_MS, `${time} ms`);
      });

      test("has missed nothing, on one connection", () => {
        assert.equal(peer.origins.length, 1);
        assert.deepEqual(
          reports.filter(({ gap, error }) => gap ?? error),
          [],
        );
      });
    });
  }
});
