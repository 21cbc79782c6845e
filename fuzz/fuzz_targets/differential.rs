//! What is accepted is read by other tools in the same way: where readers disagree, one of them can be lied to.
//!
//! A tool that refuses an archive is no finding, and neither is one that differs as the policy says it may: see `differs`.

#![no_main]

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use edgepush_fuzz::disk::Place;
use edgepush_fuzz::input::{Format, Input};
use edgepush_fuzz::others::{self, Tool};
use edgepush_fuzz::unpack::{Target, Tree};
use edgepush_fuzz::{options, unpack};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let Some(input) = Input::parse(data) else {
        return Corpus::Reject;
    };
    let options = options(&input);
    // Most inputs are refused, which is quickly found out.
    if unpack(&input, Target::Check, &options).is_err() {
        return Corpus::Keep;
    }
    let place = PLACE.get_or_init(|| Place::new("differential"));
    let tree = unpack(&input, place.target(), &options).expect("it was checked");
    place.clear();
    let archive = others::write(&input, place);
    for tool in Tool::all(input.format) {
        if differs(tool, &input, &tree) {
            continue;
        }
        if tool.unpack(&archive, place) {
            others::assert_same(tool, &tree, &place.found());
            tell();
        }
        place.assert_untouched();
        place.clear();
    }
    Corpus::Keep
});

/// Tells now and then how many trees were compared, since the fuzzer counts refused inputs too.
fn tell() {
    static COMPARED: AtomicU64 = AtomicU64::new(0);
    let compared = COMPARED.fetch_add(1, Ordering::Relaxed) + 1;
    if compared.is_multiple_of(1000) {
        eprintln!("compared {compared} trees");
    }
}

/// Tells whether `tool` is known to read such an archive in another way.
fn differs(_tool: Tool, input: &Input, tree: &Tree) -> bool {
    // In a zip, each tool has its own idea of names that are neither ASCII nor marked as UTF-8, and of backslashes.
    let odd = |path: &[u8]| !path.is_ascii() || path.contains(&b'\\');
    input.format == Format::Zip && tree.entries.iter().any(|entry| odd(&entry.path))
}
