//! Walks a tree in the order of its paths, which is that of a manifest, so that both can be compared
//! without holding either. What is held is the names of one directory per level.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::sys::durable;

/// A walk over a tree.
pub(super) struct Walk<'a> {
    root: &'a Path,
    levels: Vec<Level>,
    /// The path of the current entry below the root.
    path: Vec<u8>,
    ended: bool,
}

/// A directory whose entries are being walked.
struct Level {
    /// All names, one after the other. Those of a directory are there twice: for itself, and with a
    /// slash for what is in it, since `a-b` comes between `a` and `a/b`.
    names: Vec<u8>,
    /// Where each name begins and ends, in order.
    places: std::vec::IntoIter<(usize, usize)>,
    /// Bytes of the path that all of them share.
    shared: usize,
}

impl<'a> Walk<'a> {
    /// Starts with the first entry below `root`.
    pub(super) fn new(root: &'a Path) -> Result<Self, durable::Error> {
        let mut walk = Self {
            root,
            levels: vec![Level::list(root, 0)?],
            path: Vec::new(),
            ended: false,
        };
        walk.advance()?;
        Ok(walk)
    }

    /// Returns the path of the current entry below the root; none after the last.
    pub(super) fn path(&self) -> Option<&[u8]> {
        (!self.ended).then_some(self.path.as_slice())
    }

    /// Returns where the current entry is.
    pub(super) fn place(&self) -> PathBuf {
        self.root.join(OsStr::from_bytes(&self.path))
    }

    /// Goes to the next entry.
    pub(super) fn advance(&mut self) -> Result<(), durable::Error> {
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.shared);
            let Some((from, to)) = level.places.next() else {
                self.levels.pop();
                continue;
            };
            self.path.extend_from_slice(&level.names[from..to]);
            if self.path.last() != Some(&b'/') {
                return Ok(());
            }
            let below = Level::list(&self.place(), self.path.len())?;
            self.levels.push(below);
        }
        self.ended = true;
        Ok(())
    }
}

impl Level {
    fn list(dir: &Path, shared: usize) -> Result<Self, durable::Error> {
        let at = || durable::at("read directory", dir);
        let (mut names, mut places) = (Vec::new(), Vec::new());
        let mut add = |name: &[u8], end: &[u8]| {
            let from = names.len();
            names.extend_from_slice(name);
            names.extend_from_slice(end);
            places.push((from, names.len()));
        };
        for entry in fs::read_dir(dir).map_err(at())? {
            let entry = entry.map_err(at())?;
            let is_dir = entry.file_type().map_err(at())?.is_dir();
            let name = entry.file_name().into_vec();
            add(&name, b"");
            if is_dir {
                add(&name, b"/");
            }
        }
        places.sort_unstable_by(|a, b| names[a.0..a.1].cmp(&names[b.0..b.1]));
        Ok(Self {
            names,
            places: places.into_iter(),
            shared,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_in_the_order_of_paths() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["a/b/c", "a/b-c", "a-b/x", "a.b/y", "b", "a/empty"] {
            fs::create_dir_all(root.join(name)).unwrap();
        }
        std::os::unix::fs::symlink("a", root.join("link")).unwrap();
        let mut walk = Walk::new(root).unwrap();
        let mut walked = Vec::new();
        while let Some(path) = walk.path() {
            walked.push(String::from_utf8(path.to_vec()).unwrap());
            walk.advance().unwrap();
        }
        let want = [
            "a", "a-b", "a-b/x", "a.b", "a.b/y", "a/b", "a/b-c", "a/b/c", "a/empty", "b", "link",
        ];
        assert_eq!(walked, want);
        assert!(walked.is_sorted());
    }
}
