//! Load and growth of a whole node, measured against the real agent as a child process.
//!
//! `cargo bench --bench load -- MODE [KEY=VALUE…]` runs one measurement and prints its figures as a table; without a
//! mode it does nothing, so that `cargo bench` and `cargo test` stay quick. Each has a data directory of its own below
//! `TMPDIR`, which should be on a journalled file system, and all but `link` need nothing but the loopback.
//! `docs/performance.md` has the figures.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a measurement that goes wrong ends there and then"
)]

mod accept;
mod delete;
mod figures;
mod files;
mod growth;
mod lanes;
mod link;
mod neighbours;
#[path = "../../tests/it/support/mod.rs"]
mod support;

use std::collections::HashMap;

/// What the first word chooses.
type Mode = (&'static str, fn(&Options));

const MODES: &[Mode] = &[
    ("accept", accept::run),
    ("growth", growth::run),
    ("files", files::run),
    ("delete", delete::run),
    ("link", link::run),
    ("neighbours", neighbours::run),
];

fn main() {
    // The harness of `cargo bench` and `cargo test` adds flags of its own.
    let words: Vec<String> = std::env::args()
        .skip(1)
        .filter(|word| !word.starts_with("--"))
        .collect();
    let Some((mode, rest)) = words.split_first() else {
        let modes: Vec<&str> = MODES.iter().map(|(name, _)| *name).collect();
        println!("load: nothing to do without a mode: {}", modes.join(", "));
        return;
    };
    let (_, run) = MODES
        .iter()
        .find(|(name, _)| name == mode)
        .unwrap_or_else(|| panic!("no mode `{mode}`"));
    run(&Options::parse(rest));
}

/// What a measurement is told, as `KEY=VALUE`.
struct Options(HashMap<String, String>);

impl Options {
    fn parse(words: &[String]) -> Self {
        let pair = |word: &String| {
            let (key, value) = word.split_once('=').expect("KEY=VALUE");
            (key.to_owned(), value.to_owned())
        };
        Self(words.iter().map(pair).collect())
    }

    /// Returns a number, or `otherwise` where it is not told.
    fn number(&self, key: &str, otherwise: usize) -> usize {
        self.0
            .get(key)
            .map_or(otherwise, |value| value.parse().expect("a number"))
    }

    /// Returns a text, or `otherwise` where it is not told.
    fn text(&self, key: &str, otherwise: &str) -> String {
        self.0
            .get(key)
            .cloned()
            .unwrap_or_else(|| otherwise.to_owned())
    }
}
