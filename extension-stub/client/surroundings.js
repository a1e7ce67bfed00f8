// Owns: everything that the library takes from the browser, in one object, so that a test can put another one in its
// place. Nothing else in the library touches `chrome`, a clock, a timer or chance.

/**
 * @typedef {object} NativePort a browser's `runtime.Port`
 * @property {(message: unknown) => void} postMessage
 * @property {() => void} disconnect
 * @property {{ addListener(listener: (message: any) => void): void }} onMessage
 * @property {{ addListener(listener: (port: NativePort) => void): void }} onDisconnect
 * @property {{ message?: string } | null} [error] Firefox: why it ended
 */

/**
 * @typedef {Record<string, { oldValue?: any, newValue?: any }>} Changes of a storage area, by key
 *
 * @typedef {object} StorageArea a browser's `storage.StorageArea`
 * @property {(keys: string[]) => Promise<Record<string, any>>} get
 * @property {(items: Record<string, unknown>) => Promise<void>} set
 * @property {(keys: string[]) => Promise<void>} remove
 * @property {{ addListener(listener: (changes: Changes) => void): void }} onChanged also tells what other contexts of
 *   the extension wrote
 */

/**
 * @typedef {object} Alarms a browser's `alarms`
 * @property {(name: string, when: { delayInMinutes: number, periodInMinutes: number }) => unknown} create
 * @property {{ addListener(listener: (alarm: { name: string }) => void): void }} onAlarm
 */

/**
 * @typedef {object} Surroundings
 * @property {((name: string) => NativePort) | undefined} connectNative absent without the permission
 * @property {() => string | undefined} lastError Chromium: why the port ended; only while its end is being told
 * @property {StorageArea | undefined} localStorage outlives everything; absent without the permission
 * @property {StorageArea | undefined} sessionStorage outlives the worker, and is never on a disk; absent in old
 *   browsers
 * @property {Alarms | undefined} alarms absent without the permission
 * @property {{ addListener(listener: () => void): void } | undefined} onStartup the browser was started
 * @property {boolean} isBackground whether this is the extension's worker or event page, not a page that a person sees
 * @property {boolean} isPrivate whether nothing may be left behind
 * @property {() => number} now milliseconds since 1970
 * @property {() => number} random from 0 to 1, without 1
 * @property {() => string} uuid
 * @property {(task: () => void, ms: number) => any} setTimer
 * @property {(timer: any) => void} clearTimer
 * @property {(task: () => void) => void} newTask runs it soon, but when the promises of this task are through, which a
 *   timer would do too, but not a thousand times in a second
 * @property {<T>(name: string, task: () => Promise<T>) => Promise<T>} exclusively one task of a name at a time, in the
 *   whole extension
 */

/** A message to oneself is a task, and browsers do not slow it down. @returns {Surroundings["newTask"]} */
function newTask() {
  /** @type {(() => void)[]} */
  const tasks = [];
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => tasks.shift()?.();
  /** @type {any} */ (port1).unref?.(); // Node.js would wait for messages for ever
  return (task) => {
    tasks.push(task);
    port2.postMessage(null);
  };
}

/** @returns {Surroundings} */
export function theBrowser() {
  const { browser, chrome, navigator } = /** @type {any} */ (globalThis);
  const api = browser ?? chrome ?? {};
  const { runtime, storage, alarms, extension } = api;
  return {
    connectNative: runtime?.connectNative && ((name) => runtime.connectNative(name)),
    lastError: () => runtime?.lastError?.message,
    localStorage: storage?.local,
    sessionStorage: storage?.session,
    alarms,
    onStartup: runtime?.onStartup,
    // Firefox's event page is a page like any other, but for this.
    isBackground: typeof document === "undefined" || extension?.getBackgroundPage?.() === globalThis,
    isPrivate: extension?.inIncognitoContext === true,
    now: () => Date.now(),
    random: () => Math.random(),
    uuid: () => crypto.randomUUID(),
    setTimer: (task, ms) => setTimeout(task, ms),
    clearTimer: (timer) => clearTimeout(timer),
    newTask: newTask(),
    exclusively: (name, task) => (navigator?.locks ? navigator.locks.request(name, task) : task()),
  };
}
