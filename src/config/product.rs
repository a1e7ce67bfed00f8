//! Several installations beside each other: each is a product under the name of its host, with a program, a home and a daemon
//! of its own.
//!
//! Owns: which names there can be, and how a program knows which product it belongs to. A manifest passes no arguments, so
//! that stands in a file beside the program.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The name under which extensions ask for this host unless `install --name` gave another.
pub const HOST_NAME: &str = "com.semantest.websocket_bridge";

/// What lies beside the program of a product under another name: that name.
const NAME_FILE: &str = "websocket-bridge.host";

/// The name under which extensions ask for a host: lower case letters, digits, `_`, and dots between them.
/// This is what both Chromium and Firefox take. The default is [`HOST_NAME`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

/// Neither Chromium nor Firefox would take it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no host name: allowed are lower case letters, digits and _, with single dots between them")]
pub struct NotAHostName(String);

/// Why a program does not know which product it belongs to.
#[derive(Debug, thiserror::Error)]
pub enum UnknownProduct {
    /// There is a file, and it cannot be read.
    #[error("cannot read {}, which names the host of this program", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It names nothing.
    #[error("{} should name the host of this program; call `install --name` again", path.display())]
    Nameless {
        /// The file.
        path: PathBuf,
        /// What is wrong with what it says.
        source: NotAHostName,
    },
}

impl HostName {
    /// The longest name, in bytes: a file is called after it.
    const MAX: usize = 200;

    /// The name of the host that `program` is: what stands beside it, or the usual one.
    ///
    /// # Errors
    /// If something stands there that is no name.
    pub fn of_program(program: &Path) -> Result<Self, UnknownProduct> {
        let Some(path) = program.parent().map(Self::file_in) else { return Ok(Self::default()) };
        match std::fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().map_err(|source| UnknownProduct::Nameless { path, source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(UnknownProduct::Unreadable { path, source }),
        }
    }

    /// Where a program in `directory` looks for its name.
    #[must_use]
    pub fn file_in(directory: &Path) -> PathBuf {
        directory.join(NAME_FILE)
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether no other was ever asked for.
    #[must_use]
    pub fn is_usual(&self) -> bool {
        self.0 == HOST_NAME
    }

    /// What the directories are called that are its product's alone.
    #[must_use]
    pub fn directory(&self) -> String {
        if self.is_usual() { "websocket-bridge".to_owned() } else { format!("websocket-bridge-{self}") }
    }

    /// The file name of its manifest.
    #[must_use]
    pub fn manifest_file(&self) -> String {
        format!("{}.json", self.0)
    }
}

impl Default for HostName {
    fn default() -> Self {
        Self(HOST_NAME.to_owned())
    }
}

impl FromStr for HostName {
    type Err = NotAHostName;

    fn from_str(text: &str) -> Result<Self, NotAHostName> {
        let is_part =
            |part: &str| !part.is_empty() && part.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if text.len() <= Self::MAX && text.split('.').all(is_part) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAHostName(text.chars().take(Self::MAX).collect()))
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_the_host_that_stands_beside_it_and_the_usual_one_without() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("websocket-bridge");
        assert!(HostName::of_program(&program).unwrap().is_usual());
        let file = HostName::file_in(directory.path());
        std::fs::write(&file, "com.acme.bridge\n").unwrap();
        assert_eq!(HostName::of_program(&program).unwrap().as_str(), "com.acme.bridge");
        for wrong in ["", "../x", "a b"] {
            std::fs::write(&file, wrong).unwrap();
            let error = HostName::of_program(&program).unwrap_err().to_string();
            assert!(error.contains("websocket-bridge.host") && error.contains("install --name"), "{error}");
        }
    }
}
