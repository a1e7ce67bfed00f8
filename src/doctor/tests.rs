//! Judgements on made-up machines: what no test of the whole can bring about on every machine.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::facts::{Call, Content, Daemon, Facts, Manifest, Place, Policy, Program, ProgramState, Server, Spool};
use super::findings::{Finding, Status, findings};
use super::launch::Outcome;
use super::policy::{self, PLACES};
use super::program::Kind;
use crate::install::Installed;
use crate::install::browsers::{Family, Hive, Key, Launch, Location, Platform, Sandbox, Scope, View};
use crate::server::{Certificate, Found};
use crate::wire::Reason;

const HOST: &str = "com.semantest.websocket_bridge";
const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

fn own() -> Kind {
    Kind::Native { format: "ELF", machine: "x86-64, 64 bit".to_owned() }
}

fn place(title: &str, family: Family, scope: Scope, manifest: &str) -> Place {
    Place {
        browser: title.to_lowercase(),
        title: title.to_owned(),
        family,
        scope,
        is_written: true,
        sandbox: None,
        is_found: true,
        is_user_data_dir: false,
        location: Location::File(manifest.into()),
        manifest: manifest.into(),
    }
}

/// A manifest in order, whose host answers.
fn manifest(path: &str, family: Family) -> Manifest {
    let mut text = json!({"name": HOST, "description": "d", "path": "/p/websocket-bridge", "type": "stdio"});
    match family {
        Family::Chromium => text["allowed_origins"] = json!([ORIGIN]),
        Family::Firefox => text["allowed_extensions"] = json!(["a@b.c"]),
    }
    let state = ProgramState::File {
        is_executable: true,
        kind: own(),
        has_interpreter: true,
        is_open: false,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
    };
    let ms = Duration::from_millis;
    let welcome =
        Outcome::Welcome { version: "1".into(), origin: ORIGIN.into(), after: ms(9), left_after: Some(ms(1)) };
    Manifest {
        path: path.into(),
        content: Content::Read { bytes: text.to_string().into_bytes(), is_open: false },
        program: Some(Program { path: "/p/websocket-bridge".into(), state, is_ours: true }),
        launch: Some(welcome),
    }
}

/// A manifest that is not JSON.
fn broken(path: &str) -> Manifest {
    let content = Content::Read { bytes: b"{".to_vec(), is_open: false };
    Manifest { path: path.into(), content, program: None, launch: None }
}

/// A machine on which all is well.
fn healthy() -> Facts {
    Facts {
        platform: Platform::Linux,
        host: HOST.to_owned(),
        own_kind: own(),
        installed: Ok(Installed {
            manifests: vec![Location::File("/u/c.json".into())],
            programs: vec!["/p/websocket-bridge".into()],
        }),
        places: vec![place("Chromium", Family::Chromium, Scope::User, "/u/c.json")],
        manifests: vec![manifest("/u/c.json", Family::Chromium)],
        policies: Vec::new(),
        orphans: Vec::new(),
        directories: Vec::new(),
        daemon: Some(Daemon { lock: None, socket: "/r/s".into(), has_socket: false, call: Call::Nobody }),
        spool: Some(Spool::InUse { bytes: 4096, set_aside: Vec::new() }),
        free_bytes: Some(1 << 30),
        configuration: Some(Ok(())),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        last_change: None,
        servers: Vec::new(),
        untried: 0,
        unknown_session: None,
        slow: Vec::new(),
        home: "/d".into(),
        has_home_variable: false,
    }
}

/// What is said of a machine, but for what is as it should be.
fn said(facts: &Facts) -> Vec<Finding> {
    let mut findings = findings(facts);
    findings.retain(|finding| matches!(finding.status, Status::Warn | Status::Fail));
    findings
}

/// The one thing that is said.
fn only(facts: &Facts) -> Finding {
    let mut said = said(facts);
    assert_eq!(said.len(), 1, "{said:#?}");
    said.remove(0)
}

#[test]
fn a_healthy_machine_is_left_in_peace() {
    assert_eq!(said(&healthy()), []);
}

#[test]
fn a_broken_manifest_hides_a_good_one_from_chromium() {
    let mut facts = healthy();
    facts.places.push(place("Chromium", Family::Chromium, Scope::System, "/s/c.json"));
    facts.manifests.push(manifest("/s/c.json", Family::Chromium));
    assert_eq!(said(&facts), []);
    facts.manifests[0] = broken("/u/c.json");
    let said = said(&facts);
    let shadow = said.iter().find(|finding| finding.check == "shadow").unwrap();
    assert_eq!((shadow.status, shadow.next.as_deref()), (Status::Fail, Some("rm /u/c.json")));
    assert!(shadow.evidence.contains("/s/c.json behind it is never read"), "{shadow:?}");
}

#[test]
fn a_foreign_manifest_hides_a_good_one_too() {
    let mut facts = healthy();
    facts.places.push(place("Chromium", Family::Chromium, Scope::System, "/s/c.json"));
    facts.manifests.push(manifest("/s/c.json", Family::Chromium));
    facts.manifests[0].program.as_mut().unwrap().is_ours = false;
    assert!(said(&facts).iter().any(|finding| finding.check == "shadow" && finding.status == Status::Fail));
}

#[test]
fn firefox_passes_over_a_broken_manifest() {
    let mut facts = healthy();
    facts.places = vec![
        place("Firefox", Family::Firefox, Scope::User, "/u/f.json"),
        place("Firefox", Family::Firefox, Scope::System, "/s/f.json"),
    ];
    facts.manifests = vec![broken("/u/f.json"), manifest("/s/f.json", Family::Firefox)];
    let said = said(&facts);
    let shadow = said.iter().find(|finding| finding.check == "shadow").unwrap();
    assert!(shadow.status == Status::Warn && shadow.evidence.contains("takes /s/f.json"), "{shadow:?}");
}

#[test]
fn what_is_wrong_for_a_browser_that_is_not_there_is_no_failure() {
    let mut facts = healthy();
    facts.places[0].is_found = false;
    facts.manifests[0] = broken("/u/c.json");
    assert_eq!(only(&facts).status, Status::Warn);
}

#[test]
fn a_browser_that_shares_a_manifest_is_named_with_the_others() {
    let mut facts = healthy();
    facts.places.push(place("Opera", Family::Chromium, Scope::User, "/u/c.json"));
    facts.manifests[0] = broken("/u/c.json");
    assert!(only(&facts).subject.starts_with("Chromium, Opera: "));
}

#[test]
fn a_manifest_that_is_broken_and_nobody_s_needs_a_word_of_the_person() {
    let mut facts = healthy();
    facts.installed = Ok(Installed::default());
    facts.manifests[0] = broken("/u/c.json");
    assert_eq!(only(&facts).next.unwrap(), "websocket-bridge install --force --browser chromium --extension ID");
    facts.places[0].is_user_data_dir = true;
    facts.places[0].browser = "/my data".into();
    let next = only(&facts).next.unwrap();
    assert_eq!(next, "websocket-bridge install --force --user-data-dir '/my data' --extension ID");
}

fn with_policy(said: serde_json::Value) -> Facts {
    let place = *PLACES.iter().find(|place| place.platform == Platform::Linux && place.browser == "chromium").unwrap();
    let said = Ok(said.as_object().unwrap().clone());
    Facts { policies: vec![Policy { place, said }], ..healthy() }
}

#[test]
fn a_policy_that_blocks_is_named_with_what_to_ask_for() {
    let finding = only(&with_policy(json!({"NativeMessagingBlocklist": ["*"]})));
    assert_eq!((finding.check, finding.status), ("policy", Status::Fail));
    assert!(finding.next.unwrap().contains("add com.semantest.websocket_bridge to NativeMessagingAllowlist"));
    assert_eq!(said(&with_policy(json!({"NativeMessagingAllowlist": ["*"]}))), []);
}

#[test]
fn a_policy_may_let_only_the_machine_s_manifests_count() {
    let mut facts = with_policy(json!({"NativeMessagingUserLevelHosts": false}));
    assert!(only(&facts).evidence.contains("there is none"));
    facts.places.push(place("Chromium", Family::Chromium, Scope::System, "/s/c.json"));
    facts.manifests.push(manifest("/s/c.json", Family::Chromium));
    assert_eq!(said(&facts), []);
}

#[test]
fn a_policy_of_a_browser_that_is_not_there_stops_nobody() {
    let mut facts = with_policy(json!({"NativeMessagingBlocklist": ["*"]}));
    facts.places[0].is_found = false;
    assert_eq!(only(&facts).status, Status::Warn);
}

#[test]
fn policies_are_read_from_all_files_and_a_broken_one_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let read = || super::gather::policy_files(directory.path());
    assert!(read().is_none());
    std::fs::write(directory.path().join("b.json"), r#"{"NativeMessagingUserLevelHosts": true}"#).unwrap();
    std::fs::write(directory.path().join("a.json"), r#"{"NativeMessagingUserLevelHosts": false, "X": 1}"#).unwrap();
    std::fs::write(directory.path().join("c.txt"), "nothing").unwrap();
    let said = read().unwrap().unwrap();
    assert_eq!(json!(said), json!({"NativeMessagingUserLevelHosts": true, "X": 1}));
    assert_eq!(policy::verdict(&said, HOST), policy::Verdict::Allows);
    std::fs::write(directory.path().join("d.json"), "{").unwrap();
    assert!(read().unwrap().unwrap_err().contains("d.json: EOF"));
}

#[test]
fn a_host_that_says_why_it_cannot_work_is_quoted() {
    let mut facts = healthy();
    let refused = Outcome::Refused { code: "daemon-unavailable".into(), message: "because".into() };
    facts.manifests[0].launch = Some(refused);
    let finding = only(&facts);
    assert!(finding.evidence.contains("daemon-unavailable: because"), "{finding:?}");
    assert_eq!(finding.next.unwrap(), "websocket-bridge daemon --foreground");
}

#[test]
fn what_is_to_be_typed_is_a_command_of_the_system() {
    let mut facts = healthy();
    facts.daemon.as_mut().unwrap().lock = Some("7".to_owned());
    facts.last_change = Some(("/d/config.toml".into(), facts.now + Duration::from_secs(200_000)));
    for (platform, kill, set) in [
        (Platform::Linux, "kill 7", "timedatectl set-ntp true, or"),
        (Platform::MacOs, "kill 7", "sudo sntp -sS time.apple.com, or"),
        (Platform::Windows, "taskkill /F /PID 7", "w32tm /resync, or"),
    ] {
        facts.platform = platform;
        let said = said(&facts);
        let next = |check| said.iter().find(|finding| finding.check == check).unwrap().next.as_deref().unwrap();
        assert_eq!(next("daemon"), kill);
        assert!(next("clock").starts_with(set), "{said:#?}");
    }
}

#[test]
fn a_server_s_clock_that_differs_is_told() {
    let mut facts = healthy();
    let found = vec![(Found::Date(facts.now + Duration::from_secs(3600)), Duration::ZERO)];
    facts.servers = vec![server("ws://localhost/", found, Some(Ok(())))];
    let said = said(&facts);
    let clock = said.iter().find(|finding| finding.check == "clock").unwrap();
    assert!(clock.evidence.contains("a server's says"), "{clock:?}");
    facts.servers[0].found = vec![(Found::Date(facts.now + Duration::from_secs(60)), Duration::ZERO)];
    assert!(!super::tests::said(&facts).iter().any(|finding| finding.check == "clock"));
}

fn server(url: &str, found: Vec<(Found, Duration)>, end: Option<Result<(), Reason>>) -> Server {
    Server { subject: "s".into(), url: url.parse().unwrap(), is_whole: true, refusal: None, found, end }
}

fn certificate(issuer: &str) -> Certificate {
    Certificate {
        subject: "example.org".into(),
        issuer: issuer.into(),
        is_self_signed: false,
        not_before: 1_600_000_000,
        not_after: 1_900_000_000,
    }
}

#[test]
fn a_certificate_of_an_unknown_authority_is_told_from_a_self_signed_one() {
    let found = vec![(Found::Certificates(vec![certificate("Corporate CA")]), Duration::ZERO)];
    let reason = Reason::new("tls", "invalid peer certificate: UnknownIssuer".into());
    let facts = Facts { servers: vec![server("wss://example.org/", found, Some(Err(reason)))], ..healthy() };
    let finding = only(&facts);
    assert!(finding.evidence.contains("vouches for example.org (by Corporate CA)"), "{finding:?}");
    assert!(finding.next.unwrap().contains("whole chain"));
}

#[test]
fn a_server_that_is_not_done_in_time_is_told_at_its_step() {
    let mut facts = healthy();
    let resolved = (Found::Addresses(Vec::new()), Duration::ZERO);
    for (url, found, check) in [
        ("wss://x/", vec![], "server-dns"),
        ("wss://x/", vec![resolved.clone()], "server-tcp"),
        ("wss://x/", vec![resolved.clone(), (Found::Peer(([1, 1, 1, 1], 1).into()), Duration::ZERO)], "server-tls"),
        ("ws://x/", vec![resolved.clone(), (Found::Peer(([1, 1, 1, 1], 1).into()), Duration::ZERO)], "server-upgrade"),
        ("ws://x/", vec![resolved.clone(), (Found::WebSocket, Duration::ZERO)], "server-ping"),
    ] {
        facts.servers = vec![server(url, found, None)];
        assert_eq!(only(&facts).check, check);
    }
}

#[test]
fn a_status_without_the_query_says_so() {
    let reason = Reason { http_status: Some(401), ..Reason::new("http-status", "401".into()) };
    let mut facts = Facts { servers: vec![server("ws://x/", Vec::new(), Some(Err(reason)))], ..healthy() };
    assert_eq!(only(&facts).next.unwrap(), "give the extension a valid credential");
    facts.servers[0].is_whole = false;
    assert!(only(&facts).next.unwrap().contains("without the query"));
}

#[test]
fn what_took_too_long_is_told_and_the_rest_is_judged() {
    let facts = Facts { daemon: None, spool: None, configuration: None, slow: vec!["the disk"], ..healthy() };
    let checks: Vec<&str> = said(&facts).iter().map(|finding| finding.check).collect();
    assert_eq!(checks, ["configuration", "daemon", "spool", "slow"]);
}

#[test]
fn little_room_is_a_warning_and_none_a_failure() {
    let status = |bytes| said(&Facts { free_bytes: Some(bytes), ..healthy() }).first().map(|finding| finding.status);
    assert_eq!((status(0), status(10 << 20), status(100 << 20)), (Some(Status::Fail), Some(Status::Warn), None));
}

#[test]
fn a_receipt_that_cannot_be_read_is_told() {
    let facts = Facts { installed: Err("cannot understand the receipt".to_owned()), ..healthy() };
    assert_eq!((only(&facts).check, only(&facts).status), ("receipt", Status::Warn));
}

#[test]
fn a_dead_link_in_the_place_of_a_manifest_is_told() {
    let mut facts = healthy();
    facts.manifests[0] =
        Manifest { path: PathBuf::from("/u/c.json"), content: Content::Dangling, program: None, launch: None };
    assert!(only(&facts).evidence.contains("a link to something that is not there"));
}

#[test]
fn a_browser_in_a_sandbox_is_told_without_a_warning() {
    let mut facts = healthy();
    facts.places[0].sandbox = Some(Sandbox { kind: "Snap", id: "snap.firefox", launch: Launch::Portal });
    assert_eq!(said(&facts), []);
    let findings = findings(&facts);
    let sandbox = findings.iter().find(|finding| finding.check == "sandbox").unwrap();
    let next = "flatpak permission-set webextensions com.semantest.websocket_bridge snap.firefox yes";
    assert_eq!((sandbox.status, sandbox.next.as_deref()), (Status::Skip, Some(next)));
}

#[test]
fn a_key_that_leads_nowhere_any_more_is_told_by_its_name() {
    let mut facts = healthy();
    let key = Key { hive: Hive::User, view: View::Bits64, path: r"Software\Google\Chrome\x".into() };
    let location = Location::Key(key);
    let manifest = PathBuf::from(location.to_string());
    facts.installed = Ok(Installed { manifests: vec![location.clone()], programs: Vec::new() });
    facts.places[0] = Place { location, manifest: manifest.clone(), ..facts.places[0].clone() };
    facts.manifests[0] = Manifest { path: manifest, content: Content::Missing, program: None, launch: None };
    let finding = only(&facts);
    assert_eq!(finding.subject, r"Chromium: HKCU\Software\Google\Chrome\x");
    assert!(finding.evidence.contains("is gone"), "{finding:?}");
}
