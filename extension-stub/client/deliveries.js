// Owns: what comes from the server, on its way to the handlers: strictly in order, one batch after the other, each
// until its handlers are done with it, and nothing twice. The place up to where all is handled (the mark) outlives the
// worker: it is written to the storage, and the bridge is told. The next worker needs one of the two. Does not own the
// port: `session.js` passes on what comes and posts the acknowledgements.
//
// A batch is one delivery that somebody wants to handle by itself, or many that nobody does. The next one waits until
// the mark of the one before is written: when a worker dies, at most that one batch whose handlers were running is
// handled again, or whose handlers had ended at that moment, for no browser writes down at once that they have.

import { BridgeError } from "./errors.js";

/** How long a handler that failed is left in peace before each further attempt. */
const RETRY_AFTER_MS = [250, 1000, 4000];

/**
 * Further acknowledgements are put together for this long. Each costs as much as a write to the storage; the bridge
 * does not write to its disk what is acknowledged within 50 ms.
 */
const TELL_AGAIN_MS = 10;

/** More do not come again, whatever happens; the bridge has about as many on their way at once. */
const MOST_IN_BATCH = 1000;

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

/** @typedef {(() => unknown)[]} Calls of handlers */

export class Deliveries {
  #surroundings;
  #store;
  #key;
  #callsForOne;
  #callsForAll;
  #handlerMs;
  #acknowledge;
  #tellError;

  /** @type {Delivery[]} */
  #waiting = [];
  /** Whether something is being handled, or its mark written. */
  #busy = false;
  /** All up to here is handled. @type {Mark | undefined} */
  #mark;
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
   * @param {(delivery: Delivery) => Calls} needs.callsForOne of handlers that want one delivery by itself
   * @param {(deliveries: Delivery[]) => Calls} needs.callsForAll of handlers that take many at once
   * @param {number} needs.handlerMs how long a handler may take
   * @param {(mark: Mark) => void} needs.acknowledge
   * @param {(error: BridgeError) => void} needs.tellError
   */
  constructor({ surroundings, store, key, callsForOne, callsForAll, handlerMs, acknowledge, tellError }) {
    this.#surroundings = surroundings;
    this.#store = store;
    this.#key = key;
    this.#callsForOne = callsForOne;
    this.#callsForAll = callsForAll;
    this.#handlerMs = handlerMs;
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
  }

  /** Up to where all is handled. */
  get mark() {
    return this.#mark;
  }

  /** Whether nothing waits, runs, or is to be written or told. */
  get isIdle() {
    return this.#waiting.length === 0 && !this.#busy && !this.#isTelling;
  }

  /**
   * A port has the session, from the place `acked` on: the bridge knows that all up to there is handled.
   *
   * @param {Mark} acked
   */
  opened(acked) {
    const mark = this.#mark;
    // In another epoch the mark stays, so that the gap between the two is told however often the worker dies before.
    if (!mark || (mark.epoch === acked.epoch && mark.seq < acked.seq)) this.#mark = acked;
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
    this.#mark = undefined;
    await this.#store.write({ [this.#key]: undefined });
  }

  /** @param {Delivery} delivery */
  take(delivery) {
    this.#waiting.push(delivery);
    if (this.#busy) return;
    this.#busy = true;
    // What comes in the same turn goes together.
    void Promise.resolve().then(() => this.#handleWaiting());
  }

  async #handleWaiting() {
    for (let next = this.#next(); next; next = this.#next()) {
      const { batch, calls } = next;
      const forgotten = this.#forgotten;
      await Promise.all(calls.map((call) => this.#finish(batch, call)));
      if (forgotten === this.#forgotten) await this.#handled(/** @type {Delivery} */ (batch.at(-1)));
    }
    this.#busy = false;
  }

  /**
   * Takes the next batch from what waits: one delivery that is wanted by itself, or all before the next such one.
   *
   * @returns {{ batch: Delivery[], calls: Calls } | undefined}
   */
  #next() {
    /** @type {Delivery[]} */
    const batch = [];
    /** @type {Calls} */
    let calls = [];
    let taken = 0;
    for (const next of this.#waiting) {
      const isDouble = isUpTo(next, batch.at(-1) ?? this.#mark);
      const alone = isDouble ? [] : this.#callsForOne(next);
      if (batch.length === MOST_IN_BATCH || (alone.length > 0 && batch.length > 0)) break;
      taken += 1;
      if (isDouble) this.#tellMark(); // the bridge seems not to know
      else batch.push(next);
      if (alone.length === 0) continue;
      calls = alone;
      break;
    }
    this.#waiting.splice(0, taken);
    return batch.length > 0 ? { batch, calls: [...calls, ...this.#callsForAll(batch)] } : undefined;
  }

  /**
   * Calls a handler and waits for it, and again if it fails. One that fails for good, or hangs, is passed over. The
   * promise never fails.
   *
   * @param {Delivery[]} batch
   * @param {() => unknown} call
   */
  async #finish(batch, call) {
    const { what, ...place } = nameOf(batch);
    for (let attempt = 0; ; attempt += 1) {
      try {
        if (await this.#isDone(call())) return;
        const message =
          `the handler of ${what} was not done after ${this.#handlerMs} ms, and is passed over. Let it end, or set ` +
          `\`handlerTimeout\`.`;
        return this.#tellError(new BridgeError("handler-timeout", message, place));
      } catch (cause) {
        const pause = RETRY_AFTER_MS[attempt];
        if (pause === undefined) {
          const message =
            `the handler of ${what} failed ${attempt + 1} times, and is passed over: ${cause}. Let it deal with ` +
            `what it cannot handle.`;
          return this.#tellError(new BridgeError("handler-failed", message, { ...place, cause }));
        }
        await new Promise((resolve) => this.#surroundings.setTimer(() => resolve(undefined), pause));
      }
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
   * All up to here is handled; waits until that is written down.
   *
   * @param {Mark} last
   */
  async #handled({ epoch, seq }) {
    this.#mark = { epoch, seq };
    this.#tellMark();
    const kept = this.#keep(this.#mark);
    // A storage that fails may take long to do so: it keeps nobody waiting more than once.
    if (!this.#keepingFails) await kept;
  }

  /** Acknowledges what is handled; what follows within a moment goes together. */
  #tellMark() {
    if (this.#isTelling) return;
    this.#isTelling = true;
    const mark = this.#mark;
    if (mark) this.#acknowledge(mark);
    this.#surroundings.setTimer(() => {
      this.#isTelling = false;
      if (mark !== this.#mark) this.#tellMark();
    }, TELL_AGAIN_MS);
  }

  /** @param {Mark} mark */
  async #keep(mark) {
    try {
      await this.#store.write({ [this.#key]: mark });
      this.#keepingFails = false;
    } catch (error) {
      // The bridge is told, and knows the place.
      if (!this.#keepingFails) this.#tellError(/** @type {BridgeError} */ (error));
      this.#keepingFails = true;
    }
  }
}

/**
 * @param {Mark} place
 * @param {Mark | undefined} other
 */
function isUpTo({ epoch, seq }, other) {
  return epoch === other?.epoch && seq <= other.seq;
}

/** What an error says of a batch. @param {Delivery[]} batch */
function nameOf(batch) {
  const [first, last] = /** @type {[Delivery, Delivery]} */ ([batch[0], batch.at(-1)]);
  const [from, seq] = [first.seq, last.seq];
  return { from, seq, what: first === last ? `${first.type} ${seq}` : `messages ${from} to ${seq}` };
}
