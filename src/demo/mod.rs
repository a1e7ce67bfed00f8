//! The product explains itself on one machine: a server to talk to, and the story that shows it at work.
//!
//! Owns: the stage of the story, which is a directory of its own and the server, host and daemon in it, and that nothing
//! of it stays behind, however the story ends. What is told is `story`'s; `browser` and `worker` play the extension's
//! side, `account` counts, `screen` writes. The `server` is of use without the story as well.
//!
//! Host and daemon are the real ones, in processes of their own. That their home is not the person's is said to them in
//! their environment; this process's own is never changed.

mod account;
mod browser;
mod screen;
pub mod server;
mod story;
mod worker;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use crate::config::{Env, HOME_VARIABLE, NoHome, Paths};
use crate::os;
use screen::{Abilities, Screen};
use server::{DemoServer, Handle};
use story::{Stop, Story};
use worker::Extension;

/// How long the daemon may take to end.
const DAEMON_ENDS: Duration = Duration::from_secs(10);

/// Why there was no demo, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The server cannot have its port.
    #[error("cannot listen on port {port} of this machine; try another --port")]
    Port {
        /// The port.
        port: u16,
        /// What the system said.
        source: io::Error,
    },
    /// Something that the demo needs cannot be made or used.
    #[error("cannot {tried}")]
    Io {
        /// What was tried.
        tried: String,
        /// What the system said.
        source: io::Error,
    },
    /// There is no place for files.
    #[error(transparent)]
    NoHome(#[from] NoHome),
    /// Nobody reads what is told.
    #[error("the demo ended early, because nobody reads its output")]
    Unseen {
        /// What the system said.
        source: io::Error,
    },
    /// A person or the system asked for the end.
    #[error("the demo ended early ({signal})")]
    Interrupted {
        /// How they asked.
        signal: &'static str,
    },
    /// Something else happened than should have.
    #[error("the demo failed in \"{act}\": expected that {expected}, but {found}; the logs are in {logs}")]
    Failed {
        /// In which act.
        act: &'static str,
        /// What should have happened.
        expected: String,
        /// What did.
        found: String,
        /// The directory of the logs.
        logs: String,
    },
    /// The daemon stays.
    #[error("the demo's daemon cannot be stopped: {found}; its home is {home}")]
    DaemonStays {
        /// What happened.
        found: String,
        /// Its directory.
        home: String,
    },
}

impl DemoError {
    fn io(tried: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let tried = tried.into();
        move |source| Self::Io { tried, source }
    }

    /// Whether the logs may tell why.
    fn is_failure(&self) -> bool {
        !matches!(self, Self::Unseen { .. } | Self::Interrupted { .. } | Self::Port { .. })
    }
}

/// Tells the story on standard output, with the server on `port` (0: any free one); true if nothing was lost unreported
/// and nothing came out of order. Ends early when `interrupt` is done. The directory with the logs stays if `keep` asks
/// for it or something went wrong.
///
/// # Errors
/// The story could not be told to its end, or something of it stays behind.
pub fn run(env: &Env, port: u16, keep: bool, interrupt: impl Future<Output = &'static str>) -> Result<bool, DemoError> {
    let stage = Stage::make()?;
    let outcome = stage.play(env, port, interrupt);
    let keep = keep || !outcome.as_ref().map_or_else(|error| !error.is_failure(), |sound| *sound);
    let cleared = stage.clear(keep);
    match (outcome, cleared) {
        (Err(error), Err(also)) => {
            // Only one can be returned. Nobody may be listening.
            let _ = writeln!(io::stderr(), "websocket-bridge: {also}");
            Err(error)
        }
        (outcome, cleared) => cleared.and(outcome),
    }
}

/// Where the story plays: a directory that is the home of a host and a daemon.
#[derive(Debug)]
struct Stage {
    program: PathBuf,
    home: PathBuf,
    paths: Paths,
}

impl Stage {
    fn make() -> Result<Self, DemoError> {
        let program = std::env::current_exe().map_err(DemoError::io("find this program"))?;
        let home = std::env::temp_dir().join(format!("websocket-bridge-demo-{:016x}", fastrand::u64(..)));
        let paths = Paths::new(&[(HOME_VARIABLE, &home)].into_iter().collect())?;
        os::private_directory(&home).map_err(DemoError::io(format!("make the directory {}", home.display())))?;
        Ok(Self { program, home, paths })
    }

    /// Tells the story. When this returns, the host has left; the daemon may run.
    fn play(&self, env: &Env, port: u16, interrupt: impl Future<Output = &'static str>) -> Result<bool, DemoError> {
        let runtime = runtime()?;
        let server = Server::start(port)?;
        let beginning = server.handle.cursor();
        // With a name the server remembers what the client had subscribed to, and waits for it to resume.
        let url = format!("ws://127.0.0.1:{}/ws?client=demo&welcome=no", server.port);
        let extension = Extension::new(self.program.clone(), self.home.clone(), url, beginning);
        let screen = Screen::new(io::stdout(), Abilities::of(env, io::stdout().is_terminal()));
        let mut story = Story::new(screen, extension, server.handle.clone(), self.paths.daemon_lock(), beginning);
        let told = runtime.block_on(async {
            tokio::select! {
                biased;
                signal = interrupt => Err(DemoError::Interrupted { signal }),
                told = story.tell() => told.map_err(|stop| self.failure(stop)),
            }
        });
        // The host leaves before its server does, or its last lines would be about that.
        story.end();
        told
    }

    fn failure(&self, stop: Stop) -> DemoError {
        match stop {
            Stop::Unseen(source) => DemoError::Unseen { source },
            Stop::Unexpected { act, expected, found } => {
                let logs = self.paths.log_directory().display().to_string();
                DemoError::Failed { act, expected, found, logs }
            }
        }
    }

    /// Ends the daemon and removes the directory, or says where it is.
    fn clear(&self, keep: bool) -> Result<(), DemoError> {
        let home = self.home.display().to_string();
        self.stop_daemon().map_err(|found| DemoError::DaemonStays { found, home: home.clone() })?;
        if !keep {
            return std::fs::remove_dir_all(&self.home).map_err(DemoError::io(format!("remove {home}")));
        }
        // Standard output may be closed by now.
        let _ = writeln!(io::stdout(), "\nThe demo's files, logs among them, are in {home}");
        Ok(())
    }

    /// Asks the daemon to end as a person would, and waits until it has.
    fn stop_daemon(&self) -> Result<(), String> {
        let mut command = Command::new(&self.program);
        command.arg("stop").env(HOME_VARIABLE, &self.home);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        os::keep_terminal_signals_from(&mut command);
        let mut stop = command.spawn().map_err(|error| format!("`stop` cannot be started: {error}"))?;
        let deadline = Instant::now() + DAEMON_ENDS;
        loop {
            match stop.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("`stop` ended with {status}")),
                Err(error) => return Err(format!("`stop` cannot be waited for: {error}")),
                Ok(None) if Instant::now() >= deadline => {
                    let _ = stop.kill();
                    let _ = stop.wait();
                    return Err(format!("it did not end within {} s", DAEMON_ENDS.as_secs()));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }
}

fn runtime() -> Result<Runtime, DemoError> {
    Builder::new_current_thread().enable_all().build().map_err(DemoError::io("start the runtime"))
}

/// The demo server on a thread of its own; it ends when this is dropped.
#[derive(Debug)]
struct Server {
    handle: Handle,
    port: u16,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    fn start(port: u16) -> Result<Self, DemoError> {
        let server = DemoServer::bind(port).map_err(|source| DemoError::Port { port, source })?;
        let (handle, port) = (server.handle(), server.address().port());
        let runtime = runtime()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let serve = move || {
            // Fails only before it serves anybody, and then the story says that nobody answers.
            let _ = runtime.block_on(server.run(async {
                let _ = stopped.await;
            }));
        };
        Ok(Self { handle, port, stop: Some(stop), thread: Some(std::thread::spawn(serve)) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
