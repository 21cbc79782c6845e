//! The shell around hyper, spoken to over raw sockets: clients that are slow, rude, many, or too
//! wordy.

use std::time::Instant;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use futures_util::stream::{self, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::http::ApiError;
use crate::http::body::{Bodies, read_whole};

const PATIENCE: Duration = Duration::from_millis(500);
const MAX_BODY: usize = 25 << 20;

fn settings(connections: usize) -> Settings {
    Settings {
        connections,
        head: PATIENCE,
        write: PATIENCE,
        bodies: Bodies::new(Duration::from_secs(1)),
        health: &["/health"],
        unreadable: |status| {
            let mut answer = hyper::Response::new(format!("unreadable: {}", status.as_u16()));
            *answer.status_mut() = status;
            answer
        },
    }
}

/// A server that answers a request with how much it read of it.
struct Served {
    address: SocketAddr,
    drain: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(connections: usize) -> Self {
        Self::start_with(settings(connections)).await
    }

    /// Starts a server whose clients may take as long as they like.
    async fn start_patient(connections: usize) -> Self {
        let ever = Duration::from_secs(3600);
        Self::start_with(Settings {
            head: ever,
            bodies: Bodies::new(ever),
            ..settings(connections)
        })
        .await
    }

    async fn start_with(settings: Settings) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = CancellationToken::new();
        let router = Router::new()
            .route("/", get(echo).post(echo))
            .route("/slow", get(slow))
            .route("/hang", get(hang))
            .route("/health", get(async || "well"))
            .route("/endless", get(endless))
            .route(
                "/whoami",
                get(|Extension(peer): Extension<Peer>| async move { format!("{peer:?}") }),
            );
        let run = serve(listener, router, settings, drain.clone());
        Self {
            address,
            drain,
            ended: tokio::spawn(run),
        }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request` and reads to the end of the connection.
    async fn ask(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        let (mut reader, mut writer) = stream.split();
        let send = async {
            let _ = writer.write_all(request).await;
        };
        let read = read_to_end(&mut reader);
        tokio::join!(send, read).1
    }
}

async fn read_to_end(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut answer = Vec::new();
    let read = stream.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(10), read)
        .await
        .expect("the server ends the connection")
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn echo(
    Extension(bodies): Extension<Bodies>,
    request: axum::extract::Request,
) -> axum::response::Response {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or("").len();
    match read_whole(body, MAX_BODY, &bodies).await {
        Ok((bytes, _)) => format!("read {}", query + bytes.len()).into_response(),
        Err(error) => ApiError::from(error).into_response(),
    }
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_millis(800)).await;
    "slow"
}

/// Begins an answer and never ends it.
async fn hang() -> Body {
    let first = stream::once(async { Ok::<_, io::Error>(bytes::Bytes::from_static(b"x")) });
    Body::from_stream(first.chain(stream::pending()))
}

async fn endless() -> Body {
    let chunk = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
    Body::from_stream(stream::repeat_with(move || {
        Ok::<_, io::Error>(chunk.clone())
    }))
}

/// Checks that `answer` has `status` and a body, and returns the body.
#[track_caller]
fn body_of(answer: &str, status: StatusCode) -> &str {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(
        head.starts_with(&format!("HTTP/1.1 {}", status.as_u16())),
        "{head}"
    );
    body
}

#[track_caller]
fn is_unreadable(answer: &str, status: StatusCode) {
    let want = format!("unreadable: {}", status.as_u16());
    assert_eq!(body_of(answer, status), want);
}

#[tokio::test]
async fn what_hyper_answers_by_itself_becomes_readable() {
    let served = Served::start(64).await;
    let long = format!(
        "GET /?Data={} HTTP/1.1\r\nHost: h\r\n\r\n",
        "x".repeat(70_000)
    );
    let longer = format!(
        "GET /?Data={} HTTP/1.1\r\nHost: h\r\n\r\n",
        "x".repeat(5 << 20)
    );
    let header = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(200_000));
    let headers = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(200));
    for (request, status) in [
        (long.as_str(), StatusCode::URI_TOO_LONG),
        (&longer, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        (&header, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        (&headers, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        ("no http at all\r\n\r\n", StatusCode::BAD_REQUEST),
        (
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            StatusCode::BAD_REQUEST,
        ),
        ("GET  / HTTP/1.1\r\n\r\n", StatusCode::BAD_REQUEST),
        ("GET / HTTP/9.1\r\n\r\n", StatusCode::BAD_REQUEST),
        ("GET / HTTP/1.1\r\n\r\n", StatusCode::BAD_REQUEST),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            StatusCode::BAD_REQUEST,
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            StatusCode::BAD_REQUEST,
        ),
    ] {
        let answer = served.ask(request.as_bytes()).await;
        is_unreadable(&answer, status);
    }
    let good = format!(
        "GET /?Data={} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "x".repeat(65_000)
    );
    assert!(served.ask(good.as_bytes()).await.ends_with("read 65005"));
}

#[tokio::test]
async fn a_bad_request_after_a_good_one_is_answered_too() {
    let served = Served::start(64).await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET /?Data=x HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let mut first = [0; 1024];
    let n = stream.read(&mut first).await.unwrap();
    assert!(first[..n].ends_with(b"read 6"));
    stream.write_all(b"nonsense\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    is_unreadable(&answer, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn reads_bodies_whole_chunked_and_big() {
    let served = Served::start(64).await;
    let head = "POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n";
    let chunked = format!(
        "{head}Transfer-Encoding: chunked\r\n\r\n3\r\nDat\r\n4\r\na=ab\r\n1\r\n%\r\n2\r\n20\r\n0\r\n\r\n"
    );
    assert!(served.ask(chunked.as_bytes()).await.ends_with("read 10"));
    let big = "x".repeat(MAX_BODY);
    let request = format!("{head}Content-Length: {MAX_BODY}\r\n\r\n{big}");
    let answer = served.ask(request.as_bytes()).await;
    assert!(answer.ends_with(&format!("read {MAX_BODY}")));
    let longer = 2 * MAX_BODY;
    let request = format!("{head}Content-Length: {longer}\r\n\r\n{big}{big}");
    let answer = served.ask(request.as_bytes()).await;
    let body = body_of(&answer, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(body.contains("too large"), "{body}");
}

#[tokio::test]
async fn slow_heads_end_while_good_requests_are_answered() {
    let served = Served::start(64).await;
    let start = Instant::now();
    let mut silent = served.connect().await;
    let mut dripping = served.connect().await;
    let drip = async {
        for byte in b"GET /?Data=x HTTP/1.1\r\nHost: h\r\nX: ".iter().cycle() {
            if dripping.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let good = async {
        let answer = served
            .ask(b"GET /?Data=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .await;
        assert!(answer.ends_with("read 6"), "{answer}");
        assert!(start.elapsed() < PATIENCE);
    };
    tokio::join!(drip, read_to_end(&mut silent), good);
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_dripping_body_is_answered_and_ended() {
    let served = Served::start(64).await;
    let start = Instant::now();
    let mut stream = served.connect().await;
    stream
        .write_all(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 1000\r\n\r\nData=")
        .await
        .unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let drip = tokio::spawn(async move {
        while writer.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut answer = [0; 1024];
    let n = reader.read(&mut answer).await.unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
    let answer = String::from_utf8_lossy(&answer[..n]);
    body_of(&answer, StatusCode::REQUEST_TIMEOUT);
    drip.abort();
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_left() {
    let served = Served::start(64).await;
    let mut stream = served.connect().await;
    stream
        .write_all(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let start = Instant::now();
    // Nothing is read until the server must have given up; what the kernel holds is finite then.
    tokio::time::sleep(PATIENCE * 4).await;
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"));
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn idle_connections_end_by_their_clock_and_those_at_work_do_not() {
    let served = Served::start(8).await;
    let mut at_work = served.connect().await;
    at_work
        .write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut crowd = Vec::new();
    for _ in 0..21 {
        crowd.push(served.connect().await);
    }
    let answer = served
        .ask(b"GET /?Data=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.ends_with("read 6"), "{answer}");
    assert!(read_to_end(&mut at_work).await.ends_with("slow"));
}

const GOOD: &[u8] = b"GET /?Data=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn silent_clients_make_room_and_requests_in_progress_do_not() {
    let served = Served::start_patient(8).await;
    let mut at_work = served.connect().await;
    at_work
        .write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut crowd = Vec::new();
    for _ in 0..100 {
        let mut silent = served.connect().await;
        silent.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        crowd.push(silent);
    }
    assert!(served.ask(GOOD).await.ends_with("read 6"));
    assert!(read_to_end(&mut at_work).await.ends_with("slow"));
    // The first ones went.
    read_to_end(&mut crowd[0]).await;
}

/// Connects from another address of this machine.
async fn connect_from(served: &Served, host: u8) -> TcpStream {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, host], 0).into()).unwrap();
    socket.connect(served.address).await.unwrap()
}

/// Sends a request whose answer never ends, and waits for its beginning; or returns another answer.
async fn hang_from(served: &Served, host: u8) -> Result<TcpStream, String> {
    let mut stream = connect_from(served, host).await;
    let request = b"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n";
    stream.write_all(request).await.unwrap();
    let mut start = [0; 12];
    stream.peek(&mut start).await.unwrap();
    if start.ends_with(b"200") {
        return Ok(stream);
    }
    Err(read_to_end(&mut stream).await)
}

#[tokio::test]
async fn one_address_has_a_share_and_health_checks_have_their_own_places() {
    let served = Served::start_patient(8).await;
    let mut held = Vec::new();
    for _ in 0..2 {
        held.push(hang_from(&served, 1).await.unwrap());
    }
    // What follows is beyond the share of this address.
    let refused = hang_from(&served, 1).await.unwrap_err();
    is_unreadable(&refused, StatusCode::SERVICE_UNAVAILABLE);
    is_unreadable(&served.ask(GOOD).await, StatusCode::SERVICE_UNAVAILABLE);
    assert!(served.ask(HEALTH).await.ends_with("well"));
    for host in [2, 2, 3, 3, 4, 4] {
        let mut stream = connect_from(&served, host).await;
        stream.write_all(GOOD).await.unwrap();
        assert!(read_to_end(&mut stream).await.ends_with("read 6"));
        held.push(hang_from(&served, host).await.unwrap());
    }
    // Every place is busy now.
    let mut stream = connect_from(&served, 5).await;
    stream.write_all(GOOD).await.unwrap();
    is_unreadable(
        &read_to_end(&mut stream).await,
        StatusCode::SERVICE_UNAVAILABLE,
    );
    assert!(served.ask(HEALTH).await.ends_with("well"));
    drop(held);
    let end = Instant::now() + Duration::from_secs(10);
    while !served.ask(GOOD).await.ends_with("read 6") {
        assert!(Instant::now() < end, "the places are free again");
    }
}

#[tokio::test]
async fn a_trickling_body_makes_room_while_others_wait() {
    let served = Served::start_patient(8).await;
    let head = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\nData=";
    let mut crowd = Vec::new();
    for _ in 0..2 {
        let mut stream = served.connect().await;
        stream.write_all(head).await.unwrap();
        crowd.push(stream);
    }
    let end = Instant::now() + Duration::from_secs(10);
    while !served.ask(GOOD).await.ends_with("read 6") {
        assert!(Instant::now() < end, "a good request is answered");
    }
    let mut answer = [0; 64];
    let mut cut = 0;
    for stream in &mut crowd {
        if let Ok(n) = stream.try_read(&mut answer) {
            assert!(answer[..n].starts_with(b"HTTP/1.1 408"));
            cut += 1;
        }
    }
    assert!(cut > 0, "a slow one was answered");
}

#[tokio::test]
async fn drains_what_is_at_work_and_takes_nothing_more() {
    let served = Served::start(8).await;
    let mut at_work = served.connect().await;
    at_work
        .write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        .await
        .unwrap();
    let _idle = served.connect().await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    served.drain.cancel();
    assert!(read_to_end(&mut at_work).await.ends_with("slow"));
    tokio::time::timeout(Duration::from_secs(2), served.ended)
        .await
        .unwrap()
        .unwrap();
    assert!(TcpStream::connect(served.address).await.is_err());
}

#[tokio::test]
async fn tells_who_is_at_the_other_end() {
    let served = Served::start(8).await;
    let answer = served
        .ask(b"GET /whoami HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await;
    assert!(answer.contains("Address(127.0.0.1:"), "{answer}");
    let peer = |text: &str| Peer::Address(text.parse().unwrap()).is_on_this_machine();
    assert!(peer("127.0.0.1:1") && peer("[::1]:1") && peer("[::ffff:127.0.0.1]:1"));
    assert!(!peer("10.0.0.1:1") && !peer("[2001:db8::1]:1"));
    assert!(Peer::Local(None).is_on_this_machine());
}
