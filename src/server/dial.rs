//! From a URL to a connection: look-up, TCP, TLS, each with a time-out and an error that names it.
//!
//! Owns: how a connection is made and the verdict why it could not be. That it becomes a WebSocket is `upgrade`'s.

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;
use url::Url;

use super::upgrade::{Upgraded, upgrade};
use super::{Target, Timeouts};
use crate::wire::Reason;

/// How long the first address of a server may take before another is tried beside it (RFC 8305).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);

/// A connected stream, whatever is below it.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + fmt::Debug> Transport for T {}

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
        .map_err(|error| Reason::new("network", format!("{host}:{port} cannot be connected to: {error}")))?;
    let stream = connector.call(uri).await.map_err(|error| {
        let cause = root_cause(&error);
        let code = match cause.downcast_ref::<io::Error>() {
            _ if error.to_string().contains("dns") => "dns",
            Some(error) => io_code(error),
            None => "network",
        };
        Reason::new(code, format!("cannot connect to {host}:{port}: {}", explain(&error)))
    })?;
    Ok(TokioIo::into_inner(stream))
}

async fn encrypt(
    url: &Url,
    tcp: TcpStream,
    limit: Duration,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Reason> {
    let host = url.host_str().unwrap_or_default();
    let failed = |what: String| Reason::new("tls", format!("no encrypted connection to {host}: {what}"));
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
