"""The trees that are pushed, their archives, and how a tree is told from another: by one digest over all of it."""

import gzip
import hashlib
import io
import os
import random
import stat
import tarfile
import zipfile

KINDS = ("tar.gz", "zip")
# The name whose versions take a while to arrive: what hits it hits the middle of a transfer.
LARGE = "catalog"


def seed(name, version):
    """Returns the seed of what a version of a name holds."""
    return f"{name} {version}"


def tree(seed):
    """Returns the files (path to content) and the links (path to target) of one version."""
    rng = random.Random(seed)
    page = f"<html>{seed}</html>\n".encode()
    files = {
        "index.html": page + rng.randbytes(200),
        "empty": b"",
        "a/one.bin": rng.randbytes(5000),
        "a/b/two.bin": rng.randbytes(20000),
        "a/b/three.txt": seed.encode() * 100,
    }
    if seed.startswith(LARGE):
        files["large.bin"] = rng.randbytes(1500 << 10)
    return files, {"a/latest": "b/two.bin", "home": "index.html"}


def archive(kind, seed):
    """Returns the archive of `tree(seed)`; the same bytes each time."""
    files, links = tree(seed)
    out = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
            for path, content in files.items():
                z.writestr(_zip_info(path, stat.S_IFREG | 0o644), content)
            for path, target in links.items():
                z.writestr(_zip_info(path, stat.S_IFLNK | 0o777), target)
    else:
        with tarfile.open(fileobj=out, mode="w") as t:
            for path, content in files.items():
                info = tarfile.TarInfo(path)
                info.size = len(content)
                t.addfile(info, io.BytesIO(content))
            for path, target in links.items():
                info = tarfile.TarInfo(path)
                info.type, info.linkname = tarfile.SYMTYPE, target
                t.addfile(info)
        return gzip.compress(out.getvalue(), compresslevel=1, mtime=0)
    return out.getvalue()


def _zip_info(path, mode):
    info = zipfile.ZipInfo(path)
    info.create_system, info.external_attr = 3, mode << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    return info


def expected(seed):
    """Returns the digest of the tree of `seed`, as `digest` finds it on the disk."""
    files, links = tree(seed)
    rows = [(path, hashlib.sha256(content).hexdigest()) for path, content in files.items()]
    rows += [(path, f"-> {target}") for path, target in links.items()]
    return _sum(rows)


def digest(path):
    """Returns the digest of everything below the directory `path`, which is resolved once and then read by descriptor; None
    when it was removed meanwhile."""
    rows = []
    root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _walk(root, "", rows)
        ours = "/versions/" in os.readlink(f"/proc/self/fd/{root}")
    except FileNotFoundError:
        if "/versions/" in os.readlink(f"/proc/self/fd/{root}"):
            raise
        return None
    finally:
        os.close(root)
    return _sum(rows) if ours else None


def _walk(fd, prefix, rows):
    for name in os.listdir(fd):
        path = prefix + name
        mode = os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode
        if stat.S_ISLNK(mode):
            rows.append((path, f"-> {os.readlink(name, dir_fd=fd)}"))
            continue
        child = os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=fd)
        try:
            if stat.S_ISDIR(mode):
                _walk(child, path + "/", rows)
            else:
                with open(child, "rb", closefd=False) as f:
                    rows.append((path, hashlib.sha256(f.read()).hexdigest()))
        finally:
            os.close(child)


def _sum(rows):
    text = "\n".join(f"{path} {what}" for path, what in sorted(rows))
    return hashlib.sha256(text.encode()).hexdigest()
