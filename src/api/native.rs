//! The native API: what the command line asks, in JSON.
//!
//! Rows of the store become the words of [`super::model`] here, and nowhere else. What a running job says of itself comes
//! from the board, which is newer than any row.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use super::Api;
use super::body::read_whole;
use super::command::{Command, Reply};
use super::error::{ApiError, json};
use super::model::{self, File};
use super::server::Peer;
use crate::datafile::Key;
use crate::intake;
use crate::job::{JobId, JobState, Via};
use crate::store::activations::{self, Reason, Request, Requested};
use crate::store::jobs::{self, Cancel, JobRow};
use crate::store::outbox;
use crate::store::releases::{self, ReleaseRow};
use crate::store::{self, Topic, Tx};
use crate::sys::space;
use crate::wire::document::{DocumentError, MAX_DOCUMENT, PushDocument, Sources};

/// Longest body of a request that is no push document.
const MAX_BODY: usize = 64 * 1024;
/// How long whoever asked for a version to become live is kept waiting.
const FLIP_PATIENCE: Duration = Duration::from_secs(30);
/// How long whoever asked for a job to end, and for its partial file to go, is kept waiting.
const CANCEL_PATIENCE: Duration = Duration::from_secs(30);
/// How often what is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long the agent may take to take a command.
const COMMAND_PATIENCE: Duration = Duration::from_secs(5);
/// Files on one answer when the asker does not say.
const FILES: u64 = 100;
/// Rows of anything on one answer at most.
const MOST: u64 = 10_000;

type Answer = Result<Response, ApiError>;

fn ok(body: &impl Serialize) -> Answer {
    Ok(json(StatusCode::OK, body))
}

/// Answers as long as the process answers.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Which form of the answer is wanted.
#[derive(Deserialize)]
pub(super) struct Verbose {
    verbose: Option<String>,
}

/// Tells whether the node takes pushes.
pub(super) async fn readyz(State(api): State<Arc<Api>>, Query(form): Query<Verbose>) -> Response {
    let readiness = api.readiness();
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    match (form.verbose.is_some(), readiness.ready) {
        (true, _) => json(status, &readiness),
        (false, true) => Response::new(Body::from("ready\n")),
        (false, false) => {
            let mut answer = Response::new(Body::from("not ready\n"));
            *answer.status_mut() = status;
            answer
        }
    }
}

impl Api {
    /// Looks at everything that decides whether the node takes pushes.
    pub(super) fn readiness(&self) -> model::Readiness {
        let mut checks = vec![
            check(
                "draining",
                !self.is_draining(),
                "no",
                "the agent is stopping",
            ),
            self.store_check(),
        ];
        checks.extend((self.deps.checks)());
        model::Readiness {
            ready: checks.iter().all(|check| check.ok),
            checks,
        }
    }

    fn store_check(&self) -> model::Check {
        // A commit waits for the disk; half a minute of that is a disk that hangs.
        let hangs = self
            .deps
            .store
            .busy_for()
            .is_some_and(|busy| busy > Duration::from_secs(30));
        check("store", !hangs, "writes", "a commit hangs")
    }

    /// Makes the API's word for a job.
    pub(super) fn file(&self, row: JobRow) -> File {
        let live = self.deps.board.get(row.id);
        let release = row.release.map(|on_disk| model::OnDisk {
            live: on_disk.live,
            pinned: on_disk.pinned,
            damage: on_disk.damage,
        });
        let path = release
            .is_some()
            .then(|| (self.deps.tree)(&row.key).display().to_string());
        File {
            id: row.id,
            key: row.key,
            push: row.push,
            via: row.via,
            archive_type: row.archive_type,
            stated: row.stated,
            source: row.source,
            timeout_ms: row.timeout_ms,
            activate: row.activate,
            state: row.state,
            status: row.status,
            stage: row.stage,
            starts: row.starts,
            attempts: row.attempts,
            not_before_ms: row.not_before_ms,
            cancel_requested: row.cancel_requested,
            accepted_ms: row.accepted_ms,
            started_ms: row.started_ms,
            updated_ms: row.updated_ms,
            finished_ms: row.finished_ms,
            received: row.received,
            total: row.total,
            fetched: row.fetched,
            files: row.files,
            written: row.written,
            failure: row.failure,
            published: row.published,
            release,
            path,
        }
        .live(live)
    }

    fn files(&self, rows: Vec<JobRow>) -> Vec<File> {
        rows.into_iter().map(|row| self.file(row)).collect()
    }

    fn release(&self, row: ReleaseRow) -> model::Release {
        model::Release {
            path: Some((self.deps.tree)(&row.key).display().to_string()),
            key: row.key,
            job: row.job,
            content: row.content,
            files: row.files,
            bytes: row.bytes,
            published_ms: row.published_ms,
            activated_ms: row.activated_ms,
            live: row.live,
            pinned: row.pinned,
            damage: row.damage,
        }
    }

    async fn body<T: DeserializeOwned>(&self, body: Body) -> Result<T, ApiError> {
        let (bytes, _) = read_whole(body, MAX_BODY, &self.bodies).await?;
        let bytes = if bytes.is_empty() { "{}".into() } else { bytes };
        serde_json::from_slice(&bytes).map_err(ApiError::bad_request)
    }

    async fn command<T>(&self, make: impl FnOnce(Reply<T>) -> Command) -> Result<T, ApiError> {
        let (reply, answer) = oneshot::channel();
        let send = self
            .deps
            .commands
            .send_timeout(make(reply), COMMAND_PATIENCE);
        let busy = |_| ApiError::unavailable("the agent is busy or stopping");
        send.await.map_err(busy)?;
        let gone = |_| ApiError::unavailable("the agent is stopping");
        Ok(answer.await.map_err(gone)??)
    }
}

fn check(name: &str, ok: bool, good: &str, bad: &str) -> model::Check {
    model::Check {
        name: name.to_owned(),
        ok,
        detail: if ok { good } else { bad }.to_owned(),
    }
}

/// Takes a push document.
pub(super) async fn push(State(api): State<Arc<Api>>, body: Body) -> Answer {
    if api.is_draining() {
        return Err(ApiError::unavailable("the agent is stopping"));
    }
    let (bytes, _place) = read_whole(body, MAX_DOCUMENT, &api.bodies).await?;
    let text = std::str::from_utf8(&bytes).map_err(ApiError::bad_request)?;
    let sources = match api.live().config.file_urls {
        true => Sources::Local,
        false => Sources::Remote,
    };
    let push = PushDocument::parse_from(text, sources)
        .map_err(|error: DocumentError| ApiError::bad_request(error))?;
    let answers = api.deps.intake.admit(push, Via::Api).await?;
    ok(&model::Pushed {
        push: answers
            .iter()
            .find(|answer| answer.job.is_some())
            .map(|answer| answer.push.clone()),
        answers: answers.into_iter().map(answer).collect(),
    })
}

fn answer(answer: intake::Answer) -> model::Answer {
    model::Answer {
        name: answer.name,
        version: answer.version,
        code: answer.code.code(),
        result: answer.code.into(),
        message: answer.descrip,
        refusal: answer.refusal.map(str::to_owned),
        job: answer.job,
    }
}

impl From<intake::Error> for ApiError {
    fn from(error: intake::Error) -> Self {
        match error {
            intake::Error::UnknownApp { .. }
            | intake::Error::NotSelected { .. }
            | intake::Error::TooMany { .. } => Self::bad_request(&error),
            intake::Error::Unavailable(error) | intake::Error::Store(error) => error.into(),
        }
    }
}

/// Tells how a push stands.
pub(super) async fn push_state(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Answer {
    let push = id.clone();
    let rows = api
        .deps
        .store
        .read(move |reader| jobs::of_push(reader, &push))
        .await?;
    if rows.is_empty() {
        let message = format!(
            "push `{}` has written no job",
            crate::datafile::shorten(&id)
        );
        return Err(ApiError::not_found(message));
    }
    ok(&model::Push {
        push: id,
        done: rows.iter().all(|row| row.state.is_final()),
        files: api.files(rows),
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
    query: Result<Query<FilesQuery>, axum::extract::rejection::QueryRejection>,
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
    ok(&model::Files {
        total: listed.total,
        files: api.files(listed.rows),
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
pub(super) async fn file(State(api): State<Arc<Api>>, Path(id): Path<i64>) -> Answer {
    let row = api.job(JobId(id)).await?;
    ok(&api.file(row))
}

/// Lists every job of a job's file that is remembered.
pub(super) async fn history(State(api): State<Arc<Api>>, Path(id): Path<i64>) -> Answer {
    let key = api.job(JobId(id)).await?.key;
    let rows = api
        .deps
        .store
        .read(move |reader| jobs::history(reader, &key))
        .await?;
    ok(&model::Files {
        total: rows.len() as u64,
        files: api.files(rows),
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
        .read(move |reader| match query.all.unwrap_or(false) {
            true => of_file(reader, &job.key, after, limit),
            false => of_job(reader, job.id, after, limit),
        })
        .await?;
    ok(&model::Events {
        events: rows.iter().map(super::events::event).collect(),
    })
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
    query: Result<Query<ReleasesQuery>, axum::extract::rejection::QueryRejection>,
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

/// Lists what became live, newest first: who, why, from which version to which, and when.
pub(super) async fn activations_log(
    State(api): State<Arc<Api>>,
    query: Result<Query<ReleasesQuery>, axum::extract::rejection::QueryRejection>,
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
    ok(&model::Activations {
        activations: rows.into_iter().map(model::Activation::from).collect(),
    })
}

/// Makes a version live.
pub(super) async fn activate(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answer {
    let which: model::WhichVersion = api.body(body).await?;
    let key = key(which);
    let wanted = key.clone();
    let requested = api
        .deps
        .store
        .write(move |tx| {
            let actor = peer.actor();
            let request = Request {
                key: &wanted,
                reason: Reason::Activate,
                actor: &actor,
                job: None,
            };
            activations::request(tx, &request)
        })
        .await?;
    api.flip(key, requested).await
}

/// Goes back to the previous good version of a name.
pub(super) async fn rollback(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answer {
    let which: model::WhichName = api.body(body).await?;
    let model::WhichName { app, name } = which.clone();
    let requested = api
        .deps
        .store
        .write(move |tx| activations::request_rollback(tx, &app, &name, &peer.actor()))
        .await?;
    let (app, name) = (which.app, which.name);
    match &requested {
        Requested::Waiting(_, version) | Requested::AlreadyLive(version) => {
            let version = version.clone();
            api.flip(Key { app, name, version }, requested).await
        }
        Requested::Unknown => Err(ApiError::not_found(format!(
            "{app}/{name} has no live version"
        ))),
        Requested::Damaged | Requested::NothingBefore => Err(ApiError::conflict(format!(
            "{app}/{name} has no good version to go back to"
        ))),
    }
}

impl Api {
    /// Waits until a wish to make `key` live has come true.
    async fn flip(&self, key: Key, requested: Requested) -> Answer {
        let id = match requested {
            Requested::Waiting(id, _) => id,
            Requested::AlreadyLive(_) => {
                return ok(&model::Activated {
                    from_version: Some(key.version.clone()),
                    key,
                    changed: false,
                });
            }
            Requested::Unknown => {
                return Err(ApiError::not_found(format!("{key} is not on this node")));
            }
            Requested::Damaged => {
                return Err(ApiError::conflict(format!(
                    "{key} is damaged; push it again to repair it"
                )));
            }
            Requested::NothingBefore => {
                return Err(ApiError::conflict(format!("nothing was live before {key}")));
            }
        };
        let deadline = Instant::now() + FLIP_PATIENCE;
        let mut ended = self.deps.store.wake(Topic::Activations);
        loop {
            ended.mark_unchanged();
            let row = self
                .deps
                .store
                .read(move |reader| activations::get(reader, id))
                .await?;
            match row {
                Some(row) if row.error.is_some() => {
                    let why = row.error.unwrap_or_default();
                    return Err(ApiError::conflict(format!("{key} is not live: {why}")));
                }
                Some(row) if row.done_ms.is_some() => {
                    return ok(&model::Activated {
                        key,
                        from_version: row.from_version,
                        changed: true,
                    });
                }
                Some(_) if Instant::now() < deadline => {
                    let _ = tokio::time::timeout(LOOK_EVERY, ended.changed()).await;
                }
                Some(_) => {
                    let message = format!("{key} will become live as soon as the agent gets to it");
                    return Err(ApiError::unavailable(message));
                }
                None => return Err(ApiError::unavailable("the request was lost")),
            }
        }
    }

    async fn job(&self, id: JobId) -> Result<JobRow, ApiError> {
        let row = self
            .deps
            .store
            .read(move |reader| jobs::get(reader, id))
            .await?;
        row.ok_or_else(|| ApiError::not_found(format!("there is no job {id}")))
    }

    async fn which_job(&self, which: &model::WhichJob) -> Result<JobRow, ApiError> {
        let (app, name, version) = match which.clone() {
            model::WhichJob { job: Some(id), .. } => return self.job(id).await,
            model::WhichJob {
                app: Some(app),
                name: Some(name),
                version: Some(version),
                ..
            } => (app, name, version),
            _ => {
                let message = "state the job, or its app, name and version";
                return Err(ApiError::bad_request(message));
            }
        };
        let key = Key { app, name, version };
        let shown = key.to_string();
        let row = self
            .deps
            .store
            .read(move |reader| jobs::latest(reader, &key))
            .await?;
        row.ok_or_else(|| ApiError::not_found(format!("{shown} was never pushed here")))
    }
}

/// Ends a job.
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answer {
    let which: model::WhichJob = api.body(body).await?;
    let id = api.which_job(&which).await?.id;
    let outcome = api
        .deps
        .store
        .write(move |tx| jobs::cancel_request(tx, id, &peer.actor()))
        .await?;
    let mut ended = match outcome {
        Cancel::Unknown => return Err(ApiError::not_found(format!("there is no job {id}"))),
        Cancel::Ended if !which.drop_partial => {
            return Err(ApiError::conflict(format!("job {id} has ended already")));
        }
        Cancel::Ended | Cancel::Done => true,
        Cancel::Requested => false,
    };
    if which.drop_partial {
        api.await_end(id).await?;
        api.command(|reply| Command::DropPartial { job: id, reply })
            .await?;
        ended = true;
    }
    ok(&model::Canceled { job: id, ended })
}

impl Api {
    async fn await_end(&self, id: JobId) -> Result<(), ApiError> {
        let deadline = Instant::now() + CANCEL_PATIENCE;
        while !self.job(id).await?.state.is_final() {
            if Instant::now() > deadline {
                let message = format!("job {id} has been asked to end and is still at work");
                return Err(ApiError::unavailable(message));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }
}

/// Makes a waiting job due now.
pub(super) async fn retry(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answer {
    let which: model::WhichJob = api.body(body).await?;
    let row = api.which_job(&which).await?;
    let id = row.id;
    if row.state.is_final() {
        let message = format!(
            "job {id} has {}; its source is not kept, so push {} again",
            row.state, row.key
        );
        return Err(ApiError::conflict(message));
    }
    let hurried = api
        .deps
        .store
        .write(move |tx| jobs::hurry(tx, id, &peer.actor()))
        .await?;
    match hurried {
        true => ok(&model::Retried { job: id }),
        false => Err(ApiError::conflict(format!("job {id} is at work"))),
    }
}

/// Keeps a version from retention, or gives it back.
pub(super) async fn pin(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answer {
    let pin: model::Pin = api.body(body).await?;
    let pinned = pin.pinned;
    let key = Key {
        app: pin.app,
        name: pin.name,
        version: pin.version,
    };
    let shown = key.to_string();
    let row = api
        .deps
        .store
        .write(move |tx| {
            releases::set_pinned(tx, &key, pinned, &peer.actor())?;
            releases::get(tx, &key)
        })
        .await?;
    match row {
        Some(row) => ok(&model::Releases {
            releases: vec![api.release(row)],
        }),
        None => Err(ApiError::not_found(format!("{shown} is not on this node"))),
    }
}

/// Removes a version from the disk.
pub(super) async fn remove(
    State(api): State<Arc<Api>>,
    query: Result<Query<model::WhichVersion>, axum::extract::rejection::QueryRejection>,
) -> Answer {
    let Query(which) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let key = key(which);
    ok(&api.command(|reply| Command::Remove { key, reply }).await?)
}

/// Runs retention now.
pub(super) async fn collect(State(api): State<Arc<Api>>) -> Answer {
    ok(&api.command(|reply| Command::Collect { reply }).await?)
}

/// Compares trees with their manifests.
pub(super) async fn verify(State(api): State<Arc<Api>>, body: Body) -> Answer {
    let what: model::WhatToVerify = api.body(body).await?;
    ok(&api.command(|reply| Command::Verify { what, reply }).await?)
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

/// Lists who is told, and callbacks.
pub(super) async fn outbox(
    State(api): State<Arc<Api>>,
    query: Result<Query<OutboxQuery>, axum::extract::rejection::QueryRejection>,
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
            let endpoints = outbox::endpoints(reader)?;
            Ok((endpoints, outbox::list(reader, &filter, limit)?))
        })
        .await?;
    ok(&model::Outbox {
        pending: endpoints.iter().map(|e| e.pending).sum(),
        dead: endpoints.iter().map(|e| e.dead).sum(),
        endpoints: endpoints.into_iter().map(endpoint).collect(),
        callbacks: callbacks.into_iter().map(callback).collect(),
    })
}

fn endpoint(row: outbox::EndpointRow) -> model::Endpoint {
    model::Endpoint {
        name: row.name,
        target: row.target,
        disabled: row.disabled,
        failures: row.failures,
        last_error: row.last_error,
        last_success_ms: row.last_success_ms,
        pending: row.pending,
        dead: row.dead,
    }
}

fn callback(row: outbox::OutboxRow) -> model::Callback {
    model::Callback {
        id: row.id,
        endpoint: row.endpoint,
        webhook_id: row.webhook_id,
        kind: row.kind,
        state: row.state,
        attempts: row.attempts,
        created_ms: row.created_ms,
        settled_ms: row.settled_ms,
        due_in_ms: row.due_in_ms,
        last_error: row.last_error,
        job: row.job,
    }
}

/// Sends callbacks that were given up once more.
pub(super) async fn replay(State(api): State<Arc<Api>>, body: Body) -> Answer {
    let which: model::Replay = api.body(body).await?;
    let (id, endpoint) = (which.id, which.endpoint);
    let count = api
        .deps
        .store
        .write(move |tx| match (id, endpoint) {
            (None, Some(endpoint)) => replay_endpoint(tx, endpoint),
            (id, _) => outbox::replay(tx, id),
        })
        .await?;
    match (id, count) {
        (Some(id), 0) => Err(ApiError::not_found(format!(
            "there is no settled callback {id}"
        ))),
        (_, count) => ok(&model::Replayed {
            replayed: count as u64,
        }),
    }
}

fn replay_endpoint(tx: &Tx<'_>, endpoint: String) -> Result<usize, store::Error> {
    let dead = outbox::Filter {
        state: Some("dead".to_owned()),
        endpoint: Some(endpoint),
        ..outbox::Filter::default()
    };
    let rows = outbox::list(tx, &dead, u32::MAX)?;
    rows.into_iter()
        .map(|row| outbox::replay(tx, Some(row.id)))
        .sum()
}

/// Shows the node at a glance.
pub(super) async fn status(State(api): State<Arc<Api>>) -> Answer {
    ok(&api.node_status().await?)
}

impl Api {
    /// Looks at the node as a whole.
    pub(super) async fn node_status(&self) -> Result<model::NodeStatus, ApiError> {
        let data_dir = self.deps.data_dir.clone();
        let seen = self
            .deps
            .store
            .read(move |reader| {
                let list = |states: &[JobState], limit| {
                    let filter = jobs::Filter {
                        states: states.to_vec(),
                        ..jobs::Filter::default()
                    };
                    let page = jobs::Page {
                        offset: 0,
                        limit,
                        newest_first: true,
                    };
                    jobs::list(reader, &filter, page).map(|listed| listed.rows)
                };
                Ok(Seen {
                    counts: jobs::counts(reader)?,
                    running: list(&[JobState::Running], 100)?,
                    failures: list(&[JobState::Failed], 5)?,
                    names: releases::names(reader)?,
                    endpoints: outbox::endpoints(reader)?,
                    disk: space::free(&data_dir).ok(),
                })
            })
            .await?;
        Ok(self.describe(seen))
    }

    fn describe(&self, seen: Seen) -> model::NodeStatus {
        let bad = self.readiness().checks.into_iter().find(|c| !c.ok);
        let state = match bad {
            None => "ready".to_owned(),
            Some(check) => format!("{}: {}", check.name, check.detail),
        };
        let counts: BTreeMap<String, u64> = JobState::ALL
            .iter()
            .map(|state| {
                let count = seen.counts.iter().find(|(s, _)| s == state);
                (state.to_string(), count.map_or(0, |(_, n)| *n))
            })
            .collect();
        model::NodeStatus {
            version: self.deps.version.to_owned(),
            region: self.deps.intake.region(),
            state,
            started_ms: self.started_ms,
            now_ms: self.deps.clock.now_ms(),
            data_dir: self.deps.data_dir.display().to_string(),
            listen_http: self.listen_http.get().map(ToString::to_string),
            counts,
            running: self.files(seen.running),
            failures: self.files(seen.failures),
            names: seen.names.len() as u64,
            releases: seen.names.iter().map(|name| name.versions).sum(),
            bytes: seen.names.iter().map(|name| name.bytes).sum(),
            outbox_pending: seen.endpoints.iter().map(|e| e.pending).sum(),
            outbox_dead: seen.endpoints.iter().map(|e| e.dead).sum(),
            disk: seen.disk.map(|free| model::Disk {
                free: free.bytes,
                total: free.total,
                free_inodes: (free.inodes != u64::MAX).then_some(free.inodes),
            }),
            gc_last_success_ms: self.deps.gauges.gc_last_success_ms(),
        }
    }
}

/// What the store and the disk say of the node.
struct Seen {
    counts: Vec<(JobState, u64)>,
    running: Vec<JobRow>,
    failures: Vec<JobRow>,
    names: Vec<releases::NameRow>,
    endpoints: Vec<outbox::EndpointRow>,
    disk: Option<space::Free>,
}

fn key(which: model::WhichVersion) -> Key {
    Key {
        app: which.app,
        name: which.name,
        version: which.version,
    }
}
