//! The compressor for the archives built here.

/// Deflates `bytes`. Level 0 writes stored blocks directly, since starting a compressor takes
/// longer than that.
pub fn deflate(bytes: &[u8], level: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len() + 16);
    if level > 0 {
        let mut compress = flate2::Compress::new(flate2::Compression::new(level), false);
        out.reserve(bytes.len() + 1024);
        compress
            .compress_vec(bytes, &mut out, flate2::FlushCompress::Finish)
            .expect("room for what does not compress");
        return out;
    }
    let mut parts = bytes.chunks(65_535).peekable();
    if parts.peek().is_none() {
        out.extend_from_slice(&[1, 0, 0, 0xff, 0xff]);
    }
    while let Some(part) = parts.next() {
        let len = part.len() as u16;
        out.push(u8::from(parts.peek().is_none()));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(part);
    }
    out
}
