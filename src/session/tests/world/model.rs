//! What must come out of a session, from what went in: the protocol once more, in the simplest words.
//!
//! Its parts: [`Stream`], what goes to the extension · [`Posts`], what goes to the server · [`Line`], the connection. What
//! they assert are the sentences of the protocol.

mod line;
mod posts;
mod restart;
mod stream;

use super::*;
use crate::settings;
use crate::wire::event::StateReport;
pub(super) use line::{Line, Phase};
pub(super) use posts::{Due, Posts};
pub(super) use restart::Picture;
pub(super) use stream::{Attaching, Stream};

const FORGET_TIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// An `opened` that must come.
#[derive(Debug)]
struct OpenedDue {
    port: u64,
    head: u64,
    acked: u64,
    pending: u64,
    /// The same when a full disk has left its mark with this input, which may come first.
    pending_then: Option<u64>,
    ack: &'static str,
    window: Option<Window>,
}

#[derive(Debug)]
pub(super) struct Model {
    mode: Mode,
    pub(super) settings: Settings,
    /// What holds from the next connection on.
    next_settings: Option<Settings>,
    pub(super) url: Url,
    pub(super) protocols: Vec<String>,
    pub(super) stream: Stream,
    pub(super) posts: Posts,
    pub(super) line: Line,
    /// What each port was last told of the connection.
    told: BTreeMap<u64, StateReport>,
    told_now: BTreeSet<u64>,
    opened: Vec<OpenedDue>,
    /// Errors that must come.
    errors: Vec<(u64, Code)>,
    /// Since when no port is there.
    deserted: Option<Duration>,
    /// Nothing is kept of it: since it was made or forgotten, nobody has opened it, connected or sent anything.
    pub(super) blank: bool,
    /// It is to be closed with this input, and perhaps forgotten.
    closing: bool,
    forgetting: bool,
    /// The timers are being served.
    serving: bool,
    /// The daemon ends; whether the session was closed before.
    stopping: Option<bool>,
    /// What the clock on the wall showed before, it may show again.
    pub(super) clock_was_set_back: bool,
    /// Stored messages that were lost with a damaged file, of which nobody was told yet.
    lost_posts: u64,
}

/// What is asked for.
impl Model {
    pub(super) fn new(mode: Mode, settings: Settings, url: Url) -> Self {
        let awaits_acks = settings.dialect.ack.is_some();
        Self {
            mode,
            settings,
            next_settings: None,
            url,
            protocols: Vec::new(),
            stream: Stream::default(),
            posts: Posts::new(awaits_acks),
            line: Line::default(),
            told: BTreeMap::new(),
            told_now: BTreeSet::new(),
            opened: Vec::new(),
            errors: Vec::new(),
            deserted: None,
            blank: true,
            closing: false,
            forgetting: false,
            serving: false,
            stopping: None,
            clock_was_set_back: false,
            lost_posts: 0,
        }
    }

    pub(super) fn open(
        &mut self,
        attaching: Attaching,
        settings: Option<&Settings>,
        url: Option<&Url>,
        protocols: Option<&Vec<String>>,
        now: Now,
    ) {
        self.blank = false;
        let mut changed = false;
        if let Some(settings) = settings {
            changed |= self.next_settings.as_ref().unwrap_or(&self.settings) != settings;
            self.configure(settings.clone(), now);
        }
        if let Some(url) = url {
            changed |= self.url != *url;
            self.url = url.clone();
        }
        if let Some(protocols) = protocols {
            changed |= self.protocols != *protocols;
            self.protocols.clone_from(protocols);
        }
        let (superseded, acked, pending) = self.stream.attach(attaching, now);
        self.errors.extend(superseded.map(|older| (older, Code::Superseded)));
        if !attaching.observe && std::mem::take(&mut self.lost_posts) > 0 {
            self.errors.push((attaching.port, Code::Damaged));
        }
        if self.posts.disk_full {
            self.errors.push((attaching.port, Code::DiskFull));
        }
        self.deserted = None;
        self.line.opened(changed, &self.settings.reconnect, now);
        self.opened.push(OpenedDue {
            port: attaching.port,
            head: self.stream.head(),
            acked,
            pending,
            pending_then: None,
            ack: if attaching.auto || attaching.observe { "auto" } else { "manual" },
            window: (!attaching.observe).then_some(WINDOW),
        });
    }

    pub(super) fn detach(&mut self, port: u64, now: Now) {
        self.stream.detach(port, now);
    }

    /// A file says something else.
    pub(super) fn reconfigure(&mut self, settings: Settings, now: Now) {
        self.configure(settings, now);
        self.line.ask_again(&self.settings.reconnect, now);
    }

    /// Settings hold from the next connection on, and at once if there is none.
    fn configure(&mut self, settings: Settings, now: Now) {
        if self.line.phase == Phase::Open {
            self.next_settings = Some(settings);
        } else {
            self.apply(settings, now);
        }
    }

    /// On a full disk memory holds so much and no more. A port that opens with settings under which something has to go
    /// may hear of what is left.
    pub(super) fn keep_in_memory(&mut self, kept: (usize, usize), disk: &Disk) {
        if self.stream.keep_in_memory(kept, &self.settings.inbox, disk) {
            for due in &mut self.opened {
                due.pending_then = Some(self.stream.pending(due.port));
            }
        }
    }

    fn apply(&mut self, settings: Settings, now: Now) {
        self.line.settings_changed(&self.settings.reconnect, &settings.reconnect, now);
        if settings.inbox.collapse != self.settings.inbox.collapse {
            self.stream.other_collapse();
        }
        self.posts.awaits_acks = settings.dialect.ack.is_some();
        self.settings = settings;
        self.stream.keep_within(&self.settings.inbox);
    }

    pub(super) fn refuse(&mut self, port: u64, code: Code) {
        self.errors.push((port, code));
    }

    pub(super) fn ack(&mut self, port: u64, seq: u64) {
        let refused = self.stream.ack(port, seq).err();
        self.errors.extend(refused.map(|code| (port, code)));
    }

    /// An acknowledgement of another epoch is ignored.
    pub(super) fn ack_of_another_epoch(&mut self, port: u64) {
        if !self.stream.reads(port) {
            self.refuse(port, self.stream.no_place(port));
        }
    }

    pub(super) fn post(&mut self, port: u64, send: &Send, now: Now) {
        let refused = match self.stream.consumer_of(port) {
            None => Some(self.stream.no_place(port)),
            Some(consumer) => self.posts.post(port, consumer, send, self.mode, &self.settings.queue, now),
        };
        self.errors.extend(refused.map(|code| (port, code)));
    }

    pub(super) fn subscribe(&mut self, port: u64, key: &'static str, body: Option<Body>) {
        let connected = self.line.phase == Phase::Open;
        let refused = match self.stream.consumer_of(port) {
            None => Some(self.stream.no_place(port)),
            Some(consumer) => self.posts.subscribe(port, consumer, key, body, &self.settings.queue, connected),
        };
        self.errors.extend(refused.map(|code| (port, code)));
    }

    pub(super) fn unsubscribe(&mut self, port: u64, key: &'static str, body: Option<Body>) {
        let connected = self.line.phase == Phase::Open;
        let refused = match self.stream.consumer_of(port) {
            None => Some(self.stream.no_place(port)),
            Some(consumer) => self.posts.unsubscribe(port, consumer, key, body, &self.settings.queue, connected),
        };
        self.errors.extend(refused.map(|code| (port, code)));
    }

    pub(super) fn reconnect(&mut self, port: u64, now: Now) {
        if self.line.reconnect(&self.settings.reconnect, now) {
            self.refuse(port, Code::RateLimited);
        }
    }

    pub(super) fn distrust(&mut self, suspicion: &'static str, now: Now) {
        self.line.distrust(suspicion, &self.settings.reconnect, now);
    }

    pub(super) fn dials(&mut self, now: Now) {
        self.line.dials(&self.settings.reconnect, now);
    }

    pub(super) fn close(&mut self, forget: bool, now: Now) {
        (self.closing, self.forgetting) = (true, forget);
        if !matches!(self.line.phase, Phase::Dialling | Phase::Open) {
            self.over(now);
            self.line.phase = Phase::Closed;
        }
    }

    /// Whether the daemon must stay for it.
    fn is_needed(&self, session: &Session) -> bool {
        let in_memory = match self.mode {
            Mode::Durable => !session.is_saved(),
            _ => !self.posts.is_empty() || self.stream.holds_messages(),
        };
        self.stream.ports().next().is_some() || self.line.phase != Phase::Closed || in_memory
    }

    /// Whether there is nothing to know of it.
    pub(super) fn is_void(&self) -> bool {
        self.blank && self.stream.ports().next().is_none()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.is_some()
    }

    /// Everybody is told, and whoever comes while it is so.
    pub(super) fn disk_is_full(&mut self, full: bool) {
        if full {
            self.errors.extend(self.stream.ports().map(|port| (port, Code::DiskFull)));
        }
        self.posts.disk_full = full;
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.stream.is_done() && self.posts.is_done()
    }
}

/// What happens to the connection.
impl Model {
    pub(super) fn connected(&mut self, now: Now) {
        let outage = self.line.outage_since.take();
        self.line.connected(now);
        if let Some(since) = outage {
            self.stream.outage(since, &self.settings.inbox, now);
        }
        self.posts.connected();
        self.posts.expire(&self.stream, now);
    }

    /// The connection, or the attempt, ended.
    pub(super) fn lost(&mut self, reason: &Reason, now: Now) {
        if self.line.phase == Phase::Open {
            if reason.code == "message-too-large" {
                self.stream.too_large(&self.settings.inbox, now);
            }
            if reason.close_code == Some(1009) {
                if self.posts.refuse_largest(&self.stream, now) {
                    self.errors.extend(self.stream.ports().map(|port| (port, Code::TooLarge)));
                }
            } else if may_be_for_a_message(reason) {
                self.posts.blame(&self.stream, now);
            }
        }
        self.over(now);
        self.line.lost(reason, &self.settings.reconnect, now);
    }

    /// The session ended it: by request, for want of ports, or of an answer. Says why.
    pub(super) fn disconnected(&mut self, now: Now) -> &'static str {
        let unattended = self.serving && self.is_unattended(now);
        let why = match (self.closing, unattended) {
            (true, _) => "closed on request",
            (_, true) => "closed for want of ports",
            _ => self.line.why_leave().expect("a reason to leave"),
        };
        self.over(now);
        if self.closing || unattended {
            self.line.phase = Phase::Closed;
        } else {
            self.line.lost(&Reason::new(why, String::new()), &self.settings.reconnect, now);
        }
        if self.serving {
            // With the settings that hold now.
            self.drop_what_is_too_old(now);
        }
        why
    }

    fn over(&mut self, now: Now) {
        self.line.over(&self.settings.reconnect, now);
        self.posts.connection_lost(&self.stream, now);
        if let Some(settings) = self.next_settings.take() {
            self.line.met.push("other settings hold for the next connection");
            self.apply(settings, now);
        }
    }

    fn is_unattended(&self, now: Now) -> bool {
        self.deserted.is_some_and(|since| since + self.settings.linger <= now.elapsed)
    }

    fn is_unopened(&self, now: Now) -> bool {
        self.deserted.is_some_and(|since| since + FORGET_TIME <= now.elapsed)
    }

    /// Everything that was kept is deleted; ports that are attached are told that an epoch begins.
    pub(super) fn forget(&mut self, now: Now) {
        let unopened = self.serving && self.is_unopened(now);
        assert!(std::mem::take(&mut self.forgetting) || unopened, "nobody wanted that");
        assert_eq!(self.line.phase, Phase::Closed);
        self.stream.forget();
        self.posts.forget();
        self.line.forget();
        self.protocols.clear();
        self.lost_posts = 0;
        self.blank = true;
        for port in self.stream.ports() {
            let (ack, window) = match self.stream.is_auto(port) {
                None => ("auto", None),
                Some(auto) => (if auto { "auto" } else { "manual" }, Some(WINDOW)),
            };
            self.opened.push(OpenedDue { port, head: 0, acked: 0, pending: 0, pending_then: None, ack, window });
        }
    }

    /// The server names the id of a message.
    pub(super) fn acknowledged(&mut self, id: &str, now: Now) {
        self.posts.acknowledged(id, &self.stream, now);
    }

    /// A message of the server; `key` is what it is collapsed by, if it is.
    pub(super) fn frame(&mut self, body: Body, content: Content, now: Now) {
        self.line.hears(now);
        self.line.first_message(content);
        if content == Content::Pong && self.settings.heartbeat.reply.is_some() {
            return self.line.replied();
        }
        let key = match (content, &self.settings.inbox.collapse) {
            (Content::Progress { which, key }, Some(collapse)) if *collapse == COLLAPSES[which] => Some(key),
            _ => None,
        };
        self.stream.message(body, key, &self.settings.inbox, now);
    }

    /// A message goes to the server: one that was posted, if it says which.
    pub(super) fn goes_to_server(&mut self, body: &Body, now: Now) -> Wire {
        if matches!(body, Body::Json(json) if json == BEAT) {
            self.line.beats(&self.settings.heartbeat, now);
            return Wire::Beat;
        }
        Wire::Message(self.posts.goes(body, now))
    }

    /// The system has taken everything that was sent.
    pub(super) fn flushed(&mut self, now: Now) {
        self.line.flushed();
        self.receive_what_is_written(now);
    }

    fn receive_what_is_written(&mut self, now: Now) {
        if self.line.confirms_what_is_written() {
            self.posts.received(self.posts.last_written(), &self.stream, now);
            self.posts.expire(&self.stream, now);
        }
    }

    pub(super) fn pings(&mut self, ping: SentPing, now: Now) {
        self.line.pings(ping, self.posts.last_written(), now);
    }

    pub(super) fn pong(&mut self, pong: SentPing, now: Now) {
        if let Some(behind) = self.line.pong(pong, now) {
            self.posts.confirmed(behind, &self.stream, now);
            self.posts.expire(&self.stream, now);
        }
    }

    /// What the session thinks of the server.
    pub(super) fn answers_pings(&mut self, answers: Option<bool>, now: Now) {
        if self.line.answers_pings(answers, &self.settings.heartbeat, now) {
            self.receive_what_is_written(now);
        }
    }

    /// The timers are about to be served.
    pub(super) fn timeout(&mut self, now: Now) {
        self.serving = true;
        if self.is_unattended(now) && matches!(self.line.phase, Phase::Waiting | Phase::Parked) {
            self.over(now);
            self.line.phase = Phase::Closed;
        }
        self.line.timeout(&self.settings, now);
        let leaves = self.is_unattended(now) || self.line.why_leave().is_some();
        if self.line.phase != Phase::Open || !leaves {
            self.drop_what_is_too_old(now);
        }
    }

    fn drop_what_is_too_old(&mut self, now: Now) {
        self.posts.expire(&self.stream, now);
        self.stream.retain(&self.settings.inbox, now);
    }

    /// The timers were served: nothing is left undone.
    pub(super) fn check_timeout(&mut self, now: Now) {
        self.serving = false;
        self.stream.check_overdue(now);
        self.stream.check_retention(&self.settings.inbox, now);
        self.posts.check_expiry(now);
        self.line.check_timeout(&self.settings.heartbeat, now);
        if !self.blank {
            let closed = self.line.phase == Phase::Closed;
            assert!(closed || !self.is_unattended(now), "the connection is kept for `linger_ms` with no port attached");
            assert!(!closed || !self.is_unopened(now), "sessions unopened for 30 days are deleted");
        }
    }
}

/// What is told.
impl Model {
    pub(super) fn answered(&mut self, port: u64, opened: &Opened) {
        let place = self.opened.iter().position(|due| due.port == port).expect("an `open` to be answered");
        let due = self.opened.swap_remove(place);
        assert_eq!((opened.head, opened.acked), (due.head, due.acked), "{due:?}");
        assert!([Some(due.pending), due.pending_then].contains(&Some(opened.pending)), "{opened:?}: {due:?}");
        assert_eq!((opened.ack, opened.window), (due.ack, due.window));
        let state = StateReport { state: opened.state, ..blank_report() };
        self.told.insert(port, state);
    }

    pub(super) fn state_told(&mut self, port: u64, state: StateReport) {
        assert!(self.stream.is_attached(port), "a state for a port that is not attached");
        self.told.insert(port, state);
        self.told_now.insert(port);
    }

    pub(super) fn error(&mut self, port: u64, code: Code, now: Now) {
        if code == Code::AckOverdue {
            return self.stream.told_overdue(port, now);
        }
        let index = self.errors.iter().position(|expected| *expected == (port, code));
        self.errors.remove(index.unwrap_or_else(|| panic!("port {port} is told {code:?}")));
    }

    /// What happened in this input.
    pub(super) fn met(&mut self) -> impl Iterator<Item = &'static str> {
        let Self { stream, posts, line, .. } = self;
        stream.met.drain(..).chain(posts.met.drain(..)).chain(line.met.drain(..))
    }

    /// Whether an error must come for this port.
    pub(super) fn expects_error(&self, port: u64) -> bool {
        self.errors.iter().any(|(expected, _)| *expected == port)
    }

    /// What holds after every input.
    pub(super) fn check(&mut self, session: &Session, link: Option<&Link>, disk: &Disk, now: Now, actions: usize) {
        if std::mem::take(&mut self.closing) {
            assert_eq!(self.line.phase, Phase::Closed, "it was to be closed");
        }
        assert!(!self.forgetting, "it was to be forgotten");
        assert!(self.opened.is_empty(), "`open` is answered by `opened`");
        assert_eq!(self.errors, [], "errors that were not told");
        let open = self.line.phase == Phase::Open;
        self.line.check(session);
        self.posts.check(session, open, &self.stream);
        self.stream.pass(self.may_give_out(disk));
        self.stream.check(session, &self.settings.inbox, disk, now);
        self.check_told(session, link, now);
        let full = self.is_full();
        let durable = self.mode == Mode::Durable;
        let (must, may) = if durable { self.stream.floods(&self.settings.inbox, disk) } else { (false, false) };
        assert!(self.line.paused || !open || !(full || must), "reading goes on though it is full");
        assert!(!self.line.paused || (open && (full || may)), "reading is stopped though there is room");
        if self.stream.ports().next().is_none() {
            self.deserted.get_or_insert(now.elapsed);
        }
        if self.line.phase != Phase::Closed || !self.posts.is_blank() || self.stream.head() > 0 {
            self.blank = false;
        }
        // A daemon that ends asks no more, and lets ports hear the last of it.
        if !self.is_stopping() {
            assert_eq!(session.is_void(), self.is_void());
            assert_eq!(session.is_needed(), self.is_needed(session), "the daemon stays for what is needed");
        }
        let deliveries = self.stream.ports().count() * (2 + WINDOW.messages as usize);
        // What had to wait for the disk comes to observers all at once.
        let shown = self.stream.observers() * OBSERVER_BYTES / 64;
        assert!(actions <= 32 + deliveries + shown + 4 * self.posts.len(), "{actions} actions of one input");
    }

    /// Whether the server is not to be read until something is acknowledged.
    pub(super) fn is_full(&self) -> bool {
        self.settings.inbox.overflow == Overflow::Pause && self.stream.is_full(&self.settings.inbox)
    }

    /// The highest number that may be given out: one that the next daemon will not give to anything else; with
    /// `persist_after_ms` 0 one that is on the disk, if that takes anything.
    pub(super) fn may_give_out(&self, disk: &Disk) -> u64 {
        match self.mode {
            Mode::Durable if self.settings.inbox.persist_after.is_zero() && !disk.full => disk.head(),
            Mode::Durable => disk.reserved(),
            _ => u64::MAX,
        }
    }

    /// Every port knows the state as it is.
    fn check_told(&mut self, session: &Session, link: Option<&Link>, now: Now) {
        let phase = self.line.phase;
        let stream = &self.stream;
        self.told.retain(|port, _| stream.is_attached(*port));
        for port in stream.ports() {
            let told = self.told.get(&port).expect("a port is told the state");
            assert_eq!(told.state, session.state(), "port {port} was not told the state");
            if !self.told_now.contains(&port) {
                continue;
            }
            assert_eq!(told.attempt, link.map(|link| link.attempt));
            assert_eq!(told.retry_at.is_some(), phase == Phase::Waiting);
            assert_eq!(told.reason.is_some(), matches!(phase, Phase::Waiting | Phase::Parked), "{told:?}");
            if let Some(retry_at) = told.retry_at {
                let expected = now.unix_ms + self.line.wait_left(now).as_millis() as u64;
                assert!(retry_at.abs_diff(expected) <= 1, "it is tried again at {expected}, not at {retry_at}");
            }
        }
        self.told_now.clear();
    }
}

/// Whether a message may have ended the connection: the server did not say that it is for another reason, and it was
/// not the network.
fn may_be_for_a_message(reason: &Reason) -> bool {
    match reason.close_code {
        Some(code) => !matches!(code, 1000 | 1001 | 1012 | 1013 | 1014),
        None => ["reset", "protocol"].contains(&reason.code),
    }
}

fn blank_report() -> StateReport {
    StateReport { state: State::Connecting, since: 0, attempt: None, retry_at: None, protocol: None, reason: None }
}

/// Whether two bodies are the same, looking at their content only if they lie at different places.
fn same(one: &Body, other: &Body) -> bool {
    let place = |body: &Body| (std::mem::discriminant(body), body.bytes().as_ptr(), body.len());
    place(one) == place(other) || one == other
}
