//! Following the messages of a session as they come.
//!
//! Owns: a port of the daemon that only watches, and how what it gets looks in a terminal. The daemon knows this port like
//! one of the extension's, so nothing that it reads is taken from anybody.

use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read as _, Write as _};

use bytes::BytesMut;
use serde_json::{Value, json};

use super::InspectError;
use crate::config::Paths;
use crate::daemon::endpoint::{self, HostLink};
use crate::log::{harmless, harmless_json};
use crate::wire::frame::{self, Decoder};

/// A port that watches a session.
#[derive(Debug)]
pub struct Tail {
    link: HostLink,
    decoder: Decoder,
    /// The pieces of a long message so far.
    pieces: String,
}

/// Something that came.
#[derive(Debug)]
pub struct Line(Value, String);

impl Tail {
    /// Watches the session that has this status.
    pub(super) fn begin(paths: &Paths, status: &Value) -> Result<Self, InspectError> {
        let origin = status["origin"].as_str().unwrap_or_default();
        let link = endpoint::connect(paths, origin)?;
        let mut tail = Self { link, decoder: Decoder::new(frame::MAX_TO_EXTENSION), pieces: String::new() };
        let open = json!({
            "type": "open", "session": status["session"], "profile": status["profile"], "mode": status["mode"],
            "observe": true, "connect": false,
        });
        let mut out = BytesMut::new();
        frame::put(&mut out, |out| out.extend_from_slice(open.to_string().as_bytes()));
        (&*tail.link.stream).write_all(&out).map_err(InspectError::Mute)?;
        match tail.wait().map_err(InspectError::Mute)? {
            Some(Line(first, _)) if first["type"] == "error" => {
                Err(InspectError::Refused(first["message"].as_str().unwrap_or_default().to_owned()))
            }
            Some(_) => Ok(tail),
            None => Err(InspectError::Mute(ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Waits for the next thing that comes; nothing more does when the daemon has ended, or another has taken its place.
    ///
    /// # Errors
    /// If the link breaks.
    pub fn wait(&mut self) -> io::Result<Option<Line>> {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            match self.decoder.next() {
                Ok(Some(frame)) => {
                    let text = std::str::from_utf8(&frame).map_err(io::Error::other)?;
                    if let Some(line) = self.take(text)? {
                        return Ok(Some(line));
                    }
                }
                Ok(None) => match (&*self.link.stream).read(&mut bytes) {
                    Ok(0) => return Ok(None),
                    Ok(length) => self.decoder.buffer().extend_from_slice(&bytes[..length]),
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // So a pipe says that nobody is at its other end any more.
                    Err(error) if matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe) => {
                        return Ok(None);
                    }
                    Err(error) => return Err(error),
                },
                // The word with which a daemon takes leave of its hosts is no frame.
                Err(_) => return Ok(None),
            }
        }
    }

    /// A whole message; of a long one, when its last piece is there.
    fn take(&mut self, text: &str) -> io::Result<Option<Line>> {
        let value: Value = serde_json::from_str(text)?;
        if value["type"] != "chunk" {
            return Ok(Some(Line(value, text.to_owned())));
        }
        self.pieces.push_str(value["data"].as_str().unwrap_or_default());
        if value["index"].as_u64().map(|index| index + 1) != value["count"].as_u64() {
            return Ok(None);
        }
        let whole = std::mem::take(&mut self.pieces);
        Ok(Some(Line(serde_json::from_str(&whole)?, whole)))
    }
}

impl Line {
    /// As the extension would get it: JSON in one line.
    #[must_use]
    pub fn json(&self) -> String {
        harmless_json(&self.1)
    }

    /// For a person: when, which number, what.
    #[must_use]
    pub fn words(&self) -> String {
        let event = &self.0;
        let mut text = clock(event["at"].as_u64().or_else(|| event["since"].as_u64()));
        let _ = match event["type"].as_str() {
            Some("message") => write!(text, "  #{}  {}", event["seq"], self.content()),
            Some("gap") => {
                let count = event["count"].as_u64().map_or_else(|| "unknown".to_owned(), |count| count.to_string());
                let reason = harmless(event["reason"].as_str().unwrap_or_default());
                write!(text, "  #{}..{}  gap: {reason}, messages missing: {count}", event["from"], event["seq"])
            }
            Some("state") => {
                let reason = event["reason"]["message"].as_str();
                let reason = reason.map(|reason| format!(": {}", harmless(reason))).unwrap_or_default();
                write!(text, "  {}{reason}", harmless(event["state"].as_str().unwrap_or_default()))
            }
            _ => write!(text, "  {}", harmless(&self.1)),
        };
        text
    }

    /// The message as it stands in the envelope.
    fn content(&self) -> String {
        if let Some(text) = self.0["text"].as_str() {
            return harmless(text);
        }
        if let Some(bytes) = self.0["binary"].as_str() {
            return format!("binary {bytes}");
        }
        #[derive(serde::Deserialize)]
        struct Envelope<'a> {
            #[serde(borrow)]
            payload: &'a serde_json::value::RawValue,
        }
        let payload = serde_json::from_str::<Envelope<'_>>(&self.1).map(|envelope| envelope.payload.get());
        harmless(payload.unwrap_or_default())
    }
}

/// The time of day in UTC of so many milliseconds since 1970.
fn clock(unix_ms: Option<u64>) -> String {
    let Some(ms) = unix_ms else { return "            -".to_owned() };
    let (hours, minutes, seconds) = (ms / 3_600_000 % 24, ms / 60_000 % 60, ms / 1000 % 60);
    format!("{hours:02}:{minutes:02}:{seconds:02}.{:03}Z", ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> String {
        Line(serde_json::from_str(text).unwrap(), text.to_owned()).words()
    }

    #[test]
    fn what_comes_is_one_line_each_and_nothing_in_it_reaches_the_terminal_as_a_command() {
        assert_eq!(
            words(r#"{"type":"message","seq":7,"at":3723004,"payload":{"b":1.0, "a":"\u001b[2J"}}"#),
            r##"01:02:03.004Z  #7  {"b":1.0, "a":"\u001b[2J"}"##
        );
        assert!(
            !words("{\"type\":\"message\",\"seq\":1,\"at\":0,\"text\":\"\\u001b[2J\\u202e\"}")
                .contains(['\u{1b}', '\u{202e}'])
        );
        assert_eq!(
            words(r#"{"type":"gap","seq":9,"from":8,"reason":"overflow","count":2}"#),
            "            -  #8..9  gap: overflow, messages missing: 2"
        );
        assert_eq!(
            words(
                r#"{"type":"state","state":"reconnecting","since":0,"reason":{"code":"refused","message":"nobody listens"}}"#
            ),
            "00:00:00.000Z  reconnecting: nobody listens"
        );
    }
}
