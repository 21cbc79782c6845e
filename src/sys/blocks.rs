//! Reads a file block by block; everything that hashes files on disk uses this loop.

use std::io::{self, Read};

/// Read size.
const BLOCK_BYTES: usize = 256 << 10;

/// Reads `input` to its end and calls `each` for every block, until it fails.
pub fn read_blocks(
    mut input: impl Read,
    mut each: impl FnMut(&[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut block = vec![0; BLOCK_BYTES];
    loop {
        match input.read(&mut block) {
            Ok(0) => return Ok(()),
            Ok(n) => each(&block[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
