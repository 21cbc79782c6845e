//! One `syncfs` for all waiting callers: pushes that end together share a round.
//!
//! A round that starts after a caller asked covers everything that caller wrote before. While an
//! early [`Session`] is open, rounds also run on their own, so that the last one has little left to
//! write. A failed sync fails every session open at the time and is never retried for them: the
//! kernel may have dropped the pages it could not write.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::io::Errno;

use crate::sys::failpoint::{Bug, is_seeded};
use crate::sys::tasks;

/// Pause between early rounds.
const EARLY_EVERY: Duration = Duration::from_millis(100);

#[derive(Default)]
struct State {
    /// Requests so far; a caller waits until `done` reaches its own number.
    asked: u64,
    /// The last request covered by a finished round.
    done: u64,
    /// Failed rounds so far, and the last one's error.
    failures: u64,
    error: i32,
    early: usize,
    closed: bool,
}

struct Shared {
    state: Mutex<State>,
    /// Wakes the sync thread: a round was requested, early rounds are wanted, or it must end.
    wanted: Condvar,
    /// Wakes the waiting callers, once per round.
    ended: Condvar,
    enabled: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails every open session: what of their writes is on the disk is unknown.
    fn fail_round(&self, error: Errno) {
        let mut state = self.lock();
        state.failures += 1;
        state.error = error.raw_os_error();
        state.done = state.asked;
        self.ended.notify_all();
    }
}

/// Combines the sync requests for one file system.
pub struct Syncer {
    shared: Arc<Shared>,
}

impl Syncer {
    /// Starts the sync thread for the file system that holds `path`; with `enabled` false every
    /// wait returns at once.
    pub fn start(path: &Path, enabled: bool) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wanted: Condvar::new(),
            ended: Condvar::new(),
            enabled,
        });
        if enabled {
            let directory = File::open(path)?;
            let theirs = Arc::clone(&shared);
            thread::Builder::new().name("sync".into()).spawn(move || {
                while tasks::guarded_here("sync", || run(&theirs, &directory)).is_err() {
                    theirs.fail_round(Errno::IO);
                }
            })?;
        }
        Ok(Self { shared })
    }

    /// Opens a session; do so before the first byte is written. With `early`, rounds also run on
    /// their own while it is open.
    #[must_use]
    pub fn session(&self, early: bool) -> Session {
        let mut state = self.shared.lock();
        state.early += usize::from(early);
        let failures = state.failures;
        drop(state);
        if early {
            self.shared.wanted.notify_one();
        }
        Session {
            shared: Arc::clone(&self.shared),
            failures,
            early,
        }
    }
}

impl Drop for Syncer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.wanted.notify_one();
        self.shared.ended.notify_all();
    }
}

/// The writes of one caller.
pub struct Session {
    shared: Arc<Shared>,
    failures: u64,
    early: bool,
}

impl Session {
    /// Returns once everything written before this call is on disk; fails if any sync has failed
    /// since the session was opened.
    pub fn wait(&self) -> io::Result<()> {
        if !self.shared.enabled {
            return Ok(());
        }
        let mut state = self.shared.lock();
        state.asked += 1;
        let mine = state.asked;
        self.shared.wanted.notify_one();
        while state.done < mine && !state.closed {
            state = self
                .shared
                .ended
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if state.failures != self.failures {
            return Err(io::Error::from_raw_os_error(state.error));
        }
        if state.done < mine {
            Err(io::Error::other("the sync thread has ended"))
        } else {
            Ok(())
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.early {
            self.shared.lock().early -= 1;
        }
    }
}

fn run(shared: &Shared, directory: &File) {
    let mut state = shared.lock();
    while !state.closed {
        if state.asked == state.done {
            if state.early == 0 {
                state = shared
                    .wanted
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let (next, timeout) = shared
                .wanted
                .wait_timeout(state, EARLY_EVERY)
                .unwrap_or_else(PoisonError::into_inner);
            state = next;
            if state.asked == state.done && (state.early == 0 || !timeout.timed_out()) {
                continue;
            }
        }
        // The round that starts now covers every request made so far.
        let round = state.asked;
        drop(state);
        let result = sync(directory);
        state = shared.lock();
        if let Err(e) = result {
            state.failures += 1;
            state.error = e.raw_os_error();
        }
        state.done = state.done.max(round);
        shared.ended.notify_all();
    }
}

fn sync(directory: &File) -> rustix::io::Result<()> {
    if is_seeded(Bug::NoSync) {
        return Ok(());
    }
    let result = rustix::fs::syncfs(directory);
    if result.is_err() && is_seeded(Bug::RetrySync) {
        return rustix::fs::syncfs(directory);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_waiters_share_few_rounds() {
        let dir = tempfile::tempdir().unwrap();
        let syncer = Arc::new(Syncer::start(dir.path(), true).unwrap());
        let waiters: Vec<_> = (0..16)
            .map(|_| {
                let syncer = Arc::clone(&syncer);
                thread::spawn(move || syncer.session(false).wait())
            })
            .collect();
        for waiter in waiters {
            waiter.join().unwrap().unwrap();
        }
        let early = syncer.session(true);
        early.wait().unwrap();
        drop(early);
        assert_eq!(syncer.shared.lock().early, 0);
    }

    #[test]
    fn a_failed_round_fails_every_open_session_and_no_later_one() {
        let dir = tempfile::tempdir().unwrap();
        let syncer = Syncer::start(dir.path(), true).unwrap();
        let open = syncer.session(false);
        {
            let mut state = syncer.shared.lock();
            state.failures += 1;
            state.error = 5;
        }
        assert_eq!(open.wait().unwrap_err().raw_os_error(), Some(5));
        assert_eq!(
            open.wait().unwrap_err().raw_os_error(),
            Some(5),
            "it is not repeated until it succeeds"
        );
        syncer.session(false).wait().unwrap();
    }
}
