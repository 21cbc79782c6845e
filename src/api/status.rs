//! The node as a whole: whether it accepts pushes, and its state.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::Api;
use super::error::{ApiError, json};
use super::native::{Answer, ok};
use crate::db::endpoints;
use crate::http::Peer;
use crate::job::JobState;
use crate::publish::Publisher;
use crate::shown::{File, Release, model};
use crate::store::jobs;
use crate::store::releases;
use crate::sys::units::show_bytes;
use crate::sys::{Chain, lossy, space, tasks};

/// A commit that takes longer means that the disk hangs.
const HANGS: Duration = Duration::from_secs(10);
/// How long a failed write makes the node unready, unless a later one succeeds.
const REFUSED: Duration = Duration::from_secs(30);

/// Most damaged versions that the status names.
const DAMAGED: usize = 20;

/// Answers for as long as the process runs.
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// The form of the response.
#[derive(Deserialize)]
pub(super) struct Verbose {
    verbose: Option<String>,
}

/// Tells whether the node accepts pushes.
pub(super) async fn readyz(State(api): State<Arc<Api>>, Query(form): Query<Verbose>) -> Response {
    let readiness = api.readiness();
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
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
    /// Checks everything that decides whether the node accepts pushes.
    pub(super) fn readiness(&self) -> model::Readiness {
        let checks = vec![
            check(
                "draining",
                !self.is_draining(),
                "no",
                "the agent is stopping",
            ),
            self.store_check(),
            disk_check(&self.deps.publisher),
        ];
        model::Readiness {
            ready: checks.iter().all(|check| check.ok),
            checks,
        }
    }

    fn store_check(&self) -> model::Check {
        let store = &self.deps.store;
        let hangs = store.busy_for().is_some_and(|busy| busy > HANGS);
        match store.failure().or_else(|| store.refused_within(REFUSED)) {
            Some(error) => check("store", false, "", &error.to_string()),
            None => check("store", !hangs, "writes", "a commit hangs"),
        }
    }
}

fn check(name: &str, ok: bool, good: &str, bad: &str) -> model::Check {
    model::Check {
        name: name.to_owned(),
        ok,
        detail: if ok { good } else { bad }.to_owned(),
    }
}

fn disk_check(publisher: &Publisher) -> model::Check {
    let (ok, detail) = match (publisher.space().check(), publisher.space().available()) {
        (Ok(free), Ok(available)) => {
            let shown = show_bytes(available);
            (
                available > 0 && free.inodes > 0,
                format!("{shown} available"),
            )
        }
        (Err(error), _) => (false, error.to_string()),
        (_, Err(error)) => (false, Chain(&error).to_string()),
    };
    model::Check {
        name: "disk".to_owned(),
        ok,
        detail,
    }
}

/// Shows the state of the node.
pub(super) async fn status(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
) -> Answer {
    ok(&api.node_status(peer).await?)
}

impl Api {
    /// Returns the state of the node.
    pub(super) async fn node_status(&self, peer: Peer) -> Result<model::NodeStatus, ApiError> {
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
                    jobs::list(reader, &filter, page).map(|listed| listed.files)
                };
                Ok(Seen {
                    counts: jobs::counts(reader)?,
                    running: list(&[JobState::Running], 100)?,
                    failures: list(&[JobState::Failed], 5)?,
                    totals: releases::totals(reader)?,
                    damaged: releases::damaged(reader, DAMAGED)?,
                    endpoints: endpoints::list(reader)?,
                    disk: space::free(&data_dir).ok(),
                })
            })
            .await?;
        Ok(self.describe(seen, peer))
    }

    fn describe(&self, seen: Seen, peer: Peer) -> model::NodeStatus {
        let bad = self.readiness().checks.into_iter().find(|c| !c.ok);
        let state = match bad {
            None => "ready".to_owned(),
            Some(check) => format!("{}: {}", check.name, check.detail),
        };
        let (ended, running): (Vec<_>, Vec<_>) = self
            .files(seen.running, peer)
            .into_iter()
            .partition(|file| file.state.is_final());
        let unrecorded = ended.len() as u64;
        let mut failures = ended;
        failures.extend(self.files(seen.failures, peer));
        let counts: BTreeMap<String, u64> = JobState::ALL
            .iter()
            .map(|state| {
                let count = seen.counts.iter().find(|(s, _)| s == state);
                let count = count.map_or(0, |(_, n)| *n);
                let count = match state {
                    JobState::Running => count.saturating_sub(unrecorded),
                    JobState::Failed => count + unrecorded,
                    _ => count,
                };
                (state.to_string(), count)
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
            running,
            failures,
            names: seen.totals.names,
            releases: seen.totals.versions,
            bytes: seen.totals.bytes,
            outbox_pending: seen.endpoints.iter().map(|e| e.pending).sum(),
            outbox_dead: seen.endpoints.iter().map(|e| e.dead).sum(),
            disk: seen.disk.map(|free| model::Disk {
                free: free.bytes,
                total: free.total,
                free_inodes: (free.inodes != u64::MAX).then_some(free.inodes),
            }),
            gc_last_success_ms: self.deps.keep.upkeep_done_ms(),
            restart_needed: self.lock_restart_needed().clone(),
            workers: self.deps.keep.workers(),
            inbox: self.deps.inbox.borrow().clone(),
            panics: tasks::panics(),
            log_lines_lost: lossy::lost(),
            findings: self.findings(&seen.damaged),
        }
    }
}

impl Api {
    fn findings(&self, damaged: &[Release]) -> Vec<model::Finding> {
        let mut findings = self.deps.keep.findings();
        findings.extend(damaged.iter().map(|row| model::Finding {
            what: "damaged".to_owned(),
            on: row.key.to_string(),
            text: format!(
                "damaged: {}; repair it with `edgepush verify --heal`, or push it again",
                row.damage.as_deref().unwrap_or_default()
            ),
        }));
        findings
    }
}

/// What the store and the disk know of the node.
struct Seen {
    counts: Vec<(JobState, u64)>,
    running: Vec<File>,
    failures: Vec<File>,
    totals: releases::Totals,
    damaged: Vec<Release>,
    endpoints: Vec<endpoints::EndpointStatus>,
    disk: Option<space::Free>,
}
