//! Directories by descriptor: every name is one component below an open descriptor, and none may be a
//! link or a mount point.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// How to open a directory below another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beneath {
    /// With openat2, which itself refuses links, magic links and mount points.
    Openat2,
    /// With openat and O_NOFOLLOW, for kernels and sandboxes without openat2.
    NoFollow,
}

impl Beneath {
    /// Detects what this kernel supports, by opening `root` again.
    pub fn probe(root: BorrowedFd<'_>) -> Self {
        match open_beneath(root, b".", Self::Openat2) {
            Err(Errno::NOSYS | Errno::PERM | Errno::INVAL) => Self::NoFollow,
            Ok(_) | Err(_) => Self::Openat2,
        }
    }
}

/// Opens the directory `name` in `dir`. With [`Beneath::Openat2`] it may have several components, which
/// follow the same rules; with [`Beneath::NoFollow`] it must be one.
pub fn open_beneath(dir: BorrowedFd<'_>, name: &[u8], how: Beneath) -> rustix::io::Result<OwnedFd> {
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

/// Removes everything in the directory `root`, by descriptor, without following links or leaving the file
/// system. Paths may be deeper and longer than the kernel accepts at once.
pub fn clear(root: BorrowedFd<'_>) -> io::Result<()> {
    let how = Beneath::probe(root);
    let mut levels = vec![(reopen(root)?, Vec::new())];
    // Depth first: a level is a directory being emptied, and the names of its remaining subdirectories.
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

/// Removes the files of the last level and lists its directories.
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
            // A file system whose listings have no types.
            Err(Errno::ISDIR | Errno::PERM) => waiting.push(name.to_vec()),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Opens a directory again, so that reading it does not move the caller's position.
fn reopen(dir: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

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
        clear(fs::File::open(&root).unwrap().as_fd()).unwrap();
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"bait");
    }
}
