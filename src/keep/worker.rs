//! The one shape of a background worker: wait until something is due, do it, and note how it went.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_util::sync::CancellationToken;

use crate::shown::model::{Worker as WorkerStatus, WorkerProgress, WorkerState};
use crate::store;
use crate::sys::{Chain, tasks};

/// Pause after a panic, so that a worker that always panics does not spin.
const RESTART_AFTER: Duration = Duration::from_secs(1);

/// Something that is done again and again in the background.
pub(super) trait Worker: Send {
    /// The name under which it is shown.
    const NAME: &'static str;

    /// Waits until there is something to do. Nothing may be lost when this is dropped while it
    /// waits.
    fn due(&mut self) -> impl Future<Output = ()> + Send;

    /// Does what is due. It ends early, at a point where nothing is half done, once `stop` is
    /// cancelled.
    fn work(
        &mut self,
        status: &Status,
        stop: &CancellationToken,
    ) -> impl Future<Output = Result<(), store::Error>> + Send;
}

/// A worker's status, written by its loop and read by whoever asks.
pub(super) struct Status(Mutex<WorkerStatus>);

impl Status {
    pub(super) fn new(name: &str) -> Arc<Self> {
        Arc::new(Self(Mutex::new(WorkerStatus {
            name: name.to_owned(),
            ..WorkerStatus::default()
        })))
    }

    pub(super) fn shown(&self) -> WorkerStatus {
        self.lock().clone()
    }

    /// Notes how far the running round is.
    pub(super) fn progress(&self, done: usize, total: usize) {
        let (done, total) = (done as u64, total as u64);
        self.lock().progress = Some(WorkerProgress { done, total });
    }

    fn begin(&self) {
        self.lock().state = WorkerState::Running;
    }

    fn end(&self, error: Option<String>) {
        let mut status = self.lock();
        status.state = WorkerState::Idle;
        status.progress = None;
        if error.is_some() {
            status.errors += 1;
            status.last_error = error;
        } else {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
            status.last_success_ms = now.ok().and_then(|t| i64::try_from(t.as_millis()).ok());
        }
    }

    fn lock(&self) -> MutexGuard<'_, WorkerStatus> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs a worker until `stop`. A round that fails or panics ends there, and the next one starts as
/// usual.
pub(super) async fn run<W: Worker>(mut worker: W, status: Arc<Status>, stop: CancellationToken) {
    loop {
        let round = async {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = worker.due() => {}
            }
            status.begin();
            Some(worker.work(&status, &stop).await)
        };
        match tasks::guarded(W::NAME, round).await {
            Ok(None) => return,
            Ok(Some(Ok(()))) => status.end(None),
            Ok(Some(Err(error))) => {
                let error = Chain(&error).to_string();
                tracing::warn!(
                    event = "worker-failed",
                    worker = W::NAME,
                    error,
                    "a background worker failed; it runs again when it is next due"
                );
                status.end(Some(error));
            }
            Err(tasks::Panicked) => {
                status.end(Some("panicked".to_owned()));
                tokio::time::sleep(RESTART_AFTER).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Panics, fails and then succeeds; after that nothing is due.
    struct Troubled(u32);

    impl Worker for Troubled {
        const NAME: &'static str = "troubled";

        async fn due(&mut self) {
            if self.0 == 3 {
                std::future::pending::<()>().await;
            }
        }

        async fn work(&mut self, _: &Status, _: &CancellationToken) -> Result<(), store::Error> {
            self.0 += 1;
            match self.0 {
                1 => panic!("on purpose"),
                2 => Err(store::Error::Busy),
                _ => Ok(()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_that_panics_or_fails_is_counted_and_the_next_one_runs() {
        let (status, stop) = (Status::new(Troubled::NAME), CancellationToken::new());
        let running = tokio::spawn(run(Troubled(0), Arc::clone(&status), stop.clone()));
        while status.shown().last_success_ms.is_none() {
            tokio::time::sleep(RESTART_AFTER).await;
        }
        let shown = status.shown();
        assert_eq!((shown.errors, shown.state), (2, WorkerState::Idle));
        assert_eq!(shown.last_error, Some(store::Error::Busy.to_string()));
        stop.cancel();
        running.await.unwrap();
    }
}
