//! Request bodies: the time limit grows with what arrives, a body is not buffered where it need not
//! be, and only a few large ones are buffered at once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Bytes per second that extend the time limit: a body may be long, but not slow.
const SLOWEST: u32 = 64 * 1024;
/// Bodies beyond this need one of the slots for large ones.
const BIG: usize = 64 * 1024;
/// Large bodies buffered at once.
const BIG_AT_ONCE: usize = 4;

/// The time limit of bodies, and the slots for large ones.
#[derive(Debug, Clone)]
pub struct Bodies {
    patience: Duration,
    big: Arc<Semaphore>,
}

impl Bodies {
    /// Limits a body to `patience`, plus one second per 64 KiB received.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            big: Arc::new(Semaphore::new(BIG_AT_ONCE)),
        }
    }
}

/// Why a request body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// It is longer than the endpoint accepts.
    #[error("the request body is too large: at most {max} bytes are accepted")]
    TooLarge {
        /// The limit.
        max: usize,
    },
    /// It did not arrive within the time limit.
    #[error("the request body did not arrive in time")]
    Slow,
    /// It is not valid HTTP, or the connection broke.
    #[error("the request body cannot be read")]
    Broken,
    /// Too many large bodies are being read already.
    #[error("too many large requests at once")]
    Busy,
}

/// Reads a body of at most `max` bytes whole.
pub async fn read_whole(
    body: Body,
    max: usize,
    bodies: &Bodies,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), BodyError> {
    let mut chunks = Chunks::new(body, max, bodies);
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await? {
        whole.extend_from_slice(&chunk);
    }
    Ok((whole.freeze(), chunks.place))
}

/// A body, read chunk by chunk.
pub struct Chunks<'a> {
    body: Body,
    max: usize,
    received: usize,
    start: Instant,
    bodies: &'a Bodies,
    place: Option<OwnedSemaphorePermit>,
}

impl<'a> Chunks<'a> {
    /// Reads `body` to at most `max` bytes.
    pub fn new(body: Body, max: usize, bodies: &'a Bodies) -> Self {
        Self {
            body,
            max,
            received: 0,
            start: Instant::now(),
            bodies,
            place: None,
        }
    }

    /// Returns the slot that a large body holds. Keep it as long as the content is buffered.
    #[must_use]
    pub fn into_place(self) -> Option<OwnedSemaphorePermit> {
        self.place
    }

    /// Returns the next chunk; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let earned = Duration::from_secs(self.received as u64) / SLOWEST;
            let deadline = self.start + self.bodies.patience + earned;
            let frame = tokio::time::timeout_at(deadline, self.body.frame())
                .await
                .map_err(|_| BodyError::Slow)?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|_| BodyError::Broken)?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            self.received += chunk.len();
            if self.received > self.max {
                return Err(BodyError::TooLarge { max: self.max });
            }
            if self.received > BIG && self.place.is_none() {
                let place = Arc::clone(&self.bodies.big).acquire_owned();
                let place = tokio::time::timeout_at(deadline, place)
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .ok_or(BodyError::Busy)?;
                self.place = Some(place);
            }
            return Ok(Some(chunk));
        }
    }
}
