//! Which versions of a name may go: pure, so that a storm of random steps can be held against it.

/// What is known of one version when it is decided what stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate<V> {
    /// The version.
    pub version: V,
    /// Its place in the order of publication: larger is newer.
    pub order: i64,
    /// Bytes that it takes.
    pub bytes: u64,
    /// Whether an operator pinned it.
    pub pinned: bool,
    /// Whether it is `current`.
    pub live: bool,
    /// Whether a rollback would go to it.
    pub previous: bool,
}

impl<V> Candidate<V> {
    fn is_held(&self) -> bool {
        self.live || self.previous || self.pinned
    }
}

/// Returns the versions of one name that may be removed, oldest first, so that the newest `keep` stay. Live, previous and
/// pinned versions are never among them.
#[must_use]
pub fn surplus<V: Clone>(versions: &[Candidate<V>], keep: u32) -> Vec<V> {
    let mut newest_first: Vec<&Candidate<V>> = versions.iter().collect();
    newest_first.sort_by_key(|c| std::cmp::Reverse(c.order));
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
    let older = newest_first.iter().skip(keep).rev();
    older
        .filter(|c| !c.is_held())
        .map(|c| c.version.clone())
        .collect()
}

/// Returns the versions of one application that may be removed, oldest first, so that once they take more than `max`
/// bytes they go down to `low`. Live, previous and pinned versions are never among them.
#[must_use]
pub fn oversize<V: Clone>(versions: &[Candidate<V>], max: u64, low: u64) -> Vec<V> {
    let mut total: u64 = versions.iter().map(|c| c.bytes).sum();
    if total <= max {
        return Vec::new();
    }
    let mut oldest_first: Vec<&Candidate<V>> = versions.iter().filter(|c| !c.is_held()).collect();
    oldest_first.sort_by_key(|c| c.order);
    let mut gone = Vec::new();
    for candidate in oldest_first {
        if total <= low {
            break;
        }
        total = total.saturating_sub(candidate.bytes);
        gone.push(candidate.version.clone());
    }
    gone
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(n: i64) -> Candidate<i64> {
        Candidate {
            version: n,
            order: n,
            bytes: 10,
            pinned: false,
            live: false,
            previous: false,
        }
    }

    #[test]
    fn keeps_the_newest_and_whatever_is_held() {
        let mut all: Vec<_> = (1..=6).map(version).collect();
        assert_eq!(surplus(&all, 3), [1, 2, 3]);
        all[0].live = true;
        all[1].pinned = true;
        assert_eq!(surplus(&all, 3), [3]);
        all[2].previous = true;
        assert!(surplus(&all, 3).is_empty());
        assert_eq!(
            surplus(&all, 1),
            [4, 5],
            "the newest stays even when an older one is live"
        );
        assert_eq!(
            surplus(&[version(1), version(2)], 0),
            [1],
            "zero is taken as one"
        );
    }

    #[test]
    fn goes_down_to_the_low_mark_once_the_high_one_is_passed() {
        let mut all: Vec<_> = (1..=6).map(version).collect();
        assert!(oversize(&all, 60, 20).is_empty());
        assert_eq!(oversize(&all, 59, 40), [1, 2]);
        all[0].live = true;
        assert_eq!(
            oversize(&all, 59, 0),
            [2, 3, 4, 5, 6],
            "what is live stays, whatever the limit"
        );
    }
}
