//! Two files, and what follows from them.

use std::time::Duration;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::settings::{Place, Settings, Source};

const ORIGIN: &str = "chrome-extension://abcdefghijklmnopabcdefghijklmnop/";

/// A machine with these two files.
struct Machine {
    directory: TempDir,
    paths: Paths,
}

impl Machine {
    fn new(system: &str, user: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let paths = Paths::new(&[(HOME_VARIABLE, directory.path())].into_iter().collect()).unwrap();
        let paths = paths.with_system_config_file(directory.path().join("etc.toml"));
        std::fs::write(&paths.system_config, system).unwrap();
        std::fs::write(&paths.config, user).unwrap();
        Self { directory, paths }
    }

    fn load(&self) -> Result<Config, ConfigError> {
        Config::load(&self.paths)
    }
}

fn load(system: &str, user: &str) -> Config {
    Machine::new(system, user).load().unwrap_or_else(|error| panic!("{error}"))
}

/// What is said about the user's file, without its name.
fn refusal(system: &str, user: &str) -> String {
    let machine = Machine::new(system, user);
    let error = machine.load().unwrap_err().to_string();
    let start = format!("{}: ", machine.paths.config.display());
    error.strip_prefix(&start).unwrap_or_else(|| panic!("{error}")).to_owned()
}

/// What counts for session `s` of the extension.
fn effective(config: &Config) -> Settings {
    Settings::effective(config.layers(ORIGIN, "s"), config.limits(), Place::default())
}

fn verdict(config: &str, url: &str) -> Result<(), String> {
    load("", config).permits(ORIGIN, &Url::parse(url).unwrap(), Path::new("/c.toml"))
}

#[test]
fn files_that_are_not_there_say_nothing() {
    let machine = Machine::new("", "");
    std::fs::remove_file(&machine.paths.system_config).unwrap();
    std::fs::remove_file(&machine.paths.config).unwrap();
    let config = machine.load().unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(effective(&config), Settings::default());
}

#[test]
fn the_user_s_file_counts_more_than_the_machine_s_and_a_session_s_section_more_than_both() {
    let section = |lines: &str| format!("[origins.\"{ORIGIN}\".sessions.s]\n{lines}\n");
    let system = format!(
        "[defaults]\nlinger_ms = 1\nqueue.ttl_ms = 1\nreconnect = {{ burst = 1 }}\nheartbeat.timeout_ms = 101\n{}",
        section("url = \"wss://system.example/\"\nreconnect.burst = 3\nheartbeat.timeout_ms = 103")
    );
    let user = format!(
        "[defaults]\nqueue.ttl_ms = 2\n[defaults.reconnect]\nburst = 2\n{}",
        section("heartbeat.timeout_ms = 104")
    );
    let config = load(&system, &user);
    let settings = effective(&config);
    let ms = Duration::from_millis;
    assert_eq!((settings.linger, settings.queue.ttl), (ms(1), Some(ms(2))));
    assert_eq!((settings.reconnect.burst, settings.heartbeat.timeout), (3, ms(104)));
    assert_eq!(config.session_url(ORIGIN, "s").unwrap().as_str(), "wss://system.example/");
    assert_eq!(config.session_url(ORIGIN, "t"), None);
    assert_eq!(config.session_url("a@b", "s"), None);
    assert_eq!(config.layers(ORIGIN, "t").count(), 2);
    let config = load(&system, &section("url = \"wss://user.example/\""));
    assert_eq!(config.session_url(ORIGIN, "s").unwrap().as_str(), "wss://user.example/");
}

#[test]
fn the_proxy_of_a_session_is_its_own_or_that_of_all() {
    let way = |system: &str, user: &str, session: &str| {
        load(system, user).way(ORIGIN, session, &Url::parse("wss://x/").unwrap()).proxy
    };
    let proxy = |text: &str| ProxyRule::parse(text).unwrap();
    let own = format!("[origins.\"{ORIGIN}\".sessions.s]\nproxy = \"http://own\"\n");
    let (one, two) = ("[defaults]\nproxy = \"http://one\"\n", "[defaults]\nproxy = \"none\"\n");
    assert_eq!(way("", "", "s"), ProxyRule::System);
    assert_eq!(way(one, "", "s"), proxy("http://one"));
    assert_eq!(way(one, two, "s"), ProxyRule::None);
    assert_eq!(way(&own, two, "s"), proxy("http://own"));
    assert_eq!(way(&own, two, "t"), ProxyRule::None);
}

#[test]
fn secrets_are_for_the_server_beside_which_they_stand_and_for_no_other() {
    let url = |text: &str| Url::parse(text).unwrap();
    let section =
        |server: &str, lines: &str| format!("[origins.\"{ORIGIN}\".sessions.s]\nurl = \"{server}\"\n{lines}\n");
    let secret = section("wss://one/x", "headers = { A = \"hush\" }\norigin = \"https://o\"");
    let config = load("", &secret);
    assert_eq!(config.bound_url(ORIGIN, "s"), Some(&url("wss://one/x")));
    assert_eq!((config.bound_url(ORIGIN, "t"), config.bound_url("a@b.c", "s")), (None, None));
    let headers = |config: &Config, to: &str| config.way(ORIGIN, "s", &url(to)).headers.len();
    assert_eq!(headers(&config, "wss://one/x"), 1);
    for elsewhere in ["wss://one/y", "wss://one/x?y", "ws://one/x", "wss://one:444/x", "wss://two/x"] {
        assert_eq!(headers(&config, elsewhere), 0, "{elsewhere}");
    }
    assert_eq!(config.way(ORIGIN, "s", &url("wss://two/")).origin.as_deref(), Some("https://o"));
    assert!(!format!("{config:?}").contains("hush"));
    // The user's file sends the session elsewhere: what the machine's has is not for that server.
    let config = load(&secret, &section("wss://two/x", ""));
    assert_eq!((config.bound_url(ORIGIN, "s"), headers(&config, "wss://two/x")), (None, 0));
    assert_eq!(headers(&config, "wss://one/x"), 0);
    let config = load(&section("wss://two/x", ""), &secret);
    assert_eq!(headers(&config, "wss://one/x"), 1);
    assert_eq!(load("", &section("wss://one/x", "")).bound_url(ORIGIN, "s"), None);
}

#[test]
fn a_message_to_the_server_has_the_members_in_the_order_of_the_file() {
    let config =
        load("", "[defaults.heartbeat]\nsend = { type = \"ping\", id = 1, at = [1.0, true, { x = \"\\n\" }] }");
    assert_eq!(
        effective(&config).heartbeat.send.as_deref(),
        Some(r#"{"type":"ping","id":1,"at":[1.0,true,{"x":"\n"}]}"#)
    );
    let config =
        load("", "[defaults.inbox.collapse]\nkey = \"/id\"\n[defaults.inbox.collapse.when]\ntype = \"progress\"");
    assert_eq!(effective(&config).inbox.collapse.unwrap().when, serde_json::json!({"type": "progress"}));
}

#[test]
fn limits_hold_for_all_that_is_said_wherever_they_stand() {
    let system = "[defaults]\nlinger_ms = 9000\n[limits]\nlinger_ms = { max = 10000 }";
    assert_eq!(effective(&load(system, "")).linger, Duration::from_secs(9));
    assert_eq!(effective(&load(system, "[limits]\nlinger_ms.max = 5000")).linger, Duration::from_secs(5));
    assert_eq!(
        refusal(system, "[defaults]\nlinger_ms = 10001"),
        "line 2: `linger_ms` must be a whole number from 0 to 10000, not 10001"
    );
    assert_eq!(
        refusal(system, "\n[limits.linger_ms]\nmin = 5\nmax = 10001\n"),
        "line 4: `max` of `linger_ms` must be a whole number from 5 to 10000, not 10001; limits only get tighter"
    );
}

#[test]
fn servers_that_either_file_allows_are_allowed() {
    let rules = |lines: &str| format!("[origins.\"{ORIGIN}\"]\n{lines}\n");
    let config = load(
        &rules("allow = [\"ws://a.example/*\"]"),
        &rules("allow = [\"wss://b.example/*\"]\nallow_insecure = true"),
    );
    for url in ["ws://a.example/x", "wss://b.example/x"] {
        assert_eq!(config.permits(ORIGIN, &Url::parse(url).unwrap(), Path::new("/c.toml")), Ok(()), "{url}");
    }
    assert!(config.permits("a@b", &Url::parse("wss://b.example/x").unwrap(), Path::new("/c.toml")).is_err());
}

#[test]
fn whatever_is_wrong_is_refused_with_its_line_and_without_its_value() {
    let origin = format!("[origins.\"{ORIGIN}\"]");
    let session = format!("[origins.\"{ORIGIN}\".sessions.s]");
    let long = format!("[{} ]", "x".repeat(10_000));
    let unbound = |lines: &str| format!("[origins.\"{ORIGIN}\".sessions.s]\n{lines}\n");
    let bound = |lines: &str| unbound(&format!("url = \"wss://x/\"\n{lines}"));
    let command =
        |words: &str| bound(&format!("auth = {{ via = \"header\", source = \"command\", command = {words} }}"));
    for (text, expected) in [
        // Not TOML.
        ("\n\nhush".to_owned(), "line 3: key with no value"),
        ("[defaults]\nlinger_ms = \"hush\n".to_owned(), "line 2: invalid basic string"),
        ("[defaults]\nlinger_ms = hush\n".to_owned(), "line 2: string values must be quoted"),
        ("[defaults]\r\n\r\nlinger_ms = hush\r\n".to_owned(), "line 3: string values must be quoted"),
        ("\u{feff}[defaults]\nlinger_ms = hush\n".to_owned(), "line 2: string values must be quoted"),
        ("[defaults]\nlinger_ms = 1\nlinger_ms = 1\n".to_owned(), "line 3: duplicate key"),
        ("[defaults]\n[limits]\n[defaults]\n".to_owned(), "line 3: duplicate key"),
        ("[defaults]\nlinger_ms = 99999999999999999999".to_owned(), "line 2: integer number overflowed"),
        // Not in its place.
        ("#\n\n[default]\n".to_owned(), "line 3: there is no `default` here; known are defaults, limits, origins"),
        (long, "line 1: there is no `xxxx"),
        ("defaults = 7".to_owned(), "line 1: `defaults` must be a table, not a number"),
        ("[[limits]]".to_owned(), "line 1: `limits` must be a table, not a list of tables"),
        ("origins = \"hush\"".to_owned(), "line 1: `origins` must be a table, not a string"),
        ("[origins]\nx = \"hush\"".to_owned(), "line 2: `origins.…` must be a table, not a string"),
        (
            "[origins.x]\n\nalow = []".to_owned(),
            "line 3: there is no `alow` here; known are allow, allow_insecure, sessions",
        ),
        ("[origins.x]\nheaders = { Authorization = \"hush\" }".to_owned(), "line 2: there is no `headers` here"),
        ("\n[origins.\"chrome-extension://hush\"]".to_owned(), "line 2: this is no extension as its browser names it"),
        ("[origins.\"https://hush/\"]".to_owned(), "line 1: this is no extension"),
        ("[origins.\"moz-extension://hush/\"]".to_owned(), "line 1: this is no extension"),
        ("[origins.abcdefghijklmnopabcdefghijklmnop]".to_owned(), "line 1: this is no extension"),
        ("[origins.\"\"]".to_owned(), "line 1: this is no extension"),
        // Settings.
        (
            "[defaults]\n\nheartbeat.intervall = 1".to_owned(),
            "line 3: there is no setting `heartbeat.intervall`; known here: interval_ms,",
        ),
        (
            "[defaults]\n\nproxy = 7".to_owned(),
            "line 3: `proxy` must be a string like \"http://host:port\", not a number",
        ),
        (
            "[defaults]\nproxy = \"ftp://hush\"".to_owned(),
            "line 2: `proxy` must begin with http:// or socks5://; or it is",
        ),
        ("[defaults]\ntls = { ca_file = \"/hush\" }".to_owned(), "line 2: `tls` belongs to one session"),
        (bound("\nheaders = 7"), "line 4: `headers` must be a table, not a number"),
        (bound("headers = { A = 7 }"), "line 3: a value of `headers` must be a string, not a number"),
        (
            bound("headers = { A = \"hush\\nB: hush\" }"),
            "line 3: `headers` has a value that is longer than 8192 bytes, begins",
        ),
        (bound("headers = { A = \" hush\" }"), "line 3: `headers` has a value that is longer"),
        (bound("headers = { \"hush hush\" = \"x\" }"), "line 3: `headers` has a name with a character"),
        (bound("headers = { Host = \"hush\" }"), "line 3: `headers` must not have `host`, which the connection itself"),
        (bound("headers = { Connection = \"hush\" }"), "line 3: `headers` must not have `connection`"),
        (bound("headers = { Upgrade = \"hush\" }"), "line 3: `headers` must not have `upgrade`"),
        (bound("headers = { Content-Length = \"1\" }"), "line 3: `headers` must not have `content-length`"),
        (bound("headers = { Transfer-Encoding = \"x\" }"), "line 3: `headers` must not have `transfer-encoding`"),
        (bound("headers = { SEC-WebSocket-Key = \"hush\" }"), "line 3: `headers` must not have `sec-websocket-key`"),
        (
            bound("headers = { Proxy-Authorization = \"hush\" }"),
            "line 3: `headers` must not have `proxy-authorization`",
        ),
        (bound("headers = { Origin = \"hush\" }"), "line 3: `headers` must not have `Origin`; that has a setting"),
        (bound("headers = { A = \"x\", a = \"hush\" }"), "line 3: `headers` has two headers of one name"),
        (bound("origin = \"https://hush/\""), "line 3: `origin` must look like https://example.org"),
        (bound("origin = \"hush\""), "line 3: `origin` must look like https://example.org"),
        (bound("origin = \"https://hush\\r\\nA: hush\""), "line 3: `origin` must look like https://example.org"),
        (bound("tls = \"hush\""), "line 3: `tls` must be a table, not a string"),
        (
            bound("tls = { hash = \"hush\" }"),
            "line 3: there is no `hash` here; known are ca_file, client_cert, client_key",
        ),
        (bound("tls.ca_file = \"hush.pem\""), "line 3: `ca_file` must be a path from the root on"),
        (bound("tls = { client_cert = \"/hush\" }"), "line 3: `tls.client_cert` and `tls.client_key` need each other"),
        (
            bound("auth = { via = \"header\", source = \"hush\" }"),
            "line 3: `auth.source` must be \"extension\", \"keyring\", \"env:NAME\"",
        ),
        (
            bound("auth = { via = \"header\", source = \"env:\" }"),
            "line 3: `auth.source` must be \"extension\", \"keyring\", \"env:NAME\"",
        ),
        (bound("auth = { via = \"header\", source = 7 }"), "line 3: `auth.source` must be a string like \"keyring\""),
        (bound("auth.source = \"env:HUSH\""), "line 3: `auth.source` needs `auth.via` beside it"),
        (
            bound("auth = { via = \"message\", send = { hush = 1 }, source = \"env:HUSH\" }"),
            "line 3: `auth.source` needs `auth.via` beside it, and a {token} in `auth.send`",
        ),
        (
            bound("auth = { via = \"header\", source = \"command\" }"),
            "line 3: `auth.source` \"command\" needs `auth.command`",
        ),
        (
            bound("auth = { via = \"header\", command = [\"hush\"] }"),
            "line 3: `auth.command` needs `auth.source` \"command\" beside it",
        ),
        (
            bound("auth = { via = \"header\", source = \"env:A\", command = [\"hush\"] }"),
            "line 3: `auth.source` must be \"command\", because `auth.command` stands beside it",
        ),
        (command("\"hush hush\""), "line 3: `auth.command` must be a list of strings like"),
        (command("[\"/hush\", 7]"), "line 3: `auth.command` must be a list of strings like"),
        (command("[]"), "line 3: `auth.command` must be a list of 1 to 64 strings"),
        (command("[\"\"]"), "line 3: `auth.command` must be a list of 1 to 64 strings"),
        (command("[\"bin/hush\"]"), "line 3: `auth.command` must be a path from the root on, or a name in `PATH`"),
        (
            "[defaults]\nauth = { via = \"header\", source = \"env:HUSH\" }".to_owned(),
            "line 2: `auth.source` belongs to one session",
        ),
        ("[defaults.auth]\ncommand = [\"hush\"]".to_owned(), "line 2: `auth.command` belongs to one session"),
        (unbound("headers = { A = \"hush\" }"), "line 2: `headers` needs `url` beside it"),
        (unbound("tls = { ca_file = \"/hush\" }"), "line 2: `tls` needs `url` beside it"),
        ("[limits]\nproxy = { max = 1 }".to_owned(), "line 2: only a configuration file may say `proxy`"),
        ("[defaults]\nheartbeat = \"hush\"".to_owned(), "line 2: `heartbeat` must be a table, not a string"),
        ("[defaults]\n\"queue.ttl_ms\" = 1".to_owned(), "line 2: there is no setting `queue.ttl_ms`"),
        ("[defaults.queue]\n\nttl_ms = \"hush\"".to_owned(), "line 3: `queue.ttl_ms` must be a whole number from 1 to"),
        (
            "[defaults]\nqueue = { ttl_ms = 1, max_bytes = 1.5 }".to_owned(),
            "line 2: `queue.max_bytes` must be a whole number from 1024 to 268435456, not 1.5",
        ),
        (
            "[defaults]\nlinger_ms = 1000.0".to_owned(),
            "line 2: `linger_ms` must be a whole number from 0 to 2592000000, not 1000.0",
        ),
        (
            "[defaults]\nlinger_ms = 2024-01-01".to_owned(),
            "line 2: `linger_ms` must be a whole number from 0 to 2592000000, not a date",
        ),
        (
            "[defaults]\nlinger_ms.hush = 1".to_owned(),
            "line 2: `linger_ms` must be a whole number from 0 to 2592000000, not an object",
        ),
        (
            "[defaults]\nlinger_ms = -1".to_owned(),
            "line 2: `linger_ms` must be a whole number from 0 to 2592000000, not -1",
        ),
        (
            "[defaults]\nreconnect.multiplier = inf".to_owned(),
            "line 2: `reconnect.multiplier` must be a number from 1 to 10, not inf or nan",
        ),
        (
            "[defaults.heartbeat]\nsend = [\n1,\n{ x = nan }]".to_owned(),
            "line 2: `heartbeat.send` must be JSON of at most 4096 bytes, not inf or nan",
        ),
        (
            "[defaults]\n[defaults.heartbeat]\ninterval_ms = 1000\nreply = { hush = 1 }".to_owned(),
            "line 4: `heartbeat.reply` needs `heartbeat.send` beside it",
        ),
        (
            "[defaults]\nreconnect.max_ms = 500\n\nreconnect.first_ms = 600\n".to_owned(),
            "line 2: `reconnect.max_ms` (500) must not be below `reconnect.first_ms` (600)",
        ),
        (
            "[defaults]\nauth = { token = \"hush\" }".to_owned(),
            "line 2: there is no setting `auth.token`; known here: via, name, send, accepted, refused, renew",
        ),
        ("[defaults.headers]\nAuthorization = \"hush\"".to_owned(), "line 1: `headers` belongs to one session"),
        ("[defaults]\nurl = \"hush\"".to_owned(), "line 2: there is no setting `url`"),
        // Limits.
        ("[limits]\nlinger = { min = 1 }".to_owned(), "line 2: there is no setting `linger`"),
        ("[limits]\nlinger_ms = 5".to_owned(), "line 2: `linger_ms` must be a table, not a number"),
        ("[limits]\nlinger_ms = { at_most = 5 }".to_owned(), "line 2: there is no `at_most` here; known are min, max"),
        (
            "[limits]\nlinger_ms = { max = \"hush\" }".to_owned(),
            "line 2: `max` of `linger_ms` must be a whole number from 0 to 2592000000, not a string",
        ),
        (
            "[limits.linger_ms]\nmin = 8\n\nmax = 7".to_owned(),
            "line 4: `max` of `linger_ms` must be a whole number from 8 to 2592000000, not 7",
        ),
        (
            "[limits]\nlinger_ms.max = 2592000001".to_owned(),
            "line 2: `max` of `linger_ms` must be a whole number from 0 to 2592000000, not 2592000001",
        ),
        ("[limits]\nlinger_ms.max = 2024-01-01".to_owned(), "line 2: `max` of `linger_ms` must be a whole number"),
        (
            "[limits.reconnect]\nmax_ms.max = 500\nfirst_ms.min = 501".to_owned(),
            "line 3: `max` of `reconnect.max_ms` (500) must not be below `min` of `reconnect.first_ms` (501)",
        ),
        ("[limits.inbox]\noverflow.max = 5".to_owned(), "line 2: `inbox.overflow` has no bounds"),
        // Extensions.
        (format!("{origin}\nallow = \"hush\""), "line 2: `allow` must be a list of strings, not a string"),
        (
            format!("{origin}\nallow = [\n  \"wss://example.org/*\",\n  7,\n]"),
            "line 4: entry 2 of `allow` must be a string like \"wss://example.org/*\", not a number",
        ),
        (
            format!("{origin}\nallow = [\n  \"wss://example.org/*\",\n\n  \"wss://hush@example.org/\",\n]"),
            "line 5: entry 2 of `allow` must carry no user name",
        ),
        (
            format!("{origin}\nallow_insecure = \"hush\""),
            "line 2: `allow_insecure` must be true or false, not a string",
        ),
        (format!("{origin}\nsessions = []"), "line 2: `sessions` must be a table, not a list"),
        (format!("{origin}\nsessions.\"hush hush\" = {{}}"), "line 2: the name of a session must be 1 to 64 of"),
        (format!("{origin}\nsessions.s = \"hush\""), "line 2: `sessions.…` must be a table, not a string"),
        (format!("{session}\nurl = 7"), "line 2: `url` must be a string like \"wss://example.org/ws\", not a number"),
        (format!("{session}\n\nurl = \"hush\""), "line 3: `url` is not a URL (relative URL without a base)"),
        (format!("{session}\nurl = \"hush:hush\""), "line 2: `url` must begin with ws:// or wss://"),
        (
            format!("{session}\nurl = \"wss://u:hush@example.org/\""),
            "line 2: `url` must carry no user name or password",
        ),
        (
            format!("{session}\nlinger_ms = 1\nauth = {{ via = \"header\", source = \"env:HUSH\" }}"),
            "line 3: `auth.source` needs `url` beside it",
        ),
        (format!("{session}\nheaders.Authorization = \"hush\""), "line 2: `headers` needs `url` beside it"),
        (format!("{session}\ntls = \"hush\""), "line 2: `tls` needs `url` beside it"),
        (format!("{session}\nallow = []"), "line 2: there is no setting `allow`"),
        (
            format!("{session}\nreconnect.first_ms = 1"),
            "line 2: `reconnect.first_ms` must be a whole number from 100 to 3600000, not 1",
        ),
    ] {
        let said = refusal("", &text);
        assert!(said.starts_with(expected), "{text}\n{said}");
        // Only the names of keys are repeated, and of those only what is looked for here.
        assert!(!said.contains("hush") && said.len() < 400, "{text}\n{said}");
    }
}

#[test]
fn a_credential_that_the_extension_does_not_give_binds_the_session_to_the_url_beside_it() {
    let with = |auth: &str| format!("[origins.\"{ORIGIN}\".sessions.s]\nurl = \"wss://one/x\"\nauth = {{ {auth} }}\n");
    let command = Source::Command(vec!["/bin/pass".into(), "show it".into()]);
    for (auth, source) in [
        ("via = \"header\", source = \"env:NAME\"", Source::Variable("NAME".into())),
        ("via = \"header\", source = \"keyring\"", Source::Keyring { origin: ORIGIN.into(), session: "s".into() }),
        ("via = \"query\", source = \"command\", command = [\"/bin/pass\", \"show it\"]", command),
        ("via = \"header\", source = \"extension\"", Source::Extension),
        ("via = \"header\"", Source::Extension),
    ] {
        let config = load("", &with(auth));
        assert_eq!(config.source(ORIGIN, "s"), source, "{auth}");
        let bound = config.bound_url(ORIGIN, "s").map(Url::as_str);
        assert_eq!(bound, (source != Source::Extension).then_some("wss://one/x"), "{auth}");
        assert_eq!(config.source(ORIGIN, "t"), Source::Extension, "another session has nothing of it");
        assert_eq!(config.source("x@y", "s"), Source::Extension, "nor has another extension");
    }
    // A later section that names another server has nothing of the one before.
    let other = format!("[origins.\"{ORIGIN}\".sessions.s]\nurl = \"wss://two/x\"\n");
    let config = load(&with("via = \"header\", source = \"env:NAME\""), &other);
    assert_eq!((config.source(ORIGIN, "s"), config.bound_url(ORIGIN, "s")), (Source::Extension, None));
}

#[test]
fn a_file_in_another_encoding_is_refused_with_its_line() {
    let machine = Machine::new("", "");
    std::fs::write(&machine.paths.config, b"# fine\n# n\xe4h\n").unwrap();
    let error = machine.load().unwrap_err().to_string();
    assert!(error.contains("config.toml: line 2: this is not UTF-8"), "{error}");
}

#[test]
fn a_refusal_names_the_file_that_is_wrong() {
    let machine = Machine::new("hush", "");
    let error = machine.load().unwrap_err().to_string();
    assert!(error.contains("etc.toml: line 1: "), "{error}");
}

#[test]
fn a_file_that_cannot_be_read_is_no_file_that_says_nothing() {
    let machine = Machine::new("", "");
    std::fs::remove_file(&machine.paths.config).unwrap();
    std::fs::create_dir(&machine.paths.config).unwrap();
    let error = machine.load().unwrap_err();
    assert!(matches!(error, ConfigError::Unreadable { .. }), "{error}");
    assert!(error.to_string().contains(machine.directory.path().to_str().unwrap()), "{error}");
}

#[cfg(unix)]
#[test]
fn another_user_s_file_is_not_taken_for_the_machine_s() {
    let machine = Machine::new("", "");
    // Only the superuser can give a file away.
    if std::os::unix::fs::chown(&machine.paths.system_config, Some(12345), None).is_ok() {
        let Err(ConfigError::Unreadable { source, .. }) = machine.load() else { panic!("it was read") };
        assert!(source.to_string().starts_with("it belongs to user 12345, not to an administrator"), "{source}");
    }
}

#[test]
fn the_machine_s_file_is_where_only_an_administrator_may_write() {
    let paths = Paths::new(&[(HOME_VARIABLE, "/home/x/y")].into_iter().collect()).unwrap();
    if cfg!(target_os = "linux") {
        assert_eq!(paths.system_config_file(), Path::new("/etc/websocket-bridge/config.toml"));
    }
    assert_ne!(paths.system_config_file(), paths.config_file());
}

#[test]
fn a_file_that_is_far_too_large_is_not_read_to_its_end() {
    let directory = tempfile::tempdir().unwrap();
    let paths = Paths::new(&[(HOME_VARIABLE, directory.path())].into_iter().collect()).unwrap();
    std::fs::write(paths.config_file(), "# \n".repeat(1 << 20)).unwrap();
    let error = Config::load(&paths).unwrap_err().to_string();
    assert!(error.ends_with("the file is larger than 1048576 bytes"), "{error}");
}

#[test]
fn a_refusal_names_the_file_and_the_line_to_add_and_the_line_works() {
    let refusal = verdict("", "wss://example.org/ws").unwrap_err();
    let (_, advice) = refusal.split_once("add to /c.toml (to the list, if there is one), below ").unwrap();
    assert_eq!(verdict(&advice.replacen(": ", "\n", 1), "wss://example.org/ws"), Ok(()));
}

#[test]
fn no_encryption_beyond_this_machine_needs_a_word_of_its_own() {
    let rules = format!("[origins.\"{ORIGIN}\"]\nallow = [\"ws://example.org/*\"]\n");
    assert!(verdict(&rules, "ws://example.org/").unwrap_err().contains("allow_insecure = true"));
    assert_eq!(verdict(&format!("{rules}allow_insecure = true"), "ws://example.org/"), Ok(()));
}

#[test]
fn a_home_too_deep_for_a_socket_gets_a_short_one() {
    let deep = format!("/{}", "x".repeat(150));
    let paths = Paths::new(&[(HOME_VARIABLE, &*deep)].into_iter().collect()).unwrap();
    assert!(paths.socket().as_os_str().len() <= os::MAX_SOCKET_PATH);
    let other = Paths::new(&[(HOME_VARIABLE, format!("{deep}/y"))].into_iter().collect()).unwrap();
    assert_ne!(paths.socket(), other.socket());
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_at_a_line_that_it_has(
        text in r#"(\[?\[?(defaults|limits|origins|"a@b"|sessions|s|inbox|collapse)(\.("a@b"|sessions|s|queue|\$))?\]?\]?\n|(url|allow|linger_ms|ttl_ms|queue|send|when|min|max)(\.max)? ?= ?(-?[0-9]{1,9}(\.5)?|"wss://[a-z.@:/*?#%]{0,9}"|\[.?\]|\{ ?max ?= ?[0-9]{1,5} ?\}|true|nan|1979-05-27)\n|.?\n){0,12}"#,
    ) {
        if let Err(fault) = File::read(text.as_bytes(), &mut Limits::default()) {
            prop_assert!((1..=text.matches('\n').count() + 1).contains(&fault.line));
        }
    }
}
