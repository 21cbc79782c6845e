//! Memory does not grow with the archive: the figure is printed, and bounded.
//!
//! 128 MiB here; 2 GiB with `EDGEPUSH_TEST_LONG=1`.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::archive::noise;
use crate::support::node::{TestNode, item};
use crate::support::origin::{Gate, Origin, Reply};

/// The most that the agent may have held at any moment.
const MOST: u64 = 96 << 20;
/// The same for many archives of many members.
const MOST_OF_MANY: u64 = 128 << 20;
/// Written again and again: what does not compress costs no time to pack.
const BLOCK: usize = 1 << 20;

#[test]
fn a_big_archive_takes_no_more_memory_than_a_small_one() {
    let blocks = if std::env::var_os("EDGEPUSH_TEST_LONG").is_some() {
        2048
    } else {
        128
    };
    for (kind, pack) in [("tar.gz", tar_gz as fn(usize) -> Vec<u8>), ("zip", zip)] {
        let (origin, mut node) = (Origin::start(), TestNode::new(""));
        let archive = pack(blocks);
        let element = item("big", "1", kind, &archive, &origin.url("/big"));
        let length = archive.len();
        origin.serve("/big", Reply::file(archive));
        node.start();
        node.push(&[element]);
        let file = node.wait_for(
            "a big file to end",
            std::time::Duration::from_secs(300),
            || {
                let file = node.file("big", "1")?;
                (file["finished_ms"].is_number()).then_some(file)
            },
        );
        assert_eq!(file["state"], "succeeded", "{file}");
        let peak = node.memory().1;
        println!(
            "{kind} of {} MiB: at most {} MiB resident",
            length >> 20,
            peak >> 20
        );
        assert!(peak < MOST, "{kind}: {peak} bytes");
    }
}

/// Archives of many members that arrive at the same time and end together: what is held for each member is bounded over
/// all of them. 16 of 99,000 members with `EDGEPUSH_TEST_LONG=1`.
#[test]
fn the_entries_of_all_archives_together_are_bounded() {
    let long = std::env::var_os("EDGEPUSH_TEST_LONG").is_some();
    let (archives, members) = if long { (16, 99_000) } else { (2, 30_000) };
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    // As the shipped unit has it.
    node.set_env("MALLOC_ARENA_MAX", "2");
    node.set_env("MALLOC_MMAP_THRESHOLD_", "131072");
    node.start();
    let gate = Gate::new();
    let archive = many_members(members);
    let last = archive.len() as u64 - 1;
    let name = |n: usize| format!("many{n}");
    let items = (0..archives).map(|n| {
        let path = format!("/{n}");
        origin.serve(&path, Reply::file(&archive).hold_at(last, &gate));
        let mut item = item(&name(n), "1", "tar.gz", &archive, &origin.url(&path));
        item["timeout"] = 900.into();
        item
    });
    let items: Vec<_> = items.collect();
    node.push(&items);
    let patience = std::time::Duration::from_secs(900);
    node.wait_for("all but the ends to arrive", patience, || {
        let arrived = |n| {
            node.file(&name(n), "1")
                .is_some_and(|f| f["received"] == last)
        };
        (0..archives).all(arrived).then_some(())
    });
    gate.open();
    for n in 0..archives {
        let file = node.wait_for("a file to end", patience, || {
            let file = node.file(&name(n), "1")?;
            file["finished_ms"].is_number().then_some(file)
        });
        assert_eq!(file["state"], "succeeded", "{file}");
    }
    let (now, peak) = node.memory();
    println!(
        "{archives} of {members} members: {} MiB at most, {} MiB in the end",
        peak >> 20,
        now >> 20
    );
    assert!(peak < MOST_OF_MANY, "{peak} bytes");
}

/// A tar.gz of empty files, larger than what is held whole.
fn many_members(members: usize) -> Vec<u8> {
    let mut files: Vec<_> = (0..members)
        .map(|n| (format!("d{:03}/f{n:06}", n / 1000), Vec::new()))
        .collect();
    files.push(("noise".to_owned(), noise(2 * BLOCK, 3)));
    crate::support::archive::tar_gz(&files)
}

fn tar_gz(blocks: usize) -> Vec<u8> {
    let block = noise(BLOCK, 7);
    let mut out = GzEncoder::new(
        Vec::with_capacity((blocks + 4) * BLOCK),
        Compression::none(),
    );
    let mut header = tar::Header::new_gnu();
    header.set_path("big.bin").unwrap();
    header.set_size((blocks * BLOCK) as u64);
    header.set_mode(0o644);
    header.set_cksum();
    out.write_all(header.as_bytes()).unwrap();
    for _ in 0..blocks {
        out.write_all(&block).unwrap();
    }
    out.write_all(&[0; 1024]).unwrap();
    out.finish().unwrap()
}

fn zip(blocks: usize) -> Vec<u8> {
    let block = noise(BLOCK, 9);
    let out = std::io::Cursor::new(Vec::with_capacity((blocks + 4) * BLOCK));
    let mut writer = zip::ZipWriter::new(out);
    let stored = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .large_file(true)
        .unix_permissions(0o644);
    writer.start_file("big.bin", stored).unwrap();
    for _ in 0..blocks {
        writer.write_all(&block).unwrap();
    }
    writer.finish().unwrap().into_inner()
}
