// Owns the small plot of how long the server takes to answer a ping, and what it says in words.

/** How many moments it shows: two minutes. */
const MOMENTS = 120;
const HEIGHT = 32;
/** The plot is at least so high, so that a fast server's does not look restless. */
const LEAST_MS = 10;

export class Latency {
  #plot;
  #words;
  #moments = [];

  constructor(plot, words) {
    this.#plot = plot.querySelector("polyline");
    this.#words = words;
  }

  /** Adds a moment; null: not known. */
  add(ms) {
    this.#moments = [...this.#moments, ms].slice(-MOMENTS);
    const known = this.#moments.filter((ms) => ms !== null);
    if (known.length === 0) return;
    const most = Math.max(LEAST_MS, ...known);
    const first = MOMENTS - this.#moments.length;
    const points = this.#moments.map((ms, moment) => [first + moment, ms]).filter(([, ms]) => ms !== null);
    const place = ([x, ms]) => `${x},${(HEIGHT - (ms / most) * HEIGHT).toFixed(1)}`;
    this.#plot.setAttribute("points", points.map(place).join(" "));
    const last = known.at(-1);
    this.#words.textContent = `The server answers within ${round(last)} ms; at most ${round(Math.max(...known))} ms lately.`;
  }
}

const round = (ms) => (ms < 10 ? ms.toFixed(1) : Math.round(ms));
