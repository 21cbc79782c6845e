//! Any text as one component of a path, and back.

use sha2::Digest as _;

/// Maximum length of an escaped path component, in bytes; a longer one is truncated and ends in a
/// digest.
pub const MAX_COMPONENT: usize = 200;

/// Returns the path component used for `text`; different texts never share one.
///
/// `A-Z a-z 0-9 . _ -` are kept; every other byte becomes `%XX`, and so does a leading dot. A
/// result longer than [`MAX_COMPONENT`] bytes is truncated at 160 and ends in `%~` and 32
/// hexadecimal digits of the text's SHA-256; the escape itself never produces `%~`.
/// [`from_path_component`] reverses it unless it was truncated.
#[must_use]
pub fn path_component(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut cut = 0;
    for (i, byte) in text.bytes().enumerate() {
        let plain =
            byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-') || (byte == b'.' && i > 0);
        if plain {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
        if out.len() <= 160 {
            cut = out.len();
        }
    }
    if out.len() > MAX_COMPONENT {
        out.truncate(cut);
        let digest = sha2::Sha256::digest(text.as_bytes());
        out.push_str("%~");
        out.push_str(&hex::encode(&digest[..16]));
    }
    out
}

/// Returns the text behind `component`, or `None` if it was truncated or was not made by
/// [`path_component`].
#[must_use]
pub fn from_path_component(component: &str) -> Option<String> {
    let mut out = Vec::with_capacity(component.len());
    let mut rest = component.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first == b'%' {
            let digits = std::str::from_utf8(rest.get(..2)?).ok()?;
            out.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &rest[2..];
        } else {
            out.push(*first);
        }
    }
    let text = String::from_utf8(out).ok()?;
    (path_component(&text) == component).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_every_name_to_one_component_and_back() {
        for (text, want) in [
            ("app01", "app01"),
            (
                "159828628258496/mirror_file/game-1.tar",
                "159828628258496%2Fmirror_file%2Fgame-1.tar",
            ),
            (".", "%2E"),
            ("..", "%2E."),
            (".hidden", "%2Ehidden"),
            ("a%2Fb", "a%252Fb"),
            ("ü", "%C3%BC"),
            ("1.0+b 2", "1.0%2Bb%202"),
            ("A", "A"),
            ("a", "a"),
        ] {
            assert_eq!(path_component(text), want);
            assert_eq!(from_path_component(want).as_deref(), Some(text));
        }
    }

    #[test]
    fn long_names_stay_apart_and_under_the_limit() {
        let (a, b) = ("ü".repeat(300), format!("{}x", "ü".repeat(300)));
        for text in [&a, &b] {
            let component = path_component(text);
            assert!(component.len() <= MAX_COMPONENT, "{}", component.len());
            assert_eq!(from_path_component(&component), None);
        }
        assert_ne!(path_component(&a), path_component(&b));
        let exact = "x".repeat(MAX_COMPONENT);
        assert_eq!(path_component(&exact), exact);
    }

    #[test]
    fn refuses_components_that_are_not_of_its_making() {
        for odd in ["%2f", "%41", "%", "%2", "%zz", "a/b", ".x", "%FF"] {
            assert_eq!(from_path_component(odd), None, "{odd}");
        }
    }
}
