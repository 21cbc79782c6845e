//! Other tools read an accepted archive as edgepush does: where readers disagree, one of them can
//! be deceived.
//!
//! A tool that refuses an archive is no finding, and neither is a known difference: see `differs`.
//! All tools must make the same tree of a plain archive (`plain`). Of any other, one tool per entry
//! has to agree: then edgepush reads it as a common reader does, and the other tool is odd. An
//! entry that no tool reads like edgepush is always a finding. What a tool wrote counts even if it
//! exits with an error: GNU tar unpacks a file whose mode is not a number, and then reports
//! failure.

#![no_main]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use edgepush_fuzz::datafile::ArchiveType;
use edgepush_fuzz::datafile::tree::{Entry, EntryKind};
use edgepush_fuzz::disk::Place;
use edgepush_fuzz::input::Input;
use edgepush_fuzz::others::{self, Tool};
use edgepush_fuzz::unpack::{Target, Tree};
use edgepush_fuzz::{fixed, options, plain, unpack};
use libfuzzer_sys::{Corpus, fuzz_mutator, fuzz_target};

fuzz_mutator!(
    |data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
        fixed::next(data, size, max_size)
    }
);

fuzz_target!(|data: &[u8]| -> Corpus {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let Some(input) = Input::parse(data) else {
        return Corpus::Reject;
    };
    let options = options(&input);
    // Most inputs are refused, and checking them is fast.
    if unpack(&input, Target::Check, &options).is_err() {
        return Corpus::Keep;
    }
    let place = PLACE.get_or_init(|| Place::new("differential"));
    let tree = unpack(&input, place.target(), &options).expect("it was checked");
    place.clear();
    let archive = others::write(&input, place);
    let mut readers = Vec::new();
    for tool in Tool::all(input.format) {
        let content = tool.unpack(&archive, place);
        let found = place.found();
        // bsdtar guesses the format, and finds nothing in an archive whose first header has an odd
        // number.
        let content = content && (tool != Tool::Bsdtar || !found.is_empty() || plain::is(&input));
        let differences = others::differences(tool, &tree, &found);
        readers.push((tool, content, differences));
        if content {
            tell();
        }
        place.assert_untouched();
        place.clear();
    }
    for (tool, content, differences) in &readers {
        if !content || differences.is_empty() || differs(*tool, &input, &tree) {
            continue;
        }
        for (path, different) in differences {
            let agreed = readers
                .iter()
                .any(|(_, _, other)| !other.contains_key(path));
            assert!(agreed, "no tool reads it like edgepush: {different}");
            assert!(!plain::is(&input), "readers disagree: {different}");
        }
    }
    Corpus::Keep
});

/// Returns whether a tar contains a sparse file.
fn has_sparse(tar: &[u8]) -> bool {
    let named = b"GNU.sparse.";
    tar.windows(named.len()).any(|w| w == named) || headers(tar, b'S') > 0
}

/// Returns whether a later member of a tar replaced a link.
fn has_replaced_link(tar: &[u8], tree: &Tree) -> bool {
    let is_link = |entry: &&Entry| matches!(entry.kind, EntryKind::Symlink { .. });
    headers(tar, b'2') > tree.entries.iter().filter(is_link).count()
}

/// Counts the blocks that would be of type `kind` if they were headers.
fn headers(tar: &[u8], kind: u8) -> usize {
    let blocks = tar.chunks_exact(512);
    blocks.filter(|header| header[156] == kind).count()
}

/// Returns whether `is` holds for any record of a zip's directory.
fn has_record(zip: &[u8], is: impl Fn(&[u8]) -> bool) -> bool {
    zip.windows(46)
        .any(|record| record.starts_with(b"PK\x01\x02") && is(record))
}

/// Prints now and then how many trees were compared: the fuzzer's own count includes refused
/// inputs.
fn tell() {
    static COMPARED: AtomicU64 = AtomicU64::new(0);
    let compared = COMPARED.fetch_add(1, Ordering::Relaxed) + 1;
    if compared.is_multiple_of(1000) {
        eprintln!("compared {compared} trees");
    }
}

fn is_windows_root(path: &[u8]) -> bool {
    matches!(path, [b'\\', ..] | [b'a'..=b'z' | b'A'..=b'Z', b':', ..])
}

/// Returns whether `tool` is known to read such an archive differently.
fn differs(tool: Tool, input: &Input, tree: &Tree) -> bool {
    match (tool, input.format) {
        // GNU tar reads each range of a sparse file from the start of a block, where others
        // continue after the previous range, and ends the file with its last range, whatever its
        // stated length. No writer makes such files. It creates links that lead upwards at the end,
        // and of two with the same name the first.
        (Tool::Tar, _) => {
            let tar = plain::tar_of(input);
            has_sparse(&tar) || has_replaced_link(&tar, tree)
        }
        // bsdtar strips Windows drives and roots on every system.
        (Tool::Bsdtar, _)
            if tree
                .entries
                .iter()
                .any(|entry| is_windows_root(&entry.path)) =>
        {
            true
        }
        // bsdtar guesses the format, and reads a tar with an odd header and the end of a zip in it
        // as a zip. It trusts the real size in a GNU tar header whether or not the file is sparse.
        (Tool::Bsdtar, ArchiveType::Tar | ArchiveType::TarGz) => {
            let tar = plain::tar_of(input);
            let zip = tar.windows(4).any(|w| w == b"PK\x05\x06");
            let mut blocks = tar.chunks_exact(512);
            let real_size = blocks.any(|b| b[257..265] == *b"ustar  \0" && b[483] != 0);
            (zip || real_size) && !plain::is(input)
        }
        // bsdtar shortens such a name, so no tool could agree with edgepush.
        (Tool::Unzip, ArchiveType::Zip)
            if tree
                .entries
                .iter()
                .any(|entry| is_windows_root(&entry.path)) =>
        {
            !plain::is(input)
        }
        // Each has its own list of systems with Unix modes, in addition to Unix itself.
        (_, ArchiveType::Zip)
            if has_record(&input.archive, |record| !matches!(record[5], 0 | 3)) =>
        {
            true
        }
        // Each tool has its own reading of backslashes, and of names that are neither ASCII nor
        // marked as UTF-8.
        (_, ArchiveType::Zip) => {
            let odd = |path: &[u8]| !path.is_ascii() || path.contains(&b'\\');
            tree.entries.iter().any(|entry| odd(&entry.path))
        }
        _ => false,
    }
}
