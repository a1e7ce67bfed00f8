//! The thread that has the file.
//!
//! Owns: the order of things, and what is done when the disk does not do what it should.
//!
//! - What waits is written in one transaction, and said to be written when that is on the disk. Nothing is delayed for
//!   it.
//! - A **full** disk: the ballast is given up, and of what comes only what makes room is tried, each write by itself
//!   and with the log emptied after it. Every few seconds the ballast is tried again; when there is room for it, all is
//!   well.
//! - A disk that **fails**: nobody knows what an error of `fsync` leaves behind, and asking again gets no answer. The
//!   file is closed, the transaction that failed is cut off, and the file is opened again, checked, and its log copied,
//!   now and then until that works. Then it is as after a full disk.
//! - A **damaged** file is made anew (`salvage`).

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::Instant;

use tracing::{error, info, warn};

use super::ballast::Ballast;
use super::file::{self, Failure, File, Place};
use super::{Damage, Kept, News, rows, salvage};
use crate::session::record::Change;

/// How much is written in one transaction, in bytes of bodies, if more waits.
const MAX_COMMIT: usize = 16 * 1024 * 1024;

/// How many pages without content the file may have before it is made smaller, and how many it then keeps: what comes
/// next needs some.
const MANY_FREE: i64 = 1024;
const SOME_FREE: i64 = 256;

/// How many of them are given back at once.
const SHRINK: i64 = 256;

/// How often a file that cannot be read is tried again before it counts as damaged.
const MAX_UNREADABLE: u32 = 3;

/// What is asked of the thread.
#[derive(Debug)]
pub(super) enum Command {
    Write { session: u64, ticket: u64, changes: Vec<Change> },
    Load { session: u64, number: u64, from: u64, to: u64, max_bytes: usize },
}

#[derive(Debug)]
struct Write {
    session: u64,
    ticket: u64,
    changes: Vec<Change>,
}

#[derive(Debug)]
struct Load {
    session: u64,
    number: u64,
    from: u64,
    to: u64,
    max_bytes: usize,
}

/// Everything that the thread has.
pub(super) struct Writer<T> {
    place: Place,
    tell: T,
    /// The file; `None` while the disk fails.
    file: Option<File>,
    /// How long the log is to be when the file is opened again.
    cut: Option<u64>,
    ballast: Ballast,
    /// Whether all is well, as it was last told.
    room: bool,
    /// When it was last tried whether all is well again.
    tried: Instant,
    /// What waits for the file.
    loads: Vec<Load>,
    /// Pages are given back until few are left.
    is_shrinking: bool,
    /// How often, lately, the file could be opened but not be read.
    unreadable: u32,
}

impl<T: Fn(News)> Writer<T> {
    /// Opens the file and reads what is kept.
    pub(super) fn open(place: Place, tell: T) -> Result<(Self, Vec<Kept>), Failure> {
        let ballast = Ballast::new(&place);
        let (file, kept) = match open(&place) {
            Err(Failure::Full(why)) => {
                warn!(why, "the disk is too full to open the spool; giving up the ballast");
                ballast.give_up();
                open(&place)?
            }
            opened => opened?,
        };
        let writer = Self {
            place,
            tell,
            file: Some(file),
            cut: None,
            ballast,
            room: true,
            tried: Instant::now(),
            loads: Vec::new(),
            is_shrinking: false,
            unreadable: 0,
        };
        Ok((writer, kept))
    }

    /// Does what is asked for until nobody is there to ask.
    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        if let Err(error) = self.ballast.take() {
            self.run_out(&Failure::from(error));
        }
        while let Some(first) = self.next(commands) {
            let mut bytes = 0;
            let mut batch = Vec::new();
            let mut next = first;
            while let Some(command) = next {
                bytes += size(&command);
                batch.push(command);
                next = if bytes < MAX_COMMIT { commands.try_recv().ok() } else { None };
            }
            self.serve(batch);
            if !self.room && self.tried.elapsed() >= self.place.retry {
                self.try_again();
            }
        }
        if let Some(Err(error)) = self.file.take().map(File::close) {
            warn!(%error, "the spool could not be closed in order");
        }
    }

    /// Waits for a command: without end if all is well, else until it is time to try again (`Some(None)`). `None` if
    /// there will be no more.
    fn next(&mut self, commands: &Receiver<Command>) -> Option<Option<Command>> {
        loop {
            match commands.try_recv() {
                Ok(command) => return Some(Some(command)),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.tidy_up() => {}
                Err(TryRecvError::Empty) if self.room => return commands.recv().ok().map(Some),
                Err(TryRecvError::Empty) => {
                    let left = self.place.retry.saturating_sub(self.tried.elapsed());
                    return match commands.recv_timeout(left) {
                        Ok(command) => Some(Some(command)),
                        Err(RecvTimeoutError::Timeout) => Some(None),
                        Err(RecvTimeoutError::Disconnected) => None,
                    };
                }
            }
        }
    }

    /// Does what was asked for in its order. Writes are gathered; a load sees those before it, and not those after it.
    fn serve(&mut self, batch: Vec<Command>) {
        let mut writes: Vec<Write> = Vec::new();
        for command in batch {
            match command {
                Command::Write { session, ticket, changes } => writes.push(Write { session, ticket, changes }),
                Command::Load { session, number, from, to, max_bytes } => {
                    if writes.iter().any(|write| write.session == session) {
                        self.write(std::mem::take(&mut writes));
                    }
                    self.load(Load { session, number, from, to, max_bytes });
                }
            }
        }
        self.write(writes);
    }

    fn write(&mut self, writes: Vec<Write>) {
        if writes.is_empty() {
            return;
        }
        if !self.room {
            return writes.into_iter().for_each(|write| self.write_without_room(&write));
        }
        match self.commit(&writes) {
            Ok(()) => {
                writes.iter().for_each(|write| self.written(write));
                self.keep(File::keep_log_short);
            }
            Err(error @ Failure::Full(_)) => {
                self.run_out(&error);
                writes.into_iter().for_each(|write| self.write_without_room(&write));
            }
            // One of them may be the reason, and the others are not to suffer from it.
            Err(Failure::Impossible(_)) if writes.len() > 1 => {
                writes.into_iter().for_each(|write| self.write(vec![write]));
            }
            Err(error) => {
                error!(%error, writes = writes.len(), "nothing can be written to the spool");
                writes.iter().for_each(|write| self.not_written(write));
            }
        }
    }

    /// Writes what makes room.
    fn write_without_room(&mut self, write: &Write) {
        if write.changes.iter().any(rows::adds) || self.commit(std::slice::from_ref(write)).is_err() {
            return self.not_written(write);
        }
        self.written(write);
        self.keep(File::empty_log);
    }

    fn commit(&mut self, writes: &[Write]) -> Result<(), Failure> {
        self.with_file(|file| {
            file.write(|db| {
                let mut changes =
                    writes.iter().flat_map(|write| write.changes.iter().map(|change| (write.session, change)));
                changes.try_for_each(|(session, change)| rows::apply(db, session, change))
            })
        })
    }

    fn written(&self, &Write { session, ticket, .. }: &Write) {
        (self.tell)(News::Written { session, ticket });
    }

    fn not_written(&self, &Write { session, ticket, .. }: &Write) {
        (self.tell)(News::NotWritten { session, ticket });
    }

    fn load(&mut self, load: Load) {
        let Load { session, number, from, to, max_bytes } = load;
        let loaded = self.with_file(|file| Ok(rows::load(file.db(), session, from, to, max_bytes)?));
        let (bodies, to) = match loaded {
            Ok(loaded) => loaded,
            // Whether it can be read is known when the disk works again.
            Err(Failure::Failing(_) | Failure::Full(_)) => return self.loads.push(load),
            Err(error) => {
                error!(%error, "messages cannot be read from the spool");
                (Vec::new(), to)
            }
        };
        (self.tell)(News::Loaded { session, number, bodies, to });
    }

    /// Does something for the file that nobody waits for.
    fn keep(&mut self, what: fn(&mut File) -> Result<(), Failure>) {
        match self.with_file(what) {
            Err(error @ Failure::Full(_)) => self.run_out(&error),
            Err(error) if self.file.is_some() => warn!(%error, "the spool cannot be kept in shape"),
            // If it is closed, the reason has been logged.
            _ => {}
        }
    }

    /// Gives back a few of the pages that hold nothing, if they are many; says whether it did.
    fn tidy_up(&mut self) -> bool {
        let Ok((free, all)) = self.with_file(|file| file.free_pages()) else { return false };
        // A full disk is short of every one of them.
        let (many, some) = if self.room { (MANY_FREE.max(all / 4), SOME_FREE) } else { (1, 0) };
        if free <= if self.is_shrinking { some } else { many } {
            self.is_shrinking = false;
            return false;
        }
        self.keep(|file| file.shrink(SHRINK));
        self.keep(if self.room { File::keep_log_short } else { File::empty_log });
        // If nothing came of it, it need not be tried again at once.
        self.is_shrinking = self.with_file(|file| file.free_pages()).is_ok_and(|(left, _)| some < left && left < free);
        if !self.is_shrinking {
            // Only now is the file shorter.
            self.keep(File::empty_log);
        }
        self.is_shrinking
    }

    /// Does something with the file. If that turns out to be damaged, the same with a new one; if the disk fails, the
    /// file is closed, and opened again at once if that can be.
    fn with_file<R>(&mut self, mut what: impl FnMut(&mut File) -> Result<R, Failure>) -> Result<R, Failure> {
        let mut is_new = false;
        loop {
            let Some(file) = &mut self.file else { return Err(Failure::Failing("it is closed".to_owned())) };
            match what(file) {
                Err(Failure::Damaged(damage, why)) if !is_new => {
                    is_new = true;
                    self.file.take().map(File::abandon);
                    if let Err(error) = self.rebuild(damage, &why) {
                        self.run_out(&error);
                        return Err(error);
                    }
                }
                Err(error @ (Failure::Failing(_) | Failure::Damaged(..))) => {
                    self.cut = self.file.take().map(File::abandon);
                    self.run_out(&error);
                    if let Err(error) = self.reopen() {
                        warn!(%error, "the spool stays closed for now");
                    }
                    return Err(error);
                }
                done => return done,
            }
        }
    }

    /// Gives up the ballast and says that there is no room.
    fn run_out(&mut self, why: &Failure) {
        if self.room {
            error!(%why, "there is no room for the spool: what comes is not kept safely until there is");
            self.room = false;
            self.tried = Instant::now();
            self.ballast.give_up();
            (self.tell)(News::Room(false));
        }
    }

    /// Looks whether all is well again.
    fn try_again(&mut self) {
        self.tried = Instant::now();
        if self.file.is_none() && self.reopen().is_err() {
            return;
        }
        std::mem::take(&mut self.loads).into_iter().for_each(|load| self.load(load));
        if self.file.is_some() && self.loads.is_empty() && self.ballast.take().is_ok() {
            info!("there is room for the spool again");
            self.room = true;
            (self.tell)(News::Room(true));
        }
    }

    /// Opens the file after the disk has failed, and believes it only if it can be read and written as a whole.
    fn reopen(&mut self) -> Result<(), Failure> {
        if let Some(length) = self.cut {
            file::cut_log(&self.place, length)?;
        }
        self.cut = None;
        let opened = File::open(&self.place).and_then(|file| match file.check(None) {
            // What cannot be read again and again is lost.
            Err(Failure::Failing(why)) if self.unreadable == MAX_UNREADABLE => {
                Err(Failure::Damaged(Damage::Holes, why))
            }
            Err(error) => {
                self.unreadable += u32::from(matches!(error, Failure::Failing(_)));
                Err(error)
            }
            Ok(()) => Ok(file),
        });
        match opened {
            Ok(file) => self.file = Some(file),
            Err(Failure::Damaged(damage, why)) => self.rebuild(damage, &why)?,
            Err(error) => return Err(error),
        }
        self.unreadable = 0;
        Ok(())
    }

    fn rebuild(&mut self, damage: Damage, why: &str) -> Result<(), Failure> {
        salvage::rebuild(&self.place, damage, why)?;
        self.file = Some(File::open(&self.place)?);
        (self.tell)(News::Damaged);
        Ok(())
    }
}

/// Opens the file and reads what is kept; if it is damaged, it is made anew first.
fn open(place: &Place) -> Result<(File, Vec<Kept>), Failure> {
    salvage::finish(place)?;
    let (damage, why) = match read(place) {
        Ok((file, kept, 0)) => return Ok((file, kept)),
        Ok((file, _, unsound)) => {
            file.abandon();
            (Damage::Holes, format!("{unsound} rows are not as they were written"))
        }
        Err(Failure::Damaged(damage, why)) => (damage, why),
        Err(error) => return Err(error),
    };
    salvage::rebuild(place, damage, &why)?;
    let (file, kept, unsound) = read(place)?;
    if unsound > 0 {
        error!(rows = unsound, "this is a bug: the spool has rows that are as they were written, and say nothing");
    }
    Ok((file, kept))
}

/// Opens the file and reads what is kept, and how many rows cannot be believed.
fn read(place: &Place) -> Result<(File, Vec<Kept>, usize), Failure> {
    let mut file = File::open(place)?;
    // A message that is missing leaves a hole in the numbers; of everything else nobody would know.
    for table in rows::TABLES.iter().filter(|table| table.name != "arrival") {
        file.check(Some(table.name))?;
    }
    let (kept, unsound) = rows::read(file.db(), file::VERSION)?;
    if unsound == 0 {
        file.write(|db| rows::sweep(db, &kept))?;
    }
    Ok((file, kept, unsound))
}

/// How much a command adds to a transaction, about.
fn size(command: &Command) -> usize {
    let Command::Write { changes, .. } = command else { return 0 };
    changes.iter().map(|change| 64 + rows::body_length(change)).sum()
}
