//! The torture test: what does the bridge lose, double or put out of order, while everything goes wrong that can?
//!
//!     cargo test --test torture -- --faults 1000 --seed 7
//!
//! A server and an extension of its own, with real hosts and a real daemon in between, keep a log of what they sent and
//! what they got, while hosts, daemon and server are killed or suspended, connections are lost or fall silent, nobody
//! reads or acknowledges, the disk is full and the clock jumps. The log is then judged by what `PROTOCOL.md` promises.
//!
//! To read in this order: `world` lets it happen, with faults of the kinds in `fault`, and now and then an `ambush` · `server` and `extension` (with its
//! `port`s) are the two ends, `machine` is what the bridge runs on, `numbered` what they say to each other · `log` is what
//! they saw, `reckoning` what follows from it.
//!
//! Every decision comes from the seed; what is decided at which moment does not, so the same seed is the same test, but
//! not the same run.

#![expect(clippy::print_stdout, reason = "tables are what this program is for")]

mod ambush;
mod extension;
mod fault;
#[path = "../../benches/relay/frames.rs"]
mod frames;
mod log;
mod machine;
mod numbered;
mod port;
mod reckoning;
mod server;
mod world;

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use fault::Kind;
use machine::Workshop;
use reckoning::Tally;
use world::Plan;

/// Faults in one world; then another one is made.
const FAULTS_OF_A_WORLD: u64 = 250;

/// Faults of a quick look, which `cargo test` without more is.
const QUICK: u64 = 40;

/// Faults of the long mode.
const LONG: u64 = 20_000;

/// How much of all that is wrong in a world is mentioned, and how much of that is shown with what came before.
const MENTIONED: usize = 20;
const SHOWN: usize = 3;

/// Lets everything go wrong that can, and counts what was lost, doubled and out of order.
#[derive(Debug, Clone, Parser)]
#[command(name = "cargo test --test torture --")]
struct Options {
    /// How many faults to make (default: `TORTURE_FAULTS`, or 40)
    #[arg(long, value_name = "N")]
    faults: Option<u64>,
    /// Make 20 000 faults, which takes hours
    #[arg(long, conflicts_with = "faults")]
    long: bool,
    /// Where all decisions come from (default: `TORTURE_SEED`, or another one each time)
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// How many worlds to have at once; each waits most of its time
    #[arg(long, value_name = "N", default_value_t = 8)]
    worlds: u64,
    /// Run this world alone, of those that there would be
    #[arg(long, value_name = "NUMBER")]
    world: Option<u64>,
    /// Make only these kinds of faults
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    only: Vec<Kind>,
    /// Make all kinds of faults but these
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = kind)]
    without: Vec<Kind>,
    /// This process may mount disks
    #[arg(long, hide = true)]
    may_mount: bool,
    /// What test runners ask: the names of the tests, of which there are none here
    #[arg(long, hide = true)]
    list: bool,
    #[arg(long, hide = true)]
    format: Option<String>,
    #[arg(long, hide = true)]
    ignored: bool,
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::named(name).ok_or_else(|| {
        let names: Vec<String> = Kind::all().map(|kind| kind.to_string()).collect();
        format!("the kinds are {}", names.join(", "))
    })
}

fn main() -> Result<ExitCode> {
    let options = Options::parse();
    if options.list {
        return Ok(ExitCode::SUCCESS);
    }
    let only = |kind: &Kind| options.only.is_empty() || options.only.contains(kind);
    let kinds: Vec<Kind> = Kind::all().filter(|kind| only(kind) && !options.without.contains(kind)).collect();
    ensure!(!kinds.is_empty(), "no kind of fault is left");
    let disks = kinds.contains(&Kind::DiskFilled);
    if disks && !options.may_mount {
        return Err(start_with_mounts());
    }
    torture(&options, &kinds, disks)
}

/// Starts this program again, where it may mount. Returns only if that is not possible.
fn start_with_mounts() -> anyhow::Error {
    let mut unshare = Command::new("unshare");
    unshare.args(["--user", "--map-root-user", "--mount", "--", "true"]);
    let why = match unshare.output() {
        Ok(output) if output.status.success() => {
            let mut unshare = Command::new("unshare");
            unshare.args(["--user", "--map-root-user", "--mount", "--"]);
            let program = std::env::current_exe().unwrap_or_default();
            unshare.arg(program).args(std::env::args_os().skip(1)).arg("--may-mount").exec().to_string()
        }
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    anyhow::anyhow!(
        "a disk that can be full needs a mount of its own, which `unshare` (of util-linux) does not get here: {why}. \
         Allow user namespaces, or say `--without {}` to go without faults of that kind",
        Kind::DiskFilled
    )
}

fn torture(options: &Options, kinds: &[Kind], disks: bool) -> Result<ExitCode> {
    let faults = match options.faults {
        Some(faults) => faults,
        None if options.long => LONG,
        None => number_in("TORTURE_FAULTS")?.unwrap_or(QUICK),
    };
    let seed = match options.seed {
        Some(seed) => seed,
        None => number_in("TORTURE_SEED")?.unwrap_or_else(|| fastrand::u64(..1_000_000)),
    };
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("torture-{}", std::process::id()));
    fs::create_dir_all(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
    let workshop = Workshop::new(&directory, disks)?;
    end_in_order_when_interrupted()?;
    let worlds = plans(options, faults, seed, kinds, &directory);
    println!("torture: seed {seed}, {faults} faults in {} worlds, of {}", worlds.len(), workshop.program.display());
    let left_out: Vec<String> = Kind::all().filter(|kind| !kinds.contains(kind)).map(|kind| kind.to_string()).collect();
    if !left_out.is_empty() {
        println!("NOT MADE, as was asked for: {}", left_out.join(", "));
    }

    let began = Instant::now();
    let (next, sum, wrong) = (AtomicU64::new(0), Mutex::new(Tally::default()), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..options.worlds.clamp(1, worlds.len() as u64) {
            scope.spawn(|| {
                while let Some(plan) = worlds.get(next.fetch_add(1, Ordering::Relaxed) as usize) {
                    if INTERRUPTED.load(Ordering::Relaxed) {
                        return;
                    }
                    wrong.fetch_add(run_world(plan, &workshop, &sum), Ordering::Relaxed);
                }
            });
        }
    });
    let wrong = wrong.into_inner();
    print!("{}", sum.into_inner().expect("no thread panics with it").table());
    println!("torture: seed {seed}, {:.0} s, {wrong} wrong", began.elapsed().as_secs_f64());
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    if wrong == 0 {
        fs::remove_dir_all(&directory).with_context(|| format!("cannot remove {}", directory.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    println!("logs and homes are kept in {}", directory.display());
    Ok(ExitCode::FAILURE)
}

/// The worlds that there are to be.
fn plans(options: &Options, faults: u64, seed: u64, kinds: &[Kind], directory: &Path) -> Vec<Plan> {
    let worlds = faults.div_ceil(FAULTS_OF_A_WORLD).max(options.worlds.min(faults)).max(1);
    let plan = |number: u64| Plan {
        number,
        seed,
        faults: faults / worlds + u64::from(number < faults % worlds),
        kinds: kinds.to_vec(),
        directory: directory.join(format!("world-{number}")),
    };
    (0..worlds).filter(|number| options.world.is_none_or(|only| only == *number)).map(plan).collect()
}

/// Runs one world and shows what is wrong in it; returns how much that is.
fn run_world(plan: &Plan, workshop: &Workshop, sum: &Mutex<Tally>) -> u64 {
    let outcome = match world::run(plan, workshop.clone(), &INTERRUPTED) {
        Ok(outcome) => outcome,
        Err(error) => {
            println!("seed {}, world {}: {error:#}", plan.seed, plan.number);
            return 1;
        }
    };
    let mut sum = sum.lock().expect("no thread panics with it");
    *sum += &outcome.reckoning.tally;
    let findings = &outcome.reckoning.findings;
    for (index, finding) in findings.iter().take(MENTIONED).enumerate() {
        println!("WRONG in seed {}, world {}: {}", plan.seed, plan.number, finding.summary());
        if index < SHOWN {
            println!("{}", finding.evidence(&outcome.log));
        }
    }
    if findings.len() > MENTIONED {
        println!("and {} more in world {}", findings.len() - MENTIONED, plan.number);
    }
    outcome.reckoning.findings.len() as u64
}

fn number_in(variable: &str) -> Result<Option<u64>> {
    let Some(value) = std::env::var_os(variable) else { return Ok(None) };
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.map(Some).with_context(|| format!("{variable} is {value:?}, which is no number"))
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets a signal end the worlds with all their processes, and not just this one.
fn end_in_order_when_interrupted() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    thread::spawn(move || {
        runtime.block_on(async {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}
