//! Proxies that others have written, between the bridge and a server: `tests/run servers` has them installed.
//!
//! The server is on this machine, and named by an address that is not one of loopback: nobody would go to that one through a
//! proxy.

use std::net::TcpListener;
use std::process::Command;

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::proxy::keeps_secret;
use crate::settings::write_config;
use crate::support::program::Program;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::Server;
use crate::tls::{certificate, machine_that_trusts};

const SECRET: &str = "planted-hunter2";

/// An HTTP proxy, with these lines of configuration besides.
fn tinyproxy(lines: &str) -> Program {
    Program::start(|directory, port| {
        let file = directory.join("tinyproxy.conf");
        let text = format!("Port {port}\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nLogLevel Critical\n{lines}\n");
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new("tinyproxy");
        command.args(["-d".as_ref(), "-c".as_ref(), file.as_os_str()]);
        command
    })
}

/// A SOCKS proxy, with these arguments besides.
fn microsocks(arguments: &[&str]) -> Program {
    Program::start(|_, port| {
        let mut command = Command::new("microsocks");
        command.args(["-i", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
        command
    })
}

/// A proxy as the configuration names it.
fn named(proxy: &Program, scheme: &str, credentials: &str) -> String {
    format!("{scheme}://{credentials}{}", proxy.address())
}

/// The server as nobody on this machine would name it.
fn url(server: &Server) -> String {
    format!("wss://0.0.0.0:{}/", server.address().port())
}

/// Has all sessions go through a proxy.
fn go_through(machine: &Sandbox, proxy: &str, server: &str) {
    let rule = format!("[origins.\"{ORIGIN}\"]\nallow = [\"{server}*\"]\n");
    write_config(machine, &format!("[defaults]\nproxy = \"{proxy}\"\n{rule}"));
}

/// Checks that a server is spoken to through a proxy, encrypted.
fn leads_there(proxy: &str) {
    let (pem, tls) = certificate(&["0.0.0.0"]);
    let (machine, server) = (machine_that_trusts(&pem).with("WEBSOCKET_BRIDGE_LOG", "trace"), Server::start());
    go_through(&machine, proxy, &url(&server));
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": url(&server)}));
    let stream = rustls::StreamOwned::new(rustls::ServerConnection::new(tls).unwrap(), server.accept_tcp());
    let mut socket = tungstenite::accept(stream).unwrap();
    // More than a buffer on the way holds.
    let much = "x".repeat(100_000);
    for seq in 1..=30 {
        socket.send(Message::text(format!("\"{much}\""))).unwrap();
        let message = port.wait_for_type("message");
        assert!(message["seq"] == seq && message["payload"] == much);
    }
    port.post(json!({"type": "send", "payload": "back"}));
    assert_eq!(socket.read().unwrap(), Message::text("\"back\""));
    let printed = [&["status", "--json"][..], &["logs"]].map(|command| machine.run(command));
    keeps_secret(&machine, &printed, &[SECRET]);
}

/// Why a server is not reached through a proxy.
fn fails(proxy: &str, server: &str, code: &str, part: &str) {
    let machine = Sandbox::new();
    go_through(&machine, proxy, server);
    let mut port = machine.port();
    port.post(json!({"type": "open", "url": server}));
    let told: Value = port.wait_for("a reason", |message| message["reason"].is_object());
    assert_eq!(told["reason"]["code"], code, "{told}");
    assert!(told["reason"]["message"].as_str().unwrap().contains(part), "{told}");
    let printed = [&["status", "--json"][..], &["logs"]].map(|command| machine.run(command));
    keeps_secret(&machine, &printed, &[SECRET]);
}

#[test]
#[ignore = "needs tinyproxy: tests/run servers"]
fn a_real_http_proxy_leads_there_with_and_without_credentials() {
    leads_there(&named(&tinyproxy(""), "http", ""));
    let proxy = tinyproxy(&format!("BasicAuth root {SECRET}"));
    leads_there(&named(&proxy, "http", &format!("root:{SECRET}@")));
}

#[test]
#[ignore = "needs tinyproxy: tests/run servers"]
fn a_real_http_proxy_that_does_not_lead_there_is_told_in_its_own_terms() {
    let server = Server::start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("wss://0.0.0.0:{closed}/");
    let proxy = tinyproxy(&format!("BasicAuth root {SECRET}"));
    fails(&named(&proxy, "http", ""), &url(&server), "proxy-auth", "wants a user name and a password");
    let wrong = named(&proxy, "http", "root:planted-hunter3@");
    fails(&wrong, &url(&server), "proxy-auth", "does not take the user name and password");
    fails(&named(&proxy, "http", &format!("root:{SECRET}@")), &closed, "proxy-failed", "does not reach the server");
    let strict = tinyproxy("ConnectPort 443");
    fails(&named(&strict, "http", ""), &url(&server), "proxy-refused", "let only port 443 through");
    let gone = named(&proxy, "http", &format!("root:{SECRET}@"));
    drop(proxy);
    fails(&gone, &url(&server), "proxy-unreachable", "cannot reach the proxy");
}

#[test]
#[ignore = "needs microsocks: tests/run servers"]
fn a_real_socks_proxy_leads_there_with_and_without_credentials() {
    leads_there(&named(&microsocks(&[]), "socks5", ""));
    let proxy = microsocks(&["-u", "root", "-P", SECRET]);
    leads_there(&named(&proxy, "socks5h", &format!("root:{SECRET}@")));
}

#[test]
#[ignore = "needs microsocks: tests/run servers"]
fn a_real_socks_proxy_that_does_not_lead_there_is_told_in_its_own_terms() {
    let server = Server::start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("wss://0.0.0.0:{closed}/");
    let proxy = microsocks(&["-u", "root", "-P", SECRET]);
    fails(&named(&proxy, "socks5", ""), &url(&server), "proxy-auth", "wants a user name and a password");
    let wrong = named(&proxy, "socks5", "root:planted-hunter3@");
    fails(&wrong, &url(&server), "proxy-auth", "does not take the user name and password");
    let right = named(&proxy, "socks5", &format!("root:{SECRET}@"));
    fails(&right, &closed, "proxy-failed", "nothing listens at that port of the server (SOCKS reply 5)");
    fails(&named(&proxy, "http", ""), &url(&server), "proxy-failed", "through the proxy http://");
}
