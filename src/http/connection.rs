//! One connection: hyper's HTTP/1 with a time limit on everything that a client can delay.
//!
//! Two things are added. Where hyper itself answers a request that it cannot parse (400, 414, 431
//! with an empty body), the endpoint's own error body is sent instead. And a request that was
//! answered before it had been read is drained before the socket is closed, because the kernel
//! would otherwise reset the connection, and the response would be lost.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::Response;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Largest request line with headers: the longest URI that hyper takes, and as much again for the
/// headers.
const MAX_HEAD: usize = 128 * 1024;
/// Time limit for draining a closed connection, so that its response arrives.
const LINGER: Duration = Duration::from_secs(3);
/// Most bytes drained.
const MAX_LINGER: u64 = 32 << 20;

/// Makes the response to a request that cannot be parsed, from the status that hyper gives it.
pub type Unreadable = fn(StatusCode) -> hyper::Response<String>;

/// How a listener is served.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Connections at once. A further one waits in the kernel's backlog until one ends.
    pub connections: usize,
    /// Time limit for the head of a request, the time before its first byte included: an idle
    /// connection ends by it.
    pub head: Duration,
    /// Time limit for a client to take the next bytes of an answer.
    pub write: Duration,
    /// Makes the answer to a request that cannot be read.
    pub unreadable: Unreadable,
}

/// The state of a connection, shared by its socket and its service.
#[derive(Debug, Default)]
struct Phase(AtomicU8);

const IDLE: u8 = 0;
const BUSY: u8 = 1;
const ENDING: u8 = 2;

impl Phase {
    /// Returns whether no request is in progress: at most a part of a head has arrived.
    fn is_idle(&self) -> bool {
        self.0.load(Ordering::Acquire) == IDLE
    }

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Release);
    }

    /// The response was handed over; the connection is idle once it is flushed.
    fn end(&self) {
        let _ = self
            .0
            .compare_exchange(BUSY, ENDING, Ordering::AcqRel, Ordering::Acquire);
    }

    fn flushed(&self) {
        let _ = self
            .0
            .compare_exchange(ENDING, IDLE, Ordering::AcqRel, Ordering::Acquire);
    }
}

/// Serves one connection to its end; after `drain` only the current request is answered.
pub(super) async fn serve<S>(
    stream: S,
    router: axum::Router,
    settings: Settings,
    drain: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let phase = Arc::<Phase>::default();
    let watched = Watched::new(stream, Arc::clone(&phase), settings);
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        phase.set(BUSY);
        let phase = Arc::clone(&phase);
        let answer = router.clone().oneshot(request.map(Body::new));
        Box::pin(async move {
            let answer: Result<Response, _> = answer.await;
            answer.map(|answer| answer.map(|body| Body::new(Tracked { body, phase })))
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(settings.head)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(watched), service);
    let mut ending = false;
    let outcome = loop {
        tokio::select! {
            outcome = std::future::poll_fn(|cx| connection.poll_without_shutdown(cx)) => break outcome,
            () = drain.cancelled(), if !ending => {
                ending = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    };
    let watched = connection.into_parts().io.into_inner();
    // A client that exceeded the time limit of a head is not waited for again.
    if outcome.is_ok() || !watched.automatic.is_empty() {
        tokio::select! {
            _ = watched.close() => {}
            () = drain.cancelled() => {}
        }
    }
}

/// A socket that holds back what hyper answers by itself, and fails when a client stops reading.
struct Watched<S> {
    stream: S,
    phase: Arc<Phase>,
    settings: Settings,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Written by hyper while no request was in progress.
    automatic: Vec<u8>,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    fn new(stream: S, phase: Arc<Phase>, settings: Settings) -> Self {
        Self {
            stream,
            phase,
            settings,
            stalled: None,
            automatic: Vec::new(),
            ended: false,
        }
    }

    /// Answers what hyper could not parse, and closes the socket so that the client still gets the
    /// response.
    async fn close(mut self) -> io::Result<()> {
        let patience = self.settings.write;
        if let Some(status) = automatic_status(&self.automatic) {
            let answer = spelled_out(&(self.settings.unreadable)(status));
            timeout(patience, self.stream.write_all(&answer)).await??;
        }
        timeout(patience, self.stream.shutdown()).await??;
        if !self.ended {
            let mut rest = self.stream.take(MAX_LINGER);
            let mut nowhere = tokio::io::sink();
            let _ = timeout(LINGER, tokio::io::copy(&mut rest, &mut nowhere)).await;
        }
        Ok(())
    }

    /// Fails once a write has been blocked for the time limit.
    fn waiting(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let patience = self.settings.write;
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(io::ErrorKind::TimedOut.into())
    }
}

/// Returns the status of a response that hyper wrote by itself, such as `HTTP/1.1 414 URI Too
/// Long`.
fn automatic_status(automatic: &[u8]) -> Option<StatusCode> {
    let digits = automatic.get(9..12)?;
    Some(StatusCode::from_bytes(digits).unwrap_or(StatusCode::BAD_REQUEST))
}

fn spelled_out(answer: &hyper::Response<String>) -> Vec<u8> {
    let mut text = format!("HTTP/1.1 {}\r\n", answer.status()).into_bytes();
    for (name, value) in answer.headers() {
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(value.as_bytes());
        text.extend_from_slice(b"\r\n");
    }
    let body = answer.body();
    let end = format!(
        "content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    text.extend_from_slice(end.as_bytes());
    text
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        this.ended |= buf.filled().len() == before && buf.capacity() > before;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.phase.is_idle() {
            this.automatic.extend_from_slice(buf);
            return Poll::Ready(Ok(buf.len()));
        }
        match Pin::new(&mut this.stream).poll_write(cx, buf) {
            Poll::Ready(done) => {
                this.stalled = None;
                Poll::Ready(done)
            }
            Poll::Pending => this.waiting(cx).map(Err),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_flush(cx))?;
        this.phase.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A response body. Its drop means that hyper has the whole response.
struct Tracked {
    body: Body,
    phase: Arc<Phase>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.phase.end();
    }
}

impl hyper::body::Body for Tracked {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
