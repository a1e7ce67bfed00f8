//! Direct mode: the plain WebSocket of one port, for a class that stands in for the browser's own.
//!
//! Owns: what such a WebSocket may be asked at which time, how much may wait in either direction, and the count behind
//! `bufferedAmount`. Keeps nothing and promises nothing: no numbers, no receipts, no second attempt, no heartbeat. Does
//! not own the closing handshake and its time-outs, which are the connection's (`server`).
//!
//! It has one port and one connection, so it does not look at which one an input is about. The last thing it says to its
//! port is `closed`, once; then it is void.

use serde_json::json;

use super::figures::shown;
use super::*;
use crate::wire::event::StateReport;
use crate::wire::{NO_CLOSE_CODE, State, WINDOW};

/// The number of the only connection.
const ATTEMPT: u64 = 1;

/// What a message takes of memory beside its content while it waits, about: many empty ones are not nothing.
const ENVELOPE: u64 = 128;

/// What a browser's own WebSocket sends when its page goes away.
const GOING_AWAY: u16 = 1001;

/// A plain WebSocket.
#[derive(Debug)]
pub struct Direct {
    number: u64,
    name: Arc<str>,
    url: Url,
    settings: Settings,
    port: PortId,
    phase: Phase,
    /// Since when the state is what it is, in milliseconds since 1970.
    since: u64,
    began: Now,
    connected_at: Option<u64>,
    /// Why there is no connection any more, if this side did not want it so.
    reason: Option<Reason>,
    to_server: ToServer,
    to_extension: ToExtension,
    actions: VecDeque<Action>,
}

#[derive(Debug, PartialEq)]
enum Phase {
    /// Not opened yet.
    New,
    Connecting,
    Open {
        /// The sub-protocol that the server chose.
        protocol: Option<Arc<str>>,
    },
    /// The connection is lost, or this side wants it to end.
    Closing,
    Closed,
}

/// Messages to the server, which are in the hands of the connection as soon as they come.
#[derive(Debug, Default)]
struct ToServer {
    messages: u64,
    bytes: u64,
    /// Bytes of those that the system has.
    sent: u64,
    /// For each of the others how many bytes there are up to its end.
    ends: VecDeque<u64>,
}

/// What goes to the extension.
#[derive(Debug, Default)]
struct ToExtension {
    messages: u64,
    bytes: u64,
    /// Bytes of memory that everything took so far, and of that how many are written to the browser.
    given: u64,
    written: u64,
    /// The server is not read.
    paused: bool,
    /// The last count of sent bytes that was told, and where it ends in what was given until it is written. One is on its
    /// way at a time, so that a slow port gets fewer of them and not later ones.
    told: u64,
    telling: Option<u64>,
}

impl ToServer {
    /// What waits here takes so much of `queue.max_bytes`.
    fn waiting(&self) -> u64 {
        self.bytes - self.sent + ENVELOPE * self.ends.len() as u64
    }
}

impl Direct {
    /// A WebSocket of `port` that is not opened yet; its first input must be an [`Input::Open`].
    #[must_use]
    pub fn new(birth: Birth, port: PortId, now: Now) -> Self {
        let Birth { number, name, url, settings, mode: _, seed: _ } = birth;
        Self {
            number,
            name,
            url,
            settings,
            port,
            phase: Phase::New,
            since: now.unix_ms,
            began: now,
            connected_at: None,
            reason: None,
            to_server: ToServer::default(),
            to_extension: ToExtension::default(),
            actions: VecDeque::new(),
        }
    }

    /// The settings that mean something here.
    #[must_use]
    pub fn knows_setting(path: &str) -> bool {
        matches!(path, "queue.max_bytes" | "inbox.max_message_bytes")
    }

    fn handle_open(&mut self, open: Open, settings: Option<Box<Settings>>, reference: Option<String>, now: Now) {
        if let Some(field) = foreign_field(&open) {
            return self.refuse(field, reference);
        }
        if let Some(settings) = settings {
            self.settings = *settings;
        }
        let session = Arc::clone(&self.name);
        self.tell(Event::Opening { reference, session });
        self.enter(Phase::Connecting, now);
        self.actions.push_back(Action::Connect {
            credential: None,
            attempt: ATTEMPT,
            url: self.url.clone(),
            protocols: open.protocols.unwrap_or_default(),
            max_message: self.settings.inbox.max_message_bytes,
            detour: None,
        });
    }

    fn handle_connected(&mut self, protocol: Option<Arc<str>>, now: Now) {
        if self.phase == Phase::Connecting {
            self.connected_at = Some(now.unix_ms);
            self.enter(Phase::Open { protocol }, now);
        }
    }

    fn handle_send(&mut self, send: Send, reference: Option<String>, now: Now) {
        if !matches!(self.phase, Phase::Open { .. }) {
            let why = if self.phase == Phase::Connecting {
                "is not connected yet; wait for `state` `connected`"
            } else {
                "is being closed; open another one"
            };
            let message = format!("session `{}` {why}. The message was not sent", self.name);
            return self.tell_problem(Problem::new(Code::NotConnected, message), reference);
        }
        // Whoever asks for what never comes would wait for it.
        if send.id.is_some() || send.receipts.is_some_and(|receipts| !receipts.is_empty()) {
            return self.refuse("receipts (`id`, `receipts`)", reference);
        }
        if send.ttl_ms.is_some() {
            return self.refuse("`ttl_ms`", reference);
        }
        let (length, limit) = (send.body.len() as u64, self.settings.queue.max_bytes);
        if self.to_server.waiting() + length > limit as u64 {
            let message = format!(
                "more than {limit} bytes (`queue.max_bytes`) wait for {}, so session `{}` is closed, as a browser's own \
                 WebSocket would be; look at `bufferedAmount` (`sent`) before you send more",
                server_of(&self.url),
                self.name
            );
            // Elsewhere there is room again later; here the session is over.
            let problem = Problem { retryable: false, ..Problem::new(Code::QueueFull, message) };
            self.tell_problem(problem, reference);
            let reason = "too much waits to be sent";
            self.actions.push_back(Action::Disconnect { attempt: ATTEMPT, code: GOING_AWAY, reason });
            return self.enter(Phase::Closing, now);
        }
        self.to_server.messages += 1;
        self.to_server.bytes += length;
        self.to_server.ends.push_back(self.to_server.bytes);
        self.actions.push_back(Action::ToServer { attempt: ATTEMPT, body: send.body });
    }

    fn handle_flushed(&mut self, bytes: u64) {
        let Self { to_server, .. } = self;
        to_server.sent = bytes;
        while to_server.ends.front().is_some_and(|end| *end <= bytes) {
            to_server.ends.pop_front();
        }
        self.tell_sent();
    }

    fn handle_frame(&mut self, body: Body, now: Now) {
        self.to_extension.messages += 1;
        self.to_extension.bytes += body.len() as u64;
        let tag = self.give(body.len());
        let (session, at, body) = (Arc::clone(&self.name), now.unix_ms, body.into_text());
        self.tell(Event::Frame { session, at, body, tag });
        self.pause_or_resume();
    }

    fn handle_written(&mut self, end: u64) {
        self.to_extension.written = end;
        if self.to_extension.telling.take_if(|told| *told <= end).is_some() {
            self.tell_sent();
        }
        self.pause_or_resume();
    }

    /// Begins the closing handshake, behind everything that was sent; or gives up an attempt to connect.
    fn finish(&mut self, code: u16, reason: String, now: Now) {
        if matches!(self.phase, Phase::Connecting | Phase::Open { .. }) {
            self.enter(Phase::Closing, now);
            self.actions.push_back(Action::Finish { attempt: ATTEMPT, code, reason });
        }
    }

    fn handle_over(&mut self, close: Closed) {
        self.phase = Phase::Closed;
        let session = Arc::clone(&self.name);
        self.tell(Event::Closed { session, close });
    }

    fn enter(&mut self, phase: Phase, now: Now) {
        self.phase = phase;
        self.since = now.unix_ms;
        let (session, state) = (Arc::clone(&self.name), Box::new(self.report()));
        self.tell(Event::State { session, state });
    }

    fn report(&self) -> StateReport {
        let (state, protocol) = match &self.phase {
            Phase::Connecting => (State::Connecting, None),
            Phase::Open { protocol } => (State::Connected, protocol.clone()),
            Phase::New | Phase::Closing | Phase::Closed => (State::Disconnected, None),
        };
        StateReport { state, since: self.since, attempt: None, retry_at: None, protocol, reason: self.reason.clone() }
    }

    /// How much the system has, unless it is known or the last count is still on its way.
    fn tell_sent(&mut self) {
        let bytes = self.to_server.sent;
        if self.to_extension.told == bytes || self.to_extension.telling.is_some() {
            return;
        }
        let tag = self.give(0);
        self.to_extension.told = bytes;
        self.to_extension.telling = Some(tag.seq);
        let session = Arc::clone(&self.name);
        self.tell(Event::Sent { session, bytes, tag });
    }

    /// What comes next takes so many bytes; its tag tells when they are written.
    fn give(&mut self, length: usize) -> Tag {
        self.to_extension.given += length as u64 + ENVELOPE;
        Tag { session: self.number, attachment: 0, seq: self.to_extension.given }
    }

    /// Reads nothing from the server while a window is full of what it sent.
    fn pause_or_resume(&mut self) {
        let ToExtension { given, written, paused, .. } = &mut self.to_extension;
        let wanted = *given - *written >= WINDOW.bytes;
        if *paused == wanted {
            return;
        }
        *paused = wanted;
        let attempt = ATTEMPT;
        self.actions.push_back(if wanted { Action::Pause { attempt } } else { Action::Resume { attempt } });
    }

    /// The port asked for what only a session has that keeps something.
    fn refuse(&mut self, what: &str, reference: Option<String>) {
        let message = format!(
            "session `{}` is in direct mode, a plain WebSocket, which has no {what}; leave it out, or open a session in \
             durable or memory mode",
            self.name
        );
        self.tell_problem(Problem::new(Code::Unsupported, message), reference);
    }

    fn tell_problem(&mut self, problem: Problem, reference: Option<String>) {
        let event = problem.about(&*self.name).answering(reference).into();
        self.tell(event);
    }

    fn tell(&mut self, event: Event) {
        self.actions.push_back(Action::ToExtension { port: self.port, event });
    }
}

/// What only a session has that keeps something.
fn foreign_field(open: &Open) -> Option<&'static str> {
    if open.observe {
        return Some("`observe`");
    }
    if !open.connect {
        return Some("`connect: false`");
    }
    open.after.is_some().then_some("`after`")
}

impl Conversation for Direct {
    fn handle(&mut self, input: Input, now: Now) {
        match input {
            Input::Frame { body, .. } => self.handle_frame(body, now),
            Input::Written { tag } => self.handle_written(tag.seq),
            Input::Send { send, reference, .. } => self.handle_send(send, reference, now),
            Input::Flushed { bytes, .. } => self.handle_flushed(bytes),
            Input::Open { open, settings, reference, .. } => self.handle_open(*open, settings, reference, now),
            Input::Connected { protocol, .. } => self.handle_connected(protocol, now),
            Input::Close { code, reason, forget: _ } => {
                let reason = reason.unwrap_or_default();
                // As the browser's own does it.
                let code = code.unwrap_or(if reason.is_empty() { NO_CLOSE_CODE } else { 1000 });
                self.finish(code, reason, now);
            }
            Input::Detach { .. } => self.finish(GOING_AWAY, String::new(), now),
            Input::Lost { reason, .. } => {
                self.reason = Some(Reason { retryable: false, ..reason });
                self.enter(Phase::Closing, now);
            }
            Input::Over { close, .. } => self.handle_over(close),
            Input::Ack { reference, .. } => self.refuse("`ack`", reference),
            Input::Subscribe { reference, .. } => self.refuse("`subscribe`", reference),
            Input::Unsubscribe { reference, .. } => self.refuse("`unsubscribe`", reference),
            Input::Token { reference, .. } => self.refuse("`token`", reference),
            Input::Reconnect { reference, .. } => self.refuse("`reconnect`", reference),
            // A browser's own WebSocket does not ping, does not look at the network, and is what it was made as.
            Input::Configure { .. }
            | Input::Pong { .. }
            | Input::Alive { .. }
            | Input::Cursor { .. }
            | Input::Woke
            | Input::NetworkChanged
            | Input::Fetched { .. }
            | Input::Renewed
            | Input::Saved { .. }
            | Input::NotSaved { .. }
            | Input::Loaded { .. }
            | Input::Room(_)
            | Input::Damaged
            | Input::Stop => {}
        }
    }

    fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<(Duration, Timer)> {
        None
    }

    fn handle_timeout(&mut self, _: Now) {}

    fn url(&self) -> &Url {
        &self.url
    }

    fn is_attached(&self, port: PortId) -> bool {
        self.port == port && !self.is_void()
    }

    fn reopening(&self, _: PortId) -> Option<Open> {
        None
    }

    fn admits(&self, _: PortId, open: &Open, _: Option<&Url>) -> bool {
        foreign_field(open).is_none()
    }

    /// Until the end, so that the server hears of it when the port is gone.
    fn is_saved(&self) -> bool {
        true
    }

    fn is_needed(&self) -> bool {
        !self.is_void()
    }

    fn is_blank(&self) -> bool {
        self.is_void()
    }

    fn is_void(&self) -> bool {
        matches!(self.phase, Phase::New | Phase::Closed)
    }

    fn status(&self, now: Now) -> serde_json::Value {
        let Self { to_server, to_extension, .. } = self;
        let report = self.report();
        json!({
            "session": &*self.name,
            "mode": Mode::Direct.as_str(),
            "url": shown(&self.url),
            "state": report.state,
            "since": report.since,
            "protocol": report.protocol,
            "reason": report.reason,
            "connected_at": self.connected_at,
            "messages_received": to_extension.messages,
            "messages_sent": to_server.messages,
            "bytes_received": to_extension.bytes,
            "bytes_sent": to_server.sent,
            "uptime_ms": now.elapsed.saturating_sub(self.began.elapsed).as_millis() as u64,
            "health": match self.phase {
                Phase::Open { .. } => 100,
                Phase::Connecting => 40,
                _ => 0,
            },
            "inbox": { "bytes": to_extension.given - to_extension.written },
            "outbox": { "messages": to_server.ends.len(), "bytes": to_server.bytes - to_server.sent },
            "settings": {
                "queue": { "max_bytes": self.settings.queue.max_bytes },
                "inbox": { "max_message_bytes": self.settings.inbox.max_message_bytes },
            },
        })
    }
}
