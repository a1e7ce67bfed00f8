// What is known of tasks: what messages say of them, that it outlives workers, and that pages see it.

import assert from "node:assert/strict";
import { beforeEach, describe, mock, test } from "node:test";

import { Bridge } from "../bridge.js";
import { Tasks } from "../tasks.js";
import { BrowserStandIn, settled } from "./browser-stand-in.js";
import { HostStandIn } from "./host-stand-in.js";

const URL = "ws://127.0.0.1:8080/ws";
const DAY_MS = 86_400_000;

let browser, host;

beforeEach(() => {
  mock.restoreAll();
  browser = new BrowserStandIn();
  host = new HostStandIn(browser);
});

/** A worker's first turn. */
function start(options = {}) {
  const session = new Bridge({}, browser.worker.surroundings).session("one", { url: URL, ...options });
  const errors = [];
  session.on("error", (error) => errors.push(error));
  return { session, tasks: new Tasks(session), errors };
}

/** The server reports on the task `build`. */
async function report(...news) {
  const bodies = news.map(([type, data, at = browser.now]) => ({ at, payload: { type, taskId: "build", data } }));
  host.sayBodies("one", ...bodies);
  await settled();
}

/** Everything that was said has been handled. */
async function handled() {
  const session = host.session("one");
  for (let turns = 0; session.acked < session.head; turns += 1) {
    assert.ok(turns < 1000, `${session.acked} of ${session.head} are handled`);
    await browser.advance(10);
  }
}

const brief = ({ state, stage, progress, message }) => [state, stage, progress, message];

test("A task has the state, the stage, the percentage and the word that were told last", async () => {
  const { tasks } = start();
  const changes = [];
  tasks.on("change", (task) => changes.push(brief(task)));
  await report(["status", { status: "queued" }]);
  await report(["status", { status: "running" }], ["progress", { stage: "link", progress: 40, message: "a.o" }]);
  await report(["heartbeat", {}], ["complete", { result: "app.zip" }]);
  assert.deepEqual(changes, [
    ["waiting", "", null, ""],
    ["running", "", null, ""],
    ["running", "link", 40, "a.o"],
    ["running", "link", 40, "a.o"],
    ["complete", "", 100, "app.zip"],
  ]);
  assert.deepEqual((await tasks.all()).map(brief), changes.slice(-1));
});

test("What a server may say of a task is taken for what it is", async () => {
  const cases = [
    ["status", { status: "Cancelled" }, ["failed", "", null, ""]],
    ["status", { status: "melting" }, ["running", "", null, ""]],
    ["status", undefined, ["running", "", null, ""]],
    ["status", { status: "constructor" }, ["running", "", null, ""]],
    ["status", { status: "__proto__" }, ["running", "", null, ""]],
    ["progress", { progress: 250 }, ["running", "", 100, ""]],
    ["progress", { progress: -3, stage: 7 }, ["running", "7", 0, ""]],
    ["progress", { progress: "half" }, ["running", "", null, ""]],
    ["error", { error: { code: 5 } }, ["failed", "", null, '{"code":5}']],
    ["complete", { message: "x".repeat(5000) }, ["complete", "", 100, `${"x".repeat(1000)}…`]],
  ];
  for (const [type, data, expected] of cases) {
    browser = new BrowserStandIn();
    host = new HostStandIn(browser);
    const { tasks } = start();
    await report([type, data]);
    assert.deepEqual((await tasks.all()).map(brief), [expected], `${type} ${JSON.stringify(data)}`);
  }
});

test("What names no task is none", async () => {
  const { tasks } = start();
  host.say("one", { type: "progress" }, { type: "log", taskId: 5 }, { type: "error", taskId: "" }, "progress");
  host.say("one", { type: "progress", taskId: "x".repeat(129), data: {} });
  host.say("one", { type: "constructor", taskId: "x", data: {} }, { type: ["log"], taskId: "x", data: {} });
  host.say("one", { type: "progress", data: { taskId: "inside", progress: 1 } }, { type: "news", taskId: "other" });
  await settled();
  assert.deepEqual(
    (await tasks.all()).map(({ id }) => id),
    ["inside"],
  );
});

test("The log has levels, and drops its oldest lines when it grows too long, which it counts", async () => {
  const { tasks } = start();
  await report(["log", { level: "warning", message: "w" }, 7], ["log", { level: "error", message: "e" }, 8]);
  await report(["log", { level: "odd", message: "o" }, 9]);
  const levels = (await tasks.all())[0].log;
  assert.deepEqual(levels, [
    { at: 7, level: "warn", message: "w" },
    { at: 8, level: "error", message: "e" },
    { at: 9, level: "info", message: "o" },
  ]);
  await report(...Array.from({ length: 300 }, (_, line) => ["log", { message: `line ${line}` }]));
  await handled();
  let [{ log, dropped }] = await tasks.all();
  assert.deepEqual([log.length, log.at(-1).message, dropped], [200, "line 299", 103]);
  await report(...Array.from({ length: 30 }, () => ["log", { message: "y".repeat(1000) }]));
  await handled();
  [{ log, dropped }] = await tasks.all();
  assert.deepEqual([log.length, dropped], [20, 313]);
});

test("A flood is kept with one write, and then marked with another", async () => {
  const { tasks } = start();
  const changes = [];
  tasks.on("change", ({ progress }) => changes.push(progress));
  await settled();
  const { writes } = browser.local;
  const steps = Array.from({ length: 500 }, (_, step) => step / 5);
  await report(...steps.map((progress) => ["progress", { progress }]));
  assert.deepEqual([changes, host.session("one").acked], [steps, 500]);
  assert.equal(browser.local.writes - writes, 2);
  assert.equal(browser.local.value("websocket-bridge/task/durable/one/main/build").progress, steps.at(-1));
});

test("A task that runs again after its end begins anew", async () => {
  const { tasks } = start();
  await report(["log", { message: "first run" }], ["error", { error: "broken" }], ["log", { message: "after" }]);
  assert.deepEqual((await tasks.all())[0].log.length, 2);
  await report(["progress", { progress: 1 }]);
  const [task] = await tasks.all();
  assert.deepEqual([brief(task), task.log], [["running", "", 1, ""], []]);
});

test("A gap is counted by every task that is not over", async () => {
  const { tasks } = start();
  await report(["progress", { progress: 5 }]);
  host.say("one", { type: "complete", taskId: "over", data: {} });
  host.gap("one", { reason: "disconnected" });
  await settled();
  const gaps = (await tasks.all()).map(({ id, gaps }) => [id, gaps]);
  assert.deepEqual(new Map(gaps), new Map([["build", 1], ["over", 0]])); // prettier-ignore
});

describe("Another worker", () => {
  test("knows what the former one did", async () => {
    start();
    await report(["progress", { progress: 5 }], ["log", { message: "x" }]);
    browser.kill();
    const { tasks } = start();
    await report(["log", { message: "y" }]);
    const [task] = await tasks.all();
    assert.deepEqual([task.progress, task.log.map(({ message }) => message)], [5, ["x", "y"]]);
  });

  test("takes no line twice that comes twice because the former one died", async () => {
    browser.local.delay = 10;
    start();
    await browser.advance(100);
    await report(["log", { message: "x" }]);
    // The task is written, the mark that says so is not.
    await browser.advance(10);
    assert.equal(browser.local.value("websocket-bridge/task/durable/one/main/build").log.length, 1);
    browser.local.items.delete("websocket-bridge/mark/durable/one/main");
    host.session("one").acked = 0;
    browser.kill();
    const { tasks } = start();
    await browser.advance(1000);
    assert.equal((await tasks.all())[0].log.length, 1);
  });

  test("has no task that was handled and not kept", async () => {
    browser.local.delay = 10;
    start();
    await browser.advance(100);
    for (let progress = 1; progress <= 20; progress += 1) {
      await report(["progress", { progress }]);
      await browser.advance(7);
      const task = browser.local.value("websocket-bridge/task/durable/one/main/build");
      const { acked } = host.session("one");
      assert.ok((task?.progress ?? 0) >= acked, `${task?.progress} is kept, ${acked} is handled`);
    }
  });
});

describe("A page", () => {
  test("sees what the worker knows and learns, and changes nothing", async () => {
    const worker = start();
    await report(["progress", { progress: 5 }]);
    const { tasks } = start({ observe: true });
    const seen = [];
    tasks.on("change", ({ progress }) => seen.push(progress));
    tasks.on("removed", (id) => seen.push(id));
    assert.deepEqual(
      (await tasks.all()).map(({ progress }) => progress),
      [5],
    );
    host.say("one", { type: "progress", taskId: "build", data: { progress: 6 } });
    await settled();
    await assert.rejects(tasks.clear(), { code: "read-only" });
    await worker.tasks.clear();
    await settled();
    assert.deepEqual([seen, await tasks.all()], [[6, "build"], []]);
    assert.deepEqual(
      browser.local.keys.filter((key) => key.includes("/task/")),
      [],
    );
  });

  test("of another session sees nothing of it", async () => {
    start();
    const other = new Tasks(
      new Bridge({}, browser.worker.surroundings).session("one", { observe: true, consumer: "b" }),
    );
    await report(["progress", { progress: 5 }]);
    assert.deepEqual(await other.all(), []);
  });
});

describe("What is old", () => {
  test("is forgotten after a day without a word", async () => {
    start();
    await report(["progress", { progress: 5 }]);
    browser.kill();
    browser.now += DAY_MS + 1;
    const { tasks } = start();
    await settled();
    assert.deepEqual([await tasks.all(), browser.local.value("websocket-bridge/tasks/durable/one/main")], [[], []]);
  });

  test("is forgotten after a day also while the worker lives", async () => {
    const { tasks } = start();
    await report(["progress", { progress: 5 }]);
    browser.now += DAY_MS - 1;
    host.sayBodies("one", { at: browser.now, payload: { type: "progress", taskId: "other", data: {} } });
    await handled();
    browser.now += 60_001;
    host.sayBodies("one", { at: browser.now, payload: { type: "heartbeat", taskId: "other", data: {} } });
    await handled();
    assert.deepEqual(
      (await tasks.all()).map(({ id }) => id),
      ["other"],
    );
    assert.deepEqual(browser.local.value("websocket-bridge/tasks/durable/one/main"), ["other"]);
    assert.equal(browser.local.value("websocket-bridge/task/durable/one/main/build"), undefined);
  });

  test("is never kept when too many come at once", async () => {
    const { tasks } = start();
    await settled();
    const ids = Array.from({ length: 300 }, (_, number) => `task-${number}`);
    const news = (taskId, index) => ({ at: browser.now + index, payload: { type: "progress", taskId } });
    host.sayBodies("one", ...ids.map(news));
    await handled();
    const known = (await tasks.all()).map(({ id }) => id);
    assert.deepEqual(known.toSorted(), ids.slice(200).toSorted());
    const kept = browser.local.keys.filter((key) => key.startsWith("websocket-bridge/task/"));
    assert.equal(kept.length, 100);
    assert.equal(browser.local.value("websocket-bridge/tasks/durable/one/main").length, 100);
  });

  test("goes first when there are too many, and of that what is over", async () => {
    const { tasks } = start();
    const say = (id, type) => host.sayBodies("one", { at: browser.now++, payload: { type, taskId: id, data: {} } });
    say("runs", "progress");
    for (let number = 0; number < 100; number += 1) say(`over-${number}`, "complete");
    await handled();
    const ids = (await tasks.all()).map(({ id }) => id);
    assert.equal(ids.length, 100);
    assert.ok(ids.includes("runs") && !ids.includes("over-0") && ids.includes("over-1"));
  });
});

test("A task is tracked by a subscription, and no more by its end", async () => {
  const { tasks } = start();
  tasks.track("build");
  await settled();
  tasks.untrack("build");
  await settled();
  const [port] = browser.ports;
  assert.deepEqual(
    [...port.of("subscribe"), ...port.of("unsubscribe")].map(({ key, payload }) => [key, payload]),
    [
      ["task/build", { type: "subscribe", taskId: "build" }],
      ["task/build", { type: "unsubscribe", taskId: "build" }],
    ],
  );
});

test("A storage that fails is told, and the task is known for as long as the worker lives", async () => {
  const { tasks, errors } = start();
  await settled();
  browser.local.failures.set = 2;
  await report(["progress", { progress: 5 }]);
  assert.equal(errors[0].code, "storage-failed");
  assert.equal((await tasks.all())[0].progress, 5);
});
