// Owns the extension's background: one session, followed for as long as the browser runs, and what becomes of what comes.
// Not what it means (`kinds.js`), how it is kept (`updates.js`), nor what the server is asked for (`tracking.js`).

import { Badge } from "./badge.js";
import { Bridge } from "./client/index.js";
import { Tasks } from "./client/tasks.js";
import { describe, describeGap, keyOf } from "./kinds.js";
import { notify } from "./notifications.js";
import { readSettings, SESSION, whenSettingsChange } from "./settings.js";
import { Tracking } from "./tracking.js";
import { Updates } from "./updates.js";

const updates = new Updates();
const badge = new Badge(updates);
const bridge = new Bridge();
bridge.on("failed", (error) => badge.connection("failed", error.message));
bridge.on("waiting", ({ error }) => badge.connection("waiting", error.message));
// A server that was chosen while there was no bridge.
bridge.on("ready", () => session && server !== settings.server && move());

let settings, session, server, tasks, tracking, moving;
const started = readSettings().then((chosen) => {
  settings = chosen;
  follow();
});
started.catch(({ message }) => badge.trouble(`the settings cannot be read: ${message}`));
updates.removeOld().catch(({ message }) => badge.trouble(`the history cannot be kept: ${message}`));

whenSettingsChange(async (next) => {
  await started;
  settings = next;
  if (server !== settings.server) return move();
  await tracking.follow(settings).then(() => tracking.keep());
});

// What the pages ask for: they have no place in the session.
chrome.runtime.onMessage.addListener(({ order }, _, answer) => {
  started.then(() => orders[order]()).then(answer, ({ message }) => answer({ message }));
  return true; // the answer comes later
});
const orders = {
  reconnect: () => (bridge.connect(), session.reconnect()),
  clear: () => Promise.all([tasks.clear(), updates.clear()]),
  trouble: () => badge.takeTrouble(),
};

function follow() {
  server = settings.server;
  session = bridge.session(SESSION, { url: server });
  tasks = new Tasks(session);
  tracking = new Tracking(session, tasks);
  session.on("message", (message) => take(describe(message), message));
  session.on("gap", (gap) => take(describeGap(gap), gap));
  session.on("state", ({ state, reason }) => {
    badge.connection(state, reason?.message);
    if (state !== "unattached") void tracking.keep();
  });
  session.on("error", ({ code, message }) => (code === "url-differs" ? move() : badge.trouble(message)));
  void tracking.follow(settings);
}

/** To another server, once however many ask for it: what waits at the bridge is the former one's. */
function move() {
  moving ??= session
    .close({ forget: true })
    .then(() => tracking.forget())
    .then(follow, ({ message }) => badge.trouble(message))
    .finally(() => (moving = undefined));
}

/** A message is acknowledged when its update is kept. What comes again because a worker died replaces what was told. */
async function take(update, message) {
  if (!update) return;
  const { seq, at = Date.now() } = message;
  const key = keyOf(message);
  if (await updates.has(key)) return;
  if (settings.notify.includes(update.kind)) await notify(key, update);
  await updates.add({ key, at, seq, ...update });
}
