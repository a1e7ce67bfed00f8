//! The demo server: something to talk to, for the demo, for tests and for whoever writes an extension.
//!
//! Owns: the loopback listener, who may come in, the HTTP routes and the controls ([`Handle`] in the process,
//! `/control/…` with a token from outside). Does not own: what a WebSocket says (`conversation`), the stream and
//! what is known about clients (`stream`).
//!
//! One server speaks all dialects at once, on `/ws` and `/` (STOMP and GraphQL for whoever offers their sub-protocols); the same stream is on `/events` (SSE) and `/poll`.
//! `/jira-webhook` adds to it, and `/` is a page to do so by hand.
//!
//! A server on loopback is within reach of every page that a browser shows. So a request must name this server as
//! its host (else a foreign name could be pointed at it), must come from this page, an extension or no browser at
//! all, and must declare JSON if it changes anything (a form cannot).

mod conversation;
mod graphql;
mod stomp;
mod stream;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{DefaultBodyLimit, FromRequest, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::Listener;
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use futures_util::{Stream, stream as futures};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;

pub use self::conversation::{CLOSE_TOKEN_EXPIRED, CLOSE_TOO_SLOW};
pub use self::stream::{Counts, Limits, NotATopic, Received, Topic};

use self::conversation::{Conversation, Language, Options, judge};
use self::stream::{Hub, Lost, Order, Portion, Reader, UpgradeAnswer, next_order, now_ms};

/// The header that carries the control token.
pub const TOKEN_HEADER: &str = "x-demo-token";

/// Largest frame, and largest message, that a WebSocket may send.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Largest body of a request.
const MAX_BODY: usize = 1024 * 1024;
/// What one poll answers at most; the client polls again for the rest.
const POLL_PORTION: Portion = Portion { messages: 1000, bytes: 8 * 1024 * 1024 };
/// What `/control/received` answers at most.
const RECEIVED_MESSAGES: usize = 1000;
const RECEIVED_BYTES: usize = 8 * 1024 * 1024;
/// How often an idle event stream shows that it is alive.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// How long clients have to leave when the server stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

const PAGE: &str = include_str!("page.html");

/// A bound server that does not serve yet.
#[derive(Debug)]
pub struct DemoServer {
    listener: StdListener,
    address: SocketAddr,
    token: String,
    hub: Arc<Hub>,
}

impl DemoServer {
    /// Binds 127.0.0.1; port 0 takes a free one.
    ///
    /// # Errors
    /// The port is taken or not allowed, or the system has no randomness for the token.
    pub fn bind(port: u16) -> io::Result<Self> {
        Self::bind_with(port, Limits::default())
    }

    /// As [`DemoServer::bind`], keeping no more than `limits` allow.
    ///
    /// # Errors
    /// As for [`DemoServer::bind`].
    pub fn bind_with(port: u16, limits: Limits) -> io::Result<Self> {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok(Self { listener, address, token: random_token()?, hub: Arc::new(Hub::new(limits)) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `/control/…` asks for in the header [`TOKEN_HEADER`]; new for every server.
    #[must_use]
    pub fn control_token(&self) -> &str {
        &self.token
    }

    /// The controls and the oracle, usable before, while and after the server runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { hub: Arc::clone(&self.hub) }
    }

    /// Serves until `shutdown`; then WebSockets are closed with 1001 and event streams end, for three seconds at
    /// most. If this future is dropped instead, all connections are cut.
    ///
    /// # Errors
    /// The listener cannot be handed to the runtime.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self { listener, address, token, hub } = self;
        let listener = Door { listener: TcpListener::from_std(listener)?, hub: Arc::clone(&hub) };
        let cut = CutOnDrop(Arc::clone(&hub));
        let stopped = {
            let hub = Arc::clone(&hub);
            async move { hub.stopped().await }
        };
        let app = Arc::new(App { names: Names::of(address.port()), token, hub: Arc::clone(&hub) });
        let mut serve = pin!(axum::serve(listener, router(app)).with_graceful_shutdown(stopped).into_future());
        tokio::select! {
            result = &mut serve => return result,
            () = shutdown => {}
        }
        hub.stop();
        hub.order(Order::Close { code: 1001, reason: "the server stops".to_owned() });
        let all_gone = async { tokio::join!(serve, hub.until(|now| now.connections + now.event_streams == 0)) };
        // Whoever is still there then is cut.
        let _ = tokio::time::timeout(STOP_GRACE, all_gone).await;
        drop(cut);
        Ok(())
    }
}

/// 128 bits in hexadecimal.
fn random_token() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Connections run in tasks of their own and would outlive the server.
struct CutOnDrop(Arc<Hub>);

impl Drop for CutOnDrop {
    fn drop(&mut self) {
        self.0.stop();
        self.0.order(Order::Drop);
    }
}

/// The listener, which closes new connections at once while the server refuses.
struct Door {
    listener: TcpListener,
    hub: Arc<Hub>,
}

impl Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.listener).await;
            if self.hub.is_refusing() {
                self.hub.count(|counts| counts.connections_refused += 1);
                continue;
            }
            if let Err(error) = stream.set_nodelay(true) {
                tracing::debug!(%error, "a connection stays with delayed writes");
            }
            return (stream, peer);
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Steers a server and tells what it received. Cheap to clone; works from any thread.
#[derive(Debug, Clone)]
pub struct Handle {
    hub: Arc<Hub>,
}

impl Handle {
    /// Puts a message into the stream and returns its cursor, which grows by one each time. An object gets the
    /// cursor as its member `cursor`; anything else is wrapped as `{"type":"message","data":…,"cursor":N}`.
    ///
    /// Never waits: who falls more than [`Limits::history_messages`] behind is dropped, so a longer burst must be
    /// published in parts.
    pub fn publish(&self, topic: Topic, message: impl Into<Value>) -> u64 {
        self.hub.publish(topic, &message.into().to_string())
    }

    /// As [`Handle::publish`], with every byte of the message as given.
    pub fn publish_raw(&self, topic: Topic, message: &RawValue) -> u64 {
        self.hub.publish(topic, message.get())
    }

    /// The cursor of the newest message.
    #[must_use]
    pub fn cursor(&self) -> u64 {
        self.hub.head()
    }

    /// Cuts all WebSockets and event streams without a closing handshake.
    pub fn drop_connections(&self) {
        self.hub.order(Order::Drop);
    }

    /// Closes all WebSockets with this code (as given, even one that the protocol forbids) and as much of the reason
    /// as fits, and ends all event streams.
    pub fn close_connections(&self, code: u16, reason: &str) {
        self.hub.order(Order::Close { code, reason: reason.to_owned() });
    }

    /// For this time, accepts TCP connections only to close them at once, the page's and the controls' included.
    /// Those that exist are not touched. Zero ends it.
    pub fn refuse_for(&self, time: Duration) {
        self.hub.refuse_for(time);
    }

    /// While silent, all connections stay, but nothing is read from them or sent to them: no answers, no pongs.
    /// New clients can connect and get no answer either. Only the page and the controls still work.
    pub fn go_silent(&self, silent: bool) {
        self.hub.go_silent(silent);
    }

    /// Answers WebSocket upgrades with this status instead (any but 1xx, which are ignored), and with a
    /// `Retry-After`, rounded up to seconds, if given. `None` lets them in again.
    pub fn answer_upgrades_with(&self, status: Option<StatusCode>, retry_after: Option<Duration>) {
        let status = status.filter(|status| !status.is_informational());
        self.hub.answer_upgrades_with(status.map(|status| UpgradeAnswer { status, retry_after }));
    }

    /// How many WebSockets are open now.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.counts().connections
    }

    /// The totals.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.hub.counts()
    }

    /// Waits until the counts satisfy `condition`, and returns them. Give it a deadline.
    pub async fn until(&self, condition: impl FnMut(&Counts) -> bool) -> Counts {
        self.hub.until(condition).await
    }

    /// The text and binary messages that the application took, in order, after number `after` (0: all), as far as
    /// [`Limits`] kept them: a first number above `after + 1` shows what is missing.
    #[must_use]
    pub fn received(&self, after: u64) -> Vec<Received> {
        self.hub.received(after)
    }
}

/// What a request handler needs.
struct App {
    hub: Arc<Hub>,
    names: Names,
    token: String,
}

fn router(app: Arc<App>) -> Router {
    let control = Router::new()
        .route("/drop", post(control_drop))
        .route("/close", post(control_close))
        .route("/refuse", post(control_refuse))
        .route("/silent", post(control_silent))
        .route("/answer", post(control_answer))
        .route("/publish", post(control_publish))
        .route("/received", get(control_received))
        .layer(from_fn_with_state(Arc::clone(&app), require_token));
    Router::new()
        .route("/", get(page_or_socket))
        .route("/ws", get(socket))
        .route("/events", get(events))
        .route("/poll", get(poll))
        .route("/jira-webhook", post(jira_webhook))
        .nest("/control", control)
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, "not-found", "there is nothing at this address"))
        .method_not_allowed_fallback(async || {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method-not-allowed", "this address takes another method")
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(Arc::clone(&app), guard))
        .with_state(app)
}

/// A request that is not followed: a status, a stable word, and a sentence of why, as JSON.
#[derive(Debug)]
struct Refusal {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad-request", message)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(json!({ "error": self.code, "message": self.message }))).into_response()
    }
}

impl From<QueryRejection> for Refusal {
    fn from(rejection: QueryRejection) -> Self {
        Self::bad_request(rejection.body_text())
    }
}

impl From<Lost> for Refusal {
    fn from(lost: Lost) -> Self {
        let Lost { requested, oldest, head } = lost;
        let message = format!("cursor {requested} cannot be resumed from; kept are {oldest} to {head}");
        Self::new(StatusCode::GONE, lost.reason(), message)
    }
}

// Who may come in.

/// The names under which this server may be addressed.
#[derive(Debug)]
struct Names(Vec<String>);

impl Names {
    fn of(port: u16) -> Self {
        let hosts = ["127.0.0.1", "localhost", "[::1]"];
        let mut names: Vec<_> = hosts.iter().map(|host| format!("{host}:{port}")).collect();
        if port == 80 {
            names.extend(hosts.map(str::to_owned));
        }
        Self(names)
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    /// Refuses a request that was meant for another server: with a name of its own pointed at 127.0.0.1, a foreign
    /// page would share this server's origin.
    fn check_host(&self, headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
        let host = only(headers, header::HOST).unwrap_or_default();
        let authority = uri.authority().map(|authority| authority.as_str());
        if self.has(host) && authority.is_none_or(|authority| self.has(authority)) {
            return Ok(());
        }
        let message = format!("the Host header must name this server: {}", self.0.join(", "));
        Err(Refusal::new(StatusCode::FORBIDDEN, "host-not-allowed", message))
    }

    /// Refuses a browser that shows somebody else's page. Without an `Origin` it is no browser, or a plain
    /// navigation, which changes nothing and shows its answer to nobody.
    fn check_origin(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        if !headers.contains_key(header::ORIGIN) {
            return Ok(());
        }
        let origin = only(headers, header::ORIGIN).unwrap_or_default();
        let (scheme, rest) = origin.split_once("://").unwrap_or_default();
        let allowed = match scheme {
            "http" => self.has(rest),
            "chrome-extension" | "moz-extension" => !rest.is_empty(),
            _ => false,
        };
        if allowed {
            return Ok(());
        }
        let message = "the Origin header must be absent, this server's own page, or an extension";
        Err(Refusal::new(StatusCode::FORBIDDEN, "origin-not-allowed", message))
    }
}

/// The header's value, if it stands there once and is text.
fn only(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    }
}

/// Stands before everything, and gives every answer the headers that keep it from being used elsewhere.
async fn guard(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let headers = request.headers();
    let checked = app.names.check_host(headers, request.uri()).and_then(|()| app.names.check_origin(headers));
    let mut response = match checked {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn require_token(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let given = only(request.headers(), HeaderName::from_static(TOKEN_HEADER)).unwrap_or_default();
    if is_same_secret(given.as_bytes(), app.token.as_bytes()) {
        return next.run(request).await;
    }
    let message = format!("the header {TOKEN_HEADER} must carry the token that the server gave when it started");
    Refusal::new(StatusCode::UNAUTHORIZED, "token-needed", message).into_response()
}

/// Compares in a time that does not tell how much is right.
fn is_same_secret(given: &[u8], secret: &[u8]) -> bool {
    given.len() == secret.len() && given.iter().zip(secret).fold(0, |differences, (a, b)| differences | (a ^ b)) == 0
}

/// A JSON body. An empty one counts as `{}`.
struct Body<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let kind = only(request.headers(), header::CONTENT_TYPE).unwrap_or_default();
        let essence = kind.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let message = "the content-type must be application/json";
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "json-needed", message));
        }
        let body = Bytes::from_request(request, state).await.map_err(|rejection: BytesRejection| {
            let code = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE { "too-large" } else { "bad-request" };
            Refusal::new(rejection.status(), code, rejection.body_text())
        })?;
        let body = if body.is_empty() { Bytes::from_static(b"{}") } else { body };
        let value = serde_json::from_slice(&body);
        value.map(Self).map_err(|error| Refusal::bad_request(format!("the body cannot be read: {error}")))
    }
}

// The page and the transports.

type UpgradeRequest = Result<WebSocketUpgrade, WebSocketUpgradeRejection>;
type Asked<T> = Result<Query<T>, QueryRejection>;

async fn page_or_socket(
    app: State<Arc<App>>,
    headers: HeaderMap,
    options: Asked<Options>,
    request: UpgradeRequest,
) -> Result<Response, Refusal> {
    if only(&headers, header::UPGRADE).is_some_and(|name| name.eq_ignore_ascii_case("websocket")) {
        return socket(app, headers, options, request).await;
    }
    let nonce = random_token()
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "no-randomness", error.to_string()))?;
    Ok(page(&nonce).into_response())
}

/// The page may run its own script, use its own style and talk to this server, and nothing else.
fn page(nonce: &str) -> impl IntoResponse + use<> {
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let headers =
        [(header::CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (header::CONTENT_SECURITY_POLICY, policy)];
    (headers, PAGE.replace("{nonce}", nonce))
}

async fn socket(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    options: Asked<Options>,
    request: UpgradeRequest,
) -> Result<Response, Refusal> {
    let hub = Arc::clone(&app.hub);
    hub.silence(false).await;
    let mut request = request.map_err(|rejection| {
        let message = format!("this address speaks WebSocket: {}", rejection.body_text());
        Refusal::new(rejection.status(), "upgrade-needed", message)
    })?;
    let Query(options) = options?;
    if let Some(answer) = hub.upgrade_answer() {
        hub.count(|counts| counts.upgrades_refused += 1);
        return Ok(refused_upgrade(answer));
    }
    let claims = match bearer(&headers).or(options.token.as_deref()).map(|token| judge(token, now_ms())) {
        None => None,
        Some(Ok(claims)) => Some(claims),
        Some(Err(_)) => {
            hub.count(|counts| counts.upgrades_refused += 1);
            return Ok(refused_upgrade(UpgradeAnswer { status: StatusCode::UNAUTHORIZED, retry_after: None }));
        }
    };
    let protocol = first_protocol(&headers);
    let name = protocol.as_ref().and_then(|name| name.to_str().ok()).unwrap_or_default();
    let language = Language::of(name);
    if let Some(protocol) = protocol {
        request.set_selected_protocol(protocol);
    }
    let orders = hub.orders();
    let request = request.max_frame_size(MAX_MESSAGE).max_message_size(MAX_MESSAGE);
    Ok(request.on_upgrade(move |socket| Conversation::run(hub, socket, options, claims, language, orders)))
}

/// The client's first choice (axum sorts them): this server speaks under any name.
fn first_protocol(headers: &HeaderMap) -> Option<HeaderValue> {
    let offered = headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    let first = offered.split(',').map(str::trim).find(|name| !name.is_empty())?;
    HeaderValue::from_str(first).ok()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = only(headers, header::AUTHORIZATION)?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refused_upgrade(UpgradeAnswer { status, retry_after }: UpgradeAnswer) -> Response {
    let message = format!("the upgrade is answered with {status}");
    let mut response = Refusal::new(status, "upgrade-refused", message).into_response();
    let headers = response.headers_mut();
    if let Some(time) = retry_after {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    if status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// What a request for the stream may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct StreamQuery {
    /// Only what comes after this message; otherwise all that is kept (poll) or only what is new (events).
    cursor: Option<u64>,
    /// Topics with commas between them; otherwise all, without what is addressed to single users.
    topics: Option<String>,
}

impl StreamQuery {
    fn topics(&self) -> Result<Option<BTreeSet<Topic>>, Refusal> {
        let Some(topics) = &self.topics else { return Ok(None) };
        let topics: Result<_, NotATopic> = topics.split(',').map(str::parse).collect();
        topics.map(Some).map_err(|error| Refusal::bad_request(error.to_string()))
    }
}

async fn poll(State(app): State<Arc<App>>, query: Asked<StreamQuery>) -> Result<Response, Refusal> {
    app.hub.silence(false).await;
    let Query(query) = query?;
    let mut reader = app.hub.reader_after(query.topics()?, query.cursor)?;
    // Only a publisher could overtake a reader that was placed a moment ago, by the whole history.
    let portion = app.hub.read(&mut reader, POLL_PORTION).unwrap_or_default();
    if portion.is_empty() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let messages: Vec<_> = portion.iter().map(|delivery| delivery.text.as_str()).collect();
    let body = format!("[{}]", messages.join(","));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

async fn events(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    query: Asked<StreamQuery>,
) -> Result<Response, Refusal> {
    let hub = &app.hub;
    hub.silence(false).await;
    let Query(query) = query?;
    let seen = HeaderName::from_static("last-event-id");
    let seen = only(&headers, seen).and_then(|cursor| cursor.parse().ok()).or(query.cursor);
    let topics = query.topics()?;
    let head = hub.head();
    let (reader, lost) = match hub.reader_after(topics.clone(), seen.or(Some(head))) {
        Ok(reader) => (reader, None),
        Err(lost) => (hub.reader_after(topics, Some(lost.head))?, Some(lost)),
    };
    Ok(Sse::new(EventStream::open(hub, reader, lost)).into_response())
}

/// One event stream: a reader that is also asked to end.
struct EventStream {
    hub: Arc<Hub>,
    reader: Reader,
    orders: broadcast::Receiver<Order>,
    ready: VecDeque<Event>,
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.hub.count(|counts| counts.event_streams -= 1);
    }
}

impl EventStream {
    /// Begins with the news that the stream cannot be resumed, if that is so.
    fn open(hub: &Arc<Hub>, reader: Reader, lost: Option<Lost>) -> impl Stream<Item = io::Result<Event>> + use<> {
        hub.count(|counts| counts.event_streams += 1);
        let ready = lost.map(|lost| Event::default().data(lost.message().to_string())).into_iter().collect();
        let events = Self { hub: Arc::clone(hub), reader, orders: hub.orders(), ready };
        futures::unfold(events, async |mut events| events.next().await.map(|event| (event, events)))
    }

    async fn next(&mut self) -> Option<io::Result<Event>> {
        let hub = Arc::clone(&self.hub);
        let Self { reader, orders, ready, .. } = self;
        tokio::select! {
            biased;
            order = next_order(orders) => match order {
                // An error makes the HTTP server cut the connection instead of ending the body.
                Order::Drop => Some(Err(io::ErrorKind::ConnectionAborted.into())),
                Order::Close { .. } => None,
            },
            event = hub.unless_silent(Self::following(&hub, reader, ready)) => event.map(Ok),
        }
    }

    /// The next event, or a sign of life; none when the history has moved past the reader.
    async fn following(hub: &Hub, reader: &mut Reader, ready: &mut VecDeque<Event>) -> Option<Event> {
        let mut head = hub.watch_head();
        loop {
            if let Some(event) = ready.pop_front() {
                return Some(event);
            }
            let Ok(portion) = hub.read(reader, Portion { messages: 64, bytes: 256 * 1024 }) else {
                hub.count(|counts| counts.too_slow += 1);
                return None;
            };
            ready.extend(
                portion
                    .iter()
                    .map(|delivery| Event::default().id(delivery.cursor.to_string()).data(delivery.text.as_str())),
            );
            if ready.is_empty() {
                tokio::select! {
                    _ = head.changed() => {}
                    () = tokio::time::sleep(KEEP_ALIVE) => return Some(Event::default().comment("alive")),
                }
            }
        }
    }
}

async fn jira_webhook(
    State(app): State<Arc<App>>,
    Body(update): Body<Box<RawValue>>,
) -> Result<impl IntoResponse, Refusal> {
    app.hub.silence(false).await;
    if !update.get().trim_start().starts_with('{') {
        return Err(Refusal::bad_request("a Jira update is a JSON object"));
    }
    let message = format!(r#"{{"type":"jira-update","data":{update}}}"#);
    let cursor = app.hub.publish(Topic::Everyone, &message);
    Ok((StatusCode::ACCEPTED, Json(json!({ "cursor": cursor }))))
}

// The controls.

/// Done, and who was there when it was.
fn done(app: &App) -> Json<Value> {
    Json(json!({ "ok": true, "connections": app.hub.counts().connections }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

async fn control_drop(State(app): State<Arc<App>>, Body(Nothing {}): Body<Nothing>) -> Json<Value> {
    app.hub.order(Order::Drop);
    done(&app)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Close {
    code: u16,
    #[serde(default)]
    reason: String,
}

async fn control_close(State(app): State<Arc<App>>, Body(Close { code, reason }): Body<Close>) -> Json<Value> {
    app.hub.order(Order::Close { code, reason });
    done(&app)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Refuse {
    for_ms: u32,
}

async fn control_refuse(State(app): State<Arc<App>>, Body(Refuse { for_ms }): Body<Refuse>) -> Json<Value> {
    app.hub.refuse_for(Duration::from_millis(for_ms.into()));
    done(&app)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Silent {
    on: bool,
}

async fn control_silent(State(app): State<Arc<App>>, Body(Silent { on }): Body<Silent>) -> Json<Value> {
    app.hub.go_silent(on);
    done(&app)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    status: Option<u16>,
    retry_after_ms: Option<u32>,
}

async fn control_answer(
    State(app): State<Arc<App>>,
    Body(Answer { status, retry_after_ms }): Body<Answer>,
) -> Result<Json<Value>, Refusal> {
    let answer = match status {
        None => None,
        Some(code) => {
            let status = StatusCode::from_u16(code).ok().filter(|status| !status.is_informational());
            let status = status.ok_or_else(|| Refusal::bad_request("status is null or 200 to 999"))?;
            let retry_after = retry_after_ms.map(|time| Duration::from_millis(time.into()));
            Some(UpgradeAnswer { status, retry_after })
        }
    };
    app.hub.answer_upgrades_with(answer);
    Ok(done(&app))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Publish {
    topic: Option<Topic>,
    message: Box<RawValue>,
}

async fn control_publish(
    State(app): State<Arc<App>>,
    Body(Publish { topic, message }): Body<Publish>,
) -> impl IntoResponse {
    let cursor = app.hub.publish(topic.unwrap_or(Topic::Everyone), message.get());
    Json(json!({ "ok": true, "cursor": cursor }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ReceivedQuery {
    after: u64,
}

async fn control_received(State(app): State<Arc<App>>, query: Asked<ReceivedQuery>) -> Result<Json<Value>, Refusal> {
    let Query(ReceivedQuery { after }) = query?;
    let mut bytes = 0;
    let messages: Vec<_> = app
        .hub
        .received(after)
        .iter()
        .take(RECEIVED_MESSAGES)
        .take_while(|entry| {
            // The first is given however large it is, or nobody would get past it.
            let is_first = bytes == 0;
            bytes += entry.payload.len() + 1;
            is_first || bytes <= RECEIVED_BYTES
        })
        .map(as_json)
        .collect();
    Ok(Json(json!({ "counts": app.hub.counts(), "cursor": app.hub.head(), "messages": messages })))
}

fn as_json(entry: &Received) -> Value {
    let mut message = json!({ "number": entry.number, "connection": entry.connection, "at": entry.at_ms });
    match (entry.text(), entry.binary()) {
        (Some(text), _) => message["text"] = json!(text),
        (None, data) => message["binary"] = json!(BASE64_STANDARD.encode(data.unwrap_or_default())),
    }
    message
}
