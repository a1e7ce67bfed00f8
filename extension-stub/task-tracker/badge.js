// Owns what the extension's button shows: how many updates are unread, or that there is trouble, and the same in words.

const GOOD = "#1b7f3b";
const UNREAD = "#1f5fbf";
const TROUBLE = "#b3261e";
const WAITING = "#6b6b6b";

/** States in which a moment's patience is all that is needed. */
const PATIENCE = ["connecting", "unattached", "closed"];

export class Badge {
  #updates;
  #state = "connecting";
  #message = "";

  constructor(updates) {
    this.#updates = updates;
    updates.whenChanged(() => this.#draw());
    this.#draw();
  }

  /** The session is in `state`; `message` says why, if there is a reason. */
  connection(state, message = "") {
    // A port that ended is opened again: what was the matter before is still the matter.
    if (state === "unattached" && this.#message) return;
    [this.#state, this.#message] = [state, message];
    this.#draw();
  }

  trouble(message) {
    [this.#state, this.#message] = ["trouble", message];
    this.#draw();
  }

  async #draw() {
    const unread = await this.#updates.unread();
    const [text, color] = this.#look(unread);
    const words = [`Task tracker: ${this.#state}`, this.#message, unread > 0 ? `${unread} unread` : ""];
    await Promise.all([
      chrome.action.setBadgeText({ text }),
      chrome.action.setBadgeBackgroundColor({ color }),
      chrome.action.setTitle({ title: words.filter(Boolean).join("\n") }),
    ]);
  }

  /** The text and its background. */
  #look(unread) {
    const count = unread > 99 ? "99+" : String(unread);
    if (this.#state === "connected") return unread > 0 ? [count, UNREAD] : [" ", GOOD];
    if (PATIENCE.includes(this.#state)) return [unread > 0 ? count : "…", WAITING];
    return ["!", TROUBLE];
  }
}
