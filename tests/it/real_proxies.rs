//! Proxies that others have written, between the bridge and a server: `tests/run servers` has them installed.
//!
//! The server is on this machine, and named by an address that is not one of loopback: nobody would go to that one through a
//! proxy.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::{self, Message};

use crate::proxy::keeps_secret;
use crate::settings::write_config;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::Server;
use crate::support::until;
use crate::tls::{certificate, machine_that_trusts};

const SECRET: &str = "planted-hunter2";

/// A proxy that runs, until it is dropped.
struct Running {
    program: Child,
    address: SocketAddr,
    _directory: tempfile::TempDir,
}

impl Running {
    /// Starts one at a port that was free just now, with what `command` makes of a directory and that port.
    fn start(command: impl FnOnce(&std::path::Path, u16) -> Command) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = command(directory.path(), address.port());
        let program = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let program = program.unwrap_or_else(|error| panic!("{command:?}: {error}; tests/run servers installs it"));
        let running = Self { program, address, _directory: directory };
        until("the proxy listens", || TcpStream::connect(address).ok());
        running
    }

    /// An HTTP proxy, with these lines of configuration besides.
    fn tinyproxy(lines: &str) -> Self {
        Self::start(|directory, port| {
            let file = directory.join("tinyproxy.conf");
            let text =
                format!("Port {port}\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nLogLevel Critical\n{lines}\n");
            std::fs::write(&file, text).unwrap();
            let mut command = Command::new("tinyproxy");
            command.args(["-d".as_ref(), "-c".as_ref(), file.as_os_str()]);
            command
        })
    }

    /// A SOCKS proxy, with these arguments besides.
    fn microsocks(arguments: &[&str]) -> Self {
        Self::start(|_, port| {
            let mut command = Command::new("microsocks");
            command.args(["-i", "127.0.0.1", "-p", &port.to_string()]).args(arguments);
            command
        })
    }

    fn url(&self, scheme: &str, credentials: &str) -> String {
        format!("{scheme}://{credentials}{}", self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
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
    leads_there(&Running::tinyproxy("").url("http", ""));
    let proxy = Running::tinyproxy(&format!("BasicAuth root {SECRET}"));
    leads_there(&proxy.url("http", &format!("root:{SECRET}@")));
}

#[test]
#[ignore = "needs tinyproxy: tests/run servers"]
fn a_real_http_proxy_that_does_not_lead_there_is_told_in_its_own_terms() {
    let server = Server::start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("wss://0.0.0.0:{closed}/");
    let proxy = Running::tinyproxy(&format!("BasicAuth root {SECRET}"));
    fails(&proxy.url("http", ""), &url(&server), "proxy-auth", "wants a user name and a password");
    let wrong = proxy.url("http", "root:planted-hunter3@");
    fails(&wrong, &url(&server), "proxy-auth", "does not take the user name and password");
    fails(&proxy.url("http", &format!("root:{SECRET}@")), &closed, "proxy-failed", "does not reach the server");
    let strict = Running::tinyproxy("ConnectPort 443");
    fails(&strict.url("http", ""), &url(&server), "proxy-refused", "let only port 443 through");
    let gone = proxy.url("http", &format!("root:{SECRET}@"));
    drop(proxy);
    fails(&gone, &url(&server), "proxy-unreachable", "cannot reach the proxy");
}

#[test]
#[ignore = "needs microsocks: tests/run servers"]
fn a_real_socks_proxy_leads_there_with_and_without_credentials() {
    leads_there(&Running::microsocks(&[]).url("socks5", ""));
    let proxy = Running::microsocks(&["-u", "root", "-P", SECRET]);
    leads_there(&proxy.url("socks5h", &format!("root:{SECRET}@")));
}

#[test]
#[ignore = "needs microsocks: tests/run servers"]
fn a_real_socks_proxy_that_does_not_lead_there_is_told_in_its_own_terms() {
    let server = Server::start();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let closed = format!("wss://0.0.0.0:{closed}/");
    let proxy = Running::microsocks(&["-u", "root", "-P", SECRET]);
    fails(&proxy.url("socks5", ""), &url(&server), "proxy-auth", "wants a user name and a password");
    let wrong = proxy.url("socks5", "root:planted-hunter3@");
    fails(&wrong, &url(&server), "proxy-auth", "does not take the user name and password");
    let right = proxy.url("socks5", &format!("root:{SECRET}@"));
    fails(&right, &closed, "proxy-failed", "nothing listens at that port of the server (SOCKS reply 5)");
    fails(&proxy.url("http", ""), &url(&server), "proxy-failed", "through the proxy http://");
}
