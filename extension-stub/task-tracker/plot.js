// Owns the small plot of the last minutes: how long the server takes to answer a ping, and how healthy the bridge finds
// the connection; and the same in words.

/** How many moments it shows: two minutes. */
const MOMENTS = 120;
const HEIGHT = 32;
/** The plot is at least so high, so that a fast server's does not look restless. */
const LEAST_MS = 10;
const HEALTHY = 100;

export class Plot {
  #latency;
  #health;
  #words;
  #moments = [];

  constructor(plot, words) {
    [this.#latency, this.#health] = [".latency", ".health"].map((line) => plot.querySelector(line));
    this.#words = words;
  }

  /** Adds a moment, `{ latency_ms, health }`; what is not known is null. */
  add(moment) {
    this.#moments = [...this.#moments, moment].slice(-MOMENTS);
    const latencies = this.#all("latency_ms");
    const most = Math.max(LEAST_MS, ...latencies);
    draw(this.#latency, this.#moments, ({ latency_ms }) => latency_ms, most);
    draw(this.#health, this.#moments, ({ health }) => health, HEALTHY);
    this.#words.textContent = [this.#latencyInWords(latencies), this.#healthInWords()].join(" ");
  }

  #all(name) {
    return this.#moments.map((moment) => moment[name]).filter((value) => value !== null);
  }

  #latencyInWords(latencies) {
    if (latencies.length === 0) return "The latency is not known yet.";
    const [last, most] = [latencies.at(-1), Math.max(...latencies)];
    return `The server answers within ${round(last)} ms; at most ${round(most)} ms lately.`;
  }

  #healthInWords() {
    const least = Math.min(HEALTHY, ...this.#all("health"));
    return least < HEALTHY ? `The health went down to ${least} of ${HEALTHY}.` : "";
  }
}

/** The newest moment is at the right. */
function draw(line, moments, value, most) {
  const first = MOMENTS - moments.length;
  const points = moments.map((moment, place) => [first + place, value(moment)]).filter(([, known]) => known !== null);
  const place = ([x, known]) => `${x},${(HEIGHT - (known / most) * HEIGHT).toFixed(1)}`;
  line.setAttribute("points", points.map(place).join(" "));
}

const round = (ms) => (ms < 10 ? ms.toFixed(1) : Math.round(ms));
