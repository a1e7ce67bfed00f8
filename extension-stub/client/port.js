// Owns: one native messaging port from its first message to its end: the greeting, chunks joined, batches unpacked,
// answers brought to whoever asked, and why it ended. Does not open another one (`bridge.js`) and does not know
// sessions.

import { BridgeError, portEnded } from "./errors.js";

const PROTOCOL = 1;
const CLIENT = "websocket-bridge-client/0.1.0";

/** A host starts a daemon if there is none; longer than that takes nobody waits. */
const GREETING_MS = 30_000;
const ANSWER_MS = 10_000;

/** A message from a server is at most 64 MiB, which JSON makes six times as long at worst. */
const MAX_CHUNKED_CHARACTERS = 400 * 1024 * 1024;

/**
 * @typedef {object} Uses
 * @property {(message: any) => void} hear
 * @property {(welcome: any) => void} greeted
 * @property {(error: BridgeError) => void} ended at most once, and not if this side closes
 */

export class Port {
  #surroundings;
  #name;
  #uses;
  /** @type {import("./surroundings.js").NativePort | undefined} */
  #native;
  /**
   * Pieces of the message that is not complete yet.
   *
   * @type {{ of: string, pieces: string[], characters: number } | undefined}
   */
  #chunks;
  /** @type {Map<string, { resolve: (answer: any) => void, reject: (error: BridgeError) => void, timer: any }>} */
  #asked = new Map();
  #refs = 0;
  /** What the host said before it left. @type {BridgeError | undefined} */
  #lastWords;
  #greeting;

  /**
   * Opens a port; how that goes is told later, never from inside of this.
   *
   * @param {import("./surroundings.js").Surroundings} surroundings
   * @param {string} name of the host
   * @param {Uses} uses
   */
  constructor(surroundings, name, uses) {
    this.#surroundings = surroundings;
    this.#name = name;
    this.#uses = uses;
    this.#greeting = surroundings.setTimer(() => {
      const message =
        `the native messaging host ${name} said nothing for ${GREETING_MS} ms. \`websocket-bridge ` +
        `doctor\` finds out why.`;
      this.#end(new BridgeError("host-silent", message, { retryable: true }));
    }, GREETING_MS);
    try {
      if (!surroundings.connectNative)
        throw new Error("Access to native messaging requires nativeMessaging permission.");
      const native = (this.#native = surroundings.connectNative(name));
      native.onDisconnect.addListener((port) => {
        if (native === this.#native) this.#end(this.#why(port?.error?.message ?? surroundings.lastError()));
      });
      native.onMessage.addListener((message) => {
        if (native === this.#native) this.#hear(message);
      });
      this.post({ type: "hello", protocol: PROTOCOL, client: CLIENT, features: ["batch"] });
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error);
      surroundings.setTimer(() => this.#end(this.#why(text)), 0);
    }
  }

  /**
   * What is posted at a port that has ended is gone; its end is being told.
   *
   * @param {object} message
   * @throws what the browser says of a message that it does not take
   */
  post(message) {
    try {
      this.#native?.postMessage(message);
    } catch (error) {
      if (!/disconnected port/i.test(String(error))) throw error;
    }
  }

  /**
   * Posts what is answered.
   *
   * @param {object} request
   * @returns {Promise<any>}
   */
  ask(request) {
    const ref = `ask-${(this.#refs += 1)}`;
    return new Promise((resolve, reject) => {
      const timer = this.#surroundings.setTimer(() => {
        this.#asked.delete(ref);
        reject(new BridgeError("timeout", `the bridge did not answer within ${ANSWER_MS} ms`, { retryable: true }));
      }, ANSWER_MS);
      this.#asked.set(ref, { resolve, reject, timer });
      this.post({ ...request, ref });
    });
  }

  /** Ends the port from this side. Nothing more is heard of it. */
  close() {
    const native = this.#native;
    this.#over(new BridgeError("port-ended", "the port to the bridge was closed by this side", { retryable: true }));
    native?.disconnect();
  }

  /** @param {any} message */
  #hear(message) {
    switch (message?.type) {
      case "batch":
        for (const one of message.messages) this.#uses.hear(one);
        return;
      case "chunk":
        return this.#join(message);
      case "welcome":
        this.#surroundings.clearTimer(this.#greeting);
        return this.#uses.greeted(message);
    }
    if (message?.ref !== undefined && this.#answer(message)) return;
    if (message?.type === "error" && message.session === undefined) this.#lastWords = BridgeError.from(message);
    this.#uses.hear(message);
  }

  /** @param {any} message @returns {boolean} whether it was one */
  #answer(message) {
    const asked = this.#asked.get(message.ref);
    if (!asked) return false;
    this.#asked.delete(message.ref);
    this.#surroundings.clearTimer(asked.timer);
    if (message.type === "error") asked.reject(BridgeError.from(message));
    else asked.resolve(message);
    return true;
  }

  /** @param {{ of: string, index: number, count: number, data: string }} chunk */
  #join({ of, index, count, data }) {
    if (index === 0) this.#chunks = { of, pieces: [], characters: 0 };
    const chunks = this.#chunks;
    if (!chunks || chunks.of !== of || chunks.pieces.length !== index || index >= count) {
      return this.#broken(`piece ${index} of ${count} of message ${of} is not the one that follows`);
    }
    chunks.pieces.push(data);
    chunks.characters += data.length;
    if (chunks.characters > MAX_CHUNKED_CHARACTERS) return this.#broken(`message ${of} is too long`);
    if (index + 1 < count) return;
    this.#chunks = undefined;
    let whole;
    try {
      whole = JSON.parse(chunks.pieces.join(""));
    } catch (error) {
      return this.#broken(`message ${of} is not JSON: ${error}`);
    }
    this.#hear(whole);
  }

  /** @param {string} what */
  #broken(what) {
    const message = `the bridge broke its protocol: ${what}. Install the same version of both sides.`;
    this.#end(new BridgeError("protocol", message, { retryable: true }));
  }

  /** @param {string | undefined} text how the browser says why the port ended */
  #why(text) {
    const error = portEnded(text, this.#name);
    // A host that leaves says why: better than the browser's word that it has left.
    return error.code === "port-ended" ? (this.#lastWords ?? error) : error;
  }

  /** @param {BridgeError} error */
  #end(error) {
    const native = this.#native;
    this.#over(error);
    native?.disconnect();
    this.#uses.ended(error);
  }

  /** @param {BridgeError} error */
  #over(error) {
    this.#native = undefined;
    this.#chunks = undefined;
    this.#surroundings.clearTimer(this.#greeting);
    for (const { reject, timer } of this.#asked.values()) {
      this.#surroundings.clearTimer(timer);
      reject(error);
    }
    this.#asked.clear();
  }
}
