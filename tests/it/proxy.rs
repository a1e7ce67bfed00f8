//! Servers that are reached through a proxy, and proxies that do not let through: from the file and the environment to what the
//! extension, the person and the doctor are told. What a proxy may answer stands in `src/server/tests/proxy.rs`.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Output;

use serde_json::json;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::settings::write_config;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::Server;

/// The credentials of the proxy, and how they are written in HTTP (`printf … | base64`).
const SECRET: &str = "planted-hunter2";
const ENCODED: &str = "cm9vdDpwbGFudGVkLWh1bnRlcjI=";

/// Lets the extension reach the server that is only known to proxies.
fn config(first: &str) -> String {
    format!(
        "{first}\n[origins.\"{ORIGIN}\"]\nallow = [\"wss://server.test/*\", \"ws://server.test/*\"]\nallow_insecure = true\n"
    )
}

/// The header of a request, up to its empty line.
fn header(stream: &mut TcpStream) -> String {
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        header.push(byte[0]);
    }
    String::from_utf8(header).unwrap()
}

/// Takes the next client of an HTTP proxy, and answers what it asks. What follows on the connection is for the server.
fn answer(proxy: &Server, answer: &str) -> (TcpStream, String) {
    let mut stream = proxy.accept_tcp();
    let asked = header(&mut stream);
    stream.write_all(format!("HTTP/1.1 {answer}\r\n\r\n").as_bytes()).unwrap();
    (stream, asked)
}

/// The same for a SOCKS proxy that wants a user name and a password: gives what it was told.
#[cfg(unix)]
fn let_through_socks(proxy: &Server) -> (TcpStream, String) {
    let mut stream = proxy.accept_tcp();
    let mut part = |length: usize, answer: &[u8]| {
        let mut said = vec![0; length];
        stream.read_exact(&mut said).unwrap();
        stream.write_all(answer).unwrap();
        String::from_utf8_lossy(&said).into_owned()
    };
    let greeting = part(4, &[5, 2]);
    let credentials = part(3 + "root".len() + SECRET.len(), &[1, 0]);
    let asked = part(7 + "server.test".len(), &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    (stream, format!("{greeting}{credentials}{asked}"))
}

/// Everything in the files of a machine but those of its configuration.
fn all_files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(all_files(&path));
        } else if path.is_file() && path.file_name().unwrap() != "config.toml" {
            all.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
        }
    }
    all
}

/// Checks that none of these secrets is in any file of the machine but its configuration, nor in what was printed.
pub(crate) fn keeps_secret(machine: &Sandbox, printed: &[Output], secrets: &[&str]) {
    let mut all = all_files(machine.home());
    assert!(all.iter().any(|(name, _)| name.ends_with("daemon.log")), "there is something to search");
    for output in printed {
        all.push(("standard output".to_owned(), output.stdout.clone()));
        all.push(("standard error".to_owned(), output.stderr.clone()));
    }
    for (name, content) in all {
        for secret in secrets {
            let is_there = content.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!is_there, "{secret} is in {name}: {}", String::from_utf8_lossy(&content));
        }
    }
}

#[cfg(unix)]
#[test]
fn a_server_is_spoken_to_through_a_proxy_with_encryption_from_end_to_end_and_the_password_is_left_nowhere() {
    let (pem, tls) = crate::tls::certificate(&["server.test"]);
    for scheme in ["http", "socks5"] {
        let machine = crate::tls::machine_that_trusts(&pem).with("WEBSOCKET_BRIDGE_LOG", "trace");
        let proxy = Server::start();
        let url = format!("{scheme}://root:{SECRET}@{}", proxy.address());
        write_config(&machine, &config(&format!("[defaults]\nproxy = \"{url}\"\n")));
        let mut port = machine.port();
        // A server that went away for everybody would not be tried again for half a minute.
        let soon = json!({"reconnect": {"first_ms": 100, "herd_window_ms": 0}});
        port.post(json!({"type": "open", "url": "wss://server.test/chat", "settings": soon}));
        let (stream, asked) = match scheme {
            "http" => answer(&proxy, "200 Connection established"),
            _ => let_through_socks(&proxy),
        };
        assert!(asked.contains("server.test") && (asked.contains(ENCODED) || asked.contains(SECRET)), "{asked}");
        let stream = rustls::StreamOwned::new(rustls::ServerConnection::new(tls.clone()).unwrap(), stream);
        let mut socket = tungstenite::accept(stream).unwrap();
        socket.send(Message::text("\"through\"")).unwrap();
        assert_eq!(port.wait_for_type("message")["payload"], "through");
        port.post(json!({"type": "send", "payload": "back"}));
        assert_eq!(socket.read().unwrap(), Message::text("\"back\""));
        // Lost, and from then on the proxy is gone too.
        drop((socket, proxy));
        let told = port.wait_for("a reason", |message| message["reason"]["code"] == "proxy-unreachable");
        assert!(told["reason"]["message"].as_str().unwrap().contains(&format!("the proxy {scheme}://127.0.0.1:")));
        let printed = [&["status", "--json"][..], &["doctor", "--json"], &["logs"]].map(|command| machine.run(command));
        let doctor = String::from_utf8_lossy(&printed[1].stdout).into_owned();
        assert!(doctor.contains("server-proxy") && doctor.contains("cannot reach the proxy"), "{doctor}");
        assert!(!told.to_string().contains(SECRET));
        keeps_secret(&machine, &printed, &[SECRET, ENCODED]);
    }
}

#[test]
fn the_environment_names_a_proxy_but_not_for_this_machine() {
    let (proxy, server) = (Server::start(), Server::start());
    let machine = Sandbox::new().with("http_proxy", proxy.address().to_string());
    write_config(&machine, &config(""));
    let mut port = machine.port();
    port.open_with(json!({"session": "here", "url": server.url()}), || drop(server.accept().drain()));
    port.post(json!({"type": "open", "session": "there", "url": "ws://server.test/"}));
    let (stream, asked) = answer(&proxy, "200 OK");
    assert!(asked.starts_with("CONNECT server.test:80 HTTP/1.1\r\n"), "{asked}");
    let mut socket = tungstenite::accept(stream).unwrap();
    socket.send(Message::text("1")).unwrap();
    assert_eq!(port.wait_for_type("message")["session"], "there");
}

#[test]
fn the_file_counts_more_than_the_environment_and_a_session_s_section_more_than_all_sessions() {
    let (wrong, proxy) = (Server::start(), Server::start());
    let machine = Sandbox::new().with("ALL_PROXY", wrong.address().to_string());
    let section = format!("[origins.\"{ORIGIN}\".sessions.own]\nproxy = \"http://{}\"\n", proxy.address());
    write_config(&machine, &(config(&format!("[defaults]\nproxy = \"http://{}\"\n", wrong.address())) + &section));
    let mut port = machine.port();
    port.post(json!({"type": "open", "session": "own", "url": "ws://server.test/"}));
    let (_stream, asked) = answer(&proxy, "200 OK");
    assert!(asked.starts_with("CONNECT server.test:80 "), "{asked}");
}

#[test]
fn a_proxy_that_wants_credentials_parks_the_session_until_the_file_has_them() {
    let (machine, proxy) = (Sandbox::new(), Server::start());
    let with =
        |credentials: &str| config(&format!("[defaults]\nproxy = \"http://{credentials}{}\"\n", proxy.address()));
    write_config(&machine, &with(""));
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": "ws://server.test/"}));
    answer(&proxy, "407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"x\"");
    let told = port.wait_for("parked", |message| message["state"] == "error");
    assert_eq!(
        (&told["reason"]["code"], &told["reason"]["retryable"]),
        (&json!("proxy-auth"), &json!(false)),
        "{told}"
    );
    write_config(&machine, &with(&format!("root:{SECRET}@")));
    port.post(json!({"type": "open", "settings": {"linger_ms": 1000}}));
    let (_stream, asked) = answer(&proxy, "200 OK");
    assert!(asked.contains(&format!("Proxy-Authorization: Basic {ENCODED}\r\n")), "{asked}");
}

#[test]
fn an_extension_may_not_say_how_the_network_is_gone_through() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.welcomed_port();
    for settings in [json!({"proxy": "none"}), json!({"linger_ms": 1, "proxy": {"x": SECRET}})] {
        port.post(json!({"type": "open", "session": "a.b", "url": server.url(), "settings": settings}));
        let error = port.wait_for_type("error");
        assert_eq!(error["code"], "file-only", "{error}");
        let message = error["message"].as_str().unwrap();
        let file = machine.bridge_home().join("config.toml");
        for part in ["`proxy`", &*file.display().to_string(), &format!("[origins.\"{ORIGIN}\".sessions.\"a.b\"]")] {
            assert!(message.contains(part), "{message}");
        }
        assert!(!message.contains(SECRET), "{message}");
    }
}

#[test]
fn the_doctor_shows_the_proxy_as_a_step_of_its_own() {
    let proxy = Server::start();
    let machine = Sandbox::new().with("HTTP_PROXY", format!("http://root:{SECRET}@{}", proxy.address()));
    let examine = |answered: &'static str| {
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (stream, _) = answer(&proxy, answered);
                if let Ok(mut socket) = tungstenite::accept(stream) {
                    while socket.read().is_ok() {}
                }
            });
            machine.run(&["doctor", "--json", "--url", "ws://server.test/"])
        })
    };
    let printed = [examine("200 OK"), examine("403 Forbidden")];
    let findings = printed.each_ref().map(|output| {
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = report["findings"].as_array().unwrap().clone();
        all.into_iter().filter(|finding| finding["check"].as_str().unwrap().starts_with("server-")).collect::<Vec<_>>()
    });
    let steps = findings.each_ref().map(|all| all.iter().map(|f| [&f["check"], &f["status"]]).collect::<Vec<_>>());
    assert_eq!(json!(steps[0]), json!([["server-proxy", "ok"], ["server-upgrade", "ok"], ["server-ping", "ok"]]));
    assert_eq!(json!(steps[1]), json!([["server-proxy", "fail"]]));
    for (finding, part) in [(&findings[0][0], "which looks up its name"), (&findings[1][0], "403 Forbidden")] {
        let evidence = finding["evidence"].as_str().unwrap();
        assert!(evidence.contains(part) && evidence.contains("HTTP_PROXY of the environment"), "{evidence}");
        assert!(evidence.contains("the daemon has the environment of the browser"), "{evidence}");
    }
    for output in printed {
        assert!(!format!("{output:?}").contains(SECRET));
    }
}
