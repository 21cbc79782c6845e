"""A disk whose writes are logged, and crash images that are built from the log."""

import os
import struct
import subprocess
import time

import disks

HERE = os.path.dirname(os.path.abspath(__file__))
WRITE, FLUSH, MARK = 1, 2, 3
SECTOR = 512


class LoggedDisk:
    """A loop device over a user-space disk. `image` is what the disk holds, `log` what was written to it, in order."""

    def __init__(self, home, image, fs):
        self.image, self.log, self.poison = image, f"{home}/log", f"{home}/poison"
        self.point = f"{home}/disk"
        os.makedirs(self.point, exist_ok=True)
        if os.path.exists(self.log):
            os.unlink(self.log)
        # pylint: disable=consider-using-with
        self.process = subprocess.Popen(
            ["nbdfuse", self.point, "[", "nbdkit", "--exit-with-parent", "python", f"{HERE}/write_log.py", f"disk={image}",
             f"log={self.log}", f"poison={self.poison}", "]"], stderr=subprocess.DEVNULL)
        end = time.monotonic() + 20
        while not os.path.exists(f"{self.point}/nbd"):
            if self.process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("nbdfuse does not start")
            time.sleep(0.01)
        self.device = disks.Device(f"{self.point}/nbd", fs)
        self.marks = os.open(self.log, os.O_WRONLY | os.O_APPEND)

    def mark(self, text):
        """Puts a mark into the log: what was flushed before it was told to someone by now."""
        data = text.encode()
        os.write(self.marks, struct.pack("<BQI", MARK, 0, len(data)) + data)

    def poison_write(self, data):
        """Lets the next write that holds `data` fail with EIO."""
        # In one step: of an empty file the disk would take every write for a poisoned one.
        with open(f"{self.poison}.new", "wb") as f:
            f.write(data)
        os.rename(f"{self.poison}.new", self.poison)

    def close(self):
        """Takes the disk down; the mount must be gone."""
        self.device.detach()
        os.close(self.marks)
        for _ in range(200):
            if subprocess.run(["fusermount3", "-u", self.point], capture_output=True).returncode == 0:
                break
            time.sleep(0.02)
        self.process.wait(timeout=20)


def read_log(path):
    """Returns the records of a log: kind, offset, bytes."""
    with open(path, "rb") as f:
        text = f.read()
    records, place = [], 0
    while place + 13 <= len(text):
        kind, offset, length = struct.unpack_from("<BQI", text, place)
        place += 13
        records.append((kind, offset, text[place:place + length]))
        place += length
    return records


def build(base, image, records, cut, rng, sector=SECTOR):
    """Builds what a disk with a volatile cache holds when the power goes after `cut` records: all that was flushed, and of
    the rest whatever happened to reach the medium, in pieces of a sector, a block or a whole write."""
    disks.copy(base, image)
    flushed = max((n for n in range(cut) if records[n][0] == FLUSH), default=-1)
    lost = rng.choice((0.1, 0.5, 0.9))
    with open(image, "r+b") as f:
        for n in range(cut):
            kind, offset, data = records[n]
            if kind != WRITE:
                continue
            if n < flushed:
                f.seek(offset)
                f.write(data)
                continue
            if rng.random() < lost:
                continue
            piece = rng.choice((sector, 4096, len(data)))
            torn = rng.choice((0, 0.2))
            for start in range(0, len(data), piece):
                if rng.random() >= torn:
                    f.seek(offset + start)
                    f.write(data[start:start + piece])
