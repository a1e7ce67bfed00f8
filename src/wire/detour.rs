//! A way to a server that is no WebSocket, as a session wants a connection to go it.
//!
//! Owns: what has to be known of it. When it is gone is the session's to say, and how `server`'s.

use std::time::Duration;

use url::Url;

/// A way to the server that is no WebSocket. Its URLs are those of HTTP as a WebSocket has them, `ws:` or `wss:`, because
/// the rules for servers are about those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Detour {
    /// How the server's messages come.
    pub kind: DetourKind,
    /// From where; polls may go on elsewhere.
    pub url: Url,
    /// The last event that came, if the server is asked to go on behind it.
    pub last_event: Option<String>,
    /// The URL itself asks for what comes behind that.
    pub is_behind: bool,
    /// Where messages to the server are posted.
    pub post: Option<Url>,
    /// How long after a poll that brought nothing the next one is made.
    pub interval: Duration,
}

/// How the server's messages come on a detour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DetourKind {
    /// As server-sent events.
    Events,
    /// In the answers to one request after the other.
    Polls,
}
