//! Verifies a published tree against its manifest: every entry, its mode, its link, its bytes, and
//! nothing that is not in the manifest. Read-only: it reports differences and repairs nothing.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::walk::Walk;
use super::{Error, Publisher, manifest};
use crate::datafile::tree::{Entry, EntryKind};
use crate::datafile::{Digest, Key, Sha256};
use crate::sys::blocks::read_blocks;
use crate::sys::durable;

/// At most this many differences of one version are listed; further ones are only counted.
pub const MOST_DAMAGE: usize = 100;

/// How thoroughly a tree is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Entries, kinds, modes, sizes and link targets; no file is read.
    Stat,
    /// The same, and the bytes of every file.
    Bytes,
}

/// State of a comparison of a tree with its manifest, which have the same order: of neither more
/// than one entry is held.
struct Look<'a> {
    depth: Depth,
    report: &'a mut Report,
    pace: &'a mut dyn FnMut(u64) -> bool,
    walk: Walk<'a>,
    /// The path of the entry before.
    last: Option<Vec<u8>>,
}

/// One difference between a tree and its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Damage {
    /// The entry's path below the version directory, escaped.
    pub path: String,
    /// Stable name: `missing`, `extra`, `kind`, `mode`, `size`, `content`, `link`, `unreadable` or
    /// `manifest`.
    pub what: String,
    pub expected: String,
    pub found: String,
}

/// Result of verifying one version.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Report {
    pub entries: u64,
    pub bytes: u64,
    /// The first [`MOST_DAMAGE`] differences.
    pub damage: Vec<Damage>,
    /// The number of differences, listed or not.
    pub damaged: u64,
}

impl Report {
    /// Tells whether the only differences are modes, and links that were followed.
    fn has_same_files(&self) -> bool {
        let is_harmless = |damage: &Damage| match damage.what.as_str() {
            "mode" => true,
            "kind" => damage.expected == "a symbolic link",
            _ => false,
        };
        self.damaged as usize == self.damage.len() && self.damage.iter().all(is_harmless)
    }

    fn add(&mut self, path: &[u8], what: &str, expected: impl ToString, found: impl ToString) {
        self.damaged += 1;
        if self.damage.len() < MOST_DAMAGE {
            self.damage.push(Damage {
                path: path.escape_ascii().to_string(),
                what: what.to_owned(),
                expected: expected.to_string(),
                found: found.to_string(),
            });
        }
    }
}

impl Publisher {
    /// Compares the tree of `key` with its manifest, to the given `depth`. `pace` is called with
    /// the number of bytes of each block read; it may sleep to cap the load, or return false to
    /// abort.
    pub fn verify(
        &self,
        key: &Key,
        depth: Depth,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Report, Error> {
        self.compare(&self.layout().version_dir(key), key, depth, pace)
    }

    /// Tells whether a directory that stands at `current` holds the files of `key`, such as a copy
    /// that followed links does. Modes and links do not matter.
    #[must_use]
    pub fn current_is_copy_of(&self, key: &Key) -> bool {
        let dir = self.layout().current(&key.app, &key.name);
        if fs::symlink_metadata(&dir).is_ok_and(|meta| !meta.is_dir()) {
            return false;
        }
        // Most directories that are no copy show that without their bytes being read.
        [Depth::Stat, Depth::Bytes].into_iter().all(|depth| {
            let compared = self.compare(&dir, key, depth, &mut |_| true);
            compared.is_ok_and(|report| report.has_same_files())
        })
    }

    fn compare(
        &self,
        root: &Path,
        key: &Key,
        depth: Depth,
        pace: &mut dyn FnMut(u64) -> bool,
    ) -> Result<Report, Error> {
        let mut report = Report::default();
        if !root.is_dir() {
            report.add(b"", "missing", "a tree", "nothing");
            return Ok(report);
        }
        let manifest = self.layout().manifest(key);
        let mut look = Look {
            depth,
            report: &mut report,
            pace,
            walk: Walk::new(root)?,
            last: None,
        };
        let mut failed = None;
        let read = manifest::read(&manifest, &mut |entry| match look.entry(entry) {
            Ok(sorted) => sorted,
            Err(error) => {
                failed = Some(error);
                false
            }
        });
        match (failed, read) {
            (Some(error), _) => return Err(error),
            (None, Ok(())) => look.extra_until(None)?,
            (None, Err(error)) if error.is_no_manifest() => {
                report = Report::default();
                report.add(b"", "manifest", "a manifest", crate::sys::Chain(&error));
            }
            (None, Err(error)) => return Err(error),
        }
        Ok(report)
    }
}

impl Look<'_> {
    /// Compares the next entry of the manifest with the tree. Returns false if it is not in order.
    fn entry(&mut self, entry: Entry) -> Result<bool, Error> {
        if self.last.as_ref().is_some_and(|last| *last >= entry.path) {
            return Ok(false);
        }
        self.extra_until(Some(&entry.path))?;
        if self.walk.path() == Some(&entry.path) {
            self.report.entries += 1;
            compare(&self.walk.place(), &entry, self)?;
            self.walk.advance()?;
        } else {
            let kind = describe(&entry.kind);
            self.report.add(&entry.path, "missing", kind, "nothing");
        }
        self.last = Some(entry.path);
        Ok(true)
    }

    /// Reports what the tree has before `path`; everything, if there is none.
    fn extra_until(&mut self, path: Option<&[u8]>) -> Result<(), Error> {
        while let Some(found) = self.walk.path()
            && path.is_none_or(|path| found < path)
        {
            self.report.entries += 1;
            self.report.add(found, "extra", "nothing", "an entry");
            self.walk.advance()?;
        }
        Ok(())
    }
}

fn describe(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::Dir => "a directory",
        EntryKind::File { .. } => "a file",
        EntryKind::Symlink { .. } => "a symbolic link",
    }
}

fn compare(path: &Path, entry: &Entry, look: &mut Look<'_>) -> Result<(), Error> {
    let Look {
        depth,
        report,
        pace,
        ..
    } = look;
    let name = entry.path.as_slice();
    let meta = fs::symlink_metadata(path).map_err(durable::at("stat", path))?;
    let found = match () {
        () if meta.is_dir() => "a directory",
        () if meta.is_file() => "a file",
        () if meta.is_symlink() => "a symbolic link",
        () => "a special file",
    };
    if found != describe(&entry.kind) {
        report.add(name, "kind", describe(&entry.kind), found);
        return Ok(());
    }
    let mode = meta.mode() & 0o7777;
    if !meta.is_symlink() && mode != entry.mode {
        let wanted = format!("{:04o}", entry.mode);
        report.add(name, "mode", wanted, format!("{mode:04o}"));
    }
    match &entry.kind {
        EntryKind::Dir => {}
        EntryKind::Symlink { target } => {
            let found = fs::read_link(path).map_err(durable::at("read link", path))?;
            if found.as_os_str().as_bytes() != target {
                report.add(
                    name,
                    "link",
                    target.escape_ascii(),
                    found.as_os_str().as_bytes().escape_ascii(),
                );
            }
        }
        EntryKind::File { size, .. } if *size != meta.len() => {
            report.add(name, "size", size, meta.len())
        }
        EntryKind::File { .. } if *depth == Depth::Stat => {}
        EntryKind::File { sha256: None, .. } => {}
        EntryKind::File {
            sha256: Some(digest),
            ..
        } => match hash(path, report, *pace) {
            Ok(found) if found == *digest => {}
            Ok(found) => report.add(name, "content", digest, found),
            // A bad sector damages only this entry; the others are still checked.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                report.add(name, "unreadable", digest, error);
            }
            Err(error) => return Err(durable::at("read", path)(error).into()),
        },
    }
    Ok(())
}

fn hash(path: &Path, report: &mut Report, pace: &mut dyn FnMut(u64) -> bool) -> io::Result<Sha256> {
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let file = File::options()
        .read(true)
        .custom_flags(flags.cast_signed())
        .open(path)?;
    let mut hasher = sha2::Sha256::new();
    read_blocks(file, |block| {
        hasher.update(block);
        report.bytes += block.len() as u64;
        if pace(block.len() as u64) {
            return Ok(());
        }
        // Not `Interrupted`: callers retry a read on that.
        Err(io::Error::other("the verification was aborted"))
    })?;
    Ok(Digest(hasher.finalize().into()))
}
