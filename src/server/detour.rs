//! A connection to a server that is no WebSocket: its messages come as server-sent events or in the answers to polls, and
//! those to it are posted.
//!
//! Owns: the requests, and what of their answers are messages. When such a connection is made, and what it means that it was
//! lost, is the session's; the way to the server is `dial`'s.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue,
};
use tokio_tungstenite::tungstenite::http::{Method, Request, Response};
use url::Url;

use super::dial::{self, explain};
use super::events::{Event, Reader, Unreadable};
use super::upgrade::{Answer, common_headers, with_credential};
use super::{Happened, Outgoing, Target};
use crate::wire::{Body, Detour, DetourKind, Hint, Reason};

/// How long a server may hold a poll that it has nothing to answer to.
const LONGEST_POLL: Duration = Duration::from_secs(120);

/// A poll that was sent, and neither answered nor refused for so long, is one that the server holds: it is there.
const HELD: Duration = Duration::from_secs(1);

/// The shortest time from one poll to the next, so that a server that answers each of them at once is not stormed.
const BETWEEN_POLLS: Duration = Duration::from_millis(100);

/// Statuses by which a server finds fault with the message that was posted, and with nothing else.
const AT_FAULT: [u16; 4] = [400, 413, 415, 422];

/// Carries messages until it is over; why, unless this side wanted it so.
pub(super) async fn carry(
    target: &Target,
    detour: &Detour,
    outgoing: &Outgoing,
    report: &mut impl FnMut(Happened),
) -> Option<Reason> {
    let report = RefCell::new(report);
    let tell = |happened| report.borrow_mut()(happened);
    let receiving = async {
        let received = match detour.kind {
            DetourKind::Events => receive_events(target, detour, outgoing, &tell).await,
            DetourKind::Polls => poll(target, detour, outgoing, &tell).await,
        };
        received.err()
    };
    let posting = async { post(target, detour, outgoing, &tell).await.err() };
    tokio::select! {
        reason = receiving => reason,
        reason = posting => reason,
        () = outgoing.closed() => None,
    }
}

/// What an endless work ends with.
type Never = Result<std::convert::Infallible, Reason>;

async fn receive_events(target: &Target, detour: &Detour, outgoing: &Outgoing, tell: &impl Fn(Happened)) -> Never {
    let mut client = Client::new(target, detour.url.clone());
    let mut request = client.request(Method::GET, Bytes::new())?;
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static("text/event-stream"));
    request.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let last = detour.last_event.as_ref().and_then(|id| HeaderValue::from_str(id).ok());
    request.headers_mut().extend(last.map(|id| (HeaderName::from_static("last-event-id"), id)));
    let limit = target.timeouts.upgrade;
    let response = client.ask(request, limit, "the request for its events").await?;
    if !is_of_type(response.headers(), "text/event-stream") {
        return Err(client.unexpected("the request for its events with something else than `text/event-stream`"));
    }
    tell(Happened::Connected { protocol: None });
    let mut events = Reader::new(target.max_message);
    let mut body = response.into_body();
    loop {
        outgoing.reading().await;
        let Some(frame) = client.drive(body.frame()).await else {
            let hint = events.retry.map(|wait| Hint { after_ms: wait.as_millis() as u64, window_ms: None });
            let message = format!("{} ended its stream of events", client.server());
            return Err(Reason { hint, ..Reason::new("reset", message) });
        };
        let frame = frame.map_err(|error| client.broken(&error))?;
        let Some(bytes) = frame.data_ref() else { continue };
        tell(Happened::Alive);
        let read = events.read(bytes, |Event { data, id }| {
            if let Some(id) = id {
                tell(Happened::Cursor(serde_json::Value::from(id).to_string().into()));
            }
            tell(Happened::Frame(Body::from_text_frame(data)));
        });
        read.map_err(|unreadable| match unreadable {
            Unreadable::TooLong => client.too_large(),
            Unreadable::NotUtf8 => {
                Reason::new("protocol", format!("{} sent events that are not UTF-8", client.server()))
            }
        })?;
    }
}

async fn poll(target: &Target, detour: &Detour, outgoing: &Outgoing, tell: &impl Fn(Happened)) -> Never {
    let connected = Cell::new(false);
    let connect = || {
        if !connected.replace(true) {
            tell(Happened::Connected { protocol: None });
        }
    };
    let mut client = Client::new(target, detour.url.clone());
    loop {
        outgoing.reading().await;
        let next = Instant::now() + BETWEEN_POLLS;
        client.url = outgoing.poll_at.take().unwrap_or(client.url);
        let mut request = client.request(Method::GET, Bytes::new())?;
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        request.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        let what = "a poll";
        let asking = async {
            let response = client.ask(request, LONGEST_POLL, what).await?;
            client.whole(response, what).await
        };
        let body = tokio::select! {
            body = asking => body?,
            // Whoever has been told already is not told again.
            body = async { sleep(HELD).await; connect(); std::future::pending().await } => body,
        };
        connect();
        tell(Happened::Alive);
        let messages: Vec<&RawValue> = if body.is_empty() {
            Vec::new()
        } else {
            serde_json::from_slice(&body)
                .map_err(|_| client.unexpected("a poll with something else than a JSON array"))?
        };
        for message in &messages {
            tell(Happened::Frame(Body::from_text_frame(message.get().to_owned())));
        }
        if messages.is_empty() {
            sleep(detour.interval).await;
        } else {
            sleep_until(next).await;
        }
    }
}

async fn post(target: &Target, detour: &Detour, outgoing: &Outgoing, tell: &impl Fn(Happened)) -> Never {
    let Some(url) = &detour.post else { return std::future::pending().await };
    let mut client = Client::new(target, url.clone());
    let mut posted = 0;
    loop {
        let (kind, body) = match outgoing.next().await {
            Message::Text(text) if serde_json::from_str::<IgnoredAny>(&text).is_ok() => {
                ("application/json", text.into())
            }
            Message::Text(text) => ("text/plain; charset=utf-8", text.into()),
            Message::Binary(bytes) => ("application/octet-stream", bytes),
            // There is nothing to ping, and a close is heeded elsewhere.
            _ => continue,
        };
        let length = body.len() as u64;
        let mut request = client.request(Method::POST, body)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let what = "a message that was posted";
        let response = client.ask(request, target.timeouts.write, what).await.map_err(|reason| {
            let is_at_fault = reason.http_status.is_some_and(|status| AT_FAULT.contains(&status));
            if is_at_fault { Reason { code: "post-refused", http_status: None, ..reason } } else { reason }
        })?;
        client.whole(response, what).await?;
        posted += length;
        tell(Happened::Flushed { bytes: posted, all: outgoing.is_idle() });
    }
}

/// Asks one server, on a connection that is made when it is needed and kept for as long as both sides want it.
struct Client<'a> {
    target: &'a Target,
    /// What is asked for, as if by WebSocket.
    url: Url,
    kept: Option<SendRequest<Full<Bytes>>>,
    /// What has to be done for the connection to go on, until it is over.
    work: Option<Pin<Box<dyn Future<Output = hyper::Result<()>>>>>,
}

impl<'a> Client<'a> {
    fn new(target: &'a Target, url: Url) -> Self {
        Self { target, url, kept: None, work: None }
    }

    fn server(&self) -> String {
        let origin = self.url.origin().ascii_serialization();
        origin.replacen("ws", "http", 1)
    }

    fn request(&self, method: Method, body: Bytes) -> Result<Request<Full<Bytes>>, Reason> {
        let url = with_credential(&self.url, self.target);
        let mut headers = HeaderMap::new();
        common_headers(self.target, &mut headers)?;
        let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
        let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
        let unaskable = |what: String| {
            let message = format!("{} cannot be asked: {what}", self.server());
            Reason { retryable: false, ..Reason::new("upgrade", message) }
        };
        headers.insert(HOST, HeaderValue::from_str(host).map_err(|error| unaskable(error.to_string()))?);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .body(Full::new(body))
            .map_err(|error| unaskable(error.to_string()))?;
        *request.headers_mut() = headers;
        Ok(request)
    }

    /// The answer to `request`, if it is one that says yes.
    ///
    /// # Errors
    /// Why there is none; `what` names the request.
    async fn ask(
        &mut self,
        mut request: Request<Full<Bytes>>,
        limit: Duration,
        what: &str,
    ) -> Result<Response<Incoming>, Reason> {
        let late = self.late(what, limit);
        let response = loop {
            let reused = self.kept.is_some();
            if !reused {
                self.connect().await?;
            }
            let Some(sender) = &mut self.kept else { continue };
            let answered = timeout(limit, drive(&mut self.work, sender.try_send_request(request))).await;
            let Ok(answered) = answered else { return Err(late) };
            match answered {
                Ok(response) => break response,
                Err(mut unsent) => {
                    self.kept = None;
                    match unsent.take_message() {
                        // The server had closed the connection before any of this was sent.
                        Some(same) if reused => request = same,
                        _ => return Err(self.broken(unsent.error())),
                    }
                }
            }
        };
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let answer = Answer::of_request(status, response.headers().clone());
        let reason = answer.refusal(&self.server(), &self.url, what, 200);
        // The body is not read: the connection is of no use any more.
        self.kept = None;
        Err(reason)
    }

    async fn connect(&mut self) -> Result<(), Reason> {
        let target = Target { url: self.url.clone(), ..self.target.clone() };
        let transport = dial::connect(&target, &mut |_| ()).await?;
        let (sender, connection) = handshake(TokioIo::new(transport)).await.map_err(|error| self.broken(&error))?;
        self.kept = Some(sender);
        self.work = Some(Box::pin(connection));
        Ok(())
    }

    /// All that an answer says.
    async fn whole(&mut self, response: Response<Incoming>, what: &str) -> Result<Bytes, Reason> {
        let limit = self.target.timeouts.write;
        let late = self.late(what, limit);
        let mut body = response.into_body();
        let mut whole = Vec::with_capacity(body.size_hint().lower().min(64 * 1024) as usize);
        let reading = async {
            while let Some(frame) = self.drive(body.frame()).await {
                let frame = frame.map_err(|error| self.broken(&error))?;
                let Some(bytes) = frame.data_ref() else { continue };
                if whole.len() + bytes.len() > self.target.max_message {
                    return Err(self.too_large());
                }
                whole.extend_from_slice(bytes);
            }
            Ok(())
        };
        timeout(limit, reading).await.unwrap_or(Err(late))?;
        Ok(whole.into())
    }

    async fn drive<T>(&mut self, wanted: impl Future<Output = T>) -> T {
        drive(&mut self.work, wanted).await
    }

    fn late(&self, what: &str, limit: Duration) -> Reason {
        let message = format!("{} did not answer {what} within {} s", self.server(), limit.as_secs_f32());
        Reason::new("upgrade-timeout", message)
    }

    fn broken(&self, error: &hyper::Error) -> Reason {
        let message = format!("the connection to {} broke: {}", self.server(), explain(error));
        Reason::new("reset", message)
    }

    fn unexpected(&self, what: &str) -> Reason {
        Reason::new("protocol", format!("{} answered {what}", self.server()))
    }

    fn too_large(&self) -> Reason {
        let (server, max) = (self.server(), self.target.max_message);
        Reason::new(
            "message-too-large",
            format!("{server} sent more than {max} bytes in one message; that is the limit"),
        )
    }
}

/// Waits for something that a connection brings, which has to be driven meanwhile.
async fn drive<T>(
    work: &mut Option<Pin<Box<dyn Future<Output = hyper::Result<()>>>>>,
    wanted: impl Future<Output = T>,
) -> T {
    let mut wanted = pin!(wanted);
    poll_fn(|cx| {
        // How it ended shows in what was wanted of it.
        if work.as_mut().is_some_and(|work| work.as_mut().poll(cx).is_ready()) {
            *work = None;
        }
        match wanted.as_mut().poll(cx) {
            Poll::Ready(what) => Poll::Ready(what),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

fn is_of_type(headers: &HeaderMap, wanted: &str) -> bool {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    said.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(wanted))
}
