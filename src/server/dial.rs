//! From a URL to a connection: proxy, look-up, TCP, each with a time-out and an error that names it.
//!
//! Owns: how a connection is made and the verdict why it could not be. What a proxy is told is `proxy`'s, that the connection
//! is encrypted `tls`'s, that it becomes a WebSocket `upgrade`'s.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tower_service::Service;
use url::Host;

use super::upgrade::{Upgraded, upgrade};
use super::{Found, Target, proxy, tls};
use crate::config::{self, Choice, ChosenProxy};
use crate::os;
use crate::wire::Reason;

/// How long the first address of a server may take before another is tried beside it (RFC 8305).
const HAPPY_EYEBALLS: Duration = Duration::from_millis(300);

/// How long a connection may be silent before the system asks whether the other side is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// A connected stream, whatever is below it.
pub(super) trait Transport: AsyncRead + AsyncWrite + Unpin + fmt::Debug {}
impl<T: AsyncRead + AsyncWrite + Unpin + fmt::Debug> Transport for T {}

/// Makes a WebSocket, and tells what it finds on the way.
pub(super) async fn dial(target: &Target, found: &mut impl FnMut(Found)) -> Result<Upgraded, Reason> {
    let transport = connect(target, found).await?;
    upgrade(target, transport, found).await
}

/// Makes the connection, and tells what it finds on the way.
pub(super) async fn connect(target: &Target, found: &mut impl FnMut(Found)) -> Result<Box<dyn Transport>, Reason> {
    let stream: Box<dyn Transport> = match choose_proxy(target).await? {
        Some(chosen) => Box::new(through(&chosen, target, found).await?),
        None => Box::new(straight(target, found).await?),
    };
    Ok(if target.url.scheme() == "wss" { Box::new(tls::encrypt(target, stream, found).await?) } else { stream })
}

/// The proxy that leads to the server, if one does.
async fn choose_proxy(target: &Target) -> Result<Option<ChosenProxy>, Reason> {
    let unusable = |message: String| Reason::new("proxy-unusable", message);
    match target.way.proxy.choose(&target.url, &target.proxy_variables).map_err(unusable)? {
        Choice::Direct => Ok(None),
        Choice::Through(chosen) => Ok(Some(chosen)),
        Choice::AskSystem => {
            // A look at the registry, or a program of the system. If that takes too long there is no proxy.
            let asking = tokio::task::spawn_blocking(os::proxy_settings);
            let settings = timeout(target.timeouts.dns, asking).await.ok().and_then(Result::ok).flatten();
            let chosen = settings.map(|settings| config::of_system(&settings, &target.url)).transpose();
            Ok(chosen.map_err(unusable)?.flatten())
        }
    }
}

async fn straight(target: &Target, found: &mut impl FnMut(Found)) -> Result<TcpStream, Reason> {
    let url = &target.url;
    let (host, port) = (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or(80));
    let addresses = resolve(url.host().unwrap_or(Host::Domain("")), target.timeouts.dns)
        .await
        .map_err(|what| Reason::new("dns", format!("cannot look up the address of {host}: {what}")))?;
    found(Found::Addresses(addresses.clone()));
    let tcp = connect_to(host, port, addresses, target.timeouts.tcp)
        .await
        .map_err(|(code, what)| Reason::new(code, format!("cannot connect to {host}:{port}: {what}")))?;
    if let Ok(peer) = tcp.peer_addr() {
        found(Found::Peer(peer));
    }
    Ok(tcp)
}

async fn through(
    chosen: &ChosenProxy,
    target: &Target,
    found: &mut impl FnMut(Found),
) -> Result<proxy::Tunnel, Reason> {
    found(Found::Proxy(chosen.to_string()));
    let (host, port) = (&chosen.proxy.host, chosen.proxy.port);
    let unreachable = |what: String| {
        let advice = "start or correct it, or set `proxy` in config.toml: the right one, or \"none\"";
        Reason::new("proxy-unreachable", format!("cannot reach the proxy {chosen}: {what}; {advice}"))
    };
    let name = match host {
        Host::Domain(name) => Host::Domain(&**name),
        Host::Ipv4(address) => Host::Ipv4(*address),
        Host::Ipv6(address) => Host::Ipv6(*address),
    };
    let addresses =
        resolve(name, target.timeouts.dns).await.map_err(|what| unreachable(format!("no address: {what}")))?;
    let tcp = connect_to(&host.to_string(), port, addresses, target.timeouts.tcp)
        .await
        .map_err(|(_, what)| unreachable(what))?;
    let tunnel = proxy::tunnel(chosen, &target.url, tcp, target.timeouts.proxy).await?;
    found(Found::Tunnel);
    Ok(tunnel)
}

/// Where a host is: `localhost` and addresses are not looked up.
///
/// # Errors
/// Says why nobody knows.
async fn resolve(host: Host<&str>, limit: Duration) -> Result<Vec<IpAddr>, String> {
    let name = match host {
        Host::Domain("localhost") => {
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        Host::Ipv4(address) => return Ok(vec![address.into()]),
        Host::Ipv6(address) => return Ok(vec![address.into()]),
        Host::Domain(name) => name,
    };
    match timeout(limit, tokio::net::lookup_host((name, 0))).await {
        Ok(Ok(addresses)) => Ok(addresses.map(|address| address.ip()).collect()),
        Ok(Err(error)) => Err(explain(&error)),
        Err(_) => Err(format!("the look-up took longer than {} s", limit.as_secs_f32())),
    }
}

/// A TCP connection with the first of these addresses that takes one.
///
/// # Errors
/// Why there is none, and the word for it.
async fn connect_to(
    host: &str,
    port: u16,
    addresses: Vec<IpAddr>,
    limit: Duration,
) -> Result<TcpStream, (&'static str, String)> {
    let mut connector = HttpConnector::new_with_resolver(Resolved(addresses));
    connector.enforce_http(false);
    connector.set_nodelay(true);
    // For whoever cannot be pinged: on a detour nothing else finds out that the server is gone.
    connector.set_keepalive(Some(KEEPALIVE));
    connector.set_keepalive_interval(Some(KEEPALIVE / 4));
    connector.set_keepalive_retries(Some(4));
    connector.set_connect_timeout(Some(limit));
    connector.set_happy_eyeballs_timeout(Some(HAPPY_EYEBALLS));
    let uri = format!("http://{host}:{port}/").parse().map_err(|error| ("network", format!("{error}")))?;
    let stream = connector.call(uri).await.map_err(|error| {
        let code = root_cause(&error).downcast_ref().map_or("network", io_code);
        (code, explain(&error))
    })?;
    Ok(TokioIo::into_inner(stream))
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
pub(super) fn explain(error: &(dyn std::error::Error + 'static)) -> String {
    let (text, root) = (error.to_string(), root_cause(error).to_string());
    if text.contains(&root) { text } else { format!("{text}: {root}") }
}
