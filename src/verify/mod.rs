//! Checks size and digests of a received archive; the only maker of [`Verified`], the proof that
//! publishing requires.
//!
//! Hashing happens while the bytes arrive, on its own thread: MD5 is serial, and the slowest step
//! for an incompressible archive.

mod md5;

use std::io::{self, Read};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::datafile::{Content, Digest};
use crate::sys::blocks::read_blocks;
use crate::sys::failure::{Class, Kind, Retry};

/// What a push must state for its archive to be accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The digest a push must state: `"none"`, `"md5"` (either digest is accepted) or `"sha256"`.
    pub require: Require,
}

/// The digest a push must state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Require {
    /// No digest is required; without one, only a stated size is checked.
    #[default]
    None,
    /// Either digest.
    Md5,
    Sha256,
}

impl Require {
    /// Fails if a push that states `content` states too little.
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
    help: "The bytes differ from what the push announced: compare the digest in the push with the file at the origin, and look for a proxy or an error page in between.",
};
const SIZE: Kind = Kind {
    name: "size-mismatch",
    class: Class::Content,
    retry: Retry::Fatal,
    help: "The archive's length differs from the size in the push: compare it with the file at the origin.",
};
const UNSTATED: Kind = Kind {
    name: "digest-required",
    class: Class::Policy,
    retry: Retry::Fatal,
    help: "This node accepts no file without a digest (`verify.require`): state it in the push.",
};

/// Every failure kind of this module.
pub const KINDS: &[Kind] = &[DIGEST, SIZE, UNSTATED];

/// Why the bytes were rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("{algorithm} differs: expected {expected}, over {length} bytes")]
    Digest {
        /// `md5` or `sha256`.
        algorithm: &'static str,
        /// Stated in the push.
        expected: String,
        /// Computed from the bytes. Not part of the message, which the sender of the push may read:
        /// it would identify a file or a response that only this node can read.
        found: String,
        /// In bytes.
        length: u64,
    },
    #[error("size differs: expected {expected} bytes, found {found}")]
    Size {
        /// Stated in the push, in bytes.
        expected: u64,
        /// In bytes.
        found: u64,
    },
    /// The push states no digest, but this node requires one.
    #[error("the push states no {wanted}, which this node requires")]
    Unstated {
        /// The digest that is required.
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

    /// Returns the expected and the found value, if the error has them.
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
    /// Starts hashing an archive; `expected` is what the push states. SHA-256 is computed if it is
    /// stated, or if no other digest is.
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

    /// Always computes SHA-256: an archive that is not retained cannot be hashed later.
    #[must_use]
    pub fn with_sha256(mut self) -> Self {
        self.sha256.get_or_insert_default();
        self
    }

    pub fn update(&mut self, bytes: &[u8]) {
        self.length += bytes.len() as u64;
        self.md5.update(bytes);
        if let Some(sha256) = &mut self.sha256 {
            sha256.update(bytes);
        }
    }

    /// Hashes `input` to its end.
    pub fn read(mut self, input: impl Read) -> io::Result<Self> {
        read_blocks(input, |block| {
            self.update(block);
            Ok(())
        })?;
        Ok(self)
    }

    /// Returns how many bytes were hashed.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Compares all stated values with the computed ones.
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

    /// Returns the computed values without comparing them.
    fn found(self) -> Content {
        Content {
            size: Some(self.length),
            md5: Some(Digest(self.md5.finish())),
            sha256: self.sha256.map(|h| Digest(h.finalize().into())),
        }
    }
}

/// Returns the size and both digests of `input`.
pub fn measure(input: impl Read) -> io::Result<Content> {
    let hasher = Hasher::new(Content::default()).with_sha256().read(input)?;
    Ok(hasher.found())
}

/// Proof that the bytes of an archive are the announced ones. Only [`Hasher::finish`] makes one.
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
