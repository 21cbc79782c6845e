//! What is accepted is read by other tools in the same way: where readers disagree, one of them can be lied to.
//!
//! A tool that refuses an archive is no finding, and neither is one that differs as the policy says it may: see `differs`.

#![no_main]

use std::sync::OnceLock;

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
        }
        place.assert_untouched();
        place.clear();
    }
    Corpus::Keep
});

/// Tells whether `tool` is known to read such an archive in another way.
fn differs(_tool: Tool, input: &Input, tree: &Tree) -> bool {
    // Each tool has its own idea of names that are neither ASCII nor marked as UTF-8.
    input.format == Format::Zip && tree.entries.iter().any(|entry| !entry.path.is_ascii())
}
