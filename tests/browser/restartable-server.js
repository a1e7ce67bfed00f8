// Owns a WebSocket server that can be killed and started again at its address, and tells who connected when. On an
// address of its own, so that nobody else is given its port meanwhile.

import { WebSocketServer } from "ws";

const HOST = "127.0.0.2";

export class RestartableServer {
  #hear;
  #port = 0;
  #websockets;
  #connection;
  #connections = 0;

  /** `hear` is called with what comes, and the number of its connection. */
  constructor(hear) {
    this.#hear = hear;
  }

  get url() {
    return `ws://${HOST}:${this.#port}/`;
  }

  get isConnected() {
    return this.#connection !== undefined && this.#connection.readyState === this.#connection.OPEN;
  }

  async start() {
    this.#websockets = new WebSocketServer({ host: HOST, port: this.#port });
    this.#websockets.on("connection", (connection) => {
      const number = (this.#connections += 1);
      this.#connection = connection;
      connection.on("message", (text) => this.#hear(JSON.parse(text), number));
      connection.on("error", () => {}); // how connections end is none of its business
    });
    await new Promise((listening) => this.#websockets.on("listening", listening));
    this.#port = this.#websockets.address().port;
  }

  /** Ends at once, without a word to anybody. */
  async kill() {
    for (const connection of this.#websockets.clients) connection.terminate();
    await new Promise((closed) => this.#websockets.close(closed));
    this.#connection = undefined;
  }

  /** Says it to whoever connected last; if nobody is there, to nobody. */
  say(message) {
    this.#connection?.send(JSON.stringify(message), () => {});
  }
}
