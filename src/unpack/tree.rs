//! The tree to be made: every name is decided in memory before it touches the disk. The model only
//! ever holds a tree that can exist and that no path leaves; the disk follows it.

mod hard_link;
mod list;
mod target;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hashbrown::HashTable;

use super::error::{Error, Reason, Refusal};
use super::limits::Limits;
use super::memory::Share;
use super::path::{EntryPath, split_last};
use crate::datafile::Sha256;
use crate::datafile::tree::{Entry, Mtime};

/// The root of the tree.
pub(super) const ROOT: u32 = 0;
/// Bytes of memory for the paths and link targets of a tree; grows with `max_entries`.
const MIN_NAME_BUDGET: u64 = 64 << 20;
const NAME_BUDGET_PER_ENTRY: u64 = 256;
/// Bytes that an entry takes besides its name and path: in the model, in the tree, and what the
/// allocator adds.
const PER_ENTRY: u64 = (size_of::<Node>() + size_of::<Content>() + size_of::<Entry>() + 64) as u64;

/// An unpacked tree: every entry below the root, sorted by the bytes of its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// The entries, including directories that the archive only implied.
    pub entries: Vec<Entry>,
    /// Files, hard links included.
    pub files: u64,
    /// Bytes of all files; hard-linked content counts once.
    pub bytes: u64,
    /// The memory that it takes.
    share: Option<Arc<Share>>,
}

/// How a second member of the same name is treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Duplicates {
    /// The last one counts, as with `tar -r`.
    LastWins,
    /// The archive is refused.
    Refused,
}

/// The tree so far.
pub(super) struct Model {
    limits: Limits,
    umask: u32,
    duplicates: Duplicates,
    nodes: Vec<Node>,
    contents: Vec<Content>,
    index: HashTable<u32>,
    hasher: RandomState,
    /// The last directory used, with its path: most members share it with the member before.
    last_parent: (Vec<u8>, u32),
    implied: u64,
    name_bytes: u64,
    share: Option<Share>,
    /// Bytes that are not taken from the share yet.
    unpaid: u64,
}

/// One name in the tree.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) parent: u32,
    pub(super) name: Box<[u8]>,
    pub(super) kind: NodeKind,
}

/// What a name refers to.
#[derive(Debug)]
pub(super) enum NodeKind {
    /// `mtime` is `None` while the directory is only implied.
    Dir {
        mode: u32,
        mtime: Option<Mtime>,
    },
    /// `content` is an index into the contents, which hard links share.
    File {
        content: u32,
    },
    Symlink {
        target: Box<[u8]>,
        mtime: Mtime,
    },
}

/// The content of a file, shared by all its names.
#[derive(Debug)]
struct Content {
    size: u64,
    mode: u32,
    mtime: Mtime,
    sha256: Option<Sha256>,
    /// Names that refer to it.
    names: u32,
    /// Bytes of the longest of these names.
    longest: u32,
}

/// Where to write a file, as decided by the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct FilePlan {
    /// The directory it goes into.
    pub(super) dir: u32,
    /// The index of its content.
    pub(super) content: u32,
    /// Permission bits.
    pub(super) mode: u32,
    /// Whether an earlier file of this name has to be removed.
    pub(super) replaces: bool,
}

/// Where to create a hard link, as decided by the model.
#[derive(Debug, Clone, Copy)]
pub(super) struct LinkPlan {
    /// The directory of the existing file.
    pub(super) from_dir: u32,
    /// The directory the link goes into.
    pub(super) dir: u32,
    /// Whether an earlier file of this name has to be removed.
    pub(super) replaces: bool,
}

impl Model {
    /// Makes the model of an empty tree.
    pub(super) fn new(limits: &Limits, umask: u32, duplicates: Duplicates) -> Self {
        Self {
            limits: limits.clone(),
            umask,
            duplicates,
            nodes: vec![Node {
                parent: ROOT,
                name: Box::default(),
                kind: NodeKind::Dir {
                    mode: 0o700,
                    mtime: None,
                },
            }],
            contents: Vec::new(),
            index: HashTable::new(),
            hasher: RandomState::new(),
            last_parent: (Vec::new(), ROOT),
            implied: 0,
            name_bytes: 0,
            share: None,
            unpaid: 0,
        }
    }

    /// Bounds the memory of this model and of its tree by `share`.
    pub(super) fn within(mut self, share: Option<Share>) -> Self {
        self.share = share;
        self
    }

    /// Takes the memory for what was added since the last call, and for its place in the tree.
    pub(super) fn pay(&mut self, cancel: &AtomicBool) -> Result<(), Error> {
        let bytes = std::mem::take(&mut self.unpaid);
        match &mut self.share {
            Some(share) => share.take(bytes, cancel),
            None => Ok(()),
        }
    }

    /// Adds a directory.
    pub(super) fn add_dir(
        &mut self,
        path: &EntryPath,
        mode: u32,
        mtime: Mtime,
    ) -> Result<(), Refusal> {
        if path.is_root() {
            return Ok(());
        }
        let kind = NodeKind::Dir {
            mode: (mode & 0o777 & !self.umask) | 0o700,
            mtime: Some(mtime),
        };
        let (dir_path, name) = split_last(path.as_bytes());
        let dir = self.parent(dir_path)?;
        match self.child(dir, name) {
            None => {
                self.push(dir, name, path.as_bytes().len(), kind)?;
            }
            Some(id) => match self.nodes[id as usize].kind {
                NodeKind::Dir { .. } => self.nodes[id as usize].kind = kind,
                NodeKind::File { .. } | NodeKind::Symlink { .. } => {
                    return Err(conflict("a directory where the archive has a file or link"));
                }
            },
        }
        Ok(())
    }

    /// Adds a regular file of `size` bytes.
    pub(super) fn add_file(
        &mut self,
        path: &EntryPath,
        size: u64,
        mode: u32,
        mtime: Mtime,
    ) -> Result<FilePlan, Refusal> {
        let content = u32::try_from(self.contents.len()).map_err(|_| too_many())?;
        let (dir, replaces) = self.put(path, NodeKind::File { content })?;
        let mode = mode & 0o777 & !self.umask;
        self.contents.push(Content {
            size,
            mode,
            mtime,
            sha256: None,
            names: 1,
            longest: path_len(path),
        });
        Ok(FilePlan {
            dir,
            content,
            mode,
            replaces,
        })
    }

    /// Adds a symbolic link whose target is harmless as text; `links` resolves it at the end.
    pub(super) fn add_symlink(
        &mut self,
        path: &EntryPath,
        target: &[u8],
        mtime: Mtime,
    ) -> Result<FilePlan, Refusal> {
        target::check_target(path.as_bytes(), target, &self.limits)?;
        self.name_bytes += target.len() as u64;
        let kind = NodeKind::Symlink {
            target: target.into(),
            mtime,
        };
        let (dir, replaces) = self.put(path, kind)?;
        Ok(FilePlan {
            dir,
            content: u32::MAX,
            mode: 0o777,
            replaces,
        })
    }

    /// Puts a file or link at `path`; returns its directory, and whether it replaces a file.
    fn put(&mut self, path: &EntryPath, kind: NodeKind) -> Result<(u32, bool), Refusal> {
        if path.is_root() || path.dot {
            return Err(Refusal::new(
                Reason::PathEmpty,
                "the name of a file or link ends in `.` or means the root of the tree",
            ));
        }
        let (dir_path, name) = split_last(path.as_bytes());
        let dir = self.parent(dir_path)?;
        let Some(id) = self.child(dir, name) else {
            self.push(dir, name, path.as_bytes().len(), kind)?;
            return Ok((dir, false));
        };
        let node = &mut self.nodes[id as usize];
        let replaces = match node.kind {
            NodeKind::Dir { .. } => {
                return Err(conflict("a file or link where the archive has a directory"));
            }
            NodeKind::File { .. } => true,
            NodeKind::Symlink { .. } => false,
        };
        match self.duplicates {
            Duplicates::LastWins => node.kind = kind,
            Duplicates::Refused => {
                return Err(Refusal::new(
                    Reason::DuplicateName,
                    "the archive has this name twice",
                ));
            }
        }
        Ok((dir, replaces))
    }

    /// Finds the directory `path`, adding it and its ancestors where the archive only implies them.
    fn parent(&mut self, path: &[u8]) -> Result<u32, Refusal> {
        if path.is_empty() {
            return Ok(ROOT);
        }
        if self.last_parent.0 == path {
            return Ok(self.last_parent.1);
        }
        let mut dir = ROOT;
        let mut end = 0;
        for name in path.split(|b| *b == b'/') {
            end += name.len() + usize::from(end > 0);
            dir = match self.child(dir, name) {
                None => self.imply(dir, name, end)?,
                Some(id) => match self.nodes[id as usize].kind {
                    NodeKind::Dir { .. } => id,
                    NodeKind::File { .. } => return Err(conflict("lies below a file")),
                    NodeKind::Symlink { .. } => {
                        return Err(Refusal::new(
                            Reason::ParentSymlink,
                            "lies below a symbolic link",
                        ));
                    }
                },
            };
        }
        self.last_parent.0.clear();
        self.last_parent.0.extend_from_slice(path);
        self.last_parent.1 = dir;
        Ok(dir)
    }

    fn imply(&mut self, dir: u32, name: &[u8], path_len: usize) -> Result<u32, Refusal> {
        self.implied += 1;
        if self.implied
            > self
                .limits
                .max_entries
                .saturating_add(self.limits.max_depth)
        {
            return Err(too_many_for(&self.limits));
        }
        let kind = NodeKind::Dir {
            mode: (0o755 & !self.umask) | 0o700,
            mtime: None,
        };
        self.push(dir, name, path_len, kind)
    }

    fn push(
        &mut self,
        parent: u32,
        name: &[u8],
        path_len: usize,
        kind: NodeKind,
    ) -> Result<u32, Refusal> {
        self.name_bytes += path_len as u64;
        let budget = MIN_NAME_BUDGET.max(
            self.limits
                .max_entries
                .saturating_mul(NAME_BUDGET_PER_ENTRY),
        );
        if self.name_bytes > budget {
            return Err(too_many_for(&self.limits));
        }
        self.unpaid += PER_ENTRY + (name.len() + path_len) as u64;
        let id = u32::try_from(self.nodes.len()).map_err(|_| too_many())?;
        let hash = self.hasher.hash_one((parent, name));
        self.nodes.push(Node {
            parent,
            name: name.into(),
            kind,
        });
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.index.insert_unique(hash, id, |id| {
            let node = &nodes[*id as usize];
            hasher.hash_one((node.parent, &*node.name))
        });
        Ok(id)
    }

    /// Finds the node called `name` in the directory `dir`.
    pub(super) fn child(&self, dir: u32, name: &[u8]) -> Option<u32> {
        let hash = self.hasher.hash_one((dir, name));
        self.index
            .find(hash, |id| {
                let node = &self.nodes[*id as usize];
                node.parent == dir && *node.name == *name
            })
            .copied()
    }

    /// Returns all nodes, the root first; a directory precedes its contents.
    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn node(&self, id: u32) -> &Node {
        &self.nodes[id as usize]
    }

    /// Returns the path of the node `id`.
    pub(super) fn path(&self, id: u32) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            let node = &self.nodes[at as usize];
            names.push(&*node.name);
            at = node.parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// Records the digest of a file's content.
    pub(super) fn set_digest(&mut self, content: u32, sha256: Sha256) {
        if let Some(content) = self.contents.get_mut(content as usize) {
            content.sha256 = Some(sha256);
        }
    }
}

fn path_len(path: &EntryPath) -> u32 {
    u32::try_from(path.as_bytes().len()).unwrap_or(u32::MAX)
}

fn conflict(detail: &str) -> Refusal {
    Refusal::new(Reason::PathConflict, detail)
}

fn too_many() -> Refusal {
    Refusal::new(Reason::LimitEntries, "more members than can be counted")
}

fn too_many_for(limits: &Limits) -> Refusal {
    Refusal::limit(
        Reason::LimitEntries,
        "max_entries",
        limits.max_entries,
        "more directories or longer names than go with that",
    )
}

#[cfg(test)]
mod tests {
    use super::hard_link::MAX_NAMES;
    use super::*;
    use crate::datafile::tree::EntryKind;

    fn model(duplicates: Duplicates) -> Model {
        Model::new(&Limits::default(), 0o022, duplicates)
    }

    fn path(text: &str) -> EntryPath {
        EntryPath::parse(text.as_bytes(), &Limits::default()).unwrap()
    }

    fn file(model: &mut Model, at: &str) -> Result<FilePlan, Reason> {
        model
            .add_file(&path(at), 1, 0o6777, Mtime::default())
            .map_err(|r| r.reason)
    }

    fn dir(model: &mut Model, at: &str) -> Result<(), Reason> {
        model
            .add_dir(&path(at), 0o7007, Mtime::default())
            .map_err(|r| r.reason)
    }

    fn link(model: &mut Model, at: &str, target: &str) -> Result<FilePlan, Reason> {
        model
            .add_symlink(&path(at), target.as_bytes(), Mtime::default())
            .map_err(|r| r.reason)
    }

    fn hard(model: &mut Model, at: &str, target: &str) -> Result<LinkPlan, Reason> {
        model
            .add_hard_link(&path(at), &path(target))
            .map_err(|r| r.reason)
    }

    #[test]
    fn the_last_of_a_name_counts_and_hard_links_keep_what_they_had() {
        let mut m = model(Duplicates::LastWins);
        assert!(!file(&mut m, "d/a").unwrap().replaces);
        hard(&mut m, "b", "d/a").unwrap();
        assert!(file(&mut m, "d/a").unwrap().replaces);
        hard(&mut m, "c", "b").unwrap();
        assert!(link(&mut m, "d/a", "../b").unwrap().replaces);
        assert!(!file(&mut m, "d/a").unwrap().replaces);
        let tree = m.into_tree();
        let names: Vec<_> = tree.entries.iter().map(|e| e.path.as_slice()).collect();
        assert_eq!(names, [&b"b"[..], b"c", b"d", b"d/a"]);
        assert_eq!((tree.files, tree.bytes), (3, 2));
        assert_eq!(tree.entries[0].mode, 0o755);
        let EntryKind::File { link_to, .. } = &tree.entries[1].kind else {
            panic!("no file");
        };
        assert_eq!(link_to.as_deref(), Some(&b"b"[..]));
    }

    #[test]
    fn a_directory_and_anything_else_never_share_a_name() {
        let mut m = model(Duplicates::LastWins);
        file(&mut m, "f").unwrap();
        dir(&mut m, "d").unwrap();
        dir(&mut m, "d").unwrap();
        link(&mut m, "l", "d").unwrap();
        assert_eq!(file(&mut m, "d").unwrap_err(), Reason::PathConflict);
        assert_eq!(link(&mut m, "d", "f").unwrap_err(), Reason::PathConflict);
        assert_eq!(hard(&mut m, "d", "f").unwrap_err(), Reason::PathConflict);
        assert_eq!(dir(&mut m, "f").unwrap_err(), Reason::PathConflict);
        assert_eq!(dir(&mut m, "l").unwrap_err(), Reason::PathConflict);
        assert_eq!(file(&mut m, "f/x").unwrap_err(), Reason::PathConflict);
        assert_eq!(file(&mut m, "l/x").unwrap_err(), Reason::ParentSymlink);
        assert_eq!(dir(&mut m, "l/x/y").unwrap_err(), Reason::ParentSymlink);
        assert_eq!(file(&mut m, ".").unwrap_err(), Reason::PathEmpty);
        dir(&mut m, ".").unwrap();
        assert_eq!(m.into_tree().entries[0].mode, 0o705);
    }

    #[test]
    fn a_hard_link_names_an_earlier_file_and_goes_through_directories_only() {
        let mut m = model(Duplicates::LastWins);
        file(&mut m, "d/f").unwrap();
        link(&mut m, "l", "d").unwrap();
        link(&mut m, "s", "d/f").unwrap();
        for (target, reason) in [
            ("later", Reason::HardlinkMissing),
            ("d/later", Reason::HardlinkMissing),
            ("d", Reason::HardlinkBadTarget),
            (".", Reason::HardlinkBadTarget),
            ("s", Reason::HardlinkBadTarget),
            ("l/f", Reason::HardlinkBadTarget),
            ("d/f/x", Reason::HardlinkBadTarget),
        ] {
            assert_eq!(hard(&mut m, "h", target).unwrap_err(), reason, "{target}");
        }
        assert_eq!(
            hard(&mut m, "d/f", "d/f").unwrap_err(),
            Reason::HardlinkBadTarget
        );
        assert_eq!(
            hard(&mut m, "d/f/h", "d/f").unwrap_err(),
            Reason::PathConflict
        );
    }

    #[test]
    fn hard_links_to_a_long_name_count_by_its_length() {
        let mut m = model(Duplicates::LastWins);
        let long = vec!["d".repeat(250); 15].join("/");
        file(&mut m, &long).unwrap();
        let most = MIN_NAME_BUDGET / long.len() as u64;
        let refused = (0..2 * most).find_map(|i| hard(&mut m, &i.to_string(), &long).err());
        assert_eq!(refused, Some(Reason::LimitEntries));
        assert!(m.nodes.len() as u64 <= most + 16);
    }

    #[test]
    fn a_file_has_no_more_names_than_file_systems_hold() {
        let mut m = model(Duplicates::LastWins);
        file(&mut m, "f").unwrap();
        for i in 1..MAX_NAMES {
            hard(&mut m, &format!("l{i}"), "f").unwrap();
        }
        assert_eq!(hard(&mut m, "l", "f").unwrap_err(), Reason::LimitEntries);
    }

    #[test]
    fn a_zip_has_each_name_once() {
        let mut m = model(Duplicates::Refused);
        file(&mut m, "d/f").unwrap();
        dir(&mut m, "d").unwrap();
        dir(&mut m, "d").unwrap();
        assert_eq!(file(&mut m, "d/f").unwrap_err(), Reason::DuplicateName);
        assert_eq!(link(&mut m, "d/f", "x").unwrap_err(), Reason::DuplicateName);
    }

    #[test]
    fn implied_directories_are_bounded_too() {
        let limits = Limits {
            max_entries: 10,
            max_depth: 5,
            ..Limits::default()
        };
        let mut m = Model::new(&limits, 0, Duplicates::LastWins);
        let error = (0..10).find_map(|i| {
            let path = path(&format!("{i}/a/b/c/f"));
            m.add_file(&path, 0, 0, Mtime::default()).err()
        });
        assert_eq!(error.unwrap().reason, Reason::LimitEntries);
    }
}
