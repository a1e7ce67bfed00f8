//! The log files, as one.
//!
//! Owns: the order of lines of several files, and finding what was appended, also when a file was set aside meanwhile. What
//! is in a line, and when a file is set aside, is [`crate::log`]'s.

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Seek as _};
use std::path::{Path, PathBuf};

use crate::log::harmless;

/// The log files of one directory, and how much of them was taken.
#[derive(Debug)]
pub struct Logs {
    directory: PathBuf,
    open: Vec<Log>,
}

/// A file that is written to.
#[derive(Debug)]
struct Log {
    name: String,
    path: PathBuf,
    reader: BufReader<File>,
    /// A line that has no end yet.
    begun: Vec<u8>,
}

impl Logs {
    /// The files in `directory`.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), open: Vec::new() }
    }

    /// The last lines of all files together, those that were set aside among them; what comes later is for [`Logs::more`].
    ///
    /// # Errors
    /// If the directory or a file in it cannot be read.
    pub fn last(&mut self, count: usize) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        for path in self.files(|name| name.contains('.'))? {
            Log::open(path)?.take(&mut lines)?;
        }
        lines.extend(self.more()?);
        lines.sort_by(|one, other| time_of(one).cmp(time_of(other)));
        Ok(lines.split_off(lines.len().saturating_sub(count)))
    }

    /// What was appended since the last time, or ever.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn more(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        for log in &mut self.open {
            log.take(&mut lines)?;
            let position = log.reader.stream_position()?;
            // For a moment there may be no file of this name.
            if log.path.metadata().is_ok_and(|metadata| metadata.len() < position) {
                // It was set aside.
                log.take(&mut lines)?;
                log.reader = BufReader::new(File::open(&log.path)?);
                log.take(&mut lines)?;
            }
        }
        for path in self.files(|name| !name.contains('.'))? {
            if self.open.iter().all(|log| log.path != path) {
                let mut log = Log::open(path)?;
                log.take(&mut lines)?;
                self.open.push(log);
            }
        }
        lines.sort_by(|one, other| time_of(one).cmp(time_of(other)));
        Ok(lines)
    }

    /// The files whose names without `.log` are `wanted`; none, as long as there is no such directory.
    fn files(&self, wanted: impl Fn(&str) -> bool) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            entries => entries?,
        };
        for entry in entries {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".log"));
            if name.is_some_and(&wanted) {
                files.push(path);
            }
        }
        files.sort();
        Ok(files)
    }
}

impl Log {
    fn open(path: PathBuf) -> io::Result<Self> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // `daemon` of `daemon.log` and `daemon.1.log`.
        let name = name.split('.').next().unwrap_or_default().to_owned();
        Ok(Self { name, reader: BufReader::new(File::open(&path)?), path, begun: Vec::new() })
    }

    /// All whole lines that were not taken yet.
    fn take(&mut self, lines: &mut Vec<String>) -> io::Result<()> {
        while self.reader.read_until(b'\n', &mut self.begun)? > 0 && self.begun.ends_with(b"\n") {
            self.begun.pop();
            lines.push(said(&self.name, &self.begun));
            self.begun.clear();
        }
        Ok(())
    }
}

/// A line with the name of the file behind its time.
fn said(name: &str, line: &[u8]) -> String {
    let line = harmless(&String::from_utf8_lossy(line));
    match line.split_once(' ') {
        Some((time, rest)) => format!("{time} {name:6} {}", rest.trim_start()),
        None => format!("- {name:6} {line}"),
    }
}

fn time_of(line: &str) -> &str {
    line.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn append(directory: &Path, name: &str, text: &str) {
        let file = File::options().create(true).append(true).open(directory.join(name));
        file.unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn lines_of_all_files_come_in_the_order_of_their_times() {
        let directory = tempfile::tempdir().unwrap();
        append(directory.path(), "daemon.1.log", "1 INFO a\n");
        append(directory.path(), "daemon.log", "3 INFO c\n5 INFO \u{1b}[2J\n");
        append(directory.path(), "host.log", "2 WARN b\n4 INFO d\n");
        append(directory.path(), "else.txt", "0 no log\n");
        let mut logs = Logs::new(directory.path());
        assert_eq!(logs.last(3).unwrap(), ["3 daemon INFO c", "4 host   INFO d", "5 daemon INFO \\u{1b}[2J"]);
        assert_eq!(logs.more().unwrap(), [""; 0]);
    }

    #[test]
    fn what_is_appended_is_followed_through_files_that_are_set_aside_and_new_ones() {
        let directory = tempfile::tempdir().unwrap();
        let at = directory.path();
        append(at, "daemon.log", "1 INFO a\n");
        let mut logs = Logs::new(at);
        logs.last(10).unwrap();
        append(at, "daemon.log", "2 INFO b\n3 INFO half");
        assert_eq!(logs.more().unwrap(), ["2 daemon INFO b"]);
        append(at, "daemon.log", " a line\n4 INFO the last\n");
        fs::rename(at.join("daemon.log"), at.join("daemon.1.log")).unwrap();
        append(at, "daemon.log", "5 INFO new\n");
        append(at, "host.log", "6 INFO host\n");
        assert_eq!(
            logs.more().unwrap(),
            ["3 daemon INFO half a line", "4 daemon INFO the last", "5 daemon INFO new", "6 host   INFO host"]
        );
        assert_eq!(logs.more().unwrap(), [""; 0]);
    }
}
