//! One file being fetched: the state machine behind [`Source::next`]. It asks, judges the response, reads
//! the body, and after any failure decides whether to resume, start over, or give up.
//!
//! A resume is trusted only if it provably continues the same object: by If-Range on a strong validator,
//! or, where a digest of the whole will be checked, by the stated size. An origin that sends anything
//! but the part asked for gets one request for the whole file, and no more ranges. One that refuses the
//! part is asked for the whole file too; what is here stands until that arrives.

mod answer;
mod failure;
mod file;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use super::error::{Cause, Error};
use super::http::{self, Answer, Ask, NoAnswer};
use super::limit::Meter;
use super::local::Local;
use super::phase::Phase;
use super::range::Validator;
use super::retry::Pass;
use super::routes::Routes;
use super::secrets::Secrets;
use super::sniff::{Page, Sniff};
use super::stall::StallClock;
use super::{Event, Fetcher, Request};
use crate::datafile::authority;

/// Bytes in one response that count as progress.
const PROGRESS: u64 = 64 * 1024;

/// How long to wait for the end of a body whose last byte is here, where a digest will prove it.
const LAST: Duration = Duration::from_secs(1);

/// A file that is being fetched, driven by [`Source::next`].
pub struct Source {
    fetcher: Arc<Fetcher>,
    request: Request,
    url: Url,
    secrets: Secrets,
    meter: Meter,
    state: State,
    /// Offset of the next byte.
    position: u64,
    /// `position` when the current request was made.
    asked_from: u64,
    total: Option<u64>,
    /// How many bytes the file may have on this node.
    max: u64,
    validator: Option<Validator>,
    /// Whether ranges are still requested.
    ranges: bool,
    /// Requests for a part that were refused, until some bytes arrive.
    refusals: u32,
    /// Whether the next request is for the whole file, because a part was refused.
    whole: bool,
    /// Whether the current request is for a part.
    asked_part: bool,
    /// Whether the origin has said that it answers ranges.
    takes_ranges: bool,
    /// Which candidate URL (mirrors, then the origin) is asked, and how many there are.
    candidate: usize,
    candidates: usize,
    bad_answers: u32,
    sniff: Option<Sniff>,
    last: Option<Error>,
    host: String,
    via: Option<String>,
    phase: Phase,
}

enum State {
    Ask,
    Wait(Instant),
    Body(Box<Body>),
    Local(Local),
    End,
    Over,
}

struct Body {
    response: Response,
    stall: StallClock,
    /// Offset at which it must end, if known.
    end: Option<u64>,
    /// Whether it is a part of the file.
    part: bool,
    /// Whether its end can be distinguished from a lost connection.
    framed: bool,
}

impl Source {
    pub(super) fn new(fetcher: Arc<Fetcher>, request: Request) -> Self {
        let url = request.url.url().clone();
        let mut secrets = Secrets::default();
        secrets.add(&url);
        Self {
            meter: fetcher.limits.meter(&request.app),
            max: fetcher.current().config.max_bytes_of(&request.app),
            secrets,
            state: State::Ask,
            position: request.offset,
            asked_from: request.offset,
            total: request.size,
            validator: request.validator.clone(),
            ranges: true,
            refusals: 0,
            whole: false,
            asked_part: false,
            takes_ranges: false,
            candidate: 0,
            candidates: 1,
            bad_answers: 0,
            sniff: None,
            last: None,
            host: authority(&url),
            via: None,
            phase: Phase::Start,
            url,
            request,
            fetcher,
        }
    }

    /// Waits for the next event. Retries until the deadline; an error is final. May be dropped and called
    /// again: a request in progress is then repeated, a body continues.
    pub async fn next(&mut self) -> Result<Event, Error> {
        let cancel = self.request.cancel.clone();
        let deadline = self.request.deadline.clone();
        if matches!(self.state, State::End) {
            return Ok(Event::End);
        }
        let event = if deadline.is_over() {
            Err(self.deadline(false, None))
        } else {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(self.error(Cause::Canceled)),
                event = self.step() => event,
                () = deadline.passed() => Err(self.deadline(false, None)),
            }
        };
        if event.is_err() {
            self.state = State::Over;
        }
        event
    }

    /// Returns the validator of the object that the bytes are from: keep it with them.
    #[must_use]
    pub fn validator(&self) -> Option<&Validator> {
        self.validator.as_ref()
    }

    /// Returns the length of the file, once it is known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Returns how many bytes have arrived, including those before this source.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns how many requests were made for the file, including those before this source.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.request.attempts.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of bodies were received, including repeated ones and those before this
    /// source.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.request.fetched.load(Ordering::Relaxed)
    }

    /// Returns whether a later source could go on from here by a range.
    #[must_use]
    pub fn is_resumable(&self) -> bool {
        let condition = |v: &Validator| v.if_range(&self.host).is_some();
        self.takes_ranges && self.may_resume(self.validator.as_ref().is_some_and(condition))
    }

    /// Returns why the bytes may not be an archive at all, for the message about a wrong digest: the error
    /// page of a server or the login page of a network. Contains no secret.
    #[must_use]
    pub fn suspicion(&self) -> Option<Page> {
        self.sniff.as_ref()?.describe(&self.secrets)
    }

    async fn step(&mut self) -> Result<Event, Error> {
        loop {
            let event = match &mut self.state {
                State::End => Some(Event::End),
                State::Over => return Err(self.error(Cause::Over)),
                State::Wait(until) => {
                    sleep_until(*until).await;
                    self.state = State::Ask;
                    None
                }
                State::Ask => self.ask().await?,
                State::Body(_) => self.read().await?,
                State::Local(_) => Some(self.read_local().await?),
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// Fails if a file of `length` bytes is more than this node takes.
    fn within_limit(&self, length: u64) -> Result<(), Error> {
        match length > self.max {
            true => Err(self.error(Cause::TooLarge {
                limit: self.max,
                found: length,
            })),
            false => Ok(()),
        }
    }

    /// Makes the next request, unless nothing is left to fetch.
    async fn ask(&mut self) -> Result<Option<Event>, Error> {
        self.within_limit(self.request.size.unwrap_or(self.position))?;
        if let Some(path) = self.request.url.file_path() {
            return self.open_local(path).await;
        }
        if self.position > 0 && self.total == Some(self.position) {
            self.state = State::End;
            return Ok(None);
        }
        let routes = self.fetcher.routes().await;
        let url = self.choose_candidate(&routes);
        let host = authority(&url);
        let condition = self.validator.as_ref().and_then(|v| v.if_range(&host));
        let condition = condition.map(str::to_owned);
        let part = self.position > 0 && !std::mem::take(&mut self.whole);
        if part && !self.may_resume(condition.is_some()) {
            return Ok(Some(
                self.restart("the rest cannot be requested from the origin"),
            ));
        }
        self.asked_part = part;
        let condition = condition.filter(|_| part);
        let dialled = routes.via(&url).unwrap_or(&host);
        let pass = match self
            .fetcher
            .hosts
            .enter(dialled, routes.config.retry.per_minute)
        {
            Ok(pass) => pass,
            Err(wait) => return Ok(Some(self.spare(dialled.to_owned(), wait))),
        };
        match self
            .request(pass, &routes, &url, &host, condition.as_deref())
            .await
        {
            Ok(answer) => {
                self.bad_answers = 0;
                (self.host, self.via, self.phase) = (answer.host, answer.via, Phase::FirstByte);
                let conditional = condition.is_some();
                self.judge(answer.response, &routes, &host, conditional)
                    .await
            }
            Err(no) => {
                (self.host, self.via, self.phase) = (no.host, no.via, no.phase);
                self.failed(no.cause, &routes)
            }
        }
    }

    /// Sends one request, and records whether the host, or the proxy for it, answers.
    async fn request(
        &mut self,
        pass: Pass,
        routes: &Routes,
        url: &Url,
        host: &str,
        condition: Option<&str>,
    ) -> Result<Answer, NoAnswer> {
        self.request.attempts.fetch_add(1, Ordering::Relaxed);
        self.request.retries.lock().started();
        self.asked_from = self.position;
        self.phase = Phase::Start;
        let ask = Ask {
            url,
            from: self.asked_part.then_some(self.position),
            if_range: condition,
            trusted: *url != self.url,
            past_caches: self.request.from_origin,
        };
        let answer = http::ask(routes, &ask, &mut self.secrets).await;
        let answers = match &answer {
            Ok(_) => true,
            Err(no) => {
                no.host != host || matches!(no.cause, Cause::Redirect { .. } | Cause::BadAnswer(_))
            }
        };
        match answers {
            true => pass.answered(),
            false => pass.failed(),
        }
        answer
    }

    fn choose_candidate(&mut self, routes: &Routes) -> Url {
        if self.request.from_origin {
            (self.candidate, self.candidates) = (0, 1);
            return self.url.clone();
        }
        let mut candidates = routes.candidates(&self.url);
        self.candidates = candidates.len();
        self.candidate = self.candidate.min(self.candidates - 1);
        candidates.swap_remove(self.candidate)
    }

    fn may_resume(&self, conditional: bool) -> bool {
        self.ranges && (conditional || (self.request.proven && self.request.size.is_some()))
    }

    async fn read(&mut self) -> Result<Option<Event>, Error> {
        {
            let _own = self.meter.owes().then(|| self.request.deadline.pause());
            self.meter.pay().await;
        }
        let State::Body(body) = &mut self.state else {
            return Ok(None);
        };
        // Some servers never end a body: where a digest proves it, its last byte is its end.
        let complete = self.request.proven && body.end == Some(self.position);
        let chunk = body.stall.watch(body.response.chunk());
        let chunk = if complete {
            match timeout(LAST, chunk).await {
                Ok(Ok(Ok(Some(bytes)))) => Ok(Ok(Some(bytes))),
                Ok(_) | Err(_) => return self.body_ended(),
            }
        } else {
            chunk.await
        };
        match chunk {
            Ok(Ok(Some(bytes))) => {
                body.stall.arrived(bytes.len());
                self.take_bytes(bytes)
            }
            Ok(Ok(None)) => self.body_ended(),
            Ok(Err(e)) => {
                let cause = http::classify(e.without_url(), Phase::Body);
                self.failed(cause, &self.fetcher.current())
            }
            Err(_) => {
                let routes = self.fetcher.current();
                let stall = &routes.config.stall;
                let cause = Cause::Stalled {
                    rate: stall.rate,
                    window: stall.window,
                };
                self.failed(cause, &routes)
            }
        }
    }

    fn take_bytes(&mut self, bytes: Bytes) -> Result<Option<Event>, Error> {
        let State::Body(body) = &self.state else {
            return Ok(None);
        };
        let length = bytes.len() as u64;
        let (end, part) = (body.end, body.part);
        self.request.fetched.fetch_add(length, Ordering::Relaxed);
        self.meter.owe(bytes.len());
        if let Some(sniff) = &mut self.sniff {
            sniff.note(&bytes);
        }
        if let Some(end) = end
            && length > end - self.position
        {
            if part {
                return Ok(Some(self.no_more_ranges("a part longer than it says")));
            }
            let cause = Cause::TooLong {
                expected: end,
                page: self.suspicion(),
            };
            return self.failed(cause, &self.fetcher.current());
        }
        self.within_limit(self.position + length)?;
        self.position += length;
        self.refusals = 0;
        if self.has_progressed() {
            self.request.retries.lock().progressed();
        }
        Ok((length > 0).then_some(Event::Bytes(bytes)))
    }

    fn has_progressed(&self) -> bool {
        self.position - self.asked_from >= PROGRESS
    }

    /// The body ended: decides whether the file did too.
    fn body_ended(&mut self) -> Result<Option<Event>, Error> {
        let State::Body(body) = &self.state else {
            return Ok(None);
        };
        let (end, part, framed) = (body.end, body.part, body.framed);
        let routes = self.fetcher.current();
        if let Some(expected) = end
            && self.position < expected
        {
            // A whole body that the origin itself ended is a shorter file; anything else is a cut.
            return if framed && !part {
                let cause = Cause::WrongLength {
                    expected,
                    found: self.position,
                    page: self.suspicion(),
                };
                self.failed(cause, &routes)
            } else {
                self.failed(Cause::Cut(None), &routes)
            };
        }
        if part && self.total != Some(self.position) {
            // A server may send less than asked for: ask for the rest.
            if self.has_progressed() {
                self.state = State::Ask;
                return Ok(None);
            }
            return self.failed(Cause::Cut(None), &routes);
        }
        self.total = Some(self.position);
        self.state = State::End;
        Ok(None)
    }
}
