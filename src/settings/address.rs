//! Where a server can be reached by HTTP, when its WebSocket cannot be.
//!
//! Owns: what such an address may be, and how the place is filled in from which the server is to go on. Whether the server
//! is allowed is `config`'s to say.

use url::Url;
use url::form_urlencoded::byte_serialize;

use super::template::Blank;

/// The longest address, in bytes.
pub(super) const MAX_ADDRESS: usize = 4096;

/// An `http:` or `https:` URL, whose query may have a place for the cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Url);

impl Address {
    /// Reads one.
    ///
    /// # Errors
    /// What it is instead, to follow "must be …, not". Nothing of it is repeated.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let url = Url::parse(text).map_err(|_| "what is no URL")?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err("one of another kind");
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("one with a user name or password, which would not be sent");
        }
        if url.fragment().is_some() {
            return Err("one with a fragment (#…)");
        }
        if url.as_str().len() > MAX_ADDRESS {
            return Err("one that is longer when its characters are escaped");
        }
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        if [place, query].iter().any(|part| has_blank_besides(part, Blank::Cursor)) || place.contains('{') {
            return Err("one with something else in braces than {cursor} in its query");
        }
        Ok(Self(url))
    }

    /// For others to see: without its query, which may be secret.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("{}{}", self.0.origin().ascii_serialization(), self.0.path())
    }

    /// The same server as that of a WebSocket, by which rules for servers go.
    #[must_use]
    pub fn as_websocket(&self) -> Url {
        let scheme = if self.0.scheme() == "https" { "wss" } else { "ws" };
        let mut url = self.0.clone();
        // From one scheme with a host to another one.
        url.set_scheme(scheme).expect("both are schemes of the web");
        url
    }

    /// Whether it says from where the server is to go on.
    #[must_use]
    pub fn has_cursor(&self) -> bool {
        self.0.query().is_some_and(|query| query.contains(Blank::Cursor.as_str()))
    }

    /// What is asked for: with this cursor, a JSON text, in its place. Before there is one, what has that place in it is left
    /// out of the query.
    #[must_use]
    pub fn at(&self, cursor: Option<&str>) -> Url {
        let mut url = self.as_websocket();
        let blank = Blank::Cursor.as_str();
        let text: String = byte_serialize(cursor.map(cursor_text).unwrap_or_default().as_bytes()).collect();
        let query = url.query().map(|query| {
            let pairs = query.split('&').filter(|pair| cursor.is_some() || !pair.contains(blank));
            pairs.map(|pair| pair.replace(blank, &text)).collect::<Vec<_>>().join("&")
        });
        url.set_query(query.as_deref().filter(|query| !query.is_empty()));
        url
    }
}

/// A cursor as it stands outside of JSON: a string without its quotes, everything else as it is.
#[must_use]
pub fn cursor_text(cursor: &str) -> String {
    serde_json::from_str(cursor).unwrap_or_else(|_| cursor.to_owned())
}

fn has_blank_besides(text: &str, allowed: Blank) -> bool {
    text.replace(allowed.as_str(), "").contains(['{', '}'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_one_of_http_with_the_cursor_in_its_query_at_most() {
        for (text, what) in [
            ("/poll", "what is no URL"),
            ("wss://localhost/", "one of another kind"),
            ("https://a:b@localhost/", "one with a user name or password, which would not be sent"),
            ("https://localhost/#x", "one with a fragment (#…)"),
            ("https://localhost/{cursor}", "one with something else in braces than {cursor} in its query"),
            ("https://{cursor}.example/", "one with something else in braces than {cursor} in its query"),
            ("https://localhost/?t={token}", "one with something else in braces than {cursor} in its query"),
            ("https://localhost/?t={", "one with something else in braces than {cursor} in its query"),
        ] {
            assert_eq!(Address::parse(text).unwrap_err(), what, "{text}");
        }
        let long = format!("https://localhost/{}", "é".repeat(1000));
        assert_eq!(Address::parse(&long).unwrap_err(), "one that is longer when its characters are escaped");
    }

    #[test]
    fn a_cursor_cannot_become_more_than_a_value_in_the_query() {
        let address = Address::parse("https://example.org/poll?room=7&after={cursor}&x=").unwrap();
        assert!(address.has_cursor());
        let at = |cursor| address.at(cursor).to_string();
        assert_eq!(at(None), "wss://example.org/poll?room=7&x=");
        assert_eq!(at(Some("12345678901234567890")), "wss://example.org/poll?room=7&after=12345678901234567890&x=");
        assert_eq!(at(Some(r#""a&b=c #é""#)), "wss://example.org/poll?room=7&after=a%26b%3Dc+%23%C3%A9&x=");
        assert!(!Address::parse("http://localhost/poll").unwrap().has_cursor());
        assert_eq!(Address::parse("http://localhost:8/poll").unwrap().at(Some("1")).as_str(), "ws://localhost:8/poll");
    }
}
