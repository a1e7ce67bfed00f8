//! Generated histories of a session, its ports and its server, checked after every step.
//!
//! The [`World`] drives the session as the daemon does: actions are taken at once, timers are served when they are due, a
//! port that is not attached is not asked. What must come out is said by a [`Model`] that was written from the protocol
//! alone: it knows what was pushed, posted and acknowledged, and nothing of how the session keeps it.
//!
//! A history is a list of [`Step`]s; one that fails is made as short as it can be and printed. `PROPTEST_CASES` sets how
//! many are tried.

mod model;

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::test_runner::{RngSeed, TestError, TestRunner};

use super::*;
use crate::wire::event::message_len;
use model::{Due, Model, Phase};

const PORTS: u64 = 3;
const CONSUMERS: [&str; 3] = ["main", "side", "log"];

/// What large messages are cut from.
static LARGE: LazyLock<Bytes> = LazyLock::new(|| vec![b'1'; 32 << 20].into());

#[test]
fn whatever_happens_nothing_is_lost_doubled_or_out_of_order() {
    let config = ProptestConfig { rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..ProptestConfig::default() };
    let met = RefCell::new(BTreeMap::<String, usize>::new());
    let histories = prop::collection::vec(step(), 1..=800);
    let result = TestRunner::new(config).run(&histories, |history| {
        for (what, times) in live_through(&history) {
            *met.borrow_mut().entry(what).or_default() += times;
        }
        Ok(())
    });
    let history = match result {
        Ok(()) => return assert_met(&met.into_inner()),
        Err(TestError::Fail(_, history)) => shortest(history),
        Err(abort) => panic!("{abort}"),
    };
    let script: String = history.iter().map(|step| format!("    {step:?}\n")).collect();
    let why = std::panic::catch_unwind(|| live_through(&history));
    assert!(why.is_ok(), "the shortest history that fails as said above:\n{script}");
}

/// The history without each step that it does not need in order to fail.
fn shortest(mut history: Vec<Step>) -> Vec<Step> {
    let fails = |history: &[Step]| std::panic::catch_unwind(|| live_through(history)).is_err();
    let mut length = history.len() + 1;
    while history.len() < length {
        length = history.len();
        for index in (0..length).rev() {
            let step = history.remove(index);
            if !fails(&history) {
                history.insert(index, step);
            }
        }
    }
    history
}

/// Plays a history to its end; returns what the session said in it, and how often.
fn live_through(history: &[Step]) -> BTreeMap<String, usize> {
    let mut world = World::new();
    for step in history {
        world.step(step);
        world.meet("step");
    }
    world.come_to_rest();
    world.met
}

/// Histories in which something never happens would prove nothing about it.
fn assert_met(met: &BTreeMap<String, usize>) {
    if met["step"] < 50_000 {
        return;
    }
    for what in [
        "message",
        "replay",
        "gap Disconnected",
        "gap Overflow",
        "gap Overflow of unknown number",
        "gap Overflow behind what was delivered",
        "Stored ",
        "Received ",
        "Expired ",
        "Refused full",
        "Refused unknown-delivery",
        "told to a later port",
        "AckAhead",
        "AckOverdue",
        "QueueFull",
        "RateLimited",
        "Superseded",
        "UnknownSession",
        "UrlDiffers",
        "given up for silence",
        "never answers pings",
        "closed for want of ports",
        "window full of messages",
        "forgotten",
    ] {
        assert!(met.get(what).is_some_and(|times| *times >= 10), "hardly ever met: {what} in {met:#?}");
    }
}

/// One thing that happens. What cannot happen at its time does not.
#[derive(Debug, Clone)]
enum Step {
    Open {
        port: u64,
        consumer: usize,
        auto: bool,
        text: bool,
    },
    OpenElsewhere {
        port: u64,
    },
    Detach {
        port: u64,
    },
    BrowserQuits,
    /// The browser takes so many messages.
    Written {
        port: u64,
        messages: usize,
    },
    /// Of what was delivered and not acknowledged, so many percent.
    Ack {
        port: u64,
        percent: u64,
    },
    AckBelow {
        port: u64,
    },
    AckAhead {
        port: u64,
    },
    AckOldEpoch {
        port: u64,
    },
    Send {
        port: u64,
        id: bool,
        ttl_ms: Option<u64>,
        resend: bool,
        receipts: bool,
        bytes: usize,
    },
    /// The id of an earlier message, counted from the last.
    Repeat {
        port: u64,
        back: usize,
    },
    Persisted {
        messages: usize,
    },
    Connected,
    Refused {
        status: Option<u16>,
    },
    Dropped,
    Frames {
        count: usize,
        bytes: usize,
    },
    /// The server takes so many messages and pings from its socket.
    ServerReads {
        things: usize,
    },
    /// From now on the server does not answer pings, or does again.
    ServerIsMute(bool),
    /// Something that an older attempt reports late.
    Stale {
        what: u8,
    },
    Wait {
        ms: u64,
    },
    /// Time passes, and the timers are served late.
    Sleep {
        ms: u64,
    },
    Close {
        port: u64,
        forget: bool,
    },
    Reconnect {
        port: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let port = || 1..=PORTS;
    let ttl = prop_oneof![6 => Just(None), 1 => Just(Some(0)), 3 => (1..20_000u64).prop_map(Some)];
    let flag = |percent: u32| prop::bool::weighted(f64::from(percent) / 100.0);
    let sent_bytes = prop_oneof![5 => Just(0usize), 1 => Just(30 << 20)];
    let frame_bytes = prop_oneof![10 => Just(0usize), 2 => Just(40_000), 1 => Just(1 << 20), 1 => Just(3 << 20)];
    let frames = prop_oneof![20 => 1..4usize, 4 => 4..40usize, 1 => 300..1100usize];
    let moment = prop_oneof![4 => 0..50u64, 3 => 50..3_000u64, 2 => 3_000..40_000u64, 1 => 40_000..400_000u64];
    let sleep = prop_oneof![6 => 0..50_000u64, 1 => 50_000..200_000_000u64];
    prop_oneof![
        14 => (port(), 0..CONSUMERS.len(), flag(20), flag(20))
            .prop_map(|(port, consumer, auto, text)| Step::Open { port, consumer, auto, text }),
        1 => port().prop_map(|port| Step::OpenElsewhere { port }),
        4 => port().prop_map(|port| Step::Detach { port }),
        2 => Just(Step::BrowserQuits),
        8 => (port(), 1..30usize).prop_map(|(port, messages)| Step::Written { port, messages }),
        20 => (port(), prop_oneof![1 => 0..=100u64, 1 => Just(100)])
            .prop_map(|(port, percent)| Step::Ack { port, percent }),
        1 => port().prop_map(|port| Step::AckBelow { port }),
        1 => port().prop_map(|port| Step::AckAhead { port }),
        1 => port().prop_map(|port| Step::AckOldEpoch { port }),
        24 => (port(), flag(70), ttl, flag(75), flag(85), sent_bytes).prop_map(
            |(port, id, ttl_ms, resend, receipts, bytes)| Step::Send { port, id, ttl_ms, resend, receipts, bytes }
        ),
        3 => (port(), 0..12usize).prop_map(|(port, back)| Step::Repeat { port, back }),
        10 => (1..8usize).prop_map(|messages| Step::Persisted { messages }),
        14 => Just(Step::Connected),
        5 => prop_oneof![
            6 => Just(None), 1 => Just(Some(401u16)), 1 => Just(Some(403)), 1 => Just(Some(407)), 1 => Just(Some(503))
        ].prop_map(|status| Step::Refused { status }),
        5 => Just(Step::Dropped),
        24 => (frames, frame_bytes).prop_map(|(count, bytes)| Step::Frames { count, bytes: bytes.min(12_000_000 / count) }),
        20 => (1..20usize).prop_map(|things| Step::ServerReads { things }),
        2 => flag(40).prop_map(Step::ServerIsMute),
        3 => (0..5u8).prop_map(|what| Step::Stale { what }),
        16 => moment.prop_map(|ms| Step::Wait { ms }),
        3 => sleep.prop_map(|ms| Step::Sleep { ms }),
        1 => (port(), flag(30)).prop_map(|(port, forget)| Step::Close { port, forget }),
        3 => port().prop_map(|port| Step::Reconnect { port }),
    ]
}

/// A connection, as the server has it.
#[derive(Debug)]
struct Link {
    attempt: u64,
    /// What was sent and the server has not taken from its socket.
    wire: VecDeque<Wire>,
}

#[derive(Debug)]
enum Wire {
    Message(usize),
    Ping([u8; PING_BYTES]),
}

struct World {
    session: Option<Session>,
    model: Model,
    now: Now,
    link: Option<Link>,
    last_attempt: u64,
    /// What was to be kept safely, in order.
    unpersisted: VecDeque<u64>,
    /// What is on its way to the browser for ports with `ack: auto`.
    unwritten: BTreeMap<u64, VecDeque<u64>>,
    mute: bool,
    epochs: Vec<Arc<str>>,
    /// What the session said, and how often.
    met: BTreeMap<String, usize>,
    /// Counts everything that must differ from everything else.
    counter: usize,
}

impl World {
    fn new() -> Self {
        Self {
            session: None,
            model: Model::default(),
            now: Now { elapsed: seconds(1000), unix_ms: BEGIN },
            link: None,
            last_attempt: 0,
            unpersisted: VecDeque::new(),
            unwritten: BTreeMap::new(),
            mute: false,
            epochs: Vec::new(),
            met: BTreeMap::new(),
            counter: 0,
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Open { port, consumer, auto, text } => self.open(port, CONSUMERS[consumer], auto, text),
            Step::Wait { ms } => self.wait(Duration::from_millis(ms)),
            Step::Sleep { ms } => {
                self.advance(Duration::from_millis(ms));
                self.timeout();
            }
            Step::ServerIsMute(mute) => self.mute = mute,
            _ if self.session.is_none() => {}
            Step::OpenElsewhere { port } => {
                self.model.errors.push((port, Code::UrlDiffers));
                self.input(opening(port, open("main"), Some("ws://localhost:9/")));
            }
            Step::Detach { port } => {
                self.model.detach(port);
                self.input(Input::Detach { port: PortId(port) });
            }
            Step::BrowserQuits => {
                self.unwritten.clear();
                for port in 1..=PORTS {
                    self.step(&Step::Detach { port });
                }
            }
            Step::Written { port, messages } => {
                let waiting = self.unwritten.entry(port).or_default();
                let written: Vec<_> = waiting.drain(..messages.min(waiting.len())).collect();
                for seq in written {
                    self.model.written(port, seq);
                    self.input(Input::Written { port: PortId(port), seq });
                }
            }
            Step::Ack { port, percent } => {
                let (acked, delivered) = self.model.place(port).unwrap_or_default();
                self.ack(port, acked + (delivered - acked) * percent / 100);
            }
            Step::AckBelow { port } => self.ack(port, self.model.place(port).unwrap_or_default().0 / 2),
            Step::AckAhead { port } => self.ack(port, self.model.place(port).unwrap_or_default().1 + 1),
            Step::AckOldEpoch { port } => {
                let place = self.model.place(port);
                self.model.errors.extend(place.is_none().then_some((port, Code::UnknownSession)));
                let seq = place.unwrap_or_default().1;
                self.input(Input::Ack { port: PortId(port), seq, epoch: Some("old".into()), reference: None });
            }
            Step::Send { port, id, ttl_ms, resend, receipts, bytes } => {
                let body = self.body(bytes);
                let id = id.then(|| format!("id{}", self.counter));
                let receipts = if receipts { vec![Stage::Stored, Stage::Received] } else { vec![] };
                self.send(port, Send { body, id, ttl_ms, resend, receipts: Some(receipts) });
            }
            Step::Repeat { port, back } => {
                let Some(id) = self.model.earlier_id(back) else { return };
                let body = self.body(0);
                let receipts = vec![Stage::Stored, Stage::Received];
                self.send(port, Send { body, id: Some(id), ttl_ms: None, resend: true, receipts: Some(receipts) });
            }
            Step::Persisted { messages } => {
                for _ in 0..messages.min(self.unpersisted.len()) {
                    let number = self.unpersisted.pop_front().unwrap();
                    self.model.persisted(number);
                    self.input(Input::Persisted { number });
                }
            }
            Step::Connected => {
                let Some(attempt) = self.dialling() else { return };
                self.model.connected(self.now);
                self.input(Input::Connected { attempt, protocol: None });
            }
            Step::Refused { status } => {
                if self.dialling().is_some() {
                    self.lose(Reason { http_status: status, ..reset() });
                }
            }
            Step::Dropped => {
                if self.model.phase == Phase::Open {
                    self.lose(reset());
                }
            }
            Step::Frames { count, bytes } => {
                for _ in 0..count {
                    let Some(attempt) = self.open_attempt() else { return };
                    let body = self.body(bytes);
                    self.model.frame(body.clone(), self.now);
                    self.input(Input::Frame { attempt, body });
                }
            }
            Step::ServerReads { things } => self.server_reads(things),
            Step::Stale { what } => self.stale(what),
            Step::Close { port, forget } => {
                if self.model.place(port).is_some() {
                    self.model.closing = true;
                    self.input(close(forget));
                }
            }
            Step::Reconnect { port } => {
                if self.model.place(port).is_some() {
                    let too_soon = !matches!(self.model.phase, Phase::Dialling | Phase::Open)
                        && self.now.elapsed < self.model.dialled + seconds(1);
                    self.model.errors.extend(too_soon.then_some((port, Code::RateLimited)));
                    self.input(Input::Reconnect { port: PortId(port), reference: None });
                    assert!(too_soon || matches!(self.model.phase, Phase::Dialling | Phase::Open));
                }
            }
        }
    }

    /// Everybody does what is expected, until nothing is left to be done.
    fn come_to_rest(&mut self) {
        if self.session.is_none() {
            return;
        }
        self.mute = false;
        self.advance(seconds(2));
        for (port, consumer) in (1..).zip(self.model.consumers()) {
            self.open(port, consumer, false, false);
        }
        for _ in 0..1000 {
            if self.session.as_ref().is_some_and(|session| session.inbox.kept().0 == 0 && session.outbox.is_empty())
                && self.model.is_at_rest()
            {
                return;
            }
            self.step(&Step::Persisted { messages: usize::MAX });
            self.step(&Step::Reconnect { port: 1 });
            self.step(&Step::Connected);
            self.step(&Step::ServerReads { things: usize::MAX });
            for port in 1..=PORTS {
                if self.model.place(port).is_some() {
                    self.step(&Step::Ack { port, percent: 100 });
                }
            }
            self.wait(seconds(2));
        }
        panic!("it does not come to rest: {:?}", self.model);
    }

    fn open(&mut self, port: u64, consumer: &'static str, auto: bool, text: bool) {
        let new = self.session.is_none();
        if new {
            self.counter += 1;
            let url = Url::parse(SERVER).unwrap();
            let session = Session::new(Birth { token: 5, url, seed: self.counter as u64, ..birth() }, self.now);
            assert!(!self.epochs.contains(&session.epoch), "an epoch is used again");
            self.epochs.push(Arc::clone(&session.epoch));
            self.session = Some(session);
            self.model = Model::default();
            self.unpersisted.clear();
            self.unwritten.clear();
            self.last_attempt = 0;
        }
        self.model.open(port, consumer, auto, text);
        let acknowledge = if auto { Acknowledge::Auto } else { Acknowledge::Manual };
        let open = Open { acknowledge, as_text: text, ..open(consumer) };
        self.input(opening(port, open, None));
        assert!(self.model.opened.is_none(), "`open` was not answered");
    }

    fn ack(&mut self, port: u64, seq: u64) {
        self.model.ack(port, seq);
        self.input(Input::Ack { port: PortId(port), seq, epoch: None, reference: None });
    }

    fn send(&mut self, port: u64, send: Send) {
        self.model.post(port, &send, self.now);
        self.input(Input::Send { port: PortId(port), send, reference: None });
    }

    fn lose(&mut self, reason: Reason) {
        let Some(link) = self.link.take() else { return };
        self.model.lost(reason.http_status, self.now);
        self.input(Input::Lost { attempt: link.attempt, reason });
    }

    fn server_reads(&mut self, things: usize) {
        for _ in 0..things {
            let Some(attempt) = self.open_attempt() else { return };
            let Some(thing) = self.link.as_mut().and_then(|link| link.wire.pop_front()) else { return };
            match thing {
                Wire::Message(post) => self.model.server_has(post),
                Wire::Ping(_) if self.mute => {}
                Wire::Ping(payload) => {
                    self.model.pong(payload, self.now);
                    self.input(Input::Pong { attempt, payload });
                }
            }
        }
    }

    fn stale(&mut self, what: u8) {
        let attempt = self.last_attempt - u64::from(self.link.is_some());
        let before = format!("{:?}", self.session.as_ref().unwrap().connection);
        let actions = self.input(match what {
            0 => Input::Connected { attempt, protocol: None },
            1 => Input::Frame { attempt, body: Body::Json("0".into()) },
            2 => Input::Pong { attempt, payload: [0; PING_BYTES] },
            3 => Input::Alive { attempt },
            _ => Input::Lost { attempt, reason: reset() },
        });
        assert_eq!(actions, 0, "an older attempt had its say");
        assert_eq!(before, format!("{:?}", self.session.as_ref().unwrap().connection));
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now.elapsed + time;
        while let Some((at, _)) = self.session.as_ref().and_then(Session::poll_timeout).filter(|(at, _)| *at <= end) {
            self.advance(at.saturating_sub(self.now.elapsed));
            self.timeout();
        }
        self.advance(end - self.now.elapsed);
    }

    fn advance(&mut self, time: Duration) {
        self.now.elapsed += time;
        self.now.unix_ms += time.as_millis() as u64;
    }

    fn timeout(&mut self) {
        let Some(session) = &mut self.session else { return };
        self.model.timeout(self.now);
        session.handle_timeout(self.now);
        self.take_actions();
        self.model.check_timeout(self.now);
        let next = self.session.as_ref().and_then(Session::poll_timeout);
        assert!(next.is_none_or(|(at, _)| at > self.now.elapsed), "it would be woken at once again: {next:?}");
    }

    fn dialling(&self) -> Option<u64> {
        self.link.as_ref().filter(|_| self.model.phase == Phase::Dialling).map(|link| link.attempt)
    }

    fn open_attempt(&self) -> Option<u64> {
        self.link.as_ref().filter(|_| self.model.phase == Phase::Open).map(|link| link.attempt)
    }

    fn meet(&mut self, what: &str) {
        *self.met.entry(what.to_owned()).or_default() += 1;
    }

    /// Content that no other message has.
    fn body(&mut self, bytes: usize) -> Body {
        self.counter += 1;
        match self.counter % 3 {
            _ if bytes > 0 => Body::Binary(LARGE.slice(self.counter % 1000..self.counter % 1000 + bytes)),
            0 => Body::Text(format!("text \"{}\"", self.counter).into()),
            _ => Body::Json(self.counter.to_string().into()),
        }
    }

    /// Gives an input to the session and checks what it wants done; returns how much that is.
    fn input(&mut self, input: Input) -> usize {
        let Some(session) = &mut self.session else { return 0 };
        session.handle(input, self.now);
        self.take_actions()
    }

    fn take_actions(&mut self) -> usize {
        let mut actions = 0;
        let mut forgotten = false;
        self.model.answers_pings(self.session.as_ref().and_then(answers_pings), self.now);
        let mut sent = None;
        while let Some(action) = self.session.as_mut().and_then(Session::poll_action).or_else(|| {
            // The system takes what is sent at once.
            let attempt = sent.take()?;
            let session = self.session.as_mut()?;
            session.handle(flushed(attempt), self.now);
            session.poll_action()
        }) {
            assert!(!forgotten, "{action:?} after everything was forgotten");
            actions += 1;
            match action {
                Action::ToExtension { port, event } => self.event(port.0, event),
                Action::ToServer { attempt, body } => {
                    sent = Some(attempt);
                    let link = self.link.as_mut().filter(|link| link.attempt == attempt).expect("a connection");
                    link.wire.push_back(Wire::Message(self.model.goes_to_server(&body, self.now)));
                }
                Action::Ping { attempt, payload } => {
                    let link = self.link.as_mut().filter(|link| link.attempt == attempt).expect("a connection");
                    link.wire.push_back(Wire::Ping(payload));
                    self.model.ping(payload, self.now);
                }
                Action::Persist { number, body } => {
                    self.model.persist(number, &body);
                    self.unpersisted.push_back(number);
                }
                Action::Connect { attempt, .. } => {
                    assert!(self.link.is_none(), "a second connection is opened");
                    assert!(attempt > self.last_attempt, "the number of an attempt is used again");
                    self.last_attempt = attempt;
                    self.link = Some(Link { attempt, wire: VecDeque::new() });
                    self.model.dial(self.now);
                }
                Action::Disconnect { attempt, reason, .. } => {
                    match reason {
                        "no answer to a ping" => self.meet("given up for silence"),
                        "no port came back" => self.meet("closed for want of ports"),
                        _ => {}
                    }
                    let link = self.link.take().expect("there is something to disconnect");
                    assert_eq!(link.attempt, attempt);
                    self.model.disconnected(self.now);
                }
                Action::Pause { .. } | Action::Resume { .. } | Action::Finish { .. } => panic!("nobody asked for that"),
                Action::Forgotten => {
                    self.meet("forgotten");
                    forgotten = true;
                }
            }
        }
        let session = self.session.as_ref().unwrap();
        self.model.check(session, self.now, actions);
        if self.model.is_a_window_full_of_messages() {
            self.meet("window full of messages");
        }
        if self.model.written_is_received {
            self.meet("never answers pings");
        }
        if forgotten {
            self.session = None;
            self.model = Model::default();
        }
        actions
    }

    fn event(&mut self, port: u64, event: Event) {
        match event {
            Event::Opened(opened) => {
                assert_eq!(opened.epoch, *self.epochs.last().unwrap());
                self.model.answered(port, &opened);
            }
            Event::Message { seq, at, ref body, replay, token, .. } => {
                let bytes = message_len("s", seq, at, body);
                if body.len() < 1000 {
                    let mut text = bytes::BytesMut::new();
                    event.write(&mut text);
                    let mark = if replay { ",\"replay\":true".len() } else { 0 };
                    assert_eq!(text.len() - mark, bytes);
                }
                self.meet(if replay { "replay" } else { "message" });
                let auto = self.model.message(port, seq, at, body, replay, bytes);
                assert_eq!(token, auto.then_some(5));
                if auto {
                    self.unwritten.entry(port).or_default().push_back(seq);
                }
            }
            Event::Gap { seq, gap, replay, token, .. } => {
                self.meet(&format!("gap {:?}", gap.reason));
                if gap.reason == GapReason::Overflow && gap.count.is_none() {
                    self.meet("gap Overflow of unknown number");
                }
                if gap.reason == GapReason::Overflow && self.model.first_dropped() < Some(gap.from) {
                    self.meet("gap Overflow behind what was delivered");
                }
                let auto = self.model.gap(port, seq, gap, replay);
                assert_eq!(token, auto.then_some(5));
                if auto {
                    self.unwritten.entry(port).or_default().push_back(seq);
                }
            }
            Event::Receipt { stage, ids, reason, .. } => {
                self.meet(&format!("{stage:?} {}", reason.unwrap_or_default()));
                for id in ids {
                    if self.model.receipt(port, &id, Due { stage, reason }) {
                        self.meet("told to a later port");
                    }
                }
            }
            Event::State { state, .. } => self.model.state_told(port, state.state),
            Event::Error(problem) => {
                self.meet(&format!("{:?}", problem.code));
                self.model.error(port, problem.code, self.now);
            }
            _ => panic!("a session does not say {event:?}"),
        }
    }
}

fn answers_pings(session: &Session) -> Option<bool> {
    match &session.connection {
        Connection::Open(live) => live.answers,
        _ => None,
    }
}
