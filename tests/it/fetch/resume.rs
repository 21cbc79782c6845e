//! Going on where it stopped, and never mixing two files.

use std::fs;
use std::io::Read;

use edgepush::datafile::{Content, Md5};
use edgepush::fetch::{Identity, Spool};

use super::*;

fn validator(origin: &Origin, etag: &str) -> Validator {
    Validator {
        host: origin.address().to_string(),
        etag: Some(etag.to_owned()),
        last_modified: None,
    }
}

/// Fetches with the first `offset` bytes of `data` here already.
async fn fetch_rest(origin: &Origin, data: &[u8], offset: usize, etag: Option<&str>) -> Fetched {
    let mut request = request(&origin.url("/f"), Some(data.len()));
    request.offset = offset as u64;
    request.validator = etag.map(|e| validator(origin, e));
    run(fetcher("").open(request), data[..offset].to_vec()).await
}

#[tokio::test]
async fn goes_on_after_a_restart_of_the_process() {
    let (origin, data) = (Origin::start(), body(1_000_000));
    origin.serve("/f", Reply::file(&data).etag("\"v1\""));
    for percent in [10, 50, 99] {
        let offset = data.len() * percent / 100;
        let got = fetch_rest(&origin, &data, offset, Some("\"v1\"")).await;
        got.result.as_ref().expect("fetched");
        assert_eq!(got.bytes, data);
        assert_eq!(got.source.fetched(), (data.len() - offset) as u64);
        assert!(got.restarts.is_empty());
    }
    // All of it was here: nobody is asked.
    let asked = origin.hits("/f").len();
    fetch_rest(&origin, &data, data.len(), Some("\"v1\""))
        .await
        .result
        .expect("fetched");
    assert_eq!(origin.hits("/f").len(), asked);
}

#[tokio::test]
async fn a_partial_file_goes_on_with_a_fresh_url() {
    let (origin, data) = (Origin::start(), body(2_000_000));
    let (dir, gate) = (tempfile::tempdir().expect("a directory"), Gate::new());
    let first = Reply::file(&data).hold_at(1_000_000, &gate);
    origin.script("/f", [first, Reply::file(&data)]);
    let content = Content {
        size: Some(data.len() as u64),
        md5: Some(Md5::parse(&"ab".repeat(16)).expect("a digest")),
        sha256: None,
    };
    let (old, fresh) = (origin.url("/f?sign=OLD"), origin.url("/f?sign=NEW"));
    let spool = |url: &str| {
        let identity = Identity::new(&content, &SourceUrl::parse(url).expect("a url"));
        Spool::open(dir.path(), &identity.name(), &identity).expect("a spool")
    };
    let mut partial = spool(&old);
    let mut source = fetcher("").open(request(&old, Some(data.len())));
    while partial.len() < 1_000_000 {
        match source.next().await.expect("an event") {
            Event::Bytes(bytes) => partial.append(&bytes).expect("written"),
            other => panic!("{other:?}"),
        }
        partial.set_validator(source.validator()).expect("noted");
    }
    drop((source, partial));
    let mut partial = spool(&fresh);
    let mut rest = request(&fresh, Some(data.len()));
    rest.offset = partial.len();
    rest.validator = partial.validator().cloned();
    let mut here = Vec::new();
    partial
        .reader()
        .expect("a reader")
        .read_to_end(&mut here)
        .expect("read");
    let got = run(fetcher("").open(rest), here).await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    assert_eq!(got.source.fetched(), 1_000_000);
    let hits = origin.hits("/f");
    assert_eq!(hits[1].range_start(), Some(1_000_000));
    assert!(hits[1].header("if-range").is_some());
    assert_eq!(fs::read_dir(dir.path()).expect("a list").count(), 2);
}

#[tokio::test]
async fn a_changed_object_starts_at_zero() {
    let (origin, old, new) = (Origin::start(), body(200_000), vec![7; 200_000]);
    // With If-Range obeyed, with If-Range ignored, and when it changes between two requests of one fetch.
    for reply in [
        Reply::file(&new).etag("\"v2\""),
        Reply::file(&new).etag("\"v2\"").ignores_if_range(),
    ] {
        origin.serve("/f", reply);
        let mut request = request(&origin.url("/f"), Some(old.len()));
        request.offset = 100_000;
        request.validator = Some(validator(&origin, "\"v1\""));
        let got = run(fetcher("").open(request), old[..100_000].to_vec()).await;
        got.result.as_ref().expect("fetched");
        assert_eq!(got.bytes, new);
        assert_eq!(got.restarts.len(), 1);
    }
    let first = Reply::file(&old).etag("\"v1\"").cut_at(150_000);
    origin.script("/f", [first, Reply::file(&new).etag("\"v2\"")]);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(old.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, new);
    assert_eq!(got.restarts.len(), 1);
}

#[tokio::test]
async fn an_origin_without_ranges_starts_at_zero() {
    let (origin, data) = (Origin::start(), body(200_000));
    let plain = Reply::file(&data).no_ranges();
    origin.script("/f", [plain.clone().cut_at(100_000), plain]);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    assert_eq!(got.restarts.len(), 1);
    assert_eq!(origin.hits("/f").len(), 2);
}

#[tokio::test]
async fn without_a_validator_only_a_digest_allows_to_go_on() {
    let (origin, data) = (Origin::start(), body(200_000));
    for (proven, size, resumed) in [
        (true, Some(data.len()), true),
        (true, None, false),
        (false, Some(data.len()), false),
    ] {
        let plain = Reply::file(&data).no_etag();
        origin.script("/f", [plain.clone().cut_at(100_000), plain]);
        let before = origin.hits("/f").len();
        let mut request = request(&origin.url("/f"), size);
        request.proven = proven;
        let got = fetch(&fetcher(""), request).await;
        got.result.as_ref().expect("fetched");
        assert_eq!(got.bytes, data);
        assert_eq!(got.restarts.is_empty(), resumed);
        let second = &origin.hits("/f")[before + 1];
        assert_eq!(second.range_start().is_some(), resumed);
        assert_eq!(second.header("if-range"), None);
    }
}

#[tokio::test]
async fn a_weak_validator_is_no_condition_but_still_tells_a_change() {
    let (origin, data) = (Origin::start(), body(200_000));
    let weak = Reply::file(&data).etag("W/\"v1\"");
    origin.script("/f", [weak.clone().cut_at(100_000), weak]);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert!(got.restarts.is_empty());
    assert_eq!(origin.hits("/f")[1].header("if-range"), None);

    let new = vec![7; 200_000];
    let first = Reply::file(&data).etag("W/\"v1\"").cut_at(100_000);
    origin.script("/f", [first, Reply::file(&new).etag("W/\"v2\"")]);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!((got.bytes, got.restarts.len()), (new, 1));
}

#[tokio::test]
async fn last_modified_is_a_condition_when_it_had_settled() {
    let (origin, data) = (Origin::start(), body(200_000));
    let modified = "Sun, 06 Nov 1994 08:49:37 GMT";
    for (date, condition) in [
        ("Sun, 06 Nov 1994 09:49:37 GMT", Some(modified)),
        ("Sun, 06 Nov 1994 08:49:38 GMT", None),
    ] {
        let reply = Reply::file(&data)
            .no_etag()
            .with("last-modified", modified)
            .with("date", date)
            .cut_at(100_000);
        origin.serve("/f", reply);
        let before = origin.hits("/f").len();
        let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
        got.result.expect("fetched");
        assert_eq!(got.bytes, data);
        assert_eq!(origin.hits("/f")[before + 1].header("if-range"), condition);
    }
}

#[tokio::test]
async fn a_part_that_was_not_asked_for_is_refused_unless_it_is_the_whole() {
    let (origin, data) = (Origin::start(), body(10_000));
    for (range, proven, taken) in [
        ("bytes 0-9999/10000", true, true),
        ("bytes 0-9999/10000", false, false),
        ("bytes 0-9999/20000", true, false),
        ("bytes 0-9999/*", true, false),
        ("bytes 1-9999/10000", true, false),
    ] {
        origin.serve("/f", Reply::file(&data).content_range(range));
        let before = origin.hits("/f").len();
        let mut request = request(&origin.url("/f"), Some(data.len()));
        request.proven = proven;
        let got = fetch(&fetcher(""), request).await;
        if taken {
            got.result.as_ref().expect(range);
            assert_eq!(got.bytes, data, "{range}");
        } else {
            assert_eq!(got.kind(), "unsolicited-range", "{range}");
            assert!(got.bytes.is_empty(), "{range}");
        }
        assert_eq!(origin.hits("/f").len(), before + 1, "{range}");
    }
}

/// The whole file can be had, but a part of it is refused: at once, or after the pause that the origin
/// asks for.
#[tokio::test]
async fn a_refused_part_is_asked_for_as_a_whole() {
    let (origin, data) = (Origin::start(), body(200_000));
    for status in [
        304, 400, 403, 404, 405, 406, 411, 416, 417, 500, 501, 502, 503, 504,
    ] {
        let reply = Reply::file(&data).refuses_ranges(status);
        origin.script("/f", [reply.clone().cut_at(100_000), reply]);
        let before = origin.hits("/f").len();
        let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
        got.result
            .as_ref()
            .unwrap_or_else(|e| panic!("{status}: {e}"));
        assert_eq!(got.bytes, data, "{status}");
        assert_eq!((got.restarts.len(), got.retried.len()), (1, 2), "{status}");
        let starts: Vec<_> = origin.hits("/f")[before..]
            .iter()
            .map(|hit| hit.range_start())
            .collect();
        assert_eq!(starts, [None, Some(100_000), None], "{status}");
    }
}

#[tokio::test]
async fn credentials_and_patience_are_asked_for_before_the_whole() {
    let (origin, data) = (Origin::start(), body(200_000));
    let cut = || Reply::file(&data).cut_at(100_000);
    // Credentials: the whole file needs them too.
    origin.script("/f", [cut(), Reply::status(401)]);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
    assert_eq!(got.kind(), "http-401");
    assert_eq!(origin.hits("/f").len(), 2);
    // Patience: the same part again after the pause, and nothing is lost.
    let busy = Reply::status(503).with("retry-after", "1");
    origin.script("/g", [cut(), busy.clone(), Reply::file(&data)]);
    let got = fetch(&fetcher(""), request(&origin.url("/g"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!((got.bytes.len(), got.restarts.len()), (data.len(), 0));
    // An outage, which concerns parts and the whole alike, costs no byte either.
    let outage = Reply::status(503);
    let script = [
        cut(),
        outage.clone(),
        outage.clone(),
        outage,
        Reply::file(&data),
    ];
    origin.script("/h", script);
    let before = got.source.fetched();
    let got = fetch(&fetcher(""), request(&origin.url("/h"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    let starts: Vec<bool> = origin
        .hits("/h")
        .iter()
        .map(|h| h.range_start().is_some())
        .collect();
    assert_eq!(starts, [false, true, false, true, false], "{before}");
}

/// Story: 1. A part is refused, and the whole fails for another reason. 2. The part is refused again: what is
/// here is dropped, and no part is asked for any more.
#[tokio::test]
async fn a_part_that_is_refused_twice_is_dropped() {
    let (origin, data) = (Origin::start(), body(200_000));
    let script = [
        Reply::file(&data).cut_at(100_000),
        Reply::status(400),
        Reply::status(503),
        Reply::status(400),
        Reply::file(&data).refuses_ranges(400).cut_at(150_000),
        Reply::file(&data).refuses_ranges(400),
    ];
    origin.script("/f", script);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    let starts: Vec<bool> = origin
        .hits("/f")
        .iter()
        .map(|h| h.range_start().is_some())
        .collect();
    assert_eq!(starts, [false, true, false, true, false, false]);
}

/// Every byte of the stated size has arrived, but no end follows.
#[tokio::test]
async fn a_body_without_an_end_is_done_at_the_stated_size() {
    let (origin, data) = (Origin::start(), body(100_000));
    for (name, reply) in [
        ("close", Reply::file(&data).until_close()),
        ("chunked", Reply::file(&data).chunked()),
        (
            "longer",
            Reply::file(&data).until_close().ignores_if_range(),
        ),
    ] {
        origin.serve("/f", reply.stall_at(data.len() as u64));
        let before = origin.hits("/f").len();
        let mut request = request(&origin.url("/f"), Some(data.len()));
        request.deadline = Deadline::after(Duration::from_secs(10));
        let got = fetch(&fetcher(""), request).await;
        got.result.as_ref().expect(name);
        assert_eq!(got.bytes, data, "{name}");
        assert!(got.retried.is_empty(), "{name}");
        assert_eq!(origin.hits("/f").len(), before + 1, "{name}");
    }
}

#[tokio::test]
async fn a_wrong_part_is_not_used() {
    let (origin, data) = (Origin::start(), body(10_000));
    for lie in [
        "bytes 4000-9999/10000",
        "bytes 5001-9999/10000",
        "bytes 0-9999/10000",
        "bytes 5000-8999/10000",
        "bytes 5000-9999",
        "bytes 5000-4999/10000",
        "bytes 5000-10000/10000",
        "bytes */10000",
        "garbage",
        "",
    ] {
        let etag = "\"v1\"";
        let script = [
            Reply::file(&data).etag(etag).cut_at(5000),
            Reply::file(&data).etag(etag).content_range(lie),
            Reply::file(&data).etag(etag),
        ];
        origin.script("/f", script);
        let before = origin.hits("/f").len();
        let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
        got.result.as_ref().expect(lie);
        assert_eq!(got.bytes, data, "{lie}");
        assert_eq!(got.restarts.len(), 1, "{lie}");
        let hits = origin.hits("/f");
        assert_eq!(hits[before + 1].range_start(), Some(5000));
        assert_eq!(hits[before + 2].range_start(), None, "{lie}");
    }
}

#[tokio::test]
async fn parts_may_be_smaller_than_asked_for() {
    let (origin, data) = (Origin::start(), body(1_000_000));
    let reply = Reply::file(&data)
        .ranges_of_at_most(200_000)
        .cut_at(100_000);
    origin.serve("/f", reply);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    assert_eq!((got.source.attempts(), got.retried.len()), (6, 1));
}

#[tokio::test]
async fn a_416_is_looked_at() {
    let (origin, data) = (Origin::start(), body(10_000));
    origin.serve("/f", Reply::file(&data).etag("\"v1\""));
    // All of it is here, and only the origin knows.
    let mut all_here = request(&origin.url("/f"), None);
    all_here.offset = 10_000;
    all_here.validator = Some(validator(&origin, "\"v1\""));
    let got = run(fetcher("").open(all_here), data.clone()).await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    assert_eq!(got.source.total(), Some(10_000));
    // More is here than the origin has.
    let mut too_much = request(&origin.url("/f"), None);
    too_much.offset = 12_000;
    too_much.validator = Some(validator(&origin, "\"v1\""));
    let got = run(fetcher("").open(too_much), vec![0; 12_000]).await;
    got.result.expect("fetched");
    assert_eq!((got.bytes, got.restarts.len()), (data.clone(), 1));
    // It does not do parts at all.
    let script = [
        Reply::file(&data).cut_at(5000),
        Reply::file(&data)
            .unsatisfiable()
            .with("content-range", "none"),
        Reply::file(&data),
    ];
    origin.script("/f", script);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), None)).await;
    got.result.expect("fetched");
    assert_eq!((got.bytes, got.restarts.len()), (data, 1));
}

#[tokio::test]
async fn every_kind_of_cut_is_resumed() {
    let (origin, data) = (Origin::start(), body(200_000));
    for (name, reply) in [
        ("fin", Reply::file(&data).cut_at(90_000)),
        ("reset", Reply::file(&data).reset_at(90_000)),
        ("chunk", Reply::file(&data).chunked().cut_at(90_000)),
        ("close", Reply::file(&data).until_close().cut_at(90_000)),
        ("stall", Reply::file(&data).stall_at(90_000)),
    ] {
        origin.serve("/f", reply);
        let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
        got.result.as_ref().expect(name);
        assert_eq!(got.bytes, data, "{name}");
        assert!(got.restarts.is_empty(), "{name}");
        assert!(got.source.fetched() < 201_000, "{name}");
        let kind = if name == "stall" {
            "stalled"
        } else {
            "body-cut"
        };
        assert_eq!(got.retried_kinds(), [kind], "{name}");
        assert_eq!(got.retried[0].kind().class.as_str(), "network", "{name}");
    }
}

#[tokio::test]
async fn never_takes_more_than_stated() {
    let (origin, data) = (Origin::start(), body(10_000));
    let page = "<html>Log in to the network</html>";
    for (name, reply, kind) in [
        ("longer", Reply::file(&data), "wrong-length"),
        ("chunked", Reply::file(&data).chunked(), "too-long"),
        ("close", Reply::file(&data).until_close(), "too-long"),
        ("shorter", Reply::file(&data[..4000]), "wrong-length"),
        (
            "short chunked",
            Reply::file(&data[..4000]).chunked(),
            "wrong-length",
        ),
        (
            "portal",
            Reply::page(200, "text/html", page),
            "wrong-length",
        ),
    ] {
        origin.serve("/f", reply);
        let before = origin.hits("/f").len();
        let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(5000))).await;
        assert_eq!(got.kind(), kind, "{name}");
        assert!(got.bytes.len() <= 5000, "{name}");
        assert_eq!(origin.hits("/f").len(), before + 1, "{name}");
        if name == "portal" {
            let (text, detail) = (got.error().to_string(), got.error().detail());
            assert!(text.contains("content type `text/html`"), "{text}");
            let detail = detail.expect("a detail");
            assert!(
                detail.starts_with("body starts with `<html>Log in"),
                "{detail}"
            );
        }
    }
}

#[tokio::test]
async fn a_page_in_place_of_a_file_is_reported() {
    let origin = Origin::start();
    let page = "<html>sign=SECRET is too old</html>";
    origin.serve("/f", Reply::page(200, "text/html", page));
    let got = fetch(&fetcher(""), request(&origin.url("/f?sign=SECRET"), None)).await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, page.as_bytes());
    let suspicion = got.source.suspicion().expect("a suspicion");
    assert_eq!(
        (suspicion.kind.as_str(), suspicion.text),
        ("content type `text/html`", None)
    );
    origin.serve("/g", Reply::file(body(100)));
    let got = fetch(&fetcher(""), request(&origin.url("/g"), None)).await;
    assert_eq!(got.source.suspicion(), None);
}

#[tokio::test]
async fn a_part_with_another_total_starts_at_zero_without_ranges() {
    let (origin, data) = (Origin::start(), body(200_000));
    let cut = || Reply::file(&data).etag("\"v\"").cut_at(100_000);
    let lie = || {
        Reply::file(&data)
            .etag("\"v\"")
            .content_range("bytes 100000-199999/300000")
    };
    // 1. The whole file is what was announced.
    origin.script("/f", [cut(), lie(), Reply::file(&data)]);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!((got.bytes.len(), got.restarts.len()), (200_000, 1));
    assert_eq!(origin.hits("/f")[2].range_start(), None);
    // 2. The whole file is of another length too.
    origin.script("/g", [cut(), lie(), Reply::file(body(300_000))]);
    let got = fetch(&fetcher(""), request(&origin.url("/g"), Some(data.len()))).await;
    assert_eq!(got.kind(), "wrong-length");
    assert_eq!(origin.hits("/g").len(), 3);
}
