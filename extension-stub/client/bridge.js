// Owns: the life of the port: opened when there is something to do, opened again after it ended, given up when no retry
// mends it, closed when the worker may sleep. Brings what comes to its session. Does not own what is said on a port
// (`port.js`) or in a session (`session.js`).

import { BridgeError } from "./errors.js";
import { Listeners } from "./listeners.js";
import { Port } from "./port.js";
import { Session } from "./session.js";
import { Store } from "./storage.js";
import { theBrowser } from "./surroundings.js";
import { webSocketOver } from "./websocket.js";

const HOST = "com.semantest.websocket_bridge";

/**
 * The pause before the port is opened again is a random part of this, which doubles with each failure up to the cap: a
 * service worker is stopped after 30 s, and a timer that is due later would never come.
 */
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 20_000;
/** A port that lived this long makes the next failure a first one. */
const STABLE_MS = 10_000;

const ALARM = "websocket-bridge";
/** A worker that crashed comes back after this long, if there is the permission for alarms. */
const WATCH_MS = 60_000;
/** Browsers let no alarm come more often. */
const SHORTEST_SLEEP_MS = 30_000;
/** With nothing to do for this long, the port is closed. */
const QUIET_MS = 2000;
const DEFAULT_LINGER_MS = 86_400_000;

/** What direct connections are called on the port. */
const SOCKET_NAME = /^WebSocket\.\d+$/;
const SESSION_NAME = /^[A-Za-z0-9._-]{1,64}$/;

/**
 * @typedef {object} BridgeOptions
 * @property {string} [name] of the native messaging host
 * @property {{ every: number }} [sleep] close the port when there is nothing to do, so that the worker can stop, and
 *   look for what has come every so many milliseconds (at least 30000). Needs the permission "alarms". Without: the
 *   port, and with it the worker, stays; if there is the permission, an alarm brings back a worker that crashed.
 */

/**
 * @typedef {object} BridgeEvents
 * @property {() => unknown} idle
 * @property {() => unknown} connecting
 * @property {(welcome: { protocol: number, version: string, limits: any, features: string[] }) => unknown} ready
 * @property {(next: { until: number, error: BridgeError }) => unknown} waiting
 * @property {() => unknown} asleep
 * @property {(error: BridgeError) => unknown} failed
 * @property {(error: BridgeError) => unknown} error
 */

/** @typedef {"idle" | "connecting" | "ready" | "waiting" | "asleep" | "failed"} BridgeState */

export class Bridge {
  #surroundings;
  #name;
  #sleep;
  #listeners = new Listeners();
  #lasting;
  #fleeting;
  /** @type {Map<string, Session>} */
  #sessions = new Map();
  /** @type {Map<string, import("./websocket.js").Ear>} */
  #sockets = new Map();
  #socketsMade = 0;

  /** @type {BridgeState} */
  #state = "idle";
  /** @type {Port | undefined} */
  #port;
  #failures = 0;
  #openedAt = 0;
  /** For the next attempt. @type {any} */
  #pause;
  /** For sleep. @type {any} */
  #quiet;
  #stirredAt = 0;
  /** @type {BridgeError | undefined} */
  #error;
  /** @type {typeof WebSocket | undefined} */
  #WebSocket;

  /**
   * @param {BridgeOptions} [options]
   * @param {import("./surroundings.js").Surroundings} [surroundings] for tests: what stands in for the browser
   */
  constructor({ name = HOST, sleep } = {}, surroundings = theBrowser()) {
    const { isPrivate, localStorage, sessionStorage, alarms } = surroundings;
    if (!isPrivate && !localStorage)
      throw missingPermission("storage", "nothing of a session could outlive the worker");
    if (sleep && !alarms) throw missingPermission("alarms", "nothing would wake a worker that sleeps");
    if (sleep && !(sleep.every >= SHORTEST_SLEEP_MS)) {
      throw new RangeError(
        `sleep.every is ${sleep.every}, but browsers wake nobody more often than every ${SHORTEST_SLEEP_MS} ms`,
      );
    }
    this.#surroundings = surroundings;
    this.#name = name;
    this.#sleep = sleep;
    this.#fleeting = new Store(surroundings, sessionStorage);
    this.#lasting = isPrivate ? this.#fleeting : new Store(surroundings, localStorage);
    if (surroundings.isBackground) this.#haveItselfStarted();
  }

  /**
   * `idle`: nothing to do yet · `connecting` · `ready` · `waiting` for the next attempt · `asleep`: until there is
   * something to send, or an alarm · `failed`: somebody has to do something, then `connect()`.
   */
  get state() {
    return this.#state;
  }

  /** Why the state is `waiting` or `failed`. */
  get error() {
    return this.#error;
  }

  /**
   * Each state is an event: `connecting`, `ready` (the bridge's greeting), `waiting` (`{ until, error }`), `asleep`,
   * and `failed` (a BridgeError that says what to do). `error`: what the bridge says that concerns no session.
   *
   * @template {keyof BridgeEvents} Name
   * @param {Name} event
   * @param {BridgeEvents[Name]} handler
   * @returns {() => void} ends it
   */
  on(event, handler) {
    return this.#listeners.on(event, handler);
  }

  /**
   * The session of this name, which is opened now and on every port to come until it is closed. Call this, and `on` for
   * its handlers, in the first turn of the worker: then they miss nothing.
   *
   * @param {string} [name]
   * @param {import("./session.js").SessionOptions} [options] count for the first call
   */
  session(name = "default", options = {}) {
    const known = this.#sessions.get(name);
    if (known) return known;
    if (!SESSION_NAME.test(name) || SOCKET_NAME.test(name)) {
      throw new BridgeError(
        "invalid-message",
        `${JSON.stringify(name)} cannot be the name of a session: use 1 to 64 of A-Z a-z 0-9 . _ -`,
      );
    }
    const { isPrivate } = this.#surroundings;
    const mode = isPrivate ? "memory" : (options.mode ?? "durable");
    const home = {
      surroundings: this.#surroundings,
      store: mode === "durable" ? this.#lasting : this.#fleeting,
      profile: () => this.#lasting.profile(),
      settings: (/** @type {object | undefined} */ settings) => this.#withLinger(settings),
      wake: () => this.#wake(),
      gone: () => this.#forget(name),
      failure: () => (this.#state === "failed" ? this.#error : undefined),
    };
    const session = new Session(home, name, { ...options, mode });
    this.#sessions.set(name, session);
    if (this.#port) session.attach(this.#port);
    this.#wake();
    return session;
  }

  /** Opens the port now: from the start, while waiting, or after `failed`. */
  connect() {
    if (this.#port) return;
    this.#failures = 0;
    this.#connectSoon();
  }

  /**
   * The bridge's figures of all sessions of this extension: PROTOCOL.md lists them.
   *
   * @returns {Promise<any>}
   */
  async status() {
    if (!this.#port) {
      throw new BridgeError(
        "unattached",
        `the bridge is ${this.#state}, so that there are no figures. Wait for \`ready\`.`,
        {
          retryable: this.#state !== "failed",
          cause: this.#error,
        },
      );
    }
    return this.#port.ask({ type: "status" });
  }

  /** A class with the interface of the browser's own `WebSocket`, whose connections go through this bridge. */
  get WebSocket() {
    return (this.#WebSocket ??= webSocketOver((socket) => this.#openSocket(socket), this.#surroundings.newTask));
  }

  /** A browser starts a worker for nothing but an event that it has once listened to. */
  #haveItselfStarted() {
    const { onStartup, alarms } = this.#surroundings;
    onStartup?.addListener(() => {});
    const minutes = (this.#sleep?.every ?? WATCH_MS) / 60_000;
    alarms?.onAlarm.addListener((alarm) => {
      if (alarm.name === ALARM && this.#sessions.size > 0) this.#wake();
    });
    // From the start, so that a worker that is killed comes back too.
    alarms?.create(ALARM, { delayInMinutes: minutes, periodInMinutes: minutes });
  }

  /** @param {import("./websocket.js").Ear} socket @returns {import("./websocket.js").Line} */
  #openSocket(socket) {
    const session = `WebSocket.${(this.#socketsMade += 1)}`;
    this.#sockets.set(session, socket);
    if (this.#state === "failed") this.#surroundings.setTimer(() => this.#endSocket(session, this.#error), 0);
    else if (this.#port) socket.attach();
    this.#wake();
    return {
      post: (message) => {
        this.#port?.post({ session, ...message });
        this.#stir();
      },
      done: () => {
        this.#sockets.delete(session);
        this.#stir();
      },
    };
  }

  /** @param {string} name @param {BridgeError | undefined} error */
  #endSocket(name, error) {
    const socket = this.#sockets.get(name);
    this.#sockets.delete(name);
    socket?.cut(error);
  }

  /** Something is to be done that needs a port. */
  #wake() {
    this.#stir();
    if (["idle", "asleep"].includes(this.#state)) this.#connectSoon();
  }

  /** Everything that this turn asks for is there when the port is opened. */
  #connectSoon() {
    this.#surroundings.clearTimer(this.#pause);
    queueMicrotask(() => {
      if (!this.#port) this.#connect();
    });
  }

  #connect() {
    this.#tell("connecting");
    this.#openedAt = this.#surroundings.now();
    const port = new Port(this.#surroundings, this.#name, {
      hear: (message) => this.#hear(message),
      greeted: (welcome) => this.#tell("ready", welcome),
      ended: (error) => this.#ended(error),
    });
    this.#port = port;
    for (const session of this.#sessions.values()) session.attach(port);
    for (const socket of this.#sockets.values()) socket.attach();
    this.#stir();
  }

  /** @param {any} message */
  #hear(message) {
    this.#stir();
    const receiver = this.#sessions.get(message?.session) ?? this.#sockets.get(message?.session);
    if (receiver) return receiver.hear(message);
    if (message?.type !== "error") return; // of a session that was left a moment ago, or of a later protocol
    const error = BridgeError.from(message);
    if (error.code === "protocol-unsupported") {
      this.#port?.close();
      this.#ended(error);
    } else if (message.session === undefined) {
      this.#listeners.tell("error", error);
    }
  }

  /** @param {BridgeError} error */
  #ended(error) {
    this.#leavePort(error);
    if (!error.retryable) {
      this.#error = error;
      for (const session of this.#sessions.values()) session.fail(error);
      return this.#tell("failed", error);
    }
    const { now, random, setTimer } = this.#surroundings;
    if (now() - this.#openedAt >= STABLE_MS) this.#failures = 0;
    const pause = random() * Math.min(FIRST_PAUSE_MS * 2 ** this.#failures, LONGEST_PAUSE_MS);
    this.#failures += 1;
    this.#error = error;
    this.#pause = setTimer(() => this.#connectSoon(), pause);
    this.#tell("waiting", { until: now() + pause, error });
  }

  /** @param {BridgeError} [error] why */
  #leavePort(error) {
    this.#port = undefined;
    this.#surroundings.clearTimer(this.#quiet);
    this.#quiet = undefined;
    for (const session of this.#sessions.values()) session.detach();
    for (const name of [...this.#sockets.keys()]) this.#endSocket(name, error);
  }

  /** @param {string} name */
  #forget(name) {
    this.#sessions.delete(name);
    this.#stir();
  }

  /** Something happens: the worker does not sleep yet. */
  #stir() {
    this.#stirredAt = this.#surroundings.now();
    if (this.#port) this.#quiet ??= this.#surroundings.setTimer(() => this.#sleepIfIdle(), QUIET_MS);
  }

  #sleepIfIdle() {
    const { now, setTimer } = this.#surroundings;
    const port = this.#port;
    this.#quiet = undefined;
    if (!port) return;
    const isUnused = this.#sessions.size === 0 && this.#sockets.size === 0;
    if (!isUnused && (!this.#sleep || this.#sockets.size > 0)) return;
    const isBusy = [...this.#sessions.values()].some((session) => !session.isIdle);
    const rest = isBusy ? QUIET_MS : this.#stirredAt + QUIET_MS - now();
    if (rest > 0) {
      this.#quiet = setTimer(() => this.#sleepIfIdle(), rest);
      return;
    }
    port.close();
    this.#leavePort();
    this.#tell(isUnused ? "idle" : "asleep");
  }

  /**
   * The connection to the server must outlast the sleep, and an alarm that comes late.
   *
   * @param {any} settings
   */
  #withLinger(settings) {
    if (!this.#sleep) return settings;
    const shortest = 2 * this.#sleep.every + 60_000;
    return { ...settings, linger_ms: Math.max(settings?.linger_ms ?? DEFAULT_LINGER_MS, shortest) };
  }

  /**
   * @param {BridgeState} state
   * @param {any} [news]
   */
  #tell(state, news) {
    this.#state = state;
    if (state === "ready") this.#error = undefined;
    this.#listeners.tell(state, news);
  }
}

/** @param {string} permission @param {string} why */
function missingPermission(permission, why) {
  const message =
    `this extension lacks a permission: add "${permission}" to \`permissions\` in manifest.json; ` +
    `without it, ${why}`;
  return new BridgeError("permission-missing", message);
}
