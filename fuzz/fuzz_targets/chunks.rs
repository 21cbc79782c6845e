//! A tar gives the same result however it arrives: whole, in pieces that end wherever the input
//! says, or cut off by a broken connection.

#![no_main]

use std::io::{self, BufRead, Read};

use edgepush_fuzz::input::Input;
use edgepush_fuzz::unpack::{Error, Target, Tree, unpack_stream};
use edgepush_fuzz::{check, fixed, options};
use libfuzzer_sys::{fuzz_mutator, fuzz_target};

/// Bytes at the end of the archive that arrive in pieces.
const MOST_CUT: usize = 36 << 10;

/// A reader that returns the archive in pieces.
struct Pieces<'a> {
    bytes: &'a [u8],
    lengths: &'a [u8],
    at: usize,
    /// Bytes left of the current piece.
    left: usize,
    /// Whether the current piece was preceded by an `Interrupted` error, as after a signal.
    interrupted: bool,
    /// Whether an error follows the last byte.
    breaks: bool,
}

impl Read for Pieces<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.bytes.is_empty() && self.breaks {
            return Err(io::Error::other("connection reset"));
        }
        if self.left == 0 {
            let length = self.lengths.get(self.at % self.lengths.len().max(1));
            let length = length.copied().unwrap_or(1);
            if length == 255 && !self.interrupted {
                self.interrupted = true;
                return Err(io::ErrorKind::Interrupted.into());
            }
            self.interrupted = false;
            self.at += 1;
            // Short pieces cut fields; those close to a block's length cut blocks.
            self.left = match length {
                0 => 4096,
                1..64 => usize::from(length),
                _ => 512 * (usize::from(length) - 63) / 8 - 1,
            };
        }
        Ok(&self.bytes[..self.left.min(self.bytes.len())])
    }

    fn consume(&mut self, n: usize) {
        self.bytes = &self.bytes[n..];
        self.left = self.left.saturating_sub(n);
    }
}

fuzz_mutator!(
    |data: &mut [u8], size: usize, max_size: usize, _seed: u32| {
        fixed::next(data, size, max_size)
    }
);

fuzz_target!(|data: &[u8]| {
    let (Some(count), Some(head)) = (data.last(), data.first()) else {
        return;
    };
    // A zip is never read from a stream.
    if head % 4 > 1 {
        return;
    }
    // The last bytes say where to cut, and stay part of the archive: after the end mark any bytes
    // are valid.
    let lengths = &data[data.len().saturating_sub(1 + usize::from(count % 16))..];
    let Some(input) = Input::parse(data) else {
        return;
    };
    let options = options(&input);
    // A long archive starts with a filler, which arrives in one piece.
    let filler = input.archive.len().saturating_sub(MOST_CUT);
    let pieces = |bytes, breaks| Pieces {
        bytes,
        lengths,
        at: 0,
        left: filler,
        interrupted: false,
        breaks,
    };
    let whole = unpack_stream(input.format, &input.archive[..], Target::Check, &options);
    let cut = unpack_stream(
        input.format,
        pieces(&input.archive, false),
        Target::Check,
        &options,
    );
    compare(&whole, &cut);
    // A broken connection must never be reported as the end of the archive, nor as a flaw of bytes
    // that had not arrived.
    let at = input.archive.len() * usize::from(*count) / 255;
    let broken = unpack_stream(
        input.format,
        pieces(&input.archive[..at], true),
        Target::Check,
        &options,
    );
    match (&whole, &broken) {
        (_, Ok(_)) => panic!("a broken connection was taken for the end"),
        (Ok(_), Err(Error::Input(_))) | (Err(_), Err(_)) => {}
        (Ok(_), Err(error)) => panic!("a broken connection was taken for a flaw: {error}"),
    }
});

fn compare(whole: &Result<Tree, Error>, cut: &Result<Tree, Error>) {
    match (whole, cut) {
        (Ok(whole), Ok(cut)) => assert_eq!(whole, cut, "the pieces changed the tree"),
        (Err(whole), Err(cut)) => assert_eq!(
            check::text(whole),
            check::text(cut),
            "the pieces changed the reason"
        ),
        (Ok(_), Err(error)) => panic!("refused in pieces only: {error}"),
        (Err(error), Ok(_)) => panic!("accepted in pieces only; whole: {error}"),
    }
}
