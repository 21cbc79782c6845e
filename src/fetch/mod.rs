//! A source as a byte stream: dialling, policy, retries, resume, and the partial file.
//!
//! [`Fetcher`] is what a node has one of: the ways out, the caps, what is known of hosts. [`Source`] is one file on its way
//! in: the caller asks it for the next [`Event`] and gets bytes in order, whatever the origin and the network do in
//! between. [`Spool`] keeps those bytes for the next start of the process.
//!
//! Nothing here knows a digest: that what arrives is what was announced is for [`crate::verify`] to say.

mod clocks;
pub mod config;
mod error;
mod http;
mod limit;
mod local;
mod looks;
pub mod policy;
mod range;
mod redact;
mod retry;
mod roads;
mod source;
mod spool;
mod stall;

use std::sync::atomic::{AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::{Cause, Error, KINDS, Phase, Place};
pub use range::Validator;
pub use source::Source;
pub use spool::{Identity, Spool};

use crate::datafile::{AppId, SourceUrl};
use crate::sys::Chain;
use roads::Roads;

/// How often the files that the configuration names are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What to fetch, and how far.
#[derive(Debug, Clone)]
pub struct Request {
    /// From where.
    pub url: SourceUrl,
    /// For which application; its bandwidth counts.
    pub app: AppId,
    /// The stated length: not a byte more is taken.
    pub size: Option<u64>,
    /// How many bytes are here already.
    pub offset: u64,
    /// What the origin said of the object that those bytes are from.
    pub validator: Option<Validator>,
    /// When it is over, whatever happens.
    pub deadline: Instant,
    /// Ends it at once.
    pub cancel: CancellationToken,
    /// Whether a digest of the whole will be checked. Then a file of known size may be resumed without a strong
    /// validator: should the parts not belong together, the digest says so.
    pub proven: bool,
    /// Whether mirrors are left out and caches told to ask the origin: for the one refetch after a digest was wrong.
    pub from_origin: bool,
    /// Whether a `file` URL is read from this node's disk: for push documents given by its operator.
    pub allow_local: bool,
    /// Counts the requests made, beginning with those before: a file may take several sources and several lives.
    pub attempts: Arc<AtomicU32>,
    /// Counts the bytes of bodies that come, repeated ones included.
    pub fetched: Arc<AtomicU64>,
}

/// What happens while a file is fetched.
#[derive(Debug)]
pub enum Event {
    /// The next bytes.
    Bytes(Bytes),
    /// A request failed and is made again after `wait`; what came so far stands.
    Retrying {
        /// How many requests were made.
        attempt: u32,
        /// What happened.
        error: Error,
        /// How long until the next one.
        wait: Duration,
    },
    /// Everything so far is void: the next bytes are the first ones again.
    Restart {
        /// Why, for people.
        why: String,
    },
    /// All bytes are here. Said again when asked again.
    End,
}

/// The one maker of [`Source`]s on a node.
pub struct Fetcher {
    roads: RwLock<Arc<Roads>>,
    watch: Mutex<Watch>,
    limits: limit::Limits,
    hosts: Arc<retry::Hosts>,
}

/// When the files behind the roads were looked at, and with which of them it failed.
struct Watch {
    looked: Instant,
    refused: Option<roads::Stamps>,
}

impl Fetcher {
    /// Reads the files that `config` names and makes ready to fetch. Blocks for a moment.
    pub fn new(config: Config) -> Result<Arc<Self>, Error> {
        let limits = limit::Limits::new(config.bandwidth.clone());
        Ok(Arc::new(Self {
            roads: RwLock::new(Arc::new(Roads::build(config)?)),
            watch: Mutex::new(Watch {
                looked: Instant::now(),
                refused: None,
            }),
            limits,
            hosts: Arc::default(),
        }))
    }

    /// Changes the configuration: caps at once, all else for the next request of each file. On an error nothing changes.
    /// Blocks for a moment.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        let bandwidth = config.bandwidth.clone();
        self.take(Roads::build(config)?);
        self.limits.change(bandwidth);
        Ok(())
    }

    /// Tells whether this node may fetch from a URL, as far as that can be told without dialling or looking up anything.
    pub fn check(&self, url: &SourceUrl) -> Result<(), Error> {
        let roads = self.current();
        let url = url.url();
        if !roads.places(url).contains(url) {
            return Ok(());
        }
        let direct = roads.road_for(url, false).via.is_none();
        roads
            .policy
            .check_url(url, direct)
            .map_err(|denied| Error::of_node(denied.into()))
    }

    /// Begins to fetch; nothing is dialled before the first [`Source::next`].
    #[must_use]
    pub fn open(self: &Arc<Self>, request: Request) -> Source {
        Source::new(Arc::clone(self), request)
    }

    fn current(&self) -> Arc<Roads> {
        Arc::clone(&self.roads.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn take(&self, roads: Roads) {
        *self.roads.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(roads);
    }

    /// Returns the ways out, made anew when a file behind them changed. Files that do not fit together, as in the middle
    /// of a rotation, leave the old ones in use.
    async fn roads(self: &Arc<Self>) -> Arc<Roads> {
        let roads = self.current();
        if !self.is_time_to_look() {
            return roads;
        }
        let fetcher = Arc::clone(self);
        let renewed = tokio::task::spawn_blocking(move || fetcher.renew(&roads)).await;
        if let Err(e) = renewed {
            tracing::error!(error = %e, "renewing the ways out");
        }
        self.current()
    }

    fn is_time_to_look(&self) -> bool {
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        let due = watch.looked.elapsed() >= LOOK;
        if due {
            watch.looked = Instant::now();
        }
        due
    }

    fn renew(&self, roads: &Roads) {
        let stamps = roads::stamps(&roads.config);
        if stamps == roads.stamps {
            return;
        }
        let refused = |watch: &Watch| watch.refused.as_ref() == Some(&stamps);
        if refused(&self.watch.lock().unwrap_or_else(PoisonError::into_inner)) {
            return;
        }
        let built = Roads::build(roads.config.clone());
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        match built {
            Ok(new) => {
                watch.refused = None;
                self.take(new);
                tracing::info!("took changed certificates, proxy or headers for fetching");
            }
            Err(e) => {
                watch.refused = Some(stamps);
                tracing::warn!(error = %Chain(&e), "changed files are not usable for fetching, the old ones stay in use");
            }
        }
    }
}
