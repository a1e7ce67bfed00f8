// Owns a worker that sleeps when there is nothing to do, and tells the test what it hears when it is awake.
//
// `oracle.js` is written by the test: its address, the server's, and how long to sleep.

import { Bridge } from "./client/index.js";
import { oracle } from "./oracle.js";

const report = (event) => fetch(oracle.reports, { method: "POST", body: JSON.stringify(event) });

void report({ event: "woke" });

const bridge = new Bridge({ sleep: { every: oracle.sleep } });
bridge.on("asleep", () => report({ event: "asleep" }));
bridge.on("failed", ({ code, message }) => report({ error: code, message }));

const session = bridge.session("sleep", { url: oracle.server });
session.on("message", ({ payload }) => report({ number: payload }));
session.on("gap", ({ reason }) => report({ gap: reason }));
session.on("error", ({ code, message }) => report({ error: code, message }));
