//! The file as somebody finds it who only wants to know how it is.
//!
//! Owns: looking without changing anything. What is found is told; what to do about it the next daemon decides
//! (`writer`).

use std::path::{Path, PathBuf};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use super::file::{self, Failure, Place};
use super::{SpoolError, log, rows};
use crate::session::record::{Owner, Sheet};

/// What was found.
#[derive(Debug)]
pub struct Inspection {
    /// Bytes of the file and its log.
    pub bytes: u64,
    /// How the file is.
    pub condition: Condition,
    /// The sessions in it, as far as they can be read.
    pub sessions: Vec<(Owner, Sheet)>,
    /// Files that were found damaged earlier.
    pub set_aside: Vec<PathBuf>,
}

/// How a file is.
#[derive(Debug)]
pub enum Condition {
    /// There is none.
    Absent,
    /// As it was written.
    Sound,
    /// Nothing was found in the time that there was, which was too short for all of it.
    Unfinished,
    /// Not as it was written: the next daemon sets it aside and keeps what can be read.
    Damaged(String),
    /// No daemon of this version can use it.
    Refused(SpoolError),
    /// It could not be read.
    Unreadable(String),
}

/// Looks at the size of the spool at `path` and at what lies beside it. This disturbs nobody.
#[must_use]
pub fn measure(path: &Path) -> (u64, Vec<PathBuf>) {
    let place = Place::new(path);
    let length = |path: PathBuf| path.metadata().map_or(0, |metadata| metadata.len());
    let bytes = length(place.path.clone()) + length(place.log());
    (bytes, place.set_aside().into_iter().map(|place| place.path).collect())
}

/// Looks at the spool at `path`, for about as long as `limit`. The caller has the daemon's lock: nobody else may have the
/// file open.
#[must_use]
pub fn inspect(path: &Path, limit: Duration) -> Inspection {
    let (bytes, set_aside) = measure(path);
    let mut sessions = Vec::new();
    let place = Place::new(path);
    let condition = match place.path.metadata() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Condition::Absent,
        Ok(metadata) if metadata.len() == 0 => Condition::Absent,
        _ => {
            let had_log = place.log().exists();
            let condition = match look(&place, limit, &mut sessions) {
                Ok(true) => Condition::Sound,
                Ok(false) => Condition::Unfinished,
                Err(Failure::Refused(error)) => Condition::Refused(error),
                Err(Failure::Damaged(_, why)) => Condition::Damaged(why),
                Err(other) => Condition::Unreadable(other.to_string()),
            };
            if !had_log && place.log().metadata().is_ok_and(|log| log.len() == 0) {
                // SQLite makes an empty one to read from; whoever fails to remove it leaves what means nothing.
                let _ = file::remove(&place.log());
            }
            condition
        }
    };
    Inspection { bytes, condition, sessions, set_aside }
}

/// Whether all of it could be looked at in time.
fn look(place: &Place, limit: Duration, sessions: &mut Vec<(Owner, Sheet)>) -> Result<bool, Failure> {
    let db = place.connect_alone()?;
    let version = file::known_version(&db, &place.path)?;
    let (kept, unsound) = rows::read(&db, version)?;
    sessions.extend(kept.into_iter().map(|kept| (kept.owner, kept.record.sheet)));
    if !log::is_whole(place)? {
        let why = "what was written last cannot be read".to_owned();
        return Err(Failure::Damaged(super::Damage::Rewound, why));
    }
    if unsound > 0 {
        let why = format!("{unsound} rows are not as they were written");
        return Err(Failure::Damaged(super::Damage::Holes, why));
    }
    let interrupt = db.get_interrupt_handle();
    let (done, is_done) = channel::<()>();
    let clock = std::thread::spawn(move || {
        let is_over = is_done.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
        if is_over {
            interrupt.interrupt();
        }
        is_over
    });
    let checked = file::check(&db, None);
    drop(done);
    match (checked, clock.join()) {
        (Err(_), Ok(true)) => Ok(false),
        (checked, _) => checked.map(|()| true),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spool::Spool;

    #[test]
    fn a_spool_is_looked_at_and_nothing_changes() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("spool.db");
        let limit = Duration::from_secs(30);
        assert!(matches!(inspect(&path, limit).condition, Condition::Absent));
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);

        let (spool, _) = Spool::open(&path, |_| {}).unwrap();
        spool.close();
        let files = || {
            let mut files: Vec<_> = std::fs::read_dir(directory.path())
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .map(|path| (path.clone(), std::fs::read(path).unwrap()))
                .collect();
            files.sort();
            files
        };
        let before = files();
        let found = inspect(&path, limit);
        assert!(matches!(found.condition, Condition::Sound), "{found:?}");
        assert!(found.bytes > 0);
        assert_eq!(files(), before);

        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096..].fill(0x55);
        std::fs::write(&path, &bytes).unwrap();
        let before = files();
        let found = inspect(&path, limit);
        assert!(matches!(found.condition, Condition::Damaged(_)), "{found:?}");
        assert_eq!(files(), before);

        std::fs::write(&path, "something else entirely, and long enough for a header".repeat(100)).unwrap();
        assert!(!matches!(inspect(&path, limit).condition, Condition::Sound | Condition::Absent));
    }
}
