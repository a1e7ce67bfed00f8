//! Which proxy leads to a server.
//!
//! Owns: what a proxy's URL says, and the rules of whoever may name one: the configuration file, the variables of the
//! environment, the system's own settings, each with its exceptions. Pure: whoever asks brings what they say. Does not speak
//! to a proxy (`server::proxy`). No error repeats what was found: a password may stand in it.

use std::fmt;
use std::net::IpAddr;

use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::Env;
use super::servers::{is_loopback, is_name};
use crate::os::ProxySettings;
use crate::wire::Secret;

/// What the configuration says about the proxy of a session.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum ProxyRule {
    /// The one that the environment names, else the system: what other programs of this user do.
    #[default]
    System,
    /// There is none.
    None,
    /// This one, for every server that is not on this machine.
    Through(Proxy),
}

/// A proxy.
#[derive(Debug, Clone, PartialEq)]
pub struct Proxy {
    /// What it speaks.
    pub protocol: ProxyProtocol,
    /// Where it is.
    pub host: Host,
    /// Its port.
    pub port: u16,
    /// Who we are to it: a user name and a password.
    pub credentials: Option<(Secret, Secret)>,
}

/// What a proxy speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// HTTP, of which only CONNECT is used.
    Http,
    /// SOCKS, version 5.
    Socks5,
}

/// A proxy, and who named it.
#[derive(Debug, Clone, PartialEq)]
pub struct ChosenProxy {
    /// The proxy.
    pub proxy: Proxy,
    /// For people.
    pub named_by: String,
}

/// What follows from the configuration and the environment.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// No proxy.
    Direct,
    /// This one.
    Through(ChosenProxy),
    /// Whatever the system itself says, see [`of_system`].
    AskSystem,
}

/// The variables of the environment that are about proxies.
#[derive(Debug, Clone, Default)]
pub struct ProxyVariables {
    http: Option<(&'static str, Secret)>,
    https: Option<(&'static str, Secret)>,
    all: Option<(&'static str, Secret)>,
    except: Option<String>,
}

/// The longest URL of a proxy, in bytes, and the longest name or password in it: more does not fit into SOCKS.
const MAX_URL: usize = 2048;
const MAX_CREDENTIAL: usize = 255;

impl ProxyRule {
    /// Reads the setting.
    ///
    /// # Errors
    /// What is wrong with it, to follow its name.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self::None),
            "system" => Ok(Self::System),
            text => Proxy::parse(text).map(Self::Through).map_err(|what| {
                format!("{what}; or it is \"none\", or \"system\" for what the environment or the system names")
            }),
        }
    }

    /// What follows for a server.
    ///
    /// # Errors
    /// A sentence, if a variable names what cannot be used: to go around a proxy silently would be worse.
    pub fn choose(&self, url: &Url, variables: &ProxyVariables) -> Result<Choice, String> {
        match self {
            _ if is_loopback(url) => Ok(Choice::Direct),
            Self::None => Ok(Choice::Direct),
            Self::Through(proxy) => {
                let named_by = "`proxy` in config.toml".to_owned();
                Ok(Choice::Through(ChosenProxy { proxy: proxy.clone(), named_by }))
            }
            Self::System => variables.choose(url),
        }
    }
}

impl ProxyVariables {
    /// The variables in their usual spellings; lower case counts more, as for curl.
    #[must_use]
    pub fn of(env: &Env) -> Self {
        let first = |names: [&'static str; 2]| {
            names.into_iter().find_map(|name| Some((name, Secret::from(env.get(name)?.to_string_lossy().into_owned()))))
        };
        Self {
            http: first(["http_proxy", "HTTP_PROXY"]),
            https: first(["https_proxy", "HTTPS_PROXY"]),
            all: first(["all_proxy", "ALL_PROXY"]),
            except: first(["no_proxy", "NO_PROXY"]).map(|(_, list)| list.reveal().to_owned()),
        }
    }

    fn choose(&self, url: &Url) -> Result<Choice, String> {
        let exceptions = self.except.as_deref().unwrap_or_default();
        if exceptions.split([',', ' ', '\t']).any(|entry| is_excepted(entry, url)) {
            return Ok(Choice::Direct);
        }
        let own = if url.scheme() == "wss" { &self.https } else { &self.http };
        let Some((name, value)) = own.as_ref().or(self.all.as_ref()) else { return Ok(Choice::AskSystem) };
        let proxy = Proxy::parse(value.reveal()).map_err(|what| {
            format!(
                "the environment variable {name} {what}; correct it, or set `proxy` in config.toml, which counts more"
            )
        })?;
        Ok(Choice::Through(ChosenProxy { proxy, named_by: format!("{name} of the environment") }))
    }
}

impl Proxy {
    /// Reads `http://user:password@host:port` or `socks5://…`; without a scheme it is HTTP, without a port 80 or 1080.
    ///
    /// # Errors
    /// What is wrong with it, to follow whatever said it. Nothing of it is repeated.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text.len() > MAX_URL {
            return Err(format!("must have at most {MAX_URL} bytes, not {}", text.len()));
        }
        let text = text.trim();
        let (scheme, rest) = text.split_once("://").unwrap_or(("http", text));
        let protocol = match &*scheme.to_ascii_lowercase() {
            "http" => ProxyProtocol::Http,
            // What GNOME writes.
            "socks5" | "socks5h" | "socks" => ProxyProtocol::Socks5,
            "https" => {
                let why =
                    "the way to a proxy is not encrypted once more; what goes through it is, with a wss:// server";
                return Err(format!("must begin with http:// or socks5://, not https:// ({why})"));
            }
            _ => return Err("must begin with http:// or socks5://".to_owned()),
        };
        // As another scheme, because this one's hosts are understood; as two, because each leaves out its own port.
        let read = |scheme: &str| {
            Url::parse(&format!("{scheme}://{rest}"))
                .map_err(|error| format!("is not the URL of a proxy ({error}); it must look like http://host:port"))
        };
        let (url, other) = (read("http")?, read("https")?);
        let host = match url.host() {
            Some(Host::Domain(name)) if !is_name(name) => {
                return Err("has a host with a character that no name has".to_owned());
            }
            Some(host) => host.to_owned(),
            None => return Err("has no host; it must look like http://host:port".to_owned()),
        };
        let port = url.port().or_else(|| other.port()).unwrap_or(match protocol {
            ProxyProtocol::Http => 80,
            ProxyProtocol::Socks5 => 1080,
        });
        if port == 0 {
            return Err("has port 0, where nobody can listen".to_owned());
        }
        let decoded = |text: &str| {
            let text = percent_decode_str(text).decode_utf8().map_err(|_| "has credentials that are not UTF-8")?;
            if text.len() > MAX_CREDENTIAL || text.contains(char::is_control) {
                return Err("has a user name or password that is too long (over 255 bytes) or has control characters");
            }
            Ok(Secret::from(text.into_owned()))
        };
        let credentials = match (url.username(), url.password()) {
            ("", None) => None,
            ("", Some(_)) => return Err("has a password, but no user name".to_owned()),
            (user, password) => Some((decoded(user)?, decoded(password.unwrap_or_default())?)),
        };
        Ok(Self { protocol, host, port, credentials })
    }
}

/// What the system's own settings say for a server.
///
/// # Errors
/// A sentence, if they name what cannot be used.
pub fn of_system(settings: &ProxySettings, url: &Url) -> Result<Option<ChosenProxy>, String> {
    let system = match settings {
        ProxySettings::Scutil(text) => System::of_scutil(text),
        ProxySettings::Internet { server, except } => System::of_internet_settings(server, except),
    };
    if is_loopback(url) || system.except.iter().any(|entry| is_excepted(entry, url)) {
        return Ok(None);
    }
    let own = if url.scheme() == "wss" { system.https } else { system.http };
    let socks = || system.socks.map(|address| format!("socks5://{address}"));
    let Some(address) = own.or_else(socks) else { return Ok(None) };
    let proxy = Proxy::parse(&address).map_err(|what| {
        format!(
            "the proxy of the system's settings {what}; correct it, or set `proxy` in config.toml, which counts more"
        )
    })?;
    Ok(Some(ChosenProxy { proxy, named_by: "the system's settings".to_owned() }))
}

/// What a system's settings say, whichever system it is.
#[derive(Debug, Default, PartialEq)]
struct System {
    http: Option<String>,
    https: Option<String>,
    socks: Option<String>,
    except: Vec<String>,
}

impl System {
    /// macOS: what `scutil --proxy` prints. Of what is nested only the exceptions count.
    fn of_scutil(text: &str) -> Self {
        let mut pairs = Vec::new();
        let mut except = Vec::new();
        let mut nesting: Vec<&str> = Vec::new();
        for line in text.lines() {
            let (key, value) = line.split_once(" : ").unwrap_or(("", line));
            let (key, value) = (key.trim(), value.trim());
            match nesting[..] {
                _ if value.ends_with('{') => nesting.push(key),
                _ if value == "}" => drop(nesting.pop()),
                [_] => pairs.push((key, value)),
                [_, "ExceptionsList"] => except.push(value.to_owned()),
                _ => {}
            }
        }
        let get = |name: String| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| *value);
        let address = |kind: &str| {
            let is_on = get(format!("{kind}Enable")) == Some("1");
            let host = get(format!("{kind}Proxy")).filter(|host| is_on && !host.is_empty())?;
            Some(get(format!("{kind}Port")).map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
        };
        if get("ExcludeSimpleHostnames".to_owned()) == Some("1") {
            except.push("<local>".to_owned());
        }
        Self { http: address("HTTP"), https: address("HTTPS"), socks: address("SOCKS"), except }
    }

    /// Windows: one address for all, or one for each protocol (`http=host:port;https=…`); exceptions between semicolons.
    fn of_internet_settings(server: &str, except: &str) -> Self {
        let mut system = Self::default();
        for entry in server.split([';', ' ']).filter(|entry| !entry.is_empty()) {
            match entry.split_once('=') {
                None => (system.http, system.https) = (Some(entry.to_owned()), Some(entry.to_owned())),
                Some(("http", address)) => system.http = Some(address.to_owned()),
                Some(("https", address)) => system.https = Some(address.to_owned()),
                Some(("socks", address)) => system.socks = Some(address.to_owned()),
                Some(_) => {}
            }
        }
        system.except = except.split(';').map(|entry| entry.trim().to_owned()).collect();
        system
    }
}

/// Whether an entry of a list of exceptions is about a server: `*`, a name (and all below it), a name with stars, an address, a
/// network (`10.0.0.0/8`), any of them with a port, or `<local>` for names without a dot.
fn is_excepted(entry: &str, url: &Url) -> bool {
    let entry = entry.trim();
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).trim_end_matches('.');
    let address: Option<IpAddr> = host.parse().ok();
    if entry == "<local>" {
        return address.is_none() && !host.contains('.');
    }
    if let Some((network, bits)) = entry.split_once('/') {
        return address.is_some_and(|address| is_in_network(address, network, bits));
    }
    // Several colons are those of an address.
    let (name, port) = match entry.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => (name, Some(port)),
        _ => (entry, None),
    };
    if port.is_some_and(|port| port.parse() != Ok(url.port_or_known_default().unwrap_or_default())) {
        return false;
    }
    let name = name.trim_matches(['[', ']']).trim_end_matches('.').to_ascii_lowercase();
    if name.is_empty() {
        return false;
    }
    if name.contains('*') {
        return matches_stars(&name, host);
    }
    if let Some(address) = address {
        return name.parse() == Ok(address);
    }
    let name = name.trim_start_matches('.');
    host == name || host.strip_suffix(name).is_some_and(|before| before.ends_with('.'))
}

/// Whether an address begins with as many bits as a network; macOS leaves out the zeros at the end of one.
fn is_in_network(address: IpAddr, network: &str, bits: &str) -> bool {
    let dots = network.bytes().filter(|byte| *byte == b'.').count();
    let zeros = if network.contains(':') { 0 } else { 3_usize.saturating_sub(dots) };
    let network = format!("{network}{}", ".0".repeat(zeros)).parse();
    let (Ok(network), Ok(bits)) = (network, bits.parse::<u32>()) else { return false };
    match (address, network) {
        (IpAddr::V4(address), IpAddr::V4(network)) if bits <= 32 => {
            (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
        }
        (IpAddr::V6(address), IpAddr::V6(network)) if bits <= 128 => {
            (address.to_bits() ^ network.to_bits()).leading_zeros() >= bits
        }
        _ => false,
    }
}

/// Whether a text is a pattern in which each `*` stands for anything.
fn matches_stars(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        let Some((_, behind)) = text.split_once(part) else { return false };
        text = behind;
    }
    text.ends_with(end)
}

impl fmt::Display for Proxy {
    /// Without its credentials.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.protocol {
            ProxyProtocol::Http => "http",
            ProxyProtocol::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Display for ChosenProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (named by {})", self.proxy, self.named_by)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(variables: &[(&str, &str)], url: &str) -> String {
        let variables = ProxyVariables::of(&variables.iter().copied().collect());
        match ProxyRule::System.choose(&url.parse().unwrap(), &variables) {
            Ok(Choice::Through(chosen)) => chosen.to_string(),
            Ok(other) => format!("{other:?}"),
            Err(why) => why,
        }
    }

    #[test]
    fn each_scheme_has_a_variable_of_its_own_and_all_proxy_stands_behind_them() {
        let one = ("https_proxy", "http://one:1");
        let two = ("HTTP_PROXY", "http://two:2");
        let all = ("ALL_PROXY", "socks5://three:3");
        assert_eq!(
            chosen(&[one, two, all], "wss://a.example/"),
            "http://one:1 (named by https_proxy of the environment)"
        );
        assert_eq!(
            chosen(&[one, two, all], "ws://a.example/"),
            "http://two:2 (named by HTTP_PROXY of the environment)"
        );
        assert_eq!(chosen(&[two, all], "wss://a.example/"), "socks5://three:3 (named by ALL_PROXY of the environment)");
        assert_eq!(chosen(&[two], "wss://a.example/"), "AskSystem");
        assert_eq!(chosen(&[], "ws://a.example/"), "AskSystem");
        let both = [("https_proxy", "http://lower:1"), ("HTTPS_PROXY", "http://upper:2")];
        assert!(chosen(&both, "wss://a.example/").starts_with("http://lower:1"));
        // An empty variable is none.
        assert_eq!(chosen(&[("https_proxy", ""), ("HTTPS_PROXY", "")], "wss://a.example/"), "AskSystem");
    }

    #[test]
    fn a_server_on_this_machine_is_reached_without_a_proxy_whoever_names_one() {
        let through = ProxyRule::parse("http://proxy:1").unwrap();
        let variables = ProxyVariables::of(&[("all_proxy", "http://proxy:1")].into_iter().collect());
        let settings = ProxySettings::Internet { server: "proxy:1".to_owned(), except: String::new() };
        for url in ["ws://localhost/", "wss://127.8.9.10/", "ws://[::1]:8080/", "ws://0x7f.1/"] {
            let url = url.parse().unwrap();
            for rule in [&through, &ProxyRule::System] {
                assert_eq!(rule.choose(&url, &variables), Ok(Choice::Direct), "{url}");
            }
            assert_eq!(of_system(&settings, &url), Ok(None));
        }
        assert!(matches!(through.choose(&"ws://localhost./".parse().unwrap(), &variables), Ok(Choice::Through(_))));
    }

    #[test]
    fn the_file_counts_more_than_the_environment() {
        let variables = ProxyVariables::of(&[("ALL_PROXY", "http://env:1"), ("NO_PROXY", "*")].into_iter().collect());
        let url = "wss://a.example/".parse().unwrap();
        assert_eq!(ProxyRule::None.choose(&url, &ProxyVariables::default()), Ok(Choice::Direct));
        match ProxyRule::parse("socks5h://file").unwrap().choose(&url, &variables) {
            Ok(Choice::Through(chosen)) => {
                assert_eq!(chosen.to_string(), "socks5://file:1080 (named by `proxy` in config.toml)");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(ProxyRule::parse("system"), Ok(ProxyRule::System));
    }

    #[test]
    fn exceptions_are_names_with_all_below_them_addresses_networks_and_ports() {
        for (list, url, excepted) in [
            ("*", "wss://a.example/", true),
            ("", "wss://a.example/", false),
            (", ,", "wss://a.example/", false),
            ("a.example", "wss://a.example/", true),
            ("A.Example.", "wss://a.example./", true),
            ("example", "wss://a.example/", true),
            (".example", "wss://a.example/", true),
            (".a.example", "wss://a.example/", true),
            ("*.example", "wss://a.example/", true),
            ("*.example", "wss://example/", false),
            ("xample", "wss://a.example/", false),
            ("b.example", "wss://a.example/", false),
            ("one.org,a.example", "wss://a.example/", true),
            ("one.org a.example", "wss://a.example/", true),
            ("a.example:443", "wss://a.example/", true),
            ("a.example:8443", "wss://a.example/", false),
            ("10.1.2.3", "ws://10.1.2.3/", true),
            ("10.1.2.3", "ws://10.1.2.30/", false),
            ("2.3", "ws://10.1.2.3/", false),
            ("10.0.0.0/8", "ws://10.1.2.3/", true),
            ("10.0.0.0/8", "ws://11.1.2.3/", false),
            ("10.0.0.0/8", "ws://ten.example/", false),
            ("0.0.0.0/0", "ws://11.1.2.3/", true),
            ("10.0.0.0/33", "ws://10.0.0.0/", false),
            ("169.254/16", "ws://169.254.7.7/", true),
            ("fd00::/8", "ws://[fd12::1]/", true),
            ("fd12::1", "ws://[fd12::1]/", true),
            ("[fd12::1]", "ws://[fd12::1]/", true),
            ("[fd12::1]:80", "ws://[fd12::1]/", true),
            ("[fd12::1]:81", "ws://[fd12::1]/", false),
            ("192.168.*", "ws://192.168.7.1/", true),
            ("192.168.*.1", "ws://192.168.7.1/", true),
            ("192.168.*.2", "ws://192.168.7.1/", false),
            ("<local>", "ws://intranet/", true),
            ("<local>", "ws://a.example/", false),
        ] {
            let said = chosen(&[("no_proxy", list), ("all_proxy", "http://proxy:1")], url);
            assert_eq!(said == "Direct", excepted, "{list} {url}: {said}");
        }
    }

    #[test]
    fn a_proxy_is_written_as_a_url_with_or_without_scheme_port_and_credentials() {
        for (text, expected) in [
            ("http://proxy.example:3128", "http://proxy.example:3128"),
            ("http://proxy.example:3128/", "http://proxy.example:3128"),
            ("proxy.example:3128", "http://proxy.example:3128"),
            ("proxy.example", "http://proxy.example:80"),
            ("HTTP://Proxy.Example", "http://proxy.example:80"),
            ("http://10.0.0.1:80", "http://10.0.0.1:80"),
            ("socks5://proxy.example", "socks5://proxy.example:1080"),
            ("socks5h://proxy.example:80", "socks5://proxy.example:80"),
            ("socks://proxy.example:443/", "socks5://proxy.example:443"),
            ("socks5://[fd00::1]:9", "socks5://[fd00::1]:9"),
            ("http://user:hunter2@proxy.example:3128", "http://proxy.example:3128"),
        ] {
            assert_eq!(Proxy::parse(text).unwrap().to_string(), expected, "{text}");
        }
        let (user, password) = Proxy::parse("http://a%40b:p%3Aw@d@proxy").unwrap().credentials.unwrap();
        assert_eq!((user.reveal(), password.reveal()), ("a@b", "p:w@d"));
        let (user, password) = Proxy::parse("socks5://only@proxy").unwrap().credentials.unwrap();
        assert_eq!((user.reveal(), password.reveal()), ("only", ""));
    }

    #[test]
    fn what_is_no_proxy_is_refused_without_a_word_of_it() {
        let long = format!("http://hunter2:{}@proxy", "hunter2".repeat(40));
        for (text, expected) in [
            ("", "is not the URL of a proxy (empty host)"),
            ("https://hunter2@proxy", "must begin with http:// or socks5://, not https://"),
            ("socks4://hunter2@proxy", "must begin with http:// or socks5://"),
            ("ftp://hunter2@proxy", "must begin with http:// or socks5://"),
            ("http://", "is not the URL of a proxy"),
            ("http://hunter2@proxy:x", "is not the URL of a proxy (invalid port number)"),
            ("http://hunter2@proxy:0", "has port 0"),
            ("http://:hunter2@proxy", "has a password, but no user name"),
            ("http://hunter2@a,b", "has a host with a character"),
            ("http://hunter2%00@proxy", "has a user name or password that is too long (over 255 bytes) or has"),
            ("http://hunter2%ff@proxy", "has credentials that are not UTF-8"),
            (&long, "has a user name or password that is too long"),
        ] {
            let said = ProxyRule::parse(text).unwrap_err();
            assert!(said.starts_with(expected) && said.contains("\"none\""), "{text}: {said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
        let said = chosen(&[("HTTPS_PROXY", "https://hunter2@proxy")], "wss://a.example/");
        assert!(said.starts_with("the environment variable HTTPS_PROXY must begin with") && !said.contains("hunter2"));
    }

    #[test]
    fn nothing_shows_the_credentials_of_a_proxy() {
        let variables = ProxyVariables::of(&[("ALL_PROXY", "http://root:hunter2@proxy:1")].into_iter().collect());
        let chosen = ProxyRule::System.choose(&"ws://a.example/".parse().unwrap(), &variables).unwrap();
        let shown = format!("{variables:?} {chosen:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("root"), "{shown}");
    }

    #[test]
    fn the_settings_of_windows_name_one_proxy_for_all_or_one_for_each_protocol() {
        let chosen = |server: &str, except: &str, url: &str| {
            let settings = ProxySettings::Internet { server: server.to_owned(), except: except.to_owned() };
            of_system(&settings, &url.parse().unwrap()).unwrap().map(|chosen| chosen.proxy.to_string())
        };
        let proxy = |text: &str| Some(text.to_owned());
        assert_eq!(chosen("proxy:3128", "", "wss://a.example/"), proxy("http://proxy:3128"));
        let several = "http=one:1;https=two:2;ftp=three:3;socks=four:4";
        assert_eq!(chosen(several, "", "ws://a.example/"), proxy("http://one:1"));
        assert_eq!(chosen(several, "", "wss://a.example/"), proxy("http://two:2"));
        assert_eq!(chosen("socks=four:4", "", "wss://a.example/"), proxy("socks5://four:4"));
        assert_eq!(chosen("http=one:1", "", "wss://a.example/"), None);
        assert_eq!(chosen("proxy:1", "*.example;<local>", "wss://a.example/"), None);
        assert_eq!(chosen("proxy:1", "*.example;<local>", "wss://intranet/"), None);
        assert_eq!(chosen("", "", "wss://a.example/"), None);
    }

    #[test]
    fn the_settings_of_macos_are_read_as_its_own_tool_prints_them() {
        let text = "<dictionary> {\n  ExceptionsList : <array> {\n    0 : *.local\n    1 : 169.254/16\n  }\n  \
                    ExcludeSimpleHostnames : 1\n  HTTPEnable : 0\n  HTTPPort : 1\n  HTTPProxy : off.example\n  \
                    HTTPSEnable : 1\n  HTTPSPort : 3128\n  HTTPSProxy : proxy.example\n  SOCKSEnable : 1\n  \
                    SOCKSPort : 1080\n  SOCKSProxy : socks.example\n  __SCOPED__ : <dictionary> {\n    en0 : \
                    <dictionary> {\n      HTTPEnable : 1\n    }\n  }\n}\n";
        let chosen = |url: &str| {
            let found = of_system(&ProxySettings::Scutil(text.to_owned()), &url.parse().unwrap()).unwrap();
            found.map(|chosen| chosen.proxy.to_string())
        };
        assert_eq!(chosen("wss://a.example/").as_deref(), Some("http://proxy.example:3128"));
        assert_eq!(chosen("ws://a.example/").as_deref(), Some("socks5://socks.example:1080"));
        for url in ["wss://printer.local/", "wss://169.254.1.1/", "wss://intranet/"] {
            assert_eq!(chosen(url), None, "{url}");
        }
        assert_eq!(of_system(&ProxySettings::Scutil(String::new()), &"wss://a.example/".parse().unwrap()), Ok(None));
    }
}
