//! Builds archives from the fuzzer's bytes: mostly well-formed, and odd in one place or another. A
//! few bytes here make what plain mutation almost never does, such as a link through a link or a
//! member with two extended headers.

use flate2::Crc;

use crate::deflate::deflate;
use crate::repair::set_checksum;

const BLOCK: usize = 512;
/// Maximum number of members in one archive.
const MOST: usize = 20;
/// Block size of the reader under test, in tar blocks.
const READER_BLOCKS: usize = 512;

/// The fuzzer's bytes, read one after the other; zeros after the last one.
struct Tape<'a>(&'a [u8]);

impl<'a> Tape<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().unwrap_or((&0, &[]));
        self.0 = rest;
        *first
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes([self.byte(), self.byte(), self.byte(), self.byte()])
    }

    /// Returns true about once in `n` calls.
    fn rarely(&mut self, n: u8) -> bool {
        self.byte() >= u8::MAX - u8::MAX / n
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::from(self.byte()) % of.len()]
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Returns a short piece of content, or a longer run of one byte.
    fn content(&mut self) -> Vec<u8> {
        let len = usize::from(self.byte());
        match len {
            0..32 => Vec::new(),
            32..192 => self.take(len - 31).to_vec(),
            _ => vec![self.byte(); (len - 191) * 37],
        }
    }

    /// Returns a name from a small alphabet, so that names collide.
    fn name(&mut self) -> Vec<u8> {
        let depth = self.byte() % 4 + 1;
        let components: Vec<_> = (0..depth).map(|_| self.component()).collect();
        let mut name = components.join(&b'/');
        match self.byte() {
            0..224 => {}
            224..240 => name.push(b'/'),
            240..246 => name.insert(0, b'/'),
            246..251 => name.extend_from_slice(b"/."),
            251..254 => name.push(0),
            _ => name.clear(),
        }
        name
    }

    fn component(&mut self) -> Vec<u8> {
        match self.byte() {
            n @ 0..200 => vec![b'a' + n % 5],
            200..206 => b"..".to_vec(),
            206..212 => b".".to_vec(),
            212..214 => Vec::new(),
            214..218 => b"b\\..\\c".to_vec(),
            218..222 => b"C:".to_vec(),
            222..228 => "ä".as_bytes().to_vec(),
            228..230 => b"\x95\x5c".to_vec(),
            230..234 => b"\xe4".to_vec(),
            234..238 => b"\n".to_vec(),
            238..244 => vec![b'x'; usize::from(self.byte()) % 128],
            _ => {
                let len = usize::from(self.byte()) % 8;
                self.take(len).to_vec()
            }
        }
    }

    /// Returns a link target: upwards, downwards, or a name.
    fn target(&mut self) -> Vec<u8> {
        let mut target = b"../".repeat(usize::from(self.byte() % 8 / 3));
        target.extend_from_slice(&self.name());
        target
    }
}

/// Returns a member whose length puts the end of the reader's first block `at` tar blocks after it.
pub fn filler(at: u8) -> Vec<u8> {
    let body = (READER_BLOCKS - 1 - usize::from(at)) * BLOCK;
    let mut out = Header::new(b"filler", b'0', body as u64).done();
    out.resize(BLOCK + body, b'f');
    out
}

/// Builds a tar.
pub fn tar(bytes: &[u8]) -> Vec<u8> {
    let mut tape = Tape(bytes);
    let mut out = Vec::new();
    for _ in 0..MOST {
        if tape.0.is_empty() {
            break;
        }
        member(&mut tape, &mut out);
    }
    match tape.byte() {
        0..200 => out.resize(out.len() + 2 * BLOCK, 0),
        200..220 => out.resize((out.len() + 2 * BLOCK).next_multiple_of(20 * BLOCK), 0),
        220..235 => out.resize(out.len() + BLOCK, 0),
        235..245 => {}
        _ => out.truncate(out.len() - out.len().min(usize::from(tape.byte()) * 4)),
    }
    out
}

fn member(tape: &mut Tape<'_>, out: &mut Vec<u8>) {
    let kind = tape.byte();
    let name = tape.name();
    match kind {
        0..60 => file(tape, &name, out),
        60..85 => bodiless(tape, b'5', &name, b"", out),
        85..120 => {
            let target = tape.target();
            bodiless(tape, b'2', &name, &target, out);
        }
        120..150 => {
            let target = tape.name();
            bodiless(tape, b'1', &name, &target, out);
        }
        150..165 => extension(b'L', &terminated(tape, name), out),
        165..175 => {
            let target = tape.target();
            extension(b'K', &terminated(tape, target), out);
        }
        175..210 => {
            let records = records(tape);
            extension(b'x', &records, out);
        }
        210..216 => {
            let records = records(tape);
            extension(b'g', &records, out);
        }
        216..226 => old_sparse(tape, &name, out),
        226..240 => pax_sparse(tape, &name, out),
        240..244 => bodiless(tape, b'V', &name, b"", out),
        244..250 => bodiless(tape, tape_type(kind), &name, b"", out),
        _ => out.extend_from_slice(tape.take(BLOCK)),
    }
}

fn tape_type(kind: u8) -> u8 {
    [b'3', b'6', b'7', 0, b'D', b'9'][usize::from(kind) % 6]
}

fn terminated(tape: &mut Tape<'_>, mut name: Vec<u8>) -> Vec<u8> {
    if tape.byte() < 192 {
        name.push(0);
    }
    name
}

fn file(tape: &mut Tape<'_>, name: &[u8], out: &mut Vec<u8>) {
    let content = tape.content();
    let mut header = Header::new(name, tape.pick(b"00000000000007\0S"), content.len() as u64);
    header.odd(tape);
    out.extend_from_slice(&header.done());
    body(&content, out);
}

fn bodiless(tape: &mut Tape<'_>, kind: u8, name: &[u8], link: &[u8], out: &mut Vec<u8>) {
    let size = if tape.rarely(40) { 512 } else { 0 };
    let mut header = Header::new(name, kind, size);
    header.put(157, &link[..link.len().min(100)]);
    header.odd(tape);
    out.extend_from_slice(&header.done());
}

fn extension(kind: u8, payload: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&Header::new(b"././@Ext", kind, payload.len() as u64).done());
    body(payload, out);
}

fn body(content: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(content);
    out.resize(out.len().next_multiple_of(BLOCK), 0);
}

/// Builds the records of a pax header.
fn records(tape: &mut Tape<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..=tape.byte() % 3 {
        let (key, value): (&[u8], Vec<u8>) = match tape.byte() {
            0..60 => (b"path", tape.name()),
            60..110 => (b"linkpath", tape.target()),
            110..150 => (b"size", tape.byte().to_string().into_bytes()),
            150..175 => (b"mtime", b"-1.5".to_vec()),
            175..200 => (b"comment", record(b"path", b"injected")),
            200..215 => (b"SCHILY.xattr.user.x", b"\n9 size=1\n".to_vec()),
            215..225 => (b"hdrcharset", b"BINARY".to_vec()),
            225..235 => (b"GNU.sparse.name", tape.name()),
            235..245 => (b"uid", b"77".to_vec()),
            _ => {
                let len = usize::from(tape.byte()) % 8;
                let key = tape.take(len);
                (key, tape.take(5).to_vec())
            }
        };
        out.extend_from_slice(&record(key, &value));
    }
    if tape.rarely(30) {
        out.extend_from_slice(tape.take(9));
    }
    out
}

fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len.to_string().len() + rest != len {
        len += 1;
    }
    let mut out = format!("{len} ").into_bytes();
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
    out
}

/// Returns the ranges of a sparse file: alternating offsets and lengths, the real size, and the
/// stored bytes.
fn pieces(tape: &mut Tape<'_>) -> (Vec<u64>, u64, Vec<u8>) {
    let (mut map, mut end, mut stored) = (Vec::new(), 0, Vec::new());
    for _ in 0..tape.byte() % 4 {
        let offset = end + u64::from(tape.byte()) * 16;
        let len = usize::from(tape.byte());
        map.extend_from_slice(&[offset, len as u64]);
        stored.resize(stored.len() + len, tape.byte());
        end = offset + len as u64;
    }
    if tape.rarely(20)
        && let Some(first) = map.first_mut()
    {
        *first = u64::from(tape.u32());
    }
    (map, end + u64::from(tape.byte() / 64) * 100, stored)
}

fn old_sparse(tape: &mut Tape<'_>, name: &[u8], out: &mut Vec<u8>) {
    let (map, real, stored) = pieces(tape);
    let mut header = Header::new(name, b'S', stored.len() as u64);
    header.put(257, b"ustar  \0");
    for (i, number) in map.iter().enumerate() {
        header.put(386 + 12 * i, format!("{number:011o}\0").as_bytes());
    }
    header.put(483, format!("{real:011o}\0").as_bytes());
    out.extend_from_slice(&header.done());
    body(&stored, out);
}

fn pax_sparse(tape: &mut Tape<'_>, name: &[u8], out: &mut Vec<u8>) {
    let (map, real, stored) = pieces(tape);
    let number = |n: u64| n.to_string().into_bytes();
    let count = number(map.len() as u64 / 2);
    let mut records = Vec::new();
    let mut content = Vec::new();
    match tape.byte() % 3 {
        0 => {
            records.extend(record(b"GNU.sparse.size", &number(real)));
            records.extend(record(b"GNU.sparse.numblocks", &count));
            for pair in map.chunks_exact(2) {
                records.extend(record(b"GNU.sparse.offset", &number(pair[0])));
                records.extend(record(b"GNU.sparse.numbytes", &number(pair[1])));
            }
        }
        1 => {
            let text: Vec<_> = map.iter().map(u64::to_string).collect();
            records.extend(record(b"GNU.sparse.size", &number(real)));
            records.extend(record(b"GNU.sparse.numblocks", &count));
            records.extend(record(b"GNU.sparse.map", text.join(",").as_bytes()));
            records.extend(record(b"GNU.sparse.name", name));
        }
        _ => {
            records.extend(record(b"GNU.sparse.major", b"1"));
            records.extend(record(b"GNU.sparse.minor", b"0"));
            records.extend(record(b"GNU.sparse.name", name));
            records.extend(record(b"GNU.sparse.realsize", &number(real)));
            content.extend(count);
            content.push(b'\n');
            for value in &map {
                content.extend(number(*value));
                content.push(b'\n');
            }
            content.resize(content.len().next_multiple_of(BLOCK), 0);
        }
    }
    content.extend(stored);
    extension(b'x', &records, out);
    out.extend_from_slice(&Header::new(name, b'0', content.len() as u64).done());
    body(&content, out);
}

struct Header([u8; BLOCK]);

impl Header {
    fn new(name: &[u8], kind: u8, size: u64) -> Self {
        let mut header = Self([0; BLOCK]);
        header.put(0, &name[..name.len().min(100)]);
        header.put(100, b"0000644\0");
        header.put(108, b"0000000\0");
        header.put(116, b"0000000\0");
        header.put(124, format!("{size:011o}\0").as_bytes());
        header.put(136, b"14524770400\0");
        header.put(156, &[kind]);
        header.put(257, b"ustar\x0000");
        header
    }

    fn put(&mut self, at: usize, bytes: &[u8]) {
        self.0[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// Changes a field now and then.
    fn odd(&mut self, tape: &mut Tape<'_>) {
        match tape.byte() {
            0..180 => {}
            180..195 => self.put(257, b"ustar  \0"),
            195..205 => self.put(257, &[0; 8]),
            205..215 => {
                let prefix = tape.component();
                self.put(345, &prefix);
            }
            215..225 => {
                let mode = tape.u32() % 0o10000;
                self.put(100, format!("{mode:07o}\0").as_bytes());
            }
            225..232 => self.put(136, tape.take(12)),
            232..238 => self.put(508, b"tar\0"),
            238..246 => {
                let size = [0, 0, 0, tape.byte(), tape.byte()];
                self.put(124, &[0x80, 0, 0, 0, 0, 0, 0]);
                self.put(131, &size);
            }
            _ => {
                let at = usize::from(tape.byte()) * 2;
                self.put(at, tape.take(2));
            }
        }
    }

    fn done(mut self) -> Vec<u8> {
        set_checksum(&mut self.0);
        self.0.to_vec()
    }
}

/// Builds a zip.
pub fn zip(bytes: &[u8]) -> Vec<u8> {
    let mut tape = Tape(bytes);
    let (mut out, mut directory, mut count) = (Vec::new(), Vec::new(), 0u16);
    if tape.rarely(40) {
        out.extend_from_slice(&[0; 7]);
    }
    for _ in 0..MOST {
        if tape.0.is_empty() {
            break;
        }
        entry(&mut tape, &mut out, &mut directory);
        count += 1;
    }
    let start = out.len() as u32;
    out.extend_from_slice(&directory);
    if tape.rarely(16) {
        zip64_end(&mut tape, count, start, directory.len(), &mut out);
    }
    out.extend_from_slice(b"PK\x05\x06\0\0\0\0");
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&(directory.len() as u32).to_le_bytes());
    out.extend_from_slice(&start.to_le_bytes());
    let comment = match tape.byte() {
        0..230 => &[],
        _ => tape.take(20),
    };
    out.extend_from_slice(&(comment.len() as u16).to_le_bytes());
    out.extend_from_slice(comment);
    if tape.rarely(30) {
        out.extend_from_slice(&[tape.byte() & 1; 3]);
    }
    out
}

fn zip64_end(tape: &mut Tape<'_>, count: u16, start: u32, len: usize, out: &mut Vec<u8>) {
    let at = out.len() as u64;
    out.extend_from_slice(b"PK\x06\x06");
    out.extend_from_slice(&44u64.to_le_bytes());
    out.extend_from_slice(&[45, 3, 45, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let count = u64::from(count) + u64::from(tape.rarely(10));
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&(len as u64).to_le_bytes());
    out.extend_from_slice(&u64::from(start).to_le_bytes());
    out.extend_from_slice(b"PK\x06\x07\0\0\0\0");
    out.extend_from_slice(&at.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
}

/// An entry of a zip, from which its local header and directory record are written.
struct Entry {
    host: u8,
    mode: u32,
    name: Vec<u8>,
    /// Flags, method and time.
    fields: Vec<u8>,
    /// Checksum and sizes.
    sums: Vec<u8>,
    extra: Vec<u8>,
    stored: Vec<u8>,
    /// Whether checksum and sizes follow the data.
    described: bool,
}

fn entry(tape: &mut Tape<'_>, out: &mut Vec<u8>, directory: &mut Vec<u8>) {
    let offset = out.len() as u32;
    let entry = make_entry(tape);
    local_header(tape, &entry, out);
    directory_record(tape, &entry, offset, directory);
}

fn make_entry(tape: &mut Tape<'_>) -> Entry {
    let kind = tape.byte();
    let mut name = tape.name();
    let host = tape.pick(&[3, 3, 3, 3, 0, 0, 19, 11, 7]);
    let (mode, content) = mode_and_content(tape, kind, host, &mut name);
    let deflated = tape.byte();
    let stored = match deflated {
        0..128 => content.clone(),
        128..192 => deflate(&content, 0),
        _ => deflate(&content, 1),
    };
    let mut crc = Crc::new();
    crc.update(&content);
    let mut flags: u16 = match tape.byte() {
        0..150 => 0,
        150..200 => 8,
        200..235 => 1 << 11,
        235..245 => 8 | 1 << 11,
        _ => u16::from(tape.byte()),
    };
    let mut extra = Vec::new();
    match tape.byte() {
        0..200 => {}
        200..225 => unicode_path(tape, &name, &mut extra),
        225..235 => extra.extend_from_slice(b"UT\x05\0\x03\0\0\0\x60"),
        235..245 => extra.extend_from_slice(tape.take(6)),
        _ => flags |= 1 << 11,
    }
    let mut fields = Vec::new();
    fields.extend_from_slice(&flags.to_le_bytes());
    fields.extend_from_slice(&(u16::from(deflated >= 128) * 8).to_le_bytes());
    fields.extend_from_slice(
        &tape
            .pick(&[0, 0x5021_0000, 0xffff_ffff, 0x5a21_7000u32])
            .to_le_bytes(),
    );
    let mut sums = Vec::new();
    sums.extend_from_slice(&crc.sum().to_le_bytes());
    sums.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    sums.extend_from_slice(&(content.len() as u32).to_le_bytes());
    Entry {
        host,
        mode,
        name,
        fields,
        sums,
        extra,
        stored,
        described: flags & 8 != 0,
    }
}

/// Returns the mode and the content of an entry; appends the separator to a directory's name.
fn mode_and_content(tape: &mut Tape<'_>, kind: u8, host: u8, name: &mut Vec<u8>) -> (u32, Vec<u8>) {
    const SEPARATORS: [u8; 2] = [b'/', b'\\'];
    match kind {
        0..110 => (
            tape.pick(&[0o100_644, 0o100_755, 0, 0o644, 0o104_777]),
            tape.content(),
        ),
        110..160 => {
            name.push(tape.pick(&SEPARATORS[..1 + usize::from(host == 0)]));
            let content = if tape.rarely(20) {
                tape.content()
            } else {
                Vec::new()
            };
            (tape.pick(&[0o040_755, 0, 0o040_700, 0o100_644]), content)
        }
        160..240 => (0o120_777, tape.target()),
        _ => (tape.u32() % 0o200_000, tape.content()),
    }
}

fn local_header(tape: &mut Tape<'_>, entry: &Entry, out: &mut Vec<u8>) {
    let Entry {
        name,
        fields,
        sums,
        extra,
        ..
    } = entry;
    let mut local = b"PK\x03\x04\x14\0".to_vec();
    local.extend_from_slice(fields);
    local.extend_from_slice(if entry.described { &[0; 12] } else { sums });
    local.extend_from_slice(&(name.len() as u16).to_le_bytes());
    local.extend_from_slice(&(extra.len() as u16).to_le_bytes());
    local.extend_from_slice(name);
    if tape.rarely(24) {
        let at = usize::from(tape.byte()) % local.len();
        local[at] ^= tape.byte();
    }
    local.extend_from_slice(extra);
    out.extend_from_slice(&local);
    out.extend_from_slice(&entry.stored);
    if entry.described {
        if tape.byte() < 200 {
            out.extend_from_slice(b"PK\x07\x08");
        }
        out.extend_from_slice(sums);
    }
    if tape.rarely(24) {
        out.extend_from_slice(tape.take(5));
    }
}

fn directory_record(tape: &mut Tape<'_>, entry: &Entry, offset: u32, directory: &mut Vec<u8>) {
    let Entry { name, extra, .. } = entry;
    let from = directory.len();
    directory.extend_from_slice(b"PK\x01\x02\x14");
    directory.extend_from_slice(&[entry.host, 0x14, 0]);
    directory.extend_from_slice(&entry.fields);
    directory.extend_from_slice(&entry.sums);
    directory.extend_from_slice(&(name.len() as u16).to_le_bytes());
    directory.extend_from_slice(&(extra.len() as u16).to_le_bytes());
    directory.extend_from_slice(&[0; 6]);
    directory.extend_from_slice(&(entry.mode << 16).to_le_bytes());
    directory.extend_from_slice(&offset.to_le_bytes());
    directory.extend_from_slice(name);
    directory.extend_from_slice(extra);
    if tape.rarely(24) {
        let at = from + usize::from(tape.byte()) % 46;
        directory[at] ^= tape.byte();
    }
}

/// Appends a Unicode path field, which may or may not belong to the entry's name.
fn unicode_path(tape: &mut Tape<'_>, name: &[u8], extra: &mut Vec<u8>) {
    let unicode = tape.name();
    let mut crc = Crc::new();
    crc.update(name);
    let sum = crc.sum() ^ u32::from(tape.rarely(8));
    extra.extend_from_slice(b"up");
    extra.extend_from_slice(&(unicode.len() as u16 + 5).to_le_bytes());
    extra.push(1);
    extra.extend_from_slice(&sum.to_le_bytes());
    extra.extend_from_slice(&unicode);
}
