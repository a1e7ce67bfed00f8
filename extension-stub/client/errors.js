// Owns: the one class of error that this library throws, rejects with and tells, and what the ends of a native
// messaging port mean. Does not own: the codes that come from the bridge (PROTOCOL.md lists them); they pass through
// unchanged.

/**
 * What was tried, why it failed, and what to do next. `code` is for programs, `message` for people; `retryable` says
 * whether the same may work later without anybody changing anything.
 */
export class BridgeError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ retryable?: boolean, cause?: unknown, id?: string, from?: number, seq?: number }} [details]
   */
  constructor(code, message, { retryable = false, cause, id, from, seq } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = "BridgeError";
    this.code = code;
    this.retryable = retryable;
    /** The message to the server that this is about. */
    this.id = id;
    /** The message from the server that this is about, or the last of those from `from` on. */
    this.seq = seq;
    this.from = from;
  }

  /** @param {{ code: string, message: string, retryable?: boolean }} told as the bridge tells it */
  static from({ code, message, retryable }) {
    return new BridgeError(String(code), String(message), { retryable: retryable === true });
  }
}

const INSTALL =
  "Install it with `websocket-bridge install --extension ID`, with this extension's id; `websocket-bridge doctor` " +
  "finds " +
  "out what is still missing";

/**
 * How browsers say that a port cannot be had, and what that means. No retry mends those that are not `retryable`: a
 * person has to do something first.
 *
 * @type {{ pattern: RegExp, code: string, retryable?: boolean, meaning: (name: string) => string }[]}
 */
const PORT_ENDS = [
  {
    pattern: /host not found/i,
    code: "host-not-found",
    meaning: (name) => `this browser knows no usable native messaging host ${name}. ${INSTALL}.`,
  },
  {
    pattern: /No such native application/i, // Firefox: not there, damaged, or not for this add-on
    code: "host-not-found",
    meaning: (name) => `Firefox has no native messaging host ${name} for this add-on. ${INSTALL}.`,
  },
  {
    pattern: /is forbidden/i,
    code: "host-forbidden",
    meaning: (name) =>
      `the native messaging host ${name} is installed, but not for the id of this extension. An unpacked extension ` +
      `without ` +
      `a \`key\` in its manifest has another id in each place. ${INSTALL}.`,
  },
  {
    pattern: /disabled by the system administrator/i,
    code: "host-disabled",
    meaning: (name) =>
      `a policy of this browser forbids the native messaging host ${name}. Ask whoever manages this computer to ` +
      `allow it ` +
      "(NativeMessagingAllowlist).",
  },
  {
    pattern: /Invalid native messaging host name|must match \/\^/i,
    code: "host-name-invalid",
    meaning: (name) =>
      `${JSON.stringify(name)} cannot be the name of a native messaging host. Correct \`name\` of new Bridge().`,
  },
  {
    pattern: /requires nativeMessaging permission/i,
    code: "permission-missing",
    meaning: () =>
      'this extension may not use native messaging. Add "nativeMessaging" to `permissions` in manifest.json.',
  },
  {
    pattern: /not supported on this platform/i,
    code: "platform-unsupported",
    meaning: () => "this browser has no native messaging on this system, so that the bridge cannot be used here.",
  },
  {
    pattern: /Failed to start/i,
    code: "host-start-failed",
    retryable: true,
    meaning: (name) =>
      `the browser could not start the native messaging host ${name}. \`websocket-bridge doctor\` finds out why.`,
  },
  {
    pattern: /An unexpected error occurred/i, // Firefox: the manifest's path leads to nothing that can be run
    code: "host-start-failed",
    retryable: true,
    meaning: (name) =>
      `Firefox could not start the native messaging host ${name}, or did not understand it. \`websocket-bridge ` +
      `doctor\` finds out why.`,
  },
  {
    pattern: /Error when communicating|exceeds the limit/i,
    code: "host-unintelligible",
    retryable: true,
    meaning: (name) =>
      `the browser did not understand what the native messaging host ${name} wrote. \`websocket-bridge doctor\` ` +
      `shows what it is.`,
  },
];

/**
 * What the end of a port means.
 *
 * @param {string | undefined} text how the browser put it; Firefox says nothing about a host that ended
 * @param {string} name of the host
 */
export function portEnded(text, name) {
  const known = PORT_ENDS.find(({ pattern }) => text !== undefined && pattern.test(text));
  const cause = text === undefined ? {} : { cause: text };
  if (known) {
    const message = `connecting to the bridge failed: ${known.meaning(name)} (The browser says: ${text})`;
    return new BridgeError(known.code, message, { retryable: known.retryable === true, ...cause });
  }
  const said = text === undefined ? "" : ` (The browser says: ${text})`;
  const message =
    `the port to the bridge ended, and is opened again by itself. \`websocket-bridge logs\` says who ` +
    `closed it.${said}`;
  return new BridgeError("port-ended", message, { retryable: true, ...cause });
}
