// Whether the tests catch what they are there to catch: each slip of a list is made in a copy of the source, of which only
// one test is run. One that passes it has survived, and that is a failure; so is one whose place in the source is gone, and
// a copy that fails without any.
//
//     node tests/mutants/run.mjs histories [NAME...]     the generated histories of src/session/tests/world.rs
//     node tests/mutants/run.mjs torture [NAME...]       the torture test, tests/torture
//
// Without a name: all of the list.

import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import ofHistories from "./histories.mjs";
import ofTorture from "./torture.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const scratch = join(target, "mutants");
const histories = 1000;
const faults = 80;

function copySource() {
  rmSync(scratch, { recursive: true, force: true });
  const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], { cwd: root });
  for (const file of files.toString().split("\0").filter(Boolean)) {
    const place = join(scratch, file);
    mkdirSync(dirname(place), { recursive: true });
    cpSync(join(root, file), place);
  }
  nameApart();
}

/**
 * Gives the copy a version of its own. It shares the dependencies with the other tests, and Cargo, which knows a package
 * of a workspace by name and version, would take what was made of a mutant for what is made of the source.
 */
function nameApart() {
  const before = '\nname = "websocket-bridge"\nversion = "';
  for (const file of ["Cargo.toml", "Cargo.lock"]) {
    const place = join(scratch, file);
    const [head, tail, ...more] = readFileSync(place, "utf8").split(before);
    if (tail === undefined || more.length > 0) throw new Error(`${file} does not say the version as expected`);
    writeFileSync(place, head + before + tail.replace('"', '+mutant"'));
  }
}

/** Runs a command to its end; its output is text. */
function run(program, parameters, options) {
  const { status, stdout, stderr } = spawnSync(program, parameters, {
    encoding: "utf8",
    timeout: 300_000,
    maxBuffer: 256 * 1024 * 1024,
    ...options,
    env: { ...process.env, ...options.env },
  });
  return { status, stdout, stderr };
}

/** Runs the histories of the copy; says whether they pass, and if not, the first thing that was wrong. */
function runHistories() {
  const command = ["test", "--locked", "--all-features", "--lib", "whatever_happens"];
  const { status, stdout, stderr } = run("cargo", command, {
    cwd: scratch,
    // Dependencies are those of the other tests. The first failure is enough, and need not be made shorter.
    env: {
      CARGO_TARGET_DIR: target,
      PROPTEST_CASES: histories,
      PROPTEST_RNG_SEED: 1,
      PROPTEST_MAX_SHRINK_ITERS: 0,
      RUST_BACKTRACE: 0,
    },
  });
  if (status === 0 && /^test result: ok\. [1-9]/m.test(stdout)) return { passed: true };
  if (!/^test result: FAILED/m.test(stdout)) throw new Error(`the copy cannot be tested:\n${stdout}${stderr}`);
  return { passed: false, why: stdout.match(/ panicked at .*\n(.*)/)?.[1] ?? "" };
}

/** Builds a program with Cargo, and gives its path. */
function build(cwd, name, parameters) {
  const command = [...parameters, name, "--locked", "--all-features", "--message-format", "json"];
  const { status, stdout, stderr } = run("cargo", command, { cwd, env: { CARGO_TARGET_DIR: target } });
  if (status !== 0) throw new Error(`${cwd} cannot be built:\n${stderr}`);
  const artifacts = stdout.split("\n").filter((line) => line.includes('"executable":"')).map((line) => JSON.parse(line));
  return artifacts.find((artifact) => artifact.target.name === name).executable;
}

let tortureProgram;

/** Tortures the program that the copy gives; says the same. */
function runTorture({ only } = {}) {
  // The test itself has no slips.
  tortureProgram ??= build(root, "torture", ["test", "--no-run", "--test"]);
  const bridge = join(scratch, "bridge-under-test");
  cpSync(build(scratch, "websocket-bridge", ["build", "--bin"]), bridge);
  const chosen = only === undefined ? [] : ["--only", only.join(",")];
  const parameters = ["--faults", faults, "--seed", 1, ...chosen];
  const { status, stdout, stderr } = run(tortureProgram, parameters, {
    cwd: root,
    env: { WEBSOCKET_BRIDGE_BIN: bridge },
  });
  if (status === 0) return { passed: true };
  const wrong = stdout.match(/^WRONG in [^:]*: (.*)/m);
  if (!wrong) throw new Error(`the copy cannot be tested:\n${stdout}${stderr}`);
  const kept = stdout.match(/ are kept in (.*)$/m)?.[1];
  if (kept) rmSync(kept, { recursive: true, force: true });
  return { passed: false, why: wrong[1] };
}

const tests = {
  histories: { mutants: ofHistories, test: runHistories },
  torture: { mutants: ofTorture, test: runTorture },
};

function runMutated(test, mutant) {
  const { file, original, replacement } = mutant;
  const source = readFileSync(join(root, file), "utf8");
  const parts = source.split(original);
  if (parts.length !== 2) throw new Error(`its original stands ${parts.length - 1} times in ${file}, and must once`);
  writeFileSync(join(scratch, file), parts.join(replacement));
  try {
    return test(mutant);
  } finally {
    writeFileSync(join(scratch, file), source);
  }
}

function seconds(since) {
  return `${((Date.now() - since) / 1000).toFixed(1).padStart(5)} s`;
}

const [kind, ...names] = process.argv.slice(2);
if (!(kind in tests)) throw new Error(`say which test: ${Object.keys(tests).join(" or ")}`);
const { mutants, test } = tests[kind];
const chosen = mutants.filter(({ name }) => names.length === 0 || names.includes(name));
const failures = [];
copySource();
let began = Date.now();
const unmutated = test();
if (!unmutated.passed) throw new Error(`the source fails without any mutant: ${unmutated.why}`);
console.log(`${seconds(began)}  passed    the source as it is`);
for (const mutant of chosen) {
  began = Date.now();
  try {
    const { passed, why } = runMutated(test, mutant);
    if (passed) failures.push(`survived: ${mutant.name}: ${mutant.breaks}`);
    console.log(`${seconds(began)}  ${passed ? "SURVIVED" : "caught  "}  ${mutant.name}${passed ? "" : `: ${why}`}`);
  } catch (error) {
    failures.push(`${mutant.name}: ${error.message}`);
  }
}
for (const failure of failures) console.error(failure);
console.log(`mutants: ${chosen.length - failures.length} of ${chosen.length} caught by ${kind}`);
process.exitCode = failures.length === 0 && chosen.length > 0 ? 0 : 1;
