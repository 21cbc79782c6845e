//! Whom to fetch from. A push may name any URL, so this decides which addresses of the node's networks it
//! can reach: the literal in the URL in every spelling, each address a name resolves to (what is checked
//! is what is dialled), and each host an origin redirects to.
//!
//! The URL parser turns every spelling of an IPv4 address (`2130706433`, `0x7f.1`, `127.1`) into the
//! address. What is left are IPv4 addresses inside IPv6 ones, and names that mean this host.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use url::Url;

use super::rules::{Ports, Rule, Target, host_of};
use super::{own, special};

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
    Port(u16),
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
            Why::Port(port) => write!(f, "port {port} of {what} is not in `fetch.ports`"),
            Why::Local => write!(f, "{what} is not fetched for a push from outside"),
        }
    }
}

impl std::error::Error for Denied {}

/// The rules of this node.
#[derive(Debug, Clone)]
pub(super) struct Policy {
    pub(super) ports: Vec<Ports>,
    pub(super) allow: Vec<Rule>,
    pub(super) deny: Vec<Rule>,
    pub(super) only_allowed: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            ports: Ports::USUAL.to_vec(),
            allow: Vec::new(),
            deny: Vec::new(),
            only_allowed: false,
        }
    }
}

impl Policy {
    /// Checks scheme, port and host. `resolves` says whether this node will look up the name itself, so that the
    /// addresses are checked later; a proxy looks it up out of sight.
    pub(super) fn check_url(&self, url: &Url, resolves: bool) -> Result<(), Denied> {
        let denied = |why| Denied {
            what: format!("`{}`", url.host_str().unwrap_or("")),
            why,
        };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(denied(Why::Scheme));
        }
        let port = url.port_or_known_default().unwrap_or(0);
        if !self.ports.iter().any(|ports| ports.contain(port)) {
            return Err(denied(Why::Port(port)));
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
        let forms = || special::forms(address);
        if forms().any(|a| self.deny.iter().any(|r| r.holds(a))) {
            return Err(denied(Why::Denied));
        }
        if name.is_some_and(|n| self.allow.iter().any(|r| r.names(n))) {
            return Ok(());
        }
        let allowed = |a| self.allow.iter().any(|r| r.holds(a));
        for form in forms() {
            if !allowed(form)
                && let Some(range) = denied_by_default(form)
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

fn denied_by_default(address: IpAddr) -> Option<&'static str> {
    let own = || own::is_of_this_host(address).then_some("an address of this host");
    special::what(address).or_else(own)
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
            "[fd20:ce::254]",
            "[fd00:c1::a9fe:a9fe]",
            "[fd00:42::42]",
            "168.63.129.16",
            "192.0.0.192",
            "192.0.0.8",
            "198.18.0.1",
            "198.19.255.255",
            "192.88.99.1",
            "[fec0::1]",
            "[100::1]",
            "[2001:2::1]",
            "[5f00::1]",
            // IPv4 inside IPv6: SIIT, Teredo, ISATAP, and the local prefix of translators with each
            // prefix length.
            "[::ffff:0:169.254.169.254]",
            "[::ffff:0:127.0.0.1]",
            "[2001:0:7f00:1::]",
            "[2001:db8::5efe:7f00:1]",
            "[2001:db8::200:5efe:7f00:1]",
            "[64:ff9b:1:7f00:0:100::]",
            "[64:ff9b:1:a9fe:a9:fe00::]",
            "[64:ff9b:1:7f:0:1::]",
            "[64:ff9b:1:5:7f:0:100:0]",
            "[64:ff9b:1::a9fe:a9fe]",
            "[2002:a83f:8110::1]",
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
            "203.0.113.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.63.0.1",
            "100.128.0.1",
            "[2001:db8::1]",
            "[fd12::1]",
            "[64:ff9b::cb00:7101]",
            "[64:ff9b:1::cb00:7101]",
            "[64:ff9b:1:cb00:71:100::]",
            "[::ffff:0:203.0.113.1]",
            "[2002:cb00:7101::1]",
            "localhost.example",
        ] {
            check(&Policy::default(), &format!("http://{host}/x")).expect(host);
        }
        assert!(check(&Policy::default(), "ftp://cdn.example/").is_err());
        assert!(check(&Policy::default(), "file:///etc/passwd").is_err());
    }

    #[test]
    fn only_the_ports_of_origins_are_fetched_from() {
        for (port, fine) in [
            (80, true),
            (443, true),
            (8080, true),
            (8443, true),
            (1024, true),
            (65535, true),
            (22, false),
            (25, false),
            (389, false),
            (1023, false),
            (0, false),
        ] {
            let found = check(&Policy::default(), &format!("http://cdn.example:{port}/"));
            assert_eq!(found.is_ok(), fine, "{port}");
            if let Err(denied) = found {
                assert!(denied.to_string().contains("fetch.ports"), "{denied}");
            }
        }
        let policy = Policy {
            ports: Vec::new(),
            ..Policy::default()
        };
        check(&policy, "https://cdn.example/").unwrap_err();
    }

    #[test]
    fn the_addresses_of_this_host_are_denied_unless_allowed() {
        // The kernel chooses an address of this host as the source of a packet; none is sent.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("203.0.113.1:9").is_err() {
            return;
        }
        let own = socket.local_addr().unwrap().ip();
        let url = format!("http://{own}/");
        let denied = check(&Policy::default(), &url).unwrap_err();
        assert!(denied.to_string().contains("fetch.allow"), "{denied}");
        Policy::default()
            .check_address(Some("a.example"), own)
            .unwrap_err();
        let policy = Policy {
            allow: rules(&[&own.to_string()]),
            ..Policy::default()
        };
        check(&policy, &url).unwrap();
    }

    #[test]
    fn allow_lifts_the_default_and_deny_wins() {
        let policy = Policy {
            allow: rules(&["127.0.0.0/8", "*.lan", "odd.example"]),
            deny: rules(&["127.0.0.66", "bad.lan", "10.9.0.0/16"]),
            ..Policy::default()
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
            only_allowed: true,
            ..Policy::default()
        };
        check(&policy, "http://cdn.example/").unwrap();
        check(&policy, "http://10.1.1.1/").unwrap();
        check(&policy, "http://203.0.113.1/").unwrap_err();
        // The address decides, and only where this node learns it.
        let other = Url::parse("http://other.example/").unwrap();
        policy.check_url(&other, true).unwrap();
        policy.check_url(&other, false).unwrap_err();
        let outside: IpAddr = "203.0.113.1".parse().unwrap();
        policy
            .check_address(Some("other.example"), outside)
            .unwrap_err();
        policy.check_address(Some("cdn.example"), outside).unwrap();
    }
}
