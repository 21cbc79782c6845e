"""A load of pushes, what was answered and reported of them, kept where no crash reaches it, and what must hold of them."""

import os
import time

import node as nodes
import trees
from node import APP, Violation, look

FINAL = ("succeeded", "failed", "canceled")


class Ledger:
    """What is pushed, in its order, and what the world was told of it."""

    def __init__(self, network):
        self.network = network
        self.items, self.answered = {}, set()
        # Reports that had arrived before this ledger began: file to ids.
        self.before = {}
        self.order, self.known = {}, {}

    def add(self, name, version, kind):
        """Notes a version that is to be pushed after all others of its name."""
        self.items[name, version] = nodes.item(self.network, name, version, kind)
        self.order.setdefault(name, []).append(version)
        self.known.setdefault(name, {})[trees.expected(trees.seed(name, version))] = version

    def add_base(self, name, version):
        """Notes the version that is there from the start."""
        self.add(name, version, "tar.gz")
        self.answered.add((name, version))
        self.before[name, version] = set()

    def push(self, client, name, version):
        """Pushes a version, and notes the answer; returns whether there was one."""
        codes = client.push(APP, [self.items[name, version]])
        # A node whose disk is gone may say so.
        if codes is None or codes == [300]:
            return False
        if len(codes) != 1 or codes[0] not in (0, 100, 200):
            raise Violation(f"a push is answered {codes}")
        self.answered.add((name, version))
        return True

    def reported(self):
        """Returns the ids of reports of a publication, by file."""
        found = {file: set(ids) for file, ids in self.before.items()}
        with self.network.changed:
            for webhook_id, body in self.network.delivered:
                if body["type"] == "edgepush.file.published":
                    found.setdefault((body["data"]["name"], body["data"]["version"]), set()).add(webhook_id)
        return found

    def check_disk(self, node):
        """Checks the trees as they stand: every one is whole, and the live one is none before what was reported."""
        reported = self.reported()
        for name, versions in self.order.items():
            top = os.path.dirname(node.current(name))
            there = os.listdir(f"{top}/versions") if os.path.isdir(f"{top}/versions") else []
            for version in there:
                found = look(f"{top}/versions/{version}", self.known[name])
                if found != version:
                    raise Violation(f"{name} {version} is {found}")
            told = max((n for n, version in enumerate(versions) if (name, version) in reported), default=-1)
            live = look(node.current(name), self.known[name]) if os.path.lexists(node.current(name)) else None
            if live is not None and live not in versions:
                raise Violation(f"live of {name}: {live}")
            if told >= 0 and (live is None or versions.index(live) < told):
                raise Violation(f"{versions[told]} of {name} was reported, and {live} is live")

    def check_known(self, client, files=None):
        """Checks that the agent knows what it has answered: all, or these."""
        for name, version in self.answered if files is None else files:
            if client.file(APP, name, version) is None:
                raise Violation(f"the answered push of {name} {version} is forgotten")

    def wait_ended(self, client, files=None):
        """Waits until the answered pushes, all or these, have ended well and were reported."""
        end = time.monotonic() + 2 * nodes.PATIENCE
        reported = self.reported()
        for name, version in sorted(self.answered if files is None else files):
            while True:
                file = client.file(APP, name, version)
                if file and file["state"] in FINAL:
                    break
                if time.monotonic() > end:
                    raise Violation(f"{name} {version} does not end: {file}")
                time.sleep(0.005)
            if file["state"] != "succeeded":
                raise Violation(f"{name} {version}: {file['state']}, {file.get('failure')}")
            if (name, version) not in reported and not self.network.wait_for("published", name, version, nodes.PATIENCE):
                raise Violation(f"the end of {name} {version} was not reported")

    def check_ended(self, node):
        """Checks, once every answered push has ended, that each ended once and was told as one end. Kills the agent."""
        nodes.wait_for_no_litter(node.root)
        node.kill()
        self.check_disk(node)
        for file, ids in self.reported().items():
            if len(ids) > 1:
                raise Violation(f"{file} was reported under {len(ids)} ids: {ids}")
        for name, versions in self.order.items():
            newest = max((n for n, version in enumerate(versions) if (name, version) in self.answered), default=-1)
            live = look(node.current(name), self.known[name])
            if newest >= 0 and (live not in versions or versions.index(live) < newest):
                raise Violation(f"{versions[newest]} of {name} was answered last, and {live} is live")
        self._check_rows(node)

    def _check_rows(self, node):
        database = nodes.check_database(node.root, node.home)
        rows = database.execute(
            "SELECT f.name, f.version, count(*), min(j.state), max(j.state) FROM files f JOIN jobs j ON j.file = f.id GROUP BY f.id")
        for name, version, jobs, first, last in rows:
            if (jobs, first, last) != (1, "succeeded", "succeeded"):
                raise Violation(f"database: {name} {version} has {jobs} jobs, {first} to {last}")
        database.close()
