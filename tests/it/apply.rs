//! The first command of the README: `edgepush apply` on the shipped quickstart, as a newcomer types it.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::origin::{Origin, Reply};

/// A copy of the shipped quickstart in a directory of its own.
fn quickstart() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in fs::read_dir("config/quickstart").unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), dir.path().join(entry.file_name())).unwrap();
    }
    dir
}

fn apply(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_edgepush"))
        .arg("apply")
        .args(arguments)
        .current_dir(dir)
        .env_clear()
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The rows of `--json`, as (name, result).
fn results(output: &Output) -> Vec<(String, String)> {
    let error = String::from_utf8_lossy(&output.stderr);
    let all: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {error}"));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let rows = all["files"].as_array().unwrap().iter();
    rows.map(|f| (text(&f["name"]), text(&f["result"])))
        .collect()
}

fn pairs(pairs: [(&str, &str); 2]) -> Vec<(String, String)> {
    pairs.map(|(a, b)| (a.to_owned(), b.to_owned())).to_vec()
}

#[test]
fn publishes_and_the_next_time_fetches_nothing() {
    let dir = quickstart();
    let first = apply(dir.path(), &["push.json", "--json"]);
    let both = pairs([("site", "published"), ("catalog", "published")]);
    assert_eq!(results(&first), both);
    assert_eq!(code(&first), 0);
    let live = dir.path().join("edgepush-data/data/quickstart");
    assert!(live.join("site/current/pages/24.html").exists());
    assert!(live.join("catalog/current/shelves/12.json").exists());
    // What is not there cannot be fetched.
    for archive in ["site-1.0.tar.gz", "catalog-1.0.zip"] {
        fs::remove_file(dir.path().join(archive)).unwrap();
    }
    let second = apply(dir.path(), &["push.json", "--json"]);
    let both = pairs([("site", "already-there"), ("catalog", "already-there")]);
    assert_eq!(results(&second), both);
    assert_eq!(code(&second), 0);
}

#[test]
fn a_damaged_archive_fails_alone_with_expected_and_found_digest() {
    let dir = quickstart();
    let path = dir.path().join("site-1.0.tar.gz");
    let mut bytes = fs::read(&path).unwrap();
    bytes[700] ^= 1;
    fs::write(&path, bytes).unwrap();
    let document: Value =
        serde_json::from_slice(&fs::read(dir.path().join("push.json")).unwrap()).unwrap();
    let output = apply(dir.path(), &["push.json"]);
    assert_eq!(code(&output), 1);
    let text = String::from_utf8(output.stdout).unwrap();
    let expected = document["Data"][0]["md5"].as_str().unwrap();
    assert!(text.contains(&format!("expected  {expected}")), "{text}");
    assert!(text.contains("  found     "), "{text}");
    let live = dir.path().join("edgepush-data/data/quickstart");
    assert!(!live.join("site/current").exists());
    assert!(live.join("catalog/current").exists());
}

#[test]
fn a_lost_database_is_rebuilt_from_the_disk() {
    let dir = quickstart();
    assert_eq!(code(&apply(dir.path(), &["push.json"])), 0);
    let data = dir.path().join("edgepush-data");
    for entry in fs::read_dir(&data).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("edgepush.db") {
            fs::remove_file(path).unwrap();
        }
    }
    let recover = || {
        Command::new(env!("CARGO_BIN_EXE_edgepush"))
            .args(["recover", "--data-dir"])
            .arg(&data)
            .output()
            .unwrap()
    };
    let said = recover();
    let error = String::from_utf8_lossy(&said.stderr);
    let said = String::from_utf8(said.stdout).unwrap();
    let entered = said.starts_with("2 versions entered from the disk\n");
    assert!(
        entered && said.contains("site@1.0: it was on the disk"),
        "{said}{error}"
    );
    let again = String::from_utf8(recover().stdout).unwrap();
    assert_eq!(again, "0 versions entered from the disk\n");
    let both = pairs([("site", "already-there"), ("catalog", "already-there")]);
    assert_eq!(results(&apply(dir.path(), &["push.json", "--json"])), both);
}

/// An origin that fails at first is no reason for silence: each retry is a line for the person who waits.
#[test]
fn a_retry_is_shown_while_it_waits() {
    let origin = Origin::start();
    let archive = fs::read("config/quickstart/site-1.0.tar.gz").unwrap();
    origin.script("/s", [Reply::status(503), Reply::file(archive)]);
    let dir = tempfile::tempdir().unwrap();
    let file =
        json!({"name": "site", "version": "1", "archiveType": "tar.gz", "url": origin.url("/s")});
    let document = json!({"AppId": "a", "Data": [file]});
    fs::write(dir.path().join("push.json"), document.to_string()).unwrap();
    fs::write(
        dir.path().join("c.toml"),
        "[fetch]\nallow = [\"127.0.0.1\"]\n",
    )
    .unwrap();
    let output = apply(dir.path(), &["push.json", "--config", "c.toml"]);
    let error = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(code(&output), 0, "{error}");
    let retry = error
        .lines()
        .find(|line| line.starts_with("site@1: ") && line.contains("503"));
    assert!(retry.is_some(), "{error}");
}

#[test]
fn state_goes_where_it_is_told() {
    let dir = quickstart();
    let output = apply(dir.path(), &["push.json", "--data-dir", "elsewhere"]);
    assert_eq!(code(&output), 0);
    assert!(
        dir.path()
            .join("elsewhere/data/quickstart/site/current")
            .exists()
    );
    assert!(!dir.path().join("edgepush-data").exists());
}

#[test]
fn a_bad_document_names_the_place_and_nothing_is_taken() {
    for (text, place) in [
        ("{", "not JSON"),
        ("[]", "expected an object"),
        (r#"{"AppId":"a","Data":[]}"#, "Data"),
        (r#"{"AppId":"a","Dta":[]}"#, "Dta"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("push.json"), text).unwrap();
        let output = apply(dir.path(), &["push.json"]);
        let error = String::from_utf8(output.stderr.clone()).unwrap();
        assert_eq!(code(&output), 1, "{text}: {error}");
        assert!(
            error.contains("`push.json`: ") && error.contains(place),
            "{text}: {error}"
        );
        assert!(!dir.path().join("edgepush-data").exists(), "{text}");
    }
    let missing = apply(Path::new("/"), &["no-such-push.json"]);
    assert_eq!(code(&missing), 1);
}

/// A document with a byte order mark, as some editors write it, and with a bad element.
#[test]
fn a_bad_element_is_refused_and_the_others_are_published() {
    let dir = quickstart();
    let text = fs::read_to_string(dir.path().join("push.json")).unwrap();
    let bad = r#""Data": [{"name":"site","version":"1.0","archiveType":"rar","url":"x"},"#;
    assert!(text.contains("\"Data\": ["), "{text}");
    let text = format!("\u{feff}{}", text.replacen("\"Data\": [", bad, 1));
    fs::write(dir.path().join("push.json"), text).unwrap();
    let output = apply(dir.path(), &["push.json", "--json"]);
    let shown = results(&output);
    let results: Vec<&str> = shown.iter().map(|(_, result)| result.as_str()).collect();
    assert_eq!(results, ["refused", "published", "published"]);
    assert_eq!(code(&output), 1);
}
