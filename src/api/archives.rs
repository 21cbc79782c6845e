//! Kept archives over HTTP, under the signed paths that `DescribeDataDownloadURL` hands out.
//!
//! The signature is looked at before anything else, and what is wrong is not told: a forged path, an expired one and one
//! that never was are all 403. An archive is opened before it is answered, so that a removal meanwhile does not cut it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;

use super::Api;
use super::error::{ApiError, ens_error, request_id};
use crate::store::releases::{self, ReleaseRow};
use crate::wire::download::path;
use crate::wire::errors::{Code, Refusal};

/// What is read and sent at once.
const CHUNK: u64 = 256 * 1024;
/// Releases that are looked through at once for the one that a path names.
const PAGE: u32 = 1000;

/// Sends an archive, or a range of it.
pub(super) async fn download(
    State(api): State<Arc<Api>>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("");
    let now_s = api.deps.clock.now_ms() / 1000;
    if !api.file_key.allows(&asked, query, now_s) {
        return Ok(forbidden(request.headers()));
    }
    let Some(release) = find(&api, asked).await? else {
        return Err(ApiError::not_found("the archive is not on this node"));
    };
    let archive = (api.deps.archive)(&release.key);
    let opened = tokio::task::spawn_blocking(move || open(&archive)).await;
    let Ok(Ok((file, len))) = opened else {
        return Err(ApiError::not_found("the archive is not on this node"));
    };
    let served = Served {
        file: Arc::new(file),
        len,
        etag: etag(&release),
    };
    Ok(served.answer(request.method(), request.headers()))
}

fn forbidden(headers: &HeaderMap) -> Response {
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let refusal = Refusal::because(
        Code::NoPermission,
        "The path is not signed, or has expired.",
    );
    let mut answer = ens_error(&refusal, &request_id(), host.unwrap_or(""));
    // The contract wants 403 here, unlike for its calls.
    *answer.status_mut() = StatusCode::FORBIDDEN;
    answer
}

/// Finds the release whose path was asked for: the digests in it cannot be turned back into names.
async fn find(api: &Api, asked: String) -> Result<Option<ReleaseRow>, ApiError> {
    let found = api.deps.store.read(move |reader| {
        let mut offset = 0;
        loop {
            let rows = releases::list(reader, None, None, offset, PAGE)?;
            let last = rows.len() < PAGE as usize;
            let wanted = rows.into_iter().find(|row| {
                let key = &row.key;
                path(&key.app, key.name.as_str(), key.version.as_str()) == asked
            });
            if wanted.is_some() || last {
                return Ok(wanted);
            }
            offset += PAGE;
        }
    });
    Ok(found.await?)
}

fn open(path: &Path) -> io::Result<(File, u64)> {
    let file = File::open(path)?;
    let len = file.metadata()?.len();
    Ok((file, len))
}

/// A strong validator: a version's archive never changes.
fn etag(release: &ReleaseRow) -> String {
    let content = &release.content;
    match (content.sha256, content.md5) {
        (Some(sha256), _) => format!("\"{sha256}\""),
        (None, Some(md5)) => format!("\"{md5}\""),
        (None, None) => format!("\"{}-{}\"", release.job, release.published_ms),
    }
}

/// An archive that is open.
struct Served {
    file: Arc<File>,
    len: u64,
    etag: String,
}

/// What of an archive is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// From the first to before the second.
    Range(u64, u64),
    Unsatisfiable,
}

impl Served {
    fn answer(self, method: &Method, headers: &HeaderMap) -> Response {
        if self.is_known(headers) {
            return self.head(StatusCode::NOT_MODIFIED, Body::empty());
        }
        let part = match headers.get(header::RANGE).and_then(|r| r.to_str().ok()) {
            Some(range) if self.range_is_wanted(headers) => part(range, self.len),
            Some(_) | None => Part::Whole,
        };
        let (status, start, end) = match part {
            Part::Whole => (StatusCode::OK, 0, self.len),
            Part::Range(start, end) => (StatusCode::PARTIAL_CONTENT, start, end),
            Part::Unsatisfiable => {
                let range = format!("bytes */{}", self.len);
                let answer = self.head(StatusCode::RANGE_NOT_SATISFIABLE, Body::empty());
                return with(answer, header::CONTENT_RANGE, &range);
            }
        };
        let body = match *method {
            Method::HEAD => Body::empty(),
            _ => body(Arc::clone(&self.file), start, end),
        };
        let range = format!("bytes {start}-{}/{}", end.saturating_sub(1), self.len);
        let mut answer = self.head(status, body);
        answer = with(answer, header::CONTENT_LENGTH, &(end - start).to_string());
        answer = with(answer, header::CONTENT_TYPE, "application/octet-stream");
        match part {
            Part::Range(..) => with(answer, header::CONTENT_RANGE, &range),
            Part::Whole | Part::Unsatisfiable => answer,
        }
    }

    fn head(&self, status: StatusCode, body: Body) -> Response {
        let answer = (status, body).into_response();
        let answer = with(answer, header::ETAG, &self.etag);
        with(answer, header::ACCEPT_RANGES, "bytes")
    }

    fn is_known(&self, headers: &HeaderMap) -> bool {
        let known = headers
            .get(header::IF_NONE_MATCH)
            .and_then(|v| v.to_str().ok());
        known.is_some_and(|tags| {
            let mut tags = tags.split(',').map(str::trim);
            tags.any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == self.etag)
        })
    }

    /// A client goes on with what it has only if that is this archive.
    fn range_is_wanted(&self, headers: &HeaderMap) -> bool {
        match headers.get(header::IF_RANGE) {
            None => true,
            Some(tag) => tag.as_bytes() == self.etag.as_bytes(),
        }
    }
}

fn with(mut answer: Response, name: header::HeaderName, value: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(value) {
        answer.headers_mut().insert(name, value);
    }
    answer
}

/// Reads a `Range` header. Several ranges at once, or a unit that is not bytes, are answered with the whole.
fn part(range: &str, len: u64) -> Part {
    let Some((first, last)) = range
        .trim()
        .strip_prefix("bytes=")
        .filter(|ranges| !ranges.contains(','))
        .and_then(|range| range.trim().split_once('-'))
    else {
        return Part::Whole;
    };
    match (first.trim().parse::<u64>(), last.trim().parse::<u64>()) {
        (Ok(first), _) if first >= len => Part::Unsatisfiable,
        (Ok(first), Ok(last)) if last < first => Part::Whole,
        (Ok(first), Ok(last)) => Part::Range(first, last.saturating_add(1).min(len)),
        (Ok(first), Err(_)) if last.trim().is_empty() => Part::Range(first, len),
        (Err(_), Ok(0)) if first.trim().is_empty() => Part::Unsatisfiable,
        (Err(_), Ok(tail)) if first.trim().is_empty() => match len {
            0 => Part::Unsatisfiable,
            len => Part::Range(len.saturating_sub(tail), len),
        },
        (Ok(_), Err(_)) | (Err(_), Ok(_) | Err(_)) => Part::Whole,
    }
}

/// Streams bytes of a file. Each piece is read when it is asked for, so a slow client holds no thread.
fn body(file: Arc<File>, start: u64, end: u64) -> Body {
    Body::from_stream(stream::unfold(
        (file, start),
        move |(file, at)| async move {
            if at >= end {
                return None;
            }
            let length = usize::try_from((end - at).min(CHUNK)).unwrap_or(0);
            let reader = Arc::clone(&file);
            let read = tokio::task::spawn_blocking(move || {
                let mut piece = vec![0; length];
                reader
                    .read_exact_at(&mut piece, at)
                    .map(|()| Bytes::from(piece))
            });
            let piece = match read.await {
                Ok(Ok(piece)) => Ok(piece),
                Ok(Err(error)) => Err(error),
                Err(error) => Err(io::Error::other(error)),
            };
            // After an error there is no next piece: the connection is cut, so that the client knows.
            let next = if piece.is_ok() {
                at + length as u64
            } else {
                end
            };
            Some((piece, (file, next)))
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_ranges() {
        for (range, want) in [
            ("bytes=0-", Part::Range(0, 10)),
            ("bytes=3-4", Part::Range(3, 5)),
            ("bytes=9-99", Part::Range(9, 10)),
            ("bytes=-3", Part::Range(7, 10)),
            ("bytes=-99", Part::Range(0, 10)),
            ("bytes=10-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=4-3", Part::Whole),
            ("bytes=0-1,3-4", Part::Whole),
            ("bytes=x-4", Part::Whole),
            ("bytes=4-x", Part::Whole),
            ("bytes=-", Part::Whole),
            ("items=0-1", Part::Whole),
            ("", Part::Whole),
            ("bytes=0-18446744073709551615", Part::Range(0, 10)),
        ] {
            assert_eq!(part(range, 10), want, "{range}");
        }
        assert_eq!(part("bytes=-3", 0), Part::Unsatisfiable);
        assert_eq!(part("bytes=0-", 0), Part::Unsatisfiable);
    }
}
