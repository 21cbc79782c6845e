//! `edgepush recover`: rebuilds a lost database from the disk, while no agent runs.

use serde::Serialize;

use super::exit::{self, Error, Exit};
use super::out::Out;
use super::{Global, show};
use crate::app;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    entered: usize,
    set_aside: Option<String>,
}

/// Runs the command.
pub(super) fn run(global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let config = global.load()?.config;
    if !config.data_dir.is_dir() {
        let text = format!("data directory `{}` not found", config.data_dir.display());
        return Err(Error::new(exit::NOT_FOUND, text));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let app::Recovered { entered, set_aside } = runtime.block_on(app::recover(&config))?;
    let set_aside = set_aside.map(|path| path.display().to_string());
    runtime.shutdown_background();
    if out.json {
        out.json(&Report { entered, set_aside })?;
    } else {
        if let Some(path) = set_aside {
            out.line(format!(
                "the database was damaged; it was moved to `{path}`"
            ))?;
        }
        let text = show::count(entered as u64, "version");
        out.line(format!("{text} entered from the disk"))?;
    }
    Ok(exit::DONE)
}
