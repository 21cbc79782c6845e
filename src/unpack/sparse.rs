//! The map of a sparse file: which ranges of it have bytes in the archive. Everything between is
//! zero.

use super::error::{Reason, Refusal};
use super::header::number;
use super::pax::decimal;

/// A checked sparse map: ranges in order, without overlap, inside the file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sparse {
    /// Length of the expanded file.
    pub(super) real_size: u64,
    /// Offset and length of each range with bytes.
    pub(super) pieces: Vec<(u64, u64)>,
}

impl Sparse {
    /// Checks a map of alternating offsets and lengths against the `stored` bytes in the archive.
    pub(super) fn new(map: &[u64], real_size: u64, stored: u64) -> Result<Self, Refusal> {
        let mut pieces = Vec::with_capacity(map.len() / 2);
        let (mut end, mut sum) = (0u64, 0u64);
        for pair in map.chunks_exact(2) {
            let (offset, len) = (pair[0], pair[1]);
            let next = offset.checked_add(len).filter(|next| *next <= real_size);
            let Some(next) = next.filter(|_| offset >= end) else {
                return Err(invalid("the pieces overlap or lie outside the file"));
            };
            end = next;
            sum += len;
            if len > 0 {
                pieces.push((offset, len));
            }
        }
        if sum != stored {
            return Err(invalid("the pieces do not add up to the stored size").values(sum, stored));
        }
        Ok(Self { real_size, pieces })
    }
}

/// Adds the pairs of an old GNU header to `map`, each two numbers of 12 bytes; returns whether the
/// list ended.
pub(super) fn push_old_pairs(fields: &[u8], map: &mut Vec<u64>) -> Result<bool, Refusal> {
    for pair in fields.chunks_exact(24) {
        if pair[12] == 0 {
            return Ok(true);
        }
        for field in [&pair[..12], &pair[12..]] {
            let value = number(field).filter(|n| *n <= i64::MAX as u64);
            map.push(
                value.ok_or_else(|| invalid("the map contains something other than a number"))?,
            );
        }
    }
    Ok(false)
}

/// Parses the map that precedes the data in version 1.0: a count, then offsets and lengths, one
/// decimal number per line.
#[derive(Debug, Default)]
pub(super) struct MapReader {
    text: Vec<u8>,
    numbers: Vec<u64>,
    count: Option<u64>,
}

impl MapReader {
    /// Takes the next block of the map; returns the map once it is complete.
    pub(super) fn push(&mut self, block: &[u8]) -> Result<Option<Vec<u64>>, Refusal> {
        for byte in block {
            if *byte != b'\n' {
                self.text.push(*byte);
                if self.text.len() > 20 {
                    return Err(invalid("the map contains something other than a number"));
                }
                continue;
            }
            let value = decimal(&self.text)
                .filter(|n| *n <= i64::MAX as u64)
                .ok_or_else(|| invalid("the map contains something other than a number"))?;
            self.text.clear();
            match self.count {
                None => self.count = Some(value),
                Some(_) => self.numbers.push(value),
            }
            // The rest of this block is padding.
            if self.numbers.len() as u64 == self.count.unwrap_or(u64::MAX).saturating_mul(2) {
                return Ok(Some(std::mem::take(&mut self.numbers)));
            }
        }
        Ok(None)
    }
}

fn invalid(detail: &str) -> Refusal {
    Refusal::new(Reason::SparseInvalid, format!("the sparse file: {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_in_order_inside_the_file() {
        let sparse = Sparse::new(&[0, 5, 10, 0, 20, 5, 30, 0], 30, 10).unwrap();
        assert_eq!(sparse.pieces, [(0, 5), (20, 5)]);
        for (map, real, stored) in [
            (&[0, 5, 4, 5][..], 30, 10),
            (&[10, 5, 0, 5], 30, 10),
            (&[28, 5], 30, 5),
            (&[u64::MAX, 5], 30, 5),
            (&[0, 5], 30, 4),
        ] {
            let refusal = Sparse::new(map, real, stored).unwrap_err();
            assert_eq!(refusal.reason, Reason::SparseInvalid);
        }
    }

    #[test]
    fn reads_the_map_before_the_data_by_blocks() {
        let mut reader = MapReader::default();
        assert_eq!(reader.push(b"2\n0\n51").unwrap(), None);
        assert_eq!(
            reader.push(b"2\n4096\n7\n\0\0\0").unwrap(),
            Some(vec![0, 512, 4096, 7])
        );
        assert_eq!(MapReader::default().push(b"0\n\0\0").unwrap(), Some(vec![]));
        assert!(MapReader::default().push(b"-1\n").is_err());
        assert!(MapReader::default().push(&[b'1'; 40]).is_err());
    }
}
