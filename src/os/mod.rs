//! What only the operating system can do, one file for each kind: keeping the browser's pipes apart, starting a
//! process that outlives us, knowing who we are.
//!
//! Owns: all code that asks which platform this is (with `daemon::endpoint` for the local socket). Both files offer
//! the same functions with the same meaning.

use std::path::PathBuf;

/// A process of this user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub id: u32,
    /// The program that it runs.
    pub program: PathBuf,
    /// What it was started with.
    pub arguments: Vec<String>,
    /// Whether whoever started it is gone.
    pub is_orphan: bool,
}

/// Something that happened to the machine, and that no connection notices by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The clock was set, perhaps because the machine is awake again.
    Clock,
    /// It has other addresses in its networks.
    Addresses,
}

/// What the system's own settings say about proxies, in its own form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProxySettings {
    /// What `scutil --proxy` prints.
    Scutil(String),
    /// The `ProxyServer` and the `ProxyOverride` of the Internet settings.
    Internet {
        /// One address, or one for each protocol.
        server: String,
        /// What is reached without it.
        except: String,
    },
}

pub mod keyring;
#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub use unix::*;
#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub use windows::*;
