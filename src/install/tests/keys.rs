//! Windows: manifests to which registry keys lead, in a registry of the test's own. The files are real.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{ADDON, ID, OTHER_ID};
use crate::config::Env;
use crate::install::browsers::{Hive, Key, Location, Platform, Scope, View};
use crate::install::registry::Registry;
use crate::install::*;

/// A registry that forgets.
#[derive(Debug, Default)]
pub(super) struct Memory(Mutex<BTreeMap<Key, Option<String>>>);

impl Registry for Memory {
    fn value(&self, key: &Key) -> io::Result<Option<String>> {
        Ok(self.0.lock().unwrap().get(key).cloned().flatten())
    }

    fn contains(&self, key: &Key) -> io::Result<bool> {
        Ok(self.0.lock().unwrap().contains_key(key))
    }

    fn set(&self, key: &Key, value: &str) -> io::Result<()> {
        let mut keys = self.0.lock().unwrap();
        key.ancestors().for_each(|above| {
            keys.entry(above).or_default();
        });
        keys.insert(key.clone(), Some(value.to_owned()));
        Ok(())
    }

    fn remove(&self, key: &Key) -> io::Result<()> {
        let mut keys = self.0.lock().unwrap();
        if keys.keys().any(|below| below.ancestors().any(|above| above == *key)) {
            return Err(io::Error::from(io::ErrorKind::DirectoryNotEmpty));
        }
        keys.remove(key);
        Ok(())
    }

    fn is_empty(&self, key: &Key) -> io::Result<bool> {
        let keys = self.0.lock().unwrap();
        let is_below = |below: &Key| below.ancestors().any(|above| above == *key);
        Ok(keys.get(key).is_none_or(Option::is_none) && !keys.keys().any(is_below))
    }
}

impl Memory {
    fn keys(&self) -> BTreeMap<Key, Option<String>> {
        self.0.lock().unwrap().clone()
    }
}

/// A key of the user, in which a vendor's browsers look.
fn key(vendor: &str) -> Key {
    let path = format!(r"Software\{vendor}\NativeMessagingHosts\com.semantest.websocket_bridge");
    Key { hive: Hive::User, view: View::Bits64, path }
}

/// A Windows machine.
struct Machine {
    directory: TempDir,
    registry: Arc<Memory>,
    context: Context,
}

impl Machine {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let at = |path| descend(directory.path(), path);
        let registry = Arc::new(Memory::default());
        registry.set(&Key { path: r"Software\Google".to_owned(), ..key("") }, "of somebody else").unwrap();
        fs::create_dir(at("data")).unwrap();
        fs::write(at("download.exe"), "program").unwrap();
        let context = Context {
            platform: Platform::Windows,
            env: Env::default(),
            root: directory.path().to_owned(),
            browsers: Platform::Windows.browsers(),
            current_exe: at("download.exe"),
            binary_dir: at("data/bin"),
            manifest_dir: at("data/manifests"),
            registry: Arc::<Memory>::clone(&registry),
            name_file: None,
            config_file: at("config.toml"),
            receipt: at("data/receipt.json"),
            purge: vec![at("data/spool.db")],
        };
        Self { directory, registry, context }
    }

    fn install(&self, browsers: &[&str], extensions: &[&str]) -> Report {
        apply(plan(&self.request(browsers, extensions), &self.context).unwrap())
    }

    fn request(&self, browsers: &[&str], extensions: &[&str]) -> Request {
        Request {
            browsers: browsers.iter().map(|&name| name.to_owned()).collect(),
            extensions: extensions.iter().map(|id| id.parse().unwrap()).collect(),
            ..Request::default()
        }
    }

    fn uninstall(&self, browsers: &[&str], extensions: &[&str]) -> Report {
        let Request { browsers, extensions, .. } = self.request(browsers, extensions);
        let removal = Removal { browsers, extensions, ..Removal::default() };
        apply(plan_removal(&removal, &self.context).unwrap())
    }

    fn manifest(&self, family: &str) -> PathBuf {
        let name = format!("data/manifests/{family}/com.semantest.websocket_bridge.json");
        descend(self.directory.path(), &name)
    }

    fn origins(&self) -> Value {
        let manifest: Value = serde_json::from_slice(&fs::read(self.manifest("chromium")).unwrap()).unwrap();
        manifest["allowed_origins"].clone()
    }

    fn value(&self, vendor: &str) -> Option<PathBuf> {
        self.registry.value(&key(vendor)).unwrap().map(PathBuf::from)
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut waiting = vec![self.directory.path().to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                waiting.extend(path.is_dir().then(|| path.clone()));
                files.push(path);
            }
        }
        files.sort();
        files
    }
}

#[track_caller]
fn assert_outcome(report: &Report, location: impl ToString, outcome: Outcome) -> &StepReport {
    let path = location.to_string();
    let step =
        report.steps.iter().find(|step| step.path == path).unwrap_or_else(|| panic!("nothing at {path}:\n{report}"));
    assert_eq!(step.outcome, outcome, "{report}");
    step
}

fn origin(id: &str) -> String {
    format!("chrome-extension://{id}/")
}

#[test]
fn all_keys_of_a_family_lead_to_one_manifest_and_everything_goes_again() {
    let machine = Machine::new();
    let (files, keys) = (machine.files(), machine.registry.keys());
    let report = machine.install(&["chrome", "chrome-beta", "edge", "firefox"], &[ID, ADDON]);
    assert!(report.ok, "{report}");
    let step = assert_outcome(&report, key(r"Google\Chrome"), Outcome::Created);
    assert_eq!(step.subject, "Google Chrome, Google Chrome Beta");
    assert_eq!(machine.value(r"Google\Chrome"), Some(machine.manifest("chromium")));
    assert_eq!(machine.value(r"Microsoft\Edge"), Some(machine.manifest("chromium")));
    assert_eq!(machine.value("Mozilla"), Some(machine.manifest("firefox")));
    assert_eq!(machine.value("Chromium"), None, "Edge merely looks there too");

    let again = machine.install(&["chrome", "chrome-beta", "edge", "firefox"], &[ID, ADDON]);
    assert!(again.steps.iter().all(|step| step.outcome == Outcome::Unchanged), "{again}");

    let report = machine.uninstall(&[], &[]);
    assert!(report.ok, "{report}");
    assert_eq!((machine.files(), machine.registry.keys()), (files, keys));
}

#[test]
fn a_key_and_a_manifest_stay_as_long_as_a_browser_needs_them() {
    let machine = Machine::new();
    machine.install(&["chrome", "opera", "edge"], &[ID]);
    let report = machine.uninstall(&["chrome"], &[]);
    let step = assert_outcome(&report, key(r"Google\Chrome"), Outcome::Unchanged);
    assert_eq!(step.detail.as_deref(), Some("still used by opera"));
    assert!(machine.value(r"Google\Chrome").is_some());

    let report = machine.uninstall(&["opera"], &[]);
    assert_outcome(&report, key(r"Google\Chrome"), Outcome::Removed);
    assert_outcome(&report, key("Chromium"), Outcome::Removed);
    assert!(machine.value(r"Microsoft\Edge").is_some() && machine.manifest("chromium").exists());
    assert!(machine.registry.contains(&Key { path: r"Software\Google".to_owned(), ..key("") }).unwrap());

    let report = machine.uninstall(&["edge"], &[]);
    assert_outcome(&report, machine.manifest("chromium").display(), Outcome::Removed);
    assert!(!machine.context.stable_program().exists());
}

#[test]
fn ids_are_added_for_the_whole_family_and_taken_away_for_it() {
    let machine = Machine::new();
    machine.install(&["chrome"], &[ID]);
    machine.install(&["edge"], &[OTHER_ID]);
    assert_eq!(machine.origins(), json!([origin(ID), origin(OTHER_ID)]), "the first key that is found counts");

    let report = machine.uninstall(&["edge"], &[ID]);
    let step = assert_outcome(&report, machine.manifest("chromium").display(), Outcome::Skipped);
    assert!(step.next.as_ref().unwrap().contains("--browser"), "{report}");
    assert_eq!(machine.origins(), json!([origin(ID), origin(OTHER_ID)]));

    let report = machine.uninstall(&[], &[ID]);
    assert_outcome(&report, machine.manifest("chromium").display(), Outcome::Updated);
    assert_eq!(machine.origins(), json!([origin(OTHER_ID)]));
    machine.uninstall(&[], &[OTHER_ID]);
    assert_eq!(machine.value(r"Google\Chrome"), None);
    assert!(!machine.manifest("chromium").exists());
}

#[test]
fn a_foreign_key_is_left_alone_and_the_others_are_served() {
    let machine = Machine::new();
    let foreign = descend(machine.directory.path(), "foreign.json");
    fs::write(&foreign, json!({"path": r"C:\else.exe", "description": "Else"}).to_string()).unwrap();
    let value = foreign.display().to_string();
    machine.registry.set(&key(r"Google\Chrome"), &value).unwrap();

    let report = machine.install(&["chrome", "edge"], &[ID]);
    assert!(!report.ok);
    let step = assert_outcome(&report, key(r"Google\Chrome"), Outcome::Refused);
    let detail = step.detail.as_ref().unwrap();
    assert!(
        detail.contains("foreign.json: the manifest that is there starts") && detail.contains("(Else)"),
        "{detail}"
    );
    assert_outcome(&report, key(r"Microsoft\Edge"), Outcome::Created);
    assert_outcome(&machine.uninstall(&[], &[]), key(r"Google\Chrome"), Outcome::Skipped);
    assert_eq!(machine.value(r"Google\Chrome"), Some(foreign.clone()));

    let report = machine.install(&["chrome"], &[ID]);
    assert!(!report.ok && !machine.manifest("chromium").exists(), "no key leads there: {report}");
    let request = Request { force: true, ..machine.request(&["chrome"], &[ID]) };
    assert!(apply(plan(&request, &machine.context).unwrap()).ok);
    assert_eq!(machine.value(r"Google\Chrome"), Some(machine.manifest("chromium")));
    fs::remove_file(foreign).unwrap();
}

#[test]
fn a_key_that_leads_nowhere_is_foreign_too() {
    let machine = Machine::new();
    machine.registry.set(&key("Mozilla"), r"C:\gone.json").unwrap();
    let report = machine.install(&["firefox"], &[ADDON]);
    let step = assert_outcome(&report, key("Mozilla"), Outcome::Refused);
    assert_eq!(step.detail.as_deref(), Some(r"the key that is there names C:\\gone.json: which is not there"));
}

#[test]
fn no_key_leads_to_a_manifest_that_could_not_be_written() {
    let machine = Machine::new();
    fs::write(machine.directory.path().join("data/manifests"), "not a directory").unwrap();
    let plan = plan(&machine.request(&["chrome"], &[ID]), &machine.context);
    let report = apply(plan.unwrap());
    assert!(!report.ok, "{report}");
    assert_eq!(machine.value(r"Google\Chrome"), None);
}

#[test]
fn the_machines_keys_are_those_that_browsers_read_first() {
    let machine = Machine::new();
    let request = Request { scope: Scope::System, ..machine.request(&["chrome"], &[ID]) };
    assert!(apply(plan(&request, &machine.context).unwrap()).ok);
    let first = Key { hive: Hive::Machine, view: View::Bits32, ..key(r"Google\Chrome") };
    let last = Key { view: View::Bits64, ..first.clone() };
    assert!(machine.registry.value(&first).unwrap().is_some());
    assert_eq!(machine.registry.value(&last).unwrap(), None);
}

#[test]
fn a_user_data_directory_is_refused_where_browsers_ask_the_registry() {
    let machine = Machine::new();
    let request =
        Request { user_data_dirs: vec![machine.directory.path().join("profile")], ..machine.request(&[], &[ID]) };
    let error = plan(&request, &machine.context).unwrap_err();
    assert!(error.to_string().contains("registry") && error.next_step().unwrap().contains("--browser"), "{error}");
}

#[test]
fn a_receipt_names_keys_so_that_they_are_found_again() {
    let machine = Machine::new();
    machine.install(&["edge"], &[ID]);
    let receipt: Value = serde_json::from_slice(&fs::read(&machine.context.receipt).unwrap()).unwrap();
    let path = r"Software\Microsoft\Edge\NativeMessagingHosts\com.semantest.websocket_bridge";
    let expected = json!([{"path": {"hive": "HKCU", "view": "64", "path": path}, "browsers": ["edge"]}]);
    assert_eq!(receipt["manifests"], expected);
}

/// What other systems have of the real one: nothing, and they say so.
#[cfg(not(windows))]
#[test]
fn where_there_is_no_registry_a_key_is_refused_clearly() {
    let mut machine = Machine::new();
    machine.context.registry = Arc::new(registry::System);
    let report = machine.install(&["chrome"], &[ID]);
    let step = assert_outcome(&report, key(r"Google\Chrome"), Outcome::Failed);
    assert!(step.detail.as_ref().unwrap().ends_with("this system has no registry"), "{report}");
    assert!(!report.ok);
}

#[test]
fn a_location_is_written_as_people_know_it() {
    let (user, machine) = (key("Mozilla"), Key { hive: Hive::Machine, ..key("Mozilla") });
    let path = r"Software\Mozilla\NativeMessagingHosts\com.semantest.websocket_bridge";
    assert_eq!(Location::Key(user).to_string(), format!(r"HKCU\{path}"));
    assert_eq!(machine.to_string(), format!(r"HKLM\{path}"));
    assert_eq!(Key { view: View::Bits32, ..machine }.to_string(), format!(r"HKLM\{path} (32-bit)"));
    assert_eq!(Location::from(Path::new("/x")).to_string(), "/x");
}

/// Below a key of its own, which goes again.
#[cfg(windows)]
#[test]
fn the_real_registry_does_what_the_one_of_the_tests_does() {
    let start = Key { path: format!(r"Software\websocket-bridge-test-{:016x}", fastrand::u64(..)), ..key("") };
    let host = Key { path: format!(r"{}\NativeMessagingHosts\host", start.path), ..start.clone() };
    let memory = Memory::default();
    for registry in [&memory as &dyn Registry, &registry::System] {
        let above: Vec<Key> = host.ancestors().take(2).collect();
        assert_eq!((registry.value(&host).unwrap(), registry.contains(&start).unwrap()), (None, false));
        registry.remove(&host).unwrap();
        registry.set(&host, r"C:\Users\Jürgen\host.json").unwrap();
        assert_eq!(registry.value(&host).unwrap().as_deref(), Some(r"C:\Users\Jürgen\host.json"));
        assert_eq!((registry.value(&start).unwrap(), registry.contains(&start).unwrap()), (None, true));
        assert!(!registry.is_empty(&host).unwrap() && !registry.is_empty(&above[0]).unwrap());
        registry.remove(&start).unwrap_err();
        registry.remove(&host).unwrap();
        for key in &above {
            assert!(registry.is_empty(key).unwrap());
            registry.remove(key).unwrap();
        }
        assert!(!registry.contains(&start).unwrap());
    }
}
