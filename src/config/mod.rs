//! Where this product keeps its files, and what the person who owns the machine allows.
//!
//! Owns: the directories ([`Paths`]), the two files `config.toml` ([`Config`]), the rule which servers an origin may
//! reach, and which proxy leads there. Does not own: what settings there are (`settings`), what a session does with a server
//! (`session`), nor how a connection is made (`server`).
//!
//! The environment is read once, into an [`Env`] value that is passed on: nothing below looks at the process
//! environment by itself, so that a test can describe a whole machine without touching its own.

mod file;
mod product;
mod proxy;
mod servers;
#[cfg(test)]
mod tests;
mod way;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use url::Url;

use crate::os;
use crate::settings::{Layer, Limits, Source};
use file::{File, Session};
pub use product::{HOST_NAME, HostName, NotAHostName, UnknownProduct};
pub use proxy::{Choice, ChosenProxy, Proxy, ProxyProtocol, ProxyRule, ProxyVariables, of_system};
use servers::Pattern;
pub use servers::{MAX_URL, is_loopback, server_url};
pub use way::{TlsFiles, Way};

/// Names the directory that holds everything; for tests and for several installations beside each other.
pub const HOME_VARIABLE: &str = "WEBSOCKET_BRIDGE_HOME";

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
    host: HostName,
    system_config: PathBuf,
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
    /// The places for the usual product in this environment.
    ///
    /// # Errors
    /// If they are not known.
    pub fn new(env: &Env) -> Result<Self, NoHome> {
        Self::of(HostName::default(), env)
    }

    /// The places for the product of this host: below [`HOME_VARIABLE`] if that is set, else where the platform keeps such
    /// files; for another than the usual one in a directory that has its name.
    ///
    /// # Errors
    /// If neither is known.
    pub fn of(host: HostName, env: &Env) -> Result<Self, NoHome> {
        if let Some(home) = env.get(HOME_VARIABLE) {
            let home = std::path::absolute(home).map_err(|_| NoHome)?;
            let home = if host.is_usual() { home } else { home.join(host.as_str()) };
            return Ok(Self::below(host, &home, &home, &home.join("logs"), env));
        }
        let places = directories::ProjectDirs::from("com", "semantest", &host.directory()).ok_or(NoHome)?;
        let data = places.data_local_dir();
        let logs = places.state_dir().unwrap_or(data).join("logs");
        Ok(Self::below(host, places.config_dir(), data, &logs, env))
    }

    fn below(host: HostName, config: &Path, data: &Path, logs: &Path, env: &Env) -> Self {
        // The socket has a directory of its own, because that must be closed to others and the home may be open.
        let socket = socket_path(&data.join("run"));
        Self {
            host,
            system_config: system_config(env),
            config: config.join("config.toml"),
            data: data.to_owned(),
            logs: logs.to_owned(),
            socket,
        }
    }

    /// The host whose product this is.
    #[must_use]
    pub fn host(&self) -> &HostName {
        &self.host
    }

    /// The configuration file of the machine, which its administrator keeps. Wherever the user's files are, it is here.
    #[must_use]
    pub fn system_config_file(&self) -> &Path {
        &self.system_config
    }

    /// The same with another file of the machine.
    #[cfg(test)]
    pub(crate) fn with_system_config_file(self, system_config: PathBuf) -> Self {
        Self { system_config, ..self }
    }

    /// The configuration file of this user.
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

    /// The file that keeps what sessions must not lose; beside it lie those that its library needs.
    #[must_use]
    pub fn spool(&self) -> PathBuf {
        self.data.join("spool.db")
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

/// Where the product of this host lies when it is installed for all users: the program, manifests, and what was installed.
#[must_use]
pub fn machine_directory(host: &HostName, env: &Env) -> PathBuf {
    let directory = if cfg!(windows) {
        env.path("ProgramFiles").unwrap_or_else(|| PathBuf::from(r"C:\Program Files"))
    } else if cfg!(target_os = "macos") {
        PathBuf::from("/Library/Application Support")
    } else {
        PathBuf::from("/usr/local/lib")
    };
    directory.join(host.directory())
}

/// Where the administrator of the machine keeps the configuration for all users.
fn system_config(env: &Env) -> PathBuf {
    let directory = if cfg!(windows) {
        env.path("ProgramData").unwrap_or_else(|| PathBuf::from(r"C:\ProgramData"))
    } else if cfg!(target_os = "macos") {
        PathBuf::from("/Library/Application Support")
    } else {
        PathBuf::from("/etc")
    };
    directory.join("websocket-bridge").join("config.toml")
}

/// The name of the socket in `directory`; if that is too long for a socket, a short one that follows from it.
#[cfg(unix)]
fn socket_path(directory: &Path) -> PathBuf {
    let socket = directory.join("daemon.sock");
    if socket.as_os_str().len() <= os::MAX_SOCKET_PATH {
        return socket;
    }
    let name = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, socket.as_os_str().as_encoded_bytes());
    PathBuf::from(format!("/tmp/websocket-bridge-{}/{}.sock", os::user(), name.simple()))
}

/// The name of the pipe, one for each home, and by that for each user.
#[cfg(windows)]
fn socket_path(directory: &Path) -> PathBuf {
    let name = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, directory.as_os_str().as_encoded_bytes());
    PathBuf::from(format!(r"\\.\pipe\websocket-bridge-{}", name.simple()))
}

/// What the two files say: the machine's, then this user's.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Config {
    /// What all sessions begin with; the machine's before the user's.
    defaults: Vec<Layer>,
    /// The proxy of all sessions; the machine's before the user's.
    proxies: Vec<ProxyRule>,
    limits: Limits,
    /// By extension, as the browser names it: `chrome-extension://ID/`, or Firefox's add-on id.
    origins: BTreeMap<String, Origin>,
}

/// What both files together say about one extension.
#[derive(Debug, Clone, PartialEq, Default)]
struct Origin {
    allow: Vec<Pattern>,
    allow_insecure: bool,
    /// By name; the machine's before the user's.
    sessions: BTreeMap<String, Vec<Session>>,
}

/// The largest configuration file, in bytes: it is read by the thread that serves everybody.
const MAX_FILE: u64 = 1024 * 1024;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read {path}")]
    Unreadable {
        /// The file.
        path: String,
        /// What the system said.
        source: io::Error,
    },
    /// It says something that cannot be.
    #[error("{path}: line {line}: {message}")]
    Invalid {
        /// The file.
        path: String,
        /// Counted from 1.
        line: usize,
        /// What was found, what is allowed.
        message: String,
    },
}

impl Config {
    /// Reads both files; one that is not there says nothing.
    ///
    /// # Errors
    /// If one cannot be read or understood.
    pub fn load(paths: &Paths) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        config.add(paths.system_config_file(), os::open_administrators_file)?;
        config.add(paths.config_file(), |path| std::fs::File::open(path))?;
        Ok(config)
    }

    /// Puts what one file says on top of what those before it said.
    fn add(&mut self, path: &Path, open: fn(&Path) -> io::Result<std::fs::File>) -> Result<(), ConfigError> {
        let shown = || path.display().to_string();
        let mut text = Vec::new();
        match open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut text)) {
            Ok(_) if text.len() as u64 > MAX_FILE => {
                let line = text.split(|byte| *byte == b'\n').count();
                let message = format!("the file is larger than {MAX_FILE} bytes");
                return Err(ConfigError::Invalid { path: shown(), line, message });
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(ConfigError::Unreadable { path: shown(), source }),
        }
        let File { defaults, proxy, origins } = File::read(&text, &mut self.limits)
            .map_err(|file::Fault { line, message }| ConfigError::Invalid { path: shown(), line, message })?;
        self.defaults.push(defaults);
        self.proxies.extend(proxy);
        for (name, said) in origins {
            let origin = self.origins.entry(name).or_default();
            origin.allow.extend(said.allow);
            origin.allow_insecure |= said.allow_insecure;
            for (name, session) in said.sessions {
                origin.sessions.entry(name).or_default().push(session);
            }
        }
        Ok(())
    }

    /// The bounds that the files draw closer.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// What the files say about the settings of a session; the later counts more.
    pub fn layers<'a>(&'a self, origin: &str, session: &str) -> impl Iterator<Item = &'a Layer> + use<'a> {
        self.defaults.iter().chain(self.sections(origin, session).iter().map(|section| &section.settings))
    }

    /// How the server of `url` is reached for a session, as far as the files say; for one that has no name, as for all.
    #[must_use]
    pub fn way(&self, origin: &str, session: &str, url: &Url) -> Way {
        Way::effective(&self.proxies, self.sections(origin, session), url)
    }

    /// The server that a session has secrets for, and must have: nobody else may hear them, whatever an extension says.
    #[must_use]
    pub fn bound_url(&self, origin: &str, session: &str) -> Option<&Url> {
        way::binding(self.sections(origin, session))?.url.as_ref()
    }

    /// Where the credential comes from that the server of [`Config::bound_url`] is shown.
    #[must_use]
    pub fn source(&self, origin: &str, session: &str) -> Source {
        way::binding(self.sections(origin, session)).map_or(Source::Extension, |section| section.source.clone())
    }

    /// The server that the files name for a session.
    #[must_use]
    pub fn session_url(&self, origin: &str, session: &str) -> Option<Url> {
        self.sections(origin, session).iter().rev().find_map(|section| section.url.clone())
    }

    /// The sessions for which the files name a server: the extension, the name, the server.
    pub fn sessions(&self) -> impl Iterator<Item = (&str, &str, Url)> {
        let all = self.origins.iter().flat_map(|(name, origin)| origin.sessions.keys().map(move |key| (name, key)));
        all.filter_map(|(origin, name)| Some((&**origin, &**name, self.session_url(origin, name)?)))
    }

    fn sections(&self, origin: &str, session: &str) -> &[Session] {
        self.origins.get(origin).and_then(|origin| origin.sessions.get(session)).map_or(&[], Vec::as_slice)
    }

    /// Whether `origin` may reach the server of `url`. `file` is the one that the user may change.
    ///
    /// # Errors
    /// A sentence that says why not, and what to write where to allow it.
    pub fn permits(&self, origin: &str, url: &Url, file: &Path) -> Result<(), String> {
        if is_loopback(url) {
            return Ok(());
        }
        let rules = self.origins.get(origin);
        let server = url.origin().ascii_serialization();
        let table = format!("[{}]", origin_table(origin));
        if !rules.is_some_and(|rules| rules.allow.iter().any(|pattern| pattern.matches(url))) {
            return Err(format!(
                "{server} is not on this machine and not allowed for {origin}; to allow it, add to {} (to the list, if there \
                 is one), below {table}: allow = [\"{server}/*\"]",
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

/// The table of a session in a file, as its header there.
#[must_use]
pub fn session_table(origin: &str, session: &str) -> String {
    // A name of a session may hold dots.
    format!("[{}.sessions.{}]", origin_table(origin), toml_edit::Key::new(session).display_repr())
}

fn origin_table(origin: &str) -> String {
    format!("origins.{}", toml_edit::Key::new(origin).display_repr())
}
