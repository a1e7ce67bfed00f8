//! What does a server see that a million clients have lost when it comes back? The real session in virtual time, beside the
//! delays of other libraries.
//!
//! `model` is the simulation, `report` the table and the document, `plot` the picture. `benches/README.md` tells how to run
//! this and how to read it; `tests/it/fleet.rs` has the same of fewer clients among the tests.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables are what this program is for")]

mod model;
mod plot;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use model::client::{Advice, Bridges};
use model::{Outcome, Scenario, bars, policies};
use report::{Report, Row};

/// Handshakes a second of a server that loses a million.
const ACCEPTED: &[u32] = &[1000, 2000, 10_000];

/// For how many seconds it is away, if nothing else is said. Of another outage nothing must hold: the longer it is, the less
/// the first delays matter beside the longest.
const DOWN: u64 = 45;

/// The one of them that is drawn.
const DRAWN: u32 = 2000;

/// Simulates how a fleet comes back to a server that it has lost.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --bench fleet --")]
struct Options {
    /// How many lose the server; what it accepts is in proportion
    #[arg(long, value_name = "N", default_value = "1000000", value_parser = clap::value_parser!(u32).range(1000..))]
    clients: u32,
    /// Handshakes that the server would accept in a second if they were a million; absent: 1000, 2000 and 10000
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(300..))]
    accepted: Option<u32>,
    /// For how many seconds it is away
    #[arg(long, value_name = "SECONDS", default_value_t = DOWN, value_parser = clap::value_parser!(u64).range(..=1800))]
    down: u64,
    /// Twenty thousand clients: the same figures, more or less, in seconds
    #[arg(long, conflicts_with = "clients")]
    quick: bool,
    /// Print one JSON document, with the attempts of every second
    #[arg(long)]
    json: bool,
    /// Draw the attempts over time into this file, as SVG
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Cargo says this to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let clients = if options.quick { 20_000 } else { options.clients };
    let mut report = Report::new(clients, options.down);
    let mut broken = Vec::new();
    for &accepted in options.accepted.as_ref().map_or(ACCEPTED, std::slice::from_ref) {
        let scenario = Scenario::new(clients, accepted, Duration::from_secs(options.down));
        let others = policies::POLICIES.iter().map(|policy| {
            eprintln!("{accepted} accepted a second: {}", policy.name);
            (policy.name, model::run(&scenario, |number| policy.client(number)))
        });
        let others: Vec<(&str, Outcome)> = others.collect();
        let window = scenario.window();
        let advised = [
            (report::IN_GREETING, Advice::InGreeting(window)),
            (report::IN_CLOSE_REASON, Advice::InCloseReason(window)),
        ];
        for (name, advice) in advised {
            let outcome = sessions(&scenario, name, advice);
            broken.extend(bars::with_advice(&scenario, &outcome).err().map(|why| format!("{name}: {why}")));
            report.rows.push(Row { name, accepted, scenario, outcome });
        }
        let (name, outcome) = (report::NO_ADVICE, sessions(&scenario, report::NO_ADVICE, Advice::None));
        broken.extend(bars::without_advice(&scenario, &outcome, &others).err().map(|why| format!("{name}: {why}")));
        report.rows.push(Row { name, accepted, scenario, outcome });
        report.rows.extend(others.into_iter().map(|(name, outcome)| Row { name, accepted, scenario, outcome }));
    }
    if options.json {
        println!("{:#}", report.json());
    } else {
        print!("{}", report.tables());
    }
    if let Some(file) = &options.plot {
        let wanted = options.accepted.unwrap_or(DRAWN);
        let drawn = report.rows.iter().filter(|row| row.accepted == wanted);
        std::fs::write(file, plot::svg(drawn)).with_context(|| format!("cannot write {}", file.display()))?;
    }
    ensure!(broken.is_empty() || options.down != DOWN, "what must hold of the bridge does not:\n{}", broken.join("\n"));
    Ok(())
}

fn sessions(scenario: &Scenario, name: &str, advice: Advice) -> Outcome {
    eprintln!("{:.0} accepted a second: {name}", scenario.server.accepts);
    let bridges = Bridges::new(scenario.clients, advice);
    model::run(scenario, |number| bridges.client(number))
}
