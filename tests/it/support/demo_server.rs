//! The demo's server as a program beside the one that is tested.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::sandbox::Sandbox;

/// The demo's server, as a person starts it.
pub(crate) struct DemoServer {
    child: Child,
    address: String,
    token: String,
}

impl DemoServer {
    pub(crate) fn start(machine: &Sandbox) -> Self {
        let mut command = machine.command();
        command.args(["demo-server", "--port", "0"]).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let mut value = |name: &str| {
            let line = lines.find(|line| line.starts_with(name)).unwrap();
            line[name.len()..].trim().to_owned()
        };
        let url = value("WebSocket");
        let address = url.trim_start_matches("ws://").trim_end_matches("/ws").to_owned();
        Self { child, address, token: value("control token") }
    }

    /// Where a WebSocket is.
    pub(crate) fn url(&self) -> String {
        // With a name, so that a resume finds what it was subscribed to.
        format!("ws://{}/ws?client=it", self.address)
    }

    /// Where what is said about a topic can be had by HTTP, as `events` or `poll`.
    pub(crate) fn fallback(&self, way: &str, topic: &str) -> String {
        format!("http://{}/{way}?topics={topic}&cursor={{cursor}}", self.address)
    }

    pub(crate) fn post(&self, path: &str, body: &Value) {
        let (address, token, body) = (&self.address, &self.token, body.to_string());
        let mut stream = TcpStream::connect(address).unwrap();
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {address}\r\nx-demo-token: {token}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 20"), "{path}: {answer}");
    }

    pub(crate) fn publish(&self, topic: &str, number: u32) {
        let message = json!({"type": "counted", "number": number});
        self.post("/control/publish", &json!({"topic": topic, "message": message}));
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
