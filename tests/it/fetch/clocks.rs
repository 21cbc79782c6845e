//! Every wait has an end: the clocks of a fetch, the retries and their budget.

use std::net::TcpStream;

use super::*;

/// A listener whose queue is full: a connection to it neither comes about nor is refused.
struct Deaf {
    url: String,
    _socket: rustix::fd::OwnedFd,
    _queue: Vec<TcpStream>,
}

impl Deaf {
    fn start() -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
        bind(&socket, &any).expect("bound");
        listen(&socket, 0).expect("listening");
        let address: std::net::SocketAddr = getsockname(&socket)
            .expect("a name")
            .try_into()
            .expect("an address");
        let mut queue = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(50)) {
            queue.push(stream);
        }
        Self {
            url: format!("http://{address}/f"),
            _socket: socket,
            _queue: queue,
        }
    }
}

fn until(mut request: Request, limit: Duration) -> Request {
    request.deadline = Deadline::after(limit);
    request
}

const HALF: Duration = Duration::from_millis(500);

#[tokio::test]
async fn a_host_that_does_not_react_is_told_from_one_that_does_not_speak() {
    let (deaf, silent, garbled) = (Deaf::start(), Origin::start(), Origin::start());
    silent.serve("/f", Reply::silent());
    garbled.serve(
        "/f",
        Reply::raw([b"HTTP/1.1 200 OK\r\nx: ", &[b'a'; 5_000_000][..]].concat()),
    );
    let tls = silent.url("/f").replace("http:", "https:");
    // A TLS greeting is no HTTP request: the origin waits for the end of a line that does not come.
    for (url, kind, phase) in [
        (deaf.url.clone(), "connect-timeout", Phase::Connect),
        (tls, "tls-timeout", Phase::Tls),
        (silent.url("/f"), "first-byte-timeout", Phase::FirstByte),
        (garbled.url("/f"), "bad-answer", Phase::FirstByte),
        (
            "http://127.0.0.1:1024/f".to_owned(),
            "connect-failed",
            Phase::Connect,
        ),
        (
            "http://no-such-host.invalid/f".to_owned(),
            "resolve-failed",
            Phase::Resolve,
        ),
    ] {
        let mut source = fetcher("").open(request(&url, None));
        let start = Instant::now();
        match source.next().await.expect("an event") {
            Event::Retrying { error, attempt, .. } => {
                assert_eq!(error.kind().name, kind, "{error}");
                assert_eq!(error.context().phase, phase, "{error}");
                assert_eq!((attempt, error.context().attempts), (1, 1));
                let host = error.context().host.trim_end_matches(":80").to_owned();
                assert!(url.contains(&host), "{error}");
            }
            other => panic!("{other:?}"),
        }
        if kind != "resolve-failed" {
            assert!(start.elapsed() < Duration::from_secs(2), "{kind}");
        }
    }
}

#[tokio::test]
async fn nothing_lasts_past_the_deadline() {
    let (deaf, origin) = (Deaf::start(), Origin::start());
    let data = body(100_000);
    origin.serve("/silent", Reply::silent());
    origin.serve("/stalled", Reply::file(&data).stall_at(10));
    origin.serve(
        "/slow",
        Reply::file(&data).drip(100, Duration::from_millis(20)),
    );
    origin.serve(
        "/fast",
        Reply::file(&data)
            .drip(50_000, Duration::from_millis(1))
            .stall_at(99_999),
    );
    origin.serve("/busy", Reply::status(503));
    let urls = ["/silent", "/stalled", "/slow", "/fast", "/busy"].map(|path| origin.url(path));
    for url in urls.into_iter().chain([deaf.url.clone()]) {
        let patient = Config {
            connect_timeout: Duration::from_secs(60),
            first_byte_timeout: Duration::from_secs(60),
            stall: edgepush::fetch::config::Stall::default(),
            ..config("")
        };
        let start = Instant::now();
        let fetcher = Fetcher::new(patient).expect("a fetcher");
        let got = fetch(&fetcher, until(request(&url, Some(data.len())), HALF)).await;
        assert_eq!(got.kind(), "deadline", "{url}");
        assert!(start.elapsed() < HALF * 3, "{url}: {:?}", start.elapsed());
    }
}

#[tokio::test]
async fn a_deadline_says_what_happened_last() {
    let origin = Origin::start();
    origin.serve("/f", Reply::status(503));
    let got = fetch(&fetcher(""), until(request(&origin.url("/f"), None), HALF)).await;
    let text = Chain(got.error()).to_string();
    assert!(
        text.contains("status 503") && text.contains("attempts"),
        "{text}"
    );
    assert!(origin.hits("/f").len() > 2);
}

#[tokio::test]
async fn a_slow_body_is_stalled_and_a_steady_one_is_not() {
    let (origin, data) = (Origin::start(), body(3_000));
    let step = Duration::from_millis(20);
    for (name, reply, kinds) in [
        (
            "one byte and silence",
            Reply::file(&data).stall_at(1),
            vec!["stalled"],
        ),
        ("drip", Reply::file(&data).drip(1, step), vec!["stalled"]),
        // Half a kilobyte in each step where 1 KiB a second is enough: a machine with much else to do may be late.
        ("steady", Reply::file(&data).drip(100, step), vec![]),
    ] {
        origin.script("/f", [reply, Reply::file(&data)]);
        let start = Instant::now();
        let got = fetch(&fetcher(""), request(&origin.url("/f"), Some(data.len()))).await;
        got.result.as_ref().expect(name);
        assert_eq!(got.bytes, data);
        assert_eq!(got.retried_kinds(), kinds, "{name}");
        if !kinds.is_empty() {
            let waited = start.elapsed();
            let window = Duration::from_millis(400);
            assert!(
                waited >= window && waited < window * 3,
                "{name}: {waited:?}"
            );
            assert!(got.retried[0].context().done >= 1, "{name}");
        }
    }
}

#[tokio::test]
async fn a_consumer_that_takes_its_time_is_no_stall() {
    let (origin, data) = (Origin::start(), body(2_000_000));
    origin.serve("/f", Reply::file(&data));
    let mut source = fetcher("").open(request(&origin.url("/f"), Some(data.len())));
    let mut bytes = Vec::new();
    loop {
        match source.next().await.expect("an event") {
            Event::Bytes(more) => bytes.extend_from_slice(&more),
            Event::End => break,
            other => panic!("{other:?}"),
        }
        if bytes.len() < 500_000 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    assert_eq!(bytes, data);
}

#[tokio::test]
async fn obeys_retry_after() {
    let (origin, data) = (Origin::start(), body(100));
    let busy = Reply::status(503).with("retry-after", "1");
    origin.script("/f", [busy.clone(), Reply::file(&data)]);
    let start = Instant::now();
    let got = fetch(&fetcher(""), request(&origin.url("/f"), None)).await;
    got.result.expect("fetched");
    assert!(start.elapsed() >= Duration::from_secs(1));
    // There is no point in waiting for what comes after the deadline.
    origin.serve("/g", busy);
    let start = Instant::now();
    let got = fetch(&fetcher(""), until(request(&origin.url("/g"), None), HALF)).await;
    assert_eq!(got.kind(), "deadline");
    assert!(matches!(
        got.error().cause(),
        Cause::Deadline { waiting: true, .. }
    ));
    let message = got.error().to_string();
    assert!(message.contains("asked to wait for 1s"), "{message}");
    assert!(start.elapsed() < HALF);
    assert_eq!(origin.hits("/g").len(), 1);
}

#[tokio::test]
async fn a_dead_host_is_left_in_peace_by_all_files_together() {
    let origin = Origin::start();
    origin.refuse_connections(true);
    origin.serve("/f", Reply::file(body(10)));
    let eager = Config {
        retry: edgepush::fetch::config::Retry {
            base: Duration::ZERO,
            cap: Duration::ZERO,
            per_minute: 8,
        },
        ..config("")
    };
    let fetcher = Fetcher::new(eager).expect("a fetcher");
    let limit = Duration::from_millis(800);
    let one = |path: &str| fetch(&fetcher, until(request(&origin.url(path), None), limit));
    let (a, b, c) = tokio::join!(one("/f"), one("/g"), one("/h"));
    for got in [&a, &b, &c] {
        assert_eq!(got.kind(), "deadline");
    }
    assert_eq!(origin.connections(), 8);
    let attempts = a.source.attempts() + b.source.attempts() + c.source.attempts();
    assert_eq!(attempts, 8);
}

#[tokio::test]
async fn one_file_in_trouble_makes_eight_requests_a_minute() {
    let origin = Origin::start();
    origin.serve("/f", Reply::status(503));
    let eager = Config {
        retry: edgepush::fetch::config::Retry {
            base: Duration::ZERO,
            cap: Duration::ZERO,
            per_minute: 8,
        },
        ..config("")
    };
    let fetcher = Fetcher::new(eager).expect("a fetcher");
    let got = fetch(&fetcher, until(request(&origin.url("/f"), None), HALF)).await;
    assert_eq!(got.kind(), "deadline");
    assert_eq!(origin.hits("/f").len(), 8);
}

#[tokio::test]
async fn the_first_connection_may_be_reset_each_time() {
    let (origin, data) = (Origin::start(), body(1000));
    for path in ["/a", "/b", "/c"] {
        origin.script(path, [Reply::reset(), Reply::file(&data)]);
        let got = fetch(&fetcher(""), request(&origin.url(path), Some(1000))).await;
        got.result.expect("fetched");
        assert_eq!(got.bytes, data);
    }
}

#[tokio::test]
async fn keeps_to_the_bandwidth_and_takes_a_new_one_at_once() {
    let (origin, data) = (Origin::start(), body(3_000_000));
    origin.serve("/f", Reply::file(&data));
    let fetcher = fetcher("bandwidth = { rate = \"1MB\" }");
    let lift = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        fetcher.reload(config("")).expect("reloaded");
    };
    let start = Instant::now();
    let url = origin.url("/f");
    let (got, ()) = tokio::join!(fetch(&fetcher, request(&url, Some(data.len()))), lift);
    got.result.expect("fetched");
    assert_eq!(got.bytes, data);
    let took = start.elapsed();
    // 3 s at the old rate; one and a little with the new one.
    assert!(
        took >= Duration::from_millis(950) && took < Duration::from_millis(2500),
        "{took:?}"
    );
}
