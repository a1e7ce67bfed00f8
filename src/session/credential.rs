//! The session's credential: what the extension gave or the machine has, and whether the server takes it.
//!
//! Owns: which credential is shown next and how, when another one is wanted, and that a server that refuses two in a row is
//! left in peace. It is kept in memory alone. One that does not come from the extension is fetched anew for each attempt to
//! connect, which is how a fresh one is asked for; how that is done is the driver's ([`Action::Fetch`]).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::Value;

use super::connection::Connection;
use super::fallback::Route;
use super::*;
use crate::settings::{Blank, Via};

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
    Fresh,
    /// It is the one that is shown anyway.
    Known,
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

/// Whether a connection can be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It can: nothing is to be said, or no answer to it is waited for.
    Granted,
    /// The server has to say so first.
    Asked,
    /// There is nothing to show it.
    Unavailable(Want),
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
    /// How many were refused since a connection last lived for a while.
    refusals: u32,
}

impl Credentials {
    /// The extension gives one, which ends at `expires_at`, if it says so, or if the credential itself does (a JWT). One that
    /// has ended by this machine's clock is shown all the same: the clock may be wrong, and the server knows better.
    pub(super) fn give(&mut self, secret: Secret, expires_at: Option<u64>, chance: f64, now: Now) -> Given {
        let expires_at = expires_at.or_else(|| end_of_jwt(secret.reveal())).filter(|at| *at > now.unix_ms);
        let known = self.current.as_ref().filter(|current| current.secret == secret);
        if known.is_some_and(|current| current.refused) {
            return Given::RefusedBefore;
        }
        let shown = known.is_some_and(|current| current.shown);
        if known.is_none_or(|current| current.expires_at != expires_at) {
            // Everybody whose credential was made in the same moment does not come for another in the same moment.
            self.refresh_at = expires_at.map(|at| {
                let life = Duration::from_millis(at - now.unix_ms);
                now.elapsed + life.mul_f64(0.8 + 0.15 * chance)
            });
        }
        let given = if known.is_some() { Given::Known } else { Given::Fresh };
        self.current = Some(Credential { secret, expires_at, shown, refused: false });
        given
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

    /// A server that was shown one kept the connection for a while.
    pub(super) fn served(&mut self) {
        self.refusals = 0;
    }

    /// Whether nothing is asked any more, because a fresh one was refused as well.
    pub(super) fn has_given_up(&self) -> bool {
        self.refusals > 1
    }

    /// Whether the present one was not shown yet.
    pub(super) fn is_new(&self) -> bool {
        self.current.as_ref().is_some_and(|current| !current.shown)
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

/// How the server learns who we are.
impl Session {
    /// Where the credential is to be fetched, if there is to be one and the extension does not give it.
    pub(super) fn fetches_from(&self) -> Option<Source> {
        Some(self.settings.source()).filter(|source| **source != Source::Extension).cloned()
    }

    /// Why the extension is to give a credential before the server can be reached.
    pub(super) fn wanted_credential(&self, now: Now) -> Option<Want> {
        if self.fetches_from().is_none() { self.lacking_credential(now) } else { None }
    }

    /// Why there is nothing to show the server that is to be shown something.
    fn lacking_credential(&self, now: Now) -> Option<Want> {
        if self.settings.shows_token() { self.credentials.usable(now).err() } else { None }
    }

    pub(super) fn park_for_credential(&mut self, want: Want, now: Now) {
        let what = match want {
            Want::Missing => "there is none yet",
            Want::Expired | Want::Expiring => "the one that the extension gave is not valid any more",
            Want::Refused => "the one that the extension gave was refused",
        };
        let server = server_of(&self.url);
        let message =
            format!("{server} is to be shown a credential, and {what}; the extension can give one with `token`");
        self.park(Reason::new("token-needed", message), now);
        self.ask_for_credential(want);
    }

    /// Asks all who could give one.
    fn ask_for_credential(&mut self, want: Want) {
        let readers = self.inbox.ports().filter(|(_, acknowledge)| acknowledge.is_some());
        for (port, _) in readers.collect::<Vec<_>>() {
            self.ask_port_for_credential(port, want);
        }
    }

    fn ask_port_for_credential(&mut self, port: PortId, want: Want) {
        let event = Event::TokenNeeded { session: Arc::clone(&self.name), reason: want.as_str() };
        self.actions.push_back(Action::ToExtension { port, event });
    }

    /// A port that comes while a credential is wanted is asked for it too.
    pub(super) fn ask_newcomer(&mut self, port: PortId, now: Now) {
        if self.is_parked_for_credential()
            && !self.credentials.has_given_up()
            && let Some(want) = self.wanted_credential(now)
        {
            self.ask_port_for_credential(port, want);
        }
    }

    fn is_parked_for_credential(&self) -> bool {
        matches!(&self.connection, Connection::Parked { reason }
            if reason.code == "token-needed" || self.is_about_credential(reason))
    }

    /// Whether a connection ended because the server does not take the credential. What is shown in a message is no reason
    /// to refuse the upgrade.
    fn is_about_credential(&self, reason: &Reason) -> bool {
        let by_message = self.settings.auth.as_ref().is_some_and(|auth| auth.via == Via::Message);
        let refused = matches!(reason.close_code, Some(3000 | 4401)) || reason.code == "auth-refused";
        self.settings.shows_token() && (refused || (reason.http_status == Some(401) && !by_message))
    }

    /// What the upgrade is to show.
    pub(super) fn show_credential(&mut self, now: Now) -> Option<Presented> {
        let presented = self.present_credential(now)?;
        self.credentials.show();
        Some(presented)
    }

    /// The same before it counts as shown.
    pub(super) fn present_credential(&self, now: Now) -> Option<Presented> {
        let auth = self.settings.auth.as_ref()?;
        let secret = self.credentials.usable(now).ok()?;
        let text = || Secret::from(auth.send.fill_text(Blank::Token, secret.reveal()));
        Some(match &auth.via {
            Via::Header => Presented::Header(text()),
            Via::Query(name) => Presented::Query(name.clone(), text()),
            Via::Protocol => Presented::Protocol(text()),
            Via::Message => return None,
        })
    }

    /// Sends what the first message is to show.
    pub(super) fn ask_for_admission(&mut self, now: Now) -> Admission {
        let by_websocket = matches!(&self.connection, Connection::Open(live) if live.route == Route::WebSocket);
        let Some(auth) = self.settings.auth.as_ref().filter(|auth| auth.via == Via::Message && by_websocket) else {
            return Admission::Granted;
        };
        let waits = auth.replies.is_some();
        if let Some(want) = self.lacking_credential(now) {
            return Admission::Unavailable(want);
        }
        let until = now.elapsed + self.settings.heartbeat.timeout;
        let Some(message) = self.admission_message(now) else { return Admission::Granted };
        let Connection::Open(live) = &mut self.connection else { return Admission::Granted };
        live.admission = waits.then_some(until);
        let attempt = live.attempt;
        self.write(attempt, message);
        if waits { Admission::Asked } else { Admission::Granted }
    }

    /// On a connection that there is, a server that takes a fresh credential in a message is shown it.
    pub(super) fn show_newer_credential(&mut self, now: Now) {
        let takes = self.settings.auth.as_ref().is_some_and(|auth| auth.via == Via::Message && auth.renew);
        if !takes || !self.credentials.is_new() || !self.is_connected() {
            return;
        }
        if let (Some(attempt), Some(message)) = (self.attempt(), self.admission_message(now)) {
            if let Some(live) = self.live(attempt) {
                live.renewed = true;
            }
            self.write(attempt, message);
        }
    }

    fn admission_message(&mut self, now: Now) -> Option<Body> {
        let auth = self.settings.auth.as_ref().filter(|auth| auth.via == Via::Message)?;
        let text = if auth.send.has(Blank::Token) {
            let secret = self.credentials.usable(now).ok()?;
            auth.send.fill(Blank::Token, &Value::from(secret.reveal()).to_string())
        } else {
            auth.send.as_json().to_string()
        };
        self.credentials.show();
        Some(self.settings.dialect.format.frame(text))
    }

    /// What the server says to what it was shown: a message like any other all the same.
    pub(super) fn admits_us(&mut self, body: &Body) -> Option<bool> {
        let (Some(auth), Connection::Open(live), Body::Json(json)) = (&self.settings.auth, &mut self.connection, body)
        else {
            return None;
        };
        if live.admission.is_none() && !live.renewed {
            return None;
        }
        let admitted = pattern::verdict(auth.replies.as_ref()?, json)?;
        if admitted {
            live.renewed = false;
        }
        // What it says to a newer credential lets nobody in who is in already.
        (!admitted || live.admission.is_some()).then_some(admitted)
    }

    /// A server that forbids us before it has let us in means the credential.
    pub(super) fn named_at_the_door(&self, reason: Reason) -> Reason {
        let waits = matches!(&self.connection, Connection::Open(live) if live.admission.is_some());
        let forbids = matches!(reason.close_code, Some(3003 | 4403));
        if waits && forbids && self.settings.shows_token() { Reason { code: "auth-refused", ..reason } } else { reason }
    }

    /// What is due if the connection ended for this reason.
    pub(super) fn verdict_on(&self, reason: &Reason) -> Verdict {
        match verdict(reason) {
            // Only with a credential that it has not seen: see `handle_refusal`.
            Verdict::Park if self.is_about_credential(reason) => Verdict::Soon,
            // Networks that let no WebSocket through say so, and there are other ways.
            Verdict::Park | Verdict::Thrice
                if self.settings.fallback.is_some()
                    && (reason.http_status == Some(403) || reason.code == "proxy-refused") =>
            {
                Verdict::Spread
            }
            verdict => verdict,
        }
    }

    /// The server may have refused what it was shown. Then a fresh credential is asked for, once; the reason why nothing is
    /// tried until it comes.
    pub(super) fn handle_refusal(&mut self, reason: &Reason) -> Option<Reason> {
        if !self.is_about_credential(reason) {
            return None;
        }
        let source = self.fetches_from();
        let what = match (self.credentials.refused(), source) {
            (Refusal::ShowNewer, _) => return None,
            // The next attempt fetches one.
            (Refusal::AskForFresh, Some(_)) => return None,
            (Refusal::AskForFresh, None) => {
                self.ask_for_credential(Want::Refused);
                "the extension was asked for a fresh one (`token`)".to_owned()
            }
            (Refusal::GiveUp, source) => {
                let remedy = remedy(source.as_ref().unwrap_or(&Source::Extension));
                format!("it was the second in a row; nothing is tried until {remedy}")
            }
        };
        Some(Reason { message: format!("{}; {what}", reason.message), ..reason.clone() })
    }

    /// The extension gives a credential, whether it was asked for or not.
    pub(super) fn handle_token(
        &mut self,
        port: PortId,
        token: Secret,
        expires_at: Option<u64>,
        reference: Option<String>,
        now: Now,
    ) {
        if self.inbox.consumer_of(port).is_none() {
            return self.tell_no_place(port, reference);
        }
        if *self.coming_settings().source() != Source::Extension {
            let message = format!(
                "the configuration file says where the credential of session `{}` comes from, so none is taken from the \
                 extension; send no `token`",
                self.name
            );
            return self.tell(port, Problem::new(Code::FileOnly, message), reference);
        }
        if !self.coming_settings().shows_token() {
            let message =
                "no setting says how the server is to be shown a token; say `auth.via` in the settings of `open`";
            return self.tell(port, Problem::new(Code::NoAuth, message), reference);
        }
        let chance = self.rng.f64();
        match self.credentials.give(token, expires_at, chance, now) {
            Given::RefusedBefore => {
                let message = "the server has refused this very token; give another one";
                self.tell(port, Problem::new(Code::TokenRefused, message), reference);
            }
            Given::Fresh | Given::Known if self.is_parked_for_credential() => self.dial(now),
            Given::Fresh | Given::Known => self.show_newer_credential(now),
        }
    }

    /// The driver has the credential that an attempt needs, or a fresh one for the connection that there is.
    pub(super) fn handle_fetched(&mut self, attempt: u64, credential: Result<Secret, Reason>, now: Now) {
        if self.is_trial(attempt) {
            return self.go_on_with_trial(attempt, credential.ok(), now);
        }
        if self.attempt() != Some(attempt) {
            return;
        }
        let Connection::Dialling { auth, .. } = &self.connection else {
            if let (Ok(secret), Some(_)) = (credential, self.fetches_from()) {
                let chance = self.rng.f64();
                self.credentials.give(secret, None, chance, now);
                self.show_newer_credential(now);
            }
            return;
        };
        if auth.as_deref() != self.settings.auth.as_ref() {
            // Other settings came meanwhile: it may be the wrong one.
            return self.dial(now);
        }
        let secret = match credential {
            Ok(secret) => secret,
            Err(reason) => return self.handle_lost(attempt, reason, now),
        };
        let chance = self.rng.f64();
        match self.credentials.give(secret, None, chance, now) {
            Given::Fresh | Given::Known => self.set_out(attempt, now),
            Given::RefusedBefore => {
                let remedy = remedy(self.settings.source());
                let message = format!(
                    "{} has refused the credential, and there is no other one yet; nothing is tried until {remedy}",
                    server_of(&self.url)
                );
                self.park(Reason::new("token-needed", message), now);
            }
        }
    }

    /// An attempt beside a detour has its credential, or there is none.
    fn go_on_with_trial(&mut self, attempt: u64, credential: Option<Secret>, now: Now) {
        let chance = self.rng.f64();
        let given = credential.map(|secret| self.credentials.give(secret, None, chance, now));
        if matches!(given, Some(Given::Fresh | Given::Known)) {
            self.connect_beside(attempt, now);
        } else {
            self.trial_failed(attempt, now);
        }
    }

    /// There may be another credential by now: whoever waits for one tries, and who can show it on the connection that there
    /// is fetches it.
    pub(super) fn handle_renewed(&mut self, now: Now) {
        if self.fetches_from().is_none() {
            return;
        }
        if self.is_parked_for_credential() { self.dial(now) } else { self.fetch_newer_credential() }
    }

    /// Asks for a fresh credential before the present one ends.
    pub(super) fn refresh_credential(&mut self, now: Now) {
        let is_used = self.settings.shows_token() && !matches!(self.connection, Connection::Closed);
        if !self.credentials.take_refresh(now.elapsed) || !is_used {
            return;
        }
        if self.fetches_from().is_some() {
            self.fetch_newer_credential();
        } else {
            self.ask_for_credential(Want::Expiring);
        }
    }

    /// Only for a connection on which it can be shown: the next one has its own.
    fn fetch_newer_credential(&mut self) {
        let takes = self.settings.auth.as_ref().is_some_and(|auth| auth.via == Via::Message && auth.renew);
        if let (true, Connection::Open(live), Some(source)) = (takes, &self.connection, self.fetches_from()) {
            self.actions.push_back(Action::Fetch { attempt: live.attempt, source });
        }
    }
}

/// What has to happen before another credential can be had.
fn remedy(source: &Source) -> String {
    match source {
        Source::Extension => "the extension gives another one (`token`)".to_owned(),
        Source::Keyring { origin, session } => {
            format!("the keyring has another one: `websocket-bridge token set {origin} {session}`")
        }
        Source::Variable(name) => {
            format!(
                "a daemon has another value of the environment variable `{name}`: end this one with `websocket-bridge stop`"
            )
        }
        Source::Command(_) => {
            "the program of `auth.command` prints another one and the extension asks for `reconnect`".to_owned()
        }
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
