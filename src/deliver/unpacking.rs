//! Unpacking for a run: into a staging directory of its own, within the room that the disk has.

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
    /// Unpacks an archive that is wholly in the spool.
    pub(super) async fn unpack_spooled(
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
        let unpacked = Thread::start("unpack", move || {
            let staging = publisher.stage(job).map_err(Stop::publish)?;
            unpack_staged(staging, room_limit, |target| {
                unpack::unpack(archive_type, &file, target, &options)
            })
        });
        stopper.watch(unpacked?.join()).await
    }

    /// Returns how the archive of a run is unpacked.
    pub(super) fn unpack_options(
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
    pub(super) fn room_limit(&self, options: &unpack::Options) -> Option<u64> {
        let room = options.limits.max_total_bytes;
        (room < self.unpack.now().limits.max_total_bytes).then_some(room)
    }
}

/// Unpacks into a staging directory; `room_limit` as for [`Stop::unpack`].
pub(super) fn unpack_staged(
    staging: Staging,
    room_limit: Option<u64>,
    unpack: impl FnOnce(unpack::Target) -> Result<unpack::Tree, unpack::Error>,
) -> Result<(Staging, unpack::Tree), Stop> {
    let target = unpack::Target::Directory(staging.open().map_err(Stop::publish)?);
    let tree = unpack(target).map_err(|e| Stop::unpack(&e, room_limit))?;
    Ok((staging, tree))
}
