//! File operations that survive a power failure: write next to the target, fsync, rename, fsync the
//! directory. `clippy.toml` bans the raw calls and points here.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use super::failpoint::{Bug, is_seeded};
use super::failure::Fault;

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("{verb} `{}`", path.display())]
pub struct Error {
    /// The operation, such as `rename`.
    pub verb: &'static str,
    pub path: PathBuf,
    #[source]
    pub source: io::Error,
}

impl Error {
    /// Returns what this node lacks, as far as the system reports it.
    #[must_use]
    pub fn fault(&self) -> Fault {
        Fault::of(&self.source)
    }
}

/// Maps an [`io::Error`] to an [`Error`] with `verb` and `path`.
pub fn at<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Returns a path next to `path` that no process has used before: `.<name>.tmp-<process>-<n>`.
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

/// Identifies this process among all that ever worked on the same files. Its pid does not: in a container
/// every start has the same one.
fn life() -> &'static str {
    static LIFE: OnceLock<String> = OnceLock::new();
    LIFE.get_or_init(|| format!("{:016x}", fastrand::u64(..)))
}

/// Returns whether a file name was made by [`temporary_sibling`], of any process.
#[must_use]
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.contains(".tmp-")
}

/// Returns whether a file name is a temporary one of another process. The caller holds the lock, so that
/// process is dead and the file may be removed; one of this process may be in use by another thread.
#[must_use]
pub fn is_left_over(name: &str) -> bool {
    is_temporary(name) && !name.contains(&format!(".tmp-{}-", life()))
}

/// Syncs the directory `path`, so that its created, renamed and removed entries are durable.
pub fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(at("sync directory", path))
}

/// Creates `path` and its missing parents (mode 0777 less the umask), and syncs every directory that got
/// a new entry.
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

/// Writes `bytes` to `path` so that readers, also after a power failure, see the old content or the new,
/// whole.
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

/// Renames `from` to `to`; fails with `AlreadyExists` if `to` exists.
pub fn rename_no_replace(from: &Path, to: &Path) -> Result<(), Error> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        // A file system without the flag: check first. Only this process renames into the tree.
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

/// Exchanges `a` and `b` atomically.
pub fn exchange(a: &Path, b: &Path) -> Result<(), Error> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(CWD, a, CWD, b, RenameFlags::EXCHANGE)
        .map_err(|e| at("exchange with", b)(e.into()))
}

/// Makes the symbolic link `link` point to `target`, atomically. The caller syncs the directory.
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

/// Syncs the directory that contains `path`.
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
