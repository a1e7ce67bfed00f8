//! STOMP 1.2, as far as the demo's server speaks it: one frame in each message of the WebSocket.
//!
//! Owns: how frames are read and written, and which subscription of a connection means which topic. What they do is
//! `conversation`'s. A destination is a topic as the controls write it: `channel:NAME` and so on.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::stream::{Delivery, Topic};

/// The names of sub-protocols by which a client asks for it.
pub(super) const PROTOCOLS: [&str; 2] = ["v12.stomp", "v11.stomp"];

/// What a connection has agreed on.
#[derive(Debug, Default)]
pub(super) struct Stomp {
    /// It was let in.
    pub(super) is_connected: bool,
    /// Topics by the ids of subscriptions.
    pub(super) subscriptions: BTreeMap<String, Topic>,
}

impl Stomp {
    /// A message of the stream, for each subscription that it concerns.
    pub(super) fn messages(&self, delivery: &Delivery) -> Vec<String> {
        let (cursor, topic) = (delivery.cursor.to_string(), delivery.topic.to_string());
        let concerned = self.subscriptions.iter().filter(|(_, subscribed)| **subscribed == delivery.topic);
        let frame = |(id, _): (&String, &Topic)| {
            let headers = [("subscription", &**id), ("message-id", &*cursor), ("destination", &*topic)];
            written("MESSAGE", &headers, &delivery.text)
        };
        concerned.map(frame).collect()
    }
}

/// What a client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) command: String,
    headers: Vec<(String, String)>,
    pub(super) body: String,
}

impl Frame {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (command, mut rest) = line(text)?;
        let has_escapes = command != "CONNECT";
        let mut headers = Vec::new();
        loop {
            let (header, behind) = line(rest)?;
            rest = behind;
            if header.is_empty() {
                break;
            }
            let (name, value) = header.split_once(':')?;
            let read = |text| if has_escapes { plain(text) } else { Some(str::to_owned(text)) };
            headers.push((read(name)?, read(value)?));
        }
        let mut frame = Self { command: command.to_owned(), headers, body: String::new() };
        let length =
            frame.header("content-length").and_then(|length| length.parse().ok()).or_else(|| rest.find('\0'))?;
        rest.get(length..)?.starts_with('\0').then_some(())?;
        rest.get(..length)?.clone_into(&mut frame.body);
        Some(frame)
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

/// A frame of the server.
pub(super) fn written(command: &str, headers: &[(&str, &str)], body: &str) -> String {
    let mut frame = format!("{command}\n");
    for (name, value) in headers {
        let value = value.replace('\\', "\\\\").replace('\r', "\\r").replace('\n', "\\n").replace(':', "\\c");
        let _ = writeln!(frame, "{name}:{value}");
    }
    let _ = write!(frame, "content-length:{}\n\n{body}\0", body.len());
    frame
}

fn line(text: &str) -> Option<(&str, &str)> {
    let (line, rest) = text.split_once('\n')?;
    Some((line.strip_suffix('\r').unwrap_or(line), rest))
}

fn plain(escaped: &str) -> Option<String> {
    let mut characters = escaped.chars();
    let mut plain = String::new();
    while let Some(character) = characters.next() {
        plain.push(match character {
            '\\' => match characters.next()? {
                'r' => '\r',
                'n' => '\n',
                'c' => ':',
                '\\' => '\\',
                _ => return None,
            },
            other => other,
        });
    }
    Some(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_read_with_its_escapes_and_its_length() {
        let frame = Frame::parse("SEND\r\na\\cb:x\\\\y\\n\ncontent-length:3\n\n1\u{0}2\0").unwrap();
        assert_eq!((&*frame.command, frame.header("a:b"), &*frame.body), ("SEND", Some("x\\y\n"), "1\u{0}2"));
        assert_eq!(Frame::parse("CONNECT\npasscode:a\\b\n\n\0").unwrap().header("passcode"), Some("a\\b"));
        for text in ["", "SEND", "SEND\n\n", "SEND\na\n\n\0", "SEND\na:\\x\n\n\0", "SEND\ncontent-length:5\n\na\0"] {
            assert_eq!(Frame::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_message_names_each_subscription_that_it_concerns() {
        let topic = Topic::Channel("a".into());
        let subscriptions = [("1", topic.clone()), ("2", Topic::Channel("b".into())), ("x:y", topic.clone())];
        let subscriptions = subscriptions.map(|(id, topic)| (id.to_owned(), topic)).into();
        let stomp = Stomp { is_connected: true, subscriptions };
        let frame = |id| {
            format!("MESSAGE\nsubscription:{id}\nmessage-id:7\ndestination:channel\\ca\ncontent-length:2\n\n{{}}\0")
        };
        assert_eq!(stomp.messages(&Delivery { cursor: 7, topic, text: "{}".into() }), [frame("1"), frame("x\\cy")]);
    }
}
