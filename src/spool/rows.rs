//! What the file keeps of a session, row by row.
//!
//! Owns: the tables, how a [`Change`] becomes rows and rows become a [`Record`], and the checksums: SQLite has none, so
//! each row carries one over all that it says, its keys included. A row whose checksum is wrong is as good as none; what comes
//! back is what was written, or nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, ToSql};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::Kept;
use crate::session::record::{Arrival, Change, Content, Outcome, Outline, OutlineContent, Post, Record, Subscription};
use crate::wire::{Body, Gap};

/// The tables of format 1.
///
/// What is small is JSON text. `sum` is over the whole row, but for the body: that has a sum of its own, so that the
/// rest can be read and believed without it.
pub(super) const SCHEMA: &str = "
    CREATE TABLE owner (session INTEGER PRIMARY KEY, about TEXT NOT NULL, sum INTEGER NOT NULL) STRICT;
    CREATE TABLE given (session INTEGER PRIMARY KEY, about TEXT NOT NULL, sum INTEGER NOT NULL) STRICT;
    CREATE TABLE sheet (session INTEGER PRIMARY KEY, about TEXT NOT NULL, sum INTEGER NOT NULL) STRICT;
    CREATE TABLE bookmark (
        session INTEGER NOT NULL, consumer TEXT NOT NULL, about TEXT NOT NULL, sum INTEGER NOT NULL,
        PRIMARY KEY (session, consumer)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE arrival (
        session INTEGER NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL, kind INTEGER NOT NULL,
        sum INTEGER NOT NULL, body_sum INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (session, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE post (
        session INTEGER NOT NULL, number INTEGER NOT NULL, about TEXT NOT NULL, kind INTEGER NOT NULL,
        sum INTEGER NOT NULL, body_sum INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (session, number)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE outcome (
        session INTEGER NOT NULL, ordinal INTEGER NOT NULL, id TEXT NOT NULL, unreported INTEGER NOT NULL,
        about TEXT NOT NULL, sum INTEGER NOT NULL,
        PRIMARY KEY (session, ordinal),
        UNIQUE (session, id)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE subscription (
        session INTEGER NOT NULL, key TEXT NOT NULL, position INTEGER NOT NULL, kind INTEGER NOT NULL,
        sum INTEGER NOT NULL, body BLOB NOT NULL,
        PRIMARY KEY (session, key)
    ) STRICT, WITHOUT ROWID;
";

/// All tables; each begins with the session.
const TABLES: &[&str] = &["owner", "given", "sheet", "bookmark", "arrival", "post", "outcome", "subscription"];

/// How many prepared statements are worth keeping: all of them.
pub(super) const STATEMENTS: usize = 32;

/// How many messages one load looks at, so that nothing waits long for it.
const MAX_LOAD: usize = 4096;

/// What a row is that stands at a place of the stream, or which kind of frame a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Json,
    Text,
    Binary,
    Gap,
}

impl Kind {
    fn of(body: &Body) -> Self {
        match body {
            Body::Json(_) => Self::Json,
            Body::Text(_) => Self::Text,
            Body::Binary(_) => Self::Binary,
        }
    }

    fn body(self, bytes: Bytes) -> Option<Body> {
        match self {
            Self::Json => Some(Body::Json(bytes)),
            Self::Text => Some(Body::Text(bytes)),
            Self::Binary => Some(Body::Binary(bytes)),
            Self::Gap => None,
        }
    }

    fn from_number(number: i64) -> Option<Self> {
        [Self::Json, Self::Text, Self::Binary, Self::Gap].into_iter().find(|kind| *kind as i64 == number)
    }
}

/// Makes one change.
pub(super) fn apply(db: &Connection, session: u64, change: &Change) -> rusqlite::Result<()> {
    let session = integer(session);
    match change {
        Change::Owner(owner) => put_note(db, "owner", session, &json(owner)),
        Change::Given(given) => put_note(db, "given", session, given),
        Change::Sheet(sheet) => put_note(db, "sheet", session, &json(sheet)),
        Change::Bookmark(bookmark) => {
            let about = json(bookmark);
            let sum = Sum::of("bookmark").number(session).text(&bookmark.consumer).text(&about).end();
            execute(
                db,
                "INSERT OR REPLACE INTO bookmark (session, consumer, about, sum) VALUES (?, ?, ?, ?)",
                &[&session, &bookmark.consumer, &about, &sum],
            )
        }
        Change::NoBookmark { consumer } => {
            execute(db, "DELETE FROM bookmark WHERE session = ? AND consumer = ?", &[&session, consumer])
        }
        Change::Arrived(arrival) => put_arrival(db, session, arrival),
        Change::Gone { from, to } => execute(
            db,
            "DELETE FROM arrival WHERE session = ? AND seq BETWEEN ? AND ?",
            &[&session, &integer(*from), &integer(*to)],
        ),
        Change::Posted { post, body } => {
            let (number, about, kind) = (integer(post.number), json(post), Kind::of(body));
            let sum = Sum::of("post").number(session).number(number).text(&about).end();
            let body_sum = Sum::of("post body").number(session).number(number).number(kind as i64).bytes(body.bytes());
            execute(
                db,
                "INSERT OR REPLACE INTO post (session, number, about, kind, sum, body_sum, body) \
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                &[&session, &number, &about, &(kind as i64), &sum, &body_sum.end(), &&**body.bytes()],
            )
        }
        Change::Unposted { from, to } => execute(
            db,
            "DELETE FROM post WHERE session = ? AND number BETWEEN ? AND ?",
            &[&session, &integer(*from), &integer(*to)],
        ),
        Change::Ended(outcome) => put_outcome(db, session, outcome),
        Change::EndingsForgotten { to } => execute(
            db,
            "DELETE FROM outcome WHERE session = ? AND ordinal <= ? AND unreported = 0",
            &[&session, &integer(*to)],
        ),
        Change::Subscribed(Subscription { position, key, body }) => {
            let (position, kind) = (integer(*position), Kind::of(body));
            let sum = subscription_sum(session, key, position, kind as i64, body.bytes());
            execute(
                db,
                "INSERT OR REPLACE INTO subscription (session, key, position, kind, sum, body) VALUES (?, ?, ?, ?, ?, ?)",
                &[&session, key, &position, &(kind as i64), &sum, &&**body.bytes()],
            )
        }
        Change::Unsubscribed { key } => {
            execute(db, "DELETE FROM subscription WHERE session = ? AND key = ?", &[&session, key])
        }
        Change::Forgotten => forget(db, session),
    }
}

fn put_note(db: &Connection, table: &str, session: i64, about: &str) -> rusqlite::Result<()> {
    let sum = Sum::of(table).number(session).text(about).end();
    let sql = format!("INSERT OR REPLACE INTO {table} (session, about, sum) VALUES (?, ?, ?)");
    execute(db, &sql, &[&session, &about, &sum])
}

fn put_arrival(db: &Connection, session: i64, arrival: &Arrival) -> rusqlite::Result<()> {
    let gap;
    let (kind, body): (_, &[u8]) = match &arrival.content {
        Content::Message(body) => (Kind::of(body), body.bytes()),
        Content::Gap(what) => {
            gap = json(what);
            (Kind::Gap, gap.as_bytes())
        }
    };
    let (seq, at) = (integer(arrival.seq), integer(arrival.at));
    let body_sum = Sum::of("body").bytes(body).end();
    let sum = arrival_sum(session, seq, at, kind, body.len(), body_sum);
    execute(
        db,
        "INSERT OR REPLACE INTO arrival (session, seq, at, kind, sum, body_sum, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
        &[&session, &seq, &at, &(kind as i64), &sum, &body_sum, &body],
    )
}

fn arrival_sum(session: i64, seq: i64, at: i64, kind: Kind, length: usize, body_sum: u32) -> u32 {
    let row = Sum::of("arrival").number(session).number(seq).number(at).number(kind as i64);
    row.number(length as i64).number(body_sum.into()).end()
}

fn put_outcome(db: &Connection, session: i64, outcome: &Outcome) -> rusqlite::Result<()> {
    let (ordinal, unreported, about) = (integer(outcome.ordinal), i64::from(outcome.unreported), json(outcome));
    let sum = outcome_sum(session, ordinal, &outcome.id, unreported, &about);
    // Replaces what has the same ordinal, and what has the same id.
    execute(
        db,
        "INSERT OR REPLACE INTO outcome (session, ordinal, id, unreported, about, sum) VALUES (?, ?, ?, ?, ?, ?)",
        &[&session, &ordinal, &outcome.id, &unreported, &about, &sum],
    )
}

fn outcome_sum(session: i64, ordinal: i64, id: &str, unreported: i64, about: &str) -> u32 {
    Sum::of("outcome").number(session).number(ordinal).text(id).number(unreported).text(about).end()
}

fn subscription_sum(session: i64, key: &str, position: i64, kind: i64, body: &[u8]) -> u32 {
    Sum::of("subscription").number(session).text(key).number(position).number(kind).bytes(body).end()
}

fn forget(db: &Connection, session: i64) -> rusqlite::Result<()> {
    TABLES.iter().try_for_each(|table| execute(db, &format!("DELETE FROM {table} WHERE session = ?"), &[&session]))
}

fn execute(db: &Connection, sql: &str, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute(values).map(drop)
}

/// How many bytes of bodies a change writes.
pub(super) fn body_length(change: &Change) -> usize {
    match change {
        Change::Arrived(Arrival { content: Content::Message(body), .. })
        | Change::Posted { body, .. }
        | Change::Subscribed(Subscription { body, .. }) => body.len(),
        _ => 0,
    }
}

/// Reads the messages of a session with these numbers, and up to which number was looked.
pub(super) fn load(
    db: &Connection,
    session: u64,
    from: u64,
    to: u64,
    max_bytes: usize,
) -> rusqlite::Result<(Vec<(u64, Body)>, u64)> {
    let mut statement = db.prepare_cached(
        "SELECT session, seq, at, kind, sum, body_sum, body FROM arrival \
         WHERE session = ? AND seq BETWEEN ? AND ? ORDER BY seq",
    )?;
    let mut rows = statement.query((integer(session), integer(from), integer(to)))?;
    let (mut bodies, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
    while let Some(row) = rows.next()? {
        let Some((seq, kind, body)) = arrival(row) else { continue };
        bytes += body.len();
        looked_at += 1;
        if looked_at > MAX_LOAD || (bytes > max_bytes && !bodies.is_empty()) {
            return Ok((bodies, seq - 1));
        }
        if let Some(body) = kind.body(Bytes::copy_from_slice(body)) {
            bodies.push((seq, body));
        }
    }
    Ok((bodies, to))
}

/// Reads everything that is kept, but for the messages to the extension, and cleans up what belongs to no session.
pub(super) fn read(db: &mut Connection) -> rusqlite::Result<Vec<Kept>> {
    let mut damaged = Damaged::default();
    let (owners, mut givens, mut sheets) =
        (notes(db, "owner", &mut damaged)?, notes(db, "given", &mut damaged)?, notes(db, "sheet", &mut damaged)?);
    let mut found = BTreeMap::new();
    for (session, owner) in owners {
        let (Some(owner), Some(sheet)) = (from_json(&owner), sheets.remove(&session).and_then(|it| from_json(&it)))
        else {
            continue;
        };
        let record = Record {
            sheet,
            bookmarks: Vec::new(),
            arrivals: Vec::new(),
            posts: Vec::new(),
            outcomes: Vec::new(),
            subscriptions: Vec::new(),
        };
        let given = givens.remove(&session).unwrap_or_default();
        found.insert(session, Kept { session, owner, given, record });
    }
    let nobodys = nobodys(db, &found)?;
    if !nobodys.is_empty() {
        warn!(sessions = nobodys.len(), "dropped sessions from the spool whose owner or sheet could not be read");
        let transaction = db.transaction()?;
        nobodys.into_iter().try_for_each(|session| forget(&transaction, session))?;
        transaction.commit()?;
    }
    each(db, "SELECT session, consumer, about, sum FROM bookmark", "bookmark", &mut damaged, |row| {
        let (session, consumer, about) = (number(row, 0)?, text(row, 1)?, text(row, 2)?);
        check(row, 3, Sum::of("bookmark").number(session).text(consumer).text(about))?;
        found.get_mut(&natural(session))?.record.bookmarks.push(from_json(about)?);
        Some(())
    })?;
    let sql = "SELECT session, seq, at, kind, sum, body_sum, length(body), CASE kind WHEN 3 THEN body END FROM arrival";
    each(db, sql, "arrival", &mut damaged, |row| {
        let (session, outline) = outline(row)?;
        found.get_mut(&session)?.record.arrivals.push(outline);
        Some(())
    })?;
    each(db, "SELECT session, number, about, kind, sum, body_sum, body FROM post", "post", &mut damaged, |row| {
        let (session, number, about) = (number(row, 0)?, number(row, 1)?, text(row, 2)?);
        check(row, 4, Sum::of("post").number(session).number(number).text(about))?;
        let post: Post = from_json(about)?;
        found.get_mut(&natural(session))?.record.posts.push((post, post_body(row)));
        Some(())
    })?;
    let sql = "SELECT session, ordinal, id, unreported, about, sum FROM outcome";
    each(db, sql, "outcome", &mut damaged, |row| {
        let (session, ordinal, id) = (number(row, 0)?, number(row, 1)?, text(row, 2)?);
        let (unreported, about) = (number(row, 3)?, text(row, 4)?);
        let sum = outcome_sum(session, ordinal, id, unreported, about);
        (number(row, 5)? == i64::from(sum)).then_some(())?;
        found.get_mut(&natural(session))?.record.outcomes.push(from_json(about)?);
        Some(())
    })?;
    let sql = "SELECT session, key, position, kind, sum, body FROM subscription";
    each(db, sql, "subscription", &mut damaged, |row| {
        let (session, key, position, kind) = (number(row, 0)?, text(row, 1)?, number(row, 2)?, number(row, 3)?);
        let body = blob(row, 5)?;
        (number(row, 4)? == i64::from(subscription_sum(session, key, position, kind, body))).then_some(())?;
        let body = Kind::from_number(kind)?.body(Bytes::copy_from_slice(body))?;
        let subscription = Subscription { position: natural(position), key: key.to_owned(), body };
        found.get_mut(&natural(session))?.record.subscriptions.push(subscription);
        Some(())
    })?;
    damaged.log();
    let mut kept: Vec<Kept> = found.into_values().collect();
    kept.iter_mut().for_each(|kept| put_in_order(&mut kept.record));
    Ok(kept)
}

/// Keys are in order if the file is sound, and are put in order if not.
fn put_in_order(record: &mut Record) {
    record.arrivals.sort_by_key(|outline| outline.seq);
    record.arrivals.dedup_by_key(|outline| outline.seq);
    record.posts.sort_by_key(|(post, _)| post.number);
    record.posts.dedup_by_key(|(post, _)| post.number);
    record.outcomes.sort_by_key(|outcome| outcome.ordinal);
    record.outcomes.dedup_by_key(|outcome| outcome.ordinal);
    record.subscriptions.sort_by_key(|subscription| subscription.position);
}

/// How many rows could not be believed, by their table.
#[derive(Debug, Default)]
struct Damaged(BTreeMap<&'static str, usize>);

impl Damaged {
    fn log(&self) {
        for (table, rows) in &self.0 {
            warn!(table, rows, "left out rows of the spool that are damaged");
        }
    }
}

/// Goes through rows with something that takes one, or says that it cannot be believed.
fn each(
    db: &Connection,
    sql: &str,
    table: &'static str,
    damaged: &mut Damaged,
    mut take: impl FnMut(&Row<'_>) -> Option<()>,
) -> rusqlite::Result<()> {
    let mut statement = db.prepare(sql)?;
    let mut rows = statement.query(())?;
    while let Some(row) = rows.next()? {
        if take(row).is_none() {
            *damaged.0.entry(table).or_default() += 1;
        }
    }
    Ok(())
}

/// The texts of a table that has one for each session.
fn notes(db: &Connection, table: &'static str, damaged: &mut Damaged) -> rusqlite::Result<BTreeMap<u64, String>> {
    let mut notes = BTreeMap::new();
    each(db, &format!("SELECT session, about, sum FROM {table}"), table, damaged, |row| {
        let (session, about) = (number(row, 0)?, text(row, 1)?);
        check(row, 2, Sum::of(table).number(session).text(about))?;
        notes.insert(natural(session), about.to_owned());
        Some(())
    })?;
    Ok(notes)
}

/// The sessions that rows name and that are not among those found.
fn nobodys(db: &Connection, found: &BTreeMap<u64, Kept>) -> rusqlite::Result<Vec<i64>> {
    let tables: Vec<String> = TABLES.iter().map(|table| format!("SELECT session FROM {table}")).collect();
    let mut statement = db.prepare(&tables.join(" UNION "))?;
    let sessions = statement.query_map((), |row| row.get::<_, i64>(0))?;
    sessions.filter(|session| !matches!(session, Ok(session) if found.contains_key(&natural(*session)))).collect()
}

/// A row of `session, seq, at, kind, sum, body_sum, body`, if it can be believed.
fn arrival<'row>(row: &'row Row<'_>) -> Option<(u64, Kind, &'row [u8])> {
    let body = blob(row, 6)?;
    let kind = Kind::from_number(number(row, 3)?)?;
    let sum = Sum::of("body").bytes(body);
    check(row, 5, sum.clone())?;
    let sum = arrival_sum(number(row, 0)?, number(row, 1)?, number(row, 2)?, kind, body.len(), sum.end());
    (number(row, 4)? == i64::from(sum)).then_some((natural(number(row, 1)?), kind, body))
}

/// The same with the body's length, and with it only if it is a gap.
fn outline(row: &Row<'_>) -> Option<(u64, Outline)> {
    let (session, seq, at) = (number(row, 0)?, number(row, 1)?, number(row, 2)?);
    let (kind, length) = (Kind::from_number(number(row, 3)?)?, usize::try_from(number(row, 6)?).ok()?);
    let sum = arrival_sum(session, seq, at, kind, length, u32::try_from(number(row, 5)?).ok()?);
    (number(row, 4)? == i64::from(sum)).then_some(())?;
    let content = if kind == Kind::Gap {
        let gap = blob(row, 7)?;
        check(row, 5, Sum::of("body").bytes(gap))?;
        OutlineContent::Gap(serde_json::from_slice::<Gap>(gap).ok()?)
    } else {
        OutlineContent::Message(length)
    };
    Some((natural(session), Outline { seq: natural(seq), at: natural(at), content }))
}

/// The body of a row of `session, number, about, kind, sum, body_sum, body`, if it can be believed.
fn post_body(row: &Row<'_>) -> Option<Body> {
    let (kind, body) = (number(row, 3)?, blob(row, 6)?);
    check(row, 5, Sum::of("post body").number(number(row, 0)?).number(number(row, 1)?).number(kind).bytes(body))?;
    Kind::from_number(kind)?.body(Bytes::copy_from_slice(body))
}

/// Whether a column holds this sum.
fn check(row: &Row<'_>, column: usize, sum: Sum) -> Option<()> {
    (number(row, column)? == i64::from(sum.end())).then_some(())
}

fn number(row: &Row<'_>, column: usize) -> Option<i64> {
    row.get_ref(column).ok()?.as_i64().ok()
}

fn text<'row>(row: &'row Row<'_>, column: usize) -> Option<&'row str> {
    row.get_ref(column).ok()?.as_str().ok()
}

fn blob<'row>(row: &'row Row<'_>, column: usize) -> Option<&'row [u8]> {
    match row.get_ref(column).ok()? {
        ValueRef::Blob(bytes) => Some(bytes),
        _ => None,
    }
}

/// Numbers as SQLite has them. None of ours comes near the end, but "everything" may be asked for.
fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn natural(integer: i64) -> u64 {
    // A negative one was never written, and no checksum is right for it.
    integer.cast_unsigned()
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("what is kept can be written as JSON")
}

fn from_json<T: DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// The checksum of a row, or of a body: over what it is called and each of its parts, with their lengths.
#[derive(Debug, Clone)]
struct Sum(crc32fast::Hasher);

impl Sum {
    fn of(what: &str) -> Self {
        Self(crc32fast::Hasher::new()).text(what)
    }

    fn number(mut self, number: i64) -> Self {
        self.0.update(&number.to_le_bytes());
        self
    }

    fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    fn bytes(self, bytes: &[u8]) -> Self {
        let mut sum = self.number(bytes.len() as i64);
        sum.0.update(bytes);
        sum
    }

    fn end(self) -> u32 {
        self.0.finalize()
    }
}
