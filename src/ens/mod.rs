//! The ENS endpoint: parses a call, authenticates it, executes it, and responds as the contract
//! says.
//!
//! What a call does is behind [`Actions`]; signatures, permissions, rates and the order of the
//! checks (docs/ens.md §5.3) are here. A nonce is recorded only when the call is not refused. The message of a wrong signature repeats the request, so it goes to that client alone,
//! and no query string is ever logged.

mod answer;
mod form;
mod keys;

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, request};
use axum::response::Response;
use axum::routing::any;
use axum::{Extension, Router};
use tokio::runtime::RuntimeFlavor;
use tracing::debug;

use self::form::Form;
use self::keys::{Keys, Rates};
use crate::datafile::AppId;
use crate::http::body::Bodies;
use crate::http::{Peer, origin};
use crate::sys::clock::Clock;
use crate::wire::describe;
use crate::wire::download::{self, FileKey};
use crate::wire::envelope::{self, Download, Page, PushResult, Server};
use crate::wire::errors::{Code, Refusal};
use crate::wire::parameters::Parameters;
use crate::wire::push::Push;
use crate::wire::sign::{self, Action, Call, WINDOW_MS};

pub use answer::{not_found, refused, unreadable};
pub use keys::{Error, KeyConfig, RateConfig};

/// What download paths name instead of an access key if their call was unsigned.
pub const UNSIGNED: &str = "local";

/// The vendor's clients time out after 10 s; an error before that says more than silence.
const DEADLINE: Duration = Duration::from_secs(9);
/// Parameters longer than this are processed off the async threads.
const LONG: usize = 256 * 1024;

/// Bounds the nonces on record for one key, which stay for half an hour at most.
const NONCES: RateConfig = RateConfig {
    per_second: 250,
    burst: 500_000,
};

/// What the endpoint does: the difference between a node and a control.
pub trait Actions: Send + Sync + 'static {
    /// Returns whether pushes are refused because the process is shutting down.
    fn is_draining(&self) -> bool;

    /// Returns whether the nonce of a call was used before.
    fn is_used(&self, nonce: &Nonce) -> impl Future<Output = Result<bool, Refusal>> + Send;

    /// Records the nonce of a call. `false` if it was used before.
    fn remember(&self, nonce: Nonce) -> impl Future<Output = Result<bool, Refusal>> + Send;

    /// Admits a push and records its nonce in one piece of writing, so that it waits for the disk
    /// once. `None`, and nothing of the push is taken, if the nonce was used before. After an error
    /// the nonce is not recorded.
    fn admit(
        &self,
        push: Push,
        nonce: Option<Nonce>,
    ) -> impl Future<Output = Result<Option<Vec<PushResult>>, Refusal>> + Send;

    /// Returns how pushes stand.
    fn describe(
        &self,
        query: &describe::Query,
    ) -> impl Future<Output = Result<Page, Refusal>> + Send;

    /// Returns the servers of an archive, and `Success` or why there is none. `host` is the address
    /// that the client used.
    fn servers(
        &self,
        query: &download::Query,
        host: &str,
    ) -> impl Future<Output = Result<(Vec<Server>, String), Refusal>> + Send;

    /// Counts an answered call.
    fn answered(&self, refused: Option<&Code>);
}

/// Prevents the replay of a signed call.
#[derive(Debug, Clone)]
pub struct Nonce {
    /// The access key that signed it.
    pub key: String,
    /// The nonce itself.
    pub text: String,
    /// From then on the call is too old to be replayed.
    pub expires_ms: i64,
}

/// Who may call, and how often.
#[derive(Debug, Clone)]
pub struct Config {
    /// The access keys.
    pub access_keys: Vec<KeyConfig>,
    /// Whether unsigned calls over TCP are accepted.
    pub insecure_tcp: bool,
    /// How often one access key may call.
    pub rate: RateConfig,
    /// Host and port of this process in download paths; absent: as the client reached it.
    pub public_address: Option<String>,
}

/// The endpoint over some [`Actions`].
pub struct Endpoint<A> {
    actions: A,
    live: RwLock<Arc<Live>>,
    file_key: Arc<FileKey>,
    rates: Rates,
    /// How many nonces of each key are recorded.
    recorded: Rates,
    clock: Arc<dyn Clock>,
}

/// What a reload replaces.
struct Live {
    config: Config,
    keys: Keys,
}

impl Live {
    fn load(config: Config) -> Result<Arc<Self>, Error> {
        let keys = Keys::load(&config.access_keys)?;
        Ok(Arc::new(Self { config, keys }))
    }
}

/// Checks what a start would: that every access key has an id of its own and a secret that can be
/// read.
pub fn check(keys: &[KeyConfig]) -> Result<(), Error> {
    Keys::load(keys).map(drop)
}

impl<A: Actions> Endpoint<A> {
    /// Makes an endpoint; reads the secrets of the access keys.
    pub fn new(
        actions: A,
        config: Config,
        file_key: Arc<FileKey>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Error> {
        Ok(Self {
            actions,
            live: RwLock::new(Live::load(config)?),
            file_key,
            rates: Rates::default(),
            recorded: Rates::default(),
            clock,
        })
    }

    /// Replaces keys, rates and addresses. On an error everything stays as it was.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        let live = Live::load(config)?;
        *self.live.write().unwrap_or_else(PoisonError::into_inner) = live;
        Ok(())
    }

    /// Returns the route of the calls. The layer below must provide a [`Peer`] and the [`Bodies`] of
    /// its listener.
    pub fn router<S: Clone + Send + Sync + 'static>(self: Arc<Self>) -> Router<S> {
        Router::new().route("/", any(call::<A>)).with_state(self)
    }

    /// Returns whether an access key exists and is enabled.
    pub fn has_key(&self, id: &str) -> bool {
        self.live().keys.find(id).is_ok()
    }

    fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn answer(
        &self,
        peer: Peer,
        parts: &request::Parts,
        form: Form,
        id: &str,
    ) -> Result<String, Denied> {
        let parameters = Parameters::with_form(parts.uri.query().unwrap_or(""), form.reader)?;
        let call = Call::read(sign::Request {
            method: parts.method.as_str(),
            headers: &parts.headers,
            parameters: &parameters,
            body_sha256: form.sha256,
        })?;
        let live = self.live();
        if !call.is_signed() && !peer.is_local() && live.config.insecure_tcp {
            check_unsigned(parts, live.config.public_address.as_deref())?;
        }
        let nonce = self.authenticate(&live, peer, &call, &parameters).await?;
        let key_id = nonce.as_ref().map(|nonce| nonce.key.clone());
        authorize(&live, key_id.as_deref(), call.action, &parameters)?;
        parameters.check_common()?;
        let answer = match call.action {
            Action::PushApplicationData => self.push(&parameters, nonce, id).await,
            Action::DescribeDataPushResult => {
                let query = describe::Query::read(&parameters)?;
                self.remember(nonce).await?;
                let page = self.actions.describe(&query).await?;
                Ok(envelope::describe_answer(id, &page))
            }
            Action::DescribeDataDownloadURL => {
                let query = download::Query::read(&parameters)?;
                self.remember(nonce).await?;
                let host = match &live.config.public_address {
                    Some(address) => address.as_str(),
                    None => answer::host(&parts.headers),
                };
                let key_id = key_id.as_deref().unwrap_or(UNSIGNED);
                self.download(&query, key_id, host, id).await
            }
        };
        drop(form.place);
        Ok(answer?)
    }

    /// Finds out which key signed the call, and returns its nonce, which the caller must record unless
    /// the call is refused; `None` where a call need not be signed. A replay takes nothing of the
    /// key's rate.
    async fn authenticate(
        &self,
        live: &Live,
        peer: Peer,
        call: &Call<'_>,
        parameters: &Parameters,
    ) -> Result<Option<Nonce>, Denied> {
        let may_be_unsigned = peer.is_local() || live.config.insecure_tcp;
        if !call.is_signed() && may_be_unsigned {
            return Ok(None);
        }
        let key_id = call.key_id()?;
        let key = live.keys.find(key_id)?;
        heavy(parameters, || call.verify(key.secret.expose()))?;
        let time = call.time(self.clock.now_ms())?;
        let nonce = Nonce {
            key: key_id.to_owned(),
            text: call.nonce()?.to_owned(),
            expires_ms: time + WINDOW_MS,
        };
        if self.actions.is_used(&nonce).await? {
            return Err(Code::NonceUsed.into());
        }
        let now = Instant::now();
        let taken = self.rates.take(key_id, live.config.rate, now);
        let taken = taken.and_then(|()| self.recorded.take(key_id, NONCES, now));
        taken.map_err(|wait| Denied {
            refusal: Code::Throttling.into(),
            retry_after: Some(wait),
        })?;
        Ok(Some(nonce))
    }

    /// Records the nonce of a signed call, and refuses one that was used.
    async fn remember(&self, nonce: Option<Nonce>) -> Result<(), Refusal> {
        let Some(nonce) = nonce else {
            return Ok(());
        };
        match self.actions.remember(nonce).await? {
            true => Ok(()),
            false => Err(Code::NonceUsed.into()),
        }
    }

    async fn push(
        &self,
        parameters: &Parameters,
        nonce: Option<Nonce>,
        id: &str,
    ) -> Result<String, Refusal> {
        let push = self.read_push(parameters)?;
        let results = self.actions.admit(push, nonce).await?;
        Ok(envelope::push_answer(id, &results.ok_or(Code::NonceUsed)?))
    }

    fn read_push(&self, parameters: &Parameters) -> Result<Push, Refusal> {
        if self.actions.is_draining() {
            return Err(Code::Unavailable.into());
        }
        heavy(parameters, || Push::read(parameters))
    }

    async fn download(
        &self,
        query: &download::Query,
        key_id: &str,
        host: &str,
        id: &str,
    ) -> Result<String, Refusal> {
        let (servers, message) = self.actions.servers(query, host).await?;
        let expire_ms = self.clock.now_ms() / 1000 * 1000 + i64::from(query.expire_s) * 1000;
        let path = download::path(&query.app, &query.name, &query.version);
        let download = Download {
            url: self.file_key.sign(&path, key_id, expire_ms / 1000),
            expire_ms,
            servers,
            message,
        };
        Ok(envelope::download_answer(id, &download))
    }
}

/// A refusal, and when to retry where that helps.
struct Denied {
    refusal: Refusal,
    retry_after: Option<Duration>,
}

impl<T: Into<Refusal>> From<T> for Denied {
    fn from(refusal: T) -> Self {
        Self {
            refusal: refusal.into(),
            retry_after: None,
        }
    }
}

/// Refuses an unsigned call that a web page can have made. A signed one cannot be: docs/ens.md §8.
fn check_unsigned(parts: &request::Parts, public: Option<&str>) -> Result<(), Refusal> {
    if parts.method != Method::POST {
        return Err(Code::UnsupportedMethod.into());
    }
    if !origin::is_from_here(&parts.headers, public) {
        let why = "An unsigned call may not come from another web site, nor name another host.";
        return Err(Refusal::because(Code::NoPermission, why));
    }
    Ok(())
}

/// Answers one call.
async fn call<A: Actions>(
    State(endpoint): State<Arc<Endpoint<A>>>,
    Extension(peer): Extension<Peer>,
    Extension(bodies): Extension<Bodies>,
    request: Request,
) -> Response {
    let id = answer::request_id();
    let (parts, body) = request.into_parts();
    let live = endpoint.live();
    let sender = form::Sender {
        keys: &live.keys,
        may_be_unsigned: peer.is_local() || live.config.insecure_tcp,
    };
    let answered = match form::read(&parts, body, &bodies, sender).await {
        Ok(form) => {
            let answer = endpoint.answer(peer, &parts, form, &id);
            let answer = tokio::time::timeout(DEADLINE, answer).await;
            answer.unwrap_or_else(|_| Err(Code::Unavailable.into()))
        }
        Err(refusal) => Err(refusal.into()),
    };
    let code = answered.as_ref().err().map(|denied| &denied.refusal.code);
    endpoint.actions.answered(code);
    debug!(event = "ens_call", request_id = %id, code = ?code.map(Code::name), "answered a call");
    match answered {
        Ok(body) => answer::answer(StatusCode::OK, &id, body.into()),
        Err(denied) => {
            let host = answer::host(&parts.headers);
            let mut answer = answer::error(&denied.refusal, &id, host);
            if let Some(wait) = denied.retry_after {
                // The vendor's clients take this header for milliseconds, and only this one.
                let wait = HeaderValue::from(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                answer.headers_mut().insert("x-acs-retry-after", wait);
            }
            answer
        }
    }
}

/// Runs what takes long for a long request, whose eight mebibytes are hashed several times over,
/// without holding up the other requests of this thread, where the runtime has others.
fn heavy<T>(parameters: &Parameters, work: impl FnOnce() -> T) -> T {
    let threads = tokio::runtime::Handle::current().runtime_flavor();
    if parameters.length() > LONG && threads == RuntimeFlavor::MultiThread {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// Checks that the key may use this action for this application.
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
    // An invalid application id is for the action to refuse, by its own name.
    match AppId::parse(parameters.required("AppId")?) {
        Ok(app) if !config.apps.holds(&app) => Err(Code::NoPermission.into()),
        Ok(_) | Err(_) => Ok(()),
    }
}
