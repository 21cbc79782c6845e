//! Fetching as an operator meets it: a real agent, an origin that misbehaves, and what is said of it.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::archive::{noise, site, tar, tar_gz, zip};
use crate::support::node::{PATIENCE, TestNode, item};
use crate::support::origin::{Gate, Origin, Reply};
use crate::support::receiver::Receiver;

/// An archive that does not compress.
fn large(length: usize, seed: u64) -> (Vec<(String, Vec<u8>)>, Vec<u8>) {
    let files = vec![("noise.bin".to_owned(), noise(length, seed))];
    let archive = tar_gz(&files);
    (files, archive)
}

fn partial_len(node: &TestNode) -> u64 {
    node.list("spool")
        .iter()
        .filter(|name| name.ends_with(".partial"))
        .filter_map(|name| fs::metadata(node.root().join("spool").join(name)).ok())
        .map(|meta| meta.len())
        .sum()
}

fn failure(file: &Value) -> (&str, &str) {
    let text = |key: &str| file["failure"][key].as_str().unwrap_or_default();
    (text("kind"), text("message"))
}

/// Pushes `archive`, waits until it is held at `at` with nearly all of that on the disk, and kills the agent there.
fn kill_at(node: &mut TestNode, origin: &Origin, archive: &[u8], at: usize) {
    let gate = Gate::new();
    let script = [
        Reply::file(archive).hold_at(at as u64, &gate),
        Reply::file(archive),
    ];
    origin.script("/f", script);
    node.start();
    let url = origin.url("/f?sign=OLD");
    assert_eq!(
        node.push_codes(&[item("f", "1", "tar.gz", archive, &url)]),
        [0]
    );
    origin.wait_for_hits("/f", 1);
    node.wait_for("the first bytes on the disk", PATIENCE, || {
        (partial_len(node) + (1 << 20) > at as u64).then_some(())
    });
    node.kill();
    gate.open();
}

fn flip_a_byte_of_the_partial(node: &TestNode) {
    let names = node.list("spool");
    let partial = names.iter().find(|n| n.ends_with(".partial")).unwrap();
    let partial = node.root().join("spool").join(partial);
    let mut bytes = fs::read(&partial).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&partial, bytes).unwrap();
}

#[test]
fn a_kill_costs_less_than_a_megabyte() {
    let (files, archive) = large(6_000_000, 1);
    for percent in [10, 50, 99] {
        let (origin, mut node) = (Origin::start(), TestNode::new(""));
        kill_at(&mut node, &origin, &archive, archive.len() * percent / 100);
        node.start();
        let file = node.finish("f", "1");
        assert_eq!(file["state"], "succeeded", "{percent} %: {file}");
        node.assert_tree("f", &files);
        let sent = origin.sent("/f");
        assert!(
            sent <= archive.len() as u64 + (1 << 20),
            "{percent} %: {sent}"
        );
        assert_eq!(origin.hits("/f").len(), 2);
        assert!(node.list("spool").is_empty());
    }
}

#[test]
fn a_flipped_byte_in_the_partial_costs_one_clean_refetch() {
    let (files, archive) = large(4_000_000, 2);
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    kill_at(&mut node, &origin, &archive, archive.len() / 2);
    flip_a_byte_of_the_partial(&node);
    node.start();
    let file = node.finish("f", "1");
    assert_eq!(file["state"], "succeeded", "{file}");
    node.assert_tree("f", &files);
    let hits = origin.hits("/f");
    let last = hits.last().unwrap();
    assert_eq!(last.range_start(), None);
    assert_eq!(last.header("cache-control"), Some("no-cache"));
}

/// Story: 1. A plain tar without a digest is half here when the agent is killed. 2. A byte of that half changes on
/// the disk. 3. The next start finds that, and fetches it anew instead of publishing a wrong tree.
#[test]
fn a_flipped_byte_is_noticed_without_a_digest() {
    let files = vec![("noise.bin".to_owned(), noise(4_000_000, 3))];
    let archive = tar(&files);
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let gate = Gate::new();
    let half = archive.len() as u64 / 2;
    let first = Reply::file(&archive).hold_at(half, &gate);
    origin.script("/f", [first, Reply::file(&archive)]);
    node.start();
    let bare = json!({"name": "f", "version": "1", "archiveType": "tar", "url": origin.url("/f")});
    assert_eq!(node.push_codes(&[bare]), [0]);
    node.wait_for("the first bytes on the disk", PATIENCE, || {
        (partial_len(&node) + (1 << 20) > half).then_some(())
    });
    node.kill();
    gate.open();
    flip_a_byte_of_the_partial(&node);
    node.start();
    let file = node.finish("f", "1");
    assert_eq!(file["state"], "succeeded", "{file}");
    node.assert_tree("f", &files);
    let events = node.ask("GET", &format!("/v1/files/{}/events", file["id"]), None);
    let events = String::from_utf8(events.body).unwrap();
    assert!(events.contains("does not match its checksum"), "{events}");
}

/// Story: 1. An archive of exactly `push.small_bytes`, which is held in memory, is half here when the agent
/// stops; likewise one of a byte more. 2. Both resume, and their timelines say so.
#[test]
fn an_archive_of_small_bytes_and_one_of_a_byte_more_resume_after_a_stop() {
    let archive = tar(&[("noise.bin".to_owned(), noise(6_000_000, 4))]);
    let (origin, gate) = (Origin::start(), Gate::new());
    let half = archive.len() as u64 / 2;
    let limits = [("small", archive.len()), ("large", archive.len() - 1)];
    for (name, small_bytes) in limits {
        let mut node = TestNode::new(&format!("[push]\nsmall_bytes = \"{small_bytes}B\"\n"));
        let path = format!("/{name}");
        let first = Reply::file(&archive).hold_at(half, &gate);
        origin.script(&path, [first, Reply::file(&archive)]);
        node.start();
        let item = item(name, "1", "tar", &archive, &origin.url(&path));
        assert_eq!(node.push_codes(&[item]), [0]);
        node.wait_for("half of the archive", PATIENCE, || {
            (node.file(name, "1")?["received"].as_u64()? == half).then_some(())
        });
        node.stop();
        node.start();
        let file = node.finish(name, "1");
        assert_eq!(file["state"], "succeeded", "{file}");
        assert!(origin.hits(&path)[1].range_start().is_some(), "{name}");
        let events = node.ask("GET", &format!("/v1/files/{}/events", file["id"]), None);
        let events = String::from_utf8(events.body).unwrap();
        assert!(events.contains("\"resumed\""), "{name}: {events}");
    }
}

#[test]
fn what_is_not_there_is_asked_for_once_and_a_wrong_file_twice() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let archive = zip(&site("1", 3));
    origin.serve("/wrong", Reply::file(zip(&site("2", 3))));
    node.start();
    let mut wrong = item("wrong", "1", "zip", &archive, &origin.url("/wrong"));
    wrong.as_object_mut().unwrap().remove("size");
    let items = [
        item("none", "1", "zip", &archive, &origin.url("/none")),
        wrong,
    ];
    assert_eq!(node.push_codes(&items), [0, 0]);
    assert_eq!(failure(&node.finish("none", "1")).0, "http-404");
    assert_eq!(failure(&node.finish("wrong", "1")).0, "digest-mismatch");
    assert_eq!(
        (origin.hits("/none").len(), origin.hits("/wrong").len()),
        (1, 2)
    );
}

#[test]
fn a_login_page_is_told_as_one() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let archive = zip(&site("1", 3));
    origin.serve(
        "/f",
        Reply::page(200, "text/html", "<html>Log in to the network</html>"),
    );
    node.start();
    let with_size = item("sized", "1", "zip", &archive, &origin.url("/f"));
    let mut without = item("unsized", "1", "zip", &archive, &origin.url("/f"));
    without.as_object_mut().unwrap().remove("size");
    node.push(&[with_size, without]);
    for (name, kind) in [("sized", "wrong-length"), ("unsized", "digest-mismatch")] {
        let file = node.finish(name, "1");
        let (found, message) = failure(&file);
        assert_eq!(found, kind, "{file}");
        assert!(message.contains("text/html"), "{message}");
        let detail = file["failure"]["detail"].as_str().unwrap_or_default();
        assert!(detail.contains("Log in"), "{file}");
        assert!(file["failure"]["expected"].is_string(), "{file}");
        assert!(file["failure"]["found"].is_string(), "{file}");
    }
}

#[test]
fn a_denied_source_is_refused_when_it_is_pushed() {
    let origin = Origin::start();
    let mut node = TestNode::new("[fetch]\nallow = []\n");
    let archive = zip(&site("1", 3));
    node.start();
    let urls = [
        origin.url("/f?sign=SECRET"),
        origin.url_at("localhost", "/f"),
        origin.url_at("2130706433", "/f"),
        origin.url_at("[::ffff:127.0.0.1]", "/f"),
        "http://169.254.169.254/latest".to_owned(),
        "http://100.100.100.200/latest".to_owned(),
    ];
    for (n, url) in urls.iter().enumerate() {
        let answers = node.push(&[item(&format!("f{n}"), "1", "zip", &archive, url)]);
        let answer = answers[0].to_string();
        assert!(
            answer.contains("300") && answer.contains("fetch.allow"),
            "{answer}"
        );
        assert!(!answer.contains("SECRET"));
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_full_line_keeps_the_status_quick() {
    let (files, archive) = large(6_000_000, 3);
    let origin = Origin::start();
    let slow = "[fetch]\nallow = [\"127.0.0.0/8\"]\nbandwidth = { rate = \"1MiB\" }\n";
    let mut node = TestNode::new(slow);
    origin.serve("/f", Reply::file(&archive));
    node.start();
    node.push(&[item("f", "1", "tar.gz", &archive, &origin.url("/f"))]);
    let begin = Instant::now();
    let mut probes = Vec::new();
    while begin.elapsed() < Duration::from_secs(3) {
        let start = Instant::now();
        let file = node.file("f", "1").unwrap();
        probes.push(start.elapsed());
        assert_ne!(
            file["state"], "succeeded",
            "6 MB came at more than 1 MiB a second"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    probes.sort();
    let p99 = probes[probes.len() * 99 / 100];
    assert!(
        p99 < Duration::from_millis(250),
        "{p99:?} of {}",
        probes.len()
    );
    // The cap is lifted while it runs.
    let config = node.config().replace("bandwidth = { rate = \"1MiB\" }", "");
    node.write_config(&config);
    let pid = node.pid().to_string();
    assert!(
        Command::new("kill")
            .args(["-HUP", &pid])
            .status()
            .unwrap()
            .success()
    );
    let lifted = Instant::now();
    assert_eq!(node.finish("f", "1")["state"], "succeeded");
    assert!(
        lifted.elapsed() < Duration::from_millis(2500),
        "{:?}",
        lifted.elapsed()
    );
    node.assert_tree("f", &files);
}

#[test]
fn nothing_that_leaves_the_agent_holds_a_secret() {
    let (origin, receiver) = (Origin::start(), Receiver::start());
    let secrets = tempfile::tempdir().unwrap();
    let key = secrets.path().join("secret");
    fs::write(&key, "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3").unwrap();
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let mut node = TestNode::new(&format!(
        "[fetch]\nallow = [\"127.0.0.0/8\"]\nfirst_byte_timeout = \"200ms\"\n\
         stall = {{ window = \"300ms\" }}\nretry = {{ base = \"5ms\" }}\n\
         [log]\nlevel = \"trace\"\n\
         [[report.endpoints]]\nname = \"test\"\nurl = {:?}\nsecret_files = [{key:?}]\n",
        receiver.url()
    ));
    let archive = tar_gz(&site("1", 40));
    let said = "<Error>/f?sign=SECRETIVE is <b>SECRETIVE</b></Error>";
    let good = || Reply::file(&archive);
    let half = archive.len() as u64 / 2;
    let replies = [
        vec![good()],
        vec![Reply::page(503, "text/xml", said), good()],
        vec![Reply::page(403, "text/xml", said)],
        vec![Reply::page(200, "text/html", said)],
        vec![Reply::redirect(
            302,
            "http://169.254.169.254/?sign=SECRETIVE",
        )],
        vec![Reply::redirect(302, "ftp://h/?sign=SECRETIVE")],
        vec![
            Reply::silent(),
            Reply::close(),
            Reply::reset(),
            good().cut_at(half),
        ],
        vec![good().stall_at(half)],
        vec![good().content_range("bytes SECRETIVE")],
        vec![Reply::file(tar_gz(&site("2", 40)))],
        vec![Reply::file(b"SECRETIVE")],
    ];
    let mut items = Vec::new();
    for (n, script) in replies.into_iter().enumerate() {
        let path = format!("/f{n}");
        origin.script(&path, script);
        let url = origin.url(&format!("{path}?sign=SECRETIVE"));
        let url = url.replace("http://", "http://me:SECRETIVE@");
        let mut item = item(&format!("f{n}"), "1", "tar.gz", &archive, &url);
        item["timeout"] = json!(20);
        items.push(item);
    }
    node.start();
    let mut told = vec![format!("{:?}", node.push(&items))];
    for n in 0..items.len() {
        let file = node.finish(&format!("f{n}"), "1");
        for more in ["", "/events", "/history"] {
            let target = format!("/v1/files/{}{more}", file["id"]);
            let answer = node.ask("GET", &target, None);
            assert_eq!(answer.status, 200, "{target}");
            told.push(String::from_utf8_lossy(&answer.body).into_owned());
        }
        told.push(file.to_string());
    }
    node.wait_for("a callback for each file", PATIENCE, || {
        let ended = receiver.of_type("edgepush.file.published").len()
            + receiver.of_type("edgepush.file.failed").len();
        (ended >= items.len()).then_some(())
    });
    for target in [
        "/v1/files",
        "/v1/status",
        "/v1/outbox",
        "/status",
        "/metrics",
        "/readyz?verbose",
    ] {
        told.push(String::from_utf8_lossy(&node.ask("GET", target, None).body).into_owned());
    }
    told.extend(receiver.seen().iter().map(|d| format!("{d:?}")));
    told.push(node.log());
    for verb in [
        &["ls"][..],
        &["show", "f2@1"],
        &["outbox"],
        &["config", "show"],
    ] {
        let output = node.cli(verb);
        told.push(format!("{output:?}"));
    }
    let log = told.join("\n");
    assert!(log.contains("f10") && log.len() > 10_000);
    for line in log.lines() {
        assert!(!line.contains("SECRETIVE"), "{line}");
    }
}

#[test]
fn a_small_file_does_not_wait_for_large_ones_that_hold_every_place() {
    const LARGE: usize = 16;
    let (origin, mut node) = (Origin::start(), TestNode::new("[runner]\nfiles = 16\n"));
    let (_, archive) = large(2 << 20, 1);
    let gate = Gate::new();
    let mut items = Vec::new();
    for n in 0..LARGE {
        let path = format!("/large{n}");
        origin.serve(&path, Reply::file(&archive).hold_at(1 << 20, &gate));
        let (name, url) = (format!("large{n}"), origin.url(&path));
        items.push(item(&name, "1", "tar.gz", &archive, &url));
    }
    let small = tar_gz(&site("1", 3));
    origin.serve("/small", Reply::file(&small));
    let of_small = |version: &str| item("small", version, "tar.gz", &small, &origin.url("/small"));
    node.start();
    node.push(&items);
    let state = |n: usize| node.file(&format!("large{n}"), "1").unwrap()["state"].clone();
    let waiting = || (0..LARGE).filter(|n| state(*n) == "queued").count();
    node.wait_for("a large file to say what it waits for", PATIENCE, || {
        let last = node.file(&format!("large{}", LARGE - 1), "1").unwrap();
        let waits = last["waits"].as_str().unwrap_or("");
        waits.contains("waits for a place").then_some(())
    });
    for version in ["1", "2", "3"] {
        node.push(&[of_small(version)]);
        assert_eq!(node.finish("small", version)["state"], "succeeded");
    }
    assert!(waiting() > 0, "every large file had a place");
    gate.open();
    for n in 0..LARGE {
        assert_eq!(node.finish(&format!("large{n}"), "1")["state"], "succeeded");
    }
}

#[test]
fn what_a_file_took_of_the_network_is_told_whatever_its_end() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let (_, archive) = large(400_000, 31);
    let half = archive.len() / 2;
    // 1. One is not there, one comes at the third request, one is cut and then has another length.
    let busy = || Reply::status(503);
    origin.script("/busy", [busy(), busy(), Reply::file(&archive)]);
    let other = Reply::file(&archive[..half]).no_ranges();
    origin.script("/cut", [Reply::file(&archive).cut_at(half as u64), other]);
    node.start();
    let push = |name: &str| {
        item(
            name,
            "1",
            "tar.gz",
            &archive,
            &origin.url(&format!("/{name}")),
        )
    };
    node.push_codes(&[push("none"), push("busy"), push("cut")]);
    // 2. The row counts as the failure's text does.
    let none = node.finish("none", "1");
    assert!(failure(&none).1.contains("1 attempt)"), "{none}");
    assert_eq!(none["attempts"], 1, "{none}");
    let busy = node.finish("busy", "1");
    assert_eq!(
        (&busy["attempts"], busy["state"].as_str()),
        (&json!(3), Some("succeeded"))
    );
    assert_eq!(busy["fetched"], busy["published"]["fetched"]);
    assert!(
        busy["fetched"].as_u64() >= Some(archive.len() as u64),
        "{busy}"
    );
    let cut = node.finish("cut", "1");
    assert_eq!(
        (failure(&cut).0, &cut["attempts"]),
        ("wrong-length", &json!(2)),
        "{cut}"
    );
    assert!(cut["fetched"].as_u64() >= Some(half as u64), "{cut}");
}
