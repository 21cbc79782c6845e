//! Files that are pushed and are published already: the push is answered at once, and the tree is
//! checked afterwards, in case somebody changed it. A damaged one is repaired from its kept
//! archive, or by the push itself.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::worker::{Status, Worker};
use super::{Healed, Keep, Verification};
use crate::datafile::{DataFile, Key};
use crate::store;
use crate::sys::Chain;
use crate::wire::push::{Item, Push, Via};

/// Time after a check in which the same tree is not checked again.
const REST: Duration = Duration::from_secs(5);
/// The same as a multiple of how long the check took, since a large tree takes long. The longer of
/// both counts.
const REST_FACTOR: u32 = 20;

/// Checks the files that the intake notes in [`Repeated`](crate::intake::Repeated).
pub(super) struct Repair {
    keep: Arc<Keep>,
    /// Until when a tree that was checked is not checked again.
    resting: HashMap<Key, Instant>,
}

impl Repair {
    pub(super) fn new(keep: Arc<Keep>) -> Self {
        Self {
            keep,
            resting: HashMap::new(),
        }
    }

    /// Returns when the first of the waiting files may be checked.
    fn next(&self) -> Option<Instant> {
        let ready = |key: &Key| self.resting.get(key).copied().unwrap_or_else(Instant::now);
        self.keep.intake.repeated().keys().iter().map(ready).min()
    }
}

impl Worker for Repair {
    const NAME: &'static str = "repair";

    async fn due(&mut self) {
        loop {
            let next = self.next();
            let rested = async {
                match next {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = rested => return,
                () = self.keep.intake.repeated().noted() => {}
            }
        }
    }

    async fn work(&mut self, _: &Status, stop: &CancellationToken) -> Result<(), store::Error> {
        let now = Instant::now();
        self.resting.retain(|_, until| *until > now);
        for (file, via) in self
            .keep
            .intake
            .repeated()
            .take(|key| !self.resting.contains_key(key))
        {
            let began = Instant::now();
            self.keep.check(&file, via, stop).await;
            let rest = REST.max(began.elapsed() * REST_FACTOR);
            self.resting.insert(file.key, Instant::now() + rest);
        }
        Ok(())
    }
}

impl Keep {
    /// Checks every file that was pushed again, once.
    pub async fn check_repeats(&self, stop: &CancellationToken) {
        for (file, via) in self.intake.repeated().take(|_| true) {
            self.check(&file, via, stop).await;
        }
    }

    async fn check(&self, file: &DataFile, via: Via, stop: &CancellationToken) {
        match self.is_beyond_repair(&file.key, stop).await {
            Ok(false) => {}
            Ok(true) => self.push_again(file, via).await,
            Err(error) => {
                tracing::warn!(event = "check-failed", data = %file.key, error = %Chain(&error), "could not check a version that was pushed again");
            }
        }
    }

    /// Checks a tree, repairs it if it is damaged, and returns whether that takes a new download.
    async fn is_beyond_repair(
        &self,
        key: &Key,
        stop: &CancellationToken,
    ) -> Result<bool, store::Error> {
        if !matches!(self.glance(key, stop).await?, Verification::Damaged(_)) {
            return Ok(false);
        }
        let healed = self.heal(key).await?;
        Ok(matches!(healed, Healed::NoArchive | Healed::Failed(_)))
    }

    /// Admits a push again that was answered before the damage was known: now it repairs the
    /// version.
    async fn push_again(&self, file: &DataFile, via: Via) {
        let push = Push {
            app: file.key.app.clone(),
            items: vec![Item {
                name: file.key.name.to_string(),
                version: file.key.version.to_string(),
                file: Ok(file.clone()),
            }],
            strategy: None,
        };
        if let Err(error) = self.intake.admit(push, via).await {
            tracing::warn!(event = "check-failed", data = %file.key, error = %Chain(&error), "could not admit the push of a damaged version again");
        }
    }
}
