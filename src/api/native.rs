//! Requests that only read, answered in JSON. The progress of a running job comes from the board,
//! which is newer than its row.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};

use super::Api;
use super::error::{ApiError, json};
use crate::datafile::Key;
use crate::db::{endpoints, outbox};
use crate::http::Peer;
use crate::job::{Failure, JobId, JobState};
use crate::shown::{File, Files, Release, model};
use crate::store::activations;
use crate::store::jobs;
use crate::store::releases;

/// Files in a response if the request states no limit.
const FILES: u64 = 100;
/// Most rows in a response.
const MOST: u64 = model::MOST_LISTED as u64;

/// A response, or the error that replaces it.
pub(super) type Answer = Result<Response, ApiError>;

/// Makes a JSON response.
pub(super) fn ok(body: &impl Serialize) -> Answer {
    Ok(json(StatusCode::OK, body))
}

impl Api {
    /// Adds to a file what its row does not know: the progress of a running job, and where its tree
    /// is. Over TCP, leaves out what only the operator of this node may know.
    pub(super) fn file(&self, row: File, peer: Peer) -> File {
        let mut file = self.deps.board.show(row);
        if !peer.is_local() {
            file.failure = file.failure.as_ref().map(Failure::for_others);
        }
        file.path = file.release.is_some().then(|| self.tree(&file.key));
        file
    }

    pub(super) fn files(&self, rows: Vec<File>, peer: Peer) -> Vec<File> {
        rows.into_iter().map(|row| self.file(row, peer)).collect()
    }

    fn tree(&self, key: &Key) -> String {
        let layout = self.deps.publisher.layout();
        layout.version_dir(key).display().to_string()
    }

    /// Adds to a release where its tree is.
    pub(super) fn release(&self, mut release: Release) -> Release {
        release.path = Some(self.tree(&release.key));
        release
    }

    /// Returns a job, or 404.
    pub(super) async fn job(&self, id: JobId) -> Result<File, ApiError> {
        let row = self
            .deps
            .store
            .read(move |reader| jobs::get(reader, id))
            .await?;
        row.ok_or_else(|| ApiError::not_found(format!("there is no job {id}")))
    }
}

/// Shows the jobs of a push.
pub(super) async fn push_state(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<String>,
) -> Answer {
    let push = id.clone();
    let rows = api
        .deps
        .store
        .read(move |reader| jobs::of_push(reader, &push))
        .await?;
    if rows.is_empty() {
        let message = format!("push `{}` has no jobs", crate::datafile::shorten(&id));
        return Err(ApiError::not_found(message));
    }
    let files = api.files(rows, peer);
    ok(&model::Push {
        push: id,
        done: files.iter().all(|file| file.state.is_final()),
        files,
    })
}

/// Which files are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FilesQuery {
    app: Option<String>,
    name: Option<String>,
    version: Option<String>,
    state: Option<String>,
    limit: Option<u64>,
    offset: Option<u64>,
    newest: Option<bool>,
}

/// Lists files by their latest job.
pub(super) async fn files(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    query: Result<Query<FilesQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let filter = jobs::Filter {
        app: query.app,
        names: query.name.into_iter().collect(),
        versions: query.version.into_iter().collect(),
        states: states(query.state.as_deref().unwrap_or(""))?,
        from_ms: None,
        before_ms: None,
    };
    let page = jobs::Page {
        offset: query.offset.unwrap_or(0),
        limit: query.limit.unwrap_or(FILES).min(MOST),
        newest_first: query.newest.unwrap_or(false),
    };
    let listed = api
        .deps
        .store
        .read(move |reader| jobs::list(reader, &filter, page))
        .await?;
    ok(&Files {
        total: listed.total,
        files: api.files(listed.files, peer),
    })
}

fn states(text: &str) -> Result<Vec<JobState>, ApiError> {
    text.split(',')
        .filter(|name| !name.is_empty())
        .map(|name| {
            JobState::parse(name).ok_or_else(|| {
                let known = JobState::ALL.map(JobState::as_str).join(", ");
                let name = crate::datafile::shorten(name);
                ApiError::bad_request(format!("state `{name}`, expected one of {known}"))
            })
        })
        .collect()
}

/// Shows one job.
pub(super) async fn file(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<i64>,
) -> Answer {
    let row = api.job(JobId(id)).await?;
    ok(&api.file(row, peer))
}

/// Lists every stored job of a job's file.
pub(super) async fn history(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    Path(id): Path<i64>,
) -> Answer {
    let key = api.job(JobId(id)).await?.key;
    let rows = api
        .deps
        .store
        .read(move |reader| jobs::history(reader, &key))
        .await?;
    ok(&Files {
        total: rows.len() as u64,
        files: api.files(rows, peer),
    })
}

/// Which events of a file are listed.
#[derive(Deserialize)]
pub(super) struct EventsOf {
    all: Option<bool>,
    after: Option<i64>,
}

/// Lists the timeline of a job, or of every job of its file.
pub(super) async fn events_of(
    State(api): State<Arc<Api>>,
    Path(id): Path<i64>,
    Query(query): Query<EventsOf>,
) -> Answer {
    use crate::store::events::{of_file, of_job};
    let job = api.job(JobId(id)).await?;
    let after = query.after.unwrap_or(0);
    let limit = u32::try_from(MOST).unwrap_or(u32::MAX);
    let rows = api
        .deps
        .store
        .read(move |reader| {
            if query.all.unwrap_or(false) {
                of_file(reader, &job.key, after, limit)
            } else {
                of_job(reader, job.id, after, limit)
            }
        })
        .await?;
    ok(&model::Events { events: rows })
}

/// Which releases are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleasesQuery {
    app: Option<String>,
    name: Option<String>,
    limit: Option<u32>,
    offset: Option<u32>,
}

/// Lists the versions on the disk.
pub(super) async fn releases(
    State(api): State<Arc<Api>>,
    query: Result<Query<ReleasesQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let most = u32::try_from(MOST).unwrap_or(u32::MAX);
    let limit = query.limit.unwrap_or(most).min(most);
    let rows = api
        .deps
        .store
        .read(move |reader| {
            let (app, name) = (query.app.as_deref(), query.name.as_deref());
            releases::list(reader, app, name, query.offset.unwrap_or(0), limit)
        })
        .await?;
    ok(&model::Releases {
        releases: rows.into_iter().map(|row| api.release(row)).collect(),
    })
}
/// Which callbacks are listed.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OutboxQuery {
    state: Option<String>,
    endpoint: Option<String>,
    after: Option<i64>,
    limit: Option<u32>,
}

/// Lists endpoints and callbacks.
pub(super) async fn outbox(
    State(api): State<Arc<Api>>,
    query: Result<Query<OutboxQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let most = u32::try_from(MOST).unwrap_or(u32::MAX);
    let limit = query.limit.unwrap_or(100).min(most);
    let filter = outbox::Filter {
        state: query.state,
        endpoint: query.endpoint,
        after: query.after.unwrap_or(0),
        newest_first: query.after.is_none(),
    };
    let (endpoints, callbacks) = api
        .deps
        .store
        .read(move |reader| {
            let endpoints = endpoints::list(reader)?;
            Ok((endpoints, outbox::list(reader, &filter, limit)?))
        })
        .await?;
    ok(&model::Outbox {
        pending: endpoints.iter().map(|e| e.pending).sum(),
        dead: endpoints.iter().map(|e| e.dead).sum(),
        endpoints,
        callbacks,
    })
}

/// Lists activations, newest first.
pub(super) async fn activations_log(
    State(api): State<Arc<Api>>,
    query: Result<Query<ReleasesQuery>, QueryRejection>,
) -> Answer {
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let most = u32::try_from(MOST).unwrap_or(u32::MAX);
    let limit = query.limit.unwrap_or(most).min(most);
    let rows = api
        .deps
        .store
        .read(move |reader| {
            let (app, name) = (query.app.as_deref(), query.name.as_deref());
            activations::log(reader, app, name, query.offset.unwrap_or(0), limit)
        })
        .await?;
    ok(&model::Activations { activations: rows })
}
