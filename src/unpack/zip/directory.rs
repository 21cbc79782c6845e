//! Parses the end record and the directory of a zip strictly: exactly one end record, numbers that
//! fit the file exactly, and as many well-formed records as announced. Bytes in which readers could
//! see different archives are refused.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use crate::datafile::tree::Mtime;
use crate::unpack::error::{Error, Reason, Refusal};
use crate::unpack::limits::Limits;

const END: &[u8; 4] = b"PK\x05\x06";
const END_LEN: u64 = 22;
const END64: &[u8; 4] = b"PK\x06\x06";
const LOCATOR: &[u8; 4] = b"PK\x06\x07";
const LOCATOR_LEN: u64 = 20;
const RECORD: &[u8; 4] = b"PK\x01\x02";
const RECORD_LEN: usize = 46;
/// Zero bytes tolerated after the end record: some tools pad the file.
const MAX_PADDING: u64 = 1 << 20;
/// A 32-bit field with this value refers to the zip64 extra field.
const IN_EXTRA: u64 = 0xffff_ffff;

/// A file read at offsets.
pub(super) struct Bytes<'a> {
    pub(super) file: &'a File,
    pub(super) len: u64,
}

impl Bytes<'_> {
    /// Fills `buffer` from `offset`; a file that ends earlier is refused as `reason`.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8], reason: Reason) -> Result<(), Error> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => {
                    Refusal::new(reason, "an offset beyond the end of the file").into()
                }
                _ => Error::Input(e),
            })
    }
}

/// The directory of a zip.
pub(super) struct Directory {
    /// Its offset, before which the last entry has to end.
    pub(super) start: u64,
    /// The entries, in directory order.
    pub(super) records: Vec<Record>,
}

/// How an entry is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Stored,
    Deflate,
}

/// What the directory says about an entry.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) raw_name: Box<[u8]>,
    /// The name from the Unicode path field, if that belongs to the raw one.
    pub(super) unicode: Option<Box<[u8]>>,
    pub(super) host: u8,
    pub(super) flags: u16,
    pub(super) method: Method,
    pub(super) mtime: Mtime,
    pub(super) crc: u32,
    /// Compressed size.
    pub(super) stored: u64,
    /// Uncompressed size.
    pub(super) size: u64,
    pub(super) attributes: u32,
    /// Offset of the local header.
    pub(super) offset: u64,
}

/// Where the directory is, and how many records it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    start: u64,
    size: u64,
    count: u64,
}

/// Reads the directory of a zip.
pub(super) fn read(bytes: &Bytes<'_>, limits: &Limits) -> Result<Directory, Error> {
    let place = find(bytes)?;
    if place.count > limits.max_entries {
        return Err(Refusal::limit(
            Reason::LimitEntries,
            "max_entries",
            limits.max_entries,
            place.count,
        )
        .into());
    }
    if place.size > limits.max_zip_directory_bytes {
        let most = limits.max_zip_directory_bytes;
        let key = "max_zip_directory_bytes";
        return Err(Refusal {
            detail: "the directory of the zip is too long".into(),
            ..Refusal::limit(
                Reason::LimitEntries,
                key,
                most,
                format!("{} bytes", place.size),
            )
        }
        .into());
    }
    let mut reader = BufReader::with_capacity(
        64 * 1024,
        Section {
            bytes,
            at: place.start,
            end: place.start + place.size,
        },
    );
    let mut records = Vec::new();
    for _ in 0..place.count {
        records.push(read_record(&mut reader)?);
    }
    let rest = reader.fill_buf().map_err(Error::Input)?;
    if !rest.is_empty() {
        return Err(Refusal::new(Reason::ZipCd, "the directory is longer than its records").into());
    }
    Ok(Directory {
        start: place.start,
        records,
    })
}

/// A range of the file as a reader.
struct Section<'a> {
    bytes: &'a Bytes<'a>,
    at: u64,
    end: u64,
}

impl Read for Section<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        let n = self.bytes.file.read_at(&mut buffer[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

fn find(bytes: &Bytes<'_>) -> Result<Place, Error> {
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

fn read_record(reader: &mut impl Read) -> Result<Record, Error> {
    let mut fields = [0; RECORD_LEN];
    fill(reader, &mut fields)?;
    if &fields[..4] != RECORD {
        return Err(Refusal::new(
            Reason::ZipCd,
            "the directory contains something other than a record",
        )
        .into());
    }
    let mut name = vec![0; u16_at(&fields, 28).into()];
    let mut extra = vec![0; u16_at(&fields, 30).into()];
    let mut comment = vec![0; u16_at(&fields, 32).into()];
    for part in [&mut name, &mut extra, &mut comment] {
        fill(reader, part)?;
    }
    let shown = name.clone();
    record(&fields, name, &extra).map_err(|refusal| refusal.at(&shown).into())
}

fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> Result<(), Error> {
    reader.read_exact(buffer).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => {
            Refusal::new(Reason::ZipCd, "the directory ends inside a record").into()
        }
        _ => Error::Input(e),
    })
}

fn record(fields: &[u8], name: Vec<u8>, extra: &[u8]) -> Result<Record, Refusal> {
    let flags = u16_at(fields, 8);
    let method = match u16_at(fields, 10) {
        _ if flags & (1 | 1 << 6 | 1 << 13) != 0 => {
            return Err(Refusal::new(Reason::ZipEncrypted, "the entry is encrypted"));
        }
        99 => return Err(Refusal::new(Reason::ZipEncrypted, "the entry is encrypted")),
        _ if flags & 1 << 5 != 0 => {
            return Err(Refusal::new(Reason::ZipMethod, "the entry is a patch"));
        }
        0 => Method::Stored,
        8 => Method::Deflate,
        other => {
            return Err(Refusal::new(
                Reason::ZipMethod,
                format!("compression method {other} is not supported"),
            ));
        }
    };
    let extra = Extra::parse(extra)?;
    let [size, stored, offset, disk] = extra.large(
        true,
        [
            u32_at(fields, 24).into(),
            u32_at(fields, 20).into(),
            u32_at(fields, 42).into(),
            u16_at(fields, 34).into(),
        ],
    )?;
    if disk != 0 {
        return Err(Refusal::new(
            Reason::ZipMultidisk,
            "the entry is on another disk",
        ));
    }
    let unicode = extra.unicode_name(&name)?.map(Into::into);
    Ok(Record {
        raw_name: name.into(),
        unicode,
        host: fields[5],
        flags,
        method,
        mtime: extra
            .mtime
            .unwrap_or_else(|| dos_time(u16_at(fields, 14), u16_at(fields, 12))),
        crc: u32_at(fields, 16),
        stored,
        size,
        attributes: u32_at(fields, 38),
        offset,
    })
}

/// The extra fields that edgepush uses.
#[derive(Debug, Default)]
pub(super) struct Extra<'a> {
    zip64: Option<&'a [u8]>,
    unicode_path: Option<&'a [u8]>,
    mtime: Option<Mtime>,
}

impl<'a> Extra<'a> {
    /// Parses the extra fields, which have to fill their space exactly.
    pub(super) fn parse(mut rest: &'a [u8]) -> Result<Self, Refusal> {
        let malformed = || Refusal::new(Reason::ZipExtra, "an extra field is not well-formed");
        let mut extra = Self::default();
        while let [a, b, c, d, tail @ ..] = rest {
            let len = usize::from(u16::from_le_bytes([*c, *d]));
            let data = tail.get(..len).ok_or_else(malformed)?;
            rest = &tail[len..];
            let slot = match u16::from_le_bytes([*a, *b]) {
                0x0001 => &mut extra.zip64,
                0x7075 => &mut extra.unicode_path,
                0x5455 => {
                    if let [flags, a, b, c, d, ..] = data
                        && flags & 1 != 0
                    {
                        let secs = i32::from_le_bytes([*a, *b, *c, *d]).into();
                        extra.mtime = Some(Mtime { secs, nanos: 0 });
                    }
                    continue;
                }
                _ => continue,
            };
            if slot.replace(data).is_some() {
                return Err(Refusal::new(
                    Reason::ZipExtra,
                    "an extra field occurs twice",
                ));
            }
        }
        if rest.is_empty() {
            Ok(extra)
        } else {
            Err(malformed())
        }
    }

    /// Returns size, compressed size, offset and disk, each from the zip64 field if `small` refers
    /// to it. With `exact` false, a field that repeats both sizes is accepted too, as in local
    /// headers.
    pub(super) fn large(&self, exact: bool, small: [u64; 4]) -> Result<[u64; 4], Refusal> {
        let elsewhere = [IN_EXTRA, IN_EXTRA, IN_EXTRA, 0xffff];
        let wrong = |detail| Err(Refusal::new(Reason::ZipExtra, detail));
        let Some(data) = self.zip64 else {
            let missing = (0..3).any(|i| small[i] == IN_EXTRA);
            return if missing {
                wrong("the zip64 field that should hold a size is missing")
            } else {
                Ok(small)
            };
        };
        let mut out = small;
        let mut rest = data;
        for (i, value) in out.iter_mut().enumerate() {
            if *value != elsewhere[i] {
                continue;
            }
            let width = if i == 3 { 4 } else { 8 };
            let Some((number, tail)) = rest.split_at_checked(width) else {
                return wrong("the zip64 field is too short");
            };
            *value = if i == 3 {
                u32_at(number, 0).into()
            } else {
                u64_at(number, 0)
            };
            rest = tail;
        }
        // Some writers store all values there, needed or not; then each has to be in its place and
        // equal.
        let whole = || {
            matches!(data.len(), 8 | 16 | 24 | 28)
                && (0..3).all(|i| {
                    data.get(i * 8..i * 8 + 8)
                        .is_none_or(|n| u64_at(n, 0) == out[i])
                })
        };
        if rest.is_empty() || whole() || (!exact && data.len() >= 16) {
            Ok(out)
        } else {
            wrong("the zip64 field holds more than the header asks for")
        }
    }

    /// Returns the name from the Unicode path field, if its checksum matches `raw`: tools that do
    /// not know the field leave it behind when they rename an entry.
    pub(super) fn unicode_name(&self, raw: &[u8]) -> Result<Option<&'a [u8]>, Refusal> {
        let Some([version, a, b, c, d, name @ ..]) = self.unicode_path else {
            return match self.unicode_path {
                None => Ok(None),
                Some(_) => Err(Refusal::new(
                    Reason::ZipExtra,
                    "the Unicode path field is too short",
                )),
            };
        };
        let mut crc = flate2::Crc::new();
        crc.update(raw);
        if *version != 1 || u32::from_le_bytes([*a, *b, *c, *d]) != crc.sum() {
            return Ok(None);
        }
        if std::str::from_utf8(name).is_err() {
            return Err(Refusal::new(
                Reason::NameEncoding,
                "the Unicode path field is not UTF-8",
            ));
        }
        Ok(Some(name))
    }
}

/// Reads a DOS time as UTC, so that every node gets the same: the format has no time zone.
fn dos_time(date: u16, time: u16) -> Mtime {
    let (day, month, year) = (
        i64::from(date & 31).clamp(1, 31),
        i64::from(date >> 5 & 15).clamp(1, 12),
        1980 + i64::from(date >> 9),
    );
    // Days since the epoch of a Gregorian date, with years starting in March.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let days =
        365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let secs =
        i64::from(time >> 11) * 3600 + i64::from(time >> 5 & 63) * 60 + i64::from(time & 31) * 2;
    Mtime {
        secs: days * 86_400 + secs,
        nanos: 0,
    }
}

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dos_times_are_utc() {
        // 2023-11-14 22:13:20, 1980-01-01, and a date of all zeros.
        assert_eq!(dos_time(0x576e, 0xb1aa).secs, 1_700_000_000);
        assert_eq!(dos_time(0x0021, 0).secs, 315_532_800);
        assert_eq!(dos_time(0, 0).secs, 315_532_800);
        assert_eq!(dos_time(0x5864, 0).secs, 1_709_510_400);
    }

    #[test]
    fn extra_fields_fill_their_room_and_come_once() {
        assert!(Extra::parse(b"").is_ok());
        assert!(Extra::parse(b"\x99\x99\x02\0ab").is_ok());
        for bad in [
            &b"\x99\x99\x03\0ab"[..],
            b"\x99",
            b"\x99\x99\0\0x",
            b"\x01\0\0\0\x01\0\0\0",
        ] {
            let refusal = Extra::parse(bad).unwrap_err();
            assert_eq!(refusal.reason, Reason::ZipExtra, "{bad:?}");
        }
    }

    #[test]
    fn large_numbers_come_from_the_extra_field_alone() {
        let field = |values: &[u64]| -> Vec<u8> {
            let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            [&[1, 0, data.len() as u8, 0], &data[..]].concat()
        };
        let large = |extra: &[u8], small| {
            Extra::parse(extra)
                .unwrap()
                .large(true, small)
                .map_err(|r| r.reason)
        };
        let all = IN_EXTRA;
        assert_eq!(large(b"", [1, 2, 3, 0]), Ok([1, 2, 3, 0]));
        assert_eq!(large(&field(&[7, 8]), [all, all, 3, 0]), Ok([7, 8, 3, 0]));
        assert_eq!(large(&field(&[9]), [1, 2, all, 0]), Ok([1, 2, 9, 0]));
        assert_eq!(large(&field(&[1, 2]), [1, 2, 3, 0]), Ok([1, 2, 3, 0]));
        for (extra, small) in [
            (vec![], [all, 2, 3, 0]),
            (field(&[7]), [all, all, 3, 0]),
            (field(&[7, 8]), [1, 2, 3, 0]),
            (field(&[7, 9]), [all, 2, 3, 0]),
        ] {
            assert_eq!(large(&extra, small), Err(Reason::ZipExtra));
        }
    }
}
