"""A kill or a power cut at every point of a push.

The points are found by a run that goes to its end: each is a call on a file or a socket, the n-th of its kind on that path.
Then the same push is run once per point: its thread is held there for a moment, while the others go on, and the agent is
killed, or the file system cut off and then the agent killed. What must hold is checked before and after a restart.
"""

import os
import shutil
import threading
import time

import disks
import node as nodes
import servers
import trees
from node import APP, NAME, Violation, look

# How long a thread is held at its point: what other threads can do meanwhile, they do.
LINGER = 0.004
# How long a run that counts points waits before the push, until what the start of the agent left to be done is done, and
# after the last callback, whose delivery is noted down.
BEFORE, AFTER = 0.2, 0.1

V1, V2 = "1.0", "2.0"
KNOWN = {trees.expected(trees.seed(NAME, version)): version for version in (V1, V2)}


def make_base(binary, home, root, kind="tar.gz"):
    """Makes the state that every run starts from: version 1 is live, the journal of the database is in its second round, so
    that syncing it syncs nothing else, and the agent was killed."""
    network = servers.Servers()
    node = nodes.Node(binary, home, root, network)
    client = node.start()
    element = nodes.item(network, NAME, V1, kind)
    if client.push(APP, [element]) != [0] or not network.wait_for("published", NAME, V1, nodes.PATIENCE):
        raise Violation(f"the first version is not published: {node.tail()}")
    journal, rounds = f"{root}/edgepush.db-wal", 0
    size = 0
    while rounds < 5:
        pin = {"app": APP, "name": NAME, "version": V1}
        for pinned in (True, False):
            if client.ask("POST", "/v1/pin", {**pin, "pinned": pinned}) is None:
                raise Violation(f"cannot pin: {node.tail()}")
        grown = os.path.getsize(journal) > size
        size = os.path.getsize(journal)
        rounds = 0 if grown else rounds + 1
    client.close()
    node.kill()


class Bench:
    """What one worker needs: a mount, the servers, and a node that is put back to the base before each run."""

    def __init__(self, binary, home, fs, base, cuts, environment=None):
        self.home, self.fs, self.base, self.cuts = home, fs, base, cuts
        self.mount, self.image = f"{home}/mount", f"{home}/image"
        self.root = f"{self.mount}/node"
        os.makedirs(self.mount, exist_ok=True)
        self.network = servers.Servers()
        self.node = nodes.Node(binary, home, self.root, self.network, environment)
        disks.copy(base, self.image)
        self.device = disks.Device(self.image, fs)
        self.mounted = False

    def reset(self):
        """Puts the node back to the base."""
        self.network.clear()
        self.node.configure()
        if os.path.exists(self.node.socket):
            os.unlink(self.node.socket)
        if self.cuts or not self.mounted:
            self.unmount()
            disks.copy(self.base, self.image)
            self.device.mount(self.mount)
            self.mounted = True
            if not self.cuts:
                os.rename(self.root, f"{self.mount}/base")
        if not self.cuts:
            shutil.rmtree(self.root, ignore_errors=True)
            disks.sh("cp", "-a", f"{self.mount}/base", self.root)

    def remount(self):
        """Mounts again what a power cut has left."""
        disks.unmount(self.mount)
        self.device.mount(self.mount)

    def close(self):
        """Gives everything back."""
        self.node.kill()
        self.unmount()
        self.device.detach()

    def unmount(self):
        """Unmounts, if it is mounted."""
        if self.mounted:
            disks.unmount(self.mount)
            self.mounted = False


class Run:
    """One push of version 2, up to a point or to its end."""

    def __init__(self, bench, kind, target):
        self.bench, self.node, self.network = bench, bench.node, bench.network
        self.item = nodes.item(bench.network, NAME, V2, kind)
        self.target = target
        self.armed, self.counts, self.order, self.hit = False, {}, [], False
        self.ended = threading.Event()
        self.answer = None
        self.pid = None
        self.reader = nodes.Reader([(self.node.current(), KNOWN)])

    def go(self):
        """Runs the agent under the tracer; returns when it has ended."""
        driver = None

        def started(pid):
            nonlocal driver
            self.pid = pid
            driver = threading.Thread(target=self._drive, daemon=True)
            driver.start()

        nodes.run_traced(self.node, self._stopped, started)
        self.ended.set()
        driver.join()
        self.reader.end()
        if not self.armed:
            raise Violation(f"the agent does not start under the tracer: {self.node.tail()}")
        self.reader.join()

    def _stopped(self, call):
        if not self.armed or self.hit:
            return True
        label = nodes.label(call, self.bench.root)
        if label is None:
            return True
        count = self.counts[label] = self.counts.get(label, 0) + 1
        self.order.append((label, count))
        if self.target != (label, count):
            return True
        self.hit = True
        threading.Timer(LINGER, self._strike).start()
        return False

    def _strike(self):
        if self.bench.cuts:
            self.reader.end()
            disks.cut(self.bench.mount)
        nodes.kill_now(self.pid)

    def _drive(self):
        client = self.node.client()
        if not client.wait_ready(nodes.PATIENCE, lambda: not self.ended.is_set()):
            nodes.kill_now(self.pid)
            return
        self.reader.start()
        if self.target is None:
            self.ended.wait(BEFORE)
        self.armed = True
        self.answer = client.push(APP, [self.item])
        end = time.monotonic() + nodes.PATIENCE
        while self.answer and not self.ended.is_set() and time.monotonic() < end:
            if self.network.wait_for("activated", NAME, V2, 0.02):
                self.ended.wait(AFTER)
                break
        if not self.hit:
            nodes.kill_now(self.pid)


def count(bench, kind):
    """Returns the points of a push, in the order of one run; two runs are made, and the larger counts are taken."""
    points = {}
    for _ in range(2):
        bench.reset()
        run = Run(bench, kind, None)
        run.go()
        if run.answer != [0] or look(bench.node.current(), KNOWN) != V2:
            raise Violation(f"a push without a fault does not end well: {run.answer}, {bench.node.tail()}")
        points.update(dict.fromkeys(run.order))
    return list(points)


def strike_surely(bench, kind, point):
    """Strikes; a point that is not there in one run, since threads do not always meet in the same way, may be in the next."""
    for _ in range(4):
        reached, violations = strike(bench, kind, point)
        if reached or violations:
            break
    return reached, violations


def strike(bench, kind, point):
    """Runs the push up to `point`, strikes, and checks all that must hold. Returns whether the point was reached, and what
    was violated."""
    bench.reset()
    run = Run(bench, kind, point)
    violations = []
    try:
        run.go()
        check(bench, run)
    except Violation as violation:
        violations.append(str(violation))
    if run.reader.strange:
        violations.append(f"a reader has seen {run.reader.strange}")
    bench.node.kill()
    return run.hit, violations


def check(bench, run):
    """Checks what must hold after the end of `run`: as it stands, after a restart, and when the job has ended."""
    network, node = bench.network, bench.node
    told = bool(network.of("published", NAME, V2))
    if bench.cuts:
        bench.remount()
    live = look(node.current(), KNOWN)
    if live not in (V1, V2):
        raise Violation(f"before the restart: {live}")
    if told and live != V2:
        raise Violation("reported as published, but gone after the crash")
    there = os.path.isdir(f"{bench.root}/data/{APP}/{NAME}/versions/{V2}")
    fetched = network.hits.get(f"/{NAME}/{V2}", 0)

    client = node.start()
    file = client.file(APP, NAME, V2)
    if run.answer == [0] and file is None:
        raise Violation("an answered push is forgotten")
    if run.answer != [0]:
        code = client.push(APP, [run.item])
        wanted = ([0],) if file is None else ([100], [200])
        if code not in wanted:
            raise Violation(f"a push that was not answered is answered {code} the second time, with {file}")
    finish(bench, run, client)
    if there and network.hits.get(f"/{NAME}/{V2}", 0) != fetched:
        raise Violation("a published version was fetched again")


def finish(bench, run, client):
    """Waits for the end of the job, and checks that it is the one right end."""
    network, node = bench.network, bench.node
    end = time.monotonic() + nodes.PATIENCE
    file = None
    while time.monotonic() < end:
        file = client.file(APP, NAME, V2)
        if file and file["state"] in ("succeeded", "failed", "canceled"):
            break
        time.sleep(0.005)
    if not file or file["state"] != "succeeded":
        raise Violation(f"the job does not succeed: {file}, {node.tail()}")
    live = look(node.current(), KNOWN)
    if live != V2:
        raise Violation(f"after the job has ended: {live}")
    if not network.wait_for("published", NAME, V2, nodes.PATIENCE):
        raise Violation(f"the end was not reported: {node.tail()}")
    if client.push(APP, [run.item]) != [100]:
        raise Violation("the same push is not answered as published")
    client.close()
    nodes.wait_for_no_litter(bench.root)
    node.kill()
    ids = set(network.of("published", NAME, V2))
    if len(ids) != 1 or network.of("failed", NAME, V2):
        raise Violation(f"not one report of one end: {network.delivered} published, {network.of('failed', NAME, V2)} failed")
    database = nodes.check_database(bench.root, bench.home)
    rows = database.execute(
        "SELECT j.state FROM jobs j JOIN files f ON f.id = j.file WHERE f.name = ? AND f.version = ?", (NAME, V2)).fetchall()
    reports = database.execute(
        "SELECT DISTINCT o.webhook_id FROM outbox o JOIN files f ON f.id = o.order_key WHERE f.version = ? AND o.type LIKE '%published'",
        (V2,)).fetchall()
    live = database.execute("SELECT version FROM releases WHERE live = 1").fetchall()
    database.close()
    if rows != [("succeeded",)] or len(reports) != 1 or live != [(V2,)]:
        raise Violation(f"database: jobs {rows}, reports {reports}, live {live}")
