//! GraphQL over WebSocket (the sub-protocol `graphql-transport-ws`), as far as the demo's server speaks it: subscriptions.
//!
//! Owns: how messages are read and written, and which operation of a connection follows which topic. What they do is
//! `conversation`'s. No query is read: the variable `topic` names a topic as the controls write it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::stream::{Delivery, Topic};

/// The name of the sub-protocol.
pub(super) const PROTOCOL: &str = "graphql-transport-ws";

/// What a connection has agreed on.
#[derive(Debug, Default)]
pub(super) struct Graphql {
    /// It was let in.
    pub(super) is_acknowledged: bool,
    /// Topics by the ids of operations.
    pub(super) operations: BTreeMap<String, Topic>,
}

impl Graphql {
    /// A message of the stream, for each operation that it concerns.
    pub(super) fn messages(&self, delivery: &Delivery) -> Vec<String> {
        let concerned = self.operations.iter().filter(|(_, followed)| **followed == delivery.topic);
        let next = |(id, _): (&String, &Topic)| {
            let (id, message) = (Value::from(&**id), &delivery.text);
            format!(r#"{{"id":{id},"type":"next","payload":{{"data":{{"message":{message}}}}}}}"#)
        };
        concerned.map(next).collect()
    }
}

/// What a client says.
#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Said {
    ConnectionInit {
        #[serde(default)]
        payload: Init,
    },
    Ping {},
    Pong {},
    Subscribe {
        id: String,
        payload: Operation,
    },
    Complete {
        id: String,
    },
}

/// What it may say of itself.
#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
pub(super) struct Init {
    #[serde(default)]
    pub(super) token: Option<String>,
}

/// What it wants to follow.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Operation {
    pub(super) variables: Variables,
}

/// As far as this server knows any.
#[derive(Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Variables {
    pub(super) topic: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_read_with_what_counts_in_it() {
        let read = |text: &str| serde_json::from_str::<Said>(text).ok();
        assert_eq!(read(r#"{"type":"connection_init"}"#), Some(Said::ConnectionInit { payload: Init::default() }));
        assert_eq!(read(r#"{"type":"ping","payload":{"any":1}}"#), Some(Said::Ping {}));
        let subscribe = r#"{"id":"1","type":"subscribe","payload":{"query":"…","variables":{"topic":"channel:a"}}}"#;
        let operation = Operation { variables: Variables { topic: "channel:a".into() } };
        assert_eq!(read(subscribe), Some(Said::Subscribe { id: "1".into(), payload: operation }));
        for text in ["", "{}", r#"{"type":"subscribe","id":"1"}"#, r#"{"type":"complete","id":1}"#, r#"{"type":"x"}"#] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn a_message_names_each_operation_that_it_concerns() {
        let topic = Topic::Channel("a".into());
        let operations = [("1", topic.clone()), ("2", Topic::Channel("b".into())), ("\"", topic.clone())];
        let operations = operations.map(|(id, topic)| (id.to_owned(), topic)).into();
        let graphql = Graphql { is_acknowledged: true, operations };
        let next = |id: &str| format!(r#"{{"id":{id},"type":"next","payload":{{"data":{{"message":[7]}}}}}}"#);
        let delivery = Delivery { cursor: 7, topic, text: "[7]".into() };
        assert_eq!(graphql.messages(&delivery), [next(r#""\"""#), next(r#""1""#)]);
    }
}
