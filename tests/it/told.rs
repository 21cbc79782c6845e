//! What a source says in place of a file stays with the operator of the node: a push may name a service
//! that only this node can reach, and its sender must not read that service's responses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::ens::{Ens, Scheme};
use crate::support::http;
use crate::support::node::{APP, PATIENCE, TestNode};
use crate::support::origin::{Origin, Reply};
use crate::support::receiver::Receiver;

const SAID: &str = "INNER-STATE";

fn node(receiver: &Receiver) -> TestNode {
    let mut node = TestNode::new("");
    let secret = |name: &str, text: &str| {
        let path = node.dir().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    let key = secret("key", "S3CRET-of-k-and-more");
    let hook = secret("hook", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3");
    let config = format!(
        "{}\n[api]\naccess_keys = [{{ id = \"k\", secret_file = {key:?} }}]\n\n[[report.endpoints]]\nname = \"hook\"\nurl = {:?}\nsecret_files = [{hook:?}]\n",
        node.config(),
        receiver.url()
    );
    node.write_config(&config);
    node.start();
    node
}

fn push(node: &TestNode, origin: &Origin, name: &str, reply: Reply, size: Option<usize>) {
    origin.serve(&format!("/{name}"), reply);
    let item = json!({
        "name": name, "version": "1", "archiveType": "tar.gz", "size": size,
        "md5": "0".repeat(32), "url": origin.url(&format!("/{name}")), "timeout": 60,
    });
    assert_eq!(node.push_codes(&[item]), [0]);
}

/// Returns everything that `node` answers over TCP about its files.
fn over_tcp(node: &TestNode) -> String {
    let address = node.http.unwrap();
    let get = |target: &str| {
        let answer = http::tcp(address, "GET", target, &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{target}");
        String::from_utf8(answer.body).unwrap()
    };
    let files = get("/v1/files");
    let listed: Value = serde_json::from_str(&files).unwrap();
    let mut all = vec![files, get("/v1/status"), get("/v1/outbox")];
    for file in listed["files"].as_array().unwrap() {
        let id = &file["id"];
        for target in [
            format!("/v1/files/{id}"),
            format!("/v1/files/{id}/history"),
            format!("/v1/files/{id}/events"),
            format!("/v1/pushes/{}", file["push"].as_str().unwrap()),
        ] {
            all.push(get(&target));
        }
    }
    let ens = Ens::new(address, "k", "S3CRET-of-k-and-more", Scheme::Header);
    let described = ens.call("DescribeDataPushResult", &[("AppId", APP)]);
    assert_eq!(described.status, 200);
    let described = String::from_utf8(described.body).unwrap();
    assert!(described.contains("status 403"), "{described}");
    assert!(
        described.contains("content type `text/html`"),
        "{described}"
    );
    all.push(described);
    all.concat()
}

#[test]
fn only_the_operator_reads_what_a_source_said() {
    let (origin, receiver) = (Origin::start(), Receiver::start());
    let node = node(&receiver);
    // 1. A service of the node's network is named as the source, in each way that shows its response.
    let page = format!("<html>{SAID}</html>");
    let of_page = || Reply::page(200, "text/html", &page);
    let refused = Reply::page(403, "text/plain", SAID);
    push(&node, &origin, "digest", of_page(), None);
    push(&node, &origin, "length", of_page(), Some(page.len() + 1));
    push(&node, &origin, "status", refused, None);
    let part = format!("HTTP/1.1 206 Part\r\ncontent-range: {SAID}\r\ncontent-length: 1\r\n\r\nx");
    push(&node, &origin, "range", Reply::raw(part), None);
    let digest = crate::support::archive::md5(page.as_bytes());
    // 2. The operator reads it by socket, command line and log.
    for (name, secret) in [
        ("digest", SAID),
        ("digest", digest.as_str()),
        ("length", SAID),
        ("status", SAID),
        ("range", SAID),
    ] {
        let file = node.finish(name, "1");
        assert_eq!(file["state"], "failed", "{file}");
        assert!(file.to_string().contains(secret), "{file}");
        let shown = node.cli(&["show", APP, name, "1"]);
        let shown = String::from_utf8(shown.stdout).unwrap();
        assert!(shown.contains(secret), "{name}: {shown}");
        node.wait_for("the log", PATIENCE, || {
            let log = node.log();
            let ended = |line: &&str| line.contains("failed") && line.contains(name);
            log.lines()
                .filter(ended)
                .any(|l| l.contains(secret))
                .then_some(())
        });
    }
    // 3. Nobody else does.
    let mut told = over_tcp(&node);
    node.wait_for("the callbacks", PATIENCE, || {
        (receiver.of_type("edgepush.file.failed").len() >= 4).then_some(())
    });
    for delivery in receiver.seen() {
        told.push_str(&delivery.json().to_string());
    }
    for secret in [SAID, &digest] {
        let at = told.find(secret);
        let around = at.map(|at| &told[at.saturating_sub(300)..at + secret.len()]);
        assert!(at.is_none(), "{secret}: {around:?}");
    }
}
