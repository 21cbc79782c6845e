//! Files are independent: however many wait for dead, silent, failing and slow origins, those whose
//! origins answer come as if they were alone.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;

use crate::support::archive::{md5, noise, site, tar_gz};
use crate::support::node::{TestNode, item};
use crate::support::origin::{Gate, Origin, Reply};

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(60);

/// A port that refuses connections.
fn dead_port() -> u16 {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.local_addr().unwrap().port()
}

/// Returns how many files are in one of `states`.
fn count(node: &TestNode, states: &[&str]) -> u64 {
    let status = node.ask("GET", "/v1/status", None).json();
    let counts = &status["counts"];
    states.iter().filter_map(|s| counts[*s].as_u64()).sum()
}

fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, &bytes[..]).unwrap();
    }
    builder.into_inner().unwrap()
}

#[test]
fn a_thousand_files_at_bad_origins_hold_up_no_good_one() {
    let (origin, silent, mut node) = (Origin::start(), Origin::start(), TestNode::new(""));
    let dead = format!("http://127.0.0.1:{}/f", dead_port());
    let large = tar_gz(&[("big".to_owned(), noise(2 * MIB, 1))]);
    let small = tar_gz(&site("1", 3));
    silent.serve("/silent", Reply::silent());
    origin.serve(
        "/slow",
        Reply::file(&large).drip(300, Duration::from_millis(100)),
    );
    origin.serve("/busy", Reply::status(503));
    node.start();
    let urls = [
        dead,
        silent.url("/silent"),
        origin.url("/slow"),
        origin.url("/busy"),
    ];
    let bad: Vec<Value> = (0..1000)
        .map(|n| {
            // Half of them state a size that makes them small.
            let archive = if n % 8 < 4 && n % 4 != 2 {
                &small
            } else {
                &large
            };
            let mut item = item(&format!("bad{n}"), "1", "tar.gz", archive, &urls[n % 4]);
            item["timeout"] = 3600.into();
            item
        })
        .collect();
    for hundred in bad.chunks(100) {
        assert!(node.push_codes(hundred).iter().all(|code| *code == 0));
    }
    node.wait_for("all bad files to have been tried", PATIENCE, || {
        (count(&node, &["queued"]) == 0).then_some(())
    });
    let huge = tar(&[("huge".to_owned(), noise(200 * MIB, 2))]);
    let middle = tar_gz(&[("middle".to_owned(), noise(2 * MIB, 3))]);
    let good = [
        ("small", "tar.gz", small.clone()),
        ("middle", "tar.gz", middle.clone()),
        ("unstated", "tar.gz", middle),
        ("huge", "tar", huge),
    ];
    let items: Vec<Value> = good
        .iter()
        .map(|(name, kind, archive)| {
            let path = format!("/{name}");
            origin.serve(&path, Reply::file(archive));
            let mut item = item(name, "1", kind, archive, &origin.url(&path));
            if *name == "unstated" {
                item.as_object_mut().unwrap().remove("size");
            }
            item
        })
        .collect();
    assert_eq!(node.push_codes(&items), [0, 0, 0, 0]);
    for (name, ..) in &good {
        let file = node.finish(name, "1");
        assert_eq!(file["state"], "succeeded", "{file}");
    }
    let open = count(&node, &["queued", "running", "retrying"]);
    assert_eq!(open, 1000, "all others are open");
    let retrying = node.file("bad3", "1").unwrap();
    assert_eq!(retrying["failure"]["kind"], "http-5xx", "{retrying}");
    let (_, peak) = node.memory();
    assert!(peak < 128 << 20, "{peak} bytes at most");
}

#[test]
fn more_large_files_than_have_threads_come_from_the_spool() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let archives: Vec<Vec<u8>> = (0..24)
        .map(|n| tar_gz(&[(format!("f{n}"), noise(2 * MIB, n))]))
        .collect();
    let gate = Gate::new();
    let mut items = Vec::new();
    for (n, archive) in archives.iter().enumerate() {
        let path = format!("/{n}");
        // All of them come fast at first, and then wait together.
        origin.serve(&path, Reply::file(archive).hold_at(MIB as u64, &gate));
        let url = origin.url(&path);
        items.push(item(&format!("n{n}"), "1", "tar.gz", archive, &url));
    }
    node.start();
    assert!(node.push_codes(&items).iter().all(|code| *code == 0));
    for n in 0..items.len() {
        origin.wait_for_hits(&format!("/{n}"), 1);
    }
    gate.open();
    for (n, archive) in archives.iter().enumerate() {
        let file = node.finish(&format!("n{n}"), "1");
        assert_eq!(file["state"], "succeeded", "{file}");
        assert_eq!(file["published"]["content"]["md5"], md5(archive));
        assert_eq!(origin.hits(&format!("/{n}")).len(), 1);
        let noise = noise(2 * MIB, n as u64);
        node.assert_tree(&format!("n{n}"), &[(format!("f{n}"), noise)]);
    }
}

/// Story: 1. A file's origin is busy, and its pauses count towards its time limit. 2. The agent is started anew
/// whenever the file waits. 3. Each wait takes more than 2 of its 8 s, so it fails within four of them.
#[test]
fn a_time_limit_counts_over_restarts_and_names_its_cause() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let archive = tar_gz(&site("1", 3));
    origin.serve("/busy", Reply::status(503));
    node.start();
    let mut item = item("a", "1", "tar.gz", &archive, &origin.url("/busy"));
    item["timeout"] = 8.into();
    assert_eq!(node.push_codes(&[item]), [0]);
    let mut attempts = 0;
    for _ in 0..4 {
        let file = node.wait_for("another wait, or the end", PATIENCE, || {
            let file = node.file("a", "1").unwrap();
            let waits = file["state"] == "retrying" && file["attempts"].as_u64() > Some(attempts);
            (waits || file["state"] == "failed").then_some(file)
        });
        if file["state"] == "failed" {
            assert_eq!(file["failure"]["kind"], "deadline", "{file}");
            assert_eq!(file["failure"]["cause"]["kind"], "http-5xx", "{file}");
            return;
        }
        attempts = file["attempts"].as_u64().unwrap();
        assert!(node.stop().success());
        node.start();
    }
    let file = node.finish("a", "1");
    panic!("a fresh time limit at each start: {file}");
}
