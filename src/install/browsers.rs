//! The browsers that can start this host, and where each of them looks for its manifest.
//!
//! Owns: the table ([`TABLE`]) and the functions that turn a row and an environment into paths. A browser, a channel
//! or another system is a further row and nothing else. Does not own: what a manifest says (`manifest`), nor whether
//! one is written (`install`).
//!
//! Locations are pure: environment in, path out. Only [`Row::is_found`] looks at the disk, and only looks.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use serde::Serialize;

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
    /// The system that this program was built for.
    pub const CURRENT: Self = if cfg!(windows) {
        Self::Windows
    } else if cfg!(target_os = "macos") {
        Self::MacOs
    } else {
        Self::Linux
    };

    /// The file name of the program `name`.
    #[must_use]
    pub fn program(self, name: &str) -> String {
        match self {
            Self::Windows => format!("{name}.exe"),
            Self::Linux | Self::MacOs => name.to_owned(),
        }
    }
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
    /// `allowed_origins` with `chrome-extension://ID/`.
    Chromium,
    /// `allowed_extensions` with add-on ids, and no other key.
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
}

/// Where a path starts: the first of these variables that holds an absolute path, with what follows it there.
/// None at all stands for the root of the file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base(pub &'static [(&'static str, &'static str)]);

impl Base {
    /// The root of the file system.
    pub const ROOT: Self = Self(&[]);
    /// The home directory.
    pub const HOME: Self = Self(&[("HOME", "")]);
    /// The configuration directory of the XDG specification.
    pub const CONFIG: Self = Self(&[("XDG_CONFIG_HOME", ""), ("HOME", ".config")]);
    /// The directory below which Chromium and its relatives keep their user data on Linux.
    pub const CHROME_CONFIG: Self = Self(&[("CHROME_CONFIG_HOME", ""), ("XDG_CONFIG_HOME", ""), ("HOME", ".config")]);
}

/// A file or directory, as data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Where it starts.
    pub base: Base,
    /// What follows, with `/` between the parts.
    pub path: &'static str,
}

impl Place {
    /// The path in this environment; `None` if no variable of the base is set.
    #[must_use]
    pub fn locate(&self, env: &Env, root: &Path) -> Option<PathBuf> {
        let start = if self.base == Base::ROOT {
            root.to_owned()
        } else {
            self.base.0.iter().find_map(|(variable, rest)| env.path(variable).map(|path| descend(path, rest)))?
        };
        Some(descend(start, self.path))
    }
}

/// `path` and the parts of `rest` below it, with the separator of the system.
fn descend(mut path: PathBuf, rest: &str) -> PathBuf {
    path.extend(rest.split('/').filter(|part| !part.is_empty()));
    path
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

/// One place where one browser looks for manifests. A browser may have several rows, and rows may share a place.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The name for `--browser`.
    pub name: &'static str,
    /// The name for people.
    pub title: &'static str,
    /// The system that the row is about.
    pub platform: Platform,
    /// For whom a manifest there counts.
    pub scope: Scope,
    /// The format of the manifest.
    pub family: Family,
    /// The directory that holds `HOST.json`.
    pub manifests: Place,
    /// How the browser is found.
    pub detection: Detection,
    /// Who says so.
    pub source: &'static str,
    /// How sure it is.
    pub confidence: Confidence,
}

impl Row {
    /// Whether this browser seems to be on the machine.
    #[must_use]
    pub fn is_found(&self, env: &Env, root: &Path) -> bool {
        let exists = |place: &Place, kind: fn(&Metadata) -> bool| {
            place.locate(env, root).and_then(|path| path.metadata().ok()).is_some_and(|metadata| kind(&metadata))
        };
        let on_path = |name: &&str| {
            std::env::split_paths(env.get("PATH").unwrap_or_default()).filter(|directory| directory.is_absolute()).any(
                |directory| {
                    directory.join(self.platform.program(name)).metadata().is_ok_and(|file| is_executable(&file))
                },
            )
        };
        let detection = &self.detection;
        detection.profiles.iter().any(|place| exists(place, Metadata::is_dir))
            || detection.executables.iter().any(on_path)
            || detection.well_known.iter().any(|place| exists(place, is_executable))
    }
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

const fn place(base: Base, path: &'static str) -> Place {
    Place { base, path }
}

/// Every place that is known.
pub const TABLE: &[Row] = &[
    Row {
        name: "chrome",
        title: "Google Chrome",
        platform: Platform::Linux,
        scope: Scope::User,
        family: Family::Chromium,
        manifests: place(Base::CHROME_CONFIG, "google-chrome/NativeMessagingHosts"),
        detection: Detection {
            profiles: &[place(Base::CHROME_CONFIG, "google-chrome")],
            executables: &["google-chrome", "google-chrome-stable"],
            well_known: &[place(Base::ROOT, "opt/google/chrome/chrome")],
        },
        source: "Chromium's chrome/common/chrome_paths.cc, docs/user_data_dir.md",
        confidence: Confidence::Documented,
    },
    Row {
        name: "chromium",
        title: "Chromium",
        platform: Platform::Linux,
        scope: Scope::User,
        family: Family::Chromium,
        manifests: place(Base::CHROME_CONFIG, "chromium/NativeMessagingHosts"),
        detection: Detection {
            profiles: &[place(Base::CHROME_CONFIG, "chromium")],
            executables: &["chromium", "chromium-browser"],
            well_known: &[
                place(Base::ROOT, "usr/lib/chromium/chromium"),
                place(Base::ROOT, "usr/lib/chromium-browser/chromium-browser"),
            ],
        },
        source: "Chromium 156; its chrome/common/chrome_paths.cc, docs/user_data_dir.md",
        confidence: Confidence::Observed,
    },
    Row {
        name: "firefox",
        title: "Firefox",
        platform: Platform::Linux,
        scope: Scope::User,
        family: Family::Firefox,
        // Firefox reads this one also when its profiles are below the XDG configuration directory.
        manifests: place(Base::HOME, ".mozilla/native-messaging-hosts"),
        detection: Detection {
            profiles: &[place(Base::HOME, ".mozilla/firefox"), place(Base::CONFIG, "mozilla/firefox")],
            executables: &["firefox", "firefox-esr"],
            well_known: &[
                place(Base::ROOT, "usr/lib/firefox/firefox"),
                place(Base::ROOT, "usr/lib64/firefox/firefox"),
                place(Base::ROOT, "usr/lib/firefox-esr/firefox-esr"),
                place(Base::ROOT, "opt/firefox/firefox"),
            ],
        },
        source: "Firefox ESR 153; MDN, Native manifests",
        confidence: Confidence::Observed,
    },
];
