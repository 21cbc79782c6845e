//! Which versions retention removes: pure functions, so that tests can check them against random
//! sequences of steps.

use crate::datafile::Key;

/// What retention knows about one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub key: Key,
    /// Increases with every publication.
    pub order: i64,
    pub bytes: u64,
    pub pinned: bool,
    pub live: bool,
    /// Whether it is the rollback target.
    pub previous: bool,
    /// Whether it was live until recently, so that programs may still be in it.
    pub resting: bool,
}

impl Candidate {
    /// Returns whether the version stays regardless of its age.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.live || self.previous || self.pinned || self.resting
    }
}

/// Returns the versions of one name to remove, oldest first, so that the newest `keep` remain.
/// Never returns held versions.
#[must_use]
pub fn surplus(versions: &[Candidate], keep: u32) -> Vec<Key> {
    let mut newest_first: Vec<&Candidate> = versions.iter().collect();
    newest_first.sort_by_key(|c| std::cmp::Reverse(c.order));
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
    let older = newest_first.iter().skip(keep).rev();
    older
        .filter(|c| !c.is_held())
        .map(|c| c.key.clone())
        .collect()
}

/// Returns the versions of one application to remove, oldest first, to shrink it to `low` bytes
/// once it exceeds `max`. Never returns held versions.
#[must_use]
pub fn oversize(versions: &[Candidate], max: u64, low: u64) -> Vec<Key> {
    let mut total: u64 = versions.iter().map(|c| c.bytes).sum();
    if total <= max {
        return Vec::new();
    }
    let mut oldest_first: Vec<&Candidate> = versions.iter().filter(|c| !c.is_held()).collect();
    oldest_first.sort_by_key(|c| c.order);
    let mut gone = Vec::new();
    for candidate in oldest_first {
        if total <= low {
            break;
        }
        total = total.saturating_sub(candidate.bytes);
        gone.push(candidate.key.clone());
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datafile::{AppId, DataName, DataVersion};

    fn version(n: i64) -> Candidate {
        Candidate {
            key: key(n),
            order: n,
            bytes: 10,
            pinned: false,
            live: false,
            previous: false,
            resting: false,
        }
    }

    fn key(n: i64) -> Key {
        Key {
            app: AppId::parse("app").unwrap(),
            name: DataName::parse("name").unwrap(),
            version: DataVersion::parse(&n.to_string()).unwrap(),
        }
    }

    fn keys<const N: usize>(numbers: [i64; N]) -> [Key; N] {
        numbers.map(key)
    }

    #[test]
    fn keeps_the_newest_and_whatever_is_held() {
        let mut all: Vec<_> = (1..=6).map(version).collect();
        assert_eq!(surplus(&all, 3), keys([1, 2, 3]));
        all[0].live = true;
        all[1].pinned = true;
        assert_eq!(surplus(&all, 3), keys([3]));
        all[2].resting = true;
        assert!(surplus(&all, 3).is_empty());
        (all[2].resting, all[2].previous) = (false, true);
        assert!(surplus(&all, 3).is_empty());
        assert_eq!(
            surplus(&all, 1),
            keys([4, 5]),
            "the newest stays even when an older one is live"
        );
        assert_eq!(
            surplus(&[version(1), version(2)], 0),
            keys([1]),
            "zero is taken as one"
        );
    }

    #[test]
    fn goes_down_to_the_low_mark_once_the_high_one_is_passed() {
        let mut all: Vec<_> = (1..=6).map(version).collect();
        assert!(oversize(&all, 60, 20).is_empty());
        assert_eq!(oversize(&all, 59, 40), keys([1, 2]));
        all[0].live = true;
        assert_eq!(
            oversize(&all, 59, 0),
            keys([2, 3, 4, 5, 6]),
            "what is live stays, whatever the limit"
        );
    }
}
