//! Resolves every symbolic link over the finished tree, as the kernel would, and refuses one that
//! leaves it.
//!
//! A target that looks harmless as text may lead out through another link, even one that comes
//! later in the archive, so only the finished tree can decide. Each link is resolved once and the
//! result cached, so that chains cost linear time.

use super::error::{Reason, Refusal, escape};
use super::tree::{Model, NodeKind, ROOT};

/// Linux gives up after following this many links in one path.
const MAX_HOPS: u32 = 40;

/// How far a path has been resolved: to a node, or to a name `missing` levels below it that does
/// not exist.
#[derive(Debug, Clone, Copy)]
struct Place {
    node: u32,
    missing: u32,
}

/// The state of resolving one link.
#[derive(Debug, Clone, Copy)]
enum State {
    Unknown,
    /// Being resolved: reaching it again means a loop.
    Open,
    /// Resolved to a place, through this many links, itself included.
    Known(Place, u32),
}

/// Refuses the tree if a link leads out of it, in a loop, or through too many other links.
pub(super) fn check(model: &Model) -> Result<(), Refusal> {
    let links: Vec<u32> = (0..)
        .zip(model.nodes())
        .filter(|(_, node)| matches!(node.kind, NodeKind::Symlink { .. }))
        .map(|(id, _)| id)
        .collect();
    if links.is_empty() {
        return Ok(());
    }
    let mut states = vec![State::Unknown; model.nodes().len()];
    for link in links {
        resolve(model, &mut states, link, 0).map_err(|refusal| refusal.at(&model.path(link)))?;
    }
    Ok(())
}

fn resolve(
    model: &Model,
    states: &mut [State],
    link: u32,
    depth: u32,
) -> Result<(Place, u32), Refusal> {
    let node = model.node(link);
    let NodeKind::Symlink { target, .. } = &node.kind else {
        let place = Place {
            node: link,
            missing: 0,
        };
        return Ok((place, 0));
    };
    match states[link as usize] {
        State::Known(place, hops) => return Ok((place, hops)),
        State::Open => return Err(circle("links lead in a circle", target)),
        State::Unknown => {}
    }
    if depth >= MAX_HOPS {
        return Err(circle("links lead through too many links", target));
    }
    states[link as usize] = State::Open;
    let mut place = Place {
        node: node.parent,
        missing: 0,
    };
    let mut hops = 1;
    for component in target.split(|b| *b == b'/') {
        let more;
        (place, more) = step(model, states, place, component, depth)?;
        hops += more;
        if hops > MAX_HOPS {
            return Err(circle("links lead through too many links", target));
        }
    }
    states[link as usize] = State::Known(place, hops);
    Ok((place, hops))
}

fn step(
    model: &Model,
    states: &mut [State],
    place: Place,
    component: &[u8],
    depth: u32,
) -> Result<(Place, u32), Refusal> {
    let Place { node, missing } = place;
    let next = match component {
        b"" | b"." => place,
        b".." if missing > 0 => Place {
            node,
            missing: missing - 1,
        },
        b".." if node == ROOT => {
            return Err(Refusal::new(
                Reason::SymlinkEscape,
                "leads out of the tree through other links",
            ));
        }
        b".." => Place {
            node: model.node(node).parent,
            missing: 0,
        },
        name => match model.child(node, name).filter(|_| missing == 0) {
            Some(id) => return resolve(model, states, id, depth + 1),
            None => Place {
                node,
                missing: missing + 1,
            },
        },
    };
    Ok((next, 0))
}

fn circle(detail: &str, target: &[u8]) -> Refusal {
    Refusal::new(
        Reason::SymlinkLoop,
        format!("{detail} (target `{}`)", escape(target)),
    )
}

#[cfg(test)]
mod tests {
    use super::super::limits::Limits;
    use super::super::path::EntryPath;
    use super::super::tree::Duplicates;
    use super::*;
    use crate::datafile::tree::Mtime;

    fn check_tree(dirs: &[&str], links: &[(String, String)]) -> Result<(), Reason> {
        let limits = Limits::default();
        let mut model = Model::new(&limits, 0, Duplicates::LastWins);
        let path = |text: &str| EntryPath::parse(text.as_bytes(), &limits).unwrap();
        for dir in dirs {
            model
                .add_dir(&path(dir), 0o755, Mtime::default())
                .map_err(|r| r.reason)?;
        }
        for (at, target) in links {
            model
                .add_symlink(&path(at), target.as_bytes(), Mtime::default())
                .map_err(|r| r.reason)?;
        }
        check(&model).map_err(|r| r.reason)
    }

    fn pairs(links: &[(&str, &str)]) -> Vec<(String, String)> {
        links
            .iter()
            .map(|(at, to)| ((*at).to_owned(), (*to).to_owned()))
            .collect()
    }

    #[test]
    fn links_may_go_anywhere_inside() {
        let links = pairs(&[
            ("top", "."),
            ("d/e/up", "../.."),
            ("d/long", "e/up/d/e/up/d"),
            ("d/nowhere", "../not/there"),
            ("d/back", "not/there/../../e"),
            ("through", "d/nowhere/../../d"),
        ]);
        assert_eq!(check_tree(&["d/e"], &links), Ok(()));
    }

    #[test]
    fn links_may_not_lead_out_by_any_way() {
        for links in [
            // By its own text.
            &[("d/l", "../../x")][..],
            &[("l", "d/../..")],
            // Through another link, from an earlier or a later member.
            &[("d/e/up", "../.."), ("d/out", "e/up/..")],
            &[("d/out", "e/up/.."), ("d/e/up", "../..")],
            &[("d/e/m", "s/../t"), ("d/e/s", "../..")],
            // Through a link to a name that does not exist.
            &[
                ("d/e/miss", "../../nope"),
                ("d/e/f/out", "../miss/../../../x"),
            ],
        ] {
            assert_eq!(
                check_tree(&["d/e/f"], &pairs(links)),
                Err(Reason::SymlinkEscape),
                "{links:?}"
            );
        }
    }

    #[test]
    fn circles_and_endless_chains_are_found() {
        for links in [
            &[("a", "a")][..],
            &[("a", "b"), ("b", "a")],
            &[("a", "b/x"), ("b", "c"), ("c", "./a")],
            &[("d/a", "../d/a/b")],
        ] {
            assert_eq!(
                check_tree(&["d"], &pairs(links)),
                Err(Reason::SymlinkLoop),
                "{links:?}"
            );
        }
        let chain = |n: usize| -> Vec<(String, String)> {
            (0..n)
                .map(|i| (format!("l{i}"), format!("l{}", i + 1)))
                .collect()
        };
        assert_eq!(check_tree(&[], &chain(40)), Ok(()));
        assert_eq!(check_tree(&[], &chain(41)), Err(Reason::SymlinkLoop));
        assert_eq!(check_tree(&[], &chain(20_000)), Err(Reason::SymlinkLoop));
        // Each doubles the hops of the one before: 2^20 for the kernel, 20 steps with the cache.
        let doubling: Vec<_> = (1..20)
            .map(|i| (format!("l{i}"), format!("l{0}/../l{0}", i - 1)))
            .chain([("l0".to_owned(), ".".to_owned())])
            .collect();
        assert!(check_tree(&[], &doubling).is_err());
    }
}
