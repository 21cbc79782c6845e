//! Small archives are held in memory, and hashed and unpacked in one step by a shared pool: for a
//! few kilobytes, passing them between threads would cost more than the work (W5 in
//! `docs/performance.md`).

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use bytes::{Buf, Bytes};

use super::Road;
use super::failure::Stop;
use super::held::Held;
use super::ready::{Archive, Brought};
use super::run::{Run, hasher};
use super::threads::Stopper;
use super::unpacking::unpack_staged;
use crate::datafile::DataFile;
use crate::fetch::Source;
use crate::job::Stage;
use crate::publish::Staging;
use crate::publish::space::Promise;
use crate::sys::{durable, landlock, tasks};
use crate::unpack::{self, Tree};
use crate::verify::Verified;

/// Archives that may be queued for a worker.
const QUEUE: usize = 64;

impl Road {
    /// Verifies and unpacks a small archive that `source` has brought into memory.
    pub(super) async fn unpack_held(
        &self,
        run: &Run<'_>,
        promise: &Arc<Promise>,
        held: Held,
        source: &Source,
    ) -> Result<Brought, Stop> {
        let (frames, _room) = held.into_frames();
        run.stage(Stage::Verify);
        let stopper = Stopper::new(run);
        let mut options = self.unpack_options(run, promise, &stopper)?;
        let space_limit = self.space_limit(&options);
        // Another thread does not pay off for a few files.
        options.threads = false;
        let (publisher, file, job) = (
            Arc::clone(&self.publisher),
            run.job.file.clone(),
            run.job.id.0,
        );
        let spool = self.partial_path(&file.key);
        let suspicion = source.suspicion();
        let kept = self.publisher.keeps_archives();
        let unpacked = self.workers.run(move || {
            let verified =
                hash(&file, &frames, kept).map_err(|stop| stop.doubted(suspicion.as_ref()))?;
            let unpacked = publisher
                .stage(&file.key, job)
                .map_err(Stop::publish)
                .and_then(|staging| {
                    unpack_here(&file, frames, &spool, staging, options, space_limit)
                });
            match unpacked {
                Ok(tree) => Ok((verified, tree, spool)),
                Err(stop) => {
                    let _ = std::fs::remove_file(&spool);
                    Err(stop.explained(suspicion.as_ref()))
                }
            }
        });
        let (verified, tree, spool): (Verified, (Staging, Tree), PathBuf) =
            stopper.watch(unpacked).await?;
        Ok(Brought {
            verified,
            tree,
            archive: Archive::File(spool),
            fetched: source.fetched(),
        })
    }
}

fn hash(file: &DataFile, frames: &VecDeque<Bytes>, kept: bool) -> Result<Verified, Stop> {
    let mut hasher = hasher(file, kept);
    for frame in frames {
        hasher.update(frame);
    }
    hasher.finish().map_err(Stop::verify)
}

/// Writes the archive to `spool`, to be retained from there, and its tree into `staging`: on this
/// thread, which is confined to the data directory already, or on one of its own if
/// it is to be confined further: a worker goes on with other archives.
fn unpack_here(
    file: &DataFile,
    frames: VecDeque<Bytes>,
    spool: &Path,
    staging: Staging,
    mut options: unpack::Options,
    space_limit: Option<u64>,
) -> Result<(Staging, Tree), Stop> {
    // The spool is outside of what such a thread may write to.
    let archive = write(spool, &frames).map_err(|e| Stop::spool(durable::at("write", spool)(e)))?;
    if staging.wrapper().is_none() || options.sandbox.is_none() {
        options.sandbox = None;
        return unpack(file, frames, archive, staging, options, space_limit);
    }
    std::thread::scope(|scope| {
        let confined = scope.spawn(|| unpack(file, frames, archive, staging, options, space_limit));
        let ended = confined.join();
        ended.unwrap_or_else(|_| Err(Stop::internal("a thread has panicked".to_owned())))
    })
}

fn unpack(
    file: &DataFile,
    frames: VecDeque<Bytes>,
    archive: std::fs::File,
    staging: Staging,
    options: unpack::Options,
    space_limit: Option<u64>,
) -> Result<(Staging, Tree), Stop> {
    let archive_type = file.archive_type;
    unpack_staged(staging, options, space_limit, |target, options| {
        if archive_type.is_streamable() {
            unpack::unpack_stream(archive_type, Frames(frames), target, options)
        } else {
            unpack::unpack(archive_type, &archive, target, options)
        }
    })
}

fn write(spool: &Path, frames: &VecDeque<Bytes>) -> io::Result<std::fs::File> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(spool)?;
    for frame in frames {
        file.write_all(frame)?;
    }
    Ok(file)
}

/// An archive in memory, read frame by frame.
struct Frames(VecDeque<Bytes>);

impl BufRead for Frames {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.0.front().is_some_and(Bytes::is_empty) {
            self.0.pop_front();
        }
        Ok(self.0.front().map_or(&[], |frame| frame))
    }

    fn consume(&mut self, amount: usize) {
        if let Some(frame) = self.0.front_mut() {
            frame.advance(amount);
        }
    }
}

impl Read for Frames {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let n = available.len().min(buffer.len());
        buffer[..n].copy_from_slice(&available[..n]);
        self.consume(n);
        Ok(n)
    }
}

type Work = Box<dyn FnOnce() + Send>;

/// The pool for small archives. Its threads confine themselves to the data directory once, which
/// saves a new thread per archive.
pub(super) struct Workers(mpsc::SyncSender<Work>);

impl Workers {
    /// Starts `count` workers. With `confined`, they can only write below `root`, if the kernel
    /// supports that.
    pub(super) fn start(count: usize, root: &Path, confined: bool) -> io::Result<Self> {
        let (sender, receiver) = mpsc::sync_channel::<Work>(QUEUE);
        let receiver = Arc::new(Mutex::new(receiver));
        for _ in 0..count.max(1) {
            let (receiver, root) = (Arc::clone(&receiver), root.to_owned());
            std::thread::Builder::new()
                .name("small".to_owned())
                .spawn(move || {
                    if confined {
                        // Best effort: `doctor` and the agent's log report what the kernel
                        // supports.
                        let _ = landlock::restrict_thread(&[&root]);
                    }
                    loop {
                        let work = receiver
                            .lock()
                            .unwrap_or_else(PoisonError::into_inner)
                            .recv();
                        let Ok(work) = work else { return };
                        // A panic fails only this file: its sender is dropped with the closure.
                        let _ = tasks::guarded_here("small", work);
                    }
                })?;
        }
        Ok(Self(sender))
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, Stop> + Send + 'static,
    ) -> Result<T, Stop> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let mut work: Work = Box::new(move || drop(sender.send(work())));
        loop {
            match self.0.try_send(work) {
                Ok(()) => break,
                Err(mpsc::TrySendError::Full(same)) => work = same,
                Err(mpsc::TrySendError::Disconnected(_)) => {
                    return Err(Stop::internal(
                        "the workers for small archives have ended".to_owned(),
                    ));
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        receiver.await.unwrap_or_else(|_| {
            Err(Stop::internal(
                "a worker for small archives panicked".to_owned(),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_one_works_failure() {
        let dir = tempfile::tempdir().unwrap();
        let workers = Workers::start(1, dir.path(), false).unwrap();
        let panicked = workers
            .run(|| -> Result<(), Stop> { panic!("on purpose") })
            .await;
        assert!(matches!(panicked, Err(Stop::Failed { .. })));
        assert_eq!(workers.run(|| Ok(7)).await.unwrap(), 7);
    }

    #[test]
    fn reads_frames_as_one_stream() {
        let frames = ["", "ab", "", "cde", ""].map(|t| Bytes::from_static(t.as_bytes()));
        let mut text = String::new();
        Frames(frames.into_iter().collect())
            .read_to_string(&mut text)
            .unwrap();
        assert_eq!(text, "abcde");
    }
}
