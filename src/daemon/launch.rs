//! Finding the daemon, starting it if there is none, and replacing it if it is older than this program.
//!
//! Owns: the way from "a host needs a daemon" to a link with one, whoever else is trying the same; and the daemon's
//! half of it, which is to say when it is ready. A burst of hosts starts one daemon: whoever holds the launch lock
//! starts it, the others wait for the lock and find it running. So do the hosts of a daemon that is asked to make way: they
//! call when it has told them, and wait until the next one is there.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use semver::Version;
use serde_json::{Value, json};
use tracing::warn;

use crate::config::{HostName, Paths};
use crate::daemon::endpoint::{self, EndpointError, HostLink};
use crate::log::chain;
use crate::os;
use crate::wire::frame::{self, Decoder};
use crate::wire::link::{Header, VERSION};

/// How long a daemon may take until it is ready.
const READY: Duration = Duration::from_secs(10);

/// How long a host goes on when daemons come and go while it calls.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long an older daemon may take from the request to make way until it is gone.
const WAY: Duration = Duration::from_secs(15);

/// How often to look whether it is.
const LOOK: Duration = Duration::from_millis(2);

/// What a daemon says when it is ready; anything else is why it is not.
const READY_WORD: &str = "ready\n";

/// Why there is no daemon.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// There is one, but it cannot be used.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// A file could not be used.
    #[error("cannot {tried} {}", path.display())]
    Io {
        /// What was tried.
        tried: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program was started and ended at once.
    #[error("the daemon did not start: {said}")]
    Failed {
        /// What it said.
        said: String,
    },
    /// The program was started and says nothing.
    #[error("the daemon was started and is not ready after {} s", READY.as_secs())]
    Slow,
    /// The daemon is newer, and its links are others.
    #[error(
        "the daemon that runs is version {daemon}, with which version {} cannot speak; restart the browser, so that it \
         starts the program that is installed now", env!("CARGO_PKG_VERSION")
    )]
    TooOld {
        /// The daemon's version.
        daemon: String,
    },
    /// An older daemon does not make way.
    #[error(
        "the daemon that runs is version {daemon} and does not make way for version {}: {said}; end it with \
         `websocket-bridge stop`", env!("CARGO_PKG_VERSION")
    )]
    Stays {
        /// The daemon's version.
        daemon: String,
        /// What it said, or what it did not do.
        said: String,
    },
}

/// Whether a daemon of the version `newer` takes over from one of the version `older`.
pub(super) fn supersedes(newer: &str, older: &str) -> bool {
    match (Version::parse(newer), Version::parse(older)) {
        (Ok(newer), Ok(older)) => newer.cmp_precedence(&older).is_gt(),
        _ => false,
    }
}

fn is_outdated(daemon: &Header) -> bool {
    supersedes(env!("CARGO_PKG_VERSION"), &daemon.build)
}

/// A link to the daemon, which is started if need be, and replaced if it is older than this program.
///
/// # Errors
/// Why there is none.
pub fn ensure_running(paths: &Paths, origin: &str) -> Result<HostLink, LaunchError> {
    let deadline = Instant::now() + PATIENCE;
    let mut replaced = false;
    loop {
        // A daemon that is just going away may still take a call; then the next round starts another.
        match endpoint::connect(paths, origin) {
            Ok(link) if is_outdated(&link.daemon) && !replaced => {}
            Ok(link) => return usable(link),
            Err(EndpointError::Nobody { .. } | EndpointError::Mute { .. }) if Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
        let data = paths.data_directory();
        let failed = |tried, path: PathBuf| move |source| LaunchError::Io { tried, path, source };
        std::fs::create_dir_all(data).map_err(failed("make the directory", data.to_owned()))?;
        let lock = os::open_lock_file(&paths.launch_lock()).map_err(failed("open", paths.launch_lock()))?;
        os::lock(&lock).map_err(failed("lock", paths.launch_lock()))?;
        match endpoint::connect(paths, origin) {
            Ok(link) if is_outdated(&link.daemon) && !replaced => {
                // Nobody is to be heard out on it.
                drop(link.stream);
                match replace(paths, &link.daemon.build) {
                    // It has its reasons, and is better than none.
                    Err(stays @ LaunchError::Stays { .. }) if link.daemon.version == VERSION => {
                        warn!(error = %chain(&stays), "the older daemon goes on");
                        return Ok(endpoint::connect(paths, origin)?);
                    }
                    done => done?,
                }
                // Where the system starts a daemon for whoever calls, the next is the one that is installed there, and good
                // enough whatever its version.
                replaced = true;
                continue;
            }
            Ok(link) => return usable(link),
            Err(_) => {}
        }
        let program = std::env::current_exe().map_err(failed("find", "this program".into()))?;
        if let Err(error) = start(&program, paths.host()) {
            // Another one came first, if the host that was starting it was killed and kept nobody back any more.
            return endpoint::connect(paths, origin).map_or(Err(error), usable);
        }
    }
}

/// A link, if this program can speak on it.
fn usable(link: HostLink) -> Result<HostLink, LaunchError> {
    if link.daemon.version == VERSION { Ok(link) } else { Err(LaunchError::TooOld { daemon: link.daemon.build }) }
}

/// Asks an older daemon, of version `build`, to make way, and waits until it is gone.
fn replace(paths: &Paths, build: &str) -> Result<(), LaunchError> {
    let stays = |said: String| LaunchError::Stays { daemon: build.to_owned(), said };
    let request = json!({"type": "hand-over", "build": env!("CARGO_PKG_VERSION")});
    let answer = endpoint::connect(paths, "").map(|link| ask(&link, &request));
    let moving = match answer {
        Ok(Ok(answer)) if answer["moving"].is_u64() => answer["moving"].to_string(),
        Ok(Ok(answer)) => return Err(stays(answer["error"].as_str().unwrap_or("it does not say why").to_owned())),
        Ok(Err(error)) => return Err(stays(error.to_string())),
        // It has ended meanwhile, by itself.
        Err(EndpointError::Nobody { .. } | EndpointError::Mute { .. }) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    if has_ended(paths, &moving, WAY)? {
        Ok(())
    } else {
        Err(stays(format!("it still runs after {} s", WAY.as_secs())))
    }
}

/// Waits until the daemon of that process id has let go of its lock, which another one may have by then.
///
/// # Errors
/// If the lock cannot be used.
pub fn has_ended(paths: &Paths, pid: &str, patience: Duration) -> Result<bool, LaunchError> {
    let path = paths.daemon_lock();
    let failed = |source| LaunchError::Io { tried: "open", path: path.clone(), source };
    let deadline = Instant::now() + patience;
    while os::try_lock(&os::open_lock_file(&path).map_err(failed)?).is_err()
        && std::fs::read_to_string(&path).map_err(failed)?.trim() == pid
    {
        if Instant::now() >= deadline {
            return Ok(false);
        }
        std::thread::sleep(LOOK);
    }
    Ok(true)
}

/// Asks a daemon one thing, as a person does.
///
/// # Errors
/// If it does not answer.
pub fn ask(link: &HostLink, request: &impl serde::Serialize) -> io::Result<Value> {
    let (text, mut out) = (serde_json::to_vec(request)?, BytesMut::new());
    frame::put(&mut out, |out| out.extend_from_slice(&text));
    (&*link.stream).write_all(&out)?;
    let mut decoder = Decoder::new(frame::MAX_FROM_EXTENSION);
    let mut bytes = vec![0; 64 * 1024];
    loop {
        if let Some(answer) = decoder.next().map_err(io::Error::other)? {
            return Ok(serde_json::from_slice(&answer)?);
        }
        let length = (&*link.stream).read(&mut bytes)?;
        if length == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon ended before it answered"));
        }
        decoder.buffer().extend_from_slice(&bytes[..length]);
    }
}

/// Starts a daemon and waits until it listens.
fn start(program: &std::path::Path, host: &HostName) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Io { tried: "start", path: program.to_owned(), source };
    os::keep_descriptors_from_children().map_err(failed)?;
    let mut command = Command::new(program);
    command
        .args(["--name", host.as_str(), "daemon", "--child"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = os::spawn_detached(&mut command).map_err(failed)?;
    let (said, heard) = mpsc::channel();
    let mut output = child.stdout.take();
    std::thread::spawn(move || {
        let mut text = String::new();
        if let Some(output) = &mut output {
            // Ends when the daemon is ready or gone: then it lets go of the other end.
            let _ = output.read_to_string(&mut text);
        }
        let _ = said.send(text);
        reap(child);
    });
    match heard.recv_timeout(READY) {
        Ok(text) if text == READY_WORD => Ok(()),
        Ok(text) if text.trim().is_empty() => Err(LaunchError::Failed { said: "it ended without a word".into() }),
        Ok(text) => Err(LaunchError::Failed { said: text.trim().to_owned() }),
        Err(_) => Err(LaunchError::Slow),
    }
}

/// Waits for the daemon's end, so that it leaves no zombie if this process outlives it.
fn reap(mut child: Child) {
    let _ = child.wait();
}

/// The daemon's half: what it tells whoever started it.
#[derive(Debug)]
pub struct Starter(Option<File>);

impl Starter {
    /// A daemon that nobody waits for.
    #[must_use]
    pub fn nobody() -> Self {
        Self(None)
    }

    /// The process that reads our standard output.
    ///
    /// # Errors
    /// If standard output cannot be taken over.
    pub fn at_stdout() -> io::Result<Self> {
        Ok(Self(Some(os::take_stdout()?)))
    }

    /// Whether anybody waits for the daemon to be ready.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.0.is_some()
    }

    /// The daemon listens.
    pub fn ready(self) {
        self.say(READY_WORD);
    }

    /// The daemon cannot start.
    pub fn failed(self, why: &str) {
        self.say(why);
    }

    fn say(mut self, text: &str) {
        if let Some(output) = &mut self.0 {
            // Whoever waited may be gone, which changes nothing for us.
            let _ = output.write_all(text.as_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_version_of_higher_precedence_takes_over() {
        for (newer, older) in
            [("0.2.0", "0.1.9"), ("0.10.0", "0.9.0"), ("1.0.0", "1.0.0-rc.2"), ("1.0.0-rc.10", "1.0.0-rc.9")]
        {
            assert!(supersedes(newer, older), "{newer} {older}");
            assert!(!supersedes(older, newer), "{older} {newer}");
        }
        for build in ["0.1.0", "1.0.0-rc.1", "1.0.0+a"] {
            assert!(!supersedes(build, build), "{build}");
        }
        assert!(!supersedes("1.0.0+b", "1.0.0+a") && !supersedes("2", "1.0.0") && !supersedes("2.0.0", "unknown"));
    }
}
