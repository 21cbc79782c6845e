//! The ways out of this node: TLS settings, proxy, mirrors, headers. One [`Roads`] is made from a configuration and the
//! files that it names, and never changes; when the configuration or one of the files changes, a new one takes its place
//! for the next request, and running downloads go on over the old one.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::client::{
    ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
    Tls13ClientSessionValue,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use url::Url;

use super::clocks::{Phases, enter};
use super::config::{Config, Proxy};
use super::error::{Cause, Error, Phase};
use super::http::authority;
use super::policy::{Bypass, Policy, Resolver, Rule};
use crate::datafile::shorten;

/// How long an unused connection is kept.
const KEPT: Duration = Duration::from_secs(30);

/// The ways out, as of one moment.
pub(super) struct Roads {
    pub(super) config: Config,
    pub(super) policy: Arc<Policy>,
    direct: reqwest::Client,
    /// For mirrors, which are the configuration's word and may be on this machine.
    trusting: Option<reqwest::Client>,
    /// By the scheme of the destination, which only the environment tells apart.
    proxies: BTreeMap<&'static str, ProxyRoad>,
    no_proxy: Vec<Bypass>,
    headers: Vec<(Rule, HeaderMap)>,
    /// Of the files that were read.
    pub(super) stamps: Stamps,
}

struct ProxyRoad {
    client: reqwest::Client,
    name: String,
    /// With its credentials.
    url: Url,
}

/// The client to use for a URL.
pub(super) struct Road<'a> {
    pub(super) client: &'a reqwest::Client,
    /// Host and port of the proxy.
    pub(super) via: Option<&'a str>,
    /// The proxy with its credentials, which it is sent.
    pub(super) proxy: Option<&'a Url>,
}

/// What tells one content of the files from the next, without reading them: inode, length and modification time of each,
/// `None` where there is no file.
pub(super) type Stamps = Vec<Option<(u64, u64, i64, i64)>>;

impl Roads {
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
            allow: config.allow.clone(),
            deny: config.deny.clone(),
            only_allowed: config.only_allowed,
        });
        let tls = tls(&config)?;
        let filter = Some(Arc::clone(&policy));
        let direct = client(&config, &tls, filter, None)?;
        let trusting = match config.mirrors.as_slice() {
            [] => None,
            _ => Some(client(&config, &tls, None, None)?),
        };
        let (urls, no_proxy) = proxy_urls(&config.proxy)?;
        let mut proxies = BTreeMap::new();
        for (scheme, url) in urls {
            let road = ProxyRoad {
                name: authority(&url),
                client: client(&config, &tls, None, Some(url.clone()))?,
                url,
            };
            proxies.insert(scheme, road);
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

    /// Returns the way to a URL.
    pub(super) fn road_for(&self, url: &Url, trusted: bool) -> Road<'_> {
        match self.proxies.get(url.scheme()) {
            Some(proxy) if !self.no_proxy.iter().any(|b| b.covers(url)) => Road {
                client: &proxy.client,
                via: Some(&proxy.name),
                proxy: Some(&proxy.url),
            },
            _ => Road {
                client: self
                    .trusting
                    .as_ref()
                    .filter(|_| trusted)
                    .unwrap_or(&self.direct),
                via: None,
                proxy: None,
            },
        }
    }

    /// Returns the headers that the host of a URL gets.
    pub(super) fn headers_for(&self, url: &Url) -> impl Iterator<Item = &HeaderMap> {
        self.headers
            .iter()
            .filter(|(rule, _)| rule.is_for(url))
            .map(|(_, headers)| headers)
    }

    /// Returns the places to try for a URL, in order: mirrors, then the URL itself unless it is not to be asked.
    pub(super) fn places(&self, url: &Url) -> Vec<Url> {
        let text = url.as_str();
        for mirror in &self.config.mirrors {
            let Some(rest) = text.strip_prefix(mirror.prefix.as_str()) else {
                continue;
            };
            let rewritten = mirror.to.iter().map(|to| format!("{to}{rest}"));
            let mut places: Vec<Url> = rewritten.filter_map(|to| Url::parse(&to).ok()).collect();
            if mirror.origin || places.is_empty() {
                places.push(url.clone());
            }
            return places;
        }
        vec![url.clone()]
    }
}

fn wrong(key: &'static str, why: impl Into<String>) -> Error {
    Error::of_node(Cause::Config {
        key,
        why: why.into(),
    })
}

/// A text that more path is put behind must end where a host cannot go on: `https://cdn.example` would also be the
/// beginning of `https://cdn.example.evil/`.
fn mirror_url(text: &str) -> Result<(), Error> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && text.ends_with('/') => Ok(()),
        _ => Err(wrong(
            "mirrors",
            format!(
                "`{}` is no http or https URL that ends with `/`",
                shorten(text)
            ),
        )),
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(|e| wrong(key, format!("read `{}`: {e}", path.display())))
}

/// Looks at the files that `config` names.
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
    tls: &ClientConfig,
    filter: Option<Arc<Policy>>,
    proxy: Option<Url>,
) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(tls.clone())
        .user_agent(&config.user_agent)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .dns_resolver(Resolver { policy: filter })
        .connector_layer(Phases)
        .pool_idle_timeout(KEPT)
        .http1_only();
    if let Some(url) = proxy {
        let proxy = reqwest::Proxy::all(url)
            .map_err(|e| wrong("proxy.downloads", e.without_url().to_string()))?;
        builder = builder.proxy(proxy);
    }
    builder
        .build()
        .map_err(|e| wrong("user_agent", e.without_url().to_string()))
}

/// Makes the TLS settings.
fn tls(config: &Config) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    for path in &config.extra_ca {
        for certificate in certificates("extra_ca", path)? {
            roots
                .add(certificate)
                .map_err(|e| wrong("extra_ca", format!("`{}`: {e}", path.display())))?;
        }
    }
    let builder = crate::sys::tls::client(roots).map_err(|e| wrong("extra_ca", e.to_string()))?;
    let mut tls = match (&config.client_certificate, &config.client_key) {
        (Some(certificate), Some(key)) => builder
            .with_client_auth_cert(
                certificates("client_certificate", certificate)?,
                private_key(key)?,
            )
            .map_err(|e| {
                wrong(
                    "client_certificate",
                    format!("`{}`: {e}", certificate.display()),
                )
            })?,
        _ => builder.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    tls.resumption = Resumption::store(Arc::new(Sessions(ClientSessionMemoryCache::new(64))));
    Ok(tls)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let pem = read(key, path)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(wrong(
            key,
            format!("`{}` holds no certificate", path.display()),
        )),
        Err(e) => Err(wrong(key, format!("`{}`: {e}", path.display()))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let pem = read("client_key", path)?;
    PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|e| wrong("client_key", format!("`{}`: {e}", path.display())))
}

/// Header names that belong to the exchange itself.
const OURS: [&str; 9] = [
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

fn headers(config: &Config) -> Result<Vec<(Rule, HeaderMap)>, Error> {
    let mut all = Vec::new();
    for (rule, named) in &config.headers {
        let mut map = HeaderMap::new();
        for (name, path) in named {
            let header = HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| wrong("headers", format!("`{name}` is no header name")))?;
            if OURS.contains(&header.as_str()) {
                return Err(wrong("headers", format!("`{name}` cannot be set")));
            }
            let content = read("headers", path)?;
            let mut value = HeaderValue::from_bytes(content.trim_ascii()).map_err(|_| {
                wrong(
                    "headers",
                    format!("`{}` holds no header value", path.display()),
                )
            })?;
            value.set_sensitive(true);
            map.insert(header, value);
        }
        all.push((rule.clone(), map));
    }
    Ok(all)
}

type ProxyUrls = BTreeMap<&'static str, Url>;

/// Returns the proxy for each scheme of a destination, and what is dialled without.
fn proxy_urls(config: &Proxy) -> Result<(ProxyUrls, Vec<Bypass>), Error> {
    let both = |url: Url| BTreeMap::from([("http", url.clone()), ("https", url)]);
    let (urls, mut no_proxy) = match (&config.downloads, &config.downloads_file) {
        (Some(text), _) => {
            let url = proxy_url("proxy.downloads", text)?;
            if !url.username().is_empty() || url.password().is_some() {
                let why = "holds credentials: put the URL into a file and name that as `fetch.proxy.downloads_file`";
                return Err(wrong("proxy.downloads", why));
            }
            (both(url), Vec::new())
        }
        (None, Some(path)) => {
            let content = read("proxy.downloads_file", path)?;
            let text = String::from_utf8_lossy(&content);
            let line = text.lines().next().unwrap_or("").trim();
            (both(proxy_url("proxy.downloads_file", line)?), Vec::new())
        }
        (None, None) if config.use_environment => environment(|name| std::env::var(name).ok())?,
        (None, None) => (BTreeMap::new(), Vec::new()),
    };
    no_proxy.extend(config.no_proxy.iter().cloned());
    Ok((urls, no_proxy))
}

fn proxy_url(key: &'static str, text: &str) -> Result<Url, Error> {
    // `proxy.lan:3128` would be a URL of the scheme `proxy.lan`.
    let full = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    let url = Url::parse(&full).map_err(|e| wrong(key, e.to_string()))?;
    match url.scheme() {
        "http" | "https" if url.has_host() => Ok(url),
        _ => Err(wrong(key, "is no http or https URL of a proxy")),
    }
}

/// Reads the usual variables, the lower-case name first. What cannot be read in NO_PROXY is left out, as everywhere.
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
            urls.insert(scheme, proxy_url("proxy.use_environment", text.trim())?);
        }
    }
    let listed = value("NO_PROXY").unwrap_or_default();
    let no_proxy = listed
        .split([',', ' '])
        .filter_map(|entry| Bypass::parse(entry.trim()).ok())
        .collect();
    Ok((urls, no_proxy))
}

/// Keeps TLS sessions in memory, and notes when a handshake begins: it is asked first thing.
#[derive(Debug)]
struct Sessions(ClientSessionMemoryCache);

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.0.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        enter(Phase::Tls);
        self.0.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        enter(Phase::Tls);
        self.0.tls12_session(server_name)
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.0.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(
        &self,
        server_name: ServerName<'static>,
        value: Tls13ClientSessionValue,
    ) {
        self.0.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(
        &self,
        server_name: &ServerName<'static>,
    ) -> Option<Tls13ClientSessionValue> {
        enter(Phase::Tls);
        self.0.take_tls13_ticket(server_name)
    }
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
        let roads = Roads::build(config).unwrap();
        let places = |url: &str| -> Vec<String> {
            let url = Url::parse(url).unwrap();
            roads.places(&url).iter().map(ToString::to_string).collect()
        };
        assert_eq!(
            places("https://cdn.example/files/a.zip?s=1"),
            [
                "http://m1.lan/a.zip?s=1",
                "http://m2.lan/x/a.zip?s=1",
                "https://cdn.example/files/a.zip?s=1"
            ]
        );
        assert_eq!(places("https://other.example/a"), ["http://m3.lan/a"]);
        assert_eq!(places("https://else.example/a"), ["https://else.example/a"]);
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
            let error = Roads::build(config).err().expect(text);
            assert!(
                matches!(error.cause(), Cause::Config { key: k, .. } if *k == key),
                "{error}"
            );
            assert!(!error.to_string().contains("pa55"));
        }
    }
}
