//! Direct mode: a browser's own WebSocket, as far as an extension can tell.

use std::collections::VecDeque;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error, Message};

use crate::support::browser::Browser;
use crate::support::sandbox::{Sandbox, memory};
use crate::support::server::{Connection, Server};
use crate::support::until;

/// The request that opens `session`.
fn opening(session: &str, server: &Server) -> Value {
    json!({"type": "open", "mode": "direct", "session": session, "url": server.url()})
}

/// Opens a session called `ws` and waits until it is connected.
fn connect(port: &mut Browser, server: &Server) -> Connection {
    let mut connection = None;
    port.open_with(opening("ws", server), || connection = Some(server.accept()));
    connection.unwrap()
}

/// The last message of a session, as code, reason and `clean`.
fn closed(port: &mut Browser, session: &str) -> (u64, String, bool) {
    let closed = port.wait_for("closed", |message| message["type"] == "closed" && message["session"] == session);
    let (code, reason) = (closed["code"].as_u64().unwrap(), closed["reason"].as_str().unwrap());
    (code, reason.to_owned(), closed["clean"].as_bool().unwrap())
}

/// The post of a frame.
fn sending(frame: &Message) -> Value {
    match frame {
        Message::Text(text) => json!({"type": "send", "session": "ws", "text": text.as_str()}),
        Message::Binary(bytes) => json!({"type": "send", "session": "ws", "binary": BASE64.encode(bytes)}),
        other => panic!("{other:?}"),
    }
}

/// The frame behind a message.
fn received(message: &Value) -> Message {
    assert_eq!((&message["type"], &message["session"], message.get("seq")), (&json!("message"), &json!("ws"), None));
    assert!(message["at"].is_u64() && message.get("payload").is_none());
    match (message["text"].as_str(), message["binary"].as_str()) {
        (Some(text), None) => Message::text(text),
        (None, Some(binary)) => Message::binary(BASE64.decode(binary).unwrap()),
        _ => panic!("{message:.200}"),
    }
}

/// Frame number `index`: all kinds, mostly small; every hundredth is too long for one message to the extension.
fn numbered(index: usize) -> Message {
    let mut rng = fastrand::Rng::with_seed(index as u64);
    let size = if index % 100 == 50 { rng.usize(1_000_000..3_000_000) } else { rng.usize(0..3000) };
    match index % 3 {
        0 => Message::binary(std::iter::repeat_with(|| rng.u8(..)).take(size).collect::<Vec<_>>()),
        1 => Message::text(format!(r#"{{"i":{index},"a":1,"a":2,"pad":"{}"}}"#, "\\u0000é😀".repeat(size / 12))),
        _ => Message::text("plain \"text\"\u{1}\n".repeat(size / 12)),
    }
}

#[test]
fn open_offers_protocols_and_the_state_tells_the_choice() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut open = opening("ws", &server);
    (open["protocols"], open["ref"]) = (json!(["chat.v2", "chat.v1"]), json!("r"));
    port.post(open);
    let connection = server.accept_with(Some("chat.v1"));
    assert_eq!(connection.request.headers()["sec-websocket-protocol"], "chat.v2, chat.v1");
    assert_eq!(connection.request.headers()["origin"], "chrome-extension://abcdefghijklmnopabcdefghijklmnop");
    assert_eq!(port.next(), json!({"type": "opened", "ref": "r", "session": "ws", "state": "connecting"}));
    assert_eq!(port.next()["state"], "connecting");
    let state = port.next();
    assert_eq!((&state["state"], &state["protocol"]), (&json!("connected"), &json!("chat.v1")));
}

#[test]
fn frames_of_all_kinds_and_sizes_come_back_from_an_echo_in_order_and_unchanged() {
    const FRAMES: usize = 600;
    let (machine, server) = (Sandbox::new(), Server::start());
    for features in [json!([]), json!(["batch"])] {
        let mut port = machine.port();
        port.post(json!({"type": "hello", "protocol": 1, "features": features}));
        let mut connection = connect(&mut port, &server);
        let echo = std::thread::spawn(move || {
            for _ in 0..FRAMES {
                let frame = connection.next();
                connection.send(frame);
            }
            connection
        });
        let mut stdin = port.take_stdin();
        let sender = std::thread::spawn(move || {
            for index in 0..FRAMES {
                let body = sending(&numbered(index)).to_string();
                stdin.write_all(&(body.len() as u32).to_ne_bytes()).unwrap();
                stdin.write_all(body.as_bytes()).unwrap();
            }
            stdin
        });
        let (mut next, mut sent) = (0, 0);
        while next < FRAMES {
            let message: Value = serde_json::from_str(&port.next_text()).unwrap();
            let messages = match message["type"].as_str() {
                Some("batch") => message["messages"].as_array().unwrap().clone(),
                Some("message") => vec![message],
                Some("sent") => {
                    assert!(message["bytes"].as_u64().unwrap() > sent, "it counts up");
                    sent = message["bytes"].as_u64().unwrap();
                    continue;
                }
                _ => panic!("{message:.300}"),
            };
            for message in messages {
                assert!(received(&message) == numbered(next), "frame {next} was changed");
                next += 1;
            }
        }
        drop((sender.join().unwrap(), echo.join().unwrap()));
    }
}

#[test]
fn sent_counts_the_bytes_that_the_system_has_and_not_each_message() {
    const MESSAGES: u64 = 20_000;
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = connect(&mut port, &server);
    let frame = sending(&Message::text("0123456789")).to_string();
    let frame = [&(frame.len() as u32).to_ne_bytes()[..], frame.as_bytes()].concat();
    let mut stdin = port.take_stdin();
    let sender = std::thread::spawn(move || {
        for _ in 0..MESSAGES / 100 {
            stdin.write_all(&frame.repeat(100)).unwrap();
        }
        stdin
    });
    let reader = std::thread::spawn(move || {
        for _ in 0..MESSAGES {
            connection.next();
        }
        connection
    });
    let mut told = 0;
    let total = loop {
        told += 1;
        let bytes = port.wait_for_type("sent")["bytes"].as_u64().unwrap();
        if bytes >= 10 * MESSAGES {
            break bytes;
        }
    };
    assert_eq!(total, 10 * MESSAGES);
    assert!(told < MESSAGES / 2, "told {told} times");
    drop((sender.join().unwrap(), reader.join().unwrap()));
}

#[test]
fn what_the_server_does_not_take_is_not_counted_as_sent() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = connect(&mut port, &server);
    // More than any system keeps for a connection.
    let frame = Message::binary(vec![1; 4 << 20]);
    for _ in 0..8 {
        port.post(sending(&frame));
    }
    port.post(json!({"type": "status"}));
    let status = port.wait_for_type("status");
    let session = &status["sessions"][0];
    let (sent, waiting) = (session["bytes_sent"].as_u64().unwrap(), session["outbox"]["bytes"].as_u64().unwrap());
    assert!(sent < 32 << 20 && sent + waiting == 32 << 20, "{session}");
    for _ in 0..8 {
        assert!(connection.next() == frame);
    }
    port.wait_for("all is sent", |message| message["type"] == "sent" && message["bytes"] == 32 << 20);
}

#[test]
fn close_says_what_it_is_told_behind_everything_that_was_sent() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let reason = "ü".repeat(61);
    for (close, told, code) in [
        (json!({"code": 4001, "reason": reason}), (4001, reason.clone()), 4001),
        (json!({"code": 1000}), (1000, String::new()), 1000),
        (json!({}), (1005, String::new()), 1005),
    ] {
        let mut connection = connect(&mut port, &server);
        let last = Message::binary(vec![7; 8 << 20]);
        port.post(sending(&last));
        let mut close = close;
        (close["type"], close["session"]) = (json!("close"), json!("ws"));
        port.post(close);
        assert_eq!(port.refusal(br#"{"type":"send","session":"ws","text":"too late"}"#)["code"], "not-connected");
        assert!(connection.next() == last);
        assert_eq!(connection.wait_for_close(), told);
        // The answer leaves with the next read.
        while connection.socket.read().is_ok() {}
        assert_eq!(closed(&mut port, "ws"), (code, told.1, true));
    }
}

#[test]
fn a_close_that_no_browser_would_take_is_refused_and_the_connection_goes_on() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = connect(&mut port, &server);
    for code in [0, 999, 1001, 1005, 1006, 2999, 5000] {
        let close = json!({"type": "close", "session": "ws", "code": code}).to_string();
        assert_eq!(port.refusal(close.as_bytes())["code"], "invalid-message", "{code}");
    }
    let close = json!({"type": "close", "session": "ws", "code": 1000, "reason": "x".repeat(124)}).to_string();
    assert_eq!(port.refusal(close.as_bytes())["code"], "invalid-message");
    port.post(sending(&Message::text("still here")));
    assert_eq!(connection.next(), Message::text("still here"));
}

#[test]
fn a_close_of_the_servers_is_told_behind_its_last_message_with_code_and_reason() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    for (frame, told) in [
        (Some(CloseFrame { code: 4000.into(), reason: "enough".into() }), (4000, "enough".to_owned(), true)),
        (Some(CloseFrame { code: 1000.into(), reason: "".into() }), (1000, String::new(), true)),
        (None, (1005, String::new(), true)),
    ] {
        let mut connection = connect(&mut port, &server);
        connection.send(Message::text("the last"));
        connection.socket.close(frame).unwrap();
        assert_eq!(received(&port.next()), Message::text("the last"));
        let state = port.next();
        assert_eq!((&state["state"], &state["reason"]["code"]), (&json!("disconnected"), &json!("closed")));
        assert_eq!(closed(&mut port, "ws"), told);
    }
}

#[test]
fn an_end_without_a_close_frame_is_1006() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    drop(connect(&mut port, &server));
    let state = port.wait_for("the end", |message| message["state"] == "disconnected");
    assert_eq!((&state["reason"]["code"], &state["reason"]["retryable"]), (&json!("reset"), &json!(false)));
    assert_eq!(closed(&mut port, "ws"), (1006, String::new(), false));
}

#[test]
fn a_server_that_does_not_answer_a_close_is_left_after_five_seconds() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let _connection = connect(&mut port, &server);
    port.post(json!({"type": "close", "session": "ws", "code": 3000}));
    let begin = Instant::now();
    assert_eq!(closed(&mut port, "ws"), (1006, String::new(), false));
    assert!(begin.elapsed() > Duration::from_secs(4), "{:?}", begin.elapsed());
}

#[test]
fn a_connection_that_cannot_be_made_is_1006_and_says_why_beside_it() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(opening("forbidden", &server));
    let mut stream = server.accept_tcp();
    std::io::Read::read(&mut stream, &mut [0; 4096]).unwrap();
    stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").unwrap();
    let state = port.wait_for("the end", |message| message["state"] == "disconnected");
    assert_eq!((&state["session"], &state["reason"]["http_status"]), (&json!("forbidden"), &json!(403)));
    assert_eq!(closed(&mut port, "forbidden"), (1006, String::new(), false));

    let mut wrong = opening("protocol", &server);
    wrong["protocols"] = json!(["a"]);
    port.post(wrong);
    // A browser leaves a server that speaks none of what was offered.
    let silent = std::thread::spawn(move || (server.accept().socket.read().is_err(), server));
    assert_eq!(closed(&mut port, "protocol"), (1006, String::new(), false));
    let (left, server) = silent.join().unwrap();
    assert!(left);

    let nobody = opening("nobody", &server);
    drop(server);
    port.post(nobody);
    assert_eq!(closed(&mut port, "nobody"), (1006, String::new(), false));
}

#[test]
fn a_server_that_is_not_allowed_is_refused_and_the_name_stays_free() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    for (url, code) in [
        (json!("wss://example.org/"), "server-not-allowed"),
        (json!("http://localhost/"), "url-invalid"),
        (json!("ws://localhost/#part"), "url-invalid"),
        (Value::Null, "url-missing"),
    ] {
        let mut open = opening("ws", &server);
        open["url"] = url;
        assert_eq!(port.refusal(open.to_string().as_bytes())["code"], code);
    }
    drop(connect(&mut port, &server));
}

#[test]
fn a_message_before_the_connection_is_made_is_an_error_and_a_close_gives_it_up() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(opening("ws", &server));
    let _never_upgraded = server.accept_tcp();
    let mut early = sending(&Message::text("early"));
    early["ref"] = json!("r");
    let error = port.refusal(early.to_string().as_bytes());
    assert_eq!(
        (&error["code"], &error["ref"], &error["session"]),
        (&json!("not-connected"), &json!("r"), &json!("ws"))
    );
    port.post(json!({"type": "close", "session": "ws"}));
    assert_eq!(closed(&mut port, "ws"), (1006, String::new(), false));
    assert_eq!(port.refusal(early.to_string().as_bytes())["code"], "unknown-session");
}

#[test]
fn what_makes_no_sense_for_a_plain_websocket_is_refused() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    for (field, value) in [
        ("observe", json!(true)),
        ("after", json!({"epoch": "e", "seq": 1})),
        ("settings", json!({"reconnect": {"first_ms": 1000}})),
    ] {
        let mut open = opening("ws", &server);
        open[field] = value;
        assert_eq!(port.refusal(open.to_string().as_bytes())["code"], "unsupported", "{field}");
    }
    let mut connection = connect(&mut port, &server);
    for mut request in [
        json!({"type": "ack", "seq": 1}),
        json!({"type": "reconnect"}),
        json!({"type": "subscribe", "key": "k", "payload": 1}),
        json!({"type": "send", "text": "a", "id": "1"}),
    ] {
        request["session"] = json!("ws");
        assert_eq!(port.refusal(request.to_string().as_bytes())["code"], "unsupported", "{request}");
    }
    port.post(sending(&Message::text("works")));
    assert_eq!(connection.next(), Message::text("works"));
}

#[test]
fn a_message_over_the_limit_of_the_settings_ends_the_connection_with_1009() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut open = opening("ws", &server);
    open["settings"] = json!({"inbox": {"max_message_bytes": 10}});
    let mut connection = None;
    port.open_with(open, || connection = Some(server.accept()));
    let mut connection = connection.unwrap();
    connection.send(Message::text("0123456789"));
    assert_eq!(received(&port.wait_for_type("message")), Message::text("0123456789"));
    connection.send(Message::text("0123456789a"));
    assert_eq!(connection.wait_for_close().0, 1009);
    assert_eq!(closed(&mut port, "ws"), (1006, String::new(), false));
}

#[test]
fn the_server_sees_1001_when_the_port_goes_away_or_detaches() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = connect(&mut port, &server);
    port.post(sending(&Message::text("the last")));
    port.post(json!({"type": "detach", "session": "ws"}));
    assert_eq!(connection.next(), Message::text("the last"));
    assert_eq!(connection.wait_for_close(), (1001, String::new()));
    while connection.socket.read().is_ok() {}
    assert_eq!(closed(&mut port, "ws"), (1001, String::new(), true));

    let mut connection = connect(&mut port, &server);
    port.post(sending(&Message::text("the last")));
    port.close();
    assert_eq!(connection.next(), Message::text("the last"));
    assert_eq!(connection.wait_for_close(), (1001, String::new()));
    while connection.socket.read().is_ok() {}
    until("nothing of it is left", || (machine.json(&["status", "--json"])["sessions"] == json!([])).then_some(()));
}

#[test]
fn two_ports_may_use_the_same_name_and_neither_sees_the_other() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut one, mut two) = (machine.port(), machine.port());
    let (mut first, mut second) = (connect(&mut one, &server), connect(&mut two, &server));
    first.send(Message::text("1"));
    second.send(Message::text("2"));
    for (port, connection, text) in [(&mut one, &mut first, "1"), (&mut two, &mut second, "2")] {
        assert_eq!(received(&port.wait_for_type("message")), Message::text(text));
        port.post(sending(&Message::text(text)));
        assert_eq!(connection.next(), Message::text(text));
        port.post(json!({"type": "status"}));
        let status = port.wait_for_type("status");
        let [session] = &status["sessions"].as_array().unwrap()[..] else { panic!("{status}") };
        let shown = |field: &str| session[field].clone();
        assert_eq!(
            (shown("mode"), shown("state"), shown("url")),
            (json!("direct"), json!("connected"), json!(server.url()))
        );
        assert_eq!((shown("messages_sent"), shown("messages_received")), (json!(1), json!(1)));
    }
    let all = machine.json(&["status", "--json"]);
    assert_eq!(all["sessions"].as_array().unwrap().len(), 2, "a person sees both");
    one.close();
    two.post(sending(&Message::text("still here")));
    assert_eq!(second.next(), Message::text("still here"));
}

#[test]
fn a_name_is_taken_until_closed_and_shared_with_no_other_session_of_the_port() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let _connection = connect(&mut port, &server);
    let durable = json!({"type": "open", "session": "ws", "url": server.url()});
    for open in [opening("ws", &server), durable.clone()] {
        assert_eq!(port.refusal(open.to_string().as_bytes())["code"], "name-taken");
    }
    // The server does not answer, so the name is not free at once.
    port.post(json!({"type": "detach", "session": "ws"}));
    assert_eq!(port.refusal(opening("ws", &server).to_string().as_bytes())["code"], "name-taken");
    assert_eq!(closed(&mut port, "ws").0, 1006);
    port.post(durable);
    let _durable = server.accept();
    port.wait_for("the durable one", |message| message["state"] == "connected");
    assert_eq!(port.refusal(opening("ws", &server).to_string().as_bytes())["code"], "name-taken");
    port.post(json!({"type": "detach", "session": "ws"}));
    let _direct = connect(&mut port, &server);
}

#[test]
fn direct_sessions_count_among_those_of_the_extension() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connections = VecDeque::new();
    for number in 0..100 {
        port.open_with(opening(&format!("ws{number}"), &server), || connections.push_back(server.accept()));
    }
    assert_eq!(port.refusal(opening("ws", &server).to_string().as_bytes())["code"], "too-many-sessions");
    let mut first = connections.pop_front().unwrap();
    port.post(json!({"type": "close", "session": "ws0"}));
    first.wait_for_close();
    while first.socket.read().is_ok() {}
    closed(&mut port, "ws0");
    drop(connect(&mut port, &server));
}

#[test]
fn a_flood_waits_at_the_server_while_the_extension_reads_nothing_and_loses_nothing() {
    const FRAMES: u64 = 12_000;
    let frame = |index: u64| Message::binary([&index.to_be_bytes()[..], &[index as u8; 10_000]].concat());
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "hello", "protocol": 1, "features": ["batch"]}));
    let mut connection = connect(&mut port, &server);
    let daemon = machine.daemon().unwrap();
    let before = memory(daemon);
    let written = Arc::new(AtomicU64::new(0));
    let progress = Arc::clone(&written);
    let flood = std::thread::spawn(move || {
        for index in 0..FRAMES {
            connection.send(frame(index));
            progress.store(index + 1, Ordering::Relaxed);
        }
        connection
    });
    let mut last = (0, Instant::now());
    until("the server is not read any more", || {
        let now = written.load(Ordering::Relaxed);
        if now != last.0 {
            last = (now, Instant::now());
        }
        (last.1.elapsed() > Duration::from_millis(500)).then_some(())
    });
    let grown = memory(daemon).saturating_sub(before);
    assert!(last.0 < FRAMES && grown < 16 << 20, "{} of {FRAMES} frames, {} MB", last.0, grown >> 20);
    let mut next = 0;
    while next < FRAMES {
        let batch: Value = serde_json::from_str(&port.next_text()).unwrap();
        for message in batch["messages"].as_array().unwrap() {
            assert!(received(message) == frame(next), "frame {next}");
            next += 1;
        }
    }
    drop(flood.join().unwrap());
}

#[test]
fn a_server_that_takes_nothing_gets_no_more_than_its_queue_and_is_left() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut open = opening("ws", &server);
    open["settings"] = json!({"queue": {"max_bytes": 1 << 20}});
    let mut connection = None;
    port.open_with(open, || connection = Some(server.accept()));
    let frame = sending(&Message::binary(vec![1; 500_000]));
    let error = until("the queue is full", || {
        port.post(frame.clone());
        port.post(json!({"type": "status", "ref": "turn"}));
        let answer = port.wait_for("an answer", |message| message["ref"] == "turn" || message["type"] == "error");
        (answer["type"] == "error").then_some(answer)
    });
    assert_eq!(error["code"], "queue-full");
    assert_eq!(closed(&mut port, "ws"), (1006, String::new(), false));
    // The half of a message that was on its way is all that is left.
    let mut connection = connection.unwrap();
    let end = loop {
        if let Err(end) = connection.socket.read() {
            break end;
        }
    };
    assert!(!matches!(end, Error::ConnectionClosed), "{end}");
}

#[test]
fn nothing_of_it_reaches_the_log() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut open = opening("secret-name", &server);
    open["url"] = json!(format!("{}secret-path?secret-query", server.url()));
    let mut connection = None;
    port.open_with(open, || connection = Some(server.accept()));
    let mut connection = connection.unwrap();
    port.post(json!({"type": "send", "session": "secret-name", "text": "secret-text"}));
    connection.next();
    port.post(json!({"type": "close", "session": "secret-name", "code": 4321, "reason": "secret-reason"}));
    connection.wait_for_close();
    while connection.socket.read().is_ok() {}
    closed(&mut port, "secret-name");
    let log = until("the log speaks of the end", || {
        Some(machine.log("daemon")).filter(|log| log.contains("connection ended") && log.contains("4321"))
    });
    assert!(!log.contains("secret") && !log.contains(&server.address().to_string()), "{log}");
}
