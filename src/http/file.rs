//! A file as an HTTP response: whole, one range of it, or 304 where the client has it already.
//!
//! The file is opened first, so that its removal does not cut a download that has begun.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use hyper::header::HeaderValue;

/// Bytes read and sent at once.
const CHUNK: u64 = 256 * 1024;

/// An open file and its validator.
pub struct Served {
    file: Arc<File>,
    len: u64,
    etag: String,
}

/// The part of the file to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Whole,
    /// From the first byte up to, but not including, the second.
    Range(u64, u64),
    Unsatisfiable,
}

impl Served {
    /// Opens a file whose content has the entity tag `etag`, quotes included. Blocks.
    pub fn open(path: &Path, etag: String) -> io::Result<Self> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        let file = Arc::new(file);
        Ok(Self { file, len, etag })
    }

    /// Answers a GET or HEAD with the file, the range asked for, or 304 where the client has it
    /// already.
    #[must_use]
    pub fn answer(self, method: &Method, headers: &HeaderMap) -> Response {
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

    /// A client may continue a download only if it began with this very content.
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

/// Parses a `Range` header. Several ranges, or a unit other than bytes, are answered with the whole
/// file.
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

/// Streams bytes of a file. Each chunk is read on demand, so a slow client holds no thread.
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
            // After an error the stream ends, which breaks the connection: the client sees that
            // bytes are missing.
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
