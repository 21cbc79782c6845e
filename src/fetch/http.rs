//! One request: its phases and timeouts, its redirects, and the kind of failure it ended in. GET only
//! (presigned URLs answer 403 to HEAD), and bytes as sent (`Accept-Encoding: identity`, no decoding).

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, HeaderMap, HeaderValue, IF_RANGE, LOCATION,
    RANGE,
};
use reqwest::{Response, StatusCode};
use url::Url;

use super::clocks::{Progress, Timeouts, with_timeouts};
use super::error::Cause;
use super::phase::Phase;
use super::policy::Denied;
use super::routes::{Route, Routes};
use super::secrets::{Secrets, basic};
use crate::datafile::authority;

/// What is asked for.
pub(super) struct Ask<'a> {
    pub(super) url: &'a Url,
    /// The first byte wanted, if not all of them.
    pub(super) from: Option<u64>,
    /// The validator that makes a part usable.
    pub(super) if_range: Option<&'a str>,
    /// Whether the URL comes from the configuration, which may name what a push may not.
    pub(super) trusted: bool,
    /// Whether caches on the way are told to ask the origin.
    pub(super) past_caches: bool,
}

/// A response that is not a redirect.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Host and port that it came from.
    pub(super) host: String,
    pub(super) via: Option<String>,
}

/// Why there is no response.
pub(super) struct NoAnswer {
    pub(super) cause: Cause,
    pub(super) phase: Phase,
    /// Host and port that were asked last.
    pub(super) host: String,
    pub(super) via: Option<String>,
}

/// One request of a chain of redirects.
struct Hop<'a> {
    url: &'a Url,
    route: Route<'a>,
    trusted: bool,
    /// Host and port, for messages.
    host: String,
    /// Whether the host's name holds a secret: a redirect may lead to a host named like a query value.
    hidden: bool,
}

/// Sends a request and follows redirects. Every hop is checked and gets the headers of its own host
/// only; whatever is sent is added to `secrets`.
pub(super) async fn ask(
    routes: &Routes,
    ask: &Ask<'_>,
    secrets: &mut Secrets,
) -> Result<Answer, NoAnswer> {
    let mut url = ask.url.clone();
    secrets.add(&url);
    let mut credentials = take_credentials(&mut url);
    let mut hops = 0;
    loop {
        let hop = Hop::new(routes, &url, hops, ask.trusted, secrets);
        let headers = request_headers(routes, ask, &url, credentials.as_ref());
        let response = hop.send(routes, &headers).await?;
        let next = redirect_target(&url, &response, secrets)
            .map_err(|cause| hop.fail(Phase::FirstByte, cause))?;
        let Some(next) = next else {
            let via = hop.route.via.map(str::to_owned);
            let host = hop.host;
            return Ok(Answer {
                response,
                host,
                via,
            });
        };
        secrets.add(&next);
        hops += 1;
        if hops > routes.config.max_redirects {
            let why = format!("more than {} in a row", routes.config.max_redirects);
            return Err(hop.fail(Phase::FirstByte, Cause::Redirect { why }));
        }
        if next.origin() != url.origin() {
            credentials = None;
        }
        url = next;
    }
}

impl<'a> Hop<'a> {
    fn new(
        routes: &'a Routes,
        url: &'a Url,
        hops: u32,
        trusted: bool,
        secrets: &mut Secrets,
    ) -> Self {
        let trusted = trusted && hops == 0;
        let host = authority(url);
        let hidden = hops > 0 && secrets.are_in(&host);
        let route = routes.route_for(url, trusted);
        if let Some(proxy) = route.proxy {
            secrets.add(proxy);
        }
        for headers in routes.headers_for(url) {
            secrets.add_headers(headers);
        }
        Self {
            url,
            route,
            trusted,
            host: if hidden { "…".to_owned() } else { host },
            hidden,
        }
    }

    async fn send(&self, routes: &Routes, headers: &HeaderMap) -> Result<Response, NoAnswer> {
        if !self.trusted {
            routes
                .policy
                .check_url(self.url, self.route.via.is_none())
                .map_err(|denied| self.fail(Phase::Start, denied.into()))?;
        }
        request(routes.timeouts(), self.route.client, self.url, headers)
            .await
            .map_err(|(phase, cause)| self.fail(phase, cause))
    }

    fn fail(&self, phase: Phase, cause: Cause) -> NoAnswer {
        NoAnswer {
            cause: if self.hidden { unnamed(cause) } else { cause },
            phase,
            host: self.host.clone(),
            via: self.route.via.map(str::to_owned),
        }
    }
}

/// Removes the host's name from a cause.
fn unnamed(cause: Cause) -> Cause {
    match cause {
        Cause::Denied(denied) => Cause::Denied(denied.unnamed()),
        Cause::Certificate(_) => Cause::Certificate(rustls::Error::General(
            "not one for this host that is trusted".to_owned(),
        )),
        other => other,
    }
}

/// Takes the credentials out of a URL, so that a redirect cannot carry them elsewhere.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    let encoded = basic(url)?;
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn request_headers(
    routes: &Routes,
    ask: &Ask<'_>,
    url: &Url,
    credentials: Option<&HeaderValue>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = credentials {
        headers.insert(AUTHORIZATION, value.clone());
    }
    for more in routes.headers_for(url) {
        headers.extend(more.clone());
    }
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if ask.past_caches {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    if let Some(from) = ask.from
        && let Ok(range) = HeaderValue::try_from(format!("bytes={from}-"))
    {
        headers.insert(RANGE, range);
        if let Some(Ok(condition)) = ask.if_range.map(HeaderValue::from_str) {
            headers.insert(IF_RANGE, condition);
        }
    }
    headers
}

/// Sends one request. The origin may close a pooled connection at the very moment it is reused: that is
/// not a failure of the origin, so the request is sent again at once, once.
async fn request(
    timeouts: Timeouts,
    client: &reqwest::Client,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Response, (Phase, Cause)> {
    let mut again = true;
    loop {
        let progress = Arc::new(Progress::default());
        let sending = client.get(url.clone()).headers(headers.clone()).send();
        match with_timeouts(timeouts, &progress, sending).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => {
                let phase = progress.phase();
                let pooled = phase == Phase::FirstByte && !progress.dialled();
                let cause = classify(error.without_url(), phase);
                if pooled && again && matches!(cause, Cause::NoAnswer(_)) {
                    again = false;
                    continue;
                }
                return Err((phase_of(&cause, phase), cause));
            }
            Err(phase) => return Err((phase, timed_out(timeouts, phase))),
        }
    }
}

fn timed_out(timeouts: Timeouts, phase: Phase) -> Cause {
    let limit = timeouts.of(phase);
    match phase {
        Phase::Start | Phase::Resolve | Phase::Connect => Cause::ConnectTimeout { limit },
        Phase::Tls => Cause::TlsTimeout { limit },
        Phase::FirstByte | Phase::Body => Cause::FirstByteTimeout { limit },
    }
}

/// A refusal by the policy comes out of the resolver; nothing was dialled.
fn phase_of(cause: &Cause, phase: Phase) -> Phase {
    match cause {
        Cause::Denied(_) => Phase::Resolve,
        _ => phase,
    }
}

/// Returns the kind of failure that an error of the client stands for.
pub(super) fn classify(error: reqwest::Error, phase: Phase) -> Cause {
    if phase == Phase::Body {
        return Cause::Cut(Some(error));
    }
    if let Some(denied) = find::<Denied>(&error) {
        return Cause::Denied(denied.clone());
    }
    match find::<rustls::Error>(&error) {
        Some(e @ rustls::Error::InvalidCertificate(why)) => {
            use rustls::CertificateError as C;
            return match why {
                C::Expired
                | C::ExpiredContext { .. }
                | C::NotValidYet
                | C::NotValidYetContext { .. } => Cause::CertificateTime(e.clone()),
                _ => Cause::Certificate(e.clone()),
            };
        }
        Some(_) => return Cause::Tls(error),
        None => {}
    }
    let garbled =
        find::<hyper::Error>(&error).is_some_and(|e| e.is_parse() || e.is_parse_too_large());
    match phase {
        Phase::Start | Phase::Resolve => match find::<io::Error>(&error) {
            Some(e) => Cause::Resolve(io::Error::new(e.kind(), e.to_string())),
            None => Cause::Connect(error),
        },
        Phase::Connect => Cause::Connect(error),
        Phase::Tls => Cause::Tls(error),
        Phase::FirstByte | Phase::Body if garbled => Cause::BadAnswer(error),
        Phase::FirstByte | Phase::Body => Cause::NoAnswer(error),
    }
}

/// Finds an error of type `E` among the causes, also inside an [`io::Error`], whose `source` skips what it wraps.
fn find<'a, E: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a E> {
    if let Some(found) = error.downcast_ref::<E>() {
        return Some(found);
    }
    let inner: Option<&(dyn StdError + 'static)> = error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
        .map(|e| e as _);
    find(inner.or_else(|| error.source())?)
}

/// Returns where a redirect leads, or `None` for any other response.
fn redirect_target(
    url: &Url,
    response: &Response,
    secrets: &Secrets,
) -> Result<Option<Url>, Cause> {
    let redirects = matches!(
        response.status(),
        StatusCode::MOVED_PERMANENTLY
            | StatusCode::FOUND
            | StatusCode::SEE_OTHER
            | StatusCode::TEMPORARY_REDIRECT
            | StatusCode::PERMANENT_REDIRECT
    );
    if !redirects {
        return Ok(None);
    }
    let refuse = |why: &str| {
        Err(Cause::Redirect {
            why: why.to_owned(),
        })
    };
    let Some(location) = response.headers().get(LOCATION) else {
        return refuse("no Location");
    };
    let Some(Ok(mut next)) = location.to_str().ok().map(|text| url.join(text)) else {
        return refuse("Location is not a URL");
    };
    match next.scheme() {
        "https" => {}
        "http" if url.scheme() == "http" => {}
        "http" => return refuse("from https to http"),
        other => return refuse(&format!("to scheme `{}`", secrets.show(other))),
    }
    let _ = next.set_username("");
    let _ = next.set_password(None);
    next.set_fragment(None);
    Ok(Some(next))
}
