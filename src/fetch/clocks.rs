//! Which phase a request is in, and the timeout of each phase.
//!
//! The phase is reported by hooks that run inside the request's future: around the connector, in the
//! resolver, and in the session store that TLS asks at the start of a handshake. A request that starts
//! to connect may take a pooled connection that becomes free first; its own connection is then finished
//! in the background for a later request, and no longer counts as a phase of this one.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use rustls::NamedGroup;
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Tls12ClientSessionValue, Tls13ClientSessionValue,
};
use rustls::pki_types::ServerName;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tower::{Layer, Service};

use super::phase::Phase;

tokio::task_local! {
    static PROGRESS: Arc<Progress>;
}

/// How far a request is.
pub(super) struct Progress(watch::Sender<State>);

#[derive(Clone, Copy)]
struct State {
    phase: Phase,
    /// Whether a connection is made for this request.
    dialled: bool,
}

/// A request on a pooled connection, which only waits for its response.
const POOLED: State = State {
    phase: Phase::FirstByte,
    dialled: false,
};

impl Default for Progress {
    fn default() -> Self {
        Self(watch::Sender::new(POOLED))
    }
}

impl Progress {
    pub(super) fn phase(&self) -> Phase {
        self.0.borrow().phase
    }

    /// Returns whether a connection was made for this request.
    pub(super) fn dialled(&self) -> bool {
        self.0.borrow().dialled
    }

    fn set(&self, phase: Phase) {
        let dialled = true;
        self.0.send_replace(State { phase, dialled });
    }
}

/// Reports the phase of the request that is being polled.
pub(super) fn enter(phase: Phase) {
    let _ = PROGRESS.try_with(|progress| progress.set(phase));
}

/// The timeouts of a request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timeouts {
    /// For name lookup and connecting together.
    pub(super) connect: Duration,
    pub(super) tls: Duration,
    pub(super) first_byte: Duration,
}

impl Timeouts {
    pub(super) fn of(self, phase: Phase) -> Duration {
        match phase {
            Phase::Start | Phase::Resolve | Phase::Connect => self.connect,
            Phase::Tls => self.tls,
            Phase::FirstByte | Phase::Body => self.first_byte,
        }
    }
}

/// Runs a request under the timeout of each phase; returns the phase that took too long.
pub(super) async fn with_timeouts<F: Future>(
    timeouts: Timeouts,
    progress: &Arc<Progress>,
    request: F,
) -> Result<F::Output, Phase> {
    // Name lookup and connecting share one timeout.
    let timed = |phase| match phase {
        Phase::Resolve => Phase::Connect,
        other => other,
    };
    let mut states = progress.0.subscribe();
    let mut running = timed(progress.phase());
    let mut alarm = pin!(sleep(timeouts.of(running)));
    let mut request = pin!(PROGRESS.scope(Arc::clone(progress), request));
    loop {
        tokio::select! {
            biased;
            output = &mut request => return Ok(output),
            _ = states.changed() => {
                let now = timed(states.borrow_and_update().phase);
                if now != running {
                    running = now;
                    alarm.as_mut().reset(Instant::now() + timeouts.of(now));
                }
            }
            () = &mut alarm => return Err(progress.phase()),
        }
    }
}

/// Reports when a connection is started and when it is open.
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

/// A connection that is being made, and the request that waits for it.
pub(super) struct Connecting<F> {
    connecting: Pin<Box<F>>,
    request: Option<Arc<Progress>>,
}

impl<F> Connecting<F> {
    /// The request took a pooled connection: this dial no longer counts for it.
    fn leave(&mut self) {
        if let Some(request) = self.request.take() {
            request.0.send_replace(POOLED);
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
        // A failure keeps the phase it happened in.
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

/// Keeps TLS sessions in memory and reports when a handshake starts: the store is asked first.
#[derive(Debug)]
pub(super) struct Sessions(pub(super) ClientSessionMemoryCache);

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        enter(Phase::Tls);
        self.0.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        enter(Phase::Tls);
        self.0.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.0.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.0.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        enter(Phase::Tls);
        self.0.take_tls13_ticket(server_name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeouts(connect: u64, first_byte: u64) -> Timeouts {
        Timeouts {
            connect: Duration::from_millis(connect),
            tls: Duration::from_secs(60),
            first_byte: Duration::from_millis(first_byte),
        }
    }

    fn connector() -> Phased<impl Service<(), Response = (), Error = (), Future: Send + 'static>> {
        Phases.layer(tower::service_fn(|()| {
            std::future::pending::<Result<(), ()>>()
        }))
    }

    #[tokio::test]
    async fn a_request_that_took_a_pooled_connection_has_the_timeout_of_its_response() {
        for spawned in [true, false] {
            let progress = Arc::new(Progress::default());
            let request = async {
                let mut connecting = connector().call(());
                // It is started, then a pooled connection becomes free.
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
            let clocks = with_timeouts(timeouts(60_000, 50), &progress, request);
            let ended = tokio::time::timeout(Duration::from_secs(5), clocks).await;
            assert_eq!(ended, Ok(Err(Phase::FirstByte)));
            assert!(!progress.dialled());
        }
    }

    #[tokio::test]
    async fn a_connection_of_its_own_is_a_phase() {
        let progress = Arc::new(Progress::default());
        let request = async { connector().call(()).await };
        let ended = with_timeouts(timeouts(20, 60_000), &progress, request).await;
        assert_eq!(ended, Err(Phase::Connect));
        let progress = Arc::new(Progress::default());
        let mut open = Phases.layer(tower::service_fn(|()| std::future::ready(Ok::<(), ()>(()))));
        let request = async {
            open.call(()).await.unwrap();
            std::future::pending::<()>().await;
        };
        let ended = with_timeouts(timeouts(60_000, 50), &progress, request).await;
        assert_eq!(ended, Err(Phase::FirstByte));
        assert!(progress.dialled());
    }
}
