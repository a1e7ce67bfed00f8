// Owns what the server is asked for: the tasks and channels that a person has named, and the end of those that are named
// no more, also if they were left out while no worker ran.

const KEY = "asked for";
const NOTHING = { tasks: [], channels: [] };

export class Tracking {
  #session;
  #tasks;
  /** What the server is asked for, as far as is known. */
  #asked = chrome.storage.local.get({ [KEY]: NOTHING }).then(({ [KEY]: asked }) => asked);

  constructor(session, tasks) {
    this.#session = session;
    this.#tasks = tasks;
  }

  /** Asks for these tasks and channels, and for no others. */
  async follow(wanted) {
    this.#asked = this.#asked.then((asked) => {
      this.#change(asked, wanted);
      return { tasks: wanted.tasks, channels: wanted.channels };
    });
    await this.#asked;
  }

  /** The bridge has heard it: it goes on with that by itself. */
  async keep() {
    await chrome.storage.local.set({ [KEY]: await this.#asked });
  }

  /** The bridge has forgotten it. */
  async forget() {
    await chrome.storage.local.remove(KEY);
  }

  #change(asked, { tasks, channels }) {
    for (const id of asked.tasks) if (!tasks.includes(id)) this.#tasks.untrack(id);
    for (const channel of asked.channels) if (!channels.includes(channel)) this.#say("unsubscribe", channel);
    for (const id of tasks) this.#tasks.track(id);
    for (const channel of channels) this.#say("subscribe", channel);
  }

  #say(type, channel) {
    this.#session[type](`channel/${channel}`, { type, channel });
  }
}
