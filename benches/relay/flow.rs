//! What is on its way in a throughput measurement, known to whoever sends and whoever counts.
//!
//! Owns: the bound on it. Without one the kernel's buffers, tens of megabytes, would decide by luck how much is written
//! before anything is read. It also brings a measurement to an end at which nothing is on its way, so that what was
//! lost would be noticed.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};

/// Bytes on their way at the most.
const MAX_BYTES: usize = 1024 * 1024;

/// Messages on their way at the most: a session keeps 10 000 for the server, and knows of some only later that they
/// have arrived.
const MAX_MESSAGES: usize = 4096;

/// Bytes of messages that are written together: what a pipe holds on Linux.
const WRITE: usize = 64 * 1024;

#[derive(Default)]
struct State {
    sent: usize,
    received: usize,
    /// The next messages are to be the last.
    stop: bool,
    /// The last messages have been sent.
    last: bool,
    sender_waits: bool,
    broken: Option<String>,
}

pub(crate) struct Flow {
    limit: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// How many messages of `size` bytes are written together.
pub(crate) fn together(size: usize) -> usize {
    (WRITE / size).clamp(1, MAX_MESSAGES / 4)
}

impl Flow {
    /// For messages of `size` bytes.
    pub(crate) fn new(size: usize) -> Self {
        let limit = (MAX_BYTES / size).clamp(2, MAX_MESSAGES);
        Self { limit, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Waits until there is room for `messages`, which must be sent then. Returns whether they are the last.
    pub(crate) fn send(&self, messages: usize) -> bool {
        let mut state = self.state();
        while state.sent + messages > state.received + self.limit && !state.stop {
            state.sender_waits = true;
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.sender_waits = false;
        state.sent += messages;
        state.last = state.stop;
        state.last
    }

    /// So many messages have arrived.
    pub(crate) fn receive(&self, messages: usize) {
        let mut state = self.state();
        state.received += messages;
        // Half at once, so that each message does not wake its sender.
        if state.is_over() || state.sender_waits && state.sent - state.received <= self.limit / 2 {
            self.changed.notify_all();
        }
    }

    pub(crate) fn received(&self) -> usize {
        self.state().received
    }

    /// Has the sender send its last messages.
    pub(crate) fn stop(&self) {
        self.state().stop = true;
        self.changed.notify_all();
    }

    /// Ends it here: something is wrong.
    pub(crate) fn fail(&self, why: String) {
        let mut state = self.state();
        state.broken.get_or_insert(why);
        state.stop = true;
        self.changed.notify_all();
    }

    /// Whether all messages have been sent and have arrived.
    pub(crate) fn is_over(&self) -> Result<bool> {
        let state = self.state();
        match &state.broken {
            Some(why) => bail!("{why} ({} messages sent, {} received)", state.sent, state.received),
            None => Ok(state.is_over()),
        }
    }

    /// Waits until [`Flow::is_over`].
    pub(crate) fn wait_until_over(&self, patience: Duration) -> Result<()> {
        let goes_on = |state: &mut State| !state.is_over() && state.broken.is_none();
        let waited = self.changed.wait_timeout_while(self.state(), patience, goes_on);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        if !self.is_over()? {
            self.fail("nothing moves any more".into());
            self.is_over()?;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_over(&self) -> bool {
        self.last && self.received == self.sent
    }
}
