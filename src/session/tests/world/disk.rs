//! The disk of a session: as slow, as full and as damaged as the history wants it.

use super::*;

/// A write that is not done yet.
#[derive(Debug)]
pub(super) struct Saving {
    pub(super) ticket: u64,
    changes: Vec<Change>,
    reserved: u64,
    /// What the session was like when it asked for that.
    pub(super) picture: Picture,
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    pub(super) shelf: Shelf,
    /// What the session was like when what is on the shelf was asked for.
    pub(super) picture: Option<Picture>,
    pub(super) saving: Option<Saving>,
    /// Ticket, first and last number of what is being read.
    pub(super) reading: Option<(u64, u64, u64)>,
    /// What was asked for a session that was forgotten since.
    void: Vec<Input>,
    pub(super) slow: bool,
    pub(super) full: bool,
    /// So many writes will fail.
    pub(super) fails: usize,
    /// So many bytes are read at once.
    pub(super) page: usize,
}

impl Disk {
    pub(super) fn new() -> Self {
        Self { page: 1 << 20, ..Self::default() }
    }

    pub(super) fn save(&mut self, ticket: u64, changes: Vec<Change>, picture: Picture) {
        assert!(self.saving.is_none(), "two writes at a time");
        let sheet = changes.iter().find_map(|change| match change {
            Change::Sheet(sheet) => Some(sheet),
            _ => None,
        });
        let reserved = sheet.expect("each write has a sheet").reserved;
        let message = |change: &Change| match change {
            Change::Arrived(arrival) => matches!(arrival.content, record::Content::Message(_)),
            Change::Posted { post, .. } => !self.shelf.posts.contains_key(&post.number),
            _ => false,
        };
        assert!(!(self.full && changes.iter().any(message)), "a message is written to a full disk");
        self.saving = Some(Saving { ticket, changes, reserved, picture });
    }

    pub(super) fn load(&mut self, ticket: u64, from: u64, to: u64) {
        assert!(self.reading.is_none(), "two reads at a time");
        assert!(from <= to && to <= self.head(), "only what was written can be read");
        self.reading = Some((ticket, from, to));
    }

    /// The write that is under way is done.
    pub(super) fn land(&mut self) {
        let Some(Saving { changes, picture, .. }) = self.saving.take() else { return };
        self.shelf.apply(changes);
        self.picture = Some(picture);
    }

    /// What was asked for the one that is forgotten now will be answered all the same.
    pub(super) fn forget(&mut self) {
        self.void.extend(self.saving.take().map(|saving| Input::Saved { ticket: saving.ticket }));
        let nothing = |(ticket, _, to)| Input::Loaded { ticket, bodies: Vec::new(), to };
        self.void.extend(self.reading.take().map(nothing));
        self.shelf = Shelf::default();
        self.picture = None;
    }

    /// The daemon is gone, and whoever it had asked for something.
    pub(super) fn abandon(&mut self) {
        (self.saving, self.reading) = (None, None);
        self.void.clear();
    }

    pub(super) fn is_asked(&self) -> bool {
        self.saving.is_some() || self.reading.is_some() || !self.void.is_empty()
    }

    pub(super) fn pop_void(&mut self) -> Option<Input> {
        self.void.pop()
    }

    /// Everything is kept up to this number.
    pub(super) fn head(&self) -> u64 {
        self.shelf.sheet.as_ref().map_or(0, |sheet| sheet.head)
    }

    /// The highest number that is reserved, and stays so whenever the daemon is killed.
    pub(super) fn reserved(&self) -> u64 {
        let reserved = self.shelf.sheet.as_ref().map_or(0, |sheet| sheet.reserved);
        self.saving.as_ref().map_or(reserved, |saving| reserved.min(saving.reserved))
    }

    /// Whether a port may have to wait for this number: it is being read, or has its turn after what is.
    pub(super) fn reads(&self, seq: u64) -> bool {
        self.reading.is_some() && seq <= self.head()
    }

    /// Whether nothing hinders the session from keeping everything.
    pub(super) fn is_well(&self) -> bool {
        !self.slow && !self.full && self.fails == 0
    }
}
