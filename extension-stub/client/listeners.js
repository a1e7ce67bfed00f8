// Owns: who wants to hear of what. Does not own the order of deliveries, nor what follows when one fails:
// `deliveries.js`.

/** @typedef {(...news: any[]) => unknown} Handler */

export class Listeners {
  /** @type {Map<string, Set<{ handler: Handler }>>} */
  #handlers = new Map();

  /**
   * @param {string} event
   * @param {Handler} handler
   * @returns {() => void} ends it
   */
  on(event, handler) {
    if (typeof handler !== "function")
      throw new TypeError(`on(${JSON.stringify(event)}) needs a function, not ${handler}`);
    const registration = { handler };
    const registered = this.#handlers.get(event) ?? new Set();
    this.#handlers.set(event, registered.add(registration));
    return () => {
      registered.delete(registration);
    };
  }

  /**
   * Those that listen now.
   *
   * @param {string} event
   * @returns {Handler[]}
   */
  of(event) {
    const registered = this.#handlers.get(event);
    return registered ? Array.from(registered, ({ handler }) => handler) : [];
  }

  /**
   * Tells all of them. What a handler throws is its own affair, and stops nobody else. An `error` that nobody listens
   * to is for whoever reads the console: it must not be lost.
   *
   * @param {string} event
   * @param {...any} news
   */
  tell(event, ...news) {
    const handlers = this.of(event);
    if (handlers.length === 0 && event === "error") console.error(...news);
    for (const handler of handlers) {
      try {
        const result = handler(...news);
        if (isThenable(result)) result.then(undefined, (error) => console.error(error));
      } catch (error) {
        console.error(error);
      }
    }
  }
}

/**
 * @param {any} value
 * @returns {value is PromiseLike<unknown>}
 */
function isThenable(value) {
  return typeof value?.then === "function";
}
