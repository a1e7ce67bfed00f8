//! Installing where browsers ask the registry: the real one, under a name that is the test's own.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use winreg::RegKey;
use winreg::enums::HKEY_CURRENT_USER;

use crate::support::browser::Browser;
use crate::support::sandbox::{ORIGIN, Sandbox};

const ID: &str = "abcdefghijklmnopabcdefghijklmnop";
const OTHER_ID: &str = "ponmlkjihgfedcbaponmlkjihgfedcba";

/// Where the browser looks that no other test installs anything for.
const ALONE: &str = r"Software\Google\Chrome for Testing\NativeMessagingHosts";
const FOR_IT: [&str; 3] = ["install", "--browser", "chrome-for-testing"];

fn user() -> RegKey {
    RegKey::predef(HKEY_CURRENT_USER)
}

/// The manifest to which a key leads.
fn value(key: &str) -> Option<PathBuf> {
    user().open_subkey(key).ok()?.get_value::<String, _>("").ok().map(PathBuf::from)
}

fn set(key: &str, value: &Path) {
    user().create_subkey(key).unwrap().0.set_value("", &value.to_str().unwrap()).unwrap();
}

/// All keys below one, itself too, with their values.
fn keys(path: &str) -> BTreeMap<String, Vec<(String, String)>> {
    let Ok(key) = user().open_subkey(path) else { return BTreeMap::new() };
    let values = key.enum_values().map(Result::unwrap).map(|(name, value)| (name, value.to_string()));
    let mut found = BTreeMap::from([(path.to_owned(), values.collect())]);
    found.extend(key.enum_keys().flat_map(|name| keys(&format!(r"{path}\{}", name.unwrap()))));
    found
}

/// All files and directories below one, with what is in them.
fn files(directory: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let content = (!path.is_dir()).then(|| fs::read(&path).unwrap());
        if content.is_none() {
            found.extend(files(&path));
        }
        found.insert(path, content);
    }
    found
}

fn outcomes(report: &Value) -> Vec<&str> {
    report["steps"].as_array().unwrap().iter().map(|step| step["outcome"].as_str().unwrap()).collect()
}

/// The findings of a check that has failed, and the exit code.
fn doctor(machine: &Sandbox, arguments: &[&str], check: &str) -> (Option<i32>, Vec<Value>) {
    let output = machine.run(&[&["doctor", "--json"], arguments].concat());
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    let is_bad = |finding: &&Value| finding["check"] == check && finding["status"] == "fail";
    (output.status.code(), report["findings"].as_array().unwrap().iter().filter(is_bad).cloned().collect())
}

#[test]
fn registry_and_files_are_after_a_purge_what_they_were_before_two_installations() {
    let machine = Sandbox::for_install();
    let before = (keys(r"Software\Google"), files(machine.home()));
    let arguments = [&FOR_IT[..], &["--extension", ID, "--url", "wss://bridge.invalid/ws"]].concat();
    let first = machine.json(&[&arguments[..], &["--json"]].concat());
    assert!(first["ok"] == true && outcomes(&first).contains(&"created"), "{first:#}");

    let manifest = value(&format!(r"{ALONE}\{}", machine.host())).unwrap();
    assert_eq!(manifest, machine.manifest("chromium"));
    let bytes = fs::read(&manifest).unwrap();
    assert!(bytes.starts_with(b"{"), "no byte order mark");
    let text: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!((&text["name"], &text["allowed_origins"]), (&json!(machine.host()), &json!([ORIGIN])));
    assert_eq!(Path::new(text["path"].as_str().unwrap()), machine.installed_program());

    let installed = (keys(r"Software\Google"), files(machine.home()));
    let second = machine.json(&[&arguments[..], &["--json"]].concat());
    assert!(outcomes(&second).iter().all(|outcome| *outcome == "unchanged"), "{second:#}");
    assert!((keys(r"Software\Google"), files(machine.home())) == installed);

    // So that there are logs, a spool and a configuration too.
    let mut command = machine.command_of(&machine.installed_program());
    command.args([ORIGIN, "--parent-window=0"]);
    let mut port = Browser::start(command);
    port.post(json!({"type": "open", "url": "wss://bridge.invalid/ws"}));
    port.wait_for_type("opened");
    port.close();
    port.wait_for_end();
    let report = machine.json(&["uninstall", "--purge", "--json"]);
    assert_eq!(report["ok"], true, "{report:#}");
    let after = (keys(r"Software\Google"), files(machine.home()));
    assert_eq!(after.0, before.0);
    assert!(after.1 == before.1, "{:?}", after.1.keys());
}

#[test]
fn a_program_that_runs_is_uninstalled_by_itself() {
    let machine = Sandbox::for_install();
    let temporary = machine.home().join("temporary");
    fs::create_dir(&temporary).unwrap();
    let machine = machine.with("TEMP", temporary.to_str().unwrap());
    machine.json(&["install", "--browser", "chromium", "--extension", ID, "--json"]);
    let before = files(&machine.home().join("download"));
    let program = machine.installed_program();
    let mut command = machine.command_of(&program);
    command.arg(ORIGIN);
    let mut port = Browser::start(command);
    port.post(json!({"type": "hello", "protocol": 1}));
    port.wait_for_type("welcome");
    let output = machine.command_of(&program).args(["uninstall", "--purge"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let aside = files(&temporary).into_keys().next().expect("the program got out of the way");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains(&format!("it still runs: delete {}", aside.display())), "{said}");
    assert!(!machine.bridge_home().exists(), "{:?}", files(&machine.bridge_home()).keys());
    assert!(files(&machine.home().join("download")) == before);
    assert_eq!(value(&format!(r"Software\Chromium\NativeMessagingHosts\{}", machine.host())), None);
    port.close();
}

#[test]
fn a_key_of_somebody_else_is_left_alone_and_named() {
    let machine = Sandbox::for_install();
    let key = format!(r"Software\Chromium\NativeMessagingHosts\{}", machine.host());
    let foreign = machine.home().join("foreign.json");
    let text = json!({
        "name": machine.host(), "description": "Else", "path": r"C:\windows\system32\cmd.exe", "type": "stdio",
        "allowed_origins": [ORIGIN],
    });
    fs::write(&foreign, text.to_string()).unwrap();
    set(&key, &foreign);
    let install = ["install", "--browser", "chromium", "--extension", ID];
    let output = machine.run(&install);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(value(&key), Some(foreign.clone()));
    let (code, findings) = doctor(&machine, &[], "manifest");
    assert_eq!(code, Some(3));
    assert!(findings.iter().any(|found| found["evidence"].as_str().unwrap().contains("cmd.exe")), "{findings:#?}");
    assert!(machine.run(&[&install[..], &["--force"]].concat()).status.success());
    assert_eq!(value(&key), Some(machine.manifest("chromium")));
}

#[test]
fn a_key_that_is_gone_or_leads_nowhere_is_named_and_mended() {
    let machine = Sandbox::for_install();
    let arguments = ["install", "--browser", "chromium", "--extension", ID, "--extension", OTHER_ID];
    assert!(machine.run(&arguments).status.success());
    let key = format!(r"Software\Chromium\NativeMessagingHosts\{}", machine.host());
    let manifest = fs::read(machine.manifest("chromium")).unwrap();
    let break_it: [&dyn Fn(); 3] =
        [&|| user().delete_subkey(&key).unwrap(), &|| set(&key, Path::new(r"C:\gone.json")), &|| {
            set(&key, &machine.manifest("firefox"))
        }];
    for (case, act) in break_it.iter().enumerate() {
        act();
        let (code, findings) = doctor(&machine, &[], "manifest");
        let [finding] = &findings[..] else { panic!("{case}: {findings:#?}") };
        assert_eq!(code, Some(3));
        assert!(finding["evidence"].as_str().unwrap().contains("it was installed, and is gone"), "{finding:#}");
        let (code, findings) = doctor(&machine, &["--fix"], "manifest");
        assert_eq!((code, &findings[..]), (Some(0), &[][..]));
        assert_eq!(value(&key), Some(machine.manifest("chromium")));
        assert!(fs::read(machine.manifest("chromium")).unwrap() == manifest, "both extensions are still let in");
    }
}
