//! One daemon takes over from another: what an extension notices of it, which is next to nothing.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Browser;
#[cfg(unix)]
use crate::support::link::{Caller, OtherDaemon, listen, say};
use crate::support::link::{call, hand_over, hold_launches};
#[cfg(unix)]
use crate::support::sandbox::ORIGIN;
use crate::support::sandbox::{Sandbox, signal};
use crate::support::server::{Connection, Server};
use crate::support::{at_best_within, until};

/// This program's version.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// Versions that are newer and older than any.
const NEWER: &str = "99.0.0";
const OLDER: &str = "0.0.1";

/// Far more than a daemon waits for hosts that do not answer, and far less than a test does.
const HELD_UP: Duration = Duration::from_secs(if cfg!(windows) { 20 } else { 5 });

/// The machine's daemon makes way, for one that its hosts start; gives how long that took.
fn replace_daemon(machine: &Sandbox) -> Duration {
    let (begin, old) = (Instant::now(), machine.daemon().unwrap());
    assert_eq!(hand_over(machine, NEWER), json!({"moving": old}));
    until("another daemon runs", || machine.daemon().filter(|pid| *pid != old));
    begin.elapsed()
}

/// Opens a session, in a way that can be told from what the next daemon says of it.
fn open(port: &mut Browser, server: &Server, session: &str) -> Connection {
    port.post(json!({"type": "open", "session": session, "url": server.url(), "as": "text", "ref": "posted"}));
    let connection = server.accept();
    wait_until_connected(port, session);
    port.wait_for("opened", |message| message["type"] == "opened" && message["ref"] == "posted");
    connection
}

/// Waits until the next daemon goes on with a session; gives what it says of it, unasked.
fn wait_until_reopened(port: &mut Browser, session: &str) -> Value {
    port.wait_for("opened, unasked", |message| {
        message["type"] == "opened" && message["session"] == session && message["ref"].is_null()
    })
}

fn wait_until_connected(port: &mut Browser, session: &str) {
    port.wait_for("connected", |message| message["state"] == "connected" && message["session"] == session);
}

#[test]
fn ports_stay_up_and_go_on_with_their_sessions_as_they_opened_them() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "hello", "protocol": 1, "features": ["batch"]}));
    port.wait_for_type("welcome");
    let _old = ["a", "b"].map(|session| open(&mut port, &server, session).drain());

    replace_daemon(&machine);
    let mut connections = [server.accept(), server.accept()];
    for session in ["a", "b"] {
        wait_until_reopened(&mut port, session);
        wait_until_connected(&mut port, session);
    }
    for connection in &mut connections {
        connection.send(Message::text("[1]"));
    }
    // In batches, as it announced, and as text, as it asked for.
    let mut texts = Vec::new();
    while texts.len() < 2 {
        let batch = port.wait_for_type("batch");
        let messages = batch["messages"].as_array().unwrap().iter();
        texts.extend(messages.filter(|message| message["type"] == "message").cloned());
    }
    texts.sort_by_key(|message| message["session"].to_string());
    assert_eq!((&texts[0]["session"], &texts[0]["text"]), (&json!("a"), &json!("[1]")));
    assert_eq!((&texts[1]["session"], &texts[1]["text"]), (&json!("b"), &json!("[1]")));
    // Nobody answers what nobody asked.
    port.post(json!({"type": "hello", "protocol": 1, "ref": "now"}));
    assert_eq!(port.wait_for_type("welcome")["ref"], "now");
    assert!(machine.log("host").contains("another daemon goes on with the port"));
}

#[test]
fn a_handover_takes_less_than_a_second_and_may_come_again() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = open(&mut port, &server, "default");
    for round in 0..2 {
        // A host that is only waited for in vain is waited for longer.
        at_best_within(Duration::from_millis(900), || {
            // What is not confirmed by then is sent again, and would come where the next message is expected.
            let id = format!("{round} {:?}", Instant::now());
            port.post(json!({"type": "send", "payload": round, "id": id, "receipts": ["received"]}));
            assert_eq!(connection.next(), Message::text(round.to_string()));
            let (took, next) = std::thread::scope(|scope| {
                scope.spawn(|| while connection.socket.read().is_ok() {});
                port.wait_for_type("receipt");
                let next = scope.spawn(|| server.accept());
                (replace_daemon(&machine), next.join().unwrap())
            });
            connection = next;
            wait_until_reopened(&mut port, "default");
            took
        });
    }
}

/// Numbers that come on a connection until it is closed, and with which code.
fn numbers_until_close(mut connection: Connection) -> (Vec<u64>, u16) {
    let mut numbers = Vec::new();
    loop {
        match connection.socket.read().unwrap() {
            Message::Text(text) => numbers.push(serde_json::from_str::<Value>(&text).unwrap()["n"].as_u64().unwrap()),
            Message::Close(frame) => {
                let _ = connection.socket.flush();
                return (numbers, frame.unwrap().code.into());
            }
            _ => {}
        }
    }
}

#[test]
fn what_is_posted_meanwhile_reaches_the_server_in_order_and_nothing_is_missing() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let first = open(&mut port, &server, "default");
    let enough = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| numbers_until_close(first));
        let mut stdin = port.take_stdin();
        let posting = scope.spawn(|| {
            let mut number = 0;
            while !enough.load(Ordering::Relaxed) {
                // Of all lengths, so that what the host reads at once ends anywhere in a frame.
                let padding = "x".repeat(number * 37 % 5000);
                let body = json!({"type": "send", "payload": {"n": number, "padding": padding}}).to_string();
                let mut frame = u32::try_from(body.len()).unwrap().to_ne_bytes().to_vec();
                frame.extend_from_slice(body.as_bytes());
                stdin.write_all(&frame).unwrap();
                number += 1;
            }
            // The port stays up until all has arrived.
            (number as u64, stdin)
        });
        until("much has arrived", || {
            (machine.json(&["status", "--json"])["sessions"][0]["messages_sent"].as_u64()? > 1000).then_some(())
        });
        let second = scope.spawn(|| server.accept());
        replace_daemon(&machine);
        let second = second.join().unwrap();
        let (before, code) = first.join().unwrap();
        assert_eq!(code, 1001);
        let next = before.len() as u64;
        assert_eq!(before, (0..next).collect::<Vec<_>>());
        let after = scope.spawn(|| numbers_until_close(second));
        until("much has arrived here too", || {
            (machine.json(&["status", "--json"])["sessions"][0]["messages_sent"].as_u64()? > 1000).then_some(())
        });
        enough.store(true, Ordering::Relaxed);
        let (posted, _stdin) = posting.join().unwrap();
        until("all has left", || {
            let status = machine.json(&["status", "--json"]);
            (status["sessions"][0]["outbox"]["messages"] == 0).then_some(())
        });
        assert!(machine.run(&["stop"]).status.success());
        let (after, _) = after.join().unwrap();
        // What the first connection may not have carried to its end comes again.
        assert!(after[0] <= next, "{} is missing, {next} was expected", after[0]);
        assert_eq!(after, (after[0]..posted).collect::<Vec<_>>());
    });
}

#[test]
fn what_the_server_sent_comes_once_and_in_order_and_the_outage_stands_at_its_place() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url(), "ref": "posted"}));
    let mut connection = server.accept();
    let epoch = port.wait_for_type("opened")["epoch"].clone();
    wait_until_connected(&mut port, "default");
    for number in 1..=500 {
        connection.send(Message::text(number.to_string()));
    }
    let mut stream = Vec::new();
    let mut read_until = |port: &mut Browser, seq: u64| {
        while stream.last().is_none_or(|message: &Value| message["seq"] != seq) {
            stream.extend(Some(port.next()).filter(|message| message["seq"].is_u64()));
        }
    };
    // All of it is delivered, some of it read, some acknowledged.
    until("it has all come", || {
        (machine.json(&["status", "--json"])["sessions"][0]["messages_received"] == 500).then_some(())
    });
    read_until(&mut port, 300);
    port.post(json!({"type": "ack", "seq": 100}));
    let _old = connection.drain();
    replace_daemon(&machine);
    let mut connection = server.accept();
    for number in 502..=1000 {
        connection.send(Message::text(number.to_string()));
    }
    read_until(&mut port, 1000);
    for (message, seq) in stream.iter().zip(1..) {
        assert_eq!(message["seq"], seq, "{message}");
        match seq {
            501 => assert_eq!((&message["type"], &message["reason"]), (&json!("gap"), &json!("disconnected"))),
            _ => assert_eq!(message["payload"], seq, "{message}"),
        }
    }
    // What the daemon before gave is acknowledged to this one; what nobody has acknowledged is still there.
    port.post(json!({"type": "ack", "seq": 400, "epoch": epoch}));
    let mut other = machine.port();
    other.post(json!({"type": "open"}));
    let opened = other.wait_for_type("opened");
    assert_eq!((&opened["epoch"], &opened["acked"], &opened["pending"]), (&epoch, &json!(400), &json!(600)));
}

/// Waits until a stage was told of messages 1 to 1000, each once.
fn wait_for_receipts(port: &mut Browser, stage: &str) {
    let mut ids = Vec::new();
    while ids.len() < 1000 {
        let receipt = port.wait_for(stage, |message| message["type"] == "receipt" && message["stage"] == stage);
        let told = receipt["ids"].as_array().unwrap().iter();
        ids.extend(told.map(|id| id.as_str().unwrap().parse::<u32>().unwrap()));
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=1000).collect::<Vec<_>>(), "{stage}");
}

#[test]
fn that_a_message_is_stored_is_told_before_the_daemon_ends_and_its_end_by_the_next_one() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    // It reads nothing, so nothing can be known to have been received.
    let _silent = open(&mut port, &server, "default");
    // So many bytes that the disk needs a moment for them.
    let payload = |number: u32| format!("{number}{}", "0".repeat(10_000));
    for number in 1..=1000 {
        port.post_bytes(format!(r#"{{"type":"send","id":"{number}","payload":{}}}"#, payload(number)).as_bytes());
    }
    port.post(json!({"type": "status"}));
    port.wait_for_type("status");
    let launches = hold_launches(&machine);
    hand_over(&machine, NEWER);
    wait_for_receipts(&mut port, "stored");
    drop(launches);
    let mut connection = server.accept();
    for number in 1..=1000 {
        assert!(connection.next() == Message::text(payload(number)));
    }
    let _new = connection.drain();
    wait_for_receipts(&mut port, "received");
}

#[test]
fn a_browser_that_does_not_read_may_lose_its_port_but_nothing_that_was_for_it() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = open(&mut port, &server, "default");
    // More than lies in the pipes.
    for number in 1..=30 {
        connection.send(Message::text(json!({"number": number, "padding": "x".repeat(100_000)}).to_string()));
    }
    until("it has all come", || {
        (machine.json(&["status", "--json"])["sessions"][0]["messages_received"] == 30).then_some(())
    });
    let _old = connection.drain();
    let old = machine.daemon().unwrap();
    let begin = Instant::now();
    hand_over(&machine, NEWER);
    until("the daemon makes way", || (machine.daemon() != Some(old)).then_some(()));
    assert!(begin.elapsed() < HELD_UP, "{:?}", begin.elapsed());
    port.close();
    port.wait_for_end();
    let mut port = machine.port();
    port.post(json!({"type": "open"}));
    for number in 1..=30 {
        assert_eq!(port.wait_for_type("message")["payload"]["number"], number);
    }
}

#[test]
fn what_is_posted_while_no_daemon_is_there_waits_for_the_next_one() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let _old = open(&mut port, &server, "default").drain();
    let launches = hold_launches(&machine);
    hand_over(&machine, NEWER);
    until("no daemon runs", || machine.daemon().is_none().then_some(()));
    for number in 0..100 {
        port.post(json!({"type": "send", "payload": number}));
    }
    drop(launches);
    let mut connection = server.accept();
    for number in 0..100 {
        assert_eq!(connection.next(), Message::text(number.to_string()));
    }
}

#[test]
fn a_port_that_is_closed_while_no_daemon_is_there_ends_its_host() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let _old = open(&mut port, &server, "default").drain();
    let launches = hold_launches(&machine);
    hand_over(&machine, NEWER);
    until("no daemon runs", || machine.daemon().is_none().then_some(()));
    port.close();
    let (status, took) = port.wait_for_end();
    assert!(status.success() && took < Duration::from_secs(2), "{status} {took:?}");
    drop(launches);
}

#[cfg(unix)]
#[test]
fn a_port_for_which_no_other_daemon_can_be_started_is_told_why() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let _old = open(&mut port, &server, "default").drain();
    let launches = hold_launches(&machine);
    hand_over(&machine, NEWER);
    until("no daemon runs", || machine.daemon().is_none().then_some(()));
    let run = machine.bridge_home().join("run");
    std::fs::set_permissions(run, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    drop(launches);
    let error = port.wait_for_type("error");
    assert_eq!(error["code"], "daemon-unavailable");
    assert!(error["message"].as_str().unwrap().contains("chmod 700"), "{error}");
    assert_eq!(port.wait_for_end().0.code(), Some(1));
}

/// A message and the bytes that a browser writes for it.
fn large_send(session: &str) -> (String, Vec<u8>) {
    let text = "x".repeat(8 << 20);
    let body = json!({"type": "send", "session": session, "text": text}).to_string();
    let mut frame = u32::try_from(body.len()).unwrap().to_ne_bytes().to_vec();
    frame.extend_from_slice(body.as_bytes());
    (text, frame)
}

#[test]
fn a_message_that_is_half_posted_is_posted_to_its_end_first() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = open(&mut port, &server, "default");
    let (text, frame) = large_send("default");
    let (begin, end) = frame.split_at(frame.len() / 2);
    let mut stdin = port.take_stdin();
    stdin.write_all(begin).unwrap();
    let old = machine.daemon();
    hand_over(&machine, NEWER);
    until("the daemon takes no more hosts", || call(&machine).err());
    assert_eq!(machine.daemon(), old, "it waits for the rest");
    stdin.write_all(end).unwrap();
    assert!(connection.next() == Message::text(&text), "it has arrived as it is");
    let _old = connection.drain();
    let mut connection = server.accept();
    stdin.write_all(&frame).unwrap();
    assert!(connection.next() == Message::text(&text), "and so does the next one");
}

#[test]
fn a_message_that_is_not_posted_to_its_end_in_time_holds_up_nobody_and_costs_only_its_own_port() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut other) = (machine.port(), machine.port());
    // These servers answer no goodbye, so that the daemon stays for a while although it listens to no host any more.
    let _silent = [open(&mut port, &server, "a"), open(&mut other, &server, "b")];
    let (_, frame) = large_send("a");
    let (begin, end) = frame.split_at(frame.len() / 2);
    let mut stdin = port.take_stdin();
    stdin.write_all(begin).unwrap();
    std::thread::scope(|scope| {
        let replacing = scope.spawn(|| replace_daemon(&machine));
        let given_up = "a host does not end what it was saying";
        until("the daemon does not wait any more", || machine.log("daemon").contains(given_up).then_some(()));
        // Too late; perhaps nobody takes it at all.
        let _ = stdin.write_all(end);
        let took = replacing.join().unwrap();
        assert!(took < HELD_UP, "{took:?}");
    });
    wait_until_reopened(&mut other, "b");
    port.wait_for_end();
    let log = machine.log("host");
    assert_eq!(log.matches("another daemon goes on with the port").count(), 1, "{log}");
    // Whoever posted it knows that its port is gone, and posts it again.
    let mut connections = [server.accept(), server.accept()];
    other.post(json!({"type": "open", "session": "a"}));
    for session in ["a", "b"] {
        other.post(json!({"type": "send", "session": session, "payload": "next"}));
    }
    for connection in &mut connections {
        assert_eq!(connection.next().to_string(), "\"next\"");
    }
}

#[test]
fn a_host_that_stands_still_holds_up_nobody_and_goes_on_when_it_can() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut other) = (machine.port(), machine.port());
    let _old = [open(&mut port, &server, "a").drain(), open(&mut other, &server, "b").drain()];
    signal(port.pid(), "STOP");
    let took = replace_daemon(&machine);
    assert!(took < HELD_UP, "{took:?}");
    wait_until_reopened(&mut other, "b");
    // It will see that there is something to pass on, and that its daemon is gone, at the same time.
    port.post(json!({"type": "send", "session": "a", "payload": "here"}));
    signal(port.pid(), "CONT");
    wait_until_reopened(&mut port, "a");
    let mut connections = [server.accept(), server.accept()];
    other.post(json!({"type": "send", "session": "b", "payload": "here"}));
    for connection in &mut connections {
        assert_eq!(connection.next(), Message::text("\"here\""));
    }
}

#[test]
fn a_daemon_that_is_stopped_is_not_held_up_either_and_its_hosts_end() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut other) = (machine.port(), machine.port());
    let _old = [open(&mut port, &server, "a").drain(), open(&mut other, &server, "b").drain()];
    signal(port.pid(), "STOP");
    let begin = Instant::now();
    assert!(machine.run(&["stop"]).status.success());
    assert!(begin.elapsed() < HELD_UP, "{:?}", begin.elapsed());
    signal(port.pid(), "CONT");
    assert!(port.wait_for_end().0.success() && other.wait_for_end().0.success());
    assert_eq!(machine.daemon(), None);
}

#[test]
fn twenty_ports_move_at_once_to_one_daemon() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let names: Vec<String> = (0..20).map(|number| format!("s{number}")).collect();
    let mut ports: Vec<Browser> = names.iter().map(|_| machine.port()).collect();
    let opened = ports.iter_mut().zip(&names).map(|(port, name)| open(port, &server, name).drain());
    let _old: Vec<_> = opened.collect();
    replace_daemon(&machine);
    let mut connections: Vec<_> = ports.iter().map(|_| server.accept()).collect();
    for (port, name) in ports.iter_mut().zip(&names) {
        wait_until_reopened(port, name);
        port.post(json!({"type": "send", "session": name, "payload": name}));
    }
    let mut came: Vec<String> = connections.iter_mut().map(|connection| connection.next().to_string()).collect();
    let mut expected: Vec<String> = names.iter().map(|name| json!(name).to_string()).collect();
    came.sort();
    expected.sort();
    assert_eq!(came, expected);
    #[cfg(unix)]
    until("the old daemon and nobody else is gone", || (machine.processes().len() == 21).then_some(()));
    assert_eq!(machine.log("daemon").matches("daemon started").count(), 2, "{}", machine.log("daemon"));
}

#[test]
fn a_plain_websocket_ends_with_its_daemon_and_the_port_goes_on() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let open = |port: &mut Browser, session: &str| {
        port.post(json!({"type": "open", "session": session, "mode": "direct", "url": server.url()}));
        let connection = server.accept();
        wait_until_connected(port, session);
        connection
    };
    let _polite = open(&mut port, "polite").drain();
    // It answers no close frame.
    let _silent = open(&mut port, "silent");
    replace_daemon(&machine);
    let closed = |session: &str, port: &mut Browser| {
        port.wait_for("closed", |message| message["type"] == "closed" && message["session"] == session)
    };
    let polite = closed("polite", &mut port);
    assert_eq!((&polite["code"], &polite["clean"]), (&json!(1001), &json!(true)));
    let silent = closed("silent", &mut port);
    assert_eq!((&silent["code"], &silent["clean"]), (&json!(1006), &json!(false)));
    let mut again = open(&mut port, "polite");
    again.send(Message::text("hello"));
    assert_eq!(port.wait_for_type("message")["text"], "hello");
}

#[test]
fn a_session_that_was_closed_stays_closed() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let _old = open(&mut port, &server, "default").drain();
    port.post(json!({"type": "close"}));
    port.wait_for("disconnected", |message| message["state"] == "disconnected");
    replace_daemon(&machine);
    assert_eq!(wait_until_reopened(&mut port, "default")["state"], "disconnected");
    port.post(json!({"type": "status", "ref": "now"}));
    let status = port.wait_for_type("status");
    assert_eq!(
        (&status["sessions"][0]["state"], &status["sessions"][0]["attempt"]),
        (&json!("disconnected"), &json!(0))
    );
    port.post(json!({"type": "reconnect"}));
    let _new = server.accept();
    wait_until_connected(&mut port, "default");
}

#[test]
fn a_session_in_memory_begins_an_epoch_with_its_settings_and_says_so() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let settings = json!({"linger_ms": 12345});
    port.post(
        json!({"type": "open", "mode": "memory", "url": server.url(), "settings": settings.clone(), "ref": "posted"}),
    );
    let mut connection = server.accept();
    let epoch = port.wait_for_type("opened")["epoch"].clone();
    wait_until_connected(&mut port, "default");
    // The next daemon will know nothing of them, and they are more than the system takes before the server reads.
    let text = "x".repeat(100_000);
    for _ in 0..50 {
        port.post(json!({"type": "send", "text": text}));
    }
    port.post(json!({"type": "status"}));
    port.wait_for_type("status");
    std::thread::scope(|scope| {
        scope.spawn(|| replace_daemon(&machine));
        let leaving = "closed by this side";
        until("the daemon leaves the server", || machine.log("daemon").contains(leaving).then_some(()));
        for _ in 0..50 {
            assert!(connection.next() == Message::text(&text));
        }
    });
    assert_ne!(wait_until_reopened(&mut port, "default")["epoch"], epoch);
    let gap = port.wait_for_type("gap");
    assert_eq!((&gap["reason"], &gap["count"]), (&json!("epoch"), &Value::Null));
    port.post(json!({"type": "status"}));
    assert_eq!(port.wait_for_type("status")["sessions"][0]["settings"]["linger_ms"], 12345);
}

#[test]
fn a_version_that_is_not_newer_is_refused_and_the_daemon_stays() {
    let machine = Sandbox::new();
    let mut port = machine.welcomed_port();
    let daemon = machine.daemon();
    for build in [OLDER, OWN, "newest", ""] {
        let answer = hand_over(&machine, build);
        assert!(answer["error"].as_str().unwrap().contains("only a newer version"), "{build}: {answer}");
    }
    port.post(json!({"type": "hello", "protocol": 1, "ref": "still here"}));
    assert_eq!(port.wait_for_type("welcome")["ref"], "still here");
    assert_eq!(machine.daemon(), daemon);
}

#[cfg(unix)]
#[test]
fn a_host_that_finds_an_older_daemon_of_whatever_kind_has_it_make_way() {
    let machine = Sandbox::new();
    let older = OtherDaemon::start(&machine, 7, OLDER);
    let mut port = machine.port();
    // It looks again when no other host can do the same any more.
    for _ in 0..2 {
        assert_eq!(older.accept().1, Caller { build: OWN.into(), origin: ORIGIN.into() });
    }
    let (mut stream, caller) = older.accept();
    assert_eq!(caller, Caller { build: OWN.into(), origin: String::new() });
    assert_eq!(listen(&mut stream), json!({"type": "hand-over", "build": OWN}));
    say(&mut stream, &json!({"moving": std::process::id()}));
    drop(older);
    port.post(json!({"type": "hello", "protocol": 1}));
    assert_eq!(port.wait_for_type("welcome")["version"], OWN);
}

#[cfg(unix)]
#[test]
fn an_older_daemon_that_does_not_make_way_is_used_as_it_is() {
    let machine = Sandbox::new();
    let older = OtherDaemon::start(&machine, 1, OLDER);
    let mut port = machine.port();
    let _calls = [older.accept(), older.accept()];
    let (mut stream, _) = older.accept();
    listen(&mut stream);
    say(&mut stream, &json!({"error": "not today"}));
    let (mut stream, caller) = older.accept();
    assert_eq!(caller.origin, ORIGIN);
    say(&mut stream, &json!({"type": "welcome", "version": OLDER}));
    assert_eq!(port.next(), json!({"type": "welcome", "version": OLDER}));
    assert!(machine.log("host").contains("not today"), "{}", machine.log("host"));
}

#[cfg(unix)]
#[test]
fn an_older_daemon_that_does_not_make_way_and_cannot_be_spoken_with_is_told_of_with_what_to_do() {
    let machine = Sandbox::new();
    let older = OtherDaemon::start(&machine, 7, OLDER);
    let mut port = machine.port();
    let _calls = [older.accept(), older.accept()];
    let (mut stream, _) = older.accept();
    listen(&mut stream);
    say(&mut stream, &json!({"error": "not today"}));
    let error = port.wait_for_type("error");
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["code"], "daemon-unavailable");
    assert!(["0.0.1", "not today", "websocket-bridge stop"].iter().all(|part| message.contains(part)), "{message}");
    port.wait_for_end();
}

#[cfg(unix)]
#[test]
fn a_newer_daemon_is_used_as_it_is() {
    let machine = Sandbox::new();
    let newer = OtherDaemon::start(&machine, 1, NEWER);
    let mut port = machine.port();
    port.post(json!({"type": "hello", "protocol": 1}));
    let (mut stream, caller) = newer.accept();
    assert_eq!(caller, Caller { build: OWN.into(), origin: ORIGIN.into() });
    assert_eq!(listen(&mut stream), json!({"type": "hello", "protocol": 1}));
    say(&mut stream, &json!({"type": "welcome", "version": NEWER}));
    assert_eq!(port.next(), json!({"type": "welcome", "version": NEWER}));
}

#[test]
fn a_daemon_of_an_older_version_than_the_spools_does_not_start_and_says_why() {
    let machine = Sandbox::new();
    drop(machine.welcomed_port());
    assert!(machine.run(&["stop"]).status.success());
    // `user_version` and `application_id` of the header (<https://www.sqlite.org/fileformat.html>) grow together.
    let path = machine.bridge_home().join("spool.db");
    let mut spool = std::fs::read(&path).unwrap();
    for at in [60, 68] {
        let number = u32::from_be_bytes(*spool[at..].first_chunk().unwrap());
        spool[at..at + 4].copy_from_slice(&(number + 9000).to_be_bytes());
    }
    std::fs::write(&path, spool).unwrap();
    let mut port = machine.port();
    let error = port.wait_for_type("error");
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["code"], "daemon-unavailable");
    assert!(message.contains("newer version") && message.contains("900"), "{message}");
    port.wait_for_end();
}

#[cfg(unix)]
#[test]
fn a_newer_daemon_that_cannot_be_spoken_with_is_told_of_with_what_to_do() {
    let machine = Sandbox::new();
    let newer = OtherDaemon::start(&machine, 2, NEWER);
    let mut port = machine.port();
    let _call = newer.accept();
    let error = port.wait_for_type("error");
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["code"], "daemon-unavailable");
    assert!(message.contains(NEWER) && message.contains("restart the browser"), "{message}");
    port.wait_for_end();
}
