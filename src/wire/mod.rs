//! The words that cross the native messaging port, and the two ways they are carried.
//!
//! Owns: protocol 1 as types ([`Request`], [`Event`], [`Code`]) and as bytes ([`frame`], [`link`]). `PROTOCOL.md`
//! is its description for people. Pure: no I/O, no clock. Does not decide anything: that is `session`'s.
//!
//! Payloads pass through untouched: a payload is never parsed into a tree; it is checked and then carried as the
//! bytes that came ([`Body`]).

mod detour;
pub mod event;
pub mod frame;
pub mod link;
pub mod request;
mod secret;

pub use detour::{Detour, DetourKind};
pub use event::{Encoder, Event, Gap, GapReason, Hint, Opened, Problem, Reason, Stage, State, Tag, Window};
pub use request::{Acknowledge, After, Mode, Open, Request, Resumption, Send};
pub use secret::{Presented, Secret};

use bytes::Bytes;
use serde::de::IgnoredAny;

/// The version of the messages between extension and host that this build speaks.
pub const PROTOCOL: u32 = 1;

/// The longest `session`, `consumer` or `ref`, in characters.
pub const MAX_NAME: usize = 64;

/// The longest `token`, in bytes.
pub const MAX_TOKEN: usize = 8192;

/// The longest `profile`, in bytes.
pub const MAX_PROFILE: usize = 128;

/// The longest `id` of a message, in bytes.
pub const MAX_ID: usize = 128;

/// The longest reason of a close frame, in bytes (RFC 6455 5.5: 125 with the code).
pub const MAX_CLOSE_REASON: usize = 123;

/// The code of a close frame that has none (RFC 6455 7.1.5).
pub const NO_CLOSE_CODE: u16 = 1005;

/// How many sub-protocols may be offered to a server.
pub const MAX_PROTOCOLS: usize = 32;

/// How many subscriptions one session may have.
pub const MAX_SUBSCRIPTIONS: usize = 1000;

/// How deep arrays and objects may be nested in a payload. Deeper text from a server is delivered as `text`; a deeper
/// payload from an extension is refused. Browsers take any depth (Chromium 156 and Firefox 153 took 500 000), but what an
/// extension does with it next fails somewhere above 1000 (`structuredClone`, `JSON.stringify`), and Chromium posts no
/// more than 2426.
pub const MAX_NESTING: usize = 512;

/// Bytes of the payload of a ping to a server: four that are the connection's alone, and the number of the last message
/// before it.
pub const PING_BYTES: usize = 12;

/// How many sessions one extension may have.
pub const MAX_SESSIONS: usize = 100;

/// How many consumers one session may have: each keeps what it has not acknowledged.
pub const MAX_CONSUMERS: usize = 32;

/// How much may be on its way to the extension without being acknowledged: browsers buffer without bound, so somebody
/// else must set one.
pub const WINDOW: Window = Window { messages: 1024, bytes: 4 * 1024 * 1024 };

/// How much may be on its way to a port that only watches before it skips ahead.
pub const OBSERVER_BYTES: usize = 1024 * 1024;

/// What one message carries, in either direction, as the bytes that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// A text frame that is JSON: its text.
    Json(Bytes),
    /// Any other text frame: UTF-8.
    Text(Bytes),
    /// A binary frame.
    Binary(Bytes),
}

impl Body {
    /// The body of a text frame from a server: JSON if it can be carried as JSON.
    #[must_use]
    pub fn from_text_frame(text: impl AsRef<str> + Into<Bytes>) -> Self {
        let shown = text.as_ref();
        let json = serde_json::from_str::<IgnoredAny>(shown).is_ok();
        if json && !nested_deeper_than(shown.as_bytes(), MAX_NESTING) {
            Self::Json(text.into())
        } else {
            Self::Text(text.into())
        }
    }

    /// The bytes, whatever they are.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        match self {
            Self::Json(bytes) | Self::Text(bytes) | Self::Binary(bytes) => bytes,
        }
    }

    /// Bytes of the frame's content.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes().len()
    }

    /// Whether the frame is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    /// The same content for a port that asked for `as: "text"`.
    #[must_use]
    pub fn into_text(self) -> Self {
        match self {
            Self::Json(bytes) => Self::Text(bytes),
            other => other,
        }
    }
}

/// Whether valid JSON nests arrays and objects deeper than `limit`.
fn nested_deeper_than(json: &[u8], limit: usize) -> bool {
    // Most JSON does not have so many, and then nothing needs to be looked at closely.
    let mut not_seen = opening_brackets(json);
    let mut depth = 0usize;
    let mut bytes = json.iter();
    while depth + not_seen > limit {
        match bytes.next() {
            None => return false,
            Some(b'"') => pass_string(&mut bytes),
            Some(b'[' | b'{') => {
                depth += 1;
                not_seen -= 1;
                if depth > limit {
                    return true;
                }
            }
            Some(b']' | b'}') => depth = depth.saturating_sub(1),
            Some(_) => {}
        }
    }
    false
}

/// Goes behind the end of the string whose beginning has been taken.
fn pass_string(bytes: &mut std::slice::Iter<'_, u8>) {
    loop {
        match bytes.next() {
            None | Some(b'"') => return,
            Some(b'\\') => {
                bytes.next();
            }
            Some(_) => {}
        }
    }
}

/// How many brackets and braces open, those in strings included. Pieces whose count fits into a byte let the compiler
/// count many at once: 60 GB/s, where a plain count does 3.
fn opening_brackets(json: &[u8]) -> usize {
    let count = |piece: &[u8]| piece.iter().map(|byte| u8::from(matches!(byte, b'[' | b'{'))).sum::<u8>();
    json.chunks(128).map(|piece| usize::from(count(piece))).sum()
}

/// Whether a text is a token of HTTP (RFC 9110, section 5.6.2), as the names of headers and sub-protocols are.
#[must_use]
pub fn is_http_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// Whether a text can be a credential that a server is shown.
#[must_use]
pub fn is_token(text: &str) -> bool {
    (1..=MAX_TOKEN).contains(&text.len()) && !text.contains(char::is_control)
}

/// Whether `name` may be the name of a session or a consumer: 1 to 64 of `A-Z a-z 0-9 . _ -`.
#[must_use]
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

macro_rules! codes {
    ($($name:ident = $text:literal, $retryable:literal, $doc:literal;)*) => {
        /// What an `error` is about: stable words for programs. New ones may be added; none changes its meaning.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Code { $(#[doc = $doc] $name,)* }

        impl Code {
            /// All codes, in the order of PROTOCOL.md.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word that is sent.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Whether the same request may succeed later without anybody changing anything.
            #[must_use]
            pub fn retryable(self) -> bool {
                match self { $(Self::$name => $retryable,)* }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$name => $doc.trim_ascii(),)* }
            }
        }
    };
}

codes! {
    InvalidMessage = "invalid-message", false, " The message is not JSON, not an object, or a field is missing or of the wrong kind.";
    UnknownType = "unknown-type", false, " This version does not know a message of that `type`.";
    Unsupported = "unsupported", false, " The message is right, but this version, or the mode of the session, does not offer what it asks for.";
    ProtocolUnsupported = "protocol-unsupported", false, " `hello` asked for a protocol that is not spoken.";
    TooLarge = "too-large", false, " The message is over a limit of size.";
    UnknownSession = "unknown-session", false, " This port has not opened that session.";
    TooManySessions = "too-many-sessions", false, " The limit of sessions is reached.";
    TooManyConsumers = "too-many-consumers", false, " The limit of consumers, or of observers, of a session is reached.";
    TooManySubscriptions = "too-many-subscriptions", false, " The limit of subscriptions of a session is reached.";
    NameTaken = "name-taken", false, " This port has a session of that name already, and one of the two is in direct mode.";
    SettingOutOfBounds = "setting-out-of-bounds", false, " A setting is outside of its bounds.";
    FileOnly = "file-only", false, " Only the configuration file may say this: it is a setting of the machine's owner, or bound to a server there.";
    UrlMissing = "url-missing", false, " A session that is not yet known was opened without a `url`.";
    UrlInvalid = "url-invalid", false, " The `url` is not one of a WebSocket server.";
    UrlDiffers = "url-differs", false, " The session belongs to another server.";
    ServerNotAllowed = "server-not-allowed", false, " The configuration does not allow this server for this extension.";
    NoTemplate = "no-template", false, " A subscription came without a `payload`, and no template says what to send.";
    NoAuth = "no-auth", false, " A `token` came, and no setting says how the server is to be shown one.";
    TokenRefused = "token-refused", false, " The server has refused this very `token`.";
    NotDurable = "not-durable", false, " `stored` was asked for in memory mode, which stores nothing.";
    ReadOnly = "read-only", false, " A port that observes asked for what needs a place in the session.";
    NotConnected = "not-connected", true, " Direct mode: there is no connection (yet, or any more) that could take this.";
    AckAhead = "ack-ahead", false, " The `seq` is above what was delivered.";
    Superseded = "superseded", false, " Another port of the same extension took over this consumer.";
    DiskFull = "disk-full", true, " Nothing can be stored: the disk is full, or does not work. A message with this answer was not taken.";
    Damaged = "damaged", false, " The file that sessions are kept in was damaged; stored messages to the server, what became of some, or subscriptions are lost.";
    QueueFull = "queue-full", true, " The queue towards the server is full; the message was not taken.";
    RateLimited = "rate-limited", true, " This was asked for too often.";
    AckOverdue = "ack-overdue", true, " The window of unacknowledged messages has been full for 10 seconds.";
    DaemonUnavailable = "daemon-unavailable", true, " The host found no daemon and could not start one.";
    ConfigInvalid = "config-invalid", false, " The configuration file cannot be used.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_json_is_carried_as_json_and_any_other_as_text() {
        for json in ["{}", " [1, 2] ", "null", "1e999", r#"{"a":1,"a":2}"#, r#""\ud83d""#, "12345678901234567890"] {
            assert_eq!(Body::from_text_frame(json), Body::Json(json.into()));
        }
        for text in ["", "hello", "{", "{} {}", "01", "'a'", "\u{feff}{}", "NaN", "\"\u{1}\""] {
            assert_eq!(Body::from_text_frame(text), Body::Text(text.into()));
        }
    }

    #[test]
    fn json_nested_beyond_the_limit_is_carried_as_text() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        assert!(matches!(Body::from_text_frame(nested(MAX_NESTING)), Body::Json(_)));
        assert!(matches!(Body::from_text_frame(nested(MAX_NESTING + 1)), Body::Text(_)));
        let brackets_in_a_string = format!("\"\\\"{}\"", "[".repeat(2 * MAX_NESTING));
        assert!(matches!(Body::from_text_frame(brackets_in_a_string), Body::Json(_)));
        let wide = format!("[{}1]", "[],{},".repeat(MAX_NESTING));
        assert!(matches!(Body::from_text_frame(wide), Body::Json(_)));
        let behind_strings = |depth: usize| {
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            format!(r#"["\"]]\\","{close}",{open}{close}]"#)
        };
        assert!(matches!(Body::from_text_frame(behind_strings(MAX_NESTING - 1)), Body::Json(_)));
        assert!(matches!(Body::from_text_frame(behind_strings(MAX_NESTING)), Body::Text(_)));
    }

    #[test]
    fn names_are_limited_in_length_and_letters() {
        assert!(is_name("default") && is_name("a.B_c-9") && is_name(&"x".repeat(64)));
        assert!(!is_name("") && !is_name("a b") && !is_name("ä") && !is_name(&"x".repeat(65)) && !is_name("a/b"));
    }
}
