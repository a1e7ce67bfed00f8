// Owns: what is known of the tasks that a server reports on: how far each is, how it ended, and its log; and that this
// outlives the worker. The reader of a session keeps it, a page that only observes the session sees the same. Does not
// own what comes, and that nothing comes twice (`deliveries.js`), nor how things get into the storage (`storage.js`).

import { BridgeError } from "./errors.js";
import { Listeners } from "./listeners.js";

/** Of one task; what is older is dropped, and counted. */
const LOG_LINES = 200;
const LOG_CHARACTERS = 20_000;
/** A longer one is no id. */
const ID_CHARACTERS = 128;
/** Of one text. The browser's storage has room for 5 MB, and is for more than tasks. */
const TEXT_CHARACTERS = 1000;
const TASKS = 100;
/** A task of which nothing is heard for this long is forgotten. */
const KEEP_MS = 86_400_000;
const LOOK_FOR_OLD_MS = 60_000;

/** @typedef {"waiting" | "running" | "complete" | "failed"} TaskState */

/** @typedef {{ at: number, level: "debug" | "info" | "warn" | "error", message: string }} LogLine */

/**
 * @typedef {object} Task
 * @property {string} id
 * @property {TaskState} state
 * @property {string} status the server's own word for that, or ""
 * @property {string} stage what it does, or did when it failed, or ""
 * @property {number | null} progress 0 to 100; null: the server did not say
 * @property {string} message the newest word of it, or ""
 * @property {LogLine[]} log oldest first
 * @property {number} dropped how many older lines the log had
 * @property {number} gaps how often something of it may have been missed
 * @property {number} since milliseconds since 1970: when it was first heard of
 * @property {number} at when it was last heard of
 * @property {{ epoch: string, seq: number }} place the message that said so
 */

/**
 * @typedef {object} TaskEvents
 * @property {(task: Task) => unknown} change
 * @property {(id: string) => unknown} removed
 */

/** The server's words that mean something else than `running`. @type {Map<string, TaskState>} */
const STATES = new Map(
  Object.entries({
    pending: "waiting",
    queued: "waiting",
    waiting: "waiting",
    complete: "complete",
    completed: "complete",
    done: "complete",
    success: "complete",
    succeeded: "complete",
    aborted: "failed",
    cancelled: "failed",
    error: "failed",
    failed: "failed",
  }),
);

/**
 * What each type of message says of a task.
 *
 * @type {Record<string, (task: Task, data: any) => Task>}
 */
const NEWS = {
  status: (task, { status, message }) => {
    const word = asText(status);
    return {
      ...anew(task),
      state: STATES.get(word.toLowerCase()) ?? "running",
      status: word,
      message: asText(message),
    };
  },
  progress: (task, { stage, progress, message }) => ({
    ...anew(task),
    state: "running",
    stage: asText(stage),
    progress: asPercentage(progress),
    message: asText(message),
  }),
  log: (task, { level, message }) => withLine(task, { at: task.at, level: asLevel(level), message: asText(message) }),
  complete: (task, { message, result }) => {
    return { ...task, state: "complete", status: "", stage: "", progress: 100, message: asText(message ?? result) };
  },
  error: (task, { error, message }) => ({ ...task, state: "failed", status: "", message: asText(message ?? error) }),
  heartbeat: (task) => task,
};

export class Tasks {
  #session;
  #store;
  #key;
  #observes;
  #now;
  #listeners = new Listeners();
  /** @type {Map<string, Task>} */
  #tasks = new Map();
  /** @type {Promise<void> | undefined} */
  #loaded;
  #lookedForOld = 0;

  /**
   * Follows what `session` brings of the dialect `{ type, taskId, timestamp, data }` from now on; what was known to
   * former workers is there too. With a session that only observes: what its reader knows.
   *
   * @param {import("./session.js").Session} session
   */
  constructor(session) {
    const { store, key, observes, now } = session.memory;
    this.#session = session;
    this.#store = store;
    this.#key = key;
    this.#observes = observes;
    this.#now = now;
    if (observes) {
      store.watch((values) => this.#see(values));
    } else {
      session.on("messages", (deliveries) => this.#take(deliveries));
    }
    void this.#load().catch((error) => session.tell("error", error));
  }

  /** Has the server report on this task, now and on every new connection. @param {string} id */
  track(id) {
    this.#session.subscribe(`task/${id}`, { type: "subscribe", taskId: id });
  }

  /** What is known of it stays. @param {string} id */
  untrack(id) {
    this.#session.unsubscribe(`task/${id}`, { type: "unsubscribe", taskId: id });
  }

  /** @returns {Promise<Task[]>} the one that was heard of last comes first */
  async all() {
    await this.#load();
    return [...this.#tasks.values()].sort((one, other) => other.at - one.at || other.place.seq - one.place.seq);
  }

  /**
   * `change` (`(task) => …`) and `removed` (`(id) => …`).
   *
   * @template {keyof TaskEvents} Name
   * @param {Name} event
   * @param {TaskEvents[Name]} handler
   * @returns {() => void} ends it
   */
  on(event, handler) {
    return this.#listeners.on(event, handler);
  }

  /** Forgets all tasks. */
  async clear() {
    if (this.#observes) {
      throw new BridgeError(
        "read-only",
        `the tasks of session ${this.#session.name} belong to its reader: clear them there, this page only observes`,
      );
    }
    await this.#load();
    await this.#keep(this.#drop([...this.#tasks.keys()]), true);
  }

  #load() {
    this.#loaded ??= this.#read();
    this.#loaded.catch(() => (this.#loaded = undefined)); // the next message tries again
    return this.#loaded;
  }

  async #read() {
    const index = this.#indexKey;
    const ids = (await this.#store.read(index))[index] ?? [];
    const found = await this.#store.read(...ids.map((/** @type {string} */ id) => this.#taskKey(id)));
    for (const task of Object.values(found)) {
      // What changed while this was read is newer.
      if (!this.#tasks.has(task.id)) this.#tasks.set(task.id, task);
    }
    if (!this.#observes) await this.#keep(this.#dropOld(), true);
  }

  /**
   * Is done when all of it is in the storage, by one write: it is acknowledged then, and never comes again.
   *
   * @param {import("./deliveries.js").Delivery[]} deliveries
   */
  async #take(deliveries) {
    await this.#load();
    const known = this.#tasks.size;
    /** @type {Set<string>} */
    const changed = new Set();
    for (const delivery of deliveries) {
      for (const task of delivery.type === "gap" ? this.#miss(delivery) : this.#hear(delivery)) {
        this.#tasks.set(task.id, task);
        changed.add(task.id);
        this.#listeners.tell("change", task);
      }
    }
    const isNew = this.#tasks.size > known;
    const mayBeOld = this.#tasks.size > TASKS || this.#now() - this.#lookedForOld > LOOK_FOR_OLD_MS;
    const old = mayBeOld ? this.#dropOld() : [];
    await this.#keep([...changed, ...old], isNew || old.length > 0);
  }

  /** @param {import("./deliveries.js").Message} message @returns {Task[]} what it changes */
  #hear({ epoch, seq, at, payload }) {
    const type = payload?.type;
    const news = typeof type === "string" && Object.hasOwn(NEWS, type) ? NEWS[type] : undefined;
    const id = payload?.taskId ?? payload?.data?.taskId;
    if (!news || typeof id !== "string" || id === "" || id.length > ID_CHARACTERS) return [];
    const known = this.#tasks.get(id);
    // Its worker died between this write and the mark.
    if (known?.place.epoch === epoch && known.place.seq >= seq) return [];
    return [news({ ...(known ?? unheardOf(id, at)), at, place: { epoch, seq } }, payload.data ?? {})];
  }

  /** @param {import("./deliveries.js").Gap} gap @returns {Task[]} those of which it may miss something */
  #miss({ epoch, seq }) {
    const isNew = (/** @type {Task} */ { place }) => place.epoch !== epoch || place.seq < seq;
    const hit = [...this.#tasks.values()].filter((task) => !isOver(task) && isNew(task));
    return hit.map((task) => ({ ...task, gaps: task.gaps + 1, place: { epoch, seq } }));
  }

  /** @returns {string[]} whose */
  #dropOld() {
    const now = this.#now();
    this.#lookedForOld = now;
    const isOld = (/** @type {Task} */ { at }) => now - at > KEEP_MS;
    // Those that are over go first, the oldest before all others.
    const order = [...this.#tasks.values()].sort(
      (one, other) => Number(isOver(other)) - Number(isOver(one)) || one.at - other.at,
    );
    const tooMany = Math.max(0, order.length - TASKS);
    return this.#drop(order.filter((task, place) => place < tooMany || isOld(task)).map(({ id }) => id));
  }

  /** @param {string[]} ids */
  #drop(ids) {
    for (const id of ids) {
      this.#tasks.delete(id);
      this.#listeners.tell("removed", id);
    }
    return ids;
  }

  /**
   * Writes these tasks, and removes those of them that are no more. A storage that fails is told, and stops nothing.
   *
   * @param {string[]} ids
   * @param {boolean} isListNew whether there are others than before
   */
  async #keep(ids, isListNew) {
    if (ids.length === 0) return;
    const tasks = Object.fromEntries(ids.map((id) => [this.#taskKey(id), this.#tasks.get(id)]));
    const list = isListNew ? { [this.#indexKey]: [...this.#tasks.keys()] } : {};
    await this.#store.write({ ...tasks, ...list }).catch((error) => this.#session.tell("error", error));
  }

  /** Sees what the reader wrote. @param {Record<string, any>} values */
  #see(values) {
    for (const [key, task] of Object.entries(values)) {
      if (!key.startsWith(this.#taskKey(""))) continue;
      const id = key.slice(this.#taskKey("").length);
      if (task === undefined) {
        this.#tasks.delete(id);
        this.#listeners.tell("removed", id);
      } else {
        this.#tasks.set(id, task);
        this.#listeners.tell("change", task);
      }
    }
  }

  get #indexKey() {
    return `tasks/${this.#key}`;
  }

  /** @param {string} id */
  #taskKey(id) {
    return `task/${this.#key}/${id}`;
  }
}

/** @param {string} id @param {number} at @returns {Task} */
function unheardOf(id, at) {
  const place = { epoch: "", seq: 0 };
  return {
    id,
    state: "waiting",
    status: "",
    stage: "",
    progress: null,
    message: "",
    log: [],
    dropped: 0,
    gaps: 0,
    since: at,
    at,
    place,
  };
}

/** @param {Task} task */
function isOver({ state }) {
  return state === "complete" || state === "failed";
}

/** The task as it was, or if it was over, as it begins once more. @param {Task} task @returns {Task} */
function anew(task) {
  return isOver(task) ? { ...unheardOf(task.id, task.at), place: task.place } : task;
}

/** @param {Task} task @param {LogLine} line @returns {Task} */
function withLine(task, line) {
  const log = [...task.log, line];
  let characters = log.reduce((sum, { message }) => sum + message.length, 0);
  let drop = 0;
  while (log.length - drop > LOG_LINES || characters > LOG_CHARACTERS) {
    characters -= log[drop]?.message.length ?? 0;
    drop += 1;
  }
  return { ...task, log: log.slice(drop), dropped: task.dropped + drop };
}

/** @param {unknown} value @returns {string} what is longer than a person reads ends in "…" */
function asText(value) {
  if (value === undefined || value === null) return "";
  const text = typeof value === "string" ? value : JSON.stringify(value);
  return text.length > TEXT_CHARACTERS ? `${text.slice(0, TEXT_CHARACTERS)}…` : text;
}

/** @param {unknown} value */
function asPercentage(value) {
  const number = typeof value === "number" ? value : NaN;
  return Number.isFinite(number) ? Math.min(100, Math.max(0, number)) : null;
}

/** @param {unknown} value @returns {LogLine["level"]} */
function asLevel(value) {
  if (value === "debug" || value === "warn" || value === "error") return value;
  return value === "warning" ? "warn" : "info";
}
