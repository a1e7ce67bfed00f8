// Owns nothing but handlers: the worker of an extension that uses the library, as its README shows, and a bare native
// messaging port to compare it with.
//
// `oracle.js` is written by the test: its address, the servers', and the name of a host that repeats a message.

import { Bridge } from "./client/index.js";
import { oracle } from "./oracle.js";

const report = (event) => fetch(oracle.reports, { method: "POST", body: JSON.stringify(event) });

const bridge = new Bridge();
bridge.on("failed", ({ code }) => report({ failed: code }));

const session = bridge.session("library", { url: oracle.server });
session.on("gap", ({ reason }) => report({ gap: reason }));
session.on("state", ({ state }) => report({ state }));
session.on("error", ({ code, message }) => report({ error: code, message }));

/** Counts up to `times`, then tells how many there were in a second, from the first call to the last. */
function meter(times, done) {
  let [count, first, began] = [0, 0, 0];
  return (more = 1) => {
    if (count === 0) [first, began] = [more, performance.now()];
    count += more;
    if (count === times) done((1000 * (times - first)) / (performance.now() - began));
  };
}

let flight;
session.on("messages", (deliveries) => {
  const flying = deliveries.filter(({ payload }) => payload?.type === "fly");
  if (flying.length === 0) return;
  flight ??= meter(flying[0].payload.of, (rate) => {
    flight = undefined;
    void report({ flown: rate });
  });
  flight(flying.length);
});

let walk;
session.on("walk", async ({ of }) => {
  walk ??= meter(of, (rate) => {
    walk = undefined;
    void report({ walked: rate });
  });
  walk();
});

session.on("repeat", ({ message, times }) => {
  const port = (globalThis.browser ?? chrome).runtime.connectNative(oracle.repeating);
  const count = meter(times, (rate) => {
    port.disconnect();
    void report({ repeated: rate });
  });
  port.onMessage.addListener(() => count());
  port.onDisconnect.addListener(() => report({ failed: "the repeating host has left" }));
  port.postMessage({ message, times });
});

const socket = new bridge.WebSocket(oracle.echo);
socket.onopen = () => {
  socket.send(new Blob(["blob"]));
  socket.send("text");
};
socket.onmessage = async ({ data }) => report({ echo: typeof data === "string" ? data : await data.text() });
