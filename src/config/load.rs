//! Reads a configuration from its sources, and records where each value came from.
//!
//! Each source is checked by itself first, so that a mistake is reported with its file and line. Then later
//! sources override earlier ones, key by key; lists are replaced whole.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Deserialize as _;
use toml::de::{DeTable, DeValue};
use toml::{Spanned, Table, Value};

use super::problem::wish;
use super::{Config, Error, Keys, Origin, Problem};

/// The configuration file unless a flag names another.
pub const DEFAULT_FILE: &str = "/etc/edgepush/edgepush.toml";
/// Prefix of variables: `EDGEPUSH_LISTEN__HTTP` is `listen.http`.
pub const ENV_PREFIX: &str = "EDGEPUSH_";

impl Loaded {
    /// Returns where `key` was set, or else the first key below it.
    #[must_use]
    pub fn origin_of(&self, key: &str) -> Origin {
        let below = format!("{key}.");
        let exact = self.origins.get(key);
        let found = exact.or_else(|| {
            let mut keys = self.origins.iter();
            keys.find(|(k, _)| k.starts_with(&below) || k.starts_with(&format!("{key}[")))
                .map(|(_, origin)| origin)
        });
        found.cloned().unwrap_or(Origin::Default)
    }
}

/// The sources of a configuration. To reload, load them again.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file; `conf.d/*.toml` next to it is read too, in the order of names. `None` reads no file.
    pub file: Option<PathBuf>,
    pub env: Vec<(String, String)>,
    /// Values set by flags: flag, key, value.
    pub flags: Vec<(&'static str, &'static str, Value)>,
}

/// A file, and the modification time, length and inode that distinguish its contents; `None` if it
/// cannot be examined.
pub type FileStamp = (PathBuf, Option<(SystemTime, u64, u64)>);

/// A valid configuration.
#[derive(Debug, Clone)]
pub struct Loaded {
    pub config: Config,
    /// Where each value that is not the default came from, by dotted key.
    pub origins: BTreeMap<String, Origin>,
    /// The files that were read, in their order.
    pub files: Vec<FileStamp>,
}

impl Sources {
    /// Returns `file`, or else [`DEFAULT_FILE`] if it is there, and the environment of this process.
    #[must_use]
    pub fn of_process(file: Option<PathBuf>) -> Self {
        let default = Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
        Self {
            file: file.or(default),
            ..Self::env_of_process()
        }
    }

    /// Returns the environment of this process and no file.
    #[must_use]
    pub fn env_of_process() -> Self {
        let text = |os: std::ffi::OsString| os.into_string().ok();
        Self {
            env: std::env::vars_os()
                .filter_map(|(name, value)| Some((text(name)?, text(value)?)))
                .collect(),
            ..Self::default()
        }
    }

    /// Reads and checks everything.
    pub fn load(&self) -> Result<Loaded, Error> {
        let mut layers = Layers::new();
        // Before they are read: what changes meanwhile has another stamp later.
        let files = self.stamps()?;
        for (path, _) in &files {
            let text = std::fs::read_to_string(path).map_err(|source| Error::Read {
                path: path.clone(),
                source,
            })?;
            layers.add_file(path, &text);
        }
        let mut env = self.env.clone();
        env.sort();
        for (name, value) in &env {
            layers.add_variable(name, value);
        }
        for (flag, key, value) in &self.flags {
            layers.add_value(key, value.clone(), Origin::Flag(flag));
        }
        layers.finish(files)
    }

    /// Returns the directories of the files, whether or not they exist.
    #[must_use]
    pub fn directories(&self) -> Vec<PathBuf> {
        let Some(file) = &self.file else {
            return Vec::new();
        };
        let parent = match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        vec![parent, file.with_file_name("conf.d")]
    }

    /// Returns the files that a load reads, in their order, with their stamps.
    pub fn stamps(&self) -> Result<Vec<FileStamp>, Error> {
        let stamp = |path: PathBuf| {
            let stamp = std::fs::metadata(&path)
                .and_then(|m| Ok((m.modified()?, m.len(), m.ino())))
                .ok();
            (path, stamp)
        };
        Ok(self.files()?.into_iter().map(stamp).collect())
    }

    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let Some(file) = &self.file else {
            return Ok(Vec::new());
        };
        let dir = file.with_file_name("conf.d");
        let mut extra = match std::fs::read_dir(&dir) {
            Ok(entries) => entries
                .map(|entry| entry.map(|e| e.path()))
                .collect::<Result<Vec<_>, _>>()
                .map_err(|source| Error::Read { path: dir, source })?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(Error::Read { path: dir, source }),
        };
        extra.retain(|path| path.extension().is_some_and(|e| e == "toml"));
        extra.sort();
        extra.insert(0, file.clone());
        Ok(extra)
    }
}

/// The sources read so far.
struct Layers {
    keys: Keys,
    merged: Table,
    origins: BTreeMap<String, Origin>,
    problems: Vec<Problem>,
}

impl Layers {
    fn new() -> Self {
        Self {
            keys: Keys::of::<Config>(),
            merged: Table::new(),
            origins: BTreeMap::new(),
            problems: Vec::new(),
        }
    }

    fn add_file(&mut self, path: &Path, text: &str) {
        let at = |offset: usize| {
            let line = text[..offset.min(text.len())].matches('\n').count() + 1;
            Origin::File(path.to_owned(), line)
        };
        let document = match DeTable::parse(text) {
            Ok(document) => document.into_inner(),
            Err(error) => {
                let start = error.span().map_or(0, |span| span.start);
                return self.problem(at(start), "", format!("not TOML: {}", error.message()));
            }
        };
        let known_before = self.problems.len();
        let keys = self.keys.clone();
        walk(&document, &keys, "", &mut |key, offset, known| {
            if known {
                self.origins.insert(key.to_owned(), at(offset));
            } else {
                self.unknown(at(offset), key);
            }
        });
        if self.problems.len() > known_before {
            return;
        }
        match (toml::from_str::<Config>(text), text.parse::<Table>()) {
            (Ok(_), Ok(table)) => merge(&mut self.merged, table),
            (Err(error), _) | (_, Err(error)) => {
                let start = error.span().map_or(0, |span| span.start);
                let key = key_at(&document, start).unwrap_or_default();
                self.problem(at(start), &key, wish(&error));
            }
        }
    }

    /// Adds a variable whose name is a key. A name without `__` that is not a key is ignored: Kubernetes puts
    /// `EDGEPUSH_PORT` and the like into containers when a service has that name.
    fn add_variable(&mut self, name: &str, text: &str) {
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            return;
        };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        let origin = Origin::Env(name.to_owned());
        if !is_known(&self.keys, &key) {
            if rest.contains("__") {
                self.unknown(origin, &key);
            }
            return;
        }
        // Valid TOML may still be meant as text: a node may be called `7`.
        let plain = Value::String(text.to_owned());
        let parsed = format!("v = {text}")
            .parse::<Table>()
            .ok()
            .and_then(|mut table| table.remove("v"));
        let fits = |value: &Value| Config::deserialize(nest(&key, value.clone())).is_ok();
        let value = parsed.filter(fits).unwrap_or(plain);
        self.add_value(&key, value, origin);
    }

    fn add_value(&mut self, key: &str, value: Value, origin: Origin) {
        let table = nest(key, value);
        match Config::deserialize(table.clone()) {
            Ok(_) => {
                merge(&mut self.merged, table);
                self.origins.insert(key.to_owned(), origin);
            }
            Err(error) => self.problem(origin, key, wish(&error)),
        }
    }

    fn finish(mut self, files: Vec<FileStamp>) -> Result<Loaded, Error> {
        if !self.problems.is_empty() {
            return Err(Error::Invalid(self.problems));
        }
        let mut config = match Config::deserialize(self.merged.clone()) {
            Ok(config) => config,
            Err(error) => {
                self.problem(Origin::Default, "", error.to_string());
                return Err(Error::Invalid(self.problems));
            }
        };
        config.share_apps();
        for (key, what) in config.conflicts() {
            let origin = self.origins.get(&key).cloned().unwrap_or(Origin::Default);
            self.problem(origin, &key, what);
        }
        if self.problems.is_empty() {
            Ok(Loaded {
                config,
                origins: self.origins,
                files,
            })
        } else {
            Err(Error::Invalid(self.problems))
        }
    }

    fn unknown(&mut self, origin: Origin, key: &str) {
        let hint = self
            .keys
            .nearest(key)
            .map(|near| format!(", did you mean `{near}`?"))
            .unwrap_or_default();
        self.problem(origin, key, format!("unknown key{hint}"));
    }

    fn problem(&mut self, origin: Origin, key: &str, what: String) {
        let key = key.to_owned();
        self.problems.push(Problem { origin, key, what });
    }
}

type Document<'i> = toml::map::Map<Spanned<std::borrow::Cow<'i, str>>, Spanned<DeValue<'i>>>;

/// Calls `visit` for each value in `table` and each unknown key: dotted key, offset, whether it is known.
fn walk(table: &Document<'_>, keys: &Keys, prefix: &str, visit: &mut dyn FnMut(&str, usize, bool)) {
    for (name, value) in table {
        let key = dotted(prefix, name.get_ref());
        let offset = name.span().start;
        let below = match keys {
            Keys::Table(known) => known.get(name.get_ref().as_ref()),
            Keys::Map(below) => Some(&**below),
            Keys::Value | Keys::List(_) => None,
        };
        match (below, value.get_ref()) {
            (None, _) => visit(&key, offset, false),
            (Some(below @ (Keys::Table(_) | Keys::Map(_))), DeValue::Table(inner)) => {
                walk(inner, below, &key, visit);
            }
            (Some(Keys::List(element)), DeValue::Array(list)) => {
                visit(&key, offset, true);
                for inner in list.iter().filter_map(|v| v.get_ref().as_table()) {
                    walk(inner, element, &format!("{key}[]"), visit);
                }
            }
            (Some(_), _) => visit(&key, offset, true),
        }
    }
}

/// Returns the dotted key whose value is at `offset`.
fn key_at(table: &Document<'_>, offset: usize) -> Option<String> {
    for (name, value) in table {
        let below = match value.get_ref() {
            DeValue::Table(inner) => key_at(inner, offset),
            DeValue::Array(list) => list
                .iter()
                .filter_map(|v| v.get_ref().as_table())
                .find_map(|inner| key_at(inner, offset)),
            _ => None,
        };
        if let Some(below) = below {
            return Some(dotted(name.get_ref(), &below));
        }
        if value.span().contains(&offset) || name.span().contains(&offset) {
            return Some(name.get_ref().to_string());
        }
    }
    None
}

fn dotted(prefix: &str, name: &str) -> String {
    match prefix {
        "" => name.to_owned(),
        _ => format!("{prefix}.{name}"),
    }
}

fn is_known(keys: &Keys, key: &str) -> bool {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    let below = match keys {
        Keys::Table(known) => known.get(first),
        Keys::Map(below) => Some(&**below),
        Keys::Value | Keys::List(_) => None,
    };
    match (below, rest) {
        (None, _) => false,
        (Some(below), "") => matches!(below, Keys::Value | Keys::List(_)),
        (Some(below), rest) => is_known(below, rest),
    }
}

/// Returns a table with only `value` at the dotted `key`.
fn nest(key: &str, value: Value) -> Table {
    let (first, rest) = key.split_once('.').unwrap_or((key, ""));
    let value = match rest {
        "" => value,
        rest => Value::Table(nest(rest, value)),
    };
    Table::from_iter([(first.to_owned(), value)])
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new)) => merge(old, new),
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        pairs.iter().map(own).collect()
    }

    fn problems(sources: &Sources) -> Vec<String> {
        match sources.load() {
            Err(Error::Invalid(problems)) => problems.iter().map(ToString::to_string).collect(),
            other => panic!("expected problems, found {other:?}"),
        }
    }

    #[test]
    fn flag_beats_environment_beats_later_file_beats_earlier_file() {
        let dir = tempfile::tempdir().unwrap();
        let main = file(
            dir.path(),
            "edgepush.toml",
            "data_dir = \"/a\"\n[listen]\nhttp = \"127.0.0.1:1\"\nsocket = \"/s\"\n[log]\nlevel = \"warn\"\n",
        );
        let second = file(
            dir.path(),
            "conf.d/20-b.toml",
            "listen.http = \"127.0.0.1:2\"",
        );
        file(
            dir.path(),
            "conf.d/10-a.toml",
            "\nlisten.http = \"off\"\nlog.format = \"json\"",
        );
        file(dir.path(), "conf.d/readme.txt", "no TOML");
        let sources = Sources {
            file: Some(main.clone()),
            env: env(&[
                ("EDGEPUSH_LOG__LEVEL", "debug"),
                ("EDGEPUSH_DATA_DIR", "/b"),
            ]),
            flags: vec![("--data-dir", "data_dir", "/c".into())],
        };
        let Loaded {
            config,
            origins,
            files,
        } = sources.load().unwrap();
        assert_eq!(files.len(), 3);
        assert_eq!(files[0].0, main);
        assert_eq!(config.data_dir, Path::new("/c"));
        assert_eq!(config.listen.http.unwrap().port(), 2);
        assert_eq!(config.listen.socket, Path::new("/s"));
        assert_eq!(config.log.level, crate::config::Level::Debug);
        assert_eq!(config.log.format, crate::config::Format::Json);
        assert_eq!(origins["listen.http"], Origin::File(second, 1));
        assert_eq!(origins["listen.socket"], Origin::File(main, 4));
        assert_eq!(origins["data_dir"], Origin::Flag("--data-dir"));
    }

    #[test]
    fn reports_file_line_key_and_the_key_that_was_meant() {
        let dir = tempfile::tempdir().unwrap();
        let text = "datadir = \"/a\"\n\n[listen]\nhtpp = \"off\"\nmood = 1\n[colour]\nred = 1\n";
        let path = file(dir.path(), "e.toml", text);
        let shown = path.display();
        let sources = Sources {
            file: Some(path.clone()),
            ..Sources::default()
        };
        let mut found = problems(&sources);
        found.sort();
        let want = [
            format!("{shown}:1: `datadir`: unknown key, did you mean `data_dir`?"),
            format!("{shown}:4: `listen.htpp`: unknown key, did you mean `listen.http`?"),
            format!("{shown}:5: `listen.mood`: unknown key"),
            format!("{shown}:6: `colour`: unknown key"),
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn what_differs_for_an_application_has_one_place() {
        let dir = tempfile::tempdir().unwrap();
        let text = "[apps.maps]\nactivate = \"manual\"\nkeep_versions = 5\nmax_bytes = \"2KiB\"\n\
                    [apps.\"a b\"]\nbandwidth = \"1KiB\"\nzip_name_encoding = \"gbk\"\n";
        let sources = Sources {
            file: Some(file(dir.path(), "e.toml", text)),
            ..Sources::default()
        };
        let config = sources.load().unwrap().config;
        let app = |id| crate::datafile::AppId::parse(id).unwrap();
        let (maps, other) = (app("maps"), app("a b"));
        assert_ne!(config.intake.activate_of(&maps), config.intake.activate);
        assert_eq!(config.intake.activate_of(&other), config.intake.activate);
        assert_eq!(config.publish.keep_of(&maps), 5);
        assert_eq!(config.publish.bytes_of(&maps), Some((2048, 2048)));
        assert_eq!(config.publish.bytes_of(&other), None);
        let encoding = config.unpack.zip_name_encoding_of(&other);
        assert_ne!(encoding, config.unpack.zip_name_encoding);
        assert_eq!(config.fetch.bandwidth.apps[&other].0, 1024);
    }

    #[test]
    fn reports_file_line_and_key_of_a_bad_value_and_what_was_expected() {
        let dir = tempfile::tempdir().unwrap();
        for (text, want) in [
            (
                "[listen]\nsocket = 5\n",
                ":2: `listen.socket`: expected a path, found 5",
            ),
            (
                "[log]\n\nlevel = \"loud\"",
                ":3: `log.level`: unknown variant `loud`, expected one of `error`, `warn`, `info`, `debug`, `trace`",
            ),
            (
                "listen = { http = \"nowhere\" }",
                ":1: `listen.http`: `nowhere` is not an address, expected an IP address with a port such as \
                 \"127.0.0.1:7480\", or \"off\"",
            ),
            ("log = 3", ":1: `log`: expected a table, found 3"),
            (
                "[runner]\ndrain = 5",
                ":2: `runner.drain`: expected a duration such as \"5s\", found 5",
            ),
            (
                "[runner]\nfiles = -1",
                ":2: `runner.files`: expected a whole number, found -1",
            ),
            (
                "[fetch]\nallow = \"h\"",
                ":2: `fetch.allow`: expected a list, found \"h\"",
            ),
            ("\n\n= 3", ":3: not TOML: unquoted keys cannot be empty"),
            (
                "data_dir = \"\"",
                ":1: `data_dir`: is empty, expected a directory",
            ),
        ] {
            let path = file(dir.path(), "e.toml", text);
            let sources = Sources {
                file: Some(path.clone()),
                ..Sources::default()
            };
            let found = problems(&sources);
            assert_eq!(found.len(), 1, "{found:?}");
            let rest = found[0].strip_prefix(&path.display().to_string());
            let rest = rest.unwrap_or(&found[0]);
            assert!(rest.starts_with(want), "{rest}");
        }
    }

    #[test]
    fn the_environment_is_checked_like_a_file() {
        let bad = Sources {
            env: env(&[
                ("EDGEPUSH_LISTEN__HTTPS", "x"),
                ("EDGEPUSH_LOG__LEVEL", "loud"),
                ("EDGEPUSH_PORT", "tcp://10.0.0.1:80"),
            ]),
            ..Sources::default()
        };
        let found = problems(&bad);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("EDGEPUSH_LISTEN__HTTPS: `listen.https`: unknown key"));
        assert!(found[1].contains("EDGEPUSH_LOG__LEVEL: `log.level`: unknown variant"));
        let digits = Sources {
            env: env(&[("EDGEPUSH_DATA_DIR", "7")]),
            ..Sources::default()
        };
        assert_eq!(digits.load().unwrap().config.data_dir, Path::new("7"));
    }

    #[test]
    fn a_named_file_must_be_there() {
        let sources = Sources {
            file: Some("/no/such/file.toml".into()),
            ..Sources::default()
        };
        assert!(matches!(sources.load(), Err(Error::Read { .. })));
    }
}
