//! `edgepush push --to`: the command line as a client of the ENS endpoint, against the real agent.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::support::archive::{site, tar_gz};
use crate::support::node::{APP, TestNode};
use crate::support::origin::{Gate, Origin, Reply, tls_file};

/// Writes a secret that only its owner can read.
fn secret(node: &TestNode, name: &str, text: &str) -> PathBuf {
    let path = node.dir().join(name);
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// Starts a node in region `r-1` that knows the access key `k`, with more of `[api]` in `extra`.
fn node(extra: &str) -> (TestNode, PathBuf) {
    let mut node = TestNode::new("");
    let good = secret(&node, "good", "S3CRET-of-k");
    let config = format!(
        "{}\n[intake]\nregion = \"r-1\"\n\n[api]\n{extra}\naccess_keys = [{{ id = \"k\", secret_file = {good:?} }}, {{ id = \"reads\", secret_file = {good:?}, actions = [\"DescribeDataPushResult\"] }}]\n",
        node.config()
    );
    node.write_config(&config);
    node.start();
    (node, good)
}

fn command(to: &str, key: &str, secret: &PathBuf, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_edgepush"));
    command
        .env("NO_COLOR", "1")
        .args(["push", "--to", to, "--key", key, "--secret-file"])
        .arg(secret)
        .args(more)
        .stdin(Stdio::null());
    command
}

fn to(node: &TestNode) -> String {
    format!("http://{}", node.http.unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Checks how a command ended, and returns what it said on both outputs.
#[track_caller]
fn ended(output: &Output, code: i32) -> (String, String) {
    let said = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{said:?}");
    assert!(!said.0.contains("S3CRET-of-k") && !said.1.contains("S3CRET-of-k"));
    said
}

#[test]
fn pushes_follows_and_shows_each_file_and_region() {
    let origin = Origin::start();
    let (node, good) = node("");
    let archive = tar_gz(&site("1", 20));
    origin.serve("/a.tgz", Reply::file(&archive));
    let url = format!("{}?token=SECRETSECRET", origin.url("/a.tgz"));
    let word = format!("maps@1={url}#size={}", archive.len());
    let gone = format!("gone@1={}?token=SECRETSECRET", origin.url("/none.tgz"));
    let output = command(&to(&node), "k", &good, &[APP, &word, &gone]).output();
    let (out, err) = ended(&output.unwrap(), 1);
    assert!(!out.contains("SECRETSECRET") && !err.contains("SECRETSECRET"));
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].starts_with("NAME  VERSION  RESULT"), "{out}");
    let row = |n: usize| lines[n].split_whitespace().collect::<Vec<_>>();
    assert_eq!(row(1)[..3], ["maps", "1", "published"]);
    assert_eq!(row(1).last(), Some(&"r-1"));
    assert_eq!(row(2)[..3], ["gone", "1", "failed"]);
    assert!(lines[4].starts_with("gone@1 in r-1: "), "{out}");
    assert!(err.contains("maps@1: published"), "{err}");
    node.assert_tree("maps", &site("1", 20));

    // The same again is there already, and as JSON.
    let output = command(&to(&node), "k", &good, &["--json", APP, &word]).output();
    let (out, err) = ended(&output.unwrap(), 0);
    let json: Value = serde_json::from_str(&out).unwrap();
    let file = &json["files"][0];
    assert_eq!(file["result"], "already-there", "{file}");
    assert_eq!((&file["region"], err.as_str()), (&"r-1".into(), ""));

    // Other content under the version is refused, with both digests.
    let other = format!("{word}&md5={}", "0".repeat(32));
    let output = command(&to(&node), "k", &good, &[APP, &other]).output();
    let (out, _) = ended(&output.unwrap(), 1);
    assert!(
        out.contains("refused") && out.contains("push a new version"),
        "{out}"
    );
}

#[test]
fn a_push_is_followed_over_a_restart_of_the_agent() {
    let origin = Origin::start();
    let (mut node, good) = node("");
    let archive = tar_gz(&site("1", 20));
    let gate = Gate::new();
    origin.serve("/a.tgz", Reply::file(&archive).hold_at(100, &gate));
    let word = format!("maps@1={}", origin.url("/a.tgz"));
    let pushing = command(&to(&node), "k", &good, &[APP, &word])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    origin.wait_for_hits("/a.tgz", 1);
    let address = node.http.unwrap();
    node.kill();
    let config = node.config().replace("127.0.0.1:0", &address.to_string());
    node.write_config(&config);
    gate.open();
    node.start();
    let (out, _) = ended(&pushing.wait_with_output().unwrap(), 0);
    assert!(out.contains("published"), "{out}");
    node.assert_tree("maps", &site("1", 20));
}

#[test]
fn says_why_a_call_is_refused_and_what_to_do() {
    let (node, good) = node("");
    let word = "maps@1=http://127.0.0.1:1024/a.zip?token=SECRETSECRET";
    let refused = |key: &str, secret: &PathBuf, words: &[&str]| {
        let output = command(&to(&node), key, secret, words).output().unwrap();
        let (out, err) = ended(&output, 1);
        assert_eq!(out, "");
        assert!(!err.contains("SECRETSECRET"), "{err}");
        assert!(err.contains("\n  help: "), "{err}");
        err
    };
    let wrong = secret(&node, "wrong", "another");
    let err = refused("k", &wrong, &[APP, word]);
    assert!(
        err.contains("rejects the signature of access key `k`"),
        "{err}"
    );
    let err = refused("nobody", &good, &[APP, word]);
    assert!(err.contains("does not know access key `nobody`"), "{err}");
    let err = refused("reads", &good, &[APP, word]);
    assert!(err.contains("may not use PushApplicationData"), "{err}");
}

#[test]
fn a_secret_that_others_can_read_is_not_used() {
    let (node, good) = node("");
    fs::set_permissions(&good, fs::Permissions::from_mode(0o644)).unwrap();
    let word = "maps@1=http://127.0.0.1:1024/a.zip";
    let output = command(&to(&node), "k", &good, &[APP, word]).output();
    let (_, err) = ended(&output.unwrap(), 2);
    assert!(
        err.contains("its mode is 0644, expected 0600 or 0400"),
        "{err}"
    );
}

#[test]
fn a_throttled_push_waits_and_goes_on() {
    let origin = Origin::start();
    let (node, good) = node("rate = { per_second = 2, burst = 1 }\n");
    let archive = tar_gz(&site("1", 3));
    origin.serve("/a.tgz", Reply::file(&archive));
    let word = format!("maps@1={}", origin.url("/a.tgz"));
    // More calls than the bucket holds: each is told how long to wait, and all come through.
    for code in ["published", "already there", "already there"] {
        let output = command(&to(&node), "k", &good, &[APP, &word]).output();
        let (out, _) = ended(&output.unwrap(), 0);
        assert!(out.contains(code), "{out}");
    }
    let metrics = node.ask("GET", "/metrics", None);
    let metrics = text(&metrics.body);
    assert!(metrics.contains("Throttling.User"), "{metrics}");
}

#[test]
fn an_overloaded_endpoint_is_asked_again_with_a_new_nonce() {
    let endpoint = Origin::start();
    let (node, good) = node("");
    let busy = r#"{"RequestId":"R","Code":"ServiceUnavailable","Message":"later"}"#;
    let answer = r#"{"RequestId":"R","PushResults":{"PushResult":[{"Name":"maps","Version":"1","ResultCode":0,"ResultDescrip":"Success"}]}}"#;
    let page = |status, body| Reply::page(status, "application/json", body);
    endpoint.script(
        "/",
        [
            page(503, busy).with("x-acs-retry-after", "10"),
            Reply::status(429).with("retry-after", "0"),
            Reply::close(),
            page(200, answer),
        ],
    );
    let word = "maps@1=http://127.0.0.1:1024/a.zip";
    let url = endpoint.url("/");
    let output = command(&url, "k", &good, &["--no-wait", APP, word]).output();
    let (out, _) = ended(&output.unwrap(), 0);
    assert!(out.contains("accepted"), "{out}");
    let hits = endpoint.hits("/");
    let nonces: std::collections::BTreeSet<_> = hits
        .iter()
        .map(|hit| hit.header("x-acs-signature-nonce").unwrap().to_owned())
        .collect();
    assert_eq!((hits.len(), nonces.len()), (4, 4));
    drop(node);
}

#[test]
fn an_endpoint_that_is_none_is_named() {
    let (node, good) = node("");
    let word = "maps@1=http://127.0.0.1:1024/a.zip";
    let run = |to: &str, code: i32, want: &str| {
        let output = command(to, "k", &good, &[APP, word]).output().unwrap();
        let (_, err) = ended(&output, code);
        assert!(err.contains(want) && err.contains("\n  help: "), "{err}");
    };
    let website = Origin::start();
    website.serve("/", Reply::page(200, "text/html", "<h1>hello</h1>"));
    run(&website.url(""), 1, "but not as an ENS endpoint does");
    let tls = Origin::start_tls("server");
    run(&tls.url(""), 3, "cannot reach https://");
    // Nobody listens at a port that was just given up.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    run(
        &format!("http://{address}"),
        3,
        "cannot reach http://127.0.0.1",
    );
    drop(node);
}

#[test]
fn a_clock_that_is_off_is_named_with_its_difference() {
    let endpoint = Origin::start();
    let (node, good) = node("");
    let expired = r#"{"RequestId":"R","Code":"InvalidTimeStamp.Expired","Message":"off"}"#;
    let reply = Reply::page(400, "application/json", expired);
    endpoint.serve("/", reply.with("date", "Sun, 06 Nov 1994 08:49:37 GMT"));
    let word = "maps@1=http://127.0.0.1:1024/a.zip";
    let output = command(&endpoint.url(""), "k", &good, &[APP, word]).output();
    let (_, err) = ended(&output.unwrap(), 1);
    assert!(err.contains("this machine's clock is 3"), "{err}");
    assert!(
        err.contains("years") && err.contains("ahead of it"),
        "{err}"
    );
    drop(node);
}

#[test]
fn only_urls_can_be_pushed_elsewhere_and_only_with_a_key() {
    let (node, good) = node("");
    let url = to(&node);
    let local = tls_file("ca.pem");
    let word = format!("maps@1={}", local.display());
    let output = command(&url, "k", &good, &[APP, &word]).output();
    let (_, err) = ended(&output.unwrap(), 2);
    assert!(err.contains("is a file of this machine"), "{err}");
    assert!(err.contains("help: upload it"), "{err}");
    let socket = node.socket();
    let output = command(
        socket.to_str().unwrap(),
        "k",
        &good,
        &[APP, "a@1=http://h/a.zip"],
    )
    .output();
    let (_, err) = ended(&output.unwrap(), 2);
    assert!(err.contains("use --socket"), "{err}");
    let key = ["--key", "k", "--secret-file", good.to_str().unwrap()];
    let both = [
        &["push", "--to", &url],
        &key[..],
        &[APP, "a@1=http://h/a.zip"],
    ]
    .concat();
    let (_, err) = ended(&node.cli(&both), 2);
    assert!(
        err.contains("--to and --socket exclude each other"),
        "{err}"
    );
    let output = node.cli(&["push", "--to", &url, APP, "a@1=http://h/a.zip"]);
    let (_, err) = ended(&output, 2);
    assert!(err.contains("--key"), "{err}");
}
