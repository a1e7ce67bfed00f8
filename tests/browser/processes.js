// Owns the look at the system's processes, so that the tests can tell who outlives a browser. Linux only: /proc.

import { readdirSync, readFileSync, readlinkSync } from "node:fs";

/** Every living process with `path` in its command line or its environment. */
export function processesWith(path) {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => look(Number(pid)))
    .filter((found) => found?.traces.includes(path));
}

/** What the process has open: the paths of files, and the system's words for the rest, as `pipe:[1234]`. */
export function descriptors(pid) {
  const directory = `/proc/${pid}/fd`;
  return readdirSync(directory).map((descriptor) => readlinkSync(`${directory}/${descriptor}`));
}

/** Ends a process at once, if it is still there. */
export function end(pid) {
  signal(pid, "SIGKILL");
}

/** Has a process do nothing any more, if it is still there. */
export function suspend(pid) {
  signal(pid, "SIGSTOP");
}

function signal(pid, name) {
  try {
    process.kill(pid, name);
  } catch (error) {
    if (error.code !== "ESRCH") throw error;
  }
}

/** The process if it lives and is ours to look at. */
function look(pid) {
  try {
    const read = (file) => readFileSync(`/proc/${pid}/${file}`, "utf8");
    const [line, environment, status] = [read("cmdline"), read("environ"), read("stat")];
    const [state, parent] = status.slice(status.lastIndexOf(")") + 2).split(" ");
    if (state === "Z") return undefined;
    const command = line.replaceAll("\0", " ").trim();
    return { pid, parent: Number(parent), command, traces: line + environment };
  } catch (error) {
    if (["ENOENT", "ESRCH", "EACCES"].includes(error.code)) return undefined;
    throw error;
  }
}
