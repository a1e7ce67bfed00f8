//! The rules in `config.toml` that let an extension reach a server.
//!
//! Owns: which rule a URL needs, and editing the user's file so that everything else in it stays as it was: comments,
//! order, formatting. Does not own: what the rules mean to a connection (`config`), nor the file itself: text in,
//! text out.

use std::fmt;

use serde::{Deserialize, Serialize};
use toml_edit::{Array, Document, DocumentMut, Item, Table, TableLike, Value};
use url::Url;

use super::InstallError;
use crate::config::{is_loopback, server_url};

/// What a server needs in the configuration before an extension may reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Need {
    /// Nothing: it is on this machine.
    Nothing,
    /// This pattern in `allow`, and `allow_insecure` if the connection is not encrypted.
    Pattern {
        /// Scheme, host and port of the URL, and any path.
        pattern: String,
        /// Whether everybody on the way can read and change what is sent.
        insecure: bool,
    },
}

impl Need {
    /// What `url` needs.
    ///
    /// # Errors
    /// If `url` is not that of a WebSocket server.
    pub fn of(url: &Url) -> Result<Self, InstallError> {
        // A rule for what is no server would make the whole file unusable.
        let url = &server_url(url.as_str()).map_err(|problem| InstallError::Url { problem })?;
        if is_loopback(url) {
            return Ok(Self::Nothing);
        }
        let (scheme, host) = (url.scheme(), url.host_str().unwrap_or_default());
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Ok(Self::Pattern { pattern: format!("{scheme}://{host}{port}/*"), insecure: scheme == "ws" })
    }
}

/// One server that one extension may reach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// The extension, as the browser names it to the host.
    pub origin: String,
    /// The servers.
    pub pattern: String,
    /// Whether `allow_insecure` belongs to the rule.
    pub insecure: bool,
}

/// The lines that a person would add by hand.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[origins.{}]\nallow = [{}]", Value::from(&self.origin), Value::from(&self.pattern))?;
        if self.insecure { f.write_str("\nallow_insecure = true") } else { Ok(()) }
    }
}

/// Where a configuration cannot be edited, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invalid {
    /// The line, from 1.
    pub line: usize,
    /// What was found there, and what is allowed.
    pub problem: String,
}

/// A configuration file being edited.
#[derive(Debug)]
pub struct Allowed(DocumentMut);

impl Allowed {
    /// Reads a configuration.
    ///
    /// # Errors
    /// If it is not TOML, or if something other than rules stands in the rules' place.
    pub fn parse(bytes: &[u8]) -> Result<Self, Invalid> {
        let text = std::str::from_utf8(bytes).map_err(|error| Invalid {
            line: line_at(bytes, error.valid_up_to()),
            problem: "not valid UTF-8".to_owned(),
        })?;
        let document = Document::parse(text).map_err(|error| Invalid {
            line: line_at(bytes, error.span().map_or(0, |span| span.start)),
            problem: error.message().replace('\n', ", "),
        })?;
        if let Some((item, name, expected)) = misplaced(document.as_table()) {
            return Err(Invalid {
                line: line_at(bytes, item.span().map_or(0, |span| span.start)),
                problem: format!("{name} is a value of type {}, expected {expected}", item.type_name()),
            });
        }
        Ok(Self(document.into_mut()))
    }

    /// Whether the rule's pattern is there already.
    #[must_use]
    pub fn contains(&self, rule: &Rule) -> bool {
        self.origin(&rule.origin)
            .and_then(|table| table.get("allow")?.as_array())
            .is_some_and(|allow| holds(allow, &rule.pattern))
    }

    /// Whether `origin` may use unencrypted connections.
    #[must_use]
    pub fn allows_insecure(&self, origin: &str) -> bool {
        self.origin(origin).and_then(|table| table.get("allow_insecure")?.as_bool()) == Some(true)
    }

    /// Adds what is missing of `rule`.
    pub fn add(&mut self, rule: &Rule) {
        let end = self.open(&rule.origin);
        let Some(table) = self.origin_mut(&rule.origin) else { return };
        let allow = table.entry("allow").or_insert_with(|| Item::Value(Array::new().into()));
        if let Some(allow) = allow.as_array_mut().filter(|allow| !holds(allow, &rule.pattern)) {
            append(allow, &rule.pattern);
        }
        if rule.insecure {
            match table.get_mut("allow_insecure").and_then(Item::as_value_mut) {
                Some(value) => {
                    let decor = value.decor().clone();
                    *value = Value::from(true);
                    *value.decor_mut() = decor;
                }
                None => drop(table.insert("allow_insecure", toml_edit::value(true))),
            }
        }
        if let Some(trailing) = end {
            self.0.set_trailing(trailing);
        }
    }

    /// Takes `rule` away again, and the table around it if nothing is left in it.
    pub fn remove(&mut self, rule: &Rule) {
        let Some(table) = self.origin_mut(&rule.origin) else { return };
        if let Some(allow) = table.get_mut("allow").and_then(Item::as_array_mut) {
            allow.retain(|entry| entry.as_str() != Some(&rule.pattern));
            let needs_insecure = allow.iter().any(|entry| entry.as_str().is_some_and(|entry| entry.starts_with("ws:")));
            if allow.is_empty() {
                table.remove("allow");
            }
            if rule.insecure && !needs_insecure {
                table.remove("allow_insecure");
            }
        }
        if table.is_empty() {
            self.close(&rule.origin);
        }
    }

    fn origin(&self, origin: &str) -> Option<&dyn TableLike> {
        self.0.get("origins")?.as_table_like()?.get(origin)?.as_table_like()
    }

    fn origin_mut(&mut self, origin: &str) -> Option<&mut dyn TableLike> {
        self.0.get_mut("origins")?.as_table_like_mut()?.get_mut(origin)?.as_table_like_mut()
    }

    /// Makes sure that `origin` has a table of its own. A new one goes to the very end of the file: what stood there
    /// after the last table now stands before this one, and what is returned, if anything, is the file's new end.
    fn open(&mut self, origin: &str) -> Option<String> {
        let last = last_position(self.0.as_table());
        let trailing = self.0.trailing().as_str().unwrap_or_default().to_owned();
        let is_first = self.0.as_table().is_empty() && trailing.is_empty();

        let origins = self.0.as_table_mut().entry("origins").or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        let Item::Table(origins) = origins else {
            // An inline table: what is added to it becomes inline too.
            let origins = origins.as_table_like_mut()?;
            if origins.get(origin).is_none() {
                origins.insert(origin, Item::Table(Table::new()));
            }
            return None;
        };
        let table = origins.entry(origin).or_insert_with(|| {
            let mut table = Table::new();
            table.set_implicit(true);
            Item::Table(table)
        });
        let table = table.as_table_mut().filter(|table| table.is_implicit() && !table.is_dotted())?;
        table.set_implicit(false);
        table.set_position(Some(last + 1));
        let gap = if is_first { "" } else { "\n" };
        table.decor_mut().set_prefix(format!("{trailing}{gap}"));
        Some(String::new())
    }

    /// Removes the empty table of `origin`. A comment above it moves to the end of the file if that is where the
    /// table stood; else the table stays for the comment's sake.
    fn close(&mut self, origin: &str) {
        let last = last_position(self.0.as_table());
        let mut comment = String::new();
        let Some(origins) = self.0.get_mut("origins").and_then(Item::as_table_like_mut) else { return };
        if let Some(table) = origins.get(origin).and_then(Item::as_table) {
            table.decor().prefix().and_then(|prefix| prefix.as_str()).unwrap_or_default().clone_into(&mut comment);
            if !comment.trim().is_empty() && table.position() != Some(last) {
                return;
            }
        }
        origins.remove(origin);
        let has_header = self.0.get("origins").and_then(Item::as_table).is_some_and(|table| !table.is_implicit());
        let is_empty = self.0.get("origins").and_then(Item::as_table_like).is_some_and(TableLike::is_empty);
        if is_empty && !has_header {
            self.0.remove("origins");
        }
        if !comment.trim().is_empty() {
            // `open` put an empty line between the comment and its table.
            let comment = comment.strip_suffix('\n').unwrap_or(&comment);
            let trailing = self.0.trailing().as_str().unwrap_or_default().to_owned();
            self.0.set_trailing(format!("{comment}{trailing}"));
        }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn holds(allow: &Array, pattern: &str) -> bool {
    allow.iter().any(|entry| entry.as_str() == Some(pattern))
}

/// Adds `pattern` on a line of its own if the others have one.
fn append(allow: &mut Array, pattern: &str) {
    let mut value = Value::from(pattern);
    let last = allow.iter().last().and_then(|value| value.decor().prefix()?.as_str());
    if let Some(prefix) = last.filter(|prefix| prefix.contains('\n')) {
        // The line break and the indentation, without a comment above the last entry.
        let indentation = &prefix[prefix.rfind('\n').unwrap_or(0)..];
        value.decor_mut().set_prefix(indentation);
        allow.push_formatted(value);
    } else {
        allow.push(value);
    }
}

/// The first item that has not the type that its place asks for.
fn misplaced(document: &Table) -> Option<(&Item, String, &'static str)> {
    let origins = document.get("origins")?;
    let Some(tables) = origins.as_table_like() else {
        return Some((origins, "origins".to_owned(), "a table"));
    };
    tables.iter().find_map(|(origin, item)| {
        let name = |key: &str| format!("origins.{}{key}", Value::from(origin));
        let Some(table) = item.as_table_like() else {
            return Some((item, name(""), "a table"));
        };
        let is_patterns = |item: &Item| item.as_array().is_some_and(|allow| allow.iter().all(Value::is_str));
        let allow = table.get("allow").filter(|item| !is_patterns(item));
        let insecure = table.get("allow_insecure").filter(|item| !item.is_bool());
        allow
            .map(|item| (item, name(".allow"), "a list of strings"))
            .or_else(|| insecure.map(|item| (item, name(".allow_insecure"), "true or false")))
    })
}

/// The place in the file of the last table below `table`.
fn last_position(table: &Table) -> isize {
    let below = table.iter().flat_map(|(_, item)| match item {
        Item::Table(table) => vec![last_position(table)],
        Item::ArrayOfTables(tables) => tables.iter().map(last_position).collect(),
        Item::None | Item::Value(_) => Vec::new(),
    });
    below.chain(table.position()).max().unwrap_or(0)
}

fn line_at(bytes: &[u8], offset: usize) -> usize {
    1 + bytes.iter().take(offset).filter(|byte| **byte == b'\n').count()
}
