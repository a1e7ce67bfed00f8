//! What of a session is on the disk, what is on its way there, and when the next part has to go (durable mode).
//!
//! Owns: the one write that is under way, the numbers that may be given out, when it is time to write; what a daemon that
//! starts makes of what an earlier one left. What is written of the streams is taken by `inbox` and `outbox`.
//!
//! The rules, and why they are enough:
//!
//! - A write is one transaction with a picture of the session, and there is one at a time. So the disk always holds the
//!   session as it once was, and a slow disk makes writes larger, not more.
//! - A message is written when it has waited for `inbox.persist_after_ms`; most are acknowledged before. Until then its number
//!   alone is safe: numbers are reserved on the disk before they are given out. A daemon that finds more numbers reserved
//!   than written knows that something may have been lost, and at most how much; none is ever given out twice.
//! - When nothing has come for that long, everything is on the disk and the reservation is withdrawn: a daemon that is killed
//!   while nothing happens has lost nothing, and the next one knows it.

use super::connection::Connection;
use super::inbox::{self, Wanted};
use super::record::{Record, Sheet};
use super::{outbox, seen, *};

/// The longest time that what is no message waits to be written: places, endings, states.
const LAZY: Duration = Duration::from_millis(50);

/// The shortest: not every acknowledgement is worth a write, even where every message is.
const LEAST_LAZY: Duration = Duration::from_millis(10);

/// How many numbers are reserved after a silence. As long as messages go on to come, it is twice as many each time.
const FIRST_BLOCK: u64 = 256;
const LARGEST_BLOCK: u64 = 1 << 16;

/// How many numbers are reserved as long as the disk is full: it may soon take not even that.
const HOARD: u64 = 1 << 20;

/// When a write that failed is tried again.
const RETRY: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Journal {
    ticket: u64,
    under_way: Option<UnderWay>,
    /// Since when something waits to be written.
    dirty: Option<Duration>,
    /// What was too young is to be written when its time comes, or numbers are to be given back.
    rest: bool,
    /// It must not wait.
    hurry: bool,
    /// A write failed: nothing is tried before.
    retry: Option<Duration>,
    /// Numbers up to this are reserved.
    reserved: u64,
    /// They are more than are written.
    lending: bool,
    block: u64,
    room: bool,
    /// The message that is being read from the disk: which was asked for, from which number on.
    loading: Option<(u64, u64)>,
    /// The daemon ends; whether the session was closed before, which it is to be again.
    stopping: Option<Stopping>,
}

#[derive(Debug, Clone, Copy)]
struct Stopping {
    closed: bool,
}

/// A write that is not done yet.
#[derive(Debug)]
struct UnderWay {
    ticket: u64,
    reserved: u64,
    inbox: inbox::Snapshot,
    outbox: outbox::Snapshot,
    seen: seen::Snapshot,
}

impl Default for Journal {
    fn default() -> Self {
        Self {
            ticket: 0,
            under_way: None,
            dirty: None,
            rest: false,
            hurry: false,
            retry: None,
            reserved: 0,
            lending: false,
            block: FIRST_BLOCK,
            room: true,
            loading: None,
            stopping: None,
        }
    }
}

impl Journal {
    /// Nothing is kept any more; what is under way means nothing.
    pub(super) fn begin_anew(&mut self) {
        *self = Self { ticket: self.ticket, room: self.room, ..Self::default() };
    }

    fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }
}

/// When what is written.
impl Session {
    /// Something is to be written some time.
    pub(super) fn changed(&mut self) {
        self.sheet_changed = true;
    }

    /// What was changed just now is to be written at once.
    pub(super) fn hurry(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.hurry = true;
        }
    }

    /// Whether all is on the disk, or nothing more can be done for it.
    pub(super) fn is_done(&self, journal: &Journal) -> bool {
        let settled = journal.dirty.is_none() && !journal.rest;
        let given_up = journal.stopping.is_some() && (journal.retry.is_some() || settled);
        // A full disk leaves messages where they are although nothing is to be done now.
        let all = self.inbox.saved() == self.inbox.head() && !self.outbox.has_unsaved();
        journal.under_way.is_none() && (given_up || (settled && all))
    }

    /// The highest number that may be given out.
    pub(super) fn may_give_out(&self) -> u64 {
        let Some(journal) = &self.journal else { return u64::MAX };
        if self.persists_first() {
            return self.inbox.saved();
        }
        let under_way = journal.under_way.as_ref().map_or(u64::MAX, |write| write.reserved);
        journal.reserved.min(under_way)
    }

    /// Whether each message is to be on the disk before it is given out. A full disk cannot do that, and what it still can
    /// has to be enough.
    fn persists_first(&self) -> bool {
        self.settings.inbox.persist_after.is_zero() && self.journal.as_ref().is_some_and(|journal| journal.room)
    }

    /// How long what is no message may wait.
    fn lazy(&self) -> Duration {
        self.settings.inbox.persist_after.clamp(LEAST_LAZY, LAZY)
    }

    /// When the next write is due.
    pub(super) fn save_due(&self) -> Option<Duration> {
        let journal = self.journal.as_ref().filter(|journal| journal.under_way.is_none() && !self.blank)?;
        if journal.dirty.is_none() && !journal.rest {
            return None;
        }
        if journal.retry.is_some() {
            return journal.retry;
        }
        let at_once = journal.hurry
            || journal.stopping.is_some()
            || self.needs_numbers(journal)
            || self.outbox.has_promises()
            || self.inbox.presses()
            || (self.persists_first() && self.inbox.saved() < self.inbox.head());
        if at_once {
            return Some(Duration::ZERO);
        }
        let messages = [self.inbox.unsaved_since(), self.outbox.unsaved_since()].into_iter().flatten().min();
        let ripe = messages.filter(|_| journal.room).map(|since| since + self.settings.inbox.persist_after);
        let lent = (journal.lending && messages.is_none()).then(|| self.inbox.last_came() + self.lazy());
        let change = journal.dirty.map(|since| since + self.lazy());
        [change, ripe, lent].into_iter().flatten().min()
    }

    /// Whether a message waits for a number that is safe, or soon would.
    fn needs_numbers(&self, journal: &Journal) -> bool {
        let head = self.inbox.head();
        if self.persists_first() {
            return false;
        }
        head > journal.reserved || (journal.lending && head + journal.block / 4 > journal.reserved)
    }

    /// Notes what has changed, and writes if it is time.
    pub(super) fn keep(&mut self, now: Now) {
        let changed = [self.inbox.take_changed(), self.outbox.take_changed(), std::mem::take(&mut self.sheet_changed)];
        let Some(journal) = &mut self.journal else { return };
        if changed.contains(&true) {
            journal.dirty.get_or_insert(now.elapsed);
        }
        if self.save_due().is_some_and(|due| due <= now.elapsed) {
            self.save(now);
        }
    }

    fn save(&mut self, now: Now) {
        let persist_after = self.settings.inbox.persist_after;
        let quiet = now.elapsed.saturating_sub(self.inbox.last_came()) >= self.lazy();
        let persists_first = self.persists_first();
        let presses = self.inbox.presses();
        let Some(journal) = &mut self.journal else { return };
        // Half of the time is enough for whoever is going to acknowledge at all; so a steady stream is written in steps.
        let ripe = match persist_after {
            _ if journal.stopping.is_some() || presses => now.elapsed,
            patience => now.elapsed.saturating_sub(patience / 2),
        };
        let mut changes = Vec::new();
        let inbox = self.inbox.snapshot(ripe, now, &mut changes);
        let outbox = self.outbox.snapshot(ripe, now, &mut changes);
        let seen = self.seen.snapshot(inbox.head, &mut changes);

        let head = self.inbox.head();
        let all = inbox.head == head;
        journal.lending = !(persists_first || (all && (quiet || journal.stopping.is_some())));
        let reserved = if !journal.lending {
            journal.block = FIRST_BLOCK;
            inbox.head
        } else if !journal.room {
            journal.reserved.max(head + HOARD)
        } else if head + journal.block / 2 > journal.reserved {
            let block = journal.block;
            journal.block = (block * 2).min(LARGEST_BLOCK);
            head + block
        } else {
            journal.reserved
        };
        // What was too young is still to be written, and what was reserved to be given back; a full disk says when.
        journal.rest = journal.room && (journal.lending || !all || self.outbox.unsaved_since().is_some());
        (journal.dirty, journal.hurry, journal.retry) = (None, false, None);
        let ticket = journal.next_ticket();
        let sheet = self.sheet(reserved, &inbox, &outbox, now);
        changes.push(Change::Sheet(Box::new(sheet)));
        if let Some(journal) = &mut self.journal {
            journal.under_way = Some(UnderWay { ticket, reserved, inbox, outbox, seen });
        }
        self.actions.push_back(Action::Save { ticket, changes });
    }

    fn sheet(&self, reserved: u64, inbox: &inbox::Snapshot, outbox: &outbox::Snapshot, now: Now) -> Sheet {
        let (budget_full_at, learnt_window) = self.retry.state();
        Sheet {
            url: self.url.to_string(),
            protocols: self.protocols.clone(),
            epoch: self.epoch.to_string(),
            head: inbox.head,
            reserved,
            floor: inbox.floor,
            arrivals: inbox.arrivals,
            bookmarks: inbox.bookmarks,
            posts: outbox.posts,
            outcomes: outbox.outcomes,
            subscriptions: outbox.subscribed,
            last_post: outbox.last_post,
            lost: self.lost,
            closed: self.is_closed(),
            deserted_at: self.deserted.map(|since| now.unix_at(since)),
            // One whose mark may be lost with this daemon is to be told by the next.
            outage_since: inbox.outage_since.into_iter().chain(self.outage_since).min(),
            written_at: now.unix_ms,
            budget_full_at: now.unix_at(budget_full_at),
            learnt_window_ms: learnt_window.map(|window| window.as_millis() as u64),
            answers_pings: self.answers_pings,
            answers_beats: self.answers_beats,
            collapsed: self.inbox.collapsed(),
            cursor: self.cursors.at(inbox.head).map(|cursor| cursor.to_string()),
            ids_at: self.seen.place().map(str::to_owned),
        }
    }

    pub(super) fn handle_saved(&mut self, ticket: u64, now: Now) {
        let Some(journal) = &mut self.journal else { return };
        let Some(write) = journal.under_way.take_if(|write| write.ticket == ticket) else { return };
        journal.reserved = write.reserved;
        let before = self.inbox.saved();
        self.inbox.snapshot_saved(&write.inbox);
        self.cursors.saved(write.inbox.head);
        self.seen.snapshot_saved(&write.seen);
        self.outbox.snapshot_saved(&write.outbox);
        self.send_receipts();
        // Whoever waited for that is not to wait for it to be read back.
        self.deliver(now);
        self.inbox.release(before);
    }

    pub(super) fn handle_not_saved(&mut self, ticket: u64, now: Now) {
        let Some(journal) = &mut self.journal else { return };
        let Some(write) = journal.under_way.take_if(|write| write.ticket == ticket) else { return };
        journal.dirty.get_or_insert(now.elapsed);
        journal.lending = true;
        journal.retry = Some(now.elapsed + RETRY);
        self.inbox.snapshot_lost(write.inbox);
        self.outbox.snapshot_lost(write.outbox);
        self.seen.snapshot_lost(&write.seen);
        self.sheet_changed = true;
    }

    pub(super) fn handle_room(&mut self, room: bool) {
        let Some(journal) = &mut self.journal else { return };
        if std::mem::replace(&mut journal.room, room) == room {
            return;
        }
        // Either way something is to be done now: numbers are hoarded, or what had to wait is written.
        (journal.hurry, journal.retry) = (true, None);
        self.inbox.set_room(room);
        self.outbox.set_room(room);
        self.sheet_changed = true;
        if !room {
            for port in self.ports.clone() {
                self.tell_disk_full(port);
            }
        }
    }

    /// Whether messages can be stored, if they are to be at all.
    pub(super) fn can_store(&self) -> Option<bool> {
        self.journal.as_ref().map(|journal| journal.room)
    }

    /// Reads from the disk what a port waits for.
    pub(super) fn load(&mut self, wanted: Wanted) {
        let Some(journal) = self.journal.as_mut().filter(|journal| journal.loading.is_none()) else { return };
        let ticket = journal.next_ticket();
        journal.loading = Some((ticket, wanted.seq));
        self.inbox.serve(wanted.attachment);
        self.actions.push_back(Action::Load { ticket, from: wanted.seq, to: self.inbox.saved() });
    }

    pub(super) fn handle_loaded(&mut self, ticket: u64, bodies: Vec<(u64, Body)>, to: u64) {
        let Some(journal) = &mut self.journal else { return };
        let Some((_, from)) = journal.loading.take_if(|(asked, _)| *asked == ticket) else { return };
        self.inbox.loaded(from, to, bodies);
    }

    /// The daemon ends: the connection too, and everything goes to the disk.
    pub(super) fn stop(&mut self, now: Now) {
        if let Some(attempt) = self.attempt() {
            self.actions.push_back(self.goodbye(attempt));
        }
        if matches!(self.connection, Connection::Open(_)) {
            self.begin_outage(now);
            self.outbox.connection_lost(now);
        }
        let closed = self.is_closed();
        self.connection = Connection::Closed;
        // They are given nothing more of the stream, but hear what becomes of what they sent.
        for &port in &self.ports {
            self.inbox.detach(port, now.elapsed);
        }
        self.deserted.get_or_insert(now.elapsed);
        self.send_receipts();
        if let Some(journal) = &mut self.journal {
            journal.stopping = Some(Stopping { closed });
            journal.dirty.get_or_insert(now.elapsed);
            (journal.hurry, journal.retry) = (true, None);
        }
        self.keep(now);
    }

    /// What is kept on the disk can be sent by the next daemon; what is kept in memory is sent now.
    fn goodbye(&self, attempt: u64) -> Action {
        let (code, reason) = (1001, "the daemon ends");
        match self.mode {
            Mode::Memory => Action::Finish { attempt, code, reason: reason.into() },
            _ => Action::Disconnect { attempt, code, reason },
        }
    }

    /// Whether it is not to connect by itself, also in the next daemon.
    fn is_closed(&self) -> bool {
        match self.journal.as_ref().and_then(|journal| journal.stopping) {
            Some(Stopping { closed }) => closed,
            None => matches!(self.connection, Connection::Closed),
        }
    }
}

/// What an earlier daemon left.
impl Session {
    /// The session as the disk has it. What was lost with the earlier daemon, or with the file, stands in the stream as a gap;
    /// unless it was closed, it will connect when it is first woken.
    #[must_use]
    pub fn restore(birth: Birth, record: Record, now: Now) -> Self {
        let mut record = record;
        let settings = birth.settings.clone();
        let fresh = Self::new(birth, now);
        let inbox = Inbox::restore(Arc::clone(&fresh.name), settings.inbox.clone(), &mut record, now);
        let (outbox, lost) = Outbox::restore(&settings, &mut record, now);
        let seen = SeenIds::restore(settings.dialect.dedupe.clone(), &record.sheet, record.seen);
        let sheet = record.sheet;
        let connection = if sheet.closed {
            Connection::Closed
        } else {
            let message = "the daemon was started again, and connects anew".into();
            Connection::Waiting { until: now.elapsed, reason: Reason::new("restart", message) }
        };
        let window = sheet.learnt_window_ms.map(Duration::from_millis);
        let mut retry = Retry::restore(now.elapsed_until(sheet.budget_full_at), window);
        retry.configure(&settings.reconnect, now.elapsed);
        let mut session = Self {
            protocols: sheet.protocols,
            epoch: sheet.epoch.into(),
            connection,
            retry,
            // Nobody knows what the earlier daemon read from the server after it last wrote.
            outage_since: sheet.outage_since.or(Some(sheet.written_at)),
            cursors: Cursors::restore(sheet.cursor),
            seen,
            answers_pings: sheet.answers_pings,
            answers_beats: sheet.answers_beats,
            inbox,
            outbox,
            lost: sheet.lost.and(lost),
            journal: Some(Journal {
                reserved: sheet.reserved,
                lending: true,
                dirty: Some(now.elapsed),
                ..Journal::default()
            }),
            deserted: Some(sheet.deserted_at.map_or(now.elapsed, |at| now.elapsed_at(at))),
            blank: false,
            ..fresh
        };
        // What ended with the file is settled before anything is written.
        session.send_receipts();
        session
    }
}
