// The judge of the lives: made-up histories in which all is well, and what it finds when one thing in them is not.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { reckon } from "./reckoning.js";

/** One second after another, each with what happens in it. */
function history(...events) {
  return events.map((event, index) => ({ at: 1000 * (index + 1), ...event }));
}

const said = (number) => ({ event: "said", number });
const fault = (kind, effects) => ({ event: "fault", kind, ...effects });
const woke = (life) => ({ event: "woke", life });
const entry = (seq, number = seq) => ({ epoch: "e", seq, number });
const begunAll = (life, ...batch) => ({ event: "begun", life, batch });
const begun = (life, seq, number) => begunAll(life, entry(seq, number));
const begunGap = (life, seq, gap) => begunAll(life, { epoch: "e", seq, gap: { from: seq, ...gap } });
const ended = (life, seq) => ({ event: "ended", life, seq });
const promised = (life, up) => ({ event: "promised", life, up });
const arrived = (life, up, connection = 1) => ({ event: "arrived", connection, life, up });
const answered = (answer, connection = 1) => ({ event: "arrived", connection, answer });

const handled = (life, seq, number = seq) => [begun(life, seq, number), answered(number), ended(life, seq)];
const workerStopped = fault("worker stopped", { stops: true });
const serverRestarted = fault("server restarted", { cuts: true });
const daemonKilled = fault("daemon killed", { cuts: true });

function assertWell(events, figures = {}) {
  const reckoning = reckon(events);
  assert.deepEqual(reckoning.wrong, []);
  for (const [name, value] of Object.entries(figures)) assert.deepEqual(reckoning.figures[name], value, name);
}

function assertWrong(events, ...wrong) {
  const found = reckon(events).wrong;
  assert.equal(found.length, wrong.length, found.join("\n"));
  for (const [index, pattern] of wrong.entries()) assert.match(found[index], pattern);
}

describe("The reckoning of what came to the extension", () => {
  test("finds nothing where nothing is wrong", () => {
    const all = history(said(1), said(2), woke("a"), ...handled("a", 1), ...handled("a", 2));
    assertWell(all, { said: 2, handled: 2, workers: 1, interrupted: 0 });
  });

  test("finds what was lost, at the end and in between", () => {
    const start = [said(1), said(2), said(3), woke("a"), ...handled("a", 1)];
    assertWrong(history(...start, ...handled("a", 2, 3)), /^2 is lost/);
    assertWrong(history(...start), /^2 is lost/, /^3 is lost/);
    assert.equal(reckon(history(...start)).figures["lost unreported"], 2);
  });

  test("finds a number of the stream that was left out", () => {
    const all = history(said(1), said(2), woke("a"), ...handled("a", 1), ...handled("a", 3, 2));
    assertWrong(all, /^2 to 2 are neither handled nor covered/);
  });

  test("finds what is out of order, doubled by the bridge, or was never said", () => {
    const start = [said(1), said(2), woke("a")];
    assertWrong(
      history(...start, ...handled("a", 1, 2), ...handled("a", 2, 1)),
      /^1 is lost/,
      /^1 \(2\) is doubled or out of order/,
      /answer to 1 arrived after/,
    );
    const twice = [begun("a", 3, 2), ended("a", 3)];
    assertWrong(
      history(...start, ...handled("a", 1), ...handled("a", 2), ...twice),
      /^2 \(3\) is doubled or out of order/,
    );
    assertWrong(history(...start, ...handled("a", 1), ...handled("a", 2), ...handled("a", 3)), /never said/);
    assertWrong(
      history(...start, ...handled("a", 1), ...handled("a", 2), begun("a", 1), ended("a", 1)),
      /^1 was handled again, and nobody/,
    );
  });

  test("finds two handlers at once, and one that never ended", () => {
    const start = [said(1), said(2), woke("a"), begun("a", 1), answered(1)];
    assertWrong(
      history(...start, begun("a", 2), answered(2), ended("a", 2)),
      /handles 2 while it handles 1/,
      /handles 2, and nobody has handled 1 to its end/,
    );
    const passedOver = [...start, workerStopped, woke("b"), ...handled("b", 2)];
    assertWrong(history(...passedOver), /handles 2, and nobody has handled 1 to its end/);
    assertWrong(history(...start.toSpliced(1, 1)), /^nobody has handled 1 to its end/);
  });

  test("lets a handler that was interrupted be called again, and no other", () => {
    const interrupted = [begun("a", 2), answered(2), workerStopped];
    const start = [said(1), said(2), woke("a"), ...handled("a", 1), ...interrupted, woke("b")];
    assertWell(history(...start, begun("b", 2), ended("b", 2)), { interrupted: 1, "handled again as interrupted": 1 });
    assertWrong(
      history(...start, begun("b", 1), ended("b", 1), begun("b", 2), ended("b", 2)),
      /^1 was handled again, though a had gone on/,
    );
    const done = [said(1), woke("a"), ...handled("a", 1), workerStopped, woke("b"), begun("b", 1), ended("b", 1)];
    assertWrong(history(...done), /^1 was handled again, though it was done \d+ ms before/);
  });

  test("lets the last one be called again that was done just before the stop, and none before it", () => {
    const again = (...numbers) => {
      const start = [said(1), said(2), woke("a"), ...handled("a", 1), ...handled("a", 2), workerStopped, woke("b")];
      const all = history(...start, ...numbers.flatMap((number) => [begun("b", number), ended("b", number)]));
      // All of it in one moment but for the stop.
      const stop = all.findIndex(({ event }) => event === "fault");
      for (const [index, event] of all.entries()) event.at = index < stop ? 1000 : index > stop ? 1100 : 1020;
      return all;
    };
    assertWell(again(2), { "handled again as about to end": 1, "ms before the stop at most": 20 });
    assertWrong(again(1, 2), /^1 was handled again, though a had gone on/);
  });

  describe("where many are handled at once,", () => {
    const all = (life, ...seqs) => begunAll(life, ...seqs.map((seq) => entry(seq)));
    const start = [said(1), said(2), said(3), said(4), woke("a"), all("a", 1, 2), answered(1), answered(2)];
    const answers = [answered(3), answered(4)];

    test("lets all of an interrupted batch be handled again, also with more behind it", () => {
      const again = [all("b", 1, 2, 3, 4), ...answers, ended("b", 4)];
      const figures = { handled: 4, interrupted: 2, "handled again as interrupted": 2 };
      const batches = { batches: 2, "in the largest batch": 4 };
      assertWell(history(...start, workerStopped, woke("b"), ...again), { ...figures, ...batches });
      const some = [all("b", 1), ended("b", 1), all("b", 2, 3, 4), ...answers, ended("b", 4)];
      assertWell(history(...start, workerStopped, woke("b"), ...some), figures);
    });

    test("lets nothing of the batch before be handled again", () => {
      const interrupted = [...start, ended("a", 2), all("a", 3, 4), ...answers, workerStopped, woke("b")];
      assertWell(history(...interrupted, all("b", 3, 4), ended("b", 4)), { "handled again as interrupted": 2 });
      assertWrong(
        history(...interrupted, all("b", 2, 3, 4), ended("b", 4)),
        /^2 was handled again, though a had gone on/,
      );
    });

    test("finds what of an interrupted batch is left out", () => {
      const next = [all("b", 2, 3, 4), ...answers, ended("b", 4)];
      assertWrong(history(...start, workerStopped, woke("b"), ...next), /nobody has handled 1 to its end/);
      assertWrong(
        history(...start, workerStopped, woke("b"), all("b", 1, 3, 4), ...answers, ended("b", 4)),
        /nobody has handled 2 to its end/,
      );
      assertWrong(history(...start, all("a", 3, 4), ...answers, ended("a", 4)), /while it/, /1 to its/, /2 to its/);
    });

    test("finds disorder and doubles within a batch", () => {
      const done = [...start, ended("a", 2)];
      assertWrong(
        history(...done, all("a", 4, 3), ...answers, ended("a", 3)),
        /^3 to 3 are neither handled nor covered/,
        /^3 is lost/,
        /^3 is handled for the first time after 4/,
        /^3 \(3\) is doubled or out of order/,
      );
      assertWrong(
        history(...done, all("a", 3, 3, 4), ...answers, ended("a", 4)),
        /^3 was handled again, and nobody had stopped a/,
      );
    });

    test("takes a gap for what is missing at its place", () => {
      // The server is down from 2000 on, and says 2 to nobody at 3000.
      const outage = { epoch: "e", seq: 2, gap: { from: 2, reason: "disconnected", since: 2010, until: 3500 } };
      const cut = [said(1), serverRestarted, said(2), said(3), woke("a")];
      const rest = [answered(1), answered(3), ended("a", 3)];
      const handledAll = (...batch) => history(...cut, begunAll("a", ...batch), ...rest);
      assertWell(handledAll(entry(1), outage, entry(3)), { "covered by gaps": 1, handled: 2 });
      assertWrong(
        handledAll(entry(1), entry(2, 3), { ...outage, seq: 3, gap: { ...outage.gap, from: 3 } }),
        /^2 is lost/,
      );
    });

    test("takes a killed daemon's gap for what was begun and not kept", () => {
      const crash = { epoch: "e", seq: 4, gap: { from: 1, reason: "crash", at_most: 4 } };
      const killed = [daemonKilled, workerStopped, woke("b"), begunAll("b", crash, entry(5, 4)), answered(4)];
      assertWell(history(...start, ...killed, ended("b", 5)), { interrupted: 2, "covered by gaps": 1 });
    });
  });

  test("finds a worker that ended by itself", () => {
    assertWrong(history(woke("a"), woke("b")), /worker b woke, and nobody had stopped a/);
    assertWrong(history(woke("a"), serverRestarted, woke("b")), /nobody had stopped a/);
    assertWrong(history(woke("a"), workerStopped, woke("b"), woke("c")), /nobody had stopped b/);
  });

  test("takes a gap for what was said during an outage, and for nothing else", () => {
    // The server is down from 6000 on, and says 2 to nobody at 7000.
    const start = [said(1), woke("a"), ...handled("a", 1), serverRestarted, said(2), said(3)];
    const outage = (since, until) => ({ reason: "disconnected", since, until });
    const covered = (gap) => [...start, begunGap("a", 2, gap), ended("a", 2), ...handled("a", 3, 3)];
    assertWell(history(...covered(outage(6010, 7500))), { "covered by gaps": 1, gaps: { disconnected: 1 } });
    assertWrong(history(...covered(outage(5000, 6500))), /^2 is lost/);
    assertWrong(history(...covered(outage(8500, 9000))), /nothing has caused the gap/, /^2 is lost/);
    assertWrong(history(...covered({ reason: "overflow" })), /nothing has caused the gap/, /^2 is lost/);
    const misplaced = [...start, ...handled("a", 2, 3), begunGap("a", 3, outage(6010, 7500)), ended("a", 3)];
    assertWrong(history(...misplaced), /^2 is lost/);
    const untold = [...start, ...handled("a", 2, 3)];
    assertWrong(history(...untold), /^2 is lost/);
  });

  test("takes a killed daemon's gap for as many as it says", () => {
    const start = [said(1), said(2), said(3), woke("a"), daemonKilled];
    const crash = (most) => [begunGap("a", 2, { from: 1, reason: "crash", at_most: most }), ended("a", 2)];
    assertWell(history(...start, ...crash(2), ...handled("a", 3)), { "covered by gaps": 2 });
    assertWrong(history(...start, ...crash(1), ...handled("a", 3)), /^2 is lost/);
    assertWrong(
      history(...start.toSpliced(4, 1, serverRestarted), ...crash(2), ...handled("a", 3)),
      /nothing has caused the gap/,
    );
  });

  test("takes it also for what was begun, and not kept when worker and daemon ended together", () => {
    const start = [said(1), said(2), woke("a"), begun("a", 1), daemonKilled, workerStopped, woke("b")];
    const crash = (from) => [begunGap("b", 4, { from, reason: "crash", at_most: 3 }), ended("b", 4)];
    assertWell(history(...start, ...crash(1)), { interrupted: 1, "covered by gaps": 1 });
    assertWrong(history(...start, ...crash(2)), /nobody has handled 1 to its end/);
  });

  test("finds another epoch, and what the library complains of", () => {
    const other = begunAll("a", { ...entry(2), epoch: "f" });
    const all = history(said(1), said(2), woke("a"), ...handled("a", 1), other, answered(2), ended("a", 2));
    assertWrong(all, /^2 is of epoch f, after e/);
    const error = { event: "error", life: "a", code: "timeout" };
    assertWrong(history(woke("a"), error), /an error: .*timeout/);
    assertWrong(history(woke("a"), error, workerStopped, woke("b")), /an error: .*timeout/);
    assertWell(history(woke("a"), workerStopped, error, woke("b"))); // a browser that quits takes nothing any more
  });
});

describe("The reckoning of what came to the server", () => {
  test("finds nothing where nothing is wrong", () => {
    const first = [woke("a"), promised("a", 1), arrived("a", 1), arrived("a", 2)];
    const second = [workerStopped, woke("b"), arrived("b", 1), promised("b", 1)];
    assertWell(history(...first, ...second), { promised: 2, arrived: 3 });
    assertWell(history(woke("a"), workerStopped, arrived("b", 1), woke("b")), { workers: 2 });
  });

  test("finds what was promised and is lost, a hole, and disorder", () => {
    assertWrong(history(woke("a"), promised("a", 1)), /^1 of a was promised, and is lost/);
    assertWrong(history(woke("a"), arrived("a", 1), arrived("a", 3)), /^3 of a arrived after/);
    assertWrong(history(woke("a"), arrived("a", 2)), /^2 of a arrived after/);
    const late = [woke("a"), arrived("a", 1), workerStopped, woke("b"), arrived("b", 1), arrived("a", 2)];
    assertWrong(history(...late), /^2 of a arrived after/);
  });

  test("finds an answer that is lost, or out of order", () => {
    const start = [said(1), said(2), woke("a"), begun("a", 1), ended("a", 1), begun("a", 2), ended("a", 2)];
    assertWrong(history(...start, answered(2)), /the answer to 1 was promised, and is lost/);
    assertWrong(history(...start, answered(2), answered(1)), /the answer to 1 arrived after that to 2/);
    const interrupted = [said(1), woke("a"), begun("a", 1), workerStopped, woke("b"), begun("b", 1), ended("b", 1)];
    assertWrong(history(...interrupted), /the answer to 1 was promised, and is lost/);
  });

  test("lets come twice what arrived around a fault, on another connection", () => {
    const twice = (...between) => [woke("a"), arrived("a", 1), ...between, arrived("a", 1, 2)];
    const figures = { "arrived twice around a fault": 1 };
    assertWell(history(...twice(serverRestarted)), figures);
    assertWell(history(...twice(daemonKilled)), figures);
    assertWrong(history(...twice()), /arrived twice, and no connection was cut/);
    assertWrong(history(...twice(workerStopped)), /arrived twice, and no connection was cut/);
    assertWrong(history(...twice(said(1), said(2), serverRestarted)), /arrived twice/, /lost/, /lost/);
    assertWrong(history(woke("a"), arrived("a", 1), serverRestarted, arrived("a", 1)), /arrived twice/);
    assertWrong(history(woke("a"), arrived("a", 1), arrived("a", 1, 2), serverRestarted), /arrived twice/);
  });
});
