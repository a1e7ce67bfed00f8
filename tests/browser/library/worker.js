// Owns nothing but handlers: the worker of an extension that uses the library, as its README shows. Everything that it
// handles it tells the test, and a number it answers to the server, before it is done with it.
//
// `oracle.js` is written by the test: the addresses of the two.

import { Bridge } from "./client/index.js";
import { oracle } from "./oracle.js";

/** One for each start of the worker. */
const life = crypto.randomUUID().slice(0, 8);

const report = (event) => fetch(oracle.reports, { method: "POST", body: JSON.stringify({ life, ...event }) });

// A push message is how the test wakes a worker in Chromium; whoever listens for none is not woken.
self.addEventListener("push", () => {});

const bridge = new Bridge();
bridge.on("failed", ({ code }) => report({ failed: code }));

const session = bridge.session("library", { url: oracle.server });
session.on("number", async ({ number }, { seq, epoch }) => {
  await session.send({ number }, { id: `answer-${number}` });
  await report({ number, seq, epoch });
});
session.on("gap", ({ reason, seq, epoch }) => report({ gap: reason, seq, epoch }));
session.on("state", ({ state }) => report({ state }));
session.on("error", ({ code, message }) => report({ error: code, message }));

let flown = 0;
session.on("fly", ({ of }) => {
  flown += 1;
  if (flown === of) void report({ flown });
});

const socket = new bridge.WebSocket(oracle.echo);
socket.onopen = () => {
  socket.send(new Blob(["blob"]));
  socket.send("text");
};
socket.onmessage = async ({ data }) => report({ echo: typeof data === "string" ? data : await data.text() });
