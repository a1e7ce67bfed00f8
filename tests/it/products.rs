//! Two products beside each other: under another name this host has its own program, home and daemon.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::{Connection, Server};

const ID: &str = "abcdefghijklmnopabcdefghijklmnop";
const OTHER: &str = "com.acme.bridge";

/// A machine with Chromium, whose environment says nothing of us.
struct Machine(Sandbox);

impl Machine {
    fn new() -> Self {
        let machine = Sandbox::new();
        std::fs::create_dir_all(machine.home().join(".config/chromium")).unwrap();
        Self(machine)
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.0.home()).env("PATH", "/usr/bin:/bin").current_dir(self.0.home());
        command
    }

    /// Runs a command of a person with the program that was built; gives what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command(Path::new(env!("CARGO_BIN_EXE_websocket-bridge"))).args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn status(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["status", "--json"]].concat())).unwrap()
    }

    /// The program that the manifest of this name starts.
    fn program(&self, host: &str) -> PathBuf {
        let manifest = self.0.home().join(format!(".config/chromium/NativeMessagingHosts/{host}.json"));
        let manifest: Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        assert_eq!(manifest["name"], host);
        manifest["path"].as_str().unwrap().into()
    }

    /// Opens a port to the host of this name, and a session on it.
    fn open(&self, host: &str, server: &Server, session: &str) -> (Browser, Connection) {
        let mut command = self.command(&self.program(host));
        command.arg(ORIGIN);
        let mut port = Browser::start(command);
        let mut connection = None;
        port.open_with(json!({"session": session, "url": server.url()}), || connection = Some(server.accept()));
        (port, connection.unwrap())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        for arguments in [&["stop"][..], &["--name", OTHER, "stop"]] {
            let _ = self.command(Path::new(env!("CARGO_BIN_EXE_websocket-bridge"))).args(arguments).output();
        }
    }
}

#[test]
fn two_products_share_neither_program_nor_daemon_nor_sessions_and_one_goes_without_the_other() {
    let (machine, server) = (Machine::new(), Server::start());
    machine.run(&["install", "--browser", "chromium", "--extension", ID]);
    machine.run(&["install", "--browser", "chromium", "--extension", ID, "--name", OTHER]);
    assert_ne!(machine.program("com.semantest.websocket_bridge"), machine.program(OTHER));
    let usual = machine.open("com.semantest.websocket_bridge", &server, "usual");
    let (mut other, _connection) = machine.open(OTHER, &server, "other");
    let statuses = [machine.status(&[]), machine.status(&["--name", OTHER])];
    assert_ne!(statuses[0]["daemon"]["pid"], statuses[1]["daemon"]["pid"]);
    let names = statuses.each_ref().map(|status| status["sessions"].as_array().unwrap().len());
    assert_eq!(names, [1, 1]);
    assert_eq!([&statuses[0], &statuses[1]].map(|status| &status["sessions"][0]["session"]), ["usual", "other"]);
    // The copy knows by itself what it is.
    let output = machine.command(&machine.program(OTHER)).args(["status", "--json"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["sessions"][0]["session"], "other");

    // Neither finds fault with the other.
    for arguments in [&["doctor", "--json"][..], &["--name", OTHER, "doctor", "--json"]] {
        let mut doctor = machine.command(Path::new(env!("CARGO_BIN_EXE_websocket-bridge")));
        let report: Value = serde_json::from_slice(&doctor.args(arguments).output().unwrap().stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        // The server of the test answers nobody but whom it expects.
        let ours = || findings.iter().filter(|finding| !finding["check"].as_str().unwrap().starts_with("server"));
        assert!(ours().any(|finding| finding["check"] == "launch"), "{report:#}");
        assert!(ours().all(|finding| finding["status"] == "ok" || finding["status"] == "skip"), "{report:#}");
    }

    drop(usual);
    machine.run(&["uninstall", "--purge"]);
    other.post(json!({"type": "status"}));
    assert_eq!(other.wait_for_type("status")["sessions"][0]["state"], "connected");
    drop(other);
    machine.run(&["uninstall", "--purge", "--name", OTHER]);
    let left: Vec<_> = files(machine.0.home());
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn a_host_under_another_name_is_never_installed_in_place() {
    let machine = Machine::new();
    let output = machine
        .command(Path::new(env!("CARGO_BIN_EXE_websocket-bridge")))
        .args(["install", "--browser", "chromium", "--extension", ID, "--name", OTHER, "--in-place"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8(output.stderr).unwrap().contains("leave out --in-place"));
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { files(&entry.path()) } else { vec![entry.path()] }).collect()
}
