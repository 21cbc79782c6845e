//! What people and programs see of the command line: each command against a scripted agent, compared whole with a sample
//! under `tests/data/cli/`. Run with `EDGEPUSH_REWRITE=1` to write the samples anew, and review the difference.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use edgepush::job::EventKind;
use serde_json::{Value, json};

const NOW: i64 = 1_767_323_045_000;

/// An agent that gives one answer per method and path.
struct Script {
    dir: tempfile::TempDir,
}

impl Script {
    fn start(answers: Vec<(&'static str, u16, Value)>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("s")).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, answers) = (stream.unwrap(), answers.clone());
                std::thread::spawn(move || answer(stream, &answers));
            }
        });
        Self { dir }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(&[&["--socket", self.socket().to_str().unwrap()], arguments].concat())
    }
}

fn answer(stream: std::os::unix::net::UnixStream, answers: &[(&str, u16, Value)]) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
        if line.is_empty() {
            break;
        }
    }
    reader
        .by_ref()
        .take(length)
        .read_to_end(&mut Vec::new())
        .ok()?;
    let request = request.trim_end_matches(" HTTP/1.1\r\n");
    let found = answers.iter().find(|(wanted, ..)| *wanted == request);
    let missing = json!({"code": "not-found", "message": format!("no answer to `{request}`")});
    let (status, body) = found.map_or((404, &missing), |(_, status, body)| (*status, body));
    let (kind, body) = match body {
        // A text is an event stream.
        Value::String(events) => ("text/event-stream", events.clone()),
        body => ("application/json", body.to_string()),
    };
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    let mut stream = reader.into_inner();
    stream.write_all((head + &body).as_bytes()).ok()
}

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgepush"))
        .args(arguments)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

/// Compares what a command printed, and how it ended, with the sample.
fn check(sample: &str, output: &Output, hidden: &[(&str, &str)]) {
    let text = |bytes: &[u8]| {
        let mut text = String::from_utf8(bytes.to_vec()).unwrap();
        for (found, shown) in hidden {
            text = text.replace(found, shown);
        }
        text
    };
    let mut found = text(&output.stdout);
    let error = text(&output.stderr);
    if !error.is_empty() {
        found.push_str(&format!("--- standard error\n{error}"));
    }
    found.push_str(&format!("--- exit {}\n", output.status.code().unwrap()));
    let path = Path::new("tests/data/cli").join(format!("{sample}.txt"));
    if std::env::var_os("EDGEPUSH_REWRITE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &found).unwrap();
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, want, "{}", path.display());
}

fn key(name: &str, version: &str) -> Value {
    json!({"app": "app-1", "name": name, "version": version})
}

fn with(mut base: Value, more: Value) -> Value {
    for (key, value) in more.as_object().unwrap() {
        base[key] = value.clone();
    }
    base
}

fn content(size: u64) -> Value {
    json!({"size": size, "md5": "900150983cd24fb0d6963f7d28e17f72", "sha256": null})
}

fn published() -> Value {
    let rest = json!({
        "id": 7, "push": "p-1", "via": "api", "archive_type": "tar.gz", "stated": content(2048),
        "source": "https://cdn.example/maps.tar.gz?…", "timeout_ms": 60_000, "activate": true,
        "state": "succeeded", "status": "SUCCESS", "stage": "publish", "starts": 1, "attempts": 2,
        "not_before_ms": null, "cancel_requested": false, "accepted_ms": NOW - 9_000,
        "started_ms": NOW - 8_900, "updated_ms": NOW - 5_000, "finished_ms": NOW - 5_000,
        "received": 2048, "total": 2048, "fetched": 3000, "files": 12, "written": 9000, "failure": null,
        "published": {"content": content(2048), "files": 12, "bytes": 9000, "fetched": 3000, "activated": true},
        "release": {"live": true, "pinned": false},
        "path": "/var/lib/edgepush/data/app-1/maps/versions/1.0"
    });
    with(key("maps", "1.0"), rest)
}

fn failed() -> Value {
    let failure = json!({
        "stage": "verify", "kind": "digest-mismatch", "class": "content", "retryable": false,
        "message": "match md5 of b\u{1b}[31m.zip", "expected": "00000000000000000000000000000000",
        "found": "900150983cd24fb0d6963f7d28e17f72"
    });
    let rest = json!({
        "id": 8, "name": "b", "version": "2", "state": "failed", "status": "FAILED", "stage": "verify",
        "archive_type": "zip", "failure": failure, "published": null, "release": null, "path": null
    });
    with(published(), rest)
}

fn running() -> Value {
    let rest = json!({
        "id": 9, "name": "big", "version": "3", "state": "running", "status": "PUSHING", "stage": "fetch",
        "finished_ms": null, "received": 512_u64 << 20, "total": 1_u64 << 30, "published": null, "release": null,
        "path": null, "files": 120
    });
    with(published(), rest)
}

fn release() -> Value {
    let rest = json!({
        "job": 7, "content": content(2048), "files": 12, "bytes": 9000, "published_ms": NOW - 5_000,
        "activated_ms": NOW - 5_000, "live": true, "pinned": true, "damage": null, "path": "/d/maps/versions/1.0"
    });
    with(key("maps", "1.0"), rest)
}

#[test]
fn reading_verbs_show_what_the_agent_says() {
    let files = json!({"total": 3, "files": [published(), failed(), running()]});
    let one = json!({"total": 1, "files": [failed()]});
    let old = with(
        release(),
        json!({"version": "0.9", "live": false, "pinned": false}),
    );
    let event = |id: i64, rest: Value| {
        with(
            json!({"id": id, "ts_ms": NOW + id * 1000, "job": 8, "message": ""}),
            rest,
        )
    };
    let events = [
        event(
            1,
            json!({"type": EventKind::Accepted, "message": "by the native API"}),
        ),
        event(
            2,
            json!({"type": EventKind::Retrying, "stage": "fetch", "attempt": 2, "bytes": 1024, "message": "reset by peer"}),
        ),
        event(
            3,
            json!({"type": EventKind::Failed, "stage": "verify", "message": "match md5"}),
        ),
    ];
    let stream: String = events
        .iter()
        .map(|e| {
            format!(
                "id: {}\ndata: {}\n\n",
                e["id"],
                with(e.clone(), key("b", "2"))
            )
        })
        .collect();
    let status = json!({
        "version": "0.1.0", "region": "cn-wuxi-5", "state": "ready", "started_ms": NOW - 3_723_000, "now_ms": NOW,
        "data_dir": "/var/lib/edgepush", "counts": {"succeeded": 12, "failed": 1, "queued": 0, "running": 1},
        "running": [running()], "failures": [failed()], "names": 7, "releases": 15, "bytes": 3_u64 << 29,
        "outbox_pending": 2, "outbox_dead": 1, "disk": {"free": 5_u64 << 30, "total": 20_u64 << 30, "free_inodes": 1000},
        "gc_last_success_ms": null
    });
    let callback = |id: i64, rest: Value| {
        let base = json!({
            "id": id, "endpoint": "cms", "webhook_id": format!("evt_{id}"), "type": "edgepush.file.published",
            "attempts": 0, "created_ms": NOW, "settled_ms": null, "due_in_ms": null, "job": 7
        });
        with(base, rest)
    };
    let callbacks = [
        callback(
            4,
            json!({"state": "dead", "attempts": 9, "last_error": "410 Gone", "settled_ms": NOW}),
        ),
        callback(
            5,
            json!({"state": "pending", "attempts": 1, "due_in_ms": 4200}),
        ),
        callback(6, json!({"state": "pending"})),
    ];
    let endpoint = json!({
        "name": "cms", "target": "https://cms.example:443", "disabled": false, "failures": 3, "pending": 2, "dead": 1,
        "last_error": "503 Service Unavailable", "last_success_ms": NOW
    });
    let outbox = json!({"pending": 2, "dead": 1, "endpoints": [endpoint], "callbacks": callbacks});
    let agent = Script::start(vec![
        ("GET /v1/status", 200, status),
        ("GET /v1/files?limit=1000&offset=0", 200, files),
        (
            "GET /v1/releases?app=app-1",
            200,
            json!({"releases": [release(), old]}),
        ),
        ("GET /v1/files?app=app-1&name=b&version=2", 200, one),
        ("GET /v1/files/8/events", 200, json!({"events": events})),
        ("GET /v1/events?after=0", 200, Value::String(stream)),
        ("GET /v1/outbox?limit=100", 200, outbox),
    ]);
    for (sample, arguments) in [
        ("status", &["status"][..]),
        ("ls", &["ls"]),
        ("ls-versions", &["ls", "app-1", "--versions"]),
        ("show", &["show", "app-1", "b", "2"]),
        ("show-json", &["show", "app-1", "b", "2", "--json"]),
        ("events", &["events"]),
        ("events-json", &["events", "--json"]),
        ("wait", &["wait", "app-1", "b", "2"]),
        ("outbox", &["outbox"]),
    ] {
        check(sample, &agent.run(arguments), &[]);
    }
}

#[test]
fn changing_verbs_say_what_they_did() {
    let which = key("maps", "1.0");
    let activated = json!({"from_version": "0.9", "changed": true});
    let same = json!({"from_version": "1.0", "changed": false});
    let tree = |name, damage: &[&str]| {
        with(
            key(name, "1.0"),
            json!({"files": 12, "bytes": 9000, "damage": damage}),
        )
    };
    let agent = Script::start(vec![
        ("POST /v1/activate", 200, with(which.clone(), activated)),
        ("POST /v1/rollback", 200, with(which.clone(), same)),
        ("POST /v1/pin", 200, json!({"releases": [release()]})),
        (
            "DELETE /v1/releases?app=app-1&name=maps&version=1.0",
            409,
            json!({"code": "conflict", "message": "app-1/maps@1.0 is live"}),
        ),
        (
            "DELETE /v1/releases?app=app-1&name=maps&version=0.9",
            200,
            with(key("maps", "0.9"), json!({"bytes": 9000})),
        ),
        (
            "POST /v1/gc",
            200,
            json!({"removed": [with(key("maps", "0.8"), json!({"bytes": 1 << 20}))], "freed": 2 << 20, "swept": 1}),
        ),
        (
            "POST /v1/verify",
            200,
            json!({"trees": [tree("maps", &[]), tree("tiles", &["a/b: 3 bytes, expected 4"])]}),
        ),
        ("POST /v1/cancel", 200, json!({"job": 9, "ended": false})),
        (
            "POST /v1/retry",
            404,
            json!({"code": "not-found", "message": "no job 3"}),
        ),
        ("POST /v1/outbox/replay", 200, json!({"replayed": 2})),
    ]);
    for (sample, arguments) in [
        ("activate", &["activate", "app-1", "maps", "1.0"][..]),
        ("rollback", &["rollback", "app-1", "maps"]),
        ("pin", &["pin", "app-1", "maps", "1.0"]),
        ("rm-live", &["rm", "app-1", "maps", "1.0"]),
        ("rm", &["rm", "app-1", "maps", "0.9"]),
        ("gc", &["gc"]),
        ("verify", &["verify"]),
        ("cancel", &["cancel", "app-1", "big", "3"]),
        ("cancel-bad", &["cancel", "big"]),
        ("retry", &["retry", "3"]),
        ("outbox-replay", &["outbox", "replay"]),
    ] {
        check(sample, &agent.run(arguments), &[]);
    }
}

#[test]
fn a_push_shows_a_verdict_per_file() {
    let answer = |name: &str, code: u16, result: &str, message: &str, job: Option<i64>| json!({"name": name, "version": "1.0", "code": code, "result": result, "message": message, "job": job});
    let answers = [
        answer(
            "maps",
            100,
            "already-published",
            "published before",
            Some(7),
        ),
        answer("b", 0, "accepted", "Success", Some(8)),
        answer(
            "c",
            300,
            "refused",
            "md5 is required here (verify.require)",
            None,
        ),
    ];
    let agent = Script::start(vec![
        (
            "POST /v1/pushes",
            200,
            json!({"push": "p-1", "answers": answers}),
        ),
        (
            "GET /v1/pushes/p-1",
            200,
            json!({"push": "p-1", "done": true, "files": [failed()]}),
        ),
        ("GET /v1/files/7", 200, published()),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("maps.tar.gz");
    std::fs::write(&archive, "abc").unwrap();
    let maps = format!("maps@1.0={}", archive.display());
    let items = ["https://h/b.zip", "https://h/c.zip#size=7"];
    let items = [
        maps,
        format!("b@1.0={}", items[0]),
        format!("c@1.0={}", items[1]),
    ];
    let hidden = [(dir.path().to_str().unwrap(), "DIR")];
    let push = |more: &[&'static str]| {
        let items = items.iter().map(String::as_str);
        let all: Vec<&str> = ["push", "app-1"].into_iter().chain(items).collect();
        agent.run(&[&all, more].concat())
    };
    check("push", &push(&[]), &hidden);
    check("push-json", &push(&["--json"]), &hidden);
    check("push-dry-run", &push(&["--dry-run"]), &hidden);
    let again = Script::start(vec![
        (
            "POST /v1/pushes",
            200,
            json!({"push": "p-2", "answers": [answers[0]]}),
        ),
        ("GET /v1/files/7", 200, published()),
    ]);
    check(
        "push-again",
        &again.run(&["push", "app-1", &items[0]]),
        &hidden,
    );
    check(
        "push-http-local-file",
        &push(&[
            "--to",
            "http://127.0.0.1:1",
            "--key",
            "k",
            "--secret-file",
            "s",
        ]),
        &hidden,
    );
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let shown = dir.path().to_str().unwrap();
    let hidden = [(shown, "DIR")];
    let config = dir.path().join("edgepush.toml");
    std::fs::write(
        &config,
        "datadir = \"x\"\n\n[log]\nlevel = \"loud\"\n[listn]\n",
    )
    .unwrap();
    let config = config.to_str().unwrap();
    let socket = dir.path().join("none.sock");
    let socket = socket.to_str().unwrap();
    for (sample, arguments) in [
        ("exit-usage", &["ls", "--frobnicate"][..]),
        ("exit-unreachable", &["--socket", socket, "status"]),
        ("exit-config", &["--config", config, "config", "check"]),
        (
            "exit-config-json",
            &["--config", config, "config", "check", "--json"],
        ),
        (
            "exit-no-config",
            &["--config", "/no/such/file.toml", "status"],
        ),
    ] {
        check(sample, &run(arguments), &hidden);
    }
    let empty = Script::start(vec![(
        "GET /v1/files?app=a&name=n&version=1",
        200,
        json!({"total": 0, "files": []}),
    )]);
    check("exit-not-found", &empty.run(&["wait", "a", "n", "1"]), &[]);
}
