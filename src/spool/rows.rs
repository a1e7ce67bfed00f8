//! What the file keeps of a session, row by row.
//!
//! Owns: the tables, how a [`Change`] becomes rows and rows become a [`Record`], and the checksums: SQLite has none, so
//! each row carries one over all that it says, its keys included. A row whose checksum is wrong is as good as none;
//! what comes back is what was written, or nothing.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, Row, ToSql};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tracing::warn;

use super::Kept;
use crate::session::record::{
    Arrival, Change, Content, Outcome, Outline, OutlineContent, Post, Record, Seen, Subscription,
};
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
    CREATE TABLE rewound (session INTEGER PRIMARY KEY, sum INTEGER NOT NULL) STRICT;
";

/// What format 2 has besides.
pub(super) const SEEN_SCHEMA: &str = "
    CREATE TABLE seen (
        session INTEGER NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, sum INTEGER NOT NULL,
        PRIMARY KEY (session, seq)
    ) STRICT, WITHOUT ROWID;
";

/// The first format with ids.
const WITH_SEEN: i32 = 2;

/// One table, as it is copied out of a damaged file.
pub(super) struct Table {
    /// Its name.
    pub(super) name: &'static str,
    /// Its columns, the session first.
    pub(super) columns: &'static str,
    /// What tells the rows of one session apart, if there can be several.
    pub(super) key: Key,
    /// Whether a row of all these columns says what was written; of its body, this is asked only where a row is worth
    /// nothing without.
    pub(super) is_sound: fn(&Row<'_>) -> bool,
}

/// What tells the rows of one session apart.
pub(super) enum Key {
    /// There is one.
    None,
    /// A column of numbers.
    Number(&'static str),
    /// A column of texts.
    Text(&'static str),
}

/// All tables: those first without which the others are worth nothing.
pub(super) const TABLES: [Table; 10] = [
    Table { name: "owner", columns: NOTE, key: Key::None, is_sound: |row| note(row, "owner").is_some() },
    Table { name: "sheet", columns: NOTE, key: Key::None, is_sound: |row| note(row, "sheet").is_some() },
    Table { name: "given", columns: NOTE, key: Key::None, is_sound: |row| note(row, "given").is_some() },
    Table { name: "rewound", columns: REWOUND, key: Key::None, is_sound: |row| rewound(row).is_some() },
    Table { name: "bookmark", columns: BOOKMARK, key: Key::Text("consumer"), is_sound: |row| bookmark(row).is_some() },
    Table { name: "arrival", columns: ARRIVAL, key: Key::Number("seq"), is_sound: |row| arrival(row).is_some() },
    Table { name: "post", columns: POST, key: Key::Number("number"), is_sound: |row| post(row).is_some() },
    Table { name: "outcome", columns: OUTCOME, key: Key::Number("ordinal"), is_sound: |row| outcome(row).is_some() },
    Table {
        name: "subscription",
        columns: SUBSCRIPTION,
        key: Key::Text("key"),
        is_sound: |row| subscription(row).is_some(),
    },
    Table { name: "seen", columns: SEEN, key: Key::Number("seq"), is_sound: |row| seen(row).is_some() },
];

const NOTE: &str = "session, about, sum";
const REWOUND: &str = "session, sum";
const BOOKMARK: &str = "session, consumer, about, sum";
const ARRIVAL: &str = "session, seq, at, kind, sum, body_sum, body";
/// The same without the body, but for its length, and for what it says if it is a gap.
const OUTLINE: &str = "session, seq, at, kind, sum, body_sum, length(body), CASE kind WHEN 3 THEN body END";
const POST: &str = "session, number, about, kind, sum, body_sum, body";
const OUTCOME: &str = "session, ordinal, id, unreported, about, sum";
const SUBSCRIPTION: &str = "session, key, position, kind, sum, body";
const SEEN: &str = "session, seq, id, sum";

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

    fn body(self, bytes: &[u8]) -> Option<Body> {
        let bytes = Bytes::copy_from_slice(bytes);
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
        Change::Sheet(sheet) => {
            execute(db, "DELETE FROM rewound WHERE session = ?", &[&session])?;
            put_note(db, "sheet", session, &json(sheet))
        }
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
            let body_sum = post_body_sum(session, number, kind as i64, body.bytes()).end();
            execute(
                db,
                "INSERT OR REPLACE INTO post (session, number, about, kind, sum, body_sum, body) \
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
                &[&session, &number, &about, &(kind as i64), &sum, &body_sum, &&**body.bytes()],
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
            let sum = subscription_sum(session, key, position, kind as i64, body.bytes()).end();
            execute(
                db,
                "INSERT OR REPLACE INTO subscription (session, key, position, kind, sum, body) \
                 VALUES (?, ?, ?, ?, ?, ?)",
                &[&session, key, &position, &(kind as i64), &sum, &&**body.bytes()],
            )
        }
        Change::Unsubscribed { key } => {
            execute(db, "DELETE FROM subscription WHERE session = ? AND key = ?", &[&session, key])
        }
        Change::Seen(Seen { seq, id }) => {
            let seq = integer(*seq);
            let sum = seen_sum(session, seq, id).end();
            let sql = "INSERT OR REPLACE INTO seen (session, seq, id, sum) VALUES (?, ?, ?, ?)";
            execute(db, sql, &[&session, &seq, &&**id, &sum])
        }
        Change::Unseen { to } => {
            execute(db, "DELETE FROM seen WHERE session = ? AND seq <= ?", &[&session, &integer(*to)])
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
    let sum = arrival_sum(session, seq, at, kind, body.len(), body_sum).end();
    execute(
        db,
        "INSERT OR REPLACE INTO arrival (session, seq, at, kind, sum, body_sum, body) VALUES (?, ?, ?, ?, ?, ?, ?)",
        &[&session, &seq, &at, &(kind as i64), &sum, &body_sum, &body],
    )
}

fn arrival_sum(session: i64, seq: i64, at: i64, kind: Kind, length: usize, body_sum: u32) -> Sum {
    let row = Sum::of("arrival").number(session).number(seq).number(at).number(kind as i64);
    row.number(length as i64).number(body_sum.into())
}

fn post_body_sum(session: i64, number: i64, kind: i64, body: &[u8]) -> Sum {
    Sum::of("post body").number(session).number(number).number(kind).bytes(body)
}

fn put_outcome(db: &Connection, session: i64, outcome: &Outcome) -> rusqlite::Result<()> {
    let (ordinal, unreported, about) = (integer(outcome.ordinal), i64::from(outcome.unreported), json(outcome));
    let sum = outcome_sum(session, ordinal, &outcome.id, unreported, &about).end();
    // Replaces what has the same ordinal, and what has the same id.
    execute(
        db,
        "INSERT OR REPLACE INTO outcome (session, ordinal, id, unreported, about, sum) VALUES (?, ?, ?, ?, ?, ?)",
        &[&session, &ordinal, &outcome.id, &unreported, &about, &sum],
    )
}

fn outcome_sum(session: i64, ordinal: i64, id: &str, unreported: i64, about: &str) -> Sum {
    Sum::of("outcome").number(session).number(ordinal).text(id).number(unreported).text(about)
}

fn subscription_sum(session: i64, key: &str, position: i64, kind: i64, body: &[u8]) -> Sum {
    Sum::of("subscription").number(session).text(key).number(position).number(kind).bytes(body)
}

fn seen_sum(session: i64, seq: i64, id: &str) -> Sum {
    Sum::of("seen").number(session).number(seq).text(id)
}

fn forget(db: &Connection, session: i64) -> rusqlite::Result<()> {
    TABLES
        .iter()
        .try_for_each(|Table { name, .. }| execute(db, &format!("DELETE FROM {name} WHERE session = ?"), &[&session]))
}

/// Notes for every session that the file is one of earlier, until it writes its sheet.
pub(super) fn note_rewound(db: &Connection) -> rusqlite::Result<()> {
    let mut statement = db.prepare("SELECT session FROM owner")?;
    let sessions = statement.query_map((), |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?;
    for session in sessions {
        let sum = Sum::of("rewound").number(session).end();
        execute(db, "INSERT OR REPLACE INTO rewound (session, sum) VALUES (?, ?)", &[&session, &sum])?;
    }
    Ok(())
}

fn execute(db: &Connection, sql: &str, values: &[&dyn ToSql]) -> rusqlite::Result<()> {
    db.prepare_cached(sql)?.execute(values).map(drop)
}

/// Bytes of settings that a disk without room has to take all the same, or a new session could not begin.
const SMALL: usize = 4096;

/// Whether a change takes room that is worth mentioning.
pub(super) fn adds(change: &Change) -> bool {
    match change {
        Change::Arrived(arrival) => matches!(arrival.content, Content::Message(_)),
        Change::Posted { .. } | Change::Subscribed(_) => true,
        Change::Given(text) => text.len() > SMALL,
        _ => false,
    }
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

/// Reads the messages of a session with these numbers, and says up to which number was looked.
pub(super) fn load(
    db: &Connection,
    session: u64,
    from: u64,
    to: u64,
    max_bytes: usize,
) -> rusqlite::Result<(Vec<(u64, Body)>, u64)> {
    let sql = format!("SELECT {ARRIVAL} FROM arrival WHERE session = ? AND seq BETWEEN ? AND ? ORDER BY seq");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query((integer(session), integer(from), integer(to)))?;
    let (mut bodies, mut bytes, mut looked_at) = (Vec::new(), 0, 0);
    while let Some(row) = rows.next()? {
        looked_at += 1;
        let Some((seq, kind, body)) = arrival(row) else { continue };
        let (seq, Some(body)) = (natural(seq), kind.body(body)) else { continue };
        bytes += body.len();
        if looked_at > MAX_LOAD || (bytes > max_bytes && !bodies.is_empty()) {
            return Ok((bodies, seq - 1));
        }
        bodies.push((seq, body));
    }
    Ok((bodies, to))
}

/// Reads everything that is kept in a file of this format, but for the messages to the extension, and counts the rows that
/// cannot be believed.
pub(super) fn read(db: &Connection, format: i32) -> rusqlite::Result<(Vec<Kept>, usize)> {
    let mut found: BTreeMap<i64, Kept> = BTreeMap::new();
    let mut unsound = 0;
    let mut sheets = BTreeMap::new();
    unsound += each(db, "sheet", NOTE, |row| {
        let (session, sheet) = note(row, "sheet")?;
        sheets.insert(session, from_json(sheet)?);
        Some(())
    })?;
    unsound += each(db, "owner", NOTE, |row| {
        let (session, owner) = note(row, "owner")?;
        let owner = from_json(owner)?;
        if let Some(sheet) = sheets.remove(&session) {
            let record = Record {
                rewound: false,
                sheet,
                bookmarks: Vec::new(),
                arrivals: Vec::new(),
                posts: Vec::new(),
                outcomes: Vec::new(),
                subscriptions: Vec::new(),
                seen: Vec::new(),
            };
            found.insert(session, Kept { session: natural(session), owner, given: String::new(), record });
        }
        Some(())
    })?;
    // Each of these leaves alone what is of no session; that is swept away afterwards.
    unsound += each(db, "given", NOTE, |row| {
        let (session, given) = note(row, "given")?;
        if let Some(kept) = found.get_mut(&session) {
            given.clone_into(&mut kept.given);
        }
        Some(())
    })?;
    unsound += each(db, "rewound", REWOUND, |row| {
        let session = rewound(row)?;
        if let Some(kept) = found.get_mut(&session) {
            kept.record.rewound = true;
        }
        Some(())
    })?;
    unsound += each(db, "bookmark", BOOKMARK, |row| {
        let (session, bookmark) = bookmark(row)?;
        let bookmark = from_json(bookmark)?;
        if let Some(kept) = found.get_mut(&session) {
            kept.record.bookmarks.push(bookmark);
        }
        Some(())
    })?;
    unsound += each(db, "arrival", OUTLINE, |row| {
        let (session, outline) = outline(row)?;
        if let Some(kept) = found.get_mut(&session) {
            kept.record.arrivals.push(outline);
        }
        Some(())
    })?;
    unsound += each(db, "post", POST, |row| {
        let (session, post) = post(row)?;
        let post: Post = from_json(post)?;
        if let Some(kept) = found.get_mut(&session) {
            kept.record.posts.push((post, post_body(row)));
        }
        Some(())
    })?;
    unsound += each(db, "outcome", OUTCOME, |row| {
        let (session, outcome) = outcome(row)?;
        let outcome = from_json(outcome)?;
        if let Some(kept) = found.get_mut(&session) {
            kept.record.outcomes.push(outcome);
        }
        Some(())
    })?;
    unsound += each(db, "subscription", SUBSCRIPTION, |row| {
        let (session, subscription) = subscription(row)?;
        if let Some(kept) = found.get_mut(&session) {
            kept.record.subscriptions.push(subscription);
        }
        Some(())
    })?;
    if format >= WITH_SEEN {
        unsound += each(db, "seen", SEEN, |row| {
            let (session, seen) = seen(row)?;
            if let Some(kept) = found.get_mut(&session) {
                kept.record.seen.push(seen);
            }
            Some(())
        })?;
    }
    let mut kept: Vec<Kept> = found.into_values().collect();
    kept.iter_mut().for_each(|kept| put_in_order(&mut kept.record));
    Ok((kept, unsound))
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
    record.seen.sort_by_key(|seen| seen.seq);
    record.seen.dedup_by_key(|seen| seen.seq);
}

/// Removes what belongs to no session of these.
pub(super) fn sweep(db: &Connection, kept: &[Kept]) -> rusqlite::Result<()> {
    let tables: Vec<String> = TABLES.iter().map(|Table { name, .. }| format!("SELECT session FROM {name}")).collect();
    let mut statement = db.prepare(&tables.join(" UNION "))?;
    let mut nobodys = statement.query_map((), |row| row.get::<_, i64>(0))?.collect::<Result<Vec<_>, _>>()?;
    nobodys.retain(|session| kept.iter().all(|kept| kept.session != natural(*session)));
    if !nobodys.is_empty() {
        warn!(sessions = nobodys.len(), "dropping what the spool keeps of sessions without owner or sheet");
    }
    nobodys.into_iter().try_for_each(|session| forget(db, session))
}

/// Goes through the rows of a table with something that takes one, or cannot believe it; counts the latter.
fn each(
    db: &Connection,
    table: &str,
    columns: &str,
    mut take: impl FnMut(&Row<'_>) -> Option<()>,
) -> rusqlite::Result<usize> {
    // In the order of the primary key.
    let mut statement = db.prepare(&format!("SELECT {columns} FROM {table} NOT INDEXED"))?;
    let mut rows = statement.query(())?;
    let mut unsound = 0;
    while let Some(row) = rows.next()? {
        unsound += usize::from(take(row).is_none());
    }
    Ok(unsound)
}

// What follows reads one row each of the columns of its table, and gives the session and the rest, if it can be
// believed.

fn note<'row>(row: &'row Row<'_>, table: &str) -> Option<(i64, &'row str)> {
    let (session, about) = (number(row, 0)?, text(row, 1)?);
    is(row, 2, Sum::of(table).number(session).text(about)).then_some((session, about))
}

fn rewound(row: &Row<'_>) -> Option<i64> {
    let session = number(row, 0)?;
    is(row, 1, Sum::of("rewound").number(session)).then_some(session)
}

fn bookmark<'row>(row: &'row Row<'_>) -> Option<(i64, &'row str)> {
    let (session, consumer, about) = (number(row, 0)?, text(row, 1)?, text(row, 2)?);
    is(row, 3, Sum::of("bookmark").number(session).text(consumer).text(about)).then_some((session, about))
}

/// Here the number, which is all that it is asked for.
fn arrival<'row>(row: &'row Row<'_>) -> Option<(i64, Kind, &'row [u8])> {
    let (seq, kind, body) = (number(row, 1)?, Kind::from_number(number(row, 3)?)?, blob(row, 6)?);
    let body_sum = Sum::of("body").bytes(body);
    let sum = arrival_sum(number(row, 0)?, seq, number(row, 2)?, kind, body.len(), body_sum.clone().end());
    // Without the body nobody could tell whether the rest is right, if this were not.
    (is(row, 5, body_sum) && is(row, 4, sum)).then_some((seq, kind, body))
}

fn outline(row: &Row<'_>) -> Option<(i64, Outline)> {
    let (session, seq, at) = (number(row, 0)?, number(row, 1)?, number(row, 2)?);
    let (kind, length) = (Kind::from_number(number(row, 3)?)?, usize::try_from(number(row, 6)?).ok()?);
    let sum = arrival_sum(session, seq, at, kind, length, u32::try_from(number(row, 5)?).ok()?);
    is(row, 4, sum).then_some(())?;
    let content = if kind == Kind::Gap {
        let gap = blob(row, 7)?;
        is(row, 5, Sum::of("body").bytes(gap)).then_some(())?;
        OutlineContent::Gap(serde_json::from_slice::<Gap>(gap).ok()?)
    } else {
        OutlineContent::Message(length)
    };
    Some((session, Outline { seq: natural(seq), at: natural(at), content }))
}

fn post<'row>(row: &'row Row<'_>) -> Option<(i64, &'row str)> {
    let (session, number, about) = (number(row, 0)?, number(row, 1)?, text(row, 2)?);
    is(row, 4, Sum::of("post").number(session).number(number).text(about)).then_some((session, about))
}

/// The body of a post whose other columns can be believed.
fn post_body(row: &Row<'_>) -> Option<Body> {
    let (session, number, kind, body) = (number(row, 0)?, number(row, 1)?, number(row, 3)?, blob(row, 6)?);
    is(row, 5, post_body_sum(session, number, kind, body)).then_some(())?;
    Kind::from_number(kind)?.body(body)
}

fn outcome<'row>(row: &'row Row<'_>) -> Option<(i64, &'row str)> {
    let (session, ordinal, id) = (number(row, 0)?, number(row, 1)?, text(row, 2)?);
    let (unreported, about) = (number(row, 3)?, text(row, 4)?);
    is(row, 5, outcome_sum(session, ordinal, id, unreported, about)).then_some((session, about))
}

fn subscription(row: &Row<'_>) -> Option<(i64, Subscription)> {
    let (session, key, position, kind) = (number(row, 0)?, text(row, 1)?, number(row, 2)?, number(row, 3)?);
    let body = blob(row, 5)?;
    is(row, 4, subscription_sum(session, key, position, kind, body)).then_some(())?;
    let body = Kind::from_number(kind)?.body(body)?;
    Some((session, Subscription { position: natural(position), key: key.to_owned(), body }))
}

fn seen(row: &Row<'_>) -> Option<(i64, Seen)> {
    let (session, seq, id) = (number(row, 0)?, number(row, 1)?, text(row, 2)?);
    is(row, 3, seen_sum(session, seq, id)).then(|| (session, Seen { seq: natural(seq), id: id.into() }))
}

/// Whether a column holds this sum.
fn is(row: &Row<'_>, column: usize, sum: Sum) -> bool {
    number(row, column) == Some(i64::from(sum.end()))
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
