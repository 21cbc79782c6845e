//! One record of a zip's directory, and the extra fields in it.

use std::io::{self, Read};

use super::bytes::{IN_EXTRA, u16_at, u32_at, u64_at};
use crate::datafile::tree::Mtime;
use crate::unpack::error::{Error, Reason, Refusal};

/// The first bytes of a record.
pub(super) const RECORD: &[u8; 4] = b"PK\x01\x02";
const RECORD_LEN: usize = 46;

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

/// Reads the next record.
pub(super) fn read_record(reader: &mut impl Read) -> Result<Record, Error> {
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
