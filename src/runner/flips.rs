//! Activations and rollbacks that an operator requested. The requests are rows of the store, so
//! they survive a crash.

use std::sync::Arc;

use super::Runner;
use crate::shown::Activation;
use crate::store::{self, activations};
use crate::sys::Chain;

impl Runner {
    /// Makes live what was requested, in the order of the requests.
    pub(super) async fn execute_flips(&self, pending: Vec<Activation>) -> Result<(), store::Error> {
        for request in pending {
            let _lock = self.publisher.lock(&request.key).await;
            let error = self.execute_flip(&request).await?;
            let (id, why) = (request.id, error.clone());
            self.store
                .write(move |tx| activations::done(tx, id, why.as_deref()))
                .await?;
            match error {
                None => {
                    tracing::info!(event = "activated", data = %request.key, by = request.actor, "made live")
                }
                Some(error) => {
                    tracing::warn!(event = "activation-failed", data = %request.key, error, "could not make live")
                }
            }
        }
        Ok(())
    }

    /// Flips `current` as requested. Returns why not if it could not.
    async fn execute_flip(&self, request: &Activation) -> Result<Option<String>, store::Error> {
        let (key, seq) = (request.key.clone(), request.seq);
        let latest = self
            .store
            .read(move |r| activations::may_activate(r, &key.app, &key.name, seq))
            .await?;
        if !latest {
            return Ok(Some("a later request replaced it".to_owned()));
        }
        let (publisher, key) = (Arc::clone(&self.publisher), request.key.clone());
        let flipped = tokio::task::spawn_blocking(move || publisher.flip(&key))
            .await
            .map_err(|_| store::Error::Panicked)?;
        Ok(flipped.err().map(|error| Chain(&error).to_string()))
    }
}
