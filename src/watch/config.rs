//! Configuration files that change, come or go.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use notify::RecommendedWatcher;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::kernel::{Change, watch};

/// Time without another change after which a change has settled: editors and configuration management write in several
/// steps.
const SETTLED: Duration = Duration::from_millis(300);

/// Watches the files that `list` names, in `dirs`, and calls `changed` after a change has settled, until `drain`. A file that
/// is new or gone is a change too, and so is a directory of them that was not there at first.
pub async fn on_change(
    dirs: Vec<PathBuf>,
    list: impl Fn() -> Vec<PathBuf>,
    mut changed: impl FnMut(),
    drain: CancellationToken,
) {
    let (sender, mut changes) = mpsc::channel(16);
    let mut watchers = watch_all(&dirs, &sender);
    let mut last = stamps(list());
    loop {
        tokio::select! {
            () = drain.cancelled() => return,
            Some(_) = changes.recv() => {}
        }
        while tokio::time::timeout(SETTLED, changes.recv())
            .await
            .is_ok_and(|c| c.is_some())
        {}
        // A directory may have come, gone or been replaced.
        watchers.clear();
        watchers.extend(watch_all(&dirs, &sender));
        let now = stamps(list());
        if now != last {
            last = now;
            changed();
        }
    }
}

fn watch_all(dirs: &[PathBuf], sender: &mpsc::Sender<Change>) -> Vec<RecommendedWatcher> {
    let watched = |dir: &PathBuf| {
        watch(dir, sender.clone())
            .inspect_err(|error| {
                tracing::warn!(event = "watch-failed", path = %dir.display(), %error, "cannot watch a directory of the configuration");
            })
            .ok()
    };
    dirs.iter()
        .filter(|dir| dir.is_dir())
        .filter_map(watched)
        .collect()
}

/// What tells one content of a file from the next.
type Stamp = (SystemTime, u64, u64);

fn stamps(files: Vec<PathBuf>) -> Vec<(PathBuf, Option<Stamp>)> {
    let stamp = |path: PathBuf| {
        let stamp = fs::metadata(&path)
            .and_then(|m| Ok((m.modified()?, m.len(), m.ino())))
            .ok();
        (path, stamp)
    };
    files.into_iter().map(stamp).collect()
}
