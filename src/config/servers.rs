//! Which server a URL names, and which servers a pattern stands for.
//!
//! Owns: the verdict on a URL by itself. Everything here looks at a URL as it is parsed, never as it was written,
//! because what is parsed is what is dialled: `ws://0x7f.1/` is 127.0.0.1 here as there.

use url::{Host, Url};

/// The longest URL, in bytes.
pub const MAX_URL: usize = 8192;

/// Reads the URL of a WebSocket server.
///
/// # Errors
/// What is wrong with it, to follow its name: "must begin with …". Nothing of the URL is repeated.
pub fn server_url(text: &str) -> Result<Url, String> {
    if text.len() > MAX_URL {
        return Err(format!("must have at most {MAX_URL} bytes, not {}", text.len()));
    }
    let url = Url::parse(text).map_err(|error| format!("is not a URL ({error}); it must look like wss://host/path"))?;
    match url.scheme() {
        "ws" | "wss" => {}
        "http" => return Err("must begin with ws:// or wss://; where a page has http://, write ws://".to_owned()),
        "https" => return Err("must begin with ws:// or wss://; where a page has https://, write wss://".to_owned()),
        _ => return Err("must begin with ws:// or wss://".to_owned()),
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must carry no user name or password; they would not be sent".to_owned());
    }
    if url.fragment().is_some() {
        return Err("must have no fragment (#…)".to_owned());
    }
    if let Some(Host::Domain(name)) = url.host()
        && !is_name(name)
    {
        return Err("has a host with a character that no name has; letters, digits, `.`, `-` and `_` may be".to_owned());
    }
    if url.port() == Some(0) {
        return Err("has port 0, where nobody can listen".to_owned());
    }
    Ok(url)
}

/// Whether a host has only the characters that names have.
pub(super) fn is_name(host: &str) -> bool {
    host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// Whether a server is on this machine by its very name: no look-up could say otherwise.
#[must_use]
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

/// Servers that are allowed: `wss://host/*` or `wss://host:port/path/*`. A `*` may stand at the end, for anything;
/// without it the path must be this one. The query of a URL does not matter.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pattern {
    /// Scheme, host, port and path, without the `*`.
    start: Url,
    open_ended: bool,
}

impl Pattern {
    /// Reads a pattern. It must be written as it is understood, so that what is allowed is what the owner of the machine
    /// sees: an address that turns into another one, or a part that counts for nothing, is refused.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (start, open_ended) = text.strip_suffix('*').map_or((text, false), |start| (start, true));
        if start.contains('*') {
            return Err("must have no `*` but one at the end".to_owned());
        }
        if start.contains('?') {
            return Err("must have no query (?…); whoever may reach a path may use any".to_owned());
        }
        let start_url = server_url(start)?;
        let Some((host, path)) = start.split_once("://").and_then(|(_, rest)| Some(rest.split_at(rest.find('/')?)))
        else {
            return Err("must have a path behind the host: `/*` for the whole server".to_owned());
        };
        if !is_written_as_understood(host, &start_url) {
            let message = "must have a host as it is understood: a name, four decimal numbers, or the shortest form of an \
                           IPv6 address in brackets; behind it `:` and a port, or nothing";
            return Err(message.to_owned());
        }
        if path != start_url.path() {
            let message = "must have a path as it is sent: parts between `/`, none of them `.` or `..`, and other \
                           characters than those of a URL as %XX";
            return Err(message.to_owned());
        }
        if path != "/" && may_leave(path) {
            return Err(format!("can never match: {LEAVES}"));
        }
        Ok(Self { start: start_url, open_ended })
    }

    /// Whether `url` is one of these: same scheme, host and port, and a path within the pattern's.
    pub(super) fn matches(&self, url: &Url) -> bool {
        let server =
            |url: &Url| (url.scheme().to_owned(), url.host().map(|host| host.to_owned()), url.port_or_known_default());
        let (start, path) = (self.start.path(), url.path());
        let within = if self.open_ended { path.starts_with(start) } else { path == start };
        server(&self.start) == server(url) && within && (start == "/" || !may_leave(path))
    }
}

const LEAVES: &str = "a path with %2E, %2F, %5C, %25 or `..;` is in no other, because some servers make `..` of it";

/// Whether some server may take a path for one that is elsewhere: it decodes what stands for a dot, a slash or a percent
/// sign, or leaves out what follows a semicolon, before it looks for `..`.
fn may_leave(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    ["%2e", "%2f", "%5c", "%25"].iter().any(|escape| lower.contains(escape))
        || path.split('/').any(|part| matches!(part.split(';').next(), Some("." | "..")))
}

/// Whether host and port are written as the URL has them. Capital letters, a name in its own script and the port that
/// goes without saying are no difference.
fn is_written_as_understood(written: &str, url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
    let written = written.to_lowercase();
    let written_host = match (url.port(), written.strip_suffix(&port)) {
        (_, Some(host)) => host,
        (Some(_), None) => return false,
        (None, None) => &written,
    };
    written_host == host || written_host == url::quirks::domain_to_unicode(host)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// What is to be said of a URL.
    enum Verdict {
        /// On this machine: this is dialled.
        Loopback(&'static str),
        /// Elsewhere: this is dialled if a rule allows it.
        Elsewhere(&'static str),
        /// Not the URL of a server.
        Never(&'static str),
    }
    use Verdict::{Elsewhere, Loopback, Never};

    #[test]
    fn the_verdict_on_a_url_is_about_what_will_be_dialled() {
        let long = format!("ws://localhost/{}", "x".repeat(MAX_URL));
        for (text, verdict) in [
            // Addresses of this machine, in all their forms.
            ("ws://127.0.0.1/", Loopback("127.0.0.1:80")),
            ("wss://127.9.9.9:8443/x?y", Loopback("127.9.9.9:8443")),
            ("ws://127.1/", Loopback("127.0.0.1:80")),
            ("ws://2130706433/", Loopback("127.0.0.1:80")),
            ("ws://0x7f000001/", Loopback("127.0.0.1:80")),
            ("ws://0x7f.1/", Loopback("127.0.0.1:80")),
            ("ws://0177.0.0.1/", Loopback("127.0.0.1:80")),
            ("ws://017700000001/", Loopback("127.0.0.1:80")),
            ("ws://127.0.0.1./", Loopback("127.0.0.1:80")),
            ("ws://127%2e0%2e0%2e1/", Loopback("127.0.0.1:80")),
            ("ws://１２７.0.0.1/", Loopback("127.0.0.1:80")),
            ("ws://127。0。0。1/", Loopback("127.0.0.1:80")),
            ("ws://①②⑦.0.0.1/", Loopback("127.0.0.1:80")),
            ("ws://[::1]/", Loopback("[::1]:80")),
            ("ws://[::1]:8080/", Loopback("[::1]:8080")),
            ("ws://[0:0:0:0:0:0:0:1]/", Loopback("[::1]:80")),
            ("ws://[0000:0000:0000:0000:0000:0000:0000:0001]/", Loopback("[::1]:80")),
            ("ws://[::0.0.0.1]/", Loopback("[::1]:80")),
            // Its name.
            ("ws://localhost/", Loopback("localhost:80")),
            ("wss://localhost/", Loopback("localhost:443")),
            ("WS://LOCALHOST/", Loopback("localhost:80")),
            ("ws://ｌｏｃａｌｈｏｓｔ/", Loopback("localhost:80")),
            ("ws://ℓocalhost/", Loopback("localhost:80")),
            ("ws://loc\u{ad}alhost/", Loopback("localhost:80")),
            ("ws://localhos%74/", Loopback("localhost:80")),
            ("ws://@localhost/", Loopback("localhost:80")),
            ("ws:localhost/", Loopback("localhost:80")),
            ("ws:///localhost/", Loopback("localhost:80")),
            ("ws:\\\\localhost\\x", Loopback("localhost:80")),
            ("ws://localhost\\@evil.org/", Loopback("localhost:80")),
            ("ws://local\thost/", Loopback("localhost:80")),
            ("w\ns://localhost/\n", Loopback("localhost:80")),
            (" ws://localhost/ ", Loopback("localhost:80")),
            ("ws://localhost:/", Loopback("localhost:80")),
            ("ws://localhost:00080/", Loopback("localhost:80")),
            ("ws://localhost:443/", Loopback("localhost:443")),
            ("wss://localhost:80/", Loopback("localhost:80")),
            ("ws://localhost:65535/", Loopback("localhost:65535")),
            // What only looks like it.
            ("ws://localhost./", Elsewhere("localhost.:80")),
            ("ws://localhost../", Elsewhere("localhost..:80")),
            ("ws://sub.localhost/", Elsewhere("sub.localhost:80")),
            ("ws://.localhost/", Elsewhere(".localhost:80")),
            ("ws://localhost.evil/", Elsewhere("localhost.evil:80")),
            ("ws://localhost%2eevil/", Elsewhere("localhost.evil:80")),
            ("ws://localhost.localdomain/", Elsewhere("localhost.localdomain:80")),
            ("ws://localhоst/", Elsewhere("xn--localhst-sbh:80")),
            ("ws://127.0.0.1.evil.org/", Elsewhere("127.0.0.1.evil.org:80")),
            ("ws://127.0.0.1../", Elsewhere("127.0.0.1..:80")),
            ("ws://0.0.0.0/", Elsewhere("0.0.0.0:80")),
            ("ws://0/", Elsewhere("0.0.0.0:80")),
            ("ws://[::]/", Elsewhere("[::]:80")),
            ("ws://[::ffff:127.0.0.1]/", Elsewhere("[::ffff:7f00:1]:80")),
            ("ws://[::ffff:7f00:1]/", Elsewhere("[::ffff:7f00:1]:80")),
            ("ws://[::127.0.0.1]/", Elsewhere("[::7f00:1]:80")),
            ("ws://[64:ff9b::7f00:1]/", Elsewhere("[64:ff9b::7f00:1]:80")),
            ("ws://[::2]/", Elsewhere("[::2]:80")),
            ("ws://[fe80::1]/", Elsewhere("[fe80::1]:80")),
            ("ws://126.255.255.255/", Elsewhere("126.255.255.255:80")),
            ("ws://128.0.0.0/", Elsewhere("128.0.0.0:80")),
            // Elsewhere.
            ("wss://example.org", Elsewhere("example.org:443")),
            ("WSS://EXAMPLE.org:443/", Elsewhere("example.org:443")),
            ("ws://example.org:443/", Elsewhere("example.org:443")),
            ("ws://ｅxample.org/", Elsewhere("example.org:80")),
            ("ws://evil.org\\@localhost/", Elsewhere("evil.org:80")),
            ("ws://10.1/", Elsewhere("10.0.0.1:80")),
            ("ws://1.2.3/", Elsewhere("1.2.0.3:80")),
            ("ws://169.254.169.254/", Elsewhere("169.254.169.254:80")),
            ("wss://bücher.example/", Elsewhere("xn--bcher-kva.example:443")),
            ("wss://faß.de/", Elsewhere("xn--fa-hia.de:443")),
            ("wss://a_b.example.org./", Elsewhere("a_b.example.org.:443")),
            // Never.
            ("", Never("is not a URL (relative URL without a base)")),
            ("localhost", Never("is not a URL (relative URL without a base)")),
            ("//localhost/", Never("is not a URL (relative URL without a base)")),
            ("localhost:8080", Never("must begin with ws:// or wss://")),
            ("http://localhost/", Never("must begin with ws:// or wss://; where a page has http://, write ws://")),
            ("https://localhost/", Never("must begin with ws:// or wss://; where a page has https://, write wss://")),
            ("file:///etc/passwd", Never("must begin with ws:// or wss://")),
            ("file://localhost/x", Never("must begin with ws:// or wss://")),
            ("ws+unix:///tmp/x", Never("must begin with ws:// or wss://")),
            ("blob:ws://localhost/", Never("must begin with ws:// or wss://")),
            ("javascript:alert(1)", Never("must begin with ws:// or wss://")),
            ("ws://", Never("is not a URL (empty host)")),
            ("wss:///", Never("is not a URL (empty host)")),
            ("ws://:80/", Never("is not a URL (empty host)")),
            ("ws://?x", Never("is not a URL (empty host)")),
            ("ws://::1/", Never("is not a URL (empty host)")),
            ("ws://[::1/", Never("is not a URL (invalid IPv6 address)")),
            ("ws://[::1].evil.org/", Never("is not a URL (invalid IPv6 address)")),
            ("ws://[::1%25eth0]/", Never("is not a URL (invalid IPv6 address)")),
            ("ws://[fe80::1%eth0]/", Never("is not a URL (invalid IPv6 address)")),
            ("ws://127.0.0.256/", Never("is not a URL (invalid IPv4 address)")),
            ("ws://1.2.3.4.5/", Never("is not a URL (invalid IPv4 address)")),
            ("ws://localhost.1/", Never("is not a URL (invalid IPv4 address)")),
            ("ws://localhost%00.evil/", Never("is not a URL (invalid international domain name)")),
            ("ws://exa mple.org/", Never("is not a URL (invalid international domain name)")),
            ("ws://xn--a/", Never("is not a URL (invalid international domain name)")),
            ("ws://localhost:65536/", Never("is not a URL (invalid port number)")),
            ("ws://localhost:-1/", Never("is not a URL (invalid port number)")),
            ("ws://localhost: 80/", Never("is not a URL (invalid port number)")),
            ("ws://localhost:0/", Never("has port 0")),
            ("ws://user@localhost/", Never("must carry no user name")),
            ("ws://:password@localhost/", Never("must carry no user name")),
            ("wss://localhost@evil.org/", Never("must carry no user name")),
            ("wss://localhost:80@evil.org/", Never("must carry no user name")),
            ("ws://127.0.0.1%2f@evil.org/", Never("must carry no user name")),
            ("ws://localhost/#", Never("must have no fragment")),
            ("ws://localhost/?x#y", Never("must have no fragment")),
            ("ws://*.example.org/", Never("has a host with a character")),
            ("ws://localhost,evil.org/", Never("has a host with a character")),
            ("ws://localhost;evil.org/", Never("has a host with a character")),
            ("ws://a\"b.org/", Never("has a host with a character")),
            (&long, Never("must have at most 8192 bytes, not 8207")),
        ] {
            let dialled = server_url(text).map(|url| {
                let host = url.host_str().unwrap();
                (format!("{host}:{}", url.port_or_known_default().unwrap()), is_loopback(&url), url)
            });
            match (verdict, dialled) {
                (Never(expected), Err(said)) => assert!(said.starts_with(expected), "{text}: {said}"),
                (Loopback(expected), Ok((dialled, true, url))) => {
                    assert_eq!(dialled, expected, "{text}");
                    // As the system understands the same address.
                    let host = url.host_str().unwrap().trim_matches(['[', ']']);
                    let address = host.parse::<IpAddr>();
                    assert!(address.map_or(host == "localhost", |address| address.is_loopback()), "{text}");
                }
                (Elsewhere(expected), Ok((dialled, false, url))) => {
                    assert_eq!(dialled, expected, "{text}");
                    let rule = Pattern::parse(&format!("{}/*", url.origin().ascii_serialization())).unwrap();
                    assert!(rule.matches(&url), "{text}: what a refusal advises allows it");
                }
                (_, said) => panic!("{text}: {said:?}"),
            }
        }
    }

    #[test]
    fn a_pattern_stands_for_one_scheme_host_and_port_and_what_is_below_a_path() {
        for (pattern, url, allowed) in [
            ("wss://example.org/a/*", "wss://example.org/a/b?c", true),
            ("wss://example.org/a/*", "wss://example.org:443/a/", true),
            ("wss://example.org/a/*", "wss://EXAMPLE.org/a/", true),
            ("wss://example.org/a/*", "wss://example.org/A/", false),
            ("wss://example.org/a/*", "wss://example.org/a", false),
            ("wss://example.org/a/*", "wss://example.org/b", false),
            ("wss://example.org/a/*", "wss://example.org/a/../b", false),
            ("wss://example.org/a/*", "wss://example.org/a/%2e%2e/b", false),
            ("wss://example.org/a/*", "wss://example.org/a/..%2fb", false),
            ("wss://example.org/a/*", "wss://example.org/a/..%5Cb", false),
            ("wss://example.org/a/*", "wss://example.org/a/..;/b", false),
            ("wss://example.org/a/*", "wss://example.org/a/%2e%2e;x/b", false),
            ("wss://example.org/a/*", "wss://example.org/a/%252e%252e/b", false),
            ("wss://example.org/a/*", "wss://example.org/a/b;c=d", true),
            ("wss://example.org/a/*", "wss://example.org/a/..b", true),
            ("wss://example.org/a/*", "wss://example.org:444/a/", false),
            ("wss://example.org/a/*", "wss://example.org.evil/a/", false),
            ("wss://example.org/a/*", "wss://example.org./a/", false),
            ("wss://example.org/a/*", "ws://example.org/a/", false),
            ("wss://example.org/a*", "wss://example.org/ab", true),
            ("wss://example.org/*", "wss://example.org/a/..%2fb", true),
            ("wss://example.org/*", "wss://example.org", true),
            ("wss://example.org/x", "wss://example.org/x?y", true),
            ("wss://example.org/x", "wss://example.org/x/y", false),
            ("wss://example.org/", "wss://example.org/x", false),
            ("WSS://Example.ORG:443/*", "wss://example.org/", true),
            ("ws://example.org:443/*", "wss://example.org/", false),
            ("wss://bücher.example/*", "wss://bücher.example/", true),
            ("wss://BÜCHER.example:8443/*", "wss://xn--bcher-kva.example:8443/", true),
            ("wss://xn--bcher-kva.example/*", "wss://bücher.example/", true),
            ("ws://10.0.0.1/*", "ws://0xa.1/", true),
            ("ws://[::ffff:7f00:1]:81/*", "ws://[::ffff:127.0.0.1]:81/", true),
        ] {
            let parsed = Pattern::parse(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(parsed.matches(&server_url(url).unwrap()), allowed, "{pattern} {url}");
        }
    }

    #[test]
    fn a_pattern_that_means_something_else_than_it_says_is_refused() {
        for (pattern, expected) in [
            ("", "is not a URL"),
            ("*", "is not a URL"),
            ("example.org", "is not a URL"),
            ("wss://*", "is not a URL (empty host)"),
            ("https://example.org/*", "must begin with ws:// or wss://; where"),
            ("wss://user@example.org/*", "must carry no user name"),
            ("wss://@example.org/*", "must have a host as it is understood"),
            ("wss://example.org/#*", "must have no fragment"),
            ("wss://example.org/?token=*", "must have no query"),
            ("wss://example.org/?", "must have no query"),
            ("wss://*.example.org/*", "must have no `*` but one at the end"),
            ("wss://example.org/*/x", "must have no `*` but one at the end"),
            ("wss://example.org/**", "must have no `*` but one at the end"),
            ("wss://example.org*", "must have a path behind the host"),
            ("wss://example.org:80*", "must have a path behind the host"),
            ("wss://example.org", "must have a path behind the host"),
            ("wss:example.org/*", "must have a path behind the host"),
            ("wss:///example.org/*", "must have a host as it is understood"),
            ("wss:\\\\example.org/*", "must have a path behind the host"),
            ("wss://example.org\\x/*", "must have a host as it is understood"),
            ("ws://0xa.1/*", "must have a host as it is understood"),
            ("ws://10.1/*", "must have a host as it is understood"),
            ("ws://10.0.0.1./*", "must have a host as it is understood"),
            ("ws://[::ffff:127.0.0.1]/*", "must have a host as it is understood"),
            ("ws://[0::2]/*", "must have a host as it is understood"),
            ("wss://ｅxample.org/*", "must have a host as it is understood"),
            ("wss://example%2eorg/*", "must have a host as it is understood"),
            ("wss://exa\tmple.org/*", "must have a host as it is understood"),
            ("wss://example.org:0443/*", "must have a host as it is understood"),
            ("wss://example.org:/*", "must have a host as it is understood"),
            ("wss://example.org:0/*", "has port 0"),
            ("wss://example.org/a/../*", "must have a path as it is sent"),
            ("wss://example.org/a b/*", "must have a path as it is sent"),
            ("wss://example.org/ä/*", "must have a path as it is sent"),
            ("wss://example.org/a\\b/*", "must have a path as it is sent"),
            ("wss://example.org/a%2fb/*", "can never match"),
            ("wss://example.org/..;/*", "can never match"),
            ("wss://example.org/* ", "must have no `*` but one at the end"),
        ] {
            let said = Pattern::parse(pattern).unwrap_err();
            assert!(said.starts_with(expected), "{pattern}: {said}");
        }
    }
}
