//! `edgepush apply`: one push document, processed by the same parts as in the daemon.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{Error, Parts};
use crate::config::Config;
use crate::intake::Answer;
use crate::job::{JobId, Snapshot};
use crate::report::Reporter;
use crate::shown::{Event, File};
use crate::store::{jobs, releases};
use crate::wire::push::Push;
use crate::wire::push::Via;

/// Time between two updates of the progress.
const SHOW_EVERY: Duration = Duration::from_millis(100);
/// Time for callbacks after the last file has ended.
const REPORT_PATIENCE: Duration = Duration::from_secs(5);
/// Time for a background worker to end its round.
const KEEP_PATIENCE: Duration = Duration::from_secs(5);

/// What an `apply` shows while it runs.
#[derive(Debug)]
pub enum Seen<'a> {
    /// The answers to the elements, in order.
    Answers(&'a [Answer]),
    Progress(JobId, Snapshot),
    Event(&'a Event),
}

/// How one element of the push ended.
#[derive(Debug)]
pub struct Applied {
    pub answer: Answer,
    /// Its job in its final state, if there was one.
    pub job: Option<File>,
    /// Its tree, if it is published.
    pub path: Option<PathBuf>,
    /// Bytes of its archive and files in its tree, if it is published.
    pub size: Option<(u64, u64)>,
}

/// Processes every element of `push`, and calls `seen` with what happens.
pub async fn apply(
    config: &Config,
    push: Push,
    seen: &mut dyn FnMut(Seen<'_>),
) -> Result<Vec<Applied>, Error> {
    let parts = Arc::new(Parts::open(config, true).await?);
    let app = push.app.clone();
    let drain = CancellationToken::new();
    let reporter = Reporter::new(config.report.clone(), parts.store.db().clone())?;
    let reporting = tokio::spawn(Arc::new(reporter).run(drain.clone()));
    let mut events = parts.store.subscribe();
    let answers = parts
        .intake
        .admit(push, Via::Apply)
        .await
        .map_err(Error::Intake)?;
    seen(Seen::Answers(&answers));
    let ids: Vec<JobId> = answers.iter().filter_map(|a| a.job).collect();

    parts.keep.check_repeats(&drain).await;
    let keeping = tokio::spawn(Arc::clone(&parts.keep).run(drain.clone()));
    let mut running = tokio::spawn(super::run_jobs(Arc::clone(&parts), drain.clone(), true));
    let mut tick = tokio::time::interval(SHOW_EVERY);
    let ended = loop {
        tokio::select! {
            ended = &mut running => break ended,
            Ok(event) = events.recv() => seen(Seen::Event(&event)),
            _ = tick.tick() => {
                for id in &ids {
                    if let Some(snapshot) = parts.board.get(*id) {
                        seen(Seen::Progress(*id, snapshot));
                    }
                }
            }
            _ = tokio::signal::ctrl_c() => drain.cancel(),
        }
    };
    ended.map_err(|e| Error::Other(e.to_string()))??;
    while let Ok(event) = events.try_recv() {
        seen(Seen::Event(&event));
    }
    wait_for_reports(&parts).await;
    drain.cancel();
    let _ = reporting.await;
    let _ = tokio::time::timeout(KEEP_PATIENCE, keeping).await;
    let mut applied = Vec::with_capacity(answers.len());
    for answer in answers {
        applied.push(look_up(&parts, &app, answer).await?);
    }
    parts.store.close().await;
    Ok(applied)
}

/// Gives callbacks a moment. Undelivered ones stay in the outbox.
async fn wait_for_reports(parts: &Parts) {
    let end = tokio::time::Instant::now() + REPORT_PATIENCE;
    while tokio::time::Instant::now() < end {
        match parts.store.read(crate::db::outbox::pending).await {
            Ok(0) | Err(_) => break,
            Ok(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn look_up(
    parts: &Parts,
    app: &crate::datafile::AppId,
    answer: Answer,
) -> Result<Applied, Error> {
    use crate::datafile::{DataName, DataVersion, Key};
    let job = match answer.job {
        Some(id) => parts.store.read(move |r| jobs::get(r, id)).await?,
        None => None,
    };
    let (Ok(name), Ok(version)) = (
        DataName::parse(&answer.name),
        DataVersion::parse(&answer.version),
    ) else {
        return Ok(Applied {
            answer,
            job,
            path: None,
            size: None,
        });
    };
    let key = Key {
        app: app.clone(),
        name,
        version,
    };
    let looked = key.clone();
    let release = parts.store.read(move |r| releases::get(r, &looked)).await?;
    let path = release
        .is_some()
        .then(|| parts.publisher.layout().version_dir(&key));
    let size = release.map(|r| (r.content.size.unwrap_or(0), r.files));
    Ok(Applied {
        answer,
        job,
        path,
        size,
    })
}
