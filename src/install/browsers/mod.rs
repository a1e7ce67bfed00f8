//! The browsers that can start this host, and where each of them looks for its manifest, on all systems at once.
//!
//! Owns: the shape of the table and the functions that turn a row and an environment into locations. A browser, a
//! channel or a sandboxed variant is a further entry in the file of its system and nothing else. Does not own: what a
//! manifest says (`manifest`), what is in the registry (`registry`), nor whether anything is written (`install`).
//!
//! Locations are pure: environment in, location out, for any system on any other. Only [`Browser::is_found`] looks at
//! the disk, and only looks.

mod linux;
mod macos;
mod windows;

use std::ffi::OsStr;
use std::fmt;
use std::fs::Metadata;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::HostName;
use crate::config::Env;

/// An operating system, as far as its places differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// Linux, and the systems that follow the XDG directories as it does.
    Linux,
    /// macOS.
    MacOs,
    /// Windows.
    Windows,
}

impl Platform {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Linux, Self::MacOs, Self::Windows];

    /// The system that this program was built for.
    pub const CURRENT: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_os = "macos") {
        Self::MacOs
    } else {
        Self::Linux
    };

    /// The browsers that are known on this system.
    #[must_use]
    pub fn browsers(self) -> &'static [Browser] {
        match self {
            Self::Linux => linux::BROWSERS,
            Self::MacOs => macos::BROWSERS,
            Self::Windows => windows::BROWSERS,
        }
    }

    /// The file name of the program `name`.
    #[must_use]
    pub fn program(self, name: &str) -> String {
        match self {
            Self::Windows => format!("{name}.exe"),
            Self::Linux | Self::MacOs => name.to_owned(),
        }
    }

    /// Whether `path` says where it starts, to this system.
    #[must_use]
    pub fn is_absolute(self, path: &OsStr) -> bool {
        let bytes = path.as_encoded_bytes();
        match self {
            Self::Windows => {
                matches!(bytes, [letter, b':', b'\\' | b'/', ..] if letter.is_ascii_alphabetic())
                    || bytes.starts_with(br"\\")
            }
            Self::Linux | Self::MacOs => bytes.starts_with(b"/"),
        }
    }
}

/// The parts of `rest` (separated by `/`) below `path`, in the way of writing of the system that `path` is from, which
/// need not be this one.
#[must_use]
pub fn descend(path: &Path, rest: &str) -> PathBuf {
    let separator = if path.as_os_str().as_encoded_bytes().starts_with(b"/") { "/" } else { r"\" };
    let mut text = path.as_os_str().to_owned();
    for part in rest.split('/').filter(|part| !part.is_empty()) {
        if !text.as_encoded_bytes().ends_with(separator.as_bytes()) {
            text.push(separator);
        }
        text.push(part);
    }
    text.into()
}

/// For whom a manifest is installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scope {
    /// The current user.
    #[default]
    User,
    /// Every user of the machine.
    System,
}

/// Which of the two manifest formats, and so which form of extension id, a browser takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// `allowed_origins` with `chrome-extension://ID/`. The first manifest that is found counts, even a broken one.
    Chromium,
    /// `allowed_extensions` with add-on ids, and no other key. A broken manifest is passed over.
    Firefox,
}

/// How a row is known to be right.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Confidence {
    /// The browser was seen reading a manifest there.
    Observed,
    /// Its makers say so, in documentation or source.
    Documented,
    /// Others say so.
    Reported,
    /// It follows from what its relatives do; nobody is known to have looked.
    Assumed,
}

/// A file or directory, as data: the first of these variables that holds an absolute path, with what follows it there
/// (`/` between the parts). An empty name stands for the root of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place(pub &'static [(&'static str, &'static str)]);

impl Place {
    /// The path in this environment; `None` if none of the variables is set.
    #[must_use]
    pub fn locate(&self, platform: Platform, env: &Env, root: &Path) -> Option<PathBuf> {
        self.0.iter().find_map(|&(variable, rest)| {
            if variable.is_empty() {
                return Some(descend(root, rest));
            }
            let start = env.get(variable).filter(|path| platform.is_absolute(path))?;
            Some(descend(Path::new(start), rest))
        })
    }
}

/// One of the two sets of keys that 64-bit Windows shows to programs. The machine's keys are two; a user's are shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum View {
    /// What 32-bit programs see, and browsers read first.
    #[serde(rename = "32")]
    Bits32,
    /// What 64-bit programs see.
    #[serde(rename = "64")]
    Bits64,
}

/// Where a browser looks, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Site {
    /// A directory that holds `HOST.json`.
    Directory(Place),
    /// A registry key, below `HKCU` for a user and `HKLM` for the machine, with a key `HOST` below it, the default
    /// value of which is the path of the manifest.
    Key(View, &'static str),
}

/// The root of a registry key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Hive {
    /// The current user's.
    #[serde(rename = "HKCU")]
    User,
    /// The machine's.
    #[serde(rename = "HKLM")]
    Machine,
}

/// A registry key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// Its root.
    pub hive: Hive,
    /// Which of the two keys of this name.
    pub view: View,
    /// What follows the root, with `\` between the parts.
    pub path: String,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { hive, view, path } = self;
        match (hive, view) {
            (Hive::User, _) => write!(f, r"HKCU\{path}"),
            (Hive::Machine, View::Bits64) => write!(f, r"HKLM\{path}"),
            (Hive::Machine, View::Bits32) => write!(f, r"HKLM\{path} (32-bit)"),
        }
    }
}

/// Where a browser looks on one machine.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Location {
    /// For this file.
    File(PathBuf),
    /// At this key, for the path of a file.
    Key(Key),
}

impl Location {
    /// The file, if it is one.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        match self {
            Self::File(path) => Some(path),
            Self::Key(_) => None,
        }
    }
}

impl From<&Path> for Location {
    fn from(path: &Path) -> Self {
        Self::File(path.to_owned())
    }
}

impl From<&PathBuf> for Location {
    fn from(path: &PathBuf) -> Self {
        Self::File(path.clone())
    }
}

impl From<&Self> for Location {
    fn from(location: &Self) -> Self {
        location.clone()
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Key(key) => key.fmt(f),
        }
    }
}

/// One place where one browser looks for manifests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// For whom a manifest there counts.
    pub scope: Scope,
    /// The place.
    pub site: Site,
    /// Whether install writes there: it is the browser's own place, or one of several when reports differ. Else the
    /// browser merely looks there too.
    pub is_written: bool,
    /// How sure it is.
    pub confidence: Confidence,
    /// Who says so.
    pub source: &'static str,
}

impl Row {
    const fn new(scope: Scope, site: Site, confidence: Confidence, source: &'static str) -> Self {
        Self { scope, site, is_written: true, confidence, source }
    }

    /// The same as a place that the browser merely looks at too.
    const fn only_read(self) -> Self {
        Self { is_written: false, ..self }
    }

    /// Where the manifest of `host` is in this environment; `None` if that does not say.
    #[must_use]
    pub fn locate(&self, platform: Platform, env: &Env, root: &Path, host: &HostName) -> Option<Location> {
        Some(match self.site {
            Site::Directory(place) => {
                let directory = place.locate(platform, env, root)?;
                Location::File(descend(&directory, &host.manifest_file()))
            }
            Site::Key(view, path) => {
                let hive = match self.scope {
                    Scope::User => Hive::User,
                    Scope::System => Hive::Machine,
                };
                Location::Key(Key { hive, view, path: format!(r"{path}\{host}") })
            }
        })
    }
}

/// What stands between a browser and the programs of its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sandbox {
    /// What made it: `Flatpak` or `Snap`.
    pub kind: &'static str,
    /// The browser's name there.
    pub id: &'static str,
    /// How a host is started nevertheless.
    pub launch: Launch,
}

/// How a browser in a sandbox starts a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launch {
    /// Inside: it needs a copy of the program there, and keeps its files there, below what programs know as these.
    Inside {
        /// What is the sandbox's own to write, with all of them.
        root: Place,
        /// `XDG_DATA_HOME`.
        data: Place,
        /// `XDG_CONFIG_HOME`.
        config: Place,
        /// `XDG_STATE_HOME`.
        state: Place,
    },
    /// Outside, by a portal, which asks the user.
    Portal,
}

/// The signs by which a browser is known to be on this machine: any one is enough.
#[derive(Debug, Clone, Copy)]
pub struct Detection {
    /// Directories that exist once it has run.
    pub profiles: &'static [Place],
    /// Names of its program, looked for on `PATH`.
    pub executables: &'static [&'static str],
    /// Where its program is when it is not on `PATH`.
    pub well_known: &'static [Place],
}

/// One browser on one system: a channel or a sandboxed variant is one of its own.
#[derive(Debug, Clone, Copy)]
pub struct Browser {
    /// The name for `--browser`.
    pub name: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// The system.
    pub platform: Platform,
    /// The format of its manifests.
    pub family: Family,
    /// How it is found.
    pub detection: Detection,
    /// What stands between it and the host.
    pub sandbox: Option<Sandbox>,
    /// Where it looks, first to last.
    pub rows: &'static [Row],
}

/// A location where a browser looks.
#[derive(Debug, Clone)]
pub struct Looked {
    /// The location.
    pub location: Location,
    /// What is known about it.
    pub row: &'static Row,
    /// All browsers of the system that look there, by name: what is written there is read by each of them.
    pub readers: Vec<&'static str>,
}

impl Browser {
    /// Whether this browser seems to be on the machine.
    #[must_use]
    pub fn is_found(&self, env: &Env, root: &Path) -> bool {
        let exists = |place: &Place, is_sign: fn(&Path) -> bool| {
            place.locate(self.platform, env, root).is_some_and(|path| is_sign(&path))
        };
        let on_path = |name: &&str| {
            std::env::split_paths(env.get("PATH").unwrap_or_default())
                .filter(|directory| directory.is_absolute())
                .any(|directory| is_program(&directory.join(self.platform.program(name))))
        };
        let detection = &self.detection;
        detection.profiles.iter().any(|place| exists(place, is_profile))
            || detection.executables.iter().any(on_path)
            || detection.well_known.iter().any(|place| exists(place, is_program))
    }

    /// Every location where it looks for the manifest of `host`, first to last; those that the environment does not
    /// tell are left out. `browsers` are those that may share one with it.
    #[must_use]
    pub fn locations(&self, browsers: &[Self], env: &Env, root: &Path, host: &HostName) -> Vec<Looked> {
        let locate = |row: &Row| row.locate(self.platform, env, root, host);
        let looks_at = |browser: &&Self, location: &Location| {
            browser.platform == self.platform && browser.rows.iter().any(|row| locate(row).as_ref() == Some(location))
        };
        let looked = |row: &'static Row| {
            let location = locate(row)?;
            let readers = browsers.iter().filter(|browser| looks_at(browser, &location));
            Some(Looked { readers: readers.map(|browser| browser.name).collect(), location, row })
        };
        self.rows.iter().filter_map(looked).collect()
    }
}

/// Whether `path` is a directory in which a browser has run. One that holds nothing but manifests is not: other
/// installers make it for browsers that are not there, and so does this one when browsers share a place.
fn is_profile(path: &Path) -> bool {
    let is_manifests = |name: &OsStr| name.eq_ignore_ascii_case("NativeMessagingHosts");
    path.read_dir().is_ok_and(|entries| {
        let mut names = entries.flatten().map(|entry| entry.file_name()).peekable();
        names.peek().is_none() || names.any(|name| !is_manifests(&name))
    })
}

/// Whether `path` is a file that can be run.
fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| is_executable(&metadata))
}

#[cfg(unix)]
fn is_executable(metadata: &Metadata) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    metadata.is_file() && metadata.permissions().mode() & 0o111 != 0
}

#[cfg(not(unix))]
fn is_executable(metadata: &Metadata) -> bool {
    metadata.is_file()
}
