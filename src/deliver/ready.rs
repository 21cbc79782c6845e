//! A verified file on its way to becoming a version: the result of fetching and unpacking, for a
//! push and for a repair alike.

use std::path::{Path, PathBuf};

use super::Done;
use super::failure::Stop;
use super::run::Run;
use crate::datafile::{ArchiveType, Key};
use crate::fetch::Spool;
use crate::publish::{Publisher, Record, Session, Staging};
use crate::sys::durable;
use crate::unpack::Tree;
use crate::verify::Verified;

/// The result of fetching, verifying and unpacking.
pub(super) struct Brought {
    pub(super) verified: Verified,
    pub(super) tree: (Staging, Tree),
    pub(super) archive: Archive,
    /// Bytes received over the network, earlier starts included.
    pub(super) fetched: u64,
}

/// A verified tree in staging, with everything needed to publish it.
pub(super) struct Ready {
    pub(super) key: Key,
    pub(super) archive_type: ArchiveType,
    pub(super) job: i64,
    pub(super) accepted_ms: i64,
    /// Whether it replaces a damaged tree.
    pub(super) heal: bool,
    pub(super) verified: Verified,
    pub(super) staging: Staging,
    pub(super) tree: Tree,
    /// `None` if the archive is already retained.
    pub(super) archive: Option<Archive>,
    pub(super) session: Session,
    pub(super) fetched: u64,
}

impl Ready {
    pub(super) fn new(run: &Run<'_>, brought: Brought, session: Session) -> Self {
        let file = &run.job.file;
        let (staging, tree) = brought.tree;
        Self {
            key: file.key.clone(),
            archive_type: file.archive_type,
            job: run.job.id.0,
            accepted_ms: run.job.accepted_ms,
            heal: run.damaged.is_some(),
            verified: brought.verified,
            staging,
            tree,
            archive: Some(brought.archive),
            session,
            fetched: brought.fetched,
        }
    }

    /// Publishes it as a version that is not live yet. Blocks.
    pub(super) fn publish(self, publisher: &Publisher, now_ms: i64) -> Result<Done, Stop> {
        let record = Record {
            key: &self.key,
            archive_type: self.archive_type,
            job: self.job,
            accepted_ms: self.accepted_ms,
            now_ms,
            entries: &self.tree.entries,
            heal: self.heal,
        };
        let mut archive = self.archive;
        let keep = |to: &Path| archive.take().map_or(Ok(()), |archive| archive.keep(to));
        let release = publisher
            .publish(self.staging, self.verified, &record, keep, &self.session)
            .map_err(Stop::publish)?;
        if let Some(archive) = archive {
            archive.discard().map_err(Stop::spool)?;
        }
        Ok(Done {
            release,
            fetched: self.fetched,
            session: self.session,
        })
    }
}

/// An archive as received, before it is retained or dropped.
pub(super) enum Archive {
    Spool(Box<Spool>),
    File(PathBuf),
}

impl Archive {
    fn keep(self, to: &Path) -> Result<(), durable::Error> {
        match self {
            Self::Spool(spool) => spool.persist(to),
            Self::File(path) => {
                durable::rename(&path, to)?;
                remove_meta(&path);
                Ok(())
            }
        }
    }

    fn discard(self) -> Result<(), durable::Error> {
        match self {
            Self::Spool(spool) => spool.discard(),
            Self::File(path) => {
                remove_meta(&path);
                std::fs::remove_file(&path).map_err(durable::at("remove", &path))
            }
        }
    }
}

/// Removes what an earlier start may have left beside an archive that was held in memory: it ended
/// before the first byte was written.
fn remove_meta(partial: &Path) {
    let _ = std::fs::remove_file(partial.with_extension("meta"));
}
