//! Where this product keeps its files, and what the person who owns the machine allows.
//!
//! Owns: the directories ([`Paths`]), `config.toml` ([`Config`]) and the rule which servers an origin may
//! reach. Does not own: what a session does with a server (`session`), nor how a connection is made (`server`).
//!
//! The environment is read once, into an [`Env`] value that is passed on: nothing below looks at the process
//! environment by itself, so that a test can describe a whole machine without touching its own.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Names the directory that holds everything; for tests and for several installations beside each other.
pub const HOME_VARIABLE: &str = "WEBSOCKET_BRIDGE_HOME";

/// The name under which extensions ask for this host unless `install --name` gave another.
pub const HOST_NAME: &str = "com.semantest.websocket_bridge";

/// The part of the process environment that this program looks at, as a value.
#[derive(Debug, Clone, Default)]
pub struct Env(BTreeMap<OsString, OsString>);

impl Env {
    /// The environment of this process.
    #[must_use]
    pub fn current() -> Self {
        Self(std::env::vars_os().collect())
    }

    /// The value of `name`; an empty value counts as unset, as the XDG specification asks.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.0.get(OsStr::new(name)).map(OsString::as_os_str).filter(|value| !value.is_empty())
    }

    /// The value of `name` as an absolute path; a relative one is ignored, as the XDG specification asks.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).map(PathBuf::from).filter(|path| path.is_absolute())
    }
}

impl<K: Into<OsString>, V: Into<OsString>> FromIterator<(K, V)> for Env {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(variables: I) -> Self {
        Self(variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect())
    }
}
