//! The API alone, in this process: a store, an intake, and whoever the test lets end the jobs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgepush::api::{Api, Config, Deps, Listeners};
use edgepush::datafile::{AppId, Content, DataFile, DataName, DataVersion, Key};
use edgepush::deliver::Road;
use edgepush::fetch::Fetcher;
use edgepush::intake::{self, Intake};
use edgepush::job::{Failure, JobId, Outcome, Published, Stage};
use edgepush::keep::{self, Keep};
use edgepush::progress::Board;
use edgepush::publish::Publisher;
use edgepush::shown::model::Inbox;
use edgepush::store::{Store, jobs};
use edgepush::sys::Live;
use edgepush::sys::clock::SystemClock;
use edgepush::sys::failure::{Class, Kind, Retry};
use serde_json::Value;
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::ens::{Ens, Scheme};
use super::http::{self, Answer};

/// The access key that may do everything.
pub(crate) const ID: &str = "key-1";
pub(crate) const SECRET: &str = "secret-1";

/// A served API. No job runs and no worker does anything by itself.
pub(crate) struct Served {
    dir: tempfile::TempDir,
    pub(crate) runtime: Runtime,
    pub(crate) api: Arc<Api>,
    pub(crate) store: Store,
    pub(crate) board: Board,
    pub(crate) publisher: Arc<Publisher>,
    pub(crate) address: SocketAddr,
    drain: CancellationToken,
    serving: tokio::task::JoinHandle<()>,
}

/// A node that may fetch everything and keeps no archives.
struct AnySource;

impl intake::Site for AnySource {
    fn check(&self, _: &DataFile) -> Result<(), edgepush::admission::Denial> {
        Ok(())
    }

    fn archive_content(&self, _: &Key) -> Option<Content> {
        None
    }

    fn is_current(&self, _: &edgepush::datafile::Key) -> bool {
        true
    }
}

impl Served {
    /// Serves with `api` and `intake` as TOML behind what tests share. With `# no archives` in it, none are kept.
    pub(crate) fn new(api: &str, intake: &str) -> Self {
        Self::at(tempfile::tempdir().unwrap(), api, intake)
    }

    fn at(dir: tempfile::TempDir, api: &str, intake: &str) -> Self {
        let runtime = Runtime::new().unwrap();
        let _inside = runtime.enter();
        let clock = Arc::new(SystemClock);
        let store = Store::open(&dir.path().join("edgepush.db"), clock.clone()).unwrap();
        let intake: intake::Config = toml::from_str(intake).unwrap();
        let intake = Arc::new(Intake::new(store.clone(), intake, AnySource));
        let board = Board::default();
        let root = dir.path().to_owned();
        let rules = edgepush::publish::Config {
            keep_archives: !api.contains("# no archives"),
            ..Default::default()
        };
        let publisher = Arc::new(Publisher::open(&root, rules, 0o022).unwrap());
        let deps = Deps {
            store: store.clone(),
            keep: keep(&store, &publisher, &intake),
            publisher: Arc::clone(&publisher),
            intake,
            inbox: tokio::sync::watch::channel(Inbox::default()).1,
            board: board.clone(),
            data_dir: root,
            clock,
            version: "1.2.3",
        };
        let api = Arc::new(Api::new(config(dir.path(), api), deps).unwrap());
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        tcp.set_nonblocking(true).unwrap();
        let address = tcp.local_addr().unwrap();
        let socket = dir.path().join("agent.sock");
        let _ = std::fs::remove_file(&socket);
        let listeners = Listeners {
            tcp: Some(tokio::net::TcpListener::from_std(tcp).unwrap()),
            unix: Some(tokio::net::UnixListener::bind(&socket).unwrap()),
        };
        let drain = CancellationToken::new();
        let serving = runtime.spawn(Arc::clone(&api).serve(listeners, drain.clone()));
        runtime.spawn(Arc::clone(&api).count(drain.clone()));
        drop(_inside);
        Self {
            dir,
            runtime,
            api,
            store,
            board,
            publisher,
            address,
            drain,
            serving,
        }
    }

    /// Ends it in order, and serves again from the same directory.
    pub(crate) fn restart(self, api: &str, intake: &str) -> Self {
        let Self {
            dir,
            runtime,
            store,
            drain,
            serving,
            api: served,
            ..
        } = self;
        drain.cancel();
        runtime.block_on(serving).unwrap();
        runtime.block_on(store.close());
        drop((served, store));
        drop(runtime);
        Self::at(dir, api, intake)
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("agent.sock")
    }

    /// Reads the configuration anew.
    pub(crate) fn reload(&self, api: &str) {
        self.api.reload(config(self.dir.path(), api)).unwrap();
    }

    /// A client with the key that may do everything.
    pub(crate) fn ens(&self, scheme: Scheme) -> Ens {
        Ens::new(self.address, ID, SECRET, scheme)
    }

    pub(crate) fn tcp(&self, method: &str, target: &str, headers: &[(&str, &str)]) -> Answer {
        http::tcp(self.address, method, target, headers, b"").unwrap()
    }

    pub(crate) fn unix(&self, method: &str, target: &str, body: Option<&Value>) -> Answer {
        http::unix(&self.socket(), method, target, body).unwrap()
    }

    /// The latest job of a file.
    pub(crate) fn job(&self, key: &Key) -> JobId {
        let key = key.clone();
        let read = self.store.read(move |r| jobs::latest(r, &key));
        self.runtime.block_on(read).unwrap().unwrap().id
    }

    /// Ends a job as the runner would.
    pub(crate) fn end(&self, job: JobId, outcome: Outcome) {
        let write = self.store.write(move |tx| {
            jobs::start(tx, job, tx.now_ms())?;
            jobs::finish(tx, job, &outcome, tx.now_ms())
        });
        assert!(self.runtime.block_on(write).unwrap());
    }

    /// Carries out the next flip that is asked for, as the runner would.
    pub(crate) fn flip_once_asked(&self) {
        use edgepush::store::activations;
        let store = self.store.clone();
        self.runtime.spawn(async move {
            let flip = |tx: &edgepush::store::Tx<'_>| {
                let pending = activations::pending(tx)?;
                for row in &pending {
                    activations::done(tx, row.id, None)?;
                }
                Ok(pending.len())
            };
            while store.write(flip).await.unwrap() == 0 {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        });
    }

    /// Publishes the file of a job, with its archive, and makes it live.
    pub(crate) fn publish(&self, key: &Key, archive: &[u8]) {
        let path = self.publisher.layout().archive(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, archive).unwrap();
        let content = Content {
            size: Some(archive.len() as u64),
            md5: None,
            sha256: None,
        };
        let published = Published {
            content,
            files: 2,
            bytes: 20,
            fetched: archive.len() as u64,
            activated: true,
        };
        self.end(self.job(key), Outcome::Published(published));
    }
}

/// Upkeep that only does what the API asks of it.
fn keep(store: &Store, publisher: &Arc<Publisher>, intake: &Arc<Intake>) -> Arc<Keep> {
    let road = Road::new(
        Fetcher::new(Default::default()).unwrap(),
        Arc::clone(publisher),
        Default::default(),
        Arc::new(Live::new(Default::default())),
        Default::default(),
        Arc::new(SystemClock),
    );
    let config = keep::Config {
        upkeep_every: Duration::MAX,
        keep_partial: Duration::MAX,
        scrub_every: Duration::ZERO,
        scrub_rate: 0,
    };
    Keep::new(
        store.clone(),
        Arc::clone(publisher),
        Arc::new(road.unwrap()),
        Arc::clone(intake),
        config,
    )
}

fn config(dir: &Path, extra: &str) -> Config {
    use std::os::unix::fs::OpenOptionsExt;
    let secret = dir.join("key-1.secret");
    let _ = std::fs::remove_file(&secret);
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&secret)
        .unwrap();
    std::io::Write::write_all(&mut file, SECRET.as_bytes()).unwrap();
    let text = format!("{extra}\n[[access_keys]]\nid = {ID:?}\nsecret_file = {secret:?}\n");
    let text = text.replace("SECRET_FILE", &format!("{secret:?}"));
    toml::from_str(&text).unwrap()
}

pub(crate) fn key(app: &str, name: &str, version: &str) -> Key {
    Key {
        app: AppId::parse(app).unwrap(),
        name: DataName::parse(name).unwrap(),
        version: DataVersion::parse(version).unwrap(),
    }
}

pub(crate) fn failed(message: &str) -> Outcome {
    const KIND: Kind = Kind {
        name: "digest-mismatch",
        class: Class::Content,
        retry: Retry::Fatal,
        help: "",
    };
    Outcome::Failed(Failure::new(Stage::Verify, &KIND, message.to_owned()))
}
