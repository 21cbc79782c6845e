//! `edgepush recover`: the database is rebuilt from what is on the disk, by the same code as at a start after an unclean
//! end.

use super::{Error, Parts};
use crate::config::Config;

/// Enters every version that is on the disk and not in the database, and returns how many those were. Fails while an
/// agent works in the directory.
pub async fn recover(config: &Config) -> Result<usize, Error> {
    let theirs = config.clone();
    let parts = tokio::task::spawn_blocking(move || Parts::build(&theirs, false))
        .await
        .map_err(|e| Error::Other(e.to_string()))??;
    let entered = parts.runner.recover().await?;
    parts.store.close().await;
    Ok(entered)
}
