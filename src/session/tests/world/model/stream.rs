//! The stream to the extension: numbers, places, windows, and what is kept for whom.

use super::*;

const ENTRY_BYTES: usize = 64;
/// More than a history has.
const ATTACHMENTS: u64 = 1 << 32;
const OVERDUE_TIME: Duration = Duration::from_secs(10);

/// What came under one number.
#[derive(Debug)]
enum Slot {
    Message { at: u64, body: Body },
    Outage { since: u64, until: u64 },
    TooLarge,
}

#[derive(Debug)]
struct Numbered {
    slot: Slot,
    came: Duration,
    /// It gave way to a newer one.
    collapsed: bool,
}

/// The numbers that were dropped and that not everybody has acknowledged.
#[derive(Debug)]
struct Dropped {
    first: u64,
    last: u64,
    reasons: Vec<GapReason>,
}

#[derive(Debug)]
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
    /// Since when something waits though nothing moves, and whether that was told.
    stuck: Option<(Duration, bool)>,
}

/// A port that watches.
#[derive(Debug)]
struct Observer {
    attachment: u64,
    text: bool,
    seen: u64,
    /// It did not take what is above `seen` in time.
    behind: bool,
    flight: Flight,
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

#[derive(Debug, Default)]
pub(in super::super) struct Stream {
    slots: Vec<Numbered>,
    /// Numbers that are kept as they came, and what they cost.
    kept: VecDeque<(u64, usize)>,
    kept_bytes: usize,
    dropped: Option<Dropped>,
    /// Everything up to this number was acknowledged by all for whom it was kept.
    deleted: u64,
    consumers: BTreeMap<&'static str, Consumer>,
    readers: BTreeMap<u64, Reader>,
    observers: BTreeMap<u64, Observer>,
    /// The newest number of each key.
    newest: BTreeMap<u8, u64>,
    collapsed: u64,
    /// What happened in this input.
    pub(super) met: Vec<&'static str>,
}

/// Who is there.
impl Stream {
    pub(in super::super) fn head(&self) -> u64 {
        self.slots.len() as u64
    }

    pub(in super::super) fn reads(&self, port: u64) -> bool {
        self.readers.contains_key(&port)
    }

    pub(in super::super) fn watches(&self, port: u64) -> bool {
        self.observers.contains_key(&port)
    }

    pub(in super::super) fn is_attached(&self, port: u64) -> bool {
        self.reads(port) || self.watches(port)
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
        self.consumers.keys().copied().collect()
    }

    /// Place of each consumer that counts, and whether a port reads for it.
    pub(in super::super) fn places(&self) -> BTreeMap<String, (u64, bool)> {
        let counts = self.consumers.iter().filter(|(_, consumer)| consumer.presence != Presence::Dropped);
        let place = |consumer: &Consumer| (consumer.acked, consumer.presence == Presence::Here);
        counts.map(|(name, consumer)| ((*name).to_owned(), place(consumer))).collect()
    }

    pub(in super::super) fn observers(&self) -> usize {
        self.observers.len()
    }

    /// Place of the consumer for which `port` reads, and the highest number that the port has.
    pub(in super::super) fn place(&self, port: u64) -> Option<(u64, u64)> {
        self.readers.get(&port).map(|reader| (self.consumers[reader.consumer].acked, reader.delivered))
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
            let observer = Observer { attachment, text, seen: head, behind: false, flight: Flight::default() };
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
        let first = self.consumers.is_empty();
        let place = match after {
            Some(seq) => seq,
            None if first || other_epoch => self.deleted,
            None => head,
        };
        let consumers = self.consumers.entry(consumer);
        let entry = consumers.or_insert(Consumer { acked: place, presence: Presence::Here });
        entry.presence = Presence::Here;
        let acked = entry.acked;
        let begin = if other_epoch { self.deleted } else { after.unwrap_or(acked) };
        let kept = self.kept.len() - self.kept.partition_point(|(seq, _)| *seq <= begin);
        let dropped = self.dropped.as_ref().is_some_and(|dropped| dropped.last > begin);
        let told = usize::from(dropped) + usize::from(other_epoch) + usize::from(begin < self.deleted);
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
        (superseded, acked, (kept + told) as u64)
    }

    pub(super) fn detach(&mut self, port: u64, now: Now) {
        self.observers.remove(&port);
        if let Some(reader) = self.readers.remove(&port)
            && let Some(consumer) = self.consumers.get_mut(reader.consumer)
        {
            consumer.presence = Presence::Away(now.elapsed);
        }
    }

    /// An epoch begins. Ports that are attached stay, at its beginning.
    pub(super) fn forget(&mut self) {
        let Self { readers, observers, .. } = std::mem::take(self);
        for (port, reader) in readers {
            let here = Consumer { acked: 0, presence: Presence::Here };
            self.consumers.insert(reader.consumer, here);
            let (flight, delivered, head_at_open) = (Flight::default(), 0, 0);
            // What was delivered before counts no more when it is written.
            let attachment = reader.attachment + ATTACHMENTS;
            let reader =
                Reader { attachment, delivered, head_at_open, flight, stuck: None, other_epoch: false, ..reader };
            self.readers.insert(port, reader);
        }
        for (port, observer) in observers {
            let attachment = observer.attachment + ATTACHMENTS;
            let observer = Observer { attachment, seen: 0, behind: false, flight: Flight::default(), ..observer };
            self.observers.insert(port, observer);
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
        self.push(body.len(), Slot::Message { at: now.unix_ms, body }, inbox, now);
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
        let Ok(index) = self.kept.binary_search_by_key(&older, |(seq, _)| *seq) else { return };
        if self.readers.values().any(being_read) {
            return;
        }
        let (_, bytes) = self.kept.remove(index).unwrap();
        self.kept_bytes -= bytes;
        self.slots[older as usize - 1].collapsed = true;
        self.collapsed += 1;
        self.met.push("collapsed");
    }

    /// What counts as newest of its kind begins anew.
    pub(super) fn other_collapse(&mut self) {
        self.newest.clear();
    }

    fn push(&mut self, bytes: usize, slot: Slot, inbox: &settings::Inbox, now: Now) {
        self.slots.push(Numbered { slot, came: now.elapsed, collapsed: false });
        let head = self.head();
        self.kept.push_back((head, bytes + ENTRY_BYTES));
        self.kept_bytes += bytes + ENTRY_BYTES;
        let slot = &self.slots[head as usize - 1].slot;
        for observer in self.observers.values_mut() {
            // An observer more than 1 MiB behind skips ahead.
            let fits = observer.flight.deliveries.is_empty()
                || observer.flight.bytes + slot.bytes(head, observer.text) <= OBSERVER_BYTES;
            observer.behind |= !fits;
        }
        self.keep_within(inbox);
    }

    /// Drops the oldest until the limits hold, but never the newest; nothing in pause mode.
    pub(super) fn keep_within(&mut self, inbox: &settings::Inbox) {
        if inbox.overflow == Overflow::Pause {
            return;
        }
        while self.entries() > inbox.max_messages || self.kept_bytes > inbox.max_bytes {
            // To put a mark in place of itself frees nothing: the next one must go with it.
            let count = 1 + usize::from(self.begins_with_mark());
            if self.kept.len() <= count {
                break;
            }
            self.drop_oldest(count, GapReason::Overflow);
        }
    }

    /// Messages and marks that are kept, with the one for what was dropped.
    fn entries(&self) -> usize {
        self.kept.len() + usize::from(self.dropped.is_some())
    }

    fn begins_with_mark(&self) -> bool {
        self.dropped.is_none()
            && self.kept.front().is_some_and(|(seq, _)| !matches!(self.slot(*seq), Slot::Message { .. }))
    }

    fn slot(&self, seq: u64) -> &Slot {
        &self.slots[seq as usize - 1].slot
    }

    fn drop_oldest(&mut self, count: usize, reason: GapReason) {
        for _ in 0..count {
            let (seq, bytes) = self.kept.pop_front().unwrap();
            self.kept_bytes -= bytes;
            let dropped = self.dropped.get_or_insert_with(|| {
                self.kept_bytes += ENTRY_BYTES;
                Dropped { first: seq, last: seq, reasons: Vec::new() }
            });
            dropped.last = seq;
            if !dropped.reasons.contains(&reason) {
                dropped.reasons.push(reason);
            }
        }
    }

    /// The oldest that could be dropped for its age, behind the mark that stands for what is missing before it.
    fn oldest(&self) -> Option<Duration> {
        let (seq, _) = self.kept.get(usize::from(self.begins_with_mark()))?;
        Some(self.slots[*seq as usize - 1].came)
    }

    /// Drops what is too old, and the consumers that were away for too long.
    pub(super) fn retain(&mut self, inbox: &settings::Inbox, now: Now) {
        let Some(limit) = now.elapsed.checked_sub(inbox.retention) else { return };
        let mut left = false;
        for consumer in self.consumers.values_mut() {
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
        assert!(!self.consumers.values().any(stays), "a consumer away for longer than `retention_ms` is removed");
    }

    /// A message is deleted when every consumer has acknowledged it.
    fn trim(&mut self) {
        let held = self.consumers.values().filter(|consumer| consumer.presence != Presence::Dropped);
        let Some(done) = held.map(|consumer| consumer.acked).min() else { return };
        if let Some(dropped) = self.dropped.take_if(|dropped| dropped.last <= done) {
            self.kept_bytes -= ENTRY_BYTES;
            self.deleted = dropped.last;
        }
        while let Some((seq, bytes)) = self.kept.front().filter(|(seq, _)| *seq <= done) {
            self.kept_bytes -= bytes;
            self.deleted = *seq;
            self.kept.pop_front();
        }
    }

    /// The consumer of `port` has processed everything up to `seq`.
    pub(super) fn ack(&mut self, port: u64, seq: u64) -> Result<(), Code> {
        let Some(reader) = self.readers.get_mut(&port) else { return Err(self.no_place(port)) };
        if seq > reader.delivered {
            return Err(Code::AckAhead);
        }
        let consumer = self.consumers.get_mut(reader.consumer).unwrap();
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
        self.entries() >= inbox.max_messages || self.kept_bytes >= inbox.max_bytes
    }

    pub(super) fn holds_messages(&self) -> bool {
        self.kept.iter().any(|(seq, _)| matches!(self.slot(*seq), Slot::Message { .. }))
    }

    pub(super) fn is_done(&self) -> bool {
        let head = self.head();
        self.readers.values().all(|reader| reader.delivered == head || self.kept.is_empty())
            && self.entries() == 0
            && self.readers.values().all(|reader| reader.flight.deliveries.is_empty())
    }
}

/// What a port is given.
impl Stream {
    /// A message is delivered; gives the attachment for which it counts when it is written, if it does.
    pub(in super::super) fn delivered(
        &mut self,
        port: u64,
        seq: u64,
        at: u64,
        body: &Body,
        replay: bool,
    ) -> (Option<u64>, usize) {
        let Slot::Message { at: came, body: sent } = self.slot(seq) else { panic!("{seq} is no message") };
        let text = self.observers.get(&port).map_or_else(|| self.readers[&port].text, |observer| observer.text);
        let bytes = self.slot(seq).bytes(seq, text);
        let expected = if text { sent.clone().into_text() } else { sent.clone() };
        assert!(*came == at && same(&expected, body), "payloads pass through untouched, but {seq} does not");
        if let Some(observer) = self.observers.get_mut(&port) {
            return (Some(observer.see(seq, seq, replay, bytes)), bytes);
        }
        let kept = self.kept.binary_search_by_key(&seq, |(seq, _)| *seq).is_ok();
        assert!(kept, "{seq} is delivered though it is kept no more");
        (self.hand_out(port, seq, seq, replay, bytes), bytes)
    }

    /// The same for a gap.
    pub(in super::super) fn gap(&mut self, port: u64, seq: u64, gap: Gap, replay: bool) -> Option<u64> {
        assert!(gap.since.zip(gap.until).is_none_or(|(since, until)| since <= until), "a gap ends before it begins");
        match gap.reason {
            GapReason::Disconnected => {
                let Slot::Outage { since, until } = *self.slot(seq) else { panic!("{seq} is no outage") };
                let (since, until) = (Some(since), Some(until));
                let expected = Gap { from: seq, reason: gap.reason, count: None, at_most: None, since, until };
                assert_eq!(gap, expected);
            }
            GapReason::TooLarge => {
                assert!(matches!(self.slot(seq), Slot::TooLarge), "{seq} was not too large");
                assert_eq!((gap.from, gap.count, gap.at_most), (seq, Some(1), None));
            }
            GapReason::ObserverLag => {
                let observer = self.observers.get_mut(&port).expect("only an observer skips ahead");
                assert!(std::mem::take(&mut observer.behind), "an observer less than 1 MiB behind gets everything");
                let flight = observer.flight.bytes + ENTRY_BYTES;
                assert!(flight <= OBSERVER_BYTES, "an observer that is full is told more");
                let (from, head) = (observer.seen + 1, self.slots.len() as u64);
                // What gave way meanwhile came live to everybody else.
                let (count, since, until) = missing(&self.slots[observer.seen as usize..], false);
                assert_eq!(seq, head, "an observer that was behind skips ahead to the head");
                assert_eq!(gap, Gap { from, reason: gap.reason, count, at_most: None, since, until });
            }
            GapReason::Epoch => {
                let reader = self.readers.get_mut(&port).expect("an observer names no place");
                assert!(std::mem::take(&mut reader.other_epoch), "the place was in this epoch");
                assert_eq!((gap.from, seq), (self.deleted.min(1), self.deleted), "and then what is kept");
                assert_eq!((gap.count, gap.at_most), (None, None));
                reader.delivered = seq;
                return reader.count(seq, replay, ENTRY_BYTES);
            }
            GapReason::Retention if seq <= self.deleted => {
                assert_eq!(seq, self.deleted, "all that is missing before what is kept");
                assert_eq!((gap.count, gap.at_most), (None, Some(seq + 1 - gap.from)));
                let reader = self.readers.get_mut(&port).expect("an observer names no place");
                assert_eq!(gap.from, reader.delivered + 1, "a place older than what is kept gets a gap");
                reader.delivered = seq;
                return reader.count(seq, replay, ENTRY_BYTES);
            }
            GapReason::Overflow | GapReason::Retention => self.check_dropped(port, seq, &gap),
            GapReason::Damage | GapReason::Crash => panic!("nothing was damaged, and the daemon lives"),
        }
        if let Some(observer) = self.observers.get_mut(&port) {
            return Some(observer.see(gap.from, seq, replay, ENTRY_BYTES));
        }
        self.hand_out(port, gap.from, seq, replay, ENTRY_BYTES)
    }

    fn check_dropped(&self, port: u64, seq: u64, gap: &Gap) {
        let dropped = self.dropped.as_ref().expect("something was dropped");
        let delivered = self.readers.get(&port).expect("an observer gets what comes").delivered;
        assert_eq!(seq, dropped.last);
        assert_eq!(gap.from, dropped.first.max(delivered + 1), "what it has had as messages is no gap");
        assert!(dropped.reasons.contains(&gap.reason), "nothing was lost by {:?}", gap.reason);
        let (whole, since, until) = missing(&self.slots[dropped.first as usize - 1..seq as usize], true);
        let (exact, ..) = missing(&self.slots[gap.from as usize - 1..seq as usize], true);
        let in_part = gap.from > dropped.first && whole.is_none_or(|whole| whole < seq + 1 - dropped.first);
        assert!(exact != Some(0), "a gap in which nothing is missing");
        assert!(gap.count == exact || (in_part && gap.count.is_none()), "the count is exact: {exact:?}, not {gap:?}");
        assert_eq!((gap.since, gap.until), (since, until));
    }

    fn hand_out(&mut self, port: u64, from: u64, seq: u64, replay: bool, bytes: usize) -> Option<u64> {
        let reader = self.readers.get_mut(&port).expect("a delivery to a port that reads");
        assert!(!reader.other_epoch, "the other epoch is told first");
        assert!(reader.delivered >= self.deleted, "what is missing before is told first");
        assert!(from > reader.delivered, "{from} is delivered again, or out of order");
        let between = &self.slots[reader.delivered as usize..from as usize - 1];
        assert!(
            between.iter().all(|number| number.collapsed),
            "lost unreported: between {} and {from}",
            reader.delivered
        );
        reader.delivered = seq;
        reader.count(seq, replay, bytes)
    }

    pub(super) fn told_overdue(&mut self, port: u64, now: Now) {
        let stuck = self.readers.get_mut(&port).and_then(|reader| reader.stuck.as_mut());
        let (since, told) = stuck.expect("a window that stands");
        assert!(!*told && *since + OVERDUE_TIME <= now.elapsed, "a full window that stands for 10 s is told once");
        *told = true;
    }

    pub(super) fn check_overdue(&self, now: Now) {
        for reader in self.readers.values() {
            let overdue = reader.stuck.is_some_and(|(since, told)| !told && since + OVERDUE_TIME <= now.elapsed);
            assert!(!overdue, "a full window that stands for 10 s is told: {reader:?}");
        }
    }

    /// Whether a gap leaves out something that was dropped.
    pub(in super::super) fn has_dropped_before(&self, from: u64, last: u64) -> bool {
        self.dropped.as_ref().is_some_and(|dropped| dropped.last == last && dropped.first < from)
    }

    pub(in super::super) fn is_a_window_full_of_messages(&self) -> bool {
        self.readers.values().any(|reader| reader.flight.deliveries.len() == WINDOW.messages as usize)
    }

    /// What holds after every input.
    pub(super) fn check(&mut self, session: &Session, inbox: &settings::Inbox, now: Now) {
        assert_eq!(session.inbox.kept(), (self.entries(), self.kept_bytes), "what is kept");
        assert_eq!(session.inbox.collapsed(), self.collapsed, "what gave way is counted");
        if inbox.overflow == Overflow::DropOldest {
            let few = self.kept.len() <= 2;
            assert!(self.entries() <= inbox.max_messages || few, "more messages are kept than `max_messages`");
            assert!(self.kept_bytes <= inbox.max_bytes || few, "more is kept than `max_bytes`");
        }
        let Self { slots, kept, dropped, deleted, readers, observers, .. } = self;
        for (port, reader) in readers {
            let next = if reader.other_epoch || reader.delivered < *deleted {
                Some((reader.delivered, ENTRY_BYTES))
            } else if dropped.as_ref().is_some_and(|dropped| dropped.last > reader.delivered) {
                Some((reader.delivered + 1, ENTRY_BYTES))
            } else {
                let next = kept.get(kept.partition_point(|(seq, _)| *seq <= reader.delivered));
                next.map(|(seq, _)| (*seq, slots[*seq as usize - 1].slot.bytes(*seq, reader.text)))
            };
            match next {
                Some((seq, bytes)) => {
                    assert!(!reader.has_room(bytes), "{seq} is withheld from port {port}");
                    reader.stuck.get_or_insert((now.elapsed, false));
                }
                None => reader.stuck = None,
            }
        }
        for (port, observer) in observers {
            if observer.behind {
                assert!(!observer.flight.deliveries.is_empty(), "observer {port} waits, though nothing is on its way");
            } else {
                assert_eq!(observer.seen, slots.len() as u64, "observer {port} was not shown something");
            }
        }
    }
}

/// How many messages of the server are missing if these are; nobody can know if there was an outage. And when those
/// outages were. What is `collapsed` gave way, and is no loss.
fn missing(slots: &[Numbered], collapsed: bool) -> (Option<u64>, Option<u64>, Option<u64>) {
    let (mut count, mut begin, mut end) = (Some(0), None, None);
    for number in slots.iter().filter(|number| !(collapsed && number.collapsed)) {
        match number.slot {
            Slot::Outage { since, until } => {
                count = None;
                begin = begin.into_iter().chain([since]).min();
                end = end.into_iter().chain([until]).max();
            }
            Slot::Message { .. } | Slot::TooLarge => count = count.map(|count| count + 1),
        }
    }
    (count, begin, end)
}

impl Slot {
    /// What it counts in a window.
    fn bytes(&self, seq: u64, text: bool) -> usize {
        match self {
            Self::Message { at, body } if text => message_len("s", seq, *at, &body.clone().into_text()),
            Self::Message { at, body } => message_len("s", seq, *at, body),
            Self::Outage { .. } | Self::TooLarge => ENTRY_BYTES,
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
    fn see(&mut self, from: u64, seq: u64, replay: bool, bytes: usize) -> u64 {
        assert!(!self.behind, "an observer that is behind is first told so");
        assert_eq!(from, self.seen + 1, "an observer gets everything live, in order");
        assert!(!replay);
        self.seen = seq;
        self.flight.start(seq, bytes);
        self.attachment
    }
}
