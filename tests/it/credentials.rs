//! Credentials of the extension, shown by the real program to servers that look at them.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::demo_server::DemoServer;
use crate::support::sandbox::Sandbox;

/// What must be found nowhere.
const SECRET: &str = "aVerySecretToken7f3a";

/// The files below `directory` in which `text` stands.
fn files_with(directory: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, kind) = (entry.path(), entry.file_type().unwrap());
        if kind.is_dir() {
            found.extend(files_with(&path, text));
        } else if kind.is_file() {
            let content = std::fs::read(&path).unwrap();
            if content.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
    found
}

#[test]
fn the_server_is_shown_what_the_extension_gives_on_every_way_that_it_takes() {
    let machine = Sandbox::new();
    let server = DemoServer::start(&machine);
    let url = format!("{}&auth=required", server.url());
    for auth in [
        json!({"via": "header"}),
        json!({"via": "query"}),
        json!({"via": "message", "send": {"type": "auth", "token": "{token}"}, "accepted": {"type": "auth_success"},
            "refused": {"type": "auth_failed"}}),
    ] {
        let mut port = machine.port();
        let session = auth["via"].as_str().unwrap();
        let settings = json!({"auth": auth, "dialect": {"preset": "task"}});
        port.post(json!({"type": "open", "session": session, "url": url, "settings": settings}));
        assert_eq!(port.wait_for_type("token-needed")["reason"], "missing", "{auth}");
        port.post(json!({"type": "subscribe", "session": session, "key": "t"}));
        port.post(json!({"type": "token", "session": session, "token": SECRET}));
        port.wait_for("the subscription", |message| message["payload"]["type"] == "subscribed");
        port.post(json!({"type": "close", "session": session}));
    }
}

#[test]
fn a_refused_token_is_asked_for_again_and_one_that_is_planted_is_found_nowhere() {
    let machine = Sandbox::new();
    let server = DemoServer::start(&machine);
    for (via, wrong) in [("header", "invalid-planted-5c1e"), ("message", "invalid-planted-9d2b")] {
        let mut port = machine.port();
        let mut settings = json!({"dialect": {"preset": "channel"}, "auth": {"via": via}});
        settings["reconnect"] = json!({"first_ms": 100});
        let url = format!("{}&auth=required", server.url());
        port.post(json!({"type": "open", "session": via, "url": url, "settings": settings}));
        port.wait_for_type("token-needed");
        port.post(json!({"type": "token", "session": via, "token": wrong}));
        assert_eq!(port.wait_for_type("token-needed")["reason"], "refused", "{via}");
        let parked = port.wait_for("its state", |message| message["type"] == "state" && message["state"] == "error");
        assert!(!parked.to_string().contains("planted"), "{parked}");
        port.post(json!({"type": "token", "session": via, "token": wrong}));
        assert_eq!(port.wait_for_type("error")["code"], "token-refused");
        port.post(json!({"type": "token", "session": via, "token": SECRET}));
        port.wait_for("a connection", |message| message["type"] == "state" && message["state"] == "connected");
        port.post(json!({"type": "status", "session": via}));
        let status = port.wait_for_type("status");
        assert_eq!(status["sessions"][0]["authenticated"], true);
        assert!(!status.to_string().contains(SECRET));
        port.post(json!({"type": "token", "session": via, "token": 7}));
        port.wait_for_type("error");
        for arguments in [&["status", "--json"][..], &["sessions"], &["logs"], &["doctor", "--json"]] {
            let output = machine.run(arguments);
            let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert!(!text.contains(SECRET) && !text.contains("planted"), "{arguments:?}: {text}");
        }
    }
    machine.run(&["stop"]);
    for text in [SECRET, "planted"] {
        assert_eq!(files_with(machine.home(), text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_is_no_token_is_refused_without_being_repeated() {
    let machine = Sandbox::new();
    let mut port = machine.welcomed_port();
    for wrong in [json!({"hush": 1}), json!(""), json!("hush\n"), json!("hush".repeat(5000)), Value::Null] {
        port.post(json!({"type": "token", "token": wrong, "ref": "r"}));
        let error = port.wait_for_type("error");
        assert_eq!((&error["code"], &error["ref"]), (&json!("invalid-message"), &json!("r")));
        assert!(!error.to_string().contains("hush"), "{error}");
    }
}
