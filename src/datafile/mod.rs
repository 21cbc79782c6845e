//! The nouns of the product: application, data file, version, archive type and source.
//!
//! Parsing is the check: a value of one of these types is valid by construction, and no other
//! module checks it again. No I/O happens here. The words are the contract's (ENS 2017-11-10,
//! `PushApplicationData`).

mod component;
mod source_url;
pub mod tree;

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use component::{MAX_COMPONENT, from_path_component, path_component};
pub use source_url::{MAX_URL, SourceUrl, authority};

/// Maximum length of a name, version or application id, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Time limit of a file if its push gives none.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);
/// The largest time limit a push may give.
pub const MAX_TIMEOUT: Duration = Duration::from_secs(7 * 24 * 3600);

/// Why a value in a push was rejected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Empty, or only white space.
    #[error("{what} is blank")]
    Blank {
        /// The name of the value.
        what: &'static str,
    },
    #[error("{what} has {len} bytes, at most {max} are allowed")]
    TooLong {
        /// The name of the value.
        what: &'static str,
        /// In bytes.
        len: usize,
        /// In bytes.
        max: usize,
    },
    #[error("{what} holds {found}, which is not allowed")]
    Character {
        /// The name of the value.
        what: &'static str,
        /// A description of the character.
        found: &'static str,
    },
    /// Not an archive type that can be unpacked.
    #[error("archiveType is `{found}`, expected {}", ArchiveType::choices())]
    ArchiveType {
        /// The value given, shortened.
        found: String,
    },
    /// Not the right number of hexadecimal digits.
    #[error("{what} is `{found}`, expected {digits} hexadecimal digits")]
    Digest {
        /// `md5` or `sha256`.
        what: &'static str,
        /// The value given, shortened.
        found: String,
        /// The number expected.
        digits: usize,
    },
    /// Malformed, or not a URL that can be fetched from.
    #[error("url is not usable: {why}")]
    Url {
        /// Never contains a part of the URL that may be secret.
        why: String,
    },
    #[error("{what} is {found}, expected {expected}")]
    Number {
        /// The name of the value.
        what: &'static str,
        /// The value given, shortened.
        found: String,
        expected: &'static str,
    },
    /// A mistake in an element of a push document.
    #[error("{place}: {what}")]
    Element {
        /// Where, such as `Data[2].url`.
        place: String,
        what: String,
    },
}

/// Returns at most 40 characters of `text`, escaped, for an error message.
#[must_use]
pub fn shorten(text: &str) -> String {
    let mut out: String = text.chars().take(40).flat_map(char::escape_debug).collect();
    if text.chars().nth(40).is_some() {
        out.push('…');
    }
    out
}

fn check_text(what: &'static str, text: &str) -> Result<(), Invalid> {
    if text.trim().is_empty() {
        return Err(Invalid::Blank { what });
    }
    if text.len() > MAX_TEXT {
        return Err(Invalid::TooLong {
            what,
            len: text.len(),
            max: MAX_TEXT,
        });
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid::Character {
            what,
            found: "a control character",
        });
    }
    Ok(())
}

macro_rules! text_type {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            #[doc = concat!("Parses a ", $what, "; see the type for what is allowed.")]
            pub fn parse(text: &str) -> Result<Self, Invalid> {
                check_text($what, text)?;
                let check: fn(&str) -> Result<(), Invalid> = $check;
                check(text)?;
                Ok(Self(text.to_owned()))
            }

            /// Returns the text as given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Returns the path component used for this text on disk; see [`path_component`].
            #[must_use]
            pub fn path_component(&self) -> String {
                path_component(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = Invalid;
            fn from_str(text: &str) -> Result<Self, Invalid> {
                Self::parse(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<Self, Invalid> {
                Self::parse(&text)
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0
            }
        }
    };
}

/// Commas are rejected: the contract's filters `DataNames` and `DataVersions` are comma-separated.
fn no_comma(what: &'static str) -> impl Fn(&str) -> Result<(), Invalid> {
    move |text| {
        if text.contains(',') {
            Err(Invalid::Character {
                what,
                found: "a comma",
            })
        } else {
            Ok(())
        }
    }
}

text_type!(
    /// The id of an application: not blank, at most [`MAX_TEXT`] bytes, no control characters.
    AppId, "AppId", |_| Ok(())
);
text_type!(
    /// The name of a data file: like [`AppId`], but without commas. Slashes have no special
    /// meaning.
    DataName, "name", |text| no_comma("name")(text)
);
text_type!(
    /// The version of a data file: like [`DataName`].
    DataVersion, "version", |text| no_comma("version")(text)
);

/// The format of a data file's archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ArchiveType {
    /// A gzip stream holding a tar archive.
    #[serde(rename = "tar.gz")]
    TarGz,
    /// A zip archive.
    #[serde(rename = "zip")]
    Zip,
    /// A plain tar archive: an extension, the contract has only the other two.
    #[serde(rename = "tar")]
    Tar,
}

impl ArchiveType {
    pub const ALL: [Self; 3] = [Self::TarGz, Self::Zip, Self::Tar];

    /// Returns the contract's spelling.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TarGz => "tar.gz",
            Self::Zip => "zip",
            Self::Tar => "tar",
        }
    }

    /// Returns how file names of this type end; without the dot, each also names the type.
    fn endings(self) -> &'static [&'static str] {
        match self {
            Self::TarGz => &[".tar.gz", ".tgz"],
            Self::Zip => &[".zip"],
            Self::Tar => &[".tar"],
        }
    }

    /// Returns the types as a text for people: `a, b or c`.
    #[must_use]
    pub fn choices() -> String {
        either(&Self::ALL.map(Self::as_str))
    }

    /// Returns how the names of archives end, as a text for people: `.a, .b or .c`.
    #[must_use]
    pub fn all_endings() -> String {
        let endings: Vec<_> = Self::ALL
            .into_iter()
            .flat_map(Self::endings)
            .copied()
            .collect();
        either(&endings)
    }

    /// Parses the contract's spelling in any case; `tgz` also means `tar.gz`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let ending = format!(".{}", text.to_ascii_lowercase());
        let mut all = Self::ALL.into_iter();
        all.find(|t| t.endings().contains(&ending.as_str()))
            .ok_or_else(|| Invalid::ArchiveType {
                found: shorten(text),
            })
    }

    /// Returns whether an archive of this type can be unpacked while its bytes arrive. A zip
    /// cannot: its directory is at the end.
    #[must_use]
    pub fn is_streamable(self) -> bool {
        self != Self::Zip
    }

    /// Guesses the type from a file name.
    #[must_use]
    pub fn from_file_name(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        let ends = |t: &Self| t.endings().iter().any(|ending| name.ends_with(ending));
        Self::ALL.into_iter().find(ends)
    }
}

fn either(words: &[&str]) -> String {
    match words {
        [rest @ .., last] if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => words.concat(),
    }
}

impl fmt::Display for ArchiveType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A digest of `N` bytes, shown as lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest<const N: usize>(pub [u8; N]);

/// The digest that the contract uses to check an archive.
pub type Md5 = Digest<16>;
pub type Sha256 = Digest<32>;

impl<const N: usize> Digest<N> {
    /// Parses `2 * N` hexadecimal digits in either case.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let mut bytes = [0; N];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| Invalid::Digest {
            what: if N == 16 { "md5" } else { "sha256" },
            found: shorten(text),
            digits: 2 * N,
        })?;
        Ok(Self(bytes))
    }
}

impl<const N: usize> fmt::Display for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl<const N: usize> fmt::Debug for Digest<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> Serialize for Digest<N> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Digest<N> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

/// Identifies a published tree: one version of one name of one application.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    pub app: AppId,
    pub name: DataName,
    pub version: DataVersion,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}@{}", self.app, self.name, self.version)
    }
}

/// One element of a push's `Data`: what to fetch, how to check it, and the key to publish it under.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    pub key: Key,
    pub archive_type: ArchiveType,
    /// Length of the archive in bytes, if the push states it.
    pub size: Option<u64>,
    /// Of the archive, if the push states it.
    pub md5: Option<Md5>,
    /// Of the archive, if the push states it.
    pub sha256: Option<Sha256>,
    pub url: SourceUrl,
    /// Time limit for the whole push of this file.
    pub timeout: Duration,
}

impl DataFile {
    /// Returns the first of size, md5 and sha256 that differs between this file and `published`, as
    /// (what, published, stated). Values that either side lacks are not compared.
    #[must_use]
    pub fn difference(&self, published: &Content) -> Option<(&'static str, String, String)> {
        fn differs<T: PartialEq + fmt::Display>(
            what: &'static str,
            published: Option<T>,
            stated: Option<T>,
        ) -> Option<(&'static str, String, String)> {
            let (published, stated) = (published?, stated?);
            (published != stated).then(|| (what, published.to_string(), stated.to_string()))
        }
        differs("md5", published.md5, self.md5)
            .or_else(|| differs("sha256", published.sha256, self.sha256))
            .or_else(|| differs("size", published.size, self.size))
    }

    /// Returns what the push states about the archive.
    #[must_use]
    pub fn content(&self) -> Content {
        Content {
            size: self.size,
            md5: self.md5,
            sha256: self.sha256,
        }
    }
}

/// Size and digests of an archive, as far as they are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Content {
    /// In bytes.
    pub size: Option<u64>,
    pub md5: Option<Md5>,
    pub sha256: Option<Sha256>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(DataName::parse("a/b:c").is_ok());
        for bad in ["", " ", "a,b", "a\nb", "a\0b"] {
            assert!(DataName::parse(bad).is_err(), "{bad:?}");
        }
        assert!(DataName::parse(&"x".repeat(MAX_TEXT + 1)).is_err());
        assert!(Md5::parse("D41D8CD98F00B204E9800998ECF8427E").is_ok());
        assert!(Md5::parse("zz").is_err());
    }
}
