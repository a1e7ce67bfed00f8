//! The host: what the browser starts, one for each port. A pipe between its standard streams and the daemon.
//!
//! Owns: the real standard output. Decides nothing and reads no message: after the link's header, bytes go both ways as
//! they come; all it knows of them is where a frame ends. It leaves when either side is gone, and says in the log who it
//! was. Only when one daemon takes over from another it stays, and goes on with the next ([`crate::wire::link`]).
//!
//! One thread carries each direction with nothing but `read` and `write`, so that a slow side stops the other by
//! back-pressure; a third sleeps until the browser closes a pipe, so that the host leaves in time although a direction
//! may be stuck in a write.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use interprocess::local_socket;
use tracing::{error, info};

use crate::config::Paths;
use crate::daemon::launch::{self, LaunchError};
use crate::os;
use crate::wire::event::Problem;
use crate::wire::frame::{self, Tracker};
use crate::wire::link::{Control, ControlError};
use crate::wire::{Code, Event};

/// Bytes carried at once: what a pipe holds on Linux.
const BUFFER: usize = 64 * 1024;

/// How long one write to the daemon may take after the browser has closed the port: what the extension posted last still
/// goes through, but not into a link that nobody reads. Browsers kill a host that stays: Chromium after 2 s, a portal at
/// once.
const LAST_WORDS: Duration = Duration::from_millis(40);

/// Who ended it, for the log.
const BROWSER: &str = "the browser closed the port";
const DAEMON: &str = "the daemon closed the link";

/// How often [`LAST_WORDS`] must pass without any write, for a browser that has closed one of its pipes only, or while one
/// daemon takes over from another.
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
    let uplink = Arc::<Uplink>::default();
    watch(Arc::clone(&stdin), Arc::clone(&stdout), Arc::clone(&uplink), ended.clone());
    // Neither is waited for: what is left of them ends with the process, which must not stay.
    spawn(&ended, {
        let uplink = Arc::clone(&uplink);
        move || Some(carry_up(&stdin, &uplink))
    });
    spawn(&ended, {
        let (paths, origin, stdout) = (paths.clone(), origin.to_owned(), Arc::clone(&stdout));
        move || carry_down(&paths, &origin, &stdout, &uplink)
    });
    match end.recv() {
        Ok(End::NoDaemon(error)) => {
            tell(&stdout, paths, &error);
            ExitCode::FAILURE
        }
        Ok(End::Gone { who, after }) => {
            info!(reason = who, error = after.map(tracing::field::display), "host ended");
            ExitCode::SUCCESS
        }
        Err(mpsc::RecvError) => ExitCode::FAILURE,
    }
}

/// How the host ends.
enum End {
    /// One side is gone.
    Gone { who: &'static str, after: Option<io::Error> },
    /// There is no daemon, or none any more.
    NoDaemon(LaunchError),
}

/// Runs something that may end the host.
fn spawn(ended: &mpsc::Sender<End>, act: impl FnOnce() -> Option<End> + Send + 'static) {
    let ended = ended.clone();
    std::thread::spawn(move || {
        if let Some(end) = act() {
            // Another thread may have been first.
            let _ = ended.send(end);
        }
    });
}

/// The way to the daemon, which may become another daemon's.
#[derive(Default)]
struct Uplink {
    line: Mutex<Line>,
    /// There is a link again.
    linked: Condvar,
    /// The daemon wants no further frame.
    stopping: AtomicBool,
    /// There was ever somewhere to write to.
    began: AtomicBool,
    /// Begins and ends of writes: an odd number means that one is under way.
    writes: AtomicU64,
}

/// What is written to, and how far.
#[derive(Default)]
struct Line {
    link: Option<Arc<local_socket::Stream>>,
    place: Tracker,
    /// Bytes of frames that this link was given.
    given: u64,
}

impl Uplink {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what can be written of `bytes` now: all, but for a length at their end that is cut off; or up to the end of a
    /// frame, if the daemon wants no other. While there is no daemon, this waits. One that is gone is no failure here: what
    /// it said last tells whether another one follows, and the other direction will hear it.
    fn write(&self, bytes: &[u8]) -> usize {
        let mut line = self.line();
        loop {
            self.stop_if_asked(&mut line);
            let Line { link: Some(link), place, given } = &mut *line else {
                line = self.linked.wait(line).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            let length =
                if self.stopping.load(Ordering::Relaxed) { bytes.len().min(place.left()) } else { bytes.len() };
            let before = *place;
            let count = place.pass(&bytes[..length]);
            self.begin_or_end();
            let written = write_all(link, &bytes[..count]);
            self.begin_or_end();
            *given += written as u64;
            if written == count {
                self.stop_if_asked(&mut line);
                return count;
            }
            if written == 0 {
                *place = before;
            }
            line.link = None;
        }
    }

    /// Says that this was all, if the daemon wants no further frame and none is under way.
    fn stop_if_asked(&self, line: &mut Line) {
        if !self.stopping.load(Ordering::Relaxed) || line.place.left() > 0 {
            return;
        }
        if let Some(link) = line.link.take() {
            let mut out = BytesMut::new();
            Control::Stopped.put(&mut out);
            // A daemon that is gone has said before whether another one follows.
            let _ = (&*link).write_all(&out);
        }
    }

    /// Whether all that this link was given are `taken` bytes of whole frames. It is given nothing more.
    fn has_given_only(&self, taken: u64) -> bool {
        let mut line = self.line();
        line.link = None;
        line.given == taken && line.place.left() == 0
    }

    /// Goes on with this link.
    fn install(&self, link: Arc<local_socket::Stream>) {
        let mut line = self.line();
        self.stopping.store(false, Ordering::Relaxed);
        *line = Line { link: Some(link), ..Line::default() };
        self.began.store(true, Ordering::Relaxed);
        self.linked.notify_all();
    }

    /// Only whoever has the line writes, so there is nobody to race with.
    fn begin_or_end(&self) {
        self.writes.store(self.writes.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    }

    /// Returns when one and the same write has been under way for all of [`LAST_WORDS`], or none for much longer.
    fn wait_until_over(&self) {
        let mut rounds_without = 0;
        loop {
            let before = self.writes.load(Ordering::Relaxed);
            std::thread::sleep(LAST_WORDS);
            let stuck = before == self.writes.load(Ordering::Relaxed);
            rounds_without = if stuck { rounds_without + 1 } else { 0 };
            let limit = if before % 2 == 1 { 1 } else { SILENT_ROUNDS };
            if rounds_without >= limit {
                return;
            }
        }
    }
}

/// Writes `bytes`; returns how many of them, which are all unless the other side is gone.
fn write_all(mut link: &local_socket::Stream, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match link.write(&bytes[written..]) {
            Ok(0) => break,
            Ok(count) => written += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    written
}

/// Ends the host some time after the browser has closed a pipe, if no direction has noticed by itself: one may be stuck
/// in a write.
fn watch(stdin: Arc<File>, stdout: Arc<File>, uplink: Arc<Uplink>, ended: mpsc::Sender<End>) {
    spawn(&ended, move || {
        os::wait_for_hangup(&[&stdin, &stdout]);
        std::thread::sleep(LAST_WORDS);
        if !uplink.began.load(Ordering::Relaxed) {
            // Nobody waits any more for the daemon that is being looked for or started.
            info!(reason = BROWSER, "host ended before it had a daemon");
            std::process::exit(0);
        }
        uplink.wait_until_over();
        // Most often a direction has ended by itself by now, and nobody listens any more.
        Some(End::Gone { who: BROWSER, after: None })
    });
}

/// Carries what the browser says to the daemon, whichever it is, until one of them is gone.
fn carry_up(stdin: &File, uplink: &Uplink) -> End {
    let mut buffer = Buffer::default();
    loop {
        match buffer.fill(stdin) {
            Ok(0) => return End::Gone { who: BROWSER, after: None },
            Ok(_) => {}
            Err(error) => return End::Gone { who: BROWSER, after: Some(error) },
        }
        while !buffer.filled().is_empty() {
            match uplink.write(buffer.filled()) {
                // A cut-off length waits for the rest of it: the daemon that gets it may be another one.
                0 if buffer.filled().len() < frame::PREFIX => break,
                0 => {
                    let absurd = io::Error::other("it announced a message of a length that none has");
                    return End::Gone { who: BROWSER, after: Some(absurd) };
                }
                count => buffer.take(count),
            }
        }
    }
}

/// Carries what the daemon says to the browser, and goes on with the next daemon if there is one, until somebody is gone.
fn carry_down(paths: &Paths, origin: &str, stdout: &File, uplink: &Arc<Uplink>) -> Option<End> {
    let gone = |after| Some(End::Gone { who: DAEMON, after });
    let mut port = None;
    loop {
        let link = match launch::ensure_running(paths, origin) {
            Ok(link) => link,
            Err(error) => return Some(End::NoDaemon(error)),
        };
        match port {
            None => info!(daemon = link.daemon.build, "host started"),
            Some(port) => {
                info!(daemon = link.daemon.build, "another daemon goes on with the port");
                let mut out = BytesMut::new();
                Control::Resume { port }.put(&mut out);
                if let Err(error) = (&*link.stream).write_all(&out) {
                    return gone(Some(error));
                }
            }
        }
        uplink.install(Arc::clone(&link.stream));
        port = match pass_down(&link.stream, stdout, uplink) {
            Down::Moved(port) => Some(port),
            Down::Gone(after) => return gone(after),
            // This ends nothing by itself: what the browser posted before has still to be passed on, and the watcher has
            // seen it too.
            Down::Unheard => return None,
        };
    }
}

/// How the way from a daemon to the browser ends.
enum Down {
    /// Another daemon follows, who must know this of the port.
    Moved(Bytes),
    /// The daemon is gone.
    Gone(Option<io::Error>),
    /// The browser reads no more.
    Unheard,
}

/// Carries what one daemon says.
fn pass_down(link: &local_socket::Stream, mut stdout: &File, uplink: &Arc<Uplink>) -> Down {
    let (mut buffer, mut place) = (Buffer::default(), Tracker::default());
    let mut stopping: Option<JoinHandle<()>> = None;
    loop {
        match buffer.fill(link) {
            Ok(0) => return Down::Gone(None),
            Ok(_) => {}
            Err(error) => return Down::Gone(Some(error)),
        }
        loop {
            let count = place.pass(buffer.filled());
            if count > 0 && stdout.write_all(&buffer.filled()[..count]).is_err() {
                return Down::Unheard;
            }
            buffer.take(count);
            match Control::read(buffer.filled()) {
                Ok(None) => break,
                Ok(Some((control, length))) => {
                    buffer.take(length);
                    match control {
                        Control::Stop => {
                            uplink.stopping.store(true, Ordering::Relaxed);
                            let uplink = Arc::clone(uplink);
                            // The other direction may be in the middle of a write that ends only if this one goes on.
                            stopping = Some(std::thread::spawn(move || uplink.stop_if_asked(&mut uplink.line())));
                        }
                        Control::Moved { taken, port } => {
                            let complete = uplink.has_given_only(taken);
                            // It must not speak on the next link.
                            stopping.map(JoinHandle::join);
                            if complete {
                                return Down::Moved(port);
                            }
                            let lost = "another one follows, but what was posted last has not arrived";
                            return Down::Gone(Some(io::Error::other(lost)));
                        }
                        Control::Stopped | Control::Resume { .. } => {
                            return Down::Gone(Some(io::Error::other(ControlError)));
                        }
                    }
                }
                Err(error) => return Down::Gone(Some(io::Error::other(error))),
            }
        }
    }
}

/// What was read and not yet passed on.
struct Buffer {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
}

impl Default for Buffer {
    fn default() -> Self {
        Self { bytes: vec![0; BUFFER], begin: 0, end: 0 }
    }
}

impl Buffer {
    /// Reads once, behind what is left.
    fn fill(&mut self, mut from: impl Read) -> io::Result<usize> {
        self.bytes.copy_within(self.begin..self.end, 0);
        (self.begin, self.end) = (0, self.end - self.begin);
        if self.end == self.bytes.len() {
            // What the daemon says to us must be read as a whole.
            self.bytes.resize(2 * self.end, 0);
        }
        loop {
            match from.read(&mut self.bytes[self.end..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => {
                    self.end += read.as_ref().unwrap_or(&0);
                    return read;
                }
            }
        }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[self.begin..self.end]
    }

    fn take(&mut self, count: usize) {
        self.begin += count;
    }
}

/// Tells the extension that there is no daemon, in the last message that this host will ever send.
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
