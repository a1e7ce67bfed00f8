// Owns the real bridge for tests: the binary with a home of its own, the demo server, and workers whose ports are real
// hosts. Everything that was started here ends with it.

import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { AreaStandIn } from "./browser-stand-in.js";

const ORIGIN = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";
const DEADLINE_MS = 30_000;

export class Installation {
  #home = mkdtempSync(join(tmpdir(), "websocket-bridge-client-"));
  #environment = {
    HOME: this.#home,
    PATH: process.env.PATH,
    WEBSOCKET_BRIDGE_HOME: join(this.#home, "bridge"),
  };
  #server;
  #token;
  /** Hosts that were started. */
  #hosts = new Set();
  /** What the extension keeps. */
  local = new AreaStandIn({ setTimer: (_, task, ms) => setTimeout(task, ms) });

  /** Starts the demo server. */
  static async start() {
    const installation = new Installation();
    await installation.#serve();
    return installation;
  }

  async #serve() {
    this.#server = spawn(binary(), ["demo-server", "--port", "0"], {
      env: this.#environment,
      stdio: ["ignore", "pipe", 2],
    });
    let said = "";
    for await (const part of this.#server.stdout) {
      said += part;
      const [, address] = /WebSocket +ws:\/\/(\S+)\/ws/.exec(said) ?? [];
      const [, token] = /control token +(\S+)/.exec(said) ?? [];
      if (!address || !token) continue;
      this.url = `ws://${address}/ws`;
      this.#http = `http://${address}`;
      this.#token = token;
      return;
    }
    throw new Error(`the demo server did not start: ${said}`);
  }

  #http;

  /** Has the server say this to everybody. */
  async publish(message) {
    await this.#control("publish", { method: "POST", body: JSON.stringify({ message }) });
  }

  /** What the server received, as JSON where it is. */
  async received() {
    const all = [];
    for (let after = 0; ;) {
      const { messages } = await this.#control(`received?after=${after}`, {});
      if (messages.length === 0) return all;
      after = messages.at(-1).number;
      all.push(...messages.map(({ text }) => JSON.parse(text)));
    }
  }

  async #control(what, request) {
    const headers = { "content-type": "application/json", "x-demo-token": this.#token };
    const response = await fetch(`${this.#http}/control/${what}`, { headers, ...request });
    if (!response.ok) throw new Error(`${what}: ${response.status} ${await response.text()}`);
    return response.json();
  }

  /** A worker; what it has is told in `surroundings.js`. */
  worker() {
    return new Worker(this.local, (worker) => {
      const port = new NativePort(worker, this.#environment);
      this.#hosts.add(port);
      return port;
    });
  }

  killDaemon() {
    const lock = join(this.#environment.WEBSOCKET_BRIDGE_HOME, "daemon.lock");
    process.kill(Number(readFileSync(lock, "utf8").trim()), "SIGKILL");
  }

  async run(...command) {
    return new Promise((resolve, reject) => {
      execFile(binary(), command, { env: this.#environment, timeout: DEADLINE_MS }, (error, stdout) => {
        if (error) reject(error);
        else resolve(stdout);
      });
    });
  }

  async end() {
    for (const host of this.#hosts) host.disconnect();
    await this.run("stop");
    this.#server.kill("SIGKILL");
    await once(this.#server, "exit");
    rmSync(this.#home, { recursive: true, force: true, maxRetries: 10 });
  }
}

/** A worker that can die: then nothing of it runs any more. */
class Worker {
  isAlive = true;
  lastErrorText;
  #ports = [];

  constructor(area, connect) {
    this.surroundings = {
      connectNative: () => {
        const port = connect(this);
        this.#ports.push(port);
        return port;
      },
      lastError: () => this.lastErrorText,
      localStorage: area.for(this),
      sessionStorage: undefined,
      alarms: undefined,
      onStartup: undefined,
      isBackground: true,
      isPrivate: false,
      now: () => Date.now(),
      random: () => Math.random(),
      uuid: () => crypto.randomUUID(),
      setTimer: (task, ms) => setTimeout(() => this.isAlive && task(), ms),
      clearTimer: (timer) => clearTimeout(timer),
      newTask: (task) => setImmediate(() => this.isAlive && task()),
      exclusively: (_, task) => task(),
    };
  }

  /** Dies. The browser closes the host's pipes, or kills it at once. */
  die(how) {
    this.isAlive = false;
    for (const port of this.#ports) how === "kill" ? port.kill() : port.disconnect();
  }
}

/** A browser's native messaging port over a child process. */
class NativePort {
  #host;
  #worker;
  #buffer = Buffer.alloc(0);
  #isOpen = true;
  #listeners = { message: [], disconnect: [] };
  error = null;
  onMessage = { addListener: (listener) => this.#listeners.message.push(listener) };
  onDisconnect = { addListener: (listener) => this.#listeners.disconnect.push(listener) };

  constructor(worker, env) {
    this.#worker = worker;
    this.#host = spawn(binary(), [ORIGIN], { env, stdio: ["pipe", "pipe", "ignore"] });
    this.#host.stdin.on("error", () => {}); // it has ended, which `close` tells
    this.#host.stdout.on("data", (bytes) => this.#read(bytes));
    this.#host.stdout.on("close", () => this.#ended());
  }

  postMessage(message) {
    if (!this.#worker.isAlive) return;
    if (!this.#isOpen) throw new Error("Attempting to use a disconnected port object");
    const json = Buffer.from(JSON.stringify(message));
    const length = Buffer.alloc(4);
    length.writeUInt32LE(json.length);
    this.#host.stdin.write(Buffer.concat([length, json]));
  }

  disconnect() {
    this.#isOpen = false;
    this.#host.stdin.end();
  }

  kill() {
    this.#isOpen = false;
    this.#host.kill("SIGKILL");
  }

  #read(bytes) {
    this.#buffer = Buffer.concat([this.#buffer, bytes]);
    while (this.#buffer.length >= 4) {
      const end = 4 + this.#buffer.readUInt32LE(0);
      if (this.#buffer.length < end) return;
      const message = JSON.parse(this.#buffer.subarray(4, end).toString());
      this.#buffer = this.#buffer.subarray(end);
      if (this.#isOpen && this.#worker.isAlive) for (const listener of this.#listeners.message) listener(message);
    }
  }

  #ended() {
    if (!this.#isOpen || !this.#worker.isAlive) return;
    this.#isOpen = false;
    this.#worker.lastErrorText = "Native host has exited.";
    for (const listener of this.#listeners.disconnect) listener(this);
    this.#worker.lastErrorText = undefined;
  }
}

/** Waits for a condition; when the deadline passes, says what was there instead. */
export async function until(what, condition, seen = () => "") {
  const end = performance.now() + DEADLINE_MS;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (performance.now() > end) throw new Error(`waited ${DEADLINE_MS} ms for ${what}\n${await seen()}`);
    await new Promise((again) => setTimeout(again, 10));
  }
}

function binary() {
  if (process.env.WEBSOCKET_BRIDGE_BIN) return process.env.WEBSOCKET_BRIDGE_BIN;
  const built = fileURLToPath(new URL("../../../target/debug/websocket-bridge", import.meta.url));
  if (!existsSync(built))
    throw new Error(`there is no ${built}: cargo build makes it, or WEBSOCKET_BRIDGE_BIN names another`);
  return built;
}
