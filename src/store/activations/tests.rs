//! Turns, requests, and who may still become live.

use super::super::events;
use super::super::testing::{Bench, NOW, accept, file, key, published};
use super::*;
use crate::shown::callbacks;

async fn live(bench: &Bench) -> Option<String> {
    let key = key("n", "1");
    let row = bench
        .store
        .read(move |r| releases::live(r, &key.app, &key.name))
        .await;
    row.unwrap().map(|r| r.key.version.to_string())
}

async fn ask(bench: &Bench, version: &'static str) -> Requested {
    let ask = move |tx: &Tx<'_>| {
        let key = key("n", version);
        request(
            tx,
            &Request {
                key: &key,
                reason: Reason::Activate,
                actor: "admin",
                job: None,
            },
        )
    };
    bench.store.write(ask).await.unwrap()
}

async fn roll_back(bench: &Bench) -> Requested {
    let ask = |tx: &Tx<'_>| request_rollback(tx, &key("n", "1").app, &key("n", "1").name, "admin");
    bench.store.write(ask).await.unwrap()
}

/// What the runner does with what waits.
async fn carry_out(bench: &Bench) {
    for row in bench.store.read(pending).await.unwrap() {
        let error = row.superseded.then_some("a later change took its turn");
        assert!(
            bench
                .store
                .write(move |tx| done(tx, row.id, error))
                .await
                .unwrap()
        );
        assert!(
            !bench
                .store
                .write(move |tx| done(tx, row.id, error))
                .await
                .unwrap()
        );
    }
}

async fn may(bench: &Bench, id: JobId) -> bool {
    bench
        .store
        .read(move |r| job_may_activate(r, &key("n", "x"), id))
        .await
        .unwrap()
}

#[tokio::test]
async fn an_older_push_that_ends_later_does_not_overtake() {
    let bench = Bench::new();
    let old = bench.accept(file("n", "1")).await;
    let new = bench.accept(file("n", "2")).await;
    assert!(
        may(&bench, old).await,
        "while the newer one is still at work it may"
    );
    bench.end(new, published(true)).await;
    assert!(!may(&bench, old).await);
    assert!(may(&bench, new).await);
    bench.end(old, published(false)).await;
    assert_eq!(live(&bench).await.as_deref(), Some("2"));
}

#[tokio::test]
async fn an_operators_word_counts_from_when_it_was_given() {
    let bench = Bench::new();
    bench.publish("n", "1").await;
    bench.publish("n", "2").await;
    let running = bench.accept(file("n", "3")).await;
    assert!(matches!(ask(&bench, "1").await, Requested::Waiting(..)));
    assert!(
        !may(&bench, running).await,
        "asked for after that push was accepted"
    );
    let later = bench.accept(file("n", "4")).await;
    assert!(may(&bench, later).await);
    carry_out(&bench).await;
    assert_eq!(live(&bench).await.as_deref(), Some("1"));
    assert!(!may(&bench, running).await);
    assert!(may(&bench, later).await);
}

#[tokio::test]
async fn a_request_that_was_overtaken_is_not_carried_out() {
    let bench = Bench::new();
    bench.publish("n", "1").await;
    bench.publish("n", "2").await;
    ask(&bench, "1").await;
    bench.publish("n", "3").await;
    carry_out(&bench).await;
    assert_eq!(live(&bench).await.as_deref(), Some("3"));
    let log = bench
        .store
        .read(|r| log(r, Some("app"), Some("n"), 0, 99))
        .await
        .unwrap();
    let refused: Vec<_> = log.iter().filter(|a| a.error.is_some()).collect();
    assert_eq!(refused.len(), 1);
    assert_eq!(refused[0].key, key("n", "1"));
}

#[tokio::test]
async fn requests_answer_for_what_is_unknown_damaged_or_live_already() {
    let bench = Bench::new();
    assert_eq!(roll_back(&bench).await, Requested::Unknown);
    bench.publish("n", "1").await;
    assert_eq!(ask(&bench, "9").await, Requested::Unknown);
    assert_eq!(
        ask(&bench, "1").await,
        Requested::AlreadyLive(key("n", "1").version)
    );
    assert_eq!(roll_back(&bench).await, Requested::NothingBefore);
    bench.publish("n", "2").await;
    bench
        .store
        .write(|tx| releases::mark_damaged(tx, &key("n", "1"), Some("gone")))
        .await
        .unwrap();
    assert_eq!(ask(&bench, "1").await, Requested::Damaged);
    assert!(bench.store.read(pending).await.unwrap().is_empty());
}

#[tokio::test]
async fn two_rollbacks_at_once_go_back_two_versions() {
    let bench = Bench::new();
    for version in ["1", "2", "3"] {
        bench.publish("n", version).await;
    }
    assert!(
        matches!(roll_back(&bench).await, Requested::Waiting(_, v) if v == key("n", "2").version)
    );
    assert!(
        matches!(roll_back(&bench).await, Requested::Waiting(_, v) if v == key("n", "1").version)
    );
    carry_out(&bench).await;
    assert_eq!(live(&bench).await.as_deref(), Some("1"));
}

#[tokio::test]
async fn every_flip_is_logged_and_told() {
    let bench = Bench::new();
    bench.listen().await;
    let mut wake = bench.store.wake(ACTIVATIONS);
    let first = bench.publish("n", "1").await;
    bench.publish("n", "2").await;
    assert!(!wake.has_changed().unwrap());
    roll_back(&bench).await;
    assert!(wake.has_changed().unwrap());
    wake.mark_unchanged();
    bench.clock.set(NOW + 7);
    carry_out(&bench).await;
    let log = bench
        .store
        .read(|r| log(r, None, None, 0, 99))
        .await
        .unwrap();
    let shown: Vec<_> = log
        .iter()
        .map(|a| {
            let from = a.from_version.as_ref().map(DataVersion::as_str);
            (
                from,
                a.key.version.as_str(),
                a.reason,
                a.actor.as_str(),
                a.done_ms,
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (Some("2"), "1", Reason::Rollback, "admin", Some(NOW + 7)),
            (Some("1"), "2", Reason::Push, "api", Some(NOW)),
            (None, "1", Reason::Push, "api", Some(NOW)),
        ]
    );
    assert_eq!(log[2].job, Some(first));
    let callbacks = bench
        .store
        .read(|r| outbox::list(r, &outbox::Filter::default(), 99))
        .await
        .unwrap();
    let last = callbacks.last().unwrap();
    assert_eq!(last.kind, callbacks::ROLLED_BACK);
    assert_eq!(last.data["from_version"], "2");
    let timeline = bench
        .store
        .read(|r| events::of_file(r, &key("n", "1"), 0, 99))
        .await
        .unwrap();
    assert_eq!(
        timeline.last().unwrap().kind,
        crate::job::EventKind::RolledBack
    );
}

#[tokio::test]
async fn pushing_what_is_live_again_holds_off_an_older_push_that_runs() {
    let bench = Bench::new();
    bench.publish("n", "1").await;
    let running = bench.accept(file("n", "2")).await;
    assert!(may(&bench, running).await);
    assert!(matches!(ask(&bench, "1").await, Requested::AlreadyLive(_)));
    assert!(!may(&bench, running).await);
    // And pushing the running one again gives it a new turn, once.
    let renew = move |tx: &Tx<'_>| renew_turn(tx, &key("n", "2"), running);
    bench.store.write(renew).await.unwrap();
    assert!(may(&bench, running).await);
    let seq = bench
        .store
        .read(move |r| files::seq(r, running))
        .await
        .unwrap();
    bench.store.write(renew).await.unwrap();
    assert_eq!(
        bench
            .store
            .read(move |r| files::seq(r, running))
            .await
            .unwrap(),
        seq
    );
}

#[tokio::test]
async fn turns_and_jobs_are_numbered_from_one_sequence() {
    let bench = Bench::new();
    let numbers = bench
        .store
        .write(|tx| {
            let first = files::next_seq(tx)?;
            let job = accept(tx, &file("n", "1"))?;
            let second = files::next_seq(tx)?;
            let other = accept(tx, &file("n", "2"))?;
            Ok([first, job.0, second, other.0])
        })
        .await
        .unwrap();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[tokio::test]
async fn the_link_on_the_disk_is_believed() {
    let bench = Bench::new();
    bench.publish("n", "1").await;
    bench.publish("n", "2").await;
    let trust = |version: &'static str| {
        bench
            .store
            .write(move |tx| trust_link(tx, &key("n", version)))
    };
    assert!(!trust("2").await.unwrap(), "as the table says");
    assert!(!trust("9").await.unwrap(), "not published");
    assert!(trust("1").await.unwrap());
    assert_eq!(live(&bench).await.as_deref(), Some("1"));
}
