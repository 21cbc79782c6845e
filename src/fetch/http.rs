//! One request: its phases and their clocks, its redirects, and what kind of failure it ended in. GET only (presigned URLs
//! answer 403 to HEAD), bytes as sent (`Accept-Encoding: identity`, nothing is decoded).

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CACHE_CONTROL, DATE, HeaderMap, HeaderValue, IF_RANGE,
    LOCATION, RANGE, RETRY_AFTER,
};
use reqwest::{Response, StatusCode};
use url::Url;

use super::clocks::{Progress, with_clocks};
use super::error::{Cause, Phase};
use super::policy::Denied;
use super::redact::{Secrets, basic};
use super::roads::Roads;

/// What is asked for.
pub(super) struct Ask<'a> {
    pub(super) url: &'a Url,
    /// The first byte wanted, if not all of them.
    pub(super) from: Option<u64>,
    /// What the object must be for a part of it to be of use.
    pub(super) if_range: Option<&'a str>,
    /// Whether the URL comes from the configuration, which may name what a push may not.
    pub(super) trusted: bool,
    /// Whether caches on the way are told to ask the origin.
    pub(super) past_caches: bool,
}

/// An answer that is no redirect.
pub(super) struct Answer {
    pub(super) response: Response,
    /// Host and port that it came from.
    pub(super) host: String,
    pub(super) via: Option<String>,
}

/// Why there is no answer.
pub(super) struct NoAnswer {
    pub(super) cause: Cause,
    pub(super) phase: Phase,
    /// Host and port that were asked last.
    pub(super) host: String,
    pub(super) via: Option<String>,
}

/// Asks, and follows redirects. Every hop is checked and gets the headers of its own host only; whatever is sent on the way
/// adds to `secrets`.
pub(super) async fn ask(
    roads: &Roads,
    ask: &Ask<'_>,
    secrets: &mut Secrets,
) -> Result<Answer, NoAnswer> {
    let mut url = ask.url.clone();
    secrets.add(&url);
    let mut credentials = take_credentials(&mut url);
    let mut hops = 0;
    loop {
        let mut host = authority(&url);
        // Messages name hosts, and a redirect may lead to one that is named like a value of the query.
        let hidden = hops > 0 && secrets.are_in(&host);
        if hidden {
            "…".clone_into(&mut host);
        }
        let trusted = ask.trusted && hops == 0;
        let road = roads.road_for(&url, trusted);
        let via = road.via.map(str::to_owned);
        if let Some(proxy) = road.proxy {
            secrets.add(proxy);
        }
        for headers in roads.headers_for(&url) {
            secrets.add_headers(headers);
        }
        let fail = |phase, cause| NoAnswer {
            cause: if hidden { unnamed(cause) } else { cause },
            phase,
            host: host.clone(),
            via: via.clone(),
        };
        if !trusted {
            roads
                .policy
                .check_url(&url, via.is_none())
                .map_err(|denied| fail(Phase::Start, denied.into()))?;
        }
        let headers = request_headers(roads, ask, &url, credentials.as_ref());
        let response = request(roads, road.client, &url, &headers)
            .await
            .map_err(|(phase, cause)| fail(phase, cause))?;
        let Some(next) = redirect_target(&url, &response, secrets)
            .map_err(|cause| fail(Phase::FirstByte, cause))?
        else {
            return Ok(Answer {
                response,
                host,
                via,
            });
        };
        secrets.add(&next);
        hops += 1;
        if hops > roads.config.max_redirects {
            let why = format!("more than {} in a row", roads.config.max_redirects);
            return Err(fail(Phase::FirstByte, Cause::Redirect { why }));
        }
        if next.origin() != url.origin() {
            credentials = None;
        }
        url = next;
    }
}

/// Returns host and port of a URL, for messages and as the key of a host.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or("");
    match url.port_or_known_default() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    }
}

/// Takes the name of the host out of a cause.
fn unnamed(cause: Cause) -> Cause {
    match cause {
        Cause::Denied(denied) => Cause::Denied(denied.unnamed()),
        Cause::Certificate(_) => Cause::Certificate(rustls::Error::General(
            "not one for this host that is trusted".to_owned(),
        )),
        other => other,
    }
}

/// Takes the user information out of a URL, so that a redirect cannot carry it elsewhere.
fn take_credentials(url: &mut Url) -> Option<HeaderValue> {
    let encoded = basic(url)?;
    let _ = url.set_username("");
    let _ = url.set_password(None);
    let mut value = HeaderValue::try_from(format!("Basic {encoded}")).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn request_headers(
    roads: &Roads,
    ask: &Ask<'_>,
    url: &Url,
    credentials: Option<&HeaderValue>,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if let Some(value) = credentials {
        headers.insert(AUTHORIZATION, value.clone());
    }
    for more in roads.headers_for(url) {
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

/// Sends one request. A kept connection may have been closed by the origin in the very moment: that is no failure of the
/// origin, so the request is sent once more at once.
async fn request(
    roads: &Roads,
    client: &reqwest::Client,
    url: &Url,
    headers: &HeaderMap,
) -> Result<Response, (Phase, Cause)> {
    let mut again = true;
    loop {
        let progress = Arc::new(Progress::default());
        let sending = client.get(url.clone()).headers(headers.clone()).send();
        match with_clocks(&roads.config, &progress, sending).await {
            Ok(Ok(response)) => return Ok(response),
            Ok(Err(error)) => {
                let phase = progress.phase();
                let kept = phase == Phase::FirstByte && !progress.dialled();
                let cause = classify(error.without_url(), phase);
                if kept && again && matches!(cause, Cause::NoAnswer(_)) {
                    again = false;
                    continue;
                }
                return Err((phase_of(&cause, phase), cause));
            }
            Err(phase) => return Err((phase, timed_out(roads, phase))),
        }
    }
}

fn timed_out(roads: &Roads, phase: Phase) -> Cause {
    let config = &roads.config;
    match phase {
        Phase::Start | Phase::Resolve | Phase::Connect => Cause::ConnectTimeout {
            limit: config.connect_timeout,
        },
        Phase::Tls => Cause::TlsTimeout {
            limit: config.tls_timeout,
        },
        Phase::FirstByte | Phase::Body => Cause::FirstByteTimeout {
            limit: config.first_byte_timeout,
        },
    }
}

/// A policy's refusal comes out of the resolver; nothing was dialled.
fn phase_of(cause: &Cause, phase: Phase) -> Phase {
    match cause {
        Cause::Denied(_) => Phase::Resolve,
        _ => phase,
    }
}

/// Tells what kind of failure an error of the client is.
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

/// Returns where a redirect leads, or `None` when the answer is none.
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
        return refuse("Location is no URL");
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

/// Reads Retry-After: seconds, or a date that is compared with the origin's own clock.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
}
