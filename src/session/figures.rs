//! What others see of a session: its figures and its health, as `status` gives them.
//!
//! Owns: what is counted and how it is shown. Secrets never show: URLs are given without user information and query.

use serde_json::json;

use super::connection::Connection;
use super::*;

/// Figures for `status`, over the life of the session in this daemon.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) messages_received: u64,
    pub(super) bytes_received: u64,
    /// Of those, how many had come before.
    pub(super) duplicates: u64,
    pub(super) messages_sent: u64,
    pub(super) bytes_sent: u64,
    pub(super) connections: u64,
    pub(super) errors: u64,
    pub(super) last_ping_at: Option<u64>,
    pub(super) last_pong_at: Option<u64>,
}

impl Session {
    pub(super) fn figures(&self, now: Now) -> serde_json::Value {
        let live = match &self.connection {
            Connection::Open(live) if self.is_connected() => Some(live),
            _ => None,
        };
        let (inbox_messages, inbox_bytes) = self.inbox.kept();
        let (outbox_messages, outbox_bytes) = self.outbox.kept();
        let figures = &self.figures;
        let report = self.report(now);
        let consumers: Vec<_> = self
            .inbox
            .consumers()
            .map(|(name, acked, attached)| json!({"consumer": name, "acked": acked, "attached": attached}))
            .collect();
        json!({
            "session": &*self.name,
            "mode": self.mode.as_str(),
            "url": shown(&self.url),
            "state": report.state,
            "since": report.since,
            "retry_at": report.retry_at,
            "reason": report.reason,
            "epoch": &*self.epoch,
            "connected_at": live.map(|live| live.since_ms),
            "attempt": self.attempts,
            "last_ping_at": figures.last_ping_at,
            "last_pong_at": figures.last_pong_at,
            "latency_ms": live.and_then(|live| live.latency).map(|latency| latency.as_secs_f64() * 1000.0),
            "authenticated": self.settings.auth.as_ref().map(|_| live.is_some()),
            "answers_pings": live.and_then(|live| live.answers),
            "messages_received": figures.messages_received,
            "messages_sent": figures.messages_sent,
            "bytes_received": figures.bytes_received,
            "duplicates": figures.duplicates,
            "bytes_sent": figures.bytes_sent,
            "reconnections": figures.connections.saturating_sub(1),
            "errors": figures.errors,
            "uptime_ms": now.elapsed.saturating_sub(self.began.elapsed).as_millis() as u64,
            "health": self.health(),
            "inbox": {
                "messages": inbox_messages,
                "bytes": inbox_bytes,
                "head": self.inbox.head(),
                "collapsed": self.inbox.collapsed(),
            },
            "outbox": {
                "messages": outbox_messages,
                "bytes": outbox_bytes,
                "subscriptions": self.outbox.subscriptions().len(),
            },
            "consumers": consumers,
            "observers": self.inbox.observers(),
            "saved": self.is_saved(),
            "can_store": self.can_store(),
            "settings": self.settings.to_json(),
        })
    }

    /// 0 to 100: connected 100, on the way 40, otherwise 0; 20 less each for a round trip over a second, a server that does
    /// not answer pings, and a window that is full for too long.
    fn health(&self) -> u32 {
        let live = match &self.connection {
            Connection::Open(live) if self.is_connected() => live,
            Connection::Open(_) | Connection::Dialling { .. } | Connection::Waiting { .. } => return 40,
            Connection::Closed | Connection::Parked { .. } => return 0,
        };
        let slow = live.latency.is_some_and(|latency| latency > Duration::from_secs(1));
        let mute = live.answers == Some(false);
        [slow, mute, self.inbox.is_overdue()].into_iter().filter(|trouble| *trouble).fold(100, |health, _| health - 20)
    }
}

/// A URL as it may be shown: without user information and query, which may hold secrets.
pub(super) fn shown(url: &Url) -> String {
    format!("{}{}", server_of(url), url.path())
}
