//! The main job, end to end: a real agent, a real origin, real kills.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use serde_json::json;

use crate::support::archive::{md5, site, tar_gz, zip};
use crate::support::node::{TestNode, item};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::receiver::Receiver;

#[test]
fn publishes_both_kinds_and_answers_100_the_next_time() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let files = site("1", 50);
    let (a, b) = (tar_gz(&files), zip(&files));
    origin.serve("/a", Reply::file(&a));
    origin.serve("/b", Reply::file(&b));
    node.start();
    let items = [
        item("a/x", "1", "tar.gz", &a, &origin.url("/a")),
        item("b", "1", "zip", &b, &origin.url("/b")),
    ];
    assert_eq!(node.push_codes(&items), [0, 0]);
    for name in ["a/x", "b"] {
        let file = node.finish(name, "1");
        assert_eq!(file["state"], "succeeded", "{file}");
        node.assert_tree(name, &files);
    }
    let hits = origin.all_hits().len();
    assert_eq!(node.push_codes(&items), [100, 100]);
    assert_eq!(origin.all_hits().len(), hits, "nothing is fetched again");
    assert!(node.list("staging").is_empty());
}

#[test]
fn a_wrong_digest_publishes_nothing_and_the_right_one_may_follow() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let files = site("1", 5);
    let archive = tar_gz(&files);
    origin.serve("/a", Reply::file(&archive));
    node.start();
    let good = item("a", "1", "tar.gz", &archive, &origin.url("/a"));
    let mut bad = good.clone();
    bad["md5"] = json!("0".repeat(32));
    node.push(&[bad]);
    let file = node.finish("a", "1");
    assert_eq!(file["state"], "failed");
    let failure = &file["failure"];
    assert_eq!(failure["kind"], "digest-mismatch", "{failure}");
    assert_eq!(
        (&failure["expected"], &failure["found"]),
        (&json!("0".repeat(32)), &json!(md5(&archive)))
    );
    assert!(!node.current("a").exists());
    assert!(node.list("staging").is_empty());
    assert!(origin.all_hits().len() <= 2, "one clean refetch at most");
    assert_eq!(node.push_codes(&[good]), [0]);
    assert_eq!(node.finish("a", "1")["state"], "succeeded");
    node.assert_tree("a", &files);
}

#[test]
fn a_stalled_file_holds_up_no_other() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let files = site("1", 20);
    let archive = tar_gz(&files);
    let gate = Gate::new();
    for n in 0..8 {
        origin.serve(
            &format!("/slow{n}"),
            Reply::file(&archive).hold_at(100, &gate),
        );
    }
    origin.serve("/quick", Reply::file(&archive));
    node.start();
    let slow: Vec<_> = (0..8)
        .map(|n| {
            item(
                &format!("slow{n}"),
                "1",
                "tar.gz",
                &archive,
                &origin.url(&format!("/slow{n}")),
            )
        })
        .collect();
    node.push(&slow);
    node.push(&[item(
        "quick",
        "1",
        "tar.gz",
        &archive,
        &origin.url("/quick"),
    )]);
    assert_eq!(node.finish("quick", "1")["state"], "succeeded");
    assert!(!node.current("slow0").exists());
    gate.open();
    for n in 0..8 {
        assert_eq!(node.finish(&format!("slow{n}"), "1")["state"], "succeeded");
    }
}

#[test]
fn goes_on_after_a_kill_with_one_status_and_one_signed_callback_per_file() {
    let (origin, receiver) = (Origin::start(), Receiver::start());
    let secret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
    let secrets = tempfile::tempdir().unwrap();
    let file = secrets.path().join("secret");
    std::fs::write(&file, secret).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut node = TestNode::new(&format!(
        "[[report.endpoints]]\nname = \"test\"\nurl = {:?}\nsecret_files = [{file:?}]\n",
        receiver.url()
    ));
    let files = site("1", 1200);
    let (a, b) = (tar_gz(&files), zip(&files));
    let gate = Gate::new();
    // 1. Both transfers stand still in the middle.
    origin.script(
        "/a",
        [
            Reply::file(&a).hold_at(a.len() as u64 / 2, &gate),
            Reply::file(&a),
        ],
    );
    origin.script(
        "/b",
        [
            Reply::file(&b).hold_at(b.len() as u64 / 2, &gate),
            Reply::file(&b),
        ],
    );
    node.start();
    let items = [
        item("a", "1", "tar.gz", &a, &origin.url("/a")),
        item("b", "1", "zip", &b, &origin.url("/b")),
    ];
    assert_eq!(node.push_codes(&items), [0, 0]);
    origin.wait_for_hits("/a", 1);
    origin.wait_for_hits("/b", 1);
    // 2. The agent is killed there, and started again.
    node.kill();
    gate.open();
    node.start();
    // 3. Both files end by themselves, with the right trees.
    for name in ["a", "b"] {
        assert_eq!(node.finish(name, "1")["state"], "succeeded");
        node.assert_tree(name, &files);
    }
    // 4. One `published` callback per file, signed.
    node.wait_for(
        "two published callbacks",
        crate::support::node::PATIENCE,
        || (receiver.of_type("edgepush.file.published").len() >= 2).then_some(()),
    );
    let mut ids: Vec<String> = receiver
        .of_type("edgepush.file.published")
        .iter()
        .map(|d| d.header("webhook-id").to_owned())
        .collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 2, "one published event per file");
    for delivery in receiver.seen() {
        assert!(is_signed(&delivery, secret), "{delivery:?}");
    }
    assert!(node.list("staging").is_empty());
}

/// Checks a signature by the words of the Standard Webhooks specification, independently of the sender's code.
fn is_signed(delivery: &crate::support::receiver::Delivery, secret: &str) -> bool {
    use base64::Engine as _;
    use hmac::{KeyInit, Mac};
    let base64 = base64::engine::general_purpose::STANDARD;
    let key = base64.decode(secret.trim_start_matches("whsec_")).unwrap();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(
        format!(
            "{}.{}.",
            delivery.header("webhook-id"),
            delivery.header("webhook-timestamp")
        )
        .as_bytes(),
    );
    mac.update(&delivery.body);
    let want = format!("v1,{}", base64.encode(mac.finalize().into_bytes()));
    delivery
        .header("webhook-signature")
        .split(' ')
        .any(|s| s == want)
}

#[test]
fn a_digest_that_nobody_had_asked_for_is_found_out_when_one_is_stated() {
    use crate::support::archive::sha256;
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let archive = tar_gz(&site("1", 5));
    origin.serve("/a", Reply::file(&archive));
    node.start();
    // 1. The first push states no SHA-256.
    let plain = item("a", "1", "tar.gz", &archive, &origin.url("/a"));
    node.push(std::slice::from_ref(&plain));
    assert_eq!(node.finish("a", "1")["state"], "succeeded");
    // 2. A push with another one is another content, with both digests in the answer.
    let mut other = plain.clone();
    other["sha256"] = json!("0".repeat(64));
    let answer = &node.push(&[other.clone()])[0];
    assert_eq!(answer["code"], 300, "{answer}");
    let text = answer["message"].as_str().unwrap();
    assert!(
        text.contains(&sha256(&archive)) && text.contains(&"0".repeat(64)),
        "{text}"
    );
    // 3. With the right one it is the same content, and nothing was fetched.
    other["sha256"] = json!(sha256(&archive));
    assert_eq!(node.push_codes(&[other]), [100]);
    assert_eq!(origin.hits("/a").len(), 1);
}

#[test]
fn only_the_agent_may_read_a_signed_url_and_only_until_the_job_ends() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let archive = tar_gz(&site("1", 2000));
    let gate = Gate::new();
    origin.serve("/a", Reply::file(&archive).hold_at(1000, &gate));
    node.start();
    // 1. While the job is open, its URL is in the database and its journal, and nobody else can open those.
    let url = format!("{}?sign=VERY-SECRET", origin.url("/a"));
    node.push(&[item("a", "1", "tar.gz", &archive, &url)]);
    origin.wait_for_hits("/a", 1);
    let holders = files_with(&node, b"VERY-SECRET");
    assert!(!holders.is_empty());
    for path in &holders {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("edgepush.db"), "{}", path.display());
        let mode = std::fs::metadata(path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", path.display());
    }
    // 2. After a crash the job goes on with it.
    node.kill();
    gate.open();
    node.start();
    assert_eq!(node.finish("a", "1")["state"], "succeeded");
    // 3. Once the job has ended and the journal is folded in, it is nowhere.
    node.stop();
    assert_eq!(files_with(&node, b"VERY-SECRET"), Vec::<PathBuf>::new());
}

/// Returns the files in the data directory itself that hold `text`.
fn files_with(node: &TestNode, text: &[u8]) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap();
        bytes.windows(text.len()).any(|w| w == text)
    };
    let files = std::fs::read_dir(node.root())
        .unwrap()
        .map(|e| e.unwrap().path());
    files.filter(|f| f.is_file() && holds(f)).collect()
}

#[test]
fn a_file_that_is_not_there_leaves_nothing() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    origin.serve("/a", Reply::status(404));
    node.start();
    let gone =
        json!({ "name": "a", "version": "1", "archiveType": "tar.gz", "url": origin.url("/a") });
    node.push(&[gone]);
    assert_eq!(node.finish("a", "1")["failure"]["kind"], "http-404");
    for dir in ["spool", "staging", "archives", "manifests", "data"] {
        assert_eq!(node.list(dir), Vec::<String>::new(), "{dir}");
    }
}
