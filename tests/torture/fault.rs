//! The kinds of faults: their names, how often each is drawn and how long it lasts. Making them is `world`'s.

use std::fmt;
use std::ops::Range;

/// What can go wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    /// The browser kills a host (SIGKILL).
    HostKilled,
    /// The worker dies: the browser closes its port, and it comes back later.
    WorkerGone,
    /// A second port reads for the same consumer, while the first is still there.
    TakenOver,
    /// The browser reads nothing.
    ReaderStalled,
    /// The extension acknowledges nothing.
    AcksStopped,
    /// A host does not run for a while (SIGSTOP).
    HostSuspended,
    /// The daemon is killed (SIGKILL).
    DaemonKilled,
    /// A person stops the daemon.
    DaemonStopped,
    /// The daemon does not run for a while (SIGSTOP).
    DaemonSuspended,
    /// The server is killed, and another one starts at the same address later.
    ServerKilled,
    /// The connection is lost, and the server answers 503 for a while.
    Refusing,
    /// The connection is reset.
    Reset,
    /// The connection ends without a word.
    Dropped,
    /// The server closes the connection, with a code.
    Closed,
    /// The connection ends within a frame.
    Torn,
    /// The server neither reads nor writes, nor takes anybody in.
    Blackholed,
    /// The disk is full.
    DiskFilled,
    /// The wall clock jumps.
    ClockMoved,
}

struct Facts {
    kind: Kind,
    name: &'static str,
    /// How often it is drawn, beside the others.
    weight: u32,
    /// How long it lasts, in milliseconds; nothing for what is over at once.
    lasts: Range<u64>,
}

const fn facts(kind: Kind, name: &'static str, weight: u32, lasts: Range<u64>) -> Facts {
    Facts { kind, name, weight, lasts }
}

const FACTS: &[Facts] = &[
    facts(Kind::HostKilled, "host-killed", 3, 0..0),
    facts(Kind::WorkerGone, "worker-gone", 3, 0..0),
    facts(Kind::TakenOver, "taken-over", 2, 0..0),
    facts(Kind::ReaderStalled, "reader-stalled", 2, 200..3000),
    facts(Kind::AcksStopped, "acks-stopped", 2, 200..4000),
    facts(Kind::HostSuspended, "host-suspended", 2, 50..2000),
    facts(Kind::DaemonKilled, "daemon-killed", 5, 0..0),
    facts(Kind::DaemonStopped, "daemon-stopped", 1, 0..0),
    facts(Kind::DaemonSuspended, "daemon-suspended", 2, 50..1500),
    facts(Kind::ServerKilled, "server-killed", 2, 0..1200),
    facts(Kind::Refusing, "refusing", 1, 100..800),
    facts(Kind::Reset, "reset", 2, 0..0),
    facts(Kind::Dropped, "dropped", 2, 0..0),
    facts(Kind::Closed, "closed", 2, 0..0),
    facts(Kind::Torn, "torn", 2, 0..0),
    facts(Kind::Blackholed, "blackholed", 2, 100..2500),
    facts(Kind::DiskFilled, "disk-filled", 1, 200..2500),
    facts(Kind::ClockMoved, "clock-moved", 2, 300..3000),
];

impl Kind {
    /// All kinds.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        FACTS.iter().map(|facts| facts.kind)
    }

    /// The kind of that name.
    pub(crate) fn named(name: &str) -> Option<Self> {
        FACTS.iter().find(|facts| facts.name == name).map(|facts| facts.kind)
    }

    /// One of `kinds`, by their weights.
    pub(crate) fn draw(kinds: &[Self], rng: &mut fastrand::Rng) -> Self {
        let sum: u32 = kinds.iter().map(|kind| kind.facts().weight).sum();
        let mut left = rng.u32(..sum);
        for kind in kinds {
            match left.checked_sub(kind.facts().weight) {
                Some(rest) => left = rest,
                None => return *kind,
            }
        }
        unreachable!("what was drawn is below the sum of the weights")
    }

    /// How long it lasts, in milliseconds; `None` for what is over at once.
    pub(crate) fn draw_time(self, rng: &mut fastrand::Rng) -> Option<u64> {
        let lasts = self.facts().lasts.clone();
        (!lasts.is_empty()).then(|| rng.u64(lasts))
    }

    fn facts(self) -> &'static Facts {
        FACTS.iter().find(|facts| facts.kind == self).expect("all kinds are listed")
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.facts().name)
    }
}
