//! Reconciles the database with the trees and manifests on disk, after an unclean end or on
//! `edgepush recover`.

use std::collections::HashSet;

use super::Keep;
use crate::datafile::Key;
use crate::job::{JobId, Published};
use crate::publish::manifest::Head;
use crate::store::{self, recover, releases};
use crate::sys::Chain;

/// Versions entered in one transaction.
const CHUNK: usize = 256;

impl Keep {
    /// As [`Keep::recover`]; the outcome goes to the log.
    pub(super) async fn compare_with_disk(&self) {
        match self.recover().await {
            Ok(0) => {}
            Ok(entered) => tracing::warn!(
                event = "recovered",
                entered,
                "entered versions that were on the disk and not in the database"
            ),
            Err(error) => {
                tracing::warn!(event = "recover-failed", error = %Chain(&error), "could not compare the disk with the database")
            }
        }
    }

    /// Enters versions that are on the disk and not in the database, and marks releases whose tree
    /// is gone; returns how many versions were entered.
    pub async fn recover(&self) -> Result<usize, store::Error> {
        let mut found = match self.on_disk(|publisher| publisher.survey()).await? {
            Ok(found) => found.versions,
            Err(error) => {
                tracing::warn!(event = "survey-failed", error = %Chain(&error), "could not read the manifests");
                return Ok(0);
            }
        };
        let open: HashSet<Key> = self
            .store
            .read(store::jobs::open_keys)
            .await?
            .into_iter()
            .collect();
        // Where numbers have to be given anew they follow the order of publication.
        found.sort_by_key(|(head, _)| (head.published_ms, head.job));
        found.retain(|(head, _)| !open.contains(&head.key));
        let known = found.iter().map(|(head, _)| head.key.clone()).collect();
        let mut entered = 0;
        for chunk in found.chunks(CHUNK) {
            entered += self.enter(chunk.to_vec()).await?;
        }
        self.mark_missing(&known).await?;
        Ok(entered)
    }

    /// Enters those of `found` that the database does not know.
    async fn enter(&self, found: Vec<(Head, bool)>) -> Result<usize, store::Error> {
        self.store
            .write(move |tx| {
                let mut entered = 0;
                for (head, live) in &found {
                    entered += usize::from(recover::release(tx, &found_release(head, *live))?);
                }
                Ok(entered)
            })
            .await
    }

    async fn mark_missing(&self, on_disk: &HashSet<Key>) -> Result<(), store::Error> {
        let rows = self
            .store
            .read(|r| releases::list(r, None, None, 0, u32::MAX))
            .await?;
        for row in rows
            .into_iter()
            .filter(|row| !on_disk.contains(&row.key) && row.damage.is_none())
        {
            if self.exists(&row.key).await? {
                continue;
            }
            tracing::error!(event = "damaged", data = %row.key, "a published version is missing on the disk; push it again to repair it");
            let key = row.key.clone();
            self.store
                .write(move |tx| {
                    releases::mark_damaged(tx, &key, Some("its tree is not on the disk"))
                })
                .await?;
        }
        Ok(())
    }
}

fn found_release(head: &Head, live: bool) -> recover::Found {
    recover::Found {
        key: head.key.clone(),
        archive_type: head.archive_type,
        job: JobId(head.job),
        published: Published {
            content: head.source,
            files: head.files,
            bytes: head.bytes,
            fetched: 0,
            activated: live,
        },
        published_ms: head.published_ms,
        live,
    }
}
