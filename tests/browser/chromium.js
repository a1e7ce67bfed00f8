// Owns one headless Chromium, driven over a pipe (`--remote-debugging-pipe`: JSON texts with a NUL behind each).
//
// A debugger that is attached to a worker keeps it alive for ever, so nothing here attaches to one: workers are ended
// through the browser's list of targets, the service worker domain of a blank page, and the system.

import { join } from "node:path";

import { BrowserProcess } from "./browser-process.js";
import { end, processesWith } from "./processes.js";
import { until } from "./until.js";

const BINARY = process.env.CHROMIUM ?? "/usr/bin/chromium";

const FLAGS = [
  "--headless=new",
  "--no-sandbox", // it refuses to start for root, whom tests in containers run as
  "--disable-gpu",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", // nothing here leaves the machine
  "--enable-unsafe-extension-debugging",
  "--remote-debugging-pipe",
];
const TO_BROWSER = 3;
const FROM_BROWSER = 4;

const EXTENSION_ID = "jehlfdgdlcaglkijngaaakmcoibeehjh";
const origin = (id) => `chrome-extension://${id}`;

/** The pages on which the user manages extensions, and workers. */
const EXTENSIONS = "chrome://extensions/";
const WORKERS = "chrome://serviceworker-internals/";

export class Chromium {
  static title = "Chromium";

  /** The key is what makes the id; nobody has its private half. */
  static manifest = {
    background: { service_worker: "worker.js" },
    key:
      "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAvQrkkct4ffu3smR4rZ+xZmWuJnQehcUx1kB0ZtqWcJ5HPuLg4YsG6o2V" +
      "s9LneORHBXMLytqfTbltwQcfe3g5fNrJV4sqHrYNlyOD6RtwWgmGDe0j5Gp+vmRcRSZqm6bzle3O50A33VVR0xFuUzA9lVuAqpqC" +
      "6470SbxLKmt54vLFpA+xD1FHV7raXqprboBLL/CiiuT26dYlom8HoIbDN+WjVVGfCcYQDkVei0xhR4yX/LlSwLfzXJWKSw9sBXQM" +
      "MwGt8nBCUJ/EoVbJ02JWNXXp5CJ8lcNCM2TUrmwjR5nCJ5Uf0WNgB5/4PE5lb4YFXHpwX9BH8753geaD0F9xlwIDAQAB",
  };

  /** The last argument that the browser gives a host. */
  static hostArgument = `${origin(EXTENSION_ID)}/`;

  /** What lets it use a host, in the host's manifest. */
  static allowsItself = { allowed_origins: [`${origin(EXTENSION_ID)}/`] };

  /** The origin that a server is told: the one that the browser itself would tell. */
  static serversOrigin = /^chrome-extension:\/\/jehlfdgdlcaglkijngaaakmcoibeehjh$/;

  /** What it makes in a home besides its profile. */
  static makes = /\/\.(cache|config|local|pki)(\/|$)/;

  /** An id that is nobody's. */
  static otherId = "abcdefghijklmnopabcdefghijklmnop";

  /** Where it looks for hosts. */
  static manifests(profile) {
    return join(profile, "NativeMessagingHosts");
  }

  static installArguments(profile, id = EXTENSION_ID) {
    return ["--user-data-dir", profile, "--extension", id];
  }

  /** What can end a worker while the browser stays. After a reload it starts again by itself, else it is woken. */
  static endings = [
    {
      how: "is stopped by the browser",
      end: (chromium) => chromium.#onPage("ServiceWorker.stopAllWorkers"),
      wakes: true,
    },
    { how: "is stopped by the user", end: (chromium) => chromium.#stopAsUser(), wakes: true },
    { how: "is closed as a target", end: (chromium) => chromium.#closeWorker(), wakes: true },
    { how: "crashes with its process", end: (chromium) => chromium.#killWorkersProcess(), wakes: true },
    { how: "is replaced by a reload of the extension", end: (chromium) => chromium.#load(), wakes: false },
    { how: "goes as the user reloads the extension", end: (chromium) => chromium.#reloadAsUser(), wakes: false },
    { how: "is gone while the extension is disabled", end: (chromium) => chromium.#disableAndEnable(), wakes: false },
  ];

  #profile;
  /** Where the extension lies, and the id that its key makes. */
  #directory;
  #id;
  #process;
  /** The debugging session with a blank page. */
  #page;
  /** The browser's own id for the registration of the extension's worker. */
  #registration;

  /**
   * Starts the browser with its own profile, and loads the extension from its directory. `id` is the one that its key
   * makes; null: it has none, and gets one.
   */
  static async start({ profile, directory, environment, log, id = EXTENSION_ID }) {
    const chromium = new Chromium();
    chromium.#id = id;
    chromium.#profile = profile;
    chromium.#directory = directory;
    chromium.#process = new BrowserProcess(BINARY, [...FLAGS, `--user-data-dir=${profile}`], {
      environment,
      log,
      pipes: 2,
    });
    chromium.#listen();
    const { targetId } = await chromium.#call("Target.createTarget", { url: "about:blank" });
    chromium.#page = (await chromium.#call("Target.attachToTarget", { targetId, flatten: true })).sessionId;
    await chromium.#onPage("ServiceWorker.enable");
    await chromium.#load();
    return chromium;
  }

  /** Whether the extension's worker runs. */
  async isAwake() {
    return (await this.#worker()) !== undefined;
  }

  /**
   * Wakes the extension's worker by an event that needs no permission and no page: a push message that nobody sent. A
   * browser that has not noticed that the worker is dead would wake nobody.
   */
  async wake() {
    await until("the worker's end", async () => !(await this.isAwake()));
    await this.wakeIfAsleep();
  }

  /** The same, unless one runs, or seems to: then nothing. */
  async wakeIfAsleep() {
    if (await this.isAwake()) return;
    const registrationId = await until("the worker's registration", () => this.#registration);
    await this.#onPage("ServiceWorker.deliverPushMessage", { origin: this.#origin, registrationId, data: "" });
  }

  /** Opens a page of the extension in a tab. */
  async open(path, size) {
    return this.#open(`${this.#origin}/${path}`, size);
  }

  async #open(url, { width, height } = { width: 800, height: 600 }) {
    const { targetId } = await this.#call("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.#call("Target.attachToTarget", { targetId, flatten: true });
    const page = new Page((method, params) => this.#call(method, params, sessionId), targetId);
    await page.start(url, { width, height });
    return page;
  }

  /** The user closes the browser. */
  async quit() {
    this.#call("Browser.close").catch(() => {}); // the answer may not get out any more
    await this.#process.untilEnd();
  }

  /** The browser crashes. */
  async kill() {
    await this.#process.kill();
  }

  /** The extension's. */
  get id() {
    return this.#id;
  }

  get #origin() {
    return origin(this.#id);
  }

  #listen() {
    this.#process.pipe(TO_BROWSER).on("error", () => {}); // the browser has ended, which the calls that wait are told
    let text = "";
    this.#process
      .pipe(FROM_BROWSER)
      .setEncoding("utf8")
      .on("data", (piece) => {
        const messages = (text + piece).split("\0");
        text = messages.pop();
        for (const message of messages) this.#take(JSON.parse(message));
      });
  }

  #call(method, params = {}, sessionId = undefined) {
    return this.#process.call(method, (id) => {
      this.#process.pipe(TO_BROWSER).write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
    });
  }

  #onPage(method, params) {
    return this.#call(method, params, this.#page);
  }

  #take({ id, error, result, method, params }) {
    if (id !== undefined) this.#process.answer(id, error, result);
    if (method === "ServiceWorker.workerRegistrationUpdated") {
      const ours = params.registrations.find(({ scopeURL }) => scopeURL.startsWith(this.#origin));
      if (ours) this.#registration = ours.isDeleted ? undefined : ours.registrationId;
    }
  }

  /** Loads the extension, or reloads it. */
  async #load() {
    const { id } = await this.#call("Extensions.loadUnpacked", { path: this.#directory });
    this.#id ??= id;
    if (id !== this.#id) throw new Error(`the extension got the id ${id}`);
  }

  async #worker() {
    const { targetInfos } = await this.#call("Target.getTargets", { filter: [{ type: "service_worker" }] });
    return targetInfos.find(({ url }) => url.startsWith(this.#origin));
  }

  async #closeWorker() {
    const { targetId } = await this.#worker();
    await this.#call("Target.closeTarget", { targetId });
  }

  /** By the button on the page that lists all service workers. */
  async #stopAsUser() {
    const page = await this.#open(WORKERS);
    const press = `document.querySelectorAll(".serviceworker-registration").forEach((worker) => {
      if (worker.textContent.includes("${this.#origin}/")) worker.querySelector('[data-command="stop"]')?.click();
    })`;
    const former = await this.#worker();
    await until("the worker's end", async () => {
      await page.evaluate(press);
      return (await this.#worker())?.targetId !== former?.targetId;
    });
    await page.close();
  }

  /** In developer mode, without which the extension would not come back. */
  async #reloadAsUser() {
    const mode = "chrome.developerPrivate.updateProfileConfiguration({ inDeveloperMode: true })";
    await this.#manage(`${mode}.then(() => chrome.developerPrivate.reload("${this.#id}"))`);
  }

  async #disableAndEnable() {
    const set = (enabled) => `chrome.management.setEnabled("${this.#id}", ${enabled})`;
    await this.#manage(`${set(false)}.then(() => ${set(true)})`);
  }

  async #manage(expression) {
    const page = await this.#open(EXTENSIONS);
    await page.evaluate(expression);
    await page.close();
  }

  async #killWorkersProcess() {
    end(processesWith(this.#profile).find(({ command }) => command.includes("--extension-process")).pid);
  }
}

/** A page in a tab. */
class Page {
  #call;
  #targetId;

  constructor(call, targetId) {
    this.#call = call;
    this.#targetId = targetId;
  }

  async start(url, { width, height }) {
    const metrics = { width, height, deviceScaleFactor: 1, mobile: false };
    await this.#call("Emulation.setDeviceMetricsOverride", metrics);
    await this.#call("Page.navigate", { url });
    await until(`${url} to load`, () =>
      this.evaluate(`location.href === ${JSON.stringify(url)} && document.readyState === "complete"`),
    );
  }

  /** What an expression, or the promise that it gives, comes to in the page. */
  async evaluate(expression) {
    const how = { expression, awaitPromise: true, returnByValue: true, userGesture: true };
    const { result, exceptionDetails } = await this.#call("Runtime.evaluate", how);
    if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    return result.value;
  }

  /** `light` or `dark`. */
  async paint(theme) {
    const features = [
      { name: "prefers-color-scheme", value: theme },
      { name: "prefers-reduced-motion", value: "reduce" },
    ];
    await this.#call("Emulation.setEmulatedMedia", { features });
  }

  /** Presses and releases the key Tab, Enter or Space. */
  async press(key) {
    const [code, text] = { Tab: [9, ""], Enter: [13, "\r"], Space: [32, " "] }[key];
    const details = { key: text === " " ? " " : key, code: key, windowsVirtualKeyCode: code };
    await this.#call("Input.dispatchKeyEvent", { type: text ? "keyDown" : "rawKeyDown", text, ...details });
    await this.#call("Input.dispatchKeyEvent", { type: "keyUp", ...details });
  }

  /** A PNG of what is to be seen. */
  async picture() {
    const { data } = await this.#call("Page.captureScreenshot", { format: "png" });
    return Buffer.from(data, "base64");
  }

  async close() {
    await this.#call("Target.closeTarget", { targetId: this.#targetId });
  }
}
