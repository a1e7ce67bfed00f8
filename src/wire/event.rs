//! Messages to the extension, and their way into frames that every browser takes.
//!
//! Owns: the shapes of events, and the [`Encoder`] that decides how they share frames: several messages in one
//! `batch` where the port announced it, one message over 1 MiB in `chunk`s. Does not decide what is sent when.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::{Body, Code, frame};

/// A message to the extension.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The answer to `hello`.
    Welcome {
        /// The `ref` of the request.
        reference: Option<String>,
        /// What the browser says who the extension is.
        origin: Arc<str>,
    },
    /// The answer to `open`.
    Opened(Box<Opened>),
    /// Direct mode: the answer to `open`. There is no stream whose place could be told.
    Opening {
        /// The `ref` of the request.
        reference: Option<String>,
        /// Name of the session.
        session: Arc<str>,
    },
    /// A message from the server.
    Message {
        /// Name of the session.
        session: Arc<str>,
        /// Its number in the epoch.
        seq: u64,
        /// When it was read from the server, in milliseconds since 1970.
        at: u64,
        /// What the server sent.
        body: Body,
        /// Its number is not above what `opened` called the head.
        replay: bool,
        /// Given back by [`Encoder::take_written`] when the message is in a frame; nothing is sent of it.
        tag: Option<Tag>,
    },
    /// Direct mode: a message from the server, which has no number.
    Frame {
        /// Name of the session.
        session: Arc<str>,
        /// When it was read from the server, in milliseconds since 1970.
        at: u64,
        /// What the server sent.
        body: Body,
        /// Given back by [`Encoder::take_written`] when the message is in frames; nothing is sent of it.
        tag: Tag,
    },
    /// Something can no longer be delivered.
    Gap {
        /// Name of the session.
        session: Arc<str>,
        /// Its number; the highest that it covers.
        seq: u64,
        /// What is missing.
        gap: Gap,
        /// Its number is not above what `opened` called the head.
        replay: bool,
        /// As in [`Event::Message`].
        tag: Option<Tag>,
    },
    /// What became of messages to the server.
    Receipt {
        /// Name of the session.
        session: Arc<str>,
        /// How far they came.
        stage: Stage,
        /// Their ids.
        ids: Vec<Arc<str>>,
        /// Why they were refused.
        reason: Option<Refusal>,
    },
    /// The connection's state changed.
    State {
        /// Name of the session.
        session: Arc<str>,
        /// The state and what belongs to it.
        state: Box<StateReport>,
    },
    /// The server is to be shown a credential, and a fresh one is wanted.
    TokenNeeded {
        /// Name of the session.
        session: Arc<str>,
        /// Why: `missing`, `expired`, `expiring` or `refused`.
        reason: &'static str,
    },
    /// Direct mode: how much is in the hands of the system.
    Sent {
        /// Name of the session.
        session: Arc<str>,
        /// Bytes of the messages so far.
        bytes: u64,
        /// As in [`Event::Frame`].
        tag: Tag,
    },
    /// Direct mode: the connection is over. Always the last.
    Closed {
        /// Name of the session.
        session: Arc<str>,
        /// How it ended.
        close: Closed,
    },
    /// The answer to `status`: the text of its `sessions` list.
    Status {
        /// The `ref` of the request.
        reference: Option<String>,
        /// JSON of the sessions.
        sessions: Vec<serde_json::Value>,
    },
    /// Something went wrong.
    Error(Box<Problem>),
}

/// To whom it matters that something is in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tag {
    /// The driver's number of the session.
    pub session: u64,
    /// How often a port was attached to the session by then: this one may have opened it anew since.
    pub attachment: u64,
    /// The number of the message or gap; in direct mode the place of its end in all that the port was given.
    pub seq: u64,
}

/// The fields of `opened`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Opened {
    /// The `ref` of the request.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Name of the session.
    pub session: Arc<str>,
    /// The session's epoch.
    pub epoch: Arc<str>,
    /// State of the connection.
    pub state: State,
    /// The highest number so far.
    pub head: u64,
    /// The consumer's place: everything up to it has been processed.
    pub acked: u64,
    /// How many messages and gaps follow as replay.
    pub pending: u64,
    /// Who acknowledges.
    pub ack: &'static str,
    /// What may be in flight; a port that only watches has no window.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<Window>,
}

/// How much may be on its way to the extension without being acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    /// Messages and gaps.
    pub messages: u64,
    /// Bytes of their JSON text.
    pub bytes: u64,
}

/// What a `gap` says is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    /// The lowest number that it covers.
    pub from: u64,
    /// Why it is missing.
    pub reason: GapReason,
    /// How many messages of the server are missing; `None` if nobody can know.
    pub count: Option<u64>,
    /// At most so many are missing, where `count` is not known and this is.
    pub at_most: Option<u64>,
    /// When the loss began, in milliseconds since 1970.
    pub since: Option<u64>,
    /// When it ended.
    pub until: Option<u64>,
}

/// Why something is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GapReason {
    /// The connection was lost: what the server sent meanwhile is unknown.
    Disconnected,
    /// More came than the inbox holds; the oldest were dropped.
    Overflow,
    /// It waited for longer than it is kept, or its consumer was away for longer than anything is kept for it.
    Retention,
    /// The server sent a message over the limit; it was not read, and the connection ended.
    TooLarge,
    /// The place that the port named belongs to an earlier epoch.
    Epoch,
    /// This observer took messages too slowly.
    ObserverLag,
    /// The file that it was kept in was damaged.
    Damage,
    /// The daemon ended without warning before it was kept, if it ever came.
    Crash,
}

/// How a WebSocket ended, as a browser's own would say it (`CloseEvent`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Closed {
    /// The close code; 1005 if there was none, 1006 if there was no close frame.
    pub code: u16,
    /// What the server said.
    pub reason: String,
    /// Both sides agreed.
    pub clean: bool,
}

impl Closed {
    /// No close frame came.
    #[must_use]
    pub fn abnormal() -> Self {
        Self { code: 1006, reason: String::new(), clean: false }
    }
}

/// How far a message to the server came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// It is kept: it will be sent until it has arrived.
    Stored,
    /// The server's WebSocket peer has it.
    Received,
    /// The server's application said that it has it.
    Acknowledged,
    /// It waited longer than its `ttl_ms`.
    Expired,
    /// It will not be sent.
    Refused,
}

/// Why a message to the server will not be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The queue has no room.
    Full,
    /// It may have arrived, and must not be sent again.
    UnknownDelivery,
    /// It is too large for the server.
    TooLarge,
    /// Each connection that carried it ended.
    EndsConnections,
    /// It cannot be kept safely: the disk is full or does not work.
    Disk,
    /// The file that it was kept in was damaged.
    Damage,
}

impl Refusal {
    /// The word that is sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::UnknownDelivery => "unknown-delivery",
            Self::TooLarge => "too-large",
            Self::EndsConnections => "ends-connections",
            Self::Disk => "disk",
            Self::Damage => "damage",
        }
    }
}

/// The state of a session's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// The first attempt since the session was opened is under way.
    Connecting,
    /// Messages flow.
    Connected,
    /// Messages flow by the settings' `fallback`, while there is no WebSocket.
    Polling,
    /// The connection was lost or could not be made; the next attempt is under way or waits for its time.
    Reconnecting,
    /// Closed on request.
    Disconnected,
    /// Parked until a person changes something.
    Error,
}

/// The fields of `state`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StateReport {
    /// The state.
    pub state: State,
    /// Since when, in milliseconds since 1970.
    pub since: u64,
    /// Number of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// When the next attempt is due, in milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<u64>,
    /// The sub-protocol that the server chose.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Arc<str>>,
    /// Why it is so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
}

/// Why a connection ended or could not be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// A word for programs.
    pub code: &'static str,
    /// A sentence for people: what was tried, on what, and why it failed.
    pub message: String,
    /// The close code of the WebSocket.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub close_code: Option<u16>,
    /// The status with which the server answered the upgrade.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
    /// Whether it is tried again by itself.
    pub retryable: bool,
    /// When the server said it should be tried again.
    #[serde(skip)]
    pub hint: Option<Hint>,
}

/// When a server wants to be tried again, as it said itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hint {
    /// Not before so many milliseconds.
    pub after_ms: u64,
    /// And then at some moment within so many milliseconds.
    pub window_ms: Option<u64>,
}

impl Reason {
    /// A reason that is tried again.
    #[must_use]
    pub fn new(code: &'static str, message: String) -> Self {
        Self { code, message, close_code: None, http_status: None, retryable: true, hint: None }
    }
}

/// The fields of `error`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// A word for programs.
    #[serde(serialize_with = "code_word")]
    pub code: Code,
    /// What was tried, why it failed, what to do next.
    pub message: String,
    /// The `ref` of the request.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The session that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// Whether the same request may succeed later.
    pub retryable: bool,
}

fn code_word<S: serde::Serializer>(code: &Code, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(code.as_str())
}

impl Problem {
    /// A problem that is about no request and no session yet.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), reference: None, session: None, retryable: code.retryable() }
    }

    /// The same, as the answer to the request that carried this `ref`.
    #[must_use]
    pub fn answering(mut self, reference: Option<String>) -> Self {
        self.reference = reference;
        self
    }

    /// The same, about a session.
    #[must_use]
    pub fn about(mut self, session: impl Into<String>) -> Self {
        self.session = Some(session.into());
        self
    }
}

impl From<Problem> for Event {
    fn from(problem: Problem) -> Self {
        Self::Error(Box::new(problem))
    }
}

impl Event {
    /// Appends the JSON text of this event.
    pub fn write(&self, out: &mut BytesMut) {
        match self {
            Self::Message { session, seq, at, body, replay, .. } => {
                open_delivery(out, "message", session);
                put_number(out, ",\"seq\":", *seq);
                put_number(out, ",\"at\":", *at);
                put_body(out, body);
                out.put_slice(if *replay { b",\"replay\":true}" } else { b"}" });
            }
            Self::Frame { session, at, body, .. } => {
                open_delivery(out, "message", session);
                put_number(out, ",\"at\":", *at);
                put_body(out, body);
                out.put_u8(b'}');
            }
            Self::Gap { session, seq, gap, replay, .. } => {
                open_delivery(out, "gap", session);
                put_number(out, ",\"seq\":", *seq);
                put_number(out, ",\"from\":", gap.from);
                put_json(out, b",\"reason\":", &gap.reason);
                put_json(out, b",\"count\":", &gap.count);
                if let Some(at_most) = gap.at_most {
                    put_number(out, ",\"at_most\":", at_most);
                }
                if let Some(since) = gap.since {
                    put_number(out, ",\"since\":", since);
                }
                if let Some(until) = gap.until {
                    put_number(out, ",\"until\":", until);
                }
                out.put_slice(if *replay { b",\"replay\":true}" } else { b"}" });
            }
            Self::Welcome { reference, origin } => {
                put_tagged(out, "welcome", &Welcome::new(reference.as_deref(), origin));
            }
            Self::Opened(opened) => put_tagged(out, "opened", opened),
            Self::Opening { reference, session } => {
                let opening = Opening { reference: reference.as_deref(), session, state: State::Connecting };
                put_tagged(out, "opened", &opening);
            }
            Self::Receipt { session, stage, ids, reason } => {
                put_tagged(out, "receipt", &Receipt { session, stage: *stage, ids, reason: *reason });
            }
            Self::State { session, state } => put_tagged(out, "state", &SessionState { session, state }),
            Self::TokenNeeded { session, reason } => {
                put_json(out, b"{\"type\":\"token-needed\",\"session\":", &**session);
                put_json(out, b",\"reason\":", reason);
                out.put_u8(b'}');
            }
            Self::Status { reference, sessions } => {
                put_tagged(out, "status", &Status { reference: reference.as_deref(), sessions });
            }
            Self::Sent { session, bytes, .. } => {
                put_json(out, b"{\"type\":\"sent\",\"session\":", &**session);
                put_number(out, ",\"bytes\":", *bytes);
                out.put_u8(b'}');
            }
            Self::Closed { session, close } => put_tagged(out, "closed", &SessionClosed { session, close }),
            Self::Error(problem) => put_tagged(out, "error", problem),
        }
    }

    /// Whether this comes from the server, or stands for what should have, and so may share a `batch`.
    #[must_use]
    pub fn is_delivery(&self) -> bool {
        matches!(self, Self::Message { .. } | Self::Frame { .. } | Self::Gap { .. })
    }

    fn delivered(&self) -> Option<Tag> {
        match self {
            Self::Frame { tag, .. } | Self::Sent { tag, .. } => Some(*tag),
            Self::Message { tag, .. } | Self::Gap { tag, .. } => *tag,
            _ => None,
        }
    }
}

#[derive(Serialize)]
struct Welcome<'a> {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    protocol: u32,
    version: &'static str,
    origin: &'a str,
    limits: Limits,
    features: [&'static str; 1],
}

#[derive(Serialize)]
struct Limits {
    message_bytes: usize,
    nesting: usize,
    sessions: usize,
    consumers: usize,
    window: Window,
}

impl<'a> Welcome<'a> {
    fn new(reference: Option<&'a str>, origin: &'a str) -> Self {
        let limits = Limits {
            message_bytes: frame::MAX_FROM_EXTENSION,
            nesting: super::MAX_NESTING,
            sessions: super::MAX_SESSIONS,
            consumers: super::MAX_CONSUMERS,
            window: super::WINDOW,
        };
        let version = env!("CARGO_PKG_VERSION");
        Self { reference, protocol: super::PROTOCOL, version, origin, limits, features: ["batch"] }
    }
}

#[derive(Serialize)]
struct Opening<'a> {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    session: &'a str,
    state: State,
}

#[derive(Serialize)]
struct Receipt<'a> {
    session: &'a str,
    stage: Stage,
    ids: &'a [Arc<str>],
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Refusal>,
}

#[derive(Serialize)]
struct SessionState<'a> {
    session: &'a str,
    #[serde(flatten)]
    state: &'a StateReport,
}

#[derive(Serialize)]
struct SessionClosed<'a> {
    session: &'a str,
    #[serde(flatten)]
    close: &'a Closed,
}

#[derive(Serialize)]
struct Status<'a> {
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a str>,
    sessions: &'a [serde_json::Value],
}

fn open_delivery(out: &mut BytesMut, kind: &str, session: &str) {
    // A session's name has no character that JSON would escape, see `is_name`.
    for part in ["{\"type\":\"", kind, "\",\"session\":\"", session, "\""] {
        out.put_slice(part.as_bytes());
    }
}

fn put_number(out: &mut BytesMut, before: &str, number: u64) {
    out.put_slice(before.as_bytes());
    out.put_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn put_body(out: &mut BytesMut, body: &Body) {
    match body {
        Body::Json(json) => {
            out.put_slice(b",\"payload\":");
            out.put_slice(json);
        }
        Body::Text(text) => {
            let text = std::str::from_utf8(text).expect("a text frame was checked to be UTF-8 when it was read");
            put_json(out, b",\"text\":", text);
        }
        Body::Binary(bytes) => {
            out.put_slice(b",\"binary\":\"");
            let start = out.len();
            let length =
                base64::encoded_len(bytes.len(), true).expect("frames are bounded far below the address space");
            out.put_bytes(0, length);
            BASE64.encode_slice(bytes, &mut out[start..]).expect("the slice has the encoded length");
            out.put_slice(b"\"");
        }
    }
}

fn put_json<T: Serialize + ?Sized>(out: &mut BytesMut, before: &[u8], value: &T) {
    out.put_slice(before);
    serde_json::to_writer(out.writer(), value).expect("these types have string keys and memory takes all bytes");
}

/// An object with its `type` in front; `fields` must be a struct with at least one field that is always there.
fn put_tagged<T: Serialize>(out: &mut BytesMut, kind: &str, fields: &T) {
    let start = out.len();
    for part in ["{\"type\":\"", kind, "\""] {
        out.put_slice(part.as_bytes());
    }
    let brace = out.len();
    put_json(out, b"", fields);
    debug_assert!(out[brace] == b'{' && out[start] == b'{');
    out[brace] = b',';
}

/// Bytes of the JSON text of a message with this body, as the window counts it.
#[must_use]
pub fn message_len(session: &str, seq: u64, at: u64, body: &Body) -> usize {
    let digits = |number: u64| number.checked_ilog10().unwrap_or(0) as usize + 1;
    let fixed = "{'type':'message','session':'','seq':,'at':}".len() + session.len() + digits(seq) + digits(at);
    fixed
        + match body {
            Body::Json(json) => ",'payload':".len() + json.len(),
            Body::Text(text) => ",'text':''".len() + text.iter().map(|byte| escaped_len(*byte)).sum::<usize>(),
            Body::Binary(bytes) => ",'binary':''".len() + bytes.len().div_ceil(3) * 4,
        }
}

/// Bytes that a byte of UTF-8 takes inside a JSON string, as serde_json writes it.
fn escaped_len(byte: u8) -> usize {
    match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    }
}

/// Escaped bytes of one chunk's `data`: well below a browser's limit, and small enough that a port with a large
/// message does not stand still for long.
const CHUNK_DATA: usize = 512 * 1024;

/// Makes frames of events, for one port.
#[derive(Debug, Default)]
pub struct Encoder {
    batch: bool,
    chunks: Option<Chunks>,
    chunked: u64,
    written: Vec<Tag>,
}

impl Encoder {
    /// From now on several messages may share a frame: the port announced the feature.
    pub fn allow_batches(&mut self) {
        self.batch = true;
    }

    /// Moves events from `queue` into frames at the end of `out`, until the queue is empty or `out` holds `enough`
    /// bytes. Returns whether anything is left to encode.
    ///
    /// A message of many chunks is not laid out as a whole: each call appends as many as fit.
    pub fn encode(&mut self, queue: &mut VecDeque<Event>, out: &mut BytesMut, enough: usize) -> bool {
        while out.len() < enough {
            if let Some(chunks) = &mut self.chunks {
                if chunks.write_next(out) {
                    self.written.extend(chunks.delivered);
                    self.chunks = None;
                }
                continue;
            }
            let Some(event) = queue.pop_front() else { return false };
            if self.batch && event.is_delivery() {
                self.encode_batch(event, queue, out, enough);
            } else {
                self.encode_one(&event, out);
            }
        }
        self.chunks.is_some() || !queue.is_empty()
    }

    /// The tags of what is wholly in frames since the last call.
    pub fn take_written(&mut self) -> Vec<Tag> {
        std::mem::take(&mut self.written)
    }

    fn encode_one(&mut self, event: &Event, out: &mut BytesMut) {
        let start = out.len();
        frame::put(out, |out| event.write(out));
        self.written.extend(event.delivered());
        self.chunk_if_too_long(start, event, out);
    }

    /// One frame with `first` and as many of the messages that wait behind it as it holds.
    fn encode_batch(&mut self, first: Event, queue: &mut VecDeque<Event>, out: &mut BytesMut, enough: usize) {
        const END: &[u8] = b"]}";
        let start = out.len();
        frame::put(out, |out| {
            out.put_slice(b"{\"type\":\"batch\",\"messages\":[");
            let alone = out.len();
            first.write(out);
            self.written.extend(first.delivered());
            while out.len() < enough && queue.front().is_some_and(Event::is_delivery) {
                let before = out.len();
                out.put_u8(b',');
                queue[0].write(out);
                if out.len() + END.len() - start - frame::PREFIX > frame::MAX_TO_EXTENSION {
                    out.truncate(before);
                    break;
                }
                self.written.extend(queue[0].delivered());
                queue.pop_front();
            }
            if out.len() + END.len() - start - frame::PREFIX > frame::MAX_TO_EXTENSION {
                // Only the first can be too long; it is chunked as the message that it is.
                let message = out.split_off(alone);
                out.truncate(start + frame::PREFIX);
                out.unsplit(message);
            } else {
                out.put_slice(END);
            }
        });
        self.chunk_if_too_long(start, &first, out);
    }

    fn chunk_if_too_long(&mut self, start: usize, event: &Event, out: &mut BytesMut) {
        if out.len() - start - frame::PREFIX <= frame::MAX_TO_EXTENSION {
            return;
        }
        let text = out.split_off(start + frame::PREFIX).freeze();
        out.truncate(start);
        self.chunked += 1;
        // Only with its last piece is it where it should be.
        let delivered = self.written.pop_if(|last| event.delivered() == Some(*last));
        self.chunks = Some(Chunks::new(self.chunked, text, delivered));
    }
}

/// One message that is on its way in pieces.
#[derive(Debug)]
struct Chunks {
    of: u64,
    text: Bytes,
    /// Ends of the pieces in `text`.
    ends: Vec<usize>,
    next: usize,
    /// The message's tag, if it has one.
    delivered: Option<Tag>,
}

impl Chunks {
    fn new(of: u64, text: Bytes, delivered: Option<Tag>) -> Self {
        let mut ends = Vec::new();
        let (mut escaped, mut boundary) = (0, 0);
        for (index, &byte) in text.iter().enumerate() {
            if byte & 0xc0 != 0x80 {
                boundary = index;
            }
            escaped += escaped_len(byte);
            if escaped > CHUNK_DATA {
                ends.push(boundary);
                escaped = text[boundary..=index].iter().map(|byte| escaped_len(*byte)).sum();
            }
        }
        ends.push(text.len());
        Self { of, text, ends, next: 0, delivered }
    }

    /// Appends the next piece. Returns whether it was the last.
    fn write_next(&mut self, out: &mut BytesMut) -> bool {
        let start = self.next.checked_sub(1).map_or(0, |last| self.ends[last]);
        let end = self.ends[self.next];
        frame::put(out, |out| {
            put_number(out, "{\"type\":\"chunk\",\"of\":\"", self.of);
            put_number(out, "\",\"index\":", self.next as u64);
            put_number(out, ",\"count\":", self.ends.len() as u64);
            let data = std::str::from_utf8(&self.text[start..end]).expect("pieces are cut between characters");
            put_json(out, b",\"data\":", data);
            out.put_u8(b'}');
        });
        self.next += 1;
        self.next == self.ends.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn tag(seq: u64) -> Tag {
        Tag { session: 5, attachment: 1, seq }
    }

    fn message(seq: u64, body: Body) -> Event {
        Event::Message { session: "s".into(), seq, at: 1_700_000_000_000, body, replay: false, tag: None }
    }

    fn text_of(event: &Event) -> String {
        let mut out = BytesMut::new();
        event.write(&mut out);
        String::from_utf8(out.to_vec()).unwrap()
    }

    fn frames(encoder: &mut Encoder, events: Vec<Event>) -> Vec<String> {
        let (mut queue, mut out) = (VecDeque::from(events), BytesMut::new());
        let mut decoder = frame::Decoder::new(frame::MAX_TO_EXTENSION);
        let mut frames = Vec::new();
        loop {
            let more = encoder.encode(&mut queue, &mut out, 64 * 1024);
            decoder.buffer().extend_from_slice(&out.split());
            while let Some(frame) = decoder.next().expect("no frame is longer than a browser takes") {
                frames.push(String::from_utf8(frame.to_vec()).unwrap());
            }
            if !more {
                return frames;
            }
        }
    }

    fn joined(chunks: &[String]) -> String {
        let chunks: Vec<Value> = chunks.iter().map(|text| serde_json::from_str(text).unwrap()).collect();
        for (index, chunk) in chunks.iter().enumerate() {
            assert_eq!(
                (&chunk["type"], &chunk["of"], &chunk["index"], &chunk["count"]),
                (&json!("chunk"), &chunks[0]["of"], &json!(index), &json!(chunks.len()))
            );
        }
        chunks.iter().map(|chunk| chunk["data"].as_str().unwrap()).collect()
    }

    #[test]
    fn a_payload_stands_in_its_message_as_it_came() {
        let json = r#"{"n":12345678901234567890,"a":1,"a":2,"s":"\u0000\ud83d\ude00"}"#;
        assert_eq!(
            text_of(&message(7, Body::Json(json.into()))),
            format!(r#"{{"type":"message","session":"s","seq":7,"at":1700000000000,"payload":{json}}}"#)
        );
    }

    #[test]
    fn every_event_is_a_json_object_with_a_type() {
        let state = StateReport {
            state: State::Error,
            since: 1,
            attempt: Some(2),
            retry_at: None,
            protocol: None,
            reason: None,
        };
        let (since, until) = (Some(1), Some(2));
        let gap = Gap { from: 3, reason: GapReason::Disconnected, count: None, at_most: Some(2), since, until };
        let close = Closed::abnormal();
        for (event, kind) in [
            (Event::Welcome { reference: Some("r".into()), origin: "o".into() }, "welcome"),
            (Event::State { session: "s".into(), state: Box::new(state) }, "state"),
            (Event::Gap { session: "s".into(), seq: 4, gap, replay: true, tag: None }, "gap"),
            (
                Event::Receipt { session: "s".into(), stage: Stage::Stored, ids: vec!["i".into()], reason: None },
                "receipt",
            ),
            (Event::Status { reference: None, sessions: vec![] }, "status"),
            (Event::Opening { reference: Some("r".into()), session: "s".into() }, "opened"),
            (Event::Frame { session: "s".into(), at: 1, body: Body::Text("t".into()), tag: tag(1) }, "message"),
            (Event::Sent { session: "s".into(), bytes: 3, tag: tag(1) }, "sent"),
            (Event::Closed { session: "s".into(), close }, "closed"),
            (Problem::new(Code::AckAhead, "m").about("s").into(), "error"),
            (message(1, Body::Binary(Bytes::from_static(&[0, 255]))), "message"),
        ] {
            let value: Value = serde_json::from_str(&text_of(&event)).unwrap();
            assert_eq!(value["type"], kind);
        }
    }

    proptest! {
        #[test]
        fn the_length_of_a_message_is_known_without_writing_it(
            text in any::<String>(), bytes in proptest::collection::vec(any::<u8>(), 0..50), seq in any::<u64>(), at in any::<u64>(),
        ) {
            for body in [Body::Text(text.into()), Body::Binary(bytes.into()), Body::Json("[1]".into())] {
                let event = Event::Message { session: "abc".into(), seq, at, body: body.clone(), replay: false, tag: None };
                prop_assert_eq!(text_of(&event).len(), message_len("abc", seq, at, &body));
            }
        }
    }

    proptest! {
        // Each case writes about a megabyte.
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn chunks_joined_by_index_are_the_message(seed in any::<u64>(), length in 400_000usize..1_500_000) {
            let mut rng = fastrand::Rng::with_seed(seed);
            let alphabet: Vec<char> = "a\"\\\u{1}é漢😀\n".chars().collect();
            let mut text = String::new();
            while text.len() < length {
                text.push(alphabet[rng.usize(..alphabet.len())]);
            }
            let event = message(1, Body::Text(text.into()));
            let whole = text_of(&event);
            let frames = frames(&mut Encoder::default(), vec![event]);
            if whole.len() > frame::MAX_TO_EXTENSION {
                prop_assert_eq!(joined(&frames), whole);
            } else {
                prop_assert_eq!(frames, vec![whole]);
            }
        }
    }

    #[test]
    fn a_message_of_just_the_browsers_limit_goes_whole_and_one_more_byte_in_chunks() {
        let room = frame::MAX_TO_EXTENSION - text_of(&message(1, Body::Json(Bytes::new()))).len();
        for batch in [false, true] {
            let mut encoder = Encoder { batch, ..Encoder::default() };
            let wrapping = if batch { r#"{"type":"batch","messages":[]}"#.len() } else { 0 };
            let fits = message(1, Body::Json("1".repeat(room - wrapping).into()));
            let too_long = message(1, Body::Json("1".repeat(room - wrapping + 1).into()));
            let [only] = &frames(&mut encoder, vec![fits])[..] else { panic!("not one frame") };
            assert_eq!(only.len(), frame::MAX_TO_EXTENSION);
            let long = frames(&mut encoder, vec![too_long.clone()]);
            if batch {
                // Within the limit as a message of its own, so no batch and no chunks.
                assert_eq!(long, [text_of(&too_long)]);
            } else {
                assert_eq!(joined(&long), text_of(&too_long));
            }
        }
    }

    #[test]
    fn a_port_that_announced_it_gets_what_waits_in_batches_and_order() {
        let mut encoder = Encoder::default();
        encoder.allow_batches();
        let body = |size: usize| Body::Json(format!("\"{}\"", "x".repeat(size)).into());
        let events: Vec<Event> = (1..=30).map(|seq| message(seq, body(seq as usize * 10_000))).collect();
        let mut seen = Vec::new();
        for frame in frames(&mut encoder, events) {
            let value: Value = serde_json::from_str(&frame).unwrap();
            assert_eq!(value["type"], "batch");
            seen.extend(value["messages"].as_array().unwrap().iter().map(|message| message["seq"].as_u64().unwrap()));
        }
        assert_eq!(seen, (1..=30).collect::<Vec<_>>());
    }

    #[test]
    fn a_long_message_counts_as_written_when_its_last_chunk_is() {
        let mut encoder = Encoder::default();
        let (session, body) = ("s".into(), Body::Text("x".repeat(3 << 20).into()));
        let long = Event::Message { session, seq: 3, at: 1, body, replay: false, tag: Some(tag(3)) };
        let (mut queue, mut out) = (VecDeque::from([long]), BytesMut::new());
        let mut calls = 0;
        while encoder.encode(&mut queue, &mut out, 64 * 1024) {
            assert_eq!(encoder.take_written(), []);
            out.clear();
            calls += 1;
        }
        assert!(calls > 2, "{calls}");
        // With the bytes, not after them: nobody might ask again.
        assert_eq!((encoder.take_written(), out.is_empty()), (vec![tag(3)], false));
    }

    #[test]
    fn messages_without_a_number_share_batches_too() {
        let mut encoder = Encoder::default();
        encoder.allow_batches();
        let frame = |end| Event::Frame { session: "s".into(), at: 7, body: Body::Text("a".into()), tag: tag(end) };
        let sent = |end| Event::Sent { session: "s".into(), bytes: 3, tag: tag(end) };
        let text = r#"{"type":"message","session":"s","at":7,"text":"a"}"#;
        assert_eq!(
            frames(&mut encoder, vec![frame(1), frame(2), sent(3), frame(4)]),
            [
                format!(r#"{{"type":"batch","messages":[{text},{text}]}}"#),
                r#"{"type":"sent","session":"s","bytes":3}"#.to_owned(),
                format!(r#"{{"type":"batch","messages":[{text}]}}"#),
            ]
        );
        assert_eq!(encoder.take_written(), [1, 2, 3, 4].map(tag));
    }

    #[test]
    fn nothing_stands_between_the_chunks_of_a_message() {
        let mut encoder = Encoder::default();
        encoder.allow_batches();
        let big = message(1, Body::Json(format!("\"{}\"", "x".repeat(3 << 20)).into()));
        let frames = frames(
            &mut encoder,
            vec![message(0, Body::Json("0".into())), big.clone(), message(2, Body::Json("2".into()))],
        );
        let kinds: Vec<bool> = frames.iter().map(|frame| frame.starts_with(r#"{"type":"chunk""#)).collect();
        assert_eq!((kinds.first(), kinds.last()), (Some(&false), Some(&false)));
        assert!(kinds[1..kinds.len() - 1].iter().all(|chunk| *chunk));
        assert_eq!(joined(&frames[1..frames.len() - 1]), text_of(&big));
    }
}
