// Owns: the browser's own WebSocket interface, over one direct connection of the bridge: what a web page may do in
// which state, which exceptions it gets, and in which order its events come. Nothing is kept and nothing tried again:
// when the port ends, so does the socket, and whoever uses it connects anew.

import { fromBase64, toBase64 } from "./base64.js";
import { BridgeError } from "./errors.js";

const CONNECTING = 0;
const OPEN = 1;
const CLOSING = 2;
const CLOSED = 3;

const ABNORMAL = 1006;
const MAX_REASON_BYTES = 123;
/** Errors for which this side gives an open connection up. With any other it is lost, of which only its close tells. */
const FAILURES = ["protocol", "message-too-large", "queue-full", "too-large"];
/** A sub-protocol is a token of HTTP. */
const TOKEN = /^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/;

const encoder = new TextEncoder();

/** Node.js had none before version 23. @type {typeof CloseEvent} */
const CloseEventClass =
  globalThis.CloseEvent ??
  class CloseEvent extends Event {
    /** @param {string} type @param {CloseEventInit} init */
    constructor(type, { code = 0, reason = "", wasClean = false, ...init } = {}) {
      super(type, init);
      this.code = code;
      this.reason = reason;
      this.wasClean = wasClean;
    }
  };

/**
 * What a socket says on the port.
 *
 * @typedef {object} Line
 * @property {(message: object) => void} post throws if the browser does not take it
 * @property {() => void} done the socket is closed
 */

/**
 * What is said to a socket.
 *
 * @typedef {object} Ear
 * @property {() => void} attach there is a port
 * @property {(message: any) => void} hear what the bridge says about this connection
 * @property {(error?: BridgeError) => void} cut the connection is lost without a word from the server
 */

/** @typedef {"open" | "message" | "error" | "close"} EventName */

/**
 * The class of the sockets of one bridge. Each bridge has a class of its own, rather than one that inherits from a
 * common one: what programs look for in `WebSocket.prototype`, replace there or delete, is there itself.
 *
 * @param {(ear: Ear) => Line} open
 * @param {(task: () => void) => void} newTask
 * @returns {typeof globalThis.WebSocket}
 */
export function webSocketOver(open, newTask) {
  class WebSocket extends EventTarget {
    #line;
    #url;
    /** @type {string[]} */
    #offered;
    #readyState = CONNECTING;
    #protocol = "";
    /** The bridge negotiates none. */
    #extensions = "";
    /** @type {BinaryType} */
    #binaryType = "blob";
    /** Bytes of all messages, and how many of them are in the hands of the system. */
    #bytes = 0;
    #sentBytes = 0;
    /** Sends and the close in order: a blob has to be read first. @type {Promise<void> | undefined} */
    #behind;
    #turns = new Turns(newTask, (message) => this.#hear(message));
    /** Whether the bridge was asked for the connection. */
    #isAsked = false;
    #wasOpen = false;
    #hasFailed = false;
    /** @type {Map<string, { handler: any, listener: (event: any) => void }>} */
    #handlers = new Map();
    /** What the bridge said of the reason. @type {BridgeError | undefined} */
    #error;

    /**
     * @param {string | URL} url
     * @param {string | Iterable<string>} [protocols]
     */
    constructor(url, protocols = []) {
      super();
      if (arguments.length === 0) throw new TypeError("a WebSocket needs the URL of its server");
      this.#url = parse(url);
      this.#offered = (isSequence(protocols) ? [...protocols] : [protocols]).map(String);
      const different = new Set(this.#offered.map((protocol) => protocol.toLowerCase()));
      if (different.size !== this.#offered.length || this.#offered.some((protocol) => !TOKEN.test(protocol))) {
        throw new DOMException(
          `the sub-protocols ${JSON.stringify(this.#offered)} are not tokens, or not all different`,
          "SyntaxError",
        );
      }
      this.#line = open({
        attach: () => this.#attach(),
        hear: (message) => this.#turns.add(message),
        cut: (error) => this.#cut(error),
      });
    }

    get url() {
      return this.#url.href;
    }

    get readyState() {
      return this.#readyState;
    }

    get protocol() {
      return this.#protocol;
    }

    get extensions() {
      return this.#extensions;
    }

    get bufferedAmount() {
      return this.#bytes - this.#sentBytes;
    }

    get binaryType() {
      return this.#binaryType;
    }

    set binaryType(type) {
      const isKnown = type === "blob" || type === "arraybuffer";
      this.#binaryType = isKnown ? type : this.#binaryType; // others are ignored, as by any enumeration
    }

    get onopen() {
      return this.#handler("open");
    }

    set onopen(handler) {
      this.#setHandler("open", handler);
    }

    get onmessage() {
      return this.#handler("message");
    }

    set onmessage(handler) {
      this.#setHandler("message", handler);
    }

    get onerror() {
      return this.#handler("error");
    }

    set onerror(handler) {
      this.#setHandler("error", handler);
    }

    get onclose() {
      return this.#handler("close");
    }

    set onclose(handler) {
      this.#setHandler("close", handler);
    }

    /** @param {string | ArrayBuffer | ArrayBufferView | Blob} data */
    send(data) {
      if (arguments.length === 0) throw new TypeError("there is nothing to send");
      if (this.#readyState === CONNECTING) {
        throw new DOMException(
          `${this.#url.href} is not connected yet: wait for the event open before you send`,
          "InvalidStateError",
        );
      }
      if (data instanceof Blob) {
        this.#bytes += data.size;
        if (this.#readyState === OPEN)
          this.#inOrder(async () => this.#post({ binary: toBase64(await data.arrayBuffer()) }));
      } else if (data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
        this.#bytes += data.byteLength;
        // Read now: the caller may change it afterwards.
        if (this.#readyState === OPEN) this.#postInOrder({ binary: toBase64(data) });
      } else {
        const text = wellFormed(String(data));
        this.#bytes += encoder.encode(text).length;
        if (this.#readyState === OPEN) this.#postInOrder({ text });
      }
    }

    /**
     * @param {number} [code]
     * @param {string} [reason]
     */
    close(code = undefined, reason = undefined) {
      const before = this.#readyState;
      const number = code === undefined ? undefined : clamp(code);
      if (number !== undefined && number !== 1000 && (number < 3000 || number > 4999)) {
        throw new DOMException(
          `the close code ${code} is neither 1000 nor between 3000 and 4999`,
          "InvalidAccessError",
        );
      }
      const said = reason === undefined ? undefined : wellFormed(String(reason));
      if (said !== undefined && encoder.encode(said).length > MAX_REASON_BYTES) {
        throw new DOMException(`the reason is longer than ${MAX_REASON_BYTES} bytes`, "SyntaxError");
      }
      if (before >= CLOSING) return;
      this.#readyState = CLOSING;
      if (before === CONNECTING && !this.#isAsked) return newTask(() => this.#cut());
      // A reason cannot stand without a code.
      const status = number ?? (said ? 1000 : undefined);
      const close = {
        type: "close",
        ...(status === undefined ? {} : { code: status, ...(said ? { reason: said } : {}) }),
      };
      if (this.#behind) this.#inOrder(async () => this.#line.post(close));
      else this.#line.post(close);
    }

    #attach() {
      // The line is there when the constructor is done.
      queueMicrotask(() => {
        if (this.#isAsked || this.#readyState !== CONNECTING) return;
        this.#isAsked = true;
        this.#line.post({ type: "open", mode: "direct", url: this.#url.href, protocols: this.#offered });
      });
    }

    /** @param {any} message */
    #hear(message) {
      switch (message.type) {
        case "state":
          if (message.state === "connected") this.#connected(message.protocol ?? "");
          if (message.state === "disconnected") {
            this.#readyState = Math.max(this.#readyState, CLOSING);
            if (message.reason) this.#error = BridgeError.from(message.reason);
          }
          return;
        case "message":
          return this.#received(message);
        case "sent":
          this.#sentBytes = message.bytes;
          return;
        case "closed":
          return this.#closed(message);
        case "error":
          this.#error = BridgeError.from(message);
          // One that was never opened has no `closed` to come.
          if (this.#readyState === CONNECTING) this.#cut(this.#error);
      }
    }

    /** @param {BridgeError} [error] */
    #cut(error) {
      this.#error ??= error;
      this.#turns.add({ type: "closed", code: ABNORMAL, reason: "", clean: false });
    }

    /** @param {string} protocol */
    #connected(protocol) {
      if (this.#readyState !== CONNECTING) return;
      this.#readyState = OPEN;
      this.#wasOpen = true;
      this.#protocol = protocol;
      this.dispatchEvent(new Event("open"));
    }

    /** @param {{ text?: string, binary?: string }} message */
    #received({ text, binary = "" }) {
      if (this.#readyState !== OPEN) return;
      const { origin } = this.#url;
      if (text !== undefined) {
        this.dispatchEvent(new MessageEvent("message", { data: text, origin }));
      } else {
        const bytes = fromBase64(binary);
        const data = this.#binaryType === "blob" ? new Blob([bytes]) : bytes.buffer;
        this.dispatchEvent(new MessageEvent("message", { data, origin }));
      }
    }

    /** @param {{ code: number, reason: string, clean: boolean }} end */
    #closed({ code, reason, clean }) {
      if (this.#readyState === CLOSED) return;
      this.#readyState = CLOSED;
      this.#line?.done();
      // The browser's own events say nothing of why, which only its console tells.
      const error = clean ? undefined : this.#error;
      if (!clean && (!this.#wasOpen || FAILURES.includes(error?.code ?? ""))) {
        this.dispatchEvent(Object.assign(new Event("error"), { error, message: error?.message ?? "" }));
      }
      this.dispatchEvent(Object.assign(new CloseEventClass("close", { code, reason, wasClean: clean }), { error }));
    }

    /** @param {{ text: string } | { binary: string }} content */
    #postInOrder(content) {
      if (this.#behind) this.#inOrder(async () => this.#post(content));
      else this.#post(content);
    }

    /** @param {() => Promise<void>} task */
    #inOrder(task) {
      const behind = (this.#behind ?? Promise.resolve()).then(task).catch((error) => this.#fail(error));
      this.#behind = behind;
      void behind.then(() => {
        if (this.#behind === behind) this.#behind = undefined;
      });
    }

    /** @param {{ text: string } | { binary: string }} content */
    #post(content) {
      if (this.#hasFailed || this.#readyState === CLOSED) return;
      try {
        this.#line.post({ type: "send", ...content });
      } catch (error) {
        this.#fail(error);
      }
    }

    /** A message is missing: better no connection than one with a hole. @param {unknown} cause */
    #fail(cause) {
      this.#hasFailed = true;
      this.#error = new BridgeError(
        "too-large",
        `a message could not be given to the bridge: ${cause}. Send smaller ones.`,
        { cause },
      );
      this.#readyState = Math.max(this.#readyState, CLOSING);
      this.#line.post({ type: "detach" });
      newTask(() => this.#cut());
    }

    /** @param {EventName} name @returns {any} */
    #handler(name) {
      return this.#handlers.get(name)?.handler ?? null;
    }

    /** @param {EventName} name @param {any} handler */
    #setHandler(name, handler) {
      const known = this.#handlers.get(name);
      // An object that is no function is kept and never called, as everywhere on the web.
      if (handler === null || (typeof handler !== "object" && typeof handler !== "function")) {
        if (known) this.removeEventListener(name, known.listener);
        this.#handlers.delete(name);
      } else if (known) {
        known.handler = handler; // which keeps its place among the listeners
      } else {
        const listener = (/** @type {Event} */ event) => {
          if (typeof registered.handler === "function") registered.handler.call(this, event);
        };
        const registered = { handler, listener };
        this.#handlers.set(name, registered);
        this.addEventListener(name, registered.listener);
      }
    }
  }

  const { prototype } = WebSocket;
  for (const name of Object.keys(Object.getOwnPropertyDescriptors(prototype))) {
    if (name !== "constructor") Object.defineProperty(prototype, name, { enumerable: true });
  }
  for (const [name, value] of Object.entries({ CONNECTING, OPEN, CLOSING, CLOSED })) {
    Object.defineProperty(WebSocket, name, { value, enumerable: true });
    Object.defineProperty(prototype, name, { value, enumerable: true });
  }
  Object.defineProperty(prototype, Symbol.toStringTag, { value: "WebSocket", configurable: true });
  return /** @type {any} */ (WebSocket);
}

/**
 * Things that are done one after the other, each in a task of its own, as the browser's events are: whoever waits for
 * one with a promise has to be there again for the next, though the bridge says many at once.
 */
class Turns {
  /** The oldest last. @type {any[]} */
  #next = [];
  /** What came since, the oldest first. @type {any[]} */
  #since = [];
  #isBusy = false;
  #newTask;
  #take;

  /** @param {(task: () => void) => void} newTask @param {(thing: any) => void} take */
  constructor(newTask, take) {
    this.#newTask = newTask;
    this.#take = take;
  }

  /** @param {any} thing */
  add(thing) {
    this.#since.push(thing);
    if (!this.#isBusy) this.#takeNext();
  }

  #takeNext() {
    if (this.#next.length === 0) [this.#next, this.#since] = [this.#since.reverse(), []];
    this.#isBusy = this.#next.length > 0;
    if (!this.#isBusy) return;
    this.#take(this.#next.pop());
    this.#newTask(() => this.#takeNext());
  }
}

/** @param {string | URL} url */
function parse(url) {
  let parsed;
  try {
    parsed = new URL(url, globalThis.location?.href);
  } catch {
    throw new DOMException(`${JSON.stringify(String(url))} is not a URL`, "SyntaxError");
  }
  if (parsed.protocol === "http:") parsed.protocol = "ws:";
  if (parsed.protocol === "https:") parsed.protocol = "wss:";
  if (parsed.protocol !== "ws:" && parsed.protocol !== "wss:") {
    throw new DOMException(
      `${parsed.href} is not the URL of a WebSocket server: it begins with ws: or wss:`,
      "SyntaxError",
    );
  }
  if (parsed.href.includes("#"))
    throw new DOMException(`${parsed.href} has a fragment, which no server sees`, "SyntaxError");
  return parsed;
}

/** What WebIDL takes for a sequence. @param {unknown} value @returns {value is Iterable<unknown>} */
function isSequence(value) {
  return typeof value === "object" && value !== null && Symbol.iterator in value;
}

/** What WebIDL's `[Clamp] unsigned short` makes of a number. @param {unknown} value */
function clamp(value) {
  const number = Math.min(Math.max(Number(value) || 0, 0), 0xffff);
  const floor = Math.floor(number);
  const rest = number - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** A lone half of a surrogate pair is U+FFFD, as in every string that a browser sends. @param {string} text */
function wellFormed(text) {
  const string = /** @type {any} */ (text);
  return string.isWellFormed?.() === true ? text : new TextDecoder().decode(encoder.encode(text));
}
