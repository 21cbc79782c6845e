//! The client of an ENS endpoint: it signs calls as the vendor's SDKs do, sends them, and retries
//! transient failures.
//!
//! A retry has a new nonce and time, so that it is never rejected as a replay. Repeating a push is
//! safe: the same push again changes nothing (docs/ens.md §7).

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap};
use url::Url;

use crate::cli::exit::{self, Error};
use crate::cli::out::printable;
use crate::dial::{self, Tls};
use crate::sys::clock::{Clock, SystemClock};
use crate::sys::secret::Secret;
use crate::sys::{Chain, pauses};
use crate::wire::envelope::{self, ErrorAnswer};
use crate::wire::parameters::Parameters;
use crate::wire::sign::{Action, Key, Once, Scheme};

/// Time limit for one call. The agent answers within 9 s.
const TIMEOUT: Duration = Duration::from_secs(15);

/// An endpoint and the access key to call it with.
pub(super) struct Endpoint {
    url: Url,
    /// What is sent as `Host`, and signed.
    host: String,
    key_id: String,
    secret: Secret,
    client: dial::Client,
    redacted: Vec<String>,
}

/// Why an attempt brought no answer, and when the next one may help.
struct Failed {
    error: Error,
    retry: Retry,
}

enum Retry {
    Never,
    /// After this pause, or after one of our own choice.
    After(Option<Duration>),
}

impl Endpoint {
    /// Prepares calls of the endpoint at `to`. What is in `redacted` is never shown.
    pub(super) fn new(
        to: &str,
        key_id: &str,
        secret_file: &Path,
        redacted: Vec<String>,
    ) -> Result<Self, Error> {
        let url = parse(to)?;
        let failed = |reason: String| Error::new(exit::FAILED, reason);
        let tls = Arc::new(Tls::new(&[]).map_err(failed)?);
        let client = dial::Client::new(tls, None, |builder| builder.timeout(TIMEOUT));
        let host = url.host_str().unwrap_or_default();
        let host = match url.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        Ok(Self {
            host,
            url,
            key_id: key_id.to_owned(),
            secret: Secret::read(secret_file).map_err(|e| Error::new(exit::USAGE, e))?,
            client: client.map_err(failed)?,
            redacted,
        })
    }

    /// Calls `action` and returns what `read` makes of the answer; retries for as long as
    /// `patience` lasts.
    pub(super) async fn call<T>(
        &self,
        action: Action,
        parameters: impl Fn() -> Parameters,
        patience: Duration,
        read: impl Fn(&str) -> Result<T, serde_json::Error>,
    ) -> Result<T, Error> {
        let end = Instant::now() + patience;
        for attempts in 0.. {
            let failed = match self.attempt(action, parameters()).await {
                Ok(text) => match read(&text) {
                    Ok(answer) => return Ok(answer),
                    Err(_) => return Err(self.not_an_endpoint(StatusCode::OK)),
                },
                Err(failed) => failed,
            };
            let Retry::After(wait) = failed.retry else {
                return Err(failed.error);
            };
            let pause = wait.unwrap_or_else(|| pauses::ENDPOINT.random(attempts));
            if Instant::now() + pause >= end {
                return Err(failed.error);
            }
            tokio::time::sleep(pause).await;
        }
        unreachable!("the loop has no end")
    }

    async fn attempt(&self, action: Action, parameters: Parameters) -> Result<String, Failed> {
        let nonce = uuid::Uuid::new_v4().simple().to_string();
        let once = Once {
            now_ms: SystemClock.now_ms(),
            nonce: &nonce,
        };
        let key = Key {
            id: &self.key_id,
            secret: self.secret.expose(),
        };
        let signed = key.sign(Scheme::Header, action, parameters, &self.host, once);
        let mut request = self.client.to(&self.url).post(self.url.clone());
        for (name, value) in signed.headers {
            request = request.header(name, value);
        }
        let answer = request.body(signed.body).send().await;
        let answer = answer.map_err(|error| self.unreachable(error))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.text().await.map_err(|e| self.unreachable(e))?;
        match status {
            StatusCode::OK => Ok(text),
            _ => Err(self.refused(action, status, &headers, &text)),
        }
    }

    fn unreachable(&self, error: reqwest::Error) -> Failed {
        let error = error.without_url();
        let reason = Chain(&error).to_string();
        let untrusted = reason.contains("certificate");
        let help = match untrusted {
            true => {
                "the certificate is not trusted on this machine: add the issuer's certificate to those of the system, or name its file in the variable SSL_CERT_FILE"
            }
            false => {
                "check the address, the network and the endpoint; to run the same command again is safe"
            }
        };
        let reason = format!("cannot reach {}: {reason}", self.shown());
        Failed {
            error: Error::new(exit::UNREACHABLE, reason).with_help(help),
            retry: match untrusted {
                true => Retry::Never,
                false => Retry::After(None),
            },
        }
    }

    /// Turns an answer other than 200 into an error that says what to do.
    fn refused(
        &self,
        action: Action,
        status: StatusCode,
        headers: &HeaderMap,
        text: &str,
    ) -> Failed {
        let overloaded = matches!(status.as_u16(), 429 | 500 | 502 | 503 | 504);
        let Ok(answer) = envelope::read_error(text) else {
            return Failed {
                error: self.not_an_endpoint(status),
                retry: match overloaded {
                    true => Retry::After(dial::retry_after(headers)),
                    false => Retry::Never,
                },
            };
        };
        let (what, help) = self
            .key_trouble(action, &answer.code)
            .unwrap_or_else(|| self.other_trouble(status, headers, &answer));
        let throttled = answer.code.starts_with("Throttling");
        Failed {
            error: Error::new(exit::FAILED, what).with_help(help),
            retry: match throttled || overloaded {
                true => Retry::After(pause_asked(headers)),
                false => Retry::Never,
            },
        }
    }

    /// Explains a refusal of the access key or its signature. The message of a wrong signature
    /// repeats the whole request, secrets of the URLs included, and is never shown.
    fn key_trouble(&self, action: Action, code: &str) -> Option<(String, &'static str)> {
        let (key, endpoint) = (&self.key_id, self.shown());
        Some(match code {
            "SignatureDoesNotMatch" => (
                format!("{endpoint} rejects the signature of access key `{key}`"),
                "the file of --secret-file does not hold the secret of this key",
            ),
            "InvalidAccessKeyId.NotFound" => (
                format!("{endpoint} does not know access key `{key}`"),
                "check --key; an agent lists its keys in `api.access_keys`",
            ),
            "InvalidAccessKeyId.Inactive" => (
                format!("access key `{key}` is disabled at {endpoint}"),
                "use another key, or enable this one in `api.access_keys` of the agent",
            ),
            "NoPermission" => (
                format!(
                    "access key `{key}` may not use {} for this application at {endpoint}",
                    action.as_str()
                ),
                "allow it in `apps` and `actions` of the key",
            ),
            code if code.starts_with("Throttling") => (
                format!("{endpoint} throttles access key `{key}`"),
                "push again later, or raise `api.rate` of the agent",
            ),
            _ => return None,
        })
    }

    fn other_trouble(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        answer: &ErrorAnswer<'_>,
    ) -> (String, &'static str) {
        let endpoint = self.shown();
        let message = self.redact(&answer.message);
        match &*answer.code {
            "InvalidTimeStamp.Expired" => (
                format!(
                    "{endpoint} rejects the time of the request{}",
                    skew(headers)
                ),
                "set this machine's clock, or that of the endpoint; they may differ by 15 minutes",
            ),
            "ServiceUnavailable" => (
                format!("{endpoint} accepts no calls at the moment: {message}"),
                "it is stopping, overloaded or out of disk space; push again later",
            ),
            _ if status == StatusCode::FORBIDDEN => (
                format!("{endpoint} answered 403 Forbidden: {message}"),
                "check what the access key may do, and from where it may be used",
            ),
            code => (
                format!("{endpoint} answered {}: {message}", printable(code)),
                "",
            ),
        }
    }

    fn not_an_endpoint(&self, status: StatusCode) -> Error {
        let shown = self.shown();
        Error::new(
            exit::FAILED,
            format!("{shown} answered {status}, but not as an ENS endpoint does"),
        )
        .with_help("check the address: a proxy or another server answers there")
    }

    fn shown(&self) -> &str {
        self.url.as_str().trim_end_matches('/')
    }

    /// Returns a text of the endpoint as it may be shown: without secrets and control characters.
    pub(super) fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.redacted {
            text = text.replace(secret.as_str(), "…");
        }
        printable(&text).into_owned()
    }
}

/// Parses the address of an endpoint: scheme, host and port, and nothing else.
fn parse(to: &str) -> Result<Url, Error> {
    let wrong = || {
        Error::usage(
            "--to takes the address of an ENS endpoint, such as https://ens.example:7480; use --socket for the socket of an agent on this machine",
        )
    };
    let url = Url::parse(to).map_err(|_| wrong())?;
    let is_bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
    let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
    match is_http && is_bare && !dial::has_credentials(&url) {
        true => Ok(url),
        false => Err(wrong()),
    }
}

/// Returns the pause that the endpoint asks for, in the vendor's header (milliseconds) or the
/// common one.
fn pause_asked(headers: &HeaderMap) -> Option<Duration> {
    let vendor = headers.get("x-acs-retry-after");
    let ms = vendor.and_then(|value| value.to_str().ok()?.parse().ok());
    ms.map(Duration::from_millis)
        .or_else(|| dial::retry_after(headers))
}

/// Says by how much this machine's clock differs from the endpoint's, where its answer has a date.
fn skew(headers: &HeaderMap) -> String {
    let date = headers.get(DATE).and_then(|date| date.to_str().ok());
    let theirs = date.and_then(|date| jiff::fmt::rfc2822::parse(date).ok());
    let Some(theirs) = theirs else {
        return String::new();
    };
    let ahead = SystemClock.now_ms() / 1000 - theirs.timestamp().as_second();
    let span = humantime::format_duration(Duration::from_secs(ahead.unsigned_abs()));
    match ahead {
        0.. => format!(": this machine's clock is {span} ahead of it"),
        _ => format!(": this machine's clock is {span} behind it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_scheme_host_and_port() {
        for good in [
            "http://h",
            "https://h:7480",
            "https://h/",
            "http://[::1]:80",
        ] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in [
            "h:7480",
            "/run/edgepush/agent.sock",
            "unix:/s",
            "ftp://h",
            "https://h/path",
            "https://h?x=1",
            "https://h#x",
            "https://user:pass@h",
            "",
        ] {
            assert_eq!(parse(bad).unwrap_err().exit, exit::USAGE, "{bad}");
        }
    }
}
