//! The daemon's life: started once, found by all, in nobody's way, and gone when it is not needed.

#[cfg(unix)]
use std::os::unix::{fs::PermissionsExt, net::UnixListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::support::link::call;
#[cfg(unix)]
use crate::support::sandbox::status;
use crate::support::sandbox::{Sandbox, kill};
use crate::support::server::Server;
use crate::support::{at_best_within, until};

#[test]
fn a_burst_of_twenty_hosts_starts_exactly_one_daemon() {
    let machine = Sandbox::new();
    let mut ports: Vec<_> = (0..20).map(|_| machine.port()).collect();
    for port in &mut ports {
        port.post(json!({"type": "hello", "protocol": 1}));
    }
    for port in &mut ports {
        port.wait_for_type("welcome");
    }
    // The log has a thread of its own.
    let started = until("the log speaks of a start", || {
        Some(machine.log("daemon").matches("daemon started").count()).filter(|count| *count > 0)
    });
    assert_eq!(started, 1, "{}", machine.log("daemon"));
    #[cfg(unix)]
    assert_eq!(machine.processes().len(), 21);
    let status = machine.json(&["status", "--json"]);
    assert_eq!((&status["daemon"]["links"], &status["daemon"]["pid"]), (&json!(20), &json!(machine.daemon().unwrap())));
}

#[cfg(unix)]
#[test]
fn the_daemon_survives_the_kill_of_its_host_and_holds_nothing_of_the_browsers() {
    let machine = Sandbox::new();
    // A browser leaves a descriptor open in its hosts: Firefox a pipe, by which it learns their end.
    let mut command = std::process::Command::new("sh");
    command.env_clear().envs(machine.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.args([
        "-c",
        "exec 7</dev/zero; exec \"$0\" \"$@\"",
        env!("CARGO_BIN_EXE_websocket-bridge"),
        crate::support::sandbox::ORIGIN,
    ]);
    let mut port = crate::support::browser::Browser::start(command);
    port.post(json!({"type": "hello", "protocol": 1}));
    port.wait_for_type("welcome");
    let (host, daemon) = (port.pid(), machine.daemon().unwrap());
    assert!(std::fs::exists(format!("/proc/{host}/fd/7")).unwrap());
    for entry in std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap() {
        let target = std::fs::read_link(entry.unwrap().path()).unwrap_or_default();
        let target = target.to_string_lossy();
        assert!(!target.starts_with("pipe:") && target != "/dev/zero", "{target}");
    }
    assert_ne!(session_of(host), session_of(daemon));
    assert_eq!(std::fs::read_link(format!("/proc/{daemon}/cwd")).unwrap(), std::path::Path::new("/"));
    kill(host);
    port.wait_for_end();
    until("the daemon sees the host's end", || machine.log("daemon").contains("port closed").then_some(()));
    assert_eq!(machine.daemon(), Some(daemon));
}

/// The session of a process.
#[cfg(unix)]
fn session_of(pid: u32) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().to_owned()
}

#[cfg(unix)]
#[test]
fn files_and_socket_are_the_owners_alone() {
    let machine = Sandbox::new();
    let _port = machine.welcomed_port();
    let home = machine.bridge_home();
    let mode = |name: &str| std::fs::metadata(home.join(name)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("run"), mode("run/daemon.sock"), mode("logs"), mode("daemon.lock")), (0o700, 0o600, 0o700, 0o600));
    assert_eq!((mode("logs/daemon.log"), mode("logs/host.log")), (0o600, 0o600));
}

#[cfg(unix)]
#[test]
fn a_socket_directory_that_others_may_enter_is_refused_with_the_command_that_mends_it() {
    let machine = Sandbox::new();
    let run = machine.bridge_home().join("run");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o755)).unwrap();
    let mut port = machine.port();
    let error = port.wait_for_type("error");
    assert_eq!(error["code"], "daemon-unavailable");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains("chmod 700") && message.contains("daemon --foreground"), "{message}");
    assert_eq!(port.next_bytes(), None);
    assert_eq!(port.wait_for_end().0.code(), Some(1));
}

#[cfg(unix)]
#[test]
fn a_stale_socket_is_taken_over_and_one_that_answers_is_not() {
    let machine = Sandbox::new();
    let run = machine.bridge_home().join("run");
    std::fs::create_dir_all(&run).unwrap();
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o700)).unwrap();
    let listener = UnixListener::bind(run.join("daemon.sock")).unwrap();
    let output = machine.run(&["daemon", "--foreground"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("another daemon answers there"), "{said}");
    // Nobody listens any more, but the file is still there.
    drop(listener);
    assert!(run.join("daemon.sock").exists());
    let _port = machine.welcomed_port();
}

#[test]
fn a_second_daemon_does_not_start_and_says_which_one_runs() {
    let machine = Sandbox::new();
    assert!(machine.run(&["daemon"]).status.success());
    let pid = machine.daemon().unwrap();
    let output = machine.run(&["daemon", "--foreground"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains(&format!("process {pid}")), "{said}");
}

#[test]
fn a_daemon_that_nobody_needs_ends_by_itself_and_one_with_a_session_stays() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    port.close();
    port.wait_for_end();
    // The stream goes on without a port: the server's message is taken.
    connection.send(Message::text("1"));
    until("the message is kept", || {
        (machine.json(&["status", "--json"])["sessions"][0]["inbox"]["messages"] == 1).then_some(())
    });
    let mut port = machine.port();
    port.open(json!({}));
    assert_eq!(port.wait_for_type("message")["payload"], 1);
    port.post(json!({"type": "close", "session": "default", "forget": true}));
    assert_eq!(connection.wait_for_close().0, 1000);
    port.close();
    port.wait_for_end();
    until("the daemon ends", || machine.daemon().is_none().then_some(()));
    #[cfg(unix)]
    until("no process is left", || machine.processes().is_empty().then_some(()));
    assert!(machine.log("daemon").contains("nobody needs it"));
    assert!(!machine.bridge_home().join("run/daemon.sock").exists());
}

#[test]
fn a_killed_daemon_ends_its_hosts_and_the_next_port_starts_another() {
    let machine = Sandbox::new();
    let mut last = None;
    at_best_within(Duration::from_millis(100), || {
        let mut port = machine.welcomed_port();
        let daemon = machine.daemon();
        assert_ne!(daemon, last);
        last = daemon;
        kill(daemon.unwrap());
        assert_eq!(port.next_bytes(), None);
        let (status, took) = port.wait_for_end();
        assert!(status.success());
        took
    });
    assert!(machine.log("host").contains("the daemon closed the link"));
    let _port = machine.welcomed_port();
    assert_ne!(machine.daemon(), last);
}

#[test]
fn stop_says_goodbye_to_servers_and_leaves_nothing() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    port.wait_for_type("opened");
    let stopping = std::thread::scope(|scope| {
        let stopping = scope.spawn(|| machine.run(&["stop"]));
        assert_eq!(connection.wait_for_close(), (1001, "the daemon ends".into()));
        stopping.join().unwrap()
    });
    assert!(stopping.status.success(), "{stopping:?}");
    assert_eq!(machine.daemon(), None);
    assert_eq!(port.next_bytes_after_states(), None);
    assert_eq!(machine.run(&["stop"]).status.code(), Some(0));
}

#[test]
fn stop_waits_for_a_daemon_that_has_the_lock_and_does_not_listen_yet() {
    let machine = Sandbox::new();
    std::fs::create_dir(machine.bridge_home()).unwrap();
    let lock = std::fs::File::create(machine.bridge_home().join("daemon.lock")).unwrap();
    websocket_bridge::os::lock(&lock).unwrap();
    let starting = AtomicBool::new(true);
    std::thread::scope(|scope| {
        let starting = &starting;
        scope.spawn(move || {
            // Long enough for a `stop` that does not wait; the daemon fails to start after all.
            std::thread::sleep(Duration::from_millis(300));
            starting.store(false, Ordering::SeqCst);
            drop(lock);
        });
        let stopped = machine.run(&["stop"]);
        assert!(!starting.load(Ordering::SeqCst), "{stopped:?}");
        assert!(stopped.status.success(), "{stopped:?}");
    });
}

#[cfg(unix)]
#[test]
fn no_process_is_left_after_200_ports_half_of_them_with_the_host_killed() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut first = machine.port();
    first.post(json!({"type": "open", "url": server.url()}));
    let _connection = server.accept().drain();
    first.wait_for_type("opened");
    for round in 0..200 {
        let mut port = machine.port();
        port.post(json!({"type": "open", "consumer": format!("c{}", round % 7)}));
        port.wait_for_type("opened");
        if round % 2 == 0 {
            kill(port.pid());
        } else {
            port.close();
        }
        port.wait_for_end();
    }
    let daemon = machine.daemon().unwrap();
    until("only the first port is left", || {
        (machine.json(&["status", "--json"])["daemon"]["links"] == 1).then_some(())
    });
    assert_eq!(machine.processes().len(), 2);
    // The one that asked for the status may still be among them.
    let descriptors = || std::fs::read_dir(format!("/proc/{daemon}/fd")).unwrap().count();
    until("no descriptor is left of all those ports", || (descriptors() < 20).then_some(()));
    assert!(status(daemon, "Threads:").parse::<u32>().unwrap() <= 4);
}

#[test]
fn a_port_that_comes_while_a_daemon_ends_gets_the_next_one() {
    let (machine, server) = (Sandbox::new(), Server::start());
    for _ in 0..5 {
        let mut port = machine.port();
        port.post(json!({"type": "open", "url": server.url()}));
        // A server that answers no goodbye keeps the daemon for a second.
        let _silent = server.accept();
        port.wait_for_type("opened");
        let ending = machine.daemon().unwrap();
        std::thread::scope(|scope| {
            let stop = scope.spawn(|| machine.run(&["stop"]));
            until("the daemon takes no more hosts", || {
                (call(&machine).is_err() || machine.daemon() != Some(ending)).then_some(())
            });
            let _next = machine.welcomed_port();
            assert_ne!(machine.daemon(), Some(ending));
            // `stop` speaks of the daemon that it met, not of the next one.
            assert!(stop.join().unwrap().status.success());
        });
    }
}

/// Needs root to become another user, as CI is; anybody else cannot be that other user in a test.
#[cfg(unix)]
#[test]
fn another_user_is_turned_away_by_both_sides_even_if_the_files_let_him_in() {
    use std::os::unix::process::CommandExt as _;
    const NOBODY: u32 = 65534;
    if std::fs::metadata("/proc/self").map(|me| std::os::unix::fs::MetadataExt::uid(&me)).unwrap() != 0 {
        return;
    }
    let machine = Sandbox::new();
    let _port = machine.welcomed_port();
    let socket = machine.bridge_home().join("run/daemon.sock");
    for path in [machine.home().to_owned(), machine.bridge_home(), machine.bridge_home().join("run"), socket.clone()] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).unwrap();
    }
    // The program itself may lie where only root comes.
    let program = machine.home().join("program");
    std::fs::copy(env!("CARGO_BIN_EXE_websocket-bridge"), &program).unwrap();
    let mut command = std::process::Command::new(&program);
    command.arg("status").env_clear().env("WEBSOCKET_BRIDGE_HOME", machine.bridge_home());
    let output = command.uid(NOBODY).gid(NOBODY).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("another user"), "{said}");
    until("the daemon turns the caller away", || {
        machine.log("daemon").contains("runs as another user (Some(65534))").then_some(())
    });
}
