//! Making this host known to the browsers of a machine, and undoing it.
//!
//! A request and the machine's description become a plan ([`plan`], [`plan_removal`]: they only look), the plan is
//! carried out ([`apply`]), and what was done comes back as a [`Report`] for people or as JSON. Every browser stands
//! for itself: one that cannot be served does not stop the others.
//!
//! Owns: the decision what is written where, and whose a file is. Does not own: where browsers look (`browsers`),
//! what a manifest says (`manifest`), how the configuration is edited (`allow`), what was written before
//! (`receipt`), how a file is replaced (`disk`), what is in the registry (`registry`), nor the daemon, the credentials and the printing: those are the
//! command line's.
//!
//! A manifest is ours if it starts the stable copy of the program, the running program, or one that the receipt
//! names. Any other is foreign and is left alone unless the request says otherwise.

pub mod allow;
pub mod browsers;
mod disk;
mod manifest;
mod receipt;
pub mod registry;
mod steps;
mod uninstall;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use url::Url;

use crate::config::{Env, HostName};
use crate::os;
use allow::{Allowed, Need, Rule};
use browsers::{Browser, Family, Key, Launch, Location, Place, Platform, Row, Sandbox, Scope, descend};
use manifest::Existing;
pub use manifest::ExtensionId;
use receipt::{Entry, Grant, Receipt, Record};
use registry::Registry;
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
    /// The browsers that are known: [`Platform::browsers`].
    pub browsers: &'static [Browser],
    /// The running program.
    pub current_exe: PathBuf,
    /// The stable place for the program.
    pub binary_dir: PathBuf,
    /// Where manifests are to which registry keys lead.
    pub manifest_dir: PathBuf,
    /// Those keys.
    pub registry: Arc<dyn Registry>,
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
    /// It is not where a browser would look.
    #[error("no browser looks for manifests in {}: here they ask the registry", path.display())]
    DirectoryWithoutManifests {
        /// The user data directory.
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
    /// A registry key cannot be read or changed.
    #[error("cannot read or change {key}")]
    Registry {
        /// The key.
        key: Key,
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
            Self::DirectoryWithoutManifests { .. } => "name the browser with --browser".to_owned(),
            Self::Registry { key, source } if source.kind() == io::ErrorKind::PermissionDenied => {
                format!("give yourself access to {key}, or run this as an administrator, and try again")
            }
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
                _ if os::is_in_use(source) => {
                    format!(
                        "end what has {} open or runs it, or give yourself access to it, and try again",
                        path.display()
                    )
                }
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

/// Where the program runs, with its own configuration and data: for the user, or in a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Home {
    /// The copy of the program.
    program: PathBuf,
    /// Beside it, if the host has another name.
    name_file: Option<PathBuf>,
    config_file: PathBuf,
    purge: Vec<PathBuf>,
    sandbox: Option<Sandbox>,
    /// What is the sandbox's own.
    root: Option<PathBuf>,
}

impl Home {
    /// Whether `path`, which is in this sandbox, is elsewhere in truth. The browser inside can make links as it likes.
    fn leads_out(&self, path: &Path) -> bool {
        let Some(root) = self.root.as_ref().filter(|root| path.starts_with(root)) else { return false };
        let real = path.ancestors().find_map(|above| above.canonicalize().ok());
        root.canonicalize().is_ok_and(|root| real.is_some_and(|real| !real.starts_with(root)))
    }

    /// The directories above what the program will write that are not there yet.
    fn missing_directories(&self) -> impl Iterator<Item = Location> {
        let above = self.purge.iter().flat_map(|path| path.ancestors().skip(1));
        above.filter(|directory| !is_there(directory)).map(Location::from)
    }
}

/// One location where browsers look, and those that do.
#[derive(Debug, Clone)]
struct Target {
    family: Family,
    location: Location,
    /// The location, or the file to which it leads.
    manifest: PathBuf,
    /// Their names, for the receipt.
    browsers: Vec<String>,
    /// Their names, for people.
    titles: Vec<String>,
    /// Whether one of them seems to be on the machine.
    is_found: bool,
    home: Home,
    /// What else the user has to do.
    advice: Option<String>,
}

impl Target {
    fn title(&self) -> String {
        self.titles.join(", ")
    }

    /// Adds the browsers of another target.
    fn join(&mut self, other: &Self) {
        for (name, title) in other.browsers.iter().zip(&other.titles) {
            if !self.browsers.contains(name) {
                self.browsers.push(name.clone());
                self.titles.push(title.clone());
            }
        }
        self.is_found |= other.is_found;
        self.advice = self.advice.take().or_else(|| other.advice.clone());
    }
}

impl Context {
    /// Where the program is copied to.
    #[must_use]
    pub fn stable_program(&self) -> PathBuf {
        descend(&self.binary_dir, &self.platform.program(PROGRAM))
    }

    /// Where the manifest is to which registry keys lead: one for each family.
    #[must_use]
    pub fn keyed_manifest(&self, family: Family, host: &HostName) -> PathBuf {
        let family = match family {
            Family::Chromium => "chromium",
            Family::Firefox => "firefox",
        };
        descend(&self.manifest_dir, &format!("{family}/{}", host.manifest_file()))
    }

    /// The user's own home, or the machine's.
    fn own_home(&self) -> Home {
        let (program, config_file) = (self.stable_program(), self.real_config_file());
        Home {
            program,
            name_file: self.name_file.clone(),
            config_file,
            purge: self.purge.clone(),
            sandbox: None,
            root: None,
        }
    }

    /// Where the program runs for `browser`; `None` if the environment does not say.
    fn home_of(&self, browser: &Browser, host: &HostName) -> Option<Home> {
        let Some(Sandbox { launch: Launch::Inside { root, data, config, state }, .. }) = browser.sandbox else {
            return Some(self.own_home());
        };
        let locate = |place: Place| place.locate(self.platform, &self.env, &self.root);
        let directory = |place| Some(descend(&locate(place)?, &host.directory()));
        let (data, config, state) = (directory(data)?, directory(config)?, directory(state)?);
        let binary_dir = descend(&data, "bin");
        let program = descend(&binary_dir, &self.platform.program(PROGRAM));
        let name_file = (!host.is_usual()).then(|| HostName::file_in(&binary_dir));
        let config_file = descend(&config, "config.toml");
        let mut purge = vec![data, config, state];
        purge.dedup();
        Some(Home { program, name_file, config_file, purge, sandbox: browser.sandbox, root: Some(locate(root)?) })
    }

    /// The user's own home and those in sandboxes; or the machine's, which has none there.
    fn homes(&self, scope: Scope, host: &HostName) -> Vec<Home> {
        let mut homes = vec![self.own_home()];
        for home in self.browsers(scope).filter_map(|browser| self.home_of(browser, host)) {
            if !homes.contains(&home) {
                homes.push(home);
            }
        }
        homes
    }

    /// The home of browsers of the receipt, which share a manifest.
    fn home_of_names(&self, names: &[String], host: &HostName) -> Home {
        let known = self.browsers.iter().find(|browser| names.iter().any(|name| browser.name == name));
        known.and_then(|browser| self.home_of(browser, host)).unwrap_or_else(|| self.own_home())
    }

    /// The target of a Chromium that runs with its own user data directory.
    fn target_of_directory(&self, directory: &Path, host: &HostName) -> Target {
        let manifest = descend(directory, &format!("NativeMessagingHosts/{}", host.manifest_file()));
        Target {
            family: Family::Chromium,
            location: Location::File(manifest.clone()),
            manifest,
            browsers: vec![directory.components().collect::<PathBuf>().display().to_string()],
            titles: vec!["user data directory".to_owned()],
            is_found: true,
            home: self.own_home(),
            advice: None,
        }
    }

    /// Checks what manifests and the receipt will have to name.
    fn check<'a>(&'a self, others: impl IntoIterator<Item = &'a PathBuf>) -> Result<(), InstallError> {
        let own = [&self.current_exe, &self.binary_dir, &self.manifest_dir, &self.config_file, &self.receipt];
        own.into_iter().chain(&self.name_file).chain(others).try_for_each(|path| {
            if path.is_relative() && !self.platform.is_absolute(path.as_os_str()) {
                Err(InstallError::RelativePath { path: path.clone() })
            } else if path.to_str().is_none() {
                Err(InstallError::NotUnicode { path: path.clone() })
            } else {
                Ok(())
            }
        })
    }

    /// A user data directory says nothing where browsers look into the registry.
    fn check_directories(&self, directories: &[PathBuf]) -> Result<(), InstallError> {
        match directories.first() {
            Some(path) if self.platform == Platform::Windows => {
                Err(InstallError::DirectoryWithoutManifests { path: path.clone() })
            }
            _ => self.check(directories),
        }
    }

    /// The browsers that have rows for `scope`.
    fn browsers(&self, scope: Scope) -> impl Iterator<Item = &'static Browser> {
        self.browsers.iter().filter(move |browser| browser.rows.iter().any(|row| row.scope == scope))
    }

    /// Their names.
    fn known(&self, scope: Scope) -> String {
        let names: Vec<&str> = self.browsers(scope).map(|browser| browser.name).collect();
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    }

    /// The names for people of browsers of the receipt; a user data directory is its own.
    fn titles(&self, names: &[String]) -> String {
        let known = |name: &str| self.browsers.iter().find(|browser| browser.name == name);
        names
            .iter()
            .map(|name| known(name).map_or(name.as_str(), |browser| browser.title))
            .collect::<Vec<_>>()
            .join(", ")
    }

    /// An error for the first name that no browser has.
    fn check_names(&self, names: &[String], scope: Scope) -> Result<(), InstallError> {
        match names.iter().find(|name| !self.browsers(scope).any(|browser| is_named(browser, name))) {
            Some(name) => Err(InstallError::UnknownBrowser { name: name.clone(), known: self.known(scope) }),
            None => Ok(()),
        }
    }

    /// Where `browsers` get their manifests; those that look at the same location share a target.
    fn targets(
        &self,
        browsers: Vec<&'static Browser>,
        scope: Scope,
        host: &HostName,
    ) -> Result<Vec<Target>, InstallError> {
        let mut targets: Vec<Target> = Vec::new();
        for browser in browsers {
            for row in browser.rows.iter().filter(|row| row.is_written && row.scope == scope) {
                let target = self.target(browser, row, host)?;
                match targets.iter_mut().find(|known| known.location == target.location) {
                    Some(known) => known.join(&target),
                    None => targets.push(target),
                }
            }
        }
        Ok(targets)
    }

    fn target(&self, browser: &Browser, row: &Row, host: &HostName) -> Result<Target, InstallError> {
        let no_home = || InstallError::NoHome { browser: browser.title };
        let location = row.locate(self.platform, &self.env, &self.root, host).ok_or_else(no_home)?;
        let manifest = match &location {
            Location::File(path) => path.clone(),
            Location::Key(_) => self.keyed_manifest(browser.family, host),
        };
        if manifest.to_str().is_none() {
            return Err(InstallError::NotUnicode { path: manifest });
        }
        Ok(Target {
            family: browser.family,
            location,
            manifest,
            browsers: vec![browser.name.to_owned()],
            titles: vec![browser.title.to_owned()],
            is_found: browser.is_found(&self.env, &self.root),
            home: self.home_of(browser, host).ok_or_else(no_home)?,
            advice: browser.sandbox.and_then(|sandbox| sandbox.advice(host)),
        })
    }

    /// The programs whose manifests are ours.
    fn own_programs(&self, receipt: &Receipt, host: &HostName) -> Vec<PathBuf> {
        let mut programs: Vec<PathBuf> = self.homes(Scope::User, host).into_iter().map(|home| home.program).collect();
        programs.push(self.current_exe.clone());
        programs.extend(receipt.programs.iter().chain(&receipt.files).cloned());
        programs
    }

    /// The configuration file itself, if its path is a link to it.
    fn real_config_file(&self) -> PathBuf {
        self.config_file.canonicalize().unwrap_or_else(|_| self.config_file.clone())
    }
}

/// What installations have left on this machine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Installed {
    /// The manifests that were written, and the keys that lead to them.
    pub manifests: Vec<Location>,
    /// The programs whose manifests are ours: those that are there and those that should be.
    pub programs: Vec<PathBuf>,
}

/// What installations of this host have left on this machine, by the receipt.
///
/// # Errors
/// If the receipt is not in order.
pub fn installed(context: &Context, host: &HostName) -> Result<Installed, InstallError> {
    let receipt = Receipt::read(&context.receipt)?;
    let programs = context.own_programs(&receipt, host);
    Ok(Installed { manifests: receipt.manifests.into_iter().map(|entry| entry.location).collect(), programs })
}

impl Sandbox {
    /// What the user has to do.
    fn advice(&self, host: &HostName) -> Option<String> {
        let Self { kind, id, .. } = self;
        (self.launch == Launch::Portal).then(|| {
            format!(
                "{kind} asks once whether the extension may start the host; to answer beforehand: flatpak permission-set \
                 webextensions {host} {id} yes"
            )
        })
    }
}

fn is_named(browser: &Browser, name: &str) -> bool {
    browser.name.eq_ignore_ascii_case(name)
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

/// Whose the manifest is to which a key leads.
fn owner_of_key(value: &str) -> String {
    let whose = match disk::read(Path::new(value)) {
        Ok(Some(found)) => owner(&Existing::parse(&found)),
        Ok(None) => "which is not there".to_owned(),
        Err(error) => error.to_string(),
    };
    format!("the key that is there names {}: {whose}", value.escape_debug())
}

/// What a key names, and whether that is one of `manifests` or another of ours; `None` if the key names nothing.
fn read_key(
    key: &Key,
    manifests: &[PathBuf],
    own_programs: &[PathBuf],
    context: &Context,
) -> Result<Option<(String, bool)>, InstallError> {
    let value = context.registry.value(key).map_err(|source| InstallError::Registry { key: key.clone(), source })?;
    Ok(value.map(|value| {
        let leads_to_ours = || {
            let found = disk::read(Path::new(&value)).ok().flatten();
            found.is_some_and(|found| is_ours(&Existing::parse(&found), own_programs))
        };
        let is_ours = manifests.iter().any(|manifest| Path::new(&value) == manifest) || leads_to_ours();
        (value, is_ours)
    }))
}

/// Decides what [`apply`] has to do for `request`.
///
/// # Errors
/// If the request cannot be met for any browser, or if the configuration or the receipt is not in order: then nothing
/// is done at all.
pub fn plan(request: &Request, context: &Context) -> Result<Plan, InstallError> {
    context.check(&[])?;
    context.check_directories(&request.user_data_dirs)?;
    context.check_names(&request.browsers, request.scope)?;
    let mut receipt = Receipt::read(&context.receipt)?;

    let found_ones = request.browsers.is_empty() && request.user_data_dirs.is_empty();
    let is_wanted = |browser: &&'static Browser| {
        if found_ones {
            browser.is_found(&context.env, &context.root)
        } else {
            request.browsers.iter().any(|name| is_named(browser, name))
        }
    };
    let browsers = context.browsers(request.scope).filter(is_wanted).collect();
    let mut targets = context.targets(browsers, request.scope, &request.host_name)?;
    let of_directory = |directory: &PathBuf| context.target_of_directory(directory, &request.host_name);
    targets.extend(request.user_data_dirs.iter().map(of_directory));
    if targets.is_empty() {
        return Err(InstallError::NoBrowser { known: context.known(request.scope) });
    }

    let own_programs = context.own_programs(&receipt, &request.host_name);
    let mut homes: Vec<(Home, bool)> = Vec::new();
    let mut manifests = Vec::new();
    for target in of_files(&targets) {
        let steps = plan_manifest(&target, &targets, request, &own_programs, context);
        let is_used = steps.iter().any(|step| step.outcome.is_in_place());
        manifests.extend(steps);
        match homes.iter_mut().find(|(home, _)| *home == target.home) {
            Some((_, known)) => *known |= is_used,
            None => homes.push((target.home, is_used)),
        }
    }

    let mut steps = Vec::new();
    for (home, _) in homes.iter().filter(|(_, is_used)| *is_used) {
        // The daemon will make these, and nobody would know that they were not there before.
        home.missing_directories().for_each(|directory| receipt.enter(Record::Directory(directory)));
        steps.push(plan_program(home, request.in_place, context));
        steps.extend(home.name_file.as_deref().map(|path| plan_name_file(path, &request.host_name)));
    }
    steps.extend(manifests);
    for (home, _) in homes.iter().filter(|(home, is_used)| *is_used || home.sandbox.is_none()) {
        steps.extend(plan_rules(request, home)?);
    }
    let homes = context.homes(request.scope, &request.host_name);
    let steps = steps.into_iter().map(|step| confine(step, &homes)).collect();
    let mut plan = Plan::new(Command::Install, request.dry_run, request.scope, steps, receipt, context);
    plan.save_receipt();
    Ok(plan)
}

/// The same step, unless it would change something outside of the sandbox that it is for.
fn confine(step: Step, homes: &[Home]) -> Step {
    let leads_out = |path: &Path| homes.iter().any(|home| home.leads_out(path));
    if step.change.is_none() || !step.location.file().is_some_and(leads_out) {
        return step;
    }
    step.refused("a link there leads out of the sandbox", "find out who made the link, and remove it")
}

/// The same targets, but one for each file: those whose keys lead to one file are one.
fn of_files(targets: &[Target]) -> Vec<Target> {
    let mut files: Vec<Target> = Vec::new();
    for target in targets {
        match files.iter_mut().find(|known| known.manifest == target.manifest) {
            Some(known) => known.join(target),
            None => files.push(target.clone()),
        }
    }
    files
}

/// The copy of the program in its stable place.
fn plan_program(home: &Home, in_place: bool, context: &Context) -> Step {
    if in_place && home.sandbox.is_none() {
        let path = context.current_exe.clone();
        return Step::new(Kind::Program, "program", &path).because("used where it is").records(Record::Program(path));
    }
    let path = &home.program;
    let step = Step::new(Kind::Program, "program", path).records(Record::File(path.clone()));
    let is_current = disk::is_same_file(&context.current_exe, path)
        || (disk::is_same_content(&context.current_exe, path) && has_mode(path, disk::EXECUTABLE));
    if is_current { step } else { step.puts(Change::Copy { from: context.current_exe.clone() }, is_there(path)) }
}

/// The file from which a host under another name learns its name.
fn plan_name_file(path: &Path, host: &HostName) -> Step {
    let step = Step::new(Kind::Program, "host name", path).records(Record::File(path.to_owned()));
    let contents = format!("{host}\n");
    if fs::read(path).is_ok_and(|found| found == contents.as_bytes()) {
        step
    } else {
        step.puts(Change::Write { contents, mode: disk::READABLE }, is_there(path))
    }
}

/// The manifest of one file's target, and the keys that lead to it. Without a key the file is no use.
fn plan_manifest(
    target: &Target,
    targets: &[Target],
    request: &Request,
    own_programs: &[PathBuf],
    context: &Context,
) -> Vec<Step> {
    let file = plan_file(target, request, own_programs, context);
    if !file.outcome.is_in_place() {
        return vec![file];
    }
    let mut keys: Vec<Step> = Vec::new();
    for target in targets.iter().filter(|known| known.manifest == target.manifest) {
        match &target.location {
            Location::File(_) => return vec![file.where_browsers_look()],
            Location::Key(key) => keys.push(plan_key(target, key, request.force, own_programs, context)),
        }
    }
    let is_used = keys.iter().any(|step| step.outcome.is_in_place());
    is_used.then_some(file).into_iter().chain(keys).collect()
}

/// A manifest file.
fn plan_file(target: &Target, request: &Request, own_programs: &[PathBuf], context: &Context) -> Step {
    let path = &target.manifest;
    let step = Step::new(Kind::Manifest, &target.title(), path).serves(&target.browsers);
    let found = match disk::read(path) {
        Ok(found) => found,
        Err(error) => return step.fails(&error),
    };
    let existing = found.as_deref().map(Existing::parse).unwrap_or_default();
    let is_foreign = found.is_some() && !is_ours(&existing, own_programs);
    if is_foreign && !request.force {
        return step.ends(Outcome::Refused, &owner(&existing)).advises(FOREIGN);
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

    let in_place = request.in_place && target.home.sandbox.is_none();
    let program = if in_place { &context.current_exe } else { &target.home.program };
    let names: Vec<String> = allowed.iter().map(ToString::to_string).collect();
    let inside = match target.home.sandbox {
        Some(_) => {
            "; the host runs inside the sandbox, with its own configuration and messages, and no longer than the browser"
        }
        None => "",
    };
    let absent = if target.is_found { "" } else { "; the browser was not found, the manifest waits for it" };
    let mut step = step
        .because(&format!("lets in {}{inside}{absent}", names.join(", ")))
        .awaits(vec![program.into()], "the program could not be put in its place");
    step = match &target.location {
        Location::File(_) => step
            .records(Record::Manifest(Entry { location: target.location.clone(), browsers: target.browsers.clone() })),
        Location::Key(_) => step,
    };
    if let Some(advice) = &target.advice {
        step = step.advises(advice);
    }
    let contents = manifest::render(target.family, &request.host_name, &program.to_string_lossy(), &allowed);
    let is_current = found.as_deref().is_some_and(|found| found == contents.as_bytes());
    if is_current && has_mode(path, disk::READABLE) {
        step
    } else {
        step.puts(Change::Write { contents, mode: disk::READABLE }, found.is_some())
    }
}

const FOREIGN: &str = "replace it with --force, or install under another name with --name";

/// A registry key that leads to a manifest.
fn plan_key(target: &Target, key: &Key, force: bool, own_programs: &[PathBuf], context: &Context) -> Step {
    let Target { manifest, location, browsers, .. } = target;
    let step = Step::new(Kind::Key, &target.title(), location).serves(browsers).where_browsers_look();
    let found = match read_key(key, std::slice::from_ref(manifest), own_programs, context) {
        Ok(found) => found,
        Err(error) => return step.fails(&error),
    };
    let value = manifest.display().to_string();
    let step = step.because(&format!("leads to {value}"));
    let entry = Record::Manifest(Entry { location: location.clone(), browsers: browsers.clone() });
    match found {
        Some((found, true)) if found == value => step.records(entry),
        Some((found, false)) if !force => step.ends(Outcome::Refused, &owner_of_key(&found)).advises(FOREIGN),
        found => step
            .records(entry)
            .awaits(vec![manifest.into()], "the manifest could not be put in its place")
            .puts(Change::Set { value }, found.is_some()),
    }
}

/// Whether something is at `path`.
fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// The rules that let the extensions reach the server, all in one edit.
fn plan_rules(request: &Request, home: &Home) -> Result<Vec<Step>, InstallError> {
    let Some(url) = &request.url else { return Ok(Vec::new()) };
    let path = home.config_file.clone();
    let step = || Step::new(Kind::Rule, "allow rule", &path);
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
            // The machine's file is for everybody to read.
            let new = if request.scope == Scope::User { disk::PRIVATE } else { disk::READABLE };
            let mode = disk::mode(&path).unwrap_or(new);
            let grants = added.into_iter().map(|rule| Grant { file: path.clone(), rule }).collect();
            step.puts(Change::Write { contents, mode }, found.is_some()).records(Record::Grants(grants))
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
