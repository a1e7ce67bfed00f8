//! Starts a host exactly as a browser does, says one thing to it and sees how it leaves.
//!
//! Owns: the arguments, the directory, the environment and the pipes of a browser, and what came of it. Whether that is
//! good is `findings`'s to say.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::{Value, json};

use crate::config::{Env, HOME_VARIABLE};
use crate::install::browsers::Family;
use crate::os;
use crate::wire::PROTOCOL;
use crate::wire::frame::{self, Decoder, FrameError};

/// How long a host may take until it answers: it may have to start the daemon.
const ANSWER: Duration = Duration::from_secs(5);

/// How long it may take to leave when the port is closed: then Chromium kills it.
const LEAVE: Duration = Duration::from_secs(2);

/// How much of what it says to people is kept, in bytes.
const WORDS: u64 = 2048;

/// What a browser leaves a host of its environment when it was started from a desktop: no more than this, and no `PATH`
/// of a shell.
const ENVIRONMENT: &[&str] = &[
    "HOME",
    "USER",
    "LOGNAME",
    "LANG",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "XDG_CONFIG_HOME",
    "XDG_DATA_HOME",
    "XDG_STATE_HOME",
    HOME_VARIABLE,
    "SystemRoot",
    "SystemDrive",
    "COMSPEC",
    "USERPROFILE",
    "USERNAME",
    "APPDATA",
    "LOCALAPPDATA",
    "ProgramData",
    "TEMP",
    "TMP",
];

/// What a browser starts.
#[derive(Debug, Clone)]
pub(super) struct Start {
    pub(super) program: PathBuf,
    pub(super) manifest: PathBuf,
    pub(super) family: Family,
    /// The extension, as the browser names it.
    pub(super) origin: String,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Outcome {
    /// The system did not start it.
    NotStarted(String),
    /// It greeted, and left (or did not) when the port was closed.
    Welcome {
        /// The version that it says.
        version: String,
        /// The extension that it took itself to be started for.
        origin: String,
        after: Duration,
        left_after: Option<Duration>,
    },
    /// It said that something is wrong.
    Refused { code: String, message: String },
    /// It said something else than messages; the first four bytes, as a length.
    Noise(u64),
    /// It sent a message that is not JSON.
    NotJson,
    /// It ended without an answer.
    Ended { how: String, words: String },
    /// It said nothing in time.
    Silent,
}

/// Starts a host and ends it again. Takes as long as [`ANSWER`] and [`LEAVE`] at most.
pub(super) fn launch(start: &Start, env: &Env) -> Outcome {
    let mut command = Command::new(&start.program);
    command.args(arguments(start)).env_clear().envs(environment(env));
    if let Some(directory) = start.program.parent() {
        command.current_dir(directory);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    os::keep_terminal_signals_from(&mut command);
    // Held until the host has left, as Firefox does.
    let fourth = match start.family {
        Family::Firefox => Some(os::give_fourth_pipe(&mut command)),
        Family::Chromium => None,
    };
    if let Some(Err(error)) = &fourth {
        return Outcome::NotStarted(error.to_string());
    }
    match command.spawn() {
        Ok(host) => {
            // It holds the other end of the fourth pipe.
            drop(command);
            converse(host)
        }
        Err(error) => Outcome::NotStarted(error.to_string()),
    }
}

/// Chromium passes the origin (on Windows a window besides, which is none for a worker), Firefox the manifest and the id.
fn arguments(start: &Start) -> Vec<OsString> {
    match start.family {
        Family::Chromium if cfg!(windows) => vec![start.origin.clone().into(), "--parent-window=0".into()],
        Family::Chromium => vec![start.origin.clone().into()],
        Family::Firefox => vec![start.manifest.clone().into(), start.origin.clone().into()],
    }
}

fn environment(env: &Env) -> Vec<(OsString, OsString)> {
    let of = |name: &&str| Some((OsString::from(name), env.get(name)?.to_owned()));
    let mut variables: Vec<_> = ENVIRONMENT.iter().filter_map(of).collect();
    let path = if cfg!(windows) { env.get("PATH").map(ToOwned::to_owned) } else { Some(OsString::from(DESKTOP_PATH)) };
    variables.extend(path.map(|path| ("PATH".into(), path)));
    variables
}

/// What `PATH` is for programs that are started from a desktop.
const DESKTOP_PATH: &str = "/usr/bin:/bin:/usr/sbin:/sbin";

/// A host that runs; it does not outlive this.
struct Running {
    host: Child,
    stdin: Option<ChildStdin>,
    said: Receiver<io::Result<Vec<u8>>>,
    words: Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It has left already, most often.
        let _ = self.host.kill();
        let _ = self.host.wait();
    }
}

fn converse(mut host: Child) -> Outcome {
    let (tell, said) = channel();
    let (tell_words, words) = channel();
    let stdin = host.stdin.take();
    let (stdout, stderr) = (host.stdout.take(), host.stderr.take());
    // Neither is waited for: what holds their pipes may be a process that the host has left behind.
    std::thread::spawn(move || {
        let Some(mut stdout) = stdout else { return };
        loop {
            let mut bytes = vec![0; 64 * 1024];
            let read = stdout.read(&mut bytes).map(|length| {
                bytes.truncate(length);
                bytes
            });
            let is_over = !matches!(&read, Ok(bytes) if !bytes.is_empty());
            if tell.send(read).is_err() || is_over {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let mut text = Vec::new();
        // What was said before an error is kept.
        let _ = stderr.map(|stderr| stderr.take(WORDS).read_to_end(&mut text));
        tell_words.send(String::from_utf8_lossy(&text).into_owned())
    });
    let mut running = Running { host, stdin, said, words };
    let started = Instant::now();
    match running.answer(started + ANSWER) {
        Ok(answer) => running.judge(&answer, started.elapsed()),
        Err(outcome) => outcome,
    }
}

impl Running {
    /// Greets and waits for the first message.
    fn answer(&mut self, deadline: Instant) -> Result<Value, Outcome> {
        let mut out = BytesMut::new();
        let hello = json!({"type": "hello", "protocol": PROTOCOL, "client": "doctor"}).to_string();
        frame::put(&mut out, |out| out.extend_from_slice(hello.as_bytes()));
        // One that does not read has ended or will say something else, which is told below.
        let _ = self.stdin.as_mut().map(|stdin| stdin.write_all(&out));
        let mut decoder = Decoder::new(frame::MAX_TO_EXTENSION);
        loop {
            match decoder.next() {
                Ok(Some(answer)) => return serde_json::from_slice(&answer).map_err(|_| Outcome::NotJson),
                Ok(None) => {}
                Err(FrameError::TooLong { length, .. }) => return Err(Outcome::Noise(length as u64)),
                Err(FrameError::Torn { .. } | FrameError::NoFrame) => {
                    return Err(Outcome::Noise(frame::NO_LENGTH.into()));
                }
            }
            match self.said.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(Ok(bytes)) if !bytes.is_empty() => decoder.buffer().extend_from_slice(&bytes),
                Ok(_) | Err(RecvTimeoutError::Disconnected) => return Err(self.ended(deadline)),
                Err(RecvTimeoutError::Timeout) => return Err(Outcome::Silent),
            }
        }
    }

    /// How it ended, with what it said to people.
    fn ended(&mut self, deadline: Instant) -> Outcome {
        self.stdin = None;
        let how = match self.wait(deadline) {
            Some(how) => how,
            None => "it closed its output and goes on".to_owned(),
        };
        let words = self.words.recv_timeout(Duration::from_millis(200)).unwrap_or_default();
        Outcome::Ended { how, words: words.trim().to_owned() }
    }

    fn judge(mut self, answer: &Value, after: Duration) -> Outcome {
        let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
        if answer["type"] != "welcome" {
            return Outcome::Refused { code: text("code"), message: text("message") };
        }
        let closed = Instant::now();
        self.stdin = None;
        let left_after = self.wait(closed + LEAVE).map(|_| closed.elapsed());
        Outcome::Welcome { version: text("version"), origin: text("origin"), after, left_after }
    }

    /// Waits for its end, for so long.
    fn wait(&mut self, deadline: Instant) -> Option<String> {
        loop {
            match self.host.try_wait() {
                Ok(Some(status)) => return Some(format!("it ended with {status}")),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                _ => return None,
            }
        }
    }
}

/// The version that a program says it is, if it says so in time.
pub(super) fn version(program: &Path, env: &Env) -> Option<String> {
    let mut command = Command::new(program);
    command.arg("--version").env_clear().envs(environment(env));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().ok()?;
    let stdout = child.stdout.take()?;
    let (tell, said) = channel();
    std::thread::spawn(move || {
        let mut text = String::new();
        let _ = stdout.take(WORDS).read_to_string(&mut text);
        tell.send(text)
    });
    let text = said.recv_timeout(LEAVE).ok();
    let _ = child.kill();
    let _ = child.wait();
    Some(text?.trim().strip_prefix("websocket-bridge ")?.to_owned())
}

/// The first bytes of a file, as many as say what it is.
pub(super) fn header(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(super::program::HEADER as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
