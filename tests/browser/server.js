// Owns the far end of the bridge: a WebSocket server in the test's own process. It keeps apart what comes in on each
// path, frame by frame and byte for byte, and sends what the test says; every session of a test connects to a path of
// its own.

import { WebSocketServer } from "ws";

import { until } from "./until.js";

export class Server {
  #peers = new Map();
  #websockets;

  /** On any port that is free, or on one that is known to be. */
  static async listen(port = 0) {
    const server = new Server();
    server.#websockets = new WebSocketServer({ host: "127.0.0.1", port });
    server.#websockets.on("connection", (connection, request) => server.at(request.url).accept(connection, request));
    await new Promise((listening) => server.#websockets.on("listening", listening));
    return server;
  }

  async close() {
    for (const connection of this.#websockets.clients) connection.terminate();
    await new Promise((closed) => this.#websockets.close(closed));
  }

  /** The peer of whoever connects to `path`. */
  at(path) {
    if (!this.#peers.has(path))
      this.#peers.set(path, new Peer(`ws://127.0.0.1:${this.#websockets.address().port}${path}`));
    return this.#peers.get(path);
  }
}

class Peer {
  /** Every frame received: a text frame as a string, a binary frame as a Buffer. */
  received = [];
  /** The `Origin` header of every connection so far. */
  origins = [];
  #connection;

  constructor(url) {
    this.url = url;
  }

  accept(connection, request) {
    this.#connection = connection;
    this.origins.push(request.headers.origin);
    connection.on("message", (data, isBinary) => this.received.push(isBinary ? data : data.toString()));
  }

  /** Sends a string as a text frame, a Buffer as a binary one. */
  send(...frames) {
    for (const frame of frames) this.#connection.send(frame);
  }

  /** Closes the newest connection with a code. */
  close(code) {
    this.#connection.close(code);
  }

  /** Ends the newest connection without a word. */
  drop() {
    this.#connection.terminate();
  }

  async untilReceived(count) {
    const seen = () => `${this.url} had ${this.origins.length} connections and ${this.received.length} frames`;
    await until(`${count} frames at the server`, () => this.received.length >= count, { seen });
  }
}
