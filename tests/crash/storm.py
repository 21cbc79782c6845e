"""Kills and power cuts at random moments under a load of pushes, with answers and reports kept elsewhere."""

import os
import threading
import time

import disks
import node as nodes
import points
import servers
import trees
from ledger import Ledger
from node import Violation

NAMES = (points.NAME, "map", "a/b", trees.LARGE)
# Every so many rounds the load rests until every file has ended: a file that is killed ten times is given up.
REST_EVERY = 4
LONGEST = 0.35


class Life:
    """One data directory that is struck again and again."""

    def __init__(self, binary, home, fs, base, cuts, environment=None):
        self.cuts, self.home, self.image, self.mount = cuts, home, f"{home}/image", f"{home}/mount"
        os.makedirs(self.mount, exist_ok=True)
        disks.copy(base, self.image)
        self.device = disks.Device(self.image, fs)
        self.device.mount(self.mount)
        self.network = servers.Servers()
        self.node = nodes.Node(binary, home, f"{self.mount}/node", self.network, environment)
        self.ledger = Ledger(self.network)
        self.ledger.add_base(points.NAME, points.V1)
        self.next = {name: 2 for name in NAMES}
        self.running = set()
        self.ended = set(self.ledger.answered)

    def live(self, rounds, rng):
        """Lives through so many strikes and a last check; returns pushes that were answered."""
        for n in range(rounds):
            try:
                self._round(rng, rest=n % REST_EVERY == REST_EVERY - 1)
            except Violation as violation:
                raise Violation(f"round {n + 1}: {violation}") from None
        self.network.refuse = False
        client = self.node.start()
        # A push that was struck before its answer may be there all the same, and is to end like the others.
        self._wait_idle(client)
        self.ledger.wait_ended(client)
        client.close()
        self.ledger.check_ended(self.node)
        return len(self.ledger.answered) - 1

    def _round(self, rng, rest):
        self.network.refuse = not rest and rng.random() < 0.2
        if not rest and rng.random() < 0.2:
            # While it still starts, and sweeps what the last strike has left.
            self.node.spawn()
            time.sleep(rng.random() * 0.05)
            self._strike()
            return
        client = self.node.start()
        self.ledger.check_known(client, self.ledger.answered - self.ended)
        if rest:
            self._rest(client)
        client.close()
        reader = nodes.Reader([(self.node.current(name), self.ledger.known.setdefault(name, {})) for name in NAMES])
        half = len(NAMES) // 2
        pushers = [threading.Thread(target=self._push, args=(names, rng.random()), daemon=True)
                   for names in (NAMES[:half], NAMES[half:])]
        for thread in (reader, *pushers):
            thread.start()
        time.sleep(rng.random() * LONGEST)
        self._strike(reader, *pushers)
        if reader.strange:
            raise Violation(f"a reader has seen {reader.strange}")

    def _strike(self, *threads):
        for thread in threads[:1]:
            thread.end()
        if self.cuts:
            disks.cut(self.mount)
        self.node.kill()
        for thread in threads:
            thread.join()
        if self.cuts:
            disks.unmount(self.mount)
            self.device.mount(self.mount)
        self.ledger.check_disk(self.node)

    def _wait_idle(self, client):
        end = time.monotonic() + 2 * nodes.PATIENCE
        while client.open_files() != 0:
            if time.monotonic() > end:
                raise Violation(f"not every file ends: {self.node.tail()}")
            time.sleep(0.01)

    def _rest(self, client):
        self._wait_idle(client)
        self.ledger.wait_ended(client, self.ledger.answered - self.ended)
        self.ended = set(self.ledger.answered)
        self.network.files.clear()

    def _push(self, names, pause):
        """Pushes one version after another until the agent is gone."""
        client = self.node.client()
        while True:
            for name in names:
                version = f"{self.next[name]}.0"
                self.next[name] += 1
                self.ledger.add(name, version, trees.KINDS[self.next[name] % 2])
                if not self.ledger.push(client, name, version):
                    client.close()
                    return
                time.sleep(pause * 0.02)

    def close(self):
        """Gives everything back."""
        self.node.kill()
        disks.unmount(self.mount)
        self.device.detach()


def run(binary, home, base, task):
    """Runs one life; returns how many pushes were answered, and what was violated."""
    fs, cuts, rounds, rng = task
    life = Life(binary, home, fs, base, cuts)
    try:
        return life.live(rounds, rng), []
    except Violation as violation:
        return len(life.ledger.answered) - 1, [str(violation)]
    finally:
        life.close()
