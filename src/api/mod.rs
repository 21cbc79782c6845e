//! The native API, and the ENS endpoint of a node, on its two listeners.
//!
//! Two listeners, one [`Api`]. Over TCP come the contract's calls at `/`, signed, and everything that only looks: status,
//! page, metrics, kept archives. Over the unix socket comes whoever may open it, and may do everything. [`http`] serves
//! the connections; `node` is what the contract's calls do here; `native` and `changes` answer; [`client`] is the other
//! end.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::ens::{self, Endpoint, KeyConfig, RateConfig};
use crate::http::body::Bodies;
use crate::http::{self, Settings};
use crate::intake::Intake;
use crate::keep::Keep;
use crate::progress::Board;
use crate::publish::Publisher;
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

/// The file below the data directory that holds the key of download paths, where the configuration names none.
const FILE_KEY: &str = "file.key";
/// Followers of events at once.
const FOLLOWERS: usize = 64;

/// Who may ask over HTTP and over the socket, and how long that may take.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The access keys that may sign calls of the ENS endpoint. Without any, it takes none over TCP.
    pub access_keys: Vec<KeyConfig>,
    /// Take unsigned calls over TCP. Whoever reaches the listener can then push: for trying out on the loopback only.
    pub insecure_tcp_intake: bool,
    /// How often one access key may ask.
    pub rate: RateConfig,
    /// Who may read status, page, metrics and events over TCP: "loopback" for this machine, "anyone" or "nobody".
    pub status_for: StatusFor,
    /// Whether pushes over the unix socket may name `file:` URLs. The agent reads them with its own rights.
    pub file_urls: bool,
    /// The file that holds the key which signs download paths, with mode 0600 or 0400. Absent: `file.key` in the data
    /// directory, made at the first start.
    pub file_key: Option<PathBuf>,
    /// Host and port at which clients reach this node, for download paths. Absent: as they reached it.
    pub public_address: Option<String>,
    /// Connections at once on each listener. A further one waits until one of them ends; an idle one ends by `head_timeout`.
    pub max_connections: usize,
    /// How long the head of a request may take, and how long a connection may be idle.
    #[serde(with = "crate::sys::units::duration")]
    pub head_timeout: Duration,
    /// How long a body may take that hardly arrives; one that does arrive gets a second more for each 64 KiB.
    #[serde(with = "crate::sys::units::duration")]
    pub body_timeout: Duration,
    /// How long a client may take nothing of its answer.
    #[serde(with = "crate::sys::units::duration")]
    pub write_timeout: Duration,
}

/// Who may read over TCP what only looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StatusFor {
    /// This machine.
    Loopback,
    /// Whoever reaches the listener.
    Anyone,
    /// Nobody; the unix socket is left.
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

/// What the API stands on.
#[derive(Clone)]
pub struct Deps {
    /// What the node knows.
    pub store: Store,
    /// Who admits pushes.
    pub intake: Arc<Intake>,
    /// How far the running jobs are.
    pub board: Board,
    /// Upkeep of what is published.
    pub keep: Arc<Keep>,
    /// Where published trees and kept archives are.
    pub publisher: Arc<Publisher>,
    /// Where everything is kept, as configured.
    pub data_dir: PathBuf,
    /// Where time stamps come from.
    pub clock: Arc<dyn Clock>,
    /// The program's version.
    pub version: &'static str,
}

/// Why the API cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An access key cannot be used.
    #[error(transparent)]
    Keys(#[from] ens::Error),
    /// The key of download paths cannot be used.
    #[error("prepare the key of download paths")]
    FileKey(#[source] secret::Error),
}

/// The sockets to serve.
#[derive(Debug, Default)]
pub struct Listeners {
    /// For the ENS endpoint and for everything that only looks.
    pub tcp: Option<TcpListener>,
    /// For whoever may open it.
    pub unix: Option<UnixListener>,
}

/// The ENS endpoint and the native API of one node.
pub struct Api {
    deps: Deps,
    config: RwLock<Arc<Config>>,
    ens: Arc<Endpoint<Node>>,
    file_key: Arc<FileKey>,
    bodies: Bodies,
    followers: Arc<Semaphore>,
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

/// Checks what a start would: that every access key has an id of its own and a secret.
pub fn check(config: &Config) -> Result<(), Error> {
    Ok(ens::check(&config.access_keys)?)
}

impl Api {
    /// Reads the secrets that the configuration names.
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
        let ens = Endpoint::new(node, config.ens(), key, bodies.clone(), clock)?;
        let started_ms = deps.clock.now_ms();
        Ok(Self {
            config: RwLock::new(Arc::new(config)),
            deps,
            ens: Arc::new(ens),
            file_key,
            bodies,
            followers: Arc::new(Semaphore::new(FOLLOWERS)),
            counters,
            started_ms,
            listen_http: OnceLock::new(),
            restart_needed: Mutex::default(),
            draining,
        })
    }

    /// Replaces access keys, rates and who may look; connections, time limits and the key of download paths stay as they
    /// were at the start. When it fails, everything stays.
    pub fn reload(&self, config: Config) -> Result<(), Error> {
        self.ens.reload(config.ens())?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        Ok(())
    }

    /// Shows from now on that `keys` were changed and are only read at a start.
    pub fn needs_restart(&self, keys: Vec<String>) {
        *self.lock_restart_needed() = keys;
    }

    fn lock_restart_needed(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.restart_needed
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Serves until `drain`, then ends what is at work.
    pub async fn serve(self: Arc<Self>, listeners: Listeners, drain: CancellationToken) {
        let config = self.config();
        let settings = Settings {
            connections: config.max_connections,
            head: config.head_timeout,
            write: config.write_timeout,
            unreadable: ens::unreadable,
        };
        if let Some(address) = listeners.tcp.as_ref().and_then(|l| l.local_addr().ok()) {
            self.listen_http.get_or_init(|| address);
        }
        let tcp = async {
            if let Some(listener) = listeners.tcp {
                let router = routes::over_tcp(Arc::clone(&self));
                http::serve(listener, router, settings, drain.clone()).await;
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
        let count = metrics::count(&self, drain.clone());
        tokio::join!(tcp, unix, end_streams, count);
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
