//! Directories of the tree as open descriptors. Every name is resolved below a descriptor that is
//! already open, and no component may be a symbolic link or a mount point. With `openat2` a
//! directory is opened in one call from the nearest open ancestor; the names come from the model,
//! which holds no `..`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::Mode;
use rustix::io::Errno;

use super::error::Error;
use super::tree::{Model, NodeKind, ROOT};
pub(super) use crate::sys::beneath::Beneath;
use crate::sys::beneath::open_beneath;

/// Descriptors that one cache keeps open: enough for the ancestors of the current directory.
const CACHED: usize = 24;
/// Longest path for one system call, in bytes; the kernel takes 4,095.
const MAX_STEP: usize = 4000;

/// The open directories of one tree, for one thread.
pub(super) struct Dirs {
    root: Arc<OwnedFd>,
    how: Beneath,
    open: Vec<(u32, u64, Arc<OwnedFd>)>,
    clock: u64,
}

impl Dirs {
    pub(super) fn new(root: Arc<OwnedFd>, how: Beneath) -> Self {
        Self {
            root,
            how,
            open: Vec::with_capacity(CACHED),
            clock: 0,
        }
    }

    /// Creates the directory `id`, whose parent exists.
    pub(super) fn make(&mut self, model: &Model, id: u32) -> Result<(), Error> {
        let node = model.node(id);
        let NodeKind::Dir { mode, .. } = node.kind else {
            return Ok(());
        };
        let parent = self.get(model, node.parent)?;
        make_in(parent.as_fd(), &node.name, mode)
            .map_err(|e| Error::disk("make directory", &model.path(id), e.into()))
    }

    /// Opens the directory `id`, creating it and its ancestors where they are missing.
    pub(super) fn get_or_make(&mut self, model: &Model, id: u32) -> Result<Arc<OwnedFd>, Error> {
        self.open(model, id, true)
    }

    /// Opens the existing directory `id`.
    pub(super) fn get(&mut self, model: &Model, id: u32) -> Result<Arc<OwnedFd>, Error> {
        self.open(model, id, false)
    }

    fn open(&mut self, model: &Model, id: u32, make: bool) -> Result<Arc<OwnedFd>, Error> {
        // Up to the nearest open directory, then down again: no recursion, and each level once.
        let mut missing = Vec::new();
        let mut at = id;
        let mut dir = loop {
            if at == ROOT {
                break Arc::clone(&self.root);
            }
            if let Some(dir) = self.cached(at) {
                break dir;
            }
            missing.push(at);
            at = model.node(at).parent;
        };
        while let Some(id) = missing.pop() {
            if let Some((id, below)) = self.step(dir.as_fd(), model, id, &mut missing) {
                dir = Arc::new(below);
                self.keep(id, &dir);
                continue;
            }
            dir = Arc::new(self.open_in(dir.as_fd(), model, id, make)?);
            self.keep(id, &dir);
        }
        Ok(dir)
    }

    /// Opens a directory several levels below `dir` in one call: as far down as the longest path
    /// allows, or only the parent of the last one if that does not exist yet. Otherwise every
    /// member of a deep tree would cost one call per level. `None` on any failure; the caller then
    /// opens level by level and reports the cause.
    fn step(
        &self,
        dir: BorrowedFd<'_>,
        model: &Model,
        first: u32,
        missing: &mut Vec<u32>,
    ) -> Option<(u32, OwnedFd)> {
        if self.how != Beneath::Openat2 || missing.is_empty() {
            return None;
        }
        let mut path = model.node(first).name.to_vec();
        let mut ids = Vec::with_capacity(missing.len());
        for id in missing.iter().rev() {
            let name = &model.node(*id).name;
            if path.len() + 1 + name.len() > MAX_STEP {
                break;
            }
            path.push(b'/');
            path.extend_from_slice(name);
            ids.push((*id, name.len() + 1));
        }
        for _ in 0..2 {
            let (id, name_len) = *ids.last()?;
            if let Ok(below) = open_beneath(dir, &path, self.how) {
                missing.truncate(missing.len() - ids.len());
                return Some((id, below));
            }
            path.truncate(path.len() - name_len);
            ids.pop();
        }
        None
    }

    fn open_in(
        &self,
        dir: BorrowedFd<'_>,
        model: &Model,
        id: u32,
        make: bool,
    ) -> Result<OwnedFd, Error> {
        let node = model.node(id);
        let failed = |verb| move |e: Errno| Error::disk(verb, &model.path(id), e.into());
        match open_beneath(dir, &node.name, self.how) {
            Err(Errno::NOENT) if make => {
                let NodeKind::Dir { mode, .. } = node.kind else {
                    return Err(failed("open directory")(Errno::NOTDIR));
                };
                match make_in(dir, &node.name, mode) {
                    // Another thread created it first. The tree is private, so it is the same
                    // directory.
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(e) => return Err(failed("make directory")(e)),
                }
                open_beneath(dir, &node.name, self.how).map_err(failed("open directory"))
            }
            other => other.map_err(failed("open directory")),
        }
    }

    fn cached(&mut self, id: u32) -> Option<Arc<OwnedFd>> {
        self.clock += 1;
        let entry = self.open.iter_mut().find(|(of, ..)| *of == id)?;
        entry.1 = self.clock;
        Some(Arc::clone(&entry.2))
    }

    fn keep(&mut self, id: u32, dir: &Arc<OwnedFd>) {
        let entry = (id, self.clock, Arc::clone(dir));
        if self.open.len() < CACHED {
            self.open.push(entry);
        } else if let Some(oldest) = self.open.iter_mut().min_by_key(|(_, used, _)| *used) {
            *oldest = entry;
        }
    }
}

fn make_in(dir: BorrowedFd<'_>, name: &[u8], mode: u32) -> rustix::io::Result<()> {
    rustix::fs::mkdirat(dir, name, Mode::from_raw_mode(mode))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::limits::Limits;
    use super::super::path::EntryPath;
    use super::super::tree::Duplicates;
    use super::*;
    use crate::datafile::tree::Mtime;

    fn open_root(path: &std::path::Path) -> Arc<OwnedFd> {
        Arc::new(fs::File::open(path).unwrap().into())
    }

    fn model(dirs: &[String]) -> Model {
        let limits = Limits::default();
        let mut model = Model::new(&limits, 0o022, Duplicates::LastWins);
        for dir in dirs {
            let path = EntryPath::parse(dir.as_bytes(), &limits).unwrap();
            model.add_dir(&path, 0o755, Mtime::default()).unwrap();
        }
        model
    }

    #[test]
    fn makes_and_opens_more_directories_than_it_keeps() {
        for how in [Beneath::Openat2, Beneath::NoFollow] {
            let temp = tempfile::tempdir().unwrap();
            let names: Vec<String> = (0..CACHED * 3).map(|i| format!("a/b{i}/c")).collect();
            let model = model(&names);
            let mut dirs = Dirs::new(open_root(temp.path()), how);
            for id in 1..model.nodes().len() as u32 {
                dirs.make(&model, id).unwrap();
            }
            for id in (1..model.nodes().len() as u32).rev() {
                let dir = dirs.get(&model, id).unwrap();
                let stat = rustix::fs::fstat(&*dir).unwrap();
                let path = temp.path().join(String::from_utf8(model.path(id)).unwrap());
                use std::os::unix::fs::MetadataExt;
                assert_eq!(stat.st_ino, fs::metadata(path).unwrap().ino());
            }
            assert!(dirs.open.len() <= CACHED);
        }
    }

    #[test]
    fn never_follows_a_link_that_someone_put_in_the_way() {
        for how in [Beneath::Openat2, Beneath::NoFollow] {
            let temp = tempfile::tempdir().unwrap();
            let outside = tempfile::tempdir().unwrap();
            fs::create_dir(outside.path().join("d")).unwrap();
            symlink(outside.path(), temp.path().join("a")).unwrap();
            let model = model(&["a/d/e".to_owned()]);
            let mut dirs = Dirs::new(open_root(temp.path()), how);
            for id in 1..4 {
                assert!(dirs.get_or_make(&model, id).is_err(), "{how:?} {id}");
            }
            assert_eq!(fs::read_dir(outside.path().join("d")).unwrap().count(), 0);
        }
    }
}
