//! Where a request comes from, as far as its headers show: through a proxy, from another web site, or to a
//! name that may lead anywhere (DNS rebinding). Only for requests without a signature.

use std::net::{IpAddr, SocketAddr};

use axum::http::{HeaderMap, header};

/// What a proxy adds.
const FORWARDED: [&str; 4] = ["forwarded", "x-real-ip", "via", "x-forwarded"];

/// Returns whether a proxy passed the request on.
#[must_use]
pub fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        FORWARDED.contains(&name) || name.starts_with("x-forwarded-")
    })
}

/// Returns whether the request is to this host by `localhost`, a loopback address, or the public address.
#[must_use]
pub fn is_to_this_host(headers: &HeaderMap, public: Option<&str>) -> bool {
    is_to(headers, public, |ip| ip.to_canonical().is_loopback())
}

/// Returns whether no other web site can have sent the request: a page elsewhere, or a page whose name
/// leads here. An address cannot lead elsewhere, unlike a name.
#[must_use]
pub fn is_from_here(headers: &HeaderMap, public: Option<&str>) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or(""));
    let site = text("sec-fetch-site").is_none_or(|site| matches!(site, "same-origin" | "none"));
    let host = text("host").unwrap_or("");
    let origin = text("origin").is_none_or(|origin| {
        let authority = origin.split_once("://").map(|(_, authority)| authority);
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
    });
    site && origin && is_to(headers, public, |_| true)
}

fn is_to(headers: &HeaderMap, public: Option<&str>, good: impl Fn(IpAddr) -> bool) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else {
        return false;
    };
    let host = host.to_str().unwrap_or("");
    let name = without_port(host);
    let is_public = public.is_some_and(|public| {
        host.eq_ignore_ascii_case(public) || name.eq_ignore_ascii_case(without_port(public))
    });
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    is_public || name.eq_ignore_ascii_case("localhost") || bare.parse().is_ok_and(good)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, _)) if !name.contains(':') || host.parse::<SocketAddr>().is_ok() => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                name.parse::<header::HeaderName>().unwrap(),
                value.parse().unwrap(),
            )
        });
        pairs.collect()
    }

    #[test]
    fn only_this_host_is_local() {
        for (host, good) in [
            ("localhost", true),
            ("LOCALHOST:7480", true),
            ("127.0.0.1:7480", true),
            ("127.8.0.1", true),
            ("[::1]:7480", true),
            ("[::1]", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("edge-7.example:80", true),
            ("edge-7.example", true),
            ("10.0.0.5:7480", false),
            ("[2001:db8::1]:80", false),
            ("evil.example:7480", false),
            ("localhost.evil.example", false),
            ("127.0.0.1.evil.example", false),
            ("", false),
        ] {
            let found = is_to_this_host(&headers(&[("host", host)]), Some("edge-7.example:80"));
            assert_eq!(found, good, "{host}");
        }
        assert!(!is_to_this_host(&headers(&[]), None));
    }

    #[test]
    fn what_a_proxy_adds_is_seen() {
        for name in [
            "forwarded",
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-real-ip",
            "via",
        ] {
            assert!(is_forwarded(&headers(&[(name, "")])), "{name}");
        }
        assert!(!is_forwarded(&headers(&[("host", "h"), ("accept", "x")])));
    }

    #[test]
    fn another_site_is_seen() {
        let host = ("host", "127.0.0.1:7480");
        for (pairs, good) in [
            (vec![host], true),
            (vec![("host", "10.0.0.5")], true),
            (vec![("host", "evil.example")], false),
            (vec![], false),
            (vec![host, ("sec-fetch-site", "same-origin")], true),
            (vec![host, ("sec-fetch-site", "none")], true),
            (vec![host, ("sec-fetch-site", "same-site")], false),
            (vec![host, ("sec-fetch-site", "cross-site")], false),
            (vec![host, ("origin", "http://127.0.0.1:7480")], true),
            (vec![host, ("origin", "http://evil.example")], false),
            (vec![host, ("origin", "null")], false),
        ] {
            assert_eq!(is_from_here(&headers(&pairs), None), good, "{pairs:?}");
        }
    }
}
