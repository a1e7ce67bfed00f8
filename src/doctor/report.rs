//! The findings for people and for programs.
//!
//! Owns: how they are shown. What comes from elsewhere (names of files, texts of servers) is escaped like in every other
//! output of this program, and nothing that may be secret is in a finding to begin with.

use std::fmt::Write as _;

use serde::Serialize;

use super::findings::{Finding, Status};
use crate::log::{harmless, harmless_json};

/// What the doctor says.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether nothing has failed.
    pub ok: bool,
    /// Everything that was looked at, in the order of the way from the browser to the server.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn new(findings: Vec<Finding>) -> Self {
        Self { ok: findings.iter().all(|finding| finding.status != Status::Fail), findings }
    }

    /// One JSON document.
    ///
    /// # Panics
    /// Never: texts and lists of them are JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        harmless_json(&serde_json::to_string_pretty(self).expect("texts and lists of them are JSON")) + "\n"
    }

    /// A table: a line for what is as it should be; cause and next step of what is not.
    #[must_use]
    pub fn to_text(&self, colour: bool) -> String {
        let mut text = format!(
            "websocket-bridge {} on {} ({})\n\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH
        );
        let width = self.findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for finding in &self.findings {
            let (word, paint) = match finding.status {
                Status::Ok => ("ok  ", "\x1b[32m"),
                Status::Warn => ("warn", "\x1b[33m"),
                Status::Fail => ("FAIL", "\x1b[31m"),
                Status::Skip => ("skip", "\x1b[2m"),
            };
            let word = if colour { format!("{paint}{word}\x1b[0m") } else { word.to_owned() };
            let (check, subject, evidence) = (finding.check, harmless(&finding.subject), harmless(&finding.evidence));
            if finding.status == Status::Ok {
                let _ = writeln!(text, "{word}  {check:width$}  {subject}: {evidence}");
                continue;
            }
            let _ = writeln!(text, "{word}  {check:width$}  {subject}");
            let _ = writeln!(text, "      {:width$}  {evidence}", "");
            if let Some(next) = &finding.next {
                let _ = writeln!(text, "      {:width$}  next: {}", "", harmless(next));
            }
        }
        let count = |status| self.findings.iter().filter(|finding| finding.status == status).count();
        let (failed, warned) = (count(Status::Fail), count(Status::Warn));
        let _ = match (failed, warned) {
            (0, 0) => writeln!(text, "\nall is well"),
            (0, warned) => writeln!(text, "\nnothing has failed; warnings: {warned}"),
            (failed, warned) => writeln!(text, "\nfailures: {failed}, warnings: {warned}; begin with the first"),
        };
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report::new(vec![
            Finding::new("clock", Status::Ok, "clock", "now"),
            Finding::new("server-dns", Status::Fail, "a\u{1b}[2Jb", "\u{202e}c").next("d\u{9b}"),
        ])
    }

    #[test]
    fn what_comes_from_elsewhere_moves_no_cursor_and_turns_no_line() {
        let text = report().to_text(false);
        assert!(text.contains("a\\u{1b}[2Jb") && text.contains("next: d\\u{9b}"), "{text}");
        let json = report().to_json();
        for shown in [text, json] {
            assert!(!shown.contains(['\u{1b}', '\u{9b}', '\u{202e}']), "{shown:?}");
        }
    }

    #[test]
    fn programs_get_one_document_of_a_stable_shape() {
        let json: serde_json::Value = serde_json::from_str(&report().to_json()).unwrap();
        assert_eq!(json["ok"], false);
        let finding = serde_json::json!({
            "check": "clock", "status": "ok", "subject": "clock", "evidence": "now", "next": null
        });
        assert_eq!(json["findings"][0], finding);
        assert_eq!(json["findings"][1]["subject"], "a\u{1b}[2Jb");
    }

    #[test]
    fn colour_is_there_only_if_it_is_asked_for() {
        assert!(report().to_text(true).contains("\u{1b}[31mFAIL\u{1b}[0m"));
        assert!(report().to_text(false).ends_with("failures: 1, warnings: 0; begin with the first\n"));
    }
}
