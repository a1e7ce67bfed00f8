// Owns the options page: a person's choices, checked before they are kept. The worker hears of them through the storage.

import { element } from "./elements.js";
import { KINDS } from "./kinds.js";
import { faultOfServer, names, readSettings, writeSettings } from "./settings.js";
import { Updates } from "./updates.js";

const by = (id) => document.getElementById(id);
const updates = new Updates();

by("form").addEventListener("submit", save);
by("server").addEventListener("input", () => complain(""));
by("form").addEventListener("input", () => (by("saved").textContent = ""));
by("clear").addEventListener("click", clear);
updates.whenChanged(count);
show(await readSettings());
count();

function show({ server, tasks, channels, notify }) {
  by("server").value = server;
  by("tasks").value = tasks.join("\n");
  by("channels").value = channels.join("\n");
  by("kinds").append(...Object.entries(KINDS).map(([kind, { label }]) => choice(kind, label, notify.includes(kind))));
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
  const fault = faultOfServer(server);
  complain(fault);
  if (fault) return by("server").focus();
  const notify = [...by("kinds").querySelectorAll(":checked")].map(({ value }) => value);
  await writeSettings({ server, tasks: names(by("tasks").value), channels: names(by("channels").value), notify });
  by("saved").textContent = "Saved.";
}

function complain(fault) {
  by("server").setAttribute("aria-invalid", String(fault !== ""));
  by("server-fault").textContent = fault;
  by("server-fault").hidden = fault === "";
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
