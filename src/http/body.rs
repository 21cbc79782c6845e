//! Request bodies: the time limit grows with what arrives, a body is not buffered where it need not
//! be, and only a few large ones are buffered at once.
//!
//! Each listener has its own [`Bodies`]. A large body of an unknown sender never takes the slot of a
//! known one, and while others wait for a slot the slowest body that has one is cut.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Bytes per second that extend the time limit: a body may be long, but not slow.
const SLOWEST: u32 = 64 * 1024;
/// Bodies beyond this need one of the slots for large ones.
const BIG: usize = 64 * 1024;
/// Large bodies of known senders buffered at once.
const BIG_AT_ONCE: usize = 4;
/// The same for senders that are not known when the body has become large.
const UNKNOWN_AT_ONCE: usize = 1;
/// How long a body is measured before it can be called slow; and the time between two looks.
const MEASURED: Duration = Duration::from_millis(200);

/// The time limit of the bodies of one listener, and its slots for large ones.
#[derive(Debug, Clone)]
pub struct Bodies {
    patience: Duration,
    client: Option<IpAddr>,
    known: Slots,
    unknown: Slots,
    arriving: Arc<Mutex<Vec<Weak<Arrival>>>>,
}

type Slots = Arc<Semaphore>;

/// How a body arrives, for whoever wants its place.
#[derive(Debug)]
struct Arrival {
    client: Option<IpAddr>,
    measured: Mutex<Measured>,
    cut: CancellationToken,
}

#[derive(Debug)]
struct Measured {
    since: Instant,
    bytes: usize,
    state: State,
}

/// Where a body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Small,
    /// Waits for a slot; nothing of it is read meanwhile.
    Waiting,
    Big {
        known: bool,
    },
}

impl Arrival {
    fn measured(&self) -> MutexGuard<'_, Measured> {
        self.measured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures anew from now on.
    fn enter(&self, state: State) {
        let since = Instant::now();
        *self.measured() = Measured {
            since,
            bytes: 0,
            state,
        };
    }

    /// Returns bytes per second if that is too few.
    fn slow(&self, wanted: impl Fn(State) -> bool) -> Option<u128> {
        let measured = self.measured();
        let passed = measured.since.elapsed();
        let rate = measured.bytes as u128 * 1000 / passed.as_millis().max(1);
        let is_slow = passed >= MEASURED && rate < u128::from(SLOWEST) && wanted(measured.state);
        is_slow.then_some(rate)
    }
}

impl Bodies {
    /// Limits a body to `patience`, plus one second per 64 KiB received.
    #[must_use]
    pub fn new(patience: Duration) -> Self {
        Self {
            patience,
            client: None,
            known: Arc::new(Semaphore::new(BIG_AT_ONCE)),
            unknown: Arc::new(Semaphore::new(UNKNOWN_AT_ONCE)),
            arriving: Arc::default(),
        }
    }

    /// Returns the same for the bodies of one client.
    #[must_use]
    pub(super) fn of(mut self, client: Option<IpAddr>) -> Self {
        self.client = client;
        self
    }

    /// Cuts the slowest body, or the slowest of one client. `false` if none is slow.
    pub(super) fn cut_slowest(&self, client: Option<IpAddr>) -> bool {
        self.cut(
            |arrival| client.is_none() || arrival.client == client,
            |state| state != State::Waiting,
        )
    }

    fn cut(&self, among: impl Fn(&Arrival) -> bool, wanted: impl Fn(State) -> bool) -> bool {
        let mut arriving = self.lock();
        arriving.retain(|arrival| arrival.strong_count() > 0);
        let slowest = arriving
            .iter()
            .filter_map(Weak::upgrade)
            .filter(|arrival| !arrival.cut.is_cancelled() && among(arrival))
            .filter_map(|arrival| Some((arrival.slow(&wanted)?, arrival)))
            .min_by_key(|(rate, _)| *rate);
        slowest.is_some_and(|(_, arrival)| {
            arrival.cut.cancel();
            true
        })
    }

    fn arrive(&self) -> Arc<Arrival> {
        let arrival = Arc::new(Arrival {
            client: self.client,
            measured: Mutex::new(Measured {
                since: Instant::now(),
                bytes: 0,
                state: State::Small,
            }),
            cut: CancellationToken::new(),
        });
        let mut arriving = self.lock();
        arriving.retain(|arrival| arrival.strong_count() > 0);
        arriving.push(Arc::downgrade(&arrival));
        arrival
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<Arrival>>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot; the slowest body that has one is cut meanwhile.
    async fn slot(&self, known: bool) -> Result<OwnedSemaphorePermit, BodyError> {
        let slots = if known { &self.known } else { &self.unknown };
        let acquired = Arc::clone(slots).acquire_owned();
        tokio::pin!(acquired);
        let end = Instant::now() + self.patience;
        loop {
            match tokio::time::timeout(MEASURED, &mut acquired).await {
                Ok(slot) => return slot.map_err(|_| BodyError::Busy),
                Err(_) if Instant::now() >= end => return Err(BodyError::Busy),
                Err(_) => self.cut(|_| true, |state| state == State::Big { known }),
            };
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

/// Reads a body of at most `max` bytes whole, of a sender that is known.
pub async fn read_whole(
    body: Body,
    max: usize,
    bodies: &Bodies,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), BodyError> {
    let mut chunks = Chunks::new(body, max, bodies);
    let mut whole = BytesMut::new();
    while let Some(chunk) = chunks.next().await? {
        whole.extend_from_slice(&chunk);
        chunks.take_place(true).await?;
    }
    Ok((whole.freeze(), chunks.into_place()))
}

/// A body, read chunk by chunk.
pub struct Chunks<'a> {
    body: Body,
    max: usize,
    received: usize,
    start: Instant,
    bodies: &'a Bodies,
    arrival: Arc<Arrival>,
    place: Option<(bool, OwnedSemaphorePermit)>,
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
            arrival: bodies.arrive(),
            place: None,
        }
    }

    /// Returns the slot that a large body holds. Keep it as long as the content is buffered.
    #[must_use]
    pub fn into_place(self) -> Option<OwnedSemaphorePermit> {
        self.place.map(|(_, slot)| slot)
    }

    /// Returns whether the body needs a slot to be read on.
    #[must_use]
    pub fn is_big(&self) -> bool {
        self.received > BIG
    }

    /// Returns the next chunk; `None` at the end. Call [`Self::take_place`] before the next one.
    pub async fn next(&mut self) -> Result<Option<Bytes>, BodyError> {
        loop {
            let earned = Duration::from_secs(self.received as u64) / SLOWEST;
            let deadline = self.start + self.bodies.patience + earned;
            let frame = tokio::select! {
                frame = tokio::time::timeout_at(deadline, self.body.frame()) => frame,
                () = self.arrival.cut.cancelled() => return Err(BodyError::Slow),
            };
            let Some(frame) = frame.map_err(|_| BodyError::Slow)? else {
                return Ok(None);
            };
            let frame = frame.map_err(|_| BodyError::Broken)?;
            let Ok(chunk) = frame.into_data() else {
                continue;
            };
            self.received += chunk.len();
            self.arrival.measured().bytes += chunk.len();
            if self.received > self.max {
                return Err(BodyError::TooLarge { max: self.max });
            }
            return Ok(Some(chunk));
        }
    }

    /// Takes a slot if the body has become large. A sender that has become known gives the slot of an
    /// unknown one back. The time spent waiting is not the sender's.
    pub async fn take_place(&mut self, known: bool) -> Result<(), BodyError> {
        let has = self.place.as_ref().map(|(known, _)| *known);
        if !self.is_big() || has == Some(true) || has == Some(known) {
            return Ok(());
        }
        self.place = None;
        self.arrival.enter(State::Waiting);
        let start = Instant::now();
        let slot = self.bodies.slot(known).await?;
        self.start += start.elapsed();
        self.arrival.enter(State::Big { known });
        self.place = Some((known, slot));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    /// A body that holds so many bytes, and then trickles until it is dropped.
    fn trickling(bytes: usize) -> (mpsc::Sender<Bytes>, Body) {
        let (sender, mut receiver) = mpsc::channel::<Bytes>(8);
        sender.try_send(Bytes::from(vec![b'x'; bytes])).unwrap();
        let stream = futures_util::stream::poll_fn(move |cx| {
            let chunk = receiver.poll_recv(cx);
            chunk.map(|chunk| chunk.map(Ok::<_, std::io::Error>))
        });
        (sender, Body::from_stream(stream))
    }

    async fn big(bodies: &Bodies, known: bool) -> Result<Chunks<'_>, BodyError> {
        let (_sender, body) = trickling(BIG + 1);
        let mut chunks = Chunks::new(body, 2 * BIG, bodies);
        chunks.next().await?;
        chunks.take_place(known).await?;
        Ok(chunks)
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_sender_never_holds_the_slot_of_a_known_one() {
        let bodies = Bodies::new(Duration::from_secs(8));
        let unknown = big(&bodies, false).await.unwrap();
        let start = Instant::now();
        for _ in 0..BIG_AT_ONCE {
            std::mem::forget(big(&bodies, true).await.unwrap().into_place());
        }
        assert!(start.elapsed() < MEASURED);
        // What is read whole holds its slot until it is processed, however long that takes.
        let busy = big(&bodies, true).await.err();
        assert_eq!(busy, Some(BodyError::Busy));
        drop(unknown);
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_is_cut_while_others_wait_for_its_slot() {
        let bodies = Bodies::new(Duration::from_secs(3600));
        let mut slow = Vec::new();
        for _ in 0..BIG_AT_ONCE {
            let (sender, body) = trickling(BIG + 1);
            let mut chunks = Chunks::new(body, 2 * BIG, &bodies);
            chunks.next().await.unwrap();
            chunks.take_place(true).await.unwrap();
            slow.push((sender, chunks));
        }
        // The last one is slow as well, but not the slowest.
        let (sender, chunks) = slow.last_mut().unwrap();
        sender.try_send(Bytes::from_static(b"x")).unwrap();
        chunks.next().await.unwrap();
        let read_on = async {
            let mut ends = Vec::new();
            let first = slow.len() - 1;
            for (_, mut chunks) in slow.drain(..first) {
                ends.push(tokio::time::timeout(Duration::from_secs(1), chunks.next()).await);
            }
            ends
        };
        let (good, ends) = tokio::join!(big(&bodies, true), read_on);
        assert!(good.is_ok());
        let cut = |end: &&Result<_, _>| matches!(end, Ok(Err(BodyError::Slow)));
        assert_eq!(ends.iter().filter(cut).count(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_in_the_queue_is_not_the_senders() {
        let bodies = Bodies::new(Duration::from_secs(8));
        let mut held = Vec::new();
        for _ in 0..BIG_AT_ONCE {
            held.push(big(&bodies, true).await.unwrap().into_place());
        }
        let (sender, body) = trickling(BIG + 1);
        let mut chunks = Chunks::new(body, 2 * BIG, &bodies);
        chunks.next().await.unwrap();
        let free = async {
            tokio::time::sleep(Duration::from_secs(7)).await;
            held.pop();
        };
        let (taken, ()) = tokio::join!(chunks.take_place(true), free);
        taken.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
        sender.try_send(Bytes::from_static(b"x")).unwrap();
        assert!(chunks.next().await.is_ok());
    }
}
