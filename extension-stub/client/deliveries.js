// Owns: what comes from the server, on its way to the handlers: strictly in order, each one until its handlers are done
// with it, and no one twice. The place up to where all is handled (the mark) outlives the worker: it is written to the
// storage, and at the same time the bridge is told. The next worker needs one of the two, whichever is faster. Does not
// own the port: `session.js` passes on what comes and posts the acknowledgements.
//
// A worker can die while a handler runs, or before either is done. Then, and only then, that handler is called again
// for the same message.

import { BridgeError } from "./errors.js";
import { isThenable } from "./listeners.js";

/** How long a handler that failed is left in peace before each further attempt. */
const RETRY_AFTER_MS = [250, 1000, 4000];

/**
 * Where in the stream something stands.
 *
 * @typedef {object} Place
 * @property {number} seq
 * @property {string} epoch
 * @property {boolean} replay whether it had come before this worker attached to the session
 */

/**
 * What the server said: one of `payload` (a text frame that is JSON), `text` (any other) and `binary`.
 *
 * @typedef {Place & { type: "message", at: number, payload?: any, text?: string, binary?: Uint8Array }} Message
 */

/**
 * What can no longer be delivered: the numbers `from` to `seq`. PROTOCOL.md lists the reasons; `count` is null if nobody
 * can know.
 *
 * @typedef {object} Missing
 * @property {"gap"} type
 * @property {number} from
 * @property {string} reason
 * @property {number | null} count
 * @property {number} [at_most]
 * @property {number} [since]
 * @property {number} [until]
 */

/** @typedef {Place & Missing} Gap */

/** @typedef {Message | Gap} Delivery */

/** @typedef {{ epoch: string, seq: number }} Mark */

export class Deliveries {
  #surroundings;
  #store;
  #key;
  #listeners;
  #handlerMs;
  #careful;
  #acknowledge;
  #tellError;

  /** @type {Delivery[]} */
  #waiting = [];
  /** Whether handlers run that are not done yet. */
  #busy = false;
  /** All up to here is handled. @type {Mark | undefined} */
  #mark;
  /** All up to here is known to be handled by the workers to come as well. @type {Mark | undefined} */
  #kept;
  /** The end of the writing that is under way. @type {Promise<void> | undefined} */
  #keeping;
  #keepingFails = false;
  /** Whether the bridge was told within this moment, and is not to be told again before it is over. */
  #isTelling = false;
  /** How often everything was forgotten: what was under way then leaves no mark. */
  #forgotten = 0;

  /**
   * @param {object} needs
   * @param {import("./surroundings.js").Surroundings} needs.surroundings
   * @param {import("./storage.js").Store} needs.store
   * @param {string} needs.key where the mark is kept
   * @param {(delivery: Delivery) => (() => unknown)[]} needs.listeners the calls that a delivery leads to
   * @param {number} needs.handlerMs how long a handler may take
   * @param {boolean} needs.careful whether the next handler waits until it is written down that the last one is done
   * @param {(mark: Mark) => void} needs.acknowledge
   * @param {(error: BridgeError) => void} needs.tellError
   */
  constructor({ surroundings, store, key, listeners, handlerMs, careful, acknowledge, tellError }) {
    this.#surroundings = surroundings;
    this.#store = store;
    this.#key = key;
    this.#listeners = listeners;
    this.#handlerMs = handlerMs;
    this.#careful = careful;
    this.#acknowledge = acknowledge;
    this.#tellError = tellError;
  }

  /** The storage's key of the mark; `load` wants its value. */
  get key() {
    return this.#key;
  }

  /** @param {any} mark as a former worker left it */
  load(mark) {
    if (typeof mark?.epoch !== "string" || !Number.isSafeInteger(mark.seq)) return;
    this.#mark ??= { epoch: mark.epoch, seq: mark.seq };
    this.#kept = this.#mark;
  }

  /** Up to where all is handled. */
  get mark() {
    return this.#mark;
  }

  /** Whether nothing waits, runs, or is to be written or told. */
  get isIdle() {
    return this.#waiting.length === 0 && !this.#busy && !this.#keeping && !this.#isTelling;
  }

  /**
   * A port has the session, from the place `acked` on: the bridge knows that all up to there is handled.
   *
   * @param {Mark} acked
   */
  opened(acked) {
    const mark = this.#mark;
    // In another epoch the mark stays, so that the gap between the two is told however often the worker dies before.
    if (!mark || (mark.epoch === acked.epoch && mark.seq < acked.seq)) this.#mark = this.#kept = acked;
    else if (mark.epoch === acked.epoch && mark.seq > acked.seq) this.#tellMark();
  }

  /** The port is gone: what waits here comes again through the next one. */
  detached() {
    this.#waiting = [];
  }

  /** The session was forgotten, and its numbers with it. @returns {Promise<void>} */
  async forget() {
    this.detached();
    this.#forgotten += 1;
    this.#mark = this.#kept = undefined;
    await this.#store.write({ [this.#key]: undefined });
  }

  /** @param {Delivery} delivery */
  take(delivery) {
    this.#waiting.push(delivery);
    if (!this.#busy) this.#handleWaiting();
  }

  #handleWaiting() {
    this.#busy = true;
    for (let next = this.#waiting.shift(); next; next = this.#waiting.shift()) {
      const delivery = next;
      if (this.#isKnown(delivery)) {
        this.#tellMark(); // the bridge seems not to know
        continue;
      }
      const forgotten = this.#forgotten;
      const handled = this.#handle(delivery);
      if (handled || this.#careful) {
        void this.#finishHandling(delivery, forgotten, handled);
        return;
      }
      this.#handled(delivery, forgotten);
    }
    this.#busy = false;
  }

  /**
   * @param {Delivery} delivery
   * @param {number} forgotten
   * @param {Promise<unknown> | undefined} handled
   */
  async #finishHandling(delivery, forgotten, handled) {
    await handled;
    this.#handled(delivery, forgotten);
    if (this.#careful) await this.#keeping;
    this.#handleWaiting();
  }

  /** @param {Delivery} delivery */
  #isKnown({ epoch, seq }) {
    return this.#mark?.epoch === epoch && seq <= this.#mark.seq;
  }

  /**
   * Calls the handlers; a promise if that is not done when it returns. The promise never fails.
   *
   * @param {Delivery} delivery
   * @returns {Promise<unknown> | undefined}
   */
  #handle(delivery) {
    /** @type {Promise<void>[]} */
    const pending = [];
    for (const call of this.#listeners(delivery)) {
      try {
        const result = call();
        if (isThenable(result)) pending.push(this.#finish(delivery, call, result));
      } catch (error) {
        pending.push(this.#finish(delivery, call, Promise.reject(error)));
      }
    }
    return pending.length > 0 ? Promise.all(pending) : undefined;
  }

  /**
   * Waits for a handler, and calls it again if it fails. One that fails for good, or hangs, is passed over.
   *
   * @param {Delivery} delivery
   * @param {() => unknown} call
   * @param {PromiseLike<unknown>} first
   */
  async #finish(delivery, call, first) {
    const { seq } = delivery;
    const what = `the handler of ${delivery.type} ${seq}`;
    for (let attempt = 0, result = /** @type {unknown} */ (first); ; attempt += 1) {
      try {
        if (await this.#isDone(result)) return;
        const message =
          `${what} was not done after ${this.#handlerMs} ms, and is passed over. Let it end, or set ` +
          `\`handlerTimeout\`.`;
        return this.#tellError(new BridgeError("handler-timeout", message, { seq }));
      } catch (cause) {
        const pause = RETRY_AFTER_MS[attempt];
        if (pause === undefined) {
          const message =
            `${what} failed ${attempt + 1} times, and is passed over: ${cause}. Let it deal with ` +
            `what it cannot handle.`;
          return this.#tellError(new BridgeError("handler-failed", message, { seq, cause }));
        }
        await new Promise((resolve) => this.#surroundings.setTimer(() => resolve(undefined), pause));
      }
      // The next attempt is made inside of the promise, so that what it throws is caught above.
      result = new Promise((resolve) => resolve(call()));
    }
  }

  /**
   * @param {unknown} result
   * @returns {Promise<boolean>} false if it takes too long
   */
  #isDone(result) {
    const { setTimer, clearTimer } = this.#surroundings;
    return new Promise((resolve, reject) => {
      const timer = setTimer(() => resolve(false), this.#handlerMs);
      Promise.resolve(result)
        .then(() => resolve(true), reject)
        .finally(() => clearTimer(timer));
    });
  }

  /**
   * @param {Delivery} delivery
   * @param {number} forgotten
   */
  #handled({ epoch, seq }, forgotten) {
    if (forgotten !== this.#forgotten) return;
    this.#mark = { epoch, seq };
    this.#tellMark();
    this.#keepMark();
  }

  /** Acknowledges all that is handled in this turn; what follows within a moment goes together. */
  #tellMark() {
    if (this.#isTelling) return;
    this.#isTelling = true;
    void Promise.resolve().then(() => {
      const mark = this.#mark;
      if (mark) this.#acknowledge(mark);
      this.#surroundings.setTimer(() => {
        this.#isTelling = false;
        if (mark !== this.#mark) this.#tellMark();
      }, 0);
    });
  }

  /** Writes the mark. While that goes on, one mark more is the newest of many. */
  #keepMark() {
    // All that is handled in this turn goes into one write.
    this.#keeping ??= Promise.resolve().then(async () => {
      while (this.#mark && this.#mark !== this.#kept) await this.#keep(this.#mark);
      this.#keeping = undefined;
    });
  }

  /** @param {Mark} mark */
  async #keep(mark) {
    const forgotten = this.#forgotten;
    try {
      await this.#store.write({ [this.#key]: mark });
      this.#keepingFails = false;
    } catch (error) {
      // The bridge is told, and knows the place.
      if (!this.#keepingFails) this.#tellError(/** @type {BridgeError} */ (error));
      this.#keepingFails = true;
    }
    if (forgotten === this.#forgotten) this.#kept = mark;
  }
}
