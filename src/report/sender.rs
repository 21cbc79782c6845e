//! The one task that sends: takes what is due for each endpoint, keeps the order of each file, and writes down how every
//! attempt went before the next of that file may go.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::line::{Line, jitter};
use super::setup::{Setup, Target};
use crate::store::outbox::{self, Message};
use crate::store::{self, Store, Topic};
use crate::sys::Chain;

/// Old callbacks are given up, and forgotten wakes made good, this often.
const LOOK: Duration = Duration::from_secs(60);
/// How long attempts on their way may take to end when the agent does.
const GRACE: Duration = Duration::from_secs(2);
/// How long the store is left alone after it could not take a result.
const STORE_RETRY: Duration = Duration::from_secs(1);
/// How long an endpoint is left alone after a result could not be written down.
const UNRECORDED: Duration = Duration::from_secs(30);
/// The longest wait that a receiver may ask for.
const LONGEST_ASKED: Duration = Duration::from_secs(24 * 3600);

/// The sender and what it knows of each endpoint.
pub(super) struct Sender {
    store: Store,
    setup: watch::Receiver<Arc<Setup>>,
    lines: HashMap<String, Line>,
    attempts: JoinSet<Attempt>,
    drain: CancellationToken,
    expired_at: Instant,
}

/// How an attempt went.
struct Attempt {
    message: Message,
    outcome: Outcome,
    recorded: bool,
}

/// What the receiver made of it.
enum Outcome {
    /// Taken.
    Taken,
    /// The receiver is there and does not want this one, or fails at it.
    Refused {
        error: String,
        wait: Option<Duration>,
        for_good: bool,
    },
    /// The receiver is not there, or has no time.
    Away {
        error: String,
        wait: Option<Duration>,
    },
    /// The receiver wants no more.
    Gone,
}

impl Sender {
    pub(super) fn new(store: Store, setup: watch::Receiver<Arc<Setup>>) -> Self {
        Self {
            store,
            setup,
            lines: HashMap::new(),
            attempts: JoinSet::new(),
            drain: CancellationToken::new(),
            expired_at: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, drain: CancellationToken) {
        self.drain = drain.clone();
        let mut wake = self.store.wake(Topic::Outbox);
        self.begin().await;
        while !drain.is_cancelled() {
            wake.mark_unchanged();
            let wait = match self.send_due().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(event = "outbox-unread", error = %Chain(&error), "could not look at the outbox");
                    STORE_RETRY
                }
            };
            tokio::select! {
                () = drain.cancelled() => {}
                changed = wake.changed() => {
                    if changed.is_err() {
                        break;
                    }
                }
                Some(ended) = self.attempts.join_next() => self.ended(ended.ok()).await,
                Ok(()) = self.setup.changed() => self.reload().await,
                () = tokio::time::sleep(wait) => {}
            }
            self.expire().await;
        }
        self.end().await;
    }

    /// Takes up what an earlier life of the agent has left: all of it is due, but for an endpoint that asked for patience.
    async fn begin(&mut self) {
        self.line_up();
        if self.lines.is_empty() {
            return;
        }
        let prepared = self.store.write(outbox::begin).await;
        let endpoints = match prepared {
            Ok(()) => self.store.read(outbox::endpoints).await,
            Err(error) => Err(error),
        };
        let now = self.store.now_ms();
        for row in endpoints.unwrap_or_default() {
            let asked = Duration::from_millis(u64::try_from(row.not_before_ms - now).unwrap_or(0));
            if let (Some(line), false) = (self.lines.get_mut(&row.name), asked.is_zero()) {
                line.pause_as_asked(asked.min(LONGEST_ASKED));
            }
        }
    }

    /// Takes a changed configuration. Whatever waited has a new chance at once, but where the receiver has asked for a pause.
    async fn reload(&mut self) {
        let endpoints = self.setup.borrow().endpoints();
        self.lines
            .values_mut()
            .for_each(|line| line.disabled = false);
        self.line_up();
        let entered = self
            .store
            .write(move |tx| {
                outbox::register(tx, &endpoints)?;
                outbox::begin(tx)
            })
            .await;
        if let Err(error) = entered {
            tracing::error!(event = "endpoints-unknown", error = %Chain(&error), "could not enter the changed endpoints");
        }
    }

    /// Makes a line for each endpoint of the setup. A line that goes on keeps what is on its way.
    fn line_up(&mut self) {
        let setup = Arc::clone(&self.setup.borrow_and_update());
        let mut old = std::mem::take(&mut self.lines);
        for target in &setup.targets {
            let mut line = old
                .remove(&target.name)
                .unwrap_or_else(|| Line::new(Arc::clone(target)));
            line.renew(Arc::clone(target));
            self.lines.insert(target.name.clone(), line);
        }
    }

    /// Sends what is due and may be sent; returns how long nothing more will be.
    async fn send_due(&mut self) -> Result<Duration, store::Error> {
        let setup = Arc::clone(&self.setup.borrow());
        let mut wait = LOOK;
        let names: Vec<String> = self.lines.keys().cloned().collect();
        for name in names {
            let Some(line) = self.lines.get(&name) else {
                continue;
            };
            let free = line.free(setup.parallel);
            if free == 0 {
                wait = line.pause().map_or(wait, |pause| pause.min(wait));
                continue;
            }
            let (most, looked) = (free + line.on_their_way(), name.clone());
            let (due, next) = self
                .store
                .read(move |r| {
                    let due = outbox::due(r, &looked, most)?;
                    let next = if due.len() < most {
                        outbox::next_due_ms(r, &looked)?.map(|at| at - r.uptime_ms())
                    } else {
                        None
                    };
                    Ok((due, next))
                })
                .await?;
            self.send(&name, due, free, &setup);
            // What is due and on its way needs no wake; what becomes due later does.
            if let Some(next) = next
                .and_then(|ms| u64::try_from(ms).ok())
                .filter(|ms| *ms > 0)
            {
                wait = wait.min(Duration::from_millis(next + 1));
            }
        }
        Ok(wait)
    }

    fn send(&mut self, name: &str, due: Vec<Message>, free: usize, setup: &Arc<Setup>) {
        let Some(line) = self.lines.get_mut(name) else {
            return;
        };
        let mut sent = 0;
        for message in due {
            if sent < free && line.take(&message) {
                sent += 1;
                let (target, setup) = (Arc::clone(&line.target), Arc::clone(setup));
                let (store, drain) = (self.store.clone(), self.drain.clone());
                self.attempts.spawn(async move {
                    let outcome = attempt(&target, &message, &setup.node, store.now_ms()).await;
                    let recorded = record(&store, &message, &outcome, &setup, &drain).await;
                    Attempt {
                        message,
                        outcome,
                        recorded,
                    }
                });
            }
        }
    }

    async fn ended(&mut self, attempt: Option<Attempt>) {
        // An attempt that panicked leaves its file blocked until the next start: better than sending out of order.
        let Some(Attempt {
            message,
            outcome,
            recorded,
        }) = attempt
        else {
            return;
        };
        let setup = Arc::clone(&self.setup.borrow());
        let Some(line) = self.lines.get_mut(&message.endpoint) else {
            return;
        };
        line.put_down(&message);
        if !recorded {
            // It is still due: without a pause the receiver would be sent the same over and over.
            return line.pause_for(UNRECORDED);
        }
        match outcome {
            Outcome::Taken => {
                if line.worked() {
                    let name = message.endpoint;
                    let recovered = self
                        .store
                        .write(move |tx| outbox::endpoint_recovered(tx, &name))
                        .await;
                    if let Err(error) = recovered {
                        tracing::warn!(event = "outbox-unread", error = %Chain(&error), "could not make callbacks due");
                    }
                }
            }
            Outcome::Refused { error, wait, .. } => line.failed(&error, false, wait, &setup),
            Outcome::Away { error, wait } => line.failed(&error, true, wait, &setup),
            Outcome::Gone if !line.disabled => {
                line.disabled = true;
                tracing::error!(
                    event = "endpoint-disabled",
                    endpoint = line.target.name,
                    target = line.target.shown,
                    "the receiver wants no more callbacks (410); nothing is sent to it until the configuration is reloaded"
                );
            }
            Outcome::Gone => {}
        }
    }

    /// Gives up what was tried for too long.
    async fn expire(&mut self) {
        if self.lines.is_empty() || self.expired_at.elapsed() < LOOK {
            return;
        }
        self.expired_at = Instant::now();
        let keep = i64::try_from(self.setup.borrow().keep.as_millis()).unwrap_or(i64::MAX);
        match self.store.write(move |tx| outbox::expire(tx, keep)).await {
            Ok(0) => {}
            Ok(count) => tracing::warn!(
                event = "callbacks-given-up",
                count,
                "callbacks were not delivered in time; `edgepush outbox` shows them"
            ),
            Err(error) => {
                tracing::warn!(event = "outbox-unread", error = %Chain(&error), "could not give old callbacks up");
            }
        }
    }

    /// Lets what is on its way arrive and be written down; what does not is sent again after the next start.
    async fn end(&mut self) {
        let rest = async { while self.attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, rest).await.is_err() {
            self.attempts.shutdown().await;
        }
    }
}

/// Sends one callback and judges the answer.
async fn attempt(target: &Target, message: &Message, node: &str, now_ms: i64) -> Outcome {
    let request = target.request(message, node, now_ms.div_euclid(1000));
    match request.send().await {
        // The answer's body is of no interest, and is not waited for.
        Ok(response) => judge(response.status(), response.headers()),
        Err(error) => Outcome::Away {
            error: Chain(&error.without_url()).to_string(),
            wait: None,
        },
    }
}

fn judge(status: StatusCode, headers: &HeaderMap) -> Outcome {
    let wait = retry_after(headers).map(|w| w.min(LONGEST_ASKED));
    let error = match status.canonical_reason() {
        Some(reason) => format!("{} {reason}", status.as_u16()),
        None => status.as_u16().to_string(),
    };
    match status.as_u16() {
        200..=299 => Outcome::Taken,
        300..=399 => Outcome::Refused {
            error: format!("{error}; redirects are not followed"),
            wait: None,
            for_good: true,
        },
        410 => Outcome::Gone,
        408 | 425 | 429 | 502 | 503 | 504 => Outcome::Away { error, wait },
        // A receiver may fail at this one alone.
        500..=599 => Outcome::Refused {
            error,
            wait,
            for_good: false,
        },
        _ => Outcome::Refused {
            error,
            wait: None,
            for_good: true,
        },
    }
}

/// Writes down how an attempt went; what the disk cannot take now is tried again, for else the receiver would be sent the
/// same over and over.
async fn record(
    store: &Store,
    message: &Message,
    outcome: &Outcome,
    setup: &Setup,
    drain: &CancellationToken,
) -> bool {
    let result = Written::new(message, outcome, setup);
    loop {
        let result = result.clone();
        match store.write(move |tx| result.write(tx)).await {
            Ok(()) => return true,
            Err(store::Error::Full | store::Error::ReadOnly) => {}
            Err(error) => {
                tracing::warn!(event = "result-unwritten", error = %Chain(&error), "could not write down how a callback went");
                return false;
            }
        }
        tokio::select! {
            () = drain.cancelled() => return false,
            () = tokio::time::sleep(STORE_RETRY) => {}
        }
    }
}

/// What is written down of an attempt.
#[derive(Clone)]
struct Written {
    message: Message,
    delay_ms: i64,
    asked_ms: Option<i64>,
    error: Option<String>,
    refused: bool,
    gone: bool,
}

impl Written {
    fn new(message: &Message, outcome: &Outcome, setup: &Setup) -> Self {
        let (error, wait, refused, gone) = match outcome {
            Outcome::Taken => (None, None, false, false),
            Outcome::Refused {
                error,
                wait,
                for_good,
            } => (Some(error.clone()), *wait, *for_good, false),
            Outcome::Away { error, wait } => (Some(error.clone()), *wait, false, false),
            Outcome::Gone => (Some("410 Gone".to_owned()), None, false, true),
        };
        let jitter = jitter(setup.first_retry, setup.longest_retry, message.attempts);
        Self {
            message: message.clone(),
            delay_ms: millis(jitter.max(wait.unwrap_or_default())),
            asked_ms: wait.map(millis),
            error,
            refused,
            gone,
        }
    }

    fn write(&self, tx: &store::Tx<'_>) -> Result<(), store::Error> {
        let Some(error) = &self.error else {
            return outbox::delivered(tx, &self.message).map(drop);
        };
        let next_at = tx.uptime_ms().saturating_add(self.delay_ms);
        outbox::postpone(tx, &self.message, error, next_at, self.refused)?;
        let not_before = self.asked_ms.map_or(0, |ms| tx.now_ms().saturating_add(ms));
        outbox::endpoint_failed(tx, &self.message.endpoint, error, not_before)?;
        if self.gone {
            outbox::disable(tx, &self.message.endpoint, error)?;
        }
        Ok(())
    }
}

/// Reads Retry-After: seconds, or a date that is compared with the receiver's own clock.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_as_the_specification_says() {
        let judged = |status: u16| {
            let outcome = judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
            match outcome {
                Outcome::Taken => "taken",
                Outcome::Refused { for_good: true, .. } => "refused",
                Outcome::Refused {
                    for_good: false, ..
                } => "failed",
                Outcome::Away { .. } => "away",
                Outcome::Gone => "gone",
            }
        };
        for (statuses, want) in [
            ([200, 202, 204], "taken"),
            ([301, 302, 307], "refused"),
            ([400, 401, 404], "refused"),
            ([500, 501, 599], "failed"),
            ([408, 429, 503], "away"),
            ([425, 502, 504], "away"),
            ([410, 410, 410], "gone"),
        ] {
            for status in statuses {
                assert_eq!(judged(status), want, "{status}");
            }
        }
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let read = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers).map(|d| d.as_secs())
        };
        assert_eq!(read("120"), Some(120));
        assert_eq!(read("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(read("soon"), None);
    }
}
