//! Standard error as a log that never hurts: no line blocks or fails whoever logs it.
//!
//! Once [`start`] was called, lines are queued and written by a thread of their own. A line that
//! finds the queue full, or whose write fails, is lost and counted; as soon as a write succeeds
//! again, the log says how many were. Without [`start`], as in a command of the command line, lines
//! are written at once, and failures are ignored.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;

use super::{failpoint, tasks};

/// Most bytes that wait to be written.
const QUEUE: usize = 1 << 20;
/// How often the thread calls `tick` while nothing is written.
const TICK: Duration = Duration::from_millis(500);
/// How often the log is tried again, after lines were lost, if nothing else is logged.
const RETRY: Duration = Duration::from_secs(2);

/// The target of what the log says about itself.
pub const TARGET: &str = "edgepush::log";

static LOG: OnceLock<Log> = OnceLock::new();

thread_local! {
    /// How many lost lines the line that this thread is logging is about.
    static ABOUT: Cell<u64> = const { Cell::new(0) };
}

#[derive(Default)]
struct Log {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Line>,
    bytes: usize,
    /// Whether the thread is writing a line.
    writing: bool,
    lost: u64,
    /// Of these, those that the log has not mentioned.
    unsaid: u64,
}

struct Line {
    bytes: Vec<u8>,
    /// How many lost lines it is about.
    about: u64,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn push(&mut self, line: Line) {
        if self.bytes + line.bytes.len() > QUEUE {
            return self.lose(&line);
        }
        self.bytes += line.bytes.len();
        self.lines.push_back(line);
    }

    /// A line about lost lines is not one more, but they have not been mentioned then.
    fn lose(&mut self, line: &Line) {
        let lines = u64::from(line.about == 0);
        self.lost += lines;
        self.unsaid += lines + line.about;
    }
}

/// Queues lines from now on. The thread that writes them calls `tick` regularly, which may log.
pub fn start(tick: impl Fn() + Send + 'static) -> io::Result<()> {
    let mut first = false;
    let log = LOG.get_or_init(|| {
        first = true;
        Log::default()
    });
    if first {
        let run =
            move || while tasks::guarded_here("log-thread", || write_all(log, &tick)).is_err() {};
        std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(run)?;
    }
    Ok(())
}

/// Writes a line, or queues it.
pub fn write(bytes: Vec<u8>) {
    match LOG.get() {
        Some(log) => {
            let about = ABOUT.get();
            log.lock().push(Line { bytes, about });
            log.changed.notify_all();
        }
        None => {
            let _ = put(&bytes, &mut false);
        }
    }
}

/// Waits until what is queued is written, for at most `patience`: an exit is not held up by a
/// reader that has stopped.
pub fn flush(patience: Duration) {
    let Some(log) = LOG.get() else { return };
    let end = Instant::now() + patience;
    let mut state = log.lock();
    while state.writing || !state.lines.is_empty() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        let woken = log.changed.wait_timeout(state, left);
        state = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Returns how many lines were lost in this process.
#[must_use]
pub fn lost() -> u64 {
    LOG.get().map_or(0, |log| log.lock().lost)
}

fn write_all(log: &Log, tick: &dyn Fn()) {
    let mut torn = false;
    let (mut ticked, mut tried) = (Instant::now(), Instant::now());
    loop {
        if ticked.elapsed() >= TICK {
            ticked = Instant::now();
            tick();
        }
        let line = next(log);
        let worked = line
            .as_ref()
            .map(|line| put(&line.bytes, &mut torn).is_ok());
        let mut state = log.lock();
        state.writing = false;
        if let (Some(line), Some(false)) = (&line, worked) {
            state.lose(line);
            tried = Instant::now();
        }
        let again = worked == Some(true) || worked.is_none() && tried.elapsed() >= RETRY;
        let unsaid = if again {
            std::mem::take(&mut state.unsaid)
        } else {
            0
        };
        drop(state);
        if worked.is_some() {
            failpoint::panic_in("log");
        }
        log.changed.notify_all();
        if unsaid > 0 {
            tried = Instant::now();
            say_lost(unsaid);
        }
    }
}

/// Returns the next line, or none if there is none for a while.
fn next(log: &Log) -> Option<Line> {
    let mut state = log.lock();
    if state.lines.is_empty() {
        let woken = log.changed.wait_timeout(state, TICK);
        state = woken.unwrap_or_else(PoisonError::into_inner).0;
    }
    let line = state.lines.pop_front()?;
    state.bytes -= line.bytes.len();
    state.writing = true;
    Some(line)
}

fn say_lost(lines: u64) {
    ABOUT.set(lines);
    let what = if lines == 1 { "log line" } else { "log lines" };
    tracing::warn!(target: TARGET, event = "log-lost", lines, "{lines} {what} lost: standard error took none");
    ABOUT.set(0);
}

/// Writes `bytes` without the lock of the standard library, which somebody who prints may hold for
/// ever. `torn` tells whether only a part of the line before was written.
fn put(bytes: &[u8], torn: &mut bool) -> Result<(), Errno> {
    if std::mem::take(torn) {
        put_part(b"\n").inspect_err(|_| *torn = true)?;
    }
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = put_part(rest).inspect_err(|_| *torn = rest.len() < bytes.len())?;
        rest = &rest[written..];
    }
    Ok(())
}

fn put_part(bytes: &[u8]) -> Result<usize, Errno> {
    let stderr = io::stderr();
    loop {
        match rustix::io::write(stderr.as_fd(), bytes) {
            Err(Errno::INTR) => {}
            // Whoever shares it made it non-blocking.
            Err(Errno::AGAIN) => {
                let _ = poll(&mut [PollFd::new(&stderr, PollFlags::OUT)], None);
            }
            ended => return ended,
        }
    }
}
