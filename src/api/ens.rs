//! The ENS endpoint: reads a call, finds out who asks, does it, and answers in the contract's shapes.
//!
//! The order of the checks is the contract's (ens.md §5.3). A nonce is stored only after the signature was found right; the
//! message of a wrong signature repeats the request, so it goes to that client only; no query string is ever logged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use tokio::runtime::RuntimeFlavor;
use tracing::debug;

use super::body::{Form, read_form};
use super::error::{ens_answer, ens_error, request_id, unavailable};
use super::server::Peer;
use super::{Api, Live};
use crate::datafile::{AppId, DataName, DataVersion, Key};
use crate::intake;
use crate::job::JobState;
use crate::store::jobs::{self, JobRow};
use crate::store::{self, Tx, nonces, releases};
use crate::wire::describe;
use crate::wire::download::{self, path};
use crate::wire::envelope::{self, Download, Page, PushResult, RegionState, Row, Server};
use crate::wire::errors::{Code, Refusal};
use crate::wire::parameters::Parameters;
use crate::wire::push::Push;
use crate::wire::push::Via;
use crate::wire::sign::{self, Action, Call, WINDOW_MS};

/// The vendor's clients give up after ten seconds; an answer before that tells them more than silence.
const DEADLINE: Duration = Duration::from_secs(9);

/// Parameters longer than this are worked at beside the other requests, not between them.
const LONG: usize = 256 * 1024;

/// Answers one call.
pub(super) async fn call(
    State(api): State<Arc<Api>>,
    Extension(peer): Extension<Peer>,
    request: Request,
) -> Response {
    let id = request_id();
    let (parts, body) = request.into_parts();
    let host = host(&parts.headers).to_owned();
    let answered = match read_form(&parts.headers, body, &api.bodies).await {
        Ok(form) => {
            let answer = answer(&api, peer, &parts, form, &id);
            let answer = tokio::time::timeout(DEADLINE, answer).await;
            answer.unwrap_or_else(|_| Err(Code::Unavailable.into()))
        }
        Err(refusal) => Err(refusal.into()),
    };
    let code = answered.as_ref().err().map(|r| r.refusal.code.clone());
    api.counters.ens_call(code.as_ref());
    debug!(event = "ens_call", request_id = %id, code = ?code.map(|c| c.name()), "answered a call");
    match answered {
        Ok(body) => ens_answer(StatusCode::OK, &id, body),
        Err(no) => {
            let mut answer = ens_error(&no.refusal, &id, &host);
            if let Some(wait) = no.wait {
                // The vendor's clients take this header for milliseconds, and only this one.
                let wait = HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                answer.headers_mut().insert("x-acs-retry-after", wait);
            }
            answer
        }
    }
}

/// Answers a path where there is nothing.
pub(super) async fn not_found(headers: HeaderMap) -> Response {
    ens_error(&Code::ActionNotFound.into(), &request_id(), host(&headers))
}

/// A refusal, and how long to wait where waiting helps.
struct No {
    refusal: Refusal,
    wait: Option<Duration>,
}

impl<T: Into<Refusal>> From<T> for No {
    fn from(refusal: T) -> Self {
        Self {
            refusal: refusal.into(),
            wait: None,
        }
    }
}

async fn answer(
    api: &Api,
    peer: Peer,
    parts: &axum::http::request::Parts,
    form: Form,
    id: &str,
) -> Result<String, No> {
    let parameters = Parameters::with_form(parts.uri.query().unwrap_or(""), form.reader)?;
    let call = Call::read(sign::Request {
        method: parts.method.as_str(),
        headers: &parts.headers,
        parameters: &parameters,
        body_sha256: form.sha256,
    })?;
    let live = api.live();
    let signed = authenticate(api, &live, peer, &call, &parameters)?;
    let key_id = signed.as_ref().map(|signed| signed.key_id);
    let nonce = signed.as_ref().map(|signed| signed.nonce.clone());
    let allowed =
        authorize(&live, key_id, call.action, &parameters).and_then(|()| parameters.check_common());
    if call.action != Action::PushApplicationData || allowed.is_err() {
        remember(api, nonce.clone()).await?;
    }
    allowed?;
    let answer = match call.action {
        Action::PushApplicationData => push(api, &parameters, nonce, id).await,
        Action::DescribeDataPushResult => describe(api, &parameters, id).await,
        Action::DescribeDataDownloadURL => {
            let host = match &live.config.public_address {
                Some(address) => address.as_str(),
                None => host(&parts.headers),
            };
            download(api, &parameters, key_id.unwrap_or("local"), host, id).await
        }
    };
    drop(form.place);
    Ok(answer?)
}

/// Who has signed a call, and what makes it count once.
struct Signed<'a> {
    key_id: &'a str,
    nonce: Nonce,
}

/// A nonce that has yet to be remembered, and found to be new.
#[derive(Clone)]
struct Nonce {
    key: String,
    text: String,
    expires_ms: i64,
}

impl Nonce {
    fn remember(&self, tx: &Tx<'_>) -> Result<bool, store::Error> {
        nonces::remember(tx, &self.key, &self.text, self.expires_ms)
    }
}

/// Remembers the nonce of a call, if it is signed, and refuses one that was used.
async fn remember(api: &Api, nonce: Option<Nonce>) -> Result<(), Refusal> {
    let Some(nonce) = nonce else {
        return Ok(());
    };
    let fresh = api.deps.store.write(move |tx| nonce.remember(tx)).await;
    match fresh.map_err(|e| unavailable(&e))? {
        true => Ok(()),
        false => Err(Code::NonceUsed.into()),
    }
}

/// Finds out which key has signed the call; none where a call need not be signed. Its nonce is for the caller to remember.
fn authenticate<'a>(
    api: &Api,
    live: &Live,
    peer: Peer,
    call: &Call<'a>,
    parameters: &Parameters,
) -> Result<Option<Signed<'a>>, No> {
    let unsigned_is_fine = peer.is_local() || live.config.insecure_tcp_intake;
    if !call.is_signed() && unsigned_is_fine {
        return Ok(None);
    }
    let key_id = call.key_id()?;
    let key = live.keys.find(key_id)?;
    heavy(parameters, || call.verify(key.secret.expose()))?;
    let time = call.time(api.deps.clock.now_ms())?;
    if let Err(wait) = api.rates.take(key_id, live.config.rate, Instant::now()) {
        return Err(No {
            refusal: Code::Throttling.into(),
            wait: Some(wait),
        });
    }
    Ok(Some(Signed {
        key_id,
        nonce: Nonce {
            key: key_id.to_owned(),
            text: call.nonce()?.to_owned(),
            expires_ms: time + WINDOW_MS,
        },
    }))
}

/// Runs what takes long for a long request: eight mebibytes are signed over several times their length. Other requests go
/// on meanwhile where the runtime has threads for that.
fn heavy<T>(parameters: &Parameters, work: impl FnOnce() -> T) -> T {
    let threads = tokio::runtime::Handle::current().runtime_flavor();
    if parameters.length() > LONG && threads == RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Refuses what the key may not do.
fn authorize(
    live: &Live,
    key_id: Option<&str>,
    action: Action,
    parameters: &Parameters,
) -> Result<(), Refusal> {
    let Some(key_id) = key_id else {
        return Ok(());
    };
    let config = &live.keys.find(key_id)?.config;
    if !config.actions.holds(&action) {
        return Err(Code::NoPermission.into());
    }
    // An application that is none is for the action to refuse, by its own name.
    match AppId::parse(parameters.required("AppId")?) {
        Ok(app) if !config.apps.holds(&app) => Err(Code::NoPermission.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Takes a push. Its nonce and its files are written in one piece, so that it waits for the disk once.
async fn push(
    api: &Api,
    parameters: &Parameters,
    nonce: Option<Nonce>,
    id: &str,
) -> Result<String, Refusal> {
    let admitted = match read_push(api, parameters) {
        Ok(push) => {
            let nonce = nonce.clone();
            let first = move |tx: &Tx<'_>| nonce.map_or(Ok(true), |nonce| nonce.remember(tx));
            let admitted = api.deps.intake.admit_if(push, Via::Ens, first).await;
            admitted.map_err(|e| not_admitted(&e))
        }
        Err(refusal) => Err(refusal),
    };
    let answers = match admitted {
        Ok(answers) => answers.ok_or(Code::NonceUsed)?,
        Err(refusal) => {
            remember(api, nonce).await?;
            return Err(refusal);
        }
    };
    let results: Vec<PushResult> = answers
        .into_iter()
        .map(|answer| PushResult {
            name: answer.name,
            version: answer.version,
            result_code: answer.code.code(),
            result_descrip: answer.descrip,
        })
        .collect();
    Ok(envelope::push_answer(id, &results))
}

fn read_push(api: &Api, parameters: &Parameters) -> Result<Push, Refusal> {
    if api.is_draining() {
        return Err(Code::Unavailable.into());
    }
    heavy(parameters, || Push::read(parameters))
}

fn not_admitted(error: &intake::Error) -> Refusal {
    match error {
        intake::Error::UnknownApp { .. } => Refusal::parameter("AppId", error),
        intake::Error::NotSelected { .. } => Refusal::parameter("PushStrategy", error),
        intake::Error::TooMany { .. } => Refusal::parameter("Data", error),
        intake::Error::Unavailable(error) | intake::Error::Store(error) => unavailable(error),
    }
}

fn known_app(api: &Api, app: &AppId) -> Result<(), Refusal> {
    match api.deps.intake.knows(app) {
        true => Ok(()),
        false => Err(Refusal::parameter("AppId", "It is not known on this node.")),
    }
}

async fn describe(api: &Api, parameters: &Parameters, id: &str) -> Result<String, Refusal> {
    let query = describe::Query::read(parameters)?;
    known_app(api, &query.app)?;
    let region = &api.deps.intake.region();
    if !query.wants_region(region) {
        return Ok(envelope::describe_answer(id, &page(&query, 0, Vec::new())));
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
        None => jobs::Page::ALL,
        Some(page) => jobs::Page {
            offset: page.offset() as u64,
            limit: page.size as u64,
            newest_first: false,
        },
    };
    let listed = api
        .deps
        .store
        .read(move |reader| jobs::list(reader, &filter, part))
        .await
        .map_err(|e| unavailable(&e))?;
    let rows = listed
        .rows
        .into_iter()
        .map(|job| row(&with_unrecorded(api, job), region))
        .collect();
    let total = usize::try_from(listed.total).unwrap_or(usize::MAX);
    Ok(envelope::describe_answer(id, &page(&query, total, rows)))
}

fn page(query: &describe::Query, total: usize, rows: Vec<Row>) -> Page {
    Page {
        total,
        number: query.page.map_or(1, |page| page.number),
        size: query.page.map_or(rows.len(), |page| page.size),
        rows,
    }
}

/// Puts in how a job has failed, where that cannot be written down.
fn with_unrecorded(api: &Api, mut job: JobRow) -> JobRow {
    if job.state == JobState::Running
        && let Some(unrecorded) = api.deps.board.unrecorded_failure(job.id)
    {
        if !unrecorded.again {
            job.state = JobState::Failed;
            job.status = job.state.status();
        }
        job.updated_ms = unrecorded.at_ms;
        job.failure = Some(unrecorded.failure);
    }
    job
}

fn row(job: &JobRow, region: &str) -> Row {
    Row {
        name: job.key.name.to_string(),
        version: job.key.version.to_string(),
        regions: vec![RegionState {
            region: region.to_owned(),
            status: job.status.as_str(),
            start_ms: job.accepted_ms,
            // A clock that was set back must not end a push before it began.
            update_ms: job.updated_ms.max(job.accepted_ms),
            descrip: describe_state(job),
        }],
    }
}

fn describe_state(job: &JobRow) -> String {
    match (job.state, &job.failure, job.stage) {
        (JobState::Queued, ..) => "waiting".to_owned(),
        (JobState::Running, Some(failure), _) => format!("to be tried again: {failure}"),
        (JobState::Running, None, Some(stage)) => format!("at work: {stage}"),
        (JobState::Running, None, None) => "at work".to_owned(),
        (JobState::Succeeded, ..) if job.release.is_none() => {
            "Success; removed from this node since".to_owned()
        }
        (JobState::Succeeded, ..) => "Success".to_owned(),
        (JobState::Failed, Some(failure), _) => failure.to_string(),
        (JobState::Failed, None, _) => "failed".to_owned(),
        (JobState::Canceled, ..) => "canceled by an operator".to_owned(),
    }
}

async fn download(
    api: &Api,
    parameters: &Parameters,
    key_id: &str,
    host: &str,
    id: &str,
) -> Result<String, Refusal> {
    let query = download::Query::read(parameters)?;
    known_app(api, &query.app)?;
    let region = api.deps.intake.region();
    if let Some(strategy) = &query.servers
        && !strategy.selects(&region)
    {
        let detail = "It selects no region of this node.";
        return Err(Refusal::parameter("ServerFilterStrategy", detail));
    }
    let served = is_served(api, &query).await?;
    let expire_ms = api.deps.clock.now_ms() / 1000 * 1000 + i64::from(query.expire_s) * 1000;
    let path = path(&query.app, &query.name, &query.version);
    let server = Server {
        host: host.to_owned(),
        region_id: region,
    };
    let download = Download {
        url: api.file_key.sign(&path, key_id, expire_ms / 1000),
        expire_ms,
        servers: served.is_ok().then_some(server).into_iter().collect(),
        message: served.err().unwrap_or("Success").to_owned(),
    };
    Ok(envelope::download_answer(id, &download))
}

/// Tells whether the archive can be downloaded here, or why not; refuses a name or version that was never pushed.
async fn is_served(
    api: &Api,
    query: &download::Query,
) -> Result<Result<(), &'static str>, Refusal> {
    let unknown = |what: &'static str| Refusal::parameter(what, "It was never pushed here.");
    let key = Key {
        app: query.app.clone(),
        name: DataName::parse(&query.name).map_err(|_| unknown("DataName"))?,
        version: DataVersion::parse(&query.version).map_err(|_| unknown("DataVersion"))?,
    };
    let archive = (api.deps.archive)(&key);
    let (known, pushed, released, kept) = api
        .deps
        .store
        .read(move |reader| {
            let (_, known) = jobs::known(reader, key.app.as_str(), key.name.as_str())?;
            let pushed = jobs::latest(reader, &key)?.is_some();
            let released = releases::get(reader, &key)?.is_some();
            Ok((known, pushed, released, archive.is_file()))
        })
        .await
        .map_err(|e| unavailable(&e))?;
    match (known, pushed, released, kept) {
        (false, ..) => Err(unknown("DataName")),
        (true, false, ..) => Err(unknown("DataVersion")),
        (true, true, false, _) => Ok(Err("no server has published it")),
        (true, true, true, true) => Ok(Ok(())),
        (true, true, true, false) if (api.deps.keep_archives)() => {
            Ok(Err("its archive is not on this node any more"))
        }
        (true, true, true, false) => Ok(Err(
            "archives are not kept on this node (keep_archives = false)",
        )),
    }
}

fn host(headers: &HeaderMap) -> &str {
    headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or("")
}
