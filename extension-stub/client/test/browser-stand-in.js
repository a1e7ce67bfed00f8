// Owns what stands in for a browser: its storage, its clock and timers, native messaging ports, alarms, and workers
// that can be killed at any moment: from then on nothing of a worker runs any more, and only what is in the storage
// remains.

/** The longest chain of answers to answers. */
const TURNS = 12;

/** Lets everything run that needs no time to pass. */
export async function settled() {
  for (let turn = 0; turn < TURNS; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}

export class BrowserStandIn {
  /**
   * What `connectNative` of any worker leads to; `name` is the host's.
   *
   * @type {(port: HostSide, name: string) => void}
   */
  host = () => {};
  now = 1_800_000_000_000;
  isPrivate = false;
  /** Whether what runs is the extension's worker. */
  isBackground = true;
  /** Whether a worker has asked to be started with the browser. */
  startsWorker = false;
  permissions = new Set(["nativeMessaging", "storage", "alarms"]);
  local = new AreaStandIn(this);
  session = new AreaStandIn(this);
  /** Periods of the alarms, in minutes. @type {Map<string, number>} */
  alarms = new Map();
  /** Every port that was ever opened, oldest first. @type {HostSide[]} */
  ports = [];
  worker;
  #timers = new Set();
  #locks = new Map();
  #random = 1;

  constructor() {
    this.worker = new WorkerStandIn(this);
  }

  /** Ends the worker without a word, and gives a new one. */
  kill() {
    const { worker } = this;
    worker.isAlive = false;
    for (const port of this.ports) if (port.worker === worker) port.leave();
    for (const timer of this.#timers) if (timer.worker === worker) this.#timers.delete(timer);
    return (this.worker = new WorkerStandIn(this));
  }

  setTimer(worker, task, ms) {
    const timer = { at: this.now + Math.max(0, ms), task, worker };
    this.#timers.add(timer);
    return timer;
  }

  clearTimer(timer) {
    this.#timers.delete(timer);
  }

  get timers() {
    return this.#timers.size;
  }

  /** Lets time pass, and everything happen that is due in it. */
  async advance(ms) {
    const end = this.now + ms;
    for (;;) {
      await settled();
      const due = [...this.#timers].filter(({ at }) => at <= end).sort((one, other) => one.at - other.at)[0];
      if (!due) break;
      this.#timers.delete(due);
      this.now = Math.max(this.now, due.at);
      due.task();
    }
    this.now = end;
    await settled();
  }

  /** From 0 to 1, the same in every run. */
  random() {
    this.#random = (this.#random * 48_271) % 0x7fffffff;
    return this.#random / 0x7fffffff;
  }

  async exclusively(name, task) {
    const result = (this.#locks.get(name) ?? Promise.resolve()).then(task);
    this.#locks.set(
      name,
      result.catch(() => {}),
    );
    return result;
  }
}

/** A worker, as `surroundings.js` describes what it finds. */
class WorkerStandIn {
  isAlive = true;
  #alarmListeners = [];
  #ids = 0;

  constructor(browser) {
    const has = (permission) => browser.permissions.has(permission);
    const life = Math.floor(browser.random() * 1e9);
    this.lastErrorText = undefined;
    this.surroundings = {
      connectNative: has("nativeMessaging") ? (name) => this.#connect(browser, name) : undefined,
      lastError: () => this.lastErrorText,
      localStorage: has("storage") ? browser.local.for(this) : undefined,
      sessionStorage: has("storage") ? browser.session.for(this) : undefined,
      alarms: has("alarms")
        ? {
            create: (name, { periodInMinutes }) => browser.alarms.set(name, periodInMinutes),
            onAlarm: { addListener: (listener) => this.#alarmListeners.push(listener) },
          }
        : undefined,
      onStartup: { addListener: () => (browser.startsWorker = true) },
      isBackground: browser.isBackground,
      isPrivate: browser.isPrivate,
      now: () => browser.now,
      random: () => browser.random(),
      uuid: () => `id-${life}-${(this.#ids += 1)}`,
      setTimer: (task, ms) => browser.setTimer(this, task, ms),
      clearTimer: (timer) => browser.clearTimer(timer),
      newTask: (task) => setImmediate(() => this.isAlive && task()),
      exclusively: (name, task) => browser.exclusively(name, task),
    };
  }

  alarm(name) {
    for (const listener of this.#alarmListeners) listener({ name });
  }

  #connect(browser, name) {
    const port = new HostSide(this);
    browser.ports.push(port);
    browser.host(port, name);
    return port.workersSide;
  }
}

/** A port from the host's side. What the worker posts goes through JSON, as in a browser. */
class HostSide {
  /** Everything that the worker posted. */
  heard = [];
  /** Called with each message that the worker posts. @type {(message: any) => void} */
  onMessage = () => {};
  /** Called when the worker's side is gone. */
  onLeave = () => {};
  isOpen = true;
  /** Characters that one message may have. */
  limit = 64 * 1024 * 1024;
  #listeners = { message: [], disconnect: [] };
  /** What was said before the host ended arrives; after the worker has left nothing does. */
  #isLeft = false;

  constructor(worker) {
    this.worker = worker;
    this.workersSide = {
      postMessage: (message) => this.#posted(message),
      disconnect: () => this.leave(),
      onMessage: { addListener: (listener) => this.#listeners.message.push(listener) },
      onDisconnect: { addListener: (listener) => this.#listeners.disconnect.push(listener) },
    };
  }

  /** What the worker posted of one type. */
  of(type) {
    return this.heard.filter((message) => message.type === type);
  }

  /** Says something to the worker; it hears it in a turn of its own. */
  say(...messages) {
    for (const message of messages) {
      const copy = JSON.parse(JSON.stringify(message));
      setImmediate(() => {
        if (!this.#isLeft && this.worker.isAlive) for (const listener of this.#listeners.message) listener(copy);
      });
    }
  }

  /** The same, heard before this returns, and whether or not the port is still there. */
  sayNow(message) {
    for (const listener of this.#listeners.message) listener(message);
  }

  /** Ends the port from the host's side: `text` as Chromium says it, `error` as Firefox does. */
  end({ text, error } = {}) {
    if (!this.isOpen) return;
    this.isOpen = false;
    this.onLeave();
    setImmediate(() => {
      if (this.#isLeft || !this.worker.isAlive) return;
      this.worker.lastErrorText = text;
      this.workersSide.error = error === undefined ? null : { message: error };
      for (const listener of this.#listeners.disconnect) listener(this.workersSide);
      this.worker.lastErrorText = undefined;
    });
  }

  /** The worker's side is gone. */
  leave() {
    this.#isLeft = true;
    if (!this.isOpen) return;
    this.isOpen = false;
    this.onLeave();
  }

  #posted(message) {
    if (!this.worker.isAlive) return;
    if (!this.isOpen) throw new Error("Attempting to use a disconnected port object");
    const json = JSON.stringify(message);
    if (json.length > this.limit) throw new Error("Message exceeded maximum allowed size of 64MiB.");
    this.heard.push(JSON.parse(json));
    this.onMessage(JSON.parse(json));
  }
}

/** An area of the extension's storage. A killed worker never hears of what it had asked for, done or not. */
export class AreaStandIn {
  /** @type {Map<string, string>} JSON by key */
  items = new Map();
  /** How long anything takes. */
  delay = 0;
  /** What the next calls fail with: `get`, `set` or `remove`, and how often. */
  failures = { get: 0, set: 0, remove: 0 };
  /** How many writes there were, and how many at once at most. */
  writes = 0;
  mostAtOnce = 0;
  #atOnce = 0;
  #browser;
  #listeners = [];

  constructor(browser) {
    this.#browser = browser;
  }

  get keys() {
    return [...this.items.keys()];
  }

  value(key) {
    const json = this.items.get(key);
    return json === undefined ? undefined : JSON.parse(json);
  }

  for(worker) {
    return {
      get: (keys) =>
        this.#do(worker, "get", () => {
          const found = keys.filter((key) => this.items.has(key)).map((key) => [key, this.value(key)]);
          return Object.fromEntries(found);
        }),
      set: (values) => {
        const entries = Object.entries(values).map(([key, value]) => [key, JSON.stringify(value)]);
        return this.#do(worker, "set", () => {
          entries.forEach(([key, json]) => this.items.set(key, json));
          this.#tell(entries.map(([key, json]) => [key, { newValue: JSON.parse(json) }]));
        });
      },
      remove: (keys) =>
        this.#do(worker, "remove", () => {
          keys.forEach((key) => this.items.delete(key));
          this.#tell(keys.map((key) => [key, {}]));
        }),
      onChanged: { addListener: (listener) => this.#listeners.push({ listener, worker }) },
    };
  }

  #tell(changes) {
    for (const { listener, worker } of this.#listeners) if (worker.isAlive) listener(Object.fromEntries(changes));
  }

  #do(worker, what, effect) {
    const isWrite = what === "set";
    if (isWrite) {
      this.writes += 1;
      this.#atOnce += 1;
      this.mostAtOnce = Math.max(this.mostAtOnce, this.#atOnce);
    }
    return new Promise((resolve, reject) => {
      const act = () => {
        if (isWrite) this.#atOnce -= 1;
        if (!worker.isAlive && this.delay > 0) return; // it died before this reached the disk
        if (this.failures[what] > 0) {
          this.failures[what] -= 1;
          return reject(new Error("QUOTA_BYTES quota exceeded"));
        }
        const result = effect();
        if (worker.isAlive) resolve(result);
      };
      if (this.delay > 0) this.#browser.setTimer(undefined, act, this.delay);
      else setImmediate(act);
    });
  }
}
