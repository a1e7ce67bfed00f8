// The bridge's WebSocket in real browsers: that it does what the browser's own does, and that libraries which were
// written for that run over it as they are.
//
// Needs what bridge.test.js needs.

import assert from "node:assert/strict";
import { cpSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { BehavingServer } from "./behaviours.js";
import { Chromium } from "./chromium.js";
import { Firefox } from "./firefox.js";
import { GraphqlServer } from "./graphql-server.js";
import { Installation } from "./installation.js";
import { LibraryExtension } from "./library-extension.js";
import { Server } from "./server.js";
import { scenarios } from "./websocket/scenarios.js";

const WORKER = fileURLToPath(new URL("websocket", import.meta.url));
const PACKAGES = ["graphql-ws", "reconnecting-websocket"];

for (const Browser of [Chromium, Firefox]) {
  describe(`A WebSocket in ${Browser.title}`, { timeout: 120_000 }, () => {
    const extension = new LibraryExtension(() => installation);
    let installation, behaving, server, peer, graphql, browser;

    before(async () => {
      installation = new Installation();
      behaving = await BehavingServer.listen();
      server = await Server.listen();
      peer = server.at("/reconnecting");
      graphql = await GraphqlServer.listen(() =>
        extension.untilReported("the second", ({ data }) => data?.count === 2),
      );
      await extension.listen();
      const { profile, extension: directory, environment, log } = installation;
      const oracle = { server: behaving.url, reconnecting: peer.url, graphql: graphql.url };
      extension.pack(directory, WORKER, Browser.manifest, oracle);
      for (const name of PACKAGES) {
        const published = dirname(fileURLToPath(import.meta.resolve(name)));
        cpSync(published, join(directory, "packages", name), { recursive: true });
      }
      await installation.run("install", ...Browser.installArguments(profile));
      browser = await Browser.start({ profile, directory, environment, log });
    });

    after(async () => {
      await browser?.kill();
      installation.remove();
      await extension.close();
      await Promise.all([behaving, server, graphql].map((server) => server?.close()));
    });

    for (const { title, wpt, expected, why = "", ...others } of scenarios) {
      test(title, async () => {
        const seenBy = async (whose) => {
          const isIt = (report) => report.title === title && report.whose === whose;
          const { seen, failed } = await extension.untilReported(`${whose}: ${title}`, isIt);
          return failed ? { failed } : seen;
        };
        const reported = (value) => JSON.parse(JSON.stringify(value));
        const own = others[Browser.title] ?? expected;
        assert.deepEqual(await seenBy("browser"), reported(own), `the browser's own (${wpt})`);
        assert.deepEqual(await seenBy("bridge"), reported(others.bridge ?? expected), `the bridge's (${wpt}) ${why}`);
      });
    }

    test("reconnecting-websocket connects again, however it was disconnected, and sends what has waited", async () => {
      const untilHeard = (what) => extension.untilReported(what, ({ reconnecting }) => reconnecting === what);
      await peer.untilReceived(2);
      peer.send("one");
      await untilHeard("one");
      peer.drop();
      await peer.untilReceived(3);
      peer.send(Buffer.alloc(2));
      await untilHeard(2);
      peer.close(1012);
      await peer.untilReceived(4);
      peer.send("three");
      await untilHeard("three");
      // The first connection was refused: of that the library makes a close with 1000.
      assert.deepEqual(peer.received, ["before it is open", "after 1000", "after 1006", "after 1012"]);
      const heard = extension.reports.filter(({ reconnecting }) => reconnecting !== undefined);
      assert.deepEqual(
        heard.map(({ reconnecting }) => reconnecting),
        ["open", "one", "open", 2, "open", "three"],
      );
      assert.equal(heard[0].protocol, "chat");
    });

    test("graphql-ws asks, subscribes, and subscribes again when the connection was lost", async () => {
      await extension.untilReported("the last", ({ graphql }) => graphql === "failed");
      const heard = extension.reports.filter(({ graphql }) => graphql !== undefined);
      const closed = heard.filter(({ graphql }) => graphql === "closed").map(({ code }) => code);
      const others = heard
        .filter(({ graphql }) => graphql !== "closed")
        .map(({ graphql, data, why }) => data ?? why ?? graphql);
      assert.deepEqual(others, [
        { greeting: "Hello, extension!" },
        "complete",
        ...[1, 2, 1, 2, 3, 4, 5].map((count) => ({ count })),
        "complete",
        'Cannot query field "nothing" on type "Query".',
      ]);
      assert.ok(closed.includes(1006), `the connections closed with ${closed}`);
    });
  });
}
