//! What a dead process left: however much it is, the next start answers at once, and deletes it in the background.

use std::fs;
use std::path::Path;

use crate::support::archive::{noise, site, tar, tar_gz};
use crate::support::disk::{Disk, may_mount};
use crate::support::node::{PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

/// Each deletion takes this long in `slow`, in microseconds: 1,000 of them are longer than a test waits for a start.
const SLOW: &str = "delay_enter=50000";

fn make_files(dir: &Path, count: usize, bytes: usize) {
    fs::create_dir_all(dir).unwrap();
    for n in 0..count {
        fs::write(dir.join(n.to_string()), vec![b'x'; bytes]).unwrap();
    }
}

fn publish(node: &TestNode, origin: &Origin, name: &str, archive: &[u8], kind: &str) {
    let path = format!("/{name}");
    origin.serve(&path, Reply::file(archive));
    let item = item(name, "1", kind, archive, &origin.url(&path));
    assert_eq!(node.push_codes(&[item]), [0]);
    let file = node.finish(name, "1");
    assert_eq!(file["state"], "succeeded", "{file}");
}

#[test]
fn a_start_with_many_leftovers_answers_at_once_and_deletes_them_later() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    node.start();
    node.kill();
    let own = |dir: &str| node.root().join(dir);
    make_files(&own("staging/1-0/tree"), 1000, 1);
    make_files(&own("staging"), 1000, 1);
    make_files(&own("trash/1/tree"), 1000, 1);
    for n in 0..1000 {
        let name = format!(".{n:032x}.meta.tmp-{n:016x}-0");
        fs::write(own("spool").join(name), "x").unwrap();
    }
    node.fail_calls("unlink,unlinkat,rmdir", SLOW, &[]);
    node.start();
    assert_eq!(node.list("staging"), [""; 0]);
    assert!(!node.list("trash").is_empty());
    publish(&node, &origin, "a", &tar_gz(&site("1", 3)), "tar.gz");
    assert!(node.stop().success());
    node.run_through(&[]);
    node.start();
    for dir in ["staging", "trash", "spool"] {
        let what = format!("{dir} to be empty");
        // The thread that deletes has the lowest priority there is.
        node.wait_for(&what, 4 * PATIENCE, || {
            node.list(dir).is_empty().then_some(())
        });
    }
}

/// 1. What a dead process left fills the disk. 2. A file that needs the space waits until it is deleted.
#[test]
fn a_file_waits_for_the_space_that_leftovers_still_take() {
    if !may_mount("a_file_waits_for_the_space_that_leftovers_still_take") {
        return;
    }
    let (origin, disk) = (Origin::start(), Disk::tmpfs("size=24m"));
    let config = "[publish]\nreserve = \"1B\"\n";
    let mut node = TestNode::with_root(&disk.path().join("data"), config);
    node.start();
    node.kill();
    make_files(&node.root().join("staging/1-0"), 14, 1 << 20);
    node.fail_calls("unlink,unlinkat,rmdir", "delay_enter=200000", &[]);
    node.start();
    let archive = tar(&[("big".to_owned(), noise(7 << 20, 1))]);
    publish(&node, &origin, "a", &archive, "tar");
}
