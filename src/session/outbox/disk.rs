//! The outbox on the disk: what of it is there and what has to go there next.
//!
//! Owns: which messages are written, which rows are to go, whose endings and which subscriptions are to be written. When it
//! is time to write is the journal's to say. In memory mode none of this happens.
//!
//! What is written is always the beginning of the queue up to some number: a message that its sender wants to hear of goes
//! at once, and takes those before it along; any other has some time to be confirmed before.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::{End, Item, Known, Outbox, STAGES, Subscription};
use crate::session::record::{self, Change, Losses, Outcome, Post, Record};
use crate::session::{Now, PortId};
use crate::settings::Settings;
use crate::wire::Stage;
use crate::wire::event::Refusal;

/// The port of what an earlier daemon took: none.
const NOBODY: PortId = PortId(0);

#[derive(Debug, Default)]
pub(super) struct Disk {
    /// There is one: the session is not in memory mode.
    there: bool,
    /// It takes no messages.
    full: bool,
    /// Messages up to this number are there, or have ended.
    saved: u64,
    /// The same when the write that is under way is done.
    saving: u64,
    /// Messages up to this number are not there any more.
    cleared: u64,
    /// The last message that somebody wants to hear of.
    promised: u64,
    /// Numbers up to `saving` that ended before those in front of them.
    holes: Vec<u64>,
    /// Numbers of which something is to be written anew.
    reposted: Vec<u64>,
    /// Endings that are to be written.
    settled: Vec<Outcome>,
    /// Endings up to this ordinal are forgotten, if they were reported.
    forgotten: u64,
    forgotten_saved: u64,
    /// Keys of subscriptions that are not there as they are.
    subscriptions: BTreeSet<String>,
    /// How many subscriptions are there.
    subscribed: u64,
}

/// What a write takes to the disk.
#[derive(Debug)]
pub(in super::super) struct Snapshot {
    saved: u64,
    cleared: u64,
    holes: Vec<u64>,
    reposted: Vec<u64>,
    settled: Vec<Outcome>,
    forgotten: u64,
    subscriptions: BTreeSet<String>,
    /// How many messages are then on the disk.
    pub(in super::super) posts: u64,
    /// How many endings.
    pub(in super::super) outcomes: u64,
    /// How many subscriptions.
    pub(in super::super) subscribed: u64,
    /// The highest number that a message ever had.
    pub(in super::super) last_post: u64,
}

impl Disk {
    /// The same disk without anything on it.
    pub(super) fn cleared(&self) -> Self {
        Self { there: self.there, full: self.full, ..Self::default() }
    }

    pub(super) fn has_room(&self) -> bool {
        !self.full
    }

    /// The sender of the message under `number` wants to hear of it.
    pub(super) fn promise(&mut self, number: u64) {
        self.promised = number;
    }

    /// Another consumer is to hear of the message under `number`.
    pub(super) fn repost(&mut self, number: u64) {
        if self.there && number <= self.saving {
            self.reposted.push(number);
        }
    }

    /// The message under `number` has ended.
    pub(super) fn ended(&mut self, number: u64) {
        if self.there && number <= self.saving {
            self.holes.push(number);
        }
    }

    pub(super) fn settled(&mut self, outcome: Option<Outcome>) {
        self.settled.extend(outcome.filter(|_| self.there));
    }

    pub(super) fn forget(&mut self, ordinal: u64) {
        self.forgotten = self.forgotten.max(ordinal);
    }

    pub(super) fn subscription_changed(&mut self, key: &str) {
        if self.there {
            self.subscriptions.insert(key.to_owned());
        }
    }
}

impl Outbox {
    /// An outbox that is kept on a disk.
    pub(in super::super) fn on_disk(mut self) -> Self {
        self.disk.there = true;
        self
    }

    /// The disk takes messages again, or does not any more.
    pub(in super::super) fn set_room(&mut self, room: bool) {
        self.disk.full = !room;
    }

    /// Whether a message is not on the disk whose sender waits to hear that it is.
    pub(in super::super) fn has_promises(&self) -> bool {
        let unsaved = self.queue.partition_point(|item| item.number <= self.disk.saved);
        !self.disk.full && self.queue.get(unsaved).is_some_and(|item| item.number <= self.disk.promised)
    }

    /// Whether something is not on the disk that is to be kept.
    pub(in super::super) fn has_unsaved(&self) -> bool {
        self.unsaved_since().is_some() || !self.disk.reposted.is_empty() || !self.disk.subscriptions.is_empty()
    }

    /// When the oldest message was sent that is not on the disk, nor on its way there.
    pub(in super::super) fn unsaved_since(&self) -> Option<Duration> {
        let unsaved = self.queue.partition_point(|item| item.number <= self.disk.saving);
        self.queue.range(unsaved..).find(|item| !item.passing).map(|item| item.came)
    }

    /// Whether something is not on the disk that should be some time; asked once.
    pub(in super::super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What has to be written now. A message of which nobody wants to hear may wait until it is `ripe`, which is what came
    /// until then.
    pub(in super::super) fn snapshot(&mut self, ripe: Duration, now: Now, changes: &mut Vec<Change>) -> Snapshot {
        let saved = self.disk.saved;
        let unsaved = self.queue.partition_point(|item| item.number <= saved);
        let due = |item: &&Item| item.number <= self.disk.promised || item.came <= ripe;
        let last = self.queue.range(unsaved..).filter(due).last().filter(|_| !self.disk.full);
        let to = last.map_or(saved, |item| item.number);

        let begin = self.queue.front().map_or(self.last_number, |item| item.number - 1);
        let cleared = begin.min(saved);
        if cleared > self.disk.cleared {
            changes.push(Change::Unposted { from: self.disk.cleared + 1, to: cleared });
        }
        let mut holes = std::mem::take(&mut self.disk.holes);
        holes.retain(|number| *number > cleared);
        changes.extend(holes.iter().map(|&number| Change::Unposted { from: number, to: number }));
        let mut posts = 0;
        // A full disk takes nothing that is not there, and what is there can stay as it is.
        let full = self.disk.full;
        let mut reposted = if full { Vec::new() } else { std::mem::take(&mut self.disk.reposted) };
        reposted.sort_unstable();
        for item in self.queue.iter().take_while(|item| item.number <= to).filter(|item| !item.passing) {
            posts += 1;
            if item.number > saved || reposted.binary_search(&item.number).is_ok() {
                changes.push(Change::Posted { post: self.post(item, now), body: item.body.clone() });
            }
        }

        let settled = std::mem::take(&mut self.disk.settled);
        changes.extend(settled.iter().cloned().map(Change::Ended));
        let forgotten = self.disk.forgotten;
        if forgotten > self.disk.forgotten_saved {
            changes.push(Change::EndingsForgotten { to: forgotten });
        }
        let subscriptions = if full { BTreeSet::new() } else { std::mem::take(&mut self.disk.subscriptions) };
        for key in &subscriptions {
            changes.push(match self.subscriptions.iter().find(|known| known.key == *key) {
                Some(Subscription { position, key, body }) => {
                    let (key, body) = (key.clone(), body.clone());
                    Change::Subscribed(record::Subscription { position: *position, key, body })
                }
                None => Change::Unsubscribed { key: key.clone() },
            });
        }
        let subscribed = if full { self.disk.subscribed } else { self.subscriptions.len() as u64 };
        self.disk.saving = to;
        Snapshot {
            saved: to,
            cleared,
            holes,
            reposted,
            settled,
            forgotten,
            subscriptions,
            posts,
            outcomes: (self.ended.len() + self.unreported.len()) as u64,
            subscribed,
            last_post: self.last_number,
        }
    }

    /// What `snapshot` took is on the disk: those who wait for that are told.
    pub(in super::super) fn snapshot_saved(&mut self, snapshot: &Snapshot) {
        let before = std::mem::replace(&mut self.disk.saved, snapshot.saved);
        self.disk.cleared = snapshot.cleared;
        (self.disk.forgotten_saved, self.disk.subscribed) = (snapshot.forgotten, snapshot.subscribed);
        let first = self.queue.partition_point(|item| item.number <= before);
        let last = self.queue.partition_point(|item| item.number <= snapshot.saved);
        let stored: Vec<_> = self.queue.range(first..last).filter_map(|item| item.id.clone()).collect();
        for id in stored {
            self.reached(&id, Stage::Stored, None);
        }
    }

    /// What `snapshot` took is not on the disk, and has to be taken again.
    pub(in super::super) fn snapshot_lost(&mut self, snapshot: Snapshot) {
        self.disk.saving = self.disk.saved;
        self.disk.holes.extend(snapshot.holes);
        self.disk.reposted.extend(snapshot.reposted);
        // What was said of the same ids since counts.
        let newer = std::mem::replace(&mut self.disk.settled, snapshot.settled);
        self.disk.settled.extend(newer);
        self.disk.subscriptions.extend(snapshot.subscriptions);
        self.changed = true;
    }

    /// The disk may have lost anything of what was written: all is written anew.
    pub(in super::super) fn disk_was_damaged(&mut self) {
        let written = self.queue.iter().map(|item| item.number).filter(|number| *number <= self.disk.saving);
        self.disk.reposted = written.collect();
        self.disk.settled = self.ended.iter().chain(&self.unreported).filter_map(|id| self.outcome(id)).collect();
        self.disk.subscriptions.extend(self.subscriptions.iter().map(|known| known.key.clone()));
        self.changed = true;
    }

    fn post(&self, item: &Item, now: Now) -> Post {
        let known = item.id.as_ref().and_then(|id| self.known.get(id));
        Post {
            number: item.number,
            id: item.id.as_deref().map(str::to_owned),
            consumer: known.map(|known| known.consumer.clone()).unwrap_or_default(),
            wanted: known.map(|known| known.wanted.into_iter().flatten().collect()).unwrap_or_default(),
            resend: item.resend,
            expires_at: item.expires.map(|expires| now.unix_at(expires)),
        }
    }

    pub(super) fn outcome(&self, id: &Arc<str>) -> Option<Outcome> {
        let known = self.known.get(id)?;
        let End { ordinal, at, unreported } = known.ended?;
        Some(Outcome {
            ordinal,
            id: id.as_ref().to_owned(),
            consumer: known.consumer.clone(),
            stage: known.stage?,
            refusal: known.refusal,
            at,
            unreported,
        })
    }

    /// What an earlier daemon left, and what of it is missing. A message of which only the content is, is refused.
    pub(in super::super) fn restore(settings: &Settings, record: &mut Record, now: Now) -> (Self, Losses) {
        let sheet = &record.sheet;
        let mut outbox = Self::new(settings).on_disk();
        outbox.last_number = sheet.last_post;
        let posts = std::mem::take(&mut record.posts);
        let lost = Losses {
            posts: sheet.posts.saturating_sub(posts.len() as u64),
            outcomes: sheet.outcomes.saturating_sub(record.outcomes.len() as u64),
            subscriptions: sheet.subscriptions.saturating_sub(record.subscriptions.len() as u64),
        };
        outbox.disk.subscribed = record.subscriptions.len() as u64;
        (outbox.disk.saved, outbox.disk.saving) = (sheet.last_post, sheet.last_post);
        for outcome in std::mem::take(&mut record.outcomes) {
            outbox.restore_outcome(outcome);
        }
        for subscription in std::mem::take(&mut record.subscriptions) {
            let record::Subscription { position, key, body } = subscription;
            outbox.subscriptions.push(Subscription { position, key, body });
        }
        for (post, body) in posts {
            let Post { number, id, consumer, wanted, resend, expires_at } = post;
            let id: Option<Arc<str>> = id.map(Into::into);
            if let Some(id) = &id {
                let wanted = STAGES.map(|stage| wanted.contains(&stage).then_some(stage));
                let stage = Some(Stage::Stored);
                let known = Known { number, stage, refusal: None, port: NOBODY, consumer, wanted, ended: None };
                outbox.known.insert(Arc::clone(id), known);
            }
            let expires = expires_at.map(|at| now.elapsed_until(at));
            let damaged = body.is_none();
            let body = body.unwrap_or_else(|| crate::wire::Body::Text(bytes::Bytes::new()));
            outbox.bytes += body.len();
            outbox.next_expiry = outbox.next_expiry.into_iter().chain(expires).min();
            let item = Item { number, body, id, resend, expires, came: now.elapsed, passing: false, losses: 0 };
            if damaged {
                outbox.end(item, Stage::Refused, Some(Refusal::Damage), now);
            } else {
                outbox.queue.push_back(item);
            }
        }
        (outbox, lost)
    }

    fn restore_outcome(&mut self, outcome: Outcome) {
        let Outcome { ordinal, id, consumer, stage, refusal, at, unreported } = outcome;
        let id: Arc<str> = id.into();
        self.endings = self.endings.max(ordinal);
        let list: &mut VecDeque<_> = if unreported { &mut self.unreported } else { &mut self.ended };
        list.push_back(Arc::clone(&id));
        let ended = Some(End { ordinal, at, unreported });
        let wanted = [None; 3];
        self.known.insert(id, Known { number: 0, stage: Some(stage), refusal, port: NOBODY, consumer, wanted, ended });
    }
}
