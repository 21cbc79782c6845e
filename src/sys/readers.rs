//! Finds processes that work in a directory: with their working directory or root in it, or with a
//! mount of it, as containers have. Only processes that this one may inspect are seen.

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, fstat, openat};

/// Most levels that are climbed from where a process is.
const LEVELS: usize = 128;

/// A process that works in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    pid: u32,
    name: String,
    /// What of it is there.
    what: &'static str,
}

impl fmt::Display for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pid, name, what } = self;
        write!(f, "process {pid} ({name}) has {what} in it")
    }
}

/// Where the processes of this host were when they were asked.
#[derive(Debug, Default)]
pub struct Readers {
    /// The directories from where a process is up to its root, as device and inode.
    places: Vec<(Reader, Vec<(u64, u64)>)>,
    /// The device of a mounted directory, as `major:minor`, and its path on that file system.
    mounts: Vec<(Reader, String, PathBuf)>,
}

impl Readers {
    /// Asks every process that has anything to do with the file system of `dir`.
    #[must_use]
    pub fn near(dir: &Path) -> Self {
        let mut readers = Self::default();
        let Ok(device) = fs::metadata(dir).map(|meta| meta.dev()) else {
            return readers;
        };
        let mut namespaces = HashSet::new();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse().ok());
            if let Some(pid) = pid.filter(|pid| *pid != std::process::id()) {
                readers.ask(pid, &entry.path(), device, &mut namespaces);
            }
        }
        readers
    }

    fn ask(&mut self, pid: u32, proc: &Path, device: u64, namespaces: &mut HashSet<PathBuf>) {
        let reader = |what| {
            let name = fs::read_to_string(proc.join("comm")).unwrap_or_default();
            let name = name.trim_end().to_owned();
            Reader { pid, name, what }
        };
        for (link, what) in [("cwd", "its working directory"), ("root", "its root")] {
            let is_near = fs::metadata(proc.join(link)).is_ok_and(|meta| meta.dev() == device);
            if let Some(place) = is_near.then(|| climb(&proc.join(link))).flatten() {
                self.places.push((reader(what), place));
            }
        }
        // Processes of one namespace have the same mounts.
        if let Ok(namespace) = fs::read_link(proc.join("ns/mnt"))
            && namespaces.insert(namespace)
            && let Ok(text) = fs::read_to_string(proc.join("mountinfo"))
        {
            let mounts = text.lines().filter_map(Mount::parse);
            // A mount of a whole file system is no sign of a reader.
            let parts = mounts.filter(|mount| mount.root != Path::new("/"));
            self.mounts
                .extend(parts.map(|mount| (reader("a mount of it"), mount.device, mount.root)));
        }
    }

    /// Returns a process that works in `dir` or below it.
    #[must_use]
    pub fn of(&self, dir: &Path) -> Option<&Reader> {
        let meta = fs::metadata(dir).ok()?;
        let here = (meta.dev(), meta.ino());
        let place = self.places.iter().find(|(_, place)| place.contains(&here));
        if let Some((reader, _)) = place {
            return Some(reader);
        }
        if self.mounts.is_empty() {
            return None;
        }
        let (device, path) = on_its_file_system(dir)?;
        let mount = self.mounts.iter();
        let mut mount = mount.filter(|(_, of, root)| *of == device && root.starts_with(&path));
        mount.next().map(|(reader, ..)| reader)
    }
}

/// Returns the directories from `link` up to the root of its process or mount.
fn climb(link: &Path) -> Option<Vec<(u64, u64)>> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir: OwnedFd = rustix::fs::open(link, flags, Mode::empty()).ok()?;
    let mut place = Vec::new();
    for _ in 0..LEVELS {
        let stat = fstat(dir.as_fd()).ok()?;
        let here = (stat.st_dev, stat.st_ino);
        if place.last() == Some(&here) {
            break;
        }
        place.push(here);
        dir = openat(&dir, "..", flags, Mode::empty()).ok()?;
    }
    Some(place)
}

/// One line of `/proc/PID/mountinfo`.
struct Mount {
    device: String,
    root: PathBuf,
    point: PathBuf,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let mut path = || fields.next().map(unescape);
        Some(Self {
            device,
            root: path()?,
            point: path()?,
        })
    }
}

/// Returns the file system of `dir`, and the path of `dir` on it.
fn on_its_file_system(dir: &Path) -> Option<(String, PathBuf)> {
    let dir = fs::canonicalize(dir).ok()?;
    let text = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mounts = text.lines().filter_map(Mount::parse);
    let around = mounts.filter(|mount| dir.starts_with(&mount.point));
    // Of several mounts on one point the last is the one that is seen.
    let mount = around.max_by_key(|mount| mount.point.components().count())?;
    let below = dir.strip_prefix(&mount.point).ok()?;
    Some((mount.device, mount.root.join(below)))
}

/// Spaces and the like are `\040`.
fn unescape(field: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut out = Vec::new();
    let mut rest = field.as_bytes();
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match byte.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn finds_who_has_its_working_directory_below() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, other) = (dir.path().join("a b/c"), dir.path().join("other"));
        fs::create_dir_all(&inside).unwrap();
        fs::create_dir(&other).unwrap();
        let mut child = Command::new("sleep")
            .arg("60")
            .current_dir(&inside)
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let readers = Readers::near(dir.path());
        let found = readers.of(&dir.path().join("a b")).map(ToString::to_string);
        let nobody = readers.of(&other).cloned();
        child.kill().unwrap();
        child.wait().unwrap();
        let wanted = format!(
            "process {} (sleep) has its working directory in it",
            child.id()
        );
        assert_eq!(found, Some(wanted));
        assert_eq!(nobody, None);
    }

    #[test]
    fn reads_escaped_paths() {
        let line = "36 35 98:0 /mnt\\0401 /mnt\\0402 rw,noatime master:1 - ext3 /dev/root rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!(mount.device, "98:0");
        assert_eq!(
            (mount.root, mount.point),
            ("/mnt 1".into(), "/mnt 2".into())
        );
    }
}
