//! A WebSocket server that does what the test says: a second implementation of nothing of ours.

use std::net::{SocketAddr, TcpListener, TcpStream};

use tokio_tungstenite::tungstenite::handshake::server::{Request, Response};
use tokio_tungstenite::tungstenite::http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, WebSocket, accept_hdr_with_config};

use super::DEADLINE;

/// Listens on a free port of this machine.
pub(crate) struct Server {
    listener: TcpListener,
}

/// One client.
pub(crate) struct Connection {
    pub(crate) socket: WebSocket<TcpStream>,
    /// What the client asked for.
    pub(crate) request: Request,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").unwrap() }
    }

    /// The same port again, after a server on it was dropped.
    pub(crate) fn restart(address: SocketAddr) -> Self {
        Self { listener: super::until("the port is free", || TcpListener::bind(address).ok()) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/", self.address())
    }

    /// Takes the next TCP connection as it is.
    pub(crate) fn accept_tcp(&self) -> TcpStream {
        self.listener.set_nonblocking(true).unwrap();
        let (stream, _) = super::until("a client connects", || self.listener.accept().ok());
        stream.set_nonblocking(false).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    /// Nobody has called since the last client.
    pub(crate) fn is_left_alone(&self) {
        self.listener.set_nonblocking(true).unwrap();
        assert!(self.listener.accept().is_err(), "somebody calls {}", self.address());
    }

    /// Takes the next client.
    pub(crate) fn accept(&self) -> Connection {
        self.accept_with(None)
    }

    /// Takes the next client and chooses a sub-protocol.
    #[expect(clippy::result_large_err, reason = "the type of the callback is tungstenite's")]
    pub(crate) fn accept_with(&self, protocol: Option<&'static str>) -> Connection {
        let mut asked = None;
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let callback = |request: &Request, mut response: Response| {
            asked = Some(request.clone());
            if let Some(protocol) = protocol {
                response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocol));
            }
            Ok(response)
        };
        let socket = accept_hdr_with_config(self.accept_tcp(), callback, Some(config)).unwrap();
        Connection { socket, request: asked.unwrap() }
    }
}

impl Connection {
    pub(crate) fn send(&mut self, message: impl Into<Message>) {
        self.socket.send(message.into()).unwrap();
    }

    /// The next text or binary message; pings are answered on the way.
    pub(crate) fn next(&mut self) -> Message {
        loop {
            match self.socket.read().unwrap() {
                message @ (Message::Text(_) | Message::Binary(_)) => return message,
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// The close frame with which the client leaves: code and reason.
    pub(crate) fn wait_for_close(&mut self) -> (u16, String) {
        loop {
            match self.socket.read().unwrap() {
                Message::Close(Some(frame)) => return (frame.code.into(), frame.reason.to_string()),
                Message::Close(None) => return (1005, String::new()),
                _ => {}
            }
        }
    }

    /// Answers pings for as long as the client stays, and drops what comes.
    pub(crate) fn drain(mut self) -> std::thread::JoinHandle<()> {
        std::thread::spawn(move || while self.socket.read().is_ok() {})
    }
}
