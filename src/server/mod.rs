//! One WebSocket connection to a server, from the first packet to the last.
//!
//! Owns: carrying messages both ways as fast as either side takes them, and the truth about how a connection ended.
//! How it is made is `dial`'s. Decides nothing: what happens is reported as [`Happened`], what is to be sent comes
//! through [`Outgoing`], and whether to try again is the session's.

mod dial;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use url::Url;

use crate::wire::{Body, PING_BYTES, Reason};
use dial::Transport;

/// The longest message that a server may send, in bytes.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// Messages taken from the socket before others on this thread get their turn.
const BURST: usize = 128;

/// Where to connect to, and for whom.
#[derive(Debug, Clone)]
pub struct Target {
    /// The server, `ws:` or `wss:`.
    pub url: Url,
    /// The extension, as its browser names it.
    pub origin: Arc<str>,
    /// How long each step may take.
    pub timeouts: Timeouts,
}

/// How long each step of a connection may take: no step of it waits for ever.
#[derive(Debug, Clone, Copy)]
pub struct Timeouts {
    /// The look-up of the server's name.
    pub dns: Duration,
    /// The TCP connection.
    pub tcp: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// The answer to the upgrade.
    pub upgrade: Duration,
    /// A write of which the server takes nothing.
    pub write: Duration,
    /// The server's answer to our close frame.
    pub close: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let [dns, tcp, tls, upgrade, write, close] = [10, 15, 10, 15, 30, 5].map(Duration::from_secs);
        Self { dns, tcp, tls, upgrade, write, close }
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
    /// Everything that was to be sent so far is in the hands of the system.
    Flushed,
    /// A ping of ours was answered.
    Pong([u8; PING_BYTES]),
    /// Some other frame came.
    Alive,
}

/// What is to be sent on a connection, in order.
#[derive(Debug, Default)]
pub struct Outgoing {
    queue: RefCell<VecDeque<Message>>,
    closing: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Outgoing {
    /// Sends a message.
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

    /// Closes the connection; what waits is not sent any more.
    pub fn close(&self, code: u16, reason: &str) {
        self.queue.borrow_mut().clear();
        self.closing.set(true);
        self.push(Message::Close(Some(CloseFrame { code: code.into(), reason: reason.into() })));
    }

    fn push(&self, message: Message) {
        self.queue.borrow_mut().push_back(message);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// A reason that is tried again by default.
fn reason(code: &'static str, message: String) -> Reason {
    Reason { code, message, close_code: None, http_status: None, retryable: true }
}

/// Connects and carries messages until the connection ends. Returns why, or nothing if this side closed it.
pub async fn run(target: Target, outgoing: &Outgoing, mut report: impl FnMut(Happened)) -> Option<Reason> {
    let server = target.url.origin().ascii_serialization();
    let (mut socket, protocol) = tokio::select! {
        dialled = dial::dial(&target) => match dialled {
            Ok(dialled) => dialled,
            Err(reason) => return (!outgoing.closing.get()).then_some(reason),
        },
        () = closing(outgoing) => return None,
    };
    report(Happened::Connected { protocol });
    let mut pump =
        Pump { outgoing, write_timeout: target.timeouts.write, unflushed: false, blocked_since: None, close: None };
    let end = {
        let mut stalled = pin!(sleep(target.timeouts.write));
        let carry = std::future::poll_fn(|cx| pump.poll(&mut socket, &mut stalled, &mut report, cx));
        let mut carry = pin!(carry);
        tokio::select! {
            end = &mut carry => end,
            () = closing(outgoing) => match tokio::time::timeout(target.timeouts.close, carry).await {
                Ok(end) => end,
                Err(_) => return None,
            }
        }
    };
    if outgoing.closing.get() {
        return None;
    }
    Some(match (pump.close, end) {
        (Some(frame), _) => {
            let said = if frame.reason.is_empty() { String::new() } else { format!(": {}", frame.reason) };
            let code = u16::from(frame.code);
            let message = format!("{server} closed the connection with {code}{said}");
            Reason { close_code: Some(code), ..reason("closed", message) }
        }
        (None, End::Closed) => unclosed(&server),
        (None, End::Stalled) => {
            reason("write-timeout", format!("{server} took nothing for {} s", target.timeouts.write.as_secs_f32()))
        }
        (None, End::Failed(error)) => failure(&server, &error),
    })
}

/// Done when this side wants the connection closed.
async fn closing(outgoing: &Outgoing) {
    std::future::poll_fn(|cx| {
        if outgoing.closing.get() {
            return Poll::Ready(());
        }
        outgoing.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    })
    .await;
}

fn unclosed(server: &str) -> Reason {
    reason("reset", format!("{server} ended the connection without closing it"))
}

fn failure(server: &str, error: &WsError) -> Reason {
    match error {
        WsError::Io(error) => reason(dial::io_code(error), format!("the connection to {server} broke: {error}")),
        WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake) => unclosed(server),
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => {
            let message = format!("{server} sent a message of {size} bytes or more; the limit is {max_size}");
            reason("message-too-large", message)
        }
        WsError::Utf8(_) => reason("protocol", format!("{server} sent a text message that is not UTF-8")),
        other => reason("protocol", format!("{server} broke the WebSocket protocol: {other}")),
    }
}

/// How the carrying ended.
enum End {
    Closed,
    Stalled,
    Failed(WsError),
}

/// Carries messages both ways in one task: neither direction waits for the other.
struct Pump<'a> {
    outgoing: &'a Outgoing,
    write_timeout: Duration,
    unflushed: bool,
    /// Since when something waits to be written that the socket does not take.
    blocked_since: Option<Instant>,
    /// The server's close frame.
    close: Option<CloseFrame>,
}

type Socket = WebSocketStream<Watched<Box<dyn Transport>>>;

impl Pump<'_> {
    fn poll(
        &mut self,
        socket: &mut Socket,
        stalled: &mut Pin<&mut Sleep>,
        report: &mut impl FnMut(Happened),
        cx: &mut Context<'_>,
    ) -> Poll<End> {
        self.outgoing.waker.replace(Some(cx.waker().clone()));
        // Reading first: what the session answers to it shares the next write.
        for _ in 0..BURST {
            match Pin::new(&mut *socket).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => {
                    self.take(message, report);
                    if self.close.is_some() {
                        // The answer is most often written at once. Whoever has closed may keep the TCP connection for
                        // as long as it likes; nobody here waits for that.
                        let _ = Pin::new(&mut *socket).poll_flush(cx);
                        return Poll::Ready(End::Closed);
                    }
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(End::Failed(error)),
                Poll::Ready(None) => return Poll::Ready(End::Closed),
                Poll::Pending => {
                    return match self.poll_write(socket, stalled, report, cx) {
                        Poll::Ready(Err(end)) => Poll::Ready(end),
                        _ => Poll::Pending,
                    };
                }
            }
        }
        cx.waker().wake_by_ref();
        match self.poll_write(socket, stalled, report, cx) {
            Poll::Ready(Err(end)) => Poll::Ready(end),
            _ => Poll::Pending,
        }
    }

    fn take(&mut self, message: Message, report: &mut impl FnMut(Happened)) {
        report(match message {
            Message::Text(text) => Happened::Frame(Body::from_text_frame(text.into())),
            Message::Binary(bytes) => Happened::Frame(Body::Binary(bytes)),
            Message::Pong(payload) => payload.as_ref().try_into().map_or(Happened::Alive, Happened::Pong),
            Message::Close(frame) => {
                // A close frame may come without a code; RFC 6455 calls that 1005.
                self.close = Some(frame.unwrap_or(CloseFrame { code: 1005.into(), reason: Utf8Bytes::default() }));
                Happened::Alive
            }
            Message::Ping(_) | Message::Frame(_) => Happened::Alive,
        });
    }

    /// Writes what is ready, flushes when nothing more is.
    fn poll_write(
        &mut self,
        socket: &mut Socket,
        stalled: &mut Pin<&mut Sleep>,
        report: &mut impl FnMut(Happened),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), End>> {
        let result = self.poll_write_ready(socket, report, cx);
        if result.is_ready() {
            self.blocked_since = None;
        } else {
            // Any byte that the server takes moves the deadline.
            let blocked_since = *self.blocked_since.get_or_insert_with(Instant::now);
            let deadline = blocked_since.max(socket.get_ref().last_write) + self.write_timeout;
            if stalled.deadline() != deadline {
                stalled.as_mut().reset(deadline);
            }
            if stalled.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(End::Stalled));
            }
        }
        result.map_err(|error| match error {
            // The closing handshake is over; the reading side tells.
            WsError::ConnectionClosed | WsError::AlreadyClosed => End::Closed,
            error => End::Failed(error),
        })
    }

    fn poll_write_ready(
        &mut self,
        socket: &mut Socket,
        report: &mut impl FnMut(Happened),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WsError>> {
        let mut socket = Pin::new(socket);
        while !self.outgoing.queue.borrow().is_empty() {
            std::task::ready!(socket.as_mut().poll_ready(cx))?;
            let Some(message) = self.outgoing.queue.borrow_mut().pop_front() else { break };
            self.unflushed = true;
            socket.as_mut().start_send(message)?;
        }
        if self.unflushed {
            std::task::ready!(socket.as_mut().poll_flush(cx))?;
            self.unflushed = false;
            report(Happened::Flushed);
        }
        Poll::Ready(Ok(()))
    }
}

/// A stream that remembers when it last took bytes.
#[derive(Debug)]
struct Watched<T> {
    inner: T,
    last_write: Instant,
}

impl<T> Watched<T> {
    fn new(inner: T) -> Self {
        Self { inner, last_write: Instant::now() }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if written.is_ready() {
            self.last_write = Instant::now();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
