//! What follows when a request or a body fails: another attempt, a fresh start, or the end.

use std::time::Duration;

use tokio::time::Instant;

use super::super::Event;
use super::super::error::{Cause, Context, Error};
use super::super::routes::Routes;
use super::{Source, State};
use crate::sys::failure::Retry;

/// Responses in a row that are not HTTP before the fetch gives up.
const BAD_ANSWERS: u32 = 3;

impl Source {
    /// Decides what follows a failure: the next candidate, another attempt, or the end.
    pub(super) fn failed(&mut self, cause: Cause, routes: &Routes) -> Result<Option<Event>, Error> {
        let error = self.error(cause);
        self.failed_with(error, routes)
    }

    fn failed_with(&mut self, error: Error, routes: &Routes) -> Result<Option<Event>, Error> {
        let asked = match error.cause() {
            Cause::Status { retry_after, .. } => *retry_after,
            _ => None,
        };
        if matches!(error.cause(), Cause::BadAnswer(_)) {
            self.bad_answers += 1;
        }
        let progressed = self.has_progressed();
        self.last = Some(error.clone());
        let wait = if self.candidate + 1 < self.candidates && !progressed {
            self.candidate += 1;
            Duration::ZERO
        } else {
            if error.kind().retry == Retry::Fatal || self.bad_answers >= BAD_ANSWERS {
                return Err(error);
            }
            if !progressed {
                self.candidate = 0;
            }
            match self.request.retries.lock().wait(
                &routes.config.retry,
                asked,
                self.request.deadline.left(),
            ) {
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

    /// Decides what follows a refused part: the whole file is asked for, once at once and then after the
    /// pauses of other failures; an origin that asks for patience gets it first. What is here stands until
    /// the whole arrives, unless the origin refuses a part for good twice.
    pub(super) fn part_refused(
        &mut self,
        cause: Cause,
        routes: &Routes,
    ) -> Result<Option<Event>, Error> {
        let patience = matches!(
            cause,
            Cause::Status {
                retry_after: Some(_),
                ..
            }
        );
        let error = self.error(cause);
        let passes = error.kind().retry == Retry::Transient;
        self.refusals += 1;
        match (self.refusals, passes) {
            (1, true) if patience => {}
            (2.., false) => return Ok(Some(self.no_more_ranges("no part, twice"))),
            _ => self.whole = true,
        }
        if passes && (patience || self.refusals > 1) {
            return self.failed_with(error, routes);
        }
        self.last = Some(error.clone());
        self.state = State::Ask;
        Ok(Some(Event::Retrying {
            attempt: self.attempts(),
            error,
            wait: Duration::ZERO,
        }))
    }

    /// Waits until `host`, which does not answer, may be asked again.
    pub(super) fn spare(&mut self, host: String, wait: Duration) -> Event {
        let wait = wait.min(self.request.deadline.left());
        self.state = State::Wait(Instant::now() + wait);
        Event::Retrying {
            attempt: self.attempts(),
            error: self
                .last
                .clone()
                .unwrap_or_else(|| self.error(Cause::Silent { host })),
            wait,
        }
    }

    /// Discards everything so far. The next byte is the first one again.
    pub(super) fn restart(&mut self, why: &str) -> Event {
        self.position = 0;
        self.asked_from = 0;
        self.validator = None;
        self.sniff = None;
        self.total = self.request.size;
        self.state = State::Ask;
        Event::Restart {
            why: why.to_owned(),
        }
    }

    pub(super) fn no_more_ranges(&mut self, sent: &str) -> Event {
        self.ranges = false;
        self.restart(&format!("the origin sent {sent}"))
    }

    pub(super) fn error(&self, cause: Cause) -> Error {
        let context = Context {
            host: self.host.clone(),
            via: self.via.clone(),
            phase: self.phase,
            done: self.position,
            total: self.total,
            attempts: self.attempts(),
        };
        Error::new(cause, context)
    }

    /// `asked` is the Retry-After of the origin, if it puts the next attempt past the deadline.
    pub(super) fn deadline(&self, waiting: bool, asked: Option<Duration>) -> Error {
        let left = self.request.deadline.left();
        self.error(Cause::Deadline {
            waiting,
            asked: asked.filter(|asked| *asked >= left),
            last: self.last.clone(),
        })
    }
}
