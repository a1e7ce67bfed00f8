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

use serde::Deserialize;
use url::{Host, Url};

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

/// Where everything is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    config: PathBuf,
    data: PathBuf,
    logs: PathBuf,
    socket: PathBuf,
}

/// Why there is no place for files.
#[derive(Debug, thiserror::Error)]
#[error("this user has no home directory, so there is no place for files; set {HOME_VARIABLE} to a directory")]
pub struct NoHome;

impl Paths {
    /// The places for this environment: below [`HOME_VARIABLE`] if that is set, else where the platform keeps such
    /// files.
    ///
    /// # Errors
    /// If neither is known.
    pub fn new(env: &Env) -> Result<Self, NoHome> {
        if let Some(home) = env.get(HOME_VARIABLE) {
            let home = std::path::absolute(home).map_err(|_| NoHome)?;
            return Ok(Self::below(&home, &home, &home.join("logs")));
        }
        let places = directories::ProjectDirs::from("com", "semantest", "websocket-bridge").ok_or(NoHome)?;
        let data = places.data_local_dir();
        let logs = places.state_dir().unwrap_or(data).join("logs");
        Ok(Self::below(places.config_dir(), data, &logs))
    }

    fn below(config: &Path, data: &Path, logs: &Path) -> Self {
        // The socket has a directory of its own, because that must be closed to others and the home may be open.
        let socket = socket_path(&data.join("run"));
        Self { config: config.join("config.toml"), data: data.to_owned(), logs: logs.to_owned(), socket }
    }

    /// The configuration file.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        &self.config
    }

    /// The directory for everything that must last.
    #[must_use]
    pub fn data_directory(&self) -> &Path {
        &self.data
    }

    /// The directory of the log files.
    #[must_use]
    pub fn log_directory(&self) -> &Path {
        &self.logs
    }

    /// The file that the running daemon has locked; it holds the daemon's process id.
    #[must_use]
    pub fn daemon_lock(&self) -> PathBuf {
        self.data.join("daemon.lock")
    }

    /// The file that is locked while somebody starts a daemon, so that a burst of hosts starts one.
    #[must_use]
    pub fn launch_lock(&self) -> PathBuf {
        self.data.join("launch.lock")
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// The directory of the socket, which nobody else may enter. Where it is a pipe there is none: the system makes it,
    /// and removes it with the process that listens.
    #[must_use]
    pub fn socket_directory(&self) -> Option<&Path> {
        if cfg!(windows) { None } else { self.socket.parent() }
    }
}

/// The name of the socket in `directory`; if that is too long for a socket, a short one that follows from it.
#[cfg(unix)]
fn socket_path(directory: &Path) -> PathBuf {
    let socket = directory.join("daemon.sock");
    if socket.as_os_str().len() <= crate::os::MAX_SOCKET_PATH {
        return socket;
    }
    let name = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, socket.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/tmp/websocket-bridge-{}/{}.sock", crate::os::user(), name.simple()))
}

/// The name of the pipe, one for each home, and by that for each user.
#[cfg(windows)]
fn socket_path(directory: &Path) -> PathBuf {
    let name = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, directory.as_os_str().as_encoded_bytes());
    PathBuf::from(format!(r"\\.\pipe\websocket-bridge-{}", name.simple()))
}

/// What `config.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// By extension, as the browser names it: `chrome-extension://ID/`, or Firefox's add-on id.
    pub origins: BTreeMap<String, OriginRules>,
}

/// What one extension may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OriginRules {
    /// The servers that it may reach beyond this machine: `wss://host/*` or `wss://host:port/path/*`; the `*` stands at
    /// the end and for anything.
    pub allow: Vec<String>,
    /// `ws://` beyond this machine is allowed, where everybody on the way can read and change what is said.
    pub allow_insecure: bool,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// It says something that cannot be.
    #[error("{path}: {message}")]
    Invalid {
        /// The file.
        path: String,
        /// Line, what was found, what is allowed.
        message: String,
    },
}

impl Config {
    /// Reads a file; one that is not there says nothing.
    ///
    /// # Errors
    /// If it cannot be read or understood.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let shown = || path.display().to_string();
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(ConfigError::Unreadable { path: shown(), source }),
        };
        toml::from_str(&text).map_err(|error| {
            // Not its own text: that repeats the line, and what stands in it may be a secret, or another extension's.
            let line = error.span().map_or(0, |span| text[..span.start].matches('\n').count()) + 1;
            ConfigError::Invalid { path: shown(), message: format!("line {line}: {}", error.message()) }
        })
    }

    /// Whether `origin` may reach the server of `url`.
    ///
    /// # Errors
    /// A sentence that says why not, and what to write where to allow it.
    pub fn permits(&self, origin: &str, url: &Url, file: &Path) -> Result<(), String> {
        if is_loopback(url) {
            return Ok(());
        }
        let rules = self.origins.get(origin);
        let server = url.origin().ascii_serialization();
        let table = toml_edit::Key::new(origin);
        let table = format!("[origins.{}]", table.display_repr());
        if !rules.is_some_and(|rules| rules.allow.iter().any(|pattern| matches(pattern, url))) {
            return Err(format!(
                "{server} is not on this machine and not allowed for {origin}; to allow it, add to {}, below {table}: \
                 allow = [\"{server}/*\"]",
                file.display()
            ));
        }
        if url.scheme() == "ws" && !rules.is_some_and(|rules| rules.allow_insecure) {
            return Err(format!(
                "{server} is reached without encryption over a network; use wss://, or add to {}, below {table}: \
                 allow_insecure = true",
                file.display()
            ));
        }
        Ok(())
    }
}

/// Whether a server is on this machine by its very name: no look-up could say otherwise.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Whether `url` is within `pattern`: same scheme, host and port, and a path within the pattern's.
fn matches(pattern: &str, url: &Url) -> bool {
    let (prefix, open_ended) = pattern.strip_suffix('*').map_or((pattern, false), |prefix| (prefix, true));
    let Ok(allowed) = Url::parse(prefix) else { return false };
    let same_server = (allowed.scheme(), allowed.host(), allowed.port_or_known_default())
        == (url.scheme(), url.host(), url.port_or_known_default());
    // Some servers take an encoded slash for one, and would leave the path that is allowed.
    let path = url.path().to_ascii_lowercase();
    let opaque = allowed.path() != "/" && (path.contains("%2f") || path.contains("%5c"));
    same_server
        && !opaque
        && if open_ended { url.path().starts_with(allowed.path()) } else { url.path() == allowed.path() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

    fn verdict(config: &str, url: &str) -> Result<(), String> {
        let config: Config = toml::from_str(config).unwrap();
        config.permits(ORIGIN, &Url::parse(url).unwrap(), Path::new("/c.toml"))
    }

    #[test]
    fn without_configuration_only_this_machine_is_reached() {
        for url in ["ws://127.0.0.1:1/", "wss://127.9.9.9/", "ws://[::1]:8080/", "ws://localhost/x", "ws://LOCALHOST/"]
        {
            assert_eq!(verdict("", url), Ok(()), "{url}");
        }
        for url in [
            "ws://localhost.evil/",
            "ws://localhost./",
            "wss://example.org/",
            "ws://10.0.0.1/",
            "ws://[::2]/",
            "ws://0.0.0.0/",
        ] {
            assert!(verdict("", url).is_err(), "{url}");
        }
    }

    #[test]
    fn a_refusal_names_the_file_and_the_line_to_add_and_the_line_works() {
        let refusal = verdict("", "wss://example.org/ws").unwrap_err();
        let (_, advice) = refusal.split_once("add to /c.toml, below ").unwrap();
        assert_eq!(verdict(&advice.replacen(": ", "\n", 1), "wss://example.org/ws"), Ok(()));
    }

    #[test]
    fn an_allowed_server_is_its_scheme_host_port_and_path() {
        let config = format!("[origins.\"{ORIGIN}\"]\nallow = [\"wss://example.org/a/*\", \"wss://b.org/x\"]");
        for (url, allowed) in [
            ("wss://example.org/a/b?c", true),
            ("wss://example.org:443/a/", true),
            ("wss://example.org/b", false),
            ("wss://example.org/a/../b", false),
            ("wss://example.org/a/%2e%2e/b", false),
            ("wss://example.org/a/..%2fb", false),
            ("wss://example.org/a/..%5Cb", false),
            ("wss://example.org:444/a/", false),
            ("wss://example.org.evil/a/", false),
            ("ws://example.org/a/", false),
            ("wss://b.org/x", true),
            ("wss://b.org/x/y", false),
        ] {
            assert_eq!(verdict(&config, url).is_ok(), allowed, "{url}");
        }
    }

    #[test]
    fn no_encryption_beyond_this_machine_needs_a_word_of_its_own() {
        let rules = format!("[origins.\"{ORIGIN}\"]\nallow = [\"ws://example.org/*\"]\n");
        assert!(verdict(&rules, "ws://example.org/").unwrap_err().contains("allow_insecure = true"));
        assert_eq!(verdict(&format!("{rules}allow_insecure = true"), "ws://example.org/"), Ok(()));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        std::fs::write(&file, "# hello\n[origins.x]\nalow = []\n").unwrap();
        let error = Config::load(&file).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("alow") && error.contains("allow"), "{error}");
    }

    #[test]
    fn a_refused_file_is_not_quoted_because_it_may_hold_secrets() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("config.toml");
        for line in ["headers = { Authorization = \"hush\" }", "headers = \"hush", "allow = [\"hush"] {
            std::fs::write(&file, format!("[origins.x]\n{line}\n")).unwrap();
            let error = Config::load(&file).unwrap_err().to_string();
            assert!(error.contains("line 2") && !error.contains("hush"), "{error}");
        }
    }

    #[test]
    fn a_home_too_deep_for_a_socket_gets_a_short_one() {
        let deep = format!("/{}", "x".repeat(150));
        let paths = Paths::new(&[(HOME_VARIABLE, &*deep)].into_iter().collect()).unwrap();
        assert!(paths.socket().as_os_str().len() <= crate::os::MAX_SOCKET_PATH);
        let other = Paths::new(&[(HOME_VARIABLE, format!("{deep}/y"))].into_iter().collect()).unwrap();
        assert_ne!(paths.socket(), other.socket());
    }
}
