//! Compares each local header of a zip with the directory: streaming readers trust the one, other
//! readers the other. Nothing between the entries may be read as an unlisted entry.

use super::bytes::{Bytes, u16_at, u32_at, u64_at};
use super::record::{Extra, Method, Record};
use crate::unpack::error::{Error, Reason, Refusal};

const HEADER: &[u8; 4] = b"PK\x03\x04";
const HEADER_LEN: usize = 30;
const DESCRIPTOR: &[u8; 4] = b"PK\x07\x08";
/// Flags that change what an entry is: encryption, a descriptor, a patch, strong encryption, UTF-8,
/// masked headers.
const FLAGS: u16 = 1 | 1 << 3 | 1 << 5 | 1 << 6 | 1 << 11 | 1 << 13;
const HAS_DESCRIPTOR: u16 = 1 << 3;

/// Checks the local header of an entry and returns the offset of its data. The entry has to end
/// before `next`, where the next entry or the directory starts.
pub(super) fn check(bytes: &Bytes<'_>, record: &Record, next: u64) -> Result<u64, Error> {
    // Large enough for most names and extra fields, so that one read is usually enough.
    let mut buffer = [0; 512];
    let room = usize::try_from(next.saturating_sub(record.offset)).unwrap_or(usize::MAX);
    let header = &mut buffer[..room.min(512)];
    if header.len() < HEADER_LEN {
        return Err(match room {
            0 => overlap(),
            _ => no_header(),
        }
        .into());
    }
    bytes.read(record.offset, header, Reason::ZipLocal)?;
    if &header[..4] != HEADER {
        return Err(no_header().into());
    }
    let name_len = usize::from(u16_at(header, 26));
    let variable = name_len + usize::from(u16_at(header, 28));
    let data = record.offset + (HEADER_LEN + variable) as u64;
    let end = data.checked_add(record.stored).filter(|end| *end <= next);
    let Some(end) = end else {
        return Err(overlap().into());
    };
    match header.get(HEADER_LEN..HEADER_LEN + variable) {
        Some(tail) => compare(record, header, &tail[..name_len], &tail[name_len..])?,
        None => {
            let mut tail = vec![0; variable];
            bytes.read(
                record.offset + HEADER_LEN as u64,
                &mut tail,
                Reason::ZipLocal,
            )?;
            compare(record, header, &tail[..name_len], &tail[name_len..])?;
        }
    }
    let gap = match record.flags & HAS_DESCRIPTOR {
        0 => end,
        _ => end + check_descriptor(bytes, record, end, next)?,
    };
    check_gap(bytes, gap, next)?;
    Ok(data)
}

fn compare(record: &Record, header: &[u8], name: &[u8], extra: &[u8]) -> Result<(), Refusal> {
    let flags = u16_at(header, 6);
    let method = match u16_at(header, 8) {
        0 => Some(Method::Stored),
        8 => Some(Method::Deflate),
        _ => None,
    };
    if *name != *record.raw_name {
        return Err(mismatch("the name").values(
            format!("`{}`", crate::unpack::error::escape(&record.raw_name)),
            format!("`{}`", crate::unpack::error::escape(name)),
        ));
    }
    if flags & FLAGS != record.flags & FLAGS {
        return Err(mismatch("the flags").values(record.flags, flags));
    }
    if method != Some(record.method) {
        return Err(mismatch("the compression method"));
    }
    let extra = Extra::parse(padded(extra))?;
    let agrees = match (extra.unicode_name(name)?, record.unicode.as_deref()) {
        (Some(local), Some(listed)) => local == listed,
        (Some(local), None) => local == name,
        // Only the directory has a Unicode name: it may say how to read non-ASCII bytes, but must
        // not rename what every reader understands.
        (None, Some(listed)) => listed == name || !name.is_ascii(),
        (None, None) => true,
    };
    if !agrees {
        return Err(mismatch("the Unicode name"));
    }
    let (crc, stored, size) = (u32_at(header, 14), u32_at(header, 18), u32_at(header, 22));
    let [size, stored, ..] = extra.large(false, [size.into(), stored.into(), 0, 0])?;
    // With a descriptor after the data, the header may leave these to it.
    let later = flags & HAS_DESCRIPTOR != 0;
    let agrees = |local: u64, listed: u64| local == listed || (later && local == 0);
    if !agrees(crc.into(), record.crc.into()) {
        return Err(mismatch("the checksum").values(record.crc, crc));
    }
    if !agrees(size, record.size) || !agrees(stored, record.stored) {
        return Err(mismatch("the size").values(
            format!("{} of {}", record.stored, record.size),
            format!("{stored} of {size}"),
        ));
    }
    Ok(())
}

/// Cuts off the zeros with which some tools align the data; they are not a field.
fn padded(extra: &[u8]) -> &[u8] {
    let mut rest = extra;
    while let [a, b, c, d, tail @ ..] = rest {
        if [*a, *b, *c, *d] == [0; 4] {
            break;
        }
        match tail.get(usize::from(u16::from_le_bytes([*c, *d]))..) {
            Some(tail) => rest = tail,
            None => return extra,
        }
    }
    if rest.iter().all(|b| *b == 0) {
        &extra[..extra.len() - rest.len()]
    } else {
        extra
    }
}

/// Checks the descriptor after the data of an entry and returns its length. It may have a signature
/// or not, and sizes of 32 or 64 bits, but has to match the directory.
fn check_descriptor(bytes: &Bytes<'_>, record: &Record, at: u64, next: u64) -> Result<u64, Error> {
    let mut buffer = [0; 24];
    let room = usize::try_from(next - at).unwrap_or(usize::MAX).min(24);
    let found = &mut buffer[..room];
    bytes.read(at, found, Reason::ZipMismatch)?;
    for signature in [&DESCRIPTOR[..], b""] {
        let Some(rest) = found.strip_prefix(signature) else {
            continue;
        };
        let crc = rest.len() >= 4 && u32_at(rest, 0) == record.crc;
        let small = crc
            && rest.len() >= 12
            && u64::from(u32_at(rest, 4)) == record.stored
            && u64::from(u32_at(rest, 8)) == record.size;
        let large = crc
            && rest.len() >= 20
            && u64_at(rest, 4) == record.stored
            && u64_at(rest, 12) == record.size;
        let len = match (large, small) {
            (true, _) => 20,
            (false, true) => 12,
            (false, false) => continue,
        };
        return Ok((signature.len() + len) as u64);
    }
    Err(mismatch("the descriptor after the data").into())
}

/// Refuses bytes between entries that some reader would read as an entry.
fn check_gap(bytes: &Bytes<'_>, from: u64, to: u64) -> Result<(), Error> {
    scan(bytes, from, to, |part| {
        if part.windows(4).any(|window| window == HEADER) {
            return Err(Refusal::new(
                Reason::ZipUnlisted,
                "there is an entry that the directory does not list",
            ));
        }
        Ok(())
    })
}

/// Refuses bytes before the first entry, unless they are zeros.
pub(super) fn check_prefix(bytes: &Bytes<'_>, first: u64) -> Result<(), Error> {
    check_gap(bytes, 0, first)?;
    scan(bytes, 0, first, |part| {
        if part.iter().any(|b| *b != 0) {
            return Err(Refusal::new(
                Reason::ZipPrefix,
                "bytes precede the first entry of the zip",
            ));
        }
        Ok(())
    })
}

/// Passes the bytes of a range to `look` in pieces that overlap by three bytes, so that no
/// signature is missed.
fn scan(
    bytes: &Bytes<'_>,
    from: u64,
    to: u64,
    look: impl Fn(&[u8]) -> Result<(), Refusal>,
) -> Result<(), Error> {
    let mut at = from;
    let mut chunk = vec![
        0;
        usize::try_from(to - from)
            .unwrap_or(usize::MAX)
            .min(64 * 1024)
    ];
    while at < to {
        let left = usize::try_from(to - at).unwrap_or(usize::MAX);
        let part = &mut chunk[..left.min(64 * 1024)];
        bytes.read(at, part, Reason::ZipCd)?;
        look(part)?;
        if part.len() == left {
            break;
        }
        at += (part.len() - 3) as u64;
    }
    Ok(())
}

fn mismatch(what: &str) -> Refusal {
    Refusal::new(
        Reason::ZipMismatch,
        format!("{what} differs between the directory and the entry"),
    )
}

fn overlap() -> Refusal {
    Refusal::new(
        Reason::ZipOverlap,
        "the entry reaches into the next one or into the directory",
    )
}

fn no_header() -> Refusal {
    Refusal::new(
        Reason::ZipLocal,
        "there is no local header where the directory says",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeros_behind_the_last_field_are_alignment() {
        for (extra, want) in [
            (&b""[..], &b""[..]),
            (b"\0", b""),
            (b"\0\0\0\0\0", b""),
            (b"\x99\x99\x01\0x\0\0", b"\x99\x99\x01\0x"),
            (b"\x99\x99\x01\0x\0y", b"\x99\x99\x01\0x\0y"),
            (b"\x99\x99\x09\0x", b"\x99\x99\x09\0x"),
        ] {
            assert_eq!(padded(extra), want);
        }
    }
}
