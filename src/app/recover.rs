//! `edgepush recover`: rebuilds the database from the disk, with the code that every start runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use tokio_util::sync::CancellationToken;

use super::{Error, Parts};
use crate::config::Config;
use crate::shown::model::Finding;
use crate::store;
use crate::sys::durable;

/// What a recovery did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Versions that were on the disk and not in the database.
    pub entered: usize,
    /// Versions that were missing or damaged and were repaired from their archives.
    pub repaired: usize,
    /// What was found, and what is left to do.
    pub findings: Vec<Finding>,
    /// Where a damaged database was moved to.
    pub set_aside: Option<PathBuf>,
}

/// Enters every version that is on the disk and not in the database. A damaged database is moved
/// aside first. Fails while an agent uses the directory.
pub async fn recover(config: &Config) -> Result<Recovered, Error> {
    let theirs = config.clone();
    let (parts, set_aside) = tokio::task::spawn_blocking(move || build(&theirs))
        .await
        .map_err(|e| Error::Other(e.to_string()))??;
    let stop = CancellationToken::new();
    let found = parts.keep.recover(&stop).await?;
    let repaired = parts.keep.repair(&found, &stop).await?;
    let recovered = Recovered {
        entered: found.entered.len(),
        repaired,
        findings: parts.keep.findings(),
        set_aside,
    };
    parts.store.close().await;
    Ok(recovered)
}

fn build(config: &Config) -> Result<(Parts, Option<PathBuf>), Error> {
    match Parts::build(config, false) {
        Err(Error::Store(store::Error::Damaged { path, .. })) => {
            let aside = set_aside(&path)?;
            Ok((Parts::build(config, false)?, Some(aside)))
        }
        built => Ok((built?, None)),
    }
}

/// Moves a database and its journal to an unused name.
fn set_aside(path: &Path) -> Result<PathBuf, Error> {
    let with = |end: &str| {
        let mut name = OsString::from(path);
        name.push(end);
        PathBuf::from(name)
    };
    let aside = (1..)
        .map(|n| format!(".damaged-{n}"))
        .find(|end| std::fs::symlink_metadata(with(end)).is_err())
        .unwrap_or_default();
    // The database itself goes last: until then another attempt finds the same.
    for part in ["-shm", "-wal", ""] {
        let (from, to) = (with(part), with(&format!("{aside}{part}")));
        if std::fs::symlink_metadata(&from).is_ok() {
            durable::rename_no_replace(&from, &to)?;
        }
    }
    durable::sync_parent(path)?;
    Ok(with(&aside))
}
