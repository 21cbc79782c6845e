//! A long life: many pushes leave neither memory nor disk behind, and the last is as quick as the first.

use std::fs;
use std::time::{Duration, Instant};

use crate::support::archive::{md5, noise, sha256, tar};
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

fn size_of(dir: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let mut sum = 0;
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        sum += if meta.is_dir() {
            size_of(&entry.path())
        } else {
            meta.blocks() * 512
        };
    }
    sum
}

fn number(name: &str) -> Option<usize> {
    std::env::var(name).ok()?.parse().ok()
}

/// 2,000 pushes of 5 MiB with `EDGEPUSH_TEST_LONG=1`; `EDGEPUSH_TEST_PUSHES` and `EDGEPUSH_TEST_KIB` set other figures.
#[test]
fn many_pushes_leave_nothing_behind() {
    let long = std::env::var("EDGEPUSH_TEST_LONG").as_deref() == Ok("1");
    let pushes = number("EDGEPUSH_TEST_PUSHES").unwrap_or(if long { 2000 } else { 120 });
    let kib = number("EDGEPUSH_TEST_KIB").unwrap_or(if long { 5 * 1024 } else { 64 });
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[publish]\nkeep_versions = 2\n"),
    );
    // As the shipped unit has it.
    node.set_env("MALLOC_ARENA_MAX", "2");
    node.set_env("MALLOC_MMAP_THRESHOLD_", "131072");
    node.start();
    let mut early = 0;
    let mut times = Vec::new();
    for n in 1..=pushes {
        let content = noise(kib * 1024 / 8, n as u64);
        let files: Vec<_> = (0..8).map(|f| (format!("f{f}"), content.clone())).collect();
        let archive = tar(&files);
        let path = format!("/{n}");
        origin.serve(&path, Reply::file(&archive));
        let version = n.to_string();
        let started = Instant::now();
        let item = item("a", &version, "tar", &archive, &origin.url(&path));
        assert_eq!(item["md5"], md5(&archive));
        assert_eq!(node.push_codes(&[item]), [0]);
        assert_eq!(node.finish("a", &version)["state"], "succeeded");
        times.push(started.elapsed());
        if n == 50 {
            early = node.memory().0;
        }
        if n % 250 == 0 {
            eprintln!("after {n}: {} KiB", node.memory().0 >> 10);
        }
        // The origin of this test would remember every archive.
        origin.serve(&path, Reply::status(404));
    }
    let late = node.memory().0;
    let mean =
        |part: &[Duration]| part.iter().sum::<Duration>() / u32::try_from(part.len()).unwrap();
    let (first, last) = (mean(&times[10..60]), mean(&times[pushes - 50..]));
    node.wait_for("old versions to go", PATIENCE, || {
        let there = node.list(&format!("data/{APP}/a/versions"));
        (there.len() == 2 && node.list("trash").is_empty()).then_some(())
    });
    let disk = size_of(node.root());
    let database: u64 = ["edgepush.db", "edgepush.db-wal"]
        .map(|f| fs::metadata(node.root().join(f)).map_or(0, |m| m.len()))
        .iter()
        .sum();
    eprintln!(
        "{pushes} pushes of {kib} KiB: RSS {early} bytes after 50, {late} at the end; {first:?} a push at first, {last:?} at the end; database {database} bytes, all {disk} bytes"
    );
    // Two trees, two archives, and the database.
    let wanted = 4 * (kib as u64 + 64) * 1024 + database + (1 << 20);
    assert!(
        disk <= wanted,
        "{disk} bytes are in use, {wanted} were expected"
    );
    assert!(
        database <= (6 << 20) + pushes as u64 * 8192,
        "the database has {database} bytes"
    );
    if long {
        assert!(
            last <= first * 3 / 2,
            "{first:?} a push have become {last:?}"
        );
        assert!(
            late <= early + early / 10,
            "{early} bytes have become {late}"
        );
    } else {
        // Few pushes: the first pages of a process come and go.
        assert!(
            late <= early + early / 4,
            "{early} bytes have become {late}"
        );
    }
}

/// A signal that comes during the start is obeyed, not deadly: SIGHUP, SIGINT and SIGTERM are caught before there is
/// a database.
#[test]
fn signals_are_caught_before_anything_is_opened() {
    const CAUGHT: u64 = 1 << 0 | 1 << 1 | 1 << 14;
    let mut node = TestNode::new("");
    node.spawn();
    node.wait_for("the database", PATIENCE, || {
        node.root().join("edgepush.db").exists().then_some(())
    });
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.pid())).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
    let caught = u64::from_str_radix(line.unwrap().trim(), 16).unwrap();
    assert_eq!(caught & CAUGHT, CAUGHT, "{caught:x}");
    // So one that comes now ends the agent in order.
    assert!(node.stop().success(), "{}", node.log());
}

/// Story: 1. A kill came between the meta file of a partial archive and its first byte. 2. The archive comes whole in
/// memory the next time, and nothing of the first time is left.
#[test]
fn a_partial_that_was_never_written_leaves_nothing() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let archive = tar(&[("a".to_owned(), noise(1000, 1))]);
    origin.serve("/a", Reply::file(&archive));
    node.start();
    let name = &sha256(format!("{APP}\0a\x001").as_bytes())[..32];
    for ending in ["partial", "meta"] {
        fs::write(node.root().join(format!("spool/{name}.{ending}")), "").unwrap();
    }
    let element = item("a", "1", "tar", &archive, &origin.url("/a"));
    assert_eq!(node.push_codes(&[element]), [0]);
    assert_eq!(node.finish("a", "1")["state"], "succeeded");
    assert_eq!(node.list("spool"), [""; 0]);
}
