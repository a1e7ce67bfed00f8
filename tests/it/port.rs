//! What an extension may get wrong, and what it is told: a clear error, and the port stays up.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::sandbox::{Sandbox, memory};
use crate::support::server::Server;
use crate::support::until;

#[test]
fn every_kind_of_bad_input_is_answered_and_the_port_goes_on() {
    let machine = Sandbox::new();
    let mut port = machine.port();
    let nested = "[".repeat(20_000) + &"]".repeat(20_000);
    let nested_payload = format!(r#"{{"type":"send","payload":{nested}}}"#);
    for (body, code, said) in [
        ("nonsense", "invalid-message", "not a JSON object"),
        ("", "invalid-message", "empty"),
        ("null", "invalid-message", "not an object"),
        ("[1]", "invalid-message", "not an object"),
        (&nested, "invalid-message", "not an object"),
        (&nested_payload, "invalid-message", "deeper"),
        ("{}", "invalid-message", "`type` is missing"),
        (r#"{"type":1}"#, "invalid-message", "`type` must be a string"),
        (r#"{"type":"dance"}"#, "unknown-type", "dance"),
        (r#"{"type":"send","session":"x","payload":1}"#, "unknown-session", "send `open` first"),
        (r#"{"type":"ack","session":"x","seq":1}"#, "unknown-session", "send `open` first"),
        (r#"{"type":"ack","session":"x","seq":"1"}"#, "invalid-message", "`seq` must be a whole number"),
        (r#"{"type":"open"}"#, "url-missing", "with the `url`"),
        (r#"{"type":"open","url":"http://localhost/"}"#, "url-invalid", "ws://"),
        (r#"{"type":"open","url":"nowhere"}"#, "url-invalid", "not a URL"),
        (r#"{"type":"open","url":"wss://example.org/"}"#, "server-not-allowed", "config.toml"),
        (r#"{"type":"hello","protocol":2}"#, "protocol-unsupported", "speaks 1"),
    ] {
        let error = port.refusal(body.as_bytes());
        let message = error["message"].as_str().unwrap();
        assert_eq!(error["code"], code, "{body:.80}");
        assert!(message.contains(said), "{body:.80}: {message}");
    }
    port.post(json!({"type": "hello", "protocol": 1, "ref": "still here"}));
    assert_eq!(port.wait_for_type("welcome")["ref"], "still here");
}

#[test]
fn an_error_carries_the_ref_and_the_session_of_its_request() {
    let machine = Sandbox::new();
    let mut port = machine.port();
    let error = port.refusal(br#"{"type":"ack","session":"chat","seq":1,"ref":"r9"}"#);
    assert_eq!((&error["ref"], &error["session"], &error["retryable"]), (&json!("r9"), &json!("chat"), &json!(false)));
}

// What an idle process of Wine needs is more than this allows.
#[cfg(unix)]
#[test]
fn a_message_over_64_megabytes_is_refused_and_the_next_one_is_read() {
    let machine = Sandbox::new();
    let mut port = machine.port();
    let mut body = br#"{"type":"send","text":""#.to_vec();
    body.resize(64 * 1024 * 1024 + 1, b'x');
    let error = port.refusal(&body);
    assert_eq!(error["code"], "too-large");
    assert!(error["message"].as_str().unwrap().contains("67108865 bytes"));
    body.truncate(64 * 1024 * 1024);
    assert_eq!(port.refusal(&body)["code"], "invalid-message");
    let daemon = machine.daemon().unwrap();
    until("the memory of the long message is given back", || (memory(daemon) < 32 << 20).then_some(()));
    port.post(json!({"type": "status"}));
    port.wait_for_type("status");
}

// What an idle process of Wine needs is more than this allows.
#[cfg(unix)]
#[test]
fn ten_thousand_sessions_are_too_many_and_memory_stays_bounded() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let url = server.url();
    drop(server);
    let (mut opened, mut refused) = (0, 0);
    for number in 0..10_000 {
        port.post(json!({"type": "open", "session": format!("s{number}"), "url": url, "ref": "r"}));
        loop {
            let answer = port.next();
            match (answer["type"].as_str(), answer["code"].as_str()) {
                (Some("opened"), _) => opened += 1,
                (Some("error"), Some("too-many-sessions")) => refused += 1,
                (Some("state"), _) => continue,
                _ => panic!("{answer}"),
            }
            break;
        }
    }
    assert_eq!((opened, refused), (100, 9_900));
    assert!(memory(machine.daemon().unwrap()) < 32 << 20);
    // A session that is forgotten makes room for another.
    port.post(json!({"type": "close", "session": "s0", "forget": true}));
    port.post(json!({"type": "open", "session": "another", "url": url}));
    port.wait_for("opened", |message| message["type"] == "opened" && message["session"] == "another");
}

#[cfg(unix)]
#[test]
fn an_extension_that_asks_and_never_listens_is_stopped_by_back_pressure() {
    let machine = Sandbox::new();
    let mut port = machine.welcomed_port();
    let daemon = machine.daemon().unwrap();
    let mut stdin = port.take_stdin();
    let asking = std::thread::spawn(move || {
        let body = br#"{"type":"dance"}"#;
        let frame = [&(body.len() as u32).to_ne_bytes()[..], body].concat().repeat(1000);
        // Ends with the host, which ends with the port.
        while std::io::Write::write_all(&mut stdin, &frame).is_ok() {}
    });
    let mut last = (0, std::time::Instant::now());
    until("the daemon reads no more", || {
        let read = std::fs::read_to_string(format!("/proc/{daemon}/io")).unwrap();
        if read == last_text(&mut last, &read) && last.1.elapsed() > std::time::Duration::from_millis(500) {
            return Some(());
        }
        None
    });
    assert!(memory(daemon) < 32 << 20);
    drop(port);
    asking.join().unwrap();
}

#[cfg(unix)]
#[test]
fn answers_that_nobody_reads_are_bounded_by_their_size_too() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let url = server.url();
    drop(server);
    for number in 0..100 {
        port.post(json!({"type": "open", "session": format!("s{number}"), "url": url}));
        port.wait_for_type("opened");
    }
    let daemon = machine.daemon().unwrap();
    let before = memory(daemon);
    let mut stdin = port.take_stdin();
    let asking = std::thread::spawn(move || {
        let body = br#"{"type":"status"}"#;
        let frame = [&(body.len() as u32).to_ne_bytes()[..], body].concat();
        // Ends with the host, which ends with the port.
        while std::io::Write::write_all(&mut stdin, &frame).is_ok() {}
    });
    let mut last = (0, std::time::Instant::now());
    until("the daemon reads no more", || {
        let read = std::fs::read_to_string(format!("/proc/{daemon}/io")).unwrap();
        let read = read.lines().find(|line| line.starts_with("rchar")).unwrap();
        let still = read == last_text(&mut last, read) && last.1.elapsed() > std::time::Duration::from_millis(500);
        (still || memory(daemon) > 256 << 20).then_some(())
    });
    let grown = memory(daemon).saturating_sub(before);
    assert!(grown < 64 << 20, "{} MB", grown >> 20);
    drop(port);
    asking.join().unwrap();
}

#[test]
fn a_small_message_that_waits_keeps_nothing_of_the_large_ones_around_it() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let url = server.url();
    drop(server);
    port.post(json!({"type": "open", "url": url}));
    port.wait_for_type("opened");
    let daemon = machine.daemon().unwrap();
    let before = memory(daemon);
    let large = vec![b'x'; 1_000_000];
    for number in 0..200 {
        assert_eq!(port.refusal(&large)["code"], "invalid-message");
        port.post(json!({"type": "send", "payload": number}));
    }
    port.post(json!({"type": "status"}));
    assert_eq!(port.wait_for_type("status")["sessions"][0]["outbox"]["messages"], 200);
    let grown = memory(daemon).saturating_sub(before);
    assert!(grown < 16 << 20, "{} MB", grown >> 20);
}

#[test]
fn memory_mode_leaves_no_trace_of_its_server_in_the_log() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let address = server.address();
    port.post(json!({"type": "open", "session": "secret-name", "mode": "memory", "url": format!("ws://{address}/secret-path")}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    connection.send(Message::text("\"secret-payload\""));
    port.wait_for_type("message");
    // One connection ends with the server's words, the next cannot be made.
    drop(server);
    let frame =
        tokio_tungstenite::tungstenite::protocol::CloseFrame { code: 4000.into(), reason: "secret-reason".into() };
    connection.send(Message::Close(Some(frame)));
    port.wait_for("the refused connection", |message| message["reason"]["code"] == "refused");
    port.post(json!({"type": "close", "session": "secret-name", "forget": true}));
    until("the session is forgotten", || machine.log("daemon").contains("forgotten").then_some(()));
    let log = machine.log("daemon");
    assert!(!log.contains("secret") && !log.contains(&address.to_string()), "{log}");
    assert!(log.contains("4000") && log.contains("refused"), "{log}");
}

#[test]
fn a_port_that_takes_nothing_of_what_comes_unasked_is_closed_before_it_costs_much() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let url = server.url();
    drop(server);
    let (mut deaf, mut busy) = (machine.port(), machine.port());
    deaf.post(json!({"type": "open", "url": url, "consumer": "deaf"}));
    deaf.wait_for_type("opened");
    busy.post(json!({"type": "open", "url": url}));
    busy.wait_for_type("opened");
    let daemon = machine.daemon().unwrap();
    until("the deaf port is closed", || {
        for _ in 0..500 {
            busy.post(json!({"type": "close"}));
            busy.post(json!({"type": "open"}));
        }
        busy.post(json!({"type": "status", "ref": "done"}));
        while busy.next()["ref"] != "done" {}
        assert!(memory(daemon) < 64 << 20, "{} MB", memory(daemon) >> 20);
        machine.log("daemon").contains("the host does not take what it is sent").then_some(())
    });
}

/// Remembers when a text last changed (by its hash); gives the text back if it is still the same.
#[cfg(unix)]
fn last_text<'a>(last: &mut (u64, std::time::Instant), text: &'a str) -> &'a str {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    if hasher.finish() != last.0 {
        *last = (hasher.finish(), std::time::Instant::now());
    }
    text
}

#[test]
fn one_extension_neither_sees_nor_opens_the_session_of_another() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    let mut other = machine.port_of("chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba/");
    assert_eq!(other.refusal(br#"{"type":"open"}"#)["code"], "url-missing");
    other.post(json!({"type": "status"}));
    assert_eq!(other.wait_for_type("status")["sessions"], json!([]));
    other.post(json!({"type": "open", "url": server.url()}));
    let mut another = server.accept();
    other.wait_for_type("opened");
    another.send(Message::text("2"));
    connection.send(Message::text("1"));
    assert_eq!(port.wait_for_type("message")["payload"], 1);
    assert_eq!(other.wait_for_type("message")["payload"], 2);
}

#[test]
fn several_ports_and_sessions_of_an_extension_live_beside_each_other() {
    let (machine, one, two) = (Sandbox::new(), Server::start(), Server::start());
    let (mut first, mut second) = (machine.port(), machine.port());
    first.post(json!({"type": "open", "session": "a", "url": one.url()}));
    let mut a = one.accept();
    first.post(json!({"type": "open", "session": "b", "url": two.url()}));
    let mut b = two.accept();
    // The same session from another port is the same connection; a consumer of its own gets its own copy.
    second.open(json!({"session": "a", "consumer": "popup"}));
    a.send(Message::text("1"));
    b.send(Message::text("2"));
    for port in [&mut first, &mut second] {
        let message =
            port.wait_for("a message of a", |message| message["type"] == "message" && message["session"] == "a");
        assert_eq!((&message["seq"], &message["payload"]), (&json!(1), &json!(1)));
    }
    let message = first.wait_for("a message of b", |message| message["type"] == "message" && message["session"] == "b");
    assert_eq!(message["payload"], 2);
    second.post(json!({"type": "send", "session": "a", "payload": "from the second"}));
    assert_eq!(a.next(), Message::text("\"from the second\""));
}

#[test]
fn the_newer_port_takes_over_and_gets_what_is_not_acknowledged() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut older = machine.port();
    older.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    for number in 1..=4 {
        connection.send(Message::text(number.to_string()));
    }
    older.wait_for("the last", |message| message["seq"] == 4);
    older.post(json!({"type": "ack", "session": "default", "seq": 2}));
    older.post(json!({"type": "status"}));
    older.wait_for_type("status");
    let mut newer = machine.port();
    let opened = newer.open(json!({}));
    assert_eq!((&opened["head"], &opened["acked"], &opened["pending"]), (&json!(4), &json!(2), &json!(2)));
    assert_eq!(older.wait_for_type("error")["code"], "superseded");
    for seq in [3, 4] {
        let message = newer.wait_for_type("message");
        assert_eq!((&message["seq"], &message["replay"]), (&json!(seq), &json!(true)));
    }
    assert_eq!(older.refusal(br#"{"type":"ack","session":"default","seq":4}"#)["code"], "unknown-session");
}
