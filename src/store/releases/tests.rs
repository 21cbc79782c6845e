//! What is live, and what was before.

use super::super::recover::{self, Found};
use super::super::remove::{self, Removal};
use super::super::testing::{Bench, NOW, file, key, published};
use super::super::{activations, jobs};
use super::*;
use crate::datafile::ArchiveType;
use crate::db::outbox;
use crate::job::Outcome;
use crate::shown::callbacks;

fn names_of(rows: Vec<Release>) -> Vec<String> {
    rows.into_iter()
        .map(|r| r.key.version.to_string())
        .collect()
}

async fn live_version(bench: &Bench) -> Option<String> {
    let key = key("n", "1");
    let row = bench
        .store
        .read(move |r| live(r, &key.app, &key.name))
        .await;
    row.unwrap().map(|r| r.key.version.to_string())
}

async fn previous_version(bench: &Bench) -> Option<String> {
    let key = key("n", "1");
    let row = bench
        .store
        .read(move |r| previous(r, &key.app, &key.name))
        .await;
    row.unwrap().map(|r| r.key.version.to_string())
}

async fn flip(bench: &Bench, version: &str, reason: Reason) {
    let key = key("n", version);
    bench
        .store
        .write(move |tx| set_live(tx, &key, reason))
        .await
        .unwrap();
}

#[tokio::test]
async fn exactly_one_version_of_a_name_is_live() {
    let bench = Bench::new();
    for version in ["1", "2", "3"] {
        bench.publish("n", version).await;
        bench.publish("other", version).await;
        assert_eq!(live_version(&bench).await.as_deref(), Some(version));
    }
    let live = bench.store.read(|r| all_live(r, 10)).await.unwrap();
    let live: Vec<String> = live.iter().map(Key::to_string).collect();
    assert_eq!(live, ["app/n@3", "app/other@3"]);
    assert_eq!(bench.store.read(|r| all_live(r, 1)).await.unwrap().len(), 1);
    let forced = bench
        .store
        .write(|tx| tx.run("force", "UPDATE releases SET live = 1", []))
        .await;
    assert!(
        forced.is_err(),
        "the database refuses a second live version"
    );
}

#[tokio::test]
async fn rolling_back_twice_goes_back_two_versions() {
    let bench = Bench::new();
    for version in ["1", "2", "3"] {
        bench.publish("n", version).await;
    }
    for want in ["2", "1"] {
        assert_eq!(previous_version(&bench).await.as_deref(), Some(want));
        flip(&bench, want, Reason::Rollback).await;
    }
    assert_eq!(previous_version(&bench).await, None);
    // Forward again: a rollback goes to the version that was live just before, however old it is.
    flip(&bench, "3", Reason::Activate).await;
    assert_eq!(previous_version(&bench).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn a_rollback_passes_over_what_is_damaged_or_gone() {
    let bench = Bench::new();
    for version in ["1", "2", "3", "4"] {
        bench.publish("n", version).await;
    }
    let remove = |version: &'static str| {
        bench
            .store
            .write(move |tx| remove::release(tx, &key("n", version), "test", "admin"))
    };
    assert_eq!(remove("3").await.unwrap(), Removal::Done);
    assert_eq!(previous_version(&bench).await.as_deref(), Some("2"));
    let damage = |damage: Option<&'static str>| {
        bench
            .store
            .write(move |tx| mark_damaged(tx, &key("n", "2"), damage))
    };
    assert!(damage(Some("`a` differs")).await.unwrap());
    assert!(!damage(Some("`a` differs")).await.unwrap(), "nothing new");
    assert_eq!(previous_version(&bench).await.as_deref(), Some("1"));
    assert!(damage(None).await.unwrap());
    assert_eq!(previous_version(&bench).await.as_deref(), Some("2"));
    remove("1").await.unwrap();
    remove("2").await.unwrap();
    assert_eq!(previous_version(&bench).await, None);
}

#[tokio::test]
async fn without_a_chain_a_rollback_goes_to_the_newest_older_version() {
    let bench = Bench::new();
    for (version, age) in [("1", 30), ("2", 20), ("3", 10)] {
        let entry = match published(false) {
            Outcome::Published(p) => p,
            Outcome::Failed(_) | Outcome::Canceled => unreachable!(),
        };
        let restored = bench
            .store
            .write(move |tx| {
                let found = Found {
                    key: key("n", version),
                    archive_type: ArchiveType::Zip,
                    job: JobId(100 - age),
                    published: entry,
                    published_ms: NOW - age,
                    live: version == "3",
                };
                recover::release(tx, &found)
            })
            .await;
        assert!(restored.unwrap());
    }
    assert_eq!(live_version(&bench).await.as_deref(), Some("3"));
    assert_eq!(previous_version(&bench).await.as_deref(), Some("2"));
    let row = bench
        .store
        .read(|r| jobs::latest(r, &key("n", "1")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(
        (row.via, row.status),
        (
            crate::wire::push::Via::Recover,
            crate::wire::status::Status::Success
        )
    );
    let listed = bench
        .store
        .read(|r| of_name(r, &key("n", "1").app, &key("n", "1").name))
        .await
        .unwrap();
    assert_eq!(names_of(listed), ["3", "2", "1"]);
    // A restored key can be pushed again like any other file.
    bench.publish("n", "4").await;
    assert_eq!(previous_version(&bench).await.as_deref(), Some("3"));
}

#[tokio::test]
async fn live_and_pinned_versions_are_not_removed() {
    let bench = Bench::new();
    bench.listen().await;
    for version in ["1", "2"] {
        bench.publish("n", version).await;
    }
    let remove = |version: &'static str| {
        bench
            .store
            .write(move |tx| remove::release(tx, &key("n", version), "retention", "vacuum"))
    };
    let pin = |pinned| {
        bench
            .store
            .write(move |tx| set_pinned(tx, &key("n", "1"), pinned, "admin"))
    };
    assert_eq!(remove("2").await.unwrap(), Removal::Live);
    assert!(pin(true).await.unwrap());
    assert_eq!(remove("1").await.unwrap(), Removal::Pinned);
    assert!(pin(false).await.unwrap());
    assert_eq!(remove("1").await.unwrap(), Removal::Done);
    assert_eq!(remove("1").await.unwrap(), Removal::Unknown);
    let callbacks = bench
        .store
        .read(|r| outbox::list(r, &outbox::Filter::default(), 99))
        .await
        .unwrap();
    let removed: Vec<_> = callbacks
        .iter()
        .filter(|c| c.kind == callbacks::REMOVED)
        .collect();
    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].data["reason"], "retention");
    let row = bench
        .store
        .read(|r| jobs::latest(r, &key("n", "1")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(row.release, None, "what a status query sees");
}

#[tokio::test]
async fn a_second_push_heals_a_damaged_version() {
    let bench = Bench::new();
    bench.publish("n", "1").await;
    bench
        .store
        .write(|tx| mark_damaged(tx, &key("n", "1"), Some("`a` is missing")))
        .await
        .unwrap();
    let id = bench.accept(file("n", "1")).await;
    bench.end(id, published(true)).await;
    let row = bench
        .store
        .read(|r| get(r, &key("n", "1")))
        .await
        .unwrap()
        .unwrap();
    assert_eq!((row.job, row.damage, row.live), (id, None, true));
}

#[tokio::test]
async fn lists_are_paged_and_filtered() {
    let bench = Bench::new();
    for (name, version) in [("b", "1"), ("a", "1"), ("a", "2")] {
        bench.publish(name, version).await;
    }
    let list = |name: Option<&'static str>, offset, limit| {
        bench
            .store
            .read(move |r| list(r, Some("app"), name, offset, limit))
    };
    let show =
        |rows: Vec<Release>| -> Vec<String> { rows.iter().map(|r| r.key.to_string()).collect() };
    assert_eq!(
        show(list(None, 0, 9).await.unwrap()),
        ["app/a@2", "app/a@1", "app/b@1"]
    );
    assert_eq!(show(list(None, 1, 1).await.unwrap()), ["app/a@1"]);
    assert_eq!(show(list(Some("b"), 0, 9).await.unwrap()), ["app/b@1"]);
}

#[tokio::test]
async fn what_waits_to_be_live_is_not_removed() {
    let bench = Bench::new();
    bench.publish("n", "1").await;
    bench.publish("n", "2").await;
    let wanted = key("n", "1");
    let removal = bench
        .store
        .write(move |tx| {
            let request = activations::Request {
                key: &wanted,
                reason: Reason::Activate,
                actor: "test",
                job: None,
            };
            activations::request(tx, &request)?;
            remove::release(tx, &wanted, "more than are kept", "retention")
        })
        .await;
    assert_eq!(removal.unwrap(), Removal::Wanted);
}

#[tokio::test]
async fn what_is_recovered_keeps_the_number_of_its_job_where_nobody_else_has_it() {
    let bench = Bench::new();
    let Outcome::Published(entry) = published(false) else {
        unreachable!()
    };
    let found = |version: &str, job: i64| Found {
        key: key("n", version),
        archive_type: ArchiveType::Zip,
        job: JobId(job),
        published: entry.clone(),
        published_ms: NOW,
        live: false,
    };
    let all = [
        found("9", 40),
        found("10", 50),
        found("x", 50),
        found("y", i64::MAX),
    ];
    let numbers = bench
        .store
        .write(move |tx| {
            all.iter()
                .map(|found| {
                    recover::release(tx, found)?;
                    Ok(get(tx, &found.key)?.unwrap().job.0)
                })
                .collect::<Result<Vec<_>, _>>()
        })
        .await;
    assert_eq!(numbers.unwrap(), [40, 50, 51, 52]);
    let kind = bench.store.read(|r| jobs::latest(r, &key("n", "9"))).await;
    assert_eq!(kind.unwrap().unwrap().archive_type, ArchiveType::Zip);
    assert_eq!(
        bench.accept(file("n", "11")).await.0,
        53,
        "what is new is newer"
    );
}

#[tokio::test]
async fn what_is_counted_is_what_is_there() {
    let bench = Bench::new();
    let check = async || {
        let counted = bench
            .store
            .read(|r| Ok((totals(r)?, apps(r)?, crowded(r, 1)?)));
        let (totals, apps, crowded) = counted.await.unwrap();
        let rows = bench.store.read(|r| list(r, None, None, 0, u32::MAX));
        let rows = rows.await.unwrap();
        let mut names: Vec<_> = rows.iter().map(|row| row.key.name.clone()).collect();
        names.dedup();
        let bytes = rows.iter().map(|row| row.bytes).sum();
        let there = Totals {
            names: names.len() as u64,
            versions: rows.len() as u64,
            bytes,
        };
        assert_eq!(totals, there);
        assert_eq!(apps.iter().map(|(_, bytes)| bytes).sum::<u64>(), bytes);
        for (_, name, versions) in crowded {
            assert_eq!(
                rows.iter().filter(|r| r.key.name == name).count() as u64,
                versions
            );
        }
        totals
    };
    assert_eq!(check().await, Totals::default());
    for version in ["1", "2", "3"] {
        bench.publish("n", version).await;
        check().await;
        bench.publish("other", version).await;
        check().await;
    }
    let resize = "UPDATE releases SET bytes = 7 WHERE name = 'n'";
    bench
        .store
        .write(move |tx| tx.run("resize", resize, []))
        .await
        .unwrap();
    assert_eq!(check().await.bytes, 3 * 7 + 90);
    for version in ["1", "2"] {
        let gone = key("other", version);
        let removed = bench
            .store
            .write(move |tx| remove::release(tx, &gone, "old", "test"));
        assert_eq!(removed.await.unwrap(), Removal::Done);
        check().await;
    }
    let last = "DELETE FROM releases WHERE name = 'other'";
    bench
        .store
        .write(move |tx| tx.run("remove", last, []))
        .await
        .unwrap();
    assert_eq!(check().await.names, 1);
    let all = "DELETE FROM releases";
    bench
        .store
        .write(move |tx| tx.run("remove", all, []))
        .await
        .unwrap();
    assert_eq!(check().await, Totals::default());
}

#[tokio::test]
async fn an_archive_is_found_by_its_path_through_an_index() {
    let bench = Bench::new();
    for version in ["1", "2"] {
        bench.publish("n", version).await;
    }
    let key = key("n", "2");
    let path = crate::wire::download::path(&key.app, "n", "2");
    let find = |path: String| bench.store.read(move |r| super::by_download(r, &path));
    assert_eq!(find(path).await.unwrap().unwrap().key, key);
    assert_eq!(find("/file/1/app/x/y".to_owned()).await.unwrap(), None);
    let explain = format!("EXPLAIN QUERY PLAN {SHOWN} WHERE download = 'x'");
    let plan = bench
        .store
        .read(move |r| r.many("explain", &explain, [], |r| r.get::<_, String>(3)));
    let plan = plan.await.unwrap().join("\n");
    assert_eq!(
        plan,
        "SEARCH r USING INDEX releases_by_download (download=?)"
    );
}
