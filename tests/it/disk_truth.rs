//! Partial restores and changes by hand: whatever the database says, what is whole on the disk is
//! known again, what readers see never goes back, and what was found is said in words.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::archive::{site, tar_gz};
use crate::support::disk::run;
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

const MANUAL: &str = "[runner]\nupkeep_every = \"1h\"\n";

fn element(origin: &Origin, name: &str, version: &str) -> Value {
    let archive = tar_gz(&site(version, 5));
    let path = format!("/{name}-{version}");
    origin.serve(&path, Reply::file(&archive));
    item(name, version, "tar.gz", &archive, &origin.url(&path))
}

fn publish(node: &TestNode, origin: &Origin, name: &str, version: &str) -> Value {
    let item = element(origin, name, version);
    assert_eq!(node.push_codes(std::slice::from_ref(&item)), [0]);
    let file = node.finish(name, version);
    assert_eq!(file["state"], "succeeded", "{file}");
    item
}

fn link(node: &TestNode, name: &str) -> String {
    let target = fs::read_link(node.current(name)).unwrap();
    target.to_str().unwrap().to_owned()
}

/// The versions of a name that the node knows, each with whether it is live and what is wrong.
fn known(node: &TestNode, name: &str) -> Vec<(String, bool, bool)> {
    let target = format!("/v1/releases?app={APP}&name={name}");
    let answer = node.ask("GET", &target, None).json();
    let mut rows: Vec<_> = answer["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let version = row["version"].as_str().unwrap().to_owned();
            (version, row["live"] == true, !row["damage"].is_null())
        })
        .collect();
    rows.sort();
    rows
}

fn wait_known(node: &TestNode, name: &str, wanted: &[(&str, bool, bool)]) {
    node.wait_for(&format!("{wanted:?}"), PATIENCE, || {
        let found = known(node, name);
        let found: Vec<_> = found.iter().map(|(v, l, d)| (v.as_str(), *l, *d)).collect();
        (found == wanted).then_some(())
    });
}

/// Waits for a finding of this kind, and returns its text.
fn wait_found(node: &TestNode, what: &str) -> String {
    node.wait_for(&format!("finding {what}"), PATIENCE, || {
        let status = node.ask("GET", "/v1/status", None).json();
        let mut found = status["findings"].as_array()?.clone().into_iter();
        let found = found.find(|finding| finding["what"] == what)?;
        Some(format!("{}: {}", found["on"], found["text"]))
    })
}

fn nothing_found(node: &TestNode, what: &str) {
    let status = node.ask("GET", "/v1/status", None).json();
    let found = status["findings"].as_array().cloned().unwrap_or_default();
    assert!(found.iter().all(|f| f["what"] != what), "{found:?}");
}

fn databases(node: &TestNode) -> Vec<PathBuf> {
    ["edgepush.db", "edgepush.db-wal", "edgepush.db-shm"]
        .map(|file| node.root().join(file))
        .into()
}

/// Copies the database of a stopped node aside.
fn back_up(node: &TestNode) -> PathBuf {
    let copy = node.dir().join("old.db");
    fs::copy(&databases(node)[0], &copy).unwrap();
    copy
}

fn lose_database(node: &TestNode) {
    for file in databases(node) {
        let _ = fs::remove_file(file);
    }
}

fn restore(node: &TestNode, copy: &Path) {
    lose_database(node);
    fs::copy(copy, &databases(node)[0]).unwrap();
}

fn lose(node: &TestNode, part: &str) {
    fs::remove_dir_all(node.root().join(part)).unwrap();
}

fn recover(node: &TestNode) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_edgepush"))
        .args(["recover", "--config"])
        .arg(node.config_file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn an_old_database_rolls_nothing_back_and_learns_what_is_newer() {
    for by_command in [true, false] {
        let (origin, mut node) = (Origin::start(), TestNode::new(MANUAL));
        node.start();
        publish(&node, &origin, "a", "1");
        // A job that is open in the old database, and long outdated when it is restored.
        let second = element(&origin, "a", "2");
        origin.serve("/a-2", Reply::silent());
        assert_eq!(node.push_codes(&[second]), [0]);
        origin.wait_for_hits("/a-2", 1);
        node.kill();
        let copy = back_up(&node);
        for end in ["-wal", "-shm"] {
            let (from, to) = (
                node.root().join(format!("edgepush.db{end}")),
                node.dir().join(format!("old.db{end}")),
            );
            let _ = fs::copy(from, to);
        }
        element(&origin, "a", "2");
        node.start();
        node.finish("a", "2");
        publish(&node, &origin, "a", "3");
        publish(&node, &origin, "other", "1");
        node.stop();

        restore(&node, &copy);
        for end in ["-wal", "-shm"] {
            let _ = fs::copy(
                node.dir().join(format!("old.db{end}")),
                node.root().join(format!("edgepush.db{end}")),
            );
        }
        if by_command {
            let said = recover(&node);
            assert!(said.contains("2 versions entered"), "{said}");
            assert!(said.contains("`current` leads to it"), "{said}");
        }
        node.start();
        wait_known(
            &node,
            "a",
            &[("1", false, false), ("2", false, false), ("3", true, false)],
        );
        wait_known(&node, "other", &[("1", true, false)]);
        assert_eq!(node.finish("a", "2")["state"], "succeeded");
        assert_eq!(link(&node, "a"), "versions/3");
        node.assert_tree("a", &site("3", 5));
        if !by_command {
            assert!(wait_found(&node, "recovered").contains("on the disk"));
            assert!(node.log().contains("event=\"recovered\""), "{}", node.log());
        }
        assert!(!node.log().contains("link-mended"), "{}", node.log());
        // What is pushed from now on is newer than everything.
        publish(&node, &origin, "a", "4");
        assert_eq!(link(&node, "a"), "versions/4");
        assert!(node.cli(&["rollback", APP, "a"]).status.success());
        assert_eq!(link(&node, "a"), "versions/3");
    }
}

#[test]
fn a_database_without_trees_gets_them_back_from_the_archives() {
    let (origin, mut node) = (Origin::start(), TestNode::new(MANUAL));
    node.start();
    publish(&node, &origin, "a", "1");
    publish(&node, &origin, "a", "2");
    node.stop();
    lose(&node, "data");
    node.start();
    let whole = [("1", false, false), ("2", true, false)];
    node.wait_for("the tree", PATIENCE, || {
        node.current("a").join("site").is_dir().then_some(())
    });
    wait_known(&node, "a", &whole);
    node.assert_tree("a", &site("2", 5));
    assert_eq!(origin.all_hits().len(), 2);
    node.stop();
    // Without the archives it is said what is missing, and a push brings it back.
    lose(&node, "data");
    lose(&node, "archives");
    node.start();
    wait_known(&node, "a", &[("1", false, true), ("2", true, true)]);
    assert!(wait_found(&node, "damaged").contains("push it again"));
    let second = element(&origin, "a", "2");
    assert_eq!(node.push_codes(&[second]), [0]);
    assert_eq!(node.finish("a", "2")["state"], "succeeded");
    node.assert_tree("a", &site("2", 5));
}

#[test]
fn trees_without_manifests_are_left_to_their_readers() {
    let (origin, mut node) = (Origin::start(), TestNode::new(MANUAL));
    node.start();
    publish(&node, &origin, "a", "1");
    node.stop();
    let copy = back_up(&node);
    node.start();
    let second = publish(&node, &origin, "a", "2");
    node.stop();
    // 1. What the database knows is made whole again from the archive.
    lose(&node, "manifests");
    node.start();
    let manifest = |v: &str| node.root().join(format!("manifests/{APP}/a/{v}.json"));
    node.wait_for("the manifests", PATIENCE, || {
        (manifest("1").exists() && manifest("2").exists()).then_some(())
    });
    wait_known(&node, "a", &[("1", false, false), ("2", true, false)]);
    node.stop();
    // 2. What it does not know stays where it is, and readers keep it; with an old database or none.
    for old in [true, false] {
        fs::remove_file(node.root().join(format!("manifests/{APP}/a/2.json"))).unwrap();
        match old {
            true => restore(&node, &copy),
            false => lose_database(&node),
        }
        node.start();
        let said = wait_found(&node, "unknown-version-live");
        assert!(
            said.contains("versions/2") && said.contains("push"),
            "{said}"
        );
        wait_known(&node, "a", &[("1", old, false)]);
        assert_eq!(link(&node, "a"), "versions/2");
        node.assert_tree("a", &site("2", 5));
        // Neither upkeep nor a verification changes that.
        assert!(node.cli(&["gc"]).status.success());
        node.cli(&["verify"]);
        assert_eq!(link(&node, "a"), "versions/2");
        assert_eq!(node.push_codes(std::slice::from_ref(&second)), [0]);
        assert_eq!(node.finish("a", "2")["state"], "succeeded");
        wait_known(&node, "a", &[("1", false, false), ("2", true, false)]);
        assert!(node.cli(&["gc"]).status.success());
        nothing_found(&node, "unknown-version-live");
        node.stop();
    }
}

#[test]
fn manifests_or_archives_alone_are_named_and_kept() {
    let (origin, mut node) = (Origin::start(), TestNode::new(MANUAL));
    node.start();
    publish(&node, &origin, "a", "1");
    node.stop();
    lose_database(&node);
    lose(&node, "data");
    let said = recover(&node);
    assert!(
        said.contains("0 versions entered") && said.contains("manifest"),
        "{said}"
    );
    node.start();
    assert!(wait_found(&node, "lone-manifest").contains("push it again"));
    node.stop();
    lose(&node, "manifests");
    node.start();
    assert!(wait_found(&node, "lone-archive").contains("push it again"));
    assert!(node.root().join(format!("archives/{APP}/a/1")).exists());
    publish(&node, &origin, "a", "1");
    assert!(node.cli(&["gc"]).status.success());
    nothing_found(&node, "lone-archive");
}

#[test]
fn a_link_by_hand_to_a_version_that_the_database_lost_is_the_truth() {
    let (origin, mut node) = (Origin::start(), TestNode::new(MANUAL));
    node.start();
    for version in ["1", "2", "3"] {
        publish(&node, &origin, "a", version);
    }
    node.stop();
    lose_database(&node);
    // However the link is spelled.
    let spellings = [
        "versions/2".to_owned(),
        "./versions/2/".to_owned(),
        format!("{}/data/{APP}/a/versions/2", node.root().display()),
    ];
    for target in spellings {
        fs::remove_file(node.current("a")).unwrap();
        symlink(&target, node.current("a")).unwrap();
        node.start();
        wait_known(
            &node,
            "a",
            &[("1", false, false), ("2", true, false), ("3", false, false)],
        );
        node.wait_for("the link in our spelling", PATIENCE, || {
            (link(&node, "a") == "versions/2").then_some(())
        });
        node.assert_tree("a", &site("2", 5));
        node.stop();
        lose_database(&node);
    }
}

#[test]
fn a_version_that_was_restored_in_part_is_found_and_repaired() {
    let (origin, mut node) = (Origin::start(), TestNode::new(MANUAL));
    node.start();
    publish(&node, &origin, "a", "1");
    let copy = {
        node.stop();
        back_up(&node)
    };
    node.start();
    publish(&node, &origin, "a", "2");
    node.stop();
    restore(&node, &copy);
    fs::remove_file(node.current("a").join("site/d01/f00001.txt")).unwrap();
    node.start();
    node.wait_for("the file", PATIENCE, || {
        node.current("a")
            .join("site/d01/f00001.txt")
            .exists()
            .then_some(())
    });
    wait_known(&node, "a", &[("1", false, false), ("2", true, false)]);
    node.assert_tree("a", &site("2", 5));
}

#[test]
fn what_is_no_link_is_set_aside_and_the_push_on_top_is_live() {
    let (origin, mut node) = (Origin::start(), TestNode::new(MANUAL));
    node.start();
    publish(&node, &origin, "a", "1");
    let second = publish(&node, &origin, "a", "2");
    let current = node.current("a");
    let name_dir = current.parent().unwrap().to_owned();
    let outside = node.dir().join("elsewhere");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("theirs"), "theirs").unwrap();
    let first = name_dir.join("versions/1");
    let first = first.to_str().unwrap();
    type Make<'a> = &'a dyn Fn(&Path);
    let makes: [(&str, Make<'_>); 4] = [
        ("a directory", &|to| {
            run("cp", &["-a", first, to.to_str().unwrap()])
        }),
        ("a strange directory", &|to| fs::create_dir(to).unwrap()),
        ("a file", &|to| fs::write(to, "what").unwrap()),
        ("a foreign link", &|to| symlink(&outside, to).unwrap()),
    ];
    // In one step, so that no check comes in between.
    let put = |make: Make<'_>| {
        let new = name_dir.join(".new");
        make(&new);
        edgepush::sys::durable::exchange(&new, &current).unwrap();
        fs::remove_file(&new).unwrap();
    };
    for (n, (what, make)) in makes.into_iter().enumerate() {
        // 1. A push of what is recorded as live is never "there already" to no effect.
        put(make);
        let answers = node.push(std::slice::from_ref(&second));
        assert_eq!(answers[0]["code"], 100, "{what}");
        let said = answers[0]["message"].as_str().unwrap();
        // The check after an earlier push may have restored it meanwhile.
        assert!(
            !said.contains("published and live") || link(&node, "a") == "versions/2",
            "{what}: {said}"
        );
        node.wait_for(what, PATIENCE, || {
            (fs::read_link(&current).ok()? == Path::new("versions/2")).then_some(())
        });
        node.assert_tree("a", &site("2", 5));
        // 2. A push of another version goes live.
        put(make);
        let version = format!("{}", 10 + n);
        publish(&node, &origin, "a", &version);
        node.assert_tree("a", &site(&version, 5));
        // 3. Whatever stood there is kept and shown.
        let aside = fs::read_dir(&name_dir).unwrap();
        let aside = aside.filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("current.set-aside-")
        });
        assert_eq!(aside.count(), 2 * (n + 1), "{what}");
        assert!(node.cli(&["gc"]).status.success());
        assert!(wait_found(&node, "set-aside").contains("current.set-aside-1"));
        let answers = node.push(std::slice::from_ref(&second));
        assert_eq!(answers[0]["code"], 100, "{what}");
        node.wait_for(what, PATIENCE, || {
            let live = known(&node, "a").contains(&("2".to_owned(), true, false));
            (live && link(&node, "a") == "versions/2").then_some(())
        });
    }
    assert!(outside.join("theirs").exists());
}

#[test]
fn a_copy_that_followed_links_is_recognised_as_the_version_that_readers_see() {
    let (origin, mut node) = (Origin::start(), TestNode::new(MANUAL));
    node.start();
    publish(&node, &origin, "a", "1");
    node.stop();
    let copy = back_up(&node);
    node.start();
    publish(&node, &origin, "a", "2");
    node.stop();
    // The restore: an old database, and a directory where the link was.
    restore(&node, &copy);
    let current = node.current("a");
    let tree = fs::canonicalize(&current).unwrap();
    fs::remove_file(&current).unwrap();
    run(
        "cp",
        &["-rL", tree.to_str().unwrap(), current.to_str().unwrap()],
    );
    node.start();
    wait_known(&node, "a", &[("1", false, false), ("2", true, false)]);
    assert_eq!(link(&node, "a"), "versions/2");
    assert!(wait_found(&node, "set-aside").contains("set aside"));
}
