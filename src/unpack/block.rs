//! The bytes of a tar as blocks of 256 KiB, filled once and then only read: writers use ranges of
//! the memory that the decoder filled, without a copy. The number of blocks limits the memory of a
//! push and makes the decoder wait for a slow disk.

use std::io::BufRead;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use super::error::{Error, Reason, Refusal};
use super::gzip::{Counted, Gunzip};
use super::header::{BLOCK, Header};
use super::limits::Limits;
use super::stop::Stop;

/// Size of a block, a multiple of the tar header size. Smaller ones cost time per block, larger
/// ones miss the cache.
pub(super) const BLOCK_BYTES: usize = 256 * 1024;
/// Every archive gets `LEAST_BLOCKS`, and up to `BLOCKS` while spares last.
const LEAST_BLOCKS: usize = 4;
const BLOCKS: usize = 12;

/// Blocks shared by several archives, in addition to the few that each always has. They limit the
/// memory of all archives together, however many are unpacked while the disk is slow.
#[derive(Debug)]
pub struct SpareBlocks(AtomicUsize);

impl SpareBlocks {
    /// Makes as many blocks as `archives` can use at full speed.
    #[must_use]
    pub fn for_archives(archives: usize) -> Self {
        Self(AtomicUsize::new(
            archives.saturating_mul(BLOCKS - LEAST_BLOCKS),
        ))
    }

    fn take(&self) -> bool {
        let one_less = |n: usize| n.checked_sub(1);
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
        taken.is_ok()
    }

    fn give(&self, blocks: usize) {
        self.0.fetch_add(blocks, Ordering::Relaxed);
    }
}

/// A filled block; returns to its pool when the last slice of it is dropped.
pub(super) struct Block {
    bytes: Vec<u8>,
    len: usize,
    pool: Arc<Pool>,
}

/// A range of a block, which it keeps alive.
#[derive(Clone)]
pub(super) struct Slice {
    block: Arc<Block>,
    start: usize,
    end: usize,
}

/// The free blocks of one archive.
struct Pool {
    state: Mutex<PoolState>,
    freed: Condvar,
    spare: Arc<SpareBlocks>,
}

struct PoolState {
    free: Vec<Vec<u8>>,
    made: usize,
}

impl Slice {
    pub(super) fn bytes(&self) -> &[u8] {
        &self.block.bytes[self.start..self.end]
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }
}

impl Pool {
    fn new(spare: &Arc<SpareBlocks>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(PoolState {
                free: Vec::new(),
                made: 0,
            }),
            freed: Condvar::new(),
            spare: Arc::clone(spare),
        })
    }

    /// Takes a free block, and waits for one if all are in use.
    fn take(&self) -> Vec<u8> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(bytes) = state.free.pop() {
                return bytes;
            }
            if state.made < LEAST_BLOCKS || state.made < BLOCKS && self.spare.take() {
                state.made += 1;
                return vec![0; BLOCK_BYTES];
            }
            state = self
                .freed
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn give(&self, bytes: Vec<u8>) {
        self.state
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .free
            .push(bytes);
        self.freed.notify_one();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.spare.give(state.made.saturating_sub(LEAST_BLOCKS));
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.pool.give(std::mem::take(&mut self.bytes));
    }
}

/// The decoded bytes of a tar, block by block.
pub(super) struct Stream<'a, R> {
    source: Source<R>,
    pool: Arc<Pool>,
    block: Option<Arc<Block>>,
    at: usize,
    made: u64,
    holes: u64,
    limits: &'a Limits,
    stop: &'a Stop,
}

enum Source<R> {
    Plain(Counted<R>),
    Gzip(Box<Gunzip<R>>),
}

impl<R: BufRead> Source<R> {
    fn read(&mut self, out: &mut [u8]) -> Result<usize, Error> {
        match self {
            Self::Gzip(gunzip) => gunzip.read(out),
            Self::Plain(input) => {
                let bytes = input.peek()?;
                let n = bytes.len().min(out.len());
                out[..n].copy_from_slice(&bytes[..n]);
                input.consume(n);
                Ok(n)
            }
        }
    }

    fn taken(&self) -> u64 {
        match self {
            Self::Gzip(gunzip) => gunzip.taken(),
            Self::Plain(input) => input.taken(),
        }
    }
}

impl<'a, R: BufRead> Stream<'a, R> {
    /// Makes a stream over `input`. `stop` is checked before each block.
    pub(super) fn new(
        input: R,
        gzip: bool,
        limits: &'a Limits,
        spare: &Arc<SpareBlocks>,
        stop: &'a Stop,
    ) -> Self {
        Self {
            source: if gzip {
                Source::Gzip(Box::new(Gunzip::new(input)))
            } else {
                Source::Plain(Counted::new(input))
            },
            pool: Pool::new(spare),
            block: None,
            at: 0,
            made: 0,
            holes: 0,
            limits,
            stop,
        }
    }

    /// Returns the decoded offset of the next byte.
    pub(super) fn offset(&self) -> u64 {
        self.made - self.left() as u64
    }

    fn left(&self) -> usize {
        self.block.as_ref().map_or(0, |block| block.len - self.at)
    }

    /// Checks a sparse file against the ratio limit before it is written: its `holes` bytes are not
    /// in the archive, and its `stored` bytes are still to come. It is refused if even `stored`
    /// bytes of input could not justify it.
    pub(super) fn check_holes(&self, holes: u64, stored: u64) -> Result<(), Refusal> {
        let made = self.made.saturating_add(self.holes);
        self.limits.check_ratio(
            self.source.taken().saturating_add(stored),
            made.saturating_add(holes).saturating_add(stored),
        )
    }

    /// Counts the holes of a sparse file against the ratio limit, as if they had been decoded.
    pub(super) fn add_holes(&mut self, holes: u64) -> Result<(), Refusal> {
        self.holes = self.holes.saturating_add(holes);
        let made = self.made.saturating_add(self.holes);
        self.limits.check_ratio(self.source.taken(), made)
    }

    /// Returns whether more than one block was needed so far.
    pub(super) fn is_long(&self) -> bool {
        self.made > BLOCK_BYTES as u64
    }

    /// Returns whether the current block is used up, so that the next read decodes another one.
    pub(super) fn is_drained(&self) -> bool {
        self.left() == 0
    }

    /// Makes sure that the current block has unread bytes; returns false at the end of the stream.
    fn fill(&mut self) -> Result<bool, Error> {
        if self.left() > 0 {
            return Ok(true);
        }
        if self.stop.is_set() {
            return Err(Error::Canceled);
        }
        // Release the old block first: with a single block in the pool, `take` would wait forever.
        self.block = None;
        let mut block = Block {
            bytes: self.pool.take(),
            len: 0,
            pool: Arc::clone(&self.pool),
        };
        while block.len < BLOCK_BYTES {
            let n = self.source.read(&mut block.bytes[block.len..])?;
            if n == 0 {
                break;
            }
            block.len += n;
        }
        self.made += block.len as u64;
        self.limits
            .check_ratio(self.source.taken(), self.made.saturating_add(self.holes))?;
        self.at = 0;
        let filled = block.len > 0;
        self.block = Some(Arc::new(block));
        Ok(filled)
    }

    /// Takes up to `most` bytes as one slice; `None` at the end of the stream.
    pub(super) fn take(&mut self, most: u64) -> Result<Option<Slice>, Error> {
        if !self.fill()? {
            return Ok(None);
        }
        let left = self.left();
        let Some(block) = &self.block else {
            return Ok(None);
        };
        let n = usize::try_from(most).unwrap_or(usize::MAX).min(left);
        let slice = Slice {
            block: Arc::clone(block),
            start: self.at,
            end: self.at + n,
        };
        self.at += n;
        Ok(Some(slice))
    }

    /// Takes the next header block; `None` at the end of the stream.
    pub(super) fn header(&mut self) -> Result<Option<Header>, Error> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let Some(slice) = self.take((BLOCK - filled) as u64)? else {
                break;
            };
            block[filled..filled + slice.len()].copy_from_slice(slice.bytes());
            filled += slice.len();
        }
        match filled {
            0 => Ok(None),
            BLOCK => Ok(Some(Header::new(block))),
            _ if self.made == filled as u64 => {
                let detail = "the file is too short for a tar archive";
                Err(Refusal::new(Reason::NotAnArchive, detail).into())
            }
            _ => Err(cut("ends inside a header")),
        }
    }

    /// Takes exactly `len` bytes and the padding after them. The caller has checked `len` against a
    /// limit.
    pub(super) fn payload(&mut self, len: u64) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        while (out.len() as u64) < len {
            let slice = self
                .take(len - out.len() as u64)?
                .ok_or_else(|| cut("ends inside an extended header"))?;
            out.extend_from_slice(slice.bytes());
        }
        self.skip_padding(len)?;
        Ok(out)
    }

    /// Skips the padding after a member of `len` bytes.
    pub(super) fn skip_padding(&mut self, len: u64) -> Result<(), Error> {
        let mut rest = len.next_multiple_of(BLOCK as u64) - len;
        while rest > 0 {
            let slice = self
                .take(rest)?
                .ok_or_else(|| cut("ends inside the padding of a member"))?;
            rest -= slice.len() as u64;
        }
        Ok(())
    }

    /// Reads and drops the rest of the stream, so that the last gzip checksum is verified.
    pub(super) fn drain(&mut self) -> Result<(), Error> {
        while self.take(u64::MAX)?.is_some() {}
        Ok(())
    }
}

/// Makes the refusal of an archive that ends too early.
pub(super) fn cut(detail: &str) -> Error {
    Refusal::new(
        Reason::Truncated,
        format!("the archive {detail}: it was cut off"),
    )
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_outlive_the_block_in_hand_and_give_it_back() {
        let content: Vec<u8> = (0..BLOCK_BYTES * 3 / 4).map(|i| i as u8).collect();
        let content = content.repeat(BLOCKS * 2);
        let limits = Limits::default();
        let stop = Stop::default();
        let spare = Arc::new(SpareBlocks::for_archives(1));
        let mut stream = Stream::new(&content[..], false, &limits, &spare, &stop);
        let mut kept = stream.take(10).unwrap().unwrap();
        let mut read = 10;
        while let Some(slice) = stream.take(100_000).unwrap() {
            assert_eq!(slice.bytes(), &content[read..read + slice.len()]);
            read += slice.len();
            assert_eq!(stream.offset(), read as u64);
            // One slice is held at a time; a stream that did not get its blocks back would hang
            // here.
            assert_eq!(kept.len(), kept.bytes().len());
            kept = slice;
        }
        assert_eq!(read, content.len());
    }

    #[test]
    fn archives_share_the_spare_blocks_and_always_have_a_few() {
        let spare = Arc::new(SpareBlocks::for_archives(1));
        let pools: Vec<_> = (0..3).map(|_| Pool::new(&spare)).collect();
        for _ in 0..BLOCKS {
            pools[0].take();
        }
        for pool in &pools[1..] {
            (0..LEAST_BLOCKS).for_each(|_| drop(pool.take()));
        }
        assert!(!spare.take(), "the first has them all");
        let [first, ..] = <[_; 3]>::try_from(pools).ok().unwrap();
        drop(first);
        (0..BLOCKS - LEAST_BLOCKS).for_each(|_| assert!(spare.take()));
        assert!(!spare.take(), "the others had none to give back");
    }

    #[test]
    fn a_stop_is_seen_before_the_next_block() {
        let limits = Limits::default();
        let stop = Stop::default();
        stop.set();
        let spare = Arc::new(SpareBlocks::for_archives(1));
        let mut stream = Stream::new(&b"x"[..], false, &limits, &spare, &stop);
        assert!(matches!(stream.take(1), Err(Error::Canceled)));
    }
}
