//! File operations that survive a power cut: write beside, fsync, rename, fsync the directory. `clippy.toml` bans the raw
//! calls and points here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::failpoint::{Bug, is_seeded};
use super::failure::Fault;

/// What failed, and on which path.
#[derive(Debug, thiserror::Error)]
#[error("{verb} `{}`", path.display())]
pub struct Error {
    /// What was tried, such as `rename`.
    pub verb: &'static str,
    /// The path it was tried on.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: io::Error,
}

impl Error {
    /// Returns what this node lacks, as far as the system says.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::of(&self.source)
    }
}

/// Makes a mapper from an [`io::Error`] to an [`Error`] with `verb` and `path`.
pub fn at<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Returns a name for a temporary sibling of `path` that no process has used before: `.<name>.tmp-<life>-<n>`.
#[must_use]
pub fn temporary_sibling(path: &Path) -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = path
        .file_name()
        .map(|n| n.to_string_lossy().into_owned())
        .unwrap_or_default();
    path.with_file_name(format!(".{name}.tmp-{}-{n}", life()))
}

/// Tells this process from all others that ever worked on the same files. Its id does not: in a container every life has
/// the same one.
fn life() -> &'static str {
    static LIFE: OnceLock<String> = OnceLock::new();
    LIFE.get_or_init(|| format!("{:016x}", fastrand::u64(..)))
}

/// Tells whether a file name is one that [`temporary_sibling`] makes, in this process or in another.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.contains(".tmp-")
}

/// Tells whether a file name is a temporary one of another process, which a lock tells to be dead: it may be swept, while
/// one of this process may be in use by another thread.
#[must_use]
pub fn is_left_over(name: &str) -> bool {
    is_temporary(name) && !name.contains(&format!(".tmp-{}-", life()))
}

/// Syncs the directory `path`, so that entries made, renamed or removed in it last.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(at("sync directory", path))
}

/// Makes `path` and its missing parents (mode 0777 less the umask), and syncs each directory that gained an entry.
pub fn create_dir_all(path: &Path) -> Result<(), Error> {
    let missing: Vec<&Path> = path
        .ancestors()
        .take_while(|p| !p.as_os_str().is_empty() && !p.exists())
        .collect();
    for dir in missing.into_iter().rev() {
        match fs::create_dir(dir) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
            Err(e) => return Err(at("make directory", dir)(e)),
        }
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
    }
    Ok(())
}

/// Puts `bytes` at `path` so that a reader or a power cut sees the old content or the new, whole.
pub fn write_file(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let temporary = temporary_sibling(path);
    let result = write_and_rename(&temporary, path, bytes, mode);
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn write_and_rename(temporary: &Path, path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(temporary)
        .map_err(at("create", temporary))?;
    file.write_all(bytes).map_err(at("write", temporary))?;
    file.sync_all().map_err(at("sync", temporary))?;
    rename(temporary, path)?;
    sync_parent(path)
}

/// Renames `from` to `to`, replacing a file or link there. The caller syncs the directories.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the one place that the ban points to"
)]
pub fn rename(from: &Path, to: &Path) -> Result<(), Error> {
    fs::rename(from, to).map_err(at("rename to", to))
}

/// Renames `from` to `to`; fails with `AlreadyExists` when there is something at `to`.
pub fn rename_no_replace(from: &Path, to: &Path) -> Result<(), Error> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // A file system without the flag: look first. Only this process renames into the tree.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS)
            if fs::symlink_metadata(to).is_err() =>
        {
            rename(from, to)
        }
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
            Err(at("rename to", to)(io::ErrorKind::AlreadyExists.into()))
        }
        Err(e) => Err(at("rename to", to)(e.into())),
    }
}

/// Exchanges what is at `a` and at `b` in one atomic step.
pub fn exchange(a: &Path, b: &Path) -> Result<(), Error> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)
        .map_err(|e| at("exchange with", b)(e.into()))
}

/// Makes the symbolic link `link` point to `target` in one atomic step. The caller syncs the directory.
pub fn replace_symlink(target: &Path, link: &Path) -> Result<(), Error> {
    if is_seeded(Bug::UnlinkFirst) {
        let _ = fs::remove_file(link);
        return std::os::unix::fs::symlink(target, link).map_err(at("make link", link));
    }
    let temporary = temporary_sibling(link);
    std::os::unix::fs::symlink(target, &temporary).map_err(at("make link", &temporary))?;
    let result = rename(&temporary, link);
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

/// Syncs the directory that holds `path`.
pub fn sync_parent(path: &Path) -> Result<(), Error> {
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_files_and_links_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a");
        write_file(&file, b"one", 0o600).unwrap();
        write_file(&file, b"two", 0o600).unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        let link = dir.path().join("current");
        for target in ["versions/1", "versions/2"] {
            replace_symlink(Path::new(target), &link).unwrap();
            assert_eq!(fs::read_link(&link).unwrap(), Path::new(target));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn never_replaces_when_told_not_to() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        create_dir_all(&a.join("x/y")).unwrap();
        create_dir_all(&b).unwrap();
        let error = rename_no_replace(&a, &b).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AlreadyExists);
        rename_no_replace(&a, &dir.path().join("c")).unwrap();
    }
}
