//! Access keys: which may sign, for which applications and actions, and how often.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::datafile::AppId;
use crate::sys::only::Only;
use crate::sys::secret::{self, SHORT, Secret};
use crate::wire::errors::{Code, Refusal};
use crate::wire::sign::Action;

/// One access key, as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KeyConfig {
    /// The key's id, which requests name.
    pub id: String,
    /// The file that holds its secret, with mode 0600 or 0400. A relative path is taken from the
    /// service manager's credentials directory (`LoadCredential=`).
    pub secret_file: PathBuf,
    /// Which applications it may speak for: a list of ids, or "any".
    pub apps: Only<AppId>,
    /// Which actions it may use: a list of their names, or "any".
    pub actions: Only<Action>,
    /// Whether it may be used at all.
    pub enabled: bool,
}

impl Default for KeyConfig {
    fn default() -> Self {
        Self {
            id: String::new(),
            secret_file: PathBuf::new(),
            apps: Only::Any,
            actions: Only::Any,
            enabled: true,
        }
    }
}

/// Why the configured keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A key has no id.
    #[error("use an access key: its id is blank")]
    NoId,
    /// Two keys have one id.
    #[error("use access key `{0}`: its id is given twice")]
    Twice(String),
    /// A key's secret cannot be read.
    #[error("read the secret of access key `{id}`")]
    Secret {
        /// The key.
        id: String,
        /// Why.
        #[source]
        source: secret::Error,
    },
}

/// The access keys with their secrets.
#[derive(Debug, Default)]
pub(super) struct Keys(HashMap<String, Key>);

/// One access key with its secret.
#[derive(Debug)]
pub(super) struct Key {
    pub(super) config: KeyConfig,
    pub(super) secret: Secret,
}

impl Keys {
    /// Reads the secrets of the configured keys; one that cannot be used makes all of them
    /// unusable.
    pub(super) fn load(configs: &[KeyConfig]) -> Result<Self, Error> {
        let mut keys = HashMap::new();
        for config in configs {
            if config.id.trim().is_empty() {
                return Err(Error::NoId);
            }
            let secret = Secret::read(&config.secret_file).map_err(|source| Error::Secret {
                id: config.id.clone(),
                source,
            })?;
            if secret.is_short() {
                warn!(event = "short_secret", key = %config.id, "the secret of an access key is easily guessed: use {SHORT} bytes or more");
            }
            let key = Key {
                config: config.clone(),
                secret,
            };
            if keys.insert(config.id.clone(), key).is_some() {
                return Err(Error::Twice(config.id.clone()));
            }
        }
        Ok(Self(keys))
    }

    /// Returns the key with `id`, which must be switched on.
    pub(super) fn find(&self, id: &str) -> Result<&Key, Refusal> {
        let key = self.0.get(id).ok_or(Code::AccessKeyNotFound)?;
        match key.config.enabled {
            true => Ok(key),
            false => Err(Code::AccessKeyInactive.into()),
        }
    }
}

/// How often one key may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RateConfig {
    /// Requests per second and access key in the long run; 0 for no limit.
    pub per_second: u32,
    /// Requests that may come at once.
    pub burst: u32,
}

impl Default for RateConfig {
    fn default() -> Self {
        Self {
            per_second: 1000,
            burst: 2000,
        }
    }
}

/// Counts the requests of each key: a bucket that is emptied by requests and filled by time.
#[derive(Debug, Default)]
pub(super) struct Rates(Mutex<HashMap<String, Bucket>>);

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Rates {
    /// Takes one request of `key`, or returns how long it should wait. Only keys that exist are
    /// ever counted, so the table has no more rows than the configuration has keys.
    pub(super) fn take(&self, key: &str, rate: RateConfig, now: Instant) -> Result<(), Duration> {
        if rate.per_second == 0 {
            return Ok(());
        }
        let burst = f64::from(rate.burst.max(1));
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.entry(key.to_owned()).or_insert(Bucket {
            left: burst,
            at: now,
        });
        let passed = now.saturating_duration_since(bucket.at).as_secs_f64();
        bucket.left = (bucket.left + passed * f64::from(rate.per_second)).min(burst);
        bucket.at = now;
        if bucket.left >= 1.0 {
            bucket.left -= 1.0;
            return Ok(());
        }
        let missing = (1.0 - bucket.left) / f64::from(rate.per_second);
        Err(Duration::from_secs_f64(missing).max(Duration::from_millis(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::OpenOptionsExt;

    use super::*;

    fn config(dir: &std::path::Path, id: &str, more: &str) -> KeyConfig {
        use std::io::Write as _;
        let path = dir.join(id);
        let mut file = fs::OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&path)
            .unwrap();
        file.write_all(b"secret").unwrap();
        let text = format!("id = {id:?}\nsecret_file = {path:?}\n{more}");
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn finds_the_keys_that_are_switched_on() {
        let dir = tempfile::tempdir().unwrap();
        let one = config(dir.path(), "one", "");
        let off = config(dir.path(), "off", "enabled = false");
        let keys = Keys::load(&[one.clone(), off]).unwrap();
        assert_eq!(keys.find("one").unwrap().secret.expose(), b"secret");
        let code = |id| keys.find(id).unwrap_err().code;
        assert_eq!(code("off"), Code::AccessKeyInactive);
        assert_eq!(code("none"), Code::AccessKeyNotFound);
        assert!(matches!(
            Keys::load(&[one.clone(), one]),
            Err(Error::Twice(_))
        ));
        let none = KeyConfig {
            id: "x".to_owned(),
            secret_file: dir.path().join("none"),
            ..KeyConfig::default()
        };
        assert!(matches!(Keys::load(&[none]), Err(Error::Secret { .. })));
        assert!(matches!(
            Keys::load(&[KeyConfig::default()]),
            Err(Error::NoId)
        ));
    }

    #[test]
    fn reads_lists_and_any() {
        let dir = tempfile::tempdir().unwrap();
        let any = config(dir.path(), "a", "apps = \"any\"");
        assert!(any.apps.holds(&AppId::parse("x").unwrap()));
        let some = config(
            dir.path(),
            "b",
            "apps = [\"x\"]\nactions = [\"DescribeDataPushResult\"]",
        );
        assert!(some.apps.holds(&AppId::parse("x").unwrap()));
        assert!(!some.apps.holds(&AppId::parse("y").unwrap()));
        assert!(some.actions.holds(&Action::DescribeDataPushResult));
        assert!(!some.actions.holds(&Action::PushApplicationData));
        for bad in [
            "apps = \"all\"",
            "actions = [\"Nothing\"]",
            "apps = 3",
            "apps = [\"\"]",
        ] {
            assert!(toml::from_str::<KeyConfig>(bad).is_err(), "{bad}");
        }
        let written = toml::to_string(&some).unwrap();
        assert_eq!(toml::from_str::<KeyConfig>(&written).unwrap(), some);
    }

    #[test]
    fn a_key_that_asks_too_often_waits_and_no_other_does() {
        let rates = Rates::default();
        let rate = RateConfig {
            per_second: 10,
            burst: 3,
        };
        let now = Instant::now();
        for _ in 0..3 {
            rates.take("a", rate, now).unwrap();
        }
        let wait = rates.take("a", rate, now).unwrap_err();
        assert_eq!(wait, Duration::from_millis(100));
        rates.take("b", rate, now).unwrap();
        rates.take("a", rate, now + wait).unwrap();
        assert!(rates.take("a", rate, now + wait).is_err());
        let unlimited = RateConfig {
            per_second: 0,
            burst: 0,
        };
        for _ in 0..10 {
            rates.take("a", unlimited, now).unwrap();
        }
    }
}
