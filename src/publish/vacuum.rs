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

/// Returns the versions that may be removed, oldest first, so that the newest `keep` stay, and, where `max_bytes` is
/// given, so that what stays takes no more than that. Live, previous and pinned versions are never among them.
#[must_use]
pub fn select<V: Clone>(versions: &[Candidate<V>], keep: u32, max_bytes: Option<u64>) -> Vec<V> {
    let mut newest_first: Vec<&Candidate<V>> = versions.iter().collect();
    newest_first.sort_by_key(|c| std::cmp::Reverse(c.order));
    let keep = usize::try_from(keep.max(1)).unwrap_or(usize::MAX);
    let mut total: u64 = versions.iter().map(|c| c.bytes).sum();
    let mut gone = Vec::new();
    for (place, candidate) in newest_first.iter().enumerate().rev() {
        let held = candidate.live || candidate.previous || candidate.pinned;
        let over = place >= keep || (place > 0 && max_bytes.is_some_and(|max| total > max));
        if over && !held {
            total = total.saturating_sub(candidate.bytes);
            gone.push(candidate.version.clone());
        }
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
        assert_eq!(select(&all, 3, None), [1, 2, 3]);
        all[0].live = true;
        all[1].pinned = true;
        assert_eq!(select(&all, 3, None), [3]);
        all[2].previous = true;
        assert!(select(&all, 3, None).is_empty());
        assert_eq!(
            select(&all, 1, None),
            [4, 5],
            "the newest stays even when an older one is live"
        );
    }

    #[test]
    fn keeps_under_the_limit_of_bytes() {
        let mut all: Vec<_> = (1..=6).map(version).collect();
        assert_eq!(select(&all, 6, Some(35)), [1, 2, 3]);
        all[0].live = true;
        assert_eq!(select(&all, 6, Some(35)), [2, 3, 4]);
    }

    #[test]
    fn zero_is_taken_as_one() {
        assert_eq!(select(&[version(1), version(2)], 0, None), [1]);
    }
}
