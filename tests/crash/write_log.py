"""An nbdkit plugin: a disk in a file, whose writes and flushes are also appended to a log, and which refuses, once, the
first write that holds certain bytes.

A record of the log is a kind (1 write, 2 flush, 3 a mark of the test's own), an offset, a length and as many bytes.
"""

import errno
import os
import struct

import nbdkit

API_VERSION = 2
_paths = {}
_log = None


def config(key, value):
    _paths[key] = value


def config_complete():
    global _log
    _log = os.open(_paths["log"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)


def thread_model():
    return nbdkit.THREAD_MODEL_SERIALIZE_ALL_REQUESTS


def open(readonly):
    return os.open(_paths["disk"], os.O_RDWR)


def close(disk):
    os.close(disk)


def get_size(disk):
    return os.fstat(disk).st_size


def pread(disk, buffer, offset, flags):
    buffer[:] = os.pread(disk, len(buffer), offset)


def pwrite(disk, buffer, offset, flags):
    data = bytes(buffer)
    if _refused(data):
        nbdkit.set_error(errno.EIO)
        raise RuntimeError("refused")
    os.pwrite(disk, data, offset)
    os.write(_log, struct.pack("<BQI", 1, offset, len(data)) + data)


def _refused(data):
    try:
        poison = os.open(_paths["poison"], os.O_RDONLY)
    except OSError:
        return False
    try:
        found = os.pread(poison, 4096, 0) in data
    finally:
        os.close(poison)
    if found:
        os.unlink(_paths["poison"])
    return found


def can_flush(disk):
    return True


def flush(disk, flags):
    os.write(_log, struct.pack("<BQI", 2, 0, 0))


def can_trim(disk):
    return False


def can_zero(disk):
    return False
