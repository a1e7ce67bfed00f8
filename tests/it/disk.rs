//! A disk that has no more room, and a file that is not what it was, under the real daemon.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::support::link::hand_over;
use crate::support::sandbox::Sandbox;
use crate::support::server::Server;
use crate::support::until;

/// Says where the small disk is to the process that has one.
const SMALL_DISK: &str = "TEST_SMALL_DISK";

/// Runs the test of this name once more, in a process that has a disk of a few megabytes for itself; gives the disk's
/// place to that process. Users may mount such a thing in a namespace of their own.
pub(crate) fn on_a_small_disk(test: &str) -> Option<std::path::PathBuf> {
    if let Some(disk) = std::env::var_os(SMALL_DISK) {
        return Some(disk.into());
    }
    let directory = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=6m small "$TMPDIR" && exec "$0" --exact "$1" --nocapture"#;
    let mut again = Command::new("unshare");
    again.args(["--user", "--map-root-user", "--mount", "--", "sh", "-c", script]);
    again.arg(std::env::current_exe().unwrap()).arg(test);
    again.env(SMALL_DISK, directory.path()).env("TMPDIR", directory.path());
    let output = again.output().expect("`unshare` (util-linux) is needed to mount a small disk");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(
        output.status.success() && said.contains("1 passed"),
        "on a small disk (with `unshare` and `mount`): {said}"
    );
    None
}

/// Leaves no room on a disk.
pub(crate) fn fill(disk: &Path) {
    let mut file = std::fs::File::create(disk.join("filler")).unwrap();
    // In ever smaller pieces, so that nothing is left.
    for piece in [vec![1; 64 * 1024], vec![1; 1024], vec![1]] {
        while file.write_all(&piece).is_ok() {}
    }
}

fn session(machine: &Sandbox) -> Value {
    machine.json(&["status", "--json"])["sessions"][0].clone()
}

#[test]
fn a_full_disk_is_told_and_refused_to_while_what_comes_goes_on_until_there_is_room_again() {
    let test = "disk::a_full_disk_is_told_and_refused_to_while_what_comes_goes_on_until_there_is_room_again";
    let Some(disk) = on_a_small_disk(test) else { return };
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server.url()}));
    let mut connection = server.accept();
    // Some wait on the disk when it becomes full.
    let text = |number: u64| format!(r#"{{"number":{number},"filler":"{}"}}"#, "x".repeat(10_000));
    for number in 1..=100 {
        connection.send(Message::text(text(number)));
        port.wait_for_type("message");
    }
    until("all are on the disk", || (session(&machine)["saved"] == true).then_some(()));
    fill(&disk);

    // Which write is the first to fail, nobody knows: the small ones may find room a little longer.
    let mut number = 0;
    until("the disk is found to be full", || {
        number += 1;
        let id = format!("found-{number}");
        port.post(json!({"type": "send", "payload": "y".repeat(4096), "id": id}));
        (session(&machine)["can_store"] == false).then_some(())
    });
    let told = port.wait_for_type("error");
    assert_eq!(told["code"], "disk-full", "{told}");
    port.post(json!({"type": "send", "payload": 1, "id": "refused"}));
    let is_ours = |message: &Value| message["ids"].as_array().is_some_and(|ids| ids.contains(&json!("refused")));
    let refused = port.wait_for("the refusal", is_ours);
    assert_eq!((&refused["stage"], &refused["reason"]), (&json!("refused"), &json!("disk")));

    for number in 101..=200 {
        connection.send(Message::text(text(number)));
        assert_eq!(port.wait_for_type("message")["payload"]["number"], number);
    }
    let refused = hand_over(&machine, "99.0.0");
    assert!(refused["error"].as_str().unwrap().contains("its disk"), "no other daemon would find these: {refused}");
    port.post(json!({"type": "ack", "session": "default", "seq": 200}));
    until("what is acknowledged is gone", || (session(&machine)["inbox"]["messages"] == 0).then_some(()));

    std::fs::remove_file(disk.join("filler")).unwrap();
    until("there is room again", || (session(&machine)["can_store"] == true).then_some(()));
    port.post(json!({"type": "send", "payload": 2, "id": "refused"}));
    port.wait_for("the receipt", |message| message["stage"] == "stored" && is_ours(message));
    until("all is saved", || (session(&machine)["saved"] == true).then_some(()));
}

#[test]
fn a_damaged_spool_costs_neither_the_daemon_nor_a_wrong_payload_and_what_is_missing_is_told() {
    const COUNT: u64 = 200;
    let text = |number: u64| format!("{number}-{}", (number * 7919).to_string().repeat(50));
    let (mut survived, mut damaged) = (0, 0);
    for seed in 0..8 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (machine, server) = (Sandbox::new(), Server::start());
        let mut port = machine.port();
        port.post(json!({"type": "open", "url": server.url()}));
        let epoch = port.wait_for_type("opened")["epoch"].clone();
        let mut connection = server.accept();
        for number in 1..=COUNT {
            connection.send(Message::text(text(number)));
            port.wait_for_type("message");
        }
        assert!(machine.run(&["stop"]).status.success());
        let spool = machine.bridge_home().join("spool.db");
        let mut bytes = std::fs::read(&spool).unwrap();
        for _ in 0..1 << seed {
            let place = rng.usize(..bytes.len());
            bytes[place] ^= 1 << rng.u32(..8);
        }
        std::fs::write(&spool, bytes).unwrap();

        let mut port = machine.port();
        port.post(json!({"type": "open", "url": server.url(), "after": {"epoch": epoch, "seq": 0}}));
        let _connection = server.accept();
        let mut next = 1;
        while next <= COUNT {
            let message = port.wait_for("the stream", |message| message["seq"].is_u64());
            let seq = message["seq"].as_u64().unwrap();
            if message["type"] == "gap" && message["reason"] == "epoch" {
                break;
            }
            damaged += u32::from(message["reason"] == "damage");
            match message["type"].as_str().unwrap() {
                "gap" if ["damage", "disconnected"].contains(&message["reason"].as_str().unwrap()) => {
                    assert!(
                        message["from"].as_u64().unwrap() <= next,
                        "seed {seed}: {next} is missing before {message}"
                    );
                }
                "message" => {
                    assert_eq!((seq, &message["text"]), (next, &json!(text(seq))), "seed {seed}");
                    port.post(json!({"type": "ack", "session": "default", "seq": seq}));
                }
                _ => panic!("seed {seed}: {message}"),
            }
            next = seq + 1;
        }
        survived += u32::from(next > COUNT);
        let log = machine.log("daemon");
        assert!(!log.contains("panicked"), "{log}");
    }
    assert!(survived >= 4 && damaged >= 4, "{survived} of 8 sessions survived, with {damaged} gaps");
}
