//! What each element of a push gets for an answer: the contract's 0, 100, 200 and 300 (docs/ens.md
//! §3).
//!
//! Pure rules over [`Known`]: what is published, and what is being pushed. They contact no origin,
//! so that an answer never waits for the network, and write nothing: the caller records what is
//! accepted.

use std::collections::{HashMap, HashSet};

use crate::datafile::{Content, DataFile, DataName, Invalid, Key};
use crate::sys::failure::{Class, Kind, Retry};
use crate::wire::push::Item;

/// A value of the element cannot be used.
pub const INVALID_ITEM: Kind = Kind {
    name: "invalid-element",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "An element of the push has a value that cannot be used; its message says which.",
};
/// The version is known with other content.
pub const VERSION_CONFLICT: Kind = Kind {
    name: "version-conflict",
    class: Class::Request,
    retry: Retry::Fatal,
    help: "A published version never changes: push the new content as a new version.",
};
/// What was pushed before.
pub trait Known {
    /// A published version.
    type Release;
    /// A push in progress.
    type Job;
    /// Why it cannot be looked up.
    type Error;

    /// Returns the published version of `key`.
    fn published(&self, key: &Key) -> Result<Option<Published<Self::Release>>, Self::Error>;

    /// Returns the push in progress of `key`, and what it states of the content.
    fn open(&self, key: &Key) -> Result<Option<(Self::Job, Content)>, Self::Error>;
}

/// A published version, as far as the rules are concerned.
pub struct Published<R> {
    /// The version.
    pub release: R,
    /// What is known of its archive.
    pub content: Content,
    /// Whether its tree was found damaged: a push of it repairs it.
    pub is_damaged: bool,
}

/// The kind of a refusal by policy, and a text for the pusher.
pub type Denial = (&'static Kind, String);

/// An element of a push with all that can be judged without knowing what was pushed before.
pub struct Element {
    /// The name as stated.
    pub name: String,
    /// The version as stated.
    pub version: String,
    /// The file, or why it cannot be pushed.
    pub file: Result<DataFile, Invalid>,
    /// Why policy denies it. It counts only if the element would have to be fetched.
    denied: Option<Denial>,
}

impl Element {
    /// Makes an element of an item, and asks `policy` whether it may be fetched.
    pub fn new(item: Item, policy: impl FnOnce(&DataFile) -> Result<(), Denial>) -> Self {
        let Item {
            name,
            version,
            file,
        } = item;
        let denied = file.as_ref().ok().and_then(|file| policy(file).err());
        Self {
            name,
            version,
            file,
            denied,
        }
    }
}

/// What an element gets.
#[derive(Debug)]
pub enum Verdict<R, J> {
    /// 0: it has to be fetched.
    Accept {
        /// Whether it replaces a damaged tree of the same version.
        repairs: bool,
    },
    /// 100: it is published.
    Published(R),
    /// 200: it is being pushed.
    InProgress(J),
    /// 300: it is refused, with a sentence for the pusher.
    Refused(&'static Kind, String),
}

/// Decides one element. Two elements of one push with the same key are decided like two pushes:
/// record the first one before the second one is decided.
pub fn decide<K: Known>(
    known: &K,
    element: &Element,
) -> Result<Verdict<K::Release, K::Job>, K::Error> {
    let file = match &element.file {
        Ok(file) => file,
        Err(invalid) => {
            let text = format!("This element cannot be pushed: {invalid}.");
            return Ok(Verdict::Refused(&INVALID_ITEM, text));
        }
    };
    let published = known.published(&file.key)?;
    if let Some(text) = published.as_ref().and_then(|p| {
        conflict(file, &p.content, "published").or_else(|| unproven(file, &p.content))
    }) {
        return Ok(Verdict::Refused(&VERSION_CONFLICT, text));
    }
    if let Some((job, content)) = known.open(&file.key)? {
        return Ok(match conflict(file, &content, "being pushed") {
            Some(text) => Verdict::Refused(&VERSION_CONFLICT, text),
            None => Verdict::InProgress(job),
        });
    }
    Ok(match (published, &element.denied) {
        (Some(p), _) if !p.is_damaged => Verdict::Published(p.release),
        (_, Some((kind, why))) => {
            Verdict::Refused(kind, format!("This node's policy denies it: {why}."))
        }
        (published, None) => Verdict::Accept {
            repairs: published.is_some(),
        },
    })
}

/// Returns the indices of the elements that are the last of their name among those that were not
/// refused: of several versions of one name in one push, the last is the one to make live.
pub fn last_of_each_name<R, J>(elements: &[Element], verdicts: &[Verdict<R, J>]) -> HashSet<usize> {
    let mut last: HashMap<&DataName, usize> = HashMap::new();
    for (index, (element, verdict)) in elements.iter().zip(verdicts).enumerate() {
        if let (Ok(file), false) = (&element.file, matches!(verdict, Verdict::Refused(..))) {
            last.insert(&file.key.name, index);
        }
    }
    last.into_values().collect()
}

/// Returns what to answer when `file` states other content than what is `known` under its key.
fn conflict(file: &DataFile, known: &Content, how: &str) -> Option<String> {
    let (what, theirs, stated) = file.difference(known)?;
    Some(format!(
        "This version is {how} with other content: {how} {what} {theirs}, pushed {what} {stated}; push a new version."
    ))
}

/// Returns what to answer when `file` states a SHA-256 and nothing else, and that of the published
/// archive is neither known nor can be found out any more: the answer that it is the same would be
/// a guess.
fn unproven(file: &DataFile, known: &Content) -> Option<String> {
    let proven = file.sha256.is_none() || known.sha256.is_some() || file.md5.is_some();
    (!proven).then(|| {
        "This version is published, but the sha256 of its archive is not on record: state its md5, or push a new version."
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::time::Duration;

    use super::*;
    use crate::datafile::{AppId, ArchiveType, DataVersion, Digest, SourceUrl};

    /// What a table says: the content of the published version, whether it is damaged, and the
    /// content being pushed.
    #[derive(Default)]
    struct Table {
        published: Option<(Content, bool)>,
        open: Option<Content>,
    }

    impl Known for Table {
        type Release = ();
        type Job = ();
        type Error = Infallible;

        fn published(&self, _: &Key) -> Result<Option<Published<()>>, Infallible> {
            Ok(self.published.map(|(content, is_damaged)| Published {
                release: (),
                content,
                is_damaged,
            }))
        }

        fn open(&self, _: &Key) -> Result<Option<((), Content)>, Infallible> {
            Ok(self.open.map(|content| ((), content)))
        }
    }

    fn content(md5: Option<u8>, sha256: Option<u8>) -> Content {
        Content {
            size: Some(3),
            md5: md5.map(|byte| Digest([byte; 16])),
            sha256: sha256.map(|byte| Digest([byte; 32])),
        }
    }

    fn element(name: &str, content: Content) -> Element {
        let file = DataFile {
            key: Key {
                app: AppId::parse("app").unwrap(),
                name: DataName::parse(name).unwrap(),
                version: DataVersion::parse("1").unwrap(),
            },
            archive_type: ArchiveType::Zip,
            size: content.size,
            md5: content.md5,
            sha256: content.sha256,
            url: SourceUrl::parse("http://h/x").unwrap(),
            timeout: Duration::from_secs(1),
        };
        let item = Item {
            name: name.to_owned(),
            version: "1".to_owned(),
            file: Ok(file),
        };
        Element::new(item, |_| Ok(()))
    }

    fn decided(known: &Table, element: &Element) -> String {
        let Ok(verdict) = decide(known, element);
        match verdict {
            Verdict::Accept { repairs: false } => "0".to_owned(),
            Verdict::Accept { repairs: true } => "0 repairs".to_owned(),
            Verdict::Published(()) => "100".to_owned(),
            Verdict::InProgress(()) => "200".to_owned(),
            Verdict::Refused(kind, _) => format!("300 {}", kind.name),
        }
    }

    #[test]
    fn the_table_of_answers() {
        let (same, other) = (content(Some(1), None), content(Some(2), None));
        let published = |content, is_damaged| Some((content, is_damaged));
        let sha256 = content(None, Some(1));
        for (published, open, stated, want) in [
            (None, None, same, "0"),
            (published(same, false), None, same, "100"),
            (published(same, true), None, same, "0 repairs"),
            (published(same, true), Some(same), same, "200"),
            (published(same, false), None, other, "300 version-conflict"),
            (published(same, true), None, other, "300 version-conflict"),
            (published(same, false), None, sha256, "300 version-conflict"),
            (published(sha256, false), None, sha256, "100"),
            (None, Some(same), same, "200"),
            (None, Some(same), other, "300 version-conflict"),
        ] {
            let known = Table { published, open };
            assert_eq!(decided(&known, &element("a", stated)), want, "{stated:?}");
        }
    }

    #[test]
    fn policy_counts_only_for_what_would_be_fetched() {
        let denied = |known: &Table| {
            let mut element = element("a", content(Some(1), None));
            element.denied = Some((&VERSION_CONFLICT, "no".to_owned()));
            decided(known, &element)
        };
        let same = content(Some(1), None);
        let published = |is_damaged| Table {
            published: Some((same, is_damaged)),
            open: None,
        };
        assert_eq!(denied(&Table::default()), "300 version-conflict");
        assert_eq!(denied(&published(true)), "300 version-conflict");
        assert_eq!(denied(&published(false)), "100");
    }

    #[test]
    fn the_last_of_a_name_that_is_not_refused_is_the_one_to_make_live() {
        let elements = ["a", "b", "a", "a"].map(|name| element(name, Content::default()));
        let refused = || Verdict::Refused(&VERSION_CONFLICT, String::new());
        let accept = || Verdict::<(), ()>::Accept { repairs: false };
        let verdicts = [accept(), accept(), accept(), refused()];
        let last = last_of_each_name(&elements, &verdicts);
        assert_eq!(last, HashSet::from([1, 2]));
    }
}
