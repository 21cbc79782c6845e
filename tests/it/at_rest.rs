//! Published trees at rest: damage is found, told and healed; a lost database is rebuilt from what is on the disk.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::archive::{site, tar_gz, zip};
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};
use crate::support::receiver::Receiver;

/// A tree with a link in it.
fn archive_with_link(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    use std::io::Write;
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder
            .append_data(&mut header, path, content.as_slice())
            .unwrap();
    }
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    builder
        .append_link(&mut header, "site/link", "d00/f00000.txt")
        .unwrap();
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    out.write_all(&builder.into_inner().unwrap()).unwrap();
    out.finish().unwrap()
}

fn publish(node: &TestNode, origin: &Origin, name: &str, kind: &str, archive: &[u8]) -> Value {
    let path = format!("/{name}");
    origin.serve(&path, Reply::file(archive));
    let item = item(name, "1", kind, archive, &origin.url(&path));
    assert_eq!(node.push_codes(std::slice::from_ref(&item)), [0]);
    let file = node.finish(name, "1");
    assert_eq!(file["state"], "succeeded", "{file}");
    item
}

fn verify(node: &TestNode, arguments: &[&str]) -> (bool, Value) {
    let output = node.cli(&[&["verify", "--json"], arguments].concat());
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    (output.status.success(), found["trees"][0].clone())
}

/// Does something to a tree.
type Damage = Box<dyn Fn(&Path)>;

/// Each kind of damage, and the word it is found by.
fn damages() -> Vec<(&'static str, Damage)> {
    let file = |tree: &Path| tree.join("site/d01/f00001.txt");
    vec![
        (
            "content",
            Box::new(move |tree: &Path| {
                let path = file(tree);
                let mut bytes = fs::read(&path).unwrap();
                bytes[0] ^= 1;
                fs::write(path, bytes).unwrap();
            }),
        ),
        (
            "size",
            Box::new(move |tree: &Path| fs::write(file(tree), "cut").unwrap()),
        ),
        (
            "missing",
            Box::new(move |tree: &Path| fs::remove_file(file(tree)).unwrap()),
        ),
        (
            "extra",
            Box::new(|tree: &Path| fs::write(tree.join("site/added"), "x").unwrap()),
        ),
        (
            "mode",
            Box::new(move |tree: &Path| {
                fs::set_permissions(file(tree), fs::Permissions::from_mode(0o777)).unwrap();
            }),
        ),
        (
            "link",
            Box::new(|tree: &Path| {
                fs::remove_file(tree.join("site/link")).unwrap();
                std::os::unix::fs::symlink("d02/f00002.txt", tree.join("site/link")).unwrap();
            }),
        ),
        (
            "kind",
            Box::new(move |tree: &Path| {
                fs::remove_file(file(tree)).unwrap();
                fs::create_dir(file(tree)).unwrap();
            }),
        ),
    ]
}

#[test]
fn every_kind_of_damage_is_found_and_healed_without_a_download() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let files = site("1", 10);
    let archive = archive_with_link(&files);
    publish(&node, &origin, "a", "tar.gz", &archive);
    let hits = origin.all_hits().len();
    for (what, damage) in damages() {
        damage(&fs::canonicalize(node.current("a")).unwrap());
        let (whole, tree) = verify(&node, &[]);
        assert!(!whole, "{what}");
        let told = tree["damage"].to_string();
        assert!(
            told.contains(&format!(" {what}: ")) || told.contains(&format!(": {what}: ")),
            "{what}: {told}"
        );
        assert_eq!(node.file("a", "1").unwrap()["release"]["live"], true);
        let (healed, tree) = verify(&node, &["--heal"]);
        assert!(healed && tree["healed"] == true, "{what}: {tree}");
        assert!(verify(&node, &[]).0, "{what}");
        assert!(node.file("a", "1").unwrap()["release"]["damage"].is_null());
        assert_eq!(
            fs::read(node.current("a").join("site/link")).unwrap(),
            files[0].1
        );
        assert!(node.list("staging").is_empty());
    }
    // The tree, or the manifest, is gone altogether.
    let tree = fs::canonicalize(node.current("a")).unwrap();
    fs::remove_dir_all(&tree).unwrap();
    assert!(verify(&node, &["--heal"]).0);
    assert!(tree.join("site/link").exists());
    let manifest = node.root().join(format!("manifests/{APP}/a/1.json"));
    fs::write(&manifest, "{\"format\":1").unwrap();
    assert!(!verify(&node, &[]).0);
    assert!(verify(&node, &["--heal"]).0);
    fs::remove_file(&manifest).unwrap();
    assert!(verify(&node, &["--heal"]).0);
    assert!(manifest.exists());
    assert_eq!(origin.all_hits().len(), hits, "the origin was asked");
}

#[test]
fn a_damaged_archive_is_not_used_and_a_push_of_the_same_content_heals() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let files = site("1", 10);
    let archive = zip(&files);
    let push = publish(&node, &origin, "a", "zip", &archive);
    let kept = node.root().join(format!("archives/{APP}/a/1"));
    let mut bytes = fs::read(&kept).unwrap();
    bytes[100] ^= 1;
    fs::write(&kept, bytes).unwrap();
    fs::remove_file(node.current("a").join("site/d01/f00001.txt")).unwrap();
    let (healed, tree) = verify(&node, &["--heal"]);
    assert!(!healed && tree["healed"] == false, "{tree}");
    // Until it is marked, a push of it is answered as published; now it is taken.
    assert_eq!(node.push_codes(&[push]), [0]);
    assert_eq!(node.finish("a", "1")["state"], "succeeded");
    node.assert_tree("a", &files);
    assert_eq!(
        fs::read(&kept).unwrap(),
        archive,
        "the archive is sound again as well"
    );
    assert_eq!(origin.hits("/a").len(), 2);
    assert!(verify(&node, &[]).0);
}

#[test]
fn a_push_of_a_damaged_version_needs_no_origin_where_its_archive_is_kept() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let files = site("1", 10);
    let push = publish(&node, &origin, "a", "zip", &zip(&files));
    fs::remove_file(node.current("a").join("site/d01/f00001.txt")).unwrap();
    assert!(!verify(&node, &[]).0);
    origin.refuse_connections(true);
    assert_eq!(node.push_codes(&[push]), [0]);
    let file = node.finish("a", "1");
    assert_eq!(file["state"], "succeeded", "{file}");
    assert_eq!(file["published"]["fetched"], 0, "{file}");
    node.assert_tree("a", &files);
}

#[test]
fn a_push_of_a_version_that_was_changed_on_the_disk_heals_it() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let files = site("1", 10);
    let archive = archive_with_link(&files);
    // Only a reader of every byte can tell that the content changed and nothing else: that is left to the scrub.
    let damages: Vec<_> = damages()
        .into_iter()
        .filter(|(what, _)| *what != "content")
        .collect();
    for (what, damage) in &damages {
        let push = publish(&node, &origin, what, "tar.gz", &archive);
        damage(&fs::canonicalize(node.current(what)).unwrap());
        assert_eq!(node.push_codes(&[push]), [100], "{what}");
    }
    for (what, _) in &damages {
        node.wait_for(&format!("the end of: {what}"), PATIENCE, || {
            let path = format!("data={APP}/{what}@1");
            let log = node.log();
            let mut healed = log.lines().filter(|l| l.contains("event=\"healed\""));
            healed.any(|l| l.contains(&path)).then_some(())
        });
        assert!(node.file(what, "1").unwrap()["release"]["damage"].is_null());
        assert_eq!(origin.hits(&format!("/{what}")).len(), 1, "{what}");
    }
    assert!(node.cli(&["verify"]).status.success());
}

#[test]
fn a_push_of_a_changed_version_without_an_archive_fetches_it_again() {
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[publish]\nkeep_archives = false\n"),
    );
    node.start();
    let files = site("1", 10);
    let push = publish(&node, &origin, "a", "zip", &zip(&files));
    let pushes = || {
        let push = std::slice::from_ref(&push);
        let code = node.push_codes(push)[0];
        // Once the damage is known a push repairs it: the first is accepted, and those after it find it in progress.
        assert!([0, 100, 200].contains(&code), "{code}");
    };
    // Each time the file goes it comes back by a push, but the tree is left alone for a while after each check.
    let file = "site/d01/f00001.txt";
    for fetched in [2, 3] {
        let tree = fs::canonicalize(node.current("a")).unwrap();
        fs::remove_file(tree.join(file)).unwrap();
        (0..100).for_each(|_| pushes());
        node.wait_for("the file to be as it was", PATIENCE, || {
            (fs::read(node.current("a").join(file)).ok()? == files[1].1).then_some(())
        });
        node.assert_tree("a", &files);
        assert_eq!(node.finish("a", "1")["state"], "succeeded");
        assert_eq!(origin.hits("/a").len(), fetched);
    }
    assert!(node.cli(&["verify"]).status.success());
    let id = node.file("a", "1").unwrap()["id"].clone();
    let events = node
        .ask("GET", &format!("/v1/files/{id}/events?all=true"), None)
        .json();
    let events = events["events"].as_array().unwrap();
    let found: Vec<i64> = events
        .iter()
        .filter(|event| event["type"] == "damaged")
        .map(|event| event["ts_ms"].as_i64().unwrap())
        .collect();
    assert_eq!(found.len(), 2, "{events:?}");
    assert!(found[1] - found[0] >= 5_000, "{found:?}");
}

#[test]
fn the_background_scrub_finds_tells_and_heals() {
    let (origin, receiver) = (Origin::start(), Receiver::start());
    let secrets = tempfile::tempdir().unwrap();
    let secret = secrets.path().join("secret");
    fs::write(&secret, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let mut node = TestNode::new(&format!(
        "[runner]\nscrub_every = \"200ms\"\nscrub_rate = \"4MiB\"\n[[report.endpoints]]\nname = \"t\"\nurl = {:?}\nsecret_files = [{secret:?}]\n",
        receiver.url()
    ));
    node.start();
    let files = site("1", 10);
    publish(&node, &origin, "a", "tar.gz", &tar_gz(&files));
    let path = fs::canonicalize(node.current("a"))
        .unwrap()
        .join("site/d01/f00001.txt");
    fs::write(&path, "not what was pushed").unwrap();
    node.wait_for("the file to be as it was", PATIENCE, || {
        (fs::read(&path).ok()? == files[1].1).then_some(())
    });
    node.assert_tree("a", &files);
    node.wait_for("two callbacks", PATIENCE, || {
        let damaged = receiver.of_type("edgepush.file.damaged");
        let healed = receiver.of_type("edgepush.file.healed");
        (damaged.len() == 1 && healed.len() == 1).then_some(())
    });
    let data = &receiver.of_type("edgepush.file.damaged")[0].json()["data"];
    assert_eq!(
        (&data["name"], &data["live"]),
        (&json!("a"), &json!(true)),
        "{data}"
    );
    assert!(
        data["damage"].as_str().unwrap().contains("f00001"),
        "{data}"
    );
    assert!(node.log().contains("event=\"damaged\"") && node.log().contains("event=\"healed\""));
}

#[test]
fn foreign_files_are_in_nobodys_way() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    publish(&node, &origin, "a", "tar.gz", &tar_gz(&site("1", 5)));
    let place = node.root().join(format!("data/{APP}/a"));
    fs::write(place.join("README"), "somebody's").unwrap();
    fs::create_dir_all(place.join("versions/2/theirs")).unwrap();
    fs::write(place.join("versions/2/theirs/x"), "x").unwrap();
    let archive = zip(&site("2", 5));
    origin.serve("/2", Reply::file(&archive));
    let second = item("a", "2", "zip", &archive, &origin.url("/2"));
    assert_eq!(node.push_codes(&[second]), [0]);
    let file = node.finish("a", "2");
    assert_eq!(file["state"], "succeeded", "{file}");
    node.assert_tree("a", &site("2", 5));
    assert!(place.join("README").exists());
    assert!(node.log().contains("foreign-tree"));
    assert!(node.list("staging").is_empty());
}

fn database(node: &TestNode) -> [PathBuf; 3] {
    ["edgepush.db", "edgepush.db-wal", "edgepush.db-shm"].map(|f| node.root().join(f))
}

/// Versions as (version, live).
fn known(node: &TestNode) -> Vec<(String, bool)> {
    let answer = node
        .ask("GET", &format!("/v1/releases?app={APP}&name=a"), None)
        .json();
    let mut rows: Vec<_> = answer["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| (r["version"].as_str().unwrap().to_owned(), r["live"] == true))
        .collect();
    rows.sort();
    rows
}

#[test]
fn a_lost_or_corrupt_database_is_rebuilt_from_the_disk() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let mut items = Vec::new();
    for version in ["1", "2", "3"] {
        let archive = tar_gz(&site(version, 5));
        let path = format!("/{version}");
        origin.serve(&path, Reply::file(&archive));
        let item = item("a", version, "tar.gz", &archive, &origin.url(&path));
        assert_eq!(node.push_codes(std::slice::from_ref(&item)), [0]);
        node.finish("a", version);
        items.push(item);
    }
    assert!(node.cli(&["activate", APP, "a", "2"]).status.success());
    let before = known(&node);
    assert_eq!(before.iter().filter(|(_, live)| *live).count(), 1);
    node.stop();
    let hits = origin.all_hits().len();

    // 1. Lost: by the command, or by the next start alone.
    for by_command in [true, false] {
        for file in database(&node) {
            let _ = fs::remove_file(file);
        }
        if by_command {
            recover(&node, true);
        }
        node.start();
        node.wait_for("the versions to be known", PATIENCE, || {
            (known(&node) == before).then_some(())
        });
        node.assert_tree("a", &site("2", 5));
        node.stop();
    }

    // 2. Corrupt: the agent refuses to guess, and says what to do.
    let [db, wal, shm] = database(&node);
    let _ = fs::remove_file(wal);
    let _ = fs::remove_file(shm);
    let mut bytes = fs::read(&db).unwrap();
    for page in bytes.chunks_mut(4096).skip(1) {
        page.fill(0xa5);
    }
    fs::write(&db, bytes).unwrap();
    node.spawn();
    assert!(!node.wait_end().success());
    assert!(node.log().contains("edgepush recover"), "{}", node.log());
    recover(&node, true);
    node.start();
    assert_eq!(known(&node), before);
    node.assert_tree("a", &site("2", 5));

    // 3. It goes on where it was: nothing is fetched again, and what is newer wins.
    assert_eq!(node.push_codes(&items[2..]), [100]);
    node.wait_for("version 3 to be live", PATIENCE, || {
        known(&node).contains(&("3".to_owned(), true)).then_some(())
    });
    assert_eq!(origin.all_hits().len(), hits);
    assert!(node.cli(&["verify"]).status.success());
    assert!(node.cli(&["rollback", APP, "a"]).status.success());
}

fn recover(node: &TestNode, success: bool) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_edgepush"))
        .args(["recover", "--config"])
        .arg(node.config_file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.success(), success, "{said}");
}
