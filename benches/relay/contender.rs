//! What is measured: a native messaging host, started as a browser starts it, and a server of ours behind it.
//!
//! Owns: the plain relay and the bridge as processes, their ends, and what an extension says to each around a payload.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use tempfile::TempDir;

use crate::frames::{Input, put_native};
use crate::server::Server;

const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

/// How long a host may take until it has connected to the server.
const PATIENCE: Duration = Duration::from_secs(30);

/// An extension acknowledges after so many messages, or so many bytes.
const ACKNOWLEDGE_MESSAGES: usize = 256;
const ACKNOWLEDGE_BYTES: usize = 1024 * 1024;

/// A program to be measured.
#[derive(Debug, Clone)]
pub(crate) enum Contender {
    /// This program again, as the plain relay.
    Plain,
    /// A build of the bridge, and whether the extension takes several messages as one.
    Bridge { program: PathBuf, batch: bool },
}

impl Contender {
    /// Starts it and connects it to a server.
    pub(crate) fn start(&self) -> Result<(Port, TcpStream)> {
        let server = Server::listen()?;
        let port = match self {
            Self::Plain => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["--plain-relay", &server.address.to_string()]);
                Port::open(command, None)?
            }
            Self::Bridge { program, batch } => {
                let bridge = Bridge { program: program.clone(), home: tempfile::tempdir()? };
                let mut command = bridge.command();
                command.arg(ORIGIN);
                let mut port = Port::open(command, Some(bridge))?;
                port.open_session(server.address, *batch)?;
                port
            }
        };
        let client = server.client.recv_timeout(PATIENCE).context("nobody connected to the server")??;
        Ok((port, client))
    }
}

/// A home and the build that lives in it. Its daemon ends with it.
struct Bridge {
    program: PathBuf,
    home: TempDir,
}

impl Bridge {
    /// The program, with an environment as bare as a browser's on a fresh machine.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        let home = self.home.path();
        command.env_clear().env("HOME", home).env("WEBSOCKET_BRIDGE_HOME", home.join("bridge"));
        command.env("PATH", "/usr/bin:/bin").current_dir(home);
        command
    }

    fn daemon(&self) -> Option<u32> {
        std::fs::read_to_string(self.home.path().join("bridge/daemon.lock")).ok()?.trim().parse().ok()
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // Whether that went well shows in the next measurement, if it matters.
        let _ = self.command().arg("stop").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// A browser's end of a native messaging port, with its host. The host ends with it.
pub(crate) struct Port {
    host: Arc<Mutex<Child>>,
    bridge: Option<Bridge>,
    pub(crate) stdin: ChildStdin,
    /// Taken by whoever reads.
    pub(crate) stdout: Option<Input<ChildStdout>>,
}

impl Port {
    fn open(mut command: Command, bridge: Option<Bridge>) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut host = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let stdin = host.stdin.take().context("a child has the pipes that it was given")?;
        let stdout = host.stdout.take().map(Input::new);
        Ok(Self { host: Arc::new(Mutex::new(host)), bridge, stdin, stdout })
    }

    /// Opens a session as an extension does, and waits until it is connected.
    fn open_session(&mut self, server: SocketAddr, batch: bool) -> Result<()> {
        let features = if batch { r#","features":["batch"]"# } else { "" };
        let mut out = Vec::new();
        put_native(&mut out, &[format!(r#"{{"type":"hello","protocol":1{features}}}"#).as_bytes()]);
        put_native(&mut out, &[format!(r#"{{"type":"open","url":"ws://{server}/"}}"#).as_bytes()]);
        self.stdin.write_all(&out)?;
        let stdout = self.stdout.as_mut().context("nobody reads yet")?;
        loop {
            while let Some(frame) = stdout.native() {
                let text = String::from_utf8_lossy(frame);
                if text.starts_with(STATE) && text.contains(r#""state":"connected""#) {
                    return Ok(());
                }
                ensure!(!text.starts_with(r#"{"type":"error""#), "the bridge says {text}");
            }
            ensure!(stdout.read()?, "the host ended before it was connected");
        }
    }

    /// What an extension says around a payload.
    pub(crate) fn language(&self) -> Language {
        if self.bridge.is_some() { Language::Protocol } else { Language::Bare }
    }

    /// Host and, if there is one, daemon.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let host = self.host.lock().unwrap_or_else(PoisonError::into_inner).id();
        std::iter::once(host).chain(self.bridge.as_ref().and_then(Bridge::daemon)).collect()
    }

    /// Ends the host from another thread, so that nobody waits for it any more.
    pub(crate) fn killer(&self) -> impl Fn() + Send + use<> {
        let host = Arc::clone(&self.host);
        move || {
            let _ = host.lock().unwrap_or_else(PoisonError::into_inner).kill();
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.killer()();
        let _ = self.host.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }
}

/// What an extension says around a payload.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Language {
    /// Nothing: each native message is a payload.
    Bare,
    /// The bridge's protocol, in session `default`.
    Protocol,
}

const STATE: &str = r#"{"type":"state","#;
const MESSAGE: &[u8] = br#"{"type":"message","session":"default","seq":"#;
const BATCH: &[u8] = br#"{"type":"batch","messages":["#;
const SEQ: &[u8] = br#""seq":"#;

impl Language {
    /// Appends a native message that sends `payload` to the server.
    pub(crate) fn put_send(self, out: &mut Vec<u8>, payload: &[u8]) {
        match self {
            Self::Bare => put_native(out, &[payload]),
            Self::Protocol => put_native(out, &[br#"{"type":"send","session":"default","payload":"#, payload, b"}"]),
        }
    }

    /// Appends a native message that acknowledges everything up to `seq`.
    fn put_acknowledgement(self, out: &mut Vec<u8>, seq: usize) {
        if let Self::Protocol = self {
            put_native(out, &[format!(r#"{{"type":"ack","session":"default","seq":{seq}}}"#).as_bytes()]);
        }
    }
}

/// What an extension has received, which it acknowledges promptly.
pub(crate) struct Arrivals {
    language: Language,
    payload: Vec<u8>,
    messages: usize,
    acknowledged: usize,
}

impl Arrivals {
    /// Each message is expected to carry `payload`.
    pub(crate) fn of(payload: &[u8], language: Language) -> Self {
        Self { language, payload: payload.to_owned(), messages: 0, acknowledged: 0 }
    }

    /// Takes a native message. Returns how many messages of the server it brought.
    pub(crate) fn take(&mut self, frame: &[u8]) -> Result<usize> {
        let seq = match self.language {
            Language::Bare => (frame.len() == self.payload.len()).then_some(self.messages + 1),
            Language::Protocol if frame.starts_with(STATE.as_bytes()) => Some(self.messages),
            Language::Protocol => self.last_seq(frame),
        };
        let came = seq.and_then(|seq| seq.checked_sub(self.messages));
        let came = came.ok_or_else(|| {
            let shown = String::from_utf8_lossy(&frame[..frame.len().min(400)]);
            anyhow!("behind {} messages came a message that was not expected: {shown}", self.messages)
        })?;
        if self.messages == 0 && came > 0 && !contains(frame, &self.payload) {
            bail!("the payload was changed on its way");
        }
        self.messages += came;
        Ok(came)
    }

    /// The number of the last message in a frame. It is looked for where it must be: this program must stay lighter
    /// than what it measures.
    fn last_seq(&self, frame: &[u8]) -> Option<usize> {
        let digits = if frame.starts_with(BATCH) {
            let head = &frame[..frame.len().checked_sub(self.payload.len() + b"}]}".len())?];
            let head = &head[head.len().saturating_sub(100)..];
            &head[head.windows(SEQ.len()).rposition(|window| window == SEQ)? + SEQ.len()..]
        } else {
            frame.strip_prefix(MESSAGE)?
        };
        let digits = &digits[..digits.iter().position(|byte| !byte.is_ascii_digit())?];
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    /// Appends an acknowledgement if it is time for one.
    pub(crate) fn put_acknowledgement(&mut self, out: &mut Vec<u8>) {
        let open = self.messages - self.acknowledged;
        if open >= ACKNOWLEDGE_MESSAGES || open * self.payload.len() >= ACKNOWLEDGE_BYTES {
            self.acknowledged = self.messages;
            self.language.put_acknowledgement(out, self.messages);
        }
    }
}

fn contains(text: &[u8], part: &[u8]) -> bool {
    text.windows(part.len()).any(|window| window == part)
}
