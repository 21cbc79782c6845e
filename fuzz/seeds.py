#!/usr/bin/env python3
"""Makes the seeds of the fuzzer from existing archives: seeds.py OUTDIR DIR...

Takes the small archives of each DIR: unchanged and, where that makes a difference, also without
their gzip and with checksums to be repaired. The first two bytes say how an input is read, see
src/input.rs. Duplicates are dropped."""
import gzip
import hashlib
import os
import sys
import zlib

MOST = 12 << 10
RAW, REPAIRED, BUILT = 0, 4, 8
TAR, TAR_GZ, ZIP = 0, 1, 2


def shorter(tar):
    """Returns the tar without most of the zeros that pad its last record."""
    end = len(tar.rstrip(b"\0"))
    return tar[: (end + 511) // 512 * 512 + 1024]


def inputs(data):
    if data[:2] == b"\x1f\x8b":
        yield bytes([TAR_GZ | RAW, 0]) + data
        try:
            data = gzip.decompress(data) if len(data) < MOST else b""
        except (OSError, EOFError, zlib.error):
            return
        data = shorter(data)
        if 0 < len(data) <= MOST:
            yield bytes([TAR | REPAIRED, 8]) + data
            yield bytes([TAR_GZ | REPAIRED, 7]) + data
    elif b"PK\x05\x06" in data or data[:2] == b"PK":
        yield bytes([ZIP | RAW, 0]) + data
        yield bytes([ZIP | REPAIRED, 8]) + data
    else:
        data = shorter(data)
        yield bytes([TAR | RAW, 0]) + data
        yield bytes([TAR | REPAIRED, 15]) + data


def built():
    """Yields a member or entry of each kind, as instructions for src/build.rs."""
    for kind in range(0, 256, 5):
        for format in (TAR, TAR_GZ, ZIP):
            body = bytes([kind, 0, kind // 5, 40, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 0, 0, 0])
            yield bytes([format | BUILT, 0]) + body + bytes([0, 0, 1, 60]) + bytes(range(30)) + body


def full():
    """Yields files after a filler, up to the size limit of a tree and a little beyond."""
    for count in range(2, 6):
        files = b"".join(bytes([0, 0, name, 0, 255, 7, 0, 0]) for name in range(count))
        for format in (TAR, TAR_GZ):
            for how in (7, 15):
                yield bytes([format | BUILT, how]) + files


def main(out, dirs):
    os.makedirs(out, exist_ok=True)
    count = 0

    def write(data):
        nonlocal count
        path = os.path.join(out, hashlib.sha1(data).hexdigest())
        if len(data) <= MOST and not os.path.exists(path):
            with open(path, "wb") as file:
                file.write(data)
            count += 1

    for top in dirs:
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                if os.path.getsize(path) <= MOST and not name.startswith("MANIFEST"):
                    with open(path, "rb") as file:
                        for data in inputs(file.read()):
                            write(data)
    for data in [*built(), *full()]:
        write(data)
    print(f"{count} inputs to start from")


main(sys.argv[1], sys.argv[2:])
