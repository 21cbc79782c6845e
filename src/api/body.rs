//! Request bodies: read within a time that grows with what arrives, never kept whole when they need not be, and only a
//! few big ones at once.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::wire::errors::{Code, Refusal};
use crate::wire::parameters::FormReader;

/// What buys more time: a body may be long, but not slow. In bytes per second.
const SLOWEST: u32 = 64 * 1024;
/// Longest form body as it is sent: a `Data` of 8 MiB may be three times as long there.
const MAX_FORM: usize = 28 << 20;
/// Bodies beyond this take one of the few places for big ones.
const BIG: usize = 64 * 1024;
/// Big bodies that are kept at once.
const BIG_AT_ONCE: usize = 4;

/// How bodies are taken: how long one may take that hardly arrives at all, and the places for big ones.
#[derive(Debug, Clone)]
pub(super) struct Bodies {
    patience: Duration,
    big: Arc<Semaphore>,
}

impl Bodies {
    /// Gives a body that hardly arrives `patience`.
    pub(super) fn new(patience: Duration) -> Self {
        Self {
            patience,
            big: Arc::new(Semaphore::new(BIG_AT_ONCE)),
        }
    }
}

/// A form body that was read, and the place it takes as long as it is kept.
pub(super) struct Form {
    pub(super) reader: FormReader,
    pub(super) sha256: [u8; 32],
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// Reads a body, as pairs if it is a form; of any other body the digest is taken only.
pub(super) async fn read_form(
    headers: &HeaderMap,
    body: Body,
    bodies: &Bodies,
) -> Result<Form, Refusal> {
    let is_form = headers
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| {
            let kind = value.split(';').next().unwrap_or("").trim();
            kind.eq_ignore_ascii_case("application/x-www-form-urlencoded")
        });
    let mut chunks = Chunks::new(body, MAX_FORM, bodies);
    let mut reader = FormReader::default();
    let mut sha256 = Sha256::new();
    while let Some(chunk) = chunks.next().await? {
        sha256.update(&chunk);
        if is_form {
            reader.push(&chunk)?;
        }
    }
    Ok(Form {
        reader,
        sha256: sha256.finalize().into(),
        place: chunks.place,
    })
}

/// Reads a body of at most `max` bytes whole.
pub(super) async fn read_whole(
    body: Body,
    max: usize,
    bodies: &Bodies,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Refusal> {
    let mut chunks = Chunks::new(body, max, bodies);
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await? {
        whole.extend_from_slice(&chunk);
    }
    Ok((whole.freeze(), chunks.place))
}

struct Chunks<'a> {
    body: Body,
    max: usize,
    received: usize,
    start: Instant,
    bodies: &'a Bodies,
    place: Option<OwnedSemaphorePermit>,
}

impl<'a> Chunks<'a> {
    fn new(body: Body, max: usize, bodies: &'a Bodies) -> Self {
        Self {
            body,
            max,
            received: 0,
            start: Instant::now(),
            bodies,
            place: None,
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        loop {
            let earned = Duration::from_secs(self.received as u64) / SLOWEST;
            let deadline = self.start + self.bodies.patience + earned;
            let frame = tokio::time::timeout_at(deadline, self.body.frame())
                .await
                .map_err(|_| Code::RequestTimeout)?;
            let Some(frame) = frame else {
                return Ok(None);
            };
            let frame = frame.map_err(|_| Code::BadRequest)?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            self.received += chunk.len();
            if self.received > self.max {
                let detail = format!("At most {} bytes are taken.", self.max);
                return Err(Refusal::because(Code::TooLarge, detail));
            }
            if self.received > BIG && self.place.is_none() {
                let place = Arc::clone(&self.bodies.big).acquire_owned();
                let place = tokio::time::timeout_at(deadline, place)
                    .await
                    .ok()
                    .and_then(Result::ok)
                    .ok_or(Code::Unavailable)?;
                self.place = Some(place);
            }
            return Ok(Some(chunk));
        }
    }
}
