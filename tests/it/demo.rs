//! The demo as a person runs it: the real program, in a pipe, on a machine of its own.

use std::io::{BufRead, BufReader, Read as _};
use std::path::PathBuf;
use std::process::{Child, Stdio};

use crate::support::sandbox::{Sandbox, kill};
#[cfg(unix)]
use crate::support::{
    sandbox::{processes_with, signal},
    until,
};

/// A machine whose temporary files are in its home, so that what a demo leaves is seen.
struct Stage {
    machine: Sandbox,
    temporary: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self { machine: Sandbox::new(), temporary: tempfile::tempdir().unwrap() }
    }

    fn demo(&self, arguments: &[&str]) -> Child {
        let mut command = self.machine.command();
        command.arg("demo").args(arguments).envs(["TMPDIR", "TEMP", "TMP"].map(|name| (name, self.temporary.path())));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// The directories that demos have made and left.
    fn left(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.temporary.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    /// Waits until no process has a demo's directory as its home: a daemon that has let go of its lock is not yet gone.
    #[cfg(unix)]
    fn wait_for_silence(&self) {
        let mark = format!("WEBSOCKET_BRIDGE_HOME={}/", self.temporary.path().display());
        until("no process of a demo is left", || {
            processes_with(|variable| variable.starts_with(mark.as_bytes())).is_empty().then_some(())
        });
    }

    fn assert_clean(&self) {
        #[cfg(unix)]
        self.wait_for_silence();
        assert_eq!(self.left(), Vec::<PathBuf>::new());
    }
}

/// Both figures of a row of the last table.
fn row(output: &str, name: &str) -> (String, String) {
    let line = output.lines().rev().find(|line| line.trim_start().starts_with(&format!("{name}  ")));
    let mut words = line.unwrap_or_else(|| panic!("no row {name:?} in {output}")).split_whitespace().rev();
    let (other, one) = (words.next().unwrap(), words.next().unwrap());
    (one.to_owned(), other.to_owned())
}

/// Reads until a line begins with `beginning`, and gives that line; the reader goes on from there.
fn read_until(output: &mut impl BufRead, beginning: &str) -> String {
    let line = output.lines().map(Result::unwrap).find(|line| line.trim_start().starts_with(beginning));
    line.unwrap_or_else(|| panic!("the demo ended before it said {beginning:?}"))
}

#[test]
fn two_demos_at_once_lose_nothing_unreported_and_leave_nothing_behind() {
    let stage = Stage::new();
    let demos = [stage.demo(&[]), stage.demo(&["--keep"])];
    let outputs = demos.map(|demo| demo.wait_with_output().unwrap());
    let kept = stage.left();
    for output in outputs {
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert!(!text.contains('\x1b') && !text.contains('\r'), "{text:?}");
        // Three tasks of 26 messages and one of 18; 20 to a dead server, 20 to a dead daemon and 1000 at once, and one to each of
        // 44 steps.
        assert_eq!(row(&text, "sent"), ("96".into(), "1084".into()));
        assert_eq!(row(&text, "received"), ("96".into(), "1084".into()));
        for name in ["lost", "lost unreported", "out of order"] {
            assert_eq!(row(&text, name), ("0".into(), "0".into()), "{name}");
        }
        assert_eq!(row(&text, "doubled").0, "0");
        assert!(text.contains("a gap in the stream says"), "{text}");
        let mentioned = kept.iter().any(|directory| text.contains(&directory.display().to_string()));
        assert_eq!(text.contains("The demo's files"), mentioned);
    }
    assert!(kept.len() == 1 && kept[0].join("logs/daemon.log").is_file(), "{kept:?}");
    #[cfg(unix)]
    stage.wait_for_silence();
}

#[cfg(unix)]
#[test]
fn a_demo_that_is_interrupted_leaves_nothing_behind() {
    for (name, act) in [("INT", "1. "), ("TERM", "the worker is dead"), ("HUP", "the server is dead")] {
        let stage = Stage::new();
        let mut demo = stage.demo(&[]);
        read_until(&mut BufReader::new(demo.stdout.as_mut().unwrap()), act);
        signal(demo.id(), name);
        let output = demo.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains(&format!("(SIG{name})")), "{output:?}");
        stage.assert_clean();
    }
}

#[test]
fn a_demo_that_nobody_reads_leaves_nothing_behind() {
    let stage = Stage::new();
    let mut demo = stage.demo(&[]);
    read_until(&mut BufReader::new(demo.stdout.take().unwrap()), "debug");
    let output = demo.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody reads"), "{output:?}");
    stage.assert_clean();
}

#[test]
fn a_demo_that_fails_says_where_and_keeps_the_logs() {
    let stage = Stage::new();
    let mut demo = stage.demo(&[]);
    let mut output = BufReader::new(demo.stdout.take().unwrap());
    let line = read_until(&mut output, "the browser starts the host");
    let host = line.split(['(', ')']).nth(1).unwrap().trim_start_matches("process ").parse().unwrap();
    read_until(&mut output, "debug");
    kill(host);
    let mut rest = String::new();
    output.read_to_string(&mut rest).unwrap();
    let ended = demo.wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let said = String::from_utf8_lossy(&ended.stderr);
    let kept = stage.left();
    let logs = kept[0].join("logs");
    for part in ["1. Live", "expected that", "the host ended", &logs.display().to_string()] {
        assert!(said.contains(part), "{said}");
    }
    assert!(logs.join("daemon.log").is_file() && rest.contains(&kept[0].display().to_string()), "{rest}");
    #[cfg(unix)]
    stage.wait_for_silence();
}

#[test]
fn a_port_that_is_taken_is_said_and_nothing_is_started() {
    let stage = Stage::new();
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = stage.demo(&["--port", &port]).wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(&port) && said.contains("--port"), "{said}");
    stage.assert_clean();
}
