//! `edgepush recover`: rebuilds the database from the disk, with the code that a start after an
//! unclean end runs.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{Error, Parts};
use crate::config::Config;
use crate::store;
use crate::sys::durable;

/// What a recovery did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovered {
    /// Versions that were on the disk and not in the database.
    pub entered: usize,
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
    let entered = parts.keep.recover().await?;
    parts.store.close().await;
    Ok(Recovered { entered, set_aside })
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
