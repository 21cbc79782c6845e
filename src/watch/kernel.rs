//! Changes in a directory, as the kernel reports them.

use std::path::{Path, PathBuf};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// A change that the kernel reported.
pub(super) enum Change {
    /// A writer has closed the file, or it was moved in.
    Closed(PathBuf),
    /// Something else.
    Other,
}

/// Watches a directory for as long as the watcher is held.
pub(super) fn watch(
    dir: &Path,
    sender: mpsc::Sender<Change>,
) -> notify::Result<RecommendedWatcher> {
    use notify::event::{AccessKind, AccessMode, ModifyKind, RenameMode};
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let Ok(event) = event else { return };
        let closed = matches!(
            event.kind,
            EventKind::Access(AccessKind::Close(AccessMode::Write))
                | EventKind::Modify(ModifyKind::Name(RenameMode::To))
        );
        if !closed && matches!(event.kind, EventKind::Access(_)) {
            return;
        }
        for path in event.paths {
            // A full queue loses a hint, never a document: each hint makes the whole directory be
            // scanned.
            let _ = sender.try_send(if closed {
                Change::Closed(path)
            } else {
                Change::Other
            });
        }
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
