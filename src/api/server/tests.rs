//! The shell around hyper, spoken to over raw sockets: clients that are slow, rude, many, or too wordy.

use std::time::Instant;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::api::body::{Bodies, read_form};
use crate::api::error::{ens_error, request_id};
use crate::wire::parameters::Parameters;

const PATIENCE: Patience = Patience {
    head: Duration::from_millis(500),
    write: Duration::from_millis(500),
};

/// A server that answers forms with what it read of them.
struct Served {
    address: SocketAddr,
    drain: CancellationToken,
    ended: tokio::task::JoinHandle<()>,
}

impl Served {
    async fn start(places: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = CancellationToken::new();
        let router = Router::new()
            .route("/", get(echo).post(echo))
            .route("/slow", get(slow))
            .route("/endless", get(endless))
            .route(
                "/whoami",
                get(|Extension(peer): Extension<Peer>| async move { format!("{peer:?}") }),
            );
        let run = run(listener, router, places, PATIENCE, drain.clone());
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

async fn echo(request: axum::extract::Request) -> axum::response::Response {
    let (parts, body) = request.into_parts();
    let form = match read_form(&parts.headers, body, &Bodies::new(Duration::from_secs(1))).await {
        Ok(form) => form,
        Err(refusal) => return ens_error(&refusal, &request_id(), ""),
    };
    let query = parts.uri.query().unwrap_or("").to_owned();
    match Parameters::with_form(&query, form.reader) {
        Ok(p) => p.required("Data").map(str::len).map_or_else(
            |refusal| ens_error(&refusal, &request_id(), ""),
            |len| format!("data {len}").into_response(),
        ),
        Err(refusal) => ens_error(&refusal, &request_id(), ""),
    }
}

async fn slow() -> &'static str {
    tokio::time::sleep(Duration::from_millis(800)).await;
    "slow"
}

async fn endless() -> Body {
    let chunk = bytes::Bytes::from(vec![b'x'; 64 * 1024]);
    Body::from_stream(futures_util::stream::repeat_with(move || {
        Ok::<_, io::Error>(chunk.clone())
    }))
}

/// Checks that `answer` is an error that the vendor's clients can read, and returns its code.
#[track_caller]
fn readable_error(answer: &str, status: StatusCode) -> String {
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .unwrap_or_else(|| panic!("no answer: {answer:?}"));
    assert!(
        head.starts_with(&format!("HTTP/1.1 {}", status.as_u16())),
        "{head}"
    );
    assert!(
        head.to_lowercase()
            .contains("content-type: application/json"),
        "{head}"
    );
    let body: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["RequestId"].as_str().unwrap().len(), 36);
    assert!(!body["Message"].as_str().unwrap().is_empty());
    body["Code"].as_str().unwrap().to_owned()
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
    for (request, status, code) in [
        (long.as_str(), StatusCode::URI_TOO_LONG, "RequestUriTooLong"),
        (
            &longer,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "RequestHeadTooLarge",
        ),
        (
            &header,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "RequestHeadTooLarge",
        ),
        (
            &headers,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "RequestHeadTooLarge",
        ),
        (
            "no http at all\r\n\r\n",
            StatusCode::BAD_REQUEST,
            "BadRequest",
        ),
        (
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            StatusCode::BAD_REQUEST,
            "BadRequest",
        ),
        (
            "GET  / HTTP/1.1\r\n\r\n",
            StatusCode::BAD_REQUEST,
            "BadRequest",
        ),
        (
            "GET / HTTP/9.1\r\n\r\n",
            StatusCode::BAD_REQUEST,
            "BadRequest",
        ),
        (
            "POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            StatusCode::BAD_REQUEST,
            "BadRequest",
        ),
    ] {
        let answer = served.ask(request.as_bytes()).await;
        assert_eq!(readable_error(&answer, status), code);
    }
    let good = format!(
        "GET /?Data={} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "x".repeat(65_000)
    );
    assert!(served.ask(good.as_bytes()).await.ends_with("data 65000"));
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
    assert!(first[..n].ends_with(b"data 1"));
    stream.write_all(b"nonsense\r\n\r\n").await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert_eq!(
        readable_error(&answer, StatusCode::BAD_REQUEST),
        "BadRequest"
    );
}

#[tokio::test]
async fn takes_forms_whole_chunked_and_big() {
    let served = Served::start(64).await;
    let form = "Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\n";
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: h\r\n{form}Transfer-Encoding: chunked\r\n\r\n3\r\nDat\r\n4\r\na=ab\r\n1\r\n%\r\n2\r\n20\r\n0\r\n\r\n"
    );
    assert!(served.ask(chunked.as_bytes()).await.ends_with("data 3"));
    let data = "%7B".repeat(8 << 20);
    let big = format!(
        "POST / HTTP/1.1\r\nHost: h\r\n{form}Content-Length: {}\r\n\r\nData={data}",
        data.len() + 5
    );
    assert!(
        served
            .ask(big.as_bytes())
            .await
            .ends_with(&format!("data {}", 8 << 20))
    );
    let bigger = format!(
        "POST / HTTP/1.1\r\nHost: h\r\n{form}Content-Length: {}\r\n\r\nData={data}{data}",
        2 * data.len() + 5
    );
    let answer = served.ask(bigger.as_bytes()).await;
    assert_eq!(
        readable_error(&answer, StatusCode::PAYLOAD_TOO_LARGE),
        "RequestTooLarge"
    );
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
        assert!(answer.ends_with("data 1"), "{answer}");
        assert!(start.elapsed() < PATIENCE.head);
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
    assert_eq!(
        readable_error(&answer, StatusCode::REQUEST_TIMEOUT),
        "RequestTimeout"
    );
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
    tokio::time::sleep(PATIENCE.write * 4).await;
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"));
    assert!(start.elapsed() < Duration::from_secs(8));
}

#[tokio::test]
async fn idle_connections_make_room_and_those_at_work_do_not() {
    let served = Served::start(8).await;
    let mut at_work = served.connect().await;
    at_work
        .write_all(b"GET /slow HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let mut crowd = Vec::new();
    let start = Instant::now();
    for _ in 0..100 {
        crowd.push(served.connect().await);
        if crowd.len() % 25 == 0 {
            let answer = served
                .ask(b"GET /?Data=x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
                .await;
            assert!(answer.ends_with("data 1"), "{answer}");
        }
    }
    assert!(start.elapsed() < PATIENCE.head * 4, "{:?}", start.elapsed());
    assert!(read_to_end(&mut at_work).await.ends_with("slow"));
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
