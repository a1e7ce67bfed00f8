//! Carries messages both ways in one task: neither direction waits for the other.
//!
//! Owns: the order of reading, writing and waiting on an open connection. Does not judge how it ended; it tells what was
//! seen as [`Over`].

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::dial::Transport;
use super::{Closing, Happened, Outgoing, Timeouts};
use crate::wire::Body;

/// Messages taken from the socket before others on this thread get their turn.
const BURST: usize = 128;

/// How long it may take to notice what a server said before it took nothing any more: with a socket, until the runtime
/// asks the system again.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What tungstenite makes of a close frame with a code that must not be sent.
const INVALID_CLOSE_CODE: (CloseCode, &str) = (CloseCode::Protocol, "Protocol violation");

/// A connected WebSocket.
pub(super) type Socket = WebSocketStream<Watched<Box<dyn Transport>>>;

/// How the carrying ended.
#[derive(Debug)]
pub(super) enum Over {
    /// The server's close frame came.
    Closed {
        /// What it says.
        frame: Option<CloseFrame>,
        /// Ours has left as well.
        answered: bool,
    },
    /// Something that the server had to do took too long.
    TimedOut,
    /// Anything else.
    Failed(WsError),
}

/// The state of one connection.
#[derive(Debug)]
pub(super) struct Pump<'a> {
    outgoing: &'a Outgoing,
    timeouts: Timeouts,
    /// Something was given to the socket that may not have left yet.
    unflushed: bool,
    /// The socket took no more when it was last asked.
    full: bool,
    /// Since when something waits to be written that the socket does not take.
    blocked_since: Option<Instant>,
    /// Bytes of the messages that were given to the socket.
    given: u64,
    /// Our close frame was given to the socket.
    said_close: bool,
    /// Until when the server may answer it.
    close_by: Option<Instant>,
    /// Until when something more may be heard of a server that takes nothing any more.
    last_words_by: Option<Instant>,
}

impl<'a> Pump<'a> {
    pub(super) fn new(outgoing: &'a Outgoing, timeouts: Timeouts) -> Self {
        Self {
            outgoing,
            timeouts,
            unflushed: false,
            full: false,
            blocked_since: None,
            given: 0,
            said_close: false,
            close_by: None,
            last_words_by: None,
        }
    }

    /// Carries messages until the connection is over.
    pub(super) async fn carry(mut self, socket: &mut Socket, report: &mut impl FnMut(Happened)) -> Over {
        let mut timer = pin!(sleep(self.timeouts.write));
        std::future::poll_fn(|cx| self.poll(socket, &mut timer, report, cx)).await
    }

    fn poll(
        &mut self,
        socket: &mut Socket,
        timer: &mut Pin<&mut Sleep>,
        report: &mut impl FnMut(Happened),
        cx: &mut Context<'_>,
    ) -> Poll<Over> {
        self.outgoing.waker.replace(Some(cx.waker().clone()));
        // Reading first: what the session answers to it shares the next write.
        match self.poll_read(socket, report, cx) {
            Poll::Ready(Some(over)) => return Poll::Ready(over),
            Poll::Ready(None) => cx.waker().wake_by_ref(),
            Poll::Pending => {}
        }
        match self.poll_write(socket, report, cx) {
            Poll::Ready(Ok(())) => self.blocked_since = None,
            Poll::Ready(Err(error)) => return Poll::Ready(Over::Failed(error)),
            Poll::Pending => self.blocked_since = self.blocked_since.or_else(|| Some(Instant::now())),
        }
        let may_be_heard = socket.get_ref().broken.is_some() && self.outgoing.is_reading();
        self.last_words_by = may_be_heard.then(|| self.last_words_by.unwrap_or_else(|| Instant::now() + LAST_WORDS));
        self.poll_timeout(socket, timer, cx)
    }

    /// Takes what has come. Ready with nothing if there may be more.
    fn poll_read(
        &mut self,
        socket: &mut Socket,
        report: &mut impl FnMut(Happened),
        cx: &mut Context<'_>,
    ) -> Poll<Option<Over>> {
        for _ in 0..BURST {
            if !self.outgoing.is_reading() {
                return Poll::Pending;
            }
            let came = ready!(Pin::new(&mut *socket).poll_next(cx));
            self.last_words_by = None;
            match came {
                Some(Ok(Message::Close(frame))) => return Poll::Ready(Some(self.closed(frame, socket, cx))),
                Some(Ok(message)) if !self.outgoing.is_closing() => report(match message {
                    Message::Text(text) => Happened::Frame(Body::from_text_frame(text)),
                    Message::Binary(bytes) => Happened::Frame(Body::Binary(bytes)),
                    Message::Pong(payload) => payload.as_ref().try_into().map_or(Happened::Alive, Happened::Pong),
                    Message::Ping(_) | Message::Close(_) | Message::Frame(_) => Happened::Alive,
                }),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Poll::Ready(Some(Over::Failed(error))),
                None => return Poll::Ready(Some(Over::Failed(ProtocolError::ResetWithoutClosingHandshake.into()))),
            }
        }
        Poll::Ready(None)
    }

    fn closed(&self, frame: Option<CloseFrame>, socket: &mut Socket, cx: &mut Context<'_>) -> Over {
        // The answer is most often written at once. Whoever has closed may keep the TCP connection for as long as it
        // likes; nobody here waits for that.
        let answered = Pin::new(&mut *socket).poll_flush(cx).map(|flushed| flushed.is_ok());
        let answered = answered == Poll::Ready(true) && socket.get_ref().broken.is_none();
        let is_invalid = |frame: &CloseFrame| (frame.code, frame.reason.as_str()) == INVALID_CLOSE_CODE;
        if !self.said_close && frame.as_ref().is_some_and(is_invalid) {
            return Over::Failed(ProtocolError::InvalidCloseSequence.into());
        }
        Over::Closed { frame, answered }
    }

    /// Writes what waits, flushes when nothing more does.
    fn poll_write(
        &mut self,
        socket: &mut Socket,
        report: &mut impl FnMut(Happened),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), WsError>> {
        while !self.outgoing.queue.borrow().is_empty() {
            if self.said_close {
                // Nothing may follow a close frame.
                self.outgoing.queue.borrow_mut().clear();
                break;
            }
            let was_full = std::mem::replace(&mut self.full, true);
            ready!(Pin::new(&mut *socket).poll_ready(cx))?;
            self.full = false;
            if was_full && socket.get_ref().broken.is_none() {
                report(Happened::Flushed { bytes: self.given, all: false });
            }
            let Some(message) = self.outgoing.queue.borrow_mut().pop_front() else { break };
            match &message {
                Message::Text(_) | Message::Binary(_) => self.given += message.len() as u64,
                Message::Close(_) => self.said_close = true,
                _ => {}
            }
            self.unflushed = true;
            Pin::new(&mut *socket).start_send(message)?;
        }
        if self.unflushed || !self.outgoing.is_reading() {
            // Reading would write the answers to pings, but perhaps nobody reads.
            ready!(Pin::new(&mut *socket).poll_flush(cx))?;
        }
        if std::mem::take(&mut self.unflushed) && socket.get_ref().broken.is_none() {
            report(Happened::Flushed { bytes: self.given, all: true });
        }
        Poll::Ready(Ok(()))
    }

    /// Whether the server has taken too long: to take something, where any byte moves the deadline, to answer our
    /// close frame, or to be heard once more.
    fn poll_timeout(&mut self, socket: &mut Socket, timer: &mut Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Over> {
        if self.outgoing.closing.get() == Closing::Now || (self.said_close && !self.unflushed) {
            self.close_by = self.close_by.or_else(|| Some(Instant::now() + self.timeouts.close));
        }
        let stalled = self.blocked_since.map(|since| since.max(socket.get_ref().last_write) + self.timeouts.write);
        let deadlines = stalled.into_iter().chain(self.close_by).chain(self.last_words_by);
        let Some(deadline) = deadlines.min() else { return Poll::Pending };
        if timer.deadline() != deadline {
            timer.as_mut().reset(deadline);
        }
        let broken = &mut socket.get_mut().broken;
        timer.as_mut().poll(cx).map(|()| broken.take().map_or(Over::TimedOut, |error| Over::Failed(error.into())))
    }
}

/// A stream that remembers when it last took bytes, and that it takes none any more. The error is kept back: what a
/// server said before it went away can still be read, its close frame above all.
#[derive(Debug)]
pub(super) struct Watched<T> {
    inner: T,
    last_write: Instant,
    broken: Option<io::Error>,
}

impl<T> Watched<T> {
    pub(super) fn new(inner: T) -> Self {
        Self { inner, last_write: Instant::now(), broken: None }
    }

    /// What a caller is told who is not to know that nothing is written any more.
    fn unless_broken<R>(&mut self, result: Poll<io::Result<R>>, pretence: R) -> Poll<io::Result<R>> {
        match result {
            Poll::Ready(Err(error)) => {
                self.broken = Some(error);
                Poll::Ready(Ok(pretence))
            }
            result => result,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(bytes.len()));
        }
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if written.is_ready() {
            self.last_write = Instant::now();
        }
        self.unless_broken(written, bytes.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.broken.is_some() {
            return Poll::Ready(Ok(()));
        }
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        self.unless_broken(flushed, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Takes nothing; what it says is what comes on another stream.
    #[derive(Debug)]
    struct Broken(DuplexStream);

    impl AsyncRead for Broken {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Broken {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    /// How a connection ends that takes nothing, with what `say` says on it.
    async fn carry_to_nobody(say: impl AsyncFnOnce(&mut DuplexStream)) -> Over {
        let (ours, mut theirs) = duplex(64);
        let transport: Box<dyn Transport> = Box::new(Broken(ours));
        let mut socket = Socket::from_raw_socket(Watched::new(transport), Role::Client, None).await;
        let outgoing = Outgoing::default();
        outgoing.send(Body::Text("to nobody".into()));
        let mut report = |event| panic!("{event:?}");
        let carried = Pump::new(&outgoing, Timeouts::default()).carry(&mut socket, &mut report);
        let waiting = std::time::Instant::now();
        let both = async { tokio::join!(carried, say(&mut theirs)) };
        let (over, ()) = tokio::time::timeout(DEADLINE, both).await.unwrap();
        // The deadline wakes as well, but too late.
        assert!(waiting.elapsed() < DEADLINE);
        over
    }

    #[tokio::test]
    async fn a_write_that_fails_ends_a_connection_of_which_nothing_else_is_heard() {
        let over = carry_to_nobody(async |_| {}).await;
        assert!(matches!(over, Over::Failed(WsError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe));
    }

    /// As with a real socket: that there is something to read is noticed only when the runtime asks the system again.
    #[tokio::test]
    async fn a_servers_last_words_may_be_noticed_later_than_a_write_that_fails() {
        let over = carry_to_nobody(async |stream| {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            stream.write_all(b"\x88\x02\x03\xf1").await.unwrap();
        })
        .await;
        assert!(matches!(over, Over::Closed { frame: Some(frame), answered: false } if frame.code == CloseCode::Size));
    }
}
