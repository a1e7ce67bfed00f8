//! The receipt: what `install` wrote, so that `uninstall` removes that and nothing else.
//!
//! Owns: the receipt's format and how a done step changes it. Does not own: the decision what to install or remove.
//! Whoever loses the receipt loses little: manifests are also recognised by the program that they start.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::allow::Rule;
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
    pub(super) rules: Vec<Rule>,
    /// Directories that were not there before.
    pub(super) directories: Vec<PathBuf>,
}

/// A manifest that was written.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Entry {
    pub(super) path: PathBuf,
    pub(super) browsers: Vec<String>,
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
    Rules(Vec<Rule>),
    Directory(PathBuf),
    /// A file or a directory is gone.
    Gone(PathBuf),
    RulesGone(Vec<Rule>),
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

    /// The manifest at `path`, if install wrote it.
    pub(super) fn manifest(&self, path: &Path) -> Option<&Entry> {
        self.manifests.iter().find(|entry| entry.path == path)
    }

    pub(super) fn enter(&mut self, record: Record) {
        match record {
            Record::Program(path) => add(&mut self.programs, path),
            Record::File(path) => add(&mut self.files, path),
            Record::Manifest(entry) => match self.manifests.iter_mut().find(|known| known.path == entry.path) {
                Some(known) => entry.browsers.into_iter().for_each(|browser| add(&mut known.browsers, browser)),
                None => self.manifests.push(entry),
            },
            Record::Shared(entry) => {
                self.manifests.iter_mut().filter(|known| known.path == entry.path).for_each(|known| {
                    known.browsers.clone_from(&entry.browsers);
                });
            }
            Record::Rules(rules) => rules.into_iter().for_each(|rule| add(&mut self.rules, rule)),
            Record::Directory(path) => add(&mut self.directories, path),
            Record::Gone(path) => {
                self.files.retain(|known| *known != path);
                self.directories.retain(|known| *known != path);
                self.manifests.retain(|known| known.path != path);
            }
            Record::RulesGone(rules) => self.rules.retain(|known| !rules.contains(known)),
            Record::ProgramsGone => self.programs.clear(),
        }
    }
}

fn add<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}
