//! What lies in a directory of documents.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::wire::document::MAX_DOCUMENT;

/// The entries of a directory, each group in order of names.
#[derive(Default)]
pub(super) struct Entries {
    /// Plain files whose names end in `.json`.
    pub(super) documents: Vec<PathBuf>,
    /// Everything else, with the reason. Names with a leading dot are left out: sync tools write
    /// them, and rename them.
    pub(super) ignored: Vec<(PathBuf, &'static str)>,
}

/// Lists a directory; one that cannot be read is empty.
pub(super) fn list(dir: &Path) -> Entries {
    let mut entries = Entries::default();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        match why_ignored(&entry.path(), kind) {
            None => entries.documents.push(entry.path()),
            Some(why) => entries.ignored.push((entry.path(), why)),
        }
    }
    entries.documents.sort();
    entries.ignored.sort();
    entries
}

fn why_ignored(path: &Path, kind: fs::FileType) -> Option<&'static str> {
    if kind.is_symlink() {
        Some("a link")
    } else if kind.is_dir() {
        Some("a directory")
    } else if !kind.is_file() {
        Some("not a plain file")
    } else if path.extension().is_none_or(|ending| ending != "json") {
        Some("its name does not end in `.json`")
    } else {
        None
    }
}

/// Reads a document; of one that is too large, more than is allowed.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(MAX_DOCUMENT as u64 + 1)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
