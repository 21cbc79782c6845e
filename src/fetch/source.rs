//! One file on its way in. The state machine behind [`Source::next`]: ask, judge the answer, read the body, and on any
//! trouble decide between going on where it stopped, beginning again, and giving up.
//!
//! A resume is only trusted when it is proven to continue the same object: by If-Range on a strong validator, or, where
//! a digest of the whole will be checked, by the stated size. Start, end and total of each part are compared with what
//! was asked for; an origin that sends anything else gets one request for the whole file, and no more ranges.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use reqwest::Response;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, HeaderMap, TRANSFER_ENCODING};
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use super::error::{Cause, Error, Phase, Place};
use super::http::{self, Ask, authority};
use super::limit::Meter;
use super::local::Local;
use super::looks::{Looks, header};
use super::policy::Denied;
use super::range::{ContentRange, Validator};
use super::redact::Secrets;
use super::retry::Backoff;
use super::roads::Roads;
use super::stall::StallClock;
use super::{Event, Fetcher, Request};
use crate::sys::failure::Retry;

/// So many bytes in one answer show that the way is open.
const PROGRESS: u64 = 64 * 1024;
/// How long the text of an error answer is waited for.
const EXCERPT: Duration = Duration::from_secs(2);
/// So many answers in a row that are not HTTP are enough.
const BAD_ANSWERS: u32 = 3;

/// A file that is being fetched. Everything about it is asked for by [`Source::next`].
pub struct Source {
    fetcher: Arc<Fetcher>,
    request: Request,
    url: Url,
    secrets: Secrets,
    meter: Meter,
    backoff: Backoff,
    state: State,
    /// Where the next byte belongs.
    position: u64,
    /// Where the next byte belonged when the present request was made.
    asked_from: u64,
    total: Option<u64>,
    validator: Option<Validator>,
    /// Whether the origin is still asked for parts.
    ranges: bool,
    /// Which of the mirrors and the origin is asked, and how many there are.
    place: usize,
    places: usize,
    bad_answers: u32,
    looks: Option<Looks>,
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
    /// Where it must end, if that is known.
    end: Option<u64>,
    /// Whether it is a part of the file.
    part: bool,
    /// Whether its end is told apart from the end of the connection.
    framed: bool,
}

impl Source {
    pub(super) fn new(fetcher: Arc<Fetcher>, request: Request) -> Self {
        let url = request.url.url().clone();
        let mut secrets = Secrets::default();
        secrets.add(&url);
        Self {
            meter: fetcher.limits.meter(&request.app),
            secrets,
            backoff: Backoff::default(),
            state: State::Ask,
            position: request.offset,
            asked_from: request.offset,
            total: request.size,
            validator: request.validator.clone(),
            ranges: true,
            place: 0,
            places: 1,
            bad_answers: 0,
            looks: None,
            last: None,
            host: authority(&url),
            via: None,
            phase: Phase::Start,
            url,
            request,
            fetcher,
        }
    }

    /// Waits for what happens next. Retries by itself until the deadline; an error is the end. May be dropped and called
    /// again: a request under way is then made again, a body goes on.
    pub async fn next(&mut self) -> Result<Event, Error> {
        let cancel = self.request.cancel.clone();
        let deadline = self.request.deadline;
        if matches!(self.state, State::End) {
            return Ok(Event::End);
        }
        let event = if Instant::now() >= deadline {
            Err(self.deadline(false, None))
        } else {
            tokio::select! {
                biased;
                () = cancel.cancelled() => Err(self.error(Cause::Canceled)),
                event = self.step() => event,
                () = sleep_until(deadline) => Err(self.deadline(false, None)),
            }
        };
        if event.is_err() {
            self.state = State::Over;
        }
        event
    }

    /// Returns what the origin said of the object that the bytes are from: keep it with them.
    #[must_use]
    pub fn validator(&self) -> Option<&Validator> {
        self.validator.as_ref()
    }

    /// Returns the length of the file, once it is known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// Returns how many bytes are here, those before the start included.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns how many requests for the file were made, those before this source included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.request.attempts.load(Ordering::Relaxed)
    }

    /// Returns how many bytes of bodies came, repeated ones and those before this source included.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.request.fetched.load(Ordering::Relaxed)
    }

    /// Returns why the bytes may not be an archive at all, for the message when their digest is wrong: an error page of
    /// a server or a login page of a network. Holds no secret.
    #[must_use]
    pub fn suspicion(&self) -> Option<String> {
        self.looks.as_ref()?.describe(&self.secrets)
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

    async fn ask(&mut self) -> Result<Option<Event>, Error> {
        if let Some(path) = self.request.url.file_path() {
            return self.open_local(path).await;
        }
        if self.position > 0 && self.total == Some(self.position) {
            self.state = State::End;
            return Ok(None);
        }
        let roads = self.fetcher.roads().await;
        let place = self.choose_place(&roads);
        let asked = authority(&place);
        let condition = self
            .validator
            .as_ref()
            .and_then(|v| v.if_range(&asked))
            .map(str::to_owned);
        if self.position > 0 && !self.may_resume(condition.is_some()) {
            return Ok(Some(
                self.restart("the origin cannot be asked for the rest"),
            ));
        }
        let trusted = place != self.url;
        let dialled = roads.road_for(&place, trusted).via.unwrap_or(&asked);
        let per_minute = roads.config.retry.per_minute;
        let pass = self.fetcher.hosts.enter(dialled, per_minute).await;
        self.request.attempts.fetch_add(1, Ordering::Relaxed);
        self.backoff.started();
        self.asked_from = self.position;
        self.phase = Phase::Start;
        let ask = Ask {
            url: &place,
            from: (self.position > 0).then_some(self.position),
            if_range: condition.as_deref(),
            trusted,
            past_caches: self.request.from_origin,
        };
        match http::ask(&roads, &ask, &mut self.secrets).await {
            Ok(answer) => {
                pass.answered();
                self.bad_answers = 0;
                self.host.clone_from(&answer.host);
                self.via.clone_from(&answer.via);
                self.phase = Phase::FirstByte;
                let conditional = condition.is_some();
                self.judge(answer.response, &roads, &asked, conditional)
                    .await
            }
            Err(no) => {
                let spoke = no.host != asked
                    || matches!(no.cause, Cause::Redirect { .. } | Cause::BadAnswer(_));
                if spoke {
                    pass.answered();
                } else {
                    pass.failed();
                }
                (self.host, self.via, self.phase) = (no.host, no.via, no.phase);
                self.failed(no.cause, &roads)
            }
        }
    }

    fn choose_place(&mut self, roads: &Roads) -> Url {
        if self.request.from_origin {
            (self.place, self.places) = (0, 1);
            return self.url.clone();
        }
        let mut places = roads.places(&self.url);
        self.places = places.len();
        self.place = self.place.min(self.places - 1);
        places.swap_remove(self.place)
    }

    fn may_resume(&self, conditional: bool) -> bool {
        self.ranges && (conditional || (self.request.proven && self.request.size.is_some()))
    }

    async fn judge(
        &mut self,
        response: Response,
        roads: &Roads,
        asked: &str,
        conditional: bool,
    ) -> Result<Option<Event>, Error> {
        let asked_part = self.position > 0;
        match response.status().as_u16() {
            200 => self.take_whole(response, roads, asked).await,
            206 if asked_part => self.take_part(response, roads, asked, conditional),
            206 => {
                let found = header(response.headers(), CONTENT_RANGE);
                let found = self.secrets.show(found);
                self.failed(Cause::Unsolicited { found }, roads)
            }
            412 if asked_part => Ok(Some(self.restart("the object at the origin has changed"))),
            416 if asked_part => self.nothing_left(&response, roads),
            code => {
                let retry_after = http::retry_after(response.headers());
                let excerpt = self.excerpt(response, false).await;
                let cause = Cause::Status {
                    code,
                    retry_after,
                    excerpt,
                };
                self.failed(cause, roads)
            }
        }
    }

    /// Takes a 200: all of the file, whether it was asked for or not.
    async fn take_whole(
        &mut self,
        response: Response,
        roads: &Roads,
        asked: &str,
    ) -> Result<Option<Event>, Error> {
        let length = response.content_length();
        if let (Some(expected), Some(found)) = (self.request.size, length)
            && expected != found
        {
            let excerpt = self.excerpt(response, true).await;
            let cause = Cause::WrongLength {
                expected,
                found,
                excerpt,
            };
            return self.failed(cause, roads);
        }
        let event = (self.position > 0)
            .then(|| self.restart("the origin sent the whole file, not the rest"));
        self.asked_from = 0;
        self.validator = Validator::of(response.headers(), asked);
        self.total = self.request.size.or(length);
        self.looks = Some(Looks::of(response.headers()));
        let framed = length.is_some() || is_chunked(response.headers());
        self.begin(response, roads, self.total, false, framed);
        Ok(event)
    }

    /// Takes a 206, if it is the part that was asked for.
    fn take_part(
        &mut self,
        response: Response,
        roads: &Roads,
        asked: &str,
        conditional: bool,
    ) -> Result<Option<Event>, Error> {
        let headers = response.headers();
        let now = Validator::of(headers, asked);
        if let (Some(before), Some(now)) = (&self.validator, &now)
            && before.contradicts(now)
        {
            return Ok(Some(self.restart("the object at the origin has changed")));
        }
        let range = ContentRange::of(headers);
        let Ok(ContentRange {
            part: Some((start, end)),
            total,
        }) = range
        else {
            return Ok(Some(
                self.no_more_ranges("a part without a usable Content-Range"),
            ));
        };
        if start != self.position {
            return Ok(Some(self.no_more_ranges("another part than asked for")));
        }
        if response.content_length().is_some_and(|n| n != end - start) {
            return Ok(Some(
                self.no_more_ranges("a part of another length than it says"),
            ));
        }
        match (total, self.total) {
            (Some(found), Some(known)) if found != known => {
                // Against the push only the whole answer is proof: a cache may number its parts wrongly.
                return Ok(Some(match self.request.size {
                    Some(_) => self.no_more_ranges("a part of a file of another length"),
                    None => self.restart("the object at the origin has changed"),
                }));
            }
            // Only an unconditional part needs the total to be told for the same object.
            (None, _) if !conditional => {
                return Ok(Some(
                    self.no_more_ranges("a part of a file of unknown length"),
                ));
            }
            (None, Some(known)) if end > known => {
                return Ok(Some(self.no_more_ranges("a part beyond the end")));
            }
            (None, _) => {}
            (Some(found), _) => self.total = Some(found),
        }
        if now.is_some() {
            self.validator = now;
        }
        let framed = response.content_length().is_some() || is_chunked(response.headers());
        self.begin(response, roads, Some(end), true, framed);
        Ok(None)
    }

    /// Judges a 416: all is here, or what is here is not of the origin's object.
    fn nothing_left(&mut self, response: &Response, roads: &Roads) -> Result<Option<Event>, Error> {
        match ContentRange::of(response.headers())
            .ok()
            .and_then(|r| r.total)
        {
            Some(total)
                if total == self.position && self.request.size.is_none_or(|s| s == total) =>
            {
                self.total = Some(total);
                self.state = State::End;
                Ok(None)
            }
            Some(total) => self.other_length(total, roads),
            None => Ok(Some(self.no_more_ranges("no rest"))),
        }
    }

    /// The origin's object is not as long as known: against the push that is final, otherwise it has changed.
    fn other_length(&mut self, found: u64, roads: &Roads) -> Result<Option<Event>, Error> {
        match self.request.size {
            Some(expected) if expected != found => {
                let cause = Cause::WrongLength {
                    expected,
                    found,
                    excerpt: None,
                };
                self.failed(cause, roads)
            }
            _ => Ok(Some(self.restart("the object at the origin has changed"))),
        }
    }

    fn begin(
        &mut self,
        response: Response,
        roads: &Roads,
        end: Option<u64>,
        part: bool,
        framed: bool,
    ) {
        self.phase = Phase::Body;
        self.state = State::Body(Box::new(Body {
            response,
            stall: StallClock::new(&roads.config.stall),
            end,
            part,
            framed,
        }));
    }

    async fn read(&mut self) -> Result<Option<Event>, Error> {
        self.meter.pay().await;
        let State::Body(body) = &mut self.state else {
            return Ok(None);
        };
        match body.stall.watch(body.response.chunk()).await {
            Ok(Ok(Some(bytes))) => {
                body.stall.came(bytes.len());
                self.take_bytes(bytes)
            }
            Ok(Ok(None)) => self.body_ended(),
            Ok(Err(e)) => {
                self.fetcher
                    .hosts
                    .doubt(self.via.as_ref().unwrap_or(&self.host));
                let cause = http::classify(e.without_url(), Phase::Body);
                self.failed(cause, &self.fetcher.current())
            }
            Err(_) => {
                let roads = self.fetcher.current();
                let stall = &roads.config.stall;
                let cause = Cause::Stalled {
                    rate: stall.rate,
                    window: stall.window,
                };
                self.failed(cause, &roads)
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
        if let Some(looks) = &mut self.looks {
            looks.note(&bytes);
        }
        if let Some(end) = end
            && length > end - self.position
        {
            if part {
                return Ok(Some(self.no_more_ranges("a part longer than it says")));
            }
            let cause = Cause::TooLong {
                expected: end,
                excerpt: self.suspicion(),
            };
            return self.failed(cause, &self.fetcher.current());
        }
        self.position += length;
        if self.has_progressed() {
            self.backoff.progressed();
        }
        Ok((length > 0).then_some(Event::Bytes(bytes)))
    }

    fn has_progressed(&self) -> bool {
        self.position - self.asked_from >= PROGRESS
    }

    /// The body is over; whether the file is, is the question.
    fn body_ended(&mut self) -> Result<Option<Event>, Error> {
        let State::Body(body) = &self.state else {
            return Ok(None);
        };
        let (end, part, framed) = (body.end, body.part, body.framed);
        let roads = self.fetcher.current();
        if let Some(expected) = end
            && self.position < expected
        {
            // A whole body that the origin itself ended is a shorter file; all else is a cut.
            return if framed && !part {
                let cause = Cause::WrongLength {
                    expected,
                    found: self.position,
                    excerpt: self.suspicion(),
                };
                self.failed(cause, &roads)
            } else {
                self.failed(Cause::Cut(None), &roads)
            };
        }
        if part && self.total != Some(self.position) {
            // A server may send less than asked for; it is asked for the rest.
            if self.has_progressed() {
                self.state = State::Ask;
                return Ok(None);
            }
            return self.failed(Cause::Cut(None), &roads);
        }
        self.total = Some(self.position);
        self.state = State::End;
        Ok(None)
    }

    /// Decides what follows a failure: the next place, another try, or the end.
    fn failed(&mut self, cause: Cause, roads: &Roads) -> Result<Option<Event>, Error> {
        let asked = match &cause {
            Cause::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        if matches!(cause, Cause::BadAnswer(_)) {
            self.bad_answers += 1;
        }
        let progressed = self.has_progressed();
        let error = self.error(cause);
        self.last = Some(error.clone());
        let wait = if self.place + 1 < self.places && !progressed {
            self.place += 1;
            Duration::ZERO
        } else {
            if error.kind().retry == Retry::Fatal || self.bad_answers >= BAD_ANSWERS {
                return Err(error);
            }
            if !progressed {
                self.place = 0;
            }
            match self
                .backoff
                .wait(&roads.config.retry, asked, self.request.deadline)
            {
                Some(wait) => wait,
                None => return Err(self.deadline(true, asked)),
            }
        };
        self.state = State::Wait(Instant::now() + wait);
        Ok(Some(Event::Retrying {
            attempt: self.attempts(),
            error,
            wait,
        }))
    }

    /// Makes everything so far void. Whatever comes next begins with the first byte.
    fn restart(&mut self, why: &str) -> Event {
        self.position = 0;
        self.asked_from = 0;
        self.validator = None;
        self.looks = None;
        self.total = self.request.size;
        self.state = State::Ask;
        Event::Restart {
            why: why.to_owned(),
        }
    }

    fn no_more_ranges(&mut self, sent: &str) -> Event {
        self.ranges = false;
        self.restart(&format!("the origin sent {sent}"))
    }

    fn error(&self, cause: Cause) -> Error {
        let place = Place {
            host: self.host.clone(),
            via: self.via.clone(),
            phase: self.phase,
            done: self.position,
            total: self.total,
            attempts: self.attempts(),
        };
        Error::new(cause, place)
    }

    /// `asked` is for how long the origin has asked to wait, where another attempt would come too late.
    fn deadline(&self, waiting: bool, asked: Option<Duration>) -> Error {
        let left = self
            .request
            .deadline
            .saturating_duration_since(Instant::now());
        self.error(Cause::Deadline {
            waiting,
            asked: asked.filter(|asked| *asked >= left),
            last: self.last.clone(),
        })
    }

    /// Reads the beginning of an answer that is not the file; with `pages`, only where it looks like a page.
    async fn excerpt(&mut self, mut response: Response, pages: bool) -> Option<String> {
        let mut looks = Looks::of(response.headers());
        let _ = timeout(EXCERPT, async {
            while !looks.is_full()
                && let Ok(Some(bytes)) = response.chunk().await
            {
                looks.note(&bytes);
            }
        })
        .await;
        self.request
            .fetched
            .fetch_add(looks.kept(), Ordering::Relaxed);
        if pages {
            looks.describe(&self.secrets)
        } else {
            looks.text(&self.secrets)
        }
    }

    async fn open_local(&mut self, path: std::path::PathBuf) -> Result<Option<Event>, Error> {
        self.host = path.display().to_string();
        if !self.request.allow_local {
            return Err(self.error(Denied::local_file().into()));
        }
        self.request.attempts.fetch_add(1, Ordering::Relaxed);
        let (local, found) = Local::open(path, self.position)
            .await
            .map_err(|cause| self.error(cause))?;
        if let Some(expected) = self.request.size
            && expected != found
        {
            return Err(self.error(Cause::WrongLength {
                expected,
                found,
                excerpt: None,
            }));
        }
        self.total = Some(found);
        self.phase = Phase::Body;
        self.state = State::Local(local);
        Ok(None)
    }

    async fn read_local(&mut self) -> Result<Event, Error> {
        let State::Local(local) = &mut self.state else {
            return Err(self.error(Cause::Over));
        };
        let bytes = match local.read().await {
            Ok(bytes) => bytes,
            Err(cause) => return Err(self.error(cause)),
        };
        self.position += bytes.len() as u64;
        if !bytes.is_empty() {
            return Ok(Event::Bytes(bytes));
        }
        // A file that is written to while it is read ends elsewhere; the check of the size says so.
        self.total = Some(self.position);
        self.state = State::End;
        Ok(Event::End)
    }
}

fn is_chunked(headers: &HeaderMap) -> bool {
    headers.contains_key(TRANSFER_ENCODING) && !headers.contains_key(CONTENT_LENGTH)
}
