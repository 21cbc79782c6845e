//! Disks that are full, read-only, broken or hanging: the file at work fails once and clearly, everything that it took is
//! given back, what was live stays live, and the node goes on.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::archive::{noise, site, tar, tar_gz, zip};
use crate::support::disk::{Disk, may_mount};
use crate::support::http;
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Gate, Origin, Reply};

const MIB: usize = 1 << 20;

/// One file of bytes that do not compress.
fn big(bytes: usize, seed: u64) -> Vec<(String, Vec<u8>)> {
    vec![("big.bin".to_owned(), noise(bytes, seed))]
}

/// An element that does not say how large its archive is: room is found missing only on the way.
fn unsized_item(name: &str, version: &str, kind: &str, archive: &[u8], url: &str) -> Value {
    let mut item = item(name, version, kind, archive, url);
    item.as_object_mut().unwrap().remove("size");
    item
}

/// A node on `disk`, with the small version `a@1` live.
fn node_with_a_version(disk: &Disk, origin: &Origin, extra: &str) -> TestNode {
    let mut node = TestNode::with_root(&disk.path().join("data"), extra);
    node.start();
    publish_small(&node, origin, "a", "1");
    node
}

fn publish_small(node: &TestNode, origin: &Origin, name: &str, version: &str) {
    let archive = tar_gz(&site(version, 5));
    let path = format!("/{name}-{version}");
    origin.serve(&path, Reply::file(&archive));
    let item = item(name, version, "tar.gz", &archive, &origin.url(&path));
    assert_eq!(node.push_codes(&[item]), [0]);
    let file = node.finish(name, version);
    assert_eq!(file["state"], "succeeded", "{file}");
}

/// Bytes in use, without the database, which writes down what happens.
fn used_by_files(node: &TestNode, disk: &Disk) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let database = [
        "edgepush.db",
        "edgepush.db-wal",
        "edgepush.db-shm",
        "edgepush.reserve",
    ];
    let blocks = database.map(|n| std::fs::metadata(node.root().join(n)).map_or(0, |m| m.blocks()));
    disk.used() - blocks.iter().sum::<u64>() * 512
}

fn failure<'a>(file: &'a Value, kind: &str) -> &'a Value {
    assert_eq!(file["state"], "failed", "{file}");
    assert_eq!(file["failure"]["kind"], kind, "{file}");
    &file["failure"]
}

/// Checks that nothing is left of a failed file, and that the node goes on as before.
fn check_recovered(node: &TestNode, origin: &Origin, disk: &Disk, before: u64, other: &str) {
    assert_eq!(node.list("staging"), [""; 0]);
    assert_eq!(node.list("spool"), [""; 0]);
    let kept = used_by_files(node, disk).saturating_sub(before);
    let allowed = (disk.used() + disk.free()) / 100;
    assert!(kept <= allowed, "{kept} bytes are not given back");
    node.assert_tree("a", &site("1", 5));
    publish_small(node, origin, other, "1");
    assert!(node.cli(&["status"]).status.success());
}

#[test]
fn a_disk_that_fills_up_on_the_way_fails_the_file_once_and_gives_the_room_back() {
    if !may_mount("a disk that fills up") {
        return;
    }
    let origin = Origin::start();
    let disk = Disk::tmpfs("size=48m");
    let node = node_with_a_version(&disk, &origin, "[publish]\nreserve = \"64KiB\"\n");
    let large = big(60 * MIB, 1);
    // Ten copies of each block lie close enough together to be found by the packer.
    let block = noise(8 * 1024, 2);
    let repeated = vec![("r.bin".to_owned(), block.repeat(60 * 128))];
    for (name, kind, archive, stages) in [
        ("spooling", "zip", zip(&large), ["fetch", "fetch"]),
        ("streaming", "tar", tar(&large), ["fetch", "unpack"]),
        ("unpacking-zip", "zip", zip(&repeated), ["unpack", "unpack"]),
        (
            "unpacking-tar",
            "tar.gz",
            tar_gz(&repeated),
            ["unpack", "unpack"],
        ),
    ] {
        let path = format!("/{name}");
        origin.serve(&path, Reply::file(&archive));
        let before = used_by_files(&node, &disk);
        let item = unsized_item(name, "1", kind, &archive, &origin.url(&path));
        assert_eq!(node.push_codes(&[item]), [0]);
        let file = node.finish(name, "1");
        let failure = failure(&file, "no-space");
        assert!(
            stages.contains(&failure["stage"].as_str().unwrap()),
            "{file}"
        );
        assert_eq!(file["starts"], 1, "{file}");
        assert_eq!(origin.hits(&path).len(), 1, "{name} was fetched again");
        check_recovered(&node, &origin, &disk, before, &format!("beside-{name}"));
    }
}

#[test]
fn a_disk_without_room_for_the_manifest_fails_the_publication() {
    if !may_mount("a disk without room for the manifest") {
        return;
    }
    let origin = Origin::start();
    let disk = Disk::tmpfs("size=40m");
    let node = node_with_a_version(
        &disk,
        &origin,
        "[publish]\nreserve = \"1B\"\nkeep_archives = false\n",
    );
    // Many empty files: they take inodes, and their manifest takes blocks.
    let many: Vec<_> = (0..40_000)
        .map(|n| (format!("d{}/a-rather-long-name-{n:05}", n % 7), Vec::new()))
        .collect();
    let archive = tar_gz(&many);
    origin.serve("/many", Reply::file(&archive));
    let filler = disk.fill((archive.len() + MIB) as u64);
    let before = used_by_files(&node, &disk) - disk.filled();
    let item = unsized_item("many", "1", "tar.gz", &archive, &origin.url("/many"));
    assert_eq!(node.push_codes(&[item]), [0]);
    let file = node.finish("many", "1");
    let failure = failure(&file, "no-space");
    assert_eq!(failure["stage"], "publish", "{file}");
    assert!(!node.current("many").exists());
    std::fs::remove_file(filler).unwrap();
    check_recovered(&node, &origin, &disk, before, "beside");
}

#[test]
fn a_disk_without_inodes_fails_the_file_and_gives_them_back() {
    if !may_mount("a disk without inodes") {
        return;
    }
    let origin = Origin::start();
    let disk = Disk::tmpfs("size=48m,nr_inodes=200");
    let node = node_with_a_version(&disk, &origin, "[publish]\nreserve = \"64KiB\"\n");
    for kind in ["tar.gz", "zip"] {
        let files = site("1", 400);
        let archive = if kind == "zip" {
            zip(&files)
        } else {
            tar_gz(&files)
        };
        origin.serve("/many", Reply::file(&archive));
        let name = format!("many-{kind}");
        let before = used_by_files(&node, &disk);
        let item = item(&name, "1", kind, &archive, &origin.url("/many"));
        assert_eq!(node.push_codes(&[item]), [0]);
        let file = node.finish(&name, "1");
        failure(&file, "no-inodes");
        assert_eq!(file["starts"], 1, "{file}");
        check_recovered(&node, &origin, &disk, before, &format!("beside-{kind}"));
    }
}

#[test]
fn room_is_refused_before_the_first_byte_also_where_it_is_promised_to_others() {
    if !may_mount("room is refused") {
        return;
    }
    let origin = Origin::start();
    let disk = Disk::ext4("50M");
    let node = node_with_a_version(&disk, &origin, "[publish]\nreserve = \"1MiB\"\n");
    // 1. 40 MiB are there for the archive, and not for its tree as well.
    let archive = tar_gz(&big(40 * MIB, 1));
    origin.serve("/large", Reply::file(&archive));
    let push = item("large", "1", "tar.gz", &archive, &origin.url("/large"));
    assert_eq!(node.push_codes(&[push]), [0]);
    let file = node.finish("large", "1");
    let message = failure(&file, "no-space")["message"].as_str().unwrap();
    assert!(
        message.contains("needed") && message.contains("available"),
        "{message}"
    );
    assert!(origin.hits("/large").is_empty(), "a byte was asked for");
    // 2. One file has been promised most of the room, and waits for its source; another one of its size is refused.
    let half = tar_gz(&big(12 * MIB, 2));
    let gate = Gate::new();
    origin.serve("/half", Reply::file(&half).hold_at(1000, &gate));
    origin.serve("/second", Reply::file(&half));
    let first = item("first", "1", "tar.gz", &half, &origin.url("/half"));
    assert_eq!(node.push_codes(&[first]), [0]);
    origin.wait_for_hits("/half", 1);
    let second = item("second", "1", "tar.gz", &half, &origin.url("/second"));
    assert_eq!(node.push_codes(std::slice::from_ref(&second)), [0]);
    let file = node.finish("second", "1");
    let message = failure(&file, "no-space")["message"].as_str().unwrap();
    assert!(message.contains("promised to other files"), "{message}");
    assert!(origin.hits("/second").is_empty());
    gate.open();
    assert_eq!(node.finish("first", "1")["state"], "succeeded");
    node.assert_tree("a", &site("1", 5));
}

#[test]
fn a_full_database_refuses_pushes_whole_and_takes_them_again_later() {
    if !may_mount("a full database") {
        return;
    }
    let origin = Origin::start();
    let disk = Disk::tmpfs("size=16m");
    let node = node_with_a_version(&disk, &origin, "[publish]\nreserve = \"1B\"\n");
    let archive = tar_gz(&site("1", 5));
    origin.serve("/b", Reply::file(&archive));
    let filler = disk.fill(0);
    // The journal reuses what it has, so it takes a few pushes to need more.
    let mut taken = Vec::new();
    let end = Instant::now() + PATIENCE;
    let refused = loop {
        let n = taken.len();
        let items: Vec<_> = (0..50)
            .map(|i| {
                item(
                    &format!("b{n}-{i}"),
                    "1",
                    "tar.gz",
                    &archive,
                    &origin.url("/b"),
                )
            })
            .collect();
        let answer = node.ask(
            "POST",
            "/v1/pushes",
            Some(&json!({"AppId": APP, "Data": items})),
        );
        if answer.status != 200 {
            break (n, answer);
        }
        taken.push(n);
        assert!(Instant::now() < end, "the database is never full");
    };
    let (n, answer) = refused;
    assert_eq!(
        answer.status,
        503,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    for i in [0, 49] {
        assert!(node.file(&format!("b{n}-{i}"), "1").is_none(), "half taken");
    }
    node.assert_tree("a", &site("1", 5));
    assert!(node.cli(&["status"]).status.success());
    // There is room again: what was answered ends, and what was refused is taken.
    std::fs::remove_file(filler).unwrap();
    for n in taken {
        for i in [0, 49] {
            node.finish(&format!("b{n}-{i}"), "1");
        }
    }
    publish_small(&node, &origin, "again", "1");
}

/// What the node says of itself.
fn state(node: &TestNode) -> String {
    let answer = node.ask("GET", "/v1/status", None);
    assert_eq!(answer.status, 200);
    answer.json()["state"].as_str().unwrap().to_owned()
}

/// Story: 1. Versions that were live fill the disk, so that not even the database can be written. 2. Their time
/// is over: they go, although a removal has to be recorded first, and pushes are taken again.
#[test]
fn a_disk_full_of_old_versions_frees_itself() {
    if !may_mount("a disk full of old versions") {
        return;
    }
    let origin = Origin::start();
    let disk = Disk::tmpfs("size=24m");
    let mut node = TestNode::with_root(
        &disk.path().join("data"),
        "[publish]\nreserve = \"1B\"\nkeep_versions = 1\n[runner]\nupkeep_every = \"1s\"\n",
    );
    node.set_env("EDGEPUSH_PUBLISH__KEEP_FOR", "15s");
    node.start();
    publish_small(&node, &origin, "a", "1");
    for version in ["2", "3", "4"] {
        let archive = tar_gz(&big(2 * MIB, version.parse().unwrap()));
        origin.serve("/a", Reply::file(&archive));
        let push = item("a", version, "tar.gz", &archive, &origin.url("/a"));
        assert_eq!(node.push_codes(&[push]), [0]);
        assert_eq!(node.finish("a", version)["state"], "succeeded");
    }
    let small = tar_gz(&site("1", 5));
    origin.serve("/b", Reply::file(&small));
    let mut pushes = 0;
    let mut push = || {
        pushes += 1;
        let items: Vec<_> = (0..50)
            .map(|n| {
                item(
                    &format!("b{pushes}-{n}"),
                    "1",
                    "tar.gz",
                    &small,
                    &origin.url("/b"),
                )
            })
            .collect();
        let document = json!({"AppId": APP, "Data": items});
        node.ask("POST", "/v1/pushes", Some(&document)).status
    };
    let end = Instant::now() + PATIENCE;
    while push() == 200 {
        assert!(Instant::now() < end, "the database is never full");
    }
    node.wait_for("pushes to be taken again", PATIENCE, || {
        (push() == 200).then_some(())
    });
    node.wait_for("old versions to be removed", PATIENCE, || {
        (node.list("data/app-1/a/versions") == ["3", "4"]).then_some(())
    });
}

#[test]
fn an_agent_that_starts_on_a_full_disk_answers_and_works_once_there_is_room() {
    if !may_mount("a start on a full disk") {
        return;
    }
    let origin = Origin::start();
    for (disk, what) in [
        (Disk::tmpfs("size=16m"), "tmpfs"),
        (Disk::ext4("32M"), "ext4"),
    ] {
        let mut node = node_with_a_version(&disk, &origin, "[publish]\nreserve = \"64KiB\"\n");
        let reserve = node.root().join("edgepush.reserve");
        for (reserved, killed) in [(true, false), (true, true), (false, false)] {
            let case = format!("{what}, reserve {reserved}, killed {killed}");
            assert!(node.cli(&["gc"]).status.success());
            node.wait_for("the reserve", PATIENCE, || reserve.exists().then_some(()));
            if !reserved {
                std::fs::remove_file(&reserve).unwrap();
            }
            if killed {
                node.kill();
            } else {
                assert!(node.stop().success());
            }
            let filler = disk.fill_up();
            node.start();
            node.assert_tree("a", &site("1", 5));
            assert!(state(&node).contains("disk"), "{case}: {}", state(&node));
            assert!(node.cli(&["status"]).status.success());
            let archive = tar_gz(&site("1", 5));
            origin.serve("/full", Reply::file(&archive));
            let name = format!("full-{reserved}-{killed}");
            let push = item(&name, "1", "tar.gz", &archive, &origin.url("/full"));
            let document = json!({"AppId": APP, "Data": [push]});
            let answer = node.ask("POST", "/v1/pushes", Some(&document));
            let said = String::from_utf8_lossy(&answer.body).into_owned();
            if answer.status == 200 {
                let file = node.finish(&name, "1");
                let message = failure(&file, "no-space")["message"].as_str().unwrap();
                assert!(
                    message.contains("needed") && message.contains("available"),
                    "{case}: {message}"
                );
            } else {
                assert_eq!(answer.status, 503, "{case}: {said}");
                assert!(said.contains("no space left"), "{case}: {said}");
            }
            eprintln!("{case}: a push is answered {}", answer.status);
            assert!(origin.hits("/full").is_empty(), "a byte was asked for");
            std::fs::remove_file(filler).unwrap();
            publish_small(&node, &origin, &format!("after-{reserved}-{killed}"), "1");
            assert_eq!(state(&node), "ready", "{case}");
        }
    }
}

#[test]
fn a_read_only_disk_goes_on_serving_and_answering() {
    if !may_mount("a read-only disk") {
        return;
    }
    let origin = Origin::start();
    let disk = Disk::ext4("64M");
    let mut node = node_with_a_version(&disk, &origin, "");
    let archive = zip(&big(4 * MIB, 1));
    let gate = Gate::new();
    origin.serve(
        "/held",
        Reply::file(&archive).hold_at(2 * MIB as u64, &gate),
    );
    let held = item("held", "1", "zip", &archive, &origin.url("/held"));
    assert_eq!(node.push_codes(std::slice::from_ref(&held)), [0]);
    origin.wait_for_hits("/held", 1);
    // The kernel makes a file system read-only whatever is open on it: this is what an error on the device does.
    emergency_read_only(disk.path());
    gate.open();
    // That it has failed cannot be written down. Whoever asks is told nevertheless, and why.
    let file = node.finish("held", "1");
    failure(&file, "read-only");
    let status = node.ask("GET", "/v1/status", None).json();
    assert_eq!(status["counts"]["running"], 0, "{status}");
    assert_eq!(status["counts"]["failed"], 1, "{status}");
    assert_eq!(status["failures"][0]["failure"]["kind"], "read-only");
    assert!(
        status["state"].as_str().unwrap().contains("read-only"),
        "{status}"
    );
    node.assert_tree("a", &site("1", 5));
    assert!(node.cli(&["status"]).status.success());
    let push =
        json!({"AppId": APP, "Data": [item("new", "1", "zip", &archive, &origin.url("/new"))]});
    let answer = node.ask("POST", "/v1/pushes", Some(&push));
    assert_eq!(
        answer.status,
        503,
        "{}",
        String::from_utf8_lossy(&answer.body)
    );
    // The disk is repaired, which takes an end of the agent: what was on the road goes on by itself.
    node.kill();
    disk.mount_again();
    node.start();
    assert_eq!(node.finish("held", "1")["state"], "succeeded");
    publish_small(&node, &origin, "a", "2");
    assert_eq!(state(&node), "ready");
}

/// Makes a mounted file system read-only while files on it are open for writing.
fn emergency_read_only(mount: &Path) {
    let mount = mount.to_str().unwrap();
    crate::support::disk::run("mount", &["-o", "remount,abort", mount]);
}

#[test]
fn a_write_that_is_refused_as_read_only_fails_the_file_once() {
    if !may_mount("a refused write") {
        return;
    }
    let origin = Origin::start();
    let mut node = TestNode::new("");
    node.start();
    publish_small(&node, &origin, "a", "1");
    node.stop();
    node.fail_calls("renameat2", "error=EROFS", &[]);
    node.start();
    let archive = tar_gz(&site("2", 5));
    origin.serve("/2", Reply::file(&archive));
    let push = item("a", "2", "tar.gz", &archive, &origin.url("/2"));
    assert_eq!(node.push_codes(&[push]), [0]);
    let file = node.finish("a", "2");
    failure(&file, "read-only");
    assert_eq!(file["starts"], 1, "{file}");
    for dir in ["staging", "spool"] {
        assert_eq!(node.list(dir), [""; 0]);
    }
    let archives = format!("archives/{APP}/a");
    assert_eq!(
        node.list(&archives),
        ["1"],
        "the archive is kept of what is published only"
    );
    assert_eq!(node.list(&format!("manifests/{APP}/a")), ["1.json"]);
    node.assert_tree("a", &site("1", 5));
}

#[test]
fn a_write_that_fails_fails_its_file_alone() {
    if !may_mount("a write that fails") {
        return;
    }
    let origin = Origin::start();
    let mut node = TestNode::new("");
    node.start();
    publish_small(&node, &origin, "a", "1");
    node.stop();
    // Where the bytes of these two are written. Jobs have numbers in a row, and so have attempts.
    let spooled = format!("{}.partial", spool_name("zipped"));
    let mut broken = vec![node.root().join("spool").join(spooled)];
    let staging = node.root().join("staging");
    broken.extend((0..12).map(|n| staging.join(format!("2-{n}/big.bin"))));
    node.fail_calls("write", "error=EIO", &broken);
    node.start();
    let (tar, zip) = (tar(&big(4 * MIB, 1)), zip(&big(4 * MIB, 2)));
    origin.serve("/tar", Reply::file(&tar));
    origin.serve("/zip", Reply::file(&zip));
    let items = [
        item("tarred", "1", "tar", &tar, &origin.url("/tar")),
        item("zipped", "1", "zip", &zip, &origin.url("/zip")),
        item("beside", "1", "zip", &zip, &origin.url("/zip")),
    ];
    assert_eq!(node.push_codes(&items), [0, 0, 0]);
    assert_eq!(node.finish("beside", "1")["state"], "succeeded");
    for name in ["tarred", "zipped"] {
        let file = node.finish(name, "1");
        let message = failure(&file, "io")["message"].as_str().unwrap();
        assert!(message.contains("os error 5"), "{message}");
        assert_eq!(file["starts"], 3, "{file}");
        assert!(!node.current(name).exists());
    }
    assert_eq!(node.list("staging"), [""; 0]);
    node.assert_tree("a", &site("1", 5));
    publish_small(&node, &origin, "a", "2");
}

/// What the archive of a file is called while it arrives.
fn spool_name(name: &str) -> String {
    use sha2::Digest as _;
    let digest = sha2::Sha256::digest(format!("{APP}\0{name}\x001"));
    hex::encode(&digest[..16])
}

#[test]
fn a_failed_sync_is_not_believed_and_not_repeated() {
    if !may_mount("a failed sync") {
        return;
    }
    let origin = Origin::start();
    let mut node = TestNode::new("");
    node.start();
    publish_small(&node, &origin, "a", "1");
    node.stop();
    // Each attempt's sync fails, the last one included.
    node.fail_calls("syncfs", "error=EIO", &[]);
    node.start();
    let archive = tar_gz(&site("2", 5));
    origin.serve("/2", Reply::file(&archive));
    let push = item("a", "2", "tar.gz", &archive, &origin.url("/2"));
    assert_eq!(node.push_codes(std::slice::from_ref(&push)), [0]);
    let file = node.finish("a", "2");
    failure(&file, "sync-failed");
    assert_eq!(file["starts"], 3, "{file}");
    node.assert_tree("a", &site("1", 5));
    assert_eq!(node.list("staging"), [""; 0]);
    node.kill();
    // The disk is well again.
    node.run_through(&[]);
    node.start();
    assert_eq!(node.push_codes(&[push]), [0]);
    assert_eq!(node.finish("a", "2")["state"], "succeeded");
    node.assert_tree("a", &site("2", 5));
}

#[test]
fn a_commit_that_fails_ends_the_process_and_the_next_start_recovers() {
    if !may_mount("a commit that fails") {
        return;
    }
    let origin = Origin::start();
    let mut node = TestNode::new("");
    node.start();
    publish_small(&node, &origin, "a", "1");
    node.stop();
    node.fail_calls("fsync,fdatasync", "error=EIO:when=5+", &[]);
    node.start();
    let archive = tar_gz(&site("2", 5));
    origin.serve("/2", Reply::file(&archive));
    let mut taken = Vec::new();
    for n in 2..40 {
        let version = n.to_string();
        let item = item("a", &version, "tar.gz", &archive, &origin.url("/2"));
        let push = json!({"AppId": APP, "Data": [item]});
        match http::unix(&node.socket(), "POST", "/v1/pushes", Some(&push)) {
            Ok(answer) if answer.status == 200 => taken.push(version),
            Ok(answer) => assert!(answer.status >= 500, "{}", answer.status),
            Err(_) => break,
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(
        !node.wait_end().success(),
        "it ends, and says that it failed"
    );
    node.run_through(&[]);
    node.start();
    for version in taken {
        assert_eq!(node.finish("a", &version)["state"], "succeeded");
    }
    publish_small(&node, &origin, "b", "1");
    assert_eq!(node.list("staging"), [""; 0]);
}

#[test]
fn without_descriptors_requests_wait_and_nothing_dies() {
    let origin = Origin::start();
    let mut node = TestNode::new("");
    node.run_through(&["prlimit", "--nofile=64:64"]);
    node.start();
    publish_small(&node, &origin, "a", "1");
    // 1. Idle connections take every descriptor there is.
    let idle: Vec<_> = (0..80)
        .filter_map(|_| std::os::unix::net::UnixStream::connect(node.socket()).ok())
        .collect();
    node.wait_for("every descriptor to be taken", PATIENCE, || {
        node.log().contains("accept_failed").then_some(())
    });
    drop(idle);
    // 2. They are gone, and the node answers and works again.
    node.wait_for("an answer", PATIENCE, || {
        let answer = http::unix(&node.socket(), "GET", "/v1/status", None).ok()?;
        (answer.status == 200).then_some(())
    });
    publish_small(&node, &origin, "a", "2");
    // 3. More files at once than there are descriptors for: none is lost, none hangs.
    let archive = tar_gz(&big(2 * MIB, 1));
    origin.serve(
        "/many",
        Reply::file(&archive).after(Duration::from_millis(200)),
    );
    let items: Vec<_> = (0..24)
        .map(|n| {
            item(
                &format!("m{n}"),
                "1",
                "tar.gz",
                &archive,
                &origin.url("/many"),
            )
        })
        .collect();
    let answer = node.ask(
        "POST",
        "/v1/pushes",
        Some(&json!({"AppId": APP, "Data": items})),
    );
    assert_eq!(answer.status, 200);
    let ended: Vec<_> = (0..24)
        .map(|n| finish_patiently(&node, &format!("m{n}")))
        .collect();
    eprintln!("with 64 descriptors: {ended:?}");
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.assert_tree("a", &site("2", 5));
    publish_small(&node, &origin, "a", "3");
}

/// As `finish`, where a single question may go unanswered.
fn finish_patiently(node: &TestNode, name: &str) -> String {
    let target = format!("/v1/files?app={APP}&name={name}&version=1");
    node.wait_for(&format!("{name} to end"), PATIENCE * 2, || {
        let answer = http::unix(&node.socket(), "GET", &target, None).ok()?;
        if answer.status != 200 {
            return None;
        }
        let file = answer.json()["files"][0].clone();
        let state = file["state"].as_str()?;
        matches!(state, "succeeded" | "failed").then(|| match state {
            "failed" => file["failure"]["kind"].as_str().unwrap_or("?").to_owned(),
            state => state.to_owned(),
        })
    })
}

#[test]
fn a_disk_that_hangs_leaves_the_node_answering() {
    if !may_mount("a disk that hangs") {
        return;
    }
    let origin = Origin::start();
    let disk = Disk::ext4("64M");
    let supervisor = Supervisor::new();
    let mut node = TestNode::with_root(&disk.path().join("data"), "");
    node.run_through(&supervisor.environment());
    node.start();
    publish_small(&node, &origin, "a", "1");
    let archive = tar_gz(&big(8 * MIB, 1));
    let gate = Gate::new();
    origin.serve(
        "/held",
        Reply::file(&archive).hold_at(4 * MIB as u64, &gate),
    );
    let mut held = item("held", "1", "tar.gz", &archive, &origin.url("/held"));
    held["timeout"] = json!(120);
    assert_eq!(node.push_codes(&[held]), [0]);
    origin.wait_for_hits("/held", 1);
    let frozen = disk.freeze();
    gate.open();
    // A push that waits for its commit hangs with the disk; it must not take the others with it.
    let socket = node.socket();
    let new =
        json!({"AppId": APP, "Data": [item("new", "1", "tar.gz", &archive, &origin.url("/new"))]});
    origin.serve("/new", Reply::file(&archive));
    let pushing = std::thread::spawn(move || {
        http::unix(&socket, "POST", "/v1/pushes", Some(&new)).map(|a| a.status)
    });
    for n in 0..20 {
        for target in ["/v1/status", "/healthz"] {
            let answer = http::unix(&node.socket(), "GET", target, None)
                .unwrap_or_else(|e| panic!("{target}, round {n}: {e}"));
            assert_eq!(answer.status, 200, "{target}");
        }
    }
    node.assert_tree("a", &site("1", 5));
    // Long enough, and the watchdog is not fed any more: whoever supervises the agent ends it. Status still answers.
    supervisor.wait_until_hungry(&node);
    assert!(node.cli(&["status"]).status.success());
    assert!(
        !pushing.is_finished(),
        "what waits for the disk is not answered"
    );
    node.wait_for("the node to say that it hangs", PATIENCE, || {
        state(&node).contains("hangs").then_some(())
    });
    drop(frozen);
    let status = pushing.join().unwrap();
    eprintln!("the push that waited: {status:?}");
    assert_eq!(node.finish("held", "1")["state"], "succeeded");
    publish_small(&node, &origin, "a", "2");
    supervisor.wait_until_fed(&node);
    assert_eq!(state(&node), "ready");
}

/// What supervises the agent: it hears when the watchdog is fed.
struct Supervisor {
    socket: std::os::unix::net::UnixDatagram,
    dir: tempfile::TempDir,
}

impl Supervisor {
    /// Ends an agent that says nothing for so long.
    const LIMIT: Duration = Duration::from_secs(3);

    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = std::os::unix::net::UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        Self { socket, dir }
    }

    /// How the agent is started.
    fn environment(&self) -> Vec<&'static str> {
        let socket = self.dir.path().join("notify");
        let variables = [
            "env".to_owned(),
            format!("NOTIFY_SOCKET={}", socket.display()),
            format!("WATCHDOG_USEC={}", Self::LIMIT.as_micros()),
        ];
        variables.map(|v| &*v.leak()).into()
    }

    /// Tells whether the watchdog was fed within a tenth of a second.
    fn is_fed(&self) -> bool {
        let mut message = [0; 4096];
        let received = self.socket.recv(&mut message);
        received.is_ok_and(|n| String::from_utf8_lossy(&message[..n]).contains("WATCHDOG=1"))
    }

    /// Waits until the agent has said nothing for longer than it may.
    fn wait_until_hungry(&self, node: &TestNode) {
        let mut since = Instant::now();
        node.wait_for("the watchdog to go hungry", PATIENCE, || {
            if self.is_fed() {
                since = Instant::now();
            }
            (since.elapsed() > Self::LIMIT).then_some(())
        });
    }

    fn wait_until_fed(&self, node: &TestNode) {
        node.wait_for("the watchdog to be fed", PATIENCE, || {
            self.is_fed().then_some(())
        });
    }
}
