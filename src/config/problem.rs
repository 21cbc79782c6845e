//! Why a configuration cannot be used, and where each value came from, in the words of its author.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{}", list(.0))]
    Invalid(Vec<Problem>),
}

/// Returns one mistake as it is, and several as lines.
fn list(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        several => several.iter().fold(
            format!("{} mistakes in the configuration", several.len()),
            |text, problem| format!("{text}\n  {problem}"),
        ),
    }
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub origin: Origin,
    /// Dotted; empty if the text is not TOML.
    pub key: String,
    /// What is wrong and what was expected.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "{}: {}", self.origin, self.what),
            key => write!(f, "{}: `{key}`: {}", self.origin, self.what),
        }
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    /// A file and a line, from 1.
    File(PathBuf, usize),
    Env(String),
    Flag(&'static str),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// Returns the message of serde in terms of the configuration, without Rust words.
pub(super) fn wish(error: &toml::de::Error) -> String {
    let message = error.message();
    let kinds = ["invalid type: ", "invalid value: "];
    let rest = kinds.iter().find_map(|kind| message.strip_prefix(kind));
    match rest.and_then(|rest| rest.split_once(", expected ")) {
        Some((found, expected)) => format!("expected {}, found {}", wanted(expected), given(found)),
        None => message.to_owned(),
    }
}

fn wanted(expected: &str) -> &str {
    match expected {
        "path string" => "a path",
        "a string" => "a text",
        "a sequence" => "a list",
        "a map" => "a table",
        "usize" | "u64" | "u32" | "u16" => "a whole number",
        text if text.starts_with("struct ") => "a table",
        text => text,
    }
}

/// Returns a value as it was written: serde puts its type in front.
fn given(found: &str) -> &str {
    match found {
        "sequence" => "a list",
        "map" => "a table",
        text => match text.strip_prefix("string ") {
            Some(quoted) => quoted,
            None => text.split('`').nth(1).unwrap_or(text),
        },
    }
}
