"""What an agent under test talks to: an origin of archives, a receiver of callbacks, and a client of its socket."""

import http.client
import http.server
import json
import os
import socket
import threading
import time
import urllib.parse


# What is larger than this does not arrive at once.
_PIECE = 64 << 10


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass


class Servers:
    """One origin and one receiver on loopback; what was delivered is kept here, where no crash reaches it."""

    def __init__(self):
        self.files, self.hits = {}, {}
        self.delivered = []
        self.runs = 0
        self.refuse = False
        self.before_answer = lambda webhook_id, body: None
        self.changed = threading.Condition()
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                outer._serve(self)

            def do_POST(self):
                outer._receive(self)

            def log_message(self, *_):
                pass

        self.server = _Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 60}, daemon=True).start()

    def _serve(self, request):
        body = self.files.get(request.path)
        with self.changed:
            self.hits[request.path] = self.hits.get(request.path, 0) + 1
        if body is None:
            request.send_error(404)
            return
        start = 0
        wanted = request.headers.get("Range", "")
        if wanted.startswith("bytes=") and request.headers.get("If-Range", '"1"') == '"1"':
            start = min(int(wanted[6:].split("-")[0] or 0), len(body))
        request.send_response(206 if start else 200)
        request.send_header("ETag", '"1"')
        request.send_header("Accept-Ranges", "bytes")
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        request.send_header("Content-Length", str(len(body) - start))
        request.end_headers()
        for place in range(start, len(body), _PIECE):
            if place > start:
                time.sleep(0.001)
            request.wfile.write(body[place:place + _PIECE])

    def _receive(self, request):
        body = json.loads(request.rfile.read(int(request.headers["Content-Length"])))
        with self.changed:
            # An agent that was killed long ago may have sent one more, which nobody had read until now.
            if not self.refuse and self.hook().endswith(request.path):
                self.delivered.append((request.headers["webhook-id"], body))
            self.changed.notify_all()
        self.before_answer(request.headers["webhook-id"], body)
        request.send_response(503 if self.refuse else 204)
        request.send_header("Content-Length", "0")
        request.end_headers()

    def hook(self):
        """Returns where reports of the present run go."""
        return f"{self.url}/hook/{self.runs}"

    def clear(self):
        """Forgets what was delivered and fetched, and begins another run."""
        with self.changed:
            self.delivered, self.hits = [], {}
            self.runs += 1

    def of(self, kind, name, version):
        """Returns the ids of deliveries of one kind about one file, in their order, repeats included."""
        with self.changed:
            return [i for i, body in self.delivered if _is(body, kind, name, version)]

    def wait_for(self, kind, name, version, patience):
        """Waits for a delivery; returns whether there was one."""
        with self.changed:
            return self.changed.wait_for(
                lambda: any(_is(body, kind, name, version) for _, body in self.delivered), patience)


def _is(body, kind, name, version):
    data = body.get("data", {})
    return body["type"] == f"edgepush.file.{kind}" and (data.get("name"), data.get("version")) == (name, version)


class _Unix(http.client.HTTPConnection):
    def __init__(self, path, timeout):
        super().__init__("edgepush", timeout=timeout)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Client:
    """The native API over the agent's socket. Every failure is None: the agent may be killed at any moment."""

    def __init__(self, path):
        self.path = path
        self.connection = None

    def ask(self, method, target, body=None, timeout=20):
        """Asks, and returns the answer as JSON, or None when there was none."""
        try:
            if self.connection is None:
                self.connection = _Unix(self.path, timeout)
            text = None if body is None else json.dumps(body)
            headers = {"content-type": "application/json"} if text else {}
            self.connection.request(method, target, text, headers)
            answer = self.connection.getresponse()
            read = answer.read()
            if answer.status != 200:
                return None
            return json.loads(read) if read.startswith((b"{", b"[")) else {}
        except (OSError, http.client.HTTPException, ValueError):
            self.close()
            return None

    def close(self):
        """Closes the connection; the next question opens another."""
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def push(self, app, items):
        """Pushes, and returns the result codes, or None when the push was not answered."""
        answer = self.ask("POST", "/v1/pushes", {"AppId": app, "Data": items})
        return None if answer is None else [a["code"] for a in answer["answers"]]

    def open_files(self):
        """Returns how many files are waiting or on the road, or None."""
        answer = self.ask("GET", "/v1/files?state=queued,retrying,running&limit=1")
        return None if answer is None else answer["total"]

    def file(self, app, name, version):
        """Returns what the agent says of a file, or None."""
        query = urllib.parse.urlencode({"app": app, "name": name, "version": version})
        answer = self.ask("GET", f"/v1/files?{query}")
        return answer["files"][0] if answer and answer["files"] else None

    def wait_ready(self, patience, alive):
        """Waits until the agent answers; returns whether it does."""
        end = time.monotonic() + patience
        while time.monotonic() < end and alive():
            if os.path.exists(self.path) and self.ask("GET", "/v1/status") is not None:
                return True
            time.sleep(0.003)
        return False
