//! The daemon: one for each user, keeper of all sessions.
//!
//! Owns: the sessions and the ports, and driving the former: inputs in, actions out, timers. Does not decide what a
//! session does (`session`), speak WebSocket (`server`) or read frames from links (`port`).
//!
//! Everything runs on one thread, so that a message goes from a link to a socket without waking anybody: a port's
//! request, or a server's frame, is handled to its end where it was read. `Core` is never borrowed across an await.

pub mod endpoint;
pub mod launch;
mod port;

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::fs::{File, TryLockError};
use std::io::{Seek as _, Write as _};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tracing::{error, info, warn};
use url::Url;

use crate::config::{Config, ConfigError, Paths, is_loopback, server_url};
use crate::log::{chain, harmless};
use crate::os;
use crate::server::{self, Outgoing};
use crate::session::{Action, Input, Now, PortId, Session};
use crate::wire::event::Problem;
use crate::wire::{Code, MAX_SESSIONS, Open, Reason};
use launch::Starter;
use port::Port;

/// How long a daemon that nobody needs stays, for whoever is just about to come.
const IDLE: Duration = Duration::from_secs(2);

/// How long the closing handshakes may take when the daemon ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long to wait before a lock that is held is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// Why a daemon did not start or had to end.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// Another one holds the lock.
    #[error("another daemon runs already (process {pid}, lock {lock})")]
    Running {
        /// Its process id, as it wrote it.
        pid: String,
        /// The lock file.
        lock: String,
    },
    /// A file could not be used.
    #[error("cannot {tried} {path}")]
    Io {
        /// What was tried.
        tried: &'static str,
        /// On what.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The endpoint could not be made.
    #[error(transparent)]
    Endpoint(#[from] endpoint::EndpointError),
}

/// What the daemon's lock protects: being the only one. Held until it is dropped.
#[derive(Debug)]
struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock; one that is held may become free for as long as `patience` lasts.
    fn take(paths: &Paths, patience: Duration) -> Result<Self, DaemonError> {
        let path = paths.daemon_lock();
        let failed = |tried| {
            let path = path.display().to_string();
            move |source| DaemonError::Io { tried, path, source }
        };
        std::fs::create_dir_all(paths.data_directory()).map_err(failed("make the directory of"))?;
        let mut file = os::open_lock_file(&path).map_err(failed("open"))?;
        let deadline = Instant::now() + patience;
        loop {
            match os::try_lock(&file) {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_PAUSE),
                Err(TryLockError::WouldBlock) => {
                    let pid = std::fs::read_to_string(&path).unwrap_or_default().trim().to_owned();
                    return Err(DaemonError::Running { pid, lock: path.display().to_string() });
                }
                Err(TryLockError::Error(source)) => return Err(failed("lock")(source)),
            }
        }
        let written =
            file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(failed("write"))?;
        Ok(Self { _file: file })
    }
}

/// Runs the daemon until `shutdown` is done, somebody asks it to stop, or nobody has needed it for a while.
///
/// # Errors
/// If it cannot start; the reason is told to the `starter` as well.
pub fn run(paths: &Paths, starter: Starter, shutdown: impl Future<Output = &'static str>) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DaemonError::Io { tried: "start", path: "the runtime".into(), source })?;
    // A host that found nobody may have met a daemon that is just saying goodbye.
    let patience = if starter.is_waiting() { 4 * GOODBYE } else { Duration::ZERO };
    let started = Lock::take(paths, patience).and_then(|lock| {
        let _context = runtime.enter();
        Ok((lock, endpoint::bind(paths)?))
    });
    let (lock, listener) = match started {
        Ok(started) => started,
        Err(error) => {
            starter.failed(&chain(&error));
            return Err(error);
        }
    };
    info!(pid = std::process::id(), version = env!("CARGO_PKG_VERSION"), "daemon started");
    starter.ready();
    let core = Core::new(paths.clone());
    let end = LocalSet::new().block_on(&runtime, serve(Rc::clone(&core), listener, shutdown));
    info!(reason = end, "daemon ended");
    // First the name, then the lock: whoever gets the lock finds no socket of ours.
    endpoint::remove(paths);
    drop(lock);
    // A look-up of a name cannot be interrupted, and nobody waits for it any more.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(
    core: Rc<RefCell<Core>>,
    listener: interprocess::local_socket::tokio::Listener,
    shutdown: impl Future<Output = &'static str>,
) -> &'static str {
    let stop = Rc::clone(&core.borrow().stop);
    let end = tokio::select! {
        reason = shutdown => reason,
        () = stop.notified() => "asked to stop",
        () = unneeded(&core) => "nobody needs it",
        never = accept_links(&core, &listener) => never,
        never = run_timers(&core) => never,
    };
    drop(listener);
    let mut goodbyes = {
        let mut core = core.borrow_mut();
        core.disconnect_all();
        std::mem::take(&mut core.connections)
    };
    let _ = tokio::time::timeout(GOODBYE, async { while goodbyes.join_next().await.is_some() {} }).await;
    end
}

async fn accept_links(core: &Rc<RefCell<Core>>, listener: &interprocess::local_socket::tokio::Listener) -> ! {
    loop {
        match endpoint::accept(listener).await {
            Ok(stream) => {
                tokio::task::spawn_local(port::run(Rc::clone(core), stream));
            }
            Err(error) => {
                // Out of descriptors, most likely: some link may end soon, and trying at once would only burn time.
                error!(%error, "cannot accept a host");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Wakes each session at the time that it named.
async fn run_timers(core: &Rc<RefCell<Core>>) -> ! {
    let earlier = Rc::clone(&core.borrow().earlier);
    loop {
        let next = core.borrow().timers.first().map(|(at, _)| *at);
        match next {
            None => earlier.notified().await,
            Some(at) => {
                let instant = core.borrow().clock.instant(at);
                tokio::select! {
                    () = tokio::time::sleep_until(instant.into()) => core.borrow_mut().fire_timers(),
                    () = earlier.notified() => {}
                }
            }
        }
    }
}

/// Done when the daemon has been of no use to anybody for a while.
async fn unneeded(core: &Rc<RefCell<Core>>) {
    let changed = Rc::clone(&core.borrow().need_changed);
    loop {
        if core.borrow().is_needed() {
            changed.notified().await;
            continue;
        }
        tokio::select! {
            // Somebody may have come in the very moment in which the time was over.
            () = tokio::time::sleep(IDLE) => if !core.borrow().is_needed() { return },
            () = changed.notified() => {}
        }
    }
}

/// Tells sessions the time.
#[derive(Debug)]
struct Clock {
    start: Instant,
}

impl Clock {
    fn now(&self) -> Now {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Now { elapsed: self.start.elapsed(), unix_ms: u64::try_from(unix.as_millis()).unwrap_or(u64::MAX) }
    }

    fn instant(&self, elapsed: Duration) -> Instant {
        self.start + elapsed
    }
}

/// Who a session belongs to, and its name: nobody else can see or open it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    origin: Arc<str>,
    profile: String,
    memory: bool,
    name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SessionId(u64);

struct Slot {
    identity: Identity,
    session: Session,
    /// The connection that is made or being made, and its attempt.
    connection: Option<(u64, Rc<Outgoing>)>,
    /// The deadline that stands in [`Core::timers`].
    deadline: Option<Duration>,
}

/// All that the daemon knows.
pub(crate) struct Core {
    this: Weak<RefCell<Self>>,
    paths: Paths,
    config: Config,
    clock: Clock,
    sessions: HashMap<SessionId, Slot>,
    identities: HashMap<Identity, SessionId>,
    ports: HashMap<PortId, Port>,
    last_number: u64,
    timers: BTreeSet<(Duration, SessionId)>,
    /// A deadline is nearer than those known before.
    earlier: Rc<Notify>,
    /// Ask again whether the daemon is needed.
    need_changed: Rc<Notify>,
    stop: Rc<Notify>,
    connections: JoinSet<()>,
}

impl Core {
    fn new(paths: Paths) -> Rc<RefCell<Self>> {
        Rc::new_cyclic(|this| {
            RefCell::new(Self {
                this: this.clone(),
                paths,
                config: Config::default(),
                clock: Clock { start: Instant::now() },
                sessions: HashMap::new(),
                identities: HashMap::new(),
                ports: HashMap::new(),
                last_number: 0,
                timers: BTreeSet::new(),
                earlier: Rc::default(),
                need_changed: Rc::default(),
                stop: Rc::default(),
                connections: JoinSet::new(),
            })
        })
    }

    fn next_number(&mut self) -> u64 {
        self.last_number += 1;
        self.last_number
    }

    fn is_needed(&self) -> bool {
        !self.ports.is_empty() || self.sessions.values().any(|slot| slot.session.is_needed())
    }

    /// The session that `open` means, made if need be.
    fn session_for(&mut self, origin: &Arc<str>, open: &Open) -> Result<(SessionId, Option<Url>), Problem> {
        let url = open.url.as_deref().map(|text| self.checked_url(origin, text)).transpose()?;
        let identity = Identity {
            origin: Arc::clone(origin),
            profile: open.profile.clone(),
            memory: open.memory,
            name: open.session.clone(),
        };
        if let Some(&id) = self.identities.get(&identity) {
            return Ok((id, url));
        }
        let Some(url) = url else {
            let message = format!("session `{}` is not known yet; open it with the `url` of its server", open.session);
            return Err(Problem::new(Code::UrlMissing, message));
        };
        if self.identities.keys().filter(|identity| identity.origin == *origin).count() >= MAX_SESSIONS {
            let message = format!(
                "this extension has {MAX_SESSIONS} sessions, which is the limit; use one session for several ports, or \
                 delete one with `close` and `forget: true`"
            );
            return Err(Problem::new(Code::TooManySessions, message));
        }
        let id = SessionId(self.next_number());
        let session = Session::new(id.0, &open.session, url.clone(), open.memory, random(), self.clock.now());
        let server = (!open.memory).then(|| tracing::field::display(url.origin().ascii_serialization()));
        info!(session = id.0, origin = %harmless(origin), server, "session created");
        self.identities.insert(identity.clone(), id);
        self.sessions.insert(id, Slot { identity, session, connection: None, deadline: None });
        Ok((id, Some(url)))
    }

    fn checked_url(&mut self, origin: &str, text: &str) -> Result<Url, Problem> {
        let url = server_url(text).map_err(|message| Problem::new(Code::UrlInvalid, format!("`url` {message}")))?;
        let unusable = self.reload_config();
        let refusal = match self.config.permits(origin, &url, self.paths.config_file()) {
            Ok(()) => return Ok(url),
            Err(refusal) => refusal,
        };
        // Perhaps it is allowed by what cannot be read.
        Err(match unusable {
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
                self.config = config;
                None
            }
            Err(error) => {
                warn!(error = %chain(&error), "configuration not usable; the last good one goes on");
                Some(error)
            }
        }
    }

    /// Tells a session what happened, and does what it wants done.
    fn input(&mut self, id: SessionId, input: Input) {
        let now = self.clock.now();
        if let Some(slot) = self.sessions.get_mut(&id) {
            slot.session.handle(input, now);
            self.carry_out(id);
        }
    }

    fn fire_timers(&mut self) {
        let now = self.clock.now();
        while let Some(&(at, id)) = self.timers.first().filter(|(at, _)| *at <= now.elapsed) {
            self.timers.remove(&(at, id));
            if let Some(slot) = self.sessions.get_mut(&id) {
                slot.deadline = None;
                slot.session.handle_timeout(now);
                self.carry_out(id);
            }
        }
    }

    /// Takes all actions of a session.
    fn carry_out(&mut self, id: SessionId) {
        let Some(slot) = self.sessions.get_mut(&id) else { return };
        let (mut persisted, mut refused) = (Vec::new(), None);
        let mut forgotten = false;
        loop {
            while let Some(action) = slot.session.poll_action() {
                match action {
                    Action::ToExtension { port, event } => {
                        if let Some(port) = self.ports.get(&port) {
                            port.send(event);
                        }
                    }
                    Action::ToServer { attempt, body } => slot.outgoing(attempt, |outgoing| outgoing.send(body)),
                    Action::Ping { attempt, payload } => slot.outgoing(attempt, |outgoing| outgoing.ping(payload)),
                    Action::Connect { attempt, url } => {
                        // What was allowed when the session was opened may be so no more.
                        if !is_loopback(&url)
                            && let Ok(config) = Config::load(&self.paths)
                        {
                            self.config = config;
                        }
                        if let Err(message) = self.config.permits(&slot.identity.origin, &url, self.paths.config_file())
                        {
                            refused = Some((attempt, message));
                            continue;
                        }
                        let outgoing = Rc::new(Outgoing::default());
                        slot.connection = Some((attempt, Rc::clone(&outgoing)));
                        let target = server::Target {
                            url,
                            origin: Arc::clone(&slot.identity.origin),
                            timeouts: server::Timeouts::default(),
                        };
                        let private = slot.identity.memory;
                        let connection = connect(self.this.clone(), id, attempt, target, outgoing, private);
                        self.connections.spawn_local(connection);
                        while self.connections.try_join_next().is_some() {}
                    }
                    Action::Disconnect { attempt, code, reason } => {
                        info!(session = id.0, attempt, code, reason, "connection closed by this side");
                        slot.outgoing(attempt, |outgoing| outgoing.close(code, reason));
                        slot.connection = None;
                    }
                    // What is kept lives in this process's memory, where it is as soon as the session has it.
                    Action::Persist { number, body: _ } => persisted.push(number),
                    Action::Forgotten => forgotten = true,
                }
            }
            let input = match (refused.take(), persisted.pop()) {
                (Some((attempt, message)), _) => Input::Lost { attempt, reason: Reason::not_allowed(message) },
                (None, Some(number)) => Input::Persisted { number },
                (None, None) => break,
            };
            slot.session.handle(input, self.clock.now());
        }
        let deadline = slot.session.poll_timeout().map(|(at, _)| at).filter(|_| !forgotten);
        // A deadline that moved away is left where it is: waking once too early costs less than moving it each time.
        let nearer = match (deadline, slot.deadline) {
            (Some(new), Some(old)) => new < old,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if nearer {
            if let Some(old) = slot.deadline.take() {
                self.timers.remove(&(old, id));
            }
            slot.deadline = deadline;
            self.timers.extend(deadline.map(|at| (at, id)));
            if self.timers.first().is_some_and(|(_, first)| *first == id) {
                self.earlier.notify_one();
            }
        }
        if forgotten {
            self.remove(id);
        }
        if forgotten || !self.sessions.get(&id).is_some_and(|slot| slot.session.is_needed()) {
            self.need_changed.notify_one();
        }
    }

    fn remove(&mut self, id: SessionId) {
        let Some(slot) = self.sessions.remove(&id) else { return };
        info!(session = id.0, "session forgotten");
        self.identities.remove(&slot.identity);
        if let Some(deadline) = slot.deadline {
            self.timers.remove(&(deadline, id));
        }
        for port in self.ports.values_mut() {
            port.sessions.retain(|_, session| *session != id);
        }
    }

    fn disconnect_all(&mut self) {
        for slot in self.sessions.values_mut() {
            if let Some((_, outgoing)) = slot.connection.take() {
                outgoing.close(1001, "the daemon ends");
            }
        }
        self.ports.clear();
    }

    /// Figures of the sessions that `wanted` picks.
    fn statuses(&self, wanted: impl Fn(&Identity) -> bool) -> Vec<serde_json::Value> {
        let now = self.clock.now();
        let mut ids: Vec<_> = self.sessions.iter().filter(|(_, slot)| wanted(&slot.identity)).collect();
        ids.sort_by_key(|(id, _)| **id);
        ids.into_iter()
            .map(|(_, slot)| {
                let mut status = slot.session.status(now);
                status["origin"] = json!(&*slot.identity.origin);
                status["profile"] = json!(&slot.identity.profile);
                status
            })
            .collect()
    }

    /// The whole answer to `websocket-bridge status`.
    fn overview(&self) -> serde_json::Value {
        json!({
            "daemon": {
                "version": env!("CARGO_PKG_VERSION"),
                "pid": std::process::id(),
                "uptime_ms": self.clock.now().elapsed.as_millis() as u64,
                "memory_bytes": os::resident_memory(),
                "links": self.ports.len(),
            },
            "sessions": self.statuses(|_| true),
        })
    }
}

impl Slot {
    fn outgoing(&self, attempt: u64, act: impl FnOnce(&Outgoing)) {
        if let Some((current, outgoing)) = &self.connection
            && *current == attempt
        {
            act(outgoing);
        }
    }
}

/// One connection, from the first packet to the last; what happens on it becomes inputs of its session. Of a `private`
/// one the log shows neither the server nor what it said.
async fn connect(
    core: Weak<RefCell<Core>>,
    id: SessionId,
    attempt: u64,
    target: server::Target,
    outgoing: Rc<Outgoing>,
    private: bool,
) {
    let server = (!private).then(|| target.url.origin().ascii_serialization());
    let session = id.0;
    info!(session, attempt, server, "connecting");
    let report = |happened: server::Happened| {
        let input = match happened {
            server::Happened::Connected { protocol } => {
                info!(session, attempt, "connected");
                Input::Connected { attempt, protocol }
            }
            server::Happened::Frame(body) => Input::Frame { attempt, body },
            server::Happened::Pong(payload) => Input::Pong { attempt, payload },
            server::Happened::Flushed => Input::Flushed { attempt },
            server::Happened::Alive => Input::Alive { attempt },
        };
        if let Some(core) = core.upgrade() {
            core.borrow_mut().input(id, input);
        }
    };
    let reason = server::run(target, &outgoing, report).await;
    let Some(reason) = reason else { return };
    let message = (!private).then(|| tracing::field::display(harmless(&reason.message)));
    info!(session, attempt, code = reason.code, close_code = reason.close_code, reason = message, "connection ended");
    if let Some(core) = core.upgrade() {
        core.borrow_mut().input(id, Input::Lost { attempt, reason });
    }
}

fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness from the system the time must do: jitter and epochs need to differ, not to be secret.
    if getrandom::fill(&mut bytes).is_err() {
        return fastrand::u64(..);
    }
    u64::from_ne_bytes(bytes)
}
