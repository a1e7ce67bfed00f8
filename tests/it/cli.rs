//! The command line, as a person and a script use it.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::browser::Browser;
use crate::support::sandbox::{ORIGIN, Sandbox};
use crate::support::server::Server;
use crate::support::until;

const CHROMIUM_ID: &str = "abcdefghijklmnopabcdefghijklmnop";
const FIREFOX_ID: &str = "bridge@example.org";

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn without_arguments_it_helps_and_with_wrong_ones_it_says_so() {
    let machine = Sandbox::new();
    let help = machine.run(&[]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("install") && text(&help.stdout).contains("demo"));
    let wrong = machine.run(&["instal"]);
    assert_eq!((wrong.status.code(), text(&wrong.stdout)), (Some(2), String::new()));
    assert!(text(&wrong.stderr).contains("install"), "{}", text(&wrong.stderr));
    assert_eq!(machine.run(&["install", "--extension", "nonsense"]).status.code(), Some(2));
}

#[test]
fn status_looks_and_starts_nothing() {
    let machine = Sandbox::new();
    assert_eq!(machine.json(&["status", "--json"]), json!({"daemon": null, "sessions": []}));
    assert!(text(&machine.run(&["status"]).stdout).starts_with("no daemon runs"));
    assert_eq!(machine.daemon(), None);
}

#[test]
fn what_a_browser_says_is_explained_and_what_is_unknown_is_a_failure() {
    let machine = Sandbox::new();
    let known = machine.run(&["explain", "Specified", "native", "messaging", "host", "not", "found."]);
    assert_eq!(known.status.code(), Some(0));
    assert!(text(&known.stdout).ends_with("next: websocket-bridge doctor\n"), "{}", text(&known.stdout));
    let length = text(&machine.run(&["explain", "1836017711"]).stdout);
    assert!(length.contains("\"/hom\""), "{length}");
    let unknown = machine.run(&["explain", "--what", "is this?"]);
    assert_eq!((unknown.status.code(), &unknown.stderr[..]), (Some(1), &b""[..]));
    assert!(text(&unknown.stdout).starts_with("This text is not known."));
    assert_eq!(machine.run(&["explain"]).status.code(), Some(2));
    assert_eq!(machine.daemon(), None);
}

#[test]
fn status_shows_sessions_without_what_may_be_secret() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.open_with(json!({"url": format!("{}chat?token=hunter2", server.url()), "profile": "p"}), || {
        server.accept();
    });
    let status = machine.json(&["status", "--json"]);
    let session = &status["sessions"][0];
    assert_eq!(
        (&session["session"], &session["profile"], &session["origin"]),
        (&json!("default"), &json!("p"), &json!(ORIGIN))
    );
    assert_eq!(session["url"], format!("ws://{}/chat", server.address()));
    let words = text(&machine.run(&["status"]).stdout);
    assert!(words.contains("default") && words.contains(ORIGIN), "{words}");
    for everything in [status.to_string(), words, machine.log("daemon"), machine.log("host")] {
        assert!(!everything.contains("hunter2"), "{everything}");
    }
}

#[test]
fn status_as_json_moves_no_cursor_and_turns_no_line() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    // CSI as one character (C1), which JSON lets pass, and an override of the direction.
    let profile = "a\u{9b}2J\u{7f}\u{202e}b\"\\ä";
    port.open_with(json!({"url": server.url(), "profile": profile}), || {
        server.accept();
    });
    let shown = text(&machine.run(&["status", "--json"]).stdout);
    assert!(!shown.contains(['\u{9b}', '\u{7f}', '\u{202e}']) && shown.contains('ä'), "{shown:?}");
    let status: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(status["sessions"][0]["profile"], profile);
}

#[test]
fn install_writes_what_browsers_read_and_the_host_answers_from_there() {
    let machine = Sandbox::for_install();
    let before = walk(machine.home());
    let arguments = [
        "install",
        "--extension",
        CHROMIUM_ID,
        "--extension",
        FIREFOX_ID,
        "--browser",
        "chromium",
        "--browser",
        "firefox",
    ];
    let report = machine.json(&[&arguments[..], &["--json"]].concat());
    assert_eq!(report["ok"], true, "{report:#}");
    for (manifest, arguments) in
        [("chromium", vec![ORIGIN.to_owned()]), ("firefox", vec!["MANIFEST".to_owned(), FIREFOX_ID.to_owned()])]
    {
        let file = machine.manifest(manifest);
        let manifest: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let program = Path::new(manifest["path"].as_str().unwrap());
        let mut command = machine.command_of(program);
        command.current_dir(program.parent().unwrap());
        command.args(
            arguments.iter().map(|argument| if argument == "MANIFEST" { file.to_str().unwrap() } else { argument }),
        );
        let mut port = Browser::start(command);
        port.post(json!({"type": "hello", "protocol": 1}));
        assert_eq!(port.wait_for_type("welcome")["origin"], arguments.last().unwrap().as_str());
    }
    assert!(machine.run(&["uninstall", "--purge"]).status.success());
    assert_eq!(walk(machine.home()), before);
}

#[cfg(unix)]
#[test]
fn a_home_is_after_a_purge_what_it_was_before_the_installation_byte_for_byte() {
    use std::os::unix::fs::PermissionsExt as _;

    let machine = Sandbox::new();
    // Where the files of a user are that set nothing.
    let command = |program: &Path| {
        let mut command = std::process::Command::new(program);
        command.env_clear().env("HOME", machine.home()).env("PATH", "/usr/bin:/bin").current_dir(machine.home());
        command
    };
    let program = Path::new(env!("CARGO_BIN_EXE_websocket-bridge"));
    for (path, text) in [
        (".config/google-chrome/Local State", "{}"),
        (".config/google-chrome/NativeMessagingHosts/org.example.other.json", "{\"name\": \"org.example.other\"}"),
        (".config/chromium/Local State", "{}"),
        (".mozilla/firefox/profiles.ini", "[General]\n"),
        (".mozilla/native-messaging-hosts/com.semantest.websocket_bridge.json", "somebody else's"),
        (".zen/profiles.ini", ""),
        (".local/share/other/file", "kept"),
    ] {
        let file = machine.home().join(path);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }
    let private = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(machine.home().join(".config/chromium"), private).unwrap();
    let before = snapshot(machine.home());

    let install = |more: &[&str]| {
        let mut command = command(program);
        command.args([
            "install",
            "--extension",
            CHROMIUM_ID,
            "--url",
            "wss://bridge.invalid/ws",
            "--extension",
            FIREFOX_ID,
        ]);
        command.args(more).output().unwrap()
    };
    let report = text(&install(&[]).stdout);
    assert!(report.contains("refused  Firefox"), "{report}");
    install(&["--browser", "librewolf", "--browser", "tor-browser", "--browser", "chromium-flatpak"]);
    let installed = machine.home().join(".local/share/websocket-bridge/bin/websocket-bridge");
    let mut command_of_browser = command(&installed);
    command_of_browser.arg(ORIGIN);
    let mut port = Browser::start(command_of_browser);
    port.post(json!({"type": "open", "url": "wss://bridge.invalid/ws"}));
    port.wait_for_type("opened");
    assert!(machine.home().join(".local/state/websocket-bridge/logs").exists());

    let output = command(&installed).args(["uninstall", "--purge"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(snapshot(machine.home()), before);
}

#[test]
fn a_newer_program_is_installed_over_one_that_runs() {
    use std::io::Write as _;

    let machine = Sandbox::for_install();
    let arguments = ["install", "--browser", "chromium", "--extension", CHROMIUM_ID];
    assert!(machine.run(&arguments).status.success());
    let installed = machine.installed_program();
    let start = || {
        let mut command = machine.command_of(&installed);
        let mut port = Browser::start({
            command.arg(ORIGIN);
            command
        });
        port.post(json!({"type": "hello", "protocol": 1}));
        port.wait_for_type("welcome");
        port
    };
    let mut port = start();

    let newer = machine.home().join(format!("newer{}", std::env::consts::EXE_SUFFIX));
    std::fs::copy(env!("CARGO_BIN_EXE_websocket-bridge"), &newer).unwrap();
    std::fs::OpenOptions::new().append(true).open(&newer).unwrap().write_all(b"newer").unwrap();
    let name = ["--name", machine.host()];
    let output = machine.command_of(&newer).args(arguments).args(name).output().unwrap();
    assert!(output.status.success() && text(&output.stdout).contains("updated"), "{output:?}");
    assert!(std::fs::read(&installed).unwrap() == std::fs::read(&newer).unwrap());
    // Nothing is left beside it, but where a program that runs cannot be removed: there it has another name until later.
    let entries = std::fs::read_dir(installed.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name());
    let beside: Vec<_> = entries.filter(|name| *name != *installed.file_name().unwrap()).collect();
    let is_replaced = |name: &std::ffi::OsString| name.to_string_lossy().ends_with(".replaced");
    let expected = if cfg!(windows) { 1 } else { 0 };
    assert_eq!(beside.iter().filter(|name| is_replaced(name)).count(), expected, "{beside:?}");
    // The name of the product.
    assert_eq!(beside.len(), 2 * expected, "{beside:?}");

    port.post(json!({"type": "status"}));
    port.wait_for_type("status");
    drop(start());
}

#[cfg(unix)]
#[test]
fn what_is_for_the_whole_machine_goes_where_all_users_find_it() {
    let machine = Sandbox::new();
    let arguments = ["--browser", "chromium", "--extension", CHROMIUM_ID, "--url", "wss://bridge.invalid/ws"];
    let report = machine.json(&[&["install", "--system", "--dry-run", "--json"], &arguments[..]].concat());
    let paths: Vec<&str> =
        report["steps"].as_array().unwrap().iter().map(|step| step["path"].as_str().unwrap()).collect();
    let expected = [
        "/usr/local/lib/websocket-bridge/bin/websocket-bridge",
        "/etc/chromium/native-messaging-hosts/com.semantest.websocket_bridge.json",
        "/etc/websocket-bridge/config.toml",
        "/usr/local/lib/websocket-bridge/installed.json",
    ];
    assert_eq!(paths, expected);
    let output = machine.run(&["install", "--system", "--user-data-dir", "profile", "--extension", CHROMIUM_ID]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

/// Everything below a directory: permissions and content.
#[cfg(unix)]
fn snapshot(directory: &Path) -> std::collections::BTreeMap<std::path::PathBuf, (u32, Option<Vec<u8>>)> {
    use std::os::unix::fs::MetadataExt as _;

    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let metadata = path.symlink_metadata().unwrap();
        if metadata.is_dir() {
            found.extend(snapshot(&path));
        }
        found.insert(path.clone(), (metadata.mode(), metadata.is_file().then(|| std::fs::read(&path).unwrap())));
    }
    found
}

/// All files below a directory.
fn walk(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries.flat_map(|entry| if entry.path().is_dir() { walk(&entry.path()) } else { vec![entry.path()] }).collect()
}

#[test]
fn a_server_is_allowed_by_install_and_by_the_line_that_a_refusal_names() {
    let machine = Sandbox::for_install();
    let open = json!({"type": "open", "url": "wss://bridge.invalid/ws"}).to_string();
    let mut port = machine.port();
    let refusal = port.refusal(open.as_bytes());
    assert_eq!(refusal["code"], "server-not-allowed");
    assert!(refusal["message"].as_str().unwrap().contains(machine.bridge_home().join("config.toml").to_str().unwrap()));
    let output = machine.run(&[
        "install",
        "--browser",
        "chromium",
        "--extension",
        CHROMIUM_ID,
        "--url",
        "wss://bridge.invalid/ws",
    ]);
    assert!(output.status.success(), "{output:?}");
    // Without a restart; and what cannot be read allows nothing and takes nothing away.
    let config = machine.bridge_home().join("config.toml");
    let allowed = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, format!("{allowed}\nsurprise = 1\n")).unwrap();
    let refusal = port.refusal(open.as_bytes());
    assert_eq!(refusal["code"], "config-invalid");
    assert!(refusal["message"].as_str().unwrap().contains("surprise"), "{refusal}");
    std::fs::write(&config, allowed).unwrap();
    port.post_bytes(open.as_bytes());
    port.wait_for_type("opened");
    let told = port.wait_for("a look-up that fails", |message| message["state"] == "reconnecting");
    assert_eq!(told["reason"]["code"], "dns", "{told}");
    // What is taken away is gone with the next attempt.
    std::fs::remove_file(&config).unwrap();
    until("an attempt that is not allowed", || {
        port.post(json!({"type": "reconnect"}));
        port.post(json!({"type": "status"}));
        let status = port.wait_for_type("status");
        (status["sessions"][0]["reason"]["code"] == "not-allowed").then_some(())
    });
    assert!(port.wait_for("the end", |message| message["state"] == "error")["reason"]["retryable"] == false);
}

#[test]
fn the_origin_that_a_server_sees_is_the_browsers() {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut command = machine.command();
    command.args(["/x/com.semantest.websocket_bridge.json", FIREFOX_ID]);
    let mut port = Browser::start(command);
    port.post(json!({"type": "open", "url": server.url()}));
    let connection = server.accept();
    let origin = connection.request.headers()["origin"].to_str().unwrap();
    assert!(origin.starts_with("moz-extension://") && origin.len() == "moz-extension://".len() + 36, "{origin}");
    port.wait_for_type("opened");
}

#[cfg(unix)]
#[test]
fn the_newcomers_script_installs_what_lies_beside_it_and_lets_the_doctor_look() {
    let machine = Sandbox::new();
    std::fs::create_dir_all(machine.home().join(".config/chromium")).unwrap();
    let archive = machine.home().join("archive");
    std::fs::create_dir(&archive).unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("install/install.sh");
    std::fs::copy(script, archive.join("install.sh")).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(archive.join("install.sh"));
        command.env_clear().envs(machine.command().get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(arguments).output().unwrap()
    };
    let nothing = run(&[]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(text(&nothing.stderr).contains("neither websocket-bridge nor its source"), "{nothing:?}");
    std::fs::copy(env!("CARGO_BIN_EXE_websocket-bridge"), archive.join("websocket-bridge")).unwrap();
    let installed = run(&["--browser", "chromium", "--extension", CHROMIUM_ID]);
    assert!(installed.status.success(), "{installed:?}");
    let said = text(&installed.stdout);
    assert!(
        said.contains("com.semantest.websocket_bridge.json") && said.contains("started as by the browser"),
        "{said}"
    );
    assert!(!run(&["--browser", "netscape"]).status.success(), "what fails is not passed over");
}
