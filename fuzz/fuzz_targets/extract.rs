//! A good archive becomes exactly its tree, a refused one leaves nothing, and neither changes
//! anything outside.

#![no_main]

use std::sync::OnceLock;

use edgepush_fuzz::datafile::tree::EntryKind;
use edgepush_fuzz::disk::{self, Place};
use edgepush_fuzz::input::Input;
use edgepush_fuzz::unpack::{Target, Tree};
use edgepush_fuzz::{check, fixed, options, unpack};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_mutator!(
    |data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
        fixed::next(data, size, max_size)
    }
);

fuzz_target!(|data: &[u8]| {
    static PLACE: OnceLock<Place> = OnceLock::new();
    let Some(input) = Input::parse(data) else {
        return;
    };
    let place = PLACE.get_or_init(|| Place::new("extract"));
    let options = options(&input);
    let checked = unpack(&input, Target::Check, &options);
    let unpacked = unpack(&input, place.target(), &options);
    let found = place.found();
    match (&checked, &unpacked) {
        (Ok(checked), Ok(tree)) => {
            check::tree(tree, &options);
            disk::assert_same(tree, &found);
            assert_eq!(
                *checked,
                without_digests(tree),
                "checking told another tree"
            );
        }
        (Err(checked), Err(error)) => {
            check::error(error);
            assert!(found.is_empty(), "left behind: {:?}", found.keys());
            // With several threads another flaw may be found first; with one thread it is always
            // the same.
            if !options.threads {
                assert_eq!(check::text(checked), check::text(error), "the reason");
            }
        }
        (Ok(_), Err(error)) => panic!("checked, then refused: {}", check::text(error)),
        (Err(error), Ok(_)) => panic!("unpacked, but refused by the check: {}", check::text(error)),
    }
    place.assert_untouched();
    place.clear();
});

fn without_digests(tree: &Tree) -> Tree {
    let mut tree = tree.clone();
    for entry in &mut tree.entries {
        if let EntryKind::File { sha256, .. } = &mut entry.kind {
            *sha256 = None;
        }
    }
    tree
}
