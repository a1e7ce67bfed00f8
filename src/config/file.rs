//! One configuration file: from its text to what it says, or to the line that cannot be.
//!
//! Owns: the shape of the file, and the line of everything in it. What a fault says may reach every extension, so it
//! never repeats a value: that may be a secret, or another extension's business.

use std::collections::BTreeMap;

use toml_edit::{Document, Item, TableLike, Value};
use url::Url;

use super::proxy::ProxyRule;
use super::servers::{Pattern, server_url};
use super::way::{self, TlsFiles};
use crate::settings::{Bound, Layer, Limits, Named, Place, Setting, Settings, Source};
use crate::wire;
use crate::wire::Secret;

/// What one file says.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) defaults: Layer,
    pub(super) proxy: Option<ProxyRule>,
    pub(super) origins: BTreeMap<String, Origin>,
}

/// What one file says about an extension.
#[derive(Debug, Default)]
pub(super) struct Origin {
    pub(super) allow: Vec<Pattern>,
    pub(super) allow_insecure: bool,
    pub(super) sessions: BTreeMap<String, Session>,
}

/// What one file says about a session.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Session {
    pub(super) url: Option<Url>,
    pub(super) proxy: Option<ProxyRule>,
    pub(super) headers: Vec<(String, Secret)>,
    pub(super) origin: Option<String>,
    pub(super) tls: TlsFiles,
    pub(super) source: Source,
    pub(super) settings: Layer,
}

impl Session {
    /// Whether it says something that no other server than its own may hear.
    pub(super) fn has_secrets(&self) -> bool {
        !self.headers.is_empty() || self.tls != TlsFiles::default() || self.source != Source::Extension
    }
}

/// What cannot be, and where.
#[derive(Debug)]
pub(super) struct Fault {
    /// Counted from 1.
    pub(super) line: usize,
    /// What was found, what is allowed.
    pub(super) message: String,
}

impl File {
    /// Reads a file. Its limits are put on top of `limits`, and then hold for its settings.
    pub(super) fn read(text: &[u8], limits: &mut Limits) -> Result<Self, Fault> {
        let text = std::str::from_utf8(text).map_err(|error| Fault {
            line: line_at(text, error.valid_up_to()),
            message: "this is not UTF-8; save the file in that encoding".to_owned(),
        })?;
        let document = Document::parse(text).map_err(|error| Fault {
            line: line_at(text.as_bytes(), error.span().map_or(0, |span| span.start)),
            // Fixed words about the language, without anything of the text.
            message: error.message().replace('\n', ", "),
        })?;
        let reader = Reader { text };
        let document = document.as_table();
        for (key, _) in document.iter() {
            if !["defaults", "limits", "origins"].contains(&key) {
                return Err(reader.unknown(document, key, "defaults, limits, origins"));
            }
        }
        if let Some(item) = document.get("limits") {
            reader.limits(item, limits)?;
        }
        let mut file = Self::default();
        if let Some(item) = document.get("defaults") {
            let table = reader.table(item, "defaults")?;
            if let Some(key) = ["headers", "origin", "tls"].into_iter().find(|key| table.contains_key(key)) {
                let message = format!("`{key}` belongs to one session: [origins.\"…\".sessions.NAME]");
                return Err(reader.at_key(table, key, message));
            }
            for key in SOURCE {
                if let Some((auth, key)) = member(table, key) {
                    let message = format!("`auth.{key}` belongs to one session: [origins.\"…\".sessions.NAME]");
                    return Err(reader.at_key(auth, key, message));
                }
            }
            file.defaults = reader.settings(table, &["proxy"], limits)?;
            file.proxy = reader.proxy(table)?;
        }
        if let Some(item) = document.get("origins") {
            let origins = reader.table(item, "origins")?;
            for (name, item) in origins.iter() {
                if let Some(message) = never_an_origin(name) {
                    return Err(reader.at_key(origins, name, message.to_owned()));
                }
                file.origins.insert(name.to_owned(), reader.origin(name, item, limits)?);
            }
        }
        Ok(file)
    }
}

/// Reads the parts of a file, and knows where they are.
struct Reader<'a> {
    text: &'a str,
}

impl Reader<'_> {
    fn limits(&self, item: &Item, limits: &mut Limits) -> Result<(), Fault> {
        let table = self.table(item, "limits")?;
        self.each_setting("", table, &[], &mut |setting, item| {
            let range = self.table(item, setting.path)?;
            for (key, item) in range.iter() {
                let bound = match key {
                    "min" => Bound::Min,
                    "max" => Bound::Max,
                    other => return Err(self.unknown(range, other, "min, max")),
                };
                let json = json(item).unwrap_or_else(|kind| kind.to_owned());
                limits.tighten(setting, bound, &json).map_err(|error| self.at(item, error))?;
            }
            Ok(())
        })
    }

    /// Reads a table of settings, without those in `beside`.
    fn settings(&self, table: &dyn TableLike, beside: &[&str], limits: &Limits) -> Result<Layer, Fault> {
        let (mut layer, mut lines) = (Layer::default(), BTreeMap::new());
        self.each_setting("", table, beside, &mut |setting, item| {
            lines.insert(setting.path, self.line(item));
            let json = json(item).map_err(|kind| self.at(item, setting.not(kind, limits)))?;
            layer.set(setting, &json, limits).map_err(|error| self.at(item, error))
        })?;
        layer.check().map_err(|(path, error)| Fault {
            line: lines.get(path).copied().unwrap_or(1),
            message: error.to_string(),
        })?;
        Ok(layer)
    }

    fn each_setting(
        &self,
        group: &str,
        table: &dyn TableLike,
        beside: &[&str],
        visit: &mut dyn FnMut(&'static Setting, &Item) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let is_read_elsewhere = |key: &str| {
            beside.iter().any(|path| path.strip_prefix(group).is_some_and(|rest| rest.trim_start_matches('.') == key))
        };
        for (key, item) in table.iter().filter(|(key, _)| !is_read_elsewhere(key)) {
            match Named::of(group, key).map_err(|error| self.at_key(table, key, error.to_string()))? {
                Named::Setting(setting) => visit(setting, item)?,
                Named::Group(path) => self.each_setting(&path, self.table(item, &path)?, beside, visit)?,
            }
        }
        Ok(())
    }

    fn origin(&self, extension: &str, item: &Item, limits: &Limits) -> Result<Origin, Fault> {
        let table = self.table(item, "origins.…")?;
        let mut origin = Origin::default();
        for (key, item) in table.iter() {
            match key {
                "allow" => origin.allow = self.patterns(item)?,
                "allow_insecure" => {
                    let message = || format!("`allow_insecure` must be true or false, not {}", kind(item));
                    origin.allow_insecure = item.as_bool().ok_or_else(|| self.at(item, message()))?;
                }
                "sessions" => {
                    let sessions = self.table(item, "sessions")?;
                    for (name, item) in sessions.iter() {
                        if !wire::is_name(name) {
                            let allowed = "1 to 64 of the letters A-Z and a-z, digits, `.`, `_` and `-`";
                            let message = format!("the name of a session must be {allowed}, not something else");
                            return Err(self.at_key(sessions, name, message));
                        }
                        origin.sessions.insert(name.to_owned(), self.session((extension, name), item, limits)?);
                    }
                }
                other => return Err(self.unknown(table, other, "allow, allow_insecure, sessions")),
            }
        }
        Ok(origin)
    }

    fn patterns(&self, item: &Item) -> Result<Vec<Pattern>, Fault> {
        let list = item
            .as_array()
            .ok_or_else(|| self.at(item, format!("`allow` must be a list of strings, not {}", kind(item))))?;
        let pattern = |(at, value): (usize, &Value)| {
            let fault = |message| Fault {
                line: self.line_of(value.span()),
                message: format!("entry {} of `allow` {message}", at + 1),
            };
            let text = value.as_str().ok_or_else(|| {
                fault(format!("must be a string like \"wss://example.org/*\", not {}", kind_of(value)))
            })?;
            Pattern::parse(text).map_err(fault)
        };
        list.iter().enumerate().map(pattern).collect()
    }

    fn session(&self, owner: (&str, &str), item: &Item, limits: &Limits) -> Result<Session, Fault> {
        let table = self.table(item, "sessions.…")?;
        let url = self.text(table, "url", "wss://example.org/ws", server_url)?;
        let beside = ["url", "proxy", "headers", "origin", "tls", "auth.source", "auth.command"];
        let settings = self.settings(table, &beside, limits)?;
        if let Some(key) = ["headers", "tls"].into_iter().find(|key| url.is_none() && table.contains_key(key)) {
            let message = format!("`{key}` needs `url` beside it: it is for that server alone");
            return Err(self.at_key(table, key, message));
        }
        let has_url = url.is_some();
        Ok(Session {
            url,
            proxy: self.proxy(table)?,
            headers: self.headers(table)?,
            origin: self.text(table, "origin", "https://example.org", way::origin)?,
            tls: self.tls(table)?,
            source: self.source(owner, table, has_url, &settings)?,
            settings,
        })
    }

    /// Where the credential comes from; another place than the extension needs a server that it is for, and a way to show it.
    fn source(
        &self,
        owner: (&str, &str),
        table: &dyn TableLike,
        has_url: bool,
        settings: &Layer,
    ) -> Result<Source, Fault> {
        let command = self.command(table)?;
        let Some((auth, key)) = SOURCE.into_iter().find_map(|key| member(table, key)) else {
            return Ok(Source::Extension);
        };
        let read = |text: &str| way::source(text, command, owner);
        let Some(source) = self.text_of(auth, "source", "auth.source", "keyring", read)? else {
            return Err(self.at_key(auth, key, "`auth.command` needs `auth.source` \"command\" beside it".into()));
        };
        let shows_token = || Settings::effective([settings], &Limits::default(), Place::default()).shows_token();
        if source != Source::Extension && !has_url {
            let message = "`auth.source` needs `url` beside it: the credential is for that server alone";
            return Err(self.at_key(auth, key, message.to_owned()));
        }
        if source != Source::Extension && !shows_token() {
            let message = "`auth.source` needs `auth.via` beside it, and a {token} in `auth.send` if that is there: nobody \
                           would be shown the credential";
            return Err(self.at_key(auth, key, message.to_owned()));
        }
        Ok(source)
    }

    fn command<'i>(&self, table: &'i dyn TableLike) -> Result<Option<Vec<&'i str>>, Fault> {
        let Some((auth, key)) = member(table, "command") else { return Ok(None) };
        let Some(item) = auth.get(key) else { return Ok(None) };
        let words = item.as_array().and_then(|list| list.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
        let words = words.ok_or_else(|| {
            let message = "`auth.command` must be a list of strings like [\"/usr/bin/pass\", \"show\", \"name\"]";
            self.at(item, format!("{message}, not {}", kind(item)))
        })?;
        way::command(&words).map_err(|what| self.at(item, format!("`auth.command` {what}")))?;
        Ok(Some(words))
    }

    fn headers(&self, table: &dyn TableLike) -> Result<Vec<(String, Secret)>, Fault> {
        let mut headers = Vec::new();
        if let Some(item) = table.get("headers") {
            for (name, item) in self.table(item, "headers")?.iter() {
                let message = || format!("a value of `headers` must be a string, not {}", kind(item));
                let value = item.as_str().ok_or_else(|| self.at(item, message()))?;
                way::add_header(&mut headers, name, value)
                    .map_err(|what| self.at(item, format!("`headers` {what}")))?;
            }
        }
        Ok(headers)
    }

    fn tls(&self, table: &dyn TableLike) -> Result<TlsFiles, Fault> {
        let Some(item) = table.get("tls") else { return Ok(TlsFiles::default()) };
        let table = self.table(item, "tls")?;
        if let Some((key, _)) = table.iter().find(|(key, _)| !["ca_file", "client_cert", "client_key"].contains(key)) {
            return Err(self.unknown(table, key, "ca_file, client_cert, client_key"));
        }
        let file = |key: &str| self.text(table, key, "/path/of/file.pem", way::file);
        let client = match (file("client_cert")?, file("client_key")?) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => {
                let message = "`tls.client_cert` and `tls.client_key` need each other; one file may be both";
                return Err(self.at(item, message));
            }
        };
        Ok(TlsFiles { ca_file: file("ca_file")?, client })
    }

    /// A string of a table, as `read` understands it.
    fn text<T>(
        &self,
        table: &dyn TableLike,
        key: &str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Fault> {
        self.text_of(table, key, key, example, read)
    }

    /// The same for one that is shown with its group.
    fn text_of<T>(
        &self,
        table: &dyn TableLike,
        key: &str,
        shown: &str,
        example: &str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Result<Option<T>, Fault> {
        let Some(item) = table.get(key) else { return Ok(None) };
        let message = || format!("`{shown}` must be a string like \"{example}\", not {}", kind(item));
        let text = item.as_str().ok_or_else(|| self.at(item, message()))?;
        read(text).map(Some).map_err(|what| self.at(item, format!("`{shown}` {what}")))
    }

    fn proxy(&self, table: &dyn TableLike) -> Result<Option<ProxyRule>, Fault> {
        self.text(table, "proxy", "http://host:port", ProxyRule::parse)
    }

    fn table<'i>(&self, item: &'i Item, name: &str) -> Result<&'i dyn TableLike, Fault> {
        item.as_table_like().ok_or_else(|| self.at(item, format!("`{name}` must be a table, not {}", kind(item))))
    }

    fn unknown(&self, table: &dyn TableLike, key: &str, known: &str) -> Fault {
        let key_shown: String = key.chars().take(60).collect();
        self.at_key(table, key, format!("there is no `{key_shown}` here; known are {known}"))
    }

    fn at_key(&self, table: &dyn TableLike, key: &str, message: String) -> Fault {
        Fault { line: self.line_of(table.key(key).and_then(toml_edit::Key::span)), message }
    }

    fn at(&self, item: &Item, message: impl ToString) -> Fault {
        Fault { line: self.line(item), message: message.to_string() }
    }

    fn line(&self, item: &Item) -> usize {
        self.line_of(item.span())
    }

    fn line_of(&self, span: Option<std::ops::Range<usize>>) -> usize {
        line_at(self.text.as_bytes(), span.map_or(0, |span| span.start))
    }
}

/// What of `auth` says where the credential comes from, and is no setting.
const SOURCE: [&str; 2] = ["source", "command"];

/// The table `auth` of this one, if it has that key, and the key.
fn member<'i>(table: &'i dyn TableLike, key: &'static str) -> Option<(&'i dyn TableLike, &'static str)> {
    let auth = table.get("auth")?.as_table_like()?;
    auth.contains_key(key).then_some((auth, key))
}

/// Why no browser ever names an extension so; nothing if one may.
fn never_an_origin(name: &str) -> Option<&'static str> {
    let id = name.strip_prefix("chrome-extension://").map(|id| id.strip_suffix('/').unwrap_or_default());
    let is_chromium_id = |id: &str| id.len() == 32 && id.bytes().all(|byte| (b'a'..=b'p').contains(&byte));
    let fine = match id {
        Some(id) => !id.is_empty() && !id.contains('/'),
        None => !name.is_empty() && !name.contains("://") && !is_chromium_id(name),
    };
    (!fine).then_some(
        "this is no extension as its browser names it: chrome-extension://ID/ with the slash at the end, or the add-on id \
         of a Firefox extension, such as name@example.org",
    )
}

/// The JSON text of a value; what it is, if JSON has no such thing.
fn json(item: &Item) -> Result<String, &'static str> {
    match item {
        Item::Value(value) => json_of(value),
        Item::Table(table) => json_object(table),
        Item::ArrayOfTables(tables) => json_list(tables.iter().map(|table| json_object(table))),
        Item::None => Err("nothing"),
    }
}

fn json_of(value: &Value) -> Result<String, &'static str> {
    match value {
        Value::String(text) => Ok(serde_json::Value::from(text.value().as_str()).to_string()),
        Value::Integer(number) => Ok(number.value().to_string()),
        Value::Float(number) if number.value().is_finite() => Ok(format!("{:?}", number.value())),
        Value::Float(_) => Err("inf or nan"),
        Value::Boolean(flag) => Ok(flag.value().to_string()),
        Value::Datetime(_) => Err("a date"),
        Value::Array(values) => json_list(values.iter().map(json_of)),
        Value::InlineTable(table) => json_object(table),
    }
}

fn json_list(values: impl Iterator<Item = Result<String, &'static str>>) -> Result<String, &'static str> {
    Ok(format!("[{}]", values.collect::<Result<Vec<_>, _>>()?.join(",")))
}

/// In the order of the file: a message to a server is to leave as it was written.
fn json_object(table: &dyn TableLike) -> Result<String, &'static str> {
    let member = |(key, item): (&str, &Item)| Ok(format!("{}:{}", serde_json::Value::from(key), json(item)?));
    Ok(format!("{{{}}}", table.iter().map(member).collect::<Result<Vec<_>, &'static str>>()?.join(",")))
}

fn kind(item: &Item) -> &'static str {
    match item {
        Item::Value(value) => kind_of(value),
        Item::Table(_) => "a table",
        Item::ArrayOfTables(_) => "a list of tables",
        Item::None => "nothing",
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::String(_) => "a string",
        Value::Integer(_) | Value::Float(_) => "a number",
        Value::Boolean(_) => "true or false",
        Value::Datetime(_) => "a date",
        Value::Array(_) => "a list",
        Value::InlineTable(_) => "a table",
    }
}

fn line_at(text: &[u8], offset: usize) -> usize {
    1 + text.iter().take(offset).filter(|byte| **byte == b'\n').count()
}
