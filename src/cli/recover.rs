//! `edgepush recover`: rebuilds a lost database from the disk, while no agent runs.

use serde::Serialize;

use super::exit::{self, Error, Exit};
use super::out::{Out, printable};
use super::{Global, show};
use crate::app;
use crate::shown::model::Finding;

/// What `--json` prints.
#[derive(Serialize)]
struct Report {
    entered: usize,
    repaired: usize,
    findings: Vec<Finding>,
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
    let recovered = runtime.block_on(app::recover(&config))?;
    let set_aside = recovered.set_aside.map(|path| path.display().to_string());
    runtime.shutdown_background();
    if out.json {
        out.json(&Report {
            entered: recovered.entered,
            repaired: recovered.repaired,
            findings: recovered.findings,
            set_aside,
        })?;
    } else {
        if let Some(path) = set_aside {
            out.line(format!(
                "the database was damaged; it was moved to `{path}`"
            ))?;
        }
        let text = show::count(recovered.entered as u64, "version");
        out.line(format!("{text} entered from the disk"))?;
        if recovered.repaired > 0 {
            let text = show::count(recovered.repaired as u64, "version");
            out.line(format!("{text} repaired from kept archives"))?;
        }
        for found in &recovered.findings {
            out.line(printable(&format!("{}: {}", found.on, found.text)))?;
        }
    }
    Ok(exit::DONE)
}
