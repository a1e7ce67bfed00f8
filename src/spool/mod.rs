//! What outlives the daemon: one SQLite file, which a thread of its own reads and writes.
//!
//! Owns: the handle ([`Spool`]) and what it tells ([`News`]). Read on in `writer`: what the thread does, and what it
//! does when the disk is full or fails. How the file is opened and kept in shape is `file`'s, what its rows look like
//! `rows`'s, how it is made anew when it is damaged `salvage`'s; `inspect` only looks. Decides nothing about sessions: what is kept, and
//! when, they say ([`Change`]).
//!
//! There is one connection, and so one reader and writer: nothing here ever waits for a lock.

mod ballast;
mod file;
pub mod inspect;
mod log;
mod rows;
mod salvage;
#[cfg(test)]
mod tests;
mod writer;

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::session::record::{Change, Owner, Record};
use crate::wire::Body;
use file::{Failure, Place};
use writer::{Command, Writer};

/// Keeps sessions on the disk. Its methods never wait; what became of them is told as [`News`].
#[derive(Debug)]
pub struct Spool {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
    /// The highest number of a session.
    last_number: Cell<u64>,
}

/// A session that was found in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Its number.
    pub session: u64,
    /// Whose it is.
    pub owner: Owner,
    /// The settings that it was given, as JSON text; empty if there were none, or if they were damaged.
    pub given: String,
    /// Everything else.
    pub record: Record,
}

/// What is wrong with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Damage {
    /// Anything may be missing, but what is there is right: what is missing shows by the counts of a sheet, or by itself.
    Holes,
    /// The latest changes may be missing as well, though it was said that they were written ([`Record::rewound`]).
    Rewound,
}

/// What the spool tells, from its own thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The changes of this [`Spool::write`] are on the disk.
    Written {
        /// Whose they are.
        session: u64,
        /// As it was given.
        ticket: u64,
    },
    /// Nothing of this [`Spool::write`] is on the disk: it is full, or does not work.
    NotWritten {
        /// Whose they are.
        session: u64,
        /// As it was given.
        ticket: u64,
    },
    /// The answer to [`Spool::load`].
    Loaded {
        /// Whose they are.
        session: u64,
        /// As it was given.
        number: u64,
        /// The messages by their numbers, in order. One that was looked for and is not here is missing or damaged.
        bodies: Vec<(u64, Body)>,
        /// Up to here was looked.
        to: u64,
    },
    /// Whether there is room on the disk, told when it changes. While there is none, what adds messages, subscriptions
    /// or settings is not even tried.
    Room(bool),
    /// The file was found damaged while it was in use, and made anew from what could be read. Whatever sessions hold in
    /// their memory they should write anew: any of it may be missing. What must be loaded may be missing for good.
    Damaged,
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A newer build has changed the file.
    #[error(
        "{} was written by a newer version of this program (its format is {version}, this version knows {}); \
         start that version, or move the file away and lose what it keeps", path.display(), file::VERSION
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        version: i32,
    },
    /// It is somebody else's.
    #[error("{} is a database of another program; move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
    },
    /// The library has known errors.
    #[error(
        "SQLite {version} can lose what it has written, {} is needed; build this program with its own",
        file::MIN_SQLITE
    )]
    OldSqlite {
        /// What there is.
        version: &'static str,
    },
    /// The file cannot be made, opened or used.
    #[error(
        "cannot use {}: {why}; see whether its directory can be written to, the disk has room and works, and no other \
         daemon uses it", path.display()
    )]
    Unusable {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Everything that may lie beside the spool at `path`, itself included: for whoever removes all of it.
#[must_use]
pub fn files(path: &Path) -> Vec<PathBuf> {
    Place::new(path).files()
}

impl Spool {
    /// Opens the file, or makes it, and reads what is kept. Of messages to the extension only where they stand is
    /// read. Waits for the disk.
    ///
    /// # Errors
    /// If the file cannot be used: it is somebody else's or a newer version's, or the disk is full or fails. A damaged
    /// one is set aside, and what can be read of it kept.
    pub fn open(path: &Path, tell: impl Fn(News) + Send + 'static) -> Result<(Self, Vec<Kept>), SpoolError> {
        Self::open_at(Place::new(path), tell)
    }

    fn open_at(place: Place, tell: impl Fn(News) + Send + 'static) -> Result<(Self, Vec<Kept>), SpoolError> {
        let path = place.path.clone();
        let unusable = |why: String| SpoolError::Unusable { path: path.clone(), why };
        let (writer, kept) = Writer::open(place, tell).map_err(|failure| match failure {
            Failure::Refused(error) => error,
            other => unusable(other.to_string()),
        })?;
        let (commands, received) = channel();
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(|error| unusable(format!("no thread can be started ({error})")))?;
        let last_number = Cell::new(kept.iter().map(|kept| kept.session).max().unwrap_or(0));
        Ok((Self { commands, thread, last_number }, kept))
    }

    /// A number for a new session, above those of all there are. Nobody has had it before, also if the file has
    /// forgotten: nothing that a damaged file brings to light again is ever taken for a part of this session.
    #[must_use]
    pub fn draw_number(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let drawn = u64::try_from(now).unwrap_or(0) << 16 | fastrand::u64(..1 << 16);
        self.last_number.set(drawn.max(self.last_number.get() + 1));
        self.last_number.get()
    }

    /// Writes changes, all or none, and after those of earlier calls. Answered by [`News::Written`] or
    /// [`News::NotWritten`].
    pub fn write(&self, session: u64, ticket: u64, changes: Vec<Change>) {
        self.command(Command::Write { session, ticket, changes });
    }

    /// Reads the messages with these numbers, as they are after all earlier calls, but no more than so many bytes
    /// unless that would be none. Answered by [`News::Loaded`].
    pub fn load(&self, session: u64, number: u64, from: u64, to: u64, max_bytes: usize) {
        self.command(Command::Load { session, number, from, to, max_bytes });
    }

    /// Ends it, after everything that it was asked for.
    pub fn close(self) {
        let Self { commands, thread, .. } = self;
        drop(commands);
        // If it panicked, the log says so.
        let _ = thread.join();
    }

    fn command(&self, command: Command) {
        // The thread ends before its handle only if it panicked, which the log says.
        let _ = self.commands.send(command);
    }
}
