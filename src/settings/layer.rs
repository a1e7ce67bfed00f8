//! What somebody says about settings, and how far they may go.
//!
//! Owns: a tree of settings as far as one file or one `open` gives it, and limits that only get tighter. Does not know
//! which of several layers counts.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use super::table::{Kind, Named, Said, Setting, found, number, the};
use super::template::Blank;
use super::{DEDUPE_WINDOW, FIRST, MAX, SettingError, preset};

/// The longest `settings` of an `open`, in bytes.
pub const MAX_TEXT: usize = 64 * 1024;

/// What somebody says about settings: a file, or one `open`. What it does not mention it leaves as it is.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Layer(BTreeMap<&'static str, Said>);

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
        let layer = Self::part_from_json(text, limits)?;
        layer.check().map_err(|(_, error)| error)?;
        Ok(layer)
    }

    /// Reads what may not yet be true together without what is said elsewhere.
    pub(super) fn part_from_json(text: &str, limits: &Limits) -> Result<Self, SettingError> {
        let mut layer = Self::default();
        layer.read_group("", text, limits)?;
        Ok(layer)
    }

    fn read_group(&mut self, group: &str, text: &str, limits: &Limits) -> Result<(), SettingError> {
        let Members(members) = serde_json::from_str(text).map_err(|_| {
            let name = if group.is_empty() { "settings" } else { group };
            // An object that cannot be read has a name in it that is not Unicode.
            SettingError::Malformed(format!("`{name}` must be an object with names that are text, not {}", found(text)))
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

    /// The same with what the preset says that it names, as far as it does not say otherwise itself.
    pub(super) fn with_preset(&self) -> Cow<'_, Self> {
        let Some(Said::Word(name)) = self.get("dialect.preset") else { return Cow::Borrowed(self) };
        let mut whole = preset::settings(name).cloned().unwrap_or_default();
        if self.get("auth.via").is_some_and(|via| *via != Said::Word("message")) {
            // What a preset says of it is about a message.
            whole.0.retain(|path, _| !path.starts_with("auth."));
        }
        whole.0.extend(self.0.iter().map(|(path, said)| (*path, said.clone())));
        Cow::Owned(whole)
    }

    /// What is said about a setting.
    pub(super) fn get(&self, path: &str) -> Option<&Said> {
        self.0.get(path)
    }

    /// Whether it says something about a group of settings.
    #[must_use]
    pub fn says(&self, group: &str) -> bool {
        self.paths().any(|path| is_within(path, group))
    }

    /// The same without a group of settings.
    #[must_use]
    pub fn without(&self, group: &str) -> Self {
        let kept = self.0.iter().filter(|(path, _)| !is_within(path, group));
        Self(kept.map(|(path, said)| (*path, said.clone())).collect())
    }

    /// The names of the settings that it says something about.
    pub fn paths(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// The first setting that says how a credential is shown, or would have one filled in.
    #[must_use]
    pub fn about_credential(&self) -> Option<&'static str> {
        let token = Blank::Token.as_str();
        let is_about = |(path, said): (&&'static str, &Said)| {
            let has_blank = match said {
                Said::Json(text) => text.contains(token),
                Said::Template(template) => template.has(Blank::Token),
                _ => false,
            };
            (path.starts_with("auth.") || has_blank).then_some(*path)
        };
        self.0.iter().find_map(is_about)
    }

    /// Whether all that is said can be true together.
    ///
    /// # Errors
    /// If not, with the path of one of those that exclude each other.
    pub fn check(&self) -> Result<(), (&'static str, SettingError)> {
        let whole = self.with_preset();
        for (path, needed) in [
            ("heartbeat.reply", "heartbeat.send"),
            ("inbox.collapse.when", "inbox.collapse.key"),
            ("inbox.collapse.key", "inbox.collapse.when"),
            ("auth.name", "auth.via"),
            ("auth.send", "auth.via"),
            ("auth.accepted", "auth.via"),
            ("auth.refused", "auth.accepted"),
            ("auth.renew", "auth.via"),
            ("dialect.resume.cursor", "dialect.resume.send"),
            ("dialect.resume.send", "dialect.resume.cursor"),
            ("dialect.resume.accepted", "dialect.resume.send"),
            ("dialect.resume.refused", "dialect.resume.accepted"),
            ("dialect.answer.when", "dialect.answer.send"),
            ("dialect.answer.send", "dialect.answer.when"),
            (DEDUPE_WINDOW, "dialect.dedupe.id"),
        ] {
            if self.0.contains_key(path) && !whole.0.contains_key(needed) {
                let message = format!("`{path}` needs `{needed}` beside it; say both or neither");
                return Err((path, SettingError::Malformed(message)));
            }
        }
        if self.0.contains_key("fallback.post_url")
            && !["fallback.sse_url", "fallback.poll_url"].iter().any(|path| self.0.contains_key(path))
        {
            let message = "`fallback.post_url` needs `fallback.sse_url` or `fallback.poll_url` beside it";
            return Err(("fallback.post_url", SettingError::Malformed(message.to_owned())));
        }
        if matches!(self.get("fallback.post_url"), Some(Said::Address(address)) if address.has_cursor()) {
            let message = "`fallback.post_url` has no use for {cursor}; leave it out";
            return Err(("fallback.post_url", SettingError::Malformed(message.to_owned())));
        }
        if let Some(Said::Word(via)) = self.get("auth.via") {
            let means_nothing = |way: &str, path: &'static str| *via != way && self.0.contains_key(path);
            let of_messages = ["auth.accepted", "auth.refused", "auth.renew"];
            let misplaced = of_messages.into_iter().find(|path| means_nothing("message", path));
            if let Some(path) = misplaced.or_else(|| means_nothing("query", "auth.name").then_some("auth.name")) {
                let message = format!("`{path}` means nothing with `auth.via` \"{via}\"; leave it out");
                return Err((path, SettingError::Malformed(message)));
            }
            let refusal = match (*via, whole.get("auth.send")) {
                ("message", None) => Some("`auth.via` \"message\" needs `auth.send` beside it: the message"),
                ("message", Some(_)) => None,
                (_, Some(Said::Template(text))) if !(text.as_json().is_string() && text.has(Blank::Token)) => {
                    Some("`auth.send` must be a string with {token} in it, unless `auth.via` is \"message\"")
                }
                _ => None,
            };
            if let Some(refusal) = refusal {
                return Err(("auth.via", SettingError::Malformed(refusal.to_owned())));
            }
        }
        if whole.get("dialect.format") == Some(&Said::Word("stomp")) {
            whole.check_frames()?;
        }
        let number = |path| match self.get(path) {
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

impl Layer {
    /// Whether what is sent can be frames of STOMP.
    fn check_frames(&self) -> Result<(), (&'static str, SettingError)> {
        let is_frame = |value: &Value| {
            let Some(members) = value.as_object() else { return false };
            let command = members.get("command").and_then(Value::as_str).unwrap_or_default();
            let flat = |value: &Value| value.is_string() || value.is_number();
            !command.is_empty()
                && command.bytes().all(|byte| byte.is_ascii_uppercase())
                && members
                    .get("headers")
                    .is_none_or(|headers| headers.as_object().is_some_and(|headers| headers.values().all(flat)))
                && members.keys().all(|name| ["command", "headers", "body"].contains(&name.as_str()))
        };
        let by_message = self.get("auth.via") == Some(&Said::Word("message"));
        for path in [
            "auth.send",
            "heartbeat.send",
            "dialect.subscribe",
            "dialect.unsubscribe",
            "dialect.resume.send",
            "dialect.answer.send",
        ] {
            let is_one = match self.get(path) {
                Some(Said::Template(template)) => is_frame(template.as_json()) || (path == "auth.send" && !by_message),
                Some(Said::Json(text)) => serde_json::from_str(text).is_ok_and(|value| is_frame(&value)),
                _ => true,
            };
            if !is_one {
                let message = format!(
                    "`{path}` must be a frame where `dialect.format` is \"stomp\": {{\"command\": \"SEND\", \"headers\": \
                     {{\"name\": \"value\"}}, \"body\": \"\"}}, in which `headers` and `body` may be left out"
                );
                return Err((path, SettingError::Malformed(message)));
            }
        }
        Ok(())
    }
}

fn is_within(path: &str, group: &str) -> bool {
    path.strip_prefix(group).is_some_and(|rest| rest.starts_with('.'))
}

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
pub(super) struct Range {
    pub(super) min: f64,
    pub(super) max: f64,
    pub(super) or_none: bool,
}

impl Range {
    pub(super) fn holds(self, number: f64) -> bool {
        (self.or_none && number == 0.0) || (self.min..=self.max).contains(&number)
    }
}

impl Limits {
    /// Draws one bound of a setting closer.
    ///
    /// # Errors
    /// If the setting is not a number, or the new bound (a JSON text) is not within those of now: then it would widen
    /// them, or leave nothing between them. Also if no delay could be at least `first_ms` and at most `max_ms`.
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
        let before = self.0.insert(setting.path, tightened);
        let (first, max) = (self.range(the(FIRST)).min, self.range(the(MAX)).max);
        if first > max {
            match before {
                Some(before) => self.0.insert(setting.path, before),
                None => self.0.remove(setting.path),
            };
            let message = format!("`max` of `{MAX}` ({max}) must not be below `min` of `{FIRST}` ({first})");
            return Err(SettingError::Malformed(message));
        }
        Ok(())
    }

    /// The number nearest to `number` that a setting may be.
    pub(super) fn clamp(&self, setting: &Setting, number: f64) -> f64 {
        let range = self.range(setting);
        match (number, &setting.kind) {
            _ if range.holds(number) => number,
            // Not to have a bound is more than any number.
            (0.0, Kind::Number { or_none: true, .. }) => range.max,
            _ => number.clamp(range.min, range.max),
        }
    }

    /// Which numbers a setting may be.
    pub(super) fn range(&self, setting: &Setting) -> Range {
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
