//! How an archive arrives. What comes first is held in memory, and so is all of a small archive.
//! A large one that comes fast gets threads that hash, keep and unpack it while it arrives. All
//! others, however slow and many, only fill the spool, and get the threads when they are whole:
//! a file that waits for its origin takes a connection and nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SemaphorePermit;
use tokio::time::timeout;

use super::Road;
use super::failure::Stop;
use super::held::Held;
use super::pass::{Pass, Received};
use super::ready::{Archive, Brought};
use super::run::{Note, Run, request};
use super::threads::blocking;
use crate::fetch::{Event, Source, Spool};
use crate::job::Stage;
use crate::publish::Staging;
use crate::publish::space::Promise;
use crate::unpack::Tree;
use crate::verify::Verified;

/// Bytes of a large archive after which it gets threads, if they came within [`HOLD`].
const FAST: u64 = 256 << 10;
/// How long bytes are held in memory.
const HOLD: Duration = Duration::from_secs(1);

/// An archive on its way.
pub(super) struct Arrival<'a> {
    road: &'a Road,
    run: &'a Run<'a>,
    promise: &'a Arc<Promise>,
    source: Source,
    /// Opened when there is something in it, or to be written to it.
    spool: Option<Spool>,
    held: Held,
    /// Whether it may get threads while it arrives. Once they were taken away, it does not get them
    /// again: what was unpacked then would be unpacked a third time.
    may_stream: bool,
}

/// What is here.
enum Gathered<'a> {
    /// All of a small archive, in memory.
    Held,
    /// All of it, in the spool.
    Spooled,
    /// The beginning, and the rest comes fast.
    Fast(SemaphorePermit<'a>),
}

/// Result of a pass.
enum Passed {
    Whole(Box<Brought>),
    /// The source restarted at zero, so nothing received so far is valid.
    Void(Box<Spool>),
    /// The source became slow while others wait for its threads.
    Slow(Box<Spool>),
}

type Proven = (Verified, Option<(Staging, Tree)>);

impl Road {
    /// Fetches and verifies an archive and unpacks it: a tar while it arrives, a zip afterwards.
    /// `here` is what earlier attempts left in the spool.
    pub(super) async fn bring(
        &self,
        run: &Run<'_>,
        promise: &Arc<Promise>,
        here: u64,
        fresh: bool,
    ) -> Result<Brought, Stop> {
        run.stage(Stage::Fetch);
        let spool = match here {
            0 => None,
            _ => Some(self.open_spool(&run.job.file, fresh).await?),
        };
        if let Some(spool) = spool.as_ref().filter(|spool| !spool.is_empty()) {
            (run.note)(Note::Resumed(spool.len()));
            run.progress.set_received(spool.len());
        } else if !fresh && run.job.starts > 1 && run.job.fetched > 0 {
            let why = "what had arrived was in memory when the agent ended";
            (run.note)(Note::Restarted(why.to_owned()));
        }
        let arrival = Arrival {
            road: self,
            run,
            promise,
            source: self.fetcher.open(request(run, spool.as_ref(), fresh)),
            spool,
            held: Held::default(),
            may_stream: true,
        };
        arrival.bring().await
    }
}

impl<'a> Arrival<'a> {
    async fn bring(mut self) -> Result<Brought, Stop> {
        loop {
            let slot = match self.gather().await? {
                Gathered::Held => {
                    let (frames, source) = (self.held.take(), &self.source);
                    return self
                        .road
                        .unpack_held(self.run, self.promise, frames, source)
                        .await;
                }
                Gathered::Spooled => self.wait_for_slot().await?,
                Gathered::Fast(slot) => slot,
            };
            let passed = self.pass().await?;
            drop(slot);
            match passed {
                Passed::Whole(brought) => return Ok(*brought),
                Passed::Void(spool) => self.spool = Some(*spool),
                Passed::Slow(spool) => {
                    self.spool = Some(*spool);
                    self.may_stream = false;
                }
            }
        }
    }

    /// Receives until all is here, or what comes is worth threads.
    async fn gather(&mut self) -> Result<Gathered<'a>, Stop> {
        let size = self.run.job.file.size;
        let small = self.road.config.small_bytes;
        let most = match size.is_none_or(|size| size <= small) {
            true => small,
            false => FAST.min(small),
        };
        loop {
            match self.next_event().await? {
                None => self.flush().await?,
                Some(Event::Bytes(bytes)) => {
                    self.run.received(self.promise, &self.source, bytes.len());
                    let fits = self.held.push(bytes, &self.road.room);
                    if self.held.len() > most {
                        if self.may_stream
                            && let Ok(slot) = self.road.streaming.try_acquire()
                        {
                            return Ok(Gathered::Fast(slot));
                        }
                        self.flush().await?;
                    } else if !fits {
                        self.flush().await?;
                    }
                }
                Some(Event::Retrying {
                    attempt,
                    error,
                    wait,
                }) => {
                    if let Err(stop) = self.run.retrying(attempt, error, wait) {
                        self.flush().await?;
                        return Err(stop);
                    }
                }
                Some(Event::Restart { why }) => {
                    (self.run.note)(Note::Restarted(why));
                    self.held = Held::default();
                    if let Some(spool) = self.spool.take() {
                        self.spool = Some(reset(spool).await?);
                    }
                }
                Some(Event::End) => {
                    let spooled = self.spool.as_ref().is_some_and(|spool| !spool.is_empty());
                    if !spooled && self.held.len() <= small {
                        return Ok(Gathered::Held);
                    }
                    return Ok(Gathered::Spooled);
                }
            }
        }
    }

    /// Returns the next event of the source, or `None` when what is held has to be written first:
    /// slow bytes are not held in memory.
    async fn next_event(&mut self) -> Result<Option<Event>, Stop> {
        let next = self.source.next();
        let event = match self.held.age() {
            None => next.await,
            Some(age) => match timeout(HOLD.saturating_sub(age), next).await {
                Ok(event) => event,
                Err(_) => return Ok(None),
            },
        };
        match event {
            Ok(event) => Ok(Some(event)),
            Err(error) => {
                let stop = Stop::fetch(error);
                if stop.is_content() {
                    self.spool = None;
                    self.road.discard_partial(&self.run.job.file.key).await;
                } else {
                    // The bytes stand; a disk that does not take them only makes a resume longer.
                    let _ = self.flush().await;
                }
                Err(stop)
            }
        }
    }

    /// Writes what is held to the spool.
    async fn flush(&mut self) -> Result<(), Stop> {
        if self.held.is_empty() {
            return Ok(());
        }
        let mut spool = match self.spool.take() {
            Some(spool) => spool,
            None => self.road.open_spool(&self.run.job.file, true).await?,
        };
        let (frames, validator) = (self.held.take(), self.source.validator().cloned());
        let write = move || {
            spool
                .set_validator(validator.as_ref())
                .map_err(Stop::spool)?;
            for frame in frames.iter() {
                spool.append(frame).map_err(Stop::spool)?;
            }
            spool.flush().map_err(Stop::spool)?;
            Ok(spool)
        };
        self.spool = Some(blocking(write).await?);
        Ok(())
    }

    /// Waits for threads for an archive that is here. The file's time limit stands still.
    async fn wait_for_slot(&self) -> Result<SemaphorePermit<'a>, Stop> {
        let _own = self.run.deadline.pause();
        tokio::select! {
            slot = self.road.local.acquire() => slot.map_err(|_| Stop::Interrupted),
            () = self.run.cancel.cancelled() => Err(Stop::Interrupted),
        }
    }

    /// Passes over the archive once from its first byte: the spooled part, what is held, and what
    /// arrives.
    async fn pass(&mut self) -> Result<Passed, Stop> {
        self.run.progress.reset_written();
        self.promise.reset_used();
        let spool = match self.spool.take() {
            Some(spool) => spool,
            None => self.road.open_spool(&self.run.job.file, true).await?,
        };
        let mut pass = self.road.start_pass(self.run, self.promise, spool)?;
        match self.follow(&mut pass).await {
            Ok(Received::Whole((verified, tree))) => {
                let mut spool = pass.into_spool()?;
                let tree = match tree {
                    Some(tree) => tree,
                    None => {
                        self.road
                            .unpack_spooled(self.run, self.promise, &mut spool)
                            .await?
                    }
                };
                Ok(Passed::Whole(Box::new(Brought {
                    verified,
                    tree,
                    archive: Archive::Spool(spool.into()),
                    fetched: self.source.fetched(),
                })))
            }
            Ok(Received::Void) => Ok(Passed::Void(reset(pass.into_spool()?).await?.into())),
            Ok(Received::Slow) => Ok(Passed::Slow(pass.into_spool()?.into())),
            Err(stop) => Err(pass.abandon(stop).await),
        }
    }

    /// Runs a pass to its end and returns proof and tree.
    async fn follow(&mut self, pass: &mut Pass) -> Result<Received<Proven>, Stop> {
        let run = self.run;
        pass.replay(run).await?;
        pass.feed_held(run, self.held.take(), self.source.validator())
            .await?;
        let crowded = || self.road.streaming.available_permits() == 0;
        let received = pass
            .receive(run, self.promise, &mut self.source, &crowded)
            .await?;
        match received {
            Received::Whole(()) => {}
            Received::Void => {
                pass.break_off().await?;
                return Ok(Received::Void);
            }
            Received::Slow => {
                pass.break_off().await?;
                return Ok(Received::Slow);
            }
        }
        let hasher = pass.close(true).await?;
        run.stage(Stage::Verify);
        let suspicion = self.source.suspicion();
        let verified = blocking(move || hasher.finish().map_err(Stop::verify))
            .await
            .map_err(|stop| stop.doubted(suspicion.as_ref()))?;
        if run.job.file.archive_type.is_streamable() {
            run.stage(Stage::Unpack);
        }
        let tree = pass
            .tree()
            .await
            .map_err(|stop| stop.explained(suspicion.as_ref()))?;
        Ok(Received::Whole((verified, tree)))
    }
}

async fn reset(mut spool: Spool) -> Result<Spool, Stop> {
    blocking(move || spool.reset().map(|()| spool).map_err(Stop::spool)).await
}
