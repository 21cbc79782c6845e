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

/// Starts an agent that cannot run, and returns what it says.
fn fails_to_start(node: &mut TestNode) -> String {
    node.spawn();
    assert_ne!(node.wait_end().code(), Some(0));
    node.log()
}

#[test]
fn a_data_directory_that_cannot_be_used_is_described_in_words() {
    let link = |node: &TestNode, path: &Path| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(node.dir().join("not-mounted"), path).unwrap();
    };
    // 1. A link to nothing: the directory itself, or a part of it.
    for part in ["", "data", "spool"] {
        let mut node = TestNode::new("");
        let path = node.root().join(part);
        link(&node, path.components().as_path());
        let said = fails_to_start(&mut node);
        assert!(
            said.contains("is a symbolic link to") && said.contains("mount the disk"),
            "{said}"
        );
        assert!(
            doctor(&node).contains("is a symbolic link to"),
            "{}",
            doctor(&node)
        );
    }
    // 2. A file.
    let mut node = TestNode::new("");
    fs::write(node.root(), "x").unwrap();
    let said = fails_to_start(&mut node);
    assert!(said.contains("is not a directory: move it away"), "{said}");
    // 3. A disk that this process may not write to, as a unit without ReadWritePaths= makes it.
    if may_mount("a data directory that is read-only") {
        let mut node = TestNode::new("");
        let root = node.root().to_str().unwrap().to_owned();
        fs::create_dir(&root).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "ro", "none", &root]);
        let said = fails_to_start(&mut node);
        run("umount", &[&root]);
        assert!(said.contains(&format!("ReadWritePaths={root}")), "{said}");
    }
}

fn doctor(node: &TestNode) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_edgepush"))
        .args(["doctor", "--config"])
        .arg(node.config_file())
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_application_on_another_disk_or_behind_a_link_to_nothing_is_named() {
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[runner]\ndevice_retries = 0\n"),
    );
    node.start();
    let app = node.root().join("data").join(APP);
    fs::create_dir_all(&app).unwrap();
    std::os::unix::fs::symlink("/mnt/not-mounted", app.join("a")).unwrap();
    let failed = |version: &str, wanted: &str| {
        let element = push(&origin, version);
        assert_eq!(node.push_codes(&[element]), [0]);
        let file = node.finish("a", version);
        let said = file["failure"]["message"].as_str().unwrap_or_default();
        assert!(said.contains(wanted), "{file}");
        assert!(doctor(&node).contains(wanted), "{}", doctor(&node));
    };
    failed("1", "is a symbolic link to `/mnt/not-mounted`");
    fs::remove_file(app.join("a")).unwrap();
    if may_mount("an application on another disk") {
        let path = app.to_str().unwrap();
        run("mount", &["-t", "tmpfs", "none", path]);
        failed("2", "is on another file system than `staging`");
        run("umount", &[path]);
    }
}
