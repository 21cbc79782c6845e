//! The configuration files that are shipped: they load, and the commented one is complete and tells the truth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edgepush::config::{Config, Keys, Sources};
use toml::{Table, Value};

fn load(file: &Path) -> Config {
    let sources = Sources {
        file: Some(file.to_owned()),
        ..Sources::default()
    };
    match sources.load() {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_shipped_file_loads() {
    let files: Vec<PathBuf> = std::fs::read_dir("config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        load(&file);
    }
}

#[test]
fn the_commented_file_changes_nothing() {
    let shipped = Table::try_from(load(Path::new("config/edgepush.toml"))).unwrap();
    assert_eq!(shipped, Table::try_from(Config::default()).unwrap());
}

#[test]
fn the_commented_file_shows_every_key_with_its_default_and_a_sentence() {
    let text = std::fs::read_to_string("config/edgepush.toml").unwrap();
    let shown = flat(&uncomment(&text).parse().unwrap());
    let defaults = flat(&Table::try_from(Config::default()).unwrap());
    for known in Keys::of::<Config>().dotted() {
        // A list of tables, or a table with any keys, is shown as a whole, and an example in the comment shows its keys.
        let end = known.find("[]").or(known.find(".*"));
        let key = &known[..end.unwrap_or(known.len())];
        let value = shown.get(key);
        assert!(
            value.is_some(),
            "config/edgepush.toml does not show `{key}`"
        );
        // A key without a default is shown with an example.
        if let Some(default) = defaults.get(key) {
            assert_eq!(value, Some(default), "`{key}`");
        }
        let last = known.rsplit('.').next().unwrap_or_default();
        if end.is_some() && last != "*" {
            assert!(
                text.contains(&format!("{last} = ")),
                "no example of `{known}`"
            );
        }
    }
    if let Err(error) = toml::from_str::<Config>(&uncomment(&text)) {
        panic!("{error}");
    }
}

/// Takes the `#` from each line that shows a key, and sees that a sentence stands above it.
fn uncomment(text: &str) -> String {
    let mut out = String::new();
    let mut above = "";
    for line in text.lines() {
        let active = line.strip_prefix('#').filter(|rest| {
            let key = rest.split(" = ").next().unwrap_or_default();
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        if active.is_some() {
            assert!(above.starts_with("# "), "no sentence above `{line}`");
        }
        out.push_str(active.unwrap_or(line));
        out.push('\n');
        above = line;
    }
    out
}

fn flat(table: &Table) -> BTreeMap<String, Value> {
    fn collect(prefix: &str, table: &Table, out: &mut BTreeMap<String, Value>) {
        for (key, value) in table {
            let key = match prefix {
                "" => key.clone(),
                _ => format!("{prefix}.{key}"),
            };
            match value {
                Value::Table(below) if !below.is_empty() => collect(&key, below, out),
                Value::Array(list) if list.first().is_some_and(Value::is_table) => {
                    for below in list.iter().filter_map(Value::as_table) {
                        collect(&format!("{key}[]"), below, out);
                    }
                }
                value => {
                    out.insert(key, value.clone());
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    collect("", table, &mut out);
    out
}
