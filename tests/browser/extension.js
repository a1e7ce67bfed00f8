// Owns the test's end of `extension/worker.js`: packs the extension for a browser, takes its reports and gives its
// orders over loopback HTTP, and speaks the native protocol for it: opens its sessions on every new port, joins chunks,
// acknowledges. A message is acknowledged after it is recorded here, so what was acknowledged is known to have reached
// the extension.

import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join } from "node:path";
import { text } from "node:stream/consumers";

import { until } from "./until.js";

const WORKER = new URL("./extension/worker.js", import.meta.url);
/** How much of what was seen a failure shows. */
const LAST = 10;

export class Extension {
  /** Everything that the workers reported, oldest first. */
  reports = [];
  /** The worker that opened a port last, by the id that it gave itself; null when it reported the port's end. */
  life = null;
  /** The stream of orders to the newest worker. */
  #orders;
  #sessions = new Map();
  /** Pieces of messages that are not complete yet, by the id that they are `of`. */
  #pieces = new Map();
  #http = createServer((request, response) => this.#serve(request, response));
  #circumstances;

  /** `circumstances` tells what should be known when a wait fails, beside what the extension saw. */
  static async listen(circumstances) {
    const extension = new Extension();
    extension.#circumstances = circumstances;
    await new Promise((listening) => extension.#http.listen(0, "127.0.0.1", listening));
    return extension;
  }

  async close() {
    this.#http.closeAllConnections();
    await new Promise((closed) => this.#http.close(closed));
  }

  /** Writes the extension into `directory`, with the browser's own part of the manifest and this test's address. */
  pack(directory, browsersPart) {
    const manifest = {
      manifest_version: 3,
      name: "The bridge's test extension",
      version: "1",
      permissions: ["alarms", "nativeMessaging"],
      host_permissions: ["http://127.0.0.1/*"],
      ...browsersPart,
    };
    const oracle = { url: `http://127.0.0.1:${this.#http.address().port}` };
    mkdirSync(directory);
    copyFileSync(WORKER, join(directory, "worker.js"));
    writeFileSync(join(directory, "manifest.json"), JSON.stringify(manifest));
    writeFileSync(join(directory, "oracle.json"), JSON.stringify(oracle));
  }

  /** Gives the newest worker an order that it knows. */
  order(order, details = {}) {
    this.#orders.write(`${JSON.stringify({ order, ...details })}\n`);
  }

  /** Has the worker post these messages to the host. */
  post(...messages) {
    this.order("post", { messages });
  }

  /** Opens a session: now if there is a port, and on every port to come. `acks: false`: nothing is acknowledged. */
  open(name, { acks = true, ...options }) {
    const session = new Session(this, { type: "open", session: name, ...options }, acks);
    this.#sessions.set(name, session);
    if (this.life) this.post(session.request);
    return session;
  }

  reported(event) {
    return this.reports.filter((report) => report.event === event);
  }

  async until(what, condition) {
    return until(what, condition, { seen: () => String(this) });
  }

  /** Waits until a worker other than `former` has a port. */
  async untilConnected(former) {
    await this.until("a new worker with a port", () => this.life !== null && this.life !== former);
  }

  /** Waits for a message from the host that meets the condition, and returns it. */
  async untilHeard(what, condition) {
    return this.until(what, () => this.reported("message").find(({ message }) => condition(message))?.message);
  }

  toString() {
    const last = this.reports.slice(-LAST).map(brief);
    last.unshift(`the last of ${this.reports.length} reports of the extension:`);
    return [...last, this.#circumstances()].join("\n  ");
  }

  async #serve(request, response) {
    if (request.url === "/orders") {
      this.#orders = response;
      return this.order("connect");
    }
    for (const report of JSON.parse(await text(request))) this.#take(report);
    for (const session of this.#sessions.values()) if (session.acks && this.life) session.acknowledge();
    response.end();
  }

  #take(report) {
    this.reports.push(report);
    if (report.event === "message") this.#hear(report.message);
    if (report.event === "disconnected") this.life = null;
    if (report.event === "connected") {
      this.life = report.life;
      this.#pieces.clear();
      this.post({ type: "hello", protocol: 1 });
      for (const session of this.#sessions.values()) session.reopen();
    }
  }

  #hear(message) {
    const whole = message?.type === "chunk" ? this.#join(message) : message;
    this.#sessions.get(whole?.session)?.hear(whole);
  }

  /** The whole message if this was the last of its pieces. */
  #join({ of, index, count, data }) {
    const pieces = this.#pieces.get(of) ?? [];
    pieces.push(data);
    this.#pieces.set(of, pieces);
    if (index === pieces.length - 1 && pieces.length < count) return undefined;
    this.#pieces.delete(of);
    try {
      return JSON.parse(pieces.join(""));
    } catch (error) {
      this.reports.push({ event: "a message in pieces does not fit together", of, index, count, error: String(error) });
      return undefined;
    }
  }
}

/** One session, as the extension has it through its newest port. */
class Session {
  /** What came from the host for this session through this port, chunks joined, oldest first. */
  heard = [];
  #extension;
  #acknowledged = 0;

  constructor(extension, request, acks) {
    this.#extension = extension;
    this.request = request;
    this.name = request.session;
    this.acks = acks;
  }

  of(type) {
    return this.heard.filter((message) => message.type === type);
  }

  get messages() {
    return this.of("message");
  }

  /** One field of every message. */
  all(field) {
    return this.messages.map((message) => message[field]);
  }

  /** The answer to this port's `open`. */
  get opened() {
    return this.of("opened")[0];
  }

  get state() {
    return this.heard.findLast(({ state }) => state)?.state;
  }

  /** Each of `contents` has one of `payload`, `text` or `binary`. */
  send(...contents) {
    this.#extension.post(...contents.map((content) => ({ type: "send", session: this.name, ...content })));
  }

  reopen() {
    this.heard = [];
    this.#acknowledged = 0;
    this.#extension.post(this.request);
  }

  hear(message) {
    this.heard.push(message);
  }

  /** Acknowledges what was heard, or only up to `seq`. */
  acknowledge(seq = this.heard.findLast((message) => message.seq)?.seq ?? 0) {
    if (seq <= this.#acknowledged) return;
    this.#acknowledged = seq;
    this.#extension.post({ type: "ack", session: this.name, seq });
  }

  async until(what, condition) {
    await until(`${what} in session ${this.name}`, condition, { seen: () => String(this) });
  }

  async untilConnected() {
    await this.until("a connection", () => this.state === "connected");
  }

  async untilMessages(count) {
    await this.until(`${count} messages`, () => this.messages.length >= count);
  }

  toString() {
    const last = this.heard.slice(-LAST).map(brief);
    last.unshift(`the last of ${this.heard.length} messages of session ${this.name}:`);
    return [...last, this.#extension].join("\n  ");
  }
}

function brief(value) {
  const json = JSON.stringify(value);
  return json.length > 200 ? `${json.slice(0, 200)}… (${json.length} characters)` : json;
}
