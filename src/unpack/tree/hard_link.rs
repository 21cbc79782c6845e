//! Further names of a file that is in the tree already.

use super::{LinkPlan, Model, NodeKind, ROOT, path_len};
use crate::unpack::error::{Reason, Refusal};
use crate::unpack::path::EntryPath;

/// Hard links per file: the limit of ext4, the lowest of the common file systems.
pub(super) const MAX_NAMES: u32 = 65_000;

impl Model {
    /// Adds a hard link to an existing file.
    pub(in crate::unpack) fn add_hard_link(
        &mut self,
        path: &EntryPath,
        target: &EntryPath,
    ) -> Result<LinkPlan, Refusal> {
        let (from_dir, content) = self.linkable(target)?;
        if target == path || target.as_bytes() == path.as_bytes() {
            return Err(Refusal::new(
                Reason::HardlinkBadTarget,
                "a hard link to itself",
            ));
        }
        let linked = &mut self.contents[content as usize];
        linked.names += 1;
        if linked.names > MAX_NAMES {
            return Err(Refusal::limit(
                Reason::LimitEntries,
                "max_entries",
                MAX_NAMES.into(),
                "more names of one file, which file systems cannot hold",
            ));
        }
        // Every further name of a file becomes an entry that also holds the first name, so both
        // count.
        linked.longest = linked.longest.max(path_len(path));
        self.name_bytes += u64::from(linked.longest);
        let (dir, replaces) = self.put(path, NodeKind::File { content })?;
        Ok(LinkPlan {
            from_dir,
            dir,
            replaces,
        })
    }

    /// Finds the regular file that a hard link names, through directories only.
    fn linkable(&self, target: &EntryPath) -> Result<(u32, u32), Refusal> {
        let bad = |detail| Err(Refusal::new(Reason::HardlinkBadTarget, detail));
        if target.is_root() {
            return bad("a hard link to a directory");
        }
        let mut dir = ROOT;
        let mut components = target.as_bytes().split(|b| *b == b'/').peekable();
        while let Some(name) = components.next() {
            let Some(id) = self.child(dir, name) else {
                return Err(Refusal::new(
                    Reason::HardlinkMissing,
                    "a hard link to a file that does not precede it in the archive",
                ));
            };
            let last = components.peek().is_none();
            match &self.nodes[id as usize].kind {
                NodeKind::Dir { .. } if last => return bad("a hard link to a directory"),
                NodeKind::Dir { .. } => dir = id,
                NodeKind::File { content } if last => return Ok((dir, *content)),
                NodeKind::File { .. } => return bad("a hard link through a file"),
                NodeKind::Symlink { .. } => {
                    return bad("a hard link to or through a symbolic link");
                }
            }
        }
        bad("a hard link to nothing")
    }
}
