//! How much of the disk a push may take: bytes of one archive, and partial archives of ended files.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::archive::{noise, site, tar, tar_gz};
use crate::support::disk::{Disk, may_mount};
use crate::support::node::{PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

const MIB: usize = 1 << 20;

fn partials(node: &TestNode) -> usize {
    let names = node.list("spool");
    names
        .iter()
        .filter(|name| name.ends_with(".partial"))
        .count()
}

/// An element that states neither size nor digest.
fn bare(name: &str, kind: &str, url: &str) -> Value {
    json!({ "name": name, "version": "1", "archiveType": kind, "url": url, "timeout": 60 })
}

#[test]
fn an_archive_ends_at_its_limit_whatever_its_push_and_its_origin_state() {
    let origin = Origin::start();
    let mut node = TestNode::new("[fetch]\nallow = [\"127.0.0.0/8\"]\nmax_bytes = \"1MiB\"\n");
    node.start();
    // 1. Archives that are fine, with zeros behind their end, and one that says how large it is.
    let mut padded_tar = tar(&site("1", 3));
    padded_tar.resize(3 * MIB, 0);
    let mut padded_gzip = tar_gz(&site("1", 3));
    padded_gzip.resize(3 * MIB, 0);
    let large = tar_gz(&[("noise".to_owned(), noise(2 * MIB, 1))]);
    origin.serve("/stated", Reply::file(&large));
    origin.serve("/announced", Reply::file(&large));
    origin.serve("/endless", Reply::file(&large).until_close());
    origin.serve("/tar", Reply::file(&padded_tar).chunked());
    origin.serve("/gzip", Reply::file(&padded_gzip).chunked());
    let url = |name: &str| origin.url(&format!("/{name}"));
    let items = [
        item("stated", "1", "tar.gz", &large, &url("stated")),
        bare("announced", "tar.gz", &url("announced")),
        bare("endless", "tar.gz", &url("endless")),
        bare("tar", "tar", &url("tar")),
        bare("gzip", "tar.gz", &url("gzip")),
    ];
    assert_eq!(node.push_codes(&items), [0; 5]);
    // 2. None takes more than the limit, and nothing of them stays.
    for name in ["stated", "announced", "endless", "tar", "gzip"] {
        let file = node.finish(name, "1");
        assert_eq!(file["failure"]["kind"], "archive-too-large", "{file}");
        assert_eq!(file["failure"]["limit"], "fetch.max_bytes", "{file}");
        assert_eq!(file["failure"]["expected"], MIB.to_string(), "{file}");
        assert!(file["received"].as_u64().unwrap() <= MIB as u64, "{file}");
    }
    assert!(origin.hits("/stated").is_empty());
    assert_eq!(partials(&node), 0);
}

#[test]
fn an_application_may_have_another_limit_for_its_archives() {
    let origin = Origin::start();
    let mut node = TestNode::new(
        "[fetch]\nallow = [\"127.0.0.0/8\"]\nmax_bytes = \"1KiB\"\n[apps.app-1]\nmax_archive_bytes = \"4MiB\"\n",
    );
    node.start();
    let archive = tar_gz(&[("noise".to_owned(), noise(MIB, 1))]);
    origin.serve("/f", Reply::file(&archive));
    node.push_codes(&[item("f", "1", "tar.gz", &archive, &origin.url("/f"))]);
    let file = node.finish("f", "1");
    assert_eq!(file["state"], "succeeded", "{file}");
}

/// Ends a file with a partial archive of half of `archive`.
fn end_halfway(node: &TestNode, origin: &Origin, archive: &[u8], item: Value) {
    let name = item["name"].as_str().unwrap().to_owned();
    let cut = Reply::file(archive).cut_at(archive.len() as u64 / 2);
    origin.script(&format!("/{name}"), [cut, Reply::status(404)]);
    assert_eq!(node.push_codes(&[item]), [0]);
    let file = node.finish(&name, "1");
    assert_eq!(file["failure"]["kind"], "http-404", "{file}");
}

#[test]
fn only_a_partial_archive_with_a_digest_is_kept_and_gc_removes_it() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    let archive = tar_gz(&[("noise".to_owned(), noise(6 * MIB, 2))]);
    let url = |name: &str| origin.url(&format!("/{name}"));
    end_halfway(
        &node,
        &origin,
        &archive,
        bare("bare", "tar.gz", &url("bare")),
    );
    assert_eq!(partials(&node), 0);
    let proven = item("proven", "1", "tar.gz", &archive, &url("proven"));
    end_halfway(&node, &origin, &archive, proven);
    assert_eq!(partials(&node), 1);
    node.wait_for("gc", PATIENCE, || {
        assert!(node.cli(&["gc"]).status.success());
        (partials(&node) == 0).then_some(())
    });
}

#[test]
fn partial_archives_of_ended_files_make_room_for_a_new_one() {
    if !may_mount("partial_archives_of_ended_files_make_room_for_a_new_one") {
        return;
    }
    let (disk, origin) = (Disk::tmpfs("size=48m"), Origin::start());
    let mut node = TestNode::with_root(&disk.path().join("data"), "");
    node.start();
    let archive = |seed| tar_gz(&[("noise".to_owned(), noise(14 * MIB, seed))]);
    for (n, name) in ["a", "b"].into_iter().enumerate() {
        let archive = archive(n as u64);
        let url = origin.url(&format!("/{name}"));
        let item = item(name, "1", "tar.gz", &archive, &url);
        end_halfway(&node, &origin, &archive, item);
    }
    assert_eq!(partials(&node), 2);
    let archive = archive(9);
    origin.serve("/new", Reply::file(&archive));
    // A partial archive that was written a moment ago is left alone: it may be of a file that has just
    // begun.
    node.wait_for("older partial archives", PATIENCE, || {
        let spool = node.root().join("spool");
        let is_old = |name: &String| {
            let written = std::fs::metadata(spool.join(name)).unwrap().modified();
            written.unwrap().elapsed().unwrap_or_default() > Duration::from_millis(1100)
        };
        node.list("spool").iter().all(is_old).then_some(())
    });
    node.push(&[item("new", "1", "tar.gz", &archive, &origin.url("/new"))]);
    let file = node.finish("new", "1");
    assert_eq!(file["state"], "succeeded", "{file}");
    assert!(partials(&node) < 2);
}
