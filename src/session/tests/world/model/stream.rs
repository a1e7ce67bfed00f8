//! The stream to the extension: numbers, places, windows, and what is kept for whom.

use super::*;

const ENTRY_BYTES: usize = 64;
/// More than a history has.
const ATTACHMENTS: u64 = 1 << 32;
const OVERDUE_TIME: Duration = Duration::from_secs(10);

/// Bytes of messages that are on the disk and may be in memory all the same.
const RESIDENT: usize = 1 << 20;
/// Bytes of messages that wait for the disk before the server has to.
const FLOOD: usize = 12 << 20;
/// Bytes of messages that are kept while the disk is full.
const MEMORY: usize = 16 << 20;

/// What came under one number, or stands for what is missing under several.
#[derive(Debug)]
enum Slot {
    Message(Body),
    Outage {
        since: u64,
        until: u64,
    },
    TooLarge,
    /// What a daemon that was killed may have lost.
    Crash {
        since: u64,
        until: u64,
    },
    /// What the disk lost, and how many messages that is, if it can be known.
    Damage {
        count: Option<u64>,
    },
}

#[derive(Debug)]
struct Numbered {
    /// The lowest number that it stands for.
    from: u64,
    slot: Slot,
    /// When it came, by the clock on the wall, and by the other one.
    at: u64,
    came: Duration,
}

/// Something that is to be delivered: what was dropped, or what is kept under one number.
#[derive(Debug, Clone, Copy)]
struct Thing {
    from: u64,
    seq: u64,
    dropped: bool,
}

/// The numbers that were dropped and that not everybody has acknowledged.
#[derive(Debug, Clone, PartialEq)]
struct Dropped {
    first: u64,
    last: u64,
    reasons: Vec<GapReason>,
}

#[derive(Debug, Clone, PartialEq)]
struct Consumer {
    acked: u64,
    presence: Presence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    Here,
    Away(Duration),
    /// It was away for longer than anything is kept.
    Dropped,
}

/// What is on its way to a port.
#[derive(Debug, Default)]
struct Flight {
    deliveries: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Flight {
    fn start(&mut self, seq: u64, bytes: usize) {
        self.deliveries.push_back((seq, bytes));
        self.bytes += bytes;
    }

    /// Returns whether anything arrived.
    fn land(&mut self, seq: u64) -> bool {
        let before = self.deliveries.len();
        while let Some((_, bytes)) = self.deliveries.front().filter(|(number, _)| *number <= seq) {
            self.bytes -= bytes;
            self.deliveries.pop_front();
        }
        self.deliveries.len() < before
    }
}

/// A port that reads for a consumer.
#[derive(Debug)]
struct Reader {
    consumer: &'static str,
    attachment: u64,
    auto: bool,
    text: bool,
    /// Its place was in another epoch, which it is to be told.
    other_epoch: bool,
    head_at_open: u64,
    delivered: u64,
    flight: Flight,
    stuck: Option<Stuck>,
}

/// Something waits though nothing moves.
#[derive(Debug)]
struct Stuck {
    /// Since when, at the earliest.
    since: Duration,
    /// Since when for sure: what is on the disk may have to be read before anybody knows how large it is.
    surely: Option<Duration>,
    told: bool,
}

/// A port that watches.
#[derive(Debug)]
struct Observer {
    attachment: u64,
    text: bool,
    seen: u64,
    /// What could be given out up to this number was shown to it, or missed.
    passed: u64,
    /// What it must be shown with this input: first and last number.
    due: VecDeque<(u64, u64)>,
    /// What it did not take in time.
    missed: Option<Missed>,
    flight: Flight,
}

/// What an observer did not take in time, and how many messages that is.
#[derive(Debug)]
struct Missed {
    from: u64,
    seq: u64,
    count: Option<u64>,
    since: Option<u64>,
    until: Option<u64>,
}

/// How a port opens the session.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Attaching {
    pub(in super::super) port: u64,
    pub(in super::super) attachment: u64,
    pub(in super::super) consumer: &'static str,
    pub(in super::super) observe: bool,
    pub(in super::super) auto: bool,
    pub(in super::super) text: bool,
    /// The place that it names, if any; `None` in it for one of another epoch.
    pub(in super::super) after: Option<Option<u64>>,
}

/// What is kept, and for whom.
#[derive(Debug, Clone, Default, PartialEq)]
struct Keeping {
    /// Numbers that are kept as they came, and what they cost.
    kept: VecDeque<(u64, usize)>,
    bytes: usize,
    dropped: Option<Dropped>,
    /// Numbers that gave way to newer ones, and how many did.
    collapsed: BTreeSet<u64>,
    collapses: u64,
    /// Everything up to this number was acknowledged by all for whom it was kept.
    deleted: u64,
    consumers: BTreeMap<&'static str, Consumer>,
}

/// What is kept of it, as it was when a write was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StreamPicture {
    head: u64,
    keeping: Keeping,
}

#[derive(Debug, Default)]
pub(in super::super) struct Stream {
    slots: BTreeMap<u64, Numbered>,
    head: u64,
    /// Nothing above this may be given out yet.
    limit: u64,
    keeping: Keeping,
    readers: BTreeMap<u64, Reader>,
    observers: BTreeMap<u64, Observer>,
    /// Ports of a daemon that ends.
    leaving: BTreeSet<u64>,
    /// The newest number of each key.
    newest: BTreeMap<u8, u64>,
    /// What the disk has lost, and nobody has noticed yet.
    unreadable: BTreeSet<u64>,
    /// What happened in this input.
    pub(super) met: Vec<&'static str>,
}

/// Who is there.
impl Stream {
    pub(in super::super) fn head(&self) -> u64 {
        self.head
    }

    pub(in super::super) fn reads(&self, port: u64) -> bool {
        self.readers.contains_key(&port)
    }

    pub(in super::super) fn watches(&self, port: u64) -> bool {
        self.observers.contains_key(&port)
    }

    pub(in super::super) fn is_attached(&self, port: u64) -> bool {
        self.reads(port) || self.watches(port) || self.leaving.contains(&port)
    }

    /// The daemon has ended, and its ports with it.
    pub(super) fn leave(&mut self) {
        self.leaving.clear();
    }

    /// The daemon ends: ports get nothing more of the stream, but hear what becomes of what they sent.
    pub(super) fn takes_leave(&mut self, now: Now) {
        self.leaving = self.ports().collect();
        for port in self.leaving.clone() {
            self.detach(port, now);
        }
    }

    pub(super) fn ports(&self) -> impl Iterator<Item = u64> {
        self.readers.keys().chain(self.observers.keys()).copied()
    }

    pub(super) fn consumer_of(&self, port: u64) -> Option<&'static str> {
        self.readers.get(&port).map(|reader| reader.consumer)
    }

    pub(super) fn reader_of(&self, consumer: &str) -> Option<u64> {
        self.readers.iter().find(|(_, reader)| reader.consumer == consumer).map(|(port, _)| *port)
    }

    pub(in super::super) fn consumers(&self) -> Vec<&'static str> {
        self.keeping.consumers.keys().copied().collect()
    }

    /// Place of each consumer that counts, and whether a port reads for it.
    pub(in super::super) fn places(&self) -> BTreeMap<String, (u64, bool)> {
        let counts = self.keeping.consumers.iter().filter(|(_, consumer)| consumer.presence != Presence::Dropped);
        let place = |consumer: &Consumer| (consumer.acked, consumer.presence == Presence::Here);
        counts.map(|(name, consumer)| ((*name).to_owned(), place(consumer))).collect()
    }

    pub(in super::super) fn observers(&self) -> usize {
        self.observers.len()
    }

    /// Place of the consumer for which `port` reads, and the highest number that the port has.
    pub(in super::super) fn place(&self, port: u64) -> Option<(u64, u64)> {
        self.readers.get(&port).map(|reader| (self.keeping.consumers[reader.consumer].acked, reader.delivered))
    }

    /// Whether a port that reads has `ack: auto`.
    pub(super) fn is_auto(&self, port: u64) -> Option<bool> {
        self.readers.get(&port).map(|reader| reader.auto)
    }

    /// Attaches a port; gives the one that is superseded, and what `opened` must say: place and number of replays.
    pub(super) fn attach(&mut self, attaching: Attaching, now: Now) -> (Option<u64>, u64, u64) {
        let Attaching { port, attachment, consumer, observe, auto, text, after } = attaching;
        self.detach(port, now);
        let head = self.head();
        if observe {
            let observer = Observer::new(attachment, text, head);
            self.observers.insert(port, observer);
            return (None, head, 0);
        }
        let superseded = self.reader_of(consumer);
        if let Some(older) = superseded {
            self.readers.remove(&older);
        }
        let other_epoch = after == Some(None);
        let after = after.flatten().filter(|seq| *seq <= head);
        self.met.extend(after.map(|_| "opened at a place"));
        // Consumers are created at `after` if given; else the session's first starts at 1 and later ones behind `head`.
        let first = self.keeping.consumers.is_empty();
        let place = match after {
            Some(seq) => seq,
            None if first || other_epoch => self.keeping.deleted,
            None => head,
        };
        let consumers = self.keeping.consumers.entry(consumer);
        let entry = consumers.or_insert(Consumer { acked: place, presence: Presence::Here });
        entry.presence = Presence::Here;
        let acked = entry.acked;
        let begin = if other_epoch { self.keeping.deleted } else { after.unwrap_or(acked) };
        let reader = Reader {
            consumer,
            attachment,
            auto,
            text,
            other_epoch,
            head_at_open: head,
            delivered: begin,
            flight: Flight::default(),
            stuck: None,
        };
        self.readers.insert(port, reader);
        (superseded, acked, self.pending(port))
    }

    /// How much is still to be delivered to a port that has had nothing yet; none to one that only watches.
    pub(super) fn pending(&self, port: u64) -> u64 {
        let Some(reader) = self.readers.get(&port) else { return 0 };
        let begin = reader.delivered;
        let kept = self.keeping.kept.len() - self.keeping.kept.partition_point(|(seq, _)| *seq <= begin);
        let dropped = self.keeping.dropped.as_ref().is_some_and(|dropped| dropped.last > begin);
        let told = usize::from(dropped) + usize::from(reader.other_epoch) + usize::from(begin < self.keeping.deleted);
        (kept + told) as u64
    }

    pub(super) fn detach(&mut self, port: u64, now: Now) {
        self.observers.remove(&port);
        if let Some(reader) = self.readers.remove(&port)
            && let Some(consumer) = self.keeping.consumers.get_mut(reader.consumer)
        {
            consumer.presence = Presence::Away(now.elapsed);
        }
    }

    /// An epoch begins. Ports that are attached stay, at its beginning.
    pub(super) fn forget(&mut self) {
        let Self { readers, observers, .. } = std::mem::take(self);
        for (port, reader) in readers {
            let here = Consumer { acked: 0, presence: Presence::Here };
            self.keeping.consumers.insert(reader.consumer, here);
            let (flight, delivered, head_at_open) = (Flight::default(), 0, 0);
            // What was delivered before counts no more when it is written.
            let attachment = reader.attachment + ATTACHMENTS;
            let reader =
                Reader { attachment, delivered, head_at_open, flight, stuck: None, other_epoch: false, ..reader };
            self.readers.insert(port, reader);
        }
        for (port, observer) in observers {
            let attachment = observer.attachment + ATTACHMENTS;
            self.observers.insert(port, Observer::new(attachment, observer.text, 0));
        }
    }
}

/// What comes and what goes.
impl Stream {
    pub(super) fn message(&mut self, body: Body, key: Option<u8>, inbox: &settings::Inbox, now: Now) {
        let older = key.and_then(|key| self.newest.insert(key, self.head() + 1));
        if let Some(older) = older {
            self.collapse(older);
        }
        self.push(body.len(), Slot::Message(body), inbox, now);
    }

    pub(super) fn outage(&mut self, since: u64, inbox: &settings::Inbox, now: Now) {
        let (since, until) = (since.min(now.unix_ms), now.unix_ms);
        self.push(0, Slot::Outage { since, until }, inbox, now);
    }

    pub(super) fn too_large(&mut self, inbox: &settings::Inbox, now: Now) {
        self.push(0, Slot::TooLarge, inbox, now);
    }

    /// Of waiting messages only the newest of a key is kept. One that a port is reading just now does not wait.
    fn collapse(&mut self, older: u64) {
        let being_read =
            |reader: &Reader| reader.flight.deliveries.binary_search_by_key(&older, |(seq, _)| *seq).is_ok();
        let Ok(index) = self.keeping.kept.binary_search_by_key(&older, |(seq, _)| *seq) else { return };
        if self.readers.values().any(being_read) {
            return;
        }
        let (_, bytes) = self.keeping.kept.remove(index).unwrap();
        self.keeping.bytes -= bytes;
        self.keeping.collapsed.insert(older);
        self.keeping.collapses += 1;
        self.met.push("collapsed");
    }

    /// What counts as newest of its kind begins anew.
    pub(super) fn other_collapse(&mut self) {
        self.newest.clear();
    }

    fn push(&mut self, bytes: usize, slot: Slot, inbox: &settings::Inbox, now: Now) {
        self.head += 1;
        self.keep(self.head, bytes, slot, now);
        self.keep_within(inbox);
    }

    fn keep(&mut self, from: u64, bytes: usize, slot: Slot, now: Now) {
        self.slots.insert(self.head, Numbered { from, slot, at: now.unix_ms, came: now.elapsed });
        self.keeping.kept.push_back((self.head, bytes + ENTRY_BYTES));
        self.keeping.bytes += bytes + ENTRY_BYTES;
    }

    /// Drops the oldest until the limits hold, but never the newest; nothing in pause mode.
    pub(super) fn keep_within(&mut self, inbox: &settings::Inbox) {
        if inbox.overflow == Overflow::Pause {
            return;
        }
        while self.entries() > inbox.max_messages || self.keeping.bytes > inbox.max_bytes {
            // To put a mark in place of itself frees nothing: the next one must go with it.
            let count = 1 + usize::from(self.begins_with_mark());
            if self.keeping.kept.len() <= count {
                break;
            }
            self.drop_oldest(count, GapReason::Overflow);
        }
    }

    /// On a full disk memory holds only so much, except in pause mode. What of it is on the disk and in memory all the same
    /// nobody needs to know: if that decides, the session is followed.
    /// Says whether anything had to go.
    pub(in super::super) fn keep_in_memory(
        &mut self,
        kept: (usize, usize),
        inbox: &settings::Inbox,
        disk: &Disk,
    ) -> bool {
        let before = self.entries();
        let gives_way = disk.full && inbox.overflow == Overflow::DropOldest;
        while gives_way && self.unsaved(disk) + RESIDENT > MEMORY && (self.entries(), self.keeping.bytes) != kept {
            let count = 1 + usize::from(self.begins_with_mark());
            if self.keeping.kept.len() <= count {
                break;
            }
            self.drop_oldest(count, GapReason::Overflow);
            self.met.push("dropped because the disk is full");
        }
        self.entries() != before
    }

    /// Bytes of messages that are kept and not on the disk.
    fn unsaved(&self, disk: &Disk) -> usize {
        let first = self.keeping.kept.partition_point(|(seq, _)| *seq <= disk.head());
        self.keeping.kept.range(first..).map(|(_, bytes)| bytes - ENTRY_BYTES).sum()
    }

    /// Whether the server must not be read, and whether it may be left so, because more came than the disk took; while it
    /// is full only in pause mode, for otherwise the oldest goes.
    pub(super) fn floods(&self, inbox: &settings::Inbox, disk: &Disk) -> (bool, bool) {
        let unsaved = self.unsaved(disk);
        match (disk.full, inbox.overflow) {
            (false, _) => (unsaved >= FLOOD, unsaved + RESIDENT >= FLOOD),
            (true, Overflow::Pause) => (unsaved > MEMORY, unsaved + RESIDENT > MEMORY),
            (true, Overflow::DropOldest) => (false, false),
        }
    }

    /// What was read from the disk: what is not there any more is a gap from now on.
    pub(in super::super) fn read(&mut self, from: u64, to: u64) {
        let rest = self.unreadable.split_off(&(to + 1));
        let found = std::mem::replace(&mut self.unreadable, rest);
        for seq in found {
            if seq < from {
                self.unreadable.insert(seq);
            } else if let Ok(index) = self.keeping.kept.binary_search_by_key(&seq, |(seq, _)| *seq) {
                let bytes = std::mem::replace(&mut self.keeping.kept[index].1, ENTRY_BYTES);
                self.keeping.bytes -= bytes - ENTRY_BYTES;
                self.slots.get_mut(&seq).unwrap().slot = Slot::Damage { count: Some(1) };
            }
        }
    }

    /// The disk has lost the message under `seq`, and will say so when somebody wants to read it.
    pub(in super::super) fn unreadable(&mut self, seq: u64) {
        self.unreadable.insert(seq);
    }

    /// Messages and marks that are kept, with the one for what was dropped.
    fn entries(&self) -> usize {
        self.keeping.kept.len() + usize::from(self.keeping.dropped.is_some())
    }

    fn begins_with_mark(&self) -> bool {
        self.keeping.dropped.is_none()
            && self.keeping.kept.front().is_some_and(|(seq, _)| !matches!(self.slot(*seq), Slot::Message(_)))
    }

    fn slot(&self, seq: u64) -> &Slot {
        &self.slots[&seq].slot
    }

    fn drop_oldest(&mut self, count: usize, reason: GapReason) {
        for _ in 0..count {
            let (seq, bytes) = self.keeping.kept.pop_front().unwrap();
            self.keeping.bytes -= bytes;
            let dropped = self.keeping.dropped.get_or_insert_with(|| {
                self.keeping.bytes += ENTRY_BYTES;
                Dropped { first: self.slots[&seq].from, last: seq, reasons: Vec::new() }
            });
            dropped.last = seq;
            if !dropped.reasons.contains(&reason) {
                dropped.reasons.push(reason);
            }
        }
    }

    /// The oldest that could be dropped for its age, behind the mark that stands for what is missing before it.
    fn oldest(&self) -> Option<Duration> {
        let (seq, _) = self.keeping.kept.get(usize::from(self.begins_with_mark()))?;
        Some(self.slots[seq].came)
    }

    /// Drops what is too old, and the consumers that were away for too long.
    pub(super) fn retain(&mut self, inbox: &settings::Inbox, now: Now) {
        let Some(limit) = now.elapsed.checked_sub(inbox.retention) else { return };
        let mut left = false;
        for consumer in self.keeping.consumers.values_mut() {
            if matches!(consumer.presence, Presence::Away(since) if since <= limit) {
                consumer.presence = Presence::Dropped;
                left = true;
                self.met.push("a consumer is removed");
            }
        }
        if left {
            self.trim();
        }
        while self.oldest().is_some_and(|came| came <= limit) {
            self.drop_oldest(1 + usize::from(self.begins_with_mark()), GapReason::Retention);
        }
    }

    pub(super) fn check_retention(&self, inbox: &settings::Inbox, now: Now) {
        let Some(limit) = now.elapsed.checked_sub(inbox.retention) else { return };
        assert!(self.oldest().is_none_or(|came| came > limit), "a message is kept for longer than `retention_ms`");
        let stays = |consumer: &Consumer| matches!(consumer.presence, Presence::Away(since) if since <= limit);
        assert!(
            !self.keeping.consumers.values().any(stays),
            "a consumer away for longer than `retention_ms` is removed"
        );
    }

    /// A message is deleted when every consumer has acknowledged it.
    fn trim(&mut self) {
        let held = self.keeping.consumers.values().filter(|consumer| consumer.presence != Presence::Dropped);
        let Some(done) = held.map(|consumer| consumer.acked).min() else { return };
        if let Some(dropped) = self.keeping.dropped.take_if(|dropped| dropped.last <= done) {
            self.keeping.bytes -= ENTRY_BYTES;
            self.keeping.deleted = dropped.last;
        }
        while let Some((seq, bytes)) = self.keeping.kept.front().filter(|(seq, _)| *seq <= done) {
            self.keeping.bytes -= bytes;
            self.keeping.deleted = *seq;
            self.keeping.kept.pop_front();
        }
        self.keeping.collapsed = self.keeping.collapsed.split_off(&(self.keeping.deleted + 1));
    }

    /// The consumer of `port` has processed everything up to `seq`.
    pub(super) fn ack(&mut self, port: u64, seq: u64) -> Result<(), Code> {
        let Some(reader) = self.readers.get_mut(&port) else { return Err(self.no_place(port)) };
        if seq > reader.delivered {
            return Err(Code::AckAhead);
        }
        let consumer = self.keeping.consumers.get_mut(reader.consumer).unwrap();
        consumer.acked = seq.max(consumer.acked);
        if reader.flight.land(seq) {
            reader.stuck = None;
        }
        self.trim();
        Ok(())
    }

    /// What a port is told that asks for what needs a place, and has none.
    pub(super) fn no_place(&self, port: u64) -> Code {
        if self.watches(port) { Code::ReadOnly } else { Code::UnknownSession }
    }

    /// The browser has what was delivered under `seq` when the port was attached for the `attachment`th time.
    pub(in super::super) fn written(&mut self, port: u64, attachment: u64, seq: u64) {
        if let Some(observer) = self.observers.get_mut(&port).filter(|observer| observer.attachment == attachment) {
            observer.flight.land(seq);
        }
        let reader = self.readers.get(&port);
        if reader.is_some_and(|reader| reader.auto && reader.attachment == attachment) {
            self.ack(port, seq).unwrap();
        }
    }

    pub(super) fn is_full(&self, inbox: &settings::Inbox) -> bool {
        self.entries() >= inbox.max_messages || self.keeping.bytes >= inbox.max_bytes
    }

    pub(super) fn holds_messages(&self) -> bool {
        self.keeping.kept.iter().any(|(seq, _)| matches!(self.slot(*seq), Slot::Message { .. }))
    }

    pub(super) fn is_done(&self) -> bool {
        let head = self.head();
        self.readers.values().all(|reader| reader.delivered == head || self.keeping.kept.is_empty())
            && self.entries() == 0
            && self.readers.values().all(|reader| reader.flight.deliveries.is_empty())
    }
}

/// What a port is given.
impl Stream {
    /// Nothing above `limit` may be given out: what is not above it and was not given out before goes out now.
    pub(in super::super) fn pass(&mut self, limit: u64) {
        self.limit = limit;
        let mut observers = std::mem::take(&mut self.observers);
        for observer in observers.values_mut() {
            let mut promised = Flight { bytes: observer.flight.bytes, ..Flight::default() };
            let idle = observer.flight.deliveries.is_empty();
            for thing in self.behind(observer.passed).take_while(|thing| thing.seq <= limit) {
                let from = thing.from.max(observer.passed + 1);
                let bytes = self.bytes(thing, observer.text);
                // An observer more than 1 MiB behind skips ahead.
                let first = idle && promised.deliveries.is_empty();
                if observer.missed.is_none() && (first || promised.bytes + bytes <= OBSERVER_BYTES) {
                    promised.start(thing.seq, bytes);
                    observer.due.push_back((from, thing.seq));
                } else {
                    let (count, since, until) = self.missing(thing.from, thing.seq);
                    // Of a part it is known only if each number stands for one message.
                    let dense = count == Some(thing.seq + 1 - thing.from);
                    let count = if from == thing.from { count } else { dense.then(|| thing.seq + 1 - from) };
                    let missed = observer.missed.get_or_insert(Missed { from, seq: 0, count: Some(0), since, until });
                    missed.seq = thing.seq;
                    missed.count = missed.count.zip(count).map(|(before, more)| before + more);
                    missed.since = missed.since.into_iter().chain(since).min();
                    missed.until = missed.until.into_iter().chain(until).max();
                }
                observer.passed = thing.seq;
            }
        }
        self.observers = observers;
    }

    /// What is to be delivered behind a number, in order.
    fn behind(&self, seq: u64) -> impl Iterator<Item = Thing> {
        let Keeping { kept, dropped, .. } = &self.keeping;
        let dropped = dropped.as_ref().filter(|dropped| dropped.last > seq);
        let dropped = dropped.map(|dropped| Thing { from: dropped.first, seq: dropped.last, dropped: true });
        let kept = kept.range(kept.partition_point(|(kept, _)| *kept <= seq)..);
        let kept = kept.map(|(seq, _)| Thing { from: self.slots[seq].from, seq: *seq, dropped: false });
        dropped.into_iter().chain(kept)
    }

    fn bytes(&self, thing: Thing, text: bool) -> usize {
        if thing.dropped { ENTRY_BYTES } else { self.slots[&thing.seq].bytes(thing.seq, text) }
    }

    /// A message is delivered; gives the attachment for which it counts when it is written, if it does.
    pub(in super::super) fn delivered(
        &mut self,
        port: u64,
        seq: u64,
        at: u64,
        body: &Body,
        replay: bool,
    ) -> (Option<u64>, usize) {
        let Slot::Message(sent) = self.slot(seq) else { panic!("{seq} is no message") };
        let text = self.observers.get(&port).map_or_else(|| self.readers[&port].text, |observer| observer.text);
        let bytes = self.slots[&seq].bytes(seq, text);
        let expected = if text { sent.clone().into_text() } else { sent.clone() };
        let same = self.slots[&seq].at == at && same(&expected, body);
        assert!(same, "payloads pass through untouched, but {seq} does not");
        if let Some(observer) = self.observers.get_mut(&port) {
            return (Some(observer.see(seq, seq, replay, bytes)), bytes);
        }
        let kept = self.keeping.kept.binary_search_by_key(&seq, |(seq, _)| *seq).is_ok();
        assert!(kept, "{seq} is delivered though it is kept no more");
        (self.hand_out(port, seq, seq, replay, bytes), bytes)
    }

    /// The same for a gap.
    pub(in super::super) fn gap(&mut self, port: u64, seq: u64, gap: Gap, replay: bool) -> Option<u64> {
        assert!(gap.since.zip(gap.until).is_none_or(|(since, until)| since <= until), "a gap ends before it begins");
        let missing_before = gap.reason == GapReason::Retention && seq <= self.keeping.deleted;
        match gap.reason {
            GapReason::ObserverLag => {
                let observer = self.observers.get_mut(&port).expect("only an observer skips ahead");
                let missed = observer.missed.take().expect("an observer less than 1 MiB behind gets everything");
                let flight = observer.flight.bytes + ENTRY_BYTES;
                assert!(flight <= OBSERVER_BYTES, "an observer that is full is told more");
                // What gave way meanwhile came live to everybody else.
                let Missed { from, seq: last, count, since, until } = missed;
                assert_eq!(seq, last, "an observer that was behind skips ahead to what is new");
                assert_eq!(gap, Gap { from, reason: gap.reason, count, at_most: None, since, until });
                observer.due.push_back((from, seq));
            }
            GapReason::Epoch => {
                let reader = self.readers.get_mut(&port).expect("an observer names no place");
                assert!(std::mem::take(&mut reader.other_epoch), "the place was in this epoch");
                let deleted = self.keeping.deleted;
                assert_eq!((gap.from, seq), (deleted.min(1), deleted), "and then what is kept");
                assert_eq!((gap.count, gap.at_most), (None, None));
                reader.delivered = seq;
                return reader.count(seq, replay, ENTRY_BYTES);
            }
            GapReason::Retention if missing_before => {
                assert_eq!(seq, self.keeping.deleted, "all that is missing before what is kept");
                assert_eq!((gap.count, gap.at_most), (None, Some(seq + 1 - gap.from)));
                let reader = self.readers.get_mut(&port).expect("an observer names no place");
                assert_eq!(gap.from, reader.delivered + 1, "a place older than what is kept gets a gap");
                reader.delivered = seq;
                return reader.count(seq, replay, ENTRY_BYTES);
            }
            GapReason::Overflow | GapReason::Retention => self.check_dropped(port, seq, &gap),
            _ => self.check_mark(port, seq, gap),
        }
        if let Some(observer) = self.observers.get_mut(&port) {
            return Some(observer.see(gap.from, seq, replay, ENTRY_BYTES));
        }
        self.hand_out(port, gap.from, seq, replay, ENTRY_BYTES)
    }

    /// A gap that has a number of its own, or stands for several.
    fn check_mark(&self, port: u64, seq: u64, gap: Gap) {
        let mark = &self.slots[&seq];
        let from = mark.from.max(self.has(port) + 1);
        let length = seq + 1 - from;
        let (reason, count, at_most, since, until) = match mark.slot {
            Slot::Outage { since, until } => (GapReason::Disconnected, None, None, Some(since), Some(until)),
            Slot::TooLarge => (GapReason::TooLarge, Some(1), None, None, None),
            Slot::Crash { since, until } => (GapReason::Crash, None, Some(length), Some(since), Some(until)),
            Slot::Damage { count: Some(_) } => (GapReason::Damage, Some(length), None, None, None),
            Slot::Damage { count: None } => (GapReason::Damage, None, Some(length), None, None),
            Slot::Message(_) => panic!("{seq} is there, and no {gap:?}"),
        };
        assert_eq!(gap, Gap { from, reason, count, at_most, since, until }, "{mark:?}");
    }

    /// Everything up to this number was given to the port.
    fn has(&self, port: u64) -> u64 {
        let observer = || self.observers[&port].seen;
        self.readers.get(&port).map_or_else(observer, |reader| reader.delivered)
    }

    fn check_dropped(&self, port: u64, seq: u64, gap: &Gap) {
        let dropped = self.keeping.dropped.as_ref().expect("something was dropped");
        assert_eq!(seq, dropped.last);
        assert_eq!(gap.from, dropped.first.max(self.has(port) + 1), "what it has had as messages is no gap");
        assert!(dropped.reasons.contains(&gap.reason), "nothing was lost by {:?}", gap.reason);
        let (whole, since, until) = self.missing(dropped.first, seq);
        let (exact, ..) = self.missing(gap.from, seq);
        let in_part = gap.from > dropped.first && whole.is_none_or(|whole| whole < seq + 1 - dropped.first);
        assert!(exact != Some(0), "a gap in which nothing is missing");
        assert!(gap.count == exact || (in_part && gap.count.is_none()), "the count is exact: {exact:?}, not {gap:?}");
        assert_eq!((gap.since, gap.until), (since, until));
    }

    fn hand_out(&mut self, port: u64, from: u64, seq: u64, replay: bool, bytes: usize) -> Option<u64> {
        let reader = self.readers.get_mut(&port).expect("a delivery to a port that reads");
        assert!(seq <= self.limit, "{seq} is given out, and a daemon that is killed now may use it again");
        assert!(!reader.other_epoch, "the other epoch is told first");
        assert!(reader.delivered >= self.keeping.deleted, "what is missing before is told first");
        assert!(from > reader.delivered, "{from} is delivered again, or out of order");
        let mut between = self.slots.range(reader.delivered + 1..from);
        let lost = between.find(|(number, _)| !self.keeping.collapsed.contains(number));
        assert!(lost.is_none(), "lost unreported: between {} and {from}", reader.delivered);
        reader.delivered = seq;
        reader.count(seq, replay, bytes)
    }

    pub(super) fn told_overdue(&mut self, port: u64, now: Now) {
        let stuck = self.readers.get_mut(&port).and_then(|reader| reader.stuck.as_mut());
        let stuck = stuck.expect("a window that stands");
        assert!(
            !stuck.told && stuck.since + OVERDUE_TIME <= now.elapsed,
            "a full window that stands for 10 s is told once"
        );
        stuck.told = true;
    }

    pub(super) fn check_overdue(&self, now: Now) {
        for reader in self.readers.values() {
            let untold = reader.stuck.as_ref().filter(|stuck| !stuck.told).and_then(|stuck| stuck.surely);
            let overdue = untold.is_some_and(|since| since + OVERDUE_TIME <= now.elapsed);
            assert!(!overdue, "a full window that stands for 10 s is told: {reader:?}");
        }
    }

    /// Whether a gap leaves out something that was dropped.
    pub(in super::super) fn has_dropped_before(&self, from: u64, last: u64) -> bool {
        let dropped = self.keeping.dropped.as_ref();
        dropped.is_some_and(|dropped| dropped.last == last && dropped.first < from)
    }

    pub(in super::super) fn is_a_window_full_of_messages(&self) -> bool {
        self.readers.values().any(|reader| reader.flight.deliveries.len() == WINDOW.messages as usize)
    }

    /// What holds after every input.
    pub(super) fn check(&mut self, session: &Session, inbox: &settings::Inbox, disk: &Disk, now: Now) {
        assert_eq!(session.inbox.kept(), (self.entries(), self.keeping.bytes), "what is kept");
        assert_eq!(session.inbox.collapsed(), self.keeping.collapses, "what gave way is counted");
        let few = self.keeping.kept.len() <= 2;
        if inbox.overflow == Overflow::DropOldest {
            assert!(self.entries() <= inbox.max_messages || few, "more messages are kept than `max_messages`");
            assert!(self.keeping.bytes <= inbox.max_bytes || few, "more is kept than `max_bytes`");
            assert!(!disk.full || self.unsaved(disk) <= MEMORY || few, "memory holds too much while the disk is full");
        }
        let mut readers = std::mem::take(&mut self.readers);
        for (port, reader) in &mut readers {
            let unaware = reader.other_epoch || reader.delivered < self.keeping.deleted;
            let next = self.behind(reader.delivered).next();
            self.met.extend(next.filter(|next| next.seq > self.limit).map(|_| "waits for the disk to write"));
            let next = next.filter(|next| next.seq <= self.limit);
            let bytes = if unaware { Some(ENTRY_BYTES) } else { next.map(|next| self.bytes(next, reader.text)) };
            let Some(bytes) = bytes else {
                reader.stuck = None;
                continue;
            };
            let may_be_read = !unaware && next.is_some_and(|next| self.is_message(next) && disk.reads(next.seq));
            if reader.has_room(bytes) {
                assert!(may_be_read, "{next:?} is withheld from port {port}");
                self.met.push("waits for the disk to read");
                continue;
            }
            let has_room = reader.has_room(1);
            let stuck = reader.stuck.get_or_insert(Stuck { since: now.elapsed, surely: None, told: false });
            if !may_be_read || !has_room {
                stuck.surely.get_or_insert(now.elapsed);
            }
        }
        self.readers = readers;
        for (port, observer) in &self.observers {
            assert!(observer.due.is_empty(), "observer {port} was not shown something: {observer:?}");
            let waits = observer.missed.is_some() && observer.flight.deliveries.is_empty();
            assert!(!waits, "observer {port} waits, though nothing is on its way");
        }
    }

    fn is_message(&self, thing: Thing) -> bool {
        !thing.dropped && matches!(self.slot(thing.seq), Slot::Message(_))
    }

    /// How many messages of the server are missing if these numbers are; nobody can know if there was an outage. And when
    /// those outages were. What gave way is no loss.
    fn missing(&self, from: u64, to: u64) -> (Option<u64>, Option<u64>, Option<u64>) {
        let (mut count, mut begin, mut end) = (Some(0), None, None);
        for (seq, numbered) in self.slots.range(from..=to).filter(|(seq, _)| !self.keeping.collapsed.contains(seq)) {
            match numbered.slot {
                Slot::Outage { since, until } | Slot::Crash { since, until } => {
                    count = None;
                    begin = begin.into_iter().chain([since]).min();
                    end = end.into_iter().chain([until]).max();
                }
                Slot::Damage { count: None } => count = None,
                Slot::Damage { count: Some(_) } => {
                    count = count.map(|count| count + seq + 1 - numbered.from.max(from));
                }
                Slot::Message(_) | Slot::TooLarge => count = count.map(|count| count + 1),
            }
        }
        (count, begin, end)
    }
}

/// When the daemon is killed.
impl Stream {
    pub(super) fn picture(&self) -> StreamPicture {
        StreamPicture { head: self.head, keeping: self.keeping.clone() }
    }

    /// The first outage of which only the number is written.
    pub(super) fn young_outage(&self, picture: &StreamPicture, record: &Record) -> Option<u64> {
        let young = picture.keeping.kept.iter().filter(|(seq, _)| *seq > record.sheet.head);
        let outages = young.filter_map(|(seq, _)| match self.slot(*seq) {
            Slot::Outage { since, .. } => Some(*since),
            _ => None,
        });
        outages.min()
    }

    /// The picture without what is too young to be on the disk.
    pub(super) fn without_young(picture: &StreamPicture, record: &Record) -> StreamPicture {
        let StreamPicture { mut keeping, .. } = picture.clone();
        keeping.kept.retain(|(seq, _)| *seq <= record.sheet.head);
        StreamPicture { head: record.sheet.head, keeping }
    }

    /// What was written is there again, and what may have been lost is told. Returns since when there must have been an
    /// outage to tell of the rest.
    pub(super) fn restart(
        &mut self,
        picture: StreamPicture,
        record: &Record,
        inbox: &settings::Inbox,
        now: Now,
    ) -> Option<u64> {
        let StreamPicture { head: came, keeping } = picture;
        let sheet = &record.sheet;
        assert_eq!((sheet.floor, sheet.collapsed), (keeping.deleted, keeping.collapses));
        let whole = sheet.head == sheet.reserved;
        assert!(came <= sheet.reserved && (came == sheet.head || !whole), "lost unreported: up to {came}, {sheet:?}");
        let lost = self.slots.split_off(&(sheet.head + 1));
        let mut outage = None;
        for (seq, lost) in lost.into_iter().filter(|(seq, _)| !self.keeping.collapsed.contains(seq)) {
            let needed = seq > self.keeping.deleted;
            let since = match lost.slot {
                Slot::Outage { since, .. } if needed => since,
                _ if needed && seq > sheet.reserved => lost.at,
                _ => continue,
            };
            outage = outage.into_iter().chain([since]).min();
        }
        let (met, places) = (std::mem::take(&mut self.met), std::mem::take(&mut self.keeping.consumers));
        let (slots, unreadable) = (std::mem::take(&mut self.slots), std::mem::take(&mut self.unreadable));
        *self = Self { slots, head: sheet.head, keeping, unreadable, met, ..Self::default() };
        self.keeping.kept.retain(|(seq, _)| *seq <= sheet.head);
        self.find_damage(record, now);
        self.keeping.bytes = self.keeping.kept.iter().map(|(_, bytes)| bytes).sum();
        self.keeping.bytes += if self.keeping.dropped.is_some() { ENTRY_BYTES } else { 0 };
        for (seq, _) in &self.keeping.kept {
            let kept = self.slots.get_mut(seq).unwrap();
            kept.came = now.elapsed_at(kept.at);
        }
        self.read_bookmarks(&places, record, now);
        if sheet.reserved > sheet.head {
            self.head = sheet.reserved;
            let (since, until) = (sheet.written_at.min(now.unix_ms), now.unix_ms);
            self.keep(sheet.head + 1, 0, Slot::Crash { since, until }, now);
        } else {
            self.met.push("restarted without a loss");
        }
        self.keep_within(inbox);
        outage
    }

    fn read_bookmarks(&mut self, places: &BTreeMap<&'static str, Consumer>, record: &Record, now: Now) {
        assert_eq!(record.bookmarks.len(), self.keeping.consumers.len(), "{:?}", record.bookmarks);
        for bookmark in &record.bookmarks {
            let consumer = self.keeping.consumers.get_mut(&*bookmark.consumer).expect("a consumer that there was");
            assert_eq!(bookmark.acked, consumer.acked, "the place of {}", bookmark.consumer);
            let before = places.get(&*bookmark.consumer).is_some_and(|before| before.acked > bookmark.acked);
            self.met.extend(before.then_some("a place falls back"));
            let dropped = consumer.presence == Presence::Dropped;
            let here = consumer.presence == Presence::Here;
            assert_eq!((bookmark.dropped, bookmark.left_at.is_none()), (dropped, here));
            if !dropped {
                let left = bookmark.left_at.map_or(now.elapsed, |at| now.elapsed_at(at));
                consumer.presence = Presence::Away(left);
            }
        }
    }

    /// What should be there and is not is a gap. If something gave way to newer messages, nobody can know how much.
    fn find_damage(&mut self, record: &Record, now: Now) {
        let rows: BTreeSet<_> = record.arrivals.iter().map(|row| row.seq).collect();
        let Keeping { kept, dropped, deleted, .. } = &mut self.keeping;
        let before = kept.len() + usize::from(dropped.is_some());
        kept.retain(|(seq, _)| rows.contains(seq));
        dropped.take_if(|dropped| !rows.contains(&dropped.last));
        let missing = before - kept.len() - usize::from(dropped.is_some());
        if missing == 0 {
            return;
        }
        self.unreadable.retain(|seq| rows.contains(seq));
        let mut next = *deleted + 1;
        let end = Thing { from: self.head + 1, seq: self.head, dropped: false };
        let mut holes = Vec::new();
        for thing in self.behind(self.keeping.deleted).chain([end]) {
            if next < thing.from {
                holes.push((next, thing.from - 1));
            }
            next = thing.seq + 1;
        }
        let width: u64 = holes.iter().map(|(from, to)| to + 1 - from).sum();
        for (from, to) in holes {
            self.slots.retain(|seq, _| !(from..=to).contains(seq));
            // Whatever gave way there is not told from what was lost.
            self.keeping.collapsed.retain(|seq| !(from..=to).contains(seq));
            let count = (width == missing as u64).then_some(to + 1 - from);
            let damage = Numbered { from, slot: Slot::Damage { count }, at: now.unix_ms, came: now.elapsed };
            self.slots.insert(to, damage);
            let index = self.keeping.kept.partition_point(|(seq, _)| *seq < to);
            self.keeping.kept.insert(index, (to, ENTRY_BYTES));
        }
    }
}

impl Numbered {
    /// What it counts in a window.
    fn bytes(&self, seq: u64, text: bool) -> usize {
        match &self.slot {
            Slot::Message(body) if text => message_len("s", seq, self.at, &body.clone().into_text()),
            Slot::Message(body) => message_len("s", seq, self.at, body),
            _ => ENTRY_BYTES,
        }
    }
}

impl Reader {
    /// A message goes out if nothing is in flight or if it fits.
    fn has_room(&self, bytes: usize) -> bool {
        let Flight { deliveries, bytes: in_flight } = &self.flight;
        deliveries.is_empty()
            || (deliveries.len() < WINDOW.messages as usize && in_flight + bytes <= WINDOW.bytes as usize)
    }

    fn count(&mut self, seq: u64, replay: bool, bytes: usize) -> Option<u64> {
        assert!(self.has_room(bytes), "at most `window` messages and bytes are in flight: {seq} is above that");
        assert_eq!(replay, seq <= self.head_at_open, "replay: its seq is not above `opened.head`");
        self.flight.start(seq, bytes);
        self.auto.then_some(self.attachment)
    }
}

impl Observer {
    fn new(attachment: u64, text: bool, head: u64) -> Self {
        let (due, flight) = (VecDeque::new(), Flight::default());
        Self { attachment, text, seen: head, passed: head, due, missed: None, flight }
    }

    fn see(&mut self, from: u64, seq: u64, replay: bool, bytes: usize) -> u64 {
        assert_eq!(self.due.pop_front(), Some((from, seq)), "an observer gets everything live, in order");
        assert!(!replay);
        self.seen = seq;
        self.flight.start(seq, bytes);
        self.attachment
    }
}
