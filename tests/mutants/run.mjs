// Whether the tests catch what they are there to catch: each slip of a list is made in a copy of the source, of which only
// one test is run. One that passes it has survived, and that is a failure; so is one whose place in the source is gone, and
// a copy that fails without any.
//
//     node tests/mutants/run.mjs histories [NAME...]     the generated histories of src/session/tests/world.rs and replay.rs
//     node tests/mutants/run.mjs torture [NAME...]       the torture test, tests/torture
//
// Without a name: all of the list.

import { execFileSync, spawn } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import ofHistories from "./histories.mjs";
import ofTorture from "./torture.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const target = process.env.CARGO_TARGET_DIR ?? join(root, "target");
const scratch = join(target, "mutants");
const programs = join(scratch, "programs");
const histories = 1000;
const faults = 80;
/** What is decided at which moment does not come from the seed, so a mutant has more than one chance to be seen. */
const tortureSeeds = [1, 2, 3, 4];

function copySource(modules) {
  rmSync(scratch, { recursive: true, force: true });
  const files = execFileSync("git", ["ls-files", "--cached", "--others", "--exclude-standard", "-z"], { cwd: root });
  for (const file of files.toString().split("\0").filter(Boolean)) {
    const place = join(scratch, file);
    mkdirSync(dirname(place), { recursive: true });
    cpSync(join(root, file), place);
  }
  if (modules) writeFileSync(join(scratch, "src/lib.rs"), modules.map((name) => `pub mod ${name};\n`).join(""));
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
function run(program, parameters, { cwd, env }) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, parameters, {
      cwd,
      env: { ...process.env, ...env },
      stdio: ["ignore", "pipe", "pipe"],
      timeout: 300_000,
    });
    const output = { stdout: "", stderr: "" };
    for (const stream of Object.keys(output)) {
      child[stream].setEncoding("utf8").on("data", (text) => (output[stream] += text));
    }
    child.on("error", reject);
    child.on("close", (status) => resolve({ status, ...output }));
  });
}

/** Builds a program with Cargo, and gives its path. */
async function build(cwd, name, parameters) {
  const command = [...parameters, "--locked", "--all-features", "--message-format", "json"];
  // Dependencies are those of the other tests. Nobody looks at what is built here with a debugger.
  const env = { CARGO_TARGET_DIR: target, CARGO_PROFILE_DEV_DEBUG: "false" };
  const { status, stdout, stderr } = await run("cargo", command, { cwd, env });
  if (status !== 0) throw new Error(`${cwd} cannot be built:\n${stderr}`);
  const artifacts = stdout
    .split("\n")
    .filter((line) => line.includes('"executable":"'))
    .map((line) => JSON.parse(line));
  return artifacts.find((artifact) => artifact.target.name === name).executable;
}

/** Runs the histories of a copy, or those of one file; says whether they pass, and if not, the first thing that was wrong. */
async function runHistories(program, { by = "" }) {
  const { status, stdout, stderr } = await run(program, [`${by}::whatever_happens`], {
    cwd: scratch,
    // The first failure is enough, and need not be made shorter.
    env: { PROPTEST_CASES: histories, PROPTEST_RNG_SEED: 1, PROPTEST_MAX_SHRINK_ITERS: 0, RUST_BACKTRACE: 0 },
  });
  if (status === 0 && /^test result: ok\. [1-9]/m.test(stdout)) return { passed: true };
  if (!/^test result: FAILED/m.test(stdout)) throw new Error(`the copy cannot be tested:\n${stdout}${stderr}`);
  return { passed: false, why: stdout.match(/ panicked at .*\n(.*)/)?.[1] ?? "" };
}

let tortureProgram;

/** Tortures a program; says the same. */
async function runTorture(bridge, { only, seeds = [1] }) {
  // The test itself has no slips.
  const test = await (tortureProgram ??= build(root, "torture", ["test", "--no-run", "--test", "torture"]));
  for (const seed of seeds) {
    const chosen = only === undefined ? [] : ["--only", only.join(",")];
    const parameters = ["--faults", faults, "--seed", seed, ...chosen];
    const { status, stdout, stderr } = await run(test, parameters, {
      cwd: root,
      env: { WEBSOCKET_BRIDGE_BIN: bridge },
    });
    if (status === 0) continue;
    const wrong = stdout.match(/^WRONG in [^:]*: (.*)/m);
    if (!wrong) throw new Error(`the copy cannot be tested:\n${stdout}${stderr}`);
    const kept = stdout.match(/ are kept in (.*)$/m)?.[1];
    if (kept) rmSync(kept, { recursive: true, force: true });
    return { passed: false, why: wrong[1] };
  }
  return { passed: true };
}

const tests = {
  histories: {
    mutants: ofHistories.map((mutant) => ({ by: "world", ...mutant })),
    // The session and what it knows; the rest of the library would be compiled for nothing, once for each mutant.
    modules: ["session", "settings", "wire"],
    build: () => build(scratch, "websocket_bridge", ["test", "--no-run", "--lib"]),
    run: runHistories,
    atOnce: 2,
  },
  // It mostly waits.
  torture: {
    mutants: ofTorture.map((mutant) => ({ ...mutant, seeds: tortureSeeds })),
    build: () => build(scratch, "websocket-bridge", ["build", "--bin", "websocket-bridge"]),
    run: runTorture,
    atOnce: 4,
  },
};

let builds = 0;

/** Builds the program that the copy gives with this mutant, which is kept from the next build. */
async function buildMutated(test, { file, original, replacement }) {
  const source = readFileSync(join(root, file), "utf8");
  const parts = source.split(original);
  if (parts.length !== 2) throw new Error(`its original stands ${parts.length - 1} times in ${file}, and must once`);
  writeFileSync(join(scratch, file), parts.join(replacement));
  try {
    return keep(await test.build());
  } finally {
    writeFileSync(join(scratch, file), source);
  }
}

function keep(program) {
  mkdirSync(programs, { recursive: true });
  const kept = join(programs, String((builds += 1)));
  cpSync(program, kept);
  return kept;
}

function seconds(since) {
  return `${((Date.now() - since) / 1000).toFixed(1).padStart(5)} s`;
}

const [kind, ...names] = process.argv.slice(2);
if (!(kind in tests)) throw new Error(`say which test: ${Object.keys(tests).join(" or ")}`);
const test = tests[kind];
const chosen = test.mutants.filter(({ name }) => names.length === 0 || names.includes(name));
const failures = [];
const running = new Set();

/** Runs a program while the next one is built, as soon as few enough others run. */
async function begin(program, mutant, judge) {
  while (running.size >= test.atOnce) await Promise.race(running);
  const began = Date.now();
  const ended = test
    .run(program, mutant)
    .then((verdict) => judge(verdict, seconds(began)))
    .catch((error) => failures.push(`${mutant.name}: ${error.message}`))
    .finally(() => {
      rmSync(program);
      running.delete(ended);
    });
  running.add(ended);
}

copySource(test.modules);
await begin(keep(await test.build()), { name: "the source as it is" }, ({ passed, why }, time) => {
  if (!passed) failures.push(`the source fails without any mutant: ${why}`);
  console.log(`${time}  ${passed ? "passed  " : "FAILED  "}  the source as it is`);
});
for (const mutant of chosen) {
  try {
    await begin(await buildMutated(test, mutant), mutant, ({ passed, why }, time) => {
      if (passed) failures.push(`survived: ${mutant.name}: ${mutant.breaks}`);
      console.log(`${time}  ${passed ? "SURVIVED" : "caught  "}  ${mutant.name}${passed ? "" : `: ${why}`}`);
    });
  } catch (error) {
    failures.push(`${mutant.name}: ${error.message}`);
  }
}
await Promise.all(running);
for (const failure of failures) console.error(failure);
console.log(`mutants: ${chosen.length - failures.length} of ${chosen.length} caught by ${kind}`);
process.exitCode = failures.length === 0 && chosen.length > 0 ? 0 : 1;
