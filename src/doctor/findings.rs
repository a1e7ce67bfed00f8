//! From facts to findings: what is good, what is not, why, and what to type next.
//!
//! Owns: every judgement. Pure: the same facts give the same findings. The order is that of the way from the browser to
//! the server, so that the first failure is most often the one to mend.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use semver::Version;
use serde::Serialize;

use super::facts::{Call, Content, Daemon, Facts, Manifest, Place, Policy, Program, ProgramState, Server, Spool};
use super::launch::Outcome;
use super::manifest::examine;
use super::policy::{Verdict, verdict};
use crate::config::HOME_VARIABLE;
use crate::explain;
use crate::install::browsers::{Family, Launch, Platform, Scope};
use crate::server::{Certificate, Found};
use crate::spool::inspect::Condition;
use crate::wire::Reason;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// As it should be.
    Ok,
    /// It works, and may not always.
    Warn,
    /// It does not work.
    Fail,
    /// There was no reason to look, or no way.
    Skip,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at: a stable word.
    pub check: &'static str,
    /// How it is.
    pub status: Status,
    /// Which one.
    pub subject: String,
    /// What was seen.
    pub evidence: String,
    /// What to type or do.
    pub next: Option<String>,
}

impl Finding {
    pub(super) fn new(
        check: &'static str,
        status: Status,
        subject: impl Into<String>,
        evidence: impl Into<String>,
    ) -> Self {
        Self { check, status, subject: subject.into(), evidence: evidence.into(), next: None }
    }

    pub(super) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = Some(next.into());
        self
    }
}

use Status::{Fail, Ok as Fine, Skip, Warn};

/// Bytes of the disk below which nothing more can be kept, and below which that is near.
const NO_ROOM: u64 = 2 << 20;
const LITTLE_ROOM: u64 = 64 << 20;

/// How far a clock may be off before certificates and tokens are judged wrongly.
const CLOCK_OFF: Duration = Duration::from_secs(300);

/// How long before its end a certificate is worth a word.
const EXPIRES_SOON: i64 = 14 * 24 * 60 * 60;

const FIX: &str = "websocket-bridge doctor --fix";

/// All findings.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut all = Vec::new();
    all.extend(receipt(facts));
    all.extend(installed_at_all(facts));
    for manifest in &facts.manifests {
        all.extend(of_manifest(facts, manifest));
    }
    all.extend(shadows(facts));
    all.extend(programs(facts));
    all.extend(facts.manifests.iter().filter_map(|manifest| of_launch(facts, manifest)));
    all.extend(facts.policies.iter().map(|policy| of_policy(facts, policy)));
    all.extend(sandboxes(facts));
    all.extend(orphans(facts));
    all.push(home(facts));
    all.extend(directories(facts));
    all.push(configuration(facts));
    all.extend(daemon(facts));
    all.extend(spool(facts));
    all.extend(disk(facts));
    all.push(clock(facts));
    all.extend(servers(facts));
    let slow = facts.slow.iter().map(|what| Finding::new("slow", Warn, *what, "looking at it takes too long"));
    all.extend(slow.map(|finding| finding.next("see whether the disks of this machine answer")));
    all
}

fn receipt(facts: &Facts) -> Option<Finding> {
    let why = facts.installed.as_ref().err()?;
    let finding = Finding::new("receipt", Warn, "what install wrote", why.clone());
    Some(finding.next("move the file away: manifests are also recognised without it"))
}

/// The browsers that read a manifest, for people.
fn readers<'a>(facts: &'a Facts, manifest: &'a Manifest) -> impl Iterator<Item = &'a Place> {
    facts.places.iter().filter(|place| place.manifest == manifest.path)
}

fn titles(facts: &Facts, manifest: &Manifest) -> String {
    let mut titles: Vec<&str> = Vec::new();
    // Many look at the same places; those that are not there are of no interest, unless nobody is.
    let is_found = readers(facts, manifest).any(|place| place.is_found);
    for place in readers(facts, manifest).filter(|place| place.is_found || !is_found) {
        if !titles.contains(&&*place.title) {
            titles.push(&place.title);
        }
    }
    titles.join(", ")
}

fn subject(facts: &Facts, manifest: &Manifest) -> String {
    format!("{}: {}", titles(facts, manifest), manifest.path.display())
}

/// Whether install has written this manifest, or the key that leads to it.
fn was_installed(facts: &Facts, manifest: &Manifest) -> bool {
    let is_known =
        |place: &Place| facts.installed.iter().any(|installed| installed.manifests.contains(&place.location));
    readers(facts, manifest).any(is_known)
}

fn is_there(manifest: &Manifest) -> bool {
    !matches!(manifest.content, Content::Missing)
}

/// What to type to have a manifest written.
fn install(facts: &Facts, manifest: &Manifest, force: bool) -> String {
    let force = if force { " --force" } else { "" };
    let written = || readers(facts, manifest).filter(|place| place.is_written);
    let place = written().find(|place| place.is_found).or_else(|| written().next());
    let which = match place {
        Some(place) if place.is_user_data_dir => format!(" --user-data-dir {}", quoted(&place.browser)),
        Some(place) => format!(" --browser {}", place.browser),
        None => String::new(),
    };
    format!("websocket-bridge install{force}{which} --extension ID")
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@".contains(c);
    if word.chars().all(is_plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// Whether there is anything for any browser.
fn installed_at_all(facts: &Facts) -> Vec<Finding> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    for place in facts.places.iter().filter(|place| place.is_found && !place.is_user_data_dir) {
        if !found.contains(&(&place.browser, &place.title)) {
            found.push((&place.browser, &place.title));
        }
    }
    let titles: Vec<&str> = found.iter().map(|(_, title)| *title).collect();
    let seen =
        if titles.is_empty() { "no browser was found".to_owned() } else { format!("found: {}", titles.join(", ")) };
    let has_one = |manifest: &Manifest| is_there(manifest) || was_installed(facts, manifest);
    if !facts.manifests.iter().any(has_one) {
        let evidence = format!("no browser has a manifest of {} ({seen})", facts.host);
        let finding = Finding::new("manifest", Fail, "browsers", evidence);
        return vec![finding.next("websocket-bridge install --extension ID")];
    }
    let is_served =
        |browser: &str| {
            facts.places.iter().filter(|place| place.browser == browser).any(|place| {
                facts.manifests.iter().any(|manifest| manifest.path == place.manifest && has_one(manifest))
            })
        };
    found
        .into_iter()
        .filter(|(browser, _)| !is_served(browser))
        .map(|(browser, title)| {
            let evidence = "there is no manifest for it: extensions in it cannot reach this host";
            let next = format!("websocket-bridge install --browser {browser} --extension ID");
            Finding::new("manifest", Skip, title, evidence).next(next)
        })
        .collect()
}

/// What a browser thinks of a manifest; nothing if there is none, and none was ever written.
pub(super) fn faults(facts: &Facts, manifest: &Manifest) -> Vec<String> {
    let Some(place) = readers(facts, manifest).next() else { return Vec::new() };
    match &manifest.content {
        Content::Missing if was_installed(facts, manifest) => {
            vec!["it was installed, and is gone".to_owned()]
        }
        Content::Missing => Vec::new(),
        Content::Dangling => vec!["it is a link to something that is not there".to_owned()],
        Content::Unreadable(why) => vec![format!("it cannot be read: {why}")],
        Content::Slow => vec!["reading it takes too long: it is no file, or on a disk that does not answer".to_owned()],
        Content::Read { bytes, .. } => examine(bytes, place.family, &facts.host, facts.platform).faults,
    }
}

/// The program of a manifest that is somebody else's.
pub(super) fn foreign_program(manifest: &Manifest) -> Option<&Path> {
    manifest.program.as_ref().filter(|program| !program.is_ours).map(|program| &*program.path)
}

/// Whether a manifest that is not in order is ours all the same, so that it may be written anew.
pub(super) fn is_ours(facts: &Facts, manifest: &Manifest) -> bool {
    let names_ours = match &manifest.content {
        Content::Read { bytes, .. } => {
            let text = String::from_utf8_lossy(bytes);
            let mut programs = facts.installed.iter().flat_map(|installed| &installed.programs);
            programs.any(|program| text.contains(&*program.to_string_lossy()))
        }
        _ => false,
    };
    foreign_program(manifest).is_none() && (was_installed(facts, manifest) || names_ours)
}

fn of_manifest(facts: &Facts, manifest: &Manifest) -> Option<Finding> {
    let subject = subject(facts, manifest);
    let faults = faults(facts, manifest);
    if !is_there(manifest) && faults.is_empty() {
        return None;
    }
    let is_read = readers(facts, manifest).any(|place| place.is_found);
    let status = if is_read { Fail } else { Warn };
    if let Some(program) = foreign_program(manifest) {
        let evidence = format!("it starts another program: {}", program.display());
        return Some(Finding::new("manifest", status, subject, evidence).next(install(facts, manifest, true)));
    }
    if !faults.is_empty() {
        let is_ours = is_ours(facts, manifest);
        let next = if is_ours { FIX.to_owned() } else { install(facts, manifest, true) };
        return Some(Finding::new("manifest", status, subject, faults.join("; ")).next(next));
    }
    let Content::Read { bytes, is_open } = &manifest.content else { return None };
    if *is_open {
        let finding = Finding::new("manifest", Warn, subject, "anybody on this machine may change it, or replace it");
        let directory = manifest.path.parent().unwrap_or(&manifest.path);
        let next = format!("chmod o-w {} {}", quoted_path(&manifest.path), quoted_path(directory));
        return Some(finding.next(next));
    }
    let family = readers(facts, manifest).next()?.family;
    let lets_in = examine(bytes, family, &facts.host, facts.platform).lets_in;
    Some(Finding::new("manifest", Fine, subject, format!("lets in {}", lets_in.join(", "))))
}

/// Where one manifest stands in another's way.
fn shadows(facts: &Facts) -> Vec<Finding> {
    // A browser's places stand together.
    let mut browsers: Vec<&str> =
        facts.places.iter().filter(|place| place.is_found).map(|place| &*place.browser).collect();
    browsers.dedup();
    let mut found = Vec::new();
    for browser in browsers {
        let places: Vec<&Place> = facts.places.iter().filter(|place| place.browser == browser).collect();
        let title = &*places[0].title;
        let existing: Vec<&Manifest> = places
            .iter()
            .filter_map(|place| facts.manifests.iter().find(|manifest| manifest.path == place.manifest))
            .filter(|manifest| is_there(manifest))
            .collect();
        let is_good = |manifest: &Manifest| faults(facts, manifest).is_empty() && foreign_program(manifest).is_none();
        let [first, behind @ ..] = &existing[..] else { continue };
        let Some(second) = behind.iter().find(|manifest| is_good(manifest)) else { continue };
        if is_good(first) {
            continue;
        }
        let (first, second) = (&first.path, &second.path);
        found.push(if places[0].family == Family::Chromium {
            let evidence = format!(
                "{} comes first and is not usable, so {} behind it is never read",
                first.display(),
                second.display()
            );
            Finding::new("shadow", Fail, title, evidence).next(format!("rm {}", quoted_path(first)))
        } else {
            let evidence =
                format!("{} is not usable; the browser passes over it and takes {}", first.display(), second.display());
            Finding::new("shadow", Warn, title, evidence).next(format!("rm {}", quoted_path(first)))
        });
    }
    found
}

/// Every program of ours that a manifest names, once.
fn programs(facts: &Facts) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let named = facts.manifests.iter().filter_map(|manifest| manifest.program.as_ref());
    let named = named.filter(|program| program.is_ours && program.path.is_absolute());
    named.filter(|program| seen.insert(&program.path)).map(|program| of_program(facts, program)).collect()
}

/// Why a program cannot be started; nothing if it can.
pub(super) fn program_fault(facts: &Facts, program: &Program) -> Option<String> {
    match &program.state {
        ProgramState::Missing => Some("is not there: it was moved or removed".to_owned()),
        ProgramState::Unreadable(why) => Some(format!("cannot be looked at: {why}")),
        ProgramState::NoFile => Some("is no file".to_owned()),
        ProgramState::File { is_executable: false, .. } => Some("is not executable".to_owned()),
        ProgramState::File { has_interpreter: false, .. } => {
            Some("is a script, and the program that is to run it is not there".to_owned())
        }
        ProgramState::File { kind, .. } => kind.fault(&facts.own_kind),
    }
}

fn of_program(facts: &Facts, program: &Program) -> Finding {
    let subject = program.path.display().to_string();
    if let Some(fault) = program_fault(facts, program) {
        return Finding::new("program", Fail, subject, format!("it {fault}")).next(FIX);
    }
    let ProgramState::File { is_open, version, .. } = &program.state else {
        return Finding::new("program", Skip, subject, "it was not looked at");
    };
    if *is_open {
        let finding = Finding::new("program", Warn, subject, "anybody on this machine may change it");
        return finding.next(format!("chmod o-w {}", quoted_path(&program.path)));
    }
    let own = env!("CARGO_PKG_VERSION");
    match version.as_deref() {
        Some(version) if version != own => {
            let evidence = format!("it is version {version}, and this program is {own}");
            let next = if is_older(version, own) {
                "websocket-bridge install --extension ID".to_owned()
            } else {
                format!("{} doctor", quoted_path(&program.path))
            };
            Finding::new("program", Warn, subject, evidence).next(next)
        }
        Some(version) => Finding::new("program", Fine, subject, format!("there, executable, version {version}")),
        None => Finding::new("program", Fine, subject, "there and executable"),
    }
}

/// Whether one version comes before another.
pub(super) fn is_older(one: &str, other: &str) -> bool {
    match (Version::parse(one), Version::parse(other)) {
        (Ok(one), Ok(other)) => one.cmp_precedence(&other).is_lt(),
        _ => false,
    }
}

fn of_launch(facts: &Facts, manifest: &Manifest) -> Option<Finding> {
    let subject = titles(facts, manifest);
    let fail = |evidence: String, next: &str| Finding::new("launch", Fail, subject.clone(), evidence).next(next);
    Some(match manifest.launch.as_ref()? {
        Outcome::NotStarted(why) => fail(format!("the program cannot be started: {why}"), FIX),
        Outcome::Welcome { left_after: None, .. } => fail(
            "it does not leave when the port is closed, and stays behind when a browser crashes".to_owned(),
            "websocket-bridge install --extension ID",
        ),
        Outcome::Welcome { version, origin, after, left_after: Some(left) } => {
            let evidence = format!(
                "started as by the browser for {origin}: version {version} answers in {}, leaves in {}",
                ms(*after),
                ms(*left)
            );
            Finding::new("launch", Fine, subject, evidence)
        }
        Outcome::Refused { code, message } => {
            let next = if code == "daemon-unavailable" {
                "websocket-bridge daemon --foreground"
            } else {
                "websocket-bridge install --extension ID"
            };
            fail(format!("the host says {code}: {message}"), next)
        }
        Outcome::Noise(length) => {
            let explained = explain::of_length(*length);
            let what = explained.split("\nnext:").next().unwrap_or_default();
            fail(format!("it does not speak native messaging: {what}"), "websocket-bridge install --extension ID")
        }
        Outcome::NotJson => {
            let what = "it does not speak native messaging: what it says is no JSON";
            fail(what.to_owned(), "websocket-bridge install --extension ID")
        }
        Outcome::Ended { how, words } => {
            let words = if words.is_empty() { String::new() } else { format!(", and said: {words}") };
            fail(format!("{how} before it answered{words}"), FIX)
        }
        Outcome::Silent => {
            fail("it says nothing for 5 s; a browser would wait for ever".to_owned(), "websocket-bridge stop")
        }
    })
}

fn ms(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

fn of_policy(facts: &Facts, policy: &Policy) -> Finding {
    let title = format!("{} policies", policy.place.title);
    let said = match &policy.said {
        Ok(said) => said,
        Err(why) => {
            let finding = Finding::new("policy", Warn, title, format!("they cannot be read: {why}"));
            return finding.next("open chrome://policy in the browser");
        }
    };
    let of_browser = |place: &&Place| place.browser.starts_with(policy.place.browser);
    let is_found = facts.places.iter().filter(of_browser).any(|place| place.is_found);
    let status = if is_found { Fail } else { Warn };
    let has_system = facts.places.iter().filter(of_browser).filter(|place| place.scope == Scope::System).any(|place| {
        facts
            .manifests
            .iter()
            .any(|manifest| manifest.path == place.manifest && is_there(manifest) && faults(facts, manifest).is_empty())
    });
    match verdict(said, &facts.host) {
        Verdict::Allows => Finding::new("policy", Fine, title, "they do not stand in the way"),
        Verdict::Blocks => {
            let evidence = format!("NativeMessagingBlocklist forbids {}", facts.host);
            let next = format!("ask the administrator to add {} to NativeMessagingAllowlist", facts.host);
            Finding::new("policy", status, title, evidence).next(next)
        }
        Verdict::SystemOnly if has_system => {
            Finding::new("policy", Fine, title, "only manifests of the machine count, and there is one")
        }
        Verdict::SystemOnly => {
            let evidence =
                "NativeMessagingUserLevelHosts is off: only manifests of the machine count, and there is none";
            let next = "ask the administrator to switch NativeMessagingUserLevelHosts on, or to install for all users";
            Finding::new("policy", status, title, evidence).next(next)
        }
    }
}

/// Browsers that are in a sandbox, and what that means for their hosts.
fn sandboxes(facts: &Facts) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut all = Vec::new();
    for place in facts.places.iter().filter(|place| place.is_found) {
        let Some(sandbox) = place.sandbox.filter(|sandbox| seen.insert(sandbox.id)) else { continue };
        let subject = format!("{} ({})", place.title, sandbox.id);
        let has_manifest = facts.manifests.iter().any(|manifest| manifest.path == place.manifest && is_there(manifest));
        all.push(match sandbox.launch {
            Launch::Inside { .. } if has_manifest => {
                let evidence = format!(
                    "its hosts run inside the {}, with a configuration and messages of their own, and no longer than the \
                     browser; from outside they cannot be tried",
                    sandbox.kind
                );
                Finding::new("sandbox", Skip, subject, evidence)
            }
            Launch::Inside { .. } => {
                let evidence = format!("it is a {}, and needs a copy of the program inside", sandbox.kind);
                let next = format!("websocket-bridge install --browser {} --extension ID", place.browser);
                Finding::new("sandbox", Skip, subject, evidence).next(next)
            }
            Launch::Portal => {
                let evidence = format!("it is a {}: a portal starts its hosts, if the user has said yes", sandbox.kind);
                let next = format!("flatpak permission-set webextensions {} {} yes", facts.host, sandbox.id);
                Finding::new("sandbox", Skip, subject, evidence).next(next)
            }
        });
    }
    all
}

fn orphans(facts: &Facts) -> impl Iterator<Item = Finding> {
    facts.orphans.iter().map(|process| {
        let evidence = "this host runs although the browser that started it is gone";
        let subject = format!("process {}", process.id);
        Finding::new("orphan", Warn, subject, evidence).next(format!("{FIX}, or kill {}", process.id))
    })
}

fn home(facts: &Facts) -> Finding {
    let home = facts.home.display();
    let evidence = if facts.has_home_variable {
        format!("{home}, as {HOME_VARIABLE} says; a browser that has not the same variable uses another one")
    } else {
        home.to_string()
    };
    Finding::new("home", Fine, "home", evidence)
}

fn directories(facts: &Facts) -> impl Iterator<Item = Finding> {
    facts.directories.iter().filter_map(|directory| {
        let fault = directory.fault.clone()?;
        let next = if directory.is_open {
            FIX.to_owned()
        } else {
            format!("make {} a directory that you may write to", quoted_path(&directory.path))
        };
        Some(Finding::new("directory", Fail, directory.path.display().to_string(), fault).next(next))
    })
}

fn configuration(facts: &Facts) -> Finding {
    match &facts.configuration {
        None => {
            let finding = Finding::new("configuration", Fail, "config.toml", "reading it takes too long");
            finding.next("see whether it is a file, on a disk that answers")
        }
        Some(Err(why)) => {
            let finding = Finding::new("configuration", Fail, "config.toml", why.clone());
            finding.next("correct that line; until then what was read last counts")
        }
        Some(Ok(())) => Finding::new("configuration", Fine, "config.toml", "in order"),
    }
}

fn daemon(facts: &Facts) -> Option<Finding> {
    let Some(daemon) = &facts.daemon else {
        let finding = Finding::new("daemon", Fail, "daemon", "looking for it takes too long");
        return Some(finding.next("see whether the disk with its files answers"));
    };
    let finding = |status, evidence: String| Finding::new("daemon", status, "daemon", evidence);
    let Daemon { lock, socket, has_socket, call } = daemon;
    let own = env!("CARGO_PKG_VERSION");
    let end = |pid: &str| match facts.platform {
        Platform::Windows => format!("taskkill /F /PID {pid}"),
        Platform::Linux | Platform::MacOs => format!("kill {pid}"),
    };
    Some(match (lock, call) {
        (lock, Call::Answered { build, sessions }) if build == own => {
            let pid = lock.as_deref().unwrap_or("unknown");
            finding(Fine, format!("process {pid} runs, version {build}, sessions: {sessions}"))
        }
        (_, Call::Answered { build, .. }) if is_older(own, build) => {
            let evidence = format!("it is version {build}, and this program is older ({own})");
            finding(Warn, evidence).next("run the doctor of the newer program")
        }
        (_, Call::Answered { build, .. }) => {
            let evidence = format!("it was version {build}, and this program is {own}; the next host has it make way");
            finding(Warn, evidence).next("websocket-bridge stop")
        }
        (Some(pid), Call::Nobody) => {
            let evidence = format!("process {pid} has the lock, and nobody listens at {}", socket.display());
            finding(Fail, evidence).next(end(pid))
        }
        (Some(pid), Call::Failed(why)) => {
            finding(Fail, format!("process {pid} has the lock and cannot be spoken to: {why}")).next(end(pid))
        }
        (None, Call::Failed(why)) => {
            finding(Fail, why.clone()).next(format!("end what listens at {}", quoted_path(socket)))
        }
        (None, Call::Nobody) if *has_socket => {
            let evidence = format!("a daemon was killed and has left {}; the next one removes it", socket.display());
            finding(Warn, evidence).next(FIX)
        }
        (None, Call::Nobody) => finding(Fine, "none runs; a browser starts it when an extension connects".to_owned()),
    })
}

fn spool(facts: &Facts) -> Vec<Finding> {
    let finding = |status, evidence: String| Finding::new("spool", status, "spool.db", evidence);
    let (set_aside, found) = match &facts.spool {
        None => return vec![finding(Warn, "it could not be looked at in time".to_owned())],
        Some(Spool::InUse { bytes, set_aside }) => {
            let evidence = format!("{}; in use by the daemon, which checks what it reads", size(*bytes));
            (set_aside, finding(Fine, evidence))
        }
        Some(Spool::Inspected(inspection)) => {
            let bytes = inspection.bytes;
            let found = match &inspection.condition {
                Condition::Absent => finding(Fine, "nothing is kept yet".to_owned()),
                Condition::Sound => {
                    finding(Fine, format!("{}, sessions: {}, sound", size(bytes), inspection.sessions.len()))
                }
                Condition::Unfinished => finding(Fine, format!("{}; too large to be checked at once", size(bytes))),
                Condition::Damaged(why) => {
                    let evidence =
                        format!("it is damaged ({why}); the next daemon sets it aside and keeps what can be read");
                    finding(Fail, evidence).next("websocket-bridge daemon")
                }
                Condition::Refused(error) => {
                    finding(Fail, error.to_string()).next("start the program that wrote it, or move the file away")
                }
                Condition::Unreadable(why) => finding(Fail, format!("it cannot be read: {why}"))
                    .next("see whether the disk works and the file may be read"),
            };
            (&inspection.set_aside, found)
        }
    };
    let aside = set_aside.last().map(|newest| {
        let evidence =
            format!("{} damaged files were set aside, the last one is {}", set_aside.len(), newest.display());
        let directory = newest.parent().unwrap_or(newest);
        finding(Warn, evidence).next(format!("rm {}/spool-damaged-*", quoted_path(directory)))
    });
    std::iter::once(found).chain(aside).collect()
}

fn size(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{} KiB", bytes.div_ceil(1024)) } else { format!("{} MiB", bytes >> 20) }
}

fn disk(facts: &Facts) -> Option<Finding> {
    let free = facts.free_bytes?;
    let status = match free {
        0..NO_ROOM => Fail,
        NO_ROOM..LITTLE_ROOM => Warn,
        _ => Fine,
    };
    let finding = Finding::new("disk", status, "disk", format!("{} free", size(free)));
    Some(if status == Fine {
        finding
    } else {
        finding.next("make room on the disk: while there is none, nothing is stored")
    })
}

fn clock(facts: &Facts) -> Finding {
    let finding = |status, evidence: String| Finding::new("clock", status, "clock", evidence);
    let set = match facts.platform {
        Platform::Linux => "timedatectl set-ntp true",
        Platform::MacOs => "sudo sntp -sS time.apple.com",
        Platform::Windows => "w32tm /resync",
    };
    let set = format!("{set}, or set the clock by hand: a wrong one makes good certificates look bad");
    let now = httpdate::fmt_http_date(facts.now);
    let answered = facts.servers.iter().flat_map(|server| &server.found).find_map(|(found, _)| match found {
        Found::Date(date) => Some(*date),
        _ => None,
    });
    if let Some(date) = answered.filter(|date| apart(*date, facts.now) > CLOCK_OFF) {
        let evidence = format!("it says {now}; a server's says {}", httpdate::fmt_http_date(date));
        return finding(Warn, evidence).next(set);
    }
    match &facts.last_change {
        Some((path, changed)) if *changed > facts.now + CLOCK_OFF => {
            let changed = httpdate::fmt_http_date(*changed);
            finding(Warn, format!("it says {now}, but {} was changed on {changed}", path.display())).next(set)
        }
        _ => finding(Fine, now),
    }
}

fn apart(one: SystemTime, other: SystemTime) -> Duration {
    one.duration_since(other).or_else(|_| other.duration_since(one)).unwrap_or_default()
}

fn servers(facts: &Facts) -> Vec<Finding> {
    if let Some(name) = &facts.unknown_session {
        let evidence = "no session of that name is known, neither to the configuration nor to the daemon";
        return vec![Finding::new("server", Fail, name.clone(), evidence).next("websocket-bridge status")];
    }
    if facts.servers.is_empty() {
        let evidence = "no session has a server yet";
        return vec![
            Finding::new("server", Skip, "servers", evidence).next("websocket-bridge doctor --url wss://HOST/PATH"),
        ];
    }
    let mut all: Vec<Finding> = facts.servers.iter().flat_map(|server| of_server(facts, server)).collect();
    if facts.untried > 0 {
        let evidence = format!("{} more servers were not tried", facts.untried);
        all.push(Finding::new("server", Skip, "servers", evidence).next("websocket-bridge doctor --session NAME"));
    }
    all
}

/// A URL without what may be secret.
fn shown(server: &Server) -> String {
    format!("{}{}", server.url.origin().ascii_serialization(), server.url.path())
}

/// The way to one server, step by step: those that were passed, then the one that was not.
fn of_server(facts: &Facts, server: &Server) -> Vec<Finding> {
    let subject = format!("{}: {}", server.subject, shown(server));
    let finding = |check, status, evidence: String| Finding::new(check, status, subject.clone(), evidence);
    if let Some(refusal) = &server.refusal {
        let next = format!("websocket-bridge install --extension ID --url {}", quoted(&shown(server)));
        return vec![finding("server-allowed", Fail, refusal.clone()).next(next)];
    }
    let mut all = Vec::new();
    let mut last = Duration::ZERO;
    let mut certificates: &[Certificate] = &[];
    let mut has_pong = false;
    let mut proxy = "";
    for (found, at) in &server.found {
        let took = ms(at.saturating_sub(last));
        last = *at;
        match found {
            Found::Proxy(named) => proxy = named,
            Found::Tunnel => {
                let evidence = format!("reached through {proxy} ({took}), which looks up its name");
                all.push(finding("server-proxy", Fine, evidence + of_environment(proxy)));
            }
            Found::Addresses(addresses) => {
                let listed: Vec<String> = addresses.iter().take(4).map(IpAddr::to_string).collect();
                all.push(finding("server-dns", Fine, format!("{} ({took})", listed.join(", "))));
            }
            Found::Peer(peer) => all.push(finding("server-tcp", Fine, format!("connected to {peer} ({took})"))),
            Found::Certificates(shown) => certificates = shown,
            Found::Encrypted => all.push(of_certificate(facts, certificates, finding("server-tls", Fine, took))),
            Found::Date(_) => {}
            Found::WebSocket => all.push(finding("server-upgrade", Fine, format!("it is a WebSocket ({took})"))),
            Found::Pong => {
                has_pong = true;
                all.push(finding("server-ping", Fine, format!("answered ({took})")));
            }
        }
    }
    match &server.end {
        Some(Ok(())) if has_pong => {}
        Some(Ok(())) => {
            let evidence =
                "it does not answer pings: `received` then means written, and a dead connection is noticed late";
            all.push(
                finding("server-ping", Warn, evidence.to_owned()).next("let the server answer pings (RFC 6455, 5.5.2)"),
            );
        }
        Some(Err(reason)) => all.push(of_reason(facts, server, certificates, reason, &finding)),
        None => {
            let check = match server.found.last() {
                None => "server-dns",
                Some((Found::Proxy(_), _)) => "server-proxy",
                Some((Found::Tunnel, _)) if server.url.scheme() == "wss" => "server-tls",
                Some((Found::Addresses(_), _)) => "server-tcp",
                Some((Found::Peer(_), _)) if server.url.scheme() == "wss" => "server-tls",
                Some((Found::Certificates(_), _)) => "server-tls",
                Some((Found::WebSocket, _)) => "server-ping",
                Some(_) => "server-upgrade",
            };
            let evidence = "no answer in the time that the doctor has".to_owned();
            all.push(
                finding(check, Fail, evidence).next("see whether the server works, and what is between it and here"),
            );
        }
    }
    all
}

/// A certificate that was taken.
fn of_certificate(facts: &Facts, certificates: &[Certificate], took: Finding) -> Finding {
    let Some(own) = certificates.first() else { return took };
    let left = own.not_after - seconds(facts.now);
    let chain: Vec<String> = certificates.iter().map(Certificate::to_string).collect();
    let evidence = format!("{}, valid until {} ({})", chain.join(" < "), date(own.not_after), took.evidence);
    if left < EXPIRES_SOON {
        let next = "renew the server's certificate";
        return Finding { status: Warn, evidence, ..took }.next(next);
    }
    Finding { evidence, ..took }
}

fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs().cast_signed())
}

fn date(seconds: i64) -> String {
    let since = Duration::from_secs(seconds.max(0).cast_unsigned());
    // The format ends with the year 9999.
    UNIX_EPOCH
        .checked_add(since.min(Duration::from_secs(253_402_300_799)))
        .map_or_else(String::new, httpdate::fmt_http_date)
}

/// Why there is no connection, at which step, and what to do.
fn of_reason(
    facts: &Facts,
    server: &Server,
    certificates: &[Certificate],
    reason: &Reason,
    finding: &impl Fn(&'static str, Status, String) -> Finding,
) -> Finding {
    let host = server.url.host_str().unwrap_or_default();
    let port = server.url.port_or_known_default().unwrap_or_default();
    let message = reason.message.clone();
    let is_upgraded = server.found.iter().any(|(found, _)| *found == Found::WebSocket);
    match reason.code {
        _ if is_upgraded => finding("server-ping", Fail, message)
            .next("read the server's log: it ends the connection at once, before anything was sent"),
        "dns" => finding("server-dns", Fail, message).next(format!("nslookup {}", quoted(host))),
        code @ ("refused" | "timeout" | "network")
            if !server.found.iter().any(|(found, _)| matches!(found, Found::Peer(_))) =>
        {
            let next = match code {
                "refused" => format!("start the server, or correct the port: nothing listens at {port}"),
                "timeout" => format!("see whether a firewall is in the way to {host}, port {port}"),
                _ => format!("see whether this machine is online and may reach {host}"),
            };
            finding("server-tcp", Fail, message).next(next)
        }
        "proxy-unusable" | "proxy-unreachable" | "proxy-auth" | "proxy-refused" | "proxy-failed" => {
            let note = of_environment(&message);
            finding("server-proxy", Fail, message.clone() + note).next(of_proxy(reason.code))
        }
        "tls-file" => finding("server-tls", Fail, message).next("correct that file, or `tls` in config.toml"),
        // It is about the certificate of this side, not about the server's.
        "tls" if message.contains("`tls.client_cert`") => {
            let next =
                "set `tls.client_cert` and `tls.client_key` of the session in config.toml to what the server takes";
            finding("server-tls", Fail, message).next(next)
        }
        "tls" => {
            let (cause, next) = of_refused_certificate(facts, certificates, &reason.message, host);
            finding("server-tls", Fail, format!("{cause}; {message}")).next(next)
        }
        "http-status" => {
            let status = reason.http_status.unwrap_or_default();
            let next = match message.contains("(captive portal)") {
                true => "open any page in the browser, log in to the network, and look again".to_owned(),
                false => of_status(status, server),
            };
            finding("server-upgrade", Fail, message).next(next)
        }
        "upgrade-timeout" => finding("server-upgrade", Fail, message)
            .next("see whether the server behind that port is stuck, or speaks another protocol"),
        "upgrade" if reason.message.contains("sub-protocol") => {
            finding("server-upgrade", Fail, message).next("let `protocols` of `open` name one that the server speaks")
        }
        "upgrade" => finding("server-upgrade", Fail, message)
            .next("correct the path of the URL: what answers there is no WebSocket server"),
        _ => {
            let hint = if server.url.scheme() == "ws" {
                "if the server wants TLS, write wss://"
            } else {
                "read the server's log"
            };
            finding("server-upgrade", Fail, message).next(hint)
        }
    }
}

/// The environment that counts is not the one of the person who asks.
fn of_environment(named: &str) -> &'static str {
    if named.contains("environment") {
        "; the daemon has the environment of the browser that started it, which may be another one than this terminal's"
    } else {
        ""
    }
}

/// What to do when a proxy does not lead to the server.
fn of_proxy(code: &str) -> &'static str {
    match code {
        "proxy-unusable" => {
            "correct that, or set `proxy` in config.toml: http://HOST:PORT, socks5://HOST:PORT or \"none\""
        }
        "proxy-unreachable" => {
            "start the proxy, or set `proxy` in config.toml: the right one, or \"none\" to go without"
        }
        "proxy-auth" => "set `proxy` in config.toml to http://USER:PASSWORD@HOST:PORT (or socks5://…)",
        "proxy-refused" => {
            "ask whoever runs the proxy to let this server through, or set another `proxy` in config.toml"
        }
        _ => "see whether the server is there, and whether the proxy is one of that kind (http:// or socks5://)",
    }
}

fn of_status(status: u16, server: &Server) -> String {
    let without =
        if server.is_whole { "" } else { " (the doctor asks without the query of the URL, which may hold a token)" };
    match status {
        401 => format!("give the extension a valid credential{without}"),
        403 => format!("see whether the server lets this extension's Origin in{without}"),
        404 | 410 => "correct the path of the URL".to_owned(),
        407 => "give the proxy its credentials, or go around it".to_owned(),
        426 => "see which version of WebSocket the server wants".to_owned(),
        429 => "wait: the server has had too many requests from here".to_owned(),
        300..=399 => "write the address that it points to into the configuration or the extension".to_owned(),
        502..=504 => "start the server behind that proxy: the proxy answers, the server does not".to_owned(),
        500..=599 => "read the server's log".to_owned(),
        _ => "see whether a WebSocket server answers at that URL".to_owned(),
    }
}

/// What is wrong with a certificate that was refused.
fn of_refused_certificate(facts: &Facts, certificates: &[Certificate], said: &str, host: &str) -> (String, String) {
    let now = seconds(facts.now);
    let Some(own) = certificates.first() else {
        let cause = "there was no handshake".to_owned();
        return (
            cause,
            "see whether the server speaks TLS at that port; without it, the URL begins with ws://".to_owned(),
        );
    };
    let expired = certificates.iter().find(|certificate| certificate.not_after < now);
    if let Some(expired) = expired {
        let cause = format!("the certificate {expired} expired on {}", date(expired.not_after));
        return (cause, "renew the server's certificate (or correct this machine's clock)".to_owned());
    }
    if let Some(early) = certificates.iter().find(|certificate| certificate.not_before > now) {
        let cause = format!("the certificate {early} is valid only from {}", date(early.not_before));
        return (cause, "correct this machine's clock (or the certificate)".to_owned());
    }
    if said.contains("not valid for name") || said.contains("NotValidForName") {
        let cause = format!("the certificate {own} is not for {host}");
        return (cause, "use a name that is in the certificate, or have one made for this name".to_owned());
    }
    if own.is_self_signed {
        let cause = format!("the certificate {own} is self-signed");
        return (cause, "add it to the certificates that this system trusts (or name its file as `tls.ca_file` of the session in config.toml), or \
             get one from an authority"
                .to_owned());
    }
    let cause = format!("nobody whom this system trusts vouches for {own}");
    (cause, "let the server send its whole chain, or add its authority to those that this system trusts, or name its file as \
         `tls.ca_file` of the session in config.toml"
            .to_owned())
}
