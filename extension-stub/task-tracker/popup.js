// Owns the popup: what is known of the tasks, the updates, the log and the connection, as it changes. It only observes
// the session, so that what it sees is neither taken from the worker nor acknowledged in its place; what is to be done,
// the worker is asked for.

import { Bridge } from "./client/index.js";
import { Tasks } from "./client/tasks.js";
import { element, fill } from "./elements.js";
import { KINDS } from "./kinds.js";
import { Plot } from "./plot.js";
import { readSettings, SESSION, whenSettingsChange } from "./settings.js";
import { Updates } from "./updates.js";

const UPDATES = 100;
const LINES = 200;
const LOOK_EVERY_MS = 1000;
const LEVELS = ["debug", "info", "warn", "error"];

/** What the states mean to a person, and which of them need nobody's attention. */
const WORDS = { unattached: "not at the bridge", refused: "refused", error: "stopped", superseded: "in another page" };
const FINE = ["connected", "connecting", "unattached"];

const by = (id) => document.getElementById(id);

const updates = new Updates();
const bridge = new Bridge();
/** The updates that nobody had seen when this was opened, and those that came since. */
const fresh = new Set();
const plot = new Plot(by("plot"), by("plot-words"));
let session, tasks;

bridge.on("failed", (error) => show("failed", error.message));
bridge.on("waiting", ({ error }) => show("waiting", error.message));
by("reconnect").addEventListener("click", reconnect);
by("options").addEventListener("click", () => chrome.runtime.openOptionsPage());
by("level").addEventListener("change", drawTasks);
updates.whenChanged(soon(drawUpdates));
whenSettingsChange(() => location.reload());
start().catch(({ message }) => show("failed", message));

async function start() {
  const { server } = await readSettings();
  // Whether there is a connection, the worker decides.
  session = bridge.session(SESSION, { url: server, observe: true, connect: false });
  session.on("state", ({ state, reason }) => show(state, reason?.message));
  session.on("error", ({ code, message }) => {
    // The worker is just going over to another server.
    if (code === "url-differs") return setTimeout(() => session.reconnect(), LOOK_EVERY_MS);
    show("error", message);
  });
  tasks = new Tasks(session);
  for (const event of ["change", "removed"]) tasks.on(event, soon(drawTasks));
  await Promise.all([drawTasks(), drawUpdates()]);
  look();
  const trouble = await ask("trouble");
  by("trouble").textContent = trouble;
  by("trouble").hidden = !trouble;
}

function show(state, message = "") {
  const output = by("state");
  output.dataset.state = state;
  output.querySelector(".word").textContent = WORDS[state] ?? state;
  const problem = by("problem");
  const text = FINE.includes(state) ? "" : message;
  if (problem.textContent !== text) problem.textContent = text;
  problem.hidden = text === "";
}

async function reconnect() {
  bridge.connect();
  if (session?.state === "refused") session.reconnect();
  await ask("reconnect");
}

/** Asks the worker for something, and for its answer; what prevents that is shown. */
async function ask(order) {
  const answer = await chrome.runtime.sendMessage({ order }).catch((error) => error);
  if (answer?.message) show("failed", answer.message);
  return answer;
}

async function drawTasks() {
  const known = await tasks.all();
  fill(by("tasks"), known, ({ id }) => id, drawTask);
  const least = LEVELS.indexOf(by("level").value);
  const lines = known.flatMap(({ id, log, dropped }) =>
    log.map((line, place) => ({ task: id, place: dropped + place, ...line })),
  );
  const wanted = lines
    .filter(({ level }) => LEVELS.indexOf(level) >= least)
    .sort((one, other) => other.at - one.at || other.place - one.place);
  fill(by("log"), wanted.slice(0, LINES), ({ task, place }) => `${task}/${place}`, drawLine);
}

async function drawUpdates() {
  const [newest, count] = await Promise.all([updates.newest(UPDATES), updates.count()]);
  for (const { key, unread } of newest) if (unread) fresh.add(key);
  by("unread").textContent = fresh.size > 0 ? `${fresh.size} new` : "";
  const more = count - newest.length;
  const rest = more > 0 ? [{ key: "more", kind: "other", title: `${more} older ones`, text: "" }] : [];
  fill(by("updates"), [...newest, ...rest], ({ key }) => key, drawUpdate);
  // Whoever has this before the eyes has seen them.
  if (document.visibilityState === "visible") await updates.markRead();
}

function drawTask(item, { id, state, status, stage, progress, message, gaps }) {
  const title = element("h3", {}, id);
  const words = [stage, message].filter(Boolean).join(": ");
  const bar = element("progress", { max: 100, "aria-label": `${id}: progress` });
  if (progress !== null) bar.value = progress;
  const percentage = progress === null ? "" : ` ${Math.round(progress)} %`;
  const missed = gaps > 0 ? "Something of it may have been missed." : "";
  item.dataset.state = state;
  item.replaceChildren(
    title,
    element("span", { class: "state" }, `${status || state}${percentage}`),
    ...(state === "running" || progress !== null ? [bar] : []),
    ...[words, missed].filter(Boolean).map((text) => element("p", {}, text)),
  );
}

function drawUpdate(item, { key, at, kind, title, text }) {
  item.dataset.kind = kind;
  item.classList.toggle("fresh", fresh.has(key));
  item.replaceChildren(
    ...(at === undefined ? [] : [when(at)]),
    element("span", { class: "spoken" }, `${fresh.has(key) ? "New. " : ""}${KINDS[kind].label}: `),
    element("strong", {}, title),
    ...(text ? [element("p", {}, text)] : []),
  );
}

function drawLine(item, { at, level, task, message }) {
  item.dataset.level = level;
  item.replaceChildren(
    when(at),
    " ",
    element("span", { class: "level" }, level),
    " ",
    element("bdi", {}, task),
    ": ",
    element("bdi", {}, message),
  );
}

function when(at) {
  const date = new Date(at);
  const time = date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
  return element("time", { datetime: date.toISOString() }, time);
}

/** Looks at the connection, now and again. */
async function look() {
  const status = await session.status().catch(() => undefined);
  plot.add({ latency_ms: status?.latency_ms ?? null, health: status?.health ?? null });
  const figures = status === undefined ? [] : figuresOf(status);
  fill(by("figures"), figures, ([name]) => name, drawFigure);
  setTimeout(look, LOOK_EVERY_MS);
}

function figuresOf({ health, messages_received, messages_sent, reconnections, connected_at }) {
  const since = connected_at ? new Date(connected_at).toLocaleTimeString() : "—";
  return [
    ["Health", `${health} of 100`],
    ["Received", messages_received],
    ["Sent", messages_sent],
    ["Since", since],
    ["Reconnections", reconnections],
  ];
}

function drawFigure(item, [name, value]) {
  item.replaceChildren(element("dt", {}, name), element("dd", {}, String(value)));
}

/** What is asked for many times before the next picture is done once. */
function soon(task) {
  let isAsked = false;
  return () => {
    if (isAsked) return;
    isAsked = true;
    requestAnimationFrame(() => {
      isAsked = false;
      task();
    });
  };
}
