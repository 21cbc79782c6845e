//! The meaning of the fuzzer's bytes. The first two say how the rest becomes an archive and how it
//! is unpacked; if all inputs were raw archives, nearly all would fail at the first checksum.

use flate2::Crc;

use crate::datafile::ArchiveType;
use crate::deflate::deflate;
use crate::unpack::NameEncoding;
use crate::{build, repair};

/// Bytes before the archive's own.
pub const HEAD: usize = 2;

/// An archive, and how to unpack it.
pub struct Input {
    /// The type it is unpacked as.
    pub format: ArchiveType,
    pub archive: Vec<u8>,
    pub encoding: NameEncoding,
    /// Whether it may use a second thread.
    pub threads: bool,
}

/// How bytes become an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Making {
    /// Unchanged.
    Raw,
    /// With corrected checksums.
    Repaired,
    /// As instructions for `build`.
    Built,
}

impl Input {
    /// Parses the fuzzer's bytes.
    pub fn parse(data: &[u8]) -> Option<Self> {
        let (head, rest) = data.split_at_checked(HEAD)?;
        let format = match head[0] % 4 {
            0 => ArchiveType::Tar,
            1 => ArchiveType::TarGz,
            2 => ArchiveType::Zip,
            _ => return None,
        };
        let making = match head[0] / 4 % 4 {
            0 => Making::Raw,
            1 => Making::Repaired,
            2 => Making::Built,
            _ => return None,
        };
        let filled = head[1] % 8 == 7;
        let encoding = match head[1] % 8 {
            0..=4 => NameEncoding::Auto,
            5 => NameEncoding::Gbk,
            6 => NameEncoding::Cp437,
            _ => NameEncoding::Utf8,
        };
        Some(Self {
            format,
            archive: make(format, making, filled, head[1] / 16, rest),
            encoding,
            threads: head[1] & 8 != 0,
        })
    }
}

fn make(format: ArchiveType, making: Making, filled: bool, how: u8, bytes: &[u8]) -> Vec<u8> {
    let mut archive = match (format, making) {
        (ArchiveType::TarGz, Making::Raw) => return bytes.to_vec(),
        (ArchiveType::Zip, Making::Repaired) => return repair::zip(bytes),
        (ArchiveType::Zip, Making::Built) => return build::zip(bytes),
        (_, Making::Raw) => bytes.to_vec(),
        (_, Making::Repaired) => repair::tar(bytes),
        (_, Making::Built) => build::tar(bytes),
    };
    if filled && format != ArchiveType::Zip {
        archive = [build::filler(how), archive].concat();
    }
    match format {
        ArchiveType::TarGz => gzip(&archive, how),
        ArchiveType::Tar | ArchiveType::Zip => archive,
    }
}

/// Compresses `bytes` as `how` says: in one member or two, compressed or stored, with or without
/// zeros at the end, and now and then with garbage after those.
fn gzip(bytes: &[u8], how: u8) -> Vec<u8> {
    // Compressing would take longer than everything else, and only decompression is under test.
    let level = u32::from(how & 9 == 9);
    let split = if how & 2 == 0 { 0 } else { bytes.len() / 3 };
    let mut out = Vec::with_capacity(bytes.len() + 64);
    for part in [&bytes[..split], &bytes[split..]] {
        if split > 0 || !part.is_empty() {
            member(part, level, how & 8 != 0, &mut out);
        }
    }
    if how & 4 != 0 {
        out.resize(out.len().next_multiple_of(512), 0);
        if how & 3 == 3 {
            out.push(b'x');
        }
    }
    out
}

fn member(bytes: &[u8], level: u32, named: bool, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0x1f, 0x8b, 8, u8::from(named) * 8, 0, 0, 0, 0, 0, 3]);
    if named {
        out.extend_from_slice(b"name\0");
    }
    out.extend_from_slice(&deflate(bytes, level));
    let mut crc = Crc::new();
    crc.update(bytes);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
}
