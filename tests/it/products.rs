//! Two products beside each other: under another name this host has its own program, home and daemon.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use websocket_bridge::config::HOME_VARIABLE;

use crate::support::browser::Browser;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::{Connection, Server};

const ID: &str = "abcdefghijklmnopabcdefghijklmnop";

/// A machine whose environment says nothing of us; on Windows, where the directories of a user do not come from the
/// environment, it says where they are.
struct Machine(Sandbox);

impl Machine {
    fn new() -> Self {
        Self(Sandbox::for_install())
    }

    /// The name of the other product.
    fn other(&self) -> String {
        if cfg!(windows) { format!("{}.other", self.0.host()) } else { "com.acme.bridge".to_owned() }
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = self.0.command_of(program);
        if cfg!(unix) {
            command.env_remove(HOME_VARIABLE);
        }
        command
    }

    /// The program that was built, as a person starts it.
    fn command_of_person(&self) -> Command {
        self.command(Path::new(self.0.command().get_program()))
    }

    /// Runs a command of a person; gives what it prints.
    fn run(&self, arguments: &[&str]) -> String {
        let output = self.command_of_person().args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn status(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[arguments, &["status", "--json"]].concat())).unwrap()
    }

    /// The program that the manifest of this name starts.
    fn program(&self, host: &str) -> PathBuf {
        let usual = self.0.manifest("chromium");
        let manifest = usual.to_str().unwrap().replace(self.0.host(), host);
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
        for arguments in [&["stop"][..], &["--name", &self.other(), "stop"]] {
            let _ = self.command_of_person().args(arguments).output();
        }
    }
}

#[test]
fn two_products_share_neither_program_nor_daemon_nor_sessions_and_one_goes_without_the_other() {
    let (machine, server) = (Machine::new(), Server::start());
    let (usual, other) = (machine.0.host(), &*machine.other());
    let before = files(machine.0.home());
    machine.run(&["install", "--browser", "chromium", "--extension", ID]);
    machine.run(&["install", "--browser", "chromium", "--extension", ID, "--name", other]);
    assert_ne!(machine.program(usual), machine.program(other));
    let usual_port = machine.open(usual, &server, "usual");
    let (mut other_port, _connection) = machine.open(other, &server, "other");
    let statuses = [machine.status(&[]), machine.status(&["--name", other])];
    assert_ne!(statuses[0]["daemon"]["pid"], statuses[1]["daemon"]["pid"]);
    let names = statuses.each_ref().map(|status| status["sessions"].as_array().unwrap().len());
    assert_eq!(names, [1, 1]);
    assert_eq!([&statuses[0], &statuses[1]].map(|status| &status["sessions"][0]["session"]), ["usual", "other"]);
    // The copy knows by itself what it is.
    let output = machine.command(&machine.program(other)).args(["status", "--json"]).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["sessions"][0]["session"], "other");

    // Neither finds fault with the other.
    for arguments in [&["doctor", "--json"][..], &["--name", other, "doctor", "--json"]] {
        let mut doctor = machine.command_of_person();
        let report: Value = serde_json::from_slice(&doctor.args(arguments).output().unwrap().stdout).unwrap();
        let findings = report["findings"].as_array().unwrap();
        // The server of the test answers nobody but whom it expects.
        let ours = || findings.iter().filter(|finding| !finding["check"].as_str().unwrap().starts_with("server"));
        assert!(ours().any(|finding| finding["check"] == "launch"), "{report:#}");
        assert!(ours().all(|finding| finding["status"] == "ok" || finding["status"] == "skip"), "{report:#}");
    }

    drop(usual_port);
    machine.run(&["uninstall", "--purge"]);
    other_port.post(json!({"type": "status"}));
    assert_eq!(other_port.wait_for_type("status")["sessions"][0]["state"], "connected");
    drop(other_port);
    machine.run(&["uninstall", "--purge", "--name", other]);
    assert_eq!(files(machine.0.home()), before);
}

#[test]
fn a_host_under_another_name_is_never_installed_in_place() {
    let machine = Machine::new();
    let output = machine
        .command_of_person()
        .args(["install", "--browser", "chromium", "--extension", ID, "--name", &machine.other(), "--in-place"])
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
