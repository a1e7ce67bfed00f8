//! What came from the server and is not yet acknowledged by everybody, and who has read how far.
//!
//! Owns: sequence numbers, the kept messages and gaps, the consumers with their places and windows. Decides what a
//! consumer gets next; does not know ports' features, connections or time beyond what it is told.
//!
//! Invariants: numbers only grow; the kept entries are in order of their numbers; a consumer has
//! `acked ≤ delivered ≤ head`; what is in flight to a consumer is what lies between those two.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::PortId;
use crate::wire::event::{Gap, GapReason, message_len};
use crate::wire::{Acknowledge, Body, MAX_CONSUMERS, WINDOW};

/// How much is kept before the oldest is dropped. What is kept lives in memory, so it is the limit of memory mode.
const MAX_MESSAGES: usize = 100_000;
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What an entry costs beside its content.
const ENTRY_BYTES: usize = 64;

/// How long a full window may stand before the extension is told.
const OVERDUE: Duration = Duration::from_secs(10);

/// One place in the stream.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its number; of a gap: the highest that it covers.
    pub(super) seq: u64,
    /// When it came, in milliseconds since 1970.
    pub(super) at: u64,
    pub(super) content: Content,
}

#[derive(Debug, Clone)]
pub(super) enum Content {
    Message(Body),
    Gap(Gap),
}

/// A reader of the session with its own place.
#[derive(Debug)]
struct Consumer {
    name: String,
    /// Everything up to this number has been processed.
    acked: u64,
    reader: Option<Reader>,
}

/// The port that reads for a consumer.
#[derive(Debug)]
struct Reader {
    port: PortId,
    acknowledge: Acknowledge,
    as_text: bool,
    /// Everything up to this number has been given to the port.
    delivered: u64,
    /// The head when the port came: what is not above it is replay.
    replay_to: u64,
    /// Number and bytes of what was delivered and is not acknowledged.
    in_flight: VecDeque<(u64, usize)>,
    in_flight_bytes: usize,
    full: Option<Full>,
    /// Number and bytes of the message that was last found too long for the window: to measure a long text takes time,
    /// and this one is asked about with every input until there is room.
    measured: Option<(u64, usize)>,
}

/// A window without room, though something waits.
#[derive(Debug)]
struct Full {
    since: Duration,
    told: bool,
}

/// Where a consumer stands, for `opened`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) acked: u64,
    pub(super) pending: u64,
    /// The port that read for this consumer until now.
    pub(super) superseded: Option<PortId>,
}

/// Something to be delivered now.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) port: PortId,
    pub(super) seq: u64,
    pub(super) at: u64,
    pub(super) content: Content,
    pub(super) replay: bool,
    /// The port acknowledges when the message is written to it.
    pub(super) auto: bool,
}

/// Why an acknowledgement was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AckAhead {
    pub(super) delivered: u64,
}

#[derive(Debug)]
pub(super) struct Inbox {
    session: Arc<str>,
    entries: VecDeque<Entry>,
    bytes: usize,
    head: u64,
    consumers: Vec<Consumer>,
}

impl Inbox {
    pub(super) fn new(session: Arc<str>) -> Self {
        Self { session, entries: VecDeque::new(), bytes: 0, head: 0, consumers: Vec::new() }
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Messages and gaps kept, and the bytes that they take.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.entries.len(), self.bytes)
    }

    /// Name, place and whether a port reads, of each consumer.
    pub(super) fn consumers(&self) -> impl Iterator<Item = (&str, u64, bool)> {
        self.consumers.iter().map(|consumer| (&*consumer.name, consumer.acked, consumer.reader.is_some()))
    }

    /// Appends a message.
    pub(super) fn push_message(&mut self, at: u64, body: Body) {
        self.push(at, |_| Content::Message(body));
    }

    /// Appends the mark of an outage.
    pub(super) fn push_outage(&mut self, since: u64, until: u64) {
        self.push(until, |seq| {
            let (since, until) = (Some(since), Some(until));
            Content::Gap(Gap { from: seq, reason: GapReason::Disconnected, count: None, since, until })
        });
    }

    fn push(&mut self, at: u64, content: impl FnOnce(u64) -> Content) {
        self.head += 1;
        let entry = Entry { seq: self.head, at, content: content(self.head) };
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while (self.entries.len() > MAX_MESSAGES || self.bytes > MAX_BYTES) && self.drop_oldest() {}
    }

    /// Puts the oldest message into the gap that stands for what was dropped. The newest entry stays, whatever its size,
    /// or it could never be delivered. Returns whether there was anything to drop.
    fn drop_oldest(&mut self) -> bool {
        let dropped = match self.entries.front() {
            Some(Entry { content: Content::Gap(_), .. }) => 2,
            _ => 1,
        };
        if dropped >= self.entries.len() {
            return false;
        }
        let oldest = self.entries.drain(..dropped);
        let mut gap = Gap { from: u64::MAX, reason: GapReason::Overflow, count: Some(0), since: None, until: None };
        let (mut seq, mut at) = (0, 0);
        for entry in oldest {
            self.bytes -= entry.bytes();
            gap.from = gap.from.min(entry.from());
            gap.count = gap.count.zip(entry.missing()).map(|(before, more)| before + more);
            (seq, at) = (entry.seq, entry.at);
        }
        let entry = Entry { seq, at, content: Content::Gap(gap) };
        self.bytes += entry.bytes();
        self.entries.push_front(entry);
        true
    }

    /// Drops what every consumer has acknowledged.
    fn trim(&mut self) {
        let Some(done) = self.consumers.iter().map(|consumer| consumer.acked).min() else { return };
        while let Some(entry) = self.entries.front().filter(|entry| entry.seq <= done) {
            self.bytes -= entry.bytes();
            self.entries.pop_front();
        }
    }

    /// Whether `name` is a consumer or may become one.
    pub(super) fn admits(&self, name: &str) -> bool {
        self.consumers.len() < MAX_CONSUMERS || self.consumers.iter().any(|consumer| consumer.name == name)
    }

    /// `port` reads for the consumer `name` from now on. The session's first consumer begins at 1, later ones behind
    /// the head.
    pub(super) fn attach(&mut self, port: PortId, name: &str, acknowledge: Acknowledge, as_text: bool) -> Place {
        self.detach(port);
        let head = self.head;
        let index = self.consumers.iter().position(|consumer| consumer.name == name).unwrap_or_else(|| {
            let acked = if self.consumers.is_empty() { 0 } else { head };
            self.consumers.push(Consumer { name: name.to_owned(), acked, reader: None });
            self.consumers.len() - 1
        });
        let consumer = &mut self.consumers[index];
        let acked = consumer.acked;
        let reader = Reader {
            port,
            acknowledge,
            as_text,
            delivered: acked,
            replay_to: head,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
            full: None,
            measured: None,
        };
        let superseded = consumer.reader.replace(reader).map(|reader| reader.port);
        Place { acked, pending: (self.entries.len() - self.index_behind(acked)) as u64, superseded }
    }

    /// `port` reads no more.
    pub(super) fn detach(&mut self, port: PortId) {
        for consumer in &mut self.consumers {
            consumer.reader.take_if(|reader| reader.port == port);
        }
    }

    /// Name of the consumer that `port` reads for.
    pub(super) fn consumer_of(&self, port: PortId) -> Option<&str> {
        self.consumers
            .iter()
            .find(|consumer| consumer.reader.as_ref().is_some_and(|reader| reader.port == port))
            .map(|consumer| &*consumer.name)
    }

    /// The port that reads for `consumer`.
    pub(super) fn reader_of(&self, consumer: &str) -> Option<PortId> {
        let consumer = self.consumers.iter().find(|known| known.name == consumer)?;
        consumer.reader.as_ref().map(|reader| reader.port)
    }

    /// The consumer of `port` has processed everything up to `seq`. A number below its place changes nothing.
    pub(super) fn acknowledge(&mut self, port: PortId, seq: u64) -> Result<(), AckAhead> {
        for consumer in &mut self.consumers {
            let Some(reader) = consumer.reader.as_mut().filter(|reader| reader.port == port) else { continue };
            if seq > reader.delivered {
                return Err(AckAhead { delivered: reader.delivered });
            }
            consumer.acked = consumer.acked.max(seq);
            while let Some((_, bytes)) = reader.in_flight.front().filter(|(number, _)| *number <= seq) {
                reader.in_flight_bytes -= bytes;
                reader.in_flight.pop_front();
                // It moved: if it is full again, it is full from now on.
                reader.full = None;
            }
        }
        self.trim();
        Ok(())
    }

    /// What was delivered to `port` under `seq` is written to the browser, which acknowledges it for a port that asked
    /// for that. Returns whether anything changed: the message may be from before the port opened anew, or left.
    pub(super) fn written(&mut self, port: PortId, seq: u64) -> bool {
        let reads =
            |reader: &Reader| reader.port == port && reader.acknowledge == Acknowledge::Auto && seq <= reader.delivered;
        self.readers().any(reads) && self.acknowledge(port, seq).is_ok()
    }

    /// Everything that may go out now, to `deliver`.
    pub(super) fn pump(&mut self, now: Duration, mut deliver: impl FnMut(Delivery)) {
        for index in 0..self.consumers.len() {
            let Some(mut reader) = self.consumers[index].reader.take() else { continue };
            let next = if reader.delivered + 1 == self.head {
                self.entries.len().saturating_sub(1)
            } else {
                self.index_behind(reader.delivered)
            };
            let mut blocked = false;
            for entry in self.entries.range(next..) {
                let content = entry.content_for(&reader);
                let bytes = match (&content, reader.measured) {
                    (Content::Message(_), Some((seq, bytes))) if seq == entry.seq => bytes,
                    _ => entry.message_bytes(&self.session, &content),
                };
                if !reader.has_room(bytes) {
                    blocked = true;
                    reader.measured = Some((entry.seq, bytes));
                    break;
                }
                reader.in_flight.push_back((entry.seq, bytes));
                reader.in_flight_bytes += bytes;
                reader.delivered = entry.seq;
                deliver(Delivery {
                    port: reader.port,
                    seq: entry.seq,
                    at: entry.at,
                    content,
                    replay: entry.seq <= reader.replay_to,
                    auto: reader.acknowledge == Acknowledge::Auto,
                });
            }
            match (&reader.full, blocked) {
                (None, true) => reader.full = Some(Full { since: now, told: false }),
                (Some(_), false) => reader.full = None,
                _ => {}
            }
            self.consumers[index].reader = Some(reader);
        }
    }

    /// When the next full window is overdue.
    pub(super) fn overdue_at(&self) -> Option<Duration> {
        self.readers()
            .filter_map(|reader| reader.full.as_ref())
            .filter(|full| !full.told)
            .map(|full| full.since + OVERDUE)
            .min()
    }

    /// The ports whose windows have just become overdue; each full window is told once.
    pub(super) fn take_overdue(&mut self, now: Duration) -> Vec<PortId> {
        let readers = self.consumers.iter_mut().filter_map(|consumer| consumer.reader.as_mut());
        let overdue = readers.filter_map(|reader| {
            let full = reader.full.as_mut().filter(|full| !full.told && now >= full.since + OVERDUE)?;
            full.told = true;
            Some(reader.port)
        });
        overdue.collect()
    }

    /// Whether a window has been full for too long.
    pub(super) fn is_overdue(&self) -> bool {
        self.readers().any(|reader| reader.full.as_ref().is_some_and(|full| full.told))
    }

    fn readers(&self) -> impl Iterator<Item = &Reader> {
        self.consumers.iter().filter_map(|consumer| consumer.reader.as_ref())
    }

    /// Index of the first entry above `seq`.
    fn index_behind(&self, seq: u64) -> usize {
        self.entries.partition_point(|entry| entry.seq <= seq)
    }
}

impl Reader {
    /// The window: anything fits into an empty one, so that no message is too large to be delivered at all.
    fn has_room(&self, bytes: usize) -> bool {
        self.in_flight.is_empty()
            || ((self.in_flight.len() as u64) < WINDOW.messages
                && (self.in_flight_bytes + bytes) as u64 <= WINDOW.bytes)
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        ENTRY_BYTES
            + match &self.content {
                Content::Message(body) => body.len(),
                Content::Gap(_) => 0,
            }
    }

    /// The lowest number that it covers.
    fn from(&self) -> u64 {
        match &self.content {
            Content::Message(_) => self.seq,
            Content::Gap(gap) => gap.from,
        }
    }

    /// How many messages of the server are missing if this is dropped.
    fn missing(&self) -> Option<u64> {
        match &self.content {
            Content::Message(_) => Some(1),
            Content::Gap(gap) => gap.count,
        }
    }

    /// What a reader gets of this: text if it asked for that, and of a gap only what it has not had as messages.
    fn content_for(&self, reader: &Reader) -> Content {
        match &self.content {
            Content::Message(body) if reader.as_text => Content::Message(body.clone().into_text()),
            Content::Message(body) => Content::Message(body.clone()),
            Content::Gap(gap) => {
                let from = gap.from.max(reader.delivered + 1);
                // Only if each number stands for one missing message it is known how many are missing behind `from`.
                let dense = gap.count == Some(self.seq + 1 - gap.from);
                let count = if from == gap.from { gap.count } else { dense.then(|| self.seq + 1 - from) };
                Content::Gap(Gap { from, count, ..*gap })
            }
        }
    }

    /// What it counts in a window.
    fn message_bytes(&self, session: &str, content: &Content) -> usize {
        match content {
            Content::Message(body) => message_len(session, self.seq, self.at, body),
            Content::Gap(_) => ENTRY_BYTES,
        }
    }
}
