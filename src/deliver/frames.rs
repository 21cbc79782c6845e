//! The queue between the socket and the threads that hash, spool and unpack. It is bounded in
//! bytes, and its readers share the bytes without copying.

use std::io::{self, BufRead, Read};
use std::sync::Arc;

use crate::fetch::Validator;
use bytes::{Buf, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Permits are counted in units of this many bytes.
const UNIT: usize = 1024;

/// Bytes in the queue. They count against the budgets until the last reader has dropped them.
#[derive(Clone)]
pub(super) struct Frame {
    pub(super) bytes: Bytes,
    /// Whether the bytes were read from the spool and need not be written to it again.
    pub(super) replayed: bool,
    /// The origin's new validator, on the first frame after a change.
    pub(super) validator: Option<Arc<Validator>>,
    _permits: Arc<[OwnedSemaphorePermit; 2]>,
}

/// A limit on bytes in flight, of one queue or of all of them.
#[derive(Clone)]
pub(super) struct Budget {
    semaphore: Arc<Semaphore>,
    units: usize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT).clamp(1, Semaphore::MAX_PERMITS);
        Self {
            semaphore: Arc::new(Semaphore::new(units)),
            units,
        }
    }

    /// Waits for permits for `bytes`, or for all there are if `bytes` exceeds the limit.
    async fn take(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let wanted = bytes.div_ceil(UNIT).clamp(1, self.units);
        let permits = u32::try_from(wanted).unwrap_or(u32::MAX);
        let semaphore = Arc::clone(&self.semaphore);
        semaphore.acquire_many_owned(permits).await.ok()
    }
}

enum Message {
    Frame(Frame),
    End,
}

/// The sending side: every reader gets every frame. Bounded by its own budget and a shared one.
pub(super) struct Feed {
    own: Budget,
    all: Budget,
    readers: Vec<Reader>,
}

/// A receiver of every frame.
struct Reader {
    sender: mpsc::Sender<Message>,
    /// Whether the transfer must stop when this reader leaves.
    needed: bool,
}

impl Feed {
    /// Limits bytes in flight to `bytes`, and to what the shared budget `all` allows.
    pub(super) fn new(bytes: usize, all: &Budget) -> Self {
        Self {
            own: Budget::new(bytes),
            all: all.clone(),
            readers: Vec::new(),
        }
    }

    /// Adds a reader that may leave early. Add all readers before sending the first frame.
    pub(super) fn reader(&mut self) -> FrameReader {
        self.add(false)
    }

    /// Adds a reader whose leaving stops the transfer.
    pub(super) fn needed_reader(&mut self) -> FrameReader {
        self.add(true)
    }

    fn add(&mut self, needed: bool) -> FrameReader {
        let (sender, receiver) = mpsc::channel(self.own.units.max(8));
        self.readers.push(Reader { sender, needed });
        FrameReader {
            receiver,
            frame: None,
            ended: false,
        }
    }

    /// Sends `bytes` to all remaining readers. Returns false when a needed reader has left, or all
    /// have.
    pub(super) async fn send(
        &mut self,
        bytes: Bytes,
        replayed: bool,
        validator: Option<Arc<Validator>>,
    ) -> bool {
        let length = bytes.len();
        let Some(own) = self.own.take(length).await else {
            return false;
        };
        let Some(of_all) = self.all.take(length).await else {
            return false;
        };
        let frame = Frame {
            bytes,
            replayed,
            validator,
            _permits: Arc::new([own, of_all]),
        };
        let (mut kept, mut complete) = (Vec::with_capacity(self.readers.len()), true);
        for reader in self.readers.drain(..) {
            let message = Message::Frame(frame.clone());
            if reader.sender.send(message).await.is_ok() {
                kept.push(reader);
            } else {
                complete &= !reader.needed;
            }
        }
        self.readers = kept;
        complete && !self.readers.is_empty()
    }

    /// Marks a complete transfer: without this mark, readers report a broken transfer.
    pub(super) async fn end(self) {
        for reader in self.readers {
            let _ = reader.sender.send(Message::End).await;
        }
    }
}

/// The receiving side, for a blocking thread: whole frames, or bytes by [`BufRead`].
pub(super) struct FrameReader {
    receiver: mpsc::Receiver<Message>,
    frame: Option<Frame>,
    ended: bool,
}

/// The sender was dropped before the end mark.
#[derive(Debug, thiserror::Error)]
#[error("the transfer was aborted")]
pub(super) struct BrokenOff;

impl FrameReader {
    /// Returns the next frame, or `None` at the end.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, BrokenOff> {
        if self.ended {
            return Ok(None);
        }
        match self.receiver.blocking_recv() {
            Some(Message::Frame(frame)) => Ok(Some(frame)),
            Some(Message::End) => {
                self.ended = true;
                Ok(None)
            }
            None => Err(BrokenOff),
        }
    }
}

impl BufRead for FrameReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.frame.as_ref().is_none_or(|f| f.bytes.is_empty()) && !self.ended {
            self.frame = self.next_frame().map_err(io::Error::other)?;
        }
        Ok(self.frame.as_ref().map_or(&[], |f| &f.bytes))
    }

    fn consume(&mut self, amount: usize) {
        if let Some(frame) = &mut self.frame {
            frame.bytes.advance(amount);
        }
    }
}

impl Read for FrameReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn every_reader_gets_every_byte_and_the_budget_holds_the_sender_back() {
        let mut feed = Feed::new(4 * UNIT, &Budget::new(8 * UNIT));
        let (mut a, mut b) = (feed.reader(), feed.reader());
        let first = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            a.read_to_string(&mut text).map(|_| text)
        });
        assert!(
            feed.send(Bytes::from(vec![b'x'; 3 * UNIT]), false, None)
                .await
        );
        // The second reader has not read yet: only one unit is free.
        let blocked = tokio::time::timeout(
            Duration::from_millis(50),
            feed.send(Bytes::from(vec![b'y'; 2 * UNIT]), false, None),
        );
        assert!(blocked.await.is_err());
        let second = tokio::task::spawn_blocking(move || {
            let mut text = String::new();
            b.read_to_string(&mut text).map(|_| text)
        });
        assert!(feed.send(Bytes::from_static(b"z"), false, None).await);
        feed.end().await;
        let want = "x".repeat(3 * UNIT) + "z";
        assert_eq!(first.await.unwrap().unwrap(), want);
        assert_eq!(second.await.unwrap().unwrap(), want);
    }

    #[tokio::test]
    async fn all_feeds_together_keep_to_one_budget() {
        let all = Budget::new(3 * UNIT);
        let mut feeds: Vec<_> = (0..2).map(|_| Feed::new(2 * UNIT, &all)).collect();
        let mut readers: Vec<_> = feeds.iter_mut().map(Feed::reader).collect();
        let large = || Bytes::from(vec![0; 2 * UNIT]);
        assert!(feeds[0].send(large(), false, None).await);
        let soon = Duration::from_millis(50);
        let blocked = tokio::time::timeout(soon, feeds[1].send(large(), false, None));
        assert!(blocked.await.is_err(), "only one unit is left");
        let first = readers.remove(0);
        let read = tokio::task::spawn_blocking(move || drop(first));
        let sent = tokio::time::timeout(soon * 100, feeds[1].send(large(), false, None));
        assert!(sent.await.unwrap());
        read.await.unwrap();
    }

    #[tokio::test]
    async fn one_that_is_needed_ends_the_feed_by_leaving() {
        let mut feed = Feed::new(2 * UNIT, &Budget::new(8 * UNIT));
        let (optional, mut needed, last) = (feed.reader(), feed.needed_reader(), feed.reader());
        drop(optional);
        assert!(feed.send(Bytes::from_static(b"a"), false, None).await);
        let read = tokio::task::spawn_blocking(move || needed.next_frame().map(|_| needed));
        drop(read.await.unwrap().unwrap());
        assert!(!feed.send(Bytes::from_static(b"b"), false, None).await);
        drop(last);
    }

    #[tokio::test]
    async fn a_break_is_no_end() {
        let mut feed = Feed::new(UNIT, &Budget::new(8 * UNIT));
        let mut reader = feed.reader();
        feed.send(Bytes::from_static(b"abc"), false, None).await;
        drop(feed);
        let read = tokio::task::spawn_blocking(move || reader.read_to_end(&mut Vec::new()))
            .await
            .unwrap();
        assert!(read.unwrap_err().get_ref().unwrap().is::<BrokenOff>());
    }
}
