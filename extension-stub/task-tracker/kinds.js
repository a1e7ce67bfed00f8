// Owns what messages mean to a person: which kind of update each is, and how it reads in one line. Does not own what is
// known of tasks (`client/tasks.js`): their progress and log are no updates.

/** What a person chooses notifications by. Those that notify do so before any choice. */
export const KINDS = {
  complete: { label: "A task is complete", notifies: true },
  failure: { label: "A task has failed", notifies: true },
  status: { label: "An issue has a new status", notifies: true },
  comment: { label: "An issue has a comment", notifies: true },
  assignment: { label: "An issue is assigned", notifies: true },
  notice: { label: "The server has a notice", notifies: true },
  chat: { label: "Somebody writes", notifies: false },
  missed: { label: "Something may have been missed", notifies: false },
  other: { label: "Anything else", notifies: false },
};

/** A longer one is no name, and more than browsers take for that of a notification. */
const MAX_ID = 128;

/** Longer texts are cut where they are shown, and say so. */
const TEXT_CHARACTERS = 500;

/** Conversation between programs, and what tasks are made of. */
const SILENT = new Set(
  (
    "connection welcome heartbeat ping pong ack subscribed unsubscribed resumed auth_success room_joined room_left " +
    "presence_update typing_start typing_stop user_online user_offline processing_progress task-started started " +
    "status progress log"
  ).split(" "),
);

/** A name in a sentence: whatever a server says it is, it leaves the rest of the sentence as it is. */
function name(value, otherwise) {
  if (typeof value !== "string" && typeof value !== "number") return otherwise;
  const text = String(value).replaceAll(/[\u202a-\u202e\u2066-\u2069]/g, ""); // which turn the direction around
  return text === "" ? otherwise : text;
}

const nameOfTask = ({ taskId, data }) => name(taskId ?? data?.taskId, "");

const READ = {
  complete: (payload) => ["complete", `${nameOfTask(payload) || "A task"} is complete`, wordOf(payload, "result")],
  error: (payload) => {
    const task = nameOfTask(payload);
    return task
      ? ["failure", `${task} has failed`, wordOf(payload, "error")]
      : ["notice", "Error", payload.message ?? wordOf(payload, "error")];
  },
  processing_complete: ({ channel, files }) => ["complete", `${name(channel, "Processing")} is complete`, files],
  processing_error: ({ channel, error }) => ["failure", `${name(channel, "Processing")} has failed`, error],
  "jira-update": ({ data }) => readIssue(data ?? {}),
  notification: ({ data }) => ["notice", name(data?.title, "Notice"), data?.message ?? data],
  system_alert: ({ data }) => ["notice", name(data?.title, "Alert"), data?.message ?? data],
  chat_message: ({ userId, room, data }) => {
    return ["chat", `${name(userId, "Somebody")} in ${name(room, "a room")}`, data?.message ?? data];
  },
  direct_message: ({ userId, data }) => ["chat", `${name(userId, "Somebody")} to you`, data?.message ?? data],
};

function wordOf({ data }, member) {
  return data?.message ?? data?.[member];
}

/** The update that a message is: `{ kind, title, text }`; undefined if it is none. */
export function describe({ payload, text, binary }) {
  if (binary) return update("other", "Binary message", `${binary.length} bytes`);
  if (payload === undefined) return update("other", "Text", text);
  const { type } = payload ?? {};
  if (SILENT.has(type)) return undefined;
  if (Object.hasOwn(READ, type)) return update(...READ[type](payload));
  return update("other", typeof type === "string" ? type : "Message", payload);
}

/** What names an update for ever: the place in the stream, or what a server calls it that may say it again. */
export function keyOf({ payload, epoch, seq }) {
  const { id, timestamp } = payload ?? {};
  const isId = typeof id === "number" || (typeof id === "string" && id.length <= MAX_ID);
  return isId && typeof timestamp === "number" ? JSON.stringify(["id", id, timestamp]) : `${epoch}/${seq}`;
}

/** The update that a gap in the stream is. */
export function describeGap({ reason, count, since, until }) {
  const what = count === null ? "What the server sent" : `${count} messages`;
  const when = since === undefined ? "" : ` between ${time(since)} and ${time(until)}`;
  return update("missed", "Something may have been missed", `${what}${when}: ${reason}`);
}

function readIssue({ taskKey, updateType, newStatus, author, assignee, comment }) {
  const issue = name(taskKey, "An issue");
  const by = name(author, "") && `by ${name(author)}`;
  switch (updateType) {
    case "statusChange":
      return ["status", `${issue} is ${name(newStatus, "changed")}`, by];
    case "comment":
      return ["comment", `${issue}: ${name(author, "somebody")} has commented`, comment];
    case "assignment":
      return ["assignment", `${issue} is assigned to ${name(assignee, "nobody")}`, by];
    default:
      return ["other", `${issue} has changed`, updateType];
  }
}

function update(kind, title, text) {
  return { kind, title: brief(title), text: brief(text) };
}

function brief(value) {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "");
  return text.length > TEXT_CHARACTERS ? `${text.slice(0, TEXT_CHARACTERS)}…` : text;
}

const time = (at) => new Date(at).toLocaleTimeString();
