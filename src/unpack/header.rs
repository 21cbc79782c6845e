//! One tar header block, field by field. Numbers are parsed strictly: where readers could disagree
//! about a size, the archive is refused.

use super::error::{Reason, Refusal};
use crate::datafile::tree::Mtime;

/// Size of a tar block.
pub(super) const BLOCK: usize = 512;

/// The raw bytes of one header block.
#[derive(Clone)]
pub(super) struct Header([u8; BLOCK]);

/// The kind of member that a header announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    File,
    HardLink,
    Symlink,
    Dir,
    /// An old GNU sparse file, with its map in the header.
    Sparse,
    /// GNU: the name of the next member.
    LongName,
    /// GNU: the link target of the next member.
    LongLink,
    /// pax: records for the next member.
    Pax,
    /// pax: records for all following members.
    PaxGlobal,
    /// GNU: the volume label, not a member.
    Label,
}

/// The header format, which decides the fields after the oldest ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    Old,
    Gnu,
    /// With a name prefix.
    Ustar,
    /// With a shorter name prefix, followed by times.
    Star,
}

impl Header {
    /// Wraps a block. Whether it is a header at all, [`Header::check`] decides.
    pub(super) fn new(block: [u8; BLOCK]) -> Self {
        Self(block)
    }

    /// Returns whether the block is all zeros, as the two blocks of the end mark are.
    pub(super) fn is_zero(&self) -> bool {
        self.0 == [0; BLOCK]
    }

    /// Verifies the checksum. Old Sun tars summed signed bytes; like GNU tar, we accept that.
    pub(super) fn check(&self) -> Result<(), Refusal> {
        // Some writers leave other bytes after the closing NUL or blank, but none leaves that out
        // or the field blank.
        let field = &self.0[148..156];
        let start = field.iter().position(|b| *b != b' ').unwrap_or(0);
        let field = &field[start..];
        let digits = field
            .iter()
            .take_while(|b| (b'0'..=b'7').contains(*b))
            .count();
        let stated = match digits {
            0 if field[0] & 0x80 == 0 => None,
            0 => number(field),
            digits => match field.get(digits) {
                None | Some(b' ' | 0) => number(&field[..digits]),
                Some(_) => None,
            },
        };
        let (mut unsigned, mut high) = (0u64, 0u64);
        for byte in &self.0 {
            unsigned += u64::from(*byte);
            high += u64::from(byte >> 7);
        }
        for byte in &self.0[148..156] {
            unsigned -= u64::from(*byte);
            high -= u64::from(byte >> 7);
        }
        unsigned += 8 * u64::from(b' ');
        let signed = unsigned.checked_sub(256 * high);
        match stated {
            Some(sum) if sum == unsigned || Some(sum) == signed => Ok(()),
            _ if self.0[257..262] == *b"ustar" => Err(Refusal::new(
                Reason::Checksum,
                "the header's checksum is wrong",
            )),
            // Not even the magic suggests that this was ever a header.
            _ => Err(Refusal::new(
                Reason::NotAnArchive,
                "there is no tar header where one is expected",
            )),
        }
    }

    /// Returns the kind of member, or why it is refused.
    pub(super) fn kind(&self) -> Result<Type, Refusal> {
        let old = self.format() == Format::Old;
        if old && self.0[257..262] == *b"ustar" {
            // Some readers treat it as ustar, with a name prefix, and others as the oldest format.
            let detail = "a header that says ustar but is neither ustar nor GNU tar";
            return Err(Refusal::new(Reason::UnknownType, detail));
        }
        if self.format() == Format::Star && !self.0[345..476].contains(&0) {
            // Some readers end the prefix where star's times begin, and others read on.
            let detail = "a star header whose prefix has no end";
            return Err(Refusal::new(Reason::UnknownType, detail));
        }
        Ok(match self.0[156] {
            // Extensions belong to formats with a magic; in the oldest format readers disagree
            // about them.
            extension @ (b'x' | b'g' | b'S') if old => {
                return Err(Refusal::new(
                    Reason::UnknownType,
                    format!(
                        "a member of type `{}` in a header of the oldest format",
                        char::from(extension)
                    ),
                ));
            }
            // Other formats have other fields where GNU tar has the map; GNU tar itself treats such
            // a member as a plain file.
            b'S' if self.format() != Format::Gnu => {
                return Err(Refusal::new(
                    Reason::SparseUnsupported,
                    "a sparse file in a header that is not GNU tar's",
                ));
            }
            b'0' | 0 | b'7' => Type::File,
            b'1' => Type::HardLink,
            b'2' => Type::Symlink,
            b'5' => Type::Dir,
            b'S' => Type::Sparse,
            b'L' => Type::LongName,
            b'K' => Type::LongLink,
            b'x' => Type::Pax,
            b'g' => Type::PaxGlobal,
            b'V' => Type::Label,
            special @ (b'3' | b'4' | b'6') => {
                let what = match special {
                    b'3' => "a character device",
                    b'4' => "a block device",
                    _ => "a FIFO",
                };
                return Err(Refusal::new(Reason::SpecialFile, what));
            }
            other => {
                return Err(Refusal::new(
                    Reason::UnknownType,
                    format!("a member of type `{}`", char::from(other).escape_default()),
                ));
            }
        })
    }

    fn format(&self) -> Format {
        match &self.0[257..265] {
            [b'u', b's', b't', b'a', b'r', 0, ..] if self.0[508..] == *b"tar\0" => Format::Star,
            [b'u', b's', b't', b'a', b'r', 0, ..] => Format::Ustar,
            b"ustar  \0" => Format::Gnu,
            _ => Format::Old,
        }
    }

    /// Returns the name in the header, including the prefix.
    pub(super) fn name(&self) -> Vec<u8> {
        let name = until_nul(&self.0[..100]);
        let prefix = match self.format() {
            Format::Ustar => until_nul(&self.0[345..500]),
            Format::Star => until_nul(&self.0[345..476]),
            Format::Gnu | Format::Old => &[],
        };
        if prefix.is_empty() {
            return name.to_vec();
        }
        [prefix, name].join(&b'/')
    }

    /// Returns the link target in the header.
    pub(super) fn link(&self) -> &[u8] {
        until_nul(&self.0[157..257])
    }

    /// Returns the number of content bytes after the header.
    pub(super) fn size(&self) -> Result<u64, Refusal> {
        self.number(124..136)
            .filter(|size| *size <= i64::MAX as u64)
            .ok_or_else(|| {
                Refusal::new(Reason::SizeInvalid, "the size is negative or not a number")
            })
    }

    /// Returns the mode bits, or `default` if the field is not a number.
    pub(super) fn mode(&self, default: u32) -> u32 {
        self.number(100..108)
            .and_then(|mode| u32::try_from(mode & 0o7777).ok())
            .unwrap_or(default)
    }

    /// Returns the modification time, or the epoch if the field is not a number.
    pub(super) fn mtime(&self) -> Mtime {
        let field = &self.0[136..148];
        let secs = match number(field) {
            Some(secs) => i64::try_from(secs).ok(),
            None => negative(field),
        };
        Mtime {
            secs: secs.unwrap_or(0),
            nanos: 0,
        }
    }

    /// Returns the map of an old GNU sparse file: its pairs, whether more blocks follow, and the
    /// real size.
    pub(super) fn sparse(&self) -> (&[u8], bool, Option<u64>) {
        (&self.0[386..482], self.0[482] != 0, self.number(483..495))
    }

    fn number(&self, field: std::ops::Range<usize>) -> Option<u64> {
        number(&self.0[field])
    }
}

/// Parses a number: octal digits between blanks, closed by NULs or blanks, or base-256. An empty
/// field is 0. `None` for a negative number, one over 64 bits, or any other byte.
pub(super) fn number(field: &[u8]) -> Option<u64> {
    if let [first @ 0x80..=0xff, rest @ ..] = field {
        if first & 0x40 != 0 {
            return None;
        }
        return rest
            .iter()
            .try_fold(u64::from(first & 0x3f), |value, byte| {
                value.checked_mul(256).map(|value| value | u64::from(*byte))
            });
    }
    let start = field.iter().position(|b| *b != b' ').unwrap_or(field.len());
    let field = &field[start..];
    let digits = field
        .iter()
        .take_while(|b| (b'0'..=b'7').contains(*b))
        .count();
    let (digits, rest) = field.split_at(digits);
    if rest.iter().any(|b| *b != b' ' && *b != 0) {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| {
        value
            .checked_mul(8)
            .map(|value| value | u64::from(digit - b'0'))
    })
}

/// Parses a negative base-256 number, valid only for times.
fn negative(field: &[u8]) -> Option<i64> {
    let [0xc0..=0xff, rest @ ..] = field else {
        return None;
    };
    let (high, low) = rest.split_at(rest.len().saturating_sub(8));
    let low = i64::from_be_bytes(low.try_into().ok()?);
    (high.iter().all(|b| *b == 0xff) && low < 0).then_some(low)
}

fn until_nul(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|b| *b == 0).unwrap_or(field.len());
    &field[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_strictly() {
        for (field, want) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"    644 ", Some(0o644)),
            (b"644\0\0\0\0\0", Some(0o644)),
            (b"77777777", Some(0o77_777_777)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"\x80\0\0\0\0\0\x01\0", Some(256)),
            (b"\0\0\0\0\x00644", None),
            (b"0000648\0", None),
            (b"-000644\0", None),
            (b"0x1\0\0\0\0\0", None),
            (b"644\0junk", None),
            (b"\xff\xff\xff\xff\xff\xff\xfe\0", None),
            (b"\xc0\0\0\0\0\0\0\0", None),
            (b"\x80\x01\0\0\0\0\0\0\0\0", None),
        ] {
            assert_eq!(number(field), want, "{field:?}");
        }
    }

    #[test]
    fn a_time_may_lie_before_the_epoch() {
        let mut block = [0; BLOCK];
        block[136..148].copy_from_slice(&[0xff; 12]);
        assert_eq!(Header::new(block).mtime().secs, -1);
        block[136] = 0x80;
        assert_eq!(Header::new(block).mtime().secs, 0);
        block[136..148].copy_from_slice(b"00000000017\0");
        assert_eq!(Header::new(block).mtime().secs, 15);
    }

    #[test]
    fn both_checksums_are_taken_and_no_other() {
        let mut block = [0; BLOCK];
        block[0] = 0xe9;
        block[257..263].copy_from_slice(b"ustar\0");
        let unsigned = 0xe9 + 256 + b"ustar".iter().map(|b| u32::from(*b)).sum::<u32>();
        for (sum, ok) in [
            (unsigned, true),
            (unsigned - 256, true),
            (unsigned - 1, false),
        ] {
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            assert_eq!(Header::new(block).check().is_ok(), ok, "{sum}");
        }
    }

    #[test]
    fn a_checksum_is_closed_and_what_is_behind_that_does_not_count() {
        let mut block = [0; BLOCK];
        block[0] = b'n';
        for (field, ok) in [
            (&b"000556\0 "[..], true),
            (b"000556 \0", true),
            (b"000556\x000", true),
            (b" 000556x", false),
            (b"000556\x04 ", false),
            (b"000556 x", true),
            (b"00000556", true),
        ] {
            block[148..156].copy_from_slice(field);
            assert_eq!(Header::new(block).check().is_ok(), ok, "{field:?}");
        }
    }

    #[test]
    fn only_gnu_tar_has_sparse_files_in_its_headers() {
        let mut block = [0; BLOCK];
        block[156] = b'S';
        for (magic, end, refused) in [
            (&b"ustar  \0"[..], &b""[..], None),
            (b"ustar\x0000", b"", Some(Reason::SparseUnsupported)),
            (b"ustar\x0000", b"tar\0", Some(Reason::SparseUnsupported)),
            (&[0; 8], b"", Some(Reason::UnknownType)),
        ] {
            block[257..265].copy_from_slice(magic);
            block[508..][..end.len()].copy_from_slice(end);
            let kind = Header::new(block).kind();
            assert_eq!(
                kind.map_err(|e| e.reason),
                refused.map_or(Ok(Type::Sparse), Err)
            );
        }
    }

    #[test]
    fn a_prefix_of_star_ends_before_the_times() {
        let mut block = [0; BLOCK];
        block[156] = b'0';
        block[257..265].copy_from_slice(b"ustar\x0000");
        block[345..475].fill(b'p');
        for (end, last, ok) in [
            (&b"tar\0"[..], 0, true),
            (b"tar\0", b'p', false),
            (b"\0\0\0\0", b'p', true),
        ] {
            block[475] = last;
            block[508..].copy_from_slice(end);
            assert_eq!(Header::new(block).kind().is_ok(), ok, "{end:?} {last}");
        }
    }

    #[test]
    fn the_prefix_counts_where_the_format_has_one() {
        let mut block = [0; BLOCK];
        block[0] = b'n';
        block[345] = b'p';
        for (magic, name) in [
            (&b"ustar\x0000"[..], &b"p/n"[..]),
            (b"ustar  \0", b"n"),
            (b"\0\0\0\0\0\0\0\0", b"n"),
        ] {
            block[257..265].copy_from_slice(magic);
            assert_eq!(Header::new(block).name(), name);
        }
    }
}
