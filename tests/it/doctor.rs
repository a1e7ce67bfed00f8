//! The broken forty: ways to break an installation, one test for each. The doctor names the cause and the next step, and
//! mends what can be mended.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
#[cfg(unix)]
use std::os::unix::{
    fs::{PermissionsExt, symlink},
    net::UnixListener,
};
use std::path::{Path, PathBuf};
#[cfg(unix)]
use std::process::{Command, Stdio};
#[cfg(unix)]
use std::sync::Arc;
#[cfg(unix)]
use std::time::Instant;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use websocket_bridge::os;

use crate::support::sandbox::{ORIGIN, Sandbox, signal};
use crate::support::server::Server;
use crate::support::until;
#[cfg(unix)]
use crate::{
    disk::{fill, on_a_small_disk},
    support::link::{OtherDaemon, hold_launches},
    tls::{certificate, certificate_with, machine_that_trusts},
};

const CHROMIUM_ID: &str = "abcdefghijklmnopabcdefghijklmnop";
const FIREFOX_ID: &str = "bridge@example.org";

/// What the doctor said.
struct Report {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Report {
    /// The one finding of a check that is not as it should be.
    fn only(&self, check: &str) -> &Value {
        let bad: Vec<&Value> = self
            .findings
            .iter()
            .filter(|finding| finding["check"] == check && (finding["status"] == "fail" || finding["status"] == "warn"))
            .collect();
        let [finding] = bad[..] else { panic!("{check}: {:#?}", self.findings) };
        finding
    }

    /// Checks that something has failed, for this cause and with this next step.
    fn fails(&self, check: &str, evidence: &str, next: &str) {
        self.says(check, "fail", evidence, next);
        assert_eq!(self.code, Some(3));
    }

    /// The same for something that works all the same.
    fn warns(&self, check: &str, evidence: &str, next: &str) {
        self.says(check, "warn", evidence, next);
    }

    fn says(&self, check: &str, status: &str, evidence: &str, next: &str) {
        let finding = self.only(check);
        assert_eq!(finding["status"], status, "{finding:#}");
        assert!(finding["evidence"].as_str().unwrap().contains(evidence), "{finding:#}");
        assert!(finding["next"].as_str().unwrap().contains(next), "{finding:#}");
    }

    /// Checks that nothing of the machine that the test made is worth a word. (Sandboxes and policies are those of the
    /// machine that the tests run on.)
    fn is_well(&self) {
        let of_this_machine = |finding: &&Value| finding["check"] != "sandbox" && finding["check"] != "policy";
        let is_bad = |finding: &&Value| finding["status"] == "fail" || finding["status"] == "warn";
        let bad: Vec<&Value> = self.findings.iter().filter(of_this_machine).filter(is_bad).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

fn doctor_with(machine: &Sandbox, arguments: &[&str]) -> Report {
    let output = machine.run(&[&["doctor", "--json"], arguments].concat());
    assert!(output.stderr.is_empty(), "{output:?}");
    // What is to be typed names the product, where the test has one of its own.
    let shown = String::from_utf8(output.stdout).unwrap().replace(&format!("--name {} ", machine.host()), "");
    let report: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(report["ok"] == true, output.status.code() == Some(0), "{report:#}");
    Report { code: output.status.code(), findings: report["findings"].as_array().unwrap().clone() }
}

fn doctor(machine: &Sandbox) -> Report {
    doctor_with(machine, &[])
}

/// Has everything mended that can be, and checks that nothing is left to say.
fn is_mended(machine: &Sandbox) {
    let report = doctor_with(machine, &["--fix"]);
    assert!(report.findings.iter().any(|finding| finding["check"] == "fix"), "{:#?}", report.findings);
    report.is_well();
    doctor(machine).is_well();
}

/// Installs for both families.
fn install(machine: &Sandbox) {
    let arguments = ["install", "--browser", "chromium", "--browser", "firefox"];
    let output = machine.run(&[&arguments[..], &["--extension", CHROMIUM_ID, "--extension", FIREFOX_ID]].concat());
    assert!(output.status.success(), "{output:?}");
}

fn installed() -> Sandbox {
    let machine = Sandbox::for_install();
    install(&machine);
    machine
}

fn chromium(machine: &Sandbox) -> PathBuf {
    machine.manifest("chromium")
}

fn firefox(machine: &Sandbox) -> PathBuf {
    machine.manifest("firefox")
}

fn program(machine: &Sandbox) -> PathBuf {
    machine.installed_program()
}

fn edit(manifest: &Path, change: impl FnOnce(&mut Value)) {
    let mut value = serde_json::from_slice(&fs::read(manifest).unwrap()).unwrap();
    change(&mut value);
    fs::write(manifest, value.to_string()).unwrap();
}

fn set(manifest: &Path, key: &str, value: Value) {
    edit(manifest, |manifest| manifest[key] = value);
}

fn remove(manifest: &Path, key: &str) {
    edit(manifest, |manifest| drop(manifest.as_object_mut().unwrap().remove(key)));
}

#[cfg(unix)]
fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Puts a script in the program's place. `REAL` in it is the program.
#[cfg(unix)]
fn put_script(machine: &Sandbox, script: &str) {
    let (program, real) = (program(machine), machine.bridge_home().join("real"));
    fs::rename(&program, &real).unwrap();
    fs::write(&program, script.replace("REAL", real.to_str().unwrap())).unwrap();
    set_mode(&program, 0o755);
}

/// What a person types to end a process.
fn kill(pid: u32) -> String {
    if cfg!(windows) { format!("taskkill /F /PID {pid}") } else { format!("kill {pid}") }
}

const FIX: &str = "websocket-bridge doctor --fix";

#[test]
fn a_healthy_installation_yields_no_warning_and_shows_the_way_to_the_server() {
    let (machine, server) = (installed(), Server::start());
    let mut port = machine.port();
    port.open_with(json!({"url": server.url()}), || drop(server.accept().drain()));
    let probed = std::thread::spawn(move || server.accept().drain());
    let report = doctor(&machine);
    report.is_well();
    assert_eq!(report.code, Some(0));
    let fine = |check: &str| report.findings.iter().filter(|f| f["check"] == check && f["status"] == "ok").count();
    assert_eq!((fine("manifest"), fine("program"), fine("launch"), fine("daemon")), (2, 1, 2, 1));
    for step in ["server-dns", "server-tcp", "server-upgrade", "server-ping"] {
        assert_eq!(fine(step), 1, "{step}");
    }
    probed.join().unwrap();
}

#[test]
fn a_report_holds_no_secret() {
    let (machine, server) = (installed(), Server::start());
    let mut port = machine.port();
    port.open_with(json!({"url": format!("{}chat?token=hunter2", server.url())}), || drop(server.accept().drain()));
    std::thread::spawn(move || server.accept().drain());
    let config = format!("[origins.\"{ORIGIN}\".sessions.other]\nurl = \"ws://127.0.0.1:1/?token=hunter2\"\n");
    fs::write(machine.bridge_home().join("config.toml"), config).unwrap();
    for arguments in [&["doctor"][..], &["doctor", "--json"], &["doctor", "--url", "ws://127.0.0.1:1/?t=hunter2"]] {
        let output = machine.run(arguments);
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("ws://127.0.0.1") && !shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn people_get_words_without_colour_in_a_pipe_and_the_same_exit_code() {
    let machine = Sandbox::new();
    let output = machine.run(&["doctor"]);
    let shown = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(shown.contains("FAIL  manifest") && shown.contains("next: websocket-bridge install"), "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert_eq!(machine.run(&["doctor", "--url", "https://example.org/"]).status.code(), Some(2));
}

#[test]
fn nothing_is_installed() {
    doctor(&Sandbox::new()).fails("manifest", "no browser has a manifest", "websocket-bridge install --extension ID");
}

#[test]
fn what_is_to_be_typed_is_meant_for_the_product_that_was_asked_about() {
    let report = doctor_with(&Sandbox::new(), &["--name", "com.example.other"]);
    let next = "websocket-bridge --name com.example.other install --extension ID";
    report.fails("manifest", "no browser has a manifest of com.example.other", next);
}

#[test]
fn a_manifest_is_missing() {
    let machine = installed();
    fs::remove_file(chromium(&machine)).unwrap();
    doctor(&machine).fails("manifest", "it was installed, and is gone", FIX);
    // Its extension is named nowhere else.
    let report = doctor_with(&machine, &["--fix"]);
    report.fails("fix", "nothing says for which extension", "websocket-bridge install --extension ID");
}

#[cfg(unix)]
#[test]
fn a_manifest_is_a_link_to_nothing() {
    let machine = installed();
    let manifest = chromium(&machine);
    fs::remove_file(&manifest).unwrap();
    symlink("gone", &manifest).unwrap();
    doctor(&machine).fails("manifest", "a link to something that is not there", FIX);
}

#[test]
fn a_manifest_cannot_be_read() {
    let machine = installed();
    fs::remove_file(chromium(&machine)).unwrap();
    fs::create_dir(chromium(&machine)).unwrap();
    let why = if cfg!(windows) { "" } else { ": Is a directory" };
    doctor(&machine).fails("manifest", &format!("it cannot be read{why}"), FIX);
}

#[test]
fn a_manifest_begins_with_a_byte_order_mark() {
    let machine = installed();
    let text = fs::read(chromium(&machine)).unwrap();
    fs::write(chromium(&machine), [b"\xef\xbb\xbf", &text[..]].concat()).unwrap();
    doctor(&machine).fails("manifest", "begins with a byte order mark", FIX);
    is_mended(&machine);
    assert_eq!(fs::read(chromium(&machine)).unwrap(), text);
}

#[test]
fn a_manifest_has_a_comma_too_many() {
    let machine = installed();
    let text = fs::read_to_string(firefox(&machine)).unwrap();
    fs::write(firefox(&machine), text.replace("\n}", ",\n}")).unwrap();
    doctor(&machine).fails("manifest", "it is not JSON: trailing comma (line 9, column 1)", FIX);
    is_mended(&machine);
    assert_eq!(fs::read_to_string(firefox(&machine)).unwrap(), text);
}

#[test]
fn a_manifest_is_no_object() {
    let machine = installed();
    let text = fs::read_to_string(chromium(&machine)).unwrap();
    fs::write(chromium(&machine), format!("[{text}]")).unwrap();
    doctor(&machine).fails("manifest", "not an object", FIX);
    is_mended(&machine);
}

#[test]
fn a_manifest_is_empty() {
    let machine = installed();
    fs::write(chromium(&machine), "").unwrap();
    doctor(&machine).fails("manifest", "it is not JSON: EOF", FIX);
}

#[test]
fn a_manifest_has_another_name_than_its_file() {
    let machine = installed();
    set(&chromium(&machine), "name", json!("com.example.other"));
    doctor(&machine).fails("manifest", "`name` is \"com.example.other\", and must be that of the file", FIX);
    is_mended(&machine);
}

#[test]
fn a_manifest_has_no_name() {
    let machine = installed();
    remove(&firefox(&machine), "name");
    doctor(&machine).fails("manifest", "`name` is missing", FIX);
    is_mended(&machine);
}

#[test]
fn the_description_is_empty() {
    let machine = installed();
    set(&chromium(&machine), "description", json!(""));
    doctor(&machine).fails("manifest", "`description` is empty", FIX);
    is_mended(&machine);
}

#[test]
fn the_description_is_missing() {
    let machine = installed();
    remove(&firefox(&machine), "description");
    doctor(&machine).fails("manifest", "`description` is missing", FIX);
    is_mended(&machine);
}

#[test]
fn the_type_is_wrong() {
    let machine = installed();
    set(&chromium(&machine), "type", json!("pipe"));
    doctor(&machine).fails("manifest", "`type` is \"pipe\", and must be \"stdio\"", FIX);
    is_mended(&machine);
}

#[cfg(unix)]
#[test]
fn the_path_is_relative() {
    let machine = installed();
    set(&chromium(&machine), "path", json!("websocket-bridge"));
    doctor(&machine).fails("manifest", "`path` is relative", FIX);
    is_mended(&machine);
}

#[test]
fn the_path_is_missing() {
    let machine = installed();
    remove(&firefox(&machine), "path");
    doctor(&machine).fails("manifest", "`path` is missing", FIX);
    is_mended(&machine);
}

#[test]
fn an_origin_lacks_the_slash_at_its_end() {
    let machine = installed();
    set(&chromium(&machine), "allowed_origins", json!([ORIGIN.trim_end_matches('/')]));
    doctor(&machine).fails("manifest", "lacks the slash at its end", FIX);
    is_mended(&machine);
}

#[test]
fn an_origin_has_a_wildcard() {
    let machine = installed();
    set(&chromium(&machine), "allowed_origins", json!(["chrome-extension://*/"]));
    doctor(&machine).fails("manifest", "has a wildcard", FIX);
}

#[test]
fn the_origins_are_no_list() {
    let machine = installed();
    set(&chromium(&machine), "allowed_origins", json!(ORIGIN));
    doctor(&machine).fails("manifest", "`allowed_origins` is not a list", FIX);
    is_mended(&machine);
}

#[test]
fn a_manifest_of_chromium_is_given_to_firefox() {
    let machine = installed();
    fs::copy(chromium(&machine), firefox(&machine)).unwrap();
    doctor(&machine).fails("manifest", "`allowed_extensions` is missing; it has a member `allowed_origins`", FIX);
}

#[test]
fn an_add_on_has_no_id() {
    let machine = installed();
    set(&firefox(&machine), "allowed_extensions", json!([ORIGIN]));
    doctor(&machine).fails("manifest", "is no id of an add-on", FIX);
}

#[test]
fn another_program_has_taken_the_name() {
    let machine = installed();
    let other = if cfg!(windows) { r"C:\windows\system32\cmd.exe" } else { "/bin/cat" };
    set(&chromium(&machine), "path", json!(other));
    let text = fs::read(chromium(&machine)).unwrap();
    let report = doctor(&machine);
    report.fails(
        "manifest",
        &format!("it starts another program: {other}"),
        "websocket-bridge install --force --browser chromium",
    );
    // It is neither started nor touched.
    assert_eq!(report.findings.iter().filter(|finding| finding["check"] == "launch").count(), 1);
    doctor_with(&machine, &["--fix"]).fails("manifest", "another program", "--force");
    assert_eq!(fs::read(chromium(&machine)).unwrap(), text);
}

#[cfg(unix)]
#[test]
fn anybody_may_change_a_manifest() {
    let machine = installed();
    set_mode(&chromium(&machine), 0o666);
    doctor(&machine).warns("manifest", "anybody on this machine may change it", "chmod o-w");
    is_mended(&machine);
}

#[test]
fn the_program_was_moved() {
    let machine = installed();
    fs::rename(program(&machine), machine.bridge_home().join("elsewhere")).unwrap();
    doctor(&machine).fails("program", "it is not there: it was moved or removed", FIX);
    is_mended(&machine);
}

#[cfg(unix)]
#[test]
fn the_program_is_not_executable() {
    let machine = installed();
    set_mode(&program(&machine), 0o644);
    doctor(&machine).fails("program", "it is not executable", FIX);
    is_mended(&machine);
}

#[test]
fn the_program_is_for_another_machine() {
    let machine = installed();
    let mut bytes = fs::read(program(&machine)).unwrap();
    // The machine in the header: IBM's z in that of ELF, ARM64 in that of PE.
    let (at, machine_type, named) = if cfg!(windows) {
        let header = u32::from_le_bytes(bytes[0x3c..0x40].try_into().unwrap()) as usize;
        (header + 4, 0xaa64_u16, "PE for ARM64")
    } else {
        (18, 22, "ELF for s390x")
    };
    bytes[at..at + 2].copy_from_slice(&machine_type.to_le_bytes());
    fs::write(program(&machine), bytes).unwrap();
    doctor(&machine).fails("program", &format!("for another machine ({named}"), FIX);
    is_mended(&machine);
}

#[test]
fn the_program_is_damaged() {
    let machine = installed();
    fs::write(program(&machine), "").unwrap();
    doctor(&machine).fails("program", "is no program: damaged", FIX);
    is_mended(&machine);
}

#[cfg(unix)]
#[test]
fn the_program_that_would_run_a_script_is_missing() {
    let machine = installed();
    put_script(&machine, "#!/nowhere/node\n");
    doctor(&machine).fails("program", "the program that is to run it is not there", FIX);
    is_mended(&machine);
}

#[test]
fn the_program_is_a_directory() {
    let machine = installed();
    fs::remove_file(program(&machine)).unwrap();
    fs::create_dir(program(&machine)).unwrap();
    doctor(&machine).fails("program", "it is no file", FIX);
}

#[cfg(unix)]
#[test]
fn anybody_may_change_the_program() {
    let machine = installed();
    set_mode(&program(&machine), 0o777);
    doctor(&machine).warns("program", "anybody on this machine may change it", "chmod o-w");
}

#[cfg(unix)]
#[test]
fn the_program_is_an_older_version() {
    let machine = installed();
    put_script(
        &machine,
        "#!/bin/sh\n[ \"$1\" = --version ] && echo websocket-bridge 0.0.1 && exit\nexec REAL \"$@\"\n",
    );
    doctor(&machine).warns("program", "it is version 0.0.1", "websocket-bridge install");
}

#[cfg(unix)]
#[test]
fn a_newer_program_is_not_replaced_by_an_older_one() {
    let machine = installed();
    put_script(
        &machine,
        "#!/bin/sh\n[ \"$1\" = --version ] && echo websocket-bridge 99.0.0 && exit\nexec REAL \"$@\"\n",
    );
    let script = fs::read(program(&machine)).unwrap();
    set(&chromium(&machine), "type", json!("pipe"));
    let report = doctor_with(&machine, &["--fix"]);
    report.fails("fix", "is version 99.0.0, and this program is older", "doctor --fix");
    assert_eq!(fs::read(program(&machine)).unwrap(), script);
}

#[cfg(unix)]
#[test]
fn the_host_prints_text_where_messages_belong() {
    let machine = installed();
    fs::remove_file(firefox(&machine)).unwrap();
    put_script(&machine, "#!/bin/sh\necho /home/x is my home\nexec REAL \"$@\"\n");
    doctor(&machine).fails("launch", "its four bytes are the text \"/hom\"", "websocket-bridge install");
}

#[cfg(unix)]
#[test]
fn the_host_ends_at_once() {
    let machine = installed();
    fs::remove_file(firefox(&machine)).unwrap();
    put_script(&machine, "#!/bin/sh\necho no such luck >&2\nexit 7\n");
    doctor(&machine).fails("launch", "exit status: 7 before it answered, and said: no such luck", FIX);
}

#[cfg(unix)]
#[test]
fn the_host_does_not_leave() {
    let machine = installed();
    fs::remove_file(firefox(&machine)).unwrap();
    put_script(&machine, "#!/bin/sh\nREAL \"$@\"\nexec sleep 60\n");
    doctor(&machine).fails("launch", "it does not leave when the port is closed", "websocket-bridge install");
}

#[cfg(unix)]
#[test]
fn the_host_is_started_with_what_a_browser_gives_it() {
    let machine = Sandbox::new().with("EDITOR", "vi");
    install(&machine);
    let said = machine.bridge_home().join("said");
    let script = format!(
        "#!/bin/sh\n(echo \"$@\"; pwd; echo $PATH; echo $EDITOR) >> {0}; \
        (: >&3) 2>/dev/null && echo four >> {0}\nexec REAL \"$@\"\n",
        said.display()
    );
    put_script(&machine, &script);
    doctor(&machine).is_well();
    let said = fs::read_to_string(said).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.contains(&ORIGIN), "{said}");
    assert!(lines.iter().any(|line| line.ends_with(&format!("{}.json {FIREFOX_ID}", machine.host()))), "{said}");
    assert_eq!(lines.iter().filter(|line| line.ends_with("/bridge/bin")).count(), 2, "{said}");
    assert_eq!(lines.iter().filter(|line| **line == "/usr/bin:/bin:/usr/sbin:/sbin").count(), 4, "{said}");
    assert_eq!(lines.iter().filter(|line| **line == "four").count(), 1, "{said}");
    assert!(!lines.contains(&"vi"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_host_has_lost_its_browser() {
    let machine = installed();
    // Whoever starts it ends, and something else keeps its input open.
    let script = format!("sleep 60 | {} {ORIGIN} >/dev/null & sleep 60 & echo $!", program(&machine).display());
    let mut shell = machine.command();
    shell = {
        let mut command = Command::new("/bin/sh");
        command.env_clear().envs(shell.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command
    };
    let output = shell.args(["-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    until("the host runs", || (machine.log("host").contains("host started")).then_some(()));
    let report = doctor(&machine);
    report.warns("orphan", "the browser that started it is gone", FIX);
    is_mended(&machine);
    for pid in machine.processes() {
        if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.ends_with("sleep")) {
            signal(pid, "KILL");
        }
    }
    drop(output);
}

#[cfg(unix)]
#[test]
fn the_directory_of_the_socket_is_open_to_others() {
    let machine = installed();
    fs::create_dir_all(machine.bridge_home().join("run")).unwrap();
    set_mode(&machine.bridge_home().join("run"), 0o755);
    let report = doctor(&machine);
    report.fails("directory", "is open to others", FIX);
    assert!(report.findings.iter().any(|finding| finding["check"] == "launch" && finding["status"] == "fail"));
    is_mended(&machine);
}

#[cfg(unix)]
#[test]
fn the_directory_of_the_logs_is_open_to_others() {
    let machine = installed();
    fs::create_dir_all(machine.bridge_home().join("logs")).unwrap();
    set_mode(&machine.bridge_home().join("logs"), 0o777);
    doctor(&machine).fails("directory", "is open to others", FIX);
    is_mended(&machine);
}

#[test]
fn the_home_is_a_file() {
    let machine = Sandbox::new();
    fs::write(machine.bridge_home(), "").unwrap();
    doctor(&machine).fails("directory", "it is no directory", "a directory that you may write to");
}

#[cfg(unix)]
#[test]
fn the_home_is_read_only() {
    let test = "doctor::the_home_is_read_only";
    let Some(disk) = on_a_small_disk(test) else { return };
    let machine = Sandbox::new();
    fs::create_dir_all(machine.bridge_home()).unwrap();
    let again = Command::new("mount").args(["-o", "remount,ro"]).arg(&disk).status().unwrap();
    assert!(again.success());
    let report = doctor(&machine);
    report.fails("directory", "Read-only file system", "a directory that you may write to");
    assert!(Command::new("mount").args(["-o", "remount,rw"]).arg(&disk).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn the_disk_is_full() {
    let test = "doctor::the_disk_is_full";
    let Some(disk) = on_a_small_disk(test) else { return };
    let machine = Sandbox::new();
    fs::create_dir_all(machine.bridge_home()).unwrap();
    fill(&disk);
    doctor(&machine).fails("disk", "0 KiB free", "make room on the disk");
    fs::remove_file(disk.join("filler")).unwrap();
}

#[cfg(unix)]
#[test]
fn a_daemon_was_killed_and_its_socket_is_still_there() {
    let machine = installed();
    let mut port = machine.welcomed_port();
    let daemon = machine.daemon().unwrap();
    signal(daemon, "KILL");
    until("the daemon is gone", || machine.daemon().is_none().then_some(()));
    port.close();
    doctor(&machine).warns("daemon", "a daemon was killed and has left", FIX);
}

#[cfg(unix)]
#[test]
fn the_socket_of_the_daemon_that_was_started_meanwhile_is_left_alone() {
    let machine = installed();
    let mut port = machine.welcomed_port();
    let daemon = machine.daemon().unwrap();
    signal(daemon, "KILL");
    until("the daemon is gone", || machine.daemon().is_none().then_some(()));
    port.close();
    // To look, the doctor starts hosts, and they the next daemon.
    is_mended(&machine);
}

#[cfg(unix)]
#[test]
fn the_socket_of_a_killed_daemon_is_removed() {
    // Without a manifest no host is started, whose daemon would do it.
    let machine = Sandbox::new();
    fs::create_dir_all(machine.bridge_home().join("run")).unwrap();
    set_mode(&machine.bridge_home().join("run"), 0o700);
    let socket = machine.bridge_home().join("run/daemon.sock");
    drop(UnixListener::bind(&socket).unwrap());
    doctor(&machine).warns("daemon", "a daemon was killed and has left", FIX);
    let report = doctor_with(&machine, &["--fix"]);
    assert!(!socket.exists(), "{:#?}", report.findings);
}

#[test]
fn the_daemon_stands_still() {
    let machine = installed();
    let mut port = machine.welcomed_port();
    let daemon = machine.daemon().unwrap();
    signal(daemon, "STOP");
    let report = doctor(&machine);
    signal(daemon, "CONT");
    let kill = kill(daemon);
    report.fails("daemon", "has the lock and cannot be spoken to: it does not answer within 3 s", &kill);
    port.close();
}

#[test]
fn something_has_the_lock_and_nobody_listens() {
    let machine = Sandbox::new();
    fs::create_dir_all(machine.bridge_home()).unwrap();
    fs::write(machine.bridge_home().join("daemon.lock"), "4194304\n").unwrap();
    let lock = os::open_lock_file(&machine.bridge_home().join("daemon.lock")).unwrap();
    os::try_lock(&lock).unwrap();
    doctor(&machine).fails("daemon", "process 4194304 has the lock, and nobody listens", &kill(4_194_304));
}

#[cfg(unix)]
#[test]
fn the_daemon_is_older() {
    let machine = Sandbox::new();
    let other = OtherDaemon::start(&machine, 1, "0.0.1");
    let _launches = hold_launches(&machine);
    std::thread::scope(|scope| {
        scope.spawn(|| answer_status(&other));
        doctor(&machine).warns("daemon", "it was version 0.0.1", "websocket-bridge stop");
    });
}

#[cfg(unix)]
#[test]
fn the_daemon_is_newer() {
    let machine = Sandbox::new();
    let other = OtherDaemon::start(&machine, 1, "99.0.0");
    std::thread::scope(|scope| {
        scope.spawn(|| answer_status(&other));
        doctor(&machine).warns("daemon", "it is version 99.0.0, and this program is older", "newer program");
    });
}

#[cfg(unix)]
#[test]
fn a_daemon_that_is_just_ending_is_no_fault() {
    let machine = Sandbox::new();
    let other = OtherDaemon::start(&machine, 1, env!("CARGO_PKG_VERSION"));
    let ending = std::thread::spawn(move || drop(other.accept()));
    let report = doctor(&machine);
    ending.join().unwrap();
    let daemon = report.findings.iter().find(|finding| finding["check"] == "daemon").unwrap();
    assert!(daemon["status"] == "ok" && daemon["evidence"].as_str().unwrap().starts_with("none runs"), "{daemon}");
}

#[cfg(unix)]
fn answer_status(other: &OtherDaemon) {
    let (mut stream, _) = other.accept();
    crate::support::link::listen(&mut stream);
    crate::support::link::say(&mut stream, &json!({"daemon": {}, "sessions": []}));
}

#[cfg(unix)]
#[test]
fn something_else_listens_at_the_socket() {
    let machine = Sandbox::new();
    fs::create_dir_all(machine.bridge_home().join("run")).unwrap();
    set_mode(&machine.bridge_home().join("run"), 0o700);
    let listener = UnixListener::bind(machine.bridge_home().join("run/daemon.sock")).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let _ = stream.write_all(b"220 mail.example.org ESMTP");
        let _ = stream.read(&mut [0; 100]);
    });
    doctor(&machine).fails("daemon", "is not this daemon", "end what listens");
}

/// A spool with a session in it that nobody has open, and its server.
fn with_spool() -> (Sandbox, Server) {
    let (machine, server) = (Sandbox::new(), Server::start());
    let mut port = machine.port();
    port.open_with(json!({"url": server.url()}), || drop(server.accept().drain()));
    port.close();
    assert!(machine.run(&["stop"]).status.success());
    (machine, server)
}

#[test]
fn the_spool_is_sound_and_its_sessions_are_known_while_nobody_runs() {
    let (machine, server) = with_spool();
    let spool = fs::read(machine.bridge_home().join("spool.db")).unwrap();
    let probed = std::thread::spawn(move || server.accept().drain());
    let report = doctor(&machine);
    let spool_is = report.findings.iter().find(|finding| finding["check"] == "spool").unwrap();
    assert!(spool_is["evidence"].as_str().unwrap().ends_with("sessions: 1, sound"), "{spool_is}");
    assert!(report.findings.iter().any(|finding| finding["check"] == "server-ping" && finding["status"] == "ok"));
    assert_eq!(fs::read(machine.bridge_home().join("spool.db")).unwrap(), spool);
    probed.join().unwrap();
}

#[test]
fn the_spool_is_damaged() {
    let (machine, _server) = with_spool();
    let path = machine.bridge_home().join("spool.db");
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0x55);
    fs::write(&path, &bytes).unwrap();
    doctor(&machine).fails("spool", "it is damaged", "websocket-bridge daemon");
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn the_spool_is_of_a_newer_version() {
    let (machine, _server) = with_spool();
    let path = machine.bridge_home().join("spool.db");
    let mut bytes = fs::read(&path).unwrap();
    // `user_version` and `application_id` in SQLite's header: our mark and the format.
    bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
    bytes[68..72].copy_from_slice(&(u32::from_be_bytes(*b"WSB\0") + 99).to_be_bytes());
    fs::write(&path, bytes).unwrap();
    doctor(&machine).fails("spool", "written by a newer version", "start the program that wrote it");
}

#[test]
fn damaged_spools_were_set_aside() {
    let machine = installed();
    fs::write(machine.bridge_home().join("spool-damaged-20200101.db"), "x").unwrap();
    doctor(&machine).warns("spool", "damaged files were set aside", "spool-damaged-*");
}

fn with_config(machine: &Sandbox, text: impl AsRef<[u8]>) {
    fs::create_dir_all(machine.bridge_home()).unwrap();
    fs::write(machine.bridge_home().join("config.toml"), text).unwrap();
}

#[test]
fn the_configuration_has_an_unknown_key() {
    let machine = installed();
    with_config(&machine, "[defaults]\n\nheartbeat.intervall_ms = 5\n");
    doctor(&machine).fails("configuration", "config.toml: line 3: there is no setting", "correct that line");
}

#[test]
fn the_configuration_is_in_another_encoding() {
    let machine = installed();
    with_config(&machine, b"# fine\n# n\xe4h\n");
    doctor(&machine).fails("configuration", "config.toml: line 2: this is not UTF-8", "correct that line");
}

#[test]
fn a_server_is_not_allowed() {
    let machine = installed();
    with_config(&machine, format!("[origins.\"{ORIGIN}\".sessions.s]\nurl = \"wss://example.org/ws\"\n"));
    let next = "websocket-bridge install --extension ID --url wss://example.org/ws";
    doctor(&machine).fails("server-allowed", "not allowed for", next);
}

#[test]
fn there_is_no_session_of_that_name() {
    doctor_with(&installed(), &["--session", "nobody"]).fails(
        "server",
        "no session of that name",
        "websocket-bridge status",
    );
}

#[test]
fn the_clock_is_wrong() {
    let machine = installed();
    with_config(&machine, "");
    let config = fs::File::options().write(true).open(machine.bridge_home().join("config.toml")).unwrap();
    config.set_modified(SystemTime::now() + Duration::from_secs(200_000)).unwrap();
    doctor(&machine).warns("clock", "config.toml was changed on", "or set the clock by hand");
}

#[cfg(unix)]
#[test]
fn a_browser_is_in_a_sandbox() {
    let machine = installed();
    fs::create_dir_all(machine.home().join(".local/share/flatpak/app/com.brave.Browser")).unwrap();
    let report = doctor(&machine);
    let of_brave = |finding: &&Value| {
        finding["check"] == "sandbox" && finding["subject"].as_str().unwrap().contains("com.brave.Browser")
    };
    let said = report.findings.iter().find(of_brave).unwrap();
    assert!(said["evidence"].as_str().unwrap().contains("a copy of the program inside"), "{said}");
    assert!(said["next"].as_str().unwrap().starts_with("websocket-bridge install --browser brave-"), "{said}");
}

/// What the doctor says of the server at an address.
fn of_server(url: &str) -> Report {
    doctor_with(&installed(), &["--url", url])
}

/// A server that reads a request and gives this answer to everybody; its address.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(answer.as_bytes());
            hold(stream);
        }
    });
    format!("ws://{address}/ws")
}

/// Holds a connection open until the other side ends it.
fn hold(mut stream: TcpStream) {
    while let Ok(1..) = stream.read(&mut [0; 1024]) {}
}

#[test]
fn the_host_of_a_server_is_unknown() {
    of_server("wss://bridge.invalid/ws").fails(
        "server-dns",
        "cannot look up the address of bridge.invalid",
        "nslookup",
    );
}

#[test]
fn nothing_listens_at_the_port() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let next = format!("nothing listens at {}", free.port());
    let why = if cfg!(windows) { "refused" } else { "Connection refused" };
    of_server(&format!("ws://{free}/")).fails("server-tcp", why, &next);
}

#[test]
fn a_proxy_of_the_environment_is_not_there() {
    let machine = Sandbox::for_install().with("HTTPS_PROXY", "http://user:hunter2@127.0.0.1:1");
    install(&machine);
    let report = doctor_with(&machine, &["--url", "wss://server.test/"]);
    report.fails("server-proxy", "HTTPS_PROXY of the environment", "start the proxy, or set `proxy` in config.toml");
    assert!(!format!("{:?}", report.findings).contains("hunter2"));
}

/// What is said of a server with a certificate, on a machine that trusts these.
#[cfg(unix)]
fn of_certificate(trusted: &str, config: Arc<rustls::ServerConfig>) -> Report {
    let machine = machine_that_trusts(trusted);
    install(&machine);
    let server = Server::start();
    let url = format!("wss://localhost:{}/", server.address().port());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let connection = rustls::ServerConnection::new(config).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, server.accept_tcp());
            assert!(stream.read(&mut [0]).is_err());
        });
        doctor_with(&machine, &["--url", &url])
    })
}

#[cfg(unix)]
#[test]
fn a_certificate_is_self_signed() {
    let ((other, _), (_, config)) = (certificate(&["localhost"]), certificate(&["localhost"]));
    of_certificate(&other, config).fails("server-tls", "is self-signed", "certificates that this system trusts");
}

#[cfg(unix)]
#[test]
fn a_certificate_has_another_name() {
    let (pem, config) = certificate(&["example.org"]);
    of_certificate(&pem, config).fails("server-tls", "is not for localhost", "use a name that is in the certificate");
}

#[cfg(unix)]
#[test]
fn a_certificate_has_expired() {
    let (pem, config) = certificate_with(&["localhost"], |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    of_certificate(&pem, config).fails("server-tls", "expired on Tue, 01 Jan 2002", "renew the server's certificate");
}

#[cfg(unix)]
#[test]
fn a_certificate_is_not_yet_valid() {
    let (pem, config) = certificate_with(&["localhost"], |params| params.not_before = rcgen::date_time_ymd(3000, 1, 1));
    of_certificate(&pem, config).fails("server-tls", "is valid only from Wed, 01 Jan 3000", "clock");
}

#[cfg(unix)]
#[test]
fn a_certificate_expires_soon() {
    let soon = SystemTime::now() + Duration::from_secs(3 * 24 * 60 * 60);
    let (pem, config) = certificate_with(&["localhost"], |params| params.not_after = soon.into());
    let machine = machine_that_trusts(&pem);
    install(&machine);
    let server = Server::start();
    let url = format!("wss://localhost:{}/", server.address().port());
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            let connection = rustls::ServerConnection::new(config).unwrap();
            let stream = rustls::StreamOwned::new(connection, server.accept_tcp());
            let mut socket = tokio_tungstenite::tungstenite::accept(stream).unwrap();
            while socket.read().is_ok() {}
        });
        doctor_with(&machine, &["--url", &url])
    });
    report.warns("server-tls", "valid until", "renew the server's certificate");
    assert_eq!(report.code, Some(0));
}

#[test]
fn a_server_speaks_no_tls() {
    let url = answering("HTTP/1.1 400 Bad Request\r\n\r\n").replace("ws://127.0.0.1", "wss://localhost");
    of_server(&url).fails("server-tls", "there was no handshake", "the URL begins with ws://");
}

#[test]
fn a_server_wants_a_credential() {
    of_server(&answering("HTTP/1.1 401 Unauthorized\r\n\r\n")).fails("server-upgrade", "401", "a valid credential");
}

#[test]
fn a_server_says_no() {
    of_server(&answering("HTTP/1.1 403 Forbidden\r\n\r\n")).fails("server-upgrade", "403", "Origin");
}

#[test]
fn the_path_is_unknown_to_the_server() {
    of_server(&answering("HTTP/1.1 404 Not Found\r\n\r\n")).fails("server-upgrade", "404", "correct the path");
}

#[test]
fn a_proxy_wants_credentials() {
    let answer = answering("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n");
    of_server(&answer).fails("server-upgrade", "407", "give the proxy its credentials");
}

#[test]
fn the_server_behind_a_proxy_is_away() {
    of_server(&answering("HTTP/1.1 502 Bad Gateway\r\n\r\n")).fails("server-upgrade", "502", "the proxy answers");
}

#[test]
fn a_server_points_elsewhere() {
    let answer = answering("HTTP/1.1 301 Moved Permanently\r\nLocation: wss://elsewhere.example/ws?token=x\r\n\r\n");
    of_server(&answer).fails("server-upgrade", "it points to wss://elsewhere.example/ws,", "address that it points to");
}

#[test]
fn what_answers_is_no_websocket_server() {
    of_server(&answering("SSH-2.0-OpenSSH_9.2\r\n")).fails(
        "server-upgrade",
        "something else than HTTP",
        "correct the path",
    );
}

#[test]
fn a_server_chooses_a_protocol_that_was_not_offered() {
    let server = Server::start();
    let url = server.url();
    std::thread::spawn(move || hold_any(&server));
    of_server(&url).fails("server-upgrade", "chose a sub-protocol", "`protocols` of `open`");
}

/// Answers the upgrade with a sub-protocol, whatever was offered.
fn hold_any(server: &Server) {
    let mut connection = server.accept_with(Some("chat"));
    while connection.socket.read().is_ok() {}
}

#[test]
fn a_server_ends_the_connection_at_once() {
    let server = Server::start();
    let url = server.url();
    std::thread::spawn(move || {
        let mut connection = server.accept();
        let _ = connection.socket.close(Some(CloseFrame { code: 4401.into(), reason: "who are you".into() }));
        while connection.socket.read().is_ok() {}
    });
    of_server(&url).fails("server-ping", "closed the connection with 4401: who are you", "read the server's log");
}

#[test]
fn a_server_does_not_answer_the_upgrade() {
    let server = Server::start();
    let url = server.url();
    std::thread::spawn(move || hold(server.accept_tcp()));
    of_server(&url).fails("server-upgrade", "did not answer the WebSocket upgrade within 4 s", "stuck");
}

#[test]
fn a_server_does_not_answer_pings() {
    let server = Server::start();
    let url = server.url();
    std::thread::spawn(move || {
        let connection = server.accept();
        until("the doctor leaves", || {
            let mut byte = [0];
            let stream = connection.socket.get_ref();
            stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            // Everything is taken, and nothing answered.
            matches!((&*stream).read(&mut byte), Ok(0)).then_some(())
        });
    });
    let report = of_server(&url);
    report.warns("server-ping", "it does not answer pings", "let the server answer pings");
    assert_eq!(report.code, Some(0));
}

#[cfg(unix)]
#[test]
fn it_ends_within_15_s_when_everything_hangs() {
    let (machine, server) = (installed(), Server::start());
    let mut port = machine.welcomed_port();
    let daemon = machine.daemon().unwrap();
    signal(daemon, "STOP");
    // A manifest that nobody ever finishes writing, a configuration too, a host that says nothing, and servers that do not
    // answer.
    let pipe = |path: &Path| {
        let _ = fs::remove_file(path);
        assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    pipe(&chromium(&machine));
    pipe(&machine.bridge_home().join("config.toml"));
    put_script(&machine, "#!/bin/sh\nexec sleep 60\n");
    let url = server.url();
    std::thread::spawn(move || {
        let held = [server.accept_tcp(), server.accept_tcp()];
        held.into_iter().for_each(hold);
    });
    let within_15_s = |arguments: &[&str]| {
        let begin = Instant::now();
        let report = doctor_with(&machine, arguments);
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
        report
    };
    let report = within_15_s(&["--url", &url]);
    // Something that can be mended all the same.
    set(&firefox(&machine), "type", json!("pipe"));
    let after = within_15_s(&["--url", &url, "--fix"]);
    signal(daemon, "CONT");
    let is_mended = |finding: &Value| finding["check"] == "fix" && finding["status"] == "ok";
    assert!(after.findings.iter().any(is_mended), "{:#?}", after.findings);
    report.fails("manifest", "reading it takes too long", "");
    report.fails("configuration", "reading it takes too long", "");
    report.fails("daemon", "does not answer within 3 s", "kill");
    report.fails("launch", "it says nothing for 5 s", "websocket-bridge stop");
    report.fails("server-upgrade", "did not answer", "");
    port.close();
}
