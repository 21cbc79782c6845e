//! Guarantees of the store itself; each table module tests its own.

use super::testing::{Bench, file, key};
use super::*;
use crate::db::{nonces, schema};
use crate::job::{EventKind, JobState};

mod outbox;

/// Blocks the owner until the sender is dropped, so that everything written meanwhile forms one
/// group.
fn occupy(store: &Store) -> std::sync::mpsc::SyncSender<()> {
    let (release, wait) = std::sync::mpsc::sync_channel::<()>(0);
    let (entered, inside) = std::sync::mpsc::sync_channel::<()>(0);
    let store = store.clone();
    tokio::spawn(async move {
        store
            .write(move |_| {
                entered.send(()).unwrap();
                let _ = wait.recv();
                Ok(())
            })
            .await
    });
    tokio::task::block_in_place(|| inside.recv().unwrap());
    release
}

async fn count(store: &Store) -> i64 {
    store
        .read(|r| r.number("count", "SELECT count(*) FROM jobs", []))
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_work_shares_one_commit_and_one_failing_piece_harms_no_other() {
    let bench = Bench::new();
    let release = occupy(&bench.store);
    let before = bench.store.stats();
    let calls: Vec<_> = (0..100)
        .map(|i| {
            let store = bench.store.clone();
            tokio::spawn(async move {
                store
                    .write(move |tx| {
                        let id = testing::accept(tx, &file("n", &i.to_string()))?;
                        match i % 10 {
                            0 => Err(Error::Row {
                                what: "test",
                                found: String::new(),
                            }),
                            1 => panic!("a piece of work panics"),
                            _ => Ok(id),
                        }
                    })
                    .await
            })
        })
        .collect();
    while bench.store.queued() < 100 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(release);
    let mut ids = Vec::new();
    for (i, call) in calls.into_iter().enumerate() {
        match (i % 10, call.await.unwrap()) {
            (0, Err(Error::Row { .. })) | (1, Err(Error::Panicked)) => {}
            (2.., Ok(id)) => ids.push(id),
            (_, other) => panic!("{i}: {other:?}"),
        }
    }
    assert_eq!(count(&bench.store).await, 80);
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 80, "what was undone gave its number back");
    let stats = bench.store.stats();
    assert_eq!(stats.pieces - before.pieces, 81);
    assert!(stats.commits - before.commits <= 2, "{stats:?}");
}

#[tokio::test]
async fn what_was_answered_is_there_after_reopening() {
    let bench = Bench::new();
    let id = bench.accept(file("n", "1")).await;
    let bench = bench.again();
    let row = bench
        .store
        .read(move |r| jobs::get(r, id))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((row.state, row.key), (JobState::Queued, key("n", "1")));
}

#[tokio::test]
async fn one_process_at_a_time_and_the_lock_goes_with_the_store() {
    let bench = Bench::new();
    let path = bench.store.path().to_owned();
    let second = Store::open(&path, Arc::clone(&bench.clock) as Arc<dyn Clock>);
    assert!(matches!(second, Err(Error::InUse { .. })));
    drop(bench.again());
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let bench = Bench::new();
    bench.accept(file("n", "1")).await;
    bench.store.close().await;
    assert!(matches!(
        bench.store.write(|_| Ok(())).await,
        Err(Error::Closed)
    ));
    assert!(matches!(
        bench.store.read(|_| Ok(())).await,
        Err(Error::Closed)
    ));
    let wal = bench.dir.path().join("edgepush.db-wal");
    assert!(
        wal.metadata().map_or(true, |m| m.len() == 0),
        "the journal is folded in"
    );
    drop(bench.again());
}

#[tokio::test]
async fn a_full_disk_undoes_the_work_and_the_store_goes_on() {
    let bench = Bench::new();
    bench.accept(file("n", "0")).await;
    let limit = |pages: i64| {
        bench.store.write(move |tx| {
            tx.connection()
                .pragma_update_and_check(None, "max_page_count", pages, |r| r.get::<_, i64>(0))
                .map_err(Error::sql("limit"))
        })
    };
    limit(1).await.unwrap();
    let mut full = 0;
    for i in 1..200 {
        let result = bench
            .store
            .write(move |tx| testing::accept(tx, &file(&"x".repeat(900), &i.to_string())))
            .await;
        match result {
            Ok(_) => assert_eq!(full, 0, "once full, full for all"),
            Err(error) => {
                assert!(matches!(error, Error::Full), "{error}");
                full += 1;
            }
        }
    }
    assert!(full > 100);
    let before = count(&bench.store).await;
    limit(1 << 30).await.unwrap();
    bench.accept(file("n", "2")).await;
    assert_eq!(count(&bench.store).await, before + 1);
}

#[tokio::test]
async fn a_failed_sync_ends_everything() {
    let bench = Bench::new();
    let failed = tokio::spawn({
        let store = bench.store.clone();
        async move { store.failed().await }
    });
    let result = bench
        .store
        .write(|tx| {
            testing::accept(tx, &file("n", "1"))?;
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            Err::<(), _>(Error::sql("commit")(rusqlite::Error::SqliteFailure(
                code, None,
            )))
        })
        .await;
    assert!(matches!(result, Err(Error::Failed { .. })));
    assert!(matches!(failed.await.unwrap(), Error::Failed { .. }));
    assert!(matches!(
        bench.store.write(|_| Ok(())).await,
        Err(Error::Failed { .. })
    ));
    assert_eq!(count(&bench.store).await, 0, "reading goes on");
    let bench = bench.again();
    bench.accept(file("n", "1")).await;
}

#[tokio::test]
async fn subscribers_and_waiters_hear_of_what_was_committed_and_of_nothing_else() {
    let bench = Bench::new();
    let mut events = bench.store.subscribe();
    let mut wake = bench.store.wake(JOBS);
    let undone = bench
        .store
        .write(|tx| {
            testing::accept(tx, &file("n", "1"))?;
            Err::<(), _>(Error::Closed)
        })
        .await;
    assert!(undone.is_err());
    assert!(!wake.has_changed().unwrap());
    bench.accept(file("n", "2")).await;
    assert!(wake.has_changed().unwrap());
    wake.mark_unchanged();
    let event = events.try_recv().unwrap();
    assert_eq!(
        (event.kind.clone(), event.key.clone()),
        (EventKind::Accepted, Some(key("n", "2")))
    );
    assert!(events.try_recv().is_err());
}

#[tokio::test]
async fn the_uptime_clock_goes_on_where_it_was() {
    let bench = Bench::new();
    let set = |ms: i64| {
        let path = bench.store.path().to_owned();
        let conn = rusqlite::Connection::open(path).unwrap();
        schema::set_meta(&conn, "uptime_ms", &ms.to_string()).unwrap();
    };
    bench.store.close().await;
    set(5_000_000);
    let bench = bench.again();
    let uptime = bench.store.read(|r| Ok(r.uptime_ms())).await.unwrap();
    assert!((5_000_000..5_060_000).contains(&uptime), "{uptime}");
    let bench = bench.again();
    assert!(bench.store.read(|r| Ok(r.uptime_ms())).await.unwrap() >= uptime);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_hangs_is_seen_and_readers_go_on() {
    let bench = Bench::new();
    let release = occupy(&bench.store);
    assert!(bench.store.busy_for().is_some());
    assert_eq!(count(&bench.store).await, 0);
    drop(release);
    bench.store.write(|_| Ok(())).await.unwrap();
    for _ in 0..1000 {
        if bench.store.busy_for().is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("the owner is never idle");
}

#[tokio::test]
async fn the_journal_is_folded_in_as_it_grows() {
    let bench = Bench::new();
    let wal = bench.dir.path().join("edgepush.db-wal");
    for round in 0..40 {
        bench
            .store
            .write(move |tx| {
                for i in 0..100 {
                    testing::accept(tx, &file("n", &format!("{round}-{i}")))?;
                }
                Ok(())
            })
            .await
            .unwrap();
    }
    let (wal, db) = (
        wal.metadata().unwrap().len(),
        bench.store.path().metadata().unwrap().len(),
    );
    assert!(wal < 16 << 20, "{wal}");
    assert!(db > 1 << 20, "{db}");
}

async fn take(store: &Store, key: &'static str) -> Result<bool, Error> {
    store
        .write(move |tx| nonces::remember(tx, key, "n", tx.now_ms() + 1000))
        .await
}

#[tokio::test]
async fn nonces_are_stored_as_digests_of_one_length() {
    let bench = Bench::new();
    for nonce in ["n".to_owned(), "x".repeat(256)] {
        let write = bench
            .store
            .write(move |tx| nonces::remember(tx, "a", &nonce, tx.now_ms() + 1000));
        assert!(write.await.unwrap());
    }
    let sum = "SELECT sum(length(nonce)) FROM nonces";
    let read = bench.store.read(move |r| r.number("measure", sum, []));
    assert_eq!(read.await.unwrap(), 64);
    let used = |nonce: &'static str, now_ms| {
        let read = move |r: &Reader<'_>| nonces::is_used(r, "a", nonce, now_ms);
        bench.store.read(read)
    };
    assert!(used("n", testing::NOW).await.unwrap());
    assert!(!used("m", testing::NOW).await.unwrap());
    assert!(!used("n", testing::NOW + 1001).await.unwrap());
}

#[tokio::test]
async fn nonces_are_taken_once_until_they_expire_also_after_a_restart() {
    let bench = Bench::new();
    assert!(take(&bench.store, "a").await.unwrap());
    assert!(!take(&bench.store, "a").await.unwrap());
    assert!(take(&bench.store, "b").await.unwrap(), "another key");
    let bench = bench.again();
    assert!(!take(&bench.store, "a").await.unwrap());
    bench.clock.set(testing::NOW + 1001);
    assert!(take(&bench.store, "a").await.unwrap());
    bench.clock.set(testing::NOW + 10_000);
    bench.store.housekeep().await.unwrap();
    let left = bench
        .store
        .read(|r| r.number("count", "SELECT count(*) FROM nonces", []))
        .await;
    assert_eq!(left.unwrap(), 0);
}
