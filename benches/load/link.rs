//! Whether big pushes keep a link of 1 Gbit/s full, and what they leave of the node to small ones. The agent runs in a
//! network namespace of its own, nginx in another, and `tc` shapes what comes from there. In turn, for `rounds` rounds,
//! as many `curl`s that throw everything away and a fresh agent bring `pushes` archives, each of `bytes` bytes that do
//! not compress; meanwhile, and before, `small` archives of 13 kB are brought, one every `every` milliseconds. `files`
//! is `runner.files`. Needs root, `ip`, `tc`, nginx and curl.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Options;
use crate::figures::{Times, cpu, ms};
use crate::support::archive::{noise, tar_gz};
use crate::support::lab::{FAR, Lab, inside, runs};
use crate::support::nginx::{Server, nginx_at};
use crate::support::node::{TestNode, item};

/// What the link carries, Ethernet headers included, in bytes a second.
const LINK: f64 = 125e6;
/// What of it is left for a body: 1,448 bytes of each frame of 1,514.
const PAYLOAD: f64 = LINK * 1448.0 / 1514.0;
/// How often the interface is looked at.
const LOOK: Duration = Duration::from_millis(5);
/// What may come behind the last byte of a body: ends of connections, and who-has.
const STRAY: u64 = 64 << 10;
/// How long the big ones are alone: until then the link has filled.
const HEAD_START: Duration = Duration::from_millis(300);
/// The longest that one contestant may take.
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn run(options: &Options) {
    let Some(lab) = Lab::start() else {
        return println!("link: network namespaces cannot be made here; they need root, and `ip`");
    };
    let shaped = "tc qdisc add dev veth0 root tbf rate 1gbit burst 256kb limit 1mb";
    if !runs(&format!("ip netns exec {} {shaped}", lab.far)) {
        return println!("link: the link cannot be shaped here: `{shaped}`");
    }
    let dir = tempfile::tempdir().unwrap();
    let Some(server) = inside(&lab.far, || {
        nginx_at(FAR, dir.path(), None, "sendfile on; tcp_nopush on;")
    }) else {
        return println!("link: nginx is not installed");
    };
    let load = Load::make(options, dir.path(), &server);
    let (mut curls, mut agents) = (Figures::default(), Figures::default());
    for round in 0..options.number("rounds", 5) {
        if round % 2 == 0 {
            load.by_curl(&lab, &mut curls);
        }
        load.by_agent(&lab, &mut agents);
        if round % 2 == 1 {
            load.by_curl(&lab, &mut curls);
        }
    }
    load.print(&curls, &agents);
}

/// What is to be brought.
struct Load {
    big: Vec<Value>,
    /// Their length together.
    bytes: u64,
    small: Vec<Value>,
    every: Duration,
    config: String,
}

/// What was measured of one contestant, round by round.
#[derive(Default)]
struct Figures {
    /// From the first to the last byte.
    spans: Vec<Duration>,
    /// What the interface has received.
    received: Vec<u64>,
    /// Tenths of a second in which the link carried less than nine tenths of what it can.
    gaps: Vec<usize>,
    /// From the last byte until everything was published.
    tails: Vec<Duration>,
    /// Processor time.
    spent: Vec<Duration>,
    alone: Vec<Duration>,
    beside: Vec<Duration>,
}

impl Load {
    /// Makes the archives in `dir`, from where `server` serves them.
    fn make(options: &Options, dir: &Path, server: &Server) -> Self {
        let (pushes, length) = (
            options.number("pushes", 8),
            options.number("bytes", 64 << 20),
        );
        let element = |name: String, files: &[(String, Vec<u8>)]| {
            let archive = tar_gz(files);
            let path = format!("{name}.tar.gz");
            fs::write(dir.join(&path), &archive).unwrap();
            item(
                &name,
                "1",
                "tar.gz",
                &archive,
                &server.url(&format!("/{path}")),
            )
        };
        let files = |number: usize, count: usize, length: usize| {
            let file = |n| {
                (
                    format!("data/{n:02}.bin"),
                    noise(length, (number * 100 + n + 1) as u64),
                )
            };
            (0..count).map(file).collect::<Vec<_>>()
        };
        let big: Vec<Value> = (0..pushes)
            .map(|n| element(format!("big-{n}"), &files(n, 16, length / 16)))
            .collect();
        let small = (0..options.number("small", 20))
            .map(|n| element(format!("small-{n:02}"), &files(pushes + n, 10, 1250)))
            .collect();
        Self {
            bytes: big.iter().map(|item| item["size"].as_u64().unwrap()).sum(),
            big,
            small,
            config: format!(
                "[log]\nlevel = \"warn\"\n[runner]\nfiles = {}\n",
                options.number("files", 32)
            ),
            every: Duration::from_millis(options.number("every", 150) as u64),
        }
    }

    /// Calls `bring` with each small archive when its time has come.
    fn pace(&self, mut bring: impl FnMut(&Value)) {
        let start = Instant::now();
        for (number, item) in self.small.iter().enumerate() {
            let due = self.every * u32::try_from(number).unwrap();
            thread::sleep(due.saturating_sub(start.elapsed()));
            bring(item);
        }
    }

    fn by_curl(&self, lab: &Lab, figures: &mut Figures) {
        let timed = |curls: Vec<Child>| curls.into_iter().map(seconds).collect::<Vec<_>>();
        let mut small = Vec::new();
        self.pace(|item| small.push(curl(lab, item)));
        figures.alone.extend(timed(small));
        let traffic = watch(lab, || {
            let big: Vec<Child> = self.big.iter().map(|item| curl(lab, item)).collect();
            let mut small = Vec::new();
            thread::sleep(HEAD_START);
            self.pace(|item| small.push(curl(lab, item)));
            timed(big);
            figures.beside.extend(timed(small));
        });
        figures.take(&traffic);
    }

    fn by_agent(&self, lab: &Lab, figures: &mut Figures) {
        // What was written and deleted before is not this agent's to wait for.
        rustix::fs::sync();
        let mut node = TestNode::new(&self.config);
        node.run_through(&["ip", "netns", "exec", &lab.near]);
        node.start();
        let push = |version: &str, item: &Value| {
            let mut item = item.clone();
            item["version"] = version.into();
            node.push(&[item]);
        };
        self.pace(|item| push("alone", item));
        figures.alone.extend(
            self.small
                .iter()
                .map(|item| publishing(&node, item, "alone").0),
        );
        let before = cpu(node.pid());
        let mut published = 0;
        let traffic = watch(lab, || {
            node.push(&self.big);
            thread::sleep(HEAD_START);
            self.pace(|item| push("beside", item));
            let ends = self.big.iter().map(|item| publishing(&node, item, "1").1);
            published = ends.max().unwrap();
            figures.beside.extend(
                self.small
                    .iter()
                    .map(|item| publishing(&node, item, "beside").0),
            );
        });
        figures.spent.push(cpu(node.pid()) - before);
        figures.take(&traffic);
        let last = i64::try_from(traffic.last().at_ms).unwrap();
        figures.tails.push(Duration::from_millis(
            (published - last).max(0).unsigned_abs(),
        ));
        assert!(node.stop().success());
    }

    fn print(&self, curls: &Figures, agents: &Figures) {
        let (pushes, each) = (self.big.len(), (self.bytes >> 20) as usize / self.big.len());
        println!(
            "| {pushes} x {each} MiB | first to last byte, s | of the link | worst round | received, MB | gaps |"
        );
        println!("|---|---|---|---|---|---|");
        for (name, figures) in [("curl", curls), ("edgepush", agents)] {
            println!("| {name} | {} |", figures.row(self.bytes));
        }
        let ratios = curls.spans.iter().zip(&agents.spans);
        let ratios = ratios.map(|(curl, agent)| curl.as_secs_f64() / agent.as_secs_f64());
        println!(
            "median of the ratios: {:.3}",
            middle(ratios.collect(), f64::total_cmp)
        );
        println!(
            "edgepush: {} ms from the last byte until all is published, {:.1} s of processor",
            ms(Times::new(agents.tails.clone()).median()),
            Times::new(agents.spent.clone()).median().as_secs_f64()
        );
        if self.small.is_empty() {
            return;
        }
        println!("\n| small archives | p50 ms | p99 ms | max ms |");
        println!("|---|---|---|---|");
        for (what, times) in [
            ("fetched by curl, alone", &curls.alone),
            ("fetched by curl, beside the big ones", &curls.beside),
            ("pushed and published, alone", &agents.alone),
            ("pushed and published, beside the big ones", &agents.beside),
        ] {
            println!("| {what} | {} |", Times::new(times.clone()).row());
        }
    }
}

impl Figures {
    fn take(&mut self, traffic: &Traffic) {
        let (first, last) = (traffic.first(), traffic.last());
        self.spans.push(last.at - first.at);
        self.received.push(last.received - first.received);
        self.gaps.push(traffic.gaps());
    }

    fn row(&self, bytes: u64) -> String {
        let spans = Times::new(self.spans.clone());
        #[allow(clippy::cast_precision_loss, reason = "a share")]
        let share = |span: Duration| bytes as f64 / span.as_secs_f64() / PAYLOAD * 100.0;
        format!(
            "{:.2} | {:.1} % | {:.1} % | {} | {}",
            spans.median().as_secs_f64(),
            share(spans.median()),
            share(spans.percentile(100.0)),
            middle(self.received.clone(), u64::cmp) / 1_000_000,
            middle(self.gaps.clone(), usize::cmp)
        )
    }
}

fn middle<T: Copy>(mut values: Vec<T>, order: impl FnMut(&T, &T) -> std::cmp::Ordering) -> T {
    values.sort_by(order);
    values[values.len() / 2]
}

/// Waits until a file is published, and returns how long that took and when it was.
fn publishing(node: &TestNode, item: &Value, version: &str) -> (Duration, i64) {
    let name = item["name"].as_str().unwrap();
    let file = node.wait_for(name, PATIENCE, || {
        let file = node.file(name, version)?;
        file["finished_ms"].is_number().then_some(file)
    });
    assert_eq!(file["state"], "succeeded", "{file}");
    let at = |key: &str| file[key].as_i64().unwrap();
    let took = at("finished_ms") - at("accepted_ms");
    (
        Duration::from_millis(took.unsigned_abs()),
        at("finished_ms"),
    )
}

/// Starts to fetch what `item` names, to nowhere.
fn curl(lab: &Lab, item: &Value) -> Child {
    Command::new("ip")
        .args([
            "netns",
            "exec",
            &lab.near,
            "curl",
            "--silent",
            "--fail",
            "--output",
            "/dev/null",
        ])
        .args([
            "--write-out",
            "%{time_total}",
            item["url"].as_str().unwrap(),
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Waits for a `curl`, and returns how long it says that it took.
fn seconds(curl: Child) -> Duration {
    let output = curl.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    Duration::from_secs_f64(String::from_utf8(output.stdout).unwrap().parse().unwrap())
}

/// What the near end of the link had received, again and again.
struct Traffic(Vec<Sample>);

#[derive(Clone, Copy)]
struct Sample {
    at: Instant,
    /// In milliseconds since the epoch.
    at_ms: u128,
    received: u64,
}

impl Sample {
    /// Looks at the interface of this thread's network.
    fn take() -> Self {
        let table = fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = table
            .lines()
            .find_map(|l| l.trim_start().strip_prefix("veth0:"))
            .unwrap();
        Self {
            at: Instant::now(),
            at_ms: std::time::UNIX_EPOCH.elapsed().unwrap().as_millis(),
            received: line.split_whitespace().next().unwrap().parse().unwrap(),
        }
    }
}

/// Ends the watching, also when the work panics.
struct End<'a>(&'a AtomicBool);
impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Watches the near end of the link while `work` is done.
fn watch(lab: &Lab, work: impl FnOnce()) -> Traffic {
    let end = &AtomicBool::new(false);
    let (begun, begins) = sync_channel(1);
    let looking = move || {
        let mut samples = vec![Sample::take()];
        let _ = begun.send(());
        while !end.load(Ordering::Relaxed) {
            thread::sleep(LOOK);
            samples.push(Sample::take());
        }
        Traffic(samples)
    };
    thread::scope(|scope| {
        let end = End(end);
        let watching = scope.spawn(|| inside(&lab.near, looking));
        begins.recv().unwrap();
        work();
        drop(end);
        watching.join().unwrap()
    })
}

impl Traffic {
    /// The moment before the first byte.
    fn first(&self) -> Sample {
        let before = self.0[0].received;
        let next = self
            .0
            .iter()
            .position(|sample| sample.received > before)
            .unwrap();
        self.0[next - 1]
    }

    /// The moment after the last byte of a body.
    fn last(&self) -> Sample {
        let all = self.0[self.0.len() - 1].received;
        let last = self.0.iter().find(|sample| all - sample.received <= STRAY);
        *last.unwrap()
    }

    /// Counts the tenths of a second between the first byte and the last in which the link was not full.
    #[allow(clippy::cast_precision_loss, reason = "a share")]
    fn gaps(&self) -> usize {
        let (mut since, last, mut gaps) = (self.first(), self.last(), 0);
        for sample in self.0.iter().filter(|sample| sample.at <= last.at) {
            let span = sample.at.saturating_duration_since(since.at).as_secs_f64();
            if span >= 0.1 {
                gaps +=
                    usize::from(((sample.received - since.received) as f64) < 0.9 * PAYLOAD * span);
                since = *sample;
            }
        }
        gaps
    }
}
