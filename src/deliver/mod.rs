//! Delivers one data file: fetch, verify, unpack, publish.
//!
//! [`Road::deliver`] is the one place that knows all stages. A tar is hashed, inflated and written
//! while it arrives; a zip is spooled, verified and then unpacked. The tree is always written into
//! a private staging directory that deletes itself. It leaves staging only after size and digest
//! have matched, the archive was read to its end, and the file system was synced. A dropped run
//! leaves only its spool behind.

mod arrival;
mod failure;
mod frames;
mod heal;
mod held;
mod partials;
mod pass;
mod ready;
mod run;
mod small;
mod threads;
mod unpacking;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::datafile::Key;
use crate::fetch::Fetcher;
use crate::job::Stage;
use crate::publish::space::Promise;
use crate::publish::{Publisher, Release, Session};
use crate::sys::Live;
use crate::sys::clock::Clock;
use crate::{unpack, verify};

use failure::Nature;
use frames::Budget;
use held::Room;
use ready::Ready;
use small::Workers;
use threads::blocking;

pub use crate::fetch::Retries;
pub use failure::{KINDS, Stop};
pub use heal::{Damage, Rebuilt};
pub use run::{Note, Run};

/// Memory for the entries of all archives, besides one archive that may have more than is left.
const ENTRY_BYTES: u64 = 24 << 20;
/// Time between two checks whether a deletion has freed enough space.
const DELETING: Duration = Duration::from_millis(100);

/// Memory limits for archives in flight.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of an archive that are in flight between the socket and the threads that hash and
    /// unpack it.
    #[serde(with = "crate::sys::units::bytes")]
    pub queue_bytes: u64,
    /// The same limit, summed over all archives in flight.
    #[serde(with = "crate::sys::units::bytes")]
    pub total_queue_bytes: u64,
    /// Archives up to this size are held in memory and unpacked by a shared pool.
    #[serde(with = "crate::sys::units::bytes")]
    pub small_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            queue_bytes: 2 << 20,
            total_queue_bytes: 16 << 20,
            small_bytes: 1 << 20,
        }
    }
}

impl Config {
    /// Returns whether an archive of this stated size is held in memory.
    #[must_use]
    pub fn is_small(&self, size: Option<u64>) -> bool {
        size.is_some_and(|size| size <= self.small_bytes)
    }
}

/// Large archives that are hashed and unpacked while they arrive. Those beyond arrive in the spool.
const STREAMING: usize = 16;
/// Archives that are hashed and unpacked from the spool at once.
const LOCAL: usize = 8;

/// The stages, connected.
pub struct Road {
    fetcher: Arc<Fetcher>,
    publisher: Arc<Publisher>,
    unpack: Live<unpack::Config>,
    verify: Arc<Live<verify::Config>>,
    config: Config,
    clock: Arc<dyn Clock>,
    queues: Budget,
    /// What archives that arrive without threads hold in memory.
    room: Room,
    /// Archives with threads while they arrive.
    streaming: Semaphore,
    /// Archives that are here, with threads.
    local: Semaphore,
    spare_blocks: Arc<unpack::SpareBlocks>,
    entries: Arc<unpack::Memory>,
    workers: Workers,
}

/// A published version that is not live yet.
pub struct Done {
    pub release: Release,
    /// Bytes received over the network, earlier starts included.
    pub fetched: u64,
    session: Session,
}

impl Road {
    /// Connects the stages: sources, the data directory, and the rules for archives and pushes.
    pub fn new(
        fetcher: Arc<Fetcher>,
        publisher: Arc<Publisher>,
        unpack: unpack::Config,
        verify: Arc<Live<verify::Config>>,
        config: Config,
        clock: Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism()
            .map_or(2, std::num::NonZero::get)
            .max(2);
        let spare_blocks = Arc::new(unpack::SpareBlocks::for_archives(cores));
        let room = Room::new(config.total_queue_bytes);
        let queues = Budget::new(usize::try_from(config.total_queue_bytes).unwrap_or(usize::MAX));
        let workers = Workers::start(cores, publisher.layout().root(), unpack.sandbox)?;
        Ok(Self {
            fetcher,
            publisher,
            unpack: Live::new(unpack),
            verify,
            config,
            clock,
            queues,
            room,
            streaming: Semaphore::new(STREAMING),
            local: Semaphore::new(LOCAL),
            spare_blocks,
            entries: unpack::Memory::new(ENTRY_BYTES),
            workers,
        })
    }

    /// Applies new archive limits and unpacking settings to files that start from now on. The
    /// sandbox cannot change: the worker threads are already confined by it.
    pub fn reload(&self, unpack: unpack::Config) {
        let sandbox = self.unpack.now().sandbox;
        self.unpack.replace(unpack::Config { sandbox, ..unpack });
    }

    /// Returns the current unpacking settings.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Brings one data file from its source to a published version that is not live yet.
    pub async fn deliver(&self, run: &Run<'_>) -> Result<Done, Stop> {
        let content = run.job.file.content();
        let require = self.verify.now().require;
        require.check(&content).map_err(Stop::verify)?;
        if let Some(done) = self.without_fetching(run).await? {
            return Ok(done);
        }
        let ended = self.try_twice(run).await;
        if let Err(stop) = &ended
            && stop.is(Nature::DiskFull)
        {
            // Keeping what was received would only keep the disk full.
            self.discard_partial(&run.job.file.key).await;
        }
        ended
    }

    async fn try_twice(&self, run: &Run<'_>) -> Result<Done, Stop> {
        let (promise, here) = self.admit(run).await?;
        match self.attempt(run, &promise, here, false).await {
            // A proxy may have changed the bytes, or the disk the spool of an earlier process:
            // fetch once more, from zero.
            Err(Stop::Failed {
                failure,
                doubtful: true,
                ..
            }) => {
                (run.note)(Note::Refetching(failure));
                self.discard_partial(&run.job.file.key).await;
                self.attempt(run, &promise, 0, true).await
            }
            ended => ended,
        }
    }

    /// One attempt: fetch, verify, unpack, publish.
    async fn attempt(
        &self,
        run: &Run<'_>,
        promise: &Arc<Promise>,
        here: u64,
        fresh: bool,
    ) -> Result<Done, Stop> {
        // The writes of a large archive are synced in the background while it arrives.
        let session = self
            .publisher
            .session(!self.config.is_small(run.job.file.size));
        let brought = self.bring(run, promise, here, fresh).await?;
        run.stage(Stage::Publish);
        self.publish(Ready::new(run, brought, session)).await
    }

    async fn publish(&self, ready: Ready) -> Result<Done, Stop> {
        let (publisher, now_ms) = (Arc::clone(&self.publisher), self.clock.now_ms());
        blocking(move || ready.publish(&publisher, now_ms)).await
    }

    /// Returns a version that needs no fetching: it was published before, or its damaged tree can
    /// be rebuilt from the retained archive.
    async fn without_fetching(&self, run: &Run<'_>) -> Result<Option<Done>, Stop> {
        // On a first start, no earlier process can have published it.
        if run.job.starts > 1
            && let Some(done) = self.already_published(run).await?
        {
            return Ok(Some(done));
        }
        match run.damaged {
            Some(content) => Ok(self.heal(run, content).await),
            None => Ok(None),
        }
    }

    /// Reserves the space the file will need, which may still be taken by trees that are being
    /// deleted.
    async fn admit(&self, run: &Run<'_>) -> Result<(Arc<Promise>, u64), Stop> {
        loop {
            // Asked first: what is deleted in between counts.
            let deleting = self.publisher.is_deleting();
            match self.promise(run).await {
                Err(stop) if deleting && stop.is(Nature::DiskFull) => {}
                promised => return promised,
            }
            let _own = run.deadline.pause();
            tokio::select! {
                () = run.cancel.cancelled() => return Err(Stop::Interrupted),
                () = tokio::time::sleep(DELETING) => {}
            }
        }
    }

    /// Reserves what the file needs at least: the rest of its archive, and a tree of about the same
    /// size. Also returns how much of the archive is here.
    async fn promise(&self, run: &Run<'_>) -> Result<(Arc<Promise>, u64), Stop> {
        let publisher = Arc::clone(&self.publisher);
        let size = run.job.file.size.unwrap_or(0);
        let partial = self.partial_path(&run.job.file.key);
        blocking(move || {
            let here = std::fs::metadata(partial).map_or(0, |m| m.len());
            let needed = size.saturating_mul(2).saturating_sub(here.min(size));
            let promise = publisher.space().promise(needed).map_err(Stop::publish)?;
            Ok((promise, here))
        })
        .await
    }

    /// Finds a version that is on disk but not recorded: an earlier process published it and ended
    /// before recording that. It is done and need not be fetched.
    async fn already_published(&self, run: &Run<'_>) -> Result<Option<Done>, Stop> {
        let publisher = Arc::clone(&self.publisher);
        let key = run.job.file.key.clone();
        let heal = run.damaged.is_some();
        let found = blocking(move || {
            publisher.sweep_key(&key).map_err(Stop::publish)?;
            if heal {
                Ok(None)
            } else {
                publisher.find(&key).map_err(Stop::publish)
            }
        })
        .await?;
        let Some(release) = found else {
            return Ok(None);
        };
        if let Some((what, published, pushed)) = run.job.file.difference(&release.head.source) {
            return Err(Stop::conflict(&run.job.file.key, what, published, pushed));
        }
        Ok(Some(Done {
            release,
            fetched: run.progress.snapshot().fetched,
            session: self.publisher.session(false),
        }))
    }

    /// Flips `current` to `live`, the version that `done` has published, and waits until everything
    /// is on disk. Only then may the outcome be recorded.
    pub async fn settle(&self, done: Done, live: Option<Key>) -> Result<Release, Stop> {
        let publisher = Arc::clone(&self.publisher);
        blocking(move || {
            if let Some(key) = live {
                publisher.activate(&key).map_err(Stop::publish)?;
            }
            publisher.settle(&done.session).map_err(Stop::publish)?;
            Ok(done.release)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn an_archive_of_small_bytes_is_small_and_one_byte_more_is_not() {
        let config = Config::default();
        let limit = config.small_bytes;
        for (size, small) in [
            (None, false),
            (Some(0), true),
            (Some(limit), true),
            (Some(limit + 1), false),
        ] {
            assert_eq!(config.is_small(size), small, "{size:?}");
        }
    }
}
