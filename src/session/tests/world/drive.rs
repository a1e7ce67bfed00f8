//! Drives a session as the daemon does, and plays everybody around it: the browser, the server, the disk, the clock.

use super::*;

/// A connection, as the server has it.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) attempt: u64,
    /// What was sent and the server has not taken from its socket.
    wire: VecDeque<Wire>,
}

#[derive(Debug)]
pub(super) enum Wire {
    /// A message; one that was posted, if it says which.
    Message(Option<usize>),
    /// The server's own kind of ping.
    Beat,
    Ping(SentPing),
}

/// A ping of the session's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SentPing {
    pub(super) payload: [u8; PING_BYTES],
    /// Which it is of all.
    number: usize,
}

/// What a daemon's clock shows when it starts: there was time before.
const BEFORE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// When everything is on the disk: so long after `persist_after_ms`, if nothing happens.
const IDLE: Duration = Duration::from_millis(200);

pub(super) struct World {
    mode: Mode,
    session: Option<Session>,
    model: Model,
    now: Now,
    /// The clock on the wall, exactly.
    wall: Duration,
    link: Option<Link>,
    last_attempt: u64,
    disk: Disk,
    disk_is_at_work: bool,
    /// How much the disk had to do since anything else happened.
    busy: usize,
    /// When anything last happened to the session but what it asked of the disk, and how much that had to do.
    disturbed: Duration,
    /// What is on its way to the browser and counts when it is there: for which attachment of the port.
    unwritten: BTreeMap<u64, VecDeque<(u64, Tag)>>,
    mute: bool,
    ignores_beats: bool,
    /// The system takes nothing.
    stuck: bool,
    epochs: Vec<Arc<str>>,
    ids: Vec<String>,
    pub(super) met: Met,
    /// Counts everything that must differ from everything else.
    counter: usize,
}

impl World {
    pub(super) fn new(mode: Mode) -> Self {
        Self {
            mode,
            session: None,
            model: Model::new(mode, steps::plain(), Url::parse(SERVER).unwrap()),
            now: Now { elapsed: BEFORE, unix_ms: 1_700_000_000_000 },
            wall: Duration::from_millis(1_700_000_000_000),
            link: None,
            last_attempt: 0,
            disk: Disk::new(),
            disk_is_at_work: false,
            busy: 0,
            disturbed: Duration::ZERO,
            unwritten: BTreeMap::new(),
            mute: false,
            ignores_beats: false,
            stuck: false,
            epochs: Vec::new(),
            ids: Vec::new(),
            met: Met::new(),
            counter: 0,
        }
    }

    pub(super) fn step(&mut self, step: &Step) {
        match *step {
            Step::Open(opening) => self.open(opening),
            Step::Wait { ms } => self.wait(Duration::from_millis(ms)),
            Step::Stall { ms } => self.oversleep(Duration::from_millis(ms)),
            Step::WallClock { ms } => self.set_wall_clock(ms),
            Step::DiskIsSlow(slow) => {
                self.disk.slow = slow;
                self.disk_works();
            }
            Step::DiskPage { bytes } => self.disk.page = bytes,
            Step::DiskFails { times } => self.disk.fails = times,
            Step::DiskIsFull(full) => self.disk_is_full(full),
            Step::ServerIsMute(mute) => self.mute = mute,
            Step::ServerIgnoresBeats(ignores) => self.ignores_beats = ignores,
            Step::SystemIsStuck(stuck) => {
                self.stuck = stuck;
                self.flush();
            }
            Step::Sleep { ms, told } => {
                self.oversleep(Duration::from_millis(ms));
                if told {
                    self.distrust("sleep", Input::Woke);
                }
                self.timeout();
            }
            Step::BrowserQuits => {
                self.unwritten.clear();
                for port in 1..=PORTS {
                    self.step(&Step::Detach { port });
                }
            }
            _ if self.session.is_none() => {}
            Step::OpenElsewhere { port } => {
                // Once it is forgotten, it may have another server.
                if !self.model.blank {
                    self.model.refuse(port, Code::UrlDiffers);
                    self.input(opening(port, open("main"), Some("ws://localhost:9/")));
                }
            }
            Step::Detach { port } => {
                self.model.detach(port, self.now);
                self.input(Input::Detach { port: PortId(port) });
            }
            Step::Written { port, messages } => {
                for _ in 0..messages {
                    let Some((attachment, tag)) = self.unwritten.entry(port).or_default().pop_front() else { return };
                    self.model.stream.written(port, attachment, tag.seq);
                    self.input(Input::Written { tag });
                }
            }
            Step::Ack { port, percent } => {
                let (acked, delivered) = self.model.stream.place(port).unwrap_or_default();
                self.ack(port, acked + delivered.saturating_sub(acked) * percent / 100);
            }
            Step::AckBelow { port } => self.ack(port, self.model.stream.place(port).unwrap_or_default().0 / 2),
            Step::AckAhead { port } => self.ack(port, self.model.stream.place(port).unwrap_or_default().1 + 1),
            Step::AckOldEpoch { port } => {
                self.model.ack_of_another_epoch(port);
                let seq = self.model.stream.place(port).unwrap_or_default().1;
                let epoch = self.epochs.iter().rev().nth(1).map_or("old", |epoch| epoch).to_owned();
                self.input(Input::Ack { port: PortId(port), seq, epoch: Some(epoch), reference: None });
            }
            Step::Send { port, id, ttl_ms, resend, receipts, bytes } => {
                let body = self.body(bytes);
                let id = id.then(|| format!("id{}", self.counter));
                self.ids.extend(id.clone());
                self.send(port, Send { body, id, ttl_ms, resend, receipts: receipts.map(Into::into) });
            }
            Step::Repeat { port, back } => {
                let Some(id) = self.ids.iter().nth_back(back).cloned() else { return };
                let body = self.body(0);
                self.send(port, Send { body, id: Some(id), ttl_ms: None, resend: true, receipts: None });
            }
            Step::Subscribe { port, key, version, bytes } => {
                let payload = bytes.map(|bytes| subscription(key, version, bytes));
                self.model.subscribe(port, key, payload.clone());
                self.input(Input::Subscribe { port: PortId(port), key: key.into(), payload, reference: None });
            }
            Step::Unsubscribe { port, key, payload } => {
                let payload = payload.then(|| subscription(key, 9, 0));
                self.model.unsubscribe(port, key, payload.clone());
                self.input(Input::Unsubscribe { port: PortId(port), key: key.into(), payload, reference: None });
            }
            Step::DiskSaves => self.disk_saves(),
            Step::DiskReads => self.disk_reads(),
            Step::DiskIsDamaged => {
                if let Some((_, from, _)) = self.disk.reading {
                    self.disk.shelf.damage(from);
                    self.model.stream.unreadable(from);
                }
            }
            Step::Crash { lands, outage } => {
                self.meet(match (&self.disk.saving, lands) {
                    (None, _) => "killed",
                    (Some(_), true) => "killed while writing, and it was written",
                    (Some(_), false) => "killed while writing, and it was not written",
                });
                if lands && self.disk.fails == 0 {
                    self.land();
                }
                self.restart(outage);
            }
            Step::Stop { outage } => {
                self.stop();
                self.restart(outage);
            }
            Step::Connected { window_ms } => {
                let Some(attempt) = self.dialling() else { return };
                self.model.connected(self.now);
                self.input(Input::Connected { attempt, protocol: None });
                if let Some(window_ms) = window_ms {
                    self.frame(Content::Greeting { window_ms });
                }
            }
            Step::Refused(loss) => {
                if self.dialling().is_some() {
                    self.lose(loss.reason());
                }
            }
            Step::Dropped(loss) => {
                if self.open_attempt().is_some() {
                    self.lose(loss.reason());
                }
            }
            Step::Flaps { loss, times } => {
                for _ in 0..times {
                    self.step(&Step::Dropped(loss));
                    if self.model.line.phase == Phase::Waiting {
                        self.wait(self.model.line.wait_left(self.now));
                    }
                    self.step(&Step::Connected { window_ms: None });
                }
            }
            Step::Frames { count, content } => {
                // What was read before the session stopped reading is still given to it.
                let count = if self.model.line.paused { count / 4 } else { count };
                for _ in 0..count {
                    self.frame(content);
                }
            }
            Step::Alive => {
                let Some(attempt) = self.open_attempt() else { return };
                self.model.line.hears(self.now);
                self.input(Input::Alive { attempt });
            }
            Step::ServerReads { things } => self.server_reads(things),
            Step::Stale { what } => self.stale(what),
            Step::NetworkChanged => self.distrust("network-change", Input::NetworkChanged),
            Step::Configure { settings } => {
                let settings = steps::settings(settings);
                self.model.reconfigure(settings.clone(), self.now);
                self.input(Input::Configure { settings: Box::new(settings) });
            }
            Step::Close { port, forget } => {
                if self.model.stream.is_attached(port) {
                    self.model.close(forget, self.now);
                    self.input(close(forget));
                }
            }
            Step::Reconnect { port } => {
                if self.model.stream.is_attached(port) {
                    self.model.reconnect(port, self.now);
                    self.input(Input::Reconnect { port: PortId(port), reference: None });
                }
            }
        }
    }

    /// Everybody does what is expected, until nothing is left to be done.
    pub(super) fn come_to_rest(&mut self) {
        if self.session.is_none() {
            return;
        }
        (self.mute, self.ignores_beats, self.stuck) = (false, false, false);
        self.flush();
        (self.disk.slow, self.disk.fails) = (false, 0);
        self.disk_is_full(false);
        self.disk_works();
        for port in 1..=PORTS {
            self.step(&Step::Detach { port });
        }
        for (port, consumer) in (1..).zip(self.model.stream.consumers()) {
            self.open(Opening::plain(port, consumer));
        }
        if !self.model.stream.is_attached(1) {
            return;
        }
        self.step(&Step::Close { port: 1, forget: false });
        let settings = steps::plain();
        self.model.reconfigure(settings.clone(), self.now);
        self.input(Input::Configure { settings: Box::new(settings) });
        for _ in 0..1000 {
            if self.session.as_ref().is_some_and(|session| session.inbox.kept().0 == 0 && session.outbox.is_empty())
                && self.model.is_at_rest()
            {
                return self.leave_nothing();
            }
            self.step(&Step::Reconnect { port: 1 });
            self.step(&Step::Connected { window_ms: None });
            self.step(&Step::ServerReads { things: usize::MAX });
            for port in 1..=PORTS {
                if self.model.stream.reads(port) {
                    self.step(&Step::Ack { port, percent: 100 });
                }
            }
            self.wait(seconds(2));
        }
        panic!("it does not come to rest: {:?}", self.model);
    }

    /// When all is done, a daemon that is killed leaves nothing to tell.
    fn leave_nothing(&mut self) {
        self.wait(self.model.settings.inbox.persist_after + seconds(2));
        self.step(&Step::Crash { lands: false, outage: Outage::default() });
        let kept = self.session.as_ref().map(|session| session.inbox.kept().0);
        assert!(kept.is_none_or(|kept| kept == 0), "after an idle crash something is told");
    }

    /// What `status` shows is so.
    pub(super) fn check_figures(&self) {
        let Some(session) = &self.session else { return };
        let status = session.status(self.now);
        assert_eq!(status["epoch"], **self.epochs.last().unwrap());
        assert_eq!(status["inbox"]["head"], self.model.stream.head());
        let figures = |consumer: &serde_json::Value| {
            let name = consumer["consumer"].as_str().unwrap().to_owned();
            (name, (consumer["acked"].as_u64().unwrap(), consumer["attached"].as_bool().unwrap()))
        };
        let consumers: BTreeMap<_, _> = status["consumers"].as_array().unwrap().iter().map(figures).collect();
        assert_eq!(consumers, self.model.stream.places());
        assert_eq!(status["observers"], self.model.stream.observers());
    }

    fn open(&mut self, opening: Opening) {
        self.counter += 1;
        if self.session.is_none() {
            let settings = opening.settings.map_or_else(steps::plain, steps::settings);
            let url = Url::parse(SERVER).unwrap();
            self.model = Model::new(self.mode, settings.clone(), url.clone());
            let birth = Birth { number: 5, url, seed: self.counter as u64, settings, mode: self.mode, ..birth() };
            let session = Session::new(birth, self.now);
            self.begin_epoch(&session.epoch);
            self.session = Some(session);
            self.disk.forget();
            self.disk.abandon();
            self.unwritten.clear();
            self.last_attempt = 0;
            if self.disk.full {
                self.tell_room();
            }
        }
        let Opening { port, consumer, observe, auto, text, .. } = opening;
        let head = self.model.stream.head();
        let epoch = self.epochs.last().unwrap().to_string();
        let after = match opening.after {
            Named::No => None,
            Named::Behind(percent) => Some(After { epoch, seq: head * percent / 100 }),
            Named::AboveHead => Some(After { epoch, seq: head + 1 }),
            Named::OtherEpoch => Some(After { epoch: "other".into(), seq: 7 }),
        };
        let named = after.as_ref().map(|after| (after.epoch != "other").then_some(after.seq));
        let url = opening.query.map(|query| Url::parse(&format!("{SERVER}?{query}")).unwrap());
        let protocols = opening.protocol.map(|protocol| vec![protocol.to_owned()]);
        let settings = opening.settings.map(steps::settings);
        let attaching =
            Attaching { port, attachment: self.counter as u64, consumer, observe, auto, text, after: named };
        self.model.open(attaching, settings.as_ref(), url.as_ref(), protocols.as_ref(), self.now);
        let acknowledge = if auto { Acknowledge::Auto } else { Acknowledge::Manual };
        let open = Open { observe, acknowledge, as_text: text, after, protocols, ..open(consumer) };
        let settings = settings.map(Box::new);
        self.input(Input::Open { port: PortId(port), open: Box::new(open), url, settings, reference: None });
    }

    fn begin_epoch(&mut self, epoch: &Arc<str>) {
        assert!(!self.epochs.contains(epoch), "an epoch is used again");
        self.epochs.push(Arc::clone(epoch));
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
        self.model.lost(&reason, self.now);
        self.input(Input::Lost { attempt: link.attempt, reason });
    }

    fn distrust(&mut self, suspicion: &'static str, input: Input) {
        if self.session.is_some() {
            self.model.distrust(suspicion, self.now);
            self.input(input);
        }
    }

    fn frame(&mut self, content: Content) {
        let Some(attempt) = self.open_attempt() else { return };
        let body = match content {
            Content::Small => self.body(0),
            Content::Bytes(bytes) => self.body(bytes),
            Content::Pong => Body::Json(BEAT_REPLY.into()),
            Content::Greeting { window_ms } => {
                self.counter += 1;
                Body::Json(format!(r#"{{"reconnect_window_ms":{window_ms},"n":{}}}"#, self.counter).into())
            }
            Content::Acknowledgement => {
                self.counter += 1;
                let id = self.model.posts.acknowledgeable().unwrap_or_else(|| "nobody's".into());
                self.model.acknowledged(&id, self.now);
                Body::Json(format!(r#"{{"ack":"{id}","n":{}}}"#, self.counter).into())
            }
            Content::Progress { which, key } => {
                self.counter += 1;
                let progress = format!(r#"{{"type":"progress","task":{key},"n":{}}}"#, self.counter);
                Body::Json(if which == 0 { progress } else { format!(r#"{{"data":{progress}}}"#) }.into())
            }
        };
        self.model.frame(body.clone(), content, self.now);
        self.input(Input::Frame { attempt, body });
    }

    fn server_reads(&mut self, things: usize) {
        for _ in 0..things {
            // What it answers is not read then.
            if self.model.line.paused {
                return;
            }
            let Some(attempt) = self.open_attempt() else { return };
            let Some(thing) = self.link.as_mut().and_then(|link| link.wire.pop_front()) else { return };
            match thing {
                Wire::Message(post) => self.model.posts.server_has(post),
                Wire::Beat if self.ignores_beats => {}
                Wire::Beat => self.frame(Content::Pong),
                Wire::Ping(_) if self.mute => {}
                Wire::Ping(ping) => {
                    self.model.pong(ping, self.now);
                    self.input(Input::Pong { attempt, payload: ping.payload });
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
        let after = self.session.as_ref().map(|session| format!("{:?}", session.connection));
        assert!(after.is_none_or(|after| before == after), "an older attempt changed something");
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now.elapsed + time;
        while let Some((at, _)) = self.session.as_ref().and_then(Session::poll_timeout).filter(|(at, _)| *at <= end) {
            self.advance(at.saturating_sub(self.now.elapsed));
            self.timeout();
        }
        self.advance(end - self.now.elapsed);
        if self.session.is_some() {
            self.model.check_timeout(self.now);
            self.check_saved();
        }
    }

    fn advance(&mut self, time: Duration) {
        self.now.elapsed += time;
        self.wall += time;
        self.now.unix_ms = self.wall.as_millis() as u64;
    }

    /// Time passes, and nobody serves the timers.
    fn oversleep(&mut self, time: Duration) {
        self.advance(time);
        self.disturbed = self.disturbed.max(self.now.elapsed);
    }

    fn set_wall_clock(&mut self, ms: i64) {
        self.model.clock_was_set_back |= ms < 0;
        let step = Duration::from_millis(ms.unsigned_abs());
        self.wall = if ms < 0 { self.wall.saturating_sub(step) } else { self.wall + step };
        self.now.unix_ms = self.wall.as_millis() as u64;
    }

    fn timeout(&mut self) {
        // Once more if a connection ended, and with it the settings that held.
        for _ in 0..2 {
            let Some(session) = &mut self.session else { return };
            self.busy = 0;
            let more = session.deadlines().any(|(at, timer)| at <= self.now.elapsed && timer != Timer::Save);
            self.model.timeout(self.now);
            session.handle_timeout(self.now);
            if self.take_actions() > 0 || more {
                self.disturbed = self.disturbed.max(self.now.elapsed);
            }
            let Some(session) = &self.session else { return };
            if session.poll_timeout().is_none_or(|(at, _)| at > self.now.elapsed) {
                return self.model.check_timeout(self.now);
            }
        }
        panic!("it wants to be woken at once, again and again");
    }

    /// The system takes what was sent, if it takes anything.
    fn flush(&mut self) {
        if let Some(attempt) = self.open_attempt().filter(|_| !self.stuck) {
            self.model.flushed(self.now);
            self.input(flushed(attempt));
        }
    }

    fn dialling(&self) -> Option<u64> {
        self.link.as_ref().filter(|_| self.model.line.phase == Phase::Dialling).map(|link| link.attempt)
    }

    fn open_attempt(&self) -> Option<u64> {
        self.link.as_ref().filter(|_| self.model.line.phase == Phase::Open).map(|link| link.attempt)
    }

    pub(super) fn meet(&mut self, what: &'static str) {
        *self.met.entry(what).or_default() += 1;
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
        if !matches!(input, Input::Saved { .. } | Input::NotSaved { .. } | Input::Loaded { .. }) {
            self.busy = 0;
        }
        session.handle(input, self.now);
        self.disturbed = self.disturbed.max(self.now.elapsed);
        self.take_actions()
    }

    fn take_actions(&mut self) -> usize {
        let Some(session) = &mut self.session else { return 0 };
        let actions: Vec<_> = std::iter::from_fn(|| session.poll_action()).collect();
        let for_disk = |action: &&Action| matches!(action, Action::Save { .. } | Action::Load { .. });
        let (count, mut forgotten) = (actions.len() - actions.iter().filter(for_disk).count(), false);
        self.model.keep_in_memory(session.inbox.kept(), &self.disk);
        self.model.stream.pass(self.model.may_give_out(&self.disk));
        let sent = actions.iter().any(|action| matches!(action, Action::ToServer { .. }));
        // A ping of the server's own kind comes before anything is found out, the rest because of it.
        let beats = actions.iter().any(|action| matches!(action, Action::ToServer { body, .. } if is_beat(body)));
        if beats {
            self.model.line.writes();
        }
        self.model.answers_pings(answers_pings(session), self.now);
        if sent {
            self.model.line.writes();
        }
        for action in actions {
            match action {
                Action::ToExtension { port, event } => {
                    assert!(self.model.stream.is_attached(port.0) || self.model.expects_error(port.0), "{event:?}");
                    let opened = matches!(event, Event::Opened(_));
                    assert!(!forgotten || opened, "{event:?} after everything was forgotten");
                    self.event(port.0, event);
                }
                Action::ToServer { attempt, body } => {
                    let link = self.link.as_mut().filter(|link| link.attempt == attempt).expect("a connection");
                    link.wire.push_back(self.model.goes_to_server(&body, self.now));
                }
                Action::Ping { attempt, payload } => {
                    self.counter += 1;
                    let ping = SentPing { payload, number: self.counter };
                    let link = self.link.as_mut().filter(|link| link.attempt == attempt).expect("a connection");
                    link.wire.push_back(Wire::Ping(ping));
                    self.model.pings(ping, self.now);
                }
                Action::Pause { attempt } => {
                    assert_eq!(self.open_attempt(), Some(attempt));
                    self.model.line.paused = true;
                    let full = self.model.is_full();
                    self.meet(if full { "paused" } else { "paused for the disk" });
                }
                Action::Resume { attempt } => {
                    assert_eq!(self.open_attempt(), Some(attempt));
                    self.model.line.resumed(self.now);
                    self.meet("resumed");
                }
                Action::Save { ticket, changes } => {
                    assert_eq!(self.mode, Mode::Durable, "memory mode is durable's behaviour without the disk");
                    self.disk.save(ticket, changes, self.model.picture_for_disk(self.now));
                }
                Action::Load { ticket, from, to } => self.disk.load(ticket, from, to),
                Action::Connect { attempt, url, protocols, max_message, credential: _, detour: _ } => {
                    assert!(self.link.is_none(), "a second connection is opened");
                    assert!(attempt > self.last_attempt, "the number of an attempt is used again");
                    assert_eq!((&url, &protocols), (&self.model.url, &self.model.protocols));
                    assert_eq!(max_message, self.model.settings.inbox.max_message_bytes);
                    self.last_attempt = attempt;
                    self.link = Some(Link { attempt, wire: VecDeque::new() });
                    self.model.dials(self.now);
                }
                Action::Fetch { .. } => panic!("no credential is to be shown"),
                Action::PollAt { .. } => unreachable!("there is no detour"),
                Action::Disconnect { attempt, .. } => {
                    let link = self.link.take().expect("there is something to disconnect");
                    assert_eq!(link.attempt, attempt);
                    if !self.model.is_stopping() {
                        let why = self.model.disconnected(self.now);
                        self.meet(why);
                        // Other settings may hold from now on.
                        let kept = self.session.as_ref().unwrap().inbox.kept();
                        self.model.keep_in_memory(kept, &self.disk);
                        self.model.stream.pass(self.model.may_give_out(&self.disk));
                    }
                }
                Action::Finish { attempt, .. } => {
                    assert!(self.mode == Mode::Memory && self.model.is_stopping(), "nothing else ends so");
                    let link = self.link.take().expect("there is something to finish");
                    assert_eq!(link.attempt, attempt);
                }
                Action::Forgotten => {
                    self.disk.forget();
                    self.model.forget(self.now);
                    let epoch = Arc::clone(&self.session.as_ref().unwrap().epoch);
                    self.begin_epoch(&epoch);
                    self.meet("forgotten");
                    forgotten = true;
                }
            }
        }
        let session = self.session.as_ref().unwrap();
        // Other settings hold since the connection ended.
        self.model.keep_in_memory(session.inbox.kept(), &self.disk);
        for what in self.model.met() {
            *self.met.entry(what).or_default() += 1;
        }
        let session = self.session.as_ref().unwrap();
        self.model.check(session, self.link.as_ref(), &self.disk, self.now, count);
        if session.is_void() {
            self.session = None;
            return count;
        }
        if self.model.stream.is_a_window_full_of_messages() {
            self.meet("window full of messages");
        }
        if self.model.line.written_is_received {
            self.meet("never answers pings");
        }
        if forgotten {
            // What was set goes with it.
            let settings = steps::plain();
            self.model.reconfigure(settings.clone(), self.now);
            self.input(Input::Configure { settings: Box::new(settings) });
        }
        if sent {
            self.flush();
        }
        self.disk_works();
        count
    }

    fn event(&mut self, port: u64, event: Event) {
        match event {
            Event::Opened(opened) => {
                assert_eq!(opened.epoch, *self.epochs.last().unwrap());
                self.model.answered(port, &opened);
            }
            Event::Message { seq, at, ref body, replay, tag, .. } => {
                let (attachment, bytes) = self.model.stream.delivered(port, seq, at, body, replay);
                if body.len() < 1000 && self.counter.is_multiple_of(16) {
                    let mut text = bytes::BytesMut::new();
                    event.write(&mut text);
                    let mark = if replay { ",\"replay\":true".len() } else { 0 };
                    assert_eq!(text.len() - mark, bytes, "bytes are those of the `message`");
                }
                self.meet(if replay { "replay" } else { "message" });
                self.is_on_its_way(port, seq, tag, attachment);
            }
            Event::Gap { seq, gap, replay, tag, .. } => {
                self.meet_gap(seq, &gap);
                let attachment = self.model.stream.gap(port, seq, gap, replay);
                self.is_on_its_way(port, seq, tag, attachment);
            }
            Event::Receipt { stage, ids, reason, .. } => {
                self.meet(match (stage, reason) {
                    (Stage::Stored, None) => "stored",
                    (Stage::Received, None) => "received",
                    (Stage::Acknowledged, None) => "acknowledged",
                    (Stage::Expired, None) => "expired",
                    (Stage::Refused, Some(Refusal::Full)) => "refused full",
                    (Stage::Refused, Some(Refusal::UnknownDelivery)) => "refused unknown-delivery",
                    (Stage::Refused, Some(Refusal::TooLarge)) => "refused too-large",
                    (Stage::Refused, Some(Refusal::EndsConnections)) => "refused ends-connections",
                    (Stage::Refused, Some(Refusal::Disk)) => "refused disk",
                    (Stage::Refused, Some(Refusal::Damage)) => "refused damage",
                    other => panic!("there is no such receipt: {other:?}"),
                });
                for id in ids {
                    if self.model.posts.receipt(port, &id, Due { stage, reason }, &self.model.stream) {
                        self.meet("told to a later port");
                    }
                }
            }
            Event::State { state, .. } => self.model.state_told(port, *state),
            Event::Error(problem) => {
                self.meet(problem.code.as_str());
                self.model.error(port, problem.code, self.now);
            }
            _ => panic!("a session does not say {event:?}"),
        }
    }

    /// What counts when it is written carries the driver's number of the session.
    fn is_on_its_way(&mut self, port: u64, seq: u64, tag: Option<Tag>, attachment: Option<u64>) {
        assert_eq!(tag.map(|tag| (tag.session, tag.seq)), attachment.map(|_| (5, seq)));
        self.unwritten.entry(port).or_default().extend(attachment.zip(tag));
    }

    fn meet_gap(&mut self, seq: u64, gap: &Gap) {
        self.meet(match (gap.reason, gap.count) {
            (GapReason::Disconnected, _) => "gap disconnected",
            (GapReason::Overflow, Some(_)) => "gap overflow",
            (GapReason::Overflow, None) => "gap overflow of unknown number",
            (GapReason::Retention, Some(_)) => "gap retention",
            (GapReason::Retention, None) if gap.at_most.is_some() => "gap retention for one that was away",
            (GapReason::Retention, None) => "gap retention of unknown number",
            (GapReason::TooLarge, _) => "gap too-large",
            (GapReason::Epoch, _) => "gap epoch",
            (GapReason::ObserverLag, Some(_)) => "gap observer-lag",
            (GapReason::ObserverLag, None) => "gap observer-lag of unknown number",
            (GapReason::Damage, Some(_)) => "gap damage",
            (GapReason::Damage, None) => "gap damage of unknown number",
            (GapReason::Crash, _) => "gap crash",
        });
        if self.model.stream.has_dropped_before(gap.from, seq) {
            self.meet("gap behind what was delivered");
        }
    }
}

/// What the disk does, and those who end with the daemon.
impl World {
    /// A disk that is not slow does at once what it is asked for.
    fn disk_works(&mut self) {
        if std::mem::replace(&mut self.disk_is_at_work, true) {
            return;
        }
        while !self.disk.slow && self.disk.is_asked() {
            self.busy += if self.disk.saving.is_some() { 1000 } else { 1 };
            assert!(self.busy < 10_000, "it is written or read again and again");
            self.disk_saves();
            self.disk_reads();
        }
        self.disk_is_at_work = false;
    }

    fn disk_saves(&mut self) {
        if let Some(void) = self.disk.pop_void() {
            return self.hear_of(void);
        }
        let Some(ticket) = self.disk.saving.as_ref().map(|saving| saving.ticket) else { return };
        if self.disk.fails > 0 {
            self.disk.fails -= 1;
            self.disk.saving = None;
            self.meet("not saved");
            self.hear_of(Input::NotSaved { ticket });
            // It is tried again after a second.
            self.disturbed = self.now.elapsed + seconds(1);
            return;
        }
        self.land();
        if let Some(picture) = &self.disk.picture {
            self.model.posts.stored(&picture.posts, &self.model.stream);
        }
        self.hear_of(Input::Saved { ticket });
    }

    fn disk_reads(&mut self) {
        let Some((ticket, from, to)) = self.disk.reading.take() else { return };
        let (bodies, to) = self.disk.shelf.load(from, to, self.disk.page);
        self.model.stream.read(from, to);
        self.meet("read from the disk");
        self.hear_of(Input::Loaded { ticket, bodies, to });
    }

    fn disk_is_full(&mut self, full: bool) {
        if self.mode == Mode::Durable && self.disk.full != full {
            self.disk.full = full;
            self.tell_room();
        }
    }

    fn tell_room(&mut self) {
        self.model.disk_is_full(self.disk.full);
        self.input(Input::Room(!self.disk.full));
    }

    /// The write that is under way is done, whether the session hears of it or not.
    fn land(&mut self) {
        self.disk.land();
        if let Some(picture) = &self.disk.picture {
            self.model.posts.lie_on(&self.disk.shelf, &picture.posts);
        }
    }

    /// An answer of the disk.
    fn hear_of(&mut self, answer: Input) {
        let disturbed = self.disturbed;
        self.input(answer);
        self.disturbed = disturbed;
    }

    /// When nothing happens, everything is on the disk before long; and if the session says so, it is.
    fn check_saved(&self) {
        let Some(session) = self.session.as_ref().filter(|_| self.mode == Mode::Durable && !self.model.blank) else {
            return;
        };
        let enough = self.disturbed + self.model.settings.inbox.persist_after + IDLE;
        let is_saved = session.is_saved();
        assert!(
            is_saved || !self.disk.is_well() || self.now.elapsed < enough,
            "nothing happens, and it is not written"
        );
        if is_saved {
            let sheet = self.disk.shelf.sheet();
            let head = self.model.stream.head();
            assert!(self.disk.full || (sheet.head, sheet.reserved) == (head, head), "{head} is not written: {sheet:?}");
            assert!(self.model.posts.are_written(), "a message to the server is not written");
            self.disk.picture.as_ref().unwrap().assert_is(self.model.picture(self.now));
        }
    }

    /// The daemon ends as it should.
    fn stop(&mut self) {
        let does_all = self.disk.fails == 0 && !self.disk.full;
        self.model.stop(self.now);
        self.unwritten.clear();
        self.input(Input::Stop);
        while self.session.as_ref().is_some_and(|session| !session.is_saved()) {
            assert!(self.disk.is_asked(), "it waits for nothing");
            self.disk_saves();
        }
        if does_all {
            self.check_saved();
            self.meet("stopped");
        }
    }

    /// Another daemon goes on after a while with what is on the disk.
    fn restart(&mut self, outage: Outage) {
        if !self.model.is_stopping() {
            self.check_saved();
        }
        (self.session, self.link, self.last_attempt) = (None, None, 0);
        self.unwritten.clear();
        self.disk.abandon();
        self.advance(Duration::from_millis(outage.ms));
        self.set_wall_clock(outage.jump_ms);
        self.now.elapsed = BEFORE + Duration::from_millis(outage.ms % 1000);
        self.disturbed = self.now.elapsed;
        let Some(picture) = self.disk.picture.clone() else { return };
        self.counter += 1;
        let record = self.damaged_record(outage.damage);
        self.disk.picture = Some(self.model.restart(picture, &record, self.now));
        let (url, settings) = (self.model.url.clone(), self.model.settings.clone());
        let birth = Birth { number: 5, url, settings, seed: self.counter as u64, mode: self.mode, ..birth() };
        let session = Session::restore(birth, record, self.now);
        assert_eq!(session.epoch, *self.epochs.last().unwrap(), "the epoch goes on");
        self.session = Some(session);
        self.take_actions();
        if self.disk.full {
            self.tell_room();
        }
        self.meet("restarted");
    }

    /// What the next daemon finds.
    fn damaged_record(&mut self, damage: Damage) -> Record {
        let shelf = &mut self.disk.shelf;
        let arrivals: Vec<_> = shelf.arrivals.keys().copied().collect();
        let posts: Vec<_> = shelf.posts.keys().copied().collect();
        match damage {
            Damage::Rows { every } => arrivals.iter().step_by(every).for_each(|seq| shelf.damage(*seq)),
            Damage::Posts { every } => posts.iter().step_by(every).for_each(|number| shelf.damage_post(*number)),
            _ => {}
        }
        let mut record = shelf.record().unwrap();
        match damage {
            Damage::Bodies { every } => {
                for seq in arrivals.into_iter().step_by(every) {
                    if shelf.is_message(seq) {
                        shelf.damage(seq);
                        self.model.stream.unreadable(seq);
                    }
                }
            }
            Damage::PostBodies { every } => record.posts.iter_mut().step_by(every).for_each(|(_, body)| *body = None),
            _ => {}
        }
        record
    }
}

/// What a subscription sends, or in version 9 its end.
fn subscription(key: &str, version: u8, bytes: usize) -> Body {
    let (padding, version) = ("x".repeat(bytes), i32::from(version));
    Body::Json(format!(r#"{{"key":"{key}","version":{version},"padding":"{padding}"}}"#).into())
}

fn is_beat(body: &Body) -> bool {
    matches!(body, Body::Json(json) if json == BEAT)
}

fn answers_pings(session: &Session) -> Option<bool> {
    match &session.connection {
        Connection::Open(live) => live.answers,
        _ => None,
    }
}
