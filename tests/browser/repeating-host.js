// Owns a native messaging host that does nothing but repeat: asked for `{ message, times }` it writes that message so
// many times, each as one native message, as fast as the browser takes them. No host can be faster without batches.

import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { endianness } from "node:os";
import { join } from "node:path";

/** What the extension calls it. */
export const REPEATING_HOST = "com.semantest.repeating";

/** Writes the host into `directory`, and a manifest for it to where the browser looks. */
export function installRepeatingHost(directory, Browser, { profile, environment }) {
  const path = join(directory, "repeating-host.cjs");
  writeFileSync(path, `#!${process.execPath}\n(${host})("${endianness()}");\n`);
  chmodSync(path, 0o755);
  const manifests = Browser.manifests(profile, environment.HOME);
  const manifest = { name: REPEATING_HOST, description: "Repeats", path, type: "stdio", ...Browser.allowsItself };
  mkdirSync(manifests, { recursive: true });
  writeFileSync(join(manifests, `${REPEATING_HOST}.json`), JSON.stringify(manifest));
}

/** The program: its text is written to a file. */
function host(byteOrder) {
  let input = Buffer.alloc(0);
  process.stdin.on("data", (piece) => {
    input = Buffer.concat([input, piece]);
    if (input.length < 4 || input.length < 4 + length()) return;
    const { message, times } = JSON.parse(input.subarray(4, 4 + length()));
    const body = Buffer.from(JSON.stringify(message));
    const frame = Buffer.concat([Buffer.alloc(4), body]);
    frame[`writeUInt32${byteOrder}`](body.length);
    process.stdout.write(Buffer.concat(Array(times).fill(frame)));
  });
  const length = () => input[`readUInt32${byteOrder}`]();
}
