//! The session's credential: what the extension gave, and whether the server takes it.
//!
//! Owns: which credential is shown next, when another one is wanted, and that a server that refuses two in a row is left in
//! peace. How it is shown is `connection`'s; it is kept in memory alone.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::Now;
use crate::wire::Secret;

/// Why a credential is wanted, in the words of `token-needed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// There is none.
    Missing,
    /// It is not valid any more.
    Expired,
    /// It will soon not be.
    Expiring,
    /// The server does not take it.
    Refused,
}

impl Want {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Expired => "expired",
            Self::Expiring => "expiring",
            Self::Refused => "refused",
        }
    }
}

/// What became of one that was given.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Given {
    /// It is shown from now on.
    Taken,
    /// It is the very one that the server has refused.
    RefusedBefore,
}

/// What follows from a refusal.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is a newer one by now.
    ShowNewer,
    /// A fresh one is wanted.
    AskForFresh,
    /// The fresh one was refused as well.
    GiveUp,
}

#[derive(Debug)]
struct Credential {
    secret: Secret,
    expires_at: Option<u64>,
    /// A server was shown it.
    shown: bool,
    refused: bool,
}

#[derive(Debug, Default)]
pub(super) struct Credentials {
    current: Option<Credential>,
    /// When a fresh one is asked for before this one ends.
    refresh_at: Option<Duration>,
    /// One was refused since the server last let us in.
    refusals: u32,
}

impl Credentials {
    /// The extension gives one, which ends at `expires_at`, if it says so, or if the credential itself does (a JWT).
    pub(super) fn give(&mut self, secret: Secret, expires_at: Option<u64>, chance: f64, now: Now) -> Given {
        if let Some(current) = self.current.as_ref().filter(|current| current.secret == secret) {
            if current.refused {
                return Given::RefusedBefore;
            }
        }
        let expires_at = expires_at.or_else(|| end_of_jwt(secret.reveal()));
        // Everybody whose credential was made in the same moment does not come for another in the same moment.
        self.refresh_at = expires_at.and_then(|at| {
            let life = Duration::from_millis(at.checked_sub(now.unix_ms)?);
            Some(now.elapsed + life.mul_f64(0.8 + 0.15 * chance))
        });
        self.current = Some(Credential { secret, expires_at, shown: false, refused: false });
        Given::Taken
    }

    /// The one to show now.
    pub(super) fn usable(&self, now: Now) -> Result<&Secret, Want> {
        let current = self.current.as_ref().ok_or(Want::Missing)?;
        if current.refused {
            return Err(Want::Refused);
        }
        if current.expires_at.is_some_and(|at| at <= now.unix_ms) {
            return Err(Want::Expired);
        }
        Ok(&current.secret)
    }

    /// A server is shown the present one.
    pub(super) fn show(&mut self) {
        if let Some(current) = &mut self.current {
            current.shown = true;
        }
    }

    /// The server lets us in.
    pub(super) fn accepted(&mut self) {
        self.refusals = 0;
    }

    /// The server does not take what it was shown.
    pub(super) fn refused(&mut self) -> Refusal {
        let Some(current) = &mut self.current else { return Refusal::AskForFresh };
        if !current.shown {
            return Refusal::ShowNewer;
        }
        current.refused = true;
        self.refresh_at = None;
        self.refusals += 1;
        if self.refusals > 1 { Refusal::GiveUp } else { Refusal::AskForFresh }
    }

    /// When a fresh one is to be asked for although this one is still good.
    pub(super) fn refresh_at(&self) -> Option<Duration> {
        self.refresh_at
    }

    /// Whether it is time for that; each credential asks once.
    pub(super) fn take_refresh(&mut self, now: Duration) -> bool {
        self.refresh_at.take_if(|at| *at <= now).is_some()
    }
}

/// When a JSON Web Token ends (RFC 7519, section 4.1.4), in milliseconds since 1970. Nothing of it is checked: that is the
/// server's affair.
fn end_of_jwt(token: &str) -> Option<u64> {
    #[derive(Deserialize)]
    struct Claims {
        exp: f64,
    }
    let mut parts = token.split('.');
    let (Some(_), Some(claims), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return None;
    };
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    // A float saturates when it becomes an integer: an absurd end is long ago or never.
    Some((claims.exp * 1000.0) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_jwt_is_read_and_of_anything_else_there_is_none() {
        let token = |claims: &str| format!("e30.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        assert_eq!(end_of_jwt(&token(r#"{"exp":1700000000.5,"sub":"me"}"#)), Some(1_700_000_000_500));
        for other in [token(r#"{"sub":"me"}"#), token("no"), "a.b.c".into(), "a.b".into(), "opaque".into()] {
            assert_eq!(end_of_jwt(&other), None, "{other}");
        }
    }
}
