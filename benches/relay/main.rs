//! How fast is the bridge? Round trips and throughput through host and daemon, beside a plain relay that parses nothing,
//! keeps nothing and guarantees nothing: the limit.
//!
//! `contender` starts what is measured, `server` is its other end, `measure` does one measurement, `report` says what they
//! mean together. `plain` is the limit itself, started as this same program; `frames` and `flow` are shared.
//! `benches/README.md` tells how to run this and how to read it.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables are what this program is for")]

mod contender;
mod flow;
mod frames;
mod measure;
mod plain;
mod report;
mod server;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser;

use contender::Contender;
use measure::{Figures, Task, Times, Way};
use report::{Case, Report};

/// Measures the bridge beside a plain relay, in turn, and prints ratios.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench relay --")]
struct Options {
    /// One short round, to see that everything works; the figures mean little
    #[arg(long)]
    quick: bool,
    /// Print one JSON document, with every single figure
    #[arg(long)]
    json: bool,
    /// Rounds, in each of which both are measured
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Measure only cases whose name contains this, such as "to the server"
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Compare with another build of the bridge, not with the plain relay
    #[arg(long, value_name = "PROGRAM")]
    against: Option<PathBuf>,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    /// Be the plain relay, for the server at this address
    #[arg(long, hide = true, value_name = "ADDRESS")]
    plain_relay: Option<String>,
}

fn main() -> Result<()> {
    let options = Options::parse();
    match &options.plain_relay {
        Some(address) => Ok(plain::run(address)?),
        None => compare(&options),
    }
}

fn compare(options: &Options) -> Result<()> {
    end_in_order_when_interrupted()?;
    let milliseconds = |warm_up, measured| Times {
        warm_up: Duration::from_millis(warm_up),
        measured: Duration::from_millis(measured),
    };
    let (times, rounds) = if options.quick { (milliseconds(30, 100), 1) } else { (milliseconds(150, 350), 7) };
    let rounds = options.rounds.unwrap_or(rounds);
    ensure!(rounds > 0, "at least one round is needed");
    let mut report = Report::new(options.against.is_some(), rounds);
    let wanted = |task: &&Task| report::name(**task).contains(&options.only);
    // First without pinning: there is no way back.
    for task in ROUND_TRIPS.iter().filter(wanted) {
        report.cases.push(Case { pinned: false, ..in_turn(*task, options, rounds, times)? });
    }
    report.pinned = pin();
    if let Err(why) = &report.pinned {
        eprintln!("not pinned to one CPU, so that ratios vary more: {why:#}");
    }
    for task in ROUND_TRIPS.iter().chain(STREAMS).filter(wanted) {
        let pinned = report.pinned.is_ok();
        if pinned || task.way != Way::RoundTrip {
            report.cases.push(Case { pinned, ..in_turn(*task, options, rounds, times)? });
        }
    }
    ensure!(!report.cases.is_empty(), "no case is named like {:?}", options.only);
    if options.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.tables());
    }
    Ok(())
}

const ROUND_TRIPS: &[Task] = &[Task::new(Way::RoundTrip, 100), Task::new(Way::RoundTrip, 10_000)];

const STREAMS: &[Task] = &[
    Task::new(Way::ToExtension, 100),
    Task::new(Way::ToExtension, 100).batch(),
    Task::new(Way::ToExtension, 100).one_a_write(),
    Task::new(Way::ToExtension, 1000),
    Task::new(Way::ToExtension, 1000).batch(),
    Task::new(Way::ToExtension, 64_000),
    Task::new(Way::ToExtension, 64_000).batch(),
    Task::new(Way::ToServer, 100),
    Task::new(Way::ToServer, 100).one_a_write(),
    Task::new(Way::ToServer, 1000),
    Task::new(Way::ToServer, 64_000),
];

/// Measures the reference and the bridge in turn, so that both have the same share of what else the machine does.
fn in_turn(task: Task, options: &Options, rounds: usize, times: Times) -> Result<Case> {
    let name = report::name(task);
    eprintln!("{name}");
    let program = std::env::var_os("WEBSOCKET_BRIDGE_BIN").map(PathBuf::from);
    let program = program.unwrap_or_else(|| env!("CARGO_BIN_EXE_websocket-bridge").into());
    let bridge = Contender::Bridge { program, batch: task.batch };
    let reference = match &options.against {
        Some(program) => Contender::Bridge { program: program.clone(), batch: task.batch },
        None => Contender::Plain,
    };
    let one = |contender: &Contender| -> Result<Figures> {
        let figures = task.measure(contender, times).with_context(|| format!("{name}, {contender:?}"));
        ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
        figures
    };
    let rounds = (0..rounds).map(|_| Ok((one(&reference)?, one(&bridge)?)));
    Ok(Case { task, pinned: true, rounds: rounds.collect::<Result<_>>()? })
}

/// Pins this process, and whatever it starts from now on, to the last CPU that it may use, and gives its number. Waking
/// another CPU costs more than all that is measured here, above all on virtual machines.
fn pin() -> Result<u32> {
    let status =
        std::fs::read_to_string("/proc/self/status").context("the system does not tell which CPUs there are")?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let last = allowed.and_then(|list| list.trim().rsplit([',', '-']).next()?.parse().ok());
    let last: u32 = last.context("the system does not tell which CPUs may be used")?;
    let mut taskset = Command::new("taskset");
    taskset.args(["--all-tasks", "--cpu-list", "--pid", &last.to_string(), &std::process::id().to_string()]);
    let done = taskset.stdout(Stdio::null()).status().context("cannot run taskset (of util-linux)")?;
    if !done.success() {
        bail!("taskset failed: {done}");
    }
    Ok(last)
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Lets Ctrl-C end the measurement that runs, with its daemon, and not just this process.
fn end_in_order_when_interrupted() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            while tokio::signal::ctrl_c().await.is_ok() {
                INTERRUPTED.store(true, Ordering::Relaxed);
            }
        });
    });
    Ok(())
}
