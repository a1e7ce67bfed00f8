//! The inbox on the disk: what of it is there, what has to go there next, what is read back.
//!
//! Owns: which numbers are written, the page that was read last, which messages stay in memory. When it is time to write
//! is the journal's to say. In memory mode none of this happens.
//!
//! What is written is always the beginning of the stream up to some number, as it is at that moment: what is younger waits,
//! because most of it is acknowledged before it would have to be kept.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::{Consumer, Entry, Gap, GapReason, Inbox, Kept, Presence, Wanted, index_behind};
use crate::session::Now;
use crate::session::record::{Arrival, Bookmark, Change, Content, Outline, OutlineContent, Record};
use crate::settings::{self, MAX_MEMORY_INBOX};
use crate::wire::Body;

/// Bytes of messages that are on the disk and stay in memory all the same, so that whoever comes back begins at once.
const RESIDENT: usize = 1024 * 1024;

/// Bytes of messages in memory above which nothing waits to be written.
const PRESSURE: usize = 6 * 1024 * 1024;

/// Bytes of messages in memory above which the server is not read until they are written.
const FLOOD: usize = 12 * 1024 * 1024;

/// How many numbers are passed over when the disk has forgotten how far they were given out: more than came since.
const REWOUND: u64 = 1 << 32;

/// Begins the names of consumers whose names were lost; nobody else has such a one.
const NAMELESS: char = '?';

/// What there is beside the memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Backing {
    /// Nothing: memory mode.
    #[default]
    None,
    /// A disk that takes what it is given.
    Disk,
    /// A disk that takes no messages.
    FullDisk,
}

#[derive(Debug, Default)]
pub(super) struct Disk {
    backing: Backing,
    /// What has to be kept of everything up to this number is there.
    saved: u64,
    /// The same when the write that is under way is done.
    saving: u64,
    /// What was there up to this number is removed, but for a gap at its very end.
    cleared: u64,
    /// Numbers up to `saving` at which something else stands now, or nothing.
    outdated: Vec<u64>,
    /// Consumers that are forgotten.
    forgotten: Vec<String>,
    /// Messages that were read last, by their numbers.
    page: VecDeque<(u64, Body)>,
    /// For which attachment that was.
    served: u64,
}

/// What a write takes to the disk.
#[derive(Debug)]
pub(in super::super) struct Snapshot {
    saved: u64,
    cleared: u64,
    outdated: Vec<u64>,
    forgotten: Vec<String>,
    /// Everything up to this number is then on the disk, or nobody needs it.
    pub(in super::super) head: u64,
    /// Nothing up to this number is needed.
    pub(in super::super) floor: u64,
    /// How many consumers are then known there.
    pub(in super::super) bookmarks: u64,
    /// How many places of the stream are then on the disk.
    pub(in super::super) arrivals: u64,
    /// When the first outage began whose mark is not among them.
    pub(in super::super) outage_since: Option<u64>,
}

impl Disk {
    pub(super) fn is_there(&self) -> bool {
        self.backing != Backing::None
    }

    /// The same disk without anything on it.
    pub(super) fn cleared(&self) -> Self {
        Self { backing: self.backing, ..Self::default() }
    }

    pub(super) fn page(&self) -> &VecDeque<(u64, Body)> {
        &self.page
    }

    /// Nobody reads anything up to this number again: if the page has no more than that, it is of no use.
    pub(super) fn close_page(&mut self, read_by_all: u64) {
        if self.page.back().is_some_and(|(last, _)| *last <= read_by_all) {
            self.page = VecDeque::new();
        }
    }

    /// The message that is to be read first: those who wait take turns.
    pub(super) fn more_urgent(&self, one: Option<Wanted>, other: Wanted) -> Option<Wanted> {
        let turn = |wanted: &Wanted| (wanted.attachment <= self.served, wanted.attachment);
        one.into_iter().chain([other]).min_by_key(turn)
    }

    /// Something else stands at `seq` now, or nothing.
    pub(super) fn outdate(&mut self, seq: u64) {
        if seq <= self.saving {
            self.outdated.push(seq);
        }
    }

    pub(super) fn forget_consumer(&mut self, name: String) {
        if self.is_there() {
            self.forgotten.push(name);
        }
    }
}

impl Inbox {
    /// An inbox that is kept on a disk.
    pub(in super::super) fn on_disk(self) -> Self {
        Self { disk: Disk { backing: Backing::Disk, ..Disk::default() }, ..self }
    }

    /// The disk takes messages again, or does not any more.
    pub(in super::super) fn set_room(&mut self, room: bool) {
        self.disk.backing = if room { Backing::Disk } else { Backing::FullDisk };
        self.drop_overflow();
    }

    /// Whether more comes than the disk takes in the same time.
    pub(super) fn outruns_disk(&self) -> bool {
        self.disk.backing == Backing::Disk && self.resident >= FLOOD
    }

    /// Whether memory has to hold more than it should, because the disk is full.
    pub(super) fn outgrows_memory(&self) -> bool {
        self.disk.backing == Backing::FullDisk && self.resident > MAX_MEMORY_INBOX
    }

    /// Whether messages should be written although they are young.
    pub(in super::super) fn presses(&self) -> bool {
        self.disk.backing == Backing::Disk && self.resident >= PRESSURE
    }

    /// The highest number up to which everything is on the disk that has to be there.
    pub(in super::super) fn saved(&self) -> u64 {
        self.disk.saved
    }

    /// When the oldest came that is not on the disk.
    pub(in super::super) fn unsaved_since(&self) -> Option<Duration> {
        self.entries.get(index_behind(&self.entries, self.disk.saved)).map(|entry| entry.came)
    }

    /// When the last message came.
    pub(in super::super) fn last_came(&self) -> Duration {
        self.last_came
    }

    /// Bytes of messages that are in memory.
    #[cfg(test)]
    pub(in super::super) fn resident(&self) -> usize {
        self.resident
    }

    /// Whether something is not on the disk that should be some time; asked once.
    pub(in super::super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What has to be written now: the beginning of the stream, as far as it is `ripe`, which is what came until then.
    pub(in super::super) fn snapshot(&mut self, ripe: Duration, now: Now, changes: &mut Vec<Change>) -> Snapshot {
        for consumer in self.consumers.iter_mut().filter(|consumer| consumer.changed) {
            consumer.changed = false;
            changes.push(Change::Bookmark(consumer.bookmark(now)));
        }
        let forgotten = std::mem::take(&mut self.disk.forgotten);
        changes.extend(forgotten.iter().map(|name| Change::NoBookmark { consumer: name.clone() }));

        let front_gap = self.entries.front().filter(|entry| matches!(entry.kept, Kept::Gap(_)));
        let cleared = front_gap.map_or(self.floor, |entry| entry.seq);
        if cleared > self.disk.cleared {
            // A gap may stand at the end of what was cleared before.
            changes.push(Change::Gone { from: self.disk.cleared, to: cleared });
            changes.extend(front_gap.filter(|entry| entry.seq <= self.disk.saved).and_then(Entry::arrival));
        }
        let mut outdated = std::mem::take(&mut self.disk.outdated);
        outdated.retain(|seq| *seq > cleared);
        for &seq in &outdated {
            changes.push(Change::Gone { from: seq, to: seq });
            let entry = self.entries.get(self.index_behind(seq - 1)).filter(|entry| entry.seq == seq);
            changes.extend(entry.and_then(Entry::arrival));
        }

        let mut head = self.disk.saved.max(self.floor);
        let mut rest = self.index_behind(self.disk.saved);
        while let Some(entry) = self.entries.get(rest) {
            // What was dropped must be known to be so, however young it is.
            let must = rest == 0 && matches!(entry.kept, Kept::Gap(_));
            let may = self.disk.backing == Backing::Disk || !entry.is_message();
            if !must && (entry.came > ripe || !may) {
                break;
            }
            changes.extend(entry.arrival());
            head = entry.seq;
            rest += 1;
        }
        // What gave way behind it is no reason to wait.
        head = self.entries.get(rest).map_or(self.head, |entry| head.max(entry.from() - 1));
        let young = self.entries.range(rest..).filter(|entry| !matches!(entry.kept, Kept::Collapsed));
        let outage_since = young.clone().filter_map(Entry::outage_since).min();
        self.disk.saving = head;
        let arrivals = (self.kept().0 - young.count()) as u64;
        Snapshot {
            saved: head,
            cleared,
            outdated,
            forgotten,
            head,
            floor: self.floor,
            bookmarks: self.consumers.len() as u64,
            arrivals,
            outage_since,
        }
    }

    /// What `snapshot` took is on the disk.
    pub(in super::super) fn snapshot_saved(&mut self, snapshot: &Snapshot) {
        (self.disk.saved, self.disk.cleared) = (snapshot.saved, snapshot.cleared);
    }

    /// Of what has come to the disk above `seq`, only so much stays in memory that nobody has to wait for the first.
    pub(in super::super) fn release(&mut self, seq: u64) {
        let first = self.index_behind(seq);
        let last = self.index_behind(self.disk.saved);
        for entry in self.entries.range_mut(first..last).rev() {
            if self.resident <= RESIDENT {
                break;
            }
            if let Kept::Message(body) = &entry.kept {
                let length = body.len();
                self.resident -= length;
                entry.kept = Kept::OnDisk(length);
            }
        }
    }

    /// What `snapshot` took is not on the disk, and has to be taken again.
    pub(in super::super) fn snapshot_lost(&mut self, snapshot: Snapshot) {
        self.disk.outdated.extend(snapshot.outdated);
        self.disk.forgotten.extend(snapshot.forgotten);
        self.disk.saving = self.disk.saved;
        for consumer in &mut self.consumers {
            consumer.changed = true;
        }
        self.changed = true;
    }

    /// The disk may have lost anything of what was written: what is in memory is written anew.
    pub(in super::super) fn disk_was_damaged(&mut self) {
        let written = self.entries.iter().filter(|entry| entry.seq <= self.disk.saving);
        // What was to be removed has no entry any more, and may be there still.
        self.disk
            .outdated
            .extend(written.filter(|entry| !matches!(entry.kept, Kept::OnDisk(_))).map(|entry| entry.seq));
        for consumer in &mut self.consumers {
            consumer.changed = true;
        }
        self.changed = true;
    }

    /// What was read of the numbers `from` to `to`. What is missing there is damaged, and becomes a gap.
    pub(in super::super) fn loaded(&mut self, from: u64, to: u64, bodies: Vec<(u64, Body)>) {
        self.disk.page = bodies.into();
        let first = self.index_behind(from - 1);
        for index in first..self.entries.len() {
            let Some(entry) = self.entries.get_mut(index).filter(|entry| entry.seq <= to) else { break };
            let is_there = self.disk.page.binary_search_by_key(&entry.seq, |(seq, _)| *seq).is_ok();
            if is_there || !matches!(entry.kept, Kept::OnDisk(_)) {
                continue;
            }
            let seq = entry.seq;
            let gap = Kept::gap(Gap::of(seq, GapReason::Damage, Some(1)));
            let (at, came) = (entry.at, entry.came);
            let lost = std::mem::replace(entry, Entry { seq, at, came, kept: gap });
            self.leave(&lost);
            self.bytes += super::ENTRY_BYTES;
            self.disk.outdate(seq);
            self.changed = true;
        }
    }

    /// A message is being read for this attachment: the next turn is another's.
    pub(in super::super) fn serve(&mut self, attachment: u64) {
        self.disk.served = attachment;
    }

    /// What an earlier daemon left. What it may have given out and nobody knows of any more is a gap; so is what should be
    /// there and is not.
    pub(in super::super) fn restore(
        session: Arc<str>,
        settings: settings::Inbox,
        record: &mut Record,
        now: Now,
    ) -> Self {
        let sheet = &record.sheet;
        let mut inbox = Self::new(session, settings).on_disk();
        (inbox.floor, inbox.head, inbox.collapsed) = (sheet.floor, sheet.head, sheet.collapsed);
        (inbox.disk.saved, inbox.disk.saving, inbox.disk.cleared) = (sheet.head, sheet.head, sheet.floor);
        for bookmark in std::mem::take(&mut record.bookmarks) {
            let left = bookmark.left_at.map_or(now.elapsed, |at| now.elapsed_at(at));
            let presence = if bookmark.dropped { Presence::Dropped(left) } else { Presence::Away(left) };
            let changed = bookmark.left_at.is_none();
            inbox.consumers.push(Consumer { name: bookmark.consumer, acked: bookmark.acked, presence, changed });
            inbox.changed |= changed;
        }
        inbox.restore_nameless(sheet.bookmarks, now);
        inbox.restore_entries(std::mem::take(&mut record.arrivals), sheet.arrivals, now);
        let (first, last) = (inbox.head + 1, sheet.reserved);
        let since = Some(sheet.written_at.min(now.unix_ms));
        let until = Some(now.unix_ms);
        if record.rewound {
            inbox.head = last + REWOUND;
            let gap = Gap { since, until, ..Gap::of(first, GapReason::Damage, None) };
            inbox.put_gap(inbox.head, gap, now);
        } else if first <= last {
            inbox.head = last;
            let at_most = Some(last + 1 - first);
            inbox.put_gap(last, Gap { at_most, since, until, ..Gap::of(first, GapReason::Crash, None) }, now);
        }
        inbox.drop_overflow();
        inbox
    }

    /// A consumer whose bookmark is missing has not acknowledged what is kept: everything waits at its place until somebody
    /// comes who is not known, for that may be the one.
    fn restore_nameless(&mut self, expected: u64, now: Now) {
        let mut numbers = 1..;
        while (self.consumers.len() as u64) < expected
            && let Some(number) = numbers.next()
        {
            let name = format!("{NAMELESS}{number}");
            if self.consumers.iter().all(|consumer| consumer.name != name) {
                let presence = Presence::Away(now.elapsed);
                self.consumers.push(Consumer { name, acked: self.floor, presence, changed: true });
                self.changed = true;
            }
        }
    }

    /// The place of a consumer whose name was lost is that of `name` from now on; its index, if there is such a one.
    pub(super) fn adopt_nameless(&mut self, name: &str) -> Option<usize> {
        let index = self.consumers.iter().position(|consumer| consumer.name.starts_with(NAMELESS))?;
        let nameless = std::mem::replace(&mut self.consumers[index].name, name.to_owned());
        self.disk.forget_consumer(nameless);
        Some(index)
    }

    fn restore_entries(&mut self, arrivals: Vec<Outline>, expected: u64, now: Now) {
        let (floor, head) = (self.floor, self.head);
        let wanted = |outline: &Outline| outline.seq > floor && outline.seq <= head;
        let arrivals: Vec<_> = arrivals.into_iter().filter(wanted).collect();
        let missing = expected.saturating_sub(arrivals.len() as u64);
        let covered: u64 = arrivals.iter().map(|outline| outline.seq + 1 - outline.from().max(floor + 1)).sum();
        // If as many are missing as there are holes, none of these is one of a message that gave way.
        let exact = (head - floor).saturating_sub(covered) == missing;
        let mut next = floor + 1;
        let hole = |inbox: &mut Self, next: u64, from: u64| {
            if missing > 0 && next < from {
                let length = from - next;
                let count = exact.then_some(length);
                let at_most = if exact { None } else { Some(length) };
                let gap = Gap { at_most, ..Gap::of(next, GapReason::Damage, count) };
                inbox.put_gap(from - 1, gap, now);
                inbox.disk.outdated.push(from - 1);
            }
        };
        for outline in arrivals {
            hole(self, next, outline.from());
            next = outline.seq + 1;
            let kept = match outline.content {
                OutlineContent::Message(length) => Kept::OnDisk(length),
                OutlineContent::Gap(gap) => Kept::gap(gap),
            };
            let entry = Entry { seq: outline.seq, at: outline.at, came: now.elapsed_at(outline.at), kept };
            self.enter(&entry);
            self.entries.push_back(entry);
        }
        hole(self, next, head + 1);
    }

    fn put_gap(&mut self, seq: u64, gap: Gap, now: Now) {
        let entry = Entry { seq, at: now.unix_ms, came: now.elapsed, kept: Kept::gap(gap) };
        self.enter(&entry);
        self.entries.push_back(entry);
        self.changed = true;
    }
}

impl Consumer {
    fn bookmark(&self, now: Now) -> Bookmark {
        let (left, dropped) = match self.presence {
            Presence::Here(_) => (None, false),
            Presence::Away(since) => (Some(since), false),
            Presence::Dropped(since) => (Some(since), true),
        };
        let left_at = left.map(|left| now.unix_at(left));
        Bookmark { consumer: self.name.clone(), acked: self.acked, left_at, dropped }
    }
}

impl Entry {
    /// If it is the mark of an outage: when that began.
    fn outage_since(&self) -> Option<u64> {
        match &self.kept {
            Kept::Gap(gap) if gap.reason == GapReason::Disconnected => gap.since,
            _ => None,
        }
    }

    /// How it is kept, if it is to be.
    fn arrival(&self) -> Option<Change> {
        let content = match &self.kept {
            Kept::Message(body) => Content::Message(body.clone()),
            Kept::Gap(gap) => Content::Gap(**gap),
            // It is there already, or need not be.
            Kept::OnDisk(_) | Kept::Collapsed => return None,
        };
        Some(Change::Arrived(Arrival { seq: self.seq, at: self.at, content }))
    }
}

impl Outline {
    /// The lowest number that it covers.
    fn from(&self) -> u64 {
        match &self.content {
            OutlineContent::Message(_) => self.seq,
            OutlineContent::Gap(gap) => gap.from,
        }
    }
}
