//! Parses the directory of a zip strictly: as many well-formed records as announced. Bytes in which
//! readers could see different archives are refused.

use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;

use super::bytes::Bytes;
use super::end::find;
use super::record::{Record, read_record};
use crate::unpack::error::{Error, Reason, Refusal};
use crate::unpack::limits::Limits;

/// The directory of a zip.
pub(super) struct Directory {
    /// Its offset, before which the last entry has to end.
    pub(super) start: u64,
    /// The entries, in directory order.
    pub(super) records: Vec<Record>,
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
