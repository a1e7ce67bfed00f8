//! Log files: what happened and who ended what, without payloads and without secrets.
//!
//! Owns: where lines go, how large the files may grow and who may read them. What is worth a line is up to those who
//! write it; nothing is ever written to standard output.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::os;

/// A file that has grown to this many bytes is set aside, and a new one begun.
const MAX_BYTES: u64 = 2 * 1024 * 1024;

/// How many files that were set aside are kept.
const KEPT: usize = 3;

/// Names the environment variable with the filter, as in `WEBSOCKET_BRIDGE_LOG=debug`.
pub const LOG_VARIABLE: &str = "WEBSOCKET_BRIDGE_LOG";

/// Keeps the log going; what is not yet written is written when it is dropped.
#[derive(Debug)]
#[must_use]
pub struct Guard {
    _writer: Option<WorkerGuard>,
}

/// A log file that is rotated by size.
#[derive(Debug)]
struct Rotating {
    path: PathBuf,
    file: File,
    length: u64,
}

impl Rotating {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = os::append_private(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, file, length })
    }

    fn rotate(&mut self) -> io::Result<()> {
        let aside = |number: usize| self.path.with_extension(format!("{number}.log"));
        for number in (1..KEPT).rev() {
            // Not there yet, most often.
            let _ = std::fs::rename(aside(number), aside(number + 1));
        }
        if std::fs::rename(&self.path, aside(1)).is_err() {
            // What cannot be set aside makes room all the same: the end of a log says more than its beginning.
            self.file.set_len(0)?;
        }
        *self = Self::open(self.path.clone())?;
        Ok(())
    }
}

impl Write for Rotating {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.length > 0 && self.length + bytes.len() as u64 > MAX_BYTES {
            self.rotate()?;
        }
        let written = self.file.write(bytes)?;
        self.length += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Logs to `NAME.log` in `directory`. A daemon's lines are written by a thread of their own, so that a slow disk stops no
/// stream; a host's, which are few, at once.
///
/// # Errors
/// If the file cannot be made; the program goes on without a log.
pub fn to_file(directory: &Path, name: &str, own_thread: bool) -> io::Result<Guard> {
    os::private_directory(directory)?;
    let file = Rotating::open(directory.join(format!("{name}.log")))?;
    if own_thread {
        let (writer, guard) = tracing_appender::non_blocking(file);
        begin(writer);
        Ok(Guard { _writer: Some(guard) })
    } else {
        begin(std::sync::Mutex::new(file));
        Ok(Guard { _writer: None })
    }
}

/// Logs to standard error, for a daemon in a terminal.
pub fn to_stderr() -> Guard {
    begin(io::stderr);
    Guard { _writer: None }
}

fn begin(writer: impl for<'a> MakeWriter<'a> + Send + Sync + 'static) {
    let filter = EnvFilter::builder()
        .with_default_directive(LevelFilter::INFO.into())
        .with_env_var(LOG_VARIABLE)
        .from_env_lossy();
    let subscriber =
        tracing_subscriber::fmt().with_writer(writer).with_ansi(false).with_target(false).with_env_filter(filter);
    // A second one can only come from a test that runs in the same process.
    let _ = tracing::subscriber::set_global_default(subscriber.finish());
    // A panic is a bug. A process that goes on with half of its state would break promises silently; one that ends is
    // started again.
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(panic = %harmless(&panic.to_string()), "this is a bug; please report it with this line");
        // Time for the log's own thread.
        std::thread::sleep(std::time::Duration::from_millis(50));
        std::process::abort();
    }));
}

/// An error with its causes, in one line.
#[must_use]
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}

/// Text from outside, made harmless for a log or a terminal: no control characters, none that change the direction of writing.
#[must_use]
pub fn harmless(text: &str) -> String {
    text.chars()
        .flat_map(|c| if c.is_control() || is_bidirectional(c) { c.escape_unicode().collect() } else { vec![c] })
        .collect()
}

/// The same for the text of a JSON document: it stays one, and says the same.
#[must_use]
pub fn harmless_json(document: &str) -> String {
    let mut out = String::with_capacity(document.len());
    for c in document.chars() {
        // JSON itself escapes those below a space, so a line break is one between values.
        if c != '\n' && (c.is_control() || is_bidirectional(c)) {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            out.push(c);
        }
    }
    out
}

fn is_bidirectional(c: char) -> bool {
    matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_can_neither_move_the_cursor_nor_turn_the_line() {
        assert_eq!(harmless("a\u{1b}[2Jb\nc\u{202e}dä"), "a\\u{1b}[2Jb\\u{a}c\\u{202e}dä");
    }

    #[test]
    fn a_log_never_takes_more_than_its_files_and_only_the_owner_reads_it() {
        let directory = tempfile::tempdir().unwrap();
        let mut log = Rotating::open(directory.path().join("daemon.log")).unwrap();
        let line = [b'x'; 100_000];
        for _ in 0..200 {
            log.write_all(&line).unwrap();
        }
        let mut names: Vec<String> = Vec::new();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let entry = entry.unwrap();
            assert!(entry.metadata().unwrap().len() <= MAX_BYTES);
            #[cfg(unix)]
            assert_eq!(
                std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions()) & 0o777,
                0o600
            );
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        assert_eq!(names, ["daemon.1.log", "daemon.2.log", "daemon.3.log", "daemon.log"]);
    }

    #[test]
    fn a_log_that_cannot_be_set_aside_goes_on_within_its_bound() {
        let directory = tempfile::tempdir().unwrap();
        for number in 1..=KEPT {
            // No file takes the place of a directory that is not empty.
            std::fs::create_dir_all(directory.path().join(format!("daemon.{number}.log/x"))).unwrap();
        }
        let path = directory.path().join("daemon.log");
        let mut log = Rotating::open(path.clone()).unwrap();
        for _ in 0..50 {
            log.write_all(&[b'x'; 100_000]).unwrap();
        }
        log.write_all(b"the last words").unwrap();
        let text = std::fs::read(&path).unwrap();
        assert!(text.len() as u64 <= MAX_BYTES && text.ends_with(b"the last words"), "{} bytes", text.len());
    }
}
