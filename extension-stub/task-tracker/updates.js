// Owns the history: every update once, for a day, in the extension's database, and which of them were read. All contexts
// of the extension see the same, and hear when it changes.

const KEEP_MS = 86_400_000;
/** So many are kept, the newest ones; twice as many between two looks for what is too much. */
const KEEP = 10_000;
const LOOK_FOR_OLD_MS = 600_000;

const STORE = "updates";

export class Updates {
  /** @type {Promise<IDBDatabase> | undefined} */
  #database;
  #changes = new BroadcastChannel("updates");
  #listeners = [];
  #lookedForOld = 0;
  /** How many were added since. */
  #added = 0;

  constructor() {
    this.#changes.onmessage = () => this.#tell();
  }

  /** Whether there is an update with this key. */
  async has(key) {
    return this.#read(async (store) => (await done(store.getKey(key))) !== undefined);
  }

  /** Adds an update, `{ key, at, seq, kind, title, text }`. It must not be there: fails if one with its key is. */
  async add(update) {
    if (Date.now() - this.#lookedForOld > LOOK_FOR_OLD_MS || this.#added >= KEEP) await this.removeOld();
    this.#added += 1;
    await this.#change(async (store) => {
      store.add({ ...update, order: [update.at, update.seq], unread: 1 });
      return true;
    });
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

  /** Removes what is older than a day, and of the rest the oldest ones if it is too much. */
  async removeOld() {
    [this.#lookedForOld, this.#added] = [Date.now(), 0];
    await this.#change(async (store) => {
      const order = store.index("order");
      const old = await done(order.getAllKeys(IDBKeyRange.upperBound([Date.now() - KEEP_MS])));
      const tooMany = (await done(store.count())) - KEEP;
      const gone = tooMany > old.length ? await done(order.getAllKeys(null, tooMany)) : old;
      for (const key of gone) store.delete(key);
      return gone.length > 0;
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
    return task((await this.#open()).transaction(STORE).objectStore(STORE));
  }

  /** `task` says whether it changed something. What it wrote is on the disk when this resolves. */
  async #change(task) {
    const transaction = (await this.#open()).transaction(STORE, "readwrite", { durability: "strict" });
    const end = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error);
    });
    const [isChanged] = await Promise.all([task(transaction.objectStore(STORE)), end]);
    if (!isChanged) return;
    this.#changes.postMessage(null);
    this.#tell();
  }

  /** The database; one that could not be opened, or was closed by the browser, is opened again. */
  #open() {
    const again = () => (this.#database = undefined);
    if (!this.#database) {
      this.#database = open(again);
      this.#database.catch(again);
    }
    return this.#database;
  }

  #tell() {
    for (const listener of this.#listeners) listener();
  }
}

async function open(whenClosed) {
  const request = indexedDB.open("task-tracker", 1);
  request.onupgradeneeded = () => {
    const store = request.result.createObjectStore(STORE, { keyPath: "key" });
    store.createIndex("order", "order");
    store.createIndex("unread", "unread");
  };
  const database = await done(request);
  database.onclose = whenClosed;
  return database;
}

/** The next result of a request; a cursor has many. */
function done(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
