//! Small file systems of a test's own, which it may fill, freeze and remount. Only root can mount.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

/// A mounted file system; unmounted when it is dropped, whatever state it is in.
pub(crate) struct Disk {
    dir: TempDir,
    mount: PathBuf,
}

/// Tells whether this test may mount. Where it may not it says so, and fails where every test is to run.
pub(crate) fn may_mount(test: &str) -> bool {
    if rustix::process::geteuid().is_root() {
        return true;
    }
    eprintln!("SKIPPED: {test} mounts file systems, which needs root");
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{test} was skipped"
    );
    false
}

/// Runs a command that has to succeed.
pub(crate) fn run(program: &str, arguments: &[&str]) {
    assert!(try_run(program, arguments), "{program} {arguments:?}");
}

fn try_run(program: &str, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

impl Disk {
    /// A tmpfs with these options, such as `size=16m,nr_inodes=200`.
    pub(crate) fn tmpfs(options: &str) -> Self {
        let disk = Self::prepare();
        let mount = disk.mount.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", mount]);
        disk
    }

    /// An ext4 of `size`, such as `50M`, in a file. It has no blocks set aside for root.
    pub(crate) fn ext4(size: &str) -> Self {
        let disk = Self::prepare();
        let image = disk.dir.path().join("image");
        let image = image.to_str().unwrap();
        run("truncate", &["-s", size, image]);
        run("mkfs.ext4", &["-q", "-F", "-m", "0", image]);
        run(
            "mount",
            &[
                "-o",
                "loop,errors=remount-ro",
                image,
                disk.mount.to_str().unwrap(),
            ],
        );
        disk
    }

    fn prepare() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mount = dir.path().join("mount");
        std::fs::create_dir(&mount).unwrap();
        Self { dir, mount }
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.mount
    }

    /// Mounts it again with other options, such as `ro`.
    pub(crate) fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        run("mount", &["-o", &options, self.mount.to_str().unwrap()]);
    }

    /// Stops every write to it, until what is returned is dropped: before the node, which cannot end while its disk hangs.
    pub(crate) fn freeze(&self) -> Frozen {
        run("fsfreeze", &["-f", self.mount.to_str().unwrap()]);
        Frozen(self.mount.clone())
    }

    /// Cuts the power of an ext4: nothing that was not synced reaches the disk, and every write from now on fails.
    pub(crate) fn cut_power(&self) {
        let script = "import fcntl, os, struct, sys\n\
                      fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        run("python3", &["-c", script, self.mount.to_str().unwrap()]);
    }

    /// Lets the kernel find an error in an ext4, which makes it read-only.
    pub(crate) fn trip(&self) {
        let script = "dev=$(findmnt -no SOURCE \"$1\") && echo test > /sys/fs/ext4/${dev#/dev/}/trigger_fs_error";
        run("sh", &["-c", script, "sh", self.mount.to_str().unwrap()]);
    }

    /// Bytes that are in use.
    pub(crate) fn used(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mount).unwrap();
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    }

    /// Bytes that are free.
    pub(crate) fn free(&self) -> u64 {
        let stat = rustix::fs::statvfs(&self.mount).unwrap();
        stat.f_bfree * stat.f_frsize
    }

    /// Bytes that [`Disk::fill`] has taken.
    pub(crate) fn filled(&self) -> u64 {
        std::fs::metadata(self.mount.join("filler")).map_or(0, |m| m.len())
    }

    /// Fills it to the last block, and returns the file that does.
    pub(crate) fn fill_up(&self) -> PathBuf {
        use std::io::Write;
        let path = self.mount.join("filler");
        let mut file = std::fs::File::create(&path).unwrap();
        let mut length = 1 << 20;
        // What is written is in a cache; only a sync tells how much of it there is room for.
        while length >= 512 {
            let block = vec![1; length];
            while file
                .write_all(&block)
                .and_then(|()| file.sync_all())
                .is_ok()
            {}
            length /= 2;
        }
        path
    }

    /// Unmounts it and mounts it again: what an error has made read-only can be written again.
    pub(crate) fn mount_again(&self) {
        let mount = self.mount.to_str().unwrap();
        let image = self.dir.path().join("image");
        run("umount", &[mount]);
        run("mount", &["-o", "loop", image.to_str().unwrap(), mount]);
    }

    /// Fills it, but for about `left` bytes, and returns the file that does.
    pub(crate) fn fill(&self, left: u64) -> PathBuf {
        let path = self.mount.join("filler");
        let length = self.free().saturating_sub(left);
        let file = std::fs::File::create(&path).unwrap();
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
        path
    }
}

/// A file system that takes no writes; it takes them again when this is dropped.
pub(crate) struct Frozen(PathBuf);

impl Drop for Frozen {
    fn drop(&mut self) {
        try_run("fsfreeze", &["-u", self.0.to_str().unwrap()]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let mount = self.mount.to_str().unwrap();
        let _ = Command::new("fsfreeze")
            .args(["-u", mount])
            .stderr(Stdio::null())
            .status();
        if !try_run("umount", &[mount]) {
            try_run("umount", &["-l", mount]);
        }
    }
}
