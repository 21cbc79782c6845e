//! `edgepush agent`: the daemon.

use super::exit::{self, Error, Exit};
use super::{Global, log};
use crate::app;
use crate::sys::tasks;

/// Runs the agent until it is asked to stop.
pub(super) fn run(global: &Global) -> Result<Exit, Error> {
    // A core dump, or another process of this user, would read secrets.
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(hidden).map_err(std::io::Error::from)?;
    let log = log::AgentLog::open()?;
    let sources = global.sources();
    let loaded = sources.load()?;
    log.start(
        loaded.config.log.level,
        loaded.config.log.format,
        global.verbose,
    );
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let ended = runtime.block_on(tasks::guarded("agent", app::agent(loaded, sources)));
    // A thread that hangs in the kernel must not keep the process alive.
    runtime.shutdown_background();
    match ended {
        Ok(ended) => ended?,
        Err(tasks::Panicked) => return Err(Error::new(exit::FAILED, "the agent panicked")),
    }
    Ok(exit::DONE)
}
