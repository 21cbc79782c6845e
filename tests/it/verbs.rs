//! The command line against a real agent: what an operator does in a day, in their order.

use std::io::{BufRead, BufReader};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::archive::{site, tar_gz, zip};
use crate::support::node::{APP, PATIENCE, TestNode};
use crate::support::origin::{Gate, Origin, Reply};

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    format!("{}{stderr}", String::from_utf8_lossy(&output.stdout))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(output)))
}

#[test]
fn an_operators_day() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let (old, new) = (site("1", 10), site("2", 20));
    origin.serve("/2.zip", Reply::file(zip(&new)));
    let archive = node.dir().join("old.tar.gz");
    std::fs::write(&archive, tar_gz(&old)).unwrap();

    // 1. Nobody is there yet.
    assert_eq!(code(&node.cli(&["status"])), 3);
    node.start();
    assert_eq!(code(&node.cli(&["wait", APP, "site", "1"])), 4);

    // 2. A file of this machine, and then a URL; each is followed to its end.
    let first = format!("site@1={}", archive.display());
    let pushed = node.cli(&["push", APP, &first]);
    assert_eq!(code(&pushed), 0, "{}", text(&pushed));
    node.assert_tree("site", &old);
    let second = format!("site@2={}", origin.url("/2.zip"));
    let pushed = node.cli(&["push", APP, &second, "--json"]);
    assert_eq!(json(&pushed)["files"][0]["result"], "published");
    node.assert_tree("site", &new);

    // 3. The same again is there already, other content is refused.
    let again = node.cli(&["push", APP, &first, "--json"]);
    assert_eq!(json(&again)["files"][0]["result"], "already-there");
    assert_eq!(code(&again), 0);
    node.assert_tree("site", &old);
    let other = format!("site@2={}", archive.display());
    let refused = node.cli(&["push", APP, &other]);
    assert_eq!(code(&refused), 1, "{}", text(&refused));

    // 4. What is live changes without a download.
    let hits = origin.all_hits().len();
    assert_eq!(code(&node.cli(&["activate", APP, "site", "2"])), 0);
    node.assert_tree("site", &new);
    assert_eq!(code(&node.cli(&["rollback", APP, "site"])), 0);
    node.assert_tree("site", &old);
    assert_eq!(code(&node.cli(&["rm", APP, "site", "1"])), 5);
    assert_eq!(code(&node.cli(&["rm", APP, "site", "9"])), 4);
    assert_eq!(origin.all_hits().len(), hits);

    // 5. Every reading verb shows what is there, for people and for programs.
    for (arguments, shown) in [
        (&["status"][..], "ready"),
        (&["ls"], "site"),
        (&["ls", "--versions"], "site"),
        (&["show", APP, "site", "2"], "published"),
        (&["events", "--after", "0"], "published"),
        (&["wait", APP, "site", "2"], "site"),
        (&["verify"], "intact"),
        (&["gc"], "0"),
        (&["outbox"], "no endpoint"),
        (&["doctor"], "free space"),
    ] {
        let plain = node.cli(arguments);
        assert_eq!(code(&plain), 0, "{arguments:?}: {}", text(&plain));
        let said = String::from_utf8_lossy(&plain.stdout).to_lowercase();
        assert!(said.contains(shown), "{arguments:?}: {said}");
        let output = node.cli(&[arguments, &["--json"]].concat());
        match arguments[0] {
            "events" => {
                let lines = String::from_utf8(output.stdout).unwrap();
                assert!(lines.lines().count() > 5, "{lines}");
                for line in lines.lines() {
                    serde_json::from_str::<Value>(line).unwrap();
                }
            }
            _ => drop(json(&output)),
        }
    }

    // 6. A version that nobody needs goes, and is gone.
    assert_eq!(code(&node.cli(&["rm", APP, "site", "2"])), 0);
    let left = node.cli(&["ls", "--versions", "--json"]);
    assert_eq!(json(&left)["releases"].as_array().unwrap().len(), 1);

    // 7. A damaged file is found.
    std::fs::write(node.current("site").join("added"), "x").unwrap();
    let verified = node.cli(&["verify"]);
    assert_eq!(code(&verified), 1, "{}", text(&verified));
}

#[test]
fn a_file_that_fails_says_so_by_exit_code_and_words() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    origin.serve("/a.zip", Reply::file(b"no archive"));
    node.start();
    let item = format!("a@1={}", origin.url("/a.zip"));
    let pushed = node.cli(&["push", APP, &item]);
    assert_eq!(code(&pushed), 1);
    assert!(
        text(&pushed).contains("not-an-archive"),
        "{}",
        text(&pushed)
    );
    let waited = node.cli(&["wait", APP, "a", "1"]);
    assert_eq!(code(&waited), 1);
    assert!(
        text(&waited).contains("not-an-archive"),
        "{}",
        text(&waited)
    );
}

#[test]
fn wait_outlives_a_restart_and_events_tell_what_happens() {
    let (origin, mut node) = (Origin::start(), TestNode::new(""));
    let files = site("1", 10);
    let archive = tar_gz(&files);
    let gate = Gate::new();
    origin.script(
        "/a.tar.gz",
        [
            Reply::file(&archive).hold_at(archive.len() as u64 / 2, &gate),
            Reply::file(&archive),
        ],
    );
    node.start();
    let edgepush = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_edgepush"))
            .arg("--socket")
            .arg(node.socket())
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    };
    let mut events = edgepush(&["events", "--follow", "--json"]);
    let item = format!("a@1={}", origin.url("/a.tar.gz"));
    assert_eq!(code(&node.cli(&["push", APP, &item, "--no-wait"])), 0);
    origin.wait_for_hits("/a.tar.gz", 1);
    let mut wait = edgepush(&["wait", APP, "a", "1"]);
    // It says what it sees before the agent goes away.
    let mut seen = String::new();
    let mut said = BufReader::new(wait.stderr.take().unwrap());
    said.read_line(&mut seen).unwrap();
    assert!(seen.contains("a@1: fetch"), "{seen}");
    node.kill();
    gate.open();
    node.start();
    let end = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = wait.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < end, "{}", node.log());
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(status.code(), Some(0));
    node.assert_tree("a", &files);
    // The stream broke with the agent; what it told until then are whole lines.
    events.wait().unwrap();
    let told: Vec<Value> = BufReader::new(events.stdout.take().unwrap())
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    let kinds: Vec<&str> = told.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(kinds[..2], ["accepted", "started"], "{kinds:?}");
}
