//! From a URL to a WebSocket: look-up, TCP, TLS, upgrade, each with a time-out and an error that names it.
//!
//! Owns: how a connection is made and the verdict why it could not be. Does not know what is said on it.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::client_async_with_config;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::error::{Error as WsError, ProtocolError, SubProtocolError};
use tokio_tungstenite::tungstenite::handshake::client::Response;
use tokio_tungstenite::tungstenite::http::header::{
    HeaderValue, LOCATION, ORIGIN, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, USER_AGENT,
};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tower_service::Service;
use url::Url;

use super::pump::{Socket, Watched};
use super::{Target, Timeouts, hint, reason};
use crate::wire::Reason;

/// How long the first address of a server may take before another is tried beside it (RFC 8305).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);

/// Bytes read at once. tungstenite's own 128 KiB cost a third of a round trip, measured with 100-byte messages.
const READ_BUFFER: usize = 16 * 1024;
/// Bytes gathered before they are written when more is waiting.
const WRITE_BUFFER: usize = 32 * 1024;
/// The longest ping or close frame, which is no message and not bound by the limit for those.
const MAX_CONTROL_FRAME: usize = 125;
/// The longest URL that is shown when a server points to it.
const MAX_SHOWN_URL: usize = 200;

/// A connected stream, whatever is below it.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + fmt::Debug> Transport for T {}

/// A WebSocket, and the sub-protocol that the server chose.
pub(super) type Upgraded = (Socket, Option<Arc<str>>);

/// Makes the connection.
pub(super) async fn dial(target: &Target) -> Result<Upgraded, Reason> {
    let url = &target.url;
    let tcp = connect(url, &target.timeouts).await?;
    let transport: Box<dyn Transport> =
        if url.scheme() == "wss" { Box::new(encrypt(url, tcp, target.timeouts.tls).await?) } else { Box::new(tcp) };
    upgrade(target, transport).await
}

async fn connect(url: &Url, timeouts: &Timeouts) -> Result<TcpStream, Reason> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    let mut connector = HttpConnector::new_with_resolver(Resolver { timeout: timeouts.dns });
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(timeouts.tcp));
    connector.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
    let uri = format!("http://{host}:{port}/")
        .parse()
        .map_err(|error| reason("network", format!("{host}:{port} cannot be connected to: {error}")))?;
    let stream = connector.call(uri).await.map_err(|error| {
        let cause = root_cause(&error);
        let code = match cause.downcast_ref::<io::Error>() {
            _ if error.to_string().contains("dns") => "dns",
            Some(error) => io_code(error),
            None => "network",
        };
        reason(code, format!("cannot connect to {host}:{port}: {}", explain(&error)))
    })?;
    Ok(TokioIo::into_inner(stream))
}

async fn encrypt(
    url: &Url,
    tcp: TcpStream,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Reason> {
    let host = url.host_str().unwrap_or_default();
    let failed = |what: String| reason("tls", format!("no encrypted connection to {host}: {what}"));
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| failed(error.to_string()))?;
    let encrypting = async {
        // Read anew for each connection: the roots of the system change while a daemon lives for weeks. It takes
        // milliseconds of a thread that has nothing else to do, or long where a system asks others about them.
        let config = tokio::task::spawn_blocking(tls_config)
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, tcp).await.map_err(|error| failed(explain(&error)))
    };
    match timeout(limit, encrypting).await {
        Ok(result) => result,
        Err(_) => Err(failed(format!("certificates and handshake took longer than {} s", limit.as_secs_f32()))),
    }
}

fn tls_config() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(builder.with_platform_verifier()?.with_no_client_auth())
}

async fn upgrade(target: &Target, transport: Box<dyn Transport>) -> Result<Upgraded, Reason> {
    let server = target.url.origin().ascii_serialization();
    let failed = |error: WsError| upgrade_failed(target, &error);
    let mut request = target.url.as_str().into_client_request().map_err(failed)?;
    let headers = request.headers_mut();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("websocket-bridge/", env!("CARGO_PKG_VERSION"))));
    if let Ok(origin) = HeaderValue::from_str(&web_origin(&target.origin)) {
        headers.insert(ORIGIN, origin);
    }
    if !target.protocols.is_empty() {
        let offered = HeaderValue::from_str(&target.protocols.join(", ")).map_err(|error| {
            let message = format!("the sub-protocols {:?} cannot be offered to {server}: {error}", target.protocols);
            Reason { retryable: false, ..reason("upgrade", message) }
        })?;
        headers.insert(SEC_WEBSOCKET_PROTOCOL, offered);
    }
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER)
        .write_buffer_size(WRITE_BUFFER)
        .max_message_size(Some(target.max_message))
        .max_frame_size(Some(target.max_message.max(MAX_CONTROL_FRAME)));
    let limit = target.timeouts.upgrade;
    let upgrading = client_async_with_config(request, Watched::new(transport), Some(config));
    let (socket, response) = match timeout(limit, upgrading).await {
        Ok(upgraded) => upgraded.map_err(failed)?,
        Err(_) => {
            let message = format!("{server} did not answer the WebSocket upgrade within {} s", limit.as_secs_f32());
            return Err(reason("upgrade-timeout", message));
        }
    };
    if response.headers().get_all(SEC_WEBSOCKET_EXTENSIONS).iter().any(|value| !value.is_empty()) {
        return Err(reason(
            "upgrade",
            format!("{server} wants to use an extension of WebSocket, but none was offered"),
        ));
    }
    if response.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter().count() > 1 {
        return Err(reason("upgrade", format!("{server} chose several sub-protocols at once")));
    }
    let protocol = response.headers().get(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok()).map(Into::into);
    Ok((socket, protocol))
}

fn upgrade_failed(target: &Target, error: &WsError) -> Reason {
    let server = target.url.origin().ascii_serialization();
    match error {
        WsError::Http(response) => {
            let status = response.status();
            let mut message = format!("{server} answered the WebSocket upgrade with {status} instead of 101");
            if let Some(elsewhere) = points_to(&target.url, response).filter(|_| status.is_redirection()) {
                message += &format!("; it points to {elsewhere}, which is not followed");
            }
            let hint = hint::of_header(response.headers(), SystemTime::now());
            Reason { http_status: Some(status.as_u16()), hint, ..reason("http-status", message) }
        }
        WsError::Io(error) => reason(io_code(error), format!("{server} broke off the WebSocket upgrade: {error}")),
        WsError::Protocol(ProtocolError::HandshakeIncomplete) => {
            reason("reset", format!("{server} ended the connection instead of answering the WebSocket upgrade"))
        }
        WsError::Protocol(ProtocolError::SecWebSocketSubProtocolError(error)) => {
            let what = match error {
                SubProtocolError::ServerSentSubProtocolNoneRequested => {
                    "chose a sub-protocol, but none was offered".into()
                }
                SubProtocolError::InvalidSubProtocol => {
                    format!("chose a sub-protocol that is none of those offered ({})", target.protocols.join(", "))
                }
                SubProtocolError::NoSubProtocol => {
                    format!("speaks none of the sub-protocols offered ({})", target.protocols.join(", "))
                }
            };
            reason("upgrade", format!("{server} {what}"))
        }
        WsError::AttackAttempt => {
            let what = "a header that is too long or comes in too many pieces";
            reason("upgrade", format!("{server} answered the WebSocket upgrade with {what}"))
        }
        WsError::Protocol(error) => reason("upgrade", format!("{server} did not upgrade to a WebSocket: {error}")),
        other => reason("upgrade", format!("{server} did not upgrade to a WebSocket: {other}")),
    }
}

/// Where a redirect leads, without what may be secret.
fn points_to(url: &Url, response: &Response) -> Option<String> {
    let mut to = url.join(response.headers().get(LOCATION)?.to_str().ok()?).ok()?;
    if !matches!(to.scheme(), "http" | "https" | "ws" | "wss") {
        return None;
    }
    to.set_query(None);
    to.set_fragment(None);
    to.set_username("").and_then(|()| to.set_password(None)).ok()?;
    Some(if to.as_str().len() > MAX_SHOWN_URL { to.origin().ascii_serialization() } else { to.into() })
}

/// What a browser would send as `Origin` for this extension. Firefox gives each installation a random UUID; ours is
/// derived from the add-on id, so that a server can know it.
pub(super) fn web_origin(origin: &str) -> String {
    match origin.strip_prefix("chrome-extension://") {
        Some(id) => format!("chrome-extension://{}", id.trim_end_matches('/')),
        None => format!("moz-extension://{}", uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_URL, origin.as_bytes())),
    }
}

/// Looks names up with a time-out, and `localhost` not at all.
#[derive(Debug, Clone, Copy)]
struct Resolver {
    timeout: Duration,
}

impl Service<Name> for Resolver {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let limit = self.timeout;
        Box::pin(async move {
            if name.as_str() == "localhost" {
                let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                return Ok(loopback.map(|address| SocketAddr::new(address, 0)).to_vec().into_iter());
            }
            match timeout(limit, tokio::net::lookup_host((name.as_str(), 0))).await {
                Ok(addresses) => Ok(addresses?.collect::<Vec<_>>().into_iter()),
                Err(_) => {
                    let message = format!("the look-up took longer than {} s", limit.as_secs_f32());
                    Err(io::Error::new(io::ErrorKind::TimedOut, message))
                }
            }
        })
    }
}

/// The word for an error of the network.
pub(super) fn io_code(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "refused",
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof => "reset",
        io::ErrorKind::TimedOut => "timeout",
        _ => "network",
    }
}

fn root_cause<'a>(error: &'a (dyn std::error::Error + 'static)) -> &'a (dyn std::error::Error + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

/// An error and its causes, each said once.
fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let (text, root) = (error.to_string(), root_cause(error).to_string());
    if text.contains(&root) { text } else { format!("{text}: {root}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_dies_during_the_upgrade_is_told_from_one_that_speaks_something_else() {
        let target = Target {
            url: "ws://x".parse().unwrap(),
            origin: "a@b".into(),
            protocols: Vec::new(),
            max_message: 0,
            timeouts: Timeouts::default(),
        };
        let code = |error| upgrade_failed(&target, &WsError::Protocol(error)).code;
        assert_eq!(code(ProtocolError::HandshakeIncomplete), "reset");
        assert_eq!(code(ProtocolError::JunkAfterRequest), "upgrade");
    }

    #[test]
    fn a_server_sees_the_origin_that_the_browser_would_send() {
        assert_eq!(web_origin("chrome-extension://abc/"), "chrome-extension://abc");
        assert_eq!(web_origin("a@b.c"), web_origin("a@b.c"));
        assert!(web_origin("a@b.c").starts_with("moz-extension://"));
        assert_ne!(web_origin("a@b.c"), web_origin("a@b.d"));
    }
}
