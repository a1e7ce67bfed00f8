//! The oracle's log: what server, extension and whoever makes the faults did and saw, in one order. It is written before
//! what is done, and after what was seen. The bridge has no part in it; `reckoning` judges the bridge by it alone.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::fault::Kind;

/// A reader of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Consumer {
    Main,
    Side,
}

impl Consumer {
    pub(crate) const ALL: [Self; 2] = [Self::Main, Self::Side];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Side => "side",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|consumer| consumer.name() == name)
    }
}

/// A port of the extension.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PortId {
    pub(crate) consumer: Consumer,
    pub(crate) number: u32,
}

/// A message of the extension to the server; each consumer numbers its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Post {
    pub(crate) consumer: Consumer,
    pub(crate) number: u64,
}

impl Post {
    pub(crate) fn id(self) -> String {
        format!("{}-{}", self.consumer.name(), self.number)
    }

    pub(crate) fn from_id(id: &str) -> Option<Self> {
        let (consumer, number) = id.split_once('-')?;
        Some(Self { consumer: Consumer::named(consumer)?, number: number.parse().ok()? })
    }
}

/// A gap as a port was told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Gap {
    pub(crate) from: u64,
    pub(crate) reason: Box<str>,
    pub(crate) count: Option<u64>,
    pub(crate) at_most: Option<u64>,
}

/// How far a message to the server came, as a receipt says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Stored,
    Received,
    Expired,
    Refused,
}

impl Stage {
    pub(crate) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "stored" => Self::Stored,
            "received" => Self::Received,
            "expired" => Self::Expired,
            "refused" => Self::Refused,
            _ => return None,
        })
    }
}

/// Something that was done or seen.
#[derive(Debug, Clone)]
pub(crate) enum Event {
    /// A fault is about to be made, to one consumer's port or to all that there is.
    Fault(Kind, Option<Consumer>),
    /// It is over.
    Healed(Kind),
    /// The server takes a connection in.
    Accepted { connection: u32 },
    /// The server has done with a connection.
    Ended { connection: u32, how: &'static str },
    /// The server sends a message. Pushes are numbered; one that repeats an earlier message has that one's `number`.
    Pushed { connection: u32, push: u64, number: u64 },
    /// The daemon has read everything up to that push: it answered a ping behind it.
    Read { connection: u32, push: u64 },
    /// A message of the extension has come to the server.
    Arrived { connection: u32, post: Post },
    /// A host is about to be started.
    Started(PortId),
    /// The answer to `open`.
    Opened { port: PortId, epoch: Box<str>, acked: u64, head: u64, pending: u64 },
    /// The worker closes its port.
    Closed(PortId),
    /// The host has closed its output.
    Over(PortId),
    /// A message has come, and is processed.
    Delivered { port: PortId, seq: u64, push: u64, number: u64 },
    /// A gap has come.
    Missing { port: PortId, seq: u64, gap: Box<Gap> },
    /// Everything up to `seq` is acknowledged.
    Acked { port: PortId, seq: u64 },
    /// The daemon has taken that acknowledgement: it answered a request behind it.
    AckTaken { port: PortId, seq: u64 },
    /// A message is posted, perhaps not for the first time.
    Posted { port: PortId, post: Post, resend: bool, ttl: Option<Duration> },
    /// What the extension is told of a message to the server.
    Receipt { port: PortId, post: Post, stage: Stage, reason: Option<Box<str>> },
    /// Something that explains, but decides nothing.
    Note(Box<str>),
    /// Something that may not be, whatever else happens.
    Wrong(Box<str>),
}

/// An event and its time.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Since the log began.
    pub(crate) at: Duration,
    pub(crate) event: Event,
}

/// The log of one world.
#[derive(Debug)]
pub(crate) struct Log {
    began: Instant,
    entries: Mutex<Vec<Entry>>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self { began: Instant::now(), entries: Mutex::default() }
    }

    pub(crate) fn add(&self, event: Event) {
        let mut entries = self.entries();
        entries.push(Entry { at: self.began.elapsed(), event });
    }

    pub(crate) fn note(&self, text: impl Into<Box<str>>) {
        self.add(Event::Note(text.into()));
    }

    pub(crate) fn wrong(&self, text: impl Into<Box<str>>) {
        self.add(Event::Wrong(text.into()));
    }

    /// What was logged so far.
    pub(crate) fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for PortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {} ({})", self.number, self.consumer.name())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>10.4} ", self.at.as_secs_f64())?;
        match &self.event {
            Event::Fault(kind, None) => write!(f, "FAULT     {kind}"),
            Event::Fault(kind, Some(consumer)) => write!(f, "FAULT     {kind} ({})", consumer.name()),
            Event::Healed(kind) => write!(f, "healed    {kind}"),
            Event::Accepted { connection } => write!(f, "accepted  connection {connection}"),
            Event::Ended { connection, how } => write!(f, "ended     connection {connection}: {how}"),
            Event::Pushed { connection, push, number } => {
                write!(f, "pushed    {push} (message {number}) on connection {connection}")
            }
            Event::Read { connection, push } => write!(f, "read      up to push {push} on connection {connection}"),
            Event::Arrived { connection, post } => write!(f, "arrived   {} on connection {connection}", post.id()),
            Event::Started(port) => write!(f, "started   {port}"),
            Event::Opened { port, epoch, acked, head, pending } => {
                write!(f, "opened    {port}: epoch {epoch}, acked {acked}, head {head}, {pending} pending")
            }
            Event::Closed(port) => write!(f, "closed    {port}"),
            Event::Over(port) => write!(f, "over      {port}"),
            Event::Delivered { port, seq, push, number } => {
                write!(f, "delivered seq {seq}: push {push} (message {number}) to {port}")
            }
            Event::Missing { port, seq, gap } => {
                let Gap { from, reason, count, at_most } = &**gap;
                write!(f, "gap       {from} to {seq}: {reason}, count {count:?}, at most {at_most:?}, to {port}")
            }
            Event::Acked { port, seq } => write!(f, "acked     {seq} by {port}"),
            Event::AckTaken { port, seq } => write!(f, "ack taken {seq} of {port}"),
            Event::Posted { port, post, resend, ttl } => {
                write!(f, "posted    {} by {port}", post.id())?;
                if !resend {
                    write!(f, ", once")?;
                }
                ttl.map_or(Ok(()), |ttl| write!(f, ", within {ttl:?}"))
            }
            Event::Receipt { port, post, stage, reason } => {
                write!(f, "receipt   {} {stage:?} {} to {port}", post.id(), reason.as_deref().unwrap_or_default())
            }
            Event::Note(text) => write!(f, "note      {text}"),
            Event::Wrong(text) => write!(f, "WRONG     {text}"),
        }
    }
}
