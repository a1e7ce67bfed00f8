//! A damaged file, made anew from what can be read of it.
//!
//! Owns: reading around what cannot be read, and the exchange of the two files, which a crash may interrupt anywhere.
//! The damaged one is set aside for whoever wants to look at it.

use std::fs;
use std::io;
use std::time::SystemTime;

use rusqlite::types::Value;
use rusqlite::{Connection, Row, ToSql, params_from_iter};
use tracing::{info, warn};

use super::Damage;
use super::file::{Failure, File, Place, remove};
use super::rows::{self, Key, Table};
use crate::os;

/// How many damaged files are kept.
const KEPT: usize = 3;

/// How much is copied at once, in bytes of bodies and texts.
const BATCH: usize = 4 * 1024 * 1024;

/// Puts a new file in the place of a damaged one that nobody has open, with everything in it that can be read and
/// believed.
pub(super) fn rebuild(place: &Place, damage: Damage, why: &str) -> Result<(), Failure> {
    let fresh = place.fresh();
    discard(&fresh)?;
    let mut into = File::open(&fresh)?;
    let mut copied = Copied::default();
    match open_damaged(place) {
        Ok(from) => copy(&from, &mut into, &mut copied)?,
        Err(error) => warn!(%error, "nothing can be read of the spool"),
    }
    if damage == Damage::Rewound {
        into.write(rows::note_rewound)?;
    }
    into.close()?;
    let aside = place.aside(&stamp(SystemTime::now()));
    exchange(place, &fresh, &aside)?;
    let Copied { rows, unbelievable, holes } = copied;
    warn!(
        why, set_aside = %aside.path.display(), ?damage, rows, unbelievable, holes,
        "the spool was damaged and has been made anew from what could be read"
    );
    forget_oldest(place);
    Ok(())
}

/// Ends what a crash has interrupted.
pub(super) fn finish(place: &Place) -> Result<(), Failure> {
    let fresh = place.fresh();
    if !fresh.path.try_exists()? {
        return Ok(());
    }
    if place.path.try_exists()? {
        // It may not be complete. The damaged file is where it was.
        return Ok(discard(&fresh)?);
    }
    place.remove_log()?;
    fs::rename(&fresh.path, &place.path)?;
    Ok(os::sync_directory(place.directory())?)
}

fn discard(place: &Place) -> io::Result<()> {
    place.remove_log()?;
    remove(&place.path)
}

/// Gives the new file the name of the damaged one. Whenever this is interrupted, either that one is complete with its
/// log, or there is none.
fn exchange(place: &Place, fresh: &Place, aside: &Place) -> io::Result<()> {
    fs::rename(&place.path, &aside.path)?;
    os::sync_directory(place.directory())?;
    match fs::rename(place.log(), aside.log()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => warn!(%error, "cannot set the log aside as well"),
        _ => {}
    }
    place.remove_log()?;
    remove(&fresh.mark())?;
    fs::rename(&fresh.path, &place.path)?;
    os::sync_directory(place.directory())
}

/// Removes the damaged files that were set aside first, if there are too many.
fn forget_oldest(place: &Place) {
    for old in place.set_aside().iter().rev().skip(KEPT) {
        match discard(old) {
            Ok(()) => info!(path = %old.path.display(), "removed an old damaged spool"),
            // One that stays takes room, and nothing else.
            Err(error) => warn!(path = %old.path.display(), %error, "cannot remove an old damaged spool"),
        }
    }
}

/// A time as `20261121T134000Z`.
fn stamp(time: SystemTime) -> String {
    // "Sat, 21 Nov 2026 13:40:00 GMT"
    let date = httpdate::fmt_http_date(time);
    let month = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = month.iter().position(|name| *name == &date[8..11]).map_or(0, |before| before + 1);
    format!("{}{month:02}{}T{}{}{}Z", &date[12..16], &date[5..7], &date[17..19], &date[20..22], &date[23..25])
}

/// Opens a file of which nothing can be believed, and which is to stay as it is.
fn open_damaged(place: &Place) -> rusqlite::Result<Connection> {
    let db = place.connect()?;
    for (name, value) in [
        ("locking_mode", "EXCLUSIVE"),
        ("temp_store", "MEMORY"),
        ("mmap_size", "0"),
        ("cell_size_check", "ON"),
        ("trusted_schema", "OFF"),
        // Does not mind if the file is shorter than it says, or a line of the schema is nonsense.
        ("writable_schema", "ON"),
        ("query_only", "ON"),
    ] {
        db.pragma_update(None, name, value)?;
    }
    Ok(db)
}

/// What came of copying.
#[derive(Debug, Default)]
struct Copied {
    /// How many rows are in the new file.
    rows: usize,
    /// How many could be read, but not be believed.
    unbelievable: usize,
    /// How often rows could not be read.
    holes: usize,
}

fn copy(from: &Connection, into: &mut File, copied: &mut Copied) -> Result<(), Failure> {
    for table in &rows::TABLES {
        let mut copy = Copy { from, into: &mut *into, table, copied: &mut *copied, batch: Vec::new(), bytes: 0 };
        match table.key {
            Key::None => copy.both_ways("session", "TRUE", &[])?,
            Key::Text(key) => {
                for session in sessions(copy.into.db())? {
                    copy.both_ways(key, "session = ?", &[&session])?;
                }
            }
            Key::Number(key) => {
                for session in sessions(copy.into.db())? {
                    copy.around(key, session)?;
                }
            }
        }
        copy.flush()?;
    }
    Ok(())
}

/// The sessions of which anything is of use.
fn sessions(db: &Connection) -> rusqlite::Result<Vec<i64>> {
    let mut statement = db.prepare("SELECT session FROM owner JOIN sheet USING (session)")?;
    statement.query_map((), |row| row.get(0))?.collect()
}

/// The copy of one table.
struct Copy<'a> {
    from: &'a Connection,
    into: &'a mut File,
    table: &'a Table,
    copied: &'a mut Copied,
    /// Rows that are not yet written.
    batch: Vec<Vec<Value>>,
    /// How much those are.
    bytes: usize,
}

impl Copy<'_> {
    /// Copies the rows that fulfil a condition from the beginning, and if that ends early from the end.
    fn both_ways(&mut self, key: &str, condition: &str, values: &[&dyn ToSql]) -> Result<(), Failure> {
        if !self.rows(&format!("{condition} ORDER BY {key}"), values, |_| ())? {
            self.copied.holes += 1;
            self.rows(&format!("{condition} ORDER BY {key} DESC"), values, |_| ())?;
        }
        Ok(())
    }

    /// Copies the rows of a session whose key is a number. What cannot be read is jumped over, further each time until
    /// there are rows again; then the ones in between are tried backwards.
    fn around(&mut self, key: &str, session: i64) -> Result<(), Failure> {
        let onwards = format!("session = ? AND {key} >= ? ORDER BY {key}");
        let backwards = format!("session = ? AND {key} > ? AND {key} < ? ORDER BY {key} DESC");
        let (mut from, mut step, mut last) = (i64::MIN, 1, i64::MIN);
        loop {
            let before = last;
            let complete = self.rows(&onwards, &[&session, &from], |row| last = row)?;
            let is_beyond_hole = step > 1 && last > before;
            if is_beyond_hole {
                self.rows(&backwards, &[&session, &before, &from], |_| ())?;
                step = 1;
            }
            if complete {
                return Ok(());
            }
            if step == 1 {
                self.copied.holes += 1;
                from = last;
            }
            let Some(next) = from.checked_add(step) else { break };
            (from, step) = (next, step.saturating_mul(2));
        }
        self.rows(&backwards, &[&session, &last, &i64::MAX], |_| ()).map(drop)
    }

    /// Copies rows as long as they can be read, and says whether that was all. `seen` is told the second column of
    /// each.
    fn rows(&mut self, which: &str, values: &[&dyn ToSql], mut seen: impl FnMut(i64)) -> Result<bool, Failure> {
        let Table { name, columns, is_sound, .. } = self.table;
        let from = self.from;
        let Ok(mut statement) = from.prepare_cached(&format!("SELECT {columns} FROM {name} WHERE {which}")) else {
            return Ok(false);
        };
        let Ok(mut rows) = statement.query(values) else { return Ok(false) };
        loop {
            match rows.next() {
                Ok(None) => return Ok(true),
                Err(_) => return Ok(false),
                Ok(Some(row)) => {
                    if let Ok(key) = row.get(1) {
                        seen(key);
                    }
                    if is_sound(row) {
                        self.take(row)?;
                    } else {
                        self.copied.unbelievable += 1;
                    }
                }
            }
        }
    }

    fn take(&mut self, row: &Row<'_>) -> Result<(), Failure> {
        let mut values = Vec::new();
        for column in 0..row.as_ref().column_count() {
            values.push(row.get(column)?);
        }
        self.bytes += values.iter().map(size).sum::<usize>();
        self.batch.push(values);
        if self.bytes < BATCH { Ok(()) } else { self.flush() }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        let Table { name, columns, .. } = self.table;
        let batch = std::mem::take(&mut self.batch);
        let places = vec!["?"; columns.split(',').count()].join(", ");
        self.into.write(|db| {
            // A page that two others name has its rows twice.
            let mut insert = db.prepare(&format!("INSERT OR REPLACE INTO {name} ({columns}) VALUES ({places})"))?;
            batch.iter().try_for_each(|values| insert.execute(params_from_iter(values)).map(drop))
        })?;
        self.copied.rows += batch.len();
        self.bytes = 0;
        self.into.keep_log_short()
    }
}

/// How much of a row's memory a value takes, about.
fn size(value: &Value) -> usize {
    16 + match value {
        Value::Text(text) => text.len(),
        Value::Blob(bytes) => bytes.len(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_time_is_written_without_anything_that_a_file_name_minds() {
        assert_eq!(stamp(SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_268_400)), "20261121T134000Z");
        assert_eq!(stamp(SystemTime::UNIX_EPOCH), "19700101T000000Z");
    }
}
