//! What all measurements mean together: medians, and ratios of what was measured side by side.
//!
//! Owns: the names of cases, the tables and the JSON document.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};

use crate::measure::{CPU, DAEMON_PEAK, Figures, HOST_PEAK, P50, P99, RATE, THROUGHPUT, Task, Way};

/// One thing that was measured, in turn.
pub(crate) struct Case {
    pub(crate) task: Task,
    pub(crate) pinned: bool,
    /// Of each round: the reference, and the bridge.
    pub(crate) rounds: Vec<(Figures, Figures)>,
}

pub(crate) struct Report {
    reference: &'static str,
    rounds: usize,
    /// The CPU to which everything but the first round trips was pinned, or why it was not.
    pub(crate) pinned: Result<u32>,
    pub(crate) cases: Vec<Case>,
}

/// What a task is called.
pub(crate) fn name(task: Task) -> String {
    let way = match task.way {
        Way::RoundTrip => "round trip",
        Way::ToExtension => "to the extension",
        Way::ToServer => "to the server",
    };
    format!("{way}, {}", message(task))
}

fn message(task: Task) -> String {
    let size = if task.size < 1000 { format!("{} B", task.size) } else { format!("{} kB", task.size / 1000) };
    let batch = if task.batch { ", `batch`" } else { "" };
    let write = if task.one_a_write { ", one a write" } else { "" };
    size + batch + write
}

impl Report {
    pub(crate) fn new(against_another_build: bool, rounds: usize) -> Self {
        let reference = if against_another_build { "other build" } else { "plain relay" };
        Self { reference, rounds, pinned: Ok(0), cases: Vec::new() }
    }

    /// Everything, with the figures of each round.
    pub(crate) fn json(&self) -> Value {
        let cases = self.cases.iter().map(|case| {
            let (reference, bridge): (Vec<_>, Vec<_>) = case.rounds.iter().cloned().unzip();
            let names = bridge.first().into_iter().flat_map(Figures::keys);
            let ratios: Figures = names.filter_map(|name| Some((*name, case.ratio(name)?))).collect();
            json!({
                "case": name(case.task), "pinned": case.pinned, "median_of_ratios": ratios,
                "reference": reference, "bridge": bridge,
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"), "reference": self.reference, "rounds": self.rounds,
            "pinned_to_cpu": self.pinned.as_ref().ok(), "cases": cases.collect::<Vec<_>>(),
        })
    }

    /// Tables in Markdown.
    pub(crate) fn tables(&self) -> String {
        let mut out = format!(
            "websocket-bridge {} beside the {}: medians of {} rounds in turn, {}\n",
            env!("CARGO_PKG_VERSION"),
            self.reference,
            self.rounds,
            if self.pinned.is_ok() { "all on one CPU" } else { "not pinned to a CPU" },
        );
        let streams = ["messages/s", "MB/s", "CPU ns a message"];
        let sections = [
            ("Round trip, one message at a time", Way::RoundTrip, ["p50 µs", "p99 µs", "CPU µs"]),
            ("To the extension", Way::ToExtension, streams),
            ("To the server", Way::ToServer, streams),
        ];
        for (title, way, columns) in sections {
            let mut cases = self.cases.iter().filter(|case| case.task.way == way).peekable();
            if cases.peek().is_some() {
                let [first, second, third] =
                    columns.map(|column| format!("{column}: {} | bridge | ratio", self.reference));
                let _ =
                    write!(out, "\n{title}\n\n| message | {first} | {second} | {third} | peak MB: host + daemon |\n");
                let _ = writeln!(out, "|---|{}", "---:|".repeat(10));
                cases.for_each(|case| case.put_row(&mut out));
            }
        }
        out
    }
}

impl Case {
    fn put_row(&self, out: &mut String) {
        let columns = match self.task.way {
            Way::RoundTrip => [(P50, 1.0), (P99, 1.0), (CPU, 1000.0)],
            Way::ToExtension | Way::ToServer => [(RATE, 1.0), (THROUGHPUT, 1.0), (CPU, 1.0)],
        };
        let pinned = if self.pinned { "" } else { ", not pinned" };
        let _ = write!(out, "| {}{pinned} |", message(self.task));
        for (name, unit) in columns {
            let absolute = |value: Option<f64>| value.map_or_else(|| "–".into(), |value| shown(value / unit));
            let ratio = self.ratio(name).map_or_else(|| "–".into(), |ratio| format!("**{}**", times(ratio)));
            let (reference, bridge) = (self.median(|round| &round.0, name), self.median(|round| &round.1, name));
            let _ = write!(out, " {} | {} | {ratio} |", absolute(reference), absolute(bridge));
        }
        let peak = |name| self.median(|round| &round.1, name).map_or_else(|| "–".into(), |peak| format!("{peak:.1}"));
        let _ = writeln!(out, " {} + {} |", peak(HOST_PEAK), peak(DAEMON_PEAK));
    }

    fn median(&self, of: impl Fn(&(Figures, Figures)) -> &Figures, name: &str) -> Option<f64> {
        median(self.rounds.iter().filter_map(|round| of(round).get(name).copied()).collect())
    }

    /// How much more the bridge has, as the median over the rounds.
    fn ratio(&self, name: &str) -> Option<f64> {
        let ratios =
            self.rounds.iter().filter_map(|(reference, bridge)| Some(bridge.get(name)? / reference.get(name)?));
        median(ratios.collect())
    }
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.get(values.len() / 2)?;
    Some(if values.len() % 2 == 1 { *middle } else { (values[values.len() / 2 - 1] + middle) / 2.0 })
}

/// A ratio, with no more digits than it has when it is measured again.
fn times(ratio: f64) -> String {
    match ratio {
        _ if ratio >= 10.0 => format!("{ratio:.0}"),
        _ if ratio >= 1.0 => format!("{ratio:.1}"),
        _ if ratio >= 0.1 => format!("{ratio:.2}"),
        _ => format!("{ratio:.3}"),
    }
}

/// A figure, in the same way.
fn shown(value: f64) -> String {
    match value {
        _ if value >= 1e6 => format!("{:.1} M", value / 1e6),
        _ if value >= 1e4 => format!("{:.0} k", value / 1e3),
        _ if value >= 100.0 => format!("{value:.0}"),
        _ => format!("{value:.1}"),
    }
}
