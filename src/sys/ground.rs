//! Says in words why a directory cannot be used, where the system says `File exists`, `Read-only
//! file system` or `Invalid cross-device link`, and what to do. Changes nothing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};
use rustix::io::Errno;

/// The parts of a data directory.
const PARTS: [&str; 5] = ["data", "staging", "spool", "manifests", "archives"];
/// Most findings of one data directory.
const MOST: usize = 10;

/// Returns what stands in the way of the directory `path`: a link to nothing, or something that is
/// no directory.
#[must_use]
pub fn obstacle(path: &Path) -> Option<String> {
    let mut above: Vec<&Path> = path.ancestors().collect();
    above.reverse();
    above.into_iter().find_map(|dir| {
        let meta = fs::symlink_metadata(dir).ok()?;
        let shown = dir.display();
        match fs::metadata(dir) {
            Ok(meta) if meta.is_dir() => None,
            Err(_) if meta.is_symlink() => {
                let target = fs::read_link(dir).unwrap_or_default();
                let target = target.display();
                Some(format!("`{shown}` is a symbolic link to `{target}`, which is not there: mount the disk that holds it, create it, or remove the link"))
            }
            Ok(_) => Some(format!("`{shown}` is not a directory: move it away, or choose another place")),
            Err(_) => None,
        }
    })
}

/// Returns why this process may not write to `dir`, or to the nearest directory above it.
#[must_use]
pub fn unwritable(dir: &Path) -> Option<String> {
    let there = dir.ancestors().find(|dir| dir.exists())?;
    let (shown, wanted) = (there.display(), dir.display());
    match access(there, Access::WRITE_OK | Access::EXEC_OK) {
        Err(Errno::ROFS) => Some(format!(
            "`{shown}` is read-only for this process: under systemd, allow it with `ReadWritePaths={wanted}` (systemctl edit edgepush); otherwise mount it read-write"
        )),
        Err(Errno::ACCESS) => {
            let uid = rustix::process::geteuid().as_raw();
            Some(format!(
                "user {uid} may not write to `{shown}`: make the agent's user its owner (chown), or choose another data_dir"
            ))
        }
        Ok(()) | Err(_) => None,
    }
}

/// Returns what is wrong with the data directory `root`: its parts, and the applications and names
/// below `data/` that are on another disk or lead nowhere.
#[must_use]
pub fn inspect(root: &Path) -> Vec<String> {
    let parts = || PARTS.iter().map(|part| root.join(part));
    let mut found: Vec<String> = parts().filter_map(|part| obstacle(&part)).collect();
    found.dedup();
    if !found.is_empty() {
        return found;
    }
    found.extend(unwritable(root));
    let data = root.join("data");
    let places = parts().chain(below(&data));
    let Some(device) = device(&root.join("staging")) else {
        return found;
    };
    for place in places {
        if found.len() == MOST {
            break;
        }
        found.extend(obstacle(&place).or_else(|| across(&place, device)));
    }
    found
}

/// Returns that `dir` is on another device than the one that trees are made on.
fn across(dir: &Path, staging: u64) -> Option<String> {
    (device(dir)? != staging).then(|| apart(dir))
}

/// Says that `dir` is on another disk than the trees that are to be published in it.
#[must_use]
pub fn apart(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "`{dir}` is on another file system than `staging`, and a version is published by one rename: put the whole data directory on that disk"
    )
}

fn device(dir: &Path) -> Option<u64> {
    fs::metadata(dir).ok().map(|meta| meta.dev())
}

/// Returns the applications and names below `data`.
fn below(data: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let apps = subdirectories(data).into_iter();
    apps.flat_map(|app| {
        let names = subdirectories(&app);
        std::iter::once(app).chain(names)
    })
}

/// Returns the directories in `dir`, and the links, which should lead to one.
fn subdirectories(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let entries = entries.filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_file()));
    entries.map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_a_link_to_nothing_and_a_file_in_the_way() {
        let dir = tempfile::tempdir().unwrap();
        let (link, file) = (dir.path().join("link"), dir.path().join("file"));
        symlink("/mnt/not-mounted", &link).unwrap();
        fs::write(&file, "x").unwrap();
        let said = obstacle(&link.join("data")).unwrap();
        assert!(
            said.contains("/mnt/not-mounted") && said.contains("mount"),
            "{said}"
        );
        assert!(
            obstacle(&file.join("data"))
                .unwrap()
                .contains("not a directory")
        );
        assert_eq!(obstacle(&dir.path().join("missing/data")), None);
        assert_eq!(inspect(dir.path()), Vec::<String>::new());
        fs::create_dir_all(dir.path().join("data/app")).unwrap();
        fs::create_dir(dir.path().join("staging")).unwrap();
        symlink("/mnt/not-mounted", dir.path().join("data/app/name")).unwrap();
        assert_eq!(inspect(dir.path()).len(), 1);
    }
}
