//! What a directory made in place would inherit, a published tree has: a default ACL for the web
//! server's user, and the group of a set-group-ID directory.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{XattrFlags, getxattr, setxattr};
use serde_json::Value;

use crate::support::archive::{noise, site, tar_gz, zip};
use crate::support::disk::{Disk, may_mount};
use crate::support::node::{APP, TestNode, item};
use crate::support::origin::{Origin, Reply};

const READER: u32 = 4001;
const GROUP: u32 = 4002;

/// An ACL as the kernel stores it: its owner may do everything, its group and `READER` read.
fn acl() -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    let nobody = u32::MAX;
    for (tag, permissions, id) in [
        (1u16, 7u16, nobody),
        (2, 5, READER),
        (4, 5, nobody),
        (16, 5, nobody),
        (32, 0, nobody),
    ] {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// What `READER` may do, after the mask: `None` if the ACL has no entry for it.
fn reader_may(path: &Path) -> Option<u16> {
    let mut bytes = [0u8; 256];
    let length = getxattr(path, "system.posix_acl_access", &mut bytes[..]).ok()?;
    let entries = bytes[4..length].chunks(8);
    let field = |entry: &[u8], at: usize| u16::from_le_bytes([entry[at], entry[at + 1]]);
    let of = |tag| entries.clone().find(|entry| field(entry, 0) == tag);
    let (user, mask) = (of(2)?, of(16)?);
    assert_eq!(u32::from_le_bytes(user[4..8].try_into().unwrap()), READER);
    Some(field(user, 2) & field(mask, 2))
}

fn publish(node: &TestNode, origin: &Origin, version: &str, kind: &str, files: usize) -> Value {
    let content = site(version, files);
    let archive = if kind == "zip" {
        zip(&content)
    } else {
        tar_gz(&content)
    };
    let path = format!("/{version}");
    origin.serve(&path, Reply::file(&archive));
    let item = item("a", version, kind, &archive, &origin.url(&path));
    assert_eq!(node.push_codes(std::slice::from_ref(&item)), [0]);
    let file = node.finish("a", version);
    assert_eq!(file["state"], "succeeded", "{file}");
    node.assert_tree("a", &content);
    item
}

fn below(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    let mut at = 0;
    while at < found.len() {
        if found[at].is_dir() {
            let entries = fs::read_dir(&found[at]).unwrap();
            found.extend(entries.map(|entry| entry.unwrap().path()));
        }
        at += 1;
    }
    found
}

/// Gives `dir` a default ACL, or the set-group-ID bit with another group.
fn mark(dir: &Path, with_acl: bool) {
    if with_acl {
        setxattr(dir, "system.posix_acl_default", &acl(), XattrFlags::empty()).unwrap();
    } else {
        chown(dir, None, Some(GROUP)).unwrap();
        fs::set_permissions(dir, fs::Permissions::from_mode(0o2755)).unwrap();
    }
}

fn check(tree: &Path, with_acl: bool) {
    for path in below(tree) {
        let shown = path.display();
        let meta = fs::metadata(&path).unwrap();
        if with_acl {
            let wanted = if path.is_dir() { 5 } else { 4 };
            assert_eq!(reader_may(&path), Some(wanted), "{shown}");
        } else {
            assert_eq!(meta.gid(), GROUP, "{shown}");
            assert_eq!(meta.mode() & 0o2000 != 0, path.is_dir(), "{shown}");
        }
    }
}

#[test]
fn a_published_tree_inherits_what_one_made_in_place_would() {
    if !may_mount("ACLs on an ext4 of its own") {
        return;
    }
    for with_acl in [true, false] {
        let disk = Disk::ext4("80M");
        let origin = Origin::start();
        let mut node = TestNode::with_root(
            &disk.path().join("data"),
            "[push]\nsmall_bytes = \"64KiB\"\n",
        );
        node.start();
        publish(&node, &origin, "1", "tar.gz", 5);
        let versions = node.root().join(format!("data/{APP}/a/versions"));
        assert_eq!(reader_may(&versions.join("1")), None);
        mark(&versions, with_acl);
        // Small and large, a stream and a zip, each by its own way of unpacking.
        let item = publish(&node, &origin, "2", "tar.gz", 5);
        publish(&node, &origin, "3", "zip", 5);
        publish(&node, &origin, "4", "tar.gz", 20_000);
        for version in ["2", "3", "4"] {
            check(&versions.join(version), with_acl);
        }
        // It is what its manifest says, and a repair makes it so again.
        assert!(node.cli(&["verify"]).status.success());
        fs::remove_file(versions.join("2/site/d01/f00001.txt")).unwrap();
        assert!(node.cli(&["verify", "--heal"]).status.success());
        check(&versions.join("2"), with_acl);
        assert!(node.cli(&["verify"]).status.success());
        // Nothing of it is left but the trees.
        let place = node.root().join(format!("data/{APP}/a/.staging"));
        assert!(!place.exists(), "{:?}", below(&place));
        let left: Vec<_> = fs::read_dir(&versions).unwrap().collect();
        assert_eq!(left.len(), 3, "{left:?}");
        // A name of an application that passes it on has it from its first version.
        mark(&node.root().join(format!("data/{APP}")), with_acl);
        let mut other = item.clone();
        other["name"] = "b".into();
        assert_eq!(node.push_codes(&[other]), [0]);
        assert_eq!(node.finish("b", "2")["state"], "succeeded");
        check(
            &node.root().join(format!("data/{APP}/b/versions/2")),
            with_acl,
        );
    }
}

#[test]
fn what_a_killed_attempt_left_in_place_is_gone_after_the_start() {
    if !may_mount("a set-group-ID directory on an ext4 of its own") {
        return;
    }
    let disk = Disk::ext4("80M");
    let origin = Origin::start();
    let mut node = TestNode::with_root(&disk.path().join("data"), "");
    node.start();
    publish(&node, &origin, "1", "tar.gz", 5);
    let name = node.root().join(format!("data/{APP}/a"));
    mark(&name.join("versions"), false);
    // Half of a large archive arrives, and the agent is killed.
    let content: Vec<_> = (0..400)
        .map(|n| (format!("site/{n}"), noise(5_000, n)))
        .collect();
    let archive = tar_gz(&content);
    origin.serve(
        "/2",
        Reply::file(&archive).stall_at(archive.len() as u64 / 2),
    );
    let second = item("a", "2", "tar.gz", &archive, &origin.url("/2"));
    assert_eq!(node.push_codes(&[second]), [0]);
    let place = name.join(".staging");
    node.wait_for("a tree in place", crate::support::node::PATIENCE, || {
        (below(&place).len() > 10).then_some(())
    });
    let wrapper = &below(&place)[1];
    let mode = fs::metadata(wrapper).unwrap().mode();
    assert_eq!(mode & 0o777, 0o700, "{}", wrapper.display());
    node.kill();
    origin.serve("/2", Reply::file(&archive));
    node.start();
    assert_eq!(node.finish("a", "2")["state"], "succeeded");
    node.assert_tree("a", &content);
    assert!(!place.exists());
    check(&name.join("versions/2"), false);
}
