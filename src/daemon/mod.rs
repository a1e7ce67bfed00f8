//! The daemon: one for each user, keeper of all sessions.
//!
//! Owns: its life from the lock to the goodbyes, and the loops that wake sessions and let hosts in. What it knows, and
//! driving the sessions, is `core`'s; a host's link is `port`'s, a person's `person`'s.
//!
//! Everything runs on one thread, so that a message goes from a link to a socket without waking anybody: a port's
//! request, or a server's frame, is handled to its end where it was read. `Core` is never borrowed across an await.

mod core;
pub mod credential;
pub mod endpoint;
pub mod launch;
mod person;
mod port;

use std::cell::RefCell;
use std::fs::{File, TryLockError};
use std::io::{Seek as _, Write as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::LocalSet;
use tracing::{error, info, warn};

use self::core::Core;
use crate::config::{Env, Paths};
use crate::log::chain;
use crate::os;
use crate::spool::{News, Spool, SpoolError};
use endpoint::Endpoint;
use launch::Starter;

/// How long a daemon that nobody needs stays, for whoever is just about to come.
const IDLE: Duration = Duration::from_secs(2);

/// How long the closing handshakes may take when the daemon ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long it may take to save everything when the daemon ends.
const SAVE: Duration = Duration::from_secs(5);

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
    /// What is kept could not be used.
    #[error(transparent)]
    Spool(#[from] SpoolError),
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
    /// Takes the lock; one that is held may become free for as long as `patience` lasts, unless whoever holds it answers.
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
                Err(TryLockError::WouldBlock) if Instant::now() < deadline && os::call(paths.socket()).is_err() => {
                    std::thread::sleep(LOCK_PAUSE);
                }
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
pub fn run(
    paths: &Paths,
    env: &Env,
    starter: Starter,
    shutdown: impl Future<Output = &'static str> + 'static,
) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DaemonError::Io { tried: "start", path: "the runtime".into(), source })?;
    // A host that found nobody may have met a daemon that is just saving everything and saying goodbye.
    let patience = if starter.is_waiting() { SAVE + 4 * GOODBYE } else { Duration::ZERO };
    let (sender, news) = tokio::sync::mpsc::unbounded_channel();
    let started = Lock::take(paths, patience).and_then(|lock| {
        let _context = runtime.enter();
        // Nobody listens any more when the daemon ends.
        let (spool, kept) = Spool::open(&paths.spool(), move |news| drop(sender.send(news)))?;
        Ok((lock, spool, kept, Endpoint::open(paths)?))
    });
    let (lock, spool, kept, endpoint) = match started {
        Ok(started) => started,
        Err(error) => {
            starter.failed(&chain(&error));
            return Err(error);
        }
    };
    info!(pid = std::process::id(), version = env!("CARGO_PKG_VERSION"), "daemon started");
    starter.ready();
    let core = Core::new(paths.clone(), env.clone(), spool, kept);
    let tasks = LocalSet::new();
    // As a task, because what is blocked on is polled whenever any task is, and this has much to look at.
    let served = serve(Rc::clone(&core), endpoint, news, shutdown);
    let end = tasks
        .block_on(&runtime, async { tokio::task::spawn_local(served).await })
        .expect("nobody cancels it, and if it panics so does this");
    // With the tasks, nobody else has the core.
    drop(tasks);
    if let Some(core) = Rc::into_inner(core) {
        core.into_inner().into_spool().close();
    }
    info!(reason = end, "daemon ended");
    // Last of all, long after the endpoint: whoever gets the lock finds no socket of ours.
    drop(lock);
    // A look-up of a name cannot be interrupted, and nobody waits for it any more.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(
    core: Rc<RefCell<Core>>,
    endpoint: Endpoint,
    news: UnboundedReceiver<News>,
    shutdown: impl Future<Output = &'static str>,
) -> &'static str {
    let stop = Rc::clone(&core.borrow().stop);
    tokio::task::spawn_local(hear_spool(Rc::clone(&core), news));
    let end = tokio::select! {
        reason = shutdown => reason,
        () = stop.notified() => if core.borrow().moving { "a newer version takes over" } else { "asked to stop" },
        () = unneeded(&core) => "nobody needs it",
        never = accept_links(&core, &endpoint) => never,
        never = run_timers(&core) => never,
        never = watch_machine(&core) => never,
    };
    drop(endpoint);
    // In this order: what extensions asked for is done, all that must not be lost is kept, servers have heard that this is
    // the end, and then hosts hear that everything is as it should be.
    port::hear_out(&core).await;
    core.borrow_mut().stop_sessions();
    if tokio::time::timeout(SAVE, all_saved(&core)).await.is_err() {
        error!("not everything could be saved within {} s; the rest is lost", SAVE.as_secs());
    }
    let mut goodbyes = core.borrow_mut().disconnect_all();
    let _ = tokio::time::timeout(GOODBYE, async { while goodbyes.join_next().await.is_some() {} }).await;
    let ports = core.borrow_mut().end_ports();
    port::see_off(&ports).await;
    end
}

/// Passes on what the spool says.
async fn hear_spool(core: Rc<RefCell<Core>>, mut news: UnboundedReceiver<News>) {
    while let Some(news) = news.recv().await {
        core.borrow_mut().hear(news);
    }
}

/// Done when everything is kept that has to be.
async fn all_saved(core: &Rc<RefCell<Core>>) {
    let heard = Rc::clone(&core.borrow().heard);
    while !core.borrow().is_saved() {
        heard.notified().await;
    }
}

async fn accept_links(core: &Rc<RefCell<Core>>, endpoint: &Endpoint) -> ! {
    loop {
        match endpoint.accept().await {
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

/// Tells the sessions what happened to the machine.
async fn watch_machine(core: &Rc<RefCell<Core>>) -> ! {
    let (sender, mut changes) = tokio::sync::mpsc::unbounded_channel();
    let tell = move |change| {
        let _ = sender.send(change);
    };
    if let Err(error) = os::watch_machine(tell) {
        warn!(%error, "cannot watch the network and the clock; broken connections are noticed by the heartbeat only");
    }
    loop {
        match changes.recv().await {
            Some(os::Change::Addresses) => core.borrow_mut().network_changed(),
            Some(os::Change::Clock) => core.borrow_mut().fire_timers(),
            None => std::future::pending().await,
        }
        // Timers that were set before a sleep do not know of it.
        core.borrow().earlier.notify_one();
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
