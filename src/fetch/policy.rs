//! Whom to fetch from. A push may name any URL, so this decides which addresses of the node's networks it
//! can reach: the literal in the URL in every spelling, each address a name resolves to (what is checked
//! is what is dialled), and each host an origin redirects to.
//!
//! The URL parser turns every spelling of an IPv4 address (`2130706433`, `0x7f.1`, `127.1`) into the
//! address. What is left are IPv4 addresses inside IPv6 ones, and names that mean this host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
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
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                let port = port
                    .parse()
                    .map_err(|_| format!("`{text}` has no usable port"))?;
                (host, Some(port))
            }
            _ => (text, None),
        };
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

/// Why a source is refused. Names hosts and addresses only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    what: String,
    why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    Scheme,
    Default(&'static str),
    Denied,
    NotAllowed,
    Local,
}

impl Denied {
    /// Refuses a `file` URL of a push that may only name the network.
    pub(super) fn local_file() -> Self {
        Self {
            what: "a file of this host".to_owned(),
            why: Why::Local,
        }
    }

    /// Removes the name of the refused host.
    pub(super) fn unnamed(self) -> Self {
        Self {
            what: "the host".to_owned(),
            ..self
        }
    }
}

impl fmt::Display for Denied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, why } = self;
        match why {
            Why::Scheme => write!(f, "scheme of {what} is neither http nor https"),
            Why::Default(range) => {
                write!(f, "{what} is {range}, denied unless `fetch.allow` names it")
            }
            Why::Denied => write!(f, "{what} is denied by `fetch.deny`"),
            Why::NotAllowed => write!(
                f,
                "{what} is not named by `fetch.allow`, and `fetch.only_allowed` is set"
            ),
            Why::Local => write!(f, "{what} is not fetched for a push from outside"),
        }
    }
}

impl std::error::Error for Denied {}

/// The host of a URL.
enum Target {
    Address(IpAddr),
    /// In lower case, without the final dot.
    Name(String),
}

fn host_of(url: &Url) -> Option<Target> {
    Some(match url.host()? {
        Host::Ipv4(address) => Target::Address(address.into()),
        Host::Ipv6(address) => Target::Address(IpAddr::from(address).to_canonical()),
        Host::Domain(name) => Target::Name(name.trim_end_matches('.').to_ascii_lowercase()),
    })
}

/// The rules of this node.
#[derive(Debug, Clone, Default)]
pub(super) struct Policy {
    pub(super) allow: Vec<Rule>,
    pub(super) deny: Vec<Rule>,
    pub(super) only_allowed: bool,
}

impl Policy {
    /// Checks scheme and host. `resolves` says whether this node will look up the name itself, so that the
    /// addresses are checked later; a proxy looks it up out of sight.
    pub(super) fn check_url(&self, url: &Url, resolves: bool) -> Result<(), Denied> {
        let denied = |why| Denied {
            what: format!("`{}`", url.host_str().unwrap_or("")),
            why,
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(denied(Why::Scheme));
        }
        match host_of(url) {
            None => Err(denied(Why::Scheme)),
            Some(Target::Address(address)) => self.check_address(None, address),
            Some(Target::Name(name)) => {
                if self.deny.iter().any(|r| r.names(&name)) {
                    return Err(denied(Why::Denied));
                }
                if self.allow.iter().any(|r| r.names(&name)) {
                    return Ok(());
                }
                if means_this_host(&name) && !self.allows_loopback() {
                    return Err(denied(Why::Default("this host")));
                }
                let addresses_may_do =
                    resolves && self.allow.iter().any(|r| matches!(r, Rule::Net(_)));
                if self.only_allowed && !addresses_may_do {
                    return Err(denied(Why::NotAllowed));
                }
                Ok(())
            }
        }
    }

    fn allows_loopback(&self) -> bool {
        [
            IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(Ipv6Addr::LOCALHOST),
        ]
        .into_iter()
        .any(|a| self.check_address(None, a).is_ok())
    }

    /// Checks an address: the one in the URL, or one that `name` resolved to.
    pub(super) fn check_address(&self, name: Option<&str>, address: IpAddr) -> Result<(), Denied> {
        let address = address.to_canonical();
        let denied = |why| Denied {
            what: match name {
                Some(name) => format!("`{name}`, which is {address},"),
                None => format!("`{address}`"),
            },
            why,
        };
        let forms = || [Some(address), embedded(address)].into_iter().flatten();
        if forms().any(|a| self.deny.iter().any(|r| r.holds(a))) {
            return Err(denied(Why::Denied));
        }
        if name.is_some_and(|n| self.allow.iter().any(|r| r.names(n))) {
            return Ok(());
        }
        let allowed = |a| self.allow.iter().any(|r| r.holds(a));
        for form in forms() {
            if let Some(range) = denied_by_default(form)
                && !allowed(form)
            {
                return Err(denied(Why::Default(range)));
            }
        }
        if self.only_allowed && !allowed(address) {
            return Err(denied(Why::NotAllowed));
        }
        Ok(())
    }
}

/// RFC 6761 makes `localhost` and everything below it loopback; the others are in Debian's /etc/hosts.
fn means_this_host(name: &str) -> bool {
    matches!(name, "localhost" | "ip6-localhost" | "ip6-loopback") || name.ends_with(".localhost")
}

/// Returns the IPv4 address inside an IPv6 address, which a translator on the way would dial.
fn embedded(address: IpAddr) -> Option<IpAddr> {
    let IpAddr::V6(v6) = address else { return None };
    let octets = v6.octets();
    let at = match v6.segments() {
        // NAT64, RFC 6052; and its local prefix, RFC 8215.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] => 12,
        // 6to4, RFC 3056.
        [0x2002, ..] => 2,
        // "IPv4-compatible", long deprecated.
        [0, 0, 0, 0, 0, 0, a, b] if (a, b) > (0, 1) => 12,
        _ => return None,
    };
    let v4: [u8; 4] = octets[at..at + 4].try_into().ok()?;
    Some(Ipv4Addr::from(v4).into())
}

/// Returns the range that makes an address part of this node's surroundings rather than an origin.
/// Private ranges are not included: origins of edge nodes are often private.
fn denied_by_default(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [127, ..] => Some("loopback"),
            [0, ..] => Some("unspecified"),
            [169, 254, ..] => Some("link-local"),
            // Shared by carriers and clouds; one has its metadata service at 100.100.100.200.
            [100, 64..=127, ..] => Some("shared address space"),
            [224..=239, ..] => Some("multicast"),
            [240..=255, ..] => Some("reserved"),
            _ => None,
        },
        IpAddr::V6(v6) => match v6.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
            [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
            [0xfe80..=0xfebf, ..] => Some("link-local"),
            [0xff00..=0xffff, ..] => Some("multicast"),
            // Metadata services inside the private range.
            [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254] => Some("a metadata service"),
            _ => None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Vec<Rule> {
        texts.iter().map(|t| Rule::parse(t).unwrap()).collect()
    }

    fn check(policy: &Policy, url: &str) -> Result<(), Denied> {
        policy.check_url(&Url::parse(url).unwrap(), true)
    }

    #[test]
    fn knows_dangerous_literals_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "①②⑦.0.0.1",
            "１２７．０．０．１",
            "127%2e0%2e0%2e1",
            "0",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "0xa9fea9fe",
            "2852039166",
            "100.100.100.200",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "[::]",
            "[::1]",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[::ffff:169.254.169.254]",
            "[::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
            "[fe80::1]",
            "[febf::1]",
            "[ff02::1]",
            "[fd00:ec2::254]",
            "localhost",
            "LOCALHOST.",
            "a.localhost",
            "ip6-localhost",
        ] {
            let url = format!("http://{host}/x?sign=SECRET");
            let denied = check(&Policy::default(), &url).expect_err(host);
            assert!(!denied.to_string().contains("SECRET"));
        }
        for host in [
            "cdn.example",
            "192.0.2.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "[2001:db8::1]",
            "[fd12::1]",
            "[64:ff9b::c000:201]",
            "localhost.example",
        ] {
            check(&Policy::default(), &format!("http://{host}/x")).expect(host);
        }
        assert!(check(&Policy::default(), "ftp://cdn.example/").is_err());
        assert!(check(&Policy::default(), "file:///etc/passwd").is_err());
    }

    #[test]
    fn allow_lifts_the_default_and_deny_wins() {
        let policy = Policy {
            allow: rules(&["127.0.0.0/8", "*.lan", "odd.example"]),
            deny: rules(&["127.0.0.66", "bad.lan", "10.9.0.0/16"]),
            only_allowed: false,
        };
        check(&policy, "http://127.0.0.1/").unwrap();
        check(&policy, "http://localhost/").unwrap();
        check(&policy, "http://[::ffff:127.0.0.1]/").unwrap();
        check(&policy, "http://x.lan/").unwrap();
        assert!(check(&policy, "http://127.0.0.66/").is_err());
        assert!(check(&policy, "http://[::ffff:127.0.0.66]/").is_err());
        assert!(check(&policy, "http://[64:ff9b::7f00:42]/").is_err());
        assert!(check(&policy, "http://bad.lan./").is_err());
        assert!(check(&policy, "http://[::1]/").is_err());
        let link_local: IpAddr = "169.254.1.1".parse().unwrap();
        policy
            .check_address(Some("odd.example"), link_local)
            .unwrap();
        policy
            .check_address(Some("cdn.example"), link_local)
            .unwrap_err();
        let denied: IpAddr = "10.9.1.1".parse().unwrap();
        policy
            .check_address(Some("odd.example"), denied)
            .unwrap_err();
    }

    #[test]
    fn only_allowed_means_only() {
        let policy = Policy {
            allow: rules(&["cdn.example", "10.0.0.0/8"]),
            deny: Vec::new(),
            only_allowed: true,
        };
        check(&policy, "http://cdn.example/").unwrap();
        check(&policy, "http://10.1.1.1/").unwrap();
        check(&policy, "http://192.0.2.1/").unwrap_err();
        // The address decides, and only where this node learns it.
        let other = Url::parse("http://other.example/").unwrap();
        policy.check_url(&other, true).unwrap();
        policy.check_url(&other, false).unwrap_err();
        let outside: IpAddr = "192.0.2.1".parse().unwrap();
        policy
            .check_address(Some("other.example"), outside)
            .unwrap_err();
        policy.check_address(Some("cdn.example"), outside).unwrap();
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
