//! Reconciles `current` on disk with the version recorded as live: a person with a shell, a
//! restored backup or a damaged file system may have changed or lost the link, and the programs
//! that read it see nothing else.

use tokio_util::sync::CancellationToken;

use super::Keep;
use crate::datafile::{AppId, DataName, Key};
use crate::job::EventKind;
use crate::publish::Link;
use crate::store::events::{self, Note};
use crate::store::{self, activations, releases};
use crate::sys::Chain;

impl Keep {
    /// Checks `current` of every name that has a live version.
    pub(super) async fn check_links(&self, stop: &CancellationToken) -> Result<(), store::Error> {
        let live = self
            .store
            .read(|r| releases::all_live(r, usize::MAX))
            .await?;
        for key in live {
            if stop.is_cancelled() {
                break;
            }
            self.check_link(&key.app, &key.name).await?;
        }
        Ok(())
    }

    /// Checks `current` of a name. If it leads to another published version, that one is recorded
    /// as live: the disk is the truth. If it leads to nothing, it is restored.
    pub(super) async fn check_link(
        &self,
        app: &AppId,
        name: &DataName,
    ) -> Result<(), store::Error> {
        let _lock = self.publisher.lock_name(app, name).await;
        let Some(live) = self.settled_live(app, name).await? else {
            return Ok(());
        };
        match self.link_of(&live).await? {
            Link::Other(other) => self.follow(&live, other).await,
            Link::Broken => self.mend(&live).await,
            Link::Right | Link::NoTree => Ok(()),
        }
    }

    /// Makes `current` lead to `key` if that is recorded as live, wherever it leads now.
    pub async fn restore_link(&self, key: &Key) -> Result<(), store::Error> {
        let _lock = self.publisher.lock(key).await;
        if self.settled_live(&key.app, &key.name).await?.as_ref() != Some(key) {
            return Ok(());
        }
        match self.link_of(key).await? {
            Link::Other(_) | Link::Broken => self.mend(key).await,
            Link::Right | Link::NoTree => Ok(()),
        }
    }

    async fn link_of(&self, key: &Key) -> Result<Link, store::Error> {
        let key = key.clone();
        self.on_disk(move |publisher| publisher.look_at_link(&key))
            .await
    }

    /// Returns the live version of a name, unless another one is about to become it: a crash or a
    /// running flip may lie between link and record.
    async fn settled_live(
        &self,
        app: &AppId,
        name: &DataName,
    ) -> Result<Option<Key>, store::Error> {
        let (app, name) = (app.clone(), name.clone());
        self.store
            .read(move |r| activations::settled_live(r, &app, &name))
            .await
    }

    async fn follow(&self, live: &Key, other: Key) -> Result<(), store::Error> {
        let linked = other.clone();
        let known = self
            .store
            .write(move |tx| activations::trust_link(tx, &linked))
            .await?;
        if !known {
            return self.mend(live).await;
        }
        tracing::warn!(event = "link-changed", data = %other, recorded = %live.version, "`current` led to another version than was recorded; that one is live");
        Ok(())
    }

    async fn mend(&self, live: &Key) -> Result<(), store::Error> {
        let key = live.clone();
        if let Err(error) = self.on_disk(move |publisher| publisher.flip(&key)).await? {
            tracing::error!(event = "link-not-mended", data = %live, error = %Chain(&error), "`current` does not lead to the live version, and could not be restored");
            return Ok(());
        }
        tracing::warn!(event = "link-mended", data = %live, "`current` did not lead to the live version; it was restored");
        let key = live.clone();
        self.store
            .write(move |tx| {
                let message = "`current` did not lead to the live version; it was restored";
                events::add_for_file(tx, &key, Note::new(EventKind::LinkMended, message))
            })
            .await
    }
}
