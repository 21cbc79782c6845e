//! Blocking work of a run, on the pool or on a dedicated thread, and how it is stopped. A thread
//! that hangs in the kernel is abandoned, so that it never blocks a cancel or a shutdown.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::failure::Stop;
use super::run::Run;
use crate::job::Stage;
use crate::sys::deadline::Deadline;
use crate::sys::tasks;

/// Stops the blocking threads of a run that is canceled, past its deadline or dropped.
pub(super) struct Stopper {
    pub(super) flag: Arc<AtomicBool>,
    cancel: CancellationToken,
    deadline: Deadline,
}

impl Stopper {
    pub(super) fn new(run: &Run<'_>) -> Self {
        Self {
            flag: Arc::default(),
            cancel: run.cancel.clone(),
            deadline: run.deadline.clone(),
        }
    }

    /// Waits for `work`; if the run ends first, sets the stop flag.
    pub(super) async fn watch<T>(
        &self,
        work: impl Future<Output = Result<T, Stop>>,
    ) -> Result<T, Stop> {
        tokio::pin!(work);
        let early = tokio::select! {
            result = &mut work => return result,
            () = self.cancel.cancelled() => Stop::Interrupted,
            () = self.deadline.passed() => Stop::deadline(Stage::Unpack),
        };
        self.raise();
        // The thread checks the flag between blocks; one that hangs in the kernel is abandoned.
        match tokio::time::timeout(Duration::from_secs(2), work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) | Err(_) => Err(early),
        }
    }

    pub(super) fn raise(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.raise();
    }
}

/// Runs `work` on a thread of the blocking pool.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Stop> + Send + 'static,
) -> Result<T, Stop> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(panicked()))
}

/// A dedicated thread, for work that confines itself to a sandbox: a sandbox lasts as long as its
/// thread. When this is dropped, the thread ends with its input or with the flag of a [`Stopper`].
pub(super) struct Thread<T>(oneshot::Receiver<Result<T, Stop>>);

impl<T: Send + 'static> Thread<T> {
    /// Starts `work` on a thread named `name`.
    pub(super) fn start(
        name: &str,
        work: impl FnOnce() -> Result<T, Stop> + Send + 'static,
    ) -> Result<Self, Stop> {
        let (sender, receiver) = oneshot::channel();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn({
                let name = name.to_owned();
                move || {
                    if let Ok(done) = tasks::guarded_here(&name, work) {
                        let _ = sender.send(done);
                    }
                }
            })
            .map_err(|e| Stop::internal(format!("start a thread: {e}")))?;
        Ok(Self(receiver))
    }

    /// Waits for the result.
    pub(super) async fn join(&mut self) -> Result<T, Stop> {
        (&mut self.0).await.unwrap_or_else(|_| Err(panicked()))
    }

    /// Returns the result if the thread has ended.
    pub(super) fn try_join(&mut self) -> Option<Result<T, Stop>> {
        match self.0.try_recv() {
            Ok(result) => Some(result),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(panicked())),
        }
    }
}

fn panicked() -> Stop {
    Stop::internal("a delivery thread panicked".to_owned())
}
