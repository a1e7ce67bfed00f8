// Owns one headless Firefox, driven through Marionette, its own remote protocol: JSON texts with their length before
// each, on a loopback port that Firefox chooses and writes into its profile. With system access it runs JavaScript with
// the browser's rights, for what ends and wakes an event page is not reachable otherwise.

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";

import { BrowserProcess } from "./browser-process.js";
import { end } from "./processes.js";
import { until } from "./until.js";

const BINARY = process.env.FIREFOX ?? "/usr/bin/firefox-esr";
const START_MS = 30_000;

const SETTINGS = {
  "marionette.port": 0, // any that is free
  "network.dns.disabled": true, // nothing here leaves the machine
  "extensions.webextensions.crash.threshold": 1000, // after so many crashes in a while it starts no extension any more
};

const EXTENSION_ID = "test-extension@websocket-bridge.invalid";

export class Firefox {
  static title = "Firefox";

  static manifest = {
    background: { scripts: ["worker.js"] },
    browser_specific_settings: { gecko: { id: EXTENSION_ID } },
    content_security_policy: { extension_pages: "script-src 'self'" }, // the default would turn http: into https:
  };

  /** The last argument that the browser gives a host. */
  static hostArgument = EXTENSION_ID;

  /** What lets it use a host, in the host's manifest. */
  static allowsItself = { allowed_extensions: [EXTENSION_ID] };

  /** The origin that a server is told: with a UUID made from the id, for a host does not learn the real one. */
  static serversOrigin = /^moz-extension:\/\/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

  /** What it makes in a home besides its profile. */
  static makes = /\/(Downloads|\.(cache|config|local|mozilla(?!\/native-messaging-hosts)))(\/|$)/;

  /** An id that is nobody's. */
  static otherId = "nobody@websocket-bridge.invalid";

  /** Where it looks for hosts. */
  static manifests(profile, home) {
    return join(home, ".mozilla", "native-messaging-hosts");
  }

  static installArguments(profile, id = EXTENSION_ID) {
    return ["--browser", "firefox", "--extension", id];
  }

  /** What can end an event page while the browser stays. After a reload it starts again by itself, else it is woken. */
  static endings = [
    { how: "is stopped by the browser", end: (firefox) => firefox.#stopPage(), wakes: true },
    { how: "crashes with its process", end: (firefox) => firefox.#killPagesProcess(), wakes: true },
    { how: "is replaced by a reload of the extension", end: (firefox) => firefox.#reload(), wakes: false },
    { how: "is gone while the extension is disabled", end: (firefox) => firefox.#disableAndEnable(), wakes: false },
  ];

  #process;
  #socket;
  /** The extension's id. */
  #id;

  /** Starts the browser with its own profile, and installs the extension from its directory until the browser ends. */
  static async start({ profile, directory, environment, log, id = EXTENSION_ID, settings = {} }) {
    const portFile = join(profile, "MarionetteActivePort");
    rmSync(portFile, { force: true }); // a killed Firefox leaves it
    mkdirSync(profile, { recursive: true });
    const preferences = Object.entries({ ...SETTINGS, ...settings });
    const lines = preferences.map(([name, value]) => `user_pref("${name}", ${value});\n`);
    writeFileSync(join(profile, "user.js"), lines.join(""));

    const firefox = new Firefox();
    firefox.#id = id;
    const flags = ["-headless", "-no-remote", "-profile", profile, "-marionette", "-remote-allow-system-access"];
    firefox.#process = new BrowserProcess(BINARY, flags, { environment, log });
    firefox.#listen(await firefox.#untilPort(portFile));
    await firefox.#call("WebDriver:NewSession", {});
    await firefox.#call("Marionette:SetContext", { value: "chrome" });
    await firefox.#call("Addon:Install", { path: directory, temporary: true });
    return firefox;
  }

  /** Whether the event page runs. */
  async isAwake() {
    return this.#privileged('return extension.backgroundState !== "stopped";');
  }

  /** Wakes the event page as its events do. Firefox takes a moment to note that a page's process has crashed. */
  async wake() {
    await until("the event page's end", async () => !(await this.isAwake()));
    await this.wakeIfAsleep();
  }

  /** The same, unless one runs, or seems to: then nothing. */
  async wakeIfAsleep() {
    if (await this.isAwake()) return;
    await this.#privileged("await extension.wakeupBackground();");
  }

  /** The extension's. */
  get id() {
    return this.#id;
  }

  /** Opens a page of the extension in a tab. */
  async open(path, { width, height }) {
    const origin = await this.#privileged("return `moz-extension://${extension.uuid}`;");
    const { handle } = await this.#call("WebDriver:NewWindow", { type: "window" });
    const page = new Page((command, params, context) => this.#inContext(context, handle, command, params));
    await page.start(`${origin}/${path}`, { width, height });
    return page;
  }

  /** The user closes the browser. */
  async quit() {
    this.#call("Marionette:Quit", { flags: ["eAttemptQuit"] }).catch(() => {}); // the answer may not get out any more
    await this.#process.untilEnd();
  }

  /** The browser crashes. */
  async kill() {
    await this.#process.kill();
  }

  async #untilPort(file) {
    const port = () => {
      this.#process.check();
      return existsSync(file) && Number(readFileSync(file, "utf8"));
    };
    return until("Marionette's port", port, { deadline: START_MS });
  }

  #listen(port) {
    this.#socket = connect(port, "127.0.0.1");
    this.#socket.on("error", () => {}); // the browser has ended, which the calls that wait are told
    let bytes = Buffer.alloc(0);
    this.#socket.on("data", (piece) => {
      bytes = Buffer.concat([bytes, piece]);
      for (;;) {
        const from = bytes.indexOf(":") + 1;
        const to = from + Number(bytes.subarray(0, from - 1));
        if (from === 0 || bytes.length < to) return;
        this.#take(JSON.parse(bytes.subarray(from, to)));
        bytes = bytes.subarray(to);
      }
    });
  }

  #call(command, params) {
    return this.#process.call(command, (id) => {
      const text = JSON.stringify([0, id, command, params]);
      this.#socket.write(`${Buffer.byteLength(text)}:${text}`);
    });
  }

  #take(message) {
    if (!Array.isArray(message)) return; // the greeting
    const [, id, error, result] = message;
    this.#process.answer(id, error, result);
  }

  /** Runs JavaScript with the browser's rights, where `extension` is the test's. */
  async #privileged(body) {
    const script = `return (async () => {
      const { extension } = WebExtensionPolicy.getByID("${this.#id}");
      ${body}
    })();`;
    return (await this.#call("WebDriver:ExecuteScript", { script, args: [] })).value;
  }

  /** A command for the page in a window, or with the browser's rights (`chrome`). */
  async #inContext(context, handle, command, params) {
    if (context === "closed") return this.#call(command, params);
    await this.#call("WebDriver:SwitchToWindow", { handle });
    if (context === "chrome") return this.#call(command, params);
    await this.#call("Marionette:SetContext", { value: "content" });
    try {
      return await this.#call(command, params);
    } finally {
      await this.#call("Marionette:SetContext", { value: "chrome" });
    }
  }

  async #stopPage() {
    await this.#privileged(
      "await extension.terminateBackground({ ignoreDevToolsAttached: true, disableResetIdleForTest: true });",
    );
  }

  async #killPagesProcess() {
    const pid = await this.#privileged(`
      const { children } = await ChromeUtils.requestProcInfo();
      return children.find(({ type }) => type === "extension").pid;`);
    end(pid);
  }

  async #reload() {
    await this.#asManager("await addon.reload();");
  }

  async #disableAndEnable() {
    await this.#asManager("await addon.disable(); await addon.enable();");
  }

  /** Runs JavaScript where `addon` is the test's extension, as the user may manage it. */
  async #asManager(body) {
    await this.#privileged(`
      const { AddonManager } = ChromeUtils.importESModule("resource://gre/modules/AddonManager.sys.mjs");
      const addon = await AddonManager.getAddonByID(extension.id);
      ${body}`);
  }
}

/** A page of the extension in a window. */
class Page {
  #call;

  constructor(call) {
    this.#call = call;
  }

  async start(url, { width, height }) {
    await this.#call("WebDriver:Navigate", { url }, "content");
    // The size of a window is that of its frame; the page's is what is asked for.
    const [frameWidth, frameHeight] = await this.evaluate("[outerWidth - innerWidth, outerHeight - innerHeight]");
    const size = { width: width + frameWidth, height: height + frameHeight };
    await this.#call("WebDriver:SetWindowRect", size, "content");
  }

  /** What an expression, or the promise that it gives, comes to in the page. */
  async evaluate(expression) {
    const script = `
      const answer = arguments[arguments.length - 1];
      (async () => (${expression}))().then((value) => answer([value]), (error) => answer([null, String(error)]));`;
    const how = { script, args: [], sandbox: null };
    const { value } = await this.#call("WebDriver:ExecuteAsyncScript", how, "content");
    if (value[1]) throw new Error(value[1]);
    return value[0];
  }

  /** `light` or `dark`. */
  async paint(theme) {
    const script = `Services.prefs.setIntPref("layout.css.prefers-color-scheme.content-override", arguments[0]);`;
    await this.#call("WebDriver:ExecuteScript", { script, args: [theme === "dark" ? 0 : 1] }, "chrome");
  }

  /** Presses and releases the key Tab, Enter or Space. */
  async press(key) {
    const value = { Tab: "\uE004", Enter: "\uE007", Space: " " }[key];
    const strokes = ["keyDown", "keyUp"].map((type) => ({ type, value }));
    await this.#call(
      "WebDriver:PerformActions",
      { actions: [{ type: "key", id: "keyboard", actions: strokes }] },
      "content",
    );
  }

  /** A PNG of what is to be seen. */
  async picture() {
    const { value } = await this.#call("WebDriver:TakeScreenshot", { full: false }, "content");
    return Buffer.from(value, "base64");
  }

  async close() {
    // What comes next needs a window that is there.
    const [handle] = await this.#call("WebDriver:CloseWindow", {}, "content");
    await this.#call("WebDriver:SwitchToWindow", { handle }, "closed");
  }
}
