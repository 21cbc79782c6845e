//! How long pushes and status queries take while both come in numbers: `pushes` signed pushes a second, of `files` files
//! each, and `status` queries a second, for `seconds`. The first files are being fetched from an origin that never
//! answers, and all others wait: what is measured is the taking.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::Options;
use crate::figures::{Times, cpu, memory};
use crate::lanes::{Plan, lane};
use crate::support::archive::md5;
use crate::support::ens::{Ens, Scheme, Signed};
use crate::support::node::{APP, TestNode, encode};
use crate::support::origin::{Origin, Reply};

const ID: &str = "key-1";
const SECRET: &str = "a secret of some length";

pub(crate) fn run(options: &Options) {
    let load = Load {
        pushes: options.number("pushes", 1000),
        files: options.number("files", 10),
        status: options.number("status", 5000),
        seconds: options.number("seconds", 10),
        lanes: options.number("lanes", 240),
        signed: options.text("by", "socket") == "signed",
    };
    let origin = Origin::start();
    origin.serve("/a.tar.gz", Reply::silent());
    let mut node = node();
    node.start();
    let pid = node.pid();
    let ens = Ens::new(node.http.unwrap(), ID, SECRET, Scheme::Header);
    let requests = load.sign_pushes(&ens, &origin.url("/a.tar.gz"));
    let queries = load.queries(&ens);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (before, ours) = (cpu(pid), cpu(std::process::id()));
    let [pushes, status] = runtime.block_on(load.run(&node, requests, queries));
    let spent = cpu(pid) - before;
    println!(
        "| {} s | a second | p50 ms | p99 ms | max ms |",
        load.seconds
    );
    println!("|---|---|---|---|---|");
    println!(
        "| signed push of {} files | {} | {} |",
        load.files,
        load.pushes,
        pushes.row()
    );
    let by = ["over the socket", "signed, over TCP"][usize::from(load.signed)];
    println!(
        "| status of one file, {by} | {} | {} |",
        load.status,
        status.row()
    );
    println!(
        "agent: {:.1} s of processor, {} MiB at most; driver: {:.1} s; {} and {} answers",
        spent.as_secs_f64(),
        memory(pid, "VmHWM"),
        (cpu(std::process::id()) - ours).as_secs_f64(),
        pushes.len(),
        status.len(),
    );
    let ended = node.stop();
    assert!(ended.success(), "{ended}\n{}", node.log());
}

/// A node with one access key that may ask as often as it likes.
fn node() -> TestNode {
    let keys = tempfile::tempdir().unwrap().keep();
    let secret = keys.join("key.secret");
    let mut file = std::fs::OpenOptions::new();
    let mut file = file
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&secret)
        .unwrap();
    file.write_all(SECRET.as_bytes()).unwrap();
    TestNode::new(&format!(
        "[log]\nlevel = \"warn\"\n[api]\naccess_keys = [{{ id = {ID:?}, secret_file = {secret:?} }}]\nrate = {{ per_second = 0 }}\n"
    ))
}

#[derive(Clone, Copy)]
struct Load {
    pushes: usize,
    files: usize,
    status: usize,
    seconds: usize,
    lanes: usize,
    signed: bool,
}

impl Load {
    fn name(self, push: usize, file: usize) -> (String, String) {
        (format!("site-{}/{file}", push % 500), format!("1.0.{push}"))
    }

    /// Signing costs the client as much as the server: all of it is done before.
    fn sign_pushes(self, ens: &Ens, url: &str) -> Vec<Vec<u8>> {
        let digest = md5(b"whatever");
        let push = |push| {
            let items: Vec<_> = (0..self.files)
                .map(|file| {
                    let (name, version) = self.name(push, file);
                    serde_json::json!({"name": name, "version": version, "size": 1 << 20, "md5": digest,
                        "archiveType": "tar.gz", "url": url, "timeout": 1800})
                })
                .collect();
            let data = serde_json::to_string(&items).unwrap();
            let form = [("AppId", APP), ("Data", data.as_str())];
            bytes(ens, &ens.sign("POST", "PushApplicationData", &[], &form))
        };
        (0..self.pushes * self.seconds).map(push).collect()
    }

    /// Queries of the status of one file each, of pushes that were answered some time ago.
    fn queries(self, ens: &Ens) -> Vec<Vec<u8>> {
        let query = |number: usize| {
            let push = number * self.pushes / self.status;
            let (name, version) = self.name(push.saturating_sub(self.pushes), number % self.files);
            if self.signed {
                let query = [
                    ("AppId", APP),
                    ("DataNames", name.as_str()),
                    ("DataVersions", version.as_str()),
                ];
                return bytes(
                    ens,
                    &ens.sign("POST", "DescribeDataPushResult", &query, &[]),
                );
            }
            let target = format!(
                "/v1/files?app={APP}&name={}&version={}",
                encode(&name),
                encode(&version)
            );
            format!("GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
        };
        (0..self.status * self.seconds).map(query).collect()
    }

    async fn run(self, node: &TestNode, pushes: Vec<Vec<u8>>, queries: Vec<Vec<u8>>) -> [Times; 2] {
        let (pushes, queries): (&'static [_], &'static [_]) = (pushes.leak(), queries.leak());
        let (socket, address) = (node.socket(), node.http.unwrap());
        let mut pushing = JoinSet::new();
        let mut asking = JoinSet::new();
        let start = Instant::now() + Duration::from_millis(300);
        let plan = |first, rate, end| Plan {
            start,
            rate,
            first,
            step: self.lanes,
            end,
        };
        let accepted = "\"ResultCode\":0";
        for first in 0..self.lanes {
            let stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (plan, files, accepted) =
                (plan(first, self.pushes, pushes.len()), self.files, accepted);
            let check = move |_, answer: &[u8]| {
                let text = String::from_utf8_lossy(answer);
                assert_eq!(text.matches(accepted).count(), files, "{text}");
            };
            pushing.spawn(lane(stream, plan, |n| &pushes[n], check));
        }
        for first in 0..self.lanes {
            let plan = plan(first, self.status, queries.len());
            let check = |_, answer: &[u8]| assert!(answer.starts_with(b"HTTP/1.1 200"));
            if self.signed {
                let stream = TcpStream::connect(address).await.unwrap();
                stream.set_nodelay(true).unwrap();
                asking.spawn(lane(stream, plan, |n| &queries[n], check));
            } else {
                let stream = UnixStream::connect(&socket).await.unwrap();
                asking.spawn(lane(stream, plan, |n| &queries[n], check));
            }
        }
        let pushed = Times::new(pushing.join_all().await.into_iter().flatten().collect());
        let asked = Times::new(asking.join_all().await.into_iter().flatten().collect());
        [pushed, asked]
    }
}

/// A signed request as it goes over a connection that stays open.
fn bytes(ens: &Ens, signed: &Signed) -> Vec<u8> {
    let headers: String = signed
        .headers
        .iter()
        .map(|(n, v)| format!("{n}: {v}\r\n"))
        .collect();
    format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\n{headers}Content-Length: {}\r\n\r\n{}",
        signed.method,
        signed.target,
        ens.address,
        signed.body.len(),
        signed.body
    )
    .into_bytes()
}
