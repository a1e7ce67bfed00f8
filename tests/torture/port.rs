//! A port as a browser has it: a host of its own, and native messages through its pipes.
//!
//! A thread reads, and another writes: like a browser's, posting never waits, and what is posted to a host that takes
//! nothing waits here.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::frames::{Input, put_native};
use crate::log::PortId;

/// How long a browser waits for a host to leave whose port it has closed.
const FAREWELL: Duration = Duration::from_secs(2);

/// The browser's end of a port.
pub(crate) struct Port {
    pub(crate) id: PortId,
    host: Child,
    posting: Option<Sender<Vec<u8>>>,
    stalled: Arc<AtomicBool>,
    /// When the browser kills the host, once the port is closed.
    kill_at: Option<Instant>,
}

impl Port {
    /// Starts `command` as a host. `came` is given each message, and at last `None`; while it does not return nothing is
    /// read.
    pub(crate) fn open(
        id: PortId,
        mut command: Command,
        came: impl Fn(Option<&[u8]>) + Send + 'static,
    ) -> std::io::Result<Self> {
        let mut host = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let (stdin, stdout) = (host.stdin.take(), host.stdout.take());
        let (posting, posted) = channel::<Vec<u8>>();
        if let Some(mut stdin) = stdin {
            thread::spawn(move || {
                for message in posted {
                    let mut frame = Vec::with_capacity(message.len() + 4);
                    put_native(&mut frame, &[&message]);
                    if stdin.write_all(&frame).is_err() {
                        return;
                    }
                }
            });
        }
        let stalled = Arc::<AtomicBool>::default();
        if let Some(stdout) = stdout {
            let stalled = Arc::clone(&stalled);
            thread::spawn(move || {
                let mut input = Input::new(stdout);
                loop {
                    while stalled.load(Ordering::Relaxed) {
                        thread::sleep(Duration::from_millis(3));
                    }
                    if !input.read().unwrap_or(false) {
                        return came(None);
                    }
                    while let Some(message) = input.native() {
                        came(Some(message));
                    }
                }
            });
        }
        Ok(Self { id, host, posting: Some(posting), stalled, kill_at: None })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.host.id()
    }

    /// Posts a message. To a port that is over it goes nowhere.
    pub(crate) fn post(&self, message: impl Into<Vec<u8>>) {
        if let Some(posting) = &self.posting {
            let _ = posting.send(message.into());
        }
    }

    /// Reads nothing more, or reads on.
    pub(crate) fn stall(&self, stalled: bool) {
        self.stalled.store(stalled, Ordering::Relaxed);
    }

    /// Kills the host.
    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.host.kill();
    }

    /// Closes the port as a browser does.
    pub(crate) fn close(&mut self) {
        self.posting = None;
        self.stall(false);
        self.kill_at = Some(Instant::now() + FAREWELL);
    }

    /// Whether the host has left; one that takes too long after the port was closed is killed.
    pub(crate) fn is_gone(&mut self) -> bool {
        if self.kill_at.is_some_and(|at| at <= Instant::now()) {
            self.kill();
        }
        !matches!(self.host.try_wait(), Ok(None))
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.kill();
        let _ = self.host.wait();
    }
}
