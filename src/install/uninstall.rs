//! The plan that undoes an install.
//!
//! Owns: what is removed, what stays because somebody still uses it, and the order. Does not own: carrying it out
//! (`steps`), nor stopping the daemon and deleting credentials, which the command line does.
//!
//! The receipt says what install wrote. Without it, manifests of ours are still found in the places that browsers
//! read, and the program in its stable place. What is not ours (any more) is left alone.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::browsers::{Family, Key, Location, Scope};
use super::manifest::{self, Existing, ExtensionId};
use super::receipt::{Entry, Grant, Receipt, Record};
use super::steps::{Change, Command, Kind, Outcome, Plan, Step};
use super::{
    Context, Home, InstallError, Target, confine, disk, is_ours, is_there, owner, owner_of_key, parse_config, read_key,
};
use crate::config::HostName;

/// What to remove.
#[derive(Debug, Clone, Default)]
pub struct Removal {
    /// Names of browsers. If neither these nor `user_data_dirs` are given, all of them.
    pub browsers: Vec<String>,
    /// User data directories of Chromium.
    pub user_data_dirs: Vec<PathBuf>,
    /// Who may no longer start the host; if none are given, nobody may.
    pub extensions: Vec<ExtensionId>,
    /// The name of the host.
    pub host_name: HostName,
    /// For whom.
    pub scope: Scope,
    /// Whether the user's data goes too, if nothing of ours remains.
    pub purge: bool,
    /// Whether the plan is only shown.
    pub dry_run: bool,
}

/// A manifest that an install may have written, or a key that leads to one.
struct Candidate {
    location: Location,
    title: String,
    home: Home,
    /// Which of its browsers are to be served no more; none if it is not meant.
    leaving: Vec<String>,
    /// Whether the user named it.
    is_named: bool,
}

/// A manifest that will still be there, or a key.
struct Staying {
    home: Home,
    title: String,
    origins: Vec<String>,
}

/// What becomes of all candidates.
#[derive(Default)]
struct Outlook {
    staying: Vec<Staying>,
    /// Keys that go, by the manifest to which they lead.
    leaving_keys: Vec<(PathBuf, Location)>,
    /// Manifests to which keys will still lead, and whether those keys were meant.
    led_to: Vec<(PathBuf, bool)>,
}

impl Outlook {
    fn stays(&mut self, candidate: &Candidate, extensions: &[ExtensionId]) {
        self.staying.push(Staying {
            home: candidate.home.clone(),
            title: candidate.title.clone(),
            origins: extensions.iter().map(ExtensionId::origin).collect(),
        });
    }

    /// Those that keep `home` in use.
    fn users<'a>(&'a self, home: &'a Home) -> impl Iterator<Item = &'a Staying> {
        self.staying.iter().filter(move |staying| staying.home == *home)
    }

    fn is_used(&self, home: &Home) -> bool {
        self.users(home).next().is_some()
    }
}

/// Decides what [`apply`](super::apply) has to do for `removal`.
///
/// # Errors
/// If a browser is unknown or the receipt is not in order: then nothing is done at all.
pub fn plan_removal(removal: &Removal, context: &Context) -> Result<Plan, InstallError> {
    context.check(&[])?;
    context.check_directories(&removal.user_data_dirs)?;
    context.check_names(&removal.browsers, removal.scope)?;
    let mut receipt = Receipt::read(&context.receipt)?;
    let own_programs = context.own_programs(&receipt, &removal.host_name);
    let homes = context.homes(removal.scope, &removal.host_name);

    let mut outlook = Outlook::default();
    let mut steps = Vec::new();
    for candidate in candidates(removal, context, &receipt)? {
        steps.extend(match &candidate.location {
            Location::File(path) => plan_manifest(&candidate, path, removal, &receipt, &own_programs, &mut outlook),
            Location::Key(key) => plan_key(&candidate, key, removal, context, &receipt, &own_programs, &mut outlook),
        });
    }
    for family in [Family::Chromium, Family::Firefox] {
        let path = context.keyed_manifest(family, &removal.host_name);
        steps.extend(plan_keyed_manifest(&path, family, removal, &own_programs, &outlook));
    }
    let manifests: Vec<Location> = steps.iter().map(|step| step.location.clone()).collect();
    for home in homes.iter().filter(|home| !outlook.is_used(home)) {
        let programs = plan_program(home, &homes, &receipt);
        let wait = |step: Step| step.awaits(manifests.clone(), "a manifest is left that may start it");
        steps.extend(programs.into_iter().map(wait));
        if removal.purge {
            // They go with the configuration.
            receipt.rules.retain(|grant| grant.file != home.config_file);
        }
    }
    steps.extend(plan_rules(&receipt, &homes, &outlook));

    let steps = steps.into_iter().map(|step| confine(step, &homes)).collect();
    let mut plan = Plan::new(Command::Uninstall, removal.dry_run, removal.scope, steps, receipt, context);
    // The receipt may lie in a directory that install made, or list one.
    let is_last = plan.expected_receipt().is_empty();
    if is_last {
        plan.save_receipt();
    }
    if removal.purge {
        let steps = homes.iter().flat_map(|home| plan_purge(home, &outlook));
        steps.for_each(|step| plan.push(confine(step, &homes)));
    }
    plan.remove_directories();
    if !is_last {
        plan.save_receipt();
    }
    Ok(plan)
}

/// All manifests and keys that may be ours, and which of them are meant.
fn candidates(removal: &Removal, context: &Context, receipt: &Receipt) -> Result<Vec<Candidate>, InstallError> {
    let host = &removal.host_name;
    let everything = removal.browsers.is_empty() && removal.user_data_dirs.is_empty();
    let leaves =
        |browser: &String| everything || removal.browsers.iter().any(|name| name.eq_ignore_ascii_case(browser));

    let mut candidates = Vec::new();
    let mut add = |location: Location, title: String, home: Home, browsers: &[String]| {
        let is_host = is_of_host(&location, host);
        let leaving: Vec<String> = browsers.iter().filter(|name| is_host && leaves(name)).cloned().collect();
        let is_named = !everything && !leaving.is_empty();
        candidates.push(Candidate { location, title, home, leaving, is_named });
    };
    let targets = context.targets(context.browsers(removal.scope).collect(), removal.scope, host)?;
    for entry in &receipt.manifests {
        if !targets.iter().any(|target| target.location == entry.location) {
            let home = context.home_of_names(&entry.browsers, host);
            add(entry.location.clone(), context.titles(&entry.browsers), home, &entry.browsers);
        }
    }
    for target in targets {
        // Of those that share the location, the ones for which it was written.
        let title =
            receipt.manifest(&target.location).map_or_else(|| target.title(), |entry| context.titles(&entry.browsers));
        add(target.location, title, target.home, &target.browsers);
    }
    for directory in &removal.user_data_dirs {
        let Target { location, titles, browsers, home, .. } = context.target_of_directory(directory, host);
        candidates.retain(|candidate| candidate.location != location);
        let title = titles.join(", ");
        candidates.push(Candidate { location, title, home, leaving: browsers, is_named: true });
    }
    Ok(candidates)
}

/// Whether `location` is where browsers look for a host of this name.
fn is_of_host(location: &Location, host: &HostName) -> bool {
    match location {
        Location::File(path) => path.file_name().is_some_and(|name| *name == *host.manifest_file()),
        Location::Key(key) => key.path.rsplit('\\').next() == Some(host.as_str()),
    }
}

impl Candidate {
    /// What was `read` at its location, with the step about it; or, if there is nothing to go on with, all that is to be said.
    /// It may be `known` to have been installed.
    fn look<T>(
        &self,
        read: Result<Option<T>, InstallError>,
        known: bool,
        step: Step,
    ) -> ControlFlow<Option<Step>, (T, Step)> {
        let is_meant = !self.leaving.is_empty();
        match read {
            Ok(Some(found)) => ControlFlow::Continue((found, step)),
            Ok(None) if is_meant && known => {
                ControlFlow::Break(Some(step.because("was gone already").records(Record::Gone(self.location.clone()))))
            }
            Ok(None) => ControlFlow::Break(self.is_named.then(|| step.because("there is none"))),
            Err(error) => ControlFlow::Break((is_meant && (self.is_named || known)).then(|| step.fails(&error))),
        }
    }
}

/// What happens to one manifest; `outlook` learns about it if it stays ours.
fn plan_manifest(
    candidate: &Candidate,
    path: &Path,
    removal: &Removal,
    receipt: &Receipt,
    own_programs: &[PathBuf],
    outlook: &mut Outlook,
) -> Option<Step> {
    let Candidate { location, title, leaving, .. } = candidate;
    let is_meant = !leaving.is_empty();
    let entry = receipt.manifest(location);
    let step = Step::new(Kind::Manifest, title, location).serves(leaving);
    let (found, step) = match candidate.look(disk::read(path), entry.is_some(), step) {
        ControlFlow::Continue(found) => found,
        ControlFlow::Break(said) => return said,
    };
    let existing = Existing::parse(&found);
    if !is_ours(&existing, own_programs) {
        let gone = Record::Gone(location.clone());
        return is_meant.then(|| step.ends(Outcome::Skipped, &owner(&existing)).records(gone));
    }
    let extensions = &existing.extensions;
    if !is_meant {
        outlook.stays(candidate, extensions);
        return None;
    }
    if let Some((used, record)) = still_used(candidate, entry) {
        outlook.stays(candidate, extensions);
        return Some(step.because(&used).records(record));
    }
    let kept = kept(extensions, removal);
    if kept.is_empty() {
        return Some(step.removes(Change::Remove));
    }
    outlook.stays(candidate, &kept);
    Some(without_others(step, &existing, &kept, removal))
}

/// Why others still need what `candidate` is, and what the receipt remembers then; `None` if nobody does.
fn still_used(candidate: &Candidate, entry: Option<&Entry>) -> Option<(String, Record)> {
    let staying = entry?.browsers.iter().filter(|browser| !candidate.leaving.contains(browser));
    let browsers: Vec<String> = staying.cloned().collect();
    let used = format!("still used by {}", browsers.join(", "));
    let location = candidate.location.clone();
    let is_used = !browsers.is_empty();
    is_used.then_some((used, Record::Shared(Entry { location, browsers })))
}

/// Who is still let in. If nobody was named, nobody is.
fn kept(extensions: &[ExtensionId], removal: &Removal) -> Vec<ExtensionId> {
    let is_kept = |extension: &&ExtensionId| !removal.extensions.is_empty() && !removal.extensions.contains(extension);
    extensions.iter().filter(is_kept).cloned().collect()
}

/// A manifest that lets in nobody but `kept`.
fn without_others(step: Step, existing: &Existing, kept: &[ExtensionId], removal: &Removal) -> Step {
    let (Some(first), Some(program)) = (kept.first(), &existing.program) else {
        return step.removes(Change::Remove);
    };
    if kept.len() == existing.extensions.len() {
        return step.because("lets none of them in");
    }
    let names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let contents = manifest::render(first.family(), &removal.host_name, &program.to_string_lossy(), kept);
    let step = step.because(&format!("still lets in {}", names.join(", ")));
    step.puts(Change::Write { contents, mode: disk::READABLE }, true)
}

/// What happens to one key.
fn plan_key(
    candidate: &Candidate,
    key: &Key,
    removal: &Removal,
    context: &Context,
    receipt: &Receipt,
    own_programs: &[PathBuf],
    outlook: &mut Outlook,
) -> Option<Step> {
    let Candidate { location, title, leaving, .. } = candidate;
    let is_meant = !leaving.is_empty();
    let entry = receipt.manifest(location);
    let step = Step::new(Kind::Key, title, location).serves(leaving);
    let keyed = [Family::Chromium, Family::Firefox].map(|family| context.keyed_manifest(family, &removal.host_name));
    let found = read_key(key, &keyed, own_programs, context);
    let ((value, is_ours), step) = match candidate.look(found, entry.is_some(), step) {
        ControlFlow::Continue(found) => found,
        ControlFlow::Break(said) => return said,
    };
    if !is_ours {
        let gone = Record::Gone(location.clone());
        return is_meant.then(|| step.ends(Outcome::Skipped, &owner_of_key(&value)).records(gone));
    }
    let manifest = PathBuf::from(&value);
    let existing = disk::read(&manifest).ok().flatten().map(|found| Existing::parse(&found)).unwrap_or_default();
    let used = still_used(candidate, entry).filter(|_| is_meant);
    let kept = kept(&existing.extensions, removal);
    if is_meant && used.is_none() && kept.is_empty() {
        outlook.leaving_keys.push((manifest, location.clone()));
        return Some(step.removes(Change::Remove));
    }
    let is_for_all = is_meant && used.is_none();
    outlook.stays(candidate, if is_for_all { &kept } else { &existing.extensions });
    outlook.led_to.push((manifest, is_for_all));
    used.map(|(used, record)| step.because(&used).records(record))
}

/// What happens to a manifest to which keys lead.
fn plan_keyed_manifest(
    path: &Path,
    family: Family,
    removal: &Removal,
    own_programs: &[PathBuf],
    outlook: &Outlook,
) -> Option<Step> {
    let subject = match family {
        Family::Chromium => "Chromium's family",
        Family::Firefox => "Firefox's family",
    };
    let step = Step::new(Kind::Manifest, subject, path);
    let existing = match disk::read(path) {
        Ok(found) => Existing::parse(&found?),
        Err(error) => return Some(step.fails(&error)),
    };
    if !is_ours(&existing, own_programs) {
        return None;
    }
    let mut staying = outlook.led_to.iter().filter(|(manifest, _)| manifest == path).peekable();
    if staying.peek().is_none() {
        let keys = outlook.leaving_keys.iter().filter(|(manifest, _)| manifest == path);
        let keys = keys.map(|(_, location)| location.clone()).collect();
        return Some(step.awaits(keys, "a registry key still leads to it").removes(Change::Remove));
    }
    if removal.extensions.iter().all(|extension| !existing.extensions.contains(extension)) {
        return None;
    }
    if staying.any(|(_, is_for_all)| !is_for_all) {
        let why = "is shared with browsers that were not named, and still lets them in";
        return Some(step.ends(Outcome::Skipped, why).advises("leave out --browser to shut them out everywhere"));
    }
    let kept = kept(&existing.extensions, removal);
    Some(without_others(step, &existing, &kept, removal))
}

/// The copy of the program and what lies beside it; a program that was used in place is not ours to remove.
fn plan_program(home: &Home, homes: &[Home], receipt: &Receipt) -> Vec<Step> {
    let mut files = Vec::new();
    let mut in_place: &[PathBuf] = &[];
    if home.sandbox.is_none() {
        let belongs = |path: &PathBuf, home: &Home| home.program == *path || home.name_file.as_ref() == Some(path);
        let is_elsewhere = |path: &&PathBuf| homes.iter().any(|other| belongs(path, other) && other != home);
        files.extend(receipt.files.iter().filter(|path| !is_elsewhere(path)).cloned());
        in_place = &receipt.programs;
    }
    for path in [Some(&home.program), home.name_file.as_ref()].into_iter().flatten() {
        if !files.contains(path) && is_there(path) {
            files.push(path.clone());
        }
    }
    files.extend(disk::replaced(&home.program));
    let in_place = in_place.iter().map(|path| {
        Step::new(Kind::Program, "program", path).because("was used in place and stays").records(Record::ProgramsGone)
    });
    let removed = files.iter().map(|path| Step::new(Kind::Program, "program", path).removes(Change::Remove));
    in_place.chain(removed).collect()
}

/// The rules that install added, for extensions that no manifest lets in any more.
fn plan_rules(receipt: &Receipt, homes: &[Home], outlook: &Outlook) -> Vec<Step> {
    let is_needed = |grant: &&Grant| {
        let is_read =
            |home: &Home| home.config_file == grant.file || !homes.iter().any(|home| home.config_file == grant.file);
        outlook.staying.iter().any(|staying| is_read(&staying.home) && staying.origins.contains(&grant.rule.origin))
    };
    let mut files: Vec<(&Path, Vec<Grant>)> = Vec::new();
    for grant in receipt.rules.iter().filter(|grant| !is_needed(grant)) {
        match files.iter_mut().find(|(file, _)| *file == grant.file) {
            Some((_, grants)) => grants.push(grant.clone()),
            None => files.push((&grant.file, vec![grant.clone()])),
        }
    }
    files.into_iter().map(|(file, grants)| plan_grants(file, grants)).collect()
}

/// The rules of one configuration.
fn plan_grants(path: &Path, grants: Vec<Grant>) -> Step {
    let step = Step::new(Kind::Rule, "allow rule", path);
    let read = disk::read(path).and_then(|found| {
        let config = found.as_deref().map(|bytes| parse_config(path, bytes)).transpose()?;
        Ok(config.map(|config| (config.to_string(), config)))
    });
    let (before, mut config) = match read {
        Ok(Some(config)) => config,
        Ok(None) => return step.because("was gone already").records(Record::GrantsGone(grants)),
        Err(error) => return step.fails(&error),
    };
    grants.iter().for_each(|grant| config.remove(&grant.rule));
    let name = |Grant { rule, .. }: &Grant| format!("{} for {}", rule.pattern, rule.origin);
    let names: Vec<String> = grants.iter().map(name).collect();
    let step = step.because(&format!("without {}", names.join(", "))).records(Record::GrantsGone(grants));
    let contents = config.to_string();
    if contents == before {
        step.because("was gone already")
    } else if contents.trim().is_empty() {
        step.removes(Change::Remove)
    } else {
        let mode = disk::mode(path).unwrap_or(disk::PRIVATE);
        step.puts(Change::Write { contents, mode }, true)
    }
}

/// The user's data, unless a browser can still start the host that needs it.
fn plan_purge(home: &Home, outlook: &Outlook) -> Vec<Step> {
    let titles: Vec<&str> = outlook.users(home).map(|staying| staying.title.as_str()).collect();
    let there = home.purge.iter().filter(|path| is_there(path));
    there
        .map(|path| {
            let step = Step::new(Kind::Data, "data", path);
            if titles.is_empty() {
                step.removes(Change::RemoveTree)
            } else {
                step.ends(Outcome::Skipped, &format!("still installed for {}", titles.join(", ")))
            }
        })
        .collect()
}
