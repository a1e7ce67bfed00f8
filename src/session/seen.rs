//! Which messages of the server came before (`dialect.dedupe`).
//!
//! Owns: the ids of the newest messages that were given a number, here and on the disk. What becomes of a message that
//! came before is `connection`'s.
//!
//! An id is as safe as its message: it goes to the disk in the write that takes the message there, or says that nobody
//! needs it any more. So a daemon that was killed has forgotten it together with the message, and a server that sends that
//! again is listened to. What the disk has is the window as it was with the last message of the write, not as it is in
//! memory.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use super::pattern;
use super::record::{Change, Seen, Sheet};
use crate::settings::Dedupe;
use crate::wire::Body;

/// How many ids that have left the window are kept for the disk.
const MAX_LATE: usize = 65_536;

/// The ids of messages that came.
#[derive(Debug)]
pub(super) struct SeenIds {
    dedupe: Option<Dedupe>,
    /// The oldest first.
    ids: VecDeque<Seen>,
    /// So many of them have left the window, and the disk may still need them.
    late: usize,
    /// Those in the window.
    known: HashSet<Arc<str>>,
    /// The ids of messages up to this number are no more.
    gone: u64,
    on_disk: bool,
    /// The disk has what it needs up to this number.
    saved: u64,
    /// It has nothing up to this number.
    cleared: u64,
    /// It may have lost anything.
    anew: bool,
}

/// What a write takes to the disk.
#[derive(Debug)]
pub(super) struct Snapshot {
    saved: u64,
    cleared: u64,
    anew: bool,
}

impl SeenIds {
    pub(super) fn new(dedupe: Option<Dedupe>, on_disk: bool) -> Self {
        Self {
            dedupe,
            ids: VecDeque::new(),
            late: 0,
            known: HashSet::new(),
            gone: 0,
            on_disk,
            saved: 0,
            cleared: 0,
            anew: false,
        }
    }

    /// What an earlier daemon left.
    pub(super) fn restore(dedupe: Option<Dedupe>, sheet: &Sheet, seen: Vec<Seen>) -> Self {
        let mut restored = Self::new(dedupe, true);
        restored.saved = sheet.head;
        // Of a message that may be lost nothing is known, whatever a damaged file says. An id that came again after it had left
        // a smaller window may be there twice: the newest counts.
        let mut met = HashSet::new();
        let newest_first = seen.into_iter().rev().filter(|seen| seen.seq <= sheet.head);
        let ids: Vec<Seen> = newest_first.filter(|seen| met.insert(Arc::clone(&seen.id))).collect();
        ids.into_iter().rev().for_each(|seen| restored.push(seen.seq, seen.id));
        if restored.place() != sheet.ids_at.as_deref() {
            restored.clear();
        }
        restored
    }

    /// Other settings hold.
    pub(super) fn configure(&mut self, dedupe: Option<&Dedupe>) {
        let place = |dedupe: Option<&Dedupe>| dedupe.map(|dedupe| dedupe.id.clone());
        if place(dedupe) != place(self.dedupe.as_ref()) {
            self.clear();
        }
        self.dedupe = dedupe.cloned();
        self.keep_within();
    }

    /// What came is no sign of what comes from now on.
    pub(super) fn clear(&mut self) {
        self.gone = self.ids.back().map_or(self.gone, |newest| newest.seq);
        self.ids.clear();
        self.known.clear();
        self.late = 0;
    }

    /// Where in messages their ids stand, if that is known.
    pub(super) fn place(&self) -> Option<&str> {
        self.dedupe.as_ref().map(|dedupe| &*dedupe.id)
    }

    /// The id of a message, if it has one: text, or a number. Text is the same however its letters are written.
    pub(super) fn id_of(&self, body: &Body) -> Option<Arc<str>> {
        let (Some(place), Body::Json(json)) = (self.place(), body) else { return None };
        let found = pattern::at(place, json)?;
        match found.as_bytes().first()? {
            b'"' if found.contains('\\') => {
                let text: String = serde_json::from_str(found).ok()?;
                Some(serde_json::Value::from(text).to_string().into())
            }
            b'"' | b'-' | b'0'..=b'9' => Some(found.into()),
            _ => None,
        }
    }

    /// Whether a message with this id came before.
    pub(super) fn has(&self, id: &str) -> bool {
        self.known.contains(id)
    }

    /// Message `seq` has this id, which none in the window has.
    pub(super) fn push(&mut self, seq: u64, id: Arc<str>) {
        self.known.insert(Arc::clone(&id));
        self.ids.push_back(Seen { seq, id });
        self.keep_within();
    }

    fn keep_within(&mut self) {
        let window = self.window();
        while self.ids.len() - self.late > window {
            self.known.remove(&self.ids[self.late].id);
            self.late += 1;
        }
        let needed = if self.on_disk { self.window_at(self.saved).min(self.late) } else { self.late };
        let gone = needed.max(self.late.saturating_sub(MAX_LATE));
        self.late -= gone;
        self.gone = self.ids.drain(..gone).next_back().map_or(self.gone, |last| last.seq);
    }

    fn window(&self) -> usize {
        self.dedupe.as_ref().map_or(0, |dedupe| dedupe.window)
    }

    /// Where the window began when `head` was the last message.
    fn window_at(&self, head: u64) -> usize {
        self.ids.partition_point(|seen| seen.seq <= head).saturating_sub(self.window())
    }

    /// What has to be written so that whoever knows the stream up to `head` knows which messages came before.
    pub(super) fn snapshot(&mut self, head: u64, changes: &mut Vec<Change>) -> Snapshot {
        let anew = std::mem::take(&mut self.anew);
        let first = self.window_at(head);
        let cleared = first.checked_sub(1).map_or(self.gone, |last| self.ids[last].seq);
        if cleared > self.cleared {
            changes.push(Change::Unseen { to: cleared });
        }
        let saved = if anew { 0 } else { self.saved };
        let young = self.ids.range(first..).filter(|seen| seen.seq > saved && seen.seq <= head);
        changes.extend(young.cloned().map(Change::Seen));
        Snapshot { saved: head, cleared, anew }
    }

    /// What `snapshot` took is on the disk.
    pub(super) fn snapshot_saved(&mut self, snapshot: &Snapshot) {
        (self.saved, self.cleared) = (snapshot.saved, snapshot.cleared);
        self.keep_within();
    }

    /// What `snapshot` took is not on the disk, and has to be taken again.
    pub(super) fn snapshot_lost(&mut self, snapshot: &Snapshot) {
        self.anew |= snapshot.anew;
    }

    /// The disk may have lost anything of what was written.
    pub(super) fn disk_was_damaged(&mut self) {
        self.anew = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_the_disk_has_twice_stays_known_when_the_older_one_leaves_the_window() {
        let dedupe = Dedupe { id: "/id".into(), window: 2 };
        let seen = |seq, id: &str| Seen { seq, id: id.into() };
        let sheet = Sheet { head: 3, ids_at: Some("/id".into()), ..Sheet::default() };
        let mut seen = SeenIds::restore(Some(dedupe), &sheet, vec![seen(1, "a"), seen(2, "b"), seen(3, "a")]);
        assert!(seen.has("a") && seen.has("b"));
        seen.push(4, "c".into());
        assert!(seen.has("a") && seen.has("c") && !seen.has("b"));
    }
}
