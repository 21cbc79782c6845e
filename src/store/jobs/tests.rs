//! The life of a job in the database.

use std::collections::HashSet;
use std::time::Duration;

use super::super::testing::{Bench, NOW, accept, file, key, md5, published};
use super::due::{OLDEST_FIRST, SMALL_FIRST, waiting_sql};
use super::*;
use crate::job::{Failure, Snapshot};
use crate::shown::File;
use crate::shown::callbacks;
use crate::sys::failure::{Class, Kind, Retry};
use crate::wire::status::Status;

const KIND: Kind = Kind {
    name: "digest-mismatch",
    class: Class::Content,
    retry: Retry::Fatal,
    help: "",
};

fn failed() -> Outcome {
    Outcome::Failed(Failure::new(Stage::Verify, &KIND, "md5 differs".to_owned()))
}

async fn get(bench: &Bench, id: JobId) -> File {
    let row = bench.store.read(move |r| super::get(r, id)).await;
    row.unwrap().unwrap()
}

async fn kinds(bench: &Bench, id: JobId) -> Vec<String> {
    let rows = bench
        .store
        .read(move |r| events::of_job(r, id, 0, 1000))
        .await;
    rows.unwrap()
        .into_iter()
        .map(|e| e.kind.to_string())
        .collect()
}

fn turn() -> Turn {
    Turn {
        app: file("n", "1").key.app,
        origin: "h:80".to_owned(),
    }
}

async fn due(bench: &Bench, now: i64, limit: usize, running: &[JobId]) -> Vec<JobId> {
    let running: HashSet<JobId> = running.iter().copied().collect();
    let jobs = bench
        .store
        .read(move |r| super::due(r, &turn(), now, limit, &running))
        .await;
    jobs.unwrap().into_iter().map(|j| j.id).collect()
}

/// The table itself refuses what the functions of this module never ask for.
#[tokio::test]
async fn the_database_holds_the_legal_moves() {
    const MOVE: &str =
        "UPDATE jobs SET state = ?2, finished = iif(?2 IN ('queued', 'retrying', 'running'), NULL, 1),
                        url = iif(?2 IN ('queued', 'retrying', 'running'), 'http://h/x', NULL) WHERE id = ?1";
    let bench = Bench::new();
    let move_to = |id: JobId, state: JobState| {
        bench
            .store
            .write(move |tx| tx.run("move a job", MOVE, params![id, state]))
    };
    let states = JobState::ALL;
    for from in states {
        for to in states {
            let id = bench.accept(file(&format!("{from}-{to}"), "1")).await;
            assert_eq!(move_to(id, from).await.unwrap(), 1);
            let moved = move_to(id, to).await;
            assert_eq!(moved.is_ok(), !from.is_final(), "{from} to {to}: {moved:?}");
            assert_eq!(
                get(&bench, id).await.state,
                if moved.is_ok() { to } else { from }
            );
        }
    }
    // A job whose end has no time, or that has ended and still holds its URL, is no row either.
    let id = bench.accept(file("half", "1")).await;
    for half in [
        "finished = 1",
        "url = NULL",
        "state = 'failed'",
        "state = 'gone'",
    ] {
        let sql = format!("UPDATE jobs SET {half} WHERE id = {}", id.0);
        let written = bench.store.write(move |tx| tx.run("move half", &sql, []));
        assert!(written.await.is_err(), "{half}");
    }
}

#[tokio::test]
async fn a_final_state_is_never_left() {
    let bench = Bench::new();
    bench.listen().await;
    for outcome in [published(true), failed(), Outcome::Canceled] {
        let id = bench.accept(file("n", outcome.state().as_str())).await;
        assert!(bench.end(id, outcome.clone()).await);
        let (row, timeline) = (get(&bench, id).await, kinds(&bench, id).await);
        for second in [published(true), failed(), Outcome::Canceled] {
            assert!(!bench.end(id, second).await);
        }
        bench
            .store
            .write(move |tx| {
                assert_eq!(start(tx, id, NOW)?, None);
                assert!(!requeue(tx, id, 0, "")?);
                assert_eq!(cancel_request(tx, id, "me")?, Cancel::Ended);
                assert!(interrupted(tx)?.is_empty());
                // The database refuses it as well, whatever the statement.
                let forced = tx.run(
                    "force",
                    "UPDATE jobs SET state = 'running' WHERE id = ?1",
                    [id.0],
                );
                assert!(forced.is_err());
                Ok(())
            })
            .await
            .unwrap();
        assert_eq!(get(&bench, id).await, row);
        assert_eq!(kinds(&bench, id).await, timeline);
    }
}

#[tokio::test]
async fn the_secret_url_is_kept_only_while_the_job_is_open() {
    let bench = Bench::new();
    let id = bench.accept(file("n", "1")).await;
    let jobs = bench
        .store
        .read(|r| super::due(r, &turn(), NOW, 9, &HashSet::new()))
        .await
        .unwrap();
    assert_eq!(jobs[0].file, file("n", "1"), "the runner gets all of it");
    assert!(!format!("{:?}", get(&bench, id).await).contains("SECRET"));
    bench.end(id, failed()).await;
    bench.store.close().await;
    let bytes = std::fs::read(bench.store.path()).unwrap();
    assert!(
        !bytes.windows(6).any(|w| w == b"SECRET"),
        "wiped, not only unlinked"
    );
}

#[tokio::test]
async fn jobs_are_due_in_the_order_of_acceptance_and_not_before_their_time() {
    let bench = Bench::new();
    let mut ids = Vec::new();
    for version in ["1", "2", "3", "4"] {
        ids.push(bench.accept(file("n", version)).await);
    }
    assert_eq!(due(&bench, NOW, 9, &[]).await, ids);
    assert_eq!(due(&bench, NOW, 2, &ids[..1]).await, ids[1..3]);
    let (first, second) = (ids[0], ids[1]);
    bench
        .store
        .write(move |tx| {
            assert_eq!(start(tx, first, NOW)?, Some(1));
            assert_eq!(start(tx, first, NOW)?, None, "started once");
            assert!(requeue(tx, first, NOW + 500, "later")?);
            start(tx, second, NOW)?;
            requeue(tx, second, i64::MAX, "much later")
        })
        .await
        .unwrap();
    assert_eq!(due(&bench, NOW + 499, 9, &[]).await, ids[2..]);
    assert_eq!(
        due(&bench, NOW + 500, 9, &[]).await,
        [ids[2], ids[3], ids[0]],
        "behind those that were not put off"
    );
    assert_eq!(
        due(&bench, NOW + 3_600_000, 9, &[]).await,
        [ids[2], ids[3], ids[0], ids[1]],
        "an hour is the longest wait"
    );
    // The clock is set back ten days: a job delayed until a time that far ahead is due.
    let back = NOW - 864_000_000;
    assert!(bench.store.read(move |r| is_lost(r, back)).await.unwrap());
    let found = bench.store.write(move |tx| forget_clock_jump(tx, back));
    found.await.unwrap();
    assert_eq!(due(&bench, back, 9, &[]).await, ids);
}

#[tokio::test]
async fn small_jobs_are_due_by_their_size_and_found_by_an_index() {
    let bench = Bench::new();
    let mut ids = Vec::new();
    for (version, size) in ["1", "2", "3", "4", "5"]
        .into_iter()
        .zip([30, 10, 31, 20, 0])
    {
        let mut file = file("n", version);
        file.size = Some(size).filter(|size| *size > 0);
        ids.push(bench.accept(file).await);
    }
    let small = async |now, limit, running: &[JobId]| {
        let running = running.iter().copied().collect();
        let due = bench
            .store
            .read(move |r| due_small(r, &turn(), 30, now, limit, &running));
        let due: Vec<_> = due.await.unwrap().into_iter().map(|job| job.id).collect();
        due
    };
    assert_eq!(small(NOW, 9, &[]).await, [ids[1], ids[3], ids[0]]);
    assert_eq!(small(NOW, 1, &ids[1..2]).await, [ids[3]]);
    let smallest = ids[1];
    let put_off = bench.store.write(move |tx| {
        start(tx, smallest, NOW)?;
        requeue(tx, smallest, NOW + 500, "later")
    });
    assert!(put_off.await.unwrap());
    assert_eq!(small(NOW, 9, &[]).await, [ids[3], ids[0]]);
    assert_eq!(small(NOW + 500, 9, &[]).await, [ids[1], ids[3], ids[0]]);
    for which in [SMALL_FIRST, OLDEST_FIRST] {
        let explain = format!("EXPLAIN QUERY PLAN {}", waiting_sql(which));
        let plan = bench.store.read(move |r| {
            r.many("explain", &explain, [0, 0, 0, 0, 0], |r| {
                r.get::<_, String>(3)
            })
        });
        let plan = plan.await.unwrap().join("\n");
        assert!(
            plan.contains("INDEX jobs_by_") && !plan.contains("TEMP B-TREE"),
            "{plan}"
        );
    }
}

#[tokio::test]
async fn every_application_and_origin_with_waiting_jobs_has_a_turn() {
    let bench = Bench::new();
    for (app, host) in [("b", "y"), ("a", "y"), ("a", "x"), ("a", "x")] {
        let mut file = file(host, &format!("{}", fastrand::u64(..)));
        file.key.app = crate::datafile::AppId::parse(app).unwrap();
        file.url = crate::datafile::SourceUrl::parse(&format!("http://{host}/f")).unwrap();
        bench.accept(file).await;
    }
    let turns = |after: Option<Turn>, limit| {
        let read = bench
            .store
            .read(move |r| super::turns(r, after.as_ref(), limit));
        async move {
            let turns = read.await.unwrap();
            let text = turns.iter().map(|t| format!("{} {}", t.app, t.origin));
            (text.collect::<Vec<_>>(), turns)
        }
    };
    let (all, found) = turns(None, 9).await;
    assert_eq!(all, ["a x:80", "a y:80", "b y:80"]);
    assert_eq!(turns(None, 2).await.0, all[..2]);
    assert_eq!(turns(Some(found[1].clone()), 9).await.0, all[2..]);
}

#[tokio::test]
async fn interrupted_jobs_wait_again_and_count_their_starts() {
    let bench = Bench::new();
    let id = bench.accept(file("n", "1")).await;
    let other = bench.accept(file("n", "2")).await;
    for round in 1..=3 {
        let starts = bench
            .store
            .write(move |tx| start(tx, id, NOW))
            .await
            .unwrap();
        assert_eq!(starts, Some(round));
        let back = bench.store.write(interrupted_ids).await.unwrap();
        assert_eq!(back, [id]);
    }
    assert_eq!(due(&bench, NOW, 9, &[]).await, [id, other]);
}

fn interrupted_ids(tx: &Tx<'_>) -> Result<Vec<JobId>, Error> {
    Ok(interrupted(tx)?.into_iter().map(|j| j.id).collect())
}

#[tokio::test]
async fn the_end_is_one_transaction_with_release_timeline_and_callback() {
    let bench = Bench::new();
    bench.listen().await;
    let id = bench.publish("n", "1").await;
    let row = get(&bench, id).await;
    assert_eq!(
        (row.state, row.received, row.files, row.written),
        (JobState::Succeeded, 10, 3, 30)
    );
    assert!(row.release.as_ref().is_some_and(|r| r.live));
    assert_eq!(
        kinds(&bench, id).await,
        ["accepted", "started", "published", "activated"]
    );
    let callbacks = bench
        .store
        .read(|r| outbox::list(r, &outbox::Filter::default(), 99))
        .await
        .unwrap();
    let types: Vec<&str> = callbacks.iter().map(|c| c.kind.as_str()).collect();
    assert_eq!(
        types,
        [
            callbacks::ACCEPTED,
            callbacks::PUBLISHED,
            callbacks::ACTIVATED
        ]
    );
    assert_eq!(callbacks[1].data["result_code"], 0);
    assert_eq!(callbacks[1].data["status"], "SUCCESS");
    assert_eq!(callbacks[1].data["md5"], md5(1).to_string());
    assert_eq!(callbacks[2].data["reason"], "push");
    let told: Vec<&String> = callbacks[1].data.as_object().unwrap().keys().collect();
    let documented = "accepted_at activated app archive_type attempts bytes duration_ms failure fetched files \
                      finished_at job md5 name push received result_code sha256 size source stage started_at \
                      starts state status total version via";
    assert_eq!(told, documented.split(' ').collect::<Vec<_>>());
}

#[tokio::test]
async fn an_undone_end_leaves_nothing() {
    let bench = Bench::new();
    bench.listen().await;
    let id = bench.accept(file("n", "1")).await;
    let before = (get(&bench, id).await, kinds(&bench, id).await);
    let undone = bench
        .store
        .write(move |tx| {
            assert!(finish(tx, id, &published(true), NOW)?);
            Err::<(), _>(Error::Closed)
        })
        .await;
    assert!(undone.is_err());
    assert_eq!((get(&bench, id).await, kinds(&bench, id).await), before);
    let waiting = bench.store.read(outbox::pending).await.unwrap();
    assert_eq!(waiting, 1, "accepted only");
}

#[tokio::test]
async fn progress_is_noted_and_reported_at_most_every_ten_seconds() {
    let bench = Bench::new();
    bench.listen().await;
    let id = bench.accept(file("n", "1")).await;
    let note = move |received: u64| {
        move |tx: &Tx<'_>| {
            let snapshot = Snapshot {
                stage: Stage::Fetch,
                attempt: 2,
                received,
                total: 100,
                fetched: received,
                files: 1,
                written: 5,
                spent_ms: 0,
            };
            progress_event(tx, id, &snapshot, tx.now_ms())
        }
    };
    bench.store.write(note(1)).await.unwrap();
    assert_eq!(get(&bench, id).await.received, 0, "not running yet");
    bench
        .store
        .write(move |tx| start(tx, id, NOW))
        .await
        .unwrap();
    for received in 1..=50 {
        bench.store.write(note(received)).await.unwrap();
    }
    let row = get(&bench, id).await;
    assert_eq!(
        (row.received, row.attempts, row.stage),
        (50, 2, Some(Stage::Fetch))
    );
    assert_eq!(
        kinds(&bench, id).await.len(),
        2 + 20,
        "the timeline is bounded"
    );
    let progress = || async {
        let rows = bench
            .store
            .read(|r| outbox::list(r, &outbox::Filter::default(), 99))
            .await
            .unwrap();
        let rows = rows.into_iter().filter(|r| r.kind == callbacks::PROGRESS);
        rows.map(|r| r.data["received"].as_u64().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(progress().await, [1], "one report in ten seconds");
    bench
        .store
        .write(move |tx| {
            tx.run(
                "age",
                "UPDATE jobs SET progress_at = progress_at - 10000",
                [],
            )
        })
        .await
        .unwrap();
    bench.store.write(note(60)).await.unwrap();
    assert_eq!(progress().await, [60], "newer progress replaces what waits");
    bench.end(id, failed()).await;
    bench
        .store
        .write(move |tx| finish(tx, id, &failed(), NOW))
        .await
        .unwrap();
    assert_eq!(progress().await, [0u64; 0], "and its end replaces all");
}

#[tokio::test]
async fn cancelling_ends_what_waits_and_asks_what_runs() {
    let bench = Bench::new();
    let waiting = bench.accept(file("n", "1")).await;
    let running = bench.accept(file("n", "2")).await;
    bench
        .store
        .write(move |tx| start(tx, running, NOW))
        .await
        .unwrap();
    let cancel = |id| bench.store.write(move |tx| cancel_request(tx, id, "admin"));
    assert_eq!(cancel(JobId(99)).await.unwrap(), Cancel::Unknown);
    assert_eq!(cancel(waiting).await.unwrap(), Cancel::Done);
    assert_eq!(cancel(running).await.unwrap(), Cancel::Requested);
    assert_eq!(cancel(running).await.unwrap(), Cancel::Requested);
    assert_eq!(get(&bench, waiting).await.state, JobState::Canceled);
    assert_eq!(bench.store.read(to_cancel).await.unwrap(), [running]);
    assert_eq!(
        kinds(&bench, running).await,
        ["accepted", "started", "cancel-requested"]
    );
    bench.end(running, Outcome::Canceled).await;
    assert!(bench.store.read(to_cancel).await.unwrap().is_empty());
}

#[tokio::test]
async fn lists_stand_in_the_order_of_first_pushes_and_pages_add_up() {
    let bench = Bench::new();
    let mut keys = Vec::new();
    for name in ["b", "a", "c"] {
        for version in ["2", "1"] {
            let id = bench.accept(file(name, version)).await;
            bench.end(id, failed()).await;
            keys.push(key(name, version));
        }
    }
    // A second push of the first key changes its job, but not its position.
    bench.clock.set(NOW + 5000);
    let again = bench.accept(file("b", "2")).await;
    let store = &bench.store;
    let list = |filter: Filter, page| async move {
        let listed = store
            .read(move |r| super::list(r, &filter, page))
            .await
            .unwrap();
        (
            listed.total,
            listed.files.into_iter().map(|r| r.key).collect::<Vec<_>>(),
        )
    };
    let all = Filter {
        app: Some("app".to_owned()),
        ..Filter::default()
    };
    assert_eq!(list(all.clone(), Page::ALL).await, (6, keys.clone()));
    let mut paged = Vec::new();
    for offset in [0, 4, 8] {
        let page = Page {
            offset,
            limit: 4,
            ..Page::ALL
        };
        let (total, rows) = list(all.clone(), page).await;
        assert_eq!(total, 6);
        paged.extend(rows);
    }
    assert_eq!(paged, keys);
    let newest = Page {
        limit: 1,
        newest_first: true,
        ..Page::ALL
    };
    assert_eq!(list(all.clone(), newest).await.1, [key("b", "2")]);

    let some = Filter {
        names: vec!["c".to_owned(), "b".to_owned()],
        versions: vec!["2".to_owned()],
        ..all.clone()
    };
    assert_eq!(
        list(some, Page::ALL).await.1,
        [key("b", "2"), key("c", "2")]
    );
    let queued = Filter {
        states: vec![JobState::Queued],
        ..Filter::default()
    };
    assert_eq!(list(queued, Page::ALL).await, (1, vec![key("b", "2")]));
    let old = Filter {
        before_ms: Some(NOW + 5000),
        ..all.clone()
    };
    assert_eq!(list(old, Page::ALL).await.0, 5);
    let new = Filter {
        from_ms: Some(NOW + 5000),
        ..all
    };
    assert_eq!(list(new, Page::ALL).await.1, [key("b", "2")]);
    let none = Filter {
        app: Some("other".to_owned()),
        ..Filter::default()
    };
    assert_eq!(list(none, Page::ALL).await.0, 0);

    let latest = bench
        .store
        .read(|r| super::latest(r, &key("b", "2")))
        .await
        .unwrap();
    assert_eq!(latest.unwrap().id, again);
    let counts = bench.store.read(counts).await.unwrap();
    assert_eq!(counts, [(JobState::Failed, 5), (JobState::Queued, 1)]);
    assert_eq!(
        bench.store.read(|r| known(r, "app", "zzz")).await.unwrap(),
        (true, false)
    );
    let pushed = bench.store.read(|r| of_push(r, "push-1")).await.unwrap();
    assert_eq!(pushed.len(), 7);
}

#[tokio::test]
async fn history_and_timeline_of_a_file_are_bounded() {
    let bench = Bench::new();
    for _ in 0..15 {
        let id = bench.accept(file("n", "1")).await;
        bench.end(id, failed()).await;
    }
    let rows = bench
        .store
        .read(|r| history(r, &key("n", "1")))
        .await
        .unwrap();
    assert_eq!(
        rows.iter().map(|r| r.id.0).collect::<Vec<_>>(),
        (6..=15).collect::<Vec<_>>()
    );
    let timeline = bench
        .store
        .read(|r| events::of_file(r, &key("n", "1"), 0, 1000))
        .await
        .unwrap();
    assert_eq!(timeline.len(), 30);
    assert!(timeline.is_sorted_by_key(|e| e.id));
}

#[tokio::test]
async fn files_that_are_gone_are_forgotten_after_their_time_and_others_are_not() {
    let bench = Bench::new();
    let failed_long_ago = bench.accept(file("failed", "1")).await;
    bench.end(failed_long_ago, failed()).await;
    bench.publish("published", "1").await;
    bench.accept(file("open", "1")).await;
    bench.clock.set(NOW + 91 * 24 * 3_600_000);
    bench.accept(file("new", "1")).await;
    bench.store.housekeep().await.unwrap();
    let listed = bench
        .store
        .read(|r| super::list(r, &Filter::default(), Page::ALL))
        .await
        .unwrap();
    let names: Vec<String> = listed
        .files
        .iter()
        .map(|r| r.key.name.to_string())
        .collect();
    assert_eq!(names, ["published", "open", "new"]);
}

#[tokio::test]
async fn one_file_has_one_open_job() {
    let bench = Bench::new();
    bench.accept(file("n", "1")).await;
    let second = bench.store.write(|tx| accept(tx, &file("n", "1"))).await;
    assert!(second.is_err());
}

/// How time is spent as the node fills up: accepting one more file among 100,000 published
/// versions.
#[tokio::test]
async fn accepting_stays_flat_as_versions_add_up() {
    let bench = Bench::new();
    let time = |label: &'static str| {
        let store = bench.store.clone();
        async move {
            let begin = std::time::Instant::now();
            for i in 0..50 {
                let file = file(label, &i.to_string());
                store.write(move |tx| accept(tx, &file)).await.unwrap();
            }
            begin.elapsed()
        }
    };
    let empty = time("empty").await;
    bench
        .store
        .write(|tx| {
            tx.connection()
                .execute_batch(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
                     INSERT INTO files (app, name, version, state, job)
                     SELECT 'app', 'n' || (i % 100), 'v' || i, 'succeeded', 1000000 + i FROM n;
                     INSERT INTO jobs (id, file, push, via, archive_type, source, timeout_ms, activate, state, accepted, updated,
                                       finished)
                     SELECT job, id, 'p', 'api', 'zip', 's', 1, 1, 'succeeded', 1, 1, 1 FROM files WHERE job > 1000000;
                     INSERT INTO releases (file, app, name, version, job, files, bytes, published, download)
                     SELECT id, app, name, version, job, 1, 1, id, id FROM files WHERE job > 1000000;",
                )
                .map_err(Error::sql("fill"))
        })
        .await
        .unwrap();
    let full = time("full").await;
    assert!(
        full < empty * 5 + Duration::from_millis(250),
        "{empty:?} -> {full:?}"
    );
    let begin = std::time::Instant::now();
    let filter = Filter {
        app: Some("app".to_owned()),
        ..Filter::default()
    };
    let page = Page {
        limit: 100,
        ..Page::ALL
    };
    let listed = bench
        .store
        .read(move |r| super::list(r, &filter, page))
        .await
        .unwrap();
    assert_eq!((listed.total, listed.files.len()), (100_100, 100));
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
}

#[tokio::test]
async fn only_so_many_files_that_are_gone_are_remembered() {
    let bench = Bench::with(crate::store::Config {
        gone_files: 2,
        ..crate::store::Config::default()
    });
    bench.publish("published", "1").await;
    bench.accept(file("open", "1")).await;
    for version in ["1", "2", "3", "4"] {
        let id = bench.accept(file("failed", version)).await;
        bench.end(id, failed()).await;
    }
    bench.store.housekeep().await.unwrap();
    let listed = bench
        .store
        .read(|r| super::list(r, &Filter::default(), Page::ALL))
        .await
        .unwrap();
    let left: Vec<String> = listed.files.iter().map(|r| r.key.to_string()).collect();
    assert_eq!(
        left,
        [
            "app/published@1",
            "app/open@1",
            "app/failed@3",
            "app/failed@4"
        ]
    );
}

#[tokio::test]
async fn an_orderly_end_takes_its_start_back() {
    let bench = Bench::new();
    let id = bench.accept(file("n", "1")).await;
    for _ in 0..3 {
        let put = bench
            .store
            .write(move |tx| {
                assert_eq!(start(tx, id, NOW)?, Some(1));
                put_back(tx, id, "the agent shut down")
            })
            .await;
        assert!(put.unwrap());
    }
    let crashed = bench
        .store
        .write(move |tx| {
            start(tx, id, NOW)?;
            interrupted(tx)?;
            start(tx, id, NOW)
        })
        .await;
    assert_eq!(crashed.unwrap(), Some(2));
}

#[tokio::test]
async fn files_are_counted_as_they_come_change_and_go() {
    let bench = Bench::with(crate::store::Config {
        gone_files: 1,
        ..crate::store::Config::default()
    });
    let check = async || {
        let counted = bench.store.read(counts).await.unwrap();
        let by_hand = bench.store.read(|r| {
            r.many(
                "count by hand",
                "SELECT state, count(*) FROM files GROUP BY state ORDER BY state",
                [],
                |r| Ok((JobState::parse(&r.get::<_, String>(0)?).unwrap(), r.get(1)?)),
            )
        });
        assert_eq!(counted, by_hand.await.unwrap());
        let filters = [
            Filter::default(),
            Filter {
                app: Some("app".to_owned()),
                states: vec![JobState::Failed, JobState::Queued],
                ..Filter::default()
            },
            Filter {
                app: Some("none".to_owned()),
                ..Filter::default()
            },
        ];
        for filter in filters {
            let listed = bench
                .store
                .read(move |r| super::list(r, &filter, Page::ALL));
            let listed = listed.await.unwrap();
            assert_eq!(listed.total, listed.files.len() as u64);
        }
        counted
    };
    assert!(check().await.is_empty());
    bench.publish("n", "1").await;
    for version in ["2", "3", "4"] {
        let id = bench.accept(file("n", version)).await;
        check().await;
        bench
            .store
            .write(move |tx| start(tx, id, NOW))
            .await
            .unwrap();
        check().await;
        bench.end(id, failed()).await;
        check().await;
    }
    bench.accept(file("n", "3")).await;
    check().await;
    bench.store.housekeep().await.unwrap();
    let left = [
        (JobState::Failed, 1),
        (JobState::Queued, 1),
        (JobState::Succeeded, 1),
    ];
    assert_eq!(check().await, left);
}

/// Each list finds its rows by an index in the order shown, or by their names: with a hundred
/// thousand files, a full scan takes too long.
#[tokio::test]
async fn no_list_looks_at_every_file() {
    let bench = Bench::new();
    let app = || Some("app".to_owned());
    let names = || vec!["n".to_owned()];
    let one = Filter {
        app: app(),
        names: names(),
        versions: vec!["1".to_owned()],
        ..Filter::default()
    };
    let name = Filter {
        versions: Vec::new(),
        ..one.clone()
    };
    let of_app = Filter {
        app: app(),
        ..Filter::default()
    };
    let failed = Filter {
        states: vec![JobState::Failed],
        ..Filter::default()
    };
    let by_key = "SEARCH f USING INDEX sqlite_autoindex_files_1 (app=? AND name=?";
    for (filter, newest_first, by) in [
        (one.clone(), false, by_key),
        (one, true, by_key),
        (name.clone(), false, by_key),
        (name, true, by_key),
        (of_app, false, "SEARCH f USING INDEX files_by_app (app=?)"),
        (Filter::default(), false, "SCAN f"),
        (Filter::default(), true, "SCAN j"),
        (
            failed,
            true,
            "SEARCH f USING INDEX files_by_state (state=?)",
        ),
    ] {
        let sorts = by == by_key;
        let page = Page {
            offset: 0,
            limit: 20,
            newest_first,
        };
        let (sql, params) = super::rows::listing(&filter, page).unwrap();
        let explain = format!("EXPLAIN QUERY PLAN {sql}");
        let plan = bench.store.read(move |r| {
            r.many(
                "explain",
                &explain,
                rusqlite::params_from_iter(params),
                |r| r.get::<_, String>(3),
            )
        });
        let plan = plan.await.unwrap().join("\n");
        assert!(plan.starts_with(by), "{filter:?} {newest_first}:\n{plan}");
        assert!(
            sorts || !plan.contains("TEMP B-TREE"),
            "{filter:?}:\n{plan}"
        );
    }
}

#[tokio::test]
async fn the_next_delayed_job_is_the_first_of_those_put_off() {
    let bench = Bench::new();
    let next = async |now| {
        bench
            .store
            .read(move |r| next_delayed_ms(r, now))
            .await
            .unwrap()
    };
    let mut jobs = Vec::new();
    for version in ["1", "2", "3"] {
        jobs.push(bench.accept(file("n", version)).await);
    }
    assert_eq!(next(NOW).await, None);
    for (id, wait) in jobs.into_iter().zip([3000, 1000, 2000]) {
        let put_off = bench.store.write(move |tx| {
            start(tx, id, NOW)?;
            requeue(tx, id, NOW + wait, "later")
        });
        assert!(put_off.await.unwrap());
    }
    assert_eq!(next(NOW).await, Some(NOW + 1000));
    assert_eq!(next(NOW + 1000).await, Some(NOW + 2000));
}

#[tokio::test]
async fn a_retry_keeps_its_failure_counts_its_pause_and_is_no_start() {
    let bench = Bench::new();
    let id = bench.accept(file("n", "1")).await;
    let failure = Failure::new(Stage::Fetch, &KIND, "no connection".to_owned());
    let written = failure.clone();
    let put_off = bench.store.write(move |tx| {
        assert_eq!(start(tx, id, NOW)?, Some(1));
        retry_later(tx, id, NOW + 7000, &written)
    });
    assert!(put_off.await.unwrap());
    let row = get(&bench, id).await;
    assert_eq!(
        (row.state, row.status, row.not_before_ms, row.starts),
        (JobState::Retrying, Status::Pushing, Some(NOW + 7000), 0)
    );
    assert_eq!(row.failure, Some(failure.clone()));
    assert!(due(&bench, NOW + 6999, 9, &[]).await.is_empty());
    let jobs = bench
        .store
        .read(|r| super::due(r, &turn(), NOW + 7000, 9, &HashSet::new()));
    let jobs = jobs.await.unwrap();
    assert_eq!(jobs[0].spent, Duration::from_secs(7));
    assert_eq!(jobs[0].failure, Some(failure));
}
