//! `edgepush agent`: the daemon.

use super::exit::{self, Error, Exit};
use super::{Global, log};
use crate::app;

/// Runs the agent until it is asked to stop.
pub(super) fn run(global: &Global) -> Result<Exit, Error> {
    let sources = global.sources();
    let loaded = sources.load()?;
    log::start(
        loaded.config.log.level,
        loaded.config.log.format,
        global.verbose,
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(app::agent(loaded, sources));
    // A thread that hangs in the kernel must not keep the process alive.
    runtime.shutdown_background();
    ended?;
    Ok(exit::DONE)
}
