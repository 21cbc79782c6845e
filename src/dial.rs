//! Outgoing HTTP, shared by the downloads and the callbacks: whom a client trusts, its proxy and its
//! headers, how long a peer asks to wait, and the pause before a retry.
//!
//! Reasons come back as text without the key they belong to and without any secret; the caller knows
//! the key. Reading secret files is the caller's too, since the two have different rules for modes.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use reqwest::ClientBuilder;
use reqwest::header::{DATE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use rustls::client::{ClientSessionStore, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use url::Url;

use crate::datafile::shorten;

/// TLS settings: the system's root certificates, those the configuration adds, and who we are.
///
/// Certificates of the configuration are read at once, so that a mistake shows at start. The system's
/// are a hundred or more and take 35 ms to read, so they are read for the first https request only.
pub struct Tls {
    extra: RootCertStore,
    identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    sessions: Option<Arc<dyn ClientSessionStore>>,
    /// The settings that also trust the system's certificates.
    full: OnceLock<ClientConfig>,
}

impl Tls {
    /// Reads the certificates of `extra_ca`.
    pub fn new(extra_ca: &[PathBuf]) -> Result<Self, String> {
        let mut extra = RootCertStore::empty();
        for path in extra_ca {
            for certificate in certificates(path)? {
                extra
                    .add(certificate)
                    .map_err(|e| format!("`{}`: {e}", path.display()))?;
            }
        }
        Ok(Self {
            extra,
            identity: None,
            sessions: None,
            full: OnceLock::new(),
        })
    }

    /// Presents a client certificate.
    pub fn identify(
        &mut self,
        certificate: &Path,
        key: PrivateKeyDer<'static>,
    ) -> Result<(), String> {
        self.identity = Some((certificates(certificate)?, key));
        self.settings(&[])
            .map(drop)
            .map_err(|e| format!("`{}`: {e}", certificate.display()))
    }

    /// Keeps sessions for resumption in `store` instead of one of its own.
    pub fn keep_sessions(&mut self, store: Arc<dyn ClientSessionStore>) {
        self.sessions = Some(store);
    }

    fn settings(&self, system: &[CertificateDer<'static>]) -> Result<ClientConfig, rustls::Error> {
        let mut roots = self.extra.clone();
        roots.add_parsable_certificates(system.iter().cloned());
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut settings = match &self.identity {
            Some((chain, key)) => builder.with_client_auth_cert(chain.clone(), key.clone_key())?,
            None => builder.with_no_client_auth(),
        };
        settings.alpn_protocols = vec![b"http/1.1".to_vec()];
        if let Some(store) = &self.sessions {
            settings.resumption = Resumption::store(Arc::clone(store));
        }
        Ok(settings)
    }

    fn full(&self) -> Result<ClientConfig, rustls::Error> {
        if let Some(settings) = self.full.get() {
            return Ok(settings.clone());
        }
        let system = rustls_native_certs::load_native_certs();
        for error in system.errors {
            tracing::debug!(%error, "skipped a root certificate of the system");
        }
        let settings = self.settings(&system.certs)?;
        Ok(self.full.get_or_init(|| settings).clone())
    }
}

/// Reads the certificates of a PEM file, of which there must be one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(format!("`{}` holds no certificate", path.display())),
        Err(e) => Err(format!("`{}`: {e}", path.display())),
    }
}

/// Reads the private key of a PEM file.
pub fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|e| format!("`{}`: {e}", path.display()))
}

/// Reads a file that the configuration names.
pub fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|e| format!("cannot read `{}`: {e}", path.display()))
}

type Finish = dyn Fn(ClientBuilder) -> ClientBuilder + Send + Sync;

/// An HTTP/1.1 client without redirects, retries or a proxy but its own.
pub struct Client {
    tls: Arc<Tls>,
    proxy: Option<Url>,
    finish: Box<Finish>,
    plain: reqwest::Client,
    /// Trusts the system's certificates too; made for the first https request.
    secure: OnceLock<reqwest::Client>,
}

impl Client {
    /// Makes a client; `finish` sets what differs from one kind of client to another.
    pub fn new(
        tls: Arc<Tls>,
        proxy: Option<Url>,
        finish: impl Fn(ClientBuilder) -> ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self, String> {
        let settings = tls.settings(&[]).map_err(|e| e.to_string())?;
        Ok(Self {
            plain: build(settings, proxy.as_ref(), &finish)
                .map_err(|e| e.without_url().to_string())?,
            tls,
            proxy,
            finish: Box::new(finish),
            secure: OnceLock::new(),
        })
    }

    /// Returns the client to use for `url`.
    pub fn to(&self, url: &Url) -> &reqwest::Client {
        let proxy_scheme = self.proxy.as_ref().map(Url::scheme);
        if url.scheme() != "https" && proxy_scheme != Some("https") {
            return &self.plain;
        }
        self.secure.get_or_init(|| {
            let settings = self.tls.full().map_err(|e| e.to_string());
            let made = settings.and_then(|settings| {
                build(settings, self.proxy.as_ref(), &self.finish)
                    .map_err(|e| e.without_url().to_string())
            });
            made.unwrap_or_else(|error| {
                tracing::error!(error, "cannot use the system's certificates");
                self.plain.clone()
            })
        })
    }
}

fn build(
    settings: ClientConfig,
    proxy: Option<&Url>,
    finish: &dyn Fn(ClientBuilder) -> ClientBuilder,
) -> reqwest::Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .tls_backend_preconfigured(settings)
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .referer(false)
        .no_proxy()
        .http1_only();
    if let Some(proxy) = proxy {
        builder = builder.proxy(reqwest::Proxy::all(proxy.clone())?);
    }
    finish(builder).build()
}

/// Parses the URL of a proxy; `host:port` alone stands for http.
pub fn proxy_url(text: &str) -> Result<Url, String> {
    // `proxy.lan:3128` would otherwise be a URL with the scheme `proxy.lan`.
    let full = match text.contains("://") {
        true => text.to_owned(),
        false => format!("http://{text}"),
    };
    Url::parse(&full)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        .ok_or_else(|| {
            "is not the URL of a proxy, expected one such as \"http://proxy.example:3128\""
                .to_owned()
        })
}

/// Returns whether a URL contains a user name or a password.
#[must_use]
pub fn has_credentials(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Parses a header that the configuration adds; `reserved` names those that are ours to set.
pub fn header(
    name: &str,
    value: &[u8],
    reserved: &[&str],
) -> Result<(HeaderName, HeaderValue), String> {
    let parsed = HeaderName::from_bytes(name.as_bytes())
        .map_err(|_| format!("`{}` is not a header name", shorten(name)))?;
    if reserved.contains(&parsed.as_str()) {
        return Err(format!("`{parsed}` is set by edgepush itself"));
    }
    let value = HeaderValue::from_bytes(value.trim_ascii())
        .map_err(|_| format!("the value of `{parsed}` cannot be sent in a header"))?;
    Ok((parsed, value))
}

/// Reads Retry-After: seconds, or a date, which is compared with the peer's own clock.
#[must_use]
pub fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let parse = |t: &str| jiff::fmt::rfc2822::parse(t).ok().map(|z| z.timestamp());
    let until = parse(text)?;
    let now = headers
        .get(DATE)
        .and_then(|d| d.to_str().ok())
        .and_then(parse)
        .unwrap_or_else(jiff::Timestamp::now);
    u64::try_from(until.as_second() - now.as_second())
        .ok()
        .map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_retry_after_as_seconds_or_date() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers).map(|d| d.as_secs())
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(read("Sun, 06 Nov 1994 08:40:37 GMT"), None);
        assert_eq!(read("soon"), None);
    }

    #[test]
    fn the_systems_certificates_are_read_for_the_first_tls_connection() {
        let tls = || Arc::new(Tls::new(&[]).unwrap());
        let url = |text| Url::parse(text).unwrap();
        let (direct, proxied) = (tls(), tls());
        let client = Client::new(Arc::clone(&direct), None, |builder| builder).unwrap();
        client.to(&url("http://h/"));
        assert!(direct.full.get().is_none());
        client.to(&url("https://h/"));
        assert!(direct.full.get().is_some());
        // To an https proxy every request needs TLS.
        let proxy = Some(url("https://proxy:3128"));
        let client = Client::new(Arc::clone(&proxied), proxy, |builder| builder).unwrap();
        client.to(&url("http://h/"));
        assert!(proxied.full.get().is_some());
    }

    #[test]
    fn a_proxy_may_be_a_host_and_a_port() {
        assert_eq!(
            proxy_url("proxy.lan:3128").unwrap().as_str(),
            "http://proxy.lan:3128/"
        );
        for wrong in ["", "socks5://p:1", "http://"] {
            assert!(proxy_url(wrong).is_err(), "{wrong}");
        }
    }
}
