//! Finds the end record of a zip and, from it, the directory: exactly one end record, and numbers that
//! fit the file exactly.

use super::bytes::{Bytes, IN_EXTRA, u16_at, u32_at, u64_at};
use super::record::RECORD;
use crate::unpack::error::{Error, Reason, Refusal};

const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: u64 = 22;
const END64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_LEN: u64 = 20;
/// Zero bytes tolerated after the end record: some tools pad the file.
const MAX_PADDING: u64 = 1 << 20;

/// Where the directory is, and how many records it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) start: u64,
    pub(super) size: u64,
    pub(super) count: u64,
}

/// Finds the directory.
pub(super) fn find(bytes: &Bytes<'_>) -> Result<Place, Error> {
    let end = find_end(bytes)?;
    let mut fields = [0; END_LEN as usize];
    bytes.read(end, &mut fields, Reason::ZipEocd)?;
    let small = Numbers {
        disk: u16_at(&fields, 4).into(),
        directory_disk: u16_at(&fields, 6).into(),
        count_here: u16_at(&fields, 8).into(),
        count: u16_at(&fields, 10).into(),
        size: u32_at(&fields, 12).into(),
        start: u32_at(&fields, 16).into(),
    };
    let (numbers, directory_end) = match find_end64(bytes, end)? {
        Some((large, at)) => {
            small.check_agrees(&large)?;
            (large, at)
        }
        None => (small, end),
    };
    if numbers.disk != 0 || numbers.directory_disk != 0 || numbers.count_here != numbers.count {
        return Err(
            Refusal::new(Reason::ZipMultidisk, "the zip is split over several disks").into(),
        );
    }
    let stated_end = numbers.start.checked_add(numbers.size);
    match stated_end {
        Some(stated) if stated == directory_end => Ok(Place {
            start: numbers.start,
            size: numbers.size,
            count: numbers.count,
        }),
        Some(stated) if stated < directory_end => Err(Refusal::new(
            Reason::ZipPrefix,
            "bytes precede the zip, or lie between its directory and its end record",
        )
        .values(format!("a directory up to {directory_end}"), stated)
        .into()),
        _ => Err(Refusal::new(Reason::ZipEocd, "the directory lies outside the file").into()),
    }
}

/// Finds the only end record: its comment reaches exactly to the end of the file, or to the zeros
/// that pad it. It must neither contain another end record in its comment nor lie in the comment of
/// another.
fn find_end(bytes: &Bytes<'_>) -> Result<u64, Error> {
    let last = content_end(bytes)?;
    let from = last.saturating_sub(END_LEN + 0xffff);
    let to = bytes.len.min(last + END_LEN);
    let mut window = vec![0; usize::try_from(to - from).unwrap_or(0)];
    bytes.read(from, &mut window, Reason::ZipEocd)?;
    // Start of each candidate record and end of its comment.
    let records: Vec<(u64, Option<u64>)> = window
        .windows(4)
        .enumerate()
        .filter(|(_, bytes)| bytes == END)
        .map(|(at, _)| {
            let comment = window.get(at + 20..at + 22).map(|len| u16_at(len, 0));
            let start = from + at as u64;
            (start, comment.map(|len| start + END_LEN + u64::from(len)))
        })
        .collect();
    let fits = |end: &Option<u64>| end.is_some_and(|end| end >= last && end <= bytes.len);
    let Some(found) = records.iter().position(|(_, end)| fits(end)) else {
        return Err(no_end(bytes, &window, !records.is_empty())?.into());
    };
    let start = records[found].0;
    let in_another = records[..found]
        .iter()
        .any(|(_, end)| end.is_some_and(|end| end > start && end <= bytes.len));
    if in_another || found + 1 < records.len() {
        return Err(Refusal::new(
            Reason::ZipAmbiguous,
            "the zip has several end records, one in the comment of the other",
        )
        .into());
    }
    Ok(start)
}

fn no_end(bytes: &Bytes<'_>, window: &[u8], has_record: bool) -> Result<Refusal, Error> {
    if has_record {
        return Ok(Refusal::new(
            Reason::ZipTrailing,
            "other bytes follow the end record of the zip, or its comment is cut off",
        ));
    }
    let mut start = [0; 4];
    if bytes.len >= 4 {
        bytes.read(0, &mut start, Reason::NotAnArchive)?;
    }
    let zip = start == *b"PK\x03\x04" || window.windows(4).any(|bytes| bytes == RECORD);
    Ok(if zip {
        Refusal::new(
            Reason::ZipEocd,
            "the zip has no end record: it was cut off, or something long follows it",
        )
    } else {
        Refusal::new(Reason::NotAnArchive, "the file is not a zip")
    })
}

/// Returns where the zeros that pad the file begin.
fn content_end(bytes: &Bytes<'_>) -> Result<u64, Error> {
    let mut chunk = [0; 4096];
    let mut end = bytes.len;
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let part = &mut chunk[..(end - start) as usize];
        bytes.read(start, part, Reason::ZipEocd)?;
        if let Some(at) = part.iter().rposition(|b| *b != 0) {
            return Ok(start + at as u64 + 1);
        }
        if bytes.len - start > MAX_PADDING {
            return Err(Refusal::new(
                Reason::ZipTrailing,
                "more zero bytes follow the zip than any tool writes",
            )
            .into());
        }
        end = start;
    }
    Err(Refusal::new(Reason::NotAnArchive, "the file is empty").into())
}

/// The numbers of an end record of either kind.
#[derive(Debug, Clone, Copy)]
struct Numbers {
    disk: u64,
    directory_disk: u64,
    count_here: u64,
    count: u64,
    size: u64,
    start: u64,
}

impl Numbers {
    /// Checks that each number equals that of the zip64 record or refers to it.
    fn check_agrees(&self, large: &Self) -> Result<(), Refusal> {
        let agrees = [
            (self.disk, large.disk, 0xffff),
            (self.directory_disk, large.directory_disk, 0xffff),
            (self.count_here, large.count_here, 0xffff),
            (self.count, large.count, 0xffff),
            (self.size, large.size, IN_EXTRA),
            (self.start, large.start, IN_EXTRA),
        ]
        .iter()
        .all(|(small, large, elsewhere)| small == large || small == elsewhere);
        if agrees {
            return Ok(());
        }
        Err(Refusal::new(
            Reason::ZipEocd,
            "the two end records of the zip disagree",
        ))
    }
}

/// Reads the zip64 end record, if a locator directly precedes the end record.
fn find_end64(bytes: &Bytes<'_>, end: u64) -> Result<Option<(Numbers, u64)>, Error> {
    let Some(locator_at) = end.checked_sub(LOCATOR_LEN) else {
        return Ok(None);
    };
    let mut locator = [0; LOCATOR_LEN as usize];
    bytes.read(locator_at, &mut locator, Reason::ZipEocd)?;
    if &locator[..4] != LOCATOR {
        return Ok(None);
    }
    if u32_at(&locator, 4) != 0 || u32_at(&locator, 16) > 1 {
        return Err(
            Refusal::new(Reason::ZipMultidisk, "the zip is split over several disks").into(),
        );
    }
    let wrong = || {
        Refusal::new(
            Reason::ZipEocd,
            "the zip64 locator does not lead to its record",
        )
    };
    let at = u64_at(&locator, 8);
    if at.checked_add(56).is_none_or(|least| least > locator_at) {
        return Err(wrong().into());
    }
    let mut fields = [0; 56];
    bytes.read(at, &mut fields, Reason::ZipEocd)?;
    let record_end = u64_at(&fields, 4)
        .checked_add(12)
        .and_then(|len| len.checked_add(at));
    if &fields[..4] != END64 || record_end != Some(locator_at) {
        return Err(wrong().into());
    }
    let numbers = Numbers {
        disk: u32_at(&fields, 16).into(),
        directory_disk: u32_at(&fields, 20).into(),
        count_here: u64_at(&fields, 24),
        count: u64_at(&fields, 32),
        size: u64_at(&fields, 40),
        start: u64_at(&fields, 48),
    };
    Ok(Some((numbers, at)))
}
