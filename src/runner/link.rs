//! `current` on the disk beside what is recorded as live: somebody with a shell, a restored backup or a damaged file system
//! may have changed or lost the link, and the programs that read it see nothing else.

use super::Runner;
use crate::datafile::{AppId, DataName, Key};
use crate::deliver::Link;
use crate::store::events::{self, Note};
use crate::store::{self, activations, releases};

impl Runner {
    /// Looks at `current` of every name that has a live version.
    pub(super) async fn check_links(&self) -> Result<(), store::Error> {
        let live = self
            .store
            .read(|r| releases::all_live(r, usize::MAX))
            .await?;
        for key in live {
            self.check_link(&key.app, &key.name).await?;
        }
        Ok(())
    }

    /// Looks at `current` of a name. Where it leads to another published version, that one is live and is recorded so: the
    /// disk is the truth. Where it leads to nothing, it is made anew.
    pub(super) async fn check_link(
        &self,
        app: &AppId,
        name: &DataName,
    ) -> Result<(), store::Error> {
        let _turn = self.names.lock_name(app, name).await;
        let Some(live) = self.settled_live(app, name).await? else {
            return Ok(());
        };
        match self.road.look_at_link(&live).await {
            Ok(Link::Other(other)) => self.follow(&live, other).await,
            Ok(Link::Broken) => self.mend(&live).await,
            Ok(Link::Right | Link::NoTree) | Err(_) => Ok(()),
        }
    }

    /// Makes `current` lead to `key`, which is recorded as live, wherever it leads now.
    pub async fn restore_link(&self, key: &Key) -> Result<(), store::Error> {
        let _turn = self.names.lock(key).await;
        if self.settled_live(&key.app, &key.name).await?.as_ref() != Some(key) {
            return Ok(());
        }
        match self.road.look_at_link(key).await {
            Ok(Link::Other(_) | Link::Broken) => self.mend(key).await,
            Ok(Link::Right | Link::NoTree) | Err(_) => Ok(()),
        }
    }

    /// Returns the live version of a name, unless it is about to be another one: a flip may lie between link and record.
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
        if let Err(stop) = self.flip(live).await {
            let error = stop.into_failure(crate::job::Stage::Publish).message;
            tracing::error!(event = "link-not-mended", data = %live, error, "`current` does not lead to the live version, and could not be made to");
            return Ok(());
        }
        tracing::warn!(event = "link-mended", data = %live, "`current` did not lead to the live version; it does again");
        let key = live.clone();
        self.store
            .write(move |tx| {
                let message = "`current` did not lead to the live version; it was made anew";
                events::add_for_file(
                    tx,
                    &key,
                    Note::new(crate::job::EventKind::LinkMended, message),
                )
            })
            .await
    }
}
