//! Decodes a gzip stream to its end: every member, every checksum, and only zeros after the last.
//!
//! The framing is parsed here rather than by a library so that each flaw has its own reason, the
//! bytes go from the network buffer into our block without a copy, and the last checksum is
//! verified although the tar ended before it.

use std::io::{self, BufRead};

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::error::{Error, Reason, Refusal};

/// Longest header of a gzip member, in bytes: name, comment and extra field together.
const MAX_HEADER: usize = 1 << 20;

/// Decodes a gzip stream.
pub(super) struct Gunzip<R> {
    input: Counted<R>,
    state: State,
    inflate: Decompress,
    crc: Crc,
}

/// A reader that counts the bytes consumed.
pub(super) struct Counted<R> {
    inner: R,
    taken: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    First,
    Body,
    Between,
    End,
}

impl<R: BufRead> Counted<R> {
    pub(super) fn new(inner: R) -> Self {
        Self { inner, taken: 0 }
    }

    /// Returns the number of bytes consumed.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    /// Returns the next bytes; empty at the end.
    pub(super) fn peek(&mut self) -> Result<&[u8], Error> {
        // `fill_buf` is called twice because the borrow checker rejects returning a borrow out of a
        // loop.
        loop {
            match self.inner.fill_buf() {
                Ok(_) => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(Error::Input(e)),
            }
        }
        self.inner.fill_buf().map_err(Error::Input)
    }

    pub(super) fn consume(&mut self, n: usize) {
        self.taken += n as u64;
        self.inner.consume(n);
    }

    fn byte(&mut self) -> Result<Option<u8>, Error> {
        let byte = self.peek()?.first().copied();
        if byte.is_some() {
            self.consume(1);
        }
        Ok(byte)
    }
}

impl<R: BufRead> Gunzip<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input: Counted::new(input),
            state: State::First,
            inflate: Decompress::new(false),
            crc: Crc::new(),
        }
    }

    /// Returns the number of compressed bytes consumed.
    pub(super) fn taken(&self) -> u64 {
        self.input.taken()
    }

    /// Fills part of `out`; returns 0 only at the end of the stream, when everything is verified.
    pub(super) fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        loop {
            match self.state {
                State::First => self.start(true)?,
                State::Between => self.next_member()?,
                State::End => return Ok(0),
                State::Body => {
                    let n = self.inflate(out)?;
                    if n > 0 {
                        return Ok(n);
                    }
                }
            }
        }
    }

    fn inflate(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        let input = self.input.peek()?;
        if input.is_empty() {
            return Err(cut());
        }
        let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self
            .inflate
            .decompress(input, out, FlushDecompress::None)
            .map_err(|_| Refusal::new(Reason::GzipData, "the compressed data is not valid"))?;
        // Both fit: they are limited by the lengths of the slices.
        let taken = (self.inflate.total_in() - before_in) as usize;
        let made = (self.inflate.total_out() - before_out) as usize;
        self.input.consume(taken);
        self.crc.update(&out[..made]);
        match status {
            Status::StreamEnd => self.trailer()?,
            Status::Ok | Status::BufError if taken == 0 && made == 0 => {
                return Err(Refusal::new(
                    Reason::GzipData,
                    "the compressed data cannot be decoded further",
                )
                .into());
            }
            Status::Ok | Status::BufError => {}
        }
        Ok(made)
    }

    fn trailer(&mut self) -> Result<(), Error> {
        let mut trailer = [0; 8];
        for byte in &mut trailer {
            *byte = self.input.byte()?.ok_or_else(cut)?;
        }
        let [a, b, c, d, e, f, g, h] = trailer;
        let (crc, len) = (
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        );
        if crc != self.crc.sum() {
            let refusal = Refusal::new(Reason::GzipCrc, "the checksum does not match")
                .values(format!("{crc:08x}"), format!("{:08x}", self.crc.sum()));
            return Err(refusal.into());
        }
        if len != self.crc.amount() {
            let refusal = Refusal::new(Reason::GzipCrc, "the length does not match")
                .values(len, self.crc.amount());
            return Err(refusal.into());
        }
        self.state = State::Between;
        Ok(())
    }

    /// After a member: the end, zeros up to the end, or another member.
    fn next_member(&mut self) -> Result<(), Error> {
        match self.input.peek()?.first() {
            None => self.state = State::End,
            Some(0x1f) => self.start(false)?,
            Some(0) => {
                loop {
                    let rest = self.input.peek()?;
                    if rest.is_empty() {
                        break;
                    }
                    if rest.iter().any(|b| *b != 0) {
                        return Err(trailing());
                    }
                    let n = rest.len();
                    self.input.consume(n);
                }
                self.state = State::End;
            }
            Some(_) => return Err(trailing()),
        }
        Ok(())
    }

    /// Parses the header of a member.
    fn start(&mut self, first: bool) -> Result<(), Error> {
        let mut header = HeaderReader {
            input: &mut self.input,
            crc: Crc::new(),
            len: 0,
        };
        for magic in [0x1f, 0x8b] {
            if header.input.peek()?.is_empty() {
                return Err(if first { not_gzip() } else { trailing() });
            }
            if header.byte()? != magic {
                return Err(if first { not_gzip() } else { trailing() });
            }
        }
        let method = header.byte()?;
        let flags = header.byte()?;
        if method != 8 {
            return Err(header_wrong("another compression than deflate"));
        }
        if flags & 0xe0 != 0 {
            return Err(header_wrong("reserved flags are set"));
        }
        for _ in 0..6 {
            header.byte()?;
        }
        if flags & 4 != 0 {
            let len = u16::from_le_bytes([header.byte()?, header.byte()?]);
            for _ in 0..len {
                header.byte()?;
            }
        }
        for flag in [8, 16] {
            if flags & flag != 0 {
                while header.byte()? != 0 {}
            }
        }
        if flags & 2 != 0 {
            let sum = header.crc.sum() as u16;
            if u16::from_le_bytes([header.byte()?, header.byte()?]) != sum {
                return Err(header_wrong("the header's own checksum does not match"));
            }
        }
        self.inflate.reset(false);
        self.crc.reset();
        self.state = State::Body;
        Ok(())
    }
}

struct HeaderReader<'a, R> {
    input: &'a mut Counted<R>,
    crc: Crc,
    len: usize,
}

impl<R: BufRead> HeaderReader<'_, R> {
    fn byte(&mut self) -> Result<u8, Error> {
        let byte = self.input.byte()?.ok_or_else(cut)?;
        self.crc.update(&[byte]);
        self.len += 1;
        if self.len > MAX_HEADER {
            return Err(header_wrong("the header does not end"));
        }
        Ok(byte)
    }
}

fn cut() -> Error {
    Refusal::new(
        Reason::Truncated,
        "the gzip data ends before its checksum: the file was cut off",
    )
    .into()
}

fn trailing() -> Error {
    Refusal::new(
        Reason::GzipTrailing,
        "other bytes follow the end of the gzip data",
    )
    .into()
}

fn not_gzip() -> Error {
    Refusal::new(Reason::NotAnArchive, "the file is not gzip").into()
}

fn header_wrong(detail: &str) -> Error {
    Refusal::new(Reason::GzipHeader, format!("the gzip header: {detail}")).into()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    /// Decodes all of `input`, given in pieces of `step` bytes.
    fn read(input: &[u8], step: usize) -> Result<Vec<u8>, &'static str> {
        let pieces = io::BufReader::with_capacity(step, input);
        let mut gunzip = Gunzip::new(pieces);
        let (mut out, mut buffer) = (Vec::new(), [0; 100]);
        loop {
            match gunzip.read(&mut buffer) {
                Ok(0) => return Ok(out),
                Ok(n) => out.extend_from_slice(&buffer[..n]),
                Err(e) => return Err(e.kind().name),
            }
        }
    }

    #[test]
    fn members_are_one_stream_however_they_are_cut() {
        let content: Vec<u8> = (0..10_000u32).flat_map(u32::to_le_bytes).collect();
        let whole = [
            gzip(&content[..7]),
            gzip(b""),
            gzip(&content[7..]),
            vec![0; 30],
        ]
        .concat();
        for step in [1, 2, 3, 7, 100, 1 << 20] {
            assert_eq!(read(&whole, step).as_ref(), Ok(&content), "{step}");
        }
    }

    #[test]
    fn every_cut_and_every_changed_bit_is_seen() {
        let content: Vec<u8> = (0..500u32).flat_map(u32::to_le_bytes).collect();
        let whole = gzip(&content);
        for end in 0..whole.len() {
            assert!(read(&whole[..end], 64).is_err(), "cut at {end}");
        }
        // Time, extra flags and operating system of the header are ignored.
        for at in (0..whole.len()).filter(|at| !(4..10).contains(at)) {
            let mut changed = whole.clone();
            changed[at] ^= 1 << (at % 8);
            if let Ok(out) = read(&changed, 64) {
                assert_eq!((at, out), (at, content.clone()), "a change went unseen");
            }
        }
    }

    #[test]
    fn nothing_but_zeros_may_follow() {
        for (tail, want) in [
            (&b"\0\0\0"[..], Ok(b"x".to_vec())),
            (b"\0\0x", Err("gzip-trailing")),
            (b"garbage", Err("gzip-trailing")),
            (b"\x1f", Err("gzip-trailing")),
            (b"\x1f\x8b", Err("truncated")),
            (b"\x1f\x8b\x07\0\0\0\0\0\0\0", Err("gzip-header")),
        ] {
            let whole = [&gzip(b"x")[..], tail].concat();
            assert_eq!(read(&whole, 5), want, "{tail:?}");
        }
        assert_eq!(read(b"", 5), Err("not-an-archive"));
        assert_eq!(read(b"<html>", 5), Err("not-an-archive"));
    }

    #[test]
    fn an_error_of_the_reader_comes_back_unchanged() {
        struct Broken;
        impl io::Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("connection reset"))
            }
        }
        let mut gunzip = Gunzip::new(io::BufReader::new(Broken));
        let Err(Error::Input(error)) = gunzip.read(&mut [0; 10]) else {
            panic!("no error of the input");
        };
        assert_eq!(error.to_string(), "connection reset");
    }
}
