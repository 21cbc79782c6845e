//! Code shared by the fuzz targets. The modules under test are compiled from their source files,
//! which keeps the other dependencies of edgepush out of the build.

#![allow(dead_code, unreachable_pub)]

#[path = "../../src/datafile/mod.rs"]
pub mod datafile;
#[path = "../../src/unpack/mod.rs"]
pub mod unpack;

pub mod build;
pub mod check;
pub mod deflate;
pub mod disk;
pub mod fixed;
pub mod forked;
pub mod input;
pub mod others;
pub mod plain;
pub mod repair;
pub mod sys;

use std::cell::RefCell;
use std::fs::File;
use std::io::{Seek, Write};

use input::Input;
use unpack::{Error, Limits, Options, Target, Tree};

/// Small limits, so that inputs run fast and each limit is reached now and then.
pub fn limits() -> Limits {
    Limits {
        max_entries: 48,
        // Room for a filler and a few files more.
        max_total_bytes: 264 << 10,
        max_file_bytes: 256 << 10,
        max_path_bytes: 512,
        max_component_bytes: 100,
        max_depth: 12,
        max_ratio: 200,
        ratio_floor_bytes: 300 << 10,
        max_meta_bytes: 2048,
        max_zip_directory_bytes: 8192,
    }
}

/// Returns the options that `input` asks for.
pub fn options(input: &Input) -> Options {
    Options {
        limits: limits(),
        zip_name_encoding: input.encoding,
        threads: input.threads,
        ..Options::new(&unpack::Config::default())
    }
}

/// Unpacks `input` as if it came from disk.
pub fn unpack(input: &Input, target: Target, options: &Options) -> Result<Tree, Error> {
    let format = input.format;
    if format.is_streamable() {
        return unpack::unpack_stream(format, &input.archive[..], target, options);
    }
    in_memory(&input.archive, |file| {
        unpack::unpack(format, file, target, options)
    })
}

/// Calls `f` with a file that holds `bytes` in memory only.
fn in_memory<T>(bytes: &[u8], f: impl FnOnce(&File) -> T) -> T {
    thread_local! {
        static FILE: RefCell<Option<File>> = const { RefCell::new(None) };
    }
    FILE.with_borrow_mut(|kept| {
        let file = kept.get_or_insert_with(|| {
            let flags = rustix::fs::MemfdFlags::CLOEXEC;
            rustix::fs::memfd_create("archive", flags)
                .expect("a file in memory")
                .into()
        });
        file.set_len(0).expect("an empty file");
        file.rewind().expect("its start");
        file.write_all(bytes).expect("room for an archive");
        f(file)
    })
}
