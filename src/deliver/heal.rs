//! Repairs a damaged version without a download: it is unpacked again from its retained archive,
//! provided that still has the recorded size and digests.

use std::fs::File;
use std::io::{self, Seek};
use std::sync::Arc;

use super::failure::Stop;
use super::ready::Ready;
use super::run::Run;
use super::threads::Thread;
use super::unpacking::unpack_staged;
use super::{Done, Road};
use crate::datafile::{ArchiveType, Content, Key};
use crate::publish::{Publisher, Staging};
use crate::sys::durable;
use crate::unpack::{self, Tree};
use crate::verify::{Hasher, Verified};

/// A damaged version, and what is recorded of it.
#[derive(Debug, Clone)]
pub struct Damage {
    pub key: Key,
    pub archive_type: ArchiveType,
    /// Size and digests of its archive.
    pub content: Content,
    /// In its tree.
    pub bytes: u64,
    /// The job that published it.
    pub job: i64,
    /// When that job was accepted.
    pub accepted_ms: i64,
}

/// A complete tree, unpacked from a retained archive and not yet in place.
pub struct Rebuilt(Ready);

impl Road {
    /// Unpacks the retained archive of a damaged version. `None` if no archive is retained, or it
    /// no longer matches its digests.
    pub async fn rebuild(&self, damage: Damage) -> Result<Option<Rebuilt>, Stop> {
        let publisher = Arc::clone(&self.publisher);
        let config = self.unpack.now();
        let mut options = unpack::Options::new(&config);
        if config.sandbox {
            options.sandbox = Some(publisher.layout().root().into());
        }
        Thread::start("repair", move || {
            let path = publisher.layout().archive(&damage.key);
            let mut file = match File::open(&path) {
                Ok(file) => file,
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(e) => return Err(Stop::spool(durable::at("open", &path)(e))),
            };
            let Some(verified) = hash(&mut file, damage.content)
                .map_err(|e| Stop::spool(durable::at("read", &path)(e)))?
            else {
                return Ok(None);
            };
            let _room = publisher
                .space()
                .promise(damage.bytes)
                .map_err(Stop::publish)?;
            let session = publisher.session(false);
            let (staging, tree) = unpack_into(&publisher, &damage, file, options)?;
            Ok(Some(Rebuilt(Ready {
                key: damage.key,
                archive_type: damage.archive_type,
                job: damage.job,
                accepted_ms: damage.accepted_ms,
                heal: true,
                verified,
                staging,
                tree,
                archive: None,
                session,
                fetched: 0,
            })))
        })?
        .join()
        .await
    }

    /// Replaces the damaged tree with the rebuilt one in one step, and waits until that is durable.
    pub async fn replace(&self, rebuilt: Rebuilt) -> Result<(), Stop> {
        let done = self.publish(rebuilt.0).await?;
        self.settle(done, None).await.map(drop)
    }

    /// Repairs the version of a run from its retained archive, if there is one: pushing again what
    /// is already here needs no network.
    pub(super) async fn heal(&self, run: &Run<'_>, content: Content) -> Option<Done> {
        let file = &run.job.file;
        let damage = Damage {
            key: file.key.clone(),
            archive_type: file.archive_type,
            content,
            bytes: content.size.unwrap_or(0),
            job: run.job.id.0,
            accepted_ms: run.job.accepted_ms,
        };
        let healed = match self.rebuild(damage).await {
            Ok(None) => return None,
            Ok(Some(rebuilt)) => self.publish(rebuilt.0).await,
            Err(stop) => Err(stop),
        };
        match healed {
            Ok(done) => Some(done),
            Err(stop) => {
                let failure = stop.into_failure(crate::job::Stage::Publish);
                tracing::warn!(
                    event = "heal-failed",
                    error = failure.in_full(),
                    "could not repair the version from its retained archive; fetching it again"
                );
                None
            }
        }
    }
}

/// Hashes a retained archive; `None` if it differs from what was received, or nothing is recorded
/// to compare it with.
fn hash(file: &mut File, content: Content) -> io::Result<Option<Verified>> {
    if content.md5.is_none() && content.sha256.is_none() {
        return Ok(None);
    }
    let hasher = Hasher::new(content).read(&mut *file)?;
    file.rewind()?;
    Ok(hasher.finish().ok())
}

fn unpack_into(
    publisher: &Publisher,
    damage: &Damage,
    file: File,
    options: unpack::Options,
) -> Result<(Staging, Tree), Stop> {
    let staging = (publisher.stage(&damage.key, damage.job)).map_err(Stop::publish)?;
    unpack_staged(staging, options, None, |target, options| {
        unpack::unpack(damage.archive_type, &file, target, options)
    })
}
