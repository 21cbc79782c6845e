//! A data directory that changes under a running agent: it is noticed, pushes are refused with the
//! reason, and the next start works on what is there then.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::archive::{site, tar_gz};
use crate::support::disk::{may_mount, run};
use crate::support::http;
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

/// What is done to the data directory, and a part of the reason that is given.
type Fate = (&'static str, fn(&Path), &'static str);

#[expect(clippy::disallowed_methods, reason = "what somebody else does")]
fn rename(from: &Path, to: std::path::PathBuf) {
    fs::rename(from, to).unwrap();
}

fn aside(root: &Path) -> std::path::PathBuf {
    root.with_file_name("aside")
}

const FATES: [Fate; 6] = [
    (
        "moved",
        |root| rename(root, aside(root)),
        "was moved, removed or unmounted",
    ),
    (
        "moved, and a copy in its place",
        |root| {
            rename(root, aside(root));
            let (from, to) = (aside(root), root.to_owned());
            run("cp", &["-a", from.to_str().unwrap(), to.to_str().unwrap()]);
        },
        "was replaced by another one",
    ),
    (
        "removed",
        |root| fs::remove_dir_all(root).unwrap(),
        "was moved, removed or unmounted",
    ),
    (
        "wiped",
        |root| {
            for entry in fs::read_dir(root).unwrap() {
                let path = entry.unwrap().path();
                let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
            }
        },
        "edgepush.db` was moved, removed or unmounted",
    ),
    (
        "without its trees",
        |root| rename(&root.join("data"), aside(root)),
        "data/data` was moved, removed or unmounted",
    ),
    (
        "mounted over",
        |root| run("mount", &["-t", "tmpfs", "none", root.to_str().unwrap()]),
        "another file system was mounted over",
    ),
];

fn push(origin: &Origin, version: &str) -> Value {
    let archive = tar_gz(&site(version, 3));
    let path = format!("/{version}");
    origin.serve(&path, Reply::file(&archive));
    item("a", version, "tar.gz", &archive, &origin.url(&path))
}

#[test]
fn a_data_directory_that_changes_under_the_agent_is_noticed_and_ends_it() {
    std::thread::scope(|scope| {
        for fate in FATES {
            scope.spawn(move || suffers(fate));
        }
    });
}

fn suffers((what, fate, reason): Fate) {
    let is_mount = what == "mounted over";
    if is_mount && !may_mount("a data directory that is mounted over") {
        return;
    }
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let first = push(&origin, "1");
    assert_eq!(node.push_codes(&[first]), [0]);
    node.finish("a", "1");

    fate(node.root());
    // A push is refused at once, before the next regular check.
    let second = push(&origin, "2");
    let document = json!({ "AppId": APP, "Data": [second] });
    let refused = node.ask("POST", "/v1/pushes", Some(&document));
    let said = String::from_utf8_lossy(&refused.body).into_owned();
    assert!(
        refused.status == 503 && said.contains(reason),
        "{what}: {said}"
    );
    let unready = node.wait_for("the agent to be not ready", PATIENCE, || {
        let answer = http::unix(&node.socket(), "GET", "/readyz?verbose", None).ok()?;
        (answer.status == 503).then(|| String::from_utf8_lossy(&answer.body).into_owned())
    });
    assert!(unready.contains(reason), "{what}: {unready}");
    let ended = node.wait_end();
    assert_eq!(ended.code(), Some(1), "{what}");

    // The next start works with what is there now.
    node.start();
    let third = push(&origin, "3");
    assert_eq!(node.push_codes(&[third]), [0], "{what}");
    assert_eq!(node.finish("a", "3")["state"], "succeeded", "{what}");
    node.assert_tree("a", &site("3", 3));
    node.stop();
    if is_mount {
        run("umount", &[node.root().to_str().unwrap()]);
    }
}
