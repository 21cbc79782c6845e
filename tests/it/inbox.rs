//! The inbox of push documents: each is admitted once, and each element has its own result.

use std::fs;
use std::os::unix::fs::symlink;

use edgepush::sys::durable;
use serde_json::{Value, json};

use crate::support::archive::{site, tar_gz};
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Gate, Origin, Reply};

/// Scans often, and waits for nobody to complete a document.
const EAGER: &str = "[watch]\npatience = \"1s\"\nlook_every = \"1s\"\n";

fn document(items: &[Value]) -> String {
    json!({ "AppId": APP, "Data": items }).to_string()
}

/// Puts a document into the inbox as a careful writer does.
fn put(node: &TestNode, name: &str, text: impl AsRef<[u8]>) {
    let inbox = node.root().join("inbox");
    let temporary = inbox.join(format!("{name}.part"));
    fs::write(&temporary, text).unwrap();
    durable::rename(&temporary, &inbox.join("new").join(name)).unwrap();
}

/// Waits for the result of a document in `done` or `failed`.
fn result(node: &TestNode, to: &str, name: &str) -> Value {
    let path = node.root().join(format!("inbox/{to}/{name}.result.json"));
    let text = node.wait_for(&format!("{}", path.display()), PATIENCE, || {
        fs::read(&path).ok()
    });
    serde_json::from_slice(&text).unwrap()
}

fn status(node: &TestNode) -> Value {
    node.ask("GET", "/v1/status", None).json()["inbox"].clone()
}

fn jobs(node: &TestNode) -> u64 {
    let files = node.ask("GET", "/v1/files?limit=1000", None).json();
    let ids = files["files"].as_array().unwrap().iter();
    let histories = ids.map(|file| {
        let target = format!("/v1/files/{}/history", file["id"]);
        node.ask("GET", &target, None).json()["total"]
            .as_u64()
            .unwrap()
    });
    histories.sum()
}

/// Story: 1. Documents with one bad element each arrive by the inbox and by the native API. 2. The bad
/// element is refused with its reason, its neighbours are published.
#[test]
fn one_bad_element_takes_no_neighbour_along() {
    let (origin, mut node) = (Origin::start(), TestNode::new(EAGER));
    let archive = tar_gz(&site("1", 5));
    origin.serve("/good", Reply::file(&archive));
    node.start();
    let with = |key: &str, value: Value| {
        let mut bad = item("bad", "1", "tar.gz", &archive, &origin.url("/good"));
        bad[key] = value;
        bad
    };
    let cases = [
        ("scheme", with("url", json!("ftp://h/x.tgz")), "Data[1].url"),
        ("local", with("url", json!("file:///x.zip")), "Data[1].url"),
        ("md5", with("md5", json!("zz")), "Data[1].md5"),
        ("type", with("archiveType", json!("rar")), "Data[1].archive"),
        ("key", with("colour", json!("red")), "unknown key `colour`"),
        ("version", with("version", Value::Null), "Data[1].version"),
        ("denied", with("url", json!("http://[::1]/x")), "policy"),
        ("array", json!([1]), "Data[1]: an array, expected an object"),
    ];
    for (name, bad, why) in &cases {
        let url = origin.url("/good");
        let [first, last] =
            ["a", "b"].map(|n| item(&format!("{name}-{n}"), "1", "tar.gz", &archive, &url));
        put(
            &node,
            &format!("{name}.json"),
            document(&[first, bad.clone(), last]),
        );
        let result = result(&node, "failed", name);
        let files = result["files"].as_array().unwrap();
        let codes: Vec<_> = files.iter().map(|f| f["code"].as_u64().unwrap()).collect();
        assert_eq!(codes, [0, 300, 0], "{result}");
        assert!(
            files[1]["message"].as_str().unwrap().contains(why),
            "{result}"
        );
        for good in [0, 2] {
            assert_eq!(files[good]["state"], "succeeded", "{result}");
        }
        if *name != "local" {
            let good = item(&format!("{name}-c"), "1", "tar.gz", &archive, &url);
            assert_eq!(node.push_codes(&[bad.clone(), good]), [300, 0], "{name}");
        }
    }
}

/// Story: 1. A document is in progress when the agent is killed. 2. The next start waits for its files
/// instead of admitting it again. 3. They end, and the document is done.
#[test]
fn a_restart_continues_with_a_document() {
    let (origin, mut node) = (Origin::start(), TestNode::new(EAGER));
    let archive = tar_gz(&site("1", 50));
    let gate = Gate::new();
    origin.serve("/a", Reply::file(&archive).hold_at(100, &gate));
    node.start();
    let element = item("a", "1", "tar.gz", &archive, &origin.url("/a"));
    put(&node, "push.json", document(&[element]));
    origin.wait_for_hits("/a", 1);
    assert_eq!(status(&node)["in_progress"], 1);
    for starts in 1..=2 {
        node.kill();
        node.start();
        node.wait_for("the document to be resumed", PATIENCE, || {
            (node.log().matches("inbox-resumed").count() == starts).then_some(())
        });
        assert_eq!(status(&node)["in_progress"], 1);
    }
    gate.open();
    let result = result(&node, "done", "push");
    assert_eq!(result["files"][0]["code"], 0, "{result}");
    assert_eq!(node.log().matches("inbox-taken").count(), 1);
    assert_eq!(node.log().matches("inbox-resumed").count(), 2);
    assert_eq!(jobs(&node), 1);
    assert!(node.list("inbox/new").is_empty());
}

/// Story: 1. Many documents of one name wait when the agent starts. 2. They are accepted in the order of
/// their names, so that the last version is live at the end.
#[test]
fn documents_are_accepted_in_their_order() {
    const COUNT: usize = 60;
    let (origin, mut node) = (Origin::start(), TestNode::new(EAGER));
    let archive = tar_gz(&site("1", 3));
    origin.serve("/a", Reply::file(&archive));
    node.start();
    assert!(node.stop().success());
    for n in 0..COUNT {
        let element = item(
            "a",
            &format!("{n:03}"),
            "tar.gz",
            &archive,
            &origin.url("/a"),
        );
        put(&node, &format!("{n:03}.json"), document(&[element]));
    }
    node.start();
    let mut accepted = Vec::new();
    for n in 0..COUNT {
        let result = result(&node, "done", &format!("{n:03}"));
        accepted.push(result["files"][0]["job"].as_u64().unwrap());
    }
    assert!(accepted.is_sorted(), "{accepted:?}");
    let live = fs::read_link(node.current("a")).unwrap();
    assert!(live.ends_with("059"), "{}", live.display());
}

/// Story: 1. A document's result cannot be written, also after a restart. 2. It is neither admitted nor
/// fetched again. 3. Once it can be written, the document ends; the same document may be pushed anew.
#[test]
fn a_result_that_cannot_be_written_admits_nothing_again() {
    let (origin, mut node) = (Origin::start(), TestNode::new(EAGER));
    let archive = tar_gz(&site("1", 5));
    origin.serve("/lost", Reply::status(404));
    origin.serve("/good", Reply::file(&archive));
    node.start();
    let failed = node.root().join("inbox/failed");
    fs::remove_dir(&failed).unwrap();
    fs::write(&failed, "in the way").unwrap();
    let lost = document(&[item("lost", "1", "tar.gz", &archive, &origin.url("/lost"))]);
    put(&node, "lost.json", &lost);
    let stuck = |node: &TestNode| {
        node.wait_for("the document to be stuck", PATIENCE, || {
            (status(node)["stuck"] == 1).then_some(())
        });
    };
    stuck(&node);
    // Other documents are scanned, admitted and done in the meantime.
    let good = document(&[item("good", "1", "tar.gz", &archive, &origin.url("/good"))]);
    put(&node, "good.json", good);
    result(&node, "done", "good");
    node.kill();
    // The agent makes the directories of the inbox when it starts.
    fs::remove_file(&failed).unwrap();
    symlink("/proc", &failed).unwrap();
    node.start();
    stuck(&node);
    assert_eq!((jobs(&node), origin.hits("/lost").len()), (2, 1));
    fs::remove_file(&failed).unwrap();
    fs::create_dir(&failed).unwrap();
    let ended = result(&node, "failed", "lost");
    assert_eq!(ended["files"][0]["failure"]["kind"], "http-404");
    node.wait_for("the document to leave", PATIENCE, || {
        (node.list("inbox/new").is_empty() && status(&node)["in_progress"] == 0).then_some(())
    });
    assert_eq!((jobs(&node), origin.hits("/lost").len()), (2, 1));
    assert_eq!(status(&node)["stuck"], 0);
    put(&node, "lost.json", &lost);
    origin.wait_for_hits("/lost", 2);
}

#[test]
fn a_mark_is_skipped_and_other_encodings_are_named() {
    let (origin, mut node) = (Origin::start(), TestNode::new(EAGER));
    let archive = tar_gz(&site("1", 5));
    origin.serve("/a", Reply::file(&archive));
    node.start();
    let text = document(&[item("a", "1", "tar.gz", &archive, &origin.url("/a"))]);
    put(&node, "mark.json", format!("\u{feff}{text}"));
    assert_eq!(result(&node, "done", "mark")["files"][0]["code"], 0);
    let utf16: Vec<u8> = format!("\u{feff}{text}")
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    put(&node, "utf16.json", utf16);
    let error = result(&node, "failed", "utf16")["error"].to_string();
    assert!(error.contains("UTF-16 (little-endian)"), "{error}");
}

/// Story: 1. A document is written in two steps, with a pause in the middle of a character. 2. It is taken
/// when it is complete.
#[test]
fn a_document_may_be_written_slowly() {
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[watch]\nlook_every = \"1s\"\n"),
    );
    let archive = tar_gz(&site("1", 5));
    origin.serve("/a", Reply::file(&archive));
    node.start();
    let text = document(&[item("ä", "1", "tar.gz", &archive, &origin.url("/a"))]);
    let path = node.root().join("inbox/new/slow.json");
    let half = text.find('ä').unwrap() + 1;
    let mut file = fs::File::create(&path).unwrap();
    std::io::Write::write_all(&mut file, &text.as_bytes()[..half]).unwrap();
    // A scan passes: it takes another document.
    let other = document(&[item("b", "1", "tar.gz", &archive, &origin.url("/a"))]);
    put(&node, "other.json", other);
    result(&node, "done", "other");
    std::io::Write::write_all(&mut file, &text.as_bytes()[half..]).unwrap();
    drop(file);
    assert_eq!(result(&node, "done", "slow")["files"][0]["name"], "ä");
}

#[test]
fn what_is_not_a_document_is_reported_once_and_counted() {
    let mut node = TestNode::new(EAGER);
    let new = node.root().join("inbox/new");
    fs::create_dir_all(new.join("directory.json")).unwrap();
    for name in ["PUSH.JSON", "push", ".hidden"] {
        fs::write(new.join(name), "{}").unwrap();
    }
    symlink(new.join("push"), new.join("link.json")).unwrap();
    node.start();
    node.wait_for("a line in the log", PATIENCE, || {
        node.log().contains("inbox-ignored").then_some(())
    });
    let seen = status(&node);
    assert_eq!(seen["ignored"], 4);
    let first = seen["ignored_first"].to_string();
    for want in [
        "`PUSH.JSON` (its name does not end",
        "`directory.json` (a directory)",
        "`link.json` (a link)",
        "`push` (its",
    ] {
        assert!(first.contains(want), "{first}");
    }
    let shown = String::from_utf8(node.cli(&["status"]).stdout).unwrap();
    assert!(shown.contains("4 ignored: `PUSH.JSON`"), "{shown}");
    let metrics = node.ask("GET", "/metrics", None).body;
    let metrics = String::from_utf8(metrics).unwrap();
    assert!(metrics.contains("edgepush_inbox_ignored 4"), "{metrics}");
    // Later scans add nothing: another entry has a line of its own, the old ones do not return.
    fs::write(new.join("other"), "{}").unwrap();
    node.wait_for("the second line", PATIENCE, || {
        (node.log().matches("inbox-ignored").count() == 2).then_some(())
    });
    assert_eq!(node.log().matches("PUSH.JSON").count(), 1);
}
