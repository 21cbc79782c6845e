"""A node under test: its configuration, its agent with or without a tracer, a reader of its live tree, and what must hold."""

import hashlib
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import threading
import time

import servers
import tracer
import trees

APP, NAME = "crash", "site"
PATIENCE = 30

_CONFIG = """
data_dir = "{root}"
[listen]
http = "off"
socket = "{socket}"
[log]
level = "info"
[fetch]
allow = ["127.0.0.0/8"]
[publish]
reserve = "1MiB"
[report]
first_retry = "50ms"
[[report.endpoints]]
name = "crash"
url = "{hook}"
secret_files = ["{secret}"]
types = [{types}]
"""
_TYPES = ("accepted", "published", "failed", "activated")


class Node:
    """One data directory and the agents that live on it one after another."""

    def __init__(self, binary, home, root, network, environment=None):
        self.binary, self.home, self.root, self.network = binary, home, root, network
        self.socket = f"{home}/agent.sock"
        self.log = f"{home}/agent.log"
        # Nothing here speaks TLS: to read the system's certificates would be half of the agent's start.
        self.environment = {"NO_COLOR": "1", "PATH": os.environ["PATH"], "SSL_CERT_FILE": "/dev/null", **(environment or {})}
        self.agent = None
        self.secret = f"{home}/secret"
        with open(self.secret, "w", encoding="utf-8") as f:
            os.fchmod(f.fileno(), 0o600)
            f.write("of no worth, but of twenty-four bytes and more")
        self.configure()

    def configure(self):
        """Writes the configuration: where reports go changes with each run."""
        with open(f"{self.home}/edgepush.toml", "w", encoding="utf-8") as f:
            types = ", ".join(f'"edgepush.file.{t}"' for t in _TYPES)
            f.write(_CONFIG.format(root=self.root, socket=self.socket, hook=self.network.hook(), secret=self.secret, types=types))

    @property
    def argv(self):
        return [self.binary, "--config", f"{self.home}/edgepush.toml", "agent"]

    def current(self, name=NAME):
        return f"{self.root}/data/{APP}/{name.replace('/', '%2F')}/current"

    def client(self):
        return servers.Client(self.socket)

    def spawn(self):
        """Starts the agent and does not wait for it."""
        with open(self.log, "ab") as log:
            self.agent = subprocess.Popen(self.argv, env=self.environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def start(self):
        """Starts the agent, waits until it answers, and returns a client; raises when it does not."""
        self.spawn()
        client = self.client()
        if not client.wait_ready(PATIENCE, lambda: self.agent.poll() is None):
            raise Violation(f"the agent does not start: {self.tail()}")
        return client

    def kill(self):
        """Kills the agent that `start` has started."""
        if self.agent is not None:
            self.agent.kill()
            self.agent.wait()
            self.agent = None

    def tail(self, lines=5):
        with open(self.log, encoding="utf-8", errors="replace") as f:
            return " | ".join(f.read().splitlines()[-lines:])


class Violation(Exception):
    """Something that must hold does not."""


def item(network, name, version, kind):
    """Returns the element of a push, and serves its archive."""
    archive = trees.archive(kind, trees.seed(name, version))
    path = f"/{name}/{version}"
    network.files[path] = archive
    return {"name": name, "version": version, "archiveType": kind, "size": len(archive), "timeout": 60,
            "md5": hashlib.md5(archive).hexdigest(), "url": network.url + path}


class Reader(threading.Thread):
    """Hashes what readers see through `current` all along; anything but a whole known version is noted."""

    def __init__(self, names):
        """`names` are pairs of a path and its known digests, to versions."""
        super().__init__(daemon=True)
        self.names = names
        self.lived = {path for path, _ in names if os.path.lexists(path)}
        self.reads, self.strange, self.ending = 0, set(), False

    def run(self):
        while not self.ending:
            for path, known in self.names:
                self._read(path, known)
            time.sleep(0.001)

    def _read(self, path, known):
        if path not in self.lived:
            # Before the first version there is nothing; after it there is always one.
            if not os.path.lexists(path):
                return
            self.lived.add(path)
        seen = look(path, known)
        # After a cut the file system gives errors: what was read across it says nothing.
        if self.ending:
            return
        self.reads += 1
        if seen not in known.values():
            self.strange.add(seen)

    def end(self):
        self.ending = True


def look(path, known):
    """Returns which version is whole behind `path`, or what is there instead."""
    found = None
    try:
        while found is None:
            found = trees.digest(path)
    except OSError as error:
        return f"unreadable: {error.strerror}"
    return known.get(found, "torn tree")


def run_traced(node, stopped, started=lambda pid: None):
    """Runs the agent under the tracer in this thread until it ends."""
    with open(node.log, "ab") as log:
        return tracer.run(node.argv, node.environment, log.fileno(), started, stopped)


_STAGING = re.compile(r"/(staging|trash)/[^/]+")
_TEMPORARY = re.compile(r"\.tmp-[0-9a-f]+-\d+")
_SPOOL = re.compile(r"/spool/[0-9a-f]+")


def label(call, root):
    """Names a point so that it is the same in every run: the call, and what it works on below the data directory."""
    path = call.path()
    if path is None:
        return None
    if path.startswith("socket:"):
        return f"{call.name} socket" if call.name in ("write", "writev", "sendto", "sendmsg") else None
    if not path.startswith(root):
        return None
    path = _TEMPORARY.sub(".tmp", _SPOOL.sub("/spool/S", _STAGING.sub(r"/\1/J", path[len(root):] or "/")))
    return f"{call.name} {path.removesuffix(' (deleted)')}"


def check_database(root, home):
    """Opens a copy of the database as the agent has left it; returns a connection. Raises when it is not intact."""
    copy = f"{home}/copy.db"
    for ending in ("", "-wal", "-shm"):
        if os.path.exists(copy + ending):
            os.unlink(copy + ending)
    for ending in ("", "-wal"):
        if os.path.exists(f"{root}/edgepush.db{ending}"):
            shutil.copyfile(f"{root}/edgepush.db{ending}", copy + ending)
    connection = sqlite3.connect(copy)
    found = connection.execute("PRAGMA integrity_check").fetchall()
    if found != [("ok",)]:
        raise Violation(f"integrity_check: {found}")
    return connection


def litter(root):
    """Returns what should not be left once every job has ended."""
    left = []
    for own in ("staging", "spool", "trash"):
        left += [f"{own}/{n}" for n in (os.listdir(f"{root}/{own}") if os.path.isdir(f"{root}/{own}") else [])]
    for top in ("data", "manifests", "archives"):
        for directory, directories, names in os.walk(f"{root}/{top}"):
            left += [f"{directory}/{n}"[len(root) + 1:] for n in directories + names if _TEMPORARY.search(n)]
    return left


def wait_for_no_litter(root):
    """Waits until nothing is left that should not be: old versions are deleted in the background."""
    end = time.monotonic() + PATIENCE / 3
    while litter(root):
        if time.monotonic() > end:
            raise Violation(f"left behind: {litter(root)}")
        time.sleep(0.01)


def kill_now(pid):
    """Kills a process that may be gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
