//! What a response means for the file: the whole of it, the part that was asked for, nothing left, or a
//! failure.

use std::sync::atomic::Ordering;
use std::time::Duration;

use reqwest::Response;
use reqwest::header::{ACCEPT_RANGES, CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, TRANSFER_ENCODING};
use tokio::time::timeout;

use super::super::Event;
use super::super::error::{Cause, Error};
use super::super::phase::Phase;
use super::super::range::{ContentRange, Expected, Unusable, Validator};
use super::super::routes::Routes;
use super::super::sniff::Sniff;
use super::super::stall::StallClock;
use super::{Body, Source, State};
use crate::dial::retry_after;

/// How long to wait for the text of an error response.
const EXCERPT: Duration = Duration::from_secs(2);
const CHANGED: &str = "the object at the origin has changed";

impl Source {
    /// Decides what a response means.
    pub(super) async fn judge(
        &mut self,
        response: Response,
        routes: &Routes,
        asked: &str,
        conditional: bool,
    ) -> Result<Option<Event>, Error> {
        let asked_part = self.asked_part;
        match response.status().as_u16() {
            200 => self.take_whole(response, routes, asked).await,
            206 if asked_part => Ok(self.take_part(response, routes, asked, conditional)),
            206 if self.request.proven && is_whole(response.headers()) => {
                self.take_whole(response, routes, asked).await
            }
            206 => {
                let found = response.headers().get(CONTENT_RANGE);
                let found = found.and_then(|v| v.to_str().ok()).unwrap_or("");
                let found = self.secrets.show(found);
                self.failed(Cause::Unsolicited { found }, routes)
            }
            412 if asked_part => Ok(Some(self.restart(CHANGED))),
            416 if asked_part && self.nothing_left(&response) => Ok(None),
            code => {
                let retry_after = retry_after(response.headers());
                let text = self.sniffed(response).await.text(&self.secrets);
                let cause = Cause::Status {
                    code,
                    retry_after,
                    text,
                };
                match asked_part && is_refusal(code) {
                    true => self.part_refused(cause, routes),
                    false => self.failed(cause, routes),
                }
            }
        }
    }

    /// Takes a 200: the whole file, even if only the rest was asked for.
    async fn take_whole(
        &mut self,
        response: Response,
        routes: &Routes,
        asked: &str,
    ) -> Result<Option<Event>, Error> {
        let length = response.content_length();
        if let (Some(expected), Some(found)) = (self.request.size, length)
            && expected != found
        {
            let page = self.sniffed(response).await.describe(&self.secrets);
            let cause = Cause::WrongLength {
                expected,
                found,
                page,
            };
            return self.failed(cause, routes);
        }
        self.within_limit(length.unwrap_or(0))?;
        let event = (self.position > 0)
            .then(|| self.restart("the origin sent the whole file, not the rest"));
        self.asked_from = 0;
        self.validator = Validator::of(response.headers(), asked);
        let ranges = response.headers().get(ACCEPT_RANGES);
        self.takes_ranges = ranges.is_some_and(|unit| unit == "bytes");
        self.total = self.request.size.or(length);
        self.sniff = Some(Sniff::of(response.headers()));
        let framed = length.is_some() || is_chunked(response.headers());
        self.begin(response, routes, self.total, false, framed);
        Ok(event)
    }

    /// Takes a 206, if it is the part that was asked for.
    fn take_part(
        &mut self,
        response: Response,
        routes: &Routes,
        asked: &str,
        conditional: bool,
    ) -> Option<Event> {
        let headers = response.headers();
        let now = Validator::of(headers, asked);
        let expected = Expected {
            start: self.position,
            total: self.total,
            length: response.content_length(),
            conditional,
            validator: self.validator.as_ref().zip(now.as_ref()),
        };
        let (end, total) = match expected.check(headers) {
            Ok(part) => part,
            // With a stated size only the whole answer proves it: a cache may number its parts wrongly.
            Err(Unusable::OtherLength) if self.request.size.is_some() => {
                return Some(self.no_more_ranges("a part of a file of another length"));
            }
            Err(Unusable::OtherLength | Unusable::OtherObject) => {
                return Some(self.restart(CHANGED));
            }
            Err(Unusable::Wrong(what)) => return Some(self.no_more_ranges(what)),
        };
        self.total = total.or(self.total);
        self.takes_ranges = true;
        if now.is_some() {
            self.validator = now;
        }
        let framed = response.content_length().is_some() || is_chunked(response.headers());
        self.begin(response, routes, Some(end), true, framed);
        None
    }

    /// Takes a 416 that says that everything is here. Any other is a refusal like the rest.
    fn nothing_left(&mut self, response: &Response) -> bool {
        let range = ContentRange::of(response.headers());
        let all = range.is_ok_and(|r| r.total == Some(self.position))
            && self.request.size.is_none_or(|s| s == self.position);
        if all {
            self.total = Some(self.position);
            self.state = State::End;
        }
        all
    }

    fn begin(
        &mut self,
        response: Response,
        routes: &Routes,
        end: Option<u64>,
        part: bool,
        framed: bool,
    ) {
        self.phase = Phase::Body;
        self.state = State::Body(Box::new(Body {
            response,
            stall: StallClock::new(&routes.config.stall),
            end,
            part,
            framed,
        }));
    }

    /// Reads the beginning of a response that is not the file.
    async fn sniffed(&mut self, mut response: Response) -> Sniff {
        let mut sniff = Sniff::of(response.headers());
        let _ = timeout(EXCERPT, async {
            while !sniff.is_full()
                && let Ok(Some(bytes)) = response.chunk().await
            {
                sniff.note(&bytes);
            }
        })
        .await;
        self.request
            .fetched
            .fetch_add(sniff.kept(), Ordering::Relaxed);
        sniff
    }
}

/// Returns whether a response to a request for a part may concern the part, and not who asks or when:
/// credentials and rate limits hold for the whole file as well.
fn is_refusal(code: u16) -> bool {
    !matches!(code, 401 | 407 | 429)
}

/// Returns whether a 206 is the whole file.
fn is_whole(headers: &HeaderMap) -> bool {
    ContentRange::of(headers).is_ok_and(|r| {
        r.part
            .is_some_and(|(start, end)| start == 0 && r.total == Some(end))
    })
}

fn is_chunked(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) && !headers.contains_key(CONTENT_LENGTH)
}
