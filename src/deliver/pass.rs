//! One pass over an archive: the bytes and the threads that consume them. [`Pass::abandon`] undoes
//! all of it, however the pass ended.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Road;
use super::failure::{Nature, Stop};
use super::frames::{Feed, FrameReader};
use super::held::Held;
use super::run::{Note, Run, hasher};
use super::threads::{Stopper, Thread, blocking};
use super::unpacking::unpack_staged;
use crate::fetch::{self, Event, Source, Spool, Validator};
use crate::job::Stage;
use crate::publish::Staging;
use crate::publish::space::Promise;
use crate::sys::{Chain, failpoint};
use crate::unpack::{self, Tree};
use crate::verify::Hasher;

/// Bytes read at once when a spool is replayed.
const REPLAY_BLOCK: usize = 256 << 10;
/// Time that a stopped thread gets to end.
const GRACE: Duration = Duration::from_secs(2);

/// A pass that brought less than [`FLOOR`] bytes per second over this time is slow.
const PACE: Duration = Duration::from_secs(5);
const FLOOR: u64 = 64 << 10;

/// How far receiving came.
pub(super) enum Received<T> {
    Whole(T),
    /// The source restarted at zero, so nothing received so far is valid.
    Void,
    /// The source became slow while others wait for threads.
    Slow,
}

/// How fast a source is.
struct Pace {
    since: Instant,
    bytes: u64,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            bytes: 0,
        }
    }
}

impl Pace {
    /// Returns the source's next event, or `None` if it is slow while `crowded`.
    async fn next(
        &mut self,
        source: &mut Source,
        crowded: &(dyn Fn() -> bool + Sync),
    ) -> Option<Result<Event, fetch::Error>> {
        let mut next = std::pin::pin!(source.next());
        loop {
            let event = tokio::time::timeout_at(self.since + PACE, next.as_mut()).await;
            if self.since.elapsed() >= PACE {
                let slow = self.bytes < FLOOR * PACE.as_secs();
                *self = Self::default();
                if slow && crowded() && event.is_err() {
                    return None;
                }
            }
            if let Ok(event) = event {
                if let Ok(Event::Bytes(bytes)) = &event {
                    self.bytes += bytes.len() as u64;
                }
                return Some(event);
            }
        }
    }
}

type Unpacked = Result<(Staging, Tree), Stop>;

/// One pass over an archive, from its first byte.
pub(super) struct Pass {
    stopper: Stopper,
    /// `None` after the last byte or an abort.
    feed: Option<Feed>,
    hashing: JoinHandle<Result<Hasher, Stop>>,
    spooling: JoinHandle<Result<Spool, Stop>>,
    unpacking: Unpacking,
    /// The spooled part from an earlier process and its length, until it is replayed.
    replay: Option<(std::fs::File, u64)>,
    resumed: bool,
    /// Whether the push states a digest.
    proven: bool,
    /// Set once the spooling thread has returned it.
    spool: Option<Spool>,
}

/// The thread that unpacks while bytes arrive.
enum Unpacking {
    /// No thread: a zip is unpacked after it has arrived.
    Later,
    Running(Thread<(Staging, Tree)>),
    Ended(Box<Unpacked>),
}

impl Unpacking {
    /// Waits for the thread and takes its result.
    async fn end(&mut self) -> Option<Unpacked> {
        if let Self::Running(thread) = self {
            *self = Self::Ended(Box::new(thread.join().await));
        }
        match std::mem::replace(self, Self::Later) {
            Self::Ended(result) => Some(*result).filter(|result| !is_crowded(result)),
            Self::Later | Self::Running(_) => None,
        }
    }

    /// Returns the thread's failure, if it has failed.
    fn failure(&mut self) -> Option<&Stop> {
        if let Self::Running(thread) = self
            && let Some(result) = thread.try_join()
        {
            *self = Self::Ended(Box::new(result));
        }
        match self {
            Self::Ended(result) if is_crowded(result) => None,
            Self::Ended(result) => Result::as_ref(result).err(),
            Self::Later | Self::Running(_) => None,
        }
    }
}

/// Tells whether the archive is to be unpacked later, since others had the memory.
fn is_crowded(result: &Unpacked) -> bool {
    result.as_ref().is_err_and(|stop| stop.is(Nature::Crowded))
}

impl Road {
    pub(super) fn start_pass(
        &self,
        run: &Run<'_>,
        promise: &Arc<Promise>,
        mut spool: Spool,
    ) -> Result<Pass, Stop> {
        let stopper = Stopper::new(run);
        let resumed = !spool.is_empty();
        let replay = if resumed {
            Some((spool.reader().map_err(Stop::spool)?, spool.len()))
        } else {
            None
        };
        let own = usize::try_from(self.config.queue_bytes).unwrap_or(usize::MAX);
        let mut feed = Feed::new(own, &self.queues);
        let hasher = hasher(&run.job.file, self.publisher.keeps_archives());
        let (to_hash, to_spool) = (feed.needed_reader(), feed.needed_reader());
        let hashing = tokio::task::spawn_blocking(move || {
            failpoint::panic_in("hash");
            Ok(hash(to_hash, hasher))
        });
        let spooling = tokio::task::spawn_blocking(move || {
            failpoint::panic_in("spool");
            keep(to_spool, spool)
        });
        let archive_type = run.job.file.archive_type;
        let unpacking = if archive_type.is_streamable() {
            let mut options = self.unpack_options(run, promise, &stopper)?;
            options.waits = false;
            let space_limit = self.space_limit(&options);
            let publisher = Arc::clone(&self.publisher);
            let (job, key) = (run.job.id.0, run.job.file.key.clone());
            let reader = feed.reader();
            Unpacking::Running(Thread::start("unpack", move || {
                let staging = publisher.stage(&key, job).map_err(Stop::publish)?;
                unpack_staged(staging, options, space_limit, |target, options| {
                    unpack::unpack_stream(archive_type, reader, target, options)
                })
            })?)
        } else {
            Unpacking::Later
        };
        Ok(Pass {
            stopper,
            feed: Some(feed),
            hashing,
            spooling,
            unpacking,
            replay,
            resumed,
            proven: run.is_proven(),
            spool: None,
        })
    }
}

impl Pass {
    /// Feeds the part that an earlier process received.
    pub(super) async fn replay(&mut self, run: &Run<'_>) -> Result<(), Stop> {
        let Some((mut file, mut left)) = self.replay.take() else {
            return Ok(());
        };
        while left > 0 {
            let wanted = usize::try_from(left)
                .unwrap_or(usize::MAX)
                .min(REPLAY_BLOCK);
            let (same, block) = blocking(move || {
                let mut block = vec![0; wanted];
                file.read_exact(&mut block).map_err(Stop::spool_read)?;
                Ok((file, block))
            })
            .await?;
            file = same;
            left -= block.len() as u64;
            self.feed(run, Bytes::from(block), true, None).await?;
        }
        Ok(())
    }

    /// Feeds what was held in memory; `validator` is the object's that it is from.
    pub(super) async fn feed_held(
        &mut self,
        run: &Run<'_>,
        held: Held,
        validator: Option<&Validator>,
    ) -> Result<(), Stop> {
        let mut validator = validator.cloned().map(Arc::new);
        let (frames, _room) = held.into_frames();
        for frame in frames {
            self.feed(run, frame, false, validator.take()).await?;
        }
        Ok(())
    }

    /// Feeds what arrives, until the end of the source, or until it is slow while `crowded`.
    pub(super) async fn receive(
        &mut self,
        run: &Run<'_>,
        promise: &Promise,
        source: &mut Source,
        crowded: &(dyn Fn() -> bool + Sync),
    ) -> Result<Received<()>, Stop> {
        let mut known = source.validator().cloned();
        let mut pace = Pace::default();
        loop {
            let Some(event) = pace.next(source, crowded).await else {
                return Ok(Received::Slow);
            };
            match event.map_err(Stop::fetch)? {
                Event::Bytes(bytes) => {
                    run.received(promise, source, bytes.len());
                    self.check_unpacking()?;
                    let validator = changed(source.validator(), &mut known);
                    self.feed(run, bytes, false, validator).await?;
                }
                Event::Retrying {
                    attempt,
                    error,
                    wait,
                } => run.retrying(attempt, error, wait)?,
                Event::Restart { why } => {
                    (run.note)(Note::Restarted(why));
                    return Ok(Received::Void);
                }
                Event::End => return Ok(Received::Whole(())),
            }
        }
    }

    /// Fails if the archive was rejected while unpacking. A malformed archive may just be the wrong
    /// bytes: if a digest is stated, keep hashing and let it decide which error to report.
    fn check_unpacking(&mut self) -> Result<(), Stop> {
        let proven = self.proven;
        match self.unpacking.failure() {
            Some(stop) if !(proven && stop.is(Nature::Unreadable)) => Err(Stop::Closed),
            _ => Ok(()),
        }
    }

    /// Feeds one frame to the threads, waiting while the queue is full.
    async fn feed(
        &mut self,
        run: &Run<'_>,
        bytes: Bytes,
        replayed: bool,
        validator: Option<Arc<Validator>>,
    ) -> Result<(), Stop> {
        let Some(feed) = &mut self.feed else {
            return Err(Stop::Closed);
        };
        tokio::select! {
            sent = feed.send(bytes, replayed, validator) => match sent {
                true => Ok(()),
                false => Err(Stop::Closed),
            },
            () = run.cancel.cancelled() => Err(Stop::Interrupted),
            () = run.deadline.passed() => Err(Stop::deadline(Stage::Unpack)),
        }
    }

    /// Ends the queue, after the last byte or to abort, and waits for the hashing and the spooling
    /// thread.
    pub(super) async fn close(&mut self, whole: bool) -> Result<Hasher, Stop> {
        if let Some(feed) = self.feed.take()
            && whole
        {
            feed.end().await;
        }
        let hashed = join(&mut self.hashing).await;
        self.spool = Some(join(&mut self.spooling).await?);
        hashed
    }

    /// Stops the threads and waits until the tree is deleted; a thread that hangs in the kernel is
    /// abandoned. Returns the result of the unpacking thread.
    async fn stop(&mut self) -> Result<Option<Unpacked>, Stop> {
        self.stopper.raise();
        let closed = match self.feed {
            Some(_) => self.close(false).await.map(drop),
            None => Ok(()),
        };
        let unpacked = tokio::time::timeout(GRACE, self.unpacking.end()).await;
        closed.map(|()| unpacked.unwrap_or(None))
    }

    /// Aborts the pass: the source restarts at zero.
    pub(super) async fn break_off(&mut self) -> Result<(), Stop> {
        self.stop().await.map(drop)
    }

    /// Returns the tree, if it was unpacked while bytes arrived.
    pub(super) async fn tree(&mut self) -> Result<Option<(Staging, Tree)>, Stop> {
        let end = async { self.unpacking.end().await.transpose() };
        self.stopper.watch(end).await
    }

    /// Returns the spool of a closed pass.
    pub(super) fn into_spool(self) -> Result<Spool, Stop> {
        self.spool
            .ok_or_else(|| Stop::internal("the spool is still being written".to_owned()))
    }

    /// Undoes the pass, which ended with `why`, and returns what to report: a thread that failed
    /// knows the cause better than the queue that it closed.
    pub(super) async fn abandon(mut self, why: Stop) -> Stop {
        let verified = self.feed.is_none() && self.proven;
        let stop = match (self.stop().await, why) {
            (Err(stop), _) | (Ok(Some(Err(stop))), Stop::Closed) => stop,
            (Ok(_), Stop::Closed) => {
                Stop::internal("the unpacking thread ended before its input".to_owned())
            }
            (Ok(_), why) => why,
        };
        if let Some(spool) = self.spool.take()
            && (stop.is_content() || spool.is_empty())
        {
            discard(spool);
        }
        // The part that an earlier process received may be the cause, unless the digest was right.
        if self.resumed && stop.is_content() && !verified {
            return stop.doubted(None);
        }
        stop
    }
}

/// Returns the validator if it differs from `known`.
fn changed(now: Option<&Validator>, known: &mut Option<Validator>) -> Option<Arc<Validator>> {
    if now == known.as_ref() {
        return None;
    }
    *known = now.cloned();
    now.cloned().map(Arc::new)
}

fn discard(spool: Spool) {
    if let Err(error) = spool.discard() {
        tracing::warn!(error = %Chain(&error), "could not remove a partial file");
    }
}

/// Hashes every frame. This needs its own thread: for an incompressible archive, MD5 is the
/// bottleneck.
fn hash(mut reader: FrameReader, mut hasher: Hasher) -> Hasher {
    while let Ok(Some(frame)) = reader.next_frame() {
        hasher.update(&frame.bytes);
    }
    hasher
}

/// Writes every frame that came over the network to the spool, after the part that an earlier
/// process received has proven to be as it was written.
fn keep(mut reader: FrameReader, mut spool: Spool) -> Result<Spool, Stop> {
    let mut left = spool.len();
    while let Ok(Some(frame)) = reader.next_frame() {
        if frame.replayed {
            spool.read_again(&frame.bytes);
            left = left.saturating_sub(frame.bytes.len() as u64);
            if left == 0 && !spool.is_intact() {
                return Err(Stop::partial_changed());
            }
            continue;
        }
        if let Some(validator) = &frame.validator {
            spool.set_validator(Some(validator)).map_err(Stop::spool)?;
        }
        spool.append(&frame.bytes).map_err(Stop::spool)?;
    }
    spool.flush().map_err(Stop::spool)?;
    Ok(spool)
}

async fn join<T>(handle: &mut JoinHandle<Result<T, Stop>>) -> Result<T, Stop> {
    handle
        .await
        .unwrap_or_else(|e| Err(Stop::internal(e.to_string())))
}
