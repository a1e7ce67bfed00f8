//! Looking into messages of a server, as far as a setting asks for it: does one match a pattern, what stands at a place.
//!
//! Owns: the meaning of patterns and places. A message is never parsed into a tree: only what a pattern or a place names
//! is looked at, the rest is skipped.

use std::collections::HashMap;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::settings::Replies;

/// Whether the JSON text has what `pattern` has: of an object every member that the pattern's has, matching in turn; of
/// anything else an equal value.
pub(super) fn matches(pattern: &Value, json: &[u8]) -> bool {
    let Value::Object(wanted) = pattern else {
        return serde_json::from_slice::<Value>(json).is_ok_and(|found| found == *pattern);
    };
    let Ok(found) = serde_json::from_slice::<HashMap<String, &RawValue>>(json) else { return false };
    wanted.iter().all(|(name, pattern)| found.get(name).is_some_and(|value| matches(pattern, value.get().as_bytes())))
}

/// Whether the JSON text says yes or no, if it says either.
pub(super) fn verdict(replies: &Replies, json: &[u8]) -> Option<bool> {
    if matches(&replies.accepted, json) {
        return Some(true);
    }
    replies.refused.as_ref().is_some_and(|refused| matches(refused, json)).then_some(false)
}

/// The longest text at a place, in bytes: it is remembered for longer than the message, and is to be a name.
pub(super) const MAX_FOUND: usize = 256;

/// The JSON text at `pointer` (RFC 6901) in a JSON text, unless it is longer than [`MAX_FOUND`].
pub(super) fn at<'a>(pointer: &str, json: &'a [u8]) -> Option<&'a str> {
    let mut found = std::str::from_utf8(json).ok()?;
    for token in pointer.split('/').skip(1) {
        let token = token.replace("~1", "/").replace("~0", "~");
        found = match found.trim_ascii_start().as_bytes().first()? {
            b'{' => serde_json::from_str::<HashMap<String, &'a RawValue>>(found).ok()?.remove(&token)?.get(),
            b'[' => serde_json::from_str::<Vec<&'a RawValue>>(found).ok()?.get(token.parse::<usize>().ok()?)?.get(),
            _ => return None,
        };
    }
    Some(found).filter(|found| found.len() <= MAX_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_object_matches_if_it_has_what_the_pattern_has() {
        let message = br#"{"type":"progress","data":{"id":7,"percent":50},"list":[1,2]}"#;
        for pattern in [
            json!({}),
            json!({"type": "progress"}),
            json!({"data": {"id": 7}, "type": "progress"}),
            json!({"list": [1, 2]}),
        ] {
            assert!(matches(&pattern, message), "{pattern}");
        }
        for pattern in [
            json!({"type": "log"}),
            json!({"data": {"id": 8}}),
            json!({"missing": null}),
            json!({"list": [1]}),
            json!([]),
        ] {
            assert!(!matches(&pattern, message), "{pattern}");
        }
        assert!(matches(&json!("pong"), b" \"pong\" ") && !matches(&json!({}), b"[]") && !matches(&json!({}), b"{"));
    }

    #[test]
    fn a_pointer_finds_the_text_as_it_stands() {
        let message = br#"{"a/b":{"~":[1,{"n":12345678901234567890}]},"":true,"d":1,"d":2}"#;
        for (pointer, expected) in [
            ("/a~1b/~0/1/n", Some("12345678901234567890")),
            ("/a~1b/~0/0", Some("1")),
            ("/", Some("true")),
            ("/d", Some("2")),
            ("/a~1b/~0/2", None),
            ("/a~1b/~0/x", None),
            ("/d/x", None),
            ("/missing", None),
        ] {
            assert_eq!(at(pointer, message), expected, "{pointer}");
        }
        assert_eq!(at("", b"7"), Some("7"));
        let long = format!(r#"{{"id":"{}","n":1}}"#, "x".repeat(MAX_FOUND - 1));
        assert_eq!((at("/id", long.as_bytes()), at("", long.as_bytes())), (None, None));
        assert_eq!(at("/n", long.as_bytes()), Some("1"));
    }
}
