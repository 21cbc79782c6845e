//! The section `fetch` of the configuration. Secrets are named by file, so all of it may be shown.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::{Cause, Error};
use super::rules::{Bypass, Place, Ports, Rule};
use crate::datafile::AppId;
use crate::sys::units::Bytes;

/// How archives are fetched. `config/edgepush.toml` describes each key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Including name lookup and proxy.
    #[serde(with = "crate::sys::units::duration")]
    pub connect_timeout: Duration,
    #[serde(with = "crate::sys::units::duration")]
    pub tls_timeout: Duration,
    #[serde(with = "crate::sys::units::duration")]
    pub first_byte_timeout: Duration,
    pub stall: Stall,
    pub max_redirects: u32,
    pub retry: Retry,
    /// Lifts what is denied by default: the addresses of this host, those of special purposes, and
    /// metadata services.
    pub allow: Vec<Rule>,
    /// Overrides `allow`.
    pub deny: Vec<Rule>,
    /// Ports that a push may name. Mirrors and proxies may have any.
    pub ports: Vec<Ports>,
    pub only_allowed: bool,
    /// For downloads only; callbacks have their own.
    pub proxy: Proxy,
    pub mirrors: Vec<Mirror>,
    /// PEM files, in addition to the system's certificates. All files named here are read again when they
    /// change.
    pub extra_ca: Vec<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_certificate: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<PathBuf>,
    /// For each place, the name of a header and the file with its value. A redirect elsewhere does not
    /// carry them along.
    pub headers: BTreeMap<Place, BTreeMap<String, PathBuf>>,
    pub bandwidth: Bandwidth,
    /// Bytes of one archive, whatever its push and its origin state.
    #[serde(with = "crate::sys::units::bytes")]
    pub max_bytes: u64,
    /// Bytes of one archive of an application, from `[apps]`.
    #[serde(skip)]
    pub apps_max_bytes: BTreeMap<AppId, Bytes>,
    pub user_agent: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            tls_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(30),
            stall: Stall::default(),
            max_redirects: 5,
            retry: Retry::default(),
            allow: Vec::new(),
            deny: Vec::new(),
            ports: Ports::USUAL.to_vec(),
            only_allowed: false,
            proxy: Proxy::default(),
            mirrors: Vec::new(),
            extra_ca: Vec::new(),
            client_certificate: None,
            client_key: None,
            headers: BTreeMap::new(),
            bandwidth: Bandwidth::default(),
            // As much as the files of an archive may have by default.
            max_bytes: 64 << 30,
            apps_max_bytes: BTreeMap::new(),
            user_agent: concat!("edgepush/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// A body is stalled below `rate` bytes per second, averaged over `window` of waiting for the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stall {
    #[serde(with = "crate::sys::units::bytes")]
    pub rate: u64,
    #[serde(with = "crate::sys::units::duration")]
    pub window: Duration,
}

impl Default for Stall {
    fn default() -> Self {
        Self {
            rate: 1024,
            window: Duration::from_secs(30),
        }
    }
}

impl Stall {
    /// Returns how many bytes must arrive in a window.
    pub(super) fn bytes(&self) -> u64 {
        let millis = u64::try_from(self.window.as_millis()).unwrap_or(u64::MAX);
        (self.rate.saturating_mul(millis) / 1000).max(1)
    }
}

/// Pauses between attempts: random between 0 and `base * 2^n`, at most `cap`. Progress resets n.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    #[serde(with = "crate::sys::units::duration")]
    pub base: Duration,
    #[serde(with = "crate::sys::units::duration")]
    pub cap: Duration,
    /// Requests without progress, of one file, and of all files together to a host that does not answer.
    pub per_minute: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(1),
            cap: Duration::from_secs(60),
            per_minute: 8,
        }
    }
}

/// The proxy for downloads.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Proxy {
    /// `http://host:port` or `https://host:port`, without credentials.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downloads: Option<String>,
    /// A file with the URL in its first line, where credentials are allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downloads_file: Option<PathBuf>,
    pub no_proxy: Vec<Bypass>,
    /// Use HTTP_PROXY, HTTPS_PROXY, ALL_PROXY and NO_PROXY of the environment if neither is set.
    pub use_environment: bool,
}

/// Other URLs for the same files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// URLs that start with this text are rewritten, such as `https://cdn.example/files/`.
    pub prefix: String,
    /// Replacements of the prefix, in the order to try.
    pub to: Vec<String>,
    /// Whether the original URL is tried last.
    #[serde(default = "yes")]
    pub origin: bool,
}

fn yes() -> bool {
    true
}

/// Bandwidth limits; none by default.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bandwidth {
    /// Bytes per second of all downloads together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<Bytes>,
    /// Bytes per second of an application's downloads, from `[apps]`.
    #[serde(skip)]
    pub apps: BTreeMap<AppId, Bytes>,
    /// Other values of `rate` by time of day; the first match applies.
    pub table: Vec<Hours>,
}

/// A rate for some hours of the day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hours {
    /// In the node's local time.
    pub from: Clock,
    /// Before `from` it is the next day; equal to it, the whole day.
    pub to: Clock,
    /// Bytes per second; no limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Bytes>,
}

/// A time of day in minutes, written as `"08:30"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Clock(pub u16);

impl TryFrom<String> for Clock {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let parse = || {
            let (hours, minutes) = text.split_once(':')?;
            let digits = |t: &str| {
                (t.len() == 2 && t.bytes().all(|b| b.is_ascii_digit())).then(|| t.parse().ok())
            };
            let (hours, minutes): (u16, u16) = (digits(hours)??, digits(minutes)??);
            let all = hours * 60 + minutes;
            (minutes < 60 && all <= 24 * 60).then_some(Self(all % (24 * 60)))
        };
        parse().ok_or_else(|| {
            format!("`{text}` is not a time of day, expected a text such as \"08:30\"")
        })
    }
}

impl From<Clock> for String {
    fn from(clock: Clock) -> String {
        format!("{:02}:{:02}", clock.0 / 60, clock.0 % 60)
    }
}

impl Hours {
    /// Returns whether a minute of the day is in these hours.
    pub(super) fn contain(&self, minute: u16) -> bool {
        let (from, to) = (self.from.0, self.to.0);
        if from < to {
            (from..to).contains(&minute)
        } else {
            minute >= from || minute < to
        }
    }
}

impl Config {
    /// Returns how many bytes an archive of `app` may have.
    pub(super) fn max_bytes_of(&self, app: &AppId) -> u64 {
        let own = self.apps_max_bytes.get(app);
        own.map_or(self.max_bytes, |bytes| bytes.0)
    }

    /// Checks the values without reading any file.
    pub fn check(&self) -> Result<(), Error> {
        let wrong = |key, why: &str| {
            Err(Error::of_node(Cause::Config {
                key,
                why: why.to_owned(),
            }))
        };
        for (key, timeout) in [
            ("connect_timeout", self.connect_timeout),
            ("tls_timeout", self.tls_timeout),
            ("first_byte_timeout", self.first_byte_timeout),
            ("stall.window", self.stall.window),
        ] {
            if timeout.is_zero() {
                return wrong(key, "must be longer than 0s");
            }
        }
        if self.retry.per_minute == 0 {
            return wrong("retry.per_minute", "must be at least 1");
        }
        if self.retry.base > self.retry.cap {
            return wrong("retry.base", "must not be longer than `fetch.retry.cap`");
        }
        if self.client_certificate.is_some() != self.client_key.is_some() {
            return wrong(
                "client_certificate",
                "needs `fetch.client_key`, and vice versa",
            );
        }
        if self.proxy.downloads.is_some() && self.proxy.downloads_file.is_some() {
            return wrong(
                "proxy.downloads",
                "is set together with `fetch.proxy.downloads_file`: keep one of the two",
            );
        }
        let zero = |rate: &Bytes| rate.0 == 0;
        let band = &self.bandwidth;
        if band.rate.as_ref().is_some_and(zero)
            || band.table.iter().filter_map(|h| h.rate.as_ref()).any(zero)
        {
            return wrong(
                "bandwidth",
                "a rate of 0 would fetch nothing: omit the key for no limit",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_all_keys_and_writes_them_back() {
        let text = r#"
            connect_timeout = "50ms"
            allow = ["127.0.0.0/8", "*.cdn.example"]
            only_allowed = true
            [stall]
            rate = "2KiB"
            [proxy]
            downloads = "http://127.0.0.1:4001"
            no_proxy = ["10.0.0.0/8", ".lan", "*"]
            [[mirrors]]
            prefix = "https://cdn.example/"
            to = ["http://mirror.lan/cdn/"]
            [headers."*.cdn.example"]
            authorization = "/run/credentials/edgepush/token"
            [bandwidth]
            rate = "1MiB"
            table = [{ from = "22:00", to = "06:00" }, { from = "08:00", to = "18:00", rate = "256KiB" }]
        "#;
        let config: Config = toml::from_str(text).unwrap();
        assert_eq!(config.stall.bytes(), 60 * 1024);
        assert!(config.mirrors[0].origin);
        assert!(config.bandwidth.table[0].contain(23 * 60));
        assert!(config.bandwidth.table[0].contain(5 * 60));
        assert!(!config.bandwidth.table[0].contain(12 * 60));
        config.check().unwrap();
        let again: Config = toml::from_str(&toml::to_string(&config).unwrap()).unwrap();
        assert_eq!(again, config);
    }

    #[test]
    fn refuses_what_cannot_work() {
        for bad in [
            "connect_timeout = \"0s\"",
            "retry = { per_minute = 0 }",
            "retry = { base = \"2m\" }",
            "client_key = \"/k\"",
            "bandwidth = { rate = 0 }",
            "proxy = { downloads = \"http://p\", downloads_file = \"/f\" }",
        ] {
            let config: Config = toml::from_str(bad).unwrap();
            assert!(config.check().is_err(), "{bad}");
        }
        for bad in [
            "bandwidth = { table = [{ from = \"8:00\", to = \"25:00\" }] }",
            "allow = [\"10.0.0.0/99\"]",
            "allow = [\"\"]",
            "speed = 1",
        ] {
            assert!(toml::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }
}
