//! From the outbox to signed callbacks: at least once, in order per file.
//!
//! What happened is written into the outbox by the transaction that made it happen; here it is only sent. How that goes
//! never changes what was published. One task sends; it takes what is due, file by file in order, different files and
//! endpoints side by side. A receiver that is away is asked now and then by one callback, not by all that wait.
//!
//! # What a receiver gets
//!
//! A POST by Standard Webhooks 1.0: `webhook-id` (the same on every attempt: know repeats by it), `webhook-timestamp` (of
//! this attempt), `webhook-signature` (`v1,…` once per secret). The body is `{"type", "timestamp", "data"}`, or a
//! CloudEvents 1.0 structured event with the same `data`. `timestamp` is when it happened. `data` always has `node`.
//!
//! `edgepush.file.accepted`, `.progress`, `.published`, `.failed` tell of a job:
//!
//! | key | meaning |
//! |---|---|
//! | `app`, `name`, `version` | the file |
//! | `job`, `push`, `via` | its job, the push that brought it, and by which way |
//! | `state`, `status`, `result_code` | `queued` … `canceled`; `PUSHING`, `SUCCESS`, `FAILED`; 0 accepted or published, 200 on its way, 300 failed |
//! | `stage`, `starts`, `attempts` | where on the road, how often started, requests for the file in all starts |
//! | `archive_type`, `source`, `size`, `md5`, `sha256` | the archive; the source without anything secret |
//! | `received`, `total`, `fetched`, `files`, `bytes` | archive bytes here and in all, bytes over the network in all starts, files and bytes of the tree |
//! | `activated` | published: whether it became live |
//! | `failure` | failed: `stage`, `kind`, `class`, `retryable`, `message`, and where they are known `entry`, `limit`, `expected`, `found`; null when cancelled |
//! | `accepted_at`, `started_at`, `finished_at`, `duration_ms` | when, and how long from acceptance to the end |
//!
//! `edgepush.file.activated` and `.rolled_back`: `app`, `name`, `version`, `from_version`, `reason` (`push`, `repush`,
//! `activate`, `rollback`, `recover`), `actor`, `job`, `seq` (greater is later, over all versions of a name),
//! `requested_at`, `activated_at`.
//!
//! `edgepush.file.removed`: `app`, `name`, `version`, `job`, `reason`, `actor`, `bytes`, `files`, `removed_at`.
//!
//! `edgepush.file.damaged` and `.healed`: `app`, `name`, `version`, `job`, `live`, `damage` (what differs from the manifest;
//! null when healed), `found_at`.
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

use crate::store::outbox;
use crate::store::{self, Store};
use crate::sys::clock::stamp;
use crate::sys::failure::{Class, Kind, Retry};
use crate::sys::secret;

mod attempt;
mod health;
mod sender;
mod setup;
mod sign;

use sender::Sender;
use setup::Setup;

/// Where callbacks go, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The name of this node in callbacks; the host's name if empty.
    pub node: String,
    /// Who is told.
    pub endpoints: Vec<Endpoint>,
    /// Callbacks on their way to one endpoint at once.
    pub parallel: usize,
    /// How long one attempt may take.
    #[serde(with = "crate::sys::units::duration")]
    pub timeout: Duration,
    /// The second attempt comes within this after the first; each later one may take twice as long.
    #[serde(with = "crate::sys::units::duration")]
    pub first_retry: Duration,
    /// No two attempts are farther apart than this, unless the receiver asks for it.
    #[serde(with = "crate::sys::units::duration")]
    pub longest_retry: Duration,
    /// How long a callback is tried; then it becomes a dead letter. Time in which no agent runs does not count.
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
    /// Its name in logs and in `edgepush outbox`: letters, digits, `-` and `_`. What waits for it belongs to this name.
    pub name: String,
    /// Where to send: an http or https URL without user information.
    pub url: String,
    /// Files with the secret that signs, mode 0600: `whsec_…` or any text of at least 24 bytes. Two while rotating: then
    /// each callback has two signatures.
    pub secret_files: Vec<PathBuf>,
    /// "standard": `{type, timestamp, data}`. "cloudevents": a CloudEvents 1.0 structured event.
    pub format: Format,
    /// The types of events it wants, such as "edgepush.file.published"; all if empty.
    pub types: Vec<String>,
    /// Further headers. Nothing secret: that belongs into `header_files`.
    pub headers: BTreeMap<String, String>,
    /// Further headers whose values stand in files of mode 0600, such as `authorization`.
    pub header_files: BTreeMap<String, PathBuf>,
    /// Certificate authorities in PEM files, beside those of the system.
    pub extra_ca: Vec<PathBuf>,
    /// The proxy on the way, as an http or https URL without user information; none if empty. The proxy of downloads and
    /// that of the environment are not used.
    pub proxy: String,
    /// A file of mode 0600 with the proxy's URL, where that holds user information.
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

/// Why callbacks cannot be sent as configured. Nothing secret is in it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A value cannot be used.
    #[error("use `{key}` of endpoint `{endpoint}`: {why}")]
    Value {
        /// The endpoint, by its name or its place in the list.
        endpoint: String,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A secret cannot be read.
    #[error("read `{key}` of endpoint `{endpoint}`")]
    Secret {
        /// The endpoint.
        endpoint: String,
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        #[source]
        source: secret::Error,
    },
    /// A value of the whole section cannot be used.
    #[error("use `report.{key}`: {why}")]
    Section {
        /// The key.
        key: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The endpoints cannot be entered in the database.
    #[error("enter the endpoints")]
    Store(#[source] store::Error),
}

/// The reporter's failures by stable name.
pub const KINDS: &[Kind] = &[CONFIG];

const CONFIG: Kind = Kind {
    name: "report-config",
    class: Class::Policy,
    retry: Retry::Fatal,
    help: "Correct the section `report` of the configuration; the message names endpoint and key.",
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
    store: Store,
    setup: watch::Sender<Arc<Setup>>,
}

/// Hands a changed configuration to a reporter that runs.
#[derive(Clone)]
pub struct Handle(watch::Sender<Arc<Setup>>);

/// Checks what a start would: the section, each endpoint, and its secrets.
pub fn check(config: &Config) -> Result<(), Error> {
    Setup::new(config).map(drop)
}

impl Reporter {
    /// Checks the configuration, reads the secrets, and enters the endpoints: what is written to the store after this call
    /// is reported to them.
    pub fn new(config: Config, store: Store) -> Result<Self, Error> {
        let setup = Arc::new(Setup::new(&config)?);
        let endpoints = setup.endpoints();
        store
            .write_soon(move |tx| outbox::register(tx, &endpoints))
            .map_err(Error::Store)?;
        Ok(Self {
            store,
            setup: watch::Sender::new(setup),
        })
    }

    /// Returns a handle by which the configuration can be changed.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(self.setup.clone())
    }

    /// Sends until `drain`. What was not delivered by then is sent after the next start.
    pub async fn run(self, drain: CancellationToken) {
        let setup = self.setup.subscribe();
        Sender::new(self.store, setup).run(drain).await;
    }
}

impl Handle {
    /// Checks a changed configuration, reads the secrets again, and takes it; endpoints that were disabled are enabled.
    /// With a mistake in it nothing changes.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        let setup = Arc::new(Setup::new(&config)?);
        self.0.send_replace(setup);
        Ok(())
    }
}

/// Reports that the agent has started.
pub async fn announce_start(store: &Store) -> Result<(), store::Error> {
    store
        .write(|tx| {
            let data = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "started_at": stamp(tx.now_ms()),
            });
            outbox::report_node(tx, outbox::NODE_STARTED, &data)
        })
        .await
}

#[cfg(test)]
mod tests;
