//! Installs into a machine that is a temporary directory: its root, its home, its environment.
//!
//! Nothing here looks at the machine that the tests run on, and permissions are never the reason for a failure,
//! because tests may run as root.

use std::collections::BTreeMap;
use std::error::Error as _;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tempfile::TempDir;
use url::Url;

use super::{ADDON, ID, OTHER_ID};
use crate::config::{Config, HOME_VARIABLE, HOST_NAME, Paths};
use crate::install::allow::{Allowed, Need};
use crate::install::browsers::{Browser, Confidence, Detection, Family, Location, Place, Platform, Row, Scope, Site};
use crate::install::registry::System;
use crate::install::*;

/// A whole machine in a temporary directory.
struct Machine {
    directory: TempDir,
    context: Context,
}

impl Machine {
    /// A machine without any browser.
    fn bare() -> Self {
        let directory = TempDir::new().unwrap();
        let root = directory.path().to_owned();
        let home = root.join("home");
        fs::create_dir_all(root.join("download")).unwrap();
        fs::create_dir_all(&home).unwrap();
        let current_exe = root.join("download/websocket-bridge");
        fs::write(&current_exe, "program, first version").unwrap();
        fs::set_permissions(&current_exe, fs::Permissions::from_mode(0o755)).unwrap();
        let data = home.join("share/websocket-bridge");
        let context = Context {
            platform: Platform::Linux,
            env: Env::from_iter([("HOME", home.clone()), ("PATH", root.join("bin"))]),
            root,
            browsers: Platform::Linux.browsers(),
            current_exe,
            binary_dir: data.join("bin"),
            manifest_dir: data.join("manifests"),
            registry: Arc::new(System),
            name_file: None,
            config_file: home.join("conf/websocket-bridge/config.toml"),
            receipt: data.join("receipt.json"),
            purge: vec![home.join("conf/websocket-bridge/config.toml"), data.join("spool.db"), data.join("logs")],
        };
        Self { directory, context }
    }

    /// A machine on which Chrome, Chromium and Firefox have run.
    fn with_browsers() -> Self {
        let machine = Self::bare();
        for profile in [".config/google-chrome", ".config/chromium", ".mozilla/firefox"] {
            fs::create_dir_all(machine.home(profile)).unwrap();
            fs::write(machine.home(profile).join("Local State"), "{}").unwrap();
        }
        machine
    }

    fn home(&self, path: &str) -> PathBuf {
        self.directory.path().join("home").join(path)
    }

    fn manifest(&self, browser: &str) -> PathBuf {
        let directory = match browser {
            "chrome" => ".config/google-chrome/NativeMessagingHosts",
            "chromium" => ".config/chromium/NativeMessagingHosts",
            "firefox" => ".mozilla/native-messaging-hosts",
            other => panic!("no browser {other}"),
        };
        self.home(directory).join(format!("{HOST_NAME}.json"))
    }

    fn program(&self) -> PathBuf {
        self.context.stable_program()
    }

    fn install(&self, request: &Request) -> Report {
        apply(plan(request, &self.context).unwrap())
    }

    fn uninstall(&self, removal: &Removal) -> Report {
        apply(plan_removal(removal, &self.context).unwrap())
    }

    fn config(&self) -> String {
        fs::read_to_string(&self.context.config_file).unwrap()
    }

    fn write_config(&self, text: &str) {
        fs::create_dir_all(self.context.config_file.parent().unwrap()).unwrap();
        fs::write(&self.context.config_file, text).unwrap();
    }

    /// Every path below the root, with what is in it.
    fn contents(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut contents = BTreeMap::new();
        let mut waiting = vec![self.directory.path().to_owned()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    contents.insert(path.clone(), Vec::new());
                    waiting.push(path);
                } else {
                    contents.insert(path.clone(), fs::read(&path).unwrap());
                }
            }
        }
        contents
    }
}

fn ids(ids: &[&str]) -> Vec<ExtensionId> {
    ids.iter().map(|id| id.parse().unwrap()).collect()
}

fn request(extensions: &[&str]) -> Request {
    Request { extensions: ids(extensions), ..Request::default() }
}

fn request_for(browsers: &[&str], extensions: &[&str]) -> Request {
    Request { browsers: browsers.iter().map(|&name| name.to_owned()).collect(), ..request(extensions) }
}

fn removal_for(browsers: &[&str]) -> Removal {
    Removal { browsers: browsers.iter().map(|&name| name.to_owned()).collect(), ..Removal::default() }
}

fn request_with_url(extensions: &[&str], url: &str) -> Request {
    Request { url: Some(Url::parse(url).unwrap()), ..request(extensions) }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o777
}

fn write_foreign(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let manifest = json!({
        "name": HOST_NAME, "description": "Somebody else\u{202e}", "path": "/opt/else/host", "type": "stdio",
        "allowed_origins": [format!("chrome-extension://{OTHER_ID}/")],
    });
    fs::write(path, manifest.to_string()).unwrap();
}

#[track_caller]
fn step<'a>(report: &'a Report, path: &Path) -> &'a StepReport {
    let path = path.display().to_string();
    report.steps.iter().find(|step| step.path == path).unwrap_or_else(|| panic!("no step at {path} in:\n{report}"))
}

#[track_caller]
fn assert_outcome(report: &Report, path: &Path, outcome: Outcome) {
    assert_eq!(step(report, path).outcome, outcome, "{report}");
}

mod places {
    use super::super::table::browser;
    use super::*;

    /// Where install writes for the user.
    fn manifests_of(name: &str, env: &[(&str, &str)]) -> Option<PathBuf> {
        let env = env.iter().copied().collect();
        let row = browser(Platform::Linux, name).rows.iter().find(|row| row.is_written && row.scope == Scope::User);
        match row.unwrap().locate(Platform::Linux, &env, Path::new("/"), &HostName::default())? {
            Location::File(path) => Some(path.parent().unwrap().to_owned()),
            Location::Key(key) => panic!("{key}"),
        }
    }

    #[test]
    fn chromium_looks_in_the_first_directory_that_the_environment_names() {
        let home = ("HOME", "/h");
        let (xdg, own) = (("XDG_CONFIG_HOME", "/x"), ("CHROME_CONFIG_HOME", "/c"));
        let at = |path: &str| Some(PathBuf::from(path));
        assert_eq!(manifests_of("chromium", &[home]), at("/h/.config/chromium/NativeMessagingHosts"));
        assert_eq!(manifests_of("chrome", &[home]), at("/h/.config/google-chrome/NativeMessagingHosts"));
        assert_eq!(manifests_of("chrome", &[home, xdg]), at("/x/google-chrome/NativeMessagingHosts"));
        assert_eq!(manifests_of("chrome", &[home, xdg, own]), at("/c/google-chrome/NativeMessagingHosts"));
        assert_eq!(manifests_of("firefox", &[home, xdg, own]), at("/h/.mozilla/native-messaging-hosts"));
        assert_eq!(manifests_of("chrome", &[]), None);
    }

    #[test]
    fn a_browser_is_found_by_its_profile_on_the_path_or_at_its_well_known_place() {
        let machine = Machine::bare();
        let found = || {
            let Context { env, root, .. } = &machine.context;
            let found = Platform::Linux.browsers().iter().filter(|browser| browser.is_found(env, root));
            found.map(|browser| browser.name).collect::<Vec<_>>()
        };
        let program = |path: &str, mode| {
            let path = machine.directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(found(), [""; 0]);
        fs::create_dir_all(machine.directory.path().join("bin/chromium")).unwrap();
        program("bin/google-chrome", 0o644);
        assert_eq!(found(), [""; 0], "neither a directory nor a document is a program");
        program("bin/google-chrome-stable", 0o755);
        assert_eq!(found(), ["chrome"]);
        program("usr/lib/firefox-esr/firefox-esr", 0o755);
        assert_eq!(found(), ["chrome", "firefox"]);
        fs::create_dir_all(machine.home(".config/chromium")).unwrap();
        assert_eq!(found(), ["chrome", "chromium", "firefox"]);
    }

    #[test]
    fn without_a_home_directory_nothing_is_guessed() {
        let mut machine = Machine::bare();
        machine.context.env = Env::default();
        let error = plan(&request_for(&["firefox"], &[ADDON]), &machine.context).unwrap_err();
        assert!(matches!(error, InstallError::NoHome { browser: "Firefox" }), "{error}");
    }

    #[test]
    fn a_directory_with_nothing_but_manifests_is_no_sign_of_a_browser() {
        let machine = Machine::bare();
        let is_found = || browser(Platform::Linux, "chromium").is_found(&machine.context.env, &machine.context.root);
        fs::create_dir_all(machine.manifest("chromium").parent().unwrap()).unwrap();
        assert!(!is_found());
        fs::write(machine.home(".config/chromium/Local State"), "{}").unwrap();
        assert!(is_found());
    }
}

mod installing {
    use super::*;

    #[test]
    fn every_browser_that_is_found_gets_a_manifest_in_its_own_format() {
        let machine = Machine::with_browsers();
        let report = machine.install(&request(&[ID, ADDON]));
        assert!(report.ok, "{report}");

        let path = machine.program().display().to_string();
        let description = "Keeps WebSocket streams alive while the extension sleeps";
        for browser in ["chrome", "chromium"] {
            assert_eq!(
                read_json(&machine.manifest(browser)),
                json!({
                    "name": HOST_NAME, "description": description, "path": path, "type": "stdio",
                    "allowed_origins": [format!("chrome-extension://{ID}/")],
                })
            );
        }
        assert_eq!(
            read_json(&machine.manifest("firefox")),
            json!({
                "name": HOST_NAME, "description": description, "path": path, "type": "stdio",
                "allowed_extensions": [ADDON],
            })
        );
        for browser in ["chrome", "chromium", "firefox"] {
            assert_outcome(&report, &machine.manifest(browser), Outcome::Created);
            assert_eq!(mode(&machine.manifest(browser)), 0o644);
            assert!(fs::read(machine.manifest(browser)).unwrap().starts_with(b"{"), "no byte order mark");
        }
    }

    #[test]
    fn the_program_is_copied_to_its_stable_place() {
        let machine = Machine::with_browsers();
        let report = machine.install(&request(&[ID]));
        assert_outcome(&report, &machine.program(), Outcome::Created);
        assert_eq!(fs::read(machine.program()).unwrap(), b"program, first version");
        assert_eq!(mode(&machine.program()), 0o755);
        assert_eq!(mode(machine.program().parent().unwrap()), 0o700);
    }

    #[test]
    fn a_new_version_replaces_the_file_and_not_its_content_so_that_a_running_one_goes_on() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        let running = fs::File::open(machine.program()).unwrap();
        fs::write(&machine.context.current_exe, "program, second version").unwrap();
        let report = machine.install(&request(&[ID]));
        assert_outcome(&report, &machine.program(), Outcome::Updated);
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Unchanged);
        assert_eq!(fs::read(machine.program()).unwrap(), b"program, second version");
        assert_eq!(io::read_to_string(running).unwrap(), "program, first version");
        let left = fs::read_dir(&machine.context.binary_dir).unwrap().count();
        assert_eq!(left, 1, "no temporary file is left");
    }

    /// Windows leaves one there.
    #[test]
    fn a_program_that_ran_when_it_was_replaced_is_removed_with_the_next_one_or_with_everything() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        let left = machine.program().with_file_name(".websocket-bridge.0123456789abcdef.replaced");
        fs::write(&left, "program, older version").unwrap();
        fs::write(&machine.context.current_exe, "program, second version").unwrap();
        machine.install(&request(&[ID]));
        assert!(!left.exists());
        fs::write(&left, "program, older version").unwrap();
        machine.uninstall(&Removal::default());
        assert!(!machine.home("share").exists());
    }

    #[test]
    fn the_installed_program_does_not_copy_itself() {
        let mut machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        machine.context.current_exe = machine.program();
        let report = machine.install(&request(&[ID]));
        assert_outcome(&report, &machine.program(), Outcome::Unchanged);
    }

    #[test]
    fn a_copy_that_may_not_be_run_is_replaced() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        fs::set_permissions(machine.program(), fs::Permissions::from_mode(0o644)).unwrap();
        assert_outcome(&machine.install(&request(&[ID])), &machine.program(), Outcome::Updated);
        assert_eq!(mode(&machine.program()), 0o755);
    }

    #[test]
    fn in_place_the_manifest_names_the_running_program() {
        let machine = Machine::with_browsers();
        let report = machine.install(&Request { in_place: true, ..request(&[ID]) });
        assert!(report.ok, "{report}");
        let path = machine.context.current_exe.display().to_string();
        assert_eq!(read_json(&machine.manifest("chrome"))["path"], path);
        assert!(!machine.program().exists());
    }

    #[test]
    fn a_second_run_changes_nothing() {
        let machine = Machine::with_browsers();
        let request = request_with_url(&[ID, ADDON], "wss://example.org/ws");
        machine.install(&request);
        let before = machine.contents();
        let report = machine.install(&request);
        assert!(report.ok);
        assert!(report.steps.iter().all(|step| step.outcome == Outcome::Unchanged), "{report}");
        assert_eq!(machine.contents(), before);
    }

    #[test]
    fn a_dry_run_writes_nothing_and_says_what_would_be_done() {
        let machine = Machine::with_browsers();
        let before = machine.contents();
        let request = request_with_url(&[ID, ADDON], "wss://example.org/ws");
        let dry = machine.install(&Request { dry_run: true, ..request.clone() });
        assert_eq!(machine.contents(), before);
        assert!(dry.to_string().contains("would create"), "{dry}");
        let real = machine.install(&request);
        assert_eq!(dry.steps, real.steps);

        let before = machine.contents();
        let dry = machine.uninstall(&Removal { dry_run: true, ..Removal::default() });
        assert_eq!(machine.contents(), before);
        assert_eq!(dry.steps, machine.uninstall(&Removal::default()).steps);
    }

    #[test]
    fn ids_are_added_to_those_that_a_manifest_of_ours_lets_in() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        let report = machine.install(&request(&[OTHER_ID, ID]));
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Updated);
        let both = json!([format!("chrome-extension://{ID}/"), format!("chrome-extension://{OTHER_ID}/")]);
        assert_eq!(read_json(&machine.manifest("chrome"))["allowed_origins"], both);
        let report = machine.install(&request(&[]));
        assert!(report.ok, "those that are in stay without being named again: {report}");
        assert_eq!(read_json(&machine.manifest("chrome"))["allowed_origins"], both);
    }

    #[test]
    fn a_damaged_entry_does_not_survive_because_the_browser_would_refuse_the_whole_manifest() {
        let machine = Machine::with_browsers();
        machine.install(&request_for(&["chrome"], &[ID]));
        let mut manifest = read_json(&machine.manifest("chrome"));
        manifest["allowed_origins"] = json!([format!("chrome-extension://{OTHER_ID}"), "chrome-extension://*/"]);
        fs::write(machine.manifest("chrome"), format!("\u{feff}{manifest}")).unwrap();
        assert!(machine.install(&request_for(&["chrome"], &[])).ok);
        let mended = json!([format!("chrome-extension://{OTHER_ID}/")]);
        assert_eq!(read_json(&machine.manifest("chrome"))["allowed_origins"], mended);
    }

    #[test]
    fn a_browser_for_which_no_id_was_given_is_skipped_with_the_reason() {
        let machine = Machine::with_browsers();
        let report = machine.install(&request(&[ID]));
        let firefox = step(&report, &machine.manifest("firefox"));
        assert_eq!(firefox.outcome, Outcome::Skipped);
        assert_eq!(firefox.detail.as_deref(), Some("no Firefox add-on id was given"));
        assert!(firefox.next.as_ref().unwrap().contains("name@domain"));
        assert!(!machine.manifest("firefox").exists());
        assert!(report.ok, "the others are served");
    }

    #[test]
    fn a_browser_that_was_named_and_cannot_be_served_is_an_error() {
        let machine = Machine::with_browsers();
        let report = machine.install(&request_for(&["chrome", "firefox"], &[ID]));
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Created);
        assert_outcome(&report, &machine.manifest("firefox"), Outcome::Refused);
        assert!(!report.ok);
    }

    #[test]
    fn without_any_id_nothing_is_written() {
        let machine = Machine::with_browsers();
        let before = machine.contents();
        let report = machine.install(&request(&[]));
        assert!(!report.ok);
        assert!(report.steps.iter().all(|step| step.outcome == Outcome::Skipped && step.next.is_some()), "{report}");
        assert_eq!(machine.contents(), before);
    }

    #[test]
    fn a_browser_that_was_named_gets_its_manifest_before_it_is_there() {
        let machine = Machine::bare();
        let report = machine.install(&request_for(&["Chromium"], &[ID]));
        assert!(report.ok, "{report}");
        let detail = step(&report, &machine.manifest("chromium")).detail.clone().unwrap();
        assert!(detail.contains("the browser was not found"), "{detail}");
    }

    #[test]
    fn an_unknown_browser_and_no_browser_are_errors_that_name_those_that_are_known() {
        let machine = Machine::bare();
        let unknown = plan(&request_for(&["netscape"], &[ID]), &machine.context).unwrap_err();
        let known = Platform::Linux.browsers().iter().map(|browser| browser.name).collect::<Vec<_>>().join(", ");
        assert_eq!(unknown.to_string(), format!("\"netscape\" is no known browser: known here are {known}"));
        let none = plan(&request(&[ID]), &machine.context).unwrap_err();
        assert!(none.to_string().ends_with(&format!("looked for {known}")), "{none}");
        assert!(none.next_step().unwrap().contains("--browser"));
        let system = Request { scope: Scope::System, ..request_for(&["tor-browser"], &[ADDON]) };
        let system = plan(&system, &machine.context).unwrap_err();
        assert!(
            system.to_string().starts_with("\"tor-browser\" is no known browser"),
            "it reads nothing there: {system}"
        );
    }

    #[test]
    fn a_user_data_directory_is_a_browser_of_its_own() {
        let machine = Machine::with_browsers();
        let directory = machine.home("test-profile/");
        let request = Request { user_data_dirs: vec![directory.clone()], ..request(&[ID]) };
        let report = machine.install(&request);
        let manifest = directory.join("NativeMessagingHosts").join(format!("{HOST_NAME}.json"));
        assert_outcome(&report, &manifest, Outcome::Created);
        assert!(!machine.manifest("chrome").exists(), "what was named is meant, and nothing else");

        let report =
            machine.uninstall(&Removal { user_data_dirs: vec![machine.home("test-profile")], ..Removal::default() });
        assert_outcome(&report, &manifest, Outcome::Removed);
        assert!(!directory.exists(), "install made it");

        let relative = Request { user_data_dirs: vec![PathBuf::from("profile")], ..request };
        let error = plan(&relative, &machine.context).unwrap_err();
        assert_eq!(error.to_string(), "profile is not an absolute path");
    }

    #[test]
    fn browsers_that_read_the_same_file_share_it() {
        const ROW: Row = Row {
            scope: Scope::User,
            site: Site::Directory(Place(&[("HOME", "shared")])),
            is_written: true,
            confidence: Confidence::Assumed,
            source: "this test",
        };
        const DETECTION: Detection =
            Detection { profiles: &[Place(&[("HOME", "")])], executables: &[], well_known: &[] };
        const fn browser(name: &'static str) -> Browser {
            let (platform, family) = (Platform::Linux, Family::Chromium);
            Browser { name, title: name, platform, family, detection: DETECTION, sandbox: None, rows: &[ROW] }
        }
        const ROWS: &[Browser] = &[browser("one"), browser("two")];
        let mut machine = Machine::bare();
        machine.context.browsers = ROWS;
        let manifest = machine.home("shared").join(format!("{HOST_NAME}.json"));
        let report = machine.install(&request(&[ID]));
        assert_eq!(step(&report, &manifest).subject, "one, two");
        assert_eq!(step(&report, &manifest).browsers, ["one", "two"]);

        let report = machine.uninstall(&removal_for(&["two"]));
        assert_eq!(step(&report, &manifest).detail.as_deref(), Some("still used by one"));
        assert!(manifest.exists());
        let report = machine.uninstall(&removal_for(&["one"]));
        assert_outcome(&report, &manifest, Outcome::Removed);
        assert!(!machine.program().exists());
    }

    #[test]
    fn a_host_under_another_name_has_a_manifest_of_its_own_and_learns_its_name() {
        let mut machine = Machine::with_browsers();
        machine.context.name_file = Some(machine.context.binary_dir.join("name"));
        let host_name: HostName = "org.example.other".parse().unwrap();
        let request = Request { host_name: host_name.clone(), ..request_for(&["chrome"], &[ID]) };
        assert!(machine.install(&request).ok);
        let manifest = machine.manifest("chrome").with_file_name("org.example.other.json");
        assert_eq!(read_json(&manifest)["name"], "org.example.other");
        assert_eq!(fs::read_to_string(machine.context.binary_dir.join("name")).unwrap(), "org.example.other\n");
        assert!(!machine.manifest("chrome").exists());

        machine.uninstall(&Removal::default());
        assert!(manifest.exists(), "it belongs to another name");
        machine.uninstall(&Removal { host_name, ..Removal::default() });
        assert!(!manifest.exists());
        assert!(!machine.context.binary_dir.exists());
    }

    #[test]
    fn a_path_that_a_manifest_cannot_name_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let mut machine = Machine::with_browsers();
        machine.context.binary_dir = PathBuf::from(std::ffi::OsString::from_vec(b"/tmp/\xff".to_vec()));
        let error = plan(&request(&[ID]), &machine.context).unwrap_err();
        assert!(matches!(error, InstallError::NotUnicode { .. }), "{error}");
    }
}

mod foreign_manifests {
    use super::*;

    #[test]
    fn they_are_left_alone_and_the_report_says_whose_they_are() {
        let machine = Machine::with_browsers();
        write_foreign(&machine.manifest("chrome"));
        let before = fs::read(machine.manifest("chrome")).unwrap();
        let report = machine.install(&request(&[ID]));
        let chrome = step(&report, &machine.manifest("chrome"));
        assert_eq!(chrome.outcome, Outcome::Refused);
        assert_eq!(
            chrome.detail.as_deref(),
            Some("the manifest that is there starts /opt/else/host (Somebody else\\u{202e})")
        );
        assert!(chrome.next.as_ref().unwrap().contains("--force"));
        assert_eq!(fs::read(machine.manifest("chrome")).unwrap(), before);
        assert_outcome(&report, &machine.manifest("chromium"), Outcome::Created);
        assert!(!report.ok);
    }

    #[test]
    fn they_are_replaced_on_demand_without_their_ids() {
        let machine = Machine::with_browsers();
        write_foreign(&machine.manifest("chrome"));
        let report = machine.install(&Request { force: true, ..request(&[ID]) });
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Updated);
        let own = json!([format!("chrome-extension://{ID}/")]);
        assert_eq!(read_json(&machine.manifest("chrome"))["allowed_origins"], own);
    }

    #[test]
    fn a_file_that_is_no_manifest_is_foreign_too() {
        let machine = Machine::with_browsers();
        fs::create_dir_all(machine.manifest("chrome").parent().unwrap()).unwrap();
        fs::write(machine.manifest("chrome"), "{ half").unwrap();
        let report = machine.install(&request(&[ID]));
        let chrome = step(&report, &machine.manifest("chrome"));
        assert_eq!(chrome.detail.as_deref(), Some("the file that is there is no manifest"));
        assert_eq!(fs::read_to_string(machine.manifest("chrome")).unwrap(), "{ half");
    }

    #[test]
    fn a_manifest_that_starts_a_program_of_the_receipt_is_ours() {
        let mut machine = Machine::with_browsers();
        machine.install(&Request { in_place: true, ..request(&[ID]) });
        let moved = machine.context.current_exe.with_file_name("newer-websocket-bridge");
        fs::copy(&machine.context.current_exe, &moved).unwrap();
        machine.context.current_exe = moved;
        let report = machine.install(&request(&[ID]));
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Updated);
        let path = machine.program().display().to_string();
        assert_eq!(read_json(&machine.manifest("chrome"))["path"], path);
    }

    #[test]
    fn a_manifest_that_reaches_our_program_through_a_link_is_ours() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        let link = machine.home("link");
        symlink(machine.program(), &link).unwrap();
        let mut manifest = read_json(&machine.manifest("chrome"));
        manifest["path"] = json!(link);
        fs::write(machine.manifest("chrome"), manifest.to_string()).unwrap();
        assert_outcome(&machine.install(&request(&[])), &machine.manifest("chrome"), Outcome::Updated);
    }

    #[test]
    fn uninstall_leaves_them_alone_even_if_the_receipt_names_the_file() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        write_foreign(&machine.manifest("chrome"));
        let report = machine.uninstall(&Removal::default());
        assert!(report.ok, "{report}");
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Skipped);
        assert!(machine.manifest("chrome").exists());
        assert!(!machine.manifest("chromium").exists());
        assert!(!machine.context.receipt.exists());
    }
}

mod failures {
    use super::*;

    #[test]
    fn one_browser_that_cannot_be_written_does_not_stop_the_others() {
        let machine = Machine::with_browsers();
        let obstacle = machine.home(".config/google-chrome/NativeMessagingHosts");
        fs::write(&obstacle, "not a directory").unwrap();
        let report = machine.install(&request(&[ID, ADDON]));
        let chrome = step(&report, &machine.manifest("chrome"));
        assert_eq!(chrome.outcome, Outcome::Failed);
        assert!(chrome.detail.as_ref().unwrap().contains("Not a directory"), "{report}");
        assert_eq!(
            chrome.next.as_deref(),
            Some(format!("move {} away: a directory belongs there", obstacle.display()).as_str())
        );
        assert_outcome(&report, &machine.manifest("chromium"), Outcome::Created);
        assert_outcome(&report, &machine.manifest("firefox"), Outcome::Created);
        assert!(!report.ok);
        let recorded = read_json(&machine.context.receipt)["manifests"].as_array().unwrap().len();
        assert_eq!(recorded, 2, "the receipt names what was written");
    }

    #[test]
    fn what_fails_between_plan_and_apply_fails_alone() {
        let machine = Machine::with_browsers();
        let plan = plan(&request(&[ID, ADDON]), &machine.context).unwrap();
        fs::write(machine.home(".config/google-chrome/NativeMessagingHosts"), "not a directory").unwrap();
        let report = apply(plan);
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Failed);
        assert_outcome(&report, &machine.manifest("firefox"), Outcome::Created);
    }

    #[test]
    fn no_manifest_names_a_program_that_could_not_be_copied() {
        let machine = Machine::with_browsers();
        fs::create_dir_all(machine.home("share")).unwrap();
        fs::write(machine.home("share/websocket-bridge"), "not a directory").unwrap();
        let mut machine = machine;
        machine.context.receipt = machine.home("receipt.json");
        let report = machine.install(&request(&[ID]));
        assert_outcome(&report, &machine.program(), Outcome::Failed);
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Skipped);
        assert!(!machine.manifest("chrome").exists());
        assert!(!machine.context.receipt.exists());
        assert!(!report.ok);
    }

    #[test]
    fn directories_made_for_a_file_that_could_not_be_written_go_again() {
        let machine = Machine::with_browsers();
        fs::remove_file(&machine.context.current_exe).unwrap();
        let report = machine.install(&request(&[ID]));
        assert_outcome(&report, &machine.program(), Outcome::Failed);
        assert!(!machine.home("share").exists());
    }

    #[test]
    fn an_error_says_what_was_tried_and_keeps_its_cause_apart() {
        let machine = Machine::with_browsers();
        fs::create_dir_all(&machine.context.receipt).unwrap();
        let error = plan(&request(&[ID]), &machine.context).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {}", machine.context.receipt.display()));
        assert_eq!(error.source().unwrap().to_string(), "Is a directory (os error 21)");
    }

    #[test]
    fn a_receipt_that_is_not_understood_stops_everything() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        let mut receipt = read_json(&machine.context.receipt);
        receipt["version"] = json!(2);
        for text in [receipt.to_string(), "{".to_owned()] {
            fs::write(&machine.context.receipt, text).unwrap();
            let error = plan_removal(&Removal::default(), &machine.context).unwrap_err();
            assert!(error.to_string().starts_with("cannot understand the receipt"), "{error}");
            assert!(error.next_step().unwrap().contains("away"));
            assert!(plan(&request(&[ID]), &machine.context).is_err());
        }
    }
}

mod removing {
    use super::*;

    #[test]
    fn everything_that_install_wrote_goes_and_nothing_else() {
        let machine = Machine::with_browsers();
        machine.write_config("# mine\n[defaults]\nheartbeat.interval_ms = 25000\n");
        let before = machine.contents();
        machine.install(&request_with_url(&[ID, ADDON], "wss://example.org/ws"));
        let report = machine.uninstall(&Removal::default());
        assert!(report.ok, "{report}");
        assert_eq!(machine.contents(), before);
    }

    #[test]
    fn on_a_machine_without_configuration_or_profiles_nothing_is_left() {
        let machine = Machine::bare();
        let before = machine.contents();
        machine.install(&Request {
            browsers: vec!["chrome".to_owned(), "firefox".to_owned()],
            ..request_with_url(&[ID, ADDON], "wss://example.org/ws")
        });
        let report = machine.uninstall(&Removal::default());
        assert!(report.ok, "{report}");
        assert_eq!(machine.contents(), before);
    }

    #[test]
    fn a_directory_that_somebody_uses_meanwhile_stays() {
        let machine = Machine::bare();
        machine.install(&request_for(&["firefox"], &[ADDON]));
        fs::write(machine.manifest("firefox").with_file_name("other.json"), "{}").unwrap();
        machine.uninstall(&Removal::default());
        assert!(machine.manifest("firefox").with_file_name("other.json").exists());
        assert!(!machine.home("share").exists());
    }

    #[test]
    fn one_browser_leaves_the_others() {
        let machine = Machine::with_browsers();
        machine.install(&request_with_url(&[ID, ADDON], "wss://example.org/ws"));
        let report = machine.uninstall(&removal_for(&["chrome"]));
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Removed);
        assert!(!machine.manifest("chrome").parent().unwrap().exists());
        assert!(machine.manifest("chromium").exists() && machine.manifest("firefox").exists());
        assert!(machine.program().exists());
        assert!(machine.config().contains(ID), "Chromium's extension is the same");

        let report = machine.uninstall(&removal_for(&["chromium"]));
        assert!(report.ok, "{report}");
        assert!(!machine.config().contains(ID));
        assert!(machine.config().contains(ADDON));
        machine.uninstall(&removal_for(&["firefox"]));
        assert!(!machine.context.config_file.exists() && !machine.home("share").exists());
    }

    #[test]
    fn one_extension_leaves_the_others() {
        let machine = Machine::with_browsers();
        machine.install(&request_with_url(&[ID, OTHER_ID, ADDON], "wss://example.org/ws"));
        let report = machine.uninstall(&Removal { extensions: ids(&[ID, ADDON]), ..Removal::default() });
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Updated);
        assert_outcome(&report, &machine.manifest("firefox"), Outcome::Removed);
        let other = json!([format!("chrome-extension://{OTHER_ID}/")]);
        assert_eq!(read_json(&machine.manifest("chrome"))["allowed_origins"], other);
        assert!(machine.config().contains(OTHER_ID));
        assert!(!machine.config().contains(&format!("//{ID}/")) && !machine.config().contains(ADDON));
        assert!(machine.program().exists());
    }

    #[test]
    fn without_a_receipt_manifests_of_ours_are_still_found() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID, ADDON]));
        fs::remove_file(&machine.context.receipt).unwrap();
        let report = machine.uninstall(&Removal::default());
        for browser in ["chrome", "chromium", "firefox"] {
            assert_outcome(&report, &machine.manifest(browser), Outcome::Removed);
            assert!(!machine.manifest(browser).exists());
        }
        assert!(!machine.program().exists());
    }

    #[test]
    fn without_a_receipt_a_program_that_another_manifest_starts_stays() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID, ADDON]));
        fs::remove_file(&machine.context.receipt).unwrap();
        machine.uninstall(&removal_for(&["chrome"]));
        assert!(!machine.manifest("chrome").exists());
        assert!(machine.manifest("firefox").exists() && machine.program().exists());
    }

    #[test]
    fn the_program_stays_while_a_manifest_that_may_start_it_cannot_be_removed() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        fs::remove_file(machine.manifest("chrome")).unwrap();
        fs::create_dir(machine.manifest("chrome")).unwrap();
        let report = machine.uninstall(&Removal::default());
        assert!(!report.ok);
        assert_outcome(&report, &machine.manifest("chrome"), Outcome::Failed);
        assert_outcome(&report, &machine.manifest("chromium"), Outcome::Removed);
        assert_outcome(&report, &machine.program(), Outcome::Skipped);
        assert!(machine.program().exists() && machine.context.receipt.exists());

        fs::remove_dir(machine.manifest("chrome")).unwrap();
        assert!(machine.uninstall(&Removal::default()).ok);
        assert!(!machine.home("share").exists());
    }

    #[test]
    fn a_program_that_was_used_in_place_stays() {
        let machine = Machine::with_browsers();
        machine.install(&Request { in_place: true, ..request(&[ID]) });
        let report = machine.uninstall(&Removal::default());
        assert!(report.ok, "{report}");
        assert!(machine.context.current_exe.exists());
        assert!(!machine.manifest("chrome").exists() && !machine.context.receipt.exists());
    }

    #[test]
    fn a_manifest_that_is_gone_already_is_no_failure() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID]));
        fs::remove_file(machine.manifest("chrome")).unwrap();
        let report = machine.uninstall(&Removal::default());
        assert!(report.ok, "{report}");
        assert_eq!(step(&report, &machine.manifest("chrome")).detail.as_deref(), Some("was gone already"));
        assert!(!machine.context.receipt.exists());
    }

    #[test]
    fn where_nothing_is_installed_there_is_nothing_to_do() {
        let machine = Machine::with_browsers();
        let report = machine.uninstall(&Removal::default());
        assert!(report.ok);
        assert_eq!(report.to_string(), "nothing to do\n");
        let report = machine.uninstall(&removal_for(&["chrome"]));
        assert_eq!(step(&report, &machine.manifest("chrome")).detail.as_deref(), Some("there is none"));
    }

    #[test]
    fn purge_deletes_the_data_too() {
        let machine = Machine::with_browsers();
        let before = machine.contents();
        machine.install(&request_with_url(&[ID], "wss://example.org/ws"));
        fs::write(machine.home("share/websocket-bridge/spool.db"), "messages").unwrap();
        fs::create_dir_all(machine.home("share/websocket-bridge/logs/old")).unwrap();
        fs::write(&machine.context.config_file, "not = [toml").unwrap();
        let report = machine.uninstall(&Removal { purge: true, ..Removal::default() });
        assert_outcome(&report, &machine.home("share/websocket-bridge/logs"), Outcome::Removed);
        assert_outcome(&report, &machine.context.config_file, Outcome::Removed);
        assert!(report.ok, "{report}");
        assert_eq!(machine.contents(), before);
    }

    #[test]
    fn purge_waits_while_another_browser_needs_the_data() {
        let machine = Machine::with_browsers();
        machine.install(&request(&[ID, ADDON]));
        let spool = machine.home("share/websocket-bridge/spool.db");
        fs::write(&spool, "messages").unwrap();
        let report = machine.uninstall(&Removal { purge: true, ..removal_for(&["chrome", "chromium"]) });
        assert_outcome(&report, &spool, Outcome::Skipped);
        assert_eq!(step(&report, &spool).detail.as_deref(), Some("still installed for Firefox"));
        assert!(spool.exists());
    }

    #[test]
    fn purge_follows_no_link() {
        let machine = Machine::with_browsers();
        let photos = machine.home("photos");
        fs::create_dir(&photos).unwrap();
        fs::write(photos.join("cat"), "cat").unwrap();
        fs::create_dir_all(machine.home("share/websocket-bridge")).unwrap();
        symlink(&photos, machine.home("share/websocket-bridge/logs")).unwrap();
        assert!(machine.uninstall(&Removal { purge: true, ..Removal::default() }).ok);
        assert!(photos.join("cat").exists());
        assert!(machine.home("share/websocket-bridge/logs").symlink_metadata().is_err());
    }
}

mod allowing {
    use super::*;

    fn pattern(url: &str) -> Need {
        Need::of(&Url::parse(url).unwrap()).unwrap()
    }

    #[test]
    fn a_url_needs_its_scheme_host_and_port() {
        for (url, expected, is_insecure) in [
            ("wss://example.org/ws?token=x", "wss://example.org/*", false),
            ("wss://Example.org:443/", "wss://example.org/*", false),
            ("wss://example.org:8443", "wss://example.org:8443/*", false),
            ("ws://[2001:db8::1]:80/x", "ws://[2001:db8::1]/*", true),
            ("ws://localhost.example.org/", "ws://localhost.example.org/*", true),
        ] {
            assert_eq!(pattern(url), Need::Pattern { pattern: expected.to_owned(), insecure: is_insecure });
        }
        for url in
            ["ws://127.0.0.1:8080/ws", "ws://127.9.9.9/", "ws://[::1]:1/", "ws://localhost:8080/", "wss://LOCALHOST/"]
        {
            assert_eq!(pattern(url), Need::Nothing, "{url}");
        }
        for (url, expected) in [
            ("https://example.org/", "must begin with ws:// or wss://; where a page has https://, write wss://"),
            ("wss://user:secret@example.org/", "must carry no user name or password; they would not be sent"),
            (
                "wss://*.example.org/",
                "has a host with a character that no name has; letters, digits, `.`, `-` and `_` may be",
            ),
        ] {
            let error = Need::of(&Url::parse(url).unwrap()).unwrap_err();
            assert_eq!(error.to_string(), format!("the URL of a server {expected}"));
        }
    }

    #[test]
    fn each_extension_gets_a_rule_in_a_file_for_its_owner_alone() {
        let machine = Machine::with_browsers();
        let report = machine.install(&request_with_url(&[ID, ADDON], "wss://example.org/ws"));
        assert_outcome(&report, &machine.context.config_file, Outcome::Created);
        assert_eq!(
            machine.config(),
            "[origins.\"chrome-extension://abcdefghijklmnopabcdefghijklmnop/\"]\n\
             allow = [\"wss://example.org/*\"]\n\
             \n\
             [origins.\"tracker@example.org\"]\n\
             allow = [\"wss://example.org/*\"]\n"
        );
        assert_eq!(mode(&machine.context.config_file), 0o600);
    }

    const CONFIG: &str = r#"# My settings

[defaults]
heartbeat.interval_ms = 25000 # twice a minute

# The tracker.
[origins."chrome-extension://abcdefghijklmnopabcdefghijklmnop/"]
allow = [
    "wss://one.example/*", # the first
    "wss://two.example/*",
]

# Its credential
[origins."chrome-extension://abcdefghijklmnopabcdefghijklmnop/".sessions.jira]
url  = "wss://one.example/ws"

[limits]
"queue.max_messages" = 5
# the end
"#;

    #[test]
    fn comments_order_and_formatting_survive() {
        let machine = Machine::with_browsers();
        machine.write_config(CONFIG);
        fs::set_permissions(&machine.context.config_file, fs::Permissions::from_mode(0o640)).unwrap();
        machine.install(&request_with_url(&[ID, ADDON], "wss://example.org/ws"));
        let expected = CONFIG
            .replace("    \"wss://two.example/*\",\n", "    \"wss://two.example/*\",\n    \"wss://example.org/*\",\n")
            + "\n[origins.\"tracker@example.org\"]\nallow = [\"wss://example.org/*\"]\n";
        assert_eq!(machine.config(), expected);
        assert_eq!(mode(&machine.context.config_file), 0o640, "an existing file keeps its permissions");
        machine.uninstall(&Removal::default());
        assert_eq!(machine.config(), CONFIG);
    }

    #[test]
    fn every_way_to_write_a_table_is_understood() {
        for before in [
            "",
            "# only a comment",
            "# only a comment\n",
            "a = 1",
            "[origins]\n",
            "[origins]\n\"x@y\".allow = []\n",
            "origins.\"x@y\".allow = []\n",
            "origins = { \"x@y\" = { allow = [] } }\n",
            "origins = { \"tracker@example.org\" = { allow = [] } }\n",
            "origins.\"tracker@example.org\".allow = [\"wss://one.example/*\"] # dotted\n",
            "[origins.\"tracker@example.org\"]\nallow = [\"wss://one.example/*\"]\n",
            "[origins.\"tracker@example.org\"]\nallow_insecure = false # never\n[limits]\n",
            "# first\n[origins.\"tracker@example.org\".sessions.jira]\nurl = \"wss://one.example/\"\n[limits]\n# last\n",
            "[[list]]\na = 1\n\n[[list]]\na = 2\n",
            "[origins.\"x@y\"]\r\nallow = []\r\n",
        ] {
            let mut config = Allowed::parse(before.as_bytes()).unwrap();
            let rule = Rule { origin: ADDON.to_owned(), pattern: "ws://example.org/*".to_owned(), insecure: true };
            assert!(!config.contains(&rule));
            config.add(&rule);
            let text = config.to_string();
            let mut again = Allowed::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error:?} in\n{text}"));
            assert!(again.contains(&rule) && again.allows_insecure(ADDON), "{text}");
            again.add(&rule);
            assert_eq!(again.to_string(), text, "a rule is added once");
            for comment in ["# only a comment", "# first", "# last", "# dotted", "# never"] {
                assert_eq!(before.contains(comment), text.contains(comment), "{text}");
            }
            again.remove(&rule);
            let text = again.to_string();
            let again = Allowed::parse(text.as_bytes()).unwrap_or_else(|error| panic!("{error:?} in\n{text}"));
            assert!(!again.contains(&rule) && !again.allows_insecure(ADDON), "{text}");
            for kept in ["# only a comment", "# first", "# last", "# dotted", "one.example", "x@y", "[limits]"] {
                assert_eq!(before.contains(kept), text.contains(kept), "{text}");
            }
        }
    }

    #[test]
    fn a_rule_in_a_file_with_settings_is_one_that_the_daemon_reads() {
        let before = format!(
            "# ours\n[defaults]\nlinger_ms = 5\n\n[limits]\nlinger_ms = {{ max = 9 }}\n\n[origins.\"{ADDON}\".sessions.a]\nurl = \
             \"wss://[2001:db8::1]:8443/ws\"\nqueue.ttl_ms = 7 # short\n"
        );
        let machine = Machine::with_browsers();
        machine.write_config(&before);
        let url = "wss://[2001:db8::1]:8443/ws";
        assert!(machine.install(&request_with_url(&[ADDON], url)).ok);

        let home = machine.home("bridge");
        fs::create_dir(&home).unwrap();
        let paths = Paths::new(&[(HOME_VARIABLE, &home)].into_iter().collect()).unwrap();
        let paths = paths.with_system_config_file(machine.home("no file"));
        fs::copy(&machine.context.config_file, paths.config_file()).unwrap();
        let config = Config::load(&paths).unwrap();
        assert_eq!(config.permits(ADDON, &Url::parse(url).unwrap(), paths.config_file()), Ok(()));
        assert_eq!(config.session_url(ADDON, "a").unwrap().as_str(), url);

        machine.uninstall(&Removal::default());
        assert!(machine.config().contains(&before), "{}", machine.config());
    }

    #[test]
    fn a_server_that_is_allowed_already_needs_no_second_rule_and_the_users_rule_outlives_uninstall() {
        let machine = Machine::with_browsers();
        let text = format!("[origins.\"{ADDON}\"]\nallow = ['wss://example.org/*']\n");
        machine.write_config(&text);
        let report = machine.install(&request_with_url(&[ADDON], "wss://example.org/ws"));
        assert_outcome(&report, &machine.context.config_file, Outcome::Unchanged);
        machine.uninstall(&Removal::default());
        assert_eq!(machine.config(), text);
    }

    #[test]
    fn a_server_on_this_machine_needs_no_rule() {
        let machine = Machine::with_browsers();
        let report = machine.install(&request_with_url(&[ADDON], "ws://localhost:8080/ws"));
        assert!(report.ok, "{report}");
        let rule = step(&report, &machine.context.config_file);
        assert_eq!(rule.detail.as_deref(), Some("a server on this machine needs no rule"));
        assert!(!machine.context.config_file.exists());
    }

    #[test]
    fn an_unencrypted_server_is_refused_with_the_lines_to_add_by_hand() {
        let machine = Machine::with_browsers();
        let request = request_with_url(&[ADDON], "ws://example.org/ws");
        let report = machine.install(&request);
        let rule = step(&report, &machine.context.config_file);
        assert_eq!(rule.outcome, Outcome::Refused);
        assert!(rule.next.as_ref().unwrap().ends_with(
            "config.toml:\n[origins.\"tracker@example.org\"]\nallow = [\"ws://example.org/*\"]\nallow_insecure = true"
        ));
        assert!(!report.ok && !machine.context.config_file.exists());

        let report = machine.install(&Request { allow_insecure: true, ..request });
        assert!(report.ok, "{report}");
        assert_eq!(
            machine.config(),
            "[origins.\"tracker@example.org\"]\nallow = [\"ws://example.org/*\"]\nallow_insecure = true\n"
        );
    }

    #[test]
    fn who_allowed_unencrypted_servers_by_hand_is_not_asked_again() {
        let machine = Machine::with_browsers();
        machine.write_config(&format!("[origins.\"{ADDON}\"]\nallow_insecure = true\n"));
        assert!(machine.install(&request_with_url(&[ADDON], "ws://example.org/ws")).ok);
        assert!(machine.config().contains("ws://example.org/*"));
        machine.uninstall(&Removal::default());
        assert_eq!(machine.config(), format!("[origins.\"{ADDON}\"]\nallow_insecure = true\n"));
    }

    #[test]
    fn a_configuration_that_is_not_in_order_stops_everything_and_is_not_touched() {
        for (text, line, problem) in [
            (&b"[defaults]\nheartbeat.interval_ms = \n"[..], 2, ""),
            (b"# \xff", 1, "not valid UTF-8"),
            (b"# one\n# two\norigins = 3\n", 3, "origins is a value of type integer, expected a table"),
            (b"[origins]\n\"a@b\" = 1\n", 2, "origins.\"a@b\" is a value of type integer, expected a table"),
            (
                b"[origins.\"a@b\"]\n\nallow = \"wss://x/*\"\n",
                3,
                "origins.\"a@b\".allow is a value of type string, expected a list of strings",
            ),
            (
                b"[origins.\"a@b\"]\nallow_insecure = \"yes\"\n",
                2,
                "origins.\"a@b\".allow_insecure is a value of type string, expected true or false",
            ),
        ] {
            let machine = Machine::with_browsers();
            machine.write_config("");
            fs::write(&machine.context.config_file, text).unwrap();
            let before = machine.contents();
            let error = plan(&request_with_url(&[ID], "wss://example.org/ws"), &machine.context).unwrap_err();
            let start = format!("cannot edit {}, line {line}: ", machine.context.config_file.display());
            assert!(error.to_string().starts_with(&start) && error.to_string().ends_with(problem), "{error}");
            assert_eq!(machine.contents(), before);
        }
    }

    #[test]
    fn a_linked_configuration_stays_a_link() {
        let machine = Machine::with_browsers();
        machine.write_config("");
        let real = machine.home("dotfiles.toml");
        fs::rename(&machine.context.config_file, &real).unwrap();
        symlink(&real, &machine.context.config_file).unwrap();
        machine.install(&request_with_url(&[ID], "wss://example.org/ws"));
        assert!(machine.context.config_file.is_symlink());
        assert!(fs::read_to_string(&real).unwrap().contains(ID));
    }

    #[test]
    fn a_server_cannot_be_allowed_for_nobody() {
        let machine = Machine::with_browsers();
        let error = plan(&request_with_url(&[], "wss://example.org/ws"), &machine.context).unwrap_err();
        assert!(matches!(error, InstallError::UrlWithoutExtension), "{error}");
    }
}

mod reporting {
    use super::*;

    #[test]
    fn people_read_a_table_and_programs_json() {
        let machine = Machine::with_browsers();
        let report = machine.install(&request_for(&["chrome", "firefox"], &[ID]));
        let text = report.to_string().replace(&machine.directory.path().display().to_string(), "");
        assert_eq!(
            text,
            "created  program        /home/share/websocket-bridge/bin/websocket-bridge\n\
             created  Google Chrome  /home/.config/google-chrome/NativeMessagingHosts/com.semantest.websocket_bridge.json\n\
             \x20                       lets in abcdefghijklmnopabcdefghijklmnop\n\
             refused  Firefox        /home/.mozilla/native-messaging-hosts/com.semantest.websocket_bridge.json\n\
             \x20                       no Firefox add-on id was given\n\
             \x20                       next: add --extension ID, with an id of the form name@domain or {UUID}\n\
             created  receipt        /home/share/websocket-bridge/receipt.json\n"
        );
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["command"], "install");
        assert_eq!(json["ok"], false);
        assert_eq!(
            json["steps"][1],
            json!({
                "kind": "manifest", "subject": "Google Chrome", "browsers": ["chrome"], "path": machine.manifest("chrome"),
                "outcome": "created", "detail": format!("lets in {ID}"),
            })
        );
    }
}

mod for_all_users {
    use super::*;

    #[test]
    fn what_is_for_everybody_can_be_read_by_everybody_and_goes_again() {
        let machine = Machine::bare();
        let etc = machine.context.root.join("etc");
        fs::create_dir_all(etc.join("opt")).unwrap();
        let before = machine.contents();
        let report = machine.install(&Request {
            scope: Scope::System,
            ..Request {
                url: Some(Url::parse("wss://example.org/ws").unwrap()),
                ..request_for(&["opera", "edge"], &[ID])
            }
        });
        assert!(report.ok, "{report}");
        for directory in ["opt/chrome", "opt/edge"] {
            let manifests = etc.join(directory).join("native-messaging-hosts");
            assert_eq!(mode(&manifests), 0o755);
            assert_eq!(mode(&manifests.join(format!("{HOST_NAME}.json"))), 0o644);
        }
        for file in [&machine.context.config_file, &machine.context.receipt] {
            assert_eq!(mode(file), 0o644, "{}", file.display());
        }
        assert_eq!(mode(&machine.context.binary_dir), 0o755);
        let report = machine.uninstall(&Removal { scope: Scope::System, ..Removal::default() });
        assert!(report.ok, "{report}");
        assert_eq!(machine.contents(), before);
    }
}

mod sandboxes {
    use super::*;

    const FLATPAK: &str = ".var/app/org.chromium.Chromium";

    /// A machine with Chromium, and with Chromium in a Flatpak.
    fn machine() -> Machine {
        let machine = Machine::bare();
        fs::create_dir_all(machine.home(".config/chromium")).unwrap();
        fs::create_dir_all(machine.context.root.join("var/lib/flatpak/app/org.chromium.Chromium")).unwrap();
        machine
    }

    fn manifest(machine: &Machine) -> PathBuf {
        let file = format!("{FLATPAK}/config/chromium/NativeMessagingHosts/{HOST_NAME}.json");
        machine.home(&file)
    }

    #[test]
    fn a_browser_that_starts_the_host_inside_has_a_copy_and_rules_of_its_own() {
        let machine = machine();
        let before = machine.contents();
        let report = machine.install(&request_with_url(&[ID], "wss://example.org/ws"));
        assert!(report.ok, "{report}");
        let program = machine.home(&format!("{FLATPAK}/data/websocket-bridge/bin/websocket-bridge"));
        assert_eq!(read_json(&manifest(&machine))["path"], program.display().to_string());
        assert_eq!((fs::read(&program).unwrap(), mode(&program)), (b"program, first version".to_vec(), 0o755));
        assert_eq!(read_json(&machine.manifest("chromium"))["path"], machine.program().display().to_string());
        let told = step(&report, &manifest(&machine)).detail.as_ref().unwrap();
        assert!(told.contains("runs inside the sandbox"), "{told}");

        let rules = machine.home(&format!("{FLATPAK}/config/websocket-bridge/config.toml"));
        assert_eq!(fs::read_to_string(&rules).unwrap(), machine.config());

        let report = machine.uninstall(&removal_for(&["chromium"]));
        assert!(report.ok && !machine.program().exists() && !machine.context.config_file.exists(), "{report}");
        assert!(program.exists() && rules.exists(), "{report}");
        let report = machine.uninstall(&Removal::default());
        assert!(report.ok, "{report}");
        assert_eq!(machine.contents(), before);
    }

    #[test]
    fn purge_deletes_the_data_inside_when_no_browser_inside_is_left() {
        let machine = machine();
        machine.install(&request(&[ID]));
        let spool = machine.home(&format!("{FLATPAK}/data/websocket-bridge/spool.db"));
        fs::write(&spool, "messages").unwrap();
        machine.uninstall(&Removal { purge: true, ..removal_for(&["chromium"]) });
        assert!(spool.exists());
        machine.uninstall(&Removal { purge: true, ..removal_for(&["chromium-flatpak"]) });
        assert!(!machine.home(".var").exists(), "install made it");
    }

    #[test]
    fn a_host_under_another_name_has_its_own_place_inside_and_finds_its_name_there() {
        let mut machine = machine();
        let before = machine.contents();
        machine.install(&request(&[ID]));
        let usual = manifest(&machine);

        let context = machine.context.clone();
        let data = machine.home("share/other");
        machine.context.name_file = Some(HostName::file_in(&data.join("bin")));
        (machine.context.binary_dir, machine.context.receipt) = (data.join("bin"), data.join("receipt.json"));
        let host_name: HostName = "org.example.other".parse().unwrap();
        let other = Request { host_name: host_name.clone(), ..request_for(&["chromium-flatpak"], &[ID]) };
        assert!(machine.install(&other).ok);
        let program = machine.home(&format!("{FLATPAK}/data/websocket-bridge-org.example.other/bin/websocket-bridge"));
        let path = read_json(&usual.with_file_name("org.example.other.json"))["path"].clone();
        assert_eq!(path, program.display().to_string());
        assert_eq!(HostName::of_program(&program).unwrap(), host_name);

        machine.uninstall(&Removal { host_name, purge: true, ..Removal::default() });
        assert!(!program.exists() && !data.exists());
        let path = read_json(&usual)["path"].clone();
        assert!(Path::new(path.as_str().unwrap()).exists(), "the usual one is not touched");
        machine.context = context;
        machine.uninstall(&Removal::default());
        assert_eq!(machine.contents(), before);
    }

    #[test]
    fn a_link_that_the_browser_inside_has_made_is_not_followed_out() {
        let machine = machine();
        let outside = machine.home("outside");
        fs::create_dir_all(outside.join("websocket-bridge/bin")).unwrap();
        fs::write(outside.join("websocket-bridge/spool.db"), "messages").unwrap();
        fs::create_dir_all(machine.home(FLATPAK)).unwrap();
        for directory in ["data", "config"] {
            symlink(&outside, machine.home(&format!("{FLATPAK}/{directory}"))).unwrap();
        }
        let before = machine.contents();
        let report = machine.install(&request_with_url(&[ID], "wss://example.org/ws"));
        assert!(!report.ok);
        let program = machine.home(&format!("{FLATPAK}/data/websocket-bridge/bin/websocket-bridge"));
        assert!(step(&report, &program).detail.as_ref().unwrap().contains("out of the sandbox"), "{report}");
        assert_outcome(&report, &program, Outcome::Refused);
        assert_outcome(&report, &manifest(&machine), Outcome::Refused);
        assert_outcome(&report, &machine.manifest("chromium"), Outcome::Created);
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);

        machine.uninstall(&Removal { purge: true, ..Removal::default() });
        assert_eq!(machine.contents(), before);
    }

    #[test]
    fn what_is_removed_for_all_users_is_not_what_a_user_has_inside() {
        let machine = machine();
        machine.install(&request_for(&["chromium-flatpak"], &[ID]));
        let before = machine.contents();
        let mut for_all = Machine { directory: machine.directory, context: machine.context };
        for_all.context.receipt = for_all.context.root.join("installed.json");
        for_all.context.binary_dir = for_all.context.root.join("bin");
        let removal = Removal { scope: Scope::System, purge: true, ..Removal::default() };
        let report = for_all.uninstall(&removal);
        assert_eq!(report.to_string(), "nothing to do\n");
        assert_eq!(for_all.contents(), before);
    }

    #[test]
    fn the_running_program_is_out_of_reach_from_inside() {
        let machine = machine();
        let report = machine.install(&Request { in_place: true, ..request_for(&["chromium-flatpak"], &[ID]) });
        assert!(report.ok, "{report}");
        assert_ne!(read_json(&manifest(&machine))["path"], machine.context.current_exe.display().to_string());
    }

    #[test]
    fn what_fails_in_one_sandbox_does_not_stop_the_others() {
        let machine = machine();
        fs::create_dir_all(machine.home(FLATPAK)).unwrap();
        fs::write(machine.home(&format!("{FLATPAK}/data")), "not a directory").unwrap();
        let report = machine.install(&request(&[ID]));
        assert_outcome(&report, &manifest(&machine), Outcome::Skipped);
        assert_outcome(&report, &machine.manifest("chromium"), Outcome::Created);
        assert!(!report.ok && !manifest(&machine).exists());
    }

    #[test]
    fn where_a_portal_asks_the_report_says_how_to_answer() {
        let machine = Machine::bare();
        fs::create_dir_all(machine.context.root.join("snap/firefox")).unwrap();
        let report = machine.install(&request(&[ADDON]));
        assert!(report.ok, "{report}");
        let asked = step(&report, &machine.manifest("firefox"));
        assert_eq!(asked.detail.as_deref(), Some("lets in tracker@example.org"), "the host runs outside");
        let next = asked.next.clone().unwrap();
        let command = format!("flatpak permission-set webextensions {HOST_NAME} snap.firefox yes");
        assert!(next.ends_with(&command), "{next}");
        assert_eq!(
            read_json(&machine.manifest("firefox"))["path"],
            machine.program().display().to_string(),
            "the host runs outside"
        );
    }
}
