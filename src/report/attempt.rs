//! One attempt to deliver a callback: sent, judged by the response, and recorded in the outbox.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use tokio_util::sync::CancellationToken;

use super::setup::{Setup, Target};
use crate::db::endpoints;
use crate::db::outbox::{self, Message};
use crate::db::{self, Db};
use crate::dial::retry_after;
use crate::sys::Chain;
use crate::sys::pauses::{self, Pauses};

/// The shortest pause between two attempts.
const SHORTEST_RETRY: Duration = Duration::from_millis(20);
/// The longest Retry-After that is obeyed.
pub(super) const LONGEST_ASKED: Duration = Duration::from_secs(24 * 3600);

/// An attempt that has ended.
pub(super) struct Attempt {
    pub(super) message: Message,
    pub(super) outcome: Outcome,
    /// Whether the outbox knows what it has to. If not, the callback is still due.
    pub(super) recorded: bool,
}

/// What came of an attempt.
pub(super) enum Outcome {
    Delivered,
    /// The receiver is up, and does not accept this callback or fails at it.
    Refused {
        error: String,
        wait: Option<Duration>,
        for_good: bool,
    },
    /// The receiver is down or overloaded.
    Away {
        error: String,
        wait: Option<Duration>,
    },
    /// The receiver wants no more callbacks.
    Gone,
}

impl Attempt {
    /// An attempt that panicked. The callback is still due, after the pause of any failure.
    pub(super) fn panicked(message: Message) -> Self {
        let error = "the attempt panicked".to_owned();
        Self {
            message,
            outcome: Outcome::Away { error, wait: None },
            recorded: true,
        }
    }

    /// Sends a callback and records the outcome.
    pub(super) async fn make(
        message: Message,
        target: &Target,
        setup: &Setup,
        store: &Db,
        drain: &CancellationToken,
    ) -> Self {
        let outcome = send(target, &message, &setup.node, store.now_ms()).await;
        let recorded = record(store, &message, &outcome, setup, drain).await;
        Self {
            message,
            outcome,
            recorded,
        }
    }
}

async fn send(target: &Target, message: &Message, node: &str, now_ms: i64) -> Outcome {
    let request = target.request(message, node, now_ms.div_euclid(1000));
    match request.send().await {
        // The body of the response does not matter and is not waited for.
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
        200..=299 => Outcome::Delivered,
        300..=399 => Outcome::Refused {
            error: format!("{error}; redirects are not followed"),
            wait: None,
            for_good: true,
        },
        410 => Outcome::Gone,
        408 | 425 | 429 | 502 | 503 | 504 => Outcome::Away { error, wait },
        // A receiver may fail at this callback alone.
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

/// Records an outcome. While the disk takes no writes this is retried, or the receiver would get the same
/// callback over and over.
async fn record(
    store: &Db,
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
            Err(db::Error::Full | db::Error::ReadOnly) => {}
            Err(error) => {
                tracing::warn!(event = "result-unwritten", error = %Chain(&error), "could not record the outcome of a callback");
                return false;
            }
        }
        tokio::select! {
            () = drain.cancelled() => return false,
            () = tokio::time::sleep(pauses::STORE.after(0)) => {}
        }
    }
}

/// What the outbox records of an attempt.
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
            Outcome::Delivered => (None, None, false, false),
            Outcome::Refused {
                error,
                wait,
                for_good,
            } => (Some(error.clone()), *wait, *for_good, false),
            Outcome::Away { error, wait } => (Some(error.clone()), *wait, false, false),
            Outcome::Gone => (Some("410 Gone".to_owned()), None, false, true),
        };
        let (first, longest) = (setup.first_retry, setup.longest_retry);
        let pause = Pauses::new(first, longest)
            .random(message.attempts)
            .max(SHORTEST_RETRY.min(longest));
        Self {
            message: message.clone(),
            delay_ms: millis(pause.max(wait.unwrap_or_default())),
            asked_ms: wait.map(millis),
            error,
            refused,
            gone,
        }
    }

    fn write(&self, tx: &db::Tx<'_>) -> Result<(), db::Error> {
        let Some(error) = &self.error else {
            return outbox::delivered(tx, &self.message).map(drop);
        };
        let next_at = tx.uptime_ms().saturating_add(self.delay_ms);
        outbox::postpone(tx, &self.message, error, next_at, self.refused)?;
        let not_before = self.asked_ms.map_or(0, |ms| tx.now_ms().saturating_add(ms));
        endpoints::endpoint_failed(tx, &self.message.endpoint, error, not_before)?;
        if self.gone {
            endpoints::disable(tx, &self.message.endpoint, error)?;
        }
        Ok(())
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_judged_as_the_specification_says() {
        let judged = |status: u16| {
            let outcome = judge(StatusCode::from_u16(status).unwrap(), &HeaderMap::new());
            match outcome {
                Outcome::Delivered => "delivered",
                Outcome::Refused { for_good: true, .. } => "refused",
                Outcome::Refused {
                    for_good: false, ..
                } => "failed",
                Outcome::Away { .. } => "away",
                Outcome::Gone => "gone",
            }
        };
        for (statuses, want) in [
            ([200, 202, 204], "delivered"),
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
}
