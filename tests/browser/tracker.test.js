// The task tracker, as a person uses it: installed by the bridge's own `install`, before the demo's server and one that
// says what a test wants; looked at in its pages.
//
// Needs what bridge.test.js needs. UPDATE_PICTURES=1 takes the reference pictures in `pictures/` anew.

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import pixelmatch from "pixelmatch";
import { PNG } from "pngjs";

import { Chromium } from "./chromium.js";
import { DemoServer } from "./demo-server.js";
import { Firefox } from "./firefox.js";
import { Server } from "./server.js";
import { Tracker } from "./tracker.js";
import { until } from "./until.js";

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core"), "utf8");
const PICTURES = fileURLToPath(new URL("pictures/", import.meta.url));
/** So many of a picture's pixels may differ: another version of a browser draws edges a little differently. */
const DIFFERENT = 0.01;

/** Whether everything of a page that is filled later is there. */
const POPUP_IS_FULL = `document.getElementById("state").dataset.state === "connected" &&
  document.querySelectorAll("#updates > li").length === 3 && document.querySelectorAll("#figures > div").length === 5`;
const OPTIONS_ARE_FULL = `document.getElementById("kept").textContent !== "" &&
  !document.querySelector("[type=submit]").disabled`;

/** Text that would show if it were taken for markup, or if its direction were not kept to itself. */
const HOSTILE = `<img src=x onerror="document.title='x'"><script>document.title='x'</script>\u202Egnp.exe`;

for (const Browser of [Chromium, Firefox]) {
  describe(`The task tracker in ${Browser.title}`, { timeout: 180_000 }, () => {
    let tracker, demo, server, peer;

    before(async () => {
      tracker = new Tracker(Browser);
      demo = await DemoServer.start(tracker.installation.environment);
      server = await Server.listen();
      peer = server.at("/tracker");
      await tracker.install();
      await tracker.start();
    });

    after(async () => {
      await tracker.end();
      await demo.stop();
      await server.close();
    });

    test("shows what becomes of tasks, tells it, and counts what nobody has seen", async () => {
      const options = await tracker.open("options.html");
      await options.fill({ server: demo.url, tasks: "build-17\ndeploy-3", channels: "" });
      await options.save();
      await tracker.untilHandled(3); // a welcome, and that it is subscribed
      await demo.startTask("build-17", { steps: 10 });
      await demo.startTask("deploy-3", { steps: 4, fail: true });
      await demo.webhook({ taskKey: "ABC-1", updateType: "statusChange", newStatus: "Done", author: "Ann" });
      await options.until("the count", `chrome.action.getBadgeText({}).then((text) => text === "3")`);
      const popup = await tracker.open("popup.html");
      await popup.until("the end", `document.querySelectorAll("#tasks > li").length === 2`);
      await popup.until("the updates", `document.querySelectorAll("#updates strong").length === 3`);
      const tasks = await popup.evaluate(`[...document.querySelectorAll("#tasks > li")].map((item) =>
        [item.querySelector("h3").textContent, item.dataset.state, item.querySelector("progress").value].join(" "))`);
      assert.deepEqual(tasks.toSorted(), ["build-17 complete 100", "deploy-3 failed 100"]);
      const updates = await popup.evaluate(
        `[...document.querySelectorAll("#updates strong")].map((e) => e.textContent)`,
      );
      assert.deepEqual(updates.toSorted(), ["ABC-1 is Done", "build-17 is complete", "deploy-3 has failed"]);
      await popup.until("the latency", `document.getElementById("plot-words").textContent.includes("ms")`);
      await popup.until("the badge", `chrome.action.getBadgeText({}).then((text) => text === " ")`);
      await popup.close();
      await options.close();
    });

    test("notifies of what was chosen, and of nothing else", async () => {
      const options = await tracker.open("options.html");
      await options.until("the choices", `!document.querySelector("[type=submit]").disabled`);
      await options.evaluate(`(() => {
        window.seen = [];
        for (const event of ["onClosed", "onShown"]) chrome.notifications[event]?.addListener((id) => seen.push(id));
        document.querySelector("[value=status]").click();
      })()`);
      await options.save();
      // What a browser shows, or closes at once because nobody could see it, it was given.
      const all = "chrome.notifications.getAll().then((all) => [...new Set([...Object.keys(all), ...seen])])";
      const given = () => options.evaluate(all);
      const { messages_received: said } = await tracker.status();
      const before = await given();
      await demo.webhook({ taskKey: "ABC-3", updateType: "statusChange", newStatus: "Done" });
      await demo.webhook({ taskKey: "ABC-4", updateType: "comment" });
      await tracker.untilHandled(said + 2);
      await until("one more", async () => (await given()).length > before.length);
      assert.equal((await given()).length, before.length + 1);
      await options.evaluate(`document.querySelector("[value=status]").click()`);
      await options.save();
      await options.close();
    });

    test("shows of the log what is asked for", async () => {
      const popup = await tracker.open("popup.html");
      const levels = `[...new Set([...document.querySelectorAll("#log .level")].map((e) => e.textContent))].sort().join()`;
      const choose = (level) =>
        popup.evaluate(`(() => {
          const choice = document.getElementById("level");
          choice.value = "${level}";
          choice.dispatchEvent(new Event("change"));
        })()`);
      await popup.until("all but the details", `${levels} === "error,info,warn"`);
      await choose("debug");
      await popup.until("all", `${levels} === "debug,error,info,warn"`);
      await choose("error");
      await popup.until("errors alone", `${levels} === "error"`);
      await popup.close();
    });

    test("goes over to another server, and shows what that says as text, whatever it is", async () => {
      const options = await tracker.open("options.html");
      await options.fill({ server: peer.url, tasks: "one", channels: "updates" });
      await options.save();
      await peer.untilReceived(2);
      assert.deepEqual(peer.received.map((frame) => JSON.parse(frame)), [
        { type: "subscribe", taskId: "one" },
        { type: "subscribe", channel: "updates" },
      ]); // prettier-ignore
      peer.send(task("status", HOSTILE, { status: HOSTILE }));
      peer.send(task("progress", HOSTILE, { stage: HOSTILE, progress: 30, message: HOSTILE }));
      peer.send(task("log", HOSTILE, { level: "warn", message: HOSTILE }));
      peer.send(JSON.stringify({ type: HOSTILE, [HOSTILE]: HOSTILE }), HOSTILE, Buffer.from([1, 2, 3]));

      const popup = await tracker.open("popup.html");
      const hostile = JSON.stringify(HOSTILE);
      await popup.until("all of it", `document.body.textContent.split(${hostile}).length > 8`);
      const made = `[document.title, document.querySelectorAll("img, main script").length]`;
      assert.deepEqual(await popup.evaluate(made), ["Task tracker", 0]);
      await popup.close();
      await options.close();
    });

    test("notes an update once that the server says twice, and keeps it when the worker dies", async () => {
      const popup = await tracker.open("popup.html");
      const count = `[...document.querySelectorAll("#updates strong")].filter((e) => e.textContent === "Twice").length`;
      const notice = JSON.stringify({ type: "notification", id: "n-1", timestamp: 5, data: { title: "Twice" } });
      peer.send(notice, notice, task("progress", "one", { progress: 77 }));
      await popup.until("the progress", `[...document.querySelectorAll("progress")].some(({ value }) => value === 77)`);
      await popup.until("the notice", `${count} === 1`);
      await popup.close();
      await Browser.endings[0].end(tracker.browser);
      peer.send(notice, task("progress", "one", { progress: 78 }));
      await tracker.browser.wake();
      const later = await tracker.open("popup.html");
      await later.until("more", `[...document.querySelectorAll("progress")].some(({ value }) => value === 78)`);
      await later.close();
      const again = await tracker.open("popup.html");
      await again.until("the notice", `${count} === 1`);
      await again.close();
    });

    test("keeps updates for a day, and no longer", async () => {
      const options = await tracker.open("options.html");
      const dayAgo = `Date.now() - 86_400_000`;
      const entry = (key, at) =>
        `store.put({ key: "${key}", kind: "other", title: "${key}", text: "", order: [${at}, 1] })`;
      await options.evaluate(`new Promise((resolve, reject) => {
        const request = indexedDB.open("task-tracker");
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
          const transaction = request.result.transaction("updates", "readwrite");
          const store = transaction.objectStore("updates");
          ${entry("old", `${dayAgo} - 1`)};
          ${entry("young", `${dayAgo} + 60_000`)};
          transaction.oncomplete = () => resolve();
        };
      })`);
      await Browser.endings[0].end(tracker.browser);
      await tracker.browser.wake();
      const keys = `new Promise((resolve, reject) => {
        const request = indexedDB.open("task-tracker");
        request.onerror = () => reject(request.error);
        request.onsuccess = () => {
          const all = request.result.transaction("updates").objectStore("updates").getAllKeys();
          all.onsuccess = () => resolve(["old", "young"].filter((key) => all.result.includes(key)).join());
        };
      })`;
      await options.until("the old one's end", `${keys}.then((left) => left === "young")`);
      await options.close();
    });

    test("says that the server is gone, and tries again when it is told to", async () => {
      const popup = await tracker.open("popup.html");
      await popup.until("the connection", `document.getElementById("state").dataset.state === "connected"`);
      const { port } = new URL(peer.url);
      await server.close();
      await popup.until("the loss", `document.getElementById("state").dataset.state === "reconnecting"`);
      await popup.until("why", `document.getElementById("problem").textContent.includes("refused")`);
      await popup.until("the badge", `chrome.action.getBadgeText({}).then((text) => text === "!")`);
      server = await Server.listen(Number(port));
      peer = server.at("/tracker");
      await popup.evaluate(`document.getElementById("reconnect").focus()`);
      await popup.press("Enter");
      await popup.until("the connection", `document.getElementById("state").dataset.state === "connected"`);
      assert.equal(await popup.evaluate(`document.getElementById("problem").hidden`), true);
      await popup.close();
    });

    test("has options for the keyboard alone, which are checked", async () => {
      const options = await tracker.open("options.html");
      await options.until("the choices", `!document.querySelector("[type=submit]").disabled`);
      const focused = `document.activeElement?.id || document.activeElement?.value || document.activeElement?.textContent`;
      const seen = [];
      await options.evaluate("document.body.focus()");
      while (seen.at(-1) !== "clear" && seen.length < 20) {
        await options.press("Tab");
        seen.push(await options.evaluate(focused));
      }
      assert.deepEqual(
        [seen[0], seen[1], seen[2], seen.at(-2), seen.at(-1)],
        ["server", "tasks", "channels", "Save", "clear"],
      );
      await options.fill({ server: "http://127.0.0.1/", tasks: "a\n\n a \nb", channels: "" });
      await options.evaluate(`document.querySelector("[type=submit]").focus()`);
      await options.press("Enter");
      await options.until("the complaint", `document.getElementById("server-fault").textContent.includes("http://")`);
      assert.equal(await options.evaluate("document.activeElement.id"), "server");
      assert.notEqual((await tracker.settings(options)).server, "http://127.0.0.1/");
      await options.fill({ server: peer.url, tasks: "a\n\n a \nb", channels: "" });
      await options.save();
      assert.deepEqual((await tracker.settings(options)).tasks, ["a", "b"]);
      await peer.untilReceived(6);
      const said = peer.received.slice(-4).map((frame) => Object.values(JSON.parse(frame)).join(" "));
      assert.deepEqual(said, ["unsubscribe one", "unsubscribe updates", "subscribe a", "subscribe b"]);
      await options.close();
    });

    test("forgets everything when it is told to", async () => {
      const options = await tracker.open("options.html");
      await options.until("the count", `!document.getElementById("kept").textContent.startsWith("0")`);
      await options.evaluate(`document.getElementById("clear").click()`);
      await options.until("nothing", `document.getElementById("kept").textContent.startsWith("0 updates")`);
      const popup = await tracker.open("popup.html");
      await popup.until("the connection", `document.getElementById("state").dataset.state === "connected"`);
      await popup.until("the figures", `document.querySelectorAll("#figures > div").length > 0`);
      assert.equal(await popup.evaluate(`document.querySelectorAll("#tasks > li, #updates > li").length`), 0);
      await popup.close();
      await options.close();
    });

    for (const [name, path] of [
      ["popup", "popup.html"],
      ["options", "options.html"],
    ]) /* prettier-ignore */ {
      for (const theme of ["light", "dark"]) {
        test(`has a ${theme} ${name} that everybody can use, and that looks as it should`, async () => {
          await fillAnew();
          const page = await tracker.open(path, { height: 1000 });
          await page.paint(theme);
          await page.until("all", name === "popup" ? POPUP_IS_FULL : OPTIONS_ARE_FULL);
          const { violations } = await page.evaluate(`(() => { ${AXE}; return axe.run(document); })()`);
          assert.deepEqual(
            violations.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => [id, html, failureSummary])),
            [],
          );
          await compare(page, `${Browser.title.toLowerCase()}-${name}-${theme}.png`);
          await page.close();
        });
      }
    }

    /** The same tasks and updates, whatever was before. */
    async function fillAnew() {
      const options = await tracker.open("options.html");
      await options.fill({ server: peer.url, tasks: "", channels: "" });
      await options.save();
      await options.evaluate(`document.getElementById("clear").click()`);
      await options.until("nothing", `document.getElementById("kept").textContent.startsWith("0 updates")`);
      peer.send(
        task("progress", "nightly-build", { stage: "test", progress: 64, message: "suite 9 of 14" }),
        task("log", "nightly-build", { level: "warn", message: "slow: session/restart" }),
        task("log", "nightly-build", { level: "error", message: "retried: browser/lives" }),
        task("error", "deploy-eu", { error: "the health check did not answer" }),
        JSON.stringify({ type: "jira-update", data: { taskKey: "ABC-7", updateType: "comment", author: "Ann" } }),
        task("complete", "docs", { result: "published" }),
      );
      await options.until("three updates", `document.getElementById("kept").textContent.startsWith("3")`);
      await options.close();
    }

    /** Compares what is to be seen with the reference, without what is another in each run. */
    async function compare(page, name) {
      const still = `document.querySelectorAll("time, dd, polyline, #plot-words, #server")
        .forEach(({ style }) => (style.visibility = "hidden"))`;
      const file = `${PICTURES}${name}`;
      if (process.env.UPDATE_PICTURES) {
        await page.evaluate(still);
        mkdirSync(PICTURES, { recursive: true });
        return writeFileSync(file, await page.picture());
      }
      assert.ok(existsSync(file), `${file} is there`);
      const expected = PNG.sync.read(readFileSync(file));
      let different = 1;
      let picture;
      await until(
        `${name} to look as before`,
        async () => {
          await page.evaluate(still);
          picture = await page.picture();
          const { width, height, data } = PNG.sync.read(picture);
          if (width !== expected.width || height !== expected.height) return false;
          different = pixelmatch(data, expected.data, undefined, width, height) / (width * height);
          return different <= DIFFERENT;
        },
        { seen: () => `${(100 * different).toFixed(2)} % of it differ: see ${keep(picture, name)}`, deadline: 5000 },
      );
    }
  });

  describe(`The task tracker in ${Browser.title} says what to do`, { timeout: 180_000 }, () => {
    let tracker;

    /** Opens the popup when everything is as `prepare` leaves it. */
    async function opened(prepare, { environment } = {}) {
      tracker = new Tracker(Browser);
      await prepare(tracker);
      await tracker.start(environment);
      return tracker.open("popup.html");
    }
    const said = (popup, words) =>
      popup.until(words.source, `${words}.test(document.getElementById("problem").textContent)`);

    test("when the bridge is not installed", async (t) => {
      t.after(() => tracker.end());
      const popup = await opened(() => {});
      await said(popup, /Install it with `websocket-bridge install/);
      await popup.until("the badge", `chrome.action.getBadgeText({}).then((text) => text === "!")`);
      // And when that is done, the button leads to the server that was chosen meanwhile.
      const server = await Server.listen();
      t.after(() => server.close());
      const peer = server.at("/later");
      const options = await tracker.open("options.html");
      await options.fill({ server: peer.url, tasks: "one", channels: "" });
      await options.save();
      await options.close();
      await tracker.install();
      const again = await tracker.open("popup.html");
      await again.evaluate(`document.getElementById("reconnect").click()`);
      await again.until("the server", `document.getElementById("state").dataset.state === "connected"`);
      await peer.untilReceived(1);
    });

    test("when it is installed for another extension", async (t) => {
      t.after(() => tracker.end());
      const popup = await opened((tracker) => tracker.install(Browser.otherId));
      await said(popup, /not for the id of this extension|for this add-on/);
    });

    test("when no daemon can be started", async (t) => {
      t.after(() => tracker.end());
      const popup = await opened((tracker) => tracker.install(), {
        environment: { WEBSOCKET_BRIDGE_HOME: "/dev/null/bridge" },
      });
      await said(popup, /\/dev\/null/);
    });

    test("when the server is not allowed, or wants a token", async (t) => {
      t.after(() => tracker.end());
      const popup = await opened((tracker) => tracker.install());
      const options = await tracker.open("options.html");
      await options.fill({ server: "wss://example.org/ws", tasks: "", channels: "" });
      await options.save();
      const denied = await tracker.open("popup.html");
      await said(denied, /allow = .*wss:\/\/example\.org/s);
      await denied.close();

      const http = createServer().on("upgrade", (_, socket) => socket.end("HTTP/1.1 401 Unauthorized\r\n\r\n"));
      t.after(() => http.close());
      await new Promise((listening) => http.listen(0, "127.0.0.1", listening));
      await options.fill({ server: `ws://127.0.0.1:${http.address().port}/`, tasks: "", channels: "" });
      await options.save();
      const unknown = await tracker.open("popup.html");
      await said(unknown, /401 Unauthorized.*another `url`/);
      await popup.close();
    });
  });
}

/** Puts a picture where a person can look at it. */
function keep(picture, name) {
  const file = join(tmpdir(), name);
  writeFileSync(file, picture);
  return file;
}

/** A message of the server on a task. */
function task(type, taskId, data) {
  return JSON.stringify({ type, taskId, timestamp: 5, data });
}
