//! The browser's part in the demo: starts the host as Chromium does, and ends it as Chromium does.
//!
//! Owns: the host's process and its pipes, one thread for each, so that a host that takes or gives nothing stops no one
//! else. Does not know what the frames say.

use std::io::{self, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc as threads;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::config::HOME_VARIABLE;
use crate::os;
use crate::wire::frame::{self, Decoder};

/// The extension, as Chromium names it to the host.
const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

/// Frames that wait for the worker before the host has to.
const FRAMES: usize = 64;

/// How long a host may take to leave when its port is closed: longer than a daemon may take to start, so that none comes
/// up behind the back of whoever stops it.
const LEAVE: Duration = Duration::from_secs(12);

/// A native messaging port with its host. When it is dropped, the port is closed and the host has left.
#[derive(Debug)]
pub(super) struct Port {
    host: Child,
    to_host: Option<threads::Sender<BytesMut>>,
    from_host: mpsc::Receiver<Bytes>,
}

impl Port {
    /// Starts `program` as the host, with everything it keeps below `home`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub(super) fn open(program: &Path, home: &Path) -> io::Result<Self> {
        let mut command = Command::new(program);
        command.arg(ORIGIN).env(HOME_VARIABLE, home);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(directory) = program.parent() {
            command.current_dir(directory);
        }
        // Ctrl-C is for the demo, which then closes the port.
        os::keep_terminal_signals_from(&mut command);
        // On Windows a host would inherit the connections that the demo's server has accepted, and keep them open.
        os::keep_descriptors_from_children()?;
        let mut host = command.spawn()?;
        let stdin = host.stdin.take().expect("it was asked for as a pipe");
        let stdout = host.stdout.take().expect("it was asked for as a pipe");
        let (to_host, posted) = threads::channel();
        let (said, from_host) = mpsc::channel(FRAMES);
        // Neither is waited for: they end with the pipes.
        std::thread::spawn(move || write_frames(stdin, &posted));
        std::thread::spawn(move || read_frames(stdout, &said));
        Ok(Self { host, to_host: Some(to_host), from_host })
    }

    /// The host's process id.
    pub(super) fn host(&self) -> u32 {
        self.host.id()
    }

    /// Posts a message. One that the host does not take any more is gone, as in a browser.
    pub(super) fn post(&self, message: &serde_json::Value) {
        let mut out = BytesMut::new();
        frame::put(&mut out, |out| out.extend_from_slice(message.to_string().as_bytes()));
        if let Some(to_host) = &self.to_host {
            let _ = to_host.send(out);
        }
    }

    /// The next message, or nothing when the host is gone.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.from_host.recv().await
    }

    /// Kills the host, as a browser does that has no time.
    pub(super) fn kill(mut self) {
        // It may be gone already; then there is nothing to kill.
        let _ = self.host.kill();
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.to_host = None;
        self.from_host.close();
        let deadline = Instant::now() + LEAVE;
        while let Ok(None) = self.host.try_wait() {
            if Instant::now() >= deadline {
                let _ = self.host.kill();
                let _ = self.host.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn write_frames(mut stdin: ChildStdin, posted: &threads::Receiver<BytesMut>) {
    for frame in posted {
        if stdin.write_all(&frame).is_err() {
            return;
        }
    }
}

fn read_frames(mut stdout: ChildStdout, said: &mpsc::Sender<Bytes>) {
    let mut decoder = Decoder::new(frame::MAX_TO_EXTENSION);
    let mut bytes = vec![0; 64 * 1024];
    loop {
        match decoder.next() {
            Ok(Some(frame)) => {
                if said.blocking_send(frame).is_err() {
                    return;
                }
            }
            Ok(None) => match stdout.read(&mut bytes) {
                Ok(0) => return,
                Ok(length) => decoder.buffer().extend_from_slice(&bytes[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return,
            },
            // A browser closes the port on a frame that is too long.
            Err(_) => return,
        }
    }
}
