//! The first half of the road: bytes arrive, are hashed on one thread, spooled on a second, and, when they are a tar,
//! unpacked on a third, all at once.

use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::failure::Nature;
use super::frames::{Feed, FrameReader};
use super::{Arrived, Note, Road, Run, Stop, Stopper, blocking, thread, unpack_staged};
use crate::fetch::{Event, Source, Spool, Validator};
use crate::job::Stage;
use crate::publish::Staging;
use crate::publish::space::Promise;
use crate::unpack::{self, Tree};
use crate::verify::Hasher;

/// How much of a spool is read at once when it is replayed.
const REPLAY_BLOCK: usize = 256 << 10;
/// How long a thread that was told to stop may take.
const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

type Unpacked = Result<(Staging, Tree), Stop>;
type Hashing = JoinHandle<Result<Hasher, Stop>>;
type Spooling = JoinHandle<Result<Spool, Stop>>;

/// One pass over an archive from its first byte on.
struct Pass {
    feed: Feed,
    hashing: Hashing,
    spooling: Spooling,
    unpacking: Unpacking,
    stopper: Stopper,
}

/// The thread that unpacks while bytes arrive.
enum Unpacking {
    /// A zip is unpacked later.
    Later,
    Running(JoinHandle<Unpacked>),
    Ended(Box<Unpacked>),
}

impl Unpacking {
    async fn end(self) -> Option<Unpacked> {
        match self {
            Self::Later => None,
            Self::Running(handle) => Some(join(handle).await),
            Self::Ended(result) => Some(*result),
        }
    }

    /// Looks whether the thread has ended, and returns how if it failed.
    async fn failure(&mut self) -> Option<&Stop> {
        if let Self::Running(handle) = self
            && handle.is_finished()
        {
            let result = handle
                .await
                .unwrap_or_else(|e| Err(Stop::internal(e.to_string())));
            *self = Self::Ended(Box::new(result));
        }
        match self {
            Self::Ended(result) => Result::as_ref(result).err(),
            Self::Later | Self::Running(_) => None,
        }
    }
}

/// How a pass ended.
enum Passed {
    Whole(Box<Arrived>),
    /// The source starts at zero again.
    Void(Box<Spool>),
}

impl Road {
    /// Fetches, hashes and, for a tar, unpacks; returns when the last byte is here and is the announced one.
    pub(super) async fn fetch(
        &self,
        run: &Run<'_>,
        room: &Arc<Promise>,
        mut spool: Spool,
        fresh: bool,
    ) -> Result<Arrived, Stop> {
        run.stage(Stage::Fetch);
        if !spool.is_empty() {
            (run.note)(Note::Resumed(spool.len()));
        }
        let mut source = self.fetcher.open(super::request(run, Some(&spool), fresh));
        loop {
            match self.pass(run, room, &mut source, spool).await? {
                Passed::Whole(arrived) => return Ok(*arrived),
                Passed::Void(same) => spool = *same,
            }
        }
    }

    async fn pass(
        &self,
        run: &Run<'_>,
        room: &Arc<Promise>,
        source: &mut Source,
        mut spool: Spool,
    ) -> Result<Passed, Stop> {
        let resumed = !spool.is_empty();
        let replay = if resumed {
            Some((spool.reader().map_err(Stop::spool)?, spool.len()))
        } else {
            None
        };
        let mut pass = self.start_pass(run, room, spool)?;
        run.progress.reset_written();
        room.reset_used();
        let mut received = 0;
        if let Some((file, length)) = replay {
            received = length;
            run.progress.set_received(length);
            pass.replay(file, length).await?;
        }
        let ended = pass.receive(run, room, source, &mut received).await;
        let Pass {
            feed,
            hashing,
            spooling,
            unpacking,
            stopper,
        } = pass;
        match ended {
            Ok(true) => feed.end().await,
            Ok(false) | Err(_) => drop(feed),
        }
        // Both threads end with their feed, whatever the end was, and one gives the spool back.
        let hashed = match (join(hashing).await, join(spooling).await) {
            (Ok(hasher), Ok(spool)) => Ok((hasher, spool)),
            (_, Err(stop)) | (Err(stop), Ok(_)) => Err(stop),
        };
        if let Ok(false) = ended {
            stopper.raise();
            let (_, mut spool) = hashed?;
            spool = blocking(move || spool.reset().map(|()| spool).map_err(Stop::spool)).await?;
            return Ok(Passed::Void(spool.into()));
        }
        if let Err(stop) = ended {
            stopper.raise();
            return Err(explain(stop, resumed, hashed, unpacking).await);
        }
        let (hasher, spool) = match hashed {
            Ok(hashed) => hashed,
            Err(stop) => {
                stopper.raise();
                // The tree goes before the failure is told.
                let _ = tokio::time::timeout(GRACE, unpacking.end()).await;
                return Err(stop);
            }
        };
        run.stage(Stage::Verify);
        let suspicion = source.suspicion();
        let doubtful = |stop: Stop| stop.doubted(suspicion.as_deref());
        let verified = match blocking(move || hasher.finish().map_err(Stop::verify)).await {
            Ok(verified) => verified,
            Err(stop) => {
                stopper.raise();
                discard(spool);
                // The tree goes before the failure is told.
                let _ = tokio::time::timeout(GRACE, unpacking.end()).await;
                return Err(doubtful(stop));
            }
        };
        if run.job.file.archive_type.is_streamable() {
            run.stage(Stage::Unpack);
        }
        let tree = match stopper
            .watch(async { unpacking.end().await.transpose() })
            .await
        {
            Ok(tree) => tree,
            Err(stop) => {
                if stop.is_content() {
                    discard(spool);
                }
                // With no digest to say so, a part that an earlier life left may be to blame.
                let proven = run.job.file.md5.is_some() || run.job.file.sha256.is_some();
                return Err(if resumed && !proven {
                    doubtful(stop)
                } else {
                    stop.explained(suspicion.as_deref())
                });
            }
        };
        Ok(Passed::Whole(Box::new(Arrived {
            verified,
            spool,
            fetched: source.fetched(),
            tree,
        })))
    }

    fn start_pass(&self, run: &Run<'_>, room: &Arc<Promise>, spool: Spool) -> Result<Pass, Stop> {
        let own = usize::try_from(self.config.queue_bytes).unwrap_or(usize::MAX);
        let mut feed = Feed::new(own, &self.queues);
        let stopper = Stopper::new(run);
        let hasher = super::hasher(&run.job.file, self.publisher.keeps_archives());
        let reader = feed.needed_reader();
        let hashing = tokio::task::spawn_blocking(move || Ok(hash(reader, hasher)));
        let reader = feed.needed_reader();
        let spooling = tokio::task::spawn_blocking(move || keep(reader, spool));
        let archive_type = run.job.file.archive_type;
        let unpacking = if archive_type.is_streamable() {
            let options = self.unpack_options(run, room, &stopper)?;
            let room_limit = self.room_limit(&options);
            let publisher = Arc::clone(&self.publisher);
            let job = run.job.id.0;
            let reader = feed.reader();
            Unpacking::Running(tokio::spawn(thread("unpack", move || {
                let staging = publisher.stage(job).map_err(Stop::publish)?;
                unpack_staged(staging, room_limit, |target| {
                    unpack::unpack_stream(archive_type, reader, target, &options)
                })
            })))
        } else {
            Unpacking::Later
        };
        Ok(Pass {
            feed,
            hashing,
            spooling,
            unpacking,
            stopper,
        })
    }
}

/// Decides what to say when a pass ended early: a thread that gave up knows more than the feed that it closed.
async fn explain(
    stop: Stop,
    resumed: bool,
    hashed: Result<(Hasher, Spool), Stop>,
    unpacking: Unpacking,
) -> Stop {
    // The staging directory is gone when the thread has ended; one that hangs in the kernel is left behind.
    let unpacked = tokio::time::timeout(GRACE, unpacking.end())
        .await
        .ok()
        .flatten();
    let spool = match hashed {
        Err(stop) => return stop,
        Ok((_, spool)) => spool,
    };
    let stop = match (stop, unpacked) {
        (Stop::Closed, Some(Err(stop))) => stop,
        (Stop::Closed, _) => {
            Stop::internal("the unpacking thread ended before its input".to_owned())
        }
        (stop, _) => stop,
    };
    if !stop.is_content() {
        if spool.is_empty() {
            discard(spool);
        }
        return stop;
    }
    discard(spool);
    if resumed { stop.doubted(None) } else { stop }
}

impl Pass {
    /// Sends what an earlier life has received down the road again.
    async fn replay(&mut self, mut file: std::fs::File, length: u64) -> Result<(), Stop> {
        let mut left = length;
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
            if !self.feed.send(Bytes::from(block), true, None).await {
                break;
            }
        }
        Ok(())
    }

    /// Receives to the end of the source. Returns false when the source starts at zero again.
    async fn receive(
        &mut self,
        run: &Run<'_>,
        room: &Arc<Promise>,
        source: &mut Source,
        received: &mut u64,
    ) -> Result<bool, Stop> {
        let mut known = None;
        let proof = run.job.file.md5.is_some() || run.job.file.sha256.is_some();
        loop {
            match source.next().await.map_err(Stop::fetch)? {
                Event::Bytes(bytes) => {
                    let length = bytes.len() as u64;
                    *received += length;
                    run.progress.set_received(*received);
                    run.progress.set_total(source.total().unwrap_or(0));
                    room.add_used(length);
                    // An archive that cannot be read may not be the announced one at all, and only its digest tells:
                    // go on hashing. One that was read and is refused is refused now.
                    if self
                        .unpacking
                        .failure()
                        .await
                        .is_some_and(|stop| !(proof && stop.is(Nature::Unreadable)))
                    {
                        return Err(Stop::Closed);
                    }
                    let validator = changed(source.validator(), &mut known);
                    if !self.forward(run, bytes, validator).await? {
                        return Err(Stop::Closed);
                    }
                }
                Event::Retrying {
                    attempt,
                    error,
                    wait,
                } => run.retrying(attempt, error, wait),
                Event::Restart { why } => {
                    (run.note)(Note::Restarted(why));
                    return Ok(false);
                }
                Event::End => return Ok(true),
            }
        }
    }
}

impl Pass {
    /// Sends bytes down the road, when there is room for them. Returns false when nobody takes them.
    async fn forward(
        &mut self,
        run: &Run<'_>,
        bytes: Bytes,
        validator: Option<Arc<Validator>>,
    ) -> Result<bool, Stop> {
        tokio::select! {
            sent = self.feed.send(bytes, false, validator) => Ok(sent),
            () = run.cancel.cancelled() => Err(Stop::Interrupted),
            () = tokio::time::sleep_until(run.deadline) => Err(Stop::deadline(Stage::Unpack)),
        }
    }
}

/// Returns the validator if it is another one than was `known`.
fn changed(now: Option<&Validator>, known: &mut Option<Validator>) -> Option<Arc<Validator>> {
    if now == known.as_ref() {
        return None;
    }
    *known = now.cloned();
    now.cloned().map(Arc::new)
}

fn discard(spool: Spool) {
    if let Err(error) = spool.discard() {
        tracing::warn!(error = %crate::sys::Chain(&error), "could not remove a partial file");
    }
}

/// Hashes every frame: a thread of its own, since MD5 is what an archive that does not compress waits for.
fn hash(mut reader: FrameReader, mut hasher: Hasher) -> Hasher {
    while let Ok(Some(frame)) = reader.next_frame() {
        hasher.update(&frame.bytes);
    }
    hasher
}

/// Spools every frame that has come over the network.
fn keep(mut reader: FrameReader, mut spool: Spool) -> Result<Spool, Stop> {
    while let Ok(Some(frame)) = reader.next_frame() {
        if frame.replayed {
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

async fn join<T>(handle: JoinHandle<Result<T, Stop>>) -> Result<T, Stop> {
    handle
        .await
        .unwrap_or_else(|e| Err(Stop::internal(e.to_string())))
}
