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
  /** Why, if it is not connected. */
  #reason = "";
  /** What went wrong since it was asked for, or since the connection was made. */
  #trouble = "";

  constructor(updates) {
    this.#updates = updates;
    updates.whenChanged(() => this.#draw());
    this.#draw();
  }

  /** The session is in `state`; `reason` says why, if there is one. */
  connection(state, reason = "") {
    if (state === "connected") this.#trouble = "";
    [this.#state, this.#reason] = [state, reason];
    this.#draw();
  }

  trouble(message) {
    this.#trouble = message;
    this.#draw();
  }

  /** What went wrong, for a person who is told now, and need not be warned of it any more; "" if nothing did. */
  takeTrouble() {
    const trouble = this.#trouble;
    this.#trouble = "";
    this.#draw();
    return trouble;
  }

  async #draw() {
    // A database that does not work is no reason to hide the rest.
    const unread = await this.#updates.unread().catch(() => 0);
    const [text, color] = this.#look(unread);
    const words = [`Task tracker: ${this.#state}`, this.#reason, this.#trouble, unread > 0 ? `${unread} unread` : ""];
    await Promise.all([
      chrome.action.setBadgeText({ text }),
      chrome.action.setBadgeBackgroundColor({ color }),
      chrome.action.setTitle({ title: words.filter(Boolean).join("\n") }),
    ]);
  }

  /** The text and its background. */
  #look(unread) {
    const count = unread > 99 ? "99+" : String(unread);
    const isPatient = PATIENCE.includes(this.#state);
    if (this.#trouble || (this.#state !== "connected" && !isPatient)) return ["!", TROUBLE];
    if (isPatient) return [unread > 0 ? count : "…", WAITING];
    return unread > 0 ? [count, UNREAD] : [" ", GOOD];
  }
}
