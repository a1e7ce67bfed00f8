//! Messages from the extension: reading them, and saying precisely what is wrong with one that cannot be read.
//!
//! Owns: the shapes and the sizes of requests. Does not know whether a request makes sense at its time.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{
    Body, Code, MAX_CLOSE_REASON, MAX_ID, MAX_NAME, MAX_NESTING, MAX_PROFILE, MAX_PROTOCOLS, MAX_TOKEN, PROTOCOL,
    Secret, Stage, is_http_token, is_name, is_token, nested_deeper_than,
};

/// What an extension asks for.
#[derive(Debug, PartialEq, Eq)]
pub enum Request {
    /// The optional first message.
    Hello {
        /// The port takes `batch` messages.
        batch: bool,
    },
    /// Attach this port to a session.
    Open(Open),
    /// Send a message to the server.
    Send {
        /// Which session.
        session: String,
        /// What to send.
        send: Send,
    },
    /// Everything up to `seq` has been processed.
    Ack {
        /// Which session.
        session: String,
        /// The highest number that was processed.
        seq: u64,
        /// The epoch that `seq` belongs to; without it, the present one.
        epoch: Option<String>,
    },
    /// Send something now, and again after every reconnect.
    Subscribe {
        /// Which session.
        session: String,
        /// What the extension calls this subscription.
        key: String,
        /// What to send.
        payload: Option<Body>,
    },
    /// A subscription ends.
    Unsubscribe {
        /// Which session.
        session: String,
        /// Which subscription.
        key: String,
        /// What to send.
        payload: Option<Body>,
    },
    /// A fresh credential.
    Token {
        /// Which session.
        session: String,
        /// What to show the server.
        token: Secret,
        /// When it ends, in milliseconds since 1970, if the extension knows.
        expires_at: Option<u64>,
    },
    /// Try to connect now.
    Reconnect {
        /// Which session.
        session: String,
    },
    /// End the connection for all ports.
    Close {
        /// Which session.
        session: String,
        /// Also delete everything that is kept.
        forget: bool,
        /// Direct mode: the close code to send, 1000 or 3000 to 4999.
        code: Option<u16>,
        /// Direct mode: the reason to send.
        reason: Option<String>,
    },
    /// This port leaves the session.
    Detach {
        /// Which session.
        session: String,
    },
    /// Ask for figures; without a session, for all sessions of this extension.
    Status {
        /// Which session.
        session: Option<String>,
    },
}

/// The fields of `open`. Serialised it is the request again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename = "open")]
pub struct Open {
    /// Name of the session.
    pub session: String,
    /// Keeps apart what different browser profiles do under one name.
    pub profile: String,
    /// The server; absent: the one that the session already has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// What kind of session it is.
    pub mode: Mode,
    /// Name of the reader whose place in the session this port takes.
    pub consumer: String,
    /// Only watch: no place in the session is taken.
    pub observe: bool,
    /// Where to begin, instead of at the stored place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<After>,
    /// Whether the session is to connect, if it was closed.
    pub connect: bool,
    /// Who acknowledges.
    #[serde(rename = "ack")]
    pub acknowledge: Acknowledge,
    /// Give every text frame as `text`.
    #[serde(rename = "as", serialize_with = "serialize_as")]
    pub as_text: bool,
    /// The sub-protocols to offer to the server, in order; absent: those that the session already has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocols: Option<Vec<String>>,
    /// JSON text of an object of settings; absent: those that the session already has.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "serialize_json")]
    pub settings: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives references")]
fn serialize_as<S: Serializer>(as_text: &bool, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(if *as_text { "text" } else { "json" })
}

/// As the JSON that the text is.
fn serialize_json<S: Serializer>(text: &Option<String>, serializer: S) -> Result<S::Ok, S::Error> {
    let json = text.as_deref().map(serde_json::from_str::<&RawValue>).transpose();
    json.map_err(serde::ser::Error::custom)?.serialize(serializer)
}

/// What the next daemon must know of a port to go on with it: what a daemon says in [`super::link::Control::Moved`].
/// Frozen: a newer build may add members, and reads those of any older one.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Resumption {
    /// The port announced the feature `batch`.
    #[serde(default)]
    pub batch: bool,
    /// The `open` of each session that it reads or watches, which goes on behind what it was given.
    #[serde(default)]
    pub opens: Vec<Box<RawValue>>,
}

/// What is kept of a session, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Everything, on disk.
    #[default]
    Durable,
    /// Everything, in memory: nothing of the session reaches the disk.
    Memory,
    /// Nothing: the plain WebSocket of one port.
    Direct,
}

impl Mode {
    /// The word in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Durable => "durable",
            Self::Memory => "memory",
            Self::Direct => "direct",
        }
    }
}

/// A place in the stream, as an extension remembers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct After {
    /// The epoch that `seq` belongs to.
    pub epoch: String,
    /// Everything up to this number is not wanted again.
    pub seq: u64,
}

/// Who acknowledges messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledge {
    /// The extension, when it has processed them.
    #[default]
    Manual,
    /// The daemon, when they are written to the browser: at most once.
    Auto,
}

impl Acknowledge {
    /// The word in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Auto => "auto",
        }
    }
}

/// The fields of `send`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Send {
    /// What to send.
    pub body: Body,
    /// The extension's name for the message; without one it gets no receipts.
    pub id: Option<String>,
    /// How long the message may wait, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// Send it again when the connection was lost before the server had it.
    pub resend: bool,
    /// Which stages to report; absent: those that the session's mode offers.
    pub receipts: Option<Vec<Stage>>,
}

/// A request that cannot be understood, and how to answer it.
#[derive(Debug, PartialEq, Eq)]
pub struct Malformed {
    /// The answer's code.
    pub code: Code,
    /// The answer's text.
    pub message: String,
}

/// A message as far as every message is the same: its type, its `ref` and its fields, not yet looked at.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    #[serde(borrow, rename = "type", default, deserialize_with = "present")]
    kind: Field<'a>,
    #[serde(borrow, rename = "ref", default, deserialize_with = "present")]
    reference: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    session: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    text: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    binary: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    ttl_ms: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    resend: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    receipts: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    seq: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    epoch: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    url: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    profile: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    mode: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    consumer: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    ack: Field<'a>,
    #[serde(borrow, rename = "as", default, deserialize_with = "present")]
    as_: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    observe: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    after: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    connect: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    protocols: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    settings: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    protocol: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    features: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    forget: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    key: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    token: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    expires_at: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    code: Field<'a>,
    #[serde(borrow, default, deserialize_with = "present")]
    reason: Field<'a>,
}

/// Bytes of a frame that is small enough for its payload to be copied.
const SMALL_FRAME: usize = 4096;

/// The JSON text of a field that is there, `null` included (a payload may be `null`).
type Field<'a> = Option<&'a RawValue>;

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Field<'de>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What an envelope's `type` may be, for the answer to one that is not known.
const TYPES: &str = "hello, open, send, ack, subscribe, unsubscribe, token, reconnect, close, detach and status";

impl<'a> Envelope<'a> {
    /// Reads the outside of a message.
    ///
    /// # Errors
    /// [`Code::InvalidMessage`] if the frame is not one JSON object.
    pub fn read(frame: &'a [u8]) -> Result<Self, Malformed> {
        let text = std::str::from_utf8(frame)
            .map_err(|error| invalid(format!("the message is not UTF-8 (byte {})", error.valid_up_to())))?;
        match text.trim_ascii_start().as_bytes().first() {
            None => {
                return Err(invalid("the message is empty (was `undefined` posted?); post an object with a `type`"));
            }
            Some(b'{') => {}
            Some(_) if serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok() => {
                return Err(invalid("the message is not an object; post an object with a string `type`"));
            }
            Some(_) => return Err(invalid("the message is not a JSON object: expected `{`")),
        }
        serde_json::from_str(text).map_err(|error| invalid(format!("the message is not a JSON object: {error}")))
    }

    /// The `ref` that the answer must carry.
    ///
    /// # Errors
    /// If it is not a string of up to 64 characters.
    pub fn reference(&self) -> Result<Option<String>, Malformed> {
        let reference: Option<String> = optional(self.reference, "ref", "a string")?;
        match reference {
            Some(text) if text.chars().count() > MAX_NAME => {
                Err(invalid(format!("`ref` is longer than {MAX_NAME} characters")))
            }
            other => Ok(other),
        }
    }

    /// The session that the message names, if it names one properly: an `error` repeats it.
    #[must_use]
    pub fn session_name(&self) -> Option<String> {
        self.session.and_then(|raw| serde_json::from_str(raw.get()).ok()).filter(|name: &String| is_name(name))
    }

    /// Reads the fields; `frame` is what the envelope was read from, and the payload stays a part of it.
    ///
    /// # Errors
    /// A code and a sentence that names the field, what was found and what is allowed.
    pub fn request(&self, frame: &Bytes) -> Result<Request, Malformed> {
        let kind: Cow<'_, str> = required(self.kind, "type", "a string")?;
        match &*kind {
            "hello" => self.hello(),
            "open" => self.open().map(Request::Open),
            "send" => Ok(Request::Send { session: self.session()?, send: self.send(frame)? }),
            "ack" => Ok(Request::Ack {
                session: self.session()?,
                seq: required(self.seq, "seq", "a whole number")?,
                epoch: optional(self.epoch, "epoch", "a string")?,
            }),
            "subscribe" => {
                let (key, payload) = self.subscription(frame)?;
                Ok(Request::Subscribe { session: self.session()?, key, payload })
            }
            "unsubscribe" => {
                let (key, payload) = self.subscription(frame)?;
                Ok(Request::Unsubscribe { session: self.session()?, key, payload })
            }
            "token" => self.token(),
            "reconnect" => Ok(Request::Reconnect { session: self.session()? }),
            "close" => self.close(),
            "detach" => Ok(Request::Detach { session: self.session()? }),
            "status" => Ok(Request::Status { session: self.session.map(|_| self.session()).transpose()? }),
            other => Err(Malformed {
                code: Code::UnknownType,
                message: format!("there is no message of type {}; this version knows {TYPES}", quoted(other)),
            }),
        }
    }

    fn hello(&self) -> Result<Request, Malformed> {
        let protocol: u64 = required(self.protocol, "protocol", "a whole number")?;
        if protocol != u64::from(PROTOCOL) {
            return Err(Malformed {
                code: Code::ProtocolUnsupported,
                message: format!("protocol {protocol} is not spoken here; this version speaks {PROTOCOL}"),
            });
        }
        let features: Vec<Cow<'_, str>> = optional(self.features, "features", "a list of strings")?.unwrap_or_default();
        Ok(Request::Hello { batch: features.iter().any(|feature| feature == "batch") })
    }

    fn open(&self) -> Result<Open, Malformed> {
        let profile: String = optional(self.profile, "profile", "a string")?.unwrap_or_default();
        if profile.len() > MAX_PROFILE {
            return Err(invalid(format!("`profile` is longer than {MAX_PROFILE} bytes")));
        }
        let as_: Option<Cow<'_, str>> = optional(self.as_, "as", "a string")?;
        let as_text = match as_.as_deref() {
            None | Some("json") => false,
            Some("text") => true,
            Some(other) => return Err(invalid(format!("`as` must be `json` or `text`, not {}", quoted(other)))),
        };
        let settings = self.settings.filter(|raw| raw.get() != "null").map(|raw| raw.get().to_owned());
        Ok(Open {
            session: name_or(self.session, "session", "default")?,
            profile,
            url: optional(self.url, "url", "a string")?,
            mode: optional(self.mode, "mode", "`durable`, `memory` or `direct`")?.unwrap_or_default(),
            consumer: name_or(self.consumer, "consumer", "main")?,
            observe: self.flag(self.observe, "observe", false)?,
            after: optional(self.after, "after", "an object with `epoch` (a string) and `seq` (a whole number)")?,
            connect: self.flag(self.connect, "connect", true)?,
            acknowledge: optional(self.ack, "ack", "`manual` or `auto`")?.unwrap_or_default(),
            as_text,
            protocols: self.protocols()?,
            settings,
        })
    }

    /// Sub-protocols as the browser's own WebSocket takes them: tokens of HTTP, each once.
    fn protocols(&self) -> Result<Option<Vec<String>>, Malformed> {
        let Some(protocols) = optional::<Vec<String>>(self.protocols, "protocols", "a list of strings")? else {
            return Ok(None);
        };
        if protocols.len() > MAX_PROTOCOLS {
            return Err(invalid(format!("`protocols` has more than {MAX_PROTOCOLS} entries")));
        }
        for (index, protocol) in protocols.iter().enumerate() {
            if protocol.len() > MAX_ID || !is_http_token(protocol) {
                let allowed = format!("1 to {MAX_ID} letters, digits and !#$%&'*+-.^_`|~");
                return Err(invalid(format!("`protocols` may hold {allowed}, not {}", quoted(protocol))));
            }
            if protocols[..index].contains(protocol) {
                return Err(invalid(format!("`protocols` names {} twice", quoted(protocol))));
            }
        }
        Ok(Some(protocols))
    }

    fn close(&self) -> Result<Request, Malformed> {
        let code: Option<u16> = optional(self.code, "code", "1000 or 3000 to 4999")?;
        if let Some(code) = code.filter(|code| !matches!(code, 1000 | 3000..=4999)) {
            return Err(invalid(format!("`code` must be 1000 or 3000 to 4999, not {code}")));
        }
        let reason: Option<String> = optional(self.reason, "reason", "a string without lone surrogates")?;
        if reason.as_ref().is_some_and(|reason| reason.len() > MAX_CLOSE_REASON) {
            return Err(invalid(format!("`reason` is longer than {MAX_CLOSE_REASON} bytes")));
        }
        Ok(Request::Close { session: self.session()?, forget: self.flag(self.forget, "forget", false)?, code, reason })
    }

    /// Nothing that was found is repeated: it may be the secret, in whichever field.
    fn token(&self) -> Result<Request, Malformed> {
        let session = self.session()?;
        let text = self.token.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let Some(token) = text.filter(|text| is_token(text)).map(Secret::from) else {
            let message = format!("`token` must be a string of 1 to {MAX_TOKEN} bytes without control characters");
            return Err(invalid(message));
        };
        let expires_at = match self.expires_at.map(|raw| serde_json::from_str(raw.get())) {
            None => None,
            Some(Ok(at)) => at,
            Some(Err(_)) => return Err(invalid("`expires_at` must be a whole number: milliseconds since 1970")),
        };
        Ok(Request::Token { session, token, expires_at })
    }

    fn subscription(&self, frame: &Bytes) -> Result<(String, Option<Body>), Malformed> {
        let key: String = required(self.key, "key", "a string")?;
        if !(1..=MAX_ID).contains(&key.len()) {
            return Err(invalid(format!("`key` must have 1 to {MAX_ID} bytes")));
        }
        Ok((key, self.payload.map(|payload| json_body(payload, frame)).transpose()?))
    }

    fn send(&self, frame: &Bytes) -> Result<Send, Malformed> {
        let body = match (self.payload, self.text, self.binary) {
            (Some(payload), None, None) => json_body(payload, frame)?,
            (None, Some(text), None) => {
                let text: String = required(Some(text), "text", "a string without lone surrogates")?;
                Body::Text(text.into())
            }
            (None, None, Some(binary)) => {
                let encoded: Cow<'_, str> = required(Some(binary), "binary", "a string of base64")?;
                let bytes = BASE64
                    .decode(encoded.as_bytes())
                    .map_err(|error| invalid(format!("`binary` is not base64 (RFC 4648, with padding): {error}")))?;
                Body::Binary(bytes.into())
            }
            _ => return Err(invalid("`send` takes exactly one of `payload`, `text` and `binary`")),
        };
        let id: Option<String> = optional(self.id, "id", "a string")?;
        if id.as_ref().is_some_and(|id| id.is_empty() || id.len() > MAX_ID) {
            return Err(invalid(format!("`id` must have 1 to {MAX_ID} bytes")));
        }
        Ok(Send {
            body,
            id,
            ttl_ms: optional(self.ttl_ms, "ttl_ms", "a whole number")?,
            resend: self.flag(self.resend, "resend", true)?,
            receipts: self.receipts()?,
        })
    }

    /// The stages that can be asked for; the others are always told.
    fn receipts(&self) -> Result<Option<Vec<Stage>>, Malformed> {
        let expected = "a list of `stored`, `received` and `acknowledged`";
        let stages: Option<Vec<Stage>> = optional(self.receipts, "receipts", expected)?;
        match stages {
            Some(stages) if stages.iter().any(|stage| *stage > Stage::Acknowledged) => {
                Err(invalid(format!("`receipts` must be {expected}; how a message ends badly is always told")))
            }
            stages => Ok(stages),
        }
    }

    fn session(&self) -> Result<String, Malformed> {
        name_or(self.session, "session", "default")
    }

    fn flag(&self, field: Field<'_>, name: &str, default: bool) -> Result<bool, Malformed> {
        Ok(optional(field, name, "true or false")?.unwrap_or(default))
    }
}

/// A payload as the part of `frame` that it is.
fn json_body(payload: &RawValue, frame: &Bytes) -> Result<Body, Malformed> {
    let json = payload.get().as_bytes();
    if nested_deeper_than(json, MAX_NESTING) {
        let message = format!("`payload` nests arrays and objects deeper than {MAX_NESTING}; send it as `text`");
        return Err(invalid(message));
    }
    // A small part of a large message must not keep all of it for as long as it waits; nor a small message what was read
    // together with it.
    let mostly_payload = frame.len() > SMALL_FRAME && json.len() >= frame.len() / 2;
    Ok(Body::Json(if mostly_payload { frame.slice_ref(json) } else { Bytes::copy_from_slice(json) }))
}

fn name_or(field: Field<'_>, name: &str, default: &str) -> Result<String, Malformed> {
    let value: String = optional(field, name, "a string")?.unwrap_or_else(|| default.to_owned());
    if is_name(&value) {
        return Ok(value);
    }
    let allowed = "1 to 64 of the letters A-Z and a-z, digits, `.`, `_` and `-`";
    Err(invalid(format!("`{name}` must be {allowed}, not {}", quoted(&value))))
}

fn required<'a, T: Deserialize<'a>>(field: Field<'a>, name: &str, expected: &str) -> Result<T, Malformed> {
    optional(field, name, expected)?.ok_or_else(|| invalid(format!("`{name}` is missing; it must be {expected}")))
}

fn optional<'a, T: Deserialize<'a>>(field: Field<'a>, name: &str, expected: &str) -> Result<Option<T>, Malformed> {
    let Some(raw) = field else { return Ok(None) };
    serde_json::from_str(raw.get())
        .map_err(|_| invalid(format!("`{name}` must be {expected}, not {}", shortened(raw.get()))))
}

fn invalid(message: impl Into<String>) -> Malformed {
    Malformed { code: Code::InvalidMessage, message: message.into() }
}

fn quoted(text: &str) -> String {
    shortened(&serde_json::Value::from(text).to_string()).into_owned()
}

/// The first characters of a text that an extension sent, for an error text.
fn shortened(text: &str) -> Cow<'_, str> {
    const MAX: usize = 60;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(text: &str) -> Result<Request, Malformed> {
        let frame = Bytes::copy_from_slice(text.as_bytes());
        Envelope::read(&frame)?.request(&frame)
    }

    fn refusal(text: &str) -> String {
        let malformed = request(text).unwrap_err();
        format!("{}: {}", malformed.code.as_str(), malformed.message)
    }

    fn payload(text: &str) -> Body {
        match request(text) {
            Ok(Request::Send { send, .. }) => send.body,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_payload_is_exactly_the_text_that_was_posted() {
        for json in
            [r#"{"n":12345678901234567890,"a":1,"a":2,"s":"\u0000\ud83d\ude00"}"#, "null", "[ 1 , 2 ]", r#""\ud83d""#]
        {
            assert_eq!(
                payload(&format!(r#"{{"type":"send", "payload" : {json} }}"#)),
                Body::Json(json.to_owned().into())
            );
        }
    }

    #[test]
    fn a_small_payload_does_not_keep_the_large_message_around_it() {
        let frame = Bytes::from(format!(r#"{{"type":"send","payload":1,"padding":"{}"}}"#, "x".repeat(1 << 20)));
        let kept = Envelope::read(&frame).unwrap().request(&frame).unwrap();
        assert!(matches!(kept, Request::Send { .. }));
        assert!(frame.is_unique(), "nothing of the request is a part of the frame");
    }

    #[test]
    fn text_and_binary_are_decoded() {
        assert_eq!(payload(r#"{"type":"send","text":"a\u0000\ud83d\ude00"}"#), Body::Text("a\0😀".into()));
        assert_eq!(payload(r#"{"type":"send","binary":"AP8="}"#), Body::Binary(vec![0, 255].into()));
    }

    #[test]
    fn open_has_the_defaults_of_the_protocol() {
        let Ok(Request::Open(open)) = request(r#"{"type":"open","url":"ws://localhost/","unknown":[]}"#) else {
            panic!()
        };
        assert_eq!((&*open.session, &*open.profile, &*open.consumer), ("default", "", "main"));
        assert_eq!((open.mode, open.as_text, open.acknowledge), (Mode::Durable, false, Acknowledge::Manual));
        assert_eq!((open.observe, open.after, open.protocols, open.settings), (false, None, None, None));
        assert!(open.connect);
    }

    #[test]
    fn an_open_that_was_read_is_written_as_the_same_request() {
        for text in [
            r#"{"type":"open"}"#,
            r#"{"type":"open","session":"s","url":"ws://localhost/","profile":"p","mode":"memory","consumer":"c",
                "after":{"epoch":"e","seq":7},"ack":"auto","as":"text","protocols":["a"],"connect":false,
                "settings":{"linger_ms":1000,"heartbeat":{"send":{"b":12345678901234567890,"a":1e3}}}}"#,
            r#"{"type":"open","mode":"direct","observe":true,"protocols":[]}"#,
        ] {
            let Ok(Request::Open(open)) = request(text) else { panic!("{text}") };
            let written = serde_json::to_string(&open).unwrap();
            assert_eq!(request(&written), Ok(Request::Open(open)), "{written}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_precisely() {
        for (text, expected) in [
            ("", "invalid-message: the message is empty"),
            ("nonsense", "invalid-message: the message is not a JSON object: expected"),
            ("\"x\"}", "invalid-message: the message is not a JSON object: expected `{`"),
            ("[1]", "invalid-message: the message is not an object"),
            ("null", "invalid-message: the message is not an object"),
            ("{}", "invalid-message: `type` is missing"),
            (r#"{"type":7}"#, "invalid-message: `type` must be a string, not 7"),
            (r#"{"type":"dance"}"#, "unknown-type: there is no message of type \"dance\""),
            (r#"{"type":"ack","session":"a","seq":-1}"#, "invalid-message: `seq` must be a whole number, not -1"),
            (r#"{"type":"ack","session":"a b","seq":1}"#, "invalid-message: `session` must be 1 to 64"),
            (r#"{"type":"send"}"#, "invalid-message: `send` takes exactly one"),
            (r#"{"type":"send","text":"a","payload":1}"#, "invalid-message: `send` takes exactly one"),
            (r#"{"type":"send","text":"\ud800"}"#, "invalid-message: `text` must be a string without lone"),
            (r#"{"type":"send","binary":"A"}"#, "invalid-message: `binary` is not base64"),
            (r#"{"type":"hello","protocol":9}"#, "protocol-unsupported: protocol 9 is not spoken"),
            (
                r#"{"type":"open","mode":"x"}"#,
                "invalid-message: `mode` must be `durable`, `memory` or `direct`, not \"x\"",
            ),
            (r#"{"type":"open","after":{"seq":1}}"#, "invalid-message: `after` must be an object with `epoch`"),
            (r#"{"type":"open","protocols":["a","b c"]}"#, "invalid-message: `protocols` may hold 1 to 128 letters"),
            (r#"{"type":"open","protocols":["a","a"]}"#, "invalid-message: `protocols` names \"a\" twice"),
            (r#"{"type":"open","protocols":"a"}"#, "invalid-message: `protocols` must be a list of strings"),
            (r#"{"type":"subscribe"}"#, "invalid-message: `key` is missing"),
            (r#"{"type":"unsubscribe","key":""}"#, "invalid-message: `key` must have 1 to 128 bytes"),
            (r#"{"type":"close","code":1001}"#, "invalid-message: `code` must be 1000 or 3000 to 4999, not 1001"),
            (r#"{"type":"open","type":"ack"}"#, "invalid-message: the message is not a JSON object: duplicate field"),
        ] {
            let said = refusal(text);
            assert!(said.starts_with(expected), "{text}: {said}");
        }
    }

    #[test]
    fn nesting_costs_no_stack() {
        let deep = "[".repeat(20_000) + &"]".repeat(20_000);
        assert!(refusal(&deep).starts_with("invalid-message"), "{}", refusal(&deep));
        assert!(refusal(&format!(r#"{{"type":"send","payload":{deep}}}"#)).contains("deeper than"));
    }

    #[test]
    fn an_error_text_never_repeats_a_long_input() {
        let long = "x".repeat(100_000);
        for text in [
            format!(r#"{{"type":"{long}"}}"#),
            format!("\"{long}\"}}"),
            format!("{{\"{long}"),
            format!("{{\"{long}\":\""),
        ] {
            assert!(refusal(&text).len() < 300);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_and_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let frame = Bytes::from(bytes);
            if let Ok(envelope) = Envelope::read(&frame) {
                let _ = (envelope.reference(), envelope.session_name(), envelope.request(&frame));
            }
        }
    }
}
