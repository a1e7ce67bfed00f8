// Owns the judgement of what happened to an extension whose worker ends again and again, from the outside alone: what
// the server said and got, what the workers reported, and what was done to them. Pure: the same history, the same
// judgement.
//
// What it knows of the library and the bridge is what they promise:
//
// - To the extension: the numbers of the stream are handled one batch after the other, each until its handler has
//   ended, and none is left out but under a gap. A batch is what a handler is called with: one, or many. What the server
//   said is handled in its order; what is missing is covered by a gap at that place and of that time, and a gap has a
//   cause.
// - A message is handled again only by another worker, and only if the stop of the one before interrupted the handler
//   of its batch (which has not ended, or may not have heard that its report of that had come), or came so soon after
//   that its end was not written down yet. When the next handler has begun, it was.
// - To the server: what was promised arrives, in the order of sending and without a hole; twice only if the connection
//   was cut around the first time.
//
// A history is a list of events, each with its time `at`, in milliseconds since 1970:
//
//     { event: "said", number }                            the server said it, to whoever was connected
//     { event: "fault", kind, stops?, cuts? }              begins now: it stops the worker, it cuts the connection
//     { event: "woke", life }                              a worker's first word; `life` is its name
//     { event: "begun", life, batch }                      a handler was called with these entries, in order:
//         { epoch, seq, number }                               what the server said
//         { epoch, seq, gap }                                  or a gap, as it was told
//     { event: "ended", life, seq }                        it is done with all of them; `seq` is the last one's
//     { event: "promised", life, up }                      the library has promised the worker's message number `up`
//     { event: "arrived", connection, life, up }           it is at the server
//     { event: "arrived", connection, answer }             so is the answer to a number, which its handler waited for
//     { event: "error", life, … }                          the library complained; one that is being stopped may

/** How long after its end a handler may still be called again: the browser writes down that it ended. */
const WRITING_MS = 500;

/** How long it may take until a lost connection is noticed: what is said meanwhile goes nowhere. */
const NOTICING_MS = 1000;

/** How long before the end of its connection something may have arrived that is sent again. */
const CONFIRMING_MS = 1000;

/** Judges a history that has come to rest: `figures`, and in words what is `wrong`. */
export function reckon(history) {
  const reckoning = new Reckoning(history);
  for (const event of history) reckoning.see(event);
  reckoning.close();
  const { figures, wrong } = reckoning;
  return { figures, wrong };
}

class Reckoning {
  wrong = [];
  figures = {
    faults: {},
    gaps: {},
    workers: 0,
    said: 0,
    handled: 0,
    batches: 0,
    "in the largest batch": 0,
    "covered by gaps": 0,
    interrupted: 0,
    "handled again as interrupted": 0,
    "handled again as about to end": 0,
    "ms before the stop at most": 0,
    promised: 0,
    arrived: 0,
    "arrived twice around a fault": 0,
    "lost unreported": 0,
    "doubled without a fault": 0,
    "out of order": 0,
    "wrong otherwise": 0,
  };
  #faults;
  /** The workers by name, in the order in which they woke. */
  #lives = new Map();
  /** When each number was said. */
  #said = new Map();

  #epoch;
  /** The handlings of each number of the stream; one handling is of a batch. */
  #handlings = new Map();
  /** The numbers of the stream that were begun, and by nobody ended. */
  #unended = new Set();
  /** Up to where the stream is handled or covered. */
  #seq = 0;
  /** The last number of the server that was handled, and the gaps since. */
  #number = 0;
  #gaps = [];

  /** The first arrivals, by what arrived. */
  #arrivals = new Map();
  #answer = 0;
  /** The worker whose message came last, and its number. */
  #up = { order: -1, up: 0 };
  #promises = [];
  #errors = [];

  constructor(history) {
    this.#faults = history.filter(({ event }) => event === "fault");
  }

  see(event) {
    if (event.life !== undefined) this.#live(event);
    switch (event.event) {
      case "said":
        this.#said.set(event.number, event.at);
        return;
      case "fault":
        return count(this.figures.faults, event.kind);
      case "begun":
        return this.#begin(event);
      case "ended":
        return this.#end(event);
      case "promised":
        return void this.#promises.push(event);
      case "arrived":
        return this.#arrive(event);
      case "error":
        this.#errors.push(event);
    }
  }

  /** The history is complete: what has not happened by now has not happened. */
  close() {
    this.#judgeMissing(Math.max(0, ...this.#said.keys()) + 1);
    for (const seq of this.#unended) this.#find("lost unreported", `nobody has handled ${seq} to its end`);
    const lost = ({ life, up }) => !this.#arrivals.has(`${life} ${up}`);
    for (const { life, up } of this.#promises.filter(lost))
      this.#find("lost unreported", `${up} of ${life} was promised, and is lost`);
    for (const handlings of this.#handlings.values()) {
      const { number } = handlings[0];
      const isEnded = handlings.some(({ handling }) => handling.endedAt !== undefined);
      if (isEnded && number !== undefined && !this.#arrivals.has(`answer ${number}`)) {
        this.#find("lost unreported", `the answer to ${number} was promised, and is lost`);
      }
    }
    for (const error of this.#errors) {
      if (!(this.#lives.get(error.life).stoppedAt <= error.at))
        this.#find("wrong otherwise", `an error: ${JSON.stringify(error)}`);
    }
    const { figures } = this;
    figures.workers = this.#lives.size;
    figures.said = this.#said.size;
    figures.promised = this.#promises.length;
    figures.arrived = this.#arrivals.size;
    const never = ({ handling }) => handling.endedAt === undefined;
    figures.interrupted = [...this.#handlings.values()].flat().filter(never).length;
  }

  /** Notes the worker at its first word, to the test or to the server: somebody must have stopped the one before. */
  #live({ at, life }) {
    if (this.#lives.has(life)) return;
    const before = [...this.#lives.values()].at(-1);
    const stop = before && this.#faults.find((fault) => fault.stops && fault.at >= before.wokeAt && fault.at <= at);
    if (before && !stop) this.#find("wrong otherwise", `worker ${life} woke, and nobody had stopped ${before.life}`);
    if (before) before.stoppedAt = stop?.at;
    this.#lives.set(life, { life, order: this.#lives.size, wokeAt: at, running: undefined, last: undefined });
  }

  #begin({ at, life, batch }) {
    const { figures } = this;
    figures.batches += 1;
    figures["in the largest batch"] = Math.max(figures["in the largest batch"], batch.length);
    const worker = this.#lives.get(life);
    const { seq } = batch.at(-1);
    if (worker.running) this.#find("out of order", `${life} handles ${seq} while it handles ${worker.running.seq}`);
    const handling = { life, seq, endedAt: undefined, isLast: true };
    if (worker.last) worker.last.isLast = false;
    worker.last = worker.running = handling;
    this.#judgeUnended(handling, batch);
    for (const entry of batch) this.#handle(at, handling, entry);
  }

  #judgeUnended({ life, seq }, batch) {
    const isIn = (other) => batch.some((entry) => entry.seq === other);
    // A daemon that was killed had not kept it, and the gap says so.
    const isCovered = (other) => batch.some((entry) => entry.gap?.from <= other && other < entry.seq);
    for (const other of [...this.#unended].filter((other) => other < seq && !isIn(other))) {
      this.#unended.delete(other); // told once
      if (!isCovered(other))
        this.#find("lost unreported", `${life} handles ${seq}, and nobody has handled ${other} to its end`);
    }
  }

  #handle(at, handling, { epoch, seq, number, gap }) {
    this.#epoch ??= epoch;
    if (epoch !== this.#epoch) this.#find("wrong otherwise", `${seq} is of epoch ${epoch}, after ${this.#epoch}`);
    const before = this.#handlings.get(seq);
    if (before) {
      this.#judgeAgain(seq, handling, before.at(-1).handling);
      before.push({ handling, number });
      return;
    }
    this.#handlings.set(seq, [{ handling, number }]);
    this.#unended.add(seq);
    const from = gap?.from ?? seq;
    if (from > this.#seq + 1)
      this.#find("lost unreported", `${this.#seq + 1} to ${from - 1} are neither handled nor covered by a gap`);
    if (seq <= this.#seq) this.#find("out of order", `${seq} is handled for the first time after ${this.#seq}`);
    this.#seq = Math.max(this.#seq, seq);
    if (gap) this.#judgeGap(at, seq, gap);
    else this.#judgeNumber(seq, number);
  }

  #end({ at, life, seq }) {
    const worker = this.#lives.get(life);
    const { running } = worker;
    if (running?.seq !== seq)
      return this.#find("wrong otherwise", `${life} ends with ${seq}, which it had not begun`);
    running.endedAt = at;
    worker.running = undefined;
    const isOf = (other) => this.#handlings.get(other).some(({ handling }) => handling === running);
    for (const other of [...this.#unended].filter(isOf)) this.#unended.delete(other);
  }

  /** Whether the handling before this one is a reason for another one of the same message. */
  #judgeAgain(seq, { life }, other) {
    const { figures } = this;
    const { stoppedAt } = this.#lives.get(other.life);
    if (other.life === life || stoppedAt === undefined) {
      return this.#find("doubled without a fault", `${seq} was handled again, and nobody had stopped ${other.life}`);
    }
    if (other.endedAt === undefined) return count(figures, "handled again as interrupted");
    if (!other.isLast) {
      return this.#find("doubled without a fault", `${seq} was handled again, though ${other.life} had gone on`);
    }
    const before = stoppedAt - other.endedAt;
    figures["ms before the stop at most"] = Math.max(figures["ms before the stop at most"], before);
    if (before > WRITING_MS) {
      this.#find(
        "doubled without a fault",
        `${seq} was handled again, though it was done ${before} ms before its worker was stopped`,
      );
    }
    count(figures, "handled again as about to end");
  }

  #judgeNumber(seq, number) {
    if (!this.#said.has(number)) return this.#find("wrong otherwise", `${number} (${seq}) was handled, and never said`);
    if (number <= this.#number) return this.#find("out of order", `${number} (${seq}) is doubled or out of order`);
    this.#judgeMissing(number);
    this.#number = number;
    this.#gaps = [];
    this.figures.handled += 1;
  }

  /** Whether gaps cover what is missing before `next`. */
  #judgeMissing(next) {
    // What a daemon had not written when it was killed: it says how many that may be.
    let crashed = this.#gaps.reduce((sum, { reason, at_most: most = 0 }) => sum + (reason === "crash" ? most : 0), 0);
    const outages = this.#gaps.filter(({ reason }) => reason === "disconnected");
    for (let number = this.#number + 1; number < next; number += 1) {
      const at = this.#said.get(number);
      if (outages.some(({ since, until }) => since - NOTICING_MS <= at && at <= until)) {
        this.figures["covered by gaps"] += 1;
      } else if (crashed > 0) {
        crashed -= 1;
        this.figures["covered by gaps"] += 1;
      } else {
        this.#find(
          "lost unreported",
          `${number} is lost, and no gap covers it: ${JSON.stringify(this.#gaps)}, said at ${at}`,
        );
      }
    }
  }

  /** Whether it has a cause. */
  #judgeGap(at, seq, gap) {
    count(this.figures.gaps, gap.reason);
    this.#gaps.push(gap);
    const { reason, since, until } = gap;
    const isCause = {
      disconnected: (fault) => fault.cuts && since - NOTICING_MS <= fault.at && fault.at <= until,
      crash: (fault) => fault.kind === "daemon killed" && fault.at <= at,
    }[reason];
    if (!isCause || !this.#faults.some(isCause)) {
      this.#find("wrong otherwise", `nothing has caused the gap at ${seq}: ${JSON.stringify(gap)}`);
    }
  }

  #arrive(event) {
    const { at, connection, life, up, answer } = event;
    const name = answer === undefined ? `${life} ${up}` : `answer ${answer}`;
    const first = this.#arrivals.get(name);
    if (first) return this.#judgeDouble(name, first, event);
    this.#arrivals.set(name, { at, connection });
    if (answer !== undefined) {
      if (answer < this.#answer)
        this.#find("out of order", `the answer to ${answer} arrived after that to ${this.#answer}`);
      this.#answer = Math.max(this.#answer, answer);
      return;
    }
    const { order } = this.#lives.get(life);
    const isNext = order === this.#up.order ? up === this.#up.up + 1 : order > this.#up.order && up === 1;
    if (!isNext) this.#find("out of order", `${up} of ${life} arrived after ${JSON.stringify(this.#up)}`);
    this.#up = { order, up };
  }

  #judgeDouble(name, first, { at, connection }) {
    const isAround = (fault) => fault.cuts && fault.at <= at && Math.abs(fault.at - first.at) <= CONFIRMING_MS;
    if (connection === first.connection || !this.#faults.some(isAround)) {
      this.#find("doubled without a fault", `${name} arrived twice, and no connection was cut around the first time`);
    }
    this.figures["arrived twice around a fault"] += 1;
  }

  #find(what, which) {
    count(this.figures, what);
    this.wrong.push(which);
  }
}

function count(counts, name) {
  counts[name] = (counts[name] ?? 0) + 1;
}
