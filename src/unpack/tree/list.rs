//! The finished model as the list of what is there.

use std::sync::Arc;

use super::{Content, Model, Node, NodeKind, Tree};
use crate::datafile::tree::{Entry, EntryKind};

impl Model {
    /// Turns the model into the list of entries.
    pub(in crate::unpack) fn into_tree(self) -> Tree {
        let paths = self.paths();
        let first = self.first_names();
        let link_to = self.hard_links(&first, &paths);
        let files = self.nodes.iter().filter(|node| node.is_file()).count() as u64;
        let bytes = self
            .contents
            .iter()
            .zip(&first)
            .filter(|(_, first)| first.is_some())
            .map(|(content, _)| content.size)
            .sum();
        let (contents, share) = (self.contents, self.share.map(Arc::new));
        let mut link_to = link_to.into_iter().peekable();
        let mut entries: Vec<Entry> = (0..)
            .zip(self.nodes.into_iter().zip(paths))
            .skip(1)
            .map(|(id, (node, path))| {
                let link_to = link_to.next_if(|(of, _)| *of == id).map(|(_, path)| path);
                node.into_entry(path, &contents, link_to)
            })
            .collect();
        // No two paths are equal, and an unstable sort needs no extra memory.
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Tree {
            entries,
            files,
            bytes,
            share,
        }
    }

    /// Returns the path of every node.
    fn paths(&self) -> Vec<Vec<u8>> {
        let mut paths: Vec<Vec<u8>> = Vec::with_capacity(self.nodes.len());
        for node in &self.nodes {
            // A directory precedes its contents, so the parent's path is known; the root's is
            // empty.
            let parent = paths.get(node.parent as usize).map_or(&[][..], |p| p);
            let mut path = Vec::with_capacity(parent.len() + 1 + node.name.len());
            path.extend_from_slice(parent);
            if !parent.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&node.name);
            paths.push(path);
        }
        paths
    }

    /// Returns, for each content, the first node that refers to it.
    fn first_names(&self) -> Vec<Option<u32>> {
        let mut first = vec![None; self.contents.len()];
        for (id, node) in (0..).zip(&self.nodes) {
            if let NodeKind::File { content } = node.kind {
                first[content as usize].get_or_insert(id);
            }
        }
        first
    }

    /// Returns, in order, every further node of a content with the path of the first.
    fn hard_links(&self, first: &[Option<u32>], paths: &[Vec<u8>]) -> Vec<(u32, Vec<u8>)> {
        (0..)
            .zip(&self.nodes)
            .filter_map(|(id, node)| match node.kind {
                NodeKind::File { content } => {
                    let first = first[content as usize].filter(|first| *first != id)?;
                    Some((id, paths[first as usize].clone()))
                }
                NodeKind::Dir { .. } | NodeKind::Symlink { .. } => None,
            })
            .collect()
    }
}

impl Node {
    fn is_file(&self) -> bool {
        matches!(self.kind, NodeKind::File { .. })
    }

    fn into_entry(self, path: Vec<u8>, contents: &[Content], link_to: Option<Vec<u8>>) -> Entry {
        let (mode, mtime, kind) = match self.kind {
            NodeKind::Dir { mode, mtime } => (mode, mtime, EntryKind::Dir),
            NodeKind::Symlink { target, mtime } => {
                let target = target.into_vec();
                (0o777, Some(mtime), EntryKind::Symlink { target })
            }
            NodeKind::File { content } => {
                let content = &contents[content as usize];
                let kind = EntryKind::File {
                    size: content.size,
                    sha256: content.sha256,
                    link_to,
                };
                (content.mode, Some(content.mtime), kind)
            }
        };
        Entry {
            path,
            mode,
            mtime,
            kind,
        }
    }
}
