// Owns one installation of the bridge in a temporary home, with the browser's profile in it, and the view of what runs
// there: whatever was started in this home, browsers and hosts included, carries its path in its command line or
// environment.

import { execFile } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { end, processesWith } from "./processes.js";
import { until } from "./until.js";

const LOG_LINES = 100;

// Whoever interrupts the tests wants neither a browser nor a daemon to stay: this way `exit` is heard.
for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(1));

export class Installation {
  #home = mkdtempSync(join(tmpdir(), "websocket-bridge-"));
  profile = join(this.#home, "profile");
  extension = join(this.#home, "extension");
  log = join(this.#home, "browser.log");
  environment = {
    HOME: this.#home,
    LANG: "C.UTF-8",
    PATH: process.env.PATH,
    WEBSOCKET_BRIDGE_HOME: join(this.#home, "bridge"),
  };

  constructor() {
    process.on("exit", () => this.remove());
  }

  /** Runs a command of the bridge to its end, which must be a good one. */
  async run(...command) {
    const options = { env: this.environment, timeout: 20_000 };
    return new Promise((resolve, reject) => {
      execFile(binary(), command, options, (error, stdout, stderr) => {
        if (error) reject(new Error(`websocket-bridge ${command.join(" ")}: ${error.message}\n${stdout}`));
        else resolve({ stdout, stderr });
      });
    });
  }

  /** What is in this home, but for the browser's profile and log: paths with contents, and null for a directory. */
  get files() {
    const entries = readdirSync(this.#home, { recursive: true, withFileTypes: true });
    const paths = entries.map((entry) => [join(entry.parentPath, entry.name), entry.isDirectory()]);
    const theirs = ([path]) => path.startsWith(this.profile) || path === this.log;
    const content = ([path, isDirectory]) => [path, isDirectory ? null : readFileSync(path, "latin1")];
    return new Map(paths.filter((path) => !theirs(path)).map(content));
  }

  /** Everything that runs in this home. */
  get processes() {
    return processesWith(this.#home);
  }

  get daemons() {
    return this.processes.filter(({ command }) => command.split(" ").includes("daemon"));
  }

  /** The hosts, by the last argument that their browser gave them. */
  hosts(argument) {
    return this.processes.filter(({ command }) => command.endsWith(` ${argument}`));
  }

  /** Waits until what runs in this home meets the condition. */
  async until(what, condition, options) {
    const line = ({ pid, command }) => `${pid}: ${command.slice(0, 100)}`;
    const seen = () => [...this.processes.map(line), this].join("\n  ");
    await until(what, () => condition(this), { seen, ...options });
  }

  /** Removes the home, and ends what still runs in it, and what that has started meanwhile. */
  remove() {
    for (let found = this.processes; found.length > 0; found = this.processes) {
      for (const { pid } of found) end(pid);
    }
    rmSync(this.#home, { recursive: true, force: true, maxRetries: 10 });
  }

  /** The daemon and the hosts that run, and the last lines of their logs. */
  toString() {
    const ours = this.processes.filter(({ command }) => command.includes("websocket-bridge "));
    const processes = ours.map(({ pid, parent, command }) => `${pid}, child of ${parent}: ${command}`);
    const directory = join(this.environment.WEBSOCKET_BRIDGE_HOME, "logs");
    const logs = existsSync(directory) ? readdirSync(directory) : [];
    const lines = (log) => readFileSync(join(directory, log), "utf8").trimEnd().split("\n");
    const tails = logs.flatMap((log) => [`${log}:`, ...lines(log).slice(-LOG_LINES)]);
    return ["running:", ...processes, ...tails].join("\n  ");
  }
}

/** The binary under test: the one that is told, else the newer of what Cargo built. */
export function binary() {
  if (process.env.WEBSOCKET_BRIDGE_BIN) return process.env.WEBSOCKET_BRIDGE_BIN;
  const path = (profile) => fileURLToPath(new URL(`../../target/${profile}/websocket-bridge`, import.meta.url));
  const built = [path("release"), path("debug")].filter((path) => existsSync(path));
  if (built.length === 0) throw new Error(`no websocket-bridge to test: cargo build would make ${path("debug")}`);
  return built.sort((one, other) => statSync(other).mtimeMs - statSync(one).mtimeMs)[0];
}
