//! Who owns what runs for long, and what becomes of it after a panic.
//!
//! One hook counts and logs every panic of the process ([`watch_panics`]). What follows is decided
//! where the work is started: [`guarded`] work fails alone (a file, a connection, a round of
//! upkeep), a [`Tasks::restarted`] task begins anew from what is on the disk, and the panic of an
//! [`Tasks::essential`] one ends the process with an error, so that the service manager restarts it.

use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{failpoint, pauses};

/// A task that ran this long before it panicked starts a new series.
const LONG: Duration = Duration::from_secs(60);

static PANICS: AtomicU64 = AtomicU64::new(0);

/// Counts and logs every panic of this process from now on, instead of printing it: a print may
/// itself panic, or block.
pub fn watch_panics() {
    std::panic::set_hook(Box::new(|info| {
        PANICS.fetch_add(1, Ordering::Relaxed);
        let thread = std::thread::current();
        tracing::error!(
            event = "panicked",
            thread = thread.name().unwrap_or("unnamed"),
            at = info.location().map(tracing::field::display),
            why = text(info),
            "a defect of the agent: a task panicked; please report this"
        );
    }));
}

fn text<'a>(info: &'a PanicHookInfo<'_>) -> &'a str {
    info.payload_as_str().unwrap_or("unknown")
}

/// Returns how often something has panicked in this process.
#[must_use]
pub fn panics() -> u64 {
    PANICS.load(Ordering::Relaxed)
}

/// The work has panicked, which the hook has logged and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Panicked;

/// Runs `work`, which fails alone if it panics. What it shares with others must hold at each of its
/// await points and unlocked between them.
pub async fn guarded<T>(name: &'static str, work: impl Future<Output = T>) -> Result<T, Panicked> {
    let work = async {
        failpoint::panic_in(name);
        work.await
    };
    AssertUnwindSafe(work)
        .catch_unwind()
        .await
        .map_err(|_| Panicked)
}

/// Runs blocking `work`, which fails alone if it panics.
pub fn guarded_here<T>(name: &str, work: impl FnOnce() -> T) -> Result<T, Panicked> {
    let work = || {
        failpoint::panic_in(name);
        work()
    };
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

/// Runs what `start` returns until it ends. After a panic it is started again, later each time,
/// unless `drain` came first.
pub async fn restarting<F: Future<Output = ()>>(
    name: &'static str,
    drain: CancellationToken,
    mut start: impl FnMut() -> F,
) {
    let mut panics = 0;
    loop {
        let started = Instant::now();
        if guarded(name, start()).await.is_ok() {
            return;
        }
        if started.elapsed() > LONG {
            panics = 0;
        }
        let pause = pauses::TASK.after(panics);
        let wait_s = pause.as_secs();
        tracing::error!(
            event = "task-restarts",
            task = name,
            wait_s,
            "a task panicked; it starts again"
        );
        tokio::select! {
            () = drain.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        panics += 1;
    }
}

/// The tasks that run for as long as the process.
#[derive(Debug)]
pub struct Tasks {
    /// Each returns its name if it must not be missing and has panicked.
    set: JoinSet<Result<(), &'static str>>,
    drain: CancellationToken,
}

impl Tasks {
    /// Starts without a task. Each that is added ends by itself after `drain`.
    #[must_use]
    pub fn new(drain: CancellationToken) -> Self {
        Self {
            set: JoinSet::new(),
            drain,
        }
    }

    /// Adds a task that others cannot do without, and whose state cannot be made anew in this
    /// process.
    pub fn essential(
        &mut self,
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) {
        self.set
            .spawn(async move { guarded(name, work).await.map_err(|Panicked| name) });
    }

    /// Adds a task of `part` whose state is on the disk, or is nothing.
    pub fn restarted<P: Send + Sync + 'static, F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        part: &Arc<P>,
        run: fn(Arc<P>, CancellationToken) -> F,
    ) {
        let (part, drain) = (Arc::clone(part), self.drain.clone());
        let start = move || run(Arc::clone(&part), drain.clone());
        let task = restarting(name, self.drain.clone(), start);
        self.set.spawn(task.map(Ok));
    }

    /// Waits until an essential task has panicked, and returns its name.
    pub async fn failed(&mut self) -> &'static str {
        loop {
            match self.set.join_next().await {
                Some(Ok(Err(name))) => return name,
                Some(_) => {}
                None => std::future::pending().await,
            }
        }
    }

    /// Waits until every task has ended, for at most `patience`. Returns whether they have.
    pub async fn end(&mut self, patience: Duration) -> bool {
        let all = async { while self.set.join_next().await.is_some() {} };
        tokio::time::timeout(patience, all).await.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_starts_again_later_each_time() {
        let drain = CancellationToken::new();
        let mut starts = Vec::new();
        let stop = drain.clone();
        let begun = Instant::now();
        let start = || {
            starts.push(begun.elapsed().as_secs());
            if starts.len() == 4 {
                stop.cancel();
            }
            async { panic!("on purpose") }
        };
        restarting("test", drain, start).await;
        assert_eq!(starts, [0, 1, 3, 7]);
    }

    #[tokio::test]
    async fn the_panic_of_an_essential_task_is_reported_and_of_another_not() {
        let drain = CancellationToken::new();
        let mut tasks = Tasks::new(drain.clone());
        tasks.restarted("other", &Arc::new(()), |_, _| async {
            panic!("on purpose")
        });
        tasks.essential("ends", async {});
        tasks.essential("first", async { panic!("on purpose") });
        assert_eq!(tasks.failed().await, "first");
        drain.cancel();
        assert!(tasks.end(Duration::from_secs(5)).await);
    }
}
