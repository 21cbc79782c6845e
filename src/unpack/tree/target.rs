//! The target of a symbolic link as text; where it leads is found out in `links`, at the end.

use crate::unpack::error::{Reason, Refusal, escape};
use crate::unpack::limits::{Limits, MAX_TARGET};

/// Checks a link's target as text: not empty, not absolute, and not climbing out with `..`.
pub(super) fn check_target(path: &[u8], target: &[u8], limits: &Limits) -> Result<(), Refusal> {
    if target.is_empty() {
        return Err(Refusal::new(Reason::SymlinkEmpty, "the link has no target"));
    }
    if target.contains(&0) {
        return Err(Refusal::new(
            Reason::PathNul,
            "the link's target contains a NUL byte",
        ));
    }
    let most = limits.max_path_bytes.min(MAX_TARGET as u64);
    if target.len() as u64 > most {
        return Err(Refusal::limit(
            Reason::PathTooLong,
            "max_path_bytes",
            most,
            target.len(),
        ));
    }
    if target[0] == b'/' {
        return Err(Refusal::new(
            Reason::SymlinkAbsolute,
            format!("links to `{}`", escape(target)),
        ));
    }
    let mut depth = path.iter().filter(|b| **b == b'/').count();
    for component in target.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." if depth == 0 => {
                return Err(Refusal::new(
                    Reason::SymlinkEscape,
                    format!("links out of the tree, to `{}`", escape(target)),
                ));
            }
            b".." => depth -= 1,
            _ => depth += 1,
        }
    }
    Ok(())
}
