//! Delivers the outbox as signed callbacks: at least once, in order per file.
//!
//! The transaction that makes something happen also writes it to the outbox; here it is only sent, and a
//! failed delivery never changes what is published. One task sends what is due, in order per file,
//! different files and endpoints in parallel. A receiver that is down is probed by one callback at a time.
//!
//! # What a receiver gets
//!
//! A POST by Standard Webhooks 1.0: `webhook-id` (the same on every attempt, to detect repeats),
//! `webhook-timestamp` (of this attempt), `webhook-signature` (`v1,…` once per secret). The body is
//! `{"type", "timestamp", "data"}`, or a CloudEvents 1.0 structured event with the same `data`.
//! `timestamp` is when the event happened. `data` always has `node`.
//!
//! `edgepush.file.accepted`, `.progress`, `.published`, `.failed` describe a job:
//!
//! | key | meaning |
//! |---|---|
//! | `app`, `name`, `version` | the file |
//! | `job`, `push`, `via` | its job, the push that brought it, and how that came in |
//! | `state`, `status`, `result_code` | `queued` … `canceled`; `PUSHING`, `SUCCESS`, `FAILED`; 0 accepted or published, 200 in progress, 300 failed |
//! | `stage`, `starts`, `attempts` | current stage, number of starts, requests for the file over all starts |
//! | `archive_type`, `source`, `size`, `md5`, `sha256` | the archive; the source without secrets |
//! | `received`, `total`, `fetched`, `files`, `bytes` | archive bytes received and in total, bytes over the network over all starts, files and bytes of the tree |
//! | `activated` | published: whether it became live |
//! | `failure` | failed: `stage`, `kind`, `class`, `retryable`, `message`, and if known `entry`, `limit`, `expected`, `found`; null when cancelled |
//! | `accepted_at`, `started_at`, `finished_at`, `duration_ms` | times, and the duration from acceptance to the end |
//!
//! `edgepush.file.activated` and `.rolled_back`: `app`, `name`, `version`, `from_version`, `reason`
//! (`push`, `repush`, `activate`, `rollback`, `recover`), `actor`, `job`, `seq` (rises over all versions
//! of a name), `requested_at`, `activated_at`.
//!
//! `edgepush.file.removed`: `app`, `name`, `version`, `job`, `reason`, `actor`, `bytes`, `files`,
//! `removed_at`.
//!
//! `edgepush.file.damaged` and `.healed`: `app`, `name`, `version`, `job`, `live`, `damage` (what differs
//! from the manifest; null when healed), `found_at`.
//!
//! `edgepush.node.started`: `version` of the agent, `started_at`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::db::{self, Db};
use crate::db::{endpoints, outbox};
use crate::shown::callbacks;
use crate::sys::failure::{Class, Kind, Retry};
use crate::sys::secret;
use crate::wire::time::stamp;

mod attempt;
mod health;
mod sender;
mod setup;
mod sign;

use sender::Sender;
use setup::Setup;

/// The section `report` of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Name of this node in callbacks; the host name if empty.
    pub node: String,
    pub endpoints: Vec<Endpoint>,
    /// Callbacks in flight to one endpoint at once.
    pub parallel: usize,
    /// Of one attempt.
    #[serde(with = "crate::sys::units::duration")]
    pub timeout: Duration,
    /// The first retry follows within this; the bound doubles with every attempt.
    #[serde(with = "crate::sys::units::duration")]
    pub first_retry: Duration,
    /// The longest pause between attempts, unless the receiver asks for more.
    #[serde(with = "crate::sys::units::duration")]
    pub longest_retry: Duration,
    /// How long a callback is retried before it expires. Time in which no agent runs does not count.
    #[serde(with = "crate::sys::units::duration")]
    pub keep: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            node: String::new(),
            endpoints: Vec::new(),
            parallel: 8,
            timeout: Duration::from_secs(20),
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_secs(3600),
            keep: Duration::from_secs(3 * 24 * 3600),
        }
    }
}

/// One receiver of callbacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoint {
    /// Letters, digits, `-` and `_`. Undelivered callbacks belong to this name.
    pub name: String,
    /// An http or https URL without user information.
    pub url: String,
    /// Files with the secret that signs, mode 0600: `whsec_…` or any text of at least 24 bytes. Two while
    /// rotating: then each callback has two signatures.
    pub secret_files: Vec<PathBuf>,
    pub format: Format,
    /// Wanted event types, such as "edgepush.file.published"; all if empty.
    pub types: Vec<String>,
    /// Additional headers without secrets; those belong in `header_files`.
    pub headers: BTreeMap<String, String>,
    /// Additional headers whose values are in files of mode 0600, such as `authorization`.
    pub header_files: BTreeMap<String, PathBuf>,
    /// PEM files with certificates to trust in addition to the system's.
    pub extra_ca: Vec<PathBuf>,
    /// URL of a proxy, without user information; none if empty. Neither the proxy for downloads nor that of
    /// the environment is used.
    pub proxy: String,
    /// A file of mode 0600 with the proxy's URL, if that contains user information.
    pub proxy_file: Option<PathBuf>,
}

/// The form of a callback's body.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// `{type, timestamp, data}`.
    #[default]
    Standard,
    /// A CloudEvents 1.0 structured event.
    CloudEvents,
}

/// Why callbacks cannot be sent as configured. Contains no secret.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("use `{key}` of endpoint `{endpoint}`: {why}")]
    Value {
        /// Its name, or its number in the list.
        endpoint: String,
        key: &'static str,
        why: String,
    },
    #[error("read `{key}` of endpoint `{endpoint}`")]
    Secret {
        endpoint: String,
        key: &'static str,
        #[source]
        source: secret::Error,
    },
    /// A key of the whole section.
    #[error("use `report.{key}`: {why}")]
    Section {
        key: &'static str,
        why: &'static str,
    },
    #[error("record the endpoints")]
    Store(#[source] db::Error),
}

/// The failures of this station.
pub const KINDS: &[Kind] = &[CONFIG];

const CONFIG: Kind = Kind {
    name: "report-config",
    class: Class::Policy,
    retry: Retry::Fatal,
    help: "Correct the section `report` of the configuration: the message names endpoint and key.",
};

impl Error {
    /// Returns the row of [`KINDS`], or of the store's, that this error belongs to.
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        match self {
            Self::Value { .. } | Self::Secret { .. } | Self::Section { .. } => &CONFIG,
            Self::Store(source) => source.kind(),
        }
    }
}

/// Sends callbacks.
pub struct Reporter {
    store: Db,
    setup: watch::Sender<Arc<Setup>>,
}

/// Passes a changed configuration to a running reporter.
#[derive(Clone)]
pub struct Handle(watch::Sender<Arc<Setup>>);

/// Checks the section, each endpoint, and its secrets, as a start would.
pub fn check(config: &Config) -> Result<(), Error> {
    Setup::new(config).map(drop)
}

impl Reporter {
    /// Checks the configuration, reads the secrets, and records the endpoints: whatever is written to the
    /// store after this call is reported to them.
    pub fn new(config: Config, store: Db) -> Result<Self, Error> {
        let setup = Arc::new(Setup::new(&config)?);
        let endpoints = setup.endpoints();
        store
            .write_soon(move |tx| endpoints::register(tx, &endpoints))
            .map_err(Error::Store)?;
        Ok(Self {
            store,
            setup: watch::Sender::new(setup),
        })
    }

    /// Returns a handle to change the configuration.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.setup.clone())
    }

    /// Sends until `drain`. What was not delivered by then is sent after the next start.
    pub async fn run(self: Arc<Self>, drain: CancellationToken) {
        let setup = self.setup.subscribe();
        Sender::new(self.store.clone(), setup).run(drain).await;
    }
}

impl Handle {
    /// Checks a changed configuration, reads the secrets again, and applies it; disabled endpoints are
    /// enabled. On an error nothing changes.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        let setup = Arc::new(Setup::new(&config)?);
        self.0.send_replace(setup);
        Ok(())
    }
}

/// Reports that the agent has started.
pub async fn announce_start(store: &Db) -> Result<(), db::Error> {
    store
        .write(|tx| {
            let data = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "started_at": stamp(tx.now_ms()),
            });
            outbox::enqueue(tx, callbacks::NODE_STARTED, None, &data)
        })
        .await
}

#[cfg(test)]
mod tests;
