// Whether the model of the session catches what it is there to catch: each slip of mutants.mjs is made in a copy of the
// source, of which only the generated histories of src/session/tests/world.rs are run. One that passes them has survived,
// and that is a failure; so is one whose place in the source is gone, and a copy that fails without any.
//
//     node tests/mutants/run.mjs [NAME...]     without a name: all of them

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import mutants from "./mutants.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const scratch = join(target, "mutants");
const histories = 1000;

function copySource() {
  rmSync(scratch, { recursive: true, force: true });
  const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], { cwd: root });
  for (const file of files.toString().split("\0").filter(Boolean)) {
    const place = join(scratch, file);
    mkdirSync(dirname(place), { recursive: true });
    cpSync(join(root, file), place);
  }
}

/** Runs the histories of the copy; says whether they pass, and if not, the first thing that was wrong. */
function runHistories() {
  const command = ["test", "--locked", "--all-features", "--lib", "whatever_happens"];
  const { status, stdout, stderr } = spawnSync("cargo", command, {
    cwd: scratch,
    // Dependencies are those of the other tests. The first failure is enough, and need not be made shorter.
    env: {
      ...process.env,
      CARGO_TARGET_DIR: target,
      PROPTEST_CASES: histories,
      PROPTEST_RNG_SEED: 1,
      PROPTEST_MAX_SHRINK_ITERS: 0,
      RUST_BACKTRACE: 0,
    },
    encoding: "utf8",
    timeout: 180_000,
  });
  if (status === 0 && /^test result: ok\. [1-9]/m.test(stdout)) return { passed: true };
  if (!/^test result: FAILED/m.test(stdout)) throw new Error(`the copy cannot be tested:\n${stdout}${stderr}`);
  return { passed: false, why: stdout.match(/ panicked at .*\n(.*)/)?.[1] ?? "" };
}

function runMutated({ file, original, replacement }) {
  const source = readFileSync(join(root, file), "utf8");
  const parts = source.split(original);
  if (parts.length !== 2) throw new Error(`its original stands ${parts.length - 1} times in ${file}, and must once`);
  writeFileSync(join(scratch, file), parts.join(replacement));
  try {
    return runHistories();
  } finally {
    writeFileSync(join(scratch, file), source);
  }
}

function seconds(since) {
  return `${((Date.now() - since) / 1000).toFixed(1).padStart(5)} s`;
}

const names = process.argv.slice(2);
const chosen = mutants.filter(({ name }) => names.length === 0 || names.includes(name));
const failures = [];
copySource();
let began = Date.now();
const unmutated = runHistories();
if (!unmutated.passed) throw new Error(`the source fails without any mutant: ${unmutated.why}`);
console.log(`${seconds(began)}  passed    the source as it is`);
for (const mutant of chosen) {
  began = Date.now();
  try {
    const { passed, why } = runMutated(mutant);
    if (passed) failures.push(`survived: ${mutant.name}: ${mutant.breaks}`);
    console.log(`${seconds(began)}  ${passed ? "SURVIVED" : "caught  "}  ${mutant.name}${passed ? "" : `: ${why}`}`);
  } catch (error) {
    failures.push(`${mutant.name}: ${error.message}`);
  }
}
for (const failure of failures) console.error(failure);
console.log(`mutants: ${chosen.length - failures.length} of ${chosen.length} caught by the model`);
process.exitCode = failures.length === 0 && chosen.length > 0 ? 0 : 1;
