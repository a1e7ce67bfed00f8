// Owns nothing but a port: posts to the host what the test says, tells the test what the port says, and opens the port
// again when it ends. Decisions (which session, what to acknowledge) are the test's, so that this worker can die at any
// moment.
//
// The test listens on loopback: `POST /reports` takes what happened, `GET /orders` streams what to do, one JSON text
// per line.

const browser = globalThis.browser ?? globalThis.chrome;
const HOST = "com.semantest.websocket_bridge";
const RECONNECT_MS = 100;

/** One for each start of the worker. */
const life = crypto.randomUUID().slice(0, 8);
const oracle = fetch(browser.runtime.getURL("oracle.json")).then((file) => file.json());

let port;
let ports = 0;
const reports = [];
let reporting = false;

async function report(event) {
  reports.push(json({ life, ...event }));
  if (reporting) return;
  reporting = true;
  const { url } = await oracle;
  while (reports.length) {
    const body = `[${reports.splice(0).join(",")}]`;
    await fetch(`${url}/reports`, { method: "POST", body });
  }
  reporting = false;
}

/** What is nested too deep to be told is told without its payload. */
function json(event) {
  try {
    return JSON.stringify(event);
  } catch {
    return JSON.stringify({ ...event, message: { ...event.message, payload: undefined } });
  }
}

function connect() {
  const number = ++ports;
  port = browser.runtime.connectNative(HOST);
  port.onMessage.addListener((message) => report({ event: "message", port: number, message }));
  port.onDisconnect.addListener((ended) => {
    const error = ended.error?.message ?? browser.runtime.lastError?.message ?? null;
    report({ event: "disconnected", port: number, error });
    setTimeout(connect, RECONNECT_MS);
  });
  report({ event: "connected", port: number });
}

const orders = {
  connect,
  post: ({ messages }) => messages.forEach((message) => port.postMessage(message)),
  alarm: ({ everySeconds }) => browser.alarms.create("wake", { periodInMinutes: everySeconds / 60 }),
};

async function obey() {
  const { url } = await oracle;
  const { body } = await fetch(`${url}/orders`, { cache: "no-store" }); // else Firefox waits for a dead worker's stream
  let text = "";
  for await (const piece of body.pipeThrough(new TextDecoderStream())) {
    const lines = (text + piece).split("\n");
    text = lines.pop();
    for (const line of lines) {
      const { order, ...details } = JSON.parse(line);
      try {
        orders[order](details);
      } catch (error) {
        report({ event: "threw", order, error: String(error) });
      }
    }
  }
}

// Listeners must stand when the first turn ends, for the browser wakes a worker only for events that it listens to.
browser.alarms.onAlarm.addListener(() => report({ event: "alarm" }));
globalThis.addEventListener("push", () => report({ event: "push" }));

browser.alarms.clearAll();
obey();
