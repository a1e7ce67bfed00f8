//! Messages through host, daemon and WebSocket, both ways, as they came.

use std::borrow::Cow;
use std::io::Write as _;
use std::sync::mpsc::channel;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::sandbox::Sandbox;
use crate::support::server::Server;

/// JSON that a parser and a printer would not leave alone.
const DELICATE: &str = r#"{"n":12345678901234567890,"a":1,"a":2,"s":"\u0000\ud83d\ude00"}"#;

#[test]
fn a_message_goes_all_the_way_and_back_unchanged() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url(), "ref": "r1"}));
    let mut connection = server.accept();
    let opened = port.wait_for_type("opened");
    assert_eq!((&opened["session"], &opened["ref"]), (&json!("default"), &json!("r1")));
    assert_eq!(connection.request.headers()["origin"], "chrome-extension://abcdefghijklmnopabcdefghijklmnop");

    port.post_bytes(format!(r#"{{"type":"send","session":"default","payload":{DELICATE}}}"#).as_bytes());
    assert_eq!(connection.next(), Message::text(DELICATE));

    connection.send(Message::text(DELICATE));
    let frame = loop {
        let frame = String::from_utf8(port.next_bytes().unwrap()).unwrap();
        if frame.contains(r#""type":"message""#) {
            break frame;
        }
    };
    assert!(frame.contains(&format!(r#""payload":{DELICATE}"#)), "{frame}");
    let message: Value = serde_json::from_str(&frame).unwrap();
    assert_eq!((&message["seq"], message["at"].is_u64()), (&json!(1), true));
}

/// The numbered message `index`: most are small, some are long, every kind of frame and all of Unicode is among them.
fn numbered(index: u64) -> Message {
    let mut rng = fastrand::Rng::with_seed(index);
    let size = match index % 1000 {
        0 => rng.usize(500_000..900_000),
        1..10 => rng.usize(10_000..60_000),
        _ => rng.usize(0..200),
    };
    match index % 4 {
        0 => Message::binary([&index.to_be_bytes()[..], &vec![index as u8; size]].concat()),
        1 => Message::text(format!("#{index} {}", "ä\"\\\n\u{1}😀 plain text ".repeat(size / 20))),
        2 => Message::text(format!(r#"{{"i":{index},"a":1,"a":2,"pad":"{}"}}"#, "x".repeat(size))),
        _ if size == 0 => Message::text("7"),
        _ => Message::text(format!(r#" [ {index} , 1e400, "{}" ] "#, "\\ud83d\\u0000".repeat(size / 12))),
    }
}

/// What a port gives, as the frame that it was.
fn as_frame(message: &Delivered<'_>) -> Message {
    match (message.payload, &message.text, &message.binary) {
        (Some(payload), None, None) => Message::text(payload.get()),
        (None, Some(text), None) => Message::text(&**text),
        (None, None, Some(binary)) => Message::binary(BASE64.decode(&**binary).unwrap()),
        other => panic!("{other:?}"),
    }
}

#[derive(Debug, Deserialize)]
struct Delivered<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(default)]
    seq: u64,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow)]
    binary: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    messages: Vec<&'a RawValue>,
}

const MANY: u64 = 100_000;

#[test]
fn a_hundred_thousand_messages_of_all_sizes_reach_the_extension_unchanged_and_in_order() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "hello", "protocol": 1, "features": ["batch"]}));
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    // Never far ahead: what an extension does not take in time is dropped with a gap, and that is another test.
    let (reached, progress) = channel();
    let sender = std::thread::spawn(move || {
        let mut extension_has = 0;
        for index in 1..=MANY {
            connection.socket.write(numbered(index)).unwrap();
            while extension_has + 2000 < index {
                connection.socket.flush().unwrap();
                extension_has = progress.recv().unwrap();
            }
        }
        connection.socket.flush().unwrap();
        connection
    });
    let mut expected = 1;
    while expected <= MANY {
        let text = port.next_text();
        let event: Delivered<'_> = serde_json::from_str(&text).unwrap();
        let messages = match event.kind {
            "batch" => event.messages.iter().map(|raw| serde_json::from_str(raw.get()).unwrap()).collect(),
            "message" => vec![event],
            "gap" => panic!("{text}"),
            _ => continue,
        };
        for message in messages {
            assert_eq!(message.seq, expected);
            let sent = numbered(expected);
            // White space around a JSON value belongs to no value.
            let same = match (&sent, &as_frame(&message)) {
                (Message::Text(sent), Message::Text(got)) => sent.trim() == got.trim(),
                (sent, got) => sent == got,
            };
            assert!(same, "message {expected} was changed");
            expected += 1;
        }
        port.post(json!({"type": "ack", "session": "default", "seq": expected - 1}));
        // The sender may have sent its last.
        let _ = reached.send(expected - 1);
    }
    drop(sender.join().unwrap());
}

#[test]
fn a_hundred_thousand_messages_of_all_sizes_reach_the_server_unchanged_and_in_order() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for("connected", |message| message["state"] == "connected" && message["type"] == "state");
    let mut stdin = std::io::BufWriter::with_capacity(64 * 1024, port.take_stdin());
    // Half of the queue's limit at a time: the port is told nothing of what the server has without receipts.
    let (reached, progress) = channel();
    let sender = std::thread::spawn(move || {
        let mut server_has = 0;
        for index in 1..=MANY {
            let body = match numbered(index) {
                Message::Binary(bytes) => format!(r#""binary":"{}""#, BASE64.encode(bytes)),
                Message::Text(text) if index % 4 == 1 => {
                    format!(r#""text":{}"#, serde_json::to_string(text.as_str()).unwrap())
                }
                Message::Text(text) => format!(r#""payload":{text}"#),
                other => panic!("{other:?}"),
            };
            let request = format!(r#"{{"type":"send","session":"default",{body}}}"#);
            stdin.write_all(&(request.len() as u32).to_ne_bytes()).unwrap();
            stdin.write_all(request.as_bytes()).unwrap();
            if index % 500 == 0 {
                stdin.flush().unwrap();
                while server_has + 1000 < index {
                    server_has = progress.recv().unwrap();
                }
            }
        }
        stdin.flush().unwrap();
        stdin
    });
    for index in 1..=MANY {
        let sent = match numbered(index) {
            Message::Text(text) if index % 4 != 1 => Message::text(text.trim()),
            other => other,
        };
        assert!(connection.next() == sent, "message {index} was changed");
        if index % 100 == 0 {
            let _ = reached.send(index);
        }
    }
    drop(sender.join().unwrap());
}

#[test]
fn a_message_of_20_megabytes_arrives_in_chunks_that_make_it_whole() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    let payload = format!(r#"{{"long":"{}"}}"#, "é\\\"漢😀".repeat(20_000_000 / 12));
    connection.send(Message::text(&payload));
    let whole = loop {
        let text = port.next_text();
        if text.len() > payload.len() {
            break text;
        }
    };
    let message: Delivered<'_> = serde_json::from_str(&whole).unwrap();
    assert_eq!((message.kind, message.seq), ("message", 1));
    assert!(message.payload.unwrap().get() == payload);
}

#[test]
fn text_that_is_not_json_comes_as_text_and_a_port_may_ask_for_all_as_text() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut texts) = (machine.port(), machine.port());
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    texts.open(json!({"consumer": "texts", "as": "text"}));
    for frame in ["not json", r#"{"a": 1}"#] {
        connection.send(Message::text(frame));
    }
    connection.send(Message::binary(vec![0, 255]));
    assert_eq!(port.wait_for_type("message")["text"], "not json");
    assert_eq!(port.wait_for_type("message")["payload"], json!({"a": 1}));
    assert_eq!(port.wait_for_type("message")["binary"], "AP8=");
    assert_eq!(texts.wait_for_type("message")["text"], "not json");
    assert_eq!(texts.wait_for_type("message")["text"], r#"{"a": 1}"#);
    assert_eq!(texts.wait_for_type("message")["binary"], "AP8=");
}
