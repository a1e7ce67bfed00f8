// Owns how the one source becomes an extension for each browser: `node build.mjs [DIRECTORY]` writes the folders
// `chromium` and `firefox` there (`dist`, if none is named), ready to be loaded unpacked or zipped.

import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const SOURCE = fileURLToPath(new URL(".", import.meta.url));
const CLIENT = fileURLToPath(new URL("../client", import.meta.url));

/** What a manifest has for one browser alone. The ids stay the same wherever the folders lie: `install` needs them. */
const BROWSERS = {
  chromium: {
    background: { service_worker: "worker.js", type: "module" },
    minimum_chrome_version: "116",
    // Makes the id ehhdbiflffdejplebaoefbjbjehecmek. Nobody has the private half.
    key:
      "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA0JiXMXPNMu8eX2SsslHCcX9CrWTOn6DM81lcj8oyJ2lVH9Q2QVzQFCQuDqEwLWWa" +
      "8SD60zG5QgBBfBRgYsPY6MUOeACMFgiRdA9OxlzwfrD6URXjEMjm1s59p32FU82uSUKaEaosguPOknHmAOdRCjG+I2c7kAGAzTObDrE8pOt2" +
      "E+UVRityfdcD8mgRX0A8fpWBirrhrxVMRcx23QVGmgOXARdEoGLQfyi4H/cF26ihMzbGcgWoDkODRQR1ajpMskFfG3DImVVLV5hADg8eys1x" +
      "qaXnpF0/6ye20tLVptpcRlNhh95JEWVVCM3s9vWycCgwtI5GQ9rkRPFw6aYdjQIDAQAB",
  },
  firefox: {
    background: { scripts: ["worker.js"], type: "module" },
    browser_specific_settings: { gecko: { id: "task-tracker@semantest.com", strict_min_version: "121.0" } },
  },
};

const target = process.argv[2] ?? join(SOURCE, "dist");
const manifest = JSON.parse(readFileSync(join(SOURCE, "manifest.json"), "utf8"));
for (const [browser, own] of Object.entries(BROWSERS)) {
  const directory = join(target, browser);
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(directory, { recursive: true });
  copy(SOURCE, directory, /\.(css|html|js)$/);
  copy(join(SOURCE, "icons"), join(directory, "icons"), /\.png$/);
  copy(CLIENT, join(directory, "client"), /\.js$/);
  writeFileSync(join(directory, "manifest.json"), `${JSON.stringify({ ...manifest, ...own }, null, 2)}\n`);
  console.log(directory);
}

function copy(from, to, which) {
  const names = readdirSync(from).filter((name) => which.test(name));
  for (const name of names) cpSync(join(from, name), join(to, name));
}
