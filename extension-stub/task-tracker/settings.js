// Owns what a person has chosen: what it is before any choice, where it is kept, and what is no choice at all.

import { KINDS } from "./kinds.js";

/** What the session with the server is called at the bridge. */
export const SESSION = "tasks";

const KEY = "settings";

/**
 * The address of the server, the tasks and channels to ask it for (none: whatever it sends by itself), and the kinds of
 * updates of which there are notifications.
 */
const DEFAULTS = {
  server: "ws://127.0.0.1:8080/ws",
  tasks: [],
  channels: [],
  notify: Object.keys(KINDS).filter((kind) => KINDS[kind].notifies),
};

export async function readSettings() {
  const { [KEY]: chosen } = await chrome.storage.local.get(KEY);
  return { ...DEFAULTS, ...chosen };
}

export async function writeSettings(settings) {
  await chrome.storage.local.set({ [KEY]: settings });
}

export function whenSettingsChange(listener) {
  chrome.storage.local.onChanged.addListener(({ [KEY]: change }) => {
    if (change) listener({ ...DEFAULTS, ...change.newValue });
  });
}

/** Says what is wrong with an address, or "". */
export function faultOfServer(address) {
  const example = `an address like ${DEFAULTS.server}`;
  let url;
  try {
    url = new URL(address);
  } catch {
    return `“${address}” is no address. Give ${example}.`;
  }
  if (!["ws:", "wss:"].includes(url.protocol)) return `It begins with ${url.protocol}//. Give ${example}.`;
  if (url.hash) return `It ends in ${url.hash}, which servers never see. Leave that out.`;
  return "";
}

/** More than that, or longer ones, the bridge does not subscribe to in one session. */
const NAMES = 400;
const NAME_BYTES = 100;

/** Says what is wrong with the tasks and channels together, or "". */
export function faultOfNames(all) {
  if (all.length > NAMES) return `These are ${all.length} names. Leave at most ${NAMES}.`;
  const long = all.find((name) => new TextEncoder().encode(name).length > NAME_BYTES);
  return long === undefined ? "" : `“${long.slice(0, 30)}…” is too long for a name: at most ${NAME_BYTES} bytes.`;
}

/** The names in a text: one a line, each once. */
export function names(text) {
  const lines = text.split("\n").map((line) => line.trim());
  return [...new Set(lines.filter((line) => line !== ""))];
}
