//! What was found on the machine, as values: nothing here is good or bad.
//!
//! Owns: the shape of the facts. Gathering them is `gather`'s, judging them `findings`'s, so that a test can make up any
//! machine.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};
use url::Url;

use super::launch::Outcome;
use super::policy;
use super::program::Kind;
use crate::install::Installed;
use crate::install::browsers::{Family, Location, Platform, Sandbox, Scope};
use crate::os::Process;
use crate::server::Found;
use crate::spool::inspect::Inspection;
use crate::wire::Reason;

/// Everything.
#[derive(Debug)]
pub(super) struct Facts {
    pub(super) platform: Platform,
    /// The name under which extensions ask for the host.
    pub(super) host: String,
    /// What kind of program this one is.
    pub(super) own_kind: Kind,
    /// What installations have left, or why nobody knows.
    pub(super) installed: Result<Installed, String>,
    /// Every place where a browser of this system looks, in the order in which each of them does.
    pub(super) places: Vec<Place>,
    /// Every file that is at one of them, or should be.
    pub(super) manifests: Vec<Manifest>,
    pub(super) policies: Vec<Policy>,
    pub(super) orphans: Vec<Process>,
    /// The directories that are this user's alone, and what is wrong with each.
    pub(super) directories: Vec<Directory>,
    pub(super) daemon: Option<Daemon>,
    pub(super) spool: Option<Spool>,
    /// Bytes that may still be written beside the spool.
    pub(super) free_bytes: Option<u64>,
    /// Why the configuration cannot be used.
    pub(super) configuration: Option<Result<(), String>>,
    pub(super) now: SystemTime,
    /// The last change to any file that was looked at.
    pub(super) last_change: Option<(PathBuf, SystemTime)>,
    pub(super) servers: Vec<Server>,
    /// How many servers there are besides.
    pub(super) untried: usize,
    /// What `--session` asked for, if it is not among them.
    pub(super) unknown_session: Option<String>,
    /// What took too long to look at.
    pub(super) slow: Vec<&'static str>,
    /// Where our files are.
    pub(super) home: PathBuf,
    /// Whether that is said by the environment, which a browser's need not do.
    pub(super) has_home_variable: bool,
}

/// A place where a browser looks for the manifest.
#[derive(Debug, Clone)]
pub(super) struct Place {
    /// The browser's name for `--browser`; of a user data directory, its path.
    pub(super) browser: String,
    pub(super) title: String,
    pub(super) family: Family,
    pub(super) scope: Scope,
    /// Whether install would write there for this browser.
    pub(super) is_written: bool,
    /// What stands between the browser and the programs of its user.
    pub(super) sandbox: Option<Sandbox>,
    /// Whether the browser seems to be on the machine.
    pub(super) is_found: bool,
    /// Whether it is a user data directory of a Chromium.
    pub(super) is_user_data_dir: bool,
    /// Where it looks: for a file, or at a key for the path of one.
    pub(super) location: Location,
    /// The file. Where a key should lead to one and does not, the name of the key.
    pub(super) manifest: PathBuf,
}

/// A file that may be a manifest.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) path: PathBuf,
    pub(super) content: Content,
    /// The program that it names, if it names one.
    pub(super) program: Option<Program>,
    /// What came of starting that as a browser does; nothing if it was not tried.
    pub(super) launch: Option<Outcome>,
}

/// What a look at a file gave.
#[derive(Debug)]
pub(super) enum Content {
    Missing,
    /// It is a link to something that is not there.
    Dangling,
    Unreadable(String),
    /// Reading it takes too long.
    Slow,
    Read {
        bytes: Vec<u8>,
        /// What anybody may change: the file, or its directory.
        is_open: bool,
    },
}

/// A program that a manifest names.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) path: PathBuf,
    pub(super) state: ProgramState,
    /// Whether it is one of ours, by its place or its name.
    pub(super) is_ours: bool,
}

/// What is where a program should be.
#[derive(Debug)]
pub(super) enum ProgramState {
    Missing,
    Unreadable(String),
    /// Something else than a file.
    NoFile,
    File {
        is_executable: bool,
        kind: Kind,
        /// Whether the program that runs it is there, if it is a script.
        has_interpreter: bool,
        /// Whether anybody may change it.
        is_open: bool,
        /// What it says it is, if it is another file than this program and was asked.
        version: Option<String>,
    },
}

/// The policies of one browser.
#[derive(Debug)]
pub(super) struct Policy {
    pub(super) place: policy::Place,
    /// What they say, or why nobody knows.
    pub(super) said: Result<Map<String, Value>, String>,
}

/// A directory that must be this user's alone.
#[derive(Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    /// What is wrong with it.
    pub(super) fault: Option<String>,
    /// Whether it is there and only its permissions are wrong.
    pub(super) is_open: bool,
}

/// The daemon, before anything was started.
#[derive(Debug)]
pub(super) struct Daemon {
    /// Who holds its lock: the process, as it wrote it.
    pub(super) lock: Option<String>,
    /// Where it listens.
    pub(super) socket: PathBuf,
    /// Whether something is there.
    pub(super) has_socket: bool,
    pub(super) call: Call,
}

/// What came of calling it.
#[derive(Debug)]
pub(super) enum Call {
    Nobody,
    /// It answered; how many sessions it has.
    Answered {
        build: String,
        sessions: usize,
    },
    /// Somebody is there, and this is wrong.
    Failed(String),
}

/// The spool.
#[derive(Debug)]
pub(super) enum Spool {
    /// Nobody else had it open.
    Inspected(Inspection),
    /// A daemon has it; how large it is, and what was set aside.
    InUse { bytes: u64, set_aside: Vec<PathBuf> },
}

/// A server and the way to it.
#[derive(Debug)]
pub(super) struct Server {
    /// The session, or what else asked for it.
    pub(super) subject: String,
    pub(super) url: Url,
    /// Whether the query of the URL is known.
    pub(super) is_whole: bool,
    /// Why the configuration does not allow it.
    pub(super) refusal: Option<String>,
    /// What was found on the way, and after how long.
    pub(super) found: Vec<(Found, Duration)>,
    /// How it ended; not at all within the time that there was.
    pub(super) end: Option<Result<(), Reason>>,
}
