//! The configuration files that are shipped: they load, and the commented one is complete and tells the truth.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use edgepush::config::{Config, Keys, Sources};
use toml::{Table, Value};

fn load(file: &Path) -> Config {
    let sources = Sources {
        file: Some(file.to_owned()),
        ..Sources::default()
    };
    match sources.load() {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn every_shipped_file_loads() {
    let files: Vec<PathBuf> = std::fs::read_dir("config")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "toml"))
        .collect();
    assert!(files.len() >= 2, "{files:?}");
    for file in files {
        load(&file);
    }
}

#[test]
fn the_commented_file_changes_nothing() {
    let shipped = Table::try_from(load(Path::new("config/edgepush.toml"))).unwrap();
    assert_eq!(shipped, Table::try_from(Config::default()).unwrap());
}

#[test]
fn the_commented_file_shows_every_key_with_its_default_and_a_sentence() {
    let text = std::fs::read_to_string("config/edgepush.toml").unwrap();
    let shown = flat(&uncomment(&text).parse().unwrap());
    let defaults = flat(&Table::try_from(Config::default()).unwrap());
    for known in Keys::of::<Config>().dotted() {
        // A list of tables, or a table with any keys, is shown as a whole, and an example in the comment shows its keys.
        let end = known.find("[]").or(known.find(".*"));
        let key = &known[..end.unwrap_or(known.len())];
        let value = shown.get(key);
        assert!(
            value.is_some(),
            "config/edgepush.toml does not show `{key}`"
        );
        // A key without a default is shown with an example.
        if let Some(default) = defaults.get(key) {
            assert_eq!(value, Some(default), "`{key}`");
        }
        let last = known.rsplit('.').next().unwrap_or_default();
        if end.is_some() && last != "*" {
            assert!(
                text.contains(&format!("{last} = ")),
                "no example of `{known}`"
            );
        }
    }
    if let Err(error) = toml::from_str::<Config>(&uncomment(&text)) {
        panic!("{error}");
    }
}

/// Every configuration key that a text names in backquotes exists.
#[test]
fn texts_name_keys_that_exist() {
    let keys = Keys::of::<Config>();
    let Keys::Table(sections) = &keys else {
        panic!("the configuration is a table");
    };
    let known = keys.dotted();
    let exists = |word: &str| {
        let below = format!("{word}.");
        known
            .iter()
            .map(|key| key.replace("[]", ""))
            .any(|key| key == word || key.starts_with(&below))
    };
    let mut files = vec![PathBuf::from("README.md"), "CHANGELOG.md".into()];
    for directory in ["docs", "systemd", "config", "src"] {
        files.extend(texts_below(Path::new(directory)));
    }
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // Unit tests of the loader misspell keys on purpose.
        let text = text.split("mod tests {").next().unwrap_or_default();
        let quoted = |line| str::split(line, '`').skip(1).step_by(2);
        for word in text.lines().flat_map(quoted) {
            let plain = |c: char| c.is_ascii_lowercase() || matches!(c, '_' | '.');
            let section = word.split_once('.').map(|(section, _)| section);
            let is_key = word.chars().all(plain)
                && !word.ends_with(".rs")
                && section.is_some_and(|name| sections.contains_key(name));
            seen += usize::from(is_key);
            if is_key && !exists(word) {
                wrong.push(format!("{}: `{word}`", file.display()));
            }
        }
    }
    assert!(seen > 50, "found only {seen} keys");
    assert!(wrong.is_empty(), "no such key:\n{}", wrong.join("\n"));
}

fn texts_below(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let extension = path.extension().and_then(|e| e.to_str());
        if path.is_dir() {
            found.extend(texts_below(&path));
        } else if matches!(
            extension,
            Some("md" | "toml" | "rs" | "service" | "socket" | "conf")
        ) {
            found.push(path);
        }
    }
    found
}

/// Takes the `#` from each line that shows a key, and sees that a sentence stands above it.
fn uncomment(text: &str) -> String {
    let mut out = String::new();
    let mut above = "";
    for line in text.lines() {
        let active = line.strip_prefix('#').filter(|rest| {
            let key = rest.split(" = ").next().unwrap_or_default();
            !key.is_empty() && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        if active.is_some() {
            assert!(above.starts_with("# "), "no sentence above `{line}`");
        }
        out.push_str(active.unwrap_or(line));
        out.push('\n');
        above = line;
    }
    out
}

fn flat(table: &Table) -> BTreeMap<String, Value> {
    fn collect(prefix: &str, table: &Table, out: &mut BTreeMap<String, Value>) {
        for (key, value) in table {
            let key = match prefix {
                "" => key.clone(),
                _ => format!("{prefix}.{key}"),
            };
            match value {
                Value::Table(below) if !below.is_empty() => collect(&key, below, out),
                Value::Array(list) if list.first().is_some_and(Value::is_table) => {
                    for below in list.iter().filter_map(Value::as_table) {
                        collect(&format!("{key}[]"), below, out);
                    }
                }
                value => {
                    out.insert(key, value.clone());
                }
            }
        }
    }
    let mut out = BTreeMap::new();
    collect("", table, &mut out);
    out
}

/// An agent that asks for no digest is told to reload a changed configuration: from then on a push without a
/// digest is refused, the new umask is on the next tree, and what waits for a restart is said by name.
#[test]
fn a_reload_takes_what_it_can_and_names_what_it_cannot() {
    use crate::support::archive::md5;
    use crate::support::node::TestNode;
    use serde_json::json;

    let mut node = TestNode::new("");
    node.start();
    let tar = {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(1);
        header.set_mode(0o777);
        builder.append_data(&mut header, "a", &b"x"[..]).unwrap();
        builder.into_inner().unwrap()
    };
    let file = node.dir().join("a.tar");
    std::fs::write(&file, &tar).unwrap();
    let url = format!("file://{}", file.display());
    let item = |name: &str, digest: bool| {
        let mut item = json!({"name": name, "version": "1", "archiveType": "tar", "size": tar.len(), "url": url});
        if digest {
            item["md5"] = md5(&tar).into();
        }
        item
    };
    assert_eq!(node.push_codes(&[item("before", false)]), [0]);
    assert_eq!(node.finish("before", "1")["state"], "succeeded");

    let config = node.config().to_owned();
    node.write_config(&format!(
        "{config}\n[verify]\nrequire = \"md5\"\n[unpack]\numask = \"0077\"\n[publish]\nkeep_archives = false\n[log]\nlevel = \"debug\"\n[store]\nreaders = 2\n"
    ));
    let waits = node.wait_for("the reload", std::time::Duration::from_secs(30), || {
        let status = node.ask("GET", "/v1/status", None).json();
        status.get("restart_needed").cloned()
    });
    assert_eq!(waits, json!(["log.level", "store.readers"]));
    let refused = &node.push(&[item("none", false)])[0];
    assert_eq!(refused["code"], 300, "{refused}");
    assert_eq!(refused["refusal"], "digest-required", "{refused}");
    assert_eq!(node.push_codes(&[item("after", true)]), [0]);
    assert_eq!(node.finish("after", "1")["state"], "succeeded");
    let mode = |name: &str| {
        use std::os::unix::fs::PermissionsExt;
        let file = std::fs::metadata(node.current(name).join("a")).unwrap();
        file.permissions().mode() & 0o777
    };
    assert_eq!((mode("before"), mode("after")), (0o755, 0o700));
    assert_eq!(node.list("archives/app-1/after"), Vec::<String>::new());
    let log = node.log();
    assert!(
        log.contains("restart-needed") && log.contains("log.level, store.readers"),
        "{log}"
    );

    node.write_config(&config);
    node.wait_for("the way back", std::time::Duration::from_secs(30), || {
        let status = node.ask("GET", "/v1/status", None).json();
        status.get("restart_needed").is_none().then_some(())
    });
}

/// A file in `conf.d` counts as soon as it is there, when it changes, and no longer when it is gone; the directory need not be
/// there at the start.
#[test]
fn files_beside_the_configuration_come_and_go() {
    use crate::support::node::TestNode;
    use serde_json::{Value, json};

    let mut node = TestNode::new("");
    node.start();
    let dir = node.dir().join("conf.d");
    let waits = |wanted: Value| {
        node.wait_for("the reload", std::time::Duration::from_secs(30), || {
            let status = node.ask("GET", "/v1/status", None).json();
            (status.get("restart_needed").unwrap_or(&Value::Null) == &wanted).then_some(())
        });
    };
    for _ in 0..2 {
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("30.toml"), "[store]\nreaders = 2\n").unwrap();
        waits(json!(["store.readers"]));
        std::fs::write(dir.join("40.toml"), "[log]\nlevel = \"debug\"\n").unwrap();
        waits(json!(["log.level", "store.readers"]));
        std::fs::write(dir.join("30.toml"), "# nothing\n").unwrap();
        waits(json!(["log.level"]));
        std::fs::remove_file(dir.join("40.toml")).unwrap();
        waits(Value::Null);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}

/// What would end the agent at its start is said by a check, with the file, the line and the key.
#[test]
fn a_check_finds_what_a_start_would() {
    use std::os::unix::fs::PermissionsExt;
    use std::process::Command;

    let temp = tempfile::tempdir().unwrap();
    let path = |name: &str| temp.path().join(name);
    for (name, content, mode) in [
        ("good", "0123456789abcdef0123456789", 0o600),
        ("open", "0123456789abcdef0123456789", 0o644),
        ("empty", "", 0o600),
    ] {
        std::fs::write(path(name), content).unwrap();
        std::fs::set_permissions(path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    let check = |text: &str| {
        let file = path("edgepush.toml");
        let text = text.replace("DIR", temp.path().to_str().unwrap());
        std::fs::write(&file, &text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_edgepush"))
            .arg("--config")
            .arg(&file)
            .args(["config", "check", "--json"])
            .output()
            .unwrap();
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["ok"] == true, output.status.success(), "{text}");
        answer["problems"].as_array().unwrap().clone()
    };
    let key = |rest: &str| format!("[api]\naccess_keys = [{{ id = \"a\"{rest} }}]\n");
    let endpoint = |rest: &str| {
        format!("[[report.endpoints]]\nname = \"e\"\nurl = \"http://127.0.0.1:1/\"\n{rest}\n")
    };
    let good = "secret_files = [\"DIR/good\"]";
    for text in [
        key(", secret_file = \"DIR/good\""),
        // The service manager gives it to the agent alone.
        key(", secret_file = \"credential\""),
        endpoint(good),
    ] {
        assert_eq!(check(&text), [] as [serde_json::Value; 0], "{text}");
    }
    for (text, wanted) in [
        (key(""), "api.access_keys"),
        (key(", secret_file = \"DIR/none\""), "api.access_keys"),
        (key(", secret_file = \"DIR/open\""), "api.access_keys"),
        (key(", secret_file = \"DIR/empty\""), "api.access_keys"),
        (endpoint("secret_files = []"), "report"),
        (endpoint("secret_files = [\"DIR/open\"]"), "report"),
        (endpoint(good).repeat(2), "report"),
        ("[report]\nparallel = 0".to_owned(), "report"),
        (
            "[fetch]\nextra_ca = [\"DIR/none\"]".to_owned(),
            "fetch.extra_ca",
        ),
        ("[runner]\nstarts = 0".to_owned(), "runner.starts"),
        (
            "[runner]\nupkeep_every = \"0s\"".to_owned(),
            "runner.upkeep_every",
        ),
        (
            "[unpack.limits]\nmax_depth = 0".to_owned(),
            "unpack.limits.max_depth",
        ),
    ] {
        let problems = check(&text);
        assert_eq!(problems.len(), 1, "{text}: {problems:?}");
        assert_eq!(problems[0]["key"], wanted, "{problems:?}");
        let origin = problems[0]["origin"].as_str().unwrap();
        assert!(origin.contains("edgepush.toml:"), "{origin}");
    }
}
