//! How the configuration names hosts, networks, ports, and where a secret may be sent.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use url::{Host, Url};

/// A host, its subdomains, or a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Rule {
    Net(IpNet),
    /// One name in lower case.
    Host(String),
    /// Every name that ends with this text, which starts with a dot.
    Below(String),
}

impl Rule {
    /// Parses `10.0.0.0/8`, an address, `host.example`, or `*.example` (or `.example`) for all names
    /// below it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a host, address or network");
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(net) = bare.parse::<IpNet>() {
            return Ok(Self::Net(net.trunc()));
        }
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self::Net(address.to_canonical().into()));
        }
        let below = text.strip_prefix('*').unwrap_or(text).strip_prefix('.');
        match Host::parse(below.unwrap_or(text)) {
            Ok(Host::Domain(name)) if !name.contains('*') => {
                let name = name.trim_end_matches('.');
                Ok(match below {
                    Some(_) => Self::Below(format!(".{name}")),
                    None => Self::Host(name.to_owned()),
                })
            }
            Ok(Host::Ipv4(address)) if below.is_none() => {
                Ok(Self::Net(IpAddr::from(address).into()))
            }
            _ => Err(wrong()),
        }
    }

    /// Returns whether the rule names this host (lower case, without the final dot).
    pub(super) fn names(&self, host: &str) -> bool {
        match self {
            Self::Net(_) => false,
            Self::Host(name) => name == host,
            Self::Below(suffix) => host.ends_with(suffix.as_str()),
        }
    }

    /// Returns whether the rule contains this address.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        match self {
            Self::Net(net) => net.contains(&address),
            Self::Host(_) | Self::Below(_) => false,
        }
    }

    /// Returns whether the rule covers the host of a URL, by name or address.
    pub(super) fn is_for(&self, url: &Url) -> bool {
        match host_of(url) {
            Some(Target::Address(address)) => self.holds(address),
            Some(Target::Name(name)) => self.names(&name),
            None => false,
        }
    }
}

impl TryFrom<String> for Rule {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Rule> for String {
    fn from(rule: Rule) -> String {
        match rule {
            Rule::Net(net) if net.prefix_len() == net.max_prefix_len() => net.addr().to_string(),
            Rule::Net(net) => net.to_string(),
            Rule::Host(name) => name,
            Rule::Below(suffix) => format!("*{suffix}"),
        }
    }
}

/// A destination that is dialled without the proxy. As usual for NO_PROXY, a name includes its
/// subdomains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bypass {
    /// `None` for `*`.
    rule: Option<Rule>,
    port: Option<u16>,
}

impl Bypass {
    /// Parses `*`, a host, `.host`, `host:port`, an address or a network.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self {
                rule: None,
                port: None,
            });
        }
        let (host, port) = host_and_port(text)?;
        Ok(Self {
            rule: Some(Rule::parse(host)?),
            port,
        })
    }

    /// Returns whether a URL is dialled directly.
    pub(super) fn covers(&self, url: &Url) -> bool {
        if self.port.is_some() && self.port != url.port_or_known_default() {
            return false;
        }
        match (&self.rule, host_of(url)) {
            (None, _) => true,
            (Some(Rule::Host(name)), Some(Target::Name(host))) => {
                host == *name
                    || host
                        .strip_suffix(name.as_str())
                        .is_some_and(|h| h.ends_with('.'))
            }
            (Some(rule), _) => rule.is_for(url),
        }
    }
}

impl TryFrom<String> for Bypass {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Bypass> for String {
    fn from(bypass: Bypass) -> String {
        let host = bypass.rule.map_or_else(|| "*".to_owned(), String::from);
        match bypass.port {
            Some(port) if host.contains(':') => format!("[{host}]:{port}"),
            Some(port) => format!("{host}:{port}"),
            None => host,
        }
    }
}

/// Splits `host:port`; the port may be missing, and an IPv6 address with a port has brackets.
fn host_and_port(text: &str) -> Result<(&str, Option<u16>), String> {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => Ok((host, Some(port))),
            Err(_) => Err(format!("`{text}` has no usable port")),
        },
        _ => Ok((text, None)),
    }
}

/// Where a secret may be sent: hosts with scheme and port. Without them it is https on port 443, so
/// that a push cannot make the node send the secret in plain text or to another service of the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Place {
    rule: Rule,
    scheme: Scheme,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scheme {
    Http,
    Https,
}

impl Place {
    /// Parses `cdn.example`, `*.cdn.example:8443`, or `http://10.0.0.7:8080`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, usual, rest) = match text.strip_prefix("http://") {
            Some(rest) => (Scheme::Http, 80, rest),
            None => (
                Scheme::Https,
                443,
                text.strip_prefix("https://").unwrap_or(text),
            ),
        };
        let (host, port) = host_and_port(rest)?;
        Ok(Self {
            rule: Rule::parse(host)?,
            scheme,
            port: port.unwrap_or(usual),
        })
    }

    /// Returns whether a request for `url` goes there.
    pub(super) fn covers(&self, url: &Url) -> bool {
        url.scheme() == self.scheme.as_str()
            && url.port_or_known_default() == Some(self.port)
            && self.rule.is_for(url)
    }
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

impl TryFrom<String> for Place {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl From<Place> for String {
    fn from(place: Place) -> String {
        let (host, scheme) = (String::from(place.rule), place.scheme.as_str());
        match host.contains(':') {
            true => format!("{scheme}://[{host}]:{}", place.port),
            false => format!("{scheme}://{host}:{}", place.port),
        }
    }
}

/// A port, or a range of ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// The ports of web servers, and all that need no privilege: object stores and caches of a site
    /// listen on any of those. What is left out are the other services of a system, such as SSH, mail
    /// and directories.
    pub const USUAL: [Self; 3] = [
        Self::range(80, 80),
        Self::range(443, 443),
        Self::range(1024, u16::MAX),
    ];

    const fn range(first: u16, last: u16) -> Self {
        Self { first, last }
    }

    fn parse(text: &str) -> Option<Self> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (1..=last).contains(&first).then_some(Self { first, last })
    }

    pub(super) fn contain(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.first == self.last {
            true => serializer.serialize_u16(self.first),
            false => serializer.collect_str(&format_args!("{}-{}", self.first, self.last)),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Ports;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port such as 8443 or a range such as \"1024-65535\"")
            }
            fn visit_i64<E: serde::de::Error>(self, v: i64) -> Result<Ports, E> {
                self.visit_str(&v.to_string())
            }
            fn visit_u64<E: serde::de::Error>(self, v: u64) -> Result<Ports, E> {
                self.visit_str(&v.to_string())
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Ports, E> {
                let wrong = || E::invalid_value(serde::de::Unexpected::Str(text), &self);
                Ports::parse(text).ok_or_else(wrong)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// The host of a URL.
pub(super) enum Target {
    Address(IpAddr),
    /// In lower case, without the final dot.
    Name(String),
}

pub(super) fn host_of(url: &Url) -> Option<Target> {
    Some(match url.host()? {
        Host::Ipv4(address) => Target::Address(address.into()),
        Host::Ipv6(address) => Target::Address(IpAddr::from(address).to_canonical()),
        Host::Domain(name) => Target::Name(name.trim_end_matches('.').to_ascii_lowercase()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_goes_by_https_to_its_port_unless_the_rule_says_otherwise() {
        for (place, url, covered) in [
            ("cdn.example", "https://cdn.example/", true),
            ("cdn.example", "https://cdn.example:443/", true),
            ("cdn.example", "http://cdn.example/", false),
            ("cdn.example", "http://cdn.example:443/", false),
            ("cdn.example", "https://cdn.example:8443/", false),
            ("cdn.example", "https://a.cdn.example/", false),
            ("*.cdn.example:8443", "https://a.cdn.example:8443/", true),
            ("*.cdn.example:8443", "https://a.cdn.example/", false),
            ("http://cdn.example", "http://cdn.example/", true),
            ("http://cdn.example", "https://cdn.example/", false),
            ("http://10.0.0.0/8:8080", "http://10.1.2.3:8080/", true),
            ("http://10.0.0.0/8:8080", "http://10.1.2.3:8081/", false),
            ("https://[fd00::1]:444", "https://[fd00::1]:444/", true),
        ] {
            let parsed = Place::parse(place).unwrap();
            let found = parsed.covers(&Url::parse(url).unwrap());
            assert_eq!(found, covered, "{place} {url}");
            assert_eq!(Place::parse(&String::from(parsed.clone())), Ok(parsed));
        }
        assert!(Place::parse("ftp://cdn.example").is_err());
        assert!(Place::parse("cdn.example:99999").is_err());
    }

    #[test]
    fn ports_are_numbers_and_ranges() {
        #[derive(Deserialize, Serialize)]
        struct File {
            ports: Vec<Ports>,
        }
        let text = "ports = [80, \"1024-2000\"]\n";
        let file: File = toml::from_str(text).unwrap();
        let held = |port| file.ports.iter().any(|ports| ports.contain(port));
        assert!(held(80) && held(1024) && held(2000));
        assert!(!held(81) && !held(1023) && !held(2001));
        assert_eq!(toml::to_string(&file).unwrap(), text);
        for bad in ["0", "-1", "65536", "\"9-8\"", "\"x\"", "\"\""] {
            assert!(
                toml::from_str::<File>(&format!("ports = [{bad}]")).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn bypasses_the_proxy_as_usual() {
        for (bypass, url, covered) in [
            ("*", "http://a/", true),
            ("lan.example", "http://lan.example/", true),
            ("lan.example", "http://a.lan.example/", true),
            ("lan.example", "http://notlan.example/", false),
            (".lan.example", "http://a.lan.example/", true),
            (".lan.example", "http://lan.example/", false),
            ("10.0.0.0/8", "http://10.2.3.4:8080/", true),
            ("10.0.0.0/8", "http://11.2.3.4/", false),
            ("h:8080", "http://h:8080/", true),
            ("h:8080", "http://h/", false),
            ("[::1]:80", "http://[::1]/", true),
            ("::1", "http://[::1]:5/", true),
        ] {
            let parsed = Bypass::parse(bypass).unwrap();
            assert_eq!(
                parsed.covers(&Url::parse(url).unwrap()),
                covered,
                "{bypass} {url}"
            );
            assert_eq!(
                Bypass::parse(&String::from(parsed.clone())).unwrap(),
                parsed
            );
        }
    }
}
