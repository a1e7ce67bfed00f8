//! Kills the daemon at the worst moment: right after it has said something that it must keep.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::fault::Kind;
use crate::log::{Event, Log};
use crate::machine::signal;

/// What the daemon has just said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// That a message to the server is stored.
    Stored,
    /// That one has been received.
    Received,
    /// A message of the server.
    Delivered,
    /// Where a port begins.
    Opened,
}

impl Moment {
    pub(crate) const ALL: [Self; 4] = [Self::Stored, Self::Received, Self::Delivered, Self::Opened];
}

/// What lies in wait: for which moment, and for which process.
#[derive(Debug, Default)]
pub(crate) struct Ambush(Mutex<Option<(Moment, u32)>>);

impl Ambush {
    /// Kills `pid` at that moment, or when `patience` is over.
    pub(crate) fn lay(&self, moment: Moment, pid: u32, patience: Duration, log: &Log) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((moment, pid));
        let deadline = Instant::now() + patience;
        while self.waits() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.spring_if(|_| true, log);
    }

    /// The daemon has just said that.
    pub(crate) fn spring(&self, moment: Moment, log: &Log) {
        self.spring_if(|awaited| awaited == moment, log);
    }

    fn waits(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn spring_if(&self, wanted: impl Fn(Moment) -> bool, log: &Log) {
        let laid = self.0.lock().unwrap_or_else(PoisonError::into_inner).take_if(|(moment, _)| wanted(*moment));
        if let Some((_, pid)) = laid {
            log.add(Event::Fault(Kind::DaemonKilled, None));
            signal(pid, Signal::SIGKILL);
        }
    }
}
