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

/// How long what the extension posted last may take to reach the daemon after the browser has closed the port. Browsers
/// kill a host that stays: Chromium after 2 s, a portal at once.
const LAST_WORDS: Duration = Duration::from_millis(80);

/// Who ended it, for the log.
const BROWSER: &str = "the browser closed the port";
const DAEMON: &str = "the daemon closed the link";

/// Serves one port: `origin` is the extension, as the browser named it.
#[must_use]
pub fn run(paths: &Paths, origin: &str) -> ExitCode {
    let streams = os::take_stdin().and_then(|stdin| Ok((stdin, os::take_stdout()?)));
    let (stdin, mut stdout) = match streams {
        Ok(streams) => streams,
        Err(error) => {
            error!(%error, "the standard streams cannot be used");
            return ExitCode::FAILURE;
        }
    };
    let link = match launch::ensure_running(paths, origin) {
        Ok(link) => link,
        Err(error) => {
            tell(&mut stdout, paths, &error);
            return ExitCode::FAILURE;
        }
    };
    info!(daemon = link.daemon.build, "host started");
    let (ended, end) = mpsc::channel();
    let watched = stdin.try_clone().and_then(|stdin| Ok((stdin, stdout.try_clone()?)));
    if let Ok((stdin, stdout)) = watched {
        let ended = ended.clone();
        std::thread::spawn(move || {
            os::wait_for_hangup(&[&stdin, &stdout]);
            std::thread::sleep(LAST_WORDS);
            // Most often a direction has ended by itself by now, and nobody listens any more.
            let _ = ended.send(End { who: BROWSER, after: None });
        });
    }
    let (stdin, stdout) = (Arc::new(stdin), Arc::new(stdout));
    // Not waited for: what is left of them ends with the process, which must not stay.
    carry(stdin, Arc::clone(&link.stream), (BROWSER, DAEMON), ended.clone());
    carry(link.stream, stdout, (DAEMON, BROWSER), ended);
    let end = end.recv().unwrap_or(End { who: "nobody", after: None });
    info!(reason = end.who, error = end.after.map(tracing::field::display), "host ended");
    ExitCode::SUCCESS
}

/// How a direction ended.
struct End {
    who: &'static str,
    after: Option<io::Error>,
}

/// Carries bytes until one end is gone; `ends` say who that is when reading ends and when writing does.
fn carry<From, To>(from: Arc<From>, to: Arc<To>, ends: (&'static str, &'static str), ended: Sender<End>)
where
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
            if let Err(error) = (&*to).write_all(&buffer[..length]) {
                break End { who: ends.1, after: Some(error) };
            }
        };
        // The other direction may have been first.
        let _ = ended.send(end);
    });
}

/// Tells the extension that there is no daemon, in the one message that this host will ever send.
fn tell(stdout: &mut File, paths: &Paths, error: &LaunchError) {
    let cause = crate::log::chain(error);
    error!(error = %cause, "no daemon");
    let message = format!(
        "the websocket-bridge daemon cannot be reached: {cause}. Run `websocket-bridge doctor` in a terminal; the log is \
         in {}",
        paths.log_directory().display()
    );
    let mut out = BytesMut::new();
    frame::put(&mut out, |out| Event::from(Problem::new(Code::DaemonUnavailable, message)).write(out));
    // If the browser is gone too there is nobody left to tell.
    let _ = stdout.write_all(&out);
}
