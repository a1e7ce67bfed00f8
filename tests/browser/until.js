// Owns waiting: a condition, a deadline, and what was seen when the deadline passed. Nothing in these tests waits for
// time alone.

const LOOK_AGAIN_MS = 10;
/** Far more than anything here takes, so that a busy machine fails no test. */
const DEADLINE_MS = 20_000;

/**
 * Waits until `condition` gives something truthy, and returns that. When the deadline passes it throws, with what
 * `seen` tells.
 */
export async function until(what, condition, { seen = () => "", deadline = DEADLINE_MS } = {}) {
  const end = performance.now() + deadline;
  for (;;) {
    const result = await condition();
    if (result) return result;
    if (performance.now() > end) throw new Error(`waited ${deadline} ms for ${what}\n${await seen()}`);
    await new Promise((again) => setTimeout(again, LOOK_AGAIN_MS));
  }
}
