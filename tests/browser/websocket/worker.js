// Owns nothing but the order of things: the worker of an extension that goes through the scenarios with the browser's
// own WebSocket and with the bridge's, then has libraries use the bridge's, and tells the test what was to be seen.
//
// `oracle.js` is written by the test: where it is, and its servers.

import { Bridge } from "./client/index.js";
import { query, reconnect } from "./libraries.js";
import { oracle } from "./oracle.js";
import { scenarios } from "./scenarios.js";

const DEADLINE_MS = 10_000;

let reported = Promise.resolve();
/** Tells the test, in the order in which it happens. */
function report(event) {
  reported = reported.then(() => fetch(oracle.reports, { method: "POST", body: JSON.stringify(event) }));
  return reported;
}
const at = (path) => oracle.server + path;

/** What the scenario gives, or why it gives nothing. */
async function see(scenario, WebSocket) {
  const late = new Promise((_, reject) => setTimeout(reject, DEADLINE_MS, new Error(`no end in ${DEADLINE_MS} ms`)));
  try {
    return { seen: await Promise.race([scenario.see(WebSocket, at), late]) };
  } catch (error) {
    return { failed: String(error) };
  }
}

const bridge = new Bridge();
bridge.on("failed", ({ message }) => report({ failed: message }));

const classes = { browser: WebSocket, bridge: bridge.WebSocket };

async function seeAll() {
  for (const scenario of scenarios) {
    for (const [whose, WebSocket] of Object.entries(classes)) {
      await report({ title: scenario.title, whose, ...(await see(scenario, WebSocket)) });
    }
  }
}

async function useLibraries() {
  reconnect(bridge.WebSocket, [at("/forbidden"), oracle.reconnecting], report);
  await query(bridge.WebSocket, oracle.graphql, report);
}

void seeAll().then(useLibraries);
