//! One archive with ever more files, through `archive check --into` and through a push: the time per file should not grow.
//! Each file is 400 bytes of text, 100 to a directory. `to` is the last step.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use md5::Digest as _;
use serde_json::json;

use crate::Options;
use crate::figures::ms;
use crate::support::node::{APP, TestNode};

const STEPS: [usize; 4] = [1_000, 10_000, 100_000, 500_000];

pub(crate) fn run(options: &Options) {
    let to = options.number("to", 500_000);
    println!("| files | check --into, ms | us a file | push, ms | us a file |");
    println!("|---|---|---|---|---|");
    for files in STEPS.into_iter().filter(|step| *step <= to) {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("a.tar.gz");
        write(&archive, files);
        let checked = check(dir.path(), &archive);
        let pushed = push(&archive);
        let each = |time: Duration| time.as_secs_f64() * 1e6 / files as f64;
        println!(
            "| {files} | {} | {:.1} | {} | {:.1} |",
            ms(checked),
            each(checked),
            ms(pushed),
            each(pushed)
        );
    }
}

pub(crate) fn write(path: &Path, files: usize) {
    let file = BufWriter::new(File::create(path).unwrap());
    let mut builder = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for n in 0..files {
        let text = format!("file {n} of many, all alike\n").repeat(14);
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        let name = format!("site/d{:04}/f{n:06}.txt", n / 100);
        builder
            .append_data(&mut header, name, text.as_bytes())
            .unwrap();
    }
    let gzip = builder.into_inner().unwrap();
    gzip.finish().unwrap().flush().unwrap();
}

fn check(dir: &Path, archive: &Path) -> Duration {
    let started = Instant::now();
    let checked = Command::new(env!("CARGO_BIN_EXE_edgepush"))
        .args([
            "archive",
            "check",
            "--limit",
            "max_entries=2000000",
            "--into",
        ])
        .arg(dir.join("tree"))
        .arg(archive)
        .output()
        .unwrap();
    let took = started.elapsed();
    assert!(checked.status.success(), "{checked:?}");
    std::fs::remove_dir_all(dir.join("tree")).unwrap();
    took
}

fn push(archive: &Path) -> Duration {
    let mut node = TestNode::new(
        "[log]\nlevel = \"warn\"\n[unpack.limits]\nmax_entries = 2000000\n[publish]\nkeep_archives = false\n",
    );
    node.start();
    let took = publish(&node, "many", "1", archive);
    assert!(node.stop().success());
    took
}

/// Pushes a file of this machine and waits until it is published.
pub(crate) fn publish(node: &TestNode, name: &str, version: &str, archive: &Path) -> Duration {
    let bytes = std::fs::read(archive).unwrap();
    let item = json!({"name": name, "version": version, "size": bytes.len(), "archiveType": "tar.gz",
        "md5": hex::encode(md5::Md5::digest(&bytes)), "url": format!("file://{}", archive.display())});
    let started = Instant::now();
    let push = json!({"AppId": APP, "Data": [item]});
    let answer = node.ask("POST", "/v1/pushes", Some(&push)).json();
    let push = answer["push"].as_str().unwrap().to_owned();
    loop {
        let state = node.ask("GET", &format!("/v1/pushes/{push}"), None).json();
        if state["done"] == true {
            assert_eq!(state["files"][0]["state"], "succeeded", "{state}");
            return started.elapsed();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
