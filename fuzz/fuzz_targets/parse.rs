//! Any bytes are refused or become a tree that is safe.

#![no_main]

use edgepush_fuzz::input::Input;
use edgepush_fuzz::unpack::Target;
use edgepush_fuzz::{check, options, unpack};
use libfuzzer_sys::fuzz_target;

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
