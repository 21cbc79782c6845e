//! The fetch station as a library, against an origin that misbehaves.

use std::sync::Arc;
use std::time::{Duration, Instant};

use edgepush::datafile::{AppId, SourceUrl};
use edgepush::fetch::{
    Cause, Config, Error, Event, Fetcher, Phase, Request, Retries, Source, Validator,
};
use edgepush::sys::Chain;
use edgepush::sys::deadline::Deadline;
use tokio_util::sync::CancellationToken;

use crate::support::origin::{Gate, Origin, Reply};

mod clocks;
mod resume;
mod routes;
mod secrets;
mod servers;

/// A fetcher that may fetch from this machine and loses patience in milliseconds.
fn fetcher(more: &str) -> Arc<Fetcher> {
    Fetcher::new(config(more)).expect("a fetcher")
}

fn config(more: &str) -> Config {
    let text = format!(
        r#"
        connect_timeout = "500ms"
        tls_timeout = "300ms"
        first_byte_timeout = "300ms"
        allow = ["127.0.0.0/8"]
        stall = {{ rate = "1KiB", window = "400ms" }}
        retry = {{ base = "2ms", cap = "20ms", per_minute = 1000 }}
        {more}
        "#
    );
    toml::from_str(&text).expect("a configuration")
}

fn request(url: &str, size: Option<usize>) -> Request {
    Request {
        url: SourceUrl::parse(url).expect("a url"),
        app: AppId::parse("app").expect("an id"),
        size: size.map(|n| n as u64),
        offset: 0,
        validator: None,
        deadline: Deadline::after(Duration::from_secs(20)),
        cancel: CancellationToken::new(),
        proven: true,
        from_origin: false,
        allow_local: false,
        attempts: Arc::default(),
        fetched: Arc::default(),
        retries: Retries::default(),
    }
}

fn body(length: usize) -> Vec<u8> {
    let mut state = 12345u32;
    (0..length)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        })
        .collect()
}

/// What came of a fetch.
struct Fetched {
    bytes: Vec<u8>,
    restarts: Vec<String>,
    retried: Vec<Error>,
    result: Result<(), Error>,
    source: Source,
}

impl Fetched {
    fn error(&self) -> &Error {
        self.result.as_ref().expect_err("a failed fetch")
    }

    fn kind(&self) -> &'static str {
        self.error().kind().name
    }

    fn retried_kinds(&self) -> Vec<&'static str> {
        self.retried.iter().map(|e| e.kind().name).collect()
    }
}

async fn fetch(fetcher: &Arc<Fetcher>, request: Request) -> Fetched {
    run(fetcher.open(request), Vec::new()).await
}

/// Takes events until the end; `bytes` are those before the start.
async fn run(mut source: Source, mut bytes: Vec<u8>) -> Fetched {
    let (mut restarts, mut retried) = (Vec::new(), Vec::new());
    let result = loop {
        match source.next().await {
            Ok(Event::Bytes(more)) => bytes.extend_from_slice(&more),
            Ok(Event::Retrying { error, .. }) => retried.push(error),
            Ok(Event::Restart { why }) => {
                bytes.clear();
                restarts.push(why);
            }
            Ok(Event::End) => break Ok(()),
            Err(error) => break Err(error),
        }
    };
    Fetched {
        bytes,
        restarts,
        retried,
        result,
        source,
    }
}

#[tokio::test]
async fn fetches_a_file_as_sent() {
    let (origin, data) = (Origin::start(), body(300_000));
    // The header lies about nothing: the bytes are a gzip file, and must stay one.
    let reply = Reply::file(&data).with("content-encoding", "gzip");
    origin.serve("/a.tar.gz", reply);
    let url = origin.url("/a.tar.gz?sign=SECRET");
    let got = fetch(&fetcher(""), request(&url, Some(data.len()))).await;
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    assert_eq!((got.source.attempts(), got.source.fetched()), (1, 300_000));
    let hits = origin.hits("/a.tar.gz");
    assert_eq!(hits[0].method, "GET");
    assert_eq!(hits[0].target, "/a.tar.gz?sign=SECRET");
    assert_eq!(hits[0].header("accept-encoding"), Some("identity"));
    assert_eq!(hits[0].header("range"), None);
    assert!(
        hits[0]
            .header("user-agent")
            .is_some_and(|a| a.starts_with("edgepush/"))
    );
}

#[tokio::test]
async fn resumes_after_cuts_without_a_repeated_byte() {
    let (origin, data) = (Origin::start(), body(3_000_000));
    let cuts = [300_000, 1_500_000, 2_970_000];
    let mut reply = Reply::file(&data).etag("\"v1\"");
    for cut in cuts {
        reply = reply.cut_at(cut);
    }
    origin.serve("/f", reply);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    assert!(got.restarts.is_empty());
    assert_eq!(got.retried_kinds(), ["body-cut"; 3]);
    assert_eq!(got.source.fetched(), 3_000_000);
    let hits = origin.hits("/f");
    let starts: Vec<_> = hits.iter().map(|h| h.range_start()).collect();
    assert_eq!(
        starts,
        [None, Some(300_000), Some(1_500_000), Some(2_970_000)]
    );
    assert!(
        hits[1..]
            .iter()
            .all(|h| h.header("if-range") == Some("\"v1\""))
    );
    let error = &got.retried[1];
    assert_eq!(error.context().phase, Phase::Body);
    assert_eq!(
        (error.context().done, error.context().attempts),
        (1_500_000, 2)
    );
}

#[tokio::test]
async fn asks_once_for_what_is_not_there() {
    let origin = Origin::start();
    for (status, kind) in [
        (401, "http-401"),
        (403, "http-403"),
        (404, "http-404"),
        (410, "http-410"),
        (400, "http-4xx"),
        (304, "http-other"),
    ] {
        let path = format!("/{status}");
        origin.serve(&path, Reply::status(status));
        let got = fetch(&fetcher(""), request(&origin.url(&path), None)).await;
        assert_eq!(got.kind(), kind);
        assert_eq!(origin.hits(&path).len(), 1, "{status}");
    }
}

#[tokio::test]
async fn tries_again_what_may_pass() {
    let (origin, data) = (Origin::start(), body(1000));
    let script = [
        Reply::status(503),
        Reply::status(500),
        // Or the next request would go over the kept connection, and be made again at once.
        Reply::status(429).with("connection", "close"),
        Reply::close(),
        Reply::reset(),
        Reply::silent(),
        Reply::raw("HTTP/9 what?\r\n\r\n"),
        Reply::file(&data),
    ];
    origin.script("/f", script);
    let got = fetch(&fetcher(""), request(&origin.url("/f"), None)).await;
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    assert_eq!(
        got.retried_kinds(),
        [
            "http-5xx",
            "http-5xx",
            "http-429",
            "no-answer",
            "no-answer",
            "first-byte-timeout",
            "bad-answer"
        ]
    );
}

#[tokio::test]
async fn ends_at_once_when_canceled() {
    let (origin, gate) = (Origin::start(), Gate::new());
    origin.serve("/held", Reply::file(body(1000)).hold_at(500, &gate));
    origin.serve("/busy", Reply::status(503).with("retry-after", "10"));
    origin.serve("/silent", Reply::silent());
    for path in ["/held", "/busy", "/silent"] {
        let patient = Config {
            first_byte_timeout: Duration::from_secs(30),
            ..config("")
        };
        let request = request(&origin.url(path), None);
        let cancel = request.cancel.clone();
        let start = Instant::now();
        let fetcher = Fetcher::new(patient).expect("a fetcher");
        let (got, ()) = tokio::join!(fetch(&fetcher, request), async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            cancel.cancel();
        });
        assert!(got.error().is_canceled(), "{path}: {}", got.error());
        assert!(start.elapsed() < Duration::from_millis(900), "{path}");
    }
}
