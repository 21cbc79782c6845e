//! The configuration made ready: URLs checked, secrets read, clients built. Mistakes show here, at start
//! or reload.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, HeaderMap};
use serde_json::{Value, json};

use super::sign::{self, Key};
use super::{Config, Endpoint, Error, Format};
use crate::datafile::shorten;
use crate::db::endpoints;
use crate::db::outbox::Message;
use crate::dial::{self, Client, Tls};
use crate::shown::callbacks;
use crate::sys::secret::Secret;

/// Limit for opening a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// How long an idle connection is kept.
const IDLE: Duration = Duration::from_secs(60);
/// Headers that the configuration cannot set.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "transfer-encoding",
    "user-agent",
    "webhook-id",
    "webhook-signature",
    "webhook-timestamp",
];
/// Headers whose values are secrets.
const SECRET: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

/// What the sender needs of the configuration.
pub(super) struct Setup {
    pub(super) node: String,
    pub(super) targets: Vec<Arc<Target>>,
    pub(super) parallel: usize,
    pub(super) first_retry: Duration,
    pub(super) longest_retry: Duration,
    pub(super) keep: Duration,
}

/// An endpoint made ready.
pub(super) struct Target {
    pub(super) name: String,
    /// Scheme, host and port: the path of a hook is often its password.
    pub(super) shown: String,
    client: Client,
    url: Url,
    keys: Vec<Key>,
    format: Format,
    types: Vec<String>,
    headers: HeaderMap,
}

impl Setup {
    pub(super) fn new(config: &Config) -> Result<Self, Error> {
        check_section(config)?;
        let mut names = BTreeSet::new();
        let mut targets = Vec::new();
        for (index, endpoint) in config.endpoints.iter().enumerate() {
            let target = Target::new(index, endpoint, config.timeout)?;
            if !names.insert(target.name.clone()) {
                return Err(wrong(
                    &target.name,
                    "name",
                    "is already used by another endpoint",
                ));
            }
            targets.push(Arc::new(target));
        }
        Ok(Self {
            node: node_name(&config.node),
            targets,
            parallel: config.parallel,
            first_retry: config.first_retry,
            longest_retry: config.longest_retry,
            keep: config.keep,
        })
    }

    /// Returns the endpoints as the store knows them.
    pub(super) fn endpoints(&self) -> Vec<endpoints::Endpoint> {
        let known = |t: &Arc<Target>| endpoints::Endpoint {
            name: t.name.clone(),
            target: t.shown.clone(),
            types: t.types.clone(),
        };
        self.targets.iter().map(known).collect()
    }
}

fn check_section(config: &Config) -> Result<(), Error> {
    let wrong = |key, why| Err(Error::Section { key, why });
    if config.parallel == 0 {
        return wrong("parallel", "must be at least 1");
    }
    if config.timeout.is_zero() {
        return wrong("timeout", "must be longer than 0s");
    }
    if config.first_retry.is_zero() || config.longest_retry < config.first_retry {
        return wrong(
            "longest_retry",
            "must be at least `report.first_retry`, and neither may be 0s",
        );
    }
    Ok(())
}

impl Target {
    fn new(index: usize, endpoint: &Endpoint, timeout: Duration) -> Result<Self, Error> {
        let name = check_name(index, &endpoint.name)?;
        let url = check_url(&name, &endpoint.url)?;
        if let Some(other) = endpoint
            .types
            .iter()
            .find(|t| !callbacks::TYPES.contains(&t.as_str()))
        {
            let known = callbacks::TYPES.join("`, `");
            let why = format!(
                "`{}` is not an event type, expected some of `{known}`",
                shorten(other)
            );
            return Err(wrong(&name, "types", why));
        }
        Ok(Self {
            shown: url.origin().ascii_serialization(),
            client: client(&name, endpoint, timeout)?,
            url,
            keys: keys(&name, &endpoint.secret_files)?,
            format: endpoint.format,
            types: endpoint.types.clone(),
            headers: headers(&name, endpoint)?,
            name,
        })
    }

    /// Returns whether both have the same URL.
    pub(super) fn has_the_url_of(&self, other: &Self) -> bool {
        self.url == other.url
    }

    /// Makes the request of one attempt: the body is the same every time, the timestamp and so the signature
    /// are not.
    pub(super) fn request(
        &self,
        message: &Message,
        node: &str,
        now_s: i64,
    ) -> reqwest::RequestBuilder {
        let body = self.body(message, node);
        let signature = sign::header(&self.keys, &message.webhook_id, now_s, &body);
        let kind = match self.format {
            Format::Standard => "application/json",
            Format::CloudEvents => "application/cloudevents+json; charset=UTF-8",
        };
        self.client
            .to(&self.url)
            .post(self.url.clone())
            .headers(self.headers.clone())
            .header(CONTENT_TYPE, kind)
            .header("webhook-id", &message.webhook_id)
            .header("webhook-timestamp", now_s)
            .header("webhook-signature", signature)
            .body(body)
    }

    fn body(&self, message: &Message, node: &str) -> Vec<u8> {
        let mut data = message.data.clone();
        if let Value::Object(data) = &mut data {
            data.insert("node".to_owned(), node.into());
        }
        let happened = jiff::Timestamp::from_millisecond(message.created_ms)
            .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
            .to_string();
        let body = match self.format {
            Format::Standard => json!({
                "type": message.kind,
                "timestamp": happened,
                "data": data,
            }),
            Format::CloudEvents => json!({
                "specversion": "1.0",
                "id": message.webhook_id,
                "source": format!("/edgepush/{}", crate::datafile::path_component(node)),
                "type": message.kind,
                "time": happened,
                "subject": subject(&data),
                "datacontenttype": "application/json",
                "data": data,
            }),
        };
        body.to_string().into_bytes()
    }
}

/// Returns the file an event is about. CloudEvents allows no empty subject, so events of the node have one
/// of their own.
fn subject(data: &Value) -> String {
    let text = |key: &str| data.get(key).and_then(Value::as_str);
    match (text("app"), text("name"), text("version")) {
        (Some(app), Some(name), Some(version)) => format!("{app}/{name}@{version}"),
        _ => "node".to_owned(),
    }
}

fn wrong(endpoint: &str, key: &'static str, why: impl Into<String>) -> Error {
    Error::Value {
        endpoint: endpoint.to_owned(),
        key,
        why: why.into(),
    }
}

fn check_name(index: usize, name: &str) -> Result<String, Error> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
        let why = format!(
            "`{}` is not a name, expected up to 64 of a-z, A-Z, 0-9, - and _",
            shorten(name)
        );
        return Err(wrong(&format!("#{}", index + 1), "name", why));
    }
    Ok(name.to_owned())
}

fn check_url(name: &str, text: &str) -> Result<Url, Error> {
    // The text may hold a secret in its path: errors do not repeat it.
    let url = Url::parse(text).map_err(|e| wrong(name, "url", e.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(wrong(name, "url", "expected an http or https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let why = "contains credentials, which belong into `header_files` as `authorization`";
        return Err(wrong(name, "url", why));
    }
    Ok(url)
}

fn keys(name: &str, files: &[PathBuf]) -> Result<Vec<Key>, Error> {
    if !(1..=2).contains(&files.len()) {
        return Err(wrong(
            name,
            "secret_files",
            "expected one file, or two while rotating",
        ));
    }
    files
        .iter()
        .map(|path| {
            let secret = read_secret(name, "secret_files", path)?;
            Key::new(&secret)
                .map_err(|why| wrong(name, "secret_files", format!("`{}` {why}", path.display())))
        })
        .collect()
}

fn read_secret(name: &str, key: &'static str, path: &Path) -> Result<Secret, Error> {
    Secret::read(path).map_err(|source| Error::Secret {
        endpoint: name.to_owned(),
        key,
        source,
    })
}

fn headers(name: &str, endpoint: &Endpoint) -> Result<HeaderMap, Error> {
    let mut headers = HeaderMap::new();
    for (header, value) in &endpoint.headers {
        let (header, value) = dial::header(header, value.as_bytes(), &RESERVED)
            .map_err(|why| wrong(name, "headers", why))?;
        if SECRET.contains(&header.as_str()) {
            let why = format!("`{header}` is secret and belongs into `header_files`");
            return Err(wrong(name, "headers", why));
        }
        headers.insert(header, value);
    }
    for (header, path) in &endpoint.header_files {
        let secret = read_secret(name, "header_files", path)?;
        let (header, mut value) = dial::header(header, secret.expose(), &RESERVED)
            .map_err(|why| wrong(name, "header_files", why))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

fn client(name: &str, endpoint: &Endpoint, timeout: Duration) -> Result<Client, Error> {
    let tls = Tls::new(&endpoint.extra_ca).map_err(|why| wrong(name, "extra_ca", why))?;
    Client::new(Arc::new(tls), proxy(name, endpoint)?, move |builder| {
        builder
            .user_agent(concat!("edgepush/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT.min(timeout))
            .timeout(timeout)
            .pool_idle_timeout(IDLE)
    })
    .map_err(|why| wrong(name, "url", why))
}

/// Reads the proxy of an endpoint. Errors never show its URL, which may hold a password.
fn proxy(name: &str, endpoint: &Endpoint) -> Result<Option<Url>, Error> {
    let parse = |key, text: &str| dial::proxy_url(text).map_err(|why| wrong(name, key, why));
    match (&endpoint.proxy_file, endpoint.proxy.as_str()) {
        (None, "") => Ok(None),
        (None, text) => {
            let url = parse("proxy", text)?;
            if dial::has_credentials(&url) {
                let why = "contains credentials: put the URL into a file, see `proxy_file`";
                return Err(wrong(name, "proxy", why));
            }
            Ok(Some(url))
        }
        (Some(path), "") => {
            let secret = read_secret(name, "proxy_file", path)?;
            let text = String::from_utf8_lossy(secret.expose());
            parse("proxy_file", &text).map(Some)
        }
        (Some(_), _) => {
            let why = "is set together with `proxy_file`: keep one of the two";
            Err(wrong(name, "proxy", why))
        }
    }
}

/// Returns the name of this node: the configured one, or the host's.
fn node_name(configured: &str) -> String {
    if !configured.is_empty() {
        return configured.to_owned();
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match host.trim() {
        "" => "unknown".to_owned(),
        host => host.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn secret(dir: &Path, name: &str, text: &str, mode: u32) -> PathBuf {
        let path = dir.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    #[test]
    fn every_mistake_names_its_endpoint_and_key() {
        let dir = tempfile::tempdir().unwrap();
        let good = Endpoint {
            name: "hook".to_owned(),
            url: "https://hooks.example/services/T0KEN".to_owned(),
            secret_files: vec![secret(dir.path(), "good", &"k".repeat(24), 0o600)],
            ..Endpoint::default()
        };
        let setup = |endpoint: Endpoint| {
            Setup::new(&Config {
                endpoints: vec![endpoint],
                ..Config::default()
            })
        };
        assert_eq!(
            setup(good.clone()).unwrap().targets[0].shown,
            "https://hooks.example"
        );
        let with = |change: fn(&mut Endpoint, &Path)| {
            let mut endpoint = good.clone();
            change(&mut endpoint, dir.path());
            endpoint
        };
        for (key, endpoint) in [
            ("name", with(|e, _| e.name = "a b".to_owned())),
            ("name", with(|e, _| e.name = String::new())),
            ("url", with(|e, _| e.url = "ftp://h/T0KEN".to_owned())),
            ("url", with(|e, _| e.url = "T0KEN".to_owned())),
            ("url", with(|e, _| e.url = "https://u:T0KEN@h/".to_owned())),
            ("types", with(|e, _| e.types = vec!["published".to_owned()])),
            ("secret_files", with(|e, _| e.secret_files.clear())),
            (
                "secret_files",
                with(|e, d| e.secret_files = vec![d.join("none")]),
            ),
            (
                "secret_files",
                with(|e, d| e.secret_files = vec![secret(d, "short", "T0KEN", 0o600)]),
            ),
            (
                "secret_files",
                with(|e, d| e.secret_files = vec![secret(d, "open", &"k".repeat(24), 0o644)]),
            ),
            (
                "headers",
                with(|e, _| {
                    drop(
                        e.headers
                            .insert("Authorization".to_owned(), "T0KEN".to_owned()),
                    )
                }),
            ),
            (
                "headers",
                with(|e, _| drop(e.headers.insert("webhook-id".to_owned(), "x".to_owned()))),
            ),
            (
                "headers",
                with(|e, _| drop(e.headers.insert("a b".to_owned(), "x".to_owned()))),
            ),
            (
                "header_files",
                with(|e, d| drop(e.header_files.insert("x".to_owned(), d.join("none")))),
            ),
            ("extra_ca", with(|e, d| e.extra_ca = vec![d.join("none")])),
        ] {
            let Err(error) = setup(endpoint) else {
                panic!("a wrong {key} was taken")
            };
            let text = crate::sys::Chain(&error).to_string();
            assert!(text.contains(&format!("`{key}`")), "{key}: {text}");
            assert!(text.contains("`hook`") || text.contains("`#1`"), "{text}");
            assert!(!text.contains("T0KEN"), "{text}");
        }
        let twice = Setup::new(&Config {
            endpoints: vec![good.clone(), good],
            ..Config::default()
        });
        assert!(twice.is_err());
        let never = Config {
            parallel: 0,
            ..Config::default()
        };
        assert!(Setup::new(&never).is_err());
    }
}
