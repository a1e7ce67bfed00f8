//! Where the server is to go on after an outage (`dialect.resume`).
//!
//! Owns: which cursor stands for which beginning of the stream. What is asked, and what the answer means, is
//! `connection`'s.

use std::collections::VecDeque;
use std::sync::Arc;

/// How many are remembered that wait for the disk.
const MAX_YOUNG: usize = 65_536;

/// The cursors that came.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    /// The last one, as JSON text.
    last: Option<Arc<str>>,
    /// Those of messages that the disk may not have yet, with the messages' numbers.
    young: VecDeque<(u64, Arc<str>)>,
    /// The last one before those: what a daemon that finds the disk so can go on from.
    old: Option<Arc<str>>,
}

impl Cursors {
    /// What an earlier daemon left.
    pub(super) fn restore(cursor: Option<String>) -> Self {
        let cursor: Option<Arc<str>> = cursor.map(Into::into);
        Self { last: cursor.clone(), young: VecDeque::new(), old: cursor }
    }

    /// Message `seq` carried this one. `on_disk` says whether there is a disk that it may yet have to come to.
    pub(super) fn push(&mut self, seq: u64, cursor: &str, on_disk: bool) {
        let cursor: Arc<str> = cursor.into();
        if on_disk {
            if self.young.len() >= MAX_YOUNG {
                // Nothing can be written: the next daemon would begin further back.
                self.young.pop_front();
            }
            self.young.push_back((seq, Arc::clone(&cursor)));
        }
        self.last = Some(cursor);
    }

    /// From where the server can go on, as JSON text.
    pub(super) fn last(&self) -> Option<&Arc<str>> {
        self.last.as_ref()
    }

    /// The same for whoever knows the stream up to `head` only.
    pub(super) fn at(&self, head: u64) -> Option<&Arc<str>> {
        match self.young.partition_point(|(seq, _)| *seq <= head) {
            0 => self.old.as_ref(),
            known => Some(&self.young[known - 1].1),
        }
    }

    /// The disk has everything up to `head`, for ever.
    pub(super) fn saved(&mut self, head: u64) {
        let known = self.young.partition_point(|(seq, _)| *seq <= head);
        if let Some((_, cursor)) = self.young.drain(..known).next_back() {
            self.old = Some(cursor);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_that_takes_nothing_costs_the_newest_beginnings_and_no_memory() {
        let mut cursors = Cursors::restore(Some("0".to_owned()));
        (1..=MAX_YOUNG as u64 + 5).for_each(|seq| cursors.push(seq, &seq.to_string(), true));
        assert_eq!(cursors.young.len(), MAX_YOUNG);
        assert_eq!(cursors.at(5).map(|cursor| &**cursor), Some("0"), "further back, and never too far on");
        assert_eq!(cursors.at(6).map(|cursor| &**cursor), Some("6"));
    }

    #[test]
    fn what_the_disk_has_and_the_cursor_beside_it_belong_together() {
        let mut cursors = Cursors::restore(Some("3".to_owned()));
        cursors.push(7, "10", true);
        cursors.push(8, "\"b\"", true);
        assert_eq!(cursors.at(6).map(|cursor| &**cursor), Some("3"));
        assert_eq!(cursors.at(7).map(|cursor| &**cursor), Some("10"));
        cursors.saved(7);
        assert_eq!(cursors.at(7).map(|cursor| &**cursor), Some("10"));
        assert_eq!(cursors.at(8).map(|cursor| &**cursor), Some("\"b\""));
        assert_eq!(cursors.last().map(|cursor| &**cursor), Some("\"b\""));
    }
}
