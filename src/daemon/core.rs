//! All that the daemon knows: sessions, ports, and what is due when. Drives the sessions: inputs in, actions out.
//!
//! Owns: which session an `open` means, who may reach what by the configuration, carrying out what a session wants done.
//! Does not decide what that is (`session`), speak WebSocket (`server`) or read frames from links (`port`).
//!
//! `Core` is never borrowed across an await.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tracing::{info, warn};
use url::Url;

use super::credential;
use super::launch;
use super::port::Port;
use crate::config::{Config, ConfigError, Env, Paths, ProxyVariables, Way, is_loopback, server_url, session_table};
use crate::log::{chain, harmless};
use crate::os;
use crate::server::{self, Outgoing};
use crate::session::record::{Change, Owner};
use crate::session::{Action, Birth, Conversation, Direct, Input, Now, PortId, Session};
use crate::settings::{Fallback, Layer, Limits, Place, SettingError, Settings, Source};
use crate::spool::{Kept, News, Spool};
use crate::wire::event::{Closed, Problem, Reason};
use crate::wire::{Body, Code, Event, MAX_SESSIONS, Mode, Open, Send};

/// Tells sessions the time, and whether the machine slept. Their time goes on while it does; that of the runtime's timers
/// may not.
#[derive(Debug)]
pub(super) struct Clock {
    start: Duration,
    /// Time asleep that was already told.
    asleep: Duration,
}

impl Clock {
    /// A sleep that is shorter is none: clocks differ a little.
    const SLEEP: Duration = Duration::from_secs(2);

    /// What sessions take for the time before this daemon: enough for the age of whatever an earlier one left.
    const BEFORE: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

    fn start() -> Self {
        Self { start: os::boot_time(), asleep: os::time_asleep() }
    }

    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let unix_ms = u64::try_from(unix.as_millis()).unwrap_or(u64::MAX);
        Now { elapsed: Self::BEFORE + self.uptime(), unix_ms }
    }

    fn uptime(&self) -> Duration {
        os::boot_time().saturating_sub(self.start)
    }

    /// When, by the runtime's clock, it is `elapsed` if the machine stays awake.
    pub(super) fn instant(&self, elapsed: Duration) -> Instant {
        Instant::now() + elapsed.saturating_sub(self.now().elapsed)
    }

    /// Whether the machine slept since this was last asked.
    fn take_sleep(&mut self) -> bool {
        let asleep = os::time_asleep();
        let slept = asleep.saturating_sub(self.asleep) >= Self::SLEEP;
        if slept {
            self.asleep = asleep;
        }
        slept
    }
}

/// The group of settings that names other servers.
const FALLBACK: &str = "fallback";

/// Bytes of messages that are read from the spool at once.
const PAGE: usize = 1024 * 1024;

/// Who a session belongs to, and its name: nobody else can see or open it. One in direct mode is its port's alone, which
/// [`Core::identities`] does not know.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Identity {
    pub(super) origin: Arc<str>,
    pub(super) profile: String,
    pub(super) mode: Mode,
    pub(super) name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct SessionId(pub(super) u64);

struct Slot {
    identity: Identity,
    session: Box<dyn Conversation>,
    /// What the last `open` that carried settings said, and its text.
    given: Layer,
    given_text: String,
    /// The spool knows whose session it is and what it was given.
    introduced: bool,
    /// With which write it hears of that.
    introducing: Option<u64>,
    /// The connection that is made or being made, with its attempt; beside a detour perhaps another one.
    connections: Vec<(u64, Rc<Outgoing>)>,
    /// The deadline that stands in [`Core::timers`].
    deadline: Option<Duration>,
}

/// All that the daemon knows.
pub(super) struct Core {
    this: Weak<RefCell<Self>>,
    pub(super) paths: Paths,
    /// The environment of the daemon, and what it says about proxies.
    env: Rc<Env>,
    proxy_variables: Arc<ProxyVariables>,
    config: Config,
    /// The sessions are to be told.
    config_changed: bool,
    pub(super) clock: Clock,
    /// Looked up several times for each message: to hash a number takes longer than to find it.
    sessions: BTreeMap<SessionId, Slot>,
    identities: HashMap<Identity, SessionId>,
    pub(super) ports: BTreeMap<PortId, Port>,
    last_number: u64,
    /// Why what a person asked for just now is not done.
    refusal: Option<Box<Problem>>,
    pub(super) timers: BTreeSet<(Duration, SessionId)>,
    /// A deadline is nearer than those known before.
    pub(super) earlier: Rc<Notify>,
    /// Ask again whether the daemon is needed.
    pub(super) need_changed: Rc<Notify>,
    pub(super) stop: Rc<Notify>,
    /// Another daemon takes over when this one ends.
    pub(super) moving: bool,
    /// The daemon takes leave of its hosts.
    pub(super) leaving: watch::Sender<bool>,
    pub(super) connections: JoinSet<()>,
    spool: Spool,
    /// Whether the spool's disk takes messages.
    room: bool,
    /// The spool has said something.
    pub(super) heard: Rc<Notify>,
}

impl Core {
    pub(super) fn new(paths: Paths, env: Env, spool: Spool, kept: Vec<Kept>) -> Rc<RefCell<Self>> {
        let core = Rc::new_cyclic(|this| {
            RefCell::new(Self {
                this: this.clone(),
                paths,
                proxy_variables: Arc::new(ProxyVariables::of(&env)),
                env: Rc::new(env),
                config: Config::default(),
                config_changed: false,
                clock: Clock::start(),
                sessions: BTreeMap::new(),
                identities: HashMap::new(),
                ports: BTreeMap::new(),
                last_number: 0,
                refusal: None,
                timers: BTreeSet::new(),
                earlier: Rc::default(),
                need_changed: Rc::default(),
                stop: Rc::default(),
                moving: false,
                leaving: watch::Sender::default(),
                connections: JoinSet::new(),
                spool,
                room: true,
                heard: Rc::default(),
            })
        });
        core.borrow_mut().restore(kept);
        core
    }

    /// The sessions that an earlier daemon left go on.
    fn restore(&mut self, kept: Vec<Kept>) {
        if !kept.is_empty() {
            self.reload_config();
        }
        for Kept { session: number, owner, given: given_text, record } in kept {
            let Owner { origin, profile, name } = owner;
            let identity = Identity { origin: origin.into(), profile, mode: Mode::Durable, name };
            let Ok(url) = Url::parse(&record.sheet.url) else {
                warn!(session = number, "a session without a usable URL is left out");
                self.spool.write(number, 0, vec![Change::Forgotten]);
                continue;
            };
            // What was accepted once is kept as it is; the limits of today hold all the same.
            let given = Some(&given_text)
                .filter(|text| !text.is_empty())
                .map_or_else(|| Ok(Layer::default()), |text| Layer::from_json(text, &Limits::default()));
            let given = given.unwrap_or_else(|_| {
                warn!(session = number, "the settings that a session was given cannot be used any more");
                Layer::default()
            });
            let birth = self.birth(SessionId(number), &identity, &given, &url);
            let now = self.clock.now();
            let session = Session::restore(birth, record, now);
            let id = SessionId(number);
            self.identities.insert(identity.clone(), id);
            let slot = Slot {
                identity,
                session: Box::new(session),
                given,
                given_text,
                introduced: true,
                introducing: None,
                connections: Vec::new(),
                deadline: None,
            };
            self.sessions.insert(id, slot);
            self.set_timer(id);
        }
        info!(sessions = self.sessions.len(), "sessions of an earlier daemon");
    }

    fn birth(&self, id: SessionId, identity: &Identity, given: &Layer, url: &Url) -> Birth {
        Birth {
            number: id.0,
            name: identity.name.as_str().into(),
            mode: identity.mode,
            url: url.clone(),
            settings: self.effective(identity, given, url),
            seed: random(),
        }
    }

    pub(super) fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    pub(super) fn is_needed(&self) -> bool {
        !self.ports.is_empty() || self.sessions.values().any(|slot| slot.session.is_needed())
    }

    /// A port asks to be attached to a session.
    pub(super) fn open(
        &mut self,
        port: PortId,
        origin: &Arc<str>,
        open: Open,
        reference: Option<String>,
    ) -> Result<(), Problem> {
        self.check_name(port, &open)?;
        let (id, url) = self.session_for(port, origin, &open)?;
        let given = open.settings.as_ref().map(|text| self.given_settings(text, origin, &open)).transpose();
        let given = match given {
            Ok(given) => given,
            Err(problem) => {
                self.remove_if_void(id);
                return Err(problem);
            }
        };
        let Some(slot) = self.sessions.get(&id) else { return Ok(()) };
        let target = url.as_ref().unwrap_or_else(|| slot.session.url());
        // A server elsewhere has other defaults than one on this machine; a session that was forgotten may go there.
        let moves = is_loopback(target) != is_loopback(slot.session.url());
        let settings = given.as_ref().or_else(|| moves.then_some(&slot.given));
        let settings = settings.map(|given| Box::new(self.effective(&slot.identity, given, target)));
        let coming = self.effective(&slot.identity, given.as_ref().unwrap_or(&slot.given), target);
        // A plain WebSocket has no use for it.
        if open.mode != Mode::Direct
            && let Err(problem) = self.check_fallback(origin, &coming)
        {
            self.remove_if_void(id);
            return Err(problem);
        }
        let mut before = None;
        if slot.session.admits(port, &open, url.as_ref()) {
            if let (Some(given), Some(text), Some(slot)) = (given, &open.settings, self.sessions.get_mut(&id)) {
                (slot.given, slot.introduced, slot.introducing) = (given, false, None);
                slot.given_text.clone_from(text);
            }
            // Now, because in direct mode all may be over again when the input is handled.
            before = self.ports.get_mut(&port).and_then(|port| port.sessions.insert(open.session.clone(), id));
        }
        self.input(id, Input::Open { port, open: Box::new(open), url, settings, reference });
        if let Some(before) = before.filter(|before| *before != id) {
            // The same name in another profile or mode: this port has one session of a name.
            self.input(before, Input::Detach { port });
        }
        Ok(())
    }

    /// A session in direct mode shares its name with no other one of its port: nobody could tell what is about which.
    fn check_name(&self, port: PortId, open: &Open) -> Result<(), Problem> {
        let before = self.ports.get(&port).and_then(|port| port.sessions.get(&open.session));
        let Some(slot) = before.and_then(|before| self.sessions.get(before)) else { return Ok(()) };
        if open.mode != Mode::Direct && slot.identity.mode != Mode::Direct {
            return Ok(());
        }
        let message = format!(
            "this port has session `{}` open in {} mode; use another name, or leave that one first: by `detach`, or in \
             direct mode by `close`, and wait for its `closed`",
            open.session,
            slot.identity.mode.as_str()
        );
        Err(Problem::new(Code::NameTaken, message))
    }

    /// The session that `open` means, made if need be.
    fn session_for(
        &mut self,
        port: PortId,
        origin: &Arc<str>,
        open: &Open,
    ) -> Result<(SessionId, Option<Url>), Problem> {
        let unusable = self.reload_config();
        let identity = Identity {
            origin: Arc::clone(origin),
            profile: open.profile.clone(),
            mode: open.mode,
            name: open.session.clone(),
        };
        let known = self.identities.get(&identity).copied();
        let blank = known.is_none_or(|id| self.sessions.get(&id).is_none_or(|slot| slot.session.is_blank()));
        let bound = self.config.bound_url(origin, &open.session);
        let url = match (open.url.as_deref(), bound) {
            (Some(text), bound) => {
                let url =
                    server_url(text).map_err(|message| Problem::new(Code::UrlInvalid, format!("`url` {message}")))?;
                if bound.is_some_and(|bound| *bound != url) {
                    return Err(self.bound_elsewhere(origin, &open.session));
                }
                Some(url)
            }
            // What the session was opened with before counts no more.
            (None, Some(bound)) => Some(bound.clone()),
            (None, None) if !blank => None,
            (None, None) => self.config.session_url(origin, &open.session),
        };
        if let Some(url) = &url {
            self.check_allowed(origin, url, unusable)?;
        }
        if let Some(id) = known.filter(|_| !blank || url.is_some()) {
            return Ok((id, url));
        }
        let Some(url) = url else {
            let message =
                format!("session `{}` is not known (any more); open it with the `url` of its server", open.session);
            return Err(Problem::new(Code::UrlMissing, message));
        };
        if !self.has_room_for_session(origin) {
            let message = format!(
                "this extension has {MAX_SESSIONS} sessions, which is the limit; use one session for several ports, or \
                 delete one with `close` and `forget: true`, or close one that is in direct mode"
            );
            return Err(Problem::new(Code::TooManySessions, message));
        }
        let id = SessionId(self.spool.draw_number());
        let given = Layer::default();
        let birth = self.birth(id, &identity, &given, &url);
        let now = self.clock.now();
        let session: Box<dyn Conversation> = if open.mode == Mode::Direct {
            Box::new(Direct::new(birth, port, now))
        } else {
            self.identities.insert(identity.clone(), id);
            Box::new(Session::new(birth, now))
        };
        let server = identity.is_loggable().then(|| tracing::field::display(url.origin().ascii_serialization()));
        info!(session = id.0, origin = %harmless(origin), server, "session created");
        let slot = Slot {
            identity,
            session,
            given,
            given_text: String::new(),
            introduced: false,
            introducing: None,
            connections: Vec::new(),
            deadline: None,
        };
        self.sessions.insert(id, slot);
        if !self.room {
            self.input(id, Input::Room(false));
        }
        Ok((id, Some(url)))
    }

    /// Says that the files have secrets for another server than the one that was named.
    fn bound_elsewhere(&self, origin: &str, session: &str) -> Problem {
        let (file, table) = (self.paths.config_file().display(), session_table(origin, session));
        let message = format!(
            "the configuration has secrets for the server of session `{session}`, so only its `url` counts ({file}, below \
             {table}); leave `url` out"
        );
        Problem::new(Code::FileOnly, message)
    }

    /// Whether `origin` may have one more session; one that was forgotten makes room.
    fn has_room_for_session(&mut self, origin: &Arc<str>) -> bool {
        let own = self.sessions.iter().filter(|(_, slot)| slot.identity.origin == *origin);
        let own: Vec<_> = own.map(|(id, _)| *id).collect();
        if own.len() < MAX_SESSIONS {
            return true;
        }
        let forgotten = own.into_iter().find(|id| self.sessions.get(id).is_some_and(|slot| slot.session.is_blank()));
        if let Some(id) = forgotten {
            self.remove(id);
        }
        forgotten.is_some()
    }

    fn given_settings(&self, text: &str, origin: &str, open: &Open) -> Result<Layer, Problem> {
        let given = Layer::from_json(text, self.config.limits()).map_err(|error| match error {
            SettingError::Malformed(message) => Problem::new(Code::InvalidMessage, message),
            SettingError::OutOfBounds(message) => Problem::new(Code::SettingOutOfBounds, message),
            SettingError::FileOnly(message) => {
                let (file, table) = (self.paths.config_file().display(), session_table(origin, &open.session));
                Problem::new(Code::FileOnly, format!("{message}: {file}, below {table}"))
            }
        })?;
        // How and where the secrets of the files are shown is for the files to say.
        let about_secrets = given.about_credential().or_else(|| given.says(FALLBACK).then_some(FALLBACK));
        if let Some(what) = about_secrets.filter(|_| self.config.bound_url(origin, &open.session).is_some()) {
            let (file, table) = (self.paths.config_file().display(), session_table(origin, &open.session));
            let message = format!(
                "the configuration has secrets for the server of session `{}`, so only a configuration file may say \
                 `{what}`: {file}, below {table}; leave it out of `settings`",
                open.session
            );
            return Err(Problem::new(Code::FileOnly, message));
        }
        let meaningless = given.paths().find(|path| open.mode == Mode::Direct && !Direct::knows_setting(path));
        if let Some(path) = meaningless {
            let message = format!("`{path}` means nothing to a plain WebSocket (direct mode); leave it out");
            return Err(Problem::new(Code::Unsupported, message));
        }
        Ok(given)
    }

    /// Whether all that `fallback` names may be reached, and can be used with what else is set.
    fn check_fallback(&self, origin: &str, settings: &Settings) -> Result<(), Problem> {
        let Some(Fallback { sse, poll, post, .. }) = &settings.fallback else { return Ok(()) };
        for (name, address) in [("sse_url", sse), ("poll_url", poll), ("post_url", post)] {
            let Some(address) = address else { continue };
            let url = server_url(address.as_websocket().as_str())
                .map_err(|what| Problem::new(Code::UrlInvalid, format!("`fallback.{name}` {what}")))?;
            self.config
                .permits(origin, &url, self.paths.config_file())
                .map_err(|refusal| Problem::new(Code::ServerNotAllowed, format!("`fallback.{name}`: {refusal}")))?;
        }
        if let Some(auth) = settings.auth.as_ref().filter(|_| !settings.can_be_shown_by_http()) {
            let message = format!(
                "`auth.via` \"{}\" cannot show a credential on a `fallback`; use \"header\" or \"query\", or leave `fallback` out",
                auth.via.as_str()
            );
            return Err(Problem::new(Code::InvalidMessage, message));
        }
        Ok(())
    }

    /// What holds for a session: defaults, then the files, then what it was given.
    fn effective(&self, identity: &Identity, given: &Layer, url: &Url) -> Settings {
        let place = Place { memory: identity.mode == Mode::Memory, loopback: is_loopback(url) };
        let (origin, name, limits) = (&identity.origin, &identity.name, self.config.limits());
        let files = || self.config.layers(origin, name);
        let is_bound = self.config.bound_url(origin, name).is_some();
        // It may have been said before the files had secrets.
        let given = if is_bound { &given.without(FALLBACK) } else { given };
        let mut settings = Settings::effective(files().chain([given]), limits, place);
        if is_bound {
            // The same, and a preset may say it.
            settings.auth = Settings::effective(files(), limits, place).auth;
        }
        if let Some(auth) = &mut settings.auth {
            auth.source = self.config.source(origin, name);
        }
        settings
    }

    /// Whether `origin` may reach the server of `url`, by the configuration that was read just now, or is `unusable`.
    fn check_allowed(&self, origin: &str, url: &Url, unusable: Option<ConfigError>) -> Result<(), Problem> {
        self.config.permits(origin, url, self.paths.config_file()).map_err(|refusal| match unusable {
            // Perhaps it is allowed by what cannot be read.
            Some(error) => {
                Problem::new(Code::ConfigInvalid, format!("the configuration cannot be used: {}", chain(&error)))
            }
            None => Problem::new(Code::ServerNotAllowed, refusal),
        })
    }

    /// Reads the configuration again; gives why that is not possible, in which case the last good one goes on.
    fn reload_config(&mut self) -> Option<ConfigError> {
        match Config::load(&self.paths) {
            Ok(config) => {
                self.config_changed |= self.config != config;
                self.config = config;
                None
            }
            Err(error) => {
                warn!(error = %chain(&error), "configuration not usable; the last good one goes on");
                Some(error)
            }
        }
    }

    /// Tells a session what holds for it.
    fn configure(&mut self, id: SessionId) {
        let Some(slot) = self.sessions.get(&id) else { return };
        let settings = Box::new(self.effective(&slot.identity, &slot.given, slot.session.url()));
        self.input(id, Input::Configure { settings });
    }

    /// Tells a session what happened, and does what it wants done.
    pub(super) fn input(&mut self, id: SessionId, input: Input) {
        let now = self.clock.now();
        if let Some(slot) = self.sessions.get_mut(&id) {
            slot.session.handle(input, now);
            self.carry_out(id, now);
        }
    }

    /// What is due is done; first of all what it means that the machine slept.
    pub(super) fn fire_timers(&mut self) {
        if self.clock.take_sleep() {
            info!("the machine slept");
            self.tell_all(|_| Some(Input::Woke));
        }
        let now = self.clock.now();
        while let Some(&(at, id)) = self.timers.first().filter(|(at, _)| *at <= now.elapsed) {
            self.timers.remove(&(at, id));
            if let Some(slot) = self.sessions.get_mut(&id) {
                slot.deadline = None;
                slot.session.handle_timeout(now);
                self.carry_out(id, now);
            }
        }
    }

    /// The machine's addresses changed; the way to itself did not.
    pub(super) fn network_changed(&mut self) {
        info!("the network changed");
        self.tell_all(|session| (!is_loopback(session.url())).then_some(Input::NetworkChanged));
    }

    fn tell_all(&mut self, input: impl Fn(&dyn Conversation) -> Option<Input>) {
        let inputs: Vec<_> =
            self.sessions.iter().filter_map(|(id, slot)| Some((*id, input(&*slot.session)?))).collect();
        for (id, input) in inputs {
            self.input(id, input);
        }
    }

    /// Takes all actions of a session, in the same moment as the input that led to them.
    fn carry_out(&mut self, id: SessionId, now: Now) {
        let mut forgotten = false;
        let mut answers = VecDeque::new();
        loop {
            let Some(slot) = self.sessions.get_mut(&id) else { return };
            let (mut dial, mut fetch) = (None, None);
            while let Some(action) = slot.session.poll_action() {
                match action {
                    Action::ToExtension { port, event } => {
                        if let Some(port) = self.ports.get(&port) {
                            port.send(event);
                        } else if let (PortId::PERSON, Event::Error(problem)) = (port, event) {
                            self.refusal = Some(problem);
                        }
                    }
                    Action::ToServer { attempt, body } => slot.outgoing(attempt, |outgoing| outgoing.send(body)),
                    Action::Ping { attempt, payload } => slot.outgoing(attempt, |outgoing| outgoing.ping(payload)),
                    Action::PollAt { attempt, url } => slot.outgoing(attempt, |outgoing| outgoing.poll_at(url)),
                    Action::Pause { attempt } => slot.outgoing(attempt, Outgoing::pause_reading),
                    Action::Resume { attempt } => slot.outgoing(attempt, Outgoing::resume_reading),
                    Action::Connect { attempt, url, protocols, credential, max_message, detour } => {
                        let origin = Arc::clone(&slot.identity.origin);
                        let timeouts = server::Timeouts::default();
                        let (way, proxy_variables) = (Way::default(), Arc::clone(&self.proxy_variables));
                        let target = server::Target {
                            url,
                            origin,
                            protocols,
                            credential,
                            max_message,
                            detour: detour.map(|detour| *detour),
                            way,
                            proxy_variables,
                            timeouts,
                        };
                        dial = Some((attempt, target));
                    }
                    Action::Fetch { attempt, source } => fetch = Some((attempt, source)),
                    Action::Disconnect { attempt, code, reason } => {
                        info!(session = id.0, attempt, code, reason, "connection closed by this side");
                        slot.outgoing(attempt, |outgoing| outgoing.close(code, reason));
                        slot.connections.retain(|(current, _)| *current != attempt);
                    }
                    Action::Finish { attempt, code, reason } => {
                        info!(session = id.0, attempt, code, "connection is being closed by this side");
                        slot.outgoing(attempt, |outgoing| outgoing.finish(code, &reason));
                    }
                    Action::Save { ticket, mut changes } => {
                        if !slot.introduced && slot.introducing.is_none() {
                            slot.introducing = Some(ticket);
                            changes.splice(0..0, slot.introduction());
                        }
                        self.spool.write(id.0, ticket, changes);
                    }
                    Action::Load { ticket, from, to } => self.spool.load(id.0, ticket, from, to, PAGE),
                    Action::Forgotten => {
                        info!(session = id.0, "session forgotten");
                        (slot.given, slot.introduced, slot.introducing) = (Layer::default(), false, None);
                        slot.given_text.clear();
                        if slot.identity.mode == Mode::Durable {
                            self.spool.write(id.0, 0, vec![Change::Forgotten]);
                        }
                        forgotten = true;
                    }
                }
            }
            let not_allowed = |message| ("not-allowed", message);
            let refusals = [
                fetch.and_then(|(attempt, source)| {
                    Some((attempt, self.fetch(id, attempt, source).map_err(not_allowed).err()?))
                }),
                dial.and_then(|(attempt, target)| Some((attempt, self.connect(id, attempt, target).err()?))),
            ];
            for (attempt, (code, message)) in refusals.into_iter().flatten() {
                info!(session = id.0, attempt, "not connected: the configuration does not allow the server any more");
                answers.push_front(Input::Over { attempt, close: Closed::abnormal() });
                answers.push_front(Input::Lost { attempt, reason: Reason::new(code, message) });
            }
            let Some(answer) = answers.pop_front() else { break };
            if let Some(slot) = self.sessions.get_mut(&id) {
                slot.session.handle(answer, now);
            }
        }
        self.remove_if_void(id);
        self.set_timer(id);
        if !self.sessions.get(&id).is_some_and(|slot| slot.session.is_needed()) {
            self.need_changed.notify_one();
        }
        if forgotten {
            self.configure(id);
        }
        if std::mem::take(&mut self.config_changed) {
            for id in self.sessions.keys().copied().collect::<Vec<_>>() {
                self.configure(id);
            }
        }
    }

    /// The server that a session may connect to which wants to connect to that of `url`.
    ///
    /// # Errors
    /// If it is not allowed any more; says why.
    fn permitted(&mut self, identity: &Identity, url: &Url) -> Result<Url, String> {
        // What was allowed when the session was opened may be so no more.
        self.reload_config();
        let Identity { origin, name, .. } = identity;
        let url = match self.config.bound_url(origin, name) {
            Some(bound) if bound.origin() != url.origin() => {
                let (file, table) = (self.paths.config_file().display(), session_table(origin, name));
                return Err(format!(
                    "the session was opened for another server than the one that the configuration has secrets for ({file}, \
                     below {table}); end it with `close` and `forget: true`, and open it anew"
                ));
            }
            Some(bound) => bound.clone(),
            None => url.clone(),
        };
        self.config.permits(origin, &url, self.paths.config_file())?;
        Ok(url)
    }

    /// Begins to get the credential for an attempt to connect.
    ///
    /// # Errors
    /// If the server is not allowed any more; says why.
    fn fetch(&mut self, id: SessionId, attempt: u64, source: Source) -> Result<(), String> {
        let Some(slot) = self.sessions.get(&id) else { return Ok(()) };
        let (identity, url) = (slot.identity.clone(), slot.session.url().clone());
        self.permitted(&identity, &url)?;
        let (core, env, host) = (self.this.clone(), Rc::clone(&self.env), self.paths.host().clone());
        tokio::task::spawn_local(async move {
            let credential = credential::fetch(&source, &env, &host).await;
            if let Err(reason) = &credential {
                let message = identity.is_loggable().then(|| tracing::field::display(harmless(&reason.message)));
                info!(session = id.0, attempt, code = reason.code, reason = message, "no credential");
            }
            if let Some(core) = core.upgrade() {
                core.borrow_mut().input(id, Input::Fetched { attempt, credential });
            }
        });
        Ok(())
    }

    /// Begins an attempt to connect.
    ///
    /// # Errors
    /// If the server is not allowed any more; says why, behind a word for it.
    fn connect(&mut self, id: SessionId, attempt: u64, target: server::Target) -> Result<(), (&'static str, String)> {
        let Some(slot) = self.sessions.get(&id) else { return Ok(()) };
        let identity = slot.identity.clone();
        let url = self.permitted(&identity, &target.url).map_err(|message| ("not-allowed", message))?;
        let Some(slot) = self.sessions.get(&id) else { return Ok(()) };
        let target = server::Target { url, ..target };
        // Secrets that stand beside the server's URL go to that server, on whichever way, and to no other.
        let mut beside = &target.url;
        let detour = target.detour.iter().flat_map(|detour| [Some(&detour.url), detour.post.as_ref()]);
        for url in detour.flatten() {
            let permits = self.config.permits(&target.origin, url, self.paths.config_file());
            permits.map_err(|message| ("fallback-not-allowed", message))?;
            if url.origin() != target.url.origin() {
                beside = url;
            }
        }
        let is_elsewhere = *beside != target.url;
        let of_extension = self.config.source(&identity.origin, &identity.name) == Source::Extension;
        let credential = target.credential.clone().filter(|_| of_extension || !is_elsewhere);
        // Other settings may hold by now. The session hears of them only when it has been served, but they count for this
        // connection.
        let max_message = self.effective(&slot.identity, &slot.given, &target.url).inbox.max_message_bytes;
        let way = self.config.way(&slot.identity.origin, &slot.identity.name, beside);
        let target = server::Target { max_message, way, credential, ..target };
        let Some(slot) = self.sessions.get_mut(&id) else { return Ok(()) };
        let outgoing = Rc::new(Outgoing::default());
        slot.connections.push((attempt, Rc::clone(&outgoing)));
        let loggable = slot.identity.is_loggable();
        self.connections.spawn_local(run_connection(self.this.clone(), id, attempt, target, outgoing, loggable));
        while self.connections.try_join_next().is_some() {}
        Ok(())
    }

    /// Sees to it that the session is woken when it wants to be.
    fn set_timer(&mut self, id: SessionId) {
        let Some(slot) = self.sessions.get_mut(&id) else { return };
        let deadline = slot.session.poll_timeout().map(|(at, _)| at);
        // A deadline that moved away is left where it is: waking once too early costs less than moving it each time.
        let nearer = match (deadline, slot.deadline) {
            (Some(new), Some(old)) => new < old,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if !nearer {
            return;
        }
        if let Some(old) = slot.deadline.take() {
            self.timers.remove(&(old, id));
        }
        slot.deadline = deadline;
        self.timers.extend(deadline.map(|at| (at, id)));
        if self.timers.first().is_some_and(|(_, first)| *first == id) {
            self.earlier.notify_one();
        }
    }

    /// A session of which nothing is known any more is gone, and its name free.
    fn remove_if_void(&mut self, id: SessionId) {
        if self.sessions.get(&id).is_some_and(|slot| slot.session.is_void()) {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: SessionId) {
        let Some(slot) = self.sessions.remove(&id) else { return };
        self.identities.remove(&slot.identity);
        if let Some(deadline) = slot.deadline {
            self.timers.remove(&(deadline, id));
        }
        for port in self.ports.values_mut() {
            port.sessions.retain(|_, session| *session != id);
        }
    }

    /// What the spool says.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Written { session, ticket } => {
                let id = SessionId(session);
                if let Some(slot) = self.sessions.get_mut(&id) {
                    slot.introduced |= slot.introducing.take_if(|under_way| *under_way == ticket).is_some();
                }
                self.input(id, Input::Saved { ticket });
            }
            News::NotWritten { session, ticket } => {
                let id = SessionId(session);
                if let Some(slot) = self.sessions.get_mut(&id) {
                    slot.introducing.take_if(|under_way| *under_way == ticket);
                }
                self.input(id, Input::NotSaved { ticket });
            }
            News::Loaded { session, number, bodies, to } => {
                self.input(SessionId(session), Input::Loaded { ticket: number, bodies, to });
            }
            News::Damaged => {
                for slot in self.sessions.values_mut() {
                    (slot.introduced, slot.introducing) = (false, None);
                }
                self.tell_all(|_| Some(Input::Damaged));
            }
            News::Room(room) => {
                self.room = room;
                self.tell_all(|_| Some(Input::Room(room)));
            }
        }
        self.heard.notify_one();
    }

    /// The daemon of version `build` wants to take over when this one has ended.
    ///
    /// # Errors
    /// If it is not to; says why.
    pub(super) fn hand_over(&mut self, build: &str) -> Result<(), String> {
        const OWN: &str = env!("CARGO_PKG_VERSION");
        if !launch::supersedes(build, OWN) {
            return Err(format!("only a newer version takes over from version {OWN}"));
        }
        if !self.room {
            return Err("its disk takes nothing, and what waits in its memory would be lost; make room first".into());
        }
        info!(version = %harmless(build), "another version takes over");
        self.moving = true;
        Ok(())
    }

    /// The daemon ends: sessions do nothing more, and say what has to be kept.
    pub(super) fn stop_sessions(&mut self) {
        if self.moving {
            for (id, port) in &self.ports {
                port.moves_with(&self.reopenings(*id, port));
            }
        }
        self.tell_all(|_| Some(Input::Stop));
    }

    /// Whether everything is kept that has to be.
    pub(super) fn is_saved(&self) -> bool {
        self.sessions.values().all(|slot| slot.session.is_saved())
    }

    /// The spool, when nothing more is to be written.
    pub(super) fn into_spool(self) -> Spool {
        self.spool
    }

    /// Closes all connections, behind what was sent before; whoever takes them sees how they end.
    pub(super) fn disconnect_all(&mut self) -> JoinSet<()> {
        for slot in self.sessions.values_mut() {
            for (_, outgoing) in slot.connections.drain(..) {
                outgoing.finish(1001, "the daemon ends");
            }
        }
        std::mem::take(&mut self.connections)
    }

    /// Ends all ports, and forgets the sessions: whatever happens from here on changes nothing of what was kept.
    pub(super) fn end_ports(&mut self) -> Vec<Port> {
        let direct = |slot: &Slot| slot.identity.mode == Mode::Direct && !slot.session.is_void();
        let unfinished: Vec<_> = self.sessions.iter().filter(|(_, slot)| direct(slot)).map(|(id, _)| *id).collect();
        for id in unfinished {
            // A server that took too long to answer; a plain WebSocket ends with its daemon.
            self.input(id, Input::Over { attempt: 0, close: Closed::abnormal() });
        }
        let ports = std::mem::take(&mut self.ports);
        self.sessions.clear();
        ports.into_values().inspect(Port::end).collect()
    }

    /// What `port` would have to open elsewhere to go on where it is.
    fn reopenings(&self, id: PortId, port: &Port) -> Vec<Open> {
        let slots = port.sessions.values().filter_map(|session| self.sessions.get(session));
        let reopenings = slots.filter_map(|slot| {
            let Identity { origin, profile, mode, name } = &slot.identity;
            let open = slot.session.reopening(id)?;
            let configured = self.config.session_url(origin, name);
            let url = open.url.filter(|url| configured.is_none_or(|configured| configured.as_str() != url));
            // The next daemon would refuse another one than that of the files.
            let url = url.filter(|_| self.config.bound_url(origin, name).is_none());
            // What is on the disk needs no repeating, and must not take the place of what another port said since.
            let settings = Some(&slot.given_text).filter(|text| *mode == Mode::Memory && !text.is_empty()).cloned();
            Some(Open { profile: profile.clone(), url, settings, ..open })
        });
        reopenings.collect()
    }

    pub(super) fn is_attached(&self, id: SessionId, port: PortId) -> bool {
        self.sessions.get(&id).is_some_and(|slot| slot.session.is_attached(port))
    }

    /// Figures of the sessions that a port may see, or of `only` one of them.
    pub(super) fn statuses_for(
        &self,
        port: PortId,
        origin: &Arc<str>,
        only: Option<SessionId>,
    ) -> Vec<serde_json::Value> {
        self.statuses(|id, slot| {
            slot.identity.origin == *origin
                && (slot.identity.mode != Mode::Direct || slot.session.is_attached(port))
                && only.is_none_or(|only| only == id)
        })
    }

    /// Figures of the sessions that `wanted` picks.
    fn statuses(&self, wanted: impl Fn(SessionId, &Slot) -> bool) -> Vec<serde_json::Value> {
        let now = self.clock.now();
        self.sessions
            .iter()
            .filter(|(id, slot)| wanted(**id, slot))
            .map(|(_, slot)| {
                let mut status = slot.session.status(now);
                status["origin"] = json!(&*slot.identity.origin);
                status["profile"] = json!(&slot.identity.profile);
                status
            })
            .collect()
    }

    /// A message of a person's to the server, with no id. Says what is waiting then.
    ///
    /// # Errors
    /// Why it was not taken.
    pub(super) fn send_for_person(&mut self, identity: &Identity, body: Body) -> Result<serde_json::Value, String> {
        let id = self.find(identity)?;
        let send = Send { body, id: None, ttl_ms: None, resend: true, receipts: None };
        self.input(id, Input::Send { port: PortId::PERSON, send, reference: None });
        match self.refusal.take() {
            Some(refusal) => Err(refusal.message),
            None => Ok(self.status_of(id)),
        }
    }

    /// Closes a session and deletes everything that is kept of it.
    ///
    /// # Errors
    /// If there is none.
    pub(super) fn forget_for_person(&mut self, identity: &Identity) -> Result<serde_json::Value, String> {
        let id = self.find(identity)?;
        self.input(id, Input::Close { forget: true, code: None, reason: None });
        Ok(self.status_of(id))
    }

    /// The keyring may have another credential for the sessions of that name: those that wait for one try again. Says how many
    /// there are.
    pub(super) fn renew_for_person(&mut self, origin: &str, name: &str) -> serde_json::Value {
        let uses_keyring = |settings: Source| matches!(settings, Source::Keyring { .. });
        self.reload_config();
        let is_meant = |slot: &Slot| &*slot.identity.origin == origin && slot.identity.name == name;
        let meant: Vec<_> = self.sessions.iter().filter(|(_, slot)| is_meant(slot)).map(|(id, _)| *id).collect();
        if !uses_keyring(self.config.source(origin, name)) {
            return json!({"sessions": 0});
        }
        for id in &meant {
            self.configure(*id);
            self.input(*id, Input::Renewed);
        }
        json!({"sessions": meant.len()})
    }

    fn find(&self, identity: &Identity) -> Result<SessionId, String> {
        let Identity { name, .. } = identity;
        self.identities.get(identity).copied().ok_or_else(|| format!("there is no session `{name}` of this extension"))
    }

    fn status_of(&self, id: SessionId) -> serde_json::Value {
        self.statuses(|other, _| other == id).pop().unwrap_or_default()
    }

    /// The whole answer to `websocket-bridge status`.
    pub(super) fn overview(&self) -> serde_json::Value {
        json!({
            "daemon": {
                "version": env!("CARGO_PKG_VERSION"),
                "pid": std::process::id(),
                "uptime_ms": self.clock.uptime().as_millis() as u64,
                "memory_bytes": os::resident_memory(),
                "links": self.ports.len(),
            },
            "sessions": self.statuses(|_, _| true),
        })
    }
}

impl Identity {
    /// Whether the log may show the server and what it says: nothing of a private window may reach the disk, and an
    /// extension that wants nothing kept may well run in one.
    fn is_loggable(&self) -> bool {
        self.mode == Mode::Durable
    }
}

impl Slot {
    /// What the spool must know of a session before anything else.
    fn introduction(&self) -> [Change; 2] {
        let Identity { origin, profile, name, .. } = &self.identity;
        let owner = Owner { origin: origin.to_string(), profile: profile.clone(), name: name.clone() };
        [Change::Owner(owner), Change::Given(self.given_text.clone())]
    }

    fn outgoing(&self, attempt: u64, act: impl FnOnce(&Outgoing)) {
        if let Some((_, outgoing)) = self.connections.iter().find(|(current, _)| *current == attempt) {
            act(outgoing);
        }
    }
}

/// One connection, from the first packet to the last; what happens on it becomes inputs of its session. Of one that is not
/// `loggable` the log shows neither the server nor what it said.
async fn run_connection(
    core: Weak<RefCell<Core>>,
    id: SessionId,
    attempt: u64,
    target: server::Target,
    outgoing: Rc<Outgoing>,
    loggable: bool,
) {
    let detour = target.detour.as_ref();
    let url = detour.map_or(&target.url, |detour| &detour.url);
    let server = loggable.then(|| url.origin().ascii_serialization());
    let (session, by_websocket) = (id.0, detour.is_none());
    info!(session, attempt, server, by_websocket, "connecting");
    let report = |happened: server::Happened| {
        let input = match happened {
            server::Happened::Connected { protocol } => {
                info!(session, attempt, "connected");
                Input::Connected { attempt, protocol }
            }
            server::Happened::Frame(body) => Input::Frame { attempt, body },
            server::Happened::Cursor(cursor) => Input::Cursor { attempt, cursor },
            server::Happened::Pong(payload) => Input::Pong { attempt, payload },
            server::Happened::Flushed { bytes, all } => Input::Flushed { attempt, bytes, all },
            server::Happened::Alive => Input::Alive { attempt },
        };
        if let Some(core) = core.upgrade() {
            core.borrow_mut().input(id, input);
        }
    };
    let server::End { reason, close } = server::run(target, &outgoing, report).await;
    let message = reason.as_ref().filter(|_| loggable).map(|reason| tracing::field::display(harmless(&reason.message)));
    let code = reason.as_ref().map_or("closed-by-this-side", |reason| reason.code);
    info!(session, attempt, code, close_code = close.code, clean = close.clean, reason = message, "connection ended");
    let Some(core) = core.upgrade() else { return };
    let mut core = core.borrow_mut();
    if let Some(slot) = core.sessions.get_mut(&id) {
        slot.connections.retain(|(current, _)| *current != attempt);
    }
    if let Some(reason) = reason {
        core.input(id, Input::Lost { attempt, reason });
    }
    core.input(id, Input::Over { attempt, close });
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness from the system the time must do: jitter and epochs need to differ, not to be secret.
    if getrandom::fill(&mut bytes).is_err() {
        return fastrand::u64(..);
    }
    u64::from_ne_bytes(bytes)
}
