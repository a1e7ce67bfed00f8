//! The server's own language, spoken by the real program: with the demo's server in each of its dialects, and with one that
//! says what it is told to.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Browser;
use crate::support::demo_server::DemoServer;
use crate::support::sandbox::{Sandbox, kill};
use crate::support::server::Server;
use crate::support::until;

/// The numbers that come until `last`; nothing may be missing among them.
fn numbers_until(port: &mut Browser, last: u32) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.last() != Some(&u64::from(last)) {
        let message = port.next();
        assert_ne!(message["type"], "gap", "{message}");
        if message["payload"]["type"] == "counted" {
            numbers.push(message["payload"]["number"].as_u64().unwrap());
        }
    }
    numbers
}

#[test]
fn in_every_dialect_of_the_demo_an_outage_costs_nothing_and_a_subscription_is_a_name() {
    let machine = Sandbox::new();
    let server = DemoServer::start(&machine);
    for (preset, topic, heard) in [
        ("channel", "channel:updates", "subscribed"),
        ("task", "task:updates", "subscribed"),
        ("room", "room:updates", "room_joined"),
        ("jira", "*", "connection"),
    ] {
        let mut port = machine.port();
        let settings = json!({"dialect": {"preset": preset}, "reconnect": {"first_ms": 100}});
        port.open(json!({"session": preset, "url": server.url(), "settings": settings}));
        if preset != "jira" {
            port.post(json!({"type": "subscribe", "session": preset, "key": "updates"}));
        }
        port.wait_for("the server's answer", |message| message["payload"]["type"] == heard);
        server.publish(topic, 1);
        assert_eq!(numbers_until(&mut port, 1), [1], "{preset}");
        server.post("/control/drop", &json!({}));
        (2..=20).for_each(|number| server.publish(topic, number));
        assert_eq!(numbers_until(&mut port, 20), Vec::from_iter(2..=20), "{preset}");
        let status = machine.json(&["status", "--json"]);
        let sessions = status["sessions"].as_array().unwrap();
        let session = sessions.iter().find(|session| session["session"] == preset).unwrap();
        assert_eq!(session["reconnections"], 1, "{preset}");
        port.post(json!({"type": "close", "session": preset}));
    }
}

#[test]
fn with_resume_and_dedupe_nothing_is_lost_or_doubled_on_the_way_to_a_fallback_and_back() {
    let machine = Sandbox::new();
    let server = DemoServer::start(&machine);
    for way in ["events", "poll"] {
        let mut port = machine.port();
        let setting = if way == "events" { "sse_url" } else { "poll_url" };
        let settings = json!({
            "dialect": {"preset": "task", "dedupe": {"id": "/cursor"}},
            "fallback": {setting: server.fallback(way, "task:updates"), "after_attempts": 1, "interval_ms": 100},
            "reconnect": {"first_ms": 100, "max_ms": 500},
        });
        port.open(json!({"session": way, "url": server.url(), "settings": settings}));
        port.post(json!({"type": "subscribe", "session": way, "key": "updates"}));
        port.wait_for("the server's answer", |message| message["payload"]["type"] == "subscribed");
        server.publish("task:updates", 1);
        assert_eq!(numbers_until(&mut port, 1), [1], "{way}");
        server.post("/control/answer", &json!({"status": 503}));
        server.post("/control/drop", &json!({}));
        (2..=10).for_each(|number| server.publish("task:updates", number));
        assert_eq!(numbers_until(&mut port, 10), Vec::from_iter(2..=10), "{way}");
        let state = |machine: &Sandbox| {
            let status = machine.json(&["status", "--json"]);
            let sessions = status["sessions"].as_array().unwrap();
            sessions.iter().find(|session| session["session"] == way).unwrap()["state"].clone()
        };
        assert_eq!(state(&machine), "polling");
        server.post("/control/answer", &json!({}));
        let mut last = 10;
        until("the WebSocket is back", || {
            last += 1;
            server.publish("task:updates", last);
            (state(&machine) == "connected").then_some(())
        });
        server.publish("task:updates", last + 1);
        assert_eq!(numbers_until(&mut port, last + 1), Vec::from_iter(11..=u64::from(last) + 1), "{way}");
        port.post(json!({"type": "close", "session": way}));
    }
}

#[test]
fn the_demo_speaks_stomp_and_is_subscribed_to_again_after_an_outage() {
    let machine = Sandbox::new();
    let server = DemoServer::start(&machine);
    let settings = json!({
        "dialect": {"preset": "stomp", "dedupe": {"id": "/headers/message-id"}}, "reconnect": {"first_ms": 100},
    });
    let mut port = machine.port();
    port.open(json!({"url": server.url(), "settings": settings}));
    port.post(json!({"type": "subscribe", "key": "channel:updates"}));
    port.post(json!({"type": "send", "text": "SEND\ndestination:channel\\cupdates\nreceipt:1\n\n{\"number\":1}\0"}));
    let mut heard =
        |what: &str| port.wait_for(what, |message| message["text"].as_str().is_some_and(|text| text.contains(what)));
    let message = heard("\"number\":1")["text"].as_str().unwrap().to_owned();
    assert!(message.starts_with("MESSAGE\nsubscription:channel\\cupdates\nmessage-id:"), "{message}");
    heard("RECEIPT\nreceipt-id:1\n");
    server.post("/control/drop", &json!({}));
    until("it is connected again", || {
        (machine.json(&["status", "--json"])["sessions"][0]["reconnections"] == 1).then_some(())
    });
    server.publish("channel:updates", 2);
    heard("\"number\":2");
}

#[test]
fn the_demo_speaks_graphql_and_is_subscribed_to_again_after_an_outage() {
    let machine = Sandbox::new();
    let server = DemoServer::start(&machine);
    let settings = json!({
        "dialect": {"preset": "graphql-transport-ws"}, "reconnect": {"first_ms": 100}, "heartbeat": {"interval_ms": 100},
        "auth": {"via": "message", "send": {"type": "connection_init", "payload": {"token": "{token}"}}},
    });
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": format!("{}&auth=required", server.url()), "settings": settings}));
    port.wait_for_type("token-needed");
    port.post(json!({"type": "token", "token": "invalid"}));
    assert_eq!(port.wait_for_type("token-needed")["reason"], "refused");
    port.post(json!({"type": "token", "token": "good"}));
    let operation =
        json!({"query": "subscription ($topic: String) { message }", "variables": {"topic": "task:updates"}});
    let subscribe = json!({"id": "o1", "type": "subscribe", "payload": operation});
    port.post(json!({"type": "subscribe", "key": "o1", "payload": subscribe}));
    port.wait_for("the acknowledgement", |message| message["payload"]["type"] == "connection_ack");
    // No answer says that the subscription holds.
    let mut next = || {
        let next = until("a message comes", || {
            server.publish("task:updates", 1);
            port.post(json!({"type": "status"}));
            loop {
                let message = port.next();
                match (&message["type"], &message["payload"]["type"]) {
                    (kind, _) if kind == "status" => return None,
                    (_, kind) if kind == "next" => return Some(message["payload"].clone()),
                    _ => {}
                }
            }
        });
        assert_eq!((&next["id"], &next["payload"]["data"]["message"]["number"]), (&json!("o1"), &json!(1)));
    };
    next();
    server.post("/control/drop", &json!({}));
    until("it is connected again", || {
        (machine.json(&["status", "--json"])["sessions"][0]["reconnections"] == 1).then_some(())
    });
    next();
}

#[test]
fn after_a_killed_daemon_the_server_is_asked_to_go_on_behind_what_is_on_the_disk() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let settings = json!({"dialect": {"resume": {
        "cursor": "/at",
        "send": {"from": "{cursor}"},
        "accepted": {"going": "on"},
    }}});
    let request = json!({"url": server.url(), "settings": settings});
    let mut port = machine.port();
    let mut connection = None;
    port.open_with(request.clone(), || connection = Some(server.accept()));
    connection.as_mut().unwrap().send(r#"{"at":"x7"}"#);
    port.wait_for_type("message");
    port.post(json!({"type": "ack", "seq": 1}));
    until("the session is on the disk", || {
        let status = machine.json(&["status", "--json"]);
        (status["sessions"][0]["saved"] == true && status["sessions"][0]["consumers"][0]["acked"] == 1).then_some(())
    });
    kill(machine.daemon().unwrap());
    drop(connection);

    let mut port = machine.port();
    port.post(json!({"type": "open"}));
    let mut connection = server.accept();
    assert_eq!(connection.next(), Message::text(r#"{"from":"x7"}"#));
    connection.send(r#"{"going":"on"}"#);
    let message =
        port.wait_for("what comes next", |message| ["message", "gap"].contains(&message["type"].as_str().unwrap()));
    assert_eq!(message["payload"], json!({"going": "on"}), "no gap is before it");
}

#[test]
fn what_a_server_repeats_is_left_out_also_by_the_next_daemon() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let settings = json!({"dialect": {"dedupe": {"id": "/id"}}, "reconnect": {"first_ms": 100}});
    let request = json!({"url": server.url(), "settings": settings});
    let mut port = machine.port();
    let mut connection = None;
    port.open_with(request, || connection = Some(server.accept()));
    let mut connection = connection.unwrap();
    for text in [r#"{"id":"a"}"#, r#"{"id":"b"}"#, r#"{"id":"a"}"#, r#"{"id":"b"}"#, r#"{"id":"c"}"#] {
        connection.send(text);
    }
    for id in ["a", "b", "c"] {
        assert_eq!(port.wait_for_type("message")["payload"]["id"], id);
    }
    assert_eq!(machine.json(&["status", "--json"])["sessions"][0]["duplicates"], 2);
    until("the session is on the disk", || {
        (machine.json(&["status", "--json"])["sessions"][0]["saved"] == true).then_some(())
    });
    kill(machine.daemon().unwrap());
    drop(connection);

    let mut port = machine.port();
    port.post(json!({"type": "open"}));
    let mut connection = server.accept();
    for text in [r#"{"id":"b"}"#, r#"{"id":"c"}"#, r#"{"id":"d"}"#] {
        connection.send(text);
    }
    let mut ids = Vec::new();
    while ids.last().is_none_or(|id| id != "d") {
        ids.push(port.wait_for_type("message")["payload"]["id"].clone());
    }
    assert_eq!(ids, ["a", "b", "c", "d"]);
}

#[test]
fn a_stomp_server_hears_and_says_exactly_what_the_protocol_says_also_after_an_outage() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let settings = json!({
        "dialect": {"preset": "stomp", "ack": {"id": "/headers/receipt-id"}},
        "auth": {"via": "message", "send": {"command": "CONNECT", "headers": {
            "accept-version": "1.2", "host": "demo", "login": "ann", "passcode": "{token}",
        }}},
        "reconnect": {"first_ms": 100},
    });
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url(), "settings": settings}));
    port.wait_for_type("token-needed");
    port.post(json!({"type": "token", "token": "se:cret"}));
    let connect = "CONNECT\naccept-version:1.2\nhost:demo\nlogin:ann\npasscode:se:cret\n\n\0";
    let subscribe = "SUBSCRIBE\ndestination:/topic/a\\cb\nid:/topic/a\\cb\n\n\0";

    let mut connection = server.accept_with(Some("v12.stomp"));
    assert_eq!(connection.request.headers()["sec-websocket-protocol"], "v12.stomp, v11.stomp");
    assert_eq!(connection.next(), Message::text(connect));
    let connected = "CONNECTED\nversion:1.2\nheart-beat:0,0\n\n\0";
    connection.send(connected);
    assert_eq!(port.wait_for_type("message")["text"], connected);
    port.post(json!({"type": "subscribe", "key": "/topic/a:b"}));
    assert_eq!(connection.next(), Message::text(subscribe));
    let message = "MESSAGE\nsubscription:/topic/a\\cb\nmessage-id:1\ndestination:/topic/a\\cb\n\n{\"n\":1}\0";
    connection.send("\n");
    connection.send(message);
    assert_eq!(port.wait_for_type("message")["text"], message, "as it came");

    let send = "SEND\ndestination:/queue/q\nreceipt:r1\n\nhello\0";
    port.post(json!({"type": "send", "id": "r1", "text": send, "receipts": ["acknowledged"]}));
    assert_eq!(connection.next(), Message::text(send));
    drop(connection);

    let mut connection = server.accept_with(Some("v12.stomp"));
    assert_eq!(connection.next(), Message::text(connect));
    connection.send(connected);
    assert_eq!(connection.next(), Message::text(subscribe));
    assert_eq!(connection.next(), Message::text(send), "it was not acknowledged");
    connection.send("RECEIPT\nreceipt-id:r1\n\n\0");
    assert_eq!(port.wait_for_type("receipt")["stage"], "acknowledged");
}
