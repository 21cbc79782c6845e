//! Free space and inodes of the file system of a path.

use std::io;
use std::path::Path;

/// What a file system has left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Free {
    /// Bytes that an unprivileged process can still write.
    pub bytes: u64,
    /// `u64::MAX` if the file system does not count them.
    pub inodes: u64,
    /// Size of the file system in bytes.
    pub total: u64,
}

/// Reads the free space of the file system of `path`.
pub fn free(path: &Path) -> io::Result<Free> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Free {
        bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        inodes: if stat.f_files == 0 {
            u64::MAX
        } else {
            stat.f_favail
        },
        total: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}
