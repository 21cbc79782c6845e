//! `edgepush recover`: rebuilds a lost database from the disk, while no agent runs.

use serde::Serialize;

use super::exit::{self, Error, Exit};
use super::out::Out;
use super::{Global, show};
use crate::app;

/// What `--json` prints.
#[derive(Serialize)]
struct Recovered {
    entered: usize,
}

/// Runs the command.
pub(super) fn run(global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let config = global.load()?.config;
    if !config.data_dir.is_dir() {
        let text = format!("there is no data directory `{}`", config.data_dir.display());
        return Err(Error::new(exit::NOT_FOUND, text));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let entered = runtime.block_on(app::recover(&config))?;
    runtime.shutdown_background();
    if out.json {
        out.json(&Recovered { entered })?;
    } else {
        let text = show::count(entered as u64, "version");
        out.line(format!("{text} entered from the disk"))?;
    }
    Ok(exit::DONE)
}
