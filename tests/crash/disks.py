"""File systems in a file: made, mounted through a loop device, cut off from their disk, checked."""

import fcntl
import os
import struct
import subprocess
import time

# FS_IOC_SHUTDOWN, and its mode that does not even flush the journal: what a power cut leaves.
_SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
_NO_LOG_FLUSH = 2
_FLUSH_BUFFERS = 0x1261

SIZES = {"ext4": "64M", "xfs": "320M"}


def sh(*argv):
    """Runs a command, and raises with what it said when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def make(image, fs):
    """Makes an empty file system in the file `image`."""
    if os.path.exists(image):
        os.unlink(image)
    sh("truncate", "-s", SIZES[fs], image)
    sh(f"mkfs.{fs}", "-q", image)


def copy(source, image):
    """Copies an image, without its holes."""
    sh("cp", "--sparse=always", source, image)


class Device:
    """A loop device over an image. It stays attached from one mount to the next: a device that is taken down and up again
    within a millisecond is at times still on its way down when it is mounted."""

    def __init__(self, image, fs):
        # Copies of one image carry one identifier, and xfs mounts only one of a kind.
        self.options = "nouuid" if fs == "xfs" else "defaults"
        self.path = sh("losetup", "-f", "--show", image)

    def mount(self, point):
        """Mounts it; a journal that was left is replayed here."""
        # What the device remembers of an image that was exchanged below it is void.
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _FLUSH_BUFFERS)
        finally:
            os.close(fd)
        sh("mount", "-o", self.options, self.path, point)

    def detach(self):
        """Takes the device down."""
        sh("losetup", "-d", self.path)


def unmount(point):
    """Unmounts, once whoever was killed there has let go."""
    for left in range(200, -1, -1):
        done = subprocess.run(["umount", point], capture_output=True, text=True)
        if done.returncode == 0:
            return
        if left == 0:
            raise RuntimeError(f"umount {point}: {done.stderr.strip()}")
        time.sleep(0.01)


def cut(point):
    """Cuts the file system off from its disk, as it is now."""
    fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)
