//! Where an archive is fetched from: a URL that is shown without its secrets.

use std::fmt;
use std::path::Path;

use url::Url;

use super::{Invalid, shorten};

/// Maximum length of a source URL, in bytes.
pub const MAX_URL: usize = 16 * 1024;

/// Returns host and port as used to connect, such as `cdn.example:443`.
#[must_use]
pub fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Where an archive is fetched from. `Display` and `Debug` show only scheme, host, port and path:
/// user information and query often contain credentials or a signature, which must never appear in
/// a log, a status or an error.
#[derive(Clone, PartialEq, Eq)]
pub struct SourceUrl(Url);

impl SourceUrl {
    /// Returns host and port, empty for a file of this host.
    #[must_use]
    pub fn origin(&self) -> String {
        authority(&self.0)
    }

    /// Parses an `http` or `https` URL that has a host.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let url = Self::parse_any(text)?;
        match url.scheme() {
            "http" | "https" => Ok(Self(url)),
            other => Err(Invalid::Url {
                why: format!("scheme `{}`, expected `http` or `https`", shorten(other)),
            }),
        }
    }

    /// Parses a source in a local push document: an `http(s)` or `file` URL, or a path relative to
    /// `base`.
    pub fn parse_local(text: &str, base: &Path) -> Result<Self, Invalid> {
        if text.trim().is_empty() {
            return Err(Invalid::Blank { what: "url" });
        }
        if let Ok(url) = Url::parse(text) {
            return match url.scheme() {
                "http" | "https" => Self::parse(text),
                "file" if url.to_file_path().is_ok() => Ok(Self(url)),
                other => Err(Invalid::Url {
                    why: format!(
                        "scheme `{}`, expected `http`, `https` or `file`",
                        shorten(other)
                    ),
                }),
            };
        }
        let path = std::path::absolute(base.join(text)).map_err(|_| Invalid::Url {
            why: "not an absolute path and no current directory".to_owned(),
        })?;
        Url::from_file_path(path)
            .map(Self)
            .map_err(|()| Invalid::Url {
                why: "not a path".to_owned(),
            })
    }

    fn parse_any(text: &str) -> Result<Url, Invalid> {
        if text.trim().is_empty() {
            return Err(Invalid::Blank { what: "url" });
        }
        if text.len() > MAX_URL {
            return Err(Invalid::TooLong {
                what: "url",
                len: text.len(),
                max: MAX_URL,
            });
        }
        let mut url = Url::parse(text).map_err(|e| Invalid::Url { why: e.to_string() })?;
        url.set_fragment(None);
        Ok(url)
    }

    /// Returns the URL to connect to; it may contain secrets and must not be printed.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.0
    }

    /// Returns the full text, secrets included. Only the store may use it.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Returns the path of a `file` URL.
    #[must_use]
    pub fn file_path(&self) -> Option<std::path::PathBuf> {
        (self.0.scheme() == "file")
            .then(|| self.0.to_file_path().ok())
            .flatten()
    }
}

impl From<Url> for SourceUrl {
    fn from(url: Url) -> Self {
        Self(url)
    }
}

impl fmt::Display for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        let _ = shown.set_username("");
        let _ = shown.set_password(None);
        let hidden = shown.query().is_some();
        shown.set_query(None);
        write!(f, "{shown}{}", if hidden { "?…" } else { "" })
    }
}

impl fmt::Debug for SourceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_shows_no_secret() {
        let url = SourceUrl::parse("https://user:pa55@cdn.example:8443/a/b.zip?sign=SECRET#frag")
            .unwrap();
        assert_eq!(url.to_string(), "https://cdn.example:8443/a/b.zip?…");
        assert_eq!(format!("{url:?}"), url.to_string());
        assert!(url.expose().contains("sign=SECRET"));
        assert_eq!(authority(url.url()), "cdn.example:8443");
    }

    #[test]
    fn url_must_be_http_unless_local() {
        for bad in [
            "",
            "  ",
            "ftp://h/x",
            "file:///etc/passwd",
            "h/x",
            "http://",
            "javascript:1",
        ] {
            assert!(SourceUrl::parse(bad).is_err(), "{bad}");
        }
        let local = SourceUrl::parse_local("a.zip", Path::new("/srv/doc")).unwrap();
        assert_eq!(local.file_path().unwrap(), Path::new("/srv/doc/a.zip"));
        assert!(SourceUrl::parse_local("ftp://h/x", Path::new("/")).is_err());
    }
}
