//! Directories of the tree as open descriptors. Every name is one component below a descriptor that is held; no path of
//! several is ever given to the kernel, and none of its components may be a link or a mount point.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::Error;
use super::tree::{Model, NodeKind, ROOT};

/// Descriptors kept open by one cache: enough for the directories on the way to where the work is.
const CACHED: usize = 24;

/// How a directory is opened below another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beneath {
    /// By openat2, which refuses links, magic links and mount points itself.
    Openat2,
    /// By openat without following a link, for kernels and sandboxes without openat2.
    NoFollow,
}

impl Beneath {
    /// Finds out what this kernel can do, by opening `root` again.
    pub(super) fn probe(root: BorrowedFd<'_>) -> Self {
        match open_beneath(root, b".", Self::Openat2) {
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => Self::NoFollow,
            Ok(_) | Err(_) => Self::Openat2,
        }
    }
}

fn open_beneath(dir: BorrowedFd<'_>, name: &[u8], how: Beneath) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match how {
        Beneath::Openat2 => {
            let resolve = ResolveFlags::BENEATH
                | ResolveFlags::NO_SYMLINKS
                | ResolveFlags::NO_MAGICLINKS
                | ResolveFlags::NO_XDEV;
            loop {
                match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    other => return other,
                }
            }
        }
        Beneath::NoFollow => rustix::fs::openat(dir, name, flags, Mode::empty()),
    }
}

/// A cache of open directories of one tree, for one thread.
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

    /// Makes the directory `id`; its parent has been made before.
    pub(super) fn make(&mut self, model: &Model, id: u32) -> Result<(), Error> {
        let node = model.node(id);
        let NodeKind::Dir { mode, .. } = node.kind else {
            return Ok(());
        };
        let parent = self.get(model, node.parent)?;
        make_in(parent.as_fd(), &node.name, mode)
            .map_err(|e| Error::disk("make directory", &model.path(id), e.into()))
    }

    /// Opens the directory `id`, making it and what leads to it where they are not there yet.
    pub(super) fn get_or_make(&mut self, model: &Model, id: u32) -> Result<Arc<OwnedFd>, Error> {
        self.open(model, id, true)
    }

    /// Opens the directory `id`, which is there.
    pub(super) fn get(&mut self, model: &Model, id: u32) -> Result<Arc<OwnedFd>, Error> {
        self.open(model, id, false)
    }

    fn open(&mut self, model: &Model, id: u32, make: bool) -> Result<Arc<OwnedFd>, Error> {
        // Up to the nearest directory that is open, then down again: no recursion, and each level once.
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
            dir = Arc::new(self.open_in(dir.as_fd(), model, id, make)?);
            self.keep(id, &dir);
        }
        Ok(dir)
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
                    // Another thread was faster: the tree is private, so it is the same directory.
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

/// Removes everything in the directory `root`, by descriptors, following nothing and leaving no file system.
pub fn clear(root: BorrowedFd<'_>) -> io::Result<()> {
    let how = Beneath::probe(root);
    let mut levels = vec![(reopen(root)?, Vec::new())];
    // Depth first: a level is a directory that is being emptied, and the names of its subdirectories that wait.
    list(&mut levels)?;
    while let Some((dir, waiting)) = levels.last_mut() {
        if let Some(name) = waiting.last() {
            match rustix::fs::unlinkat(&*dir, name.as_slice(), AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {
                    waiting.pop();
                }
                Err(Errno::NOTEMPTY | Errno::EXIST) => {
                    let below = open_beneath(dir.as_fd(), name, how)?;
                    levels.push((below, Vec::new()));
                    list(&mut levels)?;
                }
                Err(e) => return Err(e.into()),
            }
        } else {
            levels.pop();
        }
    }
    Ok(())
}

/// Removes the files of the last level, and notes its directories.
fn list(levels: &mut [(OwnedFd, Vec<Vec<u8>>)]) -> io::Result<()> {
    let Some((dir, waiting)) = levels.last_mut() else {
        return Ok(());
    };
    let mut entries = Dir::read_from(&*dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if matches!(name, b"." | b"..") {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            waiting.push(name.to_vec());
            continue;
        }
        match rustix::fs::unlinkat(&*dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            // A file system that does not tell types in a listing.
            Err(Errno::ISDIR | Errno::PERM) => waiting.push(name.to_vec()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Opens a directory again, so that reading it does not move the caller's own position in it.
fn reopen(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::super::limits::Limits;
    use super::super::path::EntryPath;
    use super::super::tree::{Duplicates, Mtime};
    use super::*;

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

    #[test]
    fn clears_a_tree_and_nothing_beside_it() {
        let temp = tempfile::tempdir().unwrap();
        let (root, outside) = (temp.path().join("root"), temp.path().join("outside"));
        let deep = "d/".repeat(200);
        fs::create_dir_all(root.join(&deep)).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "bait").unwrap();
        fs::write(root.join("d/d/file"), "x").unwrap();
        symlink(&outside, root.join("link")).unwrap();
        symlink(&outside, root.join("d/d/d/link")).unwrap();
        for i in 0..300 {
            fs::write(root.join(format!("file{i}")), "x").unwrap();
        }
        clear(open_root(&root).as_fd()).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"bait");
    }
}
