//! The session's side of the server: the connection's states, the heartbeat, what a loss means.
//!
//! Owns: when to dial, when to give a connection up, what is written in which order. What comes is `inbox`'s to keep, what
//! waits is `outbox`'s, and how long to wait before the next attempt is `retry`'s to say.

use super::credential::Admission;
use super::fallback::{Route, Trial};
use super::*;
use crate::settings::{self, Auth, Blank};
use crate::wire::DetourKind;
use crate::wire::event::{State, StateReport};

/// How long a connection has to prove that it outlived a sleep or a change of the network.
const PROOF: Duration = Duration::from_secs(5);

/// The longest time before an attempt that a change of the network allows.
const CANARY: Duration = Duration::from_secs(1);

/// The longest first message of a connection that is looked into.
const MAX_GREETING: usize = 64 * 1024;

/// What somebody has to do when trying again cannot help.
const WHAT_ENDS_PARKING: &str = "nothing is tried until the extension opens the session with another `url` or other \
                                 settings, or asks for `reconnect`";

/// State of the connection.
#[derive(Debug)]
pub(super) enum Connection {
    /// Closed on request, or because no port came back.
    Closed,
    /// An attempt is under way, and be it that its credential is fetched; `again` if an earlier one failed or its connection
    /// was lost. `auth` is how the server is shown a credential on it, whatever the settings say since.
    Dialling { attempt: u64, again: bool, auth: Option<Box<Auth>>, route: Route },
    /// It is made.
    Open(Box<Live>),
    /// The next attempt has its time.
    Waiting { until: Duration, reason: Reason },
    /// No attempt will be made by itself.
    Parked { reason: Reason },
}

/// A connection that is made.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) attempt: u64,
    pub(super) route: Route,
    /// On a detour, what becomes of the WebSocket.
    pub(super) trial: Option<Trial>,
    pub(super) protocol: Option<Arc<str>>,
    /// An earlier attempt failed, or its connection was lost.
    again: bool,
    /// How long the server has to let us in; nothing once it has, or need not say so. Before that nothing is sent.
    pub(super) admission: Option<Duration>,
    /// It was shown another credential since, and has not said anything to that.
    pub(super) renewed: bool,
    since: Duration,
    pub(super) since_ms: u64,
    /// When the server was last heard.
    pub(super) heard: Duration,
    /// When a ping was last given up that had no answer: until the next one, nothing is asked.
    given_up: Duration,
    nonce: [u8; 4],
    ping: Option<Ping>,
    /// Whether this server answers pings: unknown until it once does or its time is over.
    pub(super) answers: Option<bool>,
    /// Everything sent is in the hands of the system.
    flushed: bool,
    pub(super) latency: Option<Duration>,
    beat: Option<Beat>,
    /// Nothing is read from the server for now.
    paused: bool,
    /// Its first message has come.
    greeted: bool,
    /// The mark of the last outage, as long as nobody knows whether it is to stay.
    undecided: Option<Undecided>,
    /// From where the server could go on behind the next message, unless that says so itself.
    next_cursor: Option<Arc<str>>,
}

/// A mark in the stream of which nobody knows yet whether it is to stay.
#[derive(Debug)]
struct Undecided {
    /// Its number.
    mark: u64,
    /// When the outage began.
    since: u64,
    /// From where the server could go on when the connection was made: what comes on it proves nothing of what is missing.
    cursor: Option<Arc<str>>,
    asked: Option<Asked>,
}

/// A server was asked to go on where the last connection ended.
#[derive(Debug, Clone, Copy)]
struct Asked {
    /// How long it has to answer, or to go on saying something.
    until: Duration,
    /// How long at most.
    latest: Duration,
    /// Whatever it answers says that it does, unless it says otherwise.
    is_trusted: bool,
}

/// By how much more than its time a server may take to answer that goes on saying something, which may be what was missing.
const REPLAY: u32 = 6;

/// A ping without an answer yet. There is one at a time: its pong proves all before it.
#[derive(Debug)]
struct Ping {
    sent: Duration,
    number: u64,
    /// Nothing but its pong is proof that the connection lives.
    suspicion: Option<Suspicion>,
}

/// The server's own kind of ping message (`heartbeat.send`).
#[derive(Debug)]
struct Beat {
    next: Duration,
    /// When the one was sent that has no answer yet.
    unanswered: Option<Duration>,
}

/// Why a connection is not believed any more.
#[derive(Debug, Clone, Copy)]
pub(super) enum Suspicion {
    /// The machine slept.
    Sleep,
    /// The machine's addresses changed.
    NetworkChange,
}

impl Suspicion {
    fn reason(self, server: &str) -> Reason {
        let (code, happened) = match self {
            Self::Sleep => ("sleep", "the machine slept"),
            Self::NetworkChange => ("network-change", "the network changed"),
        };
        Reason::new(code, format!("{happened}, and {server} could not be reached any more on the old connection"))
    }
}

/// Making connections and losing them.
impl Session {
    /// Dials, or waits until the budget allows it.
    pub(super) fn dial(&mut self, now: Now) {
        if let Some(want) = self.wanted_credential(now) {
            return self.park_for_credential(want, now);
        }
        if !self.may_dial(now) {
            let message = "there were too many attempts in a short time; the next one waits for the budget \
                           (`reconnect.burst`, `reconnect.refill_ms`)";
            let wait = self.may_dial_at().saturating_sub(now.elapsed);
            return self.wait(wait, Reason::new("attempt-budget", message.into()), now);
        }
        self.blank = false;
        let attempt = self.begin_attempt(now);
        let again = !matches!(self.connection, Connection::Closed);
        let auth = self.settings.auth.clone().map(Box::new);
        self.set_connection(Connection::Dialling { attempt, again, auth, route: Route::WebSocket }, now);
        match self.fetches_from() {
            Some(source) => self.actions.push_back(Action::Fetch { attempt, source }),
            None => self.set_out(attempt, now),
        }
    }

    /// The number of a new attempt, which is charged to the budget.
    pub(super) fn begin_attempt(&mut self, now: Now) -> u64 {
        self.retry.spend(&self.settings.reconnect, now.elapsed);
        self.attempts += 1;
        self.last_attempt = now.elapsed;
        self.attempts
    }

    /// All is there that the attempt needs: it sets out.
    pub(super) fn set_out(&mut self, attempt: u64, now: Now) {
        let detour = self.choose_detour(now);
        if let (Connection::Dialling { route, .. }, Some(detour)) = (&mut self.connection, &detour) {
            *route = Route::of(detour);
        }
        self.connect(attempt, detour, now);
    }

    pub(super) fn connect(&mut self, attempt: u64, detour: Option<Detour>, now: Now) {
        let credential = self.show_credential(now);
        self.connect_showing(attempt, credential, detour);
    }

    pub(super) fn connect_showing(&mut self, attempt: u64, credential: Option<Presented>, detour: Option<Detour>) {
        let protocols = if self.protocols.is_empty() { &self.settings.dialect.protocols } else { &self.protocols };
        self.actions.push_back(Action::Connect {
            attempt,
            url: self.url.clone(),
            protocols: protocols.clone(),
            credential,
            max_message: self.settings.inbox.max_message_bytes,
            detour: detour.map(Box::new),
        });
    }

    /// What was not allowed may be so by now: a file changed.
    pub(super) fn ask_again(&mut self, now: Now) {
        let Connection::Parked { reason } = &self.connection else { return };
        if reason.code == "not-allowed" || (reason.code == "token-needed" && self.wanted_credential(now).is_none()) {
            self.dial(now);
        }
    }

    /// When the budget of attempts allows the next one.
    pub(super) fn may_dial_at(&self) -> Duration {
        self.retry.allowed_at(&self.settings.reconnect)
    }

    pub(super) fn may_dial(&self, now: Now) -> bool {
        self.may_dial_at() <= now.elapsed
    }

    pub(super) fn handle_connected(&mut self, attempt: u64, protocol: Option<Arc<str>>, now: Now) {
        self.leave_detour(attempt, now);
        let Connection::Dialling { attempt: current, again, auth, route } = &self.connection else { return };
        let (again, route) = (*again, *route);
        if *current != attempt {
            return;
        }
        if auth.as_deref() != self.settings.auth.as_ref() {
            // Other settings came meanwhile: the server was not shown what it is to be shown.
            self.actions.push_back(Action::Disconnect { attempt, code: 1000, reason: "other settings" });
            return self.dial(now);
        }
        let undecided = self.outage_since.take().map(|since| {
            let mark = self.inbox.push_outage(since, now.unix_ms, now.elapsed);
            Undecided { mark, since, cursor: self.cursors.last().cloned(), asked: None }
        });
        let (trial, answers) = match route {
            Route::WebSocket => {
                self.websocket_due = None;
                (None, self.answers_pings.then_some(true))
            }
            Route::Detour { .. } => (Some(self.plan_trial(now)), Some(false)),
        };
        let live = Live {
            attempt,
            route,
            trial,
            protocol,
            again,
            admission: None,
            renewed: false,
            since: now.elapsed,
            since_ms: now.unix_ms,
            heard: now.elapsed,
            given_up: now.elapsed,
            nonce: self.rng.u32(..).to_be_bytes(),
            ping: None,
            answers,
            flushed: true,
            latency: None,
            beat: None,
            paused: false,
            greeted: false,
            undecided,
            next_cursor: None,
        };
        self.connection = Connection::Open(Box::new(live));
        match self.ask_for_admission(now) {
            Admission::Granted => self.begin(now),
            Admission::Asked => {}
            Admission::Unavailable(want) => {
                // It has ended while the connection was made.
                self.actions.push_back(Action::Disconnect { attempt, code: 1000, reason: "no credential" });
                self.connection_over(now);
                if self.fetches_from().is_some() {
                    return self.dial(now);
                }
                self.park_for_credential(want, now);
            }
        }
    }

    /// The connection is there, and whoever wants to know who we are knows it.
    fn begin(&mut self, now: Now) {
        let heartbeat = &self.settings.heartbeat;
        let beat = heartbeat.send.is_some().then(|| {
            // Those who were connected at the same time do not all speak at the same time.
            let first = heartbeat.interval.mul_f64(0.5 + self.rng.f64() / 2.0);
            Beat { next: now.elapsed + first, unanswered: None }
        });
        let Connection::Open(live) = &mut self.connection else { return };
        let attempt = live.attempt;
        live.admission = None;
        // A server's own kind of ping is for WebSockets.
        live.beat = beat.filter(|_| live.route == Route::WebSocket);
        (live.since, live.since_ms) = (now.elapsed, now.unix_ms);
        self.figures.connections += 1;
        self.since = now.unix_ms;
        self.changed();
        self.tell_state(now);
        self.show_newer_credential(now);
        self.ask_to_resume(now);
        self.deliver(now);
        if self.takes_messages() {
            for body in self.outbox.subscriptions().cloned().collect::<Vec<_>>() {
                self.write(attempt, body);
            }
        }
        // After the machine slept, this may come before the timer's call.
        self.outbox.expire(now);
        self.write_queue(now);
        self.send_receipts();
    }

    /// What the server said during an outage is missing, unless it confirms that it goes on where the last connection ended.
    fn ask_to_resume(&mut self, now: Now) {
        let Connection::Open(live) = &mut self.connection else { return };
        let attempt = live.attempt;
        let Some(undecided) = &mut live.undecided else { return };
        let is_asked = !matches!(live.route, Route::Detour { resumes: false, .. });
        let (Some(resume), Some(cursor), true) = (&self.settings.dialect.resume, undecided.cursor.clone(), is_asked)
        else {
            live.undecided = None;
            return;
        };
        let is_trusted = matches!(live.route, Route::Detour { is_behind: true, .. });
        if is_trusted || resume.replies.is_some() {
            let timeout = self.settings.heartbeat.timeout;
            let (until, latest) = (now.elapsed + timeout, now.elapsed + timeout * REPLAY);
            undecided.asked = Some(Asked { until, latest, is_trusted });
        } else {
            live.undecided = None;
        }
        // On a detour it was asked with the cursor in its request.
        if live.route == Route::WebSocket {
            let question = self.settings.dialect.format.frame(resume.send.fill(Blank::Cursor, &cursor));
            self.write(attempt, question);
        }
    }

    /// The highest number that may be given out although nobody knows yet what the server makes of the last outage.
    pub(super) fn decided(&self) -> u64 {
        match &self.connection {
            Connection::Open(live) => live.undecided.as_ref().map_or(u64::MAX, |undecided| undecided.mark - 1),
            _ => u64::MAX,
        }
    }

    pub(super) fn handle_lost(&mut self, attempt: u64, reason: Reason, now: Now) {
        if self.trial_failed(attempt, now) || self.attempt() != Some(attempt) {
            return;
        }
        self.figures.errors += 1;
        if !matches!(reason.code, "token-needed" | "token-failed") {
            // Without a credential nothing was tried.
            self.note_way();
        }
        if matches!(self.connection, Connection::Open(_)) {
            if reason.code == "message-too-large" {
                self.inbox.push_too_large(now.unix_ms, now.elapsed);
            }
            if reason.close_code == Some(1009) {
                self.refuse_largest(now);
            } else if self.is_for_a_message(&reason) {
                self.outbox.blame(now);
            }
        }
        let reason = self.named_at_the_door(reason);
        self.connection_over(now);
        if let Some(reason) = self.handle_refusal(&reason) {
            return self.park(reason, now);
        }
        match self.retry.next(self.verdict_on(&reason), reason.hint, &self.settings.reconnect, &mut self.rng) {
            retry::Next::After(delay) => self.wait(delay, reason, now),
            retry::Next::Never(why) => {
                let why = why.map_or_else(String::new, |why| format!("; {why}"));
                let message = if matches!(reason.code, "not-allowed" | "token-needed") {
                    reason.message // which says what to change
                } else {
                    format!("{}{why}; {WHAT_ENDS_PARKING}", reason.message)
                };
                self.park(Reason { message, ..reason }, now);
            }
        }
        self.send_receipts();
    }

    /// Nothing is tried by itself any more.
    pub(super) fn park(&mut self, reason: Reason, now: Now) {
        self.set_connection(Connection::Parked { reason: Reason { retryable: false, ..reason } }, now);
        self.send_receipts();
    }

    /// The next attempt comes after `delay`, or later if the budget does not allow it by then.
    fn wait(&mut self, delay: Duration, reason: Reason, now: Now) {
        let until = (now.elapsed + delay).max(self.may_dial_at());
        let reason = Reason { retryable: true, ..reason };
        self.set_connection(Connection::Waiting { until, reason }, now);
    }

    /// Ends the connection, or the attempt, or the waiting for one.
    pub(super) fn close(&mut self, reason: &'static str, now: Now) {
        if let Some(attempt) = self.attempt() {
            self.actions.push_back(Action::Disconnect { attempt, code: 1000, reason });
        }
        self.connection_over(now);
        self.set_connection(Connection::Closed, now);
        self.send_receipts();
    }

    /// What the end of a connection means for the streams, whoever ended it.
    pub(super) fn connection_over(&mut self, now: Now) {
        if let Connection::Open(live) = &self.connection {
            if let Some(attempt) = live.trial.as_ref().and_then(Trial::attempt) {
                self.actions.push_back(Action::Disconnect { attempt, code: 1000, reason: "not needed" });
            }
            if live.admission.is_none() {
                let lived = now.elapsed.saturating_sub(live.since);
                self.retry.connection_lived(lived, &self.settings.reconnect);
                if lived >= self.settings.reconnect.stable {
                    self.credentials.served();
                }
            }
            self.begin_outage(now);
            self.outbox.connection_lost(now);
        }
        if let Some(settings) = self.next_settings.take() {
            self.apply(*settings, now);
        }
    }

    /// The connection is lost. If the server has not even said what it makes of the outage before, and nothing else, that one
    /// goes on.
    pub(super) fn begin_outage(&mut self, now: Now) {
        if let Connection::Open(live) = &mut self.connection
            && let Some(Undecided { mark, since, .. }) = live.undecided.take()
            && self.inbox.head() == mark
        {
            self.inbox.withdraw_outage(mark);
            self.outage_since = Some(since);
        }
        self.outage_since.get_or_insert(now.unix_ms);
    }

    /// The server said that a message was too large for it; one that is refused without an id has nobody else to tell it.
    fn refuse_largest(&mut self, now: Now) {
        let Some(size) = self.outbox.refuse_largest(now) else { return };
        let message = format!(
            "{} closed the connection because a message was too large for it; the largest that it had not confirmed, of \
             {size} bytes, is not sent again",
            server_of(&self.url)
        );
        for port in self.ports.clone() {
            self.tell(port, Problem::new(Code::TooLarge, message.clone()), None);
        }
    }

    /// What happened outside may have cut the connection without anybody saying so: only an answer is proof now.
    pub(super) fn distrust(&mut self, suspicion: Suspicion, now: Now) {
        let reason = suspicion.reason(&server_of(&self.url));
        match &mut self.connection {
            // Whether that one is good shows soon enough.
            Connection::Open(live) if live.admission.is_some() => {}
            Connection::Open(live) if live.answers == Some(false) => {
                // It can prove nothing.
                let attempt = live.attempt;
                if matches!(suspicion, Suspicion::NetworkChange) {
                    // The next network may let WebSockets through.
                    self.retry.reached();
                }
                self.give_up(attempt, reason, now);
            }
            Connection::Open(live) => {
                // What was under way before may have been answered before: that proves nothing.
                live.nonce = self.rng.u32(..).to_be_bytes();
                live.ping = None;
                let number = self.outbox.last_written().unwrap_or(0);
                self.ping(number, Some(suspicion), now);
            }
            // The network may be back, and with it the way to the server. One attempt costs nobody anything.
            Connection::Waiting { until, reason }
                if verdict(reason) == Verdict::Soon && matches!(suspicion, Suspicion::NetworkChange) =>
            {
                let canary = CANARY.mul_f64(self.rng.f64());
                let sooner = (now.elapsed + canary).max(self.retry.allowed_at(&self.settings.reconnect));
                if sooner < *until {
                    *until = sooner;
                    self.tell_state(now);
                }
            }
            _ => {}
        }
    }

    fn set_connection(&mut self, connection: Connection, now: Now) {
        self.connection = connection;
        self.since = now.unix_ms;
        self.changed();
        self.tell_state(now);
    }

    fn tell_state(&mut self, now: Now) {
        let event = self.state_event(now);
        for &port in &self.ports {
            self.actions.push_back(Action::ToExtension { port, event: event.clone() });
        }
    }

    pub(super) fn state_event(&self, now: Now) -> Event {
        Event::State { session: Arc::clone(&self.name), state: Box::new(self.report(now)) }
    }

    /// When the connection has something to do.
    pub(super) fn connection_due(&self) -> Option<(Duration, Timer)> {
        match &self.connection {
            Connection::Waiting { until, .. } => Some((*until, Timer::Retry)),
            Connection::Open(live) => live.due(&self.settings.heartbeat).map(|at| (at, Timer::Heartbeat)),
            _ => None,
        }
    }

    pub(super) fn connection_timeout(&mut self, now: Now) {
        match &self.connection {
            Connection::Waiting { until, .. } if *until <= now.elapsed => self.dial(now),
            Connection::Open(_) => self.heartbeat(now),
            _ => {}
        }
    }

    /// Stops reading when the inbox wants it so, and reads on when there is room.
    pub(super) fn pause_or_resume(&mut self, now: Now) {
        let wanted = self.inbox.wants_pause();
        let Connection::Open(live) = &mut self.connection else { return };
        // Who is not read cannot let us in.
        let wanted = wanted && live.admission.is_none();
        if live.paused == wanted {
            return;
        }
        live.paused = wanted;
        let attempt = live.attempt;
        if wanted {
            return self.actions.push_back(Action::Pause { attempt });
        }
        // What the server said meanwhile was not heard: its time begins now.
        live.heard = now.elapsed;
        if let Some(ping) = &mut live.ping {
            ping.sent = now.elapsed;
        }
        if let Some(unanswered) = live.beat.as_mut().and_then(|beat| beat.unanswered.as_mut()) {
            *unanswered = now.elapsed;
        }
        self.actions.push_back(Action::Resume { attempt });
    }

    /// The open connection, if `attempt` is its number.
    pub(super) fn live(&mut self, attempt: u64) -> Option<&mut Live> {
        match &mut self.connection {
            Connection::Open(live) if live.attempt == attempt => Some(live),
            _ => None,
        }
    }

    /// Whether the server can be sent messages.
    pub(super) fn takes_messages(&self) -> bool {
        let on_the_way = |live: &Live| !matches!(live.route, Route::Detour { posts: false, .. });
        matches!(&self.connection, Connection::Open(live) if live.admission.is_none() && on_the_way(live))
    }

    /// Whether the server is there, and has let us in.
    pub(super) fn is_connected(&self) -> bool {
        matches!(&self.connection, Connection::Open(live) if live.admission.is_none())
    }

    /// Number of the connection that is made or being made.
    pub(super) fn attempt(&self) -> Option<u64> {
        match &self.connection {
            Connection::Dialling { attempt, .. } => Some(*attempt),
            Connection::Open(live) => Some(live.attempt),
            _ => None,
        }
    }

    pub(super) fn state(&self) -> State {
        match &self.connection {
            Connection::Closed => State::Disconnected,
            Connection::Dialling { again: false, .. } => State::Connecting,
            Connection::Dialling { .. } | Connection::Waiting { .. } => State::Reconnecting,
            Connection::Open(live) if live.admission.is_none() => match live.route {
                Route::WebSocket => State::Connected,
                Route::Detour { .. } => State::Polling,
            },
            Connection::Open(live) if live.again => State::Reconnecting,
            Connection::Open(_) => State::Connecting,
            Connection::Parked { .. } => State::Error,
        }
    }

    pub(super) fn report(&self, now: Now) -> StateReport {
        let (retry_at, reason) = match &self.connection {
            Connection::Waiting { until, reason } => {
                let wait = u64::try_from(until.saturating_sub(now.elapsed).as_millis()).unwrap_or(u64::MAX);
                (Some(now.unix_ms.saturating_add(wait)), Some(reason.clone()))
            }
            Connection::Parked { reason } => (None, Some(reason.clone())),
            _ => (None, None),
        };
        let protocol = match &self.connection {
            Connection::Open(live) => live.protocol.clone(),
            _ => None,
        };
        StateReport { state: self.state(), since: self.since, attempt: self.attempt(), retry_at, protocol, reason }
    }
}

/// What is said on a connection.
impl Session {
    pub(super) fn handle_frame(&mut self, attempt: u64, body: Body, now: Now) {
        let Some(live) = self.live(attempt) else { return };
        live.heard = now.elapsed;
        if !std::mem::replace(&mut live.greeted, true) {
            self.learn_from_greeting(&body);
        }
        self.figures.messages_received += 1;
        self.figures.bytes_received += body.len() as u64;
        let format = self.settings.dialect.format;
        let view = format.view(&body);
        if format.is_heart_beat(&body) || self.is_answer_to_beat(&view, now) || self.is_question(attempt, &view) {
            return;
        }
        self.note_acknowledgement(&view, now);
        self.note_resumption(&view, now);
        let admitted = self.admits_us(&view);
        self.receive(body, &view, now);
        match admitted {
            Some(true) => self.begin(now),
            Some(false) => {
                let message = format!("{} does not take the credential that it was shown", server_of(&self.url));
                self.give_up(attempt, Reason::new("auth-refused", message), now);
            }
            None => self.bound_undecided(attempt, now),
        }
    }

    /// Whether the connection may have ended because of a message to the server. On a detour only the answer to that says so.
    fn is_for_a_message(&self, reason: &Reason) -> bool {
        match &self.connection {
            Connection::Open(live) if live.route != Route::WebSocket => reason.code == "post-refused",
            _ => retry::may_be_for_a_message(reason),
        }
    }

    /// The next message of the stream, unless it came before. What is looked for in it is looked for in `view`.
    fn receive(&mut self, body: Body, view: &Body, now: Now) {
        let id = self.seen.id_of(view);
        if id.as_ref().is_some_and(|id| self.seen.has(id)) {
            self.figures.duplicates += 1;
            if let Connection::Open(live) = &mut self.connection {
                // It is this message's, and not the next one's.
                live.next_cursor = None;
            }
            return;
        }
        self.note_cursor(view);
        self.inbox.push_message(now.unix_ms, now.elapsed, body, view);
        if let Some(id) = id {
            self.seen.push(self.inbox.head(), id);
        }
    }

    /// What is withheld until the server has said something must not be more than the inbox holds.
    fn bound_undecided(&mut self, attempt: u64, now: Now) {
        if !self.inbox.is_full() {
            return;
        }
        let Some(live) = self.live(attempt) else { return };
        if live.admission.is_none() {
            live.undecided = None;
            return;
        }
        let message = format!(
            "{} sent more than the inbox holds before it said whether it takes the credential",
            server_of(&self.url)
        );
        self.give_up(attempt, Reason::new("auth-timeout", message), now);
    }

    /// Whether the server wants an answer to this, which is for nobody else (`dialect.answer`). It gets it.
    fn is_question(&mut self, attempt: u64, body: &Body) -> bool {
        if !self.is_connected() {
            return false;
        }
        let (Some(answer), Body::Json(json)) = (&self.settings.dialect.answer, body) else { return false };
        if !pattern::matches(&answer.when, json) {
            return false;
        }
        let answer = self.settings.dialect.format.frame(answer.send.to_string());
        if self.takes_messages() {
            self.write(attempt, answer);
        }
        true
    }

    /// The server may say whether it goes on where the last connection ended. That is a message like any other all the same.
    fn note_resumption(&mut self, body: &Body, now: Now) {
        let Connection::Open(live) = &mut self.connection else { return };
        let (Some(undecided), Some(resume)) = (&mut live.undecided, &self.settings.dialect.resume) else { return };
        let Some(asked) = &mut undecided.asked else { return };
        asked.until = asked.latest.min(now.elapsed + self.settings.heartbeat.timeout);
        let verdict = match (&resume.replies, body) {
            (Some(replies), Body::Json(json)) => pattern::verdict(replies, json),
            _ => None,
        };
        let Some(goes_on) = verdict.or_else(|| asked.is_trusted.then_some(true)) else { return };
        if goes_on {
            self.inbox.withdraw_outage(undecided.mark);
        }
        live.undecided = None;
    }

    /// From where the server can go on if this message, the next of the stream, was the last.
    fn note_cursor(&mut self, body: &Body) {
        let Connection::Open(live) = &mut self.connection else { return };
        let beside = live.next_cursor.take();
        let inside = match (&self.settings.dialect.resume, body) {
            (Some(resume), Body::Json(json)) => pattern::at(&resume.cursor, json).filter(|cursor| *cursor != "null"),
            _ => None,
        };
        let Some(cursor) = inside.map(Arc::from).or(beside) else { return };
        let polls = matches!(live.route, Route::Detour { kind: DetourKind::Polls, .. });
        let attempt = live.attempt;
        if let Some(url) = polls.then(|| self.poll_behind(&cursor)).flatten() {
            self.actions.push_back(Action::PollAt { attempt, url });
        }
        self.cursors.push(self.inbox.head() + 1, &cursor, self.journal.is_some());
    }

    pub(super) fn handle_cursor(&mut self, attempt: u64, cursor: Arc<str>) {
        if cursor.len() <= pattern::MAX_FOUND
            && let Some(live) = self.live(attempt)
        {
            live.next_cursor = Some(cursor);
        }
    }

    /// A server that acknowledges messages itself names their ids. What it says is a message like any other all the same.
    fn note_acknowledgement(&mut self, body: &Body, now: Now) {
        let (Some(place), Body::Json(json)) = (&self.settings.dialect.ack, body) else { return };
        let Some(found) = pattern::at(place, json) else { return };
        let id = serde_json::from_str::<String>(found).unwrap_or_else(|_| found.to_owned());
        if self.outbox.acknowledged(&id, now) {
            self.write_queue(now);
            self.send_receipts();
        }
    }

    /// A server that knows how many it serves may say in the first message of a connection over which window they are to
    /// return when they lose it. It is a message like any other all the same.
    fn learn_from_greeting(&mut self, body: &Body) {
        let Body::Json(json) = body else { return };
        if json.len() > MAX_GREETING {
            return;
        }
        if let Some(ms) = pattern::at("/reconnect_window_ms", json).and_then(|text| text.parse().ok()) {
            self.retry.learn_window(Some(ms));
        }
    }

    pub(super) fn handle_pong(&mut self, attempt: u64, payload: [u8; PING_BYTES], now: Now) {
        let Some(live) = self.live(attempt) else { return };
        live.heard = now.elapsed;
        let (nonce, number) = payload.split_at(live.nonce.len());
        let number = number.try_into().map_or(0, u64::from_be_bytes);
        // A peer may answer only the newest ping, and only one is out: any other payload is not ours.
        let Some(ping) = live.ping.take_if(|ping| ping.number == number && nonce == live.nonce) else { return };
        live.answers = Some(true);
        live.latency = Some(now.elapsed.saturating_sub(ping.sent));
        if !std::mem::replace(&mut self.answers_pings, true) {
            self.changed();
        }
        self.figures.last_pong_at = Some(now.unix_ms);
        self.received(number, now);
        self.send_receipts();
    }

    pub(super) fn handle_flushed(&mut self, attempt: u64, now: Now) {
        if let Some(live) = self.live(attempt) {
            live.flushed = true;
            self.confirm(now);
            self.send_receipts();
        }
    }

    /// Writes what waits, if there is a connection.
    pub(super) fn write_queue(&mut self, now: Now) {
        let Connection::Open(live) = &self.connection else { return };
        if !self.takes_messages() {
            return;
        }
        let attempt = live.attempt;
        // A message that is posted is answered, so that the next one goes when this one is there.
        let one_by_one = live.route != Route::WebSocket;
        while (!one_by_one || self.outbox.last_written().is_none())
            && let Some(item) = self.outbox.write_next()
        {
            let body = item.body.clone();
            self.write(attempt, body);
        }
        self.confirm(now);
    }

    pub(super) fn write(&mut self, attempt: u64, body: Body) {
        if let Some(live) = self.live(attempt) {
            live.flushed = false;
        }
        self.figures.messages_sent += 1;
        self.figures.bytes_sent += body.len() as u64;
        self.actions.push_back(Action::ToServer { attempt, body });
    }

    /// Asks the server's peer whether it has what was written: by a ping behind it, one at a time. A server that never
    /// answers pings can confirm nothing; for it, written is all that can be known.
    fn confirm(&mut self, now: Now) {
        let Connection::Open(live) = &self.connection else { return };
        let Some(number) = self.outbox.last_written() else { return };
        if live.answers == Some(false) {
            if live.flushed {
                self.received(number, now);
            }
        } else if live.ping.is_none() {
            self.ping(number, None, now);
        }
    }

    /// The server's peer has everything up to `number`, so that what waited for that can go.
    fn received(&mut self, number: u64, now: Now) {
        self.outbox.received(number, now);
        self.outbox.expire(now);
        self.write_queue(now);
    }

    fn ping(&mut self, number: u64, suspicion: Option<Suspicion>, now: Now) {
        let Connection::Open(live) = &mut self.connection else { return };
        live.ping = Some(Ping { sent: now.elapsed, number, suspicion });
        self.figures.last_ping_at = Some(now.unix_ms);
        let mut payload = [0; PING_BYTES];
        let (nonce, rest) = payload.split_at_mut(live.nonce.len());
        nonce.copy_from_slice(&live.nonce);
        rest.copy_from_slice(&number.to_be_bytes());
        self.actions.push_back(Action::Ping { attempt: live.attempt, payload });
    }

    /// Does what is due: a ping, or what follows from one that was not answered in time.
    fn heartbeat(&mut self, now: Now) {
        self.try_websocket(now);
        self.beat(now);
        if let Connection::Open(live) = &mut self.connection {
            // Who does not answer that has not confirmed it, and may be as well as ever.
            let over = live.undecided.take_if(|it| it.asked.is_some_and(|asked| asked.until <= now.elapsed));
            if let Some(Undecided { mark, asked: Some(Asked { is_trusted: true, .. }), .. }) = over {
                self.inbox.withdraw_outage(mark);
            }
            if live.admission.is_some_and(|until| until <= now.elapsed) {
                let attempt = live.attempt;
                let (server, time) = (server_of(&self.url), self.settings.heartbeat.timeout.as_secs_f32());
                let message = format!("{server} did not say within {time} s whether it takes the credential");
                return self.give_up(attempt, Reason::new("auth-timeout", message), now);
            }
        }
        let heartbeat = &self.settings.heartbeat;
        let Connection::Open(live) = &mut self.connection else { return };
        if live.ping_due(heartbeat).is_none_or(|due| due > now.elapsed) {
            return;
        }
        let Some(ping) = &live.ping else {
            let number = self.outbox.last_written().unwrap_or(0);
            return self.ping(number, None, now);
        };
        let attempt = live.attempt;
        if let Some(suspicion) = ping.suspicion {
            let reason = suspicion.reason(&server_of(&self.url));
            return self.give_up(attempt, reason, now);
        }
        if live.answers == Some(true) && live.heard <= ping.sent {
            let reason = self.silence("a ping");
            return self.give_up(attempt, reason, now);
        }
        // It lives, or it never answers pings and is not to be dropped for that alone. The pong may still be due behind
        // a long message.
        live.ping = None;
        live.given_up = now.elapsed;
        live.answers = live.answers.or(Some(false));
        self.confirm(now);
        self.send_receipts();
    }

    /// The same for a server with a ping message of its own.
    fn beat(&mut self, now: Now) {
        let heartbeat = &self.settings.heartbeat;
        let Connection::Open(live) = &mut self.connection else { return };
        let (attempt, heard, paused) = (live.attempt, live.heard, live.paused);
        let (Some(beat), Some(text)) = (&mut live.beat, &heartbeat.send) else { return };
        if let Some(sent) = beat.unanswered
            && sent + heartbeat.timeout <= now.elapsed
            && !paused
        {
            beat.unanswered = None;
            if self.answers_beats && heard <= sent {
                let reason = self.silence("a ping message (`heartbeat.send`)");
                return self.give_up(attempt, reason, now);
            }
        }
        if beat.next <= now.elapsed {
            beat.next = now.elapsed + heartbeat.interval;
            if heartbeat.reply.is_some() {
                beat.unanswered.get_or_insert(now.elapsed);
            }
            let body = self.settings.dialect.format.frame(text.to_string());
            self.write(attempt, body);
        }
    }

    /// Whether this is the server's answer to its own kind of ping message, which is for nobody else.
    fn is_answer_to_beat(&mut self, body: &Body, now: Now) -> bool {
        let (Some(reply), Body::Json(json)) = (&self.settings.heartbeat.reply, body) else { return false };
        if !pattern::matches(reply, json) {
            return false;
        }
        if !std::mem::replace(&mut self.answers_beats, true) {
            self.changed();
        }
        if let Connection::Open(live) = &mut self.connection
            && let Some(sent) = live.beat.as_mut().and_then(|beat| beat.unanswered.take())
        {
            live.latency = Some(now.elapsed.saturating_sub(sent));
        }
        true
    }

    fn silence(&self, unanswered: &str) -> Reason {
        let (server, time) = (server_of(&self.url), self.settings.heartbeat.timeout.as_secs_f32());
        Reason::new("heartbeat", format!("{server} did not answer {unanswered} within {time} s and sent nothing else"))
    }

    /// Ends a connection that is of no use any more.
    fn give_up(&mut self, attempt: u64, reason: Reason, now: Now) {
        self.actions.push_back(Action::Disconnect { attempt, code: 1001, reason: "no answer" });
        self.handle_lost(attempt, reason, now);
    }
}

impl Live {
    /// Whether the server has said anything on it.
    pub(super) fn has_been_heard(&self) -> bool {
        self.greeted || self.latency.is_some()
    }

    /// When the heartbeat has something to do.
    fn due(&self, heartbeat: &settings::Heartbeat) -> Option<Duration> {
        let beat = self.beat.iter().flat_map(|beat| {
            let answer = beat.unanswered.filter(|_| !self.paused).map(|sent| sent + heartbeat.timeout);
            [Some(beat.next), answer].into_iter().flatten()
        });
        let trial = self.trial.iter().filter_map(|trial| match trial {
            Trial::Waiting { until } => Some(*until),
            Trial::Dialling { .. } => None,
        });
        let undecided = self.undecided.iter().filter_map(|undecided| Some(undecided.asked?.until));
        self.ping_due(heartbeat).into_iter().chain(beat).chain(undecided).chain(trial).chain(self.admission).min()
    }

    /// When a ping is due, or the answer to one. Whoever does not listen must not wait for an answer.
    fn ping_due(&self, heartbeat: &settings::Heartbeat) -> Option<Duration> {
        if self.paused || self.admission.is_some() || self.route != Route::WebSocket {
            return None;
        }
        Some(match &self.ping {
            Some(Ping { sent, suspicion: Some(_), .. }) => *sent + PROOF.min(heartbeat.timeout),
            Some(Ping { sent, .. }) => *sent + heartbeat.timeout,
            None => self.heard.max(self.given_up) + heartbeat.interval,
        })
    }
}
