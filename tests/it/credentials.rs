//! Credentials of the extension, shown by the real program to servers that look at them.

use std::path::Path;

use serde_json::{Value, json};

use crate::proxy::keeps_secret;
use crate::settings::write_config;
use crate::support::browser::Browser;
use crate::support::demo_server::DemoServer;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::Server;

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

/// The section of a session of [`ORIGIN`] with this URL and these lines.
pub(crate) fn section(session: &str, url: &str, lines: &str) -> String {
    format!("[origins.\"{ORIGIN}\".sessions.{session}]\nurl = \"{url}\"\n{lines}\n")
}

/// What the file says of a credential that a program prints.
fn printed_by_a_program(text: &str) -> String {
    let words = if cfg!(windows) { json!(["cmd", "/C", "echo", text]) } else { json!(["echo", text]) };
    format!("auth = {{ via = \"header\", source = \"command\", command = {words} }}")
}

/// A machine on which session `bound` has the secret of the environment for the server.
fn bound_machine(server: &Server) -> Sandbox {
    let machine = Sandbox::new().with("BRIDGE_TOKEN", SECRET).with("WEBSOCKET_BRIDGE_LOG", "trace");
    let auth = "auth = { via = \"header\", source = \"env:BRIDGE_TOKEN\" }\nreconnect.first_ms = 100";
    write_config(&machine, &section("bound", &format!("{}own", server.url()), auth));
    machine
}

/// The next request that a server gets, as text, and nothing is answered.
pub(crate) fn request_at(server: &Server) -> String {
    let request = server.accept().request;
    format!("{} {:?}", request.uri(), request.headers())
}

/// Why an `open` of session `bound` is refused.
fn refusal(port: &mut Browser, mut request: Value) -> Value {
    for (name, value) in [("type", "open"), ("session", "bound"), ("ref", "r")] {
        request[name] = value.into();
    }
    port.post(request);
    let error = port.wait_for("a refusal", |message| message["ref"] == "r");
    assert_eq!(error["type"], "error", "{error}");
    error
}

#[test]
fn a_secret_of_the_machine_is_shown_to_its_server_and_found_nowhere() {
    let server = Server::start();
    let machine = Sandbox::new().with("BRIDGE_TOKEN", SECRET).with("WEBSOCKET_BRIDGE_LOG", "trace");
    let of_variable = "auth = { via = \"header\", source = \"env:BRIDGE_TOKEN\" }";
    // The file has that one, as whoever writes it there knows.
    let echo = machine.home().join("elsewhere");
    std::fs::write(&echo, "printed-7f3a").unwrap();
    let by_program = match cfg!(windows) {
        true => json!(["cmd", "/C", "type", echo]),
        false => json!(["cat", echo]),
    };
    let of_program = format!("auth = {{ via = \"query\", source = \"command\", command = {by_program} }}");
    let own = format!("{}own", server.url());
    write_config(&machine, &(section("a", &own, of_variable) + &section("b", &own, &of_program)));
    let mut port = machine.port();
    for (session, secret) in [("a", format!("Bearer {SECRET}")), ("b", "?token=printed-7f3a".to_owned())] {
        port.post(json!({"type": "open", "session": session}));
        let request = request_at(&server);
        assert!(request.contains(&secret) && request.starts_with("/own"), "{request}");
        port.wait_for("it", |message| message["session"] == session && message["state"] == "connected");
        port.post(json!({"type": "status", "session": session}));
        let status = port.wait_for_type("status").to_string();
        for hidden in [SECRET, "printed-7f3a", "BRIDGE_TOKEN", "elsewhere"] {
            assert!(!status.contains(hidden), "{status}");
        }
    }
    let commands = [&["status", "--json"][..], &["sessions"], &["logs"], &["doctor", "--json"], &["stop"]];
    let printed = commands.map(|arguments| machine.run(arguments));
    std::fs::remove_file(&echo).unwrap();
    keeps_secret(&machine, &printed, &[SECRET, "printed-7f3a"]);
}

#[test]
fn a_secret_that_the_machine_does_not_have_parks_and_says_what_to_do() {
    let server = Server::start();
    let machine = Sandbox::new();
    let url = server.url();
    let missing = "auth = { via = \"header\", source = \"env:BRIDGE_TOKEN\" }";
    let broken = "auth = { via = \"header\", source = \"command\", command = [\"no-such-program-4711\"] }";
    write_config(&machine, &(section("a", &url, missing) + &section("b", &url, broken)));
    let mut port = machine.port();
    for (session, said) in [("a", "no environment variable `BRIDGE_TOKEN`"), ("b", "`no-such-program-4711`")] {
        port.post(json!({"type": "open", "session": session}));
        let parked = port.wait_for("parked", |message| message["session"] == session && message["state"] == "error");
        assert_eq!(parked["reason"]["code"], "token-needed", "{parked}");
        assert!(parked["reason"]["message"].as_str().unwrap().contains(said), "{parked}");
        port.post(json!({"type": "token", "session": session, "token": "mine"}));
        assert_eq!(port.wait_for_type("error")["code"], "file-only", "the extension is not asked, and not heard");
    }
    // The file says another thing now; the next `open` of any session finds out.
    let mended = section("a", &url, &printed_by_a_program("printed-2c"));
    write_config(&machine, &(mended + &section("b", &url, broken)));
    port.post(json!({"type": "open", "session": "b"}));
    let request = request_at(&server);
    assert!(request.contains("Bearer printed-2c"), "{request}");
}

#[test]
fn the_secret_of_one_server_is_not_sent_to_another_by_a_url() {
    let (server, other) = (Server::start(), Server::start());
    let machine = bound_machine(&server);
    for mode in ["durable", "memory", "direct"] {
        let mut port = machine.port();
        for url in [other.url(), format!("{}elsewhere", server.url()), format!("{}own?x", server.url())] {
            let error = refusal(&mut port, json!({"mode": mode, "url": url}));
            assert_eq!(error["code"], "file-only", "{error}");
            let message = error["message"].as_str().unwrap();
            assert!(message.contains("leave `url` out") && message.contains("config.toml"), "{error}");
        }
    }
}

#[test]
fn nor_by_a_way_to_show_it_or_a_template_of_whatever_place() {
    let server = Server::start();
    let machine = bound_machine(&server);
    let mut port = machine.port();
    let hidden = json!({"x": ["{token}"]});
    for (settings, said) in [
        (json!({"auth": {"via": "query"}}), "auth.via"),
        (json!({"auth": {"via": "message", "send": {"say": "{token}"}}}), "auth."),
        (json!({"auth": {"via": "header", "send": "{token}"}}), "auth."),
        (json!({"heartbeat": {"send": hidden}}), "heartbeat.send"),
        (json!({"dialect": {"answer": {"when": {"a": 1}, "send": hidden}}}), "dialect.answer.send"),
    ] {
        let error = refusal(&mut port, json!({"settings": settings}));
        assert_eq!(error["code"], "file-only", "{error}");
        let message = error["message"].as_str().unwrap();
        assert!(
            message.contains(said) && message.contains("config.toml") && message.contains("sessions.bound"),
            "{error}"
        );
    }
    // These have no blank for it, for nobody.
    for dialect in [
        json!({"subscribe": ["{key}", "{token}"]}),
        json!({"unsubscribe": ["{key}", "{token}"]}),
        json!({"resume": {"cursor": "/c", "send": ["{cursor}", "{token}"]}}),
    ] {
        let error = refusal(&mut port, json!({"settings": {"dialect": dialect}}));
        assert_eq!(error["code"], "invalid-message", "{error}");
    }
    for source in
        [json!({"source": "env:BRIDGE_TOKEN"}), json!({"via": "query", "source": "command", "command": ["id"]})]
    {
        let error = refusal(&mut port, json!({"settings": {"auth": source}}));
        assert_eq!(error["code"], "file-only", "{error}");
        port.post(json!({"type": "open", "session": "free", "url": server.url(), "settings": {"auth": source}}));
        assert_eq!(port.wait_for_type("error")["code"], "file-only", "in no session");
    }
}

#[test]
fn nor_by_a_preset_a_subprotocol_or_a_payload() {
    let server = Server::start();
    let machine = bound_machine(&server);
    let mut port = machine.port();
    let error = refusal(&mut port, json!({"protocols": ["{token}"]}));
    assert_eq!(error["code"], "invalid-message", "{error}");
    // A preset says how a credential is shown, which does not count here.
    let settings = json!({"dialect": {"preset": "graphql-transport-ws"}});
    port.post(json!({"type": "open", "session": "bound", "protocols": ["token"], "settings": settings}));
    port.post(json!({"type": "subscribe", "session": "bound", "key": "{token}", "payload": {"key": "{token}"}}));
    port.post(json!({"type": "send", "session": "bound", "payload": "{token}"}));
    let mut connection = server.accept_with(Some("token"));
    let headers = connection.request.headers();
    assert_eq!(headers["authorization"], format!("Bearer {SECRET}"));
    assert_eq!(headers["sec-websocket-protocol"], "token");
    assert_eq!(connection.request.uri(), "/own");
    assert_eq!(connection.next().to_text().unwrap(), r#"{"key":"{token}"}"#, "as it was posted");
    assert_eq!(connection.next().to_text().unwrap(), r#""{token}""#);
}

#[test]
fn nor_by_a_fallback_or_a_proxy() {
    let (server, other) = (Server::start(), Server::start());
    let machine = bound_machine(&server);
    let mut port = machine.port();
    let url = other.url().replace("ws", "http");
    for (settings, code) in [
        (json!({"proxy": url}), "file-only"),
        (json!({"headers": {"X": "{token}"}}), "file-only"),
        (json!({"tls": {"ca_file": "/x"}}), "file-only"),
        (json!({"allow": [other.url()]}), "invalid-message"),
        (json!({"fallback": {"poll_url": url, "after_attempts": 1}}), "file-only"),
        (json!({"fallback": {"poll_url": server.url().replace("ws", "http")}}), "file-only"),
        (json!({"fallback": {"sse_url": url, "post_url": url}}), "file-only"),
    ] {
        assert_eq!(refusal(&mut port, json!({"settings": settings}))["code"], code, "{settings}");
    }
}

#[test]
fn nor_does_a_fallback_of_the_file_with_another_server_hear_it() {
    let (server, other) = (Server::start(), Server::start());
    let machine = Sandbox::new().with("BRIDGE_TOKEN", SECRET);
    let http = |server: &Server| server.url().replace("ws", "http");
    let lines = |fallback: &str| {
        format!(
            "auth = {{ via = \"header\", source = \"env:BRIDGE_TOKEN\" }}\nreconnect = {{ first_ms = 100, herd_window_ms = 0 }}\n\
             fallback = {{ poll_url = \"{fallback}poll\", after_attempts = 1 }}"
        )
    };
    let sections =
        section("own", &server.url(), &lines(&http(&server))) + &section("far", &server.url(), &lines(&http(&other)));
    write_config(&machine, &sections);
    let mut port = machine.port();
    for (session, polled, hears) in [("own", &server, true), ("far", &other, false)] {
        port.post(json!({"type": "open", "session": session}));
        assert!(read_head(&mut server.accept_tcp()).contains(SECRET));
        let head = read_head(&mut polled.accept_tcp());
        assert!(head.starts_with("GET /poll"), "{head}");
        assert_eq!(head.contains(SECRET), hears, "{head}");
        port.post(json!({"type": "close", "session": session}));
        port.wait_for("closed", |message| message["session"] == session && message["state"] == "disconnected");
    }
}

#[test]
fn nor_by_a_redirect_of_the_server() {
    let (server, other) = (Server::start(), Server::start());
    let machine = bound_machine(&server);
    let mut port = machine.port();
    port.post(json!({"type": "open", "session": "bound"}));
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let mut stream = server.accept_tcp();
        let asked = read_head(&mut stream);
        assert!(asked.contains(SECRET), "{asked}");
        let answer = format!("HTTP/1.1 {status}\r\nLocation: {}\r\nContent-Length: 0\r\n\r\n", other.url());
        std::io::Write::write_all(&mut stream, answer.as_bytes()).unwrap();
        let lost = port.wait_for("the loss", |message| message["reason"]["http_status"].is_u64());
        assert_eq!(lost["reason"]["http_status"].to_string(), status[..3]);
    }
    other.is_left_alone();
}

#[test]
fn nor_by_another_extension_or_another_session() {
    let (server, other) = (Server::start(), Server::start());
    let machine = bound_machine(&server);
    let own = format!("{}own", server.url());
    let mut stranger = machine.port_of("chrome-extension://ponmlkjihgfedcbaponmlkjihgfedcba/");
    let mut sibling = machine.port();
    for (port, session) in [(&mut stranger, "bound"), (&mut sibling, "free")] {
        for (server, url) in [(&server, &own), (&other, &other.url())] {
            for settings in [json!({}), json!({"auth": {"via": "query"}})] {
                let shows = settings != json!({});
                port.post(json!({"type": "open", "session": session, "url": url, "settings": settings}));
                if shows {
                    assert_eq!(port.wait_for_type("token-needed")["reason"], "missing", "it has none");
                } else {
                    let request = request_at(server);
                    assert!(!request.contains(SECRET), "{request}");
                }
                port.post(json!({"type": "close", "session": session, "forget": true}));
                port.wait_for("its end", |message| message["type"] == "opened" && message["head"] == 0);
            }
        }
    }
}

#[test]
fn nor_by_settings_that_were_given_before_the_file_had_it() {
    let (server, other) = (Server::start(), Server::start());
    let machine = Sandbox::new().with("BRIDGE_TOKEN", SECRET);
    let mut port = machine.port();
    let settings = json!({"auth": {"via": "query", "name": "stolen"}, "reconnect": {"first_ms": 100}});
    for (session, server) in [("bound", &server), ("moved", &other)] {
        let url = format!("{}before", server.url());
        port.post(json!({"type": "open", "session": session, "url": url, "settings": settings}));
        port.wait_for_type("token-needed");
        port.post(json!({"type": "token", "session": session, "token": "mine"}));
        assert!(request_at(server).contains("stolen=mine"));
    }
    let auth = "auth = { via = \"header\", source = \"env:BRIDGE_TOKEN\" }";
    let own = format!("{}own", server.url());
    write_config(&machine, &(section("bound", &own, auth) + &section("moved", &own, auth)));
    // It was opened for another server: it has nothing any more.
    port.wait_for("parked", |message| message["session"] == "moved" && message["reason"]["code"] == "not-allowed");
    // The attempt that finds the file changed still has what the extension gave.
    let request =
        [request_at(&server), request_at(&server)].into_iter().find(|request| request.contains(SECRET)).unwrap();
    assert!(request.starts_with("/own ") && request.contains(&format!("Bearer {SECRET}")), "{request}");
    assert!(!request.contains("stolen") && !request.contains("mine"), "{request}");
    let error = refusal(&mut port, json!({"settings": settings}));
    assert_eq!(error["code"], "file-only", "{error}");
    other.is_left_alone();
}

#[test]
fn nor_does_a_token_of_the_extension_take_its_place() {
    let server = Server::start();
    let machine = bound_machine(&server);
    let mut port = machine.port();
    port.post(json!({"type": "open", "session": "bound"}));
    port.post(json!({"type": "token", "session": "bound", "token": "mine", "ref": "t"}));
    let error = port.wait_for("a refusal", |message| message["ref"] == "t");
    assert_eq!(error["code"], "file-only", "{error}");
    for _ in 0..2 {
        let request = request_at(&server);
        assert!(request.contains(SECRET) && !request.contains("mine"), "{request}");
    }
}

/// On other systems there is a keyring whatever the environment says, and it is the person's own.
#[cfg(target_os = "linux")]
#[test]
fn without_a_keyring_the_session_tries_again_and_says_so_and_a_person_is_told_too() {
    let server = Server::start();
    let machine = Sandbox::new().with("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nobody/listens/here");
    write_config(&machine, &section("bound", &server.url(), "auth = { via = \"header\", source = \"keyring\" }"));
    let mut port = machine.port();
    port.post(json!({"type": "open", "session": "bound"}));
    let told = port.wait_for("why", |message| message["type"] == "state" && message["reason"].is_object());
    assert_eq!((&told["state"], &told["reason"]["code"]), (&json!("reconnecting"), &json!("token-failed")), "{told}");
    assert!(told["reason"]["message"].as_str().unwrap().contains("no keyring answers here"), "{told}");
    for what in ["set", "clear"] {
        let output = token_command(&machine, &[what, ORIGIN, "bound"], SECRET);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("no keyring answers here") && !said.contains(SECRET), "{said}");
    }
}

#[test]
fn what_is_no_token_or_nobodys_is_wrong_usage_and_is_not_repeated() {
    let machine = Sandbox::new();
    for (arguments, input) in [
        (&["set", ORIGIN, "bound"][..], "hush\nhush"),
        (&["set", ORIGIN, "bound"], ""),
        (&["set", ORIGIN, "bound", "hush"], "x"),
        (&["set", "nobody", "bound"], "hush"),
        (&["set", ORIGIN, "no name"], "hush"),
        (&["clear", ORIGIN], ""),
    ] {
        let output = token_command(&machine, arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(output.stdout.is_empty() && !said.contains("hush") || arguments.len() > 3, "{said}");
    }
}

/// Runs `websocket-bridge token` and says this to its standard input.
fn token_command(machine: &Sandbox, arguments: &[&str], input: &str) -> std::process::Output {
    let mut command = machine.command();
    command.arg("token").args(arguments);
    let piped = std::process::Stdio::piped;
    let mut child = crate::support::start(|| command.stdin(piped()).stdout(piped()).stderr(piped()).spawn());
    // It may have ended without reading.
    let _ = std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes());
    child.wait_with_output().unwrap()
}

/// The head of a request.
pub(crate) fn read_head(stream: &mut impl std::io::Read) -> String {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
