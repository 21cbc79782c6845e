"""What was pushed, answered and reported, kept where no fault of the agent reaches it, and what must hold of it."""

import threading
import time

import trees
from doors import APP
from node import Violation, look

FINAL = ("succeeded", "failed", "canceled")
# How a good file may fail: this node's disk, or the time that faults have taken.
EXCUSED = {"no-space", "no-inodes", "deadline"}
PATIENCE = 120
# The answer to a document in the inbox, which is taken when the agent can.
LATER = "later"


class Push:
    """One version that was pushed, and what is to become of it."""

    def __init__(self, item, kinds):
        self.item = item
        # The kinds of failure it is to end with; empty for one that is to be published.
        self.kinds = kinds
        self.answered = self.ended = None


class Oracle:
    """All pushes, in the order of each name."""

    def __init__(self, network):
        self.network = network
        self.lock = threading.Lock()
        self.pushes = {}
        self.known = {}
        self.checked = {}
        self.failed = {}

    def add(self, item, kinds=()):
        """Notes a version before it is pushed, after all others of its name."""
        name, version = item["name"], item["version"]
        with self.lock:
            self.pushes[name, version] = Push(item, kinds)
            if not kinds:
                self.known.setdefault(name, {})[trees.expected(trees.seed(name, version))] = version

    def answer(self, item, code):
        """Notes the answer to a push."""
        if code not in (None, 0, 100, 200, 300, LATER):
            raise Violation(f"{item['name']} {item['version']} is answered {code}")
        self.pushes[item["name"], item["version"]].answered = code

    def answered(self):
        """Returns the pushes that the agent has promised something of and that have not ended."""
        with self.lock:
            return [p for p in self.pushes.values() if p.answered in (0, 100, 200, LATER) and not p.ended]

    def check_known(self, client):
        """Checks that what was answered is known, and takes note of what has ended."""
        for push in self.answered():
            self._look(client, push)

    def _look(self, client, push):
        name, version = push.item["name"], push.item["version"]
        # Without an answer nothing is known: the disk may be full, the agent gone.
        answer = client.ask("GET", f"/v1/files?app={APP}&name={name}&version={version}")
        if answer is None:
            return None
        if not answer["files"] and push.answered == LATER:
            return None
        if not answer["files"]:
            raise Violation(f"the answered push of {name} {version} is forgotten")
        file = answer["files"][0]
        if file["state"] in FINAL:
            push.ended = file
            self._judge(push, file)
        return file

    def _judge(self, push, file):
        name, version = push.item["name"], push.item["version"]
        kind = (file.get("failure") or {}).get("kind")
        if file["state"] == "failed":
            self.failed[kind] = self.failed.get(kind, 0) + 1
        if push.kinds:
            right = file["state"] == "failed" and kind in (*push.kinds, *EXCUSED)
        else:
            right = file["state"] == "succeeded" or kind in EXCUSED
        if not right:
            raise Violation(f"{name} {version} ended as {file['state']}: {file.get('failure')}")

    def wait_ended(self, client):
        """Waits until everything that was answered has ended."""
        end = time.monotonic() + PATIENCE
        while True:
            self.check_known(client)
            left = self.answered()
            if not left:
                return
            if time.monotonic() > end:
                shown = self._look(client, left[0])
                raise Violation(f"{len(left)} files do not end, such as {shown}")
            time.sleep(0.2)

    def check_reports(self):
        """Checks that each job has one end, under one id."""
        ends = {}
        with self.network.changed:
            for webhook_id, body in self.network.delivered:
                kind = body["type"].rsplit(".", 1)[1]
                if kind in ("published", "failed"):
                    ends.setdefault(body["data"]["job"], set()).add((webhook_id, kind))
        for job, told in ends.items():
            if len(told) > 1:
                raise Violation(f"job {job} ended as {told}")
        return len(ends)

    def check_live(self, node):
        """Checks that what is live is whole, and was not accepted before what was reported as live."""
        live, jobs = {}, {}
        with self.network.changed:
            for _, body in self.network.delivered:
                data = body["data"]
                if data.get("job"):
                    jobs[data["name"], data["version"]] = data["job"]
                if body["type"].endswith(".activated"):
                    live[data["name"]] = max((data["job"], data["version"]), live.get(data["name"], (0, "")))
        for name, (job, version) in live.items():
            found = look(node.current(name), self.known[name])
            if found not in self.known[name].values() or jobs.get((name, found), job) < job:
                raise Violation(f"{name} {version} was live, and now {found} is")
