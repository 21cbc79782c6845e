"""The load, the faults and the readers of a soak."""

import gzip
import hashlib
import http.client
import os
import signal
import socket
import subprocess
import threading
import time

import node as nodes
import servers
import trees
from doors import APP, KEY, SECRET, Cli, Ens, Inbox, Native
from node import Violation
from oracle import Oracle

NAMES = {Native: ("native-a", "native-b"), Ens: ("ens", trees.LARGE), Inbox: ("inbox",), Cli: ("cli",)}
DISK = 160 << 20
# What an idle agent may hold after all of it.
MOST_MIB, MOST_DESCRIPTORS = 128, 128
# A file that is killed ten times is given up: so often the load rests until every file has ended.
REST_EVERY = 5
BAD = {
    "digest": ("digest-mismatch",), "missing": ("http-404",), "other": ("wrong-length", "digest-mismatch"),
}
_MORE = """
[api]
access_keys = [{{ id = "{key}", secret_file = "{keyfile}" }}]
[runner]
upkeep_every = "2s"
"""


class Network(servers.Servers):
    """The origin and the receiver, with moods: for a while every answer is an error, a stall or a cut."""

    def __init__(self):
        super().__init__()
        self.mood = None

    def _serve(self, request):
        if self.mood == "error":
            request.send_response(503)
            request.send_header("Content-Length", "0")
            request.end_headers()
        elif self.mood == "cut" and request.path in self.files:
            body = self.files[request.path]
            request.send_response(200)
            request.send_header("Content-Length", str(len(body)))
            request.end_headers()
            request.wfile.write(body[:len(body) // 2])
            request.close_connection = True
        else:
            if self.mood == "slow":
                time.sleep(0.5)
            super()._serve(request)


class Node(nodes.Node):
    """An agent with a TCP endpoint, whose log goes through a pipe that may not be read for a while."""

    def __init__(self, binary, home, root, network):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.keyfile = f"{home}/key"
        with open(self.keyfile, "w", encoding="utf-8") as f:
            os.fchmod(f.fileno(), 0o600)
            f.write(SECRET)
        self.reading = threading.Event()
        self.reading.set()
        super().__init__(binary, home, root, network)

    def configure(self):
        super().configure()
        path = f"{self.home}/edgepush.toml"
        with open(path, encoding="utf-8") as f:
            text = f.read().replace('http = "off"', f'http = "127.0.0.1:{self.port}"')
        # The disk is small: what was live goes soon.
        text = text.replace("[publish]", '[publish]\nkeep_for = "5s"')
        with open(path, "w", encoding="utf-8") as f:
            f.write(text + _MORE.format(key=KEY, keyfile=self.keyfile))

    def spawn(self):
        self.agent = subprocess.Popen(self.argv, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                      stdin=subprocess.DEVNULL)
        threading.Thread(target=self._read_log, args=(self.agent.stderr,), daemon=True).start()

    def _read_log(self, pipe):
        with open(self.log, "ab", buffering=0) as log:
            while True:
                self.reading.wait()
                read = os.read(pipe.fileno(), 65536)
                if not read:
                    return
                log.write(read)

    def stop(self):
        """Ends the agent in order."""
        self.agent.terminate()
        try:
            if self.agent.wait(30) != 0:
                raise Violation(f"an orderly end is {self.agent.returncode}: {self.tail()}")
        except subprocess.TimeoutExpired:
            raise Violation(f"the agent does not stop: {self.tail()}") from None
        self.agent = None


class Nginx(threading.Thread):
    """A real nginx before the published trees, and a client that asks it all along."""

    def __init__(self, home, node, known):
        super().__init__(daemon=True)
        self.home, self.node, self.known = home, node, known
        self.asked, self.strange, self.ending = 0, set(), False
        self.socket = f"{home}/nginx.sock"
        with open(f"{home}/nginx.conf", "w", encoding="utf-8") as f:
            f.write(f"""user root; worker_processes 1; pid {home}/nginx.pid; error_log {home}/nginx.log crit; events {{}}
http {{ access_log off; open_file_cache off; server {{ listen unix:{self.socket}; root {node.root}/data/{APP}; }} }}""")
        self.server = subprocess.Popen(["nginx", "-c", f"{home}/nginx.conf", "-g", "daemon off;"])

    def run(self):
        lived = set()
        while not self.ending:
            for name in list(self.known):
                try:
                    connection = servers._Unix(self.socket, 20)
                    connection.request("GET", f"/{name}/current/index.html")
                    answer = connection.getresponse()
                    body = answer.read()
                    connection.close()
                except (OSError, http.client.HTTPException):
                    continue
                self.asked += 1
                if answer.status == 200:
                    lived.add(name)
                    if not body.startswith(f"<html>{name} ".encode()):
                        self.strange.add(f"{name}: {body[:60]}")
                elif name in lived:
                    self.strange.add(f"{name}: {answer.status}")
            time.sleep(0.005)

    def end(self):
        self.ending = True
        self.join()
        self.server.terminate()
        self.server.wait()


class Soak:
    """One node under load and faults."""

    def __init__(self, binary, home, rng):
        self.rng, self.home = rng, home
        self.mount = f"{home}/disk"
        os.makedirs(self.mount, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", self.mount], check=True)
        self.network = Network()
        self.node = Node(binary, home, f"{self.mount}/node", self.network)
        self.oracle = Oracle(self.network)
        self.next = {}
        self.counts = {}
        self.failure = None
        self.nginx = self.reader = None

    def run(self, seconds):
        """Lives for so long; returns the figures."""
        client = self.node.start()
        self.nginx = Nginx(self.home, self.node, self.oracle.known)
        names = [name for of_door in NAMES.values() for name in of_door]
        self.reader = nodes.Reader([(self.node.current(name), self.oracle.known.setdefault(name, {})) for name in names])
        self.nginx.start()
        self.reader.start()
        end, rounds = time.monotonic() + seconds, 0
        first = None
        while time.monotonic() < end:
            rounds += 1
            client = self._round(client, rest=rounds % REST_EVERY == 0)
            if rounds % REST_EVERY == 0 and first is None:
                first = self._footprint()
        self._rest(client)
        self.reader.end()
        self.nginx.end()
        nodes.wait_for_no_litter(self.node.root)
        reports = self.oracle.check_reports()
        last = self._footprint()
        if last[0] > MOST_MIB or last[1] > MOST_DESCRIPTORS:
            raise Violation(f"MiB and descriptors: {first} at first, {last} at last")
        return f"{self.figures()}\n{reports} ends reported; MiB and descriptors: {first} at first, {last} at last"

    def _round(self, client, rest):
        stop = threading.Event()
        pushers = [threading.Thread(target=self._push, args=(door, of_door, stop, self.rng.random()), daemon=True)
                   for door, of_door in NAMES.items()]
        for thread in pushers:
            thread.start()
        fault = self.rng.choice([self._kill, self._kill, self._restart, self._reload, self._fill, self._mute, self._mood, self._away])
        time.sleep(self.rng.random() * 1.5)
        self._count(fault.__name__.strip("_"))
        fault()
        stop.set()
        for thread in pushers:
            thread.join()
        if self.node.agent is None or self.node.agent.poll() is not None:
            # It may end by itself on a full disk, and the service manager would start it again.
            client = self.node.start()
            self._count("starts")
        if rest:
            self._rest(client)
        else:
            self.oracle.check_known(client)
        self._check()
        return client

    def _check(self):
        self.oracle.check_live(self.node)
        for seen in (self.reader.strange, self.nginx.strange):
            if seen:
                raise Violation(f"a reader has seen {seen}")
        if self.failure:
            raise self.failure

    def _rest(self, client):
        self.network.mood, self.network.refuse = None, False
        if client.ask("GET", "/v1/status") is None and not client.wait_ready(nodes.PATIENCE, lambda: self.node.agent.poll() is None):
            raise Violation(f"the agent does not answer: {self.node.tail()}")
        self.oracle.wait_ended(client)
        self.network.files.clear()

    def _push(self, door, names, stop, pause):
        try:
            door = door(self.node)
            while not stop.is_set():
                for name in names:
                    item, kinds = self._item(name)
                    self.oracle.add(item, kinds)
                    code = door.push(item)
                    self.oracle.answer(item, code)
                    self._count("pushes")
                    time.sleep(pause * 0.05)
        except Violation as violation:
            self.failure = violation

    def _item(self, name):
        number = self.next[name] = self.next.get(name, 0) + 1
        kind = trees.KINDS[number % 2]
        item = nodes.item(self.network, name, f"{number}.0", kind)
        item["timeout"] = 60
        bad = self.rng.choice([None] * 12 + list(BAD))
        path = item["url"].removeprefix(self.network.url)
        if bad == "digest":
            item["md5"] = hashlib.md5(b"other").hexdigest()
        elif bad == "missing":
            self.network.files.pop(path)
        elif bad == "other":
            self.network.files[path] = gzip.compress(b"no archive" * 1000)
        return item, BAD.get(bad, ())

    def _kill(self):
        self.node.kill()

    def _restart(self):
        self.node.stop()

    def _reload(self):
        self.node.agent.send_signal(signal.SIGHUP)

    def _fill(self):
        path = f"{self.mount}/filler"
        with open(path, "wb", buffering=0) as f:
            try:
                while True:
                    f.write(b"\0" * (256 << 10))
            except OSError:
                pass
            time.sleep(0.5 + self.rng.random() * 2)
        os.unlink(path)

    def _mute(self):
        self.node.reading.clear()
        time.sleep(0.5 + self.rng.random() * 2)
        if self.node.client().ask("GET", "/v1/status") is None:
            raise Violation("no answer while nobody reads the log")
        self.node.reading.set()

    def _mood(self):
        self.network.mood = self.rng.choice(["error", "cut", "slow"])
        time.sleep(0.5 + self.rng.random() * 2)
        self.network.mood = None

    def _away(self):
        self.network.refuse = True
        time.sleep(0.5 + self.rng.random() * 2)
        self.network.refuse = False

    def _footprint(self):
        pid = self.node.agent.pid
        with open(f"/proc/{pid}/status", encoding="utf-8") as f:
            memory = next(int(line.split()[1]) >> 10 for line in f if line.startswith("VmRSS"))
        return memory, len(os.listdir(f"/proc/{pid}/fd"))

    def _count(self, what):
        with self.oracle.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def figures(self):
        """Returns what happened, in numbers."""
        counts = ", ".join(f"{n} {what}" for what, n in sorted(self.counts.items()))
        reads = f"{self.reader.reads} trees and {self.nginx.asked} pages read" if self.reader else "nothing read"
        return f"{counts}; failures {self.oracle.failed}; {reads}"

    def close(self):
        """Ends what was started."""
        self.node.reading.set()
        self.node.kill()
        if self.nginx and self.nginx.server.poll() is None:
            self.nginx.server.kill()
