//! Memory does not grow with the archive: the figure is printed, and bounded.
//!
//! 128 MiB here; 2 GiB with `EDGEPUSH_TEST_LONG=1`.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::archive::noise;
use crate::support::node::{TestNode, item};
use crate::support::origin::{Origin, Reply};

/// The most that the agent may have held at any moment.
const MOST: u64 = 96 << 20;
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
