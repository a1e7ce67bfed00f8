//! A disk in memory: what a session says is to be kept, as the next daemon would find it.

use std::collections::BTreeMap;

use super::*;
use crate::session::record::{
    Arrival, Bookmark, Content, Outcome, Outline, OutlineContent, Post, Record, Seen, Sheet, Subscription,
};

/// What is kept of one session.
#[derive(Debug, Clone, Default)]
pub(super) struct Shelf {
    pub(super) sheet: Option<Sheet>,
    bookmarks: BTreeMap<String, Bookmark>,
    pub(super) arrivals: BTreeMap<u64, Arrival>,
    pub(super) posts: BTreeMap<u64, (Post, Body)>,
    outcomes: BTreeMap<String, Outcome>,
    subscriptions: BTreeMap<String, Subscription>,
    pub(super) seen: BTreeMap<u64, Seen>,
    /// Something was lost that was here.
    damaged: bool,
}

impl Shelf {
    pub(super) fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Owner(_) | Change::Given(_) => panic!("the driver's to say: {change:?}"),
                Change::Sheet(sheet) => self.sheet = Some(*sheet),
                Change::Bookmark(bookmark) => {
                    self.bookmarks.insert(bookmark.consumer.clone(), bookmark);
                }
                Change::NoBookmark { consumer } => {
                    self.bookmarks.remove(&consumer);
                }
                Change::Arrived(arrival) => {
                    self.arrivals.insert(arrival.seq, arrival);
                }
                Change::Gone { from, to } => self.arrivals.retain(|seq, _| !(from..=to).contains(seq)),
                Change::Posted { post, body } => {
                    self.posts.insert(post.number, (post, body));
                }
                Change::Unposted { from, to } => self.posts.retain(|number, _| !(from..=to).contains(number)),
                Change::Ended(outcome) => {
                    self.outcomes.insert(outcome.id.clone(), outcome);
                }
                Change::EndingsForgotten { to } => {
                    self.outcomes.retain(|_, outcome| outcome.ordinal > to || outcome.unreported);
                }
                Change::Subscribed(subscription) => {
                    self.subscriptions.insert(subscription.key.clone(), subscription);
                }
                Change::Unsubscribed { key } => {
                    self.subscriptions.remove(&key);
                }
                Change::Seen(seen) => {
                    self.seen.insert(seen.seq, seen);
                }
                Change::Unseen { to } => self.seen.retain(|seq, _| *seq > to),
                Change::Forgotten => *self = Self::default(),
            }
        }
        self.check();
    }

    /// A message cannot be read any more.
    pub(super) fn damage(&mut self, seq: u64) {
        self.arrivals.remove(&seq);
        self.damaged = true;
    }

    /// A message to the server is gone.
    pub(super) fn damage_post(&mut self, number: u64) {
        self.posts.remove(&number);
        self.damaged = true;
    }

    /// The place of a consumer is gone.
    pub(super) fn damage_bookmark(&mut self, consumer: &str) {
        self.bookmarks.remove(consumer).expect("it has a place");
        self.damaged = true;
    }

    /// What became of messages is gone, and so are all subscriptions.
    pub(super) fn damage_notes(&mut self) {
        self.outcomes.clear();
        self.subscriptions.clear();
        self.damaged = true;
    }

    /// Whether it is a message that lies there.
    pub(super) fn is_message(&self, seq: u64) -> bool {
        self.arrivals.get(&seq).is_some_and(|arrival| matches!(arrival.content, Content::Message(_)))
    }

    /// What must hold of what lies on the disk, whenever that is looked at.
    fn check(&self) {
        let Some(sheet) = &self.sheet else { return };
        let kept = self.arrivals.keys().filter(|seq| **seq > sheet.floor).count();
        assert!(kept as u64 == sheet.arrivals || self.damaged, "{kept} rows of the stream: {sheet:?}");
        assert!(self.arrivals.keys().all(|seq| *seq <= sheet.head), "a row above the head");
        let posts = self.posts.len() as u64;
        assert!(posts == sheet.posts || self.damaged, "{posts} rows of the queue: {sheet:?}");
        let others = [self.bookmarks.len(), self.outcomes.len(), self.subscriptions.len()].map(|rows| rows as u64);
        let counted = [sheet.bookmarks, sheet.outcomes, sheet.subscriptions];
        assert!(others == counted || self.damaged, "{others:?} rows of consumers, endings, subscriptions: {sheet:?}");
        let known = self.seen.keys().all(|seq| *seq <= sheet.head);
        assert!(
            known && (self.seen.is_empty() || sheet.ids_at.is_some()),
            "an id of a message that may be lost: {sheet:?}"
        );
        assert!(sheet.floor <= sheet.head && sheet.head <= sheet.reserved, "{sheet:?}");
    }

    /// The messages with these numbers.
    pub(super) fn load(&self, from: u64, to: u64, max_bytes: usize) -> (Vec<(u64, Body)>, u64) {
        let (mut bodies, mut bytes) = (Vec::new(), 0);
        for (seq, arrival) in self.arrivals.range(from..=to) {
            let Content::Message(body) = &arrival.content else { continue };
            if !bodies.is_empty() && bytes + body.len() > max_bytes {
                return (bodies, seq - 1);
            }
            bytes += body.len();
            bodies.push((*seq, body.clone()));
        }
        (bodies, to)
    }

    /// What a daemon that starts now finds, if the session is kept at all.
    pub(super) fn record(&self) -> Option<Record> {
        let outline = |arrival: &Arrival| Outline {
            seq: arrival.seq,
            at: arrival.at,
            content: match &arrival.content {
                Content::Message(body) => OutlineContent::Message(body.len()),
                Content::Gap(gap) => OutlineContent::Gap(*gap),
            },
        };
        let mut outcomes: Vec<_> = self.outcomes.values().cloned().collect();
        outcomes.sort_by_key(|outcome| outcome.ordinal);
        let mut subscriptions: Vec<_> = self.subscriptions.values().cloned().collect();
        subscriptions.sort_by_key(|subscription| subscription.position);
        Some(Record {
            rewound: false,
            sheet: self.sheet.clone()?,
            bookmarks: self.bookmarks.values().cloned().collect(),
            arrivals: self.arrivals.values().map(outline).collect(),
            posts: self.posts.values().map(|(post, body)| (post.clone(), Some(body.clone()))).collect(),
            outcomes,
            subscriptions,
            seen: self.seen.values().cloned().collect(),
        })
    }

    pub(super) fn sheet(&self) -> &Sheet {
        self.sheet.as_ref().expect("the session is kept")
    }
}
