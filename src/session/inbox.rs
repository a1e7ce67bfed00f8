//! What came from the server and is not yet acknowledged by everybody, and who has read how far.
//!
//! Owns: sequence numbers, the kept messages and gaps, the consumers with their places and windows, the observers. Decides
//! what a port gets next; does not know ports' features, connections or time beyond what it is told.
//!
//! Invariants: numbers only grow; the kept entries are in order of their numbers, and all above `floor`; a reader has
//! `acked ≤ delivered ≤ head`, and what is in flight to it lies between those two, unless `open` named another place. What
//! gave way to a newer message leaves a hole among the entries, but none at the front, nor right behind a gap there.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{PortId, pattern};
use crate::settings::{self, Overflow};
use crate::wire::event::{Gap, GapReason, message_len};
use crate::wire::{Acknowledge, After, Body, MAX_CONSUMERS, OBSERVER_BYTES, WINDOW};

/// What an entry costs beside its content.
const ENTRY_BYTES: usize = 64;

/// How long a full window may stand before the extension is told.
const OVERDUE: Duration = Duration::from_secs(10);

/// One place in the stream.
#[derive(Debug)]
struct Entry {
    /// Its number; of a gap: the highest that it covers.
    seq: u64,
    /// When it came, in milliseconds since 1970.
    at: u64,
    /// When it came, by the clock that never goes back.
    came: Duration,
    kept: Kept,
}

#[derive(Debug)]
enum Kept {
    Message(Body),
    Gap(Gap),
    /// A newer message took its place (`inbox.collapse`): nobody gets it.
    Collapsed,
}

/// What a port gets.
#[derive(Debug)]
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
    presence: Presence,
}

#[derive(Debug)]
enum Presence {
    /// A port reads for it.
    Here(Reader),
    /// No port does, since then.
    Away(Duration),
    /// It was away for too long, since then: nothing is kept for it any more. Its place is still known, so that what it
    /// missed can be told.
    Dropped(Duration),
}

/// The port that reads for a consumer.
#[derive(Debug)]
struct Reader {
    port: PortId,
    attachment: u64,
    acknowledge: Acknowledge,
    as_text: bool,
    /// Everything up to this number has been given to the port.
    delivered: u64,
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
struct Observer {
    port: PortId,
    attachment: u64,
    as_text: bool,
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

/// How a port wants to read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Manner {
    pub(super) acknowledge: Acknowledge,
    pub(super) as_text: bool,
}

/// Where a port stands, for `opened`.
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
    /// It counts as acknowledged when it is written to the port, for this attachment.
    pub(super) attachment: Option<u64>,
}

/// Why an acknowledgement was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AckAhead {
    pub(super) delivered: u64,
}

#[derive(Debug)]
pub(super) struct Inbox {
    session: Arc<str>,
    settings: settings::Inbox,
    entries: VecDeque<Entry>,
    /// Entries without a message or a gap, among `entries`.
    holes: usize,
    bytes: usize,
    head: u64,
    /// Nothing up to this number is kept.
    floor: u64,
    consumers: Vec<Consumer>,
    observers: Vec<Observer>,
    /// How often a port was attached: what was delivered before that is on its way still may be written later.
    attachments: u64,
    /// The newest message for each key of `inbox.collapse`.
    newest: HashMap<Box<str>, u64>,
    collapsed: u64,
}

impl Inbox {
    pub(super) fn new(session: Arc<str>, settings: settings::Inbox) -> Self {
        Self {
            session,
            settings,
            entries: VecDeque::new(),
            holes: 0,
            bytes: 0,
            head: 0,
            floor: 0,
            consumers: Vec::new(),
            observers: Vec::new(),
            attachments: 0,
            newest: HashMap::new(),
            collapsed: 0,
        }
    }

    /// From now on other settings hold.
    pub(super) fn configure(&mut self, settings: settings::Inbox) {
        if self.settings.collapse != settings.collapse {
            self.newest.clear();
        }
        self.settings = settings;
        self.drop_overflow();
    }

    /// Everything is gone, and numbers begin anew; the ports that read stay.
    pub(super) fn clear(&mut self) {
        let fresh = Self::new(Arc::clone(&self.session), self.settings.clone());
        let Self { mut consumers, mut observers, attachments, .. } = std::mem::replace(self, fresh);
        self.attachments = attachments;
        consumers.retain_mut(|consumer| {
            consumer.acked = 0;
            let Presence::Here(reader) = &mut consumer.presence else { return false };
            *reader = Reader::new(reader.port, self.next_attachment(), reader.manner(), 0, 0);
            true
        });
        for observer in &mut observers {
            *observer = Observer::new(observer.port, self.next_attachment(), observer.as_text);
        }
        (self.consumers, self.observers) = (consumers, observers);
    }

    fn next_attachment(&mut self) -> u64 {
        self.attachments += 1;
        self.attachments
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    /// Whether any message waits for somebody.
    pub(super) fn has_messages(&self) -> bool {
        self.entries.iter().any(|entry| matches!(entry.kept, Kept::Message(_)))
    }

    /// Messages and gaps kept, and the bytes that they take.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.entries.len() - self.holes, self.bytes)
    }

    /// How many messages gave way to newer ones.
    pub(super) fn collapsed(&self) -> u64 {
        self.collapsed
    }

    /// Name, place and whether a port reads, of each consumer for which anything is kept.
    pub(super) fn consumers(&self) -> impl Iterator<Item = (&str, u64, bool)> {
        self.consumers
            .iter()
            .filter(|consumer| !matches!(consumer.presence, Presence::Dropped(_)))
            .map(|consumer| (&*consumer.name, consumer.acked, consumer.reader().is_some()))
    }

    /// How many ports only watch.
    pub(super) fn observers(&self) -> usize {
        self.observers.len()
    }

    /// Whether reading the server must stop until something is acknowledged.
    pub(super) fn wants_pause(&self) -> bool {
        self.settings.overflow == Overflow::Pause
            && (self.kept().0 >= self.settings.max_messages || self.bytes >= self.settings.max_bytes)
    }

    /// Appends a message.
    pub(super) fn push_message(&mut self, at: u64, now: Duration, body: Body) {
        self.collapse(&body);
        self.push(at, now, |_| Kept::Message(body));
    }

    /// Appends the mark of an outage.
    pub(super) fn push_outage(&mut self, since: u64, until: u64, now: Duration) {
        self.push(until, now, |seq| {
            let (since, until) = (Some(since.min(until)), Some(until));
            Kept::Gap(Gap { since, until, ..Gap::of(seq, GapReason::Disconnected, None) })
        });
    }

    /// Appends the mark of a message that was over the limit.
    pub(super) fn push_too_large(&mut self, at: u64, now: Duration) {
        self.push(at, now, |seq| Kept::Gap(Gap::of(seq, GapReason::TooLarge, Some(1))));
    }

    fn push(&mut self, at: u64, came: Duration, kept: impl FnOnce(u64) -> Kept) {
        self.head += 1;
        let entry = Entry { seq: self.head, at, came, kept: kept(self.head) };
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        self.drop_overflow();
    }

    /// If `body` takes the place of an older message that nobody is reading just now, that one goes.
    fn collapse(&mut self, body: &Body) {
        let Some(collapse) = &self.settings.collapse else { return };
        let Body::Json(json) = body else { return };
        if !pattern::matches(&collapse.when, json) {
            return;
        }
        let Some(key) = pattern::at(&collapse.key, json) else { return };
        let Some(older) = self.newest.insert(key.into(), self.head + 1) else {
            if self.newest.len() > 2 * self.entries.len() + 1024 {
                let floor = self.floor;
                self.newest.retain(|_, seq| *seq > floor);
            }
            return;
        };
        let index = self.index_behind(older.saturating_sub(1));
        let in_flight = self.readers().any(|reader| reader.flight.contains(older));
        let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.seq == older && !in_flight) else { return };
        if !matches!(entry.kept, Kept::Message(_)) {
            return;
        }
        self.bytes -= entry.bytes();
        entry.kept = Kept::Collapsed;
        self.holes += 1;
        self.collapsed += 1;
        self.drop_leading_holes();
        if self.holes > 1024 && self.holes > self.entries.len() / 2 {
            self.entries.retain(|entry| !matches!(entry.kept, Kept::Collapsed));
            self.holes = 0;
        }
    }

    fn drop_overflow(&mut self) {
        if self.settings.overflow == Overflow::Pause {
            return;
        }
        while (self.kept().0 > self.settings.max_messages || self.bytes > self.settings.max_bytes)
            && self.drop_oldest(GapReason::Overflow)
        {}
    }

    /// Puts the oldest entry into the gap that stands for what was dropped, at the very front. What overflows always
    /// leaves the newest entry, whatever its size, or it could never be delivered. Returns whether there was anything to
    /// drop.
    fn drop_oldest(&mut self, reason: GapReason) -> bool {
        let dropped = 1 + usize::from(self.begins_with_gap());
        if dropped + usize::from(reason == GapReason::Overflow) > self.entries.len() {
            return false;
        }
        let mut gap = Gap::of(u64::MAX, reason, Some(0));
        let (mut seq, mut at, mut came) = (0, 0, Duration::ZERO);
        for entry in self.entries.drain(..dropped) {
            self.bytes -= entry.bytes();
            gap.take_in(&entry);
            (seq, at, came) = (entry.seq, entry.at, entry.came);
        }
        let entry = Entry { seq, at, came, kept: Kept::Gap(gap) };
        self.bytes += entry.bytes();
        self.entries.push_front(entry);
        self.drop_leading_holes();
        true
    }

    /// What gave way to newer messages is no loss: nothing of it goes into a gap.
    fn drop_leading_holes(&mut self) {
        loop {
            // Whatever goes may have stood before a gap.
            let index = usize::from(self.begins_with_gap());
            if !self.entries.get(index).is_some_and(|entry| matches!(entry.kept, Kept::Collapsed)) {
                return;
            }
            self.entries.remove(index);
            self.holes -= 1;
        }
    }

    fn begins_with_gap(&self) -> bool {
        self.entries.front().is_some_and(|entry| matches!(entry.kept, Kept::Gap(_)))
    }

    /// When the next entry is too old, or a consumer was away for too long.
    pub(super) fn retained_until(&self) -> Option<Duration> {
        let oldest = self.oldest().map(|entry| entry.came);
        let away = self.consumers.iter().filter_map(|consumer| match consumer.presence {
            Presence::Away(since) => Some(since),
            _ => None,
        });
        oldest.into_iter().chain(away).min().map(|since| since.saturating_add(self.settings.retention))
    }

    /// The oldest entry that is not a gap at the very front.
    fn oldest(&self) -> Option<&Entry> {
        self.entries.get(usize::from(self.begins_with_gap()))
    }

    /// Drops what is too old, and what is kept only for consumers that were away for too long.
    pub(super) fn retain(&mut self, now: Duration) {
        let Some(limit) = now.checked_sub(self.settings.retention) else { return };
        let mut dropped = false;
        for consumer in &mut self.consumers {
            if let Presence::Away(since) = consumer.presence
                && since <= limit
            {
                consumer.presence = Presence::Dropped(since);
                dropped = true;
            }
        }
        if dropped {
            self.trim();
        }
        while self.oldest().is_some_and(|entry| entry.came <= limit) && self.drop_oldest(GapReason::Retention) {}
    }

    /// Drops what every consumer has acknowledged.
    fn trim(&mut self) {
        let holding = self.consumers.iter().filter(|consumer| !matches!(consumer.presence, Presence::Dropped(_)));
        let Some(done) = holding.map(|consumer| consumer.acked).min() else { return };
        while self.entries.front().is_some_and(|entry| entry.seq <= done)
            && let Some(entry) = self.entries.pop_front()
        {
            self.bytes -= entry.bytes();
            self.floor = entry.seq;
            self.drop_leading_holes();
        }
    }

    /// Whether `name` is a consumer or may become one.
    pub(super) fn admits(&self, name: &str) -> bool {
        let gone = |consumer: &&Consumer| matches!(consumer.presence, Presence::Dropped(_));
        self.consumers.len() - self.consumers.iter().filter(gone).count() < MAX_CONSUMERS
            || self.consumers.iter().any(|consumer| consumer.name == name)
    }

    /// Whether one more port may watch.
    pub(super) fn admits_observer(&self, port: PortId) -> bool {
        self.observers.iter().filter(|observer| observer.port != port).count() < MAX_CONSUMERS
    }

    /// `port` watches from now on.
    pub(super) fn observe(&mut self, port: PortId, as_text: bool, now: Duration) {
        self.detach(port, now);
        let attachment = self.next_attachment();
        self.observers.push(Observer::new(port, attachment, as_text));
    }

    /// `port` reads for the consumer `name` from now on, behind `after` if that is of this `epoch`, else from its place.
    /// The session's first consumer begins at 1, later ones behind the head.
    pub(super) fn attach(
        &mut self,
        port: PortId,
        name: &str,
        manner: Manner,
        after: Option<&After>,
        epoch: &str,
        now: Duration,
    ) -> Place {
        self.detach(port, now);
        let attachment = self.next_attachment();
        let (head, floor) = (self.head, self.floor);
        let other_epoch = after.is_some_and(|after| after.epoch != epoch);
        let after = after.filter(|after| after.epoch == epoch && after.seq <= head).map(|after| after.seq);
        let index = self.consumers.iter().position(|consumer| consumer.name == name).unwrap_or_else(|| {
            let first = self.consumers.is_empty();
            self.make_room();
            let acked = match after {
                Some(seq) => seq,
                None if first || other_epoch => floor,
                None => head,
            };
            self.consumers.push(Consumer { name: name.to_owned(), acked, presence: Presence::Away(now) });
            self.consumers.len() - 1
        });
        let consumer = &mut self.consumers[index];
        let begin = if other_epoch { floor } else { after.unwrap_or(consumer.acked) };
        let reader = Reader { other_epoch, ..Reader::new(port, attachment, manner, begin, head) };
        let told = u64::from(other_epoch) + u64::from(begin < floor);
        let superseded = match std::mem::replace(&mut consumer.presence, Presence::Here(reader)) {
            Presence::Here(older) => Some(older.port),
            Presence::Away(_) | Presence::Dropped(_) => None,
        };
        let acked = consumer.acked;
        let waiting = self.entries.range(self.index_behind(begin)..);
        let waiting = waiting.filter(|entry| !matches!(entry.kept, Kept::Collapsed)).count();
        Place { acked, pending: waiting as u64 + told, superseded }
    }

    /// The consumer that was dropped longest ago gives way, if there is no room for one more.
    fn make_room(&mut self) {
        if self.consumers.len() < MAX_CONSUMERS {
            return;
        }
        let dropped = self.consumers.iter().enumerate().filter_map(|(index, consumer)| match consumer.presence {
            Presence::Dropped(since) => Some((since, index)),
            _ => None,
        });
        if let Some((_, index)) = dropped.min() {
            self.consumers.remove(index);
        }
    }

    /// `port` reads and watches no more.
    pub(super) fn detach(&mut self, port: PortId, now: Duration) {
        for consumer in &mut self.consumers {
            if consumer.reader().is_some_and(|reader| reader.port == port) {
                consumer.presence = Presence::Away(now);
            }
        }
        self.observers.retain(|observer| observer.port != port);
    }

    /// Name of the consumer that `port` reads for.
    pub(super) fn consumer_of(&self, port: PortId) -> Option<&str> {
        self.consumers
            .iter()
            .find(|consumer| consumer.reader().is_some_and(|reader| reader.port == port))
            .map(|consumer| &*consumer.name)
    }

    /// How `port` wants to read; its consumer, and up to where it was given what came: an observer has neither.
    pub(super) fn manner_of(&self, port: PortId) -> Option<(Manner, Option<(&str, u64)>)> {
        let reading = self.consumers.iter().find_map(|consumer| {
            let reader = consumer.reader().filter(|reader| reader.port == port)?;
            Some((reader.manner(), Some((&*consumer.name, reader.delivered))))
        });
        reading.or_else(|| {
            let observer = self.observers.iter().find(|observer| observer.port == port)?;
            Some((Manner { acknowledge: Acknowledge::Auto, as_text: observer.as_text }, None))
        })
    }

    /// Whether `port` only watches.
    pub(super) fn is_observer(&self, port: PortId) -> bool {
        self.observers.iter().any(|observer| observer.port == port)
    }

    /// The port that reads for `consumer`.
    pub(super) fn reader_of(&self, consumer: &str) -> Option<PortId> {
        self.consumers.iter().find(|known| known.name == consumer)?.reader().map(|reader| reader.port)
    }

    /// Place and manner of each port that reads, and each that watches (without a place).
    pub(super) fn ports(&self) -> impl Iterator<Item = (PortId, Option<Acknowledge>)> {
        let readers = self.readers().map(|reader| (reader.port, Some(reader.acknowledge)));
        readers.chain(self.observers.iter().map(|observer| (observer.port, None)))
    }

    /// The consumer of `port` has processed everything up to `seq`. A number below its place changes nothing.
    pub(super) fn acknowledge(&mut self, port: PortId, seq: u64) -> Result<(), AckAhead> {
        for consumer in &mut self.consumers {
            let Presence::Here(reader) = &mut consumer.presence else { continue };
            if reader.port != port {
                continue;
            }
            if seq > reader.delivered {
                return Err(AckAhead { delivered: reader.delivered });
            }
            consumer.acked = consumer.acked.max(seq);
            if reader.flight.land(seq) {
                // It moved: if it is full again, it is full from now on.
                reader.full = None;
            }
        }
        self.trim();
        Ok(())
    }

    /// What was delivered for this attachment under `seq` is written to the browser, which acknowledges it for a port
    /// that asked for that, or watches. The port may have left since, or opened anew; then it means nothing.
    pub(super) fn written(&mut self, attachment: u64, seq: u64) {
        if let Some(observer) = self.observers.iter_mut().find(|observer| observer.attachment == attachment) {
            observer.flight.land(seq);
        }
        let auto = |reader: &&Reader| reader.attachment == attachment && reader.acknowledge == Acknowledge::Auto;
        let port = self.readers().find(auto).map(|reader| reader.port);
        if let Some(port) = port {
            // It was delivered, so it cannot be ahead.
            let _ = self.acknowledge(port, seq);
        }
    }

    /// Everything that may go out now, to `deliver`.
    pub(super) fn pump(&mut self, now: Duration, mut deliver: impl FnMut(Delivery)) {
        let Self { session, entries, consumers, head, floor, .. } = self;
        for consumer in consumers {
            if let Presence::Here(reader) = &mut consumer.presence {
                reader.pump(session, entries, *head, *floor, now, &mut deliver);
            }
        }
        for observer in &mut self.observers {
            observer.catch_up(&mut deliver);
        }
    }

    /// The newest entry, to those who only watch.
    pub(super) fn show(&mut self, mut deliver: impl FnMut(Delivery)) {
        let Some(entry) = self.entries.back() else { return };
        for observer in &mut self.observers {
            observer.show(&self.session, entry, &mut deliver);
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
        let readers = self.consumers.iter_mut().filter_map(|consumer| match &mut consumer.presence {
            Presence::Here(reader) => Some(reader),
            _ => None,
        });
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
        self.consumers.iter().filter_map(Consumer::reader)
    }

    /// Index of the first entry above `seq`.
    fn index_behind(&self, seq: u64) -> usize {
        index_behind(&self.entries, seq)
    }
}

fn index_behind(entries: &VecDeque<Entry>, seq: u64) -> usize {
    match entries.back() {
        // Whoever reads as fast as things come is asked about the last entry only.
        Some(last) if last.seq == seq + 1 => entries.len() - 1,
        _ => entries.partition_point(|entry| entry.seq <= seq),
    }
}

impl Consumer {
    fn reader(&self) -> Option<&Reader> {
        match &self.presence {
            Presence::Here(reader) => Some(reader),
            _ => None,
        }
    }
}

impl Reader {
    fn new(port: PortId, attachment: u64, manner: Manner, delivered: u64, head: u64) -> Self {
        Self {
            port,
            attachment,
            acknowledge: manner.acknowledge,
            as_text: manner.as_text,
            delivered,
            passed: delivered,
            other_epoch: false,
            replay_to: head,
            flight: Flight::default(),
            full: None,
            measured: None,
        }
    }

    fn manner(&self) -> Manner {
        Manner { acknowledge: self.acknowledge, as_text: self.as_text }
    }

    fn pump(
        &mut self,
        session: &str,
        entries: &VecDeque<Entry>,
        head: u64,
        floor: u64,
        now: Duration,
        deliver: &mut impl FnMut(Delivery),
    ) {
        let mut blocked = !self.tell_missing(floor, deliver);
        if !blocked && self.passed < head {
            for entry in entries.range(index_behind(entries, self.passed)..) {
                let Some(content) = entry.content_for(self.as_text, self.delivered) else {
                    self.passed = entry.seq;
                    continue;
                };
                let bytes = match (&content, self.measured) {
                    (Content::Message(_), Some((seq, bytes))) if seq == entry.seq => bytes,
                    _ => entry.message_bytes(session, &content),
                };
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
            (Some(_), false) => self.full = None,
            _ => {}
        }
    }

    /// Tells what lies before everything that is kept, if this port expects any of it. Returns whether all is told.
    fn tell_missing(&mut self, floor: u64, deliver: &mut impl FnMut(Delivery)) -> bool {
        if self.other_epoch {
            if !self.has_room(ENTRY_BYTES) {
                return false;
            }
            self.other_epoch = false;
            let gap = Gap::of(floor.min(1), GapReason::Epoch, None);
            self.hand_out(floor, 0, Content::Gap(gap), ENTRY_BYTES, deliver);
        }
        if self.delivered < floor {
            if !self.has_room(ENTRY_BYTES) {
                return false;
            }
            // Outages and earlier gaps may be among those numbers.
            let at_most = Some(floor - self.delivered);
            let gap = Gap { at_most, ..Gap::of(self.delivered + 1, GapReason::Retention, None) };
            self.hand_out(floor, 0, Content::Gap(gap), ENTRY_BYTES, deliver);
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
            attachment: (self.acknowledge == Acknowledge::Auto).then_some(self.attachment),
        });
    }

    /// The window: anything fits into an empty one, so that no message is too large to be delivered at all.
    fn has_room(&self, bytes: usize) -> bool {
        self.flight.messages.is_empty()
            || ((self.flight.messages.len() as u64) < WINDOW.messages
                && (self.flight.bytes + bytes) as u64 <= WINDOW.bytes)
    }
}

impl Observer {
    fn new(port: PortId, attachment: u64, as_text: bool) -> Self {
        Self { port, attachment, as_text, flight: Flight::default(), missed: None }
    }

    fn show(&mut self, session: &str, entry: &Entry, deliver: &mut impl FnMut(Delivery)) {
        let Some(content) = entry.content_for(self.as_text, 0) else { return };
        let bytes = entry.message_bytes(session, &content);
        if self.missed.is_none() && self.flight.has_room(bytes) {
            return self.hand_out(entry.seq, entry.at, content, bytes, deliver);
        }
        let (gap, seq) =
            self.missed.get_or_insert_with(|| (Gap::of(entry.from(), GapReason::ObserverLag, Some(0)), entry.seq));
        gap.take_in(entry);
        *seq = entry.seq;
    }

    /// Tells what it missed, as soon as there is room for more than that: else every other message would be a gap.
    fn catch_up(&mut self, deliver: &mut impl FnMut(Delivery)) {
        if self.flight.bytes <= OBSERVER_BYTES / 2
            && let Some((gap, seq)) = self.missed.take()
        {
            self.hand_out(seq, 0, Content::Gap(gap), ENTRY_BYTES, deliver);
        }
    }

    fn hand_out(&mut self, seq: u64, at: u64, content: Content, bytes: usize, deliver: &mut impl FnMut(Delivery)) {
        self.flight.start(seq, bytes);
        deliver(Delivery { port: self.port, seq, at, content, replay: false, attachment: Some(self.attachment) });
    }
}

impl Flight {
    fn start(&mut self, seq: u64, bytes: usize) {
        self.messages.push_back((seq, bytes));
        self.bytes += bytes;
    }

    fn contains(&self, seq: u64) -> bool {
        self.messages.binary_search_by_key(&seq, |(number, _)| *number).is_ok()
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

impl Entry {
    fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Message(body) => ENTRY_BYTES + body.len(),
            Kept::Gap(_) => ENTRY_BYTES,
            Kept::Collapsed => 0,
        }
    }

    /// The lowest number that it covers.
    fn from(&self) -> u64 {
        match &self.kept {
            Kept::Gap(gap) => gap.from,
            Kept::Message(_) | Kept::Collapsed => self.seq,
        }
    }

    /// What a port gets of this that has everything up to `delivered`: text if it asked for that, and of a gap only what
    /// it has not had as messages.
    fn content_for(&self, as_text: bool, delivered: u64) -> Option<Content> {
        Some(match &self.kept {
            Kept::Message(body) if as_text => Content::Message(body.clone().into_text()),
            Kept::Message(body) => Content::Message(body.clone()),
            Kept::Gap(gap) => {
                let from = gap.from.max(delivered + 1);
                // Only if each number stands for one missing message it is known how many are missing behind `from`.
                let dense = gap.count == Some(self.seq + 1 - gap.from);
                let count = if from == gap.from { gap.count } else { dense.then(|| self.seq + 1 - from) };
                Content::Gap(Gap { from, count, ..*gap })
            }
            Kept::Collapsed => return None,
        })
    }

    /// What it counts in a window.
    fn message_bytes(&self, session: &str, content: &Content) -> usize {
        match content {
            Content::Message(body) => message_len(session, self.seq, self.at, body),
            Content::Gap(_) => ENTRY_BYTES,
        }
    }
}

impl Gap {
    /// A gap that begins at `from`.
    fn of(from: u64, reason: GapReason, count: Option<u64>) -> Self {
        Self { from, reason, count, at_most: None, since: None, until: None }
    }

    /// `entry` is missing too.
    fn take_in(&mut self, entry: &Entry) {
        self.from = self.from.min(entry.from());
        let (more, since, until) = match &entry.kept {
            Kept::Message(_) => (Some(1), None, None),
            Kept::Gap(gap) => (gap.count, gap.since, gap.until),
            Kept::Collapsed => (Some(0), None, None),
        };
        self.count = self.count.zip(more).map(|(before, more)| before + more);
        self.since = self.since.into_iter().chain(since).min();
        self.until = self.until.into_iter().chain(until).max();
    }
}
