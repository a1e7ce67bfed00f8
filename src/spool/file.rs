//! The file as a whole: made, opened, brought to the present format, kept in shape and closed.
//!
//! Owns: what marks a file as ours and of which format it is, how SQLite is to treat it, and what its errors mean to us
//! ([`Failure`]). What is in it is `rows`'s, what to do about a failure `writer`'s.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::ffi::{SQLITE_IOERR, SQLITE_IOERR_SHORT_READ};
use rusqlite::wal::CheckpointMode;
use rusqlite::{Connection, ErrorCode, MAIN_DB, OpenFlags};

use super::log::{self, Mark};
use super::{Damage, SpoolError, rows};
use crate::os;

/// The format that this build writes.
pub(super) const VERSION: i32 = STEPS.len() as i32;

/// The oldest SQLite without the error by which a checkpoint could lose what was just written (its "WAL-reset bug").
pub(super) const MIN_SQLITE: &str = "3.51.3";
const MIN_SQLITE_NUMBER: i32 = 3_051_003;

/// Bytes of a page.
pub(super) const PAGE: usize = 4096;

/// How to get from each format to the next; the first is that of an empty file.
const STEPS: &[&str] = &[rows::SCHEMA, rows::SEEN_SCHEMA];

/// `application_id` of our files: "WSB" and the format, which is in `user_version` too. If the two do not agree, the
/// file is damaged.
const MARK: i32 = i32::from_be_bytes(*b"WSB\0");

/// After so many pages the log is copied into the file: about a millisecond's work.
const MAX_LOG: u32 = 256;

/// How SQLite is to treat the file.
pub(super) const PRAGMAS: &[(&str, &str)] = &[
    ("journal_mode", "WAL"),
    // What is committed is on the disk. macOS has a stronger word for that, and nobody else knows it.
    ("synchronous", "FULL"),
    ("fullfsync", "ON"),
    ("checkpoint_fullfsync", "ON"),
    // The log is copied when nobody waits for it, and where its errors are seen.
    ("wal_autocheckpoint", "0"),
    ("journal_size_limit", "1048576"),
    // Messages that are not needed any more leave as little behind as costs nothing.
    ("secure_delete", "FAST"),
    // Nothing is ever written elsewhere.
    ("temp_store", "MEMORY"),
    // In KiB.
    ("cache_size", "-2048"),
    // A page that cannot be read is an error, not the end of the process.
    ("mmap_size", "0"),
    // A damaged file is noticed sooner, and what it claims to be its schema is not trusted.
    ("cell_size_check", "ON"),
    ("trusted_schema", "OFF"),
];

/// The same before anything is in it; it stays so.
const NEW_PRAGMAS: &[(&str, &str)] = &[
    ("page_size", "4096"),
    // Pages that became free can be given back in small steps.
    ("auto_vacuum", "INCREMENTAL"),
];

/// Where the file is, and how to get at it.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The file.
    pub(super) path: PathBuf,
    /// Which of SQLite's file systems, if not that of the platform.
    pub(super) vfs: Option<&'static str>,
    /// How long to wait before a disk that is full, or fails, is tried again.
    pub(super) retry: Duration,
    /// Says for a test that the disk has no room for a ballast.
    #[cfg(test)]
    pub(super) is_full: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Place {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            vfs: None,
            retry: Duration::from_secs(5),
            #[cfg(test)]
            is_full: std::sync::Arc::default(),
        }
    }

    /// The same for another file.
    fn at(&self, path: PathBuf) -> Self {
        Self { path, ..self.clone() }
    }

    /// A file beside it: its name without the ending, and `rest`.
    fn beside(&self, rest: &str) -> PathBuf {
        let mut name = OsString::from(self.path.file_stem().unwrap_or_default());
        name.push(rest);
        self.path.with_file_name(name)
    }

    /// A file of SQLite's beside it: its whole name, and `rest`.
    fn and(&self, rest: &str) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(rest);
        name.into()
    }

    /// The log of the file.
    pub(super) fn log(&self) -> PathBuf {
        self.and("-wal")
    }

    /// Says how much of the log is promised to be there.
    pub(super) fn mark(&self) -> PathBuf {
        self.path.with_extension("mark")
    }

    /// The new file, as long as it has not the name of a damaged one.
    pub(super) fn fresh(&self) -> Self {
        self.at(self.beside("-new.db"))
    }

    /// Where a damaged file is set aside under this date.
    pub(super) fn aside(&self, date: &str) -> Self {
        self.at(self.beside(&format!("-damaged-{date}.db")))
    }

    /// The damaged files that were set aside, the oldest first.
    pub(super) fn set_aside(&self) -> Vec<Self> {
        let beginning = self.beside("-damaged-");
        let beginning = beginning.as_os_str().as_encoded_bytes();
        let is_one = |path: &PathBuf| {
            path.extension().is_some_and(|extension| extension == "db")
                && path.as_os_str().as_encoded_bytes().starts_with(beginning)
        };
        let entries = std::fs::read_dir(self.directory()).into_iter().flatten().flatten();
        let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_one).collect();
        found.sort();
        found.into_iter().map(|path| self.at(path)).collect()
    }

    /// Everything that may be here.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let mut places = vec![self.clone(), self.fresh()];
        places.extend(self.set_aside());
        // SQLite has a journal of the old kind for a moment when it makes a file.
        let of_one = |place: Self| [place.log(), place.mark(), place.and("-journal"), place.path];
        places.into_iter().flat_map(of_one).chain([self.ballast()]).collect()
    }

    /// The file that is given up when the disk is full.
    pub(super) fn ballast(&self) -> PathBuf {
        self.path.with_extension("ballast")
    }

    /// Removes the log, and what is promised about it.
    pub(super) fn remove_log(&self) -> io::Result<()> {
        remove(&self.log())?;
        remove(&self.mark())
    }

    pub(super) fn directory(&self) -> &Path {
        self.path.parent().unwrap_or_else(|| Path::new("."))
    }

    /// Opens the file for SQL. If nothing else is said, closing it changes nothing more: it may be damaged.
    pub(super) fn connect(&self) -> rusqlite::Result<Connection> {
        // No other thread uses the connection at the same time, so it needs no lock of its own.
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let db = match self.vfs {
            None => Connection::open_with_flags(&self.path, flags),
            Some(vfs) => Connection::open_with_flags_and_vfs(&self.path, flags, vfs),
        }?;
        db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        Ok(db)
    }

    /// The same for the only process that uses it: no file for shared memory, no lock for each transaction. Nothing is
    /// changed by that.
    pub(super) fn connect_alone(&self) -> rusqlite::Result<Connection> {
        let db = self.connect()?;
        db.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        Ok(db)
    }
}

/// What went wrong, by what is to be done about it.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The file is not for us.
    #[error(transparent)]
    Refused(SpoolError),
    /// The file is not as it was written.
    #[error("it is damaged ({1})")]
    Damaged(Damage, String),
    /// There is no room.
    #[error("the disk is full ({0})")]
    Full(String),
    /// It cannot be read or written.
    #[error("the disk fails ({0})")]
    Failing(String),
    /// What was asked for cannot be done.
    #[error("it cannot be done ({0})")]
    Impossible(String),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error {
            rusqlite::Error::SqliteFailure(cause, _) => match cause.code {
                ErrorCode::DiskFull => Self::Full(text),
                ErrorCode::SystemIoFailure if cause.extended_code != SQLITE_IOERR_SHORT_READ => Self::Failing(text),
                ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::PermissionDenied => Self::Failing(text),
                _ => Self::Damaged(Damage::Holes, text),
            },
            // What we ask for is right, so it is what is asked: a schema that lacks a table, rows that should not be
            // there, a header that allows no writing.
            _ => Self::Damaged(Damage::Holes, text),
        }
    }
}

impl Failure {
    /// The failure of a change, which may be its own fault.
    fn of_change(error: rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::TooBig) => Self::Impossible(error.to_string()),
            _ => error.into(),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        let text = error.to_string();
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full(text),
            _ => Self::Failing(text),
        }
    }
}

/// The file, open.
#[derive(Debug)]
pub(super) struct File {
    db: Connection,
    /// How many pages are in the log.
    log: u32,
    mark: Mark,
}

impl File {
    /// Opens the file, or makes it, and brings it to the present format.
    pub(super) fn open(place: &Place) -> Result<Self, Failure> {
        if rusqlite::version_number() < MIN_SQLITE_NUMBER {
            return Err(Failure::Refused(SpoolError::OldSqlite { version: rusqlite::version() }));
        }
        // SQLite would make it for everybody to read; what it puts beside it is as private as it is.
        os::append_private(&place.path)?;
        let is_new = std::fs::metadata(&place.path)?.len() == 0;
        if is_new {
            // Somebody took away the one whose log this was.
            place.remove_log()?;
        }
        let is_whole = log::is_whole(place)?;
        // What else is said about a file changes it, so it must be ours.
        let mut db = place.connect_alone()?;
        let version = version(&db, &place.path, STEPS);
        if !is_whole && !matches!(version, Err(Failure::Refused(_))) {
            return Err(Failure::Damaged(Damage::Rewound, "what was written last cannot be read".to_owned()));
        }
        version?;
        for (name, value) in NEW_PRAGMAS.iter().filter(|_| is_new).chain(PRAGMAS) {
            db.pragma_update(None, name, value)?;
        }
        db.set_prepared_statement_cache_capacity(rows::STATEMENTS);
        migrate(&mut db, &place.path, STEPS)?;
        let mut file = Self { db, log: 0, mark: Mark::open(place)? };
        // A process that was killed may have left what no disk has yet, and from now on it is relied upon.
        sync_log(place)?;
        file.measure_log()?;
        Ok(file)
    }

    /// For reading.
    pub(super) fn db(&self) -> &Connection {
        &self.db
    }

    /// Makes changes: when this returns they are on the disk, or none is.
    pub(super) fn write(&mut self, make: impl FnOnce(&Connection) -> rusqlite::Result<()>) -> Result<(), Failure> {
        let transaction = self.db.transaction()?;
        make(&transaction).map_err(Failure::of_change)?;
        transaction.commit()?;
        self.measure_log()
    }

    /// Empties the log if it has become long.
    pub(super) fn keep_log_short(&mut self) -> Result<(), Failure> {
        if self.log < MAX_LOG { Ok(()) } else { self.empty_log() }
    }

    /// Copies the log into the file, and gives back the room that it took.
    pub(super) fn empty_log(&mut self) -> Result<(), Failure> {
        self.mark.wipe();
        let emptied = self.checkpoint(CheckpointMode::TRUNCATE);
        if self.log > 0 {
            self.mark.promise(self.log);
        }
        emptied
    }

    /// Marks how long the log is: everything in it is on the disk.
    fn measure_log(&mut self) -> Result<(), Failure> {
        self.checkpoint(CheckpointMode::NOOP)?;
        if self.log > 0 {
            self.mark.promise(self.log);
        }
        Ok(())
    }

    fn checkpoint(&mut self, mode: CheckpointMode) -> Result<(), Failure> {
        let (pages, _) = self.db.wal_checkpoint_v2(Some(MAIN_DB), mode)?;
        self.log = u32::try_from(pages).unwrap_or(0);
        Ok(())
    }

    /// How many pages hold nothing, and how many there are.
    pub(super) fn free_pages(&self) -> Result<(i64, i64), Failure> {
        let number = |pragma| self.db.pragma_query_value(None, pragma, |row| row.get(0));
        Ok((number("freelist_count")?, number("page_count")?))
    }

    /// Gives back so many of those that hold nothing.
    pub(super) fn shrink(&mut self, pages: i64) -> Result<(), Failure> {
        let mut statement = self.db.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
        let mut steps = statement.query(())?;
        while steps.next()?.is_some() {}
        drop(steps);
        drop(statement);
        self.measure_log()
    }

    /// Looks for damage that no checksum shows: pages, and so rows, that are not where they belong.
    pub(super) fn check(&self, table: Option<&str>) -> Result<(), Failure> {
        check(&self.db, table)
    }

    /// Ends the use of the file: everything is in it, and there is no log.
    pub(super) fn close(mut self) -> Result<(), Failure> {
        self.empty_log()?;
        self.db.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, false)?;
        Ok(self.db.close().map_err(|(_, error)| error)?)
    }

    /// Ends the use of the file after a failure, and changes nothing more. Returns how long the log is without the
    /// transaction that failed, which may be there as a whole although nobody knows whether it is on the disk.
    pub(super) fn abandon(self) -> u64 {
        log::length(self.log)
    }
}

/// Looks for damage that no checksum shows: in one table, or in all of the file.
pub(super) fn check(db: &Connection, table: Option<&str>) -> Result<(), Failure> {
    // A number is how much is told at most.
    let sql = format!("PRAGMA quick_check({})", table.unwrap_or("1"));
    let found: String = db.query_row(&sql, (), |row| row.get(0))?;
    if found == "ok" {
        return Ok(());
    }
    // Pages that the disk does not give are among what it finds.
    let code = found.rsplit_once("error code=").and_then(|(_, code)| code.parse::<i32>().ok());
    if code.is_some_and(|code| code & 0xff == SQLITE_IOERR) || found.contains("failed to get page") {
        return Err(Failure::Failing(found));
    }
    Err(Failure::Damaged(Damage::Holes, found))
}

/// Whether this build can read the file, which is not changed.
///
/// # Errors
/// Why not; an empty file is damaged, as there should be tables in it.
pub(super) fn known_version(db: &Connection, path: &Path) -> Result<i32, Failure> {
    match version(db, path, STEPS)? {
        0 => Err(Failure::Damaged(Damage::Holes, "it holds nothing".to_owned())),
        version => Ok(i32::try_from(version).expect("a few steps")),
    }
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Cuts a log that is longer, for good.
pub(super) fn cut_log(place: &Place, length: u64) -> io::Result<()> {
    let Some(log) = open_log(place)? else { return Ok(()) };
    if log.metadata()?.len() > length {
        log.set_len(length)?;
    }
    log.sync_all()
}

/// Waits until what is in the log is on the disk.
fn sync_log(place: &Place) -> io::Result<()> {
    open_log(place)?.map_or(Ok(()), |log| log.sync_all())
}

fn open_log(place: &Place) -> io::Result<Option<std::fs::File>> {
    match std::fs::OpenOptions::new().write(true).open(place.log()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => opened.map(Some),
    }
}

/// Brings the file from whatever format it has to that which the last step leads to.
pub(super) fn migrate(db: &mut Connection, path: &Path, steps: &[&str]) -> Result<(), Failure> {
    let transaction = db.transaction()?;
    let (version, known) = (version(&transaction, path, steps)?, steps.len());
    if version < known {
        steps[version..].iter().try_for_each(|step| transaction.execute_batch(step))?;
        let known = i32::try_from(known).expect("a few steps");
        transaction.pragma_update(None, "user_version", known)?;
        transaction.pragma_update(None, "application_id", MARK + known)?;
    }
    Ok(transaction.commit()?)
}

/// The format of the file, 0 for an empty one. Changes nothing.
fn version(db: &Connection, path: &Path, steps: &[&str]) -> Result<usize, Failure> {
    let number = |pragma| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0));
    let (mark, version) = (number("application_id")?, number("user_version")?);
    let count = |sql| db.query_row(sql, (), |row| row.get::<_, i64>(0));
    if version > 0 && mark == MARK.wrapping_add(version) {
        return usize::try_from(version)
            .ok()
            .filter(|version| *version <= steps.len())
            .ok_or_else(|| Failure::Refused(SpoolError::Newer { path: path.to_owned(), version }));
    }
    if count("SELECT count(*) FROM sqlite_schema WHERE name IN ('owner', 'sheet', 'arrival')")? == 3 {
        let why = format!("its marks are {mark:#x} and {version}");
        return Err(Failure::Damaged(Damage::Holes, why));
    }
    if (mark, version, count("SELECT count(*) FROM sqlite_schema")?) == (0, 0, 0) {
        return Ok(0);
    }
    Err(Failure::Refused(SpoolError::Foreign { path: path.to_owned() }))
}
