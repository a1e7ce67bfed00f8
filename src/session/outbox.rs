//! What the extension sent and the server is not yet known to have.
//!
//! Owns: the queue towards the server, its limits, what was written on the present connection, the ids and the endings
//! of messages. Does not know connections or time beyond what it is told.
//!
//! Invariants: numbers only grow; the first `written` items are on the present connection, in order; an item leaves
//! only with an ending, and an ending of an item with an id is reported or kept to be reported.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::PortId;
use crate::wire::{Body, Send, Stage};

/// How much may wait.
const MAX_MESSAGES: usize = 10_000;
const MAX_BYTES: usize = 64 * 1024 * 1024;

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

#[derive(Debug, Default)]
pub(super) struct Outbox {
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
        let full =
            !self.queue.is_empty() && (self.queue.len() >= MAX_MESSAGES || self.bytes + send.body.len() > MAX_BYTES);
        if full {
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
            let wanted = wanted.map(|stage| send.receipts.contains(&stage).then_some(stage));
            let known = Known { stage: None, reason: None, port, consumer: consumer.to_owned(), wanted };
            self.known.insert(Arc::clone(id), known);
        }
        self.bytes += send.body.len();
        let expires = send.ttl_ms.map(|ttl| now.saturating_add(Duration::from_millis(ttl)));
        self.next_expiry = self.next_expiry.into_iter().chain(expires).min();
        self.queue.push_back(Item { number: self.last_number, body: send.body, id, resend: send.resend, expires });
        Queued::New(self.last_number)
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
