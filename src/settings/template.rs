//! A message that is written down once, with blanks that are filled in when it is sent.
//!
//! Owns: what a blank is and how it is filled. A template is a JSON value, and stays one: what is filled in can never become
//! a member, a quote or another message.

use serde_json::Value;

/// A JSON value in whose strings a name in braces stands for something that is known later.
#[derive(Debug, Clone, PartialEq)]
pub struct Template(Value);

/// What a template may have blanks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blank {
    /// What the extension calls a subscription.
    Key,
    /// Where the server is to go on.
    Cursor,
    /// The credential.
    Token,
}

impl Blank {
    const ALL: [Self; 3] = [Self::Key, Self::Cursor, Self::Token];

    /// How it is written.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Key => "{key}",
            Self::Cursor => "{cursor}",
            Self::Token => "{token}",
        }
    }
}

impl Template {
    /// Takes a value as a template that has `blank` somewhere, and no other.
    ///
    /// # Errors
    /// What it is instead, to follow "must be …, not".
    pub(super) fn new(value: Value, blank: Blank) -> Result<Self, &'static str> {
        let template = Self::with_or_without(value, blank)?;
        if template.has(blank) { Ok(template) } else { Err("one without it") }
    }

    /// The same, but it may be without the blank.
    ///
    /// # Errors
    /// What it is instead, to follow "must be …, not".
    pub(super) fn with_or_without(value: Value, blank: Blank) -> Result<Self, &'static str> {
        let template = Self(value);
        let others = Blank::ALL.into_iter().any(|other| other != blank && template.has(other));
        if others { Err("one with a blank for something else") } else { Ok(template) }
    }

    /// Whether there is something to fill in.
    #[must_use]
    pub fn has(&self, blank: Blank) -> bool {
        let mut found = false;
        each_string(&self.0, &mut |text| found |= text.contains(blank.as_str()));
        found
    }

    /// The value as it was written down.
    #[must_use]
    pub fn as_json(&self) -> &Value {
        &self.0
    }

    /// The text of a template that is a string, with `filling` in `blank`; empty if it is none.
    #[must_use]
    pub fn fill_text(&self, blank: Blank, filling: &str) -> String {
        self.0.as_str().unwrap_or_default().replace(blank.as_str(), filling)
    }

    /// The JSON text with `filling`, itself a JSON text, in `blank`. A string that is nothing but the blank becomes the
    /// filling as it is, so that a number stays one, however large; within a longer string stands its text.
    #[must_use]
    pub fn fill(&self, blank: Blank, filling: &str) -> String {
        let text = serde_json::from_str(filling).unwrap_or_else(|_| filling.to_owned());
        let mut json = String::new();
        write(&mut json, &self.0, &Filling { blank: blank.as_str(), json: filling, text: &text });
        json
    }
}

struct Filling<'a> {
    blank: &'a str,
    json: &'a str,
    text: &'a str,
}

fn write(json: &mut String, value: &Value, filling: &Filling<'_>) {
    match value {
        Value::String(text) if text == filling.blank => json.push_str(filling.json),
        Value::String(text) => json.push_str(&Value::from(text.replace(filling.blank, filling.text)).to_string()),
        Value::Array(values) => {
            json.push('[');
            for (index, value) in values.iter().enumerate() {
                json.push_str(if index > 0 { "," } else { "" });
                write(json, value, filling);
            }
            json.push(']');
        }
        Value::Object(members) => {
            json.push('{');
            for (index, (name, value)) in members.iter().enumerate() {
                json.push_str(if index > 0 { "," } else { "" });
                json.push_str(&Value::from(name.as_str()).to_string());
                json.push(':');
                write(json, value, filling);
            }
            json.push('}');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => json.push_str(&value.to_string()),
    }
}

fn each_string(value: &Value, look: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => look(text),
        Value::Array(values) => values.iter().for_each(|value| each_string(value, look)),
        Value::Object(members) => members.values().for_each(|value| each_string(value, look)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_filled_in_stays_within_its_string() {
        let template =
            Template::new(json!({"type": "join", "room": "{key}", "as": ["r/{key}/", 7]}), Blank::Key).unwrap();
        let nasty = json!("a\",\"admin\":true,\"{key}\\\n");
        let text = template.fill(Blank::Key, &nasty.to_string());
        let read: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read, json!({"type": "join", "room": nasty, "as": [format!("r/{}/", nasty.as_str().unwrap()), 7]}));
    }

    #[test]
    fn a_number_stays_a_number_unless_it_stands_within_text() {
        let template = Template::new(json!({"after": "{cursor}", "note": "behind {cursor}"}), Blank::Cursor).unwrap();
        let large = "123456789012345678901234567890";
        assert_eq!(template.fill(Blank::Cursor, large), format!(r#"{{"after":{large},"note":"behind {large}"}}"#));
        assert_eq!(template.fill(Blank::Cursor, "\"7\\n\""), r#"{"after":"7\n","note":"behind 7\n"}"#);
    }

    #[test]
    fn a_template_has_its_blank_and_no_other() {
        assert_eq!(Template::new(json!({"{key}": "x"}), Blank::Key), Err("one without it"));
        assert!(Template::with_or_without(json!({"type": "init"}), Blank::Token).is_ok());
        assert_eq!(Template::new(json!(["{key}{cursor}"]), Blank::Key), Err("one with a blank for something else"));
        assert!(Template::new(json!("{key}"), Blank::Key).is_ok());
    }
}
