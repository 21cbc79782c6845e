//! What becomes live, when, by whom: and never an older push over a newer one.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::support::archive::{site, tar_gz};
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::receiver::Receiver;

fn element(origin: &Origin, version: &str) -> Value {
    let archive = tar_gz(&site(version, 5));
    let path = format!("/a-{version}");
    origin.serve(&path, Reply::file(&archive));
    item("a", version, "tar.gz", &archive, &origin.url(&path))
}

fn publish(node: &TestNode, origin: &Origin, version: &str) -> Value {
    assert_eq!(node.push_codes(&[element(origin, version)]), [0]);
    let file = node.finish("a", version);
    assert_eq!(file["state"], "succeeded", "{file}");
    file
}

fn flips(node: &TestNode) -> Vec<Value> {
    let answer = node.ask("GET", &format!("/v1/activations?app={APP}&name=a"), None);
    assert_eq!(answer.status, 200);
    answer.json()["activations"].as_array().unwrap().clone()
}

fn row(flip: &Value) -> (&str, &str, &str) {
    let text = |key: &str| flip[key].as_str().unwrap_or("-");
    (text("from_version"), text("version"), text("reason"))
}

fn name() -> Value {
    json!({"app": APP, "name": "a"})
}

fn which(version: &str) -> Value {
    json!({"app": APP, "name": "a", "version": version})
}

#[test]
fn every_change_of_what_is_live_is_in_the_log_and_reported() {
    let (origin, receiver) = (Origin::start(), Receiver::start());
    let secrets = tempfile::tempdir().unwrap();
    let mut node = TestNode::new(&receiver_config(&receiver, &secrets));
    node.start();
    publish(&node, &origin, "1");
    publish(&node, &origin, "2");
    let hits = origin.all_hits().len();
    // 1. Back, to another one, and back by a push of what is there: none of it needs the network.
    assert_eq!(node.ask("POST", "/v1/rollback", Some(&name())).status, 200);
    node.assert_tree("a", &site("1", 5));
    assert_eq!(
        node.ask("POST", "/v1/activate", Some(&which("2"))).status,
        200
    );
    node.assert_tree("a", &site("2", 5));
    assert_eq!(node.push_codes(&[element(&origin, "1")]), [100]);
    node.wait_for("the flip back", PATIENCE, || {
        (flips(&node).len() == 5 && flips(&node)[0]["done_ms"].is_number()).then_some(())
    });
    node.assert_tree("a", &site("1", 5));
    assert_eq!(origin.all_hits().len(), hits, "a flip has asked the origin");
    // 2. Who, why, from, to, when.
    let log = flips(&node);
    let rows: Vec<_> = log.iter().rev().map(row).collect();
    let wanted = [
        ("-", "1", "push"),
        ("1", "2", "push"),
        ("2", "1", "rollback"),
        ("1", "2", "activate"),
        ("2", "1", "repush"),
    ];
    assert_eq!(rows, wanted);
    for flip in &log {
        assert!(
            flip["done_ms"].as_i64() >= flip["requested_ms"].as_i64(),
            "{flip}"
        );
        assert!(!flip["actor"].as_str().unwrap().is_empty(), "{flip}");
    }
    assert!(log.iter().any(|f| f["job"].is_number()));
    // 3. Each is reported.
    node.wait_for("five callbacks", PATIENCE, || {
        let activated = receiver.of_type("edgepush.file.activated").len();
        let back = receiver.of_type("edgepush.file.rolled_back").len();
        ((activated, back) == (4, 1)).then_some(())
    });
    let back = &receiver.of_type("edgepush.file.rolled_back")[0].json()["data"];
    assert_eq!(
        (&back["from_version"], &back["version"]),
        (&json!("2"), &json!("1"))
    );
}

#[test]
fn a_link_that_was_lost_or_changed_by_hand_is_noticed() {
    let origin = Origin::start();
    let mut node = TestNode::new("[runner]\nupkeep_every = \"1s\"\n");
    node.start();
    publish(&node, &origin, "1");
    publish(&node, &origin, "2");
    let link = node.current("a");
    let right = std::fs::read_link(&link).unwrap();
    let put = |target: Option<&str>| {
        std::fs::remove_file(&link).unwrap();
        if let Some(target) = target {
            std::os::unix::fs::symlink(target, &link).unwrap();
        }
    };
    let mended = || {
        node.wait_for("the link", PATIENCE, || {
            (std::fs::read_link(&link).ok().as_ref() == Some(&right)).then_some(())
        });
    };
    // 1. Gone, or to nowhere: the next round of upkeep makes it anew, and nothing new is live.
    for target in [None, Some("versions/zzz"), Some("/etc")] {
        put(target);
        mended();
        node.assert_tree("a", &site("2", 5));
    }
    assert_eq!(flips(&node).len(), 2);
    // 2. To another published version: that one is live, and the log says why.
    put(Some("versions/1"));
    node.wait_for("the record", PATIENCE, || {
        (row(&flips(&node)[0]) == ("2", "1", "recover")).then_some(())
    });
    // 3. Whoever says what is to be live has it at once.
    let activated = node.ask("POST", "/v1/activate", Some(&which("1")));
    assert_eq!(activated.status, 200);
    node.stop();
    put(None);
    node.start();
    node.wait_for("the link at the start", PATIENCE, || {
        std::fs::read_link(&link).is_ok().then_some(())
    });
    node.assert_tree("a", &site("1", 5));
}

#[test]
fn to_activate_what_is_live_restores_its_link() {
    let origin = Origin::start();
    let mut node = TestNode::new("[runner]\nupkeep_every = \"1h\"\n");
    node.start();
    publish(&node, &origin, "1");
    publish(&node, &origin, "2");
    let link = node.current("a");
    let right = std::fs::read_link(&link).unwrap();
    for target in [None, Some("versions/1")] {
        std::fs::remove_file(&link).unwrap();
        if let Some(target) = target {
            std::os::unix::fs::symlink(target, &link).unwrap();
        }
        let activated = node.ask("POST", "/v1/activate", Some(&which("2")));
        assert_eq!(activated.status, 200);
        assert_eq!(std::fs::read_link(&link).unwrap(), right);
    }
    assert_eq!(flips(&node).len(), 2);
}

fn receiver_config(receiver: &Receiver, dir: &tempfile::TempDir) -> String {
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    format!(
        "[[report.endpoints]]\nname = \"test\"\nurl = {:?}\nsecret_files = [{secret:?}]\n",
        receiver.url()
    )
}

#[test]
fn a_flip_touches_the_link_and_no_tree() {
    use std::os::unix::fs::MetadataExt;
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    publish(&node, &origin, "1");
    publish(&node, &origin, "2");
    drop(origin);
    // When each file and directory of both versions was last changed, as the file system has it.
    let trees = || -> Vec<(PathBuf, u64, i64, i64)> {
        let mut left = vec![node.root().join(format!("data/{APP}/a/versions"))];
        let mut found = Vec::new();
        while let Some(path) = left.pop() {
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            }
            found.push((path, meta.ino(), meta.ctime(), meta.ctime_nsec()));
        }
        found.sort();
        found
    };
    let before = trees();
    for n in 0..10 {
        let version = if n % 2 == 0 { "1" } else { "2" };
        assert_eq!(
            node.ask("POST", "/v1/activate", Some(&which(version)))
                .status,
            200
        );
        node.assert_tree("a", &site(version, 5));
    }
    assert_eq!(trees(), before);
}

#[test]
fn by_hand_means_that_nothing_becomes_live_by_itself() {
    let extra = "[intake]\nactivate = \"manual\"\n[apps.at-once]\nactivate = \"auto\"\n";
    let (origin, mut node) = (Origin::start(), TestNode::new(extra));
    node.start();
    publish(&node, &origin, "1");
    assert!(!node.current("a").exists());
    assert_eq!(node.push_codes(&[element(&origin, "1")]), [100]);
    assert!(
        !node.current("a").exists(),
        "a second push is no activation either"
    );
    assert!(node.cli(&["activate", APP, "a", "1"]).status.success());
    node.assert_tree("a", &site("1", 5));
    publish(&node, &origin, "2");
    node.assert_tree("a", &site("1", 5));
    // The application that differs.
    let push = json!({"AppId": "at-once", "Data": [element(&origin, "3")]});
    assert_eq!(node.ask("POST", "/v1/pushes", Some(&push)).status, 200);
    let current = node.root().join("data/at-once/a/current");
    node.wait_for("its version to be live", PATIENCE, || {
        current.exists().then_some(())
    });
}

#[test]
fn an_older_push_that_ends_later_does_not_become_live() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let old = tar_gz(&site("1", 300));
    let gate = Gate::new();
    origin.serve("/old", Reply::file(&old).hold_at(100, &gate));
    assert_eq!(
        node.push_codes(&[item("a", "1", "tar.gz", &old, &origin.url("/old"))]),
        [0]
    );
    origin.wait_for_hits("/old", 1);
    publish(&node, &origin, "2");
    node.assert_tree("a", &site("2", 5));
    // 1. The older one ends: it is published, and not live, also after a kill.
    gate.open();
    let file = node.finish("a", "1");
    assert_eq!(file["state"], "succeeded", "{file}");
    assert_eq!(file["release"]["live"], false, "{file}");
    node.assert_tree("a", &site("2", 5));
    node.kill();
    node.start();
    node.assert_tree("a", &site("2", 5));
    // 2. The same where an operator's flip is the newer word.
    let third = tar_gz(&site("3", 5));
    let gate = Gate::new();
    origin.serve("/third", Reply::file(&third).hold_at(10, &gate));
    assert_eq!(
        node.push_codes(&[item("a", "3", "tar.gz", &third, &origin.url("/third"))]),
        [0]
    );
    origin.wait_for_hits("/third", 1);
    assert_eq!(
        node.ask("POST", "/v1/activate", Some(&which("1"))).status,
        200
    );
    gate.open();
    node.finish("a", "3");
    node.assert_tree("a", &site("1", 300));
    let rows = flips(&node);
    let rows: Vec<_> = rows.iter().rev().map(row).collect();
    assert_eq!(rows, [("-", "2", "push"), ("2", "1", "activate")]);
}

#[test]
fn two_applications_with_the_same_names_stay_apart() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let apps = ["one", "two", "three"];
    for app in apps {
        let items: Vec<_> = (0..3)
            .map(|n| {
                let archive = tar_gz(&site(&format!("{app}-{n}"), 5));
                let path = format!("/{app}-{n}");
                origin.serve(&path, Reply::file(&archive));
                item(
                    &format!("n{n}"),
                    "1",
                    "tar.gz",
                    &archive,
                    &origin.url(&path),
                )
            })
            .collect();
        let answer = node.ask(
            "POST",
            "/v1/pushes",
            Some(&json!({"AppId": app, "Data": items})),
        );
        assert_eq!(answer.status, 200);
    }
    for app in apps {
        for n in 0..3 {
            let root = node.root().join(format!("data/{app}/n{n}/current"));
            node.wait_for("a version to be live", PATIENCE, || {
                root.exists().then_some(())
            });
            crate::support::node::assert_tree(&root, &site(&format!("{app}-{n}"), 5));
        }
        let target = format!("/v1/files?app={app}");
        let files = node.ask("GET", &target, None).json();
        assert_eq!(files["total"], 3, "{files}");
    }
    // What is done to one does nothing to the others.
    let body = json!({"app": "one", "name": "n0"});
    assert_ne!(node.ask("POST", "/v1/rollback", Some(&body)).status, 200);
    for app in ["two", "three"] {
        assert!(node.root().join(format!("data/{app}/n0/current")).exists());
    }
}

#[test]
fn odd_names_end_in_their_own_escaped_place() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let long = "l".repeat(300);
    let long_other = format!("{}x", "l".repeat(299));
    let umlauts = "ä".repeat(150);
    // Each with its component as it has to be, where that is not a digest's.
    let table: [(&str, Option<&str>); 16] = [
        ("a/b", Some("a%2Fb")),
        ("a%2Fb", Some("a%252Fb")),
        ("../../etc/passwd", Some("%2E.%2F..%2Fetc%2Fpasswd")),
        ("..", Some("%2E.")),
        (".", Some("%2E")),
        (".hidden", Some("%2Ehidden")),
        ("Case", Some("Case")),
        ("case", Some("case")),
        ("current", Some("current")),
        ("versions", Some("versions")),
        ("with space", Some("with%20space")),
        ("köln", Some("k%C3%B6ln")),
        ("测试", Some("%E6%B5%8B%E8%AF%95")),
        (&long, None),
        (&long_other, None),
        (&umlauts, None),
    ];
    let items: Vec<_> = table
        .iter()
        .enumerate()
        .map(|(n, (name, _))| {
            let archive = tar_gz(&site(&n.to_string(), 3));
            let path = format!("/{n}");
            origin.serve(&path, Reply::file(&archive));
            item(name, name, "tar.gz", &archive, &origin.url(&path))
        })
        .collect();
    assert_eq!(node.push_codes(&items), [0; 16]);
    let mut places = std::collections::BTreeSet::new();
    for (n, (name, component)) in table.iter().enumerate() {
        let file = node.finish(name, name);
        assert_eq!(file["state"], "succeeded", "{file}");
        assert_eq!(file["name"], *name);
        let escaped = edgepush::datafile::path_component(name);
        if let Some(component) = component {
            assert_eq!(escaped, *component);
        }
        assert!(escaped.len() <= 200);
        let place = node.root().join("data").join(APP).join(&escaped);
        let link = std::fs::read_link(place.join("current")).unwrap();
        assert_eq!(link, std::path::Path::new("versions").join(&escaped));
        node.assert_tree(name, &site(&n.to_string(), 3));
        places.insert(place);
    }
    assert_eq!(places.len(), table.len(), "two names share a place");
    assert_eq!(node.list(&format!("data/{APP}")).len(), table.len());
    assert_eq!(node.list("data"), [APP]);
    assert!(node.cli(&["verify"]).status.success());
    // Restarted without its database it finds all of them again.
    node.stop();
    for file in ["edgepush.db", "edgepush.db-wal", "edgepush.db-shm"] {
        let _ = std::fs::remove_file(node.root().join(file));
    }
    node.start();
    for (name, _) in table {
        node.wait_for("a name to be known again", PATIENCE, || {
            let file = node.file(name, name)?;
            (file["release"]["live"] == true).then_some(())
        });
    }
}
