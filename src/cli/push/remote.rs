//! A push to an ENS endpoint elsewhere: an agent on another machine, or whatever else speaks the
//! contract. It is followed by `DescribeDataPushResult` until every region of every file has ended.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use super::endpoint::Endpoint;
use super::pace::Pace;
use crate::cli::ended::{EndResult, Ended};
use crate::cli::exit::{self, Error};
use crate::cli::progress::{Moment, Progress};
use crate::datafile::{AppId, DataFile};
use crate::job::JobState;
use crate::wire::describe::Query;
use crate::wire::envelope::{self, Page, PushResult, RegionState};
use crate::wire::push::{Item, Push};
use crate::wire::sign::Action;
use crate::wire::status::{ResultCode, Status};

/// How long the push itself is retried.
const PUSH_PATIENCE: Duration = Duration::from_secs(10);
/// How long the endpoint may be away while files are followed: an agent that restarts is back long
/// before.
const FOLLOW_PATIENCE: Duration = Duration::from_secs(120);
/// Answers in a row that may lack an accepted file before it counts as lost.
const MISSES: u32 = 10;

/// A name and a version.
type FileKey = (String, String);

/// Pushes `files` and returns how each ended, in each region; with `no_wait`, how each was
/// answered.
pub(super) async fn push(
    endpoint: &Endpoint,
    app: &AppId,
    files: Vec<DataFile>,
    no_wait: bool,
    progress: &mut Progress<FileKey>,
) -> Result<Vec<Ended>, Error> {
    let sizes: Vec<Option<u64>> = files.iter().map(|file| file.size).collect();
    let push = Push {
        app: app.clone(),
        items: files.into_iter().map(item).collect(),
        strategy: None,
    };
    let action = Action::PushApplicationData;
    let results = endpoint
        .call(action, || push.write(), PUSH_PATIENCE, envelope::read_push)
        .await?;
    if results.len() != sizes.len() {
        let what = format!(
            "{} files were pushed, {} answered",
            sizes.len(),
            results.len()
        );
        return Err(Error::new(exit::FAILED, what));
    }
    let states = match no_wait {
        true => None,
        false => Some(follow(endpoint, app, &results, progress).await?),
    };
    let rows = results.iter().zip(sizes);
    Ok(rows
        .flat_map(|(result, size)| rows_of(endpoint, result, size, states.as_ref()))
        .collect())
}

fn item(file: DataFile) -> Item {
    Item {
        name: file.key.name.to_string(),
        version: file.key.version.to_string(),
        file: Ok(file),
    }
}

/// Asks for the states of all files that were not refused until none is being pushed.
async fn follow(
    endpoint: &Endpoint,
    app: &AppId,
    results: &[PushResult],
    progress: &mut Progress<FileKey>,
) -> Result<HashMap<FileKey, Vec<RegionState>>, Error> {
    let refused = ResultCode::Refused.code();
    let keys: BTreeSet<FileKey> = results
        .iter()
        .filter(|result| result.result_code != refused)
        .map(key)
        .collect();
    let query = query(app, &keys);
    let mut states = HashMap::new();
    let mut misses = 0;
    let mut pace = Pace::remote();
    while !keys.is_empty() {
        let asked = Instant::now();
        let action = Action::DescribeDataPushResult;
        let page: Page = endpoint
            .call(
                action,
                || query.write(),
                FOLLOW_PATIENCE,
                envelope::read_describe,
            )
            .await?;
        let took = asked.elapsed();
        states = page
            .rows
            .into_iter()
            .map(|row| ((row.name, row.version), row.regions))
            .collect();
        let mut left = 0;
        let mut missing = false;
        for key in &keys {
            let regions: &[RegionState] = states.get(key).map_or(&[], Vec::as_slice);
            progress.update(key, &moment(endpoint, key, regions));
            missing |= regions.is_empty();
            left += usize::from(regions.iter().any(|r| r.status == Status::Pushing));
        }
        misses = if missing { misses + 1 } else { 0 };
        if left == 0 && (!missing || misses > MISSES) {
            break;
        }
        tokio::time::sleep(pace.wait(left, took)).await;
    }
    Ok(states)
}

fn key(result: &PushResult) -> FileKey {
    (result.name.clone(), result.version.clone())
}

/// Asks for these files. Names and versions are separate filters, so that others may be answered as
/// well.
fn query(app: &AppId, keys: &BTreeSet<FileKey>) -> Query {
    let names: BTreeSet<&String> = keys.iter().map(|(name, _)| name).collect();
    let versions: BTreeSet<&String> = keys.iter().map(|(_, version)| version).collect();
    Query {
        app: app.clone(),
        names: names.into_iter().cloned().collect(),
        versions: versions.into_iter().cloned().collect(),
        regions: Vec::new(),
        since_ms: None,
        before_ms: None,
        page: None,
    }
}

/// Returns how far a file is, for the progress on the screen.
fn moment(endpoint: &Endpoint, (name, version): &FileKey, regions: &[RegionState]) -> Moment {
    let any = |status: Status| regions.iter().find(|region| region.status == status);
    let failed = any(Status::Failed);
    let state = match (any(Status::Pushing), failed, any(Status::Success)) {
        (Some(_), ..) => JobState::Running,
        (None, Some(_), _) => JobState::Failed,
        (None, None, Some(_)) => JobState::Succeeded,
        (None, None, None) => JobState::Queued,
    };
    Moment {
        label: format!("{name}@{version}"),
        state,
        snapshot: None,
        failure: failed.map(|region| endpoint.redact(&region.descrip)),
    }
}

/// Returns the rows of one file: one for each region, or one where the endpoint says nothing of
/// regions.
fn rows_of(
    endpoint: &Endpoint,
    result: &PushResult,
    size: Option<u64>,
    states: Option<&HashMap<FileKey, Vec<RegionState>>>,
) -> Vec<Ended> {
    let there_before = result.result_code == ResultCode::AlreadyPublished.code();
    let answered = match result.result_code {
        code if code == ResultCode::Refused.code() => EndResult::Refused,
        _ if there_before => EndResult::AlreadyThere,
        _ => EndResult::Accepted,
    };
    let whole = Ended {
        name: result.name.clone(),
        version: result.version.clone(),
        result: answered,
        size,
        files: None,
        seconds: None,
        path: None,
        region: None,
        failure: None,
        message: Some(endpoint.redact(&result.result_descrip)),
    };
    let Some(states) = states.filter(|_| answered != EndResult::Refused) else {
        return vec![whole];
    };
    let Some(regions) = states.get(&key(result)) else {
        let message = "the endpoint accepted it, but no longer reports it".to_owned();
        return vec![Ended {
            result: EndResult::Failed,
            message: Some(message),
            ..whole
        }];
    };
    let row = |region: &RegionState| Ended {
        result: match region.status {
            Status::Success if there_before => EndResult::AlreadyThere,
            Status::Success => EndResult::Published,
            Status::Failed => EndResult::Failed,
            Status::Pushing => EndResult::Accepted,
        },
        seconds: (!there_before).then(|| (region.update_ms - region.start_ms) as f64 / 1000.0),
        region: Some(region.region.clone()),
        message: Some(endpoint.redact(&region.descrip)),
        ..whole.clone()
    };
    regions.iter().map(row).collect()
}
