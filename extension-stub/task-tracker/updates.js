// Owns the history: every update once, for a day, in the extension's database, and which of them were read. All contexts
// of the extension see the same, and hear when it changes.

const KEEP_MS = 86_400_000;
const LOOK_FOR_OLD_MS = 600_000;

const STORE = "updates";

export class Updates {
  #database = open();
  #changes = new BroadcastChannel("updates");
  #listeners = [];
  #lookedForOld = 0;

  constructor() {
    this.#changes.onmessage = () => this.#tell();
  }

  /** Adds an update, `{ key, at, seq, kind, title, text }`. False: one with this key is there already. */
  async add(update) {
    if (Date.now() - this.#lookedForOld > LOOK_FOR_OLD_MS) await this.removeOld();
    const isNew = await this.#change(async (store) => {
      if (await done(store.getKey(update.key))) return false;
      store.add({ ...update, order: [update.at, update.seq], unread: 1 });
      return true;
    });
    return isNew;
  }

  /** The newest ones, the last first. */
  async newest(count) {
    const found = [];
    await this.#read(async (store) => {
      const cursors = store.index("order").openCursor(null, "prev");
      for (let cursor = await done(cursors); cursor && found.length < count; cursor = await done(cursors)) {
        found.push(cursor.value);
        cursor.continue();
      }
    });
    return found;
  }

  async count() {
    return this.#read((store) => done(store.count()));
  }

  async unread() {
    return this.#read((store) => done(store.index("unread").count()));
  }

  /** Marks all as read. */
  async markRead() {
    await this.#change(async (store) => {
      // Those that were read are not in the index.
      const unread = await done(store.index("unread").getAll());
      for (const { unread: _, ...update } of unread) store.put(update);
      return unread.length > 0;
    });
  }

  async removeOld() {
    this.#lookedForOld = Date.now();
    await this.#change(async (store) => {
      const old = await done(store.index("order").getAllKeys(IDBKeyRange.upperBound([Date.now() - KEEP_MS])));
      for (const key of old) store.delete(key);
      return old.length > 0;
    });
  }

  async clear() {
    await this.#change(async (store) => {
      store.clear();
      return true;
    });
  }

  /** Calls `listener` after every change, in whatever context it was made. */
  whenChanged(listener) {
    this.#listeners.push(listener);
  }

  async #read(task) {
    return task((await this.#database).transaction(STORE).objectStore(STORE));
  }

  /** `task` says whether it changed something. What it wrote is on the disk when this resolves. */
  async #change(task) {
    const transaction = (await this.#database).transaction(STORE, "readwrite");
    const end = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const [isChanged] = await Promise.all([task(transaction.objectStore(STORE)), end]);
    if (!isChanged) return false;
    this.#changes.postMessage(null);
    this.#tell();
    return true;
  }

  #tell() {
    for (const listener of this.#listeners) listener();
  }
}

function open() {
  const request = indexedDB.open("task-tracker", 1);
  request.onupgradeneeded = () => {
    const store = request.result.createObjectStore(STORE, { keyPath: "key" });
    store.createIndex("order", "order");
    store.createIndex("unread", "unread");
  };
  return done(request);
}

/** The next result of a request; a cursor has many. */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
