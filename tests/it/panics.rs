//! No task dies unseen. A panic is seeded in each (`EDGEPUSH_PANIC`), and the agent keeps its word: the file fails with the
//! kind `internal` and is reported, the task starts again, or the process ends with an error and its next start resumes.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use crate::support::archive::{noise, site, tar_gz, zip};
use crate::support::node::{APP, PATIENCE, TestNode, item};
use crate::support::origin::{Origin, Reply};
use crate::support::receiver::Receiver;

struct Stage {
    origin: Origin,
    receiver: Receiver,
    node: TestNode,
}

impl Stage {
    /// An agent whose first run of `task` panics.
    fn new(task: &str) -> Self {
        let receiver = Receiver::start();
        let mut node = TestNode::new("");
        let secret = node.dir().join("secret");
        fs::write(&secret, "0123456789abcdef0123456789abcdef").unwrap();
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
        let report = format!(
            "{}[report]\nfirst_retry = \"50ms\"\n\n[[report.endpoints]]\nname = \"main\"\nurl = {:?}\nsecret_files = [{secret:?}]\n",
            node.config(),
            receiver.url()
        );
        node.write_config(&report);
        node.set_env("EDGEPUSH_PANIC", task);
        Self {
            origin: Origin::start(),
            receiver,
            node,
        }
    }

    /// Pushes an archive, small or large.
    fn push(&self, name: &str, kind: &str, large: bool) {
        let mut files = site("1", 3);
        if large {
            files.push(("large".to_owned(), noise(2 << 20, 3)));
        }
        let archive = match kind {
            "zip" => zip(&files),
            _ => tar_gz(&files),
        };
        let path = format!("/{name}");
        self.origin.serve(&path, Reply::file(&archive));
        let item = item(name, "1", kind, &archive, &self.origin.url(&path));
        assert_eq!(self.node.push_codes(&[item]), [0]);
    }

    /// The panic is in the log, in the status and in the metrics.
    fn assert_seen(&self, task: &str) {
        let text = format!("seeded in `{task}`");
        self.node.wait_for("the panic in the log", PATIENCE, || {
            let log = self.node.log();
            (log.contains(&text) && log.contains("a task panicked")).then_some(())
        });
        let status = self.node.ask("GET", "/v1/status", None).json();
        assert_eq!(status["panics"], 1, "{task}");
        let metrics = self.node.ask("GET", "/metrics", None).body;
        let metrics = String::from_utf8(metrics).unwrap();
        assert!(metrics.contains("edgepush_panics_total 1\n"), "{task}");
    }

    /// A file takes the whole road, its callback too.
    fn assert_works(&self, task: &str) {
        self.push("after", "tar.gz", true);
        let file = self.node.finish("after", "1");
        assert_eq!(file["state"], "succeeded", "{task}: {file}");
        self.wait_for_callback("edgepush.file.published", "after");
        assert_eq!(self.node.ask("GET", "/readyz", None).status, 200, "{task}");
    }

    fn wait_for_callback(&self, kind: &str, name: &str) {
        let what = format!("the callback {kind} of {name}");
        self.node.wait_for(&what, PATIENCE, || {
            let sent = self.receiver.of_type(kind);
            sent.iter().any(|d| d.name() == name).then_some(())
        });
    }
}

#[test]
fn a_panic_in_the_work_on_a_file_fails_that_file_alone() {
    for (task, large) in [("job", true), ("job", false), ("settle", true)] {
        let mut stage = Stage::new(task);
        stage.node.start();
        stage.push("a", "tar.gz", large);
        let file = stage.node.finish("a", "1");
        assert_eq!(file["state"], "failed", "{task}: {file}");
        assert_eq!(file["failure"]["kind"], "internal", "{task}: {file}");
        stage.wait_for_callback("edgepush.file.failed", "a");
        stage.assert_seen(task);
        stage.assert_works(task);
        let running = stage.node.ask("GET", "/v1/status", None).json();
        assert_eq!(running["running"], json!([]), "{task}");
        assert!(stage.node.stop().success(), "{task}");
    }
}

#[test]
fn a_panic_in_a_thread_of_a_file_fails_that_attempt_and_the_next_publishes() {
    for (task, kind, large) in [
        ("hash", "tar.gz", true),
        ("spool", "tar.gz", true),
        ("unpack", "tar.gz", true),
        ("unpack", "zip", true),
        ("small", "tar.gz", false),
        ("sync", "tar.gz", true),
    ] {
        let mut stage = Stage::new(task);
        stage.node.start();
        stage.push("a", kind, large);
        let file = stage.node.finish("a", "1");
        assert_eq!(file["state"], "succeeded", "{task}: {file}");
        stage.assert_seen(task);
        stage.assert_works(task);
    }
}

#[test]
fn a_panic_in_a_task_that_can_begin_anew_is_a_short_pause() {
    for task in [
        "metrics",
        "callbacks",
        "configuration",
        "inbox",
        "watchdog",
        "upkeep",
        "scrub",
        "log",
        "connection",
        "callback",
    ] {
        let mut stage = Stage::new(task);
        stage.node.start();
        stage.push("a", "tar.gz", false);
        assert_eq!(stage.node.finish("a", "1")["state"], "succeeded", "{task}");
        stage.assert_seen(task);
        stage.assert_works(task);
        stage.wait_for_callback("edgepush.file.published", "a");
        drop_document(&stage.node, "d.json");
        stage.node.wait_for("the document to end", PATIENCE, || {
            let done = stage.node.list("inbox/done");
            done.contains(&"d.json".to_owned()).then_some(())
        });
        assert!(stage.node.stop().success(), "{task}");
    }
}

/// Drops a document that pushes a published file again.
fn drop_document(node: &TestNode, name: &str) {
    let file = node.file("after", "1").unwrap();
    let document = json!({ "AppId": APP, "Data": [{
        "name": "after", "version": "1", "archiveType": "tar.gz", "timeout": 60,
        "url": "http://127.0.0.1:1024/after", "md5": file["md5"],
    }]});
    let path = node.root().join("inbox/new").join(name);
    fs::write(path, document.to_string()).unwrap();
}

#[test]
fn a_panic_in_the_work_on_a_document_fails_that_document_alone() {
    let mut stage = Stage::new("document");
    stage.node.start();
    stage.assert_works("nothing");
    for (name, to) in [("first.json", "failed"), ("second.json", "done")] {
        drop_document(&stage.node, name);
        stage.node.wait_for("the document to end", PATIENCE, || {
            let ended = stage.node.list(&format!("inbox/{to}"));
            ended.contains(&name.to_owned()).then_some(())
        });
    }
    stage.assert_seen("document");
}

/// 1. A task panics that the others need. 2. The process ends with an error. 3. The next start does what was accepted.
#[test]
fn a_panic_in_a_task_that_others_need_ends_the_process_and_the_next_start_resumes() {
    for task in ["runner", "listeners", "keep", "store", "store-commit"] {
        let mut stage = Stage::new(task);
        stage.node.spawn();
        let status = stage.node.wait_end();
        assert_eq!(status.code(), Some(1), "{task}: {}", stage.node.log());
        let log = stage.node.log();
        assert!(
            log.contains(&format!("seeded in `{task}`")),
            "{task}: {log}"
        );
        stage.node.set_env("EDGEPUSH_PANIC", "");
        stage.node.start();
        stage.assert_works(task);
    }
}

/// 1. A repeated push lets the repair check a tree. 2. The repair panics. 3. It is shown, and runs again.
#[test]
fn a_panic_in_the_repair_is_counted_and_the_next_round_runs() {
    let mut stage = Stage::new("repair");
    stage.node.start();
    stage.assert_works("repair");
    stage.assert_seen("repair");
}
