//! Order, limits and life of a callback; sending it is tested with the reporter.

use serde_json::json;

use super::super::testing::{Bench, file, published};
use super::super::{Config, jobs};
use crate::db::endpoints::{self, Endpoint, EndpointStatus};
use crate::db::outbox::*;
use crate::shown::callbacks::*;
use crate::store::Error;

const MINUTE: i64 = 60_000;

fn endpoint(name: &str, types: &[&str]) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        target: format!("http://{name}:80"),
        types: types.iter().map(|t| (*t).to_owned()).collect(),
    }
}

async fn register(bench: &Bench, endpoints: Vec<Endpoint>) {
    bench
        .store
        .write(move |tx| endpoints::register(tx, &endpoints))
        .await
        .unwrap();
}

async fn rows(bench: &Bench, state: &str) -> Vec<Callback> {
    let filter = Filter {
        state: Some(state.to_owned()),
        ..Filter::default()
    };
    bench
        .store
        .read(move |r| list(r, &filter, 1_000_000))
        .await
        .unwrap()
}

async fn due_now(bench: &Bench, endpoint: &'static str) -> Vec<Message> {
    bench
        .store
        .read(move |r| due(r, endpoint, 1000))
        .await
        .unwrap()
}

fn types(rows: &[Callback]) -> Vec<&str> {
    rows.iter().map(|r| r.kind.as_str()).collect()
}

async fn waiting(bench: &Bench) -> u64 {
    let counted = bench.store.read(pending).await.unwrap();
    let listed = rows(bench, "pending").await.len() as u64;
    assert_eq!(counted, listed, "the counter is right");
    counted
}

#[tokio::test]
async fn every_endpoint_gets_what_it_wants_under_one_id() {
    let bench = Bench::new();
    bench.publish("unheard", "1").await;
    assert_eq!(waiting(&bench).await, 0, "nobody listens");
    register(
        &bench,
        vec![endpoint("a", &[]), endpoint("b", &[PUBLISHED])],
    )
    .await;
    bench.publish("n", "1").await;
    let rows = rows(&bench, "pending").await;
    let of =
        |name: &str| -> Vec<&Callback> { rows.iter().filter(|r| r.endpoint == name).collect() };
    assert_eq!(of("a").len(), 3);
    assert_eq!(of("b").len(), 1);
    assert_eq!(of("a")[1].webhook_id, of("b")[0].webhook_id);
    assert_ne!(of("a")[0].webhook_id, of("a")[1].webhook_id);
    assert!(
        rows.iter()
            .all(|r| r.webhook_id.starts_with("msg_") && !r.webhook_id.contains('.'))
    );
}

#[tokio::test]
async fn of_one_file_only_the_first_is_due_until_it_is_settled() {
    let bench = Bench::new();
    bench.listen().await;
    for name in ["a", "b"] {
        bench.publish(name, "1").await;
    }
    let mut sent = Vec::new();
    for expected in [ACCEPTED, PUBLISHED, ACTIVATED] {
        let due = due_now(&bench, "hook").await;
        assert_eq!(due.len(), 2, "one of each file");
        for message in due {
            assert_eq!(message.kind, expected);
            sent.push(message.id);
            bench
                .store
                .write(move |tx| delivered(tx, &message))
                .await
                .unwrap();
        }
    }
    assert!(due_now(&bench, "hook").await.is_empty());
    assert_eq!(waiting(&bench).await, 0);
    assert_eq!(rows(&bench, "delivered").await.len(), sent.len());
}

#[tokio::test]
async fn a_dead_callback_lets_the_next_of_its_file_go() {
    let bench = Bench::new();
    bench.listen().await;
    bench.publish("a", "1").await;
    let first = due_now(&bench, "hook").await.remove(0);
    let later = bench.store.read(|r| Ok(r.uptime_ms())).await.unwrap() + MINUTE;
    let (one, two) = (first.clone(), first.clone());
    bench
        .store
        .write(move |tx| postpone(tx, &one, "500", later, false))
        .await
        .unwrap();
    assert!(due_now(&bench, "hook").await.is_empty());
    assert_eq!(
        bench.store.read(|r| next_due_ms(r, "hook")).await.unwrap(),
        Some(later)
    );
    bench
        .store
        .write(move |tx| give_up(tx, &two, "400"))
        .await
        .unwrap();
    let next = due_now(&bench, "hook").await;
    assert_eq!((next.len(), next[0].kind.as_str()), (1, PUBLISHED));
    let dead = rows(&bench, "dead").await;
    assert_eq!(
        (dead[0].attempts, dead[0].last_error.as_deref()),
        (2, Some("400"))
    );
    // Replayed: under its old id, and in its old position before the others.
    assert_eq!(bench.store.write(|tx| replay(tx, None)).await.unwrap(), 1);
    let again = due_now(&bench, "hook").await;
    assert_eq!((again.len(), &again[0].webhook_id), (1, &first.webhook_id));
    assert_eq!(waiting(&bench).await, 3);
}

#[tokio::test]
async fn what_waited_only_for_the_endpoint_is_due_when_it_works_again() {
    let bench = Bench::new();
    bench.listen().await;
    for name in ["down", "refused"] {
        bench.accept(file(name, "1")).await;
    }
    let later = bench.store.read(|r| Ok(r.uptime_ms())).await.unwrap() + MINUTE;
    for (message, refused) in due_now(&bench, "hook").await.into_iter().zip([false, true]) {
        bench
            .store
            .write(move |tx| {
                endpoints::endpoint_failed(tx, "hook", "503", 77)?;
                postpone(tx, &message, "503", later, refused)
            })
            .await
            .unwrap();
    }
    let shown = bench.store.read(endpoints::list).await.unwrap();
    assert_eq!(
        (shown[0].failures, shown[0].not_before_ms, shown[0].pending),
        (2, 77, 2)
    );
    bench
        .store
        .write(|tx| endpoints::endpoint_recovered(tx, "hook"))
        .await
        .unwrap();
    let due = due_now(&bench, "hook").await;
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].data["name"], "down");
    let message = due[0].clone();
    bench
        .store
        .write(move |tx| delivered(tx, &message))
        .await
        .unwrap();
    let shown = bench.store.read(endpoints::list).await.unwrap();
    assert_eq!((shown[0].failures, shown[0].not_before_ms), (0, 0));
}

#[tokio::test]
async fn a_start_makes_everything_due_and_keeps_the_order() {
    let bench = Bench::new();
    bench.listen().await;
    bench.publish("a", "1").await;
    bench
        .store
        .write(|tx| {
            // As after a crash of a faulty version: due times missing, or far in the future.
            tx.run(
                "spoil",
                "UPDATE outbox SET next_at = iif(id % 2, NULL, 1000000000000)",
                [],
            )?;
            begin(tx)
        })
        .await
        .unwrap();
    let due = due_now(&bench, "hook").await;
    assert_eq!((due.len(), due[0].kind.as_str()), (1, ACCEPTED));
}

#[tokio::test]
async fn old_callbacks_become_dead_letters() {
    let bench = Bench::new();
    bench.listen().await;
    bench.publish("a", "1").await;
    bench
        .store
        .write(|tx| {
            tx.run(
                "age",
                "UPDATE outbox SET born = born - 1000 WHERE type <> ?1",
                [ACTIVATED],
            )
        })
        .await
        .unwrap();
    assert_eq!(bench.store.write(|tx| expire(tx, 60_000)).await.unwrap(), 0);
    assert_eq!(bench.store.write(|tx| expire(tx, 999)).await.unwrap(), 2);
    assert_eq!(types(&rows(&bench, "dead").await), [ACCEPTED, PUBLISHED]);
    assert_eq!(due_now(&bench, "hook").await[0].kind, ACTIVATED);
}

#[tokio::test]
async fn the_outbox_is_bounded_and_gives_up_the_least_first() {
    let bench = Bench::with(Config {
        outbox_rows: 10,
        outbox_settled: 5,
        ..Config::default()
    });
    bench.listen().await;
    let report = |kind: &'static str, count: i64| {
        bench.store.write(move |tx| {
            for file in 0..count {
                enqueue(tx, kind, Some(file), &json!({}))?;
            }
            Ok(())
        })
    };
    report(PROGRESS, 3).await.unwrap();
    report(ACCEPTED, 3).await.unwrap();
    report(PUBLISHED, 7).await.unwrap();
    let left = rows(&bench, "pending").await;
    assert_eq!(
        types(&left),
        [[ACCEPTED; 3].as_slice(), &[PUBLISHED; 7]].concat(),
        "progress went"
    );
    report(FAILED, 3).await.unwrap();
    let left = rows(&bench, "pending").await;
    assert_eq!(
        types(&left),
        [[PUBLISHED; 7].as_slice(), &[FAILED; 3]].concat(),
        "then accepted"
    );
    assert!(rows(&bench, "dead").await.is_empty());
    report(FAILED, 9).await.unwrap();
    assert_eq!(waiting(&bench).await, 10);
    let dead = rows(&bench, "dead").await;
    assert_eq!(
        types(&dead),
        [[PUBLISHED; 7].as_slice(), &[FAILED; 2]].concat(),
        "the rest is kept as dead letters"
    );
    // Each order key still has exactly one due callback.
    let due = due_now(&bench, "hook").await;
    let mut files: Vec<_> = due.iter().map(|m| m.order_key).collect();
    files.dedup();
    assert_eq!(files.len(), due.len());
    bench.store.housekeep().await.unwrap();
    assert_eq!(rows(&bench, "dead").await.len(), 5);
}

#[tokio::test]
async fn what_waits_for_an_endpoint_that_is_gone_is_given_up_and_others_keep_theirs() {
    let bench = Bench::new();
    register(&bench, vec![endpoint("a", &[]), endpoint("b", &[])]).await;
    bench.accept(file("n", "1")).await;
    bench
        .store
        .write(|tx| endpoints::disable(tx, "a", "410 Gone"))
        .await
        .unwrap();
    let state = |rows: Vec<EndpointStatus>| -> Vec<(String, bool)> {
        rows.into_iter().map(|e| (e.name, e.disabled)).collect()
    };
    let shown = bench.store.read(endpoints::list).await.unwrap();
    assert_eq!(
        state(shown),
        [("a".to_owned(), true), ("b".to_owned(), false)]
    );
    register(&bench, vec![endpoint("a", &[])]).await;
    let shown = bench.store.read(endpoints::list).await.unwrap();
    assert_eq!(state(shown), [("a".to_owned(), false)]);
    assert_eq!(rows(&bench, "pending").await[0].endpoint, "a");
    assert_eq!(rows(&bench, "dead").await[0].endpoint, "b");
    assert_eq!(
        bench.store.write(|tx| replay(tx, None)).await.unwrap(),
        0,
        "nowhere to send it"
    );
}

#[tokio::test]
async fn events_of_the_node_have_no_order_to_wait_for() {
    let bench = Bench::new();
    bench.listen().await;
    for _ in 0..2 {
        bench
            .store
            .write(|tx| enqueue(tx, NODE_STARTED, None, &json!({ "version": "1" })))
            .await
            .unwrap();
    }
    assert_eq!(due_now(&bench, "hook").await.len(), 2);
}

/// The receiver comes back after a long outage: finding the due callbacks must not scan all pending
/// ones.
#[tokio::test]
async fn finding_what_is_due_stays_quick_in_a_long_queue() {
    let bench = Bench::new();
    bench.listen().await;
    let id = bench.accept(file("n", "1")).await;
    bench
        .store
        .write(move |tx| {
            tx.connection()
                .execute_batch(
                    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 90000)
                     INSERT INTO outbox (endpoint, webhook_id, type, order_key, data, created, born, next_at)
                     SELECT 'hook', 'msg_' || i, 'edgepush.file.published', i % 100, '{}', 1, 0, NULL FROM n;",
                )
                .map_err(Error::sql("fill"))?;
            begin(tx)?;
            jobs::finish(tx, id, &published(true), tx.now_ms())
        })
        .await
        .unwrap();
    let begin = std::time::Instant::now();
    for _ in 0..200 {
        let due = due_now(&bench, "hook").await;
        assert_eq!(due.len(), 100);
        let message = due[0].clone();
        bench
            .store
            .write(move |tx| delivered(tx, &message))
            .await
            .unwrap();
    }
    assert!(
        begin.elapsed() < std::time::Duration::from_secs(10),
        "{:?}",
        begin.elapsed()
    );
}
