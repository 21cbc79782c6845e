//! Extracts the contents of a zip on several threads: each takes a few files of one directory at a
//! time, reads them at the offsets of the directory, and verifies size and checksum.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::bytes::Bytes;
use super::record::{Method, Record};
use crate::datafile::Sha256;
use crate::unpack::Options;
use crate::unpack::dirs::{Beneath, Dirs};
use crate::unpack::error::{Error, Reason, Refusal};
use crate::unpack::stop::Stop;
use crate::unpack::tree::{FilePlan, Model};
use crate::unpack::write::{self, Create, Modes, Writer};

/// Files and bytes that a thread takes at a time.
const GROUP_FILES: usize = 32;
const GROUP_BYTES: u64 = 2 << 20;
/// Buffer sizes for compressed and uncompressed bytes.
const IN_BYTES: usize = 64 * 1024;
const OUT_BYTES: usize = 128 * 1024;
/// Threads per archive, the calling one included.
const THREADS: usize = 2;
/// Uncompressed bytes from which a second thread pays off.
const MANY_BYTES: u64 = 512 * 1024;

/// A file to extract.
pub(super) struct Job<'a> {
    pub(super) record: &'a Record,
    /// Offset of its data.
    pub(super) data: u64,
    pub(super) path: Vec<u8>,
    pub(super) plan: FilePlan,
}

/// State shared by the threads.
pub(super) struct Shared<'a> {
    pub(super) bytes: &'a Bytes<'a>,
    pub(super) jobs: Vec<Job<'a>>,
    pub(super) model: &'a Model,
    pub(super) options: &'a Options,
    pub(super) stop: &'a Stop,
    /// Where the files are written; `None` if they are only checked.
    pub(super) root: Option<Arc<OwnedFd>>,
}

/// Extracts all jobs; returns the digests of their contents.
pub(super) fn run(shared: &Shared<'_>) -> Result<Vec<(u32, Sha256)>, Error> {
    let groups = groups(&shared.jobs);
    let next = AtomicUsize::new(0);
    let bytes: u64 = shared.jobs.iter().map(|job| job.record.size).sum();
    let wanted = match shared.options.threads && bytes >= MANY_BYTES {
        true => THREADS,
        false => 1,
    };
    let mut digests = Vec::new();
    thread::scope(|scope| {
        let mut threads = Vec::new();
        for _ in 1..wanted.min(groups.len()) {
            let thread = thread::Builder::new()
                .name("unpack-zip".to_owned())
                .spawn_scoped(scope, || work(shared, &groups, &next));
            match thread {
                Ok(thread) => threads.push(thread),
                // This thread can do it alone.
                Err(_) => break,
            }
        }
        digests = work(shared, &groups, &next);
        for thread in threads {
            match thread.join() {
                Ok(more) => digests.extend(more),
                Err(_) => shared.stop.fail(write::thread_failed(std::io::Error::other(
                    "an extracting thread panicked",
                ))),
            }
        }
    });
    if let Some(failure) = shared.stop.take_failure() {
        return Err(failure);
    }
    if shared.stop.is_set() {
        return Err(Error::Canceled);
    }
    Ok(digests)
}

/// Splits the jobs into runs of few files and bytes, each within one directory.
fn groups<'s, 'a>(jobs: &'s [Job<'a>]) -> Vec<&'s [Job<'a>]> {
    let mut groups = Vec::new();
    let mut rest = jobs;
    while let Some(first) = rest.first() {
        let mut bytes = 0;
        let len = rest
            .iter()
            .take(GROUP_FILES)
            .take_while(|job| {
                let fits = bytes < GROUP_BYTES && job.plan.dir == first.plan.dir;
                bytes += job.record.size;
                fits
            })
            .count();
        let (group, tail) = rest.split_at(len.max(1));
        groups.push(group);
        rest = tail;
    }
    groups
}

fn work(shared: &Shared<'_>, groups: &[&[Job<'_>]], next: &AtomicUsize) -> Vec<(u32, Sha256)> {
    let mut worker = Worker::new(shared);
    while let Some(group) = groups.get(next.fetch_add(1, Ordering::Relaxed)) {
        for job in *group {
            if shared.stop.is_set() {
                break;
            }
            if let Err(e) = worker.extract(job) {
                shared.stop.fail(e.at(&job.record.raw_name));
            }
        }
        if let Some((_, writer)) = &mut worker.disk {
            writer.report();
        }
    }
    worker
        .disk
        .map(|(_, writer)| writer.digests)
        .unwrap_or_default()
}

struct Worker<'a> {
    shared: &'a Shared<'a>,
    disk: Option<(Dirs, Writer<'a>)>,
    content: Content<'a>,
}

impl<'a> Worker<'a> {
    fn new(shared: &'a Shared<'a>) -> Self {
        let disk = shared.root.as_ref().map(|root| {
            let how = Beneath::probe(root.as_fd());
            let modes = Modes::probe(root.as_fd(), shared.options.inherits);
            (
                Dirs::new(Arc::clone(root), how),
                Writer::new(shared.options, modes),
            )
        });
        Self {
            shared,
            disk,
            content: Content::new(shared.bytes, shared.stop),
        }
    }

    fn extract(&mut self, job: &Job<'_>) -> Result<(), Error> {
        let Some((dirs, writer)) = &mut self.disk else {
            return self.content.read(job.record, job.data, &mut |_| Ok(()));
        };
        writer.create(Create {
            dir: dirs.get_or_make(self.shared.model, job.plan.dir)?,
            path: job.path.clone(),
            plan: job.plan,
            size: job.record.size,
            mtime: job.record.mtime,
        })?;
        self.content
            .read(job.record, job.data, &mut |bytes| writer.data(bytes))
    }
}

/// Reads the contents of entries one after the other, reusing its buffers.
pub(super) struct Content<'a> {
    bytes: &'a Bytes<'a>,
    stop: &'a Stop,
    inflate: Decompress,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl<'a> Content<'a> {
    pub(super) fn new(bytes: &'a Bytes<'a>, stop: &'a Stop) -> Self {
        Self {
            bytes,
            stop,
            inflate: Decompress::new(false),
            input: vec![0; IN_BYTES],
            output: vec![0; OUT_BYTES],
        }
    }

    /// Passes the content of an entry to `each` in pieces, never more than the entry's size, and
    /// verifies that it has exactly that size, uses all its compressed bytes, and matches its
    /// checksum.
    pub(super) fn read(
        &mut self,
        record: &Record,
        data: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let crc = match record.method {
            Method::Stored => self.copy(record, data, each)?,
            Method::Deflate => self.inflate(record, data, each)?,
        };
        if crc != record.crc {
            return Err(Refusal::new(Reason::ZipCrc, "the checksum does not match")
                .values(format!("{:08x}", record.crc), format!("{crc:08x}"))
                .into());
        }
        Ok(())
    }

    fn copy(
        &mut self,
        record: &Record,
        data: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<u32, Error> {
        let mut crc = Crc::new();
        let mut at = 0;
        while at < record.stored {
            let piece = self.piece(record, data, at)?;
            let bytes = &self.input[..piece];
            crc.update(bytes);
            each(bytes)?;
            at += piece as u64;
        }
        Ok(crc.sum())
    }

    fn inflate(
        &mut self,
        record: &Record,
        data: u64,
        each: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<u32, Error> {
        let mut crc = Crc::new();
        self.inflate.reset(false);
        let (mut at, mut start, mut end) = (0, 0, 0);
        loop {
            if start == end && at < record.stored {
                (start, end) = (0, self.piece(record, data, at)?);
                at += end as u64;
            }
            let (before_in, before_out) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(
                    &self.input[start..end],
                    &mut self.output,
                    FlushDecompress::None,
                )
                .map_err(|_| Refusal::new(Reason::ZipData, "the compressed data is not valid"))?;
            // Both fit: they are limited by the lengths of the slices.
            let taken = (self.inflate.total_in() - before_in) as usize;
            let made = (self.inflate.total_out() - before_out) as usize;
            start += taken;
            if self.inflate.total_out() > record.size {
                return Err(size(record, "more").into());
            }
            crc.update(&self.output[..made]);
            each(&self.output[..made])?;
            match status {
                Status::StreamEnd => break,
                Status::Ok | Status::BufError if taken == 0 && made == 0 => {
                    return Err(Refusal::new(
                        Reason::ZipData,
                        "the compressed data ends too early",
                    )
                    .into());
                }
                Status::Ok | Status::BufError => {}
            }
        }
        if self.inflate.total_out() != record.size {
            return Err(size(record, self.inflate.total_out()).into());
        }
        if self.inflate.total_in() != record.stored {
            return Err(Refusal::new(
                Reason::ZipSize,
                "bytes follow the end of the entry's compressed data",
            )
            .values(record.stored, self.inflate.total_in())
            .into());
        }
        Ok(crc.sum())
    }

    /// Reads the next stored bytes of an entry, starting at `at`.
    fn piece(&mut self, record: &Record, data: u64, at: u64) -> Result<usize, Error> {
        if self.stop.is_set() {
            return Err(Error::Canceled);
        }
        let left = usize::try_from(record.stored - at).unwrap_or(usize::MAX);
        let len = left.min(self.input.len());
        self.bytes
            .read(data + at, &mut self.input[..len], Reason::Truncated)?;
        Ok(len)
    }
}

fn size(record: &Record, found: impl std::fmt::Display) -> Refusal {
    Refusal::new(Reason::ZipSize, "the content is not as long as stated").values(record.size, found)
}
