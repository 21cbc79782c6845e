//! Decodes the names of a zip. The format says code page 437 or, with a flag, UTF-8; tools have
//! written whatever their system used. A backslash is a separator only if the zip was made on a
//! system that has no other.

use crate::unpack::NameEncoding;
use crate::unpack::error::{Reason, Refusal};

/// Systems whose separator is the backslash: FAT, HPFS and NTFS, Windows NTFS, VFAT.
const WINDOWS_HOSTS: [u8; 4] = [0, 10, 11, 14];
/// Systems whose names are bytes, today UTF-8: Unix and macOS.
const UNIX_HOSTS: [u8; 2] = [3, 19];
/// The flag for a name and comment in UTF-8.
const UTF8_FLAG: u16 = 1 << 11;

/// Returns whether the system `host` stores Unix modes.
pub(super) fn is_unix(host: u8) -> bool {
    UNIX_HOSTS.contains(&host)
}

/// Returns whether the system `host` is DOS or Windows.
pub(super) fn is_windows(host: u8) -> bool {
    WINDOWS_HOSTS.contains(&host)
}

/// Decodes the name `raw`. `unicode` is the name from a Unicode path field that belongs to `raw`.
pub(super) fn decode(
    raw: &[u8],
    unicode: Option<&[u8]>,
    flags: u16,
    host: u8,
    encoding: NameEncoding,
) -> Result<Vec<u8>, Refusal> {
    // To readers that cut the name at the NUL, the Unicode name belongs to another entry.
    if raw.contains(&0) {
        return Err(Refusal::new(
            Reason::PathNul,
            "the name contains a NUL byte",
        ));
    }
    if let Some(unicode) = unicode {
        if flags & UTF8_FLAG != 0 && unicode != raw {
            return Err(wrong("the zip states two names for the entry"));
        }
        return Ok(unicode.to_vec());
    }
    if flags & UTF8_FLAG != 0 && std::str::from_utf8(raw).is_err() {
        return Err(wrong("the name says that it is UTF-8 and is not"));
    }
    let as_is = flags & UTF8_FLAG != 0 || raw.is_ascii();
    match encoding {
        _ if as_is => Ok(raw.to_vec()),
        NameEncoding::Auto if is_unix(host) && std::str::from_utf8(raw).is_ok() => Ok(raw.to_vec()),
        NameEncoding::Auto | NameEncoding::Cp437 => Ok(from_cp437(raw)),
        NameEncoding::Utf8 if std::str::from_utf8(raw).is_ok() => Ok(raw.to_vec()),
        NameEncoding::Utf8 => Err(wrong("the name is not UTF-8")),
        NameEncoding::Gbk => encoding_rs::GBK
            .decode_without_bom_handling_and_without_replacement(raw)
            .map(|name| name.into_owned().into_bytes())
            .ok_or_else(|| wrong("the name is not GBK")),
    }
}

/// Turns backslashes into slashes if the zip was made on Windows. Otherwise refuses a name that
/// would climb out or start at a drive if backslashes were separators.
pub(super) fn separate(mut name: Vec<u8>, host: u8) -> Result<Vec<u8>, Refusal> {
    let windows = is_windows(host);
    if windows && !name.contains(&b'/') {
        for byte in &mut name {
            if *byte == b'\\' {
                *byte = b'/';
            }
        }
    }
    let (drive, rest) = match &name[..] {
        [letter, b':', rest @ ..] if letter.is_ascii_alphabetic() => (true, rest),
        rest => (false, rest),
    };
    if rest
        .split(|b| matches!(b, b'/' | b'\\'))
        .any(|c| c == b"..")
    {
        return Err(Refusal::new(Reason::PathDotdot, "the name contains `..`"));
    }
    let rooted = matches!(rest.first(), Some(b'/' | b'\\'));
    if windows && ((drive && !rest.is_empty()) || rooted) {
        return Err(Refusal::new(
            Reason::PathAbsolute,
            "the name is absolute or begins with a drive",
        ));
    }
    Ok(name)
}

fn wrong(detail: &str) -> Refusal {
    Refusal::new(Reason::NameEncoding, detail)
}

/// The upper half of code page 437.
const CP437: &str = "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐└┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

fn from_cp437(raw: &[u8]) -> Vec<u8> {
    let mut name = String::with_capacity(raw.len());
    for byte in raw {
        match byte.checked_sub(0x80) {
            None => name.push(char::from(*byte)),
            Some(high) => name.extend(CP437.chars().nth(high.into())),
        }
    }
    name.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auto(raw: &[u8], flags: u16, host: u8) -> Result<Vec<u8>, Reason> {
        decode(raw, None, flags, host, NameEncoding::Auto).map_err(|r| r.reason)
    }

    #[test]
    fn the_code_page_has_its_128_characters() {
        assert_eq!(CP437.chars().count(), 128);
        assert_eq!(from_cp437(b"caf\x82 \xe1\xff"), "café ß\u{a0}".as_bytes());
    }

    #[test]
    fn a_name_is_read_as_the_zip_says() {
        let utf8 = "你好".as_bytes();
        assert_eq!(auto(utf8, UTF8_FLAG, 0), Ok(utf8.to_vec()));
        assert_eq!(auto(b"caf\xe9", UTF8_FLAG, 3), Err(Reason::NameEncoding));
        assert_eq!(auto(utf8, 0, 3), Ok(utf8.to_vec()));
        assert_eq!(auto(utf8, 0, 19), Ok(utf8.to_vec()));
        assert_eq!(auto("ä".as_bytes(), 0, 0), Ok("├ñ".as_bytes().to_vec()));
        assert_eq!(auto(b"caf\x82", 0, 3), Ok("café".as_bytes().to_vec()));
        let unicode = decode(b"x", Some(utf8), 0, 0, NameEncoding::Gbk);
        assert_eq!(unicode.unwrap(), utf8);
        assert!(decode(b"x", Some(utf8), UTF8_FLAG, 0, NameEncoding::Auto).is_err());
        let nul = decode(b"x\0y", Some(utf8), 0, 0, NameEncoding::Auto);
        assert_eq!(nul.map_err(|r| r.reason), Err(Reason::PathNul));
    }

    #[test]
    fn a_node_may_be_told_what_its_archives_use() {
        // The second byte of the first character is a backslash in ASCII.
        let gbk = b"\x95\x5c\xce\xc4\\a.txt";
        let name = decode(gbk, None, 0, 0, NameEncoding::Gbk).unwrap();
        assert_eq!(
            separate(name, 0).unwrap(),
            "昞文/a.txt".as_bytes(),
            "the trail byte is not a separator"
        );
        assert!(decode(b"\xff\xff", None, 0, 0, NameEncoding::Gbk).is_err());
        assert!(decode(b"caf\xe9", None, 0, 0, NameEncoding::Utf8).is_err());
        assert_eq!(
            decode("ä".as_bytes(), None, 0, 3, NameEncoding::Cp437).unwrap(),
            "├ñ".as_bytes()
        );
    }

    #[test]
    fn backslashes_separate_on_windows_only_and_never_climb() {
        let reason = |name: &[u8], host| separate(name.to_vec(), host).map_err(|r| r.reason);
        assert_eq!(reason(b"a\\b\\", 0), Ok(b"a/b/".to_vec()));
        assert_eq!(reason(b"a\\b", 11), Ok(b"a/b".to_vec()));
        assert_eq!(reason(b"a/b\\c", 0), Ok(b"a/b\\c".to_vec()));
        assert_eq!(
            reason(b"dev\\x2dsda.device", 3),
            Ok(b"dev\\x2dsda.device".to_vec())
        );
        for host in [0, 3, 10, 11, 14, 19] {
            for name in [
                &b"..\\x"[..],
                b"a\\..\\x",
                b"a/b\\..",
                b"C:..\\x",
                b"C:../x",
            ] {
                assert_eq!(reason(name, host), Err(Reason::PathDotdot), "{name:?}");
            }
        }
        for name in [&b"\\x"[..], b"C:\\x", b"c:/x", b"C:x"] {
            assert_eq!(reason(name, 0), Err(Reason::PathAbsolute), "{name:?}");
        }
    }
}
