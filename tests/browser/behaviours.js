// Owns a WebSocket server that behaves in another way on each of its paths, rightly or wrongly: what
// `websocket/scenarios.js` needs to see what a client makes of it.

import { createHash } from "node:crypto";
import { createServer } from "node:http";

import { WebSocketServer } from "ws";

const MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const LATE_MS = 500;
const SLOW_MS = 5;

const CLOSE = 0x88;
const TEXT = 0x81;
const RESERVED = 0x83;

const frame = (kind, content) => Buffer.from([kind, content.length, ...content]);
const closeFrame = (code, reason) => frame(CLOSE, Buffer.from([code >> 8, code & 0xff, ...Buffer.from(reason)]));
const later = (task) => setTimeout(task, LATE_MS);

export class BehavingServer {
  #http = createServer();
  #sockets = new Set();
  #websockets = new WebSocketServer({ noServer: true });
  #deaf = new WebSocketServer({ noServer: true, handleProtocols: () => false });
  #compressing = new WebSocketServer({ noServer: true, perMessageDeflate: true });
  /** How many handshakes wait to be answered late. */
  #waiting = 0;

  /** By path: what is done with the request for an upgrade, and its TCP connection. */
  #behaviours = {
    /** Sends everything back. */
    "/echo": this.#accept((peer) => peer.on("message", (data, binary) => peer.send(data, { binary }))),
    "/compressed": this.#accept(() => {}, this.#compressing),
    "/chooses-none": this.#accept(() => {}, this.#deaf),
    "/chooses-another": (request, socket) => {
      shakeHands(request, socket, { "Sec-WebSocket-Protocol": "another" });
      socket.once("data", () => socket.end(frame(CLOSE, [])));
    },
    /** Says what the request was. */
    "/request": this.#accept((peer, { url, headers }) => peer.send(JSON.stringify({ url, headers }))),
    /** Closes when it hears something, with the code and reason of the query. */
    "/closes": this.#accept((peer, { url }) => {
      const query = new URL(url, "ws://127.0.0.1").searchParams;
      const code = query.has("code") ? Number(query.get("code")) : undefined;
      peer.on("message", () => peer.close(code, query.get("reason") ?? undefined));
    }),
    /** Closes in the packet that accepts. */
    "/closes-at-once": (request, socket) => {
      shakeHands(request, socket, {}, closeFrame(1001, "at once"));
      socket.once("data", () => socket.end());
    },
    "/closes-late": (request, socket) => {
      shakeHands(request, socket);
      socket.once("data", () => later(() => socket.end(frame(CLOSE, []))));
    },
    /** Ends the TCP connection, without a word of WebSocket, when it hears something. */
    "/drops": (request, socket) => {
      shakeHands(request, socket);
      socket.once("data", () => socket.end());
    },
    "/resets": (request, socket) => {
      shakeHands(request, socket);
      socket.once("data", () => socket.resetAndDestroy());
    },
    /** Answers what it hears with a message, and a frame of a kind that there is not. */
    "/breaks-the-protocol": (request, socket) => {
      shakeHands(request, socket);
      const frames = [frame(TEXT, Buffer.from("test")), frame(RESERVED, Buffer.from("LOL"))];
      socket.once("data", () => socket.write(Buffer.concat(frames), () => socket.once("data", () => socket.end())));
    },
    /** Takes a moment for each message, and then says how long it was. */
    "/reads-slowly": this.#accept((peer) =>
      peer.on("message", ({ length }) => {
        peer.pause();
        setTimeout(() => {
          peer.send(String(length));
          peer.resume();
        }, SLOW_MS);
      }),
    ),
    "/no-http": (_, socket) => socket.end("FOO BAR BAZ\r\n\r\n"),
    "/wrong-key": (request, socket) => shakeHands(request, socket, { "Sec-WebSocket-Accept": "wrong" }),
    "/moved": (_, socket) => socket.end("HTTP/1.1 301 Moved\r\nLocation: /echo\r\nContent-Length: 0\r\n\r\n"),
    "/forbidden": (_, socket) => socket.end("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"),
    "/asks-for-password": (request, socket, head) => {
      if (request.headers.authorization) return this.#behaviours["/request"](request, socket, head);
      const lines = ["401 Unauthorized", 'WWW-Authenticate: Basic realm="test"', "Content-Length: 0"];
      socket.end(`HTTP/1.1 ${lines.join("\r\n")}\r\n\r\n`);
    },
    "/never-answers": () => {},
    /** Accepts late, and says how many were waiting when it came. */
    "/late": (request, socket, head) => {
      const others = String(this.#waiting);
      this.#waiting += 1;
      later(() => {
        this.#waiting -= 1;
        this.#accept((peer) => peer.send(others))(request, socket, head);
      });
    },
  };

  static async listen() {
    const server = new BehavingServer();
    server.#http.on("connection", (socket) => {
      server.#sockets.add(socket);
      socket.on("error", () => {}); // a client may go as it likes
      socket.on("end", () => socket.end());
      socket.on("close", () => server.#sockets.delete(socket));
    });
    server.#http.on("upgrade", (request, socket, head) => {
      const { pathname } = new URL(request.url, "ws://127.0.0.1");
      server.#behaviours[pathname](request, socket, head);
    });
    await new Promise((listening) => server.#http.listen(0, "127.0.0.1", listening));
    return server;
  }

  get url() {
    return `ws://127.0.0.1:${this.#http.address().port}`;
  }

  async close() {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((closed) => this.#http.close(closed));
  }

  #accept(then, websockets = this.#websockets) {
    return (request, socket, head) => websockets.handleUpgrade(request, socket, head, (peer) => then(peer, request));
  }
}

/** Accepts the upgrade by hand, and sends these frames in the same packet. */
function shakeHands(request, socket, headers = {}, ...frames) {
  const key = request.headers["sec-websocket-key"];
  const all = {
    Upgrade: "websocket",
    Connection: "Upgrade",
    "Sec-WebSocket-Accept": createHash("sha1")
      .update(key + MAGIC)
      .digest("base64"),
    ...headers,
  };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.write(Buffer.concat([Buffer.from(`HTTP/1.1 101 Switching Protocols\r\n${lines.join("")}\r\n`), ...frames]));
}
