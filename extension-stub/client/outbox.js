// Owns: what is to be sent, from the call until the bridge has it for good: ids, the copies in the storage that outlive
// the worker, the order, and the promises. A message is kept before it is posted, and posted again under the same id on
// every port until the bridge says that it is `stored` (in memory mode: that the server has it), or how it ended. Does
// not own the port: `session.js` posts, and passes on what the bridge says.

import { BridgeError } from "./errors.js";

/**
 * So many messages may wait here, and so many characters of them in memory, and in the storage (browsers allow 5 to 10
 * MiB).
 */
const MAX_MESSAGES = 10_000;
const MAX_CHARACTERS = 64 * 1024 * 1024;
const MAX_KEPT_CHARACTERS = 4 * 1024 * 1024;

/** So many may be posted of which the bridge has said nothing yet: browsers buffer without bound. */
const MAX_POSTED_MESSAGES = 1000;
const MAX_POSTED_CHARACTERS = 16 * 1024 * 1024;

/** Stages, and how far each is. @type {Record<string, number>} */
const REACHED = { posted: 1, stored: 2, received: 3, acknowledged: 4 };

/** Errors that say nothing about the message: it waits for the next port, or the next `open`. */
const NOT_ABOUT_THE_MESSAGE = ["daemon-unavailable", "unknown-session", "superseded"];

/** Reasons for which a message was not taken, and may be tried again. */
const TRY_AGAIN = ["full", "disk", "queue-full", "disk-full"];

/** @typedef {"posted" | "stored" | "received"} Until */

/** @typedef {{ payload: any } | { text: string } | { binary: string }} Content */

/**
 * @typedef {object} SendOptions
 * @property {Until} [until] what the promise waits for. `posted`: the bridge was given it · `stored`: it is on the disk
 *   and will be sent (the default; not in memory mode) · `received`: the server's WebSocket peer has it
 * @property {AbortSignal} [signal] gives up waiting; a message that was not posted yet is taken back
 * @property {number} [timeout] the same after so many milliseconds
 * @property {number} [ttl] for how many milliseconds it may wait for the server
 * @property {boolean} [resend] whether it is sent again if nobody can know that it arrived (true)
 * @property {string} [id] by which a repetition is known, in this worker and in later ones
 * @property {boolean} [keep] whether it outlives the worker while it waits here (true)
 */

/** @typedef {{ id: string, stage: string }} Receipt */

/** @typedef {{ until: string, resolve: (receipt: Receipt) => void, reject: (error: unknown) => void }} Waiter */

/**
 * @typedef {object} Entry
 * @property {string} id
 * @property {string} ref
 * @property {Content | undefined} content until the bridge has it
 * @property {number} characters
 * @property {number | undefined} number under which it is kept
 * @property {boolean} isKept whether the copy in the storage, if there is to be one, is there
 * @property {number} reached
 * @property {number | undefined} expiresAt
 * @property {boolean} resend
 * @property {boolean} isPosted through this port
 * @property {Waiter[]} waiters
 */

export class Outbox {
  #surroundings;
  #store;
  #key;
  #durable;
  #post;
  #listOf;

  /** Everything that has not ended, in the order of sending. @type {Map<string, Entry>} */
  #entries = new Map();
  /** Those to be posted, in order. @type {Entry[]} */
  #toPost = [];
  #postedMessages = 0;
  #postedCharacters = 0;
  #characters = 0;
  #keptCharacters = 0;
  /** @type {Map<string, Entry>} */
  #byRef = new Map();
  #refs = 0;
  #isOpen = false;
  #isLoaded = false;
  /** Numbers of the copies: `first` of those that there may be, `next` to be given. */
  #first = 1;
  #next = 1;
  /** @type {Set<number>} */
  #numbers = new Set();

  /**
   * @param {object} needs
   * @param {import("./surroundings.js").Surroundings} needs.surroundings
   * @param {import("./storage.js").Store} needs.store
   * @param {string} needs.key where the copies are kept
   * @param {boolean} needs.durable whether the bridge stores what it has
   * @param {(message: object) => void} needs.post throws if the browser does not take it
   */
  constructor({ surroundings, store, key, durable, post }) {
    this.#surroundings = surroundings;
    this.#store = store;
    this.#key = key;
    this.#durable = durable;
    this.#post = post;
    this.#listOf = (/** @type {number} */ number) => `${key}/${number}`;
  }

  /** The storage's key of the list of copies; `load` wants its value. */
  get key() {
    return this.#key;
  }

  /** Whether the bridge has everything for good. */
  get isIdle() {
    for (const { content } of this.#entries.values()) if (content) return false;
    return true;
  }

  /**
   * Takes over what former workers left, before everything that was sent since.
   *
   * @param {any} list as a former worker left it
   */
  async load(list) {
    if (this.#isLoaded) return;
    const [first, next] = [list?.first, list?.next];
    if (Number.isSafeInteger(first) && Number.isSafeInteger(next)) {
      [this.#first, this.#next] = [first, Math.max(first, next)];
    }
    const count = Math.min(this.#next - this.#first, 2 * MAX_MESSAGES); // a damaged list must not take all memory
    const numbers = Array.from({ length: count }, (_, index) => this.#first + index);
    const copies = await this.#store.read(...numbers.map(this.#listOf));
    const sinceThen = [...this.#entries.values()];
    this.#entries.clear();
    for (const number of numbers) {
      const copy = copies[this.#listOf(number)];
      if (typeof copy?.id === "string" && !this.#entries.has(copy.id)) this.#restore(number, copy);
    }
    for (const entry of sinceThen) {
      const former = this.#entries.get(entry.id);
      if (former) {
        former.waiters.push(...entry.waiters);
        this.#uncount(entry);
        this.#byRef.delete(entry.ref);
      } else {
        this.#entries.set(entry.id, entry);
      }
    }
    this.#isLoaded = true;
    for (const entry of sinceThen) if (this.#entries.get(entry.id) === entry) this.#keep(entry);
  }

  /**
   * @param {Content} content
   * @param {SendOptions} options
   * @returns {Promise<Receipt>}
   */
  send(content, { until, signal, timeout, ttl, resend = true, id = this.#surroundings.uuid(), keep = true }) {
    const awaited = until ?? (this.#durable ? "stored" : "received");
    return new Promise((resolve, reject) => {
      if (!(awaited in REACHED))
        throw new TypeError(`until: ${JSON.stringify(until)} is none of posted, stored, received`);
      if (awaited === "stored" && !this.#durable) {
        throw new BridgeError(
          "not-durable",
          "nothing is stored in memory mode; wait for `received` or `posted` instead",
          { id },
        );
      }
      if (signal?.aborted) throw signal.reason;
      const known = this.#entries.get(id);
      const entry = known ?? this.#add(id, content, { ttl, resend, keep });
      const waiter = this.#waiter(entry, awaited, resolve, reject, signal, timeout);
      if (known && known.reached >= /** @type {number} */ (REACHED[awaited])) {
        return waiter.resolve({ id, stage: stageOf(known.reached) });
      }
      entry.waiters.push(waiter);
      if (!known && this.#isLoaded) this.#keep(entry);
    });
  }

  /** A port has the session. @param {boolean} isNewEpoch whether the bridge has lost what it had */
  opened(isNewEpoch) {
    this.#isOpen = true;
    this.#postedMessages = this.#postedCharacters = 0;
    this.#toPost = [];
    for (const entry of [...this.#entries.values()]) {
      entry.isPosted = false;
      if (entry.content) this.#toPost.push(entry);
      else if (isNewEpoch) {
        const message =
          `the bridge had stored message ${entry.id}, but what it keeps was deleted or lost before ` + `it was sent`;
        this.#end(entry, new BridgeError("epoch", message, { id: entry.id }));
      }
    }
    this.#pump();
  }

  detached() {
    this.#isOpen = false;
  }

  /** @param {{ stage: string, ids: string[], reason?: string }} receipt */
  receipt({ stage, ids, reason }) {
    for (const id of ids) {
      const entry = this.#entries.get(id);
      if (!entry) continue;
      const reached = REACHED[stage];
      if (reached === undefined) this.#end(entry, endedOtherwise(id, stage, reason));
      else this.#reach(entry, reached);
    }
    this.#pump();
  }

  /**
   * @param {string} ref
   * @param {BridgeError} error
   * @returns {boolean} whether it was about a message of this outbox
   */
  refused(ref, error) {
    const entry = this.#byRef.get(ref);
    if (!entry || NOT_ABOUT_THE_MESSAGE.includes(error.code)) return entry !== undefined;
    error.id = entry.id;
    this.#end(entry, error);
    this.#pump();
    return true;
  }

  /** Nothing here will be sent any more. @param {BridgeError} error */
  forget(error) {
    for (const entry of [...this.#entries.values()]) this.#end(entry, error);
  }

  /** Nobody waits any more; what is kept stays so. @param {BridgeError} error */
  giveUp(error) {
    for (const { waiters } of this.#entries.values()) for (const waiter of waiters.splice(0)) waiter.reject(error);
  }

  /**
   * @param {string} id
   * @param {Content} content
   * @param {{ ttl: number | undefined, resend: boolean, keep: boolean }} options
   * @returns {Entry}
   */
  #add(id, content, { ttl, resend, keep }) {
    const json = JSON.stringify(content);
    if (json === "{}") throw new TypeError("there is nothing to send: the payload is not JSON");
    const isKept = !keep || !this.#store.isLasting;
    this.#checkRoom(id, json.length, !isKept);
    /** @type {Entry} */
    const entry = {
      id,
      ref: this.#ref(),
      content: JSON.parse(json), // what the caller does with the payload from now on does not matter
      characters: json.length,
      number: isKept ? undefined : 0,
      isKept,
      reached: 0,
      expiresAt: ttl === undefined ? undefined : this.#surroundings.now() + ttl,
      resend,
      isPosted: false,
      waiters: [],
    };
    this.#count(entry);
    this.#entries.set(id, entry);
    return entry;
  }

  /**
   * @param {string} id
   * @param {number} characters
   * @param {boolean} isToBeKept
   */
  #checkRoom(id, characters, isToBeKept) {
    /** @param {string} what @param {string} advice */
    const full = (what, advice) => {
      const message =
        `message ${id} (${characters} characters) was not taken: ${what} wait already for the ` + `bridge. ${advice}`;
      return new BridgeError("unsent-full", message, { retryable: true, id });
    };
    if (this.#entries.size >= MAX_MESSAGES)
      throw full(`${MAX_MESSAGES} messages`, "Wait for the promises of earlier ones.");
    if (this.#characters > 0 && this.#characters + characters > MAX_CHARACTERS) {
      throw full(`${this.#characters} characters`, "Wait for the promises of earlier messages.");
    }
    if (isToBeKept && this.#keptCharacters + characters > MAX_KEPT_CHARACTERS) {
      const advice =
        `The storage of the browser is small (${MAX_KEPT_CHARACTERS} are used at most): send what is ` +
        `large with keep: false.`;
      throw full(`${this.#keptCharacters} characters`, advice);
    }
  }

  /**
   * @param {Entry} entry
   * @param {string} until
   * @param {(receipt: Receipt) => void} resolve
   * @param {(error: unknown) => void} reject
   * @param {AbortSignal | undefined} signal
   * @param {number | undefined} timeout
   * @returns {Waiter}
   */
  #waiter(entry, until, resolve, reject, signal, timeout) {
    const { setTimer, clearTimer } = this.#surroundings;
    // What a former worker left of the same id may have taken the place of this one since.
    const current = () => this.#entries.get(entry.id) ?? entry;
    const settled = () => {
      clearTimer(timer);
      signal?.removeEventListener("abort", aborted);
    };
    /** @type {Waiter} */
    const waiter = {
      until,
      resolve: (receipt) => (settled(), resolve(receipt)),
      reject: (error) => (settled(), reject(error)),
    };
    const aborted = () => this.#leave(current(), waiter, signal?.reason);
    const late = () => {
      const rest = current().reached > 0 ? "It may still arrive" : "It was taken back and will not be sent";
      const message = `message ${entry.id} was not ${until} within ${timeout} ms. ${rest}.`;
      this.#leave(current(), waiter, new BridgeError("timeout", message, { retryable: true, id: entry.id }));
    };
    const timer = timeout === undefined ? undefined : setTimer(late, timeout);
    signal?.addEventListener("abort", aborted);
    return waiter;
  }

  /**
   * @param {Entry} entry
   * @param {Waiter} waiter
   * @param {unknown} reason
   */
  #leave(entry, waiter, reason) {
    entry.waiters = entry.waiters.filter((other) => other !== waiter);
    // One that a former worker may have posted is not taken back either: nobody can know.
    if (entry.reached === 0 && entry.waiters.length === 0) this.#end(entry, reason);
    waiter.reject(reason);
    this.#pump();
  }

  /**
   * @param {number} number
   * @param {any} copy
   */
  #restore(number, copy) {
    /** @type {Entry} */
    const entry = {
      id: copy.id,
      ref: this.#ref(),
      content: copy.content,
      characters: JSON.stringify(copy.content).length,
      number,
      isKept: true,
      reached: REACHED["posted"] ?? 1, // for all that this worker knows
      expiresAt: copy.expiresAt,
      resend: copy.resend !== false,
      isPosted: false,
      waiters: [],
    };
    this.#numbers.add(number);
    this.#count(entry);
    this.#entries.set(entry.id, entry);
  }

  /** Writes the copy, then the message may be posted. @param {Entry} entry */
  #keep(entry) {
    if (this.#isOpen) this.#toPost.push(entry);
    if (entry.isKept) return this.#pump();
    const number = (entry.number = this.#next++);
    this.#numbers.add(number);
    const { id, content, expiresAt, resend } = entry;
    const copy = { id, content, resend, ...(expiresAt === undefined ? {} : { expiresAt }) };
    this.#store.write({ [this.#listOf(number)]: copy, ...this.#list() }).then(
      () => {
        entry.isKept = true;
        this.#pump();
      },
      (error) => {
        error.id = entry.id;
        this.#end(entry, error);
        this.#pump();
      },
    );
  }

  #list() {
    return { [this.#key]: this.#numbers.size > 0 ? { first: this.#first, next: this.#next } : undefined };
  }

  /** Posts what may be posted, in order. */
  #pump() {
    while (this.#isOpen) {
      const entry = this.#toPost[0];
      if (!entry) return;
      if (entry.content && !entry.isPosted) {
        const fits =
          this.#postedMessages < MAX_POSTED_MESSAGES &&
          this.#postedCharacters + entry.characters <= MAX_POSTED_CHARACTERS;
        if (!entry.isKept || (this.#postedMessages > 0 && !fits)) return;
        this.#toPost.shift();
        this.#postEntry(entry, entry.content);
      } else {
        this.#toPost.shift(); // it has ended meanwhile
      }
    }
  }

  /**
   * @param {Entry} entry
   * @param {Content} content
   */
  #postEntry(entry, content) {
    const { id, ref, resend, expiresAt } = entry;
    // One that has expired is posted all the same: the bridge may have it since long, and knows what became of it.
    const ttl = expiresAt === undefined ? {} : { ttl_ms: Math.max(1, expiresAt - this.#surroundings.now()) };
    try {
      this.#post({ ref, id, ...content, ...ttl, ...(resend ? {} : { resend }) });
    } catch (cause) {
      const message =
        `the browser does not pass on message ${id} (${entry.characters} characters): ${cause}. Send ` +
        `smaller ones.`;
      return this.#end(entry, new BridgeError("too-large", message, { id, cause }));
    }
    entry.isPosted = true;
    this.#postedMessages += 1;
    this.#postedCharacters += entry.characters;
    this.#reach(entry, REACHED["posted"] ?? 1);
  }

  /**
   * @param {Entry} entry
   * @param {number} reached
   */
  #reach(entry, reached) {
    entry.reached = Math.max(entry.reached, reached);
    const safe = this.#durable ? "stored" : "received";
    if (reached >= /** @type {number} */ (REACHED[safe])) this.#release(entry);
    const receipt = { id: entry.id, stage: stageOf(entry.reached) };
    const isReached = (/** @type {Waiter} */ { until }) => entry.reached >= /** @type {number} */ (REACHED[until]);
    const done = entry.waiters.filter(isReached);
    entry.waiters = entry.waiters.filter((waiter) => !isReached(waiter));
    for (const waiter of done) waiter.resolve(receipt);
    if (!entry.content && entry.waiters.length === 0) this.#remove(entry);
  }

  /**
   * @param {Entry} entry
   * @param {unknown} error
   */
  #end(entry, error) {
    this.#release(entry);
    this.#remove(entry);
    for (const waiter of entry.waiters.splice(0)) waiter.reject(error);
  }

  /** The bridge has it, or nobody wants it any more: its content is of no use here. @param {Entry} entry */
  #release(entry) {
    if (!entry.content) return;
    entry.content = undefined;
    this.#uncount(entry);
    if (entry.isPosted) {
      this.#postedMessages -= 1;
      this.#postedCharacters -= entry.characters;
    }
    const { number } = entry;
    if (!number || !this.#numbers.delete(number)) return;
    if (number === this.#first) while (this.#first < this.#next && !this.#numbers.has(this.#first)) this.#first += 1;
    // If this fails, a later worker sends it again, and the bridge knows it by its id.
    this.#store.write({ [this.#listOf(number)]: undefined, ...this.#list() }).catch(() => {});
  }

  /** @param {Entry} entry */
  #remove(entry) {
    if (this.#entries.get(entry.id) === entry) this.#entries.delete(entry.id);
    this.#byRef.delete(entry.ref);
  }

  #ref() {
    return `send-${(this.#refs += 1)}`;
  }

  /** @param {Entry} entry */
  #count(entry) {
    this.#byRef.set(entry.ref, entry);
    this.#characters += entry.characters;
    if (entry.number !== undefined) this.#keptCharacters += entry.characters;
  }

  /** @param {Entry} entry */
  #uncount(entry) {
    this.#characters -= entry.characters;
    if (entry.number !== undefined) this.#keptCharacters -= entry.characters;
  }
}

/** @param {number} reached */
function stageOf(reached) {
  return Object.keys(REACHED).find((stage) => REACHED[stage] === reached) ?? "waiting";
}

/**
 * @param {string} id
 * @param {string} stage
 * @param {string | undefined} reason
 */
function endedOtherwise(id, stage, reason) {
  if (stage === "expired") {
    return new BridgeError("expired", `message ${id} waited longer for the server than its \`ttl\`, and was not sent`, {
      id,
    });
  }
  const code = reason ?? stage;
  const retryable = TRY_AGAIN.includes(code);
  const next = retryable ? "It may be tried again later, under the same id" : "PROTOCOL.md says what the reason means";
  return new BridgeError(code, `message ${id} was ${stage} by the bridge: ${code}. ${next}.`, { retryable, id });
}
