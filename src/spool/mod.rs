//! What outlives the daemon: one SQLite file, which a thread of its own reads and writes.
//!
//! Owns: the handle ([`Spool`]), what it tells ([`News`]) and the order of things: what waits is written in one transaction,
//! and said to be written when it is on the disk. How the file is opened and made fit is `file`'s, what its rows look
//! like `rows`'s. Decides nothing about sessions: what is kept, and when, they say ([`Change`]).
//!
//! There is one connection, and so one reader and writer: nothing here ever waits for a lock.

mod file;
mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use rusqlite::Connection;
use tracing::{error, warn};

use crate::session::record::{Change, Owner, Record};
use crate::wire::Body;

/// How much is written in one transaction, in bytes of bodies, if more waits.
const MAX_COMMIT: usize = 16 * 1024 * 1024;

/// Keeps sessions on the disk. Its methods never wait; what became of them is told as [`News`].
#[derive(Debug)]
pub struct Spool {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
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
    /// Whether there is room on the disk, told when it changes. While there is none, only what makes room or is tiny
    /// can be expected to be written.
    Room(bool),
}

/// Why there is no spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// A newer build has changed the file.
    #[error(
        "{} was made by a newer version of this program (format {version}, this one knows {}); \
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
    #[error("SQLite {version} is too old, {} is needed; build this program with the bundled one", file::MIN_SQLITE)]
    OldSqlite {
        /// What there is.
        version: &'static str,
    },
    /// The file cannot be made or opened.
    #[error("cannot open {}; is its directory there and ours, and the disk not full?", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// SQLite cannot use it.
    #[error("cannot use {}; is the disk full, or another daemon using it?", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rusqlite::Error,
    },
    /// No thread can be started.
    #[error("cannot start a thread for {}", path.display())]
    Thread {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

#[derive(Debug)]
enum Command {
    Write { session: u64, ticket: u64, changes: Vec<Change> },
    Load { session: u64, number: u64, from: u64, to: u64, max_bytes: usize },
}

/// Everything that may lie beside the spool at `path`, itself included: for whoever removes all of it.
#[must_use]
pub fn files(path: &Path) -> Vec<PathBuf> {
    let beside = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let mut files =
        vec![path.to_owned(), beside("-wal"), beside("-shm"), beside("-journal"), path.with_extension("ballast")];
    let entries = path.parent().and_then(|directory| std::fs::read_dir(directory).ok()).into_iter().flatten().flatten();
    let set_aside = entries
        .map(|entry| entry.path())
        .filter(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("spool-damaged-")));
    files.extend(set_aside);
    files
}

impl Spool {
    /// Opens the file, or makes it, and reads what is kept. Of messages to the extension only where they stand is
    /// read. Waits for the disk.
    ///
    /// # Errors
    /// If the file cannot be used: it is somebody else's or a newer version's, or the disk fails.
    pub fn open(path: &Path, tell: impl Fn(News) + Send + 'static) -> Result<(Self, Vec<Kept>), SpoolError> {
        let mut db = file::open(path)?;
        let kept = rows::read(&mut db).map_err(|source| SpoolError::Sqlite { path: path.to_owned(), source })?;
        let (commands, received) = channel();
        let writer = Writer { db, tell };
        let thread = std::thread::Builder::new()
            .name("spool".to_owned())
            .spawn(move || writer.run(&received))
            .map_err(|source| SpoolError::Thread { path: path.to_owned(), source })?;
        Ok((Self { commands, thread }, kept))
    }

    /// A number for a new session: nobody has had it before, so that nothing that a damaged file brings to light again
    /// is ever taken for a part of it.
    #[must_use]
    pub fn draw_number() -> u64 {
        let mut bytes = [0; 8];
        // Without chance there are still the numbers of those that are kept.
        let _ = getrandom::fill(&mut bytes);
        u64::from_ne_bytes(bytes) >> 1
    }

    /// Writes changes, all or none, and after those of earlier calls. Answered by [`News::Written`] or
    /// [`News::NotWritten`].
    pub fn write(&self, session: u64, ticket: u64, changes: Vec<Change>) {
        self.command(Command::Write { session, ticket, changes });
    }

    /// Reads the messages with these numbers, as they are after all earlier calls, but no more than so many bytes unless
    /// that would be none. Answered by [`News::Loaded`].
    pub fn load(&self, session: u64, number: u64, from: u64, to: u64, max_bytes: usize) {
        self.command(Command::Load { session, number, from, to, max_bytes });
    }

    /// Ends it, after everything that it was asked for.
    pub fn close(self) {
        let Self { commands, thread } = self;
        drop(commands);
        // If it panicked, the log says so.
        let _ = thread.join();
    }

    fn command(&self, command: Command) {
        // The thread ends before its handle only if it panicked, which the log says.
        let _ = self.commands.send(command);
    }
}

/// One write that was asked for.
#[derive(Debug)]
struct Write {
    session: u64,
    ticket: u64,
    changes: Vec<Change>,
}

struct Writer<T> {
    db: Connection,
    tell: T,
}

impl<T: Fn(News)> Writer<T> {
    fn run(mut self, commands: &Receiver<Command>) {
        while let Ok(first) = commands.recv() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            let mut next = Some(first);
            while let Some(command) = next {
                bytes += size(&command);
                batch.push(command);
                next = if bytes < MAX_COMMIT { commands.try_recv().ok() } else { None };
            }
            self.serve(batch);
        }
        file::close(self.db);
    }

    /// Does what was asked for in its order: writes are gathered, and a load that is among them sees those before it.
    fn serve(&mut self, batch: Vec<Command>) {
        let mut writes = Vec::new();
        for command in batch {
            match command {
                Command::Write { session, ticket, changes } => writes.push(Write { session, ticket, changes }),
                Command::Load { session, number, from, to, max_bytes } => {
                    if writes.iter().any(|write| write.session == session) {
                        self.write(std::mem::take(&mut writes));
                    }
                    self.load(session, number, from, to, max_bytes);
                }
            }
        }
        self.write(writes);
    }

    fn write(&mut self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        if let Err(error) = self.commit(&writes) {
            if writes.len() > 1 {
                // One of them may be the reason, and the others are not to suffer from it.
                return writes.into_iter().for_each(|write| self.write(vec![write]));
            }
            error!(error = %error, "nothing can be written to the spool");
            return writes.iter().for_each(|&Write { session, ticket, .. }| {
                (self.tell)(News::NotWritten { session, ticket });
            });
        }
        for Write { session, ticket, .. } in writes {
            (self.tell)(News::Written { session, ticket });
        }
    }

    fn commit(&mut self, writes: &[Write]) -> rusqlite::Result<()> {
        let transaction = self.db.transaction()?;
        for write in writes {
            for change in &write.changes {
                rows::apply(&transaction, write.session, change)?;
            }
        }
        transaction.commit()
    }

    fn load(&self, session: u64, number: u64, from: u64, to: u64, max_bytes: usize) {
        let (bodies, to) = rows::load(&self.db, session, from, to, max_bytes).unwrap_or_else(|error| {
            warn!(error = %error, "messages cannot be read from the spool");
            (Vec::new(), to)
        });
        (self.tell)(News::Loaded { session, number, bodies, to });
    }
}

/// How much a command adds to a transaction, about.
fn size(command: &Command) -> usize {
    let Command::Write { changes, .. } = command else { return 0 };
    changes.iter().map(|change| 64 + rows::body_length(change)).sum()
}
