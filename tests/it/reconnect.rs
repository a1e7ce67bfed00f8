//! Connections that end or cannot be made: what the extension is told, and that the session comes back by itself.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::browser::Browser;
use crate::support::sandbox::Sandbox;
use crate::support::server::Server;
use crate::support::until;

fn state(port: &mut Browser, wanted: &str) -> Value {
    port.wait_for(wanted, |message| message["type"] == "state" && message["state"] == wanted)
}

/// The next loss of the connection, with its reason.
fn loss(port: &mut Browser) -> Value {
    port.wait_for("a loss", |message| message["state"] == "reconnecting" && message["reason"].is_object())
}

#[test]
fn a_server_that_dies_and_returns_is_found_again_and_the_outage_stands_in_the_stream() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    connection.send(Message::text("\"before\""));
    assert_eq!(port.wait_for_type("message")["seq"], 1);

    let address = server.address();
    drop((connection, server));
    let lost = loss(&mut port);
    assert_eq!((&lost["reason"]["code"], &lost["reason"]["retryable"]), (&json!("reset"), &json!(true)));
    assert!(lost["retry_at"].as_u64() >= lost["since"].as_u64());
    // Sent while nobody is there: it waits for the server.
    port.post(json!({"type": "send", "payload": "meanwhile"}));
    let refused = port.wait_for("an attempt that fails", |message| message["reason"]["code"] == "refused");
    assert!(refused["reason"]["message"].as_str().unwrap().contains(&address.to_string()), "{refused}");

    let server = Server::restart(address);
    let mut connection = server.accept();
    assert_eq!(connection.next(), Message::text("\"meanwhile\""));
    connection.send(Message::text("\"after\""));
    let gap = port.wait_for_type("gap");
    assert_eq!(
        (&gap["seq"], &gap["from"], &gap["reason"], &gap["count"]),
        (&json!(2), &json!(2), &json!("disconnected"), &Value::Null)
    );
    assert!(gap["since"].as_u64() <= gap["until"].as_u64());
    assert_eq!(port.wait_for_type("message")["seq"], 3);
}

#[test]
fn why_a_server_closed_is_told_at_once_with_its_code_and_words() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    state(&mut port, "connected");
    connection.socket.close(Some(CloseFrame { code: 4000.into(), reason: "come back".into() })).unwrap();
    let begin = std::time::Instant::now();
    let lost = loss(&mut port);
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "far below any heartbeat");
    assert_eq!((&lost["reason"]["code"], &lost["reason"]["close_code"]), (&json!("closed"), &json!(4000)));
    assert!(
        lost["reason"]["message"].as_str().unwrap().ends_with("closed the connection with 4000: come back"),
        "{lost}"
    );
    // The server still holds the TCP connection: nobody waits for that.
    let _another = server.accept();
    drop(connection);
}

#[test]
fn a_server_that_answers_with_a_status_is_quoted_and_one_that_forbids_is_not_asked_again() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    for (status, wanted) in [("503 Service Unavailable", "reconnecting"), ("403 Forbidden", "error")] {
        let mut stream = server.accept_tcp();
        let mut request = [0; 4096];
        let length = stream.read(&mut request).unwrap();
        assert!(request[..length].starts_with(b"GET / HTTP/1.1\r\n"));
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").unwrap();
        let told =
            port.wait_for(wanted, |message| message["state"] == wanted && message["reason"]["http_status"].is_u64());
        assert_eq!(told["reason"]["http_status"].to_string(), status[..3]);
        assert_eq!(told["reason"]["retryable"], wanted == "reconnecting");
    }
    // A person may ask again.
    until("asking again is allowed", || {
        port.post(json!({"type": "reconnect"}));
        port.post(json!({"type": "status"}));
        let status = port.wait_for_type("status");
        (status["sessions"][0]["state"] != "error").then_some(())
    });
    server.accept();
    state(&mut port, "connected");
}

#[test]
fn what_breaks_the_protocol_is_named() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    for (bytes, said) in [
        (&b"\x81\x02\xff\xfe"[..], "not UTF-8"),
        (b"\xf1\x00", "broke the WebSocket protocol"),
        (b"\x82\x7f\x00\x00\x00\x00\x04\x00\x00\x01", "the limit is 67108864"),
    ] {
        let mut connection = server.accept();
        state(&mut port, "connected");
        connection.socket.get_mut().write_all(bytes).unwrap();
        let lost = loss(&mut port);
        let message = lost["reason"]["message"].as_str().unwrap();
        assert!(message.contains(said), "{message}");
    }
    server.accept();
}

#[test]
fn close_ends_the_connection_for_all_ports_and_open_makes_it_again() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut other) = (machine.port(), machine.port());
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    other.open(json!({"consumer": "other"}));
    port.post(json!({"type": "close"}));
    assert_eq!(connection.wait_for_close(), (1000, "closed on request".into()));
    state(&mut port, "disconnected");
    state(&mut other, "disconnected");
    other.post(json!({"type": "open", "consumer": "other"}));
    let _connection = server.accept();
    state(&mut port, "connected");
}

#[test]
fn receipts_say_when_the_server_has_a_message() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    state(&mut port, "connected");
    port.post(json!({"type": "send", "payload": 1, "id": "one"}));
    assert_eq!(port.wait_for_type("receipt")["stage"], "stored");
    // The server's end takes the message and, behind it, the ping.
    assert_eq!(connection.next(), Message::text("1"));
    let _connection = connection.drain();
    let receipt = port.wait_for_type("receipt");
    assert_eq!((&receipt["stage"], &receipt["ids"]), (&json!("received"), &json!(["one"])));
    // A repeat is answered, not sent again.
    port.post(json!({"type": "send", "payload": 1, "id": "one"}));
    assert_eq!(port.wait_for_type("receipt")["stage"], "received");
}
