//! The manifest of a version: what was published, entry by entry, with digests. It is stored next
//! to the tree, not inside it, is readable without the database, and is what a lost database is
//! rebuilt from.

use std::io::{self, BufWriter, Read, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Error;
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

/// One entry of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Raw bytes, relative to the version directory.
    pub path: Vec<u8>,
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since the epoch; `None` for a directory that the archive only implied.
    pub mtime: Option<i64>,
}

/// The kind of an entry, and what only that kind has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    Dir,
    File {
        /// In bytes.
        size: u64,
        /// `None` where entries are not hashed.
        sha256: Option<Sha256>,
    },
    Symlink {
        /// Raw bytes.
        target: Vec<u8>,
    },
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
            mtime: entry.mtime,
            size: None,
            sha256: None,
            target: None,
            target_hex: None,
        };
        match &entry.kind {
            EntryKind::Dir => line("dir"),
            EntryKind::File { size, sha256 } => Self {
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
            kind,
            mode,
            mtime: self.mtime,
        })
    }
}

/// Writes a manifest to `path` without syncing it: the head, then one entry per line.
pub fn write<'a>(
    path: &Path,
    head: &Head,
    entries: impl Iterator<Item = &'a Entry>,
) -> Result<(), Error> {
    let at = |verb| durable::at(verb, path);
    let file = std::fs::File::create_new(path).map_err(at("create"))?;
    write_to(BufWriter::with_capacity(64 << 10, file), head, entries).map_err(at("write"))?;
    Ok(())
}

fn write_to<'a>(
    mut out: impl Write,
    head: &Head,
    entries: impl Iterator<Item = &'a Entry>,
) -> io::Result<()> {
    let mut text = serde_json::to_string(head)?;
    text.pop();
    out.write_all(text.as_bytes())?;
    out.write_all(ENTRIES)?;
    let mut separator = "\n";
    for entry in entries {
        out.write_all(separator.as_bytes())?;
        serde_json::to_writer(&mut out, &Line::from(entry))?;
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

/// Reads the head and the entries.
pub fn read(path: &Path) -> Result<(Head, Vec<Entry>), Error> {
    #[derive(Deserialize)]
    struct Whole {
        #[serde(flatten)]
        head: Head,
        entries: Vec<Line>,
    }
    let whole: Whole = read_json(path)?;
    let entries: Option<Vec<Entry>> = whole.entries.into_iter().map(Line::entry).collect();
    let entries = entries.ok_or_else(|| Error::Manifest {
        path: path.display().to_string(),
        source: serde::de::Error::custom("an entry has an unknown kind or lacks a field"),
    })?;
    Ok((whole.head, entries))
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

    #[test]
    fn goes_both_ways_with_any_bytes_in_a_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.json");
        let head = Head {
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
        };
        let entries = vec![
            Entry {
                path: b"d".to_vec(),
                kind: EntryKind::Dir,
                mode: 0o755,
                mtime: Some(1),
            },
            Entry {
                path: b"d/\xff\n".to_vec(),
                kind: EntryKind::File {
                    size: 3,
                    sha256: Some(crate::datafile::Digest([9; 32])),
                },
                mode: 0o644,
                mtime: Some(-1),
            },
            Entry {
                path: b"l".to_vec(),
                kind: EntryKind::Symlink {
                    target: b"d".to_vec(),
                },
                mode: 0o777,
                mtime: Some(0),
            },
        ];
        write(&path, &head, entries.iter()).unwrap();
        assert_eq!(read(&path).unwrap(), (head.clone(), entries));
        assert_eq!(read_head(&path).unwrap(), head);
    }
}
