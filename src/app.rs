//! Builds the parts, runs them as the daemon or for one `apply`, and drains them.
//!
//! No part sees the whole configuration: each gets its own section. A stop is the reverse of a
//! start: nothing new is accepted, running files are checkpointed, open requests are answered, and
//! the store is closed last.

mod agent;
mod apply;
mod listen;
mod recover;
mod reload;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::datafile::{Content, DataFile, Key};
use crate::deliver::Road;
use crate::fetch::{self, Fetcher};
use crate::intake::{self, Intake};
use crate::keep::{self, Keep};
use crate::progress::Board;
use crate::publish::{self, Publisher};
use crate::runner::{self, Runner};
use crate::store::{self, Store};
use crate::sys::clock::{Clock, SystemClock};
use crate::sys::{Live, durable, ground};
use crate::verify;

pub use agent::agent;
pub use apply::{Applied, Seen, apply};
pub use recover::{Recovered, recover};

/// Why the agent or an `apply` could not run, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot open the data directory")]
    Publish(#[from] publish::Error),
    #[error("cannot use the database")]
    Store(#[from] store::Error),
    #[error("cannot set up fetching")]
    Fetch(#[source] fetch::Error),
    #[error("cannot set up the callbacks")]
    Report(#[from] crate::report::Error),
    #[error("cannot set up the endpoints")]
    Api(#[from] crate::api::Error),
    #[error(transparent)]
    Durable(#[from] durable::Error),
    #[error("cannot listen on {address}")]
    Listen {
        address: String,
        #[source]
        source: std::io::Error,
    },
    /// The data directory cannot be used, and why.
    #[error("cannot use the data directory: {why}")]
    Ground {
        why: String,
        #[source]
        source: Box<Error>,
    },
    #[error("cannot accept the push")]
    Intake(#[source] crate::intake::Error),
    /// A task that the agent cannot do without has panicked.
    #[error(
        "the task `{name}` panicked, a defect of the agent: its log has the details; the next start resumes every file"
    )]
    Panicked { name: &'static str },
    /// Something that should not happen.
    #[error("{0}")]
    Other(String),
}

/// Sets up what a start would from the configuration alone, and returns every mistake: secrets and
/// certificates that cannot be read, endpoints and proxies that are not valid. Nothing is created
/// or changed.
#[must_use]
pub fn check(config: &Config) -> Vec<Error> {
    let checks = [
        Fetcher::new(config.fetch.clone())
            .map(drop)
            .map_err(Error::Fetch),
        crate::api::check(&config.api).map_err(Error::Api),
        crate::report::check(&config.report).map_err(Error::Report),
    ];
    checks.into_iter().filter_map(Result::err).collect()
}

impl Error {
    /// Returns the configuration key that is to blame, if one is.
    #[must_use]
    pub fn key(&self) -> Option<String> {
        use crate::api;
        match self {
            Self::Fetch(error) => Some(match error.cause() {
                fetch::Cause::Config { key, .. } => format!("fetch.{key}"),
                _ => "fetch".to_owned(),
            }),
            Self::Api(api::Error::Keys(_)) => Some("api.access_keys".to_owned()),
            Self::Api(api::Error::FileKey(_)) => Some("api.file_key".to_owned()),
            Self::Report(_) => Some("report".to_owned()),
            _ => None,
        }
    }

    /// Tells whether the configuration is to blame, so that a restart without a change cannot help.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        use crate::{api, report};
        match self {
            Self::Fetch(_) | Self::Api(api::Error::Keys(_)) => true,
            Self::Report(error) => !matches!(error, report::Error::Store(_)),
            _ => false,
        }
    }

    /// Adds why the data directory cannot be used, where the system's own words do not say it.
    fn on(self, data_dir: &Path) -> Self {
        let of_disk = match &self {
            Self::Durable(_) | Self::Publish(_) => true,
            Self::Store(error) => error.fault().is_some() || error.is_open(),
            _ => false,
        };
        let dir = std::path::absolute(data_dir).unwrap_or_else(|_| data_dir.to_owned());
        let mut found = if of_disk {
            ground::inspect(&dir)
        } else {
            Vec::new()
        };
        match found.is_empty() {
            true => self,
            false => Self::Ground {
                why: found.swap_remove(0),
                source: Box::new(self),
            },
        }
    }

    /// Tells whether another process uses the data directory.
    #[must_use]
    pub fn is_in_use(&self) -> bool {
        matches!(self, Self::Store(store::Error::InUse { .. }))
    }
}

/// What the intake asks of the other parts.
struct Site {
    fetcher: Arc<Fetcher>,
    publisher: Arc<Publisher>,
    rules: Arc<Live<verify::Config>>,
    local_urls: Arc<AtomicBool>,
}

impl intake::Site for Site {
    fn check(&self, file: &DataFile) -> Result<(), crate::admission::Denial> {
        let local = self.local_urls.load(Ordering::Relaxed) && file.url.file_path().is_some();
        if !local {
            let checked = self.fetcher.check(&file.url);
            checked.map_err(|e| (e.kind(), e.to_string()))?;
        }
        let require = self.rules.now().require;
        let checked = require.check(&file.content());
        checked.map_err(|e| (e.kind(), e.to_string()))
    }

    fn archive_content(&self, key: &Key) -> Option<Content> {
        self.publisher.archive_content(key)
    }

    fn is_current(&self, key: &Key) -> bool {
        self.publisher.standing(&key.app, &key.name).leads_to(key)
    }
}

/// The parts that the daemon and `apply` have in common.
struct Parts {
    store: Store,
    publisher: Arc<Publisher>,
    fetcher: Arc<Fetcher>,
    board: Board,
    intake: Arc<Intake>,
    runner: Arc<Runner>,
    keep: Arc<Keep>,
    road: Arc<Road>,
    clock: Arc<dyn Clock>,
    /// What a push must state.
    rules: Arc<Live<verify::Config>>,
    /// Whether `file:` URLs may be read.
    local_urls: Arc<AtomicBool>,
}

impl Parts {
    /// Opens the data directory and builds everything on it. That runs on a blocking thread: after
    /// an unclean end, checking the database may take a while.
    async fn open(config: &Config, allow_local: bool) -> Result<Self, Error> {
        let config = config.clone();
        tokio::task::spawn_blocking(move || Self::build(&config, allow_local))
            .await
            .map_err(|e| Error::Other(e.to_string()))?
    }

    fn build(config: &Config, allow_local: bool) -> Result<Self, Error> {
        Self::open_all(config, allow_local).map_err(|error| error.on(&config.data_dir))
    }

    fn open_all(config: &Config, allow_local: bool) -> Result<Self, Error> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        durable::create_dir_all(&config.data_dir)?;
        // The lock on the directory comes first: what is swept must not be another process's work.
        let store = Store::open_with(
            &config.data_dir.join("edgepush.db"),
            Arc::clone(&clock),
            config.store.clone(),
        )?;
        let publisher = Arc::new(Publisher::open(
            &config.data_dir,
            config.publish.clone(),
            config.unpack.umask,
        )?);
        store.depend_on(publisher.layout().place()?);
        for found in ground::inspect(&config.data_dir) {
            tracing::warn!(event = "data-dir", "{found}");
        }
        let fetcher = Fetcher::new(config.fetch.clone()).map_err(Error::Fetch)?;
        let rules = Arc::new(Live::new(config.verify.clone()));
        let road = Road::new(
            Arc::clone(&fetcher),
            Arc::clone(&publisher),
            config.unpack.clone(),
            Arc::clone(&rules),
            config.push.clone(),
            Arc::clone(&clock),
        )
        .map_err(|e| Error::Other(format!("cannot start the worker threads: {e}")))?;
        Ok(Self::join(
            config,
            (store, clock),
            (fetcher, publisher, Arc::new(road)),
            rules,
            allow_local,
        ))
    }

    /// Joins the intake that makes jobs, the runner that runs them, and the upkeep of what they
    /// publish.
    fn join(
        config: &Config,
        (store, clock): (Store, Arc<dyn Clock>),
        (fetcher, publisher, road): (Arc<Fetcher>, Arc<Publisher>, Arc<Road>),
        rules: Arc<Live<verify::Config>>,
        allow_local: bool,
    ) -> Self {
        let board = Board::default();
        let local_urls = Arc::new(AtomicBool::new(allow_local));
        let site = Site {
            fetcher: Arc::clone(&fetcher),
            publisher: Arc::clone(&publisher),
            rules: Arc::clone(&rules),
            local_urls: Arc::clone(&local_urls),
        };
        let intake = Arc::new(Intake::new(store.clone(), config.intake.clone(), site));
        let runner = Runner::new(
            store.clone(),
            Arc::clone(&publisher),
            Arc::clone(&road),
            board.clone(),
            config.runner.clone(),
            Arc::clone(&clock),
            Arc::clone(&local_urls),
        );
        let keep = Keep::new(
            store.clone(),
            Arc::clone(&publisher),
            Arc::clone(&road),
            Arc::clone(&intake),
            upkeep(&config.runner),
        );
        Self {
            store,
            publisher,
            fetcher,
            board,
            intake,
            runner,
            keep,
            road,
            clock,
            rules,
            local_urls,
        }
    }
}

/// Runs jobs once the disk was compared with the database.
async fn run_jobs(
    parts: Arc<Parts>,
    drain: CancellationToken,
    until_idle: bool,
) -> Result<(), store::Error> {
    drain.run_until_cancelled(parts.keep.settled()).await;
    Arc::clone(&parts.runner).run(drain, until_idle).await
}

/// Returns the keys of `[runner]` that are for upkeep.
fn upkeep(config: &runner::Config) -> keep::Config {
    keep::Config {
        upkeep_every: config.upkeep_every,
        keep_partial: config.keep_partial,
        scrub_every: config.scrub_every,
        scrub_rate: config.scrub_rate,
    }
}
