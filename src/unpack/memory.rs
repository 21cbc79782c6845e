//! The memory that the trees of all archives take together, entry by entry: two dozen archives of
//! 100,000 members each would otherwise take half a gigabyte.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::error::Error;

/// What an archive takes at once.
const CHUNK: u64 = 64 << 10;
/// How often whoever waits looks whether it was stopped.
const CHECK: Duration = Duration::from_millis(100);

/// Bytes for the entries of all archives.
#[derive(Debug)]
pub struct Memory {
    most: u64,
    state: Mutex<State>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    taken: u64,
    /// Whether one archive has more than there is. It ends in any case, so the others need not wait
    /// for each other for ever.
    exceeded: bool,
}

impl Memory {
    /// Bounds all archives together to `most` bytes, and one more archive.
    #[must_use]
    pub fn new(most: u64) -> Arc<Self> {
        Arc::new(Self {
            most,
            state: Mutex::default(),
            freed: Condvar::new(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of one archive, given back when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    memory: Arc<Memory>,
    /// Whether to wait for the other archives. One that is still arriving must not: it may take for
    /// ever, and so may those that wait for it.
    waits: bool,
    used: u64,
    taken: u64,
    exceeds: bool,
}

impl Share {
    pub(super) fn new(memory: &Arc<Memory>, waits: bool) -> Self {
        Self {
            memory: Arc::clone(memory),
            waits,
            used: 0,
            taken: 0,
            exceeds: false,
        }
    }

    /// Takes `bytes` more.
    pub(super) fn take(&mut self, bytes: u64, cancel: &AtomicBool) -> Result<(), Error> {
        self.used += bytes;
        while self.used > self.taken && !self.exceeds {
            self.take_chunk(cancel)?;
        }
        Ok(())
    }

    fn take_chunk(&mut self, cancel: &AtomicBool) -> Result<(), Error> {
        let mut state = self.memory.lock();
        while state.taken + CHUNK > self.memory.most {
            if !self.waits {
                return Err(Error::Crowded);
            }
            if !state.exceeded {
                (state.exceeded, self.exceeds) = (true, true);
                return Ok(());
            }
            if cancel.load(Ordering::Relaxed) {
                return Err(Error::Canceled);
            }
            let woken = self.memory.freed.wait_timeout(state, CHECK);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.taken += CHUNK;
        self.taken += CHUNK;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut state = self.memory.lock();
        state.taken -= self.taken;
        state.exceeded &= !self.exceeds;
        drop(state);
        self.memory.freed.notify_all();
    }
}

/// Trees are equal whatever they take.
impl PartialEq for Share {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Share {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_that_arrives_leaves_and_one_that_is_there_exceeds_or_waits() {
        let memory = Memory::new(2 * CHUNK);
        let go_on = AtomicBool::new(false);
        let mut arriving = Share::new(&memory, false);
        arriving.take(2 * CHUNK, &go_on).unwrap();
        assert!(matches!(arriving.take(1, &go_on), Err(Error::Crowded)));
        let mut first = Share::new(&memory, true);
        first.take(100 * CHUNK, &go_on).unwrap();
        let mut second = Share::new(&memory, true);
        let stopped = AtomicBool::new(true);
        assert!(matches!(second.take(1, &stopped), Err(Error::Canceled)));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| second.take(100 * CHUNK, &go_on));
            drop(first);
            waiting.join().unwrap().unwrap();
        });
        drop((arriving, second));
        let state = memory.lock();
        assert_eq!((state.taken, state.exceeded), (0, false));
    }
}
