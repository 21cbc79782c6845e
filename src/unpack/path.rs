//! A member's name, parsed once: relative, without `..`, within the limits. An unsafe name never
//! becomes an [`EntryPath`], and only an [`EntryPath`] ever reaches the disk.

use super::error::{Reason, Refusal};
use super::limits::Limits;

/// A member's path below the root of the tree: components joined by single slashes, empty for the
/// root itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryPath {
    bytes: Vec<u8>,
    /// Whether the name ended in a slash, which is valid only for a directory.
    pub(super) directory_like: bool,
    /// Whether the last component was `.`, which is valid only for a directory.
    pub(super) dot: bool,
}

impl EntryPath {
    /// Parses a member's name. Bytes are kept as they are; `.` and repeated slashes are removed.
    pub(super) fn parse(name: &[u8], limits: &Limits) -> Result<Self, Refusal> {
        if name.is_empty() {
            return Err(Refusal::new(Reason::PathEmpty, "the name is empty"));
        }
        if name.contains(&0) {
            return Err(Refusal::new(
                Reason::PathNul,
                "the name contains a NUL byte",
            ));
        }
        if name[0] == b'/' {
            return Err(Refusal::new(Reason::PathAbsolute, "the name is absolute"));
        }
        if name.len() as u64 > limits.max_path_bytes {
            return Err(Refusal::limit(
                Reason::PathTooLong,
                "max_path_bytes",
                limits.max_path_bytes,
                name.len(),
            ));
        }
        let mut bytes = Vec::with_capacity(name.len());
        let mut depth = 0;
        for component in name.split(|b| *b == b'/') {
            if matches!(component, b"" | b".") {
                continue;
            }
            check_component(component, limits)?;
            depth += 1;
            if depth > 1 {
                bytes.push(b'/');
            }
            bytes.extend_from_slice(component);
        }
        if depth > limits.max_depth {
            return Err(Refusal::limit(
                Reason::PathTooDeep,
                "max_depth",
                limits.max_depth,
                depth,
            ));
        }
        Ok(Self {
            bytes,
            directory_like: name.ends_with(b"/"),
            dot: name == b"." || name.ends_with(b"/."),
        })
    }

    /// Returns the path as bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Converts the path into bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Returns whether this is the root of the tree.
    pub(super) fn is_root(&self) -> bool {
        self.bytes.is_empty()
    }
}

fn check_component(component: &[u8], limits: &Limits) -> Result<(), Refusal> {
    if component == b".." {
        return Err(Refusal::new(Reason::PathDotdot, "the name contains `..`"));
    }
    if component.len() as u64 > limits.max_component_bytes {
        return Err(Refusal::limit(
            Reason::PathTooLong,
            "max_component_bytes",
            limits.max_component_bytes,
            component.len(),
        ));
    }
    Ok(())
}

/// Splits a path into the parent's path (empty for the root) and the last component.
pub(super) fn split_last(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(name: &[u8]) -> Result<EntryPath, Reason> {
        let limits = Limits {
            max_path_bytes: 20,
            max_component_bytes: 8,
            max_depth: 4,
            ..Limits::default()
        };
        EntryPath::parse(name, &limits).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn keeps_bytes_and_squeezes_out_what_says_nothing() {
        for (name, want, directory_like, dot) in [
            (&b"a"[..], &b"a"[..], false, false),
            (b"./a/./b", b"a/b", false, false),
            (b"a//b/", b"a/b", true, false),
            (b"a/.", b"a", false, true),
            (b".", b"", false, true),
            (b"././/", b"", true, false),
            (b"...", b"...", false, false),
            (b"..a/b..", b"..a/b..", false, false),
            (b"\xff\\..\\x", b"\xff\\..\\x", false, false),
            (b"a/b/c/d", b"a/b/c/d", false, false),
        ] {
            let path = parse(name).unwrap();
            assert_eq!(
                (path.as_bytes(), path.directory_like, path.dot),
                (want, directory_like, dot)
            );
        }
    }

    #[test]
    fn refuses_every_name_that_is_not_a_place_inside() {
        for (name, reason) in [
            (&b""[..], Reason::PathEmpty),
            (b"/", Reason::PathAbsolute),
            (b"//a", Reason::PathAbsolute),
            (b"..", Reason::PathDotdot),
            (b"../a", Reason::PathDotdot),
            (b"a/..", Reason::PathDotdot),
            (b"a/../b", Reason::PathDotdot),
            (b"a/.././b", Reason::PathDotdot),
            (b"a\0", Reason::PathNul),
            (b"\0", Reason::PathNul),
            (b"123456789", Reason::PathTooLong),
            (b"a/a/a/a/a/a/a/a/a/a/a", Reason::PathTooLong),
            (b"a/b/c/d/e", Reason::PathTooDeep),
        ] {
            assert_eq!(parse(name).unwrap_err(), reason, "{name:?}");
        }
    }

    #[test]
    fn splits_off_the_last_component() {
        assert_eq!(split_last(b"a"), (&b""[..], &b"a"[..]));
        assert_eq!(split_last(b"a/b/c"), (&b"a/b"[..], &b"c"[..]));
    }
}
