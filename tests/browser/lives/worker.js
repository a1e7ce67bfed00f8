// Owns a worker that answers the numbers that the server says, and sends messages of its own besides. It tells the test
// when each handler begins and ends, and what the library has promised, and it goes on only when the test has heard it.
// Every other worker, by chance, handles many at once.
//
// `oracle.js` is written by the test: where it listens, and the server.

import { Bridge } from "./client/index.js";
import { oracle } from "./oracle.js";

/** It sends something every so many milliseconds, until the server says a number that is the last. */
const SENDING_MS = 30;

const life = crypto.randomUUID().slice(0, 8);

const report = (event) => fetch(oracle.reports, { method: "POST", body: JSON.stringify({ life, ...event }) });

const reportError = ({ code, message }) => report({ event: "error", code, message });

// A push message is how the test wakes a worker in Chromium; whoever listens for none is not woken.
self.addEventListener("push", () => {});
void report({ event: "woke" });

const bridge = new Bridge();
bridge.on("failed", reportError);
bridge.on("error", reportError);

const session = bridge.session("lives", { url: oracle.server, settings: oracle.settings });
session.on("error", reportError);

async function handle(deliveries) {
  await report({ event: "begun", batch: deliveries.map(entryOf) });
  const messages = deliveries.filter(({ type }) => type === "message").map(({ payload }) => payload);
  const answer = ({ number, until }) => session.send({ answer: number }, { id: `answer-${number}`, until });
  await Promise.all(messages.map(answer));
  await new Promise((resolve) => setTimeout(resolve, Math.max(0, ...messages.map(({ pause }) => pause))));
  if (messages.some(({ isLast }) => isLast)) clearInterval(sending);
  await report({ event: "ended", seq: deliveries.at(-1).seq });
}

function entryOf({ epoch, seq, payload, ...gap }) {
  return payload ? { epoch, seq, number: payload.number } : { epoch, seq, gap };
}

if (Math.random() < 0.5) {
  session.on("messages", handle);
} else {
  session.on("number", (_, message) => handle([message]));
  session.on("gap", (gap) => handle([gap]));
}

let sent = 0;
const sending = setInterval(() => {
  const up = (sent += 1);
  session.send({ life, up }).then(() => report({ event: "promised", up }), reportError);
}, SENDING_MS);
