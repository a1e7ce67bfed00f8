//! What came out, as tables in Markdown and as a JSON document.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Value, json};

use crate::model::{Outcome, Scenario};

/// What the bridge is called, by what its server has said.
pub(crate) const IN_GREETING: &str = "**bridge**, window in the greeting";
pub(crate) const IN_CLOSE_REASON: &str = "**bridge**, window in the close reason";
pub(crate) const NO_ADVICE: &str = "**bridge**, defaults";

/// One fleet and what became of it.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// Handshakes a second, if the fleet were a million.
    pub(crate) accepted: u32,
    pub(crate) scenario: Scenario,
    pub(crate) outcome: Outcome,
}

pub(crate) struct Report {
    clients: u32,
    down: u64,
    pub(crate) rows: Vec<Row>,
}

impl Report {
    pub(crate) fn new(clients: u32, down: u64) -> Self {
        Self { clients, down, rows: Vec::new() }
    }

    pub(crate) fn json(&self) -> Value {
        let rows = self.rows.iter().map(|Row { name, accepted, scenario, outcome }| {
            let seconds = |share| outcome.back_at(share).map(|back| back.as_secs_f64());
            json!({
                "client": name.replace('*', ""), "accepted_of_a_million": accepted, "accepted": scenario.server.accepts,
                "peak": outcome.peak(Duration::ZERO, scenario.server.accepts),
                "peak_once_it_is_back": outcome.peak(scenario.server.down, scenario.server.accepts),
                "attempts": outcome.mean_attempts(), "most_attempts": outcome.most_attempts(),
                "attempts_for_each_back": Some(outcome.attempts_for_each_back()).filter(|attempts| attempts.is_finite()),
                "half_back_s": seconds(0.5), "back_99_s": seconds(0.99), "all_back_s": seconds(1.0),
                "given_up": outcome.given_up(), "attempts_in_each_second": outcome.per_second(),
            })
        });
        json!({
            "version": env!("CARGO_PKG_VERSION"), "clients": self.clients, "down_s": self.down,
            "rows": rows.collect::<Vec<_>>(),
        })
    }

    pub(crate) fn tables(&self) -> String {
        let mut out = format!(
            "websocket-bridge {}: {} clients lose a server that comes back after {} s\n",
            env!("CARGO_PKG_VERSION"),
            self.clients,
            self.down
        );
        for rows in self.rows.chunk_by(|one, other| one.accepted == other.accepted) {
            let server = rows[0].scenario.server;
            let _ = write!(out, "\n### {} accepted in a second\n\n", server.accepts);
            out.push_str(
                "| client | peak/s | × accepted | once it is back | attempts | at most | 50 % back | 99 % | all |\n",
            );
            let _ = writeln!(out, "|---|{}", "---:|".repeat(8));
            rows.iter().for_each(|row| row.put(&mut out));
        }
        out
    }
}

impl Row {
    fn put(&self, out: &mut String) {
        let Self { name, outcome, .. } = self;
        let accepts = self.scenario.server.accepts;
        let peak = outcome.peak(Duration::ZERO, accepts);
        let times = |peak: f64| {
            if peak < 10.0 * accepts { format!("{:.2}", peak / accepts) } else { format!("{:.0}", peak / accepts) }
        };
        let back =
            |share| outcome.back_at(share).map_or_else(|| "–".into(), |back| format!("{:.0} s", back.as_secs_f64()));
        let all = match outcome.given_up() {
            0.0 => back(1.0),
            given_up => format!("{:.0} % give up", given_up * 100.0),
        };
        let _ = writeln!(
            out,
            "| {name} | {peak:.0} | {} | {} | {:.1} | {} | {} | {} | {all} |",
            times(peak),
            times(outcome.peak(self.scenario.server.down, accepts)),
            outcome.mean_attempts(),
            outcome.most_attempts(),
            back(0.5),
            back(0.99),
        );
    }
}
