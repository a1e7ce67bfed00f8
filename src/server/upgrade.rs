//! From a connection to a WebSocket: the request, the server's answer, and the verdict on it (RFC 6455 section 4.1).
//!
//! Owns: what a server is asked and what counts as a yes. The WebSocket crate's own client takes only part of what the
//! standards allow (no `Connection: keep-alive, Upgrade`) and hides the status of an HTTP/1.0 proxy, so the answer is read
//! here; the frames behind it are the crate's.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::handshake::client::generate_request;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::http::header::{
    AUTHORIZATION, AsHeaderName, CONNECTION, CONTENT_TYPE, DATE, HeaderMap, HeaderName, HeaderValue, LOCATION, ORIGIN,
    SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, UPGRADE, USER_AGENT,
};
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use url::Url;
use zeroize::Zeroizing;

use super::dial::{Transport, io_code};
use super::pump::{Socket, Watched};
use super::{Found, Target, hint, tls};
use crate::config::is_loopback;
use crate::wire::{Presented, Reason, is_http_token};

/// Bytes read at once. tungstenite's own 128 KiB cost a third of a round trip, measured with 100-byte messages.
const READ_BUFFER: usize = 16 * 1024;
/// Bytes gathered before they are written when more is waiting.
const WRITE_BUFFER: usize = 32 * 1024;
/// The longest ping or close frame, which is no message and not bound by the limit for those.
const MAX_CONTROL_FRAME: usize = 125;
/// The longest URL that is shown when a server points to it.
const MAX_SHOWN_URL: usize = 200;
/// The longest header of an answer, in bytes, and the most lines of it: more than servers send.
const MAX_HEADER: usize = 64 * 1024;
const MAX_LINES: usize = 256;

/// A WebSocket, and the sub-protocol that the server chose.
pub(super) type Upgraded = (Socket, Option<Arc<str>>);

/// What a server answered, or a proxy.
pub(super) struct Answer {
    /// 0 or 1, behind `HTTP/1.`.
    version: u8,
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
}

/// Makes a WebSocket of a connection.
pub(super) async fn upgrade(
    target: &Target,
    transport: Box<dyn Transport>,
    found: &mut impl FnMut(Found),
) -> Result<Upgraded, Reason> {
    let server = target.url.origin().ascii_serialization();
    let (request, key) = request(target)?;
    let mut stream = Watched::new(transport);
    let asking = async {
        let broken = |error: io::Error| {
            let message = format!("{server} broke off the WebSocket upgrade: {error}");
            // By the newest TLS a server looks at the certificate of this side only after the handshake.
            match tls::refusal(&error, &target.way.tls) {
                Some(cause) => Reason::new("tls", format!("{message}; {cause}")),
                None => Reason::new(io_code(&error), message),
            }
        };
        stream.write_all(&request).await.map_err(broken)?;
        stream.flush().await.map_err(broken)?;
        let mut read = BytesMut::with_capacity(4096);
        loop {
            if stream.read_buf(&mut read).await.map_err(broken)? == 0 {
                let message = format!("{server} ended the connection instead of answering the WebSocket upgrade");
                return Err(Reason::new("reset", message));
            }
            if let Some((answer, length)) = Answer::read(&read).map_err(|what| no_upgrade(&server, what))? {
                return Ok((answer, read.split_off(length)));
            }
        }
    };
    let limit = target.timeouts.upgrade;
    let (answer, rest) = timeout(limit, asking).await.unwrap_or_else(|_| {
        let message = format!("{server} did not answer the WebSocket upgrade within {} s", limit.as_secs_f32());
        Err(Reason::new("upgrade-timeout", message))
    })?;
    if let Some(date) = answer.date() {
        found(Found::Date(date));
    }
    if answer.status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(answer.refusal(&server, &target.url, "the WebSocket upgrade", 101));
    }
    answer.check(&key).map_err(|what| no_upgrade(&server, what))?;
    let protocol = answer.protocol(target)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(target.max_message))
        .max_frame_size(Some(target.max_message.max(MAX_CONTROL_FRAME)));
    let socket = WebSocketStream::from_partially_read(stream, rest.to_vec(), Role::Client, Some(config)).await;
    Ok((socket, protocol))
}

/// The request, and the key to which the server's answer must fit.
fn request(target: &Target) -> Result<(Zeroizing<Vec<u8>>, String), Reason> {
    let server = target.url.origin().ascii_serialization();
    let unaskable = |what: String| Reason { retryable: false, ..Reason::new("upgrade", what) };
    let mut request = with_credential(&target.url, target)
        .as_str()
        .into_client_request()
        .map_err(|error| unaskable(format!("{server} cannot be asked to upgrade: {error}")))?;
    let headers = request.headers_mut();
    common_headers(target, headers)?;
    let mut offered = target.protocols.clone();
    if let Some(Presented::Protocol(secret)) = &target.credential {
        if !is_http_token(secret.reveal()) {
            return Err(unfit(&server, "as a sub-protocol"));
        }
        offered.push(secret.reveal().to_owned());
    }
    if !offered.is_empty() {
        let offered = HeaderValue::from_str(&offered.join(", ")).map_err(|error| {
            unaskable(format!("the sub-protocols {:?} cannot be offered to {server}: {error}", target.protocols))
        })?;
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offered);
    }
    let (request, key) = generate_request(request)
        .map_err(|error| unaskable(format!("{server} cannot be asked to upgrade: {error}")))?;
    Ok((Zeroizing::new(request), key))
}

/// A URL with the credential, if that is to be shown there.
pub(super) fn with_credential(url: &Url, target: &Target) -> Url {
    let mut url = url.clone();
    if let Some(Presented::Query(name, secret)) = &target.credential {
        url.query_pairs_mut().append_pair(name, secret.reveal());
    }
    url
}

/// What every request has, whatever it asks for.
pub(super) fn common_headers(target: &Target, headers: &mut HeaderMap) -> Result<(), Reason> {
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("websocket-bridge/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &target.way.headers {
        // What comes from the configuration was checked there.
        if let (Ok(name), Ok(mut value)) =
            (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value.reveal()))
        {
            value.set_sensitive(true);
            headers.insert(name, value);
        }
    }
    let origin = target.way.origin.clone().unwrap_or_else(|| web_origin(&target.origin));
    if let Ok(origin) = HeaderValue::from_str(&origin) {
        headers.insert(ORIGIN, origin);
    }
    if let Some(Presented::Header(secret)) = &target.credential {
        let value = HeaderValue::from_str(secret.reveal());
        let server = target.url.origin().ascii_serialization();
        let mut value = value.map_err(|_| unfit(&server, "in a header"))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
    }
    Ok(())
}

/// The credential is of no use; nothing may be said of it.
fn unfit(server: &str, place: &str) -> Reason {
    let message = format!(
        "{server} cannot be shown the credential {place}: it has characters that cannot stand there; see `auth.via` for \
         other ways"
    );
    Reason::new("auth-refused", message)
}

fn no_upgrade(server: &str, what: impl std::fmt::Display) -> Reason {
    Reason::new("upgrade", format!("{server} did not upgrade to a WebSocket: {what}"))
}

impl Answer {
    /// The answer and its length, if all of it is there.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(super) fn read(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let mut lines = [httparse::EMPTY_HEADER; MAX_LINES];
        let mut answer = httparse::Response::new(&mut lines);
        let length = match answer.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() > MAX_HEADER => {
                return Err(format!("it answered with a header that is too long (over {MAX_HEADER} bytes)"));
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(format!("it answered with too many header lines (over {MAX_LINES})"));
            }
            Err(error) => return Err(format!("it answered with something else than HTTP/1: {error}")),
        };
        let mut headers = HeaderMap::new();
        for line in answer.headers.iter() {
            if let (Ok(name), Ok(value)) =
                (HeaderName::from_bytes(line.name.as_bytes()), HeaderValue::from_bytes(line.value))
            {
                headers.append(name, value);
            }
        }
        let (version, status) = (answer.version.unwrap_or_default(), answer.code.unwrap_or_default());
        Ok(Some((Self { version, status, headers }, length)))
    }

    /// What the server's clock said.
    fn date(&self) -> Option<SystemTime> {
        httpdate::parse_http_date(self.headers.get(DATE)?.to_str().ok()?).ok()
    }

    /// An answer that somebody else has read.
    pub(super) fn of_request(status: StatusCode, headers: HeaderMap) -> Self {
        Self { version: 1, status: status.as_u16(), headers }
    }

    /// Why `server`, at `url`, said no to `what`, to which it says yes by the status `wanted`.
    pub(super) fn refusal(&self, server: &str, url: &Url, what: &str, wanted: u16) -> Reason {
        let status = self.status;
        // Not in the server's own words, which may be any.
        let shown = StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |status| status.to_string());
        let mut message = format!("{server} answered {what} with {shown} instead of {wanted}");
        if let Some(elsewhere) = self.points_to(url).filter(|_| (300..400).contains(&status)) {
            message += &format!("; it points to {elsewhere}, which is not followed");
        }
        if self.seems_a_login_page(url) {
            message += "; a login page of the network (captive portal) seems to answer instead of the server: open any page in \
                        the browser, and log in";
        }
        let hint = hint::of_header(&self.headers, SystemTime::now());
        Reason { http_status: Some(status), hint, ..Reason::new("http-status", message) }
    }

    /// Whether the answer looks like that of a network that wants somebody to log in first, and not like the server's.
    fn seems_a_login_page(&self, url: &Url) -> bool {
        let text = |name| self.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
        !is_loopback(url)
            && match self.status {
                200 => text(CONTENT_TYPE).is_some_and(|kind| kind.trim_start().starts_with("text/html")),
                300..=399 => {
                    let to = text(LOCATION).and_then(|location| url.join(location).ok());
                    to.is_some_and(|to| to.host() != url.host() && matches!(to.scheme(), "http" | "https"))
                }
                511 => true,
                _ => false,
            }
    }

    /// Where a redirect leads, without what may be secret.
    fn points_to(&self, url: &Url) -> Option<String> {
        let mut to = url.join(self.headers.get(LOCATION)?.to_str().ok()?).ok()?;
        if !matches!(to.scheme(), "http" | "https" | "ws" | "wss") {
            return None;
        }
        to.set_query(None);
        to.set_fragment(None);
        to.set_username("").and_then(|()| to.set_password(None)).ok()?;
        Some(if to.as_str().len() > MAX_SHOWN_URL { to.origin().ascii_serialization() } else { to.into() })
    }

    /// Whether it is the beginning of a WebSocket, by RFC 6455.
    ///
    /// # Errors
    /// Says what is missing.
    fn check(&self, key: &str) -> Result<(), &'static str> {
        if self.version == 0 {
            return Err("it speaks HTTP/1.0, which knows no upgrade");
        }
        if !self.lists(UPGRADE, "websocket") {
            return Err("its answer lacks `Upgrade: websocket`");
        }
        if !self.lists(CONNECTION, "upgrade") {
            return Err("its answer lacks `Connection: upgrade`");
        }
        let accept = self.headers.get(SEC_WEBSOCKET_ACCEPT).map(HeaderValue::as_bytes);
        if accept.is_none_or(|accept| accept.trim_ascii() != derive_accept_key(key.as_bytes()).as_bytes()) {
            return Err("the `Sec-WebSocket-Accept` of its answer is not the one for this request");
        }
        if self.headers.get_all(SEC_WEBSOCKET_EXTENSIONS).iter().any(|value| !value.is_empty()) {
            return Err("it wants to use an extension of WebSocket, but none was offered");
        }
        Ok(())
    }

    /// Whether `word` is among what the header lists, in however many lines.
    fn lists(&self, name: impl AsHeaderName, word: &str) -> bool {
        let values = self.headers.get_all(name);
        let mut words = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
        words.any(|listed| listed.trim().eq_ignore_ascii_case(word))
    }

    /// The sub-protocol that the server chose. It must choose one if any was offered: not the letter of RFC 6455, but what
    /// browsers do (WHATWG WebSockets, opening handshake).
    fn protocol(&self, target: &Target) -> Result<Option<Arc<str>>, Reason> {
        let offered = target.protocols.join(", ");
        let mut chosen = self.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
        let what = match (chosen.next().map(|value| value.to_str().unwrap_or_default().trim()), chosen.next()) {
            (_, Some(_)) => "chose several sub-protocols at once".into(),
            (None, _) if target.protocols.is_empty() => return Ok(None),
            (None, _) => format!("speaks none of the sub-protocols offered ({offered})"),
            // Some servers say that they have seen it.
            (Some(chosen), _) if matches!(&target.credential, Some(Presented::Protocol(secret)) if secret.reveal() == chosen) =>
            {
                return Ok(None);
            }
            (Some(_), _) if target.protocols.is_empty() => "chose a sub-protocol, but none was offered".into(),
            (Some(chosen), _) if target.protocols.iter().any(|offered| offered == chosen) => {
                return Ok(Some(chosen.into()));
            }
            (Some(_), _) => format!("chose a sub-protocol that is none of those offered ({offered})"),
        };
        Err(Reason::new("upgrade", format!("{} {what}", target.url.origin().ascii_serialization())))
    }
}

/// What a browser would send as `Origin` for this extension. Firefox gives each installation a random UUID; ours is
/// derived from the add-on id, so that a server can know it.
fn web_origin(origin: &str) -> String {
    match origin.strip_prefix("chrome-extension://") {
        Some(id) => format!("chrome-extension://{}", id.trim_end_matches('/')),
        None => format!("moz-extension://{}", uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, origin.as_bytes())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_sees_the_origin_that_the_browser_would_send() {
        assert_eq!(web_origin("chrome-extension://abc/"), "chrome-extension://abc");
        assert_eq!(web_origin("a@b.c"), web_origin("a@b.c"));
        assert!(web_origin("a@b.c").starts_with("moz-extension://"));
        assert_ne!(web_origin("a@b.c"), web_origin("a@b.d"));
    }
}
