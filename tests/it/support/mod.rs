//! What the tests need to play browser, server and machine: each part on its own, nothing shared between tests.

pub(crate) mod browser;
pub(crate) mod sandbox;
pub(crate) mod server;

use std::time::{Duration, Instant};

/// How long a test waits for what must happen before it fails: far more than it ever takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Waits until `condition` gives something; fails with `what` if that takes too long.
pub(crate) fn until<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
