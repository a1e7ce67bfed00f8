//! The dialects that have a name: settings that would otherwise be written out, as data.
//!
//! Owns: what each preset says. That it counts as if it stood in the layer that names it is `layer`'s to see to.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use super::layer::{Layer, Limits};

/// A named set of settings.
#[derive(Debug, PartialEq, Eq)]
pub struct Preset {
    /// What `dialect.preset` calls it.
    pub name: &'static str,
    /// Whom it is for, as a sentence.
    pub meaning: &'static str,
    /// The settings, as `open.settings` would have them.
    pub settings: &'static str,
}

/// How most of them go on after an outage.
macro_rules! resume {
    () => {
        r#""resume": {
            "cursor": "/cursor", "send": {"type": "resume", "cursor": "{cursor}"},
            "accepted": {"type": "resumed"}, "refused": {"type": "resume_failed"}
        }"#
    };
}

/// How those with users and a ping message of their own do so.
macro_rules! auth_and_heartbeat {
    () => {
        r#""auth": {
            "send": {"type": "auth", "token": "{token}"},
            "accepted": {"type": "auth_success"}, "refused": {"type": "auth_failed"}, "renew": "message"
        },
        "heartbeat": {"send": {"type": "ping"}, "reply": {"type": "pong"}}"#
    };
}

/// All of them, in the order of `PROTOCOL.md`.
pub const PRESETS: &[Preset] = &[
    Preset {
        name: "channel",
        meaning: "Servers whose subscriptions are channels, and that answer `ping` with `pong`. Say `auth.via` \"message\" \
                  beside it if they want a token.",
        settings: concat!(
            r#"{"dialect": {
                "subscribe": {"type": "subscribe", "channel": "{key}"},
                "unsubscribe": {"type": "unsubscribe", "channel": "{key}"},"#,
            resume!(),
            "},",
            auth_and_heartbeat!(),
            "}"
        ),
    },
    Preset {
        name: "task",
        meaning: "Servers that tell of tasks, each by its `taskId`.",
        settings: concat!(
            r#"{"dialect": {
                "subscribe": {"type": "subscribe", "taskId": "{key}"},
                "unsubscribe": {"type": "unsubscribe", "taskId": "{key}"},"#,
            resume!(),
            "}}"
        ),
    },
    Preset {
        name: "room",
        meaning: "Servers with rooms that are joined and left, and that answer `ping` with `pong`. Say `auth.via` \"message\" \
                  beside it if they want a token.",
        settings: concat!(
            r#"{"dialect": {
                "subscribe": {"type": "join_room", "room": "{key}"},
                "unsubscribe": {"type": "leave_room", "room": "{key}"},"#,
            resume!(),
            "},",
            auth_and_heartbeat!(),
            "}"
        ),
    },
    Preset {
        name: "jira",
        meaning: "Servers that pass on what a webhook brings, to everybody.",
        settings: concat!(r#"{"dialect": {"#, resume!(), "}}"),
    },
    Preset {
        name: "graphql-transport-ws",
        meaning: "GraphQL over WebSocket, as the library graphql-ws speaks it: subscribe with the operation's id as `key` \
                  and its message as `payload`. Say `auth.send` beside it to put a token into `connection_init`.",
        settings: r#"{
            "auth": {
                "via": "message", "send": {"type": "connection_init"}, "accepted": {"type": "connection_ack"}
            },
            "dialect": {
                "protocols": ["graphql-transport-ws"],
                "unsubscribe": {"id": "{key}", "type": "complete"},
                "answer": {"when": {"type": "ping"}, "send": {"type": "pong"}}
            },
            "heartbeat": {"send": {"type": "ping"}, "reply": {"type": "pong"}}
        }"#,
    },
    Preset {
        name: "stomp",
        meaning: "STOMP 1.1 and 1.2 over WebSocket: subscribe with the destination as `key`. Say `auth.send` beside it \
                  to put a token into `CONNECT`, or for another `host`.",
        settings: r#"{
            "auth": {
                "via": "message",
                "send": {"command": "CONNECT", "headers": {"accept-version": "1.2,1.1", "heart-beat": "0,0", "host": "/"}},
                "accepted": {"command": "CONNECTED"}, "refused": {"command": "ERROR"}
            },
            "dialect": {
                "protocols": ["v12.stomp", "v11.stomp"],
                "format": "stomp",
                "subscribe": {"command": "SUBSCRIBE", "headers": {"id": "{key}", "destination": "{key}"}},
                "unsubscribe": {"command": "UNSUBSCRIBE", "headers": {"id": "{key}"}}
            }
        }"#,
    },
];

/// The settings of the preset of that name.
pub(super) fn settings(name: &str) -> Option<&'static Layer> {
    static LAYERS: LazyLock<BTreeMap<&str, Layer>> = LazyLock::new(|| {
        let layer = |preset: &Preset| Layer::part_from_json(preset.settings, &Limits::default());
        PRESETS.iter().map(|preset| (preset.name, layer(preset).expect("a test reads every preset"))).collect()
    });
    LAYERS.get(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::table::{Kind, Setting};

    #[test]
    fn every_preset_is_one_that_can_be_asked_for_and_says_what_is_possible() {
        let Some(Kind::Choice(words)) = Setting::named("dialect.preset").map(|setting| &setting.kind) else { panic!() };
        assert_eq!(PRESETS.iter().map(|preset| preset.name).collect::<Vec<_>>(), *words);
        for preset in PRESETS {
            assert!(settings(preset.name).is_some_and(|layer| layer.paths().count() > 0), "{}", preset.name);
        }
    }
}
