//! The system listens for the daemon and starts it for whoever calls, as systemd does for a socket unit.

use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;

use crate::support::sandbox::Sandbox;
use crate::support::until;

/// What systemd does for one socket.
struct Socket {
    machine: Sandbox,
    path: PathBuf,
    listener: UnixListener,
}

impl Socket {
    fn listen() -> Self {
        let machine = Sandbox::new();
        let directory = machine.bridge_home().join("run");
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).unwrap();
        let path = directory.join("daemon.sock");
        let listener = UnixListener::bind(&path).unwrap();
        Self { machine, path, listener }
    }

    /// Starts the service of `machine` with the socket as its descriptor 3.
    fn activate(&self, machine: &Sandbox) -> Child {
        let listener = OwnedFd::from(self.listener.try_clone().unwrap());
        let mut command = Command::new("sh");
        command.env_clear().envs(machine.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args([
            "-c",
            r#"exec 3<&0 0</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$0" daemon --foreground"#,
            env!("CARGO_BIN_EXE_websocket-bridge"),
        ]);
        command.stdin(Stdio::from(listener)).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

#[test]
fn whoever_calls_before_the_daemon_runs_is_answered_when_the_system_has_started_it() {
    let socket = Socket::listen();
    for _ in 0..2 {
        let mut port = socket.machine.port();
        port.post(json!({"type": "hello", "protocol": 1}));
        let mut daemon = socket.activate(&socket.machine);
        port.wait_for_type("welcome");
        assert_eq!(socket.machine.daemon(), Some(daemon.id()), "the host has started none");
        port.close();
        assert!(socket.machine.run(&["stop"]).status.success());
        daemon.wait().unwrap();
        assert!(socket.path.exists(), "the socket is the system's");
    }
}

#[test]
fn an_endpoint_that_is_not_the_one_of_this_home_is_left_alone() {
    let socket = Socket::listen();
    let other = Sandbox::new();
    let mut daemon = socket.activate(&other);
    let mut port = other.port();
    port.post(json!({"type": "hello", "protocol": 1}));
    port.wait_for_type("welcome");
    until("its own socket", || other.bridge_home().join("run/daemon.sock").exists().then_some(()));
    port.close();
    daemon.wait().unwrap();
    assert!(socket.path.exists());
}

/// The value behind `key=` in a unit file, with the home in the place of `%h`.
fn unit(name: &str, key: &str, home: &Path) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("install/systemd").join(name);
    let text = std::fs::read_to_string(file).unwrap();
    let values: Vec<_> = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect();
    let [value] = values[..] else { panic!("{key} in {name}: {values:?}") };
    value.replace("%h", home.to_str().unwrap())
}

#[test]
fn the_units_name_the_places_that_the_program_uses() {
    let machine = Sandbox::new();
    let run = |arguments: &[&str]| {
        let mut command = machine.command();
        let output = command.env_remove("WEBSOCKET_BRIDGE_HOME").args(arguments).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    std::fs::create_dir_all(machine.home().join(".mozilla/firefox")).unwrap();
    run(&["install", "--browser", "firefox", "--extension", "a@b.c"]);
    let start = unit("websocket-bridge.service", "ExecStart", machine.home());
    let (program, arguments) = start.split_once(' ').unwrap();
    assert!(Path::new(program).exists(), "{program}");
    assert_eq!(arguments, "daemon --foreground");
    run(&["daemon"]);
    let socket = unit("websocket-bridge.socket", "ListenStream", machine.home());
    assert!(Path::new(&socket).exists(), "{socket}");
    assert_eq!(unit("websocket-bridge.socket", "SocketMode", machine.home()), "0600");
    assert_eq!(unit("websocket-bridge.socket", "DirectoryMode", machine.home()), "0700");
    run(&["stop"]);
}
