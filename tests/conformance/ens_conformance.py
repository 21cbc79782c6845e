#!/usr/bin/env python3
"""Drives an ENS-compatible control plane with the real vendor SDKs and checks every answer.

  ens_conformance.py --endpoint 127.0.0.1:8080 --access-key-id AK --access-key-secret SK --app-id APP
                     [--sdk v2,v2rpc,v1] [--only TEXT] [--timeout 30]

Needs alibabacloud-ens20171110 (header signature, here "v2"; RPC signature in a mode of it, "v2rpc") and
aliyun-python-sdk-ens (RPC query signature, "v1").  --few ID:SECRET is a key that may only describe, --off ID:SECRET
one that is switched off; without them their cases are left out.  tests/conformance/run gives both.  Archives are built in memory and served from an ephemeral loopback port; data names are unique per
run, so a long-lived server can be tested again and again.  Exit status 0 only when nothing failed.
"""
import argparse, calendar, hashlib, http.client, io, json, logging, re, subprocess, sys, tarfile, tempfile, threading, time
import traceback
import urllib.error, urllib.request, uuid, zipfile
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from unittest import mock

from alibabacloud_ens20171110 import models as ens
from alibabacloud_ens20171110.client import Client as V2Client
from alibabacloud_tea_openapi import exceptions as v2_errors, utils as v2_utils, utils_models as openapi
from aliyunsdkcore.acs_exception.exceptions import ServerException
from aliyunsdkcore.auth.credentials import StsTokenCredential
from aliyunsdkcore.client import AcsClient
from aliyunsdkcore.request import CommonRequest
from aliyunsdkcore.utils import parameter_helper as v1_utils
from aliyunsdkens.request.v20171110 import (
    DescribeDataDownloadURLRequest, DescribeDataPushResultRequest, PushApplicationDataRequest)
from darabonba.runtime import RuntimeOptions

logging.disable(logging.CRITICAL)
VERSION = "2017-11-10"
STAMP = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
REQUEST_ID = re.compile(r"^[0-9A-F]{8}(-[0-9A-F]{4}){3}-[0-9A-F]{12}$")
CASES, SEEN_IDS = [], set()


class ApiError(Exception):
    def __init__(self, code, status, message, request_id):
        super().__init__("%s (HTTP %s): %s" % (code, status, message))
        self.code, self.status, self.message, self.request_id = code, status, message, request_id


def case(f):
    CASES.append(f)
    return f


def eq(got, want, what):
    assert got == want, "%s: got %r, expected %r" % (what, got, want)


def request_id(rid):
    assert isinstance(rid, str) and REQUEST_ID.match(rid), "RequestId %r is not an upper-case UUID" % (rid,)
    assert rid not in SEEN_IDS, "RequestId %r was used before" % rid
    SEEN_IDS.add(rid)


# ---- the two SDKs behind one face: call(action, **params) -> dict, or ApiError ------------------
class V2:
    name, wrong_secret_code = "v2", "SignatureDoesNotMatch"
    typed = {"PushApplicationData": ("push_application_data", ens.PushApplicationDataRequest),
             "DescribeDataPushResult": ("describe_data_push_result", ens.DescribeDataPushResultRequest),
             "DescribeDataDownloadURL": ("describe_data_download_url", ens.DescribeDataDownloadURLRequest)}

    config = {}

    def __init__(self, endpoint, key, secret, token=None):
        self.client = V2Client(openapi.Config(access_key_id=key, access_key_secret=secret, endpoint=endpoint,
                                              security_token=token, protocol="http", read_timeout=10000, **self.config))

    def call(self, action, form=None, version=VERSION, **params):
        try:
            if action in self.typed and form is None and version == VERSION:
                method, model = self.typed[action]
                body = getattr(self.client, method)(model().from_map(params)).body
                assert not isinstance(body, dict), "the SDK could not read this body into its model: %r" % body
                return body.to_map()
            p = openapi.Params(action=action, version=version, protocol="HTTP", pathname="/", method="POST",
                               auth_type="AK", style="RPC", req_body_type="formData", body_type="json")
            r = openapi.OpenApiRequest(query={k: str(v) for k, v in params.items()}, body=form)
            return self.client.call_api(p, r, RuntimeOptions())["body"]
        except v2_errors.AlibabaCloudException as e:
            raise ApiError(e.code, e.status_code, (e.data or {}).get("Message"), e.request_id) from None

    def clock(self, text):
        return mock.patch.object(v2_utils.Utils, "get_timestamp", staticmethod(lambda: text))


class V2Rpc(V2):
    name, config = "v2rpc", {"signature_algorithm": "v2"}


class V1:
    name, wrong_secret_code = "v1", "InvalidAccessKeySecret"    # the SDK renames it when the strings to sign agree
    typed = {"PushApplicationData": PushApplicationDataRequest.PushApplicationDataRequest,
             "DescribeDataPushResult": DescribeDataPushResultRequest.DescribeDataPushResultRequest,
             "DescribeDataDownloadURL": DescribeDataDownloadURLRequest.DescribeDataDownloadURLRequest}

    def __init__(self, endpoint, key, secret, token=None):
        credential = {"credential": StsTokenCredential(key, secret, token)} if token else {"ak": key, "secret": secret}
        self.endpoint, self.client = endpoint, AcsClient(region_id="cn-hangzhou", timeout=10, **credential)

    def call(self, action, form=None, version=VERSION, **params):
        if action in self.typed and form is None and version == VERSION:
            r = self.typed[action]()
            for k, v in params.items():
                getattr(r, "set_" + k)(v)
            r.set_endpoint(self.endpoint)
        else:
            r = CommonRequest(domain=self.endpoint, version=version, action_name=action)
            r.set_method("POST")
            for k, v in params.items():
                r.add_query_param(k, v)
            for k, v in (form or {}).items():
                r.add_body_params(k, v)
        try:
            return json.loads(self.client.do_action_with_exception(r))
        except ServerException as e:
            raise ApiError(e.error_code, e.http_status, e.message, e.request_id) from None

    def clock(self, text):
        return mock.patch.object(v1_utils, "get_iso_8061_date", lambda: text)


# ---- origin of the archives; a POST to it records what an SDK puts on the wire ------------------
class Origin(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), OriginHandler)
        self.address = "127.0.0.1:%d" % self.server_address[1]
        self.files, self.hits, self.posts, self.gate = {}, {}, [], threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def add(self, path, blob):
        self.files[path] = blob
        return "http://" + self.address + path


class OriginHandler(BaseHTTPRequestHandler):
    def log_message(self, *a):
        pass

    def do_GET(self, head=False):
        blob = self.server.files.get(self.path)
        self.server.hits[self.path] = self.server.hits.get(self.path, 0) + (not head)
        self.send_response(200 if blob is not None else 404)
        self.send_header("Content-Length", str(len(blob or b"")))
        self.end_headers()
        if blob and not head:
            self.wfile.write(blob[:10])
            if self.path.startswith("/slow/"):
                self.server.gate.wait(60)
            self.wfile.write(blob[10:])

    def do_HEAD(self):
        self.do_GET(head=True)

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.posts.append(("POST", self.path, dict(self.headers.items()), body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")


def make_tar_gz(text):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, data in (("app/readme.txt", text.encode()), ("app/bin/data.bin", bytes(range(256)) * 64)):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def make_zip(text):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("app/readme.txt", text)
        z.writestr("app/bin/data.bin", bytes(range(256)) * 64)
    return out.getvalue()


class Run:
    """What one case gets: an SDK, the origin and helpers that check every field they pass on."""
    def __init__(self, args, sdk_class, origin):
        self.args, self.cls, self.origin = args, sdk_class, origin
        self.sdk = sdk_class(args.endpoint, args.access_key_id, args.access_key_secret)
        self.prefix = "%s-%s/" % (sdk_class.name, uuid.uuid4().hex[:10])

    def recorded(self, *call, **params):
        sdk = self.cls(self.origin.address, self.args.access_key_id, self.args.access_key_secret)
        sdk.call(*call, **params)
        return self.origin.posts.pop()

    def send(self, method, target, headers, body):
        c = http.client.HTTPConnection(self.args.endpoint, timeout=20)
        c.request(method, target, body or None, headers)
        r = c.getresponse()
        assert r.headers.get_content_type() == "application/json", "Content-Type is %r" % r.headers["Content-Type"]
        return r.status, json.loads(r.read())

    def item(self, name, kind="tar.gz", folder="/", md5="", version="1.0", blob=None, **over):
        blob = blob or (make_tar_gz if kind == "tar.gz" else make_zip)(self.prefix + name)
        return {"name": self.prefix + name, "version": version, "size": len(blob), "archiveType": kind,
                "md5": hashlib.md5(blob).hexdigest() if md5 == "right" else md5,
                "url": self.origin.add(folder + uuid.uuid4().hex, blob), "timeout": 60, **over}

    def push(self, *items, **params):
        r = self.sdk.call("PushApplicationData", AppId=self.args.app_id, Data=json.dumps(items), **params)
        request_id(r.get("RequestId"))
        rows = r["PushResults"]["PushResult"]
        eq([(x.get("Name"), x.get("Version")) for x in rows], [(i["name"], i["version"]) for i in items], "names, in the order of Data")
        for x in rows:
            eq(set(x), {"Name", "Version", "ResultCode", "ResultDescrip"}, "fields of a PushResult")
            assert type(x["ResultCode"]) is int and x["ResultDescrip"], "ResultCode/ResultDescrip in %r" % x
        return [x["ResultCode"] for x in rows]

    def page(self, **params):
        r = self.sdk.call("DescribeDataPushResult", AppId=self.args.app_id, **params)
        request_id(r.get("RequestId"))
        for k in ("TotalCount", "PageNumber", "PageSize"):
            assert type(r.get(k)) is int, "%s is %r" % (k, r.get(k))
        rows = []
        for x in r["PushResults"]["PushResult"]:
            eq(set(x), {"Name", "Version", "StatusStatS"}, "fields of a PushResult")
            stats, regions = x["StatusStatS"]["StatusStat"], {}
            for s in stats:
                assert s["Status"] in ("SUCCESS", "FAILED", "PUSHING"), "Status %r" % s["Status"]
                entries = s["RegionIds"]["RegionId"]
                eq(s["RegionIdCount"], len(entries), "RegionIdCount")
                for e in entries:
                    eq(set(e), {"RegionId", "StartTime", "UpdateTime", "StatusDescrip"}, "fields of a RegionId")
                    assert STAMP.match(e["StartTime"]) and STAMP.match(e["UpdateTime"]), "times in %r" % e
                    assert e["StartTime"] <= e["UpdateTime"] and e["StatusDescrip"], "%r" % e
                    assert e["RegionId"] not in regions, "region %r twice" % e["RegionId"]
                    regions[e["RegionId"]] = s["Status"]
            assert regions, "a row without a region"
            eq(len({s["Status"] for s in stats}), len(stats), "one StatusStat per status")
            rows.append((x["Name"], x["Version"], regions))
        return r, rows

    def rows(self, **params):
        r, rows = self.page(**params)
        eq(r["TotalCount"], len(rows), "TotalCount of an unpaged listing")
        return rows

    def status(self, item):
        rows = self.rows(DataNames=item["name"], DataVersions=item["version"])
        eq([r[:2] for r in rows], [(item["name"], item["version"])], "rows of one file")
        return rows[0][2]

    def finish(self, item, want):
        end = time.time() + self.args.timeout
        while True:
            regions = self.status(item)
            if "PUSHING" not in regions.values():
                eq(set(regions.values()), {want}, "final status of %s" % item["name"])
                return sorted(regions)
            assert time.time() < end, "still PUSHING after %d s" % self.args.timeout
            time.sleep(0.1)

    def fails(self, code, status, action, sdk=None, **params):
        try:
            r = (sdk or self.sdk).call(action, **params)
        except ApiError as e:
            eq((e.code, e.status), (code, status), "error of %s" % action)
            assert e.message, "no Message"
            request_id(e.request_id)
            return
        raise AssertionError("%s was accepted, expected %s: %r" % (action, code, r))

    def push_fails(self, code, status=400, **params):
        self.fails(code, status, "PushApplicationData", **{"AppId": self.args.app_id, **params})

    def strategy(self, operator, *values):
        return json.dumps({"name": "ScheduleToRegionId", "parameters": {"operator": operator, "values": values}})


# ---- cases ---------------------------------------------------------------------------------------
@case
def push_then_success_then_100(t):
    a, b = t.item("a"), t.item("b", kind="zip", md5="right")
    eq(t.push(a, b), [0, 0], "first push")
    eq(t.finish(a, "SUCCESS"), t.finish(b, "SUCCESS"), "regions of both files")
    hits = dict(t.origin.hits)
    eq(t.push(a, b), [100, 100], "second push")
    c = t.item("c", md5="right")
    eq(t.push(a, {**c, "md5": c["md5"].upper()}), [100, 0], "one old, one new, md5 in capitals")
    t.finish(c, "SUCCESS")
    eq({k: v for k, v in t.origin.hits.items() if k in hits}, hits, "origin reads after 100")


@case
def push_in_progress_200(t):
    t.origin.gate.clear()
    a = t.item("slow", folder="/slow/")
    try:
        with ThreadPoolExecutor(8) as pool:
            eq(sorted(pool.map(lambda _: t.push(a)[0], range(8))), [0] + [200] * 7, "eight pushes at once")
        eq(t.push(a), [200], "push while pushing")
        eq(set(t.status(a).values()), {"PUSHING"}, "status while pushing")
    finally:
        t.origin.gate.set()
    t.finish(a, "SUCCESS")
    eq(t.push(a), [100], "push when done")


@case
def wrong_md5_fails_and_can_be_pushed_again(t):
    good = t.item("md5", md5="right")
    bad = {**good, "md5": "0" * 32}
    eq(t.push(bad), [0], "push")
    t.finish(bad, "FAILED")
    eq(t.push(good), [0], "push again")
    t.finish(good, "SUCCESS")
    eq(t.push(bad), [300], "a published version never changes: other content under its name is refused")
    eq(t.push(good), [100], "and the version itself still stands")


@case
def bad_content_fails(t):
    size = t.item("size")
    size["size"] += 1
    gone = t.item("gone")
    gone["url"] += "-no-such-file"
    blob = make_tar_gz("x")
    cut = t.item("cut", blob=blob[:len(blob) // 2])
    crc = t.item("crc", blob=blob[:-8] + bytes([blob[-8] ^ 1]) + blob[-7:])     # only the gzip trailer is wrong
    not_zip = t.item("notzip", kind="zip", blob=b"this is no zip file" * 20)
    not_gz = t.item("notgz", blob=make_zip("x"))
    eq(t.push(size, gone, cut, crc, not_zip, not_gz), [0] * 6, "push")
    for i in (size, gone, cut, crc, not_zip, not_gz):
        t.finish(i, "FAILED")


@case
def bad_item_is_300_and_others_go_on(t):
    ok, kind, url, md5 = t.item("ok"), t.item("kind", archiveType="rar"), t.item("url", url="ftp://h/x"), t.item("m", md5="zz")
    eq(t.push(kind, ok, url, md5), [300, 0, 300, 300], "result codes")
    t.finish(ok, "SUCCESS")


@case
def parameters_are_checked(t):
    data = json.dumps([t.item("never")])
    t.push_fails("MissingData")
    t.fails("MissingAppId", 400, "PushApplicationData", Data=data)
    t.push_fails("InvalidParameter.AppId", AppId=str(uuid.uuid4()), Data=data)
    for text in ("not json", "{}", "[]", '"x"', "[1]", '[{"version":"1.0"}]', '[{"name":"","version":"1"}]', '[{"name":"n","version":1}]'):
        t.push_fails("InvalidParameter.Data", Data=text)
    t.fails("MissingAppId", 400, "DescribeDataPushResult")
    t.fails("MissingDataVersion", 400, "DescribeDataDownloadURL", AppId=t.args.app_id, DataName="n")
    eq(t.rows(DataNames=t.prefix + "never"), [], "nothing was pushed")


@case
def actions_and_versions(t):
    t.fails("InvalidAction.NotFound", 404, "PushApplicationDataX", AppId=t.args.app_id)
    t.fails("InvalidVersion", 400, "DescribeDataPushResult", AppId=t.args.app_id, version="2017-11-11")


@case
def credentials(t):
    a = t.args
    wrong = t.cls(a.endpoint, a.access_key_id, a.access_key_secret + "x")
    t.fails(t.cls.wrong_secret_code, 400, "DescribeDataPushResult", sdk=wrong, AppId=a.app_id)
    nobody = t.cls(a.endpoint, a.access_key_id + "x", a.access_key_secret)
    t.fails("InvalidAccessKeyId.NotFound", 404, "DescribeDataPushResult", sdk=nobody, AppId=a.app_id)


@case
def timestamps(t):
    def at(seconds):
        return t.sdk.clock(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + seconds)))
    for seconds in (-960, 960, -86400 * 365):
        with at(seconds):
            t.fails("InvalidTimeStamp.Expired", 400, "DescribeDataPushResult", AppId=t.args.app_id)
    for seconds in (-840, 840):
        with at(seconds):
            t.rows(DataNames=t.prefix)
    with t.sdk.clock("yesterday"):
        t.fails("InvalidTimeStamp.Format", 400, "DescribeDataPushResult", AppId=t.args.app_id)


@case
def replay_and_tampering(t):
    def refused(code, *request):
        status, body = t.send(*request)
        eq((status, body.get("Code")), (400, code), "raw answer")
        eq({"RequestId", "HostId", "Code", "Message"} - set(body), set(), "missing fields of an error")
    ask = t.recorded("DescribeDataPushResult", AppId=t.args.app_id, DataNames=t.prefix + "x")
    method, target, headers, body = ask
    refused("SignatureDoesNotMatch", method, target.replace("DataNames=v", "DataNames=w"), headers, body)
    refused("SignatureDoesNotMatch", method, target + "&PageSize=1", headers, body)
    refused("SignatureDoesNotMatch", "GET", target, headers, body)
    status, answer = t.send(*ask)
    eq((status, answer.get("TotalCount")), (200, 0), "the recorded request itself, after three forged ones")
    refused("SignatureNonceUsed", *ask)
    nude = re.sub(r"&(AccessKeyId|Signature\w*)=[^&]*", "", target)
    refused("MissingAccessKeyId", method, nude, {k: v for k, v in headers.items() if k.lower() != "authorization"}, body)
    method, target, headers, body = t.recorded("DescribeDataPushResult", form={"DataNames": "form-x"}, AppId=t.args.app_id)
    refused("SignatureDoesNotMatch", method, target, headers, body.replace(b"form-x", b"form-y"))


@case
def form_body_blank_and_odd_characters(t):
    a = t.item("d d/\u00fc\u4e2d+*~(1)'&=%25;#?.tar.gz", version="1.0+b 2", unknown="x" * 40000)
    eq(t.push(a, PushStrategy=""), [0], "push with a long Data, an unknown field and a blank PushStrategy")
    t.finish(a, "SUCCESS")
    r = t.sdk.call("PushApplicationData", form={"Data": json.dumps([a], ensure_ascii=False)}, AppId=t.args.app_id)
    eq(r["PushResults"]["PushResult"][0]["ResultCode"], 100, "Data in a form body")
    eq((r["PushResults"]["PushResult"][0]["Name"]), a["name"], "name")


@case
def push_strategy(t):
    a, b, c = t.item("all"), t.item("in"), t.item("notin")
    eq(t.push(a), [0], "push to all")
    regions = t.finish(a, "SUCCESS")
    eq(t.push(b, PushStrategy=t.strategy("In", regions[0])), [0], "push In")
    eq(t.finish(b, "SUCCESS"), regions[:1], "regions of In")
    out = regions[:1] if len(regions) > 1 else ["cn-none-1"]
    rest = [r for r in regions if r not in out]
    eq(t.push(c, PushStrategy=t.strategy("NotIn", *out)), [0], "push NotIn")
    eq(t.finish(c, "SUCCESS"), rest, "regions of NotIn")
    if len(regions) > 1:
        eq(t.push(b), [0], "the rest of the regions")
        eq(t.finish(b, "SUCCESS"), regions, "regions after a second, wider push")
    data = json.dumps([t.item("never")])
    for text in ("{", "[3]", '{"name":"ScheduleToRegionId"}', t.strategy("In"), t.strategy("In", "cn-none-1"), t.strategy("NotIn", *regions),
                 t.strategy("Like", regions[0]), t.strategy("In", regions[0]).replace("ScheduleToRegionId", "ScheduleToMoon")):
        t.push_fails("InvalidParameter.PushStrategy", Data=data, PushStrategy=text)


@case
def paging_and_filters(t):
    items = [t.item("p%d" % i, version="v%d" % (i % 2)) for i in range(5)]
    eq(t.push(*items), [0] * 5, "push")
    for i in items:
        regions = t.finish(i, "SUCCESS")
    names = ",".join(i["name"] for i in items)
    every = t.rows(DataNames=names)
    eq(sorted(r[0] for r in every), [i["name"] for i in items], "unpaged rows")
    got = []
    for n, want in ((1, 2), (2, 2), (3, 1), (4, 0)):
        r, rows = t.page(DataNames=names, PageNumber=n, PageSize=2)
        eq((r["TotalCount"], r["PageNumber"], r["PageSize"], len(rows)), (5, n, 2, want), "page %d" % n)
        got += rows
    eq(got, every, "the pages put together")
    for field in ("PageNumber", "PageSize"):
        for value in ("0", "-1", "x"):
            t.fails("InvalidParameter." + field, 400, "DescribeDataPushResult", AppId=t.args.app_id, **{field: value})
    eq([r[0] for r in t.rows(DataNames=names, DataVersions="v1")], [r[0] for r in every if r[1] == "v1"], "DataVersions")
    eq(len(t.rows(DataNames=names, DataVersions="v1,v0,v7")), 5, "several DataVersions")
    eq([r[2] for r in t.rows(DataNames=names, RegionIds=regions[-1])], [{regions[-1]: "SUCCESS"}] * 5, "RegionIds")
    eq(t.rows(DataNames=names, RegionIds="cn-none-1"), [], "RegionIds of nobody")
    eq(t.rows(DataNames=t.prefix + "p"), [], "a prefix is no name")
    day = [time.strftime("%Y-%m-%d", time.gmtime(time.time() + 86400 * d)) for d in (-2, -1, 0, 1, 2)]
    for low, high, want in ((day[1], day[3], 5), (day[1], None, 5), (None, day[3], 5), (None, day[0], 0), (day[4], None, 0)):
        limits = {k: v for k, v in (("MinDate", low), ("MaxDate", high)) if v}
        eq(len(t.rows(DataNames=names, **limits)), want, "rows for %r" % limits)
    for field in ("MinDate", "MaxDate"):
        t.fails("InvalidParameter." + field, 400, "DescribeDataPushResult", AppId=t.args.app_id, **{field: "01/02/2026"})


@case
def download_url(t):
    a = t.item("dl", kind="zip", md5="right")
    eq(t.push(a), [0], "push")
    regions = t.finish(a, "SUCCESS")
    ask = dict(AppId=t.args.app_id, DataName=a["name"], DataVersion="1.0")
    r = t.sdk.call("DescribeDataDownloadURL", ExpireTimeout=600, **ask)
    request_id(r.get("RequestId"))
    eq((r.get("Code"), r.get("Message")), (0, "Success"), "Code, Message")
    d = r["Data"]
    eq(sorted(s["RegionId"] for s in d["ServerList"]), regions, "ServerList")
    assert d["Url"].startswith("/"), "Url %r is not a path" % d["Url"]
    assert STAMP.match(d["ExpireTime"]) and calendar.timegm(time.strptime(d["ExpireTime"], "%Y-%m-%dT%H:%M:%SZ")) > time.time(), d["ExpireTime"]
    for s in d["ServerList"]:
        with urllib.request.urlopen("http://" + s["Host"] + d["Url"], timeout=20) as f:
            eq(hashlib.md5(f.read()).hexdigest(), a["md5"], "bytes from %s" % s["RegionId"])
    for forged in (d["Url"].split("?")[0], re.sub("([?&]sign=)..", r"\1zz", d["Url"])):
        assert forged != d["Url"], "Url %r has no sign parameter" % d["Url"]
        try:
            urllib.request.urlopen("http://" + d["ServerList"][0]["Host"] + forged, timeout=20)
            raise AssertionError("a forged Url was served: " + forged)
        except urllib.error.HTTPError as e:
            eq(e.code, 403, "status for a forged Url")
    one = t.sdk.call("DescribeDataDownloadURL", ServerFilterStrategy=t.strategy("In", regions[0]), **ask)
    eq([s["RegionId"] for s in one["Data"]["ServerList"]], regions[:1], "filtered ServerList")
    t.fails("InvalidParameter.DataName", 400, "DescribeDataDownloadURL", **{**ask, "DataName": t.prefix + "none"})
    t.fails("InvalidParameter.DataVersion", 400, "DescribeDataDownloadURL", **{**ask, "DataVersion": "none"})


@case
def other_content_is_refused_with_both_digests(t):
    blob = make_zip(t.prefix + "fixed")
    a = t.item("fixed", kind="zip", blob=blob, md5="right", sha256=hashlib.sha256(blob).hexdigest())
    eq(t.push(a), [0], "push")
    t.finish(a, "SUCCESS")
    hits = dict(t.origin.hits)
    for other in ({"md5": "0" * 32}, {"sha256": "0" * 64}, {"size": a["size"] + 1}):
        r = t.sdk.call("PushApplicationData", AppId=t.args.app_id, Data=json.dumps([{**a, **other}]))
        row = r["PushResults"]["PushResult"][0]
        eq(row["ResultCode"], 300, "code for %r" % other)
        for part in [str(v) for k, old in other.items() for v in (old, a[k])]:
            assert part in row["ResultDescrip"], "%r is not in %r" % (part, row["ResultDescrip"])
    eq(t.push({**a, "md5": "", "sha256": ""}, {**a, "sha256": a["sha256"].upper()}), [100, 100], "nothing or the same stated")
    eq(t.origin.hits, hits, "origin reads")


@case
def long_requests(t):
    a = t.item("long")
    for length, status in ((70_000, 414), (5_000_000, 431)):
        data = json.dumps([{**a, "padding": "x" * length}])
        code = {414: "RequestUriTooLong", 431: "RequestHeadTooLarge"}[status]
        t.push_fails(code, status, Data=data)
    data = json.dumps([{**a, "padding": "x" * ((8 << 20) - 1000)}])
    r = t.sdk.call("PushApplicationData", form={"Data": data}, AppId=t.args.app_id)
    eq(r["PushResults"]["PushResult"][0]["ResultCode"], 0, "a Data of 8 MiB in a form body")
    t.finish(a, "SUCCESS")


@case
def rights_of_keys(t):
    data = json.dumps([t.item("rights")])
    if t.args.few:
        few = t.cls(t.args.endpoint, *t.args.few.split(":"))
        eq(few.call("DescribeDataPushResult", AppId=t.args.app_id, DataNames=t.prefix)["TotalCount"], 0, "rows")
        t.fails("NoPermission", 400, "PushApplicationData", sdk=few, AppId=t.args.app_id, Data=data)
        t.fails("NoPermission", 400, "DescribeDataPushResult", sdk=few, AppId=str(uuid.uuid4()))
    if t.args.off:
        off = t.cls(t.args.endpoint, *t.args.off.split(":"))
        t.fails("InvalidAccessKeyId.Inactive", 400, "DescribeDataPushResult", sdk=off, AppId=t.args.app_id)
    token = t.cls(t.args.endpoint, t.args.access_key_id, t.args.access_key_secret, "a-security-token")
    t.fails("InvalidSecurityToken.Malformed", 400, "DescribeDataPushResult", sdk=token, AppId=t.args.app_id)


@case
def download_goes_on_where_it_stopped(t):
    a = t.item("range", kind="zip", md5="right")
    eq(t.push(a), [0], "push")
    t.finish(a, "SUCCESS")
    r = t.sdk.call("DescribeDataDownloadURL", AppId=t.args.app_id, DataName=a["name"], DataVersion="1.0")
    url = "http://" + r["Data"]["ServerList"][0]["Host"] + r["Data"]["Url"]
    def get(**headers):
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=20) as f:
            return f.status, f.headers, f.read()
    status, headers, whole = get()
    etag = headers["ETag"]
    for tag, want in ((etag, 206), ('"another"', 200)):
        status, headers, part = get(Range="bytes=100-", **{"If-Range": tag})
        eq((status, part), (want, whole[100:] if want == 206 else whole), "If-Range %s" % tag)


@case
def the_command_line_pushes_like_an_sdk(t):
    """`edgepush push --to`: what it pushes, the SDK reads and finds published, and the other way round."""
    if not t.args.edgepush:
        return
    mine, theirs = t.item("by-cli", "tar.gz", md5="right"), t.item("by-sdk", "zip", md5="right")
    bad = t.item("bad", "zip", md5="0" * 32)
    eq(t.push(theirs), [0], "push by the SDK")
    t.finish(theirs, "SUCCESS")
    with tempfile.NamedTemporaryFile(mode="w") as secret:
        secret.write(t.args.access_key_secret)
        secret.flush()
        words = ["%s@%s=%s#md5=%s&size=%d" % (i["name"], i["version"], i["url"], i["md5"], i["size"]) for i in (mine, theirs, bad)]
        for kind, word, code, want in (("tar.gz", words[0], 0, "published"), ("zip", words[1], 0, "already-there"), ("zip", words[2], 1, "failed")):
            ran = subprocess.run(
                [t.args.edgepush, "push", "--json", "--type", kind, "--to", "http://" + t.args.endpoint, "--key", t.args.access_key_id,
                 "--secret-file", secret.name, t.args.app_id, word], capture_output=True, text=True, timeout=60)
            eq(ran.returncode, code, "exit code of the command line (%s)" % ran.stderr)
            eq([f["result"] for f in json.loads(ran.stdout)["files"]], [want] * len(t.status(theirs)), "result of the command line")
    t.finish(mine, "SUCCESS")
    t.finish(bad, "FAILED")
    eq(t.push(mine), [100], "push by the SDK of what the command line pushed")


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for o in ("--endpoint", "--access-key-id", "--access-key-secret", "--app-id"):
        ap.add_argument(o, required=True)
    ap.add_argument("--sdk", default="v2,v2rpc,v1")
    ap.add_argument("--few", help="ID:SECRET of a key that may only use DescribeDataPushResult of the app")
    ap.add_argument("--edgepush", help="the program whose command line is run as one more client")
    ap.add_argument("--off", help="ID:SECRET of a key that is switched off")
    ap.add_argument("--only", default="", help="run the cases whose name contains this")
    ap.add_argument("--timeout", type=float, default=30, help="seconds to wait for one push to end")
    ap.add_argument("--trace", action="store_true")
    args = ap.parse_args()
    origin, passed, failed = Origin(), 0, 0
    for sdk_class in (V2, V2Rpc, V1):
        for f in CASES:
            if sdk_class.name not in args.sdk.split(",") or args.only not in f.__name__:
                continue
            try:
                f(Run(args, sdk_class, origin))
                passed += 1
                print("ok    %s %s" % (sdk_class.name, f.__name__), flush=True)
            except Exception as e:
                failed += 1
                print("FAIL  %s %s: %s: %s" % (sdk_class.name, f.__name__, type(e).__name__, str(e)[:400]), flush=True)
                if args.trace:
                    traceback.print_exc()
    print("%d passed, %d failed" % (passed, failed))
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
