//! Reconciles `current` on disk with the version recorded as live: a person with a shell, a
//! restored backup or a damaged file system may have changed or lost the link, and the programs
//! that read it see nothing else.

use super::Keep;
use super::recover::Compared;
use crate::datafile::{AppId, DataName, Key};
use crate::job::EventKind;
use crate::publish::Standing;
use crate::shown::Release;
use crate::store::events::{self, Note};
use crate::store::{self, activations};
use crate::sys::Chain;

impl Keep {
    /// Makes `current` lead to `key` if that is recorded as live, wherever it leads now.
    pub async fn restore_link(&self, key: &Key) -> Result<(), store::Error> {
        let _lock = self.publisher.lock(key).await;
        let (app, name) = (key.app.clone(), key.name.clone());
        let settled = self
            .store
            .read(move |r| activations::settled_live(r, &app, &name))
            .await?;
        let standing = self.publisher.standing(&key.app, &key.name);
        if settled.as_ref() == Some(key) && !standing.leads_to(key) && self.exists(key).await? {
            self.mend(key).await?;
        }
        Ok(())
    }

    /// Believes `current`: a version that it leads to is live. Where it leads to nothing that was
    /// published, it is restored.
    pub(super) async fn settle_link(
        &self,
        app: &AppId,
        name: &DataName,
        compared: &Compared,
    ) -> Result<(), store::Error> {
        let live = compared.rows.iter().find(|row| row.live);
        let is_whole = |row: &&Release| {
            let tree = row.key.version.path_component();
            compared.disk.trees.contains(&tree)
        };
        match &compared.disk.standing {
            Standing::Version { version, exact } => match compared.row(version) {
                // An open job or request ends in the record of its flip.
                Some(row) if compared.unfinished.contains(&row.key.version) => {}
                Some(row) if !row.live => self.follow(&row.key, live).await?,
                Some(row) if !exact => self.mend(&row.key).await?,
                Some(_) | None => {}
            },
            Standing::Missing | Standing::Dangling => {
                if let Some(live) = live.filter(is_whole) {
                    self.mend(&live.key).await?;
                }
            }
            Standing::Foreign(_) => match self.copied(compared).await? {
                Some(copied) => {
                    self.mend(&copied).await?;
                    if live.is_none_or(|live| live.key != copied) {
                        self.follow(&copied, live).await?;
                    }
                }
                None => {
                    if let Some(live) = live.filter(is_whole) {
                        self.mend(&live.key).await?;
                    }
                }
            },
        }
        let place = compared.disk.place.clone();
        let fresh = self
            .on_disk(move |publisher| publisher.look(&place))
            .await?;
        if let Ok(disk) = fresh {
            self.findings.compare(app, name, &disk, compared);
        }
        Ok(())
    }

    /// Returns the version that a directory at `current` is a copy of, the newest if there are
    /// several: a restore that followed links leaves one.
    async fn copied(&self, compared: &Compared) -> Result<Option<Key>, store::Error> {
        let whole = |row: &&Release| {
            let version = row.key.version.path_component();
            compared.disk.trees.contains(&version) && compared.disk.manifests.contains(&version)
        };
        let keys = compared
            .rows
            .iter()
            .filter(whole)
            .map(|row| row.key.clone());
        let keys: Vec<Key> = keys.collect();
        let copy = move |publisher: &crate::publish::Publisher| {
            let mut keys = keys.into_iter();
            keys.find(|key| publisher.current_is_copy_of(key))
        };
        self.on_disk(copy).await
    }

    async fn follow(&self, linked: &Key, live: Option<&Release>) -> Result<(), store::Error> {
        let key = linked.clone();
        let known = self
            .store
            .write(move |tx| activations::trust_link(tx, &key))
            .await?;
        if known {
            self.findings
                .note_followed(linked, live.map(|row| &row.key.version));
        }
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
