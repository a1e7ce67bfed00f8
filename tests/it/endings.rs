//! Every way in which a server ends a connection or refuses one, as the extension hears of it; and that ten thousand of
//! them leave nothing behind.

use std::io::{Read as _, Write as _};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::browser::Browser;
use crate::support::sandbox::Sandbox;
#[cfg(unix)]
use crate::support::sandbox::{memory, status};
use crate::support::server::Server;
#[cfg(unix)]
use crate::support::until;

/// A window by which a loss that looks like everybody's can be told from one that is ours alone.
const WINDOW_MS: u64 = 3_000_000;

/// Opens a session of its own for a case, so that no case waits for another's delays.
fn open(port: &mut Browser, session: &str, server: &Server) {
    let settings = json!({"reconnect": {"herd_window_ms": WINDOW_MS, "max_ms": WINDOW_MS}});
    port.post(json!({"type": "open", "session": session, "url": server.url(), "settings": settings}));
}

/// The first state of a session that has a reason.
fn verdict(port: &mut Browser, session: &str) -> Value {
    port.wait_for(session, |message| {
        message["type"] == "state" && message["session"] == session && message["reason"].is_object()
    })
}

/// How long the next attempt waits, in milliseconds.
fn delay(state: &Value) -> Option<u64> {
    Some(state["retry_at"].as_u64()? - state["since"].as_u64().unwrap())
}

#[test]
fn a_close_code_is_told_with_what_follows_from_it() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    for (code, parked) in [
        (1000, false),
        (1001, false),
        (1008, false),
        (1009, false),
        (1011, false),
        (1012, false),
        (1013, false),
        (3000, true),
        (3003, true),
        (4000, false),
        (4401, true),
        (4403, true),
    ] {
        let session = format!("code-{code}");
        open(&mut port, &session, &server);
        let mut connection = server.accept();
        connection.socket.close(Some(CloseFrame { code: code.into(), reason: "enough".into() })).unwrap();
        let told = verdict(&mut port, &session);
        let reason = &told["reason"];
        assert_eq!(told["state"], if parked { "error" } else { "reconnecting" }, "{told}");
        assert_eq!((&reason["code"], &reason["close_code"]), (&json!("closed"), &json!(code)));
        assert_eq!(reason["retryable"], !parked);
        let next = if parked { "; nothing is tried until the extension" } else { "" };
        assert!(reason["message"].as_str().unwrap().contains(&format!("with {code}: enough{next}")), "{reason}");
        assert_eq!(delay(&told).is_some(), !parked, "{told}");
        assert!(delay(&told).is_none_or(|delay| delay <= WINDOW_MS), "{told}");
    }
}

#[test]
fn a_status_is_told_with_what_follows_from_it() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    for (answer, header, parked, wanted_ms) in [
        ("301 Moved Permanently", "Location: ws://elsewhere.example/\r\n", false, 0),
        ("401 Unauthorized", "", true, 0),
        ("403 Forbidden", "", true, 0),
        ("404 Not Found", "", false, 0),
        ("407 Proxy Authentication Required", "", true, 0),
        ("426 Upgrade Required", "", false, 0),
        ("429 Too Many Requests", "", false, 0),
        ("429 Too Many Requests", "Retry-After: 120\r\n", false, 120_000),
        ("503 Service Unavailable", "", false, 0),
        ("503 Service Unavailable", "Retry-After: 7\r\n", false, 7_000),
        ("503 Service Unavailable", "Retry-After: 99999999\r\n", false, 3_600_000),
    ] {
        let session = format!("s{}-{}", &answer[..3], wanted_ms);
        open(&mut port, &session, &server);
        let mut stream = server.accept_tcp();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).unwrap() > 0);
        write!(stream, "HTTP/1.1 {answer}\r\n{header}Content-Length: 0\r\n\r\n").unwrap();
        let told = verdict(&mut port, &session);
        let reason = &told["reason"];
        assert_eq!(told["state"], if parked { "error" } else { "reconnecting" }, "{told}");
        assert_eq!((&reason["code"], reason["http_status"].to_string()), (&json!("http-status"), answer[..3].into()));
        assert_eq!(reason["retryable"], !parked);
        match delay(&told) {
            None => assert!(parked, "{told}"),
            Some(delay) => assert!((wanted_ms..=wanted_ms + WINDOW_MS).contains(&delay), "{told}"),
        }
    }
}

#[test]
fn a_server_that_asks_for_a_time_in_its_close_reason_gets_it() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    open(&mut port, "s", &server);
    let mut connection = server.accept();
    let reason = r#"{"reconnect_after_ms":600000,"window_ms":1000}"#;
    connection.socket.close(Some(CloseFrame { code: 1012.into(), reason: reason.into() })).unwrap();
    let told = verdict(&mut port, "s");
    assert!((600_000..=601_000).contains(&delay(&told).unwrap()), "{told}");
}

#[test]
fn what_only_this_side_lost_is_tried_within_a_second_and_not_in_the_window() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let settings =
        json!({"reconnect": {"herd_window_ms": WINDOW_MS}, "heartbeat": {"interval_ms": 100, "timeout_ms": 100}});
    port.post(json!({"type": "open", "url": server.url(), "settings": settings}));
    let mut connection = server.accept();
    // It answers pings at first, and then no more, as a server behind a cable that was pulled.
    let mut pings = 0;
    while pings < 2 {
        pings += u32::from(connection.socket.read().unwrap().is_ping());
        connection.socket.flush().unwrap();
    }
    let told = verdict(&mut port, "default");
    assert_eq!(told["reason"]["code"], "heartbeat", "{told}");
    assert!(delay(&told).unwrap() <= 1000, "{told}");
    server.accept();
}

/// A server that is never content costs time, and nothing else.
#[cfg(unix)]
#[test]
fn ten_thousand_reconnects_leave_memory_descriptors_and_threads_where_they_were() {
    const SESSIONS: usize = 100;
    const EACH: u64 = 100;
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.welcomed_port();
    let daemon = machine.daemon().unwrap();
    let address = server.address();
    let server = std::thread::spawn(move || {
        for _ in 0..SESSIONS as u64 * EACH {
            drop(server.accept());
        }
    });
    // The budget allows so many at once. A connection of no age is stable here, so that no delay grows.
    let settings = json!({"reconnect": {"first_ms": 100, "stable_ms": 0, "burst": EACH, "refill_ms": 3_600_000}});
    let reconnections = |port: &mut Browser| -> Vec<u64> {
        port.post(json!({"type": "status"}));
        let status = port.wait_for_type("status");
        status["sessions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|session| session["reconnections"].as_u64().unwrap())
            .collect()
    };
    let state = || {
        let descriptors = std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count();
        (memory(daemon), descriptors, status(daemon, "Threads:"))
    };
    let url = format!("ws://{address}/");
    for session in 0..SESSIONS {
        let session = format!("s{session}");
        port.post(json!({"type": "open", "session": session, "url": url, "ack": "auto", "settings": settings}));
    }
    let rest = |port: &mut Browser, wanted: u64| {
        until("the sessions have reconnected", || {
            let times = reconnections(port);
            (times.len() == SESSIONS && times.iter().all(|times| *times >= wanted)).then_some(())
        });
    };
    rest(&mut port, EACH / 10);
    let (memory_before, descriptors_before, threads_before) = state();
    rest(&mut port, EACH - 1);
    let (memory_after, descriptors_after, threads_after) = state();
    // One gap for each outage is the only thing that is kept, until it is written.
    assert!(memory_after < memory_before + (8 << 20), "{memory_before} bytes became {memory_after}");
    assert!(descriptors_after <= descriptors_before + SESSIONS, "{descriptors_before} became {descriptors_after}");
    assert_eq!(threads_after, threads_before);
    server.join().unwrap();
}
