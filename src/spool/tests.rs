//! Tests of the spool on real files.

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::session::record::*;
use crate::wire::event::Refusal;
use crate::wire::{Gap, GapReason, Stage};

const SESSION: u64 = 7;

/// A spool in a directory of its own.
struct Rig {
    spool: Spool,
    kept: Vec<Kept>,
    news: Receiver<News>,
    ticket: u64,
}

impl Rig {
    fn open(path: &Path) -> Self {
        let (tell, news) = channel();
        let (spool, kept) = Spool::open(path, move |news| tell.send(news).unwrap()).unwrap();
        Self { spool, kept, news, ticket: 0 }
    }

    fn news(&self) -> News {
        self.news.recv_timeout(Duration::from_secs(60)).unwrap()
    }

    fn write(&mut self, session: u64, changes: Vec<Change>) {
        self.ticket += 1;
        self.spool.write(session, self.ticket, changes);
        assert_eq!(self.news(), News::Written { session, ticket: self.ticket });
    }

    fn load(&self, session: u64, from: u64, to: u64, max_bytes: usize) -> (Vec<(u64, Body)>, u64) {
        self.spool.load(session, 1, from, to, max_bytes);
        match self.news() {
            News::Loaded { session: of, number: 1, bodies, to } if of == session => (bodies, to),
            other => panic!("{other:?}"),
        }
    }
}

fn owner(name: &str) -> Owner {
    Owner { origin: "chrome-extension://a/".to_owned(), profile: String::new(), name: name.to_owned() }
}

fn sheet(head: u64) -> Change {
    Change::Sheet(Box::new(Sheet { url: "ws://localhost/".to_owned(), head, ..Sheet::default() }))
}

fn message(seq: u64, text: &str) -> Change {
    Change::Arrived(Arrival { seq, at: 1000 + seq, content: Content::Message(body(text)) })
}

fn body(text: &str) -> Body {
    Body::Json(Bytes::copy_from_slice(text.as_bytes()))
}

fn born(name: &str) -> Vec<Change> {
    vec![Change::Owner(owner(name)), sheet(0)]
}

#[test]
fn everything_that_is_written_is_there_when_the_file_is_opened_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool.db");
    let mut rig = Rig::open(&path);
    assert_eq!(rig.kept, []);
    let gap =
        Gap { from: 2, reason: GapReason::Disconnected, count: None, at_most: Some(3), since: Some(4), until: None };
    let post = |number| Post {
        number,
        id: Some(format!("id{number}")),
        consumer: "main".to_owned(),
        wanted: vec![Stage::Stored, Stage::Received],
        resend: true,
        expires_at: Some(99),
    };
    let outcome = |ordinal, id: &str, unreported| Outcome {
        ordinal,
        id: id.to_owned(),
        consumer: "main".to_owned(),
        stage: Stage::Refused,
        refusal: Some(Refusal::Full),
        at: 5,
        unreported,
    };
    let bookmark =
        |consumer: &str, acked| Bookmark { consumer: consumer.to_owned(), acked, left_at: Some(3), dropped: false };
    let subscription = |position, key: &str, text| Subscription { position, key: key.to_owned(), body: body(text) };
    rig.write(SESSION, born("a"));
    rig.write(
        SESSION,
        vec![
            Change::Given("{}".to_owned()),
            sheet(5),
            Change::Bookmark(bookmark("x", 1)),
            Change::Bookmark(bookmark("main", 1)),
            Change::Bookmark(bookmark("main", 2)),
            message(1, "1"),
            Change::Arrived(Arrival { seq: 3, at: 9, content: Content::Gap(gap) }),
            Change::Arrived(Arrival { seq: 4, at: 9, content: Content::Message(Body::Text("hi".into())) }),
            Change::Arrived(Arrival { seq: 5, at: 9, content: Content::Message(Body::Binary("\0\u{1}".into())) }),
            Change::Posted { post: post(1), body: body("1") },
            Change::Posted { post: post(2), body: Body::Text("2".into()) },
            Change::Posted { post: post(3), body: Body::Binary("3".into()) },
            Change::Ended(outcome(1, "i", false)),
            Change::Ended(outcome(2, "j", true)),
            Change::Ended(outcome(3, "k", false)),
            Change::Ended(outcome(4, "k", false)),
            Change::Subscribed(subscription(2, "s", "2")),
            Change::Subscribed(subscription(1, "t", "1")),
            Change::Subscribed(subscription(3, "u", "3")),
            Change::Subscribed(subscription(4, "u", "4")),
        ],
    );
    rig.write(
        SESSION,
        vec![
            Change::NoBookmark { consumer: "x".to_owned() },
            Change::Gone { from: 0, to: 1 },
            Change::Unposted { from: 1, to: 1 },
            Change::EndingsForgotten { to: 2 },
            Change::Unsubscribed { key: "s".to_owned() },
        ],
    );
    rig.write(8, born("b"));
    rig.write(9, born("c"));
    rig.write(8, vec![Change::Forgotten]);
    rig.spool.close();
    let outline = |seq, content| Outline { seq, at: 9, content };
    let rig = Rig::open(&path);
    assert_eq!(rig.kept.iter().map(|kept| kept.session).collect::<Vec<_>>(), [SESSION, 9]);
    assert_eq!(
        rig.kept[0],
        Kept {
            session: SESSION,
            owner: owner("a"),
            given: "{}".to_owned(),
            damage: None,
            record: Record {
                rewound: false,
                sheet: Sheet { url: "ws://localhost/".to_owned(), head: 5, ..Sheet::default() },
                bookmarks: vec![bookmark("main", 2)],
                arrivals: vec![
                    outline(3, OutlineContent::Gap(gap)),
                    outline(4, OutlineContent::Message(2)),
                    outline(5, OutlineContent::Message(2)),
                ],
                posts: vec![(post(2), Some(Body::Text("2".into()))), (post(3), Some(Body::Binary("3".into())))],
                outcomes: vec![outcome(2, "j", true), outcome(4, "k", false)],
                subscriptions: vec![subscription(1, "t", "1"), subscription(4, "u", "4")],
            }
        }
    );
    assert_eq!(
        rig.load(SESSION, 1, u64::MAX, 1000),
        (vec![(4, Body::Text("hi".into())), (5, Body::Binary("\0\u{1}".into()))], u64::MAX)
    );
}
