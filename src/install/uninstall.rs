//! The plan that undoes an install.
//!
//! Owns: what is removed, what stays because somebody still uses it, and the order. Does not own: carrying it out
//! (`steps`), nor stopping the daemon and deleting credentials, which the command line does.
//!
//! The receipt says what install wrote. Without it, manifests of ours are still found in the places that browsers
//! read, and the program in its stable place. What is not ours (any more) is left alone.

use std::path::PathBuf;

use super::browsers::Scope;
use super::manifest::{self, Existing, ExtensionId};
use super::receipt::{Entry, Receipt, Record};
use super::steps::{Change, Command, Kind, Outcome, Plan, Step};
use super::{Context, InstallError, Target, disk, is_ours, owner, parse_config};
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

/// A manifest that an install may have written.
struct Candidate {
    manifest: PathBuf,
    title: String,
    /// Which of its browsers are to be served no more; none if it is not meant.
    leaving: Vec<String>,
    /// Whether the user named it.
    is_named: bool,
}

/// Manifests that will still be there.
#[derive(Default)]
struct Remaining {
    titles: Vec<String>,
    origins: Vec<String>,
}

impl Remaining {
    fn add(&mut self, title: &str, extensions: &[ExtensionId]) {
        self.titles.push(title.to_owned());
        self.origins.extend(extensions.iter().map(ExtensionId::origin));
    }
}

/// Decides what [`apply`](super::apply) has to do for `removal`.
///
/// # Errors
/// If a browser is unknown or the receipt is not in order: then nothing is done at all.
pub fn plan_removal(removal: &Removal, context: &Context) -> Result<Plan, InstallError> {
    context.check(&removal.user_data_dirs)?;
    context.check_names(&removal.browsers, removal.scope)?;
    let mut receipt = Receipt::read(&context.receipt)?;
    let own_programs = context.own_programs(&receipt);

    let mut remaining = Remaining::default();
    let mut steps = Vec::new();
    for candidate in candidates(removal, context, &receipt)? {
        steps.extend(plan_manifest(&candidate, removal, &receipt, &own_programs, &mut remaining));
    }
    if remaining.titles.is_empty() {
        steps.extend(plan_program(context, &receipt));
    }
    if removal.purge && remaining.titles.is_empty() {
        // They go with the configuration.
        receipt.rules.clear();
    }
    steps.extend(plan_rules(context, &receipt, &remaining));

    let mut plan = Plan::new(Command::Uninstall, removal.dry_run, removal.scope, steps, receipt, context);
    // The receipt may lie in a directory that install made, or list one.
    let is_last = plan.expected_receipt().is_empty();
    if is_last {
        plan.save_receipt();
    }
    if removal.purge {
        plan_purge(context, &remaining).into_iter().for_each(|step| plan.push(step));
    }
    plan.remove_directories();
    if !is_last {
        plan.save_receipt();
    }
    Ok(plan)
}

/// All manifests that may be ours, and which of them are meant.
fn candidates(removal: &Removal, context: &Context, receipt: &Receipt) -> Result<Vec<Candidate>, InstallError> {
    let host = &removal.host_name;
    let everything = removal.browsers.is_empty() && removal.user_data_dirs.is_empty();
    let leaves =
        |browser: &String| everything || removal.browsers.iter().any(|name| name.eq_ignore_ascii_case(browser));

    let mut candidates = Vec::new();
    let mut add = |manifest: PathBuf, title: String, browsers: &[String]| {
        let is_host = manifest.file_name().is_some_and(|name| *name == *host.manifest_file());
        let leaving: Vec<String> = browsers.iter().filter(|name| is_host && leaves(name)).cloned().collect();
        let is_named = !everything && !leaving.is_empty();
        candidates.push(Candidate { manifest, title, leaving, is_named });
    };
    let targets = context.targets(context.rows(removal.scope).collect(), host)?;
    for entry in &receipt.manifests {
        if !targets.iter().any(|target| target.manifest == entry.path) {
            add(entry.path.clone(), entry.browsers.join(", "), &entry.browsers);
        }
    }
    targets.into_iter().for_each(|target| add(target.manifest, target.title, &target.browsers));
    for directory in &removal.user_data_dirs {
        let Target { manifest, title, browsers, .. } = Target::of_user_data_dir(directory, host);
        candidates.retain(|candidate| candidate.manifest != manifest);
        candidates.push(Candidate { manifest, title, leaving: browsers, is_named: true });
    }
    Ok(candidates)
}

/// What happens to one manifest; `remaining` learns about it if it stays ours.
fn plan_manifest(
    candidate: &Candidate,
    removal: &Removal,
    receipt: &Receipt,
    own_programs: &[PathBuf],
    remaining: &mut Remaining,
) -> Option<Step> {
    let Candidate { manifest: path, title, leaving, is_named } = candidate;
    let is_meant = !leaving.is_empty();
    let entry = receipt.manifest(path);
    let step = Step::new(Kind::Manifest, title).at(path);
    let found = match disk::read(path) {
        Ok(Some(found)) => found,
        Ok(None) if is_meant && entry.is_some() => {
            return Some(step.because("was gone already").records(Record::Gone(path.clone())));
        }
        Ok(None) => return is_named.then(|| step.because("there is none")),
        Err(error) => return (is_meant && (*is_named || entry.is_some())).then(|| step.fails(&error)),
    };
    let existing = Existing::parse(&found);
    if !is_ours(&existing, own_programs) {
        let gone = Record::Gone(path.clone());
        return is_meant.then(|| step.ends(Outcome::Skipped, &owner(&existing)).records(gone));
    }
    let extensions = &existing.extensions;
    if !is_meant {
        remaining.add(title, extensions);
        return None;
    }

    let staying: Vec<String> = entry.map_or_else(Vec::new, |entry| {
        entry.browsers.iter().filter(|browser| !leaving.contains(browser)).cloned().collect()
    });
    if !staying.is_empty() {
        remaining.add(title, extensions);
        let used = format!("still used by {}", staying.join(", "));
        let record = Record::Shared(Entry { path: path.clone(), browsers: staying });
        return Some(step.because(&used).records(record));
    }
    let kept: Vec<ExtensionId> = if removal.extensions.is_empty() {
        Vec::new()
    } else {
        extensions.iter().filter(|extension| !removal.extensions.contains(extension)).cloned().collect()
    };
    let (Some(first), Some(program)) = (kept.first(), &existing.program) else {
        return Some(step.removes(Change::RemoveFile));
    };
    remaining.add(title, &kept);
    if kept.len() == extensions.len() {
        return Some(step.because("lets none of them in"));
    }
    let names: Vec<String> = kept.iter().map(ToString::to_string).collect();
    let program = program.to_string_lossy();
    let contents = manifest::render(first.family(), &removal.host_name, &program, &kept);
    let step = step.because(&format!("still lets in {}", names.join(", ")));
    Some(step.puts(Change::Write { contents, mode: disk::READABLE }))
}

/// The copy of the program and what lies beside it; a program that was used in place is not ours to remove.
fn plan_program(context: &Context, receipt: &Receipt) -> Vec<Step> {
    let mut files = receipt.files.clone();
    for path in [Some(context.stable_program()), context.name_file.clone()].into_iter().flatten() {
        if !files.contains(&path) && path.symlink_metadata().is_ok() {
            files.push(path);
        }
    }
    let in_place = receipt.programs.iter().map(|path| {
        Step::new(Kind::Program, "program")
            .at(path)
            .because("was used in place and stays")
            .records(Record::ProgramsGone)
    });
    let removed = files.iter().map(|path| Step::new(Kind::Program, "program").at(path).removes(Change::RemoveFile));
    in_place.chain(removed).collect()
}

/// The rules that install added, for extensions that no manifest lets in any more.
fn plan_rules(context: &Context, receipt: &Receipt, remaining: &Remaining) -> Option<Step> {
    let rules: Vec<_> =
        receipt.rules.iter().filter(|rule| !remaining.origins.contains(&rule.origin)).cloned().collect();
    if rules.is_empty() {
        return None;
    }
    let path = context.real_config_file();
    let step = Step::new(Kind::Rule, "allow rule").at(&path);
    let read = disk::read(&path).and_then(|found| {
        let config = found.as_deref().map(|bytes| parse_config(&path, bytes)).transpose()?;
        Ok(config.map(|config| (config.to_string(), config)))
    });
    let (before, mut config) = match read {
        Ok(Some(config)) => config,
        Ok(None) => return Some(step.because("was gone already").records(Record::RulesGone(rules))),
        Err(error) => return Some(step.fails(&error)),
    };
    rules.iter().for_each(|rule| config.remove(rule));
    let names: Vec<String> = rules.iter().map(|rule| format!("{} for {}", rule.pattern, rule.origin)).collect();
    let step = step.because(&format!("without {}", names.join(", "))).records(Record::RulesGone(rules));
    let contents = config.to_string();
    Some(if contents == before {
        step.because("was gone already")
    } else if contents.trim().is_empty() {
        step.removes(Change::RemoveFile)
    } else {
        let mode = disk::mode(&path).unwrap_or(disk::PRIVATE);
        step.puts(Change::Write { contents, mode })
    })
}

/// The user's data, unless a browser can still start the host that needs it.
fn plan_purge(context: &Context, remaining: &Remaining) -> Vec<Step> {
    let there = context.purge.iter().filter(|path| path.symlink_metadata().is_ok());
    there
        .map(|path| {
            let step = Step::new(Kind::Data, "data").at(path);
            if remaining.titles.is_empty() {
                step.removes(Change::RemoveTree)
            } else {
                step.ends(Outcome::Skipped, &format!("still installed for {}", remaining.titles.join(", ")))
            }
        })
        .collect()
}
