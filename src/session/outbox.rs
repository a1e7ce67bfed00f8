//! What the extension sent and the server is not yet known to have.
//!
//! Owns: the queue towards the server, its limits, what was written on the present connection, the ids and the endings
//! of messages; the subscriptions. Does not know connections or time beyond what it is told.
//!
//! Invariants: numbers only grow; the first `written` items are on the present connection, in order; an item leaves
//! only with an ending, and an ending of an item with an id is reported or kept to be reported.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::PortId;
use crate::settings;
use crate::wire::{Body, MAX_SUBSCRIPTIONS, Send, Stage};

/// How many ids are remembered after their messages' ends.
const MAX_REMEMBERED: usize = 10_000;

/// How many endings are kept for a consumer whose port is gone; the oldest are dropped first.
const MAX_UNREPORTED: usize = 10_000;

#[derive(Debug)]
pub(super) struct Item {
    pub(super) number: u64,
    pub(super) body: Body,
    id: Option<Arc<str>>,
    resend: bool,
    expires: Option<Duration>,
}

/// A message with an id, from the moment that it was taken until it is forgotten.
#[derive(Debug)]
struct Known {
    stage: Option<Stage>,
    reason: Option<&'static str>,
    /// The port that sent, or last repeated, the id.
    port: PortId,
    consumer: String,
    wanted: [Option<Stage>; 3],
}

/// Something to tell a port about its messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Receipt {
    pub(super) port: PortId,
    pub(super) stage: Stage,
    pub(super) reason: Option<&'static str>,
    pub(super) ids: Vec<Arc<str>>,
}

/// What became of a message that was to be queued.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Queued {
    /// It waits under this number.
    New(u64),
    /// Its id is known; a receipt answers if there is anything to say.
    Repeated,
    /// There is no room. A message with an id has its receipt.
    Full {
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
    last_number: u64,
    next_expiry: Option<Duration>,
    known: HashMap<Arc<str>, Known>,
    /// Ids whose messages have ended, oldest first.
    ended: VecDeque<Arc<str>>,
    unreported: BTreeMap<String, VecDeque<Ending>>,
    receipts: Vec<Receipt>,
}

type Ending = (Stage, Option<&'static str>, Arc<str>);

impl Outbox {
    pub(super) fn new(settings: settings::Queue) -> Self {
        Self {
            settings,
            subscriptions: Vec::new(),
            queue: VecDeque::new(),
            bytes: 0,
            written: 0,
            last_number: 0,
            next_expiry: None,
            known: HashMap::new(),
            ended: VecDeque::new(),
            unreported: BTreeMap::new(),
            receipts: Vec::new(),
        }
    }

    /// From now on other settings hold; what is there stays.
    pub(super) fn configure(&mut self, settings: settings::Queue) {
        self.settings = settings;
    }

    /// Everything is gone, and nothing is told about it any more. Numbers go on, so that what is under way for an older
    /// message is not taken for a newer one's.
    pub(super) fn clear(&mut self) {
        *self = Self { last_number: self.last_number, ..Self::new(self.settings.clone()) };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Messages that wait or are not confirmed, and their bytes.
    pub(super) fn kept(&self) -> (usize, usize) {
        (self.queue.len(), self.bytes)
    }

    /// Takes a message from `port`, which reads for `consumer`.
    pub(super) fn push(&mut self, now: Duration, port: PortId, consumer: &str, send: Send) -> Queued {
        if let Some(id) = &send.id
            && let Some(known) = self.known.get_mut(&**id)
        {
            known.port = port;
            consumer.clone_into(&mut known.consumer);
            if let Some(stage) = known.stage {
                let reason = known.reason;
                self.receipts.push(Receipt { port, stage, reason, ids: vec![id.as_str().into()] });
            }
            return Queued::Repeated;
        }
        let id: Option<Arc<str>> = send.id.map(Into::into);
        if self.is_full(send.body.len()) {
            // Not remembered: the same id may be tried again when there is room.
            let ids = id.into_iter().collect::<Vec<_>>();
            let told = !ids.is_empty();
            if told {
                self.receipts.push(Receipt { port, stage: Stage::Refused, reason: Some("full"), ids });
            }
            return Queued::Full { told };
        }
        self.last_number += 1;
        if let Some(id) = &id {
            // The list came from outside and may be of any length.
            let wanted = [Stage::Stored, Stage::Received, Stage::Acknowledged];
            let default = [Stage::Stored, Stage::Received];
            let asked = send.receipts.as_deref().unwrap_or(&default);
            let wanted = wanted.map(|stage| asked.contains(&stage).then_some(stage));
            let known = Known { stage: None, reason: None, port, consumer: consumer.to_owned(), wanted };
            self.known.insert(Arc::clone(id), known);
        }
        self.bytes += send.body.len();
        let ttl = send.ttl_ms.map(Duration::from_millis).or(self.settings.ttl);
        let expires = ttl.map(|ttl| now.saturating_add(ttl));
        self.next_expiry = self.next_expiry.into_iter().chain(expires).min();
        self.queue.push_back(Item { number: self.last_number, body: send.body, id, resend: send.resend, expires });
        Queued::New(self.last_number)
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
        self.queue.push_back(Item { number: self.last_number, body, id: None, resend: false, expires: None });
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
        match index {
            Some(index) => self.subscriptions[index].body = body,
            None => self.subscriptions.push(Subscription { key, body }),
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
        Ok(())
    }

    /// What is to be sent first on a new connection, in the order first made.
    pub(super) fn subscriptions(&self) -> impl ExactSizeIterator<Item = &Body> {
        self.subscriptions.iter().map(|subscription| &subscription.body)
    }

    /// The message under `number` is kept safely.
    pub(super) fn stored(&mut self, number: u64) {
        let index = self.queue.partition_point(|item| item.number < number);
        let item = self.queue.get(index).filter(|item| item.number == number);
        if let Some(id) = item.and_then(|item| item.id.clone()) {
            self.reached(&id, Stage::Stored, None);
        }
    }

    /// The next message for the present connection.
    pub(super) fn write_next(&mut self) -> Option<&Item> {
        let item = self.queue.get(self.written)?;
        self.written += 1;
        Some(item)
    }

    /// The highest number on the present connection that is not confirmed.
    pub(super) fn last_written(&self) -> Option<u64> {
        self.written.checked_sub(1).map(|index| self.queue[index].number)
    }

    /// The server's peer has everything up to `number`.
    pub(super) fn received(&mut self, number: u64) {
        while self.written > 0 && self.queue.front().is_some_and(|item| item.number <= number) {
            let Some(item) = self.queue.pop_front() else { return };
            self.written -= 1;
            self.end(item, Stage::Received, None);
        }
    }

    /// The connection is gone: what it carried and nobody confirmed must be sent again, or may not be.
    pub(super) fn connection_lost(&mut self) {
        let written = std::mem::take(&mut self.written);
        self.end_where(0..written, Stage::Refused, Some("unknown-delivery"), |item| !item.resend);
        // What was under way may expire again.
        self.next_expiry = self.queue.iter().filter_map(|item| item.expires).min();
    }

    /// A message was too large for the server, and the connection with it is over. The largest that the server has not
    /// confirmed must be the one, if one of these was it: it ends, and is not sent again and again. Returns its size.
    ///
    /// None is to blame if a subscription is as large: either that is too large itself, or it shows what is not.
    pub(super) fn refuse_largest(&mut self) -> Option<usize> {
        let harmless = self.subscriptions.iter().map(|known| known.body.len()).max().unwrap_or_default();
        let written = self.queue.range(..self.written).enumerate().filter(|(_, item)| item.body.len() > harmless);
        let (index, _) = written.max_by_key(|(index, item)| (item.body.len(), usize::MAX - index))?;
        let item = self.queue.remove(index)?;
        self.written -= 1;
        let size = item.body.len();
        self.end(item, Stage::Refused, Some("too-large"));
        Some(size)
    }

    /// When to look again for messages that have waited too long; never later than the first one's time.
    pub(super) fn expires_at(&self) -> Option<Duration> {
        self.next_expiry
    }

    /// Ends what has waited too long. What is on the connection is left: it may have arrived.
    pub(super) fn expire(&mut self, now: Duration) {
        if self.next_expiry.is_none_or(|next| next > now) {
            return;
        }
        let too_long = |item: &Item| item.expires.is_some_and(|expires| expires <= now);
        self.end_where(self.written..self.queue.len(), Stage::Expired, None, too_long);
        self.next_expiry = self.queue.iter().skip(self.written).filter_map(|item| item.expires).min();
    }

    /// Ends those in `range` that `ends` picks, in their order and in one pass.
    fn end_where(
        &mut self,
        range: Range<usize>,
        stage: Stage,
        reason: Option<&'static str>,
        ends: impl Fn(&Item) -> bool,
    ) {
        if !self.queue.range(range.clone()).any(&ends) {
            return;
        }
        let behind = self.queue.split_off(range.end);
        for item in self.queue.split_off(range.start) {
            if ends(&item) {
                self.end(item, stage, reason);
            } else {
                self.queue.push_back(item);
            }
        }
        self.queue.extend(behind);
    }

    /// `item` has left the queue.
    fn end(&mut self, item: Item, stage: Stage, reason: Option<&'static str>) {
        self.bytes -= item.body.len();
        let Some(id) = item.id else { return };
        self.reached(&id, stage, reason);
        self.ended.push_back(id);
        if self.ended.len() > MAX_REMEMBERED
            && let Some(oldest) = self.ended.pop_front()
        {
            self.known.remove(&oldest);
        }
    }

    fn reached(&mut self, id: &Arc<str>, stage: Stage, reason: Option<&'static str>) {
        let Some(known) = self.known.get_mut(id) else { return };
        if known.stage.is_some_and(|reached| reached >= stage) {
            return;
        }
        known.stage = Some(stage);
        known.reason = reason;
        // A message that ends badly is always told; a good stage if it was asked for.
        if stage <= Stage::Acknowledged && !known.wanted.contains(&Some(stage)) {
            return;
        }
        add(&mut self.receipts, known.port, stage, reason, Arc::clone(id));
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
            let Receipt { port, stage, reason, ids } = receipt;
            if attached(port) {
                due.push(Receipt { port, stage, reason, ids });
                continue;
            }
            for id in ids.into_iter().filter(|_| stage > Stage::Stored) {
                let Some(known) = self.known.get(&id) else { continue };
                if let Some(port) = reader_of(&known.consumer) {
                    add(&mut due, port, stage, reason, id);
                    continue;
                }
                let kept = self.unreported.entry(known.consumer.clone()).or_default();
                kept.push_back((stage, reason, id));
                if kept.len() > MAX_UNREPORTED {
                    kept.pop_front();
                }
            }
        }
        due
    }

    /// `port` reads for `consumer` now: it gets the endings that nobody was there to hear.
    pub(super) fn report_to(&mut self, port: PortId, consumer: &str) {
        for (stage, reason, id) in self.unreported.remove(consumer).unwrap_or_default() {
            add(&mut self.receipts, port, stage, reason, id);
        }
    }
}

/// Adds one more id to the last receipt if that says the same.
fn add(receipts: &mut Vec<Receipt>, port: PortId, stage: Stage, reason: Option<&'static str>, id: Arc<str>) {
    match receipts.last_mut() {
        Some(last) if (last.port, last.stage, last.reason) == (port, stage, reason) => last.ids.push(id),
        _ => receipts.push(Receipt { port, stage, reason, ids: vec![id] }),
    }
}
