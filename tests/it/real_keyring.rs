//! A Secret Service that others have written, with a bus of its own: GNOME Keyring.
//!
//! Ignored where it is not installed; `tests/run servers` installs it.

use std::io::Write as _;
use std::process::{Child, Command, Output, Stdio};

use serde_json::json;

use crate::credentials::{read_head, request_at, section};
use crate::proxy::keeps_secret;
use crate::settings::write_config;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::Server;
use crate::support::{start, until};

/// What must be found nowhere but in the keyring, which is encrypted.
const SECRETS: [&str; 2] = ["planted-keyring-1", "planted-keyring-2"];

/// A bus that starts nothing by itself.
const BUS: &str = r#"<busconfig><type>session</type><listen>unix:path=BUS</listen><policy context="default">
<allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/></policy></busconfig>"#;

/// Ended with the test, not its children.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A machine whose keyring is unlocked.
struct Machine {
    sandbox: Sandbox,
    keyring: Option<Ended>,
    _bus: Ended,
    /// The bus, the keyring's files and its sockets: all that is not the bridge's.
    _directory: tempfile::TempDir,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (socket, config) = (directory.path().join("bus"), directory.path().join("bus.conf"));
        std::fs::write(&config, BUS.replace("BUS", &socket.display().to_string())).unwrap();
        let bus = start(|| {
            let mut command = Command::new("dbus-daemon");
            command.arg("--nofork").arg(format!("--config-file={}", config.display()));
            command.stderr(Stdio::null()).spawn()
        });
        let address = format!("unix:path={}", socket.display());
        until("the bus is there", || socket.exists().then_some(()));
        let mut keyring = Command::new("gnome-keyring-daemon");
        keyring.args(["--foreground", "--unlock", "--components=secrets"]).env("HOME", directory.path());
        keyring.env("DBUS_SESSION_BUS_ADDRESS", &address).env("XDG_RUNTIME_DIR", directory.path());
        keyring.env_remove("XDG_DATA_HOME").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut keyring = start(|| keyring.spawn());
        keyring.stdin.take().unwrap().write_all(b"password of the keyring").unwrap();
        let sandbox = Sandbox::new().with("DBUS_SESSION_BUS_ADDRESS", address).with("WEBSOCKET_BRIDGE_LOG", "trace");
        let machine = Self { sandbox, keyring: Some(Ended(keyring)), _bus: Ended(bus), _directory: directory };
        // Before it has its name on the bus, nobody answers.
        until("the keyring is there", || machine.token("clear", "").status.success().then_some(()));
        machine
    }

    /// Runs `token set` or `token clear` for session `bound`, and says this to its standard input.
    fn token(&self, what: &str, input: &str) -> Output {
        let mut command = self.sandbox.command();
        command
            .args(["token", what, ORIGIN, "bound"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = start(|| command.spawn());
        // It may have ended without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
#[ignore = "needs dbus-daemon and gnome-keyring; `tests/run servers` runs it"]
fn real_keyring_has_the_credential_that_a_person_stores_and_nothing_else_has_it() {
    let mut machine = Machine::new();
    let server = Server::start();
    let [first, second] = SECRETS;
    let mut printed = vec![machine.token("set", &format!("{first}\n"))];
    assert!(said(&printed[0]).contains("nobody uses it yet"), "{}", said(&printed[0]));
    let auth =
        "auth = { via = \"header\", source = \"keyring\" }\nreconnect.first_ms = 100\nreconnect.herd_window_ms = 0";
    write_config(&machine.sandbox, &section("bound", &server.url(), auth));
    let mut port = machine.sandbox.port();
    port.post(json!({"type": "open", "session": "bound"}));
    let refuse = |shown: &str| {
        let mut stream = server.accept_tcp();
        let asked = read_head(&mut stream);
        assert!(asked.contains(&format!("Bearer {shown}\r\n")), "{asked}");
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
    };
    refuse(first);
    // It is read once more, and is the same.
    let parked = port.wait_for("parked", |message| message["state"] == "error");
    let reason = parked["reason"]["message"].as_str().unwrap();
    assert!(reason.contains(&format!("`websocket-bridge token set {ORIGIN} bound`")), "{parked}");
    printed.push(machine.token("set", second));
    assert!(said(&printed[1]).contains("tries again now"), "{}", said(&printed[1]));
    let request = request_at(&server);
    assert!(request.contains(&format!("Bearer {second}")), "{request}");
    printed.push(machine.token("clear", ""));
    assert!(said(&printed[2]).contains("has no token any more"), "{}", said(&printed[2]));
    let parked = port.wait_for("parked", |message| message["state"] == "error");
    assert_eq!(parked["reason"]["code"], "token-needed", "{parked}");
    assert!(parked["reason"]["message"].as_str().unwrap().contains("the keyring has no credential"), "{parked}");
    printed.push(machine.token("set", "a\nb"));
    assert_eq!(printed[3].status.code(), Some(2));
    for arguments in [&["status", "--json"][..], &["logs"], &["doctor", "--json"], &["stop"]] {
        printed.push(machine.sandbox.run(arguments));
    }
    keeps_secret(&machine.sandbox, &printed, &SECRETS);
    // What is purged is purged there too.
    assert!(machine.token("set", first).status.success());
    let purged = machine.sandbox.run(&["uninstall", "--purge"]);
    assert!(said(&purged).contains("no token any more for session `bound`"), "{purged:?}");
    let cleared = machine.token("clear", "");
    assert!(said(&cleared).contains("had no token"), "{cleared:?}");
    // Without a keyring it says so.
    machine.keyring = None;
    let gone = machine.token("set", first);
    assert_eq!(gone.status.code(), Some(1));
    assert!(said(&gone).contains("no keyring answers here") && !said(&gone).contains(first), "{}", said(&gone));
}
