//! Percent-encoding as the contract has it: letters, digits and `-_.~` stay, everything else
//! becomes `%XX`.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC};

const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'_')
    .remove(b'.')
    .remove(b'~');

/// Returns `text` percent-encoded.
pub(super) fn encoded(text: &[u8]) -> String {
    percent_encoding::percent_encode(text, ENCODED).to_string()
}

/// Appends `text` percent-encoded.
pub(super) fn encode_into(text: &[u8], out: &mut Vec<u8>) {
    for piece in percent_encoding::percent_encode(text, ENCODED) {
        out.extend_from_slice(piece.as_bytes());
    }
}
