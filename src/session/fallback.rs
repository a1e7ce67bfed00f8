//! What a session does while there is no WebSocket (`fallback`).
//!
//! Owns: when another way to the server is tried and which, and when the WebSocket is tried again beside it. What a connection
//! on such a way is good for is `connection`'s.

use super::connection::Connection;
use super::*;
use crate::settings::{Auth, cursor_text};
use crate::wire::DetourKind;

/// The way of a connection that is made or being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Route {
    WebSocket,
    Detour {
        kind: DetourKind,
        /// It takes messages to the server.
        posts: bool,
        /// The server is asked to go on behind the last cursor.
        resumes: bool,
        /// It is asked so that any answer says that it does.
        is_behind: bool,
    },
}

/// An attempt to be back on the WebSocket, beside a connection that is none.
#[derive(Debug)]
pub(super) enum Trial {
    /// It has its time.
    Waiting { until: Duration },
    /// It is under way, as the attempt of this number; the server is shown a credential so.
    Dialling { attempt: u64, auth: Option<Box<Auth>> },
}

impl Session {
    /// On which way the next attempt is made, if not by WebSocket.
    pub(super) fn choose_detour(&mut self, now: Now) -> Option<Detour> {
        if self.websocket_due.take_if(|due| *due <= now.elapsed).is_some() {
            return None;
        }
        let fallback = self.settings.fallback.as_ref().filter(|_| self.settings.can_be_shown_by_http())?;
        let beyond = self.retry.missed().checked_sub(fallback.after)? as usize;
        let sse = fallback.sse.iter().map(|address| (DetourKind::Events, address));
        let poll = fallback.poll.iter().map(|address| (DetourKind::Polls, address));
        let detours: Vec<_> = sse.chain(poll).collect();
        // Behind them the WebSocket has its turn again.
        let (kind, address) = *detours.get(beyond % (detours.len() + 1))?;
        let cursor = self.cursors.last().map(|cursor| &**cursor);
        Some(Detour {
            kind,
            url: address.at(cursor),
            last_event: cursor.filter(|_| kind == DetourKind::Events || address.has_cursor()).map(cursor_text),
            is_behind: cursor.is_some() && address.has_cursor(),
            post: fallback.post.as_ref().map(|address| address.at(None)),
            interval: fallback.interval,
        })
    }

    /// Where a poll goes on behind this cursor.
    pub(super) fn poll_behind(&self, cursor: &str) -> Option<Url> {
        let address = self.settings.fallback.as_ref()?.poll.as_ref()?;
        address.has_cursor().then(|| address.at(Some(cursor)))
    }

    /// The attempt failed, or its connection was lost: what that says about the ways to the server.
    pub(super) fn note_way(&mut self) {
        match &self.connection {
            Connection::Open(live) if live.route == Route::WebSocket && live.has_been_heard() => self.retry.reached(),
            // On a detour it was reached, but not by WebSocket.
            Connection::Open(live) if live.has_been_heard() => {}
            _ => self.retry.miss(),
        }
    }

    /// When to try to be back on the WebSocket. All who wait for the same server do not come at the same time.
    /// That does not depend on how long each detour lasts.
    pub(super) fn plan_trial(&mut self, now: Now) -> Trial {
        let wait = self.settings.reconnect.max.mul_f64(0.5 + self.rng.f64() / 2.0);
        let due = *self.websocket_due.get_or_insert(now.elapsed + wait);
        Trial::Waiting { until: due.max(self.may_dial_at()) }
    }

    /// Tries, if it is time for that.
    pub(super) fn try_websocket(&mut self, now: Now) {
        let Connection::Open(live) = &self.connection else { return };
        if !matches!(live.trial, Some(Trial::Waiting { until }) if until <= now.elapsed) {
            return;
        }
        self.websocket_due = None;
        let trial = if self.may_dial(now) && self.wanted_credential(now).is_none() {
            let attempt = self.begin_attempt(now);
            let auth = self.settings.auth.clone().map(Box::new);
            match self.fetches_from() {
                Some(source) => self.actions.push_back(Action::Fetch { attempt, source }),
                None => self.connect_beside(attempt, now),
            }
            Trial::Dialling { attempt, auth }
        } else {
            self.plan_trial(now)
        };
        if let Connection::Open(live) = &mut self.connection {
            live.trial = Some(trial);
        }
    }

    /// Connects beside a detour. What is shown there counts as shown when it is taken.
    pub(super) fn connect_beside(&mut self, attempt: u64, now: Now) {
        let credential = self.present_credential(now);
        self.connect_showing(attempt, credential, None);
    }

    /// The WebSocket is there again: the detour ends, as if it had been lost.
    pub(super) fn leave_detour(&mut self, attempt: u64, now: Now) {
        let Connection::Open(live) = &mut self.connection else { return };
        let Some(Trial::Dialling { auth, .. }) = live.trial.take_if(|trial| trial.attempt() == Some(attempt)) else {
            return;
        };
        let detour = live.attempt;
        self.credentials.show();
        self.actions.push_back(Action::Disconnect { attempt: detour, code: 1000, reason: "the WebSocket is back" });
        self.connection_over(now);
        self.connection = Connection::Dialling { attempt, again: true, auth, route: Route::WebSocket };
    }

    /// Whether this is the attempt that is made beside a detour.
    pub(super) fn is_trial(&self, attempt: u64) -> bool {
        let Connection::Open(live) = &self.connection else { return false };
        live.trial.as_ref().and_then(Trial::attempt) == Some(attempt)
    }

    /// Whether the attempt that failed was only tried beside a detour, which goes on.
    pub(super) fn trial_failed(&mut self, attempt: u64, now: Now) -> bool {
        let Connection::Open(live) = &mut self.connection else { return false };
        let failed = live.trial.take_if(|trial| trial.attempt() == Some(attempt)).is_some();
        if failed {
            let trial = self.plan_trial(now);
            if let Connection::Open(live) = &mut self.connection {
                live.trial = Some(trial);
            }
        }
        failed
    }
}

impl Route {
    pub(super) fn of(detour: &Detour) -> Self {
        let Detour { kind, last_event, is_behind, post, .. } = detour;
        Self::Detour { kind: *kind, posts: post.is_some(), resumes: last_event.is_some(), is_behind: *is_behind }
    }
}

impl Trial {
    pub(super) fn attempt(&self) -> Option<u64> {
        match self {
            Self::Dialling { attempt, .. } => Some(*attempt),
            Self::Waiting { .. } => None,
        }
    }
}
