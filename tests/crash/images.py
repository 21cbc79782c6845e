"""Crash images: a disk logs what a load of pushes writes; from the log come the states that a power cut may leave."""

import os
import threading

import disks
import node as nodes
import points
import servers
import write_logged
from ledger import Ledger
from node import Violation
from write_logged import LoggedDisk, MARK

# Two names are pushed at once, each with these versions, in turn as one kind and the other.
NAMES = {points.NAME: ("tar.gz", "zip"), "map": ("zip", "tar.gz")}
VERSIONS = ("2.0", "3.0", "4.0", "5.0")
# What a disk writes at once, at least: btrfs stands and falls with its first block, of 4 KiB.
SECTORS = {"ext4": 512, "xfs": 512, "btrfs": 4096}


def make_ledger(network):
    """Returns the ledger of the load."""
    ledger = Ledger(network)
    ledger.add_base(points.NAME, points.V1)
    for name, kinds in NAMES.items():
        for n, version in enumerate(VERSIONS):
            ledger.add(name, version, kinds[n % 2])
    return ledger


def record(binary, home, fs, base, environment=None):
    """Runs the load on a logged disk; returns the records of its log."""
    os.makedirs(f"{home}/mount", exist_ok=True)
    disks.copy(base, f"{home}/image")
    disk = LoggedDisk(home, f"{home}/image", fs)
    disk.device.mount(f"{home}/mount")
    network = servers.Servers()
    network.before_answer = lambda webhook_id, body: disk.mark(
        f"{body['type'].rsplit('.', 1)[1]} {body['data']['name']} {body['data']['version']} {webhook_id}")
    node = nodes.Node(binary, home, f"{home}/mount/node", network, environment)
    try:
        client = node.start()
        client.close()
        disk.mark("started")
        _load(node, network, disk)
    finally:
        node.kill()
        disks.unmount(f"{home}/mount")
        disk.close()
    return write_logged.read_log(disk.log)


def _load(node, network, disk):
    ledger = make_ledger(network)
    failures = []

    def push_all(name):
        client = node.client()
        for version in VERSIONS:
            if not ledger.push(client, name, version):
                failures.append(f"{name} {version} is not answered")
                return
            disk.mark(f"answered {name} {version}")
            if not network.wait_for("activated", name, version, nodes.PATIENCE):
                failures.append(f"{name} {version} does not become live")
                return
        client.close()

    threads = [threading.Thread(target=push_all, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise Violation(f"a load without a fault does not end well: {failures}, {node.tail()}")


def choose_cuts(records, count, rng):
    """Chooses after which records the power goes: anywhere from the start of the load on."""
    first = next(n for n, record in enumerate(records) if record[0] == MARK)
    return [rng.randrange(first + 1, len(records) + 1) for _ in range(count)]


class Bench:
    """What one worker needs to look at images."""

    def __init__(self, binary, home, fs, base, environment=None):
        self.fs, self.base, self.image, self.mount = fs, base, f"{home}/image", f"{home}/mount"
        os.makedirs(self.mount)
        disks.copy(base, self.image)
        self.device = disks.Device(self.image, fs)
        self.network = servers.Servers()
        self.node = nodes.Node(binary, home, f"{self.mount}/node", self.network, environment)

    def check(self, records, cut, rng):
        """Builds one image and checks all that must hold; returns what was violated."""
        self.network.clear()
        self.node.configure()
        write_logged.build(self.base, self.image, records, cut, rng, SECTORS[self.fs])
        try:
            self.device.mount(self.mount)
        except OSError as error:
            return [f"the file system cannot be mounted: {error}"]
        try:
            self._check([data.decode().split() for kind, _, data in records[:cut] if kind == MARK])
        except Violation as violation:
            return [str(violation)]
        finally:
            self.node.kill()
            disks.unmount(self.mount)
        return []

    def _check(self, marks):
        ledger = make_ledger(self.network)
        for what, *rest in marks:
            if what == "answered":
                ledger.answered.add(tuple(rest))
            elif what == "published":
                ledger.before.setdefault(tuple(rest[:2]), set()).add(rest[2])
        ledger.check_disk(self.node)
        client = self.node.start()
        ledger.check_known(client)
        # What was not answered is pushed again. What was is not: that would make it live again.
        for name, versions in ledger.order.items():
            for version in versions:
                if (name, version) not in ledger.answered and not ledger.push(client, name, version):
                    raise Violation(f"{name} {version} is not answered after the restart: {self.node.tail()}")
        ledger.wait_ended(client)
        client.close()
        ledger.check_ended(self.node)

    def close(self):
        """Gives everything back."""
        self.node.kill()
        self.device.detach()
