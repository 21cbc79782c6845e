//! `edgepush config`: checks the configuration as a start would, and shows what is in force and where it came from.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Global;
use super::exit::{self, Error, Exit};
use super::out::Out;
use crate::config::{Config, Error as ConfigError, Loaded, Origin, Problem};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Read and check the configuration without starting anything
    Check,
    /// Show every value that is in force, and where it came from unless it is the default
    Show,
}

impl Command {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        match self {
            Self::Check => check(global, out),
            Self::Show => show(&global.load()?, out),
        }
    }
}

/// What `config check --json` prints.
#[derive(Serialize)]
struct Checked {
    ok: bool,
    problems: Vec<Mistake>,
}

#[derive(Serialize)]
struct Mistake {
    origin: String,
    key: String,
    what: String,
}

fn check(global: &Global, out: &mut Out) -> Result<Exit, Error> {
    let sources = global.sources();
    let problems = match sources.load() {
        Ok(_) => Vec::new(),
        Err(ConfigError::Invalid(problems)) if out.json => problems,
        Err(error) => return Err(error.into()),
    };
    if out.json {
        let ok = problems.is_empty();
        let problems = problems.into_iter().map(mistake).collect();
        out.json(&Checked { ok, problems })?;
        return Ok(if ok { exit::DONE } else { exit::CONFIG });
    }
    match &sources.file {
        Some(file) => out.line(format!("{}: ok", file.display()))?,
        None => out.line("no configuration file, the defaults apply: ok")?,
    }
    Ok(exit::DONE)
}

fn mistake(problem: Problem) -> Mistake {
    Mistake {
        origin: problem.origin.to_string(),
        key: problem.key,
        what: problem.what,
    }
}

/// What `config show --json` prints.
#[derive(Serialize)]
struct Shown<'a> {
    config: &'a Config,
    origins: BTreeMap<&'a str, String>,
}

fn show(loaded: &Loaded, out: &mut Out) -> Result<Exit, Error> {
    if out.json {
        let origin = |(key, origin): (&'_ String, &Origin)| (key.clone(), origin.to_string());
        let origins: BTreeMap<String, String> = loaded.origins.iter().map(origin).collect();
        let origins = origins.iter().map(|(k, v)| (k.as_str(), v.clone()));
        out.json(&Shown {
            config: &loaded.config,
            origins: origins.collect(),
        })?;
        return Ok(exit::DONE);
    }
    let text = toml::to_string(&loaded.config).map_err(|e| Error::new(exit::FAILED, e))?;
    let mut table = String::new();
    for line in text.lines() {
        let key = match line.split_once(" = ") {
            Some((key, _)) if table.is_empty() => key.to_owned(),
            Some((key, _)) => format!("{table}.{key}"),
            None => String::new(),
        };
        if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_owned();
        }
        match loaded.origins.get(&key) {
            Some(origin) => out.line(format!("{line}  # {origin}"))?,
            None => out.line(line)?,
        }
    }
    Ok(exit::DONE)
}
