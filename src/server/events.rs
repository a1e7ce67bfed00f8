//! Reading server-sent events (HTML standard, section 9.2.6).
//!
//! Owns: which bytes are which event. What an event is good for is `detour`'s.

use std::time::Duration;

/// An event.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Event {
    /// What it says.
    pub(super) data: String,
    /// The last id that the server has named, unless it has none any more.
    pub(super) id: Option<String>,
}

/// What cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// An event is longer than allowed.
    TooLong,
    /// It is no text.
    NotUtf8,
}

/// A stream of events as far as it has come.
#[derive(Debug)]
pub(super) struct Reader {
    /// The longest event, in bytes.
    max: usize,
    /// The beginning of a line.
    line: Vec<u8>,
    /// The last line ended with a carriage return, to which a line feed may belong.
    after_return: bool,
    /// No line has come yet.
    first: bool,
    data: String,
    has_data: bool,
    id: Option<String>,
    /// How long the server wants to be left alone before it is asked again.
    pub(super) retry: Option<Duration>,
}

impl Reader {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            line: Vec::new(),
            after_return: false,
            first: true,
            data: String::new(),
            has_data: false,
            id: None,
            retry: None,
        }
    }

    /// Takes what has come, and tells of each event that is complete.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Event)) -> Result<(), Unreadable> {
        while let Some(first) = bytes.first() {
            if std::mem::take(&mut self.after_return) && *first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let end = bytes.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &bytes[..end.unwrap_or(bytes.len())];
            // A line of the longest event has the name of its field before it.
            if self.line.len() + part.len() > self.max.saturating_add(16) {
                return Err(Unreadable::TooLong);
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_return = bytes[end] == b'\r';
            bytes = &bytes[end + 1..];
            let line = std::mem::take(&mut self.line);
            if let Some(event) = self.take_line(&line)? {
                tell(event);
            }
        }
        Ok(())
    }

    fn take_line(&mut self, line: &[u8]) -> Result<Option<Event>, Unreadable> {
        let line = std::str::from_utf8(line).map_err(|_| Unreadable::NotUtf8)?;
        let line = if std::mem::take(&mut self.first) { line.trim_start_matches('\u{feff}') } else { line };
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            let complete = std::mem::take(&mut self.has_data);
            return Ok(complete.then(|| Event { data, id: self.id.clone() }));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                if self.data.len() + value.len() >= self.max.saturating_add(1) {
                    return Err(Unreadable::TooLong);
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()).filter(|id| !id.is_empty()),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry = value.parse().ok().map(Duration::from_millis);
            }
            // A comment, or what is of no use here.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8], at_once: usize) -> Result<Vec<(String, Option<String>)>, Unreadable> {
        let mut reader = Reader::new(16);
        let mut events = Vec::new();
        for bytes in stream.chunks(at_once) {
            reader.read(bytes, |Event { data, id }| events.push((data, id)))?;
        }
        Ok(events)
    }

    #[test]
    fn events_are_the_same_however_their_lines_end_and_their_bytes_come() {
        let stream =
            "\u{feff}: hello\n\ndata: 1\ndata:2\nid: a\n\nevent: x\ndata\n\nid\ndata:  3é\nodd: x\n\ndata: cut";
        let id = || Some("a".to_owned());
        let expected = vec![("1\n2".to_owned(), id()), (String::new(), id()), (" 3é".to_owned(), None)];
        for ending in ["\n", "\r", "\r\n"] {
            let stream = stream.replace('\n', ending);
            for at_once in 1..=stream.len() {
                assert_eq!(events(stream.as_bytes(), at_once).unwrap(), expected, "{ending:?} {at_once}");
            }
        }
    }

    #[test]
    fn what_is_too_long_or_no_text_ends_the_stream() {
        assert_eq!(events(b"data: 0123456789abcdef\n\n", 3).unwrap()[0].0, "0123456789abcdef");
        assert_eq!(events(b"data: 0123456789abcdefg\n\n", 3), Err(Unreadable::TooLong));
        assert_eq!(events(b"data: 01234567\ndata: 89abcdefg\n\n", 3), Err(Unreadable::TooLong));
        assert_eq!(events(&[b'x'; 40], 3), Err(Unreadable::TooLong), "a line without an end");
        assert_eq!(events(b"data: \xff\n\n", 3), Err(Unreadable::NotUtf8));
    }

    #[test]
    fn a_server_may_say_how_long_it_wants_to_be_left_alone() {
        let mut reader = Reader::new(16);
        reader.read(b"retry: 1500\nretry: soon\n", |event| panic!("{event:?}")).unwrap();
        assert_eq!(reader.retry, Some(Duration::from_millis(1500)));
    }
}
