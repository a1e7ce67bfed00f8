//! Through a proxy: from a connection with it to one with the server behind it.
//!
//! Owns: what is said to a proxy, by HTTP's CONNECT (RFC 9110 section 9.3.6) and SOCKS version 5 (RFC 1928 and 1929), and the
//! verdict on its answers. The server's name is the proxy's to look up. Which proxy it is says `config`.

use std::io;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::http::StatusCode;
use tokio_tungstenite::tungstenite::http::header::PROXY_AUTHENTICATE;
use url::{Host, Url};
use zeroize::Zeroizing;

use super::upgrade::Answer;
use crate::config::{ChosenProxy, ProxyProtocol};
use crate::wire::Reason;

/// The longest header of an answer, in bytes.
const MAX_HEADER: u64 = 64 * 1024;
/// The longest name that SOCKS can carry.
const MAX_NAME: usize = 255;
/// Where to write what, if a proxy wants to know who we are.
const ADVISE: &str = "write http://USER:PASSWORD@HOST:PORT (or socks5://…) as `proxy` into config.toml";

/// What a proxy has connected. What the server said first may have come with the proxy's answer.
pub(super) type Tunnel = BufReader<TcpStream>;

/// Why a proxy did not connect to the server.
enum Refusal {
    /// It wants to know who we are, or does not believe it.
    Auth(String),
    /// It says no.
    No(String),
    /// It could not, or is no such proxy.
    Failed(String),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Failed(match error.kind() {
            io::ErrorKind::UnexpectedEof => "it ended the connection instead of answering".to_owned(),
            _ => format!("it broke off: {error}"),
        })
    }
}

/// Asks a proxy for a connection to the server of `url`.
pub(super) async fn tunnel(chosen: &ChosenProxy, url: &Url, tcp: TcpStream, limit: Duration) -> Result<Tunnel, Reason> {
    let mut stream = BufReader::with_capacity(512, tcp);
    let asking = async {
        match chosen.proxy.protocol {
            ProxyProtocol::Http => connect(chosen, url, &mut stream).await,
            ProxyProtocol::Socks5 => socks(chosen, url, &mut stream).await,
        }
    };
    let told = timeout(limit, asking).await.unwrap_or_else(|_| {
        Err(Refusal::Failed(format!(
            "it did not answer within {} s; it may be stuck, or wait for the server",
            limit.as_secs_f32()
        )))
    });
    let (host, port) = address(url);
    let sentence = |what| format!("no connection to {host}:{port} through the proxy {chosen}: {what}");
    match told {
        Ok(()) => Ok(stream),
        Err(Refusal::Auth(what)) => Err(Reason::new("proxy-auth", sentence(what))),
        Err(Refusal::No(what)) => Err(Reason::new("proxy-refused", sentence(what))),
        Err(Refusal::Failed(what)) => Err(Reason::new("proxy-failed", sentence(what))),
    }
}

/// Host and port as they are written, an IPv6 address in brackets.
fn address(url: &Url) -> (&str, u16) {
    (url.host_str().unwrap_or_default(), url.port_or_known_default().unwrap_or_default())
}

/// HTTP: whatever begins with 2 is a connection.
async fn connect(chosen: &ChosenProxy, url: &Url, stream: &mut Tunnel) -> Result<(), Refusal> {
    let (host, port) = address(url);
    let mut request = Zeroizing::new(format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n"));
    request.push_str(concat!("User-Agent: websocket-bridge/", env!("CARGO_PKG_VERSION"), "\r\n"));
    if let Some((user, password)) = &chosen.proxy.credentials {
        let both = Zeroizing::new(format!("{}:{}", user.reveal(), password.reveal()));
        let encoded = Zeroizing::new(BASE64_STANDARD.encode(both.as_bytes()));
        for part in ["Proxy-Authorization: Basic ", &encoded, "\r\n"] {
            request.push_str(part);
        }
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let garbage =
        |what: String| Refusal::Failed(format!("{what}; if it is a SOCKS proxy, write socks5:// instead of http://"));
    let mut header = Vec::new();
    while !header.ends_with(b"\r\n\r\n") && !header.ends_with(b"\n\n") {
        let left = MAX_HEADER.saturating_sub(header.len() as u64);
        if (&mut *stream).take(left).read_until(b'\n', &mut header).await? == 0 {
            return Err(match (left, header.is_empty()) {
                (0, _) => garbage(format!("it answered with a header that is too long (over {MAX_HEADER} bytes)")),
                (_, true) => Refusal::Failed("it ended the connection instead of answering".to_owned()),
                _ => garbage("it ended the connection within its answer".to_owned()),
            });
        }
    }
    match Answer::read(&header) {
        Ok(Some((answer, _))) if (200..300).contains(&answer.status) => Ok(()),
        Ok(Some((answer, _))) => Err(refusal(&answer, chosen, port)),
        Ok(None) => Err(garbage("it answered with half a header".to_owned())),
        Err(what) => Err(garbage(what)),
    }
}

/// What an answer means that is no connection.
fn refusal(answer: &Answer, chosen: &ChosenProxy, port: u16) -> Refusal {
    let status = answer.status;
    // Not in the proxy's own words, which may be any.
    let shown = StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |status| status.to_string());
    match status {
        // Some say so with the status of a server.
        401 | 407 => {
            let wanted: Vec<String> = answer.headers.get_all(PROXY_AUTHENTICATE).iter().filter_map(scheme).collect();
            let basic = wanted.iter().any(|scheme| scheme.eq_ignore_ascii_case("basic"));
            Refusal::Auth(if !wanted.is_empty() && !basic {
                let wanted = wanted.join(", ");
                format!(
                    "it wants credentials by {wanted}, but only Basic is offered; name another proxy, or one of this machine that speaks it"
                )
            } else if chosen.proxy.credentials.is_some() {
                format!("it does not take the user name and password ({shown}); correct them in {}", chosen.named_by)
            } else {
                format!("it wants a user name and a password ({shown}); {ADVISE}")
            })
        }
        300..=399 | 511 => Refusal::Failed(format!(
            "it answered {shown}: a login page of the network seems to answer; open any page in the browser"
        )),
        500..=599 => {
            Refusal::Failed(format!("it answered {shown}: it does not reach the server, or does not know its name"))
        }
        _ => {
            let hint = if port == 443 { "" } else { " (many proxies let only port 443 through)" };
            Refusal::No(format!("it answered {shown}{hint}; ask whoever runs it to let this server through"))
        }
    }
}

/// The first word of a challenge, if it is one.
fn scheme(value: &tokio_tungstenite::tungstenite::http::HeaderValue) -> Option<String> {
    let word = value.to_str().ok()?.split([' ', ',']).next()?;
    let is_word =
        !word.is_empty() && word.len() <= 32 && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_word.then(|| word.to_owned())
}

/// SOCKS, and the ways to say who one is: not at all, or by a user name and a password.
const SOCKS_VERSION: u8 = 5;
const NO_AUTH: u8 = 0;
const PASSWORD: u8 = 2;
const NOTHING_ACCEPTABLE: u8 = 0xff;
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

async fn socks(chosen: &ChosenProxy, url: &Url, stream: &mut Tunnel) -> Result<(), Refusal> {
    let credentials = chosen.proxy.credentials.as_ref();
    let methods: &[u8] = if credentials.is_some() { &[NO_AUTH, PASSWORD] } else { &[NO_AUTH] };
    say(stream, &[&[SOCKS_VERSION, methods.len() as u8], methods]).await?;
    let version = stream.read_u8().await?;
    if version != SOCKS_VERSION {
        let hint = if version == b'H' { "; it seems to speak HTTP, so write http:// instead of socks5://" } else { "" };
        return Err(Refusal::Failed(format!("it answered with something else than SOCKS 5{hint}")));
    }
    match (stream.read_u8().await?, credentials) {
        (NO_AUTH, _) => {}
        (PASSWORD, Some((user, password))) => {
            let (user, password) = (user.reveal().as_bytes(), password.reveal().as_bytes());
            let lengths = [user.len() as u8, password.len() as u8];
            say(stream, &[&[PASSWORD_VERSION], &lengths[..1], user, &lengths[1..], password]).await?;
            let _version = stream.read_u8().await?;
            if stream.read_u8().await? != 0 {
                let what = format!("it does not take the user name and password; correct them in {}", chosen.named_by);
                return Err(Refusal::Auth(what));
            }
        }
        (NOTHING_ACCEPTABLE, None) => {
            return Err(Refusal::Auth(format!("it wants a user name and a password; {ADVISE}")));
        }
        (NOTHING_ACCEPTABLE, Some(_)) => {
            let what = "it takes neither a user name and password nor somebody without; name another proxy";
            return Err(Refusal::Auth(what.to_owned()));
        }
        (method, _) => {
            return Err(Refusal::Failed(format!("it chose a way to log in that was not offered ({method})")));
        }
    }
    let (_, port) = address(url);
    let port = port.to_be_bytes();
    match url.host() {
        Some(Host::Ipv4(address)) => {
            say(stream, &[&[SOCKS_VERSION, CONNECT, 0, IPV4], &address.octets(), &port]).await?;
        }
        Some(Host::Ipv6(address)) => {
            say(stream, &[&[SOCKS_VERSION, CONNECT, 0, IPV6], &address.octets(), &port]).await?;
        }
        Some(Host::Domain(name)) if name.len() <= MAX_NAME => {
            let length = [name.len() as u8];
            say(stream, &[&[SOCKS_VERSION, CONNECT, 0, NAME], &length, name.as_bytes(), &port]).await?;
        }
        _ => return Err(Refusal::No(format!("SOCKS takes names of at most {MAX_NAME} bytes; use a shorter one"))),
    }
    let mut answer = [0; 4];
    // The version, the reply, nothing, and what kind of address follows, which matters to nobody.
    stream.read_exact(&mut answer).await?;
    reply(answer[1])?;
    let length = match answer[3] {
        IPV4 => 4,
        IPV6 => 16,
        NAME => usize::from(stream.read_u8().await?),
        _ => return Err(Refusal::Failed("its answer is not SOCKS 5".to_owned())),
    };
    stream.read_exact(&mut [0; MAX_NAME + 2][..length + 2]).await?;
    Ok(())
}

/// Sends what belongs together at once, and leaves nothing of it behind.
async fn say(stream: &mut Tunnel, parts: &[&[u8]]) -> io::Result<()> {
    let whole = Zeroizing::new(parts.concat());
    stream.write_all(&whole).await?;
    stream.flush().await
}

/// What a reply of SOCKS means (RFC 1928 section 6).
fn reply(code: u8) -> Result<(), Refusal> {
    let failed = |what: &str| Err(Refusal::Failed(format!("{what} (SOCKS reply {code})")));
    match code {
        0 => Ok(()),
        1 => failed("it failed, and does not say why"),
        2 => Err(Refusal::No(
            "its rules do not allow this connection (SOCKS reply 2); ask whoever runs it to let this server through"
                .to_owned(),
        )),
        3 => failed("it has no way to the network of the server"),
        4 => failed("it does not reach the server, or does not know its name"),
        5 => failed("nothing listens at that port of the server"),
        6 => failed("it does not reach the server: the way is too long"),
        7 => Err(Refusal::No("it makes no TCP connections (SOCKS reply 7); name another proxy".to_owned())),
        8 => Err(Refusal::No(
            "it does not take names, or not addresses of this kind (SOCKS reply 8); name another proxy".to_owned(),
        )),
        _ => failed("it failed for a reason that has no name"),
    }
}
