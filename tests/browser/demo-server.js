// Owns the demo's server as a process of its own, started as a person starts it, and what it is told from outside.

import { spawn } from "node:child_process";
import { on, once } from "node:events";

import { WebSocket } from "ws";

import { binary } from "./installation.js";

export class DemoServer {
  #process;
  #address;

  static async start(environment) {
    const server = new DemoServer();
    const stdio = ["ignore", "pipe", "inherit"];
    server.#process = spawn(binary(), ["demo-server", "--port", "0"], { env: environment, stdio });
    let said = "";
    for await (const part of server.#process.stdout) {
      said += part;
      const [, address] = /WebSocket +ws:\/\/(\S+)\/ws/.exec(said) ?? [];
      if (!address) continue;
      server.#address = address;
      return server;
    }
    throw new Error(`the demo server did not start: ${said}`);
  }

  get url() {
    return `ws://${this.#address}/ws`;
  }

  /** Has it play a task, as any of its clients may. */
  async startTask(taskId, { steps, interval_ms = 10, fail = false }) {
    const client = new WebSocket(this.url);
    await once(client, "open");
    client.send(JSON.stringify({ type: "start-task", taskId, steps, interval_ms, fail }));
    for await (const [data] of on(client, "message")) {
      const { type, message } = JSON.parse(data);
      if (type === "error") throw new Error(`the demo server: ${message}`);
      if (type === "started") break;
    }
    client.terminate();
  }

  /** What an issue tracker would call when something changes. */
  async webhook(data) {
    const headers = { "content-type": "application/json" };
    const request = { method: "POST", headers, body: JSON.stringify(data) };
    const response = await fetch(`http://${this.#address}/jira-webhook`, request);
    if (!response.ok) throw new Error(`the webhook: ${response.status} ${await response.text()}`);
  }

  async stop() {
    this.#process.kill("SIGKILL");
    await once(this.#process, "exit");
  }
}
