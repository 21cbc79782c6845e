"""The four doors of a push. Each returns the result code of the one element, or None when there was no answer."""

import base64
import datetime
import hashlib
import hmac
import http.client
import json
import os
import subprocess
import time
import urllib.parse
import uuid

APP = "crash"
KEY, SECRET = "soak", "a secret of the soak, long enough"


class Native:
    """The native API over the agent's socket."""

    def __init__(self, node):
        self.client = node.client()

    def push(self, item):
        codes = self.client.push(APP, [item])
        return codes[0] if codes else None


class Ens:
    """The ENS endpoint over TCP, signed with HMAC-SHA1 as the vendor's SDKs do."""

    def __init__(self, node):
        self.port = node.port

    def push(self, item):
        form = {
            "Action": "PushApplicationData", "Version": "2017-11-10", "Format": "JSON", "AccessKeyId": KEY,
            "SignatureMethod": "HMAC-SHA1", "SignatureVersion": "1.0", "SignatureNonce": str(uuid.uuid4()),
            "Timestamp": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "AppId": APP, "Data": json.dumps([item]),
        }
        query = "&".join(f"{_quote(k)}={_quote(v)}" for k, v in sorted(form.items()))
        text = f"POST&%2F&{_quote(query)}"
        form["Signature"] = base64.b64encode(hmac.new(f"{SECRET}&".encode(), text.encode(), hashlib.sha1).digest()).decode()
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            connection.request("POST", "/", urllib.parse.urlencode(form), {"content-type": "application/x-www-form-urlencoded"})
            answer = connection.getresponse()
            read = answer.read()
            connection.close()
            if answer.status != 200:
                return None
            return json.loads(read)["PushResults"]["PushResult"][0]["ResultCode"]
        except (OSError, http.client.HTTPException, ValueError, KeyError):
            return None


def _quote(text):
    return urllib.parse.quote(text, safe="~")


class Inbox:
    """A document in the inbox, whose result is awaited for a moment."""

    def __init__(self, node):
        self.inbox = f"{node.root}/inbox"
        self.count = 0

    def push(self, item):
        self.count += 1
        name = f"{time.time_ns()}-{self.count}.json"
        try:
            with open(f"{self.inbox}/new/.{name}", "w", encoding="utf-8") as f:
                json.dump({"AppId": APP, "Data": [item]}, f)
            os.rename(f"{self.inbox}/new/.{name}", f"{self.inbox}/new/{name}")
        except OSError:
            return None
        # Whatever becomes of it, it is taken once; whether it was is asked of the agent later.
        return "later"


class Cli:
    """`edgepush push`, which does not wait for the end."""

    def __init__(self, node):
        self.argv = [*node.argv[:-1], "--json", "push", "--no-wait"]
        self.environment = node.environment

    def push(self, item):
        digest = "&".join(f"{k}={item[k]}" for k in ("md5", "size") if k in item)
        argv = [*self.argv, "--type", item["archiveType"], "--timeout", f"{item['timeout']}s", APP,
                f"{item['name']}@{item['version']}={item['url']}#{digest}"]
        run = subprocess.run(argv, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        try:
            result = json.loads(run.stdout)["files"][0]["result"]
        except (ValueError, KeyError, IndexError):
            return None
        return {"accepted": 0, "already-there": 100, "refused": 300}.get(result)
