//! Crowds: clients that are slow, clients that are many, and one push that is made ten thousand times.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::archive;
use crate::support::ens::{Ens, Scheme};
use crate::support::http;
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};

const ID: &str = "key-1";
const SECRET: &str = "secret-1";

/// A node with one access key.
fn node(api: &str) -> TestNode {
    node_with(&tempfile::tempdir().unwrap(), api)
}

fn node_with(keys: &tempfile::TempDir, api: &str) -> TestNode {
    let secret = keys.path().join("key.secret");
    let mut file = std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&secret)
        .unwrap();
    file.write_all(SECRET.as_bytes()).unwrap();
    let access = format!("access_keys = [{{ id = {ID:?}, secret_file = {secret:?} }}]");
    let mut node = TestNode::new(&format!("[api]\n{access}\n{api}\n"));
    node.start();
    node
}

/// One test may need more descriptors than a shell usually gives.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();
}

fn connect(address: SocketAddr, start: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(start.as_bytes()).unwrap();
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Tells whether the other side has closed a connection; what it had to say is read past.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut block = [0; 4096];
    loop {
        match stream.read(&mut block) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Sends `request` until it is answered by 200; an answer may also be that there is no place while a slow
/// body is being measured, even before the request is written.
fn insist(request: impl Fn() -> std::io::Result<http::Answer>) {
    let end = Instant::now() + PATIENCE;
    loop {
        let answer = request();
        if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
            return;
        }
        assert!(Instant::now() < end, "{answer:?}");
    }
}

#[test]
fn crowds_of_slow_clients_keep_nobody_waiting() {
    raise_descriptors();
    // No clock ends a slow client here.
    let node = node("head_timeout = \"1h\"\nbody_timeout = \"1h\"");
    let address = node.http.unwrap();
    let form = "Host: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 9000000\r\n\r\n";
    let key = format!("Authorization: ACS3-HMAC-SHA256 Credential={ID}\r\n");
    let unknown = format!("POST / HTTP/1.1\r\n{form}");
    let known = format!("POST / HTTP/1.1\r\n{key}{form}");
    let big = "x".repeat(80 * 1024);
    let mut crowd = Vec::new();
    for head in [&known, &unknown].repeat(10) {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        // The agent may answer, and close, before it has read all.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.write_all(big.as_bytes());
        crowd.push(stream);
    }
    let ens = Ens::new(address, ID, SECRET, Scheme::Header);
    let file = item("a", "1", "zip", b"x", "http://127.0.0.1:1/a.zip");
    let file = serde_json::to_string(&[file]).unwrap();
    let data = format!("{file}{}", " ".repeat(100 * 1024));
    let push = || {
        let signed = ens.sign(
            "POST",
            "PushApplicationData",
            &[("AppId", APP)],
            &[("Data", &data)],
        );
        let headers: Vec<_> = signed
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        http::tcp(
            address,
            "POST",
            &signed.target,
            &headers,
            signed.body.as_bytes(),
        )
    };
    for _ in 0..3 {
        // More than there are places.
        crowd.extend((0..200).map(|_| connect(address, &unknown)));
        crowd.extend((0..400).map(|_| connect(address, "")));
        let health = http::tcp(address, "GET", "/healthz", &[], b"").unwrap();
        assert_eq!(health.status, 200);
        insist(push);
        // The unix socket has places of its own, also for a large body.
        let document = json!({"app": APP, "files": [], "strategy": "x".repeat(100 * 1024)});
        let answer = node.ask("POST", "/v1/pushes", Some(&document));
        assert_eq!(answer.status, 400, "{answer:?}");
    }
}

#[test]
fn followers_over_tcp_leave_the_socket_its_own() {
    let node = node("");
    let address = node.http.unwrap();
    let follow = "GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut crowd: Vec<TcpStream> = (0..16)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(follow.as_bytes()).unwrap();
            let mut start = [0; 12];
            stream.read_exact(&mut start).unwrap();
            assert_eq!(&start, b"HTTP/1.1 200");
            stream
        })
        .collect();
    let refused = http::tcp(address, "GET", "/v1/events", &[], b"").unwrap();
    assert_eq!(refused.status, 429, "{refused:?}");
    let mut local = std::os::unix::net::UnixStream::connect(node.socket()).unwrap();
    local.write_all(follow.as_bytes()).unwrap();
    let mut start = [0; 12];
    local.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"HTTP/1.1 200");
    crowd.clear();
    insist(|| {
        let mut stream = TcpStream::connect(address)?;
        stream.write_all(follow.as_bytes())?;
        let mut start = [0; 12];
        stream.read_exact(&mut start)?;
        let status = if start.ends_with(b"200") { 200 } else { 429 };
        Ok(http::Answer {
            status,
            head: String::new(),
            body: Vec::new(),
        })
    });
}

#[test]
fn slow_clients_go_by_their_time_limit_and_good_ones_are_answered() {
    raise_descriptors();
    let node = node("");
    let address = node.http.unwrap();
    let mut silent: Vec<TcpStream> = (0..700).map(|_| connect(address, "")).collect();
    let mut dripping: Vec<TcpStream> = (0..20)
        .map(|_| connect(address, "GET / HTTP/1.1\r\nX: "))
        .collect();
    let body = "POST / HTTP/1.1\r\nHost: h\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 100000\r\n\r\n";
    dripping.extend((0..20).map(|_| connect(address, body)));
    let end = Instant::now() + PATIENCE;
    let ens = Ens::new(address, ID, SECRET, Scheme::Header);
    while !silent.is_empty() || !dripping.is_empty() {
        assert!(
            Instant::now() < end,
            "still open: {} silent, {} dripping",
            silent.len(),
            dripping.len()
        );
        let answer = ens.call("DescribeDataPushResult", &[("AppId", APP)]);
        assert_eq!(answer.status, 200);
        for stream in &mut dripping {
            let _ = stream.write(b"x");
        }
        silent.retain_mut(|stream| !is_closed(stream));
        dripping.retain_mut(|stream| !is_closed(stream));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Sends requests over one connection that stays open.
struct KeptOpen {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl KeptOpen {
    fn ask(&mut self, ens: &Ens, action: &str, parameters: &[(&str, &str)]) -> Value {
        let signed = ens.sign("POST", action, parameters, &[]);
        let headers: String = signed
            .headers
            .iter()
            .map(|(n, v)| format!("{n}: {v}\r\n"))
            .collect();
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: 0\r\n\r\n",
            signed.target, ens.address
        );
        self.stream.write_all(head.as_bytes()).unwrap();
        loop {
            if let Some(body) = self.whole_answer() {
                return serde_json::from_slice(&body).unwrap();
            }
            let mut block = [0; 4096];
            let n = self.stream.read(&mut block).unwrap();
            assert!(n > 0, "the connection was closed");
            self.buffer.extend_from_slice(&block[..n]);
        }
    }

    fn whole_answer(&mut self) -> Option<Vec<u8>> {
        let end = self.buffer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
        let head = String::from_utf8_lossy(&self.buffer[..end]);
        let length = head
            .lines()
            .find_map(|l| l.strip_prefix("content-length: "))?;
        let whole = end + length.parse::<usize>().unwrap();
        (self.buffer.len() >= whole).then(|| {
            let body = self.buffer[end..whole].to_vec();
            self.buffer.drain(..whole);
            body
        })
    }
}

#[test]
fn a_short_secret_is_warned_of() {
    let keys = tempfile::tempdir().unwrap();
    let node = node_with(&keys, "");
    let doctor = std::process::Command::new(env!("CARGO_BIN_EXE_edgepush"))
        .args(["doctor", "--config"])
        .arg(node.config_file())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        said.contains("the secret of access key `key-1` is easily guessed"),
        "{said}"
    );
    assert!(node.log().contains("short_secret"));
}

#[test]
fn ten_thousand_equal_pushes_are_one_publication_and_take_no_memory() {
    const PUSHES: usize = 10_000;
    const CLIENTS: usize = 16;
    let node = node("rate = { per_second = 0 }");
    let origin = Origin::start();
    let zip = archive::zip(&archive::site("1", 3));
    origin.serve("/a.zip", Reply::file(&zip));
    let file = item("once", "1", "zip", &zip, &origin.url("/a.zip"));
    let data = serde_json::to_string(&[file]).unwrap();
    let ens = Ens::new(node.http.unwrap(), ID, SECRET, Scheme::Header);
    let push_some = |count: usize| -> Vec<u64> {
        let mut connection = KeptOpen {
            stream: TcpStream::connect(ens.address).unwrap(),
            buffer: Vec::new(),
        };
        (0..count)
            .map(|_| {
                let parameters = [("AppId", APP), ("Data", data.as_str())];
                let answer = connection.ask(&ens, "PushApplicationData", &parameters);
                answer["PushResults"]["PushResult"][0]["ResultCode"]
                    .as_u64()
                    .unwrap_or_else(|| panic!("{answer}"))
            })
            .collect()
    };
    assert_eq!(push_some(1), [0]);
    node.finish("once", "1");
    push_some(500);
    let before = node.memory().0;
    let codes: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| scope.spawn(|| push_some(PUSHES / CLIENTS)))
            .collect();
        clients
            .into_iter()
            .flat_map(|c| c.join().unwrap())
            .collect()
    });
    assert!(codes.len() == PUSHES && codes.iter().all(|code| *code == 100));
    let grown = node.memory().0.saturating_sub(before);
    assert!(grown < 24 << 20, "{before} bytes, and {grown} more");
    let file = node.file("once", "1").unwrap();
    let events = node.ask(
        "GET",
        &format!("/v1/files/{}/events?all=true", file["id"]),
        None,
    );
    let published = |e: &&Value| e["type"] == "published";
    let events = events.json()["events"].as_array().unwrap().clone();
    assert_eq!(events.iter().filter(published).count(), 1);
    assert_eq!(origin.hits("/a.zip").len(), 1);
}
