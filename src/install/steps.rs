//! The plan as a list of steps, carrying it out, and the report.
//!
//! Owns: the order of effects, what a failed step means for the later ones, and how the outcome is shown. Does not
//! own: the decision what the steps are (`install` and `uninstall`).
//!
//! A step holds the outcome that it will have if nothing goes wrong; a dry run reports just that.

use std::collections::BTreeSet;
use std::error::Error;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;

use super::browsers::{Key, Location, Scope};
use super::receipt::{Receipt, Record};
use super::registry::Registry;
use super::{Context, InstallError, disk};

/// Which way a plan goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Command {
    /// Making the host known.
    Install,
    /// Undoing it.
    Uninstall,
}

/// What a step is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// The program, or a file that belongs beside it.
    Program,
    /// A browser's manifest.
    Manifest,
    /// The registry key that leads browsers to their manifest.
    Key,
    /// The rules in the configuration.
    Rule,
    /// The receipt.
    Receipt,
    /// A directory that an install made.
    Directory,
    /// Configuration, messages, logs.
    Data,
}

/// How a step ended, or in a dry run would end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It was there and is different now.
    Updated,
    /// It was as it should be.
    Unchanged,
    /// It is gone.
    Removed,
    /// There was no reason to do it.
    Skipped,
    /// It was asked for, and there is a reason against it.
    Refused,
    /// It was tried.
    Failed,
}

impl Outcome {
    /// Whether what the step is about is there, in order.
    pub(super) fn is_in_place(self) -> bool {
        matches!(self, Self::Created | Self::Updated | Self::Unchanged)
    }

    fn word(self, dry_run: bool) -> &'static str {
        match (self, dry_run) {
            (Self::Created, false) => "created",
            (Self::Created, true) => "would create",
            (Self::Updated, false) => "updated",
            (Self::Updated, true) => "would update",
            (Self::Unchanged, _) => "unchanged",
            (Self::Removed, false) => "removed",
            (Self::Removed, true) => "would remove",
            (Self::Skipped, _) => "skipped",
            (Self::Refused, _) => "refused",
            (Self::Failed, _) => "failed",
        }
    }
}

/// What a step does at its location.
#[derive(Debug)]
pub(super) enum Change {
    Copy {
        from: PathBuf,
    },
    Write {
        contents: String,
        mode: u32,
    },
    /// A key gets this value.
    Set {
        value: String,
    },
    /// A file or a key goes.
    Remove,
    RemoveTree,
    /// A directory or a key goes if nothing is in it.
    RemoveEmpty,
    SaveReceipt,
}

/// What must be done before a step.
#[derive(Debug)]
pub(super) struct Awaited {
    /// Whichever of these failed.
    pub(super) locations: Vec<Location>,
    /// What it means for the step.
    pub(super) reason: &'static str,
}

/// One line of the plan. Without a change, it says why there is none.
#[derive(Debug)]
pub(super) struct Step {
    kind: Kind,
    subject: String,
    browsers: Vec<String>,
    pub(super) location: Location,
    pub(super) outcome: Outcome,
    detail: Option<String>,
    next: Option<String>,
    pub(super) change: Option<Change>,
    awaits: Option<Awaited>,
    /// Whether a browser looks here.
    is_entrance: bool,
    record: Option<Record>,
}

impl Step {
    pub(super) fn new(kind: Kind, subject: &str, location: impl Into<Location>) -> Self {
        Self {
            kind,
            subject: subject.to_owned(),
            browsers: Vec::new(),
            location: location.into(),
            outcome: Outcome::Unchanged,
            detail: None,
            next: None,
            change: None,
            awaits: None,
            is_entrance: false,
            record: None,
        }
    }

    pub(super) fn because(mut self, detail: &str) -> Self {
        self.detail = Some(detail.to_owned());
        self
    }

    pub(super) fn advises(mut self, next: &str) -> Self {
        self.next = Some(next.to_owned());
        self
    }

    /// What the receipt remembers once the step is done.
    pub(super) fn records(mut self, record: Record) -> Self {
        self.record = Some(record);
        self
    }

    /// It serves these, by the name that `--browser` takes.
    pub(super) fn serves(mut self, browsers: &[String]) -> Self {
        self.browsers = browsers.to_vec();
        self
    }

    /// It is about a place where browsers look.
    pub(super) fn where_browsers_look(mut self) -> Self {
        self.is_entrance = true;
        self
    }

    /// It is not done if one of these failed.
    pub(super) fn awaits(mut self, locations: Vec<Location>, reason: &'static str) -> Self {
        self.awaits = Some(Awaited { locations, reason });
        self
    }

    /// Nothing is done, and this is why.
    pub(super) fn ends(mut self, outcome: Outcome, why: &str) -> Self {
        self.outcome = outcome;
        self.because(why)
    }

    /// The same without its change.
    pub(super) fn refused(mut self, why: &str, next: &str) -> Self {
        (self.change, self.record) = (None, None);
        self.ends(Outcome::Refused, why).advises(next)
    }

    pub(super) fn fails(mut self, error: &InstallError) -> Self {
        self.next = error.next_step();
        self.ends(Outcome::Failed, &chain(error))
    }

    /// A file is written, or a key, which is there already or not.
    pub(super) fn puts(mut self, change: Change, is_there: bool) -> Self {
        self.outcome = if is_there { Outcome::Updated } else { Outcome::Created };
        self.change = Some(change);
        self
    }

    /// Something is removed, and no longer in the receipt.
    pub(super) fn removes(mut self, change: Change) -> Self {
        self.outcome = Outcome::Removed;
        self.change = Some(change);
        let location = self.location.clone();
        self.record.get_or_insert(Record::Gone(location));
        self
    }
}

/// What [`apply`] will do.
#[derive(Debug)]
pub struct Plan {
    command: Command,
    dry_run: bool,
    /// Whether new directories are for their owner alone.
    private: bool,
    pub(super) steps: Vec<Step>,
    receipt: Receipt,
    receipt_path: PathBuf,
    registry: Arc<dyn Registry>,
}

impl Plan {
    pub(super) fn new(
        command: Command,
        dry_run: bool,
        scope: Scope,
        steps: Vec<Step>,
        receipt: Receipt,
        context: &Context,
    ) -> Self {
        let private = scope == Scope::User;
        let (receipt_path, registry) = (context.receipt.clone(), Arc::clone(&context.registry));
        Self { command, dry_run, private, steps, receipt, receipt_path, registry }
    }

    pub(super) fn push(&mut self, step: Step) {
        self.steps.push(step);
    }

    /// The receipt as it will be if all steps succeed; new directories, which only show later, are missing.
    pub(super) fn expected_receipt(&self) -> Receipt {
        let mut receipt = self.receipt.clone();
        self.steps.iter().filter_map(|step| step.record.clone()).for_each(|record| receipt.enter(record));
        receipt
    }

    /// Adds the step that keeps the receipt true.
    pub(super) fn save_receipt(&mut self) {
        let expected = self.expected_receipt();
        let step = Step::new(Kind::Receipt, "receipt", &self.receipt_path);
        let is_there = self.receipt_path.exists();
        let step = if expected.is_empty() {
            if !is_there {
                return;
            }
            step.removes(Change::SaveReceipt)
        } else {
            let mut step = step.puts(Change::SaveReceipt, is_there);
            if is_there && expected == self.receipt {
                step.outcome = Outcome::Unchanged;
            }
            step
        };
        self.push(step);
    }

    /// Adds the removal of the directories and keys that an install made, as far as they will be empty.
    pub(super) fn remove_directories(&mut self) {
        let is_removed = |step: &&Step| step.outcome == Outcome::Removed;
        let mut gone: BTreeSet<Location> =
            self.steps.iter().filter(is_removed).map(|step| step.location.clone()).collect();
        let mut directories = self.receipt.directories.clone();
        directories.sort_by_key(|location| std::cmp::Reverse(depth(location)));
        for location in directories {
            let will_be_empty = match &location {
                Location::File(path) => fs::read_dir(path).is_ok_and(|mut entries| {
                    entries.all(|entry| entry.is_ok_and(|entry| gone.contains(&Location::File(entry.path()))))
                }),
                // Only the registry can tell, when the keys below are gone.
                Location::Key(_) => true,
            };
            if will_be_empty && !gone.contains(&location) {
                let (kind, subject) = match location {
                    Location::File(_) => (Kind::Directory, "directory"),
                    Location::Key(_) => (Kind::Key, "key"),
                };
                self.push(Step::new(kind, subject, &location).removes(Change::RemoveEmpty));
                gone.insert(location);
            }
        }
    }
}

/// How far a location is from the root.
fn depth(location: &Location) -> usize {
    match location {
        Location::File(path) => path.components().count(),
        Location::Key(key) => key.ancestors().count(),
    }
}

/// What became of a step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StepReport {
    /// What it is about, for programs.
    pub kind: Kind,
    /// What it is about, for people: the browser's name, for instance.
    pub subject: String,
    /// All browsers that it serves, by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub browsers: Vec<String>,
    /// The file, directory or registry key.
    pub path: String,
    /// How it ended.
    pub outcome: Outcome,
    /// Why, or what it contains.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What the user can do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// What [`apply`] did. `Display` is for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Which way it went.
    pub command: Command,
    /// Whether nothing was done in truth.
    pub dry_run: bool,
    /// Whether nothing was refused and nothing failed, and, after an install, at least one browser can start the host.
    pub ok: bool,
    /// All steps, in their order.
    pub steps: Vec<StepReport>,
}

/// Carries out a plan. A step that fails is reported, and the others are done all the same, but for those that await
/// it: no manifest shall name a program that is not there, and no program goes while a manifest may start it.
#[must_use]
pub fn apply(plan: Plan) -> Report {
    let mut receipt = plan.receipt.clone();
    let mut failed: BTreeSet<Location> = BTreeSet::new();
    let mut reports = Vec::new();
    let mut is_installed = false;
    for mut step in plan.steps {
        let awaited =
            step.awaits.take().filter(|awaited| awaited.locations.iter().any(|location| failed.contains(location)));
        if let Some(change) = step.change.take().filter(|_| !plan.dry_run) {
            if let Some(awaited) = awaited {
                failed.insert(step.location.clone());
                step = step.ends(Outcome::Skipped, awaited.reason);
                step.record = None;
            } else {
                match perform(change, &mut step, plan.private, &mut receipt, &plan.receipt, &*plan.registry) {
                    Ok(Outcome::Skipped) => {
                        step = step.ends(Outcome::Skipped, "is in use");
                        step.record = None;
                    }
                    Ok(outcome) => step.outcome = outcome,
                    Err(error) => step = step.fails(&error),
                }
            }
        }
        if matches!(step.outcome, Outcome::Failed | Outcome::Refused) {
            failed.insert(step.location.clone());
        } else {
            step.record.take().into_iter().for_each(|record| receipt.enter(record));
        }
        // What a browser looks for; where that is a key, the manifest alone is no use.
        is_installed |= step.is_entrance && step.outcome.is_in_place();
        reports.push(StepReport {
            kind: step.kind,
            subject: step.subject,
            browsers: step.browsers,
            path: step.location.to_string(),
            outcome: step.outcome,
            detail: step.detail,
            next: step.next,
        });
    }
    let is_clean = reports.iter().all(|step| !matches!(step.outcome, Outcome::Failed | Outcome::Refused));
    let ok = is_clean && (is_installed || plan.command == Command::Uninstall);
    Report { command: plan.command, dry_run: plan.dry_run, ok, steps: reports }
}

/// Makes one change and says how it ended; `receipt` learns about directories and keys that were made for it.
fn perform(
    change: Change,
    step: &mut Step,
    private: bool,
    receipt: &mut Receipt,
    before: &Receipt,
    registry: &dyn Registry,
) -> Result<Outcome, InstallError> {
    let path = match &step.location {
        Location::File(path) => path,
        Location::Key(key) => return perform_at(change, key, step.outcome, receipt, registry),
    };
    match change {
        Change::Copy { from } => in_directory(path, private, receipt, |_| disk::copy(&from, path))?,
        Change::Write { contents, mode } => {
            in_directory(path, private, receipt, |_| disk::write(path, contents.as_bytes(), mode))?;
        }
        Change::Set { .. } => unreachable!("a file has no value"),
        Change::Remove if step.kind == Kind::Program => {
            if let Some(aside) = disk::remove_program(path)? {
                step.detail = Some(format!("it still runs: delete {} when it has ended", aside.display()));
            }
        }
        Change::Remove => disk::remove_file(path)?,
        Change::RemoveTree => disk::remove_tree(path)?,
        Change::RemoveEmpty => {
            if !disk::remove_empty_directory(path)? {
                return Ok(Outcome::Skipped);
            }
        }
        Change::SaveReceipt if receipt.is_empty() => {
            if !path.exists() {
                return Ok(Outcome::Unchanged);
            }
            disk::remove_file(path)?;
            return Ok(Outcome::Removed);
        }
        Change::SaveReceipt if path.exists() && receipt == before => return Ok(Outcome::Unchanged),
        Change::SaveReceipt => {
            let is_there = path.exists();
            let mode = if private { disk::PRIVATE } else { disk::READABLE };
            let write = |receipt: &Receipt| disk::write(path, receipt.to_json().as_bytes(), mode);
            in_directory(path, private, receipt, write)?;
            return Ok(if is_there { Outcome::Updated } else { Outcome::Created });
        }
    }
    Ok(step.outcome)
}

/// The same for a registry key.
fn perform_at(
    change: Change,
    key: &Key,
    outcome: Outcome,
    receipt: &mut Receipt,
    registry: &dyn Registry,
) -> Result<Outcome, InstallError> {
    let error = |source| InstallError::Registry { key: key.clone(), source };
    match change {
        Change::Set { value } => {
            let mut missing = Vec::new();
            for above in key.ancestors() {
                if registry.contains(&above).map_err(error)? {
                    break;
                }
                missing.push(above);
            }
            registry.set(key, &value).map_err(error)?;
            missing.into_iter().for_each(|above| receipt.enter(Record::Directory(Location::Key(above))));
        }
        Change::Remove => registry.remove(key).map_err(error)?,
        Change::RemoveEmpty => {
            if !registry.is_empty(key).map_err(error)? {
                return Ok(Outcome::Skipped);
            }
            registry.remove(key).map_err(error)?;
        }
        other => unreachable!("{other:?} is for files"),
    }
    Ok(outcome)
}

/// Makes the directory of `path`, then the file; if that fails, the directories that were made for it go again.
fn in_directory(
    path: &Path,
    private: bool,
    receipt: &mut Receipt,
    make: impl FnOnce(&Receipt) -> Result<(), InstallError>,
) -> Result<(), InstallError> {
    let mut created = Vec::new();
    let directory = path.parent().unwrap_or(path);
    let mut extended = receipt.clone();
    let made = disk::create_directories(directory, private, &mut created).and_then(|()| {
        created.iter().for_each(|directory| extended.enter(Record::Directory(directory.into())));
        make(&extended)
    });
    match made {
        Ok(()) => *receipt = extended,
        // Whoever put something into one of them meanwhile keeps it; the error to report is the first one.
        Err(_) => created.iter().rev().for_each(|directory| drop(disk::remove_empty_directory(directory))),
    }
    made
}

/// An error and its causes, each once.
fn chain(error: &dyn Error) -> String {
    let cause = error.source().map(chain);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.steps.is_empty() {
            return writeln!(f, "nothing to do");
        }
        let word = |step: &StepReport| step.outcome.word(self.dry_run);
        let words = self.steps.iter().map(|step| word(step).len()).max().unwrap_or(0);
        let subjects = self.steps.iter().map(|step| step.subject.chars().count()).max().unwrap_or(0);
        let indent = " ".repeat(words + subjects + 4);
        for step in &self.steps {
            writeln!(f, "{:words$}  {:subjects$}  {}", word(step), step.subject, step.path)?;
            let next = step.next.as_deref().map(|next| format!("next: {next}"));
            for line in step.detail.iter().chain(&next).flat_map(|text| text.lines()) {
                writeln!(f, "{indent}{line}")?;
            }
        }
        if self.dry_run { writeln!(f, "dry run: nothing was written") } else { Ok(()) }
    }
}
