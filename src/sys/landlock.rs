//! The second line of defence: threads that unpack may write only below the data directory.
//!
//! The first is that every name is checked and every file opened below an open descriptor; this one
//! remains if that has a hole. Best effort: a kernel without Landlock is reported, not refused. Reading and
//! what is already open are not restricted.

use std::fmt;
use std::path::Path;

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, make_bitflags,
};

/// How far a thread is confined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// To the given directories.
    Confined,
    /// To the given directories, but this kernel does not cover every way to write.
    Partly,
    /// Not at all, with the reason.
    Not(String),
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confined => f.write_str("confined by landlock"),
            Self::Partly => f.write_str("confined by landlock, partly: the kernel is old"),
            Self::Not(why) => write!(f, "not confined: {why}"),
        }
    }
}

/// Confines this thread, and those it starts later, to writing below `writable`. Irreversible.
#[must_use]
pub fn restrict_thread(writable: &[&Path]) -> Status {
    restrict(writable).unwrap_or_else(|e| Status::Not(e.to_string()))
}

/// Returns how far a thread can be confined on this host, by confining one that ends at once.
#[must_use]
pub fn probe() -> Status {
    std::thread::spawn(|| restrict_thread(&[]))
        .join()
        .unwrap_or_else(|_| Status::Not("the thread that was to try it panicked".to_owned()))
}

fn restrict(writable: &[&Path]) -> Result<Status, Box<dyn std::error::Error>> {
    // Version 2 is the minimum: version 1 forbids hard links between directories.
    let least = AccessFs::from_write(ABI::V2);
    let handled = AccessFs::from_write(ABI::V5);
    let allowed = make_bitflags!(AccessFs::{
        WriteFile | RemoveDir | RemoveFile | MakeDir | MakeReg | MakeSym | Refer | Truncate
    });
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(least)?
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(handled)?
        .create()?;
    for path in writable {
        ruleset = ruleset.add_rule(PathBeneath::new(PathFd::new(path)?, allowed))?;
    }
    Ok(match ruleset.restrict_self()?.ruleset {
        RulesetStatus::FullyEnforced => Status::Confined,
        RulesetStatus::PartiallyEnforced => Status::Partly,
        RulesetStatus::NotEnforced => Status::Not("the kernel does not do it".to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::thread;

    use super::*;

    #[test]
    fn a_confined_thread_writes_inside_and_nowhere_else() {
        let temp = tempfile::tempdir().unwrap();
        let (inside, outside) = (temp.path().join("in"), temp.path().join("out"));
        for dir in [&inside, &outside] {
            fs::create_dir(dir).unwrap();
            fs::write(dir.join("file"), "before").unwrap();
        }
        symlink(&outside, inside.join("way")).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                if let Status::Not(why) = restrict_thread(&[&inside]) {
                    assert_eq!(probe(), Status::Not(why), "a kernel that cannot do it");
                    return;
                }
                // Threads that are started here are confined as well.
                thread::scope(|scope| {
                    scope.spawn(|| {
                        fs::write(inside.join("file"), "after").unwrap();
                        fs::create_dir(inside.join("dir")).unwrap();
                        fs::hard_link(inside.join("file"), inside.join("dir/link")).unwrap();
                        for target in [outside.join("file"), inside.join("way/file")] {
                            assert!(fs::write(target, "after").is_err());
                        }
                        assert!(fs::remove_file(outside.join("file")).is_err());
                        assert!(fs::create_dir(outside.join("dir")).is_err());
                        assert!(fs::hard_link(inside.join("file"), outside.join("x")).is_err());
                    });
                });
            });
        });
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"before");
        // The thread that started it is not confined.
        fs::write(outside.join("file"), "free").unwrap();
    }
}
