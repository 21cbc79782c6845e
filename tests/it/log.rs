//! The log never hurts: whatever becomes of standard error, the agent serves, publishes and ends in time; and what stands
//! for long is not logged again and again.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::archive::{site, tar_gz};
use crate::support::disk::{Disk, may_mount, run};
use crate::support::node::{PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

/// A node whose agent has its standard error there, from its next start on: `2>&-`, `2>/dev/full`.
fn node_with_stderr(redirection: &str, extra: &str) -> TestNode {
    let mut node = TestNode::new(extra);
    let script = format!("exec \"$0\" \"$@\" {redirection}");
    node.run_through(&["sh", "-c", &script]);
    node
}

fn publish(node: &TestNode, origin: &Origin, name: &str, version: &str) {
    let archive = tar_gz(&site(version, 5));
    let path = format!("/{name}-{version}");
    origin.serve(&path, Reply::file(&archive));
    let item = item(name, version, "tar.gz", &archive, &origin.url(&path));
    assert_eq!(node.push_codes(&[item]), [0]);
    let file = node.finish(name, version);
    assert_eq!(file["state"], "succeeded", "{file}");
}

/// Publishes, answers, and ends in time.
fn assert_serves_and_ends(mut node: TestNode) {
    let origin = Origin::start();
    for version in ["1", "2"] {
        publish(&node, &origin, "a", version);
    }
    assert_eq!(node.ask("GET", "/readyz", None).status, 200);
    let begun = Instant::now();
    let status = node.stop();
    assert_eq!(status.code(), Some(0), "{status}");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "the end took {took:?}");
}

fn lost(node: &TestNode) -> u64 {
    let status = node.ask("GET", "/v1/status", None).json();
    status["log_lines_lost"].as_u64().unwrap()
}

fn wait_for_lost(node: &TestNode) {
    node.wait_for("lost lines to be counted", PATIENCE, || {
        (lost(node) > 0).then_some(())
    });
    let shown = node.cli(&["status"]);
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("lost since the start"), "{shown}");
    let metrics = node.ask("GET", "/metrics", None);
    let metrics = String::from_utf8_lossy(&metrics.body).into_owned();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("edgepush_log_lines_lost_total "));
    assert_ne!(line, Some("edgepush_log_lines_lost_total 0"));
}

#[test]
fn an_agent_without_standard_error_serves_and_ends() {
    let mut node = node_with_stderr("2>&-", "");
    node.start();
    assert_serves_and_ends(node);
}

#[test]
fn an_agent_whose_log_takes_nothing_serves_and_counts_what_is_lost() {
    let mut node = node_with_stderr("2>/dev/full", "");
    node.start();
    wait_for_lost(&node);
    assert_serves_and_ends(node);
}

/// A named pipe, with a reader.
fn pipe(node: &TestNode) -> (PathBuf, File) {
    let path = node.dir().join("log.pipe");
    run("mkfifo", &[path.to_str().unwrap()]);
    let reader = read_pipe(&path);
    (path, reader)
}

fn read_pipe(path: &Path) -> File {
    let flags = rustix::fs::OFlags::NONBLOCK.bits();
    let mut options = OpenOptions::new();
    let flags = options
        .read(true)
        .custom_flags(i32::try_from(flags).unwrap());
    flags.open(path).unwrap()
}

fn node_with_pipe() -> (TestNode, PathBuf, File) {
    let mut node = TestNode::new("");
    let (path, reader) = pipe(&node);
    let script = format!("exec \"$0\" \"$@\" 2>{}", path.display());
    node.run_through(&["sh", "-c", &script]);
    (node, path, reader)
}

/// Reads the log until it contains `text`.
fn wait_for_text(node: &TestNode, mut reader: File, text: &str) -> String {
    let mut read = Vec::new();
    node.wait_for(&format!("`{text}` in the log"), PATIENCE, || {
        // Nothing there is an error of a pipe that does not block.
        let _ = reader.read_to_end(&mut read);
        let said = String::from_utf8_lossy(&read).into_owned();
        said.contains(text).then_some(said)
    })
}

/// 1. The log's reader ends: each write fails with EPIPE. 2. The agent goes on. 3. Another reader comes, and is told.
#[test]
fn a_reader_of_the_log_that_ends_hurts_nothing_and_the_next_is_told() {
    let (mut node, path, reader) = node_with_pipe();
    node.start();
    drop(reader);
    let origin = Origin::start();
    publish(&node, &origin, "b", "1");
    wait_for_lost(&node);
    let reader = read_pipe(&path);
    let said = wait_for_text(&node, reader, "lost: standard error took none");
    assert!(!said.contains("panicked"), "{said}");
    assert_serves_and_ends(node);
}

/// 1. The log's reader stops reading, and the pipe is full. 2. The agent goes on, and ends in time.
#[test]
fn a_full_pipe_that_nobody_reads_blocks_nothing() {
    let (mut node, path, reader) = node_with_pipe();
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).unwrap();
    let mut filler = OpenOptions::new();
    let mut filler = filler.write(true).custom_flags(flags).open(path).unwrap();
    while filler.write(&[b'x'; 4096]).is_ok() {}
    while filler.write(b"x").is_ok() {}
    node.start();
    assert_eq!(node.ask("GET", "/healthz", None).status, 200);
    assert_serves_and_ends(node);
    drop(reader);
}

/// 1. The file system of the log is full. 2. It gets space again: the log says what it lacks.
#[test]
fn a_full_disk_of_the_log_hurts_nothing_and_is_mentioned_later() {
    if !may_mount("a_full_disk_of_the_log_hurts_nothing_and_is_mentioned_later") {
        return;
    }
    let disk = Disk::tmpfs("size=1m");
    let log = disk.path().join("log");
    File::create(&log).unwrap();
    let filler = disk.fill_up();
    let mut node = node_with_stderr(&format!("2>>{}", log.display()), "");
    node.start();
    wait_for_lost(&node);
    std::fs::remove_file(filler).unwrap();
    node.wait_for("the log to work again", PATIENCE, || {
        let said = std::fs::read_to_string(&log).unwrap();
        said.contains("lost: standard error took none")
            .then_some(())
    });
    assert_serves_and_ends(node);
}

/// Lines that a cause may take over what stands for ten minutes.
const MOST_LINES: usize = 100;

/// Lets a second of the log stand for a minute.
fn hurry(node: &mut TestNode) {
    node.set_env("EDGEPUSH_LOG_WINDOW_MS", "1000");
}

/// Keeps a cause up until the log has counted its repetitions over windows that stand for 1, 2 and 4 minutes, and so for at
/// least 7; none comes more often later. Returns how many repetitions were counted.
fn assert_quiet(node: &TestNode, text: &str, mut keep_up: impl FnMut()) -> u64 {
    let counted = |log: &str| -> Vec<u64> {
        let lines = log.lines().filter(|line| line.contains(text));
        let after = lines.filter_map(|line| line.split("repeated ").nth(1));
        let counts = after.filter_map(|rest| rest.split(' ').next()?.parse().ok());
        counts.collect()
    };
    let what = format!("repetitions of `{text}`");
    let counts = node.wait_for(&what, PATIENCE, || {
        keep_up();
        Some(counted(&node.log())).filter(|counts| counts.len() >= 3)
    });
    let lines = node.log().lines().count();
    assert!(lines <= MOST_LINES, "{lines} lines:\n{}", node.log());
    counts.iter().sum()
}

/// Idle clients use up the agent's descriptors.
#[test]
fn an_agent_without_descriptors_does_not_flood_its_log() {
    let mut node = TestNode::new("");
    hurry(&mut node);
    node.run_through(&["prlimit", "--nofile=48:48"]);
    node.start();
    let address = node.http.unwrap();
    let _idle: Vec<_> = (0..60)
        .map(|_| TcpStream::connect(address).unwrap())
        .collect();
    let repeated = assert_quiet(&node, "cannot accept a connection", || ());
    assert!(repeated > 50, "{repeated}");
}

#[test]
fn a_dead_receiver_does_not_flood_the_log() {
    let mut node = TestNode::new("");
    let secret = node.dir().join("secret");
    fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", dead.local_addr().unwrap());
    drop(dead);
    let config = format!(
        "{}[report]\nfirst_retry = \"20ms\"\nlongest_retry = \"100ms\"\n\n[[report.endpoints]]\nname = \"dead\"\nurl = {url:?}\nsecret_files = [{secret:?}]\n",
        node.config()
    );
    node.write_config(&config);
    hurry(&mut node);
    node.start();
    let repeated = assert_quiet(&node, "a callback failed", || ());
    assert!(repeated > 30, "{repeated}");
}

#[test]
fn a_full_disk_does_not_flood_the_log() {
    if !may_mount("a_full_disk_does_not_flood_the_log") {
        return;
    }
    let disk = Disk::tmpfs("size=16m");
    let mut node = TestNode::with_root(&disk.path().join("data"), "");
    hurry(&mut node);
    node.start();
    let origin = Origin::start();
    let archive = tar_gz(&site("1", 5));
    origin.serve("/a", Reply::file(&archive));
    let _filler = disk.fill_up();
    let mut refused = 0;
    for n in 0..300 {
        let item = item(&format!("n{n}"), "1", "tar.gz", &archive, &origin.url("/a"));
        let document = serde_json::json!({ "AppId": "app-1", "Data": [item] });
        let answer = node.ask("POST", "/v1/pushes", Some(&document));
        refused += u32::from(answer.status == 503);
    }
    assert!(refused > 100, "{refused}");
    assert!(node.stop().success());
    let lines = node.log().lines().count();
    assert!(lines <= MOST_LINES, "{lines} lines:\n{}", node.log());
}

#[test]
fn what_cannot_be_deleted_does_not_flood_the_log() {
    let mut node =
        TestNode::new("[publish]\nkeep_versions = 1\n\n[runner]\nupkeep_every = \"100ms\"\n");
    hurry(&mut node);
    node.start();
    let origin = Origin::start();
    publish(&node, &origin, "a", "1");
    let held = node.current("a").join("site/d00");
    let chattr = |arguments: &[&str], path: &Path| {
        let changed = Command::new("chattr")
            .args(arguments)
            .arg(path)
            .stderr(Stdio::null())
            .status();
        changed.is_ok_and(|status| status.success())
    };
    if !chattr(&["+i"], &held) {
        eprintln!("SKIPPED: this file system has no immutable files, or this is not root");
        assert!(std::env::var("CI").as_deref() != Ok("true"));
        return;
    }
    publish(&node, &origin, "a", "2");
    publish(&node, &origin, "a", "3");
    let quiet = std::panic::AssertUnwindSafe(|| assert_quiet(&node, "could not delete", || ()));
    let repeated = std::panic::catch_unwind(quiet);
    chattr(&["-R", "-i"], node.root());
    assert!(repeated.unwrap() > 20);
}
