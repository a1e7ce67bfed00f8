//! What a spool keeps, without a disk: changes as they are meant.
//!
//! Owns: the model that the tests compare with, and the generator of changes.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::Kept;
use crate::session::record::*;
use crate::wire::{Body, Gap, GapReason, Stage};

/// Everything that is kept of a session, with the messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) kept: Kept,
    pub(super) messages: BTreeMap<u64, Body>,
}

/// All sessions, by their numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Model(pub(super) BTreeMap<u64, Known>);

impl Model {
    pub(super) fn apply(&mut self, session: u64, changes: &[Change]) {
        changes.iter().for_each(|change| self.change(session, change.clone()));
    }

    fn change(&mut self, session: u64, change: Change) {
        if let Change::Owner(owner) = change {
            let record = Record {
                rewound: false,
                sheet: Sheet::default(),
                bookmarks: Vec::new(),
                arrivals: Vec::new(),
                posts: Vec::new(),
                outcomes: Vec::new(),
                subscriptions: Vec::new(),
                seen: Vec::new(),
            };
            let kept = Kept { session, owner, given: String::new(), record };
            self.0.insert(session, Known { kept, messages: BTreeMap::new() });
            return;
        }
        let Known { kept, messages } = self.0.get_mut(&session).expect("a session begins with its owner");
        let record = &mut kept.record;
        match change {
            Change::Owner(_) => unreachable!("done"),
            Change::Given(given) => kept.given = given,
            Change::Sheet(sheet) => record.sheet = *sheet,
            Change::Bookmark(bookmark) => {
                record.bookmarks.retain(|other| other.consumer != bookmark.consumer);
                record.bookmarks.push(bookmark);
                record.bookmarks.sort_by(|one, other| one.consumer.cmp(&other.consumer));
            }
            Change::NoBookmark { consumer } => record.bookmarks.retain(|other| other.consumer != consumer),
            Change::Arrived(Arrival { seq, at, content }) => {
                messages.remove(&seq);
                let content = match content {
                    Content::Gap(gap) => OutlineContent::Gap(gap),
                    Content::Message(body) => {
                        let length = body.len();
                        messages.insert(seq, body);
                        OutlineContent::Message(length)
                    }
                };
                record.arrivals.retain(|other| other.seq != seq);
                record.arrivals.push(Outline { seq, at, content });
                record.arrivals.sort_by_key(|outline| outline.seq);
            }
            Change::Gone { from, to } => {
                messages.retain(|seq, _| !(from..=to).contains(seq));
                record.arrivals.retain(|outline| !(from..=to).contains(&outline.seq));
            }
            Change::Posted { post, body } => {
                record.posts.retain(|(other, _)| other.number != post.number);
                record.posts.push((post, Some(body)));
                record.posts.sort_by_key(|(post, _)| post.number);
            }
            Change::Unposted { from, to } => record.posts.retain(|(post, _)| !(from..=to).contains(&post.number)),
            Change::Ended(outcome) => {
                record.outcomes.retain(|other| other.id != outcome.id && other.ordinal != outcome.ordinal);
                record.outcomes.push(outcome);
                record.outcomes.sort_by_key(|outcome| outcome.ordinal);
            }
            Change::EndingsForgotten { to } => {
                record.outcomes.retain(|outcome| outcome.ordinal > to || outcome.unreported);
            }
            Change::Subscribed(subscription) => {
                record.subscriptions.retain(|other| other.key != subscription.key);
                record.subscriptions.push(subscription);
                record.subscriptions.sort_by_key(|subscription| subscription.position);
            }
            Change::Unsubscribed { key } => record.subscriptions.retain(|other| other.key != key),
            Change::Seen(seen) => {
                record.seen.retain(|other| other.seq != seen.seq);
                record.seen.push(seen);
                record.seen.sort_by_key(|seen| seen.seq);
            }
            Change::Unseen { to } => record.seen.retain(|seen| seen.seq > to),
            Change::Forgotten => drop(self.0.remove(&session)),
        }
    }

    /// What a spool that opens should find.
    pub(super) fn kept(&self) -> Vec<Kept> {
        self.0.values().map(|known| known.kept.clone()).collect()
    }
}

/// Makes changes such as sessions make, by chance.
pub(super) struct Sessions {
    pub(super) chance: fastrand::Rng,
    /// What has been asked for so far.
    pub(super) model: Model,
    /// Numbers that are used once only.
    next: u64,
    /// The longest message.
    pub(super) longest: usize,
}

impl Sessions {
    pub(super) fn new(seed: u64) -> Self {
        Self { chance: fastrand::Rng::with_seed(seed), model: Model::default(), next: 0, longest: 6000 }
    }

    /// A write of some session.
    pub(super) fn write(&mut self) -> (u64, Vec<Change>) {
        let known: Vec<u64> = self.model.0.keys().copied().collect();
        let (session, mut changes) = match self.chance.choice(&known) {
            Some(&session) if known.len() >= 4 || self.chance.u8(..10) > 0 => (session, Vec::new()),
            _ => {
                self.next += 1;
                // They do not come in the order of their numbers.
                let session = self.next.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1;
                let owner = Owner {
                    origin: "chrome-extension://a/".to_owned(),
                    profile: String::new(),
                    name: format!("s{}", self.next),
                };
                (session, vec![Change::Owner(owner)])
            }
        };
        if changes.is_empty() && self.chance.u8(..100) == 0 {
            changes.push(Change::Forgotten);
        } else {
            for _ in 0..self.chance.usize(1..12) {
                let change = self.change(session);
                changes.push(change);
            }
            let mut then = self.model.clone();
            then.apply(session, &changes);
            let [arrivals, bookmarks, posts, outcomes, subscriptions] = counts(&then.0[&session].kept.record);
            changes.push(Change::Sheet(Box::new(Sheet {
                url: "ws://localhost:8080/".to_owned(),
                epoch: "e".to_owned(),
                head: self.next,
                arrivals,
                bookmarks,
                posts,
                outcomes,
                subscriptions,
                written_at: self.next,
                ..Sheet::default()
            })));
        }
        self.model.apply(session, &changes);
        (session, changes)
    }

    fn change(&mut self, session: u64) -> Change {
        self.next += 1;
        let number = self.next;
        let name = |chance: &mut fastrand::Rng| format!("n{}", chance.u8(..9));
        let some_back = |chance: &mut fastrand::Rng| number.saturating_sub(chance.u64(..60));
        match self.chance.u8(..23) {
            0..9 => Change::Arrived(Arrival { seq: number, at: number, content: Content::Message(self.body()) }),
            9 => {
                let reason = GapReason::Disconnected;
                let gap = Gap { from: number, reason, count: Some(1), at_most: None, since: None, until: Some(number) };
                Change::Arrived(Arrival { seq: some_back(&mut self.chance), at: number, content: Content::Gap(gap) })
            }
            10 => Change::Gone { from: 0, to: some_back(&mut self.chance) },
            11 | 12 => {
                let post = Post {
                    number,
                    id: Some(name(&mut self.chance)),
                    consumer: "main".to_owned(),
                    wanted: vec![Stage::Stored],
                    resend: true,
                    expires_at: None,
                };
                Change::Posted { post, body: self.body() }
            }
            13 => Change::Unposted { from: 0, to: some_back(&mut self.chance) },
            14 | 15 => Change::Ended(Outcome {
                ordinal: number,
                id: name(&mut self.chance),
                consumer: "main".to_owned(),
                stage: Stage::Received,
                refusal: None,
                at: number,
                unreported: self.chance.bool(),
            }),
            16 => Change::EndingsForgotten { to: some_back(&mut self.chance) },
            17 => {
                let consumer = name(&mut self.chance);
                let is_known = self.model.0.contains_key(&session);
                if is_known && self.chance.u8(..4) == 0 {
                    Change::NoBookmark { consumer }
                } else {
                    Change::Bookmark(Bookmark { consumer, acked: number, left_at: None, dropped: false })
                }
            }
            18 => {
                let key = name(&mut self.chance);
                Change::Subscribed(Subscription { position: number, key, body: self.body() })
            }
            19 | 20 => Change::Seen(Seen { seq: number, id: name(&mut self.chance).into() }),
            21 => Change::Unseen { to: some_back(&mut self.chance) },
            _ if self.chance.bool() => Change::Unsubscribed { key: name(&mut self.chance) },
            _ => Change::Given(format!("{{\"n\":{number}}}")),
        }
    }

    /// Short ones are many, and long ones are there.
    fn body(&mut self) -> Body {
        let longest = if self.chance.u8(..4) == 0 { self.longest } else { self.longest.min(200) };
        let length = self.chance.usize(..longest);
        let text: String = std::iter::repeat_with(|| self.chance.alphanumeric()).take(length).collect();
        match self.chance.u8(..3) {
            0 => Body::Json(Bytes::from(text)),
            1 => Body::Text(Bytes::from(text)),
            _ => Body::Binary(Bytes::from(text)),
        }
    }
}

/// Asserts that nothing is there that was not written, and that nothing is missing without a sign of it.
pub(super) fn assert_only_marked_losses(found: &[Kept], model: &Model, case: &str) {
    for kept in found {
        if kept.record.rewound {
            // An earlier state; whoever calls knows which ones there were.
            continue;
        }
        let session = kept.session;
        let known = model.0.get(&session).unwrap_or_else(|| panic!("{case}: session {session} was never written"));
        let (there, wanted) = (&kept.record, &known.kept.record);
        assert_eq!((&kept.owner, &there.sheet), (&known.kept.owner, &wanted.sheet), "{case}");
        assert!(kept.given.is_empty() || kept.given == known.kept.given, "{case}");
        assert!(is_part(&there.bookmarks, &wanted.bookmarks), "{case}");
        assert!(is_part(&there.arrivals, &wanted.arrivals), "{case}");
        assert!(is_part(&there.outcomes, &wanted.outcomes), "{case}");
        assert!(is_part(&there.subscriptions, &wanted.subscriptions), "{case}");
        // What is missing of these may come once more, and nothing needs to say so.
        assert!(is_part(&there.seen, &wanted.seen), "{case}");
        for (post, body) in &there.posts {
            let wanted = wanted.posts.iter().find(|(wanted, _)| wanted == post).expect(case);
            assert!(body.is_none() || *body == wanted.1, "{case}");
        }
        // The counts of the sheet say what is missing, and they are right.
        let Sheet { arrivals, bookmarks, posts, outcomes, subscriptions, .. } = wanted.sheet;
        let counted = [arrivals, bookmarks, posts, outcomes, subscriptions];
        assert_eq!(counted, counts(wanted), "{case}: something is missing, and nothing says so");
    }
}

/// How much there is of everything that a sheet counts.
fn counts(record: &Record) -> [u64; 5] {
    let Record { arrivals, bookmarks, posts, outcomes, subscriptions, .. } = record;
    [arrivals.len(), bookmarks.len(), posts.len(), outcomes.len(), subscriptions.len()].map(|count| count as u64)
}

fn is_part<T: PartialEq>(there: &[T], wanted: &[T]) -> bool {
    there.iter().all(|one| wanted.contains(one))
}
