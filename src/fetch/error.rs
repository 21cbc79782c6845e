//! What goes wrong while fetching, with what an operator needs: host, phase, bytes, attempts. Never a
//! secret: no query, no user information, no header value; what an origin said is checked before.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::phase::Phase;
use super::policy::Denied;
use super::sniff::Page;
use crate::sys::durable;
use crate::sys::failure::{Class, Fault, Kind, Retry};

/// What went wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// This node's policy forbids the source, or a host that it redirects to.
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("redirect not followed: {why}")]
    Redirect { why: String },
    /// The name has no address, or the resolver does not answer.
    #[error("name does not resolve")]
    Resolve(#[source] io::Error),
    #[error("no connection")]
    Connect(#[source] reqwest::Error),
    #[error("no connection within {}", humantime::format_duration(*limit))]
    ConnectTimeout { limit: Duration },
    #[error("certificate not accepted")]
    Certificate(#[source] rustls::Error),
    /// The origin's certificate is expired or not yet valid, or this node's clock is wrong.
    #[error("certificate not valid at this time")]
    CertificateTime(#[source] rustls::Error),
    /// Any other failure of the handshake.
    #[error("tls handshake failed")]
    Tls(#[source] reqwest::Error),
    #[error("tls handshake not complete within {}", humantime::format_duration(*limit))]
    TlsTimeout { limit: Duration },
    #[error("no response within {}", humantime::format_duration(*limit))]
    FirstByteTimeout { limit: Duration },
    #[error("connection closed without a response")]
    NoAnswer(#[source] reqwest::Error),
    /// The response is not HTTP, or its head is too large.
    #[error("response is not HTTP")]
    BadAnswer(#[source] reqwest::Error),
    /// Any status that is not the file.
    #[error("status {code}")]
    Status {
        code: u16,
        retry_after: Option<Duration>,
        /// The beginning of the body, without secrets. Never part of the message.
        text: Option<String>,
    },
    #[error("status 206 to a request for the whole file")]
    Unsolicited {
        /// The Content-Range, shortened. Never part of the message.
        found: String,
    },
    #[error("origin has {found} bytes, expected {expected}{}", shown(page.as_ref()))]
    WrongLength {
        expected: u64,
        found: u64,
        /// Set if the body looks like a page.
        page: Option<Page>,
    },
    #[error("more than the expected {expected} bytes arrived{}", shown(page.as_ref()))]
    TooLong { expected: u64, page: Option<Page> },
    #[error(
        "the archive has more bytes than the {} that `{}` allows",
        crate::sys::units::show_bytes(*limit),
        Self::MAX_BYTES
    )]
    TooLarge { limit: u64, found: u64 },
    #[error("body ended early")]
    Cut(#[source] Option<reqwest::Error>),
    #[error(
        "slower than {} per second over {}",
        crate::sys::units::show_bytes(*rate),
        humantime::format_duration(*window)
    )]
    Stalled { rate: u64, window: Duration },
    /// The file's time limit has passed, or would have before the next attempt.
    #[error("the file's time limit is over{}{}", if *waiting { " before the next attempt" } else { "" }, later(*asked))]
    Deadline {
        /// Whether the next attempt would be too late.
        waiting: bool,
        /// The Retry-After of the origin, if that is why.
        asked: Option<Duration>,
        /// The last failure.
        #[source]
        last: Option<Error>,
    },
    /// The host does not answer, and is asked by all files together only so often.
    #[error(
        "`{host}` has not answered lately; all files together ask it at most `fetch.retry.per_minute` times a minute"
    )]
    Silent { host: String },
    #[error("canceled")]
    Canceled,
    #[error(transparent)]
    File(#[from] durable::Error),
    /// The file of a `file` URL.
    #[error(transparent)]
    Local(durable::Error),
    #[error("`{path}` is not a plain file")]
    NotAFile { path: String },
    #[error("fetch.{key}: {why}")]
    Config {
        key: &'static str,
        /// Contains no secret.
        why: String,
    },
    /// [`Source::next`](super::Source::next) was called after it failed.
    #[error("source has already failed")]
    Over,
}

fn later(asked: Option<Duration>) -> String {
    match asked {
        Some(asked) => format!(
            ": the origin asked to wait for {}",
            humantime::format_duration(asked)
        ),
        None => String::new(),
    }
}

fn shown(page: Option<&Page>) -> String {
    page.map_or_else(String::new, |page| format!(", {}", page.kind))
}

macro_rules! kinds {
    ($($id:ident = $name:literal, $class:ident, $retry:ident, $help:literal;)*) => {
        $(const $id: Kind = Kind { name: $name, class: Class::$class, retry: Retry::$retry, help: $help };)*
        /// The failures of this station, besides [`FAULTS`](crate::sys::failure::FAULTS).
        pub const KINDS: &[Kind] = &[$($id),*];
    };
}

kinds! {
    DENIED = "source-denied", Policy, Fatal,
        "This node must not fetch from there: push another URL, or change `fetch.allow`, `fetch.deny` and `fetch.ports`.";
    REDIRECT = "redirect-refused", Origin, Fatal,
        "The origin redirects too often, from https to http, or to something that is not a URL: push the final URL.";
    RESOLVE = "resolve-failed", Network, Transient,
        "The host's name has no address: check the name and this node's resolver.";
    CONNECT = "connect-failed", Network, Transient,
        "The host refuses or cannot be reached: check the origin, the proxy, routes and firewalls.";
    CONNECT_TIMEOUT = "connect-timeout", Network, Transient,
        "The host does not respond (`fetch.connect_timeout`): check the origin, the proxy, routes and firewalls.";
    CERTIFICATE = "tls-certificate", Origin, Fatal,
        "The certificate is not trusted or is for another name: check the URL's host and `fetch.extra_ca`.";
    CERTIFICATE_TIME = "tls-certificate-time", Origin, Transient,
        "The certificate is expired or not yet valid: check this node's clock, then the origin.";
    TLS = "tls-failed", Network, Transient,
        "The TLS handshake fails: check the origin's TLS versions, and whether it requires a client certificate.";
    TLS_TIMEOUT = "tls-timeout", Network, Transient,
        "The host accepts connections but does not complete TLS in time (`fetch.tls_timeout`): check port and origin.";
    FIRST_BYTE_TIMEOUT = "first-byte-timeout", Network, Transient,
        "The origin accepts requests but does not respond in time (`fetch.first_byte_timeout`): check its load.";
    NO_ANSWER = "no-answer", Network, Transient,
        "The origin or a proxy closes the connection without a response: check its log.";
    BAD_ANSWER = "bad-answer", Origin, Transient,
        "The server does not speak HTTP, or sends too large a head: check host and port.";
    HTTP_401 = "http-401", Origin, Fatal,
        "The origin requires credentials: push a signed URL, or set `fetch.headers` for the host.";
    HTTP_403 = "http-403", Origin, Fatal,
        "The origin refuses, often because a signed URL has expired: push a fresh URL.";
    HTTP_404 = "http-404", Origin, Fatal,
        "The file is not at the origin: check the URL, and that the upload was finished before the push.";
    HTTP_410 = "http-410", Origin, Fatal,
        "The file was removed from the origin: push a URL that exists.";
    HTTP_429 = "http-429", Origin, Transient,
        "The origin limits requests: the agent retries when it allows.";
    HTTP_4XX = "http-4xx", Origin, Fatal,
        "The origin refuses the request: the message has the status.";
    HTTP_5XX = "http-5xx", Origin, Transient,
        "The origin or a gateway fails: the agent retries; check its log.";
    HTTP_OTHER = "http-other", Origin, Fatal,
        "The origin responds with a status that is not a file: check the URL.";
    RANGE = "unsolicited-range", Origin, Fatal,
        "The origin or a cache sends a part that was not requested: fix it, or bypass it.";
    LENGTH = "wrong-length", Content, Fatal,
        "The file at the origin has another length than the push states, or a page was sent instead.";
    TOO_LONG = "too-long", Content, Fatal,
        "The origin sends more than the push states: compare the size in the push with the file at the origin.";
    TOO_LARGE = "archive-too-large", Content, Fatal,
        "The archive is larger than `fetch.max_bytes`, or `max_archive_bytes` of its application, allows: push a smaller one, or raise the limit.";
    CUT = "body-cut", Network, Transient,
        "The connection drops midway: the bytes so far are kept, and the fetch resumes there.";
    STALLED = "stalled", Network, Transient,
        "The origin or the network is too slow (`fetch.stall`): the bytes so far are kept, and the fetch resumes there.";
    DEADLINE = "deadline", Network, Transient,
        "The file did not arrive within its `timeout`: the message has the last failure; push again to continue.";
    SILENT = "host-silent", Network, Transient,
        "The host has not answered the last requests, so that it is asked less often: check the host, and the failures before.";
    CANCELED = "canceled", Request, Fatal,
        "An operator canceled it: push again if it is wanted.";
    LOCAL_FILE = "local-file", Request, Fatal,
        "The file named by the push document cannot be read here: the message names path and reason.";
    CONFIG = "fetch-config", Policy, Fatal,
        "A setting below `fetch` cannot be used: the message names it.";
}

impl Cause {
    const MAX_BYTES: &str = "fetch.max_bytes";

    /// Returns the row of [`KINDS`].
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        match self {
            Self::Denied(_) => &DENIED,
            Self::Redirect { .. } => &REDIRECT,
            Self::Resolve(_) => &RESOLVE,
            Self::Connect(_) => &CONNECT,
            Self::ConnectTimeout { .. } => &CONNECT_TIMEOUT,
            Self::Certificate(_) => &CERTIFICATE,
            Self::CertificateTime(_) => &CERTIFICATE_TIME,
            Self::Tls(_) => &TLS,
            Self::TlsTimeout { .. } => &TLS_TIMEOUT,
            Self::FirstByteTimeout { .. } => &FIRST_BYTE_TIMEOUT,
            Self::NoAnswer(_) => &NO_ANSWER,
            Self::BadAnswer(_) => &BAD_ANSWER,
            Self::Status { code, .. } => status_kind(*code),
            Self::Unsolicited { .. } => &RANGE,
            Self::WrongLength { .. } => &LENGTH,
            Self::TooLong { .. } => &TOO_LONG,
            Self::TooLarge { .. } => &TOO_LARGE,
            Self::Cut(_) => &CUT,
            Self::Stalled { .. } => &STALLED,
            Self::Deadline { .. } => &DEADLINE,
            Self::Silent { .. } => &SILENT,
            Self::Canceled => &CANCELED,
            Self::File(e) => e.fault().kind(),
            Self::Local(_) | Self::NotAFile { .. } => &LOCAL_FILE,
            Self::Config { .. } => &CONFIG,
            Self::Over => Fault::Io.kind(),
        }
    }
}

fn status_kind(code: u16) -> &'static Kind {
    match code {
        401 => &HTTP_401,
        403 => &HTTP_403,
        404 => &HTTP_404,
        410 => &HTTP_410,
        // A timeout, a replayed request and a rate limit are transient (RFC 9110, 8470, 6585).
        408 | 425 | 429 => &HTTP_429,
        400..=499 => &HTTP_4XX,
        500..=599 => &HTTP_5XX,
        _ => &HTTP_OTHER,
    }
}

/// A [`Cause`] and where it happened. Cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    cause: Cause,
    context: Context,
}

/// Where something happened, and how far the fetch was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Context {
    /// Host and port, or the path of a local file; empty if no source is involved.
    pub host: String,
    /// Host and port of the proxy.
    pub via: Option<String>,
    pub phase: Phase,
    /// Bytes of the file that have arrived.
    pub done: u64,
    /// Length of the file, if known.
    pub total: Option<u64>,
    /// Requests made so far.
    pub attempts: u32,
}

impl Error {
    #[must_use]
    pub fn new(cause: Cause, context: Context) -> Self {
        Self(Arc::new(Inner { cause, context }))
    }

    /// Makes an error that no exchange is involved in.
    #[must_use]
    pub(super) fn of_node(cause: Cause) -> Self {
        let context = Context {
            host: String::new(),
            via: None,
            phase: Phase::Start,
            done: 0,
            total: None,
            attempts: 0,
        };
        Self::new(cause, context)
    }

    /// Returns the row of [`KINDS`].
    #[must_use]
    pub fn kind(&self) -> &'static Kind {
        self.0.cause.kind()
    }

    /// Returns what this node lacks, if that is why.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match &self.0.cause {
            Cause::File(error) => Some(error.fault()),
            _ => None,
        }
    }

    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    #[must_use]
    pub fn context(&self) -> &Context {
        &self.0.context
    }

    /// Returns the failure before the time limit, if this is the end of the time limit.
    #[must_use]
    pub fn last(&self) -> Option<&Self> {
        match &self.0.cause {
            Cause::Deadline { last, .. } => last.as_ref(),
            _ => None,
        }
    }

    #[must_use]
    pub fn is_canceled(&self) -> bool {
        matches!(self.0.cause, Cause::Canceled)
    }

    /// Returns what the source said, which only the operator of this node may read.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match &self.0.cause {
            Cause::Status { text, .. } => text.clone(),
            Cause::Unsolicited { found } => Some(format!("Content-Range `{found}`")),
            Cause::WrongLength { page, .. } | Cause::TooLong { page, .. } => page.clone()?.text,
            Cause::Deadline { last, .. } => last.as_ref()?.detail(),
            _ => None,
        }
    }

    /// Returns the configuration key of the limit that was exceeded.
    #[must_use]
    pub fn limit(&self) -> Option<&'static str> {
        matches!(self.0.cause, Cause::TooLarge { .. }).then_some(Cause::MAX_BYTES)
    }

    /// Returns the expected and the found value, if there are two.
    #[must_use]
    pub fn values(&self) -> Option<(String, String)> {
        match &self.0.cause {
            Cause::WrongLength {
                expected, found, ..
            } => Some((expected.to_string(), found.to_string())),
            Cause::TooLarge { limit, found } => Some((limit.to_string(), found.to_string())),
            Cause::TooLong { expected, .. } => {
                Some((expected.to_string(), format!("more than {expected}")))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { cause, context } = &*self.0;
        if context.host.is_empty() {
            return fmt::Display::fmt(cause, f);
        }
        write!(f, "fetch from {}", context.host)?;
        if let Some(proxy) = &context.via {
            write!(f, " via {proxy}")?;
        }
        write!(f, ": {cause} ({}: {}", context.phase, context.done)?;
        if let Some(total) = context.total {
            write!(f, " of {total}")?;
        }
        let plural = if context.attempts == 1 { "" } else { "s" };
        write!(f, " bytes here, {} attempt{plural})", context.attempts)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("cause", &self.0.cause)
            .field("context", &self.0.context)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.cause.source()
    }
}

impl From<durable::Error> for Error {
    fn from(error: durable::Error) -> Self {
        Self::of_node(error.into())
    }
}
