//! Whether an archive is plain: written, byte by byte, as common writers do. Only the form of each
//! field counts, not its meaning: two members of one name or a link over a link are plain. Readers
//! must agree about plain archives. How they read a field that no writer writes that way is up to
//! each, and no two do the same.

use std::borrow::Cow;
use std::io::Read;

use flate2::bufread::MultiGzDecoder;

use crate::datafile::ArchiveType;
use crate::input::Input;

const BLOCK: usize = 512;

/// Returns whether an accepted archive is plain.
pub fn is(input: &Input) -> bool {
    match input.format {
        ArchiveType::Tar | ArchiveType::TarGz => tar(&tar_of(input)),
        ArchiveType::Zip => zip(&input.archive).is_some(),
    }
}

/// Returns the tar in an accepted archive.
pub fn tar_of(input: &Input) -> Cow<'_, [u8]> {
    if input.format != ArchiveType::TarGz {
        return Cow::Borrowed(&input.archive);
    }
    let mut inflated = Vec::new();
    // An accepted archive decompresses; if it did not, less would be compared.
    let _ = MultiGzDecoder::new(&input.archive[..]).read_to_end(&mut inflated);
    Cow::Owned(inflated)
}

fn tar(bytes: &[u8]) -> bool {
    let (mut at, mut pax_size) = (0, None);
    while let Some(header) = bytes.get(at..at + BLOCK) {
        if header.iter().all(|b| *b == 0) {
            break;
        }
        let kind = header[156];
        let (true, Some(mut size)) = (is_header(header), size(&header[124..136])) else {
            return false;
        };
        at += BLOCK;
        let extends = b"xgLK".contains(&kind);
        if !extends {
            size = pax_size.take().unwrap_or(size);
        }
        let Some(body) = bytes.get(at..at + size) else {
            return false;
        };
        if kind == b'x' || kind == b'g' {
            match records(body) {
                Some(found) if kind == b'x' => pax_size = found,
                Some(_) => {}
                None => return false,
            }
        }
        at += size.next_multiple_of(BLOCK);
    }
    bytes
        .get(at..)
        .is_none_or(|rest| rest.iter().all(|b| *b == 0))
}

fn is_header(header: &[u8]) -> bool {
    let text = |range: std::ops::Range<usize>| {
        let mut rest = header[range].iter().skip_while(|b| **b != 0);
        rest.all(|b| *b == 0)
    };
    let octal = |range: std::ops::Range<usize>| is_octal(&header[range]);
    let zero = |range: std::ops::Range<usize>| header[range].iter().all(|b| *b == 0);
    // Base-256 numbers, which begin with one of these bytes.
    let number =
        |range: std::ops::Range<usize>| matches!(header[range.start], 0x80 | 0xff) || octal(range);
    let kind = header[156];
    let is_link = matches!(kind, b'1' | b'2');
    b"\x00012457LKxgV".contains(&kind)
        && text(0..100)
        && octal(100..108)
        && [108..116, 116..124, 124..136, 136..148]
            .into_iter()
            .all(number)
        && octal(148..156)
        && text(157..257)
        && is_link != zero(157..257)
        && match &header[257..265] {
            b"ustar\x0000" => {
                let star = header[508..] == *b"tar\0";
                let dev = |range| zero(range) || octal(329..337) && octal(337..345);
                text(265..297)
                    && text(297..329)
                    && dev(329..345)
                    && if star {
                        text(345..476) && octal(476..488) && octal(488..500) && zero(500..508)
                    } else {
                        text(345..500) && zero(500..512)
                    }
            }
            b"ustar  \0" => {
                let time = |range: std::ops::Range<usize>| zero(range.clone()) || octal(range);
                text(265..297)
                    && text(297..329)
                    && time(329..337)
                    && time(337..345)
                    && time(345..357)
                    && time(357..369)
                    && zero(369..512)
            }
            _ => zero(257..512) && !b"LKxgV".contains(&kind),
        }
}

/// Returns whether a field holds octal digits, closed by NULs or blanks.
fn is_octal(field: &[u8]) -> bool {
    let start = field.iter().take_while(|b| **b == b' ').count();
    let digits = field[start..]
        .iter()
        .take_while(|b| (b'0'..=b'7').contains(*b))
        .count();
    let rest = &field[start + digits..];
    digits > 0 && !rest.is_empty() && rest.iter().all(|b| matches!(b, b' ' | 0))
}

fn size(field: &[u8]) -> Option<usize> {
    if field[0] == 0x80 {
        let (high, low) = field[1..].split_at(field.len() - 5);
        return high
            .iter()
            .all(|b| *b == 0)
            .then(|| low.iter().fold(0, |n, b| n << 8 | usize::from(*b)));
    }
    let text = std::str::from_utf8(field).ok()?;
    usize::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}

/// Parses pax records; returns the size they set, or `None` if they are not plain.
fn records(mut bytes: &[u8]) -> Option<Option<usize>> {
    let mut size = None;
    while !bytes.is_empty() {
        let blank = bytes.iter().position(|b| *b == b' ')?;
        let len: usize = std::str::from_utf8(&bytes[..blank]).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(len)?;
        let (key, value) = record
            .get(blank + 1..)?
            .strip_suffix(b"\n")?
            .split_at(record[blank + 1..].iter().position(|b| *b == b'=')?);
        let value = &value[1..];
        let number = || std::str::from_utf8(value).ok();
        match key {
            b"path" | b"linkpath" | b"uname" | b"gname" | b"comment" => {}
            b"uid" | b"gid" => drop(number()?.parse::<u32>().ok()?),
            b"mtime" | b"atime" | b"ctime" => drop(number()?.parse::<f64>().ok()?),
            b"size" => size = Some(number()?.parse().ok()?),
            b"hdrcharset" if value == b"BINARY" => {}
            key if key.starts_with(b"SCHILY.xattr.") && key.is_ascii() => {}
            _ => return None,
        }
        bytes = rest;
    }
    Some(size)
}

fn zip(bytes: &[u8]) -> Option<()> {
    let end = bytes.len().checked_sub(22)?;
    require(bytes[end..].starts_with(b"PK\x05\x06"))?;
    let mut at = u32_at(bytes, end + 16)?;
    let mut first = at;
    while at < end && bytes[at..].starts_with(b"PK\x01\x02") {
        let record = bytes.get(at..at + 46)?;
        let [name, extra, comment] = [28, 30, 32].map(|field| u16_at(record, field));
        let (name, extra) = (name?, extra?);
        let from = at + 46;
        is_record(record, bytes.get(from..from + name)?)?;
        is_extra(bytes.get(from + name..from + name + extra)?)?;
        require(comment? == 0)?;
        let local = u32_at(record, 42)?;
        is_local(bytes.get(local..local + 30)?)?;
        first = first.min(local);
        at = from + name + extra;
    }
    require(first == 0)?;
    is_between(&bytes[at..end])
}

/// Checks what lies between the directory and the end record: nothing, or zip64 records for an
/// archive on one disk.
fn is_between(bytes: &[u8]) -> Option<()> {
    require(
        bytes.is_empty()
            || bytes.len() == 56 + 20
                && bytes.starts_with(b"PK\x06\x06")
                && bytes[56..].starts_with(b"PK\x06\x07")
                && u32_at(bytes, 56 + 16) == Some(1),
    )
}

/// Checks a local header. The high byte of the version needed must be plain too: bsdtar reads it as
/// the host system of the entry.
fn is_local(header: &[u8]) -> Option<()> {
    require(header.starts_with(b"PK\x03\x04") && header[5] == 0)
}

fn is_record(record: &[u8], name: &[u8]) -> Option<()> {
    let mode = u16_at(record, 40)?;
    let dos = record[38];
    let is_dir = name.ends_with(b"/");
    require(u16_at(record, 8)? & !0x080e == 0)?;
    // Two bits of the internal attributes have a meaning; with the third, unzip drops the mode.
    require(u16_at(record, 36)? & !3 == 0)?;
    // Both halves of the time, with each part in range.
    let (time, date) = (u16_at(record, 12)?, u16_at(record, 14)?);
    require(time >> 11 < 24 && time >> 5 & 63 < 60 && time & 31 < 30)?;
    require((1..=12).contains(&(date >> 5 & 15)) && date & 31 > 0)?;
    require(match record[5] {
        0 => mode == 0 && (dos & 0x10 != 0) == is_dir,
        3 => {
            let kind = mode >> 12;
            dos & !0x10 == 0 && (kind == 0 || (kind == 4) == is_dir) && mode & 0o777 != 0
        }
        _ => false,
    })
}

fn is_extra(mut bytes: &[u8]) -> Option<()> {
    while !bytes.is_empty() {
        let (id, len) = (u16_at(bytes, 0)?, u16_at(bytes, 2)?);
        let body = bytes.get(4..4 + len)?;
        require(match id {
            // Unix times, of which the directory holds one.
            0x5455 => body.len() == 5 && body[0] & !7 == 0 && body[0] & 1 == 1,
            0x7875 => body.len() == 11 && body.starts_with(&[1, 4]),
            _ => false,
        })?;
        bytes = &bytes[4 + len..];
    }
    Some(())
}

fn require(is: bool) -> Option<()> {
    is.then_some(())
}

fn u16_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 2)?;
    Some(usize::from(u16::from_le_bytes([field[0], field[1]])))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<usize> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([field[0], field[1], field[2], field[3]]) as usize)
}
