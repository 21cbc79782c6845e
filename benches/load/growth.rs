//! What becomes of a node's figures as it fills: tiny versions are published until it has 10, 1,000, 10,000 and 100,000,
//! and at each of these marks the same things are timed. Any curve that is not flat is a fault.
//!
//! The first thousand come through the daemon. The others are copies of what it left on the disk, tree, manifest and kept
//! archive, which `edgepush recover` then enters into the database. `versions` is how many versions a name has, `to` the
//! last mark, `pushed` how many come through the daemon, `through` a program that runs the agent.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Options;
use crate::figures::{Times, memory, ms};
use crate::support::archive;
use crate::support::node::{APP, TestNode, encode, item};

const MARKS: [usize; 4] = [10, 1_000, 10_000, 100_000];
/// Elements of one push while the node is filled.
const BATCH: usize = 1_000;

pub(crate) fn run(options: &Options) {
    let versions = options.number("versions", 10);
    let to = options.number("to", 100_000);
    let pushed = options.number("pushed", 1_000);
    let mut node = TestNode::new(&format!(
        "[log]\nlevel = \"warn\"\n[publish]\nkeep_versions = {}\n[api]\nhead_timeout = \"1h\"\n",
        versions + 1
    ));
    let through = options.text("through", "");
    node.run_through(&through.split_whitespace().collect::<Vec<_>>());
    let fill = Fill::new(node.dir(), versions);
    node.start();
    let mut table = Table::default();
    let mut done = 0;
    for mark in MARKS.into_iter().filter(|mark| *mark <= to) {
        let started = Instant::now();
        table.mark(mark);
        if mark <= pushed {
            fill.publish(&node, done..mark);
        } else {
            assert!(node.stop().success());
            fill.copy(node.root(), done..mark);
            let began = Instant::now();
            recover(&node);
            table.add("recover what is new", began.elapsed());
            node.start();
        }
        let more = mark - done;
        println!("{more} more in {} ms", ms(started.elapsed()));
        done = mark;
        measure(&mut node, &fill, done, &mut table);
    }
    table.print();
    println!("data directory: {}", du(node.root()));
}

/// What a node is filled with: version after version of name after name, each a small file of its own.
struct Fill {
    archive: Vec<u8>,
    url: String,
    versions: usize,
}

impl Fill {
    fn new(dir: &Path, versions: usize) -> Self {
        let archive = archive::tar_gz(&archive::site("1", 1));
        let path = dir.join("tiny.tar.gz");
        std::fs::write(&path, &archive).unwrap();
        let url = format!("file://{}", path.display());
        Self {
            archive,
            url,
            versions,
        }
    }

    fn key(&self, n: usize) -> (String, String) {
        (
            format!("name-{:06}", n / self.versions),
            format!("1.{}", n % self.versions),
        )
    }

    fn item(&self, name: &str, version: &str) -> Value {
        item(name, version, "tar.gz", &self.archive, &self.url)
    }

    /// Publishes through the daemon, a batch a push.
    fn publish(&self, node: &TestNode, numbers: std::ops::Range<usize>) {
        let all: Vec<usize> = numbers.collect();
        let mut client = Client::new(node);
        for batch in all.chunks(BATCH) {
            let items: Vec<Value> = batch
                .iter()
                .map(|n| {
                    let (name, version) = self.key(*n);
                    self.item(&name, &version)
                })
                .collect();
            let push = json!({"AppId": APP, "Data": items});
            let answer = client.ask("POST", "/v1/pushes", Some(&push));
            let push = answer["push"].as_str().unwrap().to_owned();
            loop {
                let state = client.ask("GET", &format!("/v1/pushes/{push}"), None);
                if state["done"] == true {
                    break;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        }
    }
}

impl Fill {
    /// Makes copies of the first version on the disk, as if the daemon had published them.
    fn copy(&self, root: &Path, numbers: std::ops::Range<usize>) {
        let (first_name, first_version) = self.key(0);
        let manifests = root.join("manifests").join(APP);
        let first = manifests
            .join(&first_name)
            .join(format!("{first_version}.json"));
        let manifest = std::fs::read_to_string(first).unwrap();
        let (head, entries) = manifest.split_once(",\"entries\":").unwrap();
        let head: Value = serde_json::from_str(&format!("{head}}}")).unwrap();
        let file = "site/d00/f00000.txt";
        let names = root.join("data").join(APP);
        let trees = names.join(&first_name).join("versions");
        let content = std::fs::read(trees.join(&first_version).join(file)).unwrap();
        for n in numbers {
            let (name, version) = self.key(n);
            let mut head = head.clone();
            head["name"] = json!(name);
            head["version"] = json!(version);
            head["job"] = json!(n + 1_000_000);
            let mut text = head.to_string();
            text.pop();
            std::fs::create_dir_all(manifests.join(&name)).unwrap();
            let path = manifests.join(&name).join(format!("{version}.json"));
            std::fs::write(path, format!("{text},\"entries\":{entries}")).unwrap();
            let tree = names.join(&name).join("versions").join(&version);
            std::fs::create_dir_all(tree.join("site/d00")).unwrap();
            std::fs::write(tree.join(file), &content).unwrap();
            let archives = root.join("archives").join(APP).join(&name);
            std::fs::create_dir_all(&archives).unwrap();
            std::fs::write(archives.join(&version), &self.archive).unwrap();
            let current = names.join(&name).join("current");
            let _ = std::fs::remove_file(&current);
            std::os::unix::fs::symlink(format!("versions/{version}"), current).unwrap();
        }
    }
}

/// Enters what is on the disk into the database.
fn recover(node: &TestNode) {
    let recovered = Command::new(env!("CARGO_BIN_EXE_edgepush"))
        .args(["recover", "--config"])
        .arg(node.config_file())
        .output()
        .unwrap();
    assert!(recovered.status.success(), "{recovered:?}");
}

fn measure(node: &mut TestNode, fill: &Fill, count: usize, table: &mut Table) {
    let mut client = Client::new(node);
    // Let what the filling has left in the background come to rest.
    std::thread::sleep(Duration::from_millis(500));
    let (name, version) = fill.key(count / 2);
    let one = format!(
        "/v1/files?app={APP}&name={}&version={}",
        encode(&name),
        encode(&version)
    );
    let (first_page, last) = ("/v1/files?limit=20", count.saturating_sub(20));
    let newest = "/v1/files?limit=20&newest=true".to_owned();
    let last_page = format!("/v1/files?limit=20&offset={last}");
    let failed = "/v1/files?limit=20&state=succeeded&newest=true".to_owned();
    let describe = format!(
        "/?Action=DescribeDataPushResult&Version=2017-11-10&AppId={APP}&PageNumber=1&PageSize=20"
    );
    let releases = format!("/v1/releases?app={APP}&name={}", encode(&name));
    for (what, target) in [
        ("status of one file", one.as_str()),
        ("list of files, first 20", first_page),
        ("list of files, newest 20", &newest),
        ("list by state, newest 20", &failed),
        ("list of files, last 20", &last_page),
        ("describe an application, 20 of a page", &describe),
        ("releases of a name", &releases),
        ("status of the node", "/v1/status"),
        ("metrics", "/metrics"),
    ] {
        let times = (0..30).map(|_| client.time("GET", target, None)).collect();
        table.add(what, Times::new(times).median());
    }
    let check = client.ask("GET", &one, None);
    assert_eq!(check["files"][0]["state"], "succeeded", "{check}");
    accept(&mut client, fill, count, table);
    let gc = (0..3)
        .map(|_| client.time("POST", "/v1/gc", None))
        .collect();
    table.add("retention over everything", Times::new(gc).median());
    let sample = json!({"app": APP, "name": name, "version": version});
    let verified = client.ask("POST", "/v1/verify", Some(&sample));
    assert_eq!(verified["trees"][0]["damage"], json!([]), "{verified}");
    restart(node, table);
}

/// Times pushes of one file that is new, each after the one before is published.
fn accept(client: &mut Client, fill: &Fill, count: usize, table: &mut Table) {
    let (mut taken, mut published) = (Vec::new(), Vec::new());
    for n in 0..20 {
        let push = json!({"AppId": APP, "Data": [fill.item("accept", &format!("{count}.{n}"))]});
        let started = Instant::now();
        let answer = client.ask("POST", "/v1/pushes", Some(&push));
        taken.push(started.elapsed());
        let push = answer["push"].as_str().unwrap();
        while client.ask("GET", &format!("/v1/pushes/{push}"), None)["done"] != true {
            std::thread::sleep(Duration::from_millis(1));
        }
        published.push(started.elapsed());
    }
    table.add("accept a file", Times::new(taken).median());
    table.add("accept and publish it", Times::new(published).median());
}

fn restart(node: &mut TestNode, table: &mut Table) {
    assert!(node.stop().success());
    table.add("start after an orderly end", start(node));
    node.kill();
    table.add("start after a kill", start(node));
    let busy = Instant::now();
    settle(node);
    table.add("work behind that start", busy.elapsed());
    table.values(
        "peak memory after a kill, MiB",
        memory(node.pid(), "VmHWM").to_string(),
    );
}

/// From the start of the process to its first answer.
fn start(node: &mut TestNode) -> Duration {
    let started = Instant::now();
    node.spawn();
    let socket = node.socket();
    while UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_micros(200));
        assert!(
            started.elapsed() < Duration::from_secs(60),
            "{}",
            node.log()
        );
    }
    Client::new(node).time("GET", "/readyz", None);
    let took = started.elapsed();
    node.wait_ready();
    took
}

/// Waits until the agent takes no more processor time for itself.
fn settle(node: &TestNode) {
    let pid = node.pid();
    loop {
        let before = crate::figures::cpu(pid);
        std::thread::sleep(Duration::from_millis(200));
        if crate::figures::cpu(pid) - before < Duration::from_millis(20) {
            return;
        }
    }
}

fn du(dir: &Path) -> String {
    let out = Command::new("du").arg("-sh").arg(dir).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.split_whitespace().next().unwrap_or("?").to_owned()
}

/// A connection to the native API that stays open.
struct Client {
    stream: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    fn new(node: &TestNode) -> Self {
        let stream = UnixStream::connect(node.socket()).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    fn ask(&mut self, method: &str, target: &str, body: Option<&Value>) -> Value {
        self.send(method, target, body);
        let end = self
            .buffer
            .windows(4)
            .position(|w| w == b"\r\n\r\n")
            .unwrap()
            + 4;
        serde_json::from_slice(&self.buffer[end..])
            .unwrap_or_else(|e| panic!("{target}: {e}: {}", String::from_utf8_lossy(&self.buffer)))
    }

    fn time(&mut self, method: &str, target: &str, body: Option<&Value>) -> Duration {
        let started = Instant::now();
        self.send(method, target, body);
        let took = started.elapsed();
        let head = String::from_utf8_lossy(&self.buffer[..self.buffer.len().min(400)]);
        assert!(head.starts_with("HTTP/1.1 200"), "{target}: {head}");
        took
    }

    /// Sends a request and reads the whole answer into the buffer.
    fn send(&mut self, method: &str, target: &str, body: Option<&Value>) {
        let body = body.map(Value::to_string).unwrap_or_default();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(head.as_bytes()).unwrap();
        self.buffer.clear();
        let mut block = vec![0; 256 << 10];
        while !crate::lanes::is_whole(&self.buffer) {
            let n = self.stream.read(&mut block).unwrap();
            assert!(n > 0, "{target}: the agent has closed the connection");
            self.buffer.extend_from_slice(&block[..n]);
        }
    }
}

/// One row per thing that is timed, one column per mark.
#[derive(Default)]
struct Table {
    marks: Vec<usize>,
    order: Vec<String>,
    rows: BTreeMap<String, Vec<String>>,
}

impl Table {
    fn mark(&mut self, count: usize) {
        self.marks.push(count);
    }

    fn add(&mut self, what: &str, time: Duration) {
        self.values(what, ms(time));
    }

    fn values(&mut self, what: &str, value: String) {
        println!("  {what}: {value}");
        if !self.rows.contains_key(what) {
            self.order.push(what.to_owned());
        }
        self.rows.entry(what.to_owned()).or_default().push(value);
    }

    fn print(&self) {
        let marks: Vec<String> = self.marks.iter().map(usize::to_string).collect();
        println!("| ms, at versions on the node | {} |", marks.join(" | "));
        println!("|---{}|", "|---".repeat(marks.len()));
        for what in &self.order {
            let values = &self.rows[what];
            let missing = "- | ".repeat(self.marks.len() - values.len());
            println!("| {what} | {missing}{} |", values.join(" | "));
        }
    }
}
