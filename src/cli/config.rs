//! `edgepush config`: checks the configuration as a start would, and shows every value with its
//! origin.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Global;
use super::exit::{self, Error, Exit};
use super::out::Out;
use crate::app;
use crate::config::{Config, Error as ConfigError, Loaded, Origin, Problem};
use crate::sys::Chain;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Check the configuration without starting anything
    Check,
    /// Show every value, and where it comes from unless it is the default
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
        Ok(loaded) => {
            let problems = at_start(&loaded);
            if !problems.is_empty() && !out.json {
                return Err(ConfigError::Invalid(problems).into());
            }
            problems
        }
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

/// Returns what a start would find wrong beyond the values: files that cannot be read, endpoints
/// that cannot be used.
pub(super) fn at_start(loaded: &Loaded) -> Vec<Problem> {
    // The service manager hands secrets with a relative path to the agent alone.
    let elsewhere = std::env::var_os("CREDENTIALS_DIRECTORY").is_none();
    let relative = |e: &app::Error| match e {
        app::Error::Api(_) => {
            let keys = &loaded.config.api.access_keys;
            keys.iter()
                .any(|k| k.secret_file.is_relative() && !k.secret_file.as_os_str().is_empty())
        }
        app::Error::Report(_) => {
            let endpoints = &loaded.config.report.endpoints;
            endpoints
                .iter()
                .flat_map(|e| &e.secret_files)
                .any(|f| f.is_relative())
        }
        _ => false,
    };
    let errors = app::check(&loaded.config).into_iter();
    errors
        .filter(|error| !(elsewhere && relative(error)))
        .map(|error| {
            let key = error.key().unwrap_or_default();
            Problem {
                origin: loaded.origin_of(&key),
                key,
                what: Chain(&error).to_string(),
            }
        })
        .collect()
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
