//! Shared by the tests of the store, the intake and the reporter: a database in its own directory,
//! and files to push.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;

use super::jobs::{self, NewJob};
use super::{Config, Store, Tx};
use crate::datafile::{
    AppId, ArchiveType, Content, DataFile, DataName, DataVersion, Key, Md5, SourceUrl,
};
use crate::db::endpoints::{self, Endpoint};
use crate::job::{JobId, Outcome, Published};
use crate::sys::clock::SetClock;
use crate::wire::push::Via;

/// Start time of the test clock.
pub(crate) const NOW: i64 = 1_767_323_045_000;

/// A store with its directory and clock.
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) clock: Arc<SetClock>,
    pub(crate) dir: TempDir,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(Config::default())
    }

    pub(crate) fn with(config: Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = SetClock::new(NOW);
        let store =
            Store::open_with(&dir.path().join("edgepush.db"), clock.clone(), config).unwrap();
        Self { store, clock, dir }
    }

    /// Closes the store and reopens it.
    pub(crate) fn again(self) -> Self {
        let Self { store, clock, dir } = self;
        drop(store);
        let store = Store::open(&dir.path().join("edgepush.db"), clock.clone()).unwrap();
        Self { store, clock, dir }
    }

    /// Registers one endpoint that wants all events.
    pub(crate) async fn listen(&self) {
        let endpoint = Endpoint {
            name: "hook".to_owned(),
            target: "http://127.0.0.1:1".to_owned(),
            types: Vec::new(),
        };
        self.store
            .write(move |tx| endpoints::register(tx, &[endpoint]))
            .await
            .unwrap();
    }

    pub(crate) async fn accept(&self, file: DataFile) -> JobId {
        self.store.write(move |tx| accept(tx, &file)).await.unwrap()
    }

    /// Pushes and publishes a version and makes it live.
    pub(crate) async fn publish(&self, name: &str, version: &str) -> JobId {
        let id = self.accept(file(name, version)).await;
        self.end(id, published(true)).await;
        id
    }

    pub(crate) async fn end(&self, id: JobId, outcome: Outcome) -> bool {
        self.store
            .write(move |tx| {
                jobs::start(tx, id, tx.now_ms())?;
                jobs::finish(tx, id, &outcome, tx.now_ms())
            })
            .await
            .unwrap()
    }
}

pub(crate) fn accept(tx: &Tx<'_>, file: &DataFile) -> Result<JobId, super::Error> {
    jobs::insert(
        tx,
        &NewJob {
            file,
            push: "push-1",
            via: Via::Api,
            activate: true,
        },
    )
}

pub(crate) fn key(name: &str, version: &str) -> Key {
    Key {
        app: AppId::parse("app").unwrap(),
        name: DataName::parse(name).unwrap(),
        version: DataVersion::parse(version).unwrap(),
    }
}

pub(crate) fn file(name: &str, version: &str) -> DataFile {
    DataFile {
        key: key(name, version),
        archive_type: ArchiveType::TarGz,
        size: Some(10),
        md5: Some(md5(1)),
        sha256: None,
        url: SourceUrl::parse("http://user:pw@h/x?sign=SECRET").unwrap(),
        timeout: Duration::from_secs(60),
    }
}

pub(crate) fn md5(byte: u8) -> Md5 {
    Md5::parse(&format!("{byte:02x}").repeat(16)).unwrap()
}

pub(crate) fn published(activated: bool) -> Outcome {
    Outcome::Published(Published {
        content: Content {
            size: Some(10),
            md5: Some(md5(1)),
            sha256: None,
        },
        files: 3,
        bytes: 30,
        fetched: 10,
        activated,
    })
}
