//! What other tools make of an archive.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::disk::{Found, Kind, Place};
use crate::input::{Format, Input};
use crate::unpack::{EntryKind, Tree};

/// A tool that unpacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
    pub fn all(format: Format) -> [Self; 2] {
        match format {
            Format::Tar | Format::TarGz => [Self::Tar, Self::Bsdtar],
            Format::Zip => [Self::Unzip, Self::Bsdtar],
        }
    }

    /// Unpacks `archive` into `place`; returns whether it says that all went well.
    pub fn unpack(self, archive: &Path, place: &Place) -> bool {
        let mut command = match self {
            Self::Tar => {
                let mut command = Command::new("tar");
                command.args(["--extract", "--no-same-owner", "--force-local", "--file"]);
                command.arg(archive).arg("--directory").arg(place.tree());
                command
            }
            Self::Bsdtar => {
                let mut command = Command::new("bsdtar");
                command
                    .args(["-x", "-o", "-f"])
                    .arg(archive)
                    .arg("-C")
                    .arg(place.tree());
                command
            }
            Self::Unzip => {
                let mut command = Command::new("unzip");
                command
                    .args(["-qq", "-o", "-^"])
                    .arg(archive)
                    .arg("-d")
                    .arg(place.tree());
                command
            }
        };
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("LC_ALL", "C.UTF-8")
            .env("TZ", "UTC")
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        match command.output() {
            // bsdtar leaves out what it calls damaged, and ends with 0 nevertheless.
            Ok(output) => output.status.success() && !has(&output.stderr, b"Damaged tar archive"),
            Err(error) => panic!("cannot run {self:?}, which has to be installed: {error}"),
        }
    }
}

fn has(text: &[u8], words: &[u8]) -> bool {
    text.windows(words.len()).any(|w| w == words)
}

/// Writes the archive of `input` where tools can read it.
pub fn write(input: &Input, place: &Place) -> std::path::PathBuf {
    let name = match input.format {
        Format::Tar => "archive.tar",
        Format::TarGz => "archive.tar.gz",
        Format::Zip => "archive.zip",
    };
    let path = place.archive(name);
    fs::write(&path, &input.archive).expect("room for an archive");
    path
}

/// Returns where and how the tree that `tool` made of the archive differs from `ours`: by path, in words.
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
