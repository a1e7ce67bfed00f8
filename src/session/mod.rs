//! The session: the durable conversation of one extension with one server, as a state machine without I/O.
//!
//! Owns: what is sent to whom and when, when to connect, what a loss means, what is kept until it is acknowledged.
//! Does not own: sockets, files, clocks and randomness. It is told what happened ([`Conversation::handle`]) and what time
//! it is, and says what is to be done ([`Conversation::poll_action`]) and when it wants to be woken
//! ([`Conversation::poll_timeout`], [`Conversation::handle_timeout`]). After each call of a `handle…` method all actions
//! must be taken before the next one.
//!
//! Nothing that comes in can be an error that a driver might drop: bad input becomes an action that tells the port.
//! Each connection has an attempt number; what an older attempt reports is ignored.
//!
//! To read in this order: this file, the vocabulary · `extension`, the side of the ports · `connection`, the side of the
//! server · `fallback`, what is done while there is no WebSocket · what they stand on: `inbox` keeps what came and who has
//! read how far, `outbox` what is to be sent and what became of it, `retry` when the next attempt comes, `resume` where the
//! server is to go on then, `seen` what of it came before, `credential` what it is shown, `pattern` looks into messages,
//! `stomp` has those of STOMP look like the others · `figures`, what others see · `journal`,
//! what of all that is written to the disk and when, in the words of `record`. What a promise depends on goes out as
//! [`Action::Save`] and the promise is made when [`Input::Saved`] comes back.
//!
//! Beside it stands `direct`, which speaks the same vocabulary and promises nothing: a plain WebSocket of one port.

#![deny(clippy::disallowed_methods)]

mod connection;
mod credential;
mod direct;
mod extension;
mod fallback;
mod figures;
mod inbox;
mod journal;
mod outbox;
mod pattern;
pub mod record;
mod resume;
mod retry;
mod seen;
mod stomp;
#[cfg(test)]
mod tests;

pub use direct::Direct;
pub use retry::{ENDINGS, Ending, Sign, Verdict, verdict};

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use url::Url;

use crate::settings::{Settings, Source};
use crate::wire::event::{Closed, Event, Problem, Reason};
use crate::wire::{Body, Code, Detour, Mode, Open, PING_BYTES, Presented, Secret, Send, Tag};
use connection::{Connection, Suspicion};
use credential::Credentials;
use figures::Figures;
use inbox::Inbox;
use journal::Journal;
use outbox::Outbox;
use record::{Change, Losses};
use resume::Cursors;
use retry::Retry;
use seen::SeenIds;

/// How long a session is kept that nobody opens.
const UNOPENED: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A moment, as the driver's clocks tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Since some moment before the session began; never goes back. All deadlines are in this.
    pub elapsed: Duration,
    /// Milliseconds since 1970, for people and other machines; may jump.
    pub unix_ms: u64,
}

impl Now {
    /// What the clock on the wall showed, or will show, at `elapsed`.
    fn unix_at(self, elapsed: Duration) -> u64 {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if elapsed > self.elapsed {
            self.unix_ms.saturating_add(ms(elapsed - self.elapsed))
        } else {
            self.unix_ms.saturating_sub(ms(self.elapsed - elapsed))
        }
    }

    /// When something happened that the clock on the wall dates so; not later than now, whatever that clock did since.
    fn elapsed_at(self, unix_ms: u64) -> Duration {
        self.elapsed.saturating_sub(Duration::from_millis(self.unix_ms.saturating_sub(unix_ms)))
    }

    /// When the clock on the wall will show that time; now if it did already.
    fn elapsed_until(self, unix_ms: u64) -> Duration {
        self.elapsed.saturating_add(Duration::from_millis(unix_ms.saturating_sub(self.unix_ms)))
    }
}

/// A port of the extension, as the driver numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u64);

impl PortId {
    /// No port: a person at the command line, who has no consumer and gets no receipts.
    pub const PERSON: Self = Self(0);
}

/// What a session is born with.
#[derive(Debug, Clone)]
pub struct Birth {
    /// The driver's number for the session; goes out with what counts as acknowledged when it is written.
    pub number: u64,
    /// Its name.
    pub name: Arc<str>,
    /// What kind it is.
    pub mode: Mode,
    /// Its server.
    pub url: Url,
    /// What holds for it.
    pub settings: Settings,
    /// Must be random: epoch and jitter are drawn from it.
    pub seed: u64,
}

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A port asks to be attached; the driver has checked that the server is allowed.
    Open {
        /// Which port.
        port: PortId,
        /// What it asks for.
        open: Box<Open>,
        /// The server that it names.
        url: Option<Url>,
        /// What holds for the session from now on, if it says anything about that.
        settings: Option<Box<Settings>>,
        /// The `ref` of the request.
        reference: Option<String>,
    },
    /// Other settings hold from now on: a file changed.
    Configure {
        /// What holds.
        settings: Box<Settings>,
    },
    /// A port sends a message to the server.
    Send {
        /// Which port.
        port: PortId,
        /// The message.
        send: Send,
        /// The `ref` of the request.
        reference: Option<String>,
    },
    /// A port's consumer has processed everything up to `seq`.
    Ack {
        /// Which port.
        port: PortId,
        /// The highest number.
        seq: u64,
        /// The epoch that the number belongs to.
        epoch: Option<String>,
        /// The `ref` of the request.
        reference: Option<String>,
    },
    /// Something is to be sent on every connection.
    Subscribe {
        /// Which port.
        port: PortId,
        /// What the extension calls it.
        key: String,
        /// What to send.
        payload: Option<Body>,
        /// The `ref` of the request.
        reference: Option<String>,
    },
    /// A subscription ends.
    Unsubscribe {
        /// Which port.
        port: PortId,
        /// What the extension calls it.
        key: String,
        /// What to send.
        payload: Option<Body>,
        /// The `ref` of the request.
        reference: Option<String>,
    },
    /// A port gives a credential.
    Token {
        /// Which port.
        port: PortId,
        /// The credential.
        token: Secret,
        /// When it ends, in milliseconds since 1970, if the extension knows.
        expires_at: Option<u64>,
        /// The `ref` of the request.
        reference: Option<String>,
    },
    /// What [`Action::Fetch`] asked for, or why it cannot be had.
    Fetched {
        /// For which connection.
        attempt: u64,
        /// The credential.
        credential: Result<Secret, Reason>,
    },
    /// There may be another credential where [`Action::Fetch`] has it from.
    Renewed,
    /// What carried the tag is written to the browser.
    Written {
        /// The tag.
        tag: Tag,
    },
    /// Somebody wants a connection now.
    Reconnect {
        /// Which port.
        port: PortId,
        /// The `ref` of the request.
        reference: Option<String>,
    },
    /// The connection is to end, for all ports.
    Close {
        /// Everything that is kept is to be deleted too.
        forget: bool,
        /// Direct mode: the close code to send.
        code: Option<u16>,
        /// Direct mode: the reason to send.
        reason: Option<String>,
    },
    /// A port leaves, or is gone.
    Detach {
        /// Which port.
        port: PortId,
    },
    /// The connection is made.
    Connected {
        /// Which one.
        attempt: u64,
        /// The sub-protocol that the server chose.
        protocol: Option<Arc<str>>,
    },
    /// The server sent a message.
    Frame {
        /// On which connection.
        attempt: u64,
        /// The message.
        body: Body,
    },
    /// The server says from where it could go on behind the next message, if that does not say so itself.
    Cursor {
        /// On which connection.
        attempt: u64,
        /// That place, as JSON text.
        cursor: Arc<str>,
    },
    /// What was to be sent is in the hands of the system, or on a detour in those of the server.
    Flushed {
        /// On which connection.
        attempt: u64,
        /// Bytes of all messages of the connection of which that is true.
        bytes: u64,
        /// Nothing waits any more.
        all: bool,
    },
    /// The server answered a ping.
    Pong {
        /// On which connection.
        attempt: u64,
        /// What it gave back.
        payload: [u8; PING_BYTES],
    },
    /// Any other sign of life: a ping of the server's, a pong that nobody asked for.
    Alive {
        /// On which connection.
        attempt: u64,
    },
    /// The connection ended or could not be made.
    Lost {
        /// Which one.
        attempt: u64,
        /// Why.
        reason: Reason,
    },
    /// Nothing more comes of the connection, or of the attempt to make it, whoever ended it.
    Over {
        /// Which one.
        attempt: u64,
        /// How a browser would tell it.
        close: Closed,
    },
    /// The machine slept and is awake again.
    Woke,
    /// The machine's addresses changed.
    NetworkChanged,
    /// What [`Action::Save`] asked for is on the disk.
    Saved {
        /// The number that it carried.
        ticket: u64,
    },
    /// Nothing of it is, and it will not be.
    NotSaved {
        /// The number that it carried.
        ticket: u64,
    },
    /// What [`Action::Load`] asked for.
    Loaded {
        /// The number that it carried.
        ticket: u64,
        /// The messages that could be read, in their order.
        bodies: Vec<(u64, Body)>,
        /// The highest number that was looked at.
        to: u64,
    },
    /// Whether the disk takes messages; it does until something else is said.
    Room(bool),
    /// The disk may have lost anything of what was written.
    Damaged,
    /// The daemon ends. What is to be kept must go to the disk now; nothing else is done any more.
    Stop,
}

/// Something to be done.
#[derive(Debug)]
pub enum Action {
    /// Connect; answered by [`Input::Connected`] or [`Input::Lost`], and in the end by [`Input::Over`].
    Connect {
        /// The number of this connection.
        attempt: u64,
        /// The server.
        url: Url,
        /// The sub-protocols to offer, in order.
        protocols: Vec<String>,
        /// What the upgrade is to show the server, and where.
        credential: Option<Presented>,
        /// The longest message to take, in bytes.
        max_message: usize,
        /// The way to go instead of a WebSocket.
        detour: Option<Box<Detour>>,
    },
    /// Make the next poll here.
    PollAt {
        /// On which connection.
        attempt: u64,
        /// Where, as [`Detour::url`].
        url: Url,
    },
    /// Get the credential for a connection from where it comes; answered by [`Input::Fetched`].
    Fetch {
        /// The number of the connection.
        attempt: u64,
        /// Where it comes from; not from the extension.
        source: Source,
    },
    /// Close the connection; its end needs no report.
    Disconnect {
        /// Which one.
        attempt: u64,
        /// Close code to send.
        code: u16,
        /// Why, for the log and the server.
        reason: &'static str,
    },
    /// Close the connection, or end the attempt to make it, when everything is sent that was to be sent.
    Finish {
        /// Which one.
        attempt: u64,
        /// Close code to send; with 1005 the close frame has none.
        code: u16,
        /// What the close frame is to say.
        reason: String,
    },
    /// Send a message to the server.
    ToServer {
        /// On which connection.
        attempt: u64,
        /// The message.
        body: Body,
    },
    /// Ping the server, behind everything sent before.
    Ping {
        /// On which connection.
        attempt: u64,
        /// What it must give back.
        payload: [u8; PING_BYTES],
    },
    /// Read nothing more from the server, so that it stops sending.
    Pause {
        /// On which connection.
        attempt: u64,
    },
    /// Read on.
    Resume {
        /// On which connection.
        attempt: u64,
    },
    /// Send an event to a port.
    ToExtension {
        /// Which port.
        port: PortId,
        /// The event.
        event: Event,
    },
    /// Take this to the disk, all of it or nothing, then answer with [`Input::Saved`] or [`Input::NotSaved`]. There is
    /// one at a time.
    Save {
        /// A number that grows.
        ticket: u64,
        /// What changes there.
        changes: Vec<Change>,
    },
    /// Read messages from the disk, at least one and about a mebibyte of them, then answer with [`Input::Loaded`]. There is
    /// one at a time.
    Load {
        /// A number that grows.
        ticket: u64,
        /// The number of the first.
        from: u64,
        /// The highest number.
        to: u64,
    },
    /// The session is forgotten; nothing of what was kept of it may stay.
    Forgotten,
}

/// What a driver does with a conversation, whatever its mode is.
pub trait Conversation: fmt::Debug {
    /// Something happened.
    fn handle(&mut self, input: Input, now: Now);

    /// The next thing to be done.
    fn poll_action(&mut self) -> Option<Action>;

    /// When [`Conversation::handle_timeout`] wants to be called, and what for.
    fn poll_timeout(&self) -> Option<(Duration, Timer)>;

    /// The time that [`Conversation::poll_timeout`] named has come, or another one.
    fn handle_timeout(&mut self, now: Now);

    /// The server.
    fn url(&self) -> &Url;

    /// Whether `port` has it open.
    fn is_attached(&self, port: PortId) -> bool;

    /// What `port` would have to ask for to go on elsewhere where it is here, behind what it was given; nothing if it is not
    /// attached, or if that is not possible.
    fn reopening(&self, port: PortId) -> Option<Open>;

    /// Whether an [`Input::Open`] of that content would attach the port; if not, the port would be told why.
    fn admits(&self, port: PortId, open: &Open, url: Option<&Url>) -> bool;

    /// Whether the daemon must stay for it.
    fn is_needed(&self) -> bool;

    /// Whether all is on the disk that has to be there.
    fn is_saved(&self) -> bool;

    /// Whether nothing is kept of it, not even its server.
    fn is_blank(&self) -> bool;

    /// Whether nobody would miss it: the driver may drop it.
    fn is_void(&self) -> bool;

    /// Its figures, as `status` gives them.
    fn status(&self, now: Now) -> serde_json::Value;
}

/// Which deadline [`Conversation::poll_timeout`] names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Timer {
    /// The next attempt to connect.
    Retry,
    /// A ping is due, or its answer is.
    Heartbeat,
    /// A message to the server has waited too long.
    Expiry,
    /// A full window stands for too long.
    AckOverdue,
    /// A message to the extension has waited too long, or a consumer was away for too long.
    Retention,
    /// A fresh credential is to be asked for.
    Refresh,
    /// Nobody has come for the session in a long time.
    Linger,
    /// Something is to go to the disk.
    Save,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    number: u64,
    name: Arc<str>,
    mode: Mode,
    url: Url,
    /// The sub-protocols that are offered to the server.
    protocols: Vec<String>,
    settings: Settings,
    /// What holds when the present connection is over.
    next_settings: Option<Box<Settings>>,
    epoch: Arc<str>,
    rng: fastrand::Rng,
    began: Now,
    connection: Connection,
    /// Since when the state is what it is.
    since: u64,
    attempts: u64,
    last_attempt: Duration,
    retry: Retry,
    /// When the connection was lost that has not come back yet.
    outage_since: Option<u64>,
    /// From where the server can go on, if it says so itself.
    cursors: Cursors,
    /// When the WebSocket is tried again although there is a detour.
    websocket_due: Option<Duration>,
    /// Which of its messages came already, if they say who they are.
    seen: SeenIds,
    credentials: Credentials,
    /// Whether this server has answered a ping, on whatever connection: then silence is the connection's fault.
    answers_pings: bool,
    /// Whether it has answered a ping message of its own kind (`heartbeat.reply`).
    answers_beats: bool,
    inbox: Inbox,
    outbox: Outbox,
    /// What was lost with a damaged file, and not told yet.
    lost: Losses,
    /// In memory mode there is none.
    journal: Option<Journal>,
    /// Something of the small things is to be written.
    sheet_changed: bool,
    ports: Vec<PortId>,
    /// When the last port left.
    deserted: Option<Duration>,
    /// Nothing is kept yet, or any more: since it was made or forgotten, nobody has opened it, connected or sent anything.
    blank: bool,
    figures: Figures,
    actions: VecDeque<Action>,
}

impl Session {
    /// A new session, not yet connected; its first input should be an [`Input::Open`].
    #[must_use]
    pub fn new(birth: Birth, now: Now) -> Self {
        let Birth { number, name, mode, url, settings, seed } = birth;
        let mut rng = fastrand::Rng::with_seed(seed);
        let durable = mode == Mode::Durable;
        let (inbox, outbox) = (Inbox::new(Arc::clone(&name), settings.inbox.clone()), Outbox::new(&settings));
        Self {
            number,
            inbox: if durable { inbox.on_disk() } else { inbox },
            outbox: if durable { outbox.on_disk() } else { outbox },
            lost: Losses::default(),
            journal: durable.then(Journal::default),
            seen: SeenIds::new(settings.dialect.dedupe.clone(), durable),
            sheet_changed: false,
            name,
            mode,
            url,
            protocols: Vec::new(),
            settings,
            next_settings: None,
            epoch: new_epoch(&mut rng),
            rng,
            began: now,
            connection: Connection::Closed,
            since: now.unix_ms,
            attempts: 0,
            last_attempt: Duration::ZERO,
            retry: Retry::default(),
            outage_since: None,
            cursors: Cursors::default(),
            websocket_due: None,
            credentials: Credentials::default(),
            answers_pings: false,
            answers_beats: false,
            ports: Vec::new(),
            deserted: Some(now.elapsed),
            blank: true,
            figures: Figures::default(),
            actions: VecDeque::new(),
        }
    }
}

impl Conversation for Session {
    fn url(&self) -> &Url {
        &self.url
    }

    fn is_attached(&self, port: PortId) -> bool {
        self.ports.contains(&port)
    }

    fn reopening(&self, port: PortId) -> Option<Open> {
        self.reopening_of(port)
    }

    fn admits(&self, port: PortId, open: &Open, url: Option<&Url>) -> bool {
        self.refusal(port, open, url).is_none()
    }

    /// A port is attached, or one may come back for what is kept nowhere else.
    fn is_needed(&self) -> bool {
        !self.ports.is_empty()
            || !matches!(self.connection, Connection::Closed)
            || !self.is_saved()
            || (self.journal.is_none() && (!self.outbox.is_empty() || self.inbox.has_messages()))
    }

    fn is_saved(&self) -> bool {
        self.blank || self.journal.as_ref().is_none_or(|journal| self.is_done(journal))
    }

    fn is_blank(&self) -> bool {
        self.blank
    }

    fn is_void(&self) -> bool {
        self.blank && self.ports.is_empty()
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Duration, Timer)> {
        self.deadlines().min()
    }

    fn handle_timeout(&mut self, now: Now) {
        self.debug_assert_drained();
        if self.deserted_until().is_some_and(|until| until <= now.elapsed) {
            if matches!(self.connection, Connection::Closed) {
                self.forget();
            } else {
                self.close("no port came back", now);
            }
        }
        self.connection_timeout(now);
        self.refresh_credential(now);
        self.outbox.expire(now);
        self.send_receipts();
        self.inbox.retain(now.elapsed);
        self.deliver(now);
        for port in self.inbox.take_overdue(now.elapsed) {
            let message = "the window of unacknowledged messages has been full for 10 s, so nothing more is delivered; \
                           acknowledge with `ack` what has been processed, or open with `ack: \"auto\"`";
            self.tell(port, Problem::new(Code::AckOverdue, message), None);
        }
        self.pause_or_resume(now);
        self.keep(now);
    }

    fn handle(&mut self, input: Input, now: Now) {
        self.debug_assert_drained();
        match input {
            Input::Frame { attempt, body } => self.handle_frame(attempt, body, now),
            Input::Cursor { attempt, cursor } => self.handle_cursor(attempt, cursor),
            Input::Ack { port, seq, epoch, reference } => self.handle_ack(port, seq, epoch.as_deref(), reference),
            Input::Written { tag } => self.inbox.written(tag.attachment, tag.seq),
            Input::Send { port, send, reference } => self.handle_send(port, send, reference, now),
            Input::Pong { attempt, payload } => self.handle_pong(attempt, payload, now),
            Input::Flushed { attempt, all: true, .. } => self.handle_flushed(attempt, now),
            Input::Alive { attempt } => {
                if let Some(live) = self.live(attempt) {
                    live.heard = now.elapsed;
                }
            }
            Input::Saved { ticket } => self.handle_saved(ticket, now),
            Input::NotSaved { ticket } => self.handle_not_saved(ticket, now),
            Input::Loaded { ticket, bodies, to } => self.handle_loaded(ticket, bodies, to),
            Input::Room(room) => self.handle_room(room),
            Input::Damaged => {
                self.inbox.disk_was_damaged();
                self.outbox.disk_was_damaged();
                self.seen.disk_was_damaged();
            }
            Input::Stop => return self.stop(now),
            Input::Open { port, open, url, settings, reference } => {
                self.handle_open(port, *open, url, settings, reference, now);
            }
            Input::Configure { settings } => {
                self.configure(settings, now);
                self.ask_again(now);
            }
            Input::Subscribe { port, key, payload, reference } => {
                self.handle_subscribe(port, key, payload, reference, now);
            }
            Input::Unsubscribe { port, key, payload, reference } => {
                self.handle_unsubscribe(port, &key, payload, reference, now);
            }
            Input::Token { port, token, expires_at, reference } => {
                self.handle_token(port, token, expires_at, reference, now);
            }
            Input::Fetched { attempt, credential } => self.handle_fetched(attempt, credential, now),
            Input::Renewed => self.handle_renewed(now),
            Input::Detach { port } => self.detach(port, now),
            Input::Reconnect { port, reference } => self.handle_reconnect(port, reference, now),
            Input::Close { forget, .. } => {
                self.close("closed on request", now);
                if forget {
                    self.forget();
                }
                self.hurry();
            }
            Input::Connected { attempt, protocol } => self.handle_connected(attempt, protocol, now),
            // What is in the hands of the system is of no use before all is; how a browser would tell the end is for
            // those who asked for a browser's WebSocket.
            Input::Flushed { .. } | Input::Over { .. } => {}
            Input::Lost { attempt, reason } => self.handle_lost(attempt, reason, now),
            Input::Woke => self.distrust(Suspicion::Sleep, now),
            Input::NetworkChanged => self.distrust(Suspicion::NetworkChange, now),
        }
        self.deliver(now);
        self.pause_or_resume(now);
        self.keep(now);
    }

    fn status(&self, now: Now) -> serde_json::Value {
        self.figures(now)
    }
}

impl Session {
    /// Each action of the last input is taken before the next one, or order is lost.
    fn debug_assert_drained(&self) {
        debug_assert!(self.actions.is_empty(), "actions were not taken: {:?}", self.actions);
    }

    fn deadlines(&self) -> impl Iterator<Item = (Duration, Timer)> {
        let deadlines = [
            self.connection_due(),
            self.outbox.expires_at().map(|at| (at, Timer::Expiry)),
            self.credentials.refresh_at().map(|at| (at, Timer::Refresh)),
            self.inbox.overdue_at().map(|at| (at, Timer::AckOverdue)),
            self.inbox.retained_until().map(|at| (at, Timer::Retention)),
            self.deserted_until().map(|at| (at, Timer::Linger)),
            self.save_due().map(|at| (at, Timer::Save)),
        ];
        deadlines.into_iter().flatten()
    }

    /// Those that hold from the next connection on: whoever opened with them speaks by them already.
    fn coming_settings(&self) -> &Settings {
        self.next_settings.as_deref().unwrap_or(&self.settings)
    }

    /// Other settings hold as soon as no connection lives by the present ones.
    fn configure(&mut self, settings: Box<Settings>, now: Now) {
        if matches!(self.connection, Connection::Open(_)) {
            self.next_settings = Some(settings);
        } else {
            self.apply(*settings, now);
        }
    }

    fn apply(&mut self, settings: Settings, now: Now) {
        self.next_settings = None;
        self.retry.configure(&settings.reconnect, now.elapsed);
        self.inbox.configure(settings.inbox.clone());
        self.outbox.configure(&settings);
        let place = |settings: &Settings| settings.dialect.resume.as_ref().map(|resume| resume.cursor.clone());
        if place(&settings) != place(&self.settings) {
            self.cursors = Cursors::default();
        }
        self.seen.configure(settings.dialect.dedupe.as_ref());
        if settings.source() != self.settings.source() {
            // What came from there may go where that was to be shown, and nowhere else.
            self.credentials = Credentials::default();
        }
        self.settings = settings;
    }

    /// When it counts that no port has come back: first the connection is closed, much later the session is forgotten.
    fn deserted_until(&self) -> Option<Duration> {
        let since = self.deserted.filter(|_| !self.blank)?;
        let patience = if matches!(self.connection, Connection::Closed) { UNOPENED } else { self.settings.linger };
        Some(since.saturating_add(patience))
    }

    /// Deletes everything that is kept. Ports that are attached stay, and are told that an epoch begins.
    fn forget(&mut self) {
        self.inbox.clear();
        self.outbox.clear(&self.settings);
        self.protocols.clear();
        self.epoch = new_epoch(&mut self.rng);
        self.outage_since = None;
        (self.cursors, self.credentials) = (Cursors::default(), Credentials::default());
        self.seen = SeenIds::new(self.settings.dialect.dedupe.clone(), self.journal.is_some());
        self.retry.learn_window(None);
        (self.answers_pings, self.answers_beats) = (false, false);
        self.blank = true;
        self.lost = Losses::default();
        if let Some(journal) = &mut self.journal {
            journal.begin_anew();
        }
        self.actions.push_back(Action::Forgotten);
        self.tell_new_epoch();
    }
}

fn new_epoch(rng: &mut fastrand::Rng) -> Arc<str> {
    format!("{:016x}", rng.u64(..)).into()
}

/// Whether two URLs name the same server: path and query may differ.
fn same_server(one: &Url, other: &Url) -> bool {
    (one.scheme(), one.host(), one.port_or_known_default())
        == (other.scheme(), other.host(), other.port_or_known_default())
}

/// Scheme, host and port, for an error text.
fn server_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}
