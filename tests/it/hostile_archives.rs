//! Archives, good and hostile: a good one becomes exactly its tree, a hostile one leaves nothing, inside or outside.
//!
//! `tests/archives/make_hostile.py` makes several hundred archives, each with its right result; here they are run against
//! the binary. What is beside that is built in the tests.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use edgepush::datafile::ArchiveType;
use edgepush::datafile::tree::EntryKind;
use edgepush::unpack::{
    self, Config, Error, NameEncoding, Options, SpareBlocks, Target, Tree, unpack, unpack_stream,
};
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::support::archive::{noise, sha256, site};
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

/// A private directory to unpack into, and bait beside it.
struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        fs::DirBuilder::new()
            .mode(0o700)
            .create(temp.path().join("tree"))
            .unwrap();
        fs::create_dir(temp.path().join("outside")).unwrap();
        fs::write(temp.path().join("outside/bait"), "bait").unwrap();
        Self { temp }
    }

    fn tree(&self) -> PathBuf {
        self.temp.path().join("tree")
    }

    fn target(&self) -> Target {
        Target::Directory(File::open(self.tree()).unwrap().into())
    }

    /// What is in the tree, by path: a description of each entry.
    fn found(&self) -> BTreeMap<Vec<u8>, String> {
        let mut found = BTreeMap::new();
        look(&self.tree(), &self.tree(), &mut found);
        found
    }

    /// Fails unless the tree is empty and the bait is as it was.
    fn assert_untouched(&self, story: &str) {
        let left: Vec<_> = self.found().into_keys().collect();
        assert!(left.is_empty(), "{story}: left {left:?}");
        assert_eq!(
            fs::read_dir(self.temp.path()).unwrap().count(),
            2,
            "{story}"
        );
        let outside = self.temp.path().join("outside");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{story}");
        let bait = outside.join("bait");
        assert_eq!(fs::read(&bait).unwrap(), b"bait", "{story}");
        assert_eq!(fs::metadata(&bait).unwrap().nlink(), 1, "{story}");
    }
}

fn look(root: &Path, dir: &Path, found: &mut BTreeMap<Vec<u8>, String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let mode = metadata.permissions().mode() & 0o7777;
        let mtime = metadata.mtime();
        let what = if metadata.is_dir() {
            look(root, &path, found);
            format!("dir {mode:o}")
        } else if metadata.is_symlink() {
            format!("link {:?}", fs::read_link(&path).unwrap())
        } else {
            format!(
                "file {mode:o} {mtime} {}",
                sha256(&fs::read(&path).unwrap())
            )
        };
        found.insert(name.to_vec(), what);
    }
}

/// What the tree should look like on the disk, by what the unpacker said of it.
fn told(tree: &Tree) -> BTreeMap<Vec<u8>, String> {
    let entries = tree.entries.iter().map(|entry| {
        let mode = entry.mode;
        let what = match &entry.kind {
            EntryKind::Dir => format!("dir {mode:o}"),
            EntryKind::Symlink { target } => {
                format!("link {:?}", Path::new(std::ffi::OsStr::from_bytes(target)))
            }
            EntryKind::File { sha256, .. } => format!(
                "file {mode:o} {} {}",
                entry.mtime.unwrap().secs,
                sha256.unwrap()
            ),
        };
        (entry.path.clone(), what)
    });
    entries.collect()
}

fn options(threads: bool) -> Options {
    Options {
        threads,
        ..Options::new(&Config::default())
    }
}

/// Returns what the archive `bytes` is, a tar or a tar in gzip.
fn type_of(bytes: &[u8]) -> ArchiveType {
    match bytes[0] {
        0x1f => ArchiveType::TarGz,
        _ => ArchiveType::Tar,
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = GzEncoder::new(Vec::new(), Compression::fast());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

/// Builds a tar member by member.
struct Tar(tar::Builder<Vec<u8>>);

impl Tar {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn header(kind: tar::EntryType, mode: u32) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_mtime(1_600_000_000);
        header.set_size(0);
        header
    }

    fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Self {
        let mut header = Self::header(tar::EntryType::Regular, mode);
        header.set_size(content.len() as u64);
        self.0.append_data(&mut header, path, content).unwrap();
        self
    }

    fn dir(mut self, path: &str, mode: u32) -> Self {
        let mut header = Self::header(tar::EntryType::Directory, mode);
        self.0.append_data(&mut header, path, io::empty()).unwrap();
        self
    }

    fn link(mut self, kind: tar::EntryType, path: &str, target: &str) -> Self {
        let mut header = Self::header(kind, 0o777);
        self.0.append_link(&mut header, path, target).unwrap();
        self
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Symlink, path, target)
    }

    fn hard(self, path: &str, target: &str) -> Self {
        self.link(tar::EntryType::Link, path, target)
    }

    /// A member whose name the library would not write.
    fn raw(mut self, name: &[u8], kind: u8, target: &[u8], content: &[u8]) -> Self {
        let mut header = Self::header(tar::EntryType::new(kind), 0o644);
        header.set_size(content.len() as u64);
        let old = header.as_old_mut();
        old.name[..name.len()].copy_from_slice(name);
        old.linkname[..target.len()].copy_from_slice(target);
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn end(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

#[test]
fn every_archive_of_the_corpus_has_its_right_result() {
    let temp = tempfile::tempdir().unwrap();
    let corpus = temp.path().join("corpus");
    let made = Command::new("python3")
        .arg("tests/archives/make_hostile.py")
        .arg(&corpus)
        .output();
    if let Err(error) = made {
        assert!(std::env::var_os("CI").is_none(), "python3: {error}");
        eprintln!("SKIPPED: python3 is not installed ({error})");
        return;
    }
    let run = Command::new("python3")
        .arg("tests/archives/run_corpus.py")
        .arg(&corpus)
        .args(["--edgepush", env!("CARGO_BIN_EXE_edgepush")])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && said.trim_end().ends_with(" passed, 0 failed"),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

#[test]
fn a_tar_becomes_its_tree_with_a_thread_that_writes_and_without() {
    let mut tar = Tar::new().dir("./", 0o755).dir("empty", 0o1777);
    for (path, content) in site("7", 400) {
        tar = tar.file(&path, 0o4644, &content);
    }
    let long = format!("{}/name", "directory-with-a-long-name".repeat(6));
    let tar = tar
        .file("big", 0o755, &noise(3_000_000, 1))
        .file(&long, 0o600, b"deep")
        .symlink("link", "site/d00")
        .hard("site/d05/hard", "big")
        .file("big", 0o644, b"the old bytes live on in the link")
        .file("none", 0o000, b"")
        .end();
    let mut trees = Vec::new();
    for (threads, spare) in [(false, 1), (true, 1), (true, 0)] {
        let mut options = options(threads);
        // Without spare blocks the writer is waited for more often, and never in vain.
        options.spare_blocks = Arc::new(SpareBlocks::for_archives(spare));
        for archive in [tar.clone(), gzip(&tar)] {
            let place = Place::new();
            let tree =
                unpack_stream(type_of(&archive), &archive[..], place.target(), &options).unwrap();
            assert_eq!(place.found(), told(&tree), "threads: {threads}");
            assert_eq!(tree.files, 404);
            trees.push(tree);
        }
    }
    let checked = unpack_stream(ArchiveType::Tar, &tar[..], Target::Check, &options(true)).unwrap();
    assert_eq!(checked.entries.len(), trees[0].entries.len());
    let first = trees.remove(0);
    assert!(trees.iter().all(|tree| *tree == first));
    let big = noise(3_000_000, 1);
    let find = |path: &str| told(&first).remove(path.as_bytes()).unwrap();
    assert_eq!(
        find("site/d05/hard"),
        format!("file 755 1600000000 {}", sha256(&big))
    );
    assert_eq!(find("empty"), "dir 755");
    assert_eq!(find("none"), format!("file 0 1600000000 {}", sha256(b"")));
    assert_eq!(find("link"), "link \"site/d00\"");
}

#[test]
fn a_zip_becomes_its_tree_with_any_number_of_threads() {
    let mut writer = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let deflated = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Deflated)
        .unix_permissions(0o640);
    let stored = deflated.compression_method(zip::CompressionMethod::Stored);
    for (n, (path, content)) in site("7", 300).into_iter().enumerate() {
        let options = if n % 3 == 0 { stored } else { deflated };
        writer.start_file(path, options).unwrap();
        writer.write_all(&content).unwrap();
    }
    writer.start_file("big", deflated).unwrap();
    writer.write_all(&noise(2_000_000, 2)).unwrap();
    writer.add_directory("empty", deflated).unwrap();
    writer.add_symlink("link", "site/d00", deflated).unwrap();
    let bytes = writer.finish().unwrap().into_inner();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let mut trees = Vec::new();
    for threads in [false, true] {
        let place = Place::new();
        let tree = unpack(ArchiveType::Zip, &file, place.target(), &options(threads)).unwrap();
        assert_eq!(place.found(), told(&tree), "threads: {threads}");
        trees.push(tree);
    }
    assert_eq!(trees[0].files, 301);
    assert!(trees.iter().all(|tree| *tree == trees[0]));
    unpack(ArchiveType::Zip, &file, Target::Check, &options(true)).unwrap();
}

#[test]
fn a_hostile_tar_leaves_nothing_inside_or_outside() {
    // Enough before the lie that the writer is busy when it is found.
    let start = || {
        let mut tar = Tar::new();
        for (path, content) in site("7", 100) {
            tar = tar.file(&path, 0o644, &content);
        }
        tar.file("big", 0o644, &noise(600_000, 3))
    };
    let stories: Vec<(&str, &str, Tar)> = vec![
        (
            "a name that climbs out",
            "path-dotdot",
            start().raw(b"site/../../outside/bait", b'0', b"", b"pwned"),
        ),
        (
            "a link out and a file through it",
            "symlink-escape",
            start().raw(b"site/way", b'2', b"../../outside", b"").raw(
                b"site/way/bait",
                b'0',
                b"",
                b"pwned",
            ),
        ),
        (
            "a link inside and a file through it",
            "parent-symlink",
            start().symlink("way", "site").file("way/x", 0o644, b"x"),
        ),
        (
            "links that lead out together",
            "symlink-escape",
            start()
                .symlink("site/d00/up", "../..")
                .symlink("site/out", "d00/up/../outside"),
        ),
        (
            "a hard link to a file outside",
            "hardlink-escape",
            start().raw(b"loot", b'1', b"../outside/bait", b""),
        ),
        (
            "a directory swapped for a link",
            "path-conflict",
            start().raw(b"site", b'2', b"outside", b""),
        ),
        (
            "a device at the end",
            "special-file",
            start().raw(b"null", b'3', b"", b""),
        ),
    ];
    for (story, reason, tar) in stories {
        let mut bytes = tar.end();
        if reason == "symlink-escape" {
            bytes = gzip(&bytes);
        }
        for threads in [false, true] {
            let place = Place::new();
            symlink("outside", place.temp.path().join("outside/self")).unwrap();
            fs::remove_file(place.temp.path().join("outside/self")).unwrap();
            let error = unpack_stream(
                type_of(&bytes),
                &bytes[..],
                place.target(),
                &options(threads),
            )
            .unwrap_err();
            assert_eq!(error.kind().name, reason, "{story}: {error}");
            place.assert_untouched(story);
        }
    }
}

#[test]
fn a_cut_anywhere_is_seen_and_leaves_nothing() {
    let tar = Tar::new()
        .dir("d", 0o755)
        .file("d/a", 0o644, &noise(700, 4))
        .file("b", 0o644, b"b")
        .end();
    let whole = gzip(&tar);
    let place = Place::new();
    for end in 0..whole.len() {
        let error = unpack_stream(
            ArchiveType::TarGz,
            &whole[..end],
            place.target(),
            &options(true),
        )
        .unwrap_err();
        let name = error.kind().name;
        assert!(
            matches!(name, "truncated" | "not-an-archive"),
            "cut at {end}: {name}"
        );
        place.assert_untouched("a cut");
    }
    // Bytes that arrive one by one are the same bytes.
    let slow = BufReader::with_capacity(1, &whole[..]);
    let tree = unpack_stream(ArchiveType::TarGz, slow, place.target(), &options(true)).unwrap();
    assert_eq!(place.found(), told(&tree));
}

#[test]
fn an_error_of_the_input_comes_back_as_it_was() {
    #[derive(Debug, thiserror::Error)]
    #[error("the origin went away")]
    struct Gone;
    struct Input(Cursor<Vec<u8>>);
    impl Read for Input {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::Error::new(io::ErrorKind::ConnectionReset, Gone)),
                n => Ok(n),
            }
        }
    }
    let mut tar = Tar::new();
    for (path, content) in site("7", 300) {
        tar = tar.file(&path, 0o644, &content);
    }
    let mut bytes = gzip(&tar.file("big", 0o644, &noise(900_000, 5)).end());
    bytes.truncate(800_000);
    let place = Place::new();
    let input = BufReader::new(Input(Cursor::new(bytes)));
    match unpack_stream(ArchiveType::TarGz, input, place.target(), &options(true)).unwrap_err() {
        Error::Input(error) => {
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
            assert!(error.get_ref().is_some_and(|inner| inner.is::<Gone>()));
        }
        other => panic!("{other}"),
    }
    place.assert_untouched("an origin that went away");
}

#[test]
fn a_stop_from_outside_ends_the_work_and_leaves_nothing() {
    /// Sets the flag once so many bytes were taken.
    struct Input {
        bytes: Cursor<Vec<u8>>,
        at: u64,
        flag: Arc<AtomicBool>,
    }
    impl Read for Input {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.bytes.read(buffer)
        }
    }
    impl BufRead for Input {
        fn fill_buf(&mut self) -> io::Result<&[u8]> {
            if self.bytes.position() >= self.at {
                self.flag.store(true, Ordering::Relaxed);
            }
            let rest = self.bytes.fill_buf()?;
            Ok(&rest[..rest.len().min(10_000)])
        }
        fn consume(&mut self, n: usize) {
            self.bytes.consume(n);
        }
    }
    let tar = Tar::new().file("big", 0o644, &noise(4_000_000, 6)).end();
    let place = Place::new();
    let options = options(true);
    let input = Input {
        bytes: Cursor::new(tar),
        at: 1_000_000,
        flag: Arc::clone(&options.cancel),
    };
    let error = unpack_stream(ArchiveType::Tar, input, place.target(), &options).unwrap_err();
    assert!(matches!(error, Error::Canceled), "{error}");
    place.assert_untouched("a stop");
}

#[test]
fn modes_do_not_depend_on_the_umask_of_the_process() {
    let tar = Tar::new().dir("d", 0o777).file("d/f", 0o666, b"x").end();
    let open = Options {
        umask: 0,
        ..options(true)
    };
    let place = Place::new();
    unpack_stream(ArchiveType::Tar, &tar[..], place.target(), &open).unwrap();
    let found = place.found();
    assert_eq!(found[&b"d"[..]], "dir 777");
    assert!(found[&b"d/f"[..]].starts_with("file 666 "));
}

#[test]
fn tells_how_much_was_written() {
    let (files, bytes) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (f, b) = (Arc::clone(&files), Arc::clone(&bytes));
    let options = Options {
        on_written: Some(Arc::new(move |files, bytes| {
            f.fetch_add(files, Ordering::Relaxed);
            b.fetch_add(bytes, Ordering::Relaxed);
        })),
        ..options(true)
    };
    let tar = Tar::new()
        .file("a", 0o644, &noise(1_000_000, 7))
        .file("b", 0o644, b"b")
        .end();
    let place = Place::new();
    let tree = unpack_stream(ArchiveType::Tar, &tar[..], place.target(), &options).unwrap();
    assert_eq!(files.load(Ordering::Relaxed), tree.files);
    assert_eq!(bytes.load(Ordering::Relaxed), tree.bytes);
}

#[test]
fn a_confined_thread_unpacks_as_any_other() {
    let tar = Tar::new()
        .file("d/a", 0o644, b"a")
        .hard("e/b", "d/a")
        .symlink("l", "d")
        .file("d/a", 0o644, b"again")
        .end();
    let place = Place::new();
    let confined = Options {
        sandbox: Some(place.temp.path().into()),
        ..options(true)
    };
    let target = place.target();
    let tree = std::thread::scope(|scope| {
        let work = || unpack_stream(ArchiveType::Tar, &tar[..], target, &confined);
        scope.spawn(work).join().unwrap().unwrap()
    });
    assert_eq!(place.found(), told(&tree));
}

#[test]
fn names_of_old_chinese_tools_are_read_when_a_node_is_told_to() {
    // "说明\昞文.txt" in GBK; the second byte of 昞 is a backslash in ASCII.
    let name = b"\xcb\xb5\xc3\xf7\\\x95\x5c\xce\xc4.txt";
    let bytes = dos_zip(name, b"x");
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&bytes).unwrap();
    let path = |encoding| {
        let options = Options {
            zip_name_encoding: encoding,
            ..options(true)
        };
        unpack(ArchiveType::Zip, &file, Target::Check, &options)
            .map(|tree| String::from_utf8(tree.entries.last().unwrap().path.clone()).unwrap())
            .map_err(|error| error.kind().name)
    };
    assert_eq!(path(NameEncoding::Gbk), Ok("说明/昞文.txt".to_owned()));
    assert_eq!(path(NameEncoding::Utf8), Err("name-encoding"));
    assert!(path(NameEncoding::Auto).unwrap().contains('/'));
}

#[test]
fn an_application_may_have_zips_of_old_chinese_tools() {
    let extra = format!("[apps.{APP:?}]\nzip_name_encoding = \"gbk\"\n");
    let (origin, mut node) = (Origin::start(), TestNode::new(&extra));
    let archive = dos_zip(b"\xcb\xb5\xc3\xf7\\\x95\x5c\xce\xc4.txt", b"x");
    origin.serve("/a", Reply::file(&archive));
    node.start();
    let pushed = item("a", "1", "zip", &archive, &origin.url("/a"));
    node.push(std::slice::from_ref(&pushed));
    let file = node.finish("a", "1");
    assert_eq!(file["state"], "succeeded", "{file}");
    node.assert_tree("a", &[("说明/昞文.txt".to_owned(), b"x".to_vec())]);
    // Another application's zips are read as the format says: the trail byte is a separator there.
    let other = serde_json::json!({ "AppId": "other", "Data": [pushed] });
    node.ask("POST", "/v1/pushes", Some(&other));
    let current = node.root().join("data/other/a/current");
    node.wait_for("the other application's file", PATIENCE, || {
        current.exists().then_some(())
    });
    let names: Vec<_> = fs::read_dir(current).unwrap().collect();
    assert_eq!(names.len(), 1);
    let name = names[0].as_ref().unwrap().file_name();
    assert!(name.to_str().unwrap().starts_with('╦'), "{name:?}");
}

/// A zip of one stored file, as DOS tools wrote it: no flag, host 0.
fn dos_zip(name: &[u8], content: &[u8]) -> Vec<u8> {
    let mut crc = flate2::Crc::new();
    crc.update(content);
    let sizes: Vec<u8> = [crc.sum(), content.len() as u32, content.len() as u32]
        .iter()
        .flat_map(|n| n.to_le_bytes())
        .collect();
    let name_len = (name.len() as u16).to_le_bytes();
    let common = [
        &[20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0][..],
        &sizes,
        &name_len,
        &[0, 0],
    ]
    .concat();
    let local = [b"PK\x03\x04", &common[..], name, content].concat();
    let listed = [b"PK\x01\x02\x14\x00", &common[..], &[0; 14], name].concat();
    let end = [
        b"PK\x05\x06\0\0\0\0\x01\0\x01\0",
        &(listed.len() as u32).to_le_bytes()[..],
        &(local.len() as u32).to_le_bytes(),
        &[0, 0],
    ]
    .concat();
    [local, listed, end].concat()
}

#[test]
fn what_pack_makes_every_agent_accepts_and_it_is_the_same_each_time() {
    let temp = tempfile::tempdir().unwrap();
    let source = temp.path().join("source");
    for (path, content) in site("1", 40) {
        let path = source.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    symlink("site/d00", source.join("link")).unwrap();
    fs::create_dir(source.join("empty")).unwrap();
    let run = |arguments: &[&str], path: &Path| {
        let output = Command::new(env!("CARGO_BIN_EXE_edgepush"))
            .arg("archive")
            .args(arguments)
            .arg(path)
            .arg("--json")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    for name in ["a.tar.gz", "a.zip", "a.tar"] {
        let (one, two) = (temp.path().join(name), temp.path().join(format!("b{name}")));
        let pack = |out| run(&["pack", source.to_str().unwrap()], out);
        let item = pack(&one);
        assert_eq!(pack(&two)["md5"], item["md5"], "{name}");
        let bytes = fs::read(&one).unwrap();
        assert_eq!(item["size"], bytes.len());
        assert_eq!(item["md5"], crate::support::archive::md5(&bytes));
        assert_eq!(item["sha256"], sha256(&bytes));
        let answer = run(&["check"], &one);
        assert_eq!(answer["verdict"], "accept", "{name}");
        assert_eq!(answer["files"], 40, "{name}");
        assert_eq!(answer["type"], item["archiveType"], "{name}");
    }
}

#[test]
fn pack_refuses_what_no_agent_accepts_and_keeps_odd_names_and_targets() {
    let temp = tempfile::tempdir().unwrap();
    let archive = |verb: &str, paths: &[&Path]| {
        Command::new(env!("CARGO_BIN_EXE_edgepush"))
            .args(["archive", verb])
            .args(paths)
            .output()
            .unwrap()
    };
    let tree = |name: &str| {
        let dir = temp.path().join(name);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("a"), "x").unwrap();
        dir
    };
    let deep = tree("deep");
    fs::create_dir_all(deep.join("d/".repeat(140))).unwrap();
    for (target, reason) in [
        ("/etc/passwd", "symlink-absolute"),
        ("../x", "symlink-escape"),
        ("l", "symlink-loop"),
    ] {
        let dir = tree(reason);
        symlink(target, dir.join("l")).unwrap();
        for end in [".zip", ".tar", ".tar.gz"] {
            let to = temp.path().join(format!("refused{end}"));
            let output = archive("pack", &[&dir, &to]);
            let message = String::from_utf8_lossy(&output.stderr);
            assert!(
                !output.status.success() && message.contains(reason),
                "{message}"
            );
            assert!(!to.exists());
        }
    }
    let output = archive("pack", &[&deep, &temp.path().join("deep.zip")]);
    assert!(output.status.success(), "a node may have raised the limit");
    assert!(String::from_utf8_lossy(&output.stderr).contains("max_depth"));

    let odd = tree("odd");
    fs::create_dir(odd.join("d\\")).unwrap();
    symlink("a/.", odd.join("l")).unwrap();
    for name in ["odd.zip", "odd.tar"] {
        let to = temp.path().join(name);
        let output = archive("pack", &[&odd, &to]);
        assert!(output.status.success(), "{output:?}");
        let into = temp.path().join(format!("into-{name}"));
        let output = archive("check", &[&to, Path::new("--into"), &into]);
        assert!(output.status.success(), "{output:?}");
        assert!(into.join("d\\").is_dir());
        assert_eq!(fs::read_link(into.join("l")).unwrap(), Path::new("a/."));
    }
    let output = archive("pack", &[&odd, &odd.join("inside.tar")]);
    assert!(!output.status.success() && !odd.join("inside.tar").exists());
}

#[test]
fn what_is_no_regular_file_is_no_archive_and_ends_at_once() {
    let temp = tempfile::tempdir().unwrap();
    let fifo = temp.path().join("fifo");
    rustix::fs::mkfifoat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
    )
    .unwrap();
    for path in [fifo.as_path(), temp.path()] {
        let output = Command::new(env!("CARGO_BIN_EXE_edgepush"))
            .args(["archive", "check"])
            .arg(path)
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(message.contains("is not a regular file"), "{message}");
    }
}

#[test]
fn every_kind_of_failure_has_a_help_text() {
    for kind in unpack::KINDS {
        assert!(kind.help.ends_with('.'), "{kind}: {}", kind.help);
        assert!(
            kind.name
                .bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'-'),
            "{kind}"
        );
    }
}
