//! Any bytes are either refused or become a safe tree.

#![no_main]

use edgepush_fuzz::input::Input;
use edgepush_fuzz::unpack::Target;
use edgepush_fuzz::{check, fixed, options, unpack};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

fuzz_mutator!(
    |data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
        fixed::next(data, size, max_size)
    }
);

fuzz_target!(|data: &[u8]| {
    let Some(input) = Input::parse(data) else {
        return;
    };
    let options = options(&input);
    match unpack(&input, Target::Check, &options) {
        Ok(tree) => check::tree(&tree, &options),
        Err(error) => check::error(&error),
    }
});
