//! `edgepush push`: makes a push document from files and URLs, sends it to the agent and follows each file to its end.

mod item;
mod pace;

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use clap::Parser;

use self::item::Item;
use self::pace::Pace;
use super::ended::{self, EndResult, Ended};
use super::exit::{self, Error, Exit};
use super::out::Out;
use super::progress::{Moment, Progress};
use super::{Global, reach, show};
use crate::client::Client;
use crate::datafile::{AppId, ArchiveType, DataFile};
use crate::job::{JobId, JobState};
use crate::shown::File;
use crate::shown::model::{Answer, Pushed, Verdict};
use crate::wire::document::PushDocument;

/// How often it is looked at whether a version that was there before has become live.
const LOOK: Duration = Duration::from_millis(50);
/// How long that is waited for.
const FLIP: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
pub(super) struct Push {
    /// For which application
    app: AppId,
    /// What to push: a file of this machine (its size and digests are computed) or a URL, which may pin what it holds:
    /// `maps@1.0=https://cdn.example/maps.zip#md5=..&size=..`
    #[arg(required = true, value_name = item::FORM)]
    items: Vec<String>,
    /// How every archive is packed, where its name does not tell: tar.gz, zip or tar
    #[arg(long = "type", value_name = "TYPE", value_parser = ArchiveType::parse)]
    archive_type: Option<ArchiveType>,
    /// How long each file may take, such as 30m
    #[arg(long, value_name = "SPAN", default_value = "30m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// The agent's socket; the same as --socket
    #[arg(long, value_name = "PATH")]
    to: Option<String>,
    /// Return as soon as the agent has answered, without waiting for the files
    #[arg(long)]
    no_wait: bool,
    /// Print the document and send nothing
    #[arg(long)]
    dry_run: bool,
}

impl Push {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let global = self.target(global)?;
        let files = self.files()?;
        let document = PushDocument::new(self.app.clone(), &files);
        let document = serde_json::to_string_pretty(&document)
            .map_err(|error| Error::new(exit::FAILED, error))?;
        if self.dry_run {
            out.line(document)?;
            return Ok(exit::DONE);
        }
        let ended = reach::ask(&global, |client| async move {
            let pushed = client.push(document).await?;
            if self.no_wait {
                return Ok(pushed.answers.iter().map(|a| row(a, None)).collect());
            }
            let mut progress = Progress::start(global.json);
            follow(&client, pushed, &mut progress).await
        })?;
        ended::show(&ended, out)
    }

    fn files(&self) -> Result<Vec<DataFile>, Error> {
        let make = |word: &String| {
            Item::parse(word)?.data_file(&self.app, self.archive_type, self.timeout)
        };
        let files: Result<Vec<_>, _> = self.items.iter().map(make).collect();
        files.map_err(|error| Error::new(exit::USAGE, error))
    }

    fn target(&self, global: &Global) -> Result<Global, Error> {
        let mut global = global.clone();
        if let Some(to) = &self.to {
            if to.starts_with("http://") || to.starts_with("https://") {
                return Err(Error::usage(
                    "--to takes the path of the agent's socket; over HTTP a push is signed, by one of the ENS SDKs",
                ));
            }
            global.socket = Some(to.strip_prefix("unix:").unwrap_or(to).into());
        }
        Ok(global)
    }
}

/// Waits until every file of a push has ended.
async fn follow(
    client: &Client,
    pushed: Pushed,
    progress: &mut Progress<JobId>,
) -> Result<Vec<Ended>, Error> {
    let mut files: HashMap<JobId, File> = HashMap::new();
    // Refused and published files have their end in the answer.
    let waiting = |a: &&Answer| matches!(a.result, Verdict::Accepted | Verdict::InProgress);
    let jobs: BTreeMap<JobId, String> = pushed
        .answers
        .iter()
        .filter(waiting)
        .filter_map(|a| Some((a.job?, format!("{}@{}", a.name, a.version))))
        .collect();
    // A push that wrote no job is not remembered.
    let wrote = pushed.answers.iter().any(|a| a.result == Verdict::Accepted);
    let mut pace = Pace::new();
    loop {
        let asked = Instant::now();
        if let Some(id) = pushed.push.as_ref().filter(|_| wrote) {
            let now = client.push_state(id).await?;
            files.extend(now.files.into_iter().map(|file| (file.id, file)));
        }
        for id in jobs.keys() {
            let known = files.get(id);
            // A file that was at work before belongs to another push.
            if known.is_none_or(|f| !f.state.is_final() && Some(&f.push) != pushed.push.as_ref()) {
                files.insert(*id, client.file(*id).await?);
            }
        }
        let took = asked.elapsed();
        for (id, label) in &jobs {
            if let Some(file) = files.get(id) {
                progress.update(id, &moment(label, file));
            }
        }
        let ended = |id| files.get(id).is_some_and(|f| f.state.is_final());
        if jobs.keys().all(ended) {
            break;
        }
        let left = jobs.keys().filter(|id| !ended(id)).count();
        tokio::time::sleep(pace.wait(left, took)).await;
    }
    // What was there before is shown with what is known of it, and made live again meanwhile.
    for answer in &pushed.answers {
        if let (Verdict::AlreadyPublished, Some(id)) = (answer.result, answer.job) {
            files.insert(id, made_live(client, id).await?);
        }
    }
    let file = |a: &Answer| a.job.and_then(|id| files.get(&id));
    Ok(pushed.answers.iter().map(|a| row(a, file(a))).collect())
}

/// Waits a moment for a version that was there before to become live again: that follows the answer, and takes no
/// download. On a node that leaves it to the operator it does not come.
async fn made_live(client: &Client, id: JobId) -> Result<File, Error> {
    let end = tokio::time::Instant::now() + FLIP;
    loop {
        let file = client.file(id).await?;
        let live = file.release.as_ref().is_none_or(|release| release.live);
        if live || !file.activate || tokio::time::Instant::now() >= end {
            return Ok(file);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Returns how far a file is, for the progress on the screen.
pub(super) fn moment(label: &str, file: &File) -> Moment {
    Moment {
        label: label.to_owned(),
        state: file.state,
        snapshot: show::snapshot(file),
        failure: file.failure.as_ref().map(ToString::to_string),
    }
}

/// Returns the row of an element from its answer and what became of it.
fn row(answer: &Answer, file: Option<&File>) -> Ended {
    let result = match (answer.result, file.map(|f| f.state)) {
        (Verdict::Refused, _) => EndResult::Refused,
        (Verdict::AlreadyPublished, _) => EndResult::AlreadyThere,
        (_, Some(JobState::Succeeded)) => EndResult::Published,
        (_, Some(JobState::Failed)) => EndResult::Failed,
        (_, Some(JobState::Canceled)) => EndResult::Canceled,
        (_, None | Some(JobState::Queued | JobState::Running)) => EndResult::Accepted,
    };
    let published = file.and_then(|f| f.published.as_ref());
    let stated = file.and_then(|f| f.stated.size);
    let fetched_now = result != EndResult::AlreadyThere;
    Ended {
        name: answer.name.clone(),
        version: answer.version.clone(),
        result,
        size: published.and_then(|p| p.content.size).or(stated),
        files: published.map(|p| p.files),
        seconds: ended::seconds(
            file.filter(|_| fetched_now)
                .and_then(|f| show::between(Some(f.accepted_ms), f.finished_ms)),
        ),
        path: file
            .filter(|f| f.state == JobState::Succeeded)
            .and_then(|f| f.path.clone()),
        failure: file.and_then(|f| f.failure.clone()),
        message: Some(answer.message.clone()),
    }
}
