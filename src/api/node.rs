//! The contract's actions on a node: [`ens::Actions`] over intake, store and kept archives.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::Deps;
use super::metrics::Counters;
use crate::datafile::{AppId, DataName, DataVersion, Key};
use crate::db::nonces;
use crate::ens::{self, Nonce};
use crate::intake;
use crate::job::JobState;
use crate::shown::File;
use crate::store::{self, Tx, jobs, releases};
use crate::sys::Chain;
use crate::wire::describe;
use crate::wire::download;
use crate::wire::envelope::{Page, PushResult, RegionState, Row, Server};
use crate::wire::errors::{Code, Refusal};
use crate::wire::push::{Push, Via};

/// The node behind the ENS endpoint.
pub(super) struct Node {
    pub(super) deps: Deps,
    pub(super) counters: Arc<Counters>,
    pub(super) draining: CancellationToken,
}

impl ens::Actions for Node {
    fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    async fn is_used(&self, nonce: &Nonce) -> Result<bool, Refusal> {
        let (nonce, now_ms) = (nonce.clone(), self.deps.clock.now_ms());
        let used = self
            .deps
            .store
            .read(move |reader| nonces::is_used(reader, &nonce.key, &nonce.text, now_ms));
        used.await.map_err(|error| unavailable(&error))
    }

    async fn remember(&self, nonce: Nonce) -> Result<bool, Refusal> {
        let fresh = self.deps.store.write(move |tx| remember(tx, &nonce)).await;
        fresh.map_err(|error| unavailable(&error))
    }

    async fn admit(
        &self,
        push: Push,
        nonce: Option<Nonce>,
    ) -> Result<Option<Vec<PushResult>>, Refusal> {
        let first = move |tx: &Tx<'_>| nonce.map_or(Ok(true), |nonce| remember(tx, &nonce));
        let admitted = self
            .deps
            .intake
            .admit_with(push, Via::Ens, first, |_, _| Ok(()));
        let answers = admitted.await.map_err(|error| not_admitted(&error))?;
        Ok(answers.map(|answers| answers.into_iter().map(push_result).collect()))
    }

    async fn describe(&self, query: &describe::Query) -> Result<Page, Refusal> {
        self.known_app(&query.app)?;
        let region = &self.deps.intake.region();
        if !query.wants_region(region) {
            return Ok(page(query, 0, Vec::new()));
        }
        let filter = jobs::Filter {
            app: Some(query.app.to_string()),
            names: query.names.clone(),
            versions: query.versions.clone(),
            states: Vec::new(),
            from_ms: query.since_ms,
            before_ms: query.before_ms,
        };
        let part = match query.page {
            None => jobs::Page {
                offset: 0,
                limit: describe::MAX_ROWS as u64,
                newest_first: false,
            },
            Some(page) => jobs::Page {
                offset: page.offset() as u64,
                limit: page.size as u64,
                newest_first: false,
            },
        };
        let listed = self
            .deps
            .store
            .read(move |reader| jobs::list(reader, &filter, part))
            .await
            .map_err(|error| unavailable(&error))?;
        let rows = listed
            .files
            .into_iter()
            .map(|file| row(&self.deps.board.show(file), region))
            .collect();
        let total = usize::try_from(listed.total).unwrap_or(usize::MAX);
        Ok(page(query, total, rows))
    }

    async fn servers(
        &self,
        query: &download::Query,
        host: &str,
    ) -> Result<(Vec<Server>, String), Refusal> {
        self.known_app(&query.app)?;
        let region_id = self.deps.intake.region();
        if let Some(strategy) = &query.servers
            && !strategy.selects(&region_id)
        {
            let detail = "It selects no region of this node.";
            return Err(Refusal::parameter("ServerFilterStrategy", detail));
        }
        Ok(match self.is_served(query).await? {
            Ok(()) => {
                let host = host.to_owned();
                (vec![Server { host, region_id }], "Success".to_owned())
            }
            Err(why) => (Vec::new(), why.to_owned()),
        })
    }

    fn answered(&self, refused: Option<&Code>) {
        self.counters.ens_call(refused);
    }
}

impl Node {
    fn known_app(&self, app: &AppId) -> Result<(), Refusal> {
        match self.deps.intake.knows(app) {
            true => Ok(()),
            false => Err(Refusal::parameter("AppId", "It is not known on this node.")),
        }
    }

    /// Returns whether the archive can be downloaded here, or why not; refuses a name or version
    /// that was never pushed.
    async fn is_served(
        &self,
        query: &download::Query,
    ) -> Result<Result<(), &'static str>, Refusal> {
        let unknown = |what: &'static str| Refusal::parameter(what, "It was never pushed here.");
        let key = Key {
            app: query.app.clone(),
            name: DataName::parse(&query.name).map_err(|_| unknown("DataName"))?,
            version: DataVersion::parse(&query.version).map_err(|_| unknown("DataVersion"))?,
        };
        let archive = self.deps.publisher.layout().archive(&key);
        let (known, pushed, released, kept) = self
            .deps
            .store
            .read(move |reader| {
                let (_, known) = jobs::known(reader, key.app.as_str(), key.name.as_str())?;
                let pushed = jobs::latest(reader, &key)?.is_some();
                let released = releases::get(reader, &key)?.is_some();
                Ok((known, pushed, released, archive.is_file()))
            })
            .await
            .map_err(|error| unavailable(&error))?;
        match (known, pushed, released, kept) {
            (false, ..) => Err(unknown("DataName")),
            (true, false, ..) => Err(unknown("DataVersion")),
            (true, true, false, _) => Ok(Err("no server has published it yet")),
            (true, true, true, true) => Ok(Ok(())),
            (true, true, true, false) if self.deps.publisher.keeps_archives() => {
                Ok(Err("its archive is no longer on this node"))
            }
            (true, true, true, false) => Ok(Err(
                "archives are not kept on this node (keep_archives = false)",
            )),
        }
    }
}

fn remember(tx: &Tx<'_>, nonce: &Nonce) -> Result<bool, store::Error> {
    nonces::remember(tx, &nonce.key, &nonce.text, nonce.expires_ms)
}

fn push_result(answer: intake::Answer) -> PushResult {
    PushResult {
        name: answer.name,
        version: answer.version,
        result_code: answer.code.code(),
        result_descrip: answer.descrip,
    }
}

fn not_admitted(error: &intake::Error) -> Refusal {
    match error {
        intake::Error::UnknownApp { .. } => Refusal::parameter("AppId", error),
        intake::Error::NotSelected { .. } => Refusal::parameter("PushStrategy", error),
        intake::Error::TooMany { .. } => Refusal::parameter("Data", error),
        intake::Error::Unavailable(error) | intake::Error::Store(error) => unavailable(error),
    }
}

/// Turns an error of the store into a refusal; the cause is logged.
fn unavailable(error: &store::Error) -> Refusal {
    tracing::error!(event = "store_error", error = %Chain(error), "a request failed");
    match error {
        store::Error::Failed { why } => Refusal::because(Code::Unavailable, why),
        error if error.is_unavailable() => Code::Unavailable.into(),
        _ => Code::Internal.into(),
    }
}

fn page(query: &describe::Query, total: usize, rows: Vec<Row>) -> Page {
    Page {
        total,
        number: query.page.map_or(1, |page| page.number),
        size: query.page.map_or(rows.len(), |page| page.size),
        rows,
    }
}

fn row(job: &File, region: &str) -> Row {
    Row {
        name: job.key.name.to_string(),
        version: job.key.version.to_string(),
        regions: vec![RegionState {
            region: region.to_owned(),
            status: job.status,
            start_ms: job.accepted_ms,
            // A clock that was set back must not end a push before it started.
            update_ms: job.updated_ms.max(job.accepted_ms),
            descrip: describe_state(job),
        }],
    }
}

fn describe_state(job: &File) -> String {
    match (job.state, &job.failure, job.stage) {
        (JobState::Queued, ..) => "queued".to_owned(),
        (JobState::Retrying, Some(failure), _) => format!("retrying: {failure}"),
        (JobState::Retrying, None, _) => "retrying".to_owned(),
        (JobState::Running, _, Some(stage)) => format!("in progress: {stage}"),
        (JobState::Running, _, None) => "in progress".to_owned(),
        (JobState::Succeeded, ..) if job.release.is_none() => {
            "Success; since removed from this node".to_owned()
        }
        (JobState::Succeeded, ..) => "Success".to_owned(),
        (JobState::Failed, Some(failure), _) => failure.to_string(),
        (JobState::Failed, None, _) => "failed".to_owned(),
        (JobState::Canceled, ..) => "canceled by an operator".to_owned(),
    }
}
