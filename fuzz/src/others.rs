//! What other tools make of an archive.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::datafile::ArchiveType;
use crate::datafile::tree::EntryKind;
use crate::disk::{Found, Kind, Place};
use crate::forked::Forked;
use crate::input::Input;
use crate::unpack::Tree;

/// A tool that unpacks archives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// GNU tar.
    Tar,
    /// libarchive's bsdtar, for tar and zip.
    Bsdtar,
    /// Info-ZIP's unzip.
    Unzip,
}

impl Tool {
    /// Returns the tools that read `format`.
    pub fn all(format: ArchiveType) -> [Self; 2] {
        match format {
            ArchiveType::Tar | ArchiveType::TarGz => [Self::Tar, Self::Bsdtar],
            ArchiveType::Zip => [Self::Unzip, Self::Bsdtar],
        }
    }

    /// Unpacks `archive` into `place`; returns whether the tool reports success.
    pub fn unpack(self, archive: &Path, place: &Place) -> bool {
        thread_local! {
            static FORKED: RefCell<HashMap<(Tool, PathBuf), Option<Forked>>> = RefCell::default();
        }
        let ended = FORKED.with_borrow_mut(|forked| {
            let forked = forked.entry((self, archive.to_owned())).or_insert_with(|| {
                let errors = place.archive(&format!("{self:?}.errors"));
                Forked::start(&mut self.command(archive, place), &errors)
            });
            forked.as_mut().map(Forked::run)
        });
        let (status, errors) = ended.unwrap_or_else(|| {
            let output = self.command(archive, place).output();
            let output = output
                .unwrap_or_else(|e| panic!("cannot run {self:?}, which has to be installed: {e}"));
            (output.status, output.stderr)
        });
        // bsdtar skips what it calls damaged, and exits with 0 all the same.
        status.success() && !has(&errors, b"Damaged tar archive")
    }

    fn command(self, archive: &Path, place: &Place) -> Command {
        let (program, before, between): (_, &[_], _) = match self {
            Self::Tar => (
                "tar",
                &["--extract", "--no-same-owner", "--force-local", "--file"],
                "--directory",
            ),
            Self::Bsdtar => ("bsdtar", &["-x", "-o", "-f"], "-C"),
            Self::Unzip => ("unzip", &["-qq", "-o", "-^"], "-d"),
        };
        let mut command = Command::new(program);
        command
            .args(before)
            .arg(archive)
            .arg(between)
            .arg(place.tree())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        command
    }
}

fn has(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|w| w == words)
}

/// Writes the archive of `input` where the tools can read it.
pub fn write(input: &Input, place: &Place) -> std::path::PathBuf {
    let name = match input.format {
        ArchiveType::Tar => "archive.tar",
        ArchiveType::TarGz => "archive.tar.gz",
        ArchiveType::Zip => "archive.zip",
    };
    let path = place.archive(name);
    fs::write(&path, &input.archive).expect("room for an archive");
    path
}

/// Describes where the tree that `tool` made differs from `ours`, by path.
pub fn differences(
    tool: Tool,
    ours: &Tree,
    theirs: &BTreeMap<Vec<u8>, Found>,
) -> BTreeMap<Vec<u8>, String> {
    let told: BTreeMap<&[u8], Kind> = ours
        .entries
        .iter()
        .map(|entry| (&entry.path[..], kind(&entry.kind)))
        .collect();
    let mut differences = BTreeMap::new();
    for (path, kind) in &told {
        let name = String::from_utf8_lossy(path);
        let text = match theirs.get(*path) {
            None => format!("{tool:?} has no {name:?}, which is {kind:?}"),
            Some(there) if there.kind != *kind => {
                let there = &there.kind;
                format!("{tool:?} has {there:?} as {name:?}, which is {kind:?}")
            }
            Some(_) => continue,
        };
        differences.insert(path.to_vec(), text);
    }
    for (path, there) in theirs {
        if !told.contains_key(&path[..]) {
            let name = String::from_utf8_lossy(path);
            let text = format!("only {tool:?} has {name:?}, which is {:?}", there.kind);
            differences.insert(path.clone(), text);
        }
    }
    differences
}

fn kind(kind: &EntryKind) -> Kind {
    match kind {
        EntryKind::Dir => Kind::Dir,
        EntryKind::Symlink { target } => Kind::Link(target.clone()),
        EntryKind::File { size, sha256, .. } => {
            Kind::File(*size, sha256.as_ref().expect("a digest").0)
        }
    }
}
