// Owns what a `WebSocket` is asked to do: one scenario for what the web platform's own tests ask for (those of
// web-platform-tests, directory `websockets`, as of August 2025), with what is to be seen. The same code runs with the
// browser's own class and with the bridge's; what they give is compared by the test.
//
// `wpt` names the files whose content a scenario covers, with `*` for any part of a name. A scenario's `expected` holds
// for both classes, but for
//   - `Chromium`, `Firefox`: what that browser's own class gives instead, which is not what the standard says,
//   - `bridge`: what the bridge's gives instead, on purpose; `why` says why.
//
// Files that no scenario covers, because what they test makes no sense here:
//   stream/*: `WebSocketStream`, another interface, which one of the two browsers has.
//   cookies/*: the bridge is no browser, and has nobody's cookies.
//   back-forward-cache-*, unload-a-document/*: of pages that are left and come back; a port ends with its page.
//   multi-globals/*, remove-own-iframe-during-onerror.window.js: frames of one page that use each other's classes.
//   Send-data.worker.js, Create-on-worker-shutdown.any.js: workers of pages, which have no native messaging.
//   mixed-content.https.any.js: pages from the network; an extension's own are not among them.
//   security/002.html: `XMLHttpRequest`.
//   bufferedAmount-unchanged-by-sync-xhr.any.js: the same, and there is none in a service worker.
//   interfaces/CloseEvent/constructor.html, interfaces/CloseEvent/historical.html: `CloseEvent` is the browser's own.
//   Create-url-with-space.any.js: so is the parser of URLs, which in Chromium takes spaces in a host's name.
//   Create-blocked-port.any.js: what pages may not reach; where an extension may connect to is configured.
//   keeping-connection-open/001.html: twenty seconds in which nothing happens.
//   handlers/*, resources/*, *.py, *.md, *.yml, constants.sub.js: no tests, but parts of them.

const CONSTANTS = ["CONNECTING", "OPEN", "CLOSING", "CLOSED"];
const EVENTS = ["open", "message", "error", "close"];
const HANDLERS = EVENTS.map((type) => `on${type}`);

/** An event in a few words. */
function brief({ type, data, code, reason, wasClean }) {
  if (type === "message") return `message ${data}`;
  if (type === "close") return `close ${code}${reason && ` ${reason}`}, ${wasClean ? "clean" : "unclean"}`;
  return type;
}

/** The next event of a type. */
function next(socket, type) {
  return new Promise((resolve, reject) => {
    socket.addEventListener(type, resolve, { once: true });
    socket.addEventListener("close", (event) => reject(new Error(brief(event))), { once: true });
  });
}

/** Another task: what was put into this one is done. */
const turn = () => new Promise((resolve) => setTimeout(resolve, 0));

/** Everything that happens to a socket, to its end. `reactions` are what is done at the first event of a type. */
async function life(socket, reactions = {}) {
  const events = [];
  for (const type of EVENTS) socket.addEventListener(type, (event) => events.push(brief(event)));
  for (const [type, react] of Object.entries(reactions)) socket.addEventListener(type, react, { once: true });
  await next(socket, "close");
  await turn();
  return events;
}

/** What comes back of each thing that is sent. */
async function echo(WebSocket, at, things, binaryType = "arraybuffer") {
  const socket = new WebSocket(at("/echo"));
  socket.binaryType = binaryType;
  await next(socket, "open");
  const answers = [];
  for (const thing of things) {
    socket.send(thing);
    answers.push((await next(socket, "message")).data);
  }
  socket.close();
  return answers;
}

/** What it throws, or what it returns. */
function outcome(task) {
  try {
    return task();
  } catch (error) {
    return error instanceof DOMException ? `DOMException ${error.name}` : error.constructor.name;
  }
}

/** A socket that is closed again before anything can come of it. */
function briefly(WebSocket, url, protocols) {
  const socket = new WebSocket(url, protocols);
  socket.close();
  return socket;
}

/** A task with another property of the class' prototype, which is as before when it is done. */
function replacing({ prototype }, name, property, task) {
  const original = Object.getOwnPropertyDescriptor(prototype, name);
  if (property) Object.defineProperty(prototype, name, property);
  else delete prototype[name];
  try {
    return task();
  } finally {
    Object.defineProperty(prototype, name, original);
  }
}

const bytes = (buffer) => [...new Uint8Array(buffer)].join(" ");
const code = (number) => String.fromCharCode(number);

export const scenarios = [
  {
    title: "wants a URL, and something to send",
    wpt: ["constructor/001.html", "constructor/005.html", "constructor.any.js", "interfaces/WebSocket/send/001.html"],
    see: (WebSocket, at) => [
      outcome(() => new WebSocket()),
      outcome(() => WebSocket(at("/echo"))),
      outcome(() => briefly(WebSocket, at("/echo")).send()),
      new WebSocket(at("/echo"), "echo", "one too many") instanceof WebSocket,
    ],
    expected: ["TypeError", "TypeError", "TypeError", true],
  },
  {
    title: "takes each URL of a server, and shows it as it is used",
    wpt: [
      "constructor/006.html",
      "constructor/008.html",
      "constructor/016.html",
      "constructor/017.html",
      "constructor/018.html",
      "constructor/019.html",
      "constructor/020.html",
      "Create-http-urls.any.js",
      "Create-url-with-windows-1252-encoding.html",
      "interfaces/WebSocket/url/001.html",
      "interfaces/WebSocket/url/resolve.html",
    ],
    see: (WebSocket) =>
      [
        "ws://127.0.0.1:9",
        "WS://LOCALHOST:9/Path",
        "wss://127.0.0.1:443/",
        "ws://127.0.0.1:443/",
        "http://127.0.0.1:9/",
        "https://127.0.0.1:9/",
        "ws:127.0.0.1:9/too/few/slashes",
        "ws://127.0.0.1:9/?x\u0000y\u0000",
        "ws://127.0.0.1:9/?a%20b c=åäö€",
        new URL("ws://127.0.0.1:9/an/object"),
      ].map((url) => briefly(WebSocket, url).url),
    expected: [
      "ws://127.0.0.1:9/",
      "ws://localhost:9/Path",
      "wss://127.0.0.1/",
      "ws://127.0.0.1:443/",
      "ws://127.0.0.1:9/",
      "wss://127.0.0.1:9/",
      "ws://127.0.0.1:9/too/few/slashes",
      "ws://127.0.0.1:9/?x%00y",
      "ws://127.0.0.1:9/?a%20b%20c=%C3%A5%C3%A4%C3%B6%E2%82%AC",
      "ws://127.0.0.1:9/an/object",
    ],
  },
  {
    title: "asks the server for the URL's path and query",
    wpt: ["constructor/016.html", "constructor/018.html"],
    async see(WebSocket, at) {
      const { data } = await next(new WebSocket(at("/request?x\u0000å y#".slice(0, -1))), "message");
      return JSON.parse(data).url;
    },
    expected: "/request?x%00%C3%A5%20y",
  },
  {
    title: "refuses what is no URL of a server",
    wpt: ["Create-invalid-urls.any.js", "Create-non-absolute-url.any.js"],
    see: (WebSocket) =>
      [
        "",
        "?",
        "relative",
        "/",
        null,
        123,
        "ftp://127.0.0.1/",
        "mailto:a@b",
        "about:blank",
        "ws://127.0.0.1/#",
        "ws://",
      ]
        .map((url) => outcome(() => briefly(WebSocket, url).url))
        .filter((seen, index, all) => all.indexOf(seen) === index),
    expected: ["DOMException SyntaxError"],
  },
  {
    title: "refuses sub-protocols that are no tokens, or not all different",
    wpt: [
      "constructor/004.html",
      "constructor/007.html",
      "constructor/021.html",
      "Create-asciiSep-protocol-string.any.js",
      "Create-nonAscii-protocol-string.any.js",
      "Create-protocol-with-space.any.js",
      "Create-protocols-repeated.any.js",
    ],
    see(WebSocket, at) {
      const refused = (protocols) => outcome(() => briefly(WebSocket, at("/echo"), protocols).url);
      const separators = [...'()<>@,;:\\"/[]?={} \t'].map((character) => `a${character}b`);
      const others = Array.from({ length: 0x100 }, (_, number) => number).filter((it) => it < 0x20 || it > 0x7e);
      const all = ["", ...separators, ...others.map((number) => `a${code(number)}b`), ["a", "a"], ["a, b"]];
      return all.map(refused).filter((seen, index, every) => every.indexOf(seen) === index);
    },
    expected: ["DOMException SyntaxError"],
  },
  {
    title: "refuses sub-protocols that differ only in upper and lower case",
    wpt: ["Create-protocols-repeated-case-insensitive.any.js"],
    see: (WebSocket, at) => outcome(() => briefly(WebSocket, at("/echo"), ["echo", "eCho"]).readyState),
    expected: "DOMException SyntaxError",
    Chromium: 2,
    Firefox: 2,
  },
  {
    title: "offers its sub-protocols, and shows the one that the server has chosen",
    wpt: [
      "constructor/009.html",
      "constructor/022.html",
      "Create-valid-url-array-protocols.any.js",
      "Create-valid-url-protocol-empty.any.js",
      "Create-valid-url-protocol-setCorrectly.any.js",
      "Create-valid-url-protocol-string.any.js",
      "Create-valid-url-protocol.any.js",
      "interfaces/WebSocket/protocol/protocol-initial.html",
    ],
    async see(WebSocket, at) {
      const seen = [];
      for (const protocols of [undefined, [], "one", ["one", "two"], new Set(["two", "one"])]) {
        const socket = new WebSocket(at("/request"), protocols);
        seen.push(socket.protocol);
        const { data } = await next(socket, "message");
        seen.push(JSON.parse(data).headers["sec-websocket-protocol"]?.replaceAll(" ", "") ?? "none", socket.protocol);
        socket.close();
      }
      return seen;
    },
    expected: ["", "none", "", "", "none", "", "", "one", "one", "", "one,two", "one", "", "two,one", "two"],
  },
  {
    title: "fails when the server chooses a sub-protocol that was not offered",
    wpt: ["constructor/010.html", "constructor/011.html"],
    async see(WebSocket, at) {
      const seen = [];
      for (const protocols of [[], ["ANOTHER"]]) {
        const socket = new WebSocket(at("/chooses-another"), protocols);
        seen.push(await life(socket, { open: () => socket.close() }));
      }
      return seen;
    },
    expected: [
      ["error", "close 1006, unclean"],
      ["error", "close 1006, unclean"],
    ],
    Firefox: [
      ["open", "close 1005, clean"],
      ["error", "close 1006, unclean"],
    ],
  },
  {
    title: "fails when the server chooses none of the sub-protocols",
    wpt: ["constructor/012.html"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/chooses-none"), "one");
      return await life(socket, { open: () => socket.close() });
    },
    expected: ["error", "close 1006, unclean"],
    Firefox: ["open", "close 1005, clean"],
  },
  {
    title: "shows that it connects, and what is not known before it is open",
    wpt: [
      "Create-valid-url-binaryType-blob.any.js",
      "interfaces/WebSocket/bufferedAmount/bufferedAmount-initial.html",
      "interfaces/WebSocket/events/001.html",
      "interfaces/WebSocket/extensions/001.html",
      "interfaces/WebSocket/readyState/001.html",
    ],
    see(WebSocket, at) {
      const socket = new WebSocket(at("/echo"));
      const { readyState, extensions, bufferedAmount, binaryType } = socket;
      const handlers = HANDLERS.map((name) => socket[name]);
      socket.close();
      return [readyState, extensions, bufferedAmount, binaryType, ...handlers];
    },
    expected: [0, "", 0, "blob", null, null, null, null],
  },
  {
    title: "has the members that the standard names, and they are what they are there",
    wpt: [
      "idlharness.any.js",
      "interfaces/WebSocket/constants/*.html",
      "interfaces/WebSocket/events/004.html",
      "interfaces/WebSocket/events/006.html",
      "interfaces/WebSocket/url/004.html",
    ],
    see(WebSocket, at) {
      const socket = briefly(WebSocket, at("/echo"));
      const { prototype } = WebSocket;
      const members = Object.entries(Object.getOwnPropertyDescriptors(prototype));
      const kind = ({ get, set, value, writable, enumerable, configurable }) =>
        [
          get && (set ? "attribute" : "readonly attribute"),
          typeof value === "function" && `function of ${value.length}`,
          typeof value === "number" && `constant ${value}`,
          writable && "writable",
          enumerable && "enumerable",
          configurable && "configurable",
        ].filter(Boolean);
      return {
        members: members
          .filter(([name]) => name !== "constructor")
          .map(([name, descriptor]) => [name, ...kind(descriptor)].join(" "))
          .sort(),
        constants: CONSTANTS.map((name) => [WebSocket[name], kind(Object.getOwnPropertyDescriptor(WebSocket, name))]),
        arguments: WebSocket.length,
        name: [WebSocket.name, String(socket)],
        inherits: [Object.getPrototypeOf(WebSocket), Object.getPrototypeOf(prototype)].map(
          (parent, index) => parent === [EventTarget, EventTarget.prototype][index],
        ),
        alien: [
          ...["url", "extensions", "bufferedAmount"].map((name) => outcome(() => prototype[name])),
          outcome(() => (prototype.binaryType = "nonsense")),
          outcome(() => prototype.send("x")),
          outcome(() => prototype.close(7)),
        ],
        URL: "URL" in socket,
      };
    },
    expected: {
      members: [
        "CLOSED constant 3 enumerable",
        "CLOSING constant 2 enumerable",
        "CONNECTING constant 0 enumerable",
        "OPEN constant 1 enumerable",
        "binaryType attribute enumerable configurable",
        "bufferedAmount readonly attribute enumerable configurable",
        "close function of 0 writable enumerable configurable",
        "extensions readonly attribute enumerable configurable",
        "onclose attribute enumerable configurable",
        "onerror attribute enumerable configurable",
        "onmessage attribute enumerable configurable",
        "onopen attribute enumerable configurable",
        "protocol readonly attribute enumerable configurable",
        "readyState readonly attribute enumerable configurable",
        "send function of 1 writable enumerable configurable",
        "url readonly attribute enumerable configurable",
      ],
      constants: [0, 1, 2, 3].map((value) => [value, [`constant ${value}`, "enumerable"]]),
      arguments: 1,
      name: ["WebSocket", "[object WebSocket]"],
      inherits: [true, true],
      alien: ["TypeError", "TypeError", "TypeError", "TypeError", "TypeError", "TypeError"],
      URL: false,
    },
  },
  {
    title: "has attributes that cannot be set, and that a program can replace or delete for all sockets",
    wpt: [
      "interfaces/WebSocket/bufferedAmount/bufferedAmount-de*.html",
      "interfaces/WebSocket/bufferedAmount/bufferedAmount-readonly.html",
      "interfaces/WebSocket/close/close-replace.html",
      "interfaces/WebSocket/readyState/002.html",
      "interfaces/WebSocket/readyState/003.html",
      "interfaces/WebSocket/readyState/004.html",
      "interfaces/WebSocket/readyState/005.html",
      "interfaces/WebSocket/send/002.html",
      "interfaces/WebSocket/url/002.html",
      "interfaces/WebSocket/url/003.html",
      "interfaces/WebSocket/url/005.html",
      "interfaces/WebSocket/url/006.html",
    ],
    see(WebSocket, at) {
      const socket = briefly(WebSocket, at("/echo"));
      const replaced = briefly(WebSocket, at("/echo"));
      replaced.close = 5;
      replaced.send = 6;
      return [
        replaced.close,
        replaced.send,
        ...["url", "readyState", "bufferedAmount"].flatMap((name) => [
          Reflect.set(socket, name, "set"),
          delete socket[name] && socket[name] !== undefined,
          replacing(WebSocket, name, { get: () => "replaced" }, () => socket[name]),
          replacing(WebSocket, name, undefined, () => name in socket),
        ]),
      ];
    },
    expected: [5, 6, ...[1, 2, 3].flatMap(() => [false, true, "replaced", false])],
  },
  {
    title: "takes handlers as an element does",
    wpt: [
      "eventhandlers.any.js",
      "interfaces/WebSocket/events/002.html",
      "interfaces/WebSocket/events/003.html",
      "interfaces/WebSocket/events/007.html",
      "interfaces/WebSocket/events/008.html",
      "interfaces/WebSocket/events/009.html",
      "interfaces/WebSocket/events/01[0-4].html",
      "interfaces/WebSocket/events/019.html",
    ],
    see(WebSocket, at) {
      const socket = briefly(WebSocket, at("/echo"));
      return EVENTS.map((type) => {
        const seen = [];
        const name = `on${type}`;
        const handler = (event) => seen.push(event.type);
        const object = { handleEvent: handler };
        for (const value of [handler, undefined, 1, ";", object, null]) {
          socket[name] = handler;
          socket[name] = value;
          seen.push(socket[name] === handler || socket[name] === object ? "kept" : socket[name]);
          socket.dispatchEvent(new Event(type));
        }
        socket.addEventListener(type, handler);
        socket.removeEventListener(type, handler);
        socket.dispatchEvent(new Event(type));
        return seen;
      });
    },
    expected: EVENTS.map((type) => ["kept", type, null, null, null, "kept", null]),
  },
  {
    title: "calls handlers and listeners in the order in which they came, with itself",
    wpt: ["interfaces/WebSocket/events/016.html", "interfaces/WebSocket/events/017.html"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/closes"));
      const seen = [];
      const log = (number) =>
        function log({ type, target, currentTarget, eventPhase }) {
          seen.push([number, type, this === socket, target === socket, currentTarget === socket, eventPhase].join(" "));
        };
      for (const type of ["open", "close"]) {
        socket.addEventListener(type, log(1));
        socket[`on${type}`] = log("replaced");
        socket.addEventListener(type, log(3));
        socket[`on${type}`] = log(2);
      }
      await life(socket, { open: () => socket.send("close") });
      return seen;
    },
    expected: ["open", "close"].flatMap((type) => [1, 2, 3].map((number) => `${number} ${type} true true true 2`)),
  },
  {
    title: "gives events of the classes of the browser, that neither bubble nor can be cancelled",
    wpt: ["interfaces/WebSocket/events/015.html", "interfaces/WebSocket/events/018.html"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/breaks-the-protocol"));
      const seen = [];
      const log = (event) => seen.push([event, event.constructor.name, event.bubbles, event.cancelable].join(" "));
      for (const type of EVENTS) socket.addEventListener(type, log);
      socket.addEventListener("open", () => socket.send("break it"));
      const { origin, source, lastEventId, ports } = await next(socket, "message");
      await next(socket, "error");
      await turn();
      return [...seen, origin === at(""), source, lastEventId, ports.length];
    },
    expected: [
      "[object Event] Event false false",
      "[object MessageEvent] MessageEvent false false",
      "[object Event] Event false false",
      "[object CloseEvent] CloseEvent false false",
      true,
      null,
      "",
      0,
    ],
  },
  {
    title: "marks its events as the browser's",
    wpt: [],
    async see(WebSocket, at) {
      const { isTrusted } = await next(new WebSocket(at("/echo")), "open");
      return isTrusted;
    },
    expected: true,
    bridge: false,
    why: "A program cannot make such events.",
  },
  {
    title: "opens, and is open",
    wpt: [
      "Create-valid-url.any.js",
      "Create-extensions-empty.any.js",
      "opening-handshake/002.html",
      "interfaces/WebSocket/readyState/006.html",
    ],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/echo"));
      await next(socket, "open");
      const { readyState, extensions } = socket;
      return [readyState, extensions, await life(socket, void socket.close())];
    },
    expected: [1, "", ["close 1005, clean"]],
  },
  {
    title: "negotiates the compression of messages",
    wpt: [],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/compressed"));
      await next(socket, "open");
      return socket.extensions;
    },
    expected: "permessage-deflate",
    bridge: "",
    why: "The bridge negotiates no extension.",
  },
  {
    title: "opens many at a time",
    wpt: ["constructor/013.html"],
    async see(WebSocket, at) {
      const lives = Array.from({ length: 10 }, async (_, number) => {
        const socket = new WebSocket(at("/echo"));
        return life(socket, { open: () => socket.send(number), message: () => socket.close() });
      });
      return await Promise.all(lives);
    },
    expected: Array.from({ length: 10 }, (_, number) => ["open", `message ${number}`, "close 1005, clean"]),
  },
  {
    title: "waits with its handshake until that of another one with the same server is done",
    wpt: ["constructor/014.html"],
    async see(WebSocket, at) {
      const others = [1, 2].map(async () => (await next(new WebSocket(at("/late")), "message")).data);
      return (await Promise.all(others)).sort();
    },
    expected: ["0", "0"],
    bridge: ["0", "1"],
    why: "This is against web pages that flood a server; which servers an extension may reach is configured.",
  },
  {
    title: "fails when the server does not do its part of the handshake",
    wpt: [
      "interfaces/WebSocket/events/020.html",
      "opening-handshake/001.html",
      "opening-handshake/006.html",
      "opening-handshake/received-301-code.html",
      "security/001.html",
    ],
    async see(WebSocket, at) {
      const urls = [...["/no-http", "/wrong-key", "/moved", "/forbidden"].map(at), "ws://nowhere.invalid/"];
      const seen = [];
      for (const url of urls) seen.push((await life(new WebSocket(url))).join(", "));
      return seen;
    },
    expected: Array.from({ length: 5 }, () => "error, close 1006, unclean"),
  },
  {
    title: "sends a user name and a password that stand in the URL",
    wpt: ["basic-auth.any.js"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/asks-for-password").replace("//", "//foo:bar@"));
      const events = await life(socket, { message: () => socket.close() });
      return events.map((event) => (event.startsWith("message") ? event.match(/Basic \w+/)?.[0] : event));
    },
    expected: ["open", "Basic Zm9vOmJhcg", "close 1005, clean"],
    bridge: ["error", "close 1006, unclean"],
    why: "Passwords in URLs end in logs; the bridge refuses such a URL, and says so.",
  },
  {
    title: "tells the server its origin, and no page that it came from",
    wpt: ["opening-handshake/003*", "referrer.any.js"],
    async see(WebSocket, at) {
      const { data } = await next(new WebSocket(at("/request")), "message");
      const { origin, referer, cookie } = JSON.parse(data).headers;
      const scheme = origin.split("//")[0];
      return [scheme === location.protocol, scheme === "moz-extension:" || origin === location.origin, referer, cookie];
    },
    expected: [true, true, undefined, undefined],
  },
  {
    title: "hears a close that comes with the handshake",
    wpt: ["opening-handshake/005.html"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/closes-at-once"));
      return await life(socket, { open: () => socket.close() });
    },
    expected: ["open", "close 1001 at once, clean"],
  },
  {
    title: "sends text as it is, and everything else that is no binary data as its text",
    wpt: [
      "interfaces/WebSocket/send/004.html",
      "interfaces/WebSocket/send/006.html",
      "interfaces/WebSocket/send/009.html",
      "interfaces/WebSocket/send/01[0-2].html",
      "Send-0byte-data.any.js",
      "Send-data.any.js",
      "Send-null.any.js",
      "Send-paired-surrogates.any.js",
      "Send-unicode-data.any.js",
      "Send-unpaired-surrogates.any.js",
    ],
    see: (WebSocket, at) =>
      echo(WebSocket, at, [
        ...["text", "", "¥å a\u030A \u{1047e}", "a\uDC00xb\uD800xc\uDC00\uD800x", "\0"],
        ...[null, undefined, 1, {}, [1, [2]], () => 5, new Error("e"), new String("object"), new URL("ws://url/")],
      ]),
    expected: [
      ...["text", "", "¥å a\u030A \u{1047e}", "a\uFFFDxb\uFFFDxc\uFFFD\uFFFDx", "\0"],
      ...["null", "undefined", "1", "[object Object]", "1,2", "() => 5", "Error: e", "object", "ws://url/"],
    ],
  },
  {
    title: "sends messages of every length of a frame's head",
    wpt: ["extended-payload-length.html", "Send-65K-data.any.js", "Send-binary-65K-arraybuffer.any.js", "binary/00*"],
    async see(WebSocket, at) {
      const lengths = [125, 126, 0xffff, 0x10000, 100_000];
      const texts = lengths.map((length) => "c".repeat(length));
      const buffers = lengths.map((length) => new ArrayBuffer(length));
      const answers = await echo(WebSocket, at, [...texts, ...buffers]);
      const blobs = await echo(WebSocket, at, buffers, "blob");
      return [
        answers.slice(0, 5).map((answer, index) => answer === texts[index]),
        answers.slice(5).map(({ constructor, byteLength }) => `${constructor.name} ${byteLength}`),
        blobs.map(({ constructor, size, type }) => `${constructor.name} ${size}${type}`),
      ];
    },
    expected: [
      [true, true, true, true, true],
      ["ArrayBuffer 125", "ArrayBuffer 126", "ArrayBuffer 65535", "ArrayBuffer 65536", "ArrayBuffer 100000"],
      ["Blob 125", "Blob 126", "Blob 65535", "Blob 65536", "Blob 100000"],
    ],
  },
  {
    title: "sends buffers, what views show of them, and blobs",
    wpt: ["Send-binary-arraybuffer.any.js", "Send-binary-arraybufferview-*.any.js", "Send-binary-blob.any.js"],
    async see(WebSocket, at) {
      const { buffer } = Uint8Array.from({ length: 16 }, (_, index) => index);
      const answers = await echo(WebSocket, at, [
        buffer,
        ...[
          Int8Array,
          Uint8ClampedArray,
          Int16Array,
          Uint16Array,
          Int32Array,
          Uint32Array,
          BigInt64Array,
          Float32Array,
        ].map((View) => new View(buffer, 8, 8 / View.BYTES_PER_ELEMENT)),
        new Float64Array(buffer, 8),
        new Uint8Array(buffer, 2, 3),
        new Uint8Array(buffer, 2, 0),
        new DataView(buffer, 14),
        new Blob([buffer.slice(0, 4), "\u0005"], { type: "text/plain" }),
      ]);
      return answers.map(bytes);
    },
    expected: [
      "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15",
      ...Array.from({ length: 9 }, () => "8 9 10 11 12 13 14 15"),
      "2 3 4",
      "",
      "14 15",
      "0 1 2 3 5",
    ],
  },
  {
    title: "sends what a buffer holds at that moment, and everything in its turn",
    wpt: [],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/echo"));
      socket.binaryType = "arraybuffer";
      await next(socket, "open");
      const buffer = Uint8Array.of(1, 2);
      for (const thing of [new Blob([buffer]), buffer, "text", new Blob(["last"])]) socket.send(thing);
      buffer.fill(9);
      const heard = [];
      while (heard.length < 4) heard.push((await next(socket, "message")).data);
      socket.close();
      return heard.map((data) => (typeof data === "string" ? data : bytes(data)));
    },
    expected: ["1 2", "1 2", "text", "108 97 115 116"],
  },
  {
    title: "counts at once what it has yet to send, in bytes, until it is sent",
    wpt: [
      "interfaces/WebSocket/bufferedAmount/bufferedAmount-arraybuffer.html",
      "interfaces/WebSocket/bufferedAmount/bufferedAmount-blob.html",
      "interfaces/WebSocket/bufferedAmount/bufferedAmount-getting.html",
      "interfaces/WebSocket/bufferedAmount/bufferedAmount-large.html",
      "interfaces/WebSocket/bufferedAmount/bufferedAmount-unicode.html",
    ],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/echo"));
      await next(socket, "open");
      const things = ["x", "å", "\u5336", "\u{1047e}", new ArrayBuffer(10), new Blob(["abc"]), "x".repeat(65_000)];
      const amounts = things.map((thing) => {
        socket.send(thing);
        return socket.bufferedAmount;
      });
      let left;
      for (const _ of things) {
        await next(socket, "message");
        left = socket.bufferedAmount;
      }
      socket.close();
      return [...amounts, left];
    },
    expected: [1, 3, 6, 10, 20, 23, 65_023, 0],
  },
  {
    title: "goes on counting what is sent when it is closing, and sends none of it",
    wpt: ["interfaces/WebSocket/send/007.html", "interfaces/WebSocket/send/008.html"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/echo"));
      const amounts = [];
      const send = () => amounts.push(socket.send("test") ?? socket.bufferedAmount);
      const events = await life(socket, { open: () => [socket.close(), send()], close: send });
      return [amounts, events];
    },
    expected: [
      [4, 8],
      ["open", "close 1005, clean"],
    ],
  },
  {
    title: "does not send before it is open, and returns nothing after",
    wpt: ["interfaces/WebSocket/send/003.html", "interfaces/WebSocket/send/005.html", "Send-before-open.any.js"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/echo"));
      const early = ["x", "\uD800", new Blob([])].map((thing) => outcome(() => socket.send(thing)));
      await next(socket, "open");
      const returned = [typeof socket.send("test"), typeof socket.close()];
      return [...early, ...returned];
    },
    expected: [...Array.from({ length: 3 }, () => "DOMException InvalidStateError"), "undefined", "undefined"],
  },
  {
    title: "sends many messages to a server that reads slowly",
    wpt: ["send-many-64K-messages-with-backpressure.any.js"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/reads-slowly"));
      await next(socket, "open");
      const message = new Uint8Array(65_536);
      for (let count = 0; count < 50; count += 1) socket.send(message);
      let heard = 0;
      for (; heard < 50; heard += 1) await next(socket, "message");
      return [heard, await life(socket, void socket.close())];
    },
    expected: [50, ["close 1005, clean"]],
  },
  {
    title: "takes only the two values of binaryType",
    wpt: ["binaryType-wrong-value.any.js"],
    see(WebSocket, at) {
      const socket = briefly(WebSocket, at("/echo"));
      return ["nonsense", "arraybuffer", "", "ArrayBuffer", "blob"].map((type) => {
        socket.binaryType = type;
        return socket.binaryType;
      });
    },
    expected: ["blob", "arraybuffer", "arraybuffer", "arraybuffer", "blob"],
  },
  {
    title: "closes with the code and the reason that it is given",
    wpt: [
      "Close-1000-reason.any.js",
      "Close-1000-verify-code.any.js",
      "Close-1000.any.js",
      "Close-1005-verify-code.any.js",
      "Close-3000-reason.any.js",
      "Close-3000-verify-code.any.js",
      "Close-4999-reason.any.js",
      "Close-reason-unpaired-surrogates.any.js",
      "Close-undefined.any.js",
      "closing-handshake/003.html",
      "interfaces/CloseEvent/clean-close.html",
    ],
    async see(WebSocket, at) {
      const seen = [];
      for (const how of [[], [undefined], [1000], [1000, "Clean"], [3000, "x".repeat(123)], [4999, "\uD807"]]) {
        const socket = new WebSocket(at("/echo"));
        await next(socket, "open");
        seen.push((await life(socket, void socket.close(...how))).join());
      }
      return seen;
    },
    expected: [
      "close 1005, clean",
      "close 1005, clean",
      "close 1000, clean",
      "close 1000 Clean, clean",
      `close 3000 ${"x".repeat(123)}, clean`,
      "close 4999 \uFFFD, clean",
    ],
  },
  {
    title: "refuses other codes, and long reasons, in each state",
    wpt: [
      "close-invalid.any.js",
      "Close-1005.any.js",
      "Close-2999-reason.any.js",
      "Close-onlyReason.any.js",
      "Close-Reason-124Bytes.any.js",
    ],
    async see(WebSocket, at) {
      const codes = [0, 500, NaN, "string", null, 0x10000 + 1000, 999, 1001, 1005, 2999, 5000, -1];
      const calls = [...codes.map((code) => [code]), [1000, "x".repeat(124)], [1000, "ä".repeat(62)], [1005, "x"]];
      const socket = new WebSocket(at("/echo"));
      const seen = [];
      const look = () =>
        seen.push(
          calls.map((call) => outcome(() => socket.close(...call))),
          socket.readyState,
        );
      look();
      await next(socket, "open");
      look();
      socket.close();
      look();
      return seen.map((all) => (Array.isArray(all) ? all.join().replaceAll("DOMException ", "") : all));
    },
    expected: [0, 1, 2].flatMap((state) => [
      [
        ...Array.from({ length: 12 }, () => "InvalidAccessError"),
        ...["SyntaxError", "SyntaxError", "InvalidAccessError"],
      ].join(),
      state,
    ]),
  },
  {
    title: "is closing until the server has answered, and closed then",
    wpt: [
      "Close-delayed.any.js",
      "Close-readyState-Closed.any.js",
      "Close-readyState-Closing.any.js",
      "interfaces/WebSocket/readyState/007.html",
      "interfaces/WebSocket/readyState/008.html",
    ],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/closes-late"));
      await next(socket, "open");
      socket.close();
      const states = [socket.readyState];
      const began = performance.now();
      const events = await life(socket, { close: () => states.push(socket.readyState) });
      return [states, events, performance.now() - began > 450];
    },
    expected: [[2, 3], ["close 1005, clean"], true],
  },
  {
    title: "tells with which code and reason the server has closed",
    wpt: ["Close-server-initiated-close.any.js", "closing-handshake/002.html", "closing-handshake/004.html"],
    async see(WebSocket, at) {
      const seen = [];
      for (const query of [
        "",
        "?code=1000",
        "?code=1001&reason=going",
        "?code=1011",
        "?code=3000&reason=a%20b",
        "?code=4999",
      ]) {
        const socket = new WebSocket(at(`/closes${query}`));
        seen.push((await life(socket, { open: () => socket.send("close") })).join(", "));
        seen.push(socket.readyState);
      }
      return seen;
    },
    expected: [
      "open, close 1005, clean",
      "open, close 1000, clean",
      "open, close 1001 going, clean",
      "open, close 1011, clean",
      "open, close 3000 a b, clean",
      "open, close 4999, clean",
    ].flatMap((events) => [events, 3]),
  },
  {
    title: "can be closed while it connects, and again when it is closed",
    wpt: ["interfaces/WebSocket/close/close-[bcmnr]*"],
    async see(WebSocket, at) {
      const seen = [];
      for (const path of ["/echo", "/never-answers"]) {
        const socket = new WebSocket(at(path));
        seen.push(socket.readyState, typeof socket.close(), socket.readyState);
        socket.close();
        const again = () => seen.push(socket.readyState, typeof socket.close(), socket.readyState);
        seen.push((await life(socket, { close: again })).join(", "));
      }
      const late = new WebSocket(at("/never-answers"));
      await new Promise((resolve) => setTimeout(resolve, 100));
      late.close();
      return [...seen, (await life(late)).join(", ")];
    },
    expected: [
      ...[0, "undefined", 2, 3, "undefined", 3, "error, close 1006, unclean"],
      ...[0, "undefined", 2, 3, "undefined", 3, "error, close 1006, unclean"],
      "error, close 1006, unclean",
    ],
  },
  {
    title: "fails when the server breaks the protocol",
    wpt: ["interfaces/WebSocket/events/01[578].html"],
    async see(WebSocket, at) {
      const socket = new WebSocket(at("/breaks-the-protocol"));
      return await life(socket, { open: () => socket.send("break it") });
    },
    expected: ["open", "message test", "error", "close 1006, unclean"],
  },
  {
    title: "ends when the connection does",
    wpt: [],
    async see(WebSocket, at) {
      const seen = [];
      for (const path of ["/drops", "/resets"]) {
        const socket = new WebSocket(at(path));
        seen.push(await life(socket, { open: () => socket.send("x") }));
      }
      return seen;
    },
    expected: [
      ["open", "close 1006, unclean"],
      ["open", "close 1006, unclean"],
    ],
    Firefox: [
      ["open", "close 1006, unclean"],
      ["open", "error", "close 1006, unclean"],
    ],
  },
];
