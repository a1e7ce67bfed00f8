//! The connection: when it is made, when it is left, how it is asked whether it lives.

use super::*;

const PROOF_TIME: Duration = Duration::from_secs(5);
const CANARY_TIME: Duration = Duration::from_secs(1);
const LONGEST_HINT: u64 = 3_600_000;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in super::super) enum Phase {
    #[default]
    Closed,
    Dialling,
    Open,
    Waiting,
    Parked,
}

#[derive(Debug)]
struct Ping {
    /// None until the session has sent it.
    sent_as: Option<SentPing>,
    sent: Duration,
    /// The last message before it.
    behind: Option<usize>,
    /// Nothing but its pong is proof: why the connection is not believed.
    suspicion: Option<&'static str>,
}

/// The next attempt comes at some time between these.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    earliest: Duration,
    latest: Duration,
    /// What to call it if the time lies in the first half, and in the second.
    halves: [&'static str; 2],
}

#[derive(Debug, Default)]
pub(in super::super) struct Line {
    pub(in super::super) phase: Phase,
    /// Somebody wanted this attempt, or it is its time.
    dial_due: bool,
    /// No attempt was made since the session was opened.
    fresh: bool,
    /// When an attempt was last made.
    dialled: Option<Duration>,
    /// The attempts since `burst` and `refill` are what they are.
    spent: Vec<Duration>,
    /// When all of the budget will be there again.
    full_at: Duration,
    /// Between these the next attempt must have been set, with this input.
    bounds: Option<Bounds>,
    /// Nothing but growing delays leads beyond this.
    first_latest: Duration,
    until: Duration,
    /// The code of why it waits or is parked.
    why: &'static str,
    /// Only the network may be to blame for the wait.
    network: bool,
    /// The window that the server asked for in the first message of a connection.
    asked_window: Option<Duration>,
    /// The one that it asked for when it went, since a connection was stable.
    hinted_window: Option<Duration>,
    /// Since then, one loss looked like everybody's.
    everybodys: bool,
    greeted: bool,
    failures: u32,
    faults: u32,
    /// Attempts since a connection was stable, or somebody asked.
    attempts: u32,
    opened: Duration,
    /// When a connection was lost that has not come back.
    pub(super) outage_since: Option<u64>,
    /// The server counts as one that never answers pings.
    pub(in super::super) written_is_received: bool,
    /// Something sent is not yet in the hands of the system.
    unflushed: bool,
    ever_ponged: bool,
    ever_replied: bool,
    heard: Duration,
    pub(in super::super) paused: bool,
    ping: Option<Ping>,
    /// The ping whose time was over when the timers were last served.
    unanswered: Option<Ping>,
    /// A server that can prove nothing is left.
    hopeless: Option<&'static str>,
    /// When a ping was last given up.
    given_up: Duration,
    last_beat: Option<Duration>,
    unanswered_beat: Option<Duration>,
    /// The beat without an answer whose time was over.
    lost_beat: Option<Duration>,
    /// What happened in this input.
    pub(super) met: Vec<&'static str>,
}

/// Attempts.
impl Line {
    pub(super) fn settings_changed(&mut self, before: &settings::Reconnect, after: &settings::Reconnect, now: Now) {
        if (before.burst, before.refill) != (after.burst, after.refill) {
            self.spent.clear();
            // A budget is never emptier than empty.
            self.full_at = self.full_at.min(now.elapsed + after.refill * after.burst);
        }
    }

    fn free_at(&self, settings: &settings::Reconnect) -> Duration {
        self.full_at.saturating_sub(settings.refill * (settings.burst - 1))
    }

    /// Somebody opened the session; `changed` says whether with something new.
    pub(super) fn opened(&mut self, changed: bool, settings: &settings::Reconnect, now: Now) {
        match self.phase {
            Phase::Closed => self.fresh = true,
            Phase::Parked if changed => {}
            _ => return,
        }
        self.start_anew();
        self.dial_or_wait(settings, now);
    }

    /// Somebody wants a connection now. Says whether that is refused.
    pub(super) fn reconnect(&mut self, settings: &settings::Reconnect, now: Now) -> bool {
        if matches!(self.phase, Phase::Dialling | Phase::Open) {
            return false;
        }
        let too_soon = self.dialled.is_some_and(|last| now.elapsed < last + seconds(1));
        if too_soon || self.free_at(settings) > now.elapsed {
            return true;
        }
        match self.phase {
            Phase::Parked => self.start_anew(),
            phase => self.fresh = phase == Phase::Closed,
        }
        self.dial_or_wait(settings, now);
        false
    }

    /// What was not allowed may be so by now.
    pub(super) fn ask_again(&mut self, settings: &settings::Reconnect, now: Now) {
        if self.phase == Phase::Parked && self.why == "not-allowed" {
            self.met.push("asked again");
            self.dial_or_wait(settings, now);
        }
    }

    fn start_anew(&mut self) {
        (self.failures, self.faults, self.attempts) = (0, 0, 0);
        (self.everybodys, self.hinted_window) = (false, None);
    }

    fn dial_or_wait(&mut self, settings: &settings::Reconnect, now: Now) {
        let free_at = self.free_at(settings);
        if free_at <= now.elapsed {
            self.dial_due = true;
        } else {
            let restarted = self.why == "restart" && self.phase == Phase::Waiting;
            self.met.extend(restarted.then_some("waits for the budget after a restart"));
            (self.phase, self.why, self.network) = (Phase::Waiting, "attempt-budget", true);
            self.fresh = false;
            self.bounds = Some(Bounds { earliest: free_at, latest: free_at, halves: ["waits for the budget"; 2] });
        }
    }

    pub(super) fn dials(&mut self, settings: &settings::Reconnect, now: Now) {
        assert!(std::mem::take(&mut self.dial_due), "nobody wanted an attempt in {:?}", self.phase);
        assert!(self.free_at(settings) <= now.elapsed);
        for (at, count) in self.spent.iter().rev().zip(2..) {
            let refilled = (now.elapsed - *at).as_nanos() / settings.refill.as_nanos();
            assert!(count <= u128::from(settings.burst) + refilled, "the attempt budget is exceeded");
        }
        if self.spent.len() > 200 {
            self.spent.drain(..100);
        }
        self.spent.push(now.elapsed);
        self.full_at = self.full_at.max(now.elapsed) + settings.refill;
        self.dialled = Some(now.elapsed);
        self.attempts += 1;
        self.phase = Phase::Dialling;
    }

    pub(super) fn connected(&mut self, now: Now) {
        let Self { phase, fresh, dialled, full_at, asked_window, hinted_window, everybodys, .. } = *self;
        let Self { failures, faults, attempts, .. } = *self;
        assert_eq!(phase, Phase::Dialling);
        let (ever_ponged, ever_replied) = (self.ever_ponged, self.ever_replied);
        let spent = std::mem::take(&mut self.spent);
        *self = Self {
            phase: Phase::Open,
            fresh,
            dialled,
            spent,
            full_at,
            asked_window,
            hinted_window,
            everybodys,
            failures,
            faults,
            attempts,
            opened: now.elapsed,
            ever_ponged,
            ever_replied,
            heard: now.elapsed,
            given_up: now.elapsed,
            ..Self::default()
        };
    }

    /// The attempt failed, or the connection is lost: what comes now?
    pub(super) fn lost(&mut self, reason: &Reason, settings: &settings::Reconnect, now: Now) {
        let verdict = verdict(reason);
        if !self.everybodys && (verdict != Verdict::Soon || reason.hint.is_some()) {
            (self.everybodys, self.failures) = (true, 0);
        }
        let before = self.failures as i32;
        self.failures += 1;
        self.faults += u32::from(verdict == Verdict::Thrice);
        self.why = reason.code;
        let parked = match verdict {
            Verdict::Park => Some("parked at once"),
            Verdict::Thrice if self.faults >= 3 => Some("parked for the third fault"),
            _ if settings.max_attempts == 0 || self.attempts < settings.max_attempts => None,
            _ => Some("parked after `max_attempts`"),
        };
        if parked.is_some() {
            self.phase = Phase::Parked;
            return self.met.extend(parked);
        }
        // What looks like everybody's loss begins with the window; one that looks like ours alone does not.
        let hint = reason.hint;
        self.hinted_window = hint.and_then(|hint| hint.window_ms).map(hinted).or(self.hinted_window);
        let told = self.hinted_window.or(self.asked_window);
        let window = if self.everybodys { told.unwrap_or(settings.herd_window) } else { Duration::ZERO };
        let base = if told.is_some() { settings.first } else { settings.first.max(window) };
        let grown = base.as_secs_f64() * settings.multiplier.powi(before);
        let longest = Duration::from_secs_f64(grown.min(settings.max.as_secs_f64())).max(window);
        // No two attempts in one window, and later ones no sooner than the bound before would have allowed.
        let shortest = longest.div_f64(settings.multiplier).max(window);
        let from = now.elapsed + hint.map_or(Duration::ZERO, |hint| hinted(hint.after_ms));
        let again = before > 0 && !window.is_zero();
        let earliest = if again { from + shortest } else { from };
        let latest = from + longest;
        let free_at = self.free_at(settings);
        (self.phase, self.network) = (Phase::Waiting, verdict == Verdict::Soon);
        let halves = match hint {
            _ if free_at > latest => ["waits for the budget"; 2],
            Some(_) => ["waits as the server said, early", "waits as the server said, late"],
            _ if !self.everybodys => ["waits for the network, early", "waits for the network, late"],
            // Without that very window it would be early.
            _ if self.failures > 1 || window <= 2 * settings.first => ["waits, early", "waits, late"],
            _ if self.asked_window.is_none() => {
                ["waits in the herd's window, early", "waits in the herd's window, late"]
            }
            _ if window > 2 * settings.herd_window => {
                ["waits in the window that was asked for, early", "waits in the window that was asked for, late"]
            }
            _ => ["waits, early", "waits, late"],
        };
        self.bounds = Some(Bounds { earliest: earliest.max(free_at), latest: latest.max(free_at), halves });
        self.first_latest = free_at.max(from + settings.first.max(window));
    }

    /// The end of a connection, whoever ended it.
    pub(super) fn over(&mut self, settings: &settings::Reconnect, now: Now) {
        self.fresh = false;
        if self.phase != Phase::Open {
            return;
        }
        if now.elapsed - self.opened >= settings.stable {
            self.met.extend((self.failures > 0).then_some("stable again"));
            self.start_anew();
        }
        self.outage_since.get_or_insert(now.unix_ms);
        (self.ping, self.unanswered, self.hopeless) = (None, None, None);
        (self.last_beat, self.unanswered_beat, self.lost_beat) = (None, None, None);
        (self.written_is_received, self.paused, self.unflushed) = (false, false, false);
    }

    pub(super) fn forget(&mut self) {
        (self.outage_since, self.asked_window) = (None, None);
        (self.ever_ponged, self.ever_replied) = (false, false);
    }

    /// The network may be back: one attempt costs nobody anything.
    fn try_network(&mut self, settings: &settings::Reconnect, now: Now) {
        let free_at = self.free_at(settings);
        let at = |time: Duration| time.max(free_at).min(self.until);
        let halves = ["the network is tried"; 2];
        self.bounds = Some(Bounds { earliest: at(now.elapsed), latest: at(now.elapsed + CANARY_TIME), halves });
    }

    pub(super) fn timeout(&mut self, settings: &Settings, now: Now) {
        match self.phase {
            Phase::Waiting if self.until <= now.elapsed => self.dial_or_wait(&settings.reconnect, now),
            Phase::Open if !self.paused => {
                let time = settings.heartbeat.timeout;
                self.unanswered = self.ping.take_if(|ping| ping.deadline(time) <= now.elapsed);
                if self.unanswered.is_some() {
                    self.given_up = now.elapsed;
                }
                self.lost_beat = self.unanswered_beat.take_if(|sent| *sent + time <= now.elapsed);
            }
            _ => {}
        }
    }

    pub(super) fn check_timeout(&self, heartbeat: &settings::Heartbeat, now: Now) {
        match self.phase {
            Phase::Waiting => assert!(self.until > now.elapsed, "the attempt is not made at its time"),
            Phase::Open => {
                let Some(first) = (!self.paused).then_some(&self.unanswered) else { return };
                let ignored = |sent: Duration| self.heard <= sent;
                if let Some(ping) = first {
                    assert!(ping.suspicion.is_none(), "a connection that proves nothing is left");
                    assert!(!(self.ever_ponged && ignored(ping.sent)), "a silent server is left");
                }
                let lost = self.lost_beat.is_some_and(|sent| self.ever_replied && ignored(sent));
                assert!(!lost, "a server that ignores its own kind of ping, and is silent, is left");
                let silent = self.heard.max(self.given_up) + heartbeat.interval <= now.elapsed;
                assert!(!silent || self.ping.is_some(), "a silent server is asked");
                assert!(self.ping.as_ref().is_none_or(|ping| ping.deadline(heartbeat.timeout) > now.elapsed));
                if heartbeat.send.is_some() {
                    let last = self.last_beat.unwrap_or(self.opened);
                    assert!(last + heartbeat.interval > now.elapsed, "its own kind of ping is not sent");
                }
            }
            _ => {}
        }
    }

    pub(super) fn check(&mut self, session: &Session) {
        assert!(!self.dial_due, "an attempt is due and not made");
        let states: &[State] = match self.phase {
            Phase::Closed => &[State::Disconnected],
            Phase::Dialling if self.fresh => &[State::Connecting],
            Phase::Dialling | Phase::Waiting => &[State::Reconnecting],
            Phase::Open => &[State::Connected],
            Phase::Parked => &[State::Error],
        };
        assert!(states.contains(&session.state()), "{:?} is {:?}", self.phase, session.state());
        match &session.connection {
            Connection::Waiting { until, reason, .. } => {
                assert_eq!((reason.code, reason.retryable), (self.why, true));
                match self.bounds.take() {
                    Some(Bounds { earliest, latest, halves }) => {
                        let slack = Duration::from_micros(1);
                        assert!(*until + slack >= earliest, "an attempt too early: {until:?}, not {earliest:?}");
                        assert!(*until <= latest + slack, "an attempt too late: {until:?}, not {latest:?}");
                        self.until = *until;
                        self.met.push(halves[usize::from(*until > (earliest + latest) / 2)]);
                        let grown = *until > self.first_latest && halves[0] == "waits, early";
                        self.met.extend(grown.then_some("waits longer than at first"));
                    }
                    None => assert_eq!(*until, self.until, "the time of an attempt changes without a reason"),
                }
            }
            Connection::Parked { reason } => assert_eq!((reason.code, reason.retryable), (self.why, false)),
            _ => {}
        }
        assert!(self.phase != Phase::Open || self.hopeless.is_none(), "it can prove nothing, and is left");
        assert!(self.phase != Phase::Open || self.is_asked(), "a connection that is doubted is asked");
    }

    pub(in super::super) fn wait_left(&self, now: Now) -> Duration {
        self.until.saturating_sub(now.elapsed)
    }
}

/// Signs of life.
impl Line {
    pub(in super::super) fn hears(&mut self, now: Now) {
        self.heard = now.elapsed;
    }

    /// The server may greet with the window over which those who lose it are to return.
    pub(super) fn first_message(&mut self, content: Content) {
        if let Content::Greeting { window_ms } = content
            && !self.greeted
        {
            self.asked_window = Some(hinted(window_ms));
        }
        self.greeted = true;
    }

    /// The server answered its own kind of ping, or says so.
    pub(super) fn replied(&mut self) {
        self.ever_replied = true;
        self.unanswered_beat = None;
        self.met.push("the answer to it");
    }

    pub(super) fn beats(&mut self, heartbeat: &settings::Heartbeat, now: Now) {
        let since = match self.last_beat {
            Some(last) => last + heartbeat.interval,
            None => self.opened + heartbeat.interval / 2,
        };
        assert!(since <= now.elapsed, "its own kind of ping is sent too early");
        self.last_beat = Some(now.elapsed);
        self.met.push("a ping of the server's own kind");
        if heartbeat.reply.is_some() {
            self.unanswered_beat.get_or_insert(now.elapsed);
        }
    }

    /// Something goes to the server with this input.
    pub(in super::super) fn writes(&mut self) {
        self.unflushed = true;
    }

    pub(super) fn flushed(&mut self) {
        self.unflushed = false;
    }

    /// Whether what is written counts as received.
    pub(super) fn confirms_what_is_written(&self) -> bool {
        self.written_is_received && !self.unflushed
    }

    /// Something outside may have cut the connection: only an answer to a fresh ping is proof now.
    pub(super) fn distrust(&mut self, suspicion: &'static str, settings: &settings::Reconnect, now: Now) {
        match self.phase {
            Phase::Open if self.written_is_received => self.hopeless = Some(suspicion),
            // Pongs of older pings are no proof. The fresh one must be sent with this input.
            Phase::Open => {
                let sent = now.elapsed;
                self.ping = Some(Ping { sent_as: None, sent, behind: None, suspicion: Some(suspicion) });
            }
            Phase::Waiting if self.network && suspicion == "network-change" => self.try_network(settings, now),
            _ => {}
        }
    }

    pub(super) fn pings(&mut self, ping: SentPing, behind: Option<usize>, now: Now) {
        let suspicion = match &self.ping {
            Some(Ping { sent_as: None, suspicion, .. }) => *suspicion,
            Some(ping) => panic!("a second ping is out: {ping:?}"),
            None => None,
        };
        self.ping = Some(Ping { sent_as: Some(ping), sent: now.elapsed, behind, suspicion });
    }

    fn is_asked(&self) -> bool {
        self.ping.as_ref().is_none_or(|ping| ping.sent_as.is_some())
    }

    /// A pong; if it proves anything, gives the last message before its ping.
    pub(super) fn pong(&mut self, pong: SentPing, now: Now) -> Option<Option<usize>> {
        self.heard = now.elapsed;
        // Of two that claim the same either will do, but not as a proof.
        let answers = |ping: &mut Ping| match ping.sent_as {
            Some(sent) if ping.suspicion.is_some() => sent == pong,
            sent => sent.is_some_and(|sent| sent.payload == pong.payload),
        };
        let ping = self.ping.take_if(answers)?;
        (self.ever_ponged, self.written_is_received) = (true, false);
        Some(ping.behind)
    }

    /// What the session thinks of the server: is it right? Says whether it has just found out.
    pub(super) fn answers_pings(&mut self, answers: Option<bool>, heartbeat: &settings::Heartbeat, now: Now) -> bool {
        let mute = answers == Some(false);
        let found_out = mute && !self.written_is_received;
        if found_out {
            assert!(!self.ever_ponged, "this server has answered pings");
            let ping = self.unanswered.as_ref().expect("a ping without an answer");
            assert!(ping.sent + heartbeat.timeout <= now.elapsed, "it still has time");
        }
        self.written_is_received = mute;
        found_out
    }

    pub(in super::super) fn resumed(&mut self, now: Now) {
        self.paused = false;
        self.heard = now.elapsed;
        if let Some(ping) = &mut self.ping {
            ping.sent = now.elapsed;
        }
        if let Some(sent) = &mut self.unanswered_beat {
            *sent = now.elapsed;
        }
    }

    /// Why the session may leave the connection, if it may: the code of the reason.
    pub(super) fn why_leave(&self) -> Option<&'static str> {
        if self.phase != Phase::Open {
            return None;
        }
        if self.hopeless.is_some() {
            return self.hopeless;
        }
        if self.paused {
            // Whoever does not listen does not wait for an answer.
            return None;
        }
        let ignored = |sent: Duration| self.heard <= sent;
        if self.lost_beat.is_some_and(|sent| self.ever_replied && ignored(sent)) {
            return Some("heartbeat");
        }
        let ping = self.unanswered.as_ref()?;
        ping.suspicion.or_else(|| (self.ever_ponged && ignored(ping.sent)).then_some("heartbeat"))
    }
}

/// What is kept of it, as it was when a write was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LinePicture {
    pub(super) closed: bool,
    pub(super) outage_since: Option<u64>,
    pub(super) full_at: Duration,
    asked_window: Option<Duration>,
    ever_ponged: bool,
    ever_replied: bool,
}

impl LinePicture {
    pub(super) fn without_budget(&self) -> Self {
        Self { full_at: Duration::ZERO, ..self.clone() }
    }
}

/// When the daemon is killed.
impl Line {
    pub(super) fn picture(&self) -> LinePicture {
        LinePicture {
            closed: self.phase == Phase::Closed,
            outage_since: self.outage_since,
            full_at: self.full_at,
            asked_window: self.asked_window,
            ever_ponged: self.ever_ponged,
            ever_replied: self.ever_replied,
        }
    }

    /// It connects again, unless it was closed, and as soon as the budget allows it: that was not filled meanwhile.
    pub(super) fn restart(&mut self, picture: &LinePicture, written: Now, settings: &settings::Reconnect, now: Now) {
        let &LinePicture { closed, outage_since, full_at, asked_window, ever_ponged, ever_replied } = picture;
        let full_at = now.elapsed_until(written.unix_at(full_at));
        *self = Self {
            phase: if closed { Phase::Closed } else { Phase::Waiting },
            why: "restart",
            network: true,
            until: now.elapsed,
            full_at: full_at.min(now.elapsed + settings.refill * settings.burst),
            asked_window,
            // Nobody can say what the earlier daemon still read.
            outage_since: outage_since.or(Some(written.unix_ms)),
            ever_ponged,
            ever_replied,
            met: std::mem::take(&mut self.met),
            ..Self::default()
        };
    }
}

/// An hour of a wrong hint can be lived with.
fn hinted(ms: u64) -> Duration {
    Duration::from_millis(ms.min(LONGEST_HINT))
}

impl Ping {
    fn deadline(&self, timeout: Duration) -> Duration {
        self.sent + self.suspicion.map_or(timeout, |_| timeout.min(PROOF_TIME))
    }
}
