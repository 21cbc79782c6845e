//! Requests that change something, over the unix socket only.
//!
//! A change of rows goes through the store: the runner finds it there, also after a crash, and the
//! request waits for the result. Work on published trees is in `trees`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use serde::de::DeserializeOwned;

use super::Api;
use super::error::ApiError;
use super::native::{Answer, ok};
use crate::datafile::Key;
use crate::db::outbox;
use crate::http::Peer;
use crate::http::body::read_whole;
use crate::intake;
use crate::job::JobId;
use crate::job::Reason;
use crate::shown::{File, model};
use crate::store::activations::{self, Request, Requested};
use crate::store::jobs::{self, Cancel};
use crate::store::{self, Tx, releases};
use crate::wire::document::{DocumentError, MAX_DOCUMENT, PushDocument, Sources};
use crate::wire::json;
use crate::wire::push::Via;
use crate::wire::status::ResultCode;

/// Largest body of a request other than a push.
const MAX_BODY: usize = 64 * 1024;
/// How long a request waits for a version to become live.
const FLIP_PATIENCE: Duration = Duration::from_secs(30);
/// How long a request waits for a job to end before its partial archive is deleted.
const CANCEL_PATIENCE: Duration = Duration::from_secs(30);
/// Time between two checks of what a request waits for.
const CHECK_EVERY: Duration = Duration::from_millis(50);

/// Accepts a push document.
pub(super) async fn push(State(api): State<Arc<Api>>, body: Body) -> Answer {
    if api.is_draining() {
        return Err(ApiError::unavailable("the agent is stopping"));
    }
    let (bytes, _place) = read_whole(body, MAX_DOCUMENT, &api.bodies).await?;
    let sources = if api.config().file_urls {
        Sources::Local
    } else {
        Sources::Remote
    };
    let push = PushDocument::parse(&bytes, sources)
        .map_err(|error: DocumentError| ApiError::bad_request(error))?;
    let answers = api.deps.intake.admit(push, Via::Api).await?;
    ok(&model::Pushed {
        push: answers
            .iter()
            .find(|answer| answer.code == ResultCode::Accepted)
            .map(|answer| answer.push.clone()),
        answers: answers.into_iter().map(model::Answer::from).collect(),
    })
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

/// Makes the previous good version of a name live.
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
            "{app}/{name} has no previous good version"
        ))),
    }
}

impl Api {
    /// Waits until a requested activation of `key` is done.
    async fn flip(&self, key: Key, requested: Requested) -> Answer {
        let id = match requested {
            Requested::Waiting(id, _) => id,
            Requested::AlreadyLive(_) => {
                self.deps.keep.restore_link(&key).await?;
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
        let mut ended = self.deps.store.wake(store::ACTIVATIONS);
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
                    let _ = tokio::time::timeout(CHECK_EVERY, ended.changed()).await;
                }
                Some(_) => {
                    let message = format!("{key} is not live yet; the request is pending");
                    return Err(ApiError::unavailable(message));
                }
                None => {
                    return Err(ApiError::unavailable(
                        "the request is not recorded any more",
                    ));
                }
            }
        }
    }

    async fn which_job(&self, which: &model::WhichJob) -> Result<File, ApiError> {
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

/// Cancels a job.
pub(super) async fn cancel(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    body: Body,
) -> Answer {
    let which: model::WhichJob = api.body(body).await?;
    let row = api.which_job(&which).await?;
    let id = row.id;
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
        api.deps.keep.discard_partial(&row.key).await;
        ended = true;
    }
    ok(&model::Canceled { job: id, ended })
}

impl Api {
    async fn await_end(&self, id: JobId) -> Result<(), ApiError> {
        let deadline = Instant::now() + CANCEL_PATIENCE;
        while !self.job(id).await?.state.is_final() {
            if Instant::now() > deadline {
                let message = format!("job {id} is being canceled and has not ended yet");
                return Err(ApiError::unavailable(message));
            }
            tokio::time::sleep(CHECK_EVERY).await;
        }
        Ok(())
    }
}

/// Starts the next attempt of a waiting job now.
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
    if !hurried {
        return Err(ApiError::conflict(format!("job {id} is already running")));
    }
    ok(&model::Retried { job: id })
}

/// Pins or unpins a version.
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

/// Sends callbacks again that were given up.
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

impl Api {
    pub(super) async fn body<T: DeserializeOwned>(&self, body: Body) -> Result<T, ApiError> {
        let (bytes, _) = read_whole(body, MAX_BODY, &self.bodies).await?;
        let bytes = if bytes.is_empty() { "{}".into() } else { bytes };
        json::check_keys(&bytes).map_err(ApiError::bad_request)?;
        serde_json::from_slice(&bytes).map_err(ApiError::bad_request)
    }
}

pub(super) fn key(which: model::WhichVersion) -> Key {
    Key {
        app: which.app,
        name: which.name,
        version: which.version,
    }
}
