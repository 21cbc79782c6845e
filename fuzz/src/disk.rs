//! Trees on disk: directories to unpack into, and what was really written.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::datafile::tree::{EntryKind, Mtime};
use crate::unpack::{Target, Tree};

/// The variable with the directory for all places; `fuzz/run` sets one in memory and removes it
/// afterwards.
const BASE: &str = "EDGEPUSH_FUZZ_DIR";

/// A directory with an empty tree in it, and bait files next to that.
pub struct Place {
    root: PathBuf,
}

/// The kind of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    Dir,
    /// Length and digest.
    File(u64, [u8; 32]),
    /// Target.
    Link(Vec<u8>),
    /// Anything that must not exist in a tree.
    Other,
}

/// An entry found on disk.
#[derive(Debug, Clone)]
pub struct Found {
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    pub mtime: Mtime,
    /// Equal for hard links of one file.
    pub inode: u64,
}

impl Place {
    /// Makes a place named `name` for this process.
    pub fn new(name: &str) -> Self {
        let base = std::env::var_os(BASE).map_or_else(std::env::temp_dir, PathBuf::from);
        let root = base.join(format!("edgepush-fuzz-{}-{name}", std::process::id()));
        fs::create_dir_all(root.join("tree")).expect("a directory");
        fs::create_dir_all(root.join("outside/dir")).expect("a directory");
        fs::write(root.join("outside/bait"), "bait").expect("bait");
        Self { root }
    }

    /// Returns the directory to unpack into.
    pub fn tree(&self) -> PathBuf {
        self.root.join("tree")
    }

    /// Returns where to put an archive named `name`: neither in the tree nor among the bait.
    pub fn archive(&self, name: &str) -> PathBuf {
        self.root.with_extension(name)
    }

    /// Returns the tree's directory as an unpacking target.
    pub fn target(&self) -> Target {
        Target::Directory(File::open(self.tree()).expect("the directory").into())
    }

    /// Returns what the tree holds on disk.
    pub fn found(&self) -> BTreeMap<Vec<u8>, Found> {
        let mut found = BTreeMap::new();
        look(&self.tree(), b"", &mut found);
        found
    }

    /// Empties the tree.
    pub fn clear(&self) {
        let tree = File::open(self.tree()).expect("the directory");
        crate::unpack::clear(tree.as_fd()).expect("an empty directory");
    }

    /// Panics if anything next to the tree has changed.
    pub fn assert_untouched(&self) {
        assert_eq!(count(&self.root), 2, "something lies next to the tree");
        let outside = self.root.join("outside");
        assert_eq!(count(&outside), 2, "something lies outside");
        assert_eq!(count(&outside.join("dir")), 0, "something lies outside");
        let bait = outside.join("bait");
        assert_eq!(
            fs::read(&bait).ok().as_deref(),
            Some(&b"bait"[..]),
            "the bait"
        );
        let metadata = fs::symlink_metadata(&bait).expect("the bait");
        assert!(metadata.is_file() && metadata.nlink() == 1, "the bait");
    }
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir).expect("a directory").count()
}

fn look(dir: &Path, prefix: &[u8], found: &mut BTreeMap<Vec<u8>, Found>) {
    for entry in fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        let path = entry.path();
        let mut name = prefix.to_vec();
        name.extend_from_slice(entry.file_name().as_bytes());
        let metadata = fs::symlink_metadata(&path).expect("an entry");
        let mode = metadata.permissions().mode() & 0o7777;
        let kind = if metadata.is_dir() {
            if mode & 0o700 != 0o700 {
                let _ = fs::set_permissions(&path, Permissions::from_mode(0o700));
            }
            look(&path, &[&name[..], b"/"].concat(), found);
            Kind::Dir
        } else if metadata.is_symlink() {
            Kind::Link(
                fs::read_link(&path)
                    .expect("a link")
                    .as_os_str()
                    .as_bytes()
                    .to_vec(),
            )
        } else if metadata.is_file() && metadata.len() <= crate::limits().max_total_bytes {
            let content = read(&path, mode);
            Kind::File(content.len() as u64, Sha256::digest(&content).into())
        } else {
            // A special file, or a size that edgepush would refuse: other tools may make a hole of
            // any size.
            Kind::Other
        };
        let found_entry = Found {
            kind,
            mode,
            mtime: Mtime {
                secs: metadata.mtime(),
                nanos: metadata.mtime_nsec() as u32,
            },
            inode: metadata.ino(),
        };
        found.insert(name, found_entry);
    }
}

/// Reads a file that may lack read permission, and restores its mode, which its hard links share.
fn read(path: &Path, mode: u32) -> Vec<u8> {
    let set = |mode| fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
    if mode & 0o400 != 0 {
        return fs::read(path).expect("a file");
    }
    set(0o400);
    let content = fs::read(path).expect("a file");
    set(mode);
    content
}

/// Panics unless the disk holds exactly what the unpacker reported.
pub fn assert_same(tree: &Tree, found: &BTreeMap<Vec<u8>, Found>) {
    let told: Vec<_> = tree.entries.iter().map(|e| &e.path).collect();
    let there: Vec<_> = found.keys().collect();
    assert_eq!(told, there, "the paths");
    for entry in &tree.entries {
        let on_disk = &found[&entry.path];
        let name = String::from_utf8_lossy(&entry.path);
        if !matches!(entry.kind, EntryKind::Symlink { .. }) {
            assert_eq!(on_disk.mode, entry.mode, "mode of {name}");
        }
        if let Some(mtime) = entry.mtime {
            assert_mtime(&name, mtime, on_disk.mtime);
        }
        match (&entry.kind, &on_disk.kind) {
            (EntryKind::Dir, Kind::Dir) => {}
            (EntryKind::Symlink { target }, Kind::Link(there)) => {
                assert_eq!(target, there, "target of {name}");
            }
            (
                EntryKind::File {
                    size,
                    sha256,
                    link_to,
                },
                Kind::File(length, digest),
            ) => {
                assert_eq!(size, length, "length of {name}");
                let sha256 = sha256.as_ref().expect("a digest");
                assert_eq!(sha256.0, *digest, "digest of {name}");
                if let Some(to) = link_to {
                    assert_eq!(found[to].inode, on_disk.inode, "hard link {name}");
                }
            }
            (told, there) => panic!("{name}: {told:?} became {there:?}"),
        }
    }
}

/// Compares times that every file system can store; others may be clamped.
fn assert_mtime(name: &str, told: Mtime, there: Mtime) {
    if (0..1 << 31).contains(&told.secs) {
        assert_eq!(told, there, "time of {name}");
    }
}
