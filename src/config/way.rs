//! The way to a session's server: what only the files may say about it.
//!
//! Owns: what each of these settings may be, what of it counts when several sections say something, and that secrets go to the
//! server beside which they stand, and to no other. Does not own how the way is gone (`server`).

use std::path::{Path, PathBuf};

use url::Url;

use super::file::Session;
use super::proxy::ProxyRule;
use crate::settings::Source;
use crate::wire::{Secret, is_http_token};

/// How a session's server is reached, as far as the files say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Way {
    /// Through which proxy.
    pub proxy: ProxyRule,
    /// What the request for the WebSocket has besides: names and values.
    pub headers: Vec<(String, Secret)>,
    /// What it has as `Origin`, if not what a browser would send.
    pub origin: Option<String>,
    /// What its encryption is made with.
    pub tls: TlsFiles,
}

/// Files that are read for each connection: they may have been renewed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFiles {
    /// Authorities that are believed besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// The certificate by which the server knows this side, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// The most headers of a session, and the longest value of one, in bytes.
const MAX_HEADERS: usize = 32;
const MAX_VALUE: usize = 8192;

/// Headers that are the connection's own business, or have a setting of their own.
const FORBIDDEN: &[&str] = &[
    "host",
    "connection",
    "upgrade",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "keep-alive",
    "expect",
    "origin",
];
/// The beginnings of more such names.
const FORBIDDEN_STARTS: &[&str] = &["sec-websocket-", "proxy-"];

impl Way {
    /// What counts of these for a server, the later one more: what all sessions begin with, and the sections of this one.
    pub(super) fn effective(defaults: &[ProxyRule], sections: &[Session], url: &Url) -> Self {
        let proxies = sections.iter().filter_map(|section| section.proxy.as_ref());
        let proxy = defaults.iter().chain(proxies).next_back().cloned().unwrap_or_default();
        let origin = sections.iter().rev().find_map(|section| section.origin.clone());
        // Never what stands beside another server.
        let bound = binding(sections).filter(|section| section.url.as_ref() == Some(url));
        let (headers, tls) = bound.map_or_else(Default::default, |it| (it.headers.clone(), it.tls.clone()));
        Self { proxy, headers, origin, tls }
    }
}

/// The section that has secrets for the server that it names, if the session goes there.
pub(super) fn binding(sections: &[Session]) -> Option<&Session> {
    // The last section that names a server decides; one before it has its secrets for another one.
    sections.iter().rev().find(|section| section.url.is_some()).filter(|section| section.has_secrets())
}

/// Adds a header to those of a session.
///
/// # Errors
/// What is wrong with it. Its value is not repeated, and its name only if it is a known one.
pub(super) fn add_header(headers: &mut Vec<(String, Secret)>, name: &str, value: &str) -> Result<(), String> {
    if !is_http_token(name) {
        return Err("has a name with a character that no header's has".to_owned());
    }
    let lower = name.to_ascii_lowercase();
    if lower == "origin" {
        return Err("must not have `Origin`; that has a setting of its own, `origin`".to_owned());
    }
    if FORBIDDEN.contains(&&*lower) || FORBIDDEN_STARTS.iter().any(|start| lower.starts_with(start)) {
        return Err(format!("must not have `{lower}`, which the connection itself needs"));
    }
    if headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Err("has two headers of one name".to_owned());
    }
    if headers.len() == MAX_HEADERS {
        return Err(format!("must have at most {MAX_HEADERS} headers"));
    }
    let is_value = |byte: u8| (b' '..=b'~').contains(&byte);
    if value.len() > MAX_VALUE || value.trim() != value || !value.bytes().all(is_value) {
        return Err(format!(
            "has a value that is longer than {MAX_VALUE} bytes, begins or ends with a space, or has something else than \
             printable ASCII characters"
        ));
    }
    headers.push((lower, Secret::from(value.to_owned())));
    Ok(())
}

/// What a request may have as `Origin`.
///
/// # Errors
/// What is wrong with it, to follow its name.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let is_host = |byte: u8| (b'!'..=b'~').contains(&byte) && !b"/?#@\\".contains(&byte);
    let fine = match text.split_once("://") {
        Some((scheme, host)) => {
            let is_scheme = scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            is_scheme && !scheme.is_empty() && !host.is_empty() && host.bytes().all(is_host)
        }
        None => text == "null",
    };
    if fine && text.len() <= MAX_VALUE {
        return Ok(text.to_owned());
    }
    Err("must look like https://example.org: no path, not even a slash at the end".to_owned())
}

/// What `auth.source` says for a session, by its extension and name, with `command` beside it.
///
/// # Errors
/// What is wrong with one of them, to follow its name.
pub(super) fn source(
    text: &str,
    command: Option<Vec<&str>>,
    (origin, session): (&str, &str),
) -> Result<Source, String> {
    let source = match (text, command) {
        ("extension", None) => Source::Extension,
        ("keyring", None) => Source::Keyring { origin: origin.to_owned(), session: session.to_owned() },
        ("command", Some(command)) => Source::Command(command.into_iter().map(str::to_owned).collect()),
        ("command", None) => {
            return Err(
                "\"command\" needs `auth.command` beside it: the program and its arguments, as a list".to_owned()
            );
        }
        (_, Some(_)) => return Err("must be \"command\", because `auth.command` stands beside it".to_owned()),
        (other, None) => match other.strip_prefix("env:") {
            Some(name) if !name.is_empty() && !name.contains(['=', '\0']) => Source::Variable(name.to_owned()),
            _ => {
                return Err(
                    "must be \"extension\", \"keyring\", \"env:NAME\" or \"command\", not another string".to_owned()
                );
            }
        },
    };
    Ok(source)
}

/// A program and its arguments. Nothing of them is repeated in an error: one may be a secret.
///
/// # Errors
/// What is wrong with them, to follow their name.
pub(super) fn command(words: &[&str]) -> Result<(), String> {
    const MAX_WORDS: usize = 64;
    let program = words.first().filter(|_| words.len() <= MAX_WORDS);
    if program.is_none_or(|program| program.is_empty()) || words.iter().any(|word| word.contains('\0')) {
        return Err(format!(
            "must be a list of 1 to {MAX_WORDS} strings: the program, which has a name, and its arguments"
        ));
    }
    let has_directory = program.is_some_and(|program| program.contains(std::path::is_separator));
    if has_directory { file(words[0]).map(drop).map_err(|what| format!("{what}, or a name in `PATH`")) } else { Ok(()) }
}

/// The path of a file.
///
/// # Errors
/// What is wrong with it, to follow its name.
pub(super) fn file(text: &str) -> Result<PathBuf, String> {
    let path = Path::new(text);
    // The daemon is in no directory that a person would think of.
    if path.has_root() { Ok(path.to_owned()) } else { Err("must be a path from the root on".to_owned()) }
}
