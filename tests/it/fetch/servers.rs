//! Against servers that others wrote, and over links that throttle, lose, swallow and go down.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;

use crate::support::origin::wait_until;

use super::*;

/// Says that a test did not run; under CI that is a failure.
fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}");
    eprintln!("SKIPPED: {why}");
}

/// A server process, ended with the test.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts nginx for the files in `dir`; `None` when it is not installed.
fn nginx(dir: &Path, port: Option<u16>, more: &str) -> Option<Server> {
    let free = || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.local_addr().expect("an address").port()
    };
    let port = port.unwrap_or_else(free);
    let root = dir.display();
    let config = format!(
        "daemon off; master_process off; pid {root}/nginx.pid; error_log {root}/error.log;
        events {{}}
        http {{
            access_log {root}/access.log;
            client_body_temp_path {root}/t1; proxy_temp_path {root}/t2; fastcgi_temp_path {root}/t3;
            uwsgi_temp_path {root}/t4; scgi_temp_path {root}/t5;
            gzip on; gzip_types *; gzip_min_length 1; gzip_http_version 1.0;
            server {{ listen 127.0.0.1:{port}; root {root}; {more} }}
        }}"
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).expect("written");
    let program = ["nginx", "/usr/sbin/nginx"].into_iter().find(|p| {
        Command::new(p)
            .arg("-v")
            .stderr(Stdio::null())
            .status()
            .is_ok()
    })?;
    let child = Command::new(program)
        .arg("-p")
        .arg(dir)
        .arg("-c")
        .arg(&file)
        .stderr(Stdio::null())
        .spawn()
        .expect("nginx");
    wait_until("nginx", || {
        std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
    });
    Some(Server { child, port })
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
    assert!(
        got.error().to_string().contains("404 Not Found"),
        "{}",
        got.error()
    );
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
    let server = Server { child, port };
    let mut half = request(&server.url("/f"), Some(data.len()));
    half.offset = 250_000;
    let got = run(fetcher("").open(half), data[..250_000].to_vec()).await;
    got.result.expect("fetched");
    assert_eq!((got.bytes, got.restarts.len()), (data, 1));
}

/// Two network namespaces with one link between them.
struct Lab {
    near: String,
    far: String,
}

const NEAR: &str = "10.231.0.1";
const FAR: &str = "10.231.0.2";

impl Lab {
    /// `None` where namespaces cannot be made.
    fn start() -> Option<Self> {
        let name = |end| format!("edgepush-{}-{end}", std::process::id());
        let lab = Self {
            near: name("near"),
            far: name("far"),
        };
        let made = [
            format!("ip netns add {}", lab.near),
            format!("ip netns add {}", lab.far),
            format!(
                "ip link add veth0 netns {} type veth peer name veth0 netns {}",
                lab.near, lab.far
            ),
            format!("ip -n {} addr add {NEAR}/24 dev veth0", lab.near),
            format!("ip -n {} addr add {FAR}/24 dev veth0", lab.far),
            format!("ip -n {} link set veth0 up", lab.near),
            format!("ip -n {} link set veth0 up", lab.far),
        ];
        made.iter().all(|command| runs(command)).then_some(lab)
    }

    fn at_far(&self, command: &str) {
        let command = format!("ip netns exec {} {command}", self.far);
        assert!(runs(&command), "{command}");
    }

    fn at_near(&self, command: &str) {
        let command = format!("ip netns exec {} {command}", self.near);
        assert!(runs(&command), "{command}");
    }

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

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            runs(&format!("ip netns del {name}"));
        }
    }
}

fn runs(command: &str) -> bool {
    let mut words = command.split_whitespace();
    let program = words.next().unwrap_or_default();
    let status = Command::new(program)
        .args(words)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|s| s.success())
}

/// Runs `work` on a thread inside a network namespace; what it starts stays there.
fn inside<T: Send>(namespace: &str, work: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
    thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let link =
                fs::File::open(Path::new("/run/netns").join(namespace)).expect("a namespace");
            let network = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(rustix::fd::AsFd::as_fd(&link), network).expect("entered");
            work()
        });
        worker.join().expect("no panic")
    })
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
