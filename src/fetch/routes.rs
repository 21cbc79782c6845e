//! HTTP clients by route: direct, to mirrors, or through a proxy; with mirrors and headers per host.
//!
//! One [`Routes`] is made from a configuration and the files it names, and never changes. When either
//! changes, a new one replaces it for the next request; running downloads continue on the old one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::HeaderMap;
use rustls::client::ClientSessionMemoryCache;
use url::Url;

use super::clocks::{Phases, Sessions, Timeouts};
use super::config::{Config, Proxy};
use super::error::{Cause, Error};
use super::policy::Policy;
use super::resolver::Resolver;
use super::rules::{Bypass, Place};
use crate::datafile::{authority, shorten};
use crate::dial::{self, Client, Tls};

/// How long an unused connection is kept.
const IDLE: Duration = Duration::from_secs(30);
/// TLS sessions remembered for resumption.
const SESSIONS: usize = 64;
/// Headers that belong to the exchange itself.
const RESERVED: [&str; 9] = [
    "accept-encoding",
    "connection",
    "content-length",
    "host",
    "if-range",
    "range",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// The clients, rules and headers of one configuration.
pub(super) struct Routes {
    pub(super) config: Config,
    pub(super) policy: Arc<Policy>,
    direct: Client,
    /// For mirrors, which the configuration names and which may be on this host.
    trusting: Option<Client>,
    /// By the scheme of the destination; only the environment distinguishes them.
    proxies: BTreeMap<&'static str, ProxyRoute>,
    no_proxy: Vec<Bypass>,
    headers: Vec<(Place, HeaderMap)>,
    /// Of the files as they were read.
    pub(super) stamps: Stamps,
}

struct ProxyRoute {
    client: Client,
    name: String,
    /// With its credentials.
    url: Url,
}

/// The client to use for a URL.
pub(super) struct Route<'a> {
    pub(super) client: &'a reqwest::Client,
    /// Host and port of the proxy.
    pub(super) via: Option<&'a str>,
    /// The proxy with the credentials that it is sent.
    pub(super) proxy: Option<&'a Url>,
}

/// Detects changed files without reading them: inode, length and modification time of each, `None` if
/// there is no file.
pub(super) type Stamps = Vec<Option<(u64, u64, i64, i64)>>;

impl Routes {
    /// Reads the files that `config` names and makes the clients.
    pub(super) fn build(config: Config) -> Result<Self, Error> {
        config.check()?;
        for mirror in &config.mirrors {
            for text in mirror.to.iter().chain([&mirror.prefix]) {
                mirror_url(text)?;
            }
        }
        // Stamps first: a file that changes while it is read is read again.
        let stamps = stamps(&config);
        let policy = Arc::new(Policy {
            ports: config.ports.clone(),
            allow: config.allow.clone(),
            deny: config.deny.clone(),
            only_allowed: config.only_allowed,
        });
        let tls = Arc::new(tls(&config)?);
        let direct = client(&config, &tls, Some(&policy), None)?;
        let trusting = match config.mirrors.as_slice() {
            [] => None,
            _ => Some(client(&config, &tls, None, None)?),
        };
        let (urls, no_proxy) = proxy_urls(&config.proxy)?;
        let mut proxies = BTreeMap::new();
        for (scheme, url) in urls {
            let route = ProxyRoute {
                name: authority(&url),
                client: client(&config, &tls, None, Some(url.clone()))?,
                url,
            };
            proxies.insert(scheme, route);
        }
        Ok(Self {
            headers: headers(&config)?,
            config,
            policy,
            direct,
            trusting,
            proxies,
            no_proxy,
            stamps,
        })
    }

    pub(super) fn timeouts(&self) -> Timeouts {
        Timeouts {
            connect: self.config.connect_timeout,
            tls: self.config.tls_timeout,
            first_byte: self.config.first_byte_timeout,
        }
    }

    /// Returns the route to a URL; `trusted` ones come from the configuration.
    pub(super) fn route_for(&self, url: &Url, trusted: bool) -> Route<'_> {
        if let Some(proxy) = self.proxy_for(url) {
            return Route {
                client: proxy.client.to(url),
                via: Some(&proxy.name),
                proxy: Some(&proxy.url),
            };
        }
        let trusting = self.trusting.as_ref().filter(|_| trusted);
        Route {
            client: trusting.unwrap_or(&self.direct).to(url),
            via: None,
            proxy: None,
        }
    }

    /// Returns host and port of the proxy for a URL, if it is not dialled directly.
    pub(super) fn via(&self, url: &Url) -> Option<&str> {
        Some(&self.proxy_for(url)?.name)
    }

    fn proxy_for(&self, url: &Url) -> Option<&ProxyRoute> {
        let proxy = self.proxies.get(url.scheme())?;
        let bypassed = self.no_proxy.iter().any(|b| b.covers(url));
        (!bypassed).then_some(proxy)
    }

    /// Returns the headers that go where a URL leads.
    pub(super) fn headers_for(&self, url: &Url) -> impl Iterator<Item = &HeaderMap> {
        self.headers
            .iter()
            .filter(|(place, _)| place.covers(url))
            .map(|(_, headers)| headers)
    }

    /// Returns the URLs to try for a URL, in order: mirrors, then the URL itself unless it is excluded.
    pub(super) fn candidates(&self, url: &Url) -> Vec<Url> {
        let text = url.as_str();
        for mirror in &self.config.mirrors {
            let Some(rest) = text.strip_prefix(mirror.prefix.as_str()) else {
                continue;
            };
            let rewritten = mirror.to.iter().map(|to| format!("{to}{rest}"));
            let mut urls: Vec<Url> = rewritten.filter_map(|to| Url::parse(&to).ok()).collect();
            if mirror.origin || urls.is_empty() {
                urls.push(url.clone());
            }
            return urls;
        }
        vec![url.clone()]
    }
}

/// Makes the error of a key below `fetch`.
fn wrong(key: &'static str) -> impl FnOnce(String) -> Error {
    move |why| Error::of_node(Cause::Config { key, why })
}

/// A prefix must end where a host cannot continue: `https://cdn.example` is also the start of
/// `https://cdn.example.evil/`.
fn mirror_url(text: &str) -> Result<(), Error> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && text.ends_with('/') => Ok(()),
        _ => Err(wrong("mirrors")(format!(
            "`{}` is not an http or https URL that ends with `/`",
            shorten(text)
        ))),
    }
}

/// Returns the stamps of the files that `config` names.
pub(super) fn stamps(config: &Config) -> Stamps {
    let stamp = |path: &PathBuf| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    };
    let secrets = config.headers.values().flat_map(BTreeMap::values);
    config
        .extra_ca
        .iter()
        .chain(&config.client_certificate)
        .chain(&config.client_key)
        .chain(&config.proxy.downloads_file)
        .chain(secrets)
        .map(stamp)
        .collect()
}

fn client(
    config: &Config,
    tls: &Arc<Tls>,
    policy: Option<&Arc<Policy>>,
    proxy: Option<Url>,
) -> Result<Client, Error> {
    let (user_agent, policy) = (config.user_agent.clone(), policy.cloned());
    Client::new(Arc::clone(tls), proxy, move |builder| {
        let policy = policy.clone();
        builder
            .user_agent(&user_agent)
            .dns_resolver(Resolver { policy })
            .connector_layer(Phases)
            .pool_idle_timeout(IDLE)
    })
    .map_err(wrong("user_agent"))
}

fn tls(config: &Config) -> Result<Tls, Error> {
    let mut tls = Tls::new(&config.extra_ca).map_err(wrong("extra_ca"))?;
    tls.keep_sessions(Arc::new(Sessions(ClientSessionMemoryCache::new(SESSIONS))));
    if let (Some(certificate), Some(key)) = (&config.client_certificate, &config.client_key) {
        let key = dial::private_key(key).map_err(wrong("client_key"))?;
        tls.identify(certificate, key)
            .map_err(wrong("client_certificate"))?;
    }
    Ok(tls)
}

fn headers(config: &Config) -> Result<Vec<(Place, HeaderMap)>, Error> {
    let read = |(name, path): (&String, &PathBuf)| {
        let (name, mut value) = dial::header(name, &dial::read(path)?, &RESERVED)?;
        value.set_sensitive(true);
        Ok((name, value))
    };
    let mut all = Vec::new();
    for (place, named) in &config.headers {
        let map: Result<HeaderMap, String> = named.iter().map(read).collect();
        all.push((place.clone(), map.map_err(wrong("headers"))?));
    }
    Ok(all)
}

type ProxyUrls = BTreeMap<&'static str, Url>;

/// Returns the proxy for each scheme of a destination, and what is dialled directly.
fn proxy_urls(config: &Proxy) -> Result<(ProxyUrls, Vec<Bypass>), Error> {
    let both = |url: Url| BTreeMap::from([("http", url.clone()), ("https", url)]);
    let (urls, mut no_proxy) = match (&config.downloads, &config.downloads_file) {
        (Some(text), _) => {
            let url = dial::proxy_url(text).map_err(wrong("proxy.downloads"))?;
            if dial::has_credentials(&url) {
                let why = "contains credentials: put the URL into a file and name it in `fetch.proxy.downloads_file`";
                return Err(wrong("proxy.downloads")(why.to_owned()));
            }
            (both(url), Vec::new())
        }
        (None, Some(path)) => {
            let url = dial::read(path).and_then(|content| {
                let text = String::from_utf8_lossy(&content);
                dial::proxy_url(text.lines().next().unwrap_or("").trim())
            });
            (
                both(url.map_err(wrong("proxy.downloads_file"))?),
                Vec::new(),
            )
        }
        (None, None) if config.use_environment => environment(|name| std::env::var(name).ok())?,
        (None, None) => (BTreeMap::new(), Vec::new()),
    };
    no_proxy.extend(config.no_proxy.iter().cloned());
    Ok((urls, no_proxy))
}

/// Reads the usual variables, the lower-case name first. Entries of NO_PROXY that cannot be parsed are
/// skipped, as everywhere.
fn environment(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<(ProxyUrls, Vec<Bypass>), Error> {
    let value = |name: &str| {
        variable(&name.to_ascii_lowercase())
            .or_else(|| variable(name))
            .filter(|text| !text.trim().is_empty())
    };
    let mut urls = BTreeMap::new();
    for (scheme, name) in [("http", "HTTP_PROXY"), ("https", "HTTPS_PROXY")] {
        if let Some(text) = value(name).or_else(|| value("ALL_PROXY")) {
            let url = dial::proxy_url(text.trim()).map_err(wrong("proxy.use_environment"))?;
            urls.insert(scheme, url);
        }
    }
    let listed = value("NO_PROXY").unwrap_or_default();
    let no_proxy = listed
        .split([',', ' '])
        .filter_map(|entry| Bypass::parse(entry.trim()).ok())
        .collect();
    Ok((urls, no_proxy))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_come_first_and_the_origin_last() {
        let config: Config = toml::from_str(
            r#"
            [[mirrors]]
            prefix = "https://cdn.example/files/"
            to = ["http://m1.lan/", "http://m2.lan/x/"]
            [[mirrors]]
            prefix = "https://other.example/"
            to = ["http://m3.lan/"]
            origin = false
            "#,
        )
        .unwrap();
        let routes = Routes::build(config).unwrap();
        let candidates = |url: &str| -> Vec<String> {
            let url = Url::parse(url).unwrap();
            routes
                .candidates(&url)
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(
            candidates("https://cdn.example/files/a.zip?s=1"),
            [
                "http://m1.lan/a.zip?s=1",
                "http://m2.lan/x/a.zip?s=1",
                "https://cdn.example/files/a.zip?s=1"
            ]
        );
        assert_eq!(candidates("https://other.example/a"), ["http://m3.lan/a"]);
        assert_eq!(
            candidates("https://else.example/a"),
            ["https://else.example/a"]
        );
    }

    #[test]
    fn the_environment_is_read_as_usual() {
        let variables = |name: &str| {
            let value = match name {
                "https_proxy" => "http://secure.proxy:3128",
                "ALL_PROXY" => "all.proxy:8080",
                "NO_PROXY" => "localhost, 10.0.0.0/8,.lan,###",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let (urls, no_proxy) = environment(variables).unwrap();
        assert_eq!(urls["https"].as_str(), "http://secure.proxy:3128/");
        assert_eq!(urls["http"].as_str(), "http://all.proxy:8080/");
        assert_eq!(no_proxy.len(), 3);
        let (urls, _) = environment(|_| None).unwrap();
        assert!(urls.is_empty());
    }

    #[test]
    fn says_what_is_wrong_and_no_secret() {
        for (text, key) in [
            (
                "proxy = { downloads = \"http://u:pa55@p:1\" }",
                "proxy.downloads",
            ),
            (
                "proxy = { downloads = \"socks5://p:1\" }",
                "proxy.downloads",
            ),
            (
                "proxy = { downloads_file = \"/nowhere\" }",
                "proxy.downloads_file",
            ),
            ("extra_ca = [\"/nowhere\"]", "extra_ca"),
            (
                "mirrors = [{ prefix = \"https://cdn.example\", to = [] }]",
                "mirrors",
            ),
            ("headers = { \"h\" = { range = \"/nowhere\" } }", "headers"),
            (
                "headers = { \"h\" = { \"a b\" = \"/nowhere\" } }",
                "headers",
            ),
        ] {
            let config: Config = toml::from_str(text).unwrap();
            let error = Routes::build(config).err().expect(text);
            assert!(
                matches!(error.cause(), Cause::Config { key: k, .. } if *k == key),
                "{error}"
            );
            assert!(!error.to_string().contains("pa55"));
        }
    }
}
