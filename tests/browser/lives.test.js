// The lives of a worker that ends a hundred times, in every way in which browsers end them, while its extension is
// reloaded and disabled, the browser is killed and quits, hosts and daemons are killed and the server is restarted, and
// numbered messages flow both ways: `reckoning.js` tells from the outside what was lost, doubled or out of order.
//
// What happens comes from a seed, which is printed; LIVES_SEED repeats it, though no two runs are the same. LIVES_STOPS
// is how often workers are stopped. Needs what bridge.test.js needs.

import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { fileURLToPath } from "node:url";

import { Chromium } from "./chromium.js";
import { Firefox } from "./firefox.js";
import { Installation } from "./installation.js";
import { LibraryExtension } from "./library-extension.js";
import { end, suspend } from "./processes.js";
import { reckon } from "./reckoning.js";
import { RestartableServer } from "./restartable-server.js";
import { until } from "./until.js";

const WORKER = fileURLToPath(new URL("lives", import.meta.url));

const STOPS = Number(process.env.LIVES_STOPS ?? 100);

/** The longest time from a worker's first word, or another fault, to the next fault. */
const PACE_MS = 500;
/** The longest pause of the server, the most that it says at once, and how far it may be ahead of the handlers. */
const PAUSE_MS = 60;
const BURST = 4;
const AHEAD = 60;
/** How long a handler takes besides what it waits for, and the server's being away, at most. */
const HANDLER_MS = 6;
const AWAY_MS = 400;
/** How long a host hangs. */
const HANGING_MS = 100;
/** Whatever is the last to be said may meet no connection, and is said again. */
const SAY_AGAIN_MS = 2000;
/** How much of what is wrong is shown. */
const SHOWN = 20;

/** Connections come back while there is something to see. */
const SETTINGS = { reconnect: { first_ms: 100, max_ms: 400, stable_ms: 0, burst: 100, refill_ms: 1000 } };

const seed = Number(process.env.LIVES_SEED ?? Math.floor(Math.random() * 1e9));

const passing = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

for (const Browser of [Chromium, Firefox]) {
  describe(`A hundred lives in ${Browser.title}`, { timeout: 600_000 }, () => {
    const extension = new LibraryExtension(() => installation);
    /** The reports and everything else that happens, in order. */
    const history = extension.reports;
    const note = (event) => history.push({ at: Date.now(), ...event });
    const server = new RestartableServer((message, connection) => note({ event: "arrived", connection, ...message }));
    // Apart from each other, so that what the server says does not change what happens to it.
    const [chance, servers] = [chances(seed), chances(seed + 1)];
    let installation, browser;
    let said = 0;

    const start = async () => {
      const { profile, extension: directory, environment, log } = installation;
      browser = await Browser.start({ profile, directory, environment, log });
    };

    const seen = () => {
      const events = history.filter(({ event }) => event !== "said").slice(-SHOWN);
      return [...events.map((event) => JSON.stringify(event)), installation].join("\n  ");
    };

    /** Makes a fault with these effects; if it stops the worker, waits for the next one, which may have to be woken. */
    const make = async (kind, effects, act, { wakes = false } = {}) => {
      const index = note({ event: "fault", kind, ...effects }) - 1;
      const isNew = () => history.findLastIndex(({ event }) => event === "woke") > index;
      const isNext = async () => {
        // What has stopped one may have been in the midst of starting it: then another one follows by itself.
        if (wakes && !isNew()) await browser.wakeIfAsleep();
        return isNew();
      };
      await act();
      if (effects.stops) await until(`a worker's first word after ${JSON.stringify(effects)}`, isNext, { seen });
    };

    const hosts = () => installation.hosts(Browser.hostArgument);

    const stopWorker = ({ how, end: endWorker, wakes }) => {
      const kind = wakes ? "worker stopped" : "extension reloaded";
      return make(kind, { stops: true, how }, () => endWorker(browser), { wakes });
    };

    const endBrowser = (kind, how) =>
      make(kind, { stops: true }, async () => {
        await how();
        await start();
      });

    const processOf = async (found) =>
      until("a process to kill", () => found()[0]?.pid, { seen: () => String(installation) });

    const killProcess = async (kind, effects, found) => {
      const pid = await processOf(found);
      await make(kind, effects, async () => end(pid));
    };

    /** What the worker has posted meanwhile is lost with the host, and the worker cannot post it again. */
    const hangHost = async ({ end: endWorker }) => {
      const pid = await processOf(hosts);
      const act = async () => {
        suspend(pid);
        await passing(HANGING_MS);
        end(pid);
        await endWorker(browser);
      };
      await make("host hung and killed with the worker", { stops: true }, act, { wakes: true });
    };

    const restartServer = (away) =>
      make("server restarted", { cuts: true }, async () => {
        await server.kill();
        await passing(away);
        await server.start();
      });

    const endings = (wakes) => Browser.endings.filter((ending) => ending.wakes === wakes);

    /** What there is to be done, and how often; each is decided now. */
    const faults = () => {
      const some = (percent, decide) => Array.from({ length: Math.ceil((STOPS * percent) / 100) }, decide);
      return chance.shuffled([
        ...some(100, () => [stopWorker, chance.of(endings(true))]),
        ...some(6, () => [stopWorker, chance.of(endings(false))]),
        ...some(2, () => [endBrowser, "browser killed", () => browser.kill()]),
        ...some(2, () => [endBrowser, "browser quits", () => browser.quit()]),
        ...some(8, () => [killProcess, "host killed", {}, hosts]),
        ...some(4, () => [hangHost, chance.of(endings(true))]),
        ...some(6, () => [killProcess, "daemon killed", { cuts: true }, () => installation.daemons]),
        ...some(6, () => [restartServer, chance(AWAY_MS)]),
      ]);
    };

    /** Up to which number the handlers have come; a gap stands for all that was said before it was told. */
    const handled = () => {
      const begun = history.findLastIndex(({ event }) => event === "begun");
      const saidBefore = () => history.slice(0, begun + 1).findLast(({ event }) => event === "said");
      return history[begun]?.batch[0].number ?? saidBefore()?.number ?? 0;
    };

    /** Says the next number; with `isLast`, the worker sends nothing of its own any more. */
    const say = (isLast = false) => {
      said += 1;
      note({ event: "said", number: said });
      const stage = servers(3) === 0 ? "stored" : "posted";
      server.say({ type: "number", number: said, pause: servers(HANDLER_MS), until: stage, isLast });
    };

    before(async () => {
      installation = new Installation();
      await server.start();
      await extension.listen();
      extension.pack(installation.extension, WORKER, Browser.manifest, { server: server.url, settings: SETTINGS });
      await installation.run("install", ...Browser.installArguments(installation.profile));
      await start();
      await until("a connection", () => server.isConnected, { seen });
    });

    after(async () => {
      await browser?.kill();
      installation.remove();
      await extension.close();
      await server.kill();
    });

    test("nothing is lost unreported, doubled or out of order", async () => {
      const began = performance.now();
      let isOver = false;
      const talking = (async () => {
        while (!isOver) {
          for (let burst = servers(BURST); burst >= 0 && said - handled() < AHEAD; burst -= 1) say();
          await passing(servers(PAUSE_MS));
        }
      })();
      try {
        for (const [act, ...details] of faults()) {
          await passing(chance(PACE_MS));
          await act(...details);
        }
      } finally {
        isOver = true;
        await talking;
      }
      await comeToRest();
      const { figures, wrong } = reckon(history);
      console.log(report(figures, (performance.now() - began) / 1000));
      assert.deepEqual(wrong.slice(0, SHOWN), [], `${wrong.length} wrongs; LIVES_SEED=${seed}\n${installation}`);
      assert.ok(figures.handled > STOPS && figures.arrived > STOPS, "something has happened");
    });

    /** Waits until the last number is handled and its answer, behind everything else, is at the server. */
    async function comeToRest() {
      let saidAt = -Infinity;
      const isAtRest = () => {
        if (performance.now() - saidAt > SAY_AGAIN_MS) {
          say(true);
          saidAt = performance.now();
        }
        const isAnswered = history.findLast(({ event, answer }) => event === "arrived" && answer === said);
        const begun = history.findLast(({ event, batch }) => event === "begun" && batch.at(-1).number === said);
        const isEnd = ({ event, seq }) => event === "ended" && seq === begun.batch.at(-1).seq;
        return isAnswered && begun && history.findLast(isEnd);
      };
      await until("the last number to be handled and answered", isAtRest, { seen });
    }

    function report(figures, seconds) {
      const lines = Object.entries(figures).map(([name, figure]) => {
        if (typeof figure === "number") return `${figure} ${name}`;
        const parts = Object.entries(figure).map(([part, count]) => `${count} ${part}`);
        return `${name}: ${parts.join(", ") || "none"}`;
      });
      return [`${Browser.title}: seed ${seed}, ${Math.round(seconds)} s`, ...lines].join("\n  ");
    }
  });
}

/** Chance from a seed: `chance(5)` is 0 to 4. */
function chances(seed) {
  let state = seed % 0x7fffffff || 1;
  const chance = (limit) => {
    state = (state * 48_271) % 0x7fffffff;
    return state % limit;
  };
  chance.of = (list) => list[chance(list.length)];
  chance.shuffled = (list) => {
    const [rest, shuffled] = [[...list], []];
    while (rest.length > 0) shuffled.push(...rest.splice(chance(rest.length), 1));
    return shuffled;
  };
  return chance;
}
