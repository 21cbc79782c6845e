//! In which phase a request is, and the clock of each phase.
//!
//! The phase is told by hooks that run inside the request's future: around the connector, in the resolver, and in the
//! session store that TLS asks at the start of a handshake. A request begins to connect and takes a kept connection when
//! one becomes free first; its own is then finished in the background, for whoever comes next, and is no phase of it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service};

use super::config::Config;
use super::error::Phase;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// How far a request is.
#[derive(Default)]
pub(super) struct Progress {
    state: AtomicU8,
    /// Woken when the phase ends from outside the request.
    waker: AtomicWaker,
}

/// Set when the connection that the request uses was made for it.
const DIALLED: u8 = 0x80;
const PHASES: [Phase; 4] = [Phase::FirstByte, Phase::Resolve, Phase::Connect, Phase::Tls];

impl Progress {
    /// Returns the phase. A request that is in no other uses a kept connection and waits for its answer.
    pub(super) fn phase(&self) -> Phase {
        PHASES[usize::from(self.state.load(Ordering::Acquire) & !DIALLED) % PHASES.len()]
    }

    /// Tells whether a connection was made for this request.
    pub(super) fn dialled(&self) -> bool {
        self.state.load(Ordering::Acquire) & DIALLED != 0
    }

    fn set(&self, phase: Phase) {
        if let Some(n) = PHASES.iter().position(|p| *p == phase) {
            self.state.store(DIALLED | n as u8, Ordering::Release);
        }
    }

    /// Notes that the request does without the connection that was being made for it.
    fn uses_a_kept_one(&self) {
        self.state.store(0, Ordering::Release);
        self.waker.wake();
    }
}

/// Notes the phase of the request that is being polled.
pub(super) fn enter(phase: Phase) {
    let _ = PROGRESS.try_with(|progress| progress.set(phase));
}

/// Runs a request with the clock of each phase; returns the phase whose clock ran out.
pub(super) async fn with_clocks<F: Future>(
    config: &Config,
    progress: &Arc<Progress>,
    request: F,
) -> Result<F::Output, Phase> {
    // Finding the address and connecting share one clock.
    let clock = |phase| match phase {
        Phase::Resolve => Phase::Connect,
        other => other,
    };
    let limit = |phase| -> Duration {
        match phase {
            Phase::Tls => config.tls_timeout,
            Phase::FirstByte | Phase::Body => config.first_byte_timeout,
            Phase::Start | Phase::Resolve | Phase::Connect => config.connect_timeout,
        }
    };
    let mut request = pin!(PROGRESS.scope(Arc::clone(progress), request));
    let mut running = clock(progress.phase());
    let mut alarm = pin!(sleep(limit(running)));
    std::future::poll_fn(|cx| {
        progress.waker.register(cx.waker());
        if let Poll::Ready(output) = request.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let now = clock(progress.phase());
        if now != running {
            running = now;
            alarm.as_mut().reset(Instant::now() + limit(now));
        }
        ready!(alarm.as_mut().poll(cx));
        Poll::Ready(Err(progress.phase()))
    })
    .await
}

/// Notes when a connection is begun and when it is open.
#[derive(Clone)]
pub(super) struct Phases;

impl<S> Layer<S> for Phases {
    type Service = Phased<S>;
    fn layer(&self, inner: S) -> Phased<S> {
        Phased(inner)
    }
}

#[derive(Clone)]
pub(super) struct Phased<S>(S);

impl<S, R> Service<R> for Phased<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Connecting<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, destination: R) -> Self::Future {
        let request = PROGRESS.try_with(Arc::clone).ok();
        if let Some(progress) = &request {
            progress.set(Phase::Connect);
        }
        Connecting {
            connecting: Box::pin(self.0.call(destination)),
            request,
        }
    }
}

/// A connection that is being made.
pub(super) struct Connecting<F> {
    connecting: Pin<Box<F>>,
    /// The request that waits for it.
    request: Option<Arc<Progress>>,
}

impl<F> Connecting<F> {
    /// Tells the request that waited that it does so no more.
    fn leave(&mut self) {
        if let Some(request) = self.request.take() {
            request.uses_a_kept_one();
        }
    }
}

impl<F: Future<Output = Result<T, E>>, T, E> Future for Connecting<F> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let waits = this.request.as_ref().is_some_and(|request| {
            PROGRESS
                .try_with(|polled| Arc::ptr_eq(polled, request))
                .unwrap_or(false)
        });
        if !waits {
            this.leave();
        }
        let result = ready!(this.connecting.as_mut().poll(cx));
        // A failure is told with the phase that it happened in.
        if this.request.take().is_some() && result.is_ok() {
            enter(Phase::FirstByte);
        }
        Poll::Ready(result)
    }
}

impl<F> Drop for Connecting<F> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            connect_timeout: Duration::from_secs(60),
            first_byte_timeout: Duration::from_millis(50),
            ..Config::default()
        }
    }

    fn connector() -> Phased<impl Service<(), Response = (), Error = (), Future: Send + 'static>> {
        Phases.layer(tower::service_fn(|()| {
            std::future::pending::<Result<(), ()>>()
        }))
    }

    #[tokio::test]
    async fn a_request_that_took_a_kept_connection_has_the_clock_of_its_answer() {
        for spawned in [true, false] {
            let progress = Arc::new(Progress::default());
            let request = async {
                let mut connecting = connector().call(());
                // It is begun, then a kept connection becomes free.
                let begun = tokio::time::timeout(Duration::from_millis(5), &mut connecting).await;
                assert!(begun.is_err());
                assert_eq!(progress.phase(), Phase::Connect);
                if spawned {
                    tokio::spawn(connecting);
                } else {
                    drop(connecting);
                }
                std::future::pending::<()>().await;
            };
            let config = config();
            let clocks = with_clocks(&config, &progress, request);
            let ended = tokio::time::timeout(Duration::from_secs(5), clocks).await;
            assert_eq!(ended, Ok(Err(Phase::FirstByte)));
            assert!(!progress.dialled());
        }
    }

    #[tokio::test]
    async fn a_connection_of_its_own_is_a_phase() {
        let progress = Arc::new(Progress::default());
        let quick = Config {
            connect_timeout: Duration::from_millis(20),
            first_byte_timeout: Duration::from_secs(60),
            ..Config::default()
        };
        let request = async { connector().call(()).await };
        let ended = with_clocks(&quick, &progress, request).await;
        assert_eq!(ended, Err(Phase::Connect));
        let progress = Arc::new(Progress::default());
        let mut open = Phases.layer(tower::service_fn(|()| std::future::ready(Ok::<(), ()>(()))));
        let request = async {
            open.call(()).await.unwrap();
            std::future::pending::<()>().await;
        };
        let ended = with_clocks(&config(), &progress, request).await;
        assert_eq!(ended, Err(Phase::FirstByte));
        assert!(progress.dialled());
    }
}
