//! Fetches a large archive: while bytes arrive, one thread hashes them, a second writes them to the
//! spool and, for a tar, a third unpacks them.

use std::sync::Arc;

use super::Road;
use super::failure::Stop;
use super::pass::Pass;
use super::run::{Note, Run, request};
use super::threads::blocking;
use crate::fetch::{Source, Spool};
use crate::job::Stage;
use crate::publish::Staging;
use crate::publish::space::Promise;
use crate::unpack::Tree;
use crate::verify::Verified;

/// A completely received and verified archive.
pub(super) struct Arrived {
    pub(super) verified: Verified,
    pub(super) spool: Spool,
    pub(super) fetched: u64,
    /// The tree, if it was unpacked while bytes arrived.
    pub(super) tree: Option<(Staging, Tree)>,
}

/// Result of a pass.
enum Passed {
    Whole(Box<Arrived>),
    /// The source restarted at zero, so nothing received so far is valid.
    Void(Box<Spool>),
}

impl Road {
    /// Fetches, hashes and, for a tar, unpacks; returns once the archive is complete and verified.
    pub(super) async fn fetch(
        &self,
        run: &Run<'_>,
        promise: &Arc<Promise>,
        mut spool: Spool,
        fresh: bool,
    ) -> Result<Arrived, Stop> {
        run.stage(Stage::Fetch);
        if !spool.is_empty() {
            (run.note)(Note::Resumed(spool.len()));
        }
        let mut source = self.fetcher.open(request(run, Some(&spool), fresh));
        loop {
            match self.pass(run, promise, &mut source, spool).await? {
                Passed::Whole(arrived) => return Ok(*arrived),
                Passed::Void(same) => spool = *same,
            }
        }
    }

    /// Passes over the archive once from its first byte: first the spooled part, then what arrives.
    async fn pass(
        &self,
        run: &Run<'_>,
        promise: &Arc<Promise>,
        source: &mut Source,
        spool: Spool,
    ) -> Result<Passed, Stop> {
        run.progress.reset_written();
        promise.reset_used();
        let mut pass = self.start_pass(run, promise, spool)?;
        match follow(&mut pass, run, promise, source).await {
            Ok(Some((verified, tree))) => Ok(Passed::Whole(Box::new(Arrived {
                verified,
                spool: pass.into_spool()?,
                fetched: source.fetched(),
                tree,
            }))),
            Ok(None) => {
                let mut spool = pass.into_spool()?;
                let reset = move || spool.reset().map(|()| spool).map_err(Stop::spool);
                Ok(Passed::Void(blocking(reset).await?.into()))
            }
            Err(stop) => Err(pass.abandon(stop).await),
        }
    }
}

type Proven = (Verified, Option<(Staging, Tree)>);

/// Runs a pass to its end and returns proof and tree; `None` if the source restarted at zero.
async fn follow(
    pass: &mut Pass,
    run: &Run<'_>,
    promise: &Arc<Promise>,
    source: &mut Source,
) -> Result<Option<Proven>, Stop> {
    pass.replay(run).await?;
    if !pass.receive(run, promise, source).await? {
        pass.break_off().await?;
        return Ok(None);
    }
    let hasher = pass.close(true).await?;
    run.stage(Stage::Verify);
    let suspicion = source.suspicion();
    let verified = blocking(move || hasher.finish().map_err(Stop::verify))
        .await
        .map_err(|stop| stop.doubted(suspicion.as_deref()))?;
    if run.job.file.archive_type.is_streamable() {
        run.stage(Stage::Unpack);
    }
    let tree = pass
        .tree()
        .await
        .map_err(|stop| stop.explained(suspicion.as_deref()))?;
    Ok(Some((verified, tree)))
}
