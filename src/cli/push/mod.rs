//! `edgepush push`: makes a push document from files and URLs, sends it to the agent on this
//! machine or to an ENS endpoint elsewhere, and follows each file to its end.

mod endpoint;
mod item;
mod pace;
mod remote;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;

use self::endpoint::Endpoint;
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

/// Interval for checking whether a version that was published before has become live.
const LOOK: Duration = Duration::from_millis(50);
/// Time limit for that.
const FLIP: Duration = Duration::from_secs(2);

#[derive(Debug, Parser)]
pub(super) struct Push {
    /// The application
    app: AppId,
    /// What to push: a file of this machine (its size and digests are computed) or a URL, which may
    /// pin what it holds: `maps@1.0=https://cdn.example/maps.zip#md5=..&size=..`
    #[arg(required = true, value_name = item::FORM)]
    items: Vec<String>,
    #[arg(long = "type", value_name = "TYPE", value_parser = ArchiveType::parse,
          help = format!("The type of every archive, where its name does not show it: {}", ArchiveType::choices()))]
    archive_type: Option<ArchiveType>,
    /// Time limit for each file, such as 30m
    #[arg(long, value_name = "SPAN", default_value = "30m", value_parser = humantime::parse_duration)]
    timeout: Duration,
    /// Push to this ENS endpoint instead of the agent on this machine: `http(s)://HOST[:PORT]`
    #[arg(long, value_name = "URL", requires = "key", requires = "secret_file")]
    to: Option<String>,
    /// With --to: the id of the access key that signs the calls
    #[arg(long, value_name = "ID", requires = "to")]
    key: Option<String>,
    /// With --to: the file that holds the key's secret, with mode 0600 or 0400
    #[arg(long, value_name = "FILE", requires = "to")]
    secret_file: Option<PathBuf>,
    /// Return as soon as the agent has answered, without waiting for the files
    #[arg(long)]
    no_wait: bool,
    /// Print the document and send nothing
    #[arg(long)]
    dry_run: bool,
}

impl Push {
    pub(super) fn run(self, global: &Global, out: &mut Out) -> Result<Exit, Error> {
        let files = self.files()?;
        if self.dry_run {
            let document = PushDocument::new(self.app.clone(), &files);
            out.line(to_json(&document)?)?;
            return Ok(exit::DONE);
        }
        let ended = match (&self.to, &self.key, &self.secret_file) {
            (Some(to), Some(key), Some(secret)) => {
                if global.socket.is_some() {
                    return Err(Error::usage("--to and --socket exclude each other"));
                }
                let endpoint = Endpoint::new(to, key, secret, redacted(&files))?;
                let mut progress = Progress::start(global.json || self.no_wait);
                let (app, no_wait) = (&self.app, self.no_wait);
                let push = remote::push(&endpoint, app, files, no_wait, &mut progress);
                reach::block_on(push)?
            }
            _ => self.to_agent(global, &files)?,
        };
        ended::show(&ended, out)
    }

    /// Pushes over the agent's socket.
    fn to_agent(&self, global: &Global, files: &[DataFile]) -> Result<Vec<Ended>, Error> {
        let document = to_json(&PushDocument::new(self.app.clone(), files))?;
        reach::ask(global, |client| async move {
            let pushed = client.push(document).await?;
            if self.no_wait {
                return Ok(pushed.answers.iter().map(|a| row(a, None)).collect());
            }
            let mut progress = Progress::start(global.json);
            follow(&client, pushed, &mut progress).await
        })
    }

    fn files(&self) -> Result<Vec<DataFile>, Error> {
        let usage = |error| Error::new(exit::USAGE, error);
        let make = |word: &String| {
            let item = Item::parse(word).map_err(usage)?;
            if let (Some(_), Some(path)) = (&self.to, item.local_path()) {
                return Err(only_urls(path));
            }
            item.data_file(&self.app, self.archive_type, self.timeout)
                .map_err(usage)
        };
        self.items.iter().map(make).collect()
    }
}

fn only_urls(path: &Path) -> Error {
    let what = format!(
        "`{}` is a file of this machine, which the nodes behind --to cannot fetch",
        path.display()
    );
    Error::usage(what).with_help(
        "upload it to a server that they reach and push its URL, or run the push without --to on the node itself",
    )
}

fn to_json(document: &PushDocument) -> Result<String, Error> {
    serde_json::to_string_pretty(document).map_err(|error| Error::new(exit::FAILED, error))
}

/// Returns the secrets of the files' URLs, as they are and percent-encoded: what an endpoint says
/// is shown without them.
fn redacted(files: &[DataFile]) -> Vec<String> {
    /// Shorter values are no secrets, but would be found in many words.
    const SHORTEST: usize = 6;
    let mut found = Vec::new();
    for url in files.iter().map(|file| file.url.url()) {
        found.extend(url.query().map(str::to_owned));
        found.extend(url.password().map(str::to_owned));
        found.extend(url.query_pairs().map(|(_, value)| value.into_owned()));
    }
    found.retain(|secret| secret.len() >= SHORTEST);
    let encode =
        |secret: &String| url::form_urlencoded::byte_serialize(secret.as_bytes()).collect();
    let encoded: Vec<String> = found.iter().map(encode).collect();
    found.extend(encoded);
    // The longest first: a whole query is one secret, not several with names between them.
    found.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    found
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
    let mut pace = Pace::local();
    loop {
        let asked = Instant::now();
        if let Some(id) = pushed.push.as_ref().filter(|_| wrote) {
            let now = client.push_state(id).await?;
            files.extend(now.files.into_iter().map(|file| (file.id, file)));
        }
        for id in jobs.keys() {
            let known = files.get(id);
            // A file that was in progress before belongs to another push.
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
    // A version that was published before is shown with what is known of it, and becomes live again
    // meanwhile.
    for answer in &pushed.answers {
        if let (Verdict::AlreadyPublished, Some(id)) = (answer.result, answer.job) {
            files.insert(id, made_live(client, id).await?);
        }
    }
    let file = |a: &Answer| a.job.and_then(|id| files.get(&id));
    Ok(pushed.answers.iter().map(|a| row(a, file(a))).collect())
}

/// Waits for a version that was published before to become live again, which needs no download.
/// With manual activation it does not become live.
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
        (_, None | Some(JobState::Queued | JobState::Retrying | JobState::Running)) => {
            EndResult::Accepted
        }
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
        region: None,
        failure: file.and_then(|f| f.failure.clone()),
        message: Some(answer.message.clone()),
    }
}
