// One push and one query with each of the vendor's Node clients: pop-core, which puts everything into a form, and
// openapi-client, which sends its form body chunked and leaves `* ' ( )` raw.
//
//   node check.mjs ENDPOINT ACCESS_KEY_ID ACCESS_KEY_SECRET APP_ID
import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { gzipSync } from "node:zlib";
import PopCore from "@alicloud/pop-core";
import OpenApi from "@alicloud/openapi-client";
import TeaUtil from "@alicloud/tea-util";

const [endpoint, accessKeyId, accessKeySecret, AppId] = process.argv.slice(2);
const version = "2017-11-10";

/// A tar.gz of one small file.
function archive(text) {
  const body = Buffer.from(text), header = Buffer.alloc(512);
  header.write("readme.txt", 0);
  header.write("0000644\0" + "0000000\0" + "0000000\0" + body.length.toString(8).padStart(11, "0") + "\0" + "00000000000\0", 100);
  header.write("        0", 148);
  header.write("ustar\u000000", 257);
  const sum = header.reduce((a, b) => a + b, 0);
  header.write(sum.toString(8).padStart(6, "0") + "\0 ", 148);
  return gzipSync(Buffer.concat([header, body, Buffer.alloc(512 - body.length + 1024)]));
}

const files = new Map();
const origin = createServer((request, answer) => {
  const file = files.get(request.url);
  answer.writeHead(file ? 200 : 404, { "content-length": file ? file.length : 0 });
  answer.end(file);
});
await new Promise((done) => origin.listen(0, "127.0.0.1", done));

function item(name) {
  const blob = archive(name), path = "/" + randomUUID();
  files.set(path, blob);
  return {
    name: name + "/" + randomUUID() + " *'()~+&=%", version: "1.0", size: blob.length, archiveType: "tar.gz",
    md5: createHash("md5").update(blob).digest("hex"), url: `http://127.0.0.1:${origin.address().port}${path}`, timeout: 60,
  };
}

const popCore = new PopCore({ accessKeyId, accessKeySecret, endpoint: "http://" + endpoint, apiVersion: version });
const openApi = new OpenApi.default(new OpenApi.Config({ accessKeyId, accessKeySecret, endpoint, protocol: "http" }));

const clients = {
  "pop-core": (action, parameters) => popCore.request(action, parameters, { method: "POST", timeout: 10000 }),
  "openapi-client": async (action, body) => {
    const params = new OpenApi.Params({
      action, version, protocol: "HTTP", pathname: "/", method: "POST", authType: "AK", style: "RPC",
      reqBodyType: "formData", bodyType: "json",
    });
    const request = new OpenApi.OpenApiRequest({ query: { AppId }, body });
    return (await openApi.callApi(params, request, new TeaUtil.RuntimeOptions({}))).body;
  },
};

for (const [name, call] of Object.entries(clients)) {
  const own = name === "pop-core" ? { AppId } : {};
  const file = item(name);
  const pushed = await call("PushApplicationData", { ...own, Data: JSON.stringify([file]) });
  assert.deepEqual(pushed.PushResults.PushResult.map((r) => [r.Name, r.ResultCode]), [[file.name, 0]]);
  for (let n = 0; ; n++) {
    const asked = await call("DescribeDataPushResult", { ...own, DataNames: file.name });
    assert.equal(asked.TotalCount, 1);
    const { Status } = asked.PushResults.PushResult[0].StatusStatS.StatusStat[0];
    if (Status === "SUCCESS") break;
    assert.equal(Status, "PUSHING");
    assert.ok(n < 300, "still PUSHING after 30 s");
    await new Promise((done) => setTimeout(done, 100));
  }
  await assert.rejects(call("PushApplicationData", { ...own, Data: "[]" }), (e) => e.code === "InvalidParameter.Data");
  console.log("ok    node " + name);
}
origin.close();
