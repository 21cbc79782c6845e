"""File systems in a file: made, mounted through a loop device, cut off from their disk."""

import ctypes
import fcntl
import os
import struct
import subprocess
import time

_libc = ctypes.CDLL(None, use_errno=True)

# FS_IOC_SHUTDOWN, and its mode that does not even flush the journal: what a power cut leaves.
_SHUTDOWN = (2 << 30) | (4 << 16) | (ord("X") << 8) | 125
_NO_LOG_FLUSH = 2
_FLUSH_BUFFERS = 0x1261
_LOOP_GET_FREE, _LOOP_CONFIGURE, _LOOP_AUTOCLEAR = 0x4C82, 0x4C0A, 4

SIZES = {"ext4": 64 << 20, "xfs": 320 << 20, "btrfs": 256 << 20}
# Copies of one image carry one identifier, and xfs mounts only one of a kind.
_OPTIONS = {"ext4": b"", "xfs": b"nouuid", "btrfs": b""}


def sh(*argv):
    """Runs a command, and raises with what it said when it fails."""
    done = subprocess.run(argv, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout.strip()


def make(image, fs):
    """Makes an empty file system in the file `image`."""
    with open(image, "wb") as f:
        f.truncate(SIZES[fs])
    sh(f"mkfs.{fs}", "-q", image)


def copy(source, target):
    """Copies an image over another, without its holes."""
    with open(source, "rb") as old, open(target, "wb") as new:
        size = os.fstat(old.fileno()).st_size
        new.truncate(size)
        place = 0
        while place < size:
            try:
                place = os.lseek(old.fileno(), place, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(old.fileno(), place, os.SEEK_HOLE)
            os.lseek(new.fileno(), place, os.SEEK_SET)
            while place < end:
                place += os.sendfile(new.fileno(), old.fileno(), place, end - place)


class Device:
    """A loop device over an image, or over another device. It stays attached from one mount to the next, since one that is
    taken down and up again within a millisecond is at times still on its way down; and it goes with this process."""

    def __init__(self, image, fs):
        self.fs = fs
        with open("/dev/loop-control", "rb") as control:
            while True:
                self.path = f"/dev/loop{fcntl.ioctl(control, _LOOP_GET_FREE)}"
                self.fd = os.open(self.path, os.O_RDWR)
                try:
                    self._configure(image)
                    return
                except OSError as error:
                    # Another process has taken it meanwhile.
                    os.close(self.fd)
                    if error.errno != 16:
                        raise

    def _configure(self, image):
        backing = os.open(image, os.O_RDWR)
        try:
            # struct loop_config: descriptor, block size, and of struct loop_info64 nothing but the flags.
            config = bytearray(304)
            struct.pack_into("II", config, 0, backing, 0)
            struct.pack_into("I", config, 8 + 52, _LOOP_AUTOCLEAR)
            fcntl.ioctl(self.fd, _LOOP_CONFIGURE, config)
        finally:
            os.close(backing)

    def mount(self, point):
        """Mounts it; a journal that was left is replayed here."""
        # What the device remembers of an image that was exchanged below it is void.
        fcntl.ioctl(self.fd, _FLUSH_BUFFERS)
        if _libc.mount(self.path.encode(), point.encode(), self.fs.encode(), 0, _OPTIONS[self.fs]):
            error = ctypes.get_errno()
            raise OSError(error, f"mount {self.path} on {point}: {os.strerror(error)}")

    def detach(self):
        """Takes the device down."""
        os.close(self.fd)


def unmount(point):
    """Unmounts, once whoever was killed there has let go."""
    for left in range(500, -1, -1):
        if _libc.umount2(point.encode(), 0) == 0:
            return
        error = ctypes.get_errno()
        if left == 0 or error != 16:
            raise OSError(error, f"umount {point}: {os.strerror(error)}")
        time.sleep(0.004)


def cut(point):
    """Cuts the file system off from its disk, as it is now."""
    fd = os.open(point, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
    finally:
        os.close(fd)
