//! Unpacks for a run: into its own staging directory, within the free space of the disk. The tree
//! stays in staging until it is published.

use std::sync::Arc;

use super::Road;
use super::failure::Stop;
use super::run::Run;
use super::threads::{Stopper, Thread};
use crate::fetch::Spool;
use crate::job::Stage;
use crate::publish::Staging;
use crate::publish::space::Promise;
use crate::unpack;

impl Road {
    /// Unpacks an archive that is completely in the spool.
    pub(super) async fn unpack_spooled(
        &self,
        run: &Run<'_>,
        promise: &Arc<Promise>,
        spool: &mut Spool,
    ) -> Result<(Staging, unpack::Tree), Stop> {
        run.stage(Stage::Unpack);
        let stopper = Stopper::new(run);
        let options = self.unpack_options(run, promise, &stopper)?;
        let space_limit = self.space_limit(&options);
        let publisher = Arc::clone(&self.publisher);
        let file = spool.reader().map_err(Stop::spool)?;
        let (job, key) = (run.job.id.0, run.job.file.key.clone());
        let archive_type = run.job.file.archive_type;
        let unpacked = Thread::start("unpack", move || {
            let staging = publisher.stage(&key, job).map_err(Stop::publish)?;
            unpack_staged(staging, options, space_limit, |target, options| {
                unpack::unpack(archive_type, &file, target, options)
            })
        });
        stopper.watch(unpacked?.join()).await
    }

    /// Returns the unpacking options of a run.
    pub(super) fn unpack_options(
        &self,
        run: &Run<'_>,
        promise: &Arc<Promise>,
        stopper: &Stopper,
    ) -> Result<unpack::Options, Stop> {
        let config = self.unpack.now();
        let mut options = unpack::Options::new(&config);
        options.zip_name_encoding = config.zip_name_encoding_of(&run.job.file.key.app);
        let available = self.publisher.space().available().map_err(Stop::publish)?;
        // What is reserved for this file counts as available to it.
        let own = available.saturating_add(run.job.file.size.unwrap_or(0).saturating_mul(2));
        options.limits.max_total_bytes = options.limits.max_total_bytes.min(own);
        let (progress, promise) = (Arc::clone(&run.progress), Arc::clone(promise));
        options.on_written = Some(Arc::new(move |files, bytes| {
            progress.add_written(files, bytes);
            promise.add_used(bytes);
        }));
        options.spare_blocks = Arc::clone(&self.spare_blocks);
        options.memory = Some(Arc::clone(&self.entries));
        options.cancel = Arc::clone(&stopper.flag);
        if config.sandbox {
            options.sandbox = Some(self.publisher.layout().root().into());
        }
        Ok(options)
    }

    /// Returns the free space of the disk, if that is lower than the configured limit.
    pub(super) fn space_limit(&self, options: &unpack::Options) -> Option<u64> {
        let limit = options.limits.max_total_bytes;
        (limit < self.unpack.now().limits.max_total_bytes).then_some(limit)
    }
}

/// Unpacks into a staging directory; `space_limit` as for [`Stop::unpack`]. This thread stays
/// confined to the sandbox of the options for good, and to the staging directory alone if the tree
/// inherits from where it will be published.
pub(super) fn unpack_staged(
    staging: Staging,
    mut options: unpack::Options,
    space_limit: Option<u64>,
    unpack: impl FnOnce(unpack::Target, &unpack::Options) -> Result<unpack::Tree, unpack::Error>,
) -> Result<(Staging, unpack::Tree), Stop> {
    let target = unpack::Target::Directory(staging.open().map_err(Stop::publish)?);
    if let Some(wrapper) = staging.wrapper() {
        options.inherits = true;
        options.sandbox = options.sandbox.map(|_| wrapper.into());
    }
    let tree = unpack(target, &options).map_err(|e| Stop::unpack(&e, space_limit))?;
    Ok((staging, tree))
}
