//! The session: the durable conversation of one extension with one server, as a state machine without I/O.
//!
//! Owns: what is sent to whom and when, when to connect, what a loss means, what is kept until it is acknowledged.
//! Does not own: sockets, files, clocks and randomness. It is told what happened ([`Session::handle`]) and what time it
//! is, and says what is to be done ([`Session::poll_action`]) and when it wants to be woken
//! ([`Session::poll_timeout`], [`Session::handle_timeout`]). After each call of a `handle…` method all actions must be
//! taken before the next one.
//!
//! Nothing that comes in can be an error that a driver might drop: bad input becomes an action that tells the port.
//! Each connection has an attempt number; what an older attempt reports is ignored.
//!
//! Inside: [`inbox`](self) keeps what came and who has read how far, `outbox` what is to be sent and what became of it,
//! `backoff` how long to wait. What a promise depends on goes out as [`Action::Persist`] and the promise is made when
//! [`Input::Persisted`] comes back.

#![deny(clippy::disallowed_methods)]

mod backoff;
mod inbox;
mod outbox;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use url::Url;

use crate::wire::event::{Event, Opened, Problem, Reason, State, StateReport};
use crate::wire::{Body, Code, MAX_CONSUMERS, Open, PING_BYTES, Send, WINDOW};
use backoff::Backoff;
use inbox::{Content, Inbox};
use outbox::{Outbox, Queued};

/// How long a silent server is left alone before it is pinged.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(25);
/// How long a server has to answer a ping.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the connection is kept with no port attached.
const LINGER: Duration = Duration::from_secs(24 * 60 * 60);
/// The least time between two attempts that an extension asks for.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// A moment, as the driver's clocks tell it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Now {
    /// Since some moment before the session began; never goes back. All deadlines are in this.
    pub elapsed: Duration,
    /// Milliseconds since 1970, for people and other machines; may jump.
    pub unix_ms: u64,
}

/// A port of the extension, as the driver numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortId(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Input {
    /// A port asks to be attached; the driver has checked that the server is allowed.
    Open {
        /// Which port.
        port: PortId,
        /// What it asks for.
        open: Open,
        /// The server that it names.
        url: Option<Url>,
        /// The `ref` of the request.
        reference: Option<String>,
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
    /// The message with the token is written to the browser.
    Written {
        /// Which port.
        port: PortId,
        /// Its number.
        seq: u64,
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
    /// Everything that was to be sent so far is in the hands of the system.
    Flushed {
        /// On which connection.
        attempt: u64,
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
    /// What [`Action::Persist`] asked for is done.
    Persisted {
        /// The number that it carried.
        number: u64,
    },
}

/// Something to be done.
#[derive(Debug)]
pub enum Action {
    /// Connect; answered by [`Input::Connected`] or [`Input::Lost`].
    Connect {
        /// The number of this connection.
        attempt: u64,
        /// The server.
        url: Url,
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
    /// Send an event to a port.
    ToExtension {
        /// Which port.
        port: PortId,
        /// The event.
        event: Event,
    },
    /// Keep this message to the server safely, then answer with [`Input::Persisted`].
    Persist {
        /// The number of the message in the queue.
        number: u64,
        /// The message.
        body: Body,
    },
    /// The session is forgotten; nothing of it may be kept.
    Forgotten,
}

/// Which deadline [`Session::poll_timeout`] names.
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
    /// Nobody has come for the session in a long time.
    Linger,
}

/// State of the connection.
#[derive(Debug)]
enum Connection {
    /// Closed on request, or because no port came back.
    Closed,
    /// An attempt is under way; `again` if an earlier one failed or its connection was lost.
    Dialling { attempt: u64, again: bool },
    /// It is made.
    Open(Box<Live>),
    /// The next attempt has its time.
    Waiting { until: Duration, retry_at: u64, reason: Reason },
    /// No attempt will be made by itself.
    Parked { reason: Reason },
}

/// A connection that is made.
#[derive(Debug)]
struct Live {
    attempt: u64,
    protocol: Option<Arc<str>>,
    since: Duration,
    since_ms: u64,
    /// When the server was last heard.
    heard: Duration,
    nonce: [u8; 4],
    ping: Option<Ping>,
    /// Whether this server answers pings: unknown until it once does or its time is over.
    answers: Option<bool>,
    /// Everything sent is in the hands of the system.
    flushed: bool,
    latency: Option<Duration>,
}

/// A ping without an answer yet. There is one at a time: its pong proves all before it.
#[derive(Debug)]
struct Ping {
    sent: Duration,
    number: u64,
}

/// Figures for `status`, over the life of the session in this daemon.
#[derive(Debug, Default)]
struct Figures {
    messages_received: u64,
    bytes_received: u64,
    messages_sent: u64,
    bytes_sent: u64,
    connections: u64,
    errors: u64,
    last_ping_at: Option<u64>,
    last_pong_at: Option<u64>,
}

/// One session.
#[derive(Debug)]
pub struct Session {
    /// The driver's number for this session; goes out with what is acknowledged when it is written.
    token: u64,
    name: Arc<str>,
    url: Url,
    memory: bool,
    epoch: Arc<str>,
    rng: fastrand::Rng,
    began: Now,
    connection: Connection,
    /// Since when the state is what it is.
    since: u64,
    attempts: u64,
    last_attempt: Duration,
    backoff: Backoff,
    /// When the connection was lost that has not come back yet.
    outage_since: Option<u64>,
    /// Whether this server has answered a ping, on whatever connection: then silence is the connection's fault.
    answers_pings: bool,
    inbox: Inbox,
    outbox: Outbox,
    ports: Vec<PortId>,
    /// When the last port left.
    deserted: Option<Duration>,
    figures: Figures,
    actions: VecDeque<Action>,
}

impl Session {
    /// A new session, not yet connected; its first input should be an [`Input::Open`]. `token` is the driver's number for
    /// it, which events carry that want an [`Input::Written`]. `seed` must be random: epoch and jitter are drawn from it.
    #[must_use]
    pub fn new(token: u64, name: &str, url: Url, memory: bool, seed: u64, now: Now) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let epoch: Arc<str> = format!("{:016x}", rng.u64(..)).into();
        let name: Arc<str> = name.into();
        Self {
            token,
            inbox: Inbox::new(Arc::clone(&name)),
            name,
            url,
            memory,
            epoch,
            rng,
            began: now,
            connection: Connection::Closed,
            since: now.unix_ms,
            attempts: 0,
            last_attempt: Duration::ZERO,
            backoff: Backoff::default(),
            outage_since: None,
            answers_pings: false,
            outbox: Outbox::default(),
            ports: Vec::new(),
            deserted: Some(now.elapsed),
            figures: Figures::default(),
            actions: VecDeque::new(),
        }
    }

    /// The server of this session.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Whether the daemon must stay for this session: a port is attached, or one may come back for what is kept.
    #[must_use]
    pub fn is_needed(&self) -> bool {
        !self.ports.is_empty()
            || !matches!(self.connection, Connection::Closed)
            || !self.inbox.is_empty()
            || !self.outbox.is_empty()
    }

    /// The next thing to be done.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Session::handle_timeout`] wants to be called, and what for.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Duration, Timer)> {
        let connection = match &self.connection {
            Connection::Waiting { until, .. } => Some((*until, Timer::Retry)),
            Connection::Open(live) => Some((live.due(), Timer::Heartbeat)),
            _ => None,
        };
        [
            connection,
            self.outbox.expires_at().map(|at| (at, Timer::Expiry)),
            self.inbox.overdue_at().map(|at| (at, Timer::AckOverdue)),
            self.lingers_until().map(|at| (at, Timer::Linger)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The time that [`Session::poll_timeout`] named has come, or another one.
    pub fn handle_timeout(&mut self, now: Now) {
        self.debug_assert_drained();
        if self.lingers_until().is_some_and(|until| until <= now.elapsed) {
            self.close("no port came back", now);
        }
        match &self.connection {
            Connection::Waiting { until, .. } if *until <= now.elapsed => self.dial(now),
            Connection::Open(live) if live.due() <= now.elapsed => self.heartbeat(now),
            _ => {}
        }
        self.outbox.expire(now.elapsed);
        self.send_receipts();
        for port in self.inbox.take_overdue(now.elapsed) {
            let message = "the window of unacknowledged messages has been full for 10 s, so nothing more is delivered; \
                           acknowledge with `ack` what has been processed, or open with `ack: \"auto\"`";
            self.tell(port, Problem::new(Code::AckOverdue, message), None);
        }
    }

    /// Something happened.
    pub fn handle(&mut self, input: Input, now: Now) {
        self.debug_assert_drained();
        match input {
            Input::Frame { attempt, body } => self.handle_frame(attempt, body, now),
            Input::Ack { port, seq, epoch, reference } => self.handle_ack(port, seq, epoch.as_deref(), reference, now),
            Input::Written { port, seq } => {
                if self.inbox.written(port, seq) {
                    self.deliver(now);
                }
            }
            Input::Send { port, send, reference } => self.handle_send(port, send, reference, now),
            Input::Pong { attempt, payload } => self.handle_pong(attempt, payload, now),
            Input::Flushed { attempt } => {
                if let Some(live) = self.live(attempt) {
                    live.flushed = true;
                    self.confirm(now);
                    self.send_receipts();
                }
            }
            Input::Alive { attempt } => {
                if let Some(live) = self.live(attempt) {
                    live.heard = now.elapsed;
                }
            }
            Input::Persisted { number } => {
                self.outbox.stored(number);
                self.send_receipts();
            }
            Input::Open { port, open, url, reference } => self.handle_open(port, open, url, reference, now),
            Input::Detach { port } => self.detach(port, now),
            Input::Reconnect { port, reference } => self.handle_reconnect(port, reference, now),
            Input::Close { forget } => {
                self.close("closed on request", now);
                if forget {
                    self.actions.push_back(Action::Forgotten);
                }
            }
            Input::Connected { attempt, protocol } => self.handle_connected(attempt, protocol, now),
            Input::Lost { attempt, reason } => self.handle_lost(attempt, reason, now),
        }
    }

    /// Each action of the last input is taken before the next one, or order is lost.
    fn debug_assert_drained(&self) {
        debug_assert!(self.actions.is_empty(), "actions were not taken: {:?}", self.actions);
    }
}

/// The extension's side.
impl Session {
    fn handle_open(&mut self, port: PortId, open: Open, url: Option<Url>, reference: Option<String>, now: Now) {
        let mut url_changed = false;
        if let Some(url) = url {
            if !same_server(&self.url, &url) {
                let message = format!(
                    "session `{}` belongs to {}; close it with `forget: true` first, or use another name for {}",
                    self.name,
                    server_of(&self.url),
                    server_of(&url)
                );
                return self.tell(port, Problem::new(Code::UrlDiffers, message), reference);
            }
            url_changed = self.url != url;
            self.url = url;
        }
        if !self.inbox.admits(&open.consumer) {
            let message = format!(
                "session `{}` has {MAX_CONSUMERS} consumers, which is the limit, and `{}` is none of them; a consumer's name \
                 belongs to a reader that comes back, not to each of its lives",
                self.name, open.consumer
            );
            return self.tell(port, Problem::new(Code::TooManyConsumers, message), reference);
        }
        let place = self.inbox.attach(port, &open.consumer, open.acknowledge, open.as_text);
        if let Some(older) = place.superseded.filter(|older| *older != port) {
            self.ports.retain(|attached| *attached != older);
            let message = format!("another port opened session `{}` as consumer `{}`", self.name, open.consumer);
            self.tell(older, Problem::new(Code::Superseded, message), None);
        }
        if !self.ports.contains(&port) {
            self.ports.push(port);
        }
        self.deserted = None;
        let (connect, state) = match self.connection {
            Connection::Closed => (true, State::Connecting),
            // Somebody has changed what it may have waited for.
            Connection::Parked { .. } if url_changed => (true, State::Reconnecting),
            _ => (false, self.state()),
        };
        let opened = Opened {
            reference,
            session: Arc::clone(&self.name),
            epoch: Arc::clone(&self.epoch),
            state,
            head: self.inbox.head(),
            acked: place.acked,
            pending: place.pending,
            ack: open.acknowledge.as_str(),
            window: WINDOW,
        };
        self.actions.push_back(Action::ToExtension { port, event: Event::Opened(Box::new(opened)) });
        if connect {
            self.dial(now);
        } else {
            let state = Box::new(self.report());
            self.actions.push_back(Action::ToExtension {
                port,
                event: Event::State { session: Arc::clone(&self.name), state },
            });
        }
        self.outbox.report_to(port, &open.consumer);
        self.send_receipts();
        self.deliver(now);
    }

    fn handle_send(&mut self, port: PortId, send: Send, reference: Option<String>, now: Now) {
        let Some(consumer) = self.inbox.consumer_of(port) else { return self.tell_unknown(port, reference) };
        let body = send.body.clone();
        match self.outbox.push(now.elapsed, port, consumer, send) {
            Queued::New(number) => {
                self.actions.push_back(Action::Persist { number, body });
                self.write_queue(now);
            }
            Queued::Repeated | Queued::Full { told: true } => {}
            Queued::Full { told: false } => {
                let message = format!(
                    "the queue of session `{}` towards the server is full; the message was not taken. Send it again when \
                     the session is connected and the queue shorter",
                    self.name
                );
                self.tell(port, Problem::new(Code::QueueFull, message), reference);
            }
        }
        self.send_receipts();
    }

    fn handle_ack(&mut self, port: PortId, seq: u64, epoch: Option<&str>, reference: Option<String>, now: Now) {
        if self.inbox.consumer_of(port).is_none() {
            return self.tell_unknown(port, reference);
        }
        if epoch.is_some_and(|epoch| epoch != &*self.epoch) {
            return;
        }
        match self.inbox.acknowledge(port, seq) {
            Ok(()) => self.deliver(now),
            Err(ahead) => {
                let message = format!(
                    "`seq` {seq} is above {}, the highest that was delivered to this port; acknowledge only what has come",
                    ahead.delivered
                );
                self.tell(port, Problem::new(Code::AckAhead, message), reference);
            }
        }
    }

    fn handle_reconnect(&mut self, port: PortId, reference: Option<String>, now: Now) {
        match self.connection {
            Connection::Dialling { .. } | Connection::Open(_) => {}
            _ if self.attempts > 0 && now.elapsed < self.last_attempt + RECONNECT_PAUSE => {
                let message = "the last attempt was less than a second ago; ask again a second later";
                self.tell(port, Problem::new(Code::RateLimited, message), reference);
            }
            _ => self.dial(now),
        }
    }

    fn detach(&mut self, port: PortId, now: Now) {
        self.inbox.detach(port);
        self.ports.retain(|attached| *attached != port);
        if self.ports.is_empty() && self.deserted.is_none() {
            self.deserted = Some(now.elapsed);
        }
    }

    fn close(&mut self, reason: &'static str, now: Now) {
        if let Some(attempt) = self.attempt() {
            self.actions.push_back(Action::Disconnect { attempt, code: 1000, reason });
        }
        self.connection_over(now);
        self.set_connection(Connection::Closed, now);
        self.send_receipts();
    }

    /// When the connection is closed because no port has come back.
    fn lingers_until(&self) -> Option<Duration> {
        let since = self.deserted.filter(|_| !matches!(self.connection, Connection::Closed))?;
        Some(since + LINGER)
    }

    fn deliver(&mut self, now: Now) {
        let Self { inbox, actions, name, token, .. } = self;
        inbox.pump(now.elapsed, |delivery| {
            let session = Arc::clone(name);
            let token = delivery.auto.then_some(*token);
            let (seq, replay) = (delivery.seq, delivery.replay);
            let event = match delivery.content {
                Content::Message(body) => Event::Message { session, seq, at: delivery.at, body, replay, token },
                Content::Gap(gap) => Event::Gap { session, seq, gap, replay, token },
            };
            actions.push_back(Action::ToExtension { port: delivery.port, event });
        });
    }

    fn send_receipts(&mut self) {
        let Self { ports, inbox, outbox, .. } = self;
        for receipt in outbox.take_receipts(|port| ports.contains(&port), |consumer| inbox.reader_of(consumer)) {
            let session = Arc::clone(&self.name);
            let event = Event::Receipt { session, stage: receipt.stage, ids: receipt.ids, reason: receipt.reason };
            self.actions.push_back(Action::ToExtension { port: receipt.port, event });
        }
    }

    fn tell(&mut self, port: PortId, problem: Problem, reference: Option<String>) {
        let event = problem.about(&*self.name).answering(reference).into();
        self.actions.push_back(Action::ToExtension { port, event });
    }

    fn tell_unknown(&mut self, port: PortId, reference: Option<String>) {
        let message = format!("this port does not read session `{}` (any more); send `open` first", self.name);
        self.tell(port, Problem::new(Code::UnknownSession, message), reference);
    }
}

/// The server's side.
impl Session {
    fn dial(&mut self, now: Now) {
        self.attempts += 1;
        self.last_attempt = now.elapsed;
        let attempt = self.attempts;
        let again = !matches!(self.connection, Connection::Closed);
        self.set_connection(Connection::Dialling { attempt, again }, now);
        self.actions.push_back(Action::Connect { attempt, url: self.url.clone() });
    }

    fn handle_connected(&mut self, attempt: u64, protocol: Option<Arc<str>>, now: Now) {
        if !matches!(self.connection, Connection::Dialling { attempt: current, .. } if current == attempt) {
            return;
        }
        self.figures.connections += 1;
        if let Some(since) = self.outage_since.take() {
            self.inbox.push_outage(since, now.unix_ms);
        }
        let live = Live {
            attempt,
            protocol,
            since: now.elapsed,
            since_ms: now.unix_ms,
            heard: now.elapsed,
            nonce: self.rng.u32(..).to_be_bytes(),
            ping: None,
            answers: self.answers_pings.then_some(true),
            flushed: true,
            latency: None,
        };
        self.set_connection(Connection::Open(Box::new(live)), now);
        self.deliver(now);
        // After the machine slept, this may come before the timer's call.
        self.outbox.expire(now.elapsed);
        self.write_queue(now);
        self.send_receipts();
    }

    fn handle_frame(&mut self, attempt: u64, body: Body, now: Now) {
        let Some(live) = self.live(attempt) else { return };
        live.heard = now.elapsed;
        self.figures.messages_received += 1;
        self.figures.bytes_received += body.len() as u64;
        self.inbox.push_message(now.unix_ms, body);
        self.deliver(now);
    }

    fn handle_pong(&mut self, attempt: u64, payload: [u8; PING_BYTES], now: Now) {
        let Some(live) = self.live(attempt) else { return };
        live.heard = now.elapsed;
        let (nonce, number) = payload.split_at(live.nonce.len());
        let number = number.try_into().map_or(0, u64::from_be_bytes);
        // A peer may answer only the newest ping, and only one is out: any other payload is not ours.
        let Some(ping) = live.ping.take_if(|ping| ping.number == number && nonce == live.nonce) else { return };
        live.answers = Some(true);
        live.latency = Some(now.elapsed.saturating_sub(ping.sent));
        self.answers_pings = true;
        self.figures.last_pong_at = Some(now.unix_ms);
        self.outbox.received(number);
        self.confirm(now);
        self.send_receipts();
    }

    /// Writes what waits, if there is a connection.
    fn write_queue(&mut self, now: Now) {
        let Connection::Open(live) = &mut self.connection else { return };
        let attempt = live.attempt;
        while let Some(item) = self.outbox.write_next() {
            live.flushed = false;
            self.figures.messages_sent += 1;
            self.figures.bytes_sent += item.body.len() as u64;
            self.actions.push_back(Action::ToServer { attempt, body: item.body.clone() });
        }
        self.confirm(now);
    }

    /// Asks the server's peer whether it has what was written: by a ping behind it, one at a time. A server that never
    /// answers pings can confirm nothing; for it, written is all that can be known.
    fn confirm(&mut self, now: Now) {
        let Connection::Open(live) = &self.connection else { return };
        let Some(number) = self.outbox.last_written() else { return };
        if live.answers == Some(false) {
            if live.flushed {
                self.outbox.received(number);
            }
        } else if live.ping.is_none() {
            self.ping(number, now);
        }
    }

    fn ping(&mut self, number: u64, now: Now) {
        let Connection::Open(live) = &mut self.connection else { return };
        live.ping = Some(Ping { sent: now.elapsed, number });
        self.figures.last_ping_at = Some(now.unix_ms);
        let mut payload = [0; PING_BYTES];
        let (nonce, rest) = payload.split_at_mut(live.nonce.len());
        nonce.copy_from_slice(&live.nonce);
        rest.copy_from_slice(&number.to_be_bytes());
        self.actions.push_back(Action::Ping { attempt: live.attempt, payload });
    }

    /// The heartbeat's time has come: a ping is due, or one was not answered in time.
    fn heartbeat(&mut self, now: Now) {
        let Connection::Open(live) = &mut self.connection else { return };
        let Some(ping) = &live.ping else {
            let number = self.outbox.last_written().unwrap_or(0);
            return self.ping(number, now);
        };
        if live.answers == Some(true) && live.heard <= ping.sent {
            let reason = Reason {
                code: "heartbeat",
                message: format!(
                    "{} did not answer a ping within {} s and sent nothing else",
                    server_of(&self.url),
                    HEARTBEAT_TIMEOUT.as_secs()
                ),
                close_code: None,
                http_status: None,
                retryable: true,
                hint: None,
            };
            let attempt = live.attempt;
            self.actions.push_back(Action::Disconnect { attempt, code: 1001, reason: "no answer to a ping" });
            return self.handle_lost(attempt, reason, now);
        }
        // It lives, or it never answers pings and is not to be dropped for that alone. The pong may still be due behind
        // a long message.
        live.ping = None;
        live.heard = now.elapsed;
        live.answers = live.answers.or(Some(false));
        self.confirm(now);
        self.send_receipts();
    }

    fn handle_lost(&mut self, attempt: u64, reason: Reason, now: Now) {
        if self.attempt() != Some(attempt) {
            return;
        }
        self.figures.errors += 1;
        self.connection_over(now);
        let next = if backoff::retryable(&reason) {
            let delay = self.backoff.next(&mut self.rng);
            let retry_at = now.unix_ms.saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
            Connection::Waiting { until: now.elapsed + delay, retry_at, reason }
        } else {
            Connection::Parked { reason: Reason { retryable: false, ..reason } }
        };
        self.set_connection(next, now);
        self.send_receipts();
    }

    /// What the end of a connection means for the streams, whoever ended it.
    fn connection_over(&mut self, now: Now) {
        if let Connection::Open(live) = &self.connection {
            self.backoff.connection_lived(now.elapsed.saturating_sub(live.since));
            self.outage_since.get_or_insert(now.unix_ms);
            self.outbox.connection_lost();
        }
    }

    fn set_connection(&mut self, connection: Connection, now: Now) {
        self.connection = connection;
        self.since = now.unix_ms;
        let report = self.report();
        for &port in &self.ports {
            let event = Event::State { session: Arc::clone(&self.name), state: Box::new(report.clone()) };
            self.actions.push_back(Action::ToExtension { port, event });
        }
    }

    /// The open connection, if `attempt` is its number.
    fn live(&mut self, attempt: u64) -> Option<&mut Live> {
        match &mut self.connection {
            Connection::Open(live) if live.attempt == attempt => Some(live),
            _ => None,
        }
    }

    /// Number of the connection that is made or being made.
    fn attempt(&self) -> Option<u64> {
        match &self.connection {
            Connection::Dialling { attempt, .. } => Some(*attempt),
            Connection::Open(live) => Some(live.attempt),
            _ => None,
        }
    }
}

/// What others see.
impl Session {
    fn state(&self) -> State {
        match &self.connection {
            Connection::Closed => State::Disconnected,
            Connection::Dialling { again: false, .. } => State::Connecting,
            Connection::Dialling { .. } | Connection::Waiting { .. } => State::Reconnecting,
            Connection::Open(_) => State::Connected,
            Connection::Parked { .. } => State::Error,
        }
    }

    fn report(&self) -> StateReport {
        let (retry_at, reason) = match &self.connection {
            Connection::Waiting { retry_at, reason, .. } => (Some(*retry_at), Some(reason.clone())),
            Connection::Parked { reason } => (None, Some(reason.clone())),
            _ => (None, None),
        };
        let protocol = match &self.connection {
            Connection::Open(live) => live.protocol.clone(),
            _ => None,
        };
        StateReport { state: self.state(), since: self.since, attempt: self.attempt(), retry_at, protocol, reason }
    }

    /// The figures of this session, as `status` gives them.
    #[must_use]
    pub fn status(&self, now: Now) -> serde_json::Value {
        let live = match &self.connection {
            Connection::Open(live) => Some(live),
            _ => None,
        };
        let (inbox_messages, inbox_bytes) = self.inbox.kept();
        let (outbox_messages, outbox_bytes) = self.outbox.kept();
        let figures = &self.figures;
        let report = self.report();
        let consumers: Vec<_> = self
            .inbox
            .consumers()
            .map(|(name, acked, attached)| json!({"consumer": name, "acked": acked, "attached": attached}))
            .collect();
        json!({
            "session": &*self.name,
            "mode": if self.memory { "memory" } else { "durable" },
            "url": shown(&self.url),
            "state": report.state,
            "since": report.since,
            "retry_at": report.retry_at,
            "reason": report.reason,
            "epoch": &*self.epoch,
            "connected_at": live.map(|live| live.since_ms),
            "attempt": self.attempts,
            "last_ping_at": figures.last_ping_at,
            "last_pong_at": figures.last_pong_at,
            "latency_ms": live.and_then(|live| live.latency).map(|latency| latency.as_secs_f64() * 1000.0),
            "answers_pings": live.and_then(|live| live.answers),
            "messages_received": figures.messages_received,
            "messages_sent": figures.messages_sent,
            "bytes_received": figures.bytes_received,
            "bytes_sent": figures.bytes_sent,
            "reconnections": figures.connections.saturating_sub(1),
            "errors": figures.errors,
            "uptime_ms": now.elapsed.saturating_sub(self.began.elapsed).as_millis() as u64,
            "health": self.health(),
            "inbox": {"messages": inbox_messages, "bytes": inbox_bytes, "head": self.inbox.head()},
            "outbox": {"messages": outbox_messages, "bytes": outbox_bytes},
            "consumers": consumers,
        })
    }

    /// 0 to 100: connected 100, on the way 40, otherwise 0; 20 less each for a round trip over a second, a window that
    /// is full for too long, and a ping that waits for its answer longer than it should.
    fn health(&self) -> u32 {
        let live = match &self.connection {
            Connection::Open(live) => live,
            Connection::Dialling { .. } | Connection::Waiting { .. } => return 40,
            Connection::Closed | Connection::Parked { .. } => return 0,
        };
        let slow = live.latency.is_some_and(|latency| latency > Duration::from_secs(1));
        let mute = live.answers == Some(false);
        [slow, mute, self.inbox.is_overdue()].into_iter().filter(|trouble| *trouble).fold(100, |health, _| health - 20)
    }
}

impl Live {
    /// When the heartbeat has something to do.
    fn due(&self) -> Duration {
        match &self.ping {
            Some(ping) => ping.sent + HEARTBEAT_TIMEOUT,
            None => self.heard + HEARTBEAT_INTERVAL,
        }
    }
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

/// A URL as it may be shown: without user information and query, which may hold secrets.
fn shown(url: &Url) -> String {
    format!("{}{}", server_of(url), url.path())
}
