//! A version is not taken from under its readers: not soon after it was live, and not while a
//! process is in it.

use std::process::{Child, Command, Stdio};

use crate::support::archive::{site, tar_gz};
use crate::support::disk::may_mount;
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

const ONE: &str = "[publish]\nkeep_versions = 1\n[runner]\nupkeep_every = \"1h\"\n";

fn publish(node: &TestNode, origin: &Origin, version: &str) {
    let archive = tar_gz(&site(version, 3));
    let path = format!("/{version}");
    origin.serve(&path, Reply::file(&archive));
    let item = item("a", version, "tar.gz", &archive, &origin.url(&path));
    assert_eq!(node.push_codes(&[item]), [0]);
    assert_eq!(node.finish("a", version)["state"], "succeeded");
}

fn versions(node: &TestNode) -> Vec<String> {
    node.list(&format!("data/{APP}/a/versions"))
}

fn collect(node: &TestNode) {
    assert!(node.cli(&["gc"]).status.success());
}

#[test]
fn what_was_live_stays_for_a_while() {
    let (origin, mut node) = (Origin::start(), TestNode::new(ONE));
    node.set_env("EDGEPUSH_PUBLISH__KEEP_FOR", "1h");
    node.start();
    for version in ["1", "2", "3", "4"] {
        publish(&node, &origin, version);
    }
    collect(&node);
    assert_eq!(versions(&node), ["1", "2", "3", "4"]);
    // By hand it goes at once.
    assert!(node.cli(&["rm", APP, "a", "2"]).status.success());
    assert_eq!(versions(&node), ["1", "3", "4"]);
    node.stop();
    node.set_env("EDGEPUSH_PUBLISH__KEEP_FOR", "0s");
    node.start();
    collect(&node);
    assert_eq!(versions(&node), ["3", "4"], "the live one and the previous");
}

struct Reader(Child);

impl Drop for Reader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(command: &mut Command) -> Reader {
    let started = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    Reader(started.unwrap())
}

#[test]
fn what_a_process_is_in_stays_until_it_leaves() {
    let (origin, mut node) = (Origin::start(), TestNode::new(ONE));
    node.start();
    publish(&node, &origin, "1");
    let mut readers = vec![start(
        Command::new("sleep")
            .arg("600")
            .current_dir(node.current("a")),
    )];
    if may_mount("a mount of a version") {
        publish(&node, &origin, "2");
        let mount = node.dir().join("mount");
        std::fs::create_dir(&mount).unwrap();
        let script = format!(
            "mount --bind {} {} && cd / && touch {} && exec sleep 600",
            node.current("a").display(),
            mount.display(),
            node.dir().join("mounted").display()
        );
        let mut command = Command::new("unshare");
        readers.push(start(
            command.args(["-m", "sh", "-c", &script]).current_dir("/"),
        ));
        node.wait_for("the mount", PATIENCE, || {
            node.dir().join("mounted").exists().then_some(())
        });
    }
    for version in ["3", "4", "5"] {
        publish(&node, &origin, version);
    }
    collect(&node);
    let mut kept = versions(&node);
    kept.retain(|version| version != "4" && version != "5");
    assert_eq!(
        kept.len(),
        readers.len(),
        "{:?}\n{}",
        versions(&node),
        node.log()
    );
    for (version, reader) in kept.iter().zip(&readers) {
        let removed = node.cli(&["rm", APP, "a", version]);
        let said = String::from_utf8_lossy(&removed.stderr).into_owned();
        let wanted = format!("process {}", reader.0.id());
        assert!(
            !removed.status.success() && said.contains(&wanted),
            "{said}"
        );
        assert!(node.log().contains(&wanted), "{}", node.log());
    }
    drop(readers);
    node.wait_for("the versions to go", PATIENCE, || {
        collect(&node);
        (versions(&node) == ["4", "5"]).then_some(())
    });
}
