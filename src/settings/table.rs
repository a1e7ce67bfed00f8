//! The table of all settings, and reading one value.
//!
//! Owns: names, kinds, defaults, bounds and meanings, as data, and the verdict on a value. Does not know who says it.

use std::sync::Arc;

use serde_json::Value;

use super::address::{Address, MAX_ADDRESS};
use super::template::{Blank, Template};
use super::{DEDUPE_WINDOW, Limits, SettingError};
use crate::wire::{MAX_ID, MAX_PROTOCOLS, is_http_token};

/// One setting.
#[derive(Debug, PartialEq)]
pub struct Setting {
    /// Its name, the names of its groups before it: `reconnect.first_ms`.
    pub path: &'static str,
    /// What it may be.
    pub kind: Kind,
    /// What it does, as a sentence.
    pub meaning: &'static str,
}

/// What a setting may be.
#[derive(Debug, PartialEq)]
pub enum Kind {
    /// A number.
    Number {
        /// What it is if nobody says anything.
        default: f64,
        /// The lower bound.
        min: f64,
        /// The upper bound.
        max: f64,
        /// No fraction is allowed.
        whole: bool,
        /// 0 is allowed as well and means that there is no bound, so it is more than any number.
        or_none: bool,
    },
    /// One of these words; the first is the default.
    Word(&'static [&'static str]),
    /// One of these words, or nothing.
    Choice(&'static [&'static str]),
    /// Any JSON value, with at most so many bytes of text.
    Json(usize),
    /// A JSON object that is not empty, with at most so many bytes of text.
    Pattern(usize),
    /// A JSON Pointer (RFC 6901) of at most so many bytes.
    Pointer(usize),
    /// A JSON value with this blank in a string of it, with at most so many bytes of text.
    Template(Blank, usize),
    /// The same, but it may be without it.
    Greeting(Blank, usize),
    /// Letters, digits, `-`, `_` and `.`, at most so many.
    Name(usize),
    /// A list of at most so many names of sub-protocols.
    Protocols(usize),
    /// An address for HTTP of at most so many bytes.
    Address(usize),
}

const MIB: u64 = 1024 * 1024;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const MONTH: u64 = 30 * DAY;

/// The longest JSON text of a setting, in bytes.
const MAX_JSON: usize = 4096;
/// The longest name, in bytes.
const MAX_NAME: usize = 64;
/// The longest JSON Pointer, in bytes.
const MAX_POINTER: usize = 256;

/// All settings, in the order of `PROTOCOL.md`.
pub const TABLE: &[Setting] = &[
    whole("reconnect.first_ms", 1_000, 100, HOUR, "Upper bound of the first delay after a failure."),
    Setting {
        path: "reconnect.multiplier",
        kind: Kind::Number { default: 2.0, min: 1.0, max: 10.0, whole: false, or_none: false },
        meaning: "By this the bound grows with each further failure.",
    },
    whole("reconnect.max_ms", 300_000, 100, DAY, "Upper bound of any delay; not below `first_ms`."),
    whole_or_none(
        "reconnect.max_attempts",
        0,
        1_000_000,
        "After so many attempts in a row of which none led to a connection that lasted `stable_ms`, nothing more is tried by \
         itself; 0: never.",
    ),
    whole(
        "reconnect.stable_ms",
        30_000,
        0,
        HOUR,
        "A connection that lasted this long makes the next delay a first one again.",
    ),
    whole(
        "reconnect.herd_window_ms",
        30_000,
        0,
        HOUR,
        "The first delay is drawn from this when the server went away for everybody. The default is 0 for a server on this \
         machine.",
    ),
    whole("reconnect.burst", 10, 1, 100, "So many attempts may be made at once."),
    whole(
        "reconnect.refill_ms",
        30_000,
        1_000,
        HOUR,
        "In this time one more attempt may be made. The default is 1000 for a server on this machine.",
    ),
    whole("heartbeat.interval_ms", 25_000, 100, HOUR, "A server that is silent for this long is pinged."),
    whole("heartbeat.timeout_ms", 10_000, 100, 10 * MINUTE, "So long it has to answer."),
    Setting {
        path: "heartbeat.send",
        kind: Kind::Json(MAX_JSON),
        meaning: "The server's own ping message; sent as a text frame with exactly this JSON.",
    },
    Setting {
        path: "heartbeat.reply",
        kind: Kind::Pattern(MAX_JSON),
        meaning: "The pattern of the answers to it, which the extension does not get; only together with `send`.",
    },
    whole("queue.max_messages", 10_000, 1, 1_000_000, "So many messages may wait for the server."),
    whole("queue.max_bytes", 64 * MIB, 1_024, 256 * MIB, "So many bytes of messages may wait for the server."),
    whole_or_none(
        "queue.ttl_ms",
        0,
        MONTH,
        "A message without a `ttl_ms` of its own expires when it has waited this long; 0: never.",
    ),
    whole("inbox.max_messages", 100_000, 1, 1_000_000, "So many messages are kept for the extension."),
    whole(
        "inbox.max_bytes",
        256 * MIB,
        1_024,
        1_024 * MIB,
        "So many bytes of messages are kept for the extension. At most 16777216 in memory mode.",
    ),
    whole(
        "inbox.retention_ms",
        DAY,
        1_000,
        MONTH,
        "So long a message is kept, and the place of a consumer that stays away.",
    ),
    whole(
        "inbox.persist_after_ms",
        50,
        0,
        10_000,
        "A message that is not acknowledged after this time is written to disk; 0: before it is delivered.",
    ),
    Setting {
        path: "inbox.overflow",
        kind: Kind::Word(&["drop-oldest", "pause"]),
        meaning: "What happens when there is no more room: the oldest messages give way to a `gap`, or the server is not read.",
    },
    whole(
        "inbox.max_message_bytes",
        64 * MIB,
        1,
        64 * MIB,
        "A longer message is not kept; a `gap` stands in its place.",
    ),
    Setting {
        path: "inbox.collapse.when",
        kind: Kind::Pattern(MAX_JSON),
        meaning: "The pattern of messages of which only the newest is kept while they wait; only together with `key`.",
    },
    Setting {
        path: "inbox.collapse.key",
        kind: Kind::Pointer(MAX_POINTER),
        meaning: "Where in such a message its key is: the newest of each key is kept. A key has at most 256 bytes of \
                  JSON.",
    },
    Setting {
        path: "auth.via",
        kind: Kind::Choice(&["header", "query", "protocol", "message"]),
        meaning: "How the server is shown the credential: in the header `Authorization`, in the query of the URL, as a \
                  sub-protocol, or in the first message.",
    },
    Setting {
        path: "auth.name",
        kind: Kind::Name(MAX_NAME),
        meaning: "What the query calls it: `token` if nothing is said.",
    },
    Setting {
        path: "auth.send",
        kind: Kind::Greeting(Blank::Token, MAX_JSON),
        meaning: "What is shown: for `message` the message; else a string, which is `Bearer {token}` in a header and \
                  `{token}` elsewhere if nothing is said. A message without {token} is sent without any credential.",
    },
    Setting {
        path: "auth.accepted",
        kind: Kind::Pattern(MAX_JSON),
        meaning: "The pattern of the answer to the message by which the server lets us in: before it comes nothing else is \
                  sent. Without it, all is sent at once.",
    },
    Setting {
        path: "auth.refused",
        kind: Kind::Pattern(MAX_JSON),
        meaning: "The pattern of the answer by which it does not; only together with `accepted`.",
    },
    Setting {
        path: "auth.renew",
        kind: Kind::Choice(&["connection", "message"]),
        meaning: "When a fresh token is shown: on the next connection, which is so if nothing is said, or in the same message \
                  on the one that there is.",
    },
    Setting {
        path: "dialect.preset",
        kind: Kind::Choice(&["channel", "task", "room", "jira", "graphql-transport-ws", "stomp"]),
        meaning: "The dialect that the server speaks: settings that need not be written out; see below.",
    },
    Setting {
        path: "dialect.protocols",
        kind: Kind::Protocols(MAX_PROTOCOLS),
        meaning: "The sub-protocols that are offered to the server if `open` names none.",
    },
    Setting {
        path: "dialect.format",
        kind: Kind::Choice(&["json", "stomp"]),
        meaning: "What messages are written in: JSON, which is so if nothing is said, or frames of STOMP, which templates, patterns \
                  and places see as JSON with `command`, `headers` and `body`.",
    },
    Setting {
        path: "dialect.subscribe",
        kind: Kind::Template(Blank::Key, MAX_JSON),
        meaning: "What is sent for a `subscribe` without a `payload`.",
    },
    Setting {
        path: "dialect.unsubscribe",
        kind: Kind::Template(Blank::Key, MAX_JSON),
        meaning: "What is sent for an `unsubscribe` without a `payload`.",
    },
    Setting {
        path: "dialect.resume.cursor",
        kind: Kind::Pointer(MAX_POINTER),
        meaning: "Where in a message of the server stands from where it can go on: any JSON of at most 256 bytes.",
    },
    Setting {
        path: "dialect.resume.send",
        kind: Kind::Template(Blank::Cursor, MAX_JSON),
        meaning: "What is sent first on a new connection, with the last cursor that came; only together with `cursor`.",
    },
    Setting {
        path: "dialect.resume.accepted",
        kind: Kind::Pattern(MAX_JSON),
        meaning: "The pattern of the answer by which the server confirms that nothing is missing: then the outage is no \
                  `gap`. Until it comes, or `heartbeat.timeout_ms` is over, nothing behind the outage is delivered.",
    },
    Setting {
        path: "dialect.resume.refused",
        kind: Kind::Pattern(MAX_JSON),
        meaning: "The pattern of the answer by which the server says that it cannot; only together with `accepted`.",
    },
    Setting {
        path: "dialect.answer.when",
        kind: Kind::Pattern(MAX_JSON),
        meaning: "The pattern of messages of the server that want an answer at once, and that the extension does not get; \
                  only together with `send`.",
    },
    Setting {
        path: "dialect.answer.send",
        kind: Kind::Json(MAX_JSON),
        meaning: "The answer: a text frame with exactly this JSON.",
    },
    Setting {
        path: "dialect.ack.id",
        kind: Kind::Pointer(MAX_POINTER),
        meaning: "Where in a message of the server the `id` stands that it acknowledges by that: text, or a number. A message \
                  with an id is then kept, and sent again after a lost connection, until the server has named it.",
    },
    Setting {
        path: "dialect.dedupe.id",
        kind: Kind::Pointer(MAX_POINTER),
        meaning: "Where in a message of the server its own id stands: text, or a number, of at most 256 bytes of JSON. A message \
                  whose id came before does not reach the extension.",
    },
    whole(DEDUPE_WINDOW, 1_000, 1, 100_000, "So many ids are remembered, the newest ones; only together with `id`."),
    Setting {
        path: "fallback.sse_url",
        kind: Kind::Address(MAX_ADDRESS),
        meaning: "Where what the server says comes as server-sent events while there is no WebSocket: each event is one message. \
                  The last cursor is shown as `Last-Event-ID`, too.",
    },
    Setting {
        path: "fallback.poll_url",
        kind: Kind::Address(MAX_ADDRESS),
        meaning: "Where it is asked for, time and again, if not there: a JSON array, each element one message, or status 204.",
    },
    Setting {
        path: "fallback.post_url",
        kind: Kind::Address(MAX_ADDRESS),
        meaning: "Where messages to the server are posted meanwhile, one in each request; without it they wait for the \
                  WebSocket. Only together with one of the two.",
    },
    whole(
        "fallback.after_attempts",
        3,
        1,
        100,
        "When so many attempts in a row have made no WebSocket, these ways and the WebSocket are tried in turn.",
    ),
    whole("fallback.interval_ms", 2_000, 100, HOUR, "So long after a poll that brought nothing the next one is made."),
    whole("linger_ms", DAY, 0, MONTH, "So long the connection is kept with no port attached."),
];

/// A setting that only a configuration file may say: it is no part of what an `open` brings, nor of what `status` shows.
#[derive(Debug, PartialEq, Eq)]
pub struct FileOnly {
    /// Its name.
    pub name: &'static str,
    /// What it is if nobody says anything.
    pub default: &'static str,
    /// What it may be.
    pub allowed: &'static str,
    /// What it does, as a sentence.
    pub meaning: &'static str,
}

/// All of those, in the order of `PROTOCOL.md`. `config` reads them.
pub const FILE_ONLY: &[FileOnly] = &[
    FileOnly {
        name: "proxy",
        default: "`\"system\"`",
        allowed: "\"none\", \"system\", `http://[USER:PASSWORD@]HOST[:PORT]` or `socks5://…`",
        meaning: "Through which proxy servers are reached that are not on this machine. Also in `[defaults]`.",
    },
    FileOnly {
        name: "headers",
        default: "none",
        allowed: "a table of at most 32 strings, each of at most 8192 printable ASCII characters",
        meaning: "What the request for the WebSocket has besides. Not those that the connection itself needs. Only with `url` \
                  beside it.",
    },
    FileOnly {
        name: "origin",
        default: "that of the extension",
        allowed: "a string like \"https://example.org\", or \"null\"",
        meaning: "What that request has as `Origin`.",
    },
    FileOnly {
        name: "tls",
        default: "none",
        allowed: "a table of paths: `ca_file`, `client_cert`, `client_key`",
        meaning: "PEM files, read for each connection: authorities that are believed besides those of the system, and the \
                  certificate with its key by which the server knows this side. Only with `url` beside it.",
    },
    FileOnly {
        name: "auth.source",
        default: "`\"extension\"`",
        allowed: "\"extension\", \"keyring\", \"env:NAME\" or \"command\"",
        meaning: "Where the credential comes from: the extension gives it, or it is read before each connection. Any other than \
                  \"extension\" only with `url` and `auth.via` beside it.",
    },
    FileOnly {
        name: "auth.command",
        default: "none",
        allowed: "a list of 1 to 64 strings, of which the first is a path from the root on, or a name that is looked for in \
                  `PATH`",
        meaning: "The program that prints the credential, and its arguments; no shell reads them. Only with `auth.source` \
                  \"command\".",
    },
];

const fn whole(path: &'static str, default: u64, min: u64, max: u64, meaning: &'static str) -> Setting {
    let kind = Kind::Number { default: default as f64, min: min as f64, max: max as f64, whole: true, or_none: false };
    Setting { path, kind, meaning }
}

const fn whole_or_none(path: &'static str, default: u64, max: u64, meaning: &'static str) -> Setting {
    let kind = Kind::Number { default: default as f64, min: 1.0, max: max as f64, whole: true, or_none: true };
    Setting { path, kind, meaning }
}

/// A value, as it was said.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Number(f64),
    Word(&'static str),
    Json(Arc<str>),
    Pattern(Value),
    Pointer(String),
    Template(Template),
    Name(String),
    Protocols(Vec<String>),
    Address(Address),
}

impl Setting {
    /// The setting of this name.
    #[must_use]
    pub fn named(path: &str) -> Option<&'static Self> {
        TABLE.iter().find(|setting| setting.path == path)
    }

    /// What it may be, to follow "must be"; a number within `limits`.
    #[must_use]
    pub fn allowed(&self, limits: &Limits) -> String {
        match &self.kind {
            Kind::Number { whole, .. } => {
                let range = limits.range(self);
                let number = if *whole { "a whole number" } else { "a number" };
                let or_none = if range.or_none { ", or 0" } else { "" };
                format!("{number} from {} to {}{or_none}", range.min, range.max)
            }
            Kind::Word(words) | Kind::Choice(words) => {
                words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")
            }
            Kind::Json(max) => format!("JSON of at most {max} bytes"),
            Kind::Pattern(max) => format!("a JSON object that is not empty, of at most {max} bytes"),
            Kind::Pointer(max) => format!("a JSON Pointer (RFC 6901) of at most {max} bytes, such as \"/data/id\""),
            Kind::Template(blank, max) => {
                format!("JSON with {} in one of its strings, of at most {max} bytes", blank.as_str())
            }
            Kind::Greeting(blank, max) => {
                format!("JSON, with {} where that is to stand in a string, of at most {max} bytes", blank.as_str())
            }
            Kind::Name(max) => format!("1 to {max} letters, digits, `-`, `_` and `.`"),
            Kind::Protocols(max) => format!("a list of at most {max} different names, each of at most {MAX_ID} bytes"),
            Kind::Address(max) => {
                let blank = Blank::Cursor.as_str();
                format!("an http:// or https:// URL of at most {max} bytes, with {blank} in its query or not")
            }
        }
    }

    /// What it is if nobody says anything, as JSON text.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        match &self.kind {
            Kind::Number { default, .. } => Some(default.to_string()),
            Kind::Word(words) => words.first().map(|word| format!("\"{word}\"")),
            Kind::Choice(_)
            | Kind::Json(_)
            | Kind::Pattern(_)
            | Kind::Pointer(_)
            | Kind::Template(..)
            | Kind::Greeting(..)
            | Kind::Name(_)
            | Kind::Protocols(_)
            | Kind::Address(_) => None,
        }
    }

    /// The sentence that `found` (a description) is not what this may be.
    #[must_use]
    pub fn not(&self, found: &str, limits: &Limits) -> String {
        format!("`{}` must be {}, not {found}", self.path, self.allowed(limits))
    }

    /// Reads a value.
    pub(super) fn read(&self, json: &str, limits: &Limits) -> Result<Said, SettingError> {
        let malformed = || SettingError::Malformed(self.not(&found(json), limits));
        // What comes here is JSON; reading it fails for what only a text can hold.
        let unreadable = |_| SettingError::Malformed(self.not("one that nests too deep or is not Unicode", limits));
        let shorter_than = |max: usize| {
            let found = format!("{} bytes", json.len());
            if json.len() <= max { Ok(()) } else { Err(SettingError::OutOfBounds(self.not(&found, limits))) }
        };
        match &self.kind {
            Kind::Number { whole, .. } => {
                let number = number(json, *whole).ok_or_else(malformed)?;
                if limits.range(self).holds(number) {
                    return Ok(Said::Number(number));
                }
                Err(SettingError::OutOfBounds(self.not(&found(json), limits)))
            }
            Kind::Word(words) | Kind::Choice(words) => {
                let said: String = serde_json::from_str(json).map_err(|_| malformed())?;
                match words.iter().find(|word| **word == said) {
                    Some(word) => Ok(Said::Word(word)),
                    None => Err(SettingError::Malformed(self.not("another string", limits))),
                }
            }
            Kind::Json(max) => {
                shorter_than(*max)?;
                // Read as well, so that what is shown of it later can never fail.
                serde_json::from_str::<Value>(json).map_err(unreadable)?;
                Ok(Said::Json(json.into()))
            }
            Kind::Pattern(max) => {
                shorter_than(*max)?;
                match serde_json::from_str(json).map_err(unreadable)? {
                    Value::Object(members) if members.is_empty() => {
                        Err(SettingError::Malformed(self.not("an empty one", limits)))
                    }
                    pattern @ Value::Object(_) => Ok(Said::Pattern(pattern)),
                    _ => Err(malformed()),
                }
            }
            Kind::Pointer(max) => {
                let said: String = serde_json::from_str(json).map_err(|_| malformed())?;
                shorter_than(*max)?;
                if is_pointer(&said) {
                    return Ok(Said::Pointer(said));
                }
                Err(SettingError::Malformed(self.not("another string", limits)))
            }
            Kind::Template(blank, max) => {
                shorter_than(*max)?;
                let value = serde_json::from_str(json).map_err(unreadable)?;
                let template = Template::new(value, *blank);
                template.map(Said::Template).map_err(|what| SettingError::Malformed(self.not(what, limits)))
            }
            Kind::Greeting(blank, max) => {
                shorter_than(*max)?;
                let value = serde_json::from_str(json).map_err(unreadable)?;
                let greeting = Template::with_or_without(value, *blank);
                greeting.map(Said::Template).map_err(|what| SettingError::Malformed(self.not(what, limits)))
            }
            Kind::Name(max) => {
                let said: String = serde_json::from_str(json).map_err(|_| malformed())?;
                let in_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
                if (1..=*max).contains(&said.len()) && said.bytes().all(in_a_name) {
                    return Ok(Said::Name(said));
                }
                Err(SettingError::Malformed(self.not("another string", limits)))
            }
            Kind::Protocols(max) => {
                let said: Vec<String> = serde_json::from_str(json).map_err(|_| malformed())?;
                let is_name = |name: &String| name.len() <= MAX_ID && is_http_token(name);
                let is_new = |(at, name): (usize, &String)| is_name(name) && !said[..at].contains(name);
                if said.len() <= *max && said.iter().enumerate().all(is_new) {
                    return Ok(Said::Protocols(said));
                }
                Err(SettingError::Malformed(self.not("another list", limits)))
            }
            Kind::Address(max) => {
                let said: String = serde_json::from_str(json).map_err(|_| malformed())?;
                shorter_than(*max)?;
                let address = Address::parse(&said);
                address.map(Said::Address).map_err(|what| SettingError::Malformed(self.not(what, limits)))
            }
        }
    }
}

/// What stands at a place in a tree of settings.
#[derive(Debug)]
pub enum Named {
    /// A setting.
    Setting(&'static Setting),
    /// A group of settings, with its path.
    Group(String),
}

impl Named {
    /// What `key` means within the group `group` (empty for the outermost).
    ///
    /// # Errors
    /// If there is nothing of that name.
    pub fn of(group: &str, key: &str) -> Result<Self, SettingError> {
        let path = if group.is_empty() { key.to_owned() } else { format!("{group}.{key}") };
        let within = |path: &str| {
            let below = move |setting: &&Setting| path.is_empty() || setting.path.starts_with(&format!("{path}."));
            TABLE.iter().filter(below).map(|setting| setting.path).collect::<Vec<_>>()
        };
        // A dot inside of a key is not one between two: the same setting must not have two places.
        if !key.contains('.') {
            if let Some(setting) = Setting::named(&path) {
                return Ok(Self::Setting(setting));
            }
            if !key.is_empty() && !within(&path).is_empty() {
                return Ok(Self::Group(path));
            }
        }
        if FILE_ONLY.iter().any(|setting| setting.name == path) {
            return Err(SettingError::FileOnly(format!("only a configuration file may say `{path}`")));
        }
        let start = if group.is_empty() { 0 } else { group.len() + 1 };
        let mut allowed: Vec<&str> =
            within(group).iter().filter_map(|path| path.get(start..)?.split('.').next()).collect();
        allowed.dedup();
        Err(SettingError::Malformed(format!(
            "there is no setting `{}`; known here: {}",
            shortened(&path),
            allowed.join(", ")
        )))
    }
}

/// The setting that this file itself names.
pub(super) fn the(path: &str) -> &'static Setting {
    Setting::named(path).expect("a setting that is named here is in the table")
}

/// The number that a JSON text is, if it is one.
pub(super) fn number(json: &str, whole: bool) -> Option<f64> {
    let digits = json.strip_prefix('-').unwrap_or(json);
    let starts_with_digit = digits.starts_with(|character: char| character.is_ascii_digit());
    let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit());
    if starts_with_digit && (is_whole || !whole) { json.parse().ok() } else { None }
}

/// Whether a text has the form of RFC 6901: empty, or parts that each begin with `/`, in which `~` stands before 0 or 1.
pub(super) fn is_pointer(text: &str) -> bool {
    let escapes_are_right = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    (text.is_empty() || text.starts_with('/')) && escapes_are_right
}

/// What a JSON text is, for an error: a number, or a word of JSON, itself, of everything else the kind.
#[must_use]
pub fn found(json: &str) -> String {
    match json.trim_ascii() {
        word @ ("true" | "false" | "null") => word.to_owned(),
        text => match text.bytes().next() {
            Some(b'-' | b'0'..=b'9') => shortened(text),
            Some(b'"') => "a string".to_owned(),
            Some(b'[') => "a list".to_owned(),
            Some(b'{') => "an object".to_owned(),
            _ => "what is not JSON".to_owned(),
        },
    }
}

/// The first characters of a text.
fn shortened(text: &str) -> String {
    const LONGEST: usize = 60;
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
