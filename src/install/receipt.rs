//! The receipt: what `install` wrote, so that `uninstall` removes that and nothing else.
//!
//! Owns: the receipt's format and how a done step changes it. Does not own: the decision what to install or remove.
//! Whoever loses the receipt loses little: manifests are also recognised by the program that they start.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::allow::Rule;
use super::browsers::Location;
use super::{InstallError, disk};

const VERSION: u32 = 1;

/// What one installation put on the disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Receipt {
    version: u32,
    /// Programs that manifests of ours start, where they were left in place.
    pub(super) programs: Vec<PathBuf>,
    /// The program's copy and what lies beside it.
    pub(super) files: Vec<PathBuf>,
    /// Manifests, each with the browsers that it was written for.
    pub(super) manifests: Vec<Entry>,
    /// Rules that were not in the configuration before.
    pub(super) rules: Vec<Grant>,
    /// Directories, and keys above others, that were not there before.
    pub(super) directories: Vec<Location>,
}

/// A manifest that was written, or a key that leads to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    #[serde(rename = "path")]
    pub(super) location: Location,
    pub(super) browsers: Vec<String>,
}

/// A rule, and the configuration in which it was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Grant {
    pub(super) file: PathBuf,
    #[serde(flatten)]
    pub(super) rule: Rule,
}

/// What a step that was done leaves in the receipt.
#[derive(Debug, Clone)]
pub(super) enum Record {
    Program(PathBuf),
    File(PathBuf),
    /// The browsers are added to those that share the manifest.
    Manifest(Entry),
    /// The browsers are the only ones left that share the manifest.
    Shared(Entry),
    Grants(Vec<Grant>),
    Directory(Location),
    /// A file, a directory or a key is gone.
    Gone(Location),
    GrantsGone(Vec<Grant>),
    ProgramsGone,
}

impl Default for Receipt {
    fn default() -> Self {
        Self {
            version: VERSION,
            programs: Vec::new(),
            files: Vec::new(),
            manifests: Vec::new(),
            rules: Vec::new(),
            directories: Vec::new(),
        }
    }
}

impl Receipt {
    /// The receipt at `path`; none is an empty one.
    pub(super) fn read(path: &Path) -> Result<Self, InstallError> {
        let Some(bytes) = disk::read(path)? else {
            return Ok(Self::default());
        };
        let receipt: Self =
            serde_json::from_slice(&bytes).map_err(|source| InstallError::Receipt { path: path.to_owned(), source })?;
        if receipt.version == VERSION {
            Ok(receipt)
        } else {
            Err(InstallError::ReceiptVersion { path: path.to_owned(), found: receipt.version })
        }
    }

    pub(super) fn to_json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("the plan lets only Unicode paths in");
        text.push('\n');
        text
    }

    /// Whether nothing is installed any more; directories alone are not worth a receipt.
    pub(super) fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.files.is_empty() && self.manifests.is_empty() && self.rules.is_empty()
    }

    /// The manifest at `location`, if install wrote it.
    pub(super) fn manifest(&self, location: &Location) -> Option<&Entry> {
        self.manifests.iter().find(|entry| entry.location == *location)
    }

    pub(super) fn enter(&mut self, record: Record) {
        match record {
            Record::Program(path) => add(&mut self.programs, path),
            Record::File(path) => add(&mut self.files, path),
            Record::Manifest(entry) => match self.manifests.iter_mut().find(|known| known.location == entry.location) {
                Some(known) => entry.browsers.into_iter().for_each(|browser| add(&mut known.browsers, browser)),
                None => self.manifests.push(entry),
            },
            Record::Shared(entry) => {
                self.manifests.iter_mut().filter(|known| known.location == entry.location).for_each(|known| {
                    known.browsers.clone_from(&entry.browsers);
                });
            }
            Record::Grants(grants) => grants.into_iter().for_each(|grant| add(&mut self.rules, grant)),
            Record::Directory(path) => add(&mut self.directories, path),
            Record::Gone(location) => {
                self.files.retain(|known| Some(known.as_path()) != location.file());
                self.directories.retain(|known| *known != location);
                self.manifests.retain(|known| known.location != location);
            }
            Record::GrantsGone(grants) => self.rules.retain(|known| !grants.contains(known)),
            Record::ProgramsGone => self.programs.clear(),
        }
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}
