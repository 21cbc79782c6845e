//! What stays on the node and what goes: never what is live, pinned, held open or what a rollback would go to.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::archive::{site, tar_gz};
use crate::support::dice;
use crate::support::http;
use crate::support::node::{APP, PATIENCE, TestNode, assert_tree, item};
use crate::support::origin::{Origin, Reply};

/// Serves version `version` of every name, and pushes it as `name`.
fn push(node: &TestNode, origin: &Origin, name: &str, version: &str) -> u64 {
    push_of(node, origin, name, version, 3)
}

fn push_of(node: &TestNode, origin: &Origin, name: &str, version: &str, files: usize) -> u64 {
    let archive = tar_gz(&site(version, files));
    let path = format!("/{name}-{version}");
    origin.serve(&path, Reply::file(&archive));
    node.push_codes(&[item(name, version, "tar.gz", &archive, &origin.url(&path))])[0]
}

fn publish(node: &TestNode, origin: &Origin, name: &str, version: &str) {
    assert_eq!(push(node, origin, name, version), 0);
    let file = node.finish(name, version);
    assert_eq!(file["state"], "succeeded", "{file}");
}

fn versions(node: &TestNode, name: &str) -> Vec<String> {
    node.list(&format!("data/{APP}/{name}/versions"))
}

fn wait_for_versions(node: &TestNode, name: &str, wanted: &[&str]) {
    node.wait_for(&format!("{wanted:?} of {name}"), PATIENCE, || {
        (versions(node, name) == wanted).then_some(())
    });
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list
}

#[test]
fn keeps_the_newest_versions_and_nothing_of_the_others() {
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[publish]\nkeep_versions = 2\n"),
    );
    node.start();
    for version in 1..=6 {
        publish(&node, &origin, "a", &version.to_string());
    }
    wait_for_versions(&node, "a", &["5", "6"]);
    node.wait_for("the rest to go", PATIENCE, || {
        let archives = node.list(&format!("archives/{APP}/a"));
        let manifests = node.list(&format!("manifests/{APP}/a"));
        (archives == ["5", "6"]
            && manifests == ["5.json", "6.json"]
            && node.list("trash").is_empty()
            && node.list("spool").is_empty())
        .then_some(())
    });
    node.assert_tree("a", &site("6", 3));
}

#[test]
fn what_is_pinned_live_held_or_a_rollbacks_target_stays() {
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[publish]\nkeep_versions = 1\n"),
    );
    node.start();
    publish(&node, &origin, "a", "1");
    publish(&node, &origin, "a", "2");
    assert!(node.cli(&["pin", APP, "a", "1"]).status.success());
    publish(&node, &origin, "a", "3");
    wait_for_versions(&node, "a", &["1", "2", "3"]);
    // A program holds version 2 by a lock, while it stops being the previous one.
    let held = fs::File::open(node.root().join(format!("data/{APP}/a/versions/2"))).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockShared).unwrap();
    publish(&node, &origin, "a", "4");
    publish(&node, &origin, "a", "5");
    wait_for_versions(&node, "a", &["1", "2", "4", "5"]);
    drop(held);
    assert!(node.cli(&["gc"]).status.success());
    wait_for_versions(&node, "a", &["1", "4", "5"]);
    // Live is an old one: what was live before it stays as well.
    assert!(node.cli(&["activate", APP, "a", "1"]).status.success());
    assert!(node.cli(&["gc"]).status.success());
    node.assert_tree("a", &site("1", 3));
    assert_eq!(versions(&node, "a"), ["1", "5"]);
    // Unpinned, it goes as soon as it is neither live nor the version that a rollback goes to.
    assert!(node.cli(&["pin", "--off", APP, "a", "1"]).status.success());
    publish(&node, &origin, "a", "6");
    publish(&node, &origin, "a", "7");
    wait_for_versions(&node, "a", &["6", "7"]);
    let undone = node.cli(&["pin", "--off", APP, "a", "1"]);
    assert!(!undone.status.success(), "version 1 is gone");
}

#[test]
fn failed_pushes_push_out_no_good_version() {
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[publish]\nkeep_versions = 2\n"),
    );
    node.start();
    publish(&node, &origin, "a", "1");
    for version in 2..=11 {
        let archive = tar_gz(&site("x", 3));
        origin.serve("/bad", Reply::file(&archive));
        let version = version.to_string();
        let mut bad = item("a", &version, "tar.gz", &archive, &origin.url("/bad"));
        bad["md5"] = json!("0".repeat(32));
        assert_eq!(node.push_codes(&[bad]), [0]);
        assert_eq!(node.finish("a", &version)["state"], "failed");
    }
    publish(&node, &origin, "a", "12");
    assert!(node.cli(&["gc"]).status.success());
    assert_eq!(sorted(versions(&node, "a")), ["1", "12"]);
    assert!(node.cli(&["rollback", APP, "a"]).status.success());
    node.assert_tree("a", &site("1", 3));
}

#[test]
fn an_application_has_its_own_bounds() {
    // A version of 40 files takes about 14 KB.
    let extra = format!(
        "[publish]\nkeep_versions = 9\n[apps.{APP}]\nmax_bytes = \"64KiB\"\ndown_to = \"40KiB\"\n[apps.other]\nkeep_versions = 1\n"
    );
    let (origin, mut node) = (Origin::start(), TestNode::new(&extra));
    node.start();
    for version in 1..=8 {
        let version = version.to_string();
        assert_eq!(push_of(&node, &origin, "a", &version, 40), 0);
        assert_eq!(node.finish("a", &version)["state"], "succeeded");
    }
    assert!(node.cli(&["gc"]).status.success());
    let bytes: u64 = node
        .ask("GET", &format!("/v1/releases?app={APP}"), None)
        .json()["releases"]
        .as_array()
        .unwrap()
        .iter()
        .map(|r| r["bytes"].as_u64().unwrap())
        .sum();
    assert!(bytes <= 64 << 10, "{bytes}");
    let left = versions(&node, "a");
    assert!(left.len() >= 2 && left.len() < 8, "{left:?}");
    assert!(
        left.contains(&"8".to_owned()) && left.contains(&"7".to_owned()),
        "{left:?}"
    );
}

#[test]
fn keeping_no_version_is_refused_by_the_name_of_the_key() {
    for (extra, key) in [
        ("[publish]\nkeep_versions = 0\n", "publish.keep_versions"),
        ("[apps.x]\nkeep_versions = 0\n", "apps.x.keep_versions"),
    ] {
        let mut node = TestNode::new(extra);
        node.spawn();
        assert!(!node.wait_end().success());
        assert!(node.log().contains(key), "{}", node.log());
    }
}

#[test]
fn a_version_that_cannot_be_deleted_holds_up_nothing_not_even_a_start() {
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[publish]\nkeep_versions = 1\n"),
    );
    node.start();
    publish(&node, &origin, "a", "1");
    let stuck = node
        .root()
        .join(format!("data/{APP}/a/versions/1/site/d00/f00000.txt"));
    let chattr = |flag: &str, path: &std::path::Path| {
        std::process::Command::new("chattr")
            .arg(flag)
            .arg(path)
            .status()
            .is_ok_and(|s| s.success())
    };
    if !chattr("+i", &stuck) {
        eprintln!("SKIPPED: this file system has no immutable files, or this is not root");
        assert!(std::env::var("CI").as_deref() != Ok("true"));
        return;
    }
    for version in 2..=5 {
        publish(&node, &origin, "a", &version.to_string());
    }
    wait_for_versions(&node, "a", &["4", "5"]);
    let left = node.wait_for("what cannot be deleted", PATIENCE, || {
        let left = node.list("trash");
        (left.len() == 1).then_some(left)
    });
    node.stop();
    node.start();
    assert_eq!(
        node.list("trash"),
        left,
        "the next start goes on without it"
    );
    publish(&node, &origin, "a", "6");
    publish(&node, &origin, "a", "7");
    wait_for_versions(&node, "a", &["6", "7"]);
    // It may go now, and the next round of upkeep sees to that.
    let trash = node
        .root()
        .join("trash")
        .join(&left[0])
        .join("site/d00/f00000.txt");
    assert!(chattr("-i", &trash));
    assert!(node.cli(&["gc"]).status.success());
    node.wait_for("trash to be empty", PATIENCE, || {
        node.list("trash").is_empty().then_some(())
    });
}

#[test]
fn a_version_that_is_immutable_stays_in_sight_and_holds_up_no_other() {
    let (origin, mut node) = (
        Origin::start(),
        TestNode::new("[publish]\nkeep_versions = 1\n"),
    );
    node.start();
    publish(&node, &origin, "a", "1");
    let fixed = node.root().join(format!("data/{APP}/a/versions/1"));
    let chattr = |flag: &str| {
        let mut command = std::process::Command::new("chattr");
        command.arg(flag).arg(&fixed);
        command.status().is_ok_and(|s| s.success())
    };
    if !chattr("+i") {
        eprintln!("SKIPPED: this file system has no immutable files, or this is not root");
        assert!(std::env::var("CI").as_deref() != Ok("true"));
        return;
    }
    let _thaw = Thaw(fixed.clone());
    for version in 2..=5 {
        publish(&node, &origin, "a", &version.to_string());
    }
    wait_for_versions(&node, "a", &["1", "4", "5"]);
    // It is there, so it is shown, can be looked at, and can become live.
    let known = node
        .ask("GET", &format!("/v1/releases?app={APP}&name=a"), None)
        .json();
    let known = known["releases"].as_array().unwrap().clone();
    assert!(known.iter().any(|r| r["version"] == "1"), "{known:?}");
    let refused = node.cli(&["rm", APP, "a", "1"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && said.contains("immutable"),
        "{said}"
    );
    assert!(node.cli(&["verify"]).status.success());
    assert!(node.cli(&["activate", APP, "a", "1"]).status.success());
    node.assert_tree("a", &site("1", 3));
    assert!(node.cli(&["activate", APP, "a", "5"]).status.success());
    publish(&node, &origin, "a", "6");
    publish(&node, &origin, "a", "7");
    wait_for_versions(&node, "a", &["1", "6", "7"]);
    assert!(chattr("-i"));
    assert!(node.cli(&["gc"]).status.success());
    wait_for_versions(&node, "a", &["6", "7"]);
}

/// Makes a directory mutable again, so that it can be removed with the rest of its test.
struct Thaw(std::path::PathBuf);

impl Drop for Thaw {
    fn drop(&mut self) {
        let _ = std::process::Command::new("chattr")
            .arg("-i")
            .arg(&self.0)
            .stderr(std::process::Stdio::null())
            .status();
    }
}

/// What the storm knows of one name.
#[derive(Default)]
struct Name {
    /// Versions that were answered with 0 or 100, so far.
    pushed: u64,
    live: Option<String>,
    /// What a rollback must go to, where that is known.
    previous: Option<String>,
    pinned: Vec<String>,
}

impl Name {
    fn flipped(&mut self, version: String) {
        if self.live.as_ref() != Some(&version) {
            self.previous = self.live.replace(version);
        }
    }
}

const NAMES: [&str; 3] = ["n0", "n1", "n2"];

/// A storm of random steps over a real node, and what must hold after each.
struct Storm {
    node: TestNode,
    origin: Origin,
    dice: fastrand::Rng,
    names: BTreeMap<&'static str, Name>,
    steps: BTreeMap<&'static str, u64>,
}

impl Storm {
    fn step(&mut self) {
        let name = NAMES[self.dice.usize(..3)];
        let what = match self.dice.u64(..100) {
            0..40 => self.push_next(name),
            40..50 => self.push_again(name),
            50..62 => self.rollback(name),
            62..76 => self.activate(name),
            76..86 => self.pin(name),
            86..92 => self.remove(name),
            92..97 => self.collect(),
            97..99 => self.kill_in_a_push(name),
            _ => self.kill(),
        };
        *self.steps.entry(what).or_default() += 1;
        self.check();
    }

    fn push_next(&mut self, name: &'static str) -> &'static str {
        let known = self.names.entry(name).or_default();
        known.pushed += 1;
        let version = known.pushed.to_string();
        assert_eq!(push(&self.node, &self.origin, name, &version), 0);
        assert_eq!(self.node.finish(name, &version)["state"], "succeeded");
        self.names.entry(name).or_default().flipped(version);
        "push"
    }

    /// Pushes a version that was there once; it may be gone meanwhile, and then it comes anew.
    fn push_again(&mut self, name: &'static str) -> &'static str {
        let pushed = self.names.entry(name).or_default().pushed;
        if pushed == 0 {
            return "nothing";
        }
        let version = (1 + self.dice.u64(..pushed)).to_string();
        let code = push(&self.node, &self.origin, name, &version);
        assert!([0, 100].contains(&code), "{code}");
        self.wait_live(name, &version);
        "push again"
    }

    fn wait_live(&mut self, name: &'static str, version: &str) {
        self.node.finish(name, version);
        self.node
            .wait_for(&format!("{name}@{version} to be live"), PATIENCE, || {
                (self.link(name).as_deref() == Some(version)).then_some(())
            });
        self.names
            .entry(name)
            .or_default()
            .flipped(version.to_owned());
    }

    fn rollback(&mut self, name: &'static str) -> &'static str {
        let body = json!({"app": APP, "name": name});
        let status = self.node.ask("POST", "/v1/rollback", Some(&body)).status;
        let known = self.names.entry(name).or_default();
        match (status, known.previous.take()) {
            (200, Some(previous)) => known.live = Some(previous),
            // Further back than this test remembers.
            (200, None) => {
                let now = fs::read_link(self.node.current(name)).unwrap();
                known.live = Some(now.file_name().unwrap().to_str().unwrap().to_owned());
            }
            (404 | 409, None) => return "no rollback",
            (status, previous) => panic!("rollback of {name} to {previous:?}: {status}"),
        }
        "rollback"
    }

    fn releases(&self, name: &str) -> Vec<Value> {
        let target = format!("/v1/releases?app={APP}&name={name}");
        self.node.ask("GET", &target, None).json()["releases"]
            .as_array()
            .unwrap()
            .clone()
    }

    fn any_version(&mut self, name: &str) -> Option<String> {
        let there = versions(&self.node, name);
        if there.is_empty() {
            return None;
        }
        let n = self.dice.usize(..there.len());
        Some(there[n].clone())
    }

    fn activate(&mut self, name: &'static str) -> &'static str {
        let Some(version) = self.any_version(name) else {
            return "nothing";
        };
        let body = json!({"app": APP, "name": name, "version": version});
        let answer = self.node.ask("POST", "/v1/activate", Some(&body));
        match answer.status {
            200 => {
                self.names.entry(name).or_default().flipped(version);
                "activate"
            }
            // Retention was quicker.
            404 => "nothing",
            status => panic!("activate {name}@{version}: {status}"),
        }
    }

    fn pin(&mut self, name: &'static str) -> &'static str {
        let Some(version) = self.any_version(name) else {
            return "nothing";
        };
        let pinned = self.dice.bool();
        let body = json!({"app": APP, "name": name, "version": version, "pinned": pinned});
        let answer = self.node.ask("POST", "/v1/pin", Some(&body));
        if answer.status != 200 {
            assert_eq!(answer.status, 404);
            return "nothing";
        }
        let known = self.names.entry(name).or_default();
        known.pinned.retain(|p| *p != version);
        if pinned {
            known.pinned.push(version);
        }
        "pin"
    }

    fn remove(&mut self, name: &'static str) -> &'static str {
        let Some(version) = self.any_version(name) else {
            return "nothing";
        };
        let known = self.names.entry(name).or_default();
        let held = known.live.as_ref() == Some(&version) || known.pinned.contains(&version);
        let target = format!("/v1/releases?app={APP}&name={name}&version={version}");
        let status = self.node.ask("DELETE", &target, None).status;
        match held {
            true => assert_eq!(status, 409, "{name}@{version} was removed"),
            false => assert!([200, 404].contains(&status), "{status}"),
        }
        // An operator may take away what a rollback would have gone to.
        if known.previous.as_ref() == Some(&version) {
            known.previous = None;
        }
        "remove"
    }

    fn collect(&mut self) -> &'static str {
        assert_eq!(
            self.node.ask("POST", "/v1/gc", Some(&json!({}))).status,
            200
        );
        "gc"
    }

    fn kill(&mut self) -> &'static str {
        self.node.kill();
        self.node.start();
        "kill"
    }

    fn kill_in_a_push(&mut self, name: &'static str) -> &'static str {
        let known = self.names.entry(name).or_default();
        known.pushed += 1;
        let version = known.pushed.to_string();
        assert_eq!(push(&self.node, &self.origin, name, &version), 0);
        std::thread::sleep(Duration::from_micros(self.dice.u64(..20_000)));
        self.kill();
        self.wait_live(name, &version);
        "kill in a push"
    }

    fn link(&self, name: &str) -> Option<String> {
        let target = fs::read_link(self.node.current(name)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// What must hold after every step.
    fn check(&self) {
        for (&name, known) in &self.names {
            let Some(live) = &known.live else { continue };
            assert_eq!(self.link(name).as_ref(), Some(live), "{name}");
            assert_tree(&self.node.current(name), &site(live, 3));
            let there = versions(&self.node, name);
            for held in known.pinned.iter().chain(&known.previous) {
                assert!(
                    there.contains(held),
                    "{name}@{held} is held, and gone: {there:?}"
                );
            }
        }
    }

    /// What must hold when all is quiet.
    fn check_at_rest(&self) {
        assert_eq!(
            self.node.ask("POST", "/v1/gc", Some(&json!({}))).status,
            200
        );
        for (&name, known) in &self.names {
            let releases = self.releases(name);
            let mut rows: Vec<String> = releases
                .iter()
                .map(|r| r["version"].as_str().unwrap().to_owned())
                .collect();
            rows.sort();
            assert_eq!(
                rows,
                versions(&self.node, name),
                "{name}: database and disk differ"
            );
            let most = 2 + 2 + known.pinned.len();
            assert!(rows.len() <= most, "{name} keeps {rows:?}");
        }
        let verified = self.node.cli(&["verify"]);
        assert!(
            verified.status.success(),
            "{}",
            String::from_utf8_lossy(&verified.stdout)
        );
        self.node.wait_for("trash to be empty", PATIENCE, || {
            self.node.list("trash").is_empty().then_some(())
        });
    }
}

#[test]
fn a_storm_of_random_steps_never_takes_what_is_live_or_pinned() {
    let steps = match std::env::var("EDGEPUSH_TEST_LONG").as_deref() {
        Ok("1") => 10_000,
        _ => 250,
    };
    let extra = "[publish]\nkeep_versions = 2\ndurable = false\n[runner]\nupkeep_every = \"1s\"\n";
    let mut storm = Storm {
        node: TestNode::new(extra),
        origin: Origin::start(),
        dice: dice::seeded(),
        names: BTreeMap::new(),
        steps: BTreeMap::new(),
    };
    storm.node.start();
    for n in 0..steps {
        storm.step();
        if n % 100 == 99 {
            storm.check_at_rest();
        }
    }
    storm.check_at_rest();
    eprintln!("storm: {:?}", storm.steps);
    assert!(http::unix(&storm.node.socket(), "GET", "/healthz", None).is_ok());
}
