//! The database on disks that fail it: full, gone in the middle of a commit, and what is known after that.
//!
//! These need root for their mounts.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use edgepush::datafile::{AppId, ArchiveType, DataFile, DataName, DataVersion, Key, SourceUrl};
use edgepush::job::JobId;
use edgepush::store::jobs::{self, NewJob};
use edgepush::store::{Error, Store};
use edgepush::sys::clock::SystemClock;

use crate::support::disk::{Disk, may_mount};
use edgepush::wire::push::Via;

fn database(disk: &Disk) -> PathBuf {
    disk.path().join("edgepush.db")
}

fn open(path: &Path) -> Result<Store, Error> {
    Store::open(path, Arc::new(SystemClock))
}

fn file(version: u32) -> DataFile {
    DataFile {
        key: Key {
            app: AppId::parse("app").unwrap(),
            name: DataName::parse(&"n".repeat(500)).unwrap(),
            version: DataVersion::parse(&version.to_string()).unwrap(),
        },
        archive_type: ArchiveType::Zip,
        size: None,
        md5: None,
        sha256: None,
        url: SourceUrl::parse("http://h/x").unwrap(),
        timeout: Duration::from_secs(1),
    }
}

async fn accept(store: &Store, version: u32) -> Result<JobId, Error> {
    store
        .write(move |tx| {
            let new = NewJob {
                file: &file(version),
                push: "p",
                via: Via::Api,
                activate: true,
            };
            jobs::insert(tx, &new)
        })
        .await
}

async fn assert_known(store: &Store, ids: &[JobId]) {
    for id in ids.iter().copied() {
        let row = store.read(move |r| jobs::get(r, id)).await.unwrap();
        assert!(row.is_some(), "job {id} was answered and is forgotten");
    }
}

#[tokio::test]
async fn a_full_disk_refuses_pushes_and_forgets_none() {
    if !may_mount("a full disk") {
        return;
    }
    let disk = Disk::tmpfs("size=3m");
    let filler = disk.path().join("filler");
    let store = open(&database(&disk)).unwrap();
    std::fs::write(&filler, vec![0; 1 << 20]).unwrap();
    // 1. Pushes come in until the disk is full, and some more.
    let (mut answered, mut refused) = (Vec::new(), 0);
    for version in 0..5000 {
        match accept(&store, version).await {
            Ok(id) => answered.push(id),
            Err(Error::Full) => refused += 1,
            Err(error) => panic!("{version}: {error:?}"),
        }
        if refused == 50 {
            break;
        }
    }
    assert_eq!(refused, 50);
    assert!(answered.len() > 20, "{}", answered.len());
    // 2. Status queries go on, and every answered push is there.
    assert_known(&store, &answered).await;
    // 3. Room comes back, and so does the store, without a restart.
    std::fs::remove_file(&filler).unwrap();
    answered.push(accept(&store, 9999).await.unwrap());
    // 4. And after a start without an orderly end, as far as one process can: the lock is all that goes.
    drop(store);
    let store = open(&database(&disk)).unwrap();
    assert_known(&store, &answered).await;
}

#[tokio::test]
async fn a_change_after_one_that_found_no_room_is_seen_to_be_in_use() {
    if !may_mount("a full disk") {
        return;
    }
    let disk = Disk::tmpfs("size=3m");
    let store = open(&database(&disk)).unwrap();
    accept(&store, 1).await.unwrap();
    store.close().await;
    drop(store);
    // 1. The first change of this run finds no room when it is committed.
    let store = open(&database(&disk)).unwrap();
    let filler = disk.path().join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[0; 4096]).is_ok() {}
    let error = accept(&store, 2).await.unwrap_err();
    assert!(matches!(error, Error::Full), "{error:?}");
    // 2. The next one is the first that lasts: from then on an end without order has to show.
    drop(file);
    std::fs::remove_file(&filler).unwrap();
    accept(&store, 2).await.unwrap();
    let clean: String = rusqlite::Connection::open(database(&disk))
        .unwrap()
        .query_row("SELECT value FROM meta WHERE key = 'clean'", [], |r| {
            r.get(0)
        })
        .unwrap();
    assert_eq!(clean, "0");
}

#[tokio::test]
async fn a_disk_that_goes_away_ends_the_store_and_no_answer_is_lost() {
    if !may_mount("a disk that fails") {
        return;
    }
    let disk = Disk::ext4("32M");
    let store = open(&database(&disk)).unwrap();
    let mut answered = Vec::new();
    for version in 0..200 {
        answered.push(accept(&store, version).await.unwrap());
    }
    disk.cut_power();
    // 1. What cannot be synced is not answered, and is not tried again.
    let error = accept(&store, 1000).await.unwrap_err();
    assert!(matches!(error, Error::Failed { .. }), "{error:?}");
    let failed = tokio::time::timeout(Duration::from_secs(5), store.failed()).await;
    assert!(matches!(failed, Ok(Error::Failed { .. })));
    for version in 1001..1010 {
        assert!(matches!(
            accept(&store, version).await,
            Err(Error::Failed { .. })
        ));
    }
    drop(store);
    // 2. After the power is back everything that was answered is known, and nothing else.
    disk.mount_again();
    let store = open(&database(&disk)).unwrap();
    assert_known(&store, &answered).await;
    let counts = store.read(jobs::counts).await.unwrap();
    assert_eq!(counts[0].1, 200);
    accept(&store, 1000).await.unwrap();
    drop(store);
}

#[tokio::test]
async fn a_disk_that_becomes_read_only_refuses_pushes_and_answers_queries() {
    if !may_mount("a disk that fails") {
        return;
    }
    let disk = Disk::ext4("32M");
    let store = open(&database(&disk)).unwrap();
    let id = accept(&store, 1).await.unwrap();
    // 1. The kernel finds an error in the file system and makes it read-only under the agent.
    disk.trip();
    for version in 2..10 {
        let error = accept(&store, version).await.unwrap_err();
        assert!(matches!(error, Error::ReadOnly), "{error:?}");
    }
    // 2. Queries go on.
    assert_known(&store, &[id]).await;
    drop(store);
    // 3. A start on such a disk answers too, and takes nothing.
    let store = open(&database(&disk)).unwrap();
    assert_known(&store, &[id]).await;
    let error = accept(&store, 2).await.unwrap_err();
    assert!(matches!(error, Error::ReadOnly), "{error:?}");
    drop(store);
    // 4. With a disk that can be written all is there.
    disk.mount_again();
    let store = open(&database(&disk)).unwrap();
    assert_known(&store, &[id]).await;
    accept(&store, 2).await.unwrap();
}
