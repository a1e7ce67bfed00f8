//! STOMP 1.1 and 1.2: frames as JSON, so that templates, patterns and places mean the same there as anywhere
//! (`dialect.format`).
//!
//! Owns: how a frame is written and read. Its JSON is `{"command", "headers": {…}, "body"}`; a body that is JSON is that, any
//! other is text. What is delivered to the extension, and what it sends, is not touched by this.

use std::borrow::Cow;
use std::collections::HashSet;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::settings::Format;
use crate::wire::Body;

/// The frames whose headers know no escapes, so that servers of version 1.0 can read them.
const WITHOUT_ESCAPES: [&str; 2] = ["CONNECT", "CONNECTED"];

impl Format {
    /// What leaves for the JSON text of a template that is filled in.
    pub(super) fn frame(self, json: String) -> Body {
        let frame = || serde_json::from_str(&json).ok().and_then(|value| write(&value));
        match self {
            Self::Stomp => frame().map_or_else(|| Body::Json(json.into()), |frame| Body::Text(frame.into())),
            Self::Json => Body::Json(json.into()),
        }
    }

    /// Where patterns and places of this message are looked for.
    pub(super) fn view(self, body: &Body) -> Body {
        match self {
            Self::Stomp => read(body).unwrap_or_else(|| body.clone()),
            Self::Json => body.clone(),
        }
    }

    /// Whether a message is nothing but a sign of life.
    pub(super) fn is_heart_beat(self, body: &Body) -> bool {
        let is_end_of_line = |byte: &u8| matches!(byte, b'\r' | b'\n');
        self == Self::Stomp && !body.is_empty() && body.bytes().iter().all(is_end_of_line)
    }
}

fn write(value: &Value) -> Option<String> {
    let command = value.get("command")?.as_str().filter(|command| is_command(command))?;
    let mut frame = format!("{command}\n");
    if let Some(headers) = value.get("headers") {
        for (name, value) in headers.as_object()? {
            for (text, end) in [(Cow::from(name), ':'), (text_of(value), '\n')] {
                text.chars().for_each(|character| write_character(&mut frame, command, character));
                frame.push(end);
            }
        }
    }
    let body = value.get("body").map(text_of).unwrap_or_default();
    if !body.is_empty() {
        frame += &format!("content-length:{}\n", body.len());
    }
    frame.push('\n');
    frame += &body;
    frame.push('\0');
    Some(frame)
}

/// What cannot stand in a header becomes what stands for the unreadable: nobody can end a header, or a frame, with it.
fn write_character(frame: &mut String, command: &str, character: char) {
    let escapes = !WITHOUT_ESCAPES.contains(&command);
    match character {
        '\0' => frame.push(char::REPLACEMENT_CHARACTER),
        '\r' | '\n' if !escapes => frame.push(char::REPLACEMENT_CHARACTER),
        '\r' if escapes => frame.push_str("\\r"),
        '\n' if escapes => frame.push_str("\\n"),
        ':' if escapes => frame.push_str("\\c"),
        '\\' if escapes => frame.push_str("\\\\"),
        other => frame.push(other),
    }
}

fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.into(),
        other => other.to_string().into(),
    }
}

fn is_command(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// The JSON of a frame, if it is one: of a header that is there several times, the first counts.
fn read(body: &Body) -> Option<Body> {
    let bytes = body.bytes();
    // Between frames, ends of lines are signs of life.
    let begin = bytes.iter().position(|byte| !matches!(byte, b'\r' | b'\n'))?;
    let (command, mut rest) = line(&bytes[begin..])?;
    if !is_command(command) {
        return None;
    }
    let escaped = !WITHOUT_ESCAPES.contains(&command);
    let mut json = format!(r#"{{"command":"{command}","headers":{{"#);
    let (mut names, mut length) = (HashSet::new(), None);
    loop {
        let (header, behind) = line(rest)?;
        rest = behind;
        if header.is_empty() {
            break;
        }
        let (name, value) = header.split_once(':')?;
        let (name, value) = if escaped { (unescape(name)?, unescape(value)?) } else { (name.into(), value.into()) };
        if name == "content-length" && length.is_none() {
            length = Some(value.trim().parse().ok()?);
        }
        if names.contains(&name) {
            continue;
        }
        let comma = if names.is_empty() { "" } else { "," };
        json += &format!("{comma}{}:{}", Value::from(name.as_str()), Value::from(value));
        names.insert(name);
    }
    let length = length.or_else(|| rest.iter().position(|byte| *byte == 0))?;
    let text = std::str::from_utf8(rest.get(..length)?).ok();
    let content = text.map(|text| match serde_json::from_str::<&RawValue>(text) {
        Ok(_) => text.to_owned(),
        Err(_) => Value::from(text).to_string(),
    });
    json += &format!(r#"}},"body":{}}}"#, content.as_deref().unwrap_or("null"));
    Some(Body::Json(Bytes::from(json)))
}

/// The first line without its end, and what is behind it.
fn line(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&bytes[..end]).ok()?;
    Some((line.strip_suffix('\r').unwrap_or(line), &bytes[end + 1..]))
}

/// The text of a header; nothing if it has an escape that does not exist.
fn unescape(text: &str) -> Option<String> {
    let mut plain = String::with_capacity(text.len());
    let mut characters = text.chars();
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
    use serde_json::json;

    fn written(value: Value) -> Body {
        Format::Stomp.frame(value.to_string())
    }

    fn seen(text: &str) -> Option<Value> {
        let view = read(&Body::Text(Bytes::copy_from_slice(text.as_bytes())))?;
        Some(serde_json::from_slice(view.bytes()).unwrap())
    }

    #[test]
    fn a_frame_is_written_as_it_is_said_and_nothing_in_a_header_ends_it() {
        let nasty = "a\r\n\0b:c\\d";
        let text = written(json!({"command": "SEND", "headers": {"destination": nasty, "n": 12}, "body": "é"}));
        assert_eq!(
            text,
            Body::Text("SEND\ndestination:a\\r\\n\u{fffd}b\\cc\\\\d\nn:12\ncontent-length:2\n\né\0".into())
        );
        let text = written(json!({"command": "CONNECT", "headers": {"passcode": nasty}}));
        assert_eq!(text, Body::Text("CONNECT\npasscode:a\u{fffd}\u{fffd}\u{fffd}b:c\\d\n\n\0".into()));
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let said =
            json!({"command": "MESSAGE", "headers": {"a:b": "x\ny\\z", "content-length": "5"}, "body": "a\0b c"});
        let mut without_length = said.clone();
        without_length["headers"].as_object_mut().unwrap().remove("content-length");
        let Body::Text(text) = written(without_length) else { panic!("it is a frame") };
        assert_eq!(seen(std::str::from_utf8(&text).unwrap()), Some(said));
    }

    #[test]
    fn a_frame_is_read_however_its_lines_end_and_its_body_may_be_json() {
        let expected = json!({"command": "MESSAGE", "headers": {"id": "1"}, "body": {"n": [1]}});
        for text in ["MESSAGE\nid:1\nid:2\n\n{\"n\":[1]}\0", "\n\r\nMESSAGE\r\nid:1\r\n\r\n{\"n\":[1]}\0\n"] {
            assert_eq!(seen(text), Some(expected.clone()), "{text:?}");
        }
        assert_eq!(seen("CONNECTED\nserver:a\\b:c\n\n\0").unwrap()["headers"]["server"], "a\\b:c");
        assert_eq!(seen("ERROR\n\nno\0").unwrap()["body"], "no");
    }

    #[test]
    fn what_is_no_frame_is_none() {
        for text in ["", "\n", "{}", "MESSAGE", "MESSAGE\n", "MESSAGE\nid:1", "MESSAGE\nid\n\n\0", "message\n\n\0"] {
            assert_eq!(seen(text), None, "{text:?}");
        }
        for text in
            ["MESSAGE\na:\\x\n\n\0", "MESSAGE\na:\\\n\n\0", "MESSAGE\n\nbody", "MESSAGE\ncontent-length:9\n\na\0"]
        {
            assert_eq!(seen(text), None, "{text:?}");
        }
        for value in
            [json!([1]), json!({"command": 1}), json!({"command": "S\nX"}), json!({"command": "S", "headers": 1})]
        {
            assert_eq!(written(value.clone()), Body::Json(value.to_string().into()));
        }
    }

    #[test]
    fn ends_of_lines_alone_are_a_sign_of_life() {
        let is_one = |format: Format, text: &'static str| format.is_heart_beat(&Body::Text(text.into()));
        assert!(is_one(Format::Stomp, "\n") && is_one(Format::Stomp, "\r\n"));
        assert!(!is_one(Format::Stomp, "") && !is_one(Format::Stomp, "\n\0") && !is_one(Format::Json, "\n"));
    }
}
