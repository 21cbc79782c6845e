//! The configuration: the sections of all parts, read from files, environment and flags.
//!
//! Each part owns its section as `part::Config`; this file knows the parts and no part knows this file. A
//! flag overrides the environment, which overrides the files, which override the defaults. Everything is
//! checked once, at start or reload, before it is used. `config/edgepush.toml` describes each key.

mod keys;
mod load;
mod problem;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::datafile::AppId;
use crate::sys::Chain;
use crate::sys::units::Bytes;
use crate::{api, deliver, fetch, intake, publish, report, runner, store, unpack, verify, watch};

pub use keys::Keys;
pub use load::{DEFAULT_FILE, ENV_PREFIX, FileStamp, Loaded, Sources};
pub use problem::{Error, Origin, Problem};

/// The whole configuration of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub data_dir: PathBuf,
    pub listen: Listen,
    pub log: Log,
    pub intake: intake::Config,
    pub api: api::Config,
    pub fetch: fetch::Config,
    pub verify: verify::Config,
    pub unpack: unpack::Config,
    pub publish: publish::Config,
    /// How the road of a file treats what travels on it.
    pub push: deliver::Config,
    pub runner: runner::Config,
    pub report: report::Config,
    pub watch: watch::Config,
    pub store: store::Config,
    pub apps: BTreeMap<AppId, App>,
}

/// What differs for one application.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct App {
    /// Overrides `intake.activate`.
    pub activate: Option<intake::Activate>,
    /// Overrides `unpack.zip_name_encoding`.
    pub zip_name_encoding: Option<unpack::NameEncoding>,
    /// Overrides `publish.keep_versions`.
    pub keep_versions: Option<u32>,
    /// Bytes that all trees of the application may take. Beyond it versions are removed, oldest first, down
    /// to `down_to`; what is live, pinned or the target of a rollback stays.
    pub max_bytes: Option<Bytes>,
    /// `max_bytes` unless given.
    pub down_to: Option<Bytes>,
    /// Bytes per second for its downloads.
    pub bandwidth: Option<Bytes>,
    /// Overrides `fetch.max_bytes`.
    pub max_archive_bytes: Option<Bytes>,
}

/// Where the agent listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// `None` is written as "off".
    #[serde(with = "address_or_off")]
    pub http: Option<SocketAddr>,
    /// Whoever may open it may do everything.
    pub socket: PathBuf,
}

/// What is logged to standard error, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    pub level: Level,
    pub format: Format,
}

/// How important a log line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Someone must act.
    Error,
    /// Unexpected, but handled.
    Warn,
    /// A step that an operator caused has finished.
    Info,
    /// Every request.
    Debug,
    Trace,
}

/// The format of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    Text,
    Json,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: "/var/lib/edgepush".into(),
            listen: Listen::default(),
            log: Log::default(),
            intake: intake::Config::default(),
            api: api::Config::default(),
            fetch: fetch::Config::default(),
            verify: verify::Config::default(),
            unpack: unpack::Config::default(),
            publish: publish::Config::default(),
            push: deliver::Config::default(),
            runner: runner::Config::default(),
            report: report::Config::default(),
            watch: watch::Config::default(),
            store: store::Config::default(),
            apps: BTreeMap::new(),
        }
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            http: Some(SocketAddr::from(([127, 0, 0, 1], 7480))),
            socket: "/run/edgepush/edgepush.sock".into(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: Level::Info,
            format: Format::Text,
        }
    }
}

/// Longest path of a unix socket, in bytes.
const MAX_SOCKET_PATH: usize = 107;

impl Config {
    /// Hands each part its share of `apps`.
    fn share_apps(&mut self) {
        fn each<T>(
            apps: &BTreeMap<AppId, App>,
            value: impl Fn(&App) -> Option<T>,
        ) -> BTreeMap<AppId, T> {
            let of = |(id, app): (&AppId, &App)| Some((id.clone(), value(app)?));
            apps.iter().filter_map(of).collect()
        }
        let apps = &self.apps;
        self.intake.apps_activate = each(apps, |app| app.activate);
        self.unpack.apps_zip_name_encoding = each(apps, |app| app.zip_name_encoding);
        self.publish.apps_keep_versions = each(apps, |app| app.keep_versions);
        self.publish.apps_bytes = each(apps, |app| {
            let max = app.max_bytes?;
            Some((max.0, app.down_to.unwrap_or(max).0))
        });
        self.fetch.bandwidth.apps = each(apps, |app| app.bandwidth);
        self.fetch.apps_max_bytes = each(apps, |app| app.max_archive_bytes);
    }

    /// Returns which of `keys`, dotted keys or tables, have other values in `other`.
    #[must_use]
    pub fn differences(&self, other: &Self, keys: &[&str]) -> Vec<String> {
        let (Ok(ours), Ok(theirs)) = (toml::Value::try_from(self), toml::Value::try_from(other))
        else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for key in keys {
            let at = |value| {
                key.split('.')
                    .try_fold(value, |v: &toml::Value, k| v.get(k))
            };
            differ(key, at(&ours), at(&theirs), &mut found);
        }
        found
    }

    /// Returns what is wrong with values that parse, as (key, what is wrong).
    #[must_use]
    pub fn conflicts(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        if self.data_dir.as_os_str().is_empty() {
            found.push((
                "data_dir".to_owned(),
                "is empty, expected a directory".to_owned(),
            ));
        }
        let socket = self.listen.socket.as_os_str().len();
        if socket == 0 || socket > MAX_SOCKET_PATH {
            let wish = format!("has {socket} bytes, expected a path of 1 to {MAX_SOCKET_PATH}");
            found.push(("listen.socket".to_owned(), wish));
        }
        self.check_apps(&mut found);
        let runner = &self.runner;
        for (key, is_zero) in [
            ("runner.files", runner.files == 0),
            ("runner.starts", runner.starts == 0),
            ("runner.upkeep_every", runner.upkeep_every.is_zero()),
            ("runner.scrub_rate", runner.scrub_rate == 0),
        ] {
            if is_zero {
                let wish = "must be more than 0".to_owned();
                found.push((key.to_owned(), wish));
            }
        }
        let limits = &self.unpack.limits;
        for (key, limit) in [
            ("max_entries", limits.max_entries),
            ("max_total_bytes", limits.max_total_bytes),
            ("max_file_bytes", limits.max_file_bytes),
            ("max_path_bytes", limits.max_path_bytes),
            ("max_component_bytes", limits.max_component_bytes),
            ("max_depth", limits.max_depth),
            ("max_ratio", limits.max_ratio),
            ("max_zip_directory_bytes", limits.max_zip_directory_bytes),
        ] {
            if limit == 0 {
                let wish = "must be more than 0, or every archive would be refused".to_owned();
                found.push((format!("unpack.limits.{key}"), wish));
            }
        }
        if let Err(error) = self.fetch.check() {
            found.push(match error.cause() {
                fetch::Cause::Config { key, why } => (format!("fetch.{key}"), why.clone()),
                _ => ("fetch".to_owned(), Chain(&error).to_string()),
            });
        }
        found
    }
}

impl Config {
    fn check_apps(&self, found: &mut Vec<(String, String)>) {
        let mut wrong = |key: String, what: &str| found.push((key, what.to_owned()));
        let one = "must be at least 1: the live version counts";
        if self.publish.keep_versions == 0 {
            wrong("publish.keep_versions".to_owned(), one);
        }
        for (id, app) in &self.apps {
            let key = |name: &str| format!("apps.{id}.{name}");
            if app.keep_versions == Some(0) {
                wrong(key("keep_versions"), one);
            }
            if app.max_bytes.is_some() && app.down_to > app.max_bytes {
                wrong(key("down_to"), "must not be more than `max_bytes`");
            }
            if app.bandwidth == Some(Bytes(0)) {
                let what = "must be more than 0: omit the key for no limit";
                wrong(key("bandwidth"), what);
            }
        }
    }
}

/// Collects the keys below `key` whose values differ.
fn differ(
    key: &str,
    ours: Option<&toml::Value>,
    theirs: Option<&toml::Value>,
    found: &mut Vec<String>,
) {
    match (ours, theirs) {
        (Some(toml::Value::Table(ours)), Some(toml::Value::Table(theirs))) => {
            let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
            for name in names {
                differ(
                    &format!("{key}.{name}"),
                    ours.get(name),
                    theirs.get(name),
                    found,
                );
            }
        }
        (ours, theirs) if ours != theirs => found.push(key.to_owned()),
        _ => {}
    }
}

/// Serde for an address or "off".
mod address_or_off {
    use std::net::SocketAddr;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        address: &Option<SocketAddr>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match address {
            Some(address) => serializer.collect_str(address),
            None => serializer.serialize_str("off"),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "off" {
            return Ok(None);
        }
        text.parse().map(Some).map_err(|_| {
            serde::de::Error::custom(format!(
                "`{text}` is not an address, expected an IP address with a port such as \"127.0.0.1:7480\", or \"off\""
            ))
        })
    }
}
