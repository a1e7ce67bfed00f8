//! What the tests need to play browser, server and machine: each part on its own, nothing shared between tests.

pub(crate) mod browser;
pub(crate) mod demo_server;
pub(crate) mod link;
#[cfg(target_os = "linux")]
pub(crate) mod program;
pub(crate) mod sandbox;
pub(crate) mod server;

use std::io;
use std::time::{Duration, Instant};

/// How long a test waits for what must happen before it fails: far more than it ever takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Checks that something that takes less than `limit` does, on a machine that may be busy with other things: the fastest
/// of a few times counts. What waits for a timer that is longer is too slow each time.
pub(crate) fn at_best_within(limit: Duration, mut act: impl FnMut() -> Duration) {
    // Each call to a system that another one plays takes longer, and each process that is started far longer.
    let limit = if cfg!(windows) { limit * 10 } else { limit };
    let mut fastest = Duration::MAX;
    for _ in 0..5 {
        fastest = fastest.min(act());
        if fastest < limit {
            return;
        }
    }
    panic!("took {fastest:?} at best, not less than {limit:?}");
}

/// Starts a program. Wine 8 cannot now and then, at random, and says "Internal error" (1359), which Windows does not: then
/// it is asked again.
pub(crate) fn start<T>(mut start: impl FnMut() -> io::Result<T>) -> T {
    until("a program can be started", || match start() {
        Err(error) if cfg!(windows) && error.raw_os_error() == Some(1359) => None,
        started => Some(started.unwrap()),
    })
}

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
