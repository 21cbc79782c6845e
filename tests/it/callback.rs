//! Callbacks of a real agent: delivered at least once and in order, whatever happens to receiver and agent, and never of
//! any influence on what is published.
//!
//! `EDGEPUSH_TEST_LONG=1` runs the story of outages and kills in its long form.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::archive::{site, tar_gz};
use crate::support::dice;
use crate::support::node::{PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};
use crate::support::receiver::{Delivery, Receiver};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3";
const OLDER: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXo=";

/// A node that reports to a receiver, and an origin that serves one small archive under every path.
struct Stage {
    origin: Origin,
    receiver: Receiver,
    node: TestNode,
    archive: Vec<u8>,
    secrets: tempfile::TempDir,
}

impl Stage {
    fn new() -> Self {
        Self::with("")
    }

    fn with(more: &str) -> Self {
        Self::reporting_to(Receiver::start(), "", more)
    }

    /// A second endpoint that gets every event as well. What it has, after it was refused again and again, the first one
    /// would have had by then.
    fn with_witness() -> (Self, Receiver) {
        let witness = Receiver::start();
        (
            Self::reporting_to(Receiver::start(), &witness.url(), ""),
            witness,
        )
    }

    fn reporting_to(receiver: Receiver, witness: &str, more: &str) -> Self {
        let secrets = tempfile::tempdir().unwrap();
        let file = secret(&secrets, "new", SECRET);
        let mut config = format!("{more}{}", report(&receiver, std::slice::from_ref(&file)));
        if !witness.is_empty() {
            config += &format!(
                "\n[[report.endpoints]]\nname = \"witness\"\nurl = {witness:?}\nsecret_files = [{file:?}]\n"
            );
        }
        let node = TestNode::new(&config);
        Self {
            origin: Origin::start(),
            receiver,
            node,
            archive: tar_gz(&site("1", 2)),
            secrets,
        }
    }

    fn item(&self, name: &str) -> Value {
        let path = format!("/{name}");
        self.origin.serve(&path, Reply::file(&self.archive));
        item(name, "1", "tar.gz", &self.archive, &self.origin.url(&path))
    }

    fn push(&self, names: &[String]) {
        let items: Vec<Value> = names.iter().map(|name| self.item(name)).collect();
        let answers = self.node.push(&items);
        assert_eq!(answers.len(), names.len());
    }

    fn outbox(&self) -> Value {
        self.node.ask("GET", "/v1/outbox?limit=1000", None).json()
    }

    fn wait_until_delivered(&self) {
        self.node.wait_for("an empty outbox", PATIENCE * 10, || {
            (self.outbox()["pending"] == 0).then_some(())
        });
    }

    /// Waits until the receiver has given `status` this often.
    fn wait_for_answers(&self, status: u16, count: usize) {
        let given = || {
            self.receiver
                .seen()
                .iter()
                .filter(|d| d.status == status)
                .count()
        };
        self.node.wait_for("answers of the receiver", PATIENCE, || {
            (given() >= count).then_some(())
        });
    }

    /// Waits until the witness has every event of `name`.
    fn wait_for_witness(&self, witness: &Receiver, name: &str) {
        self.node.wait_for("the witness", PATIENCE, || {
            (by_file(&witness.seen()).get(name)? == &WHOLE).then_some(())
        });
    }

    fn hang_up(&self) {
        let pid = self.node.pid().to_string();
        let status = Command::new("kill").args(["-HUP", &pid]).status();
        assert!(status.unwrap().success());
    }
}

fn secret(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn report(receiver: &Receiver, files: &[PathBuf]) -> String {
    format!(
        "[report]\nnode = \"edge-1\"\nfirst_retry = \"50ms\"\nlongest_retry = \"500ms\"\n\n\
         [[report.endpoints]]\nname = \"hook\"\nurl = {:?}\nsecret_files = {files:?}\n",
        receiver.url()
    )
}

/// The first delivery of each event that was taken, in the order of their taking.
fn events(deliveries: &[Delivery]) -> Vec<Delivery> {
    let mut bodies: HashMap<String, Vec<u8>> = HashMap::new();
    let mut events = Vec::new();
    for delivery in deliveries {
        let id = delivery.header("webhook-id").to_owned();
        match bodies.get(&id) {
            Some(body) => assert_eq!(*body, delivery.body, "a repeat is the same"),
            None => drop(bodies.insert(id, delivery.body.clone())),
        }
    }
    for delivery in deliveries.iter().filter(|d| d.status < 300) {
        if bodies.remove(delivery.header("webhook-id")).is_some() {
            events.push(delivery.clone());
        }
    }
    events
}

/// The types of the events of each file, without progress.
fn by_file(deliveries: &[Delivery]) -> BTreeMap<String, Vec<String>> {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in events(deliveries) {
        let body = event.json();
        let kind = body["type"]
            .as_str()
            .unwrap()
            .trim_start_matches("edgepush.");
        if let (Some(name), true) = (body["data"]["name"].as_str(), kind != "file.progress") {
            files
                .entry(name.to_owned())
                .or_default()
                .push(kind.to_owned());
        }
    }
    files
}

const WHOLE: [&str; 3] = ["file.accepted", "file.published", "file.activated"];

#[test]
fn a_receiver_that_is_away_changes_no_outcome_and_floods_no_log() {
    let mut stage = Stage::new();
    stage.receiver.always(503);
    stage.node.start();
    let names: Vec<String> = (0..30).map(|i| format!("n{i}")).collect();
    stage.push(&names);
    // 1. Every file is published, fetched once, while no callback is taken.
    for name in &names {
        assert_eq!(stage.node.finish(name, "1")["state"], "succeeded");
        assert_eq!(stage.origin.hits(&format!("/{name}")).len(), 1, "{name}");
    }
    let waiting = stage.outbox();
    assert_eq!(
        waiting["pending"], 91,
        "accepted, published, activated of each, and the node's start"
    );
    // 2. A receiver that refuses for good changes no more than that.
    stage.receiver.always(403);
    stage.wait_for_answers(403, 5);
    let lines = stage.node.log().matches("callbacks-failing").count();
    assert_eq!(lines, 2, "one line a minute of each answer");
    assert!(
        !stage.node.log().contains("/hook"),
        "the path of a hook is often its password"
    );
    // 3. When it is back it hears everything, in order.
    stage.receiver.always(204);
    stage.wait_until_delivered();
    let files = by_file(&stage.receiver.seen());
    assert_eq!(files.len(), names.len());
    for (name, kinds) in files {
        assert_eq!(kinds, WHOLE, "{name}");
    }
    for name in &names {
        assert_eq!(stage.node.file(name, "1").unwrap()["state"], "succeeded");
        assert_eq!(stage.origin.hits(&format!("/{name}")).len(), 1, "{name}");
    }
}

#[test]
fn nothing_is_lost_through_outages_and_kills() {
    let long = std::env::var_os("EDGEPUSH_TEST_LONG").is_some();
    let (rounds, files) = if long { (100, 34) } else { (6, 6) };
    let mut rng = dice::seeded();
    // The breaker of crash loops would end what was killed ten times, and rightly.
    let mut stage = Stage::with("[runner]\nstarts = 1000000\n");
    stage.node.start();
    let mut all = Vec::new();
    for round in 0..rounds {
        let names: Vec<String> = (0..files).map(|i| format!("r{round}n{i}")).collect();
        // 1. An outage begins somewhere before, or amid, the work of this round, or not at all.
        if rng.bool() {
            stage.receiver.always([500, 502, 503, 429][rng.usize(0..4)]);
        }
        stage.push(&names);
        all.extend(names);
        std::thread::sleep(Duration::from_millis(rng.u64(0..80)));
        // 2. The agent is killed at some moment; the receiver is back before or after.
        if rng.bool() {
            stage.receiver.always(204);
        }
        stage.node.kill();
        stage.receiver.always(204);
        stage.node.start();
    }
    // 3. Everything that was answered has ended, and was told: once by its id, in order, and nothing after its end.
    for name in &all {
        assert_eq!(stage.node.finish(name, "1")["state"], "succeeded");
    }
    stage.wait_until_delivered();
    let seen = by_file(&stage.receiver.seen());
    assert_eq!(seen.len(), all.len());
    for (name, kinds) in seen {
        assert_eq!(kinds, WHOLE, "{name}");
    }
}

#[test]
fn secrets_rotate_without_a_restart_and_the_reference_library_agrees() {
    let mut stage = Stage::new();
    stage.receiver.script([(500, ""), (500, "")]);
    stage.node.start();
    let (older, newer) = (
        secret(&stage.secrets, "older", OLDER),
        secret(&stage.secrets, "new", SECRET),
    );
    stage.node.wait_for("the node's start", PATIENCE, || {
        (stage.receiver.seen().len() == 3).then_some(())
    });
    stage.wait_until_delivered();
    // 1. Two secrets while rotating, then the newer alone.
    for (round, files) in [vec![older.clone(), newer.clone()], vec![older]]
        .into_iter()
        .enumerate()
    {
        let new = report(&stage.receiver, &files);
        let old = stage.node.config().to_owned();
        let begin = old.find("[report]").unwrap();
        let end = begin + old[begin..].find("[fetch]").unwrap();
        stage
            .node
            .write_config(&format!("{}{new}\n{}", &old[..begin], &old[end..]));
        let said = stage.node.log().len();
        stage.hang_up();
        stage.node.wait_for("the reload", PATIENCE, || {
            stage.node.log()[said..]
                .contains("\"reloaded\"")
                .then_some(())
        });
        stage.push(&[format!("n{round}")]);
        stage.node.finish(&format!("n{round}"), "1");
        stage.wait_until_delivered();
    }
    let seen = stage.receiver.seen();
    let signatures = |d: &Delivery| d.header("webhook-signature").split(' ').count();
    let name = |d: &Delivery| d.json()["data"]["name"].as_str().unwrap_or("").to_owned();
    for delivery in &seen {
        let want = if name(delivery) == "n0" { 2 } else { 1 };
        assert_eq!(signatures(delivery), want, "{delivery:?}");
    }
    // 2. Each under its secrets, and with nothing changed.
    let Some(python) = python() else { return };
    let expected = |d: &Delivery| match name(d).as_str() {
        "" => vec![SECRET],
        "n0" => vec![SECRET, OLDER],
        _ => vec![OLDER],
    };
    let cases: Vec<Value> = seen
        .iter()
        .map(|d| {
            json!({
                "body": String::from_utf8(d.body.clone()).unwrap(),
                "headers": {
                    "webhook-id": d.header("webhook-id"),
                    "webhook-timestamp": d.header("webhook-timestamp"),
                    "webhook-signature": d.header("webhook-signature"),
                },
                "good": expected(d),
                "all": [SECRET, OLDER],
            })
        })
        .collect();
    judge(&python, &json!(cases));
}

/// The Python that has the reference library, made by `tests/run`.
fn python() -> Option<String> {
    let python = std::env::var("EDGEPUSH_TEST_PYTHON").ok();
    if python.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "no Python with standardwebhooks"
        );
        eprintln!("SKIPPED: EDGEPUSH_TEST_PYTHON is not set; `tests/run` makes it");
    }
    python
}

/// Lets the reference library of Standard Webhooks verify each case, and refuse it when anything is changed.
fn judge(python: &str, cases: &Value) {
    let script = r#"
import json, sys
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

def verifies(secret, body, headers):
    try:
        Webhook(secret).verify(body, headers)
        return True
    except WebhookVerificationError:
        return False

cases = json.load(sys.stdin)
for case in cases:
    body, headers = case["body"], case["headers"]
    for secret in case["all"]:
        assert verifies(secret, body, headers) == (secret in case["good"]), case
    secret = case["good"][0]
    assert not verifies(secret, body + " ", headers), case
    assert not verifies(secret, body, dict(headers, **{"webhook-id": "msg_other"})), case
    late = str(int(headers["webhook-timestamp"]) - 1)
    assert not verifies(secret, body, dict(headers, **{"webhook-timestamp": late})), case
print(len(cases))
"#;
    let mut child = Command::new(python)
        .args(["-c", script])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(cases.to_string().as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        cases.as_array().unwrap().len().to_string()
    );
}

#[test]
fn a_receiver_that_wants_no_more_is_left_alone_until_a_reload() {
    let (mut stage, witness) = Stage::with_witness();
    stage.receiver.always(410);
    stage.node.start();
    stage.push(&["a".to_owned()]);
    assert_eq!(stage.node.finish("a", "1")["state"], "succeeded");
    stage
        .node
        .wait_for("the endpoint to be disabled", PATIENCE, || {
            stage.node.log().contains("endpoint-disabled").then_some(())
        });
    let heard = stage.receiver.seen().len();
    witness.script([(503, ""); 4]);
    stage.push(&["b".to_owned()]);
    stage.wait_for_witness(&witness, "b");
    assert_eq!(stage.receiver.seen().len(), heard);
    stage.receiver.always(204);
    stage.hang_up();
    stage.wait_until_delivered();
    for (name, kinds) in by_file(&stage.receiver.seen()) {
        assert_eq!(kinds, WHOLE, "{name}");
    }
}

#[test]
fn a_reload_does_not_cut_short_the_pause_that_a_receiver_asked_for() {
    let (mut stage, witness) = Stage::with_witness();
    stage
        .receiver
        .script(vec![(429, "Retry-After: 7200\r\n"); 50]);
    stage.node.start();
    stage.push(&["a".to_owned()]);
    assert_eq!(stage.node.finish("a", "1")["state"], "succeeded");
    let named = |verdict: &str| stage.node.log().matches(verdict).count();
    stage.wait_for_answers(429, 1);
    for reloads in 1..=2 {
        stage.hang_up();
        stage.node.wait_for("the reload", PATIENCE, || {
            (named("applied the changed configuration") == reloads).then_some(())
        });
        witness.script([(503, ""); 4]);
        let name = format!("b{reloads}");
        stage.push(std::slice::from_ref(&name));
        stage.wait_for_witness(&witness, &name);
    }
    // What was on its way with the first refusal was refused as well; nothing came a second time, and nothing later.
    let seen = stage.receiver.seen();
    let ids: HashSet<&str> = seen.iter().map(Delivery::id).collect();
    assert_eq!(ids.len(), seen.len());
    assert!(
        seen.iter()
            .all(|delivery| !delivery.name().starts_with('b'))
    );
}

#[test]
fn callbacks_take_their_own_proxy_and_downloads_do_not() {
    let (origin, proxy) = (Origin::start(), Receiver::start());
    let secrets = tempfile::tempdir().unwrap();
    let file = secret(&secrets, "new", SECRET);
    let at = proxy.url().trim_end_matches("/hook").to_owned();
    // Only a proxy can know this host.
    let mut node = TestNode::new(&format!(
        "[[report.endpoints]]\nname = \"hook\"\nurl = \"http://callbacks.invalid/hook\"\nsecret_files = [{file:?}]\nproxy = {at:?}\n"
    ));
    let archive = tar_gz(&site("1", 3));
    origin.serve("/a", Reply::file(&archive));
    node.start();
    node.push(&[item("a", "1", "tar.gz", &archive, &origin.url("/a"))]);
    assert_eq!(node.finish("a", "1")["state"], "succeeded");
    node.wait_for("a callback through the proxy", PATIENCE, || {
        (!proxy.of_type("edgepush.file.published").is_empty()).then_some(())
    });
    assert_eq!(proxy.seen()[0].header("host"), "callbacks.invalid");
    assert_eq!(
        origin.hits("/a").len(),
        1,
        "the download went straight to its origin"
    );
}
