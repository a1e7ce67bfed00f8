//! The daemon: one for each user, keeper of all sessions.
//!
//! Owns: its life from the lock to the goodbyes, and the loops that wake sessions and let hosts in. What it knows, and
//! driving the sessions, is `core`'s; a host's link is `port`'s.
//!
//! Everything runs on one thread, so that a message goes from a link to a socket without waking anybody: a port's
//! request, or a server's frame, is handled to its end where it was read. `Core` is never borrowed across an await.

mod core;
pub mod endpoint;
pub mod launch;
mod port;

use std::cell::RefCell;
use std::fs::{File, TryLockError};
use std::io::{Seek as _, Write as _};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::task::LocalSet;
use tracing::{error, info, warn};

use self::core::Core;
use crate::config::Paths;
use crate::log::chain;
use crate::os;
use launch::Starter;

/// How long a daemon that nobody needs stays, for whoever is just about to come.
const IDLE: Duration = Duration::from_secs(2);

/// How long the closing handshakes may take when the daemon ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// How long one that ends may take for all that: it hears hosts out, says goodbye, keeps everything and sees hosts off.
const ENDING: Duration = Duration::from_secs(8);

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
pub fn run(
    paths: &Paths,
    starter: Starter,
    shutdown: impl Future<Output = &'static str> + 'static,
) -> Result<(), DaemonError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| DaemonError::Io { tried: "start", path: "the runtime".into(), source })?;
    // A host that found nobody may have met a daemon that is just saying goodbye.
    let patience = if starter.is_waiting() { ENDING } else { Duration::ZERO };
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
    // As a task, because what is blocked on is polled whenever any task is, and this has much to look at.
    let end = LocalSet::new()
        .block_on(&runtime, async { tokio::task::spawn_local(serve(core, listener, shutdown)).await })
        .expect("nobody cancels it, and if it panics so does this");
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
        () = stop.notified() => if core.borrow().moving { "a newer version takes over" } else { "asked to stop" },
        () = unneeded(&core) => "nobody needs it",
        never = accept_links(&core, &listener) => never,
        never = run_timers(&core) => never,
        never = watch_machine(&core) => never,
    };
    drop(listener);
    // In this order: what extensions asked for is done, what servers had to say has come, all of it is kept, and then the
    // hosts are told that it is.
    port::hear_out(&core).await;
    let mut goodbyes = core.borrow_mut().disconnect_all();
    let _ = tokio::time::timeout(GOODBYE, async { while goodbyes.join_next().await.is_some() {} }).await;
    // (Sessions live in memory: there is nothing to wait for here.)
    let ports = core.borrow_mut().end_ports();
    port::see_off(&ports).await;
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
