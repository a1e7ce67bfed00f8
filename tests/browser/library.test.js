// The library in real workers: that what it needs of a browser is there, and how fast it is. That nothing is lost while
// workers end is tested in lives.test.js, and what the library decides in extension-stub/client.
//
// Needs what bridge.test.js needs.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Chromium } from "./chromium.js";
import { Firefox } from "./firefox.js";
import { Installation } from "./installation.js";
import { LibraryExtension } from "./library-extension.js";
import { installRepeatingHost, REPEATING_HOST } from "./repeating-host.js";
import { Server } from "./server.js";
import { until } from "./until.js";

const WORKER = fileURLToPath(new URL("library", import.meta.url));

const FLYING = 50_000;
const WALKING = 1000;
const ROUNDS = 3;

for (const Browser of [Chromium, Firefox]) {
  describe(`The library in ${Browser.title}`, { timeout: 180_000 }, () => {
    const extension = new LibraryExtension(() => installation);
    const { reports } = extension;
    const untilReported = (what, condition) => extension.untilReported(what, condition);
    let installation, server, peer, echo, browser;

    before(async () => {
      installation = new Installation();
      server = await Server.listen();
      peer = server.at("/library");
      echo = server.at("/echo");
      await extension.listen();
      const oracle = { server: peer.url, echo: echo.url, repeating: REPEATING_HOST };
      extension.pack(installation.extension, WORKER, Browser.manifest, oracle);
      installRepeatingHost(installation.extension, Browser, installation);
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

    test("fifty thousand messages fly faster than the browser passes them one at a time", async () => {
      const message = { type: "fly", of: FLYING, text: "x".repeat(65) };
      const text = JSON.stringify(message);
      const walking = JSON.stringify({ ...message, type: "walk", of: WALKING });
      const rates = { repeated: [], flown: [], walked: [] };
      const measure = async (what, ...texts) => {
        const measured = () => reports.filter((report) => report[what]).map((report) => report[what]);
        const count = measured().length;
        peer.send(...texts);
        await until("the last message", () => measured().length > count, { seen: () => String(extension) });
        rates[what].push(measured().at(-1));
      };
      for (let round = 0; round < ROUNDS; round += 1) {
        await measure("repeated", JSON.stringify({ type: "repeat", message, times: FLYING }));
        await measure("flown", ...Array(FLYING).fill(text));
        await measure("walked", ...Array(WALKING).fill(walking));
      }
      const [bare, library, alone] = [median(rates.repeated), median(rates.flown), median(rates.walked)];
      console.log(
        `${Browser.title}: ${library} messages of ${text.length} B a second reach a handler of many, ` +
          `${bare} a bare listener one at a time: ${(library / bare).toFixed(1)} times as many; ` +
          `${alone} a handler of single ones`,
      );
      assert.ok(library > bare, JSON.stringify(rates));
    });
  });
}

function median(values) {
  return Math.round(values.toSorted((one, other) => one - other)[Math.floor(values.length / 2)]);
}
