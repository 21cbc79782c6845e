//! How long files take alone, and while `bad` others are open whose origins are closed, silent, failing and dripping, the
//! last two of them also the origin of the good ones: `rounds` pairs, by the agent's own times from accepted to finished.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::Value;

use crate::Options;
use crate::figures::{Times, memory, ms};
use crate::support::archive::{noise, site, tar_gz};
use crate::support::node::{TestNode, item};
use crate::support::origin::{Origin, Reply};

const MIB: usize = 1 << 20;

pub(crate) fn run(options: &Options) {
    let (rounds, bad) = (options.number("rounds", 7), options.number("bad", 1000));
    let (origin, silent) = (Origin::start(), Origin::start());
    let small = tar_gz(&site("1", 3));
    let middle = tar_gz(&[("middle".to_owned(), noise(2 * MIB, 1))]);
    let huge = tar_gz(&[("huge".to_owned(), noise(200 * MIB, 2))]);
    let good = [
        ("1 KB", "small", &small),
        ("2 MiB", "middle", &middle),
        ("2 MiB, size not stated", "unstated", &middle),
        ("200 MiB", "huge", &huge),
    ];
    for (_, name, archive) in good {
        origin.serve(&format!("/{name}"), Reply::file(archive));
    }
    silent.serve("/silent", Reply::silent());
    origin.serve(
        "/slow",
        Reply::file(&middle).drip(300, Duration::from_millis(100)),
    );
    origin.serve("/busy", Reply::status(503));
    let closed = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let urls = [
        format!("http://{closed}/f"),
        silent.url("/silent"),
        origin.url("/slow"),
        origin.url("/busy"),
    ];
    let open = |node: &TestNode| {
        let items: Vec<Value> = (0..bad)
            .map(|n| {
                let mut item = item(&format!("bad{n}"), "1", "tar.gz", &middle, &urls[n % 4]);
                item["timeout"] = 3600.into();
                item
            })
            .collect();
        for some in items.chunks(100) {
            node.push(some);
        }
        node.wait_for("all to have been tried", Duration::from_secs(60), || {
            let status = node.ask("GET", "/v1/status", None).json();
            (status["counts"]["queued"].as_u64().unwrap_or(0) == 0).then_some(())
        });
    };
    let mut times = [const { [Vec::new(), Vec::new()] }; 4];
    let mut peak = 0;
    for round in 0..rounds {
        for busy in 0..2 {
            let mut node = TestNode::new("[log]\nlevel = \"error\"\n");
            node.start();
            if busy == 1 {
                open(&node);
            }
            for ((_, name, archive), times) in good.iter().zip(&mut times) {
                times[busy].push(deliver(&node, &origin, name, round, archive));
            }
            peak = peak.max(memory(node.pid(), "VmHWM"));
            node.kill();
        }
    }
    println!("| archive | alone, p50 max ms | with {bad} others open | ratio of medians |");
    println!("|---|---|---|---|");
    for ((what, ..), [alone, busy]) in good.iter().zip(times) {
        let (alone, busy) = (Times::new(alone), Times::new(busy));
        let ratio = busy.median().as_secs_f64() / alone.median().as_secs_f64();
        let show = |t: &Times| format!("{}, {}", ms(t.median()), ms(t.percentile(100.0)));
        println!(
            "| {what} | {} | {} | {ratio:.2} |",
            show(&alone),
            show(&busy)
        );
    }
    println!("agent: {peak} MiB at most");
}

/// Pushes a file, and returns how long the agent took from accepting it to its end.
fn deliver(node: &TestNode, origin: &Origin, name: &str, round: usize, archive: &[u8]) -> Duration {
    let version = round.to_string();
    let mut item = item(
        name,
        &version,
        "tar.gz",
        archive,
        &origin.url(&format!("/{name}")),
    );
    if name == "unstated" {
        item.as_object_mut().unwrap().remove("size");
    }
    node.push(&[item]);
    let file = node.finish(name, &version);
    assert_eq!(file["state"], "succeeded", "{file}");
    let at = |field: &str| file[field].as_u64().unwrap();
    Duration::from_millis(at("finished_ms") - at("accepted_ms"))
}
