//! The server that the fleet loses.
//!
//! For `down` nothing listens: every attempt is refused. Then it completes `accepts` handshakes a second, one after the other.
//! Up to `backlog` more may wait for their turn, as in a listening socket's queue; whoever comes when that is full is turned
//! away at once with 503, as a load balancer does.
//!
//! An attempt costs the server nothing but what it takes of that. A real one is slowed down by those that it turns away, so
//! that whoever storms it is flattered here.

use std::time::Duration;

use super::News;

/// What it can do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    /// How long it is away.
    pub(crate) down: Duration,
    /// Handshakes that it completes in a second.
    pub(crate) accepts: f64,
    /// Attempts that may wait for their turn.
    pub(crate) backlog: f64,
}

/// The server at work.
pub(super) struct AtWork {
    server: Server,
    /// When it has completed all that it has taken, in milliseconds.
    free_at: f64,
}

impl Server {
    pub(super) fn waits_for_them(self) -> AtWork {
        AtWork { server: self, free_at: 0.0 }
    }
}

impl AtWork {
    /// What becomes of an attempt, and at which millisecond that is known here.
    pub(super) fn take(&mut self, now: Duration) -> (News, u64) {
        let now_ms = now.as_millis() as u64;
        if now < self.server.down {
            return (News::Refused, now_ms);
        }
        let each = 1000.0 / self.server.accepts;
        let begins = self.free_at.max(now_ms as f64);
        if begins - now_ms as f64 > self.server.backlog * each {
            return (News::Overloaded, now_ms);
        }
        self.free_at = begins + each;
        (News::Back, self.free_at.ceil() as u64)
    }
}
