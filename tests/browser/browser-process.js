// Owns a browser's process, and the calls to it that wait for an answer: they fail when the process ends, so nothing
// waits in vain.

import { spawn } from "node:child_process";
import { closeSync, existsSync, openSync, readFileSync } from "node:fs";

import { until } from "./until.js";

const LOG_LINES = 20;

export class BrowserProcess {
  #binary;
  #log;
  #process;
  /** Why nothing can be called any more, once that is so. */
  #ended = null;
  #waiting = new Map();
  #calls = 0;

  /** What the browser prints goes to the file `log`; `pipes` is how many it has beyond the standard streams. */
  constructor(binary, flags, { environment, log, pipes = 0 }) {
    this.#binary = binary;
    this.#log = log;
    const output = openSync(log, "a");
    const stdio = ["ignore", output, output, ...Array(pipes).fill("pipe")];
    this.#process = spawn(binary, flags, { env: environment, stdio });
    closeSync(output);
    this.#process.on("error", (error) => this.#end(error.message));
    this.#process.on("exit", (code, signal) => this.#end(`ended with ${signal ?? code}`));
  }

  pipe(descriptor) {
    return this.#process.stdio[descriptor];
  }

  /** Makes a call: `send` gets a number for it, and `answer` with that number ends the wait. */
  async call(name, send) {
    this.check();
    const id = ++this.#calls;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { name, resolve, reject });
      send(id);
    });
  }

  answer(id, error, result) {
    const call = this.#waiting.get(id);
    this.#waiting.delete(id);
    if (error) call?.reject(new Error(`${call.name}: ${error.message}`));
    else call?.resolve(result);
  }

  /** Throws if the browser has ended. */
  check() {
    if (this.#ended) throw this.#ended;
  }

  async kill() {
    this.#process.kill("SIGKILL");
    await this.untilEnd();
  }

  async untilEnd() {
    await until(`${this.#binary} to end`, () => this.#ended);
  }

  #end(how) {
    const log = existsSync(this.#log) ? readFileSync(this.#log, "utf8") : "";
    this.#ended = new Error([`${this.#binary}: ${how}`, ...log.split("\n").slice(-LOG_LINES)].join("\n"));
    for (const { reject } of this.#waiting.values()) reject(this.#ended);
    this.#waiting.clear();
  }
}
