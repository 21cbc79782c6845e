//! Addresses that are this host or its surroundings rather than an origin: the special-purpose
//! registries of IANA, and the metadata services of clouds. Whatever form hides an IPv4 address in an
//! IPv6 one is decoded, since a translator on the way would dial the address inside.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length))
}

const fn v6(s: [u16; 8], length: u8) -> IpNet {
    let address = Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]);
    IpNet::V6(Ipv6Net::new_assert(address, length))
}

const METADATA: &str = "a metadata service";

/// What is denied by default. Private networks (RFC 1918, fc00::/7) are missing on purpose: origins of
/// edge nodes are often there. So are the networks for documentation, which lead nowhere, and the
/// anycast networks of AS112, which anyone on the Internet may dial.
const SPECIAL: [(IpNet, &str); 26] = [
    // Metadata services first: some are inside a network below.
    (v4(168, 63, 129, 16, 32), METADATA),
    (v4(169, 254, 169, 254, 32), METADATA),
    (v4(100, 100, 100, 200, 32), METADATA),
    (v4(192, 0, 0, 192, 32), METADATA),
    (v6([0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128), METADATA),
    (
        v6([0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe], 128),
        METADATA,
    ),
    (v6([0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42], 128), METADATA),
    (v6([0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128), METADATA),
    (v4(0, 0, 0, 0, 8), "unspecified"),
    (v4(100, 64, 0, 0, 10), "shared address space"),
    (v4(127, 0, 0, 0, 8), "loopback"),
    (v4(169, 254, 0, 0, 16), "link-local"),
    (v4(192, 0, 0, 0, 24), "for protocol assignments"),
    (v4(192, 88, 99, 0, 24), "a relay of 6to4"),
    (v4(198, 18, 0, 0, 15), "for benchmarks"),
    (v4(224, 0, 0, 0, 4), "multicast"),
    (v4(240, 0, 0, 0, 4), "reserved"),
    (v6([0; 8], 128), "unspecified"),
    (v6([0, 0, 0, 0, 0, 0, 0, 1], 128), "loopback"),
    (v6([0x100, 0, 0, 0, 0, 0, 0, 0], 64), "discarded"),
    (v6([0x100, 0, 0, 1, 0, 0, 0, 0], 64), "discarded"),
    // With Teredo, ORCHID and benchmarks.
    (
        v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
        "for protocol assignments",
    ),
    (v6([0x5f00, 0, 0, 0, 0, 0, 0, 0], 16), "for segment routing"),
    (v6([0xfe80, 0, 0, 0, 0, 0, 0, 0], 10), "link-local"),
    (v6([0xfec0, 0, 0, 0, 0, 0, 0, 0], 10), "site-local"),
    (v6([0xff00, 0, 0, 0, 0, 0, 0, 0], 8), "multicast"),
];

/// Returns what an address is, if it is denied by default.
pub(super) fn what(address: IpAddr) -> Option<&'static str> {
    let row = SPECIAL.iter().find(|(net, _)| net.contains(&address));
    row.map(|(_, what)| *what)
}

/// Returns an address and each IPv4 address inside it.
pub(super) fn forms(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let inside = match address.to_canonical() {
        IpAddr::V6(v6) => embedded(v6),
        IpAddr::V4(_) => Vec::new(),
    };
    std::iter::once(address.to_canonical()).chain(inside.into_iter().map(IpAddr::V4))
}

fn embedded(v6: Ipv6Addr) -> Vec<Ipv4Addr> {
    let o = v6.octets();
    let at = |places: [usize; 4]| Ipv4Addr::from(places.map(|place| o[place]));
    let last = at([12, 13, 14, 15]);
    match v6.segments() {
        // NAT64, RFC 6052; SIIT, RFC 2765; and "IPv4-compatible", long deprecated.
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => vec![last],
        [0, 0, 0, 0, 0, 0, a, b] if (a, b) > (0, 1) => vec![last],
        // The local prefix of translators, RFC 8215, with each prefix length that RFC 6052 allows in
        // it. Read with another length than its own, an address begins with zeros: that is nowhere.
        [0x64, 0xff9b, 1, ..] => [
            [6, 7, 9, 10],
            [7, 9, 10, 11],
            [9, 10, 11, 12],
            [12, 13, 14, 15],
        ]
        .map(at)
        .into_iter()
        .filter(|inside| inside.octets()[0] != 0)
        .collect(),
        // 6to4, RFC 3056.
        [0x2002, ..] => vec![at([2, 3, 4, 5])],
        // Teredo, RFC 4380: the server, and the client with its bits turned over.
        [0x2001, 0, ..] => vec![at([4, 5, 6, 7]), Ipv4Addr::from_bits(!last.to_bits())],
        // ISATAP, RFC 5214, below any prefix.
        [_, _, _, _, 0 | 0x200, 0x5efe, ..] => vec![last],
        _ => Vec::new(),
    }
}
