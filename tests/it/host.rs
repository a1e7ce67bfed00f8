//! The host: leaves in time whatever happens, and lets nothing slip into the browser's pipe.

#[cfg(unix)]
use std::io::Write as _;
use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::browser::Browser;
#[cfg(unix)]
use crate::support::sandbox::signal;
use crate::support::sandbox::{Sandbox, memory};
use crate::support::server::{Connection, Server};
use crate::support::{at_best_within, until};

#[test]
fn the_host_leaves_within_100_ms_when_the_browser_closes_the_port() {
    let machine = Sandbox::new();
    at_best_within(Duration::from_millis(100), || {
        let mut port = machine.welcomed_port();
        port.close_stdin();
        let (status, took) = port.wait_for_end();
        assert!(status.success());
        took
    });
    assert!(machine.log("host").contains("the browser closed the port"));
}

#[cfg(unix)]
#[test]
fn the_host_leaves_within_100_ms_too_while_it_waits_for_a_daemon_that_does_not_answer() {
    let machine = Sandbox::new();
    let _first = machine.welcomed_port();
    let daemon = machine.daemon().unwrap();
    signal(daemon, "STOP");
    at_best_within(Duration::from_millis(100), || {
        let mut port = machine.port();
        until("the host waits for the daemon", || waits_in(port.pid(), "unix_stream").then_some(()));
        port.close();
        port.wait_for_end().1
    });
    signal(daemon, "CONT");
}

#[test]
fn what_was_posted_just_before_the_end_still_arrives() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    for number in 0..100 {
        port.post(json!({"type": "send", "payload": number}));
    }
    port.close();
    for number in 0..100 {
        assert_eq!(connection.next(), Message::text(number.to_string()));
    }
}

#[cfg(unix)]
#[test]
fn what_was_posted_last_arrives_although_the_browser_has_stopped_reading() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    for _ in 0..100 {
        connection.send(Message::text(format!("\"{}\"", "x".repeat(100_000))));
    }
    let daemon = machine.daemon().unwrap();
    for round in 0..8 {
        // The daemon is stuck in a write to this host; what is posted now is still on its way when the host is gone.
        let host = port.pid();
        until("the host writes to a full pipe", || waits_in(host, "pipe_write").then_some(()));
        signal(daemon, "STOP");
        for number in 0..100 {
            port.post(json!({"type": "send", "payload": round * 100 + number}));
        }
        port.close();
        port.wait_for_end();
        signal(daemon, "CONT");
        until("the daemon sends them all", || {
            let status = machine.json(&["status", "--json"]);
            (status["sessions"][0]["messages_sent"] == (round + 1) * 100).then_some(())
        });
        for number in 0..100 {
            assert_eq!(connection.next(), Message::text((round * 100 + number).to_string()));
        }
        port = machine.port();
        port.post(json!({"type": "open"}));
    }
}

#[cfg(unix)]
#[test]
fn a_host_that_is_stuck_in_a_write_leaves_within_100_ms_too() {
    at_best_within(Duration::from_millis(100), || {
        let (machine, server) = (Sandbox::new(), Server::start());
        let mut port = machine.port();
        port.post(json!({"type": "open", "url": server.url()}));
        let mut connection = server.accept();
        port.wait_for_type("opened");
        // The browser reads nothing: the host is stuck writing to it, and, with a daemon that stands still, to that too.
        for _ in 0..100 {
            connection.send(Message::text(format!("\"{}\"", "x".repeat(100_000))));
        }
        let host = port.pid();
        until("the host writes to a full pipe", || waits_in(host, "pipe_write").then_some(()));
        let daemon = machine.daemon().unwrap();
        signal(daemon, "STOP");
        let mut stdin = port.take_stdin();
        let posting = std::thread::spawn(move || {
            // Until the pipe is full as well; then the browser goes away.
            while stdin.write_all(&[b' '; 100_000]).is_ok() {}
        });
        until("the host writes to a full link", || {
            (waits_in(host, "unix_stream") || waits_in(host, "sock_alloc")).then_some(())
        });
        // The pipe that the browser reads; with the host the other one ends.
        port.close();
        let (status, took) = port.wait_for_end();
        signal(daemon, "CONT");
        assert!(status.success());
        posting.join().unwrap();
        took
    });
}

/// Whether a thread of the process sleeps in a kernel function of that name.
#[cfg(unix)]
fn waits_in(pid: u32, function: &str) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("wchan")).ok())
        .any(|wchan| wchan.contains(function))
}

/// Pushes so many bytes, in messages of 64 KiB, at a port that reads nothing; gives how much host and daemon grew.
fn memory_for(machine: &Sandbox, port: &Browser, connection: &mut Connection, bytes: u64) -> u64 {
    let (host, daemon) = (port.pid(), machine.daemon().unwrap());
    let before = memory(host) + memory(daemon);
    let payload = Message::text(format!("\"{}\"", "x".repeat(64 * 1024 - 2)));
    let mut highest = 0;
    for round in 0..bytes / (64 * 1024) {
        connection.socket.write(payload.clone()).unwrap();
        if round % 256 == 0 {
            highest = highest.max(memory(host) + memory(daemon));
        }
    }
    connection.socket.flush().unwrap();
    until("the daemon has read it all", || {
        let status = machine.json(&["status", "--json"]);
        (status["sessions"][0]["bytes_received"] == bytes).then_some(())
    });
    highest.max(memory(host) + memory(daemon)).saturating_sub(before)
}

#[test]
fn what_a_server_pushes_at_a_reader_that_has_stopped_waits_on_the_disk_and_not_in_memory() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    let grown = memory_for(&machine, &port, &mut connection, 64 << 20);
    assert!(grown < 32 << 20, "{} MB", grown >> 20);
    for seq in 1..=1024 {
        assert_eq!(port.wait_for_type("message")["seq"], seq);
        if seq % 32 == 0 {
            port.post(json!({"type": "ack", "session": "default", "seq": seq}));
        }
    }
}

#[test]
fn a_server_that_pushes_a_gigabyte_at_a_reader_that_has_stopped_costs_less_than_32_megabytes() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    // What is kept is dropped sooner than it would go to the disk, which is not what this is about.
    let settings = json!({"inbox": {"max_bytes": 4 << 20}});
    port.post(json!({"type": "open", "url": server.url(), "settings": settings}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    let grown = memory_for(&machine, &port, &mut connection, 1 << 30);
    assert!(grown < 32 << 20, "{} MB", grown >> 20);
    // What is lost is told: exactly, and before what is left.
    let (mut expected, mut lost) = (1, 0);
    loop {
        let message = port.next();
        match message["type"].as_str() {
            Some("gap") => {
                assert_eq!((&message["reason"], &message["from"]), (&json!("overflow"), &json!(expected)));
                let seq = message["seq"].as_u64().unwrap();
                assert_eq!(message["count"], seq + 1 - expected);
                lost += message["count"].as_u64().unwrap();
                expected = seq + 1;
            }
            Some("message") => {
                assert_eq!(message["seq"], expected);
                expected += 1;
            }
            _ => continue,
        }
        if expected > 16 * 1024 {
            break;
        }
        port.post(json!({"type": "ack", "session": "default", "seq": expected - 1}));
    }
    assert!(lost > 10_000, "{lost}");
}

#[cfg(unix)]
#[test]
fn nothing_but_the_daemons_frames_can_reach_the_browsers_pipe() {
    let machine = Sandbox::new();
    let port = machine.welcomed_port();
    let target = |descriptor: u32| std::fs::read_link(format!("/proc/{}/fd/{descriptor}", port.pid())).unwrap();
    // Standard output, to which any code might print, is standard error; the browser's pipe has another number.
    assert_eq!(target(1), target(2));
    assert!(!target(1).to_string_lossy().starts_with("pipe:"), "{:?}", target(1));
}
