//! Other ways to the server while there is no WebSocket, gone by the real program.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::settings::write_config;
use crate::support::browser::Browser;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::Server;

/// A request of HTTP, and where the answer goes.
struct Asked {
    stream: BufReader<TcpStream>,
    head: String,
    body: String,
}

impl Asked {
    /// The next one, on a connection of its own.
    fn first(server: &Server) -> Self {
        Self::on(BufReader::new(server.accept_tcp()))
    }

    fn on(mut stream: BufReader<TcpStream>) -> Self {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(stream.read_line(&mut head).unwrap(), 0, "a request: {head}");
        }
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        let mut body = vec![0; length.parse().unwrap()];
        stream.read_exact(&mut body).unwrap();
        Self { stream, head, body: String::from_utf8(body).unwrap() }
    }

    fn line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn answer(mut self, status: &str, body: &str) -> BufReader<TcpStream> {
        self.say(&format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
        self.stream
    }
}

/// Opens a session whose server has no WebSocket just now, and these ways besides.
fn open(port: &mut Browser, server: &Server, mut fallback: Value) {
    fallback["after_attempts"] = 1.into();
    let settings = json!({
        "fallback": fallback,
        "reconnect": {"first_ms": 100, "max_ms": 100},
        "dialect": {"resume": {"cursor": "/n", "send": {"from": "{cursor}"}, "accepted": {"ok": true}, "refused": {"ok": false}}},
    });
    port.post(json!({"type": "open", "url": server.url(), "settings": settings}));
    turn_down(server);
}

/// Turns down a WebSocket.
fn turn_down(server: &Server) {
    let asked = Asked::first(server);
    assert_eq!(asked.header("upgrade"), Some("websocket"), "{}", asked.head);
    asked.answer("503 Service Unavailable", "");
}

/// The next message of the stream: its number and what it says.
fn message(port: &mut Browser) -> (u64, Value) {
    let message = port.wait_for("a message", |message| ["message", "gap"].contains(&message["type"].as_str().unwrap()));
    assert_eq!(message["type"], "message", "{message}");
    (message["seq"].as_u64().unwrap(), message["payload"].clone())
}

fn state(port: &mut Browser, wanted: &str) {
    port.wait_for(wanted, |message| message["type"] == "state" && message["state"] == wanted);
}

#[test]
fn events_and_posts_take_the_place_of_a_websocket_until_it_is_back_and_nothing_is_lost() {
    let (machine, server, other) = (Sandbox::new(), Server::start(), Server::start());
    let mut port = machine.port();
    let at = format!("http://{}", other.address());
    open(
        &mut port,
        &server,
        json!({"sse_url": format!("{at}/events?after={{cursor}}"), "post_url": format!("{at}/post")}),
    );
    let mut events = Asked::first(&other);
    assert_eq!(events.line(), "GET /events HTTP/1.1");
    events.say("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {\"n\":1}\n\n");
    state(&mut port, "polling");
    assert_eq!(message(&mut port), (1, json!({"n": 1})));
    port.post(json!({"type": "send", "id": "a", "payload": {"to": "server"}, "receipts": ["received"]}));
    let posted = Asked::first(&other);
    assert_eq!((posted.line(), &*posted.body), ("POST /post HTTP/1.1", r#"{"to":"server"}"#));
    posted.answer("204 No Content", "");
    let receipt = port.wait_for("its receipt", |message| message["stage"] == "received");
    assert_eq!(receipt["ids"], json!(["a"]));

    // Beside it the WebSocket is tried again, and fails once more.
    turn_down(&server);
    events.say("data: {\"n\":2}\n\n");
    assert_eq!(message(&mut port), (2, json!({"n": 2})));
    let mut connection = server.accept();
    assert_eq!(connection.next(), Message::text(r#"{"from":2}"#));
    assert_eq!(events.stream.read(&mut [0]).unwrap_or(0), 0, "the events are left");
    connection.send(Message::text(r#"{"ok":true}"#));
    connection.send(Message::text(r#"{"n":3}"#));
    assert_eq!(message(&mut port).1, json!({"ok": true}));
    assert_eq!(message(&mut port).1, json!({"n": 3}));
    port.post(json!({"type": "status"}));
    assert_eq!(port.wait_for_type("status")["sessions"][0]["state"], "connected");
}

#[test]
fn polls_go_on_where_the_last_message_was_and_a_server_that_does_not_confirm_it_makes_a_gap() {
    let (machine, server, other) = (Sandbox::new(), Server::start(), Server::start());
    let mut port = machine.port();
    open(
        &mut port,
        &server,
        json!({"poll_url": format!("http://{}/?after={{cursor}}", other.address()), "interval_ms": 100}),
    );
    let polled = Asked::on(Asked::first(&other).answer("204 No Content", ""));
    state(&mut port, "polling");
    let polled = Asked::on(polled.answer("200 OK", r#"[{"n":7},{"n":8}]"#));
    assert_eq!(polled.line(), "GET /?after=8 HTTP/1.1");
    assert_eq!((message(&mut port), message(&mut port)), ((1, json!({"n": 7})), (2, json!({"n": 8}))));
    let mut connection = server.accept();
    assert_eq!(connection.next(), Message::text(r#"{"from":8}"#));
    connection.send(Message::text(r#"{"ok":false}"#));
    let gap = port.wait_for_type("gap");
    assert_eq!((&gap["seq"], &gap["reason"]), (&json!(3), &json!("disconnected")));
}

#[test]
fn a_fallback_obeys_the_rules_for_servers_and_leads_to_no_redirect() {
    let (machine, server, other, third) = (Sandbox::new(), Server::start(), Server::start(), Server::start());
    let mut port = machine.port();
    open(&mut port, &server, json!({"poll_url": format!("http://{}/", other.address())}));
    let mut asked = Asked::first(&other);
    asked.say(&format!("HTTP/1.1 302 Found\r\nLocation: http://{}/\r\nContent-Length: 0\r\n\r\n", third.address()));
    let told = port.wait_for("why", |message| message["reason"]["http_status"] == 302);
    assert!(told["reason"]["message"].as_str().unwrap().contains("which is not followed"), "{told}");
    turn_down(&server);
    Asked::first(&other);
    third.is_left_alone();
    port.post(json!({"type": "open", "session": "s", "url": server.url(),
        "settings": {"fallback": {"post_url": "https://example.org/", "poll_url": "http://localhost/"}}}));
    let refused = port.wait_for_type("error");
    assert_eq!(refused["code"], "server-not-allowed");
    assert!(refused["message"].as_str().unwrap().contains("`fallback.post_url`"), "{refused}");
}

#[test]
fn secrets_of_the_files_go_on_a_detour_to_their_server_alone() {
    for to_the_same in [true, false] {
        let (machine, server, other) = (Sandbox::new(), Server::start(), Server::start());
        let fallback = if to_the_same { &server } else { &other };
        write_config(
            &machine,
            &format!(
                "[origins.\"{ORIGIN}\".sessions.main]\nurl = \"{}\"\nheaders = {{ x-secret = \"hush\" }}\n\
                 reconnect = {{ first_ms = 100, max_ms = 100 }}\n\
                 fallback = {{ poll_url = \"http://{}/poll\", after_attempts = 1 }}\n",
                server.url(),
                fallback.address(),
            ),
        );
        let mut port = machine.port();
        port.post(
            json!({"type": "open", "session": "main", "settings": {"fallback": {"poll_url": "http://localhost/"}}}),
        );
        let refused = port.wait_for_type("error");
        assert_eq!(refused["code"], "file-only", "{refused}");
        assert!(refused["message"].as_str().unwrap().contains("config.toml"), "{refused}");
        port.post(json!({"type": "open", "session": "main"}));
        turn_down(&server);
        let asked = Asked::first(fallback);
        assert_eq!(asked.line(), "GET /poll HTTP/1.1");
        assert_eq!(asked.header("x-secret"), to_the_same.then_some("hush"));
    }
}

#[test]
fn a_fallback_of_the_files_that_is_not_allowed_is_told_at_once_and_means_nothing_to_a_plain_websocket() {
    let (machine, server) = (Sandbox::new(), Server::start());
    write_config(&machine, "[defaults]\nfallback.poll_url = \"https://example.org/\"\n");
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let refused = port.wait_for_type("error");
    assert_eq!(refused["code"], "server-not-allowed");
    assert!(refused["message"].as_str().unwrap().contains("`fallback.poll_url`"), "{refused}");
    port.post(json!({"type": "open", "url": server.url(), "mode": "direct"}));
    server.accept();
    state(&mut port, "connected");
}
