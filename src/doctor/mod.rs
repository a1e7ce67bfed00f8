//! Finds what is wrong, from the browser's manifest to the server's answer, and mends what is ours.
//!
//! ```text
//! question ──► gather ──► facts ──► findings ──► report
//!              thin, each           pure: what
//!              with a limit         is good or not
//! ```
//!
//! Owns: the order of these steps ([`examine`]). Read on in `facts`: all that is looked at; `gather`: how it is had;
//! `findings`: what it means. `manifest`, `program` and `policy` know what browsers and systems make of a file, `launch`
//! starts a host as a browser does, `mend` is `--fix`.
//!
//! A doctor that looks at registrations alone is green while nothing works. So every host that a browser would start is
//! started, with a browser's arguments, directory, environment and pipes, and every server is spoken to by the code that
//! sessions use.

mod facts;
mod findings;
mod gather;
mod launch;
mod manifest;
mod mend;
mod policy;
mod program;
mod report;
#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use url::Url;

use crate::config::{HostName, Paths};
use crate::install::Context;
use crate::install::browsers::Scope;
pub use findings::{Finding, Status};
use gather::Depth;
pub use report::Report;

/// How long everything may take, whatever hangs.
const LIMIT: Duration = Duration::from_secs(12);

/// How long it may take in all if it is mended first, as far as it goes.
const LIMIT_WITH_MENDING: Duration = Duration::from_secs(14);

/// How much of that may go by until it is known what is to be mended.
const LIMIT_BEFORE_MENDING: Duration = Duration::from_secs(6);

/// What is to be looked at.
#[derive(Debug, Clone)]
pub struct Question {
    /// What install knows of the machine when it writes for this user.
    pub install: Context,
    /// The same when it writes for all users.
    pub install_for_all: Context,
    /// Where our own files are.
    pub paths: Paths,
    /// Only the server of this session.
    pub session: Option<String>,
    /// This server, and no session's.
    pub url: Option<Url>,
    /// Whether what is ours is mended.
    pub fix: bool,
}

impl Question {
    /// The name under which extensions ask for the host.
    fn host(&self) -> &HostName {
        self.paths.host()
    }

    /// What install knows when it writes for these.
    fn context(&self, scope: Scope) -> &Context {
        match scope {
            Scope::User => &self.install,
            Scope::System => &self.install_for_all,
        }
    }
}

/// Looks at everything, mends if that was asked for, and says what is so then.
#[must_use]
pub fn examine(question: &Question) -> Report {
    let begin = Instant::now();
    let (mut all, limit) = if question.fix {
        let facts = gather::gather(question, begin + LIMIT_BEFORE_MENDING, Depth::Look);
        (mend::mend(question, &facts), LIMIT_WITH_MENDING)
    } else {
        (Vec::new(), LIMIT)
    };
    all.extend(findings::findings(&gather::gather(question, begin + limit, Depth::Try)));
    if !question.host().is_usual() {
        // Whoever types it in a shell speaks of this product.
        let named = format!("{COMMAND}--name {} ", question.host());
        for next in all.iter_mut().filter_map(|finding| finding.next.as_mut()) {
            *next = next.replace(COMMAND, &named);
        }
    }
    Report::new(all)
}

/// What the commands that are to be typed begin with.
const COMMAND: &str = "websocket-bridge ";
