// Owns: one session as an extension uses it: opening it on every port, routing what comes, subscriptions, what its
// state is, and its end. What comes from the server is `deliveries.js`', what goes there `outbox.js`'; the port is
// `bridge.js`'.

import { fromBase64, toBase64 } from "./base64.js";
import { Deliveries } from "./deliveries.js";
import { BridgeError } from "./errors.js";
import { Listeners } from "./listeners.js";
import { Outbox } from "./outbox.js";
import { Store } from "./storage.js";

/** The events of the library's own. A payload whose `type` is one of them is told as `type:…`. */
const EVENTS = ["message", "messages", "gap", "state", "receipt", "token-needed", "error"];

/** An `open` that may work later is repeated after this long, at most. */
const OPEN_AGAIN_MS = 1000;
const OPEN_AGAIN_AT_MOST_MS = 20_000;

/** Chromium lets an event take five minutes. */
const HANDLER_MS = 300_000;

const MAX_SUBSCRIPTIONS = 1000;

/** @typedef {import("./deliveries.js").Delivery} Delivery */
/** @typedef {import("./deliveries.js").Message} Message */
/** @typedef {import("./deliveries.js").Gap} Gap */
/** @typedef {import("./outbox.js").SendOptions} SendOptions */
/** @typedef {import("./outbox.js").Receipt} Receipt */

/**
 * @typedef {object} SessionOptions
 * @property {string} [url] of the server; without it, the one that the bridge knows
 * @property {"durable" | "memory"} [mode] `memory`: nothing is written to a disk (the default in private windows)
 * @property {string} [consumer] a reader with a place of its own ("main")
 * @property {boolean} [observe] only watches: live messages, no place, nothing sent
 * @property {"json" | "text"} [as] `text`: every text frame as it came
 * @property {string[]} [protocols] sub-protocols to offer
 * @property {object} [settings] PROTOCOL.md lists them
 * @property {boolean} [connect] false: a session that was closed stays so
 * @property {number} [handlerTimeout] milliseconds after which a handler is passed over (300000)
 */

/**
 * @typedef {object} State
 * @property {string} state
 * @property {number} since
 * @property {number} [attempt]
 * @property {number} [retry_at]
 * @property {string} [protocol]
 * @property {Reason} [reason]
 */

/** @typedef {{ code: string, message: string, close_code?: number, http_status?: number, retryable: boolean }} Reason */

/**
 * What the server is to be shown: a text, or with the time when it ends (milliseconds since 1970).
 *
 * @typedef {string | { token: string, expiresAt?: number }} Credential
 */

/**
 * @typedef {object} SessionEvents
 * @property {(message: Message) => unknown} message
 * @property {(deliveries: Delivery[]) => unknown} messages
 * @property {(gap: Gap) => unknown} gap
 * @property {(state: State) => unknown} state
 * @property {(receipt: { stage: string, ids: string[], reason?: string }) => unknown} receipt
 * @property {(needed: { reason: string }) => Credential | void | Promise<Credential | void>} token-needed
 * @property {(error: BridgeError) => unknown} error
 */

/** @typedef {(payload: any, message: Message) => unknown} PayloadHandler */

/**
 * What a session needs of the bridge that it belongs to.
 *
 * @typedef {object} Home
 * @property {import("./surroundings.js").Surroundings} surroundings
 * @property {import("./storage.js").Store} store
 * @property {() => Promise<string>} profile
 * @property {(settings: object | undefined) => object | undefined} settings
 * @property {() => void} wake sees to it that there is a port, or will be
 * @property {() => void} gone
 * @property {() => BridgeError | undefined} failure why there will be no port
 */

/**
 * @typedef {object} Closing
 * @property {boolean} forget
 * @property {import("./port.js").Port} [through] the port that was asked
 * @property {Promise<void>} promise
 * @property {() => void} resolve
 * @property {(error: unknown) => void} reject
 */

export class Session {
  #home;
  #name;
  #options;
  #store;
  #key;
  #deliveries;
  #outbox;
  #listeners = new Listeners();
  /** @type {Map<string, any>} */
  #subscriptions = new Map();
  /** Ends of subscriptions that no port was told yet. @type {Map<string, any>} */
  #unsubscriptions = new Map();
  /** What no port was given yet. @type {Credential | undefined} */
  #token;

  /** @type {import("./port.js").Port | undefined} */
  #port;
  /** The `open` that waits for its answer. @type {string | undefined} */
  #opening;
  /** Whether it was posted for nothing but to close the session. */
  #opensToClose = false;
  #opens = 0;
  #isOpen = false;
  /** @type {Promise<string> | undefined} the profile; when it is here, the storage has been read too */
  #loaded;
  /** @type {any} */
  #openAgain;
  #refusals = 0;

  /** @type {string | undefined} */
  #epoch;
  /** The highest number that this port brought, and that it was told to be done. */
  #delivered = 0;
  #acked = 0;
  #state = "unattached";
  /** Why the session is not opened any more. @type {BridgeError | undefined} */
  #stopped;
  /** @type {Closing | undefined} */
  #closing;

  /**
   * @param {Home} home
   * @param {string} name
   * @param {SessionOptions} options
   */
  constructor(home, name, options) {
    const { mode = "durable", consumer = "main", handlerTimeout = HANDLER_MS } = options;
    this.#home = home;
    this.#name = name;
    this.#options = { ...options, mode, consumer };
    const { surroundings } = home;
    // Who only watches has no place to remember.
    const store = options.observe ? new Store(surroundings, undefined) : home.store;
    const key = `${mode}/${name}/${consumer}`;
    this.#store = store;
    this.#key = key;
    this.#deliveries = new Deliveries({
      surroundings,
      store,
      key: `mark/${key}`,
      callsForOne: (delivery) => this.#callsForOne(delivery),
      callsForAll: (deliveries) => this.#callsForAll(deliveries),
      handlerMs: handlerTimeout,
      acknowledge: (mark) => this.#acknowledge(mark),
      tellError: (error) => this.#listeners.tell("error", error),
    });
    this.#outbox = new Outbox({
      surroundings,
      store,
      key: `unsent/${key}`,
      durable: mode === "durable",
      post: (message) => this.#port?.post({ type: "send", session: name, ...message }),
    });
  }

  get name() {
    return this.#name;
  }

  /**
   * `connecting`, `connected`, `polling`, `reconnecting`, `disconnected` and `error` are the bridge's (PROTOCOL.md); besides:
   * `unattached` (no port at the moment), `refused` (the bridge does not open it: see the `error`), `superseded`
   * (another context of this extension reads instead) and `closed`.
   */
  get state() {
    return this.#state;
  }

  /**
   * Handlers of `message` (`(message) => …`), `gap` (`(gap) => …`), and of payloads by their `type` (`(payload,
   * message) => …`; `type:NAME` also for those types that have the name of an event) are awaited one message after the
   * other: the next one waits until it is written down that this one is done. Those of `messages` (`(deliveries) => …`)
   * get all messages and gaps that wait, in order, and are awaited once for all of them; but what also has a handler of
   * the former kind comes by itself. Those of `state`, `receipt` and `error` are just told.
   * What one of `token-needed` returns or resolves to is given to `token`.
   *
   * @template {string} Name
   * @param {Name} event
   * @param {Name extends keyof SessionEvents ? SessionEvents[Name] : PayloadHandler} handler
   * @returns {() => void} ends it
   */
  on(event, handler) {
    const isOurs = EVENTS.includes(event) || event.startsWith("type:");
    return this.#listeners.on(isOurs ? event : `type:${event}`, handler);
  }

  /**
   * Sends JSON, as a text frame.
   *
   * @param {any} payload
   * @param {SendOptions} [options]
   * @returns {Promise<Receipt>} rejects with a BridgeError if it ends otherwise
   */
  send(payload, options = {}) {
    return this.#send({ payload }, options);
  }

  /**
   * Sends a text frame, byte for byte.
   *
   * @param {string} text
   * @param {SendOptions} [options]
   * @returns {Promise<Receipt>}
   */
  sendText(text, options = {}) {
    return this.#send({ text: String(text) }, options);
  }

  /**
   * Sends a binary frame.
   *
   * @param {ArrayBuffer | ArrayBufferView} data
   * @param {SendOptions} [options]
   * @returns {Promise<Receipt>}
   */
  sendBinary(data, options = {}) {
    return this.#send({ binary: toBase64(data) }, options);
  }

  /**
   * Has `payload`, or what the dialect in the settings makes of `key`, sent now and again on every new connection, until
   * `unsubscribe`, whatever happens to this worker.
   *
   * @param {string} key
   * @param {any} [payload]
   */
  subscribe(key, payload) {
    if (!this.#subscriptions.has(key) && this.#subscriptions.size >= MAX_SUBSCRIPTIONS) {
      throw new BridgeError(
        "too-many-subscriptions",
        `${key} is one too many: a session has at most ${MAX_SUBSCRIPTIONS}`,
      );
    }
    this.#subscriptions.set(key, payload);
    this.#unsubscriptions.delete(key);
    if (this.#isOpen) this.#post("subscribe", { key, payload });
    else this.#home.wake();
  }

  /**
   * @param {string} key
   * @param {any} [payload] tells the server; without it the dialect does
   */
  unsubscribe(key, payload) {
    this.#subscriptions.delete(key);
    if (this.#isOpen) return this.#post("unsubscribe", { key, payload });
    this.#unsubscriptions.set(key, payload);
    this.#home.wake();
  }

  /**
   * Gives a credential to show the server (`auth` in the settings), whether it was asked for by `token-needed` or not. It
   * is not kept here, and the bridge keeps it in memory alone.
   *
   * @param {Credential} credential
   */
  token(credential) {
    this.#token = credential;
    if (this.#isOpen) this.#postToken();
    else this.#home.wake();
  }

  /** Tries now: to reach the server, or to open a session that was refused or superseded. */
  reconnect() {
    if (this.#stopped) {
      this.#stopped = undefined;
      if (this.#port) void this.#open(this.#port);
    } else if (this.#isOpen) {
      this.#post("reconnect", {});
    }
    this.#home.wake();
  }

  /**
   * Ends the connection to the server, also for other contexts of this extension, until somebody opens the session
   * again. What waits to be sent stays, unless everything is to be forgotten.
   *
   * @param {{ forget?: boolean }} [how] `forget`: delete all that is kept, here and in the bridge
   * @returns {Promise<void>} when the bridge has done so
   */
  close({ forget = false } = {}) {
    const failure = this.#home.failure();
    if (failure) return Promise.reject(failure);
    if (this.#closing) {
      this.#closing.forget ||= forget;
      return this.#closing.promise;
    }
    let [resolve, reject] = [() => {}, (/** @type {unknown} */ _) => {}];
    const promise = new Promise((...ends) => ([resolve, reject] = /** @type {any} */ (ends)));
    this.#closing = { forget, promise, resolve, reject };
    this.#deliveries.detached();
    this.#stopped = undefined;
    if (this.#isOpen && this.#port) void this.#close(this.#port);
    else if (this.#port) void this.#open(this.#port);
    this.#home.wake();
    return promise;
  }

  /**
   * The bridge's figures of this session: PROTOCOL.md lists them.
   *
   * @returns {Promise<any>}
   */
  async status() {
    if (!this.#isOpen || !this.#port) {
      const why = this.#stopped ? ` (${this.#stopped.message})` : "";
      const message =
        `session ${this.#name} is ${this.#state}, so that there are no figures${why}. Wait for its ` + `next state.`;
      throw new BridgeError("unattached", message, { retryable: !this.#stopped, cause: this.#stopped });
    }
    const { sessions } = await this.#port.ask({ type: "status", session: this.#name });
    return sessions[0];
  }

  /** @internal Where this session's reader keeps things, and whether it is another than this. */
  get memory() {
    const { store, surroundings } = this.#home;
    return { store, key: this.#key, observes: this.#options.observe === true, now: surroundings.now };
  }

  /** @internal Tells those who listen to this session. @param {string} event @param {unknown} news */
  tell(event, news) {
    this.#listeners.tell(event, news);
  }

  /** @internal Whether nothing would be missed without a port. */
  get isIdle() {
    return (
      (this.#isOpen || this.#stopped !== undefined) && this.#deliveries.isIdle && this.#outbox.isIdle && !this.#closing
    );
  }

  /** @internal @param {import("./port.js").Port} port */
  attach(port) {
    this.#port = port;
    void this.#open(port);
  }

  /** @internal The port is gone. */
  detach() {
    this.#port = undefined;
    this.#isOpen = false;
    this.#opening = undefined;
    this.#home.surroundings.clearTimer(this.#openAgain);
    this.#deliveries.detached();
    this.#outbox.detached();
    if (!this.#stopped) this.#tellState({ state: "unattached", since: this.#home.surroundings.now() });
  }

  /** @internal There will be no port. @param {BridgeError} error */
  fail(error) {
    this.#outbox.giveUp(error);
    this.#closing?.reject(error);
    this.#closing = undefined;
  }

  /** @internal What the bridge says about this session. @param {any} message */
  hear(message) {
    switch (message.type) {
      case "message":
      case "gap":
        if (this.#isOpen && !this.#closing) this.#deliver(message);
        break;
      case "opened":
        this.#opened(message);
        break;
      case "receipt":
        this.#outbox.receipt(message);
        this.#listeners.tell("receipt", without(message));
        break;
      case "state":
        if (this.#isOpen) this.#tellState(without(message));
        break;
      case "token-needed":
        if (this.#isOpen) void this.#askForToken(without(message));
        break;
      case "error":
        this.#hearError(message);
    }
  }

  /**
   * @param {import("./outbox.js").Content} content
   * @param {SendOptions} options
   */
  async #send(content, options) {
    if (this.#closing || this.#state === "closed") {
      throw new BridgeError("closed", `session ${this.#name} was closed: open it again with bridge.session() to send`);
    }
    if (this.#options.observe) {
      throw new BridgeError("read-only", `session ${this.#name} was opened with observe: open another one to send`);
    }
    const failure = this.#home.failure();
    if (failure) throw failure;
    this.#home.wake();
    return this.#outbox.send(content, options);
  }

  /** @param {import("./port.js").Port} port */
  async #open(port) {
    let profile;
    try {
      profile = await (this.#loaded ??= this.#load());
    } catch (error) {
      this.#loaded = undefined;
      if (port !== this.#port) return;
      this.#listeners.tell("error", error);
      return this.#tryAgain(port);
    }
    if (port !== this.#port || this.#stopped || this.#opening) return;
    const { url, mode, consumer, observe, as, protocols, settings, connect } = this.#options;
    const { mark } = this.#deliveries;
    this.#opensToClose = this.#closing !== undefined;
    this.#opening = `open-${(this.#opens += 1)}`;
    this.#post("open", {
      ref: this.#opening,
      url: this.#closing ? undefined : url, // whichever server it belongs to
      profile,
      mode,
      protocols,
      as,
      settings: this.#home.settings(settings),
      ...(observe ? { observe } : { consumer, after: mark }),
      ...(this.#closing || connect === false ? { connect: false } : {}),
    });
  }

  async #load() {
    const [profile, found] = await Promise.all([
      this.#home.profile(),
      this.#store.read(this.#deliveries.key, this.#outbox.key),
    ]);
    this.#deliveries.load(found[this.#deliveries.key]);
    await this.#outbox.load(found[this.#outbox.key]);
    return profile;
  }

  /** @param {any} opened */
  #opened({ ref, epoch, acked, head }) {
    const isAnswer = ref !== undefined && ref === this.#opening;
    if (!isAnswer && !this.#isOpen) return;
    const { mark } = this.#deliveries;
    const isNewEpoch = this.#epoch !== undefined && this.#epoch !== epoch;
    this.#epoch = epoch;
    if (isAnswer || isNewEpoch) {
      this.#opening = undefined;
      this.#refusals = 0;
      this.#isOpen = true;
      this.#acked = acked ?? 0;
      this.#delivered = mark && mark.epoch === epoch ? Math.max(this.#acked, Math.min(mark.seq, head)) : this.#acked;
    }
    if (this.#closing) {
      if (this.#port && this.#closing.through !== this.#port) void this.#close(this.#port);
      return;
    }
    if (!this.#options.observe) this.#deliveries.opened({ epoch, seq: acked ?? 0 });
    if (!isAnswer && !isNewEpoch) return;
    this.#postToken();
    for (const [key, payload] of this.#unsubscriptions) this.#post("unsubscribe", { key, payload });
    this.#unsubscriptions.clear();
    for (const [key, payload] of this.#subscriptions) this.#post("subscribe", { key, payload });
    this.#outbox.opened(isNewEpoch);
  }

  /** @param {any} message */
  #deliver(message) {
    const epoch = /** @type {string} */ (this.#epoch);
    this.#delivered = Math.max(this.#delivered, message.seq);
    const delivery = { ...without(message), type: message.type, epoch, replay: message.replay === true };
    if (typeof message.binary === "string") delivery.binary = fromBase64(message.binary);
    this.#deliveries.take(/** @type {Delivery} */ (delivery));
  }

  /**
   * @param {Delivery} delivery
   * @returns {import("./deliveries.js").Calls}
   */
  #callsForOne(delivery) {
    const listeners = this.#listeners;
    const calls = listeners.of(delivery.type).map((handler) => () => handler(delivery));
    const payload = delivery.type === "message" ? delivery.payload : undefined;
    if (typeof payload?.type === "string") {
      calls.push(...listeners.of(`type:${payload.type}`).map((handler) => () => handler(payload, delivery)));
    }
    return calls;
  }

  /**
   * @param {Delivery[]} deliveries
   * @returns {import("./deliveries.js").Calls}
   */
  #callsForAll(deliveries) {
    // A handler may take its list apart, and is called with all of it again if it fails.
    return this.#listeners.of("messages").map((handler) => () => handler([...deliveries]));
  }

  /** @param {import("./deliveries.js").Mark} mark */
  #acknowledge({ epoch, seq }) {
    const done = Math.min(seq, this.#delivered);
    if (!this.#isOpen || this.#options.observe || epoch !== this.#epoch || done <= this.#acked) return;
    this.#acked = done;
    this.#post("ack", { seq: done, epoch });
  }

  #postToken() {
    const credential = this.#token;
    if (credential === undefined) return;
    this.#token = undefined;
    const { token, expiresAt } = typeof credential === "string" ? { token: credential } : credential;
    this.#post("token", { token, expires_at: expiresAt });
  }

  /** @param {any} needed */
  async #askForToken(needed) {
    for (const handler of this.#listeners.of("token-needed")) {
      try {
        const credential = /** @type {Credential | void} */ (await handler(needed));
        if (credential) this.token(credential);
      } catch (cause) {
        const message = `the handler of \`token-needed\` (${needed.reason}) failed: ${cause}. Let it give a token, or nothing`;
        this.#listeners.tell("error", new BridgeError("handler-failed", message, { cause }));
      }
    }
  }

  /** @param {any} message */
  #hearError(message) {
    const error = BridgeError.from(message);
    if (message.ref !== undefined && message.ref === this.#opening) return this.#refused(error);
    if (error.code === "superseded") return this.#stop(error, "superseded");
    // The sender is told by the promise; with nobody waiting (a former worker's message) this is the only word of it.
    this.#outbox.refused(message.ref, error);
    this.#listeners.tell("error", error);
  }

  /** @param {BridgeError} error */
  #refused(error) {
    this.#opening = undefined;
    // It was on its way, for this server, when the session was to be closed, whichever it belongs to.
    if (this.#closing && !this.#opensToClose && this.#port) return void this.#open(this.#port);
    if (this.#closing && error.code === "url-missing") return void this.#closed(this.#closing); // nothing is there
    if (!error.retryable || !this.#port) return this.#stop(error, "refused");
    this.#listeners.tell("error", error);
    this.#tryAgain(this.#port);
  }

  /** @param {import("./port.js").Port} port */
  #tryAgain(port) {
    const pause = Math.min(OPEN_AGAIN_MS * 2 ** this.#refusals, OPEN_AGAIN_AT_MOST_MS);
    this.#refusals += 1;
    this.#openAgain = this.#home.surroundings.setTimer(() => this.#open(port), pause);
  }

  /**
   * @param {BridgeError} error
   * @param {string} state
   */
  #stop(error, state) {
    this.#stopped = error;
    this.#isOpen = false;
    this.#deliveries.detached();
    this.#outbox.detached();
    this.#closing?.reject(error);
    this.#closing = undefined;
    this.#tellState({ state, since: this.#home.surroundings.now() });
    this.#listeners.tell("error", error);
  }

  /**
   * Has the bridge close the session; if the port ends before that is certain, the next one does so again.
   *
   * @param {import("./port.js").Port} port
   * @returns {Promise<void>}
   */
  async #close(port) {
    const closing = this.#closing;
    if (!closing) return;
    const { forget } = closing;
    closing.through = port;
    // First, for after the bridge nobody knows any more for which server it was.
    if (forget) await this.#forget();
    if (port !== this.#port) return;
    this.#post("close", forget ? { forget } : {});
    try {
      // Answered behind everything that was posted before.
      await port.ask({ type: "status", session: this.#name });
    } catch {
      // Without an answer, not without a port: once more.
      if (port === this.#port && closing === this.#closing) return this.#close(port);
      return;
    }
    if (forget !== closing.forget) return this.#close(port);
    this.#post("detach", {});
    return this.#closed(closing);
  }

  /** Deletes what is kept here. */
  async #forget() {
    this.#outbox.forget(new BridgeError("closed", `session ${this.#name} was closed, and its messages deleted`));
    await this.#deliveries.forget().catch(() => {});
  }

  /** @param {Closing} closing */
  async #closed({ forget, resolve }) {
    this.#isOpen = false;
    if (forget) await this.#forget();
    else this.#outbox.giveUp(new BridgeError("closed", `session ${this.#name} was closed`));
    this.#outbox.detached();
    this.#home.gone();
    this.#port = undefined;
    this.#tellState({ state: "closed", since: this.#home.surroundings.now() });
    resolve();
  }

  /**
   * @param {string} type
   * @param {object} fields
   */
  #post(type, fields) {
    try {
      this.#port?.post({ type, session: this.#name, ...fields });
    } catch (cause) {
      const message = `the browser does not pass on \`${type}\` for session ${this.#name}: ${cause}`;
      this.#listeners.tell("error", new BridgeError("invalid-message", message, { cause }));
    }
  }

  /** @param {any} state */
  #tellState(state) {
    this.#state = state.state;
    this.#listeners.tell("state", state);
  }
}

/** What a message says beside what it is and for whom. @param {any} message */
function without({ type, session, ...rest }) {
  return rest;
}
