//! Making this host known to the browsers of a machine, and undoing it.
//!
//! A request and the machine's description become a plan ([`plan`], [`plan_removal`]: they only look), the plan is
//! carried out ([`apply`]), and what was done comes back as a [`Report`] for people or as JSON. Every browser stands
//! for itself: one that cannot be served does not stop the others.
//!
//! Owns: the decision what is written where, and whose a file is. Does not own: where browsers look (`browsers`),
//! what a manifest says (`manifest`), how the configuration is edited (`allow`), what was written before
//! (`receipt`), how a file is replaced (`disk`), nor the daemon, the credentials and the printing: those are the
//! command line's.
//!
//! A manifest is ours if it starts the stable copy of the program, the running program, or one that the receipt
//! names. Any other is foreign and is left alone unless the request says otherwise.

pub mod allow;
pub mod browsers;
mod disk;
mod manifest;
mod receipt;
mod steps;
mod uninstall;

// Two attributes: clippy knows test code by the first alone.
#[cfg(test)]
#[cfg(unix)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use url::Url;

use crate::config::{Env, HostName};
use allow::{Allowed, Need, Rule};
use browsers::{Family, Platform, Row, Scope};
use manifest::Existing;
pub use manifest::ExtensionId;
use receipt::{Entry, Receipt, Record};
use steps::{Change, Step};
pub use steps::{Command, Kind, Outcome, Plan, Report, StepReport, apply};
pub use uninstall::{Removal, plan_removal};

/// The name of the program's file, without the ending that some systems ask for.
const PROGRAM: &str = "websocket-bridge";

/// The machine, as far as installing depends on it. All paths are absolute.
#[derive(Debug, Clone)]
pub struct Context {
    /// The system.
    pub platform: Platform,
    /// The user's environment: home directory, `PATH`, where configuration lies.
    pub env: Env,
    /// The root of the file system: `/` but for tests and package builders.
    pub root: PathBuf,
    /// The browsers that are known: [`browsers::TABLE`].
    pub browsers: &'static [Row],
    /// The running program.
    pub current_exe: PathBuf,
    /// The stable place for the program.
    pub binary_dir: PathBuf,
    /// A file beside the program from which a host under another name learns that name; `None` for the usual name.
    pub name_file: Option<PathBuf>,
    /// The configuration that is edited.
    pub config_file: PathBuf,
    /// The receipt.
    pub receipt: PathBuf,
    /// What `--purge` deletes: files, and directories with everything in them.
    pub purge: Vec<PathBuf>,
}

/// What to install.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// Names of browsers. If neither these nor `user_data_dirs` are given, all browsers that are found.
    pub browsers: Vec<String>,
    /// User data directories of Chromium: started with `--user-data-dir`, it looks for manifests only there.
    pub user_data_dirs: Vec<PathBuf>,
    /// Who may start the host. Those that a manifest of ours lets in already stay.
    pub extensions: Vec<ExtensionId>,
    /// A server that the extensions may reach.
    pub url: Option<Url>,
    /// The name of the host.
    pub host_name: HostName,
    /// For whom.
    pub scope: Scope,
    /// Whether manifests name the running program instead of a copy of it.
    pub in_place: bool,
    /// Whether an unencrypted `url` beyond this machine may be allowed.
    pub allow_insecure: bool,
    /// Whether foreign manifests are replaced.
    pub force: bool,
    /// Whether the plan is only shown.
    pub dry_run: bool,
}

/// Why nothing could be planned, or why a step failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstallError {
    /// Neither family of browsers has such ids.
    #[error(
        "{given:?} is no extension id: allowed are 32 letters from a to p (Chromium, also as \
         chrome-extension://ID/), or name@domain or {{UUID}} (Firefox)"
    )]
    ExtensionId {
        /// The text.
        given: String,
    },
    /// The name is not in the table for this system and scope.
    #[error("{name:?} is no known browser: known here are {known}")]
    UnknownBrowser {
        /// The name.
        name: String,
        /// The names that are.
        known: String,
    },
    /// There is none of those that are known.
    #[error("no browser was found on this machine: looked for {known}")]
    NoBrowser {
        /// The names that are known.
        known: String,
    },
    /// Where things belong depends on the home directory.
    #[error("the environment does not say where the manifests of {browser} belong: HOME is not set")]
    NoHome {
        /// The first browser for which it is missing.
        browser: &'static str,
    },
    /// A browser would look for it somewhere else.
    #[error("{} is not an absolute path", path.display())]
    RelativePath {
        /// The path.
        path: PathBuf,
    },
    /// JSON cannot name it.
    #[error("{} is not valid Unicode, so no manifest can name it", path.display())]
    NotUnicode {
        /// The path.
        path: PathBuf,
    },
    /// A server is allowed for somebody.
    #[error("a server can only be allowed for an extension, and none was given")]
    UrlWithoutExtension,
    /// Only WebSocket servers are reached.
    #[error("the URL of a server {problem}")]
    Url {
        /// What is wrong with it.
        problem: String,
    },
    /// The configuration is not in order.
    #[error("cannot edit {}, line {line}: {problem}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What was found and what is allowed.
        problem: String,
    },
    /// The configuration is in order, but the rule would not be where it belongs.
    #[error("cannot find a place for the rule in {}", path.display())]
    ConfigShape {
        /// The file.
        path: PathBuf,
    },
    /// The receipt is damaged.
    #[error("cannot understand the receipt {}", path.display())]
    Receipt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The receipt is a newer program's.
    #[error("cannot understand the receipt {}: its version is {found}, this program writes 1", path.display())]
    ReceiptVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// A file is there but cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program cannot be copied.
    #[error("cannot copy {} to {}", from.display(), to.display())]
    Copy {
        /// The running program.
        from: PathBuf,
        /// The stable place.
        to: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory cannot be made.
    #[error("cannot create the directory {}", path.display())]
    CreateDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something cannot be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl InstallError {
    /// What the user can do about it, if there is something that the error does not say itself.
    #[must_use]
    pub fn next_step(&self) -> Option<String> {
        Some(match self {
            Self::NoBrowser { .. } => "name one with --browser, or a Chromium profile with --user-data-dir".to_owned(),
            Self::NoHome { .. } => "set HOME and try again".to_owned(),
            Self::UrlWithoutExtension => "add --extension ID".to_owned(),
            Self::Config { .. } => "correct the line and try again".to_owned(),
            Self::ConfigShape { .. } => "add the rule by hand".to_owned(),
            Self::Receipt { path, .. } | Self::ReceiptVersion { path, .. } => {
                format!("move {} away: manifests are also recognised without it", path.display())
            }
            Self::Copy { to: path, source, .. }
            | Self::Read { path, source }
            | Self::Write { path, source }
            | Self::CreateDirectory { path, source }
            | Self::Remove { path, source } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    format!("give yourself access to {} and try again", path.parent().unwrap_or(path).display())
                }
                io::ErrorKind::NotADirectory => {
                    let file = path.ancestors().find(|path| path.is_file()).unwrap_or(path);
                    format!("move {} away: a directory belongs there", file.display())
                }
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    "make room on the disk and try again".to_owned()
                }
                _ => return None,
            },
            _ => return None,
        })
    }
}

/// One manifest file, and the browsers that read it.
#[derive(Debug)]
struct Target {
    family: Family,
    manifest: PathBuf,
    /// Their names, for the receipt.
    browsers: Vec<String>,
    /// Their names, for people.
    title: String,
    /// Whether the browsers seem to be on the machine.
    is_found: bool,
}

impl Target {
    /// The manifest of a Chromium that runs with its own user data directory.
    fn of_user_data_dir(directory: &Path, host: &HostName) -> Self {
        Self {
            family: Family::Chromium,
            manifest: directory.join("NativeMessagingHosts").join(host.manifest_file()),
            browsers: vec![directory.components().collect::<PathBuf>().display().to_string()],
            title: "user data directory".to_owned(),
            is_found: true,
        }
    }
}

impl Context {
    /// Where the program is copied to.
    #[must_use]
    pub fn stable_program(&self) -> PathBuf {
        self.binary_dir.join(self.platform.program(PROGRAM))
    }

    /// Checks what manifests and the receipt will have to name.
    fn check<'a>(&'a self, others: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), InstallError> {
        let own = [&self.current_exe, &self.binary_dir, &self.config_file, &self.receipt];
        own.into_iter().chain(&self.name_file).chain(others).try_for_each(|path| {
            if path.is_relative() {
                Err(InstallError::RelativePath { path: path.clone() })
            } else if path.to_str().is_none() {
                Err(InstallError::NotUnicode { path: path.clone() })
            } else {
                Ok(())
            }
        })
    }

    /// The rows for this system and `scope`.
    fn rows(&self, scope: Scope) -> impl Iterator<Item = &'static Row> {
        let platform = self.platform;
        self.browsers.iter().filter(move |row| row.platform == platform && row.scope == scope)
    }

    /// The names of the browsers that have rows.
    fn known(&self, scope: Scope) -> String {
        let mut names: Vec<&str> = self.rows(scope).map(|row| row.name).collect();
        names.dedup();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// An error for the first name that no row has.
    fn check_names(&self, names: &[String], scope: Scope) -> Result<(), InstallError> {
        match names.iter().find(|name| !self.rows(scope).any(|row| is_named(row, name))) {
            Some(name) => Err(InstallError::UnknownBrowser { name: name.clone(), known: self.known(scope) }),
            None => Ok(()),
        }
    }

    /// The manifest files of `rows`; browsers that read the same one share a target.
    fn targets(&self, rows: Vec<&'static Row>, host: &HostName) -> Result<Vec<Target>, InstallError> {
        let mut targets: Vec<Target> = Vec::new();
        for row in rows {
            let directory = row.manifests.locate(&self.env, &self.root);
            let manifest = directory.ok_or(InstallError::NoHome { browser: row.title })?.join(host.manifest_file());
            if manifest.to_str().is_none() {
                return Err(InstallError::NotUnicode { path: manifest });
            }
            let is_found = row.is_found(&self.env, &self.root);
            match targets.iter_mut().find(|target| target.manifest == manifest) {
                Some(target) => {
                    if !target.browsers.iter().any(|name| name == row.name) {
                        target.browsers.push(row.name.to_owned());
                        target.title = format!("{}, {}", target.title, row.title);
                    }
                    target.is_found |= is_found;
                }
                None => targets.push(Target {
                    family: row.family,
                    manifest,
                    browsers: vec![row.name.to_owned()],
                    title: row.title.to_owned(),
                    is_found,
                }),
            }
        }
        Ok(targets)
    }

    /// The programs whose manifests are ours.
    fn own_programs(&self, receipt: &Receipt) -> Vec<PathBuf> {
        let mut programs = vec![self.stable_program(), self.current_exe.clone()];
        programs.extend(receipt.programs.iter().chain(&receipt.files).cloned());
        programs
    }

    /// The configuration file itself, if its path is a link to it.
    fn real_config_file(&self) -> PathBuf {
        self.config_file.canonicalize().unwrap_or_else(|_| self.config_file.clone())
    }
}

fn is_named(row: &Row, name: &str) -> bool {
    row.name.eq_ignore_ascii_case(name)
}

/// Whether a manifest starts one of our programs.
fn is_ours(existing: &Existing, programs: &[PathBuf]) -> bool {
    existing.program.as_ref().is_some_and(|path| programs.iter().any(|program| disk::is_same_file(path, program)))
}

/// Whose a foreign manifest is, for people. Its words are not ours, so whatever is in them is made visible.
fn owner(existing: &Existing) -> String {
    let Some(program) = &existing.program else {
        return "the file that is there is no manifest".to_owned();
    };
    let program = program.to_string_lossy();
    let description = existing.description.as_deref().map(|text| format!(" ({})", text.escape_debug()));
    format!("the manifest that is there starts {}{}", program.escape_debug(), description.unwrap_or_default())
}

/// Decides what [`apply`] has to do for `request`.
///
/// # Errors
/// If the request cannot be met for any browser, or if the configuration or the receipt is not in order: then nothing
/// is done at all.
pub fn plan(request: &Request, context: &Context) -> Result<Plan, InstallError> {
    context.check(&request.user_data_dirs)?;
    context.check_names(&request.browsers, request.scope)?;
    let receipt = Receipt::read(&context.receipt)?;

    let found_ones = request.browsers.is_empty() && request.user_data_dirs.is_empty();
    let is_wanted = |row: &&'static Row| {
        if found_ones {
            row.is_found(&context.env, &context.root)
        } else {
            request.browsers.iter().any(|name| is_named(row, name))
        }
    };
    let rows = context.rows(request.scope).filter(is_wanted).collect();
    let mut targets = context.targets(rows, &request.host_name)?;
    let of_directory = |directory: &PathBuf| Target::of_user_data_dir(directory, &request.host_name);
    targets.extend(request.user_data_dirs.iter().map(of_directory));
    if targets.is_empty() {
        return Err(InstallError::NoBrowser { known: context.known(request.scope) });
    }

    let program = if request.in_place { context.current_exe.clone() } else { context.stable_program() };
    let own_programs = context.own_programs(&receipt);
    let manifests: Vec<Step> =
        targets.iter().map(|target| plan_manifest(target, request, &program, &own_programs)).collect();

    let mut steps = Vec::new();
    if manifests.iter().any(|step| step.outcome.is_in_place()) {
        steps.push(plan_program(request.in_place, context));
        steps.extend(context.name_file.as_deref().map(|path| plan_name_file(path, &request.host_name)));
    }
    steps.extend(manifests);
    steps.extend(plan_rules(request, context)?);
    let mut plan = Plan::new(Command::Install, request.dry_run, request.scope, steps, receipt, context);
    plan.save_receipt();
    Ok(plan)
}

/// The copy of the program in its stable place.
fn plan_program(in_place: bool, context: &Context) -> Step {
    let step = Step::new(Kind::Program, "program");
    if in_place {
        let path = context.current_exe.clone();
        return step.at(&path).because("used where it is").records(Record::Program(path));
    }
    let path = context.stable_program();
    let step = step.at(&path).records(Record::File(path.clone()));
    let is_current = disk::is_same_file(&context.current_exe, &path)
        || (disk::is_same_content(&context.current_exe, &path) && has_mode(&path, disk::EXECUTABLE));
    if is_current { step } else { step.puts(Change::Copy { from: context.current_exe.clone() }) }
}

/// The file from which a host under another name learns its name.
fn plan_name_file(path: &Path, host: &HostName) -> Step {
    let step = Step::new(Kind::Program, "host name").at(path).records(Record::File(path.to_owned()));
    let contents = format!("{host}\n");
    if fs::read(path).is_ok_and(|found| found == contents.as_bytes()) {
        step
    } else {
        step.puts(Change::Write { contents, mode: disk::READABLE })
    }
}

/// The manifest of one target.
fn plan_manifest(target: &Target, request: &Request, program: &Path, own_programs: &[PathBuf]) -> Step {
    let step = Step::new(Kind::Manifest, &target.title).at(&target.manifest);
    let found = match disk::read(&target.manifest) {
        Ok(found) => found,
        Err(error) => return step.fails(&error),
    };
    let existing = found.as_deref().map(Existing::parse).unwrap_or_default();
    let is_foreign = found.is_some() && !is_ours(&existing, own_programs);
    if is_foreign && !request.force {
        return step
            .ends(Outcome::Refused, &owner(&existing))
            .advises("replace it with --force, or install under another name with --name");
    }

    let mut extensions = if is_foreign { Vec::new() } else { existing.extensions };
    extensions.extend(request.extensions.iter().cloned());
    let mut allowed: Vec<ExtensionId> = Vec::new();
    for extension in extensions {
        if extension.family() == target.family && !allowed.contains(&extension) {
            allowed.push(extension);
        }
    }
    if allowed.is_empty() {
        let was_named = !request.browsers.is_empty() || !request.user_data_dirs.is_empty();
        let (what, form) = match target.family {
            Family::Chromium => ("no Chromium extension id was given", "32 letters from a to p"),
            Family::Firefox => ("no Firefox add-on id was given", "name@domain or {UUID}"),
        };
        return step
            .ends(if was_named { Outcome::Refused } else { Outcome::Skipped }, what)
            .advises(&format!("add --extension ID, with an id of the form {form}"));
    }

    let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    let absent = if target.is_found { "" } else { "; the browser was not found, the manifest waits for it" };
    let step = step
        .because(&format!("lets in {}{absent}", names.join(", ")))
        .records(Record::Manifest(Entry { path: target.manifest.clone(), browsers: target.browsers.clone() }));
    let path = program.to_string_lossy();
    let contents = manifest::render(target.family, &request.host_name, &path, &allowed);
    let is_current = found.is_some_and(|found| found == contents.as_bytes());
    if is_current && has_mode(&target.manifest, disk::READABLE) {
        step
    } else {
        step.puts(Change::Write { contents, mode: disk::READABLE })
    }
}

/// The rules that let the extensions reach the server, all in one edit.
fn plan_rules(request: &Request, context: &Context) -> Result<Vec<Step>, InstallError> {
    let Some(url) = &request.url else { return Ok(Vec::new()) };
    let path = context.real_config_file();
    let step = || Step::new(Kind::Rule, "allow rule").at(&path);
    let Need::Pattern { pattern, insecure } = Need::of(url)? else {
        return Ok(vec![step().because("a server on this machine needs no rule")]);
    };
    if request.extensions.is_empty() {
        return Err(InstallError::UrlWithoutExtension);
    }
    let found = disk::read(&path)?;
    let mut allowed = parse_config(&path, found.as_deref().unwrap_or_default())?;

    let mut steps = Vec::new();
    let mut added = Vec::new();
    let mut origins = Vec::new();
    for extension in &request.extensions {
        let origin = extension.origin();
        let needs_insecure = insecure && !allowed.allows_insecure(&origin);
        let rule = Rule { origin, pattern: pattern.clone(), insecure: needs_insecure };
        if needs_insecure && !request.allow_insecure {
            let refused = step()
                .ends(
                    Outcome::Refused,
                    &format!("{pattern} is not encrypted: anybody on the way can read and change it"),
                )
                .advises(&format!("if that is acceptable, add to {}:\n{rule}", path.display()));
            steps.push(refused);
            continue;
        }
        origins.push(rule.origin.clone());
        if rule.insecure || !allowed.contains(&rule) {
            allowed.add(&rule);
            added.push(rule);
        }
    }
    if !origins.is_empty() {
        let step = step().because(&format!("{pattern} for {}", origins.join(", ")));
        steps.push(if added.is_empty() {
            step
        } else {
            let contents = allowed.to_string();
            let edited = parse_config(&path, contents.as_bytes())?;
            if !added.iter().all(|rule| edited.contains(rule)) {
                return Err(InstallError::ConfigShape { path });
            }
            let mode = disk::mode(&path).unwrap_or(disk::PRIVATE);
            step.puts(Change::Write { contents, mode }).records(Record::Rules(added))
        });
    }
    Ok(steps)
}

fn parse_config(path: &Path, bytes: &[u8]) -> Result<Allowed, InstallError> {
    Allowed::parse(bytes).map_err(|invalid| InstallError::Config {
        path: path.to_owned(),
        line: invalid.line,
        problem: invalid.problem,
    })
}

/// Whether the permissions of `path` are these; where the system has none, they are.
fn has_mode(path: &Path, mode: u32) -> bool {
    disk::mode(path).is_none_or(|found| found == mode)
}
