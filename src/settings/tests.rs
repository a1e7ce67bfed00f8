//! Settings, as somebody says them and as they count.

use serde_json::{Value, json};

use proptest::prelude::*;

use super::layer::*;
use super::table::*;
use super::*;

fn layer(text: &str) -> Layer {
    Layer::from_json(text, &Limits::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn effective(layers: &[&str]) -> Settings {
    let layers: Vec<Layer> = layers.iter().map(|text| layer(text)).collect();
    Settings::effective(&layers, &Limits::default(), Place::default())
}

fn tightened(bounds: &[(&str, Bound, &str)]) -> Limits {
    let mut limits = Limits::default();
    for (path, bound, json) in bounds {
        limits.tighten(the(path), *bound, json).unwrap();
    }
    limits
}

/// A text that says something allowed, and not the default, about every setting.
const EVERYTHING: &str = r#"{
    "reconnect": {"first_ms": 500, "multiplier": 1.5, "max_ms": 60000, "max_attempts": 7, "stable_ms": 1000,
        "herd_window_ms": 0, "burst": 3, "refill_ms": 1000},
    "heartbeat": {"interval_ms": 1000, "timeout_ms": 2000, "send": {"z": 1, "a": 12345678901234567890},
        "reply": {"type": "pong"}},
    "queue": {"max_messages": 5, "max_bytes": 4096, "ttl_ms": 9},
    "inbox": {"max_messages": 6, "max_bytes": 2048, "retention_ms": 5000, "persist_after_ms": 0,
        "overflow": "pause", "max_message_bytes": 99, "collapse": {"when": {"type": "progress"}, "key": "/data/id"}},
    "auth": {"via": "message", "send": ["v1 {token}"], "accepted": {"ok": 1}, "refused": {"ok": 0}, "renew": "message"},
    "dialect": {"subscribe": ["{key}"], "unsubscribe": {"leave": "{key}"}, "resume": {"cursor": "/n",
        "send": {"after": "{cursor}"}, "accepted": {"ok": true}, "refused": {"ok": false}},
        "answer": {"when": {"type": "ping"}, "send": {"z": 1, "a": 2}}, "ack": {"id": "/id"}},
    "fallback": {"sse_url": "https://a.example/e?x={cursor}", "poll_url": "http://localhost:8/p", "post_url": "http://b/",
        "after_attempts": 2, "interval_ms": 500},
    "linger_ms": 0
}"#;

#[test]
fn without_a_word_the_defaults_of_the_protocol_count() {
    let settings = Settings::default();
    assert_eq!(
        settings.to_json(),
        json!({
            "reconnect": {"first_ms": 1000, "multiplier": 2.0, "max_ms": 300_000, "max_attempts": 0,
                "stable_ms": 30000, "herd_window_ms": 30000, "burst": 10, "refill_ms": 30000},
            "heartbeat": {"interval_ms": 25000, "timeout_ms": 10000},
            "queue": {"max_messages": 10000, "max_bytes": 64 << 20, "ttl_ms": 0},
            "inbox": {"max_messages": 100_000, "max_bytes": 256 << 20, "retention_ms": 86_400_000,
                "persist_after_ms": 50, "overflow": "drop-oldest", "max_message_bytes": 64 << 20},
            "linger_ms": 86_400_000,
        })
    );
    assert_eq!((settings.queue.ttl, settings.heartbeat.send, settings.inbox.collapse), (None, None, None));
}

#[test]
fn what_is_said_about_every_setting_counts_and_comes_back_the_same() {
    let settings = effective(&[EVERYTHING]);
    assert_eq!(settings.to_json(), serde_json::from_str::<Value>(EVERYTHING).unwrap());
    assert_eq!(effective(&[&settings.to_json().to_string()]).to_json(), settings.to_json());
}

#[test]
fn the_table_has_every_setting_once_with_a_default_that_is_allowed() {
    fn paths(prefix: &str, value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(members) if Setting::named(prefix).is_none() => {
                for (key, value) in members {
                    let dot = if prefix.is_empty() { "" } else { "." };
                    paths(&format!("{prefix}{dot}{key}"), value, found);
                }
            }
            _ => found.push(prefix.to_owned()),
        }
    }
    let mut found = Vec::new();
    paths("", &effective(&[EVERYTHING]).to_json(), &mut found);
    let mut table: Vec<_> = TABLE.iter().map(|setting| setting.path.to_owned()).collect();
    // What counts is what it stands for; and no message has a name.
    found.extend(["dialect.preset", "auth.name"].map(str::to_owned));
    table.sort();
    found.sort();
    assert_eq!(table, found);
    for setting in TABLE {
        if let Some(default) = setting.default_text() {
            assert!(setting.read(&default, &Limits::default()).is_ok(), "{}", setting.path);
        }
    }
}

#[test]
fn a_preset_counts_as_if_the_layer_that_names_it_said_it_all() {
    let below = r#"{"dialect":{"subscribe":["{key}"],"resume":{"cursor":"/n","send":["{cursor}"]}},
        "heartbeat":{"interval_ms":5000,"send":1,"reply":{"a":1}}}"#;
    let settings = effective(&[below, r#"{"dialect":{"preset":"room","subscribe":{"enter":"{key}"}}}"#]).to_json();
    assert_eq!(settings["dialect"]["subscribe"], json!({"enter": "{key}"}), "what is said beside it counts more");
    assert_eq!(settings["dialect"]["unsubscribe"], json!({"type": "leave_room", "room": "{key}"}));
    assert_eq!(settings["dialect"]["resume"]["cursor"], "/cursor");
    assert_eq!(settings["heartbeat"]["reply"], json!({"type": "pong"}));
    assert_eq!(settings["heartbeat"]["interval_ms"], 5000, "what no preset says stays as it is");
    assert_eq!(settings["auth"], Value::Null, "what is shown is of no use if nobody says that it is to be");
    let message = r#"{"dialect":{"preset":"room"},"auth":{"via":"message"}}"#;
    assert_eq!(effective(&[message]).to_json()["auth"]["send"], json!({"type": "auth", "token": "{token}"}));
    let query = effective(&[r#"{"auth":{"via":"query","name":"key"}}"#]).to_json();
    assert_eq!(query["auth"], json!({"via": "query", "name": "key", "send": "{token}"}));
    let header = r#"{"dialect":{"preset":"room"},"auth":{"via":"header"}}"#;
    assert_eq!(effective(&[header]).to_json()["auth"], json!({"via": "header", "send": "Bearer {token}"}));
    let settings = effective(&[r#"{"dialect":{"preset":"task"}}"#, r#"{"dialect":{"preset":"channel"}}"#]).to_json();
    assert_eq!(settings["dialect"]["subscribe"], json!({"type": "subscribe", "channel": "{key}"}));
}

#[test]
fn a_message_to_send_is_the_very_text_that_was_given() {
    let text = r#"{ "b":1.0, "a":"\u0041", "b":2 }"#;
    let settings = effective(&[&format!(r#"{{"heartbeat":{{"send": {text} }}}}"#)]);
    assert_eq!(settings.heartbeat.send.as_deref(), Some(text));
}

#[test]
fn a_later_layer_counts_more_and_leaves_alone_what_it_does_not_mention() {
    let settings = effective(&[
        r#"{"reconnect":{"first_ms":100,"burst":5},"linger_ms":7}"#,
        r#"{"reconnect":{"first_ms":200},"queue":{"ttl_ms":1}}"#,
        r#"{"queue":{"ttl_ms":0}}"#,
    ]);
    assert_eq!((settings.reconnect.first, settings.reconnect.burst), (Duration::from_millis(200), 5));
    assert_eq!((settings.linger, settings.queue.ttl), (Duration::from_millis(7), None));
}

#[test]
fn what_belongs_together_comes_from_one_layer() {
    let older = r#"{"heartbeat":{"send":1,"reply":{"a":1}},"inbox":{"collapse":{"when":{"a":1},"key":"/a"}}}"#;
    let settings = effective(&[older, r#"{"heartbeat":{"send":2}}"#]);
    assert_eq!((settings.heartbeat.send.as_deref(), settings.heartbeat.reply), (Some("2"), None));
    let collapse = Collapse { when: json!({"a": 1}), key: "/a".to_owned() };
    assert_eq!(settings.inbox.collapse, Some(collapse));
}

#[test]
fn of_two_delays_that_exclude_each_other_the_later_layer_s_counts() {
    for (layers, first, max) in [
        (&[r#"{"reconnect":{"first_ms":600000}}"#][..], 600_000, 600_000),
        (&[r#"{"reconnect":{"max_ms":500}}"#], 500, 500),
        (&[r#"{"reconnect":{"max_ms":500}}"#, r#"{"reconnect":{"first_ms":2000}}"#], 2000, 2000),
        (&[r#"{"reconnect":{"first_ms":2000}}"#, r#"{"reconnect":{"max_ms":500}}"#], 500, 500),
    ] {
        let reconnect = effective(layers).reconnect;
        assert_eq!((reconnect.first.as_millis(), reconnect.max.as_millis()), (first, max), "{layers:?}");
    }
}

#[test]
fn limits_that_were_drawn_closer_later_clamp_what_was_said_and_the_defaults() {
    let said = layer(r#"{"reconnect":{"first_ms":100,"max_attempts":0},"queue":{"max_bytes":200000000}}"#);
    let limits = tightened(&[
        ("reconnect.first_ms", Bound::Min, "400000"),
        ("reconnect.max_attempts", Bound::Max, "50"),
        ("queue.max_bytes", Bound::Max, "2000"),
        ("queue.ttl_ms", Bound::Min, "10"),
        ("linger_ms", Bound::Max, "5"),
    ]);
    let settings = Settings::effective([&said], &limits, Place::default());
    assert_eq!(settings.reconnect.first.as_millis(), 400_000);
    assert_eq!(settings.reconnect.max.as_millis(), 400_000, "the first delay is not above any");
    assert_eq!(settings.reconnect.max_attempts, 50, "for ever is more than 50");
    assert_eq!(settings.queue.max_bytes, 2000);
    assert_eq!(settings.queue.ttl, None, "never is more than 10 ms");
    assert_eq!(settings.linger.as_millis(), 5);
    let capped = tightened(&[("reconnect.max_ms", Bound::Max, "600")]);
    let settings = Settings::effective([], &capped, Place::default());
    assert_eq!(
        (settings.reconnect.first, settings.reconnect.max),
        (Duration::from_millis(600), Duration::from_millis(600))
    );
}

#[test]
fn a_server_on_this_machine_has_no_herd_and_a_memory_session_no_large_inbox() {
    let large = layer(r#"{"inbox":{"max_bytes":200000000}}"#);
    let at = |loopback, memory| Settings::effective([&large], &Limits::default(), Place { memory, loopback });
    assert_eq!(at(true, false).reconnect.herd_window, Duration::ZERO);
    assert_eq!(at(false, false).reconnect.herd_window, Duration::from_secs(30));
    assert_eq!(at(true, false).reconnect.refill, Duration::from_secs(1));
    assert_eq!(at(true, false).inbox.max_bytes, 200_000_000);
    assert_eq!(at(true, true).inbox.max_bytes, MAX_MEMORY_INBOX);
    let said = layer(r#"{"reconnect":{"herd_window_ms":9}}"#);
    let settings = Settings::effective([&said], &Limits::default(), Place { memory: false, loopback: true });
    assert_eq!(settings.reconnect.herd_window.as_millis(), 9, "what is said counts on this machine too");
}

#[test]
fn what_is_wrong_is_said_with_the_name_what_was_found_and_what_is_allowed() {
    let hush = format!(r#"{{"heartbeat":{{"send":"{}"}}}}"#, "x".repeat(4096));
    let deep = format!(r#"{{"heartbeat":{{"send":{}{}}}}}"#, "[".repeat(1000), "]".repeat(1000));
    for (text, expected) in [
        ("", "malformed `settings` must be an object with names that are text, not what is not JSON"),
        (&deep, "malformed `heartbeat.send` must be JSON of at most 4096 bytes, not one that nests too deep"),
        ("hush", "malformed `settings` must be an object with names that are text, not what is not JSON"),
        (r#"{"linger_ms":{}}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not an object"),
        ("[1]", "malformed `settings` must be an object with names that are text, not a list"),
        ("null", "malformed `settings` must be an object with names that are text, not null"),
        (r#"{"reconnect":1}"#, "malformed `reconnect` must be an object with names that are text, not 1"),
        (
            r#"{"inbox":{"collapse":"hush"}}"#,
            "malformed `inbox.collapse` must be an object with names that are text, not a string",
        ),
        (
            r#"{"linger":1}"#,
            "malformed there is no setting `linger`; known here: reconnect, heartbeat, queue, inbox, auth, dialect, \
             fallback, linger_ms",
        ),
        (
            r#"{"queue":{"max":1}}"#,
            "malformed there is no setting `queue.max`; known here: max_messages, max_bytes, ttl_ms",
        ),
        (
            r#"{"inbox":{"collapse":{"x":1}}}"#,
            "malformed there is no setting `inbox.collapse.x`; known here: when, key",
        ),
        (r#"{"queue.ttl_ms":1}"#, "malformed there is no setting `queue.ttl_ms`"),
        (r#"{"":1}"#, "malformed there is no setting ``"),
        (r#"{"queue":{"":1}}"#, "malformed there is no setting `queue.`"),
        (r#"{"allow":["wss://example.org/*"]}"#, "malformed there is no setting `allow`"),
        (
            r#"{"auth":{"token":"hush"}}"#,
            "malformed there is no setting `auth.token`; known here: via, name, send, accepted, refused, renew",
        ),
        (
            r#"{"auth":{"via":"header","renew":"message"}}"#,
            "malformed `auth.renew` means nothing with `auth.via` \"header\"; leave it out",
        ),
        (r#"{"auth":{"via":"header","name":"a"}}"#, "malformed `auth.name` means nothing with `auth.via` \"header\""),
        (r#"{"auth":{"send":"{token}"}}"#, "malformed `auth.send` needs `auth.via` beside it"),
        (r#"{"auth":{"via":"message"}}"#, "malformed `auth.via` \"message\" needs `auth.send` beside it"),
        (r#"{"auth":{"via":"message","send":1,"name":"a"}}"#, "malformed `auth.name` means nothing with"),
        (r#"{"auth":{"via":"query","name":"a b"}}"#, "malformed `auth.name` must be 1 to 64 letters, digits"),
        (r#"{"auth":{"via":"header","send":"hush"}}"#, "malformed `auth.send` must be a string with {token} in it"),
        (
            r#"{"auth":{"via":"header","send":["{token}"]}}"#,
            "malformed `auth.send` must be a string with {token} in it",
        ),
        (r#"{"auth":{"via":"message","send":"{key}"}}"#, "malformed `auth.send` must be JSON, with {token} where"),
        (r#"{"fallback":{"poll":1}}"#, "malformed there is no setting `fallback.poll`; known here: sse_url, poll_url"),
        (
            r#"{"fallback":{"poll_url":"ws://localhost/"}}"#,
            "malformed `fallback.poll_url` must be an http:// or https://",
        ),
        (
            r#"{"fallback":{"sse_url":"http://a/","post_url":"http://a/?x={cursor}"}}"#,
            "malformed `fallback.post_url` has no use for {cursor}",
        ),
        (
            r#"{"fallback":{"post_url":"http://localhost/"}}"#,
            "malformed `fallback.post_url` needs `fallback.sse_url` or",
        ),
        (r#"{"headers":{"Authorization":"hush"}}"#, "file only only a configuration file may say `headers`"),
        (r#"{"linger_ms":1,"linger_ms":2}"#, "malformed `linger_ms` is there twice"),
        (r#"{"queue":{"ttl_ms":1},"queue":{}}"#, "malformed `queue` is there twice"),
        (r#"{"linger_ms":"hush"}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not a string"),
        (r#"{"linger_ms":1.5}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not 1.5"),
        (r#"{"linger_ms":1000.0}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not 1000.0"),
        (r#"{"linger_ms":1e3}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not 1e3"),
        (r#"{"linger_ms":null}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not null"),
        (r#"{"linger_ms":true}"#, "malformed `linger_ms` must be a whole number from 0 to 2592000000, not true"),
        (r#"{"linger_ms":-1}"#, "out of bounds `linger_ms` must be a whole number from 0 to 2592000000, not -1"),
        (r#"{"linger_ms":99999999999999999999}"#, "out of bounds `linger_ms` must be"),
        (r#"{"reconnect":{"first_ms":99}}"#, "out of bounds `reconnect.first_ms` must be a whole number from 100 to"),
        (
            r#"{"reconnect":{"multiplier":0.5}}"#,
            "out of bounds `reconnect.multiplier` must be a number from 1 to 10, not 0.5",
        ),
        (r#"{"reconnect":{"multiplier":1e999}}"#, "out of bounds `reconnect.multiplier` must be a number from 1 to 10"),
        (
            r#"{"reconnect":{"max_attempts":1000001}}"#,
            "out of bounds `reconnect.max_attempts` must be a whole number from 1 to 1000000, or 0, not",
        ),
        (
            r#"{"reconnect":{"first_ms":500,"max_ms":400}}"#,
            "malformed `reconnect.max_ms` (400) must not be below `reconnect.first_ms` (500)",
        ),
        (
            r#"{"inbox":{"overflow":"hush"}}"#,
            "malformed `inbox.overflow` must be \"drop-oldest\" or \"pause\", not another string",
        ),
        (r#"{"inbox":{"overflow":7}}"#, "malformed `inbox.overflow` must be \"drop-oldest\" or \"pause\", not 7"),
        (
            r#"{"inbox":{"collapse":{"when":{"a":1}}}}"#,
            "malformed `inbox.collapse.when` needs `inbox.collapse.key` beside it",
        ),
        (
            r#"{"inbox":{"collapse":{"key":"/a"}}}"#,
            "malformed `inbox.collapse.key` needs `inbox.collapse.when` beside it",
        ),
        (
            r#"{"inbox":{"collapse":{"when":{},"key":"/a"}}}"#,
            "malformed `inbox.collapse.when` must be a JSON object that is not empty, of at most 4096 bytes, not an empty one",
        ),
        (r#"{"inbox":{"collapse":{"when":[1],"key":"/a"}}}"#, "malformed `inbox.collapse.when` must be"),
        (
            r#"{"inbox":{"collapse":{"when":{"a":1},"key":"hush"}}}"#,
            "malformed `inbox.collapse.key` must be a JSON Pointer (RFC 6901)",
        ),
        (
            r#"{"inbox":{"collapse":{"when":{"a":1},"key":"/a~2"}}}"#,
            "malformed `inbox.collapse.key` must be a JSON Pointer",
        ),
        (r#"{"dialect":{"preset":"hush"}}"#, "malformed `dialect.preset` must be \"channel\" or \"task\" or"),
        (
            r#"{"dialect":{"subscribe":{"hush":1}}}"#,
            "malformed `dialect.subscribe` must be JSON with {key} in one of its strings, of at most 4096 bytes, not one \
             without it",
        ),
        (
            r#"{"dialect":{"resume":{"cursor":"/n","send":"{cursor}{key}"}}}"#,
            "malformed `dialect.resume.send` must be JSON with {cursor} in one of its strings, of at most 4096 bytes, not \
             one with a blank for something else",
        ),
        (
            r#"{"dialect":{"resume":{"accepted":{"a":1}}}}"#,
            "malformed `dialect.resume.accepted` needs `dialect.resume.send` beside it",
        ),
        (
            r#"{"dialect":{"resume":{"cursor":"/n","send":["{cursor}"],"refused":{"a":1}}}}"#,
            "malformed `dialect.resume.refused` needs `dialect.resume.accepted` beside it",
        ),
        (r#"{"dialect":{"answer":{"when":{"a":1}}}}"#, "malformed `dialect.answer.when` needs `dialect.answer.send`"),
        (r#"{"heartbeat":{"reply":{"a":1}}}"#, "malformed `heartbeat.reply` needs `heartbeat.send` beside it"),
        (r#"{"heartbeat":{"send":1,"reply":"pong"}}"#, "malformed `heartbeat.reply` must be a JSON object"),
        (&hush, "out of bounds `heartbeat.send` must be JSON of at most 4096 bytes, not 4098 bytes"),
    ] {
        let said = match Layer::from_json(text, &Limits::default()).unwrap_err() {
            SettingError::Malformed(message) => format!("malformed {message}"),
            SettingError::OutOfBounds(message) => format!("out of bounds {message}"),
            SettingError::FileOnly(message) => format!("file only {message}"),
        };
        assert!(said.starts_with(expected), "{text}: {said}");
        assert!(!said.contains("hush"), "{said}");
    }
}

#[test]
fn every_form_of_a_pointer_is_known() {
    for (text, is) in [("", true), ("/", true), ("/a/0/~0~1", true), ("a", false), ("/~", false), ("/~2", false)] {
        assert_eq!(is_pointer(text), is, "{text}");
    }
}

#[test]
fn an_open_is_held_to_limits_that_stand() {
    let limits = tightened(&[("reconnect.max_attempts", Bound::Max, "50"), ("queue.ttl_ms", Bound::Min, "10")]);
    let refusal = |text| Layer::from_json(text, &limits).unwrap_err().to_string();
    assert!(refusal(r#"{"reconnect":{"max_attempts":0}}"#).ends_with("a whole number from 1 to 50, not 0"));
    assert!(refusal(r#"{"queue":{"ttl_ms":9}}"#).ends_with("a whole number from 10 to 2592000000, or 0, not 9"));
    assert!(Layer::from_json(r#"{"queue":{"ttl_ms":0}}"#, &limits).is_ok());
}

#[test]
fn limits_only_get_tighter_and_leave_something_between_them() {
    let mut limits = Limits::default();
    let mut tighten = |path, bound, json| limits.tighten(the(path), bound, json).map_err(|error| error.to_string());
    assert_eq!(tighten("reconnect.first_ms", Bound::Min, "500"), Ok(()));
    assert_eq!(tighten("reconnect.first_ms", Bound::Max, "500"), Ok(()));
    for (path, bound, json, expected) in [
        (
            "reconnect.first_ms",
            Bound::Min,
            "499",
            "`min` of `reconnect.first_ms` must be a whole number from 500 to 500, not 499",
        ),
        (
            "reconnect.first_ms",
            Bound::Max,
            "501",
            "`max` of `reconnect.first_ms` must be a whole number from 500 to 500, not 501",
        ),
        (
            "reconnect.burst",
            Bound::Max,
            "101",
            "`max` of `reconnect.burst` must be a whole number from 1 to 100, not 101",
        ),
        ("reconnect.burst", Bound::Max, "2.5", "`max` of `reconnect.burst` must be a whole number"),
        ("queue.ttl_ms", Bound::Min, "0", "`min` of `queue.ttl_ms` must be a whole number from 1 to"),
        (
            "linger_ms",
            Bound::Max,
            "\"hush\"",
            "`max` of `linger_ms` must be a whole number from 0 to 2592000000, not a string",
        ),
        ("inbox.overflow", Bound::Max, "1", "`inbox.overflow` has no bounds"),
    ] {
        let said = tighten(path, bound, json).unwrap_err();
        assert!(said.starts_with(expected), "{said}");
    }
    assert_eq!(tighten("reconnect.multiplier", Bound::Max, "1.5"), Ok(()));
    assert_eq!(tighten("reconnect.max_ms", Bound::Max, "500"), Ok(()));
    let mut limits = tightened(&[("reconnect.first_ms", Bound::Min, "1000")]);
    let before = limits.clone();
    let impossible = limits.tighten(the("reconnect.max_ms"), Bound::Max, "999").unwrap_err().to_string();
    assert_eq!(impossible, "`max` of `reconnect.max_ms` (999) must not be below `min` of `reconnect.first_ms` (1000)");
    assert_eq!(limits, before);
}

proptest! {
    #[test]
    fn any_text_is_answered_and_what_is_taken_is_within_all_bounds(
        text in r#"\{("(reconnect|heartbeat|queue|inbox|linger_ms|auth)":(\{"(first_ms|max_ms|multiplier|max_attempts|ttl_ms|max_bytes|send|reply)":(-?[0-9]{1,12}(\.5)?|"x"|null|\{"a":1\})\}|[0-9]{1,9}))?\}"#,
        anything in any::<String>(),
        memory in any::<bool>(),
    ) {
        let _ = Layer::from_json(&anything, &Limits::default());
        if let Ok(layer) = Layer::from_json(&text, &Limits::default()) {
            let settings = Settings::effective([&layer], &Limits::default(), Place { memory, loopback: false });
            prop_assert!(Layer::from_json(&settings.to_json().to_string(), &Limits::default()).is_ok());
        }
    }

    #[test]
    fn whatever_is_said_and_limited_the_delays_are_in_order_and_within_the_limits(
        said in proptest::collection::vec((any::<bool>(), 100u32..4_000_000), 0..5),
        bounds in proptest::collection::vec((any::<bool>(), any::<bool>(), 100u32..4_000_000), 0..5),
    ) {
        let path = |first| if first { "reconnect.first_ms" } else { "reconnect.max_ms" };
        let mut layers = vec![];
        for (first, ms) in said {
            let mut layer = Layer::default();
            if layer.set(the(path(first)), &ms.to_string(), &Limits::default()).is_ok() {
                layers.push(layer);
            }
        }
        let mut limits = Limits::default();
        for (first, min, ms) in bounds {
            let bound = if min { Bound::Min } else { Bound::Max };
            let _ = limits.tighten(the(path(first)), bound, &ms.to_string());
        }
        let Reconnect { first, max, .. } = Settings::effective(&layers, &limits, Place::default()).reconnect;
        prop_assert!(first <= max);
        prop_assert!(limits.range(the(path(true))).holds(first.as_millis() as f64));
        prop_assert!(limits.range(the(path(false))).holds(max.as_millis() as f64));
    }
}
