// Owns: how things get into an area of the browser's storage and out again: one write in flight at a time, the newest
// value of a key wins, and what was asked for while a write was under way goes together in the next one. Does not know
// what the values mean: marks are `deliveries.js`', unsent messages `outbox.js`', tasks `tasks.js`'; the id
// of the installation is made here because all share it.

import { BridgeError } from "./errors.js";

/** A write that takes longer than this has failed: nothing may wait for a storage that does not answer. */
const ANSWERS_MS = 10_000;

const PREFIX = "websocket-bridge/";
const PROFILE = "profile";

export class Store {
  #surroundings;
  /** @type {import("./surroundings.js").StorageArea | undefined} */
  #area;
  /** What is to be written next; `undefined` is for a key that is to be removed. @type {Map<string, unknown>} */
  #next = new Map();
  /** The end of the write that `#next` goes into. @type {Promise<void> | undefined} */
  #nextWrite;
  /** @type {Promise<void>} */
  #lastWrite = Promise.resolve();
  /** @type {Promise<string> | undefined} */
  #profile;

  /**
   * @param {import("./surroundings.js").Surroundings} surroundings
   * @param {import("./surroundings.js").StorageArea | undefined} area without one, nothing outlives the worker
   */
  constructor(surroundings, area) {
    this.#surroundings = surroundings;
    this.#area = area;
  }

  /** Whether what is written here outlives the worker. */
  get isLasting() {
    return this.#area !== undefined;
  }

  /**
   * @param {...string} keys
   * @returns {Promise<Record<string, any>>} without those that there are not
   */
  async read(...keys) {
    if (!this.#area || keys.length === 0) return {};
    const names = keys.map((key) => PREFIX + key);
    const found = await this.#answered("read from", this.#area.get(names));
    return Object.fromEntries(Object.entries(found).map(([name, value]) => [name.slice(PREFIX.length), value]));
  }

  /**
   * Writes these values, and removes the keys whose value is `undefined`, all together.
   *
   * @param {Record<string, unknown>} values
   * @returns {Promise<void>} when it is done
   */
  write(values) {
    if (!this.#area) return Promise.resolve();
    for (const [key, value] of Object.entries(values)) this.#next.set(PREFIX + key, value);
    this.#nextWrite ??= this.#writeNext(this.#lastWrite);
    return this.#nextWrite;
  }

  /**
   * Has `listener` told what any context of the extension writes, and removes (`undefined`).
   *
   * @param {(values: Record<string, any>) => void} listener
   */
  watch(listener) {
    this.#area?.onChanged.addListener((changes) => {
      const ours = Object.entries(changes).filter(([name]) => name.startsWith(PREFIX));
      const values = ours.map(([name, { newValue }]) => [name.slice(PREFIX.length), newValue]);
      if (values.length > 0) listener(Object.fromEntries(values));
    });
  }

  /**
   * The random id of this installation, which keeps apart what two profiles of a browser do under the same name.
   *
   * @returns {Promise<string>}
   */
  profile() {
    const profile = (this.#profile ??= this.#area
      ? this.#surroundings.exclusively(PREFIX + PROFILE, () => this.#readProfile())
      : Promise.resolve(this.#surroundings.uuid()));
    profile.catch(() => (this.#profile = undefined)); // the next one tries again
    return profile;
  }

  async #readProfile() {
    const { [PROFILE]: known } = await this.read(PROFILE);
    if (typeof known === "string") return known;
    const profile = this.#surroundings.uuid();
    await this.write({ [PROFILE]: profile });
    return profile;
  }

  /** @param {Promise<void>} before */
  async #writeNext(before) {
    // Also leaves the rest of this turn the time to ask for more.
    await before.catch(() => {});
    const items = [...this.#next];
    this.#next = new Map();
    const written = this.#put(items);
    this.#lastWrite = written;
    this.#nextWrite = undefined;
    return written;
  }

  /** @param {[string, unknown][]} items */
  async #put(items) {
    const area = /** @type {import("./surroundings.js").StorageArea} */ (this.#area);
    const removed = items.filter(([, value]) => value === undefined).map(([name]) => name);
    const set = items.filter(([, value]) => value !== undefined);
    const parts = [];
    // What is removed goes first: a worker that dies in between finds a list with holes, and no value without a list.
    if (removed.length > 0) parts.push(area.remove(removed));
    if (set.length > 0) parts.push(area.set(Object.fromEntries(set)));
    await this.#answered("write to", Promise.all(parts));
  }

  /**
   * @template T
   * @param {string} tried
   * @param {Promise<T>} answer
   * @returns {Promise<T>}
   */
  #answered(tried, answer) {
    const { setTimer, clearTimer } = this.#surroundings;
    return new Promise((resolve, reject) => {
      /** @param {unknown} cause */
      const fail = (cause) => {
        const why = cause instanceof Error ? cause.message : String(cause);
        const message =
          `could not ${tried} the extension's storage: ${why}. If it is full, remove what the ` +
          `extension does not need.`;
        reject(new BridgeError("storage-failed", message, { retryable: true, cause }));
      };
      const timer = setTimer(() => fail(`no answer within ${ANSWERS_MS} ms`), ANSWERS_MS);
      answer.then(resolve, fail).finally(() => clearTimer(timer));
    });
  }
}
