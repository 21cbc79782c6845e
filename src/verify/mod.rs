//! Size and digests of what arrived; the only maker of [`Verified`], the proof that publishing asks for.
//!
//! The hashing happens while the bytes arrive, on a thread of its own: MD5 is serial and the slowest thing that is done
//! to an incompressible archive.

mod md5;

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::datafile::{Content, Digest};
use crate::sys::blocks::read_blocks;
use crate::sys::failure::{Class, Kind, Retry};

/// What this station checks beyond what a push states.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Which digest a push must state: `"none"`, `"md5"` (either digest will do) or `"sha256"`.
    pub require: Require,
}

/// Which digest a push must state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// A push may state no digest at all; then only a stated size is checked.
    #[default]
    None,
    /// MD5 or SHA-256.
    Md5,
    /// SHA-256.
    Sha256,
}

impl Require {
    /// Tells whether a push that states `content` states enough.
    pub fn check(self, content: &Content) -> Result<(), Error> {
        let (enough, wanted) = match self {
            Self::None => (true, ""),
            Self::Md5 => (
                content.md5.is_some() || content.sha256.is_some(),
                "md5 or sha256",
            ),
            Self::Sha256 => (content.sha256.is_some(), "sha256"),
        };
        if enough {
            Ok(())
        } else {
            Err(Error::Unstated { wanted })
        }
    }
}

const DIGEST: Kind = Kind {
    name: "digest-mismatch",
    class: Class::Content,
    retry: Retry::Fatal,
    help: "The bytes are not the announced ones: compare the digest in the push with the file at the origin, and look for a proxy or an error page in between.",
};
const SIZE: Kind = Kind {
    name: "size-mismatch",
    class: Class::Content,
    retry: Retry::Fatal,
    help: "The archive has another length than the push says: compare the size in the push with the file at the origin.",
};
const UNSTATED: Kind = Kind {
    name: "digest-required",
    class: Class::Policy,
    retry: Retry::Fatal,
    help: "This node takes no file without a digest (`verify.require`): state it in the push.",
};

/// Every way in which this station fails.
pub const KINDS: &[Kind] = &[DIGEST, SIZE, UNSTATED];

/// Why the bytes are not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A digest differs.
    #[error("{algorithm} differs: expected {expected}, found {found}, over {length} bytes")]
    Digest {
        /// `md5` or `sha256`.
        algorithm: &'static str,
        /// What the push states.
        expected: String,
        /// What the bytes have.
        found: String,
        /// How many bytes there were.
        length: u64,
    },
    /// The length differs.
    #[error("size differs: expected {expected} bytes, found {found}")]
    Size {
        /// What the push states.
        expected: u64,
        /// How many bytes there are.
        found: u64,
    },
    /// The push states no digest, and this node wants one.
    #[error("the push states no {wanted}, which this node requires")]
    Unstated {
        /// What should be stated.
        wanted: &'static str,
    },
}

impl Error {
    /// Returns the row of [`KINDS`].
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        match self {
            Self::Digest { .. } => &DIGEST,
            Self::Size { .. } => &SIZE,
            Self::Unstated { .. } => &UNSTATED,
        }
    }

    /// Returns the expected and the found value, where there are two.
    #[must_use]
    pub fn values(&self) -> Option<(String, String)> {
        match self {
            Self::Digest {
                expected, found, ..
            } => Some((expected.clone(), found.clone())),
            Self::Size { expected, found } => Some((expected.to_string(), found.to_string())),
            Self::Unstated { .. } => None,
        }
    }
}

/// Hashes an archive as it arrives.
pub struct Hasher {
    expected: Content,
    length: u64,
    md5: md5::Md5,
    sha256: Option<sha2::Sha256>,
}

impl Hasher {
    /// Starts hashing an archive of which `expected` is stated. SHA-256 is computed where it is stated, and where nothing
    /// else would tell this content from another.
    #[must_use]
    pub fn new(expected: Content) -> Self {
        Self {
            expected,
            length: 0,
            md5: md5::Md5::new(),
            sha256: (expected.sha256.is_some() || expected.md5.is_none())
                .then(sha2::Sha256::default),
        }
    }

    /// Computes SHA-256 in any case: for an archive that is not kept, and so cannot be asked for it later.
    #[must_use]
    pub fn with_sha256(mut self) -> Self {
        self.sha256.get_or_insert_default();
        self
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.md5.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// Takes everything that `input` holds.
    pub fn read(mut self, input: impl Read) -> io::Result<Self> {
        read_blocks(input, |block| {
            self.update(block);
            Ok(())
        })?;
        Ok(self)
    }

    /// Returns how many bytes were taken.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Compares everything that was stated with what was found.
    pub fn finish(self) -> Result<Verified, Error> {
        let (expected, length) = (self.expected, self.length);
        let found = self.found();
        let mismatch = |algorithm, expected: String, found: String| {
            Err(Error::Digest {
                algorithm,
                expected,
                found,
                length,
            })
        };
        if let (Some(expected), Some(found)) = (expected.md5, found.md5)
            && expected != found
        {
            return mismatch("md5", expected.to_string(), found.to_string());
        }
        if let (Some(expected), Some(found)) = (expected.sha256, found.sha256)
            && expected != found
        {
            return mismatch("sha256", expected.to_string(), found.to_string());
        }
        if let Some(expected) = expected.size.filter(|e| *e != length) {
            return Err(Error::Size {
                expected,
                found: length,
            });
        }
        Ok(Verified(found))
    }

    /// Returns what was found, without comparing it.
    fn found(self) -> Content {
        Content {
            size: Some(self.length),
            md5: Some(Digest(self.md5.finish())),
            sha256: self.sha256.map(|h| Digest(h.finalize().into())),
        }
    }
}

/// Returns the size and both digests of what `input` holds.
pub fn measure(input: impl Read) -> io::Result<Content> {
    let hasher = Hasher::new(Content::default()).with_sha256().read(input)?;
    Ok(hasher.found())
}

/// The proof that the bytes of an archive are the announced ones. Only [`Hasher::finish`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified(Content);

impl Verified {
    /// Returns size and digests of the archive.
    #[must_use]
    pub fn content(&self) -> Content {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datafile::{Md5, Sha256};

    const MD5: &str = "900150983cd24fb0d6963f7d28e17f72";
    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn hash(expected: Content) -> Result<Verified, Error> {
        let mut hasher = Hasher::new(expected);
        hasher.update(b"a");
        hasher.update(b"bc");
        hasher.finish()
    }

    #[test]
    fn accepts_what_was_announced() {
        let stated = Content {
            size: Some(3),
            md5: Some(Md5::parse(MD5).unwrap()),
            sha256: Some(Sha256::parse(SHA256).unwrap()),
        };
        assert_eq!(hash(stated).unwrap().content(), stated);
        let found = hash(Content::default()).unwrap().content();
        assert_eq!(
            found, stated,
            "with nothing stated, everything is found out"
        );
    }

    #[test]
    fn names_expected_and_found() {
        let wrong = Content {
            md5: Some(Md5::parse(&"0".repeat(32)).unwrap()),
            ..Content::default()
        };
        let error = hash(wrong).unwrap_err();
        assert_eq!(error.kind().name, "digest-mismatch");
        assert_eq!(error.values(), Some(("0".repeat(32), MD5.to_owned())));
        let wrong = Content {
            sha256: Some(Sha256::parse(&"0".repeat(64)).unwrap()),
            ..Content::default()
        };
        assert_eq!(
            hash(wrong).unwrap_err().values(),
            Some(("0".repeat(64), SHA256.to_owned()))
        );
        let wrong = Content {
            size: Some(4),
            ..Content::default()
        };
        assert_eq!(
            hash(wrong),
            Err(Error::Size {
                expected: 4,
                found: 3
            })
        );
    }

    #[test]
    fn sha256_is_found_out_when_asked_for() {
        let stated = Content {
            md5: Some(Md5::parse(MD5).unwrap()),
            ..Content::default()
        };
        assert_eq!(hash(stated).unwrap().content().sha256, None);
        let mut hasher = Hasher::new(stated).with_sha256();
        hasher.update(b"abc");
        let found = hasher.finish().unwrap().content().sha256;
        assert_eq!(found, Some(Sha256::parse(SHA256).unwrap()));
    }

    #[test]
    fn policy_asks_for_a_digest() {
        let md5 = Content {
            md5: Some(Md5::parse(MD5).unwrap()),
            ..Content::default()
        };
        assert!(Require::Md5.check(&md5).is_ok());
        assert!(Require::Sha256.check(&md5).is_err());
        assert!(Require::Md5.check(&Content::default()).is_err());
        assert!(Require::None.check(&Content::default()).is_ok());
    }
}
