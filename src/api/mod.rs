//! The native API, and the ENS endpoint of a node, on its two listeners.
//!
//! TCP takes the contract's signed requests at `/`, and requests that only read: status, page,
//! metrics, kept archives. The unix socket takes everything from whoever may open it. [`http`]
//! serves the connections, and `node` is what the contract's actions do here;
//! [`client`](crate::client) is the other end of the native API.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ens::{self, Endpoint, KeyConfig, RateConfig};
use crate::http::body::Bodies;
use crate::http::{self, Settings};
use crate::intake::Intake;
use crate::keep::Keep;
use crate::progress::Board;
use crate::publish::Publisher;
use crate::shown::model;
use crate::store::Store;
use crate::sys::clock::Clock;
use crate::sys::secret::{self, Secret};
use crate::wire::download::FileKey;

use node::Node;

mod archives;
mod changes;
mod error;
mod events;
mod metrics;
mod native;
mod node;
mod page;
mod routes;
mod status;
mod trees;

/// The key of download paths, in the data directory, unless the configuration names a file.
const FILE_KEY: &str = "file.key";
/// The paths of health checks.
const HEALTH: &[&str] = &["/healthz", "/readyz"];

/// Who may send requests over TCP and the socket, and how long a request may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The access keys that may sign requests to the ENS endpoint. Without any, it accepts none
    /// over TCP.
    pub access_keys: Vec<KeyConfig>,
    /// Accept unsigned requests over TCP. Whoever reaches the listener can then push: only for
    /// trials on the loopback address.
    pub insecure_tcp_intake: bool,
    /// The rate limit of each access key.
    pub rate: RateConfig,
    /// Who may read status, page, metrics and events over TCP: "loopback" for this machine,
    /// "anyone" or "nobody". This machine means a peer with a loopback address that names this host or
    /// the public address, and no proxy.
    pub status_for: StatusFor,
    /// Whether pushes over the unix socket may name `file:` URLs. The agent reads them with its own
    /// permissions.
    pub file_urls: bool,
    /// The file with the key that signs download paths, of mode 0600 or 0400. Absent: `file.key` in
    /// the data directory, created at the first start.
    pub file_key: Option<PathBuf>,
    /// Host and port of this node in download paths. Absent: those that the client used.
    pub public_address: Option<String>,
    /// Most connections at once on each listener. Another one replaces the longest idle one; an idle
    /// one ends after `head_timeout`. A client address has a quarter of them at most, and 16 more are
    /// kept for health checks.
    pub max_connections: usize,
    /// Time limit for the head of a request, and for an idle connection.
    #[serde(with = "crate::sys::units::duration")]
    pub head_timeout: Duration,
    /// Time limit for a request body: this, plus one second per 64 KiB received.
    #[serde(with = "crate::sys::units::duration")]
    pub body_timeout: Duration,
    /// Time limit for a client that reads nothing of its response.
    #[serde(with = "crate::sys::units::duration")]
    pub write_timeout: Duration,
}

/// Who may read status, page, metrics and events over TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusFor {
    /// This host.
    Loopback,
    /// Whoever reaches the listener.
    Anyone,
    /// Nobody; only the unix socket shows them.
    Nobody,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            access_keys: Vec::new(),
            insecure_tcp_intake: false,
            rate: RateConfig::default(),
            status_for: StatusFor::Loopback,
            file_urls: true,
            file_key: None,
            public_address: None,
            max_connections: 512,
            head_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(8),
            write_timeout: Duration::from_secs(10),
        }
    }
}

/// The parts that the API calls.
#[derive(Clone)]
pub struct Deps {
    pub store: Store,
    pub intake: Arc<Intake>,
    pub board: Board,
    pub keep: Arc<Keep>,
    pub publisher: Arc<Publisher>,
    /// What is in the inbox.
    pub inbox: watch::Receiver<model::Inbox>,
    /// As configured, for the status.
    pub data_dir: PathBuf,
    pub clock: Arc<dyn Clock>,
    pub version: &'static str,
}

/// Why the API cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Keys(#[from] ens::Error),
    #[error("prepare the key of download paths")]
    FileKey(#[source] secret::Error),
}

/// The sockets to serve.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For the ENS endpoint, and for requests that only read.
    pub tcp: Option<TcpListener>,
    /// For every request.
    pub unix: Option<UnixListener>,
}

/// The ENS endpoint and the native API of one node.
pub struct Api {
    deps: Deps,
    config: RwLock<Arc<Config>>,
    ens: Arc<Endpoint<Node>>,
    file_key: Arc<FileKey>,
    /// Of the unix socket.
    bodies: Bodies,
    followers: events::Followers,
    counters: Arc<metrics::Counters>,
    started_ms: i64,
    listen_http: OnceLock<SocketAddr>,
    restart_needed: Mutex<Vec<String>>,
    draining: CancellationToken,
}

impl Config {
    fn ens(&self) -> ens::Config {
        ens::Config {
            access_keys: self.access_keys.clone(),
            insecure_tcp: self.insecure_tcp_intake,
            rate: self.rate,
            public_address: self.public_address.clone(),
        }
    }
}

/// Checks what a start would: that every access key has its own id and a secret.
pub fn check(config: &Config) -> Result<(), Error> {
    Ok(ens::check(&config.access_keys)?)
}

impl Api {
    /// Creates the API, and reads the secrets that the configuration names.
    pub fn new(config: Config, deps: Deps) -> Result<Self, Error> {
        let file_key = read_file_key(&config, &deps.data_dir).map_err(Error::FileKey)?;
        let file_key = Arc::new(file_key);
        let bodies = Bodies::new(config.body_timeout);
        let counters = Arc::<metrics::Counters>::default();
        let draining = CancellationToken::new();
        let node = Node {
            deps: deps.clone(),
            counters: Arc::clone(&counters),
            draining: draining.clone(),
        };
        let clock = Arc::clone(&deps.clock);
        let key = Arc::clone(&file_key);
        let ens = Endpoint::new(node, config.ens(), key, clock)?;
        let started_ms = deps.clock.now_ms();
        Ok(Self {
            config: RwLock::new(Arc::new(config)),
            deps,
            ens: Arc::new(ens),
            file_key,
            bodies,
            followers: events::Followers::default(),
            counters,
            started_ms,
            listen_http: OnceLock::new(),
            restart_needed: Mutex::default(),
            draining,
        })
    }

    /// Replaces access keys, rates and read permissions. Connection limits, time limits and the key
    /// of download paths stay as they were at the start. On an error everything stays.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        self.ens.reload(config.ens())?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        Ok(())
    }

    /// Shows in the status that `keys` were changed and need a restart.
    pub fn needs_restart(&self, keys: Vec<String>) {
        *self.lock_restart_needed() = keys;
    }

    fn lock_restart_needed(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.restart_needed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves until `drain`, then finishes the open requests.
    pub async fn serve(self: Arc<Self>, listeners: Listeners, drain: CancellationToken) {
        let config = self.config();
        let settings = Settings {
            connections: config.max_connections,
            head: config.head_timeout,
            write: config.write_timeout,
            unreadable: ens::unreadable,
            bodies: self.bodies.clone(),
            health: HEALTH,
        };
        let over_tcp = Settings {
            bodies: Bodies::new(config.body_timeout),
            ..settings.clone()
        };
        if let Some(address) = listeners.tcp.as_ref().and_then(|l| l.local_addr().ok()) {
            self.listen_http.get_or_init(|| address);
        }
        let tcp = async {
            if let Some(listener) = listeners.tcp {
                let router = routes::over_tcp(Arc::clone(&self));
                http::serve(listener, router, over_tcp, drain.clone()).await;
            }
        };
        let unix = async {
            if let Some(listener) = listeners.unix {
                let router = routes::over_unix(Arc::clone(&self));
                http::serve(listener, router, settings, drain.clone()).await;
            }
        };
        let end_streams = async {
            drain.cancelled().await;
            self.draining.cancel();
        };
        tokio::join!(tcp, unix, end_streams);
    }

    /// Counts what the metrics show, from this call on and until `drain`.
    pub fn count(self: Arc<Self>, drain: CancellationToken) -> impl Future<Output = ()> + Send {
        let events = self.deps.store.subscribe();
        async move { metrics::count(&self, events, drain).await }
    }

    fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }
}

fn read_file_key(config: &Config, data_dir: &Path) -> Result<FileKey, secret::Error> {
    let secret = match &config.file_key {
        Some(path) => Secret::read(path)?,
        None => Secret::read_or_make(&data_dir.join(FILE_KEY))?,
    };
    Ok(FileKey::new(secret.expose().to_vec()))
}
