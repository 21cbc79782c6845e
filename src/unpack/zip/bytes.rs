//! The bytes of a zip: the file, read at offsets, and the numbers in it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::unpack::error::{Error, Reason, Refusal};

/// A 32-bit field with this value refers to the zip64 extra field.
pub(super) const IN_EXTRA: u64 = 0xffff_ffff;

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

pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
