//! The settings of a session: what each is called, what it may be, and which value counts.
//!
//! Owns: the one table of them ([`TABLE`]), reading what somebody says about them ([`Layer`]), the bounds that the owner
//! of the machine draws closer ([`Limits`]), and what follows from all of that ([`Settings::effective`]). Does not own:
//! where a layer comes from (`config` has those of the files, an `open` brings its own), nor what a value does
//! (`session`). Pure: no files, no clock.
//!
//! A value comes here as JSON text, whichever file or message it stood in: one reader, one set of errors. No error
//! repeats a string that was found, because it may stand where a secret was meant to be.

mod address;
mod layer;
mod preset;
mod table;
mod template;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

pub use address::{Address, cursor_text};
pub use layer::{Bound, Layer, Limits, MAX_TEXT};
pub use preset::{PRESETS, Preset};
pub use table::{FILE_ONLY, FileOnly, Kind, Named, Setting, TABLE, found};
use table::{Said, the};
pub use template::{Blank, Template};

/// The most that a memory session may keep for the extension, whatever is asked for, in bytes.
pub const MAX_MEMORY_INBOX: usize = 16 * 1024 * 1024;

/// All settings of a session, as they count.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// When to try again.
    pub reconnect: Reconnect,
    /// How a dead connection is told from a quiet one.
    pub heartbeat: Heartbeat,
    /// What waits for the server.
    pub queue: Queue,
    /// What waits for the extension.
    pub inbox: Inbox,
    /// How the server is shown a credential.
    pub auth: Option<Auth>,
    /// What the server's own messages mean.
    pub dialect: Dialect,
    /// What to do while there is no WebSocket.
    pub fallback: Option<Fallback>,
    /// How long the connection is kept with no port attached.
    pub linger: Duration,
}

/// What to do while there is no WebSocket. It has at least one way for what the server says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fallback {
    /// Where its messages come as server-sent events.
    pub sse: Option<Address>,
    /// Where they are asked for.
    pub poll: Option<Address>,
    /// Where messages to it are posted.
    pub post: Option<Address>,
    /// After how many attempts in a row that made no WebSocket.
    pub after: u32,
    /// How long after a poll that brought nothing the next one is made.
    pub interval: Duration,
}

/// When to try again.
#[derive(Debug, Clone, PartialEq)]
pub struct Reconnect {
    /// Upper bound of the first delay.
    pub first: Duration,
    /// By which the bound grows with each failure.
    pub multiplier: f64,
    /// Upper bound of any delay; not below `first`.
    pub max: Duration,
    /// Attempts in a row without a stable connection after which nothing is tried any more; 0: for ever.
    pub max_attempts: u32,
    /// A connection that lasted this long makes the next delay a first one again.
    pub stable: Duration,
    /// The first delay is drawn from this when the server went away for everybody.
    pub herd_window: Duration,
    /// Attempts that may be made at once.
    pub burst: u32,
    /// The time in which one more attempt may be made.
    pub refill: Duration,
}

/// How a dead connection is told from a quiet one.
#[derive(Debug, Clone, PartialEq)]
pub struct Heartbeat {
    /// How long a silent server is left alone.
    pub interval: Duration,
    /// How long it has to answer.
    pub timeout: Duration,
    /// The server's own ping message, as JSON text.
    pub send: Option<Arc<str>>,
    /// The pattern of the answer to it; only together with `send`.
    pub reply: Option<Value>,
}

/// What waits for the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Queue {
    /// How many messages.
    pub max_messages: usize,
    /// How many bytes.
    pub max_bytes: usize,
    /// How long a message may wait that does not say so itself.
    pub ttl: Option<Duration>,
}

/// What waits for the extension.
#[derive(Debug, Clone, PartialEq)]
pub struct Inbox {
    /// How many messages.
    pub max_messages: usize,
    /// How many bytes.
    pub max_bytes: usize,
    /// How long a message is kept, and the place of a consumer that stays away.
    pub retention: Duration,
    /// How long a message may wait for its acknowledgement before it is written to disk.
    pub persist_after: Duration,
    /// What happens when there is no more room.
    pub overflow: Overflow,
    /// The longest message that is kept.
    pub max_message_bytes: usize,
    /// Which waiting messages give way to newer ones.
    pub collapse: Option<Collapse>,
}

/// How the server is shown a credential.
#[derive(Debug, Clone, PartialEq)]
pub struct Auth {
    /// On which way.
    pub via: Via,
    /// What is shown: a message, or else a string with a blank for the credential.
    pub send: Template,
    /// What the server says to the message; without it, nobody waits for that.
    pub replies: Option<Replies>,
    /// A fresh credential is shown in a message on the connection that there is.
    pub renew: bool,
    /// Where it comes from. Only a file says it, beside the server that it is for.
    pub source: Source,
}

/// Where a credential comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Source {
    /// The extension gives it.
    #[default]
    Extension,
    /// The system's keyring has it, for this session of this extension.
    Keyring {
        /// The extension, as its browser names it.
        origin: String,
        /// The name of the session.
        session: String,
    },
    /// The value of this variable in the daemon's environment.
    Variable(String),
    /// What this program prints: its name or path, and its arguments.
    Command(Vec<String>),
}

/// The way on which a server is shown a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// In the header `Authorization` of the upgrade.
    Header,
    /// In the query of its URL, under this name.
    Query(String),
    /// As one more sub-protocol that is offered.
    Protocol,
    /// In the first message.
    Message,
}

/// What the server's own messages mean.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dialect {
    /// The sub-protocols to offer if nobody names others.
    pub protocols: Vec<String>,
    /// What its messages are written in.
    pub format: Format,
    /// What is sent for a subscription.
    pub subscribe: Option<Template>,
    /// What is sent when one ends.
    pub unsubscribe: Option<Template>,
    /// How the server is asked to go on where the last connection ended.
    pub resume: Option<Resume>,
    /// What the server wants an answer to.
    pub answer: Option<Answer>,
    /// Where in one stands the id of a message that it acknowledges, as a JSON Pointer.
    pub ack: Option<String>,
    /// How one is known that came before.
    pub dedupe: Option<Dedupe>,
}

/// What the messages of a server are written in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// JSON, or what nobody looks into.
    #[default]
    Json,
    /// Frames of STOMP, which count as JSON with `command`, `headers` and `body`.
    Stomp,
}

/// How a message of the server is known that came before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    /// Where in it its id stands, as a JSON Pointer.
    pub id: String,
    /// How many ids are remembered.
    pub window: usize,
}

/// How a server is asked to go on where the last connection ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Resume {
    /// Where in its messages stands from where it can go on, as a JSON Pointer.
    pub cursor: String,
    /// What it is asked with.
    pub send: Template,
    /// What it says to that; without it, nobody knows.
    pub replies: Option<Replies>,
}

/// By what a server says yes or no.
#[derive(Debug, Clone, PartialEq)]
pub struct Replies {
    /// The pattern of its yes.
    pub accepted: Value,
    /// The pattern of its no.
    pub refused: Option<Value>,
}

impl Replies {
    /// Puts them into an object of settings.
    fn put(replies: &Option<Self>, json: &mut Value) {
        let Some(Self { accepted, refused }) = replies else { return };
        json["accepted"] = accepted.clone();
        if let Some(refused) = refused {
            json["refused"] = refused.clone();
        }
    }
}

/// What a server wants an answer to.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// The pattern of its question.
    pub when: Value,
    /// The answer, as JSON text.
    pub send: Arc<str>,
}

/// What happens when there is no more room for what comes from the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overflow {
    /// The oldest messages give way, and a `gap` says how many.
    DropOldest,
    /// The server is not read until there is room.
    Pause,
}

/// Which waiting messages give way to newer ones.
#[derive(Debug, Clone, PartialEq)]
pub struct Collapse {
    /// The pattern of the messages that this is about: an object. A message matches that has each of its members, with an
    /// equal value, or where the value is an object itself, with one that matches it.
    pub when: Value,
    /// Where in the message its key is, as a JSON Pointer: of the messages of one key only the newest is kept.
    pub key: String,
}

/// What of a session changes its defaults and its bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Place {
    /// It is in memory mode.
    pub memory: bool,
    /// Its server is on this machine.
    pub loopback: bool,
}

/// Why something cannot be said about settings: a sentence that names the setting, what was found and what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// There is no such setting, its value is of another kind, or two values exclude each other.
    #[error("{0}")]
    Malformed(String),
    /// The value is of the right kind, but too small or too large.
    #[error("{0}")]
    OutOfBounds(String),
    /// Only a file may say it; a sentence that goes on with where.
    #[error("{0}")]
    FileOnly(String),
}

const FIRST: &str = "reconnect.first_ms";
const MAX: &str = "reconnect.max_ms";
const HERD_WINDOW: &str = "reconnect.herd_window_ms";
const REFILL: &str = "reconnect.refill_ms";
const DEDUPE_WINDOW: &str = "dialect.dedupe.window";

impl Settings {
    /// What counts: the defaults, over them each layer in its order, all of it within `limits`.
    ///
    /// What belongs together comes from one layer: `heartbeat.send` and `reply`, the two of `inbox.collapse`, those of
    /// `auth`, of `dialect.resume`, of `dialect.answer` and of `dialect.dedupe`, and the URLs of `fallback`. What a preset
    /// says counts as said by the layer that names it. If one
    /// layer's `reconnect.first_ms` is above another one's `max_ms`, the later layer's counts for both.
    #[must_use]
    pub fn effective<'a>(layers: impl IntoIterator<Item = &'a Layer>, limits: &Limits, place: Place) -> Self {
        let layers: Vec<_> = layers.into_iter().map(Layer::with_preset).collect();
        let said = Stack { layers: layers.iter().map(|layer| &**layer).collect(), limits, place };
        let (first, max) = said.delays();
        Self {
            reconnect: Reconnect {
                first,
                multiplier: said.number("reconnect.multiplier"),
                max,
                max_attempts: said.number("reconnect.max_attempts") as u32,
                stable: said.duration("reconnect.stable_ms"),
                herd_window: said.duration(HERD_WINDOW),
                burst: said.number("reconnect.burst") as u32,
                refill: said.duration(REFILL),
            },
            heartbeat: Heartbeat {
                interval: said.duration("heartbeat.interval_ms"),
                timeout: said.duration("heartbeat.timeout_ms"),
                send: said.json("heartbeat.send"),
                reply: said.pattern_beside("heartbeat.send", "heartbeat.reply"),
            },
            queue: Queue {
                max_messages: said.number("queue.max_messages") as usize,
                max_bytes: said.number("queue.max_bytes") as usize,
                ttl: Some(said.duration("queue.ttl_ms")).filter(|ttl| !ttl.is_zero()),
            },
            inbox: Inbox {
                max_messages: said.number("inbox.max_messages") as usize,
                max_bytes: said.inbox_bytes(),
                retention: said.duration("inbox.retention_ms"),
                persist_after: said.duration("inbox.persist_after_ms"),
                overflow: said.overflow(),
                max_message_bytes: said.number("inbox.max_message_bytes") as usize,
                collapse: said.collapse(),
            },
            auth: said.auth(),
            dialect: Dialect {
                protocols: said.protocols(),
                format: said.format(),
                subscribe: said.template("dialect.subscribe"),
                unsubscribe: said.template("dialect.unsubscribe"),
                resume: said.resume(),
                answer: said.answer(),
                ack: said.pointer("dialect.ack.id"),
                dedupe: said.dedupe(),
            },
            fallback: said.fallback(),
            linger: said.duration("linger_ms"),
        }
    }

    /// The same in the shape of `open.settings`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let Self { reconnect, heartbeat, queue, inbox, auth, dialect, fallback, linger } = self;
        let mut json = json!({
            "reconnect": {
                "first_ms": ms(reconnect.first),
                "multiplier": reconnect.multiplier,
                "max_ms": ms(reconnect.max),
                "max_attempts": reconnect.max_attempts,
                "stable_ms": ms(reconnect.stable),
                "herd_window_ms": ms(reconnect.herd_window),
                "burst": reconnect.burst,
                "refill_ms": ms(reconnect.refill),
            },
            "heartbeat": { "interval_ms": ms(heartbeat.interval), "timeout_ms": ms(heartbeat.timeout) },
            "queue": {
                "max_messages": queue.max_messages,
                "max_bytes": queue.max_bytes,
                "ttl_ms": queue.ttl.map_or(0, ms),
            },
            "inbox": {
                "max_messages": inbox.max_messages,
                "max_bytes": inbox.max_bytes,
                "retention_ms": ms(inbox.retention),
                "persist_after_ms": ms(inbox.persist_after),
                "overflow": inbox.overflow.as_str(),
                "max_message_bytes": inbox.max_message_bytes,
            },
            "linger_ms": ms(*linger),
        });
        if let Some(send) = &heartbeat.send {
            // It was read once when it was said, so it is JSON.
            json["heartbeat"]["send"] = serde_json::from_str(send).unwrap_or_default();
        }
        if let Some(reply) = &heartbeat.reply {
            json["heartbeat"]["reply"] = reply.clone();
        }
        if let Some(Collapse { when, key }) = &inbox.collapse {
            json["inbox"]["collapse"] = json!({ "when": when, "key": key });
        }
        // Where it comes from is nobody's business but the file's.
        if let Some(Auth { via, send, replies, renew, source: _ }) = auth {
            json["auth"] = json!({ "via": via.as_str(), "send": send.as_json() });
            if let Via::Query(name) = via {
                json["auth"]["name"] = name.as_str().into();
            }
            if *renew {
                json["auth"]["renew"] = "message".into();
            }
            Replies::put(replies, &mut json["auth"]);
        }
        let Dialect { protocols, format, subscribe, unsubscribe, resume, answer, ack, dedupe } = dialect;
        if !protocols.is_empty() {
            json["dialect"]["protocols"] = json!(protocols);
        }
        if *format == Format::Stomp {
            json["dialect"]["format"] = "stomp".into();
        }
        for (name, template) in [("subscribe", subscribe), ("unsubscribe", unsubscribe)] {
            if let Some(template) = template {
                json["dialect"][name] = template.as_json().clone();
            }
        }
        if let Some(Resume { cursor, send, replies }) = resume {
            json["dialect"]["resume"] = json!({ "cursor": cursor, "send": send.as_json() });
            Replies::put(replies, &mut json["dialect"]["resume"]);
        }
        if let Some(Answer { when, send }) = answer {
            let send: Value = serde_json::from_str(send).unwrap_or_default();
            json["dialect"]["answer"] = json!({ "when": when, "send": send });
        }
        if let Some(id) = ack {
            json["dialect"]["ack"] = json!({ "id": id });
        }
        if let Some(Dedupe { id, window }) = dedupe {
            json["dialect"]["dedupe"] = json!({ "id": id, "window": window });
        }
        if let Some(Fallback { sse, poll, post, after, interval }) = fallback {
            json["fallback"] = json!({ "after_attempts": after, "interval_ms": ms(*interval) });
            for (name, address) in [("sse_url", sse), ("poll_url", poll), ("post_url", post)] {
                if let Some(address) = address {
                    json["fallback"][name] = address.shown().into();
                }
            }
        }
        json
    }
}

/// Layers above each other, and what bounds them.
struct Stack<'a> {
    layers: Vec<&'a Layer>,
    limits: &'a Limits,
    place: Place,
}

impl<'a> Stack<'a> {
    /// The layer that counts for a setting, by its height.
    fn height(&self, path: &str) -> Option<usize> {
        self.layers.iter().rposition(|layer| layer.get(path).is_some())
    }

    /// What the layer that counts for `deciding` says about `path`.
    fn beside(&self, deciding: &str, path: &str) -> Option<&'a Said> {
        self.layers[self.height(deciding)?].get(path)
    }

    fn get(&self, path: &str) -> Option<&'a Said> {
        self.beside(path, path)
    }

    fn number(&self, path: &str) -> f64 {
        self.number_beside(path, path)
    }

    /// The number that the layer says that counts for `deciding`, or else the default.
    fn number_beside(&self, deciding: &str, path: &str) -> f64 {
        let number = match (self.beside(deciding, path), &the(path).kind) {
            (Some(Said::Number(number)), _) => *number,
            // Nobody storms a server on this machine, and whoever writes one restarts it often.
            (_, Kind::Number { .. }) if path == HERD_WINDOW && self.place.loopback => 0.0,
            (_, Kind::Number { .. }) if path == REFILL && self.place.loopback => 1000.0,
            (_, &Kind::Number { default, .. }) => default,
            _ => 0.0,
        };
        self.limits.clamp(the(path), number)
    }

    fn duration(&self, path: &str) -> Duration {
        Duration::from_millis(self.number(path) as u64)
    }

    /// The bounds of the first delay and of any.
    fn delays(&self) -> (Duration, Duration) {
        let (first, max) = (self.number(FIRST), self.number(MAX));
        let later = if self.height(FIRST) > self.height(MAX) { first } else { max };
        // Where they exclude each other both become one number, which must be one that the limits allow for either.
        let one = self.limits.clamp(the(MAX), self.limits.clamp(the(FIRST), later));
        let (first, max) = if first > max { (one, one) } else { (first, max) };
        (Duration::from_millis(first as u64), Duration::from_millis(max as u64))
    }

    fn json(&self, path: &str) -> Option<Arc<str>> {
        match self.get(path)? {
            Said::Json(text) => Some(Arc::clone(text)),
            _ => None,
        }
    }

    fn template(&self, path: &str) -> Option<Template> {
        match self.get(path)? {
            Said::Template(template) => Some(template.clone()),
            _ => None,
        }
    }

    /// The pattern that stands in the layer that counts for `deciding`.
    fn pattern_beside(&self, deciding: &str, path: &str) -> Option<Value> {
        match self.beside(deciding, path)? {
            Said::Pattern(pattern) => Some(pattern.clone()),
            _ => None,
        }
    }

    fn replies(&self, deciding: &str, accepted: &str, refused: &str) -> Option<Replies> {
        let accepted = self.pattern_beside(deciding, accepted)?;
        Some(Replies { accepted, refused: self.pattern_beside(deciding, refused) })
    }

    fn auth(&self) -> Option<Auth> {
        let deciding = "auth.via";
        let Said::Word(via) = self.get(deciding)? else { return None };
        let (via, usual) = match *via {
            "header" => (Via::Header, "Bearer {token}"),
            "query" => {
                let name = match self.beside(deciding, "auth.name") {
                    Some(Said::Name(name)) => name.clone(),
                    _ => "token".to_owned(),
                };
                (Via::Query(name), "{token}")
            }
            "protocol" => (Via::Protocol, "{token}"),
            _ => (Via::Message, "{token}"),
        };
        let send = match self.beside(deciding, "auth.send") {
            Some(Said::Template(send)) => send.clone(),
            _ => Template::new(usual.into(), Blank::Token).ok()?,
        };
        let replies = self.replies(deciding, "auth.accepted", "auth.refused");
        let renew = matches!(self.beside(deciding, "auth.renew"), Some(Said::Word("message")));
        Some(Auth { via, send, replies, renew, source: Source::Extension })
    }

    fn resume(&self) -> Option<Resume> {
        let deciding = "dialect.resume.send";
        let send = self.template(deciding)?;
        let Said::Pointer(cursor) = self.beside(deciding, "dialect.resume.cursor")? else { return None };
        let replies = self.replies(deciding, "dialect.resume.accepted", "dialect.resume.refused");
        Some(Resume { cursor: cursor.clone(), send, replies })
    }

    fn answer(&self) -> Option<Answer> {
        let deciding = "dialect.answer.when";
        let Said::Json(send) = self.beside(deciding, "dialect.answer.send")? else { return None };
        Some(Answer { when: self.pattern_beside(deciding, deciding)?, send: Arc::clone(send) })
    }

    fn protocols(&self) -> Vec<String> {
        match self.get("dialect.protocols") {
            Some(Said::Protocols(protocols)) => protocols.clone(),
            _ => Vec::new(),
        }
    }

    fn format(&self) -> Format {
        match self.get("dialect.format") {
            Some(Said::Word("stomp")) => Format::Stomp,
            _ => Format::Json,
        }
    }

    fn dedupe(&self) -> Option<Dedupe> {
        let deciding = "dialect.dedupe.id";
        let window = self.number_beside(deciding, DEDUPE_WINDOW) as usize;
        Some(Dedupe { id: self.pointer(deciding)?, window })
    }

    fn fallback(&self) -> Option<Fallback> {
        let deciding = ["fallback.sse_url", "fallback.poll_url"].into_iter().max_by_key(|path| self.height(path))?;
        let address = |path| match self.beside(deciding, path)? {
            Said::Address(address) => Some(address.clone()),
            _ => None,
        };
        self.height(deciding)?;
        Some(Fallback {
            sse: address("fallback.sse_url"),
            poll: address("fallback.poll_url"),
            post: address("fallback.post_url"),
            after: self.number("fallback.after_attempts") as u32,
            interval: self.duration("fallback.interval_ms"),
        })
    }

    fn inbox_bytes(&self) -> usize {
        let bytes = self.number("inbox.max_bytes") as usize;
        if self.place.memory { bytes.min(MAX_MEMORY_INBOX) } else { bytes }
    }

    fn overflow(&self) -> Overflow {
        match self.get("inbox.overflow") {
            Some(Said::Word("pause")) => Overflow::Pause,
            _ => Overflow::DropOldest,
        }
    }

    fn pointer(&self, path: &str) -> Option<String> {
        match self.get(path)? {
            Said::Pointer(pointer) => Some(pointer.clone()),
            _ => None,
        }
    }

    fn collapse(&self) -> Option<Collapse> {
        let (when, key) = ("inbox.collapse.when", "inbox.collapse.key");
        match (self.get(when)?, self.beside(when, key)?) {
            (Said::Pattern(when), Said::Pointer(key)) => Some(Collapse { when: when.clone(), key: key.clone() }),
            _ => None,
        }
    }
}

impl Settings {
    /// Whether the server can be shown on any request what it is to be shown.
    #[must_use]
    pub fn can_be_shown_by_http(&self) -> bool {
        let by_websocket = |auth: &Auth| matches!(auth.via, Via::Message | Via::Protocol);
        !(self.shows_token() && self.auth.as_ref().is_some_and(by_websocket))
    }

    /// Whether the server is to be shown a credential, and not just a message.
    #[must_use]
    pub fn shows_token(&self) -> bool {
        self.auth.as_ref().is_some_and(|auth| auth.send.has(Blank::Token))
    }

    /// Where the credential comes from that the server is shown.
    #[must_use]
    pub fn source(&self) -> &Source {
        self.auth.as_ref().map_or(&Source::Extension, |auth| &auth.source)
    }
}

impl Default for Settings {
    /// What counts if nobody says anything, for a durable session with a server elsewhere.
    fn default() -> Self {
        Self::effective([], &Limits::default(), Place::default())
    }
}

impl Via {
    /// The word for it.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Query(_) => "query",
            Self::Protocol => "protocol",
            Self::Message => "message",
        }
    }
}

impl Overflow {
    /// The word for it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DropOldest => "drop-oldest",
            Self::Pause => "pause",
        }
    }
}
