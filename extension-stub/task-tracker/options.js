// Owns the options page: a person's choices, checked before they are kept. The worker hears of them through the storage.

import { element } from "./elements.js";
import { KINDS } from "./kinds.js";
import { faultOfNames, faultOfServer, names, readSettings, writeSettings } from "./settings.js";
import { Updates } from "./updates.js";

const by = (id) => document.getElementById(id);
const updates = new Updates();

by("form").addEventListener("submit", save);
by("form").addEventListener("input", () => {
  by("saved").textContent = "";
  for (const what of ["server", "names"]) complain(what, "");
});
by("clear").addEventListener("click", clear);
updates.whenChanged(count);
show(await readSettings());
count();

function show({ server, tasks, channels, notify }) {
  by("server").value = server;
  by("tasks").value = tasks.join("\n");
  by("channels").value = channels.join("\n");
  by("kinds").append(...Object.entries(KINDS).map(([kind, { label }]) => choice(kind, label, notify.includes(kind))));
  // Until now there was nothing that could be kept.
  by("form").querySelector("[type=submit]").disabled = false;
  by("allow").textContent = `websocket-bridge install --extension ${chrome.runtime.id} --url ADDRESS`;
}

function choice(kind, label, isChosen) {
  const box = element("input", { type: "checkbox", name: "notify", value: kind });
  box.checked = isChosen;
  return element("label", { class: "choice" }, box, ` ${label}`);
}

async function save(event) {
  event.preventDefault();
  const server = by("server").value.trim();
  const [tasks, channels] = [names(by("tasks").value), names(by("channels").value)];
  const isRight = [complain("server", faultOfServer(server)), complain("names", faultOfNames([...tasks, ...channels]))];
  if (isRight.includes(false)) return by(isRight[0] ? "tasks" : "server").focus();
  const notify = [...by("kinds").querySelectorAll(":checked")].map(({ value }) => value);
  await writeSettings({ server, tasks, channels, notify }).then(
    () => (by("saved").textContent = "Saved."),
    ({ message }) => (by("saved").textContent = `Not saved: ${message}`),
  );
}

/** Shows what is wrong; true if that is nothing. */
function complain(what, fault) {
  by(what)?.setAttribute("aria-invalid", String(fault !== ""));
  by(`${what}-fault`).textContent = fault;
  by(`${what}-fault`).hidden = fault === "";
  return fault === "";
}

async function clear() {
  const failure = await chrome.runtime.sendMessage({ order: "clear" });
  by("kept").textContent = failure?.message ?? "";
  if (!failure?.message) await count();
}

async function count() {
  const kept = await updates.count();
  by("kept").textContent = `${kept} ${kept === 1 ? "update is" : "updates are"} kept, none for longer than 24 hours.`;
}
