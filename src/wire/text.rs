//! The text of a document that a person or a tool has saved.

/// Returns the text of `bytes`, without a byte order mark, or a description of the encoding that it
/// has instead of UTF-8.
pub(super) fn read(bytes: &[u8]) -> Result<&str, String> {
    if let Some(found) = other_encoding(bytes) {
        return Err(format!("encoded as {found}, expected UTF-8"));
    }
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let at = error.valid_up_to();
        let byte = bytes.get(at).copied().unwrap_or_default();
        format!("not UTF-8, but perhaps GBK or Latin-1: byte 0x{byte:02X} at offset {at}")
    })?;
    Ok(without_mark(text))
}

/// Removes the byte order mark that some editors write at the beginning.
pub(super) fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// JSON begins with two ASCII characters, so zeros among the first bytes show the encoding also
/// where there is no byte order mark.
fn other_encoding(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xfe, 0, 0, ..] => Some("UTF-32 (little-endian)"),
        [0, 0, 0xfe, 0xff, ..] => Some("UTF-32 (big-endian)"),
        // Only zeros: the file has its length, and its bytes are still to come.
        [0, 0, 0, 0, ..] | [0, 0] => None,
        [0, 0, 0, _, ..] => Some("UTF-32 (big-endian)"),
        [_, 0, 0, 0, ..] => Some("UTF-32 (little-endian)"),
        [0xff, 0xfe, ..] | [_, 0, ..] => Some("UTF-16 (little-endian)"),
        [0xfe, 0xff, ..] | [0, _, ..] => Some("UTF-16 (big-endian)"),
        [0x1f, 0x8b, ..] => Some("gzip"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn skips_a_mark_and_names_other_encodings() {
        assert_eq!(read(b"{}"), Ok("{}"));
        assert_eq!(read(b"\xef\xbb\xbf{}"), Ok("{}"));
        assert_eq!(read(b""), Ok(""));
        for (bytes, want) in [
            (&b"\xff\xfe{\0}\0"[..], "UTF-16 (little-endian)"),
            (b"{\0}\0", "UTF-16 (little-endian)"),
            (b"\xfe\xff\0{\0}", "UTF-16 (big-endian)"),
            (b"\0{\0}", "UTF-16 (big-endian)"),
            (b"\xff\xfe\0\0{\0\0\0", "UTF-32 (little-endian)"),
            (b"\0\0\0{", "UTF-32 (big-endian)"),
            (b"\x1f\x8b\x08", "gzip"),
            (
                b"{\"\xc4\xe3\"}",
                "not UTF-8, but perhaps GBK or Latin-1: byte 0xC4 at offset 2",
            ),
        ] {
            let error = read(bytes).unwrap_err();
            assert!(error.contains(want), "{error}");
        }
    }
}
