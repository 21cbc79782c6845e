//! Invariants of every accepted tree and every error, computed independently of the code under
//! test.

use std::collections::BTreeMap;
use std::error::Error as _;

use crate::datafile::tree::{Entry, EntryKind};
use crate::unpack::{Error, KINDS, Options, Tree};

/// Steps followed for one link; longer chains are not checked further.
const MOST_STEPS: u32 = 5000;
/// Longest link target on Linux.
const MOST_TARGET: usize = 4095;

/// Checks that a tree can exist, stays inside itself and keeps to the limits.
pub fn tree(tree: &Tree, options: &Options) {
    let limits = &options.limits;
    let entries: BTreeMap<&[u8], &Entry> = tree.entries.iter().map(|e| (&e.path[..], e)).collect();
    assert_eq!(entries.len(), tree.entries.len(), "a path occurs twice");
    assert!(
        tree.entries.is_sorted_by(|a, b| a.path < b.path),
        "not sorted"
    );
    let most = 2 * limits.max_entries + limits.max_depth;
    assert!(entries.len() as u64 <= most, "too many entries");
    let (mut files, mut bytes) = (0, 0);
    for entry in &tree.entries {
        path(entry, &entries, options);
        assert!(
            entry.mtime.is_none_or(|t| t.nanos < 1_000_000_000),
            "nanoseconds"
        );
        match &entry.kind {
            EntryKind::Dir => mode(entry.mode & 0o700 == 0o700, entry, 0o700, options),
            EntryKind::Symlink { target } => link(entry, target, &entries),
            EntryKind::File { size, link_to, .. } => {
                mode(true, entry, 0, options);
                files += 1;
                assert!(*size <= limits.max_file_bytes, "a file is too long");
                match link_to {
                    None => bytes += size,
                    Some(to) => hard_link(entry, to, &entries),
                }
            }
        }
    }
    assert_eq!(tree.files, files, "files");
    assert_eq!(tree.bytes, bytes, "bytes");
    assert!(bytes <= limits.max_total_bytes, "too much");
}

fn mode(enough: bool, entry: &Entry, nevertheless: u32, options: &Options) {
    let most = 0o777 & !options.umask | nevertheless;
    assert!(enough && entry.mode & !most == 0, "mode {:o}", entry.mode);
}

fn path(entry: &Entry, entries: &BTreeMap<&[u8], &Entry>, options: &Options) {
    let path = &entry.path[..];
    let limits = &options.limits;
    assert!(
        !path.is_empty() && path.len() as u64 <= 2 * limits.max_path_bytes,
        "length"
    );
    assert!(!path.contains(&0), "NUL in a path");
    let components: Vec<&[u8]> = path.split(|b| *b == b'/').collect();
    assert!(components.len() as u64 <= limits.max_depth, "depth");
    for component in components {
        assert!(
            !matches!(component, b"" | b"." | b".."),
            "unsafe path {path:?}"
        );
        assert!(
            component.len() as u64 <= limits.max_component_bytes,
            "component"
        );
    }
    for (end, _) in path.iter().enumerate().filter(|(_, b)| **b == b'/') {
        let parent = entries.get(&path[..end]);
        assert!(
            parent.is_some_and(|parent| parent.kind == EntryKind::Dir),
            "below something other than a directory: {path:?}"
        );
    }
}

fn hard_link(entry: &Entry, to: &[u8], entries: &BTreeMap<&[u8], &Entry>) {
    let to = entries.get(to).expect("a hard link to nothing");
    let EntryKind::File { size, link_to, .. } = &to.kind else {
        panic!("a hard link to something other than a file");
    };
    let EntryKind::File { size: own, .. } = &entry.kind else {
        return;
    };
    assert_eq!(
        (size, link_to, to.mode),
        (own, &None, entry.mode),
        "a hard link"
    );
}

/// Follows a link as the kernel would, and checks that it never leaves the tree.
fn link(entry: &Entry, target: &[u8], entries: &BTreeMap<&[u8], &Entry>) {
    assert!(!target.is_empty() && target.len() <= MOST_TARGET, "target");
    assert!(!target.contains(&0), "NUL in a target");
    assert_ne!(target[0], b'/', "an absolute target");
    let mut place: Vec<&[u8]> = entry.path.split(|b| *b == b'/').collect();
    place.pop();
    let mut todo: Vec<&[u8]> = target.split(|b| *b == b'/').rev().collect();
    let mut steps = 0;
    while let Some(component) = todo.pop() {
        steps += 1;
        if steps > MOST_STEPS {
            return;
        }
        match component {
            b"" | b"." => {}
            b".." => assert!(place.pop().is_some(), "{:?} leads out", entry.path),
            name => {
                place.push(name);
                match entries.get(&place.join(&b'/')[..]).map(|e| &e.kind) {
                    Some(EntryKind::Symlink { target }) => {
                        place.pop();
                        todo.extend(target.split(|b| *b == b'/').rev());
                    }
                    // Nothing exists there: the kernel stops, and `..` is resolved as text.
                    Some(EntryKind::Dir | EntryKind::File { .. }) | None => {}
                }
            }
        }
    }
}

/// Checks that an error is of a known kind and safe to show: names in it are escaped.
pub fn error(error: &Error) {
    assert!(
        !matches!(
            error,
            Error::Disk { .. } | Error::Canceled | Error::Input(_)
        ),
        "{}",
        text(error)
    );
    assert!(
        KINDS.iter().any(|kind| kind.name == error.kind().name),
        "unknown kind"
    );
    let text = text(error);
    assert!(
        !text.contains(|c: char| c.is_control()),
        "not escaped: {text:?}"
    );
    assert!(text.len() < 4096, "{} bytes of error", text.len());
    if let Some(limit) = error.limit() {
        assert!(
            crate::unpack::Limits::KEYS.contains(&limit),
            "limit {limit}"
        );
    }
}

/// Returns an error with its causes.
pub fn text(error: &Error) -> String {
    let mut text = format!("{}: {error}", error.kind().name);
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
