// Owns the task tracker in a browser: built and installed into a home of its own, and its pages as a test uses them.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

import { Installation } from "./installation.js";
import { until } from "./until.js";

const BUILD = fileURLToPath(new URL("../../extension-stub/task-tracker/build.mjs", import.meta.url));
const SIZES = { "popup.html": { width: 400, height: 700 }, "options.html": { width: 640, height: 900 } };

/** Its ids, which its manifests fix. */
const IDS = { Chromium: "ehhdbiflffdejplebaoefbjbjehecmek", Firefox: "task-tracker@semantest.com" };

/** The one family of fonts that pictures are drawn with, whatever else a machine has. */
const FONTS = `<fontconfig>
  <dir>/usr/share/fonts/truetype/dejavu</dir>
  <cachedir>CACHE</cachedir>
  <alias><family>ui-monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
  <alias><family>monospace</family><prefer><family>DejaVu Sans Mono</family></prefer></alias>
  <match><edit name="family" mode="append_last"><string>DejaVu Sans</string></edit></match>
</fontconfig>
`;

export class Tracker {
  installation = new Installation();
  browser;
  #Browser;
  #id;

  constructor(Browser) {
    this.#Browser = Browser;
    this.#id = IDS[Browser.title];
    const { extension, environment } = this.installation;
    execFileSync(process.execPath, [BUILD, extension]);
    // Whatever listens at the demo's port on this machine is none of the test's business.
    const settings = join(extension, Browser.title.toLowerCase(), "settings.js");
    writeFileSync(settings, readFileSync(settings, "utf8").replace("ws://127.0.0.1:8080/", "ws://127.0.0.1:1/"));
    const fonts = join(extension, "fonts.conf");
    writeFileSync(fonts, FONTS.replace("CACHE", join(extension, "fonts")));
    environment.FONTCONFIG_FILE = fonts;
    // The popup plots what pings tell.
    mkdirSync(environment.WEBSOCKET_BRIDGE_HOME, { mode: 0o700 });
    writeFileSync(join(environment.WEBSOCKET_BRIDGE_HOME, "config.toml"), "[defaults]\nheartbeat.interval_ms = 1000\n");
  }

  async install(id = this.#id) {
    await this.installation.run("install", ...this.#Browser.installArguments(this.installation.profile, id));
  }

  async start(environment = {}) {
    const { profile, extension, log } = this.installation;
    this.browser = await this.#Browser.start({
      profile,
      directory: join(extension, this.#Browser.title.toLowerCase()),
      environment: { ...this.installation.environment, ...environment },
      log,
      id: this.#id,
    });
  }

  /** Opens one of its pages. */
  async open(path, size = {}) {
    return new Page(await this.browser.open(path, { ...SIZES[path], ...size }), () => String(this.installation));
  }

  /** What the storage has of a person's choices. */
  async settings(page) {
    return page.evaluate(`chrome.storage.local.get("settings").then(({ settings }) => settings)`);
  }

  /** Waits until the server has said so many messages of its session, and the worker has handled them. */
  async untilHandled(count) {
    await this.installation.until(`${count} messages to be handled`, async () => {
      const { messages_received, inbox } = (await this.status()) ?? {};
      return messages_received >= count && inbox.messages === 0;
    });
  }

  /** The figures of its session. */
  async status() {
    return JSON.parse((await this.installation.run("status", "--json")).stdout).sessions[0];
  }

  async end() {
    await this.browser?.kill();
    this.installation.remove();
  }
}

class Page {
  #page;
  #circumstances;

  constructor(page, circumstances) {
    this.#page = page;
    this.#circumstances = circumstances;
  }

  evaluate(expression) {
    return this.#page.evaluate(expression);
  }

  paint(theme) {
    return this.#page.paint(theme);
  }

  press(key) {
    return this.#page.press(key);
  }

  picture() {
    return this.#page.picture();
  }

  close() {
    return this.#page.close();
  }

  /** Waits until an expression is true in the page. */
  async until(what, expression) {
    const seen = async () => `${await this.evaluate("document.body.innerText")}\n${this.#circumstances()}`;
    await until(`${what} in the page`, () => this.evaluate(expression), { seen });
  }

  /** Fills fields, by their ids, when the page shows what is chosen. */
  async fill(values) {
    await this.until("the choices", `!document.querySelector("[type=submit]").disabled`);
    await this.evaluate(`(() => {
      for (const [id, value] of Object.entries(${JSON.stringify(values)})) {
        document.getElementById(id).value = value;
        document.getElementById(id).dispatchEvent(new Event("input", { bubbles: true }));
      }
    })()`);
  }

  async save() {
    await this.evaluate(`document.querySelector("[type=submit]").click()`);
    await this.until("the choices to be kept", `document.getElementById("saved").textContent === "Saved."`);
  }
}
