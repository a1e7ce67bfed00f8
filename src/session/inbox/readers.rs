//! The ports that read: what each has on its way and what it gets next.
//!
//! Owns: windows, the order in which a port gets things, what an observer skips. Where a consumer stands in the long run is
//! the inbox's; a message that is not in memory stops a reader until it is there.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Entry, Found, Gap, GapReason, OVERDUE, PortId, Stream, index_behind};
use crate::wire::{Acknowledge, Body, OBSERVER_BYTES, WINDOW};

/// What a gap counts in a window.
const GAP_BYTES: usize = super::ENTRY_BYTES;

/// What a port gets.
#[derive(Debug)]
pub(in super::super) enum Content {
    Message(Body),
    Gap(Gap),
}

/// Something to be delivered now.
#[derive(Debug)]
pub(in super::super) struct Delivery {
    pub(in super::super) port: PortId,
    pub(in super::super) seq: u64,
    pub(in super::super) at: u64,
    pub(in super::super) content: Content,
    pub(in super::super) replay: bool,
    /// It counts as acknowledged when it is written to the port, for this attachment.
    pub(in super::super) attachment: Option<u64>,
}

/// How a port wants to read.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Manner {
    pub(in super::super) acknowledge: Acknowledge,
    pub(in super::super) as_text: bool,
}

/// The port that reads for a consumer.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) port: PortId,
    pub(super) attachment: u64,
    pub(super) manner: Manner,
    /// Everything up to this number has been given to the port.
    pub(super) delivered: u64,
    /// The same, with what gave way behind it, which cannot be acknowledged.
    passed: u64,
    /// The port is still to be told that its place was in another epoch.
    other_epoch: bool,
    /// The head when the port came: what is not above it is replay.
    replay_to: u64,
    flight: Flight,
    full: Option<Full>,
    /// Number and bytes of the message that was last found too long for the window: to measure a long text takes time,
    /// and this one is asked about with every input until there is room.
    measured: Option<(u64, usize)>,
}

/// A port that only watches: it has no place, and what it cannot take in time it does not get.
#[derive(Debug)]
pub(super) struct Observer {
    pub(super) port: PortId,
    pub(super) attachment: u64,
    pub(super) as_text: bool,
    /// Everything up to this number was shown to it, or missed.
    seen: u64,
    flight: Flight,
    /// What it could not take, not told yet.
    missed: Option<(Gap, u64)>,
}

/// Numbers and bytes of what was delivered and is not acknowledged.
#[derive(Debug, Default)]
struct Flight {
    messages: VecDeque<(u64, usize)>,
    bytes: usize,
}

/// A window without room, though something waits.
#[derive(Debug)]
struct Full {
    since: Duration,
    told: bool,
}

impl Reader {
    pub(super) fn new(port: PortId, attachment: u64, manner: Manner, delivered: u64, head: u64) -> Self {
        Self {
            port,
            attachment,
            manner,
            delivered,
            passed: delivered,
            other_epoch: false,
            replay_to: head,
            flight: Flight::default(),
            full: None,
            measured: None,
        }
    }

    /// The same for a port whose place was in another epoch, which it is to be told.
    pub(super) fn of_other_epoch(self) -> Self {
        Self { other_epoch: true, ..self }
    }

    /// Everything that may go out now. Returns the number of the message that must be read from the disk first.
    pub(super) fn pump(
        &mut self,
        stream: &Stream<'_>,
        now: Duration,
        deliver: &mut impl FnMut(Delivery),
    ) -> Option<u64> {
        let mut blocked = !self.tell_missing(stream.floor, deliver);
        let mut on_disk = None;
        if !blocked && self.passed < stream.limit {
            for entry in stream.entries.range(index_behind(stream.entries, self.passed)..) {
                if entry.seq > stream.limit {
                    break;
                }
                let is_measured = |(seq, _): &(u64, usize)| *seq == entry.seq && entry.is_message();
                let measured = self.measured.filter(is_measured).map(|(_, bytes)| bytes);
                // Without any room it does not matter what it is, nor where.
                if !self.has_room(measured.unwrap_or(1)) {
                    blocked = true;
                    break;
                }
                let content = match entry.content_for(self.manner.as_text, self.delivered, stream.page) {
                    Found::Here(content) => content,
                    Found::Nothing => {
                        self.passed = entry.seq;
                        continue;
                    }
                    Found::OnDisk => {
                        on_disk = Some(entry.seq);
                        break;
                    }
                };
                let bytes = measured.unwrap_or_else(|| entry.message_bytes(stream.session, &content));
                if !self.has_room(bytes) {
                    blocked = true;
                    self.measured = Some((entry.seq, bytes));
                    break;
                }
                self.hand_out(entry.seq, entry.at, content, bytes, deliver);
            }
        }
        match (&self.full, blocked) {
            (None, true) => self.full = Some(Full { since: now, told: false }),
            // Whether what is on the disk fits will be known when it has been read.
            (Some(_), false) if on_disk.is_none() => self.full = None,
            _ => {}
        }
        on_disk
    }

    /// Tells what lies before everything that is kept, if this port expects any of it. Returns whether all is told.
    fn tell_missing(&mut self, floor: u64, deliver: &mut impl FnMut(Delivery)) -> bool {
        if self.other_epoch {
            if !self.has_room(GAP_BYTES) {
                return false;
            }
            self.other_epoch = false;
            let gap = Gap::of(floor.min(1), GapReason::Epoch, None);
            self.hand_out(floor, 0, Content::Gap(gap), GAP_BYTES, deliver);
        }
        if self.delivered < floor {
            if !self.has_room(GAP_BYTES) {
                return false;
            }
            // Outages and earlier gaps may be among those numbers.
            let at_most = Some(floor - self.delivered);
            let gap = Gap { at_most, ..Gap::of(self.delivered + 1, GapReason::Retention, None) };
            self.hand_out(floor, 0, Content::Gap(gap), GAP_BYTES, deliver);
        }
        true
    }

    fn hand_out(&mut self, seq: u64, at: u64, content: Content, bytes: usize, deliver: &mut impl FnMut(Delivery)) {
        self.flight.start(seq, bytes);
        (self.delivered, self.passed) = (seq, seq);
        deliver(Delivery {
            port: self.port,
            seq,
            at,
            content,
            replay: seq <= self.replay_to,
            attachment: (self.manner.acknowledge == Acknowledge::Auto).then_some(self.attachment),
        });
    }

    /// The window: anything fits into an empty one, so that no message is too large to be delivered at all.
    fn has_room(&self, bytes: usize) -> bool {
        self.flight.messages.is_empty()
            || ((self.flight.messages.len() as u64) < WINDOW.messages
                && (self.flight.bytes + bytes) as u64 <= WINDOW.bytes)
    }

    /// Everything up to `seq` has been acknowledged.
    pub(super) fn land(&mut self, seq: u64) {
        if self.flight.land(seq) {
            // It moved: if it is full again, it is full from now on.
            self.full = None;
        }
    }

    /// Whether it was given `seq` and has not acknowledged it.
    pub(super) fn has_in_flight(&self, seq: u64) -> bool {
        self.flight.messages.binary_search_by_key(&seq, |(number, _)| *number).is_ok()
    }

    /// When its window will have been full for too long, if that is not told yet.
    pub(super) fn overdue_at(&self) -> Option<Duration> {
        self.full.as_ref().filter(|full| !full.told).map(|full| full.since + OVERDUE)
    }

    /// Whether its window has just become overdue; told once.
    pub(super) fn take_overdue(&mut self, now: Duration) -> bool {
        let Some(full) = self.full.as_mut().filter(|full| !full.told && now >= full.since + OVERDUE) else {
            return false;
        };
        full.told = true;
        true
    }

    /// Whether its window has been full for too long.
    pub(super) fn is_overdue(&self) -> bool {
        self.full.as_ref().is_some_and(|full| full.told)
    }
}

impl Observer {
    pub(super) fn new(port: PortId, attachment: u64, as_text: bool, head: u64) -> Self {
        Self { port, attachment, as_text, seen: head, flight: Flight::default(), missed: None }
    }

    /// Shows it what is new, or counts it as missed; and tells what it missed as soon as there is room for more than that.
    pub(super) fn pump(&mut self, stream: &Stream<'_>, deliver: &mut impl FnMut(Delivery)) {
        if self.seen < stream.limit {
            for entry in stream.entries.range(index_behind(stream.entries, self.seen)..) {
                if entry.seq > stream.limit {
                    break;
                }
                self.show(stream, entry, deliver);
                self.seen = entry.seq;
            }
        }
        if self.flight.bytes <= OBSERVER_BYTES / 2
            && let Some((gap, seq)) = self.missed.take()
        {
            self.hand_out(seq, 0, Content::Gap(gap), GAP_BYTES, deliver);
        }
    }

    fn show(&mut self, stream: &Stream<'_>, entry: &Entry, deliver: &mut impl FnMut(Delivery)) {
        match entry.content_for(self.as_text, self.seen, stream.page) {
            Found::Nothing => return,
            Found::Here(content) if self.missed.is_none() => {
                let bytes = entry.message_bytes(stream.session, &content);
                if self.flight.has_room(bytes) {
                    return self.hand_out(entry.seq, entry.at, content, bytes, deliver);
                }
            }
            Found::Here(_) | Found::OnDisk => {}
        }
        let missing = entry.missing(self.seen);
        let (gap, seq) =
            self.missed.get_or_insert_with(|| (Gap::of(missing.from, GapReason::ObserverLag, Some(0)), entry.seq));
        gap.take_in(&missing);
        *seq = entry.seq;
    }

    fn hand_out(&mut self, seq: u64, at: u64, content: Content, bytes: usize, deliver: &mut impl FnMut(Delivery)) {
        self.flight.start(seq, bytes);
        deliver(Delivery { port: self.port, seq, at, content, replay: false, attachment: Some(self.attachment) });
    }

    /// Everything up to `seq` has been written to it.
    pub(super) fn land(&mut self, seq: u64) {
        self.flight.land(seq);
    }
}

impl Flight {
    fn start(&mut self, seq: u64, bytes: usize) {
        self.messages.push_back((seq, bytes));
        self.bytes += bytes;
    }

    /// Everything up to `seq` has arrived; returns whether anything was on its way.
    fn land(&mut self, seq: u64) -> bool {
        let before = self.messages.len();
        while self.messages.front().is_some_and(|(number, _)| *number <= seq)
            && let Some((_, bytes)) = self.messages.pop_front()
        {
            self.bytes -= bytes;
        }
        self.messages.len() < before
    }

    /// The room of an observer: anything fits if nothing is on its way.
    fn has_room(&self, bytes: usize) -> bool {
        self.messages.is_empty() || self.bytes + bytes <= OBSERVER_BYTES
    }
}
