//! One WebSocket of the demo server: what a client may say, and what it is answered.
//!
//! Owns: the dialects ([`ClientMessage`]), the loop that reads, answers and shows the stream ([`Conversation`]),
//! the rule which tokens are good ([`judge`]), and the generators that play a task ([`Plan`]). Does not own: the
//! upgrade and who may ask for it (`super`), nor the stream itself (`super::stream`).
//!
//! One task per connection owns the socket whole. It reads a message, answers it, and only then reads on:
//! - so a ping, which is answered while reading, is answered after everything before it was taken;
//! - so a client that does not read its echoes is not read from either.
//!
//! Replies and stream share one flush, made when nothing more is ready.

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::Error;
use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::{FutureExt as _, SinkExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::graphql::{self, Graphql, Init, Operation, Said};
use super::stomp::{self, Frame, Stomp};
use super::stream::{Hub, Order, Payload, Portion, Reader, Topic, is_name, next_order, now_ms};

/// Close code for a client that the history moved past; private use, so that no library acts on it by itself.
pub const CLOSE_TOO_SLOW: u16 = 4008;
/// Close code for a client whose token expired.
pub const CLOSE_TOKEN_EXPIRED: u16 = 4401;

/// How long a closing handshake may take.
const FAREWELL: Duration = Duration::from_secs(2);
/// How long the stream waits for a named client to resume or subscribe.
const HOLD: Duration = Duration::from_secs(1);
/// What is taken from the history between two looks at the socket.
const PORTION: Portion = Portion { messages: 64, bytes: 256 * 1024 };
/// Topics that one connection may be subscribed to.
const MAX_TOPICS: usize = 1024;
/// Generators that may run at once.
const MAX_GENERATORS: usize = 64;

/// What the query of the WebSocket's URL may ask for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Options {
    /// A name that stays the same over reconnects, so that a resume finds the client's subscriptions. The stream
    /// of a named client begins with its first resume or subscription, or after [`HOLD`]: a message must not
    /// overtake the replay that the client is about to ask for.
    pub(super) client: String,
    /// `no`: the first message is an answer.
    welcome: Choice,
    /// Whether anything but `auth` and `ping` needs an `auth` first.
    auth: Requirement,
    /// A token, for clients that can set no header.
    pub(super) token: Option<String>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Choice {
    #[default]
    Yes,
    No,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Requirement {
    #[default]
    Optional,
    Required,
}

/// Why a client's message was not followed.
#[derive(Debug, PartialEq, Eq)]
struct Complaint {
    code: &'static str,
    message: String,
}

impl Complaint {
    fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

/// Messages that are passed on to the room they name.
#[derive(Debug, PartialEq, Eq)]
struct Relay {
    kind: &'static str,
    /// Kept in the stream and shown to the sender as well; otherwise of the moment and for the others alone.
    kept: bool,
}

const RELAYS: [Relay; 5] = [
    Relay { kind: "chat_message", kept: true },
    Relay { kind: "event_update", kept: true },
    Relay { kind: "presence_update", kept: false },
    Relay { kind: "typing_start", kept: false },
    Relay { kind: "typing_stop", kept: false },
];

/// The two members that decide how a message is read.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
}

/// Every other member that some message has.
#[derive(Deserialize)]
struct Fields<'a> {
    token: Option<String>,
    #[serde(rename = "userId")]
    user: Option<String>,
    channel: Option<String>,
    #[serde(rename = "taskId")]
    task: Option<String>,
    room: Option<String>,
    to: Option<String>,
    cursor: Option<Cursor>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    steps: Option<u32>,
    interval_ms: Option<u64>,
    #[serde(default)]
    fail: bool,
}

/// A cursor as a number, or in a string as templates make it.
#[derive(Deserialize)]
#[serde(untagged)]
enum Cursor {
    Number(u64),
    Text(String),
}

/// What a client said. Borrows from the text of the message.
#[derive(Debug)]
enum ClientMessage<'a> {
    Echo,
    Ping,
    Heartbeat,
    /// Anything to be counted: taken, and acknowledged if it has an id.
    Taken,
    Auth {
        token: String,
        user: Option<String>,
    },
    Subscribe {
        topic: Topic,
        user: Option<String>,
    },
    Unsubscribe(Topic),
    Resume(u64),
    Relay {
        relay: &'static Relay,
        room: String,
        data: Option<&'a RawValue>,
    },
    Direct {
        to: String,
        data: Option<&'a RawValue>,
    },
    Start(Plan),
}

impl<'a> ClientMessage<'a> {
    /// Reads a text frame and the id in it. What is no JSON object with one string `type` belongs to no dialect and
    /// is echoed.
    fn parse(text: &'a str) -> Result<(Self, Option<&'a str>), Complaint> {
        let Ok(Head { kind, id }) = serde_json::from_str(text) else { return Ok((Self::Echo, None)) };
        let id = id.map(RawValue::get);
        let message = match &*kind {
            "echo" => return Ok((Self::Echo, None)),
            "ping" => Self::Ping,
            "heartbeat" => Self::Heartbeat,
            "message" => Self::Taken,
            kind => {
                let fields = serde_json::from_str(text)
                    .map_err(|error| Complaint::new("bad-field", format!("cannot read this {kind}: {error}")))?;
                Self::from_fields(kind, fields)?
            }
        };
        if id.is_some_and(|id| id.len() > 256 || !id.starts_with(|first: char| first == '"' || first.is_ascii_digit()))
        {
            return Err(Complaint::new("bad-field", "id is a string or a number of at most 256 bytes"));
        }
        Ok((message, id))
    }

    fn from_fields(kind: &str, fields: Fields<'a>) -> Result<Self, Complaint> {
        if let Some(relay) = RELAYS.iter().find(|relay| relay.kind == kind) {
            return Ok(Self::Relay { relay, room: name(kind, "room", fields.room)?, data: fields.data });
        }
        Ok(match kind {
            "auth" => Self::Auth { token: fields.token.unwrap_or_default(), user: fields.user },
            "subscribe" => Self::Subscribe { user: fields.user.clone(), topic: fields.topic(kind)? },
            "unsubscribe" => Self::Unsubscribe(fields.topic(kind)?),
            "join_room" | "join" => {
                Self::Subscribe { topic: Topic::Room(name(kind, "room", fields.room)?), user: fields.user }
            }
            "leave_room" | "leave" => Self::Unsubscribe(Topic::Room(name(kind, "room", fields.room)?)),
            "resume" => Self::Resume(fields.cursor()?),
            "direct_message" => Self::Direct { to: name(kind, "to", fields.to)?, data: fields.data },
            "start-task" => Self::Start(Plan::new(Topic::Task(name(kind, "taskId", fields.task.clone())?), &fields)?),
            "start-processing" => {
                Self::Start(Plan::new(Topic::Channel(name(kind, "channel", fields.channel.clone())?), &fields)?)
            }
            kind => return Err(Complaint::new("unknown-type", format!("there is no message type {kind:?}"))),
        })
    }
}

impl Fields<'_> {
    fn topic(self, kind: &str) -> Result<Topic, Complaint> {
        match (self.channel, self.task, self.room) {
            (Some(channel), None, None) => name(kind, "channel", Some(channel)).map(Topic::Channel),
            (None, Some(task), None) => name(kind, "taskId", Some(task)).map(Topic::Task),
            (None, None, Some(room)) => name(kind, "room", Some(room)).map(Topic::Room),
            _ => Err(Complaint::new("bad-field", format!("{kind} needs one of channel, taskId and room"))),
        }
    }

    fn cursor(&self) -> Result<u64, Complaint> {
        let cursor = match &self.cursor {
            Some(Cursor::Number(cursor)) => Some(*cursor),
            Some(Cursor::Text(cursor)) => cursor.parse().ok(),
            None => None,
        };
        cursor.ok_or_else(|| Complaint::new("bad-field", "resume needs the cursor of a message"))
    }
}

fn name(kind: &str, field: &str, value: Option<String>) -> Result<String, Complaint> {
    value
        .filter(|value| is_name(value))
        .ok_or_else(|| Complaint::new("bad-field", format!("{kind} needs {field}, a string of 1 to 200 bytes")))
}

/// What a good token says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Claims {
    /// Milliseconds since the Unix epoch.
    expires_at: Option<u64>,
    user: Option<String>,
}

/// Decides on a token by its looks, so that every outcome can be had without a secret: empty or beginning with
/// `invalid` is refused, `expired` is expired, a JWT obeys its `exp` and names its user in `sub` (the signature is
/// not checked), and anything else is good for ever.
pub(super) fn judge(token: &str, now_ms: u64) -> Result<Claims, &'static str> {
    #[derive(Deserialize)]
    struct Jwt {
        exp: Option<f64>,
        sub: Option<String>,
    }
    if token.is_empty() || token.starts_with("invalid") {
        return Err("invalid");
    }
    if token == "expired" {
        return Err("expired");
    }
    let mut parts = token.split('.');
    let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Ok(Claims::default());
    };
    let payload = BASE64_URL_SAFE_NO_PAD.decode(payload).map_err(|_| "invalid")?;
    let jwt: Jwt = serde_json::from_slice(&payload).map_err(|_| "invalid")?;
    // A float saturates when it becomes an integer: an absurd `exp` is long ago or never.
    let expires_at = jwt.exp.map(|seconds| (seconds * 1000.0) as u64);
    if expires_at.is_some_and(|at| at <= now_ms) {
        return Err("expired");
    }
    Ok(Claims { expires_at, user: jwt.sub.filter(|user| is_name(user)) })
}

/// How a conversation ended.
#[derive(Debug)]
enum Ended {
    /// The socket failed or was shut without a closing handshake.
    Gone(String),
    /// The client began a closing handshake.
    ByClient,
    /// The server ends it with a closing handshake.
    Close { code: u16, reason: String },
    /// The server lets the socket go without a word.
    Dropped,
}

impl From<Order> for Ended {
    fn from(order: Order) -> Self {
        match order {
            Order::Drop => Self::Dropped,
            Order::Close { code, reason } => Self::Close { code, reason },
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone(why) => f.write_str(why),
            Self::ByClient => f.write_str("the client closed it"),
            Self::Close { code, reason } => write!(f, "the server closes it with {code}: {reason}"),
            Self::Dropped => f.write_str("the server was told to drop it"),
        }
    }
}

impl Ended {
    fn broken(error: Error) -> Self {
        Self::Gone(error.to_string())
    }

    /// What a failed read means: the protocol names codes for what the client did wrong. The WebSocket library that
    /// axum builds on is not ours to name, so its messages tell the cases apart; a test holds them.
    fn failed_read(error: &Error) -> Self {
        const CODES: [(&str, u16); 3] =
            [("Space limit exceeded", 1009), ("UTF-8", 1007), ("WebSocket protocol error", 1002)];
        let text = error.to_string();
        let code = CODES.iter().find(|(beginning, _)| text.starts_with(beginning)).map(|(_, code)| *code);
        match code {
            Some(code) if !text.contains("without closing handshake") => Self::Close { code, reason: text },
            _ => Self::Gone(text),
        }
    }
}

/// Frees what a connection holds, however it ends.
struct Seat {
    hub: Arc<Hub>,
    id: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.hub.depart(self.id);
    }
}

/// One client's WebSocket and what it has said about itself.
pub(super) struct Conversation {
    hub: Arc<Hub>,
    socket: WebSocket,
    id: u64,
    client: String,
    welcome: bool,
    reader: Reader,
    user: Option<String>,
    may_speak: bool,
    expires: Option<Instant>,
    holds_until: Option<Instant>,
    language: Language,
}

/// What is spoken on a connection besides WebSocket.
#[derive(Debug)]
pub(super) enum Language {
    /// The demo's own dialects, all at once.
    Own,
    Stomp(Stomp),
    Graphql(Graphql),
}

impl Language {
    /// The one that a sub-protocol stands for.
    pub(super) fn of(protocol: &str) -> Self {
        match protocol {
            graphql::PROTOCOL => Self::Graphql(Graphql::default()),
            name if stomp::PROTOCOLS.contains(&name) => Self::Stomp(Stomp::default()),
            _ => Self::Own,
        }
    }
}

impl Conversation {
    /// Talks until either side ends it. `orders` began before the upgrade was answered, so that none is missed;
    /// `claims` come with a token that was given with the upgrade.
    pub(super) async fn run(
        hub: Arc<Hub>,
        socket: WebSocket,
        options: Options,
        claims: Option<Claims>,
        language: Language,
        mut orders: broadcast::Receiver<Order>,
    ) {
        let seat = Seat { id: hub.arrive(), hub: Arc::clone(&hub) };
        let mut conversation = Self {
            id: seat.id,
            reader: hub.reader_from_now(seat.id),
            welcome: options.welcome == Choice::Yes,
            user: None,
            may_speak: options.auth == Requirement::Optional,
            expires: None,
            holds_until: (!options.client.is_empty()).then(|| Instant::now() + HOLD),
            client: options.client,
            language,
            hub: Arc::clone(&hub),
            socket,
        };
        if let Some(claims) = claims {
            conversation.accept(claims);
        }
        tracing::info!(connection = seat.id, "client connected");
        let ended = tokio::select! {
            biased;
            order = next_order(&mut orders) => order.into(),
            ended = hub.unless_silent(conversation.talk()) => match ended { Err(ended) => ended },
        };
        tracing::info!(connection = seat.id, cause = %ended, "client gone");
        conversation.part(ended).await;
    }

    async fn talk(&mut self) -> Result<Infallible, Ended> {
        if self.welcome && matches!(self.language, Language::Own) {
            let text = "Welcome to the demo server of websocket-bridge";
            self.reply(json!({ "type": "connection", "message": text, "connection": self.id })).await?;
        }
        let mut head = self.hub.watch_head();
        loop {
            // Both directions get their turn, and nothing is flushed while there is more to say.
            let frame = self.socket.next().now_or_never();
            let heard = frame.is_some();
            if let Some(frame) = frame {
                self.take(frame).await?;
            }
            if self.show_stream().await? || heard {
                continue;
            }
            self.flush().await?;
            tokio::select! {
                frame = self.socket.next() => self.take(frame).await?,
                _ = head.changed() => {}
                () = at(self.holds_until) => self.holds_until = None,
                () = at(self.expires) => return self.expire().await,
            }
        }
    }

    /// Ends the connection as its end asks, within [`FAREWELL`].
    async fn part(&mut self, ended: Ended) {
        let last_word = match ended {
            Ended::Gone(_) | Ended::Dropped => return,
            Ended::ByClient => None,
            Ended::Close { code, reason } => Some(CloseFrame { code, reason: close_reason(&reason).into() }),
        };
        let handshake = async {
            if let Some(frame) = last_word {
                self.socket.send(Message::Close(Some(frame))).await?;
            }
            // What still arrives was sent before the client knew; nothing answers it, pings included.
            while self.socket.next().await.transpose()?.is_some() {}
            Ok::<(), Error>(())
        };
        // However it goes, the socket is closed next.
        let _ = timeout(FAREWELL, handshake).await;
    }

    // Towards the client.

    async fn feed(&mut self, message: Message) -> Result<(), Ended> {
        let position = self.reader.position();
        tokio::select! {
            biased;
            sent = self.socket.feed(message) => sent.map_err(Ended::broken),
            () = self.hub.overtaken(position) => Err(self.too_slow()),
        }
    }

    async fn flush(&mut self) -> Result<(), Ended> {
        let position = self.reader.position();
        tokio::select! {
            biased;
            sent = self.socket.flush() => sent.map_err(Ended::broken),
            () = self.hub.overtaken(position) => Err(self.too_slow()),
        }
    }

    fn too_slow(&self) -> Ended {
        self.hub.count(|counts| counts.too_slow += 1);
        let reason = "too slow: the stream moved past what this connection had taken".to_owned();
        Ended::Close { code: CLOSE_TOO_SLOW, reason }
    }

    async fn reply(&mut self, message: Value) -> Result<(), Ended> {
        self.feed(Message::text(message.to_string())).await
    }

    async fn complain(&mut self, Complaint { code, message }: Complaint) -> Result<(), Ended> {
        self.reply(json!({ "type": "error", "code": code, "message": message })).await
    }

    /// Sends the next portion of the stream and says how many messages that was.
    async fn show_portion(&mut self) -> Result<usize, Ended> {
        let portion = self.hub.read(&mut self.reader, PORTION).map_err(|_| self.too_slow())?;
        let count = portion.len();
        for delivery in portion {
            let messages = match &self.language {
                Language::Own => {
                    self.feed(Message::Text(delivery.text)).await?;
                    continue;
                }
                Language::Stomp(stomp) => stomp.messages(&delivery),
                Language::Graphql(graphql) => graphql.messages(&delivery),
            };
            for message in messages {
                self.feed(Message::text(message)).await?;
            }
        }
        Ok(count)
    }

    async fn show_stream(&mut self) -> Result<bool, Ended> {
        Ok(self.holds_until.is_none() && self.show_portion().await? > 0)
    }

    // From the client.

    async fn take(&mut self, frame: Option<Result<Message, Error>>) -> Result<(), Ended> {
        match frame {
            None => Err(Ended::Gone("the connection ended".to_owned())),
            Some(Err(error)) => Err(Ended::failed_read(&error)),
            Some(Ok(Message::Close(_))) => Err(Ended::ByClient),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Ok(Message::Binary(data))) => {
                self.hub.record(self.id, Payload::Binary(data.clone()));
                if self.may_speak { self.feed(Message::Binary(data)).await } else { self.complain(must_auth()).await }
            }
            Some(Ok(Message::Text(text))) => {
                self.hub.record(self.id, Payload::Text(text.clone()));
                match self.language {
                    Language::Own => self.answer(text).await,
                    Language::Stomp(_) => self.answer_frame(&text).await,
                    Language::Graphql(_) => self.answer_operation(&text).await,
                }
            }
        }
    }

    async fn answer(&mut self, text: Utf8Bytes) -> Result<(), Ended> {
        let (message, id) = match ClientMessage::parse(&text) {
            Ok(parsed) => parsed,
            Err(complaint) => return self.complain(complaint).await,
        };
        if !self.may_speak && !matches!(message, ClientMessage::Auth { .. } | ClientMessage::Ping) {
            return self.complain(must_auth()).await;
        }
        match message {
            ClientMessage::Echo => self.feed(Message::Text(text.clone())).await,
            ClientMessage::Ping => self.feed(Message::text(with_id("pong", id))).await,
            ClientMessage::Heartbeat => self.reply(json!({ "type": "heartbeat", "timestamp": now_ms() })).await,
            ClientMessage::Taken => self.once(id, |_| {}).await,
            ClientMessage::Auth { token, user } => self.authenticate(&token, user).await,
            ClientMessage::Subscribe { topic, user } => self.subscribe(topic, user).await,
            ClientMessage::Unsubscribe(topic) => self.unsubscribe(topic).await,
            ClientMessage::Resume(cursor) => self.resume(cursor).await,
            ClientMessage::Relay { relay, room, data } => self.relay(id, relay, room, data).await,
            ClientMessage::Direct { to, data } => {
                let kind = "direct_message";
                self.once(id, |this| {
                    let message = this.envelope(id, kind, None, data);
                    this.hub.publish(Topic::User(to), &message);
                })
                .await
            }
            ClientMessage::Start(plan) => self.start(plan).await,
        }
    }

    /// The same for what is said in STOMP.
    async fn answer_frame(&mut self, text: &str) -> Result<(), Ended> {
        if text.trim_matches(['\r', '\n']).is_empty() {
            return Ok(());
        }
        let Some(frame) = Frame::parse(text) else { return self.refuse_frame("that is no frame of STOMP").await };
        let topic = frame.header("destination").map(str::parse::<Topic>);
        let Language::Stomp(stomp) = &mut self.language else { return Ok(()) };
        let is_connected = stomp.is_connected;
        match (&*frame.command, frame.header("id"), topic) {
            ("CONNECT" | "STOMP", ..) => return self.connect(frame.header("passcode")).await,
            _ if !is_connected => return self.refuse_frame("connect first").await,
            ("SUBSCRIBE", Some(id), Some(Ok(topic))) => {
                stomp.subscriptions.insert(id.to_owned(), topic.clone());
                if !self.follow(topic) {
                    return self.refuse_frame("too many subscriptions").await;
                }
            }
            ("UNSUBSCRIBE", Some(id), _) => {
                let left = stomp.subscriptions.remove(id);
                let left = left.filter(|topic| !stomp.subscriptions.values().any(|other| other == topic));
                self.unfollow(left);
            }
            ("SEND", _, Some(Ok(topic))) => {
                let json = serde_json::from_str::<&RawValue>(&frame.body).map(ToString::to_string);
                self.hub.publish(topic, &json.unwrap_or_else(|_| Value::from(&*frame.body).to_string()));
            }
            ("DISCONNECT", ..) => {}
            _ => {
                return self
                    .refuse_frame("it is not known here, or lacks an id or a destination that is a topic")
                    .await;
            }
        }
        match frame.header("receipt") {
            Some(id) => self.feed(Message::text(stomp::written("RECEIPT", &[("receipt-id", id)], ""))).await,
            None => Ok(()),
        }
    }

    async fn connect(&mut self, passcode: Option<&str>) -> Result<(), Ended> {
        match passcode.map(|passcode| judge(passcode, now_ms())) {
            Some(Ok(claims)) => self.accept(claims),
            Some(Err(reason)) => return self.refuse_frame(reason).await,
            None if self.may_speak => {}
            None => return self.refuse_frame("a passcode is needed").await,
        }
        if let Language::Stomp(stomp) = &mut self.language {
            stomp.is_connected = true;
        }
        let headers = [("version", "1.2"), ("heart-beat", "0,0")];
        self.feed(Message::text(stomp::written("CONNECTED", &headers, ""))).await
    }

    /// The same for what is said in GraphQL. The close codes are those of its protocol.
    async fn answer_operation(&mut self, text: &str) -> Result<(), Ended> {
        let end = |code, reason: &str| Err(Ended::Close { code, reason: reason.to_owned() });
        let Language::Graphql(graphql) = &mut self.language else { return Ok(()) };
        match (serde_json::from_str(text), graphql.is_acknowledged) {
            (Err(_), _) => end(4400, "Invalid message received"),
            (Ok(Said::ConnectionInit { payload }), false) => self.acknowledge(&payload).await,
            (Ok(Said::ConnectionInit { .. }), true) => end(4429, "Too many initialisation requests"),
            (Ok(Said::Ping {}), _) => self.reply(json!({ "type": "pong" })).await,
            (Ok(Said::Pong {}), _) => Ok(()),
            (Ok(_), false) => end(4401, "Unauthorized"),
            (Ok(Said::Subscribe { id, .. }), true) if graphql.operations.contains_key(&id) => {
                end(4409, &format!("Subscriber for {id} already exists"))
            }
            (Ok(Said::Subscribe { id, payload: Operation { variables } }), true) => {
                let Ok(topic) = variables.topic.parse::<Topic>() else {
                    let errors = json!([{ "message": "the variable `topic` names no topic" }]);
                    return self.reply(json!({ "id": id, "type": "error", "payload": errors })).await;
                };
                graphql.operations.insert(id, topic.clone());
                if self.follow(topic) { Ok(()) } else { end(4400, "too many subscriptions") }
            }
            (Ok(Said::Complete { id }), true) => {
                let left = graphql.operations.remove(&id);
                let left = left.filter(|topic| !graphql.operations.values().any(|other| other == topic));
                self.unfollow(left);
                Ok(())
            }
        }
    }

    async fn acknowledge(&mut self, init: &Init) -> Result<(), Ended> {
        match init.token.as_deref().map(|token| judge(token, now_ms())) {
            Some(Ok(claims)) => self.accept(claims),
            None if self.may_speak => {}
            _ => return Err(Ended::Close { code: 4403, reason: "Forbidden".to_owned() }),
        }
        if let Language::Graphql(graphql) = &mut self.language {
            graphql.is_acknowledged = true;
        }
        self.reply(json!({ "type": "connection_ack" })).await
    }

    /// From now on the stream of this connection has the topic; says whether there was room for one more.
    fn follow(&mut self, topic: Topic) -> bool {
        let has_room = self.reader.topics().len() < MAX_TOPICS && self.hub.remember(&self.client, topic.clone());
        if has_room {
            self.reader.topics().insert(topic);
            self.holds_until = None;
        }
        has_room
    }

    fn unfollow(&mut self, topic: Option<Topic>) {
        if let Some(topic) = topic {
            self.reader.topics().remove(&topic);
            self.hub.forget(&self.client, &topic);
        }
    }

    /// After an `ERROR` the connection ends.
    async fn refuse_frame(&mut self, why: &str) -> Result<(), Ended> {
        self.feed(Message::text(stomp::written("ERROR", &[("message", why)], ""))).await?;
        Err(Ended::Close { code: 1008, reason: why.to_owned() })
    }

    /// Does `work` unless the same sender's message with this id was taken before, and acknowledges it either way.
    async fn once(&mut self, id: Option<&str>, work: impl FnOnce(&Self)) -> Result<(), Ended> {
        // Over reconnects the sender is the user, else the client; connections come and go.
        let sender = self.user.as_deref().unwrap_or(&self.client);
        let first = id.is_none_or(|id| self.hub.first_time(sender, id));
        if first {
            work(self);
        }
        match id {
            None => Ok(()),
            Some(_) if first => self.feed(Message::text(with_id("ack", id))).await,
            Some(id) => self.feed(Message::text(format!(r#"{{"type":"ack","id":{id},"duplicate":true}}"#))).await,
        }
    }

    fn accept(&mut self, claims: Claims) {
        self.may_speak = true;
        self.expires = claims
            .expires_at
            .and_then(|at| Instant::now().checked_add(Duration::from_millis(at.saturating_sub(now_ms()))));
        if let Some(user) = claims.user {
            self.identify(user);
        }
    }

    /// From now on the client is this user, and gets what is addressed to them.
    fn identify(&mut self, user: String) {
        let topic = Topic::User(user.clone());
        if self.hub.remember(&self.client, topic.clone()) {
            self.reader.topics().insert(topic);
        }
        self.user = Some(user);
    }

    async fn authenticate(&mut self, token: &str, user: Option<String>) -> Result<(), Ended> {
        match judge(token, now_ms()) {
            Err(reason) => self.reply(json!({ "type": "auth_failed", "reason": reason })).await,
            Ok(mut claims) => {
                let expires_at = claims.expires_at;
                claims.user = claims.user.or_else(|| user.filter(|user| is_name(user)));
                self.accept(claims);
                let mut success = json!({ "type": "auth_success" });
                if let Some(user) = &self.user {
                    success["userId"] = json!(user);
                }
                if let Some(at) = expires_at {
                    success["expires_at"] = json!(at);
                }
                self.reply(success).await
            }
        }
    }

    async fn expire<T>(&mut self) -> Result<T, Ended> {
        if matches!(self.language, Language::Own) {
            self.reply(json!({ "type": "auth_failed", "reason": "expired" })).await?;
        }
        Err(Ended::Close { code: CLOSE_TOKEN_EXPIRED, reason: "the token expired".to_owned() })
    }

    async fn subscribe(&mut self, topic: Topic, user: Option<String>) -> Result<(), Ended> {
        let topics = self.reader.topics();
        let has_room = topics.len() < MAX_TOPICS || topics.contains(&topic);
        if !has_room || !self.hub.remember(&self.client, topic.clone()) {
            let message = format!("a connection has at most {MAX_TOPICS} subscriptions");
            return self.complain(Complaint::new("too-many-subscriptions", message)).await;
        }
        topics.insert(topic.clone());
        self.holds_until = None;
        let answer = match topic {
            Topic::Room(room) => {
                if let Some(user) = user.filter(|user| is_name(user)) {
                    self.identify(user);
                }
                let users = self.hub.enter(&room, self.id, &self.user_name());
                json!({ "type": "room_joined", "room": room, "userId": self.user_name(), "users": users })
            }
            topic => confirmation("subscribed", &topic),
        };
        self.reply(answer).await
    }

    async fn unsubscribe(&mut self, topic: Topic) -> Result<(), Ended> {
        self.reader.topics().remove(&topic);
        self.hub.forget(&self.client, &topic);
        let answer = match topic {
            Topic::Room(room) => {
                self.hub.leave(&room, self.id);
                json!({ "type": "room_left", "room": room })
            }
            topic => confirmation("unsubscribed", &topic),
        };
        self.reply(answer).await
    }

    async fn resume(&mut self, cursor: u64) -> Result<(), Ended> {
        self.holds_until = None;
        let head = match self.hub.resume(&mut self.reader, &self.client, cursor) {
            Ok(head) => head,
            Err(lost) => return self.reply(lost.message()).await,
        };
        let mut replayed = 0;
        while self.reader.position() < head {
            replayed += self.show_portion().await?;
        }
        let cursor = self.reader.position();
        self.reply(json!({ "type": "resumed", "cursor": cursor, "replayed": replayed })).await
    }

    async fn relay(
        &mut self,
        id: Option<&str>,
        relay: &Relay,
        room: String,
        data: Option<&RawValue>,
    ) -> Result<(), Ended> {
        if !self.hub.is_in(&room, self.id) {
            let message = format!("join room {room:?} before you send {} to it", relay.kind);
            return self.complain(Complaint::new("not-in-room", message)).await;
        }
        self.once(id, |this| {
            let message = this.envelope(id, relay.kind, Some(&room), data);
            let topic = Topic::Room(room);
            if relay.kept {
                this.hub.publish(topic, &message);
            } else {
                this.hub.pass(topic, this.id, &message);
            }
        })
        .await
    }

    async fn start(&mut self, plan: Plan) -> Result<(), Ended> {
        let messages = plan.len();
        let mut answer = confirmation("started", &plan.topic);
        if !plan.start(&self.hub) {
            let message = format!("it runs already, or {MAX_GENERATORS} others do");
            return self.complain(Complaint::new("not-started", message)).await;
        }
        answer["messages"] = json!(messages);
        self.reply(answer).await
    }

    fn user_name(&self) -> String {
        self.user.clone().unwrap_or_else(|| format!("guest-{}", self.id))
    }

    /// The room dialect's envelope, with the data as it came.
    fn envelope(&self, id: Option<&str>, kind: &str, room: Option<&str>, data: Option<&RawValue>) -> String {
        #[derive(Serialize)]
        struct Envelope<'a> {
            r#type: &'a str,
            timestamp: u64,
            #[serde(rename = "userId")]
            user: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            room: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            data: Option<&'a RawValue>,
        }
        let envelope = Envelope { r#type: kind, timestamp: now_ms(), user: self.user_name(), room, data };
        let text = serde_json::to_string(&envelope).expect("strings, numbers and valid JSON can be written");
        match (id, text.strip_prefix('{')) {
            (Some(id), Some(rest)) => format!(r#"{{"id":{id},{rest}"#),
            _ => text,
        }
    }
}

/// Sleeps until then, or for ever.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn must_auth() -> Complaint {
    Complaint::new("unauthenticated", "send {\"type\":\"auth\",\"token\":…} first")
}

/// A message of one word and the id, which is a JSON text already.
fn with_id(kind: &str, id: Option<&str>) -> String {
    match id {
        Some(id) => format!(r#"{{"type":"{kind}","id":{id}}}"#),
        None => format!(r#"{{"type":"{kind}"}}"#),
    }
}

/// Names a task or a channel as its dialect does.
fn confirmation(kind: &str, topic: &Topic) -> Value {
    match topic {
        Topic::Task(id) => json!({ "type": kind, "taskId": id }),
        Topic::Channel(name) => json!({ "type": kind, "channel": name }),
        other => json!({ "type": kind, "topic": other.to_string() }),
    }
}

/// As much of a reason as a close frame can hold: 123 bytes.
fn close_reason(reason: &str) -> &str {
    let end = (0..=reason.len().min(123)).rev().find(|end| reason.is_char_boundary(*end));
    &reason[..end.unwrap_or(0)]
}

/// A task, or the processing on a channel, to be played. The same plan gives the same messages, but for the times.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Plan {
    topic: Topic,
    steps: u32,
    interval: Duration,
    fail: bool,
}

impl Plan {
    fn new(topic: Topic, fields: &Fields<'_>) -> Result<Self, Complaint> {
        let (steps, interval_ms) = (fields.steps.unwrap_or(10), fields.interval_ms.unwrap_or(200));
        if !(1..=10_000).contains(&steps) || interval_ms > 60_000 {
            return Err(Complaint::new("out-of-bounds", "steps is 1 to 10000, interval_ms 0 to 60000"));
        }
        Ok(Self { topic, steps, interval: Duration::from_millis(interval_ms), fail: fields.fail })
    }

    /// How many messages it consists of.
    fn len(&self) -> u32 {
        if matches!(self.topic, Topic::Task(_)) { 2 * self.steps + 2 } else { self.steps + 1 }
    }

    /// Message `number` of the plan, from 0.
    fn message(&self, number: u32, now_ms: u64) -> Option<Value> {
        if number >= self.len() {
            return None;
        }
        let is_last = number + 1 == self.len();
        Some(match &self.topic {
            Topic::Task(id) => {
                let (kind, mut data) = self.task_message(number, is_last);
                data["taskId"] = json!(id);
                data["timestamp"] = json!(now_ms);
                json!({ "type": kind, "taskId": id, "timestamp": now_ms, "data": data })
            }
            topic => {
                let mut message = self.processing_message(number + 1, is_last);
                message["channel"] = confirmation("", topic)["channel"].take();
                message
            }
        })
    }

    /// A status, then progress and a log line for every step, then the result.
    fn task_message(&self, number: u32, is_last: bool) -> (&'static str, Value) {
        const LEVELS: [&str; 4] = ["info", "debug", "warn", "error"];
        let step = number.div_ceil(2);
        if number == 0 {
            ("status", json!({ "status": "running", "steps": self.steps }))
        } else if is_last && self.fail {
            ("error", json!({ "error": "the plan asked for a failure", "step": self.steps }))
        } else if is_last {
            ("complete", json!({ "result": "done", "steps": self.steps }))
        } else if number % 2 == 1 {
            let text = format!("step {step} of {}", self.steps);
            let progress = u64::from(step) * 100 / u64::from(self.steps);
            ("progress", json!({ "stage": "working", "progress": progress, "message": text, "step": step }))
        } else {
            let level = LEVELS[step as usize % LEVELS.len()];
            ("log", json!({ "level": level, "message": format!("step {step} done"), "metadata": { "step": step } }))
        }
    }

    fn processing_message(&self, step: u32, is_last: bool) -> Value {
        if is_last && self.fail {
            return json!({ "type": "processing_error", "error": "the plan asked for a failure" });
        }
        if is_last {
            return json!({ "type": "processing_complete", "files": self.steps });
        }
        let progress = u64::from(step) * 100 / u64::from(self.steps);
        let eta = self.interval.as_secs_f64() * f64::from(self.steps - step);
        let file = format!("file-{step:05}.txt");
        json!({ "type": "processing_progress", "progress": progress, "eta": eta, "current_file": file })
    }

    /// Plays it from now on; false if it runs already, or too many do.
    fn start(self, hub: &Arc<Hub>) -> bool {
        if !hub.start_generator(&self.topic, MAX_GENERATORS) {
            return false;
        }
        let hub = Arc::clone(hub);
        tokio::spawn(async move {
            tokio::select! {
                () = hub.stopped() => {}
                () = self.play(&hub) => {}
            }
            hub.end_generator(&self.topic);
        });
        true
    }

    async fn play(&self, hub: &Hub) {
        for number in 0.. {
            let Some(message) = self.message(number, now_ms()) else { return };
            hub.publish(self.topic.clone(), &message.to_string());
            if self.interval.is_zero() {
                tokio::task::yield_now().await;
            } else {
                sleep(self.interval).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn complaint(text: &str) -> &'static str {
        ClientMessage::parse(text).unwrap_err().code
    }

    #[test]
    fn what_belongs_to_no_dialect_is_an_echo() {
        for text in ["hello", "", "[1]", "5", r#"{"a":1}"#, r#"{"type":5}"#, r#"{"type":"echo","x":1,"x":2}"#] {
            assert!(matches!(ClientMessage::parse(text), Ok((ClientMessage::Echo, None))), "{text}");
        }
    }

    #[test]
    fn a_message_that_lacks_what_it_needs_is_answered_with_a_code() {
        assert_eq!(complaint(r#"{"type":"subscribe"}"#), "bad-field");
        assert_eq!(complaint(r#"{"type":"subscribe","channel":"a","taskId":"b"}"#), "bad-field");
        assert_eq!(complaint(r#"{"type":"resume","cursor":-1}"#), "bad-field");
        assert_eq!(complaint(r#"{"type":"message","id":{}}"#), "bad-field");
        assert_eq!(complaint(r#"{"type":"start-task","taskId":"t","steps":0}"#), "out-of-bounds");
        assert_eq!(complaint(r#"{"type":"dance"}"#), "unknown-type");
    }

    #[test]
    fn a_resume_takes_its_cursor_as_a_number_and_as_a_string() {
        for text in [r#"{"type":"resume","cursor":17}"#, r#"{"type":"resume","cursor":"17"}"#] {
            assert!(matches!(ClientMessage::parse(text), Ok((ClientMessage::Resume(17), None))), "{text}");
        }
    }

    #[test]
    fn a_token_is_judged_by_its_looks() {
        let jwt = |payload: &str| format!("e30.{}.c2ln", BASE64_URL_SAFE_NO_PAD.encode(payload));
        assert_eq!(judge("anything", 0), Ok(Claims::default()));
        assert_eq!(judge("", 0), Err("invalid"));
        assert_eq!(judge("invalid-today", 0), Err("invalid"));
        assert_eq!(judge("expired", 0), Err("expired"));
        assert_eq!(judge("a.b.c", 0), Err("invalid"));
        assert_eq!(judge(&jwt(r#"{"exp":10}"#), 10_000), Err("expired"));
        let claims = Claims { expires_at: Some(10_000), user: Some("ann".to_owned()) };
        assert_eq!(judge(&jwt(r#"{"exp":10,"sub":"ann"}"#), 9_999), Ok(claims));
    }

    #[test]
    fn a_plan_plays_the_same_messages_every_time_and_as_many_as_it_says() {
        let plan = |topic, fail| Plan { topic, steps: 3, interval: Duration::from_secs(1), fail };
        let types = |plan: Plan| -> Vec<String> {
            let messages: Vec<_> = (0..).map_while(|number| plan.message(number, 7)).collect();
            assert_eq!(messages.len(), plan.len() as usize);
            assert_eq!(messages, (0..).map_while(|number| plan.message(number, 7)).collect::<Vec<_>>());
            messages.iter().map(|message| message["type"].as_str().unwrap().to_owned()).collect()
        };
        let task = types(plan(Topic::Task("t".into()), false));
        assert_eq!(task, ["status", "progress", "log", "progress", "log", "progress", "log", "complete"]);
        assert_eq!(types(plan(Topic::Task("t".into()), true)).last().unwrap(), "error");
        let channel = types(plan(Topic::Channel("c".into()), true));
        assert_eq!(channel[..3], ["processing_progress"; 3].map(str::to_owned));
        assert_eq!(channel[3], "processing_error");
    }

    #[test]
    fn a_close_reason_is_cut_between_characters() {
        assert_eq!(close_reason("short"), "short");
        assert_eq!(close_reason(&"€".repeat(60)).len(), 123);
        assert_eq!(close_reason(&"é".repeat(62)).len(), 122);
    }
}
