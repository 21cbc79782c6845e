//! The road of one data file: fetch, verify, unpack, publish.
//!
//! [`Road::run`] is the one place that knows all stations. A tar is hashed, inflated and written while it arrives; a zip
//! is spooled, verified and then unpacked. Whatever happens, the tree is written into a private staging directory that
//! removes itself, and nothing leaves it before size and digest have matched, the archive has been read to its end, and
//! the file system has been synced. If a run is dropped, the spool is left behind, and nothing else.

mod arrival;
mod failure;
mod frames;
mod heal;
mod partials;
mod small;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::datafile::{ArchiveType, Content, DataFile, Key};
use crate::fetch::{Fetcher, Identity, Request, Spool};
use crate::job::{Failure, Job, Stage};
use crate::progress::Progress;
use crate::publish::manifest::{Entry, EntryKind};
use crate::publish::space::Promise;
use crate::publish::{Publisher, Record, Release, Session, Staging};
use crate::sys::clock::Clock;
use crate::sys::{Live, durable};
use crate::unpack;
use crate::verify::{self, Hasher, Verified};

use frames::Budget;
use small::Workers;

use failure::Nature;
pub use failure::{KINDS, Stop};
pub use heal::{Damage, Rebuilt};

/// How the road treats what travels on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Bytes of an archive that may be under way between the socket and the threads that hash and unpack it.
    #[serde(with = "crate::sys::units::bytes")]
    pub queue_bytes: u64,
    /// Bytes of all archives together that may be under way so.
    #[serde(with = "crate::sys::units::bytes")]
    pub total_queue_bytes: u64,
    /// Below this length an archive is taken for a small one: it starts no background sync.
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

/// The stations, joined.
pub struct Road {
    fetcher: Arc<Fetcher>,
    publisher: Arc<Publisher>,
    unpack: Live<unpack::Config>,
    verify: Arc<Live<verify::Config>>,
    config: Config,
    clock: Arc<dyn Clock>,
    queues: Budget,
    spare_blocks: Arc<unpack::SpareBlocks>,
    workers: Workers,
}

/// One run: a job, and how to watch and stop it.
pub struct Run<'a> {
    /// What to publish.
    pub job: &'a Job,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// Ends the run at its next safe point.
    pub cancel: CancellationToken,
    /// When the file's time is up.
    pub deadline: Instant,
    /// Whether `file:` URLs may be read: a local push document only.
    pub allow_local: bool,
    /// What the version is made of that is there already, damaged, and to be exchanged.
    pub damaged: Option<Content>,
    /// Hears of what happens on the way.
    pub note: &'a (dyn Fn(Note) + Send + Sync),
}

/// What a run tells on its way, for the timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A station has started.
    Stage(Stage),
    /// The transfer goes on after so many bytes that are here already.
    Resumed(u64),
    /// The source failed for now, and is tried again.
    Retrying {
        /// Which attempt failed.
        attempt: u32,
        /// How long until the next one.
        wait: Duration,
        /// How it failed.
        failure: Failure,
    },
    /// What was here is void, and the transfer starts at zero.
    Restarted(String),
    /// The bytes were not the announced ones; they are fetched once more from zero.
    Refetching(Failure),
}

/// A published version, which is not live yet, and what it took.
pub struct Done {
    /// The version.
    pub release: Release,
    /// Bytes that came over the network, in earlier starts too.
    pub fetched: u64,
    session: Session,
}

impl Road {
    /// Joins the stations: where bytes come from and where trees go, what an archive may hold and a push must state.
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
            spare_blocks,
            workers,
        })
    }

    /// Changes what archives may hold and how they are unpacked, for each that is begun from now on. The sandbox stays as
    /// it was at the start: the threads are behind it.
    pub fn reload(&self, unpack: unpack::Config) {
        let sandbox = self.unpack.now().sandbox;
        self.unpack.replace(unpack::Config { sandbox, ..unpack });
    }

    /// Returns how the road treats what travels on it.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Brings one data file from its source to a published version. Blocking work is done on other threads.
    pub async fn run(&self, run: &Run<'_>) -> Result<Done, Stop> {
        self.verify
            .now()
            .require
            .check(&run.job.file.content())
            .map_err(Stop::verify)?;
        // A first start has no earlier life to look for.
        if run.job.starts > 1
            && let Some(done) = self.already_published(run).await?
        {
            return Ok(done);
        }
        if let Some(content) = run.damaged
            && let Some(done) = self.heal(run, content).await
        {
            return Ok(done);
        }
        let ended = self.bring(run).await;
        if let Err(stop) = &ended
            && stop.is(Nature::DiskFull)
        {
            // What was received would only keep the disk full.
            self.discard_partial(&run.job.file.key).await;
        }
        ended
    }

    async fn bring(&self, run: &Run<'_>) -> Result<Done, Stop> {
        let room = self.admit(run).await?;
        match self.attempt(run, &room, false).await {
            // A proxy may have mangled the bytes, or the disk the part that an earlier life left: once more from zero.
            Err(Stop::Failed {
                failure,
                doubtful: true,
                ..
            }) => {
                (run.note)(Note::Refetching(failure));
                self.attempt(run, &room, true).await
            }
            ended => ended,
        }
    }

    async fn attempt(&self, run: &Run<'_>, room: &Arc<Promise>, fresh: bool) -> Result<Done, Stop> {
        if run
            .job
            .file
            .size
            .is_some_and(|size| size <= self.config.small_bytes)
        {
            return self.run_small(run, room, fresh).await;
        }
        let session = self.publisher.session(true);
        let spool = self.open_spool(&run.job.file, fresh).await?;
        let Arrived {
            verified,
            mut spool,
            fetched,
            tree,
        } = self.fetch(run, room, spool, fresh).await?;
        let tree = match tree {
            Some(tree) => tree,
            None => self.unpack_spooled(run, room, &mut spool).await?,
        };
        let archive = Archive::Spool(spool.into());
        self.publish(Ready::new(run, verified, tree, archive, session, fetched))
            .await
    }

    /// Makes a version of what is ready, which is not live yet.
    async fn publish(&self, ready: Ready) -> Result<Done, Stop> {
        let publisher = Arc::clone(&self.publisher);
        let now_ms = self.clock.now_ms();
        blocking(move || {
            let entries = manifest_entries(ready.tree);
            let record = Record {
                key: &ready.key,
                archive_type: ready.archive_type,
                job: ready.job,
                accepted_ms: ready.accepted_ms,
                now_ms,
                entries: &entries,
                heal: ready.heal,
            };
            let (session, mut archive) = (ready.session, ready.archive);
            let keep = |to: &Path| archive.take().map_or(Ok(()), |archive| archive.keep(to));
            let release = publisher
                .publish(ready.staging, ready.verified, &record, keep, &session)
                .map_err(Stop::publish)?;
            if let Some(archive) = archive {
                archive.discard().map_err(Stop::spool)?;
            }
            Ok(Done {
                release,
                fetched: ready.fetched,
                session,
            })
        })
        .await
    }

    /// A version that is on the disk but not recorded was published by an earlier life of this process, which could not
    /// say so any more: it is done, and nothing is fetched again.
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

    /// Promises the room that the file will take at least: what is not here yet of its archive, and a tree of about the
    /// archive's size.
    async fn admit(&self, run: &Run<'_>) -> Result<Arc<Promise>, Stop> {
        let publisher = Arc::clone(&self.publisher);
        let size = run.job.file.size.unwrap_or(0);
        let partial = self.partial_path(&run.job.file.key);
        blocking(move || {
            let here = std::fs::metadata(partial).map_or(0, |m| m.len());
            let needed = size.saturating_mul(2).saturating_sub(here.min(size));
            publisher.space().promise(needed).map_err(Stop::publish)
        })
        .await
    }

    /// Where the bytes of a file arrive.
    fn partial_path(&self, key: &Key) -> std::path::PathBuf {
        let spool = self.publisher.layout().spool();
        spool.join(format!("{}.partial", spool_name(key)))
    }

    async fn open_spool(&self, file: &DataFile, fresh: bool) -> Result<Spool, Stop> {
        let dir = self.publisher.layout().spool();
        let (name, identity) = (
            spool_name(&file.key),
            Identity::new(&file.content(), &file.url),
        );
        blocking(move || {
            let mut spool = Spool::open(&dir, &name, &identity).map_err(Stop::spool)?;
            if fresh {
                spool.reset().map_err(Stop::spool)?;
            }
            Ok(spool)
        })
        .await
    }

    async fn unpack_spooled(
        &self,
        run: &Run<'_>,
        room: &Arc<Promise>,
        spool: &mut Spool,
    ) -> Result<(Staging, unpack::Tree), Stop> {
        run.stage(Stage::Unpack);
        let stopper = Stopper::new(run);
        let options = self.unpack_options(run, room, &stopper)?;
        let room_limit = self.room_limit(&options);
        let publisher = Arc::clone(&self.publisher);
        let file = spool.reader().map_err(Stop::spool)?;
        let (job, archive_type) = (run.job.id.0, run.job.file.archive_type);
        let unpacked = thread("unpack", move || {
            let staging = publisher.stage(job).map_err(Stop::publish)?;
            unpack_staged(staging, room_limit, |target| {
                unpack::unpack(archive_type, &file, target, &options)
            })
        });
        stopper.watch(unpacked).await
    }

    fn unpack_options(
        &self,
        run: &Run<'_>,
        room: &Arc<Promise>,
        stopper: &Stopper,
    ) -> Result<unpack::Options, Stop> {
        let config = self.unpack.now();
        let mut options = unpack::Options::new(&config);
        options.zip_name_encoding = config.zip_name_encoding_of(&run.job.file.key.app);
        let available = self.publisher.space().available().map_err(Stop::publish)?;
        // What was promised to this file is its own to use.
        let own = available.saturating_add(run.job.file.size.unwrap_or(0).saturating_mul(2));
        options.limits.max_total_bytes = options.limits.max_total_bytes.min(own);
        let (progress, room) = (Arc::clone(&run.progress), Arc::clone(room));
        options.on_written = Some(Arc::new(move |files, bytes| {
            progress.add_written(files, bytes);
            room.add_used(bytes);
        }));
        options.spare_blocks = Arc::clone(&self.spare_blocks);
        options.cancel = Arc::clone(&stopper.flag);
        if config.sandbox {
            options.sandbox = Some(self.publisher.layout().root().into());
        }
        Ok(options)
    }

    /// Returns the room of the disk, where it allows less than the configuration does.
    fn room_limit(&self, options: &unpack::Options) -> Option<u64> {
        let room = options.limits.max_total_bytes;
        (room < self.unpack.now().limits.max_total_bytes).then_some(room)
    }

    /// Flips `current` to `live`, which is what `done` has published, and waits until all of it is on the disk. Only then
    /// may its outcome be recorded.
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

impl Run<'_> {
    fn retrying(&self, attempt: u32, error: crate::fetch::Error, wait: Duration) {
        let failure = Stop::fetch(error).into_failure(Stage::Fetch);
        (self.note)(Note::Retrying {
            attempt,
            wait,
            failure,
        });
    }

    fn stage(&self, stage: Stage) {
        self.progress.set_stage(stage);
        (self.note)(Note::Stage(stage));
    }
}

/// Unpacks into a staging directory; `room_limit` as for [`Stop::unpack`].
fn unpack_staged(
    staging: Staging,
    room_limit: Option<u64>,
    unpack: impl FnOnce(unpack::Target) -> Result<unpack::Tree, unpack::Error>,
) -> Result<(Staging, unpack::Tree), Stop> {
    let target = unpack::Target::Directory(staging.open().map_err(Stop::publish)?);
    let tree = unpack(target).map_err(|e| Stop::unpack(&e, room_limit))?;
    Ok((staging, tree))
}

/// A verified tree in staging: all that a version is made of.
struct Ready {
    key: Key,
    archive_type: ArchiveType,
    job: i64,
    accepted_ms: i64,
    /// Whether it takes the place of a damaged tree.
    heal: bool,
    verified: Verified,
    staging: Staging,
    tree: unpack::Tree,
    /// The archive, unless it is kept already.
    archive: Option<Archive>,
    session: Session,
    fetched: u64,
}

impl Ready {
    fn new(
        run: &Run<'_>,
        verified: Verified,
        (staging, tree): (Staging, unpack::Tree),
        archive: Archive,
        session: Session,
        fetched: u64,
    ) -> Self {
        run.stage(Stage::Publish);
        let file = &run.job.file;
        Self {
            key: file.key.clone(),
            archive_type: file.archive_type,
            job: run.job.id.0,
            accepted_ms: run.job.accepted_ms,
            heal: run.damaged.is_some(),
            verified,
            staging,
            tree,
            archive: Some(archive),
            session,
            fetched,
        }
    }
}

/// An archive as received, until it is decided whether it is kept.
enum Archive {
    Spool(Box<Spool>),
    File(PathBuf),
}

impl Archive {
    fn keep(self, to: &Path) -> Result<(), durable::Error> {
        match self {
            Self::Spool(spool) => spool.persist(to),
            Self::File(path) => durable::rename(&path, to),
        }
    }

    fn discard(self) -> Result<(), durable::Error> {
        match self {
            Self::Spool(spool) => spool.discard(),
            Self::File(path) => std::fs::remove_file(&path).map_err(durable::at("remove", &path)),
        }
    }
}

/// Returns what to fetch for a run, after what is in `spool` already.
fn request(run: &Run<'_>, spool: Option<&Spool>, fresh: bool) -> Request {
    let file = &run.job.file;
    Request {
        url: file.url.clone(),
        app: file.key.app.clone(),
        size: file.size,
        offset: spool.map_or(0, Spool::len),
        validator: spool.and_then(Spool::validator).cloned(),
        deadline: run.deadline,
        cancel: run.cancel.clone(),
        proven: file.md5.is_some() || file.sha256.is_some(),
        from_origin: fresh,
        allow_local: run.allow_local,
        attempts: Arc::clone(run.progress.attempts()),
        fetched: Arc::clone(run.progress.fetched()),
    }
}

/// Returns what hashes the archive of `file`. One that is `kept` can be asked for its SHA-256 when somebody wants it.
fn hasher(file: &DataFile, kept: bool) -> Hasher {
    let hasher = Hasher::new(file.content());
    if kept { hasher } else { hasher.with_sha256() }
}

/// Returns the name of a file's spool: by key, so that a new push of a failed file finds what is here already.
fn spool_name(key: &Key) -> String {
    use sha2::Digest as _;
    let text = format!("{}\0{}\0{}", key.app, key.name, key.version);
    hex::encode(&sha2::Sha256::digest(text.as_bytes())[..16])
}

fn manifest_entries(tree: unpack::Tree) -> Vec<Entry> {
    let kind = |kind| match kind {
        unpack::EntryKind::Dir => EntryKind::Dir,
        unpack::EntryKind::File { size, sha256, .. } => EntryKind::File { size, sha256 },
        unpack::EntryKind::Symlink { target } => EntryKind::Symlink { target },
    };
    tree.entries
        .into_iter()
        .map(|e| Entry {
            path: e.path,
            kind: kind(e.kind),
            mode: e.mode,
            mtime: e.mtime.map(|m| m.secs),
        })
        .collect()
}

/// Stops blocking threads of a run that is canceled, out of time or dropped.
struct Stopper {
    flag: Arc<AtomicBool>,
    cancel: CancellationToken,
    deadline: Instant,
}

impl Stopper {
    fn new(run: &Run<'_>) -> Self {
        Self {
            flag: Arc::default(),
            cancel: run.cancel.clone(),
            deadline: run.deadline,
        }
    }

    /// Waits for `work`, and raises the flag when the run is to end before it.
    async fn watch<T>(&self, work: impl Future<Output = Result<T, Stop>>) -> Result<T, Stop> {
        tokio::pin!(work);
        let early = tokio::select! {
            result = &mut work => return result,
            () = self.cancel.cancelled() => Stop::Interrupted,
            () = tokio::time::sleep_until(self.deadline) => Stop::deadline(Stage::Unpack),
        };
        self.raise();
        // The thread looks at the flag between blocks; one that hangs in the kernel is left behind.
        match tokio::time::timeout(Duration::from_secs(2), work).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(_)) | Err(_) => Err(early),
        }
    }
}

impl Stopper {
    fn raise(&self) {
        self.flag.store(true, Ordering::Relaxed);
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.raise();
    }
}

/// Runs `work` on a thread of the blocking pool.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Stop> + Send + 'static,
) -> Result<T, Stop> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Stop::internal(e.to_string())))
}

/// Runs `work` on a thread of its own, which may put itself behind a wall for good.
async fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> Result<T, Stop> + Send + 'static,
) -> Result<T, Stop> {
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let _ = sender.send(work());
        })
        .map_err(|e| Stop::internal(format!("start a thread: {e}")))?;
    receiver
        .await
        .unwrap_or_else(|_| Err(Stop::internal(format!("the {name} thread panicked"))))
}

/// An archive that is here, whole and as announced.
struct Arrived {
    verified: Verified,
    spool: Spool,
    fetched: u64,
    /// The tree, where it was unpacked on the way.
    tree: Option<(Staging, unpack::Tree)>,
}
