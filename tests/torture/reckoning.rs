//! Judges a world by its log alone: what was lost, doubled, out of order, or said too early. Pure: the same log gives the
//! same judgement. `stream` judges what came to the extension, `posts` what came to the server.
//!
//! Owns: what happened to whom (`History`), the figures, and what is shown of the log where something is wrong.

mod posts;
mod stream;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::ops::AddAssign;
use std::time::Duration;

use crate::fault::Kind;
use crate::log::{Consumer, Entry, Event, PortId, Post};

/// How many events are shown with what is wrong.
const SHOWN: usize = 60;

/// How much later than it should be something is on the disk, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_millis(2500);

/// How long it may take until it is noticed that a disk has room again.
const ROOM_AGAIN: Duration = Duration::from_secs(7);

/// What holds in a world.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// The server sends again what the extension has not processed.
    pub(crate) resuming: bool,
    /// `inbox.persist_after_ms`.
    pub(crate) persist_after: Duration,
    /// The inbox may overflow.
    pub(crate) overflows: bool,
}

/// The judgement.
#[derive(Debug, Default)]
pub(crate) struct Reckoning {
    pub(crate) tally: Tally,
    pub(crate) findings: Vec<Finding>,
}

/// The figures of a world, or of several.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    pub(crate) faults: BTreeMap<Kind, u64>,
    pub(crate) gaps: BTreeMap<Box<str>, u64>,
    pub(crate) counts: BTreeMap<Count, u64>,
}

/// What is counted, in the order in which it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Count {
    Pushed,
    Delivered,
    Lost,
    LostUnreported,
    LostThoughSafe,
    LostByResuming,
    ReportedWithoutLoss,
    DoubledWithFault,
    DoubledWithoutFault,
    RepeatedByServer,
    OutOfOrder,
    Posted,
    Arrived,
    Stored,
    StoredNeverArrived,
    Expired,
    Refused,
    ArrivedTwiceWithFault,
    ArrivedTwiceWithoutFault,
    PostsOutOfOrder,
    OtherWrongs,
}

impl Count {
    /// What it is called, and whether it must be 0.
    fn facts(self) -> (&'static str, bool) {
        match self {
            Self::Pushed => ("sent by servers", false),
            Self::Delivered => ("delivered to consumers", false),
            Self::Lost => ("lost", false),
            Self::LostUnreported => ("lost unreported", true),
            Self::LostThoughSafe => ("lost though safe by then", true),
            Self::LostByResuming => ("lost with a resuming server", true),
            Self::ReportedWithoutLoss => ("reported without loss", false),
            Self::DoubledWithFault => ("doubled with a fault", false),
            Self::DoubledWithoutFault => ("doubled without a fault", true),
            Self::RepeatedByServer => ("repeated by the server", false),
            Self::OutOfOrder => ("out of order", true),
            Self::Posted => ("posted by extensions", false),
            Self::Arrived => ("arrived at servers", false),
            Self::Stored => ("stored", false),
            Self::StoredNeverArrived => ("stored but never at the server", true),
            Self::Expired => ("expired", false),
            Self::Refused => ("refused", false),
            Self::ArrivedTwiceWithFault => ("doubled with a fault", false),
            Self::ArrivedTwiceWithoutFault => ("doubled without a fault", true),
            Self::PostsOutOfOrder => ("out of order", true),
            Self::OtherWrongs => ("wrong in another way", true),
        }
    }
}

/// Something that is wrong.
#[derive(Debug)]
pub(crate) struct Finding {
    count: Count,
    what: String,
    /// The event that shows it.
    index: usize,
    about: About,
}

/// Which numbers belong to a finding.
#[derive(Debug, Clone, Copy, Default)]
struct About {
    consumer: Option<Consumer>,
    seq: Option<u64>,
    push: Option<u64>,
    post: Option<Post>,
}

/// Judges a log that is complete: everything has come to rest.
pub(crate) fn reckon(log: &[Entry], terms: &Terms) -> Reckoning {
    let history = History::of(log);
    let mut reckoning = Reckoning::default();
    for (index, entry) in log.iter().enumerate() {
        match &entry.event {
            Event::Fault(kind, _) => *reckoning.tally.faults.entry(*kind).or_default() += 1,
            Event::Wrong(what) => reckoning.find(Count::OtherWrongs, index, About::default(), what.to_string()),
            _ => {}
        }
    }
    stream::judge(log, &history, terms, &mut reckoning);
    posts::judge(log, &history, &mut reckoning);
    reckoning.findings.sort_by_key(|finding| finding.index);
    reckoning
}

impl Reckoning {
    /// Something is wrong, which is counted too.
    fn find(&mut self, count: Count, index: usize, about: About, what: String) {
        self.tally.add(count, 1);
        self.findings.push(Finding { count, what, index, about });
    }
}

impl Tally {
    fn add(&mut self, count: Count, more: u64) {
        *self.counts.entry(count).or_default() += more;
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        let mut table = String::from("faults\n");
        for (kind, number) in &self.faults {
            let _ = writeln!(table, "{number:>10}  {kind}");
        }
        let _ = writeln!(table, "{:>10}  in all", self.faults.values().sum::<u64>());
        let section = |table: &mut String, title: &str, from: Count, to: Count| {
            let _ = writeln!(table, "{title}");
            for count in COUNTS.iter().filter(|count| (from..=to).contains(count)) {
                let ((name, must_be_zero), number) = (count.facts(), self.counts.get(count).copied().unwrap_or(0));
                let mark = if must_be_zero && number > 0 { "  <- must be 0" } else { "" };
                let _ = writeln!(table, "{number:>10}  {name}{mark}");
            }
        };
        section(&mut table, "messages to the extension", Count::Pushed, Count::OutOfOrder);
        let _ = writeln!(table, "gaps");
        for (reason, number) in &self.gaps {
            let _ = writeln!(table, "{number:>10}  {reason}");
        }
        section(&mut table, "messages to the server", Count::Posted, Count::PostsOutOfOrder);
        section(&mut table, "besides", Count::OtherWrongs, Count::OtherWrongs);
        table
    }
}

const COUNTS: &[Count] = &[
    Count::Pushed,
    Count::Delivered,
    Count::Lost,
    Count::LostUnreported,
    Count::LostThoughSafe,
    Count::LostByResuming,
    Count::ReportedWithoutLoss,
    Count::DoubledWithFault,
    Count::DoubledWithoutFault,
    Count::RepeatedByServer,
    Count::OutOfOrder,
    Count::Posted,
    Count::Arrived,
    Count::Stored,
    Count::StoredNeverArrived,
    Count::Expired,
    Count::Refused,
    Count::ArrivedTwiceWithFault,
    Count::ArrivedTwiceWithoutFault,
    Count::PostsOutOfOrder,
    Count::OtherWrongs,
];

impl AddAssign<&Self> for Tally {
    fn add_assign(&mut self, other: &Self) {
        fn add<Key: Clone + Ord>(sum: &mut BTreeMap<Key, u64>, more: &BTreeMap<Key, u64>) {
            for (key, number) in more {
                *sum.entry(key.clone()).or_default() += number;
            }
        }
        add(&mut self.faults, &other.faults);
        add(&mut self.gaps, &other.gaps);
        add(&mut self.counts, &other.counts);
    }
}

impl Finding {
    /// What is wrong, in one line.
    pub(crate) fn summary(&self) -> String {
        format!("{}: {}", self.count.facts().0, self.what)
    }

    /// The last events before it that have to do with it.
    pub(crate) fn evidence(&self, log: &[Entry]) -> String {
        let near = |number: u64, other: u64| number.abs_diff(other) <= 2;
        let concerns = |entry: &Entry| match &entry.event {
            Event::Delivered { port, seq, push, .. } => {
                self.about.consumer.is_none_or(|consumer| consumer == port.consumer)
                    && (self.about.seq.is_some_and(|number| near(number, *seq))
                        || self.about.push.is_some_and(|number| near(number, *push)))
            }
            Event::Missing { port, seq, gap } => {
                self.about.consumer.is_none_or(|consumer| consumer == port.consumer)
                    && self.about.seq.is_some_and(|number| (gap.from..=*seq + 2).contains(&number))
            }
            Event::Acked { port, seq } | Event::AckTaken { port, seq } => {
                self.about.consumer == Some(port.consumer) && self.about.seq.is_some_and(|number| near(number, *seq))
            }
            Event::Pushed { push, .. } => self.about.push.is_some_and(|number| near(number, *push)),
            Event::Read { push, .. } => self.about.push.is_some_and(|number| number.abs_diff(*push) <= 10),
            Event::Arrived { post, .. } | Event::Posted { post, .. } | Event::Receipt { post, .. } => {
                self.about.post.is_some_and(|about| {
                    about == *post || (about.consumer == post.consumer && near(about.number, post.number))
                })
            }
            _ => true,
        };
        let before = log[..=self.index].iter().rev().filter(|entry| concerns(entry)).take(SHOWN);
        let mut lines: Vec<String> = before.map(|entry| format!("    {entry:.300}")).collect();
        lines.reverse();
        lines.join("\n")
    }
}

/// What was done to whom, and when.
#[derive(Default)]
struct History {
    ports: HashMap<u32, PortLife>,
    /// Everything that ended the daemon.
    ends: Vec<End>,
    /// Times in which the daemon may not have run.
    suspended: Vec<(Duration, Duration)>,
    /// Times in which there may have been no room on the disk, as far as it knew.
    full: Vec<(Duration, Duration)>,
    clock_moved: bool,
}

struct PortLife {
    started: usize,
    opened: bool,
    /// Its host was killed, its worker closed it, or another port took over.
    touched: Option<usize>,
}

struct End {
    begin: usize,
    over: usize,
    at: Duration,
    /// It had no time to write what it wanted to, or no room.
    abrupt: bool,
}

impl History {
    fn of(log: &[Entry]) -> Self {
        let mut history = Self::default();
        let mut present: HashMap<Consumer, u32> = HashMap::new();
        let touch = |life: Option<&mut PortLife>, index| {
            if let Some(life) = life {
                life.touched.get_or_insert(index);
            }
        };
        let mut begun: HashMap<Kind, Duration> = HashMap::new();
        for (index, entry) in log.iter().enumerate() {
            match &entry.event {
                Event::Started(PortId { consumer, number }) => {
                    present.insert(*consumer, *number);
                    history.ports.insert(*number, PortLife { started: index, opened: false, touched: None });
                }
                Event::Fault(Kind::HostKilled | Kind::TakenOver, Some(consumer)) => {
                    touch(present.get(consumer).and_then(|port| history.ports.get_mut(port)), index);
                }
                Event::Opened { port, .. } => {
                    history.ports.entry(port.number).and_modify(|life| life.opened = true);
                }
                Event::Closed(port) => touch(history.ports.get_mut(&port.number), index),
                Event::Fault(kind @ (Kind::DaemonKilled | Kind::DaemonStopped), _) => {
                    let abrupt = *kind == Kind::DaemonKilled
                        || begun.contains_key(&Kind::DiskFilled)
                        || history.is_full_between(entry.at, entry.at);
                    history.ends.push(End { begin: index, over: usize::MAX, at: entry.at, abrupt });
                }
                Event::Healed(Kind::DaemonKilled | Kind::DaemonStopped) => {
                    history.ends.iter_mut().for_each(|end| end.over = end.over.min(index));
                }
                Event::Fault(kind @ (Kind::DaemonSuspended | Kind::DiskFilled), _) => {
                    begun.entry(*kind).or_insert(entry.at);
                }
                Event::Healed(Kind::DiskFilled) => {
                    history.full.extend(begun.remove(&Kind::DiskFilled).map(|since| (since, entry.at + ROOM_AGAIN)));
                }
                Event::Healed(Kind::DaemonSuspended) => {
                    history.suspended.extend(begun.remove(&Kind::DaemonSuspended).map(|since| (since, entry.at)));
                }
                Event::Fault(Kind::ClockMoved, _) => history.clock_moved = true,
                _ => {}
            }
        }
        history
    }

    /// Whether something happened to the port, or to the daemon while it was there, before `index`.
    fn is_excused(&self, port: u32, index: usize) -> bool {
        let Some(life) = self.ports.get(&port) else { return false };
        // On a disk without any room no daemon can start, and the extension is told so.
        let no_daemon = !self.full.is_empty() && !life.opened;
        no_daemon
            || life.touched.is_some_and(|touched| touched < index)
            || self.ends.iter().any(|end| end.begin < index && end.over > life.started)
    }

    /// Whether what the port was told by `index` comes from a daemon that had not ended abruptly by then: it knows that it
    /// said it, and so do those after it.
    fn is_trusted(&self, port: u32, index: usize) -> bool {
        let Some(life) = self.ports.get(&port) else { return false };
        self.ends.iter().filter(|end| end.abrupt && end.begin < index).all(|end| end.over < life.started)
    }

    /// Whether the daemon ends abruptly with the event at `index`.
    fn ends_abruptly(&self, index: usize) -> bool {
        self.ends.iter().any(|end| end.begin == index && end.abrupt)
    }

    /// The first end of the daemon that was not over at `from`, and began before `to`.
    fn first_end(&self, from: usize, to: usize) -> Option<&End> {
        self.ends.iter().find(|end| end.over > from && end.begin < to)
    }

    /// Whether what the daemon was to write at `from` must be on the disk at `to`.
    fn could_write(&self, from: Duration, to: Duration) -> bool {
        from + PATIENCE < to && !self.is_full_between(from, to) && !overlaps(&self.suspended, from, to)
    }

    /// Whether there may have been no room on the disk.
    fn is_full_between(&self, from: Duration, to: Duration) -> bool {
        overlaps(&self.full, from, to)
    }
}

fn overlaps(times: &[(Duration, Duration)], from: Duration, to: Duration) -> bool {
    times.iter().any(|(since, until)| *since <= to && from <= *until)
}
