//! One `NAME@VERSION=FILE-or-URL` of the command line, and the data file that it becomes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::datafile::{
    AppId, ArchiveType, Content, DataFile, DataName, DataVersion, Digest, Invalid, Key, SourceUrl,
};
use crate::verify;

/// How the words on the command line are written.
pub(super) const FORM: &str = "NAME@VERSION=FILE-or-URL";

/// One file to push, as stated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    name: DataName,
    version: DataVersion,
    source: Source,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Source {
    /// A file of this machine: its size and digests are computed.
    File(PathBuf),
    /// A URL, with what its fragment pins: `#md5=..&sha256=..&size=..`.
    Url(SourceUrl, Content),
}

/// Why an item cannot be pushed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ItemError {
    /// It does not have the form.
    #[error("`{0}`: expected {FORM}")]
    Form(String),
    /// A part of it is invalid.
    #[error("`{0}`")]
    Part(String, #[source] Invalid),
    /// The fragment of a URL pins something unknown.
    #[error("`{0}`: expected `#md5=..`, `#sha256=..`, `#size=..`, or several joined by `&`")]
    Pin(String),
    /// Its archive type is unknown.
    #[error(
        "`{item}`: its name does not end with {}; say --type",
        ArchiveType::all_endings()
    )]
    Type { item: String },
    /// The file cannot be read.
    #[error("read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

impl Item {
    /// Parses one word of the command line. A name may hold `@`; the last one counts.
    pub(super) fn parse(word: &str) -> Result<Self, ItemError> {
        let form = || ItemError::Form(word.to_owned());
        let (key, source) = word.split_once('=').ok_or_else(form)?;
        let (name, version) = key.rsplit_once('@').ok_or_else(form)?;
        let part = |invalid| ItemError::Part(word.to_owned(), invalid);
        Ok(Self {
            name: DataName::parse(name).map_err(part)?,
            version: DataVersion::parse(version).map_err(part)?,
            source: Source::parse(source)?,
        })
    }

    /// Returns the path of a file of this machine.
    pub(super) fn local_path(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path) => Some(path),
            Source::Url(..) => None,
        }
    }

    /// Returns the data file that this item is for `app`, with what is known of its bytes.
    pub(super) fn data_file(
        self,
        app: &AppId,
        stated: Option<ArchiveType>,
        timeout: Duration,
    ) -> Result<DataFile, ItemError> {
        let shown = self.source.shown();
        let archive_type = stated
            .or_else(|| ArchiveType::from_file_name(&shown))
            .ok_or(ItemError::Type {
                item: shown.clone(),
            })?;
        let (url, content) = match self.source {
            Source::Url(url, content) => (url, content),
            Source::File(path) => {
                let content = File::open(&path)
                    .and_then(verify::measure)
                    .map_err(|source| ItemError::Read {
                        path: path.clone(),
                        source,
                    })?;
                let url = SourceUrl::parse_local(&path.to_string_lossy(), Path::new("."))
                    .map_err(|invalid| ItemError::Part(shown, invalid))?;
                (url, content)
            }
        };
        Ok(DataFile {
            key: Key {
                app: app.clone(),
                name: self.name,
                version: self.version,
            },
            archive_type,
            size: content.size,
            md5: content.md5,
            sha256: content.sha256,
            url,
            timeout,
        })
    }
}

impl Source {
    fn parse(text: &str) -> Result<Self, ItemError> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let (url, pins) = text.split_once('#').unwrap_or((text, ""));
        let part = |invalid| {
            ItemError::Part(
                url.split('?').next().unwrap_or_default().to_owned(),
                invalid,
            )
        };
        let url = SourceUrl::parse(url).map_err(part)?;
        let mut content = Content::default();
        for pin in pins.split('&').filter(|pin| !pin.is_empty()) {
            let wrong = || ItemError::Pin(pin.to_owned());
            match pin.split_once('=').ok_or_else(wrong)? {
                ("md5", digest) => content.md5 = Some(Digest::parse(digest).map_err(part)?),
                ("sha256", digest) => content.sha256 = Some(Digest::parse(digest).map_err(part)?),
                ("size", size) => content.size = Some(size.parse().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            }
        }
        Ok(Self::Url(url, content))
    }

    /// Returns the source without secrets.
    fn shown(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Url(url, _) => url.url().path().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(word: &str) -> DataFile {
        let app = AppId::parse("app").unwrap();
        let item = Item::parse(word).unwrap();
        item.data_file(&app, None, Duration::from_secs(9)).unwrap()
    }

    #[test]
    fn measures_a_local_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tgz");
        std::fs::write(&path, "abc").unwrap();
        let made = file(&format!("me@home/maps@1.0={}", path.display()));
        assert_eq!(made.key.to_string(), "app/me@home/maps@1.0");
        assert_eq!(made.archive_type, ArchiveType::TarGz);
        assert_eq!(made.size, Some(3));
        assert_eq!(
            made.md5.unwrap().to_string(),
            "900150983cd24fb0d6963f7d28e17f72"
        );
        let sha256 = made.sha256.unwrap().to_string();
        assert!(sha256.starts_with("ba7816bf8f01cfea"), "{sha256}");
        assert_eq!(made.url.file_path().unwrap(), path);
    }

    #[test]
    fn takes_pins_from_the_fragment_of_a_url() {
        let md5 = "900150983cd24fb0d6963f7d28e17f72";
        let made = file(&format!("a@1=https://h/x.zip?sign=S#md5={md5}&size=3"));
        assert_eq!(made.md5.unwrap().to_string(), md5);
        assert_eq!((made.size, made.sha256), (Some(3), None));
        assert_eq!(made.url.expose(), "https://h/x.zip?sign=S");
    }

    #[test]
    fn says_what_is_wrong_and_shows_no_secret() {
        for (word, want) in [
            ("a=b.zip", "expected NAME@VERSION=FILE-or-URL"),
            ("a@1", "expected NAME@VERSION=FILE-or-URL"),
            ("@1=b.zip", "name is blank"),
            ("a@1=ftp://h/b.zip?sign=SECRET", "scheme `ftp`"),
            (
                "a@1=http://h/b.zip?sign=SECRET#md5=x",
                "expected 32 hexadecimal digits",
            ),
            ("a@1=http://h/b.zip?sign=SECRET#crc=1", "expected `#md5=..`"),
        ] {
            let error = Item::parse(word).unwrap_err();
            let text = crate::sys::Chain(&error).to_string();
            assert!(text.contains(want), "{text}");
            assert!(!text.contains("SECRET"), "{text}");
        }
        let app = AppId::parse("app").unwrap();
        let item = Item::parse("a@1=http://h/b?x.zip").unwrap();
        let error = item.data_file(&app, None, Duration::ZERO).unwrap_err();
        assert!(matches!(error, ItemError::Type { .. }), "{error}");
    }
}
