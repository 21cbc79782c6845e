//! The sender against a receiver on loopback that does what it is told.

use std::collections::{HashMap, HashSet};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use base64::Engine as _;

use self::receiver::{Delivery, Receiver};
use super::*;
use crate::db::outbox::{Callback, Filter};
use crate::job::Outcome;
use crate::shown::callbacks;
use crate::store::testing::{Bench, file, published};

#[path = "../../tests/it/support/receiver.rs"]
#[allow(dead_code, reason = "each story uses its own part of the support")]
mod receiver;

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
const PATIENCE: Duration = Duration::from_secs(20);

fn secret_file(bench: &Bench, name: &str, text: &str) -> PathBuf {
    let path = bench.dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn endpoint(bench: &Bench, name: &str, receiver: &Receiver) -> Endpoint {
    Endpoint {
        name: name.to_owned(),
        url: format!("http://{}/hook?t=T0KEN", receiver.address),
        secret_files: vec![secret_file(bench, "secret", SECRET)],
        ..Endpoint::default()
    }
}

fn config(endpoints: Vec<Endpoint>) -> Config {
    Config {
        node: "edge-1".to_owned(),
        endpoints,
        first_retry: Duration::from_millis(20),
        longest_retry: Duration::from_millis(200),
        ..Config::default()
    }
}

/// A reporter at work.
struct Running {
    drain: CancellationToken,
    task: tokio::task::JoinHandle<()>,
    handle: Handle,
}

impl Running {
    fn start(bench: &Bench, config: Config) -> Self {
        let reporter = Reporter::new(config, bench.store.db().clone()).unwrap();
        let (drain, handle) = (CancellationToken::new(), reporter.handle());
        let task = tokio::spawn(Arc::new(reporter).run(drain.clone()));
        Self {
            drain,
            task,
            handle,
        }
    }

    async fn stop(self) {
        self.drain.cancel();
        self.task.await.unwrap();
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn rows(bench: &Bench) -> Vec<Callback> {
    let listed = bench
        .store
        .read(|r| outbox::list(r, &Filter::default(), 1_000_000))
        .await;
    listed.unwrap()
}

async fn until_delivered(bench: &Bench) {
    let end = Instant::now() + PATIENCE;
    while bench.store.read(outbox::pending).await.unwrap() > 0 {
        assert!(
            Instant::now() < end,
            "not all delivered: {:#?}",
            rows(bench).await
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// HMAC-SHA256 by its definition (RFC 2104), without the crate that the sender uses.
fn hmac(key: &[u8], message: &[u8]) -> String {
    use sha2::Digest;
    let mut block = [0u8; 64];
    block[..key.len()].copy_from_slice(key);
    let pad = |byte: u8| block.map(|b| b ^ byte);
    let inner = sha2::Sha256::digest([pad(0x36).as_slice(), message].concat());
    let outer = sha2::Sha256::digest([pad(0x5c).as_slice(), &inner].concat());
    base64::engine::general_purpose::STANDARD.encode(outer)
}

fn assert_signed(hit: &Delivery, secret: &str) {
    let key = match secret.strip_prefix("whsec_") {
        Some(base64) => base64::engine::general_purpose::STANDARD
            .decode(base64)
            .unwrap(),
        None => secret.as_bytes().to_vec(),
    };
    let head = format!("{}.{}.", hit.id(), hit.header("webhook-timestamp"));
    let want = format!("v1,{}", hmac(&key, &[head.as_bytes(), &hit.body].concat()));
    let found = hit.header("webhook-signature");
    assert!(found.split(' ').any(|s| s == want), "{found} {want}");
}

#[tokio::test]
async fn a_callback_is_tried_until_it_is_taken_under_one_id_and_signed_each_time() {
    let bench = Bench::new();
    let receiver = Receiver::scripted([(500, ""), (500, ""), (200, "")]);
    let running = Running::start(&bench, config(vec![endpoint(&bench, "hook", &receiver)]));
    bench.accept(file("n", "1")).await;
    until("a second attempt", || receiver.seen().len() >= 2).await;
    bench.clock.set(crate::store::testing::NOW + 5000);
    until_delivered(&bench).await;
    let hits = receiver.seen();
    assert_eq!(hits.len(), 3);
    for hit in &hits {
        assert_eq!(hit.id(), hits[0].id());
        assert_eq!(hit.body, hits[0].body);
        assert_signed(hit, SECRET);
        assert_eq!(hit.header("content-type"), "application/json");
    }
    let stamp = |hit: &Delivery| hit.header("webhook-timestamp").parse::<i64>().unwrap();
    assert_eq!(stamp(&hits[0]), crate::store::testing::NOW / 1000);
    assert_eq!(
        stamp(&hits[2]),
        crate::store::testing::NOW / 1000 + 5,
        "the time of this attempt"
    );
    let body = hits[0].json();
    assert_eq!(body["type"], "edgepush.file.accepted");
    assert_eq!(body["timestamp"], "2026-01-02T03:04:05Z");
    assert_eq!(body["data"]["node"], "edge-1");
    assert_eq!(body["data"]["name"], "n");
    assert!(!String::from_utf8_lossy(&hits[0].body).contains("SECRET"));
    assert_eq!(rows(&bench).await[0].attempts, 3);
    running.stop().await;
}

#[tokio::test]
async fn of_one_file_nothing_overtakes_and_no_file_waits_for_another() {
    let bench = Bench::new();
    // File `a` is refused three times; `b` goes on meanwhile.
    let mut refusals = 3;
    let receiver = Receiver::answering(move |hit| {
        if hit.name() == "a" && refusals > 0 {
            refusals -= 1;
            return (400, String::new());
        }
        (204, String::new())
    });
    let running = Running::start(&bench, config(vec![endpoint(&bench, "hook", &receiver)]));
    for name in ["a", "b"] {
        bench.publish(name, "1").await;
    }
    until_delivered(&bench).await;
    let of = |name: &str| -> Vec<String> {
        receiver
            .taken()
            .iter()
            .filter(|h| h.name() == name)
            .map(Delivery::kind)
            .collect()
    };
    let order = [
        callbacks::ACCEPTED,
        callbacks::PUBLISHED,
        callbacks::ACTIVATED,
    ];
    assert_eq!(of("a"), order);
    assert_eq!(of("b"), order);
    let taken = receiver.taken();
    let at = |name: &str, kind: &str| {
        taken
            .iter()
            .find(|h| h.name() == name && h.kind() == kind)
            .unwrap()
            .at
    };
    assert!(at("b", callbacks::ACTIVATED) < at("a", callbacks::PUBLISHED));
    running.stop().await;
}

#[tokio::test]
async fn a_receiver_that_wants_no_more_gets_no_more_until_a_reload() {
    let bench = Bench::new();
    let receiver = Receiver::answering(|_| (410, String::new()));
    // It gets the same events: what it has after several refusals, the first one would have had by then.
    let witness = Receiver::scripted([(503, ""); 4]);
    let endpoints = vec![
        endpoint(&bench, "hook", &receiver),
        endpoint(&bench, "witness", &witness),
    ];
    let settings = config(endpoints);
    let running = Running::start(&bench, settings.clone());
    bench.accept(file("a", "1")).await;
    until("the refusal", || !receiver.seen().is_empty()).await;
    let end = Instant::now() + PATIENCE;
    while !bench.store.read(endpoints::list).await.unwrap()[0].disabled {
        assert!(Instant::now() < end, "the endpoint is never disabled");
    }
    bench.accept(file("b", "1")).await;
    until("the witness", || witness.taken().len() == 2).await;
    assert_eq!(receiver.seen().len(), 1);
    receiver.answer_with(|_| (200, String::new()));
    running.handle.reload(settings).unwrap();
    until_delivered(&bench).await;
    assert_eq!(receiver.taken().len(), 2);
    assert!(!bench.store.read(endpoints::list).await.unwrap()[0].disabled);
    running.stop().await;
}

#[tokio::test]
async fn a_receiver_that_asks_for_patience_gets_it_also_across_a_restart() {
    let bench = Bench::new();
    let receiver = Receiver::scripted([(503, "Retry-After: 2\r\n")]);
    let settings = config(vec![endpoint(&bench, "hook", &receiver)]);
    let running = Running::start(&bench, settings.clone());
    bench.accept(file("a", "1")).await;
    // From here on the pause is known, also to the next start.
    let end = Instant::now() + PATIENCE;
    while bench.store.read(endpoints::list).await.unwrap()[0].not_before_ms == 0 {
        assert!(Instant::now() < end, "the wait is never noted");
    }
    bench.accept(file("b", "1")).await;
    running.stop().await;
    let running = Running::start(&bench, settings);
    until_delivered(&bench).await;
    let hits = receiver.seen();
    assert_eq!(hits.len(), 3);
    let waited = hits[1].at - hits[0].at;
    assert!(waited >= Duration::from_millis(1900), "{waited:?}");
    running.stop().await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let bench = Bench::new();
    let elsewhere = Receiver::scripted([]);
    let location = format!("Location: http://{}/\r\n", elsewhere.address);
    let mut first = true;
    let receiver = Receiver::answering(move |_| {
        if std::mem::take(&mut first) {
            (307, location.clone())
        } else {
            (204, String::new())
        }
    });
    let running = Running::start(&bench, config(vec![endpoint(&bench, "hook", &receiver)]));
    bench.accept(file("a", "1")).await;
    until_delivered(&bench).await;
    assert_eq!(receiver.seen().len(), 2);
    assert!(elsewhere.seen().is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_receiver_that_is_down_is_found_again_and_others_do_not_wait_for_it() {
    let bench = Bench::new();
    let free = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (down, up) = (Receiver::scripted([]), Receiver::scripted([]));
    let mut away = endpoint(&bench, "away", &down);
    away.url = format!("http://{free}/hook?t=T0KEN");
    let running = Running::start(&bench, config(vec![away, endpoint(&bench, "up", &up)]));
    for i in 0..20 {
        bench.publish(&format!("n{i}"), "1").await;
    }
    until("the one that is up", || up.taken().len() == 60).await;
    let end = Instant::now() + PATIENCE;
    while bench.store.read(endpoints::list).await.unwrap()[1].pending > 0 {
        assert!(Instant::now() < end, "what was taken is never noted");
    }
    assert_eq!(bench.store.read(outbox::pending).await.unwrap(), 60);
    let waiting = rows(&bench).await;
    let tried: Vec<_> = waiting
        .iter()
        .filter(|r| r.endpoint == "away" && r.attempts > 0)
        .collect();
    assert!(!tried.is_empty());
    for row in tried {
        let error = row.last_error.as_deref().unwrap();
        assert!(error.contains("refused"), "{error}");
        assert!(
            !error.contains("T0KEN") && !error.contains("hook"),
            "{error}"
        );
    }
    let back = Receiver::on(free, |_| (204, String::new()));
    until_delivered(&bench).await;
    let ids: HashSet<String> = back.taken().iter().map(|h| h.id().to_owned()).collect();
    let same: HashSet<String> = up.taken().iter().map(|h| h.id().to_owned()).collect();
    assert_eq!(ids, same);
    running.stop().await;
}

#[tokio::test]
async fn nothing_is_lost_or_out_of_order_through_refusals_and_restarts() {
    let bench = Bench::new();
    let random = fastrand::Rng::with_seed(7);
    let mut rng = random;
    let receiver = Receiver::answering(move |_| match rng.u8(0..10) {
        0 => (500, String::new()),
        1 => (503, String::new()),
        2 => (429, String::new()),
        _ => (200, String::new()),
    });
    let settings = Config {
        first_retry: Duration::from_millis(1),
        longest_retry: Duration::from_millis(5),
        ..config(vec![endpoint(&bench, "hook", &receiver)])
    };
    let mut running = Running::start(&bench, settings.clone());
    for i in 0..60 {
        let id = bench.accept(file(&format!("n{i}"), "1")).await;
        let outcome = if i % 3 == 0 {
            Outcome::Canceled
        } else {
            published(true)
        };
        bench.end(id, outcome).await;
        if i % 20 == 10 {
            // As a kill does: what was on its way may have arrived, and nobody noted it.
            running.task.abort();
            running = Running::start(&bench, settings.clone());
        }
    }
    // A receiver that fails at a third of what it gets is paused between: give it a better day.
    receiver.answer_with(|_| (200, String::new()));
    until_delivered(&bench).await;
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    let mut ids = HashSet::new();
    for hit in receiver.taken() {
        assert_signed(&hit, SECRET);
        if ids.insert(hit.id().to_owned()) {
            seen.entry(hit.name()).or_default().push(hit.kind());
        }
    }
    assert_eq!(seen.len(), 60);
    for (name, kinds) in seen {
        let i: u32 = name[1..].parse().unwrap();
        let want: &[&str] = if i.is_multiple_of(3) {
            &[callbacks::ACCEPTED, callbacks::FAILED]
        } else {
            &[
                callbacks::ACCEPTED,
                callbacks::PUBLISHED,
                callbacks::ACTIVATED,
            ]
        };
        assert_eq!(kinds, want, "{name}");
    }
    running.stop().await;
}

#[tokio::test]
async fn two_secrets_sign_twice_and_cloud_events_are_cloud_events() {
    let bench = Bench::new();
    let receiver = Receiver::scripted([]);
    let second = "an older secret of more than 24 bytes";
    let mut hook = endpoint(&bench, "hook", &receiver);
    hook.secret_files.push(secret_file(&bench, "older", second));
    hook.format = Format::CloudEvents;
    hook.types = vec![
        callbacks::NODE_STARTED.to_owned(),
        callbacks::PUBLISHED.to_owned(),
    ];
    hook.headers.insert("x-site".to_owned(), "wuxi".to_owned());
    let token = secret_file(&bench, "token", "Bearer T0KEN\n");
    hook.header_files.insert("authorization".to_owned(), token);
    let running = Running::start(&bench, config(vec![hook]));
    announce_start(&bench.store).await.unwrap();
    until_delivered(&bench).await;
    bench.publish("n", "1").await;
    until_delivered(&bench).await;
    let hits = receiver.taken();
    assert_eq!(hits.len(), 2, "only what it wants");
    for hit in &hits {
        assert_signed(hit, SECRET);
        assert_signed(hit, second);
        assert_eq!(hit.header("webhook-signature").split(' ').count(), 2);
        assert_eq!(
            hit.header("content-type"),
            "application/cloudevents+json; charset=UTF-8"
        );
        assert_eq!(hit.header("x-site"), "wuxi");
        assert_eq!(hit.header("authorization"), "Bearer T0KEN");
        let event = hit.json();
        assert_eq!(event["specversion"], "1.0");
        assert_eq!(event["id"], hit.id());
        assert_eq!(event["source"], "/edgepush/edge-1");
    }
    assert_eq!(hits[0].json()["subject"], "node");
    assert_eq!(hits[1].json()["subject"], "app/n@1");
    assert_eq!(hits[1].json()["data"]["result_code"], 0);
    running.stop().await;
}

#[tokio::test]
async fn what_is_written_right_after_new_is_already_reported() {
    let bench = Bench::new();
    let receiver = Receiver::scripted([]);
    let reporter = Reporter::new(
        config(vec![endpoint(&bench, "hook", &receiver)]),
        bench.store.db().clone(),
    );
    bench.accept(file("n", "1")).await;
    let drain = CancellationToken::new();
    let task = tokio::spawn(Arc::new(reporter.unwrap()).run(drain.clone()));
    until_delivered(&bench).await;
    assert_eq!(receiver.taken().len(), 1);
    drain.cancel();
    task.await.unwrap();
}

#[tokio::test]
async fn without_endpoints_nothing_is_written() {
    let bench = Bench::new();
    let running = Running::start(&bench, Config::default());
    bench.publish("n", "1").await;
    assert!(rows(&bench).await.is_empty());
    running.stop().await;
}

#[test]
fn the_configuration_is_read_from_toml() {
    let text = r#"
        keep = "2d"
        [[endpoints]]
        name = "hook"
        url = "https://h/x"
        secret_files = ["a", "b"]
        format = "cloudevents"
        types = ["edgepush.file.published"]
    "#;
    let config: Config = toml::from_str(text).unwrap();
    assert_eq!(config.keep, Duration::from_secs(2 * 24 * 3600));
    assert_eq!(config.endpoints[0].format, Format::CloudEvents);
    let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config);
    assert!(toml::from_str::<Config>("[[endpoints]]\nsecret = \"x\"").is_err());
}
