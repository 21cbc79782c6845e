//! The nouns of the product: application, data file, version, archive type and source.
//!
//! Parsing is the check: a value of one of these types is valid by construction, and no other
//! module checks it again. No I/O happens here. The words are the contract's (ENS 2017-11-10,
//! `PushApplicationData`).

pub mod tree;

use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use url::Url;

/// Maximum length of a name, version or application id, in bytes.
pub const MAX_TEXT: usize = 1024;
/// Maximum length of a source URL, in bytes.
pub const MAX_URL: usize = 16 * 1024;
/// Maximum length of an escaped path component, in bytes; a longer one is truncated and ends in a
/// digest.
pub const MAX_COMPONENT: usize = 200;
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
    #[error("archiveType is `{found}`, expected `tar.gz`, `zip` or `tar`")]
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

/// Returns the path component used for `text`; different texts never share one.
///
/// `A-Z a-z 0-9 . _ -` are kept; every other byte becomes `%XX`, and so does a leading dot. A
/// result longer than [`MAX_COMPONENT`] bytes is truncated at 160 and ends in `%~` and 32
/// hexadecimal digits of the text's SHA-256; the escape itself never produces `%~`.
/// [`from_path_component`] reverses it unless it was truncated.
#[must_use]
pub fn path_component(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut cut = 0;
    for (i, byte) in text.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && i > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        if out.len() <= 160 {
            cut = out.len();
        }
    }
    if out.len() > MAX_COMPONENT {
        out.truncate(cut);
        let digest = sha2::Sha256::digest(text.as_bytes());
        out.push_str("%~");
        out.push_str(&hex::encode(&digest[..16]));
    }
    out
}

/// Returns the text behind `component`, or `None` if it was truncated or was not made by
/// [`path_component`].
#[must_use]
pub fn from_path_component(component: &str) -> Option<String> {
    let mut out = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            out.push(*first);
        }
    }
    let text = String::from_utf8(out).ok()?;
    (path_component(&text) == component).then_some(text)
}

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

    /// Parses the contract's spelling in any case; `tgz` also means `tar.gz`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        match text.to_ascii_lowercase().as_str() {
            "tar.gz" | "tgz" => Ok(Self::TarGz),
            "zip" => Ok(Self::Zip),
            "tar" => Ok(Self::Tar),
            _ => Err(Invalid::ArchiveType {
                found: shorten(text),
            }),
        }
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
        if name.ends_with(".tar.gz") || name.ends_with(".tgz") {
            Some(Self::TarGz)
        } else if name.ends_with(".zip") {
            Some(Self::Zip)
        } else if name.ends_with(".tar") {
            Some(Self::Tar)
        } else {
            None
        }
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

/// Returns host and port as used to connect, such as `cdn.example:443`.
#[must_use]
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Where an archive is fetched from. `Display` and `Debug` show only scheme, host, port and path:
/// user information and query often contain credentials or a signature, which must never appear in
/// a log, a status or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceUrl(Url);

impl SourceUrl {
    /// Parses an `http` or `https` URL that has a host.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let url = Self::parse_any(text)?;
        match url.scheme() {
            "http" | "https" => Ok(Self(url)),
            other => Err(Invalid::Url {
                why: format!("scheme `{}`, expected `http` or `https`", shorten(other)),
            }),
        }
    }

    /// Parses a source in a local push document: an `http(s)` or `file` URL, or a path relative to
    /// `base`.
    pub fn parse_local(text: &str, base: &Path) -> Result<Self, Invalid> {
        if text.trim().is_empty() {
            return Err(Invalid::Blank { what: "url" });
        }
        if let Ok(url) = Url::parse(text) {
            return match url.scheme() {
                "http" | "https" => Self::parse(text),
                "file" if url.to_file_path().is_ok() => Ok(Self(url)),
                other => Err(Invalid::Url {
                    why: format!(
                        "scheme `{}`, expected `http`, `https` or `file`",
                        shorten(other)
                    ),
                }),
            };
        }
        let path = std::path::absolute(base.join(text)).map_err(|_| Invalid::Url {
            why: "not an absolute path and no current directory".to_owned(),
        })?;
        Url::from_file_path(path)
            .map(Self)
            .map_err(|()| Invalid::Url {
                why: "not a path".to_owned(),
            })
    }

    fn parse_any(text: &str) -> Result<Url, Invalid> {
        if text.trim().is_empty() {
            return Err(Invalid::Blank { what: "url" });
        }
        if text.len() > MAX_URL {
            return Err(Invalid::TooLong {
                what: "url",
                len: text.len(),
                max: MAX_URL,
            });
        }
        let mut url = Url::parse(text).map_err(|e| Invalid::Url { why: e.to_string() })?;
        url.set_fragment(None);
        Ok(url)
    }

    /// Returns the URL to connect to; it may contain secrets and must not be printed.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Returns the full text, secrets included. Only the store may use it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the path of a `file` URL.
    #[must_use]
    pub fn file_path(&self) -> Option<std::path::PathBuf> {
        (self.0.scheme() == "file")
            .then(|| self.0.to_file_path().ok())
            .flatten()
    }
}

impl From<Url> for SourceUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        let hidden = shown.query().is_some();
        shown.set_query(None);
        write!(f, "{shown}{}", if hidden { "?…" } else { "" })
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
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
    fn escapes_every_name_to_one_component_and_back() {
        for (text, want) in [
            ("app01", "app01"),
            (
                "159828628258496/mirror_file/game-1.tar",
                "159828628258496%2Fmirror_file%2Fgame-1.tar",
            ),
            (".", "%2E"),
            ("..", "%2E."),
            (".hidden", "%2Ehidden"),
            ("a%2Fb", "a%252Fb"),
            ("ü", "%C3%BC"),
            ("1.0+b 2", "1.0%2Bb%202"),
            ("A", "A"),
            ("a", "a"),
        ] {
            assert_eq!(path_component(text), want);
            assert_eq!(from_path_component(want).as_deref(), Some(text));
        }
    }

    #[test]
    fn long_names_stay_apart_and_under_the_limit() {
        let (a, b) = ("ü".repeat(300), format!("{}x", "ü".repeat(300)));
        for text in [&a, &b] {
            let component = path_component(text);
            assert!(component.len() <= MAX_COMPONENT, "{}", component.len());
            assert_eq!(from_path_component(&component), None);
        }
        assert_ne!(path_component(&a), path_component(&b));
        let exact = "x".repeat(MAX_COMPONENT);
        assert_eq!(path_component(&exact), exact);
    }

    #[test]
    fn refuses_components_that_are_not_of_its_making() {
        for odd in ["%2f", "%41", "%", "%2", "%zz", "a/b", ".x", "%FF"] {
            assert_eq!(from_path_component(odd), None, "{odd}");
        }
    }

    #[test]
    fn url_shows_no_secret() {
        let url = SourceUrl::parse("https://user:pa55@cdn.example:8443/a/b.zip?sign=SECRET#frag")
            .unwrap();
        assert_eq!(url.to_string(), "https://cdn.example:8443/a/b.zip?…");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert!(url.expose().contains("sign=SECRET"));
        assert_eq!(authority(url.url()), "cdn.example:8443");
    }

    #[test]
    fn url_must_be_http_unless_local() {
        for bad in [
            "",
            "  ",
            "ftp://h/x",
            "file:///etc/passwd",
            "h/x",
            "http://",
            "javascript:1",
        ] {
            assert!(SourceUrl::parse(bad).is_err(), "{bad}");
        }
        let local = SourceUrl::parse_local("a.zip", Path::new("/srv/doc")).unwrap();
        assert_eq!(local.file_path().unwrap(), Path::new("/srv/doc/a.zip"));
        assert!(SourceUrl::parse_local("ftp://h/x", Path::new("/")).is_err());
    }

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
