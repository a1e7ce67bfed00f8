//! Finding the daemon, and starting it if there is none.
//!
//! Owns: the way from "a host needs a daemon" to a link with one, whoever else is trying the same; and the daemon's
//! half of it, which is to say when it is ready. A burst of hosts starts one daemon: whoever holds the launch lock
//! starts it, the others wait for the lock and find it running.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use crate::config::Paths;
use crate::daemon::endpoint::{self, EndpointError, HostLink};
use crate::os;

/// How long a daemon may take until it is ready.
const READY: Duration = Duration::from_secs(10);

/// How long a host goes on when daemons come and go while it calls.
const PATIENCE: Duration = Duration::from_secs(20);

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
}

/// A link to the daemon, which is started if need be.
///
/// # Errors
/// Why there is none.
pub fn ensure_running(paths: &Paths, origin: &str) -> Result<HostLink, LaunchError> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        // A daemon that is just going away may still take a call; then the next round starts another.
        match endpoint::connect(paths, origin) {
            Ok(link) => return Ok(link),
            Err(EndpointError::Nobody { .. } | EndpointError::Mute { .. }) if Instant::now() < deadline => {}
            Err(error) => return Err(error.into()),
        }
        let data = paths.data_directory();
        let failed = |tried, path: PathBuf| move |source| LaunchError::Io { tried, path, source };
        std::fs::create_dir_all(data).map_err(failed("make the directory", data.to_owned()))?;
        let lock = os::open_lock_file(&paths.launch_lock()).map_err(failed("open", paths.launch_lock()))?;
        os::lock(&lock).map_err(failed("lock", paths.launch_lock()))?;
        if let Ok(link) = endpoint::connect(paths, origin) {
            return Ok(link);
        }
        start(&std::env::current_exe().map_err(failed("find", "this program".into()))?)?;
    }
}

/// Starts a daemon and waits until it listens.
fn start(program: &std::path::Path) -> Result<(), LaunchError> {
    let failed = |source| LaunchError::Io { tried: "start", path: program.to_owned(), source };
    os::keep_descriptors_from_children().map_err(failed)?;
    let mut command = Command::new(program);
    command.args(["daemon", "--child"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
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
