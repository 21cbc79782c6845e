//! Notices that files and directories are no longer the ones that a process has opened: a data
//! directory that is moved, wiped or mounted over leaves the process working on what nobody sees.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::durable;

/// Paths, each with the device and inode that were there when this was made.
#[derive(Debug, Clone, Default)]
pub struct Place(Vec<(PathBuf, u64, u64)>);

impl Place {
    /// Remembers what is at each of `paths` now.
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Result<Self, durable::Error> {
        let parts = paths.into_iter().map(|path| {
            let meta = fs::metadata(path).map_err(durable::at("stat", path))?;
            Ok((path.to_owned(), meta.dev(), meta.ino()))
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// Returns what has happened to the first path that does not lead to the same file any more. A
    /// path that cannot be inspected is not taken for a changed one.
    pub fn check(&self) -> Result<(), String> {
        for (path, dev, ino) in &self.0 {
            let shown = path.display();
            match fs::metadata(path) {
                Ok(meta) if (meta.dev(), meta.ino()) == (*dev, *ino) => {}
                Ok(meta) if meta.dev() != *dev => {
                    return Err(format!(
                        "another file system was mounted over `{shown}`, or the one that held it was unmounted"
                    ));
                }
                Ok(_) => return Err(format!("`{shown}` was replaced by another one")),
                Err(error) if is_gone(&error) => {
                    return Err(format!("`{shown}` was moved, removed or unmounted"));
                }
                Err(_) => {}
            }
        }
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{NotADirectory, NotFound, StaleNetworkFileHandle};
    matches!(
        error.kind(),
        NotFound | NotADirectory | StaleNetworkFileHandle
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notices_what_was_moved_replaced_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        fs::create_dir(&a).unwrap();
        let place = Place::of([a.as_path()]).unwrap();
        fs::write(a.join("x"), "changes inside do not matter").unwrap();
        assert_eq!(place.check(), Ok(()));
        durable::rename(&a, &b).unwrap();
        assert!(place.check().unwrap_err().contains("moved, removed"));
        fs::create_dir(&a).unwrap();
        assert!(place.check().unwrap_err().contains("replaced"));
        fs::remove_dir(&a).unwrap();
        durable::rename(&b, &a).unwrap();
        assert_eq!(place.check(), Ok(()));
        assert!(Place::of([b.as_path()]).is_err());
    }
}
