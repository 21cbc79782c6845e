//! Imports point down. The table is the one of `docs/ARCHITECTURE.md`; changing it is a change of the design, made on
//! purpose and in a commit of its own.

use std::collections::BTreeSet;

use crate::support::source::{self, Source};

/// Who may name whom. `app` may name everything but `cli`, and `config` any part for its `Config` alone.
const DIRECTIONS: &[(&str, &str)] = &[
    ("sys", ""),
    ("db", "sys"),
    ("datafile", ""),
    ("wire", "datafile"),
    ("job", "wire datafile sys"),
    ("shown", "db job wire datafile"),
    ("progress", "shown job sys"),
    ("dial", "datafile sys"),
    ("fetch", "dial datafile sys"),
    ("verify", "datafile sys"),
    ("unpack", "datafile sys"),
    ("publish", "datafile verify sys"),
    (
        "deliver",
        "fetch verify unpack publish progress job datafile sys",
    ),
    ("store", "shown db job wire datafile sys"),
    ("admission", "wire datafile sys"),
    ("intake", "admission wire shown job datafile store sys"),
    (
        "runner",
        "deliver publish store progress shown job datafile sys",
    ),
    (
        "keep",
        "deliver publish store intake wire shown job datafile sys",
    ),
    ("report", "dial db shown wire datafile sys"),
    ("watch", "intake wire store shown job sys"),
    ("http", "sys"),
    ("ens", "http wire datafile sys"),
    ("client", "http shown job datafile"),
    (
        "api",
        "http ens intake store publish keep progress shown db job wire datafile sys",
    ),
    (
        "config",
        "api watch intake runner deliver fetch publish unpack verify report store datafile sys",
    ),
    (
        "app",
        "config api http ens watch intake runner keep deliver fetch publish unpack verify report store admission wire progress shown db job datafile sys",
    ),
    (
        "cli",
        "app client config dial wire verify unpack datafile shown job sys",
    ),
    ("main", "cli"),
];

#[test]
fn imports_point_down() {
    let files = sources();
    assert!(files.len() > 15, "found only {} files", files.len());
    let mut wrong = Vec::new();
    for file in &files {
        let (module, path) = (room(file), file.path.display());
        let Some((_, allowed)) = DIRECTIONS.iter().find(|(name, _)| *name == module) else {
            wrong.push(format!("{path}: `{module}` is not in the table"));
            continue;
        };
        for named in named(file, None) {
            if named != module && !allowed.split(' ').any(|a| a == named) {
                wrong.push(format!("{path}: names `{named}`"));
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
    let text = std::fs::read_to_string("src/lib.rs").unwrap();
    let other: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("//") && !line.starts_with("pub mod "))
        .collect();
    assert!(
        other.is_empty(),
        "lib.rs holds more than the map: {other:?}"
    );
}

/// Files that import each other in a circle are one file in pieces: neither can be read alone.
#[test]
fn no_files_import_each_other_in_a_circle() {
    for root in ["src", "fuzz/src"] {
        let circles = source::circles(&source::read(root));
        assert!(circles.is_empty(), "circles below {root}: {circles:#?}");
    }
}

/// A function that fits on a screen is read at once.
#[test]
fn no_function_is_longer_than_a_screen() {
    const LONGEST: usize = 60;
    let mut long = Vec::new();
    for file in ["src", "fuzz/src"]
        .iter()
        .flat_map(|root| source::read(root))
    {
        for function in file.functions.iter().filter(|f| f.lines > LONGEST) {
            let (path, line) = (file.path.display(), function.line);
            long.push(format!(
                "{path}:{line}: {} {}",
                function.name, function.lines
            ));
        }
    }
    assert!(long.is_empty(), "functions past {LONGEST} lines: {long:#?}");
}

/// What `config` may name of the parts: their sections, and the values that `[apps]` overrides.
const CONFIGURED: [&str; 5] = ["Config", "Cause", "AppId", "Activate", "NameEncoding"];

/// A part's section of the configuration is its own; how it is checked too. Nothing else of a part is known there.
#[test]
fn config_knows_the_parts_for_their_configuration_only() {
    for file in sources().iter().filter(|file| room(file) == "config") {
        for (part, _) in DIRECTIONS
            .iter()
            .filter(|(part, _)| !["sys", "config"].contains(part))
        {
            let items = named(file, Some(part));
            let unknown: Vec<_> = items
                .iter()
                .filter(|item| !CONFIGURED.contains(&item.as_str()))
                .collect();
            assert!(
                unknown.is_empty(),
                "{}: `{part}::{unknown:?}`",
                file.path.display()
            );
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

/// Returns every source file but the map of the crate.
fn sources() -> Vec<Source> {
    let mut files = source::read("src");
    files.retain(|file| !file.module.is_empty());
    files
}

/// The top module that a file belongs to.
fn room(file: &Source) -> &str {
    &file.module[0]
}

/// Returns the top modules that a file names, or what it names of one of them.
fn named(file: &Source, of: Option<&str>) -> BTreeSet<String> {
    file.named()
        .into_iter()
        .filter_map(|path| match of {
            None => path.first().cloned(),
            Some(part) => path
                .split_first()
                .filter(|(first, _)| *first == part)
                .and_then(|(_, rest)| rest.first().cloned()),
        })
        .collect()
}
