//! The host: what the browser starts, one for each port. A pipe between its standard streams and the daemon.
//!
//! Owns: the real standard output. Decides nothing and reads no message: after the link's header, bytes go both ways as
//! they come. It leaves when either side is gone, and says in the log who it was.
//!
//! One thread carries each direction with nothing but `read` and `write`, so that a slow side stops the other by
//! back-pressure; a third sleeps until the browser closes a pipe, so that the host leaves in time although a direction
//! may be stuck in a write.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Sender};
use std::time::Duration;

use bytes::BytesMut;
use tracing::{error, info};

use crate::config::Paths;
use crate::daemon::launch::{self, LaunchError};
use crate::os;
use crate::wire::event::Problem;
use crate::wire::{Code, Event, frame};

/// Bytes carried at once: what a pipe holds on Linux.
const BUFFER: usize = 64 * 1024;

/// How long one write to the daemon may take after the browser has closed the port: what the extension posted last still
/// goes through, but not into a link that nobody reads. Browsers kill a host that stays: Chromium after 2 s, a portal at
/// once.
const LAST_WORDS: Duration = Duration::from_millis(40);

/// Who ended it, for the log.
const BROWSER: &str = "the browser closed the port";
const DAEMON: &str = "the daemon closed the link";

/// How often [`LAST_WORDS`] must pass without any write, for a browser that has closed one of its pipes only.
const SILENT_ROUNDS: u32 = 25;

/// Serves one port: `origin` is the extension, as the browser named it.
#[must_use]
pub fn run(paths: &Paths, origin: &str) -> ExitCode {
    let streams = os::take_stdin().and_then(|stdin| Ok((stdin, os::take_stdout()?)));
    let (stdin, stdout) = match streams {
        Ok((stdin, stdout)) => (Arc::new(stdin), Arc::new(stdout)),
        Err(error) => {
            error!(%error, "the standard streams cannot be used");
            return ExitCode::FAILURE;
        }
    };
    let (ended, end) = mpsc::channel();
    let to_daemon = Arc::<Writes>::default();
    watch(Arc::clone(&stdin), Arc::clone(&stdout), Arc::clone(&to_daemon), ended.clone());
    let link = match launch::ensure_running(paths, origin) {
        Ok(link) => link,
        Err(error) => {
            tell(&stdout, paths, &error);
            return ExitCode::FAILURE;
        }
    };
    info!(daemon = link.daemon.build, "host started");
    to_daemon.linked.store(true, Ordering::Relaxed);
    // Not waited for: what is left of them ends with the process, which must not stay.
    carry(stdin, Arc::clone(&link.stream), (BROWSER, Some(DAEMON)), to_daemon, ended.clone());
    // That the browser reads no more ends nothing by itself: what it posted before has still to be passed on, and the
    // watcher has seen it too.
    carry(link.stream, stdout, (DAEMON, None), Arc::default(), ended);
    let end = end.recv().unwrap_or(End { who: "nobody", after: None });
    info!(reason = end.who, error = end.after.map(tracing::field::display), "host ended");
    ExitCode::SUCCESS
}

/// How a direction ended.
struct End {
    who: &'static str,
    after: Option<io::Error>,
}

/// How far one direction is.
#[derive(Default)]
struct Writes {
    /// There is somewhere to write to.
    linked: AtomicBool,
    /// Begins and ends of writes: an odd number means that one is under way.
    count: AtomicU64,
}

impl Writes {
    fn begin_or_end(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns when one and the same write has been under way for all of [`LAST_WORDS`], or none for much longer.
    fn wait_until_over(&self) {
        let mut rounds_without = 0;
        loop {
            let before = self.count.load(Ordering::Relaxed);
            std::thread::sleep(LAST_WORDS);
            let stuck = before == self.count.load(Ordering::Relaxed);
            rounds_without = if stuck { rounds_without + 1 } else { 0 };
            let limit = if before % 2 == 1 { 1 } else { SILENT_ROUNDS };
            if rounds_without >= limit {
                return;
            }
        }
    }
}

/// Ends the host some time after the browser has closed a pipe, if no direction has noticed by itself: one may be stuck
/// in a write.
fn watch(stdin: Arc<File>, stdout: Arc<File>, to_daemon: Arc<Writes>, ended: Sender<End>) {
    std::thread::spawn(move || {
        os::wait_for_hangup(&[&stdin, &stdout]);
        std::thread::sleep(LAST_WORDS);
        if !to_daemon.linked.load(Ordering::Relaxed) {
            // Nobody waits any more for the daemon that is being looked for or started.
            info!(reason = BROWSER, "host ended before it had a daemon");
            std::process::exit(0);
        }
        to_daemon.wait_until_over();
        // Most often a direction has ended by itself by now, and nobody listens any more.
        let _ = ended.send(End { who: BROWSER, after: None });
    });
}

/// Carries bytes until one end is gone; `ends` say who that is when reading ends and when writing does, if that is the end.
fn carry<From, To>(
    from: Arc<From>,
    to: Arc<To>,
    ends: (&'static str, Option<&'static str>),
    writes: Arc<Writes>,
    ended: Sender<End>,
) where
    From: Send + Sync + 'static,
    To: Send + Sync + 'static,
    for<'a> &'a From: Read,
    for<'a> &'a To: Write,
{
    std::thread::spawn(move || {
        let mut buffer = vec![0; BUFFER];
        let end = loop {
            let length = match (&*from).read(&mut buffer) {
                Ok(0) => break End { who: ends.0, after: None },
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => break End { who: ends.0, after: Some(error) },
            };
            writes.begin_or_end();
            let written = (&*to).write_all(&buffer[..length]);
            writes.begin_or_end();
            if let Err(error) = written {
                let Some(who) = ends.1 else { return };
                break End { who, after: Some(error) };
            }
        };
        // The other direction may have been first.
        let _ = ended.send(end);
    });
}

/// Tells the extension that there is no daemon, in the one message that this host will ever send.
fn tell(mut stdout: &File, paths: &Paths, error: &LaunchError) {
    let cause = crate::log::chain(error);
    error!(error = %cause, "no daemon");
    let message = format!(
        "the websocket-bridge daemon cannot be reached: {cause}. Run `websocket-bridge daemon --foreground` in a terminal to \
         see it start; the log is in {}",
        paths.log_directory().display()
    );
    let mut out = BytesMut::new();
    frame::put(&mut out, |out| Event::from(Problem::new(Code::DaemonUnavailable, message)).write(out));
    // If the browser is gone too there is nobody left to tell.
    let _ = stdout.write_all(&out);
}
