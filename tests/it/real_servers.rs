//! Servers that others have written, and what is put before them: `tests/run servers` has them installed, and what
//! they are told to do is in `tests/servers`.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use crate::settings::write_config;
use crate::support::browser::Browser;
use crate::support::program::Program;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::until;

/// What the servers of `tests/servers` let in.
const SHOWN_ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop";

/// A connection that was lost is soon tried again, as often as it takes.
fn soon() -> Value {
    json!({"first_ms": 100, "max_ms": 300, "burst": 100})
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/servers").join(name)
}

/// A server of `tests/servers` in JavaScript.
fn node(name: &str, argument: &str) -> Program {
    Program::start(|_, port| {
        let mut command = Command::new("node");
        command.arg(script(name)).args([&port.to_string(), argument]);
        command
    })
}

/// A server of `tests/servers` in Python: in Debian's, because it is the one that finds Debian's packages.
fn python(name: &str) -> Program {
    Program::start(|_, port| {
        let mut command = Command::new("/usr/bin/python3");
        command.arg(script(name)).args([&port.to_string(), SHOWN_ORIGIN]);
        command
    })
}

/// nginx before a server, encrypted, and the certificate that it shows, in PEM. It ends what is silent for `idle`.
fn nginx(server: &Program, idle: &str) -> (Program, String) {
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let certificate = certified.cert.pem();
    let program = Program::start(|directory, port| {
        // A directory of its own for everything, because the usual ones are the system's. One process, which leaves
        // none when it is killed.
        let text = format!(
            "daemon off; master_process off; pid pid; error_log stderr; events {{}}\n\
             http {{ access_log off; client_body_temp_path body; proxy_temp_path proxy;\n\
             fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
             server {{ listen 127.0.0.1:{port} ssl; ssl_certificate certificate.pem; ssl_certificate_key key.pem;\n\
             location / {{ proxy_pass http://{}; proxy_http_version 1.1; proxy_read_timeout {idle};\n\
             proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; }} }} }}\n",
            server.address()
        );
        let key = certified.signing_key.serialize_pem();
        for (file, content) in [("nginx.conf", &text), ("certificate.pem", &certificate), ("key.pem", &key)] {
            std::fs::write(directory.join(file), content).unwrap();
        }
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c", "nginx.conf", "-p"]).arg(directory);
        command
    });
    (program, certificate)
}

/// HAProxy before a server. It ends what is silent for `idle`.
fn haproxy(server: &Program, idle: &str) -> Program {
    Program::start(|directory, port| {
        let file = directory.join("haproxy.cfg");
        let text = format!(
            "defaults\n mode http\n retries 0\n timeout connect 5s\n timeout client {idle}\n timeout server {idle}\n \
             timeout tunnel {idle}\nlisten front\n bind 127.0.0.1:{port}\n server back {}\n",
            server.address()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(file);
        command
    })
}

/// Mosquitto, which speaks nothing but MQTT.
fn mosquitto() -> Program {
    Program::start(|directory, port| {
        let file = directory.join("mosquitto.conf");
        // It does not want to start without another place to listen at, nor be `root` unless that is said.
        let text = format!(
            "listener {port} 127.0.0.1\nprotocol websockets\nlistener 0 {}\nallow_anonymous true\nuser root\n",
            directory.join("socket").display()
        );
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("mosquitto");
        command.arg("-c").arg(file);
        command
    })
}

/// A machine whose configuration says where these sessions lead, and whom to believe besides.
fn machine_for(sessions: &[&str], url: &str, authority: Option<&str>) -> Sandbox {
    let machine = Sandbox::new();
    let tls = authority.map_or_else(String::new, |pem| {
        let file = machine.home().join("authority.pem");
        std::fs::write(&file, pem).unwrap();
        format!("tls.ca_file = '{}'\n", file.display())
    });
    let section = |name: &&str| format!("[origins.\"{ORIGIN}\".sessions.{name}]\nurl = \"{url}\"\n{tls}");
    write_config(&machine, &sessions.iter().map(section).collect::<String>());
    machine
}

/// An extension with a session, of whose stream nothing may be missing.
struct Extension {
    port: Browser,
    /// The last number that was read.
    seq: u64,
    /// What stands in the stream and was not read yet.
    stream: VecDeque<String>,
    /// What it was told of the session and has not looked at yet.
    told: VecDeque<Value>,
    /// The last that was heard of each message to the server.
    receipts: BTreeMap<String, Value>,
}

impl Extension {
    /// Opens the session, to read it behind `seq`.
    fn open(machine: &Sandbox, mut request: Value, seq: u64) -> Self {
        let (stream, told, receipts) = (VecDeque::new(), VecDeque::new(), BTreeMap::new());
        let mut extension = Self { port: machine.port(), seq, stream, told, receipts };
        request["type"] = "open".into();
        extension.port.post(request);
        extension
    }

    /// Takes one message from the port.
    fn read(&mut self) {
        let text = self.port.next_text();
        let message: Value = serde_json::from_str(&text).unwrap();
        match message["type"].as_str().unwrap() {
            "message" | "gap" => self.stream.push_back(text),
            "opened" | "state" | "status" | "token-needed" => self.told.push_back(message),
            "receipt" => {
                for id in message["ids"].as_array().unwrap() {
                    self.receipts.insert(id.as_str().unwrap().to_owned(), message.clone());
                }
            }
            "error" if message["code"] == "too-large" => {}
            _ => panic!("{text}"),
        }
    }

    /// What comes next in the stream, as it came. It counts as processed then.
    fn next_text(&mut self) -> String {
        let text = until("more of the stream", || {
            let text = self.stream.pop_front();
            if text.is_none() {
                self.read();
            }
            text
        });
        self.seq += 1;
        assert!(text.contains(&format!(r#","seq":{},"#, self.seq)), "not number {}: {text:.200}", self.seq);
        self.port.post(json!({"type": "ack", "seq": self.seq}));
        text
    }

    /// What comes next in the stream.
    fn next(&mut self) -> Value {
        serde_json::from_str(&self.next_text()).unwrap()
    }

    /// The next in the stream that is `wanted`.
    fn skip_to(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        until("what is wanted", || Some(self.next()).filter(&wanted))
    }

    /// Checks that what comes next in the stream holds these words.
    fn expect(&mut self, words: &str) {
        let text = self.next_text();
        assert!(text.contains(words), "{words:.200} is not in: {text:.200}");
    }

    /// Waits until this stands at this place of what it is told of the session.
    fn wait_for(&mut self, place: &str, wanted: &Value) -> Value {
        until(&format!("{wanted} at {place}"), || {
            while let Some(message) = self.told.pop_front() {
                if message.pointer(place) == Some(wanted) {
                    return Some(message);
                }
            }
            self.read();
            None
        })
    }

    /// Waits until this has become of a message to the server.
    fn wait_for_receipt(&mut self, id: &str, stage: &str) {
        until(&format!("{id} is {stage}"), || {
            let is_so = self.receipts.get(id).is_some_and(|receipt| receipt["stage"] == stage);
            if !is_so {
                self.read();
            }
            is_so.then_some(())
        });
    }

    /// Sends a message that is written as in JSON: what it is, and with what content.
    fn send(&mut self, id: &str, message: &str) {
        self.port.post_bytes(format!(r#"{{"type":"send","id":"{id}",{message}}}"#).as_bytes());
    }

    fn wait_until_connected(&mut self) -> Value {
        self.wait_for("/state", &json!("connected"))
    }

    /// Sends an MQTT packet, which belongs to this connection, and checks what comes back.
    fn exchange(&mut self, packet: &[u8], answer: &[u8]) {
        let binary = BASE64.encode(packet);
        self.port.post(json!({"type": "send", "binary": binary, "resend": false}));
        // One packet may come in several messages.
        let mut came = Vec::new();
        while came.len() < answer.len() {
            came.extend(BASE64.decode(self.next()["binary"].as_str().unwrap()).unwrap());
        }
        assert!(came == answer, "{:02x?} is not {:02x?}", &came[..came.len().min(20)], &answer[..answer.len().min(20)]);
    }

    fn status(&mut self) -> Value {
        self.port.post(json!({"type": "status", "session": "default"}));
        self.wait_for("/type", &json!("status"))["sessions"][0].clone()
    }
}

/// Speaks to a server that gives back what comes, through ends of all kinds: to every one in the same way. While it is
/// away, `away` stands at that place of what the extension is told.
fn converse(machine: &Sandbox, server: &mut Program, greeting: &str, (place, away): (&str, Value)) {
    let request = json!({"settings": {"reconnect": soon()}});
    let mut extension = Extension::open(machine, request.clone(), 0);
    let greeting = format!(r#""text":"{greeting}""#);
    extension.expect(&greeting);

    // All kinds of messages, and among them some that are cut on their way to the extension.
    let large = "é\\\"漢😀".repeat(3_000_000 / 12);
    let bytes = BASE64.encode(Vec::from_iter((0..1_500_000_u32).map(|index| (index % 251) as u8)));
    let mut messages: Vec<_> = (0..200)
        .map(|index| match index % 5 {
            0 => format!(r#""payload":{{"n":12345678901234567890,"a":{index},"a":2,"s":"\u0000\ud83d\ude00"}}"#),
            1 => format!(r#""text":"{index} is not JSON: 漢""#),
            2 => format!(r#""binary":"{}""#, BASE64.encode([0, 255, index])),
            3 => format!(r#""payload":{index}"#),
            _ => r#""text":"""#.to_owned(),
        })
        .collect();
    messages.insert(50, format!(r#""payload":{{"large":"{large}"}}"#));
    messages.insert(100, format!(r#""binary":"{bytes}""#));
    for (index, message) in messages.iter().enumerate() {
        extension.send(&format!("first-{index}"), message);
    }
    messages.iter().for_each(|message| extension.expect(message));
    (0..messages.len()).for_each(|index| extension.wait_for_receipt(&format!("first-{index}"), "received"));
    assert_eq!(extension.status()["answers_pings"], true);

    // More than the server takes in one message.
    extension.send("too-large", &format!(r#""text":"{}""#, "x".repeat(5 << 20)));
    extension.wait_for_receipt("too-large", "refused");
    assert_eq!(extension.receipts["too-large"]["reason"], "too-large");
    extension.expect(r#""reason":"disconnected""#);
    extension.expect(&greeting);

    // The server ends the connection. What asked for that must not do so again.
    extension.send("goodbye", r#""text":"close 4000 enough","resend":false"#);
    let lost = extension.wait_for("/reason/close_code", &json!(4000));
    assert!(lost["reason"]["message"].as_str().unwrap().contains("enough"), "{lost}");
    extension.expect(r#""reason":"disconnected""#);
    extension.expect(&greeting);

    // The server dies, and comes back.
    server.kill();
    extension.wait_for(place, &away);
    extension.send("while-away", r#""payload":"while away""#);
    extension.wait_for_receipt("while-away", "stored");
    server.start_again();
    extension.expect(r#""reason":"disconnected""#);
    extension.expect(&greeting);
    extension.expect(r#""payload":"while away""#);
    extension.wait_for_receipt("while-away", "received");

    // The worker dies, and comes back.
    (0..20).for_each(|index| extension.send(&format!("last-{index}"), &format!(r#""payload":"last {index}""#)));
    extension.expect(r#""payload":"last 0""#);
    let read = extension.seq;
    until("it is known what was read", || (extension.status()["consumers"][0]["acked"] == read).then_some(()));
    drop(extension);
    let mut extension = Extension::open(machine, request, read);
    (1..20).for_each(|index| extension.expect(&format!(r#""payload":"last {index}""#)));
    assert_eq!(extension.status()["reconnections"], 3);
}

/// Checks that what is in front of a server ends connections that are silent, and that a heartbeat keeps one.
fn outlives_silence(machine: &Sandbox) {
    let mut port = machine.port();
    port.open(json!({"session": "kept", "settings": {"heartbeat": {"interval_ms": 200}}}));
    port.open(json!({"session": "lost", "settings": {"reconnect": soon()}}));
    for _ in 0..2 {
        port.wait_for("a loss", |message| message["session"] == "lost" && message["reason"]["code"] == "reset");
    }
    port.post(json!({"type": "status", "session": "kept"}));
    let status = port.wait_for_type("status")["sessions"][0].clone();
    assert_eq!((&status["state"], &status["reconnections"]), (&json!("connected"), &json!(0)));
}

#[test]
#[ignore = "needs the packages of tests/servers: tests/run servers"]
fn a_real_server_in_node_is_spoken_to() {
    let mut server = node("echo-ws.js", SHOWN_ORIGIN);
    let machine = machine_for(&["default"], &format!("ws://{}/", server.address()), None);
    converse(&machine, &mut server, "this is ws", ("/reason/code", json!("refused")));
}

#[test]
#[ignore = "needs Python's websockets: tests/run servers"]
fn a_real_server_in_python_is_spoken_to() {
    let mut server = python("echo-websockets.py");
    let machine = machine_for(&["default"], &format!("ws://{}/", server.address()), None);
    converse(&machine, &mut server, "this is websockets", ("/reason/code", json!("refused")));
}

#[test]
#[ignore = "needs nginx and the packages of tests/servers: tests/run servers"]
fn a_real_server_behind_nginx_with_tls_is_spoken_to() {
    let mut server = node("echo-ws.js", SHOWN_ORIGIN);
    let (front, authority) = nginx(&server, "60s");
    let url = format!("wss://localhost:{}/", front.address().port());
    let machine = machine_for(&["default"], &url, Some(&authority));
    converse(&machine, &mut server, "this is ws", ("/reason/http_status", json!(502)));
}

#[test]
#[ignore = "needs HAProxy and Python's websockets: tests/run servers"]
fn a_real_server_behind_haproxy_is_spoken_to() {
    let mut server = python("echo-websockets.py");
    let front = haproxy(&server, "60s");
    let machine = machine_for(&["default"], &format!("ws://{}/", front.address()), None);
    converse(&machine, &mut server, "this is websockets", ("/reason/http_status", json!(503)));
}

#[test]
#[ignore = "needs nginx and the packages of tests/servers: tests/run servers"]
fn a_real_nginx_that_ends_what_is_silent_is_outlived() {
    let server = node("echo-ws.js", SHOWN_ORIGIN);
    let (front, authority) = nginx(&server, "1s");
    let url = format!("wss://localhost:{}/", front.address().port());
    outlives_silence(&machine_for(&["kept", "lost"], &url, Some(&authority)));
}

#[test]
#[ignore = "needs HAProxy and the packages of tests/servers: tests/run servers"]
fn a_real_haproxy_that_ends_what_is_silent_is_outlived() {
    let server = node("echo-ws.js", SHOWN_ORIGIN);
    let front = haproxy(&server, "1s");
    outlives_silence(&machine_for(&["kept", "lost"], &format!("ws://{}/", front.address()), None));
}

/// A packet of MQTT: its kind, and what follows the length.
fn packet(kind: u8, body: &[u8]) -> Vec<u8> {
    let (mut packet, mut length) = (vec![kind], body.len());
    while length >= 128 {
        packet.push((length % 128) as u8 | 128);
        length /= 128;
    }
    packet.push(length as u8);
    [&packet, body].concat()
}

#[test]
#[ignore = "needs Mosquitto: tests/run servers"]
fn a_real_mqtt_broker_is_spoken_to_in_its_sub_protocol_and_in_binary() {
    let mut server = mosquitto();
    let machine = Sandbox::new();
    let url = format!("ws://{}/mqtt", server.address());
    let request = json!({"url": url, "protocols": ["mqtt"], "settings": {"reconnect": soon()}});
    let mut extension = Extension::open(&machine, request, 0);
    let small = packet(0x30, b"\x00\x05topic\x00\xff is not UTF-8");
    let large = packet(0x30, &[b"\x00\x05topic", &*vec![7; 20_000]].concat());
    for life in 0..2 {
        assert_eq!(extension.wait_until_connected()["protocol"], "mqtt");
        if life == 1 {
            extension.expect(r#""reason":"disconnected""#);
        }
        extension.exchange(&packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02it"), &packet(0x20, &[0, 0]));
        extension.exchange(&packet(0x82, b"\x00\x01\x00\x05topic\x00"), &packet(0x90, &[0, 1, 0]));
        extension.exchange(&small, &small);
        extension.exchange(&large, &large);
        if life == 0 {
            server.kill();
            extension.wait_for("/reason/code", &json!("refused"));
            server.start_again();
        }
    }
}

#[test]
#[ignore = "needs the packages of tests/servers: tests/run servers"]
fn a_real_graphql_server_is_spoken_to_with_the_preset_of_its_protocol() {
    let mut server = node("graphql.js", "a-good-token");
    let machine = Sandbox::new();
    let url = format!("ws://{}/", server.address());
    let settings = json!({
        "dialect": {"preset": "graphql-transport-ws"},
        "auth": {"send": {"type": "connection_init", "payload": {"token": "{token}"}}},
        "heartbeat": {"interval_ms": 100},
        "reconnect": soon(),
    });
    let request = json!({"url": url, "protocols": ["graphql-transport-ws"], "settings": settings});
    let mut extension = Extension::open(&machine, request, 0);
    for (reason, token) in [("missing", "another-token"), ("refused", "a-good-token")] {
        assert_eq!(extension.wait_for("/type", &json!("token-needed"))["reason"], reason);
        extension.port.post(json!({"type": "token", "token": token}));
    }
    let subscription = json!({"id": "numbers", "type": "subscribe", "payload": {"query": "subscription { count }"}});
    extension.port.post(json!({"type": "subscribe", "key": "numbers", "payload": subscription}));
    let number = |count| json!({"id": "numbers", "type": "next", "payload": {"data": {"count": count}}});
    let acknowledged = json!({"type": "connection_ack"});
    extension.skip_to(|message| message["payload"] == acknowledged);
    // They take longer than some heartbeats, and whatever is said for those is not among them.
    (1..=20).for_each(|count| assert_eq!(extension.next()["payload"], number(count)));

    server.kill();
    extension.wait_for("/reason/code", &json!("refused"));
    server.start_again();
    extension.skip_to(|message| message["reason"] == "disconnected");
    assert_eq!(extension.next()["payload"], acknowledged);
    (1..=20).for_each(|count| assert_eq!(extension.next()["payload"], number(count)));

    extension.port.post(json!({"type": "unsubscribe", "key": "numbers"}));
    let question = json!({"id": "question", "type": "subscribe", "payload": {"query": "{ counting }"}});
    until("nobody counts any more", || {
        extension.port.post(json!({"type": "send", "payload": question}));
        let answer = extension.skip_to(|message| message["payload"]["id"] == "question");
        extension.skip_to(|message| message["payload"] == json!({"id": "question", "type": "complete"}));
        (answer["payload"]["payload"]["data"]["counting"] == 0).then_some(())
    });
}
