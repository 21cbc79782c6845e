//! Against servers that others wrote, and over links that throttle, lose, swallow and go down.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::thread;

use crate::support::lab::{FAR, Lab, inside, runs};
use crate::support::nginx::{Server, nginx};

use super::*;

/// Says that a test did not run; under CI that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
}

#[tokio::test]
async fn nginx_is_resumed_and_a_changed_file_is_not() {
    let (dir, data) = (tempfile::tempdir().expect("a directory"), body(2_000_000));
    fs::write(dir.path().join("a.tar.gz"), &data).expect("written");
    let Some(server) = nginx(dir.path(), None, "") else {
        return skip("nginx is not installed");
    };
    let url = server.url("/a.tar.gz?sign=SECRET");
    let whole = fetch(&fetcher(""), request(&url, Some(data.len()))).await;
    whole.result.expect("fetched");
    assert_eq!(whole.bytes, data);
    let validator = whole.source.validator().cloned();
    assert!(validator.as_ref().is_some_and(|v| v.etag.is_some()));
    let rest = |offset: usize, size: Option<usize>| Request {
        offset: offset as u64,
        validator: validator.clone(),
        ..request(&url, size)
    };
    for percent in [10, 50, 99] {
        let offset = data.len() * percent / 100;
        let source = fetcher("").open(rest(offset, Some(data.len())));
        let got = run(source, data[..offset].to_vec()).await;
        got.result.expect("fetched");
        assert_eq!(got.bytes, data);
        assert_eq!(got.source.fetched(), (data.len() - offset) as u64);
    }
    // All is here, and only the origin knows: 416.
    let got = run(fetcher("").open(rest(data.len(), None)), data.clone()).await;
    got.result.expect("fetched");
    assert_eq!((got.bytes.len(), got.source.fetched()), (data.len(), 0));
    // Another file of the same length. An ETag of nginx is made of length and second: in the same second only the digest
    // of the whole would tell.
    let new = vec![7; data.len()];
    fs::write(dir.path().join("b"), &new).expect("written");
    let later = std::time::SystemTime::now() + Duration::from_secs(5);
    let file = fs::File::options().append(true).open(dir.path().join("b"));
    file.and_then(|f| f.set_modified(later)).expect("dated");
    edgepush::sys::durable::rename(&dir.path().join("b"), &dir.path().join("a.tar.gz"))
        .expect("renamed");
    let got = run(
        fetcher("").open(rest(1_000_000, Some(new.len()))),
        data[..1_000_000].to_vec(),
    )
    .await;
    got.result.expect("fetched");
    assert_eq!((got.bytes == new, got.restarts.len()), (true, 1));
    // A page of its own, and bytes as sent although it would compress.
    let got = fetch(&fetcher(""), request(&server.url("/none"), None)).await;
    assert_eq!(got.kind(), "http-404");
    let detail = got.error().detail().expect("a detail");
    assert!(detail.contains("404 Not Found"), "{detail}");
}

#[tokio::test]
async fn nginx_may_be_killed_and_started_again() {
    let (dir, data) = (tempfile::tempdir().expect("a directory"), body(3_000_000));
    fs::write(dir.path().join("f"), &data).expect("written");
    let slow = "limit_rate 2m; output_buffers 1 64k; sendfile off;";
    let Some(mut server) = nginx(dir.path(), None, slow) else {
        return skip("nginx is not installed");
    };
    let (fetcher, port) = (fetcher(""), server.port);
    let wanted = request(&server.url("/f"), Some(data.len()));
    let restarting = async {
        for _ in 0..2 {
            tokio::time::sleep(Duration::from_millis(400)).await;
            drop(server);
            tokio::time::sleep(Duration::from_millis(100)).await;
            server = nginx(dir.path(), Some(port), slow).expect("nginx again");
        }
        server
    };
    let (got, _server) = tokio::join!(fetch(&fetcher, wanted), restarting);
    got.result.as_ref().expect("fetched");
    assert_eq!(got.bytes, data);
    assert!(got.restarts.is_empty() && !got.retried.is_empty());
    assert!(got.source.fetched() < data.len() as u64 + (1 << 20));
    assert!(
        got.retried
            .iter()
            .all(|e| e.kind().class.as_str() == "network"),
        "{:?}",
        got.retried
    );
}

#[tokio::test]
async fn a_server_of_python_knows_no_ranges() {
    let (dir, data) = (tempfile::tempdir().expect("a directory"), body(500_000));
    fs::write(dir.path().join("f"), &data).expect("written");
    let mut command = Command::new("python3");
    command
        .args([
            "-u",
            "-m",
            "http.server",
            "--bind",
            "127.0.0.1",
            "--directory",
        ])
        .arg(dir.path())
        .arg("0")
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let Ok(mut child) = command.spawn() else {
        return skip("python3 is not installed");
    };
    let mut line = String::new();
    let stdout = child.stdout.take().expect("its output");
    BufReader::new(stdout).read_line(&mut line).expect("a line");
    let port = line.split("port ").nth(1).and_then(|t| t.split(' ').next());
    let port = port.and_then(|t| t.parse().ok()).expect("a port");
    let server = Server::local(child, port);
    let mut half = request(&server.url("/f"), Some(data.len()));
    half.offset = 250_000;
    let got = run(fetcher("").open(half), data[..250_000].to_vec()).await;
    got.result.expect("fetched");
    assert_eq!((got.bytes, got.restarts.len()), (data, 1));
}

impl Lab {
    fn origin(&self) -> Origin {
        inside(&self.far, || Origin::start_at(&format!("{FAR}:0")))
    }

    /// Fetches from the near end, with `meanwhile` at work beside.
    fn fetch(&self, url: &str, size: usize, meanwhile: impl FnOnce()) -> (Fetched, Duration) {
        let (namespace, url) = (self.near.clone(), url.to_owned());
        let fetching = thread::spawn(move || {
            inside(&namespace, || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let start = Instant::now();
                let got = runtime.block_on(fetch(&fetcher(""), request(&url, Some(size))));
                (got, start.elapsed())
            })
        });
        meanwhile();
        fetching.join().expect("no panic")
    }
}

#[test]
fn bad_links_lose_no_bytes() {
    let Some(lab) = Lab::start() else {
        return skip("network namespaces need root, and ip");
    };
    let (origin, data) = (lab.origin(), body(4_000_000));
    origin.serve("/f", Reply::file(&data));
    let url = origin.url("/f");
    let check = |name: &str, got: &Fetched| {
        got.result
            .as_ref()
            .unwrap_or_else(|e| panic!("{name}: {}", Chain(e)));
        assert!(got.bytes == data, "{name}");
        assert!(got.restarts.is_empty(), "{name}: {:?}", got.restarts);
        assert!(
            got.source.fetched() < data.len() as u64 + (1 << 20),
            "{name}"
        );
        assert!(
            got.retried
                .iter()
                .all(|e| e.kind().class.as_str() == "network"),
            "{name}"
        );
    };

    // 4 MB at 2 MB a second, steadily.
    lab.at_far("tc qdisc add dev veth0 root tbf rate 16mbit burst 32kb latency 400ms");
    let (got, took) = lab.fetch(&url, data.len(), || {});
    check("throttled", &got);
    assert_eq!(got.source.attempts(), 1);
    assert!(took > Duration::from_millis(1500), "{took:?}");

    // The link goes down in the middle, twice, for longer than a body may be silent.
    let (got, _) = lab.fetch(&url, data.len(), || {
        for _ in 0..2 {
            thread::sleep(Duration::from_millis(500));
            lab.at_far("ip link set veth0 down");
            thread::sleep(Duration::from_millis(900));
            lab.at_far("ip link set veth0 up");
        }
    });
    check("down and up", &got);
    assert!(
        got.retried_kinds().contains(&"stalled"),
        "{:?}",
        got.retried_kinds()
    );
    lab.at_far("tc qdisc del dev veth0 root");

    if !runs("nft --version") {
        return skip("nft is not installed");
    }
    lab.at_near("nft add table inet t");
    lab.at_near("nft add chain inet t in { type filter hook input priority 0 ; }");
    lab.at_near("nft add rule inet t in meta l4proto tcp numgen random mod 100 < 10 drop");
    let (got, _) = lab.fetch(&url, data.len(), || {});
    check("one packet in ten lost", &got);

    // Everything after a megabyte is swallowed, connections too; then it is over.
    lab.at_near("nft flush chain inet t in");
    lab.at_near("nft add rule inet t in quota over 1 mbytes drop");
    let (got, _) = lab.fetch(&url, data.len(), || {
        thread::sleep(Duration::from_millis(1500));
        lab.at_near("nft flush chain inet t in");
    });
    check("swallowed", &got);
    let kinds = got.retried_kinds();
    assert!(
        kinds.contains(&"stalled") && kinds.contains(&"connect-timeout"),
        "{kinds:?}"
    );
}
