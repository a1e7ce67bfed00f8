//! Tests of the session under virtual time.
//!
//! `stream`, `places`, `queue`, `connection`, `credentials`, `dialect`, `fallback` and `endings` are its specification:
//! sentences, each with a short script. A [`Rig`] drives the session as the daemon does and puts every action into a line of
//! text. `world` is the sceptic: generated histories, checked after every step against a model that knows only the protocol;
//! `replay` is another one, for servers that say things again.

mod connection;
mod credentials;
mod dialect;
mod direct;
mod endings;
mod fallback;
mod places;
mod queue;
mod replay;
mod restart;
mod shelf;
mod stream;
mod world;

use bytes::Bytes;
use serde_json::json;
use shelf::Shelf;

use super::*;
use crate::settings::{Collapse, Layer, Limits, Overflow, Place};
use crate::wire::{
    Acknowledge, After, DetourKind, Gap, GapReason, MAX_CONSUMERS, OBSERVER_BYTES, Stage, State, WINDOW,
};

const SERVER: &str = "ws://localhost:8080/ws";

/// Milliseconds since 1970 when a rig begins: a round number, so that times in lines can be read.
const BEGIN: u64 = 1_000_000;

/// A session, its clock, and a driver that does nothing but write down.
struct Rig {
    session: Session,
    now: Now,
    /// The ping that the server has not answered, with its attempt.
    ping: Option<(u64, [u8; PING_BYTES])>,
    /// What is on the disk.
    shelf: Shelf,
    /// What is to go there and has not yet.
    unsaved: Option<(u64, Vec<Change>)>,
    /// What was delivered to a port and counts when it is written.
    unwritten: Vec<(u64, Tag)>,
    /// Whether that goes there at once.
    disk: bool,
    /// Whether the system takes what is sent at once.
    socket: bool,
}

impl Rig {
    /// A session that nobody has opened.
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same, with other settings than the default ones on this machine.
    fn with(change: impl FnOnce(&mut Birth)) -> Self {
        let now = Now { elapsed: Duration::from_secs(1000), unix_ms: BEGIN };
        let mut birth = birth();
        change(&mut birth);
        let session = Session::new(birth, now);
        Self {
            session,
            now,
            ping: None,
            shelf: Shelf::default(),
            unsaved: None,
            unwritten: Vec::new(),
            disk: true,
            socket: true,
        }
    }

    /// A session that port 1 has opened, and whose server is there.
    fn connected() -> Self {
        let mut rig = Self::new();
        rig.open(1, "main");
        rig.connect();
        rig
    }

    fn input(&mut self, input: Input) -> Vec<String> {
        self.session.handle(input, self.now);
        self.take_actions()
    }

    fn take_actions(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let (mut sent, mut loaded) = (None, None);
            while let Some(action) = self.session.poll_action() {
                if let Action::Save { ticket, changes } = action {
                    assert!(self.unsaved.is_none(), "two writes at a time");
                    self.unsaved = Some((ticket, changes));
                    continue;
                }
                match &action {
                    Action::ToServer { attempt, .. } => sent = Some(*attempt),
                    Action::Ping { attempt, payload } => self.ping = Some((*attempt, *payload)),
                    Action::Load { ticket, from, to } => {
                        let (bodies, to) = self.shelf.load(*from, *to, 1 << 20);
                        loaded = Some(Input::Loaded { ticket: *ticket, bodies, to });
                    }
                    Action::Forgotten => self.shelf = Shelf::default(),
                    Action::ToExtension { port, event: Event::Message { tag: Some(tag), .. } } => {
                        self.unwritten.push((port.0, *tag));
                    }
                    _ => {}
                }
                lines.extend(line(&action));
            }
            if let Some(attempt) = sent.filter(|_| self.socket) {
                self.session.handle(flushed(attempt), self.now);
                continue;
            }
            if let Some(loaded) = loaded {
                self.session.handle(loaded, self.now);
            } else if let Some(saved) = self.disk.then(|| self.commit()).flatten() {
                self.session.handle(saved, self.now);
            } else {
                return lines;
            }
        }
    }

    /// What is to go to the disk is there; gives what the session hears of it.
    fn commit(&mut self) -> Option<Input> {
        let (ticket, changes) = self.unsaved.take()?;
        self.shelf.apply(changes);
        Some(Input::Saved { ticket })
    }

    /// The daemon is killed, and what was on its way to the disk with it; the next one goes on with what is there.
    fn crash(&mut self) {
        let record = self.shelf.record().expect("the session is kept");
        let url = Url::parse(&record.sheet.url).unwrap();
        let birth = Birth { url, settings: self.session.settings.clone(), seed: 2, ..birth() };
        self.session = Session::restore(birth, record, self.now);
        (self.ping, self.unsaved) = (None, None);
        self.unwritten.clear();
    }

    /// The daemon ends as it should, and another one goes on.
    fn stop_and_go_on(&mut self) {
        self.input(Input::Stop);
        assert!(self.session.is_saved(), "there is nothing left to do");
        self.crash();
    }

    /// The daemon that goes on connects.
    fn reconnect(&mut self) -> Vec<String> {
        let mut lines = self.next_timer();
        lines.extend(self.connect());
        lines
    }

    /// What is to go to the disk is there, and the session hears of it.
    fn save(&mut self) -> Vec<String> {
        let saved = self.commit().expect("something is on its way to the disk");
        self.input(saved)
    }

    fn open_as(&mut self, port: u64, open: Open) -> Vec<String> {
        self.input(opening(port, open, None))
    }

    fn open(&mut self, port: u64, consumer: &str) -> Vec<String> {
        self.open_as(port, open(consumer))
    }

    fn open_url(&mut self, port: u64, url: &str) -> Vec<String> {
        self.input(opening(port, open("main"), Some(url)))
    }

    fn detach(&mut self, port: u64) -> Vec<String> {
        self.input(Input::Detach { port: PortId(port) })
    }

    fn ack(&mut self, port: u64, seq: u64) -> Vec<String> {
        self.input(Input::Ack { port: PortId(port), seq, epoch: None, reference: None })
    }

    /// What was delivered first to `port` under `seq` is written.
    fn written(&mut self, port: u64, seq: u64) -> Vec<String> {
        let index = self.unwritten.iter().position(|(to, tag)| (*to, tag.seq) == (port, seq));
        let (_, tag) = self.unwritten.remove(index.expect("it counts when it is written"));
        self.input(Input::Written { tag })
    }

    fn send_as(&mut self, port: u64, send: Send) -> Vec<String> {
        self.input(Input::Send { port: PortId(port), send, reference: None })
    }

    /// Port 1 sends a message whose id is its text.
    fn send(&mut self, text: &str) -> Vec<String> {
        self.send_as(1, send(text))
    }

    /// The attempt under way succeeds.
    fn connect(&mut self) -> Vec<String> {
        let attempt = self.attempt();
        self.input(Input::Connected { attempt, protocol: None })
    }

    /// The connection, or the attempt, ends for this reason.
    fn lose(&mut self, reason: Reason) -> Vec<String> {
        let attempt = self.attempt();
        self.input(Input::Lost { attempt, reason })
    }

    /// The connection breaks, and the next attempt begins at its time.
    fn break_and_redial(&mut self) -> Vec<String> {
        let mut lines = self.lose(reset());
        lines.extend(self.next_timer());
        lines
    }

    fn frame(&mut self, text: &str) -> Vec<String> {
        self.frame_of(Body::Json(Bytes::copy_from_slice(text.as_bytes())))
    }

    fn frame_of(&mut self, body: Body) -> Vec<String> {
        let attempt = self.attempt();
        self.input(Input::Frame { attempt, body })
    }

    /// The server answers the last ping.
    fn pong(&mut self) -> Vec<String> {
        let (attempt, payload) = self.ping.take().expect("a ping is out");
        self.input(Input::Pong { attempt, payload })
    }

    fn attempt(&self) -> u64 {
        self.session.attempt().expect("a connection is made or being made")
    }

    /// Time passes; the session is woken whenever it wants to be.
    fn wait(&mut self, time: Duration) -> Vec<String> {
        let end = self.now.elapsed + time;
        let mut lines = Vec::new();
        while self.session.poll_timeout().is_some_and(|(at, _)| at <= end) {
            lines.extend(self.fire());
        }
        self.set_time(end);
        lines
    }

    /// Time passes until the session wants to be woken for more than to write to the disk.
    fn next_timer(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        let now = self.now.elapsed;
        while self.session.poll_timeout().is_some_and(|(at, timer)| timer == Timer::Save && at > now) {
            lines.extend(self.fire());
        }
        lines.extend(self.fire());
        lines
    }

    fn fire(&mut self) -> Vec<String> {
        let (at, timer) = self.session.poll_timeout().expect("a timer runs");
        self.set_time(at.max(self.now.elapsed));
        self.session.handle_timeout(self.now);
        let lines = self.take_actions();
        let next = self.session.poll_timeout();
        assert!(next.is_none_or(|(next, _)| next > self.now.elapsed), "after {timer:?} came {next:?}");
        lines
    }

    /// What the session wants to be woken for next, but for writing to the disk.
    fn due(&self) -> Option<(Duration, Timer)> {
        self.session.deadlines().filter(|(_, timer)| *timer != Timer::Save).min()
    }

    /// How long until the next attempt, if one comes by itself.
    fn delay(&self) -> Option<Duration> {
        let (at, timer) = self.session.connection_due()?;
        (timer == Timer::Retry).then(|| at - self.now.elapsed)
    }

    fn set_time(&mut self, elapsed: Duration) {
        self.now.unix_ms += (elapsed - self.now.elapsed).as_millis() as u64;
        self.now.elapsed = elapsed;
    }

    fn status(&self) -> serde_json::Value {
        self.session.status(self.now)
    }
}

/// A rig whose settings say this, on this machine.
fn speaking(settings: serde_json::Value) -> Rig {
    let layer = Layer::from_json(&settings.to_string(), &Limits::default()).unwrap();
    Rig::with(|birth| {
        let place = Place { memory: birth.mode == Mode::Memory, loopback: true };
        birth.settings = Settings::effective([&layer], &Limits::default(), place);
    })
}

fn birth() -> Birth {
    let place = Place { memory: false, loopback: true };
    let mut settings = Settings::effective([], &Limits::default(), place);
    // As in memory mode, so that it does not take long to fill.
    settings.inbox.max_bytes = 16 << 20;
    Birth { number: 77, name: "s".into(), mode: Mode::Durable, url: Url::parse(SERVER).unwrap(), settings, seed: 1 }
}

fn open(consumer: &str) -> Open {
    Open {
        session: "s".into(),
        profile: String::new(),
        url: None,
        mode: Mode::Durable,
        consumer: consumer.into(),
        observe: false,
        after: None,
        connect: true,
        acknowledge: Acknowledge::Manual,
        as_text: false,
        protocols: None,
        settings: None,
    }
}

fn opening(port: u64, open: Open, url: Option<&str>) -> Input {
    let url = url.map(|url| Url::parse(url).unwrap());
    Input::Open { port: PortId(port), open: Box::new(open), url, settings: None, reference: None }
}

fn send(text: &str) -> Send {
    Send {
        body: Body::Text(Bytes::copy_from_slice(text.as_bytes())),
        id: Some(text.into()),
        ttl_ms: None,
        resend: true,
        receipts: None,
    }
}

/// All that was sent is in the hands of the system.
fn flushed(attempt: u64) -> Input {
    Input::Flushed { attempt, bytes: 0, all: true }
}

fn close(forget: bool) -> Input {
    Input::Close { forget, code: None, reason: None }
}

fn reset() -> Reason {
    Reason::new("reset", "it broke".into())
}

fn refused(http_status: u16) -> Reason {
    Reason { code: "http-status", http_status: Some(http_status), ..reset() }
}

fn large(bytes: usize) -> Body {
    Body::Binary(vec![0; bytes].into())
}

/// An action as a line; nothing for one that every message has and that only the rig needs.
fn line(action: &Action) -> Option<String> {
    Some(match action {
        Action::Connect { attempt, detour: Some(detour), .. } => {
            let Detour { kind, url, .. } = &**detour;
            let kind = if *kind == DetourKind::Events { "events" } else { "polls" };
            format!("#{attempt} {kind} {}", &url[url::Position::BeforePath..])
        }
        Action::Connect { attempt, url, credential: None, .. } => format!("#{attempt} connect {}", url.path()),
        Action::Connect { attempt, url, credential: Some(presented), .. } => {
            let (way, secret) = match presented {
                Presented::Header(secret) => ("header", secret),
                Presented::Query(name, secret) => (name.as_str(), secret),
                Presented::Protocol(secret) => ("protocol", secret),
            };
            format!("#{attempt} connect {} {way} {}", url.path(), secret.reveal())
        }
        Action::Fetch { attempt, .. } => format!("#{attempt} fetch"),
        Action::PollAt { attempt, url } => format!("#{attempt} poll {}", &url[url::Position::BeforePath..]),
        Action::Disconnect { attempt, code, .. } => format!("#{attempt} disconnect {code}"),
        Action::Finish { attempt, code, reason } => format!("#{attempt} finish {code} {reason}").trim_end().into(),
        Action::ToServer { attempt, body } => format!("#{attempt} send {}", shown_body(body)),
        Action::Ping { attempt, .. } => format!("#{attempt} ping"),
        Action::Save { .. } | Action::Load { .. } => return None,
        Action::Pause { attempt } => format!("#{attempt} pause"),
        Action::Resume { attempt } => format!("#{attempt} resume"),
        Action::Forgotten => "forgotten".into(),
        Action::ToExtension { port, event } => format!("{}: {}", port.0, shown_event(event)),
    })
}

fn shown_event(event: &Event) -> String {
    match event {
        Event::Opened(opened) => {
            let state = shown_state(opened.state);
            format!("opened {state} head {} acked {} pending {}", opened.head, opened.acked, opened.pending)
        }
        Event::Message { seq, body, replay, .. } => {
            format!("{} {seq} {}", if *replay { "replay" } else { "message" }, shown_body(body))
        }
        Event::Gap { seq, gap: Gap { from, reason, count, at_most, since, until }, replay, .. } => {
            let mut shown = format!("{} {from}..={seq} ", if *replay { "replay gap" } else { "gap" });
            shown += serde_json::to_value(reason).unwrap().as_str().unwrap();
            shown += &count.map_or(" count unknown".into(), |count| format!(" count {count}"));
            shown += &at_most.map_or(String::new(), |most| format!(" at most {most}"));
            if let (Some(since), Some(until)) = (since, until) {
                shown += &format!(" from +{} to +{}", since - BEGIN, until - BEGIN);
            }
            shown
        }
        Event::Receipt { stage, ids, reason, .. } => {
            let reason = reason.map_or(String::new(), |reason| format!(" ({})", reason.as_str()));
            format!("{} {}{reason}", format!("{stage:?}").to_lowercase(), ids.join(" "))
        }
        Event::State { state, .. } => {
            let reason = state.reason.as_ref().map_or(String::new(), |reason| format!(" ({})", reason.code));
            format!("{}{reason}", shown_state(state.state))
        }
        Event::TokenNeeded { reason, .. } => format!("token-needed {reason}"),
        Event::Error(problem) => format!("error {}", problem.code.as_str()),
        Event::Opening { .. } => "opened".into(),
        Event::Frame { body, .. } => format!("message {}", shown_body(body)),
        Event::Sent { bytes, .. } => format!("sent {bytes}"),
        Event::Closed { close: Closed { code, reason, clean }, .. } => {
            let clean = if *clean { "clean" } else { "not clean" };
            format!("closed {code} {clean} {reason}").trim_end().into()
        }
        Event::Welcome { .. } | Event::Status { .. } => unreachable!("a session does not say {event:?}"),
    }
}

fn shown_state(state: State) -> String {
    format!("{state:?}").to_lowercase()
}

fn shown_body(body: &Body) -> String {
    let kind = match body {
        Body::Json(_) => "",
        Body::Text(_) => "text:",
        Body::Binary(_) => "binary:",
    };
    match body.len() {
        0..100 => format!("{kind}{}", std::str::from_utf8(body.bytes()).unwrap()),
        length => format!("{kind}{length} bytes"),
    }
}

/// The lines that are said to one port, without its number.
fn said_to(port: u64, lines: &[String]) -> Vec<&str> {
    let start = format!("{port}: ");
    lines.iter().filter_map(|line| line.strip_prefix(&start)).collect()
}

/// The messages and gaps among the lines.
fn deliveries(lines: &[String]) -> Vec<&str> {
    let words = ["message ", "replay ", "gap "];
    let said =
        |line: &&str| line.split_once(": ").is_some_and(|(_, said)| words.iter().any(|word| said.starts_with(word)));
    lines.iter().map(String::as_str).filter(said).collect()
}

/// The messages to the server among the lines.
fn sent(lines: &[String]) -> Vec<&str> {
    lines.iter().map(String::as_str).filter(|line| line.contains(" send ")).collect()
}

/// The lines without pings.
fn without_pings(lines: Vec<String>) -> Vec<String> {
    lines.into_iter().filter(|line| !line.ends_with(" ping")).collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
