//! What goes wrong on the way to an archive, told so that an operator knows where to look: host, phase, bytes, attempts.
//! Never a secret: no query, no user information, no header value; what an origin said is cleaned before it gets here.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::phase::Phase;
use super::policy::Denied;
use crate::sys::durable;
use crate::sys::failure::{Class, Fault, Kind, Retry};

/// What went wrong, without where.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Cause {
    /// The policy of this node forbids the source, or a host that it redirects to.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// A redirect is not followed.
    #[error("redirect not followed: {why}")]
    Redirect {
        /// Why not.
        why: String,
    },
    /// The name has no address, or nobody says so.
    #[error("name does not resolve")]
    Resolve(#[source] io::Error),
    /// No connection came about.
    #[error("no connection")]
    Connect(#[source] reqwest::Error),
    /// The connection was not open in time.
    #[error("no connection within {}", humantime::format_duration(*limit))]
    ConnectTimeout {
        /// `fetch.connect_timeout`.
        limit: Duration,
    },
    /// The origin's certificate is not one to trust.
    #[error("certificate not accepted")]
    Certificate(#[source] rustls::Error),
    /// The origin's certificate is expired or not yet valid, or this node's clock is wrong.
    #[error("certificate not valid at this time")]
    CertificateTime(#[source] rustls::Error),
    /// The TLS handshake failed otherwise.
    #[error("tls handshake failed")]
    Tls(#[source] reqwest::Error),
    /// The TLS handshake was not over in time.
    #[error("tls handshake not over within {}", humantime::format_duration(*limit))]
    TlsTimeout {
        /// `fetch.tls_timeout`.
        limit: Duration,
    },
    /// The head of the answer did not come in time.
    #[error("no answer within {}", humantime::format_duration(*limit))]
    FirstByteTimeout {
        /// `fetch.first_byte_timeout`.
        limit: Duration,
    },
    /// The connection ended before the head of an answer.
    #[error("connection ended without an answer")]
    NoAnswer(#[source] reqwest::Error),
    /// What came is not HTTP, or more head than anyone needs.
    #[error("answer is not understood")]
    BadAnswer(#[source] reqwest::Error),
    /// An answer with a status that is not the file.
    #[error("status {code}{}", said(excerpt.as_ref()))]
    Status {
        /// The status code.
        code: u16,
        /// What Retry-After asks for.
        retry_after: Option<Duration>,
        /// The beginning of the body, cleaned.
        excerpt: Option<String>,
    },
    /// 206 to a request without Range.
    #[error("status 206 with `{found}` to a request for the whole file")]
    Unsolicited {
        /// Its Content-Range, shortened.
        found: String,
    },
    /// The origin's file has another length than stated.
    #[error("origin has {found} bytes, expected {expected}{}", said(excerpt.as_ref()))]
    WrongLength {
        /// What the push states.
        expected: u64,
        /// What the origin has.
        found: u64,
        /// The beginning of the body with its content type, where it looks like a page, cleaned.
        excerpt: Option<String>,
    },
    /// More bytes came than stated.
    #[error("more than the expected {expected} bytes came{}", said(excerpt.as_ref()))]
    TooLong {
        /// What the push states.
        expected: u64,
        /// The beginning of the body, as above.
        excerpt: Option<String>,
    },
    /// The body ended too early.
    #[error("body ended early")]
    Cut(#[source] Option<reqwest::Error>),
    /// The body came too slowly.
    #[error(
        "slower than {} a second over {}",
        crate::sys::units::show_bytes(*rate),
        humantime::format_duration(*window)
    )]
    Stalled {
        /// `fetch.stall.rate`.
        rate: u64,
        /// `fetch.stall.window`.
        window: Duration,
    },
    /// The time limit of the file is over, or the next attempt would come after it.
    #[error("time limit of the file is over{}{}", if *waiting { " before the next attempt" } else { "" }, later(*asked))]
    Deadline {
        /// Whether it failed because waiting for another attempt is useless.
        waiting: bool,
        /// For how long the origin has asked to wait, if that is why.
        asked: Option<Duration>,
        /// What happened last.
        #[source]
        last: Option<Error>,
    },
    /// The job was canceled.
    #[error("canceled")]
    Canceled,
    /// A file operation of this node failed.
    #[error(transparent)]
    File(#[from] durable::Error),
    /// The file that a `file` URL names cannot be read.
    #[error(transparent)]
    Local(durable::Error),
    /// What a `file` URL names is not a plain file.
    #[error("`{path}` is not a plain file")]
    NotAFile {
        /// The path.
        path: String,
    },
    /// The configuration cannot be used.
    #[error("fetch.{key}: {why}")]
    Config {
        /// The key below `fetch`.
        key: &'static str,
        /// What is wrong, without any secret.
        why: String,
    },
    /// [`Source::next`](super::Source::next) was called after it had failed.
    #[error("source has failed before")]
    Over,
}

/// Says that an origin has put the next attempt off for too long.
fn later(asked: Option<Duration>) -> String {
    match asked {
        Some(asked) => format!(
            ": the origin has asked to wait for {}",
            humantime::format_duration(asked)
        ),
        None => String::new(),
    }
}

fn said(excerpt: Option<&String>) -> String {
    excerpt.map_or_else(String::new, |text| format!(", {text}"))
}

macro_rules! kinds {
    ($($id:ident = $name:literal, $class:ident, $retry:ident, $help:literal;)*) => {
        $(const $id: Kind = Kind { name: $name, class: Class::$class, retry: Retry::$retry, help: $help };)*
        /// Every way in which this station fails, besides [`FAULTS`](crate::sys::failure::FAULTS).
        pub const KINDS: &[Kind] = &[$($id),*];
    };
}

kinds! {
    DENIED = "source-denied", Policy, Fatal,
        "This node must not fetch from there: push another URL, or change `fetch.allow` and `fetch.deny`.";
    REDIRECT = "redirect-refused", Origin, Fatal,
        "The origin redirects too often, from https to http, or to something that is no URL: push the final URL.";
    RESOLVE = "resolve-failed", Network, Transient,
        "The host's name has no address: check the name and this node's resolver.";
    CONNECT = "connect-failed", Network, Transient,
        "The host refuses or cannot be reached: check the origin, the proxy, routes and firewalls.";
    CONNECT_TIMEOUT = "connect-timeout", Network, Transient,
        "The host does not react (`fetch.connect_timeout`): check the origin, the proxy, routes and firewalls.";
    CERTIFICATE = "tls-certificate", Origin, Fatal,
        "The certificate is not trusted or is for another name: check the URL's host and `fetch.extra_ca`.";
    CERTIFICATE_TIME = "tls-certificate-time", Origin, Transient,
        "The certificate is expired or not yet valid: check this node's clock, then the origin.";
    TLS = "tls-failed", Network, Transient,
        "The TLS handshake breaks off: check the origin's TLS versions, and whether it wants a client certificate.";
    TLS_TIMEOUT = "tls-timeout", Network, Transient,
        "The host takes connections and does not speak TLS in time (`fetch.tls_timeout`): check port and origin.";
    FIRST_BYTE_TIMEOUT = "first-byte-timeout", Network, Transient,
        "The origin takes requests and does not answer (`fetch.first_byte_timeout`): look at its load.";
    NO_ANSWER = "no-answer", Network, Transient,
        "The origin or a proxy closes the connection without an answer: look at its log.";
    BAD_ANSWER = "bad-answer", Origin, Transient,
        "What answers there does not speak HTTP, or sends too large a head: check host and port.";
    HTTP_401 = "http-401", Origin, Fatal,
        "The origin wants credentials: push a signed URL, or set `fetch.headers` for the host.";
    HTTP_403 = "http-403", Origin, Fatal,
        "The origin refuses, often because a signed URL has expired: push a fresh URL.";
    HTTP_404 = "http-404", Origin, Fatal,
        "The file is not at the origin: check the URL, and that the upload was finished before the push.";
    HTTP_410 = "http-410", Origin, Fatal,
        "The file was removed from the origin: push a URL that exists.";
    HTTP_429 = "http-429", Origin, Transient,
        "The origin has too many requests: it is asked again when it allows.";
    HTTP_4XX = "http-4xx", Origin, Fatal,
        "The origin refuses the request: the status and its text say why.";
    HTTP_5XX = "http-5xx", Origin, Transient,
        "The origin or a gateway is in trouble: it is asked again; look at its log.";
    HTTP_OTHER = "http-other", Origin, Fatal,
        "The origin answers with a status that is not a file: check the URL.";
    RANGE = "unsolicited-range", Origin, Fatal,
        "The origin or a cache sends parts that nobody asked for: fix it, or go around it.";
    LENGTH = "wrong-length", Content, Fatal,
        "The file at the origin has another length than the push says, or a page was sent in its place.";
    TOO_LONG = "too-long", Content, Fatal,
        "The origin sends more than the push says: compare the size in the push with the file at the origin.";
    CUT = "body-cut", Network, Transient,
        "The connection ends in the middle of the file: what came is kept and the fetch goes on there.";
    STALLED = "stalled", Network, Transient,
        "The origin or the way to it is too slow (`fetch.stall`): what came is kept and the fetch goes on there.";
    DEADLINE = "deadline", Network, Transient,
        "The file did not arrive within its `timeout`: the message says what happened last; push again to go on.";
    CANCELED = "canceled", Request, Fatal,
        "An operator canceled it: push again if it is wanted.";
    LOCAL_FILE = "local-file", Request, Fatal,
        "The file named by the push document cannot be read here: the message names path and reason.";
    CONFIG = "fetch-config", Policy, Fatal,
        "A setting below `fetch` cannot be used: the message names it.";
}

impl Cause {
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
            Self::Cut(_) => &CUT,
            Self::Stalled { .. } => &STALLED,
            Self::Deadline { .. } => &DEADLINE,
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
        // A timeout, a replayed request and a limit pass by themselves (RFC 9110, 8470, 6585).
        408 | 425 | 429 => &HTTP_429,
        400..=499 => &HTTP_4XX,
        500..=599 => &HTTP_5XX,
        _ => &HTTP_OTHER,
    }
}

/// A [`Cause`] with the place where it happened. Cheap to clone.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

struct Inner {
    cause: Cause,
    place: Place,
}

/// Where something happened, and how far the fetch was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Host and port, or the path of a local file; empty where no source is involved.
    pub host: String,
    /// The proxy on the way, as host and port.
    pub via: Option<String>,
    /// The phase of the exchange.
    pub phase: Phase,
    /// Bytes of the file that are here.
    pub done: u64,
    /// Length of the file, where known.
    pub total: Option<u64>,
    /// How many requests were made so far.
    pub attempts: u32,
}

impl Error {
    /// Puts a cause in its place.
    #[must_use]
    pub fn new(cause: Cause, place: Place) -> Self {
        Self(Arc::new(Inner { cause, place }))
    }

    /// Makes an error that has nothing to do with an exchange.
    #[must_use]
    pub(super) fn of_node(cause: Cause) -> Self {
        let place = Place {
            host: String::new(),
            via: None,
            phase: Phase::Start,
            done: 0,
            total: None,
            attempts: 0,
        };
        Self::new(cause, place)
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

    /// Returns what went wrong.
    #[must_use]
    pub fn cause(&self) -> &Cause {
        &self.0.cause
    }

    /// Returns where it happened.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.0.place
    }

    /// Tells whether the job was canceled.
    #[must_use]
    pub fn is_canceled(&self) -> bool {
        matches!(self.0.cause, Cause::Canceled)
    }

    /// Returns the expected and the found value, where there are two.
    #[must_use]
    pub fn values(&self) -> Option<(String, String)> {
        match &self.0.cause {
            Cause::WrongLength {
                expected, found, ..
            } => Some((expected.to_string(), found.to_string())),
            Cause::TooLong { expected, .. } => {
                Some((expected.to_string(), format!("more than {expected}")))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { cause, place } = &*self.0;
        if place.host.is_empty() {
            return fmt::Display::fmt(cause, f);
        }
        write!(f, "fetch from {}", place.host)?;
        if let Some(proxy) = &place.via {
            write!(f, " via {proxy}")?;
        }
        write!(f, ": {cause} ({}: {}", place.phase, place.done)?;
        if let Some(total) = place.total {
            write!(f, " of {total}")?;
        }
        let plural = if place.attempts == 1 { "" } else { "s" };
        write!(f, " bytes here, {} attempt{plural})", place.attempts)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("cause", &self.0.cause)
            .field("place", &self.0.place)
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
