//! What came from the server and is not yet acknowledged by everybody, and who has read how far.
//!
//! Owns: sequence numbers, the kept messages and gaps, the consumers with their places. What a port gets next is `readers`'
//! to decide, what lies on the disk is `disk`'s. Does not know ports' features, connections or time beyond what it is told.
//!
//! Invariants: numbers only grow; the kept entries are in order of their numbers, and all above `floor`; a reader has
//! `acked ≤ delivered ≤ head`, and what is in flight to it lies between those two, unless `open` named another place. What
//! gave way to a newer message leaves a hole among the entries, but none at the front, nor right behind a gap there.

mod disk;
mod readers;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{PortId, pattern};
use crate::settings::{self, Overflow};
use crate::wire::event::{Gap, GapReason, message_len};
use crate::wire::{Acknowledge, After, Body, MAX_CONSUMERS};
use disk::Disk;
pub(super) use disk::Snapshot;
pub(super) use readers::{Content, Delivery, Manner};
use readers::{Observer, Reader};

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
    /// A message of so many bytes that only the disk has.
    OnDisk(usize),
    Gap(Box<Gap>),
    /// A newer message took its place (`inbox.collapse`), or it was the mark of an outage in which nothing was missed: nobody
    /// gets it.
    Collapsed,
}

/// What an entry has for a port.
enum Found {
    /// This.
    Here(Content),
    /// Nothing that it should get.
    Nothing,
    /// A message that must be read from the disk first.
    OnDisk,
}

/// A reader of the session with its own place.
#[derive(Debug)]
struct Consumer {
    name: String,
    /// Everything up to this number has been processed.
    acked: u64,
    presence: Presence,
    /// The disk does not know this of it.
    changed: bool,
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

/// Where a port stands, for `opened`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) acked: u64,
    pub(super) pending: u64,
    /// The port that read for this consumer until now.
    pub(super) superseded: Option<PortId>,
}

/// Why an acknowledgement was not taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AckAhead {
    pub(super) delivered: u64,
}

/// A message that a port waits for and that only the disk has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    pub(super) attachment: u64,
    pub(super) seq: u64,
}

/// What can be read, for one round of deliveries.
struct Stream<'a> {
    session: &'a str,
    entries: &'a VecDeque<Entry>,
    /// Messages that were read from the disk, by their numbers.
    page: &'a VecDeque<(u64, Body)>,
    /// Nothing up to this number is kept.
    floor: u64,
    /// Nothing above this number may be given out yet.
    limit: u64,
}

#[derive(Debug)]
pub(super) struct Inbox {
    session: Arc<str>,
    settings: settings::Inbox,
    entries: VecDeque<Entry>,
    /// Entries without a message or a gap, among `entries`.
    holes: usize,
    bytes: usize,
    /// Bytes of messages that are in memory.
    resident: usize,
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
    disk: Disk,
    /// When the last entry came.
    last_came: Duration,
    /// Something is not on the disk that should be some time.
    changed: bool,
}

impl Inbox {
    pub(super) fn new(session: Arc<str>, settings: settings::Inbox) -> Self {
        Self {
            session,
            settings,
            entries: VecDeque::new(),
            holes: 0,
            bytes: 0,
            resident: 0,
            head: 0,
            floor: 0,
            consumers: Vec::new(),
            observers: Vec::new(),
            attachments: 0,
            newest: HashMap::new(),
            collapsed: 0,
            disk: Disk::default(),
            last_came: Duration::ZERO,
            changed: false,
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
        let fresh = Self { disk: self.disk.cleared(), ..fresh };
        let Self { mut consumers, mut observers, attachments, .. } = std::mem::replace(self, fresh);
        self.attachments = attachments;
        consumers.retain_mut(|consumer| {
            (consumer.acked, consumer.changed) = (0, true);
            let Presence::Here(reader) = &mut consumer.presence else { return false };
            *reader = Reader::new(reader.port, self.next_attachment(), reader.manner, 0, 0);
            true
        });
        for observer in &mut observers {
            *observer = Observer::new(observer.port, self.next_attachment(), observer.as_text, 0);
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
        self.entries.iter().any(|entry| entry.is_message())
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

    /// Whether reading the server must stop until something is acknowledged, or safe on the disk.
    pub(super) fn wants_pause(&self) -> bool {
        (self.is_full() && self.settings.overflow == Overflow::Pause) || self.outruns_disk()
    }

    /// Whether there is no room for more.
    pub(super) fn is_full(&self) -> bool {
        self.kept().0 >= self.settings.max_messages || self.bytes >= self.settings.max_bytes || self.outgrows_memory()
    }

    /// Appends a message. What `inbox.collapse` looks for is looked for in `view`.
    pub(super) fn push_message(&mut self, at: u64, now: Duration, body: Body, view: &Body) {
        self.collapse(view);
        self.push(at, now, |_| Kept::Message(body));
    }

    /// Appends the mark of an outage; its number.
    pub(super) fn push_outage(&mut self, since: u64, until: u64, now: Duration) -> u64 {
        self.push(until, now, |seq| {
            let (since, until) = (Some(since.min(until)), Some(until));
            Kept::gap(Gap { since, until, ..Gap::of(seq, GapReason::Disconnected, None) })
        });
        self.head
    }

    /// Takes the mark of an outage back that nobody was given: nothing is missing. If older losses were put into one mark
    /// with it, that stays.
    pub(super) fn withdraw_outage(&mut self, seq: u64) {
        let index = self.index_behind(seq - 1);
        let is_it = |entry: &&mut Entry| match &entry.kept {
            Kept::Gap(gap) => entry.seq == seq && gap.reason == GapReason::Disconnected,
            _ => false,
        };
        if let Some(entry) = self.entries.get_mut(index).filter(is_it) {
            let hole = Entry { seq, at: 0, came: entry.came, kept: Kept::Collapsed };
            let mark = std::mem::replace(entry, hole);
            self.vacate(&mark);
        }
    }

    /// What stood there is gone without a trace.
    fn vacate(&mut self, gone: &Entry) {
        self.leave(gone);
        self.disk.outdate(gone.seq);
        self.changed = true;
        self.holes += 1;
        self.drop_leading_holes();
        if self.holes > 1024 && self.holes > self.entries.len() / 2 {
            self.entries.retain(|entry| !matches!(entry.kept, Kept::Collapsed));
            self.holes = 0;
        }
    }

    /// Appends the mark of a message that was over the limit.
    pub(super) fn push_too_large(&mut self, at: u64, now: Duration) {
        self.push(at, now, |seq| Kept::gap(Gap::of(seq, GapReason::TooLarge, Some(1))));
    }

    fn push(&mut self, at: u64, came: Duration, kept: impl FnOnce(u64) -> Kept) {
        self.head += 1;
        let entry = Entry { seq: self.head, at, came, kept: kept(self.head) };
        self.enter(&entry);
        self.entries.push_back(entry);
        (self.last_came, self.changed) = (came, true);
        self.drop_overflow();
    }

    /// Counts what is kept from now on.
    fn enter(&mut self, entry: &Entry) {
        self.bytes += entry.bytes();
        self.resident += entry.resident();
    }

    /// Counts no more what is not kept any more.
    fn leave(&mut self, entry: &Entry) {
        self.bytes -= entry.bytes();
        self.resident -= entry.resident();
    }

    /// If the message of this `view` takes the place of an older one that nobody is reading just now, that one goes.
    fn collapse(&mut self, view: &Body) {
        let Some(collapse) = &self.settings.collapse else { return };
        let Body::Json(json) = view else { return };
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
        let in_flight = self.readers().any(|reader| reader.has_in_flight(older));
        let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.seq == older && !in_flight) else { return };
        if !entry.is_message() {
            return;
        }
        let came = entry.came;
        let gone = std::mem::replace(entry, Entry { seq: older, at: 0, came, kept: Kept::Collapsed });
        self.collapsed += 1;
        self.vacate(&gone);
    }

    fn drop_overflow(&mut self) {
        if self.settings.overflow == Overflow::Pause {
            return;
        }
        while (self.kept().0 > self.settings.max_messages
            || self.bytes > self.settings.max_bytes
            || self.outgrows_memory())
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
        for _ in 0..dropped {
            let Some(entry) = self.entries.pop_front() else { break };
            self.leave(&entry);
            gap.take_in(&entry.missing(0));
            (seq, at, came) = (entry.seq, entry.at, entry.came);
        }
        let entry = Entry { seq, at, came, kept: Kept::gap(gap) };
        self.enter(&entry);
        self.entries.push_front(entry);
        self.changed = true;
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
                consumer.changed = true;
                dropped = true;
            }
        }
        if dropped {
            self.changed = true;
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
            self.leave(&entry);
            (self.floor, self.changed) = (entry.seq, true);
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
        self.observers.push(Observer::new(port, attachment, as_text, self.head));
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
        let known = self.consumers.iter().position(|consumer| consumer.name == name);
        let index = known.or_else(|| self.adopt_nameless(name)).unwrap_or_else(|| {
            let first = self.consumers.is_empty();
            self.make_room();
            let acked = match after {
                Some(seq) => seq,
                None if first || other_epoch => floor,
                None => head,
            };
            let presence = Presence::Away(now);
            self.consumers.push(Consumer { name: name.to_owned(), acked, presence, changed: true });
            self.consumers.len() - 1
        });
        let consumer = &mut self.consumers[index];
        let begin = if other_epoch { floor } else { after.unwrap_or(consumer.acked) };
        let reader = Reader::new(port, attachment, manner, begin, head);
        let reader = if other_epoch { reader.of_other_epoch() } else { reader };
        (consumer.changed, self.changed) = (true, true);
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
            let consumer = self.consumers.remove(index);
            self.disk.forget_consumer(consumer.name);
        }
    }

    /// `port` reads and watches no more.
    pub(super) fn detach(&mut self, port: PortId, now: Duration) {
        for consumer in &mut self.consumers {
            if consumer.reader().is_some_and(|reader| reader.port == port) {
                consumer.presence = Presence::Away(now);
                (consumer.changed, self.changed) = (true, true);
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
            Some((reader.manner, Some((&*consumer.name, reader.delivered))))
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
        let readers = self.readers().map(|reader| (reader.port, Some(reader.manner.acknowledge)));
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
            reader.land(seq);
            if seq > consumer.acked {
                consumer.acked = seq;
                (consumer.changed, self.changed) = (true, true);
            }
        }
        self.trim();
        Ok(())
    }

    /// What was delivered for this attachment under `seq` is written to the browser, which acknowledges it for a port
    /// that asked for that, or watches. The port may have left since, or opened anew; then it means nothing.
    pub(super) fn written(&mut self, attachment: u64, seq: u64) {
        if let Some(observer) = self.observers.iter_mut().find(|observer| observer.attachment == attachment) {
            observer.land(seq);
        }
        let auto = |reader: &&Reader| reader.attachment == attachment && reader.manner.acknowledge == Acknowledge::Auto;
        let port = self.readers().find(auto).map(|reader| reader.port);
        if let Some(port) = port {
            // It was delivered, so it cannot be ahead.
            let _ = self.acknowledge(port, seq);
        }
    }

    /// Everything that may go out now, to `deliver`: nothing above `limit`. Returns the number of a message that must be
    /// read from the disk before more can go out, and the attachment that it is for.
    pub(super) fn pump(&mut self, limit: u64, now: Duration, mut deliver: impl FnMut(Delivery)) -> Option<Wanted> {
        let Self { session, entries, consumers, observers, head, floor, disk, .. } = self;
        let stream = Stream { session, entries, page: disk.page(), floor: *floor, limit: limit.min(*head) };
        let mut wanted = None;
        for consumer in consumers {
            if let Presence::Here(reader) = &mut consumer.presence
                && let Some(seq) = reader.pump(&stream, now, &mut deliver)
            {
                wanted = disk.more_urgent(wanted, Wanted { attachment: reader.attachment, seq });
            }
        }
        for observer in observers {
            observer.pump(&stream, &mut deliver);
        }
        let read_by_all = self.readers().map(|reader| reader.delivered).min().unwrap_or(u64::MAX);
        self.disk.close_page(read_by_all);
        wanted
    }

    /// When the next full window is overdue.
    pub(super) fn overdue_at(&self) -> Option<Duration> {
        self.readers().filter_map(Reader::overdue_at).min()
    }

    /// The ports whose windows have just become overdue; each full window is told once.
    pub(super) fn take_overdue(&mut self, now: Duration) -> Vec<PortId> {
        let readers = self.consumers.iter_mut().filter_map(|consumer| match &mut consumer.presence {
            Presence::Here(reader) => Some(reader),
            _ => None,
        });
        readers.filter_map(|reader| reader.take_overdue(now).then_some(reader.port)).collect()
    }

    /// Whether a window has been full for too long.
    pub(super) fn is_overdue(&self) -> bool {
        self.readers().any(Reader::is_overdue)
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

impl Kept {
    fn gap(gap: Gap) -> Self {
        Self::Gap(Box::new(gap))
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        match &self.kept {
            Kept::Message(body) => ENTRY_BYTES + body.len(),
            Kept::OnDisk(length) => ENTRY_BYTES + length,
            Kept::Gap(_) => ENTRY_BYTES,
            Kept::Collapsed => 0,
        }
    }

    /// Bytes of its message that are in memory.
    fn resident(&self) -> usize {
        match &self.kept {
            Kept::Message(body) => body.len(),
            Kept::OnDisk(_) | Kept::Gap(_) | Kept::Collapsed => 0,
        }
    }

    fn is_message(&self) -> bool {
        matches!(self.kept, Kept::Message(_) | Kept::OnDisk(_))
    }

    /// The lowest number that it covers.
    fn from(&self) -> u64 {
        match &self.kept {
            Kept::Gap(gap) => gap.from,
            Kept::Message(_) | Kept::OnDisk(_) | Kept::Collapsed => self.seq,
        }
    }

    /// What a port gets of this that has everything up to `delivered`: text if it asked for that, and of a gap only what
    /// it has not had as messages.
    fn content_for(&self, as_text: bool, delivered: u64, page: &VecDeque<(u64, Body)>) -> Found {
        let message = |body: &Body| {
            let body = body.clone();
            Found::Here(Content::Message(if as_text { body.into_text() } else { body }))
        };
        match &self.kept {
            Kept::Message(body) => message(body),
            Kept::OnDisk(_) => match page.binary_search_by_key(&self.seq, |(seq, _)| *seq) {
                Ok(index) => message(&page[index].1),
                Err(_) => Found::OnDisk,
            },
            Kept::Gap(_) => Found::Here(Content::Gap(self.missing(delivered))),
            Kept::Collapsed => Found::Nothing,
        }
    }

    /// What is missing without it for a port that has everything up to `delivered`, or has missed it already.
    fn missing(&self, delivered: u64) -> Gap {
        match &self.kept {
            Kept::Message(_) | Kept::OnDisk(_) => Gap::of(self.seq, GapReason::Overflow, Some(1)),
            Kept::Gap(gap) => {
                let from = gap.from.max(delivered + 1);
                // Only if each number stands for one missing message it is known how many are missing behind `from`.
                let dense = gap.count == Some(self.seq + 1 - gap.from);
                let count = if from == gap.from { gap.count } else { dense.then(|| self.seq + 1 - from) };
                let at_most = gap.at_most.map(|most| most.min(self.seq + 1 - from));
                Gap { from, count, at_most, ..**gap }
            }
            Kept::Collapsed => Gap::of(self.seq, GapReason::Overflow, Some(0)),
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

impl Gap {
    /// A gap that begins at `from`.
    fn of(from: u64, reason: GapReason, count: Option<u64>) -> Self {
        Self { from, reason, count, at_most: None, since: None, until: None }
    }

    /// That is missing too.
    fn take_in(&mut self, other: &Self) {
        self.from = self.from.min(other.from);
        self.count = self.count.zip(other.count).map(|(before, more)| before + more);
        self.since = self.since.into_iter().chain(other.since).min();
        self.until = self.until.into_iter().chain(other.until).max();
    }
}
