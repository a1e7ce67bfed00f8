//! How a daemon's status looks to a person.
//!
//! Owns: words and columns, all of them pure text. Whatever came from servers or extensions is made harmless first.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::time::Duration;

use serde_json::Value;

use crate::log::harmless;

/// The daemon and all its sessions. With `rates` each session also has what came and went in a second.
#[must_use]
pub fn overview(status: &Value, rates: Option<&Rates>) -> String {
    let mut text = String::new();
    let daemon = &status["daemon"];
    let _ = writeln!(
        text,
        "daemon {} (process {}), up {}, {}, ports {}",
        word(&daemon["version"]),
        word(&daemon["pid"]),
        span(daemon["uptime_ms"].as_u64().unwrap_or(0)),
        size(daemon["memory_bytes"].as_u64().unwrap_or(0)),
        word(&daemon["links"])
    );
    for session in all(status) {
        let _ = writeln!(text, "\n{}  {}  {}", word(&session["session"]), state(session), word(&session["url"]));
        let profile = session["profile"].as_str().filter(|profile| !profile.is_empty());
        let profile = profile.map(|profile| format!("  profile {}", harmless(profile))).unwrap_or_default();
        let _ = writeln!(text, "  extension  {}{profile}  {}", word(&session["origin"]), word(&session["mode"]));
        let _ = writeln!(
            text,
            "  health     {}  latency {}  reconnections {}",
            word(&session["health"]),
            latency(session),
            word(&session["reconnections"])
        );
        for (title, count, kept, rate) in [
            ("received", "messages_received", &session["inbox"], rates.map(|rates| rates.of(session).received)),
            ("sent", "messages_sent", &session["outbox"], rates.map(|rates| rates.of(session).sent)),
        ] {
            let rate = rate.map(|rate| format!("  {rate:.0}/s")).unwrap_or_default();
            let waiting = size(kept["bytes"].as_u64().unwrap_or(0));
            let _ = writeln!(
                text,
                "  {title:9}  {}{rate}  waiting {} ({waiting})",
                word(&session[count]),
                word(&kept["messages"])
            );
        }
        if let Some(duplicates) = session["duplicates"].as_u64().filter(|duplicates| *duplicates > 0) {
            let _ = writeln!(text, "  repeated   {duplicates} that came before, and were left out");
        }
        if session["can_store"] == false {
            let _ = writeln!(text, "  disk       full or failing: nothing is stored");
        }
        if let Some(reason) = session["reason"]["message"].as_str() {
            let _ = writeln!(text, "  reason     {}", harmless(reason));
        }
    }
    text
}

/// One line for each session, below a line of titles; without any, a sentence.
#[must_use]
pub fn sessions(status: &Value) -> String {
    let titles = ["SESSION", "STATE", "WAITING", "TO SEND", "LATENCY", "EXTENSION", "PROFILE", "SERVER"];
    let mut rows = vec![titles.map(str::to_owned)];
    rows.extend(all(status).map(|session| {
        [
            word(&session["session"]),
            state(session),
            word(&session["inbox"]["messages"]),
            word(&session["outbox"]["messages"]),
            latency(session),
            word(&session["origin"]),
            word(&session["profile"]),
            word(&session["url"]),
        ]
    }));
    if rows.len() == 1 {
        return "no sessions\n".to_owned();
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |row: &[String; 8]| {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// How much came and went in each second between two looks.
#[derive(Debug, Default)]
pub struct Rates(HashMap<String, Rate>);

/// Messages in a second.
#[derive(Debug, Default, Clone, Copy)]
struct Rate {
    received: f64,
    sent: f64,
}

impl Rates {
    /// What happened from one status to the next.
    #[must_use]
    pub fn between(before: &Value, after: &Value, time: Duration) -> Self {
        let before: HashMap<String, &Value> = all(before).map(|session| (key(session), session)).collect();
        let rate = |session: &Value| {
            let before = before.get(&key(session))?;
            let more = |field: &str| session[field].as_f64().unwrap_or(0.0) - before[field].as_f64().unwrap_or(0.0);
            // Another daemon counts anew.
            let rate = |field| (more(field) / time.as_secs_f64()).max(0.0);
            Some((key(session), Rate { received: rate("messages_received"), sent: rate("messages_sent") }))
        };
        Self(all(after).filter_map(rate).collect())
    }

    fn of(&self, session: &Value) -> Rate {
        self.0.get(&key(session)).copied().unwrap_or_default()
    }
}

fn key(session: &Value) -> String {
    ["origin", "profile", "mode", "session"].map(|field| session[field].to_string()).join(" ")
}

fn all(status: &Value) -> impl Iterator<Item = &Value> {
    status["sessions"].as_array().into_iter().flatten()
}

fn word(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => harmless(text),
        other => other.to_string(),
    }
}

fn state(session: &Value) -> String {
    let mut text = word(&session["state"]);
    if let Some(attempt) = session["attempt"].as_u64().filter(|_| session["state"] == "reconnecting") {
        let _ = write!(text, " (attempt {attempt})");
    }
    text
}

fn latency(session: &Value) -> String {
    session["latency_ms"].as_f64().map_or_else(|| "-".to_owned(), |latency| format!("{latency:.1} ms"))
}

/// A time of so many milliseconds, in the two largest units that it has.
fn span(ms: u64) -> String {
    let (days, hours, minutes, seconds) = (ms / 86_400_000, ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60);
    match (days, hours, minutes) {
        (1.., ..) => format!("{days} d {hours} h"),
        (_, 1.., _) => format!("{hours} h {minutes} min"),
        (.., 1..) => format!("{minutes} min {seconds} s"),
        _ => format!("{seconds} s"),
    }
}

/// So many bytes.
#[expect(clippy::cast_precision_loss, reason = "it is rounded to a tenth anyway")]
fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        1024..1_048_576 => format!("{:.1} KiB", bytes as f64 / 1024.0),
        _ => format!("{:.1} MiB", bytes as f64 / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(received: u64) -> Value {
        json!({
            "daemon": {"version": "1.2.3", "pid": 7, "uptime_ms": 3_723_000, "memory_bytes": 9 << 20, "links": 1},
            "sessions": [{
                "session": "jira", "state": "connected", "url": "wss://example.org/\u{1b}[31m", "origin": "x@y",
                "profile": "p", "mode": "durable", "health": 100, "latency_ms": 12.34, "reconnections": 0,
                "messages_received": received, "messages_sent": 4, "duplicates": 2,
                "inbox": {"messages": 3, "bytes": 2048}, "outbox": {"messages": 0, "bytes": 0},
                "reason": {"message": "\u{202e}why"},
            }],
        })
    }

    #[test]
    fn the_overview_names_what_a_person_asks_for_and_harmlessly() {
        let text = overview(&status(9), None);
        for part in [
            "daemon 1.2.3 (process 7), up 1 h 2 min, 9.0 MiB, ports 1",
            "jira  connected  wss://example.org/",
            "extension  x@y  profile p  durable",
            "latency 12.3 ms",
            "received   9  waiting 3 (2.0 KiB)",
            "repeated   2 that came before",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
        assert!(!text.contains(['\u{1b}', '\u{202e}']), "{text:?}");
    }

    #[test]
    fn rates_are_what_came_between_two_looks_and_never_negative() {
        let rates = Rates::between(&status(10), &status(30), Duration::from_secs(2));
        assert!(overview(&status(30), Some(&rates)).contains("received   30  10/s  waiting"));
        let rates = Rates::between(&status(30), &status(10), Duration::from_secs(2));
        assert!(overview(&status(10), Some(&rates)).contains("received   10  0/s  waiting"));
    }

    #[test]
    fn the_table_has_a_column_for_each_title() {
        let text = sessions(&status(0));
        let [titles, row] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        assert_eq!(titles.find("SERVER"), row.find("wss://"), "{text}");
        assert_eq!(titles.find("WAITING"), row.find("3  "), "{text}");
        assert_eq!(sessions(&json!({"sessions": []})), "no sessions\n");
    }
}
