// Owns the extension's background: one session that is followed for as long as the browser runs, and what becomes of
// everything that comes. Does not own what it means (`kinds.js`), how it is kept (`updates.js`), nor how it is shown.

import { Badge } from "./badge.js";
import { Bridge } from "./client/index.js";
import { Tasks } from "./client/tasks.js";
import { describe, describeGap, keyOf } from "./kinds.js";
import { notify } from "./notifications.js";
import { readSettings, SESSION, whenSettingsChange } from "./settings.js";
import { Updates } from "./updates.js";

const updates = new Updates();
const badge = new Badge(updates);
const bridge = new Bridge();
bridge.on("failed", (error) => badge.trouble(error.message));
bridge.on("waiting", ({ error }) => badge.trouble(error.message));

let settings, session, tasks;
const started = start();
whenSettingsChange(async (next) => {
  await started;
  const former = settings;
  settings = next;
  if (former.server !== next.server) return move();
  for (const id of former.tasks) if (!next.tasks.includes(id)) tasks.untrack(id);
  for (const channel of former.channels) if (!next.channels.includes(channel)) leave(channel);
  track();
});

// What the pages ask for: they have no place in the session.
chrome.runtime.onMessage.addListener(({ order }, _, answer) => {
  started.then(() => orders[order]()).then(answer, ({ message }) => answer({ message }));
  return true; // the answer comes later
});
const orders = {
  reconnect: () => (bridge.connect(), session.reconnect()),
  clear: () => Promise.all([tasks.clear(), updates.clear()]),
};

async function start() {
  settings = await readSettings();
  await updates.removeOld();
  follow();
}

function follow() {
  session = bridge.session(SESSION, { url: settings.server });
  tasks = new Tasks(session);
  session.on("message", (message) => take(describe(message), message));
  session.on("gap", (gap) => take(describeGap(gap), gap));
  session.on("state", ({ state, reason }) => badge.connection(state, reason?.message));
  session.on("error", ({ code, message }) => (code === "url-differs" ? move() : badge.trouble(message)));
  track();
}

/** To another server: what waits at the bridge is the former one's. */
async function move() {
  await session.close({ forget: true }).catch(({ message }) => badge.trouble(message));
  if (session.state === "closed") follow();
}

function track() {
  for (const id of settings.tasks) tasks.track(id);
  for (const channel of settings.channels) session.subscribe(`channel/${channel}`, { type: "subscribe", channel });
}

const leave = (channel) => session.unsubscribe(`channel/${channel}`, { type: "unsubscribe", channel });

/** A message is acknowledged when its update is kept; what comes again because a worker died is not told again. */
async function take(update, message) {
  if (!update) return;
  const { seq, at = Date.now() } = message;
  const key = keyOf(message);
  const isNew = await updates.add({ key, at, seq, ...update });
  if (isNew && settings.notify.includes(update.kind)) await notify(key, update);
}
