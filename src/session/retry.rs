//! When the next attempt to connect comes, and whether there is to be one.
//!
//! Owns: the verdict on each way a connection can end ([`ENDINGS`]), the delays, and the budget of attempts. Does not know
//! states, nor who is told.
//!
//! The rule behind it all: a server that comes back must not be stormed by everybody who lost it (DESIGN's G7). What can
//! bring a server down is not the exponent but the first delay, so that one is drawn from a wide window whenever the loss
//! looks like everybody's.

use std::time::Duration;

use crate::settings;
use crate::wire::Reason;
use crate::wire::event::Hint;

/// What the end of a connection means for the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Only this connection failed, as far as anybody can know: within about a second, then later and later.
    Soon,
    /// The server went away for everybody, or turns everybody down: at some moment of a wide window.
    Spread,
    /// The server, or a proxy, finds fault with what it is sent: as [`Verdict::Spread`], but not after the third time in a row.
    Thrice,
    /// Trying again cannot help until somebody changes something.
    Park,
}

/// By what an ending is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sign {
    /// The close code of the WebSocket, from and to.
    Close(u16, u16),
    /// The HTTP status of the answer to the upgrade, from and to.
    Status(u16, u16),
    /// `reason.code`.
    Code(&'static str),
}

/// A way a connection can end, or fail to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// By what it is known; the first that fits counts.
    pub sign: Sign,
    /// What it means for the next attempt.
    pub verdict: Verdict,
    /// What happened, in a sentence.
    pub meaning: &'static str,
}

/// All endings and what follows from them, as `PROTOCOL.md` shows them.
pub const ENDINGS: &[Ending] = {
    use Sign::{Close, Code, Status};
    use Verdict::{Park, Soon, Spread, Thrice};
    const fn ending(sign: Sign, verdict: Verdict, meaning: &'static str) -> Ending {
        Ending { sign, verdict, meaning }
    }
    &[
        ending(Status(401, 401), Park, "The server wants other credentials."),
        ending(Status(403, 403), Park, "The server says no."),
        ending(Status(407, 407), Park, "A proxy wants credentials."),
        ending(Status(300, 399), Spread, "A redirect; none is ever followed."),
        ending(
            Status(400, 499),
            Spread,
            "The server does not take this request; during a restart it may be a proxy that says so.",
        ),
        ending(Status(511, 511), Soon, "The network wants somebody to log in first (captive portal)."),
        ending(Status(500, 599), Spread, "The server is in trouble, or not there behind its proxy."),
        ending(Status(100, 999), Spread, "An answer that is no WebSocket."),
        ending(Close(1000, 1000), Spread, "The server is done with the connection."),
        ending(Close(1001, 1001), Spread, "The server goes away."),
        ending(Close(1002, 1002), Thrice, "The server says that this side broke the protocol."),
        ending(Close(1003, 1003), Thrice, "The server does not take this kind of message."),
        ending(Close(1005, 1005), Spread, "Closed without a code."),
        ending(Close(1007, 1007), Thrice, "The server says that a message was not what it claimed to be."),
        ending(Close(1008, 1008), Thrice, "Against the server's policy; many say so of credentials."),
        ending(
            Close(1009, 1009),
            Spread,
            "A message was too large for the server; the largest that it has not confirmed is refused.",
        ),
        ending(Close(1010, 1010), Thrice, "The server misses an extension of the protocol."),
        ending(Close(1011, 1011), Spread, "The server failed."),
        ending(Close(1012, 1012), Spread, "The server restarts."),
        ending(Close(1013, 1013), Spread, "The server is overloaded."),
        ending(Close(1014, 1014), Spread, "A gateway got no good answer."),
        ending(Close(3000, 3000), Park, "Unauthorized (registered with IANA)."),
        ending(Close(3003, 3003), Park, "Forbidden (registered with IANA)."),
        ending(Close(4401, 4401), Park, "Unauthorized (custom: 4000 and the HTTP status)."),
        ending(Close(4403, 4403), Park, "Forbidden (custom: 4000 and the HTTP status)."),
        ending(Close(1000, 4999), Spread, "Any other code."),
        ending(Code("dns"), Soon, "The server's name could not be looked up."),
        ending(Code("refused"), Spread, "Nothing listens there."),
        ending(Code("timeout"), Soon, "No TCP connection in time."),
        ending(Code("network"), Soon, "Another error of the network."),
        ending(Code("proxy-unusable"), Park, "The environment or the system names a proxy that cannot be used."),
        ending(Code("proxy-unreachable"), Soon, "No connection to the proxy."),
        ending(Code("proxy-auth"), Park, "The proxy wants credentials, or others."),
        ending(Code("proxy-refused"), Thrice, "The proxy does not let this connection through."),
        ending(Code("proxy-failed"), Spread, "The proxy did not reach the server, or is none."),
        ending(Code("tls"), Spread, "No encrypted connection: certificate, name or handshake."),
        ending(Code("tls-file"), Soon, "A file that `tls` in the configuration names cannot be used."),
        ending(Code("upgrade-timeout"), Spread, "No answer to the upgrade in time."),
        ending(Code("upgrade"), Spread, "The upgrade was answered with something else."),
        ending(Code("reset"), Spread, "The connection ended without being closed."),
        ending(Code("protocol"), Spread, "The server broke the WebSocket protocol."),
        ending(
            Code("message-too-large"),
            Spread,
            "The server sent more than `inbox.max_message_bytes` in one message.",
        ),
        ending(Code("fallback-not-allowed"), Spread, "The configuration does not allow a server of `fallback`."),
        ending(Code("post-refused"), Spread, "The server does not take a message that was posted (`fallback`)."),
        ending(Code("write-timeout"), Soon, "The server took nothing for too long."),
        ending(Code("heartbeat"), Soon, "The server did not answer a ping and said nothing else."),
        ending(Code("sleep"), Soon, "The machine slept, and the connection did not outlive it."),
        ending(Code("network-change"), Soon, "The network changed, and the connection did not outlive it."),
        ending(Code("restart"), Soon, "The daemon was started anew and goes on with what an earlier one left."),
        ending(Code("attempt-budget"), Soon, "Too many attempts in a short time; the next one waits for the budget."),
        ending(Code("token-needed"), Park, "The server is to be shown a credential, and there is none that is good."),
        ending(
            Code("token-failed"),
            Soon,
            "The credential could not be had from where the configuration says (`auth.source`).",
        ),
        ending(Code("auth-refused"), Park, "The server does not take the credential (`auth.refused`)."),
        ending(Code("auth-timeout"), Spread, "The server did not say in time whether it takes the credential."),
        ending(Code("not-allowed"), Park, "The configuration does not allow the server any more."),
    ]
};

/// What follows from this reason.
#[must_use]
pub fn verdict(reason: &Reason) -> Verdict {
    ENDINGS.iter().find(|ending| ending.fits(reason)).map_or(Verdict::Spread, |ending| ending.verdict)
}

/// Whether the server may have ended the connection because of a message that it was sent.
pub(super) fn may_be_for_a_message(reason: &Reason) -> bool {
    match reason.close_code {
        // These say that it is the server's own affair.
        Some(1000 | 1001 | 1012..=1014) => false,
        Some(_) => true,
        None => matches!(reason.code, "reset" | "protocol"),
    }
}

impl Ending {
    pub(super) fn fits(&self, reason: &Reason) -> bool {
        match (self.sign, reason.http_status, reason.close_code) {
            (Sign::Status(from, to), Some(status), _) => (from..=to).contains(&status),
            (Sign::Close(from, to), None, Some(code)) => (from..=to).contains(&code),
            (Sign::Code(code), None, None) => code == reason.code,
            _ => false,
        }
    }
}

/// How many times in a row [`Verdict::Thrice`] is heard before it is believed.
const THRICE: u32 = 3;

/// The longest time that a server's hint may ask for: an hour of a wrong hint can be lived with.
const MAX_HINT: Duration = Duration::from_secs(60 * 60);

/// Counts failures, draws delays and keeps the budget.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// Ends of connections and attempts since one was stable.
    failures: u32,
    /// Those with [`Verdict::Thrice`] among them.
    faults: u32,
    /// Attempts made in that time.
    attempts: u32,
    /// Attempts in a row that have made no WebSocket on which anything was heard.
    missed: u32,
    /// When the budget of attempts will be full again: each attempt moves it by one refill.
    full_at: Duration,
    /// One of the failures since then looked like everybody's: so do all that follow, because a server that is overrun may
    /// not even answer. Failures are counted from that one.
    spread: bool,
    /// The window that the server asked for while it was there, because it may not be able to when it goes.
    learnt_window: Option<Duration>,
    /// The window that it asked for when it went, or turned somebody down: it counts until a connection is stable.
    asked_window: Option<Duration>,
}

/// What comes after a failure.
#[derive(Debug, PartialEq)]
pub(super) enum Next {
    /// The next attempt, not before the delay is over.
    After(Duration),
    /// None; and why, if the verdict alone does not say it.
    Never(Option<String>),
}

impl Retry {
    /// What comes after one more failure.
    ///
    /// The delay is anything between none and a bound that grows ("full jitter": clients that failed together do not
    /// return together).
    ///
    /// After a loss that looks like everybody's it begins with the window, and each further delay lies in the upper part of
    /// what its bound has grown by, and is never shorter than the window. So nobody makes two attempts within one window,
    /// and however long the server stays away, there are never more attempts in a second than clients ÷ window. A window
    /// that the server asked for has room for all: it grows only when `first` alone would have outgrown it, so that until
    /// then everybody is back within one window after the server. `benches/fleet` shows both.
    pub(super) fn next(
        &mut self,
        verdict: Verdict,
        hint: Option<Hint>,
        settings: &settings::Reconnect,
        rng: &mut fastrand::Rng,
    ) -> Next {
        if !self.spread && (verdict != Verdict::Soon || hint.is_some()) {
            // What looked like this client's trouble alone does not count with everybody's.
            (self.spread, self.failures) = (true, 0);
        }
        let first = self.failures == 0;
        let growth = settings.multiplier.powi(self.failures.min(1000) as i32);
        self.failures = self.failures.saturating_add(1);
        if verdict == Verdict::Thrice {
            self.faults += 1;
        }
        match verdict {
            Verdict::Park => return Next::Never(None),
            Verdict::Thrice if self.faults >= THRICE => {
                return Next::Never(Some(format!("said {THRICE} times in a row")));
            }
            _ if settings.max_attempts != 0 && self.attempts >= settings.max_attempts => {
                let attempts = settings.max_attempts;
                return Next::Never(Some(format!("given up after {attempts} in a row (`reconnect.max_attempts`)")));
            }
            _ => {}
        }
        let milliseconds = |ms: u64| Duration::from_millis(ms).min(MAX_HINT);
        self.asked_window = hint.and_then(|hint| hint.window_ms).map(milliseconds).or(self.asked_window);
        let asked = self.asked_window.or(self.learnt_window);
        let window = if self.spread { asked.unwrap_or(settings.herd_window) } else { Duration::ZERO };
        let start = if asked.is_some() { settings.first } else { settings.first.max(window) }.as_secs_f64();
        let bound = (start * growth).min(settings.max.as_secs_f64());
        let latest = Duration::from_secs_f64(bound).max(window);
        let earliest =
            if first || window.is_zero() { Duration::ZERO } else { latest.div_f64(settings.multiplier).max(window) };
        let wanted = hint.map_or(Duration::ZERO, |hint| milliseconds(hint.after_ms));
        Next::After(wanted + earliest + (latest - earliest).mul_f64(rng.f64()))
    }

    /// A connection that was open for `lifetime` has ended: one that lasted has proved the server well.
    pub(super) fn connection_lived(&mut self, lifetime: Duration, settings: &settings::Reconnect) {
        if lifetime >= settings.stable {
            self.forget_failures();
        }
    }

    /// The server says over which window those who lose it are to return, or somebody forgets that it did.
    pub(super) fn learn_window(&mut self, ms: Option<u64>) {
        self.learnt_window = ms.map(|ms| Duration::from_millis(ms).min(MAX_HINT));
    }

    /// Somebody changed something, or asked: what was counted counts no more. The budget does.
    pub(super) fn start_anew(&mut self) {
        self.missed = 0;
        self.forget_failures();
    }

    fn forget_failures(&mut self) {
        (self.failures, self.faults, self.attempts) = (0, 0, 0);
        (self.spread, self.asked_window) = (false, None);
    }

    /// From now on other settings hold. What was spent under the old ones never leaves less than an empty budget.
    pub(super) fn configure(&mut self, settings: &settings::Reconnect, now: Duration) {
        self.full_at = self.full_at.min(now + settings.refill * settings.burst);
    }

    /// When the budget allows the next attempt.
    pub(super) fn allowed_at(&self, settings: &settings::Reconnect) -> Duration {
        self.full_at.saturating_sub(settings.refill * settings.burst.saturating_sub(1))
    }

    /// When the budget will be full, and the window that the server asked for: what is kept for the next daemon.
    pub(super) fn state(&self) -> (Duration, Option<Duration>) {
        (self.full_at, self.learnt_window)
    }

    /// As an earlier daemon left it.
    pub(super) fn restore(full_at: Duration, learnt_window: Option<Duration>) -> Self {
        Self { full_at, learnt_window, ..Self::default() }
    }

    /// One more attempt has made no WebSocket.
    pub(super) fn miss(&mut self) {
        self.missed = self.missed.saturating_add(1);
    }

    /// There was a WebSocket.
    pub(super) fn reached(&mut self) {
        self.missed = 0;
    }

    /// How many attempts in a row have made none.
    pub(super) fn missed(&self) -> u32 {
        self.missed
    }

    /// An attempt is made.
    pub(super) fn spend(&mut self, settings: &settings::Reconnect, now: Duration) {
        self.full_at = self.full_at.max(now) + settings.refill;
        self.attempts = self.attempts.saturating_add(1);
    }
}
