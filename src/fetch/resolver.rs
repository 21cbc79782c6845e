//! Name lookup that returns only addresses the policy permits. What it returns is what is dialled, so
//! a name cannot mean one address while it is checked and another one afterwards.

use std::net::SocketAddr;
use std::sync::Arc;

use super::clocks::enter;
use super::phase::Phase;
use super::policy::{Denied, Policy};

/// The resolver of every client that fetches.
pub(super) struct Resolver {
    /// `None` towards proxies and mirrors, which the configuration names.
    pub(super) policy: Option<Arc<Policy>>,
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let policy = self.policy.clone();
        Box::pin(async move {
            enter(Phase::Resolve);
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let addresses = match policy {
                Some(policy) => permitted(&policy, name.as_str(), found)?,
                None => found.collect(),
            };
            enter(Phase::Connect);
            Ok(Box::new(varied(addresses).into_iter()) as reqwest::dns::Addrs)
        })
    }
}

/// Starts at a random address within each family: one that swallows packets uses up the connect
/// timeout, and the next attempt should not start with it again.
fn varied(addresses: Vec<SocketAddr>) -> Vec<SocketAddr> {
    let first = addresses.first().map(SocketAddr::is_ipv4);
    let (mut same, mut other): (Vec<_>, Vec<_>) = addresses
        .into_iter()
        .partition(|a| Some(a.is_ipv4()) == first);
    for family in [&mut same, &mut other] {
        let n = fastrand::usize(..family.len().max(1));
        family.rotate_left(n);
    }
    same.append(&mut other);
    same
}

fn permitted(
    policy: &Policy,
    name: &str,
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, Denied> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let mut good = Vec::new();
    let mut refusal = None;
    for address in found {
        match policy.check_address(Some(&name), address.ip()) {
            Ok(()) => good.push(address),
            Err(denied) => refusal = Some(denied),
        }
    }
    match refusal {
        Some(denied) if good.is_empty() => Err(denied),
        _ => Ok(good),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dials_only_the_permitted_answers_of_a_name() {
        let answers = |texts: &[&str]| -> Vec<SocketAddr> {
            texts
                .iter()
                .map(|t| SocketAddr::new(t.parse().unwrap(), 0))
                .collect()
        };
        let policy = Policy::default();
        let mixed = answers(&["127.0.0.1", "192.0.2.1", "::ffff:169.254.169.254"]);
        let good = permitted(&policy, "a.example", mixed.into_iter()).unwrap();
        assert_eq!(good, answers(&["192.0.2.1"]));
        let bad = answers(&["127.0.0.1", "::1"]);
        assert!(permitted(&policy, "a.example", bad.into_iter()).is_err());
    }

    #[test]
    fn begins_with_another_address_each_time() {
        let all: Vec<SocketAddr> = ["[2001:db8::1]:0", "[2001:db8::2]:0", "192.0.2.1:0"]
            .iter()
            .map(|t| t.parse().unwrap())
            .collect();
        let mut first = std::collections::HashSet::new();
        for _ in 0..100 {
            let varied = varied(all.clone());
            assert_eq!((varied.len(), varied[2]), (3, all[2]));
            first.insert(varied[0]);
        }
        assert_eq!(first.len(), 2);
        assert!(varied(Vec::new()).is_empty());
    }
}
