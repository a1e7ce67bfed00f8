//! From a URL to a connection: look-up, TCP, TLS, each with a time-out and an error that names it.
//!
//! Owns: how a connection is made and the verdict why it could not be. That it becomes a WebSocket is `upgrade`'s.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;
use url::{Host, Url};

use super::certificate::{Shown, Watching};
use super::upgrade::{Upgraded, upgrade};
use super::{Found, Target};
use crate::wire::Reason;

/// How long the first address of a server may take before another is tried beside it (RFC 8305).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);

/// A connected stream, whatever is below it.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + fmt::Debug> Transport for T {}

/// Makes the connection, and tells what it finds on the way.
pub(super) async fn dial(target: &Target, found: &mut impl FnMut(Found)) -> Result<Upgraded, Reason> {
    let url = &target.url;
    let addresses = resolve(url, target.timeouts.dns).await?;
    found(Found::Addresses(addresses.clone()));
    let tcp = connect(url, addresses, target.timeouts.tcp).await?;
    if let Ok(peer) = tcp.peer_addr() {
        found(Found::Peer(peer));
    }
    let transport: Box<dyn Transport> = if url.scheme() == "wss" {
        Box::new(encrypt(url, tcp, target.timeouts.tls, found).await?)
    } else {
        Box::new(tcp)
    };
    upgrade(target, transport, found).await
}

/// Where the server is: `localhost` and addresses are not looked up.
async fn resolve(url: &Url, limit: Duration) -> Result<Vec<IpAddr>, Reason> {
    let name = match url.host() {
        Some(Host::Domain("localhost")) => {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        Some(Host::Ipv4(address)) => return Ok(vec![address.into()]),
        Some(Host::Ipv6(address)) => return Ok(vec![address.into()]),
        Some(Host::Domain(name)) => name,
        None => "",
    };
    let failed = |what: String| Reason::new("dns", format!("cannot look up the address of {name}: {what}"));
    match timeout(limit, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip()).collect()),
        Ok(Err(error)) => Err(failed(explain(&error))),
        Err(_) => Err(failed(format!("the look-up took longer than {} s", limit.as_secs_f32()))),
    }
}

async fn connect(url: &Url, addresses: Vec<IpAddr>, limit: Duration) -> Result<TcpStream, Reason> {
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    let mut connector = HttpConnector::new_with_resolver(Resolved(addresses));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(limit));
    connector.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
    let uri = format!("http://{host}:{port}/")
        .parse()
        .map_err(|error| Reason::new("network", format!("{host}:{port} cannot be connected to: {error}")))?;
    let stream = connector.call(uri).await.map_err(|error| {
        let code = root_cause(&error).downcast_ref().map_or("network", io_code);
        Reason::new(code, format!("cannot connect to {host}:{port}: {}", explain(&error)))
    })?;
    Ok(TokioIo::into_inner(stream))
}

async fn encrypt(
    url: &Url,
    tcp: TcpStream,
    limit: Duration,
    found: &mut impl FnMut(Found),
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Reason> {
    let host = url.host_str().unwrap_or_default();
    let failed = |what: String| Reason::new("tls", format!("no encrypted connection to {host}: {what}"));
    let name =
        ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).map_err(|error| failed(error.to_string()))?;
    let shown = Shown::default();
    let encrypting = async {
        // Read anew for each connection: the roots of the system change while a daemon lives for weeks. It takes
        // milliseconds of a thread that has nothing else to do, or long where a system asks others about them.
        let seen = shown.clone();
        let config = tokio::task::spawn_blocking(move || tls_config(seen))
            .await
            .map_err(|error| failed(error.to_string()))?
            .map_err(|error| failed(error.to_string()))?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        connector.connect(name, tcp).await.map_err(|error| failed(explain(&error)))
    };
    let encrypted = timeout(limit, encrypting).await;
    // Also those that were refused, and most of all those.
    if let Some(certificates) = shown.take() {
        found(Found::Certificates(certificates));
    }
    let stream = match encrypted {
        Ok(result) => result?,
        Err(_) => return Err(failed(format!("certificates and handshake took longer than {} s", limit.as_secs_f32()))),
    };
    found(Found::Encrypted);
    Ok(stream)
}

fn tls_config(shown: Shown) -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(&provider))?;
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    // What is unusual about it is that it remembers what it was shown; the verdict is the system's.
    let verifier = Arc::new(Watching::new(verifier, shown));
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

/// Answers with what was looked up already.
#[derive(Debug, Clone)]
struct Resolved(Vec<IpAddr>);

impl Service<Name> for Resolved {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = std::future::Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Name) -> Self::Future {
        let addresses: Vec<_> = self.0.iter().map(|address| SocketAddr::new(*address, 0)).collect();
        std::future::ready(Ok(addresses.into_iter()))
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
