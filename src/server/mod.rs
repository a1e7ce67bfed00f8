//! One connection to a server, from the first packet to the last: a WebSocket, or what takes its place.
//!
//! Owns: what a connection is asked and what it tells ([`Outgoing`], [`Happened`], [`End`]), and the truth about how it
//! ended. How it is made is `dial`'s, `proxy`'s, `tls`'s and `upgrade`'s, how messages are carried is `pump`'s, when a server wants to be tried again is read
//! by `hint`. Decides nothing: whether to try again is the session's. [`probe`] goes the same way for whoever wants to know
//! where it ends.

mod certificate;
mod detour;
mod dial;
mod events;
mod hint;
mod proxy;
mod pump;
#[cfg(test)]
mod tests;
mod tls;
mod upgrade;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use url::Url;

use crate::config::{ProxyVariables, Way};
use crate::wire::event::Closed;
use crate::wire::{Body, Detour, MAX_CLOSE_REASON, NO_CLOSE_CODE, PING_BYTES, Presented, Reason};
pub use certificate::Certificate;
use pump::{Over, Pump, Socket};

/// How long a server that broke the rules may take to hear so.
const FAREWELL: Duration = Duration::from_secs(1);

/// Where to connect to, and for whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server, `ws:` or `wss:`.
    pub url: Url,
    /// The extension, as its browser names it.
    pub origin: Arc<str>,
    /// The sub-protocols that are offered, the preferred one first.
    pub protocols: Vec<String>,
    /// What the upgrade shows the server, and where.
    pub credential: Option<Presented>,
    /// The longest message that the server may send, in bytes.
    pub max_message: usize,
    /// The way to go instead of a WebSocket.
    pub detour: Option<Detour>,
    /// What the files say about the way there.
    pub way: Way,
    /// What the environment says about proxies.
    pub proxy_variables: Arc<ProxyVariables>,
    /// How long each step may take.
    pub timeouts: Timeouts,
}

/// How long each step of a connection may take: no step of it waits for ever.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The look-up of the server's name, or its proxy's.
    pub dns: Duration,
    /// The TCP connection.
    pub tcp: Duration,
    /// The proxy's answer, which looks up the server and connects to it meanwhile.
    pub proxy: Duration,
    /// The TLS handshake, and reading which certificates the system trusts.
    pub tls: Duration,
    /// The answer to the upgrade.
    pub upgrade: Duration,
    /// A write of which the server takes nothing.
    pub write: Duration,
    /// The server's answer to our close frame; also how long one that took nothing may keep us from leaving.
    pub close: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let [dns, tcp, proxy, tls, upgrade, write, close] = [10, 15, 30, 10, 15, 30, 5].map(Duration::from_secs);
        Self { dns, tcp, proxy, tls, upgrade, write, close }
    }
}

/// What happens on a connection.
#[derive(Debug)]
pub enum Happened {
    /// It is made.
    Connected {
        /// The sub-protocol that the server chose.
        protocol: Option<Arc<str>>,
    },
    /// A message came.
    Frame(Body),
    /// On a detour, from where the server can go on behind the next message, as JSON text.
    Cursor(Arc<str>),
    /// What was sent is in the hands of the system.
    Flushed {
        /// Bytes of all messages so far whose every byte is, pings and framing not counted.
        bytes: u64,
        /// Whether nothing waits any more.
        all: bool,
    },
    /// A ping of ours was answered.
    Pong([u8; PING_BYTES]),
    /// Some other frame came.
    Alive,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Why it was lost or could not be made; nothing if this side closed it.
    pub reason: Option<Reason>,
    /// The same as a browser tells it to a page.
    pub close: Closed,
}

/// What is found on the way to a server, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It is to be reached through this proxy, named by this.
    Proxy(String),
    /// The proxy has connected to it.
    Tunnel,
    /// Its name has these addresses.
    Addresses(Vec<IpAddr>),
    /// There is a TCP connection to this one.
    Peer(SocketAddr),
    /// It shows these certificates, its own first; they may yet be refused.
    Certificates(Vec<Certificate>),
    /// There is an encrypted connection.
    Encrypted,
    /// What the server's clock says, in its answer to the upgrade.
    Date(SystemTime),
    /// It is a WebSocket.
    WebSocket,
    /// It answers pings.
    Pong,
}

/// What is to be sent on a connection, in order, and whether it is to be read.
#[derive(Debug, Default)]
pub struct Outgoing {
    queue: RefCell<VecDeque<Message>>,
    closing: Cell<Closing>,
    poll_at: RefCell<Option<Url>>,
    paused: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Whether this side wants the connection closed.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Closing {
    #[default]
    No,
    WhenAllIsSent,
    Now,
}

impl Outgoing {
    /// Sends a message; nothing once the connection is being closed.
    ///
    /// # Panics
    /// Never: a text body was checked to be UTF-8 when it came.
    pub fn send(&self, body: Body) {
        self.push(match body {
            Body::Json(text) | Body::Text(text) => {
                Message::Text(Utf8Bytes::try_from(text).expect("a text body was checked to be UTF-8 when it came"))
            }
            Body::Binary(bytes) => Message::Binary(bytes),
        });
    }

    /// Pings, behind what was sent before.
    pub fn ping(&self, payload: [u8; PING_BYTES]) {
        self.push(Message::Ping(Bytes::copy_from_slice(&payload)));
    }

    /// Closes the connection; what waits is not sent any more. The server has the close time-out from now on to answer.
    /// No message is reported any more.
    ///
    /// A `code` of 1005 sends a close frame without one; of `reason` at most 123 bytes are sent.
    pub fn close(&self, code: u16, reason: &str) {
        if self.closing.get() != Closing::Now {
            self.closing.set(Closing::Now);
            self.queue.borrow_mut().clear();
            self.push(close_message(code, reason));
        }
    }

    /// The same, but what waits is sent first, for as long as the server takes some of it within each write time-out.
    /// Its time to answer begins when all is sent.
    pub fn finish(&self, code: u16, reason: &str) {
        if !self.is_closing() {
            self.closing.set(Closing::WhenAllIsSent);
            self.push(close_message(code, reason));
        }
    }

    /// Takes nothing more from the server, which TCP makes it feel. It may go away unnoticed meanwhile.
    pub fn pause_reading(&self) {
        self.paused.set(true);
    }

    /// Ends [`Outgoing::pause_reading`].
    pub fn resume_reading(&self) {
        self.paused.set(false);
        self.wake();
    }

    /// Has the next poll made here.
    pub fn poll_at(&self, url: Url) {
        self.poll_at.replace(Some(url));
    }

    /// The next message to be sent.
    async fn next(&self) -> Message {
        self.when(|| self.queue.borrow_mut().pop_front()).await
    }

    /// Whether nothing waits to be sent.
    fn is_idle(&self) -> bool {
        self.queue.borrow().is_empty()
    }

    /// Done when the server is to be read.
    async fn reading(&self) {
        self.when(|| self.is_reading().then_some(())).await;
    }

    /// Done when there is what is looked for. All who wait belong to one task.
    async fn when<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        std::future::poll_fn(|cx| {
            if let Some(found) = look() {
                return Poll::Ready(found);
            }
            self.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await
    }

    fn push(&self, message: Message) {
        self.queue.borrow_mut().push_back(message);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    fn is_closing(&self) -> bool {
        self.closing.get() != Closing::No
    }

    /// Once this side closes, a pause holds no longer: the server's answer must be read.
    fn is_reading(&self) -> bool {
        !self.paused.get() || self.is_closing()
    }

    /// Done when this side wants the connection closed.
    async fn closed(&self) {
        self.when(|| self.is_closing().then_some(())).await;
    }
}

fn close_message(code: u16, reason: &str) -> Message {
    let whole = |end: &usize| reason.is_char_boundary(*end);
    let end = (0..=reason.len().min(MAX_CLOSE_REASON)).rev().find(whole).unwrap_or(0);
    let frame = CloseFrame { code: code.into(), reason: reason[..end].into() };
    Message::Close((code != NO_CLOSE_CODE).then_some(frame))
}

/// Connects and carries messages until the connection ends.
pub async fn run(target: Target, outgoing: &Outgoing, mut report: impl FnMut(Happened)) -> End {
    let ended = |reason, close| End { reason: (!outgoing.is_closing()).then_some(reason).flatten(), close };
    if let Some(detour) = &target.detour {
        let reason = detour::carry(&target, detour, outgoing, &mut report).await;
        return ended(reason, Closed::abnormal());
    }
    let mut nobody = |_| ();
    let dialled = tokio::select! {
        dialled = dial::dial(&target, &mut nobody) => dialled,
        () = outgoing.closed() => return ended(None, Closed::abnormal()),
    };
    let (mut socket, protocol) = match dialled {
        Ok(dialled) => dialled,
        Err(reason) => return ended(Some(reason), Closed::abnormal()),
    };
    report(Happened::Connected { protocol });
    let over = Pump::new(outgoing, target.timeouts).carry(&mut socket, &mut report).await;
    let server = target.url.origin().ascii_serialization();
    match over {
        Over::Closed { frame, answered } => {
            let close = closed_by(frame, answered);
            ended(Some(closed(&server, &close)), close)
        }
        Over::TimedOut => {
            let limit = target.timeouts.write.as_secs_f32();
            ended(
                Some(Reason::new("write-timeout", format!("{server} took nothing for {limit} s"))),
                Closed::abnormal(),
            )
        }
        Over::Failed(error) => {
            if let Some(code) = farewell(&error) {
                say(&mut socket, code, target.timeouts.close.min(FAREWELL)).await;
            }
            ended(Some(failure(&server, &error)), Closed::abnormal())
        }
    }
}

/// Makes a connection as a session does, tells what it finds on the way, and leaves. A server that does not answer a ping
/// within the close time-out is no failure.
///
/// # Errors
/// Why there is no connection, or why the server ended it at once.
pub async fn probe(target: &Target, mut found: impl FnMut(Found)) -> Result<(), Reason> {
    let (mut socket, _) = dial::dial(target, &mut found).await?;
    found(Found::WebSocket);
    let server = target.url.origin().ascii_serialization();
    let pinging = async {
        socket.send(Message::Ping(Bytes::from_static(&[0; PING_BYTES]))).await?;
        loop {
            match socket.next().await {
                Some(Ok(Message::Pong(_))) => return Ok(None),
                Some(Ok(Message::Close(frame))) => return Ok(Some(frame)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Err(ProtocolError::ResetWithoutClosingHandshake.into()),
            }
        }
    };
    match timeout(target.timeouts.close, pinging).await {
        Ok(Ok(None)) => found(Found::Pong),
        Ok(Ok(Some(frame))) => return Err(closed(&server, &closed_by(frame, true))),
        Ok(Err(error)) => return Err(failure(&server, &error)),
        Err(_) => {}
    }
    say(&mut socket, 1000, FAREWELL).await;
    Ok(())
}

/// How a server closed, by its close frame.
fn closed_by(frame: Option<CloseFrame>, clean: bool) -> Closed {
    let (code, reason) =
        frame.map_or((NO_CLOSE_CODE, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
    Closed { code, reason, clean }
}

fn closed(server: &str, close: &Closed) -> Reason {
    let said = if close.reason.is_empty() { String::new() } else { format!(": {}", close.reason) };
    let message = format!("{server} closed the connection with {}{said}", close.code);
    Reason {
        close_code: Some(close.code),
        hint: hint::of_close_reason(&close.reason),
        ..Reason::new("closed", message)
    }
}

fn failure(server: &str, error: &WsError) -> Reason {
    match error {
        WsError::Io(error) => Reason::new(dial::io_code(error), format!("the connection to {server} broke: {error}")),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => {
            Reason::new("reset", format!("{server} ended the connection without closing it"))
        }
        WsError::Protocol(ProtocolError::InvalidCloseSequence) => {
            let what = "its close frame is malformed or has a code that must not be sent";
            Reason::new("protocol", format!("{server} broke the WebSocket protocol: {what}"))
        }
        WsError::Protocol(error) => Reason::new("protocol", format!("{server} broke the WebSocket protocol: {error}")),
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            let message = format!("{server} sent a message of {size} bytes or more; the limit is {max_size}");
            Reason::new("message-too-large", message)
        }
        WsError::Utf8(_) => Reason::new("protocol", format!("{server} sent text that is not UTF-8")),
        other => Reason::new("protocol", format!("{server} broke the WebSocket protocol: {other}")),
    }
}

/// The close code that tells a server what it did wrong; none if it is gone.
fn farewell(error: &WsError) -> Option<u16> {
    match error {
        WsError::Io(_) | WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => None,
        WsError::Capacity(_) => Some(1009),
        WsError::Utf8(_) => Some(1007),
        _ => Some(1002),
    }
}

/// Tells a server that it is left and why, if it takes that in time.
async fn say(socket: &mut Socket, code: u16, limit: Duration) {
    let said = async {
        if socket.close(Some(CloseFrame { code: code.into(), reason: Utf8Bytes::default() })).await.is_ok() {
            // A system that is left with bytes that nobody took resets the connection, which may overtake the close frame.
            while let Ok(1..) = socket.get_mut().read(&mut [0; 16 * 1024]).await {}
        }
    };
    // It is as good as gone either way.
    let _ = timeout(limit, said).await;
}
