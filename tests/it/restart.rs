//! Daemons that end, with and without warning: what was kept goes on in the next one.

#[cfg(unix)]
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

#[cfg(unix)]
use crate::support::at_best_within;
use crate::support::browser::Browser;
#[cfg(unix)]
use crate::support::sandbox::memory;
use crate::support::sandbox::{Sandbox, kill};
use crate::support::server::{Connection, Server};
use crate::support::until;

/// Time in which everything is written that waits for nothing but that.
const IDLE: &str = "the session is on the disk";

fn kill_daemon(machine: &Sandbox) {
    let daemon = machine.daemon().unwrap();
    kill(daemon);
    until("the daemon is dead", || (machine.daemon() != Some(daemon)).then_some(()));
}

/// Opens the session of `server` in a new port, and takes the connection that a daemon makes for it.
fn opened(machine: &Sandbox, server: &Server) -> (Browser, Connection) {
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let connection = server.accept();
    port.wait_for("the connection", |message| message["state"] == "connected" && message["type"] == "state");
    (port, connection)
}

/// The messages and gaps that come until `wanted`.
fn stream_until(port: &mut Browser, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
    let mut stream = Vec::new();
    loop {
        let message = port.next();
        if ["message", "gap"].contains(&message["type"].as_str().unwrap()) {
            stream.push(message);
            if wanted(stream.last().unwrap()) {
                return stream;
            }
        }
    }
}

/// Waits until no write is needed any more: the numbers that were reserved are given back.
fn wait_until_saved(machine: &Sandbox) {
    until(IDLE, || {
        let status = machine.json(&["status", "--json"]);
        status["sessions"].as_array().unwrap().iter().all(|session| session["saved"] == true).then_some(())
    });
}

#[test]
fn what_was_not_acknowledged_outlives_a_killed_daemon_under_the_same_numbers() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut connection) = opened(&machine, &server);
    for number in 1..=3 {
        connection.send(Message::text(number.to_string()));
        assert_eq!(port.wait_for_type("message")["seq"], number);
    }
    port.post(json!({"type": "ack", "session": "default", "seq": 1}));
    wait_until_saved(&machine);
    kill_daemon(&machine);
    port.wait_for_end();

    let mut port = machine.port();
    port.post(json!({"type": "open"}));
    let opened = port.wait_for_type("opened");
    assert_eq!((&opened["head"], &opened["acked"], &opened["pending"]), (&json!(3), &json!(1), &json!(2)));
    let mut connection = server.accept();
    connection.send(Message::text("4"));
    let stream = stream_until(&mut port, |message| message["payload"] == 4);
    let shown: Vec<_> = stream.iter().map(|one| (&one["seq"], &one["payload"], &one["reason"])).collect();
    let (disconnected, null) = (json!("disconnected"), Value::Null);
    assert_eq!(
        shown,
        [
            (&json!(2), &json!(2), &null),
            (&json!(3), &json!(3), &null),
            (&json!(4), &null, &disconnected),
            (&json!(5), &json!(4), &null),
        ],
        "no gap but that of the connection"
    );
}

#[test]
fn what_is_stored_is_sent_by_the_next_daemon_and_told_to_the_port_that_comes_then() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let address = server.address();
    let (mut port, connection) = opened(&machine, &server);
    drop((connection, server));
    for number in 0..100 {
        let id = format!("id-{number}");
        port.post(json!({"type": "send", "session": "default", "payload": number, "id": id}));
    }
    let mut stored = 0;
    while stored < 100 {
        let receipt = port.wait_for_type("receipt");
        assert_eq!(receipt["stage"], "stored");
        stored += receipt["ids"].as_array().unwrap().len();
    }
    kill_daemon(&machine);
    port.wait_for_end();

    let server = Server::restart(address);
    let mut port = machine.port();
    port.post(json!({"type": "open"}));
    let mut connection = server.accept();
    for number in 0..100 {
        assert_eq!(connection.next(), Message::text(number.to_string()));
    }
    connection.drain();
    let mut received = 0;
    while received < 100 {
        let receipt = port.wait_for_type("receipt");
        assert_eq!(receipt["stage"], "received");
        received += receipt["ids"].as_array().unwrap().len();
    }
}

#[test]
fn a_stop_saves_everything_first() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut connection) = opened(&machine, &server);
    for number in 1..=1000 {
        connection.send(Message::text(number.to_string()));
    }
    port.wait_for("the last", |message| message["payload"] == 1000);
    assert!(machine.run(&["stop"]).status.success());
    port.wait_for_end();

    let mut port = machine.port();
    port.post(json!({"type": "open"}));
    for number in 1..=1000 {
        let message = port.wait_for_type("message");
        assert_eq!((&message["seq"], &message["payload"]), (&json!(number), &json!(number)));
    }
}

#[test]
fn what_was_closed_stays_closed_in_the_next_daemon_and_another_session_is_resumed() {
    let (machine, server, other) = (Sandbox::new(), Server::start(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "session": "closed", "url": server.url()}));
    let _closed = server.accept();
    port.post(json!({"type": "open", "session": "goes-on", "url": other.url()}));
    let _connection = other.accept();
    port.post(json!({"type": "close", "session": "closed"}));
    port.wait_for("the end", |message| message["session"] == "closed" && message["state"] == "disconnected");
    wait_until_saved(&machine);
    kill_daemon(&machine);
    port.wait_for_end();

    // Nobody opens anything: the daemon goes on by itself.
    let _port = machine.welcomed_port();
    let _connection = other.accept();
    let status = machine.json(&["status", "--json"]);
    let states: Vec<_> =
        status["sessions"].as_array().unwrap().iter().map(|one| (&one["session"], &one["state"])).collect();
    assert!(states.contains(&(&json!("closed"), &json!("disconnected"))), "{status:#}");
}

#[test]
fn settings_that_an_extension_gave_hold_in_the_next_daemon() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url(), "settings": {"queue": {"max_messages": 7}}}));
    let _connection = server.accept();
    assert!(machine.run(&["stop"]).status.success());
    port.wait_for_end();
    let mut port = machine.port();
    port.post(json!({"type": "open"}));
    port.wait_for_type("opened");
    let status = machine.json(&["status", "--json"]);
    assert_eq!(status["sessions"][0]["settings"]["queue"]["max_messages"], 7);
}

// How fast and how large it is under Wine says nothing of Windows.
#[cfg(unix)]
#[test]
fn a_hundred_thousand_messages_that_wait_take_little_memory_and_the_first_comes_at_once() {
    const COUNT: u64 = 100_000;
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut connection) = opened(&machine, &server);
    port.close();
    let daemon = machine.daemon().unwrap();
    let before = memory(daemon);
    let text = |number: u64| format!(r#"{{"number":{number},"filler":"{}"}}"#, "x".repeat(300));
    for number in 1..=COUNT {
        connection.send(Message::text(text(number)));
    }
    let inbox = || machine.json(&["status", "--json"])["sessions"][0]["inbox"]["messages"].clone();
    until("all have come", || (inbox() == COUNT).then_some(()));
    wait_until_saved(&machine);
    let grown = memory(daemon).saturating_sub(before);
    assert!(grown < 32 << 20, "the daemon grew by {grown} bytes");

    at_best_within(Duration::from_millis(100), || {
        let begin = Instant::now();
        let mut port = machine.port();
        port.post(json!({"type": "open"}));
        assert_eq!(port.wait_for_type("message")["seq"], 1);
        begin.elapsed()
    });
    let mut port = machine.port();
    port.post(json!({"type": "open"}));
    for number in 1..=COUNT {
        let message = port.wait_for_type("message");
        assert_eq!((&message["seq"], &message["payload"]["number"]), (&json!(number), &json!(number)));
        if number % 500 == 0 {
            port.post(json!({"type": "ack", "session": "default", "seq": number}));
        }
    }
    let grown = memory(daemon).saturating_sub(before);
    assert!(grown < 32 << 20, "the daemon grew by {grown} bytes");
}

#[test]
fn nothing_of_a_session_in_memory_mode_or_of_a_forgotten_one_is_on_the_disk() {
    let (machine, server) = (Sandbox::new(), Server::start());
    for (mode, name) in [("memory", "whisper-name"), ("durable", "forgotten-name")] {
        let mut port = machine.port();
        let url = format!("{}?whisper-query", server.url());
        port.post(json!({"type": "open", "session": name, "mode": mode, "url": url}));
        let mut connection = server.accept();
        connection.send(Message::text(r#""whisper-payload""#));
        port.wait_for_type("message");
        port.post(json!({"type": "send", "session": name, "payload": "whisper-post"}));
        connection.next();
        wait_until_saved(&machine);
        port.post(json!({"type": "close", "session": name, "forget": mode == "durable"}));
        port.wait_for("the end", |message| message["state"] == "disconnected");
    }
    wait_until_saved(&machine);
    assert!(machine.run(&["stop"]).status.success());
    for entry in std::fs::read_dir(machine.bridge_home()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = if path.is_dir() { continue } else { std::fs::read(&path).unwrap() };
        let text = String::from_utf8_lossy(&bytes);
        for secret in ["whisper", "forgotten-name"] {
            assert!(!text.contains(secret), "{} has {secret}", path.display());
        }
    }
}

#[cfg(unix)]
#[test]
fn what_is_kept_is_its_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let (machine, server) = (Sandbox::new(), Server::start());
    let (_port, _connection) = opened(&machine, &server);
    wait_until_saved(&machine);
    let files = std::fs::read_dir(machine.bridge_home()).unwrap().map(|entry| entry.unwrap());
    let spool: Vec<_> = files.filter(|file| file.file_name().to_string_lossy().starts_with("spool")).collect();
    assert!(spool.len() >= 2, "{spool:?}");
    for file in spool {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file:?}");
    }
}
