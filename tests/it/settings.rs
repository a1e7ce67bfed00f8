//! What an extension and the files may set, from their texts to what the daemon does.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Browser;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::Server;
use crate::support::until;

/// Writes the user's configuration.
pub(crate) fn write_config(machine: &Sandbox, text: &str) -> PathBuf {
    std::fs::create_dir_all(machine.bridge_home()).unwrap();
    let file = machine.bridge_home().join("config.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// What holds for the session, as `status` says.
fn effective(port: &mut Browser) -> Value {
    port.post(json!({"type": "status", "session": "default"}));
    port.wait_for_type("status")["sessions"][0]["settings"].clone()
}

#[test]
fn what_is_out_of_bounds_or_wrong_is_refused_with_its_name_and_what_is_allowed() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.welcomed_port();
    for (settings, code, said) in [
        (json!({"reconnect": {"first_ms": 1}}), "setting-out-of-bounds", "`reconnect.first_ms`"),
        (json!({"reconnect": {"frist_ms": 1000}}), "invalid-message", "frist_ms"),
        (json!({"inbox": {"overflow": "explode"}}), "invalid-message", "`inbox.overflow`"),
        (json!({"linger_ms": "long"}), "invalid-message", "`linger_ms`"),
        (json!({"fallback": {"poll_url": "hush"}}), "invalid-message", "`fallback.poll_url`"),
        (json!({"fallback": {"poll_url": "http://localhost:0/"}}), "url-invalid", "`fallback.poll_url` has port 0"),
        (
            json!({"fallback": {"sse_url": "https://example.org/"}}),
            "server-not-allowed",
            "`fallback.sse_url`: wss://example.org",
        ),
        (
            json!({"fallback": {"sse_url": "http://localhost/"}, "auth": {"via": "protocol"}}),
            "invalid-message",
            "cannot show a credential on a `fallback`",
        ),
        (json!([]), "invalid-message", "settings"),
    ] {
        port.post(json!({"type": "open", "url": server.url(), "settings": settings, "ref": "r"}));
        let error = port.wait_for_type("error");
        assert_eq!((&error["code"], &error["ref"]), (&json!(code), &json!("r")), "{error}");
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
    }
    port.post(json!({"type": "status"}));
    assert_eq!(port.wait_for_type("status")["sessions"], json!([]), "nothing was opened");
}

#[test]
fn defaults_files_and_the_last_open_that_said_anything_count_in_this_order() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let file = format!(
        "[defaults]\nlinger_ms = 1000\nreconnect.first_ms = 200\n\
         [origins.\"{ORIGIN}\".sessions.default]\nurl = \"{}\"\nreconnect.first_ms = 300\nqueue.max_messages = 7\n",
        server.url()
    );
    write_config(&machine, &file);
    let mut port = machine.port();
    port.open_with(json!({"settings": {"queue": {"max_messages": 8}}}), || drop(server.accept().drain()));
    let settings = effective(&mut port);
    assert_eq!(settings["linger_ms"], 1000);
    assert_eq!(settings["reconnect"]["first_ms"], 300);
    assert_eq!(settings["queue"]["max_messages"], 8);
    assert_eq!(settings["reconnect"]["max_ms"], 300_000);
}

#[test]
fn settings_are_kept_until_another_open_carries_some_and_then_taken_whole() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let settings = json!({"queue": {"max_messages": 8}, "linger_ms": 5});
    port.open_with(json!({"url": server.url(), "settings": settings}), || drop(server.accept().drain()));
    port.post(json!({"type": "close"}));
    port.open_with(json!({}), || drop(server.accept().drain()));
    assert_eq!(effective(&mut port)["queue"]["max_messages"], 8);
    port.post(json!({"type": "close"}));
    port.open_with(json!({"settings": {"linger_ms": 6}}), || drop(server.accept().drain()));
    let settings = effective(&mut port);
    assert_eq!((&settings["queue"]["max_messages"], &settings["linger_ms"]), (&json!(10_000), &json!(6)));
}

#[test]
fn limits_in_the_file_draw_the_bounds_closer() {
    let (machine, server) = (Sandbox::new(), Server::start());
    write_config(&machine, "[limits]\nqueue.max_messages = { max = 100 }\n");
    let mut port = machine.welcomed_port();
    port.post(json!({"type": "open", "url": server.url(), "settings": {"queue": {"max_messages": 101}}}));
    let error = port.wait_for_type("error");
    assert_eq!(error["code"], "setting-out-of-bounds");
    assert!(error["message"].as_str().unwrap().contains("100"), "{error}");
    port.open_with(json!({"url": server.url()}), || drop(server.accept().drain()));
    assert_eq!(effective(&mut port)["queue"]["max_messages"], 100, "a default is no exception");
}

#[test]
fn a_changed_file_counts_from_the_next_connection_on_without_a_restart() {
    let (machine, server) = (Sandbox::new(), Server::start());
    write_config(&machine, "[defaults]\nlinger_ms = 1000\n");
    let mut port = machine.port();
    let mut connection = None;
    port.open_with(json!({"url": server.url()}), || connection = Some(server.accept()));
    write_config(&machine, "[defaults]\nlinger_ms = 2000\n");
    assert_eq!(effective(&mut port)["linger_ms"], 1000);
    drop(connection);
    let _connection = server.accept();
    until("the file counts", || (effective(&mut port)["linger_ms"] == 2000).then_some(()));
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_its_line_and_the_last_good_one_goes_on() {
    let (machine, server) = (Sandbox::new(), Server::start());
    write_config(&machine, &format!("[origins.\"{ORIGIN}\"]\nallow = [\"wss://allowed.invalid/*\"]\n"));
    let mut port = machine.port();
    port.open_with(json!({"url": server.url()}), || drop(server.accept().drain()));
    let file = write_config(&machine, "[defaults]\nlinger_ms = 1000\nreconnect.frist_ms = 1\n");
    port.post(json!({"type": "open", "session": "other", "url": "wss://other.invalid/"}));
    let error = port.wait_for_type("error");
    assert_eq!(error["code"], "config-invalid", "it may be what would allow this server");
    let message = error["message"].as_str().unwrap();
    for part in [&*file.display().to_string(), "line 3", "frist_ms", "first_ms"] {
        assert!(message.contains(part), "{part} is not in: {message}");
    }
    port.post(json!({"type": "open", "session": "third", "url": "wss://allowed.invalid/"}));
    port.wait_for("what was allowed is", |message| message["type"] == "opened" && message["session"] == "third");
    until("the log tells", || machine.log("daemon").contains("the last good one goes on").then_some(()));
}

#[test]
fn a_server_that_is_not_allowed_any_more_is_left_at_the_next_connection() {
    let machine = Sandbox::new();
    let allowed = format!("[origins.\"{ORIGIN}\"]\nallow = [\"wss://0.0.0.0:1/*\"]\n");
    write_config(&machine, &allowed);
    let mut port = machine.port();
    let settings = json!({"reconnect": {"first_ms": 100, "herd_window_ms": 0}});
    port.post(json!({"type": "open", "url": "wss://0.0.0.0:1/", "settings": settings}));
    port.wait_for("a loss", |message| message["state"] == "reconnecting" && message["reason"].is_object());
    let file = write_config(&machine, "");
    let told = port.wait_for("parked", |message| message["state"] == "error");
    assert_eq!(told["reason"]["code"], "not-allowed");
    assert!(told["reason"]["message"].as_str().unwrap().contains(&file.display().to_string()), "{told}");
    // Allowed again, the next `open` of any session finds out.
    write_config(&machine, &allowed);
    port.post(json!({"type": "open", "session": "other", "url": "ws://127.0.0.1:1/"}));
    port.wait_for("another attempt", |message| {
        message["session"] == "default" && message["reason"]["code"] == "refused"
    });
}

#[test]
fn an_observer_sees_what_comes_and_a_consumer_begins_where_it_says() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = None;
    let opened = port.open_with(json!({"url": server.url()}), || connection = Some(server.accept()));
    let mut connection = connection.unwrap();
    for number in 1..=3 {
        connection.send(Message::text(number.to_string()));
        assert_eq!(port.wait_for_type("message")["seq"], number);
    }
    let mut observer = machine.port();
    let seen = observer.open(json!({"observe": true}));
    assert_eq!((&seen["head"], &seen["pending"], seen.get("window")), (&json!(3), &json!(0), None));
    connection.send(Message::text("4"));
    assert_eq!(observer.wait_for_type("message")["payload"], 4);
    observer.post(json!({"type": "send", "payload": 1}));
    assert_eq!(observer.wait_for_type("error")["code"], "read-only");
    let mut late = machine.port();
    late.open(json!({"consumer": "late", "after": {"epoch": opened["epoch"], "seq": 2}}));
    assert_eq!(late.wait_for_type("message")["seq"], 3);
    let mut stranger = machine.port();
    stranger.open(json!({"consumer": "stranger", "after": {"epoch": "long gone", "seq": 99}}));
    assert_eq!(stranger.wait_for_type("gap")["reason"], "epoch");
    assert_eq!(stranger.wait_for_type("message")["seq"], 1);
}

#[test]
fn subscriptions_are_made_again_on_every_connection() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    port.post(json!({"type": "subscribe", "key": "news", "payload": {"subscribe": "news"}}));
    port.post(json!({"type": "subscribe", "key": "tasks", "payload": {"subscribe": "tasks"}}));
    let mut connection = server.accept();
    for _ in 0..2 {
        assert_eq!(connection.next(), Message::text(r#"{"subscribe":"news"}"#));
        assert_eq!(connection.next(), Message::text(r#"{"subscribe":"tasks"}"#));
        drop(connection);
        connection = server.accept();
    }
    port.post(json!({"type": "unsubscribe", "key": "news", "payload": {"unsubscribe": "news"}}));
    port.post(json!({"type": "subscribe", "key": "none"}));
    assert_eq!(port.wait_for_type("error")["code"], "no-template");
}

#[test]
fn memory_mode_promises_no_storage_and_logs_neither_server_nor_name() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let request = json!({"session": "whispers", "mode": "memory", "url": format!("{}secret", server.url())});
    port.open_with(request, || drop(server.accept().drain()));
    port.post(json!({"type": "send", "session": "whispers", "payload": 1, "id": "a"}));
    let receipt = port.wait_for_type("receipt");
    assert_eq!((&receipt["stage"], &receipt["ids"]), (&json!("received"), &json!(["a"])));
    port.post(json!({"type": "send", "session": "whispers", "payload": 1, "id": "b", "receipts": ["stored"]}));
    assert_eq!(port.wait_for_type("error")["code"], "not-durable");
    let log = machine.log("daemon");
    let port_number = server.address().port().to_string();
    for private in ["whispers", "secret", &*port_number] {
        assert!(!log.contains(private), "{private} is in the log:\n{log}");
    }
}

#[test]
fn a_session_that_is_forgotten_begins_an_epoch_under_every_port() {
    let (machine, server, other_server) = (Sandbox::new(), Server::start(), Server::start());
    let (mut port, mut other) = (machine.port(), machine.port());
    let mut connection = None;
    let opened = port.open_with(json!({"url": server.url()}), || connection = Some(server.accept()));
    let mut connection = connection.unwrap();
    connection.send(Message::text("1"));
    port.wait_for_type("message");
    other.open(json!({"consumer": "other"}));
    port.post(json!({"type": "close", "forget": true}));
    for port in [&mut port, &mut other] {
        let again = port.wait_for_type("opened");
        assert_ne!(again["epoch"], opened["epoch"]);
        assert_eq!((&again["head"], &again["state"]), (&json!(0), &json!("disconnected")));
    }
    other.post(json!({"type": "open", "consumer": "other"}));
    assert_eq!(other.wait_for_type("error")["code"], "url-missing", "its server is forgotten too");
    other.open_with(json!({"consumer": "other", "url": other_server.url()}), || drop(other_server.accept().drain()));
}

#[test]
fn a_forgotten_session_that_goes_to_another_server_has_the_defaults_for_that_one() {
    let (machine, server) = (Sandbox::new(), Server::start());
    write_config(&machine, &format!("[origins.\"{ORIGIN}\"]\nallow = [\"wss://0.0.0.0:1/*\"]\n"));
    let mut port = machine.port();
    port.open_with(json!({"url": server.url()}), || drop(server.accept().drain()));
    assert_eq!(effective(&mut port)["reconnect"]["herd_window_ms"], 0, "nobody storms a server on this machine");
    port.post(json!({"type": "close", "forget": true}));
    port.post(json!({"type": "open", "url": "wss://0.0.0.0:1/", "ref": "again"}));
    port.wait_for("the answer", |message| message["ref"] == "again");
    assert_eq!(effective(&mut port)["reconnect"]["herd_window_ms"], 30_000);
}

#[test]
fn a_server_that_only_the_section_of_a_session_names_must_be_allowed_too() {
    let machine = Sandbox::new();
    let section = format!("[origins.\"{ORIGIN}\".sessions.default]\nurl = \"wss://0.0.0.0:1/\"\n");
    write_config(&machine, &section);
    let mut port = machine.port();
    let refusal = port.refusal(br#"{"type":"open"}"#);
    assert_eq!(refusal["code"], "server-not-allowed", "{refusal}");
    write_config(&machine, &format!("[origins.\"{ORIGIN}\"]\nallow = [\"wss://0.0.0.0:1/*\"]\n{section}"));
    port.post(json!({"type": "open"}));
    port.wait_for_type("opened");
}

#[test]
fn a_limit_in_a_changed_file_holds_for_the_connection_that_finds_it() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = None;
    port.open_with(json!({"url": server.url()}), || connection = Some(server.accept()));
    write_config(&machine, "[limits]\ninbox.max_message_bytes = { max = 10 }\n");
    drop(connection);
    server.accept().send(Message::text("01234567890"));
    port.wait_for("a gap for the message", |message| message["type"] == "gap" && message["reason"] == "too-large");
}

#[test]
fn an_inbox_that_must_not_overflow_stops_the_server_and_loses_nothing() {
    const MESSAGES: u64 = 2000;
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let settings = json!({"inbox": {"overflow": "pause", "max_bytes": 1 << 20}});
    let mut connection = None;
    let request = json!({"url": server.url(), "settings": settings});
    port.open_with(request, || connection = Some(server.accept()));
    let sender = std::thread::spawn(move || {
        let mut connection = connection.unwrap();
        let body = vec![7; 20_000];
        for _ in 0..MESSAGES {
            connection.send(Message::binary(body.clone()));
        }
        connection
    });
    let status = |port: &mut Browser| {
        port.post(json!({"type": "status"}));
        port.wait_for_type("status")["sessions"][0].clone()
    };
    // The window is full, the inbox is full, and then the system's own buffers between the two.
    until("the server is stopped", || (status(&mut port)["inbox"]["bytes"].as_u64() >= Some(1 << 20)).then_some(()));
    for seq in 1..=MESSAGES {
        assert_eq!(port.wait_for_type("message")["seq"], seq);
        if seq % 10 == 0 {
            port.post(json!({"type": "ack", "seq": seq}));
        }
    }
    let status = status(&mut port);
    assert!(status["inbox"]["bytes"].as_u64() < Some(2 << 20), "{status}");
    assert_eq!(status["reconnections"], 0);
    drop(sender.join().unwrap());
}

#[test]
fn a_server_that_acknowledges_in_its_own_words_is_believed_and_nothing_less() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = None;
    let settings = json!({"dialect": {"ack": {"id": "/done/id"}}});
    port.open_with(json!({"url": server.url(), "settings": settings}), || connection = Some(server.accept()));
    let stages = ["stored", "received", "acknowledged"];
    port.post(json!({"type": "send", "payload": {"id": "x"}, "id": "x", "receipts": stages}));
    let mut connection = connection.unwrap();
    connection.next();
    drop(connection);
    let mut connection = server.accept();
    assert_eq!(connection.next(), Message::text(r#"{"id":"x"}"#), "it is sent again");
    let acknowledgement = r#"{"done":{"id":"x"}}"#;
    connection.send(acknowledgement);
    port.wait_for("its end", |event| event["type"] == "receipt" && event["stage"] == "acknowledged");
    assert_eq!(machine.json(&["status", "--json"])["sessions"][0]["outbox"]["messages"], 0);
    assert_eq!(
        port.wait_for_type("message")["payload"],
        json!({"done": {"id": "x"}}),
        "and is delivered like any other"
    );
}

#[test]
fn headers_of_the_file_reach_the_server_beside_which_they_stand_and_nobody_else() {
    const SECRET: &str = "planted-bearer";
    let machine = Sandbox::new().with("WEBSOCKET_BRIDGE_LOG", "trace");
    let (server, other) = (Server::start(), Server::start());
    let section = format!(
        "[origins.\"{ORIGIN}\".sessions.bound]\nurl = \"{}own\"\nheaders = {{ Authorization = \"Bearer {SECRET}\" }}\n\
         origin = \"https://page.example\"\n",
        server.url()
    );
    let mut port = machine.welcomed_port();
    // Opened for another server before there was the section: then it is not to have what stands there.
    port.post(json!({"type": "open", "session": "bound", "url": other.url()}));
    let connection = other.accept();
    let file = write_config(&machine, &section);
    drop(connection);
    let told = port.wait_for("parked", |message| message["state"] == "error");
    assert_eq!(told["reason"]["code"], "not-allowed", "{told}");
    for part in ["another server", "forget", &*file.display().to_string()] {
        assert!(told["reason"]["message"].as_str().unwrap().contains(part), "{told}");
    }
    port.post(json!({"type": "close", "session": "bound", "forget": true}));
    // By none of these is another server reached under that name.
    for mode in ["durable", "memory", "direct"] {
        let mut port = machine.welcomed_port();
        for url in [other.url(), format!("{}elsewhere", server.url()), format!("{}own?x", server.url())] {
            port.post(json!({"type": "open", "session": "bound", "mode": mode, "profile": "p", "url": url}));
            let error = port.wait_for_type("error");
            assert_eq!(error["code"], "file-only", "{error}");
            assert!(error["message"].as_str().unwrap().contains("leave `url` out"), "{error}");
        }
    }
    for settings in [json!({"headers": {"A": "b"}}), json!({"origin": "https://x"}), json!({"tls": {}})] {
        port.post(json!({"type": "open", "session": "bound", "settings": settings}));
        assert_eq!(port.wait_for_type("error")["code"], "file-only");
    }
    // With its own URL, or with none, it is.
    for request in [json!({"session": "bound"}), json!({"session": "bound", "url": format!("{}own", server.url())})] {
        let mut asked = None;
        port.open_with(request, || asked = Some(server.accept()));
        let connection = asked.unwrap();
        let headers = connection.request.headers();
        assert_eq!(connection.request.uri().path(), "/own");
        assert_eq!(headers["authorization"], format!("Bearer {SECRET}"));
        assert_eq!(headers["origin"], "https://page.example");
        port.post(json!({"type": "close", "session": "bound"}));
        port.wait_for("closed", |message| message["state"] == "disconnected");
    }
    // Another session of the extension, with that very server, has nothing of it.
    let mut asked = None;
    let request = json!({"session": "free", "url": format!("{}own", server.url())});
    port.open_with(request, || asked = Some(server.accept()));
    assert!(!asked.unwrap().request.headers().contains_key("authorization"));
    port.post(json!({"type": "status"}));
    assert!(!port.wait_for_type("status").to_string().contains(SECRET));
    let printed = [&["status", "--json"][..], &["logs"]].map(|command| machine.run(command));
    crate::proxy::keeps_secret(&machine, &printed, &[SECRET]);
}
