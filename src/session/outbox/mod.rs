//! What the extension sent and the server is not yet known to have.
//!
//! Owns: the queue towards the server, its limits, what was written on the present connection, the ids and the endings
//! of messages; the subscriptions. What of it lies on the disk is `disk`'s. Does not know connections or time beyond what it
//! is told.
//!
//! Invariants: numbers only grow; the first `written` items are on the present connection, in order; of these the server's
//! peer has those up to `received`, which are only kept if the server itself is to acknowledge them; an item leaves only
//! with an ending, and an ending of an item with an id is reported or kept to be reported.

mod disk;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::{Now, PortId};
use crate::settings::{self, Settings};
use crate::wire::event::Refusal;
use crate::wire::{Body, MAX_SUBSCRIPTIONS, Send, Stage};
use disk::Disk;
pub(super) use disk::Snapshot;

/// How many ids are remembered after their messages' ends, and for how long.
const MAX_REMEMBERED: usize = 10_000;
const REMEMBERED_MS: u64 = 24 * 60 * 60 * 1000;

/// How many endings may wait for somebody to hear them before nothing more is taken.
const MAX_UNREPORTED: usize = 100_000;

/// After so many connections that ended with a message unconfirmed, it must be that message.
const MAX_LOSSES: u32 = 3;

/// The stages that can be asked for.
const STAGES: [Stage; 3] = [Stage::Stored, Stage::Received, Stage::Acknowledged];

#[derive(Debug)]
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) body: Body,
    id: Option<Arc<str>>,
    resend: bool,
    expires: Option<Duration>,
    came: Duration,
    /// It belongs to the present connection alone, and is never kept.
    passing: bool,
    /// How many connections ended before the server had confirmed it.
    losses: u32,
}

/// A message with an id, from the moment that it was taken until it is forgotten.
#[derive(Debug)]
struct Known {
    number: u64,
    stage: Option<Stage>,
    refusal: Option<Refusal>,
    /// The port that sent, or last repeated, the id.
    port: PortId,
    consumer: String,
    wanted: [Option<Stage>; 3],
    /// When it ended, and in which place among all that did.
    ended: Option<End>,
}

#[derive(Debug, Clone, Copy)]
struct End {
    /// 0 until it is known whether somebody was there to hear of it.
    ordinal: u64,
    at: u64,
    /// Nobody was.
    unreported: bool,
}

/// Something to tell a port about its messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) port: PortId,
    pub(super) stage: Stage,
    pub(super) refusal: Option<Refusal>,
    pub(super) ids: Vec<Arc<str>>,
}

/// What became of a message that was to be queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// It waits.
    New,
    /// Its id is known; a receipt answers if there is anything to say.
    Repeated,
    /// It was not taken. A message with an id has its receipt.
    Refused {
        /// Why.
        refusal: Refusal,
        /// The message had an id.
        told: bool,
    },
}

/// Why a subscription was not taken, or its end: nothing has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// There are too many, or they are too large.
    TooMany,
    /// The queue that it would join is full.
    Full,
}

/// Something that is sent again on every connection, before everything else.
#[derive(Debug)]
struct Subscription {
    position: u64,
    key: String,
    body: Body,
}

#[derive(Debug)]
pub(super) struct Outbox {
    settings: settings::Queue,
    subscriptions: Vec<Subscription>,
    queue: VecDeque<Item>,
    bytes: usize,
    written: usize,
    /// The server's peer has everything on the present connection up to this number.
    received: u64,
    /// Messages with an id are kept until the server acknowledges them in its own words.
    awaits_acks: bool,
    last_number: u64,
    next_expiry: Option<Duration>,
    known: HashMap<Arc<str>, Known>,
    /// Ids whose messages have ended and that nobody waits to hear of, oldest first.
    ended: VecDeque<Arc<str>>,
    /// Ids whose messages have ended while nobody was there to hear of it, oldest first.
    unreported: VecDeque<Arc<str>>,
    /// How many endings were put into one of those two.
    endings: u64,
    receipts: Vec<Receipt>,
    disk: Disk,
    /// Something is not on the disk that should be some time.
    changed: bool,
}

impl Outbox {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            settings: settings.queue.clone(),
            subscriptions: Vec::new(),
            queue: VecDeque::new(),
            bytes: 0,
            written: 0,
            received: 0,
            awaits_acks: settings.dialect.ack.is_some(),
            last_number: 0,
            next_expiry: None,
            known: HashMap::new(),
            ended: VecDeque::new(),
            unreported: VecDeque::new(),
            endings: 0,
            receipts: Vec::new(),
            disk: Disk::default(),
            changed: false,
        }
    }

    /// From now on other settings hold; what is there stays.
    pub(super) fn configure(&mut self, settings: &Settings) {
        self.settings = settings.queue.clone();
        self.awaits_acks = settings.dialect.ack.is_some();
    }

    /// Everything is gone, and nothing is told about it any more. Numbers go on, so that what is under way for an older
    /// message is not taken for a newer one's.
    pub(super) fn clear(&mut self, settings: &Settings) {
        *self = Self { last_number: self.last_number, disk: self.disk.cleared(), ..Self::new(settings) };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Messages that wait or are not confirmed, and their bytes.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.queue.len(), self.bytes)
    }

    /// Takes a message from `port`, which reads for `consumer`.
    pub(super) fn push(&mut self, now: Now, port: PortId, consumer: &str, send: Send) -> Queued {
        self.forget_endings(now);
        if let Some(id) = &send.id
            && let Some(known) = self.known.get_mut(&**id)
        {
            known.port = port;
            if known.consumer != consumer {
                consumer.clone_into(&mut known.consumer);
                self.disk.repost(known.number);
                self.changed = true;
            }
            if let Some(end) = known.ended.as_mut().filter(|end| end.unreported) {
                // The answer is the report.
                end.ordinal = 0;
                self.unreported.retain(|unreported| **unreported != **id);
            }
            if let Some(stage) = known.stage {
                let refusal = known.refusal;
                self.receipts.push(Receipt { port, stage, refusal, ids: vec![id.as_str().into()] });
            }
            return Queued::Repeated;
        }
        let id: Option<Arc<str>> = send.id.map(Into::into);
        if let Some(refusal) = self.refusal(send.body.len()) {
            // Not remembered: the same id may be tried again when there is room.
            let ids = id.into_iter().collect::<Vec<_>>();
            let told = !ids.is_empty();
            if told {
                self.receipts.push(Receipt { port, stage: Stage::Refused, refusal: Some(refusal), ids });
            }
            return Queued::Refused { refusal, told };
        }
        self.last_number += 1;
        let number = self.last_number;
        if let Some(id) = &id {
            // The list came from outside and may be of any length.
            let default = [Stage::Stored, Stage::Received];
            let asked = send.receipts.as_deref().unwrap_or(&default);
            let wanted = STAGES.map(|stage| asked.contains(&stage).then_some(stage));
            let consumer = consumer.to_owned();
            let known = Known { number, stage: None, refusal: None, port, consumer, wanted, ended: None };
            self.known.insert(Arc::clone(id), known);
            self.disk.promise(number);
        }
        self.bytes += send.body.len();
        let ttl = send.ttl_ms.map(Duration::from_millis).or(self.settings.ttl);
        let expires = ttl.map(|ttl| now.elapsed.saturating_add(ttl));
        self.next_expiry = self.next_expiry.into_iter().chain(expires).min();
        let (body, resend, came) = (send.body, send.resend, now.elapsed);
        self.queue.push_back(Item { number, body, id, resend, expires, came, passing: false, losses: 0 });
        self.changed = true;
        Queued::New
    }

    /// Why a message of so many bytes is not taken.
    fn refusal(&self, more: usize) -> Option<Refusal> {
        if !self.disk.has_room() {
            return Some(Refusal::Disk);
        }
        (self.is_full(more) || self.unreported.len() >= MAX_UNREPORTED).then_some(Refusal::Full)
    }

    /// The queue takes anything while it is empty, so that no message is too large to be sent at all.
    fn is_full(&self, more: usize) -> bool {
        !self.queue.is_empty()
            && (self.queue.len() >= self.settings.max_messages || self.bytes + more > self.settings.max_bytes)
    }

    /// A message that belongs to the present connection only: it is never sent again, and nobody is told what became of
    /// it.
    fn push_for_connection(&mut self, body: Body) -> Result<(), NoRoom> {
        if self.is_full(body.len()) {
            return Err(NoRoom::Full);
        }
        self.last_number += 1;
        self.bytes += body.len();
        let (number, came) = (self.last_number, Duration::ZERO);
        let item = Item { number, body, id: None, resend: false, expires: None, came, passing: true, losses: 0 };
        self.queue.push_back(item);
        Ok(())
    }

    /// Remembers what to send on every connection; on the present one it joins the queue, unless it stands already.
    pub(super) fn subscribe(&mut self, key: String, body: Body, connected: bool) -> Result<(), NoRoom> {
        let index = self.subscriptions.iter().position(|known| known.key == key);
        if index.is_some_and(|index| self.subscriptions[index].body == body) {
            return Ok(());
        }
        let others = self.subscriptions.iter().filter(|known| known.key != key);
        let bytes: usize = others.map(|known| known.body.len()).sum();
        let too_many = index.is_none() && self.subscriptions.len() >= MAX_SUBSCRIPTIONS;
        if too_many || bytes + body.len() > self.settings.max_bytes {
            return Err(NoRoom::TooMany);
        }
        if connected {
            self.push_for_connection(body.clone())?;
        }
        self.disk.subscription_changed(&key);
        self.changed = true;
        match index {
            Some(index) => self.subscriptions[index].body = body,
            None => {
                let position = self.subscriptions.last().map_or(0, |last| last.position + 1);
                self.subscriptions.push(Subscription { position, key, body });
            }
        }
        Ok(())
    }

    /// Forgets a subscription; `body` tells the server, which only a present connection needs.
    pub(super) fn unsubscribe(&mut self, key: &str, body: Body, connected: bool) -> Result<(), NoRoom> {
        let Some(index) = self.subscriptions.iter().position(|known| known.key == key) else { return Ok(()) };
        if connected {
            self.push_for_connection(body)?;
        }
        self.subscriptions.remove(index);
        self.disk.subscription_changed(key);
        self.changed = true;
        Ok(())
    }

    /// What is to be sent first on a new connection, in the order first made.
    pub(super) fn subscriptions(&self) -> impl ExactSizeIterator<Item = &Body> {
        self.subscriptions.iter().map(|subscription| &subscription.body)
    }

    /// The next message for the present connection. One that is suspected of having ended others travels alone.
    pub(super) fn write_next(&mut self) -> Option<&Item> {
        let item = self.queue.get(self.written)?;
        let is_suspect = |item: &Item| item.losses + 1 >= MAX_LOSSES;
        let under_way = self.unconfirmed();
        if !under_way.is_empty() && (is_suspect(item) || is_suspect(&self.queue[under_way.start])) {
            return None;
        }
        self.written += 1;
        Some(item)
    }

    /// The places in the queue of what is on the present connection and not confirmed.
    fn unconfirmed(&self) -> Range<usize> {
        let is_received = |item: &Item| item.number <= self.received;
        // Most often there is none of those that were.
        let start = match self.queue.front() {
            Some(first) if is_received(first) => self.queue.partition_point(is_received).min(self.written),
            _ => 0,
        };
        start..self.written
    }

    /// The highest number on the present connection that is not confirmed.
    pub(super) fn last_written(&self) -> Option<u64> {
        let last = self.written.checked_sub(1)?;
        Some(self.queue[last].number).filter(|number| *number > self.received)
    }

    /// The server's peer has everything up to `number`.
    pub(super) fn received(&mut self, number: u64, now: Now) {
        let Range { start, .. } = self.unconfirmed();
        self.received = self.received.max(number);
        if !self.awaits_acks {
            while self.written > 0 && self.queue.front().is_some_and(|item| item.number <= number) {
                let Some(item) = self.queue.pop_front() else { return };
                self.written -= 1;
                self.end(item, Stage::Received, None, now);
            }
            return;
        }
        let mut end = self.unconfirmed().start;
        let before = self.queue.len();
        self.end_where(start..end, Stage::Received, None, now, |item| item.id.is_none());
        let gone = before - self.queue.len();
        (self.written, end) = (self.written - gone, end - gone);
        for id in self.queue.range(start..end).filter_map(|item| item.id.clone()).collect::<Vec<_>>() {
            self.reached(&id, Stage::Received, None);
        }
    }

    /// The server has named the `id` of a message that is on the present connection. Returns whether it was one.
    pub(super) fn acknowledged(&mut self, id: &str, now: Now) -> bool {
        let Some(number) = self.known.get(id).filter(|known| known.ended.is_none()).map(|known| known.number) else {
            return false;
        };
        let Ok(index) = self.queue.binary_search_by_key(&number, |item| item.number) else { return false };
        if index >= self.written {
            return false;
        }
        let Some(item) = self.queue.remove(index) else { return false };
        self.written -= 1;
        self.end(item, Stage::Acknowledged, None, now);
        true
    }

    /// The connection is gone: what it carried and nobody confirmed must be sent again, or may not be.
    pub(super) fn connection_lost(&mut self, now: Now) {
        let Range { start, end } = self.unconfirmed();
        // That they were received is all that will be known of these.
        let before = self.queue.len();
        self.end_where(0..start, Stage::Received, None, now, |item| !item.resend);
        let gone = before - self.queue.len();
        let unconfirmed = start - gone..end - gone;
        self.end_where(unconfirmed, Stage::Refused, Some(Refusal::UnknownDelivery), now, |item| !item.resend);
        (self.written, self.received) = (0, 0);
        // What was under way may expire again.
        self.next_expiry = self.queue.iter().filter_map(|item| item.expires).min();
    }

    /// The server ended the connection in a way that a message may have caused. What it had not confirmed is suspected, and
    /// from the second time on sent alone; so it is certain, the third time, which message it was. That one ends.
    pub(super) fn blame(&mut self, now: Now) {
        let under_way = self.unconfirmed();
        let first = under_way.start;
        for item in self.queue.range_mut(under_way) {
            item.losses += 1;
        }
        if first < self.written
            && self.queue.get(first).is_some_and(|item| item.losses >= MAX_LOSSES)
            && let Some(item) = self.queue.remove(first)
        {
            self.written -= 1;
            self.end(item, Stage::Refused, Some(Refusal::EndsConnections), now);
        }
    }

    /// A message was too large for the server, and the connection with it is over. The largest that the server has not
    /// confirmed must be the one, if one of these was it: it ends, and is not sent again and again. Returns its size.
    ///
    /// None is to blame if a subscription is as large: either that is too large itself, or it shows what is not.
    pub(super) fn refuse_largest(&mut self, now: Now) -> Option<usize> {
        let harmless = self.subscriptions.iter().map(|known| known.body.len()).max().unwrap_or_default();
        let under_way = self.unconfirmed();
        let first = under_way.start;
        let written = self.queue.range(under_way).enumerate().filter(|(_, item)| item.body.len() > harmless);
        let (index, _) = written.max_by_key(|(index, item)| (item.body.len(), usize::MAX - index))?;
        let item = self.queue.remove(first + index)?;
        self.written -= 1;
        let size = item.body.len();
        self.end(item, Stage::Refused, Some(Refusal::TooLarge), now);
        Some(size)
    }

    /// When to look again for messages that have waited too long; never later than the first one's time.
    pub(super) fn expires_at(&self) -> Option<Duration> {
        self.next_expiry
    }

    /// Ends what has waited too long. What is on the connection is left: it may have arrived.
    pub(super) fn expire(&mut self, now: Now) {
        if self.next_expiry.is_none_or(|next| next > now.elapsed) {
            return;
        }
        let too_long = |item: &Item| item.expires.is_some_and(|expires| expires <= now.elapsed);
        self.end_where(self.written..self.queue.len(), Stage::Expired, None, now, too_long);
        self.next_expiry = self.queue.iter().skip(self.written).filter_map(|item| item.expires).min();
    }

    /// Ends those in `range` that `ends` picks, in their order and in one pass.
    fn end_where(
        &mut self,
        range: Range<usize>,
        stage: Stage,
        refusal: Option<Refusal>,
        now: Now,
        ends: impl Fn(&Item) -> bool,
    ) {
        if !self.queue.range(range.clone()).any(&ends) {
            return;
        }
        let behind = self.queue.split_off(range.end);
        for item in self.queue.split_off(range.start) {
            if ends(&item) {
                self.end(item, stage, refusal, now);
            } else {
                self.queue.push_back(item);
            }
        }
        self.queue.extend(behind);
    }

    /// `item` has left the queue.
    fn end(&mut self, item: Item, stage: Stage, refusal: Option<Refusal>, now: Now) {
        self.bytes -= item.body.len();
        self.disk.ended(item.number);
        self.changed = true;
        let Some(id) = item.id else { return };
        if let Some(known) = self.known.get_mut(&id) {
            known.ended = Some(End { ordinal: 0, at: now.unix_ms, unreported: false });
        }
        if !self.reached(&id, stage, refusal) {
            self.settle(id, true);
        }
    }

    /// Notes how far a message came. Returns whether somebody is to be told.
    fn reached(&mut self, id: &Arc<str>, stage: Stage, refusal: Option<Refusal>) -> bool {
        let Some(known) = self.known.get_mut(id) else { return false };
        if known.stage.is_some_and(|reached| reached >= stage) {
            return false;
        }
        let before = known.stage.replace(stage);
        known.refusal = refusal;
        // A message that ends badly is always told. A good stage stands for those below it too: whoever asked only for
        // `stored` hears that, also if the server was faster than the disk.
        let told = if stage > Stage::Acknowledged {
            Some(stage)
        } else {
            known.wanted.into_iter().flatten().filter(|wanted| *wanted <= stage).max()
        };
        let Some(told) = told.filter(|told| before.is_none_or(|before| before < *told)) else { return false };
        add(&mut self.receipts, known.port, told, refusal, Arc::clone(id));
        true
    }

    /// The message of that id has ended, and its sender has heard of it or nobody was there.
    fn settle(&mut self, id: Arc<str>, reported: bool) {
        let Some(known) = self.known.get_mut(&id) else { return };
        let Some(end) = &mut known.ended else { return };
        if end.ordinal != 0 {
            // It was settled before, and repeating the id was answered now.
            return;
        }
        self.endings += 1;
        (end.ordinal, end.unreported) = (self.endings, !reported);
        // It may be forgotten before it is written.
        self.disk.settled(self.outcome(&id));
        self.changed = true;
        let list = if reported { &mut self.ended } else { &mut self.unreported };
        list.push_back(id);
        while self.ended.len() > MAX_REMEMBERED {
            self.forget_oldest();
        }
    }

    fn forget_endings(&mut self, now: Now) {
        while let Some(end) = self.ended.front().and_then(|id| self.known.get(id)?.ended)
            && end.at.saturating_add(REMEMBERED_MS) < now.unix_ms
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some(known) = self.ended.pop_front().and_then(|id| self.known.remove(&id)) else { return };
        self.disk.forget(known.ended.map_or(0, |end| end.ordinal));
        self.changed = true;
    }

    /// The receipts that are due. An ending whose port is not `attached` goes to the port that reads for its consumer,
    /// or is kept for the next one that does.
    pub(super) fn take_receipts(
        &mut self,
        attached: impl Fn(PortId) -> bool,
        reader_of: impl Fn(&str) -> Option<PortId>,
    ) -> Vec<Receipt> {
        let mut due: Vec<Receipt> = Vec::new();
        for receipt in std::mem::take(&mut self.receipts) {
            let Receipt { port, stage, refusal, ids } = receipt;
            if attached(port) {
                for id in &ids {
                    self.settle(Arc::clone(id), true);
                }
                due.push(Receipt { port, stage, refusal, ids });
                continue;
            }
            for id in ids {
                let Some(known) = self.known.get(&id).filter(|known| known.ended.is_some()) else { continue };
                let reader = reader_of(&known.consumer);
                self.settle(Arc::clone(&id), reader.is_some());
                if let Some(port) = reader {
                    add(&mut due, port, stage, refusal, id);
                }
            }
        }
        due
    }

    /// `port` reads for `consumer` now: it gets the endings that nobody was there to hear.
    pub(super) fn report_to(&mut self, port: PortId, consumer: &str) {
        for id in std::mem::take(&mut self.unreported) {
            match self.known.get_mut(&id) {
                Some(known) if known.consumer == consumer => {
                    known.port = port;
                    known.ended = known.ended.map(|end| End { ordinal: 0, ..end });
                    if let Some(stage) = known.stage {
                        add(&mut self.receipts, port, stage, known.refusal, id);
                    }
                }
                _ => self.unreported.push_back(id),
            }
        }
    }
}

/// Adds one more id to the last receipt if that says the same.
fn add(receipts: &mut Vec<Receipt>, port: PortId, stage: Stage, refusal: Option<Refusal>, id: Arc<str>) {
    match receipts.last_mut() {
        Some(last) if (last.port, last.stage, last.refusal) == (port, stage, refusal) => last.ids.push(id),
        _ => receipts.push(Receipt { port, stage, refusal, ids: vec![id] }),
    }
}
