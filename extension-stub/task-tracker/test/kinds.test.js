// What messages mean to a person, and what may be chosen.

import assert from "node:assert/strict";
import { describe, test } from "node:test";

import { describe as read, describeGap, keyOf, KINDS } from "../kinds.js";
import { faultOfNames, faultOfServer, names } from "../settings.js";

const brief = (payload) => {
  const update = read({ payload });
  return update && [update.kind, update.title, update.text];
};

describe("A message", () => {
  test("of a dialect that is known is an update of its kind", () => {
    const cases = [
      [
        { type: "complete", taskId: "docs", data: { result: "published" } },
        ["complete", "docs is complete", "published"],
      ],
      [{ type: "error", taskId: "docs", data: { error: "no disk" } }, ["failure", "docs has failed", "no disk"]],
      [{ type: "error", code: "bad", message: "what?" }, ["notice", "Error", "what?"]],
      [{ type: "processing_complete", channel: "c", files: 3 }, ["complete", "c is complete", "3"]],
      [{ type: "processing_error", error: "e" }, ["failure", "Processing has failed", "e"]],
      [jira({ updateType: "statusChange", newStatus: "Done", author: "Ann" }), ["status", "A-1 is Done", "by Ann"]],
      [jira({ updateType: "comment", author: "Ann" }), ["comment", "A-1: Ann has commented", ""]],
      [jira({ updateType: "assignment", assignee: "Bob" }), ["assignment", "A-1 is assigned to Bob", ""]],
      [jira({ updateType: "new kind" }), ["other", "A-1 has changed", "new kind"]],
      [{ type: "jira-update" }, ["other", "An issue has changed", ""]],
      [{ type: "notification", data: { title: "T", message: "M" } }, ["notice", "T", "M"]],
      [{ type: "system_alert", data: "down" }, ["notice", "Alert", "down"]],
      [{ type: "chat_message", userId: "u", room: "r", data: { message: "hi" } }, ["chat", "u in r", "hi"]],
      [{ type: "direct_message", data: { message: "hi" } }, ["chat", "Somebody to you", "hi"]],
    ];
    for (const [payload, expected] of cases) assert.deepEqual(brief(payload), expected, JSON.stringify(payload));
    for (const [, [kind]] of cases) assert.ok(KINDS[kind], kind);
  });

  test("of a server that nobody knows is one too, whatever it is", () => {
    assert.deepEqual(brief({ type: "weather", wind: 3 }), ["other", "weather", '{"type":"weather","wind":3}']);
    assert.deepEqual(brief({ type: "toString" }), ["other", "toString", '{"type":"toString"}']);
    assert.deepEqual(brief([1]), ["other", "Message", "[1]"]);
    assert.deepEqual(brief(null), ["other", "Message", "null"]);
    assert.deepEqual(brief({ type: 5 }), ["other", "Message", '{"type":5}']);
    assert.equal(read({ text: "hello" }).text, "hello");
    assert.equal(read({ binary: new Uint8Array(7) }).text, "7 bytes");
  });

  test("that is odd leaves the sentence as it is", () => {
    const odd = JSON.parse('{"toString":null}');
    assert.deepEqual(brief({ type: "complete", taskId: odd }), ["complete", "A task is complete", ""]);
    assert.deepEqual(brief({ type: "complete", data: { taskId: "a" } }), ["complete", "a is complete", ""]);
    assert.deepEqual(brief({ type: "error", taskId: "", data: { error: "e" } }), ["notice", "Error", "e"]);
    assert.deepEqual(brief({ type: "complete", taskId: "\u202Eab" }), ["complete", "ab is complete", ""]);
    assert.deepEqual(brief({ type: "chat_message", userId: odd }), ["chat", "Somebody in a room", ""]);
    assert.deepEqual(brief(jira({ taskKey: odd, updateType: "statusChange", newStatus: odd, author: odd })), [
      "status",
      "An issue is changed",
      "",
    ]);
    assert.deepEqual(brief({ type: "notification", data: { title: odd, message: odd } })[1], "Notice");
  });

  test("between programs, and what tasks are made of, is none", () => {
    for (const type of ["connection", "pong", "subscribed", "progress", "log", "status", "typing_start"]) {
      assert.equal(brief({ type }), undefined, type);
    }
  });

  test("that is long is cut, and says so", () => {
    assert.equal(brief({ type: "notification", data: "x".repeat(900) })[2], `${"x".repeat(500)}…`);
  });

  test("has a key that is the same when it is said again", () => {
    const place = { epoch: "e", seq: 4 };
    assert.equal(keyOf({ payload: { id: "n1", timestamp: 5 }, ...place }), '["id","n1",5]');
    assert.equal(keyOf({ payload: { id: "a subscription of another protocol" }, ...place }), "e/4");
    assert.equal(keyOf({ payload: null, ...place }), "e/4");
    assert.equal(keyOf({ payload: { id: { a: 1 }, timestamp: 5 }, ...place }), "e/4");
    assert.equal(keyOf({ payload: { id: "x".repeat(200), timestamp: 5 }, ...place }), "e/4");
  });
});

test("A gap says how much is missing, if that is known, and why", () => {
  assert.match(describeGap({ reason: "overflow", count: 3 }).text, /^3 messages: overflow$/);
  assert.match(
    describeGap({ reason: "disconnected", count: null, since: 0, until: 60_000 }).text,
    /^What the server sent between .* and .*: disconnected$/,
  );
});

test("An address is one of a WebSocket server, or it is said what is wrong", () => {
  for (const address of ["ws://127.0.0.1:8080/ws", "wss://example.org/?a=b"]) assert.equal(faultOfServer(address), "");
  for (const address of ["", "example.org", "http://example.org/", "ws://example.org/#top"]) {
    assert.match(faultOfServer(address), /ws:\/\/127/.test(faultOfServer(address)) ? /Give an address/ : /Leave/);
  }
});

test("Names are few and short enough to be subscribed to, or it is said which are not", () => {
  assert.equal(faultOfNames(["a", "ä".repeat(50)]), "");
  assert.match(faultOfNames(Array(401).fill("a")), /401 names/);
  assert.match(faultOfNames(["a", "ä".repeat(51)]), /too long/);
});

test("Names are one a line, each once", () => {
  assert.deepEqual(names(" a\n\nb \na\n"), ["a", "b"]);
});

function jira(data) {
  return { type: "jira-update", data: { taskKey: "A-1", ...data } };
}
