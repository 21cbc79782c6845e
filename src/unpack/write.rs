//! Writes files through descriptors: created exclusively and never through a link, hashed as they
//! are written, closed with the archive's time. Nothing is decided here; the model has done that.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;
use sha2::Digest as _;

use super::Options;
use super::block::Slice;
use super::error::Error;
use super::path::split_last;
use super::tree::FilePlan;
use crate::datafile::tree::Mtime;
use crate::datafile::{Digest, Sha256};
use crate::sys::failure::Fault;

/// Zeros, for the digest of a hole.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// When a mode passed at creation is not the mode that results, and whether that is mended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Modes {
    /// Bits that the process's umask takes away.
    strips: u32,
    /// Whether every mode is set explicitly.
    always: bool,
    /// Whether directories are left as they were created: a `chmod` takes away an inherited
    /// set-group-ID bit, and a service that may not set that bit cannot give it back.
    leaves_dirs: bool,
}

impl Modes {
    /// Finds what changes modes below `root`: the process's umask, a default ACL, an inherited
    /// set-group-ID bit. With `keep`, what is inherited stays.
    pub(super) fn probe(root: BorrowedFd<'_>, keep: bool) -> Self {
        let acl = has_default_acl(root);
        let group = rustix::fs::fstat(root).map_or(true, |stat| stat.st_mode & 0o2000 != 0);
        let strips = process_umask().unwrap_or(0o777);
        Self {
            // The kernel does not apply the umask where there is a default ACL.
            strips: if keep && acl { 0 } else { strips },
            always: !keep && (acl || group),
            leaves_dirs: keep && group,
        }
    }

    /// Returns whether a file created with `mode` needs an explicit `chmod`.
    pub(super) fn differ(self, mode: u32) -> bool {
        self.always || mode & self.strips != 0
    }

    /// Returns whether a directory created with the mode `with` needs one.
    pub(super) fn dir_differs(self, with: u32, mode: u32) -> bool {
        !self.leaves_dirs && (with != mode || self.differ(mode))
    }
}

fn has_default_acl(dir: BorrowedFd<'_>) -> bool {
    let found = rustix::fs::fgetxattr(dir, "system.posix_acl_default", &mut [0u8; 0][..]);
    !matches!(found, Err(Errno::NODATA | Errno::OPNOTSUPP))
}

/// Reads this process's umask from `/proc`: `umask(2)` can only return it by changing it, which
/// would race with other threads.
fn process_umask() -> Option<u32> {
    static UMASK: OnceLock<Option<u32>> = OnceLock::new();
    *UMASK.get_or_init(|| {
        let mut status = String::new();
        File::open("/proc/self/status")
            .and_then(|mut file| file.read_to_string(&mut status))
            .ok()?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("Umask:"))?;
        u32::from_str_radix(line.trim(), 8).ok()
    })
}

/// A file to create.
pub(super) struct Create {
    pub(super) dir: Arc<OwnedFd>,
    /// Its path in the tree; the last component is its name in `dir`.
    pub(super) path: Vec<u8>,
    pub(super) plan: FilePlan,
    pub(super) size: u64,
    pub(super) mtime: Mtime,
}

/// One step of writing a tree.
pub(super) enum Step {
    Create(Create),
    Data(Slice),
    /// This many zero bytes, left unwritten so that they take no space.
    Hole(u64),
    /// A hard link `path` in `dir` to `from` in `from_dir`.
    Link {
        from_dir: Arc<OwnedFd>,
        from: Vec<u8>,
        dir: Arc<OwnedFd>,
        path: Vec<u8>,
        replaces: bool,
    },
    /// Removes a file that a link is about to replace.
    Remove {
        dir: Arc<OwnedFd>,
        path: Vec<u8>,
    },
}

/// Writes files, one after the other.
pub(super) struct Writer<'a> {
    options: &'a Options,
    modes: Modes,
    open: Option<OpenFile>,
    /// Digests of the files written so far, by index of their content.
    pub(super) digests: Vec<(u32, Sha256)>,
    files: u64,
    bytes: u64,
}

struct OpenFile {
    file: File,
    path: Vec<u8>,
    content: u32,
    left: u64,
    size: u64,
    hole_at_end: bool,
    hasher: sha2::Sha256,
    mtime: Mtime,
}

impl<'a> Writer<'a> {
    pub(super) fn new(options: &'a Options, modes: Modes) -> Self {
        Self {
            options,
            modes,
            open: None,
            digests: Vec::new(),
            files: 0,
            bytes: 0,
        }
    }

    /// Runs one step.
    pub(super) fn step(&mut self, step: Step) -> Result<(), Error> {
        match step {
            Step::Create(create) => self.create(create),
            Step::Data(slice) => self.data(slice.bytes()),
            Step::Hole(len) => self.hole(len),
            Step::Remove { dir, path } => remove(dir.as_fd(), &path),
            Step::Link {
                from_dir,
                from,
                dir,
                path,
                replaces,
            } => {
                if replaces {
                    remove(dir.as_fd(), &path)?;
                }
                let name = split_last(&path).1;
                rustix::fs::linkat(&*from_dir, from, &*dir, name, AtFlags::empty())
                    .map_err(|e| Error::disk("link", &path, e.into()))
            }
        }
    }

    /// Creates the next file; the previous one is complete.
    pub(super) fn create(&mut self, create: Create) -> Result<(), Error> {
        let Create {
            dir,
            path,
            plan,
            size,
            mtime,
        } = create;
        if plan.replaces {
            remove(dir.as_fd(), &path)?;
        }
        let mode = Mode::from_raw_mode(plan.mode);
        let flags = OFlags::WRONLY
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::CLOEXEC
            | OFlags::NOCTTY;
        let file = rustix::fs::openat(&*dir, split_last(&path).1, flags, mode)
            .map_err(|e| Error::disk("create", &path, e.into()))?;
        if self.modes.differ(plan.mode) {
            rustix::fs::fchmod(&file, mode)
                .map_err(|e| Error::disk("set the mode of", &path, e.into()))?;
        }
        self.open = Some(OpenFile {
            file: file.into(),
            path,
            content: plan.content,
            left: size,
            size,
            hole_at_end: false,
            hasher: sha2::Sha256::default(),
            mtime,
        });
        if size == 0 {
            self.finish()?;
        }
        Ok(())
    }

    /// Appends bytes to the open file, and closes it once it is complete.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        open.file
            .write_all(bytes)
            .map_err(|e| Error::disk("write", &open.path, e))?;
        open.hasher.update(bytes);
        open.left = open.left.saturating_sub(bytes.len() as u64);
        open.hole_at_end = false;
        self.bytes += bytes.len() as u64;
        if open.left == 0 {
            self.finish()?;
        }
        Ok(())
    }

    /// Appends zero bytes to the open file without writing them.
    fn hole(&mut self, len: u64) -> Result<(), Error> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let by = i64::try_from(len).unwrap_or(i64::MAX);
        open.file
            .seek(SeekFrom::Current(by))
            .map_err(|e| Error::disk("seek in", &open.path, e))?;
        let mut rest = len;
        while rest > 0 {
            let n = rest.min(ZEROS.len() as u64);
            open.hasher.update(&ZEROS[..n as usize]);
            rest -= n;
            if self.options.cancel.load(Ordering::Relaxed) {
                return Err(Error::Canceled);
            }
        }
        open.left = open.left.saturating_sub(len);
        open.hole_at_end = true;
        if open.left == 0 {
            self.finish()?;
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        let Some(open) = self.open.take() else {
            return Ok(());
        };
        if open.hole_at_end {
            open.file
                .set_len(open.size)
                .map_err(|e| Error::disk("set the length of", &open.path, e))?;
        }
        rustix::fs::futimens(&open.file, &times(open.mtime))
            .map_err(|e| Error::disk("set the time of", &open.path, e.into()))?;
        self.digests
            .push((open.content, Digest(open.hasher.finalize().into())));
        self.files += 1;
        Ok(())
    }

    /// Reports to the caller how much was written since the last report.
    pub(super) fn report(&mut self) {
        let (files, bytes) = (
            std::mem::take(&mut self.files),
            std::mem::take(&mut self.bytes),
        );
        if let Some(on_written) = &self.options.on_written
            && files + bytes > 0
        {
            on_written(files, bytes);
        }
    }
}

/// Creates the symbolic link `path` in `dir`.
pub(super) fn symlink(
    dir: BorrowedFd<'_>,
    path: &[u8],
    target: &[u8],
    mtime: Mtime,
) -> Result<(), Error> {
    let name = split_last(path).1;
    rustix::fs::symlinkat(target, dir, name)
        .map_err(|e| Error::disk("make link", path, e.into()))?;
    set_time(dir, path, mtime)
}

/// Sets the modification time of `path` in `dir`; of a link, not of its target.
pub(super) fn set_time(dir: BorrowedFd<'_>, path: &[u8], mtime: Mtime) -> Result<(), Error> {
    let name = split_last(path).1;
    match rustix::fs::utimensat(dir, name, &times(mtime), AtFlags::SYMLINK_NOFOLLOW) {
        // Some file systems keep no times for links.
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(e) => Err(Error::disk("set the time of", path, e.into())),
    }
}

fn remove(dir: BorrowedFd<'_>, path: &[u8]) -> Result<(), Error> {
    match rustix::fs::unlinkat(dir, split_last(path).1, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(Error::disk("replace", path, e.into())),
    }
}

/// Leaves the access time unchanged: nothing compares it.
fn times(mtime: Mtime) -> Timestamps {
    Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: rustix::fs::UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: mtime.secs,
            tv_nsec: mtime.nanos.into(),
        },
    }
}

/// Distinguishes "no inodes" from "no space" by asking the file system of `root`.
pub(super) fn explain(error: Error, root: BorrowedFd<'_>) -> Error {
    let no_inodes = error.fault() == Some(Fault::NoSpace)
        && rustix::fs::fstatvfs(root).is_ok_and(|stat| stat.f_files > 0 && stat.f_favail == 0);
    if no_inodes {
        error.out_of_inodes()
    } else {
        error
    }
}

/// Makes the error of a thread that could not be started or has panicked.
pub(super) fn thread_failed(source: io::Error) -> Error {
    Error::disk("run a thread for", b"", source)
}
