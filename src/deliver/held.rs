//! Bytes held in memory until it is known what becomes of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Permits are counted in units of this many bytes.
const UNIT: usize = 1024;

/// How many bytes all files together may hold.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

impl Room {
    pub(super) fn new(bytes: u64) -> Self {
        let units = usize::try_from(bytes).unwrap_or(usize::MAX) / UNIT;
        Self(Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))))
    }
}

/// Pieces of an archive in memory.
#[derive(Default)]
pub(super) struct Held {
    frames: VecDeque<Bytes>,
    bytes: u64,
    /// When the first of them came.
    since: Option<Instant>,
    room: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(super) fn len(&self) -> u64 {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Returns how long the first byte has been held; `None` if nothing is.
    pub(super) fn age(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }

    /// Adds a piece. Returns false if there is no room for it: it has to be written to disk next.
    pub(super) fn push(&mut self, bytes: Bytes, room: &Room) -> bool {
        let units = u32::try_from(bytes.len().div_ceil(UNIT)).unwrap_or(u32::MAX);
        self.since.get_or_insert_with(Instant::now);
        self.bytes += bytes.len() as u64;
        self.frames.push_back(bytes);
        let Ok(more) = Arc::clone(&room.0).try_acquire_many_owned(units) else {
            return false;
        };
        match &mut self.room {
            Some(room) => room.merge(more),
            none => *none = Some(more),
        }
        true
    }

    /// Takes out everything.
    pub(super) fn take(&mut self) -> Self {
        std::mem::take(self)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.frames.iter()
    }

    /// Returns the pieces, and the room that they take.
    pub(super) fn into_frames(self) -> (VecDeque<Bytes>, Option<OwnedSemaphorePermit>) {
        (self.frames, self.room)
    }
}
