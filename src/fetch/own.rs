//! The addresses of this host, as its kernel knows them now. A service that trusts its own host listens
//! on them as often as on loopback.
//!
//! They are read from `/proc/self/net`, which the sandbox of the unit leaves readable, while it denies
//! netlink sockets. They are read for each decision: addresses come and go.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Once;

use ipnet::{IpNet, Ipv4Net};

/// The table of routes is in the same file; a router's can be large.
const MOST: u64 = 16 << 20;

/// Returns whether packets to `address` stay on this host.
pub(super) fn is_of_this_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => of_trie(lines("/proc/self/net/fib_trie"), v4),
        IpAddr::V6(v6) => of_table(lines("/proc/self/net/if_inet6"), v6),
    }
}

fn lines(path: &str) -> Box<dyn Iterator<Item = String>> {
    static TOLD: Once = Once::new();
    match File::open(path) {
        Ok(file) => {
            let lines = BufReader::new(file.take(MOST)).lines();
            return Box::new(lines.map_while(Result::ok));
        }
        // A kernel without IPv6 has no addresses of it.
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.ends_with('6') => {}
        Err(error) => TOLD.call_once(|| {
            tracing::warn!(%error, path, "cannot read this host's addresses, so that pushes may name them; list them in `fetch.deny`");
        }),
    }
    Box::new(std::iter::empty())
}

/// Each leaf is a line with an address, followed by lines such as `/32 host LOCAL`.
fn of_trie(mut lines: impl Iterator<Item = String>, address: Ipv4Addr) -> bool {
    let mut leaf = None;
    lines.any(|line| {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("|-- ") {
            leaf = text.parse::<Ipv4Addr>().ok();
            return false;
        }
        let mut words = line.split(' ');
        let length = words.next().and_then(|word| word.strip_prefix('/'));
        let (Some(leaf), Some(length), true) = (leaf, length, words.any(|w| w == "LOCAL")) else {
            return false;
        };
        let net = length.parse().ok().and_then(|l| Ipv4Net::new(leaf, l).ok());
        net.is_some_and(|net| IpNet::V4(net).contains(&IpAddr::V4(address)))
    })
}

/// Each line begins with an address in 32 hexadecimal digits.
fn of_table(mut lines: impl Iterator<Item = String>, address: Ipv6Addr) -> bool {
    let wanted = format!("{:032x} ", address.to_bits());
    lines.any(|line| line.starts_with(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRIE: &str = "\
Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 10.1.2.0/24 2 0 2
        |-- 10.1.2.0
           /24 link UNICAST
        |-- 10.1.2.3
           /32 host LOCAL
        |-- 10.1.2.255
           /32 link BROADCAST
Local:
     |-- 203.0.113.0
        /24 host LOCAL
";

    #[test]
    fn reads_the_kernels_tables() {
        for (address, own) in [
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("10.1.2.0", false),
            ("10.1.2.255", false),
            ("8.8.8.8", false),
            // A whole network that is routed to this host.
            ("203.0.113.77", true),
        ] {
            let lines = TRIE.lines().map(str::to_owned);
            assert_eq!(of_trie(lines, address.parse().unwrap()), own, "{address}");
        }
        let table = "fd000000000000000000000000000002 04 40 00 82     eth0\n";
        for (address, own) in [("fd00::2", true), ("fd00::3", false)] {
            let lines = table.lines().map(str::to_owned);
            assert_eq!(of_table(lines, address.parse().unwrap()), own, "{address}");
        }
    }

    #[test]
    fn knows_the_addresses_of_the_host_it_runs_on() {
        // The kernel chooses an address of this host as the source of a packet; none is sent.
        for (bind, to) in [
            ("0.0.0.0:0", "203.0.113.1:9"),
            ("[::]:0", "[2001:db8::1]:9"),
        ] {
            let Ok(socket) = std::net::UdpSocket::bind(bind) else {
                continue;
            };
            if socket.connect(to).is_ok() {
                let own = socket.local_addr().unwrap().ip();
                assert!(is_of_this_host(own), "{own}");
            }
        }
        assert!(is_of_this_host(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert!(!is_of_this_host("203.0.113.1".parse().unwrap()));
    }
}
