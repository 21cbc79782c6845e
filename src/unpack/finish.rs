//! Writes what has to wait until all members are known: symbolic links, which must not exist while
//! files are written, and the modes and times of directories, which change while entries are
//! created in them.

use std::os::fd::AsFd;

use rustix::fs::Mode;

use super::dirs::Dirs;
use super::error::Error;
use super::tree::{Model, NodeKind};
use super::write::{Modes, set_time, symlink};

/// Writes symbolic links, then directory modes and times. `made_with` holds the mode each directory
/// was created with, by node; a directory beyond its end may not exist yet and is created with its
/// final mode.
pub(super) fn finish(
    model: &Model,
    dirs: &mut Dirs,
    modes: Modes,
    made_with: &[u32],
) -> Result<(), Error> {
    let count = u32::try_from(model.nodes().len()).unwrap_or(u32::MAX);
    for id in 1..count {
        let node = model.node(id);
        if let NodeKind::Symlink { target, mtime } = &node.kind {
            let dir = dirs.get_or_make(model, node.parent)?;
            symlink(dir.as_fd(), &model.path(id), target, *mtime)?;
        }
    }
    // Deepest first: creating an entry changes the time of its directory.
    for id in (1..count).rev() {
        let node = model.node(id);
        let NodeKind::Dir { mode, mtime } = node.kind else {
            continue;
        };
        let with = made_with.get(id as usize).copied();
        if modes.dir_differs(with.unwrap_or(mode), mode) {
            let dir = dirs.get_or_make(model, id)?;
            rustix::fs::fchmod(&*dir, Mode::from_raw_mode(mode))
                .map_err(|e| Error::disk("set the mode of", &model.path(id), e.into()))?;
        } else if with.is_none() {
            dirs.get_or_make(model, id)?;
        }
        if let Some(mtime) = mtime {
            let parent = dirs.get_or_make(model, node.parent)?;
            set_time(parent.as_fd(), &node.name, mtime).map_err(|e| match e {
                Error::Disk { source, .. } => {
                    Error::disk("set the time of", &model.path(id), source)
                }
                other => other,
            })?;
        }
    }
    Ok(())
}
