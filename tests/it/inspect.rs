//! A person at a terminal looks into the running daemon: `sessions`, `status --watch`, `tail`, `send`, `forget`, `logs`.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;

use crate::support::browser::Browser;
use crate::support::link::hand_over;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::{Connection, Server};
use crate::support::until;

/// A command that does not end by itself, and the lines that it prints.
struct Following {
    process: Child,
    lines: Receiver<String>,
}

impl Following {
    fn start(machine: &Sandbox, arguments: &[&str]) -> Self {
        let mut command = machine.command();
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = command.spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (said, lines) = channel();
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| said.send(line)));
        Self { process, lines }
    }

    fn next(&self) -> String {
        self.lines.recv_timeout(Duration::from_secs(20)).unwrap()
    }

    /// The next line that has this in it.
    fn find(&self, wanted: &str) -> String {
        std::iter::repeat_with(|| self.next()).find(|line| line.contains(wanted)).unwrap()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Opens a session of `machine` and takes the connection that it makes.
fn open(machine: &Sandbox, server: &Server, session: &str) -> (Browser, Connection) {
    let (mut port, mut connection) = (machine.port(), None);
    port.open_with(json!({"session": session, "url": server.url()}), || connection = Some(server.accept()));
    (port, connection.unwrap())
}

/// Waits until somebody watches the session besides its extension.
fn wait_for_observer(machine: &Sandbox) {
    until("an observer", || (machine.json(&["status", "--json"])["sessions"][0]["observers"] == 1).then_some(()));
}

fn stderr(machine: &Sandbox, arguments: &[&str], code: i32) -> String {
    let output = machine.run(arguments);
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn sessions_are_listed_and_none_is_none() {
    let (machine, server) = (Sandbox::new(), Server::start());
    assert!(String::from_utf8(machine.run(&["sessions"]).stdout).unwrap().starts_with("no daemon runs"));
    let _jira = open(&machine, &server, "jira");
    let list = String::from_utf8(machine.run(&["sessions"]).stdout).unwrap();
    let [_, row] = list.lines().collect::<Vec<_>>()[..] else { panic!("{list}") };
    assert!(row.starts_with("jira") && row.contains("connected") && row.contains(ORIGIN), "{list}");
    assert_eq!(machine.json(&["sessions", "--json"])["sessions"][0]["session"], "jira");
}

#[test]
fn the_watched_page_shows_what_goes_on_and_outlives_the_daemon() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let watch = Following::start(&machine, &["status", "--watch"]);
    watch.find("no daemon runs");
    let (mut port, mut connection) = open(&machine, &server, "default");
    watch.find("connected");
    connection.send("1");
    port.wait_for_type("message");
    watch.find("received   1  ");
}

#[test]
fn a_tail_shows_what_comes_and_takes_nothing_away() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut connection) = open(&machine, &server, "default");
    let (tail, json) = (Following::start(&machine, &["tail"]), Following::start(&machine, &["tail", "--json"]));
    until("both", || (machine.json(&["status", "--json"])["sessions"][0]["observers"] == 2).then_some(()));
    connection.send(r#"{"b":1.0, "a":"x"}"#);
    connection.send("\u{1b}[2J not JSON");
    assert!(tail.find("#1  ").ends_with(r##"#1  {"b":1.0, "a":"x"}"##));
    assert!(tail.find("#2  ").ends_with(r"#2  \u{1b}[2J not JSON"));
    let line = json.find(r#""type":"message""#);
    assert!(line.contains(r#""payload":{"b":1.0, "a":"x"}"#), "{line}");
    for seq in 1..=2 {
        assert_eq!(port.wait_for_type("message")["seq"], seq);
    }
    assert_eq!(machine.json(&["status", "--json"])["sessions"][0]["consumers"].as_array().unwrap().len(), 1);
    // A long message comes in pieces and is shown as one.
    connection.send("x".repeat(3 << 20));
    assert_eq!(tail.find("#3  ").len(), "00:00:00.000Z  #3  ".len() + (3 << 20));
}

#[test]
fn a_tail_goes_on_with_the_daemon_that_takes_over() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, connection) = open(&machine, &server, "default");
    let tail = Following::start(&machine, &["tail"]);
    wait_for_observer(&machine);
    let reader = connection.drain();
    assert!(hand_over(&machine, "999.0.0")["moving"].is_u64());
    let mut connection = server.accept();
    reader.join().unwrap();
    port.wait_for_type("opened");
    wait_for_observer(&machine);
    connection.send("\"still here\"");
    tail.find("still here");
    assert!(!machine.log("daemon").contains("does not end what it was saying"), "the tail has let go at once");
}

#[test]
fn what_a_person_sends_reaches_the_server_exactly_as_it_was_typed() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (_port, mut connection) = open(&machine, &server, "default");
    let said = stderr(&machine, &["send", "default", r#" {"b":1.0, "a":[1e2]} "#], 0);
    assert!(said.contains("taken; the session is connected"), "{said}");
    assert_eq!(connection.next(), Message::text(r#"{"b":1.0, "a":[1e2]}"#));
    let wrong = stderr(&machine, &["send", "default", "hello"], 2);
    assert!(wrong.contains("no JSON") && wrong.contains("quotes"), "{wrong}");
}

#[test]
fn a_message_that_the_queue_has_no_room_for_is_refused_to_the_person_too() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let settings = json!({"queue": {"max_messages": 1}});
    port.post(json!({"type": "open", "url": server.url(), "settings": settings}));
    port.wait_for_type("opened");
    assert!(stderr(&machine, &["send", "default", "1"], 0).contains("1 messages wait"));
    let refusal = stderr(&machine, &["send", "default", "2"], 1);
    assert!(refusal.contains("queue"), "{refusal}");
}

#[test]
fn a_session_that_is_forgotten_leaves_nothing_and_its_port_begins_anew() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let (mut port, mut connection) = open(&machine, &server, "default");
    connection.send("1");
    port.wait_for_type("message");
    let epoch = machine.json(&["status", "--json"])["sessions"][0]["epoch"].clone();
    stderr(&machine, &["forget", "default"], 0);
    let opened = port.wait_for("a new epoch", |message| message["type"] == "opened");
    assert_ne!(opened["epoch"], epoch);
    assert_eq!(opened["head"], 0);
}

#[test]
fn whoever_names_no_session_that_is_there_hears_which_ones_are() {
    let (machine, server) = (Sandbox::new(), Server::start());
    assert!(stderr(&machine, &["tail"], 1).contains("no daemon runs"));
    let _jira = open(&machine, &server, "jira");
    let _chat = open(&machine, &server, "chat");
    for arguments in [&["tail"][..], &["tail", "z"], &["send", "z", "1"], &["forget", "z"]] {
        let said = stderr(&machine, arguments, 1);
        assert!(said.contains("jira --origin chrome-extension://") && said.contains("chat --origin"), "{said}");
    }
}

#[test]
fn the_log_of_hosts_and_daemon_is_one_and_can_be_followed() {
    let (machine, server) = (Sandbox::new(), Server::start());
    assert!(stderr(&machine, &["logs"], 0).contains("there are no logs"));
    let follow = Following::start(&machine, &["logs", "-f"]);
    let (mut port, _connection) = open(&machine, &server, "default");
    assert!(follow.find("daemon INFO").len() > 20);
    port.close();
    follow.find("host   INFO");
    let log = String::from_utf8(machine.run(&["logs", "-n", "1000"]).stdout).unwrap();
    let times: Vec<&str> = log.lines().map(|line| line.split(' ').next().unwrap()).collect();
    assert!(times.is_sorted() && times.len() > 3, "{log}");
}

#[test]
fn completions_and_the_manual_page_know_every_command() {
    let machine = Sandbox::new();
    let help = String::from_utf8(machine.run(&["--help"]).stdout).unwrap();
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // Whatever stands further to the right goes on with the line above.
    let commands = commands.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let commands: Vec<String> = commands.filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    assert!(commands.len() > 10, "{help}");
    for arguments in [&["completions", "bash"][..], &["completions", "zsh"], &["completions", "fish"], &["man"]] {
        let text = String::from_utf8(machine.run(arguments).stdout).unwrap().replace('\\', "");
        for command in commands.iter().filter(|command| *command != "help") {
            assert!(text.contains(command.as_str()), "{command} in {arguments:?}");
        }
    }
}

/// Moves the cursor, as one character too; turns the line; and ends it.
const EVIL: &str = "\u{1b}[2J\u{9b}H\u{202e}\r\n\u{7f}";

#[test]
fn nothing_that_a_server_or_an_extension_says_reaches_a_terminal_or_the_log_as_a_command() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    let mut connection = None;
    let request = json!({"url": format!("{}{EVIL}", server.url()), "profile": EVIL});
    port.open_with(request, || connection = Some(server.accept()));
    let tail = Following::start(&machine, &["tail"]);
    wait_for_observer(&machine);
    let mut connection = connection.unwrap();
    connection.send(format!("text {EVIL}"));
    let mut shown = vec![tail.find("text")];
    let frame = CloseFrame { code: 1011.into(), reason: format!("reason {EVIL}").into() };
    connection.socket.close(Some(frame)).unwrap();
    shown.push(tail.find("reason"));
    for arguments in [
        &["status"][..],
        &["status", "--json"],
        &["sessions"],
        &["sessions", "--json"],
        &["doctor"],
        &["doctor", "--json"],
        &["send", "default", "1", "--profile", EVIL, "--origin", EVIL],
        &["forget", EVIL],
        &["explain", EVIL],
        &["logs"],
    ] {
        let output = machine.run(arguments);
        shown.extend([output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()));
    }
    shown.extend(["daemon", "host"].map(|name| machine.log(name)));
    assert!(shown.iter().any(|text| text.contains("reason")), "{shown:#?}");
    for text in shown {
        let ours = |character: char| character == '\n' || !character.is_control() && character != '\u{202e}';
        assert!(text.chars().all(ours), "{text:?}");
    }
}
