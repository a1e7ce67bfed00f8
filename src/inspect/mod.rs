//! What a person sees of the running daemon, and does to its sessions from a terminal.
//!
//! Owns: asking the daemon, and which session is meant. How its answers look is `page`'s, following a session's messages
//! `tail`'s, the log files `logs`'. Starts no daemon: a look changes nothing.

mod logs;
mod page;
mod tail;

use std::io::{self, Read as _};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::config::Paths;
use crate::daemon::endpoint::{self, EndpointError, HostLink};
use crate::daemon::launch;
use crate::log::harmless;
pub use logs::Logs;
pub use page::{Rates, overview, sessions};
pub use tail::{Line, Tail};

/// Why there is nothing to see, or nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Nobody listens.
    #[error("no daemon runs; a browser starts it when an extension connects")]
    NoDaemon,
    /// It cannot be reached.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// It was reached and then said nothing.
    #[error("the daemon does not answer")]
    Mute(#[source] io::Error),
    /// It does not do what it was asked to.
    #[error("{}", harmless(.0))]
    Refused(String),
    /// There is no such session.
    #[error("there is no session {wanted}{}", list(there))]
    NoSession {
        /// What was looked for.
        wanted: String,
        /// What there is instead.
        there: Vec<String>,
    },
    /// It is not clear which one is meant.
    #[error("{} sessions are {wanted}; say which one by --origin and --profile{}", there.len(), list(there))]
    Ambiguous {
        /// What was looked for.
        wanted: String,
        /// What they are.
        there: Vec<String>,
    },
    /// It belongs to one port.
    #[error("session {name} is in direct mode: it is the plain WebSocket of one port, and nobody else's")]
    Direct {
        /// Its name.
        name: String,
    },
}

fn list(sessions: &[String]) -> String {
    if sessions.is_empty() {
        return "; the daemon has none".to_owned();
    }
    sessions.iter().fold(String::from("; there are:"), |text, session| text + "\n  " + session)
}

/// Which session a person means.
#[derive(Debug, Default, Clone)]
pub struct Choice {
    /// Its name; whichever there is if left out.
    pub session: Option<String>,
    /// The extension.
    pub origin: Option<String>,
    /// The profile.
    pub profile: Option<String>,
}

impl Choice {
    /// The one session of `status` that is meant.
    fn among<'a>(&self, status: &'a Value) -> Result<&'a Value, InspectError> {
        let all: Vec<&Value> = status["sessions"].as_array().into_iter().flatten().collect();
        let fits = |wanted: &Option<String>, is: &Value| wanted.as_deref().is_none_or(|wanted| is == wanted);
        let meant = |session: &&&Value| {
            fits(&self.session, &session["session"])
                && fits(&self.profile, &session["profile"])
                && self.origin.as_deref().is_none_or(|wanted| is_origin(wanted, &session["origin"]))
        };
        let found: Vec<&Value> = all.iter().filter(meant).copied().collect();
        let name = |session: &&Value| {
            let word = |field: &str| harmless(session[field].as_str().unwrap_or_default());
            let profile = Some(word("profile")).filter(|profile| !profile.is_empty());
            let profile = profile.map(|profile| format!(" --profile {profile}")).unwrap_or_default();
            format!("{} --origin {}{profile}", word("session"), word("origin"))
        };
        match found[..] {
            [session] if session["mode"] == "direct" => Err(InspectError::Direct { name: name(&session) }),
            [session] => Ok(session),
            [] => Err(InspectError::NoSession { wanted: self.words(), there: all.iter().map(name).collect() }),
            _ => Err(InspectError::Ambiguous { wanted: self.words(), there: found.iter().map(name).collect() }),
        }
    }

    fn words(&self) -> String {
        let name = self.session.as_deref().map_or_else(|| "of any name".to_owned(), |name| format!("`{name}`"));
        let of = self.origin.as_deref().map(|origin| format!(" of {origin}")).unwrap_or_default();
        let profile = self.profile.as_deref().map(|profile| format!(" in profile `{profile}`")).unwrap_or_default();
        harmless(&format!("{name}{of}{profile}"))
    }
}

/// Whether a person means this extension: as the browser names it, or Chromium's by its id alone.
fn is_origin(wanted: &str, origin: &Value) -> bool {
    let bare = |text: &str| text.trim_start_matches("chrome-extension://").trim_end_matches('/').to_owned();
    origin.as_str().is_some_and(|origin| bare(origin) == bare(wanted))
}

/// A person's link to the running daemon.
#[derive(Debug)]
pub struct Visit {
    link: HostLink,
}

impl Visit {
    /// Calls the daemon that runs.
    ///
    /// # Errors
    /// [`InspectError::NoDaemon`] if none does, or that it cannot be reached.
    pub fn new(paths: &Paths) -> Result<Self, InspectError> {
        match endpoint::connect(paths, "") {
            Ok(link) => Ok(Self { link }),
            Err(EndpointError::Nobody { .. }) => Err(InspectError::NoDaemon),
            Err(error) => Err(error.into()),
        }
    }

    /// What `status --json` shows.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn status(&self) -> Result<Value, InspectError> {
        self.ask(&json!({"type": "status"}))
    }

    /// Sends JSON to the server of a session, exactly as it stands there. Returns the session's status then.
    ///
    /// # Errors
    /// If no such session is there, or it takes no more.
    pub fn send(&self, choice: &Choice, payload: &RawValue) -> Result<Value, InspectError> {
        let status = self.status()?;
        self.ask(&About { kind: "send", session: choice.among(&status)?.into(), payload: Some(payload) })
    }

    /// Closes a session and deletes everything that is kept of it.
    ///
    /// # Errors
    /// If no such session is there.
    pub fn forget(&self, choice: &Choice) -> Result<(), InspectError> {
        let status = self.status()?;
        self.ask(&About { kind: "forget", session: choice.among(&status)?.into(), payload: None }).map(drop)
    }

    /// Says that the keyring may have another credential for a session. Returns how many there are that use it.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn renew(&self, origin: &str, session: &str) -> Result<u64, InspectError> {
        let answer = self.ask(&json!({"type": "renew", "origin": origin, "session": session}))?;
        Ok(answer["sessions"].as_u64().unwrap_or_default())
    }

    /// Follows a session: gets what comes from now on, and takes nothing away from anybody.
    ///
    /// # Errors
    /// If no such session is there, or the daemon does not let this happen.
    pub fn tail(&self, paths: &Paths, choice: &Choice) -> Result<Tail, InspectError> {
        let status = self.status()?;
        Tail::begin(paths, choice.among(&status)?)
    }

    /// Has the daemon end, and waits until it lets go of this visit. Returns its process id, by which
    /// [`launch::has_ended`] knows whether it has let go of its lock too.
    ///
    /// # Errors
    /// If the daemon does not answer.
    pub fn stop(self) -> Result<String, InspectError> {
        let stopping = self.ask(&json!({"type": "stop"}))?["stopping"].to_string();
        let _ = (&*self.link.stream).read(&mut [0]);
        Ok(stopping)
    }

    fn ask(&self, question: &impl serde::Serialize) -> Result<Value, InspectError> {
        let answer = launch::ask(&self.link, question).map_err(InspectError::Mute)?;
        match answer["error"].as_str() {
            Some(error) => Err(InspectError::Refused(error.to_owned())),
            None => Ok(answer),
        }
    }
}

/// A request about one session.
#[derive(serde::Serialize)]
struct About<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(flatten)]
    session: Named<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
}

/// What tells a session from all others.
#[derive(serde::Serialize)]
struct Named<'a> {
    origin: &'a Value,
    profile: &'a Value,
    mode: &'a Value,
    session: &'a Value,
}

impl<'a> From<&'a Value> for Named<'a> {
    fn from(status: &'a Value) -> Self {
        let [origin, profile, mode, session] = ["origin", "profile", "mode", "session"].map(|field| &status[field]);
        Self { origin, profile, mode, session }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> Value {
        json!({"sessions": [
            {"session": "a", "origin": "chrome-extension://abc/", "profile": "", "mode": "durable"},
            {"session": "a", "origin": "x@y", "profile": "", "mode": "durable"},
            {"session": "b", "origin": "x@y", "profile": "p", "mode": "memory"},
            {"session": "c", "origin": "x@y", "profile": "", "mode": "direct"},
        ]})
    }

    fn choose(session: Option<&str>, origin: Option<&str>, profile: Option<&str>) -> Result<Value, String> {
        let [session, origin, profile] = [session, origin, profile].map(|word| word.map(str::to_owned));
        let choice = Choice { session, origin, profile };
        choice.among(&status()).cloned().map_err(|error| error.to_string())
    }

    #[test]
    fn a_session_is_chosen_by_as_much_as_is_needed_to_tell_it_from_the_others() {
        assert_eq!(choose(Some("b"), None, None).unwrap()["mode"], "memory");
        assert_eq!(choose(Some("a"), Some("abc"), None).unwrap()["origin"], "chrome-extension://abc/");
        assert_eq!(choose(Some("a"), Some("x@y"), None).unwrap()["origin"], "x@y");
        assert_eq!(choose(None, None, Some("p")).unwrap()["session"], "b");
    }

    #[test]
    fn who_is_not_clear_is_told_what_to_add() {
        let error = choose(Some("a"), None, None).unwrap_err();
        assert!(
            error.starts_with("2 sessions are `a`; say which one by --origin and --profile; there are:"),
            "{error}"
        );
        assert!(error.contains("\n  a --origin x@y"), "{error}");
    }

    #[test]
    fn who_means_none_is_told_what_there_is() {
        let error = choose(Some("z"), Some("abc"), None).unwrap_err();
        assert!(error.starts_with("there is no session `z` of abc; there are:\n  a --origin "), "{error}");
        assert!(error.contains("\n  b --origin x@y --profile p"), "{error}");
        let none = Choice::default().among(&json!({"sessions": []})).unwrap_err();
        assert_eq!(none.to_string(), "there is no session of any name; the daemon has none");
    }

    #[test]
    fn a_session_in_direct_mode_is_nobody_elses() {
        assert!(choose(Some("c"), None, None).unwrap_err().contains("direct mode"));
    }
}
