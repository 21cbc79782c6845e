//! Corrects checksums so that the fuzzer reaches the code behind them. All other bytes stay
//! unchanged.

use flate2::{Crc, Decompress, FlushDecompress};

const BLOCK: usize = 512;
/// Maximum number of zeros appended to a tar that was cut inside a member.
const MOST_FILL: u64 = 64 << 10;
/// Maximum inflated size of a zip entry.
const MOST_INFLATED: usize = 1 << 20;

/// Sets the checksum of every header found by following the sizes.
pub fn tar(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    let mut at = 0;
    while let Some(header) = out.get_mut(at..at + BLOCK) {
        if header.iter().all(|b| *b == 0) {
            at += BLOCK;
            continue;
        }
        set_checksum(header);
        let body = size(&header[124..136]).next_multiple_of(BLOCK as u64);
        let end = at as u64 + BLOCK as u64 + body;
        if end > out.len() as u64 {
            if end - (out.len() as u64) < MOST_FILL {
                out.resize(end as usize, 0);
            }
            break;
        }
        at = end as usize;
    }
    out
}

/// Sets the checksum of a tar header.
pub fn set_checksum(header: &mut [u8]) {
    header[148..156].fill(b' ');
    let sum: u32 = header.iter().map(|b| u32::from(*b)).sum();
    header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Parses a size leniently; anything implausible counts as 0.
fn size(field: &[u8]) -> u64 {
    if field[0] == 0x80 {
        return field[4..]
            .iter()
            .fold(0, |n, b| n << 8 | u64::from(*b))
            .min(1 << 40);
    }
    field
        .iter()
        .filter(|b| (b'0'..=b'7').contains(*b))
        .fold(0, |n, b| n << 3 | u64::from(b - b'0'))
}

/// Sets the checksums and sizes of a zip and the numbers of its end record, as far as its directory
/// can be read.
pub fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut out = bytes.to_vec();
    // On failure, the bytes are as broken as they were.
    let _ = zip_directory(&mut out);
    out
}

fn zip_directory(out: &mut [u8]) -> Option<()> {
    let end = (0..=out.len().checked_sub(22)?)
        .rev()
        .take(1024)
        .find(|at| out[*at..].starts_with(b"PK\x05\x06"))?;
    let start = u32_at(out, end + 16)? as usize;
    let (mut at, mut count) = (start, 0u16);
    while out.get(at..at + 46)?.starts_with(b"PK\x01\x02") {
        // An unreadable entry does not keep the next one from being repaired.
        let _ = zip_entry(out, at);
        let lens = [28, 30, 32].map(|field| u16_at(out, at + field).map(usize::from));
        at += 46 + lens[0]? + lens[1]? + lens[2]?;
        count += 1;
        if at > end || count > 512 {
            return None;
        }
        if at == end {
            break;
        }
    }
    out[end + 8..end + 10].copy_from_slice(&count.to_le_bytes());
    out[end + 10..end + 12].copy_from_slice(&count.to_le_bytes());
    out[end + 12..end + 16].copy_from_slice(&((at - start) as u32).to_le_bytes());
    Some(())
}

/// Sets the checksum and sizes in the directory record at `at` and in its local header.
fn zip_entry(out: &mut [u8], at: usize) -> Option<()> {
    let local = u32_at(out, at + 42)? as usize;
    if !out.get(local..local + 30)?.starts_with(b"PK\x03\x04") {
        return None;
    }
    let names = usize::from(u16_at(out, local + 26)?) + usize::from(u16_at(out, local + 28)?);
    let data = local + 30 + names;
    let stored = u32_at(out, at + 20)? as usize;
    let content = out.get(data..data + stored)?;
    let mut crc = Crc::new();
    match u16_at(out, at + 10)? {
        0 => crc.update(content),
        8 => crc.update(&inflate(content)?),
        _ => return None,
    }
    let described = u16_at(out, local + 6)? & 8 != 0;
    let values = [crc.sum(), stored as u32, crc.amount()];
    for (i, value) in values.into_iter().enumerate() {
        let bytes = value.to_le_bytes();
        out[at + 16 + 4 * i..at + 20 + 4 * i].copy_from_slice(&bytes);
        let place = if described {
            data + stored + 4 + 4 * i
        } else {
            local + 14 + 4 * i
        };
        out.get_mut(place..place + 4)?.copy_from_slice(&bytes);
    }
    Some(())
}

fn inflate(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity((bytes.len() * 8).clamp(4096, MOST_INFLATED));
    Decompress::new(false)
        .decompress_vec(bytes, &mut out, FlushDecompress::Finish)
        .ok()?;
    Some(out)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    let field = bytes.get(at..at + 2)?;
    Some(u16::from_le_bytes([field[0], field[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at + 4)?;
    Some(u32::from_le_bytes([field[0], field[1], field[2], field[3]]))
}
