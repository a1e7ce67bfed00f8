//! Tests of the spool on real files.
//!
//! Here is what it does when all is well. `power`, `damage` and `full` are about when it is not; `model` says what
//! should be kept, and `disk` is a disk that can be told to misbehave.

mod damage;
mod disk;
mod full;
mod model;
mod power;

use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::session::record::*;
use crate::wire::event::Refusal;
use crate::wire::{Gap, GapReason, Stage};
use disk::Disk;
use model::{Model, Sessions};

const SESSION: u64 = 7;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A spool in a directory of its own.
struct Rig {
    spool: Spool,
    kept: Vec<Kept>,
    news: Receiver<News>,
    ticket: u64,
    /// How often damage was told of.
    damaged: usize,
}

impl Rig {
    fn open(path: &Path) -> Self {
        Self::open_at(Place::new(path))
    }

    fn open_at(place: Place) -> Self {
        let (tell, news) = channel();
        // A test that is over does not listen.
        let (spool, kept) = Spool::open_at(place, move |news| drop(tell.send(news))).unwrap();
        Self { spool, kept, news, ticket: 0, damaged: 0 }
    }

    fn news(&self) -> News {
        self.news.recv_timeout(PATIENCE).unwrap()
    }

    /// What is told next, but for damage.
    fn answer(&mut self) -> News {
        loop {
            match self.news() {
                News::Damaged => self.damaged += 1,
                answer => return answer,
            }
        }
    }

    fn write(&mut self, session: u64, changes: Vec<Change>) {
        self.ticket += 1;
        self.spool.write(session, self.ticket, changes);
        assert_eq!(self.answer(), News::Written { session, ticket: self.ticket });
    }

    fn load(&mut self, session: u64, from: u64, to: u64, max_bytes: usize) -> Loaded {
        self.spool.load(session, 1, from, to, max_bytes);
        match self.answer() {
            News::Loaded { session: of, number: 1, bodies, to } if of == session => (bodies, to),
            other => panic!("{other:?}"),
        }
    }

    /// Waits until everything is done that was to be done after the last answer.
    fn settle(&mut self) {
        self.load(0, 0, 0, 0);
    }

    /// All messages of a session.
    fn messages(&mut self, session: u64) -> BTreeMap<u64, Body> {
        let (mut messages, mut from) = (BTreeMap::new(), 0);
        loop {
            let (bodies, to) = self.load(session, from, u64::MAX, 100_000);
            messages.extend(bodies);
            if to == u64::MAX {
                return messages;
            }
            from = to + 1;
        }
    }

    /// Asserts that all messages of a model are there, and no others.
    fn assert_messages(&mut self, model: &Model, case: &str) {
        for (session, known) in &model.0 {
            assert_eq!(self.messages(*session), known.messages, "{case}");
        }
        assert_eq!(self.damaged, 0, "{case}");
    }
}

/// A place whose files are real, and whose disk nobody waits for.
fn quick_place(directory: &Path) -> (Disk, Place) {
    let (disk, vfs) = Disk::new(directory);
    let place = Place { vfs: Some(vfs), ..Place::new(&directory.join("spool.db")) };
    // One of the right size is left as it is.
    std::fs::File::create(place.ballast()).unwrap().set_len(1024 * 1024).unwrap();
    (disk, place)
}

/// Messages, and up to which number was looked for them.
type Loaded = (Vec<(u64, Body)>, u64);

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
    let seen = |seq, id: &str| Seen { seq, id: id.into() };
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
            Change::Seen(seen(1, "7")),
            Change::Seen(seen(4, "8")),
            Change::Seen(seen(5, "\"8\"")),
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
            Change::Unseen { to: 3 },
        ],
    );
    rig.write(8, born("b"));
    rig.write(9, born("c"));
    rig.write(8, vec![Change::Forgotten]);
    rig.spool.close();
    let outline = |seq, content| Outline { seq, at: 9, content };
    let mut rig = Rig::open(&path);
    assert_eq!(rig.kept.iter().map(|kept| kept.session).collect::<Vec<_>>(), [SESSION, 9]);
    assert_eq!(
        rig.kept[0],
        Kept {
            session: SESSION,
            owner: owner("a"),
            given: "{}".to_owned(),
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
                seen: vec![seen(4, "8"), seen(5, "\"8\"")],
            }
        }
    );
    assert_eq!(
        rig.load(SESSION, 1, u64::MAX, 1000),
        (vec![(4, Body::Text("hi".into())), (5, Body::Binary("\0\u{1}".into()))], u64::MAX)
    );
}

#[test]
fn whatever_sessions_write_is_kept_as_they_mean_it() {
    for seed in 0..8 {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool.db");
        let mut sessions = Sessions::new(seed);
        let mut rig = Rig::open(&path);
        for _ in 0..4 {
            for _ in 0..60 {
                let (session, changes) = sessions.write();
                rig.write(session, changes);
            }
            rig.spool.close();
            rig = Rig::open(&path);
            assert_eq!(rig.kept, sessions.model.kept(), "seed {seed}");
            rig.assert_messages(&sessions.model, &format!("seed {seed}"));
        }
    }
}

#[test]
fn a_load_stops_at_its_limit_and_says_up_to_where_it_looked() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&directory.path().join("spool.db"));
    rig.write(SESSION, born("a"));
    let gap = Gap { from: 5, reason: GapReason::Overflow, count: None, at_most: None, since: None, until: None };
    let text = "x".repeat(1000);
    let mut messages: Vec<Change> = (1..=10).map(|seq| message(seq * 10, &text)).collect();
    messages.push(Change::Arrived(Arrival { seq: 25, at: 1, content: Content::Gap(gap) }));
    rig.write(SESSION, messages);
    let mut numbers = |from, to, max_bytes| {
        let (bodies, to) = rig.load(SESSION, from, to, max_bytes);
        (bodies.into_iter().map(|(seq, _)| seq).collect::<Vec<_>>(), to)
    };
    assert_eq!(numbers(1, 100, 100_000), ((1..=10).map(|seq| seq * 10).collect(), 100));
    assert_eq!(numbers(1, 100, 3000), (vec![10, 20, 30], 39));
    assert_eq!(numbers(40, 100, 2999), (vec![40, 50], 59));
    // One at least, however long it is.
    assert_eq!(numbers(60, 100, 1), (vec![60], 69));
    assert_eq!(numbers(41, 49, 1), (vec![], 49));
    assert_eq!(numbers(200, u64::MAX, 1), (vec![], u64::MAX));
}

#[test]
fn many_short_messages_are_loaded_in_several_goes() {
    let directory = tempfile::tempdir().unwrap();
    let mut rig = Rig::open(&directory.path().join("spool.db"));
    rig.write(SESSION, born("a"));
    rig.write(SESSION, (1..=10_000).map(|seq| message(seq, "")).collect());
    let (bodies, to) = rig.load(SESSION, 1, u64::MAX, usize::MAX);
    assert_eq!(u64::try_from(bodies.len()).unwrap(), to);
    assert!(to < 10_000);
    assert_eq!(rig.messages(SESSION).len(), 10_000);
}

/// A spool whose thread stops after the first thing that it tells, until something comes through the gate.
fn gated(place: Place) -> (Rig, Sender<()>) {
    let (tell, news) = channel();
    let (open, gate) = channel();
    let first = std::sync::Once::new();
    let (spool, kept) = Spool::open_at(place, move |news| {
        drop(tell.send(news));
        first.call_once(|| gate.recv().unwrap());
    })
    .unwrap();
    (Rig { spool, kept, news, ticket: 0, damaged: 0 }, open)
}

#[test]
fn what_waits_is_written_together_and_a_load_sees_what_came_before_it_and_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, place) = quick_place(directory.path());
    let (mut rig, gate) = gated(place);
    rig.write(SESSION, born("a"));
    let before = disk.state().steps.len();
    for ticket in 2..=50 {
        rig.spool.write(ticket, ticket, born("b"));
    }
    rig.spool.write(SESSION, 51, vec![message(1, "1")]);
    rig.spool.load(SESSION, 1, 1, 9, 1000);
    rig.spool.write(SESSION, 52, vec![Change::Gone { from: 1, to: 1 }, message(2, "2")]);
    rig.spool.load(SESSION, 2, 1, 9, 1000);
    gate.send(()).unwrap();
    let loaded = |number, seq: u64| News::Loaded {
        session: SESSION,
        number,
        bodies: vec![(seq, body(&seq.to_string()))],
        to: 9,
    };
    for ticket in 2..=51 {
        assert_eq!(rig.news(), News::Written { session: if ticket == 51 { SESSION } else { ticket }, ticket });
    }
    assert_eq!(rig.news(), loaded(1, 1));
    assert_eq!(rig.news(), News::Written { session: SESSION, ticket: 52 });
    assert_eq!(rig.news(), loaded(2, 2));
    let steps = &disk.state().steps[before..];
    let syncs = steps.iter().filter(|step| matches!(step, disk::Step::Sync { .. })).count();
    assert_eq!(syncs, 2, "51 writes, a load between them and one more");
}

#[test]
fn a_write_that_cannot_be_done_does_not_hinder_those_that_wait_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let (_disk, place) = quick_place(directory.path());
    let (mut rig, gate) = gated(place.clone());
    rig.write(SESSION, born("a"));
    // More than SQLite takes in one piece. Nobody touches the memory but to read zeros.
    let too_long = Content::Message(Body::Binary(Bytes::from(vec![0; 1_000_000_001])));
    let changes = vec![message(1, "1"), Change::Arrived(Arrival { seq: 2, at: 2, content: too_long })];
    rig.spool.write(8, 2, born("b"));
    rig.spool.write(SESSION, 3, changes);
    rig.spool.write(9, 4, born("c"));
    gate.send(()).unwrap();
    assert_eq!(rig.news(), News::Written { session: 8, ticket: 2 });
    assert_eq!(rig.news(), News::NotWritten { session: SESSION, ticket: 3 });
    assert_eq!(rig.news(), News::Written { session: 9, ticket: 4 });
    assert_eq!(rig.messages(SESSION), BTreeMap::new());
    rig.spool.close();
    assert_eq!(Rig::open_at(place).kept.len(), 3);
}

#[test]
fn closing_writes_all_that_was_asked_for_and_leaves_no_log() {
    let directory = tempfile::tempdir().unwrap();
    let (_disk, place) = quick_place(directory.path());
    let rig = Rig::open_at(place.clone());
    (0..500).for_each(|session| rig.spool.write(session, session, born("a")));
    rig.spool.close();
    assert!(!place.log().exists());
    assert_eq!(Rig::open_at(place).kept.len(), 500);
}

#[test]
fn what_belongs_to_no_session_is_swept_away() {
    let directory = tempfile::tempdir().unwrap();
    let (_disk, place) = quick_place(directory.path());
    let mut rig = Rig::open_at(place.clone());
    rig.write(SESSION, born("a"));
    rig.write(8, vec![message(1, "1"), sheet(1)]);
    rig.write(9, vec![Change::Owner(owner("b")), message(1, "1")]);
    rig.spool.close();
    let rig = Rig::open_at(place.clone());
    assert_eq!(rig.kept.iter().map(|kept| kept.session).collect::<Vec<_>>(), [SESSION]);
    rig.spool.close();
    let db = rusqlite::Connection::open(&place.path).unwrap();
    for table in rows::TABLES {
        let sql = format!("SELECT count(*) FROM {} WHERE session <> {SESSION}", table.name);
        assert_eq!(db.query_row(&sql, (), |row| row.get::<_, i64>(0)).unwrap(), 0, "{}", table.name);
    }
}

#[test]
fn opening_a_sound_file_writes_nothing_into_it() {
    let directory = tempfile::tempdir().unwrap();
    let (disk, place) = quick_place(directory.path());
    let mut rig = Rig::open_at(place.clone());
    rig.write(SESSION, born("a"));
    rig.spool.close();
    disk.state().steps.clear();
    let mut rig = Rig::open_at(place);
    assert_eq!(rig.messages(SESSION), BTreeMap::new());
    let steps = &disk.state().steps;
    assert!(steps.iter().all(|step| !matches!(step, disk::Step::Write { .. })), "{steps:?}");
}

#[test]
fn the_log_stays_short_and_the_file_gives_back_what_a_flood_took() {
    let directory = tempfile::tempdir().unwrap();
    let (_disk, place) = quick_place(directory.path());
    let mut rig = Rig::open_at(place.clone());
    let length = |path: &Path| std::fs::metadata(path).unwrap().len();
    rig.write(SESSION, born("a"));
    let text = "x".repeat(10_000);
    let mut longest_log = 0;
    for seq in 1..=2000 {
        rig.write(SESSION, vec![message(seq, &text), sheet(seq)]);
        longest_log = longest_log.max(length(&place.log()));
    }
    assert!((500_000..1_500_000).contains(&longest_log), "{longest_log}");
    assert!(length(&place.path) > 20_000_000);
    rig.write(SESSION, vec![Change::Gone { from: 0, to: 2000 }, message(2001, "1")]);
    let deadline = std::time::Instant::now() + PATIENCE;
    while length(&place.path) > 2_000_000 {
        assert!(std::time::Instant::now() < deadline, "the file stays {} bytes long", length(&place.path));
        // It goes on with what it is asked for meanwhile.
        assert_eq!(rig.messages(SESSION).len(), 1);
    }
    assert!(length(&place.path) > 500_000, "some is kept for what comes next");
}

#[cfg(unix)]
#[test]
fn nobody_else_can_read_any_of_the_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool.db");
    std::fs::write(&path, "no spool at all, but long enough to be looked at by whoever reads files. ".repeat(99))
        .unwrap();
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut rig = Rig::open(&path);
    rig.write(SESSION, born("a"));
    rig.settle();
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions()) & 0o777;
        assert_eq!(mode, 0o600, "{:?}", entry.path());
        names.push(entry.path());
    }
    assert_eq!(names.len(), 5, "{names:?}");
    // And whoever wants to remove everything is told of all of them.
    let mut listed = files(&path);
    listed.retain(|path| path.exists());
    names.sort();
    listed.sort();
    assert_eq!(names, listed);
}

#[test]
fn sqlite_is_told_how_to_treat_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = file::File::open(&Place::new(&directory.path().join("spool.db"))).unwrap();
    let expected = [
        ("application_id", "1465074178"),
        ("auto_vacuum", "2"),
        ("cache_size", "-2048"),
        ("cell_size_check", "1"),
        ("checkpoint_fullfsync", "1"),
        ("fullfsync", "1"),
        ("journal_mode", "wal"),
        ("journal_size_limit", "1048576"),
        ("locking_mode", "exclusive"),
        ("mmap_size", "0"),
        ("page_size", "4096"),
        ("secure_delete", "2"),
        ("synchronous", "2"),
        ("temp_store", "2"),
        ("trusted_schema", "0"),
        ("user_version", "2"),
        ("wal_autocheckpoint", "0"),
    ];
    for (pragma, value) in expected {
        let mut found = String::from("nothing");
        file.db()
            .pragma_query(None, pragma, |row| {
                found = match row.get_ref(0)? {
                    rusqlite::types::ValueRef::Integer(number) => number.to_string(),
                    other => other.as_str()?.to_owned(),
                };
                Ok(())
            })
            .unwrap();
        assert_eq!(found, value, "{pragma}");
    }
}

/// A file with these tables and marks.
fn database(path: &Path, sql: &str) -> Vec<u8> {
    rusqlite::Connection::open(path).unwrap().execute_batch(sql).unwrap();
    std::fs::read(path).unwrap()
}

fn refusal(path: &Path) -> SpoolError {
    Spool::open(path, |_| ()).map(|_| ()).unwrap_err()
}

#[test]
fn a_file_of_a_newer_version_or_another_program_is_refused_and_left_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let newer = directory.path().join("newer.db");
    let content =
        database(&newer, "CREATE TABLE arrival (x); PRAGMA user_version = 3; PRAGMA application_id = 1465074179;");
    // Whatever its mark may mean, it is not for us to say that it is damaged.
    let mut mark = [7; 20];
    mark[8..16].copy_from_slice(&9u64.to_be_bytes());
    let sum = crc32fast::hash(&mark[..16]);
    mark[16..].copy_from_slice(&sum.to_be_bytes());
    std::fs::write(newer.with_extension("mark"), mark).unwrap();
    let said = refusal(&newer);
    assert!(matches!(said, SpoolError::Newer { version: 3, .. }), "{said}");
    assert!(said.to_string().contains("start that version"), "{said}");
    assert_eq!(std::fs::read(&newer).unwrap(), content);

    let foreign = directory.path().join("foreign.db");
    let content = database(&foreign, "CREATE TABLE letters (body TEXT); PRAGMA user_version = 7;");
    let said = refusal(&foreign);
    assert!(matches!(said, SpoolError::Foreign { .. }), "{said}");
    assert_eq!(std::fs::read(&foreign).unwrap(), content);

    let nowhere = directory.path().join("nowhere/spool.db");
    let said = refusal(&nowhere);
    assert!(said.to_string().contains("nowhere"), "{said}");
}

#[test]
fn a_file_of_an_older_format_is_brought_up_step_by_step_or_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool.db");
    let mut db = rusqlite::Connection::open(&path).unwrap();
    let steps = [rows::SCHEMA, "CREATE TABLE two (x);", "INSERT INTO two VALUES (3);"];
    let version =
        |db: &rusqlite::Connection| -> i32 { db.query_row("PRAGMA user_version", (), |row| row.get(0)).unwrap() };
    file::migrate(&mut db, &path, &steps[..1]).unwrap();
    assert_eq!(version(&db), 1);
    // A step that fails takes back those before it.
    assert!(file::migrate(&mut db, &path, &[steps[0], steps[1], "nonsense"]).is_err());
    assert_eq!(version(&db), 1);
    file::migrate(&mut db, &path, &steps).unwrap();
    assert_eq!(version(&db), 3);
    assert_eq!(db.query_row("SELECT x FROM two", (), |row| row.get::<_, i32>(0)).unwrap(), 3);
    // What is done is not done again.
    file::migrate(&mut db, &path, &steps).unwrap();
    assert!(matches!(file::migrate(&mut db, &path, &steps[..2]), Err(Failure::Refused(SpoolError::Newer { .. }))));
}

#[test]
fn a_file_of_format_1_goes_on_and_whoever_only_looks_at_it_finds_it_sound() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool.db");
    let mut db = rusqlite::Connection::open(&path).unwrap();
    file::migrate(&mut db, &path, &[rows::SCHEMA]).unwrap();
    born("a").iter().chain(&[message(1, "1")]).for_each(|change| rows::apply(&db, SESSION, change).unwrap());
    drop(db);
    let found = inspect::inspect(&path, PATIENCE);
    assert!(matches!(found.condition, inspect::Condition::Sound), "{found:?}");
    assert_eq!(found.sessions.len(), 1);
    let seen = Seen { seq: 1, id: "7".into() };
    let mut rig = Rig::open(&path);
    rig.write(SESSION, vec![Change::Seen(seen.clone())]);
    rig.spool.close();
    assert_eq!(Rig::open(&path).kept[0].record.seen, [seen]);
}

#[test]
fn what_format_1_says_is_still_understood() {
    // If one of these changes, files that there are cannot be read any more: give what is new a default, or add a step
    // to `STEPS` that rewrites the rows (and their sums).
    fn is_understood<T>(text: &str)
    where
        T: serde::Serialize + serde::de::DeserializeOwned,
    {
        let value: T = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(serde_json::to_string(&value).unwrap(), text);
    }
    is_understood::<Owner>(r#"{"origin":"chrome-extension://a/","profile":"","name":"default"}"#);
    is_understood::<Bookmark>(r#"{"consumer":"main","acked":1,"left_at":null,"dropped":false}"#);
    is_understood::<Post>(
        r#"{"number":1,"id":"a","consumer":"main","wanted":["stored","received"],"resend":true,"expires_at":null}"#,
    );
    is_understood::<Outcome>(
        r#"{"ordinal":1,"id":"a","consumer":"main","stage":"refused","refusal":"full","at":1,"unreported":true}"#,
    );
    is_understood::<Gap>(r#"{"from":1,"reason":"disconnected","count":null,"at_most":null,"since":1,"until":2}"#);
    is_understood::<Sheet>(
        r#"{"url":"ws://localhost/","protocols":[],"epoch":"e","head":1,"reserved":2,"floor":0,"arrivals":1,"bookmarks":0,"posts":0,"outcomes":0,"subscriptions":0,"last_post":0,"lost":{"posts":0,"outcomes":0,"subscriptions":0},"closed":false,"deserted_at":null,"outage_since":null,"written_at":1,"budget_full_at":0,"learnt_window_ms":null,"answers_pings":false,"answers_beats":false,"collapsed":0}"#,
    );
}

#[test]
fn a_session_has_a_number_that_no_other_has_had() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("spool.db");
    let mut rig = Rig::open(&path);
    let (first, second) = (rig.spool.draw_number(), rig.spool.draw_number());
    assert!(second > first);
    rig.write(second, born("a"));
    rig.write(second, vec![Change::Forgotten]);
    rig.spool.close();
    // The file knows nothing of the two any more.
    let mut rig = Rig::open(&path);
    let third = rig.spool.draw_number();
    assert!(![first, second].contains(&third));
    // A clock that is set back changes nothing.
    let late = 1 << 60;
    rig.write(late, born("b"));
    rig.spool.close();
    let rig = Rig::open(&path);
    assert_eq!([rig.spool.draw_number(), rig.spool.draw_number()], [late + 1, late + 2]);
}
