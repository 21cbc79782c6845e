//! Imports point down. The table is the one of `docs/ARCHITECTURE.md`; changing it is a change of the design, made on
//! purpose and in a commit of its own.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Who may name whom. `app` may name everything but `cli`, and `config` any part for its `Config` alone.
const DIRECTIONS: &[(&str, &str)] = &[
    ("sys", ""),
    ("datafile", ""),
    ("wire", "datafile"),
    ("job", "datafile sys"),
    ("fetch", "datafile sys"),
    ("verify", "datafile sys"),
    ("unpack", "datafile sys"),
    ("publish", "datafile verify sys"),
    ("push", "fetch verify unpack publish job datafile sys"),
    ("store", "job datafile sys"),
    ("intake", "wire job datafile store sys"),
    ("runner", "push store job datafile sys"),
    ("report", "store job wire datafile sys"),
    ("watch", "intake wire store job sys"),
    ("api", "intake store job wire datafile sys"),
    (
        "config",
        "api watch intake runner push fetch publish unpack verify report store datafile sys",
    ),
    (
        "app",
        "config api watch intake runner push fetch publish unpack verify report store wire job datafile sys",
    ),
    ("cli", "app config api wire unpack datafile job sys"),
    ("main", "cli"),
];

#[test]
fn imports_point_down() {
    let files = sources();
    assert!(files.len() > 15, "found only {} files", files.len());
    let mut wrong = Vec::new();
    for (module, path) in &files {
        let text = std::fs::read_to_string(path).unwrap();
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| name == module) else {
            wrong.push(format!(
                "{}: `{module}` is not in the table",
                path.display()
            ));
            continue;
        };
        for named in crate_paths(&text) {
            if named != *module && !allowed.split(' ').any(|a| a == named) {
                wrong.push(format!("{}: names `{named}`", path.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "against the direction:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn lib_re_exports_nothing() {
    let text = strip(&std::fs::read_to_string("src/lib.rs").unwrap());
    let other: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("pub mod "))
        .collect();
    assert!(
        other.is_empty(),
        "lib.rs holds more than the map: {other:?}"
    );
}

/// A part's section of the configuration is its own; how it is checked too. Nothing else of a part is known there.
#[test]
fn config_knows_the_parts_for_their_configuration_only() {
    for (module, path) in sources() {
        let text = strip(&std::fs::read_to_string(&path).unwrap());
        if module != "config" {
            continue;
        }
        for (part, _) in DIRECTIONS.iter().filter(|(part, _)| *part != "sys") {
            for (at, _) in text.match_indices(&format!("{part}::")) {
                let before = text[..at].chars().next_back().unwrap_or(' ');
                let item = first_parts(&text[at + part.len() + 2..]).remove(0);
                let whole = !(before.is_alphanumeric() || before == '_' || before == ':');
                let known = ["Config", "Cause"].contains(&item.as_str());
                assert!(!whole || known, "{}: `{part}::{item}`", path.display());
            }
        }
    }
}

#[test]
fn the_documented_table_is_this_one() {
    let text = std::fs::read_to_string("docs/ARCHITECTURE.md").unwrap();
    let mut documented = BTreeSet::new();
    let table = text.split("| module | may name |").nth(1).unwrap();
    for row in table.lines().skip(2).take_while(|row| row.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        for module in cells[0].split(", ") {
            let named: BTreeSet<&str> = match cells[1] {
                "nothing" => BTreeSet::new(),
                text => text.split(' ').collect(),
            };
            documented.insert((module.trim_matches('`'), named));
        }
    }
    for (module, allowed) in DIRECTIONS {
        let allowed: BTreeSet<&str> = allowed.split(' ').filter(|name| !name.is_empty()).collect();
        // These two rows are told in words.
        let found = documented.iter().find(|(name, _)| name == module);
        let (_, named) = found.unwrap_or_else(|| panic!("`{module}` is not documented"));
        let in_words = ["config", "app"].contains(module);
        assert!(in_words || *named == allowed, "`{module}`: {named:?}");
    }
    assert_eq!(documented.len(), DIRECTIONS.len());
}

/// Each dependency is one line of reason; none is there without, and no reason outlives its dependency.
#[test]
fn every_dependency_says_why_it_is_there() {
    let cargo: toml::Table = std::fs::read_to_string("Cargo.toml")
        .unwrap()
        .parse()
        .unwrap();
    let used: BTreeSet<&str> = cargo["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let text = std::fs::read_to_string("docs/ARCHITECTURE.md").unwrap();
    let table = text.split("| crate | why not our own |").nth(1).unwrap();
    let listed: BTreeSet<&str> = table
        .lines()
        .filter_map(|row| row.strip_prefix("| "))
        .flat_map(|row| row.split(" | ").next().unwrap().split(' '))
        .map(|name| name.trim_matches('`'))
        .collect();
    assert_eq!(listed, used);
}

/// A cycle in the table would let the layers of the code be a cycle too.
#[test]
fn the_table_has_no_cycle() {
    let mut below: BTreeSet<&str> = BTreeSet::new();
    let mut left: Vec<_> = DIRECTIONS.to_vec();
    while !left.is_empty() {
        let before = left.len();
        left.retain(|(module, allowed)| {
            let free = allowed
                .split(' ')
                .all(|name| name.is_empty() || below.contains(name));
            if free {
                below.insert(module);
            }
            !free
        });
        assert!(left.len() < before, "a cycle among {left:?}");
    }
}

/// Returns every source file with the name of its top module.
fn sources() -> Vec<(String, PathBuf)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(Path::new("src"), &mut found);
    found.retain(|path| path != Path::new("src/lib.rs"));
    found
        .into_iter()
        .map(|path| {
            let first = path.components().nth(1).unwrap();
            let name = first.as_os_str().to_str().unwrap();
            (name.trim_end_matches(".rs").to_owned(), path)
        })
        .collect()
}

/// Returns the top modules that a source names by `crate::x`, `edgepush::x`, or in a grouped `crate::{x::.., y}`.
fn crate_paths(text: &str) -> BTreeSet<String> {
    let text = strip(text);
    let mut found = BTreeSet::new();
    for root in ["crate::", "edgepush::"] {
        for (at, _) in text.match_indices(root) {
            let before = text[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$') {
                continue;
            }
            found.extend(first_parts(&text[at + root.len()..]));
        }
    }
    found
}

/// Returns the first part of the path that `text` begins with, or of each path where it begins with a group.
fn first_parts(text: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        let text = text.trim_start();
        text.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect()
    };
    let Some(group) = text.trim_start().strip_prefix('{') else {
        return vec![name(text)];
    };
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            '}' => {
                parts.push(&group[start..at]);
                break;
            }
            ',' if depth == 0 => {
                parts.push(&group[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    let parts = parts.into_iter().map(name);
    parts.filter(|part| !part.is_empty()).collect()
}

/// Returns `text` without comments; links in documentation name what they like.
fn strip(text: &str) -> String {
    let lines = text.lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn reads_single_grouped_and_inline_paths() {
    let text = "
        use crate::job::Job; // crate::fetch
        use crate::{store::{Store, jobs::{a, b}}, sys, wire::push::Push as P,};
        //! crate::report
        pub(crate) use crate::
            unpack::x;
        fn f() -> crate::api::model::X { $crate::intake::y() }
        let x = mycrate::watch::z;
        use edgepush::cli;
    ";
    let found: Vec<String> = crate_paths(text).into_iter().collect();
    assert_eq!(
        found,
        ["api", "cli", "job", "store", "sys", "unpack", "wire"]
    );
}
