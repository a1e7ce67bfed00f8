//! A file beside the spool that is given up when the disk is full.
//!
//! Owns: that file. SQLite needs space even to delete (it writes pages to its log first), so on a full disk nothing
//! could be acknowledged any more, and nothing ever trimmed.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use super::file::Place;
use crate::os;

/// Enough for a log that is emptied after every transaction.
const BYTES: usize = 1024 * 1024;

#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    /// The disk is full for a test.
    #[cfg(test)]
    is_full: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Ballast {
    pub(super) fn new(place: &Place) -> Self {
        Self {
            path: place.ballast(),
            #[cfg(test)]
            is_full: place.is_full.clone(),
        }
    }

    /// Makes the file, if it is not there, and if there is room for twice as much: else it would be taken back as soon
    /// as it was given up, and given up again with the next write.
    pub(super) fn take(&self) -> io::Result<()> {
        #[cfg(test)]
        if self.is_full.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.path.symlink_metadata().is_ok_and(|found| found.is_file() && found.len() == BYTES as u64) {
            return Ok(());
        }
        self.give_up();
        let made = self.make();
        if made.is_err() {
            self.give_up();
        }
        made
    }

    fn make(&self) -> io::Result<()> {
        // Not zeros, and not the same twice: there are file systems that take no room for those.
        let mut chance = fastrand::Rng::new();
        let mut bytes = vec![0; 2 * BYTES];
        chance.fill(&mut bytes);
        let mut file = os::append_private(&self.path)?;
        file.write_all(&bytes)?;
        file.sync_all()?;
        file.set_len(BYTES as u64)?;
        file.sync_all()
    }

    /// Makes room.
    pub(super) fn give_up(&self) {
        // It may be gone already, and if it cannot be removed there is nothing else to do.
        let _ = fs::remove_file(&self.path);
    }
}
