//! The regular round: retention, links, partial archives and the database; and, soon after a
//! version was published or made live, retention of its name.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::worker::{Status, Worker};
use super::{Config, Keep, Swept};
use crate::datafile::{AppId, DataName, Key};
use crate::job::EventKind;
use crate::shown::Event;
use crate::store;
use crate::sys::Chain;

/// Keeps the node tidy.
pub(super) struct Upkeep {
    keep: Arc<Keep>,
    config: watch::Receiver<Arc<Config>>,
    events: Receiver<Arc<Event>>,
    /// When the last whole round began.
    last: Option<Instant>,
    due: Due,
}

/// What the next round is for.
#[derive(Default)]
struct Due {
    everything: bool,
    /// Names that have a new version, or another live one.
    names: HashSet<(AppId, DataName)>,
    /// Whether events were missed, so that any name may have one.
    any_name: bool,
}

impl Due {
    fn note(&mut self, event: &Event) {
        if let (Some(key), EventKind::Published | EventKind::Activated | EventKind::RolledBack) =
            (&event.key, &event.kind)
        {
            self.names.insert((key.app.clone(), key.name.clone()));
        }
    }

    fn is_empty(&self) -> bool {
        !self.everything && !self.any_name && self.names.is_empty()
    }
}

impl Upkeep {
    pub(super) fn new(keep: Arc<Keep>) -> Self {
        Self {
            config: keep.config.follow(),
            events: keep.store.subscribe(),
            keep,
            last: None,
            due: Due::default(),
        }
    }

    /// Takes the events that have already arrived, so that a burst of publications of one name is
    /// one round.
    fn take_events(&mut self) {
        use tokio::sync::broadcast::error::TryRecvError;
        loop {
            match self.events.try_recv() {
                Ok(event) => self.due.note(&event),
                Err(TryRecvError::Lagged(_)) => self.due.any_name = true,
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }
}

impl Worker for Upkeep {
    const NAME: &'static str = "upkeep";

    async fn due(&mut self) {
        self.take_events();
        while self.due.is_empty() {
            let every = self.keep.config.now().upkeep_every;
            let next = self.last.map_or_else(Instant::now, |last| last + every);
            tokio::select! {
                _ = self.config.changed() => {}
                () = tokio::time::sleep_until(next) => self.due.everything = true,
                event = self.events.recv() => match event {
                    Ok(event) => self.due.note(&event),
                    Err(RecvError::Lagged(_)) => self.due.any_name = true,
                    Err(RecvError::Closed) => std::future::pending().await,
                },
            }
        }
        self.take_events();
    }

    async fn work(&mut self, _: &Status, stop: &CancellationToken) -> Result<(), store::Error> {
        let due = std::mem::take(&mut self.due);
        if due.everything {
            self.last = Some(Instant::now());
            let keep = self.keep.config.now().keep_partial;
            return self.keep.tidy(&mut Swept::default(), keep, stop).await;
        }
        if due.any_name {
            return self
                .keep
                .sweep_everywhere(&mut Swept::default(), stop)
                .await;
        }
        for (app, name) in due.names {
            if stop.is_cancelled() {
                break;
            }
            self.keep.sweep_name(&app, &name).await;
        }
        Ok(())
    }
}

impl Keep {
    /// Runs a whole round of upkeep now, and returns what was removed: every partial archive that no
    /// open job needs as well.
    pub async fn collect(self: &Arc<Self>, stop: CancellationToken) -> Result<Swept, store::Error> {
        let this = Arc::clone(self);
        self.complete(async move {
            let mut swept = Swept::default();
            if let Err(error) = this.tidy(&mut swept, Duration::ZERO, &stop).await {
                tracing::warn!(event = "upkeep-failed", error = %Chain(&error), "a round of upkeep failed");
            }
            Ok(swept)
        })
        .await
    }

    /// Removes what is not kept any more, everywhere on the node, and restores links.
    async fn tidy(
        &self,
        swept: &mut Swept,
        keep_partial: Duration,
        stop: &CancellationToken,
    ) -> Result<(), store::Error> {
        self.drop_surplus_archives().await?;
        self.reconcile(stop).await;
        self.sweep_everywhere(swept, stop).await?;
        swept.partials = self.sweep_partials(keep_partial).await?;
        self.on_disk(|publisher| publisher.sweep_leftovers())
            .await?;
        self.store.housekeep().await?;
        self.upkeep_done_ms
            .store(self.store.now_ms(), Ordering::Relaxed);
        Ok(())
    }

    /// Removes partial archives that no open job needs and that are older than `keep` or of no use to
    /// a later push.
    async fn sweep_partials(&self, keep: Duration) -> Result<u64, store::Error> {
        let open: HashSet<Key> = self
            .store
            .read(store::jobs::open_keys)
            .await?
            .into_iter()
            .collect();
        let road = Arc::clone(&self.road);
        self.on_disk(move |_| road.sweep_partials(&open, keep))
            .await
    }
}
