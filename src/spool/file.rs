//! The file as a whole: made, opened, and brought to the present format.
//!
//! Owns: what marks a file as ours and of which format it is, and how SQLite is to treat it. What is in it is `rows`'s.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, Transaction};
use tracing::warn;

use super::{SpoolError, rows};
use crate::os;

/// The format that this build writes.
pub(super) const VERSION: i32 = STEPS.len() as i32;

/// The oldest SQLite without the error that a checkpoint could lose what was just written (its "WAL-reset bug").
pub(super) const MIN_SQLITE: &str = "3.51.3";
const MIN_SQLITE_NUMBER: i32 = 3_051_003;

/// How to get from each format to the next; the first is that of an empty file.
const STEPS: &[&str] = &[rows::SCHEMA];

/// `application_id` of our files: "WSB" and the format, which is in `user_version` too. If the two do not agree, the
/// file is damaged.
const MARK: i32 = i32::from_be_bytes(*b"WSB\0");

/// How SQLite is to treat the file. The first few hold for a new file only, and must come before anything is in it.
const PRAGMAS: &[(&str, &str)] = &[
    ("page_size", "4096"),
    // Space that became free is given back in small steps.
    ("auto_vacuum", "INCREMENTAL"),
    // One process, one connection: no file for shared memory, no locking for each transaction.
    ("locking_mode", "EXCLUSIVE"),
    ("journal_mode", "WAL"),
    // What is committed is on the disk. macOS has a stronger word for that, and nobody else knows it.
    ("synchronous", "FULL"),
    ("fullfsync", "ON"),
    ("checkpoint_fullfsync", "ON"),
    // In pages: a checkpoint takes a few milliseconds, and -wal stays small.
    ("wal_autocheckpoint", "256"),
    ("journal_size_limit", "1048576"),
    // Messages that are not needed any more leave as little behind as costs nothing.
    ("secure_delete", "FAST"),
    ("temp_store", "MEMORY"),
    // In KiB.
    ("cache_size", "-2048"),
    ("mmap_size", "0"),
    // A damaged file is noticed sooner, and what it claims to be its schema is not trusted.
    ("cell_size_check", "ON"),
    ("trusted_schema", "OFF"),
];

/// Opens the file, or makes it, and brings it to the present format.
pub(super) fn open(path: &Path) -> Result<Connection, SpoolError> {
    let sqlite = |source| SpoolError::Sqlite { path: path.to_owned(), source };
    if rusqlite::version_number() < MIN_SQLITE_NUMBER {
        return Err(SpoolError::OldSqlite { version: rusqlite::version() });
    }
    // SQLite would make it for everybody to read; what it puts beside it is as private as it is.
    os::append_private(path).map_err(|source| SpoolError::Io { path: path.to_owned(), source })?;
    // No other thread uses the connection at the same time, so it needs no lock of its own.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut db = Connection::open_with_flags(path, flags).map_err(sqlite)?;
    for (name, value) in PRAGMAS {
        db.pragma_update(None, name, value).map_err(sqlite)?;
    }
    db.set_prepared_statement_cache_capacity(rows::STATEMENTS);
    migrate(&mut db, path, STEPS)?;
    Ok(db)
}

/// Ends the use of the file: everything is in it, and nothing beside it.
pub(super) fn close(db: Connection) {
    if let Err((_, error)) = db.close() {
        warn!(error = %error, "the spool could not be closed in order");
    }
}

fn migrate(db: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), SpoolError> {
    let sqlite = |source| SpoolError::Sqlite { path: path.to_owned(), source };
    let transaction = db.transaction().map_err(sqlite)?;
    let known = i32::try_from(steps.len()).expect("a few steps");
    let version = match version(&transaction).map_err(sqlite)? {
        None => return Err(SpoolError::Foreign { path: path.to_owned() }),
        Some(version) if version > known => return Err(SpoolError::Newer { path: path.to_owned(), version }),
        Some(version) => version,
    };
    if version < known {
        let steps = &steps[usize::try_from(version).expect("not below zero")..];
        steps.iter().try_for_each(|step| transaction.execute_batch(step)).map_err(sqlite)?;
        transaction.pragma_update(None, "user_version", known).map_err(sqlite)?;
        transaction.pragma_update(None, "application_id", MARK + known).map_err(sqlite)?;
    }
    transaction.commit().map_err(sqlite)
}

/// The format of the file, 0 for an empty one; `None` if it is none of ours.
fn version(db: &Transaction<'_>) -> rusqlite::Result<Option<i32>> {
    let number = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (mark, version) = (number("application_id")?, number("user_version")?);
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", (), |row| row.get(0))?;
    Ok(match (mark, version, tables) {
        (0, 0, 0) => Some(0),
        (mark, version @ 1..=255, _) if mark == MARK + version => Some(version),
        _ => None,
    })
}
