// Owns what stands in for the bridge behind the ports of a BrowserStandIn: as little of PROTOCOL.md as the library can
// be tested with. It keeps sessions across ports, numbers what a test has the server say, and remembers what was sent.

export class HostStandIn {
  sessions = new Map();
  /** Types of messages that are heard and not answered. */
  deafTo = new Set();
  /** What an `open` of a session is refused with. @type {Map<string, { code: string, retryable: boolean }>} */
  refuses = new Map();
  /** Whether sends are answered by themselves. */
  receipts = true;
  /** How many hosts were started. */
  started = 0;
  port;

  constructor(browser) {
    browser.host = (port) => this.#attach(port);
  }

  session(name = "default") {
    if (!this.sessions.has(name)) this.sessions.set(name, new SessionStandIn(name));
    return this.sessions.get(name);
  }

  /** The server says these payloads in a session. */
  say(name, ...payloads) {
    this.sayBodies(name, ...payloads.map((payload) => ({ payload })));
  }

  sayBodies(name, ...bodies) {
    const session = this.session(name);
    const messages = bodies.map((body) => session.add({ type: "message", at: 5, ...body }));
    if (session.port?.isOpen) session.port.say({ type: "batch", messages });
  }

  gap(name, gap) {
    const session = this.session(name);
    const message = session.add({ type: "gap", count: null, ...gap });
    if (session.port?.isOpen) session.port.say({ type: "batch", messages: [{ from: message.seq, ...message }] });
  }

  #attach(port) {
    this.started += 1;
    this.port = port;
    port.onMessage = (message) => {
      if (!this.deafTo.has(message.type)) this.#answer(port, message);
    };
    port.onLeave = () => {
      for (const session of this.sessions.values()) if (session.port === port) session.port = undefined;
    };
  }

  #answer(port, message) {
    const { type, ref } = message;
    if (type === "hello")
      return port.say({ type: "welcome", protocol: 1, version: "9.9.9", features: ["batch"], limits: {} });
    if (type === "status" && message.session === undefined) return port.say({ type: "status", ref, sessions: [] });
    const session = this.session(message.session);
    if (type === "open") return this.#open(port, session, message);
    if (session.port !== port) {
      return port.say({
        type: "error",
        code: "unknown-session",
        message: "send `open` first",
        session: session.name,
        ref,
      });
    }
    switch (type) {
      case "ack":
        if (message.seq > session.delivered)
          throw new Error(`acknowledged ${message.seq}, delivered ${session.delivered}`);
        if (message.epoch === session.epoch) session.acked = Math.max(session.acked, message.seq);
        return;
      case "send":
        return this.#send(port, session, message);
      case "status":
        return port.say({ type: "status", ref, sessions: [{ session: session.name, state: session.state }] });
      case "close":
        session.state = "disconnected";
        if (message.forget) {
          session.forget();
          port.say({ type: "opened", ...session.opened });
        }
        return port.say({ type: "state", session: session.name, state: session.state, since: 1 });
      case "detach":
        session.port = undefined;
    }
  }

  #open(port, session, { ref, after, connect, observe }) {
    const refusal = this.refuses.get(session.name);
    if (refusal) return port.say({ type: "error", session: session.name, ref, message: "not now", ...refusal });
    // Who only observes takes nothing from the reader.
    if (!observe || !session.port) session.port = port;
    if (connect !== false) session.state = "connected";
    const begin = after && after.epoch === session.epoch && after.seq <= session.head ? after.seq : session.acked;
    const waiting = session.messages.filter(({ seq }) => seq > begin);
    const lost = after && after.epoch !== session.epoch;
    const gap = {
      type: "gap",
      session: session.name,
      seq: session.floor,
      from: session.floor,
      reason: "epoch",
      count: null,
    };
    if (lost) waiting.unshift(gap);
    session.delivered = session.head;
    port.say(
      { type: "opened", ref, ...session.opened, pending: waiting.length },
      { type: "state", session: session.name, state: session.state, since: 1 },
    );
    if (waiting.length > 0)
      port.say({ type: "batch", messages: waiting.map((message) => ({ ...message, replay: true })) });
  }

  #send(port, session, { ref, id, type, session: name, ...content }) {
    if (!session.ids.has(id)) {
      session.ids.add(id);
      session.sent.push({ id, ...content });
    }
    if (this.receipts) port.say({ type: "receipt", session: name, stage: "stored", ids: [id] });
  }
}

class SessionStandIn {
  epoch = "epoch-1";
  state = "connecting";
  messages = [];
  head = 0;
  floor = 0;
  acked = 0;
  delivered = 0;
  /** What reached the bridge, each id once. */
  sent = [];
  ids = new Set();
  port;

  constructor(name) {
    this.name = name;
  }

  get opened() {
    const { name: session, epoch, state, head, acked } = this;
    return {
      session,
      epoch,
      state,
      head,
      acked,
      pending: 0,
      ack: "manual",
      window: { messages: 1024, bytes: 4194304 },
    };
  }

  add(message) {
    this.head += 1;
    if (this.port?.isOpen) this.delivered = this.head;
    const numbered = { ...message, session: this.name, seq: this.head };
    this.messages.push(numbered);
    return numbered;
  }

  /** Everything that was kept is gone. */
  forget() {
    this.epoch = `epoch-${Number(this.epoch.slice(6)) + 1}`;
    this.messages = [];
    this.head = this.floor = this.acked = this.delivered = 0;
    this.sent = [];
    this.ids.clear();
  }
}
