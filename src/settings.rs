//! The settings of a session: what each is called, what it may be, and which value counts.
//!
//! Owns: the one table of them ([`TABLE`]), reading what somebody says about them ([`Layer`]), the bounds that the owner
//! of the machine draws closer ([`Limits`]), and what follows from all of that ([`Settings::effective`]). Does not own:
//! where a layer comes from (`config` has those of the files, an `open` brings its own), nor what a value does
//! (`session`). Pure: no files, no clock.
//!
//! A value comes here as JSON text, whichever file or message it stood in: one reader, one set of errors. No error
//! repeats a string that was found, because it may stand where a secret was meant to be.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Value, json};

/// The longest `settings` of an `open`, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

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
    /// How long the connection is kept with no port attached.
    pub linger: Duration,
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
    /// Failures in a row after which nothing is tried any more; 0: for ever.
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
    /// This version does not offer the setting.
    #[error("{0}")]
    Unsupported(String),
}

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
    /// Any JSON value, with at most so many bytes of text.
    Json(usize),
    /// A JSON object that is not empty, with at most so many bytes of text.
    Pattern(usize),
    /// A JSON Pointer (RFC 6901) of at most so many bytes.
    Pointer(usize),
}

const MIB: u64 = 1024 * 1024;
const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
const MONTH: u64 = 30 * DAY;

/// The longest JSON text of a setting, in bytes.
const MAX_JSON: usize = 4096;
/// The longest JSON Pointer, in bytes.
const MAX_POINTER: usize = 256;

/// All settings, in the order of `PROTOCOL.md`.
pub const TABLE: &[Setting] = &[
    whole("reconnect.first_ms", 1_000, 10, HOUR, "Upper bound of the first delay after a failure."),
    Setting {
        path: "reconnect.multiplier",
        kind: Kind::Number { default: 2.0, min: 1.0, max: 10.0, whole: false, or_none: false },
        meaning: "By this the bound grows with each further failure.",
    },
    whole("reconnect.max_ms", 300_000, 10, DAY, "Upper bound of any delay; not below `first_ms`."),
    whole_or_none(
        "reconnect.max_attempts",
        0,
        1_000_000,
        "After so many failures in a row nothing more is tried by itself; 0: never.",
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
    whole("reconnect.burst", 10, 1, 1_000, "So many attempts may be made at once."),
    whole("reconnect.refill_ms", 30_000, 100, HOUR, "In this time one more attempt may be made."),
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
        16 * MIB,
        1_024,
        256 * MIB,
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
        meaning: "Where in such a message its key is: the newest of each key is kept.",
    },
    whole("linger_ms", DAY, 0, MONTH, "So long the connection is kept with no port attached."),
];

/// What a later version will know: refused, but not as if it were a slip.
const LATER: &[&str] = &["auth", "dialect", "fallback", "headers", "origin", "proxy", "tls"];

const fn whole(path: &'static str, default: u64, min: u64, max: u64, meaning: &'static str) -> Setting {
    let kind = Kind::Number { default: default as f64, min: min as f64, max: max as f64, whole: true, or_none: false };
    Setting { path, kind, meaning }
}

const fn whole_or_none(path: &'static str, default: u64, max: u64, meaning: &'static str) -> Setting {
    let kind = Kind::Number { default: default as f64, min: 1.0, max: max as f64, whole: true, or_none: true };
    Setting { path, kind, meaning }
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
            Kind::Word(words) => words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or "),
            Kind::Json(max) => format!("JSON of at most {max} bytes"),
            Kind::Pattern(max) => format!("a JSON object that is not empty, of at most {max} bytes"),
            Kind::Pointer(max) => format!("a JSON Pointer (RFC 6901) of at most {max} bytes, such as \"/data/id\""),
        }
    }

    /// What it is if nobody says anything, as JSON text.
    #[must_use]
    pub fn default_text(&self) -> Option<String> {
        match &self.kind {
            Kind::Number { default, .. } => Some(default.to_string()),
            Kind::Word(words) => words.first().map(|word| format!("\"{word}\"")),
            Kind::Json(_) | Kind::Pattern(_) | Kind::Pointer(_) => None,
        }
    }

    /// The sentence that `found` (a description) is not what this may be.
    #[must_use]
    pub fn not(&self, found: &str, limits: &Limits) -> String {
        format!("`{}` must be {}, not {found}", self.path, self.allowed(limits))
    }

    /// Reads a value.
    fn read(&self, json: &str, limits: &Limits) -> Result<Said, SettingError> {
        let malformed = || SettingError::Malformed(self.not(&found(json), limits));
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
            Kind::Word(words) => {
                let said: String = serde_json::from_str(json).map_err(|_| malformed())?;
                match words.iter().find(|word| **word == said) {
                    Some(word) => Ok(Said::Word(word)),
                    None => Err(SettingError::Malformed(self.not("another string", limits))),
                }
            }
            Kind::Json(max) => {
                shorter_than(*max)?;
                // Read as well, so that what is shown of it later can never fail.
                serde_json::from_str::<Value>(json).map_err(|_| malformed())?;
                Ok(Said::Json(json.into()))
            }
            Kind::Pattern(max) => {
                shorter_than(*max)?;
                match serde_json::from_str(json) {
                    Ok(Value::Object(members)) if members.is_empty() => {
                        Err(SettingError::Malformed(self.not("an empty one", limits)))
                    }
                    Ok(pattern @ Value::Object(_)) => Ok(Said::Pattern(pattern)),
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
        if group.is_empty() && LATER.contains(&key) {
            return Err(SettingError::Unsupported(format!("`{key}` is not offered by this version; leave it out")));
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

/// What somebody says about settings: a file, or one `open`. What it does not mention it leaves as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layer(BTreeMap<&'static str, Said>);

/// A value, as it was said.
#[derive(Debug, Clone, PartialEq)]
enum Said {
    Number(f64),
    Word(&'static str),
    Json(Arc<str>),
    Pattern(Value),
    Pointer(String),
}

impl Layer {
    /// Reads the `settings` of an `open`: nested objects. What was taken once is read again within
    /// [`Limits::default`], so that limits drawn closer since then clamp it and do not refuse it.
    ///
    /// # Errors
    /// If something in it is not known, not possible or out of bounds.
    pub fn from_json(text: &str, limits: &Limits) -> Result<Self, SettingError> {
        if text.len() > MAX_TEXT {
            let message = format!("`settings` must have at most {MAX_TEXT} bytes, not {}", text.len());
            return Err(SettingError::OutOfBounds(message));
        }
        let mut layer = Self::default();
        layer.read_group("", text, limits)?;
        layer.check().map_err(|(_, error)| error)?;
        Ok(layer)
    }

    fn read_group(&mut self, group: &str, text: &str, limits: &Limits) -> Result<(), SettingError> {
        let Members(members) = serde_json::from_str(text).map_err(|_| {
            let name = if group.is_empty() { "settings" } else { group };
            SettingError::Malformed(format!("`{name}` must be an object, not {}", found(text)))
        })?;
        for (at, (key, value)) in members.iter().enumerate() {
            let named = Named::of(group, key)?;
            if members[..at].iter().any(|(earlier, _)| earlier == key) {
                return Err(SettingError::Malformed(format!("`{key}` is there twice; say it once")));
            }
            match named {
                Named::Setting(setting) => self.set(setting, value.get(), limits)?,
                Named::Group(path) => self.read_group(&path, value.get(), limits)?,
            }
        }
        Ok(())
    }

    /// Says what a setting is to be.
    ///
    /// # Errors
    /// If the value, a JSON text, is of another kind or out of bounds.
    pub fn set(&mut self, setting: &'static Setting, json: &str, limits: &Limits) -> Result<(), SettingError> {
        let said = setting.read(json, limits)?;
        self.0.insert(setting.path, said);
        Ok(())
    }

    /// Whether all that is said can be true together.
    ///
    /// # Errors
    /// If not, with the path of one of those that exclude each other.
    pub fn check(&self) -> Result<(), (&'static str, SettingError)> {
        for (path, needed) in [
            ("heartbeat.reply", "heartbeat.send"),
            ("inbox.collapse.when", "inbox.collapse.key"),
            ("inbox.collapse.key", "inbox.collapse.when"),
        ] {
            if self.0.contains_key(path) && !self.0.contains_key(needed) {
                let message = format!("`{path}` needs `{needed}` beside it; say both or neither");
                return Err((path, SettingError::Malformed(message)));
            }
        }
        let number = |path| match self.0.get(path) {
            Some(Said::Number(number)) => Some(*number),
            _ => None,
        };
        match (number(FIRST), number(MAX)) {
            (Some(first), Some(max)) if max < first => {
                let message = format!("`{MAX}` ({max}) must not be below `{FIRST}` ({first})");
                Err((MAX, SettingError::Malformed(message)))
            }
            _ => Ok(()),
        }
    }
}

const FIRST: &str = "reconnect.first_ms";
const MAX: &str = "reconnect.max_ms";

/// The bounds of the settings, as far as the files draw them closer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Limits(BTreeMap<&'static str, (f64, f64)>);

/// One end of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The lower one.
    Min,
    /// The upper one.
    Max,
}

impl Bound {
    /// The word for it in a file.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

/// Which numbers a setting may be.
#[derive(Debug, Clone, Copy)]
struct Range {
    min: f64,
    max: f64,
    or_none: bool,
}

impl Range {
    fn holds(self, number: f64) -> bool {
        (self.or_none && number == 0.0) || (self.min..=self.max).contains(&number)
    }

    /// The number that is allowed and nearest; `or_none` says whether 0 stands for more than any number.
    fn clamp(self, number: f64, or_none: bool) -> f64 {
        match number {
            number if self.holds(number) => number,
            0.0 if or_none => self.max,
            number => number.clamp(self.min, self.max),
        }
    }
}

impl Limits {
    /// Draws one bound of a setting closer.
    ///
    /// # Errors
    /// If the setting is not a number, or the new bound (a JSON text) is not within those of now: then it would widen
    /// them, or leave nothing between them.
    pub fn tighten(&mut self, setting: &'static Setting, bound: Bound, json: &str) -> Result<(), SettingError> {
        let Kind::Number { whole, .. } = setting.kind else {
            let message = format!("`{}` has no bounds, so there is nothing to limit", setting.path);
            return Err(SettingError::Malformed(message));
        };
        let Range { min, max, .. } = self.range(setting);
        let refusal = || {
            let kind = if whole { "a whole number" } else { "a number" };
            let (path, bound, found) = (setting.path, bound.as_str(), found(json));
            format!("`{bound}` of `{path}` must be {kind} from {min} to {max}, not {found}; limits only get tighter")
        };
        let number = number(json, whole).ok_or_else(|| SettingError::Malformed(refusal()))?;
        if !(min..=max).contains(&number) {
            return Err(SettingError::OutOfBounds(refusal()));
        }
        let tightened = match bound {
            Bound::Min => (number, max),
            Bound::Max => (min, number),
        };
        self.0.insert(setting.path, tightened);
        Ok(())
    }

    /// Whether there is a value for each setting that all limits together allow.
    ///
    /// # Errors
    /// If not, with the path of a setting that has none.
    pub fn check(&self) -> Result<(), (&'static str, SettingError)> {
        let range = |path| self.range(the(path));
        let (first, max) = (range(FIRST).min, range(MAX).max);
        if first <= max {
            return Ok(());
        }
        let message = format!("`max` of `{MAX}` ({max}) must not be below `min` of `{FIRST}` ({first})");
        Err((MAX, SettingError::Malformed(message)))
    }

    fn range(&self, setting: &Setting) -> Range {
        let Kind::Number { min, max, or_none, .. } = setting.kind else {
            return Range { min: 0.0, max: 0.0, or_none: false };
        };
        match self.0.get(setting.path) {
            // An upper bound that somebody has drawn forbids to have none.
            Some(&(min, tightened)) => Range { min, max: tightened, or_none: or_none && tightened == max },
            None => Range { min, max, or_none },
        }
    }
}

impl Settings {
    /// What counts: the defaults, over them each layer in its order, all of it within `limits`.
    ///
    /// What belongs together comes from one layer: `heartbeat.send` and `reply`, and the two of `inbox.collapse`. If one
    /// layer's `reconnect.first_ms` is above another one's `max_ms`, the later layer's counts for both.
    #[must_use]
    pub fn effective<'a>(layers: impl IntoIterator<Item = &'a Layer>, limits: &Limits, place: Place) -> Self {
        let layers: Vec<&Layer> = layers.into_iter().collect();
        let said = |path: &str| {
            let layers = layers.iter().enumerate().rev();
            layers.filter_map(|(at, layer)| Some((at, layer.0.get(path)?))).next()
        };
        let number = |path| match (said(path), &the(path).kind) {
            (Some((_, Said::Number(number))), Kind::Number { or_none, .. }) => {
                limits.range(the(path)).clamp(*number, *or_none)
            }
            (_, Kind::Number { default, or_none, .. }) => {
                let default = if path == "reconnect.herd_window_ms" && place.loopback { 0.0 } else { *default };
                limits.range(the(path)).clamp(default, *or_none)
            }
            _ => 0.0,
        };
        let ms = |path| Duration::from_millis(number(path) as u64);
        let layer_of = |path| said(path).map(|(at, _)| layers[at]);

        let (mut first, mut max) = (ms(FIRST), ms(MAX));
        if max < first {
            let place = |path| said(path).map(|(at, _)| at);
            let range = |path| limits.range(the(path));
            let meet = if place(FIRST) > place(MAX) { first } else { max };
            let meet = (meet.as_millis() as f64).max(range(FIRST).min).min(range(MAX).max);
            // One of the two is there already, and between them lies nothing that either's limits forbid.
            (first, max) = (first.min(from_ms(meet)), max.max(from_ms(meet)));
        }
        let (send, reply) = match layer_of("heartbeat.send").map(|layer| &layer.0) {
            Some(layer) => (
                match layer.get("heartbeat.send") {
                    Some(Said::Json(text)) => Some(Arc::clone(text)),
                    _ => None,
                },
                match layer.get("heartbeat.reply") {
                    Some(Said::Pattern(pattern)) => Some(pattern.clone()),
                    _ => None,
                },
            ),
            None => (None, None),
        };
        let collapse = layer_of("inbox.collapse.when").and_then(|Layer(layer)| {
            match (layer.get("inbox.collapse.when"), layer.get("inbox.collapse.key")) {
                (Some(Said::Pattern(when)), Some(Said::Pointer(key))) => {
                    Some(Collapse { when: when.clone(), key: key.clone() })
                }
                _ => None,
            }
        });
        let max_bytes = number("inbox.max_bytes") as usize;
        Self {
            reconnect: Reconnect {
                first,
                multiplier: number("reconnect.multiplier"),
                max,
                max_attempts: number("reconnect.max_attempts") as u32,
                stable: ms("reconnect.stable_ms"),
                herd_window: ms("reconnect.herd_window_ms"),
                burst: number("reconnect.burst") as u32,
                refill: ms("reconnect.refill_ms"),
            },
            heartbeat: Heartbeat {
                interval: ms("heartbeat.interval_ms"),
                timeout: ms("heartbeat.timeout_ms"),
                send,
                reply,
            },
            queue: Queue {
                max_messages: number("queue.max_messages") as usize,
                max_bytes: number("queue.max_bytes") as usize,
                ttl: Some(ms("queue.ttl_ms")).filter(|ttl| !ttl.is_zero()),
            },
            inbox: Inbox {
                max_messages: number("inbox.max_messages") as usize,
                max_bytes: if place.memory { max_bytes.min(MAX_MEMORY_INBOX) } else { max_bytes },
                retention: ms("inbox.retention_ms"),
                persist_after: ms("inbox.persist_after_ms"),
                overflow: match said("inbox.overflow") {
                    Some((_, Said::Word("pause"))) => Overflow::Pause,
                    _ => Overflow::DropOldest,
                },
                max_message_bytes: number("inbox.max_message_bytes") as usize,
                collapse,
            },
            linger: ms("linger_ms"),
        }
    }

    /// The same in the shape of `open.settings`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let Self { reconnect, heartbeat, queue, inbox, linger } = self;
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
        json
    }
}

impl Default for Settings {
    /// What counts if nobody says anything, for a durable session with a server elsewhere.
    fn default() -> Self {
        Self::effective([], &Limits::default(), Place::default())
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

/// The setting that this file itself names.
fn the(path: &str) -> &'static Setting {
    Setting::named(path).expect("a setting that is named here is in the table")
}

fn from_ms(ms: f64) -> Duration {
    Duration::from_millis(ms as u64)
}

/// The number that a JSON text is, if it is one.
fn number(json: &str, whole: bool) -> Option<f64> {
    let digits = json.strip_prefix('-').unwrap_or(json);
    let starts_with_digit = digits.starts_with(|character: char| character.is_ascii_digit());
    let is_whole = digits.bytes().all(|byte| byte.is_ascii_digit());
    if starts_with_digit && (is_whole || !whole) { json.parse().ok() } else { None }
}

/// Whether a text has the form of RFC 6901: empty, or parts that each begin with `/`, in which `~` stands before 0 or 1.
fn is_pointer(text: &str) -> bool {
    let escapes_are_right = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    (text.is_empty() || text.starts_with('/')) && escapes_are_right
}

/// What a JSON text is, for an error: numbers and words of the language themselves, of everything else the kind.
#[must_use]
pub fn found(json: &str) -> String {
    match json.trim_ascii_start().bytes().next() {
        Some(b'"') => "a string".to_owned(),
        Some(b'{') => "an object".to_owned(),
        Some(b'[') => "a list".to_owned(),
        _ => shortened(json),
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

/// The members of a JSON object in their order, duplicates included.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn layer(text: &str) -> Layer {
        Layer::from_json(text, &Limits::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn effective(layers: &[&str]) -> Settings {
        let layers: Vec<Layer> = layers.iter().map(|text| layer(text)).collect();
        Settings::effective(&layers, &Limits::default(), Place::default())
    }

    fn tightened(bounds: &[(&str, Bound, &str)]) -> Limits {
        let mut limits = Limits::default();
        for (path, bound, json) in bounds {
            limits.tighten(the(path), *bound, json).unwrap();
        }
        limits
    }

    /// A text that says something allowed, and not the default, about every setting.
    const EVERYTHING: &str = r#"{
        "reconnect": {"first_ms": 500, "multiplier": 1.5, "max_ms": 60000, "max_attempts": 7, "stable_ms": 1000,
            "herd_window_ms": 0, "burst": 3, "refill_ms": 1000},
        "heartbeat": {"interval_ms": 1000, "timeout_ms": 2000, "send": {"z": 1, "a": 12345678901234567890},
            "reply": {"type": "pong"}},
        "queue": {"max_messages": 5, "max_bytes": 4096, "ttl_ms": 9},
        "inbox": {"max_messages": 6, "max_bytes": 2048, "retention_ms": 5000, "persist_after_ms": 0,
            "overflow": "pause", "max_message_bytes": 99, "collapse": {"when": {"type": "progress"}, "key": "/data/id"}},
        "linger_ms": 0
    }"#;

    #[test]
    fn without_a_word_the_defaults_of_the_protocol_count() {
        let settings = Settings::default();
        assert_eq!(
            settings.to_json(),
            json!({
                "reconnect": {"first_ms": 1000, "multiplier": 2.0, "max_ms": 300_000, "max_attempts": 0,
                    "stable_ms": 30000, "herd_window_ms": 30000, "burst": 10, "refill_ms": 30000},
                "heartbeat": {"interval_ms": 25000, "timeout_ms": 10000},
                "queue": {"max_messages": 10000, "max_bytes": 64 * MIB, "ttl_ms": 0},
                "inbox": {"max_messages": 100_000, "max_bytes": 16 * MIB, "retention_ms": 86_400_000,
                    "persist_after_ms": 50, "overflow": "drop-oldest", "max_message_bytes": 64 * MIB},
                "linger_ms": 86_400_000,
            })
        );
        assert_eq!((settings.queue.ttl, settings.heartbeat.send, settings.inbox.collapse), (None, None, None));
    }

    #[test]
    fn what_is_said_about_every_setting_counts_and_comes_back_the_same() {
        let settings = effective(&[EVERYTHING]);
        assert_eq!(settings.to_json(), serde_json::from_str::<Value>(EVERYTHING).unwrap());
        assert_eq!(effective(&[&settings.to_json().to_string()]).to_json(), settings.to_json());
    }

    #[test]
    fn the_table_has_every_setting_once_with_a_default_that_is_allowed() {
        fn paths(prefix: &str, value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(members) if Setting::named(prefix).is_none() => {
                    for (key, value) in members {
                        let dot = if prefix.is_empty() { "" } else { "." };
                        paths(&format!("{prefix}{dot}{key}"), value, found);
                    }
                }
                _ => found.push(prefix.to_owned()),
            }
        }
        let mut found = Vec::new();
        paths("", &effective(&[EVERYTHING]).to_json(), &mut found);
        let mut table: Vec<_> = TABLE.iter().map(|setting| setting.path.to_owned()).collect();
        table.sort();
        found.sort();
        assert_eq!(table, found);
        for setting in TABLE {
            if let Some(default) = setting.default_text() {
                assert!(setting.read(&default, &Limits::default()).is_ok(), "{}", setting.path);
            }
        }
    }

    #[test]
    fn a_message_to_send_is_the_very_text_that_was_given() {
        let text = r#"{ "b":1.0, "a":"\u0041", "b":2 }"#;
        let settings = effective(&[&format!(r#"{{"heartbeat":{{"send": {text} }}}}"#)]);
        assert_eq!(settings.heartbeat.send.as_deref(), Some(text));
    }

    #[test]
    fn a_later_layer_counts_more_and_leaves_alone_what_it_does_not_mention() {
        let settings = effective(&[
            r#"{"reconnect":{"first_ms":100,"burst":5},"linger_ms":7}"#,
            r#"{"reconnect":{"first_ms":200},"queue":{"ttl_ms":1}}"#,
            r#"{"queue":{"ttl_ms":0}}"#,
        ]);
        assert_eq!((settings.reconnect.first, settings.reconnect.burst), (Duration::from_millis(200), 5));
        assert_eq!((settings.linger, settings.queue.ttl), (Duration::from_millis(7), None));
    }

    #[test]
    fn what_belongs_together_comes_from_one_layer() {
        let older = r#"{"heartbeat":{"send":1,"reply":{"a":1}},"inbox":{"collapse":{"when":{"a":1},"key":"/a"}}}"#;
        let settings = effective(&[older, r#"{"heartbeat":{"send":2}}"#]);
        assert_eq!((settings.heartbeat.send.as_deref(), settings.heartbeat.reply), (Some("2"), None));
        let collapse = Collapse { when: json!({"a": 1}), key: "/a".to_owned() };
        assert_eq!(settings.inbox.collapse, Some(collapse));
    }

    #[test]
    fn of_two_delays_that_exclude_each_other_the_later_layer_s_counts() {
        for (layers, first, max) in [
            (&[r#"{"reconnect":{"first_ms":600000}}"#][..], 600_000, 600_000),
            (&[r#"{"reconnect":{"max_ms":500}}"#], 500, 500),
            (&[r#"{"reconnect":{"max_ms":500}}"#, r#"{"reconnect":{"first_ms":2000}}"#], 2000, 2000),
            (&[r#"{"reconnect":{"first_ms":2000}}"#, r#"{"reconnect":{"max_ms":500}}"#], 500, 500),
        ] {
            let reconnect = effective(layers).reconnect;
            assert_eq!((reconnect.first.as_millis(), reconnect.max.as_millis()), (first, max), "{layers:?}");
        }
    }

    #[test]
    fn limits_that_were_drawn_closer_later_clamp_what_was_said_and_the_defaults() {
        let said = layer(r#"{"reconnect":{"first_ms":100,"max_attempts":0},"queue":{"max_bytes":200000000}}"#);
        let limits = tightened(&[
            ("reconnect.first_ms", Bound::Min, "400000"),
            ("reconnect.max_attempts", Bound::Max, "50"),
            ("queue.max_bytes", Bound::Max, "2000"),
            ("queue.ttl_ms", Bound::Min, "10"),
            ("linger_ms", Bound::Max, "5"),
        ]);
        let settings = Settings::effective([&said], &limits, Place::default());
        assert_eq!(settings.reconnect.first.as_millis(), 400_000);
        assert_eq!(settings.reconnect.max.as_millis(), 400_000, "the first delay is not above any");
        assert_eq!(settings.reconnect.max_attempts, 50, "for ever is more than 50");
        assert_eq!(settings.queue.max_bytes, 2000);
        assert_eq!(settings.queue.ttl, None, "never is more than 10 ms");
        assert_eq!(settings.linger.as_millis(), 5);
        let capped = tightened(&[("reconnect.max_ms", Bound::Max, "60")]);
        let settings = Settings::effective([], &capped, Place::default());
        assert_eq!((settings.reconnect.first, settings.reconnect.max), (from_ms(60.0), from_ms(60.0)));
    }

    #[test]
    fn a_server_on_this_machine_has_no_herd_and_a_memory_session_no_large_inbox() {
        let large = layer(r#"{"inbox":{"max_bytes":200000000}}"#);
        let at = |loopback, memory| Settings::effective([&large], &Limits::default(), Place { memory, loopback });
        assert_eq!(at(true, false).reconnect.herd_window, Duration::ZERO);
        assert_eq!(at(false, false).reconnect.herd_window, Duration::from_secs(30));
        assert_eq!(at(true, false).inbox.max_bytes, 200_000_000);
        assert_eq!(at(true, true).inbox.max_bytes, MAX_MEMORY_INBOX);
        let said = layer(r#"{"reconnect":{"herd_window_ms":9}}"#);
        let settings = Settings::effective([&said], &Limits::default(), Place { memory: false, loopback: true });
        assert_eq!(settings.reconnect.herd_window.as_millis(), 9, "what is said counts on this machine too");
    }

    #[test]
    fn what_is_wrong_is_said_with_the_name_what_was_found_and_what_is_allowed() {
        let hush = format!(r#"{{"heartbeat":{{"send":"{}"}}}}"#, "x".repeat(MAX_JSON));
        for (text, expected) in [
            ("", "malformed `settings` must be an object, not "),
            ("[1]", "malformed `settings` must be an object, not a list"),
            ("null", "malformed `settings` must be an object, not null"),
            (r#"{"reconnect":1}"#, "malformed `reconnect` must be an object, not 1"),
            (r#"{"inbox":{"collapse":"hush"}}"#, "malformed `inbox.collapse` must be an object, not a string"),
            (
                r#"{"linger":1}"#,
                "malformed there is no setting `linger`; known here: reconnect, heartbeat, queue, inbox, linger_ms",
            ),
            (
                r#"{"queue":{"max":1}}"#,
                "malformed there is no setting `queue.max`; known here: max_messages, max_bytes, ttl_ms",
            ),
            (
                r#"{"inbox":{"collapse":{"x":1}}}"#,
                "malformed there is no setting `inbox.collapse.x`; known here: when, key",
            ),
            (r#"{"queue.ttl_ms":1}"#, "malformed there is no setting `queue.ttl_ms`"),
            (r#"{"":1}"#, "malformed there is no setting ``"),
            (r#"{"queue":{"":1}}"#, "malformed there is no setting `queue.`"),
            (r#"{"allow":["wss://example.org/*"]}"#, "malformed there is no setting `allow`"),
            (r#"{"auth":{"token":"hush"}}"#, "unsupported `auth` is not offered by this version; leave it out"),
            (r#"{"headers":{"Authorization":"hush"}}"#, "unsupported `headers` is not offered"),
            (r#"{"linger_ms":1,"linger_ms":2}"#, "malformed `linger_ms` is there twice"),
            (r#"{"queue":{"ttl_ms":1},"queue":{}}"#, "malformed `queue` is there twice"),
            (
                r#"{"linger_ms":"hush"}"#,
                "malformed `linger_ms` must be a whole number from 0 to 2592000000, not a string",
            ),
            (r#"{"linger_ms":1.5}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not 1.5"),
            (
                r#"{"linger_ms":1000.0}"#,
                "malformed `linger_ms` must be a whole number from 0 to 2592000000, not 1000.0",
            ),
            (r#"{"linger_ms":1e3}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not 1e3"),
            (r#"{"linger_ms":null}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not null"),
            (r#"{"linger_ms":true}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not true"),
            (r#"{"linger_ms":-1}"#, "out of bounds `linger_ms` must be a whole number from 0 to 2592000000, not -1"),
            (r#"{"linger_ms":99999999999999999999}"#, "out of bounds `linger_ms` must be"),
            (r#"{"reconnect":{"first_ms":9}}"#, "out of bounds `reconnect.first_ms` must be a whole number from 10 to"),
            (
                r#"{"reconnect":{"multiplier":0.5}}"#,
                "out of bounds `reconnect.multiplier` must be a number from 1 to 10, not 0.5",
            ),
            (
                r#"{"reconnect":{"multiplier":1e999}}"#,
                "out of bounds `reconnect.multiplier` must be a number from 1 to 10",
            ),
            (
                r#"{"reconnect":{"max_attempts":1000001}}"#,
                "out of bounds `reconnect.max_attempts` must be a whole number from 1 to 1000000, or 0, not",
            ),
            (
                r#"{"reconnect":{"first_ms":50,"max_ms":40}}"#,
                "malformed `reconnect.max_ms` (40) must not be below `reconnect.first_ms` (50)",
            ),
            (
                r#"{"inbox":{"overflow":"hush"}}"#,
                "malformed `inbox.overflow` must be \"drop-oldest\" or \"pause\", not another string",
            ),
            (r#"{"inbox":{"overflow":7}}"#, "malformed `inbox.overflow` must be \"drop-oldest\" or \"pause\", not 7"),
            (
                r#"{"inbox":{"collapse":{"when":{"a":1}}}}"#,
                "malformed `inbox.collapse.when` needs `inbox.collapse.key` beside it",
            ),
            (
                r#"{"inbox":{"collapse":{"key":"/a"}}}"#,
                "malformed `inbox.collapse.key` needs `inbox.collapse.when` beside it",
            ),
            (
                r#"{"inbox":{"collapse":{"when":{},"key":"/a"}}}"#,
                "malformed `inbox.collapse.when` must be a JSON object that is not empty, of at most 4096 bytes, not an empty one",
            ),
            (r#"{"inbox":{"collapse":{"when":[1],"key":"/a"}}}"#, "malformed `inbox.collapse.when` must be"),
            (
                r#"{"inbox":{"collapse":{"when":{"a":1},"key":"hush"}}}"#,
                "malformed `inbox.collapse.key` must be a JSON Pointer (RFC 6901)",
            ),
            (
                r#"{"inbox":{"collapse":{"when":{"a":1},"key":"/a~2"}}}"#,
                "malformed `inbox.collapse.key` must be a JSON Pointer",
            ),
            (r#"{"heartbeat":{"reply":{"a":1}}}"#, "malformed `heartbeat.reply` needs `heartbeat.send` beside it"),
            (r#"{"heartbeat":{"send":1,"reply":"pong"}}"#, "malformed `heartbeat.reply` must be a JSON object"),
            (&hush, "out of bounds `heartbeat.send` must be JSON of at most 4096 bytes, not 4098 bytes"),
        ] {
            let said = match Layer::from_json(text, &Limits::default()).unwrap_err() {
                SettingError::Malformed(message) => format!("malformed {message}"),
                SettingError::OutOfBounds(message) => format!("out of bounds {message}"),
                SettingError::Unsupported(message) => format!("unsupported {message}"),
            };
            assert!(said.starts_with(expected), "{text}: {said}");
            assert!(!said.contains("hush"), "{said}");
        }
    }

    #[test]
    fn every_form_of_a_pointer_is_known() {
        for (text, is) in [("", true), ("/", true), ("/a/0/~0~1", true), ("a", false), ("/~", false), ("/~2", false)] {
            assert_eq!(is_pointer(text), is, "{text}");
        }
    }

    #[test]
    fn an_open_is_held_to_limits_that_stand() {
        let limits = tightened(&[("reconnect.max_attempts", Bound::Max, "50"), ("queue.ttl_ms", Bound::Min, "10")]);
        let refusal = |text| Layer::from_json(text, &limits).unwrap_err().to_string();
        assert!(refusal(r#"{"reconnect":{"max_attempts":0}}"#).ends_with("a whole number from 1 to 50, not 0"));
        assert!(refusal(r#"{"queue":{"ttl_ms":9}}"#).ends_with("a whole number from 10 to 2592000000, or 0, not 9"));
        assert!(Layer::from_json(r#"{"queue":{"ttl_ms":0}}"#, &limits).is_ok());
    }

    #[test]
    fn limits_only_get_tighter_and_leave_something_between_them() {
        let mut limits = Limits::default();
        let mut tighten = |path, bound, json| limits.tighten(the(path), bound, json).map_err(|error| error.to_string());
        assert_eq!(tighten("reconnect.first_ms", Bound::Min, "500"), Ok(()));
        assert_eq!(tighten("reconnect.first_ms", Bound::Max, "500"), Ok(()));
        for (path, bound, json, expected) in [
            (
                "reconnect.first_ms",
                Bound::Min,
                "499",
                "`min` of `reconnect.first_ms` must be a whole number from 500 to 500, not 499",
            ),
            (
                "reconnect.first_ms",
                Bound::Max,
                "501",
                "`max` of `reconnect.first_ms` must be a whole number from 500 to 500, not 501",
            ),
            (
                "reconnect.burst",
                Bound::Max,
                "1001",
                "`max` of `reconnect.burst` must be a whole number from 1 to 1000, not 1001",
            ),
            ("reconnect.burst", Bound::Max, "2.5", "`max` of `reconnect.burst` must be a whole number"),
            ("queue.ttl_ms", Bound::Min, "0", "`min` of `queue.ttl_ms` must be a whole number from 1 to"),
            (
                "linger_ms",
                Bound::Max,
                "\"hush\"",
                "`max` of `linger_ms` must be a whole number from 0 to 2592000000, not a string",
            ),
            ("inbox.overflow", Bound::Max, "1", "`inbox.overflow` has no bounds"),
        ] {
            let said = tighten(path, bound, json).unwrap_err();
            assert!(said.starts_with(expected), "{said}");
        }
        assert_eq!(tighten("reconnect.multiplier", Bound::Max, "1.5"), Ok(()));
        let limits = tightened(&[("reconnect.first_ms", Bound::Min, "100"), ("reconnect.max_ms", Bound::Max, "99")]);
        assert!(limits.check().is_err());
    }

    proptest! {
        #[test]
        fn any_text_is_answered_and_what_is_taken_is_within_all_bounds(
            text in r#"\{("(reconnect|heartbeat|queue|inbox|linger_ms|auth)":(\{"(first_ms|max_ms|multiplier|max_attempts|ttl_ms|max_bytes|send|reply)":(-?[0-9]{1,12}(\.5)?|"x"|null|\{"a":1\})\}|[0-9]{1,9}))?\}"#,
            anything in any::<String>(),
            memory in any::<bool>(),
        ) {
            let _ = Layer::from_json(&anything, &Limits::default());
            if let Ok(layer) = Layer::from_json(&text, &Limits::default()) {
                let settings = Settings::effective([&layer], &Limits::default(), Place { memory, loopback: false });
                prop_assert!(Layer::from_json(&settings.to_json().to_string(), &Limits::default()).is_ok());
            }
        }
    }
}
