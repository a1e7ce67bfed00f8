// Owns the test's end of an extension that uses the library: packs it for a browser, with the library as it is, and
// takes what its worker reports over loopback HTTP.

import { copyFileSync, cpSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";

import { until } from "./until.js";

const LIBRARY = fileURLToPath(new URL("../../extension-stub/client", import.meta.url));
/** How much of what was reported a failure shows. */
const LAST = 10;

export class LibraryExtension {
  /** Everything that the workers reported, oldest first. */
  reports = [];
  #http = createServer(async (request, response) => {
    this.reports.push(JSON.parse(await text(request)));
    response.end();
  });
  #circumstances;

  /** `circumstances` tells what should be known when a wait fails, beside what was reported. */
  constructor(circumstances) {
    this.#circumstances = circumstances;
  }

  async listen() {
    await new Promise((listening) => this.#http.listen(0, "127.0.0.1", listening));
  }

  async close() {
    this.#http.closeAllConnections();
    await new Promise((closed) => this.#http.close(closed));
  }

  /**
   * Writes the extension into `directory`: what lies in `source`, where `worker.js` is the worker, the library in
   * `client`, the browser's own part of the manifest, and in `oracle.js` what the worker is to know of the test.
   */
  pack(directory, source, browsersPart, oracle) {
    const manifest = {
      manifest_version: 3,
      name: "The library's test extension",
      version: "1",
      permissions: ["nativeMessaging", "storage"],
      host_permissions: ["http://127.0.0.1/*"],
      ...browsersPart,
      background: { ...browsersPart.background, type: "module" },
    };
    const known = { reports: `http://127.0.0.1:${this.#http.address().port}/`, ...oracle };
    cpSync(source, directory, { recursive: true });
    writeFileSync(join(directory, "manifest.json"), JSON.stringify(manifest));
    writeFileSync(join(directory, "oracle.js"), `export const oracle = ${JSON.stringify(known)};\n`);
    mkdirSync(join(directory, "client"));
    const modules = readdirSync(LIBRARY).filter((file) => file.endsWith(".js"));
    for (const module of modules) copyFileSync(join(LIBRARY, module), join(directory, "client", module));
  }

  /** Waits for a report that meets the condition, and returns it. */
  async untilReported(what, condition) {
    return until(what, () => this.reports.find(condition), { seen: () => String(this) });
  }

  toString() {
    const last = this.reports.slice(-LAST).map((report) => JSON.stringify(report));
    return [...last, this.#circumstances()].join("\n  ");
  }
}
