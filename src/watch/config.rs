//! Configuration files that are changed, added or removed.

use std::path::PathBuf;
use std::time::Duration;

use notify::RecommendedWatcher;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::kernel::{Change, watch};

/// Time without another change after which a change has settled: editors and configuration
/// management write in several steps.
const SETTLED: Duration = Duration::from_millis(300);

/// Watches `dirs` until `drain`, and calls `changed` when a change has settled and `state` differs
/// from the last one. The first is `last`, taken when the files were read, so that a change before
/// the watch began is not missed. A directory may be created later.
pub async fn on_change<S: PartialEq>(
    dirs: Vec<PathBuf>,
    mut last: S,
    state: impl Fn() -> S,
    mut changed: impl FnMut(),
    drain: CancellationToken,
) {
    let (sender, mut changes) = mpsc::channel(16);
    let mut watchers = Vec::new();
    loop {
        // A directory may have come, gone or been replaced.
        watchers.clear();
        watchers.extend(watch_all(&dirs, &sender));
        let now = state();
        if now != last {
            last = now;
            changed();
        }
        tokio::select! {
            () = drain.cancelled() => return,
            Some(_) = changes.recv() => {}
        }
        while tokio::time::timeout(SETTLED, changes.recv())
            .await
            .is_ok_and(|c| c.is_some())
        {}
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

#[cfg(test)]
mod tests {
    use super::*;

    /// 1. The files are read. 2. One changes. 3. The watch begins: the kernel reports nothing.
    #[tokio::test]
    async fn a_change_between_the_read_and_the_watch_is_reported() {
        let drain = CancellationToken::new();
        let mut reported = 0;
        let changed = || {
            reported += 1;
            drain.cancel();
        };
        on_change(Vec::new(), "as read", || "changed", changed, drain.clone()).await;
        assert_eq!(reported, 1);
    }
}
