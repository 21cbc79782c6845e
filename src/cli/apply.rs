//! `edgepush apply`: one push document, processed in this process. It needs no agent and no
//! configuration.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use clap::Parser;

use super::ended::{self, EndResult, Ended};
use super::exit::{self, Error, Exit};
use super::out::Out;
use super::progress::{Moment, Progress};
use super::{Global, log, show};
use crate::app::{self, Applied, Seen};
use crate::config::{Config, Level, Sources};
use crate::job::{EventKind, JobId, JobState, Snapshot};
use crate::sys::durable::at;
use crate::wire::document::{self, MAX_DOCUMENT, PushDocument};
use crate::wire::push::Push;
use crate::wire::status::ResultCode;

/// The data directory unless one is configured.
const DATA_DIR: &str = "./edgepush-data";

#[derive(Debug, Parser)]
pub(super) struct Apply {
    /// The push document: `{"AppId": .., "Data": [..]}`. Its URLs may also be `file:` URLs, or
    /// paths relative to it
    #[arg(value_name = "PUSH.json")]
    document: PathBuf,
}

impl Apply {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let config = configuration(global)?;
        let push = read(&self.document)?;
        let mut screen = Screen::new(global.json);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .thread_name("edgepush")
            .build()?;
        let applied = runtime.block_on(app::apply(&config, push, &mut |seen| screen.show(seen)))?;
        screen.end(&applied);
        runtime.shutdown_background();
        let ended: Vec<Ended> = applied.iter().map(row).collect();
        ended::show(&ended, out)
    }
}

/// Reads the configuration file only if one is named: that of this node's agent is not meant for a
/// trial.
fn configuration(global: &Global) -> Result<Config, Error> {
    let sources = match &global.config {
        Some(_) => Sources::of_process(global.config.clone()),
        None => Sources::env_of_process(),
    };
    let loaded = global.with_flags(sources).load()?;
    let mut config = loaded.config;
    if !loaded.origins.contains_key("data_dir") {
        config.data_dir = DATA_DIR.into();
    }
    // The screen shows each step; the log need not.
    let level = if loaded.origins.contains_key("log.level") {
        config.log.level
    } else {
        Level::Error
    };
    log::start(level, config.log.format, global.verbose);
    Ok(config)
}

fn read(path: &Path) -> Result<Push, Error> {
    let failed = |error| Error::new(exit::FAILED, error);
    let length = std::fs::metadata(path)
        .map_err(at("read", path))
        .map_err(failed)?
        .len();
    if length > MAX_DOCUMENT as u64 {
        let text = format!(
            "`{}` has {length} bytes, expected at most {MAX_DOCUMENT}",
            path.display()
        );
        return Err(Error::new(exit::FAILED, text));
    }
    let bytes = std::fs::read(path)
        .map_err(at("read", path))
        .map_err(failed)?;
    let base = path.parent().unwrap_or(Path::new("."));
    PushDocument::parse(&bytes, document::Sources::Beside(base))
        .map_err(|error| Error::new(exit::FAILED, format!("`{}`: {error}", path.display())))
}

/// What is shown while files are in progress.
struct Screen {
    progress: Progress<JobId>,
    labels: HashMap<JobId, String>,
    last: HashMap<JobId, Snapshot>,
}

impl Screen {
    fn new(quiet: bool) -> Self {
        Self {
            progress: Progress::start(quiet),
            labels: HashMap::new(),
            last: HashMap::new(),
        }
    }

    fn show(&mut self, seen: Seen<'_>) {
        match seen {
            Seen::Answers(answers) => {
                for answer in answers {
                    let label = format!("{}@{}", answer.name, answer.version);
                    match answer.code {
                        ResultCode::AlreadyPublished => {
                            self.progress.say(&format!("{label}: already there"));
                        }
                        ResultCode::Refused => {
                            self.progress
                                .say(&format!("{label}: refused: {}", answer.descrip));
                        }
                        ResultCode::Accepted | ResultCode::InProgress => {
                            self.labels.extend(answer.job.map(|id| (id, label)));
                        }
                    }
                }
            }
            Seen::Progress(id, snapshot) => {
                self.last.insert(id, snapshot);
                self.update(id, JobState::Running, None);
            }
            Seen::Event(event) => {
                if let (Some(id), EventKind::Retrying) = (event.job, &event.kind)
                    && let Some(label) = self.labels.get(&id)
                {
                    self.progress.say(&format!("{label}: {}", event.message));
                }
            }
        }
    }

    fn update(&mut self, id: JobId, state: JobState, failure: Option<String>) {
        if let Some(label) = self.labels.get(&id) {
            let moment = Moment {
                label: label.clone(),
                state,
                snapshot: self.last.get(&id).copied(),
                failure,
            };
            self.progress.update(&id, &moment);
        }
    }

    fn end(&mut self, applied: &[Applied]) {
        for job in applied.iter().filter_map(|a| a.job.as_ref()) {
            let failure = job.failure.as_ref().map(ToString::to_string);
            self.update(job.id, job.state, failure);
        }
    }
}

/// Returns the row of an element.
fn row(applied: &Applied) -> Ended {
    let job = applied.job.as_ref();
    let result = match (applied.answer.code, job.map(|j| j.state)) {
        (ResultCode::Refused, _) => EndResult::Refused,
        (ResultCode::AlreadyPublished, _) => EndResult::AlreadyThere,
        (_, Some(JobState::Succeeded)) => EndResult::Published,
        (_, Some(JobState::Canceled)) => EndResult::Canceled,
        // Interrupted: the next run resumes it.
        (_, Some(JobState::Queued | JobState::Retrying | JobState::Running)) => {
            EndResult::Interrupted
        }
        (_, Some(JobState::Failed) | None) => EndResult::Failed,
    };
    let took = job.and_then(|j| show::between(Some(j.accepted_ms), j.finished_ms));
    let path = applied.path.as_ref().map(|path| path.display().to_string());
    Ended {
        name: applied.answer.name.clone(),
        version: applied.answer.version.clone(),
        result,
        size: applied
            .size
            .map(|(bytes, _)| bytes)
            .or(job.and_then(|j| j.stated.size)),
        files: applied.size.map(|(_, files)| files),
        seconds: ended::seconds(took.filter(|_| result != EndResult::AlreadyThere)),
        path: path.filter(|_| matches!(result, EndResult::Published | EndResult::AlreadyThere)),
        region: None,
        failure: job
            .filter(|_| result == EndResult::Failed)
            .and_then(|j| j.failure.clone()),
        message: Some(applied.answer.descrip.clone()),
    }
}
