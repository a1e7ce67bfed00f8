//! Mends what is ours: manifests and the program through install's own plan, and what a killed daemon or host has left.
//!
//! Owns: what is mended without asking, and what is said about it. Never touches what another program has written, nor
//! anything that messages are in.

use std::collections::BTreeSet;
use std::{fs, io};

use super::facts::{Call, Content, Daemon, Facts, Manifest, Place};
use super::findings::{Finding, Status, faults, foreign_program, is_older, is_ours, program_fault};
use super::manifest::ids_in;
use super::{Question, launch};
use crate::install::{self, ExtensionId, Outcome, Request};
use crate::log::chain;
use crate::os;

/// Mends, and says what was done; nothing if there was nothing to do.
pub(super) fn mend(question: &Question, facts: &Facts) -> Vec<Finding> {
    let mut done = Vec::new();
    done.extend(stale_socket(question, facts));
    for directory in facts.directories.iter().filter(|directory| directory.is_open) {
        let subject = directory.path.display().to_string();
        done.push(said(
            subject,
            "closed to others",
            os::make_private(&directory.path).map_err(|error| error.to_string()),
        ));
    }
    // A number may have become another's.
    let running = if facts.orphans.is_empty() { Vec::new() } else { os::processes() };
    for process in facts.orphans.iter().filter(|process| running.contains(process)) {
        let subject = format!("process {}", process.id);
        done.push(said(subject, "ended", os::kill(process.id).map_err(|error| error.to_string())));
    }
    for manifest in &facts.manifests {
        if needs_install(facts, manifest) {
            done.extend(reinstall(question, facts, manifest));
        }
    }
    done
}

fn said(subject: String, what: &str, result: Result<(), String>) -> Finding {
    match result {
        Ok(()) => Finding::new("fix", Status::Ok, subject, what),
        Err(why) => Finding::new("fix", Status::Fail, subject, format!("it could not be {what}: {why}")),
    }
}

/// The socket of a daemon that was killed. By now there may be another daemon, and the socket its: one that has the lock,
/// or a system that listens for it.
fn stale_socket(question: &Question, facts: &Facts) -> Option<Finding> {
    let Some(Daemon { lock: None, has_socket: true, call: Call::Nobody, socket }) = &facts.daemon else { return None };
    let remove = || {
        // Whoever wants to listen there takes the lock first.
        let lock = os::open_lock_file(&question.paths.daemon_lock())?;
        if os::try_lock(&lock).is_err() || os::call(socket).is_ok() {
            return Ok("left to the daemon that has been started meanwhile");
        }
        match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok("removed"),
        }
    };
    let subject = socket.display().to_string();
    Some(match remove() {
        Ok(what) => said(subject, what, Ok(())),
        Err(error) => said(subject, "removed", Err(error.to_string())),
    })
}

/// Whether a manifest of ours, or its program, is not as install would leave it.
fn needs_install(facts: &Facts, manifest: &Manifest) -> bool {
    if matches!(manifest.content, Content::Slow | Content::Unreadable(_)) || foreign_program(manifest).is_some() {
        return false;
    }
    let is_open = matches!(manifest.content, Content::Read { is_open: true, .. });
    let has_bad_program = manifest.program.as_ref().is_some_and(|program| program_fault(facts, program).is_some());
    let is_broken = !faults(facts, manifest).is_empty() || is_open || has_bad_program;
    is_broken && is_ours(facts, manifest)
}

/// Has install write a manifest anew, for the extensions that can still be told.
fn reinstall(question: &Question, facts: &Facts, manifest: &Manifest) -> Vec<Finding> {
    let written = || facts.places.iter().filter(|place| place.manifest == manifest.path && place.is_written);
    let Some(place) = written().find(|place| place.is_found).or_else(|| written().next()) else { return Vec::new() };
    let subject = format!("{}: {}", place.title, manifest.path.display());
    let failed = |why: String| vec![said(subject.clone(), "written anew", Err(why))];
    // Install would put this program in the place of the one that is there.
    let (context, own) = (question.context(place.scope), env!("CARGO_PKG_VERSION"));
    let stable = context.stable_program();
    if let Some(version) = launch::version(&stable, &context.env).filter(|version| is_older(own, version)) {
        let failed = failed(format!("{} is version {version}, and this program is older ({own})", stable.display()));
        let next = format!("{} doctor --fix", stable.display());
        return failed.into_iter().map(|finding| finding.next(next.clone())).collect();
    }
    let extensions = extensions(question, facts, manifest, place);
    if extensions.is_empty() {
        let failed = failed("nothing says for which extension".to_owned());
        return failed.into_iter().map(|finding| finding.next("websocket-bridge install --extension ID")).collect();
    }
    let (browsers, user_data_dirs) = if place.is_user_data_dir {
        (Vec::new(), vec![place.browser.clone().into()])
    } else {
        (vec![place.browser.clone()], Vec::new())
    };
    let request = Request {
        browsers,
        user_data_dirs,
        extensions,
        host_name: question.host().clone(),
        scope: place.scope,
        // It is ours, which the file itself may not say any more.
        force: true,
        ..Request::default()
    };
    match install::plan(&request, context) {
        Err(error) => failed(chain(&error)),
        Ok(plan) => {
            let report = install::apply(plan);
            let steps = report.steps.iter().filter(|step| step.outcome != Outcome::Unchanged);
            let mut seen = BTreeSet::new();
            steps
                .filter(|step| seen.insert(step.path.clone()))
                .map(|step| {
                    let is_bad = matches!(step.outcome, Outcome::Failed | Outcome::Refused);
                    let result = if is_bad { Err(step.detail.clone().unwrap_or_default()) } else { Ok(()) };
                    said(format!("{}: {}", step.subject, step.path), "written anew", result)
                })
                .collect()
        }
    }
}

/// The extensions of a manifest: those that its text still names, or that to which its key should lead; else those of others
/// of its family.
fn extensions(question: &Question, facts: &Facts, manifest: &Manifest, place: &Place) -> Vec<ExtensionId> {
    let named_in = |manifest: &Manifest| match &manifest.content {
        Content::Read { bytes, .. } => ids_in(bytes, place.family),
        _ => Vec::new(),
    };
    let own = named_in(manifest);
    if !own.is_empty() {
        return own;
    }
    let keyed = question.context(place.scope).keyed_manifest(place.family, question.host());
    let keyed = fs::read(keyed).map(|bytes| ids_in(&bytes, place.family)).unwrap_or_default();
    if !keyed.is_empty() {
        return keyed;
    }
    let others = facts.manifests.iter().filter(|other| {
        facts.places.iter().any(|known| known.manifest == other.path && known.family == place.family)
            && foreign_program(other).is_none()
    });
    others.map(named_in).find(|ids| !ids.is_empty()).unwrap_or_default()
}
