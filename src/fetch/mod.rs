//! A source as a stream of bytes: policy, retries, resume, and the partial file.
//!
//! [`Fetcher`] exists once per node: clients, bandwidth limits, and what is known of hosts. [`Source`] is
//! one file being fetched: the caller asks for the next [`Event`] and gets bytes in order, whatever the
//! origin and the network do. [`Spool`] keeps those bytes for the next start of the process.
//!
//! Nothing here checks a digest: that the bytes are what was announced is decided by [`crate::verify`].

mod clocks;
pub mod config;
mod error;
mod http;
mod limit;
mod local;
mod own;
mod phase;
pub mod policy;
mod range;
mod resolver;
mod retry;
mod routes;
pub mod rules;
mod secrets;
mod sniff;
mod source;
mod special;
mod spool;
mod stall;

use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::{Cause, Context, Error, KINDS};
pub use phase::Phase;
pub use range::Validator;
pub use retry::Retries;
pub use sniff::Page;
pub use source::Source;
pub use spool::{Identity, Spool, is_proven};

use crate::datafile::{AppId, SourceUrl};
use crate::sys::Chain;
use crate::sys::deadline::Deadline;
use routes::Routes;

/// How often the files that the configuration names are checked for changes.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Request {
    pub url: SourceUrl,
    /// The application whose bandwidth limit counts.
    pub app: AppId,
    /// The stated length: not a byte more is accepted.
    pub size: Option<u64>,
    /// Bytes that are here already.
    pub offset: u64,
    /// The validator of the object that those bytes are from.
    pub validator: Option<Validator>,
    /// When the fetch ends, whatever happens. It stands still while a bandwidth limit is waited for.
    pub deadline: Deadline,
    /// Ends the fetch at once.
    pub cancel: CancellationToken,
    /// Whether a digest of the whole will be checked. Then a file of known size may be resumed without a
    /// strong validator: if the parts do not belong together, the digest says so.
    pub proven: bool,
    /// Skip mirrors and tell caches to ask the origin: for the one refetch after a wrong digest.
    pub from_origin: bool,
    /// Whether a `file` URL is read from this host's disk: for push documents of its operator.
    pub allow_local: bool,
    /// Counts requests, starting with earlier ones: a file may take several sources and several starts.
    pub attempts: Arc<AtomicU32>,
    /// Counts bytes of bodies, repeated ones included.
    pub fetched: Arc<AtomicU64>,
    /// Failures so far: a file that was put aside between two attempts goes on with it.
    pub retries: Retries,
}

/// What happens while a file is fetched.
#[derive(Debug)]
pub enum Event {
    Bytes(Bytes),
    /// A request failed, or may not be made yet, and is repeated after `wait`; the bytes so far stand.
    Retrying {
        /// Requests made so far.
        attempt: u32,
        error: Error,
        wait: Duration,
    },
    /// Everything so far is void: the next bytes are the first ones again.
    Restart {
        /// For people.
        why: String,
    },
    /// All bytes have arrived. Returned again when asked again.
    End,
}

/// Makes the [`Source`]s of a node.
pub struct Fetcher {
    routes: RwLock<Arc<Routes>>,
    watch: Mutex<Watch>,
    limits: limit::Limits,
    hosts: Arc<retry::Hosts>,
}

/// When CA, proxy and header files were last checked, and which set failed to load.
struct Watch {
    checked: Instant,
    refused: Option<routes::Stamps>,
}

impl Fetcher {
    /// Reads the files that `config` names and makes the clients. Blocks for a moment.
    pub fn new(config: Config) -> Result<Arc<Self>, Error> {
        let limits = limit::Limits::new(config.bandwidth.clone());
        Ok(Arc::new(Self {
            routes: RwLock::new(Arc::new(Routes::build(config)?)),
            watch: Mutex::new(Watch {
                checked: Instant::now(),
                refused: None,
            }),
            limits,
            hosts: Arc::default(),
        }))
    }

    /// Changes the configuration: limits at once, the rest with the next request of each file. On an error
    /// nothing changes. Blocks for a moment.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        let bandwidth = config.bandwidth.clone();
        self.take(Routes::build(config)?);
        self.limits.change(bandwidth);
        Ok(())
    }

    /// Checks whether this node may fetch from a URL, as far as possible without a name lookup.
    pub fn check(&self, url: &SourceUrl) -> Result<(), Error> {
        let routes = self.current();
        let url = url.url();
        if !routes.candidates(url).contains(url) {
            return Ok(());
        }
        let direct = routes.via(url).is_none();
        routes
            .policy
            .check_url(url, direct)
            .map_err(|denied| Error::of_node(denied.into()))
    }

    /// Starts a fetch; nothing is dialled before the first [`Source::next`].
    #[must_use]
    pub fn open(self: &Arc<Self>, request: Request) -> Source {
        Source::new(Arc::clone(self), request)
    }

    fn current(&self) -> Arc<Routes> {
        Arc::clone(&self.routes.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, routes: Routes) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(routes);
    }

    /// Returns the routes, rebuilt if a file behind them changed. Files that do not fit together, as in the
    /// middle of a rotation, leave the old routes in use.
    async fn routes(self: &Arc<Self>) -> Arc<Routes> {
        let routes = self.current();
        if !self.is_time_to_check() {
            return routes;
        }
        let fetcher = Arc::clone(self);
        let renewed = tokio::task::spawn_blocking(move || fetcher.renew(&routes)).await;
        if let Err(e) = renewed {
            tracing::error!(error = %e, "renewing the HTTP clients");
        }
        self.current()
    }

    fn is_time_to_check(&self) -> bool {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let due = watch.checked.elapsed() >= CHECK_EVERY;
        if due {
            watch.checked = Instant::now();
        }
        due
    }

    fn renew(&self, routes: &Routes) {
        let stamps = routes::stamps(&routes.config);
        if stamps == routes.stamps {
            return;
        }
        let refused = |watch: &Watch| watch.refused.as_ref() == Some(&stamps);
        if refused(&self.watch.lock().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let built = Routes::build(routes.config.clone());
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        match built {
            Ok(new) => {
                watch.refused = None;
                self.take(new);
                tracing::info!("loaded changed certificates, proxy or headers for fetching");
            }
            Err(e) => {
                watch.refused = Some(stamps);
                tracing::warn!(error = %Chain(&e), "cannot use the changed files for fetching; the old ones stay in use");
            }
        }
    }
}
