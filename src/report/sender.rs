//! The one task that sends: takes what is due for each endpoint, keeps the order of each file, and records
//! every outcome before the next callback of that file is sent.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::attempt::{Attempt, LONGEST_ASKED, Outcome};
use super::health::Health;
use super::setup::Setup;
use crate::db::endpoints;
use crate::db::outbox::{self, Message};
use crate::db::{self, Db, Topic};
use crate::sys::{Chain, pauses, tasks};

/// How often callbacks expire and the outbox is checked without being woken.
const CHECK_EVERY: Duration = Duration::from_secs(60);
/// How long attempts in flight may take when the agent ends.
const GRACE: Duration = Duration::from_secs(2);
/// How long an endpoint is paused after an outcome could not be recorded.
const UNRECORDED: Duration = Duration::from_secs(30);

pub(super) struct Sender {
    store: Db,
    setup: watch::Receiver<Arc<Setup>>,
    endpoints: HashMap<String, Health>,
    attempts: JoinSet<Attempt>,
    drain: CancellationToken,
    expired_at: Instant,
}

impl Sender {
    pub(super) fn new(store: Db, setup: watch::Receiver<Arc<Setup>>) -> Self {
        Self {
            store,
            setup,
            endpoints: HashMap::new(),
            attempts: JoinSet::new(),
            drain: CancellationToken::new(),
            expired_at: Instant::now(),
        }
    }

    pub(super) async fn run(mut self, drain: CancellationToken) {
        self.drain = drain.clone();
        let mut wake = self.store.wake(Topic::OUTBOX);
        self.begin().await;
        while !drain.is_cancelled() {
            wake.mark_unchanged();
            let wait = match self.send_due().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(event = "outbox-unread", error = %Chain(&error), "could not read the outbox");
                    pauses::STORE.after(0)
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

    /// Takes up what an earlier run of the agent left: all of it is due, unless the endpoint asked for a pause.
    async fn begin(&mut self) {
        self.list_endpoints();
        if self.endpoints.is_empty() {
            return;
        }
        let prepared = self.store.write(outbox::begin).await;
        let endpoints = match prepared {
            Ok(()) => self.store.read(endpoints::list).await,
            Err(error) => Err(error),
        };
        let now = self.store.now_ms();
        for row in endpoints.unwrap_or_default() {
            let asked = Duration::from_millis(u64::try_from(row.not_before_ms - now).unwrap_or(0));
            if let (Some(health), false) = (self.endpoints.get_mut(&row.name), asked.is_zero()) {
                health.pause_as_asked(asked.min(LONGEST_ASKED));
            }
        }
    }

    /// Takes a changed configuration. Everything waiting is retried at once, unless the receiver asked for a
    /// pause.
    async fn reload(&mut self) {
        let endpoints = self.setup.borrow().endpoints();
        self.endpoints
            .values_mut()
            .for_each(|health| health.disabled = false);
        self.list_endpoints();
        let entered = self
            .store
            .write(move |tx| {
                endpoints::register(tx, &endpoints)?;
                outbox::begin(tx)
            })
            .await;
        if let Err(error) = entered {
            tracing::error!(event = "endpoints-unknown", error = %Chain(&error), "could not record the changed endpoints");
        }
    }

    /// Lists the endpoints of the setup. One that stays keeps its callbacks in flight.
    fn list_endpoints(&mut self) {
        let setup = Arc::clone(&self.setup.borrow_and_update());
        let mut old = std::mem::take(&mut self.endpoints);
        for target in &setup.targets {
            let mut health = old
                .remove(&target.name)
                .unwrap_or_else(|| Health::new(Arc::clone(target)));
            health.renew(Arc::clone(target));
            self.endpoints.insert(target.name.clone(), health);
        }
    }

    /// Sends what is due and may be sent; returns how long to wait for more.
    async fn send_due(&mut self) -> Result<Duration, db::Error> {
        let setup = Arc::clone(&self.setup.borrow());
        let mut wait = CHECK_EVERY;
        let names: Vec<String> = self.endpoints.keys().cloned().collect();
        for name in names {
            let Some(health) = self.endpoints.get(&name) else {
                continue;
            };
            let free = health.free_slots(setup.parallel);
            if free == 0 {
                wait = health.pause().map_or(wait, |pause| pause.min(wait));
                continue;
            }
            let (most, looked) = (free + health.in_flight(), name.clone());
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
            // Only what becomes due later needs a wake-up.
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
        let Some(health) = self.endpoints.get_mut(name) else {
            return;
        };
        let mut sent = 0;
        for message in due {
            if sent < free && health.start(&message) {
                sent += 1;
                let (target, setup) = (Arc::clone(&health.target), Arc::clone(setup));
                let (store, drain) = (self.store.clone(), self.drain.clone());
                self.attempts.spawn(async move {
                    let attempt = Attempt::make(message.clone(), &target, &setup, &store, &drain);
                    let attempt = tasks::guarded("callback", attempt).await;
                    attempt.unwrap_or_else(|_| Attempt::panicked(message))
                });
            }
        }
    }

    async fn ended(&mut self, attempt: Option<Attempt>) {
        let Some(Attempt {
            message,
            outcome,
            recorded,
        }) = attempt
        else {
            return;
        };
        let setup = Arc::clone(&self.setup.borrow());
        let Some(health) = self.endpoints.get_mut(&message.endpoint) else {
            return;
        };
        health.end(&message);
        if !recorded {
            // It is still due: without a pause the receiver would get the same callback over and over.
            return health.pause_for(UNRECORDED);
        }
        match outcome {
            Outcome::Delivered => {
                if health.worked() {
                    let name = message.endpoint;
                    let recovered = self
                        .store
                        .write(move |tx| endpoints::endpoint_recovered(tx, &name))
                        .await;
                    if let Err(error) = recovered {
                        tracing::warn!(event = "outbox-unread", error = %Chain(&error), "could not make callbacks due");
                    }
                }
            }
            Outcome::Refused { error, wait, .. } => health.failed(&error, false, wait, &setup),
            Outcome::Away { error, wait } => health.failed(&error, true, wait, &setup),
            Outcome::Gone if !health.disabled => {
                health.disabled = true;
                tracing::error!(
                    event = "endpoint-disabled",
                    endpoint = health.target.name,
                    target = health.target.shown,
                    "the receiver wants no more callbacks (410); nothing is sent to it until the configuration is reloaded"
                );
            }
            Outcome::Gone => {}
        }
    }

    /// Gives up callbacks that were retried for too long.
    async fn expire(&mut self) {
        if self.endpoints.is_empty() || self.expired_at.elapsed() < CHECK_EVERY {
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

    /// Waits for attempts in flight; what does not end in time is sent again after the next start.
    async fn end(&mut self) {
        let rest = async { while self.attempts.join_next().await.is_some() {} };
        if tokio::time::timeout(GRACE, rest).await.is_err() {
            self.attempts.shutdown().await;
        }
    }
}
