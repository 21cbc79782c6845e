//! The manifest of a version: what was published, entry by entry, with digests. It is stored next
//! to the tree, not inside it, is readable without the database, and is what a lost database is
//! rebuilt from.

use std::borrow::Borrow;
use std::fmt;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde::de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::Error;
use crate::datafile::tree::{Entry, EntryKind, Mtime};
use crate::datafile::{ArchiveType, Content, Key, Sha256};
use crate::sys::durable;

/// The format this code writes. A reader ignores unknown fields of a newer format.
pub const FORMAT: u32 = 1;
/// Separates head and entries.
const ENTRIES: &[u8] = b",\"entries\":[";
/// A head holds at most three escaped names of 1 KiB each, and little else.
const HEAD_BYTES: usize = 32 << 10;

/// The manifest without its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Head {
    pub format: u32,
    #[serde(flatten)]
    pub key: Key,
    pub archive_type: ArchiveType,
    /// Of the archive as received.
    pub source: Content,
    pub job: i64,
    /// Milliseconds since the epoch.
    pub accepted_ms: i64,
    /// Milliseconds since the epoch.
    pub published_ms: i64,
    pub files: u64,
    /// In the tree's files.
    pub bytes: u64,
}

/// An entry in JSON: `path` if it is UTF-8, otherwise `pathHex`; likewise for a link's target.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    path_hex: Option<String>,
    kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mtime: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sha256: Option<Sha256>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    target_hex: Option<String>,
}

fn text_or_hex(bytes: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(bytes) {
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(hex::encode(bytes))),
    }
}

fn bytes_of(text: Option<String>, hexadecimal: Option<String>) -> Option<Vec<u8>> {
    text.map(String::into_bytes)
        .or_else(|| hex::decode(hexadecimal?).ok())
}

impl From<&Entry> for Line {
    fn from(entry: &Entry) -> Self {
        let (path, path_hex) = text_or_hex(&entry.path);
        let mode = Some(format!("{:04o}", entry.mode));
        let line = |kind: &str| Self {
            path,
            path_hex,
            kind: kind.to_owned(),
            mode,
            mtime: entry.mtime.map(|m| m.secs),
            size: None,
            sha256: None,
            target: None,
            target_hex: None,
        };
        match &entry.kind {
            EntryKind::Dir => line("dir"),
            EntryKind::File { size, sha256, .. } => Self {
                size: Some(*size),
                sha256: *sha256,
                ..line("file")
            },
            EntryKind::Symlink { target } => {
                let (target, target_hex) = text_or_hex(target);
                Self {
                    target,
                    target_hex,
                    mode: None,
                    ..line("symlink")
                }
            }
        }
    }
}

impl Line {
    fn entry(self) -> Option<Entry> {
        let kind = match self.kind.as_str() {
            "dir" => EntryKind::Dir,
            "file" => EntryKind::File {
                size: self.size?,
                sha256: self.sha256,
                link_to: None,
            },
            "symlink" => EntryKind::Symlink {
                target: bytes_of(self.target, self.target_hex)?,
            },
            _ => return None,
        };
        let mode = self
            .mode
            .as_deref()
            .map_or(Some(0o777), |m| u32::from_str_radix(m, 8).ok())?;
        Some(Entry {
            path: bytes_of(self.path, self.path_hex)?,
            mode,
            mtime: self.mtime.map(|secs| Mtime { secs, nanos: 0 }),
            kind,
        })
    }
}

/// Writes a manifest to `path` without syncing it: the head, then one entry per line.
pub fn write(
    path: &Path,
    head: &Head,
    entries: impl Iterator<Item: Borrow<Entry>>,
) -> Result<(), Error> {
    let at = |verb| durable::at(verb, path);
    let file = std::fs::File::create_new(path).map_err(at("create"))?;
    write_to(BufWriter::with_capacity(64 << 10, file), head, entries).map_err(at("write"))?;
    Ok(())
}

fn write_to(
    mut out: impl Write,
    head: &Head,
    entries: impl Iterator<Item: Borrow<Entry>>,
) -> io::Result<()> {
    let mut text = serde_json::to_string(head)?;
    text.pop();
    out.write_all(text.as_bytes())?;
    out.write_all(ENTRIES)?;
    let mut separator = "\n";
    for entry in entries {
        out.write_all(separator.as_bytes())?;
        serde_json::to_writer(&mut out, &Line::from(entry.borrow()))?;
        separator = ",\n";
    }
    out.write_all(b"\n]}\n")?;
    out.flush()
}

/// Reads only the head of a manifest; of a file that edgepush wrote, no more than the head is read
/// from disk.
pub fn read_head(path: &Path) -> Result<Head, Error> {
    let mut start = Vec::with_capacity(HEAD_BYTES);
    let file = std::fs::File::open(path).map_err(durable::at("open", path))?;
    file.take(HEAD_BYTES as u64)
        .read_to_end(&mut start)
        .map_err(durable::at("read", path))?;
    let cut = start.windows(ENTRIES.len()).position(|w| w == ENTRIES);
    if let Some(cut) = cut {
        start.truncate(cut);
        start.push(b'}');
        if let Ok(head) = serde_json::from_slice(&start) {
            return Ok(head);
        }
    }
    read_json(path)
}

/// Reads head and entries, and hands each entry to `each` in the order of the manifest, which may be
/// larger than memory. Ends with an error if `each` returns false.
pub fn read(path: &Path, each: &mut dyn FnMut(Entry) -> bool) -> Result<(), Error> {
    read_head(path)?;
    let file = std::fs::File::open(path).map_err(durable::at("open", path))?;
    let mut text = serde_json::Deserializer::from_reader(BufReader::with_capacity(64 << 10, file));
    let read = (&mut text).deserialize_map(Whole { each });
    read.and_then(|()| text.end()).map_err(|error| {
        if error.is_io() {
            return durable::at("read", path)(error.into()).into();
        }
        let path = path.display().to_string();
        Error::Manifest {
            path,
            source: error,
        }
    })
}

/// The manifest, of which only the entries are looked at.
struct Whole<'a> {
    each: &'a mut dyn FnMut(Entry) -> bool,
}

impl<'de> Visitor<'de> for Whole<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a manifest")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut found = false;
        while let Some(key) = map.next_key::<String>()? {
            if key == "entries" {
                found = true;
                map.next_value_seed(Entries { each: self.each })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        if found {
            Ok(())
        } else {
            Err(de::Error::missing_field("entries"))
        }
    }
}

struct Entries<'a> {
    each: &'a mut dyn FnMut(Entry) -> bool,
}

impl<'de> DeserializeSeed<'de> for Entries<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(line) = seq.next_element::<Line>()? {
            let Some(entry) = line.entry() else {
                return Err(de::Error::custom(
                    "an entry has an unknown kind or lacks a field",
                ));
            };
            if !(self.each)(entry) {
                return Err(de::Error::custom("an entry is out of order"));
            }
        }
        Ok(())
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let bytes = std::fs::read(path).map_err(durable::at("read", path))?;
    serde_json::from_slice(&bytes).map_err(|source| Error::Manifest {
        path: path.display().to_string(),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datafile::{AppId, DataName, DataVersion};

    fn head() -> Head {
        Head {
            format: FORMAT,
            key: Key {
                app: AppId::parse("app").unwrap(),
                name: DataName::parse("a/b").unwrap(),
                version: DataVersion::parse("1.0").unwrap(),
            },
            archive_type: ArchiveType::TarGz,
            source: Content {
                size: Some(3),
                ..Content::default()
            },
            job: 7,
            accepted_ms: 1,
            published_ms: 2,
            files: 1,
            bytes: 3,
        }
    }

    fn entry(path: &[u8], mode: u32, mtime: Option<(i64, u32)>, kind: EntryKind) -> Entry {
        Entry {
            path: path.to_vec(),
            mode,
            mtime: mtime.map(|(secs, nanos)| Mtime { secs, nanos }),
            kind,
        }
    }

    fn file(link_to: Option<&[u8]>) -> EntryKind {
        EntryKind::File {
            size: 3,
            sha256: Some(crate::datafile::Digest([9; 32])),
            link_to: link_to.map(<[u8]>::to_vec),
        }
    }

    fn symlink(target: &[u8]) -> EntryKind {
        EntryKind::Symlink {
            target: target.to_vec(),
        }
    }

    #[test]
    fn goes_both_ways_with_any_bytes_in_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.json");
        let entries = vec![
            entry(b"d", 0o755, Some((1, 0)), EntryKind::Dir),
            entry(b"d/\xff\n", 0o644, Some((-1, 0)), file(None)),
            entry(b"l", 0o777, Some((0, 0)), symlink(b"d")),
        ];
        write(&path, &head(), entries.iter()).unwrap();
        let mut read_back = Vec::new();
        read(&path, &mut |entry| {
            read_back.push(entry);
            true
        })
        .unwrap();
        assert_eq!(read_back, entries);
        assert_eq!(read_head(&path).unwrap(), head());
    }

    #[test]
    fn keeps_neither_nanoseconds_nor_which_file_a_name_is_a_link_of() {
        let entries = [
            entry(b"d", 0o755, None, EntryKind::Dir),
            entry(b"f", 0o644, Some((-1, 5)), file(None)),
            entry(b"h", 0o644, Some((-1, 5)), file(Some(b"f"))),
            entry(b"l", 0o777, Some((2, 7)), symlink(b"\xff")),
        ];
        let mut text = Vec::new();
        write_to(&mut text, &head(), entries.iter()).unwrap();
        let text = String::from_utf8(text).unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let digest = "09".repeat(32);
        let file = |path| {
            format!(
                r#"{{"path":"{path}","kind":"file","mode":"0644","mtime":-1,"size":3,"sha256":"{digest}"}},"#
            )
        };
        assert_eq!(
            lines,
            [
                r#"{"path":"d","kind":"dir","mode":"0755"},"#,
                &file("f"),
                &file("h"),
                r#"{"path":"l","kind":"symlink","mtime":2,"targetHex":"ff"}"#,
                "]}"
            ]
        );
    }
}
