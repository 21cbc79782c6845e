//! One connection: hyper's HTTP/1 with a time limit on everything that a client can delay.
//!
//! Two things are added. Where hyper itself answers a request that it cannot parse (400, 414, 431
//! with an empty body), the endpoint's own error body is sent instead. And a request that was
//! answered before it had been read is drained before the socket is closed, because the kernel
//! would otherwise reset the connection, and the response would be lost.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
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

use super::body::Bodies;
use super::places::{Place, Seat};

/// Largest request line with headers: the longest URI that hyper takes, and as much again for the
/// headers.
const MAX_HEAD: usize = 128 * 1024;
/// Time limit for draining a closed connection, so that its response arrives.
const LINGER: Duration = Duration::from_secs(3);
/// Most bytes drained.
const MAX_LINGER: u64 = 32 << 20;

/// Makes the response to a request that cannot be parsed, or that has no place (503), from the status that hyper gives it.
pub type Unreadable = fn(StatusCode) -> hyper::Response<String>;

/// How a listener is served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Connections at once. A further one replaces an idle one.
    pub connections: usize,
    /// The bodies of this listener.
    pub bodies: Bodies,
    /// The paths of health checks, which have places of their own.
    pub health: &'static [&'static str],
    /// Time limit for the head of a request, the time before its first byte included: an idle
    /// connection ends by it.
    pub head: Duration,
    /// Time limit for a client to take the next bytes of an answer.
    pub write: Duration,
    /// Makes the answer to a request that cannot be read.
    pub unreadable: Unreadable,
}

/// Serves one connection to its end; after `drain` only the current request is answered.
pub(super) async fn serve<S>(
    stream: S,
    router: axum::Router,
    settings: Settings,
    place: Arc<Place>,
    drain: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let head = settings.head;
    let watched = Watched::new(stream, Arc::clone(&place.seat), settings.clone());
    let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
        let seat = Arc::clone(&place.seat);
        let begun = seat.begin();
        let router = router.clone();
        let may_serve = settings.health.contains(&request.uri().path()) || place.is_full();
        let unreadable = settings.unreadable;
        Box::pin(async move {
            if !begun {
                // The place is lost: the connection ends here, before the request has begun.
                std::future::pending::<()>().await;
            }
            let answer: Result<Response, _> = if !names_host(&request) {
                Ok(refused(unreadable, StatusCode::BAD_REQUEST))
            } else if may_serve {
                router.oneshot(request.map(Body::new)).await
            } else {
                Ok(refused(unreadable, StatusCode::SERVICE_UNAVAILABLE))
            };
            answer.map(|answer| answer.map(|body| Body::new(Tracked { body, seat })))
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
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

/// Returns whether a request names its host once, as RFC 9112 §3.2 demands from HTTP/1.1 on.
fn names_host(request: &hyper::Request<Incoming>) -> bool {
    let mut hosts = request.headers().get_all(hyper::header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    second.is_none() && (first.is_some() || request.version() < hyper::Version::HTTP_11)
}

/// Answers a request without a host, or one for which there is no place.
fn refused(unreadable: Unreadable, status: StatusCode) -> Response {
    let mut answer = unreadable(status).map(Body::from);
    let close = hyper::header::HeaderValue::from_static("close");
    answer
        .headers_mut()
        .insert(hyper::header::CONNECTION, close);
    answer
}

/// A socket that holds back what hyper answers by itself, and fails when a client stops reading.
struct Watched<S> {
    stream: S,
    seat: Arc<Seat>,
    settings: Settings,
    stalled: Option<Pin<Box<Sleep>>>,
    /// Written by hyper while no request was in progress.
    automatic: Vec<u8>,
    ended: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Watched<S> {
    fn new(stream: S, seat: Arc<Seat>, settings: Settings) -> Self {
        Self {
            stream,
            seat,
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
        self.seat.close();
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
        if this.seat.is_idle() {
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
        this.seat.flushed();
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

/// A response body. Its drop means that hyper has the whole response.
struct Tracked {
    body: Body,
    seat: Arc<Seat>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.seat.end();
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
