"""A disk that refuses one write of a tree: the sync says so once, and the attempt must be thrown away, never synced again."""

import os

import disks
import node as nodes
import servers
import trees
from node import APP, NAME, Violation, look
from points import KNOWN, V2
from write_logged import LoggedDisk

# A page of this file; it is text, so that the archives do not hold it as it is.
POISONED = "a/b/three.txt"


def check(binary, home, fs, base, kind, environment=None):
    """Publishes version 2 on such a disk; returns what was violated."""
    os.makedirs(f"{home}/mount", exist_ok=True)
    image = f"{home}/image"
    disks.copy(base, image)
    disk = LoggedDisk(home, image, fs)
    disk.device.mount(f"{home}/mount")
    network = servers.Servers()
    node = nodes.Node(binary, home, f"{home}/mount/node", network, environment)
    try:
        client = node.start()
        disk.poison_write(trees.tree(trees.seed(NAME, V2))[0][POISONED][:200])
        codes = client.push(APP, [nodes.item(network, NAME, V2, kind)])
        if codes != [0]:
            raise Violation(f"the push is answered {codes}: {node.tail()}")
        if not network.wait_for("published", NAME, V2, nodes.PATIENCE):
            raise Violation(f"the push does not end well once the disk is well again: {node.tail()}")
        if os.path.exists(disk.poison):
            raise Violation("no write was refused: the test has tested nothing")
        starts = client.file(APP, NAME, V2)["starts"]
        client.close()
    except Violation as violation:
        return [str(violation)]
    finally:
        node.kill()
        disks.unmount(f"{home}/mount")
        disk.close()
    # What is really on the disk, without what the kernel remembers of it.
    device = disks.Device(image, fs)
    device.mount(f"{home}/mount")
    live = look(f"{home}/mount/node/data/{APP}/{NAME}/current", KNOWN)
    disks.unmount(f"{home}/mount")
    device.detach()
    if live != V2:
        return [f"published after a write was refused, but the disk holds: {live}"]
    return [] if starts > 1 else [f"published in start {starts} although a sync had failed"]

