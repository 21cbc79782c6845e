//! The native API: what the command line's client asks, and what only looks over HTTP.

use std::time::Duration;

use edgepush::client::{self, Client, EventsQuery, FilesQuery};
use edgepush::db::{endpoints, outbox};
use edgepush::job::{EventKind, JobState};
use edgepush::shown::model::{Pin, Replay, Verdict, WhatToVerify, WhichJob, WhichName};
use edgepush::store::jobs;
use serde_json::{Value, json};

use crate::support::served::{Served, failed, key};

fn document(items: &[(&str, &str)]) -> String {
    let data: Vec<Value> = items
        .iter()
        .map(|(name, version)| {
            json!({"name": name, "version": version, "archiveType": "zip", "url": "http://user:pw@h/x.zip?sig=s3cret"})
        })
        .collect();
    json!({"AppId": "app-1", "Data": data}).to_string()
}

/// Runs a conversation of the command line's client with the served API.
fn talk<T, F: Future<Output = T>>(served: &Served, talk: impl FnOnce(Client) -> F) -> T {
    let client = Client::new(&served.socket()).unwrap();
    served.runtime.block_on(talk(client))
}

fn push(served: &Served, items: &[(&str, &str)]) -> edgepush::shown::model::Pushed {
    talk(served, async |client| {
        client.push(document(items)).await.unwrap()
    })
}

#[test]
fn a_push_is_followed_from_its_document_to_its_end() {
    let served = Served::new("", "");
    let pushed = push(&served, &[("a", "1"), ("b", "1")]);
    let results: Vec<Verdict> = pushed.answers.iter().map(|a| a.result).collect();
    assert_eq!(results, [Verdict::Accepted, Verdict::Accepted]);
    let id = pushed.push.unwrap();
    let (a, b) = (key("app-1", "a", "1"), key("app-1", "b", "1"));
    let state = || {
        talk(&served, async |client| {
            client.push_state(&id).await.unwrap()
        })
    };
    assert!(!state().done);
    served.publish(&a, b"archive");
    served.end(served.job(&b), failed("no good"));
    let push = state();
    assert!(push.done);
    let states: Vec<JobState> = push.files.iter().map(|f| f.state).collect();
    assert_eq!(states, [JobState::Succeeded, JobState::Failed]);
    assert_eq!(
        push.files[0].path.as_deref(),
        served.dir().join("data/app-1/a/versions/1").to_str()
    );
    assert_eq!(
        push.files[1].failure.as_ref().unwrap().kind,
        "digest-mismatch"
    );
    let again = self::push(&served, &[("a", "1")]);
    assert_eq!(again.answers[0].result, Verdict::AlreadyPublished);
    assert_eq!(again.push, None);
    talk(&served, async |client| {
        let file = client.latest(&a).await.unwrap();
        assert_eq!(file.source, "http://h/x.zip?…");
        let kinds: Vec<String> = client
            .events_of(file.id, false)
            .await
            .unwrap()
            .into_iter()
            .map(|e| e.kind.to_string())
            .collect();
        assert_eq!(kinds, ["accepted", "started", "published", "activated"]);
        assert_eq!(client.history(file.id).await.unwrap().files, [file]);
        let failed = FilesQuery {
            state: Some("failed,canceled".to_owned()),
            ..FilesQuery::default()
        };
        let failed = client.files(&failed).await.unwrap();
        assert_eq!((failed.total, &failed.files[0].key), (1, &b));
        let missing = client.latest(&key("app-1", "none", "1")).await.unwrap_err();
        assert!(matches!(missing, client::Error::NotFound(_)), "{missing}");
    });
}

#[test]
fn nothing_that_is_shown_holds_a_secret() {
    let served = Served::new("", "");
    push(&served, &[("a", "1")]);
    for target in [
        "/v1/status",
        "/v1/files",
        "/v1/files/1",
        "/v1/files/1/events",
        "/v1/outbox",
        "/metrics",
        "/status",
    ] {
        let answer = served.unix("GET", target, None);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert_eq!(answer.status, 200, "{target}: {text}");
        assert!(
            !text.contains("s3cret") && !text.contains("pw@"),
            "{target}: {text}"
        );
    }
}

#[test]
fn a_bad_document_names_the_place_and_nothing_is_taken() {
    let served = Served::new("", "");
    for (from, to, want) in [
        ("\"AppId\"", "\"App\"", "unknown key `App`"),
        ("{", "[", "not JSON: "),
    ] {
        let bad = document(&[("a", "1")]).replacen(from, to, 1);
        let error = talk(&served, async |client| client.push(bad).await.unwrap_err());
        let client::Error::Other { code, message } = error else {
            panic!("{error}");
        };
        assert!(
            code == "bad-request" && message.starts_with(want),
            "{message}"
        );
    }
    let all = talk(&served, async |client| {
        client.files(&FilesQuery::default()).await.unwrap()
    });
    assert_eq!(all.total, 0);
}

#[test]
fn only_local_senders_may_name_files_and_only_if_allowed() {
    let file =
        json!({"AppId": "app-1", "Data": [{"name": "a", "version": "1", "url": "file:///x.zip"}]});
    let served = Served::new("", "");
    assert_eq!(served.unix("POST", "/v1/pushes", Some(&file)).status, 200);
    let served = Served::new("file_urls = false", "");
    let answer = served.unix("POST", "/v1/pushes", Some(&file)).json();
    assert_eq!(answer["answers"][0]["code"], 300, "{answer}");
}

#[test]
fn versions_become_live_and_go_back() {
    let served = Served::new("", "");
    for version in ["1", "2"] {
        push(&served, &[("a", version)]);
        served.publish(&key("app-1", "a", version), b"x");
    }
    let live = |client: Client| async move {
        let all = client
            .releases(Some("app-1"), Some("a"))
            .await
            .unwrap()
            .releases;
        let live: Vec<String> = all
            .iter()
            .filter(|r| r.live)
            .map(|r| r.key.version.to_string())
            .collect();
        live.join(",")
    };
    let name = WhichName {
        app: key("app-1", "a", "1").app,
        name: key("app-1", "a", "1").name,
    };
    talk(&served, async |client| {
        assert_eq!(live(client.clone()).await, "2");
        // The runner carries out what is asked for meanwhile.
        let flip = async {
            while flip_pending(&served).await == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let (back, ()) = tokio::join!(client.rollback(&name), flip);
        let back = back.unwrap();
        assert_eq!((back.key.version.as_str(), back.changed), ("1", true));
        assert_eq!(back.from_version.unwrap().as_str(), "2");
        assert_eq!(live(client.clone()).await, "1");
        let same = client.activate(key("app-1", "a", "1")).await.unwrap();
        assert!(!same.changed);
        let missing = client.activate(key("app-1", "a", "9")).await.unwrap_err();
        assert!(matches!(missing, client::Error::NotFound(_)), "{missing}");
        let nothing = client.rollback(&name).await.unwrap_err();
        assert!(matches!(nothing, client::Error::Conflict(_)), "{nothing}");
    });
}

async fn flip_pending(served: &Served) -> usize {
    use edgepush::store::activations;
    let flip = served.store.write(|tx| {
        let pending = activations::pending(tx)?;
        for row in &pending {
            activations::done(tx, row.id, None)?;
        }
        Ok(pending.len())
    });
    flip.await.unwrap()
}

#[test]
fn jobs_are_canceled_and_hurried() {
    let served = Served::new("", "");
    push(&served, &[("a", "1"), ("b", "1")]);
    let a = served.job(&key("app-1", "a", "1"));
    let b = key("app-1", "b", "1");
    let start = served.store.write(move |tx| {
        jobs::start(tx, a, tx.now_ms())?;
        jobs::requeue(tx, a, tx.now_ms() + 600_000, "the origin stalls")
    });
    assert!(served.runtime.block_on(start).unwrap());
    talk(&served, async |client| {
        assert!(client.file(a).await.unwrap().not_before_ms.is_some());
        client.retry(&WhichJob::number(a)).await.unwrap();
        let file = client.file(a).await.unwrap();
        assert_eq!((file.state, file.not_before_ms), (JobState::Queued, None));
        let canceled = client.cancel(&WhichJob::of(b.clone())).await.unwrap();
        assert!(canceled.ended);
        assert_eq!(client.latest(&b).await.unwrap().state, JobState::Canceled);
        let ended = client.cancel(&WhichJob::of(b.clone())).await.unwrap_err();
        assert!(matches!(ended, client::Error::Conflict(_)), "{ended}");
        let with_partial = WhichJob {
            drop_partial: true,
            ..WhichJob::of(b.clone())
        };
        assert!(client.cancel(&with_partial).await.unwrap().ended);
        let over = client.retry(&WhichJob::of(b.clone())).await.unwrap_err();
        assert!(matches!(over, client::Error::Conflict(_)), "{over}");
        let unknown = client.cancel(&WhichJob::default()).await.unwrap_err();
        assert!(matches!(unknown, client::Error::Other { .. }), "{unknown}");
    });
}

#[test]
fn a_running_job_shows_what_it_says_of_itself() {
    let served = Served::new("", "");
    push(&served, &[("a", "1")]);
    let id = served.job(&key("app-1", "a", "1"));
    let start = served
        .store
        .write(move |tx| jobs::start(tx, id, tx.now_ms()));
    served.runtime.block_on(start).unwrap();
    let entry = served.board.enter(id);
    entry.progress.set_received(123);
    entry.progress.set_total(456);
    let status = talk(&served, async |client| client.status().await.unwrap());
    assert_eq!(
        (status.running[0].received, status.running[0].total),
        (123, 456)
    );
    assert_eq!(
        (status.version.as_str(), status.state.as_str()),
        ("1.2.3", "ready")
    );
    assert_eq!(status.listen_http, Some(served.address.to_string()));
    assert_eq!((status.counts["running"], status.counts["failed"]), (1, 0));
    assert!(status.disk.unwrap().free > 0);
}

#[test]
fn trees_are_removed_collected_verified_and_pinned() {
    let served = Served::new("", "");
    push(&served, &[("a", "1")]);
    served.publish(&key("app-1", "a", "1"), b"x");
    talk(&served, async |client| {
        let live = client.remove(&key("app-1", "a", "1")).await.unwrap_err();
        assert!(
            matches!(&live, client::Error::Conflict(why) if why == "app-1/a@1 stays: it is live"),
            "{live}"
        );
        assert!(client.collect().await.unwrap().removed.is_empty());
        let what = WhatToVerify {
            app: Some(key("app-1", "a", "1").app),
            ..WhatToVerify::default()
        };
        let verified = client.verify(&what).await.unwrap();
        assert_eq!(verified.trees.len(), 1);
        // No tree was published: the test recorded its job as ended.
        assert!(!verified.trees[0].damage.is_empty());
        let nothing = WhatToVerify {
            app: Some(key("app-2", "a", "1").app),
            ..WhatToVerify::default()
        };
        let nothing = client.verify(&nothing).await.unwrap_err();
        assert!(matches!(nothing, client::Error::NotFound(_)), "{nothing}");
        let pin = |pinned| {
            let k = key("app-1", "a", "1");
            Pin {
                app: k.app,
                name: k.name,
                version: k.version,
                pinned,
            }
        };
        assert!(client.pin(&pin(true)).await.unwrap().releases[0].pinned);
        assert!(!client.pin(&pin(false)).await.unwrap().releases[0].pinned);
        let missing = Pin {
            version: key("a", "a", "9").version,
            ..pin(true)
        };
        let missing = client.pin(&missing).await.unwrap_err();
        assert!(matches!(missing, client::Error::NotFound(_)), "{missing}");
    });
}

#[test]
fn callbacks_are_listed_and_replayed() {
    let served = Served::new("", "");
    let register = served.store.write(|tx| {
        let endpoint = endpoints::Endpoint {
            name: "hook".to_owned(),
            target: "https://h".to_owned(),
            types: Vec::new(),
        };
        endpoints::register(tx, &[endpoint])
    });
    served.runtime.block_on(register).unwrap();
    push(&served, &[("a", "1"), ("b", "1")]);
    let give_up = served.store.write(|tx| {
        let due = outbox::due(tx, "hook", 1)?;
        outbox::give_up(tx, &due[0], "410 Gone")
    });
    assert!(served.runtime.block_on(give_up).unwrap());
    talk(&served, async |client| {
        let all = client.outbox(None, None).await.unwrap();
        assert_eq!((all.pending, all.dead, all.callbacks.len()), (1, 1, 2));
        assert!(all.callbacks[0].id > all.callbacks[1].id);
        let dead = client
            .outbox(Some("dead"), Some(10))
            .await
            .unwrap()
            .callbacks;
        assert_eq!(
            (dead.len(), dead[0].last_error.as_deref()),
            (1, Some("410 Gone"))
        );
        let other = Replay {
            endpoint: Some("other".to_owned()),
            id: None,
        };
        assert_eq!(client.replay(&other).await.unwrap().replayed, 0);
        let hook = Replay {
            endpoint: Some("hook".to_owned()),
            id: None,
        };
        assert_eq!(client.replay(&hook).await.unwrap().replayed, 1);
        let none = Replay {
            endpoint: None,
            id: Some(999),
        };
        let none = client.replay(&none).await.unwrap_err();
        assert!(matches!(none, client::Error::NotFound(_)), "{none}");
    });
}

#[test]
fn a_follower_gets_what_it_missed_and_then_what_happens() {
    let served = Served::new("", "");
    push(&served, &[("a", "1"), ("b", "1")]);
    let a = key("app-1", "a", "1");
    let query = EventsQuery {
        after: Some(0),
        name: Some("a".to_owned()),
        ..EventsQuery::default()
    };
    let job = served.job(&a);
    talk(&served, async |client| {
        let mut follow = client.follow(&query).await.unwrap();
        let next = async |follow: &mut client::Follow| {
            let next = tokio::time::timeout(Duration::from_secs(5), follow.next());
            next.await.unwrap().unwrap().unwrap()
        };
        let first = next(&mut follow).await;
        assert_eq!(
            (first.kind, first.key.map(|key| key.name)),
            (EventKind::Accepted, Some(a.name.clone()))
        );
        let mut from_now = client.follow(&EventsQuery::default()).await.unwrap();
        let start = served
            .store
            .write(move |tx| jobs::start(tx, job, tx.now_ms()));
        start.await.unwrap();
        assert_eq!(next(&mut follow).await.kind, EventKind::Started);
        let live = next(&mut from_now).await;
        assert_eq!((live.kind, live.job), (EventKind::Started, Some(job)));
    });
}

#[test]
fn followers_end_when_the_agent_does() {
    let served = Served::new("", "");
    push(&served, &[("a", "1")]);
    let all = EventsQuery {
        after: Some(0),
        ..EventsQuery::default()
    };
    let mut follow = talk(&served, async |client| client.follow(&all).await.unwrap());
    let handle = served.runtime.handle().clone();
    // Everything that there is to hear was heard: what comes next is the end.
    let first = handle.block_on(follow.next()).unwrap();
    assert_eq!(first.unwrap().kind, EventKind::Accepted);
    let (ended, end) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || ended.send(handle.block_on(follow.next())));
    let served = served.restart("", "");
    let end = end.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
    drop(served);
}

#[test]
fn over_tcp_one_may_look_and_not_touch() {
    let served = Served::new("", "");
    push(&served, &[("a", "1")]);
    for target in [
        "/healthz",
        "/readyz",
        "/readyz?verbose",
        "/metrics",
        "/status",
        "/v1/status",
        "/v1/files",
        "/v1/releases",
    ] {
        assert_eq!(served.tcp("GET", target, &[]).status, 200, "{target}");
    }
    for (method, target) in [
        ("POST", "/v1/pushes"),
        ("POST", "/v1/activate"),
        ("POST", "/v1/gc"),
        ("DELETE", "/v1/releases?app=app-1&name=a&version=1"),
        ("POST", "/v1/outbox/replay"),
    ] {
        let status = served.tcp(method, target, &[]).status;
        assert!(
            status == 404 || status == 405,
            "{method} {target}: {status}"
        );
    }
    let served = Served::new("status_for = \"nobody\"", "");
    for target in ["/metrics", "/status", "/v1/status", "/v1/events"] {
        assert_eq!(served.tcp("GET", target, &[]).status, 403, "{target}");
    }
    assert_eq!(served.tcp("GET", "/healthz", &[]).status, 200);
    assert_eq!(served.unix("GET", "/v1/status", None).status, 200);
}

#[test]
fn figures_count_what_has_happened() {
    let served = Served::new("", "");
    push(&served, &[("a", "1"), ("b", "1")]);
    served.publish(&key("app-1", "a", "1"), b"archive");
    served.end(served.job(&key("app-1", "b", "1")), failed("no"));
    let end = std::time::Instant::now() + Duration::from_secs(5);
    let text = loop {
        let answer = served.tcp("GET", "/metrics", &[]);
        let text = String::from_utf8(answer.body).unwrap();
        if text.contains("edgepush_failures_total{kind=\"digest-mismatch\"} 1") {
            break text;
        }
        assert!(std::time::Instant::now() < end, "{text}");
    };
    for line in [
        "edgepush_build_info{version=\"1.2.3\",region=\"local\"} 1",
        "edgepush_files{state=\"succeeded\"} 1",
        "edgepush_files{state=\"failed\"} 1",
        "edgepush_jobs_ended_total{result=\"published\"} 1",
        "edgepush_jobs_ended_total{result=\"failed\"} 1",
        "edgepush_fetched_bytes_total 7",
        "edgepush_job_duration_seconds_count 2",
        "edgepush_current_info{app=\"app-1\",name=\"a\",version=\"1\"} 1",
        "edgepush_ready 1",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
    }
    // Every sample belongs to a family that was announced.
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let family = name.trim_end_matches("_bucket").trim_end_matches("_sum");
        let announced = [name, family, family.trim_end_matches("_count")];
        let announced = announced
            .iter()
            .any(|n| text.contains(&format!("# TYPE {n} ")));
        assert!(announced, "{line}");
    }
}

#[test]
fn an_agent_that_is_not_there_is_unreachable() {
    let dir = tempfile::tempdir().unwrap();
    let client = Client::new(&dir.path().join("none.sock")).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let error = runtime.block_on(client.status()).unwrap_err();
    assert!(
        matches!(error, client::Error::Unreachable { .. }),
        "{error}"
    );
}

#[test]
fn a_key_that_is_stated_twice_is_refused() {
    let served = Served::new("", "");
    let twice = document(&[("a", "1")]).replacen("{", "{\"AppId\": \"app-2\", ", 1);
    let element = document(&[("a", "1")]).replacen("\"name\"", "\"name\": \"b\", \"name\"", 1);
    for (target, body) in [
        ("/v1/pushes", twice),
        ("/v1/pushes", element),
        (
            "/v1/rollback",
            r#"{"app": "a", "app": "b", "name": "n"}"#.to_owned(),
        ),
    ] {
        let mut stream = std::os::unix::net::UnixStream::connect(served.socket()).unwrap();
        let request = format!(
            "POST {target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        std::io::Write::write_all(&mut stream, request.as_bytes()).unwrap();
        let answer = std::io::read_to_string(stream).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(
            answer.contains("twice") || answer.contains("duplicate"),
            "{answer}"
        );
    }
}
